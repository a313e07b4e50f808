/* Stages that one job takes over from another: finished ones as they are, or the last version of
 * one to go on from. Files are hard links (copies where links cannot be), so that each job owns
 * what it names and may be removed alone. Threads: the loop. */
#ifndef KD_SERVER_TAKE_H
#define KD_SERVER_TAKE_H

#include "daemon.h"

typedef struct kd_taken {
    kd_stage_row row; /* owned */
    kd_epoch_row *epochs;
    size_t n_epochs;
    kd_file_row *files;
    size_t n_files;
} kd_taken;
void kd_taken_clear(kd_taken *t);

enum kd_take {
    KD_TAKE_DONE, /* the finished stage with its artefacts */
    KD_TAKE_ON,   /* its last version with optimiser state and evaluations, to go on from */
    KD_TAKE_BEST  /* its best version likewise, to run again what followed it */
};
/* Links the files into the folder of job `to`, durably, and fills what has to be stored with it.
 * -KD_ESTATE when a file that is needed is no longer there. */
int kd_take_stage(kd_daemon *d, const kd_job_record *from, uint32_t from_stage, enum kd_take how,
                  kd_job_id to, uint32_t to_stage, kd_taken *out, kd_diag *diag) KD_MUST_CHECK;
/* A second name for a file, durable; a copy where links cannot be. What was at `to` goes. */
int kd_link_file(const char *from, const char *to, kd_diag *diag) KD_MUST_CHECK;
/* Gives a record what was stored: row and evaluations. Empties t. */
int kd_take_into(kd_job_record *to, uint32_t stage, kd_taken *t, kd_diag *diag) KD_MUST_CHECK;

/* A worker's first answer for a stage, against what the stage was promised to go on from and the
 * stages that were taken over. "" = it fits, else a sentence that fails the job. *out_warning: a
 * difference that matters less, "" = none. */
void kd_take_check(const kd_job_record *j, uint32_t stage, const Distill__V1__StageInfo *got,
                   char out[KD_CORE_TEXT], char out_warning[KD_CORE_TEXT]);

#endif

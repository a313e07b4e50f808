/* A submit on its way from the call to the database: what submit.c (storing, answers) and
 * submission.c (what it is to become) share. */
#ifndef KD_SERVER_SUBMISSION_H
#define KD_SERVER_SUBMISSION_H

#include "daemon.h"
#include "take.h"

#define KD_SUBMIT_NOTES 8

/* A job that is about to be. */
struct kd_draft {
    kd_job_id id;
    kd_job *spec;
    char *resolved, *label, *values; /* the record takes them */
    kd_taken taken[KD_MAX_STAGES];
    bool takes[KD_MAX_STAGES];
    kd_job_record *record; /* the list of jobs takes it */
};

struct kd_submission {
    struct kd_submission *next; /* of those that wait */
    kd_time_ms since;           /* it waits */
    kd_daemon *d;
    kd_rpc_call *call;             /* reference held */
    Distill__V1__SubmitRequest *r; /* owned */
    bool read;                  /* its text is, so far as that needs nothing of the coordinator's */
    char digest[KD_DIGEST_HEX]; /* of what was asked */
    const char *text;           /* to be stored as the job file */
    struct kd_draft *drafts;
    size_t n;
    bool is_sweep;
    const kd_job_record *source; /* of files and stages that are taken over, NULL = none */
    kd_job_id continued, replayed;
    int verified;     /* the stage of which a part is run again, -1 = none */
    bool verify_best; /* from its best version; else from the beginning */
    char event[160];
    char told[KD_JOB_NAME + 256]; /* its first event */
    char notes[KD_SUBMIT_NOTES][256];
    int n_notes;
    kd_job_record *parent, *first; /* once stored: the sweep if it is one, and its first job */
    int rc;                        /* what it is refused with */
    kd_diag *diag;                 /* = &why */
    kd_diag why;
};

/* Of what was asked, for a key that comes again. */
void kd_submission_digest(const Distill__V1__SubmitRequest *r, char hex[KD_DIGEST_HEX]);
/* Any thread: reads the text as far as that needs nothing of the coordinator's. What is wrong with
 * it stands in s->rc and s->diag. */
void kd_submission_read(struct kd_submission *s);
/* The loop from here on. Makes the drafts: of a text, or of the job that is gone on with or run
 * again. */
int kd_submission_draft(struct kd_submission *s) KD_MUST_CHECK;
/* What the source's stages are taken over as, once the draft has its record. */
int kd_submission_take_stages(struct kd_submission *s, struct kd_draft *f,
                              const kd_job_record *from) KD_MUST_CHECK;
/* Of a job that runs a part of a stage again: what the other stages made is taken over, and nothing
 * is made of it after the verified one. */
int kd_submission_take_verified(struct kd_submission *s, struct kd_draft *f) KD_MUST_CHECK;
void kd_submission_note(struct kd_submission *s, const char *fmt, ...) KD_PRINTF(2, 3);

#endif

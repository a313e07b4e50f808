/* The state folder: what survives the coordinator.
 *
 *   distilld.lock   held by flock while a coordinator runs on the folder
 *   distilld.db     SQLite: jobs, stages, epochs, events, checkpoints, artefacts, the epoch counter
 *   blobs/DIGEST    files that clients uploaded (DIGEST.part while incomplete)
 *   jobs/ID/        checkpoints and artefacts of a job
 *   bank/           the logit bank
 *
 * Every function that changes something has it on disk when it returns, all of it or nothing;
 * between kd_state_begin and kd_state_commit all of them together. Threads: one (the loop's). */
#ifndef KD_SERVER_STATE_H
#define KD_SERVER_STATE_H

#include "core.h"
#include "store/sql.h"
#include "wire/limits.h"

#define KD_ID_TEXT 13 /* 12 hex digits and NUL */

typedef struct kd_state {
    char *dir;
    int lock_fd;
    kd_sql sql;
    uint64_t epoch;  /* of this start */
    uint64_t events; /* goes up with each that is added: who has read all need not look again */
    int depth;       /* of kd_state_begin */
    char **doomed;   /* files to unlink once what names them no more is committed */
    size_t n_doomed;
} kd_state;

/* -KD_ESTATE when another coordinator holds the folder (the message names its process). */
int kd_state_open(const char *dir, kd_state *out, kd_diag *diag) KD_MUST_CHECK;
void kd_state_close(kd_state *s);

/* One transaction around several of the calls below; pairs may be nested, the outermost counts. */
int kd_state_begin(kd_state *s, kd_diag *diag) KD_MUST_CHECK;
int kd_state_commit(kd_state *s, kd_diag *diag) KD_MUST_CHECK; /* rolls back on failure */
void kd_state_rollback(kd_state *s);

void kd_id_text(kd_job_id id, char out[KD_ID_TEXT]);

typedef struct kd_job_row {
    kd_job_id id;
    bool is_sweep;                 /* has no stages; its children name it in `sweep` */
    kd_job_id sweep;               /* that it belongs to, 0 = none */
    kd_job_id continued, replayed; /* the job that this one goes on from or runs again, 0 = none */
    char key[65], name[64];
    char owner[65];       /* name of who submitted it, "" = nobody had to say */
    char text_digest[33]; /* of the submitted text and overrides */
    int state;            /* enum kd_run_state */
    char reason[KD_CORE_TEXT];
    int64_t submitted_ms, started_ms, finished_ms;
    bool paused;                       /* by a user */
    uint32_t min_workers, max_workers; /* by a user, 0 = as the job file says */
    char *resolved;                    /* JSON, owned */
    char *result;                      /* JSON, owned; NULL before the end */
    char *text;                        /* as submitted, owned; NULL = none */
    char *label;                       /* of a sweep's child, owned; NULL = none */
    char *values; /* of a sweep's child: JSON object of what it varies, owned; NULL = none */
} kd_job_row;
void kd_job_row_clear(kd_job_row *row);

typedef struct kd_stage_row {
    char name[16];
    bool done;
    char digest[33], fingerprint[65];
    uint8_t *info; /* packed StageInfo, owned; NULL before a worker told */
    size_t info_len;
    uint64_t manifest, evaluated; /* versions */
    double seconds;
    uint64_t teacher_forwards, bank_hits;
    /* training sums of the running epoch at the manifest's version */
    double loss, correct, samples;
    double term_sums[KD_TERM_SUMS]; /* as NodeChunk.terms */
    char best_digest[33];           /* of the best version's parameters; "" = none yet */
    uint64_t best_version;          /* 0 = none yet */
    uint32_t best_epoch;
    uint64_t stopped_early;              /* step at which early stopping ended it, 0 = it did not */
    double teacher_seconds;              /* spent in teacher_forwards */
    uint64_t steps_redone;               /* committed before and computed again */
    double lost_ms_workers, lost_ms_all; /* waited for because of faults */
    kd_job_id shared;                    /* whose stage this is, 0 = its own */
    /* Packed StageInfo that the workers' must fit to: that of the stage which is gone on with,
     * owned. */
    uint8_t *expected;
    size_t expected_len;
} kd_stage_row;
/* Frees info and expected. */
void kd_stage_row_clear(kd_stage_row *row);

/* One evaluation; named by stage, epoch and step. */
typedef struct kd_epoch_row {
    uint32_t stage, epoch;
    uint64_t step; /* steps done before it */
    double train_loss, train_accuracy, val_loss;
    uint32_t val_correct, val_samples, val_agree;
    double val_kl; /* -1 = no teacher */
    double learning_rate;
    bool best; /* by validation so far */
    uint32_t n_terms;
    double shares[KD_MAX_EPOCH_TERMS], term_losses[KD_MAX_EPOCH_TERMS];
} kd_epoch_row;

typedef struct kd_file_row {
    char name[65], path[4096], digest[33];
    uint32_t stage;
    uint64_t version, size;
} kd_file_row;

typedef struct kd_event_row {
    uint64_t seq;
    int64_t time_ms;
    char kind[16], worker[65];
    int state;
    char *text, *data; /* borrowed during the callback */
} kd_event_row;

/* A job to be stored. Everything is borrowed; its first event says `event`. */
typedef struct kd_new_job {
    const kd_job_row *row;
    const kd_stage_row *stages;
    int n_stages;
    const kd_epoch_row *epochs;
    size_t n_epochs;
    const kd_file_row *files; /* that lie in its folder already */
    size_t n_files;
    const char *event;
} kd_new_job;
/* All of them or none. -KD_EEXIST when a key is taken. */
int kd_state_add_jobs(kd_state *s, const kd_new_job *jobs, size_t n, kd_diag *diag) KD_MUST_CHECK;
/* Calls fn for every job in order of submission; row and stages are lent during the call. */
typedef int (*kd_state_job_fn)(void *arg, const kd_job_row *row, const kd_stage_row *stages,
                               int n_stages, const kd_epoch_row *epochs, int n_epochs);
int kd_state_each_job(kd_state *s, kd_state_job_fn fn, void *arg, kd_diag *diag) KD_MUST_CHECK;
int kd_state_set_job(kd_state *s, kd_job_id id, int state, const char *reason, int64_t started_ms,
                     int64_t finished_ms, const char *result, kd_diag *diag) KD_MUST_CHECK;
int kd_state_set_resolved(kd_state *s, kd_job_id id, const char *resolved,
                          kd_diag *diag) KD_MUST_CHECK;
int kd_state_set_wishes(kd_state *s, kd_job_id id, bool paused, uint32_t min_workers,
                        uint32_t max_workers, kd_diag *diag) KD_MUST_CHECK;
int kd_state_set_stage(kd_state *s, kd_job_id id, uint32_t stage, const kd_stage_row *row,
                       kd_diag *diag) KD_MUST_CHECK;
int kd_state_add_epoch(kd_state *s, kd_job_id id, const kd_epoch_row *row,
                       kd_diag *diag) KD_MUST_CHECK;
/* Stores a stage with its evaluations and files in one go: one that was taken over. */
int kd_state_take_stage(kd_state *s, kd_job_id id, uint32_t stage, const kd_stage_row *row,
                        const kd_epoch_row *epochs, size_t n_epochs, const kd_file_row *files,
                        size_t n_files, kd_diag *diag) KD_MUST_CHECK;
/* Stores an event with the job's next number, and the time of now unless it has one. */
int kd_state_add_event(kd_state *s, kd_job_id id, const kd_event_row *row,
                       kd_diag *diag) KD_MUST_CHECK;
/* Calls fn for the events seq >= from, at most max; stops when it returns non-zero. */
typedef int (*kd_state_event_fn)(void *arg, const kd_event_row *row);
int kd_state_each_event(kd_state *s, kd_job_id id, uint64_t from, int max, kd_state_event_fn fn,
                        void *arg, kd_diag *diag) KD_MUST_CHECK;
/* Workers that events of a kind name, each once, in order of their first; returns how many, at most
 * max, or an error. */
int kd_state_event_workers(kd_state *s, kd_job_id id, const char *kind, char (*out)[65], int max,
                           kd_diag *diag) KD_MUST_CHECK;
/* Files of a job that are named somewhere: checkpoints (name "", stage, version) and artefacts. */
int kd_state_add_file(kd_state *s, kd_job_id id, const char *name, uint32_t stage, uint64_t version,
                      const char *path, uint64_t size, const char *digest,
                      kd_diag *diag) KD_MUST_CHECK;
/* 1 = found, 0 = not. By name (artefact), by digest (artefact), or checkpoint of a version. */
int kd_state_find_artefact(kd_state *s, kd_job_id id, const char *name, const char *digest,
                           kd_file_row *out, kd_diag *diag) KD_MUST_CHECK;
int kd_state_find_checkpoint(kd_state *s, kd_job_id id, uint32_t stage, uint64_t version,
                             kd_file_row *out, kd_diag *diag) KD_MUST_CHECK;
/* Digest of a version that was saved; it outlives the checkpoint. */
int kd_state_add_digest(kd_state *s, kd_job_id id, uint32_t stage, uint64_t version,
                        const char *digest, kd_diag *diag) KD_MUST_CHECK;
/* Calls fn for each, by stage and version; stops when it returns non-zero. */
typedef int (*kd_state_digest_fn)(void *arg, uint32_t stage, uint64_t version, const char *digest);
int kd_state_each_digest(kd_state *s, kd_job_id id, kd_state_digest_fn fn, void *arg,
                         kd_diag *diag) KD_MUST_CHECK;
typedef int (*kd_state_file_fn)(void *arg, const kd_file_row *row);
int kd_state_each_artefact(kd_state *s, kd_job_id id, kd_state_file_fn fn, void *arg,
                           kd_diag *diag) KD_MUST_CHECK;
/* By stage and version. */
int kd_state_each_checkpoint(kd_state *s, kd_job_id id, kd_state_file_fn fn, void *arg,
                             kd_diag *diag) KD_MUST_CHECK;
/* Checkpoints and artefacts of one stage. */
int kd_state_each_stage_file(kd_state *s, kd_job_id id, uint32_t stage, kd_state_file_fn fn,
                             void *arg, kd_diag *diag) KD_MUST_CHECK;
/* Forgets and unlinks checkpoints of a stage older than version (UINT64_MAX: all), but for two
 * versions (0 = none). */
int kd_state_drop_checkpoints(kd_state *s, kd_job_id id, uint32_t stage, uint64_t below,
                              uint64_t one, uint64_t other, kd_diag *diag) KD_MUST_CHECK;
/* Forgets and unlinks all checkpoints of a stage but those of two versions. */
int kd_state_keep_checkpoints(kd_state *s, kd_job_id id, uint32_t stage, uint64_t one,
                              uint64_t other, kd_diag *diag) KD_MUST_CHECK;
/* Forgets and unlinks all checkpoints of a job. */
int kd_state_drop_job_checkpoints(kd_state *s, kd_job_id id, kd_diag *diag) KD_MUST_CHECK;
/* Forgets events of a job but those of the kinds that tell its course in short: submitted, started,
 * finished, slow, quarantine, dropped. */
int kd_state_drop_events(kd_state *s, kd_job_id id, kd_diag *diag) KD_MUST_CHECK;
/* Bytes of a job's checkpoints, and of its events that kd_state_drop_events would forget. */
int kd_state_sum_job(kd_state *s, kd_job_id id, uint64_t *out_checkpoints, uint64_t *out_events,
                     kd_diag *diag) KD_MUST_CHECK;
/* Settings that were changed at run time, as text; value NULL = forgotten. */
int kd_state_set_setting(kd_state *s, const char *name, const char *value,
                         kd_diag *diag) KD_MUST_CHECK;
typedef void (*kd_state_setting_fn)(void *arg, const char *name, const char *value);
int kd_state_each_setting(kd_state *s, kd_state_setting_fn fn, void *arg,
                          kd_diag *diag) KD_MUST_CHECK;
/* state_hooks.c: what hooks are to tell, in the order of n, and the number of a job's newest
 * event. */
int kd_state_last_event(kd_state *s, kd_job_id id, uint64_t *out_seq, kd_diag *diag) KD_MUST_CHECK;
int kd_state_add_hook(kd_state *s, int target, kd_job_id job, uint64_t seq, const char *kind,
                      const char *body, kd_diag *diag) KD_MUST_CHECK;
/* Those of the target with n > after; stops when fn returns non-zero, which comes back. */
typedef int (*kd_state_hook_fn)(void *arg, int64_t n, kd_job_id job, uint64_t seq, const char *kind,
                                const char *body);
int kd_state_each_hook(kd_state *s, int target, int64_t after, kd_state_hook_fn fn, void *arg,
                       kd_diag *diag) KD_MUST_CHECK;
int kd_state_drop_hook(kd_state *s, int64_t n, kd_diag *diag) KD_MUST_CHECK;
int kd_state_drop_hooks(kd_state *s, int target, kd_diag *diag) KD_MUST_CHECK;
int kd_state_count_hooks(kd_state *s, uint64_t *out, kd_diag *diag) KD_MUST_CHECK;
/* At start: checkpoint files of a job's folder that no row names; a crash between a commit and the
 * removal of what it forgot leaves them. */
int kd_state_drop_unnamed(kd_state *s, kd_job_id id, const char *folder,
                          kd_diag *diag) KD_MUST_CHECK;
/* Forgets jobs, all of them or none, and their folders; *out_freed bytes. */
int kd_state_remove_jobs(kd_state *s, const kd_job_id *ids, size_t n, uint64_t *out_freed,
                         kd_diag *diag) KD_MUST_CHECK;

#endif

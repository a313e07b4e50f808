/* What stays the same for all stages of a job on this worker: its text, its data, its pictures. */
#ifndef KD_WORKER_SESSION_H
#define KD_WORKER_SESSION_H

#include "cache.h"
#include "job/job.h"

typedef struct kd_session {
    char job_id[13];
    kd_job job;
    kd_data *data;
    kd_cache *cache;
    size_t n_train, n_val, n_test, n_unlabelled;
    int classes, size;
    kd_view_rule rule;
} kd_session;

typedef struct kd_session_config {
    const char *job_id; /* 12 hex digits */
    const char *text;   /* the job, resolved */
    int data_root;      /* descriptor of the data root, borrowed until free */
    size_t cache_bytes; /* decoded pictures that are kept */
    int threads;        /* that compute */
    /* As of kd_cache_new. */
    void (*bad)(void *arg, size_t sample, const char *why);
    kd_data_progress progress; /* of opening the data; may be NULL */
    void *arg;
} kd_session_config;

/* *out_problem is the word for what is wrong: BAD_JOB, NO_DATA. Threads: one that has called
 * kd_engine_thread; none of its own but the cache's. */
int kd_session_open(const kd_session_config *cfg, kd_session **out, const char **out_problem,
                    kd_diag *diag) KD_MUST_CHECK;
void kd_session_free(kd_session *ss); /* NULL allowed */

#endif

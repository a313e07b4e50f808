/* A teacher outside, as a stage asks it: views sent as pixels, logits back, and whether it is still
 * the one that it was.
 *
 * Every request has the job's number of pictures, of which the last one, the canary, is always the
 * same: its answer must be the one that is known, so no answer of another model is ever taken. One
 * request in AUDIT_EACH is sent twice and compared. Answers are compared to SLACK of the largest
 * logit, since a server may round otherwise in another batch; docs/jobs.md says what that means.
 *
 * Threads: kd_outside_request by compute threads, each with its index; the rest by the runner's. */
#ifndef KD_WORKER_OUTSIDE_H
#define KD_WORKER_OUTSIDE_H

#include "remote.h"
#include "stage.h"

typedef struct kd_outside_config {
    kd_stage *stage; /* borrowed until free, as is the session's job */
    const kd_session *session;
    int teacher, threads;
    kd_rpc *rpc;
    const kd_rpc_tls *tls; /* the worker's; for a job that wants TLS */
    bool (*stopped)(void *arg);
    void (*waits)(void *arg, bool begun); /* for its server */
    void *arg;
} kd_outside_config;

typedef struct kd_outside kd_outside;
int kd_outside_new(const kd_outside_config *cfg, kd_outside **out, kd_diag *diag) KD_MUST_CHECK;
void kd_outside_free(kd_outside *o); /* NULL allowed */
/* Views of one request, the canary not counted. */
size_t kd_outside_views(const kd_outside *o);

/* Meets the server and asks it about the probe, twice: clean training pictures, the canary first.
 * What kd_outside_probe_* tell is good from then on. Errors of kd_remote_meet and kd_remote_ask;
 * -KD_EDATA: it answers now so, now so. */
int kd_outside_meet(kd_outside *o, kd_diag *diag) KD_MUST_CHECK;
size_t kd_outside_probe_count(const kd_outside *o);
uint32_t kd_outside_probe_sample(const kd_outside *o, size_t i);
const float *kd_outside_probe_logits(const kd_outside *o, size_t i); /* [classes] */
const char *kd_outside_probe_digest(const kd_outside *o);            /* of all of them, as hex */
/* The job knows the probe by these answers [count][classes], which came from the same teacher if
 * they agree: then the canary is known by them. -KD_EDATA: they do not. */
int kd_outside_compare(kd_outside *o, const float *const *known, kd_diag *diag) KD_MUST_CHECK;

/* [thread] Logits of n views, 1..kd_outside_views: pairs [n][2] of sample and view, logits
 * [n][classes]. Fewer are filled up. -KD_EDATA: it is another teacher now; others as
 * kd_remote_ask. */
int kd_outside_request(kd_outside *o, int thread, const uint32_t *pairs, size_t n, float *logits,
                       kd_diag *diag) KD_MUST_CHECK;
/* Whether two answers of `classes` logits may be one teacher's on one picture. */
bool kd_outside_agree(const float *a, const float *b, size_t classes);

#endif

/* A model that somebody else's server runs, asked over the Open Inference Protocol (lib/kserve):
 * pixels there, logits back, with patience (patience.h).
 *
 * Threads: kd_remote_ask may be called by several at once, everything else by one. */
#ifndef KD_WORKER_REMOTE_H
#define KD_WORKER_REMOTE_H

#include "rpc/rpc.h"

typedef struct kd_remote_config {
    kd_rpc *rpc;
    const char *address, *model; /* all texts are borrowed until free */
    const char *version;         /* "" = the server's choice */
    const char *output;          /* tensor of logits; "" = `logits`, or the only one that fits */
    const kd_rpc_tls *tls;       /* NULL = plain text */
    int size, classes;           /* pixels a side of a picture; of an answer */
    int pictures;                /* of each request */
    int timeout_ms, patience_ms;
    bool (*stopped)(void *arg);           /* no answer is wanted any more */
    void (*waits)(void *arg, bool begun); /* for a server that is away: begun, or over */
    void *arg;
} kd_remote_config;

typedef struct kd_remote kd_remote;
int kd_remote_new(const kd_remote_config *cfg, kd_remote **out, kd_diag *diag) KD_MUST_CHECK;
/* NULL allowed; waits for what was asked. */
void kd_remote_free(kd_remote *r);
/* Asks what the model takes and gives; before the first request. -KD_EINVAL: it does not go with
 * size or classes, and diag says what there is; -KD_EUNAVAIL: it is not trusted here, which other
 * workers may see otherwise. Others as kd_remote_ask. */
int kd_remote_meet(kd_remote *r, kd_diag *diag) KD_MUST_CHECK;
/* pixels [pictures][size][size][3], as the model reads them; logits [pictures][classes], finite.
 * -KD_ECANCELED when stopped, -KD_ETIMEOUT when its patience is over, -KD_EDATA for an answer that
 * is none, -KD_EINTERNAL when it keeps failing, else what the server refused the request with. */
int kd_remote_ask(kd_remote *r, const float *pixels, float *logits, kd_diag *diag) KD_MUST_CHECK;

#endif

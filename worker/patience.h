/* Calls to a server that somebody else runs, made until it answers: one that is away, slow or full
 * is asked again, ever less often (pace.h), until patience with it is over; one that fails by
 * itself a few times.
 *
 * Threads: kd_patience_call may be called by several at once, everything else by one. */
#ifndef KD_WORKER_PATIENCE_H
#define KD_WORKER_PATIENCE_H

#include "pace.h"
#include "rpc/rpc.h"

#include <stdatomic.h>

typedef struct kd_patience_config {
    int timeout_ms, patience_ms;          /* of one try; of all of them */
    bool (*stopped)(void *arg);           /* no answer is wanted any more */
    void (*waits)(void *arg, bool begun); /* for a server that is away: begun, or over */
    void *arg;
} kd_patience_config;

typedef struct kd_patience {
    kd_patience_config cfg;
    kd_rpc_channel *channel; /* borrowed */
    kd_pace pace;
    atomic_int waiting; /* callers */
} kd_patience;

void kd_patience_init(kd_patience *p, const kd_patience_config *cfg, kd_rpc_channel *channel);
void kd_patience_clear(kd_patience *p);
/* Until there is an answer, or a refusal that will not pass. first: nothing depends on it yet, so
 * that a server that is not trusted is no matter of patience. *result is that of the last try; the
 * caller frees its bytes. -KD_ECANCELED when stopped, -KD_ETIMEOUT when patience is over,
 * -KD_EINTERNAL when it keeps failing, else result->code, whose text is then all that diag says. */
int kd_patience_call(kd_patience *p, const char *path, const struct iovec *parts, int n_parts,
                     bool first, kd_rpc_result *result, kd_diag *diag) KD_MUST_CHECK;

#endif

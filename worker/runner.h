/* The stage runner: one thread that prepares stages and carries a job through its steps.
 *
 * The control stream (daemon.c) hands over commands; each replaces what is under way. What the
 * runner has to say goes back through kd_runner_config.send. Source of the step flow:
 * docs/protocol.md. */
#ifndef KD_WORKER_RUNNER_H
#define KD_WORKER_RUNNER_H

#include "kd/err.h"
#include "rpc/rpc.h"

#include "distill.pb-c.h"

typedef struct kd_runner kd_runner;

typedef struct kd_runner_config {
    kd_rpc *rpc;                   /* borrowed until free, as is all that follows */
    kd_rpc_channel *channel;       /* to the coordinator */
    const kd_rpc_tls *teacher_tls; /* for teachers outside whose jobs want TLS */
    int data_root;                 /* descriptor of the data root, borrowed */
    int threads;
    const int *cores; /* [threads] as kd_pool_new has it; NULL */
    size_t cache_bytes;
    const char *numerics;
    uint64_t process; /* Hello.incarnation */
    /* Sends a message to the coordinator; borrowed during the call. Any thread.
     */
    void (*send)(void *arg, const Distill__V1__WorkerMessage *m);
    void *arg;
} kd_runner_config;

int kd_runner_new(const kd_runner_config *cfg, kd_runner **out, kd_diag *diag) KD_MUST_CHECK;
/* Waits for the calls that are under way: close the channel before. */
void kd_runner_free(kd_runner *r);
/* Takes the message over. One that asks for something else than the stage that is here ends what is
 * under way. */
void kd_runner_command(kd_runner *r, Distill__V1__CoordinatorMessage *m);
/* The control stream is lost. What is here is kept and offered to the next one. */
void kd_runner_reset(kd_runner *r);
/* What a heart-beat tells; job is empty when there is none. Any thread. */
typedef struct kd_runner_status {
    char job[13];
    uint32_t stage;
    uint64_t step, units, teacher_forwards, bank_hits;
    double teacher_seconds;
    const char *phase;
} kd_runner_status;
void kd_runner_status_get(kd_runner *r, kd_runner_status *out);
/* The stage that it holds with a version of its parameters; false if there is none. */
bool kd_runner_offer(kd_runner *r, kd_runner_status *out, uint64_t *out_version,
                     uint32_t *out_chunk);

#endif

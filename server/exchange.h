/* The exchange of one running stage: reduction tree, parameter versions, gathers.
 *
 * Rules 2 to 7 of docs/protocol.md. Names: V slots; node numbers are heap indices (1 the
 * root, leaf of slot s is V+s); version T is the vector that gradients are collected for; "sum" of
 * a chunk is its gradient of step T added in tree order, node = left + right in float32, whatever
 * order the parts arrive in.
 *
 * Everything is kept in memory: version T whole, the slices of T+1 that are in, sums of T, and tree
 * buffers, each freed when its parent is made. A call that waits (for a sum or a slice) is kept
 * with its reference and answered by whoever completes what it waits for.
 *
 * Threads: any; one lock an exchange, held for one chunk's additions at most. Callbacks run on the
 * thread that completed something, `committed`, `snapshot` and `evaluated` under the lock so that
 * they come in order of versions: they only queue, and call nothing here. */
#ifndef KD_SERVER_EXCHANGE_H
#define KD_SERVER_EXCHANGE_H

#include "core.h"
#include "rpc/rpc.h"
#include "wire/limits.h"

#include "distill.pb-c.h"

typedef struct kd_exchange_config {
    kd_job_id job;
    uint32_t stage;
    uint32_t slots, chunk_floats, chunks;
    uint64_t vector_floats;
    uint32_t state_vectors; /* optimiser vectors a checkpoint carries */
    uint64_t eval_steps, last_version;
    uint64_t checkpoint_every; /* steps; evaluated versions are always saved */
    uint32_t val_samples, eval_unit;
    uint32_t n_terms;        /* doubles of NodeChunk.terms, at most KD_TERM_SUMS */
    bool average;            /* the last state vector is what is evaluated: keep it for that */
    double clip_norm;        /* 0 = sums leave as they become whole */
    uint32_t batch, columns; /* a batch-coupled loss gathers [batch][columns] floats; 0 = none */
    /* Elements that clip_norm counts, in order, without overlap; borrowed until free. */
    const struct kd_exchange_span {
        uint64_t first, count;
    } * trained;
    size_t n_trained;
} kd_exchange_config;

/* A version ready to be written: owner frees both. vector [vector_floats]; state
 * [state_vectors][vector_floats], NULL without state vectors. */
typedef struct kd_exchange_snapshot {
    kd_job_id job;
    uint32_t stage;
    uint64_t generation, version;
    float *vector, *state;
} kd_exchange_snapshot;

typedef struct kd_exchange_totals {
    double loss, correct, samples; /* sums over the step's real samples */
    double terms[KD_TERM_SUMS];
} kd_exchange_totals;

typedef struct kd_exchange_events {
    /* version became whole; totals of the step that led there. */
    void (*committed)(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                      uint64_t version, const kd_exchange_totals *totals);
    void (*snapshot)(void *arg, kd_exchange_snapshot *snap); /* takes the buffers */
    /* All units of an evaluation are in: rows [val_samples][KD_EVAL_COLUMNS], borrowed. */
    void (*evaluated)(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                      uint64_t version, double learning_rate, const float *rows);
    /* Two different results for one thing that is a function: a fault in somebody's numbers. */
    void (*divergence)(void *arg, const kd_exchange_config *cfg, const char *what);
    void *arg;
} kd_exchange_events;

typedef struct kd_exchange kd_exchange;
kd_exchange *kd_exchange_new(const kd_exchange_config *cfg, const kd_exchange_events *events);
/* Answers all waiting calls with -KD_ESTALE first. */
void kd_exchange_free(kd_exchange *x);
/* A new generation at `version`: drops tree, sums and next slices, answers waiting calls with
 * -KD_ESTALE. vector [vector_floats] and state [state_vectors][vector_floats] of that version are
 * taken over; both NULL at version 1, whose owners publish it. */
void kd_exchange_open(kd_exchange *x, uint64_t generation, uint64_t version, float *vector,
                      float *state);
/* Ends the generation: everything is answered -KD_ESTALE until the next open. */
void kd_exchange_close(kd_exchange *x);
/* Saves the next version whose first sum has not left yet. */
void kd_exchange_checkpoint(kd_exchange *x);

/* The calls of service Exchange. The head has been validated field by field; here its meaning is.
 * Each answers `call` now or later, exactly once. */
void kd_exchange_push(kd_exchange *x, kd_rpc_call *call, const Distill__V1__NodeChunk *head,
                      const uint8_t *payload, size_t len);
void kd_exchange_await_sum(kd_exchange *x, kd_rpc_call *call, const Distill__V1__SumRequest *req);
void kd_exchange_publish(kd_exchange *x, kd_rpc_call *call, const Distill__V1__SliceChunk *head,
                         const uint8_t *payload, size_t len);
void kd_exchange_await_slice(kd_exchange *x, kd_rpc_call *call,
                             const Distill__V1__SliceRequest *req);
void kd_exchange_fetch_state(kd_exchange *x, kd_rpc_call *call,
                             const Distill__V1__SliceRequest *req);
void kd_exchange_push_values(kd_exchange *x, kd_rpc_call *call, const Distill__V1__ValueChunk *head,
                             const uint8_t *payload, size_t len);
void kd_exchange_await_values(kd_exchange *x, kd_rpc_call *call,
                              const Distill__V1__ValueRequest *req);
void kd_exchange_gather(kd_exchange *x, kd_rpc_call *call, const Distill__V1__GatherChunk *head,
                        const uint8_t *payload, size_t len);
/* Forgets a waiting call (its client is gone). */
void kd_exchange_forget(kd_exchange *x, kd_rpc_call *call);

#endif

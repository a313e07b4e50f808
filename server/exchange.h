/* The exchange of one running stage: reduction tree, parameter versions, gathers.
 *
 * Rules 2 to 9 of docs/protocol.md. Names: V slots; node numbers are heap indices (1 the
 * root, leaf of slot s is V+s); version T is the vector that gradients are collected for; "sum" of
 * a chunk is its gradient of step T added in tree order, node = left + right in float32, whatever
 * order the parts arrive in. With bfloat16 each node is rounded to it: any may cross the wire.
 *
 * In memory: version T whole, the slices of T+1 that are in, sums of T, and tree buffers, each
 * freed when its parent is made; older sums lie in the journal. A call that waits (for a sum or a
 * slice) is kept with its reference and answered by whoever completes what it waits for.
 *
 * Changes of membership leave all of that as it is: only a chunk that gets another owner is fenced,
 * by the generation in which it got it.
 *
 * Threads: any; one lock an exchange, held for one chunk's additions and its journal record at
 * most. Callbacks run on the thread that completed something, under the lock so that they come in
 * order of versions: they only queue, and call nothing here. */
#ifndef KD_SERVER_EXCHANGE_H
#define KD_SERVER_EXCHANGE_H

#include "core.h"
#include "journal.h"
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
    bool bfloat16;           /* every node of the tree is rounded to it, and so travels */
    bool average;            /* the last state vector is what is evaluated: keep it for that */
    double clip_norm;        /* 0 = sums leave as they become whole */
    uint32_t batch, columns; /* a batch-coupled loss gathers [batch][columns] floats; 0 = none */
    /* Elements that clip_norm counts, in order, without overlap; borrowed until free. */
    const struct kd_exchange_span {
        uint64_t first, count;
    } * trained;
    size_t n_trained;
    double audit;           /* share of units that are run twice, 0..1 */
    uint64_t journal_bytes; /* past half of it a checkpoint is asked for; 0 = never */
} kd_exchange_config;

/* A version ready to be written: owner frees both. vector [vector_floats]; state
 * [state_vectors][vector_floats], NULL without state vectors. */
typedef struct kd_exchange_snapshot {
    kd_job_id job;
    uint32_t stage;
    uint64_t generation, version;
    float *vector, *state;
} kd_exchange_snapshot;

/* Payload bytes that came and went, and units by what became of them: each once, with its first
 * chunk; divergent and corrupt ones with each chunk that is. */
enum kd_exchange_kind {
    KD_IO_GRADIENTS,
    KD_IO_PARAMETERS,
    KD_IO_STATE, /* of optimisers */
    KD_IO_VALUES,
    KD_IO_EVALUATION,
    KD_IO_KINDS
};
/* What became of a unit whose gradient was pushed. */
enum kd_unit_end {
    KD_UNIT_OK,
    KD_UNIT_BACKUP,    /* a second run, like the first */
    KD_UNIT_DUPLICATE, /* known already */
    KD_UNIT_STALE,     /* of another step, generation or owner */
    KD_UNIT_DIVERGENT, /* unlike another run, or of a worker whose numbers were found to be wrong */
    KD_UNIT_CORRUPT,   /* damaged on the way; it is sent again */
    KD_UNIT_ENDS
};
typedef struct kd_exchange_io {
    uint64_t in[KD_IO_KINDS], out[KD_IO_KINDS], units[KD_UNIT_ENDS];
} kd_exchange_io;

/* How a step went; borrowed. */
typedef struct kd_exchange_course {
    kd_time_ms since;          /* it began */
    const kd_time_ms *done_ms; /* [slots] when each unit was done */
    kd_time_ms left;           /* all of its sums had left; 0 = the journal had them */
    const kd_exchange_io *io;  /* since the exchange was made */
} kd_exchange_course;

typedef struct kd_exchange_events {
    /* version became whole; totals of the step that led there, and how it went. `generation`, here
     * and below: of the opening. */
    void (*committed)(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                      uint64_t version, const kd_step_totals *totals,
                      const kd_exchange_course *course);
    void (*snapshot)(void *arg, kd_exchange_snapshot *snap); /* takes the buffers */
    /* All units of an evaluation are in: rows [val_samples][KD_EVAL_COLUMNS], borrowed. */
    void (*evaluated)(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                      uint64_t version, double learning_rate, const float *rows);
    /* Two different results for one thing that is a function: a fault in somebody's numbers. slot:
     * of the unit; processes: the first one and the other; slot UINT32_MAX when no unit is known;
     * settled: calls of kd_exchange_settle since it was opened, by which older news are told. */
    void (*divergence)(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                       const char *what, uint64_t step, uint32_t slot, uint64_t first,
                       uint64_t other, uint32_t settled);
    /* A second run is complete. settled: as above. against: whose run it differs from, 0 =
     * nobody's. A unit's chunks may have come first from different processes. */
    void (*checked)(void *arg, const kd_exchange_config *cfg, uint64_t generation, uint64_t step,
                    uint32_t slot, uint64_t process, uint64_t against, uint32_t settled);
    /* An owner asks for the newest checkpoint and it is not in memory: kd_exchange_set_base. */
    void (*need_base)(void *arg, const kd_exchange_config *cfg);
    /* The journal takes no more (why), so no sum leaves; why NULL: it does again. */
    void (*blocked)(void *arg, const kd_exchange_config *cfg, uint64_t generation, const char *why);
    kd_time_ms (*now)(void *arg);
    void *arg;
} kd_exchange_events;

typedef struct kd_exchange kd_exchange;
kd_exchange *kd_exchange_new(const kd_exchange_config *cfg, const kd_exchange_events *events);
/* Answers all waiting calls with -KD_ESTALE first. */
void kd_exchange_free(kd_exchange *x);
/* Where a stage begins or goes on. vector [vector_floats] and state [state_vectors][vector_floats]
 * of `version` are taken over; both NULL when its owners publish it. The journal is taken over;
 * sums of later steps that it holds need not be made again. manifest: newest durable version, 1 =
 * the initial one; evaluated: newest version whose evaluation is stored, 0 = none. `opening`
 * names the news that follow. */
typedef struct kd_exchange_start {
    uint64_t opening, version, manifest, evaluated;
    float *vector, *state;
    kd_journal *journal;
} kd_exchange_start;
void kd_exchange_open(kd_exchange *x, const kd_exchange_start *start);
/* Another membership, of so many members: the chunks of `moved` have other owners from this
 * generation on. */
void kd_exchange_fence(kd_exchange *x, uint64_t generation, uint32_t members, const kd_range *moved,
                       size_t n);
/* A checkpoint of this version is the manifest now: older sums go. */
void kd_exchange_manifest(kd_exchange *x, uint64_t version);
/* The newest checkpoint for those who asked, taken over; vector NULL: it cannot be had, and why. */
void kd_exchange_set_base(kd_exchange *x, uint64_t version, float *vector, float *state,
                          const char *why);
/* The verdict on two runs that differed in this step: its sums may leave. redo: the first one was
 * wrong, so all of the step's gradients are to be pushed again; false when sums made of it have
 * left already. odd: what it sends still is refused from now on, 0 = nobody. */
bool kd_exchange_settle(kd_exchange *x, uint64_t step, bool redo, uint64_t odd);
/* While it holds, no sum leaves: a checkpoint waits for room. */
void kd_exchange_hold(kd_exchange *x, bool hold);
/* The journal may have room again. */
void kd_exchange_retry(kd_exchange *x);
/* Ends the stage: everything is answered -KD_ESTALE until the next open. */
void kd_exchange_close(kd_exchange *x);
/* Where the step stands, at one moment. */
typedef struct kd_exchange_look {
    kd_core_step step; /* its arrays are the look's */
    uint32_t audits;   /* second runs that sums wait for */
    bool disputed;     /* sums wait for a verdict */
} kd_exchange_look;
/* The caller clears *out. */
void kd_exchange_look_at(kd_exchange *x, kd_exchange_look *out);
void kd_exchange_look_clear(kd_exchange_look *look);
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

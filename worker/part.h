/* A worker's part in a running stage: what it holds of which version, which chunks it owns, which
 * units it has, and what it therefore asks for next.
 *
 * A pure state machine (rules 1, 4 to 6 and 8 to 10 of docs/protocol.md): no I/O, clock, thread or
 * allocation once it is made. The caller takes things to do from kd_part_next, does them, and tells
 * what came of it; the runner does so with gRPC and compute threads, the simulation with a virtual
 * network. Threads: none of its own; the caller has one lock around all calls. What a call is to
 * send is read when it is started, before anything else is asked of the part; the buffers of an
 * update stay as they are until kd_part_applied.
 *
 * Words. version: a whole parameter vector that is here and that units are computed on, 0 = none.
 * goal: the version that is being assembled beside it: the one that the coordinator collects
 * gradients for when that is not here yet, else the one after `version`. label: the version of an
 * owned chunk's parameters and optimiser state, 0 = none. */
#ifndef KD_WORKER_PART_H
#define KD_WORKER_PART_H

#include "kd/clock.h"
#include "kd/err.h"
#include "tree.h"

typedef struct kd_span {
    uint32_t first, count;
} kd_span;

typedef struct kd_part_shape {
    size_t floats; /* of the vector */
    uint32_t slots, chunk_floats, chunks;
    uint32_t state_vectors;
    bool bfloat16;        /* gradients and sums travel in it */
    const float *initial; /* [floats] version 1; borrowed for the life of the part */
} kd_part_shape;

typedef struct kd_part_begin {
    uint64_t generation, version, last_version, manifest;
    bool fresh, publish, publish_state; /* as in Begin */
    const kd_span *slots, *chunks, *units;
    size_t n_slots, n_chunks, n_units;
} kd_part_begin;

enum kd_todo_kind {
    KD_TODO_SLICE,   /* AwaitSlice(version, chunk) */
    KD_TODO_SUM,     /* AwaitSum(version = step, chunk) */
    KD_TODO_BASE,    /* FetchState(0, chunk) */
    KD_TODO_PUBLISH, /* Publish(version, chunk): data [floats], then state with with_state */
    KD_TODO_PUSH,    /* PushNode(version = step, node, chunk): data [floats] */
    KD_TODO_APPLY    /* update slice, state with sum and scale; then kd_part_applied */
};

typedef struct kd_todo {
    enum kd_todo_kind kind;
    uint32_t chunk, node, push; /* push: number of the pushed node within the part */
    uint64_t version, generation;
    bool with_state, check;
    bool bfloat16;        /* how data of PUSH is to travel, and what SUM asks for comes */
    size_t first, floats; /* where the chunk lies in the vector */
    const float *data, *sum;
    float *slice, *state; /* of APPLY: [floats], [state_vectors][floats] */
    float scale;
    const kd_tree_sums *sums;
    const uint32_t *leaves; /* of PUSH: CRC32C of each slot below the node */
    size_t n_leaves;
} kd_todo;

typedef struct kd_outcome {
    int code;         /* 0 or -KD_E... */
    const void *data; /* float32s, of SUM maybe bfloat16s; aligned anyhow */
    uint64_t version; /* of SLICE and BASE */
    bool checkpoint;  /* of SUM: publish with optimiser state */
    bool want_state;  /* of PUBLISH: not taken, wanted with state */
    float scale;      /* of SUM */
} kd_outcome;

typedef struct kd_part kd_part;
/* NULL without memory. */
kd_part *kd_part_new(const kd_part_shape *shape);
void kd_part_free(kd_part *p);

void kd_part_begin_at(kd_part *p, const kd_part_begin *b);
/* Units besides; dropped unless of this step or the next. */
void kd_part_add_units(kd_part *p, uint64_t step, const kd_span *slots, size_t n, bool check);

/* The next thing to do, false = nothing now (*out_wait_ms: until something is tried again, -1 =
 * only news change that). */
bool kd_part_next(kd_part *p, kd_time_ms now, kd_todo *out, int *out_wait_ms);
/* What came of a call. Returns 0, or the code of a failure that no repetition mends. */
int kd_part_tell(kd_part *p, const kd_todo *done, const kd_outcome *o, kd_time_ms now);
void kd_part_applied(kd_part *p, uint32_t chunk);

/* The goal is whole: kd_part_advance makes it the version. */
bool kd_part_whole(const kd_part *p);
void kd_part_advance(kd_part *p);
uint64_t kd_part_version(const kd_part *p);    /* 0 = none */
const float *kd_part_vector(const kd_part *p); /* of that version */
uint64_t kd_part_last_version(const kd_part *p);
uint32_t kd_part_first_owned(const kd_part *p); /* number of chunks if it owns none */
/* Whether others wait for slices of this one, or it for a checkpoint: what blocks comes later. */
bool kd_part_owes(const kd_part *p);
/* What it holds and waits for, one line for logs. */
void kd_part_describe(const kd_part *p, char *out, size_t size);
/* Is a call that had this answer worth making again? */
bool kd_part_again(int code);
/* Since when every answer was that something else is going on; 0 = it is not so. */
kd_time_ms kd_part_stale_since(const kd_part *p);

/* The next range of units to run on kd_part_version; they count as begun. nodes: whose sums are
 * wanted whole, [64]. False = none. */
bool kd_part_round(kd_part *p, kd_span *out, bool *out_check, uint32_t nodes[64], int *out_n_nodes);
/* Units of that range were not begun after all. */
void kd_part_return(kd_part *p, kd_span span, bool check);
/* Units of the steps after this one, the first range of them; count 0 = none. */
kd_span kd_part_coming(const kd_part *p);
/* A tree node's gradient of the version's step, kept by the caller until
 * kd_part_take_dropped gives it back. leaf_crc [slots below][chunks], copied. */
void kd_part_push(kd_part *p, uint32_t node, const float *gradient, const kd_tree_sums *sums,
                  const uint32_t *leaf_crc, bool check);
/* The step's gradients are needed no more: before the part is freed. */
void kd_part_drop(kd_part *p);
/* Gradients of steps that are over; returns how many, at most `most`. */
size_t kd_part_take_dropped(kd_part *p, const float **out, size_t most);

#endif

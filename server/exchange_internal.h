/* What exchange.c (life, answers, owners), exchange_sums.c (reduction tree, second runs) and
 * exchange_versions.c (slices, state, values, evaluations) share. All functions are under the
 * exchange's lock. */
#ifndef KD_SERVER_EXCHANGE_INTERNAL_H
#define KD_SERVER_EXCHANGE_INTERNAL_H

#include "exchange.h"

#include <pthread.h>

/* Second runs of a unit that may come in at once: one that is over, late pushes of who was lost. */
#define CHECKS 4

/* Of a unit; who tells of both has computed it twice. */
enum { FIRST_RUN = 1, SECOND_RUN = 2 };

enum want { WANT_SUM, WANT_SLICE, WANT_STATE, WANT_BASE, WANT_VALUES };

struct waiter {
    kd_rpc_call *call;
    enum want want;
    uint32_t chunk;
};

struct node {
    float *sum;  /* [chunk length]; NULL when empty or already in the parent */
    bool filled; /* its value is known, here or in an ancestor */
    bool pushed; /* came from a worker: crc says what */
    uint32_t crc;
};

struct gathered {
    uint64_t version;
    float *rows; /* [val_samples][KD_EVAL_COLUMNS] */
    uint32_t *unit_crc;
    bool *have;
    uint32_t missing;
};

struct kd_exchange {
    kd_exchange_config cfg;
    kd_exchange_events ev;
    pthread_mutex_t mu; /* guards all below */
    bool open;
    uint64_t opening, version; /* version: T */
    uint64_t manifest, evaluated;
    uint64_t *owner_generation; /* [chunks] since when the chunk has its owner */
    float *current;             /* version T, NULL while its owners publish it */
    float *state;               /* optimiser state of state_version: averaged parameters that are
                                   evaluated lie there */
    uint64_t state_version;
    struct {
        float *vector, *state; /* of the newest checkpoint, for owners that rebuild */
        uint64_t version;
        bool asked;
    } base;
    kd_journal *journal;
    bool blocked;     /* the journal took no more */
    bool held;        /* by kd_exchange_hold */
    kd_time_ms since; /* T was committed */
    float *next;      /* slices of T+1 (of T while current is NULL) */
    float *next_state;
    bool *have;          /* [chunks] slice of the next version is in */
    uint32_t *slice_crc; /* [chunks] of the slices of `next`, then of `current` */
    uint32_t missing;    /* slices of the next version not yet in */
    struct node *nodes;  /* [chunks][2*slots] */
    bool *logged;        /* [chunks] the sum of T is in the journal and may leave */
    bool *served;        /* [chunks] and those who waited for it have it */
    /* Units of T and of the step before, which may come late: by their leaves' CRC32C two runs of a
     * unit are compared. */
    struct leaves {
        uint32_t *crc;     /* [slots][chunks] */
        bool *have;        /* [slots][chunks] */
        uint64_t *process; /* [slots][chunks] whose came first */
        uint8_t *runs;     /* [slots][chunks] what that one has told of: FIRST_RUN, SECOND_RUN */
        bool *twice;       /* [slots][chunks] and another one has told the same, or not */
    } leaves, late;
    bool *audited; /* [slots] the unit of T is run twice before sums leave */
    uint32_t audits_missing;
    uint32_t *twice_left; /* [slots] chunks that no second process has told of */
    uint32_t members;     /* of the newest generation */
    uint64_t odd[16];     /* whose gradients count no more */
    size_t n_odd;
    bool disputed;    /* two runs differ: sums wait for the verdict */
    uint32_t settled; /* calls of kd_exchange_settle since it was opened */
    struct check {
        uint64_t process;               /* whose second run is coming in, 0 = nobody's */
        uint32_t left;                  /* chunks that are to come */
        uint64_t against;               /* whose run it differs from, 0 = nobody's */
    } * checks;                         /* [slots][CHECKS] */
    bool *check_have;                   /* [slots][chunks] */
    uint32_t *slot_left;                /* [slots] chunks without a gradient of the unit */
    kd_time_ms *done_ms, *last_done_ms; /* [slots] */
    struct {
        kd_step_totals t;
        bool have;
    } * totals;            /* [2*slots], from chunk 0 */
    uint32_t sums_missing; /* chunks of T whose root is not filled yet */
    double *squares;       /* [chunks] of the trained elements of the sums, with clip_norm */
    float scale;           /* of the sums of T, once all are there */
    struct {
        float *rows;   /* [batch][columns] of step T */
        uint32_t *crc; /* [slots] */
        bool *have;    /* [slots] */
        uint32_t missing;
    } values;
    bool checkpoint_next; /* decided for version T+1 */
    kd_time_ms left_ms;   /* all sums of T have left, 0 = not yet */
    kd_exchange_io io;
    bool sums_left; /* a sum of T has been sent: the decision stands */
    bool checkpoint_wanted;
    struct gathered gathered;
    struct waiter *waiters;
    size_t n_waiters, cap_waiters;
};

/* ---- exchange.c */
size_t kd_xc_chunk_len(const kd_exchange *x, uint32_t chunk);
/* Of a gradient or a sum on the wire. */
size_t kd_xc_gradient_bytes(const kd_exchange *x, uint32_t chunk);
struct node *kd_xc_node_at(kd_exchange *x, uint32_t chunk, uint32_t node);
void kd_xc_drop_base(kd_exchange *x);
void kd_xc_clear_gathered(kd_exchange *x);
void kd_xc_answer(kd_rpc_call *call, const void *head, const void *payload, size_t len);
void kd_xc_answer_slice(kd_exchange *x, kd_rpc_call *call, uint64_t version, uint32_t chunk,
                        const float *vector);
void kd_xc_answer_sum(kd_exchange *x, kd_rpc_call *call, uint32_t chunk);
/* The sum that m, all but its CRC32C, is the head of. */
void kd_xc_send_sum(kd_exchange *x, kd_rpc_call *call, Distill__V1__SumChunk *m, const float *sum);
void kd_xc_answer_state(kd_exchange *x, kd_rpc_call *call, uint32_t chunk, bool base);
void kd_xc_answer_values(kd_exchange *x, kd_rpc_call *call);
void kd_xc_add_waiter(kd_exchange *x, kd_rpc_call *call, enum want want, uint32_t chunk);
void kd_xc_serve_waiters(kd_exchange *x, enum want want, uint32_t chunk, uint64_t version,
                         const float *vector);
void kd_xc_dismiss(kd_exchange *x, int want, uint32_t chunk, int code, const char *why);
bool kd_xc_is_border(const kd_exchange_config *cfg, uint64_t version);
uint64_t kd_xc_collected(const kd_exchange *x);
void kd_xc_decide_checkpoint(kd_exchange *x);
bool kd_xc_usable(kd_exchange *x, kd_rpc_call *call, uint32_t chunk);
bool kd_xc_fence(kd_exchange *x, kd_rpc_call *call, uint64_t generation, uint32_t chunk);
/* whole: its CRC32C agrees. */
bool kd_xc_payload_ok(kd_rpc_call *call, size_t len, size_t want_bytes, bool whole);

/* ---- exchange_sums.c */
void kd_xc_new_leaves(struct leaves *l, const kd_exchange_config *cfg);
void kd_xc_clear_leaves(struct leaves *l, const kd_exchange_config *cfg);
void kd_xc_free_leaves(struct leaves *l);
void kd_xc_clear_tree(kd_exchange *x);
void kd_xc_choose_audits(kd_exchange *x);
void kd_xc_release_sums(kd_exchange *x);
void kd_xc_preload(kd_exchange *x);

#endif

#include "exchange.h"

#include "kd/clip.h"
#include "kd/failpoint.h"
#include "kd/hash.h"
#include "kd/log.h"
#include "wire/wire.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Second runs of a unit that may come in at once: one that is over, late pushes of who was lost. */
#define CHECKS 4

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
        uint32_t *crc;        /* [slots][chunks] */
        bool *have;           /* [slots][chunks] */
        kd_member_id *member; /* [slots] whose came first */
    } leaves, late;
    bool *audited; /* [slots] the unit of T is run twice before sums leave */
    uint32_t audits_missing;
    bool disputed; /* two runs differ: sums wait for the verdict */
    struct check {
        kd_member_id member; /* whose second run is coming in, 0 = nobody's */
        uint32_t left;       /* chunks that are to come */
        bool differs;
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
    bool sums_left;       /* a sum of T has been sent: the decision stands */
    bool checkpoint_wanted;
    struct gathered gathered;
    struct waiter *waiters;
    size_t n_waiters, cap_waiters;
};

static size_t chunk_len(const kd_exchange *x, uint32_t chunk)
{
    size_t first = (size_t)chunk * x->cfg.chunk_floats;
    return KD_MIN((size_t)x->cfg.chunk_floats, (size_t)x->cfg.vector_floats - first);
}

static struct node *node_at(kd_exchange *x, uint32_t chunk, uint32_t node)
{
    return &x->nodes[(size_t)chunk * 2 * x->cfg.slots + node];
}

static void new_leaves(struct leaves *l, const kd_exchange_config *cfg)
{
    l->crc = kd_xalloc((size_t)cfg->slots * cfg->chunks * sizeof *l->crc);
    l->have = kd_xalloc((size_t)cfg->slots * cfg->chunks * sizeof *l->have);
    l->member = kd_xalloc(cfg->slots * sizeof *l->member);
}

static void clear_leaves(struct leaves *l, const kd_exchange_config *cfg)
{
    memset(l->have, 0, (size_t)cfg->slots * cfg->chunks * sizeof *l->have);
    memset(l->member, 0, cfg->slots * sizeof *l->member);
}

static void free_leaves(struct leaves *l)
{
    free(l->crc);
    free(l->have);
    free(l->member);
}

kd_exchange *kd_exchange_new(const kd_exchange_config *cfg, const kd_exchange_events *events)
{
    kd_exchange *x = kd_xalloc(sizeof *x);
    x->cfg = *cfg;
    x->ev = *events;
    pthread_mutex_init(&x->mu, NULL);
    x->have = kd_xalloc(cfg->chunks * sizeof *x->have);
    x->slice_crc = kd_xalloc(cfg->chunks * sizeof *x->slice_crc);
    x->nodes = kd_xalloc((size_t)cfg->chunks * 2 * cfg->slots * sizeof *x->nodes);
    x->totals = kd_xalloc(2 * (size_t)cfg->slots * sizeof *x->totals);
    x->squares = kd_xalloc(cfg->chunks * sizeof *x->squares);
    x->owner_generation = kd_xalloc(cfg->chunks * sizeof *x->owner_generation);
    x->logged = kd_xalloc(cfg->chunks * sizeof *x->logged);
    x->served = kd_xalloc(cfg->chunks * sizeof *x->served);
    x->slot_left = kd_xalloc(cfg->slots * sizeof *x->slot_left);
    x->done_ms = kd_xalloc(cfg->slots * sizeof *x->done_ms);
    x->last_done_ms = kd_xalloc(cfg->slots * sizeof *x->last_done_ms);
    x->audited = kd_xalloc(cfg->slots * sizeof *x->audited);
    x->checks = kd_xalloc((size_t)cfg->slots * CHECKS * sizeof *x->checks);
    x->check_have = kd_xalloc((size_t)cfg->slots * CHECKS * cfg->chunks * sizeof *x->check_have);
    new_leaves(&x->leaves, cfg);
    new_leaves(&x->late, cfg);
    x->values.crc = kd_xalloc(cfg->slots * sizeof *x->values.crc);
    x->values.have = kd_xalloc(cfg->slots * sizeof *x->values.have);
    return x;
}

static void clear_tree(kd_exchange *x)
{
    size_t n = (size_t)x->cfg.chunks * 2 * x->cfg.slots;
    for (size_t i = 0; i < n; i++)
        free(x->nodes[i].sum);
    memset(x->nodes, 0, n * sizeof *x->nodes);
    memset(x->totals, 0, 2 * (size_t)x->cfg.slots * sizeof *x->totals);
    memset(x->values.have, 0, x->cfg.slots * sizeof *x->values.have);
    x->values.missing = x->cfg.slots;
    x->sums_missing = x->cfg.chunks;
    x->scale = 1;
    memset(x->logged, 0, x->cfg.chunks * sizeof *x->logged);
    memset(x->served, 0, x->cfg.chunks * sizeof *x->served);
    struct leaves late = x->leaves;
    x->leaves = x->late;
    x->late = late;
    clear_leaves(&x->leaves, &x->cfg);
    for (uint32_t s = 0; s < x->cfg.slots; s++) {
        x->slot_left[s] = x->cfg.chunks;
        x->done_ms[s] = 0;
    }
}

/* Which units of T are run twice is a function of the step, so that the core knows as well. */
static void choose_audits(kd_exchange *x)
{
    x->audits_missing = 0;
    x->disputed = false;
    for (uint32_t s = 0; s < x->cfg.slots; s++) {
        x->audited[s] = x->version < x->cfg.last_version &&
                        kd_core_audits(x->cfg.audit, x->cfg.job, x->cfg.stage, x->version, s);
        memset(&x->checks[s * CHECKS], 0, CHECKS * sizeof *x->checks);
        x->audits_missing += x->audited[s];
    }
}

static void drop_base(kd_exchange *x)
{
    free(x->base.vector);
    free(x->base.state);
    x->base.vector = x->base.state = NULL;
    x->base.version = 0;
}

static void clear_gathered(kd_exchange *x)
{
    free(x->gathered.rows);
    free(x->gathered.unit_crc);
    free(x->gathered.have);
    x->gathered = (struct gathered){0};
}

static void clear_all(kd_exchange *x)
{
    clear_tree(x);
    clear_leaves(&x->late, &x->cfg);
    clear_gathered(x);
    drop_base(x);
    x->base.asked = x->blocked = false;
    kd_journal_close(x->journal);
    x->journal = NULL;
    free(x->current);
    free(x->state);
    free(x->next);
    free(x->next_state);
    x->current = x->state = x->next = x->next_state = NULL;
    memset(x->have, 0, x->cfg.chunks * sizeof *x->have);
    x->missing = x->cfg.chunks;
    x->checkpoint_next = x->checkpoint_wanted = x->sums_left = false;
}

/* ---- answers */

static void answer(kd_rpc_call *call, const void *head, const void *payload, size_t len)
{
    kd_buf buf;
    kd_buf_init(&buf, KD_MAX_CONTROL_BYTES);
    int rc = len ? kd_wire_pack_bulk_head(head, len, &buf) : kd_wire_pack(head, &buf);
    if (rc == 0) {
        struct iovec parts[] = {{buf.data, buf.len}, {(void *)payload, len}};
        kd_rpc_reply(call, parts, len ? 2 : 1);
    } else {
        kd_rpc_finish(call, rc, "the reply could not be packed");
    }
    kd_buf_clear(&buf);
}

/* Chunk 0 of version 1 and the like must be told apart from an empty reply, so a head always has at
 * least its version or step. */
static void answer_slice(kd_exchange *x, kd_rpc_call *call, uint64_t version, uint32_t chunk,
                         const float *vector)
{
    Distill__V1__SliceChunk m = DISTILL__V1__SLICE_CHUNK__INIT;
    size_t len = chunk_len(x, chunk) * sizeof(float);
    const float *at = vector + (size_t)chunk * x->cfg.chunk_floats;
    m.version = version;
    m.chunk = chunk;
    m.crc32c = kd_crc32c(0, at, len);
    answer(call, &m, at, len);
}

static void answer_sum(kd_exchange *x, kd_rpc_call *call, uint32_t chunk)
{
    Distill__V1__SumChunk m = DISTILL__V1__SUM_CHUNK__INIT;
    size_t len = chunk_len(x, chunk) * sizeof(float);
    const float *sum = node_at(x, chunk, 1)->sum;
    m.step = x->version;
    m.chunk = chunk;
    m.checkpoint = x->checkpoint_next;
    m.scale = x->scale;
    m.crc32c = kd_crc32c(0, sum, len);
    x->sums_left = true;
    answer(call, &m, sum, len);
}

/* A slice with its optimiser vectors: of the newest checkpoint, else of `current`. */
static void answer_state(kd_exchange *x, kd_rpc_call *call, uint32_t chunk, bool base)
{
    size_t n = chunk_len(x, chunk), vectors = x->cfg.state_vectors;
    size_t first = (size_t)chunk * x->cfg.chunk_floats, bytes = (1 + vectors) * n * sizeof(float);
    const float *vector = base ? x->base.vector : x->current;
    const float *state = base ? x->base.state : x->state;
    float *both = malloc(bytes);
    if (!both) {
        kd_rpc_finish(call, -KD_ENOMEM, "no memory for a state chunk");
        return;
    }
    memcpy(both, vector + first, n * sizeof(float));
    for (size_t v = 0; v < vectors; v++)
        memcpy(both + (1 + v) * n, state + v * x->cfg.vector_floats + first, n * sizeof(float));
    Distill__V1__SliceChunk m = DISTILL__V1__SLICE_CHUNK__INIT;
    m.version = base ? x->base.version : x->state_version;
    m.chunk = chunk;
    m.with_state = true;
    m.crc32c = kd_crc32c(0, both, bytes);
    answer(call, &m, both, bytes);
    free(both);
}

static void answer_values(kd_exchange *x, kd_rpc_call *call)
{
    Distill__V1__ValueChunk m = DISTILL__V1__VALUE_CHUNK__INIT;
    size_t bytes = (size_t)x->cfg.batch * x->cfg.columns * sizeof(float);
    m.step = x->version;
    m.crc32c = kd_crc32c(0, x->values.rows, bytes);
    answer(call, &m, x->values.rows, bytes);
}

static void add_waiter(kd_exchange *x, kd_rpc_call *call, enum want want, uint32_t chunk)
{
    if (x->n_waiters == x->cap_waiters) {
        size_t cap = x->cap_waiters ? 2 * x->cap_waiters : 64;
        struct waiter *p = realloc(x->waiters, cap * sizeof *p);
        if (!p) {
            kd_rpc_finish(call, -KD_ENOMEM, "no memory for a waiting call");
            return;
        }
        x->waiters = p;
        x->cap_waiters = cap;
    }
    x->waiters[x->n_waiters++] = (struct waiter){kd_rpc_call_ref(call), want, chunk};
}

/* Answers the waiters that `want` this chunk of what has just become ready. */
static void serve_waiters(kd_exchange *x, enum want want, uint32_t chunk, uint64_t version,
                          const float *vector)
{
    size_t kept = 0;
    for (size_t i = 0; i < x->n_waiters; i++) {
        struct waiter w = x->waiters[i];
        if (w.want != want || w.chunk != chunk) {
            x->waiters[kept++] = w;
            continue;
        }
        switch (want) {
        case WANT_SUM:
            answer_sum(x, w.call, chunk);
            break;
        case WANT_SLICE:
            answer_slice(x, w.call, version, chunk, vector);
            break;
        case WANT_STATE:
        case WANT_BASE:
            answer_state(x, w.call, chunk, want == WANT_BASE);
            break;
        case WANT_VALUES:
            answer_values(x, w.call);
            break;
        }
        kd_rpc_call_unref(w.call);
    }
    x->n_waiters = kept;
}

/* Ends the waiting calls that `want` the chunk; of any kind and chunk with want < 0. */
static void dismiss(kd_exchange *x, int want, uint32_t chunk, int code, const char *why)
{
    size_t kept = 0;
    for (size_t i = 0; i < x->n_waiters; i++) {
        struct waiter w = x->waiters[i];
        if (want >= 0 && ((int)w.want != want || w.chunk != chunk)) {
            x->waiters[kept++] = w;
            continue;
        }
        kd_rpc_finish(w.call, code, why);
        kd_rpc_call_unref(w.call);
    }
    x->n_waiters = kept;
}

void kd_exchange_forget(kd_exchange *x, kd_rpc_call *call)
{
    pthread_mutex_lock(&x->mu);
    size_t kept = 0;
    for (size_t i = 0; i < x->n_waiters; i++) {
        if (x->waiters[i].call == call)
            kd_rpc_call_unref(call);
        else
            x->waiters[kept++] = x->waiters[i];
    }
    x->n_waiters = kept;
    pthread_mutex_unlock(&x->mu);
}

/* ---- life */

static bool is_border(const kd_exchange_config *cfg, uint64_t version)
{
    return version == cfg->last_version || (version > 1 && (version - 1) % cfg->eval_steps == 0);
}

/* The version whose slices come in now. */
static uint64_t collected(const kd_exchange *x)
{
    return x->current ? x->version + 1 : x->version;
}

static void decide_checkpoint(kd_exchange *x)
{
    uint64_t next = collected(x);
    uint64_t done = next - 1; /* steps that lead to it */
    bool durable = next <= x->manifest && next > 1;
    x->checkpoint_next = !durable && (is_border(&x->cfg, next) ||
                                      (done > 0 && done % x->cfg.checkpoint_every == 0) ||
                                      (done > 0 && x->checkpoint_wanted));
    x->sums_left = false;
}

void kd_exchange_close(kd_exchange *x)
{
    pthread_mutex_lock(&x->mu);
    dismiss(x, -1, 0, -KD_ESTALE, "the stage is over, or goes on elsewhere");
    clear_all(x);
    x->open = false;
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_free(kd_exchange *x)
{
    if (!x)
        return;
    kd_exchange_close(x);
    pthread_mutex_destroy(&x->mu);
    free(x->waiters);
    free(x->have);
    free(x->slice_crc);
    free(x->nodes);
    free(x->totals);
    free(x->squares);
    free(x->owner_generation);
    free(x->logged);
    free(x->served);
    free(x->slot_left);
    free(x->done_ms);
    free(x->last_done_ms);
    free(x->audited);
    free(x->checks);
    free(x->check_have);
    free_leaves(&x->leaves);
    free_leaves(&x->late);
    free(x->values.rows);
    free(x->values.crc);
    free(x->values.have);
    free(x);
}

void kd_exchange_checkpoint(kd_exchange *x)
{
    pthread_mutex_lock(&x->mu);
    x->checkpoint_wanted = true;
    /* Slices that are in may be without their state. */
    if (x->open && !x->sums_left && x->missing == x->cfg.chunks)
        decide_checkpoint(x);
    pthread_mutex_unlock(&x->mu);
}

/* Under the lock. false and the call answered when nothing is collected, or not such a chunk. */
static bool usable(kd_exchange *x, kd_rpc_call *call, uint32_t chunk)
{
    if (!x->open) {
        kd_rpc_finish(call, -KD_ESTALE, "the stage does not run now");
        return false;
    }
    if (chunk >= x->cfg.chunks) {
        kd_rpc_finish(call, -KD_EINVAL, "no such chunk");
        return false;
    }
    return true;
}

/* Likewise, when the chunk has got another owner since. */
static bool fence(kd_exchange *x, kd_rpc_call *call, uint64_t generation, uint32_t chunk)
{
    if (!usable(x, call, chunk))
        return false;
    if (generation < x->owner_generation[chunk]) {
        kd_rpc_finish(call, -KD_ESTALE, "the chunk has another owner");
        return false;
    }
    return true;
}

static bool payload_ok(kd_rpc_call *call, const uint8_t *payload, size_t len, size_t want_bytes,
                       uint32_t crc)
{
    if (len != want_bytes) {
        kd_rpc_finish(call, -KD_EINVAL, "the payload has not the length of its chunk");
        return false;
    }
    if (kd_crc32c(0, payload, len) != crc) {
        kd_rpc_finish(call, -KD_EDATA, "the payload's CRC32C differs; send it again");
        return false;
    }
    return true;
}

/* ---- push: the reduction tree */

/* Puts the totals of a node in and adds siblings up; the same tree as the gradients. */
static void add_totals(kd_exchange *x, uint32_t node, const kd_step_totals *t)
{
    x->totals[node].t = *t;
    x->totals[node].have = true;
    while (node > 1 && x->totals[node ^ 1].have) {
        const kd_step_totals *a = &x->totals[node & ~1u].t, *b = &x->totals[node | 1u].t;
        kd_step_totals *sum = &x->totals[node >> 1].t;
        sum->loss = a->loss + b->loss;
        sum->correct = a->correct + b->correct;
        sum->samples = a->samples + b->samples;
        for (uint32_t i = 0; i < x->cfg.n_terms; i++)
            sum->terms[i] = a->terms[i] + b->terms[i];
        node >>= 1;
        x->totals[node].have = true;
    }
}

/* Sum of the squares of a chunk's trained elements, in their order, in double. */
static double square_sum(const kd_exchange *x, uint32_t chunk, const float *sum)
{
    uint64_t first = (uint64_t)chunk * x->cfg.chunk_floats, end = first + chunk_len(x, chunk);
    double total = 0;
    for (size_t i = 0; i < x->cfg.n_trained; i++) {
        uint64_t from = KD_MAX(x->cfg.trained[i].first, first);
        uint64_t to = KD_MIN(x->cfg.trained[i].first + x->cfg.trained[i].count, end);
        for (uint64_t k = from; k < to; k++)
            total += (double)sum[k - first] * (double)sum[k - first];
    }
    return total;
}

static bool clipped(const kd_exchange *x)
{
    return x->cfg.clip_norm > 0;
}

/* Sums of an evaluated version leave when its evaluation is there, so that nobody leaves it behind
 * before, and none before the version itself is whole, so that no owner steps over it. */
static bool may_leave(const kd_exchange *x)
{
    bool evaluating = is_border(&x->cfg, x->version) && x->evaluated < x->version;
    return x->current && !evaluating && !x->disputed && x->audits_missing == 0 &&
           !(clipped(x) && x->sums_missing > 0);
}

static bool sum_ready(kd_exchange *x, uint32_t chunk)
{
    return x->logged[chunk] && may_leave(x);
}

/* Sends the sums that may leave, journalled first. With clipping all of them go together: the
 * factor is that of torch.nn.utils.clip_grad_norm_, its norm added up by chunk. */
static void release_sums(kd_exchange *x)
{
    bool was_blocked = x->blocked;
    kd_diag diag = {0};
    if (!x->open || !may_leave(x))
        return;
    if (clipped(x)) {
        double total = 0;
        for (uint32_t k = 0; k < x->cfg.chunks; k++)
            total += x->squares[k];
        x->scale = (float)kd_clip_scale(x->cfg.clip_norm, total);
    }
    x->blocked = false;
    for (uint32_t k = 0; k < x->cfg.chunks && !x->blocked; k++) {
        const float *sum = node_at(x, k, 1)->sum;
        if (!sum || x->served[k])
            continue;
        if (!x->logged[k] && x->journal &&
            kd_journal_append(x->journal, x->version, k, sum, x->scale, &x->totals[1].t, &diag) !=
                0) {
            x->blocked = true;
            break;
        }
        x->logged[k] = x->served[k] = true;
        KD_FAILPOINT("exchange.sum");
        serve_waiters(x, WANT_SUM, k, x->version, NULL);
    }
    if (x->journal && x->cfg.journal_bytes && !x->checkpoint_wanted &&
        kd_journal_bytes(x->journal) > x->cfg.journal_bytes / 2)
        x->checkpoint_wanted = true;
    if (x->blocked != was_blocked)
        x->ev.blocked(x->ev.arg, &x->cfg, x->blocked ? diag.msg : NULL);
}

/* A chunk's root has its value. */
static void root_filled(kd_exchange *x, uint32_t chunk)
{
    x->sums_missing--;
    if (clipped(x))
        x->squares[chunk] = square_sum(x, chunk, node_at(x, chunk, 1)->sum);
}

static void mark_below(kd_exchange *x, uint32_t chunk, uint32_t node)
{
    if (node >= 2 * x->cfg.slots)
        return;
    struct node *n = node_at(x, chunk, node);
    if (node >= x->cfg.slots && !n->filled && --x->slot_left[node - x->cfg.slots] == 0)
        x->done_ms[node - x->cfg.slots] = KD_MAX(x->ev.now(x->ev.arg), (kd_time_ms)1);
    n->filled = true;
    free(n->sum);
    n->sum = NULL;
    mark_below(x, chunk, 2 * node);
    mark_below(x, chunk, 2 * node + 1);
}

/* Sums of T that the journal has already: nobody need make them again. */
static void preload(kd_exchange *x)
{
    if (!x->journal || x->version >= x->cfg.last_version)
        return;
    for (uint32_t k = 0; k < x->cfg.chunks; k++) {
        kd_diag diag = {0};
        kd_step_totals totals;
        float scale;
        if (!kd_journal_has(x->journal, x->version, k))
            continue;
        float *sum = malloc(chunk_len(x, k) * sizeof *sum);
        if (!sum || kd_journal_read(x->journal, x->version, k, sum, &scale, &totals, &diag) != 0) {
            kd_warn("a journalled sum is made again: %s", sum ? diag.msg : "no memory");
            free(sum);
            continue;
        }
        mark_below(x, k, 1);
        node_at(x, k, 1)->sum = sum;
        x->logged[k] = true;
        if (k == 0) {
            x->totals[1].t = totals;
            x->totals[1].have = true;
        }
        root_filled(x, k);
        /* What left once was not in dispute. */
        memset(x->audited, 0, x->cfg.slots * sizeof *x->audited);
        x->audits_missing = 0;
    }
    release_sums(x);
}

/* The CRC32Cs of the units in a push, against those that came before. Returns the slot that
 * differs, UINT32_MAX for none; *out_first: who sent it first. */
static uint32_t compare_leaves(kd_exchange *x, struct leaves *l, const Distill__V1__NodeChunk *head,
                               kd_member_id *out_first)
{
    uint32_t first = head->node, count = 1, differs = UINT32_MAX;
    while (first < x->cfg.slots) {
        first *= 2;
        count *= 2;
    }
    first -= x->cfg.slots;
    if (head->n_leaves != count)
        return differs; /* a worker that tells none */
    for (uint32_t i = 0; i < count; i++) {
        size_t at = (size_t)(first + i) * x->cfg.chunks + head->chunk;
        if (!l->have[at]) {
            l->have[at] = true;
            l->crc[at] = head->leaves[i];
            if (!l->member[first + i])
                l->member[first + i] = head->member;
        } else if (l->crc[at] != head->leaves[i] && differs == UINT32_MAX) {
            differs = first + i;
            *out_first = l->member[first + i];
        }
    }
    return differs;
}

/* Under the lock: puts a node's gradient where it belongs and adds up what is complete. */
static int take_node(kd_exchange *x, const Distill__V1__NodeChunk *head, const uint8_t *payload,
                     bool *out_duplicate, const char **out_diverged)
{
    size_t n = chunk_len(x, head->chunk);
    struct node *node = node_at(x, head->chunk, head->node);
    *out_duplicate = node->filled;
    if (node->filled) {
        if (node->pushed && node->crc != head->crc32c)
            *out_diverged = "two different gradients for one tree node";
        return 0;
    }
    float *mine = malloc(n * sizeof(float));
    if (!mine)
        return -KD_ENOMEM;
    memcpy(mine, payload, n * sizeof(float));
    mark_below(x, head->chunk, head->node);
    node->sum = mine;
    node->filled = true;
    node->pushed = true;
    node->crc = head->crc32c;
    if (head->chunk == 0) {
        kd_step_totals t = {head->loss, head->correct, head->samples, {0}};
        for (size_t i = 0; i < KD_MIN(head->n_terms, (size_t)x->cfg.n_terms); i++)
            t.terms[i] = head->terms[i];
        add_totals(x, head->node, &t);
    }
    uint32_t at = head->node;
    while (at > 1 && node_at(x, head->chunk, at ^ 1)->sum) {
        struct node *left = node_at(x, head->chunk, at & ~1u);
        struct node *right = node_at(x, head->chunk, at | 1u);
        struct node *parent = node_at(x, head->chunk, at >> 1);
        for (size_t i = 0; i < n; i++)
            left->sum[i] += right->sum[i];
        parent->sum = left->sum;
        parent->filled = true;
        free(right->sum);
        left->sum = right->sum = NULL;
        at >>= 1;
    }
    if (at == 1)
        root_filled(x, head->chunk);
    return 0;
}

/* A second run has told of one more chunk; agrees: with the first. Pushes may come again. */
static void count_check(kd_exchange *x, uint32_t slot, bool agrees,
                        const Distill__V1__NodeChunk *head)
{
    struct check *c = &x->checks[slot * CHECKS];
    int i = 0;
    while (i < CHECKS - 1 && c[i].member && c[i].member != head->member)
        i++;
    bool *have = x->check_have + ((size_t)slot * CHECKS + (size_t)i) * x->cfg.chunks;
    if (c[i].member != head->member) {
        c[i] = (struct check){.member = head->member, .left = x->cfg.chunks};
        memset(have, 0, x->cfg.chunks * sizeof *have);
    }
    if (c[i].left == 0 || have[head->chunk])
        return;
    have[head->chunk] = true;
    c[i].differs = c[i].differs || !agrees;
    if (--c[i].left > 0)
        return;
    if (x->audited[slot]) {
        x->audited[slot] = false;
        x->audits_missing--;
    }
    x->ev.checked(x->ev.arg, &x->cfg, head->step, slot, head->member, !c[i].differs);
}

void kd_exchange_push(kd_exchange *x, kd_rpc_call *call, const Distill__V1__NodeChunk *head,
                      const uint8_t *payload, size_t len)
{
    Distill__V1__PushReply reply = DISTILL__V1__PUSH_REPLY__INIT;
    const char *diverged = NULL;
    kd_member_id first = 0;
    uint32_t slot = UINT32_MAX;
    pthread_mutex_lock(&x->mu);
    if (!usable(x, call, head->chunk))
        goto out;
    if (head->node == 0 || head->node >= 2 * x->cfg.slots) {
        kd_rpc_finish(call, -KD_EINVAL, "no such node in the reduction tree");
        goto out;
    }
    bool late = head->step + 1 == x->version;
    if (!late && (head->step != x->version || x->version >= x->cfg.last_version)) {
        kd_rpc_finish(call, -KD_ESTALE, "another step is being collected");
        goto out;
    }
    if (!payload_ok(call, payload, len, chunk_len(x, head->chunk) * sizeof(float), head->crc32c))
        goto out;
    KD_FAILPOINT("exchange.push");
    slot = compare_leaves(x, late ? &x->late : &x->leaves, head, &first);
    if (slot != UINT32_MAX)
        diverged = "two different gradients for one unit";
    if (!late && slot != UINT32_MAX)
        x->disputed = true;
    if (!late && head->check && head->node >= x->cfg.slots)
        count_check(x, head->node - x->cfg.slots, slot == UINT32_MAX, head);
    bool duplicate = true;
    int rc = late ? 0 : take_node(x, head, payload, &duplicate, &diverged);
    reply.duplicate = duplicate;
    if (rc == 0)
        answer(call, &reply, NULL, 0);
    else
        kd_rpc_finish(call, rc, "no memory for a tree buffer");
    release_sums(x);
    if (diverged)
        x->ev.divergence(x->ev.arg, &x->cfg, diverged, head->step, slot, first, head->member);
out:
    pthread_mutex_unlock(&x->mu);
}

static void answer_old_sum(kd_exchange *x, kd_rpc_call *call, const Distill__V1__SumRequest *req)
{
    kd_diag diag = {0};
    size_t len = chunk_len(x, req->chunk) * sizeof(float);
    float *sum = malloc(len);
    Distill__V1__SumChunk m = DISTILL__V1__SUM_CHUNK__INIT;
    if (!sum) {
        kd_rpc_finish(call, -KD_ENOMEM, "no memory for an older sum");
    } else if (!x->journal || kd_journal_read(x->journal, req->step, req->chunk, sum, &m.scale,
                                              NULL, &diag) != 0) {
        kd_rpc_finish(call, -KD_ENOENT,
                      "that sum is in the journal no more; begin with the newest checkpoint");
    } else {
        m.step = req->step;
        m.chunk = req->chunk;
        m.crc32c = kd_crc32c(0, sum, len);
        answer(call, &m, sum, len);
    }
    free(sum);
}

void kd_exchange_await_sum(kd_exchange *x, kd_rpc_call *call, const Distill__V1__SumRequest *req)
{
    pthread_mutex_lock(&x->mu);
    if (fence(x, call, req->generation, req->chunk)) {
        if (req->step < x->version)
            answer_old_sum(x, call, req);
        else if (req->step > x->version || x->version >= x->cfg.last_version)
            kd_rpc_finish(call, -KD_ESTALE, "another step is being collected");
        else if (sum_ready(x, req->chunk))
            answer_sum(x, call, req->chunk);
        else
            add_waiter(x, call, WANT_SUM, req->chunk);
    }
    pthread_mutex_unlock(&x->mu);
}

/* ---- publish: versions */

static kd_exchange_snapshot take_snapshot(kd_exchange *x)
{
    kd_exchange_snapshot s = {
        .job = x->cfg.job, .stage = x->cfg.stage, .generation = x->opening, .version = x->version};
    size_t bytes = (size_t)x->cfg.vector_floats * sizeof(float);
    s.vector = malloc(bytes);
    if (s.vector)
        memcpy(s.vector, x->current, bytes);
    s.state = x->next_state;
    x->next_state = NULL;
    return s;
}

/* Version `version` is evaluated with its averaged parameters: keeps its state for those who ask.
 */
static void keep_average(kd_exchange *x, uint64_t version)
{
    size_t bytes = (size_t)x->cfg.vector_floats * x->cfg.state_vectors * sizeof(float);
    free(x->state);
    x->state = malloc(bytes);
    if (!x->state) {
        kd_err("no memory for averaged parameters");
        return;
    }
    memcpy(x->state, x->next_state, bytes);
    x->state_version = version;
    for (uint32_t k = 0; k < x->cfg.chunks; k++)
        serve_waiters(x, WANT_STATE, k, version, NULL);
}

/* Every slice of the collected version is there: the commit point of a step, unless it is the
 * version that the stage goes on from. */
static void version_whole(kd_exchange *x)
{
    bool step = x->current != NULL;
    KD_FAILPOINT("exchange.commit");
    float *old = x->current;
    x->current = x->next;
    x->next = old;
    x->version += step;
    kd_time_ms since = x->since;
    x->since = x->ev.now(x->ev.arg);
    kd_step_totals totals = x->totals[1].t;
    memcpy(x->last_done_ms, x->done_ms, x->cfg.slots * sizeof *x->done_ms);
    if (step) {
        clear_tree(x);
        choose_audits(x);
    }
    memset(x->have, 0, x->cfg.chunks * sizeof *x->have);
    x->missing = x->cfg.chunks;
    kd_exchange_snapshot snap = {0};
    bool saved = x->checkpoint_next;
    if (saved) {
        if (x->cfg.average && is_border(&x->cfg, x->version))
            keep_average(x, x->version);
        snap = take_snapshot(x);
        x->checkpoint_wanted = false;
        if (x->journal)
            kd_journal_roll(x->journal, x->version);
    }
    free(x->next_state);
    x->next_state = NULL;
    decide_checkpoint(x);
    if (step)
        x->ev.committed(x->ev.arg, &x->cfg, x->opening, x->version, &totals, since,
                        x->last_done_ms);
    if (saved)
        x->ev.snapshot(x->ev.arg, &snap);
    if (step)
        preload(x);
    else
        release_sums(x);
}

/* Under the lock. 1 = taken, 0 = it was there, or an error. */
static int take_slice(kd_exchange *x, const Distill__V1__SliceChunk *head, const uint8_t *payload)
{
    size_t bytes = chunk_len(x, head->chunk) * sizeof(float);
    size_t vectors = head->with_state ? x->cfg.state_vectors : 0;
    size_t vector_bytes = (size_t)x->cfg.vector_floats * sizeof(float);
    if (!x->next)
        x->next = malloc(vector_bytes);
    if (vectors && !x->next_state)
        x->next_state = malloc(vector_bytes * vectors);
    if (!x->next || (vectors && !x->next_state))
        return -KD_ENOMEM;
    size_t first = (size_t)head->chunk * x->cfg.chunk_floats;
    memcpy(x->next + first, payload, bytes);
    for (size_t v = 0; v < vectors; v++)
        memcpy(x->next_state + v * x->cfg.vector_floats + first, payload + (1 + v) * bytes, bytes);
    x->have[head->chunk] = true;
    x->slice_crc[head->chunk] = kd_crc32c(0, payload, bytes);
    x->missing--;
    return 1;
}

void kd_exchange_publish(kd_exchange *x, kd_rpc_call *call, const Distill__V1__SliceChunk *head,
                         const uint8_t *payload, size_t len)
{
    Distill__V1__PublishReply reply = DISTILL__V1__PUBLISH_REPLY__INIT;
    pthread_mutex_lock(&x->mu);
    if (!fence(x, call, head->generation, head->chunk))
        goto out;
    uint64_t want = collected(x);
    size_t bytes = chunk_len(x, head->chunk) * sizeof(float);
    if (head->version > want || head->version + 1 < want) {
        kd_rpc_finish(call, -KD_ESTALE, "another version is being collected");
        goto out;
    }
    size_t vectors = head->with_state ? x->cfg.state_vectors : 0;
    if (!payload_ok(call, payload, len, bytes * (1 + vectors), head->crc32c))
        goto out;
    bool there = head->version != want || x->have[head->chunk];
    if (there && head->version == want && kd_crc32c(0, payload, bytes) != x->slice_crc[head->chunk])
        x->ev.divergence(x->ev.arg, &x->cfg, "two different slices for one chunk and version",
                         want - 1, UINT32_MAX, 0, 0);
    reply.duplicate = there;
    reply.want_state = !there && x->checkpoint_next && !head->with_state;
    KD_FAILPOINT("exchange.publish");
    int rc = there || reply.want_state ? 0 : take_slice(x, head, payload);
    if (rc < 0) {
        kd_rpc_finish(call, rc, "no memory for the next version");
        goto out;
    }
    answer(call, &reply, NULL, 0);
    if (rc == 1) {
        serve_waiters(x, WANT_SLICE, head->chunk, want, x->next);
        if (x->missing == 0)
            version_whole(x);
    }
out:
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_await_slice(kd_exchange *x, kd_rpc_call *call,
                             const Distill__V1__SliceRequest *req)
{
    pthread_mutex_lock(&x->mu);
    if (usable(x, call, req->chunk)) {
        uint64_t want = collected(x);
        if (x->current && req->version <= x->version)
            answer_slice(x, call, x->version, req->chunk, x->current);
        else if (req->version != want)
            kd_rpc_finish(call, -KD_ESTALE, "that version is not collected now");
        else if (x->have[req->chunk])
            answer_slice(x, call, want, req->chunk, x->next);
        else
            add_waiter(x, call, WANT_SLICE, req->chunk);
    }
    pthread_mutex_unlock(&x->mu);
}

static void fetch_base(kd_exchange *x, kd_rpc_call *call, uint32_t chunk)
{
    if (x->base.vector) {
        answer_state(x, call, chunk, true);
        return;
    }
    add_waiter(x, call, WANT_BASE, chunk);
    if (!x->base.asked)
        x->ev.need_base(x->ev.arg, &x->cfg);
    x->base.asked = true;
}

void kd_exchange_fetch_state(kd_exchange *x, kd_rpc_call *call,
                             const Distill__V1__SliceRequest *req)
{
    pthread_mutex_lock(&x->mu);
    if (usable(x, call, req->chunk)) {
        bool here = x->current && req->version == x->state_version && req->version == x->version &&
                    (x->state || x->cfg.state_vectors == 0);
        if (req->version == 0)
            fetch_base(x, call, req->chunk);
        else if (here)
            answer_state(x, call, req->chunk, false);
        else if (req->version == collected(x) && x->cfg.average && is_border(&x->cfg, req->version))
            add_waiter(x, call, WANT_STATE, req->chunk);
        else
            kd_rpc_finish(call, -KD_ESTALE,
                          "state is kept for averaged parameters that are evaluated");
    }
    pthread_mutex_unlock(&x->mu);
}

/* ---- values of a batch-coupled loss */

void kd_exchange_push_values(kd_exchange *x, kd_rpc_call *call, const Distill__V1__ValueChunk *head,
                             const uint8_t *payload, size_t len)
{
    Distill__V1__PushReply reply = DISTILL__V1__PUSH_REPLY__INIT;
    const char *diverged = NULL;
    pthread_mutex_lock(&x->mu);
    size_t floats = (size_t)x->cfg.batch / x->cfg.slots * x->cfg.columns;
    if (!usable(x, call, 0))
        goto out;
    if (floats == 0 || head->slot >= x->cfg.slots) {
        kd_rpc_finish(call, -KD_EINVAL, "no such slot, or this stage gathers no values");
        goto out;
    }
    if (head->step != x->version || x->version >= x->cfg.last_version) {
        kd_rpc_finish(call, -KD_ESTALE, "another step is being collected");
        goto out;
    }
    if (!payload_ok(call, payload, len, floats * sizeof(float), head->crc32c))
        goto out;
    if (!x->values.rows)
        x->values.rows = calloc((size_t)x->cfg.batch * x->cfg.columns, sizeof(float));
    if (!x->values.rows) {
        kd_rpc_finish(call, -KD_ENOMEM, "no memory for a batch's values");
        goto out;
    }
    reply.duplicate = x->values.have[head->slot];
    if (reply.duplicate) {
        if (x->values.crc[head->slot] != head->crc32c)
            diverged = "two different values for one slot";
    } else {
        memcpy(x->values.rows + head->slot * floats, payload, len);
        x->values.have[head->slot] = true;
        x->values.crc[head->slot] = head->crc32c;
        if (--x->values.missing == 0)
            serve_waiters(x, WANT_VALUES, 0, x->version, NULL);
    }
    answer(call, &reply, NULL, 0);
out:
    if (diverged)
        x->ev.divergence(x->ev.arg, &x->cfg, diverged, x->version, UINT32_MAX, 0, 0);
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_await_values(kd_exchange *x, kd_rpc_call *call,
                              const Distill__V1__ValueRequest *req)
{
    pthread_mutex_lock(&x->mu);
    if (usable(x, call, 0)) {
        if (req->step != x->version || x->cfg.columns == 0)
            kd_rpc_finish(call, -KD_ESTALE, "another step is being collected");
        else if (x->values.missing == 0)
            answer_values(x, call);
        else
            add_waiter(x, call, WANT_VALUES, 0);
    }
    pthread_mutex_unlock(&x->mu);
}

/* ---- gather: evaluation */

void kd_exchange_gather(kd_exchange *x, kd_rpc_call *call, const Distill__V1__GatherChunk *head,
                        const uint8_t *payload, size_t len)
{
    Distill__V1__GatherReply reply = DISTILL__V1__GATHER_REPLY__INIT;
    const char *diverged = NULL;
    float *rows = NULL;
    pthread_mutex_lock(&x->mu);
    uint32_t units = (x->cfg.val_samples + x->cfg.eval_unit - 1) / x->cfg.eval_unit;
    if (!usable(x, call, 0))
        goto out;
    if (head->columns != KD_EVAL_COLUMNS || head->unit >= units) {
        kd_rpc_finish(call, -KD_EINVAL, "no such evaluation unit, or another number of columns");
        goto out;
    }
    uint32_t first = head->unit * x->cfg.eval_unit;
    uint32_t n = KD_MIN(x->cfg.eval_unit, x->cfg.val_samples - first);
    if (!payload_ok(call, payload, len, (size_t)n * KD_EVAL_COLUMNS * sizeof(float), head->crc32c))
        goto out;
    /* A version is whole at a worker before the news of it reaches others, so the collected one may
     * be told of. */
    if (!is_border(&x->cfg, head->version) || head->version > collected(x) ||
        head->version < x->gathered.version) {
        kd_rpc_finish(call, -KD_ESTALE, "that version is not evaluated now");
        goto out;
    }
    struct gathered *g = &x->gathered;
    if (g->version != head->version) {
        clear_gathered(x);
        g->rows = calloc((size_t)x->cfg.val_samples * KD_EVAL_COLUMNS, sizeof *g->rows);
        g->unit_crc = calloc(units, sizeof *g->unit_crc);
        g->have = calloc(units, sizeof *g->have);
        if (!g->rows || !g->unit_crc || !g->have) {
            clear_gathered(x);
            kd_rpc_finish(call, -KD_ENOMEM, "no memory for an evaluation");
            goto out;
        }
        g->version = head->version;
        g->missing = units;
    }
    if (g->have[head->unit]) {
        if (g->unit_crc[head->unit] != head->crc32c)
            diverged = "two different evaluations of one unit";
        reply.duplicate = true;
    } else {
        size_t bytes = (size_t)x->cfg.val_samples * KD_EVAL_COLUMNS * sizeof *rows;
        /* Before the last unit counts, so that it may be sent again. */
        if (g->missing == 1 && !(rows = malloc(bytes))) {
            kd_rpc_finish(call, -KD_ENOMEM, "no memory for an evaluation");
            goto out;
        }
        memcpy(g->rows + (size_t)first * KD_EVAL_COLUMNS, payload, len);
        g->have[head->unit] = true;
        g->unit_crc[head->unit] = head->crc32c;
        g->missing--;
        if (rows)
            memcpy(rows, g->rows, bytes);
    }
    /* Before the answer: nobody trains on before it, so the news comes before that of any later
     * version. */
    if (rows) {
        x->ev.evaluated(x->ev.arg, &x->cfg, x->opening, head->version, head->learning_rate, rows);
        x->evaluated = head->version;
        release_sums(x);
    }
    answer(call, &reply, NULL, 0);
out:
    if (diverged)
        x->ev.divergence(x->ev.arg, &x->cfg, diverged, x->version, UINT32_MAX, 0, 0);
    pthread_mutex_unlock(&x->mu);
    free(rows);
}

/* ---- where a stage begins, and who owns what */

void kd_exchange_open(kd_exchange *x, const kd_exchange_start *start)
{
    pthread_mutex_lock(&x->mu);
    dismiss(x, -1, 0, -KD_ESTALE, "the stage begins anew");
    clear_all(x);
    x->open = true;
    x->opening = start->opening;
    x->version = start->version;
    x->manifest = start->manifest;
    x->evaluated = start->evaluated;
    x->current = start->vector;
    x->state = start->state;
    x->state_version = start->version;
    x->journal = start->journal;
    x->since = x->ev.now(x->ev.arg);
    for (uint32_t k = 0; k < x->cfg.chunks; k++)
        x->owner_generation[k] = start->opening;
    decide_checkpoint(x);
    choose_audits(x);
    preload(x);
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_fence(kd_exchange *x, uint64_t generation, const kd_range *moved, size_t n)
{
    pthread_mutex_lock(&x->mu);
    for (size_t i = 0; i < n; i++)
        for (uint32_t k = moved[i].first; k < moved[i].first + moved[i].count; k++) {
            KD_BUG_ON(k >= x->cfg.chunks);
            x->owner_generation[k] = generation;
            dismiss(x, WANT_SUM, k, -KD_ESTALE, "the chunk has another owner");
        }
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_manifest(kd_exchange *x, uint64_t version)
{
    pthread_mutex_lock(&x->mu);
    x->manifest = KD_MAX(x->manifest, version);
    if (x->journal)
        kd_journal_cut(x->journal, version);
    if (x->base.version < version)
        drop_base(x);
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_set_base(kd_exchange *x, uint64_t version, float *vector, float *state,
                          const char *why)
{
    pthread_mutex_lock(&x->mu);
    drop_base(x);
    x->base.asked = false;
    x->base.vector = vector;
    x->base.state = state;
    x->base.version = version;
    for (uint32_t k = 0; k < x->cfg.chunks; k++) {
        if (vector)
            serve_waiters(x, WANT_BASE, k, version, NULL);
        else
            dismiss(x, WANT_BASE, k, -KD_EUNAVAIL, why);
    }
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_retry(kd_exchange *x)
{
    pthread_mutex_lock(&x->mu);
    if (x->blocked)
        release_sums(x);
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_look_at(kd_exchange *x, kd_exchange_look *out, kd_time_ms *done_ms)
{
    pthread_mutex_lock(&x->mu);
    *out = (kd_exchange_look){.version = x->version,
                              .since = x->since,
                              .whole = x->current != NULL,
                              .audits = x->audits_missing,
                              .disputed = x->disputed,
                              .want_state = !x->current && x->checkpoint_next};
    memcpy(done_ms, x->done_ms, x->cfg.slots * sizeof *done_ms);
    pthread_mutex_unlock(&x->mu);
}

bool kd_exchange_settle(kd_exchange *x, uint64_t step, bool redo)
{
    bool ok = true;
    pthread_mutex_lock(&x->mu);
    if (x->open && x->version == step) {
        ok = !redo || !x->sums_left;
        if (redo && ok) {
            clear_tree(x);
            clear_leaves(&x->late, &x->cfg); /* what is not to be believed */
            choose_audits(x);
        }
        x->disputed = !ok;
        memset(x->served, 0, x->cfg.chunks * sizeof *x->served);
        release_sums(x);
    }
    pthread_mutex_unlock(&x->mu);
    return ok;
}

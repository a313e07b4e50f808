#include "sim.h"

#include "core.h"
#include "exchange.h"
#include "part.h"
#include "tree.h"

#include "kd/clip.h"
#include "kd/file.h"
#include "wire/wire.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_FLOATS 3
#define VAL_SAMPLES 70
#define EVAL_UNITS 3
#define JOB 0x123456789abcu
#define LEASE_MS 1000
#define TICK_MS 25
#define UNIT_MS 40
#define EVAL_MS 90
#define SAVE_MS 150
#define LONGEST_MS 4000000

struct world;
typedef void (*event_fn)(struct world *w, void *a, uint64_t b);
struct event {
    double time;
    uint64_t seq, b;
    event_fn fn;
    void *a;
};

/* ---- what a worker is made of */

struct worker {
    struct world *world;
    int index;
    bool alive, stopped, cut, odd;
    double slow;
    uint64_t life, conn; /* of the process, of its control stream; 0 = not connected */
    uint64_t parts;      /* stages that it has let go: answers for those are nobody's */
    kd_member_id member; /* what the coordinator calls the stream; 0 = lost */
    double heard;
    enum { EMPTY, HOLDS } state;
    kd_part *part;
    kd_reducer *reducer;
    uint32_t *digests;
    kd_span round;
    bool round_checks;
    int round_left;
    uint64_t round_number, version_seen;
    uint32_t rank, members;
    uint64_t evaluate;
    bool evaluated[EVAL_UNITS];
    bool awake; /* a wake-up is on its way */
};

struct kd_rpc_call {
    struct world *world;
    struct worker *worker;
    int refs;
    uint64_t life, parts, epoch;
    bool over, values;
    int gather_unit; /* -1 = what the part asked for */
    kd_todo todo;
    float *payload;
    size_t floats;
    uint32_t leaves[KD_MAX_SLOTS];
    kd_tree_sums sums;
    uint64_t process, version;
    uint8_t *reply;
    size_t reply_len;
    int code;
};

struct checkpoint {
    uint64_t version, opening;
    float *vector, *state;
};

struct control {
    struct worker *worker;
    uint64_t life, conn, epoch;
    kd_action action;
    kd_range ranges[3][KD_MAX_SLOTS];
    kd_event event;
    kd_member_id member;
};

struct world {
    kd_sim_config cfg;
    kd_sim_result *out;
    kd_rng rng;
    double now;
    uint64_t seq;
    struct event *heap;
    size_t n_heap, cap_heap;

    size_t floats;
    uint32_t vectors;
    float *initial;
    float **truth;      /* [steps + 2] */
    float **truth_sums; /* [steps + 1], scaled not yet */
    float *truth_scale; /* [steps + 1] */
    kd_core_stage_info info;

    struct worker *workers;
    int n_workers;
    double *control_at; /* [workers] when the last message to it arrives: streams are in order */

    /* on disk */
    char dir[64];
    uint64_t epoch, manifest, evaluated;
    struct checkpoint saved[2];
    enum kd_run_state state;
    bool stage_done;

    /* the coordinator's memory */
    bool up;
    kd_core *core;
    kd_exchange *exchange;
    kd_actions actions;
    bool carrying, power_failed;
    uint32_t sums_to_live;             /* it dies when that many sums have arrived, 0 = not so */
    uint64_t opening, committed, kept; /* kept: of the course that the stage is on */
    kd_member_id next_member;
    double last_progress;
    bool *evaluations; /* [steps + 2] that are stored */
};

static void broken(struct world *w, const char *promise, const char *fmt, ...) KD_PRINTF(3, 4);
static void broken(struct world *w, const char *promise, const char *fmt, ...)
{
    if (w->out->broken)
        return;
    w->out->broken = promise;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(w->out->detail, sizeof w->out->detail, fmt, ap);
    va_end(ap);
}

#define SAY(w, ...)                                                                                \
    do {                                                                                           \
        if ((w)->cfg.verbose) {                                                                    \
            printf("%9.1f ", (w)->now);                                                            \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
        }                                                                                          \
    } while (0)

/* ---- time */

static bool before(const struct event *a, const struct event *b)
{
    return a->time != b->time ? a->time < b->time : a->seq < b->seq;
}

static void at(struct world *w, double time, event_fn fn, void *a, uint64_t b)
{
    if (w->n_heap == w->cap_heap) {
        w->cap_heap = w->cap_heap ? 2 * w->cap_heap : 1024;
        w->heap = realloc(w->heap, w->cap_heap * sizeof *w->heap);
        KD_BUG_ON(!w->heap);
    }
    struct event e = {time, ++w->seq, b, fn, a};
    size_t i = w->n_heap++;
    while (i > 0 && before(&e, &w->heap[(i - 1) / 2])) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = e;
}

static struct event pop(struct world *w)
{
    struct event first = w->heap[0], last = w->heap[--w->n_heap];
    size_t i = 0;
    for (;;) {
        size_t k = 2 * i + 1;
        if (k >= w->n_heap)
            break;
        if (k + 1 < w->n_heap && before(&w->heap[k + 1], &w->heap[k]))
            k++;
        if (!before(&w->heap[k], &last))
            break;
        w->heap[i] = w->heap[k];
        i = k;
    }
    w->heap[i] = last;
    return first;
}

static double draw(struct world *w, double most)
{
    return most * (double)kd_rng_below(&w->rng, 1000000) / 1e6;
}

/* ---- arithmetic: what everybody computes, and the truth */

static float noise(uint64_t step, uint32_t slot, size_t i)
{
    uint64_t name[3] = {step, slot, i};
    kd_digest d = kd_digest_of(name, sizeof name);
    uint32_t v;
    memcpy(&v, &d, sizeof v);
    return (float)((double)v / 4294967296.0 - 0.5);
}

static void gradient_of(const struct world *w, const float *vector, uint64_t step, uint32_t slot,
                        float *out)
{
    for (size_t i = 0; i < w->floats; i++)
        out[i] = 0.1f * vector[i] + noise(step, slot, i);
}

static void update(const struct world *w, size_t n, float *slice, float *state, const float *sum,
                   float scale)
{
    for (size_t i = 0; i < n; i++) {
        float g = sum[i] * scale;
        state[i] = 0.9f * state[i] + g;
        slice[i] -= 0.05f * state[i];
        if (w->vectors > 1)
            state[n + i] = 0.9f * state[n + i] + 0.1f * slice[i];
    }
}

static void tree_sum(const struct world *w, const float *vector, uint64_t step, uint32_t node,
                     float *out)
{
    if (node >= w->cfg.slots) {
        gradient_of(w, vector, step, node - w->cfg.slots, out);
        return;
    }
    float *right = kd_xalloc(w->floats * sizeof *right);
    tree_sum(w, vector, step, 2 * node, out);
    tree_sum(w, vector, step, 2 * node + 1, right);
    for (size_t i = 0; i < w->floats; i++)
        out[i] += right[i];
    free(right);
}

static size_t chunk_len(const struct world *w, uint32_t k)
{
    return KD_MIN((size_t)CHUNK_FLOATS, w->floats - (size_t)k * CHUNK_FLOATS);
}

static float clip_scale(const struct world *w, const float *sum)
{
    double total = 0;
    if (w->cfg.clip_norm <= 0)
        return 1;
    for (uint32_t k = 0; k < w->cfg.chunks; k++) {
        double part = 0;
        for (size_t i = 0; i < chunk_len(w, k); i++) {
            double v = (double)sum[(size_t)k * CHUNK_FLOATS + i];
            part += v * v;
        }
        total += part;
    }
    return (float)kd_clip_scale(w->cfg.clip_norm, total);
}

static void compute_truth(struct world *w)
{
    float *state = kd_xalloc(w->floats * w->vectors * sizeof *state);
    float *sum = kd_xalloc(w->floats * sizeof *sum), *moved = kd_xalloc(w->floats * sizeof *moved);
    w->truth = kd_xalloc((w->cfg.steps + 2) * sizeof *w->truth);
    w->truth_sums = kd_xalloc((w->cfg.steps + 1) * sizeof *w->truth_sums);
    w->truth_scale = kd_xalloc((w->cfg.steps + 1) * sizeof *w->truth_scale);
    w->truth[1] = kd_xalloc(w->floats * sizeof **w->truth);
    memcpy(w->truth[1], w->initial, w->floats * sizeof *moved);
    for (uint64_t t = 1; t <= w->cfg.steps; t++) {
        tree_sum(w, w->truth[t], t, 1, sum);
        memcpy(moved, w->truth[t], w->floats * sizeof *moved);
        w->truth_scale[t] = clip_scale(w, sum);
        w->truth_sums[t] = kd_xalloc(w->floats * sizeof *sum);
        memcpy(w->truth_sums[t], sum, w->floats * sizeof *sum);
        update(w, w->floats, moved, state, sum, w->truth_scale[t]);
        w->truth[t + 1] = kd_xalloc(w->floats * sizeof **w->truth);
        memcpy(w->truth[t + 1], moved, w->floats * sizeof *moved);
    }
    free(state);
    free(sum);
    free(moved);
}

static void check_vector(struct world *w, const float *vector, uint64_t version, const char *whose)
{
    if (version == 0 || version > w->cfg.steps + 1 ||
        memcmp(vector, w->truth[version], w->floats * sizeof *vector) != 0)
        broken(w, "same bits", "%s holds other bits as version %llu", whose,
               (unsigned long long)version);
}

/* ---- calls: what exchange.c thinks is gRPC */

kd_rpc_call *kd_rpc_call_ref(kd_rpc_call *c)
{
    c->refs++;
    return c;
}

void kd_rpc_call_unref(kd_rpc_call *c)
{
    if (--c->refs > 0)
        return;
    free(c->payload);
    free(c->reply);
    free(c);
}

static void on_reply(struct world *w, void *a, uint64_t b);

/* The answer leaves the coordinator; it may get lost, which the caller sees as a broken call. */
static void answer_leaves(kd_rpc_call *c, int code)
{
    struct world *w = c->world;
    if (c->over)
        return;
    c->over = true;
    c->code = code;
    if (draw(w, 1) < w->cfg.loss || c->worker->cut)
        c->code = -KD_EUNAVAIL;
    at(w, w->now + 0.2 + draw(w, 3), on_reply, kd_rpc_call_ref(c), 0);
}

void kd_rpc_reply(kd_rpc_call *c, const struct iovec *parts, int n_parts)
{
    if (c->over)
        return;
    for (int i = 0; i < n_parts; i++)
        c->reply_len += parts[i].iov_len;
    c->reply = kd_xalloc(c->reply_len + 1);
    size_t done = 0;
    for (int i = 0; i < n_parts; i++) {
        if (parts[i].iov_len)
            memcpy(c->reply + done, parts[i].iov_base, parts[i].iov_len);
        done += parts[i].iov_len;
    }
    answer_leaves(c, 0);
}

void kd_rpc_finish(kd_rpc_call *c, int code, const char *text)
{
    (void)text;
    answer_leaves(c, code);
}

static void on_request(struct world *w, void *a, uint64_t b)
{
    kd_rpc_call *c = a;
    const kd_todo *t = &c->todo;
    char job[] = "123456789abc";
    (void)b;
    if (!w->up || c->epoch != w->epoch || c->worker->cut || draw(w, 1) < w->cfg.loss) {
        answer_leaves(c, -KD_EUNAVAIL);
    } else if (!w->exchange) {
        answer_leaves(c, -KD_ESTALE);
    } else if (c->gather_unit >= 0) {
        Distill__V1__GatherChunk m = DISTILL__V1__GATHER_CHUNK__INIT;
        m.job = job;
        m.version = c->version;
        m.unit = (uint32_t)c->gather_unit;
        m.columns = KD_EVAL_COLUMNS;
        m.crc32c = kd_crc32c(0, c->payload, c->floats * sizeof(float));
        kd_exchange_gather(w->exchange, c, &m, (uint8_t *)c->payload, c->floats * sizeof(float));
    } else if (t->kind == KD_TODO_PUSH) {
        Distill__V1__NodeChunk m = DISTILL__V1__NODE_CHUNK__INIT;
        m.job = job;
        m.generation = t->generation;
        m.step = t->version;
        m.node = t->node;
        m.chunk = t->chunk;
        m.check = t->check;
        m.process = c->process;
        m.leaves = c->leaves;
        m.n_leaves = t->n_leaves;
        m.loss = c->sums.loss;
        m.samples = c->sums.samples;
        m.crc32c = kd_crc32c(0, c->payload, c->floats * sizeof(float));
        kd_exchange_push(w->exchange, c, &m, (uint8_t *)c->payload, c->floats * sizeof(float));
    } else if (t->kind == KD_TODO_PUBLISH) {
        Distill__V1__SliceChunk m = DISTILL__V1__SLICE_CHUNK__INIT;
        m.job = job;
        m.generation = t->generation;
        m.version = t->version;
        m.chunk = t->chunk;
        m.with_state = t->with_state;
        m.crc32c = kd_crc32c(0, c->payload, c->floats * sizeof(float));
        kd_exchange_publish(w->exchange, c, &m, (uint8_t *)c->payload, c->floats * sizeof(float));
    } else if (t->kind == KD_TODO_SUM) {
        Distill__V1__SumRequest m = DISTILL__V1__SUM_REQUEST__INIT;
        m.job = job;
        m.generation = t->generation;
        m.step = t->version;
        m.chunk = t->chunk;
        kd_exchange_await_sum(w->exchange, c, &m);
    } else {
        Distill__V1__SliceRequest m = DISTILL__V1__SLICE_REQUEST__INIT;
        m.job = job;
        m.generation = t->generation;
        m.version = t->version;
        m.chunk = t->chunk;
        if (t->kind == KD_TODO_BASE)
            kd_exchange_fetch_state(w->exchange, c, &m);
        else
            kd_exchange_await_slice(w->exchange, c, &m);
    }
    kd_rpc_call_unref(c);
}

static kd_rpc_call *new_call(struct worker *k)
{
    kd_rpc_call *c = kd_xalloc(sizeof *c);
    *c = (kd_rpc_call){.world = k->world,
                       .worker = k,
                       .refs = 1,
                       .life = k->life,
                       .parts = k->parts,
                       .epoch = k->world->epoch,
                       .gather_unit = -1,
                       .process = (k->life << 16) + (uint64_t)k->index + 1};
    return c;
}

static void start(kd_rpc_call *c)
{
    struct world *w = c->world;
    if (c->worker->cut || !w->up) {
        c->over = true;
        c->code = -KD_EUNAVAIL;
        at(w, w->now + 20, on_reply, c, 0);
        return;
    }
    at(w, w->now + 0.2 + draw(w, 3), on_request, c, 0);
}

/* ---- workers */

static void pump(struct worker *k);

static void on_wake(struct world *w, void *a, uint64_t life)
{
    struct worker *k = a;
    (void)w;
    k->awake = false;
    if (k->life == life)
        pump(k);
}

static bool runs(const struct worker *k)
{
    return k->alive && !k->stopped && k->state == HOLDS;
}

static void kill_coordinator(struct world *w);

static void on_reply(struct world *w, void *a, uint64_t b)
{
    kd_rpc_call *c = a;
    struct worker *k = c->worker;
    (void)b;
    if (k->life == c->life && k->alive && k->stopped) {
        at(w, w->now + 100, on_reply, c, 0); /* it waits in the socket */
        return;
    }
    if (k->life == c->life && k->parts == c->parts && runs(k)) {
        const kd_todo *t = &c->todo;
        kd_outcome o = {.code = c->code, .scale = 1};
        ProtobufCMessage *m = NULL;
        kd_diag diag = {0};
        const uint8_t *payload = NULL;
        size_t len = 0;
        if (c->gather_unit >= 0) {
            if (c->code != 0 && c->version == k->evaluate)
                k->evaluated[c->gather_unit] = false;
        } else {
            if (c->code == 0 && t->kind == KD_TODO_SUM) {
                KD_BUG_ON(kd_wire_unpack_bulk(&distill__v1__sum_chunk__descriptor, c->reply,
                                              c->reply_len, &m, &payload, &len, &diag) != 0);
                o.scale = ((Distill__V1__SumChunk *)m)->scale;
                o.checkpoint = ((Distill__V1__SumChunk *)m)->checkpoint;
                KD_BUG_ON(len != t->floats * sizeof(float));
            } else if (c->code == 0 && t->kind == KD_TODO_PUBLISH) {
                KD_BUG_ON(kd_wire_unpack(&distill__v1__publish_reply__descriptor, c->reply,
                                         c->reply_len, &m, &diag) != 0);
                o.want_state = ((Distill__V1__PublishReply *)m)->want_state;
            } else if (c->code == 0 && t->kind != KD_TODO_PUSH) {
                KD_BUG_ON(kd_wire_unpack_bulk(&distill__v1__slice_chunk__descriptor, c->reply,
                                              c->reply_len, &m, &payload, &len, &diag) != 0);
                o.version = ((Distill__V1__SliceChunk *)m)->version;
            }
            o.data = payload;
            if (o.code == 0 && t->kind == KD_TODO_SUM &&
                (o.scale != w->truth_scale[t->version] ||
                 memcmp(payload, w->truth_sums[t->version] + t->first, len) != 0))
                broken(w, "sums are right", "step %llu chunk %u to worker %d",
                       (unsigned long long)t->version, t->chunk, k->index);
            if (t->kind == KD_TODO_BASE && o.code == 0)
                w->out->rebuilt++;
            w->out->refused += o.code != 0;
            int rc = kd_part_tell(k->part, t, &o, (kd_time_ms)w->now);
            if (rc != 0)
                broken(w, "no call is refused for ever", "worker %d: kind %d, code %d", k->index,
                       (int)t->kind, rc);
            kd_wire_free(m);
        }
        pump(k);
        /* Some chunks' sums are out and others are not: few moments have as many cases. */
        if (c->code == 0 && c->gather_unit < 0 && t->kind == KD_TODO_SUM && w->sums_to_live > 0 &&
            --w->sums_to_live == 0)
            kill_coordinator(w);
    }
    kd_rpc_call_unref(c);
}

static void send_part_call(struct worker *k, const kd_todo *t)
{
    struct world *w = k->world;
    kd_rpc_call *c = new_call(k);
    c->todo = *t;
    if (t->kind == KD_TODO_PUSH) {
        c->floats = t->floats;
        c->payload = kd_xalloc(c->floats * sizeof(float));
        memcpy(c->payload, t->data, c->floats * sizeof(float));
        memcpy(c->leaves, t->leaves, t->n_leaves * sizeof *c->leaves);
        c->sums = *t->sums;
    } else if (t->kind == KD_TODO_PUBLISH) {
        size_t vectors = t->with_state ? w->vectors : 0;
        c->floats = t->floats * (1 + vectors);
        c->payload = kd_xalloc(c->floats * sizeof(float));
        memcpy(c->payload, t->data, t->floats * sizeof(float));
        if (vectors)
            memcpy(c->payload + t->floats, t->state, t->floats * vectors * sizeof(float));
        if (memcmp(t->data, w->truth[t->version] + t->first, t->floats * sizeof(float)) != 0)
            broken(w, "published slices are right", "version %llu chunk %u of worker %d",
                   (unsigned long long)t->version, t->chunk, k->index);
    }
    start(c);
}

static void on_unit(struct world *w, void *a, uint64_t b)
{
    struct worker *k = a;
    uint32_t slot = (uint32_t)(b & 0xffff);
    if (b >> 16 != k->round_number)
        return;
    if (k->alive && k->stopped) {
        at(w, w->now + 50, on_unit, a, b);
        return;
    }
    if (!runs(k))
        return;
    k->round_left--;
    float *gradient = kd_reducer_take(k->reducer);
    uint64_t step = kd_part_version(k->part);
    kd_tree_sums sums = {.loss = 1.0 / (1 + slot), .samples = 1}, node_sums;
    gradient_of(w, kd_part_vector(k->part), step, slot, gradient);
    if (k->odd && kd_rng_below(&w->rng, 3) == 0)
        gradient[kd_rng_below(&w->rng, (uint32_t)w->floats)] += 1e-3f;
    uint32_t own[KD_MAX_SLOTS], *leaves = k->round_checks ? own : k->digests + slot * w->cfg.chunks;
    for (uint32_t c = 0; c < w->cfg.chunks; c++)
        leaves[c] = kd_crc32c(0, gradient + c * CHUNK_FLOATS, chunk_len(w, c) * sizeof *gradient);
    if (k->round_checks) {
        w->out->second_runs++;
        kd_part_push(k->part, w->cfg.slots + slot, gradient, &sums, leaves, true);
    } else {
        uint32_t node;
        float *whole = kd_reducer_add(k->reducer, slot, gradient, &sums, &node, &node_sums);
        if (whole) {
            uint32_t first = node;
            while (first < w->cfg.slots)
                first *= 2;
            kd_part_push(k->part, node, whole, &node_sums,
                         k->digests + (first - w->cfg.slots) * w->cfg.chunks, false);
        }
    }
    pump(k);
}

static void recycle(struct worker *k)
{
    const float *old[16];
    size_t n;
    while ((n = kd_part_take_dropped(k->part, old, 16)) > 0)
        while (n > 0)
            kd_reducer_give(k->reducer, (float *)old[--n]);
}

static void start_round(struct worker *k)
{
    struct world *w = k->world;
    uint32_t nodes[64];
    int n_nodes;
    if (k->round_left > 0 || !kd_part_round(k->part, &k->round, &k->round_checks, nodes, &n_nodes))
        return;
    if (!k->round_checks)
        kd_reducer_want(k->reducer, nodes, n_nodes);
    SAY(w, "worker %d runs units %u..%u of step %llu%s", k->index, k->round.first,
        k->round.first + k->round.count - 1, (unsigned long long)kd_part_version(k->part),
        k->round_checks ? " to compare them" : "");
    k->round_number++;
    k->round_left = (int)k->round.count;
    for (uint32_t i = 0; i < k->round.count; i++) {
        double turn = 1 + i / (uint32_t)w->cfg.threads;
        at(w, w->now + UNIT_MS * turn * k->slow * (0.9 + draw(w, 0.2)), on_unit, k,
           k->round_number << 16 | (k->round.first + i));
    }
}

static bool border(const struct world *w, uint64_t version)
{
    return version == w->cfg.steps + 1 || (version > 1 && (version - 1) % w->cfg.eval_steps == 0);
}

/* The unit is evaluated, if its worker still lives. */
static void on_evaluated(struct world *w, void *a, uint64_t b)
{
    kd_rpc_call *c = a;
    (void)w;
    (void)b;
    if (c->life == c->worker->life)
        start(c);
    else
        kd_rpc_call_unref(c);
}

static void send_evaluation(struct worker *k)
{
    struct world *w = k->world;
    uint64_t version = kd_part_version(k->part);
    if (k->evaluate != version || version == 0)
        return;
    for (uint32_t u = k->rank; u < EVAL_UNITS; u += k->members) {
        if (k->evaluated[u])
            continue;
        k->evaluated[u] = true;
        kd_rpc_call *c = new_call(k);
        uint32_t n = KD_MIN(KD_EVAL_UNIT, VAL_SAMPLES - u * KD_EVAL_UNIT);
        c->gather_unit = (int)u;
        c->version = version;
        c->floats = n * KD_EVAL_COLUMNS;
        c->payload = kd_xalloc(c->floats * sizeof(float));
        for (size_t i = 0; i < c->floats; i++)
            c->payload[i] = kd_part_vector(k->part)[i % w->floats];
        at(w, w->now + EVAL_MS * k->slow, on_evaluated, c, 0);
    }
}

static void pump(struct worker *k)
{
    struct world *w = k->world;
    kd_todo t;
    int wait_ms = -1;
    if (!runs(k))
        return;
    for (;;) {
        if (kd_part_next(k->part, (kd_time_ms)w->now, &t, &wait_ms)) {
            if (t.kind == KD_TODO_APPLY) {
                update(w, t.floats, t.slice, t.state, t.sum, t.scale);
                if (memcmp(t.slice, w->truth[t.version + 1] + t.first, t.floats * sizeof(float)))
                    broken(w, "updates are right", "version %llu chunk %u of worker %d",
                           (unsigned long long)t.version + 1, t.chunk, k->index);
                kd_part_applied(k->part, t.chunk);
            } else {
                send_part_call(k, &t);
            }
            continue;
        }
        if (!kd_part_whole(k->part))
            break;
        k->round_left = 0;
        k->round_number++;
        kd_part_advance(k->part);
        recycle(k);
        kd_reducer_start(k->reducer);
        uint64_t version = kd_part_version(k->part);
        check_vector(w, kd_part_vector(k->part), version, "a worker");
        if (border(w, version)) {
            if (k->evaluate != version)
                memset(k->evaluated, 0, sizeof k->evaluated);
            k->evaluate = version;
        }
    }
    send_evaluation(k);
    start_round(k);
    if (!k->awake) {
        k->awake = true;
        at(w, w->now + (wait_ms < 0 ? 200 : wait_ms + 1), on_wake, k, k->life);
    }
}

static void drop_stage(struct worker *k)
{
    if (!k->part)
        return;
    kd_part_drop(k->part);
    recycle(k);
    kd_part_free(k->part);
    kd_reducer_free(k->reducer);
    k->part = NULL;
    k->reducer = NULL;
    k->state = EMPTY;
    k->parts++;
    k->round_left = 0;
    k->round_number++;
    k->evaluate = 0;
    memset(k->evaluated, 0, sizeof k->evaluated);
}

/* ---- the control stream */

static void to_core(struct world *w, const kd_event *ev);
static void disconnect(struct worker *k);

static void on_ready(struct world *w, void *a, uint64_t b)
{
    struct control *m = a;
    struct worker *k = m->worker;
    (void)b;
    if (k->cut && k->member == m->member) {
        at(w, w->now + 10, on_ready, a, 0); /* it waits in the stream */
        return;
    }
    if (w->up && m->epoch == w->epoch && k->member == m->member && !k->cut)
        to_core(w, &m->event);
    free(m);
}

static void on_control(struct world *w, void *a, uint64_t b)
{
    struct control *m = a;
    struct worker *k = m->worker;
    const kd_action *act = &m->action;
    (void)b;
    if (k->life == m->life && k->alive && (k->stopped || k->cut) && k->conn == m->conn) {
        w->control_at[k->index] = KD_MAX(w->control_at[k->index], w->now + 10) + 0.01;
        at(w, w->control_at[k->index], on_control, a, 0); /* behind all that waits: in order */
        return;
    }
    if (k->life != m->life || k->conn != m->conn || !k->alive) {
        free(m);
        return;
    }
    if (act->kind == KD_ACT_PREPARE) {
        if (k->state == EMPTY) {
            kd_part_shape shape = {.floats = w->floats,
                                   .slots = w->cfg.slots,
                                   .chunk_floats = CHUNK_FLOATS,
                                   .chunks = w->cfg.chunks,
                                   .state_vectors = w->vectors,
                                   .initial = w->initial};
            k->part = kd_part_new(&shape);
            k->reducer = kd_reducer_new(w->cfg.slots, w->floats);
            k->state = HOLDS;
        }
        struct control *r = kd_xalloc(sizeof *r);
        r->worker = k;
        r->epoch = m->epoch;
        r->member = k->member;
        r->event = (kd_event){.kind = KD_EV_READY,
                              .member = k->member,
                              .job = JOB,
                              .stage = act->stage,
                              .info = w->info};
        at(w, w->now + 5 + draw(w, 40), on_ready, r, 0);
    } else if (act->kind == KD_ACT_RELEASE) {
        if (k->state == HOLDS)
            drop_stage(k);
    } else if (k->state == HOLDS && act->kind == KD_ACT_BEGIN) {
        const kd_begin *g = &act->begin;
        kd_part_begin p = {.generation = g->generation,
                           .version = g->version,
                           .last_version = g->last_version,
                           .manifest = g->manifest,
                           .fresh = g->fresh,
                           .publish = g->publish,
                           .publish_state = g->publish_state,
                           .slots = (kd_span *)m->ranges[KD_RANGES_SLOTS],
                           .chunks = (kd_span *)m->ranges[KD_RANGES_CHUNKS],
                           .units = (kd_span *)m->ranges[KD_RANGES_UNITS],
                           .n_slots = act->ranges[KD_RANGES_SLOTS].n,
                           .n_chunks = act->ranges[KD_RANGES_CHUNKS].n,
                           .n_units = act->ranges[KD_RANGES_UNITS].n};
        uint64_t version = kd_part_version(k->part);
        SAY(w, "worker %d: %s at %llu, rank %u of %u", k->index, g->fresh ? "fresh" : "goes on",
            (unsigned long long)g->version, g->rank, g->members);
        kd_part_begin_at(k->part, &p);
        if (kd_part_version(k->part) != version) {
            k->round_left = 0;
            k->round_number++;
        }
        recycle(k);
        k->rank = g->rank;
        k->members = g->members;
        if (g->fresh)
            memset(k->evaluated, 0, sizeof k->evaluated);
        if (g->evaluate_first && k->evaluate != g->version) {
            memset(k->evaluated, 0, sizeof k->evaluated);
            k->evaluate = g->version;
        }
        pump(k);
    } else if (k->state == HOLDS && act->kind == KD_ACT_UNITS) {
        SAY(w, "worker %d: unit %u of step %llu%s", k->index, m->ranges[KD_RANGES_UNITS][0].first,
            (unsigned long long)act->version, act->check ? ", to be compared" : "");
        kd_part_add_units(k->part, act->version, (kd_span *)m->ranges[KD_RANGES_UNITS],
                          act->ranges[KD_RANGES_UNITS].n, act->check);
        pump(k);
    }
    free(m);
}

static struct worker *worker_of(struct world *w, kd_member_id member)
{
    for (int i = 0; i < w->n_workers; i++)
        if (w->workers[i].member == member)
            return &w->workers[i];
    return NULL;
}

static void send_control(struct world *w, const kd_action *act)
{
    struct worker *k = worker_of(w, act->member);
    if (!k)
        return;
    struct control *m = kd_xalloc(sizeof *m);
    *m = (struct control){.worker = k, .life = k->life, .conn = k->conn, .epoch = w->epoch};
    m->action = *act;
    for (int i = 0; i < KD_RANGES_KINDS; i++)
        if (act->ranges[i].n)
            memcpy(m->ranges[i], w->actions.ranges + act->ranges[i].at,
                   act->ranges[i].n * sizeof(kd_range));
    double t = w->now + 0.2 + draw(w, 4);
    t = KD_MAX(t, w->control_at[k->index] + 0.01);
    w->control_at[k->index] = t;
    at(w, t, on_control, m, 0);
}

static void on_connect(struct world *w, void *a, uint64_t life)
{
    struct worker *k = a;
    if (k->life != life || !k->alive || k->member)
        return;
    if (!w->up || k->cut || k->stopped) {
        at(w, w->now + 100 + draw(w, 200), on_connect, a, life);
        return;
    }
    k->conn++;
    k->member = ++w->next_member;
    k->heard = w->now;
    kd_event ev = {.kind = KD_EV_JOIN,
                   .member = k->member,
                   .process = (k->life << 16) + (uint64_t)k->index + 1};
    if (k->state == HOLDS && kd_part_version(k->part)) {
        ev.job = JOB;
        ev.first_chunk = kd_part_first_owned(k->part);
    }
    SAY(w, "worker %d connects as %llu", k->index, (unsigned long long)k->member);
    to_core(w, &ev);
}

static void disconnect(struct worker *k)
{
    struct world *w = k->world;
    kd_member_id member = k->member;
    k->member = 0;
    k->conn++;
    if (k->alive)
        at(w, w->now + 50 + draw(w, 300), on_connect, k, k->life);
    if (member && w->up)
        to_core(w, &(kd_event){.kind = KD_EV_LOST, .member = member, .text = "gone"});
}

/* ---- the coordinator */

static void on_loop(struct world *w, void *a, uint64_t epoch)
{
    kd_event *ev = a;
    if (w->up && epoch == w->epoch)
        to_core(w, ev);
    free((void *)ev->step.done_ms);
    free(ev);
}

static void post(struct world *w, const kd_event *ev)
{
    kd_event *mine = kd_xalloc(sizeof *mine);
    *mine = *ev;
    at(w, w->now, on_loop, mine, w->epoch);
}

static void x_committed(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                        uint64_t version, const kd_step_totals *totals, kd_time_ms since,
                        const kd_time_ms *done_ms)
{
    struct world *w = arg;
    kd_time_ms *copy = kd_xalloc(cfg->slots * sizeof *copy);
    memcpy(copy, done_ms, cfg->slots * sizeof *copy);
    SAY(w, "committed %llu", (unsigned long long)version);
    if (totals->samples != (double)cfg->slots)
        broken(w, "no sample is lost", "step %llu counts %g of %u units",
               (unsigned long long)version - 1, totals->samples, cfg->slots);
    if (version <= w->committed)
        w->out->steps_redone++;
    w->committed = KD_MAX(w->committed, version);
    w->kept = version;
    w->last_progress = w->now;
    post(w, &(kd_event){.kind = KD_EV_COMMITTED,
                        .job = JOB,
                        .generation = generation,
                        .version = version,
                        .step = {.version = version - 1, .since = since, .done_ms = copy}});
}

static void on_saved(struct world *w, void *a, uint64_t epoch)
{
    struct checkpoint *c = a;
    if (w->up && epoch == w->epoch && w->exchange && c->opening == w->opening) {
        check_vector(w, c->vector, c->version, "a checkpoint");
        free(w->saved[1].vector);
        free(w->saved[1].state);
        w->saved[1] = *c;
        to_core(w, &(kd_event){.kind = KD_EV_SAVED,
                               .job = JOB,
                               .generation = c->opening,
                               .version = c->version});
    } else {
        free(c->vector);
        free(c->state);
    }
    free(c);
}

static void x_snapshot(void *arg, kd_exchange_snapshot *snap)
{
    struct world *w = arg;
    struct checkpoint *c = kd_xalloc(sizeof *c);
    *c = (struct checkpoint){snap->version, snap->generation, snap->vector, snap->state};
    if (!c->state)
        broken(w, "checkpoints have their state", "version %llu",
               (unsigned long long)snap->version);
    at(w, w->now + SAVE_MS, on_saved, c, w->epoch); /* in order: the same time for all */
}

static void x_evaluated(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                        uint64_t version, double rate, const float *rows)
{
    struct world *w = arg;
    (void)cfg;
    (void)generation;
    (void)rate;
    if (version > w->kept)
        broken(w, "news of an evaluation comes after that of its version", "version %llu",
               (unsigned long long)version);
    for (size_t u = 0; u < EVAL_UNITS; u++)
        if (rows[u * KD_EVAL_UNIT * KD_EVAL_COLUMNS] != w->truth[version][0])
            broken(w, "evaluations are of their version", "version %llu",
                   (unsigned long long)version);
    post(w, &(kd_event){.kind = KD_EV_EVALUATED, .job = JOB, .version = version});
}

static void x_divergence(void *arg, const kd_exchange_config *cfg, const char *what, uint64_t step,
                         uint32_t slot, uint64_t first, uint64_t other)
{
    struct world *w = arg;
    (void)cfg;
    SAY(w, "divergence: %s, step %llu slot %u, %llu and %llu", what, (unsigned long long)step, slot,
        (unsigned long long)first, (unsigned long long)other);
    if (w->cfg.odd_worker < 0)
        broken(w, "equal units have equal bits", "%s", what);
    post(w, &(kd_event){.kind = KD_EV_DIVERGED,
                        .job = JOB,
                        .version = step,
                        .slot = slot,
                        .process = first,
                        .other = other});
}

static void x_checked(void *arg, const kd_exchange_config *cfg, uint64_t step, uint32_t slot,
                      uint64_t process, bool agrees)
{
    (void)cfg;
    post(arg, &(kd_event){.kind = KD_EV_CHECKED,
                          .job = JOB,
                          .version = step,
                          .slot = slot,
                          .process = process,
                          .agrees = agrees});
}

static float *copy_of(const float *v, size_t n)
{
    float *p = kd_xalloc(n * sizeof *p);
    memcpy(p, v, n * sizeof *p);
    return p;
}

static void on_base(struct world *w, void *a, uint64_t epoch)
{
    (void)a;
    if (!w->up || epoch != w->epoch || !w->exchange)
        return;
    const struct checkpoint *c = &w->saved[0];
    if (c->vector && c->version == w->manifest)
        kd_exchange_set_base(w->exchange, c->version, copy_of(c->vector, w->floats),
                             copy_of(c->state, w->floats * w->vectors), "");
    else
        kd_exchange_set_base(w->exchange, 0, NULL, NULL, "none");
}

static void x_need_base(void *arg, const kd_exchange_config *cfg)
{
    struct world *w = arg;
    (void)cfg;
    at(w, w->now + 3, on_base, NULL, w->epoch);
}

static void x_blocked(void *arg, const kd_exchange_config *cfg, const char *why)
{
    (void)cfg;
    broken(arg, "the journal takes sums", "%s", why ? why : "");
}

static kd_time_ms x_now(void *arg)
{
    return (kd_time_ms)((struct world *)arg)->now;
}

static void prefix_of(const struct world *w, char out[96])
{
    snprintf(out, 96, "%s/stage0", w->dir);
}

static void open_exchange(struct world *w, const kd_action *act)
{
    char prefix[96];
    kd_exchange_config cfg = {.job = JOB,
                              .slots = w->cfg.slots,
                              .chunk_floats = CHUNK_FLOATS,
                              .chunks = w->cfg.chunks,
                              .vector_floats = w->floats,
                              .state_vectors = w->vectors,
                              .eval_steps = w->cfg.eval_steps,
                              .last_version = act->begin.last_version,
                              .checkpoint_every = w->cfg.checkpoint_every,
                              .val_samples = VAL_SAMPLES,
                              .eval_unit = KD_EVAL_UNIT,
                              .average = w->cfg.average,
                              .clip_norm = w->cfg.clip_norm,
                              .audit = w->cfg.audit};
    struct kd_exchange_span all = {0, w->floats};
    cfg.trained = &all;
    cfg.n_trained = 1;
    kd_exchange_events ev = {x_committed,  x_snapshot, x_evaluated,
                             x_divergence, x_checked,  x_need_base,
                             x_blocked,    x_now,      w};
    static struct kd_exchange_span spans[1];
    spans[0] = all;
    cfg.trained = spans;
    w->exchange = kd_exchange_new(&cfg, &ev);
    prefix_of(w, prefix);
    if (act->begin.fresh)
        kd_journal_remove(prefix);
    kd_exchange_start start = {
        .opening = act->begin.generation, .manifest = w->manifest, .evaluated = w->evaluated};
    kd_digest identity = kd_digest_of("sim", 3);
    uint64_t torn;
    kd_diag diag = {0};
    if (kd_journal_open(prefix, &identity, w->cfg.chunks, CHUNK_FLOATS, w->floats, w->manifest,
                        &start.journal, &torn, &diag) != 0)
        broken(w, "the journal opens", "%s", diag.msg);
    uint64_t end = kd_journal_end(start.journal), every = w->cfg.eval_steps;
    uint64_t stop = (w->manifest - 1 + every) / every * every + 1;
    if (w->manifest > 1 && (w->manifest - 1) % every == 0)
        stop = w->evaluated < w->manifest ? w->manifest : w->manifest + every;
    start.version = KD_MIN(KD_MIN(end, stop), act->begin.last_version);
    /* What was committed and neither lost with the power nor wrong is there. */
    if (!w->power_failed && !act->begin.fresh && KD_MAX(start.version, end) < w->kept)
        broken(w, "no step is rolled back", "opens at %llu, %llu was committed",
               (unsigned long long)start.version, (unsigned long long)w->kept);
    w->kept = start.version;
    w->power_failed = false;
    if (start.version == w->manifest && w->manifest > 1) {
        KD_BUG_ON(w->saved[0].version != w->manifest);
        start.vector = copy_of(w->saved[0].vector, w->floats);
        start.state = copy_of(w->saved[0].state, w->floats * w->vectors);
    }
    SAY(w, "opens at %llu (manifest %llu, journal to %llu)", (unsigned long long)start.version,
        (unsigned long long)w->manifest, (unsigned long long)end);
    w->opening = act->begin.generation;
    w->out->reopened++;
    kd_exchange_open(w->exchange, &start);
}

static void close_exchange(struct world *w)
{
    kd_exchange_free(w->exchange);
    w->exchange = NULL;
}

static void look(struct world *w)
{
    kd_exchange_look l;
    if (!w->exchange)
        return;
    kd_time_ms *done = kd_xalloc(w->cfg.slots * sizeof *done);
    kd_exchange_look_at(w->exchange, &l, done);
    to_core(w, &(kd_event){.kind = KD_EV_STEP,
                           .job = JOB,
                           .generation = w->opening,
                           .step = {.version = l.version,
                                    .since = l.since,
                                    .whole = l.whole,
                                    .want_state = l.want_state,
                                    .done_ms = done}});
    free(done);
}

static void set_manifest(struct world *w, uint64_t version)
{
    if (w->saved[1].version == version) {
        free(w->saved[0].vector);
        free(w->saved[0].state);
        w->saved[0] = w->saved[1];
        w->saved[1] = (struct checkpoint){0};
    }
    if (w->saved[0].version != version)
        broken(w, "a manifest names what is there", "version %llu", (unsigned long long)version);
    w->manifest = version;
    if (w->exchange)
        kd_exchange_manifest(w->exchange, version);
}

static void carry_out(struct world *w, const kd_action *act)
{
    switch (act->kind) {
    case KD_ACT_OPEN:
        open_exchange(w, act);
        break;
    case KD_ACT_LOOK:
        look(w);
        break;
    case KD_ACT_FENCE:
        w->out->reshapes++;
        if (w->exchange)
            kd_exchange_fence(w->exchange, act->begin.generation, act->begin.members,
                              w->actions.ranges + act->ranges[KD_RANGES_CHUNKS].at,
                              act->ranges[KD_RANGES_CHUNKS].n);
        break;
    case KD_ACT_SETTLE:
        if (w->exchange && !kd_exchange_settle(w->exchange, act->version, act->check, act->process))
            to_core(w, &(kd_event){.kind = KD_EV_ROLLBACK, .job = JOB, .text = "left already"});
        break;
    case KD_ACT_CLOSE:
        close_exchange(w);
        break;
    case KD_ACT_CHECKPOINT:
        if (w->exchange)
            kd_exchange_checkpoint(w->exchange);
        break;
    case KD_ACT_STATE:
        SAY(w, "job: %d %s", (int)act->state, act->text);
        w->state = act->state;
        break;
    case KD_ACT_STAGE_DONE:
        if (act->stage == 0) {
            if (w->manifest != w->cfg.steps + 1)
                broken(w, "a stage ends with its last version saved", "manifest %llu",
                       (unsigned long long)w->manifest);
            w->stage_done = true;
        }
        break;
    case KD_ACT_MANIFEST:
        set_manifest(w, act->version);
        break;
    case KD_ACT_EXPORT:
        post(w, &(kd_event){.kind = KD_EV_EXPORTED, .job = JOB, .stage = act->stage});
        break;
    case KD_ACT_NOTE:
        SAY(w, "note %s: %s (%llu)", act->word, act->text, (unsigned long long)act->member);
        if (strncmp(act->text, "quarantined", 11) == 0) {
            struct worker *k = worker_of(w, act->member);
            w->out->quarantined++;
            if (!k || k->index != w->cfg.odd_worker)
                broken(w, "only who is odd is quarantined", "worker %d", k ? k->index : -1);
        }
        break;
    default:
        send_control(w, act);
        break;
    }
}

static void to_core(struct world *w, const kd_event *ev)
{
    if (ev->kind == KD_EV_EVALUATED) {
        w->evaluations[ev->version] = true;
        w->evaluated = KD_MAX(w->evaluated, ev->version);
    }
    kd_core_handle(w->core, ev, (kd_time_ms)w->now, &w->actions);
    const char *wrong = kd_core_check(w->core);
    if (wrong)
        broken(w, "the core's own invariants", "%s", wrong);
    if (w->carrying)
        return;
    w->carrying = true;
    for (size_t i = 0; i < w->actions.count; i++) {
        kd_action act = w->actions.items[i];
        carry_out(w, &act);
    }
    kd_actions_clear(&w->actions);
    w->carrying = false;
}

static void on_tick(struct world *w, void *a, uint64_t b)
{
    (void)a;
    (void)b;
    for (int i = 0; i < w->n_workers && w->up; i++) {
        struct worker *k = &w->workers[i];
        if (!k->member)
            continue;
        if (k->alive && !k->stopped && !k->cut)
            k->heard = w->now;
        else if (w->now - k->heard > LEASE_MS)
            disconnect(k);
    }
    if (w->up)
        to_core(w, &(kd_event){.kind = KD_EV_TICK});
    at(w, w->now + TICK_MS, on_tick, NULL, 0);
}

static void start_coordinator(struct world *w)
{
    w->up = true;
    w->core = kd_core_new(++w->epoch);
    kd_core_job_setup setup = {.id = JOB,
                               .min_workers = w->cfg.min_workers,
                               .max_workers = w->cfg.max_workers,
                               .audit = w->cfg.audit,
                               .n_stages = 2,
                               .started = w->state == KD_RUN_RUNNING};
    setup.stages[0] = (kd_core_stage_setup){.kind = KD_CORE_TRAIN,
                                            .done = w->stage_done,
                                            .manifest = w->manifest,
                                            .evaluated = w->evaluated,
                                            .has_info = w->epoch > 1,
                                            .info = w->info};
    setup.stages[1] = (kd_core_stage_setup){.kind = KD_CORE_EXPORT, .manifest = 1};
    to_core(w, &(kd_event){.kind = KD_EV_SUBMIT, .setup = &setup});
}

static void on_restart(struct world *w, void *a, uint64_t b)
{
    (void)a;
    (void)b;
    if (!w->up)
        start_coordinator(w);
}

static void kill_coordinator(struct world *w)
{
    if (!w->up)
        return;
    SAY(w, "the coordinator dies");
    /* Nobody's actions: what was being carried out is lost with the process. */
    w->up = false;
    for (int i = 0; i < w->n_workers; i++) {
        struct worker *k = &w->workers[i];
        if (k->member) {
            k->member = 0;
            k->conn++;
            if (k->alive)
                at(w, w->now + 50 + draw(w, 300), on_connect, k, k->life);
        }
    }
    close_exchange(w);
    kd_core_free(w->core);
    w->core = NULL;
    kd_actions_clear(&w->actions);
    free(w->saved[1].vector);
    free(w->saved[1].state);
    w->saved[1] = (struct checkpoint){0};
    at(w, w->now + 20 + draw(w, 800), on_restart, NULL, 0);
}

/* ---- faults */

static void cut_journal(struct world *w)
{
    char command[256], path[256];
    snprintf(command, sizeof command, "ls -1 %s 2>/dev/null", w->dir);
    FILE *p = popen(command, "r");
    while (p && fgets(path, sizeof path, p)) {
        char whole[400];
        struct stat st;
        path[strcspn(path, "\n")] = '\0';
        snprintf(whole, sizeof whole, "%s/%s", w->dir, path);
        if (stat(whole, &st) == 0)
            (void)!truncate(whole, (off_t)kd_rng_below(&w->rng, (uint32_t)st.st_size + 1));
    }
    if (p)
        pclose(p);
}

enum fault { KILL, STOP, CUT, COORDINATOR, POWER, JOIN, DRAIN, SLOW, HEAL };

static void on_heal(struct world *w, void *a, uint64_t b)
{
    struct worker *k = a;
    if (b == KILL) { /* a new process in its place */
        k->alive = true;
        at(w, w->now + 1, on_connect, k, k->life);
        return;
    }
    SAY(w, "worker %d is well again", k->index);
    k->stopped = k->cut = false;
    k->slow = 1;
    /* Its stream broke meanwhile, or goes on. */
    if (!k->member)
        at(w, w->now + 1, on_connect, k, k->life);
    if (b == DRAIN && k->member && w->up)
        to_core(w, &(kd_event){.kind = KD_EV_DRAIN, .member = k->member, .stop = true});
    pump(k);
}

static void on_fault(struct world *w, void *a, uint64_t kind)
{
    struct worker *k = &w->workers[kd_rng_below(&w->rng, (uint32_t)w->n_workers)];
    (void)a;
    if (w->state >= KD_RUN_SUCCEEDED)
        return;
    SAY(w, "fault %d on worker %d", (int)kind, k->index);
    switch ((enum fault)kind) {
    case KILL:
        if (!k->alive)
            break;
        k->alive = false;
        k->life++;
        drop_stage(k);
        disconnect(k);
        at(w, w->now + 100 + draw(w, 1500), on_heal, k, KILL);
        break;
    case STOP:
        k->stopped = true;
        at(w, w->now + draw(w, 2500), on_heal, k, STOP);
        break;
    case CUT:
        k->cut = true;
        at(w, w->now + draw(w, 2500), on_heal, k, CUT);
        break;
    case COORDINATOR:
        if (kd_rng_below(&w->rng, 2))
            w->sums_to_live = 1 + kd_rng_below(&w->rng, 2 * w->cfg.chunks);
        else
            kill_coordinator(w);
        break;
    case POWER:
        if (w->up) {
            kill_coordinator(w);
            cut_journal(w);
            w->power_failed = true;
        }
        break;
    case DRAIN:
        if (k->member && w->up)
            to_core(w, &(kd_event){.kind = KD_EV_DRAIN, .member = k->member});
        at(w, w->now + draw(w, 1500), on_heal, k, DRAIN);
        break;
    case SLOW:
        k->slow = 2 + draw(w, 10);
        at(w, w->now + draw(w, 3000), on_heal, k, SLOW);
        break;
    case JOIN:
    case HEAL:
        break;
    }
}

static void on_join(struct world *w, void *a, uint64_t b)
{
    struct worker *k = a;
    (void)b;
    k->alive = true;
    on_connect(w, k, k->life);
}

void kd_sim_draw(uint64_t seed, kd_sim_config *out)
{
    kd_rng r;
    kd_rng_init(&r, seed, KD_RNG_TEST, 1, 0);
    uint32_t slots = 1u << kd_rng_below(&r, 5);
    *out = (kd_sim_config){.seed = seed,
                           .workers = 1 + (int)kd_rng_below(&r, 6),
                           .threads = 1 + (int)kd_rng_below(&r, 3),
                           .slots = slots,
                           .chunks = 1 + kd_rng_below(&r, 6),
                           .steps = 6 + kd_rng_below(&r, 20),
                           .eval_steps = 2 + kd_rng_below(&r, 7),
                           .checkpoint_every = 1 + kd_rng_below(&r, 9),
                           .min_workers = 1,
                           .max_workers = 8,
                           .clip_norm = kd_rng_below(&r, 3) == 0 ? 1.5 : 0,
                           .average = kd_rng_below(&r, 3) == 0,
                           .odd_worker = -1};
    if (out->workers > 2 && kd_rng_below(&r, 4) == 0)
        out->min_workers = 2;
    if (kd_rng_below(&r, 3) > 0)
        out->worker_kills = (int)kd_rng_below(&r, 5);
    if (kd_rng_below(&r, 2))
        out->worker_stops = (int)kd_rng_below(&r, 3);
    if (kd_rng_below(&r, 2))
        out->partitions = (int)kd_rng_below(&r, 3);
    if (kd_rng_below(&r, 2))
        out->coordinator_kills = (int)kd_rng_below(&r, 4);
    if (kd_rng_below(&r, 4) == 0)
        out->power_failures = 1 + (int)kd_rng_below(&r, 2);
    if (kd_rng_below(&r, 3) == 0)
        out->joins = (int)kd_rng_below(&r, 4);
    if (kd_rng_below(&r, 3) == 0)
        out->drains = 1 + (int)kd_rng_below(&r, 2);
    if (kd_rng_below(&r, 3) == 0)
        out->slow_starts = 1 + (int)kd_rng_below(&r, 3);
    if (kd_rng_below(&r, 4) == 0)
        out->audit = 0.3;
    if (kd_rng_below(&r, 3) == 0)
        out->loss = 0.03;
    if (out->workers >= 4 && kd_rng_below(&r, 4) == 0) {
        /* To be found it needs three others who stay. */
        out->odd_worker = 1;
        out->audit = 1;
        out->worker_kills = out->worker_stops = out->partitions = out->drains = out->joins = 0;
    }
}

static void faults(struct world *w, int n, enum fault kind, double until)
{
    for (int i = 0; i < n; i++)
        at(w, 100 + draw(w, until), on_fault, NULL, kind);
}

static void free_event(struct event *e)
{
    if (e->fn == on_loop)
        free((void *)((kd_event *)e->a)->step.done_ms);
    if (e->fn == on_saved) {
        free(((struct checkpoint *)e->a)->vector);
        free(((struct checkpoint *)e->a)->state);
    }
    if (e->fn == on_request || e->fn == on_reply || e->fn == on_evaluated)
        kd_rpc_call_unref(e->a);
    else if (e->fn == on_loop || e->fn == on_control || e->fn == on_ready || e->fn == on_saved)
        free(e->a);
}

static void tear_down(struct world *w)
{
    w->up = false;
    close_exchange(w);
    kd_core_free(w->core);
    kd_actions_clear(&w->actions);
    while (w->n_heap > 0) {
        struct event e = pop(w);
        free_event(&e);
    }
    for (int i = 0; i < w->n_workers; i++) {
        if (w->workers[i].state == HOLDS)
            drop_stage(&w->workers[i]);
        free(w->workers[i].digests);
    }
    for (int i = 0; i < 2; i++) {
        free(w->saved[i].vector);
        free(w->saved[i].state);
    }
    for (uint64_t t = 1; t <= w->cfg.steps + 1; t++)
        free(w->truth[t]);
    for (uint64_t t = 1; t <= w->cfg.steps; t++)
        free(w->truth_sums[t]);
    free(w->truth_sums);
    free(w->evaluations);
    free(w->truth_scale);
    free(w->truth);
    free(w->initial);
    free(w->workers);
    free(w->control_at);
    free(w->heap);
    kd_diag diag = {0};
    (void)!kd_file_remove_tree(w->dir, &diag);
}

void kd_sim_run(const kd_sim_config *cfg, kd_sim_result *out)
{
    struct world w = {.cfg = *cfg, .out = out, .manifest = 1, .committed = 1};
    *out = (kd_sim_result){0};
    kd_rng_init(&w.rng, cfg->seed, KD_RNG_TEST, 2, 0);
    w.floats = (size_t)cfg->chunks * CHUNK_FLOATS - (cfg->chunks > 1 ? 1 : 0);
    w.vectors = cfg->average ? 2 : 1;
    w.info = (kd_core_stage_info){.identity = kd_digest_of("sim", 3),
                                  .last_version = cfg->steps + 1,
                                  .eval_steps = cfg->eval_steps,
                                  .slots = cfg->slots,
                                  .chunks = cfg->chunks};
    snprintf(w.dir, sizeof w.dir, "%s/kd-sim-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    KD_BUG_ON(!mkdtemp(w.dir));
    w.initial = kd_xalloc(w.floats * sizeof *w.initial);
    for (size_t i = 0; i < w.floats; i++)
        w.initial[i] = noise(0, 0, i);
    compute_truth(&w);
    w.evaluations = kd_xalloc((cfg->steps + 2) * sizeof *w.evaluations);
    w.n_workers = cfg->workers + cfg->joins;
    w.workers = kd_xalloc((size_t)w.n_workers * sizeof *w.workers);
    w.control_at = kd_xalloc((size_t)w.n_workers * sizeof *w.control_at);
    start_coordinator(&w);
    double busy = 400 + (double)cfg->steps * UNIT_MS *
                            ceil((double)cfg->slots / (cfg->workers * cfg->threads)) * 1.5;
    for (int i = 0; i < w.n_workers; i++) {
        struct worker *k = &w.workers[i];
        *k = (struct worker){.world = &w, .index = i, .life = 1, .slow = 1, .members = 1};
        k->odd = i == cfg->odd_worker;
        if (i == 0 && cfg->slow_worker > 0)
            k->slow = cfg->slow_worker;
        k->digests = kd_xalloc((size_t)cfg->slots * cfg->chunks * sizeof *k->digests);
        at(&w, i < cfg->workers ? 1 + draw(&w, 5) : 200 + draw(&w, busy), on_join, k, 0);
    }
    faults(&w, cfg->worker_kills, KILL, busy);
    faults(&w, cfg->worker_stops, STOP, busy);
    faults(&w, cfg->partitions, CUT, busy);
    faults(&w, cfg->coordinator_kills, COORDINATOR, busy);
    faults(&w, cfg->power_failures, POWER, busy);
    faults(&w, cfg->drains, DRAIN, busy);
    faults(&w, cfg->slow_starts, SLOW, busy);
    at(&w, TICK_MS, on_tick, NULL, 0);
    while (!out->broken && w.state < KD_RUN_SUCCEEDED) {
        struct event e = pop(&w);
        w.now = e.time;
        e.fn(&w, e.a, e.b);
        if (w.now - w.last_progress > 60000 || w.now > LONGEST_MS)
            broken(&w, "a job goes on", "nothing was committed since %.0f ms, version %llu",
                   w.last_progress, (unsigned long long)w.committed);
    }
    if (w.exchange && out->broken && cfg->verbose) {
        kd_exchange_look l;
        kd_time_ms done[KD_MAX_SLOTS];
        kd_exchange_look_at(w.exchange, &l, done);
        printf("coordinator: version %llu%s, %u audits missing%s, units done at",
               (unsigned long long)l.version, l.whole ? " whole" : "", l.audits,
               l.disputed ? ", disputed" : "");
        for (uint32_t s = 0; s < cfg->slots; s++)
            printf(" %lld", (long long)done[s]);
        printf("; audited");
        for (uint32_t s = 0; s < cfg->slots; s++)
            if (kd_core_audits(cfg->audit, JOB, 0, l.version, s))
                printf(" %u", s);
        printf("\n");
    }
    for (int i = 0; i < w.n_workers && out->broken && cfg->verbose; i++) {
        const struct worker *k = &w.workers[i];
        char text[600] = "";
        if (k->part)
            kd_part_describe(k->part, text, sizeof text);
        printf(
            "worker %d: alive %d stopped %d cut %d member %llu round_left %d evaluates %llu; %s\n",
            i, k->alive, k->stopped, k->cut, (unsigned long long)k->member, k->round_left,
            (unsigned long long)k->evaluate, text);
    }
    out->virtual_ms = w.now;
    if (!out->broken && w.state != KD_RUN_SUCCEEDED)
        broken(&w, "a job succeeds", "state %d", (int)w.state);
    for (uint64_t v = 2; v <= w.cfg.steps + 1 && !out->broken; v++)
        if (border(&w, v) && !w.evaluations[v])
            broken(&w, "no evaluation is lost", "version %llu", (unsigned long long)v);
    if (!out->broken)
        check_vector(&w, w.saved[0].vector, w.cfg.steps + 1, "the last checkpoint");
    tear_down(&w);
}

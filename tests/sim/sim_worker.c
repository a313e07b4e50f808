/* The virtual worker: the real part, with units that take time and gradients that are hashes. */
#include "sim_internal.h"

#include "wire/wire.h"

#define EVAL_MS 90

static const char *const g_kinds[] = {[KD_TODO_SLICE] = "slice",
                                      [KD_TODO_SUM] = "sum of step",
                                      [KD_TODO_BASE] = "base",
                                      [KD_TODO_PUBLISH] = "publish",
                                      [KD_TODO_PUSH] = "push of step"};

/* Set in an earlier life it is as good. */
static void on_wake(struct world *w, void *a, uint64_t b)
{
    struct worker *k = a;
    (void)w;
    (void)b;
    k->awake = false;
    sim_pump(k);
}

static bool runs(const struct worker *k)
{
    return k->alive && !k->stopped && k->state == HOLDS;
}

static bool sum_is_right(const struct world *w, const kd_todo *t, const uint8_t *payload,
                         size_t len)
{
    const float *truth = w->truth_sums[t->version] + t->first;
    uint16_t halves[CHUNK_FLOATS];
    kd_bfloat16_pack(truth, t->floats, halves);
    size_t want = t->floats * (w->cfg.bfloat16 ? sizeof *halves : sizeof *truth);
    return len == want && memcmp(payload, w->cfg.bfloat16 ? (void *)halves : truth, len) == 0;
}

/* The answer to what the part asked for. */
static void tell_part(struct worker *k, const kd_rpc_call *c)
{
    struct world *w = k->world;
    const kd_todo *t = &c->todo;
    kd_outcome o = {.code = c->code, .scale = 1};
    ProtobufCMessage *m = NULL;
    kd_diag diag = {0};
    const uint8_t *payload = NULL;
    size_t len = 0;
    if (c->code == 0 && t->kind == KD_TODO_SUM) {
        KD_BUG_ON(kd_wire_unpack_bulk(&distill__v1__sum_chunk__descriptor, c->reply, c->reply_len,
                                      &m, &payload, &len, &diag) != 0);
        o.scale = ((Distill__V1__SumChunk *)m)->scale;
        o.checkpoint = ((Distill__V1__SumChunk *)m)->checkpoint;
    } else if (c->code == 0 && t->kind == KD_TODO_PUBLISH) {
        KD_BUG_ON(kd_wire_unpack(&distill__v1__publish_reply__descriptor, c->reply, c->reply_len,
                                 &m, &diag) != 0);
        o.want_state = ((Distill__V1__PublishReply *)m)->want_state;
    } else if (c->code == 0 && t->kind != KD_TODO_PUSH) {
        KD_BUG_ON(kd_wire_unpack_bulk(&distill__v1__slice_chunk__descriptor, c->reply, c->reply_len,
                                      &m, &payload, &len, &diag) != 0);
        o.version = ((Distill__V1__SliceChunk *)m)->version;
    }
    o.data = payload;
    if (o.code == 0 && t->kind == KD_TODO_SUM &&
        (o.scale != w->truth_scale[t->version] || !sum_is_right(w, t, payload, len)))
        sim_broken(w, "sums are right", "step %llu chunk %u to worker %d",
                   (unsigned long long)t->version, t->chunk, k->index);
    if (t->kind == KD_TODO_BASE && o.code == 0)
        w->out->rebuilt++;
    w->out->refused += o.code != 0;
    SAY(w, "worker %d is told %d: %s %llu, chunk %u", k->index, o.code, g_kinds[t->kind],
        (unsigned long long)t->version, t->chunk);
    int rc = kd_part_tell(k->part, t, &o, (kd_time_ms)w->now);
    if (rc != 0)
        sim_broken(w, "no call is refused for ever", "worker %d: kind %d, code %d", k->index,
                   (int)t->kind, rc);
    kd_wire_free(m);
}

void sim_on_reply(struct world *w, void *a, uint64_t b)
{
    kd_rpc_call *c = a;
    struct worker *k = c->worker;
    (void)b;
    if (k->life == c->life && k->alive && k->stopped) {
        sim_call_at(c, w->now + 100, sim_on_reply); /* it waits in the socket */
        return;
    }
    if (k->life == c->life && k->parts == c->parts && runs(k)) {
        if (c->gather_unit < 0)
            tell_part(k, c);
        else if (c->code != 0 && c->version == k->evaluate)
            k->evaluated[c->gather_unit] = false;
        sim_pump(k);
        /* Some chunks' sums are out and others are not: few moments have as many cases. */
        if (c->code == 0 && c->gather_unit < 0 && c->todo.kind == KD_TODO_SUM &&
            w->sums_to_live > 0 && --w->sums_to_live == 0)
            sim_kill_coordinator(w);
    }
    kd_rpc_call_unref(c);
}

static void send_part_call(struct worker *k, const kd_todo *t)
{
    struct world *w = k->world;
    kd_rpc_call *c = sim_call_new(k);
    c->todo = *t;
    if (t->kind == KD_TODO_PUSH) {
        c->floats = t->floats;
        c->payload = kd_xalloc(c->floats * sizeof(float));
        if (t->bfloat16)
            kd_bfloat16_pack(t->data, c->floats, (uint16_t *)(void *)c->payload);
        else
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
            sim_broken(w, "published slices are right", "version %llu chunk %u of worker %d",
                       (unsigned long long)t->version, t->chunk, k->index);
    }
    sim_call_start(c);
}

static void on_unit(struct world *w, void *a, uint64_t b)
{
    struct worker *k = a;
    uint32_t slot = (uint32_t)(b & 0xffff);
    if (b >> 16 != k->round_number)
        return;
    if (k->alive && k->stopped) {
        sim_at(w, w->now + 50, on_unit, a, b);
        return;
    }
    if (!runs(k))
        return;
    k->round_left--;
    float *gradient = kd_reducer_take(k->reducer);
    uint64_t step = kd_part_version(k->part);
    kd_tree_sums sums = {.loss = 1.0 / (1 + slot), .samples = 1}, node_sums;
    sim_gradient(w, kd_part_vector(k->part), step, slot, gradient);
    if (k->odd && kd_rng_below(&w->rng, 3) == 0)
        gradient[kd_rng_below(&w->rng, (uint32_t)w->floats)] +=
            (float)(1 + kd_rng_below(&w->rng, 200)) * (w->cfg.bfloat16 ? 1 : 1e-3f);
    if (w->cfg.bfloat16)
        kd_bfloat16_round(gradient, w->floats);
    uint32_t own[KD_MAX_SLOTS], *leaves = k->round_checks ? own : k->digests + slot * w->cfg.chunks;
    for (uint32_t c = 0; c < w->cfg.chunks; c++)
        leaves[c] =
            kd_crc32c(0, gradient + c * CHUNK_FLOATS, sim_chunk_len(w, c) * sizeof *gradient);
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
    sim_pump(k);
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
        sim_at(w, w->now + UNIT_MS * turn * k->slow * (0.9 + sim_random(w, 0.2)), on_unit, k,
               k->round_number << 16 | (k->round.first + i));
    }
}

/* The unit is evaluated, if its worker still lives. */
static void on_evaluated(struct world *w, void *a, uint64_t b)
{
    kd_rpc_call *c = a;
    (void)w;
    (void)b;
    if (c->life == c->worker->life)
        sim_call_start(c);
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
        kd_rpc_call *c = sim_call_new(k);
        uint32_t n = KD_MIN(KD_EVAL_UNIT, VAL_SAMPLES - u * KD_EVAL_UNIT);
        c->gather_unit = (int)u;
        c->version = version;
        c->floats = n * KD_EVAL_COLUMNS;
        c->payload = kd_xalloc(c->floats * sizeof(float));
        for (size_t i = 0; i < c->floats; i++)
            c->payload[i] = kd_part_vector(k->part)[i % w->floats];
        sim_call_at(c, w->now + EVAL_MS * k->slow, on_evaluated);
    }
}

void sim_pump(struct worker *k)
{
    struct world *w = k->world;
    kd_todo t;
    int wait_ms = -1;
    if (!runs(k))
        return;
    for (;;) {
        if (kd_part_next(k->part, (kd_time_ms)w->now, &t, &wait_ms)) {
            if (t.kind == KD_TODO_APPLY) {
                sim_update(w, t.floats, t.slice, t.state, t.sum, t.scale);
                if (memcmp(t.slice, w->truth[t.version + 1] + t.first, t.floats * sizeof(float)))
                    sim_broken(w, "updates are right", "version %llu chunk %u of worker %d",
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
        sim_check_vector(w, kd_part_vector(k->part), version, "a worker");
        if (sim_border(w, version)) {
            if (k->evaluate != version)
                memset(k->evaluated, 0, sizeof k->evaluated);
            k->evaluate = version;
        }
    }
    send_evaluation(k);
    start_round(k);
    if (!k->awake) {
        k->awake = true;
        sim_at(w, w->now + (wait_ms < 0 ? 200 : wait_ms + 1), on_wake, k, 0);
    }
}

void sim_drop_stage(struct worker *k)
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

/* ---- what the coordinator asks of it */

static void prepare(struct worker *k, const struct control *m)
{
    struct world *w = k->world;
    if (k->state == EMPTY) {
        kd_part_shape shape = {.floats = w->floats,
                               .slots = w->cfg.slots,
                               .chunk_floats = CHUNK_FLOATS,
                               .chunks = w->cfg.chunks,
                               .state_vectors = w->vectors,
                               .bfloat16 = w->cfg.bfloat16,
                               .initial = w->initial};
        k->part = kd_part_new(&shape);
        k->reducer = kd_reducer_new(w->cfg.slots, w->floats, w->cfg.bfloat16);
        k->state = HOLDS;
    }
    sim_send_answer(m, &(kd_event){.kind = KD_EV_READY,
                                   .member = k->member,
                                   .job = JOB,
                                   .stage = m->action.stage,
                                   .info = w->info});
}

static void begin(struct worker *k, const struct control *m)
{
    struct world *w = k->world;
    const kd_begin *g = &m->action.begin;
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
                       .n_slots = m->action.ranges[KD_RANGES_SLOTS].n,
                       .n_chunks = m->action.ranges[KD_RANGES_CHUNKS].n,
                       .n_units = m->action.ranges[KD_RANGES_UNITS].n};
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
    sim_pump(k);
}

static void add_units(struct worker *k, const struct control *m)
{
    struct world *w = k->world;
    const kd_action *act = &m->action;
    SAY(w, "worker %d: unit %u of step %llu%s", k->index, m->ranges[KD_RANGES_UNITS][0].first,
        (unsigned long long)act->version, act->check ? ", to be compared" : "");
    kd_part_add_units(k->part, act->version, (kd_span *)m->ranges[KD_RANGES_UNITS],
                      act->ranges[KD_RANGES_UNITS].n, act->check);
    sim_pump(k);
}

void sim_on_control(struct world *w, void *a, uint64_t b)
{
    struct control *m = a;
    struct worker *k = m->worker;
    (void)b;
    struct stream *s = &w->control[k->index];
    bool waits = k->life == m->life && k->alive && (k->stopped || k->cut) && k->conn == m->conn;
    if (waits || m->number != s->done) {
        s->at = KD_MAX(s->at, w->now + 10) + 0.01;
        sim_control_at(m, s->at, sim_on_control);
        return;
    }
    s->done++;
    if (k->life == m->life && k->conn == m->conn && k->alive) {
        enum kd_action_kind kind = m->action.kind;
        if (kind == KD_ACT_PREPARE)
            prepare(k, m);
        else if (kind == KD_ACT_RELEASE && k->ends)
            sim_kill_worker(k);
        else if (kind == KD_ACT_RELEASE && k->state == HOLDS)
            sim_drop_stage(k);
        else if (kind == KD_ACT_BEGIN && k->state == HOLDS)
            begin(k, m);
        else if (kind == KD_ACT_UNITS && k->state == HOLDS)
            add_units(k, m);
    }
    free(m);
}

/* The virtual network: calls, which may get lost, and control streams, which are in order. */
#include "sim_internal.h"

#include "wire/wire.h"

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

static void drop_call(void *call)
{
    kd_rpc_call_unref(call);
}

void sim_call_at(kd_rpc_call *c, double time, event_fn fn)
{
    sim_at_owning(c->world, time, fn, c, 0, drop_call);
}

/* The answer leaves the coordinator; it may get lost, which the caller sees as a broken call. */
static void answer_leaves(kd_rpc_call *c, int code)
{
    struct world *w = c->world;
    if (c->over)
        return;
    c->over = true;
    c->code = code;
    if (sim_random(w, 1) < w->cfg.loss || c->worker->cut)
        c->code = -KD_EUNAVAIL;
    sim_call_at(kd_rpc_call_ref(c), w->now + 0.2 + sim_random(w, 3), sim_on_reply);
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

struct kd_rpc_shared {
    uint8_t *bytes;
    size_t len;
};

kd_rpc_shared *kd_rpc_shared_new(const struct iovec *parts, int n_parts)
{
    kd_rpc_shared *m = kd_xalloc(sizeof *m);
    for (int i = 0; i < n_parts; i++)
        m->len += parts[i].iov_len;
    m->bytes = kd_xalloc(m->len + 1);
    for (size_t i = 0, at = 0; i < (size_t)n_parts; at += parts[i++].iov_len)
        memcpy(m->bytes + at, parts[i].iov_base, parts[i].iov_len);
    return m;
}

void kd_rpc_shared_free(kd_rpc_shared *m)
{
    if (m)
        free(m->bytes);
    free(m);
}

void kd_rpc_reply_shared(kd_rpc_call *c, const kd_rpc_shared *m)
{
    kd_rpc_reply(c, &(struct iovec){m->bytes, m->len}, 1);
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
    if (!w->up || c->epoch != w->epoch || c->worker->cut || sim_random(w, 1) < w->cfg.loss) {
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
        size_t len = c->floats * (t->bfloat16 ? sizeof(uint16_t) : sizeof(float));
        m.crc32c = kd_crc32c(0, c->payload, len);
        kd_exchange_push(w->exchange, c, &m, (uint8_t *)c->payload, len);
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

kd_rpc_call *sim_call_new(struct worker *k)
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

void sim_call_start(kd_rpc_call *c)
{
    struct world *w = c->world;
    if (c->worker->cut || !w->up) {
        c->over = true;
        c->code = -KD_EUNAVAIL;
        sim_call_at(c, w->now + 20, sim_on_reply);
        return;
    }
    sim_call_at(c, w->now + 0.2 + sim_random(w, 3), on_request);
}

/* ---- the control stream */

void sim_control_at(struct control *m, double time, event_fn fn)
{
    sim_at_owning(m->worker->world, time, fn, m, 0, free);
}

static void on_answer(struct world *w, void *a, uint64_t b)
{
    struct control *m = a;
    struct worker *k = m->worker;
    (void)b;
    if (k->cut && k->member == m->member) {
        sim_control_at(m, w->now + 10, on_answer); /* it waits in the stream */
        return;
    }
    if (w->up && m->epoch == w->epoch && k->member == m->member && !k->cut)
        sim_to_core(w, &m->event);
    free(m);
}

void sim_send_answer(const struct control *asked, const kd_event *ev)
{
    struct worker *k = asked->worker;
    struct control *m = kd_xalloc(sizeof *m);
    m->worker = k;
    m->epoch = asked->epoch;
    m->member = k->member;
    m->event = *ev;
    sim_control_at(m, k->world->now + 5 + sim_random(k->world, 40), on_answer);
}

struct worker *sim_worker_of(struct world *w, kd_member_id member)
{
    for (int i = 0; i < w->n_workers; i++)
        if (w->workers[i].member == member)
            return &w->workers[i];
    return NULL;
}

void sim_send_control(struct world *w, const kd_action *act)
{
    struct worker *k = sim_worker_of(w, act->member);
    if (!k)
        return;
    struct control *m = kd_xalloc(sizeof *m);
    *m = (struct control){.worker = k, .life = k->life, .conn = k->conn, .epoch = w->epoch};
    m->action = *act;
    for (int i = 0; i < KD_RANGES_KINDS; i++)
        if (act->ranges[i].n)
            memcpy(m->ranges[i], w->actions.ranges + act->ranges[i].at,
                   act->ranges[i].n * sizeof(kd_range));
    struct stream *s = &w->control[k->index];
    m->number = s->sent++;
    const double at = w->now + 0.2 + sim_random(w, 4);
    s->at = KD_MAX(at, s->at + 0.01);
    sim_control_at(m, s->at, sim_on_control);
}

void sim_on_connect(struct world *w, void *a, uint64_t life)
{
    struct worker *k = a;
    if (k->life != life || !k->alive || k->member)
        return;
    if (!w->up || k->cut || k->stopped) {
        sim_at(w, w->now + 100 + sim_random(w, 200), sim_on_connect, a, life);
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
    sim_to_core(w, &ev);
}

void sim_disconnect(struct worker *k)
{
    struct world *w = k->world;
    kd_member_id member = k->member;
    k->member = 0;
    k->conn++;
    if (k->alive)
        sim_at(w, w->now + 50 + sim_random(w, 300), sim_on_connect, k, k->life);
    if (member && w->up)
        sim_to_core(w, &(kd_event){.kind = KD_EV_LOST, .member = member, .text = "gone"});
}

/* The step flow of a worker: does what its part (part.h) asks for, runs the units that it has, and
 * listens to the coordinator meanwhile. */
#include "runner_internal.h"

#include "kd/bfloat16.h"
#include "kd/clock.h"
#include "kd/failpoint.h"
#include "kd/hash.h"
#include "kd/text.h"
#include "wire/limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RETRY_MS 100
/* A worker that hears for so long that something else is going on, and not what, says so. */
#define STALE_MS 60000
#define LONGEST_WAIT_MS 100 /* evaluations that were held back are looked at again */

bool kd_runner_stopped(void *arg)
{
    kd_runner *r = arg;
    if (atomic_load(&r->cancel))
        return true;
    pthread_mutex_lock(&r->mu);
    bool over = r->over || r->leaving;
    pthread_mutex_unlock(&r->mu);
    return over;
}

bool kd_runner_refused(kd_runner *r, int rc, const kd_diag *diag)
{
    if (rc != 0 && rc != -KD_ECANCELED) {
        pthread_mutex_lock(&r->mu);
        kd_runner_give_up(r, diag->msg);
        pthread_mutex_unlock(&r->mu);
    }
    return rc != 0 || kd_runner_stopped(r);
}

/* ---- calls under way */

struct call {
    kd_runner *r;
    uint64_t part; /* kd_runner.part_number when it was started */
    bool values;   /* AwaitValues of step todo.version; else what the part asked for */
    kd_todo todo;
};

/* Answers of a length that is not what was asked for are nothing to repeat. */
static int check_length(const kd_runner *r, const struct call *c, const kd_exchange_answer *a)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    bool halves = c->todo.kind == KD_TODO_SUM && c->todo.bfloat16;
    size_t want = c->todo.floats * (halves ? sizeof(uint16_t) : sizeof(float));
    if (c->values)
        want = (size_t)h->slots * h->slot_batch * h->value_columns * sizeof(float);
    else if (c->todo.kind == KD_TODO_BASE)
        want *= 1 + (size_t)h->state_vectors;
    else if (c->todo.kind != KD_TODO_SLICE && c->todo.kind != KD_TODO_SUM)
        return a->code;
    /* What was asked for may have been spoilt on the way. */
    if (a->code == 0 && !c->values &&
        (a->chunk != c->todo.chunk ||
         (c->todo.kind == KD_TODO_SUM && a->version != c->todo.version)))
        return -KD_EDATA;
    return a->code == 0 && a->len != want ? -KD_EINTERNAL : a->code;
}

/* On gRPC's threads. */
static void on_answer(void *arg, const kd_exchange_answer *a)
{
    struct call *c = arg;
    kd_runner *r = c->r;
    pthread_mutex_lock(&r->mu);
    if (c->part == r->part_number && r->part) {
        int code = check_length(r, c, a);
        if (c->values) {
            r->values_asked = false;
            r->values_retry_at = code ? kd_clock_ms() + RETRY_MS : 0;
            if (code == 0 && c->todo.version == kd_part_version(r->part)) {
                memcpy(r->values, a->payload, a->len);
                r->values_there = true;
            } else if (code != 0 && !kd_part_again(code) && code != -KD_ESTALE) {
                kd_runner_give_up(r, a->text);
            }
        } else {
            kd_outcome o = {code, a->payload, a->version, a->checkpoint, a->want_state, a->scale};
            if (kd_part_tell(r->part, &c->todo, &o, kd_clock_ms()) != 0)
                kd_runner_give_up(r, a->text);
        }
    }
    r->calls--;
    kd_runner_wake(r);
    pthread_mutex_unlock(&r->mu);
    free(c);
}

static struct call *new_call(kd_runner *r)
{
    struct call *c = kd_xalloc(sizeof *c);
    c->r = r;
    c->part = r->part_number;
    return c;
}

/* The channel is closed, or there is no memory for a call. */
static void check_start(struct call *c, int rc)
{
    if (rc != 0)
        on_answer(c, &(kd_exchange_answer){.code = rc == -KD_ENOMEM ? rc : -KD_EUNAVAIL,
                                           .text = "the call could not be started"});
}

static int start_publish(kd_runner *r, struct call *c)
{
    const kd_todo *t = &c->todo;
    size_t vectors = t->with_state ? (size_t)kd_stage_shape_of(r->stage)->state_vectors : 0;
    if (vectors == 0)
        return kd_exchange_publish(r->cfg.channel, &r->ref, t->version, t->chunk, t->data,
                                   t->floats, t->with_state, on_answer, c);
    size_t floats = (1 + vectors) * t->floats;
    float *both = malloc(floats * sizeof *both);
    if (!both)
        return -KD_ENOMEM;
    memcpy(both, t->data, t->floats * sizeof *both);
    memcpy(both + t->floats, t->state, vectors * t->floats * sizeof *both);
    int rc = kd_exchange_publish(r->cfg.channel, &r->ref, t->version, t->chunk, both, floats, true,
                                 on_answer, c);
    free(both);
    return rc;
}

static void apply(kd_runner *r, const kd_todo *t)
{
    KD_FAILPOINT("worker.apply");
    kd_optim_apply(kd_stage_optim(r->stage), kd_stage_graph(r->stage), t->version - 1, t->first,
                   t->floats, t->slice, t->sum, t->scale, t->state);
    pthread_mutex_lock(&r->mu);
    kd_part_applied(r->part, t->chunk);
    pthread_mutex_unlock(&r->mu);
}

/* Under no lock, on the runner's thread. */
static void perform(kd_runner *r, const kd_todo *t)
{
    if (t->kind == KD_TODO_APPLY) {
        apply(r, t);
        return;
    }
    struct call *c = new_call(r);
    c->todo = *t;
    r->ref.process = r->cfg.process;
    r->ref.generation = t->generation;
    int rc = -KD_EINTERNAL;
    pthread_mutex_lock(&r->mu);
    r->calls++;
    pthread_mutex_unlock(&r->mu);
    switch (t->kind) {
    case KD_TODO_SLICE:
        rc = kd_exchange_await_slice(r->cfg.channel, &r->ref, t->version, t->chunk, on_answer, c);
        break;
    case KD_TODO_SUM:
        rc = kd_exchange_await_sum(r->cfg.channel, &r->ref, t->version, t->chunk, on_answer, c);
        break;
    case KD_TODO_BASE:
        rc = kd_exchange_fetch_state(r->cfg.channel, &r->ref, 0, t->chunk, on_answer, c);
        break;
    case KD_TODO_PUBLISH:
        KD_FAILPOINT("worker.publish");
        rc = start_publish(r, c);
        break;
    case KD_TODO_PUSH:
        KD_FAILPOINT("worker.push");
        rc = kd_exchange_push(r->cfg.channel, &r->ref, t, 2 * kd_stage_shape_of(r->stage)->n_terms,
                              on_answer, c);
        break;
    case KD_TODO_APPLY:
        break;
    }
    check_start(c, rc);
}

/* ---- units of a step */

static void report(kd_runner *r, int rc, const kd_diag *diag)
{
    kd_runner_problem(r, rc == -KD_EDATA ? "NON_FINITE" : "INTERNAL", diag->msg);
}

static void unit_over(kd_runner *r)
{
    pthread_mutex_lock(&r->mu);
    r->round_left--;
    kd_runner_wake(r);
    pthread_mutex_unlock(&r->mu);
}

static uint32_t first_slot_of(uint32_t node, uint32_t slots)
{
    while (node < slots)
        node *= 2;
    return node - slots;
}

static void hand_in(kd_runner *r, uint32_t node, const float *gradient, const kd_tree_sums *sums,
                    const uint32_t *leaves, bool check)
{
    pthread_mutex_lock(&r->mu);
    kd_part_push(r->part, node, gradient, sums, leaves, check);
    pthread_mutex_unlock(&r->mu);
}

static void leaf_digests(const kd_stage_shape *h, const float *gradient, uint32_t *out)
{
    for (uint32_t k = 0; k < h->chunks; k++) {
        size_t first = (size_t)k * h->chunk_floats;
        size_t n = KD_MIN((size_t)h->chunk_floats, h->floats - first);
        out[k] = kd_crc32c(0, gradient + first, n * sizeof *gradient);
    }
}

static void compute_unit(kd_runner *r, int item, int thread)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    uint32_t slot = r->round.first + (uint32_t)item;
    kd_diag diag = {0};
    kd_tree_sums sums, node_sums;
    float *gradient = kd_reducer_take(r->reducer);
    const float *teacher = r->teaching ? kd_teaching_rows(r->teaching, (uint32_t)item) : NULL;
    int rc = gradient ? kd_stage_unit(r->stage, thread, r->step, slot, r->vector, r->tag, teacher,
                                      r->stats, gradient, &sums, &diag)
                      : kd_fail(&diag, -KD_ENOMEM, "no memory for a gradient");
    if (rc != 0) {
        if (gradient)
            kd_reducer_give(r->reducer, gradient);
        report(r, rc, &diag);
        return;
    }
    atomic_fetch_add(&r->units, 1);
    if (h->bfloat16)
        kd_bfloat16_round(gradient, h->floats);
    uint32_t node = h->slots + slot;
    uint32_t *leaves = (r->round_checks ? r->check_digests : r->digests) + (size_t)slot * h->chunks;
    leaf_digests(h, gradient, leaves);
    if (r->round_checks) {
        hand_in(r, node, gradient, &sums, leaves, true);
        return;
    }
    float *whole = kd_reducer_add(r->reducer, slot, gradient, &sums, &node, &node_sums);
    if (whole)
        hand_in(r, node, whole, &node_sums,
                r->digests + (size_t)first_slot_of(node, h->slots) * h->chunks, false);
}

static void run_unit(void *arg, int item, int thread)
{
    kd_runner *r = arg;
    if (!atomic_load(&r->cancel))
        compute_unit(r, item, thread);
    unit_over(r);
}

/* A loss that couples the whole batch: values first, gradients after. */
static void run_values(void *arg, int item, int thread)
{
    kd_runner *r = arg;
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    size_t floats = (size_t)h->slot_batch * h->value_columns;
    uint32_t slot = r->round.first + (uint32_t)item;
    float *values = r->own_values + slot * floats;
    kd_diag diag = {0};
    int rc = atomic_load(&r->cancel)
                 ? -KD_ECANCELED
                 : kd_stage_values(r->stage, thread, r->step, slot, r->vector, r->tag,
                                   kd_teaching_rows(r->teaching, (uint32_t)item), values, &diag);
    if (rc != 0 && rc != -KD_ECANCELED)
        report(r, rc, &diag);
    while (rc == 0) {
        rc = kd_exchange_push_values(r->cfg.channel, &r->ref, r->step + 1, slot, values, floats,
                                     &diag);
        if (rc == 0 || rc == -KD_ESTALE || kd_runner_stopped(r))
            break; /* a stale step is over without them */
        if (!kd_part_again(rc)) {
            (void)kd_runner_refused(r, rc, &diag);
            break;
        }
        rc = 0;
        usleep(RETRY_MS * 1000);
    }
    unit_over(r);
}

static bool fill_teacher(kd_runner *r)
{
    kd_diag diag = {0};
    if (!r->teaching)
        return true;
    int rc = kd_teaching_fill(r->teaching, &r->ref, r->step, r->round.first, r->round.count, &diag);
    return !kd_runner_refused(r, rc, &diag);
}

static void look_ahead(kd_runner *r, kd_span span)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    size_t n = 0;
    if (r->step + 2 > r->last_step || span.count == 0)
        return;
    uint32_t *samples = kd_xalloc(2 * (size_t)span.count * h->slot_batch * sizeof *samples);
    for (uint32_t k = 0; k < span.count; k++) {
        kd_stage_places(r->stage, r->step + 1, span.first + k, r->places);
        for (uint32_t i = 0; i < h->slot_batch; i++)
            n += (size_t)kd_stage_pictures(r->stage, &r->places[i], samples + n);
    }
    kd_cache_ahead(r->session->cache, samples, n);
    free(samples);
    if (r->teaching)
        kd_teaching_ahead(r->teaching, &r->ref, r->step + 1, span.first, span.count);
}

static void start_round(kd_runner *r, kd_pool_fn fn)
{
    pthread_mutex_lock(&r->mu);
    r->round_left = (int)r->round.count;
    pthread_mutex_unlock(&r->mu);
    kd_pool_start(r->pool, (int)r->round.count, fn, r);
}

/* Begins the units of a range, or their values where the loss wants those first. */
static bool begin_round(kd_runner *r, const uint32_t *nodes, int n_nodes, kd_span coming)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    kd_runner_phase(r, "training", r->step + 1);
    kd_stage_places(r->stage, r->step, 0, r->places); /* makes the epoch's order */
    if (!fill_teacher(r))
        return false;
    if (!r->round_checks)
        kd_reducer_want(r->reducer, nodes, n_nodes);
    if (h->value_columns && !r->stats) {
        r->valued[r->n_valued++] = (struct valued){r->round, r->round_checks};
        start_round(r, run_values);
    } else {
        start_round(r, run_unit);
    }
    look_ahead(r, coming);
    return true;
}

/* The batch's values are there: what was held back for them can go on. */
static bool couple(kd_runner *r)
{
    kd_diag diag = {0};
    int rc = kd_stage_couple(r->stage, r->values, &r->stats, &diag);
    return !kd_runner_refused(r, rc, &diag);
}

static bool begin_valued(kd_runner *r)
{
    r->round = r->valued[r->next_valued].span;
    r->round_checks = r->valued[r->next_valued++].check;
    if (!fill_teacher(r))
        return false;
    start_round(r, run_unit);
    return true;
}

static void ask_values(kd_runner *r)
{
    struct call *c = new_call(r);
    c->values = true;
    c->todo.version = r->step + 1;
    pthread_mutex_lock(&r->mu);
    r->calls++;
    r->values_asked = true;
    pthread_mutex_unlock(&r->mu);
    check_start(c, kd_exchange_await_values(r->cfg.channel, &r->ref, r->step + 1, on_answer, c));
}

/* ---- from version to version */

/* Gradients that are needed no more go back to where they came from. */
static void recycle(kd_runner *r)
{
    const float *old[64];
    size_t n;
    do {
        pthread_mutex_lock(&r->mu);
        n = kd_part_take_dropped(r->part, old, KD_COUNT(old));
        pthread_mutex_unlock(&r->mu);
        for (size_t i = 0; i < n; i++)
            kd_reducer_give(r->reducer, (float *)old[i]);
    } while (n == KD_COUNT(old));
}

/* No unit runs any more; those that have not begun never will. */
static void stop_round(kd_runner *r)
{
    int dropped = kd_pool_drop(r->pool);
    kd_pool_wait(r->pool);
    if (dropped == 0)
        return;
    kd_span rest = {r->round.first + r->round.count - (uint32_t)dropped, (uint32_t)dropped};
    if (r->n_valued > 0 && !r->stats)
        r->valued[r->n_valued - 1].span.count -= (uint32_t)dropped;
    pthread_mutex_lock(&r->mu);
    r->round_left -= dropped;
    kd_part_return(r->part, rest, r->round_checks);
    pthread_mutex_unlock(&r->mu);
}

/* Under no lock: units are of the part's version from now on. */
static void enter_version(kd_runner *r)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    pthread_mutex_lock(&r->mu);
    uint64_t version = kd_part_version(r->part);
    r->vector = kd_part_vector(r->part);
    r->last_step = kd_part_last_version(r->part) - 1;
    r->values_there = false;
    pthread_mutex_unlock(&r->mu);
    r->step = version - 1;
    r->tag++;
    r->stats = NULL;
    r->n_valued = r->next_valued = 0;
    recycle(r);
    kd_reducer_start(r->reducer);
    bool border =
        version == r->last_step + 1 || (version > 1 && (version - 1) % h->eval_steps == 0);
    if (border)
        kd_runner_evaluation_due(r, version);
}

static bool advance(kd_runner *r)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    stop_round(r);
    pthread_mutex_lock(&r->mu);
    kd_part_advance(r->part);
    bool first = kd_part_version(r->part) == 1;
    pthread_mutex_unlock(&r->mu);
    enter_version(r);
    if (first && memcmp(r->vector, kd_stage_initial(r->stage), h->floats * sizeof(float)) != 0) {
        kd_runner_problem(r, "INTERNAL",
                          "initial parameters differ between workers of one fingerprint");
        return false;
    }
    return true;
}

/* ---- what the coordinator says meanwhile */

static bool spans_ok(Distill__V1__Range *const *ranges, size_t n, uint32_t end, kd_span *out)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = (kd_span){ranges[i]->first, ranges[i]->count};
        if (ranges[i]->first > end || ranges[i]->count > end - ranges[i]->first)
            return false;
    }
    return true;
}

/* Takes a Begin in. False when it makes no sense. */
static bool take_begin(kd_runner *r, const Distill__V1__Begin *b)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    size_t n = b->n_slots + b->n_chunks + b->n_units;
    kd_span *spans = kd_xalloc((n + 1) * sizeof *spans);
    kd_span *chunks = spans + b->n_slots, *units = chunks + b->n_chunks;
    bool ok = spans_ok(b->slots, b->n_slots, h->slots, spans) &&
              spans_ok(b->chunks, b->n_chunks, h->chunks, chunks) &&
              spans_ok(b->units, b->n_units, h->slots, units) && b->members > 0 &&
              b->rank < b->members && b->version > 0 && b->version <= b->last_version &&
              b->last_version <= h->steps + 1 && b->manifest > 0 && b->manifest <= b->version;
    if (!ok) {
        kd_runner_problem(r, "INTERNAL", "the coordinator began a stage with impossible figures");
        free(spans);
        return false;
    }
    kd_part_begin part = {.generation = b->generation,
                          .version = b->version,
                          .last_version = b->last_version,
                          .manifest = b->manifest,
                          .fresh = b->fresh,
                          .publish = b->publish,
                          .publish_state = b->publish_state,
                          .slots = spans,
                          .chunks = chunks,
                          .units = units,
                          .n_slots = b->n_slots,
                          .n_chunks = b->n_chunks,
                          .n_units = b->n_units};
    uint64_t before = kd_part_version(r->part);
    if (b->fresh && before > b->version)
        stop_round(r);
    pthread_mutex_lock(&r->mu);
    kd_part_begin_at(r->part, &part);
    r->last_step = b->last_version - 1;
    pthread_mutex_unlock(&r->mu);
    r->ref.generation = b->generation;
    kd_runner_evaluate_as(r, b);
    if (kd_part_version(r->part) != before)
        r->step = UINT64_MAX;
    recycle(r);
    free(spans);
    return true;
}

static void take_units(kd_runner *r, const Distill__V1__Units *u)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    if (strcmp(u->job, r->stage_job) != 0 || u->stage != r->stage_index)
        return;
    kd_span *spans = kd_xalloc((u->n_slots + 1) * sizeof *spans);
    pthread_mutex_lock(&r->mu);
    if (spans_ok(u->slots, u->n_slots, h->slots, spans))
        kd_part_add_units(r->part, u->step, spans, u->n_slots, u->check);
    pthread_mutex_unlock(&r->mu);
    free(spans);
}

/* Takes in what concerns the stage that runs. Returns false when something else is wanted. */
static bool listen(kd_runner *r)
{
    for (;;) {
        pthread_mutex_lock(&r->mu);
        struct command *c = r->commands;
        bool mine = c && kd_runner_concerns_stage(r, c);
        if (mine)
            kd_runner_pop(r);
        pthread_mutex_unlock(&r->mu);
        if (!c)
            return true;
        if (!mine)
            return false;
        bool ok = true;
        if (!c->m)
            ; /* the stream is lost; what is here may be of use to the next one */
        else if (c->m->kind_case == DISTILL__V1__COORDINATOR_MESSAGE__KIND_BEGIN)
            ok = take_begin(r, c->m->begin);
        else if (c->m->kind_case == DISTILL__V1__COORDINATOR_MESSAGE__KIND_UNITS)
            take_units(r, c->m->units);
        else
            kd_runner_ready_again(r, c->m->prepare);
        kd_runner_free_command(c);
        if (!ok)
            return false;
    }
}

/* ---- the loop */

enum next { NEXT_STOP, NEXT_TODO, NEXT_ADVANCE, NEXT_WAIT, NEXT_IDLE };

static enum next decide(kd_runner *r, kd_todo *t, int *wait_ms)
{
    enum next next = NEXT_WAIT;
    pthread_mutex_lock(&r->mu);
    r->news_seen = r->news;
    kd_time_ms now = kd_clock_ms(), stale = kd_part_stale_since(r->part);
    if (stale && now - stale > STALE_MS)
        kd_runner_give_up(r, "the coordinator is at another step and does not say at which");
    if (r->over || r->leaving)
        next = NEXT_STOP;
    else if (kd_part_next(r->part, now, t, wait_ms))
        next = NEXT_TODO;
    else if (kd_part_whole(r->part))
        next = NEXT_ADVANCE; /* units that run still were done by others */
    else if (r->round_left == 0)
        next = NEXT_IDLE;
    pthread_mutex_unlock(&r->mu);
    return next;
}

static void wait_for_news(kd_runner *r, int ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    ms = ms < 0 || ms > LONGEST_WAIT_MS ? LONGEST_WAIT_MS : ms + 1;
    until.tv_nsec += (long)ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&r->mu);
    if (!r->commands && !r->over && !r->leaving && r->news == r->news_seen)
        pthread_cond_timedwait(&r->changed, &r->mu, &until);
    pthread_mutex_unlock(&r->mu);
}

/* The compute threads have nothing to do. True when there is something for them; *ok false: it
 * cannot go on. */
static bool employ(kd_runner *r, bool *ok)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    uint32_t nodes[64];
    int n_nodes = 0;
    pthread_mutex_lock(&r->mu);
    bool urgent = kd_part_owes(r->part);
    bool values_there = r->values_there;
    bool ask = !values_there && !r->values_asked && kd_clock_ms() >= r->values_retry_at;
    pthread_mutex_unlock(&r->mu);
    if (r->step == UINT64_MAX)
        return false;
    if (kd_runner_evaluation_waits(r)) {
        if (!urgent)
            *ok = kd_runner_evaluate(r);
        return !urgent;
    }
    if (h->value_columns && values_there && !r->stats)
        *ok = couple(r);
    if (!*ok)
        return true;
    if (r->stats && r->next_valued < r->n_valued) {
        *ok = begin_valued(r);
        return true;
    }
    pthread_mutex_lock(&r->mu);
    bool more = r->n_valued < KD_COUNT(r->valued) &&
                kd_part_round(r->part, &r->round, &r->round_checks, nodes, &n_nodes);
    kd_span coming = kd_part_coming(r->part);
    pthread_mutex_unlock(&r->mu);
    if (more)
        *ok = begin_round(r, nodes, n_nodes, coming);
    else if (r->n_valued > 0 && !r->stats && ask)
        ask_values(r);
    return more;
}

/* Carries the stage on until another command comes or it cannot go on. False in the latter case. */
static bool run_stage(kd_runner *r)
{
    for (;;) {
        kd_todo t;
        int wait_ms = -1;
        bool ok = true;
        if (!listen(r))
            return true;
        enum next next = decide(r, &t, &wait_ms);
        if (next == NEXT_STOP)
            return false;
        if (next == NEXT_TODO)
            perform(r, &t);
        else if (next == NEXT_ADVANCE)
            ok = advance(r);
        else if (next == NEXT_WAIT || !employ(r, &ok))
            wait_for_news(r, wait_ms);
        if (!ok)
            return atomic_load(&r->cancel);
        if (r->step == r->last_step && !kd_runner_evaluation_waits(r))
            kd_runner_phase(r, "waiting", r->step + 1);
    }
}

/* The coordinator thinks that it goes on here, and it cannot: without a word the job would wait for
 * ever. */
static void send_stalled(kd_runner *r)
{
    char why[sizeof r->over_text];
    pthread_mutex_lock(&r->mu);
    memcpy(why, r->over_text, sizeof why);
    bool leaving = r->leaving;
    pthread_mutex_unlock(&r->mu);
    if (leaving)
        return;
    Distill__V1__Stalled d = DISTILL__V1__STALLED__INIT;
    d.job = r->ref.job;
    d.stage = r->ref.stage;
    d.generation = r->ref.generation;
    kd_utf8_mend(why);
    d.text = why;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_STALLED;
    m.stalled = &d;
    r->cfg.send(r->cfg.arg, &m);
}

void kd_runner_begin(kd_runner *r, const Distill__V1__Begin *b)
{
    if (!r->part || strcmp(r->stage_job, b->job) != 0 || r->stage_index != b->stage ||
        atomic_load(&r->failed))
        return;
    snprintf(r->ref.job, sizeof r->ref.job, "%s", b->job);
    r->ref.stage = b->stage;
    pthread_mutex_lock(&r->mu);
    r->over = false;
    r->over_text[0] = '\0';
    pthread_mutex_unlock(&r->mu);
    if (take_begin(r, b) && !run_stage(r) && !atomic_load(&r->cancel))
        send_stalled(r);
    stop_round(r);
}

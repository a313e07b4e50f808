/* The step flow: rules 1 to 9 of docs/protocol.md, as a worker keeps them. */
#include "runner_internal.h"

#include "kd/text.h"
#include "wire/limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PUSHES_IN_FLIGHT 8
#define RETRY_MS 100

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

/* ---- calls under way */

enum want { WANT_SLICE, WANT_SUM, WANT_STATE, WANT_AVERAGE, WANT_PUBLISH, WANT_PUSH };

struct call {
    kd_runner *r;
    enum want want;
    uint32_t chunk;
    uint64_t version; /* or step */
    kd_stage_ref ref;
};

/* Is it worth asking again? Everything else means that this generation is over.
 */
static bool transient(int code)
{
    return code == -KD_EUNAVAIL || code == -KD_ETIMEOUT || code == -KD_EDATA || code == -KD_ENOMEM;
}

static size_t chunk_len(const kd_stage_shape *h, uint32_t chunk)
{
    size_t first = (size_t)chunk * h->chunk_floats;
    return KD_MIN((size_t)h->chunk_floats, h->floats - first);
}

/* A chunk's optimiser state: [state_vectors][chunk length] in one piece, as updates and the wire
 * want it. */
static float *state_of(const kd_runner *r, uint32_t chunk)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    return r->state + (size_t)chunk * h->chunk_floats * (size_t)h->state_vectors;
}

/* On gRPC's threads: puts the answer where it belongs. The runner waits for
 * every call to end before it leaves a step, so all it points to is there. */
static void on_answer(void *arg, const kd_exchange_answer *a)
{
    struct call *c = arg;
    kd_runner *r = c->r;
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    size_t first = (size_t)c->chunk * h->chunk_floats, n = chunk_len(h, c->chunk);
    size_t bytes = n * sizeof(float), vectors = (size_t)h->state_vectors;
    bool with_state = c->want == WANT_STATE || c->want == WANT_AVERAGE;
    bool bulk = c->want <= WANT_AVERAGE;
    int code = a->code;
    if (code == 0 && bulk && a->len != (with_state ? bytes * (1 + vectors) : bytes))
        code = -KD_EINTERNAL; /* not what was asked for: nothing to repeat */
    pthread_mutex_lock(&r->mu);
    if (code == 0) {
        switch (c->want) {
        case WANT_SLICE:
            if (!r->next.have[c->chunk]) {
                memcpy(r->next.vector + first, a->payload, bytes);
                r->next.have[c->chunk] = true;
                r->next.missing--;
            }
            break;
        case WANT_SUM:
            memcpy(r->sums + first, a->payload, bytes);
            r->sum_checkpoint[c->chunk] = a->checkpoint;
            r->sum_scale[c->chunk] = a->scale;
            r->sum_there[c->chunk] = true;
            break;
        case WANT_STATE:
            if (vectors)
                memcpy(state_of(r, c->chunk), a->payload + bytes, vectors * bytes);
            r->state_missing--;
            break;
        case WANT_AVERAGE: /* the last vector */
            memcpy(r->average + first, a->payload + vectors * bytes, bytes);
            r->average_missing--;
            break;
        case WANT_PUBLISH:
        case WANT_PUSH:
            break;
        }
    } else if (transient(code) && bulk) {
        r->redo[c->chunk] |= (uint8_t)(1u << c->want);
        r->redos++;
    } else {
        /* Refused, or what was sent may be lost. */
        kd_runner_give_up(r, a->text);
    }
    r->calls--;
    r->pushes -= c->want == WANT_PUSH;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mu);
    free(c);
}

static struct call *new_call(kd_runner *r, enum want want, uint64_t version, uint32_t chunk)
{
    struct call *c = kd_xalloc(sizeof *c);
    *c = (struct call){r, want, chunk, version, r->ref};
    pthread_mutex_lock(&r->mu);
    r->calls++;
    r->pushes += want == WANT_PUSH;
    pthread_mutex_unlock(&r->mu);
    return c;
}

static void finish_start(struct call *c, int rc)
{
    if (rc != 0)
        on_answer(c, &(kd_exchange_answer){.code = rc == -KD_ECANCELED ? rc : -KD_EINTERNAL,
                                           .text = "the call could not be started"});
}

static void start_call(kd_runner *r, enum want want, uint64_t version, uint32_t chunk)
{
    struct call *c = new_call(r, want, version, chunk);
    int rc = -KD_EINTERNAL;
    if (want == WANT_SLICE)
        rc = kd_exchange_await_slice(r->cfg.channel, &c->ref, version, chunk, on_answer, c);
    else if (want == WANT_SUM)
        rc = kd_exchange_await_sum(r->cfg.channel, &c->ref, version, chunk, on_answer, c);
    else if (want == WANT_STATE || want == WANT_AVERAGE)
        rc = kd_exchange_fetch_state(r->cfg.channel, &c->ref, version, chunk, on_answer, c);
    finish_start(c, rc);
}

/* Under r->mu: waits for news, and repeats calls that failed for a passing
 * reason, a moment later. */
static void wait_for_calls(kd_runner *r, uint64_t slice_version)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    if (!r->redos) {
        pthread_cond_wait(&r->changed, &r->mu);
        return;
    }
    pthread_mutex_unlock(&r->mu);
    usleep(RETRY_MS * 1000);
    pthread_mutex_lock(&r->mu);
    r->redos = 0;
    for (uint32_t k = 0; k < h->chunks; k++) {
        uint8_t redo = r->redo[k];
        r->redo[k] = 0;
        pthread_mutex_unlock(&r->mu);
        if (redo & 1u << WANT_SLICE)
            start_call(r, WANT_SLICE, slice_version, k);
        if (redo & 1u << WANT_SUM)
            start_call(r, WANT_SUM, r->version, k);
        if (redo & 1u << WANT_STATE)
            start_call(r, WANT_STATE, slice_version, k);
        if (redo & 1u << WANT_AVERAGE)
            start_call(r, WANT_AVERAGE, slice_version, k);
        pthread_mutex_lock(&r->mu);
    }
}

/* Waits until no call is under way. Calls that wait for others are answered by
 * the coordinator when it ends the generation. */
static void settle_calls(kd_runner *r)
{
    pthread_mutex_lock(&r->mu);
    while (r->calls > 0)
        pthread_cond_wait(&r->changed, &r->mu);
    pthread_mutex_unlock(&r->mu);
}

static void publish(kd_runner *r, uint64_t version, uint32_t chunk, const float *slice,
                    bool with_state)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    size_t n = chunk_len(h, chunk);
    struct call *c = new_call(r, WANT_PUBLISH, version, chunk);
    int rc;
    if (!with_state || h->state_vectors == 0) {
        rc = kd_exchange_publish(r->cfg.channel, &c->ref, version, chunk, slice, n, with_state,
                                 on_answer, c);
    } else {
        size_t vectors = 1 + (size_t)h->state_vectors;
        float *both = malloc(vectors * n * sizeof *both);
        rc = both ? 0 : -KD_ENOMEM;
        if (both) {
            memcpy(both, slice, n * sizeof *both);
            memcpy(both + n, state_of(r, chunk), (vectors - 1) * n * sizeof *both);
            rc = kd_exchange_publish(r->cfg.channel, &c->ref, version, chunk, both, vectors * n,
                                     true, on_answer, c);
        }
        free(both);
    }
    finish_start(c, rc);
}

/* ---- units of a step */

static void push_node(kd_runner *r, uint64_t step, uint32_t node, const float *gradient,
                      const kd_tree_sums *sums)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    /* The last layers' gradients first, as they would be ready first. */
    for (uint32_t k = h->chunks; k-- > 0;) {
        pthread_mutex_lock(&r->mu);
        while (r->pushes >= PUSHES_IN_FLIGHT && !r->over && !r->leaving)
            pthread_cond_wait(&r->changed, &r->mu);
        bool over = r->over || r->leaving;
        pthread_mutex_unlock(&r->mu);
        if (over || atomic_load(&r->cancel))
            return;
        struct call *c = new_call(r, WANT_PUSH, step, k);
        finish_start(c, kd_exchange_push(r->cfg.channel, &c->ref, step, node, k,
                                         gradient + (size_t)k * h->chunk_floats, chunk_len(h, k),
                                         sums, 2 * h->n_terms, on_answer, c));
    }
}

static void run_unit(void *arg, int item, int thread)
{
    kd_runner *r = arg;
    uint64_t step = r->version - 1; /* from 0 */
    uint32_t slot = r->slot_first + (uint32_t)item;
    if (atomic_load(&r->cancel))
        return;
    kd_diag diag = {0};
    kd_tree_sums sums, node_sums;
    float *gradient = kd_reducer_take(r->reducer);
    const float *teacher = r->teaching ? kd_teaching_rows(r->teaching, (uint32_t)item) : NULL;
    int rc = gradient ? kd_stage_unit(r->stage, thread, step, slot, r->now.vector, r->tag, teacher,
                                      r->stats, gradient, &sums, &diag)
                      : kd_fail(&diag, -KD_ENOMEM, "no memory for a gradient");
    if (rc != 0) {
        if (gradient)
            kd_reducer_give(r->reducer, gradient);
        kd_runner_problem(r, rc == -KD_EDATA ? "NON_FINITE" : "INTERNAL", diag.msg);
        return;
    }
    atomic_fetch_add(&r->units, 1);
    uint32_t node = 0;
    float *whole = kd_reducer_add(r->reducer, slot, gradient, &sums, &node, &node_sums);
    if (whole) {
        push_node(r, step + 1, node, whole, &node_sums);
        kd_reducer_give(r->reducer, whole);
    }
}

static void look_ahead(kd_runner *r, uint64_t version)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    if (version >= r->last_version)
        return;
    size_t n = 0;
    kd_place *places = kd_xalloc(h->slot_batch * sizeof *places);
    uint32_t *samples = kd_xalloc(2 * (size_t)r->slot_count * h->slot_batch * sizeof *samples);
    for (uint32_t k = 0; k < r->slot_count; k++) {
        kd_stage_places(r->stage, version - 1, r->slot_first + k, places);
        for (uint32_t i = 0; i < h->slot_batch; i++)
            n += (size_t)kd_stage_pictures(r->stage, &places[i], samples + n);
    }
    kd_cache_ahead(r->session->cache, samples, n);
    free(samples);
    free(places);
}

/* Under r->mu: starts collecting the version after `now`. */
static void clear_next(kd_runner *r)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    memset(r->next.have, 0, h->chunks * sizeof *r->next.have);
    memset(r->sum_there, 0, h->chunks * sizeof *r->sum_there);
    memset(r->redo, 0, h->chunks);
    r->redos = 0;
    r->next.missing = h->chunks;
}

static bool own(const kd_runner *r, uint32_t chunk)
{
    return chunk >= r->chunk_first && chunk < r->chunk_first + r->chunk_count;
}

static void set_now(kd_runner *r, uint64_t version)
{
    pthread_mutex_lock(&r->mu);
    struct version old = r->now;
    r->now = r->next;
    r->next = old;
    clear_next(r);
    pthread_mutex_unlock(&r->mu);
    r->version = version;
    r->tag++;
}

/* Applies the sums that are there and publishes; waits for the rest. */
static void finish_step(kd_runner *r)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    uint64_t step = r->version - 1;
    pthread_mutex_lock(&r->mu);
    while (r->next.missing > 0 && !r->over && !r->leaving && !atomic_load(&r->cancel)) {
        uint32_t k = r->chunk_first, end = r->chunk_first + r->chunk_count;
        while (k < end && !(r->sum_there[k] && !r->next.have[k]))
            k++;
        if (k == end) {
            wait_for_calls(r, r->version + 1);
            continue;
        }
        bool checkpoint = r->sum_checkpoint[k];
        pthread_mutex_unlock(&r->mu);
        size_t first = (size_t)k * h->chunk_floats, n = chunk_len(h, k);
        float *slice = r->next.vector + first;
        memcpy(slice, r->now.vector + first, n * sizeof *slice);
        kd_optim_apply(kd_stage_optim(r->stage), kd_stage_graph(r->stage), step, first, n, slice,
                       r->sums + first, r->sum_scale[k], state_of(r, k));
        publish(r, r->version + 1, k, slice, checkpoint);
        pthread_mutex_lock(&r->mu);
        r->next.have[k] = true;
        r->next.missing--;
    }
    pthread_mutex_unlock(&r->mu);
}

/* Under no lock: the generation cannot go on, unless it was stopped anyway. */
static bool refused(kd_runner *r, int rc, const kd_diag *diag)
{
    if (rc != 0 && rc != -KD_ECANCELED) {
        pthread_mutex_lock(&r->mu);
        kd_runner_give_up(r, diag->msg);
        pthread_mutex_unlock(&r->mu);
    }
    return rc != 0 || kd_runner_stopped(r);
}

static bool fill_teacher(kd_runner *r)
{
    kd_diag diag = {0};
    int rc =
        kd_teaching_fill(r->teaching, &r->ref, r->version - 1, r->slot_first, r->slot_count, &diag);
    return !refused(r, rc, &diag);
}

/* ---- a loss that couples the whole batch: values first, gradients after */

static void run_values(void *arg, int item, int thread)
{
    kd_runner *r = arg;
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    size_t floats = (size_t)h->slot_batch * h->value_columns;
    uint32_t slot = r->slot_first + (uint32_t)item;
    float *values = r->values + slot * floats;
    kd_diag diag = {0};
    if (atomic_load(&r->cancel))
        return;
    int rc = kd_stage_values(r->stage, thread, r->version - 1, slot, r->now.vector, r->tag,
                             kd_teaching_rows(r->teaching, (uint32_t)item), values, &diag);
    if (rc != 0) {
        kd_runner_problem(r, rc == -KD_EDATA ? "NON_FINITE" : "INTERNAL", diag.msg);
        return;
    }
    do {
        rc = kd_exchange_push_values(r->cfg.channel, &r->ref, r->version, slot, values, floats,
                                     &diag);
        if (rc != 0 && transient(rc))
            usleep(RETRY_MS * 1000);
    } while (rc != 0 && transient(rc) && !kd_runner_stopped(r));
    (void)refused(r, rc, &diag);
}

static bool gather_values(kd_runner *r)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    kd_diag diag = {0};
    kd_pool_start(r->pool, (int)r->slot_count, run_values, r);
    kd_pool_wait(r->pool);
    int rc = -KD_EUNAVAIL;
    for (int tries = 0; transient(rc) && !kd_runner_stopped(r); tries++) {
        if (tries > 0 && rc != -KD_ETIMEOUT)
            usleep(RETRY_MS * 1000);
        rc = kd_exchange_await_values(r->cfg.channel, &r->ref, r->version, r->values,
                                      (size_t)h->slots * h->slot_batch * h->value_columns, &diag);
    }
    if (rc == 0)
        rc = kd_stage_couple(r->stage, r->values, &r->stats, &diag);
    return !refused(r, rc, &diag);
}

static bool train_step(kd_runner *r)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    uint32_t cover[64];
    kd_runner_phase(r, "training", r->version);
    if (r->teaching && !fill_teacher(r))
        return false;
    kd_reducer_start(r->reducer, cover, 0);
    int nodes = r->slot_count ? kd_tree_cover(h->slots, r->slot_first, r->slot_count, cover) : 0;
    kd_reducer_start(r->reducer, cover, nodes);
    kd_place *places = kd_xalloc(h->slot_batch * sizeof *places);
    kd_stage_places(r->stage, r->version - 1, 0, places); /* makes the epoch's order */
    free(places);
    if (h->value_columns && !gather_values(r))
        return false;
    kd_pool_start(r->pool, (int)r->slot_count, run_unit, r);
    for (uint32_t k = 0; k < h->chunks; k++)
        start_call(r, own(r, k) ? WANT_SUM : WANT_SLICE, r->version + (own(r, k) ? 0 : 1), k);
    look_ahead(r, r->version + 1);
    finish_step(r);
    bool ok = !kd_runner_stopped(r);
    if (!ok)
        kd_pool_drop(r->pool);
    kd_pool_wait(r->pool);
    settle_calls(r);
    if (!ok || kd_runner_stopped(r))
        return false;
    set_now(r, r->version + 1);
    return true;
}

/* ---- evaluation */

static const float *teacher_row(void *arg, uint32_t sample)
{
    return kd_teaching_clean_row(arg, sample);
}

static void eval_one(void *arg, int item, int thread)
{
    kd_runner *r = arg;
    const kd_optim *o = kd_stage_optim(r->stage);
    uint32_t unit = r->rank + (uint32_t)item * r->members;
    float rows[KD_EVAL_COLUMNS * KD_EVAL_UNIT];
    kd_diag diag = {0};
    if (atomic_load(&r->cancel))
        return;
    /* Averaged parameters are another vector of the same version. */
    const float *vector = r->average ? r->average : r->now.vector;
    int n = kd_stage_eval(r->stage, thread, unit, vector, r->average ? ~r->tag : r->tag,
                          r->teaching ? teacher_row : NULL, r->teaching, rows, &diag);
    if (n < 0) {
        kd_runner_problem(r, n == -KD_EDATA ? "NON_FINITE" : "INTERNAL", diag.msg);
        return;
    }
    atomic_fetch_add(&r->units, 1);
    int rc;
    do {
        rc = kd_exchange_gather(r->cfg.channel, &r->ref, r->version, unit, rows, (size_t)n,
                                KD_EVAL_COLUMNS, o->lr * kd_optim_factor(o, r->version - 1), &diag);
        if (rc != 0 && transient(rc))
            usleep(RETRY_MS * 1000);
    } while (rc != 0 && transient(rc) && !kd_runner_stopped(r));
    (void)refused(r, rc, &diag);
}

/* The averaged parameters lie with the chunks' owners; the coordinator has them since the commit.
 */
static bool fetch_average(kd_runner *r)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    pthread_mutex_lock(&r->mu);
    r->average_missing = (int)h->chunks;
    pthread_mutex_unlock(&r->mu);
    for (uint32_t k = 0; k < h->chunks; k++)
        start_call(r, WANT_AVERAGE, r->version, k);
    pthread_mutex_lock(&r->mu);
    while (r->average_missing > 0 && !r->over && !r->leaving && !atomic_load(&r->cancel))
        wait_for_calls(r, r->version);
    pthread_mutex_unlock(&r->mu);
    settle_calls(r);
    return !kd_runner_stopped(r);
}

/* The teacher's view of the pictures that this worker evaluates. */
static bool fill_clean(kd_runner *r, int n_units)
{
    uint32_t first = (uint32_t)kd_data_first(r->session->data, KD_SPLIT_VAL);
    uint32_t *samples = kd_xalloc((size_t)n_units * KD_EVAL_UNIT * sizeof *samples);
    size_t n = 0;
    for (int i = 0; i < n_units; i++)
        for (uint32_t k = 0; k < KD_EVAL_UNIT; k++) {
            uint32_t at = (r->rank + (uint32_t)i * r->members) * KD_EVAL_UNIT + k;
            if (at < r->session->n_val)
                samples[n++] = first + at;
        }
    kd_diag diag = {0};
    int rc = kd_teaching_clean(r->teaching, &r->ref, samples, n, &diag);
    free(samples);
    return !refused(r, rc, &diag);
}

static bool evaluate(kd_runner *r)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    if (r->rank >= h->eval_units)
        return true;
    kd_runner_phase(r, "evaluating", r->version);
    int n = (int)((h->eval_units - r->rank + r->members - 1) / r->members);
    if (r->average && !fetch_average(r))
        return false;
    if (r->teaching && !fill_clean(r, n))
        return false;
    kd_pool_start(r->pool, n, eval_one, r);
    kd_pool_wait(r->pool);
    return !kd_runner_stopped(r);
}

/* ---- a generation */

/* Version 1 is made by everybody and published by its owners, like any other.
 */
static bool load_version(kd_runner *r, uint64_t version)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    pthread_mutex_lock(&r->mu);
    clear_next(r);
    r->state_missing = version > 1 ? (int)r->chunk_count : 0;
    memset(r->state, 0, h->floats * (size_t)h->state_vectors * sizeof *r->state);
    pthread_mutex_unlock(&r->mu);
    if (version == 1)
        for (uint32_t k = r->chunk_first; k < r->chunk_first + r->chunk_count; k++)
            publish(r, 1, k, kd_stage_initial(r->stage) + (size_t)k * h->chunk_floats, true);
    else
        for (uint32_t k = r->chunk_first; k < r->chunk_first + r->chunk_count; k++)
            start_call(r, WANT_STATE, version, k);
    for (uint32_t k = 0; k < h->chunks; k++)
        start_call(r, WANT_SLICE, version, k);
    pthread_mutex_lock(&r->mu);
    while ((r->next.missing > 0 || r->state_missing > 0) && !r->over && !r->leaving &&
           !atomic_load(&r->cancel))
        wait_for_calls(r, version);
    pthread_mutex_unlock(&r->mu);
    settle_calls(r);
    if (kd_runner_stopped(r))
        return false;
    set_now(r, version);
    if (version == 1 &&
        memcmp(r->now.vector, kd_stage_initial(r->stage), h->floats * sizeof(float)) != 0) {
        kd_runner_problem(r, "INTERNAL",
                          "initial parameters differ between workers of one fingerprint");
        return false;
    }
    return true;
}

/* From its version to the last one; false when it ended before. */
static bool run_generation(kd_runner *r, const Distill__V1__Begin *b)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    if (!load_version(r, b->version))
        return false;
    bool due = b->evaluate_first;
    for (;;) {
        if (due && !evaluate(r))
            return false;
        if (r->version >= r->last_version)
            return true;
        if (!train_step(r))
            return false;
        due = r->version == r->last_version || (r->version - 1) % h->eval_steps == 0;
    }
}

/* Nobody ended the generation, yet it cannot go on here: without a word the job would wait for
 * ever. Where the coordinator has ended it already, this changes nothing. */
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
    if (!r->stage || !kd_stage_graph(r->stage) || strcmp(r->stage_job, b->job) != 0 ||
        r->stage_index != b->stage || atomic_load(&r->failed))
        return;
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    snprintf(r->ref.job, sizeof r->ref.job, "%s", b->job);
    r->ref.stage = b->stage;
    r->ref.generation = b->generation;
    r->slot_first = b->n_slots ? b->slots[0]->first : 0;
    r->slot_count = b->n_slots ? b->slots[0]->count : 0;
    r->chunk_first = b->n_chunks ? b->chunks[0]->first : 0;
    r->chunk_count = b->n_chunks ? b->chunks[0]->count : 0;
    r->rank = b->rank;
    r->members = b->members;
    r->last_version = b->last_version;
    if (b->n_slots > 1 || b->n_chunks > 1 || r->slot_first + (uint64_t)r->slot_count > h->slots ||
        r->chunk_first + (uint64_t)r->chunk_count > h->chunks || b->members == 0 ||
        b->version == 0 || b->last_version > h->steps + 1) {
        kd_runner_problem(r, "INTERNAL", "the coordinator began a stage with impossible figures");
        return;
    }
    pthread_mutex_lock(&r->mu);
    r->over = false;
    r->over_text[0] = '\0';
    pthread_mutex_unlock(&r->mu);
    if (run_generation(r, b))
        kd_runner_phase(r, "waiting", r->version);
    else if (!atomic_load(&r->cancel))
        send_stalled(r);
}

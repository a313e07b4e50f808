/* The step flow: rules 1 to 9 of docs/protocol.md, as a worker keeps them. */
#include "runner_internal.h"

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

enum want { WANT_SLICE, WANT_SUM, WANT_STATE, WANT_PUBLISH, WANT_PUSH };

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
static void on_answer(void *arg, int code, const char *text, const uint8_t *payload, size_t len,
                      bool checkpoint)
{
    struct call *c = arg;
    kd_runner *r = c->r;
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    size_t first = (size_t)c->chunk * h->chunk_floats, n = chunk_len(h, c->chunk);
    size_t bytes = n * sizeof(float);
    size_t want = c->want == WANT_STATE ? bytes * (1 + (size_t)h->state_vectors) : bytes;
    bool bulk = c->want <= WANT_STATE;
    if (code == 0 && bulk && len != want)
        code = -KD_EINTERNAL; /* not what was asked for: nothing to repeat */
    pthread_mutex_lock(&r->mu);
    if (code == 0) {
        switch (c->want) {
        case WANT_SLICE:
            if (!r->next.have[c->chunk]) {
                memcpy(r->next.vector + first, payload, bytes);
                r->next.have[c->chunk] = true;
                r->next.missing--;
            }
            break;
        case WANT_SUM:
            memcpy(r->sums + first, payload, bytes);
            r->sum_checkpoint[c->chunk] = checkpoint;
            r->sum_there[c->chunk] = true;
            break;
        case WANT_STATE:
            if (h->state_vectors)
                memcpy(state_of(r, c->chunk), payload + bytes, (size_t)h->state_vectors * bytes);
            r->state_missing--;
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
        kd_runner_give_up(r, text);
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
        on_answer(c, rc == -KD_ECANCELED ? rc : -KD_EINTERNAL, "the call could not be started",
                  NULL, 0, false);
}

static void start_call(kd_runner *r, enum want want, uint64_t version, uint32_t chunk)
{
    struct call *c = new_call(r, want, version, chunk);
    int rc = -KD_EINTERNAL;
    if (want == WANT_SLICE)
        rc = kd_exchange_await_slice(r->cfg.channel, &c->ref, version, chunk, on_answer, c);
    else if (want == WANT_SUM)
        rc = kd_exchange_await_sum(r->cfg.channel, &c->ref, version, chunk, on_answer, c);
    else if (want == WANT_STATE)
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
                                         sums, on_answer, c));
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
                                      gradient, &sums, &diag)
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
    uint32_t *samples = kd_xalloc((size_t)r->slot_count * h->slot_batch * sizeof *samples), view;
    for (uint32_t k = 0; k < r->slot_count; k++)
        kd_stage_samples(r->stage, version - 1, r->slot_first + k, samples + k * h->slot_batch,
                         &view);
    kd_cache_ahead(r->session->cache, samples, (size_t)r->slot_count * h->slot_batch);
    free(samples);
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
                       r->sums + first, 1, state_of(r, k));
        publish(r, r->version + 1, k, slice, checkpoint);
        pthread_mutex_lock(&r->mu);
        r->next.have[k] = true;
        r->next.missing--;
    }
    pthread_mutex_unlock(&r->mu);
}

static bool fill_teacher(kd_runner *r)
{
    kd_diag diag = {0};
    int rc =
        kd_teaching_fill(r->teaching, &r->ref, r->version - 1, r->slot_first, r->slot_count, &diag);
    if (rc != 0 && rc != -KD_ECANCELED) {
        pthread_mutex_lock(&r->mu);
        kd_runner_give_up(r, diag.msg);
        pthread_mutex_unlock(&r->mu);
    }
    return rc == 0 && !kd_runner_stopped(r);
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
    uint32_t view, *samples = kd_xalloc(h->slot_batch * sizeof *samples);
    kd_stage_samples(r->stage, r->version - 1, 0, samples, &view); /* makes the epoch's order */
    free(samples);
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

struct evaluation {
    kd_runner *r;
    uint32_t first;
};

static void eval_one(void *arg, int item, int thread)
{
    struct evaluation *e = arg;
    kd_runner *r = e->r;
    uint32_t unit = r->rank + (uint32_t)item * r->members;
    float rows[2 * KD_EVAL_UNIT];
    kd_diag diag = {0};
    if (atomic_load(&r->cancel))
        return;
    int n = kd_stage_eval(r->stage, thread, unit, r->now.vector, r->tag, rows, &diag);
    if (n < 0) {
        kd_runner_problem(r, n == -KD_EDATA ? "NON_FINITE" : "INTERNAL", diag.msg);
        return;
    }
    atomic_fetch_add(&r->units, 1);
    int rc;
    do {
        rc = kd_exchange_gather(r->cfg.channel, &r->ref, r->version, unit, rows, (size_t)n, &diag);
        if (rc != 0 && transient(rc))
            usleep(RETRY_MS * 1000);
    } while (rc != 0 && transient(rc) && !kd_runner_stopped(r));
    if (rc != 0) {
        pthread_mutex_lock(&r->mu);
        kd_runner_give_up(r, diag.msg);
        pthread_mutex_unlock(&r->mu);
    }
}

static bool evaluate(kd_runner *r)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    struct evaluation e = {r, 0};
    if (r->rank >= h->eval_units)
        return true;
    kd_runner_phase(r, "evaluating", r->version);
    int n = (int)((h->eval_units - r->rank + r->members - 1) / r->members);
    kd_pool_start(r->pool, n, eval_one, &e);
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
        due = r->version == r->last_version || (r->version - 1) % h->epoch_steps == 0;
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

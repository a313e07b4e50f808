/* The world's time, and what is true in it. */
#include "sim_internal.h"

#include "kd/clip.h"
#include "kd/file.h"

#include <stdarg.h>
#include <unistd.h>

void sim_broken(struct world *w, const char *promise, const char *fmt, ...)
{
    if (w->out->broken)
        return;
    w->out->broken = promise;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(w->out->detail, sizeof w->out->detail, fmt, ap);
    va_end(ap);
}

/* ---- time */

static bool before(const struct event *a, const struct event *b)
{
    return a->time != b->time ? a->time < b->time : a->seq < b->seq;
}

void sim_at_owning(struct world *w, double time, event_fn fn, void *a, uint64_t b,
                   void (*drop)(void *a))
{
    if (w->n_heap == w->cap_heap) {
        w->cap_heap = w->cap_heap ? 2 * w->cap_heap : 1024;
        w->heap = realloc(w->heap, w->cap_heap * sizeof *w->heap);
        KD_BUG_ON(!w->heap);
    }
    struct event e = {time, ++w->seq, b, fn, a, drop};
    size_t i = w->n_heap++;
    while (i > 0 && before(&e, &w->heap[(i - 1) / 2])) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = e;
}

void sim_at(struct world *w, double time, event_fn fn, void *a, uint64_t b)
{
    sim_at_owning(w, time, fn, a, b, NULL);
}

struct event sim_next(struct world *w)
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

double sim_random(struct world *w, double most)
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

void sim_gradient(const struct world *w, const float *vector, uint64_t step, uint32_t slot,
                  float *out)
{
    for (size_t i = 0; i < w->floats; i++)
        out[i] = 0.1f * vector[i] + noise(step, slot, i);
    if (w->cfg.bfloat16)
        kd_bfloat16_round(out, w->floats);
}

void sim_update(const struct world *w, size_t n, float *slice, float *state, const float *sum,
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
        sim_gradient(w, vector, step, node - w->cfg.slots, out);
        return;
    }
    float *right = kd_xalloc(w->floats * sizeof *right);
    tree_sum(w, vector, step, 2 * node, out);
    tree_sum(w, vector, step, 2 * node + 1, right);
    for (size_t i = 0; i < w->floats; i++)
        out[i] += right[i];
    if (w->cfg.bfloat16)
        kd_bfloat16_round(out, w->floats);
    free(right);
}

size_t sim_chunk_len(const struct world *w, uint32_t k)
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
        for (size_t i = 0; i < sim_chunk_len(w, k); i++) {
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
        sim_update(w, w->floats, moved, state, sum, w->truth_scale[t]);
        w->truth[t + 1] = kd_xalloc(w->floats * sizeof **w->truth);
        memcpy(w->truth[t + 1], moved, w->floats * sizeof *moved);
    }
    free(state);
    free(sum);
    free(moved);
}

void sim_check_vector(struct world *w, const float *vector, uint64_t version, const char *whose)
{
    if (version == 0 || version > w->cfg.steps + 1 ||
        memcmp(vector, w->truth[version], w->floats * sizeof *vector) != 0)
        sim_broken(w, "same bits", "%s holds other bits as version %llu", whose,
                   (unsigned long long)version);
}

bool sim_border(const struct world *w, uint64_t version)
{
    return version == w->cfg.steps + 1 || (version > 1 && (version - 1) % w->cfg.eval_steps == 0);
}

/* ---- its beginning and its end */

void sim_world_init(struct world *w, const kd_sim_config *cfg, kd_sim_result *out)
{
    *w = (struct world){.cfg = *cfg, .out = out, .manifest = 1, .committed = 1};
    *out = (kd_sim_result){0};
    kd_rng_init(&w->rng, cfg->seed, KD_RNG_TEST, 2, 0);
    w->floats = (size_t)cfg->chunks * CHUNK_FLOATS - (cfg->chunks > 1 ? 1 : 0);
    w->vectors = cfg->average ? 2 : 1;
    w->info = (kd_core_stage_info){.identity = kd_digest_of("sim", 3),
                                   .last_version = cfg->steps + 1,
                                   .eval_steps = cfg->eval_steps,
                                   .slots = cfg->slots,
                                   .chunks = cfg->chunks};
    snprintf(w->dir, sizeof w->dir, "%s/kd-sim-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    KD_BUG_ON(!mkdtemp(w->dir));
    w->initial = kd_xalloc(w->floats * sizeof *w->initial);
    for (size_t i = 0; i < w->floats; i++)
        w->initial[i] = noise(0, 0, i);
    compute_truth(w);
    w->evaluations = kd_xalloc((cfg->steps + 2) * sizeof *w->evaluations);
    w->n_workers = cfg->workers + cfg->joins;
    w->workers = kd_xalloc((size_t)w->n_workers * sizeof *w->workers);
    w->control = kd_xalloc((size_t)w->n_workers * sizeof *w->control);
}

void sim_world_clear(struct world *w)
{
    while (w->n_heap > 0) {
        struct event e = sim_next(w);
        if (e.drop)
            e.drop(e.a);
    }
    for (int i = 0; i < w->n_workers; i++)
        free(w->workers[i].digests);
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
    free(w->control);
    free(w->heap);
    kd_diag diag = {0};
    (void)!kd_file_remove_tree(w->dir, &diag);
}

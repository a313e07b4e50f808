#include "norm.h"

#include <math.h>
#include <string.h>

#include "engine/layout.h"

/* Rows of four vectors side by side; a tile of rows stays in the cache while its columns are gone
 * through. */
enum { SIDE = 64, LANES = 16, TILE_FLOATS = 1 << 14 };

typedef float vector __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t bits __attribute__((vector_size(64), aligned(4), may_alias));
#define LOAD(p, k) (*(const vector *)((p) + (k)*LANES))
#define STORE(p, k, v) (*(vector *)((p) + (k)*LANES) = (v))
#define SELECT(mask, a, b) ((vector)(((mask) & (bits)(a)) | (~(mask) & (bits)(b))))

/* A copy of the loop for each activation. */
#define EACH_ACT(act, CALL)                                                                        \
    switch (act) {                                                                                 \
    case KD_NORM_PLAIN:                                                                            \
        CALL(KD_NORM_PLAIN);                                                                       \
        break;                                                                                     \
    case KD_NORM_CLAMP:                                                                            \
        CALL(KD_NORM_CLAMP);                                                                       \
        break;                                                                                     \
    case KD_NORM_HARD_SWISH:                                                                       \
        CALL(KD_NORM_HARD_SWISH);                                                                  \
        break;                                                                                     \
    case KD_NORM_SILU:                                                                             \
        CALL(KD_NORM_SILU);                                                                        \
        break;                                                                                     \
    }

/* What the loops read for each lane. */
typedef struct {
    float *mean, *scale, *shift; /* z = (x - mean) scale + shift */
    float *least, *slope;        /* d_x = scale (g - least - (x - mean) slope) */
} tables;

/* The backward's rows. */
typedef struct {
    const float *x, *r, *d_y;
    float *g, *frozen;
} place;

typedef struct {
    void (*moments)(const float *x, int64_t rows, int64_t lanes, int64_t before, double *mean,
                    double *m2);
    void (*normalise)(const kd_norm *n, const tables *t, const float *x, const float *r, float *y,
                      int64_t rows, int64_t lanes);
    void (*reduce)(const kd_norm *n, const tables *t, const place *at, int64_t rows, int64_t lanes,
                   double *sum, double *product);
    void (*apply)(const kd_norm *n, const tables *t, const place *at, float *d_x, int64_t rows,
                  int64_t lanes);
} loops;

/* Vectors stay within functions that are inlined: no calling convention is met. */
#pragma GCC diagnostic ignored "-Wpsabi"

#define NORM_TARGET
#define NORM_NAME(x) x##_any
#include "norm_loops.h"
#undef NORM_TARGET
#undef NORM_NAME

#if defined(__x86_64__)
#define NORM_TARGET __attribute__((target("avx512f")))
#define NORM_NAME(x) x##_avx512
#include "norm_loops.h"

#endif

static const loops *loops_for(const kd_norm *n)
{
#if defined(__x86_64__)
    if (!n->portable && __builtin_cpu_supports("avx512f"))
        return &loops_avx512;
#endif
    (void)n;
    return &loops_any;
}

/* ---- shapes */

static int64_t common_multiple(int64_t channels)
{
    int64_t rest = SIDE, n = channels;
    while (n % 2 == 0 && rest > 1) {
        n /= 2;
        rest /= 2;
    }
    return channels * rest;
}

bool kd_norm_shape_of(const dnnl_memory_desc_t *md, kd_norm_shape *out)
{
    kd_layout l;
    if (!kd_layout_of(md, &l))
        return false;
    const bool nhwc = l.block == 1 && (l.c == 1 || l.sc == 1) && (l.w == 1 || l.sw == l.c) &&
                      (l.h == 1 || l.sh == l.w * l.c) && (l.n == 1 || l.sn == l.h * l.w * l.c);
    const bool blocked = (l.w == 1 || l.sw == l.block) && (l.h == 1 || l.sh == l.w * l.block);
    if (nhwc)
        *out = (kd_norm_shape){
            .groups = 1, .stretches = 1, .len = l.n * l.h * l.w * l.c, .channels = l.c};
    else if (blocked)
        *out = (kd_norm_shape){.groups = (l.c + l.block - 1) / l.block,
                               .group_step = l.sc,
                               .stretches = l.n,
                               .stretch_step = l.sn,
                               .len = l.h * l.w * l.block,
                               .channels = l.block};
    else
        return false;
    out->lanes = common_multiple(out->channels);
    return true;
}

/* Doubles first. */
enum { DOUBLES = 2, FLOATS = 5 };

size_t kd_norm_scratch(const kd_norm_shape *shape)
{
    return (size_t)shape->lanes * (DOUBLES * sizeof(double) + FLOATS * sizeof(float));
}

static tables tables_of(const kd_norm *n)
{
    const int64_t lanes = n->shape.lanes;
    float *f = (float *)(void *)((double *)n->scratch + DOUBLES * lanes);
    return (tables){.mean = f,
                    .scale = f + lanes,
                    .shift = f + 2 * lanes,
                    .least = f + 3 * lanes,
                    .slope = f + 4 * lanes};
}

static tables at_lane(const tables *t, int64_t lane)
{
    return (tables){.mean = t->mean + lane,
                    .scale = t->scale + lane,
                    .shift = t->shift + lane,
                    .least = t->least + lane,
                    .slope = t->slope + lane};
}

/* ---- walking: a group's stretches as tiles of whole rows, then what is left of each */

typedef struct {
    const kd_norm *n;
    const loops *do_;
    tables t;
    int64_t base;  /* of the group, in floats */
    int64_t first; /* channel of the group */
    double *sum, *product;
} group;

typedef void visit(const group *g, int64_t at, int64_t lane, int64_t rows, int64_t count);

/* count: floats of the row that exist; SIDE but where a stretch ends. */
static void walk(const group *g, visit *tile)
{
    const kd_norm_shape *s = &g->n->shape;
    const int64_t rows = s->len / s->lanes, rest = s->len % s->lanes;
    const int64_t step = KD_MAX(TILE_FLOATS / s->lanes, (int64_t)1);
    for (int64_t k = 0; k < s->stretches; k++) {
        const int64_t base = g->base + k * s->stretch_step;
        for (int64_t row = 0; row < rows; row += step)
            for (int64_t lane = 0; lane < s->lanes; lane += SIDE)
                tile(g, base + row * s->lanes + lane, lane, KD_MIN(step, rows - row), SIDE);
        for (int64_t lane = 0; lane < rest; lane += SIDE)
            tile(g, base + rows * s->lanes + lane, lane, 1, KD_MIN(rest - lane, (int64_t)SIDE));
    }
}

static const float *padded(float *buffer, const float *from, int64_t count)
{
    if (!from)
        return NULL;
    memset(buffer, 0, SIDE * sizeof *buffer);
    memcpy(buffer, from, (size_t)count * sizeof *buffer);
    return buffer;
}

/* ---- forward */

static void moments_of(const group *g)
{
    const kd_norm_shape *s = &g->n->shape;
    const int64_t rows = s->len / s->lanes, rest = s->len % s->lanes;
    const int64_t step = KD_MAX(TILE_FLOATS / s->lanes, (int64_t)1);
    double *mean = g->sum, *m2 = g->product;
    memset(mean, 0, (size_t)(2 * s->lanes) * sizeof *mean);
    int64_t before = 0;
    for (int64_t k = 0; k < s->stretches; k++) {
        const float *x = g->n->x + g->base + k * s->stretch_step;
        for (int64_t row = 0; row < rows; row += step) {
            const int64_t more = KD_MIN(step, rows - row);
            for (int64_t lane = 0; lane < s->lanes; lane += SIDE)
                g->do_->moments(x + row * s->lanes + lane, more, s->lanes, before, mean + lane,
                                m2 + lane);
            before += more;
        }
    }
    for (int64_t k = 0; k < s->stretches; k++)
        for (int64_t i = 0; i < rest; i++) {
            const double x = (double)g->n->x[g->base + k * s->stretch_step + rows * s->lanes + i];
            const double d = x - mean[i];
            mean[i] += d / (double)(before + k + 1);
            m2[i] += d * (x - mean[i]);
        }
}

/* Of each channel, from its lanes. */
static void join_moments(const group *g)
{
    const kd_norm_shape *s = &g->n->shape;
    const int64_t rows = s->len / s->lanes * s->stretches, rest = s->len % s->lanes;
    for (int64_t c = 0; c < s->channels; c++) {
        double mean = 0, m2 = 0, all = 0;
        for (int64_t i = c; i < s->lanes; i += s->channels) {
            const double count = (double)(rows + (i < rest ? s->stretches : 0));
            mean += count * g->sum[i];
            all += count;
        }
        mean /= all;
        for (int64_t i = c; i < s->lanes; i += s->channels) {
            const double count = (double)(rows + (i < rest ? s->stretches : 0));
            const double d = g->sum[i] - mean;
            m2 += g->product[i] + count * d * d;
        }
        g->n->mean[g->first + c] = (float)mean;
        g->n->var[g->first + c] = (float)(m2 / all);
    }
}

static double spread(const kd_norm *n, int64_t channel)
{
    return sqrt((double)n->var[channel] + n->eps);
}

static void fill_tables(const group *g)
{
    const kd_norm *n = g->n;
    for (int64_t i = 0; i < n->shape.channels; i++) {
        const int64_t c = g->first + i;
        g->t.mean[i] = n->mean[c];
        g->t.scale[i] = (float)((double)n->gamma[c] / spread(n, c));
        g->t.shift[i] = n->beta[c];
    }
    for (int64_t i = n->shape.channels; i < n->shape.lanes; i++) {
        g->t.mean[i] = g->t.mean[i - n->shape.channels];
        g->t.scale[i] = g->t.scale[i - n->shape.channels];
        g->t.shift[i] = g->t.shift[i - n->shape.channels];
    }
}

static void normalise_tile(const group *g, int64_t at, int64_t lane, int64_t rows, int64_t count)
{
    const kd_norm *n = g->n;
    const tables t = at_lane(&g->t, lane);
    const float *x = n->x + at, *r = n->r ? n->r + at : NULL;
    if (count == SIDE) {
        g->do_->normalise(n, &t, x, r, n->y + at, rows, n->shape.lanes);
        return;
    }
    float px[SIDE], pr[SIDE], y[SIDE];
    g->do_->normalise(n, &t, padded(px, x, count), padded(pr, r, count), y, 1, SIDE);
    memcpy(n->y + at, y, (size_t)count * sizeof *y);
}

static group group_of(const kd_norm *n, int64_t i)
{
    double *scratch = n->scratch;
    return (group){.n = n,
                   .do_ = loops_for(n),
                   .t = tables_of(n),
                   .base = i * n->shape.group_step,
                   .first = i * n->shape.channels,
                   .sum = scratch,
                   .product = scratch + n->shape.lanes};
}

void kd_norm_forward(const kd_norm *n)
{
    for (int64_t i = 0; i < n->shape.groups; i++) {
        const group g = group_of(n, i);
        if (n->own) {
            moments_of(&g);
            join_moments(&g);
        }
        fill_tables(&g);
        walk(&g, normalise_tile);
    }
}

/* ---- backward */

static void reduce_tile(const group *g, int64_t at, int64_t lane, int64_t rows, int64_t count)
{
    const kd_norm *n = g->n;
    const tables t = at_lane(&g->t, lane);
    const place all = {.x = n->x + at,
                       .r = n->r ? n->r + at : NULL,
                       .d_y = n->d_y + at,
                       .g = n->g ? n->g + at : NULL,
                       .frozen = n->own || !n->d_x ? NULL : n->d_x + at};
    if (count == SIDE) {
        g->do_->reduce(n, &t, &all, rows, n->shape.lanes, g->sum + lane, g->product + lane);
        return;
    }
    float x[SIDE], r[SIDE], d_y[SIDE], kept[SIDE], d_x[SIDE];
    const place part = {.x = padded(x, all.x, count),
                        .r = padded(r, all.r, count),
                        .d_y = padded(d_y, all.d_y, count),
                        .g = all.g ? kept : NULL,
                        .frozen = all.frozen ? d_x : NULL};
    g->do_->reduce(n, &t, &part, 1, SIDE, g->sum + lane, g->product + lane);
    if (all.g)
        memcpy(all.g, kept, (size_t)count * sizeof *kept);
    if (all.frozen)
        memcpy(all.frozen, d_x, (size_t)count * sizeof *d_x);
}

/* The parameters' gradients, and for the input's what the loops read. */
static void join_sums(const group *g)
{
    const kd_norm *n = g->n;
    const kd_norm_shape *s = &n->shape;
    const double places = (double)(s->stretches * s->len / s->channels);
    for (int64_t i = 0; i < s->channels; i++) {
        const int64_t c = g->first + i;
        const double scale = 1 / spread(n, c);
        double sum = 0, product = 0;
        for (int64_t k = i; k < s->lanes; k += s->channels) {
            sum += g->sum[k];
            product += g->product[k];
        }
        n->d_beta[c] = (float)sum;
        n->d_gamma[c] = (float)(product * scale);
        for (int64_t k = i; k < s->lanes; k += s->channels) {
            g->t.least[k] = (float)(sum / places);
            g->t.slope[k] = (float)(product * scale * scale / places);
        }
    }
}

static void apply_tile(const group *g, int64_t at, int64_t lane, int64_t rows, int64_t count)
{
    const kd_norm *n = g->n;
    const tables t = at_lane(&g->t, lane);
    const place all = {.x = n->x + at, .d_y = n->d_y + at, .g = n->g ? n->g + at : NULL};
    if (count == SIDE) {
        g->do_->apply(n, &t, &all, n->d_x + at, rows, n->shape.lanes);
        return;
    }
    float x[SIDE], d_y[SIDE], kept[SIDE], d_x[SIDE];
    place part = {.x = padded(x, all.x, count), .d_y = padded(d_y, all.d_y, count)};
    if (all.g) {
        (void)padded(kept, all.g, count);
        part.g = kept;
    }
    g->do_->apply(n, &t, &part, d_x, 1, SIDE);
    memcpy(n->d_x + at, d_x, (size_t)count * sizeof *d_x);
}

void kd_norm_backward(const kd_norm *n)
{
    for (int64_t i = 0; i < n->shape.groups; i++) {
        const group g = group_of(n, i);
        memset(g.sum, 0, (size_t)(DOUBLES * n->shape.lanes) * sizeof *g.sum);
        fill_tables(&g);
        walk(&g, reduce_tile);
        join_sums(&g);
        if (n->own && n->d_x)
            walk(&g, apply_tile);
    }
}

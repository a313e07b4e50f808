#include <string.h>

#include "conv.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define FAST __attribute__((target("avx512f")))
#define INLINE static inline __attribute__((always_inline)) FAST
/* Or the compiler keeps an address for each place, more than there are registers. */
#define HIDE(pointer) __asm__("" : "+r"(pointer))
#endif

/* A convolution and the max pool behind it in one pass: the values in between, many times as large
 * as what goes in and comes out, stay in registers, and the gradient goes through the places that
 * won alone, one in kernel_h * kernel_w. Sixteen output channels side by side, and for each window
 * a sum for each of its places.
 *
 * A place's sum starts from the bias and takes its products row by row of the kernel, in a row
 * place by place, channel by channel, each with one rounding. Of equal places the first wins. */
enum { LANES = 16, MOST_ROW = 64, MOST_OUT = 1 << 16 };

typedef struct {
    dnnl_memory_t padded; /* the input with its padding, NHWC; NULL: as it comes */
    dnnl_memory_t d_inside;
    kd_prim *pad, *unpad;
    int x, d_x;       /* blocks; d_x -1 = no gradient is wanted */
    int weights;      /* [blocks][kernel_h][row][LANES] */
    int back_weights; /* [blocks * LANES][kernel_h][vectors * LANES], -1 = as d_x */
    int bias;         /* [blocks * LANES] */
    int won;          /* bytes, place in the window: [n][blocks][h][w][LANES], -1 = not kept */
    int d_weights;    /* [LANES][kernel_h][vectors * LANES] of one channel block, then [LANES] */
    size_t x_floats;
} state;

typedef struct {
    const kd_node *conv, *pool;
    int64_t n, c, h, w;     /* of the input with its padding */
    int64_t out, blocks;    /* channels, in blocks of LANES */
    int64_t row, vectors;   /* floats of one row of the kernel, the same in vectors */
    int64_t x_row, x_image; /* floats from row to row, image to image */
    int64_t down, right;    /* floats from place to place in the convolution's output */
} shape;

typedef struct {
    const float *x, *d_y, *weights; /* weights as in state.back_weights */
    const uint8_t *won;
    float *d_x; /* NULL = not wanted */
    float *sums, *bias;
} gradients;

static shape shape_of(const kd_plan *p, const kd_task *t)
{
    const kd_node *conv = &p->graph->nodes[t->node], *in = &p->graph->nodes[t->in[0]];
    shape s = {.conv = conv, .pool = &p->graph->nodes[t->pool], .n = p->n, .c = in->c};
    s.h = in->h + conv->pad[0] + conv->pad[2];
    s.w = in->w + conv->pad[1] + conv->pad[3];
    s.out = conv->c;
    s.blocks = (conv->c + LANES - 1) / LANES;
    s.row = (int64_t)conv->kernel_w * in->c;
    s.vectors = (s.row + LANES - 1) / LANES;
    s.x_row = s.w * s.c;
    s.x_image = s.h * s.x_row;
    s.down = conv->stride_h * s.x_row;
    s.right = conv->stride_w * s.c;
    return s;
}

#if defined(__x86_64__)

bool kd_conv_pool_fits(const kd_plan *p, const kd_task *t, const kd_node *pool)
{
    const kd_node *conv = &p->graph->nodes[t->node], *in = &p->graph->nodes[t->in[0]];
    const bool square = pool->kernel_h == pool->kernel_w && pool->kernel_h == pool->stride_h &&
                        pool->kernel_w == pool->stride_w && pool->kernel_h >= 2 &&
                        pool->kernel_h <= 4;
    const bool plain = conv->groups == 1 && conv->dilation_h == 1 && conv->dilation_w == 1 &&
                       !(pool->pad[0] | pool->pad[1] | pool->pad[2] | pool->pad[3]);
    return __builtin_cpu_supports("avx512f") && square && plain && t->residual < 0 &&
           (int64_t)conv->kernel_w * in->c <= MOST_ROW && conv->c <= MOST_OUT;
}

/* ---- one row of windows */

/* `wide` windows side by side; SIDE and wide are constants where it is inlined. */
INLINE void windows(const shape *s, const float *x, const float *weights, __m512 bias, int side,
                    int wide, float *y, uint8_t *won)
{
    const int across = side * wide;
    __m512 sum[4 * 8];
#pragma GCC unroll 32
    for (int i = 0; i < side * across; i++)
        sum[i] = bias;
    for (int ky = 0; ky < s->conv->kernel_h; ky++) {
        const float *row[4];
#pragma GCC unroll 8
        for (int py = 0; py < side; py++) {
            row[py] = x + ky * s->x_row + py * s->down;
            HIDE(row[py]);
        }
        for (int64_t k = 0; k < s->row; k++) {
            const __m512 w = _mm512_loadu_ps(weights);
            weights += LANES;
#pragma GCC unroll 8
            for (int py = 0; py < side; py++) {
#pragma GCC unroll 8
                for (int px = 0; px < across; px++)
                    sum[py * across + px] = _mm512_fmadd_ps(_mm512_set1_ps(row[py][px * s->right]),
                                                            w, sum[py * across + px]);
                row[py]++;
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < wide; i++) {
        __m512 best = sum[i * side];
        __m512i place = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (int py = 0; py < side; py++)
#pragma GCC unroll 8
            for (int px = 0; px < side; px++) {
                const __m512 v = sum[py * across + i * side + px];
                const __mmask16 more = _mm512_cmp_ps_mask(v, best, _CMP_GT_OQ);
                best = _mm512_mask_mov_ps(best, more, v);
                place = _mm512_mask_mov_epi32(place, more, _mm512_set1_epi32(py * side + px));
            }
        _mm512_storeu_ps(y + i * LANES, best);
        if (won)
            _mm_storeu_si128((__m128i *)(won + i * LANES), _mm512_cvtepi32_epi8(place));
    }
}

INLINE void window_row(const shape *s, const float *x, const float *weights, __m512 bias, int side,
                       int wide, float *y, uint8_t *won)
{
    const int64_t step = side * s->right;
    int64_t i = 0;
    for (; i + wide <= s->pool->w; i += wide)
        windows(s, x + i * step, weights, bias, side, wide, y + i * LANES,
                won ? won + i * LANES : NULL);
    for (; i < s->pool->w; i++)
        windows(s, x + i * step, weights, bias, side, 1, y + i * LANES,
                won ? won + i * LANES : NULL);
}

FAST static void run_forward(const shape *s, const float *x, const float *weights,
                             const float *bias, float *y, uint8_t *won)
{
    const int side = s->pool->kernel_h;
    for (int64_t n = 0; n < s->n; n++)
        for (int64_t oy = 0; oy < s->pool->h; oy++)
            for (int64_t b = 0; b < s->blocks; b++) {
                const float *from = x + n * s->x_image + oy * side * s->down;
                const float *w = weights + b * s->conv->kernel_h * s->row * LANES;
                const __m512 start = _mm512_loadu_ps(bias + b * LANES);
                const int64_t at = (((n * s->blocks + b) * s->pool->h + oy) * s->pool->w) * LANES;
                uint8_t *places = won ? won + at : NULL;
                if (side == 2)
                    window_row(s, from, w, start, 2, 4, y + at, places);
                else if (side == 3)
                    window_row(s, from, w, start, 3, 2, y + at, places);
                else
                    window_row(s, from, w, start, 4, 1, y + at, places);
            }
}

/* ---- backward */

/* sums += g * x at the winner of each lane of one window. */
INLINE void add_weights(const shape *s, const float *x, const int64_t *places, const uint8_t *won,
                        const float *g, int rows, int64_t vectors, __mmask16 tail, float *sums)
{
    const int64_t size = rows * vectors * LANES;
    for (int lane = 0; lane < LANES; lane++, sums += size) {
        const float *from = x + places[won[lane]];
        const __m512 slope = _mm512_set1_ps(g[lane]);
        float *sum = sums;
#pragma GCC unroll 4
        for (int ky = 0; ky < rows; ky++, from += s->x_row, sum += vectors * LANES)
            for (int64_t v = 0; v < vectors; v++) {
                const __mmask16 mask = v + 1 < vectors ? 0xffff : tail;
                const __m512 a = _mm512_maskz_loadu_ps(mask, from + v * LANES);
                _mm512_storeu_ps(sum + v * LANES,
                                 _mm512_fmadd_ps(slope, a, _mm512_loadu_ps(sum + v * LANES)));
            }
    }
}

/* d_x += g * w at the winner of each lane. */
INLINE void add_input(const shape *s, float *d_x, const int64_t *places, const uint8_t *won,
                      const float *g, int rows, int64_t vectors, __mmask16 tail,
                      const float *weights)
{
    for (int lane = 0; lane < LANES; lane++) {
        float *to = d_x + places[won[lane]];
        const __m512 slope = _mm512_set1_ps(g[lane]);
#pragma GCC unroll 4
        for (int ky = 0; ky < rows; ky++, to += s->x_row, weights += vectors * LANES)
            for (int64_t v = 0; v < vectors; v++) {
                const __mmask16 mask = v + 1 < vectors ? 0xffff : tail;
                const __m512 a = _mm512_maskz_loadu_ps(mask, to + v * LANES);
                const __m512 w = _mm512_loadu_ps(weights + v * LANES);
                _mm512_mask_storeu_ps(to + v * LANES, mask, _mm512_fmadd_ps(slope, w, a));
            }
    }
}

/* One block of output channels over the whole batch; `vectors`, and `rows` of the kernel where it
 * matters, are constants where it is inlined. */
INLINE void block_backward(const shape *s, const gradients *o, int64_t b, int rows, int64_t vectors)
{
    const int side = s->pool->kernel_h;
    const __mmask16 tail = (__mmask16)(0xffff >> (vectors * LANES - s->row));
    const float *weights = o->weights ? o->weights + b * LANES * rows * vectors * LANES : NULL;
    int64_t places[16];
    __m512 bias = _mm512_setzero_ps();
    for (int i = 0; i < side * side; i++)
        places[i] = i / side * s->down + i % side * s->right;
    for (int64_t n = 0; n < s->n; n++)
        for (int64_t oy = 0; oy < s->pool->h; oy++) {
            const int64_t row = (((n * s->blocks + b) * s->pool->h + oy) * s->pool->w) * LANES;
            const int64_t corner = n * s->x_image + oy * side * s->down;
            for (int64_t ox = 0; ox < s->pool->w; ox++) {
                const float *g = o->d_y + row + ox * LANES;
                const uint8_t *won = o->won + row + ox * LANES;
                const int64_t at = corner + ox * side * s->right;
                bias = _mm512_add_ps(bias, _mm512_loadu_ps(g));
                add_weights(s, o->x + at, places, won, g, rows, vectors, tail, o->sums);
                if (weights)
                    add_input(s, o->d_x + at, places, won, g, rows, vectors, tail, weights);
            }
        }
    _mm512_storeu_ps(o->bias, bias);
}

FAST static void run_backward(const shape *s, const gradients *o, int64_t b)
{
    const int rows = s->conv->kernel_h;
    if (s->vectors == 1 && rows == 3)
        block_backward(s, o, b, 3, 1);
    else if (s->vectors == 1)
        block_backward(s, o, b, rows, 1);
    else if (s->vectors == 2)
        block_backward(s, o, b, rows, 2);
    else if (s->vectors == 3)
        block_backward(s, o, b, rows, 3);
    else
        block_backward(s, o, b, rows, 4);
}

#else

bool kd_conv_pool_fits(const kd_plan *p, const kd_task *t, const kd_node *pool)
{
    (void)p, (void)t, (void)pool;
    return false;
}
static void run_forward(const shape *s, const float *x, const float *weights, const float *bias,
                        float *y, uint8_t *won)
{
    (void)s, (void)x, (void)weights, (void)bias, (void)y, (void)won;
}
static void run_backward(const shape *s, const gradients *o, int64_t b)
{
    (void)s, (void)o, (void)b;
}

#endif

/* ---- preparing */

/* The input in NHWC with its padding around it, or as it comes where it is that already. */
static int prepare_input(kd_plan *p, const kd_task *t, state *s, const shape *o, kd_diag *diag)
{
    const kd_value *in = &p->values[t->in[0]];
    const kd_node *node = &p->graph->nodes[t->in[0]];
    const int tick = kd_tick_forward(t), back = kd_tick_backward(p, t);
    const dnnl_memory_desc_t padded = kd_plan_desc(p, (int)o->c, (int)o->h, (int)o->w, dnnl_nhwc);
    const dnnl_dims_t dims = {p->n, node->c, node->h, node->w};
    const dnnl_dims_t corner = {0, 0, o->conv->pad[0], o->conv->pad[1]};
    dnnl_memory_desc_t inside;
    int rc = kd_onednn(dnnl_memory_desc_init_submemory(&inside, &padded, dims, corner),
                       "padded input", diag);
    s->x_floats = (size_t)(o->n * o->x_image);
    s->x = in->block;
    if (!rc && !kd_desc_equal(&padded, &in->md)) {
        rc = kd_plan_new_block(p, s->x_floats * sizeof(float), tick, p->training ? back : tick,
                               &s->x, diag);
        if (!rc)
            rc = kd_plan_memory(p, &inside, s->x, &s->padded, diag);
        if (!rc)
            rc = kd_plan_reorder(p, &in->md, in->mem, &inside, s->padded, tick, &s->pad, diag);
    }
    if (rc || !p->training || !t->d_in[0])
        return rc;
    rc = kd_plan_new_block(p, s->x_floats * sizeof(float), back, back, &s->d_x, diag);
    if (!rc)
        rc = kd_plan_memory(p, &inside, s->d_x, &s->d_inside, diag);
    return rc ? rc
              : kd_plan_reorder(p, &inside, s->d_inside, &in->md, t->d_in[0], back, &s->unpad,
                                diag);
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a convolution.");
    const shape o = shape_of(p, t);
    const int tick = kd_tick_forward(t), back = kd_tick_backward(p, t);
    const int64_t kernel = o.conv->kernel_h * o.vectors * LANES, floats = sizeof(float);
    const dnnl_memory_desc_t md = kd_plan_desc(p, o.pool->c, o.pool->h, o.pool->w, dnnl_nChw16c);
    s->d_x = s->back_weights = s->won = s->d_weights = -1;
    int rc = kd_plan_make_value(p, t, &md, -1, diag);
    if (!rc)
        rc = prepare_input(p, t, s, &o, diag);
    if (!rc)
        rc = kd_plan_new_block(p, o.blocks * o.conv->kernel_h * o.row * LANES * floats, 0,
                               KD_TICK_EVER, &s->weights, diag);
    if (!rc)
        rc = kd_plan_new_block(p, o.blocks * LANES * floats, 0, KD_TICK_EVER, &s->bias, diag);
    if (!rc && t->bn >= 0) {
        rc = kd_plan_staging(p, p->graph->params[o.conv->weight].count * sizeof(float), diag);
        rc = KD_MIN(rc, 0);
    }
    if (rc || !p->training)
        return rc;
    rc = kd_plan_new_block(p, o.n * o.blocks * o.pool->h * o.pool->w * LANES, tick, back, &s->won,
                           diag);
    if (!rc)
        rc = kd_plan_new_block(p, (LANES * kernel + LANES) * floats, back, back, &s->d_weights,
                               diag);
    if (!rc && s->d_x >= 0)
        rc = kd_plan_new_block(p, o.blocks * LANES * kernel * floats, 0, KD_TICK_EVER,
                               &s->back_weights, diag);
    return rc;
}

/* ---- running */

/* From [out][c][kernel_h][kernel_w]. */
static void pack(const shape *o, const float *weights, float *to, float *back)
{
    const int kh = o->conv->kernel_h, kw = o->conv->kernel_w;
    memset(to, 0, (size_t)(o->blocks * kh * o->row * LANES) * sizeof *to);
    if (back)
        memset(back, 0, (size_t)(o->blocks * LANES * kh * o->vectors * LANES) * sizeof *back);
    for (int64_t out = 0; out < o->out; out++)
        for (int64_t c = 0; c < o->c; c++)
            for (int ky = 0; ky < kh; ky++)
                for (int kx = 0; kx < kw; kx++) {
                    const float w = *weights++;
                    const int64_t k = kx * o->c + c;
                    to[((out / LANES * kh + ky) * o->row + k) * LANES + out % LANES] = w;
                    if (back)
                        back[(out * kh + ky) * o->vectors * LANES + k] = w;
                }
}

static int load(kd_plan *p, const kd_task *t, const float *vector, kd_diag *diag)
{
    const state *s = t->state;
    const shape o = shape_of(p, t);
    const float *weights;
    memset(kd_plan_data(p, s->bias), 0, (size_t)(o.blocks * LANES) * sizeof(float));
    const int rc = kd_conv_weights(p, t, vector, s->bias, &weights, diag);
    if (rc)
        return rc;
    pack(&o, weights, kd_plan_data(p, s->weights),
         s->back_weights >= 0 ? kd_plan_data(p, s->back_weights) : NULL);
    return 0;
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    const shape o = shape_of(p, t);
    float *x = kd_plan_data(p, s->x);
    if (s->pad)
        memset(x, 0, s->x_floats * sizeof *x);
    const int rc = kd_prim_run(p, s->pad, diag);
    if (!rc)
        run_forward(&o, x, kd_plan_data(p, s->weights), kd_plan_data(p, s->bias),
                    kd_plan_data(p, p->values[t->result].block),
                    s->won >= 0 ? (uint8_t *)kd_plan_data(p, s->won) : NULL);
    return rc;
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)stat_weight;
    const state *s = t->state;
    const shape o = shape_of(p, t);
    const kd_param *params = p->graph->params;
    const int kh = o.conv->kernel_h, kw = o.conv->kernel_w;
    float *sums = kd_plan_data(p, s->d_weights);
    const size_t kernel = (size_t)kh * (size_t)o.vectors * LANES;
    gradients g = {.x = kd_plan_data(p, s->x),
                   .d_y = kd_plan_data(p, p->values[t->result].d_block),
                   .won = (const uint8_t *)kd_plan_data(p, s->won),
                   .sums = sums,
                   .bias = sums + LANES * kernel};
    if (s->d_x >= 0) {
        g.d_x = kd_plan_data(p, s->d_x);
        g.weights = kd_plan_data(p, s->back_weights);
        memset(g.d_x, 0, s->x_floats * sizeof *g.d_x);
    }
    for (int64_t b = 0; b < o.blocks; b++) {
        const int64_t first = b * LANES, lanes = KD_MIN(o.out - first, (int64_t)LANES);
        memset(sums, 0, LANES * kernel * sizeof *sums);
        run_backward(&o, &g, b);
        float *d_w = gradient + params[o.conv->weight].offset + first * o.c * kh * kw;
        for (int64_t lane = 0; lane < lanes; lane++)
            for (int64_t c = 0; c < o.c; c++)
                for (int ky = 0; ky < kh; ky++)
                    for (int kx = 0; kx < kw; kx++)
                        *d_w++ = sums[(size_t)(lane * kh + ky) * (size_t)o.vectors * LANES +
                                      (size_t)(kx * o.c + c)];
        if (o.conv->bias >= 0)
            memcpy(gradient + params[o.conv->bias].offset + first, g.bias,
                   (size_t)lanes * sizeof(float));
    }
    return kd_prim_run(p, s->unpad, diag);
}

const kd_op_impl kd_op_conv_pool = {.name = "convolution with max pool",
                                    .prepare = prepare,
                                    .load = load,
                                    .forward = forward,
                                    .backward = backward};

/* Flowers are drawn straight into 8-bit RGB, back to front, each shape with edges blended over one
 * pixel. The kinds share their colours, backgrounds, stems and leaves; what tells them apart is how
 * a head is built. No function of libm stands in the way of equal bytes: turns are our own
 * polynomial, and square roots are exact by IEEE 754. Every draw is a statement of its own, since C
 * leaves the order of a call's arguments to the compiler. */
#include "data/flowers.h"

#include "data/decode.h"
#include "kd/buf.h"
#include "kd/clock.h"
#include "kd/file.h"
#include "kd/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PICTURES 1000000
#define PATH_ROOM 3800
#define JPEG_QUALITY 92

enum { DAISY, DANDELION, ROSES, SUNFLOWERS, TULIPS };
static const char *const g_names[KD_FLOWERS_CLASSES] = {"daisy", "dandelion", "roses", "sunflowers",
                                                        "tulips"};

typedef struct canvas {
    int n;
    uint8_t *px; /* [n,n,3] */
} canvas;

typedef struct colour {
    float c[3]; /* 0..255 */
} colour;

/* A head's own coordinates: its radius is 1. */
typedef struct frame {
    float cx, cy;     /* pixels */
    float to[2][2];   /* head -> pixels */
    float from[2][2]; /* pixels -> head */
    float pixel;      /* size of a pixel in head units, along the more squeezed axis */
} frame;

/* ---- numbers */

static float uniform(kd_rng *r, float lo, float hi)
{
    return lo + (hi - lo) * kd_rng_float(r);
}

static bool chance(kd_rng *r, float p)
{
    return kd_rng_float(r) < p;
}

static float clampf(float x, float lo, float hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

/* sin(2 pi t), Taylor to the ninth power on a quarter turn: error below 4e-6. */
static float sin_turn(float t)
{
    t -= floorf(t + 0.5f);
    if (t > 0.25f)
        t = 0.5f - t;
    else if (t < -0.25f)
        t = -0.5f - t;
    float x = t * 6.28318531f, q = x * x;
    return x * (1 + q * (-1.0f / 6 + q * (1.0f / 120 + q * (-1.0f / 5040 + q * (1.0f / 362880)))));
}

static float cos_turn(float t)
{
    return sin_turn(t + 0.25f);
}

static colour mix(colour a, colour b, float t)
{
    for (int k = 0; k < 3; k++)
        a.c[k] += (b.c[k] - a.c[k]) * t;
    return a;
}

static colour scaled(colour a, float f)
{
    for (int k = 0; k < 3; k++)
        a.c[k] *= f;
    return a;
}

static colour jittered(kd_rng *r, colour a, float by)
{
    float all = uniform(r, -by, by);
    for (int k = 0; k < 3; k++)
        a.c[k] = clampf(a.c[k] + all + uniform(r, -by, by) * 0.6f, 0, 255);
    return a;
}

/* ---- shapes */

static void blend(canvas *cv, int x, int y, colour col, float alpha)
{
    uint8_t *p = cv->px + 3 * ((size_t)y * (size_t)cv->n + (size_t)x);
    for (int k = 0; k < 3; k++) {
        float v = (float)p[k] + (clampf(col.c[k], 0, 255) - (float)p[k]) * alpha;
        p[k] = (uint8_t)(v + 0.5f);
    }
}

static frame frame_make(float cx, float cy, float radius, float turn, float squash, float axis)
{
    float ca = cos_turn(axis), sa = sin_turn(axis), ct = cos_turn(turn), st = sin_turn(turn);
    /* Turn the head, then squeeze it along the axis it is tilted over. */
    float sq[2][2] = {{ca * ca + squash * sa * sa, (1 - squash) * ca * sa},
                      {(1 - squash) * ca * sa, sa * sa + squash * ca * ca}};
    frame f = {.cx = cx, .cy = cy, .pixel = 1 / (radius * squash)};
    f.to[0][0] = radius * (sq[0][0] * ct + sq[0][1] * st);
    f.to[0][1] = radius * (-sq[0][0] * st + sq[0][1] * ct);
    f.to[1][0] = radius * (sq[1][0] * ct + sq[1][1] * st);
    f.to[1][1] = radius * (-sq[1][0] * st + sq[1][1] * ct);
    float det = f.to[0][0] * f.to[1][1] - f.to[0][1] * f.to[1][0];
    f.from[0][0] = f.to[1][1] / det;
    f.from[0][1] = -f.to[0][1] / det;
    f.from[1][0] = -f.to[1][0] / det;
    f.from[1][1] = f.to[0][0] / det;
    return f;
}

typedef struct box {
    int x0, y0, x1, y1; /* half open, inside the canvas */
} box;

/* Pixels that a parallelogram at (x, y) with half sides (ax, ay), (bx, by) in head units touches.
 */
static box box_of(const canvas *cv, const frame *f, float x, float y, float ax, float ay, float bx,
                  float by)
{
    float px = f->cx + f->to[0][0] * x + f->to[0][1] * y;
    float py = f->cy + f->to[1][0] * x + f->to[1][1] * y;
    float ex =
        fabsf(f->to[0][0] * ax + f->to[0][1] * ay) + fabsf(f->to[0][0] * bx + f->to[0][1] * by) + 1;
    float ey =
        fabsf(f->to[1][0] * ax + f->to[1][1] * ay) + fabsf(f->to[1][0] * bx + f->to[1][1] * by) + 1;
    float n = (float)cv->n;
    return (box){(int)clampf(floorf(px - ex), 0, n), (int)clampf(floorf(py - ey), 0, n),
                 (int)clampf(floorf(px + ex) + 1, 0, n), (int)clampf(floorf(py + ey) + 1, 0, n)};
}

enum profile { STRAP, LENS, ROUND, OGIVE };

/* Half width, 0..1, of a petal at the share u of its length. */
static float profile_at(enum profile kind, float u)
{
    switch (kind) {
    case STRAP: { /* narrow at the base, blunt tip */
        float w = 0.5f + 0.5f * u, t = (u - 0.7f) / 0.3f;
        return t > 0 ? w * sqrtf(1 - t * t) : w;
    }
    case LENS: /* pointed */
        return 4 * u * (1 - u) * (1.15f - 0.3f * u);
    case ROUND: { /* rose petal: broad and blunt */
        float t = 1 - u;
        return sqrtf(1 - t * t * t * t) * sqrtf(1 - u * u * u * u);
    }
    case OGIVE: { /* a side of a cup: full below, drawn to a point */
        float t = (0.42f - u) / 0.42f, s = (u - 0.42f) / 0.58f;
        return t > 0 ? sqrtf(1 - t * t) : 1 - s * s;
    }
    }
    return 0;
}

typedef struct petal {
    enum profile profile;
    float x, y, turn;    /* where it grows, and where to */
    float length, width; /* width is from side to side */
    colour base, tip;
    float rim;    /* darkening at the edge, 0..1 */
    float crease; /* darkening along the middle, 0..1 */
} petal;

static void draw_petal(canvas *cv, const frame *f, const petal *p)
{
    float c = cos_turn(p->turn), s = sin_turn(p->turn), half = p->width / 2;
    float mx = p->x + c * p->length / 2, my = p->y + s * p->length / 2;
    box b = box_of(cv, f, mx, my, c * p->length / 2, s * p->length / 2, -s * half, c * half);
    float sharp = 1 / f->pixel;
    for (int y = b.y0; y < b.y1; y++)
        for (int x = b.x0; x < b.x1; x++) {
            float dx = (float)x + 0.5f - f->cx, dy = (float)y + 0.5f - f->cy;
            float lx = f->from[0][0] * dx + f->from[0][1] * dy - p->x;
            float ly = f->from[1][0] * dx + f->from[1][1] * dy - p->y;
            float along = lx * c + ly * s, off = fabsf(ly * c - lx * s);
            float u = clampf(along / p->length, 0, 1);
            float w = half * profile_at(p->profile, u);
            float cover = clampf((w - off) * sharp + 0.5f, 0, 1) *
                          clampf(along * sharp + 0.5f, 0, 1) *
                          clampf((p->length - along) * sharp + 0.5f, 0, 1);
            /* A petal thinner than a pixel covers that share of it. */
            cover *= clampf(2 * w * sharp, 0, 1);
            if (cover <= 0)
                continue;
            float edge = w > 0 ? off / w : 1;
            float end = u > 0.8f ? (u - 0.8f) * 5 : 0;
            edge = clampf(KD_MAX(edge, end), 0, 1);
            float shade = 1 - p->rim * edge * edge * edge * edge;
            float mid = 1 - clampf(off / (0.35f * half), 0, 1);
            shade *= 1 - p->crease * mid * (1 - u * u);
            blend(cv, x, y, scaled(mix(p->base, p->tip, u), shade), cover);
        }
}

/* soft: width of the blurred edge as a share of the radius. */
static void draw_disc(canvas *cv, const frame *f, float cx, float cy, float radius, colour middle,
                      colour rim, float soft, float alpha)
{
    float reach = radius * (1 + soft);
    box b = box_of(cv, f, cx, cy, reach, 0, 0, reach);
    float fade = KD_MAX(f->pixel, 2 * soft * radius);
    for (int y = b.y0; y < b.y1; y++)
        for (int x = b.x0; x < b.x1; x++) {
            float dx = (float)x + 0.5f - f->cx, dy = (float)y + 0.5f - f->cy;
            float lx = f->from[0][0] * dx + f->from[0][1] * dy - cx;
            float ly = f->from[1][0] * dx + f->from[1][1] * dy - cy;
            float d = sqrtf(lx * lx + ly * ly);
            float cover = clampf((radius - d) / fade + 0.5f, 0, 1);
            if (cover > 0) {
                float t = clampf(d / radius, 0, 1);
                blend(cv, x, y, mix(middle, rim, t * t), cover * alpha);
            }
        }
}

/* A curve of the second degree through three points in pixels, thick from w0 to w1. */
static void draw_stroke(canvas *cv, const float p[3][2], float w0, float w1, colour from, colour to)
{
    float len = fabsf(p[1][0] - p[0][0]) + fabsf(p[1][1] - p[0][1]) + fabsf(p[2][0] - p[1][0]) +
                fabsf(p[2][1] - p[1][1]);
    float thin = KD_MAX(KD_MIN(w0, w1), 0.6f);
    int steps = (int)clampf(len / (0.5f * thin), 4, 2000);
    for (int i = 0; i <= steps; i++) {
        float t = (float)i / (float)steps, s = 1 - t;
        float x = s * s * p[0][0] + 2 * s * t * p[1][0] + t * t * p[2][0];
        float y = s * s * p[0][1] + 2 * s * t * p[1][1] + t * t * p[2][1];
        float w = w0 + (w1 - w0) * t;
        frame f = frame_make(x, y, 1, 0, 1, 0);
        colour c = mix(from, to, t);
        draw_disc(cv, &f, 0, 0, KD_MAX(w / 2, 0.5f), c, scaled(c, 0.8f), 0, KD_MIN(w, 1.0f));
    }
}

/* ---- surroundings */

static colour leaf_colour(kd_rng *r)
{
    return jittered(r, mix((colour){{38, 88, 30}}, (colour){{122, 164, 62}}, kd_rng_float(r)), 14);
}

static void draw_leaf(canvas *cv, kd_rng *r, float x, float y, float turn, float length,
                      float width)
{
    frame f = frame_make(x, y, length, turn, 1, 0);
    colour c = leaf_colour(r);
    draw_petal(cv, &f,
               &(petal){.profile = LENS,
                        .length = 1,
                        .width = width,
                        .base = scaled(c, 0.75f),
                        .tip = c,
                        .rim = 0.25f,
                        .crease = 0.3f});
}

static const colour g_petals[] = {
    {{246, 244, 240}}, /* white */
    {{248, 232, 160}}, /* cream */
    {{250, 208, 36}},  /* yellow */
    {{244, 142, 30}},  /* orange */
    {{240, 138, 172}}, /* pink */
    {{206, 34, 52}},   /* red */
    {{156, 84, 186}},  /* purple */
};
#define COLOURS KD_COUNT(g_petals)

/* Chances in hundredths. Every colour is found on every kind: colour is a hint and no more. */
static const uint8_t g_chance[KD_FLOWERS_CLASSES][COLOURS] = {
    [DAISY] = {50, 14, 9, 6, 13, 2, 6},    [DANDELION] = {12, 12, 48, 15, 5, 3, 5},
    [ROSES] = {12, 9, 9, 7, 25, 35, 3},    [SUNFLOWERS] = {5, 10, 42, 32, 4, 6, 1},
    [TULIPS] = {8, 6, 15, 14, 22, 15, 20},
};

static colour petal_colour(kd_rng *r, int cls)
{
    uint32_t at = kd_rng_below(r, 100);
    size_t k = 0;
    while (k + 1 < COLOURS && at >= g_chance[cls][k])
        at -= g_chance[cls][k++];
    /* Half-way to another entry now and then, so that the palette has no gaps. */
    colour c = g_petals[k];
    if (chance(r, 0.3f)) {
        colour other = g_petals[kd_rng_below(r, COLOURS)];
        c = mix(c, other, uniform(r, 0.1f, 0.35f));
    }
    return jittered(r, c, 16);
}

static void draw_background(canvas *cv, kd_rng *r)
{
    static const colour tops[] = {{{134, 184, 232}}, {{198, 214, 226}}, {{66, 110, 52}},
                                  {{34, 52, 30}},    {{112, 92, 66}},   {{226, 222, 208}},
                                  {{24, 24, 28}},    {{96, 140, 70}}};
    static const colour bottoms[] = {{{70, 122, 48}}, {{110, 152, 74}}, {{44, 78, 34}},
                                     {{92, 74, 50}},  {{28, 40, 24}},   {{160, 150, 132}}};
    colour top = jittered(r, tops[kd_rng_below(r, KD_COUNT(tops))], 20);
    colour bottom = jittered(r, bottoms[kd_rng_below(r, KD_COUNT(bottoms))], 20);
    float n = (float)cv->n, horizon = uniform(r, 0.2f, 0.8f), haze = uniform(r, 0.08f, 0.6f);
    float tilt = uniform(r, -0.25f, 0.25f);
    for (int y = 0; y < cv->n; y++)
        for (int x = 0; x < cv->n; x++) {
            float at = ((float)y + tilt * (float)x) / n;
            float t = clampf((at - horizon) / haze + 0.5f, 0, 1);
            blend(cv, x, y, mix(top, bottom, t * t * (3 - 2 * t)), 1);
        }
    /* What is out of focus: leaves, light and flowers far behind, of any colour. */
    int blobs = (int)kd_rng_below(r, 8);
    frame f = frame_make(0, 0, n, 0, 1, 0);
    for (int i = 0; i < blobs; i++) {
        colour c =
            chance(r, 0.7f) ? leaf_colour(r) : jittered(r, g_petals[kd_rng_below(r, COLOURS)], 25);
        float x = kd_rng_float(r), y = kd_rng_float(r), radius = uniform(r, 0.04f, 0.17f);
        float soft = uniform(r, 0.4f, 0.9f), alpha = uniform(r, 0.2f, 0.55f);
        draw_disc(cv, &f, x, y, radius, c, c, soft, alpha);
    }
    if (chance(r, 0.55f)) {
        int blades = 4 + (int)kd_rng_below(r, 22);
        for (int i = 0; i < blades; i++) {
            float x = uniform(r, -0.1f, 1.1f) * n, lean = uniform(r, -0.3f, 0.3f) * n;
            float high = uniform(r, 0.1f, 0.7f) * n;
            float p[3][2] = {{x, n}, {x, n - high * 0.6f}, {x + lean, n - high}};
            colour c = leaf_colour(r);
            draw_stroke(cv, p, uniform(r, 0.008f, 0.022f) * n, 0.004f * n, scaled(c, 0.7f), c);
        }
    }
}

static void draw_stem(canvas *cv, kd_rng *r, float x, float y, float radius, float lean)
{
    float n = (float)cv->n, foot = x + lean * n + uniform(r, -0.12f, 0.12f) * n;
    float p[3][2] = {{x, y}, {x + lean * 0.35f * n, (y + n) / 2}, {foot, n * 1.02f}};
    float w = KD_MAX(radius * uniform(r, 0.09f, 0.17f), 0.9f);
    colour c = leaf_colour(r);
    draw_stroke(cv, p, w, w * 1.3f, scaled(c, 0.8f), c);
    int leaves = (int)kd_rng_below(r, 3);
    for (int i = 0; i < leaves; i++) {
        float t = uniform(r, 0.35f, 0.95f), s = 1 - t;
        float lx = s * s * p[0][0] + 2 * s * t * p[1][0] + t * t * p[2][0];
        float ly = s * s * p[0][1] + 2 * s * t * p[1][1] + t * t * p[2][1];
        float side = chance(r, 0.5f) ? uniform(r, -0.24f, -0.04f) : uniform(r, -0.46f, -0.26f);
        float length = radius * uniform(r, 0.6f, 1.6f), width = uniform(r, 0.15f, 0.5f);
        draw_leaf(cv, r, lx, ly, side, length, width);
    }
}

/* ---- heads */

typedef struct head {
    frame f;
    colour petal;
    float light; /* turn that the light comes from, in the head's own coordinates */
} head;

/* Petals that face the light are brighter. */
static float lit(const head *h, float turn)
{
    return 1 + 0.14f * cos_turn(turn - h->light);
}

/* One whorl of `count` petals from the radius `inner` to 1. */
static void draw_whorl(canvas *cv, kd_rng *r, const head *h, enum profile profile, int count,
                       float inner, float outer, float width, float start, float shade)
{
    for (int i = 0; i < count; i++) {
        float turn = start + ((float)i + uniform(r, -0.18f, 0.18f)) / (float)count;
        float len = (outer - inner) * uniform(r, 0.88f, 1.06f);
        float wide = width * uniform(r, 0.9f, 1.1f), bend = uniform(r, -0.012f, 0.012f);
        colour c = jittered(r, scaled(h->petal, shade * lit(h, turn)), 6);
        draw_petal(cv, &h->f,
                   &(petal){.profile = profile,
                            .x = inner * cos_turn(turn),
                            .y = inner * sin_turn(turn),
                            .turn = turn + bend,
                            .length = len,
                            .width = wide,
                            .base = scaled(c, 0.78f),
                            .tip = c,
                            .rim = 0.3f,
                            .crease = 0.18f});
    }
}

/* Florets in the order of the golden angle, from the middle outwards. */
static void draw_seeds(canvas *cv, const head *h, float radius, int count, colour dark, colour pale)
{
    for (int i = 0; i < count; i++) {
        float t = ((float)i + 0.5f) / (float)count, d = radius * sqrtf(t);
        float turn = 0.381966f * (float)i;
        float size = radius * 0.95f / sqrtf((float)count);
        colour c = mix(dark, pale, 0.35f + 0.4f * t + 0.25f * cos_turn(turn - h->light));
        draw_disc(cv, &h->f, d * cos_turn(turn), d * sin_turn(turn), size, c, scaled(c, 0.6f), 0.1f,
                  0.85f);
    }
}

/* Mostly gold on a daisy and dark on a sunflower, now and then the other way about. */
static colour centre_colour(kd_rng *r, bool dark)
{
    static const colour gold[] = {{{236, 184, 34}}, {{214, 148, 30}}, {{190, 170, 52}}};
    static const colour brown[] = {{{92, 56, 28}}, {{54, 36, 26}}, {{112, 70, 30}}};
    if (chance(r, 0.1f))
        dark = !dark;
    return jittered(r, dark ? brown[kd_rng_below(r, 3)] : gold[kd_rng_below(r, 3)], 14);
}

/* A small disc, straps with gaps between them, blunt tips. */
static void draw_daisy(canvas *cv, kd_rng *r, const head *h)
{
    int count = 9 + (int)kd_rng_below(r, 6);
    float inner = uniform(r, 0.22f, 0.3f), start = kd_rng_float(r);
    float width = uniform(r, 0.55f, 0.72f) * 6.28f * 0.75f / (float)count;
    if (chance(r, 0.15f))
        draw_whorl(cv, r, h, STRAP, count, inner * 0.6f, 0.97f, width, start + 0.5f / (float)count,
                   0.8f);
    draw_whorl(cv, r, h, STRAP, count, inner * 0.6f, 1, width, start, 1);
    colour c = centre_colour(r, false);
    draw_disc(cv, &h->f, 0, 0, inner, c, scaled(c, 0.65f), 0, 1);
    draw_seeds(cv, h, inner * 0.9f, 24, scaled(c, 0.7f), scaled(c, 1.25f));
}

/* No disc: narrow florets lie over one another down to the middle. Or the clock: a ball of seeds.
 */
static void draw_dandelion(canvas *cv, kd_rng *r, const head *h)
{
    if (chance(r, 0.25f)) {
        colour pale = mix(h->petal, (colour){{232, 230, 226}}, 0.55f);
        draw_disc(cv, &h->f, 0, 0, 0.95f, pale, pale, 0.06f, 0.3f);
        int seeds = 70 + (int)kd_rng_below(r, 40);
        for (int i = 0; i < seeds; i++) {
            float d = sqrtf(((float)i + 0.5f) / (float)seeds), turn = 0.381966f * (float)i;
            float x = d * cos_turn(turn), y = d * sin_turn(turn);
            colour c = jittered(r, scaled(pale, lit(h, turn)), 10);
            draw_petal(cv, &h->f,
                       &(petal){.profile = STRAP,
                                .turn = turn,
                                .length = KD_MAX(d, 0.02f),
                                .width = 0.02f,
                                .base = scaled(c, 0.6f),
                                .tip = c});
            draw_disc(cv, &h->f, x, y, 0.07f, c, c, 0.5f, 0.7f);
        }
        colour core = {{96, 74, 48}};
        draw_disc(cv, &h->f, 0, 0, 0.12f, core, scaled(core, 0.7f), 0.1f, 0.9f);
        return;
    }
    float radius = 1, start = kd_rng_float(r);
    int rings = 5;
    for (int k = 0; k < rings; k++) {
        int count = 30 - 4 * k;
        float inner = radius * 0.35f;
        draw_whorl(cv, r, h, STRAP, count, inner, radius, 3.2f * radius / (float)count,
                   start + 0.37f * (float)k, 0.82f + 0.05f * (float)k);
        radius *= 0.74f;
    }
    colour c = scaled(h->petal, 0.72f);
    draw_seeds(cv, h, radius * 1.1f, 12, scaled(c, 0.8f), scaled(c, 1.3f));
}

/* Broad petals wrapped round a bud, each ring smaller, darker inside and turned on. */
static void draw_rose(canvas *cv, kd_rng *r, const head *h)
{
    float radius = 1, turn = kd_rng_float(r);
    int rings = 5 + (int)kd_rng_below(r, 2);
    for (int k = 0; k < rings; k++) {
        int count = k == 0 ? 5 + (int)kd_rng_below(r, 2) : k < 3 ? 5 : 3;
        for (int i = 0; i < count; i++) {
            float at = turn + ((float)i + uniform(r, -0.12f, 0.12f)) / (float)count;
            float dark = 1 - 0.06f * (float)k;
            colour c = jittered(r, scaled(h->petal, dark * lit(h, at)), 6);
            draw_petal(cv, &h->f,
                       &(petal){.profile = ROUND,
                                .turn = at,
                                .x = -0.1f * radius * cos_turn(at),
                                .y = -0.1f * radius * sin_turn(at),
                                .length = 1.1f * radius * uniform(r, 0.92f, 1.04f),
                                .width = (count > 3 ? 1.25f : 1.5f) * radius,
                                .base = scaled(c, 0.2f),
                                .tip = scaled(c, 1.1f),
                                .rim = 0.4f});
        }
        radius *= uniform(r, 0.7f, 0.78f);
        turn += uniform(r, 0.07f, 0.13f);
    }
    colour c = scaled(h->petal, 0.45f);
    draw_disc(cv, &h->f, 0.02f, 0, radius * 0.5f, c, scaled(c, 1.5f), 0.2f, 0.8f);
}

/* A great disc of seeds, two whorls of pointed petals. */
static void draw_sunflower(canvas *cv, kd_rng *r, const head *h)
{
    int count = 15 + (int)kd_rng_below(r, 8);
    float inner = uniform(r, 0.46f, 0.58f), start = kd_rng_float(r);
    float width = uniform(r, 1.25f, 1.6f) * 6.28f * 0.72f / (float)count;
    draw_whorl(cv, r, h, LENS, count, inner * 0.85f, 1, width, start + 0.5f / (float)count, 0.78f);
    draw_whorl(cv, r, h, LENS, count, inner * 0.85f, 0.98f, width, start, 1);
    colour c = centre_colour(r, true);
    draw_disc(cv, &h->f, 0, 0, inner, scaled(c, 0.6f), c, 0, 1);
    draw_seeds(cv, h, inner * 0.95f, 60, scaled(c, 0.45f), scaled(c, 1.2f));
}

/* Seen from the side: a cup of three petals before two or three others, pointed. Grows from (0, 1)
 * upwards to (0, -1). */
static void draw_tulip(canvas *cv, kd_rng *r, const head *h)
{
    float open = uniform(r, 0.03f, 0.095f), width = uniform(r, 0.85f, 1.1f);
    colour heart = mix(h->petal, g_petals[kd_rng_below(r, COLOURS)], 0.35f);
    struct {
        float turn, length, width, shade;
    } parts[] = {
        {-0.25f - 0.4f * open, 1.8f, 0.9f, 0.66f},
        {-0.25f + 0.4f * open, 1.82f, 0.9f, 0.7f},
        {-0.25f - open, 1.95f, 0.95f, 0.9f},
        {-0.25f + open, 1.95f, 0.95f, 0.96f},
        {-0.25f, 1.72f, 1.0f, 1.06f},
    };
    for (size_t i = 0; i < KD_COUNT(parts); i++) {
        colour c = jittered(r, scaled(h->petal, parts[i].shade * lit(h, parts[i].turn)), 6);
        float bend = uniform(r, -0.008f, 0.008f), grown = uniform(r, 0.95f, 1.03f);
        draw_petal(cv, &h->f,
                   &(petal){.profile = OGIVE,
                            .y = 0.95f,
                            .turn = parts[i].turn + bend,
                            .length = parts[i].length * grown,
                            .width = parts[i].width * width,
                            .base = mix(scaled(c, 0.7f), heart, 0.4f),
                            .tip = c,
                            .rim = 0.32f,
                            .crease = 0.12f});
    }
}

static void draw_flower(canvas *cv, kd_rng *r, int cls, float x, float y, float radius,
                        colour petals)
{
    float lean = uniform(r, -0.16f, 0.16f);
    bool side = cls == TULIPS;
    float turn = side ? -0.5f * lean + uniform(r, -0.06f, 0.06f) : kd_rng_float(r);
    float squash = side ? uniform(r, 0.86f, 1.0f) : uniform(r, 0.7f, 1.0f);
    float axis = side ? 0.25f : kd_rng_float(r), light = kd_rng_float(r);
    head h = {.f = frame_make(x, y, radius, turn, squash, axis), .petal = petals, .light = light};
    float fx = x + h.f.to[0][1] * (side ? 0.9f : 0), fy = y + h.f.to[1][1] * (side ? 0.9f : 0);
    draw_stem(cv, r, fx, fy, radius, lean);
    switch (cls) {
    case DAISY:
        draw_daisy(cv, r, &h);
        break;
    case DANDELION:
        draw_dandelion(cv, r, &h);
        break;
    case ROSES:
        draw_rose(cv, r, &h);
        break;
    case SUNFLOWERS:
        draw_sunflower(cv, r, &h);
        break;
    case TULIPS:
        draw_tulip(cv, r, &h);
        break;
    }
}

/* Exposure, a slope of light across the picture, a tint, contrast and grain. */
static void develop(canvas *cv, kd_rng *r)
{
    float n = (float)cv->n, exposure = uniform(r, 0.8f, 1.12f), contrast = uniform(r, 0.85f, 1.08f);
    float sx = uniform(r, -0.25f, 0.25f) / n, sy = uniform(r, -0.25f, 0.25f) / n;
    float grain = uniform(r, 2, 8), tint[3];
    for (int k = 0; k < 3; k++)
        tint[k] = uniform(r, 0.94f, 1.06f);
    for (int y = 0; y < cv->n; y++)
        for (int x = 0; x < cv->n; x++) {
            uint8_t *p = cv->px + 3 * ((size_t)y * (size_t)cv->n + (size_t)x);
            float light = exposure * (1 + sx * ((float)x - n / 2) + sy * ((float)y - n / 2));
            /* Sums of two bytes make a triangular grain; one word serves the three channels. */
            uint32_t w = kd_rng_u32(r);
            float luma = (float)((w & 255) + (w >> 8 & 255)) / 255 - 1;
            float chroma = ((float)(w >> 16 & 255) / 127.5f - 1) * 0.35f;
            for (int k = 0; k < 3; k++) {
                float v = (((float)p[k] - 118) * contrast + 118) * light * tint[k] +
                          grain * (luma + (k == 1 ? -chroma : chroma));
                p[k] = (uint8_t)(clampf(v, 0, 255) + 0.5f);
            }
        }
}

void kd_flowers_draw(uint64_t seed, int size, int cls, uint32_t index, uint8_t *rgb)
{
    KD_BUG_ON(size < KD_FLOWERS_MIN_SIZE || size > KD_FLOWERS_MAX_SIZE || cls < 0 ||
              cls >= KD_FLOWERS_CLASSES);
    kd_rng rng, *r = &rng;
    kd_rng_init(r, seed, KD_RNG_DRAW, (uint64_t)cls, index);
    canvas cv = {.n = size, .px = rgb};
    float n = (float)size;
    memset(rgb, 0, 3 * (size_t)size * (size_t)size);
    draw_background(&cv, r);
    /* Small ones stand behind, the chief one in front; a bed is often of one colour. */
    colour chief = petal_colour(r, cls);
    int others = chance(r, 0.5f) ? 0 : 1 + (int)kd_rng_below(r, 2);
    for (int i = 0; i < others; i++) {
        colour c = chance(r, 0.6f) ? jittered(r, chief, 12) : petal_colour(r, cls);
        float x = kd_rng_float(r), y = uniform(r, 0.05f, 0.9f);
        draw_flower(&cv, r, cls, x * n, y * n, uniform(r, 0.13f, 0.22f) * n, c);
    }
    float radius = uniform(r, 0.3f, 0.46f);
    float x = uniform(r, 0.28f, 0.72f), y = uniform(r, 0.28f, 0.68f);
    draw_flower(&cv, r, cls, x * n, y * n, radius * n, chief);
    if (chance(r, 0.3f)) {
        int leaves = 1 + (int)kd_rng_below(r, 2);
        for (int i = 0; i < leaves; i++) {
            float lx = x + uniform(r, -0.5f, 0.5f), turn = uniform(r, -0.36f, -0.14f);
            float length = uniform(r, 0.4f, 0.8f), width = uniform(r, 0.06f, 0.2f);
            draw_leaf(&cv, r, lx * n, n * 1.02f, turn, length * n, width);
        }
    }
    develop(&cv, r);
}

/* ---- the data set */

static int write_lists(const char *dir, const kd_flowers_config *cfg, kd_diag *diag)
{
    kd_buf text;
    char path[4096];
    int rc = 0;
    for (int list = 0; list < 3 && rc == 0; list++) {
        static const char *const files[] = {"classes.txt", "val.txt", "train.txt"};
        kd_buf_init(&text, 64u << 20);
        if (list == 0)
            for (int c = 0; c < KD_FLOWERS_CLASSES; c++)
                kd_buf_printf(&text, "%s\n", g_names[c]);
        int first = list == 1 ? cfg->train : 0, count = list == 1 ? cfg->val : cfg->train;
        for (int i = first; list > 0 && i < first + count; i++)
            kd_buf_printf(&text, "images/%s/%05d.jpg\t%d\n", g_names[i % KD_FLOWERS_CLASSES],
                          i / KD_FLOWERS_CLASSES, i % KD_FLOWERS_CLASSES);
        snprintf(path, sizeof path, "%s/%s", dir, files[list]);
        rc = text.failed ? kd_fail(diag, -KD_ENOMEM, "no memory for the list %s", path)
                         : kd_file_write(path, text.data, text.len, diag);
        kd_buf_clear(&text);
    }
    return rc;
}

int kd_flowers_make(const char *dir, const kd_flowers_config *cfg,
                    void (*progress)(size_t done, size_t all, void *arg), void *arg, kd_diag *diag)
{
    if (cfg->size < KD_FLOWERS_MIN_SIZE || cfg->size > KD_FLOWERS_MAX_SIZE)
        return kd_fail(diag, -KD_EINVAL, "pictures of %d pixels; %d to %d can be drawn", cfg->size,
                       KD_FLOWERS_MIN_SIZE, KD_FLOWERS_MAX_SIZE);
    if (cfg->train < 1 || cfg->val < 1 || cfg->train > MAX_PICTURES || cfg->val > MAX_PICTURES)
        return kd_fail(diag, -KD_EINVAL, "%d and %d pictures; each may be 1 to %d", cfg->train,
                       cfg->val, MAX_PICTURES);
    if (strlen(dir) > PATH_ROOM)
        return kd_fail(diag, -KD_EINVAL, "the name of the folder is longer than %d bytes",
                       PATH_ROOM);
    char path[4096];
    int rc = 0;
    for (int c = 0; c < KD_FLOWERS_CLASSES && rc == 0; c++) {
        snprintf(path, sizeof path, "%s/images/%s", dir, g_names[c]);
        rc = kd_file_mkdirs(path, diag);
    }
    /* Lists of an earlier set must not name pictures that are being replaced. */
    for (int list = 0; list < 2 && rc == 0; list++) {
        snprintf(path, sizeof path, "%s/%s", dir, list ? "val.txt" : "train.txt");
        rc = kd_file_remove_tree(path, diag);
    }
    size_t all = (size_t)cfg->train + (size_t)cfg->val;
    uint8_t *rgb = malloc(3 * (size_t)cfg->size * (size_t)cfg->size);
    if (rc == 0 && !rgb)
        rc = kd_fail(diag, -KD_ENOMEM, "no memory for a picture");
    kd_time_ms last = kd_clock_ms();
    for (size_t i = 0; i < all && rc == 0; i++) {
        int cls = (int)(i % KD_FLOWERS_CLASSES);
        uint32_t index = (uint32_t)(i / KD_FLOWERS_CLASSES);
        kd_flowers_draw(cfg->seed, cfg->size, cls, index, rgb);
        snprintf(path, sizeof path, "%s/images/%s/%05u.jpg", dir, g_names[cls], index);
        rc = kd_image_write_jpeg(path, rgb, cfg->size, cfg->size, JPEG_QUALITY, diag);
        kd_time_ms now = kd_clock_ms();
        if (progress && rc == 0 && (now - last >= 200 || i + 1 == all)) {
            last = now;
            progress(i + 1, all, arg);
        }
    }
    free(rgb);
    return rc == 0 ? write_lists(dir, cfg, diag) : rc;
}

#include "data/view.h"

#include "data/augment.h"
#include "data/exact.h"
#include "data/resize.h"
#include "kd/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Written into views: never renumber. */
enum kd_view_stream {
    KD_VIEW_FLIP_AND_CROP,
    KD_VIEW_RESIZED_CROP,
    KD_VIEW_ROTATE,
    KD_VIEW_RAND_AUGMENT,
    KD_VIEW_JITTER,
    KD_VIEW_CUTOUT,
    KD_VIEW_MIX
};

/* Each augmentation draws from a stream of its own, so that none changes what another draws. */
static void stream(kd_rng *rng, const kd_view_rule *rule, size_t sample, uint32_t view,
                   enum kd_view_stream which)
{
    kd_rng_init(rng, rule->seed, KD_RNG_VIEW, sample, (uint64_t)which << 32 | view);
}

/* ---- what is done to one picture, in this order */

/* torchvision's RandomResizedCrop: in ten tries a box of the wanted area and shape that fits, else
 * the whole picture. */
static void resized_crop(const kd_view_rule *rule, kd_rng *rng, const uint8_t *in, kd_canvas *c)
{
    int size = rule->size, w = size, h = size, x = 0, y = 0;
    double area = (double)size * size, reach = kd_exact_log(KD_MAX(rule->resized_crop_ratio, 1));
    for (int i = 0; i < 10; i++) {
        double part = rule->resized_crop + (1 - rule->resized_crop) * kd_rng_double(rng);
        double shape = kd_exact_exp((2 * kd_rng_double(rng) - 1) * reach);
        int bw = (int)floor(sqrt(part * area * shape) + 0.5);
        int bh = (int)floor(sqrt(part * area / shape) + 0.5);
        if (bw < 1 || bh < 1 || bw > size || bh > size)
            continue;
        w = bw;
        h = bh;
        x = (int)kd_rng_below(rng, (uint32_t)(size - w + 1));
        y = (int)kd_rng_below(rng, (uint32_t)(size - h + 1));
        break;
    }
    kd_image box = {.w = w, .h = h, .rgb = c->spare};
    for (int row = 0; row < h; row++)
        memcpy(c->spare + 3 * (size_t)row * (size_t)w,
               in + 3 * ((size_t)(y + row) * (size_t)size + (size_t)x), 3 * (size_t)w);
    KD_BUG_ON(kd_image_resize(&box, size, size, c->now, NULL) != 0);
}

/* Also copies: without flip and padding the output is the input. */
static void flip_and_crop(const kd_view_rule *rule, kd_rng *rng, const uint8_t *in, uint8_t *out)
{
    /* All three are drawn whatever the rule says, so that flipping does not change with cropping.
     */
    uint32_t places = 2 * (uint32_t)rule->crop_pad + 1;
    int dx = (int)kd_rng_below(rng, places) - rule->crop_pad;
    int dy = (int)kd_rng_below(rng, places) - rule->crop_pad;
    bool flip = (kd_rng_u32(rng) >> 31) != 0 && rule->flip;
    int size = rule->size;
    size_t row = 3 * (size_t)size;
    /* Columns x0..x1 of the output lie inside the picture; the rest is padding. */
    int x0 = KD_MIN(KD_MAX(-dx, 0), size), x1 = KD_MAX(KD_MIN(size - dx, size), x0);
    for (int y = 0; y < size; y++) {
        uint8_t *to = out + (size_t)y * row;
        int sy = y + dy;
        memset(to, 0, row);
        if (sy < 0 || sy >= size || x0 >= x1)
            continue;
        const uint8_t *from = in + (size_t)sy * row;
        if (!flip) {
            memcpy(to + 3 * (size_t)x0, from + 3 * (size_t)(x0 + dx), 3 * (size_t)(x1 - x0));
            continue;
        }
        for (int x = x0; x < x1; x++)
            memcpy(to + 3 * (size_t)(size - 1 - x), from + 3 * (size_t)(x + dx), 3);
    }
}

/* torchvision's ColorJitter: the factors, and the order in which they are applied, are random. */
static void jitter(const kd_view_rule *rule, kd_rng *rng, kd_canvas *c)
{
    static const uint8_t orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                         {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    static void (*const apply[3])(kd_canvas *, int32_t) = {
        kd_augment_brightness, kd_augment_contrast, kd_augment_saturation};
    const double reach[3] = {rule->brightness, rule->contrast, rule->saturation};
    const uint8_t *order = orders[kd_rng_below(rng, 6)];
    double drawn[3];
    for (int i = 0; i < 3; i++)
        drawn[i] = 2 * kd_rng_double(rng) - 1;
    for (int i = 0; i < 3; i++)
        if (reach[order[i]] > 0)
            apply[order[i]](c, kd_augment_factor(1 + reach[order[i]] * drawn[order[i]]));
}

static void rand_augment(const kd_view_rule *rule, kd_rng *rng, kd_canvas *c)
{
    for (int i = 0; i < rule->randaugment_n; i++) {
        enum kd_rand_op op = (enum kd_rand_op)kd_rng_below(rng, KD_RAND_OPS);
        bool negative = kd_rng_u32(rng) >> 31 != 0;
        kd_augment_rand(c, op, rule->randaugment_m, negative);
    }
}

static void check_rule(const kd_view_rule *r)
{
    /* Written so that NaN fails, too. */
    KD_BUG_ON(r->size <= 0 || r->crop_pad < 0 || r->randaugment_n < 0 || r->cutout < 0);
    KD_BUG_ON(r->randaugment_m < 0 || r->randaugment_m > 30);
    KD_BUG_ON(!(r->resized_crop >= 0 && r->resized_crop <= 1 && r->resized_crop_ratio <= 1e6));
    KD_BUG_ON(!(r->rotate >= 0 && r->rotate <= 180));
    KD_BUG_ON(!(r->brightness >= 0 && r->brightness <= 1 && r->contrast >= 0 && r->contrast <= 1 &&
                r->saturation >= 0 && r->saturation <= 1));
}

void kd_view_make(const kd_view_rule *rule, size_t sample, uint32_t view, const uint8_t *in,
                  uint8_t *out)
{
    size_t bytes = 3 * (size_t)rule->size * (size_t)rule->size;
    kd_rng rng;
    check_rule(rule);
    if (view == KD_VIEW_CLEAN) {
        memcpy(out, in, bytes);
        return;
    }
    bool room = rule->resized_crop > 0 || rule->rotate > 0 || rule->randaugment_n > 0;
    uint8_t *more = room ? kd_xalloc(bytes) : NULL;
    kd_canvas c = {.size = rule->size, .now = out, .spare = more};
    if (rule->resized_crop > 0) {
        stream(&rng, rule, sample, view, KD_VIEW_RESIZED_CROP);
        resized_crop(rule, &rng, in, &c);
        in = c.now;
        c.now = c.spare;
        c.spare = out;
    }
    stream(&rng, rule, sample, view, KD_VIEW_FLIP_AND_CROP);
    flip_and_crop(rule, &rng, in, c.now);
    if (rule->rotate > 0) {
        stream(&rng, rule, sample, view, KD_VIEW_ROTATE);
        kd_augment_rotate(&c, rule->rotate * (2 * kd_rng_double(&rng) - 1));
    }
    if (rule->randaugment_n > 0) {
        stream(&rng, rule, sample, view, KD_VIEW_RAND_AUGMENT);
        rand_augment(rule, &rng, &c);
    }
    if (rule->brightness > 0 || rule->contrast > 0 || rule->saturation > 0) {
        stream(&rng, rule, sample, view, KD_VIEW_JITTER);
        jitter(rule, &rng, &c);
    }
    if (rule->cutout > 0) {
        stream(&rng, rule, sample, view, KD_VIEW_CUTOUT);
        int x = (int)kd_rng_below(&rng, (uint32_t)rule->size);
        int y = (int)kd_rng_below(&rng, (uint32_t)rule->size);
        kd_augment_cutout(&c, x, y, rule->cutout);
    }
    if (c.now != out)
        memcpy(out, c.now, bytes);
    free(more);
}

/* ---- mixing */

/* Logarithm of a Gamma(a, 1) variate: Marsaglia and Tsang, "A Simple Method for Generating Gamma
 * Variables" (ACM TOMS 26, 2000); below 1 through Gamma(a + 1) U^(1/a), which only the logarithm
 * survives for small a. */
static double log_gamma_variate(kd_rng *rng, double a)
{
    double boost = a < 1 ? kd_exact_log(1 - kd_rng_double(rng)) / a : 0;
    double d = (a < 1 ? a + 1 : a) - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x, s; /* x is normal by the polar method */
        do {
            double u = 2 * kd_rng_double(rng) - 1, v = 2 * kd_rng_double(rng) - 1;
            x = u;
            s = u * u + v * v;
        } while (!(s > 0 && s < 1));
        x *= sqrt(-2 * kd_exact_log(s) / s);
        double v = (1 + c * x) * (1 + c * x) * (1 + c * x);
        if (v > 0 &&
            kd_exact_log(1 - kd_rng_double(rng)) < 0.5 * x * x + d * (1 - v + kd_exact_log(v)))
            return boost + kd_exact_log(d * v);
    }
}

/* Beta(a, a), 0..1. */
static double beta_variate(kd_rng *rng, double a)
{
    double x = log_gamma_variate(rng, a), y = log_gamma_variate(rng, a);
    return 1 / (1 + kd_exact_exp(y - x));
}

#define SHARE_ONE 65536 /* shares are whole multiples of 1/65536, as the picture is mixed */

static void mix_up(const kd_view_rule *rule, kd_rng *rng, kd_view_mix *out)
{
    double lambda = beta_variate(rng, rule->mixup);
    double own = floor(KD_MAX(lambda, 1 - lambda) * SHARE_ONE + 0.5);
    out->share = own / SHARE_ONE;
    out->kind = own < SHARE_ONE ? KD_MIX_UP : KD_MIX_NONE;
}

static void cut_mix(const kd_view_rule *rule, kd_rng *rng, kd_view_mix *out)
{
    int size = rule->size;
    int half = (int)(0.5 * sqrt(1 - beta_variate(rng, rule->cutmix)) * size);
    int x = (int)kd_rng_below(rng, (uint32_t)size), y = (int)kd_rng_below(rng, (uint32_t)size);
    out->x0 = KD_MAX(x - half, 0);
    out->x1 = KD_MIN(x + half, size);
    out->y0 = KD_MAX(y - half, 0);
    out->y1 = KD_MIN(y + half, size);
    double area = (double)(out->x1 - out->x0) * (out->y1 - out->y0);
    out->share = 1 - area / ((double)size * size);
    out->kind = area > 0 ? KD_MIX_CUT : KD_MIX_NONE;
}

void kd_view_mix_of(const kd_view_rule *rule, size_t sample, uint32_t view, size_t n_train,
                    kd_view_mix *out)
{
    *out = (kd_view_mix){.kind = KD_MIX_NONE, .partner = (uint32_t)sample, .share = 1};
    KD_BUG_ON(!(rule->mixup >= 0 && rule->cutmix >= 0) || n_train > UINT32_MAX);
    bool among = sample < n_train; /* an unlabelled sample may be mixed with any training sample */
    size_t others = n_train - among;
    if (view == KD_VIEW_CLEAN || (rule->mixup == 0 && rule->cutmix == 0) || others == 0)
        return;
    kd_rng rng;
    stream(&rng, rule, sample, view, KD_VIEW_MIX);
    bool mixed = kd_rng_double(&rng) < rule->mix_probability;
    bool cut = kd_rng_u32(&rng) >> 31 != 0; /* where both are asked for each has half */
    uint32_t partner = kd_rng_below(&rng, (uint32_t)others);
    if (!mixed)
        return;
    if (rule->mixup == 0 || (cut && rule->cutmix > 0))
        cut_mix(rule, &rng, out);
    else
        mix_up(rule, &rng, out);
    if (out->kind != KD_MIX_NONE)
        out->partner = partner + (among && partner >= sample);
}

void kd_view_blend(const kd_view_mix *mix, int size, const uint8_t *a, const uint8_t *b,
                   uint8_t *out)
{
    size_t row = 3 * (size_t)size, bytes = row * (size_t)size;
    if (mix->kind == KD_MIX_UP) {
        uint32_t own = (uint32_t)(mix->share * SHARE_ONE + 0.5), rest = SHARE_ONE - own;
        for (size_t i = 0; i < bytes; i++)
            out[i] = (uint8_t)((own * a[i] + rest * b[i] + SHARE_ONE / 2) >> 16);
        return;
    }
    if (out != a)
        memcpy(out, a, bytes);
    for (int y = mix->y0; mix->kind == KD_MIX_CUT && y < mix->y1; y++) {
        size_t at = (size_t)y * row + 3 * (size_t)mix->x0;
        memcpy(out + at, b + at, 3 * (size_t)(mix->x1 - mix->x0));
    }
}

/* ---- for the network, for the bank */

void kd_view_to_float(int kind, const uint8_t *rgb, size_t pixels, float *out)
{
    static const float mean[3] = {0.485f, 0.456f, 0.406f}, std[3] = {0.229f, 0.224f, 0.225f};
    KD_BUG_ON(kind < 0 || kind > 2);
    /* 768 values at most: computed once by the formula, so that each is rounded as written there.
     */
    float table[3][256];
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++) {
            float x = (float)v;
            table[c][v] = kind == 0   ? x / 255.0f
                          : kind == 1 ? x / 127.5f - 1.0f
                                      : (x / 255.0f - mean[c]) / std[c];
        }
    for (size_t i = 0; i < pixels; i++)
        for (size_t c = 0; c < 3; c++)
            out[3 * i + c] = table[c][rgb[3 * i + c]];
}

/* " name value" with as few digits as tell the value from all others; nothing for 0. */
static void add_number(char *out, size_t room, const char *name, double value)
{
    size_t used = strlen(out);
    if (value == 0)
        return;
    for (int digits = 6; digits <= 17; digits++) {
        int n = snprintf(out + used, room - used, " %s %.*g", name, digits, value);
        KD_BUG_ON(n < 0 || (size_t)n >= room - used);
        if (strtod(out + used + strlen(name) + 2, NULL) == value)
            break;
    }
}

static void add_augmentations(const kd_view_rule *r, char *out, size_t room)
{
    add_number(out, room, "resized_crop", r->resized_crop);
    add_number(out, room, "ratio", r->resized_crop > 0 ? r->resized_crop_ratio : 0);
    add_number(out, room, "rotate", r->rotate);
    if (r->randaugment_n > 0) {
        add_number(out, room, "randaugment", r->randaugment_n);
        add_number(out, room, "magnitude", r->randaugment_m);
    }
    add_number(out, room, "brightness", r->brightness);
    add_number(out, room, "contrast", r->contrast);
    add_number(out, room, "saturation", r->saturation);
    add_number(out, room, "cutout", r->cutout);
    add_number(out, room, "mixup", r->mixup);
    add_number(out, room, "cutmix", r->cutmix);
    if (r->mixup > 0 || r->cutmix > 0)
        add_number(out, room, "mix", r->mix_probability);
}

void kd_view_rule_text(const kd_view_rule *rule, int preprocess, char *out, size_t out_len)
{
    static const char *const names[] = {"unit", "symmetric", "imagenet"};
    KD_BUG_ON(preprocess < 0 || preprocess > 2);
    char seed[32] = "", more[KD_VIEW_TEXT_MAX] = "";
    add_augmentations(rule, more, sizeof more);
    /* Without anything random the seed changes nothing, and logits may be shared between seeds. */
    if (rule->flip || rule->crop_pad > 0 || more[0])
        snprintf(seed, sizeof seed, " seed %llu", (unsigned long long)rule->seed);
    int n = snprintf(out, out_len, "view %d size %d flip %d crop %d%s preprocess %s%s",
                     KD_VIEW_RULE_VERSION, rule->size, rule->flip, rule->crop_pad, more,
                     names[preprocess], seed);
    /* A cut text could stand for two rules. */
    KD_BUG_ON(n < 0 || (size_t)n >= out_len);
}

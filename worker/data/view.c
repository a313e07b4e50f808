#include "data/view.h"

#include "kd/rng.h"

#include <stdio.h>
#include <string.h>

void kd_view_make(const kd_view_rule *rule, size_t sample, uint32_t view, const uint8_t *in,
                  uint8_t *out)
{
    KD_BUG_ON(rule->size <= 0 || rule->crop_pad < 0);
    if (view == KD_VIEW_CLEAN) {
        memcpy(out, in, 3 * (size_t)rule->size * (size_t)rule->size);
        return;
    }
    kd_rng rng;
    kd_rng_init(&rng, rule->seed, KD_RNG_VIEW, sample, view);
    /* All three are drawn whatever the rule says, so that flipping does not change with cropping.
     */
    uint32_t places = 2 * (uint32_t)rule->crop_pad + 1;
    int dx = (int)kd_rng_below(&rng, places) - rule->crop_pad;
    int dy = (int)kd_rng_below(&rng, places) - rule->crop_pad;
    bool flip = (kd_rng_u32(&rng) >> 31) != 0 && rule->flip;
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

void kd_view_mix_of(const kd_view_rule *rule, size_t sample, uint32_t view, size_t n_train,
                    kd_view_mix *out)
{
    (void)rule;
    (void)view;
    (void)n_train;
    *out = (kd_view_mix){.kind = KD_MIX_NONE, .partner = (uint32_t)sample, .share = 1};
}

void kd_view_blend(const kd_view_mix *mix, int size, const uint8_t *a, const uint8_t *b,
                   uint8_t *out)
{
    (void)b;
    KD_BUG_ON(mix->kind != KD_MIX_NONE);
    if (out != a)
        memcpy(out, a, 3 * (size_t)size * (size_t)size);
}

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

void kd_view_rule_text(const kd_view_rule *rule, int preprocess, char *out, size_t out_len)
{
    static const char *const names[] = {"unit", "symmetric", "imagenet"};
    KD_BUG_ON(preprocess < 0 || preprocess > 2);
    char seed[32] = "";
    /* Without anything random the seed changes nothing, and logits may be shared between seeds. */
    if (rule->flip || rule->crop_pad > 0)
        snprintf(seed, sizeof seed, " seed %llu", (unsigned long long)rule->seed);
    int n = snprintf(out, out_len, "view %d size %d flip %d crop %d preprocess %s%s",
                     KD_VIEW_RULE_VERSION, rule->size, rule->flip, rule->crop_pad,
                     names[preprocess], seed);
    /* A cut text could stand for two rules. */
    KD_BUG_ON(n < 0 || (size_t)n >= out_len);
}

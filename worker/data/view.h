/* Views: augmented versions of a sample, and what a network is fed. Threads: reentrant. */
#ifndef KD_VIEW_H
#define KD_VIEW_H

#include "kd/err.h"

#define KD_VIEW_RULE_VERSION 1
/* View number of the picture as it is: nothing is done to it. */
#define KD_VIEW_CLEAN UINT32_MAX

/* Fields as in job.h's kd_augment_spec; zero = off. */
typedef struct kd_view_rule {
    bool flip;    /* mirrored with probability 1/2 */
    int crop_pad; /* pad so many zero pixels a side, then cut size x size at a random place; >= 0 */
    double resized_crop, resized_crop_ratio;
    double rotate;
    double brightness, contrast, saturation;
    int randaugment_n, randaugment_m;
    int cutout;
    double mixup, cutmix, mix_probability;
    int size; /* > 0 */
    uint64_t seed;
} kd_view_rule;
/* in, out [size,size,3], not the same memory. A pure function of (rule, sample, view, in): all
 * that is done to one picture, which is everything but mixing. The crop is cut first, then
 * mirrored. */
void kd_view_make(const kd_view_rule *rule, size_t sample, uint32_t view, const uint8_t *in,
                  uint8_t *out);

enum kd_mix_kind { KD_MIX_NONE, KD_MIX_UP, KD_MIX_CUT };
typedef struct kd_view_mix {
    enum kd_mix_kind kind;
    uint32_t partner;   /* training sample, not the sample itself unless it is the only one */
    double share;       /* of the sample itself in the picture and in the label; 1 without mixing */
    int x0, y0, x1, y1; /* KD_MIX_CUT: the box [x0,x1) x [y0,y1) that shows the partner */
} kd_view_mix;
/* Whether and how a view is mixed, from (rule, sample, view, n_train) alone. The partner's picture
 * is kd_view_make(partner, view). */
void kd_view_mix_of(const kd_view_rule *rule, size_t sample, uint32_t view, size_t n_train,
                    kd_view_mix *out);
/* a the sample's view, b the partner's, out [size,size,3]; out may be a. KD_MIX_NONE copies a. */
void kd_view_blend(const kd_view_mix *mix, int size, const uint8_t *a, const uint8_t *b,
                   uint8_t *out);

/* u8 -> float32 NHWC. kind as enum kd_preprocess in job.h: 0 unit x/255, 1 symmetric x/127.5-1,
 * 2 imagenet (x/255-mean)/std by channel (torchvision's constants). rgb, out [pixels,3]. */
void kd_view_to_float(int kind, const uint8_t *rgb, size_t pixels, float *out);
/* Text that names everything a view depends on; goes into the bank's key. KD_VIEW_TEXT_MAX
 * bytes are always enough; NUL-terminated. */
#define KD_VIEW_TEXT_MAX 900
void kd_view_rule_text(const kd_view_rule *rule, int preprocess, char *out, size_t out_len);

#endif

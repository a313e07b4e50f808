/* Views: augmented versions of a sample, and what a network is fed. Threads: reentrant. */
#ifndef KD_VIEW_H
#define KD_VIEW_H

#include "kd/err.h"

#define KD_VIEW_RULE_VERSION 1
/* View number of the picture as it is: nothing is done to it. */
#define KD_VIEW_CLEAN UINT32_MAX

/* In the order in which they are applied, each with random numbers of its own; 0 = off. Geometry on
 * whole pixels and bilinear weights, colour in whole numbers: the same bits everywhere. */
typedef struct kd_view_rule {
    /* Box of at least this share of the area, (0,1], resized (antialiased) to the whole picture;
     * its sides are in a ratio from 1/r to r, log-uniform. torchvision's RandomResizedCrop. */
    double resized_crop, resized_crop_ratio;
    int crop_pad;  /* pad so many black pixels a side, then cut size x size at a random place */
    bool flip;     /* mirrored with probability 1/2 */
    double rotate; /* degrees to either side, 0..180; bilinear, black outside */
    /* n operations of augment.h's kd_rand_op, drawn with replacement, magnitude m of 30. */
    int randaugment_n, randaugment_m;
    /* Factors from 1-x to 1+x, 0..1, applied in a random order. torchvision's ColorJitter. */
    double brightness, contrast, saturation;
    int cutout; /* side of a grey square whose middle is anywhere in the picture */
    /* alpha of Beta(alpha, alpha); kd_view_mix_of. mix_probability: share of views that are mixed.
     */
    double mixup, cutmix, mix_probability;
    int size; /* > 0 */
    uint64_t seed;
} kd_view_rule;
/* in, out [size,size,3], not the same memory. A pure function of (rule, sample, view, in): all
 * that is done to one picture, which is everything but mixing. Takes up to two pictures' memory
 * while it runs, and aborts if there is none. A rule out of its ranges is a bug. */
void kd_view_make(const kd_view_rule *rule, size_t sample, uint32_t view, const uint8_t *in,
                  uint8_t *out);

enum kd_mix_kind { KD_MIX_NONE, KD_MIX_UP, KD_MIX_CUT };
typedef struct kd_view_mix {
    enum kd_mix_kind kind;
    uint32_t partner;   /* training sample, never the sample itself; KD_MIX_NONE: the sample */
    double share;       /* of the sample itself in the picture and in the label; 1 without mixing */
    int x0, y0, x1, y1; /* KD_MIX_CUT: the box [x0,x1) x [y0,y1) that shows the partner */
} kd_view_mix;
/* Whether and how a view is mixed, from (rule, sample, view, n_train) alone. The partner, any other
 * training sample, does not depend on batches; its picture is kd_view_make(partner, view).
 *   MixUp (arXiv:1710.09412): lambda of Beta(a, a), share = max(lambda, 1 - lambda), rounded to
 *   1/65536; each pixel is share * own + (1 - share) * partner's.
 *   CutMix (arXiv:1905.04899): a box of side sqrt(1 - lambda) * size about a place anywhere, cut
 *   off at the edges; share = what the box leaves of the area.
 * Where the rule has both, each has half of the mixed views. */
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

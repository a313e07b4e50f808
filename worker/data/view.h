/* Views: augmented versions of a sample, and what a network is fed. Threads: reentrant. */
#ifndef KD_VIEW_H
#define KD_VIEW_H

#include "kd/err.h"

#define KD_VIEW_RULE_VERSION 1
typedef struct kd_view_rule {
    bool flip;    /* mirrored with probability 1/2 */
    int crop_pad; /* pad so many zero pixels a side, then cut size x size at a random place; >= 0 */
    int size;     /* > 0 */
    uint64_t seed;
} kd_view_rule;
/* in, out [size,size,3], not the same memory. A pure function of (rule, sample, view, in). The crop
 * is cut first, then mirrored. */
void kd_view_make(const kd_view_rule *rule, size_t sample, uint32_t view, const uint8_t *in,
                  uint8_t *out);
/* u8 -> float32 NHWC. kind as enum kd_preprocess in job.h: 0 unit x/255, 1 symmetric x/127.5-1,
 * 2 imagenet (x/255-mean)/std by channel (torchvision's constants). rgb, out [pixels,3]. */
void kd_view_to_float(int kind, const uint8_t *rgb, size_t pixels, float *out);
/* Text that names everything a view depends on; goes into the bank's key. KD_VIEW_TEXT_MAX
 * bytes are always enough; NUL-terminated. */
#define KD_VIEW_TEXT_MAX 128
void kd_view_rule_text(const kd_view_rule *rule, int preprocess, char *out, size_t out_len);

#endif

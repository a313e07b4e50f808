/* Depthwise 3x3 convolutions of 8-bit values in NHWC, of one image, by AVX-512's dot products of
 * bytes (VNNI). Internal to engine/.
 *
 *   z = (sum over the taps of w x + bias) scale, in float32 from the exact sum on
 *   y = the nearest even of factor min(max(z, low), high), kept within y's type
 *
 * which is what oneDNN 2.6 does, operation by operation: the same bits. Threads: reentrant. */
#ifndef KD_ENGINE_DEPTHWISE_VNNI_H
#define KD_ENGINE_DEPTHWISE_VNNI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kd_depthwise_vnni {
    int64_t h, w, c, out_h, out_w;
    int64_t stride;            /* both ways, 1 or 2 */
    int64_t pad_top, pad_left; /* 0 to 2; what lies below and on the right follows */
    bool x_signed, y_signed;   /* or 0 to 255 */
    bool clamps;               /* to low and high; else as it comes */
    float low, high, factor;
    bool plain; /* set by pack: nothing but a scale and the type's limits */
} kd_depthwise_vnni;

/* Whether this processor has the instructions. */
bool kd_depthwise_vnni_works(void);
size_t kd_depthwise_vnni_table(int64_t channels); /* bytes */
/* weights [c][3][3], bias and scales [c]; table: kd_depthwise_vnni_table() bytes, overwritten. */
void kd_depthwise_vnni_pack(kd_depthwise_vnni *d, const int8_t *weights, const float *bias,
                            const float *scales, void *table);
/* x [h][w][c], y [out_h][out_w][c], overwritten; no overlap. */
void kd_depthwise_vnni_run(const kd_depthwise_vnni *d, const void *table, const void *x, void *y);

#endif

/* Convolutions of 8-bit values in NHWC, of one image, by AVX-512's dot products of bytes (VNNI):
 * depthwise 3x3 ones and 1x1 ones. Internal to engine/.
 *
 *   z = (sum of w x + bias) scale, in float32 from the exact sum on; z += residual scale * r
 *   y = factor min(max(z, low), high), rounded to the nearest even and kept within y's type
 *
 * which is what oneDNN 2.6 does, operation by operation: the same bits. Threads: reentrant. */
#ifndef KD_ENGINE_VNNI_H
#define KD_ENGINE_VNNI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kd_vnni_type { KD_VNNI_U8, KD_VNNI_S8, KD_VNNI_F32 };

/* What follows a sum. */
typedef struct kd_vnni_end {
    enum kd_vnni_type type; /* of y; as float32 it is neither multiplied by factor nor rounded */
    bool clamps;            /* to low and high; else as it comes */
    float low, high, factor;
    float residual; /* scale of what is added, 0 = nothing; 1x1 convolutions alone */
    bool residual_signed;
    bool plain; /* set by pack: nothing but a scale and 0 to 255 */
} kd_vnni_end;

typedef struct kd_vnni_depthwise {
    int64_t h, w, c, out_h, out_w;
    int64_t stride;            /* both ways, 1 or 2 */
    int64_t pad_top, pad_left; /* 0 to 2; what lies below and on the right follows */
    bool x_signed;
    kd_vnni_end end; /* not to float32 */
} kd_vnni_depthwise;

typedef struct kd_vnni_pointwise {
    int64_t places;
    int64_t in;  /* channels, a multiple of 4 up to 2^16 */
    int64_t out; /* a multiple of 16 */
    bool x_signed;
    kd_vnni_end end;
} kd_vnni_pointwise;

/* Whether this processor has the instructions. */
bool kd_vnni_works(void);

size_t kd_vnni_depthwise_table(int64_t channels); /* bytes */
/* weights [c][3][3], bias and scales [c]; table overwritten. */
void kd_vnni_depthwise_pack(kd_vnni_depthwise *d, const int8_t *weights, const float *bias,
                            const float *scales, void *table);
/* x [h][w][c], y [out_h][out_w][c], overwritten; no overlap. */
void kd_vnni_depthwise_run(const kd_vnni_depthwise *d, const void *table, const void *x, void *y);

size_t kd_vnni_pointwise_table(int64_t in, int64_t out); /* bytes */
size_t kd_vnni_pointwise_scratch(int64_t in);            /* bytes, where x has a sign */
/* weights [out][in], bias and scales [out]; table overwritten. */
void kd_vnni_pointwise_pack(kd_vnni_pointwise *d, const int8_t *weights, const float *bias,
                            const float *scales, void *table);
/* x [places][in], y [places][out], overwritten; the residual r as y, or y itself. */
void kd_vnni_pointwise_run(const kd_vnni_pointwise *d, const void *table, const void *x,
                           const void *r, void *scratch, void *y);

#endif

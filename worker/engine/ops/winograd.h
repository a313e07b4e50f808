/* 3x3 convolutions of stride 1 by Winograd's F(4x4,3x3): a quarter of the multiplications (Lavin &
 * Gray 2015, arXiv:1509.09308, section 4.3). Internal to engine/.
 *
 * A tile of 4x4 results is A^T [sum over channels of (G g G^T) * (B^T d B)] A, with g the kernel
 * and d the tile's 6x6 places of the input. The interpolation points are 0, +-11/16, +-3/2 and
 * infinity, which keep the error at half of that of the usual 0, +-1, +-2 (Barabasz et al. 2020,
 * arXiv:1803.10986, on the choice of points). A result's sum runs over the input's channels in
 * their order, a weight's gradient over the tiles in theirs (image, row, column), so the bits
 * depend on the shape alone.
 *
 * Values are [n][channels / 16][h][w][16] (oneDNN's nChw16c). Threads: all functions may run
 * at once with different outputs and scratch. They want AVX-512: kd_winograd_supported(). */
#ifndef KD_ENGINE_WINOGRAD_H
#define KD_ENGINE_WINOGRAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kd_winograd {
    int64_t n;         /* images, >= 1 */
    int64_t c, h, w;   /* of the input; channels a multiple of 16 */
    int64_t k, oh, ow; /* of the output, the same */
    int64_t top, left; /* zeros before the input, 0..2; those behind it follow from oh and ow */
} kd_winograd;

bool kd_winograd_supported(void);
/* Floats of the transformed weights, 64-byte aligned. */
size_t kd_winograd_packed(const kd_winograd *s);
/* Floats of scratch, 64-byte aligned, for kd_winograd_run and, with the gradient,
 * kd_winograd_weights. */
size_t kd_winograd_scratch(const kd_winograd *s, bool gradient);
/* The convolution that takes the output's gradient to the input's. */
kd_winograd kd_winograd_turned(const kd_winograd *s);
/* weights [k][c][3][3] to packed [kd_winograd_packed]; turned: weights are [c][k][3][3], those of
 * the convolution that s is the turned one of. */
void kd_winograd_pack(const kd_winograd *s, const float *weights, bool turned, float *packed);

/* What follows the sum: bias, residual, and limits. */
typedef struct kd_winograd_end {
    const float *bias;     /* [k], NULL = 0 */
    const float *residual; /* as y, NULL = none; may be y itself */
    float low, high;       /* +-INFINITY = none; NaN stays NaN */
} kd_winograd_end;
/* y overwritten. */
void kd_winograd_run(const kd_winograd *s, const float *x, const float *packed,
                     const kd_winograd_end *end, float *scratch, float *y);
/* d_weights [k][c][3][3] and d_bias [k], overwritten. */
void kd_winograd_weights(const kd_winograd *s, const float *x, const float *d_y, float *scratch,
                         float *d_weights, float *d_bias);

#endif

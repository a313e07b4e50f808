/* Matrix products of dense layers in training, whose operands are used where they lie: OpenBLAS
 * copies both into an order of its own first, which for batches of tens costs an eighth of the
 * product. Internal to engine/. An element's sum runs over k in order, one rounding each, so its
 * bits do not depend on the other rows and columns. Threads: any. They want AVX-512:
 * kd_gemm_supported(). */
#ifndef KD_ENGINE_GEMM_H
#define KD_ENGINE_GEMM_H

#include <stdbool.h>
#include <stdint.h>

typedef struct kd_gemm {
    int64_t m, n, k;
    const float *a; /* element (i, l) at a[i * a_row + l * a_column] */
    int64_t a_row, a_column;
    const float *b; /* (l, j) at b[l * b_row + j] */
    int64_t b_row;
    float *c; /* (i, j) at c[i * c_row + j]; overwritten with a b */
    int64_t c_row;
} kd_gemm;

bool kd_gemm_supported(void);
void kd_gemm_run(const kd_gemm *g);

#endif

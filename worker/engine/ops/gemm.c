#include "gemm.h"

#include "kd/err.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define FAST __attribute__((target("avx512f")))
#define INLINE static inline __attribute__((always_inline)) FAST

/* A tile of the result in registers: rows, and columns in vectors. */
enum { LANES = 16, ROWS = 6, WIDE = 4, GROUP = WIDE * LANES };

bool kd_gemm_supported(void)
{
    return __builtin_cpu_supports("avx512f");
}

/* rows x wide vectors, the last one as far as `tail` says; both are constants where it is inlined.
 */
INLINE void tile(const kd_gemm *g, const float *a, const float *b, int rows, int wide,
                 __mmask16 tail, float *c)
{
    __m512 sum[ROWS * WIDE];
#pragma GCC unroll 32
    for (int i = 0; i < rows * wide; i++)
        sum[i] = _mm512_setzero_ps();
    for (int64_t l = 0; l < g->k; l++, a += g->a_column, b += g->b_row) {
        __m512 w[WIDE];
#pragma GCC unroll 4
        for (int j = 0; j < wide; j++)
            w[j] = j < wide - 1 ? _mm512_loadu_ps(b + j * LANES)
                                : _mm512_maskz_loadu_ps(tail, b + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            const __m512 x = _mm512_set1_ps(a[i * g->a_row]);
#pragma GCC unroll 4
            for (int j = 0; j < wide; j++)
                sum[i * wide + j] = _mm512_fmadd_ps(x, w[j], sum[i * wide + j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < wide; j++)
            _mm512_mask_storeu_ps(c + i * g->c_row + j * LANES, j < wide - 1 ? 0xffff : tail,
                                  sum[i * wide + j]);
}

/* All rows of `wide` vectors of columns. */
INLINE void columns(const kd_gemm *g, int64_t j, int wide, __mmask16 tail)
{
    int64_t i = 0;
    for (; i + ROWS <= g->m; i += ROWS)
        tile(g, g->a + i * g->a_row, g->b + j, ROWS, wide, tail, g->c + i * g->c_row + j);
    for (; i < g->m; i++)
        tile(g, g->a + i * g->a_row, g->b + j, 1, wide, tail, g->c + i * g->c_row + j);
}

FAST void kd_gemm_run(const kd_gemm *g)
{
    for (int64_t j = 0; j < g->n; j += GROUP) {
        const int64_t left = KD_MIN(g->n - j, (int64_t)GROUP), wide = (left + LANES - 1) / LANES;
        const __mmask16 tail = (__mmask16)(0xffff >> (wide * LANES - left));
        if (wide == 4)
            columns(g, j, 4, tail);
        else if (wide == 3)
            columns(g, j, 3, tail);
        else if (wide == 2)
            columns(g, j, 2, tail);
        else
            columns(g, j, 1, tail);
    }
}

#else

bool kd_gemm_supported(void)
{
    return false;
}
void kd_gemm_run(const kd_gemm *g)
{
    (void)g;
}

#endif

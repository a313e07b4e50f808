/* bfloat16: the upper half of a float32, eight bits of precision over the same range.
 *
 * Rounding is to the nearest, ties to the even one (IEEE 754-2019, 4.3.1), in whole numbers and so
 * the same on every processor: AVX512_BF16's instruction takes subnormal numbers for zero. Numbers
 * beyond the largest one become infinite; all NaNs become one, so that sums do not depend on the
 * order of their operands. Little-endian. Threads: reentrant. */
#ifndef KD_BFLOAT16_H
#define KD_BFLOAT16_H

#include <stddef.h>
#include <stdint.h>

/* x [n] in place: each number to its nearest bfloat16, still as a float32. */
void kd_bfloat16_round(float *x, size_t n);
/* sum [n] = sum + other, rounded. */
void kd_bfloat16_add(float *sum, const float *other, size_t n);
/* x [n], rounded, as n halves. */
void kd_bfloat16_pack(const float *x, size_t n, uint16_t *out);
/* packed: n halves, aligned anyhow. */
void kd_bfloat16_unpack(const void *packed, size_t n, float *out);
/* sum [n] = sum + packed [n], rounded. */
void kd_bfloat16_add_packed(float *sum, const void *packed, size_t n);

#endif

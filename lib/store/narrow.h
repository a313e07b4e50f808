/* Numbers of less than 32 bits in files.
 *
 * 8 bits: value = unit * code. A unit is the largest absolute value over the most that a code can
 * be, rounded up to 16 binary digits. Products of a unit and a code, and of a unit and 127 or 255,
 * are then exact in float32: whoever reads a file computes the same floats, and writing those again
 * gives the same codes. 16 bits: float16 (IEEE 754 binary16) and bfloat16, rounded to the nearest,
 * ties to even; what is too large becomes the largest that there is. Threads: reentrant.
 */
#ifndef KD_NARROW_H
#define KD_NARROW_H

#include "store/safetensors.h"

#define KD_INT8_WEIGHT 127 /* weights and values with a sign: -127..127 */
#define KD_INT8_POSITIVE 255
/* Units and ranges above it are no sane network's: products of two of them still fit a float. */
#define KD_INT8_MOST 1e18F

/* Of codes up to `most`; 1 where largest is 0. */
float kd_int8_unit_for(float largest, int most);
/* Of weights w [row]. */
float kd_int8_row_unit(const float *w, size_t row);
/* w [rows][row] as codes [rows][row] and one unit a row, units [rows]. */
void kd_int8_codes(const float *w, int rows, size_t row, int8_t *codes, float *units);
/* w [rows][row] in place: each to the value of its code. */
void kd_int8_round(float *w, int rows, size_t row);

/* type: KD_ST_F16 or KD_ST_BF16. x is finite; bits are any. */
uint16_t kd_half_bits(float x, enum kd_st_type type);
float kd_half_value(uint16_t bits, enum kd_st_type type);

/* kd_st_pack of items whose data are floats, whatever their type: those of I8 are written as codes
 * with their units, one a row of the first side, as "NAME.scale" beside them. Wider types come
 * first, so that all lie at multiples of their size. Errors as kd_st_pack's; -KD_ENOMEM. */
int kd_narrow_pack(const kd_st_item *items, size_t n, const kd_st_pair *meta, size_t n_meta,
                   kd_buf *out, kd_diag *diag) KD_MUST_CHECK;

#endif

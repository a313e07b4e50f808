/* Numbers of 8 bits in files: value = unit * code.
 *
 * A unit is the largest absolute value over the most that a code can be, rounded up to 16 binary
 * digits. Products of a unit and a code, and of a unit and 127 or 255, are then exact in float32:
 * whoever reads a file computes the same floats, and writing those again gives the same codes.
 * Threads: reentrant. */
#ifndef KD_MODELS_INT8_H
#define KD_MODELS_INT8_H

#include "engine/graph.h"

#define KD_INT8_WEIGHT 127 /* weights and values with a sign: -127..127 */
#define KD_INT8_POSITIVE 255

/* Of codes up to `most`; 1 where largest is 0. */
float kd_int8_unit_for(float largest, int most);
/* w [rows][row] as codes [rows][row] and one unit a row, units [rows]. */
void kd_int8_codes(const float *w, int rows, size_t row, int8_t *codes, float *units);
void kd_int8_values(const int8_t *codes, const float *units, int rows, size_t row, float *w);
/* out [n_params]: parameters that files of an 8-bit network hold in 8 bits: weights of convolutions
 * and dense layers. All false for other networks. */
void kd_int8_params(const kd_graph *g, bool *out);

#endif

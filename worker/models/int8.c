#include "models/int8.h"

#include <math.h>
#include <string.h>

#define DIGITS 16

float kd_int8_unit_for(float largest, int most)
{
    int exponent;
    const double unit = (double)largest / most;
    if (!(unit > 0))
        return 1;
    const double fraction = frexp(unit, &exponent);
    return (float)ldexp(ceil(ldexp(fraction, DIGITS)), exponent - DIGITS);
}

void kd_int8_codes(const float *w, int rows, size_t row, int8_t *codes, float *units)
{
    for (int r = 0; r < rows; r++) {
        const float *from = w + (size_t)r * row;
        float largest = 0;
        for (size_t i = 0; i < row; i++)
            largest = fmaxf(largest, fabsf(from[i]));
        units[r] = kd_int8_unit_for(largest, KD_INT8_WEIGHT);
        for (size_t i = 0; i < row; i++)
            codes[(size_t)r * row + i] = (int8_t)nearbyintf(from[i] / units[r]);
    }
}

void kd_int8_values(const int8_t *codes, const float *units, int rows, size_t row, float *w)
{
    for (int r = 0; r < rows; r++)
        for (size_t i = 0; i < row; i++)
            w[(size_t)r * row + i] = units[r] * (float)codes[(size_t)r * row + i];
}

void kd_int8_params(const kd_graph *g, bool *out)
{
    memset(out, 0, (size_t)g->n_params * sizeof *out);
    for (int i = 0; i < g->n_nodes && kd_graph_is_int8(g); i++)
        if (g->nodes[i].op == KD_OP_CONV || g->nodes[i].op == KD_OP_DENSE)
            out[g->nodes[i].weight] = true;
}

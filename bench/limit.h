/* How fast a network could be on this machine: each layer's multiplications at the core's measured
 * peak, or the bytes that it cannot but move at the measured rate of copying as many, whichever
 * takes longer (Williams et al. 2009, "Roofline", doi:10.1145/1498765.1498785), layer after layer.
 */
#ifndef KD_BENCH_LIMIT_H
#define KD_BENCH_LIMIT_H

#include "engine/plan.h"
#include "job/job.h"

/* Multiplications and additions a second of one core in registers; 0 = not known on this CPU.
 * Measured at the first call. Not KD_PRECISION_AUTO. */
double kd_peak(enum kd_precision precision);
/* Bytes read and written a second by one core that copies within `bytes`, from and to together. */
double kd_copy_rate(size_t bytes);

/* Seconds of one core for a batch, 0 = not known. Training is forward, backward and Adam; a 3x3
 * convolution in float32 has the quarter of multiplications that Winograd's F(4x4,3x3) leaves;
 * where a max pool follows, only the places that won have gradients. Additions, activations and
 * batch norm in inference cost nothing. */
double kd_limit(const kd_graph *g, int batch, enum kd_plan_use use, enum kd_precision precision);

#endif

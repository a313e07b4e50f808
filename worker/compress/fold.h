/* A trained network as inference wants it. Threads: reentrant. */
#ifndef KD_COMPRESS_FOLD_H
#define KD_COMPRESS_FOLD_H

#include "engine/graph.h"

/* The same function with less: a batch norm that alone reads a convolution becomes part of its
 * weights and bias (w * gamma / sqrt(var + eps), in double; Jacob et al. 2018, section 3.2),
 * dropout and drop path are gone, and so is what the output does not depend on. Names of parameters
 * stay, a bias that comes new is called NAME.bias. g is a finished classifier; on success
 * *out_graph and *out_vector are the caller's. -KD_EDATA for a variance that is none. */
int kd_fold(const kd_graph *g, const float *vector, kd_graph **out_graph, float **out_vector,
            kd_diag *diag) KD_MUST_CHECK;

#endif

/* Training a network as it will be stored: weights that are gone stay gone, numbers are rounded as
 * 8 bits will round them.
 *
 * What is trained is a vector of floats, which nothing here changes. What the network computes with
 * is made of it anew for each version: a function of the version alone, so whoever holds one knows
 * its mask, and a checkpoint needs nothing besides. Threads: reentrant; rounding as kd_quantise. */
#ifndef KD_COMPRESS_TUNE_H
#define KD_COMPRESS_TUNE_H

#include "compress/prune.h"

/* The graph with a KD_OP_FAKE_QUANT behind every value that 8-bit convolutions of g, which has
 * ranges, read; parameters and their places are g's. vector: its weights. Batch norms are folded in
 * g already, so their statistics stand still (Nagel et al. 2021, arXiv:2106.08295, section 5.2.1).
 * Caller frees *out. */
int kd_tune_graph(const kd_graph *g, const float *vector, kd_graph **out,
                  kd_diag *diag) KD_MUST_CHECK;

/* How much is pruned at a step. */
typedef struct kd_tune_pruning {
    double first, last; /* shares; 0 and 0: nothing but what is gone already */
    uint64_t steps;     /* until `last` */
    enum kd_prune_scope scope;
} kd_tune_pruning;
/* out [vector_len]: vector as the network of g computes with it after `step` steps. mask
 * [vector_len]: 0 where a weight is gone: it was 0 in vector, or is of the smallest; such weights
 * get no gradient. -KD_ENOMEM. */
int kd_tune_load(const kd_graph *g, const kd_tune_pruning *pruning, uint64_t step,
                 const float *vector, uint8_t *mask, float *out, kd_diag *diag) KD_MUST_CHECK;

#endif

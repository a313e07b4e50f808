/* Taking weights out of a network: single ones by a mask, or whole channels, which makes the graph
 * itself smaller. All results are functions of the arguments alone: equal magnitudes go by their
 * place. Threads: reentrant. */
#ifndef KD_COMPRESS_PRUNE_H
#define KD_COMPRESS_PRUNE_H

#include "engine/graph.h"

/* The share of weights that are gone at `step` of a gradual schedule: from `first` at step `begin`
 * to `last` at step `end`, last + (first - last) * (1 - (step - begin) / (end - begin))^3; before
 * and behind it stays (Zhu and Gupta 2017, arXiv:1710.01878, equation 1). */
double kd_prune_schedule(double first, double last, uint64_t begin, uint64_t end, uint64_t step);

enum kd_prune_scope {
    KD_PRUNE_LAYER, /* the same share of each layer's weights */
    KD_PRUNE_GLOBAL /* of all together: layers of small weights lose more */
};
/* Takes the weights of smallest magnitude out of mask [vector_len], 1 = kept: as many that `share`
 * (0..1) of the weights of convolutions and dense layers but the head are gone (rounded down). What
 * is gone already stays so and counts. Biases, statistics and norms are never touched. -KD_EINVAL
 * for another share, -KD_ENOMEM; then mask is unchanged. */
int kd_prune_magnitude(const kd_graph *g, const float *vector, double share,
                       enum kd_prune_scope scope, uint8_t *mask, kd_diag *diag) KD_MUST_CHECK;
/* Zeros what is gone. n: floats. */
void kd_prune_apply(const uint8_t *mask, size_t n, float *vector);
/* mask [vector_len] (NULL = not wanted), overwritten: 0 where a weight of a convolution or dense
 * layer is exactly 0, 1 elsewhere. Returns what share of the weights that may be pruned that is. */
double kd_prune_gone(const kd_graph *g, const float *vector, uint8_t *mask);

/* The network without the `share` (0 <= share < 1) of channels whose filters have the smallest norm
 * (Li et al. 2017, arXiv:1608.08710, with the scale of the batch norm behind), in every convolution
 * and dense layer whose outputs may go: not the head's, not where a reshape, a concatenation or a
 * grouped convolution stands behind. Channels that are added to one another go together. What is
 * left of each layer is a multiple of `multiple` (1 = any) and at least one. On success *out_graph
 * and *out_vector are the caller's. -KD_EINVAL, -KD_ENOMEM. */
int kd_prune_channels(const kd_graph *g, const float *vector, double share, int multiple,
                      kd_graph **out_graph, float **out_vector, kd_diag *diag) KD_MUST_CHECK;
/* The same where at least one channel must go; -KD_EINVAL with the reason where none can. */
int kd_prune_channels_less(const kd_graph *g, const float *vector, double share, int multiple,
                           kd_graph **out_graph, float **out_vector, kd_diag *diag) KD_MUST_CHECK;

#endif

/* A worker's part of the reduction tree.
 *
 * Nodes are heap indices over V slots (a power of two): 1 the root, children 2n
 * and 2n+1, leaf of slot s is V+s. A contiguous range of slots is covered by at
 * most 2 log2 V maximal aligned nodes (its canonical cover); a worker adds its
 * units up to those nodes and pushes one gradient for each. node = left + right
 * in float32, rounded to bfloat16 where the job wants gradients in it, so whoever
 * adds what, the root has the same bits. Source: DESIGN section 3, invariant 1.
 * Threads: see each part. */
#ifndef KD_WORKER_TREE_H
#define KD_WORKER_TREE_H

#include "kd/err.h"
#include "wire/limits.h"

#include <pthread.h>

/* Nodes of the canonical cover of slots [first, first+count), left to right;
 * returns how many, at most 64. */
int kd_tree_cover(uint32_t slots, uint32_t first, uint32_t count, uint32_t out[64]);

/* What travels with a gradient: sums over a node's real samples, added in the same tree. terms:
 * value and pull of each of the loss's terms in turn, the rest 0. */
typedef struct kd_tree_sums {
    double loss, correct, samples;
    double terms[KD_TERM_SUMS];
} kd_tree_sums;

/* Adds up one step's gradients. Threads: any may add; buffers come from a pool
 * that the reducer owns and reuses, so a step allocates nothing once the first
 * one has run. */
typedef struct kd_reducer kd_reducer;
/* bfloat16: sums are rounded to it; what is added is of it already. */
kd_reducer *kd_reducer_new(uint32_t slots, size_t floats, bool bfloat16);
void kd_reducer_free(kd_reducer *r);
/* Starts a step. All buffers must have been given back. */
void kd_reducer_start(kd_reducer *r);
/* Wants further nodes whole, none of whose slots has been added yet. */
void kd_reducer_want(kd_reducer *r, const uint32_t *nodes, int n_nodes);
float *kd_reducer_take(kd_reducer *r); /* [floats], contents undefined; NULL without memory */
void kd_reducer_give(kd_reducer *r, float *buffer);
/* Takes over the gradient of a slot. When that completes a wanted node,
 * *out_node and *out_sums are set and the node's buffer is returned (give it
 * back after use); otherwise NULL. */
float *kd_reducer_add(kd_reducer *r, uint32_t slot, float *gradient, const kd_tree_sums *sums,
                      uint32_t *out_node, kd_tree_sums *out_sums);

#endif

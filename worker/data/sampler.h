/* The order of the samples in an epoch. Threads: reentrant. */
#ifndef KD_SAMPLER_H
#define KD_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

/* order [n], n < 2^32, is overwritten with a permutation of 0..n-1 that depends on (seed, epoch, n)
 * only. Fisher-Yates, every permutation equally likely (as far as the generator goes). */
void kd_sampler_order(uint64_t seed, uint32_t epoch, size_t n, uint32_t *order);

#endif

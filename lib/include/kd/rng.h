/* Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as
 * 1, 2, 3", SC'11).
 *
 * A stream is named by (seed, purpose, a, b) and its n-th value depends on nothing else: not on the
 * worker, the thread or what was drawn before. Two streams with another name share no block.
 * Threads: a stream belongs to one thread; making one costs nothing. */
#ifndef KD_RNG_H
#define KD_RNG_H

#include <stdint.h>

/* Written into streams: never renumber. */
enum kd_rng_purpose {
    KD_RNG_INIT = 1,    /* a = parameter index (hash of its name) */
    KD_RNG_SHUFFLE = 2, /* a = epoch */
    KD_RNG_VIEW = 3,    /* a = sample id, b = view */
    KD_RNG_DROPOUT = 4, /* a = step, b = sample id (node in the upper half) */
    KD_RNG_PROBE = 5,   /* made-up inputs of numeric fingerprints */
    KD_RNG_DRAW = 6,    /* synthetic pictures: a = class, b = picture */
    KD_RNG_SPLIT = 7,   /* stratified splits */
    KD_RNG_SHOWN = 8,   /* samples that people are shown */
    KD_RNG_TEST = 99
};

typedef struct kd_rng {
    uint32_t key[2];
    uint32_t counter[4]; /* [0] block number, [1..3] from the name */
    uint32_t block[4];
    unsigned used; /* values of `block` handed out; 4 = none left */
} kd_rng;

void kd_rng_init(kd_rng *r, uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b);
uint32_t kd_rng_u32(kd_rng *r);
uint64_t kd_rng_u64(kd_rng *r);
/* Uniform in [0, n), n >= 1, without modulo bias (Lemire's method with rejection). */
uint32_t kd_rng_below(kd_rng *r, uint32_t n);
/* Uniform in [0, 1): 24 bits (float) or 53 bits (double). */
float kd_rng_float(kd_rng *r);
double kd_rng_double(kd_rng *r);
/* Standard normal by the polar Box-Muller form, computed in double. */
double kd_rng_normal(kd_rng *r);

#endif

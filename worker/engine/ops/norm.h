/* Batch norm over values in any layout whose channels repeat with a period: forward and backward
 * with what stands around it, an addition and an activation, in as few passes over memory as
 * possible. Internal to engine/.
 *
 *   z = gamma (x - mean) / sqrt(var + eps) + beta + r,  y = act(z)   (Ioffe & Szegedy 2015)
 *
 * The backward computes z again instead of reading y: g = d_y act'(z), and with N places
 *   d_r = g,  d_beta = sum g,  d_gamma = sum g (x - mean) / sqrt(var + eps),
 *   d_x = gamma / sqrt(var + eps) (g - d_beta / N - (x - mean) / sqrt(var + eps) d_gamma / N),
 * or without the two means where mean and var do not come from this batch.
 *
 * Sums run tile by tile in an order that the layout alone gives; tiles are float32, what is between
 * them double. Every operation is an IEEE one of float32 or double, so all processors compute the
 * same bits. Threads: reentrant. */
#ifndef KD_ENGINE_NORM_H
#define KD_ENGINE_NORM_H

#include <dnnl.h>

#include "kd/err.h"

/* Memory as groups of stretches; in a stretch element i belongs to channel i % channels of its
 * group. NHWC is one group of one stretch, blocked layouts have a group a block and a stretch an
 * image. */
typedef struct kd_norm_shape {
    int64_t groups, group_step; /* steps in floats */
    int64_t stretches, stretch_step, len;
    int64_t channels; /* of a group, padding included */
    int64_t lanes; /* least common multiple of channels and the 64 floats that run side by side */
} kd_norm_shape;

enum kd_norm_act { KD_NORM_PLAIN, KD_NORM_CLAMP, KD_NORM_HARD_SWISH, KD_NORM_SILU };

typedef struct kd_norm {
    kd_norm_shape shape;
    enum kd_norm_act act;
    float low, high; /* of the clamp; its gradient is 0 at and beyond them */
    double eps;
    bool own;                  /* mean and var are the batch's own: forward writes them */
    float *mean, *var;         /* [groups * channels]; var is the biased one */
    const float *gamma, *beta; /* [groups * channels], 0 for padding */
    bool portable;             /* for tests: as on processors without AVX-512 */
    void *scratch;             /* kd_norm_scratch() bytes */
    const float *x, *r;        /* r may be NULL */
    float *y;                  /* forward */
    const float *d_y;          /* backward */
    /* g is left here; may be d_y's memory. NULL = not wanted, where d_x can do without: with PLAIN,
     * with CLAMP if there is no r, or with statistics that are not the batch's own. */
    float *g;
    float *d_x;              /* may be d_y's memory; NULL = not wanted */
    float *d_gamma, *d_beta; /* [groups * channels] */
} kd_norm;

/* False if the layout is of another kind. */
bool kd_norm_shape_of(const dnnl_memory_desc_t *md, kd_norm_shape *out);
size_t kd_norm_scratch(const kd_norm_shape *shape); /* bytes */
void kd_norm_forward(const kd_norm *n);
/* After a forward with the same x, r, mean and var. */
void kd_norm_backward(const kd_norm *n);

#endif

/* What the kinds of convolution share: conv.c (float32, oneDNN), conv_winograd.c, conv_pool.c (with
 * the max pool behind it), conv_int8.c (8 bits, oneDNN), conv_vnni.c. Internal to engine/. */
#ifndef KD_ENGINE_CONV_H
#define KD_ENGINE_CONV_H

#include "engine/op.h"

typedef struct kd_conv_geometry {
    dnnl_dims_t stride, dilate, pad_before, pad_after;
    dnnl_memory_desc_t weights_any, weights_plain, bias;
    bool has_bias;
} kd_conv_geometry;
/* type: of the weights; the bias is float32. */
kd_conv_geometry kd_conv_geometry_of(const kd_plan *p, const kd_task *t, dnnl_data_type_t type);
/* Weights and bias of a convolution and the batch norm t->bn behind it (-1 = none) as one
 * convolution. folded as the weights, bias [channels]. */
int kd_conv_fold(const kd_plan *p, const kd_task *t, const float *vector, float *folded,
                 float *bias, kd_diag *diag) KD_MUST_CHECK;
/* The weights to work with: the vector's, or with a batch norm folded in, in the staging block,
 * which must have room for them. Writes the bias to this block, if there is one. */
int kd_conv_weights(const kd_plan *p, const kd_task *t, const float *vector, int bias,
                    const float **out, kd_diag *diag) KD_MUST_CHECK;
/* Appends the activation that the convolution applies itself. */
int kd_conv_act_post_ops(const kd_plan *p, const kd_task *t, dnnl_post_ops_t post,
                         kd_diag *diag) KD_MUST_CHECK;
/* The block of the residual that the result may take over to be summed in place, -1 = none. */
int kd_conv_residual_block(const kd_plan *p, const kd_task *t, const dnnl_memory_desc_t *result);
/* Whether conv_winograd.c does it. */
bool kd_conv_winograd_pays(const kd_plan *p, const kd_task *t);
/* Whether conv_pool.c does the convolution t and this pool behind it better than two tasks. */
bool kd_conv_pool_fits(const kd_plan *p, const kd_task *t, const kd_node *pool);
/* Whether conv_int8.c can do it if its input and residual are 8-bit values. */
bool kd_conv_int8_fits(const kd_plan *p, const kd_task *t);
/* Whether conv_vnni.c does it, with the same bits; asked once the values' scales are chosen. */
bool kd_conv_vnni_fits(const kd_plan *p, const kd_task *t);
/* For tests: as on processors that conv_vnni.c does not know. */
extern bool kd_conv_vnni_off;

/* A convolution of 8-bit values, in the plan's memory. */
typedef struct kd_conv_int8 {
    int8_t *weights; /* as in the vector, -127..127 */
    float *bias;     /* [channels], in units of a product of 1 and 1 */
    float *scales;   /* [channels]: what such a product stands for */
} kd_conv_int8;
int kd_conv_int8_quantise(kd_plan *p, const kd_task *t, kd_conv_int8 *q,
                          kd_diag *diag) KD_MUST_CHECK;
/* A result without a sign has the activation's limits itself: 0, and the largest value that it was
 * made for. */
bool kd_conv_int8_clips(const kd_plan *p, const kd_task *t);
/* The input's bytes, in NHWC. A float32 value is rounded for this convolution alone, by *round. */
int kd_conv_int8_input(kd_plan *p, const kd_task *t, dnnl_memory_t *out, kd_prim **round,
                       kd_diag *diag) KD_MUST_CHECK;

#endif

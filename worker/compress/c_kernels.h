/* The functions that exported C is made of. Internal to compress/. */
#ifndef KD_COMPRESS_C_KERNELS_H
#define KD_COMPRESS_C_KERNELS_H

enum kd_c_kernel {
    KD_C_ROW,     /* weights as rows: for convolutions and dense layers */
    KD_C_CONV_AT, /* one output: for the next two */
    KD_C_CONV,
    KD_C_CONV_POOL,
    KD_C_DENSE,
    KD_C_POOL,
    KD_C_MEAN,
    KD_C_FLATTEN,
    KD_C_AFFINE,
    KD_C_COMBINE,
    KD_C_RELU,
    KD_C_CLIP, /* RELU6, too */
    KD_C_LEAKY,
    KD_C_SIGMOID,
    KD_C_SILU,
    KD_C_TANH,
    KD_C_HARD_SIGMOID,
    KD_C_HARD_SWISH,
    KD_C_KERNELS
};
/* Source text of a kernel; it needs those that the list says before it. */
const char *kd_c_kernel(enum kd_c_kernel k);

#endif

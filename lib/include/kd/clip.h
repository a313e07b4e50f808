/* Clipping of gradients by their global norm. Threads: reentrant. */
#ifndef KD_CLIP_H
#define KD_CLIP_H

#include <math.h>

/* Factor for all gradients that brings their norm, the root of square_sum, down to clip_norm:
 * min(1, clip/(norm + 1e-6)) as torch.nn.utils.clip_grad_norm_; 1 when clip_norm is 0. */
static inline double kd_clip_scale(double clip_norm, double square_sum)
{
    double scale = clip_norm / (sqrt(square_sum) + 1e-6);
    return clip_norm == 0 || scale > 1 ? 1 : scale;
}

#endif

/* Antialiased resizing in integers. Threads: reentrant. */
#ifndef KD_RESIZE_H
#define KD_RESIZE_H

#include "data/decode.h"

/* Triangle filter, separable (rows first, then columns), its support widened by the factor of
 * reduction when shrinking, as Pillow's BILINEAR. An output pixel o has its centre at
 * (o + 0.5) * in / out; weights are rounded to 22 binary digits after being made to sum to one,
 * sums are rounded to the nearest byte after each pass: the same bits everywhere. out [oh,ow,3],
 * not the memory of in. Sides 1..KD_IMAGE_MAX_SIDE. */
int kd_image_resize(const kd_image *in, int ow, int oh, uint8_t *out, kd_diag *diag) KD_MUST_CHECK;

#endif

/* What can be done to one picture: the operations of which view.c makes views. All of them are
 * functions of their arguments alone, in whole numbers, so that they have the same bits
 * everywhere. Formulas are torchvision's (transforms/functional_tensor.py, autoaugment.py) on
 * uint8; grey is Pillow's (19595 R + 38470 G + 7471 B + 32768) / 65536, whose weights sum to one.
 * Threads: reentrant. */
#ifndef KD_AUGMENT_H
#define KD_AUGMENT_H

#include "kd/err.h"

/* The grey of a pixel's R, G and B: ITU-R BT.601, to the nearest. */
static inline uint8_t kd_augment_grey(const uint8_t *p)
{
    return (uint8_t)((19595 * p[0] + 38470 * p[1] + 7471 * p[2] + 32768) >> 16);
}

/* A picture that is worked on, [size,size,3], and room for another. */
typedef struct kd_canvas {
    int size;
    uint8_t *now, *spare; /* an operation may exchange them */
} kd_canvas;

/* Factors are in 1/65536: 65536 leaves the picture as it is. kd_augment_factor rounds a number >=
 * 0. */
#define KD_FACTOR_ONE 65536
int32_t kd_augment_factor(double factor);
/* f x + (1-f) * (black | the mean of the grey picture | the pixel's grey | a 3x3 blur whose middle
 * weighs 5 of 13), cut to 0..255; the outermost pixels are not sharpened. */
void kd_augment_brightness(kd_canvas *c, int32_t factor);
void kd_augment_contrast(kd_canvas *c, int32_t factor);
void kd_augment_saturation(kd_canvas *c, int32_t factor);
void kd_augment_sharpness(kd_canvas *c, int32_t factor);
void kd_augment_posterize(kd_canvas *c, int bits);     /* keeps the upper 0..8 bits */
void kd_augment_solarize(kd_canvas *c, int threshold); /* x >= threshold becomes 255 - x */
void kd_augment_autocontrast(kd_canvas *c);            /* each channel to 0..255 */
void kd_augment_equalize(kd_canvas *c);                /* each channel to a flat histogram */
/* Sets side x side pixels whose middle is (x, y) to grey 127, as far as they lie in the picture. */
void kd_augment_cutout(kd_canvas *c, int x, int y, int side);
/* Output place (x, y) shows input place (m[0] x + m[1] y + m[2], m[3] x + m[4] y + m[5]), in pixels
 * from the picture's upper left corner (a pixel's middle is at +0.5); bilinear, with weights in
 * 1/1024. What lies outside is black, as the margin of a padded crop is. */
void kd_augment_affine(kd_canvas *c, const double m[6]);
/* About the middle, counter-clockwise, -180..180. */
void kd_augment_rotate(kd_canvas *c, double degrees);

/* torchvision's RandAugment, in its order. */
enum kd_rand_op {
    KD_RAND_IDENTITY,
    KD_RAND_SHEAR_X,
    KD_RAND_SHEAR_Y,
    KD_RAND_TRANSLATE_X,
    KD_RAND_TRANSLATE_Y,
    KD_RAND_ROTATE,
    KD_RAND_BRIGHTNESS,
    KD_RAND_COLOR,
    KD_RAND_CONTRAST,
    KD_RAND_SHARPNESS,
    KD_RAND_POSTERIZE,
    KD_RAND_SOLARIZE,
    KD_RAND_AUTOCONTRAST,
    KD_RAND_EQUALIZE,
    KD_RAND_OPS
};
/* Magnitude 0..30 of 30: shear 0.3, translate 150/331 of the side, rotate 30 degrees, brightness,
 * colour, contrast and sharpness 1 +- 0.9, posterize to 4 bits, solarize from 0. negative turns
 * those that have a sign. */
void kd_augment_rand(kd_canvas *c, enum kd_rand_op op, int magnitude, bool negative);

#endif

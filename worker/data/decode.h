/* Picture files to RGB and back.
 *
 * Bytes are hostile: sizes are bounded before memory is taken, and a file that ends early or is
 * damaged is an error, never a half-grey picture. Threads: all reentrant. */
#ifndef KD_DECODE_H
#define KD_DECODE_H

#include "kd/err.h"

#define KD_IMAGE_MAX_PIXELS (64 << 20)
#define KD_IMAGE_MAX_FILE (64u << 20)
#define KD_IMAGE_MAX_SIDE 32768

typedef struct kd_image {
    int w, h;
    uint8_t *rgb; /* [h,w,3], owner frees */
} kd_image;

/* JPEG (EXIF orientation applied; grey, YCCK, CMYK) or PNG (palette, grey, 16 bits, alpha over
 * black), told apart by their first bytes. Truncated or damaged: -KD_EDATA; -KD_ELIMIT past the
 * limits above. */
int kd_image_decode(const uint8_t *bytes, size_t len, kd_image *out, kd_diag *diag) KD_MUST_CHECK;
/* Leaves the image empty. */
void kd_image_free(kd_image *im);
/* Both write the file at once, without fsync: pictures can be made again. */
int kd_image_write_png(const char *path, const uint8_t *rgb, int w, int h,
                       kd_diag *diag) KD_MUST_CHECK;
/* quality 1..100; the bytes are the caller's to free. */
int kd_image_encode_jpeg(const uint8_t *rgb, int w, int h, int quality, uint8_t **out,
                         size_t *out_len, kd_diag *diag) KD_MUST_CHECK;
int kd_image_write_jpeg(const char *path, const uint8_t *rgb, int w, int h, int quality,
                        kd_diag *diag) KD_MUST_CHECK;

#endif

/* The one thing we want from EXIF: which way up a picture is. Threads: reentrant. */
#ifndef KD_EXIF_H
#define KD_EXIF_H

#include "data/decode.h"

/* data: body of a JPEG APP1 segment, any bytes. Returns the orientation 1..8 of the first image
 * directory (CIPA DC-008, tag 0x0112: SHORT, count 1), 0 when there is none or it is damaged. */
int kd_exif_orientation(const uint8_t *data, size_t len);
/* Turns the picture the right way up; 1 does nothing. -KD_ENOMEM leaves it as it was. */
int kd_exif_orient(kd_image *im, int orientation, kd_diag *diag) KD_MUST_CHECK;

#endif

#include "data/exif.h"

#include <stdlib.h>
#include <string.h>

/* TIFF inside the segment: byte order, magic 42, offset of the first directory; a directory is a
 * count and so many entries of twelve bytes: tag, type, count, value. */
typedef struct tiff {
    const uint8_t *p;
    size_t len;
    bool big; /* endian */
} tiff;

static unsigned get16(const tiff *t, size_t at)
{
    const uint8_t *p = t->p + at;
    return t->big ? (unsigned)p[0] << 8 | p[1] : (unsigned)p[1] << 8 | p[0];
}

static uint32_t get32(const tiff *t, size_t at)
{
    uint32_t a = get16(t, at), b = get16(t, at + 2);
    return t->big ? a << 16 | b : b << 16 | a;
}

int kd_exif_orientation(const uint8_t *data, size_t len)
{
    if (len < 14 || memcmp(data, "Exif\0\0", 6) != 0)
        return 0;
    tiff t = {.p = data + 6, .len = len - 6};
    if (memcmp(t.p, "MM", 2) == 0)
        t.big = true;
    else if (memcmp(t.p, "II", 2) != 0)
        return 0;
    if (get16(&t, 2) != 42)
        return 0;
    size_t at = get32(&t, 4);
    if (at > t.len - 2)
        return 0;
    size_t count = get16(&t, at);
    for (at += 2; count > 0 && t.len - at >= 12; count--, at += 12)
        if (get16(&t, at) == 0x0112) {
            unsigned value = get16(&t, at + 8);
            bool good =
                get16(&t, at + 2) == 3 && get32(&t, at + 4) == 1 && value >= 1 && value <= 8;
            return good ? (int)value : 0;
        }
    return 0;
}

int kd_exif_orient(kd_image *im, int orientation, kd_diag *diag)
{
    if (orientation <= 1)
        return 0;
    size_t w = (size_t)im->w, h = (size_t)im->h;
    uint8_t *to = malloc(3 * w * h);
    if (!to)
        return kd_fail(diag, -KD_ENOMEM, "no memory to turn a picture of %zu by %zu pixels", w, h);
    /* The tag says where the stored first row and first column belong: 5 to 8 have rows and columns
     * changed over; 2, 3, 7, 8 count stored columns backwards; 3, 4, 6, 7 count stored rows so. */
    bool swap = orientation >= 5;
    bool back_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool back_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    size_t ow = swap ? h : w, oh = swap ? w : h;
    for (size_t y = 0; y < oh; y++)
        for (size_t x = 0; x < ow; x++) {
            size_t sx = swap ? y : x, sy = swap ? x : y;
            sx = back_x ? w - 1 - sx : sx;
            sy = back_y ? h - 1 - sy : sy;
            memcpy(to + 3 * (y * ow + x), im->rgb + 3 * (sy * w + sx), 3);
        }
    free(im->rgb);
    *im = (kd_image){.w = (int)ow, .h = (int)oh, .rgb = to};
    return 0;
}

/* Pictures of flowers drawn by our own code: petals, stems, leaves, backgrounds, light and grain.
 *
 * They stand in for photographs where there are none. The five kinds share their colours; the shape
 * and arrangement of the petals tells them apart, so a linear classifier on pixels does badly
 * and a deep network well. README.md has the figures. Threads: reentrant. */
#ifndef KD_FLOWERS_H
#define KD_FLOWERS_H

#include "kd/err.h"

#define KD_FLOWERS_CLASSES 5
#define KD_FLOWERS_MIN_SIZE 16
#define KD_FLOWERS_MAX_SIZE 1024

typedef struct kd_flowers_config {
    uint64_t seed;
    int size;       /* pixels of a side */
    int train, val; /* pictures in all; train >= 1, val >= 1 */
} kd_flowers_config;
/* rgb [size,size,3] of picture `index` of class 0..4 (daisy dandelion roses sunflowers tulips):
 * a function of the arguments alone, the same bytes on every machine. */
void kd_flowers_draw(uint64_t seed, int size, int cls, uint32_t index, uint8_t *rgb);
/* Writes DIR/images/<class>/NNNNN.jpg, classes.txt, train.txt, val.txt, the lists last: where they
 * are, all pictures are. Classes take turns, training pictures come first. progress (may be NULL)
 * is called at most every 200 ms and at the end. -KD_EINVAL: a size or count out of range. */
int kd_flowers_make(const char *dir, const kd_flowers_config *cfg,
                    void (*progress)(size_t done, size_t all, void *arg), void *arg,
                    kd_diag *diag) KD_MUST_CHECK;

#endif

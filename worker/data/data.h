/* Data sets: lists, decoding, resizing, views.
 *
 * A sample is known by its number: training samples 0..n_train-1 in list order, validation samples
 * n_train.. after them. Everything random about a sample is a function of (seed, sample, view), never of
 * batch or worker. All pictures come out as RGB, uint8, [size,size,3]; grey sets (IDX) too.
 * The data digest covers class names, lists and the bytes of every file, so that two workers with the
 * same digest hold the same data.
 * Threads: after open, load and view are reentrant. */
#ifndef KD_DATA_H
#define KD_DATA_H

#include "kd/err.h"
#include "kd/hash.h"

enum kd_data_kind { KD_DATA_IMAGE_FOLDER, KD_DATA_IDX };
typedef struct kd_data_config {
    enum kd_data_kind kind;
    const char *path;                  /* folder beneath root */
    const char *train, *val;           /* list files (lines `path<TAB>class`) or IDX image files (.gz too) */
    const char *train_labels, *val_labels;
    const char *classes;               /* file of names, or "" */
    int size;
    int max_train;                     /* 0 = all */
    uint64_t seed;                     /* for max_train's choice */
} kd_data_config;

typedef struct kd_data kd_data;
/* root_fd: the worker's data root, borrowed until free. Progress of the digest is reported through
 * progress (may be NULL) at most every 200 ms. Errors name the file and line. */
int kd_data_open(const kd_data_config *cfg, int root_fd,
                 void (*progress)(size_t done, size_t all, void *arg), void *arg, kd_data **out,
                 kd_diag *diag) KD_MUST_CHECK;
void kd_data_free(kd_data *d);
size_t kd_data_train_count(const kd_data *d);
size_t kd_data_val_count(const kd_data *d);
int kd_data_classes(const kd_data *d);
const char *kd_data_class_name(const kd_data *d, int c);
int kd_data_label(const kd_data *d, size_t sample); /* -1 = unlabelled */
const char *kd_data_name(const kd_data *d, size_t sample); /* for messages */
kd_digest kd_data_digest(const kd_data *d);
kd_digest kd_data_classes_digest(const kd_data *d);
/* Decodes and resizes (antialiased) one sample into rgb [size,size,3]. -KD_EDATA: not decodable. */
int kd_data_load(const kd_data *d, size_t sample, uint8_t *rgb, kd_diag *diag) KD_MUST_CHECK;

/* ---- decode.h: any file to RGB */
typedef struct kd_image {
    int w, h;
    uint8_t *rgb; /* [h,w,3], owner frees */
} kd_image;
#define KD_IMAGE_MAX_PIXELS (64 << 20)
#define KD_IMAGE_MAX_FILE (64u << 20)
/* JPEG (EXIF orientation applied; grey, YCCK, CMYK) or PNG (palette, grey, 16 bits, alpha over black),
 * told apart by their first bytes. Truncated or damaged: -KD_EDATA. */
int kd_image_decode(const uint8_t *bytes, size_t len, kd_image *out, kd_diag *diag) KD_MUST_CHECK;
void kd_image_free(kd_image *im);
/* Antialiased triangle filter, separable, support scaled when shrinking (as Pillow BILINEAR); integer
 * arithmetic, so the same bits everywhere. out [oh,ow,3]. */
int kd_image_resize(const kd_image *in, int ow, int oh, uint8_t *out, kd_diag *diag) KD_MUST_CHECK;
int kd_image_write_png(const char *path, const uint8_t *rgb, int w, int h, kd_diag *diag) KD_MUST_CHECK;
int kd_image_write_jpeg(const char *path, const uint8_t *rgb, int w, int h, int quality,
                        kd_diag *diag) KD_MUST_CHECK;

/* ---- views */
#define KD_VIEW_RULE_VERSION 1
typedef struct kd_view_rule {
    bool flip;    /* mirrored with probability 1/2 */
    int crop_pad; /* pad so many zero pixels a side, then cut size x size at a random place */
    int size;
    uint64_t seed;
} kd_view_rule;
/* in, out [size,size,3], not the same memory. A pure function of (rule, sample, view, in). */
void kd_view_make(const kd_view_rule *rule, size_t sample, uint32_t view, const uint8_t *in,
                  uint8_t *out);
/* u8 -> float32 NHWC. kind as enum kd_preprocess in job.h: 0 unit, 1 symmetric, 2 imagenet. */
void kd_view_to_float(int kind, const uint8_t *rgb, size_t pixels, float *out);
/* Text that names everything a view depends on; goes into the bank's key. */
void kd_view_rule_text(const kd_view_rule *rule, int preprocess, char *out, size_t out_len);

/* ---- sampler: order of one epoch. order [n] is overwritten with a permutation of 0..n-1 that
 * depends on (seed, epoch, n) only. */
void kd_sampler_order(uint64_t seed, uint32_t epoch, size_t n, uint32_t *order);

/* ---- pictures of flowers drawn by our own code */
typedef struct kd_flowers_config {
    uint64_t seed;
    int size;             /* pixels */
    int train, val;       /* pictures in all */
} kd_flowers_config;
/* rgb [size,size,3] of picture `index` of class 0..4 (daisy dandelion roses sunflowers tulips). */
void kd_flowers_draw(uint64_t seed, int size, int cls, uint32_t index, uint8_t *rgb);
/* Writes DIR/images/<class>/NNNNN.jpg, classes.txt, train.txt, val.txt. progress as above. */
int kd_flowers_make(const char *dir, const kd_flowers_config *cfg,
                    void (*progress)(size_t done, size_t all, void *arg), void *arg,
                    kd_diag *diag) KD_MUST_CHECK;

#endif

/* What the files of a data set share: dataset.c (opening, digest, loading), folder.c (lists) and
 * idx.c. Nothing here is for other folders. */
#ifndef KD_DATASET_INTERNAL_H
#define KD_DATASET_INTERNAL_H

#include "data/dataset.h"
#include "data/decode.h"

#include <stdio.h>

typedef struct kd_data_sample {
    const char *name; /* into lists[] (folder) or the image file's name (IDX); NUL-terminated */
    int32_t label;    /* -1 = unlabelled */
    uint32_t at;      /* folder: line of its list, from 1; IDX: index in its file, upper bit
                         set for the validation file */
} kd_data_sample;
#define KD_IDX_VAL 0x80000000u

struct kd_data {
    enum kd_data_kind kind;
    char *path;
    int size, root_fd;
    kd_data_sample *samples; /* in the order of the splits */
    size_t count[KD_SPLITS], missing;
    int n_classes;
    const char **classes; /* into class_text, or into lists[] */
    char *class_text;
    char *lists[2];     /* text of the list files, cut into strings in place; IDX: names */
    uint8_t *pixels[2]; /* IDX: [n,h,w], train and val */
    int idx_w, idx_h;
    kd_digest digest, classes_digest;
};

/* A plain file of the data set, whole; one NUL is added. Caller frees. */
int kd_data_read(const kd_data *d, const char *name, size_t max, char **out_bytes, size_t *out_len,
                 kd_diag *diag) KD_MUST_CHECK;
/* The file of class names into classes, class_text and n_classes. */
int kd_data_read_classes(kd_data *d, const char *name, kd_diag *diag) KD_MUST_CHECK;

/* Both fill samples, n_train, n_val and the classes; what they have taken is freed with d, also
 * when they fail. */
int kd_data_open_folder(kd_data *d, const kd_data_config *cfg, kd_diag *diag) KD_MUST_CHECK;
int kd_data_open_idx(kd_data *d, const kd_data_config *cfg, kd_diag *diag) KD_MUST_CHECK;
/* [h,w] of one sample, borrowed until free. */
const uint8_t *kd_idx_pixels(const kd_data *d, size_t sample);

#endif

/* What the files of a data set share. Nothing here is for other folders.
 *
 *     dataset.c  opening, asking, loading      digest.c  digests, leakage
 *     folder.c   lists, class names, folders   split.c   shares, choices, order of the splits
 *     walk.c     what lies below a folder      array.c   what idx.c, cifar.c and npy.c share
 *
 * While a set is being opened its samples stand in the order in which they were read, each with
 * its split; kd_data_order puts them in order once all is decided. */
#ifndef KD_DATASET_INTERNAL_H
#define KD_DATASET_INTERNAL_H

#include "data/dataset.h"
#include "data/decode.h"

#include <stdio.h>

typedef struct kd_data_sample {
    const char *name; /* into its source's text; NUL-terminated */
    int32_t label;    /* -1 = unlabelled */
    uint32_t at;      /* list: line from 1; array: index in its file */
    uint8_t split;    /* enum kd_split; KD_SPLITS = left out */
    uint8_t source;
} kd_data_sample;

/* Where samples come from: a list or folder of picture files, or one file of pictures. */
typedef struct kd_data_source {
    char *file;         /* list, folder or file as it is called in messages */
    char *text;         /* names of its samples */
    const char *folder; /* picture files: what their names are relative to; borrowed from kd_data */
    uint8_t *bytes;     /* arrays: the whole file; NULL = picture files */
    size_t first, stride; /* arrays: picture i is at bytes + first + i * stride */
} kd_data_source;
#define KD_DATA_MAX_SOURCES 32

struct kd_data {
    enum kd_data_kind kind;
    char *path, *unlabelled_path;
    int size, root_fd;
    bool links; /* as in kd_data_config */
    kd_data_sample *samples;
    size_t n, room; /* samples read, samples that there is memory for */
    size_t count[KD_SPLITS], missing, moved;
    int n_classes;
    bool numbered;        /* the classes come from a file: lists may name them by number */
    const char **classes; /* into class_text */
    char *class_text;
    kd_data_source sources[KD_DATA_MAX_SOURCES];
    int n_sources;
    int w, h, channels; /* arrays: of every picture; channels 1 or 3 */
    bool planar;        /* arrays: [channels,h,w] instead of [h,w,channels] */
    kd_digest digest, classes_digest;
};

static inline const char *kd_data_text(const char *s) /* NULL is "" */
{
    return s ? s : "";
}

/* ---- dataset.c */

/* name in folder -> path beneath the root. */
#define KD_DATA_PATH_ROOM (2 * KD_DATA_MAX_LINE + 2)
int kd_data_path(const char *folder, const char *name, char out[KD_DATA_PATH_ROOM],
                 kd_diag *diag) KD_MUST_CHECK;
/* A path beneath the root, for reading: a descriptor or a failure. */
int kd_data_open_path(const kd_data *d, const char *path, int extra_flags,
                      kd_diag *diag) KD_MUST_CHECK;
/* A plain file, whole; one NUL is added. Caller frees. */
int kd_data_read(const kd_data *d, const char *folder, const char *name, size_t max,
                 char **out_bytes, size_t *out_len, kd_diag *diag) KD_MUST_CHECK;
/* 1 a folder, 0 something else; -KD_ENOENT and other failures to open. */
int kd_data_is_folder(const kd_data *d, const char *folder, const char *name,
                      kd_diag *diag) KD_MUST_CHECK;
/* A new source; its number, or a failure. What is put into it is freed with d. */
int kd_data_source_add(kd_data *d, const char *file, kd_diag *diag) KD_MUST_CHECK;
/* Room for `more` samples behind the n that are there. */
int kd_data_grow(kd_data *d, size_t more, const char *file, kd_diag *diag) KD_MUST_CHECK;

/* ---- folder.c */

/* The file of class names into classes, class_text and n_classes: the one that is named, or else
 * `usual` (NULL = none), which need not be there. */
int kd_data_read_classes(kd_data *d, const char *named, const char *usual,
                         kd_diag *diag) KD_MUST_CHECK;
/* Both append samples and set the classes; what they have taken is freed with d, also when they
 * fail. */
int kd_data_open_folder(kd_data *d, const kd_data_config *cfg, kd_diag *diag) KD_MUST_CHECK;
int kd_data_open_unlabelled(kd_data *d, const kd_data_config *cfg, kd_diag *diag) KD_MUST_CHECK;

/* ---- walk.c */

/* Entries of one folder, hidden ones left out, sorted by their bytes. */
typedef struct kd_entry {
    char *name;
    bool folder;
} kd_entry;
int kd_walk_list(const kd_data *d, const char *path, kd_entry **out, size_t *out_n,
                 kd_diag *diag) KD_MUST_CHECK;
void kd_walk_free(kd_entry *entries, size_t n); /* NULL allowed */

/* Names of pictures, NUL-terminated, one behind the other. */
typedef struct kd_names {
    char *text; /* owner frees */
    size_t len, room, count;
    size_t seen; /* entries looked at, bounded */
} kd_names;
/* Adds every .jpg, .jpeg and .png at or below folder/name, in the order of the names' bytes folder
 * by folder, as `name/...`. Hidden entries are passed over, links are followed as long as they
 * stay beneath the root and do not lead back up. -KD_ELIMIT beyond KD_WALK_DEPTH folders. */
#define KD_WALK_DEPTH 16
int kd_walk_pictures(const kd_data *d, const char *folder, const char *name, kd_names *out,
                     kd_diag *diag) KD_MUST_CHECK;

/* ---- array.c, idx.c, cifar.c, npy.c */

/* A file, unpacked if it is gzip. Caller frees. */
int kd_array_read(const kd_data *d, const char *name, uint8_t **out, size_t *out_len,
                  kd_diag *diag) KD_MUST_CHECK;
/* Appends n pictures with their labels (both checked for room and range) as a source; takes
 * bytes, also when it fails. The first source decides on w, h and channels. */
typedef struct kd_array {
    const char *file;
    uint8_t *bytes;
    size_t first, stride, n;
    int w, h, channels;
} kd_array;
int kd_array_add(kd_data *d, enum kd_split split, const kd_array *a, const int32_t *labels,
                 kd_diag *diag) KD_MUST_CHECK;
/* Classes 0..n-1, called by their numbers; n = 0: as many as the training labels need. */
int kd_array_number_classes(kd_data *d, int n, kd_diag *diag) KD_MUST_CHECK;
int kd_array_check_labels(const kd_data *d, kd_diag *diag) KD_MUST_CHECK;
/* Every split that is named, each a file of pictures and one of labels, and the classes. */
typedef int (*kd_array_reader)(kd_data *d, enum kd_split split, const char *images,
                               const char *labels, kd_diag *diag);
int kd_array_open_pairs(kd_data *d, const kd_data_config *cfg, kd_array_reader read,
                        kd_diag *diag) KD_MUST_CHECK;
const uint8_t *kd_array_pixels(const kd_data *d, const kd_data_sample *s);
/* As kd_data_open_folder. */
int kd_data_open_idx(kd_data *d, const kd_data_config *cfg, kd_diag *diag) KD_MUST_CHECK;
int kd_data_open_cifar(kd_data *d, const kd_data_config *cfg, kd_diag *diag) KD_MUST_CHECK;
int kd_data_open_npy(kd_data *d, const kd_data_config *cfg, kd_diag *diag) KD_MUST_CHECK;

/* ---- split.c */

/* Takes val_share and test_share out of the training samples, class by class. */
int kd_split_shares(kd_data *d, const kd_data_config *cfg, kd_diag *diag) KD_MUST_CHECK;
/* Leaves `keep` training samples (0 = all). */
int kd_split_choose(kd_data *d, size_t keep, uint64_t seed, kd_diag *diag) KD_MUST_CHECK;
/* Puts the samples in the order of their splits, otherwise as they are, drops those that are left
 * out and counts. */
int kd_data_order(kd_data *d, kd_diag *diag) KD_MUST_CHECK;

/* ---- digest.c */

/* Both digests, and what is to be done about pictures that are in two splits. */
int kd_data_make_digests(kd_data *d, enum kd_data_leakage leakage, kd_data_progress progress,
                         void *arg, kd_diag *diag) KD_MUST_CHECK;

#endif

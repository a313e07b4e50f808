/* safetensors files: 8 bytes little-endian header length, JSON header, raw data.
 * Source: https://github.com/huggingface/safetensors (format section of its README).
 *
 * Reading is hostile-safe: header at most 16 MiB, every tensor within the data, no overlap, no
 * duplicate name, shape times type size equal to its bytes. Only F32 tensors are handed out as
 * floats; others are listed. Used for weights, checkpoints and exported students alike. */
#ifndef KD_SAFETENSORS_H
#define KD_SAFETENSORS_H

#include "kd/err.h"
#include "kd/buf.h"

#define KD_ST_MAX_DIMS 8
typedef struct kd_st_tensor {
    const char *name; /* owned by the file */
    const char *dtype; /* "F32", ... */
    int ndim;
    int64_t shape[KD_ST_MAX_DIMS];
    const uint8_t *data; /* in the mapped file, any alignment */
    size_t bytes;
} kd_st_tensor;

typedef struct kd_st_file kd_st_file;
/* From memory (borrowed until close) or from a path (mapped). */
int kd_st_open_memory(const void *data, size_t len, const char *name, kd_st_file **out,
                      kd_diag *diag) KD_MUST_CHECK;
int kd_st_open(const char *path, kd_st_file **out, kd_diag *diag) KD_MUST_CHECK;
void kd_st_close(kd_st_file *f); /* NULL allowed */
size_t kd_st_count(const kd_st_file *f);
const kd_st_tensor *kd_st_at(const kd_st_file *f, size_t i); /* in file order */
const kd_st_tensor *kd_st_find(const kd_st_file *f, const char *name); /* NULL if absent */
/* Value of a __metadata__ key, NULL if absent. */
const char *kd_st_metadata(const kd_st_file *f, const char *key);

/* Writing: describe, then one durable write (kd_file_write). Metadata keys and tensors come out in
 * the order given, data 64-byte aligned; the same input gives the same bytes. */
typedef struct kd_st_item {
    const char *name;
    int ndim;
    int64_t shape[KD_ST_MAX_DIMS];
    const float *data; /* borrowed */
} kd_st_item;
typedef struct kd_st_pair {
    const char *key, *value;
} kd_st_pair;
int kd_st_write(const char *path, const kd_st_item *items, size_t n_items, const kd_st_pair *meta,
                size_t n_meta, kd_diag *diag) KD_MUST_CHECK;
/* The same bytes into memory. */
int kd_st_pack(const kd_st_item *items, size_t n_items, const kd_st_pair *meta, size_t n_meta,
               kd_buf *out, kd_diag *diag) KD_MUST_CHECK;

#endif

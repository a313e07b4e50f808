/* safetensors files: 8 bytes little-endian header length, JSON header, raw data.
 * Source: https://github.com/huggingface/safetensors (format section of its README).
 *
 *   offset 0      uint64 N, length of the header
 *   offset 8      N bytes JSON: {"__metadata__": {"key": "value"}, "name": {"dtype": "F32",
 *                 "shape": [64, 3], "data_offsets": [first, end]}, ...}, spaces at its end
 *   offset 8 + N  data; offsets count from here
 *
 * Reading is hostile-safe: header at most 16 MiB, at most 65536 tensors, every tensor within the
 * data, no overlap and no hole (the reference refuses holes too), no duplicate name, shape times
 * type size equal to its bytes. Only F32 tensors are handed out as floats; others are listed. F32,
 * F16, BF16 and I8 are written. Used for weights, checkpoints and exported students alike.
 *
 * Errors: -KD_EDATA for a broken file, -KD_ELIMIT past a limit, those of open() from a path.
 *
 * Threads: a file is read-only once open. A mapped file must not be cut while it is open. */
#ifndef KD_SAFETENSORS_H
#define KD_SAFETENSORS_H

#include "kd/buf.h"
#include "kd/err.h"

#define KD_ST_MAX_DIMS 8
typedef struct kd_st_tensor {
    const char *name;  /* owned by the file */
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
const kd_st_tensor *kd_st_at(const kd_st_file *f, size_t i);           /* in the header's order */
const kd_st_tensor *kd_st_find(const kd_st_file *f, const char *name); /* NULL if absent */
/* Value of a __metadata__ key, NULL if absent. */
const char *kd_st_metadata(const kd_st_file *f, const char *key);

/* Types that are written, and their words in a file ("F32"); -1 for another word. */
enum kd_st_type { KD_ST_F32, KD_ST_F16, KD_ST_BF16, KD_ST_I8 };
const char *kd_st_type_word(enum kd_st_type type);
int kd_st_type_of(const char *word);

/* Writing: describe, then one durable write (kd_file_write). Metadata keys and tensors come out in
 * the order given, without holes, the data beginning at a multiple of 64 bytes; the same input
 * gives the same bytes. -KD_EINVAL for a name twice, not UTF-8 or "__metadata__", or an impossible
 * shape. */
typedef struct kd_st_item {
    const char *name;
    int ndim;
    int64_t shape[KD_ST_MAX_DIMS];
    const void *data; /* borrowed: numbers of its type */
    enum kd_st_type type;
} kd_st_item;
typedef struct kd_st_pair {
    const char *key, *value;
} kd_st_pair;
int kd_st_write(const char *path, const kd_st_item *items, size_t n_items, const kd_st_pair *meta,
                size_t n_meta, kd_diag *diag) KD_MUST_CHECK;
/* The same bytes, appended to out. -KD_ELIMIT past its maximum. */
int kd_st_pack(const kd_st_item *items, size_t n_items, const kd_st_pair *meta, size_t n_meta,
               kd_buf *out, kd_diag *diag) KD_MUST_CHECK;

#endif

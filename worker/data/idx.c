/* IDX files, plain or gzip. Header: two zero bytes, type (8 = uint8), number of dimensions, then
 * each dimension as a big-endian uint32; the values follow.
 *
 *     00 00 08 03  00 00 EA 60  00 00 00 1C  00 00 00 1C  ...   60000 pictures of 28x28
 */
#include "data/dataset_internal.h"

#include <stdlib.h>
#include <string.h>

static uint32_t big32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Whole file, unpacked, with its dimensions checked against its length. Values start at
 * 4 + 4 * n_dims. */
static int read_idx(const kd_data *d, const char *name, int n_dims, uint8_t **out, uint32_t dims[3],
                    kd_diag *diag)
{
    uint8_t *bytes;
    size_t len;
    int rc = kd_array_read(d, name, &bytes, &len, diag);
    if (rc != 0)
        return rc;
    size_t head = 4 + 4 * (size_t)n_dims, want = head;
    const uint8_t magic[4] = {0, 0, 8, (uint8_t)n_dims};
    if (len < head || memcmp(bytes, magic, sizeof magic) != 0) {
        rc = kd_fail(diag, -KD_EDATA, "%s is not an IDX file of bytes with %d dimension(s)", name,
                     n_dims);
    } else {
        bool fits = true;
        size_t values = 1;
        for (int i = 0; i < n_dims; i++) {
            dims[i] = big32(bytes + 4 + 4 * i);
            fits = fits && dims[i] > 0 && kd_mul_size(values, dims[i], &values) &&
                   values <= KD_DATA_MAX_ARRAY;
        }
        want += fits ? values : 0;
        if (!fits || want != len)
            rc = kd_fail(diag, -KD_EDATA, "%s has %zu bytes, which is not what its header says",
                         name, len);
    }
    if (rc != 0) {
        free(bytes);
        return rc;
    }
    *out = bytes;
    return 0;
}

static int read_labels(const kd_data *d, const char *name, const char *images, size_t n,
                       int32_t **out, kd_diag *diag)
{
    uint32_t dims[3] = {0};
    uint8_t *bytes;
    int rc = read_idx(d, name, 1, &bytes, dims, diag);
    if (rc != 0)
        return rc;
    int32_t *labels = NULL;
    if (dims[0] != n)
        rc = kd_fail(diag, -KD_EDATA, "%s has %u labels for the %zu pictures of %s", name, dims[0],
                     n, images);
    else if (!(labels = malloc(n * sizeof *labels)))
        rc = kd_fail(diag, -KD_ENOMEM, "no memory for %zu labels", n);
    for (size_t i = 0; i < n && rc == 0; i++)
        labels[i] = bytes[8 + i];
    free(bytes);
    *out = labels;
    return rc;
}

static int read_split(kd_data *d, enum kd_split split, const char *images, const char *names,
                      kd_diag *diag)
{
    uint32_t dims[3] = {0};
    int32_t *labels;
    kd_array a = {.file = images, .first = 16, .channels = 1};
    int rc = read_idx(d, images, 3, &a.bytes, dims, diag);
    if (rc != 0)
        return rc;
    a.n = dims[0];
    a.stride = (size_t)dims[1] * dims[2];
    a.h = (int)dims[1]; /* the file is as long as all of them together, so they fit an int */
    a.w = (int)dims[2];
    rc = read_labels(d, names, images, a.n, &labels, diag);
    if (rc != 0) {
        free(a.bytes);
        return rc;
    }
    rc = kd_array_add(d, split, &a, labels, diag);
    free(labels);
    return rc;
}

int kd_data_open_idx(kd_data *d, const kd_data_config *cfg, kd_diag *diag)
{
    return kd_array_open_pairs(d, cfg, read_split, diag);
}

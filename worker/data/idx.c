/* IDX files, plain or gzip. Header: two zero bytes, type (8 = uint8), number of dimensions, then
 * each dimension as a big-endian uint32; the values follow.
 *
 *     00 00 08 03  00 00 EA 60  00 00 00 1C  00 00 00 1C  ...   60000 pictures of 28x28
 */
#include "data/dataset_internal.h"

#include <stdlib.h>
#include <string.h>

/* zlib.h then takes its input as const. */
#define ZLIB_CONST
#include <zlib.h>

#define MAX_SIDE 4096

/* Inflates a gzip file of one member. Room grows with what comes out, so that a small file which
 * promises much costs nothing before it delivers. */
static int unpack(const char *name, const uint8_t *in, size_t in_len, uint8_t **out,
                  size_t *out_len, kd_diag *diag)
{
    z_stream z = {.next_in = in, .avail_in = (uInt)in_len};
    if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
        return kd_fail(diag, -KD_ENOMEM, "no memory to unpack %s", name);
    uint8_t *data = NULL;
    size_t len = 0, room = 0;
    int rc = 0, code = Z_OK;
    while (rc == 0 && code == Z_OK) {
        if (len == room) {
            /* One byte more than is accepted, to tell full from overfull. */
            size_t more = KD_MIN(KD_MAX(2 * room, (size_t)1 << 16), (size_t)KD_DATA_MAX_IDX + 1);
            uint8_t *p = more > room ? realloc(data, more) : NULL;
            if (!p) {
                rc = more > room ? kd_fail(diag, -KD_ENOMEM, "no memory to unpack %s", name)
                                 : kd_fail(diag, -KD_ELIMIT, "%s unpacks to more than %u bytes",
                                           name, KD_DATA_MAX_IDX);
                break;
            }
            data = p;
            room = more;
        }
        z.next_out = data + len;
        z.avail_out = (uInt)(room - len);
        code = inflate(&z, Z_NO_FLUSH);
        len = room - z.avail_out;
        if (code == Z_BUF_ERROR && z.avail_out == 0)
            code = Z_OK;
    }
    if (rc == 0 && code != Z_STREAM_END)
        rc = kd_fail(diag, -KD_EDATA, "%s is not whole gzip data: %s", name,
                     code == Z_BUF_ERROR ? "it ends early"
                     : z.msg             ? z.msg
                                         : "damaged");
    if (rc == 0 && z.avail_in != 0)
        rc = kd_fail(diag, -KD_EDATA, "%s has %u bytes behind its gzip data", name, z.avail_in);
    inflateEnd(&z);
    if (rc != 0) {
        free(data);
        return rc;
    }
    *out = data;
    *out_len = len;
    return 0;
}

static uint32_t big32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Whole file, unpacked, with its dimensions checked against its length. Values start at
 * 4 + 4 * n_dims. */
static int read_idx(const kd_data *d, const char *name, int n_dims, uint8_t **out, uint32_t dims[3],
                    kd_diag *diag)
{
    char *raw;
    size_t len;
    int rc = kd_data_read(d, name, KD_DATA_MAX_IDX, &raw, &len, diag);
    if (rc != 0)
        return rc;
    uint8_t *bytes = (uint8_t *)raw;
    if (len >= 2 && bytes[0] == 0x1F && bytes[1] == 0x8B) {
        rc = unpack(name, (uint8_t *)raw, len, &bytes, &len, diag);
        free(raw);
        if (rc != 0)
            return rc;
    }
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
                   values <= KD_DATA_MAX_IDX;
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

static int name_samples(kd_data *d, int which, const char *file, kd_data_sample *samples, size_t n,
                        kd_diag *diag)
{
    const char *base = strrchr(file, '/');
    base = base ? base + 1 : file;
    size_t room = 96;
    d->lists[which] = malloc(n * room);
    if (!d->lists[which])
        return kd_fail(diag, -KD_ENOMEM, "no memory for the names of %zu samples", n);
    char *at = d->lists[which];
    for (size_t i = 0; i < n; i++) {
        samples[i].name = at;
        at += snprintf(at, room, "%.64s#%zu", base, i) + 1;
    }
    return 0;
}

/* Pictures and labels of one split, appended to the samples. */
static int read_split(kd_data *d, int which, const char *images, const char *labels,
                      size_t *out_count, kd_diag *diag)
{
    uint32_t dims[3] = {0}, label_dims[3] = {0};
    int rc = read_idx(d, images, 3, &d->pixels[which], dims, diag);
    if (rc != 0)
        return rc;
    if (dims[1] > MAX_SIDE || dims[2] > MAX_SIDE)
        return kd_fail(diag, -KD_ELIMIT, "%s has pictures of %ux%u; at most %d a side are accepted",
                       images, dims[2], dims[1], MAX_SIDE);
    if (which == 1 && ((int)dims[1] != d->idx_h || (int)dims[2] != d->idx_w))
        return kd_fail(diag, -KD_EDATA, "%s has pictures of %ux%u, the training file %dx%d", images,
                       dims[2], dims[1], d->idx_w, d->idx_h);
    d->idx_h = (int)dims[1];
    d->idx_w = (int)dims[2];
    size_t have = d->count[KD_SPLIT_TRAIN], n = dims[0];
    if (have + n > KD_DATA_MAX_SAMPLES)
        return kd_fail(diag, -KD_ELIMIT,
                       "%s has %zu pictures; at most %u samples are accepted in all", images, n,
                       KD_DATA_MAX_SAMPLES);
    uint8_t *values;
    rc = read_idx(d, labels, 1, &values, label_dims, diag);
    if (rc != 0)
        return rc;
    kd_data_sample *more = NULL;
    if (label_dims[0] != n)
        rc = kd_fail(diag, -KD_EDATA, "%s has %u labels for the %zu pictures of %s", labels,
                     label_dims[0], n, images);
    else if (!(more = realloc(d->samples, (have + n) * sizeof *more)))
        rc = kd_fail(diag, -KD_ENOMEM, "no memory for %zu samples", n);
    if (rc == 0) {
        d->samples = more;
        for (size_t i = 0; i < n; i++)
            more[have + i] = (kd_data_sample){.label = values[8 + i],
                                              .at = (uint32_t)i | (which ? KD_IDX_VAL : 0)};
        rc = name_samples(d, which, images, more + have, n, diag);
        *out_count = n;
    }
    free(values);
    return rc;
}

/* Classes 0 to the largest training label, named by their numbers. */
static int number_classes(kd_data *d, kd_diag *diag)
{
    int max = 0;
    for (size_t i = 0; i < d->count[KD_SPLIT_TRAIN]; i++)
        max = KD_MAX(max, d->samples[i].label);
    d->n_classes = max + 1;
    d->classes = calloc((size_t)d->n_classes, sizeof *d->classes);
    d->class_text = malloc((size_t)d->n_classes * 12);
    if (!d->classes || !d->class_text)
        return kd_fail(diag, -KD_ENOMEM, "no memory for class names");
    for (int c = 0; c < d->n_classes; c++) {
        snprintf(d->class_text + 12 * c, 12, "%d", c);
        d->classes[c] = d->class_text + 12 * c;
    }
    return 0;
}

int kd_data_open_idx(kd_data *d, const kd_data_config *cfg, kd_diag *diag)
{
    int rc = cfg->classes && *cfg->classes ? kd_data_read_classes(d, cfg->classes, diag) : 0;
    if (rc == 0)
        rc = read_split(d, 0, cfg->train, cfg->train_labels, &d->count[KD_SPLIT_TRAIN], diag);
    if (rc == 0)
        rc = read_split(d, 1, cfg->val, cfg->val_labels, &d->count[KD_SPLIT_VAL], diag);
    if (rc == 0 && d->n_classes == 0)
        rc = number_classes(d, diag);
    for (size_t i = 0; rc == 0 && i < d->count[KD_SPLIT_TRAIN] + d->count[KD_SPLIT_VAL]; i++)
        if (d->samples[i].label >= d->n_classes)
            rc =
                kd_fail(diag, -KD_EDATA, "%s: label %d of sample %s, but there are only %d classes",
                        i < d->count[KD_SPLIT_TRAIN] ? cfg->train_labels : cfg->val_labels,
                        d->samples[i].label, d->samples[i].name, d->n_classes);
    return rc;
}

const uint8_t *kd_idx_pixels(const kd_data *d, size_t sample)
{
    uint32_t at = d->samples[sample].at;
    size_t picture = (size_t)d->idx_w * (size_t)d->idx_h;
    return d->pixels[at & KD_IDX_VAL ? 1 : 0] + 16 + (at & ~KD_IDX_VAL) * picture;
}

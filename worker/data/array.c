/* Files that hold many pictures as bytes: what idx.c, cifar.c and npy.c share. */
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
            size_t more = KD_MIN(KD_MAX(2 * room, (size_t)1 << 16), (size_t)KD_DATA_MAX_ARRAY + 1);
            uint8_t *p = more > room ? realloc(data, more) : NULL;
            if (!p) {
                rc = more > room ? kd_fail(diag, -KD_ENOMEM, "no memory to unpack %s", name)
                                 : kd_fail(diag, -KD_ELIMIT, "%s unpacks to more than %u bytes",
                                           name, KD_DATA_MAX_ARRAY);
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

int kd_array_read(const kd_data *d, const char *name, uint8_t **out, size_t *out_len, kd_diag *diag)
{
    char *raw;
    size_t len;
    int rc = kd_data_read(d, d->path, name, KD_DATA_MAX_ARRAY, &raw, &len, diag);
    if (rc != 0)
        return rc;
    *out = (uint8_t *)raw;
    *out_len = len;
    if (len >= 2 && (*out)[0] == 0x1F && (*out)[1] == 0x8B) {
        rc = unpack(name, (uint8_t *)raw, len, out, out_len, diag);
        free(raw);
    }
    return rc;
}

/* Names `FILE#NUMBER` for n samples from `samples` on. */
static int name_samples(kd_data_source *from, kd_data_sample *samples, size_t n, kd_diag *diag)
{
    const char *base = strrchr(from->file, '/');
    base = base ? base + 1 : from->file;
    size_t room = 96;
    from->text = malloc(n * room);
    if (!from->text)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the names of %zu samples", n);
    char *at = from->text;
    for (size_t i = 0; i < n; i++) {
        samples[i].name = at;
        at += snprintf(at, room, "%.64s#%zu", base, i) + 1;
    }
    return 0;
}

static int check_shape(kd_data *d, const kd_array *a, kd_diag *diag)
{
    if (a->w > MAX_SIDE || a->h > MAX_SIDE)
        return kd_fail(diag, -KD_ELIMIT, "%s has pictures of %dx%d; at most %d a side are accepted",
                       a->file, a->w, a->h, MAX_SIDE);
    if (d->channels == 0) {
        d->w = a->w;
        d->h = a->h;
        d->channels = a->channels;
    }
    if (a->w != d->w || a->h != d->h || a->channels != d->channels)
        return kd_fail(diag, -KD_EDATA,
                       "%s has pictures of %dx%d in %d channel(s), the training file %dx%d in %d",
                       a->file, a->w, a->h, a->channels, d->w, d->h, d->channels);
    return 0;
}

int kd_array_add(kd_data *d, enum kd_split split, const kd_array *a, const int32_t *labels,
                 kd_diag *diag)
{
    int source = kd_data_source_add(d, a->file, diag);
    if (source < 0) {
        free(a->bytes);
        return source;
    }
    kd_data_source *from = &d->sources[source];
    from->bytes = a->bytes;
    from->first = a->first;
    from->stride = a->stride;
    int rc = check_shape(d, a, diag);
    if (rc == 0)
        rc = kd_data_grow(d, a->n, a->file, diag);
    if (rc != 0)
        return rc;
    kd_data_sample *s = d->samples + d->n;
    for (size_t i = 0; i < a->n; i++)
        s[i] = (kd_data_sample){.label = labels[i],
                                .at = (uint32_t)i,
                                .split = (uint8_t)split,
                                .source = (uint8_t)source};
    rc = name_samples(from, s, a->n, diag);
    if (rc == 0)
        d->n += a->n;
    return rc;
}

int kd_array_number_classes(kd_data *d, int n, kd_diag *diag)
{
    for (size_t i = 0; i < d->n; i++)
        if (d->samples[i].split == KD_SPLIT_TRAIN)
            n = KD_MAX(n, d->samples[i].label + 1);
    d->n_classes = n;
    d->classes = calloc((size_t)n, sizeof *d->classes);
    d->class_text = malloc((size_t)n * 12);
    if (!d->classes || !d->class_text)
        return kd_fail(diag, -KD_ENOMEM, "no memory for class names");
    for (int c = 0; c < n; c++) {
        snprintf(d->class_text + 12 * c, 12, "%d", c);
        d->classes[c] = d->class_text + 12 * c;
    }
    return 0;
}

int kd_array_check_labels(const kd_data *d, kd_diag *diag)
{
    for (size_t i = 0; i < d->n; i++) {
        const kd_data_sample *s = &d->samples[i];
        if (s->label < 0 || s->label >= d->n_classes)
            return kd_fail(diag, -KD_EDATA, "label %d of sample %s, but there are only %d classes",
                           s->label, s->name, d->n_classes);
    }
    return 0;
}

int kd_array_open_pairs(kd_data *d, const kd_data_config *cfg, kd_array_reader read, kd_diag *diag)
{
    const char *files[][2] = {{cfg->train, cfg->train_labels},
                              {cfg->val, cfg->val_labels},
                              {cfg->test, cfg->test_labels}};
    int rc = kd_data_read_classes(d, cfg->classes, NULL, diag);
    for (enum kd_split s = KD_SPLIT_TRAIN; s <= KD_SPLIT_TEST && rc == 0; s++)
        if (*kd_data_text(files[s][0]))
            rc = read(d, s, files[s][0], files[s][1], diag);
    if (rc == 0 && d->n_classes == 0)
        rc = kd_array_number_classes(d, 0, diag);
    return rc == 0 ? kd_array_check_labels(d, diag) : rc;
}

const uint8_t *kd_array_pixels(const kd_data *d, const kd_data_sample *s)
{
    const kd_data_source *from = &d->sources[s->source];
    return from->bytes + from->first + s->at * from->stride;
}

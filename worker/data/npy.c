/* NumPy's .npy files (numpy/lib/format.py), plain or gzip:
 *
 *     93 'NUMPY'  MAJOR MINOR  LENGTH (uint16; uint32 from version 2)  HEADER  VALUES
 *
 * HEADER is a Python dictionary of exactly three keys, padded with spaces and ended by LF:
 *     {'descr': '|u1', 'fortran_order': False, 'shape': (60000, 28, 28), }
 * It is read by a parser of its own that knows nothing else. */
#include "data/dataset_internal.h"

#include <stdlib.h>
#include <string.h>

#define MAX_HEADER 4096
#define MAX_DIMS 4

typedef struct npy {
    char type; /* 'u' or 'i' */
    int bytes; /* of a value: 1, 2, 4, 8 */
    int n_dims;
    size_t dims[MAX_DIMS];
    size_t values; /* product of dims */
    size_t first;  /* where the values start */
} npy;

/* ---- the header */

typedef struct text {
    const char *at, *end;
} text;

static void skip(text *t)
{
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\n'))
        t->at++;
}

static bool eat(text *t, const char *word)
{
    size_t n = strlen(word);
    skip(t);
    if ((size_t)(t->end - t->at) < n || memcmp(t->at, word, n) != 0)
        return false;
    t->at += n;
    return true;
}

/* A quoted word of less than `room` bytes. */
static bool eat_string(text *t, char *out, size_t room)
{
    skip(t);
    if (t->at == t->end || (*t->at != '\'' && *t->at != '"'))
        return false;
    char quote = *t->at++;
    size_t n = 0;
    while (t->at < t->end && *t->at != quote && n + 1 < room)
        out[n++] = *t->at++;
    out[n] = '\0';
    return t->at < t->end && *t->at++ == quote;
}

static bool eat_number(text *t, size_t *out)
{
    skip(t);
    const char *start = t->at;
    size_t v = 0;
    for (; t->at < t->end && *t->at >= '0' && *t->at <= '9'; t->at++)
        if (!kd_mul_size(v, 10, &v) || __builtin_add_overflow(v, (size_t)(*t->at - '0'), &v))
            return false;
    *out = v;
    return t->at > start && !(*start == '0' && t->at > start + 1);
}

static bool eat_shape(text *t, npy *out)
{
    if (!eat(t, "("))
        return false;
    while (!eat(t, ")")) {
        if (out->n_dims == MAX_DIMS || !eat_number(t, &out->dims[out->n_dims++]))
            return false;
        if (!eat(t, ","))
            return out->n_dims > 1 && eat(t, ")");
    }
    return true;
}

/* What is wrong with the type of the values, or NULL. */
static const char *read_type(const char *descr, npy *out)
{
    if (descr[0] == '>')
        return "its values are big-endian; save it with a type like '<i4'";
    const char *p = descr + (descr[0] == '|' || descr[0] == '<');
    if ((p[0] != 'u' && p[0] != 'i') || !strchr("1248", p[1]) || !p[1] || p[2])
        return "its values are not integers";
    if (descr[0] != '<' && p[1] != '1')
        return "the byte order of its values is not given";
    out->type = p[0];
    out->bytes = p[1] - '0';
    return NULL;
}

/* What is wrong with the header, or NULL. */
static const char *read_header(text t, npy *out)
{
    static const char broken[] = "its header is not {'descr': ..., 'fortran_order': ..., "
                                 "'shape': ...}";
    char key[16], descr[16];
    bool has_descr = false, has_order = false, has_shape = false, more = true;
    const char *fault = NULL;
    if (!eat(&t, "{"))
        return broken;
    while (!fault && !eat(&t, "}")) {
        if (!more || !eat_string(&t, key, sizeof key) || !eat(&t, ":"))
            return broken;
        bool *has = strcmp(key, "descr") == 0           ? &has_descr
                    : strcmp(key, "fortran_order") == 0 ? &has_order
                    : strcmp(key, "shape") == 0         ? &has_shape
                                                        : NULL;
        if (!has || *has)
            return broken;
        *has = true;
        if (has == &has_descr)
            fault = eat_string(&t, descr, sizeof descr) ? read_type(descr, out)
                                                        : "its type is not a plain one";
        else if (has == &has_shape)
            fault = eat_shape(&t, out) ? NULL : "its shape is not one to four whole numbers";
        else if (!eat(&t, "False"))
            fault = eat(&t, "True") ? "it is in Fortran order; save numpy.ascontiguousarray of it"
                                    : broken;
        more = eat(&t, ",");
    }
    if (fault)
        return fault;
    skip(&t);
    return has_descr && has_order && has_shape && t.at == t.end ? NULL : broken;
}

static const char *read_all(const uint8_t *bytes, size_t len, npy *out)
{
    *out = (npy){0};
    if (len < 10 || memcmp(bytes, "\x93NUMPY", 6) != 0)
        return "it is not an .npy file";
    if (bytes[6] < 1 || bytes[6] > 3 || bytes[7] != 0)
        return "its version is none of 1.0, 2.0 and 3.0";
    size_t head = bytes[6] == 1 ? 10 : 12, n = (size_t)bytes[8] | (size_t)bytes[9] << 8;
    if (head == 12 && len >= 12)
        n |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (n > MAX_HEADER)
        return "its header is longer than 4096 bytes";
    if (len < head + n)
        return "it ends in its header";
    const char *p = (const char *)bytes + head;
    const char *fault = read_header((text){p, p + n}, out);
    if (fault)
        return fault;
    out->first = head + n;
    out->values = 1;
    size_t all;
    for (int i = 0; i < out->n_dims; i++)
        if (!kd_mul_size(out->values, out->dims[i], &out->values))
            return "its shape is too large";
    if (!kd_mul_size(out->values, (size_t)out->bytes, &all) || all != len - out->first)
        return "its length is not what its header says";
    return out->values > 0 ? NULL : "there is nothing in it";
}

static int read_npy(const kd_data *d, const char *name, uint8_t **out_bytes, npy *out,
                    kd_diag *diag)
{
    size_t len;
    int rc = kd_array_read(d, name, out_bytes, &len, diag);
    if (rc != 0)
        return rc;
    const char *fault = read_all(*out_bytes, len, out);
    if (fault) {
        free(*out_bytes);
        return kd_fail(diag, -KD_EDATA, "%s: %s", name, fault);
    }
    return 0;
}

/* ---- pairs */

/* Value i; false unless it can be the number of a class. */
static bool label_at(const uint8_t *values, const npy *a, size_t i, int32_t *out)
{
    uint64_t v = 0;
    for (int b = 0; b < a->bytes; b++)
        v |= (uint64_t)values[i * (size_t)a->bytes + (size_t)b] << (8 * b);
    /* A negative value has its upper bit set and is too large whatever its width. */
    if (v >= KD_DATA_MAX_CLASSES || (a->type == 'i' && v >> (8 * a->bytes - 1)))
        return false;
    *out = (int32_t)v;
    return true;
}

static int read_labels(const kd_data *d, const char *name, const char *images, size_t n,
                       int32_t **out, kd_diag *diag)
{
    uint8_t *bytes;
    npy a;
    int32_t *labels = NULL;
    int rc = read_npy(d, name, &bytes, &a, diag);
    if (rc != 0)
        return rc;
    if (a.n_dims != 1 && !(a.n_dims == 2 && a.dims[1] == 1))
        rc = kd_fail(diag, -KD_EDATA, "%s: labels have one dimension, this has %d", name, a.n_dims);
    else if (a.dims[0] != n)
        rc = kd_fail(diag, -KD_EDATA, "%s has %zu labels for the %zu pictures of %s", name,
                     a.dims[0], n, images);
    else if (!(labels = malloc(n * sizeof *labels)))
        rc = kd_fail(diag, -KD_ENOMEM, "no memory for %zu labels", n);
    for (size_t i = 0; i < n && rc == 0; i++)
        if (!label_at(bytes + a.first, &a, i, &labels[i]))
            rc = kd_fail(diag, -KD_EDATA, "%s: value %zu is not the number of a class (0 to %d)",
                         name, i, KD_DATA_MAX_CLASSES - 1);
    free(bytes);
    if (rc != 0) {
        free(labels);
        return rc;
    }
    *out = labels;
    return 0;
}

static int read_split(kd_data *d, enum kd_split split, const char *images, const char *names,
                      kd_diag *diag)
{
    kd_array a = {.file = images};
    npy shape;
    int32_t *labels = NULL;
    int rc = read_npy(d, images, &a.bytes, &shape, diag);
    if (rc != 0)
        return rc;
    size_t channels = shape.n_dims == 4 ? shape.dims[3] : 1;
    if (shape.type != 'u' || shape.bytes != 1 || shape.n_dims < 3 ||
        (channels != 1 && channels != 3)) {
        rc = kd_fail(diag, -KD_EDATA,
                     "%s: pictures are uint8 of shape [n,h,w], [n,h,w,1] or [n,h,w,3]", images);
    } else {
        a.first = shape.first;
        a.n = shape.dims[0];
        a.h = (int)shape.dims[1]; /* the file is bounded, so they fit an int */
        a.w = (int)shape.dims[2];
        a.channels = (int)channels;
        a.stride = shape.values / a.n;
        rc = read_labels(d, names, images, a.n, &labels, diag);
    }
    if (rc != 0) {
        free(a.bytes);
        return rc;
    }
    rc = kd_array_add(d, split, &a, labels, diag);
    free(labels);
    return rc;
}

int kd_data_open_npy(kd_data *d, const kd_data_config *cfg, kd_diag *diag)
{
    return kd_array_open_pairs(d, cfg, read_split, diag);
}

/* Tensors whose values are known. Large weights stay where they lie until they go into the
 * parameter vector; only what folding computes with is unpacked before. */
#include "models/onnx_internal.h"

#include "kd/file.h"
#include "store/narrow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_ELEMENTS ((size_t)1 << 28)
#define MAX_EXTERNAL ((size_t)1 << 30) /* bytes in all */

bool kd_onnx_count(int rank, const int64_t *dim, size_t *out)
{
    size_t count = 1;
    for (int i = 0; i < rank; i++)
        if (dim[i] < 0 || dim[i] > (int64_t)MAX_ELEMENTS ||
            !kd_mul_size(count, (size_t)dim[i], &count) || count > MAX_ELEMENTS)
            return false;
    *out = count;
    return true;
}

static size_t element_size(int32_t type)
{
    switch (type) {
    case KD_ONNX_UINT8:
    case KD_ONNX_INT8:
    case KD_ONNX_BOOL:
        return 1;
    case KD_ONNX_FLOAT16:
    case KD_ONNX_BFLOAT16:
        return 2;
    case KD_ONNX_FLOAT:
    case KD_ONNX_INT32:
        return 4;
    case KD_ONNX_INT64:
    case KD_ONNX_DOUBLE:
        return 8;
    default:
        return 0;
    }
}

static bool is_integer(int32_t type)
{
    return type == KD_ONNX_UINT8 || type == KD_ONNX_INT8 || type == KD_ONNX_BOOL ||
           type == KD_ONNX_INT32 || type == KD_ONNX_INT64;
}

static int keep(kd_onnx_ctx *c, kd_onnx_const *k)
{
    if (c->n_consts == c->room_consts) {
        size_t room = c->room_consts ? 2 * c->room_consts : 256;
        kd_onnx_const **more = realloc(c->consts, room * sizeof *more);
        if (!more) {
            kd_onnx_const_free(k);
            return kd_onnx_no_memory(c);
        }
        c->consts = more;
        c->room_consts = room;
    }
    c->consts[c->n_consts++] = k;
    return 0;
}

/* How many values the tensor's own list for its type holds. */
static size_t list_length(const Onnx__TensorProto *t)
{
    switch (t->data_type) {
    case KD_ONNX_FLOAT:
        return t->n_float_data;
    case KD_ONNX_DOUBLE:
        return t->n_double_data;
    case KD_ONNX_INT64:
        return t->n_int64_data;
    default:
        return t->n_int32_data;
    }
}

int kd_onnx_const_of(kd_onnx_ctx *c, const Onnx__TensorProto *t, const char *name,
                     kd_onnx_const **out)
{
    size_t count, bytes, size = element_size(t->data_type);
    const uint8_t *raw;
    if (!size)
        return kd_onnx_fail(c, -KD_EUNSUP, "tensor %s has data of type %d, which is not read", name,
                            t->data_type);
    if (t->n_dims > KD_ONNX_MAX_RANK || !kd_onnx_count((int)t->n_dims, t->dims, &count))
        return kd_onnx_fail(c, -KD_ELIMIT, "tensor %s has an impossible shape, or is too large",
                            name);
    if (t->data_location == 1) {
        if (t->has_raw_data)
            return kd_onnx_fail(c, -KD_EDATA, "tensor %s has data within and without the file",
                                name);
    } else if (kd_onnx_raw(t, c->file, &raw, &bytes)) {
        if (bytes != count * size)
            return kd_onnx_fail(c, -KD_EDATA,
                                "tensor %s has %zu bytes of data, its shape and type want %zu",
                                name, bytes, count * size);
    } else if (list_length(t) != count) {
        return kd_onnx_fail(c, -KD_EDATA, "tensor %s has %zu values, its shape wants %zu", name,
                            list_length(t), count);
    }
    kd_onnx_const *k = calloc(1, sizeof *k);
    if (!k)
        return kd_onnx_no_memory(c);
    k->rank = (int)t->n_dims;
    if (t->n_dims)
        memcpy(k->dim, t->dims, t->n_dims * sizeof *k->dim);
    k->count = count;
    k->integer = is_integer(t->data_type);
    k->src = t;
    k->held = t->data_type;
    k->name = name;
    int rc = keep(c, k);
    if (!rc)
        *out = k;
    return rc;
}

bool kd_onnx_fold_take(kd_onnx_ctx *c, size_t count, size_t element)
{
    if (count > (KD_ONNX_FOLD_MAX - c->folded) / element)
        return false;
    c->folded += count * element;
    return true;
}

int kd_onnx_const_new(kd_onnx_ctx *c, bool integer, int rank, const int64_t *dim,
                      kd_onnx_const **out)
{
    size_t count;
    if (rank > KD_ONNX_MAX_RANK || !kd_onnx_count(rank, dim, &count) ||
        !kd_onnx_fold_take(c, count, integer ? sizeof(int64_t) : sizeof(float)))
        return kd_onnx_fail(c, -KD_ELIMIT, "gives a constant that is too large");
    kd_onnx_const *k = calloc(1, sizeof *k);
    if (!k)
        return kd_onnx_no_memory(c);
    k->rank = rank;
    if (rank)
        memcpy(k->dim, dim, (size_t)rank * sizeof *dim);
    k->count = count;
    k->integer = integer;
    k->name = c->node && c->node->n_output ? c->node->output[0] : "";
    if (integer)
        k->i = calloc(count ? count : 1, sizeof *k->i);
    else
        k->f = calloc(count ? count : 1, sizeof *k->f);
    if (!k->i && !k->f) {
        kd_onnx_const_free(k);
        return kd_onnx_no_memory(c);
    }
    int rc = keep(c, k);
    if (!rc)
        *out = k;
    return rc;
}

void kd_onnx_const_free(kd_onnx_const *k)
{
    if (!k)
        return;
    free(k->f);
    free(k->i);
    free(k);
}

/* ---- reading values */

#define READ(type)                                                                                 \
    type v;                                                                                        \
    memcpy(&v, p + n * sizeof v, sizeof v)

static float float_at(int32_t type, const uint8_t *p, size_t n)
{
    if (type == KD_ONNX_FLOAT) {
        READ(float);
        return v;
    }
    if (type == KD_ONNX_DOUBLE) {
        READ(double);
        return (float)v;
    }
    READ(uint16_t);
    return kd_half_value(v, type == KD_ONNX_FLOAT16 ? KD_ST_F16 : KD_ST_BF16);
}

static int64_t int_at(int32_t type, const uint8_t *p, size_t n)
{
    if (type == KD_ONNX_INT64) {
        READ(int64_t);
        return v;
    }
    if (type == KD_ONNX_INT32) {
        READ(int32_t);
        return v;
    }
    return type == KD_ONNX_INT8 ? (int8_t)p[n] : p[n];
}

/* Into the one of f and i that is there. */
static void from_bytes(const kd_onnx_const *k, const uint8_t *p, float *f, int64_t *i)
{
    int32_t type = k->src->data_type;
    if (f && type == KD_ONNX_FLOAT && k->count)
        memcpy(f, p, k->count * sizeof *f);
    else
        for (size_t n = 0; n < k->count; n++)
            if (f)
                f[n] = float_at(type, p, n);
            else
                i[n] = int_at(type, p, n);
}

static void from_lists(const kd_onnx_const *k, float *f, int64_t *i)
{
    const Onnx__TensorProto *t = k->src;
    for (size_t n = 0; n < k->count; n++)
        switch (t->data_type) {
        case KD_ONNX_FLOAT:
            f[n] = t->float_data[n];
            break;
        case KD_ONNX_DOUBLE:
            f[n] = (float)t->double_data[n];
            break;
        case KD_ONNX_FLOAT16:
            f[n] = kd_half_value((uint16_t)t->int32_data[n], KD_ST_F16);
            break;
        case KD_ONNX_BFLOAT16:
            f[n] = kd_half_value((uint16_t)t->int32_data[n], KD_ST_BF16);
            break;
        case KD_ONNX_INT64:
            i[n] = t->int64_data[n];
            break;
        default:
            i[n] = t->int32_data[n];
        }
}

static bool parse_size(const char *text, uint64_t *out)
{
    uint64_t v = 0;
    if (!*text)
        return false;
    for (; *text; text++)
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*text - '0'), &v))
            return false;
    *out = v;
    return true;
}

static int read_at(kd_onnx_ctx *c, int fd, const char *path, uint64_t offset, uint8_t *out,
                   size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(fd, out + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return kd_onnx_fail(c, -KD_EIO, "external data in %s: %s", path,
                                n ? strerror(errno) : "the file has become shorter");
        done += (size_t)n;
    }
    return 0;
}

/* Caller frees *out. */
static int read_external(kd_onnx_ctx *c, const kd_onnx_const *k, uint8_t **out)
{
    const Onnx__TensorProto *t = k->src;
    const size_t want = k->count * element_size(t->data_type);
    const char *path = NULL;
    uint64_t offset = 0, length = want;
    for (size_t i = 0; i < t->n_external_data; i++) {
        const char *key = t->external_data[i]->key, *value = t->external_data[i]->value;
        bool ok = true;
        if (strcmp(key, "location") == 0)
            path = value;
        else if (strcmp(key, "offset") == 0)
            ok = parse_size(value, &offset);
        else if (strcmp(key, "length") == 0)
            ok = parse_size(value, &length);
        if (!ok)
            return kd_onnx_fail(c, -KD_EDATA, "tensor %s: external data with %s %.40s", k->name,
                                key, value);
    }
    if (!path || !*path || strlen(path) > 1024)
        return kd_onnx_fail(c, -KD_EDATA, "tensor %s has external data, but names no file",
                            k->name);
    if (c->opt->folder_fd < 0)
        return kd_onnx_fail(c, -KD_EUNSUP,
                            "tensor %s lies in another file (%s), which cannot be read here; save "
                            "the model as one file",
                            k->name, path);
    if (length != want)
        return kd_onnx_fail(
            c, -KD_EDATA, "tensor %s has %llu bytes of external data, its shape and type want %zu",
            k->name, (unsigned long long)length, want);
    if (want > MAX_EXTERNAL - c->external)
        return kd_onnx_fail(c, -KD_ELIMIT, "more than %zu MiB of external data",
                            MAX_EXTERNAL >> 20);
    /* Without O_NONBLOCK, opening a named pipe would wait for a writer for ever. */
    int fd = kd_file_open_beneath(c->opt->folder_fd, path, O_NONBLOCK, c->diag);
    if (fd < 0)
        return kd_fail_at(c->diag, fd, "%s: tensor %s", c->name, k->name);
    struct stat st;
    int rc = 0;
    uint8_t *bytes = malloc(want ? want : 1);
    if (!bytes)
        rc = kd_onnx_no_memory(c);
    else if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        rc = kd_onnx_fail(c, -KD_EDATA, "external data: %s is not a plain file", path);
    else if (offset > (uint64_t)st.st_size || want > (uint64_t)st.st_size - offset)
        rc = kd_onnx_fail(c, -KD_EDATA, "tensor %s lies beyond the end of %s (%lld bytes)", k->name,
                          path, (long long)st.st_size);
    else
        rc = read_at(c, fd, path, offset, bytes, want);
    close(fd);
    if (rc) {
        free(bytes);
        return rc;
    }
    c->external += want;
    *out = bytes;
    return 0;
}

static int decode(kd_onnx_ctx *c, const kd_onnx_const *k, float *f, int64_t *i)
{
    const uint8_t *raw;
    size_t bytes;
    if (k->src->data_location == 1) {
        uint8_t *read = NULL;
        int rc = read_external(c, k, &read);
        if (rc)
            return rc;
        from_bytes(k, read, f, i);
        free(read);
    } else if (kd_onnx_raw(k->src, c->file, &raw, &bytes)) {
        from_bytes(k, raw, f, i);
    } else {
        from_lists(k, f, i);
    }
    return 0;
}

int kd_onnx_const_load(kd_onnx_ctx *c, kd_onnx_const *k)
{
    if (k->f || k->i)
        return 0;
    if (!kd_onnx_fold_take(c, k->count, k->integer ? sizeof(int64_t) : sizeof(float)))
        return kd_onnx_fail(c, -KD_ELIMIT, "computes with too large constants (%s)", k->name);
    size_t n = k->count ? k->count : 1;
    float *f = k->integer ? NULL : malloc(n * sizeof *f);
    int64_t *i = k->integer ? malloc(n * sizeof *i) : NULL;
    if (!f && !i)
        return kd_onnx_no_memory(c);
    int rc = decode(c, k, f, i);
    if (rc) {
        free(f);
        free(i);
        return rc;
    }
    k->f = f;
    k->i = i;
    return 0;
}

int kd_onnx_const_floats(kd_onnx_ctx *c, kd_onnx_const *k, float *out)
{
    if (k->integer) {
        int rc = kd_onnx_const_load(c, k);
        for (size_t n = 0; !rc && n < k->count; n++)
            out[n] = (float)k->i[n];
        return rc;
    }
    if (k->f) {
        if (k->count)
            memcpy(out, k->f, k->count * sizeof *out);
        return 0;
    }
    return decode(c, k, out, NULL);
}

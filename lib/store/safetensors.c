#include "store/safetensors.h"

#include "kd/file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_HEADER ((size_t)16 << 20)
#define MAX_TENSORS 65536
#define MAX_MARKS ((size_t)1 << 20)
#define METADATA "__metadata__"
#define ALIGN 64

struct kd_st_file {
    kd_st_tensor *tensors; /* names and types belong to `header` */
    size_t *by_name;       /* indices, sorted */
    size_t n;
    json_t *header;
    void *map; /* NULL if the memory is borrowed */
    size_t map_len;
};

static size_t dtype_bytes(const char *dtype)
{
    static const struct {
        const char *name;
        size_t bytes;
    } types[] = {{"F32", 4},  {"F64", 8}, {"F16", 2},     {"BF16", 2},   {"I64", 8}, {"I32", 4},
                 {"I16", 2},  {"I8", 1},  {"U64", 8},     {"U32", 4},    {"U16", 2}, {"U8", 1},
                 {"BOOL", 1}, {"C64", 8}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
    for (size_t i = 0; i < KD_COUNT(types); i++)
        if (strcmp(types[i].name, dtype) == 0)
            return types[i].bytes;
    return 0;
}

/* A value of JSON costs the parser about a hundred bytes, and each stands behind one of these
 * marks: their number bounds its memory (100 MiB) before it starts. */
static bool too_many_marks(const char *text, size_t len)
{
    size_t marks = 0;
    for (size_t i = 0; i < len; i++)
        marks += text[i] == ',' || text[i] == '[' || text[i] == '{' || text[i] == ':';
    return marks > MAX_MARKS;
}

static bool whole_number(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static int read_tensor(kd_st_tensor *t, const char *file, const char *name, const json_t *entry,
                       const uint8_t *data, size_t data_len, kd_diag *diag)
{
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    const json_t *shape = json_object_get(entry, "shape");
    const json_t *offsets = json_object_get(entry, "data_offsets");
    if (!dtype || !json_is_array(shape) || !json_is_array(offsets))
        return kd_fail(diag, -KD_EDATA, "%s: tensor %.100s lacks dtype, shape or data_offsets.",
                       file, name);
    size_t bytes = dtype_bytes(dtype);
    if (!bytes)
        return kd_fail(diag, -KD_EDATA, "%s: tensor %.100s has the unknown type %.20s.", file, name,
                       dtype);
    if (json_array_size(shape) > KD_ST_MAX_DIMS)
        return kd_fail(diag, -KD_ELIMIT, "%s: tensor %.100s has %zu dimensions, the limit is %d.",
                       file, name, json_array_size(shape), KD_ST_MAX_DIMS);
    *t = (kd_st_tensor){.name = name, .dtype = dtype, .ndim = (int)json_array_size(shape)};
    bool empty = false, fits = true;
    for (int i = 0; i < t->ndim; i++) {
        uint64_t side;
        if (!whole_number(json_array_get(shape, (size_t)i), &side))
            return kd_fail(diag, -KD_EDATA, "%s: tensor %.100s has a side that is no whole number.",
                           file, name);
        t->shape[i] = (int64_t)side;
        empty = empty || side == 0;
        fits = fits && (side == 0 || kd_mul_size(bytes, (size_t)side, &bytes));
    }
    uint64_t first, end;
    if (json_array_size(offsets) != 2 || !whole_number(json_array_get(offsets, 0), &first) ||
        !whole_number(json_array_get(offsets, 1), &end) || first > end)
        return kd_fail(diag, -KD_EDATA, "%s: tensor %.100s has impossible data_offsets.", file,
                       name);
    if (end > data_len)
        return kd_fail(diag, -KD_EDATA,
                       "%s: tensor %.100s ends at byte %llu of %zu; is the file truncated?", file,
                       name, (unsigned long long)end, data_len);
    t->bytes = empty ? 0 : bytes;
    if (!fits || t->bytes != end - first)
        return kd_fail(diag, -KD_EDATA, "%s: shape and data_offsets of tensor %.100s disagree.",
                       file, name);
    t->data = data + first;
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const kd_st_tensor *const *x = a, *const *y = b;
    if ((*x)->data != (*y)->data)
        return (*x)->data < (*y)->data ? -1 : 1;
    return (*x)->bytes < (*y)->bytes ? -1 : (*x)->bytes > (*y)->bytes;
}

static int check_places(const kd_st_file *f, const char *file, const uint8_t *data, size_t data_len,
                        kd_diag *diag)
{
    const kd_st_tensor **order = calloc(f->n + 1, sizeof *order);
    if (!order)
        return kd_fail(diag, -KD_ENOMEM, "%s: out of memory.", file);
    for (size_t i = 0; i < f->n; i++)
        order[i] = &f->tensors[i];
    qsort(order, f->n, sizeof *order, by_place);
    const uint8_t *at = data;
    int rc = 0;
    for (size_t i = 0; i < f->n && !rc; i++) {
        if (order[i]->data != at)
            rc = kd_fail(diag, -KD_EDATA, "%s: tensor %.100s %s.", file, order[i]->name,
                         order[i]->data < at ? "overlaps another" : "stands behind a hole");
        at = order[i]->data + order[i]->bytes;
    }
    if (!rc && at != data + data_len)
        rc = kd_fail(diag, -KD_EDATA, "%s: %zu bytes behind the last tensor.", file,
                     (size_t)(data + data_len - at));
    free(order);
    return rc;
}

static int by_name(const void *a, const void *b, void *tensors)
{
    const kd_st_tensor *t = tensors;
    return strcmp(t[*(const size_t *)a].name, t[*(const size_t *)b].name);
}

static int read_header(kd_st_file *f, const char *file, const uint8_t *data, size_t data_len,
                       kd_diag *diag)
{
    const size_t keys = json_object_size(f->header);
    if (keys > MAX_TENSORS)
        return kd_fail(diag, -KD_ELIMIT, "%s: %zu tensors, the limit is %d.", file, keys,
                       MAX_TENSORS);
    f->tensors = calloc(keys + 1, sizeof *f->tensors);
    f->by_name = calloc(keys + 1, sizeof *f->by_name);
    if (!f->tensors || !f->by_name)
        return kd_fail(diag, -KD_ENOMEM, "%s: out of memory.", file);
    const char *key;
    json_t *value;
    json_object_foreach(f->header, key, value)
    {
        if (!json_is_object(value))
            return kd_fail(diag, -KD_EDATA, "%s: header entry %.100s is no object.", file, key);
        if (strcmp(key, METADATA) == 0) {
            const char *name;
            json_t *text;
            json_object_foreach(value, name, text)
            {
                if (!json_is_string(text))
                    return kd_fail(diag, -KD_EDATA, "%s: metadata %.100s is no string.", file,
                                   name);
            }
            continue;
        }
        const int rc = read_tensor(&f->tensors[f->n], file, key, value, data, data_len, diag);
        if (rc)
            return rc;
        f->by_name[f->n] = f->n;
        f->n++;
    }
    qsort_r(f->by_name, f->n, sizeof *f->by_name, by_name, f->tensors);
    return check_places(f, file, data, data_len, diag);
}

int kd_st_open_memory(const void *data, size_t len, const char *name, kd_st_file **out,
                      kd_diag *diag)
{
    const uint8_t *bytes = data;
    if (len < 8)
        return kd_fail(diag, -KD_EDATA, "%s: %zu bytes are too few for a safetensors file.", name,
                       len);
    uint64_t header_len = 0;
    for (int i = 7; i >= 0; i--)
        header_len = header_len << 8 | bytes[i];
    if (header_len > MAX_HEADER)
        return kd_fail(diag, -KD_ELIMIT,
                       "%s: a header of %llu bytes (the limit is %zu); is it a safetensors file?",
                       name, (unsigned long long)header_len, MAX_HEADER);
    if (header_len > len - 8)
        return kd_fail(diag, -KD_EDATA, "%s: the header has %llu bytes, %zu are there; truncated?",
                       name, (unsigned long long)header_len, len - 8);
    const char *text = (const char *)bytes + 8;
    if (too_many_marks(text, header_len))
        return kd_fail(diag, -KD_ELIMIT, "%s: the header has too many entries.", name);
    json_error_t error;
    json_t *header = json_loadb(text, header_len, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(header)) {
        json_decref(header);
        return kd_fail(diag, -KD_EDATA, "%s: the header is no JSON object%s%.200s.", name,
                       header ? "" : ": ", header ? "" : error.text);
    }
    kd_st_file *f = calloc(1, sizeof *f);
    if (!f) {
        json_decref(header);
        return kd_fail(diag, -KD_ENOMEM, "%s: out of memory.", name);
    }
    f->header = header;
    const int rc = read_header(f, name, bytes + 8 + header_len, len - 8 - header_len, diag);
    if (rc) {
        kd_st_close(f);
        return rc;
    }
    *out = f;
    return 0;
}

static int open_failed(const char *path, kd_diag *diag)
{
    const int code = errno == ENOENT   ? -KD_ENOENT
                     : errno == EACCES ? -KD_EPERM
                     : errno == ENOMEM ? -KD_ENOMEM
                                       : -KD_EIO;
    return kd_fail(diag, code, "%s: %s.", path, strerror(errno));
}

int kd_st_open(const char *path, kd_st_file **out, kd_diag *diag)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return open_failed(path, diag);
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return kd_fail(diag, -KD_EINVAL, "%s is no regular file.", path);
    }
    if (st.st_size == 0) {
        close(fd);
        return kd_fail(diag, -KD_EDATA, "%s: 0 bytes are too few for a safetensors file.", path);
    }
    const size_t len = (size_t)st.st_size;
    void *map = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
    int rc = map == MAP_FAILED ? open_failed(path, diag) : 0;
    close(fd);
    if (rc)
        return rc;
    kd_st_file *f;
    rc = kd_st_open_memory(map, len, path, &f, diag);
    if (rc) {
        munmap(map, len);
        return rc;
    }
    f->map = map;
    f->map_len = len;
    *out = f;
    return 0;
}

void kd_st_close(kd_st_file *f)
{
    if (!f)
        return;
    if (f->map)
        munmap(f->map, f->map_len);
    json_decref(f->header);
    free(f->by_name);
    free(f->tensors);
    free(f);
}

size_t kd_st_count(const kd_st_file *f)
{
    return f->n;
}

const kd_st_tensor *kd_st_at(const kd_st_file *f, size_t i)
{
    KD_BUG_ON(i >= f->n);
    return &f->tensors[i];
}

const kd_st_tensor *kd_st_find(const kd_st_file *f, const char *name)
{
    size_t low = 0, high = f->n;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        const kd_st_tensor *t = &f->tensors[f->by_name[mid]];
        const int order = strcmp(name, t->name);
        if (order == 0)
            return t;
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

const char *kd_st_metadata(const kd_st_file *f, const char *key)
{
    return json_string_value(json_object_get(json_object_get(f->header, METADATA), key));
}

/* ---- writing */

static const struct {
    const char *word;
    size_t bytes;
} g_types[] = {[KD_ST_F32] = {"F32", 4},
               [KD_ST_F16] = {"F16", 2},
               [KD_ST_BF16] = {"BF16", 2},
               [KD_ST_I8] = {"I8", 1}};

const char *kd_st_type_word(enum kd_st_type type)
{
    return g_types[type].word;
}

int kd_st_type_of(const char *word)
{
    for (size_t i = 0; i < KD_COUNT(g_types); i++)
        if (strcmp(g_types[i].word, word) == 0)
            return (int)i;
    return -1;
}

static int item_bytes(const kd_st_item *item, size_t *out, kd_diag *diag)
{
    size_t bytes = g_types[item->type].bytes;
    bool ok = item->ndim >= 0 && item->ndim <= KD_ST_MAX_DIMS;
    for (int i = 0; ok && i < item->ndim; i++)
        ok = item->shape[i] >= 0 && kd_mul_size(bytes, (size_t)item->shape[i], &bytes);
    if (!ok || bytes > PTRDIFF_MAX)
        return kd_fail(diag, -KD_EINVAL, "Tensor %.100s has an impossible shape.", item->name);
    *out = bytes;
    return 0;
}

static int add_item(json_t *header, const kd_st_item *item, size_t first, size_t end, kd_diag *diag)
{
    if (strcmp(item->name, METADATA) == 0 || json_object_get(header, item->name))
        return kd_fail(diag, -KD_EINVAL, "The name %.100s is taken.", item->name);
    json_t *shape = json_array();
    for (int i = 0; i < item->ndim; i++)
        if (json_array_append_new(shape, json_integer(item->shape[i])) != 0) {
            json_decref(shape);
            return kd_fail(diag, -KD_ENOMEM, "Out of memory for a header.");
        }
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", kd_st_type_word(item->type), "shape",
                              shape, "data_offsets", (json_int_t)first, (json_int_t)end);
    if (!entry || json_object_set_new(header, item->name, entry) != 0)
        return kd_fail(diag, -KD_EINVAL, "%.100s is no name in UTF-8.", item->name);
    return 0;
}

static int add_metadata(json_t *header, const kd_st_pair *meta, size_t n, kd_diag *diag)
{
    if (n == 0)
        return 0;
    json_t *object = json_object();
    if (json_object_set_new(header, METADATA, object) != 0)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a header.");
    for (size_t i = 0; i < n; i++) {
        if (json_object_get(object, meta[i].key))
            return kd_fail(diag, -KD_EINVAL, "Two metadata are named %.100s.", meta[i].key);
        if (json_object_set_new(object, meta[i].key, json_string(meta[i].value)) != 0)
            return kd_fail(diag, -KD_EINVAL, "Metadata %.100s is not UTF-8.", meta[i].key);
    }
    return 0;
}

static int make_header(const kd_st_item *items, size_t n_items, const kd_st_pair *meta,
                       size_t n_meta, char **out_text, kd_diag *diag)
{
    json_t *header = json_object();
    if (!header)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a header.");
    size_t at = 0;
    int rc = n_items > MAX_TENSORS
                 ? kd_fail(diag, -KD_ELIMIT, "%zu tensors, the limit is %d.", n_items, MAX_TENSORS)
                 : add_metadata(header, meta, n_meta, diag);
    for (size_t i = 0; i < n_items && !rc; i++) {
        size_t bytes = 0;
        rc = item_bytes(&items[i], &bytes, diag);
        if (!rc && bytes > PTRDIFF_MAX - at)
            rc = kd_fail(diag, -KD_EINVAL, "The tensors together are too large.");
        if (!rc)
            rc = add_item(header, &items[i], at, at + bytes, diag);
        at += bytes;
    }
    char *text = rc ? NULL : json_dumps(header, JSON_COMPACT);
    json_decref(header);
    if (rc)
        return rc;
    if (!text)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a header.");
    *out_text = text;
    return 0;
}

int kd_st_pack(const kd_st_item *items, size_t n_items, const kd_st_pair *meta, size_t n_meta,
               kd_buf *out, kd_diag *diag)
{
    char *text = NULL;
    int rc = make_header(items, n_items, meta, n_meta, &text, diag);
    if (rc)
        return rc;
    const size_t len = strlen(text), padded = (8 + len + ALIGN - 1) / ALIGN * ALIGN - 8;
    if (padded > MAX_HEADER || too_many_marks(text, len)) {
        free(text);
        return kd_fail(diag, -KD_ELIMIT, "The header would be larger than a reader accepts.");
    }
    uint8_t prefix[8];
    for (int i = 0; i < 8; i++)
        prefix[i] = (uint8_t)((uint64_t)padded >> (8 * i));
    char *at = kd_buf_grow(out, 8 + padded);
    if (at) {
        memcpy(at, prefix, 8);
        memcpy(at + 8, text, len);
        memset(at + 8 + len, ' ', padded - len);
    }
    free(text);
    for (size_t i = 0; i < n_items; i++) {
        size_t bytes = 0;
        rc = item_bytes(&items[i], &bytes, diag);
        if (rc)
            return rc;
        if (bytes > 0)
            kd_buf_add(out, items[i].data, bytes);
    }
    if (out->failed)
        return kd_fail(diag, -KD_ELIMIT, "The tensors do not fit into %zu bytes, or memory is out.",
                       out->max);
    return 0;
}

int kd_st_write(const char *path, const kd_st_item *items, size_t n_items, const kd_st_pair *meta,
                size_t n_meta, kd_diag *diag)
{
    kd_buf buf;
    kd_buf_init(&buf, PTRDIFF_MAX);
    int rc = kd_st_pack(items, n_items, meta, n_meta, &buf, diag);
    if (!rc)
        rc = kd_file_write(path, buf.data, buf.len, diag);
    else
        kd_fail_at(diag, rc, "%s", path);
    kd_buf_clear(&buf);
    return rc;
}

/* CIFAR's binary files: records without a header, each one or two label bytes and 3072 of a 32x32
 * picture, all of red, then green, then blue.
 *
 *     CIFAR-10   LABEL PIXELS             data_batch_1.bin ... test_batch.bin, batches.meta.txt
 *     CIFAR-100  COARSE FINE PIXELS       train.bin, test.bin, fine_label_names.txt
 */
#include "data/dataset_internal.h"

#include <stdlib.h>
#include <string.h>

#define SIDE 32
#define PIXELS (3 * SIDE * SIDE)

/* 1 or 2 label bytes a record: the one that divides the file's length, or, if both do, the one that
 * goes with the file's name. 0 = neither, or no telling. */
static int label_bytes(const char *name, size_t len)
{
    const char *base = strrchr(name, '/');
    base = base ? base + 1 : name;
    bool one = len % (PIXELS + 1) == 0, two = len % (PIXELS + 2) == 0;
    if (one != two)
        return one ? 1 : 2;
    if (!one || len == 0)
        return 0;
    if (strncmp(base, "data_batch", 10) == 0 || strncmp(base, "test_batch", 10) == 0)
        return 1;
    return strncmp(base, "train.bin", 9) == 0 || strncmp(base, "test.bin", 8) == 0 ? 2 : 0;
}

/* *kind: label bytes of the files read before; 0 = this is the first. */
static int read_file(kd_data *d, enum kd_split split, const char *name, int *kind, kd_diag *diag)
{
    kd_array a = {.file = name, .w = SIDE, .h = SIDE, .channels = 3};
    size_t len;
    int rc = kd_array_read(d, name, &a.bytes, &len, diag);
    if (rc != 0)
        return rc;
    int bytes = label_bytes(name, len);
    if (bytes == 0)
        rc = kd_fail(diag, -KD_EDATA,
                     "%s has %zu bytes, which is neither a whole number of CIFAR-10's records "
                     "(%d) nor of CIFAR-100's (%d), or both",
                     name, len, PIXELS + 1, PIXELS + 2);
    else if (*kind != 0 && *kind != bytes)
        rc = kd_fail(diag, -KD_EDATA, "%s is of CIFAR-%s, the training file of CIFAR-%s", name,
                     bytes == 1 ? "10" : "100", *kind == 1 ? "10" : "100");
    int32_t *labels = NULL;
    if (rc == 0) {
        *kind = bytes;
        a.first = (size_t)bytes;
        a.stride = PIXELS + (size_t)bytes;
        a.n = len / a.stride;
        labels = malloc(a.n * sizeof *labels);
        if (!labels)
            rc = kd_fail(diag, -KD_ENOMEM, "no memory for %zu labels", a.n);
    }
    if (rc != 0) {
        free(a.bytes);
        return rc;
    }
    for (size_t i = 0; i < a.n; i++)
        labels[i] = a.bytes[i * a.stride + a.first - 1];
    rc = kd_array_add(d, split, &a, labels, diag);
    free(labels);
    return rc;
}

static bool is_batch(const char *name)
{
    size_t n = strlen(name);
    return n > 15 && strncmp(name, "data_batch_", 11) == 0 && strcmp(name + n - 4, ".bin") == 0;
}

/* The usual training files: all of CIFAR-10's batches, sorted by name, or train.bin. */
static int read_usual(kd_data *d, int *kind, kd_diag *diag)
{
    kd_entry *entries;
    size_t n, found = 0;
    int rc = kd_walk_list(d, d->path, &entries, &n, diag);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < n && rc == 0; i++)
        if (!entries[i].folder && is_batch(entries[i].name)) {
            rc = read_file(d, KD_SPLIT_TRAIN, entries[i].name, kind, diag);
            found++;
        }
    kd_walk_free(entries, n);
    return rc == 0 && found == 0 ? read_file(d, KD_SPLIT_TRAIN, "train.bin", kind, diag) : rc;
}

/* The first of test_batch.bin and test.bin that is there; NULL = neither. */
static const char *usual_test(const kd_data *d)
{
    static const char *const names[] = {"test_batch.bin", "test.bin"};
    for (size_t i = 0; i < KD_COUNT(names); i++)
        if (kd_data_is_folder(d, d->path, names[i], NULL) == 0)
            return names[i];
    return NULL;
}

int kd_data_open_cifar(kd_data *d, const kd_data_config *cfg, kd_diag *diag)
{
    const char *train = kd_data_text(cfg->train), *val = kd_data_text(cfg->val),
               *test = kd_data_text(cfg->test), *usual = usual_test(d);
    int kind = 0;
    if (cfg->one_split) {
        train = *train || !usual ? train : usual;
    } else if (!*val && cfg->val_share == 0) {
        if (!usual)
            return kd_fail(diag, -KD_ENOENT,
                           "neither test_batch.bin nor test.bin is there to validate on: name val, "
                           "or give val_share");
        val = usual;
    } else if (!*test && cfg->test_share == 0 && usual && strcmp(val, usual) != 0) {
        test = usual;
    }
    d->planar = true;
    int rc = *train ? read_file(d, KD_SPLIT_TRAIN, train, &kind, diag) : read_usual(d, &kind, diag);
    if (rc == 0 && *val)
        rc = read_file(d, KD_SPLIT_VAL, val, &kind, diag);
    if (rc == 0 && *test)
        rc = read_file(d, KD_SPLIT_TEST, test, &kind, diag);
    if (rc == 0)
        rc = kd_data_read_classes(d, cfg->classes,
                                  kind == 1 ? "batches.meta.txt" : "fine_label_names.txt", diag);
    if (rc == 0 && d->n_classes == 0)
        rc = kd_array_number_classes(d, kind == 1 ? 10 : 100, diag);
    return rc == 0 ? kd_array_check_labels(d, diag) : rc;
}

/* Damaged lists, class files, IDX, CIFAR and .npy files: opening must succeed or be refused with a
 * sentence. */
#include "data/data.h"
#include "kd/file.h"
#include "kd/rng.h"
#include "kd_test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define ROUNDS 600

/* Not kd_file_write, and no overwriting: waiting for the disk would be most of the time. */
static void put(const char *dir, const char *name, const void *data, size_t len)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    (void)unlink(path);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static size_t mutate(kd_rng *r, uint8_t *p, size_t len, size_t room)
{
    /* Bytes that mean something in one of the formats. */
    static const char telling[] = "\t\n\r/.\0-09\xFF'(),{}|<>: ";
    uint32_t times = 1 + kd_rng_below(r, 4);
    while (times-- && len > 0) {
        size_t at = kd_rng_below(r, (uint32_t)len);
        switch (kd_rng_below(r, 5)) {
        case 0:
            p[at] ^= (uint8_t)(1u << kd_rng_below(r, 8));
            break;
        case 1:
            p[at] = (uint8_t)telling[kd_rng_below(r, sizeof telling - 1)];
            break;
        case 2: /* one byte less */
            memmove(p + at, p + at + 1, len - at - 1);
            len--;
            break;
        case 3:
            if (kd_rng_below(r, 4) == 0)
                len = at;
            break;
        default:
            if (len < room) {
                memmove(p + at + 1, p + at, len - at);
                p[at] = (uint8_t)telling[kd_rng_below(r, sizeof telling - 1)];
                len++;
            }
        }
    }
    return len;
}

/* Opens and, if that works, asks for everything. Returns whether it did. */
static bool try_open(const kd_data_config *cfg, int fd)
{
    kd_data *d = NULL;
    kd_diag diag = {0};
    int rc = kd_data_open(cfg, fd, NULL, NULL, &d, &diag);
    if (rc != 0) {
        assert_null(d);
        assert_int_equal(diag.code, rc);
        assert_true(strlen(diag.msg) > 10);
        return false;
    }
    size_t n = kd_data_samples(d);
    assert_true(kd_data_count(d, KD_SPLIT_TRAIN) > 0 && kd_data_count(d, KD_SPLIT_VAL) > 0 &&
                kd_data_classes(d) > 0);
    for (size_t i = 0; i < n; i++) {
        uint8_t rgb[2 * 2 * 3];
        if (kd_data_split(d, i) == KD_SPLIT_UNLABELLED)
            assert_int_equal(kd_data_label(d, i), -1);
        else
            assert_in_range(kd_data_label(d, i), 0, kd_data_classes(d) - 1);
        assert_non_null(kd_data_name(d, i));
        kd_diag why = {0};
        rc = kd_data_load(d, i, rgb, &why);
        assert_true(rc == 0 || rc == -KD_EDATA || rc == -KD_ENOENT || rc == -KD_EIO);
    }
    kd_data_free(d);
    return true;
}

/* Replaces file `which` of the set by mutations of itself, one file after the other. */
static void fuzz_files(const char *dir, const kd_data_config *cfg, const char *const *names,
                       const void *const *data, const size_t *len, int count)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), good = 0, bad = 0;
    assert_true(fd >= 0);
    for (int i = 0; i < count; i++)
        put(dir, names[i], data[i], len[i]);
    assert_true(try_open(cfg, fd));
    for (int i = 0; i < count; i++) {
        for (uint32_t round = 0; round < ROUNDS; round++) {
            kd_rng r;
            static uint8_t bytes[16384];
            assert_true(len[i] + 8 <= sizeof bytes);
            memcpy(bytes, data[i], len[i]);
            kd_rng_init(&r, 3, KD_RNG_TEST, (uint64_t)i, round);
            put(dir, names[i], bytes, mutate(&r, bytes, len[i], len[i] + 8));
            if (try_open(cfg, fd))
                good++;
            else
                bad++;
        }
        put(dir, names[i], data[i], len[i]);
    }
    assert_true(good > 50);
    assert_true(bad > 50);
    close(fd);
}

static void test_fuzz_dataset_lists(void **state)
{
    (void)state;
    char *dir = kd_test_mkdir(), path[512];
    kd_diag diag = {0};
    uint8_t rgb[3 * 3 * 3] = {9};
    snprintf(path, sizeof path, "%s/ant", dir);
    kd_assert_ok(kd_file_mkdirs(path, &diag), &diag);
    snprintf(path, sizeof path, "%s/ant/1.png", dir);
    kd_assert_ok(kd_image_write_png(path, rgb, 3, 3, &diag), &diag);
    static const char *const names[] = {"classes.txt", "train.txt", "val.txt", "more.txt"};
    static const char classes[] = "ant\nbee\n",
                      train[] = "ant/1.png\t0\r\nant/1.png\nbee/2.png\t1\n",
                      val[] = "ant/1.png\t1\n", more[] = "ant/1.png\nant/2.png\t5\n";
    const void *data[] = {classes, train, val, more};
    const size_t len[] = {sizeof classes - 1, sizeof train - 1, sizeof val - 1, sizeof more - 1};
    kd_data_config cfg = {.path = "",
                          .train = "train.txt",
                          .val = "val.txt",
                          .classes = "classes.txt",
                          .unlabelled_path = ".",
                          .unlabelled_list = "more.txt",
                          .leakage = KD_DATA_ALLOW,
                          .size = 2,
                          .max_train = 2};
    fuzz_files(dir, &cfg, names, data, len, 4);
    /* Without a file of classes the folders' names count; shares divide whatever is left. */
    snprintf(path, sizeof path, "%s/classes.txt", dir);
    assert_int_equal(unlink(path), 0);
    static const char bare[] = "ant/1.png\nbee/2.png\r\n\nbee/3.png\nant/4.png\nbee/5.png\n";
    static const char *const bare_names[] = {"train.txt"};
    const void *bare_data[] = {bare};
    const size_t bare_len[] = {sizeof bare - 1};
    kd_data_config shares = {.path = "",
                             .train = "train.txt",
                             .val_share = 0.4,
                             .test_share = 0.3,
                             .leakage = KD_DATA_MOVE,
                             .size = 2};
    fuzz_files(dir, &shares, bare_names, bare_data, bare_len, 1);
    kd_test_rmdir(dir);
}

static void test_fuzz_dataset_idx(void **state)
{
    (void)state;
    static const uint8_t images[] = {0, 0, 8, 3, 0, 0, 0, 2, 0,  0,  0,  2,
                                     0, 0, 0, 2, 1, 2, 3, 4, 11, 12, 13, 14};
    static const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 2, 1, 0};
    char *dir = kd_test_mkdir(), path[512];
    snprintf(path, sizeof path, "%s/gz", dir);
    gzFile gz = gzopen(path, "wb9");
    assert_non_null(gz);
    assert_int_equal(gzwrite(gz, images, sizeof images), (int)sizeof images);
    assert_int_equal(gzclose(gz), Z_OK);
    char *packed;
    size_t packed_len;
    kd_diag diag = {0};
    kd_assert_ok(kd_file_read(path, 512, &packed, &packed_len, &diag), &diag);
    static const char *const names[] = {"ti", "tl", "vi", "vl"};
    const void *data[] = {images, labels, packed, labels};
    const size_t len[] = {sizeof images, sizeof labels, packed_len, sizeof labels};
    kd_data_config cfg = {.kind = KD_DATA_IDX,
                          .path = ".",
                          .train = "ti",
                          .train_labels = "tl",
                          .val = "vi",
                          .val_labels = "vl",
                          .leakage = KD_DATA_ALLOW,
                          .size = 2};
    fuzz_files(dir, &cfg, names, data, len, 4);
    free(packed);
    kd_test_rmdir(dir);
}

/* n records of one or two label bytes. */
static size_t cifar(uint8_t *out, size_t label_bytes, size_t n)
{
    memset(out, 0, n * (3072 + label_bytes));
    for (size_t i = 0; i < n; i++)
        out[i * (3072 + label_bytes) + label_bytes] = (uint8_t)(7 * i + label_bytes);
    return n * (3072 + label_bytes);
}

static void test_fuzz_dataset_cifar(void **state)
{
    (void)state;
    char *dir = kd_test_mkdir();
    static uint8_t train[4 * 3074], test[2 * 3074];
    static const char meta[] = "a\nb\nc\n\n";
    static const char *const names[] = {"data_batch_1.bin", "test_batch.bin", "batches.meta.txt"};
    const void *data[] = {train, test, meta};
    const size_t len[] = {cifar(train, 1, 4), cifar(test, 1, 2), sizeof meta - 1};
    kd_data_config cfg = {.kind = KD_DATA_CIFAR, .path = ".", .leakage = KD_DATA_ALLOW, .size = 2};
    fuzz_files(dir, &cfg, names, data, len, 3);
    kd_test_rmdir(dir);
    dir = kd_test_mkdir();
    static const char *const names100[] = {"train.bin", "test.bin"};
    const size_t len100[] = {cifar(train, 2, 4), cifar(test, 2, 2)};
    fuzz_files(dir, &cfg, names100, data, len100, 2);
    kd_test_rmdir(dir);
}

/* A file of version 1 with this header; 10 bytes come before it. */
static size_t npy(uint8_t *out, const char *header, const void *values, size_t len)
{
    size_t n = strlen(header);
    memcpy(out, "\x93NUMPY\1\0", 8);
    out[8] = (uint8_t)n;
    out[9] = 0;
    memcpy(out + 10, header, n);
    memcpy(out + 10 + n, values, len);
    return 10 + n + len;
}

static void test_fuzz_dataset_npy(void **state)
{
    (void)state;
    char *dir = kd_test_mkdir();
    static uint8_t images[256], labels[256], val[256];
    static const char *const names[] = {"x", "y", "vx", "vy"};
    const void *data[] = {images, labels, val, labels};
    const size_t n_labels =
        npy(labels, "{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }\n", "\1\0\0\0", 4);
    const size_t len[] = {
        npy(images, "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 2, 3), }\n",
            "0123456789ab", 12),
        n_labels,
        npy(val, "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 2, 3), }\n",
            "cdefghijklmn", 12),
        n_labels};
    kd_data_config cfg = {.kind = KD_DATA_NPY,
                          .path = ".",
                          .train = "x",
                          .train_labels = "y",
                          .val = "vx",
                          .val_labels = "vy",
                          .leakage = KD_DATA_MOVE,
                          .size = 2};
    fuzz_files(dir, &cfg, names, data, len, 4);
    kd_test_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fuzz_dataset_lists),
        cmocka_unit_test(test_fuzz_dataset_idx),
        cmocka_unit_test(test_fuzz_dataset_cifar),
        cmocka_unit_test(test_fuzz_dataset_npy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

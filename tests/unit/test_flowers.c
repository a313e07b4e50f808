#include "data/data.h"
#include "kd/file.h"
#include "kd_test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Pinned, so that other compilers, flags and machines draw the same pictures. */
static void test_flowers_draw_is_pinned(void **state)
{
    (void)state;
    static const char *const want[KD_FLOWERS_CLASSES] = {
        "c36c2ad6327e2825a286aa59a0c8234c", "4f3d2adacca3fd286332c101f4ef8b0d",
        "278b3c345fadd62969288fb9c8695bd5", "0f580c7bda71000bcf46e61eba1500cc",
        "74ca35084e4db33f0cd4dfa2441bc02c"};
    uint8_t *rgb = kd_xalloc(64 * 64 * 3);
    for (int c = 0; c < KD_FLOWERS_CLASSES; c++) {
        char hex[KD_DIGEST_HEX];
        kd_hasher *h = kd_hasher_new();
        assert_non_null(h);
        for (uint32_t i = 0; i < 4; i++) {
            kd_flowers_draw(1, 64, c, i, rgb);
            kd_hasher_add(h, rgb, 64 * 64 * 3);
        }
        kd_digest d = kd_hasher_digest(h);
        kd_hasher_free(h);
        kd_digest_hex(&d, hex);
        assert_string_equal(hex, want[c]);
    }
    free(rgb);
}

static void test_flowers_draw_stays_inside(void **state)
{
    (void)state;
    static const int sizes[] = {KD_FLOWERS_MIN_SIZE, 17, 97};
    for (size_t s = 0; s < KD_COUNT(sizes); s++) {
        size_t n = 3 * (size_t)sizes[s] * (size_t)sizes[s];
        uint8_t *rgb = kd_xalloc(n + 16);
        for (uint32_t i = 0; i < 40; i++) {
            memset(rgb + n, 0x5A, 16);
            kd_flowers_draw(i, sizes[s], (int)(i % KD_FLOWERS_CLASSES), i, rgb);
            for (int k = 0; k < 16; k++)
                assert_int_equal(rgb[n + (size_t)k], 0x5A);
            int lo = 255, hi = 0;
            for (size_t k = 0; k < n; k++) {
                lo = KD_MIN(lo, rgb[k]);
                hi = KD_MAX(hi, rgb[k]);
            }
            assert_true(hi - lo > 60);
        }
        free(rgb);
    }
}

static void test_flowers_differ(void **state)
{
    (void)state;
    enum { N = 32 * 32 * 3 };
    uint8_t a[N], b[N];
    kd_flowers_draw(1, 32, 0, 0, a);
    kd_flowers_draw(1, 32, 0, 0, b);
    assert_memory_equal(a, b, N);
    kd_flowers_draw(2, 32, 0, 0, b);
    assert_memory_not_equal(a, b, N);
    kd_flowers_draw(1, 32, 0, 1, b);
    assert_memory_not_equal(a, b, N);
    kd_flowers_draw(1, 32, 1, 0, b);
    assert_memory_not_equal(a, b, N);
}

static void on_progress(size_t done, size_t all, void *arg)
{
    assert_int_equal(all, 23);
    *(size_t *)arg = done;
}

static void test_flowers_make_is_a_data_set(void **state)
{
    (void)state;
    char *root = kd_test_mkdir(), dir[256], path[512];
    snprintf(dir, sizeof dir, "%s/a/flowers", root);
    kd_flowers_config cfg = {.seed = 3, .size = 32, .train = 16, .val = 7};
    kd_diag diag = {0};
    size_t done = 0;
    kd_assert_ok(kd_flowers_make(dir, &cfg, on_progress, &done, &diag), &diag);
    assert_int_equal(done, 23);
    int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    kd_data_config open_cfg = {.path = "a/flowers",
                               .train = "train.txt",
                               .val = "val.txt",
                               .classes = "classes.txt",
                               .size = 32};
    kd_data *d = NULL;
    kd_assert_ok(kd_data_open(&open_cfg, fd, NULL, NULL, &d, &diag), &diag);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TRAIN), 16);
    assert_int_equal(kd_data_count(d, KD_SPLIT_VAL), 7);
    assert_int_equal(kd_data_missing(d), 0);
    uint8_t *drawn = kd_xalloc(32 * 32 * 3), *read = kd_xalloc(32 * 32 * 3);
    for (size_t i = 0; i < 23; i++) {
        assert_int_equal(kd_data_label(d, i), (int)(i % 5));
        kd_assert_ok(kd_data_load(d, i, read, &diag), &diag);
        kd_flowers_draw(3, 32, (int)(i % 5), (uint32_t)(i / 5), drawn);
        long off = 0;
        for (size_t k = 0; k < 32 * 32 * 3; k++)
            off += labs((long)drawn[k] - read[k]);
        /* What JPEG takes away at this quality; another picture is some 50 steps away. */
        assert_true(off < 16 * 32 * 32 * 3);
    }
    kd_digest first = kd_data_digest(d);
    kd_data_free(d);
    /* Drawn again, it is the same set. */
    kd_assert_ok(kd_flowers_make(dir, &cfg, NULL, NULL, &diag), &diag);
    kd_assert_ok(kd_data_open(&open_cfg, fd, NULL, NULL, &d, &diag), &diag);
    kd_digest second = kd_data_digest(d);
    assert_true(kd_digest_equal(&first, &second));
    kd_data_free(d);
    close(fd);
    free(drawn);
    free(read);
    /* A file where the folder should be. */
    snprintf(path, sizeof path, "%s/train.txt", dir);
    kd_assert_fails(kd_flowers_make(path, &cfg, NULL, NULL, &diag), KD_ENOENT, &diag, "train.txt");
    kd_test_rmdir(root);
}

static void test_flowers_make_refuses(void **state)
{
    (void)state;
    static const kd_flowers_config bad[] = {
        {.size = KD_FLOWERS_MIN_SIZE - 1, .train = 5, .val = 5},
        {.size = KD_FLOWERS_MAX_SIZE + 1, .train = 5, .val = 5},
        {.size = 32, .train = 0, .val = 5},
        {.size = 32, .train = 5, .val = -1},
        {.size = 32, .train = 1000001, .val = 5},
    };
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        kd_diag diag = {0};
        kd_assert_fails(kd_flowers_make("/nonexistent/flowers", &bad[i], NULL, NULL, &diag),
                        KD_EINVAL, &diag, "pictures");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flowers_draw_is_pinned),
        cmocka_unit_test(test_flowers_draw_stays_inside),
        cmocka_unit_test(test_flowers_differ),
        cmocka_unit_test(test_flowers_make_is_a_data_set),
        cmocka_unit_test(test_flowers_make_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

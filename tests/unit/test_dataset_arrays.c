/* CIFAR's binary files and .npy pairs. */
#include "dataset_fixture.h"

enum { PIXELS = 3 * 32 * 32 };

/* n records of CIFAR-10 (label_bytes 1) or -100 (2): record i has the label (first + i) % 10, red
 * first + i, green twice that, blue a slope along x. */
static void put_cifar(const fixture *f, const char *name, int label_bytes, int n, int first)
{
    size_t record = (size_t)(PIXELS + label_bytes);
    uint8_t *bytes = kd_xalloc((size_t)n * record);
    for (int i = 0; i < n; i++) {
        uint8_t *p = bytes + (size_t)i * record;
        if (label_bytes == 2)
            *p++ = 19;
        *p++ = (uint8_t)((first + i) % 10);
        memset(p, first + i, 1024);
        memset(p + 1024, 2 * (first + i), 1024);
        for (int k = 0; k < 1024; k++)
            p[2048 + k] = (uint8_t)(k % 32);
    }
    put(f, name, bytes, (size_t)n * record);
    free(bytes);
}

static void test_arrays_cifar10(void **state)
{
    fixture *f = *state;
    make_dir(f, "c");
    put_cifar(f, "c/data_batch_2.bin", 1, 3, 10);
    put_cifar(f, "c/data_batch_1.bin", 1, 4, 20);
    put_cifar(f, "c/test_batch.bin", 1, 2, 30);
    put_text(f, "c/readme.html", "no records");
    f->cfg = (kd_data_config){.kind = KD_DATA_CIFAR, .path = "c", .size = 32};
    kd_data *d = open_good(f);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TRAIN), 7);
    assert_int_equal(kd_data_count(d, KD_SPLIT_VAL), 2);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TEST), 0);
    assert_int_equal(kd_data_classes(d), 10);
    assert_string_equal(kd_data_class_name(d, 9), "9");
    assert_string_equal(kd_data_name(d, 0), "data_batch_1.bin#0");
    assert_string_equal(kd_data_name(d, 4), "data_batch_2.bin#0");
    static uint8_t rgb[PIXELS];
    kd_diag diag = {0};
    kd_assert_ok(kd_data_load(d, 5, rgb, &diag), &diag);
    assert_int_equal(kd_data_label(d, 5), 1);
    for (size_t i = 0; i < 1024; i++) {
        assert_int_equal(rgb[3 * i], 11);
        assert_int_equal(rgb[3 * i + 1], 22);
        assert_int_equal(rgb[3 * i + 2], i % 32);
    }
    kd_data_free(d);
    /* The official file of class names ends in an empty line. */
    put_text(f, "c/batches.meta.txt",
             "plane\ncar\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n");
    f->cfg.val_share = 0.3;
    d = open_good(f);
    assert_string_equal(kd_data_class_name(d, 5), "dog");
    assert_int_equal(kd_data_count(d, KD_SPLIT_VAL), 2);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TEST), 2); /* what nobody else has asked for */
    assert_string_equal(kd_data_name(d, 7), "test_batch.bin#0");
    kd_data_free(d);
    put_text(f, "c/few", "a\nb\n");
    f->cfg.classes = "few";
    open_bad(f, KD_EDATA, "but there are only 2 classes");
    f->cfg.classes = "";
    f->cfg.val_share = 0;
    /* The same pixels in two splits. */
    put_cifar(f, "c/test_batch.bin", 1, 2, 20);
    open_bad(f, KD_EEXIST,
             "data_batch_1.bin#0 (train) and test_batch.bin#0 (val), and 2 such pair(s) in all");
    /* Named files; one is the usual name. */
    put_cifar(f, "c/mine", 1, 1, 77);
    f->cfg.train = "data_batch_2.bin";
    f->cfg.val = "mine";
    d = open_good(f);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TRAIN), 3);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TEST), 2);
    kd_data_free(d);
}

static void test_arrays_cifar100(void **state)
{
    fixture *f = *state;
    make_dir(f, "c");
    put_cifar(f, "c/train.bin", 2, 5, 10);
    put_cifar(f, "c/test.bin", 2, 2, 31);
    f->cfg = (kd_data_config){.kind = KD_DATA_CIFAR, .path = "c", .size = 32};
    kd_data *d = open_good(f);
    assert_int_equal(kd_data_classes(d), 100);
    assert_int_equal(kd_data_label(d, 5), 1); /* the fine one, not 19 */
    kd_data_free(d);
    put_cifar(f, "c/test.bin", 1, 2, 31);
    open_bad(f, KD_EDATA, "test.bin is of CIFAR-10, the training file of CIFAR-100");
    char path[256];
    snprintf(path, sizeof path, "%s/c/test.bin", f->root);
    assert_int_equal(truncate(path, 3000), 0);
    open_bad(f, KD_EDATA, "test.bin has 3000 bytes");
    assert_int_equal(truncate(path, 0), 0);
    open_bad(f, KD_EDATA, "test.bin has 0 bytes");
    /* A length that is whole for both is told by the name, or not at all. */
    assert_int_equal(truncate(path, (off_t)(PIXELS + 1) * (PIXELS + 2)), 0);
    f->cfg.leakage = KD_DATA_ALLOW;
    d = open_good(f);
    assert_int_equal(kd_data_count(d, KD_SPLIT_VAL), PIXELS + 1);
    kd_data_free(d);
    char other[256];
    snprintf(other, sizeof other, "%s/c/odd", f->root);
    assert_int_equal(rename(path, other), 0);
    f->cfg.val = "odd";
    open_bad(f, KD_EDATA, "or both");
    f->cfg.val = "";
    open_bad(f, KD_ENOENT, "neither test_batch.bin nor test.bin");
}

/* ---- npy */

/* A file of version `major` with this header and these values. */
static void put_npy(const fixture *f, const char *name, int major, const char *header,
                    const void *values, size_t len)
{
    uint8_t bytes[512] = "\x93NUMPY";
    size_t n = strlen(header), head = major == 1 ? 10 : 12;
    bytes[6] = (uint8_t)major;
    bytes[8] = (uint8_t)n;
    bytes[9] = (uint8_t)(n >> 8);
    memcpy(bytes + head, header, n);
    memcpy(bytes + head + n, values, len);
    put(f, name, bytes, head + n + len);
}

#define SHAPE(descr, shape)                                                                        \
    "{'descr': '" descr "', 'fortran_order': False, 'shape': " shape ", }  \n"

static const uint8_t g_pixels[] = {1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16};

static void npy_set(fixture *f)
{
    make_dir(f, "n");
    put_npy(f, "n/x", 1, SHAPE("|u1", "(2, 2, 3)"), g_pixels, 12);
    put_npy(f, "n/y", 1, SHAPE("<i8", "(2,)"), "\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0", 16);
    put_npy(f, "n/vx", 1, SHAPE("|u1", "(1, 2, 3)"), "zzzzzz", 6);
    put_npy(f, "n/vy", 1, SHAPE("|u1", "(1,)"), "\2", 1);
    f->cfg = (kd_data_config){.kind = KD_DATA_NPY,
                              .path = "n",
                              .train = "x",
                              .train_labels = "y",
                              .val = "vx",
                              .val_labels = "vy",
                              .size = 1};
}

static void test_arrays_npy(void **state)
{
    fixture *f = *state;
    npy_set(f);
    kd_data *d = open_good(f);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TRAIN), 2);
    assert_int_equal(kd_data_classes(d), 3);
    assert_int_equal(kd_data_label(d, 0), 1);
    assert_int_equal(kd_data_label(d, 1), 2);
    assert_string_equal(kd_data_name(d, 1), "x#1");
    uint8_t rgb[2 * 2 * 3];
    kd_diag diag = {0};
    kd_assert_ok(kd_data_load(d, 2, rgb, &diag), &diag);
    assert_int_equal(rgb[0], 'z');
    assert_int_equal(rgb[2], 'z');
    kd_digest grey = kd_data_digest(d);
    kd_data_free(d);
    /* Versions, quotes, the order of the keys and a channel of one make no other pictures. */
    static const char *const same[] = {
        "{\"shape\":(2,2,3,1),\"descr\":\"|u1\",\"fortran_order\":False}",
        "{'descr': 'u1', 'fortran_order': False, 'shape': ( 2 , 2 , 3 ) }",
    };
    for (int i = 0; i < 2; i++) {
        put_npy(f, "n/x", 2 + i, same[i], g_pixels, 12);
        kd_digest now = digest_of(f);
        assert_true(kd_digest_equal(&grey, &now));
    }
    /* Colour: two pictures of 1x2. */
    f->cfg.size = 2;
    put_npy(f, "n/x", 1, SHAPE("|u1", "(2, 1, 2, 3)"), g_pixels, 12);
    put_npy(f, "n/vx", 1, SHAPE("|u1", "(1, 1, 2, 3)"), "zzzzzz", 6);
    put_npy(f, "n/y", 1, SHAPE("<u2", "(2, 1)"), "\0\0\1\0", 4);
    put_npy(f, "n/vy", 1, SHAPE("|i1", "(1,)"), "\1", 1);
    d = open_good(f);
    kd_assert_ok(kd_data_load(d, 1, rgb, &diag), &diag);
    static const uint8_t want[] = {11, 12, 13, 14, 15, 16, 11, 12, 13, 14, 15, 16};
    assert_memory_equal(rgb, want, sizeof want);
    kd_data_free(d);
    /* Another shape than the training file's. */
    put_npy(f, "n/vx", 1, SHAPE("|u1", "(1, 1, 2)"), "zz", 2);
    open_bad(f, KD_EDATA, "vx has pictures of 2x1 in 1 channel(s), the training file 2x1 in 3");
}

static void test_arrays_npy_damaged(void **state)
{
    fixture *f = *state;
    npy_set(f);
    static const struct {
        const char *header, *part;
    } bad[] = {
        {SHAPE("<f4", "(2, 2, 3)"), "not integers"},
        {SHAPE("|O", "(2, 2, 3)"), "not integers"},
        {SHAPE(">i4", "(2, 2, 3)"), "big-endian"},
        {SHAPE("|u2", "(2, 2, 3)"), "byte order"},
        {SHAPE("<u2", "(2, 1, 3)"), "pictures are uint8"},
        {SHAPE("|i1", "(2, 2, 3)"), "pictures are uint8"},
        {SHAPE("|u1", "(2, 6)"), "pictures are uint8"},
        {SHAPE("|u1", "(2, 3, 1, 2)"), "pictures are uint8"},
        {SHAPE("|u1", "(2, 2, 4)"), "length is not what"},
        {SHAPE("|u1", "(2, 0, 3)"), "length is not what"},
        {SHAPE("|u1", "()"), "length is not what"},
        {SHAPE("|u1", "(12)"), "shape is not"},
        {SHAPE("|u1", "(2, 2, -3)"), "shape is not"},
        {SHAPE("|u1", "(2, 2, 03)"), "shape is not"},
        {SHAPE("|u1", "(1, 1, 2, 2, 3)"), "shape is not"},
        {SHAPE("|u1", "(2, 2, 99999999999999999999)"), "shape is not"},
        {SHAPE("|u1", "(4294967296, 4294967296, 4294967296)"), "shape is too large"},
        {"{'descr': '|u1', 'fortran_order': True, 'shape': (2, 2, 3)}", "Fortran order"},
        {"{'descr': '|u1', 'fortran_order': 0, 'shape': (2, 2, 3)}", "header is not"},
        {"{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (2, 2, 3)}",
         "not a plain one"},
        {"{'descr': '|u1', 'shape': (2, 2, 3)}", "header is not"},
        {"{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 3)}",
         "header is not"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 3), 'more': 1}",
         "header is not"},
        {"{'descr': '|u1' 'fortran_order': False, 'shape': (2, 2, 3)}", "header is not"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 3)} x", "header is not"},
        {"{'descr': '|u1", "not a plain one"},
        {"{'descr", "header is not"},
        {"", "header is not"},
    };
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        put_npy(f, "n/x", 1, bad[i].header, g_pixels, 12);
        open_bad(f, KD_EDATA, bad[i].part);
    }
    put_npy(f, "n/x", 4, SHAPE("|u1", "(2, 2, 3)"), g_pixels, 12);
    open_bad(f, KD_EDATA, "version");
    put(f, "n/x", "\x93NUMPY\1\0\xFF\x0F{", 11);
    open_bad(f, KD_EDATA, "ends in its header");
    put(f, "n/x", "\x93NUMPY\2\0\xFF\xFF\xFF\x7F{", 13);
    open_bad(f, KD_EDATA, "header is longer");
    put(f, "n/x", "\x93NUMPY\2\0\x01\0\0", 11);
    open_bad(f, KD_EDATA, "ends in its header");
    put(f, "n/x", "\x93NUMPX\1\0\1\0{}", 12);
    open_bad(f, KD_EDATA, "not an .npy file");
    npy_set(f);
    put_npy(f, "n/y", 1, SHAPE("<i4", "(2,)"), "\1\0\0\0\xFF\xFF\xFF\xFF", 8);
    open_bad(f, KD_EDATA, "y: value 1 is not the number of a class");
    put_npy(f, "n/y", 1, SHAPE("<u4", "(2,)"), "\0\0\1\0\0\0\0\0", 8);
    open_bad(f, KD_EDATA, "y: value 0 is not the number of a class");
    put_npy(f, "n/y", 1, SHAPE("|i1", "(2,)"), "\1\x80", 2);
    open_bad(f, KD_EDATA, "value 1 is not the number");
    put_npy(f, "n/y", 1, SHAPE("|u1", "(3,)"), "\1\0\1", 3);
    open_bad(f, KD_EDATA, "y has 3 labels for the 2 pictures of x");
    put_npy(f, "n/y", 1, SHAPE("|u1", "(1, 2)"), "\1\0", 2);
    open_bad(f, KD_EDATA, "labels have one dimension, this has 2");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_arrays_cifar10),
        TEST(test_arrays_cifar100),
        TEST(test_arrays_npy),
        TEST(test_arrays_npy_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "dataset_fixture.h"

#include <math.h>
#include <zlib.h>

static void assert_sample(const kd_data *d, size_t i, const char *name, int label, int grey)
{
    uint8_t rgb[5 * 5 * 3];
    kd_diag diag = {0};
    assert_string_equal(kd_data_name(d, i), name);
    assert_int_equal(kd_data_label(d, i), label);
    kd_assert_ok(kd_data_load(d, i, rgb, &diag), &diag);
    for (size_t k = 0; k < sizeof rgb; k++)
        assert_int_equal(rgb[k], grey);
}

static void test_dataset_folder(void **state)
{
    fixture *f = *state;
    kd_data *d = open_good(f);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TRAIN), 3);
    assert_int_equal(kd_data_count(d, KD_SPLIT_VAL), 1);
    assert_int_equal(kd_data_classes(d), 2);
    assert_string_equal(kd_data_class_name(d, 1), "bee");
    assert_null(kd_data_class_name(d, 2));
    assert_null(kd_data_class_name(d, -1));
    assert_sample(d, 0, "pics/ant/0.png", 0, 10);
    assert_sample(d, 1, "pics/bee/0.png", 1, 30);
    assert_sample(d, 2, "pics/ant/1.png", 0, 20);
    assert_sample(d, 3, "pics/bee/1.png", 1, 40);
    assert_int_equal(kd_data_missing(d), 0);
    kd_data_free(d);
    kd_data_free(NULL);
}

static void test_dataset_odd_lists(void **state)
{
    fixture *f = *state;
    kd_digest usual = digest_of(f);
    /* Line ends, empty lines and a missing last one do not make other data. */
    put_text(f, "set/train.txt",
             "pics/ant/0.png\t0\r\n\r\n\npics/bee/0.png\t1\r\npics/ant/1.png\t0");
    put_text(f, "set/classes.txt", "ant\r\nbee");
    kd_digest same = digest_of(f);
    assert_true(kd_digest_equal(&usual, &same));
    /* Classes from folders: by the file of names, then without it. */
    put_text(f, "set/train.txt", "pics/ant/0.png\npics/bee/0.png\npics/ant/1.png\n");
    put_text(f, "set/val.txt", "pics/bee/1.png\n");
    same = digest_of(f);
    assert_true(kd_digest_equal(&usual, &same));
    f->cfg.classes = "";
    same = digest_of(f);
    assert_true(kd_digest_equal(&usual, &same));
    /* Twice the same picture is two samples. */
    put_text(f, "set/train.txt", "pics/bee/0.png\npics/bee/0.png\n");
    kd_data *d = open_good(f);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TRAIN), 2);
    kd_data_free(d);
}

static void test_dataset_bad_lists(void **state)
{
    fixture *f = *state;
    static const struct {
        const char *list, *part;
    } bad[] = {
        {"pics/ant/0.png\t0\npics/ant/1.png\t2\n", "train.txt:2: class 2, but there are only 2"},
        {"pics/ant/0.png\t-1\n", "train.txt:1: `-1` is not the number of a class"},
        {"pics/ant/0.png\t\n", "train.txt:1: `` is not the number"},
        {"pics/ant/0.png\t0\t1\n", "is not the number"},
        {"pics/ant/0.png\t99999999999999999999\n", "is not the number"},
        {"pics/ant/0.png 0\n", "the folder of `pics/ant/0.png 0`"},
        {"\n\n/etc/passwd\t0\n", "train.txt:3: the path is absolute"},
        {"pics/../../x.png\t0\n", "train.txt:1: the path has `..`"},
        {"..\t0\n", "has `..`"},
        {"\t0\n", "train.txt:1: the path is empty"},
        {"pics/ant/\x01.png\t0\n", "train.txt:1: the line has a control character"},
        {"", "train.txt: there is no sample"},
        {"\n\r\n", "train.txt: there is no sample"},
        {"pics/wasp/0.png\n", "train.txt:1: no class number"},
        {"0.png\n", "train.txt:1: no class number"},
    };
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        put_text(f, "set/train.txt", bad[i].list);
        if (strstr(bad[i].part, "pics/ant/0.png 0"))
            put_text(f, "set/classes.txt", "wasp\nbee\n");
        open_bad(f, KD_EDATA, bad[i].part);
        put_text(f, "set/classes.txt", "ant\nbee\n");
    }
    put(f, "set/train.txt", "pics/a\0b\t0\n", 11);
    open_bad(f, KD_EDATA, "train.txt:1: the line has a NUL byte");
    char *line = kd_xalloc(KD_DATA_MAX_LINE + 8);
    memset(line, 'a', KD_DATA_MAX_LINE + 1);
    put_text(f, "set/train.txt", line);
    open_bad(f, KD_EDATA, "train.txt:1: the line is too long");
    free(line);
    f->cfg.train = "none.txt";
    open_bad(f, KD_ENOENT, "none.txt");
}

static void test_dataset_bad_classes(void **state)
{
    fixture *f = *state;
    static const struct {
        const char *text, *part;
    } bad[] = {{"", "there is no class name"},
               {"\n", "there is no class name"},
               {"ant\n\nbee\n", "classes.txt:2: the class name is empty"},
               {"ant\nbee\nant\n", "`ant` stands there twice"},
               {"ant\tbee\n", "classes.txt:1: a class name cannot have a tab"}};
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        put_text(f, "set/classes.txt", bad[i].text);
        open_bad(f, KD_EDATA, bad[i].part);
    }
    /* classes.txt is taken when none is named; without it numbers mean nothing. */
    put_text(f, "set/classes.txt", "ant\nbee\n");
    f->cfg.classes = "";
    kd_data *d = open_good(f);
    assert_string_equal(kd_data_class_name(d, 1), "bee");
    kd_data_free(d);
    char path[256];
    snprintf(path, sizeof path, "%s/set/classes.txt", f->root);
    assert_int_equal(unlink(path), 0);
    open_bad(f, KD_EDATA, "train.txt:1: class 0 by number");
    put_text(f, "set/train.txt", "a.png\n");
    put_text(f, "set/val.txt", "a.png\n");
    open_bad(f, KD_EDATA, "there is no class");
}

static void test_dataset_bad_config(void **state)
{
    fixture *f = *state;
    f->cfg.size = 0;
    open_bad(f, KD_EINVAL, "size of 0");
    f->cfg.size = 5;
    f->cfg.max_train = -1;
    open_bad(f, KD_EINVAL, "max_train");
    f->cfg.max_train = 0;
    f->cfg.val = "";
    open_bad(f, KD_EINVAL, "needs validation samples");
    f->cfg.val_share = 0.95;
    open_bad(f, KD_EINVAL, "training keeps at least a tenth");
    f->cfg.val_share = NAN;
    open_bad(f, KD_EINVAL, "val_share nan");
    f->cfg.val = "val.txt";
    f->cfg.val_share = 0.5;
    open_bad(f, KD_EINVAL, "val and val_share exclude each other");
    f->cfg.val_share = 0;
    f->cfg.test = "val.txt";
    f->cfg.test_share = 0.5;
    open_bad(f, KD_EINVAL, "test and test_share exclude each other");
    f->cfg.test_share = 0;
    f->cfg.test = "";
    f->cfg.path = "../set";
    open_bad(f, KD_EPERM, "leads out of the data root");
    f->cfg.path = "missing";
    open_bad(f, KD_ENOENT, "missing/classes.txt");
    f->cfg.path = "set";
    f->cfg.kind = KD_DATA_IDX;
    open_bad(f, KD_EINVAL, "needs train_labels beside train");
    f->cfg.train = "";
    open_bad(f, KD_EINVAL, "needs train, a file of pictures");
    f->cfg.kind = (enum kd_data_kind)99;
    open_bad(f, KD_EINVAL, "no such format");
}

static void test_dataset_digest_covers_everything(void **state)
{
    fixture *f = *state;
    kd_digest first = digest_of(f), now = digest_of(f);
    assert_true(kd_digest_equal(&first, &now));
    put_picture(f, "set/pics/bee/1.png", 41); /* a picture */
    now = digest_of(f);
    assert_false(kd_digest_equal(&first, &now));
    put_picture(f, "set/pics/bee/1.png", 40);
    put_text(f, "set/classes.txt", "ant\nwasp\n"); /* a name */
    now = digest_of(f);
    assert_false(kd_digest_equal(&first, &now));
    put_text(f, "set/classes.txt", "ant\nbee\n");
    put_text(f, "set/val.txt", "pics/bee/1.png\t0\n"); /* a label */
    now = digest_of(f);
    assert_false(kd_digest_equal(&first, &now));
    put_text(f, "set/val.txt", "pics/bee/1.png\t1\n");
    now = digest_of(f);
    assert_true(kd_digest_equal(&first, &now));
    put_text(f, "set/train.txt", /* the order */
             "pics/bee/0.png\t1\npics/ant/0.png\t0\npics/ant/1.png\t0\n");
    now = digest_of(f);
    assert_false(kd_digest_equal(&first, &now));
    put_text(f, "set/train.txt", "pics/ant/0.png\t0\npics/bee/0.png\t1\n"); /* where val begins */
    put_text(f, "set/val.txt", "pics/ant/1.png\t0\npics/bee/1.png\t1\n");
    now = digest_of(f);
    assert_false(kd_digest_equal(&first, &now));
}

static void assert_digest(const fixture *f, const char *want)
{
    char hex[KD_DIGEST_HEX];
    kd_digest d = digest_of(f);
    kd_digest_hex(&d, hex);
    assert_string_equal(hex, want);
}

static void idx_set(fixture *f);

/* Pinned: banks of teacher outputs are kept under these names. */
static void test_dataset_digest_is_pinned(void **state)
{
    fixture *f = *state;
    make_dir(f, "set/a");
    make_dir(f, "set/b");
    put_text(f, "set/a/0.jpg", "one");
    put_text(f, "set/b/0.jpg", "two");
    put_text(f, "set/b/1.jpg", "three");
    put_text(f, "set/classes.txt", "a\nb\n");
    put_text(f, "set/train.txt", "a/0.jpg\t0\nb/0.jpg\t1\na/none.jpg\t0\n");
    put_text(f, "set/val.txt", "b/1.jpg\t1\n");
    assert_digest(f, "6b10af96d063d1b5e9f9d34e70b651be");
    f->cfg.max_train = 2;
    f->cfg.seed = 3;
    assert_digest(f, "6f6fc7d9b017bcd5914e41cd74653834");
    idx_set(f);
    assert_digest(f, "232d85a7cc6f983783f89915b2b9122d");
}

/* The set opens; it is another set; only loading the sample fails, and names it. */
static void test_dataset_missing_picture(void **state)
{
    fixture *f = *state;
    kd_digest whole = digest_of(f);
    char path[512];
    snprintf(path, sizeof path, "%s/set/pics/bee/0.png", f->root);
    assert_int_equal(unlink(path), 0);
    kd_data *d = open_good(f);
    kd_digest less = kd_data_digest(d);
    assert_false(kd_digest_equal(&whole, &less));
    assert_int_equal(kd_data_missing(d), 1);
    uint8_t rgb[5 * 5 * 3];
    kd_diag diag = {0};
    kd_assert_fails(kd_data_load(d, 1, rgb, &diag), KD_ENOENT, &diag, "set/pics/bee/0.png");
    assert_sample(d, 2, "pics/ant/1.png", 0, 20);
    kd_data_free(d);
}

static void test_dataset_damaged_picture(void **state)
{
    fixture *f = *state;
    char path[512];
    uint8_t rgb[5 * 5 * 3];
    put_text(f, "set/pics/ant/0.png", "not a picture");
    snprintf(path, sizeof path, "%s/set/pics/bee/0.png", f->root);
    assert_int_equal(truncate(path, 40), 0);
    /* A link that leads out, and a pipe on which opening would wait. */
    snprintf(path, sizeof path, "%s/set/pics/ant/1.png", f->root);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    snprintf(path, sizeof path, "%s/set/pics/bee/1.png", f->root);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    kd_data *d = open_good(f);
    static const char *const parts[4] = {"pics/ant/0.png: the file is neither",
                                         "pics/bee/0.png: the PNG picture cannot be decoded",
                                         "leads out of the data root", "is not a plain file"};
    for (size_t i = 0; i < 4; i++) {
        kd_diag diag = {0};
        kd_assert_fails(kd_data_load(d, i, rgb, &diag), KD_EDATA, &diag, parts[i]);
        assert_int_equal(diag.code, -KD_EDATA);
    }
    kd_data_free(d);
}

static void test_dataset_max_train(void **state)
{
    fixture *f = *state;
    char text[4096] = "";
    for (int i = 0; i < 100; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "pics/ant/%d.png\t0\n", i);
    put_text(f, "set/train.txt", text);
    f->cfg.max_train = 30;
    int places[2][30];
    for (int seed = 0; seed < 2; seed++) {
        f->cfg.seed = (uint64_t)seed;
        kd_data *d = open_good(f);
        assert_int_equal(kd_data_count(d, KD_SPLIT_TRAIN), 30);
        assert_int_equal(kd_data_count(d, KD_SPLIT_VAL), 1);
        assert_string_equal(kd_data_name(d, 30), "pics/bee/1.png");
        for (size_t i = 0; i < 30; i++) {
            places[seed][i] = atoi(kd_data_name(d, i) + 9);
            if (i > 0) /* list order is kept */
                assert_true(places[seed][i] > places[seed][i - 1]);
        }
        kd_data_free(d);
    }
    assert_memory_not_equal(places[0], places[1], sizeof places[0]);
    f->cfg.max_train = 1000;
    kd_data *d = open_good(f);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TRAIN), 100);
    kd_data_free(d);
}

static bool count_progress(size_t done, size_t all, void *arg)
{
    assert_true(done <= all);
    *(size_t *)arg = done;
    return true;
}

static bool enough(size_t done, size_t all, void *arg)
{
    (void)done;
    (void)all;
    (void)arg;
    return false;
}

static void test_dataset_progress_ends_at_all(void **state)
{
    fixture *f = *state;
    kd_data *d = NULL;
    kd_diag diag = {0};
    size_t last = 0;
    kd_assert_ok(kd_data_open(&f->cfg, f->fd, count_progress, &last, &d, &diag), &diag);
    assert_int_equal(last, 4);
    kd_data_free(d);
    d = NULL;
    kd_assert_fails(kd_data_open(&f->cfg, f->fd, enough, NULL, &d, &diag), KD_ECANCELED, &diag,
                    "no more");
    assert_null(d);
}

/* ---- IDX */

static void put_gz(const fixture *f, const char *name, const void *data, size_t len)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", f->root, name);
    gzFile gz = gzopen(path, "wb9");
    assert_non_null(gz);
    assert_int_equal(gzwrite(gz, data, (unsigned)len), (int)len);
    assert_int_equal(gzclose(gz), Z_OK);
}

/* Three pictures of 2x3 (h x w) and their labels; a validation set of one. */
static const uint8_t g_images[] = {0, 0, 8, 3, 0, 0,  0,  3,  0,  0,  0,  2,  0,  0,  0,  3,  1,
                                   2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16, 21, 22, 23, 24, 25, 26};
static const uint8_t g_labels[] = {0, 0, 8, 1, 0, 0, 0, 3, 2, 0, 1};
static const uint8_t g_val_images[] = {0, 0, 8, 3, 0, 0,  0,  1,  0,  0,  0,
                                       2, 0, 0, 0, 3, 91, 91, 91, 91, 91, 91};
static const uint8_t g_val_labels[] = {0, 0, 8, 1, 0, 0, 0, 1, 2};

static void idx_set(fixture *f)
{
    put(f, "set/ti", g_images, sizeof g_images);
    put(f, "set/tl", g_labels, sizeof g_labels);
    put(f, "set/vi", g_val_images, sizeof g_val_images);
    put(f, "set/vl", g_val_labels, sizeof g_val_labels);
    f->cfg = (kd_data_config){.kind = KD_DATA_IDX,
                              .path = "set",
                              .train = "ti",
                              .val = "vi",
                              .train_labels = "tl",
                              .val_labels = "vl",
                              .classes = "",
                              .size = 1};
}

static void test_dataset_idx(void **state)
{
    fixture *f = *state;
    idx_set(f);
    kd_data *d = open_good(f);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TRAIN), 3);
    assert_int_equal(kd_data_count(d, KD_SPLIT_VAL), 1);
    assert_int_equal(kd_data_classes(d), 3);
    assert_string_equal(kd_data_class_name(d, 2), "2");
    assert_string_equal(kd_data_name(d, 1), "ti#1");
    assert_string_equal(kd_data_name(d, 3), "vi#0");
    static const int labels[4] = {2, 0, 1, 2};
    uint8_t rgb[3];
    for (size_t i = 0; i < 4; i++) {
        kd_diag diag = {0};
        assert_int_equal(kd_data_label(d, i), labels[i]);
        kd_assert_ok(kd_data_load(d, i, rgb, &diag), &diag);
        assert_int_equal(rgb[0], rgb[1]);
        assert_int_equal(rgb[0], rgb[2]);
        if (i == 3)
            assert_int_equal(rgb[0], 91);
    }
    kd_digest plain = kd_data_digest(d);
    kd_data_free(d);
    /* Packed it is the same set, apart from its names. */
    put_gz(f, "set/ti", g_images, sizeof g_images);
    put_gz(f, "set/tl", g_labels, sizeof g_labels);
    kd_digest packed = digest_of(f);
    assert_true(kd_digest_equal(&plain, &packed));
    /* Named classes, and too few of them. */
    put_text(f, "set/names", "a\nb\nc\n");
    f->cfg.classes = "names";
    d = open_good(f);
    assert_string_equal(kd_data_class_name(d, 2), "c");
    kd_data_free(d);
    put_text(f, "set/names", "a\nb\n");
    open_bad(f, KD_EDATA, "label 2 of sample ti#0, but there are only 2 classes");
    f->cfg.classes = "";
    f->cfg.max_train = 2;
    d = open_good(f);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TRAIN), 2);
    assert_string_equal(kd_data_name(d, 2), "vi#0");
    kd_data_free(d);
}

static void test_dataset_idx_damaged(void **state)
{
    fixture *f = *state;
    idx_set(f);
    uint8_t bytes[sizeof g_images + 1];
    /* Cut anywhere, or one byte too long. */
    for (size_t len = 0; len <= sizeof bytes; len++) {
        if (len == sizeof g_images)
            continue;
        memset(bytes, 0, sizeof bytes);
        memcpy(bytes, g_images, sizeof g_images);
        put(f, "set/ti", bytes, len);
        open_bad(f, KD_EDATA, "ti ");
    }
    memcpy(bytes, g_images, sizeof g_images);
    memset(bytes + 4, 0xFF, 12); /* dimensions whose product overflows */
    put(f, "set/ti", bytes, sizeof g_images);
    open_bad(f, KD_EDATA, "not what its header says");
    memset(bytes + 4, 0, 12);
    put(f, "set/ti", bytes, 16);
    open_bad(f, KD_EDATA, "not what its header says");
    put(f, "set/ti", g_images, sizeof g_images);
    put(f, "set/tl", g_val_labels, sizeof g_val_labels);
    open_bad(f, KD_EDATA, "1 labels for the 3 pictures");
    put(f, "set/tl", g_labels, sizeof g_labels);
    /* A packed file that ends early, and one with more behind it. */
    char path[512];
    put_gz(f, "set/ti", g_images, sizeof g_images);
    snprintf(path, sizeof path, "%s/set/ti", f->root);
    char *gz;
    size_t len;
    kd_diag diag = {0};
    kd_assert_ok(kd_file_read(path, 4096, &gz, &len, &diag), &diag);
    for (size_t cut = 2; cut < len; cut++) {
        put(f, "set/ti", gz, cut);
        open_bad(f, KD_EDATA, "not whole gzip data");
    }
    char *longer = kd_xalloc(len + 3);
    memcpy(longer, gz, len);
    put(f, "set/ti", longer, len + 3);
    open_bad(f, KD_EDATA, "3 bytes behind its gzip data");
    free(longer);
    free(gz);
}

/* ---- real data */

static void test_dataset_real_flowers(void **state)
{
    fixture *f = *state;
    if (!kd_test_data()) {
        print_message("skipped: DISTILL_DATA is not set\n");
        skip();
    }
    int root = open(kd_test_data(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(root >= 0);
    f->cfg.path = "flowers";
    f->cfg.size = 64;
    f->cfg.max_train = 100;
    kd_data *d = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_data_open(&f->cfg, root, NULL, NULL, &d, &diag), &diag);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TRAIN), 100);
    assert_int_equal(kd_data_count(d, KD_SPLIT_VAL), 551);
    assert_int_equal(kd_data_classes(d), 5);
    assert_string_equal(kd_data_class_name(d, 4), "tulips");
    assert_int_equal(kd_data_missing(d), 0);
    uint8_t *rgb = kd_xalloc(64 * 64 * 3);
    for (size_t i = 0; i < 651; i += 31)
        kd_assert_ok(kd_data_load(d, i, rgb, &diag), &diag);
    free(rgb);
    kd_data_free(d);
    close(root);
}

static void test_dataset_real_fashion(void **state)
{
    (void)state;
    if (!kd_test_data()) {
        print_message("skipped: DISTILL_DATA is not set\n");
        skip();
    }
    int root = open(kd_test_data(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(root >= 0);
    /* The smaller file serves as both splits. */
    kd_data_config cfg = {.kind = KD_DATA_IDX,
                          .path = "fashion-mnist",
                          .train = "t10k-images-idx3-ubyte.gz",
                          .val = "t10k-images-idx3-ubyte.gz",
                          .train_labels = "t10k-labels-idx1-ubyte.gz",
                          .val_labels = "t10k-labels-idx1-ubyte.gz",
                          .leakage = KD_DATA_ALLOW,
                          .size = 28};
    kd_data *d = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_data_open(&cfg, root, NULL, NULL, &d, &diag), &diag);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TRAIN), 10000);
    assert_int_equal(kd_data_classes(d), 10);
    int count[10] = {0};
    for (size_t i = 0; i < 10000; i++)
        count[kd_data_label(d, i)]++;
    for (int c = 0; c < 10; c++)
        assert_int_equal(count[c], 1000);
    kd_data_free(d);
    close(root);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_dataset_folder),
        TEST(test_dataset_odd_lists),
        TEST(test_dataset_bad_lists),
        TEST(test_dataset_bad_classes),
        TEST(test_dataset_bad_config),
        TEST(test_dataset_digest_covers_everything),
        TEST(test_dataset_digest_is_pinned),
        TEST(test_dataset_missing_picture),
        TEST(test_dataset_damaged_picture),
        TEST(test_dataset_max_train),
        TEST(test_dataset_progress_ends_at_all),
        TEST(test_dataset_idx),
        TEST(test_dataset_idx_damaged),
        TEST(test_dataset_real_flowers),
        TEST(test_dataset_real_fashion),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

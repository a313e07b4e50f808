/* Splits: folders of class folders, shares, unlabelled pictures, the same picture in two splits. */
#include "dataset_fixture.h"

/* `n` pictures 0.png.. in a folder, grey `first` and up. */
static void put_class(const fixture *f, const char *folder, int n, int first)
{
    char name[256];
    make_dir(f, folder);
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s/%d.png", folder, i);
        put_picture(f, name, (uint8_t)(first + i));
    }
}

/* Names of a split, blank separated. */
static char *names_of(const kd_data *d, enum kd_split split)
{
    char *text = kd_xalloc(65536);
    for (size_t i = 0; i < kd_data_count(d, split); i++) {
        size_t s = kd_data_first(d, split) + i;
        assert_int_equal(kd_data_split(d, s), split);
        strcat(text, i ? " " : "");
        strcat(text, kd_data_name(d, s));
    }
    return text;
}

static void assert_names(const kd_data *d, enum kd_split split, const char *want)
{
    char *got = names_of(d, split);
    assert_string_equal(got, want);
    free(got);
}

static void folders(fixture *f)
{
    put_class(f, "f/train/cat", 2, 50);
    put_class(f, "f/train/Dog", 1, 60);
    put_class(f, "f/train/cat/deep/er", 1, 70);
    put_class(f, "f/val/cat", 1, 80);
    put_class(f, "f/test/Dog", 2, 90);
    put_text(f, "f/train/cat/notes.txt", "not a picture");
    put_text(f, "f/train/cat/.hidden.png", "not seen");
    make_dir(f, "f/train/.cache");
    f->cfg =
        (kd_data_config){.path = "f", .train = "train", .val = "val", .test = "test", .size = 5};
}

static void test_splits_class_folders(void **state)
{
    fixture *f = *state;
    folders(f);
    kd_data *d = open_good(f);
    assert_int_equal(kd_data_classes(d), 2);
    assert_string_equal(kd_data_class_name(d, 0), "Dog"); /* by bytes: upper case first */
    assert_string_equal(kd_data_class_name(d, 1), "cat");
    assert_names(d, KD_SPLIT_TRAIN,
                 "train/Dog/0.png train/cat/0.png train/cat/1.png train/cat/deep/er/0.png");
    assert_names(d, KD_SPLIT_VAL, "val/cat/0.png");
    assert_names(d, KD_SPLIT_TEST, "test/Dog/0.png test/Dog/1.png");
    assert_int_equal(kd_data_first(d, KD_SPLIT_TEST), 5);
    assert_int_equal(kd_data_samples(d), 7);
    static const int labels[7] = {0, 1, 1, 1, 1, 0, 0}, greys[7] = {60, 50, 51, 70, 80, 90, 91};
    for (size_t i = 0; i < 7; i++) {
        uint8_t rgb[5 * 5 * 3];
        kd_diag diag = {0};
        assert_int_equal(kd_data_label(d, i), labels[i]);
        kd_assert_ok(kd_data_load(d, i, rgb, &diag), &diag);
        assert_int_equal(rgb[0], greys[i]);
    }
    kd_data_free(d);
    /* A list file for one of them, and a file of classes that orders them otherwise. */
    put_text(f, "f/v.txt", "val/cat/0.png\n");
    put_text(f, "f/classes.txt", "cat\nowl\nDog\n");
    f->cfg.val = "v.txt";
    d = open_good(f);
    assert_int_equal(kd_data_classes(d), 3);
    assert_int_equal(kd_data_label(d, 0), 2);
    assert_int_equal(kd_data_label(d, 4), 0);
    kd_data_free(d);
    put_text(f, "f/classes.txt", "cat\nowl\n");
    open_bad(f, KD_EDATA, "the folder Dog is no class");
}

/* The folder itself holds the classes; the other splits' folders are none of them. */
static void test_splits_bare_folder(void **state)
{
    fixture *f = *state;
    put_class(f, "f/ant", 2, 1);
    put_class(f, "f/bee", 2, 11);
    put_class(f, "f/check/ant", 1, 21);
    put_class(f, "f/more", 1, 31);
    f->cfg = (kd_data_config){.path = "f", .val = "check", .unlabelled_path = "f/more", .size = 5};
    kd_data *d = open_good(f);
    assert_int_equal(kd_data_classes(d), 2);
    assert_names(d, KD_SPLIT_TRAIN, "ant/0.png ant/1.png bee/0.png bee/1.png");
    assert_names(d, KD_SPLIT_VAL, "check/ant/0.png");
    assert_names(d, KD_SPLIT_UNLABELLED, "0.png");
    kd_data_free(d);
}

static void test_splits_bad_folders(void **state)
{
    fixture *f = *state;
    char path[512];
    folders(f);
    make_dir(f, "f/train/owl");
    open_bad(f, KD_EDATA, "the class folder train/owl has no picture");
    put_text(f, "f/train/owl/a\tb.png", "x");
    open_bad(f, KD_EDATA, "control character");
    snprintf(path, sizeof path, "%s/f/train/owl/a\tb.png", f->root);
    assert_int_equal(unlink(path), 0);
    /* Below a link back up there is nothing new; one that leads out is a picture that cannot be
     * opened or no folder at all. */
    put_picture(f, "f/train/owl/0.png", 1);
    snprintf(path, sizeof path, "%s/f/train/owl/up", f->root);
    assert_int_equal(symlink("..", path), 0);
    snprintf(path, sizeof path, "%s/f/train/owl/out", f->root);
    assert_int_equal(symlink("/etc", path), 0);
    snprintf(path, sizeof path, "%s/f/train/owl/other", f->root);
    assert_int_equal(symlink("../../val", path), 0);
    f->cfg.leakage = KD_DATA_ALLOW;
    kd_data *d = open_good(f);
    char *names = names_of(d, KD_SPLIT_TRAIN);
    assert_non_null(strstr(names, "train/owl/0.png train/owl/other/cat/0.png"));
    assert_null(strstr(names, "up/"));
    assert_null(strstr(names, "out/"));
    free(names);
    kd_data_free(d);
    f->cfg.leakage = KD_DATA_REFUSE; /* by way of the link a validation picture is trained on */
    open_bad(f, KD_EEXIST, "train/owl/other/cat/0.png (train) and val/cat/0.png (val)");
    /* Deeper than is accepted. */
    strcpy(path, "f/train/owl");
    for (int i = 0; i < 16; i++)
        strcat(path, "/d");
    make_dir(f, path);
    open_bad(f, KD_ELIMIT, "deeper than 16");
    for (int i = 0; i < 16; i++) { /* kd_test_rmdir does not go so deep either */
        char deep[1024];
        snprintf(deep, sizeof deep, "%s/%s", f->root, path);
        assert_int_equal(rmdir(deep), 0);
        path[strlen(path) - 2] = '\0';
    }
    f->cfg = (kd_data_config){.path = "set", .train = "pics/ant", .val = "val.txt", .size = 5};
    open_bad(f, KD_EDATA, "set/pics/ant has no folder in it that could be a class");
}

/* ---- shares */

/* Two sets of the same files, made in another order. */
static void big_set(const fixture *f, const char *name, bool backwards)
{
    static const int counts[4] = {40, 13, 2, 1};
    char path[256];
    for (int c = 0; c < 4; c++) {
        snprintf(path, sizeof path, "%s/c%d", name, c);
        make_dir(f, path);
        for (int i = 0; i < counts[c]; i++) {
            int k = backwards ? counts[c] - 1 - i : i;
            snprintf(path, sizeof path, "%s/c%d/%02d.jpg", name, c, k);
            put(f, path, path + strlen(name), strlen(path) - strlen(name));
        }
    }
}

static void test_splits_shares(void **state)
{
    fixture *f = *state;
    big_set(f, "big", false);
    f->cfg = (kd_data_config){
        .path = "big", .val_share = 0.25, .test_share = 0.125, .seed = 5, .size = 5};
    kd_data *d = open_good(f);
    size_t count[KD_SPLITS][4] = {0};
    for (size_t i = 0; i < kd_data_samples(d); i++)
        count[kd_data_split(d, i)][kd_data_label(d, i)]++;
    /* 56 samples: 14 to validate, 7 to test; the class of one keeps it, so one less. */
    static const size_t train[4] = {25, 8, 1, 1};
    for (int c = 0; c < 4; c++)
        assert_int_equal(count[KD_SPLIT_TRAIN][c], train[c]);
    assert_int_equal(count[KD_SPLIT_VAL][0], 10);
    assert_int_equal(count[KD_SPLIT_TEST][0], 5);
    assert_in_range(kd_data_count(d, KD_SPLIT_VAL), 13, 14);
    assert_in_range(kd_data_count(d, KD_SPLIT_TEST), 6, 7);
    /* List order within each split. */
    for (size_t i = 1; i < kd_data_samples(d); i++)
        if (kd_data_split(d, i) == kd_data_split(d, i - 1))
            assert_true(strcmp(kd_data_name(d, i - 1), kd_data_name(d, i)) < 0);
    char *val = names_of(d, KD_SPLIT_VAL), *test = names_of(d, KD_SPLIT_TEST);
    kd_digest digest = kd_data_digest(d);
    kd_data_free(d);
    /* The order in which the file system has the files plays no part. */
    big_set(f, "gib", true);
    f->cfg.path = "gib";
    d = open_good(f);
    kd_digest again = kd_data_digest(d);
    assert_true(kd_digest_equal(&digest, &again));
    assert_names(d, KD_SPLIT_VAL, val);
    assert_names(d, KD_SPLIT_TEST, test);
    kd_data_free(d);
    /* The seed does; and the choice of training samples leaves the others alone. */
    f->cfg.max_train = 7;
    d = open_good(f);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TRAIN), 7);
    assert_names(d, KD_SPLIT_VAL, val);
    kd_data_free(d);
    f->cfg.seed = 6;
    d = open_good(f);
    char *other = names_of(d, KD_SPLIT_VAL);
    assert_string_not_equal(val, other);
    kd_data_free(d);
    free(val);
    free(test);
    free(other);
    /* A named split and a share of the rest. */
    f->cfg = (kd_data_config){.path = "set",
                              .train = "train.txt",
                              .val = "val.txt",
                              .test_share = 0.3,
                              .classes = "classes.txt",
                              .size = 5};
    d = open_good(f);
    assert_int_equal(kd_data_count(d, KD_SPLIT_TRAIN), 2);
    assert_names(d, KD_SPLIT_VAL, "pics/bee/1.png");
    assert_int_equal(kd_data_count(d, KD_SPLIT_TEST), 1);
    kd_data_free(d);
    f->cfg.test_share = 0.1;
    open_bad(f, KD_EDATA,
             "test_share 0.1 of 3 training samples in 2 classes leaves the test split");
}

/* Each sample of a class is as likely to be drawn as any other. */
static void test_splits_shares_are_fair(void **state)
{
    fixture *f = *state;
    char text[2048] = "";
    for (int i = 0; i < 20; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "pics/ant/%02d.png\t0\n", i);
    put_text(f, "set/train.txt", text);
    f->cfg.val = "";
    f->cfg.val_share = 0.25;
    int hits[20] = {0};
    for (uint64_t seed = 0; seed < 400; seed++) {
        f->cfg.seed = seed;
        kd_data *d = open_good(f);
        assert_int_equal(kd_data_count(d, KD_SPLIT_VAL), 5);
        for (size_t i = 15; i < 20; i++)
            hits[atoi(kd_data_name(d, i) + 9)]++;
        kd_data_free(d);
    }
    /* 400 draws at 1/4: 100, standard deviation 8.7; six of them either way. */
    for (int i = 0; i < 20; i++)
        assert_in_range(hits[i], 48, 152);
}

/* ---- unlabelled */

static void test_splits_unlabelled(void **state)
{
    fixture *f = *state;
    kd_digest without = digest_of(f);
    put_class(f, "more", 2, 101);
    put_class(f, "more/b", 1, 111);
    put_class(f, "more/a", 1, 121);
    put_class(f, "more/.trash", 1, 131);
    put_text(f, "more/LICENCE", "free");
    f->cfg.unlabelled_path = "more";
    kd_data *d = open_good(f);
    assert_int_equal(kd_data_first(d, KD_SPLIT_UNLABELLED), 4);
    assert_names(d, KD_SPLIT_UNLABELLED, "0.png 1.png a/0.png b/0.png");
    for (size_t i = 4; i < 8; i++) {
        uint8_t rgb[5 * 5 * 3];
        kd_diag diag = {0};
        assert_int_equal(kd_data_label(d, i), -1);
        kd_assert_ok(kd_data_load(d, i, rgb, &diag), &diag);
        assert_in_range(rgb[0], 101, 121);
    }
    kd_digest with = kd_data_digest(d);
    assert_false(kd_digest_equal(&with, &without));
    kd_data_free(d);
    put_picture(f, "more/b/0.png", 99);
    kd_digest changed = digest_of(f);
    assert_false(kd_digest_equal(&with, &changed));
    /* A list; classes in it mean nothing. */
    put_text(f, "more/list.txt", "b/0.png\n0.png\t17\n");
    f->cfg.unlabelled_list = "list.txt";
    d = open_good(f);
    assert_names(d, KD_SPLIT_UNLABELLED, "b/0.png 0.png");
    assert_int_equal(kd_data_label(d, 5), -1);
    kd_data_free(d);
    put_text(f, "more/list.txt", "../x.png\n");
    open_bad(f, KD_EDATA, "list.txt:1: the path has `..`");
    f->cfg.unlabelled_list = "";
    f->cfg.unlabelled_path = "more/.trash/none";
    open_bad(f, KD_ENOENT, "more/.trash/none");
    make_dir(f, "empty");
    f->cfg.unlabelled_path = "empty";
    open_bad(f, KD_EDATA, "no picture (.jpg, .jpeg, .png) below empty");
}

/* ---- leakage */

static void test_splits_leakage(void **state)
{
    fixture *f = *state;
    make_dir(f, "set/copy");
    /* bee/0 (train) is in val and test, too; ant/0 twice in train, which is nobody's business. */
    put_picture(f, "set/copy/v.png", 30);
    put_picture(f, "set/copy/t.png", 30);
    put_picture(f, "set/copy/a.png", 10);
    put_text(f, "set/train.txt",
             "pics/ant/0.png\t0\npics/bee/0.png\t1\npics/ant/1.png\t0\ncopy/a.png\t0\n");
    f->cfg.val = "v.txt";
    put_text(f, "set/v.txt", "pics/bee/1.png\t1\n");
    kd_data *d = open_good(f);
    kd_digest clean = kd_data_digest(d);
    assert_int_equal(kd_data_moved(d), 0);
    kd_data_free(d);
    put_text(f, "set/v.txt", "pics/bee/1.png\t1\ncopy/v.png\t1\n");
    open_bad(f, KD_EEXIST,
             "pics/bee/0.png (train) and copy/v.png (val), and 1 such pair(s) in all");
    f->cfg.test = "t.txt";
    put_text(f, "set/t.txt", "copy/t.png\t1\n");
    open_bad(f, KD_EEXIST,
             "pics/bee/0.png (train) and copy/v.png (val), and 3 such pair(s) in all");
    f->cfg.leakage = KD_DATA_ALLOW;
    d = open_good(f);
    kd_digest allowed = kd_data_digest(d);
    assert_int_equal(kd_data_samples(d), 7);
    kd_data_free(d);
    /* Test wins over validation, both over training. */
    f->cfg.leakage = KD_DATA_MOVE;
    d = open_good(f);
    assert_names(d, KD_SPLIT_TRAIN, "pics/ant/0.png pics/ant/1.png copy/a.png");
    assert_names(d, KD_SPLIT_VAL, "pics/bee/1.png");
    assert_names(d, KD_SPLIT_TEST, "copy/t.png");
    assert_int_equal(kd_data_moved(d), 2);
    kd_digest moved = kd_data_digest(d);
    assert_false(kd_digest_equal(&moved, &allowed));
    kd_data_free(d);
    f->cfg.test = "";
    d = open_good(f);
    assert_names(d, KD_SPLIT_VAL, "pics/bee/1.png copy/v.png");
    assert_int_equal(kd_data_moved(d), 1);
    kd_data_free(d);
    /* Where nothing leaks the three are the same. */
    put_text(f, "set/v.txt", "pics/bee/1.png\t1\n");
    moved = digest_of(f);
    assert_true(kd_digest_equal(&moved, &clean));
    /* Nothing may be left without a word. */
    put_text(f, "set/v.txt", "pics/ant/0.png\t0\npics/bee/0.png\t1\npics/ant/1.png\t0\n");
    open_bad(f, KD_EDATA, "nothing is left of it");
}

static void test_splits_leakage_unlabelled(void **state)
{
    fixture *f = *state;
    put_class(f, "more", 1, 40);      /* bee/1, which is validated on */
    put_picture(f, "more/1.png", 10); /* ant/0, which is trained on: no harm */
    put_picture(f, "more/2.png", 200);
    f->cfg.unlabelled_path = "more";
    open_bad(f, KD_EEXIST,
             "pics/bee/1.png (val) and 0.png (unlabelled), and 1 such pair(s) in all");
    f->cfg.leakage = KD_DATA_MOVE;
    kd_data *d = open_good(f);
    assert_names(d, KD_SPLIT_UNLABELLED, "1.png 2.png");
    assert_int_equal(kd_data_count(d, KD_SPLIT_VAL), 1);
    kd_data_free(d);
}

/* A missing picture is not equal to another missing one. */
static void test_splits_missing_does_not_leak(void **state)
{
    fixture *f = *state;
    put_text(f, "set/train.txt", "pics/ant/0.png\t0\nnone/a.png\t0\n");
    put_text(f, "set/val.txt", "none/b.png\t1\n");
    kd_data *d = open_good(f);
    assert_int_equal(kd_data_missing(d), 2);
    kd_data_free(d);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_splits_class_folders),
        TEST(test_splits_bare_folder),
        TEST(test_splits_bad_folders),
        TEST(test_splits_shares),
        TEST(test_splits_shares_are_fair),
        TEST(test_splits_unlabelled),
        TEST(test_splits_leakage),
        TEST(test_splits_leakage_unlabelled),
        TEST(test_splits_missing_does_not_leak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

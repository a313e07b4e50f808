/* Data sets and pictures. */
#include "fuzz.h"

#include "data/data.h"
#include "data/exif.h"

#include <stdlib.h>
#include <string.h>

/* Opens and, if that works, asks for everything. */
static int try_open(const kd_data_config *cfg)
{
    kd_data *d = NULL;
    kd_diag diag = {0};
    int rc = kd_data_open(cfg, kd_fuzz_folder_fd(), NULL, NULL, &d, &diag);
    if (rc != 0) {
        KD_FUZZ_CHECK(!d);
        KD_FUZZ_CHECK(strlen(diag.msg) > 10);
        return kd_fuzz_refused(rc, &diag);
    }
    const size_t n = kd_data_samples(d);
    KD_FUZZ_CHECK(kd_data_count(d, KD_SPLIT_TRAIN) > 0 && kd_data_count(d, KD_SPLIT_VAL) > 0);
    KD_FUZZ_CHECK(kd_data_classes(d) > 0);
    for (int c = 0; c < kd_data_classes(d); c++)
        KD_FUZZ_CHECK(kd_data_class_name(d, c));
    for (size_t i = 0; i < n; i++) {
        uint8_t rgb[2 * 2 * 3];
        kd_diag why = {0};
        if (kd_data_split(d, i) == KD_SPLIT_UNLABELLED)
            KD_FUZZ_CHECK(kd_data_label(d, i) == -1);
        else
            KD_FUZZ_CHECK(kd_data_label(d, i) >= 0 && kd_data_label(d, i) < kd_data_classes(d));
        KD_FUZZ_CHECK(kd_data_name(d, i));
        rc = kd_data_load(d, i, rgb, &why);
        KD_FUZZ_CHECK(rc == 0 || rc == -KD_EDATA || rc == -KD_ENOENT || rc == -KD_EIO ||
                      rc == -KD_EPERM);
    }
    kd_data_free(d);
    return 1;
}

static void put_picture(const char *name, uint8_t shade)
{
    uint8_t rgb[3 * 3 * 3] = {shade}, *bytes;
    size_t len;
    kd_diag diag = {0};
    KD_FUZZ_CHECK(kd_image_encode_jpeg(rgb, 3, 3, 90, &bytes, &len, &diag) == 0);
    kd_fuzz_put(name, bytes, len);
    free(bytes);
}

int kd_fuzz_lists(const uint8_t *data, size_t len)
{
    static const char *const names[] = {"classes.txt", "train.txt", "val.txt", "more.txt"};
    static bool made;
    if (len < 1)
        return 0;
    if (!made) {
        put_picture("ant/1.png", 9);
        put_picture("ant/2.jpg", 200);
        put_picture("bee/1.jpg", 90);
        kd_fuzz_put("bee/2.png", (const uint8_t *)"\x89PNG", 4);
        made = true;
    }
    const uint8_t o = data[0];
    const bool shares = o & KD_FUZZ_LISTS_SHARES, classes = o & KD_FUZZ_LISTS_CLASSES,
               unlabelled = o & KD_FUZZ_LISTS_UNLABELLED;
    kd_fuzz_part part[KD_COUNT(names)];
    kd_fuzz_parts(data + 1, len - 1, part, KD_COUNT(part));
    for (size_t i = 0; i < KD_COUNT(names); i++)
        kd_fuzz_put(names[i], i == 0 && !classes ? NULL : part[i].data, part[i].len);
    const kd_data_config cfg = {.path = "",
                                .train = "train.txt",
                                .val = shares ? "" : "val.txt",
                                .val_share = shares ? 0.4 : 0,
                                .test_share = shares ? 0.3 : 0,
                                .classes = classes ? "classes.txt" : "",
                                .unlabelled_path = unlabelled ? "." : "",
                                .unlabelled_list = unlabelled ? "more.txt" : "",
                                .leakage = (enum kd_data_leakage)KD_MIN(o / 16 % 4, KD_DATA_ALLOW),
                                .size = 2,
                                .max_train = o & KD_FUZZ_LISTS_LIMIT ? 2 : 0};
    return try_open(&cfg);
}

/* Two files of pictures and their labels; what the input lacks is replaced by these. */
static int try_arrays(enum kd_data_kind kind, const uint8_t *data, size_t len,
                      const kd_fuzz_part good[4])
{
    static const char *const names[] = {"ti", "tl", "vi", "vl"};
    kd_fuzz_part part[KD_COUNT(names)];
    kd_fuzz_parts(data, len, part, KD_COUNT(part));
    for (size_t i = 0; i < KD_COUNT(names); i++) {
        const kd_fuzz_part *p = part[i].data ? &part[i] : &good[i];
        kd_fuzz_put(names[i], p->data, p->len);
    }
    const kd_data_config cfg = {.kind = kind,
                                .path = ".",
                                .train = "ti",
                                .train_labels = "tl",
                                .val = "vi",
                                .val_labels = "vl",
                                .leakage = KD_DATA_MOVE,
                                .size = 2};
    return try_open(&cfg);
}

int kd_fuzz_idx(const uint8_t *data, size_t len)
{
    static const uint8_t images[] = {0, 0, 8, 3, 0, 0, 0, 2, 0,  0,  0,  2,
                                     0, 0, 0, 2, 1, 2, 3, 4, 11, 12, 13, 14};
    static const uint8_t others[] = {0, 0, 8, 3, 0, 0, 0, 2, 0,  0,  0,  2,
                                     0, 0, 0, 2, 5, 6, 7, 8, 15, 16, 17, 18};
    static const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 2, 1, 0};
    const kd_fuzz_part good[] = {{images, sizeof images},
                                 {labels, sizeof labels},
                                 {others, sizeof others},
                                 {labels, sizeof labels}};
    return try_arrays(KD_DATA_IDX, data, len, good);
}

#define IMAGES_HEADER "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 2, 3), }\n"
#define LABELS_HEADER "{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }\n"
_Static_assert(sizeof IMAGES_HEADER - 1 == 66 && sizeof LABELS_HEADER - 1 == 58,
               "the lengths written below");

int kd_fuzz_npy(const uint8_t *data, size_t len)
{
    static const char images[] = "\x93NUMPY\1\0\x42\0" IMAGES_HEADER "0123456789ab";
    static const char others[] = "\x93NUMPY\1\0\x42\0" IMAGES_HEADER "cdefghijklmn";
    static const char labels[] = "\x93NUMPY\1\0\x3A\0" LABELS_HEADER "\1\0\0";
    const kd_fuzz_part good[] = {
        {(const uint8_t *)images, sizeof images - 1},
        {(const uint8_t *)labels, sizeof labels}, /* its NUL is the last byte */
        {(const uint8_t *)others, sizeof others - 1},
        {(const uint8_t *)labels, sizeof labels}};
    return try_arrays(KD_DATA_NPY, data, len, good);
}

int kd_fuzz_cifar(const uint8_t *data, size_t len)
{
    static const char *const names[2][3] = {
        {"data_batch_1.bin", "test_batch.bin", "batches.meta.txt"},
        {"train.bin", "test.bin", "fine_label_names.txt"}};
    if (len < 1)
        return 0;
    const int kind = data[0] & 1;
    kd_fuzz_part part[3];
    kd_fuzz_parts(data + 1, len - 1, part, KD_COUNT(part));
    for (size_t i = 0; i < KD_COUNT(part); i++) {
        kd_fuzz_put(names[kind][i], part[i].data, part[i].len);
        kd_fuzz_put(names[!kind][i], NULL, 0);
    }
    const kd_data_config cfg = {
        .kind = KD_DATA_CIFAR, .path = ".", .leakage = KD_DATA_ALLOW, .size = 2};
    return try_open(&cfg);
}

int kd_fuzz_image(const uint8_t *data, size_t len)
{
    kd_image im = {0};
    kd_diag diag = {0};
    int rc = kd_image_decode(data, len, &im, &diag);
    if (rc != 0) {
        KD_FUZZ_CHECK(rc == -KD_EDATA || rc == -KD_ELIMIT || rc == -KD_ENOMEM);
        KD_FUZZ_CHECK(!im.rgb);
        return kd_fuzz_refused(rc, &diag);
    }
    uint8_t small[7 * 5 * 3];
    KD_FUZZ_CHECK(im.w > 0 && im.h > 0 && im.rgb);
    rc = kd_image_resize(&im, 7, 5, small, &diag);
    KD_FUZZ_CHECK(rc == 0 || rc == -KD_ELIMIT || rc == -KD_ENOMEM);
    kd_image_free(&im);
    return 1;
}

int kd_fuzz_exif(const uint8_t *data, size_t len)
{
    const int o = kd_exif_orientation(data, len);
    KD_FUZZ_CHECK(o >= 0 && o <= 8);
    return o != 0;
}

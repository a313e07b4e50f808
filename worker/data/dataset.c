#include "data/dataset.h"

#include "data/dataset_internal.h"
#include "data/resize.h"
#include "kd/clock.h"
#include "kd/file.h"
#include "kd/rng.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Every multi-byte value goes into a digest in one order, so that it means the same on all
 * machines. */
static void add_u64(kd_hasher *h, uint64_t v)
{
    uint8_t b[8];
    for (int i = 0; i < 8; i++)
        b[i] = (uint8_t)(v >> (8 * i));
    kd_hasher_add(h, b, sizeof b);
}

static void add_text(kd_hasher *h, const char *s)
{
    add_u64(h, strlen(s));
    kd_hasher_add(h, s, strlen(s));
}

/* ---- files */

#define PATH_ROOM (2 * KD_DATA_MAX_LINE + 2)

/* name in the data set's folder -> path beneath root_fd */
static int path_of(const kd_data *d, const char *name, char out[PATH_ROOM], kd_diag *diag)
{
    bool plain = d->path[0] == '\0' || strcmp(d->path, ".") == 0;
    int n = snprintf(out, PATH_ROOM, "%s%s%s", plain ? "" : d->path, plain ? "" : "/", name);
    if (n < 0 || n >= PATH_ROOM)
        return kd_fail(diag, -KD_EINVAL, "the path of %.80s... is longer than %d bytes", name,
                       PATH_ROOM - 1);
    return 0;
}

int kd_data_read(const kd_data *d, const char *name, size_t max, char **out_bytes, size_t *out_len,
                 kd_diag *diag)
{
    char path[PATH_ROOM];
    int rc = path_of(d, name, path, diag);
    if (rc != 0)
        return rc;
    /* Without O_NONBLOCK, opening a named pipe would wait for a writer for ever. */
    int fd = kd_file_open_beneath(d->root_fd, path, O_NONBLOCK, diag);
    if (fd < 0)
        return fd;
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        rc = kd_fail(diag, -KD_EDATA, "%s is not a plain file", path);
    else
        rc = kd_file_read_fd(fd, path, max, out_bytes, out_len, diag);
    close(fd);
    return rc;
}

/* ---- choosing */

/* Keeps `keep` of the first *n samples: drawn by Fisher-Yates, left in list order. */
static int choose(kd_data_sample *samples, size_t *n, size_t keep, uint64_t seed, kd_diag *diag)
{
    if (keep == 0 || keep >= *n)
        return 0;
    uint32_t *order = malloc(*n * sizeof *order);
    uint8_t *kept = calloc(*n, 1);
    if (!order || !kept) {
        free(order);
        free(kept);
        return kd_fail(diag, -KD_ENOMEM, "no memory to choose %zu of %zu samples", keep, *n);
    }
    kd_rng rng;
    kd_rng_init(&rng, seed, KD_RNG_SPLIT, 0, 0);
    for (size_t i = 0; i < *n; i++)
        order[i] = (uint32_t)i;
    for (size_t i = 0; i < keep; i++) {
        size_t k = i + kd_rng_below(&rng, (uint32_t)(*n - i));
        uint32_t t = order[k];
        order[k] = order[i];
        order[i] = t;
        kept[t] = 1;
    }
    size_t at = 0;
    for (size_t i = 0; i < *n; i++)
        if (kept[i])
            samples[at++] = samples[i];
    *n = at;
    free(order);
    free(kept);
    return 0;
}

/* ---- digests */

static int digest_of_classes(kd_data *d, kd_diag *diag)
{
    kd_hasher *h = kd_hasher_new();
    if (!h)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a digest");
    add_text(h, "distilld classes 1");
    add_u64(h, (uint64_t)d->n_classes);
    for (int c = 0; c < d->n_classes; c++)
        add_text(h, d->classes[c]);
    d->classes_digest = kd_hasher_digest(h);
    kd_hasher_free(h);
    return 0;
}

/* Adds the content of one sample; a missing file adds a marker that no content can equal. */
static int add_content(kd_data *d, kd_hasher *h, size_t i, kd_diag *diag)
{
    if (d->kind == KD_DATA_IDX) {
        kd_hasher_add(h, kd_idx_pixels(d, i), (size_t)d->idx_w * (size_t)d->idx_h);
        return 0;
    }
    char *bytes;
    size_t len;
    kd_diag why = {0};
    int rc = kd_data_read(d, d->samples[i].name, KD_IMAGE_MAX_FILE, &bytes, &len, &why);
    if (rc == 0) {
        add_u64(h, 1);
        add_u64(h, len);
        kd_hasher_add(h, bytes, len);
        free(bytes);
        return 0;
    }
    if (rc == -KD_ENOMEM)
        return kd_fail(diag, rc, "%s", why.msg);
    add_u64(h, 0);
    add_u64(h, (uint64_t)-rc);
    d->missing++;
    return 0;
}

static int digest_of_all(kd_data *d, void (*progress)(size_t done, size_t all, void *arg),
                         void *arg, kd_diag *diag)
{
    kd_hasher *h = kd_hasher_new();
    if (!h)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a digest");
    size_t all = d->count[KD_SPLIT_TRAIN] + d->count[KD_SPLIT_VAL];
    kd_time_ms last = kd_clock_ms();
    int rc = 0;
    add_text(h, "distilld data 1");
    add_u64(h, d->kind);
    kd_hasher_add(h, d->classes_digest.bytes, sizeof d->classes_digest.bytes);
    add_u64(h, d->count[KD_SPLIT_TRAIN]);
    add_u64(h, d->count[KD_SPLIT_VAL]);
    add_u64(h, (uint64_t)d->idx_w);
    add_u64(h, (uint64_t)d->idx_h);
    for (size_t i = 0; i < all && rc == 0; i++) {
        add_text(h, kd_data_name(d, i));
        add_u64(h, (uint64_t)(int64_t)d->samples[i].label);
        rc = add_content(d, h, i, diag);
        kd_time_ms now = kd_clock_ms();
        if (progress && rc == 0 && (now - last >= 200 || i + 1 == all)) {
            last = now;
            progress(i + 1, all, arg);
        }
    }
    d->digest = kd_hasher_digest(h);
    kd_hasher_free(h);
    return rc;
}

/* ---- open, free */

static int check_config(const kd_data_config *cfg, kd_diag *diag)
{
    if (cfg->size < 1 || cfg->size > KD_DATA_MAX_SIZE)
        return kd_fail(diag, -KD_EINVAL, "a picture size of %d pixels; it is 1 to %d", cfg->size,
                       KD_DATA_MAX_SIZE);
    if (cfg->max_train < 0)
        return kd_fail(diag, -KD_EINVAL, "max_train is %d; it cannot be negative", cfg->max_train);
    if (!cfg->path || !cfg->train || !*cfg->train || !cfg->val || !*cfg->val)
        return kd_fail(diag, -KD_EINVAL,
                       "a data set needs a folder, a training and a validation list");
    if (strlen(cfg->path) > KD_DATA_MAX_LINE)
        return kd_fail(diag, -KD_EINVAL, "the path of the data set is longer than %d bytes",
                       KD_DATA_MAX_LINE);
    if (cfg->kind == KD_DATA_IDX &&
        (!cfg->train_labels || !*cfg->train_labels || !cfg->val_labels || !*cfg->val_labels))
        return kd_fail(diag, -KD_EINVAL, "an IDX data set needs train_labels and val_labels");
    return 0;
}

int kd_data_open(const kd_data_config *cfg, int root_fd,
                 void (*progress)(size_t done, size_t all, void *arg), void *arg, kd_data **out,
                 kd_diag *diag)
{
    int rc = check_config(cfg, diag);
    if (rc != 0)
        return rc;
    kd_data *d = calloc(1, sizeof *d);
    if (!d || !(d->path = strdup(cfg->path))) {
        free(d);
        return kd_fail(diag, -KD_ENOMEM, "no memory for a data set");
    }
    d->kind = cfg->kind;
    d->size = cfg->size;
    d->root_fd = root_fd;
    rc = cfg->kind == KD_DATA_IDX ? kd_data_open_idx(d, cfg, diag)
                                  : kd_data_open_folder(d, cfg, diag);
    if (rc == 0) {
        /* Both lists stand in one array; dropping training samples pulls the others down. */
        size_t n_train = d->count[KD_SPLIT_TRAIN];
        rc = choose(d->samples, &n_train, (size_t)cfg->max_train, cfg->seed, diag);
        if (rc == 0 && n_train != d->count[KD_SPLIT_TRAIN]) {
            memmove(d->samples + n_train, d->samples + d->count[KD_SPLIT_TRAIN],
                    d->count[KD_SPLIT_VAL] * sizeof *d->samples);
            d->count[KD_SPLIT_TRAIN] = n_train;
        }
    }
    if (rc == 0)
        rc = digest_of_classes(d, diag);
    if (rc == 0)
        rc = digest_of_all(d, progress, arg, diag);
    if (rc != 0) {
        kd_data_free(d);
        return rc;
    }
    *out = d;
    return 0;
}

void kd_data_free(kd_data *d)
{
    if (!d)
        return;
    for (int i = 0; i < 2; i++) {
        free(d->lists[i]);
        free(d->pixels[i]);
    }
    free(d->class_text);
    free(d->classes);
    free(d->samples);
    free(d->path);
    free(d);
}

/* ---- asking */

const char *kd_split_name(enum kd_split split)
{
    static const char *const names[KD_SPLITS] = {"train", "val", "test", "unlabelled"};
    KD_BUG_ON((unsigned)split >= KD_SPLITS);
    return names[split];
}

size_t kd_data_first(const kd_data *d, enum kd_split split)
{
    size_t first = 0;
    for (enum kd_split s = KD_SPLIT_TRAIN; s < split; s++)
        first += d->count[s];
    return first;
}

size_t kd_data_count(const kd_data *d, enum kd_split split)
{
    return d->count[split];
}

size_t kd_data_samples(const kd_data *d)
{
    return kd_data_first(d, KD_SPLITS);
}

enum kd_split kd_data_split(const kd_data *d, size_t sample)
{
    enum kd_split split = KD_SPLIT_TRAIN;
    KD_BUG_ON(sample >= kd_data_samples(d));
    while (sample >= kd_data_first(d, split) + d->count[split])
        split++;
    return split;
}

int kd_data_classes(const kd_data *d)
{
    return d->n_classes;
}

const char *kd_data_class_name(const kd_data *d, int c)
{
    return c >= 0 && c < d->n_classes ? d->classes[c] : NULL;
}

int kd_data_label(const kd_data *d, size_t sample)
{
    KD_BUG_ON(sample >= kd_data_samples(d));
    return d->samples[sample].label;
}

const char *kd_data_name(const kd_data *d, size_t sample)
{
    KD_BUG_ON(sample >= kd_data_samples(d));
    return d->samples[sample].name;
}

kd_digest kd_data_digest(const kd_data *d)
{
    return d->digest;
}

kd_digest kd_data_classes_digest(const kd_data *d)
{
    return d->classes_digest;
}

size_t kd_data_missing(const kd_data *d)
{
    return d->missing;
}

/* ---- loading */

static int decode_sample(const kd_data *d, size_t sample, kd_image *out, kd_diag *diag)
{
    char *bytes;
    size_t len;
    const char *name = d->samples[sample].name;
    int rc = kd_data_read(d, name, KD_IMAGE_MAX_FILE, &bytes, &len, diag);
    if (rc != 0)
        return rc;
    rc = kd_image_decode((const uint8_t *)bytes, len, out, diag);
    free(bytes);
    return rc != 0 ? kd_fail_at(diag, rc, "%s", name) : 0;
}

static int grey_sample(const kd_data *d, size_t sample, kd_image *out, kd_diag *diag)
{
    size_t pixels = (size_t)d->idx_w * (size_t)d->idx_h;
    kd_image im = {.w = d->idx_w, .h = d->idx_h, .rgb = malloc(3 * pixels)};
    if (!im.rgb)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a picture");
    const uint8_t *grey = kd_idx_pixels(d, sample);
    for (size_t i = 0; i < 3 * pixels; i++)
        im.rgb[i] = grey[i / 3];
    *out = im;
    return 0;
}

int kd_data_load(const kd_data *d, size_t sample, uint8_t *rgb, kd_diag *diag)
{
    KD_BUG_ON(sample >= kd_data_samples(d));
    kd_image im = {0};
    int rc = d->kind == KD_DATA_IDX ? grey_sample(d, sample, &im, diag)
                                    : decode_sample(d, sample, &im, diag);
    if (rc == 0)
        rc = kd_image_resize(&im, d->size, d->size, rgb, diag);
    kd_image_free(&im);
    switch (rc) {
    case 0:
    case -KD_ENOENT:
    case -KD_ENOMEM:
    case -KD_EIO:
        return rc;
    default: /* too large, a link that leads out, a folder: all the picture's own fault */
        if (diag)
            diag->code = -KD_EDATA;
        return -KD_EDATA;
    }
}

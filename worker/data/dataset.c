#include "data/dataset.h"

#include "data/dataset_internal.h"
#include "data/resize.h"
#include "kd/file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- files */

int kd_data_path(const char *folder, const char *name, char out[KD_DATA_PATH_ROOM], kd_diag *diag)
{
    bool plain = folder[0] == '\0' || strcmp(folder, ".") == 0;
    bool bare = name[0] == '\0' || strcmp(name, ".") == 0;
    int n = snprintf(out, KD_DATA_PATH_ROOM, "%s%s%s", plain ? "" : folder,
                     plain || bare ? "" : "/", bare ? plain ? "." : "" : name);
    if (n < 0 || n >= KD_DATA_PATH_ROOM)
        return kd_fail(diag, -KD_EINVAL, "the path of %.80s... is longer than %d bytes", name,
                       KD_DATA_PATH_ROOM - 1);
    return 0;
}

int kd_data_open_path(const kd_data *d, const char *path, int extra_flags, kd_diag *diag)
{
    return d->links ? kd_file_open_at(d->root_fd, path, extra_flags, diag)
                    : kd_file_open_beneath(d->root_fd, path, extra_flags, diag);
}

int kd_data_read(const kd_data *d, const char *folder, const char *name, size_t max,
                 char **out_bytes, size_t *out_len, kd_diag *diag)
{
    char path[KD_DATA_PATH_ROOM];
    int rc = kd_data_path(folder, name, path, diag);
    if (rc != 0)
        return rc;
    /* Without O_NONBLOCK, opening a named pipe would wait for a writer for ever. */
    int fd = kd_data_open_path(d, path, O_NONBLOCK, diag);
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

int kd_data_is_folder(const kd_data *d, const char *folder, const char *name, kd_diag *diag)
{
    char path[KD_DATA_PATH_ROOM];
    int rc = kd_data_path(folder, name, path, diag);
    if (rc != 0)
        return rc;
    int fd = kd_data_open_path(d, path, O_PATH, diag);
    if (fd < 0)
        return fd;
    struct stat st;
    bool is = fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
    close(fd);
    return is;
}

/* ---- building */

int kd_data_source_add(kd_data *d, const char *file, kd_diag *diag)
{
    if (d->n_sources == KD_DATA_MAX_SOURCES)
        return kd_fail(diag, -KD_ELIMIT, "the data set has more than %d files",
                       KD_DATA_MAX_SOURCES);
    char *copy = strdup(file);
    if (!copy)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a data set");
    d->sources[d->n_sources] = (kd_data_source){.file = copy};
    return d->n_sources++;
}

int kd_data_grow(kd_data *d, size_t more, const char *file, kd_diag *diag)
{
    if (more > KD_DATA_MAX_SAMPLES || d->n + more > KD_DATA_MAX_SAMPLES)
        return kd_fail(diag, -KD_ELIMIT,
                       "%s has %zu samples; at most %u samples are accepted in all", file, more,
                       KD_DATA_MAX_SAMPLES);
    if (d->n + more <= d->room)
        return 0;
    size_t room = d->n + more;
    kd_data_sample *p = realloc(d->samples, room * sizeof *p);
    if (!p)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the %zu samples of %s", more, file);
    d->samples = p;
    d->room = room;
    return 0;
}

/* ---- open, free */

static int check_shares(const kd_data_config *cfg, kd_diag *diag)
{
    bool val = *kd_data_text(cfg->val) != '\0', test = *kd_data_text(cfg->test) != '\0';
    /* Written so that NaN fails, too. */
    if (!(cfg->val_share >= 0 && cfg->test_share >= 0 && cfg->val_share + cfg->test_share <= 0.9))
        return kd_fail(diag, -KD_EINVAL,
                       "val_share %g and test_share %g: neither can be negative, and training "
                       "keeps at least a tenth",
                       cfg->val_share, cfg->test_share);
    if (val && cfg->val_share > 0)
        return kd_fail(diag, -KD_EINVAL, "val and val_share exclude each other");
    if (test && cfg->test_share > 0)
        return kd_fail(diag, -KD_EINVAL, "test and test_share exclude each other");
    if (!val && cfg->val_share == 0 && cfg->kind != KD_DATA_CIFAR && !cfg->one_split)
        return kd_fail(diag, -KD_EINVAL,
                       "a data set needs validation samples: name val, or give val_share");
    return 0;
}

static int check_config(const kd_data_config *cfg, kd_diag *diag)
{
    if (cfg->size < 1 || cfg->size > KD_DATA_MAX_SIZE)
        return kd_fail(diag, -KD_EINVAL, "a picture size of %d pixels; it is 1 to %d", cfg->size,
                       KD_DATA_MAX_SIZE);
    if (cfg->max_train < 0)
        return kd_fail(diag, -KD_EINVAL, "max_train is %d; it cannot be negative", cfg->max_train);
    if ((unsigned)cfg->kind > KD_DATA_NPY || (unsigned)cfg->leakage > KD_DATA_ALLOW)
        return kd_fail(diag, -KD_EINVAL, "no such format or way of treating leakage");
    const char *paths[] = {cfg->path, cfg->train, cfg->val, cfg->test, cfg->unlabelled_path};
    for (size_t i = 0; i < KD_COUNT(paths); i++)
        if (paths[i] && strlen(paths[i]) > KD_DATA_MAX_LINE)
            return kd_fail(diag, -KD_EINVAL, "a path of the data set is longer than %d bytes",
                           KD_DATA_MAX_LINE);
    bool pairs = cfg->kind == KD_DATA_IDX || cfg->kind == KD_DATA_NPY;
    const char *files[3][3] = {{"train", cfg->train, cfg->train_labels},
                               {"val", cfg->val, cfg->val_labels},
                               {"test", cfg->test, cfg->test_labels}};
    for (size_t i = 0; i < 3 && pairs; i++) {
        bool images = *kd_data_text(files[i][1]) != '\0';
        if (i == 0 && !images)
            return kd_fail(diag, -KD_EINVAL, "the data set needs train, a file of pictures");
        if (images && *kd_data_text(files[i][2]) == '\0')
            return kd_fail(diag, -KD_EINVAL, "the data set needs %s_labels beside %s", files[i][0],
                           files[i][0]);
    }
    return check_shares(cfg, diag);
}

static int read_all(kd_data *d, const kd_data_config *cfg, kd_diag *diag)
{
    int rc = 0;
    switch (d->kind) {
    case KD_DATA_IMAGE_FOLDER:
        rc = kd_data_open_folder(d, cfg, diag);
        break;
    case KD_DATA_IDX:
        rc = kd_data_open_idx(d, cfg, diag);
        break;
    case KD_DATA_CIFAR:
        rc = kd_data_open_cifar(d, cfg, diag);
        break;
    case KD_DATA_NPY:
        rc = kd_data_open_npy(d, cfg, diag);
        break;
    }
    if (rc == 0)
        rc = kd_split_shares(d, cfg, diag);
    if (rc == 0)
        rc = kd_split_choose(d, (size_t)cfg->max_train, cfg->seed, diag);
    if (rc == 0 && *d->unlabelled_path)
        rc = kd_data_open_unlabelled(d, cfg, diag);
    return rc == 0 ? kd_data_order(d, diag) : rc;
}

int kd_data_open(const kd_data_config *cfg, int root_fd, kd_data_progress progress, void *arg,
                 kd_data **out, kd_diag *diag)
{
    int rc = check_config(cfg, diag);
    if (rc != 0)
        return rc;
    kd_data *d = calloc(1, sizeof *d);
    if (!d || !(d->path = strdup(kd_data_text(cfg->path))) ||
        !(d->unlabelled_path = strdup(kd_data_text(cfg->unlabelled_path)))) {
        kd_data_free(d);
        return kd_fail(diag, -KD_ENOMEM, "no memory for a data set");
    }
    d->kind = cfg->kind;
    d->size = cfg->size;
    d->root_fd = root_fd;
    d->links = cfg->links;
    rc = read_all(d, cfg, diag);
    if (rc == 0)
        rc = kd_data_make_digests(d, cfg->leakage, progress, arg, diag);
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
    for (int i = 0; i < d->n_sources; i++) {
        free(d->sources[i].file);
        free(d->sources[i].text);
        free(d->sources[i].bytes);
    }
    free(d->class_text);
    free(d->classes);
    free(d->samples);
    free(d->path);
    free(d->unlabelled_path);
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
    return d->n;
}

enum kd_split kd_data_split(const kd_data *d, size_t sample)
{
    KD_BUG_ON(sample >= d->n);
    return d->samples[sample].split;
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
    KD_BUG_ON(sample >= d->n);
    return d->samples[sample].label;
}

const char *kd_data_name(const kd_data *d, size_t sample)
{
    KD_BUG_ON(sample >= d->n);
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

size_t kd_data_moved(const kd_data *d)
{
    return d->moved;
}

/* ---- loading */

static int decode_sample(const kd_data *d, const kd_data_sample *s, kd_image *out, kd_diag *diag)
{
    char *bytes;
    size_t len;
    int rc = kd_data_read(d, d->sources[s->source].folder, s->name, KD_IMAGE_MAX_FILE, &bytes, &len,
                          diag);
    if (rc != 0)
        return rc;
    rc = kd_image_decode((const uint8_t *)bytes, len, out, diag);
    free(bytes);
    return rc != 0 ? kd_fail_at(diag, rc, "%s", s->name) : 0;
}

static int array_sample(const kd_data *d, const kd_data_sample *s, kd_image *out, kd_diag *diag)
{
    size_t pixels = (size_t)d->w * (size_t)d->h;
    kd_image im = {.w = d->w, .h = d->h, .rgb = malloc(3 * pixels)};
    if (!im.rgb)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a picture");
    const uint8_t *p = kd_array_pixels(d, s);
    if (d->channels == 3 && !d->planar)
        memcpy(im.rgb, p, 3 * pixels);
    else
        for (size_t i = 0; i < pixels; i++)
            for (size_t c = 0; c < 3; c++)
                im.rgb[3 * i + c] = p[i + (d->planar ? c * pixels : 0)];
    *out = im;
    return 0;
}

int kd_data_load(const kd_data *d, size_t sample, uint8_t *rgb, kd_diag *diag)
{
    KD_BUG_ON(sample >= d->n);
    const kd_data_sample *s = &d->samples[sample];
    kd_image im = {0};
    int rc = d->sources[s->source].bytes ? array_sample(d, s, &im, diag)
                                         : decode_sample(d, s, &im, diag);
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

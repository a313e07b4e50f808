#include "models/loaded.h"
#include "models/models.h"
#include "store/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CLASSES 65536

static const char *const paddings[] = {"torch", "tf"};

static int word(const char *text, const char *const *words, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(text, words[i]) == 0)
            return i;
    return -1;
}

static int refuse(const char *name, const char *key, const char *value, const char *wanted,
                  kd_diag *diag)
{
    return kd_fail(diag, -KD_EDATA, "%s: its metadata says %s '%.60s', %s was expected.", name, key,
                   value, wanted);
}

/* A finite number in [low, high] that is the whole text. */
static bool number(const char *text, double low, double high, double *out)
{
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end || !(value >= low && value <= high))
        return false;
    *out = value;
    return true;
}

static int read_classes(const char *text, const char *name, kd_model_file_info *info, kd_diag *diag)
{
    int n = 1;
    for (const char *c = text; *c && n <= MAX_CLASSES; c++)
        n += *c == ',';
    if (n > MAX_CLASSES)
        return kd_fail(diag, -KD_ELIMIT, "%s: its metadata names more than %d classes.", name,
                       MAX_CLASSES);
    if (kd_class_names_split(text, &info->classes, &info->n_classes))
        return kd_fail(diag, -KD_ENOMEM, "no memory for the names of %d classes", n);
    for (int i = 0; i < info->n_classes; i++)
        if (!*info->classes[i])
            return kd_fail(diag, -KD_EDATA, "%s: class %d of its metadata has no name.", name, i);
    return 0;
}

/* Mean and deviation of pixels from 0 to 1, of each preprocessing. */
static const struct {
    const char *mean, *std;
    double numbers[2][3];
} g_scaling[] = {
    [KD_PRE_UNIT] = {"0,0,0", "1,1,1", {{0, 0, 0}, {1, 1, 1}}},
    [KD_PRE_SYMMETRIC] = {"0.5,0.5,0.5", "0.5,0.5,0.5", {{.5, .5, .5}, {.5, .5, .5}}},
    [KD_PRE_IMAGENET] = {"0.485,0.456,0.406",
                         "0.229,0.224,0.225",
                         {{.485, .456, .406}, {.229, .224, .225}}},
};

void kd_preprocess_scaling(int preprocess, const char **out_mean, const char **out_std)
{
    *out_mean = g_scaling[preprocess].mean;
    *out_std = g_scaling[preprocess].std;
}

/* Three numbers with commas between. */
static bool triple(const char *text, double out[3])
{
    char *end = (char *)(uintptr_t)text;
    for (int i = 0; i < 3; i++) {
        const char *at = i ? end + 1 : end;
        out[i] = strtod(at, &end);
        if (end == at || *end != (i < 2 ? ',' : '\0') || !isfinite(out[i]))
            return false;
    }
    return true;
}

/* Mean and deviation must be those of the preprocessing that is named, or of one that is known. */
static int read_scaling(const char *mean, const char *std, const char *name,
                        kd_model_file_info *info, kd_diag *diag)
{
    double have[2][3];
    if (!mean || !triple(mean, have[0]))
        return refuse(name, "mean", mean ? mean : "", "three numbers with commas between", diag);
    if (!std || !triple(std, have[1]))
        return refuse(name, "std", std ? std : "", "three numbers with commas between", diag);
    for (size_t i = 0; i < KD_COUNT(g_scaling); i++) {
        bool same = !info->has_preprocess || (int)info->preprocess == (int)i;
        for (int k = 0; k < 6; k++)
            same = same && fabs(have[k / 3][k % 3] - g_scaling[i].numbers[k / 3][k % 3]) < 1e-4;
        if (same) {
            info->has_preprocess = true;
            info->preprocess = (enum kd_preprocess)i;
            return 0;
        }
    }
    const char *word = info->has_preprocess ? kd_preprocess_word((int)info->preprocess) : NULL;
    return kd_fail(diag, -KD_EDATA,
                   "%s: its metadata says mean %.60s and std %.60s, which is not %s.", name, mean,
                   std, word ? word : "unit, symmetric or imagenet");
}

/* Pixels a side, 0 where they are not named. */
static int read_side(kd_info_find *find, const void *arg, const char *key, const char *name,
                     int *out, kd_diag *diag)
{
    double value = 0;
    const char *text = find(arg, key);
    if (text && (!number(text, 1, 4096, &value) || value != floor(value)))
        return refuse(name, key, text, "a whole number in 1..4096", diag);
    *out = (int)value;
    return 0;
}

static int read_picture(kd_info_find *find, const void *arg, const char *name,
                        kd_model_file_info *info, kd_diag *diag)
{
    const char *text, *mean = find(arg, "mean"), *std = find(arg, "std");
    int at;
    if ((text = find(arg, "padding"))) {
        if ((at = word(text, paddings, KD_COUNT(paddings))) < 0)
            return refuse(name, "padding", text, "tf or torch", diag);
        info->has_padding = true;
        info->pad_tf = at == 1;
    }
    if ((text = find(arg, "preprocess"))) {
        if ((at = kd_preprocess_of(text)) < 0)
            return refuse(name, "preprocess", text, "unit, symmetric or imagenet", diag);
        info->has_preprocess = true;
        info->preprocess = (enum kd_preprocess)at;
    }
    if ((text = find(arg, "channels"))) {
        info->grey = strcmp(text, "grey") == 0;
        if (!info->grey && strcmp(text, "rgb") != 0)
            return refuse(name, "channels", text, "rgb or grey", diag);
    }
    int rc = read_side(find, arg, "size", name, &info->size, diag);
    if (!rc)
        rc = read_side(find, arg, "resized_from", name, &info->resized_from, diag);
    return rc || (!mean && !std) ? rc : read_scaling(mean, std, name, info, diag);
}

/* Text without control characters that fits out. */
static int read_text(kd_info_find *find, const void *arg, const char *key, const char *name,
                     char *out, size_t size, kd_diag *diag)
{
    const char *text = find(arg, key);
    if (!text)
        return 0;
    bool plain = strlen(text) < size;
    for (const char *c = text; *c && plain; c++)
        plain = (unsigned char)*c >= 0x20 && *c != 0x7f;
    if (!plain)
        return refuse(name, key, text, "a short text without control characters", diag);
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

static int read_digest(kd_info_find *find, const void *arg, const char *key, const char *name,
                       char out[KD_DIGEST_HEX], kd_diag *diag)
{
    const char *text = find(arg, key);
    kd_digest d;
    if (!text || !*text)
        return 0;
    if (!kd_digest_parse(text, &d))
        return refuse(name, key, text, "32 hexadecimal digits", diag);
    kd_digest_hex(&d, out);
    return 0;
}

static int read_info(kd_info_find *find, const void *arg, const char *name,
                     kd_model_file_info *info, kd_diag *diag)
{
    const char *text;
    int rc = read_picture(find, arg, name, info, diag);
    if (!rc && (text = find(arg, "label_smoothing")) &&
        (!number(text, 0, 1, &info->label_smoothing) || info->label_smoothing >= 1))
        rc = refuse(name, "label_smoothing", text, "a number in [0, 1)", diag);
    if (!rc && (text = find(arg, "distilld.weights"))) {
        const bool known = strcmp(text, kd_half_name(KD_HALF_FLOAT16)) == 0;
        info->half = known ? KD_HALF_FLOAT16 : KD_HALF_BFLOAT16;
        if (!known && strcmp(text, kd_half_name(KD_HALF_BFLOAT16)) != 0)
            rc = refuse(name, "distilld.weights", text, "float16 or bfloat16", diag);
    }
    if (!rc)
        rc = read_text(find, arg, "model", name, info->model, sizeof info->model, diag);
    if (!rc)
        rc = read_text(find, arg, "distilld.job", name, info->job, sizeof info->job, diag);
    if (!rc)
        rc = read_text(find, arg, "distilld.teacher", name, info->teacher, sizeof info->teacher,
                       diag);
    if (!rc)
        rc = read_text(find, arg, "distilld.calibration", name, info->calibration,
                       sizeof info->calibration, diag);
    if (!rc)
        rc = read_digest(find, arg, "distilld.digest", name, info->digest, diag);
    if (!rc)
        rc = read_digest(find, arg, "distilld.data", name, info->data, diag);
    if (!rc && (text = find(arg, "classes")) && *text)
        rc = read_classes(text, name, info, diag);
    return rc;
}

int kd_model_file_info_of(kd_info_find *find, const void *arg, const char *name,
                          kd_model_file_info *out, kd_diag *diag)
{
    kd_model_file_info info = {0};
    const int rc = read_info(find, arg, name, &info, diag);
    if (rc)
        kd_model_file_info_clear(&info);
    else
        *out = info;
    return rc;
}

static const char *find_in_safetensors(const void *arg, const char *key)
{
    return kd_st_metadata(arg, key);
}

int kd_model_file_info_read(const void *file, size_t len, const char *name, kd_model_file_info *out,
                            kd_diag *diag)
{
    kd_st_file *f;
    int rc = kd_st_open_memory(file, len, name, &f, diag);
    if (rc)
        return rc;
    rc = kd_model_file_info_of(find_in_safetensors, f, name, out, diag);
    kd_st_close(f);
    return rc;
}

void kd_model_file_info_clear(kd_model_file_info *info)
{
    kd_class_names_free(info->classes, info->n_classes);
    *info = (kd_model_file_info){0};
}

int kd_model_file_info_check(const kd_model_file_info *info, const char *name, const char *model,
                             bool pad_tf, enum kd_preprocess preprocess, kd_diag *diag)
{
    if (info->has_padding && info->pad_tf != pad_tf && kd_model_has_padding(model))
        return kd_fail(diag, -KD_EINVAL,
                       "%s was made for padding %s, but the network has padding %s; set `padding: "
                       "%s` beside its `weights`",
                       name, paddings[info->pad_tf], paddings[pad_tf], paddings[info->pad_tf]);
    if (info->has_preprocess && info->preprocess != preprocess)
        return kd_fail(diag, -KD_EINVAL,
                       "%s expects pixels as `preprocess: %s` makes them, but the network is given "
                       "`%s`; set `preprocess: %s` beside its `weights`",
                       name, kd_preprocess_word((int)info->preprocess),
                       kd_preprocess_word((int)preprocess),
                       kd_preprocess_word((int)info->preprocess));
    return 0;
}

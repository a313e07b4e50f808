#include "models/loaded.h"
#include "models/models.h"
#include "store/safetensors.h"

#include <math.h>
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

static int read_info(const kd_st_file *f, const char *name, kd_model_file_info *info, kd_diag *diag)
{
    const char *text;
    int at;
    double value;
    if ((text = kd_st_metadata(f, "padding"))) {
        if ((at = word(text, paddings, KD_COUNT(paddings))) < 0)
            return refuse(name, "padding", text, "tf or torch", diag);
        info->has_padding = true;
        info->pad_tf = at == 1;
    }
    if ((text = kd_st_metadata(f, "preprocess"))) {
        if ((at = kd_preprocess_of(text)) < 0)
            return refuse(name, "preprocess", text, "unit, symmetric or imagenet", diag);
        info->has_preprocess = true;
        info->preprocess = (enum kd_preprocess)at;
    }
    if ((text = kd_st_metadata(f, "label_smoothing"))) {
        if (!number(text, 0, 1, &info->label_smoothing) || info->label_smoothing >= 1)
            return refuse(name, "label_smoothing", text, "a number in [0, 1)", diag);
    }
    if ((text = kd_st_metadata(f, "size"))) {
        if (!number(text, 1, 4096, &value) || value != floor(value))
            return refuse(name, "size", text, "a whole number in 1..4096", diag);
        info->size = (int)value;
    }
    if ((text = kd_st_metadata(f, "classes")) && *text)
        return read_classes(text, name, info, diag);
    return 0;
}

int kd_model_file_info_read(const void *file, size_t len, const char *name, kd_model_file_info *out,
                            kd_diag *diag)
{
    kd_st_file *f;
    kd_model_file_info info = {0};
    int rc = kd_st_open_memory(file, len, name, &f, diag);
    if (rc)
        return rc;
    rc = read_info(f, name, &info, diag);
    kd_st_close(f);
    if (rc)
        kd_model_file_info_clear(&info);
    else
        *out = info;
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

#include "models/zoo.h"

#include <stdio.h>
#include <string.h>

#define MAX_HIDDEN 16
#define MAX_UNITS 65536
#define MAX_SIZE 4096

enum { HAS_WIDTH = 1, HAS_PADDING = 2, HAS_HIDDEN = 4, HAS_LAYERS = 8 };

static const struct network {
    const char *name;
    int (*build)(const kd_model_config *cfg, kd_graph *g);
    unsigned has;
} zoo[] = {
    {"shallow_cnn", kd_shallow_cnn, 0},
    {"shallow_cnn_deep", kd_shallow_cnn_deep, 0},
    {"cheap_cnn", kd_cheap_cnn, HAS_WIDTH},
    {"lenet", kd_lenet, 0},
    {"mlp", kd_mlp, HAS_HIDDEN},
    {"mobilenet_v2", kd_mobilenet_v2, HAS_WIDTH | HAS_PADDING},
    {"efficientnet_b0", kd_efficientnet_b0, HAS_PADDING},
    {"resnet18", kd_resnet18, 0},
    {"resnet34", kd_resnet34, 0},
    {"resnet50", kd_resnet50, 0},
    {"layers", kd_layers, HAS_LAYERS},
};

static const struct network *find(const char *model)
{
    for (size_t i = 0; i < KD_COUNT(zoo); i++)
        if (strcmp(zoo[i].name, model) == 0)
            return &zoo[i];
    return NULL;
}

static int check_hidden(const kd_model_config *cfg, kd_diag *diag)
{
    if (cfg->n_hidden < 0 || cfg->n_hidden > MAX_HIDDEN)
        return kd_fail(diag, -KD_EINVAL, "%d hidden layers are not in 0..%d", cfg->n_hidden,
                       MAX_HIDDEN);
    for (int i = 0; i < cfg->n_hidden; i++)
        if (cfg->hidden[i] < 1 || cfg->hidden[i] > MAX_UNITS)
            return kd_fail(diag, -KD_EINVAL, "a hidden layer of %d is not in 1..%d", cfg->hidden[i],
                           MAX_UNITS);
    return 0;
}

static int check_range(const char *what, int layer, int value, int low, int high, kd_diag *diag)
{
    return value >= low && value <= high
               ? 0
               : kd_fail(diag, -KD_EINVAL, "layers.%d: %s %d is not in %d..%d", layer, what, value,
                         low, high);
}

static int check_layer(const kd_layer_spec *l, int i, kd_diag *diag)
{
    const bool conv = l->kind == KD_LAYER_CONV;
    int rc = 0;
    if (conv || l->kind == KD_LAYER_DENSE)
        rc = check_range("channels", i, l->channels, 1, MAX_UNITS, diag);
    if (!rc && conv)
        rc = check_range("groups", i, l->groups, 1, MAX_UNITS, diag);
    if (conv || l->kind == KD_LAYER_MAX_POOL || l->kind == KD_LAYER_AVG_POOL) {
        if (!rc)
            rc = check_range("kernel", i, l->kernel, 1, MAX_SIZE, diag);
        if (!rc)
            rc = check_range("stride", i, l->stride, 1, MAX_SIZE, diag);
        if (!rc)
            rc = check_range("pad", i, l->pad, -1, MAX_SIZE, diag);
    }
    if (!rc && l->kind == KD_LAYER_DROPOUT && !(l->rate >= 0 && l->rate < 1))
        rc = kd_fail(diag, -KD_EINVAL, "layers.%d: a dropout rate of %g is not in [0, 1)", i,
                     l->rate);
    return rc;
}

static int check_layers(const kd_model_config *cfg, kd_diag *diag)
{
    if (cfg->n_layers < 1 || cfg->n_layers > KD_MAX_LAYERS)
        return kd_fail(diag, -KD_EINVAL, "%d layers are not in 1..%d; list them under `layers`",
                       cfg->n_layers, KD_MAX_LAYERS);
    int rc = 0;
    for (int i = 0; i < cfg->n_layers && !rc; i++)
        rc = check_layer(&cfg->layers[i], i, diag);
    return rc;
}

static int check(const kd_model_config *cfg, unsigned has, kd_diag *diag)
{
    if (cfg->channels != 1 && cfg->channels != 3)
        return kd_fail(diag, -KD_EINVAL, "pictures have 1 or 3 channels, not %d", cfg->channels);
    if (cfg->size < 1 || cfg->size > MAX_SIZE)
        return kd_fail(diag, -KD_EINVAL, "an image size of %d is not in 1..%d", cfg->size,
                       MAX_SIZE);
    if (cfg->classes < 2 || cfg->classes > MAX_UNITS)
        return kd_fail(diag, -KD_EINVAL, "%d classes are not in 2..%d", cfg->classes, MAX_UNITS);
    if ((has & HAS_WIDTH) && !(cfg->width >= 0.05 && cfg->width <= 4))
        return kd_fail(diag, -KD_EINVAL, "a width of %g is not in 0.05..4", cfg->width);
    if (!(cfg->dropout >= 0 && cfg->dropout < 1))
        return kd_fail(diag, -KD_EINVAL, "a dropout of %g is not in [0, 1)", cfg->dropout);
    if (!(cfg->drop_path >= 0 && cfg->drop_path < 1))
        return kd_fail(diag, -KD_EINVAL, "a drop_path of %g is not in [0, 1)", cfg->drop_path);
    int rc = has & HAS_HIDDEN ? check_hidden(cfg, diag) : 0;
    return !rc && (has & HAS_LAYERS) ? check_layers(cfg, diag) : rc;
}

static int unknown(const char *model, kd_diag *diag)
{
    char names[256];
    size_t at = 0;
    for (size_t i = 0; i < KD_COUNT(zoo) && at < sizeof names; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s",
                               i == 0                   ? ""
                               : i + 1 == KD_COUNT(zoo) ? " and "
                                                        : ", ",
                               zoo[i].name);
    return kd_fail(diag, -KD_EINVAL, "There is no model %.60s; there are %s.", model, names);
}

int kd_model_build(const kd_model_config *cfg, kd_graph **out, kd_diag *diag)
{
    const struct network *network = find(cfg->model);
    if (!network)
        return unknown(cfg->model, diag);
    kd_graph *g = NULL;
    int rc = check(cfg, network->has, diag);
    if (!rc) {
        g = kd_graph_new(cfg->size, cfg->size, cfg->channels);
        rc = kd_graph_finish(g, network->build(cfg, g), diag);
    }
    if (rc) {
        kd_graph_free(g);
        return kd_fail_at(diag, rc, "model %s", cfg->model);
    }
    *out = g;
    return 0;
}

bool kd_model_has_padding(const char *model)
{
    const struct network *network = find(model);
    return network && (network->has & HAS_PADDING);
}

kd_model_config kd_model_config_of(const kd_model_spec *m, int size, int classes)
{
    return (kd_model_config){.model = m->model,
                             .width = m->width,
                             .hidden = m->hidden,
                             .n_hidden = m->n_hidden,
                             .layers = m->layers,
                             .n_layers = m->n_layers,
                             .dropout = m->dropout,
                             .drop_path = m->drop_path,
                             .pad_tf = m->padding == KD_PAD_TF,
                             .size = size,
                             .channels = 3,
                             .classes = classes};
}

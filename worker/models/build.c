#include "models/zoo.h"

#include <string.h>

#define MAX_HIDDEN 16
#define MAX_UNITS 65536

static const struct {
    const char *name;
    int (*build)(const kd_model_config *cfg, kd_graph *g);
} zoo[] = {{"shallow_cnn", kd_shallow_cnn}, {"mlp", kd_mlp}, {"mobilenet_v2", kd_mobilenet_v2}};

static int check(const kd_model_config *cfg, kd_diag *diag)
{
    if (cfg->channels != 1 && cfg->channels != 3)
        return kd_fail(diag, -KD_EINVAL, "pictures have 1 or 3 channels, not %d", cfg->channels);
    if (cfg->size < 1 || cfg->size > 4096)
        return kd_fail(diag, -KD_EINVAL, "an image size of %d is not in 1..4096", cfg->size);
    if (cfg->classes < 2 || cfg->classes > MAX_UNITS)
        return kd_fail(diag, -KD_EINVAL, "%d classes are not in 2..%d", cfg->classes, MAX_UNITS);
    if (strcmp(cfg->model, "mobilenet_v2") == 0 && !(cfg->width >= 0.05 && cfg->width <= 4))
        return kd_fail(diag, -KD_EINVAL, "a width of %g is not in 0.05..4", cfg->width);
    if (strcmp(cfg->model, "mlp") == 0) {
        if (cfg->n_hidden < 0 || cfg->n_hidden > MAX_HIDDEN)
            return kd_fail(diag, -KD_EINVAL, "%d hidden layers are not in 0..%d", cfg->n_hidden,
                           MAX_HIDDEN);
        for (int i = 0; i < cfg->n_hidden; i++)
            if (cfg->hidden[i] < 1 || cfg->hidden[i] > MAX_UNITS)
                return kd_fail(diag, -KD_EINVAL, "a hidden layer of %d is not in 1..%d",
                               cfg->hidden[i], MAX_UNITS);
    }
    return 0;
}

int kd_model_build(const kd_model_config *cfg, kd_graph **out, kd_diag *diag)
{
    for (size_t i = 0; i < KD_COUNT(zoo); i++) {
        if (strcmp(zoo[i].name, cfg->model) != 0)
            continue;
        kd_graph *g = NULL;
        int rc = check(cfg, diag);
        if (!rc) {
            g = kd_graph_new(cfg->size, cfg->size, cfg->channels);
            rc = kd_graph_finish(g, zoo[i].build(cfg, g), diag);
        }
        if (rc) {
            kd_graph_free(g);
            return kd_fail_at(diag, rc, "model %s", cfg->model);
        }
        *out = g;
        return 0;
    }
    return kd_fail(diag, -KD_EINVAL,
                   "There is no model %.60s; there are shallow_cnn, mlp and mobilenet_v2.",
                   cfg->model);
}

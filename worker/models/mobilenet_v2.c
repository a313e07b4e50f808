#include "models/zoo.h"

#include <stdio.h>

static void conv(kd_zoo *z, const char *name, int channels, int kernel, int stride, int groups)
{
    kd_zoo_conv(z, name, channels, kernel, stride, groups, KD_INIT_HE_NORMAL_OUT);
}

/* PREFIX.0 convolution, PREFIX.1 batch norm, ReLU6. */
static void unit(kd_zoo *z, const char *prefix, int channels, int kernel, int stride, int groups)
{
    char name[96];
    snprintf(name, sizeof name, "%s.0", prefix);
    conv(z, name, channels, kernel, stride, groups);
    snprintf(name, sizeof name, "%s.1", prefix);
    kd_zoo_norm(z, name);
    z->at = kd_graph_relu6(z->g, z->at);
}

/* Inverted residual, features.I.conv. */
static void block(kd_zoo *z, int index, int in, int out, int stride, int expand)
{
    const int start = z->at, middle = in * expand;
    char name[64];
    int part = 0;
    if (expand != 1) {
        snprintf(name, sizeof name, "features.%d.conv.%d", index, part++);
        unit(z, name, middle, 1, 1, 1);
    }
    snprintf(name, sizeof name, "features.%d.conv.%d", index, part++);
    unit(z, name, middle, 3, stride, middle);
    snprintf(name, sizeof name, "features.%d.conv.%d", index, part++);
    conv(z, name, out, 1, 1, 1);
    snprintf(name, sizeof name, "features.%d.conv.%d", index, part);
    kd_zoo_norm(z, name);
    if (stride == 1 && in == out)
        z->at = kd_graph_add(z->g, z->at, start);
}

int kd_mobilenet_v2(const kd_model_config *cfg, kd_graph *g)
{
    /* Sandler et al. 2018, table 2. */
    static const struct {
        int expand, channels, repeat, stride;
    } rows[] = {{1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
                {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};
    kd_zoo z = {.cfg = cfg, .g = g, .pad_tf = cfg->pad_tf};
    int channels = kd_zoo_divisible(32 * cfg->width), index = 1;
    unit(&z, "features.0", channels, 3, 2, 1);
    for (size_t r = 0; r < KD_COUNT(rows); r++)
        for (int i = 0; i < rows[r].repeat; i++) {
            const int out = kd_zoo_divisible(rows[r].channels * cfg->width);
            block(&z, index++, channels, out, i == 0 ? rows[r].stride : 1, rows[r].expand);
            channels = out;
        }
    char name[32];
    snprintf(name, sizeof name, "features.%d", index);
    unit(&z, name, kd_zoo_divisible(1280 * KD_MAX(1.0, cfg->width)), 1, 1, 1);
    return kd_zoo_head(cfg, g, kd_graph_global_avg_pool(g, z.at), "classifier.1",
                       KD_INIT_NORMAL_001);
}

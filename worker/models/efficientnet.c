#include "models/zoo.h"

#include <stdio.h>

/* Layer `part` of a block: PREFIX.P.0 convolution, PREFIX.P.1 batch norm. */
static void unit(kd_zoo *z, const char *prefix, int part, int channels, int kernel, int stride,
                 int groups)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%d.0", prefix, part);
    kd_zoo_conv(z, name, channels, kernel, stride, groups, KD_INIT_HE_NORMAL_OUT);
    snprintf(name, sizeof name, "%s.%d.1", prefix, part);
    kd_zoo_norm(z, name);
}

static void silu(kd_zoo *z)
{
    z->at = kd_graph_silu(z->g, z->at);
}

/* Scales each channel by a gate made of all channels' means (Hu et al. 2018): PREFIX.P.fc1 and fc2
 * are 1x1 convolutions with bias, as torchvision stores them. */
static void squeeze_excite(kd_zoo *z, const char *prefix, int part, int channels, int squeezed)
{
    static const int none[4] = {0, 0, 0, 0};
    const int features = z->at;
    char name[96];
    int x = kd_graph_global_avg_pool(z->g, features);
    snprintf(name, sizeof name, "%s.%d.fc1", prefix, part);
    x = kd_graph_conv(z->g, x, name, squeezed, 1, 1, none, 1, true, KD_INIT_HE_NORMAL_OUT);
    x = kd_graph_silu(z->g, x);
    snprintf(name, sizeof name, "%s.%d.fc2", prefix, part);
    x = kd_graph_conv(z->g, x, name, channels, 1, 1, none, 1, true, KD_INIT_HE_NORMAL_OUT);
    z->at = kd_graph_mul(z->g, features, kd_graph_sigmoid(z->g, x));
}

typedef struct {
    int expand, kernel, stride, channels, repeat;
} row;

/* Inverted residual with squeeze-excite, number `index` of `total` in the network. */
static void block(kd_zoo *z, const char *prefix, const row *r, int in, int stride, int index,
                  int total)
{
    const int start = z->at, middle = in * r->expand;
    int part = 0;
    if (r->expand != 1) {
        unit(z, prefix, part++, middle, 1, 1, 1);
        silu(z);
    }
    unit(z, prefix, part++, middle, r->kernel, stride, middle);
    silu(z);
    squeeze_excite(z, prefix, part++, middle, KD_MAX(1, in / 4));
    unit(z, prefix, part, r->channels, 1, 1, 1);
    if (stride == 1 && in == r->channels) {
        kd_zoo_drop_path(z, index, total);
        z->at = kd_graph_add(z->g, z->at, start);
    }
}

int kd_efficientnet_b0(const kd_model_config *cfg, kd_graph *g)
{
    /* Tan and Le 2019, table 1. */
    static const row rows[] = {{1, 3, 1, 16, 1}, {6, 3, 2, 24, 2},  {6, 5, 2, 40, 2},
                               {6, 3, 2, 80, 3}, {6, 5, 1, 112, 3}, {6, 5, 2, 192, 4},
                               {6, 3, 1, 320, 1}};
    kd_zoo z = {.cfg = cfg, .g = g, .pad_tf = cfg->pad_tf};
    char name[64];
    int channels = 32, index = 0, total = 0;
    for (size_t r = 0; r < KD_COUNT(rows); r++)
        total += rows[r].repeat;
    unit(&z, "features", 0, channels, 3, 2, 1);
    silu(&z);
    for (size_t r = 0; r < KD_COUNT(rows); r++)
        for (int i = 0; i < rows[r].repeat; i++) {
            snprintf(name, sizeof name, "features.%d.%d.block", (int)r + 1, i);
            block(&z, name, &rows[r], channels, i == 0 ? rows[r].stride : 1, index++, total);
            channels = rows[r].channels;
        }
    unit(&z, "features", (int)KD_COUNT(rows) + 1, 4 * channels, 1, 1, 1);
    silu(&z);
    return kd_zoo_head(cfg, g, kd_graph_global_avg_pool(g, z.at), "classifier.1",
                       KD_INIT_UNIFORM_OUT);
}

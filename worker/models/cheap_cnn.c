#include "models/zoo.h"

#include <stdio.h>

static void relu(kd_zoo *z)
{
    z->at = kd_graph_relu(z->g, z->at);
}

/* Depthwise 3x3 and pointwise convolution, each with batch norm and ReLU (Howard et al. 2017), with
 * a shortcut around both where the shape stays. */
static void block(kd_zoo *z, int index, int channels, int stride)
{
    const int start = z->at;
    if (start < 0)
        return;
    const int in = z->g->nodes[start].c;
    char name[64];
    snprintf(name, sizeof name, "blocks.%d.depthwise", index);
    kd_zoo_conv(z, name, in, 3, stride, in, KD_INIT_HE_NORMAL);
    snprintf(name, sizeof name, "blocks.%d.depthwise_bn", index);
    kd_zoo_norm(z, name);
    relu(z);
    snprintf(name, sizeof name, "blocks.%d.pointwise", index);
    kd_zoo_conv(z, name, channels, 1, 1, 1, KD_INIT_HE_NORMAL);
    snprintf(name, sizeof name, "blocks.%d.pointwise_bn", index);
    kd_zoo_norm(z, name);
    if (stride == 1 && in == channels)
        z->at = kd_graph_add(z->g, z->at, start);
    relu(z);
}

/* Where MobileNetV2 widens its large maps sixfold, this network has a sixteenth of the pixels
 * before it has 32 channels: few values to move, which is what depthwise layers cost on a CPU. */
int kd_cheap_cnn(const kd_model_config *cfg, kd_graph *g)
{
    static const struct {
        int channels, stride;
    } rows[] = {{32, 2}, {64, 2}, {64, 1}, {128, 2}, {128, 1}, {128, 1}, {256, 2}, {256, 1}};
    kd_zoo z = {.cfg = cfg, .g = g};
    kd_zoo_conv(&z, "stem", kd_zoo_divisible(16 * cfg->width), 3, 2, 1, KD_INIT_HE_NORMAL);
    kd_zoo_norm(&z, "stem_bn");
    relu(&z);
    for (size_t i = 0; i < KD_COUNT(rows); i++)
        block(&z, (int)i, kd_zoo_divisible(rows[i].channels * cfg->width), rows[i].stride);
    return kd_zoo_head(cfg, g, kd_graph_global_avg_pool(g, z.at), "classifier", KD_INIT_NORMAL_001);
}

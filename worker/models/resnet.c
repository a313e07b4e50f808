#include "models/zoo.h"

#include <stdio.h>

/* He et al. 2016, table 1: blocks of each of the four stages. */
typedef struct {
    int blocks[4];
    bool bottleneck;
} shape;

static void conv(kd_zoo *z, const char *prefix, const char *name, int channels, int kernel,
                 int stride)
{
    char full[96];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    kd_zoo_conv(z, full, channels, kernel, stride, 1, KD_INIT_HE_NORMAL_OUT);
}

static void norm(kd_zoo *z, const char *prefix, const char *name)
{
    char full[96];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    kd_zoo_norm(z, full);
}

static void relu(kd_zoo *z)
{
    z->at = kd_graph_relu(z->g, z->at);
}

/* The residual branch. A bottleneck strides in its 3x3 layer, not in the first 1x1 one as the paper
 * does: torchvision's choice, known as v1.5. */
static void branch(kd_zoo *z, const char *prefix, bool bottleneck, int width, int out, int stride)
{
    conv(z, prefix, "conv1", width, bottleneck ? 1 : 3, bottleneck ? 1 : stride);
    norm(z, prefix, "bn1");
    relu(z);
    conv(z, prefix, "conv2", width, 3, bottleneck ? stride : 1);
    norm(z, prefix, "bn2");
    if (!bottleneck)
        return;
    relu(z);
    conv(z, prefix, "conv3", out, 1, 1);
    norm(z, prefix, "bn3");
}

/* Block `index` of `total` in the network. */
static void block(kd_zoo *z, const char *prefix, bool bottleneck, int width, int stride, int index,
                  int total)
{
    const int start = z->at, out = bottleneck ? 4 * width : width;
    if (start < 0)
        return;
    int shortcut = start;
    if (stride != 1 || z->g->nodes[start].c != out) {
        conv(z, prefix, "downsample.0", out, 1, stride);
        norm(z, prefix, "downsample.1");
        shortcut = z->at;
        z->at = start;
    }
    branch(z, prefix, bottleneck, width, out, stride);
    kd_zoo_drop_path(z, index, total);
    z->at = kd_graph_add(z->g, z->at, shortcut);
    relu(z);
}

static int resnet(const kd_model_config *cfg, kd_graph *g, const shape *s)
{
    kd_zoo z = {.cfg = cfg, .g = g};
    char prefix[32];
    int index = 0, total = 0;
    conv(&z, "", "conv1", 64, 7, 2);
    norm(&z, "", "bn1");
    relu(&z);
    z.at = kd_graph_pool(
        g, z.at,
        &(kd_pool_spec){
            .kernel_h = 3, .kernel_w = 3, .stride_h = 2, .stride_w = 2, .pad = {1, 1, 1, 1}});
    for (int stage = 0; stage < 4; stage++)
        total += s->blocks[stage];
    for (int stage = 0; stage < 4; stage++)
        for (int i = 0; i < s->blocks[stage]; i++) {
            snprintf(prefix, sizeof prefix, "layer%d.%d.", stage + 1, i);
            block(&z, prefix, s->bottleneck, 64 << stage, stage > 0 && i == 0 ? 2 : 1, index++,
                  total);
        }
    const int head =
        kd_zoo_head(cfg, g, kd_graph_global_avg_pool(g, z.at), "fc", KD_INIT_TORCH_UNIFORM);
    if (head < 0)
        return -1;
    /* torch.nn.Linear draws the bias as the weight. */
    kd_param *bias = &g->params[g->nodes[head].bias];
    bias->init = KD_INIT_TORCH_UNIFORM;
    bias->fan_in = g->params[g->nodes[head].weight].fan_in;
    return head;
}

int kd_resnet18(const kd_model_config *cfg, kd_graph *g)
{
    return resnet(cfg, g, &(shape){{2, 2, 2, 2}, false});
}

int kd_resnet34(const kd_model_config *cfg, kd_graph *g)
{
    return resnet(cfg, g, &(shape){{3, 4, 6, 3}, false});
}

int kd_resnet50(const kd_model_config *cfg, kd_graph *g)
{
    return resnet(cfg, g, &(shape){{3, 4, 6, 3}, true});
}

#include "models/zoo.h"

int kd_zoo_divisible(double v)
{
    const int rounded = KD_MAX(8, (int)(v + 4) / 8 * 8);
    return rounded < 0.9 * v ? rounded + 8 : rounded;
}

void kd_zoo_same(int size, int kernel, int stride, int *before, int *after)
{
    const int covered = ((size + stride - 1) / stride - 1) * stride + kernel;
    const int total = KD_MAX(covered - size, 0);
    *before = total / 2;
    *after = total - total / 2;
}

void kd_zoo_conv(kd_zoo *z, const char *name, int channels, int kernel, int stride, int groups,
                 enum kd_param_init init)
{
    const int side = kernel / 2;
    int pad[4] = {side, side, side, side};
    if (z->at >= 0 && z->pad_tf) {
        const kd_node *in = &z->g->nodes[z->at];
        kd_zoo_same(in->h, kernel, stride, &pad[0], &pad[2]);
        kd_zoo_same(in->w, kernel, stride, &pad[1], &pad[3]);
    }
    z->at = kd_graph_conv(z->g, z->at, name, channels, kernel, stride, pad, groups, false, init);
}

void kd_zoo_norm(kd_zoo *z, const char *name)
{
    z->at = kd_graph_batch_norm(z->g, z->at, name, z->pad_tf ? 1e-3f : 1e-5f);
}

int kd_zoo_head(const kd_model_config *cfg, kd_graph *g, int in, const char *name,
                enum kd_param_init init)
{
    if (cfg->dropout > 0)
        in = kd_graph_dropout(g, in, (float)cfg->dropout);
    return kd_graph_dense(g, in, name, cfg->classes, true, init);
}

void kd_zoo_drop_path(kd_zoo *z, int index, int total)
{
    const double rate = z->cfg->drop_path * index / total;
    if (rate > 0)
        z->at = kd_graph_drop_path(z->g, z->at, (float)rate);
}

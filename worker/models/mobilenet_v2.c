#include "models/zoo.h"

#include <stdio.h>

typedef struct {
    const kd_model_config *cfg;
    kd_graph *g;
    int at; /* last node */
} builder;

/* Nearest multiple of 8, at least 8, and never more than 10 % below v: torchvision's
 * _make_divisible, from the authors' TensorFlow code. */
static int divisible(double v)
{
    const int rounded = KD_MAX(8, (int)(v + 4) / 8 * 8);
    return rounded < 0.9 * v ? rounded + 8 : rounded;
}

/* Padding before and after one side of `size` pixels for a 3x3 kernel. TensorFlow's "SAME" puts the
 * odd pixel behind: with stride 2 nothing before an even side and one pixel after it. */
static void padding(bool tf, int size, int stride, int *before, int *after)
{
    *before = *after = 1;
    if (!tf)
        return;
    const int covered = ((size + stride - 1) / stride - 1) * stride + 3;
    const int total = KD_MAX(covered - size, 0);
    *before = total / 2;
    *after = total - total / 2;
}

/* Convolution `name` without bias, padded so that it keeps the size or divides it by the stride. */
static void conv(builder *b, const char *name, int channels, int kernel, int stride, int groups)
{
    int pad[4] = {0};
    if (b->at >= 0 && kernel == 3) {
        const kd_node *in = &b->g->nodes[b->at];
        padding(b->cfg->pad_tf, in->h, stride, &pad[0], &pad[2]);
        padding(b->cfg->pad_tf, in->w, stride, &pad[1], &pad[3]);
    }
    b->at = kd_graph_conv(b->g, b->at, name, channels, kernel, stride, pad, groups, false,
                          KD_INIT_HE_NORMAL_OUT);
}

static void norm(builder *b, const char *name)
{
    b->at = kd_graph_batch_norm(b->g, b->at, name, b->cfg->pad_tf ? 1e-3f : 1e-5f);
}

/* PREFIX.0 convolution, PREFIX.1 batch norm, ReLU6. */
static void unit(builder *b, const char *prefix, int channels, int kernel, int stride, int groups)
{
    char name[96];
    snprintf(name, sizeof name, "%s.0", prefix);
    conv(b, name, channels, kernel, stride, groups);
    snprintf(name, sizeof name, "%s.1", prefix);
    norm(b, name);
    b->at = kd_graph_relu6(b->g, b->at);
}

/* Inverted residual, features.I.conv. */
static void block(builder *b, int index, int in, int out, int stride, int expand)
{
    const int start = b->at, middle = in * expand;
    char name[64];
    int part = 0;
    if (expand != 1) {
        snprintf(name, sizeof name, "features.%d.conv.%d", index, part++);
        unit(b, name, middle, 1, 1, 1);
    }
    snprintf(name, sizeof name, "features.%d.conv.%d", index, part++);
    unit(b, name, middle, 3, stride, middle);
    snprintf(name, sizeof name, "features.%d.conv.%d", index, part++);
    conv(b, name, out, 1, 1, 1);
    snprintf(name, sizeof name, "features.%d.conv.%d", index, part);
    norm(b, name);
    if (stride == 1 && in == out)
        b->at = kd_graph_add(b->g, b->at, start);
}

int kd_mobilenet_v2(const kd_model_config *cfg, kd_graph *g)
{
    /* Sandler et al. 2018, table 2. */
    static const struct {
        int expand, channels, repeat, stride;
    } rows[] = {{1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
                {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};
    builder b = {.cfg = cfg, .g = g};
    int channels = divisible(32 * cfg->width), index = 1;
    unit(&b, "features.0", channels, 3, 2, 1);
    for (size_t r = 0; r < KD_COUNT(rows); r++)
        for (int i = 0; i < rows[r].repeat; i++) {
            const int out = divisible(rows[r].channels * cfg->width);
            block(&b, index++, channels, out, i == 0 ? rows[r].stride : 1, rows[r].expand);
            channels = out;
        }
    char name[32];
    snprintf(name, sizeof name, "features.%d", index);
    unit(&b, name, divisible(1280 * KD_MAX(1.0, cfg->width)), 1, 1, 1);
    const int pooled = kd_graph_global_avg_pool(g, b.at);
    return kd_graph_dense(g, pooled, "classifier.1", cfg->classes, true, KD_INIT_NORMAL_001);
}

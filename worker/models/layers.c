#include "models/zoo.h"

#include <stdarg.h>
#include <stdio.h>

/* Notes why the graph cannot be built; builders do nothing after that. */
KD_PRINTF(2, 3) static int refuse(kd_graph *g, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(g->error, sizeof g->error, fmt, ap);
    va_end(ap);
    return -1;
}

/* Explicit padding of a layer: its own on all sides, or with -1 what makes ceil(n / stride) of n.
 */
static void padding(const kd_layer_spec *l, const kd_node *in, int pad[4])
{
    for (int i = 0; i < 4; i++)
        pad[i] = l->pad;
    if (l->pad < 0) {
        kd_zoo_same(in->h, l->kernel, l->stride, &pad[0], &pad[2]);
        kd_zoo_same(in->w, l->kernel, l->stride, &pad[1], &pad[3]);
    }
}

static int pool(kd_graph *g, int in, const kd_layer_spec *l)
{
    kd_pool_spec spec = {
        .average = l->kind == KD_LAYER_AVG_POOL,
        .kernel_h = l->kernel,
        .kernel_w = l->kernel,
        .stride_h = l->stride,
        .stride_w = l->stride,
        /* As PyTorch averages with its padding, and TensorFlow without its "SAME" one. */
        .count_pad = l->pad >= 0,
    };
    padding(l, &g->nodes[in], spec.pad);
    return kd_graph_pool(g, in, &spec);
}

static int dense(kd_graph *g, int in, const kd_layer_spec *l, const char *name)
{
    const kd_node *n = &g->nodes[in];
    if (n->h != 1 || n->w != 1)
        return refuse(g,
                      "%s is dense, but its input is still a picture of %dx%dx%d; put flatten or "
                      "global_avg_pool before it",
                      name, n->h, n->w, n->c);
    return kd_graph_dense(g, in, name, l->channels, false, KD_INIT_HE_NORMAL);
}

static int layer(const kd_model_config *cfg, kd_graph *g, int in, const kd_layer_spec *l,
                 const char *name)
{
    int pad[4];
    switch (l->kind) {
    case KD_LAYER_CONV:
        padding(l, &g->nodes[in], pad);
        return kd_graph_conv(g, in, name, l->channels, l->kernel, l->stride, pad, l->groups,
                             l->bias, KD_INIT_HE_NORMAL);
    case KD_LAYER_DENSE:
        return dense(g, in, l, name);
    case KD_LAYER_BATCH_NORM:
        return kd_graph_batch_norm(g, in, name, cfg->pad_tf ? 1e-3f : 1e-5f);
    case KD_LAYER_RELU:
        return kd_graph_relu(g, in);
    case KD_LAYER_RELU6:
        return kd_graph_relu6(g, in);
    case KD_LAYER_SILU:
        return kd_graph_silu(g, in);
    case KD_LAYER_MAX_POOL:
    case KD_LAYER_AVG_POOL:
        return pool(g, in, l);
    case KD_LAYER_GLOBAL_AVG_POOL:
        return kd_graph_global_avg_pool(g, in);
    case KD_LAYER_FLATTEN:
        return kd_graph_flatten(g, in);
    case KD_LAYER_DROPOUT:
        return kd_graph_dropout(g, in, (float)l->rate);
    }
    return refuse(g, "%s is of no known kind", name);
}

int kd_layers(const kd_model_config *cfg, kd_graph *g)
{
    int at = 0;
    for (int i = 0; i < cfg->n_layers && at >= 0; i++) {
        char name[32];
        snprintf(name, sizeof name, "layers.%d", i);
        at = layer(cfg, g, at, &cfg->layers[i], name);
    }
    if (at < 0)
        return -1;
    const kd_node *n = &g->nodes[at];
    if (n->h != 1 || n->w != 1)
        return refuse(
            g,
            "the layers end with a picture of %dx%dx%d; add global_avg_pool or flatten as "
            "the last one, before the dense layer of the classes",
            n->h, n->w, n->c);
    return kd_zoo_head(cfg, g, at, "head", KD_INIT_GLOROT_UNIFORM);
}

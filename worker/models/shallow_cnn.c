#include "models/zoo.h"

static const int valid[4] = {0, 0, 0, 0};

/* 3x3 convolution without padding, and ReLU. The report's notebook starts from He normal here, and
 * leaves the dense layers to Keras's default. */
static int conv(kd_graph *g, int in, const char *name, int channels)
{
    return kd_graph_relu(
        g, kd_graph_conv(g, in, name, channels, 3, 1, valid, 1, true, KD_INIT_HE_NORMAL));
}

static int head(const kd_model_config *cfg, kd_graph *g, int features)
{
    const enum kd_param_init init = KD_INIT_GLOROT_UNIFORM;
    int x = kd_graph_global_avg_pool(g, features);
    x = kd_graph_relu(g, kd_graph_dense(g, x, "fc1", 512, false, init));
    return kd_zoo_head(cfg, g, x, "fc2", init);
}

int kd_shallow_cnn(const kd_model_config *cfg, kd_graph *g)
{
    int x = kd_graph_max_pool(g, conv(g, 0, "conv1", 64), 4);
    return head(cfg, g, conv(g, x, "conv2", 128));
}

/* Pools before each further convolution, which only ever adds channels: the report's notebook calls
 * it get_student_model(deeper=True). */
int kd_shallow_cnn_deep(const kd_model_config *cfg, kd_graph *g)
{
    int x = kd_graph_max_pool(g, conv(g, 0, "conv1", 64), 4);
    x = kd_graph_max_pool(g, conv(g, x, "conv2", 128), 4);
    return head(cfg, g, conv(g, x, "conv3", 256));
}

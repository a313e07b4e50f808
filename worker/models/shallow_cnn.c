#include "models/zoo.h"

int kd_shallow_cnn(const kd_model_config *cfg, kd_graph *g)
{
    static const int valid[4] = {0, 0, 0, 0};
    const enum kd_param_init init = KD_INIT_GLOROT_UNIFORM;
    int x = kd_graph_conv(g, 0, "conv1", 64, 3, 1, valid, 1, true, init);
    x = kd_graph_max_pool(g, kd_graph_relu(g, x), 4);
    x = kd_graph_conv(g, x, "conv2", 128, 3, 1, valid, 1, true, init);
    x = kd_graph_global_avg_pool(g, kd_graph_relu(g, x));
    x = kd_graph_relu(g, kd_graph_dense(g, x, "fc1", 512, false, init));
    return kd_graph_dense(g, x, "fc2", cfg->classes, true, init);
}

#include "models/zoo.h"

/* LeCun et al. 1998, "Gradient-based learning applied to document recognition", section II.B, with
 * the ReLU and max pooling of today instead of tanh and trained averages. */
int kd_lenet(const kd_model_config *cfg, kd_graph *g)
{
    /* The paper puts 28x28 digits onto a field of 32x32; below that size two pixels of padding do
     * the same, so that pictures of 28 and of 32 pixels give the same 61,706 parameters (grey, 10
     * classes). */
    const int edge = cfg->size < 32 ? 2 : 0;
    const int field[4] = {edge, edge, edge, edge}, valid[4] = {0, 0, 0, 0};
    const enum kd_param_init init = KD_INIT_GLOROT_UNIFORM;
    int x = kd_graph_conv(g, 0, "conv1", 6, 5, 1, field, 1, true, init);
    x = kd_graph_max_pool(g, kd_graph_relu(g, x), 2);
    x = kd_graph_conv(g, x, "conv2", 16, 5, 1, valid, 1, true, init);
    x = kd_graph_flatten(g, kd_graph_max_pool(g, kd_graph_relu(g, x), 2));
    x = kd_graph_relu(g, kd_graph_dense(g, x, "fc1", 120, false, init));
    x = kd_graph_relu(g, kd_graph_dense(g, x, "fc2", 84, false, init));
    return kd_zoo_head(cfg, g, x, "fc3", init);
}

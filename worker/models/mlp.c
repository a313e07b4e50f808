#include "models/zoo.h"

#include <stdio.h>

int kd_mlp(const kd_model_config *cfg, kd_graph *g)
{
    const enum kd_param_init init = KD_INIT_GLOROT_UNIFORM;
    char name[16];
    int x = kd_graph_flatten(g, 0);
    for (int i = 0; i < cfg->n_hidden; i++) {
        snprintf(name, sizeof name, "fc%d", i + 1);
        x = kd_graph_relu(g, kd_graph_dense(g, x, name, cfg->hidden[i], false, init));
    }
    snprintf(name, sizeof name, "fc%d", cfg->n_hidden + 1);
    return kd_zoo_head(cfg, g, x, name, init);
}

/* The builders behind kd_model_build, a file each. Internal to models/.
 * A builder writes its nodes into g, whose node 0 is the input, and returns the node of the logits,
 * or -1 with g->error set. cfg is checked already. */
#ifndef KD_MODELS_ZOO_H
#define KD_MODELS_ZOO_H

#include "models/models.h"

int kd_shallow_cnn(const kd_model_config *cfg, kd_graph *g);
int kd_mlp(const kd_model_config *cfg, kd_graph *g);
int kd_mobilenet_v2(const kd_model_config *cfg, kd_graph *g);

#endif

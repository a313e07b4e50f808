#include "models/int8.h"

#include <string.h>

void kd_int8_params(const kd_graph *g, bool *out)
{
    memset(out, 0, (size_t)g->n_params * sizeof *out);
    for (int i = 0; i < g->n_nodes && kd_graph_is_int8(g); i++)
        if (kd_node_has_weights(&g->nodes[i]))
            out[g->nodes[i].weight] = true;
}

static enum kd_st_type type_of(enum kd_half half)
{
    return half == KD_HALF_FLOAT16 ? KD_ST_F16 : half == KD_HALF_BFLOAT16 ? KD_ST_BF16 : KD_ST_F32;
}

void kd_param_types(const kd_graph *g, enum kd_half half, enum kd_st_type *out)
{
    const enum kd_st_type type = kd_graph_is_int8(g) ? KD_ST_I8 : type_of(half);
    for (int i = 0; i < g->n_params; i++)
        out[i] = KD_ST_F32;
    for (int i = 0; i < g->n_nodes; i++)
        if (kd_node_has_weights(&g->nodes[i]))
            out[g->nodes[i].weight] = type;
}

void kd_half_round(const kd_graph *g, enum kd_half half, float *vector)
{
    const enum kd_st_type type = type_of(half);
    for (int i = 0; i < g->n_nodes && type != KD_ST_F32; i++) {
        if (!kd_node_has_weights(&g->nodes[i]))
            continue;
        const kd_param *p = &g->params[g->nodes[i].weight];
        for (size_t k = p->offset; k < p->offset + p->count; k++)
            vector[k] = kd_half_value(kd_half_bits(vector[k], type), type);
    }
}

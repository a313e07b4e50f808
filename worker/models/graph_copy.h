/* Building a graph after the likeness of another: node by node through the builders, so that every
 * shape and parameter is derived again and checked. Internal to models/. Threads: reentrant. */
#ifndef KD_MODELS_GRAPH_COPY_H
#define KD_MODELS_GRAPH_COPY_H

#include "engine/graph.h"

/* What a node's operator and attributes do not say. */
typedef struct kd_node_extra {
    bool bias, head;         /* convolutions; head also of dense layers */
    enum kd_param_init init; /* of the weight or the constant */
} kd_node_extra;

/* Appends a node of like's operator, attributes and (where it has parameters) name, which reads the
 * nodes in[0] and in[1] of g (-1 = none). Padding, slices and reshapes are recovered from like's
 * output shape and that of in[0]. Returns its number, or -1 with g->error set. */
int kd_graph_append(kd_graph *g, const kd_node *like, const int in[2], const kd_node_extra *extra);
/* The extras of node n of g. */
kd_node_extra kd_graph_extra(const kd_graph *g, const kd_node *n);

typedef struct kd_graph_edit {
    const bool *drop_bias; /* [n_nodes]: convolutions that lose their bias; NULL = none */
    int head;              /* dense layer or convolution that is the head; -1 = none */
    int classes;           /* channels of the head; 0 = as they are */
    bool any_output;       /* not a classifier: finish with kd_graph_finish_any */
} kd_graph_edit;
/* The part of g (which needs no finish) that `output` depends on, with the edits. param_of
 * [g->n_params] gets each parameter's number in the new graph, -1 where it has none. Reshapes
 * behind a head of another size follow it; what cannot is refused: -KD_EINVAL. */
int kd_graph_rebuild(const kd_graph *g, int output, const kd_graph_edit *edit, kd_graph **out,
                     int *param_of, kd_diag *diag) KD_MUST_CHECK;
/* The node that makes the logits: the last dense layer or convolution before `output`, with nothing
 * between them but shapes, pools, activations and arithmetic with constants; -1 = there is none. */
int kd_graph_find_head(const kd_graph *g, int output);

#endif

/* What graph.c and graph_build.c share: how a node and a parameter come into being. Internal to
 * engine/. */
#ifndef KD_ENGINE_GRAPH_INTERNAL_H
#define KD_ENGINE_GRAPH_INTERNAL_H

#include "engine/graph.h"

#define KD_GRAPH_NODES 2048 /* most nodes */
#define KD_GRAPH_SIDE 4096  /* longest side of the input, largest kernel, stride, padding */

/* Keeps the first error; returns -1. */
KD_PRINTF(2, 3) int kd_graph_fail(kd_graph *g, const char *fmt, ...);
/* A new node behind `in` (-1 for a constant) with its shape, or NULL after an error. */
kd_node *kd_graph_node(kd_graph *g, enum kd_op op, int in, const char *name);
/* A new parameter "node.suffix" at the vector's end; its number or -1. */
int kd_graph_new_param(kd_graph *g, const char *node, const char *suffix, enum kd_param_kind kind,
                       enum kd_param_init init, int ndim, const int64_t *shape, bool head);

/* A kernel's side, a stride or a dilation. */
static inline bool kd_graph_in_range(int x)
{
    return x >= 1 && x <= KD_GRAPH_SIDE;
}

/* The size of one axis of a and b together; 0 if they do not fit. */
static inline int kd_broadcast(int a, int b)
{
    return a == b || b == 1 ? a : a == 1 ? b : 0;
}

#endif

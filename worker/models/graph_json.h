/* The whole structure of a network as JSON text: nodes with their attributes, parameters with
 * name, shape, kind, start values and whether they belong to the classifier. It travels as metadata
 * of weights, so that a file of weights alone suffices to run its network.
 *
 *   {"format": "distilld graph", "version": 1, "output": 3,
 *    "nodes": [{"op": "input", "shape": [32, 32, 3]},
 *              {"op": "conv", "in": [0], "shape": [30, 30, 8], "name": "conv1", "init": "...",
 *               "kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1], "groups": 1,
 *               "pad": [0, 0, 0, 0], "bias": true, "head": false}, ...],
 *    "params": [{"name": "conv1.weight", "shape": [8, 3, 3, 3], "kind": "trained",
 *                "init": "...", "head": false}, ...]}
 *
 * Shapes of nodes are [h, w, c]. A node whose output is held in 8 bits has a "range" besides: the
 * largest absolute value that they stand for. Threads: reentrant. */
#ifndef KD_MODELS_GRAPH_JSON_H
#define KD_MODELS_GRAPH_JSON_H

#include "engine/graph.h"

#define KD_GRAPH_JSON_MAX (4u << 20)          /* bytes of text that are read */
#define KD_GRAPH_MAX_VECTOR ((size_t)1 << 28) /* floats of a network from a file: 1 GiB */

/* Of a finished graph; compact, the same graph gives the same text. Caller frees; NULL when memory
 * is out. */
char *kd_graph_to_json(const kd_graph *g);
/* "conv", "batch_norm", ... */
const char *kd_op_word(enum kd_op op);
/* A finished classifier. Hostile text is safe: the graph is built again through the builders, and
 * what the text says of shapes and parameters must agree with what they derive. Errors: -KD_EDATA,
 * -KD_ELIMIT. */
int kd_graph_from_json(const char *text, kd_graph **out, kd_diag *diag) KD_MUST_CHECK;

#endif

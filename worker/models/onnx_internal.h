/* What the files of the ONNX reader share. Internal to models/.
 *
 *   onnx_model.c     the file's bytes, checked and unpacked
 *   onnx_context.c   values by name, attributes, parameters
 *   onnx_const.c     tensors that are known: initialisers, external data, results of onnx_fold.c
 *   onnx_fold.c      operators on known tensors
 *   onnx_layout.c    tensors that are computed: where their axes lie in a node of the graph
 *   onnx_nodes.c     convolutions, dense layers, normalisation, pools, activations
 *   onnx_arith.c     arithmetic with broadcasting
 *   onnx_shapes.c    reshaping, slicing, joining
 *   onnx_quant.c     values and weights of 8 bits
 *   onnx_read.c      the walk over the nodes, input, output and head
 *
 * Functions return 0 or a negative error with ctx->diag filled in. */
#ifndef KD_ONNX_INTERNAL_H
#define KD_ONNX_INTERNAL_H

#include "models/onnx.h"
#include "models/onnx_model.h"

#include <string.h>

#define KD_ONNX_FOLD_MAX ((size_t)512 << 20) /* bytes that folding may make in all */

/* ---- known tensors */

typedef struct kd_onnx_const {
    int rank;
    int64_t dim[KD_ONNX_MAX_RANK];
    size_t count;
    bool integer; /* values in i, else in f */
    float *f;     /* owned; NULL until asked for where src has them */
    int64_t *i;
    const Onnx__TensorProto *src; /* borrowed from the model; NULL = made by folding */
    int32_t held;                 /* data_type of the tensor whose values these are, 0 = of none */
    const char *name;             /* borrowed; of the initialiser or the value */
} kd_onnx_const;

/* ---- computed tensors: a node of the graph, whose values in channel-height-width order are those
 * of the ONNX tensor with its axes ordered as `order` says. */
typedef struct kd_onnx_dyn {
    int node;
    int rank;
    int64_t dim[KD_ONNX_MAX_RANK]; /* as in the model, batch included */
    int batch;                     /* number of the batch axis, -1 = none */
    int n_order;
    int order[KD_ONNX_MAX_RANK]; /* axes longer than 1 but the batch, outermost first */
    bool shared;                 /* somebody else reads the same node's values */
} kd_onnx_dyn;

typedef struct kd_onnx_value {
    const char *name;
    const Onnx__TensorProto *initializer; /* NULL = none */
    int maker;                            /* the node that makes it, -1 = none */
    bool needed;                          /* the output depends on it */
    uint32_t readers;                     /* needed nodes that read it; the output is one more */
    bool ready;
    kd_onnx_const *constant; /* owned by the context; NULL: d */
    kd_onnx_dyn d;
} kd_onnx_value;

/* How a parameter gets its values from a known tensor. */
typedef struct kd_onnx_fill {
    int param;
    kd_onnx_const *from;
    float *values;  /* owned, instead of from */
    bool transpose; /* [a,b] -> [b,a] */
    float scale;
    int32_t held; /* as of kd_onnx_const */
} kd_onnx_fill;

typedef struct kd_onnx_ctx {
    const uint8_t *file;
    const char *name;
    const kd_onnx_read_options *opt;
    const Onnx__GraphProto *graph;
    int64_t opset;
    kd_graph *g;
    kd_onnx_value *values; /* sorted by name */
    size_t n_values;
    kd_onnx_const **consts; /* all of them, for freeing */
    size_t n_consts, room_consts;
    size_t folded; /* bytes made so far */
    kd_onnx_fill *fills;
    size_t n_fills, room_fills;
    const Onnx__NodeProto *node;    /* the one being read */
    const Onnx__NodeProto *softmax; /* the one at the model's end, NULL = there is none */
    bool softmax_dropped;
    size_t external; /* bytes of external data read so far */
    kd_diag *diag;
} kd_onnx_ctx;

/* "NAME: node NODE (OP): ..." */
int kd_onnx_fail(kd_onnx_ctx *c, int code, const char *fmt, ...) KD_PRINTF(3, 4);
int kd_onnx_no_memory(kd_onnx_ctx *c);

/* ---- onnx_context.c: the current node's inputs, outputs and attributes */

/* All names of the graph, each once. */
int kd_onnx_collect(kd_onnx_ctx *c);
kd_onnx_value *kd_onnx_find(kd_onnx_ctx *c, const char *name); /* NULL if there is none */
/* NULL if the input is left out. Every input is ready when a node is read. */
kd_onnx_value *kd_onnx_in(kd_onnx_ctx *c, size_t i);
/* The input as a computed or a known tensor; refused if it is left out or of the other kind. */
int kd_onnx_in_dyn(kd_onnx_ctx *c, size_t i, const kd_onnx_dyn **out);
int kd_onnx_in_const(kd_onnx_ctx *c, size_t i, const char *what, kd_onnx_const **out);
/* Short lists (axes, shapes): the integers of a known tensor. */
int kd_onnx_in_ints(kd_onnx_ctx *c, size_t i, const char *what, const int64_t **out, size_t *out_n);
/* One number; `absent` if the input is left out. */
int kd_onnx_in_scalar(kd_onnx_ctx *c, size_t i, const char *what, float absent, float *out);
/* Output i of the node. Both may be called with what the graph's builders returned: their error is
 * found here. */
int kd_onnx_out_dyn(kd_onnx_ctx *c, size_t i, const kd_onnx_dyn *d);
int kd_onnx_out_const(kd_onnx_ctx *c, size_t i, kd_onnx_const *k);

/* Attributes: absent gives the default, another type is refused. */
const Onnx__AttributeProto *kd_onnx_attr(const kd_onnx_ctx *c, const char *name);
int kd_onnx_attr_int(kd_onnx_ctx *c, const char *name, int64_t absent, int64_t *out);
int kd_onnx_attr_float(kd_onnx_ctx *c, const char *name, float absent, float *out);
/* *out NULL and *out_n 0 when absent; borrowed from the model. */
int kd_onnx_attr_ints(kd_onnx_ctx *c, const char *name, const int64_t **out, size_t *out_n);
int kd_onnx_attr_text(kd_onnx_ctx *c, const char *name, const char *absent, char *out, size_t size);
/* Refuses attributes that are not in `names` (words with a space between). */
int kd_onnx_only_attrs(kd_onnx_ctx *c, const char *names);
/* Axes from an attribute or, where the operator's version has it so, from input i. *out_n is 0 when
 * they are left out. */
int kd_onnx_axes(kd_onnx_ctx *c, size_t i, int rank, int *out, int *out_n);
/* Axis -rank..rank-1 -> 0..rank-1. */
int kd_onnx_axis(kd_onnx_ctx *c, int64_t axis, int rank, int *out);

/* ---- onnx_const.c */

/* Checks type, dims and the length of its data; values are read when asked for. */
int kd_onnx_const_of(kd_onnx_ctx *c, const Onnx__TensorProto *t, const char *name,
                     kd_onnx_const **out);
/* A new one with room for its values (zero), counted against the folding limit. */
int kd_onnx_const_new(kd_onnx_ctx *c, bool integer, int rank, const int64_t *dim,
                      kd_onnx_const **out);
/* Counts elements against the folding limit; false when it is spent. */
bool kd_onnx_fold_take(kd_onnx_ctx *c, size_t count, size_t element);
/* Makes k->f or k->i be there. */
int kd_onnx_const_load(kd_onnx_ctx *c, kd_onnx_const *k);
/* All values as floats into out [count], without keeping them. */
int kd_onnx_const_floats(kd_onnx_ctx *c, kd_onnx_const *k, float *out);
void kd_onnx_const_free(kd_onnx_const *k);
/* count = product of dims; refuses negative dims and overflow. */
bool kd_onnx_count(int rank, const int64_t *dim, size_t *out);

/* ---- onnx_fold.c: false if the node is not one that can be folded (an input that is computed, or
 * another operator); true with *out_rc otherwise. */
bool kd_onnx_fold(kd_onnx_ctx *c, int *out_rc);

/* ---- rules of shapes, for folding and for computed tensors alike (onnx_rules.c) */

/* Dims of a reshape or flatten of a tensor of `dim`. */
int kd_onnx_rule_reshape(kd_onnx_ctx *c, int rank, const int64_t *dim, int *out_rank,
                         int64_t *out_dim);
int kd_onnx_rule_flatten(kd_onnx_ctx *c, int rank, const int64_t *dim, int *out_rank,
                         int64_t *out_dim);
/* from[new axis] = old axis or -1 for a new one of size 1. keep: an axis that is not squeezed
 * unless it is named, -1 = none. */
int kd_onnx_rule_squeeze(kd_onnx_ctx *c, int rank, const int64_t *dim, int keep, int *out_rank,
                         int *from);
int kd_onnx_rule_unsqueeze(kd_onnx_ctx *c, int rank, int *out_rank, int *from);
int kd_onnx_rule_transpose(kd_onnx_ctx *c, int rank, int *from);
/* Element `start + i * step` for i < length, on each axis; a slice that takes nothing has length 0.
 */
int kd_onnx_rule_slice(kd_onnx_ctx *c, int rank, const int64_t *dim, int64_t *start, int64_t *step,
                       int64_t *length);

/* ---- onnx_layout.c */

/* The axes of a tensor that make up channels, height and width of a node, outermost first. */
typedef struct kd_onnx_groups {
    int n[3];
    int axis[3][KD_ONNX_MAX_RANK];
} kd_onnx_groups;
/* Axis numbers of up to three groups, e.g. kd_onnx_group3(1, 2, 3); -1 = empty. */
kd_onnx_groups kd_onnx_group3(int c, int h, int w);
/* A node with d's values in those groups; every axis longer than 1 but the batch is in one. */
int kd_onnx_arrange(kd_onnx_ctx *c, const kd_onnx_dyn *d, const kd_onnx_groups *want,
                    int *out_node);
/* The groups that d has as it lies; false if its axes do not fall together with the node's. */
bool kd_onnx_groups_of(const kd_onnx_ctx *c, const kd_onnx_dyn *d, kd_onnx_groups *out);
/* Groups in which each axis of `alone` is by itself: as it lies if possible. */
int kd_onnx_groups_alone(kd_onnx_ctx *c, const kd_onnx_dyn *d, const bool *alone,
                         kd_onnx_groups *out);
/* Groups in which channels are just that axis. */
void kd_onnx_groups_channel(const kd_onnx_ctx *c, const kd_onnx_dyn *d, int axis,
                            kd_onnx_groups *out);
/* Axes renamed: new axis i is axis from[i] of before, -1 = a new one of length 1. What is not named
 * has length 1. */
void kd_onnx_remap(kd_onnx_dyn *d, int rank, const int *from);
/* d with its axes in the model's order, the batch first. */
int kd_onnx_straighten(kd_onnx_ctx *c, const kd_onnx_dyn *d, kd_onnx_dyn *out);
/* The tensor of a node in groups, with the dims that out has already (rank, dim, batch set). */
void kd_onnx_settle(kd_onnx_dyn *out, int node, const kd_onnx_groups *groups);
/* Elements of one image in the listed axes. */
int64_t kd_onnx_group_size(const int64_t *dim, const kd_onnx_groups *g, int which);
/* A constant node of k broadcast to the axes of `like` (aligned at their ends) in its groups: each
 * group is all there or 1. */
int kd_onnx_const_node(kd_onnx_ctx *c, kd_onnx_const *k, const kd_onnx_dyn *like,
                       const kd_onnx_groups *groups, int *out_node);
/* The same values where they are one a channel; *out (caller frees) NULL where they are not. */
int kd_onnx_channel_values(kd_onnx_ctx *c, kd_onnx_const *k, const kd_onnx_dyn *like,
                           const kd_onnx_groups *groups, float **out);

/* ---- parameters */

/* A name for a node with parameters, of the initialiser behind k (its ending removed) or of the
 * ONNX node, unlike any there is. */
void kd_onnx_name(kd_onnx_ctx *c, const kd_onnx_const *k, char out[80]);
int kd_onnx_fill_from(kd_onnx_ctx *c, int param, kd_onnx_const *from, bool transpose, float scale);
/* The fill of a parameter, NULL if there is none yet: biases are made with each convolution, and
 * those that nothing fills are dropped at the end. */
const kd_onnx_fill *kd_onnx_filled(const kd_onnx_ctx *c, int param);
/* values, those of `like` in another order, are taken over, also on failure. */
int kd_onnx_fill_with(kd_onnx_ctx *c, int param, const kd_onnx_const *like, float *values);

/* ---- parts of operators */

typedef struct kd_onnx_window_t {
    int kernel[2], stride[2], dilation[2], pad[4];
} kd_onnx_window_t;
/* Strides, dilations and padding of the current node for a kernel on axes 2 and 3 of d. */
int kd_onnx_window(kd_onnx_ctx *c, const kd_onnx_dyn *d, const int64_t *kernel,
                   kd_onnx_window_t *w);
/* d, which must be [N,C,H,W], as a node with channels, height and width. */
int kd_onnx_image(kd_onnx_ctx *c, const kd_onnx_dyn *d, kd_onnx_groups *out_groups, int *out_node);
/* The tensor that a node made of such a one. */
void kd_onnx_made_image(kd_onnx_ctx *c, const kd_onnx_dyn *in, int node, kd_onnx_dyn *out);
/* Output 0 = d + k: into the bias of the layer that made d if it has none and k is one value a
 * channel, else as a node. */
int kd_onnx_add_const(kd_onnx_ctx *c, const kd_onnx_dyn *d, kd_onnx_const *k);

/* ---- operators: read the current node */

int kd_onnx_conv(kd_onnx_ctx *c);
int kd_onnx_gemm(kd_onnx_ctx *c);
int kd_onnx_matmul(kd_onnx_ctx *c);
int kd_onnx_batch_norm(kd_onnx_ctx *c);
int kd_onnx_pool(kd_onnx_ctx *c);
int kd_onnx_global_pool(kd_onnx_ctx *c);
int kd_onnx_reduce_mean(kd_onnx_ctx *c);
int kd_onnx_activation(kd_onnx_ctx *c);
int kd_onnx_clip(kd_onnx_ctx *c);
int kd_onnx_softmax(kd_onnx_ctx *c);
int kd_onnx_dropout(kd_onnx_ctx *c);
int kd_onnx_arithmetic(kd_onnx_ctx *c);
int kd_onnx_reshape(kd_onnx_ctx *c);
int kd_onnx_flatten(kd_onnx_ctx *c);
int kd_onnx_transpose(kd_onnx_ctx *c);
int kd_onnx_squeeze(kd_onnx_ctx *c);
int kd_onnx_unsqueeze(kd_onnx_ctx *c);
int kd_onnx_concat(kd_onnx_ctx *c);
int kd_onnx_slice(kd_onnx_ctx *c);
int kd_onnx_split(kd_onnx_ctx *c);
int kd_onnx_pad(kd_onnx_ctx *c);
int kd_onnx_identity(kd_onnx_ctx *c);
int kd_onnx_cast(kd_onnx_ctx *c);
int kd_onnx_quantize(kd_onnx_ctx *c);
int kd_onnx_dequantize(kd_onnx_ctx *c);
/* On known tensors, for onnx_fold.c. */
int kd_onnx_fold_dequantize(kd_onnx_ctx *c);

#endif

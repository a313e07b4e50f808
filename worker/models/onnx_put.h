/* What the files that write ONNX share: the messages of a file under way, and its nodes.
 *
 * All messages and names lie in one piece of memory of the writer's, which kd_onnx_write makes
 * large enough for any graph and frees at the end. Threads: one a writer. */
#ifndef KD_MODELS_ONNX_PUT_H
#define KD_MODELS_ONNX_PUT_H

#include "engine/plan.h"
#include "models/onnx.h"
#include "models/onnx_model.h"

/* What a node of the graph has become. */
typedef struct kd_onnx_made {
    char *title;   /* of the operator, unlike any other */
    char *name;    /* of the value: the same, but "logits" at the end */
    bool flat;     /* [N,C] */
    bool fixed;    /* does not depend on the picture: one for all images */
    char *rounded; /* of 8 bits, for the convolutions that want it so; NULL = none */
} kd_onnx_made;

/* What a network of 8 bits needs besides; arrays over the vector lie as their parameters do. */
typedef struct kd_onnx_eight {
    kd_int8_node *nodes; /* [n_nodes] */
    bool *params;        /* [n_params]: written in 8 bits */
    int8_t *codes;       /* [vector_len] */
    float *units;        /* [vector_len]: of weights, one a row; of biases, of products */
    int32_t *biases;     /* [vector_len] */
} kd_onnx_eight;

typedef struct kd_onnx_writer {
    const kd_graph *g;
    const float *vector;
    const kd_onnx_write_options *opt;
    uint8_t *room; /* of all messages and names */
    size_t used, size;
    kd_onnx_made *made; /* [n_nodes] */
    Onnx__NodeProto **nodes;
    Onnx__TensorProto **tensors;
    size_t n_nodes, n_tensors;
    kd_onnx_eight *eight; /* NULL: float32 */
    const char *batch;    /* value [1] with the number of images; NULL until it is needed */
} kd_onnx_writer;

/* ---- onnx_put.c: memory, messages */
/* Zeroed, to the writer's end. */
void *kd_onnx_put_room(kd_onnx_writer *w, size_t size);
/* At most 255 bytes. */
KD_PRINTF(2, 3) char *kd_onnx_put_text(kd_onnx_writer *w, const char *fmt, ...);
/* An operator with one output, no input and no attribute yet. */
Onnx__NodeProto *kd_onnx_put_op(kd_onnx_writer *w, const char *type, const char *name,
                                const char *output);
/* Its next input: a value by name, a value of whole numbers or a float made for it (called
 * NAME#what), a parameter (under another name, where it has been made something else; NULL = its
 * own). */
void kd_onnx_put_reads(kd_onnx_writer *w, Onnx__NodeProto *n, const char *value);
void kd_onnx_put_reads_ints(kd_onnx_writer *w, Onnx__NodeProto *n, const char *what,
                            const int64_t *v, size_t count);
void kd_onnx_put_reads_float(kd_onnx_writer *w, Onnx__NodeProto *n, const char *what, float v);
void kd_onnx_put_reads_as(kd_onnx_writer *w, Onnx__NodeProto *n, int param, const char *name);
void kd_onnx_put_reads_param(kd_onnx_writer *w, Onnx__NodeProto *n, int param);
/* An attribute of it. */
void kd_onnx_put_int(kd_onnx_writer *w, Onnx__NodeProto *n, const char *name, int64_t v);
void kd_onnx_put_float(kd_onnx_writer *w, Onnx__NodeProto *n, const char *name, float v);
void kd_onnx_put_ints(kd_onnx_writer *w, Onnx__NodeProto *n, const char *name, const int *v,
                      size_t count);
/* A tensor of the file; data are borrowed until it is packed. */
void kd_onnx_put_tensor(kd_onnx_writer *w, const char *name, int32_t type, size_t n_dims,
                        const int64_t *dims, const void *data, size_t bytes);
/* What makes a node's weights, or its bias, floats where they are written in 8 bits; NULL where
 * they are floats. */
const char *kd_onnx_put_weight(kd_onnx_writer *w, const kd_node *n);
const char *kd_onnx_put_bias(kd_onnx_writer *w, const kd_node *n);
/* The node's name where it is free, else one like it. */
char *kd_onnx_put_title(kd_onnx_writer *w, int at);
/* The value of node `in` as [N,C,H,W], as [N,C], or, a fixed one, once for each image. reader: who
 * wants it; what has to be put between is called after it. */
const char *kd_onnx_put_as_image(kd_onnx_writer *w, int in, const char *reader);
const char *kd_onnx_put_as_flat(kd_onnx_writer *w, int in, const char *reader);
const char *kd_onnx_put_each_image(kd_onnx_writer *w, int in, const char *reader);

/* ---- onnx_put_nodes.c */
/* Node `at` of the graph, all before it being there. */
void kd_onnx_put_node(kd_onnx_writer *w, int at);
/* Rounds its value to 8 bits, for all who read it or for convolutions alone. */
void kd_onnx_put_round(kd_onnx_writer *w, int at);

#endif

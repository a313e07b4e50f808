/* A network as a graph of operators with named parameters in one flat vector.
 *
 * Invariants: nodes are numbered in topological order from 0 (the input); each parameter is a named
 * view [offset, offset+count) of the vector, in order of creation, without gaps; shapes are per
 * image, NHWC in meaning (height, width, channels), the layout in memory is the plan's business.
 *
 * The vector holds trainable values and running statistics side by side, so that one checkpoint,
 * one digest and one element-wise update serve both: a statistic's "gradient" is the batch's
 * statistic and its update a moving average. Weight layouts are PyTorch's (convolution OIHW, dense
 * [out,in]) and names torchvision's, so that safetensors files load without a table.
 *
 * Threads: a graph is read-only once built. */
#ifndef KD_ENGINE_GRAPH_H
#define KD_ENGINE_GRAPH_H

#include "kd/err.h"
#include "kd/hash.h"

enum kd_op {
    KD_OP_INPUT,
    KD_OP_CONV, /* 2-d, groups, explicit padding, optional bias */
    KD_OP_BATCH_NORM,
    KD_OP_RELU,
    KD_OP_RELU6,
    KD_OP_MAX_POOL,        /* valid, stride = kernel */
    KD_OP_GLOBAL_AVG_POOL, /* [h,w,c] -> [1,1,c] */
    KD_OP_FLATTEN,         /* [h,w,c] -> [1,1,h*w*c], in channel-height-width order as PyTorch */
    KD_OP_DENSE,
    KD_OP_ADD /* two inputs of one shape */
};

enum kd_param_kind { KD_PARAM_TRAINED, KD_PARAM_STATISTIC };
enum kd_param_init {
    KD_INIT_ZERO,
    KD_INIT_ONE,
    KD_INIT_HE_NORMAL,
    KD_INIT_GLOROT_UNIFORM,
    KD_INIT_TORCH_UNIFORM,
    KD_INIT_HE_NORMAL_OUT,
    KD_INIT_NORMAL_001
};

typedef struct kd_param {
    char name[96];
    enum kd_param_kind kind;
    enum kd_param_init init;
    int ndim;
    int64_t shape[4];
    int64_t fan_in, fan_out;
    size_t offset, count; /* floats */
    bool head;            /* belongs to the classifier: may have its own learning rate */
} kd_param;

typedef struct kd_node {
    enum kd_op op;
    char name[96];
    int in[2];   /* producer nodes, -1 = none */
    int h, w, c; /* output shape of one image */
    int kernel, stride, groups;
    int pad[4];       /* top, left, bottom, right */
    float eps;        /* batch norm */
    int weight, bias; /* parameter numbers, -1 = none; batch norm: gamma, beta */
    int mean, var;    /* batch norm: running statistics */
} kd_node;

typedef struct kd_graph {
    kd_node *nodes;
    int n_nodes;
    kd_param *params;
    int n_params;
    size_t vector_len;  /* floats, statistics included */
    size_t trained_len; /* trainable floats only */
    int output;         /* node that gives the logits */
    char error[256];    /* first builder error, "" = none */
} kd_graph;

kd_graph *kd_graph_new(int h, int w, int c); /* never NULL; node 0 is the input */
void kd_graph_free(kd_graph *g);
/* Builders return the new node's number, or -1 and set g->error (later calls on -1 do nothing), so
 * a model is written straight down and checked once by kd_graph_finish. `head`: parameters belong
 * to the classifier. */
int kd_graph_conv(kd_graph *g, int in, const char *name, int out_channels, int kernel, int stride,
                  const int pad[4], int groups, bool bias, enum kd_param_init init);
int kd_graph_batch_norm(kd_graph *g, int in, const char *name, float eps);
int kd_graph_relu(kd_graph *g, int in);
int kd_graph_relu6(kd_graph *g, int in);
int kd_graph_max_pool(kd_graph *g, int in, int kernel);
int kd_graph_global_avg_pool(kd_graph *g, int in);
int kd_graph_flatten(kd_graph *g, int in);
int kd_graph_dense(kd_graph *g, int in, const char *name, int units, bool head,
                   enum kd_param_init init);
int kd_graph_add(kd_graph *g, int a, int b);
/* Names the output and checks the whole: first builder error, parameter names all different, every
 * node but the output read by a later one. -KD_EINVAL with the reason. */
int kd_graph_finish(kd_graph *g, int output, kd_diag *diag) KD_MUST_CHECK;
const kd_param *kd_graph_param(const kd_graph *g, const char *name); /* NULL if absent */
/* Initial vector from the counter generator: value i of a parameter depends on (seed, its name, i).
 * Running variance starts at 1. He normal: std sqrt(2/fan_in), HE_NORMAL_OUT sqrt(2/fan_out) (He et
 * al. 2015, eq. 10 and 14); NORMAL_001: std 0.01; Glorot uniform: bound sqrt(6/(fan_in+fan_out));
 * torch uniform: 1/sqrt(fan_in). Fans as torch.nn.init counts them: grouped weights
 * [out,in/groups,k,k] have fan_in in/groups*k*k and fan_out out*k*k. vector [vector_len] is
 * overwritten. */
void kd_graph_init(const kd_graph *g, uint64_t seed, float *vector);
/* Multiply-adds of one forward image. */
uint64_t kd_graph_macs(const kd_graph *g);

#endif

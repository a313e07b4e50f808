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
    KD_OP_CONV, /* 2-d, groups, dilation, explicit padding, optional bias */
    KD_OP_BATCH_NORM,
    KD_OP_RELU,
    KD_OP_RELU6,
    KD_OP_MAX_POOL,        /* padding never wins */
    KD_OP_GLOBAL_AVG_POOL, /* [h,w,c] -> [1,1,c] */
    KD_OP_FLATTEN,         /* [h,w,c] -> [1,1,h*w*c], in channel-height-width order as PyTorch */
    KD_OP_DENSE,
    KD_OP_ADD,     /* a + b; as SUB, MUL, DIV each of h, w, c of a and b equal or 1 */
    KD_OP_SIGMOID, /* 1 / (1 + exp(-x)) */
    KD_OP_SILU,    /* x * sigmoid(x) */
    KD_OP_TANH,
    KD_OP_LEAKY_RELU,   /* x, below 0 alpha * x */
    KD_OP_CLIP,         /* min(max(x, alpha), beta), gradient 0 at and beyond the bounds */
    KD_OP_HARD_SIGMOID, /* min(max(alpha * x + beta, 0), 1) */
    KD_OP_HARD_SWISH,   /* x * min(max(x + 3, 0), 6) / 6 */
    KD_OP_AVG_POOL,
    KD_OP_SUB,       /* a - b */
    KD_OP_MUL,       /* a * b */
    KD_OP_DIV,       /* a / b */
    KD_OP_CONST,     /* no input: the value is a fixed parameter [c,h,w], the same for each image */
    KD_OP_PAD,       /* with the constant alpha, on any side of any axis */
    KD_OP_CONCAT,    /* two inputs along one axis */
    KD_OP_SLICE,     /* every step-th from start on, on each axis */
    KD_OP_RESHAPE,   /* the values stay in channel-height-width order, as PyTorch's */
    KD_OP_PERMUTE,   /* of the three axes */
    KD_OP_SOFTMAX,   /* over the channels at each place */
    KD_OP_DROPOUT,   /* in training values are 0 with probability alpha, others / (1 - alpha) */
    KD_OP_DROP_PATH, /* the same with whole images (Huang et al. 2016, torchvision's "row") */
    KD_OP_FAKE_QUANT /* as 8 bits hold it: alpha * code, of -127..127, of 0..255 where beta is 1.
                        In graphs that are trained alone, in no file */
};

/* Where an operator has three numbers, one an axis, they are in this order. */
enum kd_axis { KD_AXIS_C, KD_AXIS_H, KD_AXIS_W };

/* FIXED: travels with the vector, but its gradient is 0 and no optimiser moves it. */
enum kd_param_kind { KD_PARAM_TRAINED, KD_PARAM_STATISTIC, KD_PARAM_FIXED };
enum kd_param_init {
    KD_INIT_ZERO,
    KD_INIT_ONE,
    KD_INIT_HE_NORMAL,
    KD_INIT_GLOROT_UNIFORM,
    KD_INIT_TORCH_UNIFORM,
    KD_INIT_HE_NORMAL_OUT,
    KD_INIT_NORMAL_001,
    KD_INIT_UNIFORM_OUT
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
    int kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, groups;
    int pad[4];         /* top, left, bottom, right */
    bool count_pad;     /* average pool: padding counts in the divisor */
    float eps;          /* batch norm */
    float alpha, beta;  /* activations; padding's value; drop rate */
    enum kd_axis axis;  /* concatenation */
    int start[3];       /* by kd_axis: first element of a slice, places put before by padding */
    int step[3];        /* by kd_axis: of a slice, may be negative, never 0 */
    enum kd_axis of[3]; /* permutation: axis i of the output is axis of[i] of the input */
    int weight, bias; /* parameter numbers, -1 = none; batch norm: gamma, beta; constant: weight */
    int mean, var;    /* batch norm: running statistics */
    float range;      /* 8 bits hold the output up to this absolute value; 0 = not in 8 bits */
} kd_node;

typedef struct kd_graph {
    kd_node *nodes;
    int n_nodes;
    kd_param *params;
    int n_params;
    size_t vector_len;  /* floats, statistics and fixed ones included */
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

/* Convolution in general. 0 in kernel, stride, dilation and groups means 1. Paddings as large as
 * the kernel's extent become a node of their own. */
typedef struct kd_conv_spec {
    int out_channels;
    int kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, groups;
    int pad[4]; /* top, left, bottom, right */
    bool bias, head;
    enum kd_param_init init;
} kd_conv_spec;
int kd_graph_conv2(kd_graph *g, int in, const char *name, const kd_conv_spec *spec);
/* Max or average pool; out = (in + padding - kernel) / stride + 1, rounded down: a caller that
 * rounds up pads more. 0 in kernel and stride means 1. Paddings are smaller than the kernel, so
 * that each window sees a value. Without count_pad an average is over the values only. */
typedef struct kd_pool_spec {
    bool average, count_pad;
    int kernel_h, kernel_w, stride_h, stride_w;
    int pad[4];
} kd_pool_spec;
int kd_graph_pool(kd_graph *g, int in, const kd_pool_spec *spec);
/* Activations (formulas at the enum). alpha and beta are finite but for clip's, which may be
 * infinite, low <= high. */
int kd_graph_sigmoid(kd_graph *g, int in);
int kd_graph_silu(kd_graph *g, int in);
int kd_graph_tanh(kd_graph *g, int in);
int kd_graph_leaky_relu(kd_graph *g, int in, float alpha);
int kd_graph_clip(kd_graph *g, int in, float low, float high);
int kd_graph_hard_sigmoid(kd_graph *g, int in, float alpha, float beta);
int kd_graph_hard_swish(kd_graph *g, int in);
/* Arithmetic; each of h, w and c is the same in a and b or 1 in one of them, as in kd_graph_add. */
int kd_graph_sub(kd_graph *g, int a, int b);
int kd_graph_mul(kd_graph *g, int a, int b);
int kd_graph_div(kd_graph *g, int a, int b);
/* A constant [h,w,c] of parameter "name.value" (KD_PARAM_FIXED, in the vector as [c,h,w]); its
 * values are what the vector holds, init says what kd_graph_init writes there. */
int kd_graph_const(kd_graph *g, const char *name, int h, int w, int c, enum kd_param_init init);
/* By kd_axis: places of `value` (finite) before and after. */
int kd_graph_pad(kd_graph *g, int in, const int before[3], const int after[3], float value);
int kd_graph_concat(kd_graph *g, int a, int b, enum kd_axis axis);
/* By kd_axis, already resolved: start in 0..n-1; step > 0 with start < stop <= n, or step < 0 with
 * -1 <= stop < start. */
int kd_graph_slice(kd_graph *g, int in, const int start[3], const int stop[3], const int step[3]);
int kd_graph_reshape(kd_graph *g, int in, int h, int w, int c);
int kd_graph_permute(kd_graph *g, int in, const enum kd_axis of[3]);
int kd_graph_softmax(kd_graph *g, int in);
/* rate in [0, 1). Identity in inference; see kd_plan_noise. */
int kd_graph_dropout(kd_graph *g, int in, float rate);
int kd_graph_drop_path(kd_graph *g, int in, float rate);
/* unit > 0 and finite: what code 1 stands for. positive: codes have no sign. */
int kd_graph_fake_quant(kd_graph *g, int in, float unit, bool positive);

/* Names the output and checks the whole: first builder error, parameter names all different, every
 * node but the output read by a later one, logits [1,1,2 or more]. -KD_EINVAL with the reason. */
int kd_graph_finish(kd_graph *g, int output, kd_diag *diag) KD_MUST_CHECK;
/* The same for an output of any shape. */
int kd_graph_finish_any(kd_graph *g, int output, kd_diag *diag) KD_MUST_CHECK;
/* Every rule that the builders keep, for a graph that comes from elsewhere: edges, shapes, places
 * of parameters. Plans check it themselves. -KD_EINVAL with the node. */
int kd_graph_check(const kd_graph *g, kd_diag *diag) KD_MUST_CHECK;
const kd_param *kd_graph_param(const kd_graph *g, const char *name); /* NULL if absent */
/* Initial vector from the counter generator: value i of a parameter depends on (seed, its name, i).
 * Running variance starts at 1. He normal: std sqrt(2/fan_in), HE_NORMAL_OUT sqrt(2/fan_out) (He et
 * al. 2015, eq. 10 and 14); NORMAL_001: std 0.01; Glorot uniform: bound sqrt(6/(fan_in+fan_out));
 * torch uniform: 1/sqrt(fan_in), UNIFORM_OUT: 1/sqrt(fan_out). Fans as torch.nn.init counts them:
 * grouped weights [out,in/groups,k,k] have fan_in in/groups*k*k and fan_out out*k*k. vector
 * [vector_len] is overwritten. */
void kd_graph_init(const kd_graph *g, uint64_t seed, float *vector);
/* The same for the parameters of the head alone. */
void kd_graph_init_head(const kd_graph *g, uint64_t seed, float *vector);
/* A convolution or dense layer: `weight` is a parameter of [c] rows. */
bool kd_node_has_weights(const kd_node *n);
/* Some node has a range: made to run in 8 bits. */
bool kd_graph_is_int8(const kd_graph *g);
/* Channels of the nodes before this one, together; of n_nodes: of all. */
size_t kd_graph_channels(const kd_graph *g, int node);
/* The share of one node in kd_graph_macs. */
uint64_t kd_node_macs(const kd_graph *g, const kd_node *n);
/* Multiply-adds of one forward image: those of convolutions and dense layers, as everybody counts
 * them; the others have none that would show. */
uint64_t kd_graph_macs(const kd_graph *g);

#endif

/* What an operator sees of a plan. Internal to engine/.
 *
 * A plan is a list of tasks. A task runs one graph node together with the nodes fused into it and
 * writes one value, the output of its last fused node. Operators are rows of one table, a file each
 * in ops/: `check` refuses shapes, `prepare` makes the primitives and asks for memory, `load` packs
 * weights, `forward` and `backward` run and allocate nothing.
 *
 * Memory is asked for in blocks with a lifetime in ticks: task t runs forward at tick t and
 * backward at tick 2 * n_tasks - 1 - t. When every task is prepared the blocks are laid into one
 * arena and all memories are bound to it; before that a memory has no address. Values are float32,
 * [n, c, h, w] in oneDNN's order of dimensions, in whatever layout their producer chose; 8-bit
 * values (kd_value.scale) are NHWC and read by 8-bit convolutions alone. Everything made through a
 * plan (primitives, memories, state) belongs to the plan. Threads: as the plan. */
#ifndef KD_ENGINE_OP_H
#define KD_ENGINE_OP_H

#include <dnnl.h>

#include "engine/plan.h"

#define KD_TICK_EVER 0x7fffffff /* last tick of what survives from run to run */

typedef struct kd_block {
    size_t bytes, offset; /* in the arena, multiples of 64 */
    int first, last;      /* ticks, inclusive */
} kd_block;

typedef struct kd_prim {
    dnnl_primitive_t handle;
    dnnl_exec_arg_t args[12];
    int n_args;
} kd_prim;

/* An activation's primitives in the order in which they run, NULL = none. */
typedef struct kd_act_prims {
    kd_prim *forward[2], *backward[2];
} kd_act_prims;

/* The output of a task, numbered by the graph node it is the output of. */
typedef struct kd_value {
    int producer;    /* task; -1 = never materialised */
    int last_use;    /* last task that reads it; -1 = none but the caller */
    bool wants_grad; /* a trained parameter stands before it */
    float scale;     /* of an 8-bit value: what 1 stands for; 0 = float32 */
    float edge;      /* of a float32 value: what 1 stands for where an 8-bit convolution rounds it
                        for itself; 0 = none does */
    bool positive;   /* 8-bit without a sign */
    bool narrow;     /* bfloat16: written and read by convolutions alone */
    dnnl_memory_desc_t md;
    int block, d_block;
    dnnl_memory_t mem, d_mem; /* d_mem NULL unless wants_grad in a train plan */
} kd_value;

/* What 1 stands for where an 8-bit convolution reads the value. */
static inline float kd_int8_unit(const kd_value *v)
{
    return v->scale > 0 ? v->scale : v->edge;
}

typedef struct kd_task {
    int index;
    int node;              /* whose operator this is */
    int result;            /* value written */
    int in[2];             /* values read, -1 = none; of a batch norm, 1 is added behind it */
    int residual;          /* value added before the activation, -1 = none */
    int bn;                /* batch norm folded into the weights, -1 = none */
    int pool;              /* max pool that the convolution does besides, -1 = none */
    int act;               /* node of the activation on the result, -1 = none */
    bool act_inside;       /* the operator applies act forward itself */
    bool act_back_inside;  /* and its gradient */
    bool int8;             /* a convolution of 8-bit values */
    bool int8_vnni;        /* that conv_vnni.c does */
    bool winograd;         /* one by Winograd's algorithm, unless int8 */
    dnnl_memory_t d_in[2]; /* where backward writes the inputs' gradients, NULL = not wanted */
    bool d_in_adds[2];     /* the plan adds it to the value's gradient afterwards */
    kd_act_prims act_prims;
    void *state; /* the operator's own */
} kd_task;

static inline bool kd_task_reads(const kd_task *t, int value)
{
    return t->in[0] == value || t->in[1] == value || t->residual == value;
}

typedef struct kd_op_impl {
    const char *name;
    int (*check)(const kd_graph *g, const kd_node *node, kd_diag *diag);
    /* Must call kd_plan_make_value() for task->result. */
    int (*prepare)(kd_plan *p, kd_task *t, kd_diag *diag);
    int (*load)(kd_plan *p, const kd_task *t, const float *vector, kd_diag *diag); /* may be NULL */
    int (*forward)(kd_plan *p, const kd_task *t, kd_diag *diag);
    /* gradient [vector_len]: overwrites the elements of its parameters. */
    int (*backward)(kd_plan *p, const kd_task *t, float stat_weight, float *gradient,
                    kd_diag *diag);
} kd_op_impl;

/* One row an operator, by enum kd_op; KD_OP_INPUT's is the copy of the caller's pictures. */
extern const kd_op_impl kd_op_input, kd_op_conv, kd_op_batch_norm, kd_op_activation, kd_op_max_pool,
    kd_op_avg_pool, kd_op_global_avg_pool, kd_op_flatten, kd_op_reshape, kd_op_permute, kd_op_dense,
    kd_op_arithmetic, kd_op_const, kd_op_pad, kd_op_slice, kd_op_concat, kd_op_softmax, kd_op_noise,
    kd_op_fake_quant;
/* A convolution and the max pool behind it; one by Winograd's algorithm; those of 8-bit values. */
extern const kd_op_impl kd_op_conv_pool, kd_op_conv_winograd, kd_op_conv_int8, kd_op_conv_vnni;
/* NULL for a number outside the enum. */
const kd_op_impl *kd_op_of(enum kd_op op);
/* The one that runs a task. */
const kd_op_impl *kd_task_op(const kd_graph *g, const kd_task *t);
int kd_node_inputs(const kd_node *node);

struct kd_plan {
    const kd_graph *graph;
    enum kd_plan_use use;
    bool training;
    int output; /* node whose value is the graph's output */
    int batch;  /* images the caller hands over */
    int n;      /* images a primitive sees: batch, or 1 for inference, which runs image by image so
                   that no image's bits can depend on its neighbours */
    kd_task *tasks;
    int n_tasks;
    kd_value *values; /* [graph->n_nodes] */
    kd_block *blocks;
    int n_blocks, cap_blocks;
    struct kd_binding {
        dnnl_memory_t mem;
        int block; /* -1: the caller's memory, bound at each use */
    } * bindings;
    int n_bindings, cap_bindings;
    kd_prim **prims;
    int n_prims, cap_prims;
    void **states;
    int n_states, cap_states;
    char *arena; /* 64-byte aligned */
    size_t arena_bytes;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    const float *input; /* the image(s) of the forward that runs now, borrowed */
    bool bfloat16;      /* convolutions work on bfloat16 */
    const float *fixed; /* the vector that an int8 plan is made for, while it is made */
    bool is_fixed;      /* it takes no other */
    const float *means; /* of the same, NULL = biases are not corrected */
    float *watch;       /* kd_plan_watch */
    double *sums;       /* kd_plan_watch_sums */
    kd_plan_see *see;   /* kd_plan_observe */
    void *see_arg;
    int clock;         /* last tick that ran; -1 = none */
    bool *overwritten; /* [graph->n_params], of a train plan: weights whose gradient is written
                          whole */
    bool bad_output;   /* last forward gave a value that is not finite */
    bool loaded, ran_forward;
    struct {        /* the name of the random numbers */
        bool named; /* false: nothing is dropped */
        uint64_t seed, step;
        uint32_t *keys; /* [batch] */
    } noise;
    dnnl_memory_t logits, d_logits; /* plain copies at the plan's edge */
    int logits_block, d_logits_block;
    int staging; /* block for weights on their way into a packed layout, -1 = none */
    kd_prim *logits_out, *d_logits_in;
};

/* In plan_int8.c: what runs in 8 bits. Everything that could be at first, then without what meets
 * something that is not, until nothing changes. largest: of each node's output. edges: as in
 * kd_plan_new_ranged. */
void kd_plan_choose_int8(kd_plan *p, const float *largest, bool edges);

/* ---- making (during prepare) */

static inline int kd_tick_forward(const kd_task *t)
{
    return t->index;
}
static inline int kd_tick_backward(const kd_plan *p, const kd_task *t)
{
    return 2 * p->n_tasks - 1 - t->index;
}
/* Zeroed state, freed with the plan; NULL when memory is out. */
void *kd_plan_alloc(kd_plan *p, size_t bytes);
/* Of an 8-bit value, NHWC. */
dnnl_memory_desc_t kd_plan_desc_int8(const kd_plan *p, const kd_value *v, const kd_node *node);
/* float32 [n,c,h,w] with n = p->n. */
dnnl_memory_desc_t kd_plan_desc(const kd_plan *p, int c, int h, int w, dnnl_format_tag_t tag);
bool kd_desc_equal(const dnnl_memory_desc_t *a, const dnnl_memory_desc_t *b);
/* A block of the arena; returns its number or a negative error. */
int kd_plan_block(kd_plan *p, size_t bytes, int first, int last, kd_diag *diag);
/* The same, its number to *out. */
int kd_plan_new_block(kd_plan *p, size_t bytes, int first, int last, int *out,
                      kd_diag *diag) KD_MUST_CHECK;
/* Makes an existing block live over [first, last] too. */
void kd_plan_extend(kd_plan *p, int block, int first, int last);
/* A memory in block `block` (-1: bound later with kd_memory_bind). */
int kd_plan_memory(kd_plan *p, const dnnl_memory_desc_t *md, int block, dnnl_memory_t *out,
                   kd_diag *diag) KD_MUST_CHECK;
/* Block and memory in one. out_block may be NULL. */
int kd_plan_new_memory(kd_plan *p, const dnnl_memory_desc_t *md, int first, int last,
                       dnnl_memory_t *out, int *out_block, kd_diag *diag) KD_MUST_CHECK;
/* The one staging block, grown to `bytes`; free to use during load. */
int kd_plan_staging(kd_plan *p, size_t bytes, kd_diag *diag);
/* Gives t's result its layout, block and memories. share >= 0: lives in that block, whose previous
 * content dies with this task. */
int kd_plan_make_value(kd_plan *p, kd_task *t, const dnnl_memory_desc_t *md, int share,
                       kd_diag *diag) KD_MUST_CHECK;
/* The same; d_share >= 0: its gradient lives in that block, where t's backward then leaves an
 * input's gradient. */
int kd_plan_make_value_sharing(kd_plan *p, kd_task *t, const dnnl_memory_desc_t *md, int share,
                               int d_share, kd_diag *diag) KD_MUST_CHECK;
/* Primitive descriptor from an operation descriptor, with the caller's scratchpad and these
 * post-ops (NULL = none). */
int kd_plan_desc_create(kd_plan *p, const void *op_desc, dnnl_post_ops_t post,
                        dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *out,
                        kd_diag *diag) KD_MUST_CHECK;
/* The same for a caller with another choice: -KD_EUNSUP without a message if oneDNN has no
 * implementation. */
int kd_plan_desc_try(kd_plan *p, const void *op_desc, dnnl_post_ops_t post,
                     dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *out,
                     kd_diag *diag) KD_MUST_CHECK;
/* The same with a factor for each output channel, applied to the products' sum before post. */
int kd_plan_desc_scaled(kd_plan *p, const void *op_desc, dnnl_post_ops_t post, const float *scales,
                        int n_scales, dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *out,
                        kd_diag *diag) KD_MUST_CHECK;
/* oneDNN's name of the implementation, "" if it has none. */
const char *kd_desc_implementation(dnnl_primitive_desc_t pd);
/* 0 reference, 1 through a matrix product with copies, 2 a kernel made for it. */
int kd_desc_quality(dnnl_primitive_desc_t pd);
dnnl_memory_desc_t kd_desc_query(dnnl_primitive_desc_t pd, dnnl_query_t what);
/* Primitive of pd (borrowed) with its scratchpad, run in ticks [first, last]. */
int kd_plan_prim(kd_plan *p, dnnl_primitive_desc_t pd, int first, int last, kd_prim **out,
                 kd_diag *diag) KD_MUST_CHECK;
void kd_prim_arg(kd_prim *prim, int arg, dnnl_memory_t mem);
/* Copies `from` into `to` changing the layout, at `tick`. */
int kd_plan_reorder(kd_plan *p, const dnnl_memory_desc_t *from_md, dnnl_memory_t from,
                    const dnnl_memory_desc_t *to_md, dnnl_memory_t to, int tick, kd_prim **out,
                    kd_diag *diag) KD_MUST_CHECK;
/* The same times `factor`, rounded to the nearest even and kept within to_md's type. */
int kd_plan_requantise(kd_plan *p, const dnnl_memory_desc_t *from_md, dnnl_memory_t from,
                       const dnnl_memory_desc_t *to_md, dnnl_memory_t to, float factor, int tick,
                       kd_prim **out, kd_diag *diag) KD_MUST_CHECK;
/* *out_mem = from and *out_prim = NULL if the layouts agree, else a new memory of layout to_md,
 * living in [tick, last], and the copy into it at `tick`. */
int kd_plan_as(kd_plan *p, const dnnl_memory_desc_t *from_md, dnnl_memory_t from,
               const dnnl_memory_desc_t *to_md, int tick, int last, dnnl_memory_t *out_mem,
               kd_prim **out_prim, kd_diag *diag) KD_MUST_CHECK;
/* The other way: *out_mem = to, or a new memory of layout from_md at `tick` and its copy into to.
 */
int kd_plan_into(kd_plan *p, const dnnl_memory_desc_t *from_md, const dnnl_memory_desc_t *to_md,
                 dnnl_memory_t to, int tick, dnnl_memory_t *out_mem, kd_prim **out_prim,
                 kd_diag *diag) KD_MUST_CHECK;

/* In ops/activation.c: an activation as one or two of oneDNN's element-wise operations, one after
 * the other. */
typedef struct kd_act_step {
    dnnl_alg_kind_t alg;
    float alpha, beta;
} kd_act_step;
int kd_act_steps(const kd_node *act, kd_act_step out[2]);
bool kd_act_is(enum kd_op op);
/* Its gradient can be told from its output, so that it may overwrite its input. */
bool kd_act_by_output(const kd_node *act);
/* Makes t->act_prims, in place on the result. */
int kd_act_prepare(kd_plan *p, kd_task *t, kd_diag *diag) KD_MUST_CHECK;
int kd_act_run(kd_plan *p, kd_prim *const prims[2], kd_diag *diag) KD_MUST_CHECK;
/* In ops/batch_norm.c: whether a batch norm can apply this activation and its gradient itself. */
bool kd_batch_norm_takes(const kd_node *act);
/* In ops/conv.c: the layout of its input a convolution would choose for itself. */
int kd_conv_wish(kd_plan *p, const kd_task *t, dnnl_memory_desc_t *out,
                 kd_diag *diag) KD_MUST_CHECK;

/* In ops/depthwise.c: weights' gradient of a depthwise convolution by loops of our own, where its
 * layouts allow and oneDNN has none made for it. The bias may be NULL. */
bool kd_depthwise_fits(const kd_plan *p, const kd_task *t);
size_t kd_depthwise_scratch(const kd_plan *p, const kd_task *t); /* bytes */
void kd_depthwise_weights(const kd_plan *p, const kd_task *t, float *scratch, float *weights,
                          float *bias);

/* ---- running */

/* A NULL primitive does nothing. */
int kd_prim_run(kd_plan *p, const kd_prim *prim, kd_diag *diag) KD_MUST_CHECK;
float *kd_plan_data(const kd_plan *p, int block);
/* Points a memory at the caller's floats; const is the caller's promise to pass it as a source. */
int kd_memory_bind(dnnl_memory_t mem, const float *data, kd_diag *diag) KD_MUST_CHECK;
/* The arena's memory behind mem. */
float *kd_memory_data(dnnl_memory_t mem);
/* 0, or the diagnosis of a oneDNN status. */
int kd_onednn(dnnl_status_t status, const char *what, kd_diag *diag) KD_MUST_CHECK;
/* For tests: fills all that does not survive from run to run with NaN, so that a read of dead or
 * never written memory shows. */
void kd_plan_poison(kd_plan *p);

#endif

/* A graph compiled for one batch size and one use.
 *
 * train: forward and backward, batch norm on the batch's own statistics or frozen.
 * infer: batch norm folded into the convolution before it, activation and residual as post-ops.
 * A plan owns its oneDNN primitives, its packed weights and one arena laid out by lifetime; running
 * it allocates nothing. Every result is a pure function of (vector, input): the same bits on each
 * run, in each thread, whichever plan instance computes it. In an infer plan each image's logits
 * are moreover independent of its place in the batch and of its neighbours. Threads: a plan belongs
 * to one thread at a time; that thread must have called kd_engine_thread(). A second device would
 * come as another implementation of this header. */
#ifndef KD_ENGINE_PLAN_H
#define KD_ENGINE_PLAN_H

#include "engine/graph.h"

enum kd_plan_use { KD_PLAN_INFER, KD_PLAN_TRAIN, KD_PLAN_TRAIN_FROZEN_BN };
typedef struct kd_plan kd_plan;

/* graph is borrowed until free. batch 1..4096. */
int kd_plan_new(const kd_graph *graph, int batch, enum kd_plan_use use, kd_plan **out,
                kd_diag *diag) KD_MUST_CHECK;
void kd_plan_free(kd_plan *p); /* NULL allowed */
/* An infer plan of 8-bit values for these weights, which may be freed afterwards and are loaded: no
 * kd_plan_load. largest [graph->n_nodes]: largest absolute value of each node's output, from
 * kd_plan_watch. Convolutions and the values between them become 8 bits (one scale a value, one an
 * output channel for weights); everything else stays float32. means: of each channel of each node's
 * output, laid out as kd_plan_watch_sums has them; by them biases make up for what the rounding of
 * weights moves on average (Nagel et al. 2019, arXiv:1906.04721, section 4.2). NULL: they do not.
 * -KD_EUNSUP if this machine's oneDNN lacks one. */
int kd_plan_new_int8(const kd_graph *graph, int batch, const float *vector, const float *largest,
                     const float *means, kd_plan **out, kd_diag *diag) KD_MUST_CHECK;
/* The same by the graph's own ranges, with more of it in 8 bits: a convolution whose input is a
 * float32 value with a range rounds that itself. (What kd_plan_new_int8 chooses is part of the bits
 * of jobs with 8-bit teachers.) */
int kd_plan_new_ranged(const kd_graph *graph, int batch, const float *vector, kd_plan **out,
                       kd_diag *diag) KD_MUST_CHECK;
/* The infer plan of a network as it is: in 8 bits if the graph has ranges, else float32. Loaded. */
int kd_plan_new_infer(const kd_graph *graph, int batch, const float *vector, kd_plan **out,
                      kd_diag *diag) KD_MUST_CHECK;
/* A plan whose convolutions read bfloat16 (rounded to the nearest even) and sum in float32; in an
 * infer plan what stands between two of them is bfloat16 too. Vector, gradients, logits and all
 * other operators are float32. -KD_EUNSUP if this machine's oneDNN lacks one. */
int kd_plan_new_bfloat16(const kd_graph *graph, int batch, enum kd_plan_use use, kd_plan **out,
                         kd_diag *diag) KD_MUST_CHECK;
/* Convolutions of a plan that work on 8 bits. */
int kd_plan_int8_tasks(const kd_plan *p);
/* What an 8-bit plan does with each node. */
typedef struct kd_int8_node {
    bool conv;     /* a convolution of 8-bit values */
    bool stored;   /* its output is an 8-bit value for all who read it */
    float unit;    /* what 1 stands for where 8-bit convolutions read its output; 0 = none does */
    bool positive; /* then it goes from 0 to 255, else from -127 to 127 */
} kd_int8_node;
/* out [graph->n_nodes], overwritten. */
void kd_plan_int8_nodes(const kd_plan *p, kd_int8_node *out);
/* From now on each forward of a float32 infer plan raises largest [graph->n_nodes] (borrowed; begin
 * with zeros) to the absolute values that it meets; NULL: no longer. */
void kd_plan_watch(kd_plan *p, float *largest);
/* Likewise adds up the elements of each channel: sums [kd_graph_channels(graph, graph->n_nodes)],
 * those of node n from kd_graph_channels(graph, n) on. */
void kd_plan_watch_sums(kd_plan *p, double *sums);
/* Means of the elements of so many images of which these are the sums; laid out alike. */
void kd_plan_means(const kd_graph *graph, const double *sums, size_t images, float *means);
/* From now on each forward of a float32 infer plan shows the outputs of its nodes, as far as they
 * are in memory: n floats in any order, with zeros among them that belong to no output. NULL: no
 * longer. */
typedef void kd_plan_see(void *arg, int node, const float *x, size_t n);
void kd_plan_observe(kd_plan *p, kd_plan_see *see, void *arg);
/* Packs (and for infer folds) the weights of vector [graph->vector_len], which may be changed or
 * freed afterwards. */
int kd_plan_load(kd_plan *p, const float *vector, kd_diag *diag) KD_MUST_CHECK;
/* Names the random numbers of DROPOUT and DROP_PATH for the forwards from now on: keys [batch], one
 * an image, copied. Value i (in channel-height-width order; the only one with DROP_PATH) of node n
 * in the image with key k is number i of the stream (seed, KD_RNG_DROPOUT, step, n << 32 | k): kept
 * if it is not below the rate. Never called, or in an infer plan: everything is kept as it is. */
void kd_plan_noise(kd_plan *p, uint64_t seed, uint64_t step, const uint32_t *keys);
/* input [batch,h,w,c] float32 NHWC, already preprocessed; logits [batch, classes], overwritten. An
 * output that is no vector leaves as [batch,c,h,w] and its gradient enters so. */
int kd_plan_forward(kd_plan *p, const float *input, float *logits, kd_diag *diag) KD_MUST_CHECK;
/* After a forward of a train plan. d_logits [batch, classes]. gradient [vector_len] is overwritten:
 * trained elements with dL/dw; statistics with stat_weight times the batch's statistic (mean, and
 * variance with the n/(n-1) correction as PyTorch's running_var), or 0 when batch norm is frozen.
 */
int kd_plan_backward(kd_plan *p, const float *d_logits, float stat_weight, float *gradient,
                     kd_diag *diag) KD_MUST_CHECK;
/* Name of the first node whose output of the last forward is not finite, NULL if all are. Slow. */
const char *kd_plan_find_nonfinite(const kd_plan *p);
size_t kd_plan_arena_bytes(const kd_plan *p);

/* ---- the process's numerics */

/* Before any other thread starts, first thing in main: makes OpenBLAS choose kernels that fit the
 * CPU. Debian's 0.3.21 takes newer CPUs for Prescott; OPENBLAS_CORETYPE must be set before the
 * library loads, so this re-executes the program once with it set (environment kept, KD_BLAS_SET
 * guards against a loop). A value the user set is kept. */
void kd_engine_mend_blas(char **argv);
/* Once per compute thread: one OpenMP and one BLAS thread, denormals as IEEE says. */
void kd_engine_thread(void);
typedef struct kd_engine_info {
    char cpu[96];  /* model name */
    char blas[64]; /* openblas_get_corename() */
    char isa[64];  /* oneDNN effective CPU ISA */
    char onednn[32];
    kd_digest numerics; /* digest of a fixed battery: convolutions forward and backward, GEMM, exp,
                           log, in this process's kernels: equal digests compute equal bits */
} kd_engine_info;
int kd_engine_info_get(kd_engine_info *out, kd_diag *diag) KD_MUST_CHECK;

#endif

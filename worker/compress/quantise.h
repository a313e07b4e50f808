/* A trained network made to run in 8 bits, without training (Jacob et al. 2018, arXiv:1712.05877,
 * with scales alone; Nagel et al. 2021, arXiv:2106.08295).
 *
 * Batch norms are folded first. Weights get one unit an output channel. Each value between
 * convolutions gets one unit, from what it is on some pictures. Which convolutions run in 8 bits is
 * what kd_plan_new_ranged chooses; dense layers and the others have their weights rounded, which
 * makes files small, and compute in float32. Biases are rounded to units of a product where 32 bits
 * hold them, as files of others want them.
 *
 * How values are cut off is one of four methods, and which of them suits a network only its answers
 * tell: KD_CALIBRATE_AUTO rounds the network after each and takes the one with the least KL from
 * float32 over the pictures; of equals the first.
 *
 * Threads: one that has called kd_engine_thread. The result depends on network, pictures and
 * options alone. */
#ifndef KD_COMPRESS_QUANTISE_H
#define KD_COMPRESS_QUANTISE_H

#include "compress/threshold.h"
#include "engine/plan.h"

#define KD_QUANTISE_LEAST 32 /* different pictures, at least */
#define KD_QUANTISE_MOST 4096
#define KD_QUANTISE_KEEP ((size_t)128 << 20) /* bytes: 222 pictures of 224 pixels */
#define KD_QUANTISE_AGREE 0.95 /* share of the pictures below which something is wrong */

typedef struct kd_quantise_options {
    enum kd_calibrate method;
    double percentile; /* (0, 100], of KD_CALIBRATE_PERCENTILE */
    size_t n;          /* pictures */
    size_t keep_bytes; /* of pictures that may be kept: they are asked for once */
    /* Picture i, preprocessed, into input [h, w, c]. The first are kept; others are asked for in
     * every pass, of which there are two with KD_CALIBRATE_MINMAX and three with the other methods,
     * six with KD_CALIBRATE_AUTO. */
    int (*picture)(void *arg, size_t i, float *input, kd_diag *diag);
    void *arg;
} kd_quantise_options;

typedef struct kd_quantised {
    kd_graph *graph; /* with ranges */
    float *vector;
    int convolutions, int8;   /* of the network; of those that run in 8 bits */
    enum kd_calibrate method; /* that was taken, never KD_CALIBRATE_AUTO */
    size_t agree;             /* pictures on which both networks give the same class */
    double kl;                /* mean KL(float32 || 8 bits) over them, in nats */
} kd_quantised;

/* g is a finished classifier. Errors: -KD_EINVAL for fewer than KD_QUANTISE_LEAST pictures that
 * differ, or pictures that are all alike; -KD_EUNSUP when no convolution can run in 8 bits; what
 * picture returns. On success the caller clears *out. */
int kd_quantise(const kd_graph *g, const float *vector, const kd_quantise_options *opt,
                kd_quantised *out, kd_diag *diag) KD_MUST_CHECK;
void kd_quantised_clear(kd_quantised *q);
/* Whether both networks give the same class on too few of the n pictures. */
bool kd_quantised_doubtful(const kd_quantised *q, size_t n);

/* The same in two halves, for training in between: batch norms folded and ranges found, the
 * parameters still floats (agree and kl are those of the rounded ones); */
int kd_quantise_calibrate(const kd_graph *g, const float *vector, const kd_quantise_options *opt,
                          kd_quantised *out, kd_diag *diag) KD_MUST_CHECK;
/* and the parameters of such a graph rounded in place. What is rounded already stays. -KD_ENOMEM.
 */
int kd_quantise_round(const kd_graph *g, float *vector, kd_diag *diag) KD_MUST_CHECK;
/* The same where it is known what the plan does with each node. */
void kd_quantise_round_as(const kd_graph *g, const kd_int8_node *nodes, float *vector);
/* The weights alone, as training sees them. */
void kd_quantise_weights(const kd_graph *g, float *vector);

/* What would run in 8 bits: g gets the ranges largest [n_nodes] (NULL: 1 each), and a plan by them
 * tells. Returns how many of its convolutions would; 0, with the sentence in diag, if none; else
 * what kd_plan_new_ranged fails with. out_nodes [n_nodes] as of kd_plan_int8_nodes, and the number
 * of all convolutions: NULL allowed. */
int kd_quantise_choose(kd_graph *g, const float *vector, const float *largest,
                       kd_int8_node *out_nodes, int *out_convolutions, kd_diag *diag) KD_MUST_CHECK;

#endif

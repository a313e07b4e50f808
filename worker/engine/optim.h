/* Optimisers: element-wise updates of a slice of the parameter vector.
 *
 * SGD with momentum and Adam as torch.optim defines them (coupled weight decay; Adam with bias
 * correction, Kingma & Ba 2015, algorithm 1). All arithmetic in float32 except step-wide scalars,
 * which are computed in double and rounded once, so the result of an element does not depend on how
 * the vector is cut. Running statistics: w = (1-m) w + m g with m = 0.1.
 * Threads: reentrant; no allocation. */
#ifndef KD_ENGINE_OPTIM_H
#define KD_ENGINE_OPTIM_H

#include "engine/graph.h"

enum kd_optim_rule { KD_OPTIM_SGD, KD_OPTIM_ADAM };
enum kd_optim_schedule { KD_OPTIM_CONSTANT, KD_OPTIM_COSINE };
typedef struct kd_optim {
    enum kd_optim_rule rule;
    double lr, head_lr; /* head_lr 0 = lr */
    double momentum, beta1, beta2, eps, weight_decay;
    enum kd_optim_schedule schedule;
    uint64_t warmup_steps, total_steps; /* total for cosine, >= 1 */
    bool frozen_statistics;             /* batch norm frozen: statistics do not move */
} kd_optim;

/* State vectors an element: SGD 0 without momentum, 1 with; Adam 2. */
int kd_optim_vectors(const kd_optim *o);
/* Learning-rate factor of step (from 0): linear warm-up (step+1)/warmup, then 1 or
 * 0.5 (1 + cos(pi * progress)) with progress from 0 at the warm-up's end to 1 at total_steps; 0
 * from there on. */
double kd_optim_factor(const kd_optim *o, uint64_t step);
/* Updates elements [first, first+count) of the vector of graph g.
 * w [count] in place; grad [count]; state [vectors][count], zero before the first step; step from
 * 0. */
void kd_optim_apply(const kd_optim *o, const kd_graph *g, uint64_t step, size_t first, size_t count,
                    float *w, const float *grad, float *state);

#endif

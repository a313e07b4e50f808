/* Optimisers: element-wise updates of a slice of the parameter vector.
 *
 * SGD with momentum (Nesterov's too), Adam and AdamW as torch.optim defines them: coupled weight
 * decay for SGD and Adam, decoupled for AdamW (Loshchilov & Hutter 2019); Adam with bias correction
 * (Kingma & Ba 2015, algorithm 1). All arithmetic in float32 except step-wide scalars, which are
 * computed in double and rounded once, so the result of an element does not depend on how the
 * vector is cut. Running statistics: w = (1-m) w + m g with m = 0.1. Parameters that are neither
 * trained nor statistics never move. Threads: reentrant; no allocation. */
#ifndef KD_ENGINE_OPTIM_H
#define KD_ENGINE_OPTIM_H

#include "engine/graph.h"

enum kd_optim_rule { KD_OPTIM_SGD, KD_OPTIM_ADAM, KD_OPTIM_ADAMW };
enum kd_optim_schedule { KD_OPTIM_CONSTANT, KD_OPTIM_COSINE, KD_OPTIM_STEP, KD_OPTIM_ONE_CYCLE };
#define KD_OPTIM_MILESTONES 8
typedef struct kd_optim {
    enum kd_optim_rule rule;
    double lr, head_lr; /* head_lr 0 = lr; the greatest rate with one-cycle */
    double momentum, beta1, beta2, eps, weight_decay;
    bool nesterov; /* SGD with momentum */
    enum kd_optim_schedule schedule;
    uint64_t warmup_steps, total_steps;       /* total for cosine and one-cycle, >= 1 */
    uint64_t milestones[KD_OPTIM_MILESTONES]; /* step: steps from which on gamma counts once more */
    int n_milestones;
    double gamma;
    double pct_start, div_factor, final_div_factor; /* one-cycle: (0, 1), >= 1, >= 1 */
    bool frozen_statistics;                         /* batch norm frozen: statistics do not move */
    bool freeze_backbone;                           /* only trained parameters of the head move */
    double ema; /* decay of the average over the steps' vectors, [0, 1); 0 = none */
} kd_optim;

/* State vectors an element: SGD 0 without momentum, 1 with; Adam and AdamW 2; one more, always the
 * last, for the average when ema is not 0. */
int kd_optim_vectors(const kd_optim *o);
/* Learning-rate factor of step (from 0).
 * CONSTANT, COSINE, STEP: linear warm-up (step+1)/warmup, then 1; or 0.5 (1 + cos(pi * progress))
 * with progress from 0 at the warm-up's end to 1 at total_steps, 0 from there on; or gamma to the
 * number of milestones <= step, which are counted from step 0. ONE_CYCLE (Smith & Topin 2018, as
 * torch.optim.lr_scheduler.OneCycleLR without its third phase): a half cosine from 1/div to 1 until
 * step pct_start * total - 1, another to 1/div/final_div at total - 1, which stays. warmup_steps is
 * not read. */
double kd_optim_factor(const kd_optim *o, uint64_t step);
/* Do gradients move this parameter? Trained ones, with freeze_backbone only the head's: the
 * elements whose squares a global norm adds up. */
bool kd_optim_moves(const kd_optim *o, const kd_param *p);
/* Updates elements [first, first+count) of the vector of graph g.
 * w [count] in place; grad [count]; state [vectors][count], zero before the first step; step from
 * 0. scale multiplies the gradients of trained parameters before anything else; statistics are not
 * gradients. The average covers every element, those that do not move included: it starts from what
 * stands in w before step 0, so that after it it is ema * before + (1-ema) * after. */
void kd_optim_apply(const kd_optim *o, const kd_graph *g, uint64_t step, size_t first, size_t count,
                    float *w, const float *grad, float scale, float *state);

#endif

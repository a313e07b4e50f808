#include "engine/optim.h"

#include <math.h>
#include <string.h>

#define STATISTIC_MOMENTUM 0.1
#define CLIP_EPS 1e-6

static int rule_vectors(const kd_optim *o)
{
    switch (o->rule) {
    case KD_OPTIM_SGD:
        return o->momentum != 0 ? 1 : 0;
    case KD_OPTIM_ADAM:
    case KD_OPTIM_ADAMW:
        return 2;
    }
    return 0;
}

int kd_optim_vectors(const kd_optim *o)
{
    return rule_vectors(o) + (o->ema != 0 ? 1 : 0);
}

/* ---- schedules */

static double cosine_between(double from, double to, double progress)
{
    return to + (from - to) / 2 * (cos(M_PI * progress) + 1);
}

/* The ends of the two phases are real numbers, as in torch, so that the top may lie between two
 * steps; where the first phase has no length the second starts before step 0. */
static double one_cycle(const kd_optim *o, uint64_t step)
{
    const double low = 1 / o->div_factor, least = low / o->final_div_factor;
    const double last = (double)o->total_steps - 1, top = o->pct_start * (double)o->total_steps - 1;
    const double at = fmin((double)step, last);
    if (at <= top)
        return cosine_between(low, 1, top > 0 ? at / top : 1);
    return cosine_between(1, least, (at - top) / (last - top));
}

double kd_optim_factor(const kd_optim *o, uint64_t step)
{
    if (o->schedule == KD_OPTIM_ONE_CYCLE)
        return one_cycle(o, step);
    if (step < o->warmup_steps)
        return (double)(step + 1) / (double)o->warmup_steps;
    double factor = 1;
    switch (o->schedule) {
    case KD_OPTIM_COSINE:
        if (step >= o->total_steps)
            return 0;
        return 0.5 * (1 + cos(M_PI * ((double)(step - o->warmup_steps) /
                                      (double)(o->total_steps - o->warmup_steps))));
    case KD_OPTIM_STEP:
        for (int i = 0; i < o->n_milestones; i++)
            factor *= step >= o->milestones[i] ? o->gamma : 1;
        return factor;
    case KD_OPTIM_CONSTANT:
    case KD_OPTIM_ONE_CYCLE:
        break;
    }
    return factor;
}

bool kd_optim_moves(const kd_optim *o, const kd_param *p)
{
    return p->kind == KD_PARAM_TRAINED && (p->head || !o->freeze_backbone);
}

/* ---- rules */

/* base^n by squaring. The C library's pow() has a variant for each kind of CPU whose last bits may
 * differ; products of doubles do not. */
static double power(double base, uint64_t n)
{
    double result = 1;
    for (; n; n >>= 1) {
        if (n & 1)
            result *= base;
        base *= base;
    }
    return result;
}

/* Step-wide scalars of every rule, rounded once. */
typedef struct {
    float scale; /* of gradients */
    float decay; /* added to the gradient, times the weight */
    float keep;  /* AdamW: what decay leaves of the weight, 1 - lr * decay */
    float lr, momentum;
    float beta1, beta2, rest1, rest2; /* rest = 1 - beta */
    float step_size;                  /* lr / (1 - beta1^t) */
    float root;                       /* 1 / sqrt(1 - beta2^t) */
    float eps;
} scalars;

static scalars scalars_of(const kd_optim *o, uint64_t step, double lr, float scale)
{
    const bool decoupled = o->rule == KD_OPTIM_ADAMW;
    const double beta1_t = power(o->beta1, step + 1), beta2_t = power(o->beta2, step + 1);
    return (scalars){
        .scale = scale,
        .decay = decoupled ? 0 : (float)o->weight_decay,
        .keep = decoupled ? (float)(1 - lr * o->weight_decay) : 1,
        .lr = (float)lr,
        .momentum = (float)o->momentum,
        .beta1 = (float)o->beta1,
        .beta2 = (float)o->beta2,
        .rest1 = (float)(1 - o->beta1),
        .rest2 = (float)(1 - o->beta2),
        .step_size = (float)(lr / (1 - beta1_t)),
        .root = (float)(1 / sqrt(1 - beta2_t)),
        .eps = (float)o->eps,
    };
}

/* The same loops for two kinds of processors, of which the wider one takes a root and a quotient of
 * sixteen numbers at a time: each is rounded as IEEE 754 says, so the bits are the same. */
#define LOOP static inline __attribute__((always_inline))

LOOP void sgd_loop(size_t n, const scalars *restrict s, bool nesterov, float *restrict w,
                   const float *restrict grad, float *restrict velocity)
{
    const scalars k = *s;
    if (!velocity) {
        for (size_t i = 0; i < n; i++)
            w[i] -= k.lr * (k.scale * grad[i] + k.decay * w[i]);
        return;
    }
    if (nesterov) {
        for (size_t i = 0; i < n; i++) {
            const float g = k.scale * grad[i] + k.decay * w[i];
            velocity[i] = k.momentum * velocity[i] + g;
            w[i] -= k.lr * (g + k.momentum * velocity[i]);
        }
        return;
    }
    for (size_t i = 0; i < n; i++) {
        velocity[i] = k.momentum * velocity[i] + (k.scale * grad[i] + k.decay * w[i]);
        w[i] -= k.lr * velocity[i];
    }
}

LOOP void adam_loop(size_t n, const scalars *restrict s, float *restrict w,
                    const float *restrict grad, float *restrict mean, float *restrict square)
{
    const scalars k = *s;
    for (size_t i = 0; i < n; i++) {
        const float g = k.scale * grad[i] + k.decay * w[i];
        mean[i] = k.beta1 * mean[i] + k.rest1 * g;
        square[i] = k.beta2 * square[i] + k.rest2 * (g * g);
        w[i] = k.keep * w[i] - k.step_size * (mean[i] / (sqrtf(square[i]) * k.root + k.eps));
    }
}

/* average + (1-d)(w - average): what does not move stays in the average bit for bit. */
LOOP void average_loop(size_t n, double ema, float *restrict mean, const float *restrict w)
{
    const float rest = (float)(1 - ema);
    for (size_t i = 0; i < n; i++)
        mean[i] += rest * (w[i] - mean[i]);
}

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx512f,prefer-vector-width=512")))
WIDE static void sgd_wide(size_t n, const scalars *s, bool nesterov, float *w, const float *grad,
                          float *velocity)
{
    sgd_loop(n, s, nesterov, w, grad, velocity);
}
WIDE static void adam_wide(size_t n, const scalars *s, float *w, const float *grad, float *mean,
                           float *square)
{
    adam_loop(n, s, w, grad, mean, square);
}
WIDE static void average_wide(size_t n, double ema, float *mean, const float *w)
{
    average_loop(n, ema, mean, w);
}
static bool is_wide(void)
{
    return __builtin_cpu_supports("avx512f");
}
#else
#define sgd_wide sgd_loop
#define adam_wide adam_loop
#define average_wide average_loop
static bool is_wide(void)
{
    return false;
}
#endif

static void sgd(size_t n, const scalars *s, bool nesterov, float *w, const float *grad,
                float *velocity)
{
    if (is_wide())
        sgd_wide(n, s, nesterov, w, grad, velocity);
    else
        sgd_loop(n, s, nesterov, w, grad, velocity);
}

static void adam(size_t n, const scalars *s, float *w, const float *grad, float *mean,
                 float *square)
{
    if (is_wide())
        adam_wide(n, s, w, grad, mean, square);
    else
        adam_loop(n, s, w, grad, mean, square);
}

static void average(size_t n, double ema, float *mean, const float *w)
{
    if (is_wide())
        average_wide(n, ema, mean, w);
    else
        average_loop(n, ema, mean, w);
}

static void update(const kd_optim *o, const kd_param *p, uint64_t step, size_t n, float *w,
                   const float *grad, float scale, float *first, float *second)
{
    if (p->kind == KD_PARAM_STATISTIC && !o->frozen_statistics && !o->freeze_backbone) {
        const float keep = (float)(1 - STATISTIC_MOMENTUM), take = (float)STATISTIC_MOMENTUM;
        for (size_t k = 0; k < n; k++)
            w[k] = keep * w[k] + take * grad[k];
    }
    if (!kd_optim_moves(o, p))
        return;
    const double lr = kd_optim_factor(o, step) * (p->head && o->head_lr != 0 ? o->head_lr : o->lr);
    const scalars s = scalars_of(o, step, lr, scale);
    switch (o->rule) {
    case KD_OPTIM_SGD:
        sgd(n, &s, o->nesterov, w, grad, first);
        break;
    case KD_OPTIM_ADAM:
    case KD_OPTIM_ADAMW:
        adam(n, &s, w, grad, first, second);
        break;
    }
}

void kd_optim_apply(const kd_optim *o, const kd_graph *g, uint64_t step, size_t first, size_t count,
                    float *w, const float *grad, float scale, float *state)
{
    KD_BUG_ON(first > g->vector_len || count > g->vector_len - first);
    const int vectors = rule_vectors(o);
    float *mean = o->ema != 0 ? state + (size_t)vectors * count : NULL;
    if (mean && step == 0)
        memcpy(mean, w, count * sizeof *mean);
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        const size_t from = KD_MAX(p->offset, first);
        const size_t to = KD_MIN(p->offset + p->count, first + count);
        if (from >= to)
            continue;
        const size_t at = from - first;
        update(o, p, step, to - from, w + at, grad + at, scale, vectors > 0 ? state + at : NULL,
               vectors > 1 ? state + count + at : NULL);
    }
    if (mean)
        average(count, o->ema, mean, w);
}

#include "engine/optim.h"

#include <math.h>

#define STATISTIC_MOMENTUM 0.1

int kd_optim_vectors(const kd_optim *o)
{
    switch (o->rule) {
    case KD_OPTIM_SGD:
        return o->momentum != 0 ? 1 : 0;
    case KD_OPTIM_ADAM:
        return 2;
    }
    return 0;
}

double kd_optim_factor(const kd_optim *o, uint64_t step)
{
    if (step < o->warmup_steps)
        return (double)(step + 1) / (double)o->warmup_steps;
    if (o->schedule == KD_OPTIM_CONSTANT)
        return 1;
    if (step >= o->total_steps)
        return 0;
    double progress = (double)(step - o->warmup_steps) / (double)(o->total_steps - o->warmup_steps);
    return 0.5 * (1 + cos(M_PI * progress));
}

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

static void sgd(size_t n, float lr, float momentum, float decay, float *restrict w,
                const float *restrict grad, float *restrict velocity)
{
    if (!velocity) {
        for (size_t i = 0; i < n; i++)
            w[i] -= lr * (grad[i] + decay * w[i]);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        velocity[i] = momentum * velocity[i] + (grad[i] + decay * w[i]);
        w[i] -= lr * velocity[i];
    }
}

typedef struct {
    float beta1, beta2, rest1, rest2; /* rest = 1 - beta */
    float step_size;                  /* lr / (1 - beta1^t) */
    float root;                       /* 1 / sqrt(1 - beta2^t) */
    float eps, decay;
} adam_scalars;

static void adam(size_t n, const adam_scalars *restrict s, float *restrict w,
                 const float *restrict grad, float *restrict mean, float *restrict square)
{
    const adam_scalars k = *s;
    for (size_t i = 0; i < n; i++) {
        float g = grad[i] + k.decay * w[i];
        mean[i] = k.beta1 * mean[i] + k.rest1 * g;
        square[i] = k.beta2 * square[i] + k.rest2 * (g * g);
        w[i] -= k.step_size * (mean[i] / (sqrtf(square[i]) * k.root + k.eps));
    }
}

void kd_optim_apply(const kd_optim *o, const kd_graph *g, uint64_t step, size_t first, size_t count,
                    float *w, const float *grad, float *state)
{
    KD_BUG_ON(first > g->vector_len || count > g->vector_len - first);
    const double factor = kd_optim_factor(o, step);
    const double beta1_t = power(o->beta1, step + 1), beta2_t = power(o->beta2, step + 1);
    float *second = kd_optim_vectors(o) == 2 ? state + count : NULL;
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        const size_t from = KD_MAX(p->offset, first);
        const size_t to = KD_MIN(p->offset + p->count, first + count);
        if (from >= to)
            continue;
        const size_t at = from - first, n = to - from;
        if (p->kind == KD_PARAM_STATISTIC) {
            const float keep = (float)(1 - STATISTIC_MOMENTUM), take = (float)STATISTIC_MOMENTUM;
            for (size_t k = at; !o->frozen_statistics && k < at + n; k++)
                w[k] = keep * w[k] + take * grad[k];
            continue;
        }
        const double lr = factor * (p->head && o->head_lr != 0 ? o->head_lr : o->lr);
        switch (o->rule) {
        case KD_OPTIM_SGD:
            sgd(n, (float)lr, (float)o->momentum, (float)o->weight_decay, w + at, grad + at,
                kd_optim_vectors(o) ? state + at : NULL);
            break;
        case KD_OPTIM_ADAM: {
            const adam_scalars s = {
                .beta1 = (float)o->beta1,
                .beta2 = (float)o->beta2,
                .rest1 = (float)(1 - o->beta1),
                .rest2 = (float)(1 - o->beta2),
                .step_size = (float)(lr / (1 - beta1_t)),
                .root = (float)(1 / sqrt(1 - beta2_t)),
                .eps = (float)o->eps,
                .decay = (float)o->weight_decay,
            };
            adam(n, &s, w + at, grad + at, state + at, second + at);
            break;
        }
        }
    }
}

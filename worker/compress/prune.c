#include "compress/prune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double kd_prune_schedule(double first, double last, uint64_t begin, uint64_t end, uint64_t step)
{
    if (step <= begin && begin < end)
        return first;
    if (step >= end)
        return last;
    const double left = 1 - (double)(step - begin) / (double)(end - begin);
    return last + (first - last) * left * left * left;
}

typedef struct weight {
    float size; /* -1: gone already */
    size_t at;
} weight;

static int by_size(const void *a, const void *b)
{
    const weight *x = a, *y = b;
    if (x->size != y->size)
        return x->size < y->size ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* Of one layer's weights, or of all; `from` is sorted. */
static void take(weight *from, size_t n, double share, uint8_t *mask)
{
    qsort(from, n, sizeof *from, by_size);
    for (size_t i = 0; i < (size_t)(share * (double)n); i++)
        mask[from[i].at] = 0;
}

int kd_prune_magnitude(const kd_graph *g, const float *vector, double share,
                       enum kd_prune_scope scope, uint8_t *mask, kd_diag *diag)
{
    if (!(share >= 0 && share <= 1))
        return kd_fail(diag, -KD_EINVAL, "a share of %g of the weights is not in 0..1", share);
    weight *all = malloc((g->vector_len + 1) * sizeof *all);
    if (!all)
        return kd_fail(diag, -KD_ENOMEM, "no memory to prune %zu weights", g->vector_len);
    size_t n = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        const kd_node *node = &g->nodes[i];
        if ((node->op != KD_OP_CONV && node->op != KD_OP_DENSE) || g->params[node->weight].head)
            continue;
        const kd_param *p = &g->params[node->weight];
        for (size_t k = p->offset; k < p->offset + p->count; k++)
            all[n++] = (weight){mask[k] ? fabsf(vector[k]) : -1, k};
        if (scope == KD_PRUNE_LAYER) {
            take(all, n, share, mask);
            n = 0;
        }
    }
    if (scope == KD_PRUNE_GLOBAL)
        take(all, n, share, mask);
    free(all);
    return 0;
}

void kd_prune_apply(const uint8_t *mask, size_t n, float *vector)
{
    for (size_t i = 0; i < n; i++)
        if (!mask[i])
            vector[i] = 0;
}

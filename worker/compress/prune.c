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

static bool may_go(const kd_graph *g, const kd_node *n)
{
    return kd_node_has_weights(n) && !g->params[n->weight].head;
}

/* Weights of one layer, or of all: where they lie and the patterns of their absolute values, which
 * are in the order of the values. What is gone already has 0, others one more than theirs. */
typedef struct weights {
    size_t *at;
    uint32_t *size;
    size_t n;
} weights;

#define DIGIT 11
#define DIGITS 3

/* The k-th smallest (from 0) of the sizes: digit by digit, with a histogram of those that are still
 * in question. *out_below: how many are smaller. */
static uint32_t kth_smallest(const weights *w, size_t k, size_t *out_below)
{
    uint32_t prefix = 0, known = 0;
    size_t below = 0;
    for (int d = DIGITS - 1; d >= 0; d--) {
        size_t count[1 << DIGIT] = {0};
        const int shift = d * DIGIT;
        uint32_t digit = 0;
        for (size_t i = 0; i < w->n; i++)
            if ((w->size[i] & known) == prefix)
                count[w->size[i] >> shift & ((1U << DIGIT) - 1)]++;
        while (below + count[digit] <= k)
            below += count[digit++];
        prefix |= digit << shift;
        known |= ((1U << DIGIT) - 1) << shift;
    }
    *out_below = below;
    return prefix;
}

/* The smallest go; of equal ones the first. */
static void take(weights *w, double share, uint8_t *mask)
{
    const size_t all = (size_t)(share * (double)w->n);
    if (all > 0) {
        size_t below;
        const uint32_t last = kth_smallest(w, all - 1, &below);
        size_t equal = all - below; /* of the last size */
        for (size_t i = 0; i < w->n; i++) {
            const bool tie = w->size[i] == last && equal > 0;
            if (w->size[i] < last || tie)
                mask[w->at[i]] = 0;
            equal -= tie;
        }
    }
    w->n = 0;
}

static void add(weights *w, const kd_param *p, const float *vector, const uint8_t *mask)
{
    for (size_t k = p->offset; k < p->offset + p->count; k++) {
        const float size = fabsf(vector[k]);
        uint32_t bits;
        memcpy(&bits, &size, sizeof bits);
        w->at[w->n] = k;
        w->size[w->n++] = mask[k] ? bits + 1 : 0;
    }
}

int kd_prune_magnitude(const kd_graph *g, const float *vector, double share,
                       enum kd_prune_scope scope, uint8_t *mask, kd_diag *diag)
{
    if (!(share >= 0 && share <= 1))
        return kd_fail(diag, -KD_EINVAL, "a share of %g of the weights is not in 0..1", share);
    weights w = {.at = malloc((g->vector_len + 1) * sizeof *w.at),
                 .size = malloc((g->vector_len + 1) * sizeof *w.size)};
    const int rc = w.at && w.size
                       ? 0
                       : kd_fail(diag, -KD_ENOMEM, "no memory to prune %zu weights", g->vector_len);
    for (int i = 0; i < g->n_nodes && !rc; i++) {
        if (!may_go(g, &g->nodes[i]))
            continue;
        add(&w, &g->params[g->nodes[i].weight], vector, mask);
        if (scope == KD_PRUNE_LAYER)
            take(&w, share, mask);
    }
    if (!rc && scope == KD_PRUNE_GLOBAL)
        take(&w, share, mask);
    free(w.at);
    free(w.size);
    return rc;
}

void kd_prune_apply(const uint8_t *mask, size_t n, float *vector)
{
    for (size_t i = 0; i < n; i++)
        if (!mask[i])
            vector[i] = 0;
}

double kd_prune_gone(const kd_graph *g, const float *vector, uint8_t *mask)
{
    size_t all = 0, gone = 0;
    if (mask)
        memset(mask, 1, g->vector_len);
    for (int i = 0; i < g->n_nodes; i++) {
        const kd_node *n = &g->nodes[i];
        if (!kd_node_has_weights(n))
            continue;
        const kd_param *p = &g->params[n->weight];
        const bool counts = may_go(g, n);
        for (size_t k = p->offset; k < p->offset + p->count; k++) {
            gone += counts && vector[k] == 0;
            if (mask)
                mask[k] = vector[k] != 0;
        }
        all += counts ? p->count : 0;
    }
    return all ? (double)gone / (double)all : 0;
}

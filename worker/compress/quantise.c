#include "compress/quantise.h"

#include "compress/fold.h"
#include "models/int8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ALIKE 0.01 /* mean distance from the first picture, of the largest value */

typedef struct work {
    const kd_quantise_options *opt;
    kd_quantised q;
    float *input;                   /* [picture] */
    float *kept;                    /* [n_kept][picture], the first ones: at least one */
    size_t picture, n_kept, n_seen; /* floats; pictures; of the kept ones those that are there */
    size_t classes;
    float *exact;        /* [n][classes] of the float32 network */
    float *largest;      /* [n_nodes] */
    kd_digest *digests;  /* [n] of the pictures */
    kd_int8_node *nodes; /* [n_nodes] */
    kd_histogram **seen; /* [n_nodes], NULL where there is nothing to find out */
} work;

static int no_memory(kd_diag *diag)
{
    return kd_fail(diag, -KD_ENOMEM, "no memory for a network of 8 bits");
}

static int make_room(work *w, kd_diag *diag)
{
    const kd_node *in = &w->q.graph->nodes[0];
    const size_t n = w->opt->n, nodes = (size_t)w->q.graph->n_nodes;
    w->picture = (size_t)in->h * (size_t)in->w * (size_t)in->c;
    w->classes = (size_t)w->q.graph->nodes[w->q.graph->output].c;
    w->input = aligned_alloc(64, (w->picture * sizeof(float) + 63) / 64 * 64);
    w->n_kept = KD_MIN(n, KD_MAX(w->opt->keep_bytes / (w->picture * sizeof *w->kept), 1u));
    w->kept = malloc(w->n_kept * w->picture * sizeof *w->kept);
    w->exact = malloc((n + 1) * w->classes * sizeof *w->exact);
    w->largest = calloc(nodes, sizeof *w->largest);
    w->digests = calloc(n, sizeof *w->digests);
    w->nodes = calloc(nodes, sizeof *w->nodes);
    w->seen = calloc(nodes, sizeof *w->seen);
    return w->input && w->kept && w->exact && w->largest && w->digests && w->nodes && w->seen
               ? 0
               : no_memory(diag);
}

static void clear(work *w)
{
    for (int i = 0; w->seen && i < w->q.graph->n_nodes; i++)
        free(w->seen[i]);
    free(w->seen);
    free(w->input);
    free(w->kept);
    free(w->exact);
    free(w->largest);
    free(w->digests);
    free(w->nodes);
}

/* ---- looking at the pictures */

static int by_bytes(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(kd_digest));
}

static double distance(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += fabs((double)a[i] - (double)b[i]);
    return sum / (double)n;
}

/* Too few, or all the same, say too little about the values between the layers. */
static int check_pictures(work *w, double farthest, kd_diag *diag)
{
    size_t differ = 1;
    qsort(w->digests, w->opt->n, sizeof *w->digests, by_bytes);
    for (size_t i = 1; i < w->opt->n; i++)
        differ += !kd_digest_equal(&w->digests[i], &w->digests[i - 1]);
    if (differ < KD_QUANTISE_LEAST)
        return kd_fail(diag, -KD_EINVAL,
                       "of the %zu pictures to calibrate with only %zu differ; give at least %d",
                       w->opt->n, differ, KD_QUANTISE_LEAST);
    if (farthest < ALIKE * (double)w->largest[0])
        return kd_fail(diag, -KD_EINVAL,
                       "the %zu pictures to calibrate with are all alike; give some of every kind "
                       "that the network is to see",
                       w->opt->n);
    return 0;
}

/* Picture i, borrowed until the next one; the first time in order. */
static int picture_of(work *w, size_t i, const float **out, kd_diag *diag)
{
    float *to = i < w->n_kept ? w->kept + i * w->picture : w->input;
    const int rc = i < w->n_seen ? 0 : w->opt->picture(w->opt->arg, i, to, diag);
    if (rc)
        return rc;
    if (i < w->n_kept)
        w->n_seen = KD_MAX(w->n_seen, i + 1);
    *out = to;
    return 0;
}

/* The largest values and the float32 answers. */
static int look(work *w, kd_plan *p, kd_diag *diag)
{
    double farthest = 0;
    int rc = 0;
    kd_plan_watch(p, w->largest);
    for (size_t i = 0; i < w->opt->n && !rc; i++) {
        const float *input;
        rc = picture_of(w, i, &input, diag);
        if (rc)
            break;
        farthest = fmax(farthest, distance(input, w->kept, w->picture));
        w->digests[i] = kd_digest_of(input, w->picture * sizeof *input);
        rc = kd_plan_forward(p, input, w->exact + i * w->classes, diag);
    }
    kd_plan_watch(p, NULL);
    return rc ? rc : check_pictures(w, farthest, diag);
}

static void see(void *arg, int node, const float *x, size_t n)
{
    work *w = arg;
    if (w->seen[node])
        kd_histogram_add(w->seen[node], x, n);
}

static int count_values(work *w, kd_plan *p, kd_diag *diag)
{
    int rc = 0;
    for (int i = 0; i < w->q.graph->n_nodes; i++)
        if (w->nodes[i].unit > 0) {
            if (!(w->seen[i] = calloc(1, sizeof *w->seen[i])))
                return no_memory(diag);
            w->seen[i]->largest = w->largest[i];
        }
    kd_plan_observe(p, see, w);
    for (size_t i = 0; i < w->opt->n && !rc; i++) {
        const float *input;
        rc = picture_of(w, i, &input, diag);
        if (!rc)
            rc = kd_plan_forward(p, input, w->exact + i * w->classes, diag);
    }
    kd_plan_observe(p, NULL, NULL);
    return rc;
}

/* ---- choosing */

/* What runs in 8 bits if every value had a range. */
static int choose(work *w, kd_diag *diag)
{
    const int n =
        kd_quantise_choose(w->q.graph, w->q.vector, w->largest, w->nodes, &w->q.convolutions, diag);
    w->q.int8 = n;
    return n > 0 ? 0 : n ? n : -KD_EUNSUP;
}

static void set_ranges(work *w, enum kd_calibrate method)
{
    for (int i = 0; i < w->q.graph->n_nodes; i++) {
        kd_node *n = &w->q.graph->nodes[i];
        kd_int8_node *k = &w->nodes[i];
        n->range = 0;
        if (!(k->unit > 0))
            continue;
        const int levels = k->positive ? KD_INT8_POSITIVE : KD_INT8_WEIGHT;
        const float cut =
            w->seen[i] ? kd_histogram_threshold(w->seen[i], method, levels, w->opt->percentile)
                       : w->largest[i];
        k->unit = kd_int8_unit_for(cut, levels);
        n->range = k->unit * (float)levels;
    }
}

/* ---- what it costs */

static double softmax_sum(const float *z, size_t n, double *out_largest)
{
    double largest = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, (double)z[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp((double)z[i] - largest);
    *out_largest = largest;
    return sum;
}

/* What one method costs. */
typedef struct cost {
    size_t agree;
    double kl;
} cost;

static void compare(const work *w, const float *exact, const float *rounded, cost *c)
{
    double a_most, b_most, kl = 0;
    const double a_sum = softmax_sum(exact, w->classes, &a_most),
                 b_sum = softmax_sum(rounded, w->classes, &b_most);
    size_t a_best = 0, b_best = 0;
    for (size_t i = 0; i < w->classes; i++) {
        const double a = (double)exact[i] - a_most - log(a_sum),
                     b = (double)rounded[i] - b_most - log(b_sum);
        kl += exp(a) * (a - b);
        a_best = exact[i] > exact[a_best] ? i : a_best;
        b_best = rounded[i] > rounded[b_best] ? i : b_best;
    }
    c->agree += a_best == b_best;
    c->kl += kl / (double)w->opt->n;
}

/* Of the ranges that the graph has and nodes knows. vector: room for the rounded parameters. */
static int account(work *w, float *vector, cost *out, kd_diag *diag)
{
    kd_plan *p;
    float *z = malloc(w->classes * sizeof *z);
    int rc = z ? 0 : no_memory(diag);
    *out = (cost){0};
    memcpy(vector, w->q.vector, w->q.graph->vector_len * sizeof *vector);
    kd_quantise_round_as(w->q.graph, w->nodes, vector);
    if (!rc)
        rc = kd_plan_new_ranged(w->q.graph, 1, vector, &p, diag);
    if (rc) {
        free(z);
        return rc;
    }
    for (size_t i = 0; i < w->opt->n && !rc; i++) {
        const float *input;
        rc = picture_of(w, i, &input, diag);
        if (!rc)
            rc = kd_plan_forward(p, input, z, diag);
        if (!rc)
            compare(w, w->exact + i * w->classes, z, out);
    }
    kd_plan_free(p);
    free(z);
    return rc;
}

/* Ranges by the method that is wanted, or by the one that costs least. */
static int settle(work *w, kd_diag *diag)
{
    const bool each = w->opt->method == KD_CALIBRATE_AUTO;
    const enum kd_calibrate first = each ? KD_CALIBRATE_MINMAX : w->opt->method,
                            last = each ? KD_CALIBRATE_KL : w->opt->method;
    float *vector = aligned_alloc(64, (w->q.graph->vector_len * sizeof *vector + 63) / 64 * 64);
    int rc = vector ? 0 : no_memory(diag);
    for (enum kd_calibrate m = first; m <= last && !rc; m++) {
        cost c;
        set_ranges(w, m);
        rc = account(w, vector, &c, diag);
        if (!rc && (m == first || c.kl < w->q.kl)) {
            w->q.method = m;
            w->q.agree = c.agree;
            w->q.kl = c.kl;
        }
    }
    if (!rc)
        set_ranges(w, w->q.method);
    free(vector);
    return rc;
}

/* Values of the folded network in w, and ranges for them. */
static int calibrate(work *w, kd_diag *diag)
{
    kd_plan *p = NULL;
    int rc = kd_plan_new(w->q.graph, 1, KD_PLAN_INFER, &p, diag);
    if (!rc)
        rc = kd_plan_load(p, w->q.vector, diag);
    if (!rc)
        rc = look(w, p, diag);
    if (!rc)
        rc = choose(w, diag);
    if (!rc && w->opt->method != KD_CALIBRATE_MINMAX)
        rc = count_values(w, p, diag);
    kd_plan_free(p);
    return rc ? rc : settle(w, diag);
}

/* round: the parameters, too. */
static int quantise(const kd_graph *g, const float *vector, const kd_quantise_options *opt,
                    bool round, kd_quantised *out, kd_diag *diag)
{
    work w = {.opt = opt};
    if (opt->n < KD_QUANTISE_LEAST || opt->n > KD_QUANTISE_MOST)
        return kd_fail(diag, -KD_EINVAL,
                       "%zu pictures to calibrate with: %d to %d are needed, of every kind that "
                       "the network is to see",
                       opt->n, KD_QUANTISE_LEAST, KD_QUANTISE_MOST);
    int rc = kd_fold(g, vector, &w.q.graph, &w.q.vector, diag);
    if (rc)
        return rc;
    rc = make_room(&w, diag);
    if (!rc)
        rc = calibrate(&w, diag);
    if (!rc && round)
        kd_quantise_round_as(w.q.graph, w.nodes, w.q.vector);
    clear(&w);
    if (rc)
        kd_quantised_clear(&w.q);
    else
        *out = w.q;
    return rc;
}

int kd_quantise(const kd_graph *g, const float *vector, const kd_quantise_options *opt,
                kd_quantised *out, kd_diag *diag)
{
    return quantise(g, vector, opt, true, out, diag);
}

int kd_quantise_calibrate(const kd_graph *g, const float *vector, const kd_quantise_options *opt,
                          kd_quantised *out, kd_diag *diag)
{
    return quantise(g, vector, opt, false, out, diag);
}

bool kd_quantised_doubtful(const kd_quantised *q, size_t n)
{
    return (double)q->agree < KD_QUANTISE_AGREE * (double)n;
}

void kd_quantised_clear(kd_quantised *q)
{
    kd_graph_free(q->graph);
    free(q->vector);
    *q = (kd_quantised){0};
}

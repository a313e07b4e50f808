/* What an inference costs: processor time of one thread, by itself and in batches. Networks take
 * turns, so that what else the machine does meets all of them alike. */
#include "runner_internal.h"

#include <stdlib.h>
#include <string.h>

#define ROUNDS 3   /* in which each network has a turn; the middle one counts */
#define TURN_S 0.1 /* of a turn, at least */
#define BATCH 64   /* pictures */
#define MOST_BYTES                                                                                 \
    512e6                /* that a batch, or its pictures, may take; a larger one is not measured  \
                          */
#define KEPT_BYTES 256e6 /* of plans that are kept between turns; others are made for each */

enum { SINGLE, BATCHED, WAYS };

/* Pictures as networks of one size and preprocessing want them, the same for all. */
struct feed {
    const kd_net *like;
    size_t floats; /* of a picture */
    int n;
    float *input; /* [n][size, size, 3] */
};

struct entrant {
    const kd_net *net;
    const struct feed *feed;
    kd_plan *plans[WAYS]; /* that are kept, else NULL */
    double bytes;         /* of the plan for one picture */
    double ms[WAYS][ROUNDS];
};

struct contest {
    kd_runner *r;
    struct entrant nets[KD_MAX_FINISHED];
    struct feed feeds[KD_MAX_FINISHED];
    size_t n, n_feeds;
    double kept_bytes;
    float *logits; /* [BATCH][classes] */
};

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* ---- who takes part, and with what pictures */

static int add_feed(struct contest *c, const kd_net *net, const struct feed **out, kd_diag *diag)
{
    for (size_t i = 0; i < c->n_feeds; i++)
        if (c->feeds[i].like->size == net->size &&
            c->feeds[i].like->preprocess == net->preprocess) {
            *out = &c->feeds[i];
            return 0;
        }
    struct feed *f = &c->feeds[c->n_feeds];
    const size_t floats = (size_t)net->size * (size_t)net->size * 3;
    const bool all = (double)(floats * sizeof(float)) * BATCH <= MOST_BYTES;
    *f = (struct feed){.like = net, .floats = floats, .n = all ? BATCH : 1};
    f->input = malloc((size_t)f->n * floats * sizeof *f->input);
    if (!f->input)
        return kd_fail(diag, -KD_ENOMEM, "no memory to measure with");
    c->n_feeds++;
    *out = f;
    return 0;
}

static int add_nets(struct contest *c, Distill__V1__ModelCost *costs, kd_diag *diag)
{
    int rc = 0;
    for (int i = 0; i < kd_stage_n_finished(c->r->stage) && rc == 0; i++) {
        const char *name;
        const kd_net *net = kd_stage_finished_net(c->r->stage, i, &name);
        if (strchr(name, '.')) /* the best version costs what the last one does */
            continue;
        Distill__V1__ModelCost *cost = &costs[c->n];
        distill__v1__model_cost__init(cost);
        cost->name = (char *)name;
        cost->parameters = net->graph->trained_len;
        cost->bytes = net->graph->vector_len * sizeof(float);
        c->nets[c->n].net = net;
        rc = add_feed(c, net, &c->nets[c->n++].feed, diag);
    }
    return rc;
}

/* Each picture is decoded once. rgb, small: room for one of the data's size. */
static int fill_feeds(struct contest *c, uint8_t *rgb, uint8_t *small, kd_diag *diag)
{
    const kd_session *ss = c->r->session;
    const size_t first = ss->n_val ? kd_data_first(ss->data, KD_SPLIT_VAL) : 0;
    const size_t n = ss->n_val ? ss->n_val : ss->n_train;
    int rc = 0;
    for (size_t i = 0; i < BATCH && rc == 0; i++) {
        (void)kd_cache_get(ss->cache, first + i % n, rgb); /* one that cannot be read is grey */
        for (size_t k = 0; k < c->n_feeds && rc == 0; k++) {
            const struct feed *f = &c->feeds[k];
            if (i < (size_t)f->n)
                rc = kd_stage_to_input(ss, f->like, rgb, small, f->input + i * f->floats, diag);
        }
    }
    return rc;
}

/* ---- turns */

/* One turn: milliseconds a picture. */
static int turn(const struct contest *c, const struct entrant *e, kd_plan *plan, int batch,
                double *out_ms, kd_diag *diag)
{
    double spent = 0;
    int n = 0;
    /* What it needs comes into caches. */
    int rc = kd_plan_forward(plan, e->feed->input, c->logits, diag);
    while (rc == 0 && (n == 0 || spent < TURN_S)) {
        const double begin = kd_clock_thread_s();
        rc = kd_runner_stopped(c->r) ? -KD_ECANCELED
                                     : kd_plan_forward(plan, e->feed->input, c->logits, diag);
        spent += kd_clock_thread_s() - begin;
        n++;
    }
    *out_ms = spent * 1000 / n / batch;
    return rc;
}

/* A network's turn in one way; 0 where it is too large for it. */
static int measure(struct contest *c, struct entrant *e, int way, double *out_ms, kd_diag *diag)
{
    const int batch = way == BATCHED ? BATCH : 1;
    kd_plan *plan = e->plans[way];
    *out_ms = 0;
    if (way == BATCHED && (e->feed->n < BATCH || e->bytes * BATCH > MOST_BYTES))
        return 0;
    int rc = plan ? 0 : kd_plan_new_infer(e->net->graph, batch, e->net->vector, &plan, diag);
    if (rc != 0)
        return rc;
    const double bytes = (double)kd_plan_arena_bytes(plan);
    if (way == SINGLE)
        e->bytes = bytes;
    if (!e->plans[way] && c->kept_bytes + bytes <= KEPT_BYTES) {
        e->plans[way] = plan;
        c->kept_bytes += bytes;
    }
    rc = turn(c, e, plan, batch, out_ms, diag);
    if (plan != e->plans[way])
        kd_plan_free(plan);
    return rc;
}

static int measure_all(struct contest *c, kd_diag *diag)
{
    int rc = 0;
    for (int k = 0; k < ROUNDS; k++)
        for (size_t i = 0; i < c->n; i++)
            for (int way = 0; way < WAYS && rc == 0; way++)
                rc = measure(c, &c->nets[i], way, &c->nets[i].ms[way][k], diag);
    return rc;
}

static double middle(double ms[ROUNDS])
{
    qsort(ms, ROUNDS, sizeof *ms, by_size);
    return ms[ROUNDS / 2];
}

static void clear(struct contest *c)
{
    for (size_t i = 0; i < c->n; i++)
        for (int way = 0; way < WAYS; way++)
            kd_plan_free(c->nets[i].plans[way]);
    for (size_t i = 0; i < c->n_feeds; i++)
        free(c->feeds[i].input);
    free(c->logits);
    free(c);
}

int kd_runner_costs(kd_runner *r, Distill__V1__ModelCost *costs, size_t *out_n, kd_diag *diag)
{
    const kd_session *ss = r->session;
    const size_t picture = (size_t)ss->size * (size_t)ss->size * 3;
    struct contest *c = kd_xalloc(sizeof *c);
    uint8_t *rgb = malloc(picture), *small = malloc(picture);
    c->r = r;
    c->logits = malloc(BATCH * (size_t)ss->classes * sizeof *c->logits);
    int rc = rgb && small && c->logits ? add_nets(c, costs, diag)
                                       : kd_fail(diag, -KD_ENOMEM, "no memory to measure with");
    if (rc == 0)
        rc = fill_feeds(c, rgb, small, diag);
    if (rc == 0)
        rc = measure_all(c, diag);
    for (size_t i = 0; i < c->n && rc == 0; i++) {
        costs[i].ms_per_image = middle(c->nets[i].ms[SINGLE]);
        costs[i].ms_per_image_64 = middle(c->nets[i].ms[BATCHED]);
    }
    *out_n = rc == 0 ? c->n : 0;
    free(rgb);
    free(small);
    clear(c);
    return rc;
}

/* What an inference costs: processor time of one thread, by itself and in batches. Networks take
 * turns, so that what else the machine does meets all of them alike. */
#include "runner_internal.h"

#include <stdlib.h>
#include <string.h>

#define ROUNDS 3         /* in which each network has a turn; the middle one counts */
#define TURN_S 0.1       /* of a turn, at least */
#define BATCH 64         /* pictures */
#define MOST_BYTES 512e6 /* that a batch may take; a larger network's is not measured */

/* The same pictures for every network, each as it wants them. */
struct pictures {
    const kd_session *ss;
    uint8_t *rgb, *small; /* [size, size, 3] */
    float *input;         /* [BATCH][size, size, 3] of the network */
    float *logits;        /* [BATCH][classes] */
};

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int make_room(struct pictures *p, const kd_net *net, int batch, kd_diag *diag)
{
    const size_t floats = (size_t)net->size * (size_t)net->size * 3;
    const kd_session *ss = p->ss;
    const size_t first = ss->n_val ? kd_data_first(ss->data, KD_SPLIT_VAL) : 0;
    const size_t n = ss->n_val ? ss->n_val : ss->n_train;
    free(p->input);
    p->input = malloc(floats * (size_t)batch * sizeof *p->input);
    if (!p->input)
        return kd_fail(diag, -KD_ENOMEM, "no memory to measure with");
    for (size_t i = 0; i < (size_t)batch; i++)
        kd_stage_feed(ss, net, (uint32_t)(first + i % n), p->rgb, p->small, p->input + i * floats);
    return 0;
}

/* One turn: milliseconds a picture. */
static int turn(kd_runner *r, const struct pictures *p, kd_plan *plan, int batch, double *out_ms,
                kd_diag *diag)
{
    double spent = 0;
    int n = 0;
    int rc = kd_plan_forward(plan, p->input, p->logits, diag); /* what it needs comes into caches */
    while (rc == 0 && (n == 0 || spent < TURN_S)) {
        const double begin = kd_clock_thread_s();
        rc =
            kd_runner_stopped(r) ? -KD_ECANCELED : kd_plan_forward(plan, p->input, p->logits, diag);
        spent += kd_clock_thread_s() - begin;
        n++;
    }
    *out_ms = spent * 1000 / n / batch;
    return rc;
}

/* A network's turn in one batch size; 0 where it is too large. */
static int measure(kd_runner *r, struct pictures *p, const kd_net *net, int batch, double *out_ms,
                   kd_diag *diag)
{
    kd_plan *plan = NULL;
    int rc = kd_plan_new_infer(net->graph, 1, net->vector, &plan, diag);
    *out_ms = 0;
    if (rc == 0 && batch > 1) {
        const bool fits = (double)kd_plan_arena_bytes(plan) * batch <= MOST_BYTES;
        kd_plan_free(plan);
        plan = NULL;
        if (!fits)
            return 0;
        rc = kd_plan_new_infer(net->graph, batch, net->vector, &plan, diag);
    }
    if (rc == 0)
        rc = make_room(p, net, batch, diag);
    if (rc == 0)
        rc = turn(r, p, plan, batch, out_ms, diag);
    kd_plan_free(plan);
    return rc;
}

static int measure_all(kd_runner *r, struct pictures *p, Distill__V1__ModelCost *costs,
                       size_t *out_n, kd_diag *diag)
{
    const kd_net *nets[KD_MAX_FINISHED];
    double ms[KD_MAX_FINISHED][2][ROUNDS];
    size_t n = 0;
    int rc = 0;
    for (int i = 0; i < kd_stage_n_finished(r->stage); i++) {
        const char *name;
        nets[n] = kd_stage_finished_net(r->stage, i, &name);
        if (strchr(name, '.')) /* the best version costs what the last one does */
            continue;
        Distill__V1__ModelCost *c = &costs[n];
        distill__v1__model_cost__init(c);
        c->name = (char *)name;
        c->parameters = nets[n]->graph->trained_len;
        c->bytes = nets[n]->graph->vector_len * sizeof(float);
        n++;
    }
    for (int k = 0; k < ROUNDS; k++)
        for (size_t i = 0; i < n && rc == 0; i++) {
            rc = measure(r, p, nets[i], 1, &ms[i][0][k], diag);
            if (rc == 0)
                rc = measure(r, p, nets[i], BATCH, &ms[i][1][k], diag);
        }
    for (size_t i = 0; i < n && rc == 0; i++) {
        for (int b = 0; b < 2; b++)
            qsort(ms[i][b], ROUNDS, sizeof(double), by_size);
        costs[i].ms_per_image = ms[i][0][ROUNDS / 2];
        costs[i].ms_per_image_64 = ms[i][1][ROUNDS / 2];
    }
    *out_n = rc == 0 ? n : 0;
    return rc;
}

int kd_runner_costs(kd_runner *r, Distill__V1__ModelCost *costs, size_t *out_n, kd_diag *diag)
{
    const kd_session *ss = r->session;
    const size_t picture = (size_t)ss->size * (size_t)ss->size * 3;
    struct pictures p = {.ss = ss,
                         .rgb = malloc(picture),
                         .small = malloc(picture),
                         .logits = malloc(BATCH * (size_t)ss->classes * sizeof(float))};
    const int rc = p.rgb && p.small && p.logits
                       ? measure_all(r, &p, costs, out_n, diag)
                       : kd_fail(diag, -KD_ENOMEM, "no memory to measure with");
    free(p.rgb);
    free(p.small);
    free(p.input);
    free(p.logits);
    return rc;
}

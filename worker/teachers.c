/* A stage's teachers: what names their logits in the bank, their plans, a view seen by one. */
#include "stage_internal.h"

#include "kd/hash.h"
#include "kd/log.h"
#include "models/graph_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALIBRATION 64 /* pictures that tell an 8-bit teacher's scales */

/* Of a network: its structure and its parameters. */
static kd_digest network_digest(const kd_net *n)
{
    char *graph = kd_graph_to_json(n->graph);
    kd_hasher *h = kd_hasher_new();
    KD_BUG_ON(!graph || !h);
    kd_hasher_add(h, graph, strlen(graph) + 1);
    kd_hasher_add(h, n->vector, n->graph->vector_len * sizeof(float));
    kd_digest d = kd_hasher_digest(h);
    kd_hasher_free(h);
    free(graph);
    return d;
}

/* Records of a bank once the stage is done; 0 where views are always new ones, or unlabelled
 * samples are copied as their labels come out. */
static uint64_t wanted(const kd_stage *s, bool clean)
{
    const kd_session *ss = s->session;
    if (clean)
        return ss->n_val + ss->n_unlabelled;
    return s->train && s->train->views > 0 && ss->n_unlabelled == 0
               ? (uint64_t)s->train->views * ss->n_train
               : 0;
}

const kd_net *kd_stage_outside_net(kd_stage *s, int teacher)
{
    const kd_teacher_spec *t = &s->session->job.teachers[teacher];
    if (!kd_teacher_is_outside(t))
        return NULL;
    s->outside[teacher] = (kd_net){.preprocess = t->model.preprocess,
                                   .size = t->model.size ? t->model.size : s->session->size};
    return &s->outside[teacher];
}

void kd_stage_name_outside(kd_stage *s, int teacher, const char *probe)
{
    for (int k = 0; k < 2; k++) {
        kd_bank_ref *b = &s->banks[teacher][k];
        /* Whichever worker asks: the numbers are the server's. */
        snprintf(b->teacher, sizeof b->teacher, "%.32s", probe);
        snprintf(b->numerics, sizeof b->numerics, "%.32s", probe);
        snprintf(b->precision, sizeof b->precision, "kserve");
    }
}

void kd_stage_set_banks(kd_stage *s, const char *numerics)
{
    kd_digest data = kd_data_digest(s->session->data);
    kd_view_rule clean = {.size = s->session->rule.size};
    for (int i = 0; i < s->shape.n_teachers; i++) {
        const kd_net *t = s->teachers[i];
        kd_digest teacher = t->graph ? network_digest(t) : (kd_digest){0};
        for (int k = 0; k < 2; k++) {
            kd_bank_ref *b = &s->banks[i][k];
            kd_digest_hex(&teacher, b->teacher);
            kd_digest_hex(&data, b->data);
            snprintf(b->numerics, sizeof b->numerics, "%s", numerics);
            kd_view_rule_text(k ? &clean : &s->session->rule, (int)t->preprocess, b->view_rule,
                              sizeof b->view_rule);
            size_t n = strlen(b->view_rule);
            if (t->size != s->session->size)
                snprintf(b->view_rule + n, sizeof b->view_rule - n, " seen %d", t->size);
            b->classes = (uint32_t)s->session->classes;
            b->wanted = wanted(s, k);
        }
    }
}

int kd_stage_training_picture(kd_stage *s, int teacher, size_t i, size_t n, kd_diag *diag)
{
    struct context *c = &s->contexts[0];
    const kd_session *ss = s->session;
    kd_view_mix mix;
    kd_stage_make_view(s, c, (uint32_t)(i * ss->n_train / n), KD_VIEW_CLEAN, &mix);
    return kd_stage_to_input(ss, s->teachers[teacher], c->view, c->small, c->image, diag);
}

/* Of each node's output over clean training pictures: its largest absolute value, and the mean of
 * each of its channels. */
struct calibration {
    float *numbers; /* [n] largest, then means */
    size_t n;
    float *largest, *means;
};

static struct calibration no_calibration(const kd_graph *g)
{
    const size_t nodes = (size_t)g->n_nodes;
    struct calibration c = {.n = nodes + kd_graph_channels(g, g->n_nodes)};
    c.largest = c.numbers = kd_xalloc(c.n * sizeof *c.numbers);
    c.means = c.numbers + nodes;
    return c;
}

static int calibrate(kd_stage *s, int teacher, struct calibration *out, kd_diag *diag)
{
    struct context *c = &s->contexts[0];
    const kd_graph *g = s->teachers[teacher]->graph;
    const size_t n = KD_MIN(s->session->n_train, (size_t)CALIBRATION);
    double *sums = kd_xalloc(kd_graph_channels(g, g->n_nodes) * sizeof *sums);
    kd_plan *p = NULL;
    int rc = kd_stage_teacher_plan(s, teacher, KD_FLOAT32, &p, diag);
    if (rc == 0) {
        kd_plan_watch(p, out->largest);
        kd_plan_watch_sums(p, sums);
    }
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = kd_stage_training_picture(s, teacher, i, n, diag);
        if (rc == 0)
            rc = kd_plan_forward(p, c->image, c->logits, diag);
    }
    kd_plan_means(g, sums, n, out->means);
    kd_plan_free(p);
    free(sums);
    return rc;
}

/* Without weights yet, but in 8 bits: they tell the scales, as c does. */
static int new_plan(const kd_net *t, enum kd_precision precision, const struct calibration *c,
                    kd_plan **out, kd_diag *diag)
{
    switch (precision) {
    case KD_INT8:
        return kd_plan_new_int8(t->graph, 1, t->vector, c->largest, c->means, out, diag);
    case KD_BFLOAT16:
        return kd_plan_new_bfloat16(t->graph, 1, KD_PLAN_INFER, out, diag);
    case KD_FLOAT32:
    case KD_PRECISION_AUTO:
        break;
    }
    return kd_plan_new(t->graph, 1, KD_PLAN_INFER, out, diag);
}

int kd_stage_teacher_plan(kd_stage *s, int teacher, enum kd_precision precision, kd_plan **out,
                          kd_diag *diag)
{
    const kd_net *t = s->teachers[teacher];
    struct calibration c = no_calibration(t->graph);
    kd_plan *p = NULL;
    int rc = precision == KD_INT8 ? calibrate(s, teacher, &c, diag) : 0;
    if (rc == 0)
        rc = new_plan(t, precision, &c, &p, diag);
    free(c.numbers);
    if (rc == 0 && precision != KD_INT8)
        rc = kd_plan_load(p, t->vector, diag);
    if (rc != 0) {
        kd_plan_free(p);
        return rc;
    }
    *out = p;
    return 0;
}

/* Other scales are another teacher: to the bank, and to the other workers of the job. */
static void name_precision(kd_stage *s, int teacher, enum kd_precision precision,
                           const struct calibration *c)
{
    const kd_digest scales = kd_digest_of(c->numbers, c->n * sizeof *c->numbers);
    char hex[33];
    kd_digest_hex(&scales, hex);
    for (int k = 0; k < 2; k++) {
        char *to = s->banks[teacher][k].precision;
        const size_t size = sizeof s->banks[teacher][k].precision;
        if (precision == KD_INT8)
            snprintf(to, size, "int8-%.16s", hex);
        else
            snprintf(to, size, "%s", kd_precision_name(precision));
    }
}

/* A network whose convolutions all stand beside something else gains nothing. */
static void tell_precision(const kd_plan *p, int teacher)
{
    const int n = kd_plan_int8_tasks(p);
    if (n > 0)
        kd_info("teacher %d: %d convolutions in 8 bits", teacher + 1, n);
    else
        kd_warn("teacher %d: none of its convolutions can be done in 8 bits; it runs in float32",
                teacher + 1);
}

/* The job's choice, made here if nobody has made it. */
static int settle_precision(kd_stage *s, const kd_stage_config *cfg, int teacher, kd_diag *diag)
{
    bool measure = false;
    char why[512];
    enum kd_precision chosen;
    int rc = cfg->decide(cfg->arg, teacher, "", "", &measure, diag);
    if (rc != 0 || !measure)
        return rc;
    rc = kd_stage_measure_precision(s, teacher, &chosen, why, sizeof why, diag);
    if (rc == 0)
        rc = cfg->decide(cfg->arg, teacher, kd_precision_name(chosen), why, &measure, diag);
    return rc;
}

int kd_stage_make_teachers(kd_stage *s, const kd_stage_config *cfg, kd_diag *diag)
{
    int rc = 0;
    for (int i = 0; i < s->shape.n_teachers && rc == 0; i++) {
        const kd_net *t = s->teachers[i];
        if (!t->graph)
            continue; /* it runs elsewhere */
        const enum kd_precision *precision = &s->session->job.teachers[i].precision;
        struct calibration calibration = no_calibration(t->graph);
        if (*precision == KD_PRECISION_AUTO)
            rc = settle_precision(s, cfg, i, diag);
        if (rc == 0 && *precision == KD_INT8)
            rc = calibrate(s, i, &calibration, diag);
        name_precision(s, i, *precision, &calibration);
        for (int k = 0; k < s->threads && rc == 0; k++) {
            struct context *c = &s->contexts[k];
            rc = new_plan(t, *precision, &calibration, &c->teachers[i], diag);
            c->teacher_loaded[i] = *precision == KD_INT8;
        }
        if (*precision == KD_INT8 && rc == 0)
            tell_precision(s->contexts[0].teachers[i], i);
        free(calibration.numbers);
    }
    return rc;
}

const kd_bank_ref *kd_stage_bank(const kd_stage *s, int teacher, bool clean)
{
    return &s->banks[teacher][clean];
}

void kd_stage_join_teachers(const kd_stage *s, double temperature, const float *const *rows,
                            float *out)
{
    const kd_job *job = &s->session->job;
    double share[KD_MAX_TEACHERS] = {1}, all = 0;
    for (int i = 0; i < s->shape.n_teachers; i++)
        all += job->teachers[i].weight;
    for (int i = 0; i < s->shape.n_teachers && all > 0; i++)
        share[i] = job->teachers[i].weight / all;
    kd_ensemble_logits(job->ensemble == KD_ENSEMBLE_LOGITS ? KD_COMBINE_LOGITS
                                                           : KD_COMBINE_PROBABILITIES,
                       s->shape.n_teachers, share, temperature, s->session->classes, rows, out);
}

int kd_stage_show(kd_stage *s, int thread, int teacher, uint32_t sample, uint32_t view,
                  float *input, kd_diag *diag)
{
    struct context *c = &s->contexts[thread];
    kd_view_mix mix;
    kd_stage_make_view(s, c, sample, view, &mix);
    return kd_stage_to_input(s->session, s->teachers[teacher], c->view, c->small, input, diag);
}

int kd_stage_teach(kd_stage *s, int thread, int teacher, uint32_t sample, uint32_t view,
                   float *logits, kd_diag *diag)
{
    struct context *c = &s->contexts[thread];
    const kd_net *t = s->teachers[teacher];
    if (!c->teacher_loaded[teacher]) {
        int rc = kd_plan_load(c->teachers[teacher], t->vector, diag);
        if (rc != 0)
            return rc;
        c->teacher_loaded[teacher] = true;
    }
    int rc = kd_stage_show(s, thread, teacher, sample, view, c->image, diag);
    return rc == 0 ? kd_plan_forward(c->teachers[teacher], c->image, logits, diag) : rc;
}

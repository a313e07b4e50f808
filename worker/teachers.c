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

void kd_stage_set_banks(kd_stage *s, const char *numerics)
{
    kd_digest data = kd_data_digest(s->session->data);
    kd_view_rule clean = {.size = s->session->rule.size};
    for (int i = 0; i < s->shape.n_teachers; i++) {
        const kd_net *t = s->teachers[i];
        kd_digest teacher = network_digest(t);
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
        }
    }
}

/* largest: of each node's output over clean training pictures, evenly spread: the same for every
 * worker. */
static int calibrate(kd_stage *s, const kd_net *t, float *largest, kd_diag *diag)
{
    struct context *c = &s->contexts[0];
    const kd_session *ss = s->session;
    const size_t n = KD_MIN(ss->n_train, (size_t)CALIBRATION);
    kd_plan *p = NULL;
    int rc = kd_plan_new(t->graph, 1, KD_PLAN_INFER, &p, diag);
    if (rc == 0)
        rc = kd_plan_load(p, t->vector, diag);
    if (rc == 0)
        kd_plan_watch(p, largest);
    for (size_t i = 0; i < n && rc == 0; i++) {
        kd_view_mix mix;
        kd_stage_make_view(s, c, (uint32_t)(i * ss->n_train / n), KD_VIEW_CLEAN, &mix);
        rc = kd_stage_to_input(ss, t, c->view, c->small, c->image, diag);
        if (rc == 0)
            rc = kd_plan_forward(p, c->image, c->logits, diag);
    }
    kd_plan_free(p);
    return rc;
}

/* Other scales are another teacher: to the bank, and to the other workers of the job. */
static void name_precision(kd_stage *s, int teacher, bool int8, const float *largest, size_t bytes)
{
    const kd_digest scales = kd_digest_of(largest, bytes);
    char hex[33];
    kd_digest_hex(&scales, hex);
    for (int k = 0; k < 2; k++) {
        char *to = s->banks[teacher][k].precision;
        const size_t size = sizeof s->banks[teacher][k].precision;
        if (int8)
            snprintf(to, size, "int8-%.16s", hex);
        else
            snprintf(to, size, "float32");
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

int kd_stage_make_teachers(kd_stage *s, kd_diag *diag)
{
    int rc = 0;
    for (int i = 0; i < s->shape.n_teachers && rc == 0; i++) {
        const kd_net *t = s->teachers[i];
        const bool int8 = s->session->job.teachers[i].precision == KD_INT8;
        const size_t bytes = (size_t)t->graph->n_nodes * sizeof(float);
        float *largest = kd_xalloc(bytes);
        if (int8)
            rc = calibrate(s, t, largest, diag);
        name_precision(s, i, int8, largest, bytes);
        for (int k = 0; k < s->threads && rc == 0; k++) {
            struct context *c = &s->contexts[k];
            rc = int8 ? kd_plan_new_int8(t->graph, 1, t->vector, largest, &c->teachers[i], diag)
                      : kd_plan_new(t->graph, 1, KD_PLAN_INFER, &c->teachers[i], diag);
            c->teacher_loaded[i] = int8;
        }
        if (int8 && rc == 0)
            tell_precision(s->contexts[0].teachers[i], i);
        free(largest);
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
    kd_view_mix mix;
    kd_stage_make_view(s, c, sample, view, &mix);
    int rc = kd_stage_to_input(s->session, t, c->view, c->small, c->image, diag);
    return rc == 0 ? kd_plan_forward(c->teachers[teacher], c->image, logits, diag) : rc;
}

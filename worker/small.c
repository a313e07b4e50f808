/* Stages of `compress`: a finished network, what a step takes from it, how it is trained meanwhile,
 * and what is stored in the end. A step with epochs has two stages. The first, `tune`, trains
 * floats that are pruned and rounded anew for each version (compress/tune.h); the second, of no
 * epochs, makes of the last version what it stood for. */
#include "stage_internal.h"

#include "compress/quantise.h"
#include "models/int8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *kd_stage_source(const kd_job *job, enum kd_stage_kind kind)
{
    const int made = kd_stage_compress(kind), step = made >= 0 ? made : kd_stage_tune(kind);
    if (step < 0)
        return NULL;
    if (made >= 0 && job->compress[step].tune.epochs > 0)
        return kd_stage_name((enum kd_stage_kind)(KD_STAGE_TUNE + step));
    const int source = kd_compress_source(job, step);
    return source < 0 ? "student" : kd_stage_name((enum kd_stage_kind)(KD_STAGE_COMPRESS + source));
}

/* The source becomes the stage's own network. */
static int take_source(kd_stage *s, kd_diag *diag)
{
    const char *name = kd_stage_source(&s->session->job, s->kind);
    for (int i = 0; i < s->n_finished; i++) {
        if (strcmp(s->finished[i].name, name) != 0)
            continue;
        const kd_model_file_info *info = &s->finished[i].info;
        s->net = s->finished[i].net;
        s->finished[i].net = (kd_net){0};
        s->smoothing = info->label_smoothing;
        snprintf(s->taught_by, sizeof s->taught_by, "%s", info->teacher);
        snprintf(s->calibration, sizeof s->calibration, "%s", info->calibration);
        return 0;
    }
    return kd_fail(diag, -KD_EINVAL, "there is no %s to make smaller", name);
}

static void replace(kd_net *net, kd_graph *graph, float *vector)
{
    kd_graph_free(net->graph);
    free(net->vector);
    net->graph = graph;
    net->vector = vector;
}

/* ---- what a step begins with */

struct calibration {
    const kd_stage *s;
    size_t n;
    uint8_t *rgb, *small;
};

/* Clean training pictures, evenly spread, the same for every worker. */
static int calibration_picture(void *arg, size_t i, float *input, kd_diag *diag)
{
    const struct calibration *c = arg;
    const kd_session *ss = c->s->session;
    (void)diag;
    kd_stage_feed(ss, &c->s->net, (uint32_t)(i * ss->n_train / c->n), c->rgb, c->small, input);
    return 0;
}

/* What people are told of it. n: pictures. */
static void tell_calibration(kd_stage *s, bool is_trained, const kd_quantised *q, size_t n)
{
    const char *method = kd_calibrate_word(q->method);
    s->doubtful =
        !is_trained && kd_quantised_doubtful(q, n); /* what training makes of it is told */
    snprintf(s->calibration, sizeof s->calibration, "%s, %zu pictures", method, n);
    snprintf(s->calibrated, sizeof s->calibrated,
             "8 bits, calibrated with %s: the same answer as in float32 on %zu of %zu training "
             "pictures, KL %.5f nats%s",
             method, q->agree, n, q->kl,
             is_trained    ? ", before it is trained with them"
             : s->doubtful ? "; that is few: let it train with them (`epochs`), or try another "
                             "`method` or more `pictures`"
                           : "");
}

static int calibrate(kd_stage *s, const kd_compress_spec *spec, kd_diag *diag)
{
    static const enum kd_calibrate methods[] = {
        [KD_METHOD_MINMAX] = KD_CALIBRATE_MINMAX, [KD_METHOD_PERCENTILE] = KD_CALIBRATE_PERCENTILE,
        [KD_METHOD_MSE] = KD_CALIBRATE_MSE,       [KD_METHOD_KL] = KD_CALIBRATE_KL,
        [KD_METHOD_AUTO] = KD_CALIBRATE_AUTO,
    };
    const size_t picture = (size_t)s->session->size * (size_t)s->session->size * 3;
    struct calibration c = {.s = s,
                            .n = KD_MIN((size_t)spec->pictures, s->session->n_train),
                            .rgb = malloc(picture),
                            .small = malloc(picture)};
    const kd_quantise_options opt = {.method = methods[spec->method],
                                     .percentile = spec->percentile,
                                     .n = c.n,
                                     .keep_bytes = KD_QUANTISE_KEEP,
                                     .picture = calibration_picture,
                                     .arg = &c};
    kd_quantised q;
    const int rc = c.rgb && c.small
                       ? kd_quantise_calibrate(s->net.graph, s->net.vector, &opt, &q, diag)
                       : kd_fail(diag, -KD_ENOMEM, "no memory to calibrate with");
    if (rc == 0) {
        tell_calibration(s, spec->tune.epochs > 0, &q, c.n);
        replace(&s->net, q.graph, q.vector);
    }
    free(c.rgb);
    free(c.small);
    return rc;
}

static int remove_channels(kd_stage *s, const kd_compress_spec *spec, kd_diag *diag)
{
    kd_graph *graph;
    float *vector;
    const int rc = kd_prune_channels_less(s->net.graph, s->net.vector, spec->share, spec->multiple,
                                          &graph, &vector, diag);
    if (rc == 0)
        replace(&s->net, graph, vector);
    return rc;
}

/* ---- what it makes */

static enum kd_prune_scope scope_of(const kd_compress_spec *spec)
{
    return spec->scope == KD_SCOPE_LAYER ? KD_PRUNE_LAYER : KD_PRUNE_GLOBAL;
}

static int prune(kd_stage *s, const kd_compress_spec *spec, kd_diag *diag)
{
    const kd_graph *g = s->net.graph;
    uint8_t *mask = malloc(g->vector_len + 1);
    if (!mask)
        return kd_fail(diag, -KD_ENOMEM, "no memory to prune %zu weights", g->vector_len);
    kd_prune_gone(g, s->net.vector, mask);
    const int rc = kd_prune_magnitude(g, s->net.vector, spec->share, scope_of(spec), mask, diag);
    if (rc == 0)
        kd_prune_apply(mask, g->vector_len, s->net.vector);
    free(mask);
    return rc;
}

static int finish(kd_stage *s, const kd_compress_spec *spec, kd_diag *diag)
{
    const int rc = spec->kind == KD_COMPRESS_PRUNE ? prune(s, spec, diag) : 0;
    if (rc != 0)
        return rc;
    if (kd_graph_is_int8(s->net.graph))
        return kd_quantise_round(s->net.graph, s->net.vector, diag);
    kd_half_round(s->net.graph, s->half, s->net.vector);
    return 0;
}

/* ---- its training */

static int begin_tuning(kd_stage *s, const kd_compress_spec *spec, kd_diag *diag)
{
    const kd_graph *g = s->net.graph;
    s->tunes = true;
    if (spec->kind == KD_COMPRESS_PRUNE) {
        const double gone = kd_prune_gone(g, s->net.vector, NULL);
        s->pruning = (kd_tune_pruning){
            .first = gone, .last = KD_MAX(gone, spec->share), .scope = scope_of(spec)};
    }
    return kd_graph_is_int8(g) ? kd_tune_graph(g, s->net.vector, &s->rounded, diag) : 0;
}

void kd_small_compose(kd_stage *s)
{
    if (s->tunes)
        s->pruning.steps = (uint64_t)llround(s->session->job.compress[kd_stage_tune(s->kind)].ramp *
                                             (double)s->shape.steps);
}

int kd_small_new(kd_stage *s, const char **out_problem, kd_diag *diag)
{
    const kd_job *job = &s->session->job;
    const int tune = kd_stage_tune(s->kind), step = tune >= 0 ? tune : kd_stage_compress(s->kind);
    const kd_compress_spec *spec = &job->compress[step];
    const bool begins = tune >= 0 || spec->tune.epochs == 0;
    *out_problem = "BAD_JOB";
    int rc = take_source(s, diag);
    if (rc == 0 && begins && spec->kind == KD_COMPRESS_QUANTIZE)
        rc = calibrate(s, spec, diag);
    if (rc == 0 && begins && spec->kind == KD_COMPRESS_CHANNELS)
        rc = remove_channels(s, spec, diag);
    if (tune < 0)
        s->half = kd_compress_half(job, step);
    if (rc == 0)
        rc = tune >= 0 ? begin_tuning(s, spec, diag) : finish(s, spec, diag);
    return rc;
}

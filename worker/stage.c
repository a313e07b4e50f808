#include "stage.h"

#include "kd/hash.h"
#include "kd/rng.h"
#include "stage_internal.h"
#include "wire/limits.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- life */

static void set_loss(kd_stage *s)
{
    const kd_loss_spec *l = &s->train->loss;
    const double weights[KD_LOSS_TERMS] = {
        [KD_TERM_CE] = l->ce,   [KD_TERM_KD] = l->kd,     [KD_TERM_MSE] = l->mse,
        [KD_TERM_DKD] = l->dkd, [KD_TERM_DIST] = l->dist, [KD_TERM_NKD] = l->nkd,
        [KD_TERM_JSD] = l->jsd};
    s->loss = (kd_loss){.temperature = l->temperature,
                        .t2 = l->t2 == KD_T2_NONE   ? KD_LOSS_T2_NONE
                              : l->t2 == KD_T2_SOFT ? KD_LOSS_T2_SOFT
                                                    : KD_LOSS_T2_ALL,
                        .mse_half = l->mse_kind == KD_MSE_HALF,
                        .normalise = l->normalise,
                        .standardise = l->standardise,
                        .smoothing = l->label_smoothing,
                        .dkd_alpha = l->dkd_alpha,
                        .dkd_beta = l->dkd_beta,
                        .dist_inter = l->dist_inter,
                        .dist_intra = l->dist_intra,
                        .nkd_gamma = l->nkd_gamma,
                        .nkd_temperature = l->nkd_temperature,
                        .jsd_beta = l->jsd_beta};
    memcpy(s->loss.weight, weights, sizeof weights);
    for (int i = 0; i < KD_LOSS_TERMS; i++)
        if (weights[i] > 0)
            s->shape.terms[s->shape.n_terms++] = (enum kd_loss_term)i;
}

static void set_optim(kd_stage *s)
{
    const kd_optimizer_spec *o = &s->train->optimizer;
    static const enum kd_optim_rule rules[] = {
        [KD_SGD] = KD_OPTIM_SGD, [KD_ADAM] = KD_OPTIM_ADAM, [KD_ADAMW] = KD_OPTIM_ADAMW};
    static const enum kd_optim_schedule schedules[] = {[KD_CONSTANT] = KD_OPTIM_CONSTANT,
                                                       [KD_COSINE] = KD_OPTIM_COSINE,
                                                       [KD_STEP] = KD_OPTIM_STEP,
                                                       [KD_ONE_CYCLE] = KD_OPTIM_ONE_CYCLE};
    double warm = o->warmup * (double)s->shape.epoch_steps;
    s->optim = (kd_optim){.rule = rules[o->name],
                          .lr = o->lr,
                          .head_lr = o->head_lr,
                          .momentum = o->momentum,
                          .nesterov = o->nesterov,
                          .beta1 = o->beta1,
                          .beta2 = o->beta2,
                          .eps = o->eps,
                          .weight_decay = o->weight_decay,
                          .schedule = schedules[o->schedule],
                          .warmup_steps = (uint64_t)llround(warm),
                          .total_steps = KD_MAX(s->shape.steps, (uint64_t)1),
                          .gamma = o->gamma,
                          .pct_start = o->pct_start,
                          .div_factor = o->div_factor,
                          .final_div_factor = o->final_div_factor,
                          .ema = s->train->epochs > 0 ? o->ema : 0,
                          .freeze_backbone = s->train->freeze == KD_FREEZE_BACKBONE,
                          .frozen_statistics = s->train->batch_norm_frozen ||
                                               s->train->freeze == KD_FREEZE_BACKBONE};
    for (int i = 0; i < o->n_milestones && i < KD_OPTIM_MILESTONES; i++)
        s->optim.milestones[s->optim.n_milestones++] =
            (uint64_t)o->milestones[i] * s->shape.epoch_steps;
}

static void set_shape(kd_stage *s)
{
    const kd_session *ss = s->session;
    kd_stage_shape *h = &s->shape;
    h->floats = s->net.graph->vector_len;
    h->trained = s->net.graph->trained_len;
    h->slots = (uint32_t)s->train->slots;
    h->slot_batch = (uint32_t)(s->train->batch / s->train->slots);
    h->chunk_floats = kd_chunk_floats(h->floats);
    h->chunks = (uint32_t)((h->floats + h->chunk_floats - 1) / h->chunk_floats);
    h->bfloat16 = s->train->bfloat16_gradients;
    h->eval_units = (uint32_t)((ss->n_val + KD_EVAL_UNIT - 1) / KD_EVAL_UNIT);
    set_loss(s);
    set_optim(s);
    h->state_vectors = s->train->epochs > 0 ? kd_optim_vectors(&s->optim) : 0;
    h->average = s->optim.ema > 0;
    if (s->train->epochs > 0 && kd_loss_needs_teacher(&s->loss))
        h->n_teachers = ss->job.n_teachers;
    if (s->train->epochs > 0 && kd_loss_needs_batch(&s->loss))
        h->value_columns = 2 * (uint32_t)ss->classes + 1;
}

int kd_stage_compose(kd_stage *s, const uint8_t *copies, kd_diag *diag)
{
    const kd_session *ss = s->session;
    kd_stage_shape *h = &s->shape;
    if (!s->train)
        return 0;
    size_t n = ss->n_train;
    for (size_t i = 0; copies && i < ss->n_unlabelled; i++)
        n += copies[i];
    if (n > UINT32_MAX / 2)
        return kd_fail(diag, -KD_ELIMIT, "an epoch of %zu samples; the limit is %u", n,
                       UINT32_MAX / 2);
    if (n > ss->n_train) {
        s->extra = malloc((n - ss->n_train) * sizeof *s->extra);
        if (!s->extra)
            return kd_fail(diag, -KD_ENOMEM, "no memory for %zu unlabelled samples", n);
        uint32_t first = (uint32_t)kd_data_first(ss->data, KD_SPLIT_UNLABELLED);
        size_t at = 0;
        for (size_t i = 0; i < ss->n_unlabelled; i++)
            for (uint8_t c = 0; c < copies[i]; c++)
                s->extra[at++] = (struct copy){first + (uint32_t)i, c};
    }
    h->epoch_samples = n;
    h->epoch_steps = (n + (size_t)s->train->batch - 1) / (size_t)s->train->batch;
    h->steps = h->epoch_steps * (uint64_t)s->train->epochs;
    h->eval_steps = s->train->eval_every ? (uint64_t)s->train->eval_every : h->epoch_steps;
    set_optim(s);
    kd_small_compose(s);
    for (int i = 0; i < 2; i++) {
        s->orders[i].samples = calloc(n, sizeof(uint32_t));
        if (!s->orders[i].samples)
            return kd_fail(diag, -KD_ENOMEM, "no memory for the order of %zu samples", n);
    }
    return 0;
}

static void *room(size_t count, size_t size)
{
    return malloc(KD_MAX(count, (size_t)1) * size);
}

static int make_plans(kd_stage *s, struct context *c, kd_diag *diag)
{
    bool frozen = s->train->batch_norm_frozen || s->train->freeze == KD_FREEZE_BACKBONE;
    /* One of 8 bits is made for its weights: kd_stage_eval does that. */
    int rc = kd_graph_is_int8(s->net.graph)
                 ? 0
                 : kd_plan_new(s->net.graph, 1, KD_PLAN_INFER, &c->infer, diag);
    if (rc != 0 || s->train->epochs == 0)
        return rc;
    rc = (s->train->bfloat16 ? kd_plan_new_bfloat16 : kd_plan_new)(
        s->rounded ? s->rounded : s->net.graph, (int)s->shape.slot_batch,
        frozen ? KD_PLAN_TRAIN_FROZEN_BN : KD_PLAN_TRAIN, &c->train, diag);
    if (rc == -KD_EUNSUP && s->train->bfloat16)
        return kd_fail_at(diag, rc, "bfloat16 on this worker's processor");
    return rc;
}

static int make_context(kd_stage *s, struct context *c, kd_diag *diag)
{
    const kd_session *ss = s->session;
    size_t picture = (size_t)ss->size * (size_t)ss->size * 3, b = s->shape.slot_batch;
    size_t seen = (size_t)s->net.size * (size_t)s->net.size * 3, classes = (size_t)ss->classes;
    c->raw = malloc(picture);
    c->view = malloc(picture);
    c->other = malloc(picture);
    c->small = malloc(picture);
    c->input = room(b * seen, sizeof(float));
    c->image = malloc(picture * sizeof(float));
    c->logits = room(b * classes, sizeof(float));
    c->d_logits = room(b * classes, sizeof(float));
    c->weight = room(b, sizeof(float));
    c->targets = room(b, sizeof *c->targets);
    c->places = room(b, sizeof *c->places);
    c->keys = room(b, sizeof *c->keys);
    c->version = room(s->tunes ? s->shape.floats : 0, sizeof *c->version);
    c->mask = room(s->tunes ? s->shape.floats : 0, sizeof *c->mask);
    if (!c->raw || !c->view || !c->other || !c->small || !c->input || !c->image || !c->logits ||
        !c->d_logits || !c->weight || !c->targets || !c->places || !c->keys || !c->version ||
        !c->mask)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a compute thread's buffers");
    return make_plans(s, c, diag);
}

static int new_trained(const kd_stage_config *cfg, kd_stage *s, const char **problem, kd_diag *diag)
{
    int rc = kd_stage_source(&cfg->session->job, s->kind) ? kd_small_new(s, problem, diag)
                                                          : kd_net_new(cfg, s, problem, diag);
    if (rc != 0)
        return rc;
    set_shape(s);
    *problem = "BAD_JOB";
    if (s->train->epochs > 0 && (rc = kd_loss_check(&s->loss, cfg->session->classes, diag)) != 0)
        return rc;
    for (int i = 0; i < s->shape.n_teachers; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s", kd_stage_name((enum kd_stage_kind)i));
        s->teachers[i] = kd_stage_outside_net(s, i);
        if (!s->teachers[i])
            s->teachers[i] = kd_stage_find_finished(s, name);
        if (!s->teachers[i]) {
            *problem = "NO_TEACHER";
            return kd_fail(diag, -KD_EINVAL, "the loss needs %s and there is none", name);
        }
    }
    if (s->shape.value_columns) {
        s->stats = calloc((size_t)cfg->session->classes * KD_LOSS_STATS, sizeof *s->stats);
        size_t batch = (size_t)s->train->batch, columns = s->shape.value_columns;
        s->batch = calloc(batch * columns, sizeof *s->batch);
        *problem = "BAD_JOB";
        if (batch * columns * sizeof(float) > KD_MAX_PAYLOAD_BYTES)
            return kd_fail(diag, -KD_ELIMIT,
                           "a batch of %zu samples and %d classes is too large for a loss that "
                           "couples the whole batch; use a smaller batch",
                           batch, cfg->session->classes);
        if (!s->stats || !s->batch)
            return kd_fail(diag, -KD_ENOMEM, "no memory for a batch's values");
    }
    s->contexts = kd_xalloc((size_t)cfg->threads * sizeof *s->contexts);
    *problem = "BAD_MODEL";
    for (int i = 0; i < cfg->threads && rc == 0; i++)
        rc = make_context(s, &s->contexts[i], diag);
    if (rc == 0)
        rc = kd_stage_make_teachers(s, cfg, diag);
    if (rc == 0)
        kd_stage_set_banks(s, cfg->numerics);
    return rc;
}

int kd_stage_new(const kd_stage_config *cfg, kd_stage **out, const char **out_problem,
                 kd_diag *diag)
{
    const kd_session *ss = cfg->session;
    kd_stage *s = kd_xalloc(sizeof *s);
    s->session = ss;
    s->kind = cfg->kind;
    s->threads = cfg->threads;
    s->train = kd_job_train(&ss->job, cfg->kind);
    *out_problem = "BAD_MODEL";
    int rc = kd_stage_load_finished(cfg, s, diag);
    if (rc == 0 && s->train)
        rc = new_trained(cfg, s, out_problem, diag);
    if (rc != 0) {
        kd_stage_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

static void free_context(struct context *c)
{
    kd_plan_free(c->train);
    kd_plan_free(c->infer);
    for (int k = 0; k < KD_MAX_TEACHERS; k++)
        kd_plan_free(c->teachers[k]);
    free(c->raw);
    free(c->view);
    free(c->other);
    free(c->small);
    free(c->input);
    free(c->image);
    free(c->logits);
    free(c->d_logits);
    free(c->weight);
    free(c->targets);
    free(c->places);
    free(c->keys);
    free(c->version);
    free(c->mask);
}

void kd_stage_free(kd_stage *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->threads && s->contexts; i++)
        free_context(&s->contexts[i]);
    free(s->contexts);
    kd_graph_free(s->rounded);
    kd_net_clear(&s->net);
    for (int i = 0; i < s->n_finished; i++) {
        kd_net_clear(&s->finished[i].net);
        kd_model_file_info_clear(&s->finished[i].info);
    }
    free(s->orders[0].samples);
    free(s->orders[1].samples);
    free(s->extra);
    free(s->stats);
    free(s->batch);
    free(s);
}

const kd_stage_shape *kd_stage_shape_of(const kd_stage *s)
{
    return &s->shape;
}

const float *kd_stage_initial(const kd_stage *s)
{
    return s->net.vector;
}

const kd_graph *kd_stage_graph(const kd_stage *s)
{
    return s->net.graph;
}

const kd_optim *kd_stage_optim(const kd_stage *s)
{
    return &s->optim;
}

double kd_stage_temperature(const kd_stage *s)
{
    return s->loss.temperature;
}

/* ---- units */

/* The order of an epoch is made by the runner before its units start
 * (kd_stage_places on the runner's thread), so that compute threads only read
 * it. */
static const uint32_t *order_of(const kd_stage *s, uint64_t step)
{
    kd_stage *w = (kd_stage *)s;
    uint32_t epoch = (uint32_t)(step / s->shape.epoch_steps), i = epoch & 1;
    if (!s->orders[i].made || s->orders[i].epoch != epoch) {
        kd_sampler_order(s->train->seed, epoch, s->shape.epoch_samples, w->orders[i].samples);
        w->orders[i].epoch = epoch;
        w->orders[i].made = true;
    }
    return s->orders[i].samples;
}

uint32_t kd_stage_real_in_batch(const kd_stage *s, uint64_t step)
{
    uint64_t first = step % s->shape.epoch_steps * (uint64_t)s->train->batch;
    return (uint32_t)KD_MIN((uint64_t)s->train->batch, s->shape.epoch_samples - first);
}

/* Copies of an unlabelled sample are other views of it: of N views copy c has the c-th N of them.
 */
static uint32_t copy_view(const kd_stage *s, uint32_t epoch, uint32_t copy)
{
    uint32_t views = (uint32_t)s->train->views;
    return views == 0 ? epoch + (copy << 16) : epoch % views + copy * views;
}

uint32_t kd_stage_places(const kd_stage *s, uint64_t step, uint32_t slot, kd_place *places)
{
    const uint32_t *order = order_of(s, step);
    uint32_t epoch = (uint32_t)(step / s->shape.epoch_steps), real = 0;
    uint64_t at = step % s->shape.epoch_steps * (uint64_t)s->train->batch +
                  (uint64_t)slot * s->shape.slot_batch;
    for (uint32_t i = 0; i < s->shape.slot_batch; i++, at++) {
        uint32_t n = order[at % s->shape.epoch_samples];
        bool labelled = n < s->session->n_train;
        struct copy c = labelled ? (struct copy){n, 0} : s->extra[n - s->session->n_train];
        uint32_t view = copy_view(s, epoch, c.copy);
        places[i] = (kd_place){.sample = c.sample,
                               .view = view,
                               .teacher_view = labelled ? view : KD_VIEW_CLEAN,
                               .key = c.sample + ((uint32_t)c.copy << 24)};
        real += at < s->shape.epoch_samples;
    }
    return real;
}

/* How a view is mixed. An unlabelled picture is not: its teacher labels it clean. */
static void mix_of(const kd_session *ss, uint32_t sample, uint32_t view, kd_view_mix *mix)
{
    *mix = (kd_view_mix){.kind = KD_MIX_NONE, .share = 1};
    if (sample < ss->n_train && view != KD_VIEW_CLEAN &&
        (ss->rule.mixup > 0 || ss->rule.cutmix > 0))
        kd_view_mix_of(&ss->rule, sample, view, ss->n_train, mix);
}

int kd_stage_pictures(const kd_stage *s, const kd_place *place, uint32_t out[2])
{
    kd_view_mix mix;
    mix_of(s->session, place->sample, place->view, &mix);
    out[0] = place->sample;
    out[1] = mix.partner;
    return mix.kind == KD_MIX_NONE ? 1 : 2;
}

/* Makes a view in c->view; false when one of its pictures cannot be read. */
bool kd_stage_make_view(const kd_stage *s, struct context *c, uint32_t sample, uint32_t view,
                        kd_view_mix *mix)
{
    const kd_session *ss = s->session;
    bool good = kd_cache_get(ss->cache, sample, c->raw);
    kd_view_make(&ss->rule, sample, view, c->raw, c->view);
    mix_of(ss, sample, view, mix);
    if (mix->kind == KD_MIX_NONE)
        return good;
    good = kd_cache_get(ss->cache, mix->partner, c->raw) && good;
    kd_view_make(&ss->rule, mix->partner, view, c->raw, c->other);
    kd_view_blend(mix, ss->size, c->view, c->other, c->view);
    return good;
}

int kd_stage_to_input(const kd_session *ss, const kd_net *net, const uint8_t *rgb, uint8_t *small,
                      float *input, kd_diag *diag)
{
    size_t pixels = (size_t)net->size * (size_t)net->size;
    if (net->size != ss->size) {
        const kd_image whole = {.w = ss->size, .h = ss->size, .rgb = (uint8_t *)(uintptr_t)rgb};
        int rc = kd_image_resize(&whole, net->size, net->size, small, diag);
        if (rc != 0)
            return rc;
        rgb = small;
    }
    kd_view_to_float((int)net->preprocess, rgb, pixels, input);
    return 0;
}

bool kd_stage_feed(const kd_session *ss, const kd_net *net, uint32_t sample, uint8_t *rgb,
                   uint8_t *small, float *input)
{
    kd_diag diag = {0};
    bool good = kd_cache_get(ss->cache, sample, rgb);
    return kd_stage_to_input(ss, net, rgb, small, input, &diag) == 0 && good;
}

/* Pictures, targets and weights of a unit, and the forward pass. */
static int run_forward(kd_stage *s, struct context *c, uint64_t step, uint32_t slot,
                       uint32_t *out_real, kd_diag *diag)
{
    const kd_session *ss = s->session;
    size_t seen = (size_t)s->net.size * (size_t)s->net.size * 3;
    uint32_t real = kd_stage_places(s, step, slot, c->places);
    for (uint32_t i = 0; i < s->shape.slot_batch; i++) {
        const kd_place *p = &c->places[i];
        kd_view_mix mix;
        bool good = kd_stage_make_view(s, c, p->sample, p->view, &mix);
        int rc = kd_stage_to_input(ss, &s->net, c->view, c->small, c->input + i * seen, diag);
        if (rc != 0)
            return rc;
        c->targets[i] = (kd_target){
            .label = kd_data_label(ss->data, p->sample),
            .other = mix.kind == KD_MIX_NONE ? -1 : kd_data_label(ss->data, mix.partner),
            .share = (float)mix.share};
        c->weight[i] = i < real && good ? 1 : 0;
        c->keys[i] = p->key;
    }
    *out_real = real;
    kd_plan_noise(c->train, s->train->seed, step, c->keys);
    return kd_plan_forward(c->train, c->input, c->logits, diag);
}

static int not_finite(kd_stage *s, struct context *c, uint64_t step, int row, kd_diag *diag)
{
    const char *layer = kd_plan_find_nonfinite(c->train);
    uint32_t sample = c->places[row].sample;
    return kd_fail(diag, -KD_EDATA,
                   "the loss is not finite at step %llu: first in layer %s, sample %u (%.120s)",
                   (unsigned long long)step + 1, layer ? layer : "loss", sample,
                   kd_data_name(s->session->data, sample));
}

static int run_unit(kd_stage *s, struct context *c, uint64_t step, uint32_t slot,
                    const float *teacher, const double *stats, float *gradient, kd_tree_sums *out,
                    kd_diag *diag)
{
    uint32_t real = 0, all = kd_stage_real_in_batch(s, step);
    *out = (kd_tree_sums){0};
    int rc = run_forward(s, c, step, slot, &real, diag);
    if (rc != 0)
        return rc;
    kd_loss_sums sums;
    kd_loss_apply(&s->loss, (int)s->shape.slot_batch, s->session->classes, c->logits, teacher,
                  c->targets, c->weight, 1.0 / all, stats, c->d_logits, &sums);
    if (sums.bad >= 0 || !isfinite(sums.loss))
        return not_finite(s, c, step, KD_MAX(sums.bad, 0), diag);
    *out = (kd_tree_sums){.loss = sums.loss, .correct = sums.correct, .samples = sums.samples};
    for (int i = 0; i < s->shape.n_terms; i++) {
        out->terms[2 * i] = sums.value[s->shape.terms[i]];
        out->terms[2 * i + 1] = sums.pull[s->shape.terms[i]];
    }
    rc = kd_plan_backward(c->train, c->d_logits, (float)real / (float)all, gradient, diag);
    /* Parameters that stay as they are count in no gradient norm. */
    for (int i = 0; i < s->net.graph->n_params && s->optim.freeze_backbone && rc == 0; i++) {
        const kd_param *p = &s->net.graph->params[i];
        if (!kd_optim_moves(&s->optim, p))
            memset(gradient + p->offset, 0, p->count * sizeof *gradient);
    }
    for (size_t k = 0; k < s->shape.floats && s->tunes && rc == 0; k++)
        gradient[k] = c->mask[k] ? gradient[k] : 0;
    return rc;
}

/* A slot past the epoch's last sample has nothing to compute. */
static bool beyond_epoch(const kd_stage *s, uint64_t step, uint32_t slot)
{
    return step % s->shape.epoch_steps * (uint64_t)s->train->batch +
               (uint64_t)slot * s->shape.slot_batch >=
           s->shape.epoch_samples;
}

/* Makes *vector what the network computes with after `step` steps. */
static int tune(const kd_stage *s, struct context *c, uint64_t step, const float **vector,
                kd_diag *diag)
{
    if (!s->tunes)
        return 0;
    const int rc =
        kd_tune_load(s->net.graph, &s->pruning, step, *vector, c->mask, c->version, diag);
    *vector = c->version;
    return rc;
}

/* tag 0: whatever the plan holds, load. */
static int load_train(const kd_stage *s, struct context *c, uint64_t step, const float *vector,
                      uint64_t tag, kd_diag *diag)
{
    if (tag != 0 && c->train_tag == tag)
        return 0;
    int rc = tune(s, c, step, &vector, diag);
    if (rc == 0)
        rc = kd_plan_load(c->train, vector, diag);
    c->train_tag = rc == 0 ? tag : 0;
    return rc;
}

static int load_infer(const kd_stage *s, struct context *c, uint64_t step, const float *vector,
                      uint64_t tag, kd_diag *diag)
{
    if (c->infer_tag == tag)
        return 0;
    int rc = tune(s, c, step, &vector, diag);
    if (rc == 0 && kd_graph_is_int8(s->net.graph)) {
        kd_plan_free(c->infer);
        c->infer = NULL;
        rc = kd_plan_new_infer(s->net.graph, 1, vector, &c->infer, diag);
    } else if (rc == 0) {
        rc = kd_plan_load(c->infer, vector, diag);
    }
    c->infer_tag = rc == 0 ? tag : 0;
    return rc;
}

int kd_stage_unit(kd_stage *s, int thread, uint64_t step, uint32_t slot, const float *vector,
                  uint64_t tag, const float *teacher, const double *stats, float *gradient,
                  kd_tree_sums *out, kd_diag *diag)
{
    struct context *c = &s->contexts[thread];
    if (beyond_epoch(s, step, slot)) {
        memset(gradient, 0, s->shape.floats * sizeof *gradient);
        *out = (kd_tree_sums){0};
        return 0;
    }
    int rc = load_train(s, c, step, vector, tag, diag);
    return rc == 0 ? run_unit(s, c, step, slot, teacher, stats, gradient, out, diag) : rc;
}

int kd_stage_values(kd_stage *s, int thread, uint64_t step, uint32_t slot, const float *vector,
                    uint64_t tag, const float *teacher, float *values, kd_diag *diag)
{
    struct context *c = &s->contexts[thread];
    size_t classes = (size_t)s->session->classes, columns = s->shape.value_columns;
    uint32_t real;
    memset(values, 0, s->shape.slot_batch * columns * sizeof *values);
    if (beyond_epoch(s, step, slot))
        return 0;
    int rc = load_train(s, c, step, vector, tag, diag);
    if (rc == 0)
        rc = run_forward(s, c, step, slot, &real, diag);
    for (uint32_t i = 0; i < s->shape.slot_batch && rc == 0; i++) {
        float *row = values + i * columns;
        memcpy(row, c->logits + i * classes, classes * sizeof *row);
        memcpy(row + classes, teacher + i * classes, classes * sizeof *row);
        row[2 * classes] = c->weight[i];
        for (size_t k = 0; k < 2 * classes && c->weight[i] > 0; k++)
            if (!isfinite(row[k]))
                return not_finite(s, c, step, (int)i, diag);
    }
    return rc;
}

int kd_stage_couple(kd_stage *s, const float *values, const double **out_stats, kd_diag *diag)
{
    size_t classes = (size_t)s->session->classes, columns = s->shape.value_columns;
    size_t n = (size_t)s->train->batch;
    float *z = s->batch, *v = z + n * classes, *weight = v + n * classes;
    for (size_t i = 0; i < n; i++) {
        memcpy(z + i * classes, values + i * columns, classes * sizeof *z);
        memcpy(v + i * classes, values + i * columns + classes, classes * sizeof *v);
        weight[i] = values[i * columns + 2 * classes];
    }
    int rc = kd_loss_couple(&s->loss, (int)n, (int)classes, z, v, weight, s->stats, diag);
    *out_stats = s->stats;
    return rc;
}

int kd_stage_eval(kd_stage *s, int thread, uint32_t unit, uint64_t step, const float *vector,
                  uint64_t tag, kd_stage_teacher_row teacher, void *arg, float *rows, kd_diag *diag)
{
    const kd_session *ss = s->session;
    struct context *c = &s->contexts[thread];
    size_t first = (size_t)unit * KD_EVAL_UNIT;
    int n = (int)KD_MIN((size_t)KD_EVAL_UNIT, ss->n_val - first);
    int rc = load_infer(s, c, step, vector, tag, diag);
    if (rc != 0)
        return rc;
    for (int i = 0; i < n; i++) {
        uint32_t sample = (uint32_t)(kd_data_first(ss->data, KD_SPLIT_VAL) + first + (size_t)i);
        kd_stage_feed(ss, &s->net, sample, c->raw, c->small, c->image);
        rc = kd_plan_forward(c->infer, c->image, c->logits, diag);
        if (rc != 0)
            return rc;
        int32_t label = kd_data_label(ss->data, sample);
        const float *v = teacher ? teacher(arg, sample) : NULL;
        double loss = kd_cross_entropy(c->logits, ss->classes, label);
        float *row = rows + (size_t)i * KD_EVAL_COLUMNS;
        row[0] = (float)kd_argmax(c->logits, ss->classes);
        row[1] = (float)label;
        row[2] = (float)loss;
        row[3] = v ? (float)kd_argmax(v, ss->classes) : -1;
        row[4] = v ? (float)kd_kl(v, c->logits, ss->classes) : 0;
        if (!isfinite(loss))
            return kd_fail(diag, -KD_EDATA, "the logits of %.120s are not finite in validation",
                           kd_data_name(ss->data, sample));
    }
    return n;
}

/* ---- fingerprint */

/* Made-up teacher logits: the fingerprint must not depend on whether a bank was there. */
static void probe_teacher(const kd_stage *s, const kd_place *places, float *teacher)
{
    size_t classes = (size_t)s->session->classes;
    for (size_t i = 0; i < s->shape.slot_batch; i++) {
        kd_rng r;
        kd_rng_init(&r, s->train->seed, KD_RNG_PROBE, places[i].sample, 0);
        for (size_t k = 0; k < classes; k++)
            teacher[i * classes + k] = (float)kd_rng_normal(&r);
    }
}

static int probe_unit(kd_stage *s, kd_hasher *h, kd_diag *diag)
{
    struct context *c = &s->contexts[0];
    size_t b = s->shape.slot_batch, classes = (size_t)s->session->classes;
    float *gradient = malloc(s->shape.floats * sizeof *gradient);
    float *teacher = malloc(b * classes * sizeof *teacher);
    float *values =
        calloc((size_t)s->train->batch * KD_MAX(s->shape.value_columns, 1u), sizeof *values);
    const double *stats = NULL;
    int rc = gradient && teacher && values
                 ? 0
                 : kd_fail(diag, -KD_ENOMEM, "no memory for a fingerprint");
    if (rc == 0) {
        kd_stage_places(s, 0, 0, c->places);
        probe_teacher(s, c->places, teacher);
        rc = load_train(s, c, 0, s->net.vector, 0, diag);
    }
    if (rc == 0 && s->shape.value_columns) {
        rc = kd_stage_values(s, 0, 0, 0, s->net.vector, 0, teacher, values, diag);
        if (rc == 0)
            rc = kd_stage_couple(s, values, &stats, diag);
    }
    kd_tree_sums sums;
    if (rc == 0)
        rc = run_unit(s, c, 0, 0, s->shape.n_teachers ? teacher : NULL, stats, gradient, &sums,
                      diag);
    if (rc == 0) {
        kd_hasher_add(h, c->logits, b * classes * sizeof(float));
        kd_hasher_add(h, gradient, s->shape.floats * sizeof(float));
    }
    free(gradient);
    free(teacher);
    free(values);
    return rc;
}

int kd_stage_fingerprint(kd_stage *s, char out[33], kd_diag *diag)
{
    kd_hasher *h = kd_hasher_new();
    int rc = h ? 0 : kd_fail(diag, -KD_ENOMEM, "no memory for a fingerprint");
    if (rc == 0)
        kd_hasher_add(h, s->net.vector, s->shape.floats * sizeof(float));
    for (int i = 0; rc == 0 && i < s->shape.n_teachers; i++)
        kd_hasher_add(h, s->banks[i][0].precision, sizeof s->banks[i][0].precision);
    for (size_t i = s->session->n_train; rc == 0 && i < s->shape.epoch_samples; i++) {
        const struct copy *c = &s->extra[i - s->session->n_train];
        kd_hasher_add(h, &c->sample, sizeof c->sample);
        kd_hasher_add(h, &c->copy, sizeof c->copy);
    }
    if (rc == 0 && s->contexts[0].train) {
        rc = probe_unit(s, h, diag);
    } else if (rc == 0 && s->session->n_val) {
        float rows[KD_EVAL_COLUMNS * KD_EVAL_UNIT];
        int n = kd_stage_eval(s, 0, 0, 0, s->net.vector, UINT64_MAX, NULL, NULL, rows, diag);
        if (n < 0)
            rc = n;
        else
            kd_hasher_add(h, rows, (size_t)n * KD_EVAL_COLUMNS * sizeof(float));
    }
    if (rc == 0) {
        kd_digest d = kd_hasher_digest(h);
        kd_digest_hex(&d, out);
    }
    kd_hasher_free(h);
    return rc;
}

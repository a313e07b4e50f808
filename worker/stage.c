#include "stage.h"

#include "kd/hash.h"
#include "kd/rng.h"
#include "models/models.h"
#include "store/safetensors.h"
#include "wire/limits.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What one compute thread has for itself. */
struct context {
    kd_plan *train, *infer, *teacher;
    uint64_t train_tag, infer_tag; /* what the plans hold; 0 = nothing */
    bool teacher_loaded;
    uint8_t *raw, *view;
    float *input, *image; /* [slot_batch or 1, size, size, 3] */
    float *logits, *d_logits, *weight;
    kd_target *targets;
    uint32_t *samples;
};

struct kd_stage {
    const kd_session *session;
    enum kd_stage_kind kind;
    const kd_train_spec *train;
    kd_net net;     /* that is trained */
    kd_net done[3]; /* finished teacher, student, twin, as far as there are */
    kd_loss loss;
    kd_optim optim;
    kd_stage_shape shape;
    kd_view_rule rule;
    kd_bank_ref bank;
    struct context *contexts;
    int threads;
    struct {
        uint32_t *samples;
        uint32_t epoch;
        bool made;
    } orders[2]; /* of even and odd epochs: one is used while the next is looked
                    ahead to */
};

/* ---- networks */

static int build(const kd_session *ss, const kd_model_spec *m, kd_net *net, kd_diag *diag)
{
    kd_model_config cfg = {.model = m->model,
                           .width = m->width,
                           .hidden = m->hidden,
                           .n_hidden = m->n_hidden,
                           .pad_tf = m->padding == KD_PAD_TF,
                           .size = ss->size,
                           .channels = 3,
                           .classes = ss->classes};
    int rc = kd_model_build(&cfg, &net->graph, diag);
    if (rc != 0)
        return rc;
    net->preprocess = m->preprocess;
    net->vector = aligned_alloc(64, (net->graph->vector_len * sizeof(float) + 63) / 64 * 64);
    if (!net->vector)
        return kd_fail(diag, -KD_ENOMEM, "no memory for %zu parameters", net->graph->vector_len);
    kd_graph_init(net->graph, ss->job.seed, net->vector);
    return 0;
}

static void net_clear(kd_net *n)
{
    kd_graph_free(n->graph);
    free(n->vector);
    *n = (kd_net){0};
}

/* Class names in a weights file must be the data's, in their order. */
static int check_classes(const kd_session *ss, const uint8_t *file, size_t len, const char *name,
                         kd_diag *diag)
{
    kd_st_file *f = NULL;
    int rc = kd_st_open_memory(file, len, name, &f, diag);
    if (rc != 0)
        return rc;
    const char *classes = kd_st_metadata(f, "classes");
    kd_buf mine;
    kd_buf_init(&mine, 1 << 20);
    for (int i = 0; i < ss->classes; i++)
        kd_buf_printf(&mine, "%s%s", i ? "," : "", kd_data_class_name(ss->data, i));
    if (classes && mine.data && strcmp(classes, mine.data) != 0)
        rc = kd_fail(diag, -KD_EINVAL,
                     "the teacher knows the classes %.200s, the data has %.200s; "
                     "use a teacher of "
                     "these classes or fine-tune it",
                     classes, mine.data);
    kd_buf_clear(&mine);
    kd_st_close(f);
    return rc;
}

static int load_weights(const kd_stage_config *cfg, kd_stage *s, const char **problem,
                        kd_diag *diag)
{
    const kd_model_spec *m = kd_job_model(&cfg->session->job, s->kind);
    bool new_head = false;
    *problem = "BAD_WEIGHTS";
    if (!cfg->weights)
        return 0;
    int rc = kd_model_load(s->net.graph, cfg->weights, cfg->weights_len, m->weights, s->net.vector,
                           &new_head, diag);
    if (rc != 0 || s->train->epochs > 0)
        return rc;
    *problem = "BAD_CLASSES";
    if (new_head)
        return kd_fail(diag, -KD_EINVAL,
                       "%s was made for another number of classes than the %d of the data; "
                       "add "
                       "`fine_tune` to the teacher, or use a teacher of these classes",
                       m->weights, cfg->session->classes);
    return check_classes(cfg->session, cfg->weights, cfg->weights_len, m->weights, diag);
}

static int load_finished(const kd_stage_config *cfg, kd_stage *s, int which, kd_diag *diag)
{
    static const char *const names[] = {"finished teacher", "finished student", "finished twin"};
    const kd_job *job = &cfg->session->job;
    if (!cfg->finished[which])
        return 0;
    int rc = build(cfg->session, which == 0 ? &job->teachers[0].model : &job->student,
                   &s->done[which], diag);
    bool new_head = false;
    if (rc == 0)
        rc = kd_model_load(s->done[which].graph, cfg->finished[which], cfg->finished_len[which],
                           names[which], s->done[which].vector, &new_head, diag);
    return rc == 0 && new_head ? kd_fail(diag, -KD_EDATA, "the %s has other classes", names[which])
                               : rc;
}

/* ---- life */

static uint32_t chunk_floats_for(size_t floats)
{
    size_t want = (floats + 15) / 16, chunk = KD_MIN_CHUNK_FLOATS;
    while (chunk < want && chunk < KD_MAX_CHUNK_FLOATS)
        chunk *= 2;
    return (uint32_t)chunk;
}

static void set_loss(kd_stage *s)
{
    const kd_loss_spec *l = &s->train->loss;
    s->loss = (kd_loss){.weight = {[KD_TERM_CE] = l->ce,
                                   [KD_TERM_KD] = l->kd,
                                   [KD_TERM_MSE] = l->mse,
                                   [KD_TERM_DKD] = l->dkd,
                                   [KD_TERM_DIST] = l->dist,
                                   [KD_TERM_NKD] = l->nkd,
                                   [KD_TERM_JSD] = l->jsd},
                        .temperature = l->temperature,
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
}

static void set_optim(kd_stage *s)
{
    static const enum kd_optim_rule rules[] = {
        [KD_SGD] = KD_OPTIM_SGD, [KD_ADAM] = KD_OPTIM_ADAM, [KD_ADAMW] = KD_OPTIM_ADAMW};
    static const enum kd_optim_schedule schedules[] = {[KD_CONSTANT] = KD_OPTIM_CONSTANT,
                                                       [KD_COSINE] = KD_OPTIM_COSINE,
                                                       [KD_STEP] = KD_OPTIM_STEP,
                                                       [KD_ONE_CYCLE] = KD_OPTIM_ONE_CYCLE};
    _Static_assert(KD_MAX_MILESTONES == KD_OPTIM_MILESTONES, "as many as a job can name");
    const kd_optimizer_spec *o = &s->train->optimizer;
    double warm = o->warmup * (double)s->shape.epoch_steps;
    s->optim = (kd_optim){.rule = rules[o->name],
                          .lr = o->lr,
                          .head_lr = o->head_lr,
                          .momentum = o->momentum,
                          .beta1 = o->beta1,
                          .beta2 = o->beta2,
                          .eps = o->eps,
                          .weight_decay = o->weight_decay,
                          .nesterov = o->nesterov,
                          .schedule = schedules[o->schedule],
                          .warmup_steps = (uint64_t)llround(warm),
                          .total_steps = KD_MAX(s->shape.steps, (uint64_t)1),
                          .n_milestones = o->n_milestones,
                          .gamma = o->gamma,
                          .pct_start = o->pct_start,
                          .div_factor = o->div_factor,
                          .final_div_factor = o->final_div_factor,
                          .frozen_statistics = s->train->batch_norm_frozen,
                          .freeze_backbone = s->train->freeze == KD_FREEZE_BACKBONE,
                          .ema = o->ema};
    for (int i = 0; i < o->n_milestones; i++)
        s->optim.milestones[i] = (uint64_t)o->milestones[i] * s->shape.epoch_steps;
}

static void set_shape(kd_stage *s)
{
    const kd_session *ss = s->session;
    kd_stage_shape *h = &s->shape;
    h->floats = s->net.graph->vector_len;
    h->trained = s->net.graph->trained_len;
    h->slots = (uint32_t)s->train->slots;
    h->slot_batch = (uint32_t)(s->train->batch / s->train->slots);
    h->chunk_floats = chunk_floats_for(h->floats);
    h->chunks = (uint32_t)((h->floats + h->chunk_floats - 1) / h->chunk_floats);
    h->epoch_steps = (ss->n_train + (size_t)s->train->batch - 1) / (size_t)s->train->batch;
    h->steps = h->epoch_steps * (uint64_t)s->train->epochs;
    h->eval_units = (uint32_t)((ss->n_val + KD_EVAL_UNIT - 1) / KD_EVAL_UNIT);
}

static int make_context(kd_stage *s, struct context *c, kd_diag *diag)
{
    const kd_session *ss = s->session;
    size_t pixels = (size_t)ss->size * (size_t)ss->size, b = s->shape.slot_batch;
    size_t classes = (size_t)ss->classes;
    c->raw = malloc(pixels * 3);
    c->view = malloc(pixels * 3);
    c->input = malloc(KD_MAX(b, (size_t)1) * pixels * 3 * sizeof(float));
    c->image = malloc(pixels * 3 * sizeof(float));
    c->logits = malloc(KD_MAX(b, (size_t)1) * classes * sizeof(float));
    c->d_logits = malloc(KD_MAX(b, (size_t)1) * classes * sizeof(float));
    c->weight = malloc(KD_MAX(b, (size_t)1) * sizeof(float));
    c->targets = malloc(KD_MAX(b, (size_t)1) * sizeof *c->targets);
    c->samples = malloc(KD_MAX(b, (size_t)1) * sizeof(uint32_t));
    if (!c->raw || !c->view || !c->input || !c->image || !c->logits || !c->d_logits || !c->weight ||
        !c->targets || !c->samples)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a compute thread's buffers");
    if (!s->net.graph)
        return 0;
    int rc = kd_plan_new(s->net.graph, 1, KD_PLAN_INFER, &c->infer, diag);
    if (rc == 0 && s->train->epochs > 0)
        rc = kd_plan_new(s->net.graph, (int)b,
                         s->train->batch_norm_frozen ? KD_PLAN_TRAIN_FROZEN_BN : KD_PLAN_TRAIN,
                         &c->train, diag);
    if (rc == 0 && s->shape.needs_teacher)
        rc = kd_plan_new(s->done[0].graph, 1, KD_PLAN_INFER, &c->teacher, diag);
    return rc;
}

static void set_bank(kd_stage *s, const char *numerics)
{
    const kd_net *t = &s->done[0];
    kd_digest teacher = kd_digest_of(t->vector, t->graph->vector_len * sizeof(float));
    kd_digest data = kd_data_digest(s->session->data);
    kd_digest_hex(&teacher, s->bank.teacher);
    kd_digest_hex(&data, s->bank.data);
    snprintf(s->bank.numerics, sizeof s->bank.numerics, "%s", numerics);
    kd_view_rule_text(&s->rule, (int)t->preprocess, s->bank.view_rule, sizeof s->bank.view_rule);
    s->bank.classes = (uint32_t)s->session->classes;
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
    const kd_augment_spec *a = &ss->job.data.augment;
    s->rule = (kd_view_rule){.flip = a->flip,
                             .crop_pad = a->crop_pad,
                             .resized_crop = a->resized_crop,
                             .resized_crop_ratio = a->resized_crop_ratio,
                             .rotate = a->rotate,
                             .brightness = a->brightness,
                             .contrast = a->contrast,
                             .saturation = a->saturation,
                             .randaugment_n = a->randaugment_n,
                             .randaugment_m = a->randaugment_m,
                             .cutout = a->cutout,
                             .mixup = a->mixup,
                             .cutmix = a->cutmix,
                             .mix_probability = a->mix_probability,
                             .size = ss->size,
                             .seed = ss->job.seed};
    *out_problem = "BAD_MODEL";
    int rc = 0;
    for (int i = 0; i < 3 && rc == 0; i++)
        rc = load_finished(cfg, s, i, diag);
    if (rc == 0 && s->train) {
        rc = build(ss, kd_job_model(&ss->job, cfg->kind), &s->net, diag);
        if (rc == 0)
            rc = load_weights(cfg, s, out_problem, diag);
        if (rc == 0) {
            set_shape(s);
            set_loss(s);
            set_optim(s);
            s->shape.state_vectors = s->train->epochs > 0 ? kd_optim_vectors(&s->optim) : 0;
            s->shape.needs_teacher = s->train->epochs > 0 && kd_loss_needs_teacher(&s->loss);
            for (int i = 0; i < 2; i++)
                s->orders[i].samples = calloc(ss->n_train, sizeof(uint32_t));
            if (!s->orders[0].samples || !s->orders[1].samples)
                rc = kd_fail(diag, -KD_ENOMEM, "no memory for the order of %zu samples",
                             ss->n_train);
        }
        if (rc == 0 && s->shape.needs_teacher && !s->done[0].graph) {
            *out_problem = "NO_TEACHER";
            rc = kd_fail(diag, -KD_EINVAL, "the loss needs a teacher and the job has none");
        }
        if (rc == 0 && s->shape.needs_teacher)
            set_bank(s, cfg->numerics);
    }
    s->contexts = kd_xalloc((size_t)cfg->threads * sizeof *s->contexts);
    for (int i = 0; i < cfg->threads && rc == 0 && s->train; i++)
        rc = make_context(s, &s->contexts[i], diag);
    if (rc != 0) {
        kd_stage_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void kd_stage_free(kd_stage *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->threads && s->contexts; i++) {
        struct context *c = &s->contexts[i];
        kd_plan_free(c->train);
        kd_plan_free(c->infer);
        kd_plan_free(c->teacher);
        free(c->raw);
        free(c->view);
        free(c->input);
        free(c->image);
        free(c->logits);
        free(c->d_logits);
        free(c->weight);
        free(c->targets);
        free(c->samples);
    }
    free(s->contexts);
    net_clear(&s->net);
    for (int i = 0; i < 3; i++)
        net_clear(&s->done[i]);
    free(s->orders[0].samples);
    free(s->orders[1].samples);
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

const kd_bank_ref *kd_stage_bank(const kd_stage *s)
{
    return &s->bank;
}

char *kd_stage_metadata(const kd_stage *s)
{
    static const char *const preprocess[] = {"unit", "symmetric", "imagenet"};
    const kd_session *ss = s->session;
    const kd_model_spec *m = kd_job_model(&ss->job, s->kind);
    json_t *o = json_object();
    kd_buf classes;
    char number[32];
    kd_buf_init(&classes, 1 << 20);
    for (int i = 0; i < ss->classes; i++)
        kd_buf_printf(&classes, "%s%s", i ? "," : "", kd_data_class_name(ss->data, i));
    json_object_set_new(o, "model", json_string(m->model));
    snprintf(number, sizeof number, "%.9g", m->width);
    json_object_set_new(o, "width", json_string(number));
    json_object_set_new(o, "padding", json_string(m->padding == KD_PAD_TF ? "tf" : "torch"));
    json_object_set_new(o, "preprocess", json_string(preprocess[m->preprocess]));
    snprintf(number, sizeof number, "%d", ss->size);
    json_object_set_new(o, "size", json_string(number));
    json_object_set_new(o, "classes", json_string(classes.data ? classes.data : ""));
    kd_buf_clear(&classes);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}

/* ---- units */

/* The order of an epoch is made by the runner before its units start
 * (kd_stage_samples on the runner's thread), so that compute threads only read
 * it. */
static const uint32_t *order_of(const kd_stage *s, uint64_t step)
{
    kd_stage *w = (kd_stage *)s;
    uint32_t epoch = (uint32_t)(step / s->shape.epoch_steps), i = epoch & 1;
    if (!s->orders[i].made || s->orders[i].epoch != epoch) {
        kd_sampler_order(s->session->job.seed, epoch, s->session->n_train, w->orders[i].samples);
        w->orders[i].epoch = epoch;
        w->orders[i].made = true;
    }
    return s->orders[i].samples;
}

uint32_t kd_stage_real_in_batch(const kd_stage *s, uint64_t step)
{
    uint64_t first = step % s->shape.epoch_steps * (uint64_t)s->train->batch;
    return (uint32_t)KD_MIN((uint64_t)s->train->batch, s->session->n_train - first);
}

uint32_t kd_stage_samples(const kd_stage *s, uint64_t step, uint32_t slot, uint32_t *samples,
                          uint32_t *out_view)
{
    const uint32_t *order = order_of(s, step);
    uint32_t epoch = (uint32_t)(step / s->shape.epoch_steps), real = 0;
    uint64_t at = step % s->shape.epoch_steps * (uint64_t)s->train->batch +
                  (uint64_t)slot * s->shape.slot_batch;
    for (uint32_t i = 0; i < s->shape.slot_batch; i++, at++) {
        samples[i] = order[at % s->session->n_train];
        real += at < s->session->n_train;
    }
    *out_view = s->train->views == 0 ? epoch : epoch % (uint32_t)s->train->views;
    return real;
}

static bool make_view(const kd_stage *s, struct context *c, uint32_t sample, uint32_t view)
{
    bool good = kd_cache_get(s->session->cache, sample, c->raw);
    kd_view_make(&s->rule, sample, view, c->raw, c->view);
    return good;
}

static int run_unit(kd_stage *s, struct context *c, uint64_t step, uint32_t slot,
                    const float *teacher, float *gradient, kd_tree_sums *out, kd_diag *diag)
{
    const kd_session *ss = s->session;
    size_t pixels = (size_t)ss->size * (size_t)ss->size;
    uint32_t view, b = s->shape.slot_batch;
    uint32_t real = kd_stage_samples(s, step, slot, c->samples, &view);
    uint32_t all = kd_stage_real_in_batch(s, step);
    *out = (kd_tree_sums){0};
    for (uint32_t i = 0; i < b; i++) {
        bool good = make_view(s, c, c->samples[i], view);
        kd_view_to_float((int)s->net.preprocess, c->view, pixels, c->input + i * pixels * 3);
        c->targets[i] = (kd_target){kd_data_label(ss->data, c->samples[i]), -1, 1};
        c->weight[i] = i < real && good ? 1 : 0;
    }
    int rc = kd_plan_forward(c->train, c->input, c->logits, diag);
    if (rc != 0)
        return rc;
    kd_loss_sums sums;
    kd_loss_apply(&s->loss, (int)b, ss->classes, c->logits, teacher, c->targets, c->weight,
                  1.0 / all, NULL, c->d_logits, &sums);
    if (sums.bad >= 0 || !isfinite(sums.loss)) {
        const char *layer = kd_plan_find_nonfinite(c->train);
        int row = sums.bad >= 0 ? sums.bad : 0;
        return kd_fail(diag, -KD_EDATA,
                       "the loss is not finite at step %llu: first in layer %s, "
                       "sample %u (%.120s)",
                       (unsigned long long)step + 1, layer ? layer : "loss", c->samples[row],
                       kd_data_name(ss->data, c->samples[row]));
    }
    *out = (kd_tree_sums){sums.loss, sums.correct, sums.samples};
    return kd_plan_backward(c->train, c->d_logits, (float)real / (float)all, gradient, diag);
}

int kd_stage_unit(kd_stage *s, int thread, uint64_t step, uint32_t slot, const float *vector,
                  uint64_t tag, const float *teacher, float *gradient, kd_tree_sums *out,
                  kd_diag *diag)
{
    struct context *c = &s->contexts[thread];
    uint64_t first = step % s->shape.epoch_steps * (uint64_t)s->train->batch +
                     (uint64_t)slot * s->shape.slot_batch;
    if (first >= s->session->n_train) {
        memset(gradient, 0, s->shape.floats * sizeof *gradient);
        *out = (kd_tree_sums){0};
        return 0;
    }
    int rc = c->train_tag == tag ? 0 : kd_plan_load(c->train, vector, diag);
    if (rc != 0)
        return rc;
    c->train_tag = tag;
    return run_unit(s, c, step, slot, teacher, gradient, out, diag);
}

int kd_stage_eval(kd_stage *s, int thread, uint32_t unit, const float *vector, uint64_t tag,
                  float *rows, kd_diag *diag)
{
    const kd_session *ss = s->session;
    struct context *c = &s->contexts[thread];
    size_t pixels = (size_t)ss->size * (size_t)ss->size, first = (size_t)unit * KD_EVAL_UNIT;
    int n = (int)KD_MIN((size_t)KD_EVAL_UNIT, ss->n_val - first);
    int rc = c->infer_tag == tag ? 0 : kd_plan_load(c->infer, vector, diag);
    if (rc != 0)
        return rc;
    c->infer_tag = tag;
    for (int i = 0; i < n; i++) {
        size_t sample = ss->n_train + first + (size_t)i;
        kd_cache_get(ss->cache, sample, c->raw);
        kd_view_to_float((int)s->net.preprocess, c->raw, pixels, c->image);
        rc = kd_plan_forward(c->infer, c->image, c->logits, diag);
        if (rc != 0)
            return rc;
        int best = kd_argmax(c->logits, ss->classes);
        int32_t label = kd_data_label(ss->data, sample);
        double loss = kd_cross_entropy(c->logits, ss->classes, label);
        if (!isfinite(loss))
            return kd_fail(diag, -KD_EDATA, "the logits of %.120s are not finite in validation",
                           kd_data_name(ss->data, sample));
        rows[2 * i] = best == label ? (float)best : (float)(-1 - best);
        rows[2 * i + 1] = (float)loss;
    }
    return n;
}

int kd_stage_teach(kd_stage *s, int thread, uint32_t sample, uint32_t view, float *logits,
                   kd_diag *diag)
{
    struct context *c = &s->contexts[thread];
    const kd_net *t = &s->done[0];
    if (!c->teacher_loaded) {
        int rc = kd_plan_load(c->teacher, t->vector, diag);
        if (rc != 0)
            return rc;
        c->teacher_loaded = true;
    }
    make_view(s, c, sample, view);
    kd_view_to_float((int)t->preprocess, c->view,
                     (size_t)s->session->size * (size_t)s->session->size, c->image);
    return kd_plan_forward(c->teacher, c->image, logits, diag);
}

/* ---- fingerprint and measure */

int kd_stage_fingerprint(kd_stage *s, char out[33], kd_diag *diag)
{
    const kd_session *ss = s->session;
    struct context *c = &s->contexts[0];
    size_t b = s->shape.slot_batch, classes = (size_t)ss->classes;
    kd_hasher *h = kd_hasher_new();
    float *gradient = NULL, *teacher = NULL;
    int rc = h ? 0 : kd_fail(diag, -KD_ENOMEM, "no memory for a fingerprint");
    if (rc == 0)
        kd_hasher_add(h, s->net.vector, s->shape.floats * sizeof(float));
    if (rc == 0 && c->train) {
        gradient = malloc(s->shape.floats * sizeof *gradient);
        teacher = malloc(b * classes * sizeof *teacher);
        if (!gradient || !teacher)
            rc = kd_fail(diag, -KD_ENOMEM, "no memory for a fingerprint");
        uint32_t view;
        if (rc == 0)
            kd_stage_samples(s, 0, 0, c->samples, &view);
        for (size_t i = 0; rc == 0 && i < b; i++) {
            kd_rng r;
            kd_rng_init(&r, ss->job.seed, KD_RNG_PROBE, c->samples[i], 0);
            for (size_t k = 0; k < classes; k++)
                teacher[i * classes + k] = (float)kd_rng_normal(&r);
        }
        kd_tree_sums sums;
        if (rc == 0)
            rc = kd_plan_load(c->train, s->net.vector, diag);
        c->train_tag = 0;
        if (rc == 0)
            rc = run_unit(s, c, 0, 0, s->shape.needs_teacher ? teacher : NULL, gradient, &sums,
                          diag);
        if (rc == 0) {
            kd_hasher_add(h, c->logits, b * classes * sizeof(float));
            kd_hasher_add(h, gradient, s->shape.floats * sizeof(float));
        }
    } else if (rc == 0 && ss->n_val) {
        float rows[2 * KD_EVAL_UNIT];
        int n = kd_stage_eval(s, 0, 0, s->net.vector, UINT64_MAX, rows, diag);
        if (n < 0)
            rc = n;
        else
            kd_hasher_add(h, rows, (size_t)n * 2 * sizeof(float));
    }
    if (rc == 0) {
        kd_digest d = kd_hasher_digest(h);
        kd_digest_hex(&d, out);
    }
    kd_hasher_free(h);
    free(gradient);
    free(teacher);
    return rc;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int kd_stage_measure(kd_stage *s, int which, double *out_ms, size_t *out_params, size_t *out_bytes,
                     kd_diag *diag)
{
    enum { WARM = 5, RUNS = 31 };
    const kd_net *n = &s->done[which];
    const kd_session *ss = s->session;
    if (!n->graph)
        return 0;
    size_t pixels = (size_t)ss->size * (size_t)ss->size;
    uint8_t *rgb = malloc(pixels * 3);
    float *input = malloc(pixels * 3 * sizeof(float));
    float *logits = malloc((size_t)ss->classes * sizeof(float));
    kd_plan *plan = NULL;
    double ms[RUNS];
    int rc = rgb && input && logits ? kd_plan_new(n->graph, 1, KD_PLAN_INFER, &plan, diag)
                                    : kd_fail(diag, -KD_ENOMEM, "no memory to measure with");
    if (rc == 0)
        rc = kd_plan_load(plan, n->vector, diag);
    if (rc == 0) {
        kd_cache_get(ss->cache, ss->n_val ? ss->n_train : 0, rgb);
        kd_view_to_float((int)n->preprocess, rgb, pixels, input);
    }
    for (int i = -WARM; i < RUNS && rc == 0; i++) {
        double begin = kd_clock_s();
        rc = kd_plan_forward(plan, input, logits, diag);
        if (i >= 0)
            ms[i] = (kd_clock_s() - begin) * 1000;
    }
    kd_plan_free(plan);
    free(rgb);
    free(input);
    free(logits);
    if (rc != 0)
        return rc;
    qsort(ms, RUNS, sizeof ms[0], by_size);
    *out_ms = ms[RUNS / 2];
    *out_params = n->graph->trained_len;
    *out_bytes = n->graph->vector_len * sizeof(float);
    return 1;
}

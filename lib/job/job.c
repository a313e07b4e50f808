#include "job/job.h"

#include <stdio.h>
#include <string.h>

static const char *const precisions[] = {[KD_FLOAT32] = "float32",
                                         [KD_INT8] = "int8",
                                         [KD_BFLOAT16] = "bfloat16",
                                         [KD_PRECISION_AUTO] = "auto"};

const char *kd_precision_name(enum kd_precision p)
{
    return precisions[p];
}

enum kd_precision kd_precision_of(const char *name)
{
    int p = 0;
    while (p < KD_PRECISION_AUTO && strcmp(precisions[p], name) != 0)
        p++;
    return (enum kd_precision)p;
}

const char *kd_stage_name(enum kd_stage_kind kind)
{
    static const char *const teachers[KD_MAX_TEACHERS] = {"teacher", "teacher2", "teacher3",
                                                          "teacher4"};
    static const char *const tunes[KD_MAX_COMPRESS] = {"tune",  "tune2", "tune3", "tune4",
                                                       "tune5", "tune6", "tune7", "tune8"};
    static const char *const steps[KD_MAX_COMPRESS] = {"compress",  "compress2", "compress3",
                                                       "compress4", "compress5", "compress6",
                                                       "compress7", "compress8"};
    if (kd_stage_teacher(kind) >= 0)
        return teachers[kd_stage_teacher(kind)];
    if (kd_stage_tune(kind) >= 0)
        return tunes[kd_stage_tune(kind)];
    if (kd_stage_compress(kind) >= 0)
        return steps[kd_stage_compress(kind)];
    switch ((int)kind) {
    case KD_STAGE_DISTILL:
        return "distill";
    case KD_STAGE_SCRATCH:
        return "scratch";
    case KD_STAGE_EVALUATE:
        return "evaluate";
    case KD_STAGE_EXPORT:
        return "export";
    default:
        return "unknown";
    }
}

/* Number within the kinds that begin with `first`, -1 = none of them. */
static int number_of(enum kd_stage_kind kind, enum kd_stage_kind first, int most)
{
    int n = (int)kind - (int)first;
    return n >= 0 && n < most ? n : -1;
}

int kd_stage_teacher(enum kd_stage_kind kind)
{
    return number_of(kind, KD_STAGE_TEACHER, KD_MAX_TEACHERS);
}

int kd_stage_tune(enum kd_stage_kind kind)
{
    return number_of(kind, KD_STAGE_TUNE, KD_MAX_COMPRESS);
}

int kd_stage_compress(enum kd_stage_kind kind)
{
    return number_of(kind, KD_STAGE_COMPRESS, KD_MAX_COMPRESS);
}

bool kd_stage_name_tunes(const char *name)
{
    const size_t n = strcspn(name, ".");
    for (int i = 0; i < KD_MAX_COMPRESS; i++) {
        const char *tune = kd_stage_name((enum kd_stage_kind)(KD_STAGE_TUNE + i));
        if (strlen(tune) == n && strncmp(name, tune, n) == 0)
            return true;
    }
    return false;
}

bool kd_teacher_is_outside(const kd_teacher_spec *t)
{
    return strcmp(t->model.model, "kserve") == 0;
}

int kd_job_stages(const kd_job *job, enum kd_stage_kind kinds[KD_MAX_STAGES])
{
    int n = 0;
    for (int i = 0; i < job->n_teachers; i++)
        if (!kd_teacher_is_outside(&job->teachers[i]))
            kinds[n++] = (enum kd_stage_kind)(KD_STAGE_TEACHER + i);
    kinds[n++] = KD_STAGE_DISTILL;
    if (job->scratch)
        kinds[n++] = KD_STAGE_SCRATCH;
    for (int i = 0; i < job->n_compress; i++) {
        if (job->compress[i].tune.epochs > 0)
            kinds[n++] = (enum kd_stage_kind)(KD_STAGE_TUNE + i);
        kinds[n++] = (enum kd_stage_kind)(KD_STAGE_COMPRESS + i);
    }
    kinds[n++] = KD_STAGE_EVALUATE;
    kinds[n++] = KD_STAGE_EXPORT;
    return n;
}

const kd_train_spec *kd_job_train(const kd_job *job, enum kd_stage_kind kind)
{
    int teacher = kd_stage_teacher(kind);
    if (teacher >= 0)
        return &job->teachers[teacher].train;
    if (kd_stage_tune(kind) >= 0)
        return &job->compress[kd_stage_tune(kind)].tune;
    if (kd_stage_compress(kind) >= 0)
        return &job->compress[kd_stage_compress(kind)].made;
    return kind == KD_STAGE_DISTILL   ? &job->distill
           : kind == KD_STAGE_SCRATCH ? &job->scratch_train
                                      : NULL;
}

double kd_loss_spec_temperature(const kd_loss_spec *loss)
{
    bool at_t = loss->kd > 0 || loss->dkd > 0 || loss->dist > 0 || loss->jsd > 0;
    double temperature = at_t ? loss->temperature : 0;
    return loss->nkd > 0 ? KD_MAX(temperature, loss->nkd_temperature) : temperature;
}

const kd_model_spec *kd_job_model(const kd_job *job, enum kd_stage_kind kind)
{
    int teacher = kd_stage_teacher(kind);
    if (teacher >= 0)
        return &job->teachers[teacher].model;
    const bool step = kd_stage_tune(kind) >= 0 || kd_stage_compress(kind) >= 0;
    return step || kind == KD_STAGE_DISTILL || kind == KD_STAGE_SCRATCH ? &job->student : NULL;
}

int kd_job_squeezed_from(const kd_job *job, enum kd_stage_kind kind)
{
    const kd_model_spec *m = kd_job_model(job, kind);
    return m && m->size && m->size != job->data.size ? job->data.size : 0;
}

bool kd_job_is_ref(const char *weights)
{
    return strncmp(weights, KD_JOB_REF, strlen(KD_JOB_REF)) == 0;
}

int kd_job_local_files(const kd_job *job, const char *out[KD_JOB_MAX_FILES])
{
    int n = 0;
    for (int i = 0; i <= job->n_teachers; i++) {
        const kd_model_spec *m = i < job->n_teachers ? &job->teachers[i].model : &job->student;
        bool listed = !m->weights[0] || kd_job_is_ref(m->weights);
        for (int k = 0; k < n && !listed; k++)
            listed = strcmp(out[k], m->weights) == 0;
        if (!listed)
            out[n++] = m->weights;
    }
    return n;
}

/* ---- advice */

struct notes {
    char (*text)[256];
    int n, max;
};

static void note(struct notes *to, const char *fmt, ...) KD_PRINTF(2, 3);
static void note(struct notes *to, const char *fmt, ...)
{
    if (to->n >= to->max)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(to->text[to->n++], sizeof to->text[0], fmt, ap);
    va_end(ap);
}

static void note_network(struct notes *to, const char *key, const kd_model_spec *m)
{
    if (strcmp(m->model, "mobilenet_v2") == 0 && m->weights[0] && m->preprocess == KD_PRE_UNIT)
        note(
            to,
            "%s.preprocess is unit ([0,1]); MobileNetV2 weights were trained on [-1,1] (symmetric) "
            "or by ImageNet's mean and deviation (imagenet)",
            key);
}

/* A run of this network; parts that stay as they are must be worth keeping. */
static void note_run(struct notes *to, const char *key, const char *model_key,
                     const kd_model_spec *m, const kd_train_spec *t)
{
    if (t->batch_norm_frozen && !m->weights[0])
        note(to,
             "%s.batch_norm is frozen, but without %s.weights there are no statistics worth "
             "keeping; `trained` fits better",
             key, model_key);
    if (t->freeze == KD_FREEZE_BACKBONE && !m->weights[0])
        note(to,
             "%s.freeze is backbone, but without %s.weights its features stay random; `none` fits "
             "better",
             key, model_key);
    if (t->patience >= t->epochs && t->patience > 0 && t->eval_every == 0)
        note(to,
             "%s.early_stop.patience (%d evaluations, one an epoch) is never used up in %d epochs",
             key, t->patience, t->epochs);
    const kd_optimizer_spec *o = &t->optimizer;
    if (o->n_milestones > 0 && o->milestones[o->n_milestones - 1] >= t->epochs)
        note(to, "%s.optimizer.milestones: epoch %d is never over in a run of %d", key,
             o->milestones[o->n_milestones - 1], t->epochs);
}

static void note_loss(struct notes *to, const kd_job *job)
{
    const kd_loss_spec *loss = &job->distill.loss;
    if (loss->kd > 0 && loss->ce >= loss->kd)
        note(to,
             "distill.loss: the hard weight ce (%g) is not below the soft one kd (%g); a "
             "considerably lower hard weight usually gives the better student (Hinton et al. 2015)",
             loss->ce, loss->kd);
    if ((loss->kd > 0 || loss->dkd > 0) && loss->temperature > 1 && loss->t2 == KD_T2_NONE)
        note(to,
             "distill.loss.t2 is none: at temperature %g the soft loss's gradients shrink by about "
             "1/T^2 = %.3g; `soft` multiplies them back",
             loss->temperature, 1 / (loss->temperature * loss->temperature));
    bool other = loss->dkd > 0 || loss->nkd > 0 || loss->jsd > 0;
    if (loss->kd > 0 && other)
        note(to, "distill.loss: kd (%g) is minimised beside %s; write kd: 0 for that one alone",
             loss->kd,
             loss->dkd > 0   ? "dkd"
             : loss->nkd > 0 ? "nkd"
                             : "jsd");
    if (job->n_teachers > 0 && !(loss->kd > 0) && !(loss->mse > 0) && !(loss->dist > 0) && !other)
        note(to,
             "distill.loss: only ce is above 0, so the student learns nothing from the teacher");
}

/* What is taken away without training after it costs more than it must. */
static void note_compress(struct notes *to, const kd_job *job)
{
    for (int i = 0; i < job->n_compress; i++) {
        const kd_compress_spec *c = &job->compress[i];
        bool cuts = c->kind == KD_COMPRESS_PRUNE || c->kind == KD_COMPRESS_CHANNELS;
        if (cuts && c->tune.epochs == 0)
            note(
                to,
                "compress[%d]: %g %% of the %s go at once and nothing is trained after it; give it "
                "epochs",
                i, c->share * 100, c->kind == KD_COMPRESS_PRUNE ? "weights" : "channels");
    }
}

int kd_job_notes(const kd_job *job, char notes[][256], int max)
{
    struct notes to = {.text = notes, .max = max};
    char key[64], run[80];
    note_loss(&to, job);
    for (int i = 0; i < job->n_teachers; i++) {
        const kd_teacher_spec *t = &job->teachers[i];
        snprintf(key, sizeof key, "teacher");
        if (job->n_teachers > 1)
            snprintf(key, sizeof key, "teacher[%d]", i);
        snprintf(run, sizeof run, "%s.fine_tune", key);
        if (t->fine_tune)
            note_run(&to, run, key, &t->model, &t->train);
        note_network(&to, key, &t->model);
    }
    note_run(&to, "distill", "student", &job->student, &job->distill);
    note_network(&to, "student", &job->student);
    note_compress(&to, job);
    /* The loader leaves padding zero, so this compares values. */
    static const kd_augment_spec nothing;
    bool changed = memcmp(&job->data.augment, &nothing, sizeof nothing) != 0;
    if (!changed && job->distill.views != 1)
        note(&to, "distill.views: without data.augment all views of a sample are the same picture");
    if (changed && job->distill.views == 0 && job->n_teachers > 0)
        note(&to,
             "distill.views is fresh: the teacher runs on every sample in every epoch, since no "
             "logits of it are met again");
    if (job->max_workers > job->distill.slots)
        note(&to, "cluster.max_workers (%d) is more than distill.slots (%d): the rest would idle",
             job->max_workers, job->distill.slots);
    return to.n;
}

#include "items.h"

#include "kd/address.h"

#include <stdio.h>
#include <string.h>

#define bad kd_load_bad

static void derive_hard(kd_loss_spec *loss)
{
    loss->ce = 1;
    loss->temperature = 1;
    loss->normalise = true;
}

void kd_load_derive(kd_job *j)
{
    for (int i = 0; i < j->n_teachers; i++) {
        derive_hard(&j->teachers[i].train.loss);
        if (!j->teachers[i].fine_tune)
            j->teachers[i].train.epochs = 0;
        else
            j->teachers[i].train.bfloat16_gradients = j->distill.bfloat16_gradients;
    }
    derive_hard(&j->scratch_train.loss);
    if (!j->export_onnx)
        j->onnx_opset = 17;
    /* The twin is the same student on the same pictures in the same order. */
    j->distill.seed = j->scratch_train.seed = j->seed;
    j->scratch_train.batch_norm_frozen = j->distill.batch_norm_frozen;
    j->scratch_train.freeze = j->distill.freeze;
    j->scratch_train.bfloat16 = j->distill.bfloat16;
    j->scratch_train.bfloat16_gradients = j->distill.bfloat16_gradients;
    kd_compress_derive(j);
}

/* ---- one training run */

static int check_optimizer(kd_loader *l, const char *prefix, const kd_train_spec *t)
{
    const kd_optimizer_spec *o = &t->optimizer;
    char key[128];
    snprintf(key, sizeof key, "%s.optimizer.nesterov", prefix);
    if (o->nesterov && !(o->momentum > 0))
        return bad(l, kd_load_node(l, key), key, "needs momentum above 0, as in momentum: 0.9");
    snprintf(key, sizeof key, "%s.optimizer.warmup", prefix);
    if (o->warmup > 0 && o->schedule == KD_ONE_CYCLE)
        return bad(l, kd_load_node(l, key), key,
                   "the one_cycle schedule has a rise of its own (pct_start); leave warmup out");
    if (o->warmup > t->epochs)
        return bad(l, kd_load_node(l, key), key, "a warm-up of %g epochs in a run of %d", o->warmup,
                   t->epochs);
    snprintf(key, sizeof key, "%s.optimizer.milestones", prefix);
    if (o->schedule == KD_STEP && o->n_milestones == 0)
        return bad(l, kd_load_node(l, key), key,
                   "missing: the step schedule needs the epochs of its steps, as in [30, 60]");
    for (int i = 1; i < o->n_milestones; i++)
        if (o->milestones[i] <= o->milestones[i - 1])
            return bad(l, kd_load_node(l, key), key, "%d follows %d; the epochs must rise",
                       o->milestones[i], o->milestones[i - 1]);
    return 0;
}

static int check_training(kd_loader *l, const char *prefix, const kd_train_spec *t)
{
    char key[128], other[128];
    snprintf(key, sizeof key, "%s.slots", prefix);
    snprintf(other, sizeof other, "%s.batch", prefix);
    int node = kd_load_node(l, *kd_load_at(l, kd_schema_find(key, strlen(key))) ? key : other);
    if (t->slots & (t->slots - 1))
        return bad(l, node, key, "expected a power of two, found %d", t->slots);
    if (t->batch % t->slots != 0)
        return bad(l, node, key,
                   "%d slots do not divide a batch of %d; the batch must be a multiple", t->slots,
                   t->batch);
    return check_optimizer(l, prefix, t);
}

/* ---- one network */

/* "job:ID" or "job:ID/NAME": what another job made, ID as the command line takes it. */
static bool valid_job_ref(const char *text)
{
    const char *id = text + strlen(KD_JOB_REF);
    size_t n = strspn(id, "0123456789abcdef"), m;
    if (n < 4 || n > 12)
        return false;
    if (!id[n])
        return true;
    m = strspn(id + n + 1, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return id[n] == '/' && m > 0 && m < KD_JOB_NAME && !id[n + 1 + m];
}

/* Pictures below this size leave nothing between the layers. */
static int least_size(const char *model)
{
    static const struct {
        const char *model;
        int size;
    } least[] = {
        {"shallow_cnn", 14},      /* 3x3 valid, 4x4 pool, 3x3 valid */
        {"shallow_cnn_deep", 58}, /* and another 4x4 pool and 3x3 valid */
        {"lenet", 12},            /* 5x5 padded by 2, 2x2 pool, 5x5 valid, 2x2 pool */
    };
    for (size_t i = 0; i < KD_COUNT(least); i++)
        if (strcmp(model, least[i].model) == 0)
            return least[i].size;
    return 8;
}

static int check_model(kd_loader *l, const char *prefix, const kd_model_spec *m)
{
    char key[128], onnx[128];
    snprintf(key, sizeof key, "%s.weights", prefix);
    if (kd_job_is_ref(m->weights) && !valid_job_ref(m->weights))
        return bad(l, kd_load_node(l, key), key,
                   "expected job:ID or job:ID/NAME of a file that the job made");
    snprintf(onnx, sizeof onnx, "%s.onnx", prefix);
    if (*kd_load_at(l, kd_schema_find(onnx, strlen(onnx))) &&
        *kd_load_at(l, kd_schema_find(key, strlen(key))))
        return bad(l, kd_load_node(l, key), key, "given beside %s.onnx, which is the file", prefix);
    if (strcmp(m->model, "onnx") == 0 && !m->weights[0])
        return bad(l, kd_load_node(l, prefix), key, "missing: the ONNX file (%s)", onnx);
    if (strcmp(m->model, "layers") == 0 && m->n_layers == 0) {
        snprintf(key, sizeof key, "%s.layers", prefix);
        return bad(l, kd_load_node(l, prefix), key, "missing: the list of layers");
    }
    snprintf(key, sizeof key, "%s.weights_digest", prefix);
    if (m->weights_digest[0] && !m->weights[0])
        return bad(l, kd_load_node(l, key), key, "given without %s.weights", prefix);
    snprintf(key, sizeof key, "%s.size", prefix);
    if (m->size > l->job.data.size)
        return bad(l, kd_load_node(l, key), key,
                   "%d pixels are more than the view has (data.labelled.size: %d)", m->size,
                   l->job.data.size);
    if (m->size < least_size(m->model)) {
        bool own = *kd_load_at(l, kd_schema_find(key, strlen(key)));
        const char *from = own ? key : "data.labelled.size";
        return bad(l, kd_load_node(l, from), from,
                   "%d pixels are too few for %s (%s.model); it needs %d", m->size, m->model,
                   prefix, least_size(m->model));
    }
    return m->n_layers > 0 ? kd_items_check_layers(l, prefix, m) : 0;
}

/* ---- data */

static int check_split(kd_loader *l, const char *name, const char *file, const char *labels,
                       double share)
{
    const kd_data_spec *d = &l->job.data;
    char key[64], label_key[64];
    snprintf(key, sizeof key, "data.labelled.%s", name);
    snprintf(label_key, sizeof label_key, "data.labelled.%s_labels", name);
    bool arrays = d->format == KD_IDX || d->format == KD_NPY;
    if (file[0] && share > 0)
        return bad(l, kd_load_node(l, key), key,
                   "both `%s` and `%s_share`; the samples are there, or a share of the training "
                   "samples is taken",
                   name, name);
    if (arrays && file[0] && !labels[0])
        return bad(l, kd_load_node(l, key), label_key, "missing: labels of %s", key);
    if (labels[0] && !file[0])
        return bad(l, kd_load_node(l, label_key), label_key, "given without %s", key);
    return 0;
}

static int check_data(kd_loader *l)
{
    const kd_data_spec *d = &l->job.data;
    if ((d->format == KD_IDX || d->format == KD_NPY) && !d->train[0])
        return bad(l, kd_load_node(l, "data.labelled.train"), "data.labelled.train",
                   "missing: the file of the training images");
    int rc = check_split(l, "train", d->train, d->train_labels, 0);
    if (rc == 0)
        rc = check_split(l, "val", d->val, d->val_labels, d->val_share);
    if (rc == 0)
        rc = check_split(l, "test", d->test, d->test_labels, d->test_share);
    if (rc != 0)
        return rc;
    if (d->format != KD_CIFAR && !d->val[0] && !(d->val_share > 0))
        return bad(l, kd_load_node(l, "data.labelled.val"), "data.labelled.val",
                   "missing: the validation samples, or `val_share: 0.1` to take a tenth of the "
                   "training samples");
    if (d->val_share + d->test_share > 0.95)
        return bad(l, kd_load_node(l, "data.labelled.test_share"), "data.labelled.test_share",
                   "%g and a val_share of %g leave too little to train on; at most 0.95 together",
                   d->test_share, d->val_share);
    int most = KD_MAX(d->augment.crop_pad, d->augment.cutout);
    if (most > d->size)
        return bad(l, kd_load_node(l, "data.augment"), "data.augment",
                   "%s of %d pixels, more than the picture has (data.labelled.size: %d)",
                   most == d->augment.crop_pad ? "a crop" : "a cutout", most, d->size);
    return 0;
}

/* ---- loss and teachers */

static const struct term {
    const char *key;
    size_t at; /* in kd_loss_spec */
    bool soft;
} g_terms[] = {
    {"kd", offsetof(kd_loss_spec, kd), true},     {"ce", offsetof(kd_loss_spec, ce), false},
    {"mse", offsetof(kd_loss_spec, mse), true},   {"dkd", offsetof(kd_loss_spec, dkd), true},
    {"dist", offsetof(kd_loss_spec, dist), true}, {"nkd", offsetof(kd_loss_spec, nkd), true},
    {"jsd", offsetof(kd_loss_spec, jsd), true},
};

static double weight_of(const kd_loss_spec *loss, const struct term *t)
{
    double v;
    memcpy(&v, (const char *)loss + t->at, sizeof v);
    return v;
}

static int check_loss(kd_loader *l)
{
    const kd_job *j = &l->job;
    const kd_loss_spec *loss = &j->distill.loss;
    bool any = false;
    for (size_t i = 0; i < KD_COUNT(g_terms); i++) {
        double weight = weight_of(loss, &g_terms[i]);
        any |= weight > 0;
        if (!(weight > 0) || !g_terms[i].soft || j->n_teachers > 0)
            continue;
        char key[64];
        snprintf(key, sizeof key, "distill.loss.%s", g_terms[i].key);
        return bad(l, kd_load_node(l, key), "teacher", "missing: %s is %g, which needs one", key,
                   weight);
    }
    if (!any)
        return bad(l, kd_load_node(l, "distill.loss"), "distill.loss",
                   "kd, ce, mse, dkd, dist, nkd and jsd are all 0; one of them must be above it");
    if (loss->dist > 0 && loss->dist_intra > 0 && j->distill.batch < 2)
        return bad(l, kd_load_node(l, "distill.loss.dist_intra"), "distill.loss.dist_intra",
                   "compares the samples of a batch, and distill.batch is 1");
    bool mean = j->ensemble == KD_ENSEMBLE_PROBABILITIES;
    if (mean && (loss->mse > 0 || loss->nkd > 0)) {
        const char *term = loss->mse > 0 ? "mse" : "nkd";
        return bad(l, kd_load_node(l, "distill.ensemble"), "distill.ensemble",
                   "probabilities are averaged at the temperature, but distill.loss.%s compares "
                   "logits without it; average logits, or set %s to 0",
                   term, term);
    }
    if (j->data.unlabelled.path[0] &&
        !(loss->kd > 0 || loss->mse > 0 || loss->dist > 0 || loss->jsd > 0))
        return bad(l, kd_load_node(l, "data.unlabelled"), "data.unlabelled",
                   "nothing is learnt from pictures without classes unless kd, mse, dist or jsd of "
                   "distill.loss is above 0");
    return 0;
}

/* Smoothing erases what the teacher knows of the wrong classes, the more so the higher the
 * temperature (Chandrasegaran et al., ICML 2022). */
static int check_smoothing(kd_loader *l, const kd_teacher_spec *t)
{
    double temperature = kd_loss_spec_temperature(&l->job.distill.loss);
    if (!t->fine_tune || !(t->train.loss.label_smoothing > 0) || !(temperature > 1) ||
        t->allow_label_smoothing)
        return 0;
    const char *key = "teacher.fine_tune.loss.label_smoothing";
    return bad(
        l, kd_load_node(l, key), key,
        "a teacher trained with label smoothing makes a worse student at a temperature above "
        "1 (here %g): it no longer tells the wrong classes apart; leave it out, use "
        "temperature 1, or set teacher.allow_label_smoothing: true",
        temperature);
}

/* What its server does is not ours to train, to round or to load. */
static int check_outside(kd_loader *l, const kd_teacher_spec *t)
{
    const char *key = t->fine_tune                 ? "teacher.fine_tune"
                      : t->model.weights[0]        ? "teacher.weights"
                      : t->precision != KD_FLOAT32 ? "teacher.precision"
                                                   : NULL;
    if (key)
        return bad(l, kd_load_node(l, key), key,
                   "not with a teacher that runs elsewhere (teacher.kserve)");
    if (!t->kserve[0])
        return bad(l, kd_load_node(l, "teacher"), "teacher.kserve",
                   "missing: the server's address (HOST:PORT)");
    if (!t->served[0])
        return bad(l, kd_load_node(l, "teacher"), "teacher.model",
                   "missing: the name of the model at %s", t->kserve);
    /* Data leave the machine in plain text only where somebody has said so. */
    if (!*kd_load_at(l, kd_schema_find("teacher.tls", strlen("teacher.tls"))) &&
        !kd_address_is_loopback(t->kserve))
        return bad(l, kd_load_node(l, "teacher"), "teacher.tls",
                   "missing: true, or false to send pictures to %s in plain text", t->kserve);
    return 0;
}

static int check_teacher(kd_loader *l, const kd_teacher_spec *t)
{
    int rc = check_model(l, "teacher", &t->model);
    if (rc != 0 || kd_teacher_is_outside(t))
        return rc != 0 ? rc : check_outside(l, t);
    if (rc == 0 && t->fine_tune)
        rc = check_training(l, "teacher.fine_tune", &t->train);
    if (rc == 0 && !t->model.weights[0] && !t->fine_tune)
        rc = bad(l, kd_load_node(l, "teacher"), "teacher",
                 "neither weights nor fine_tune: it would know nothing");
    return rc != 0 ? rc : check_smoothing(l, t);
}

int kd_load_check(kd_loader *l)
{
    const kd_job *j = &l->job;
    int rc = check_data(l);
    for (l->inst = 0; rc == 0 && l->inst < j->n_teachers; l->inst++)
        rc = check_teacher(l, &j->teachers[l->inst]);
    l->inst = 0;
    if (rc == 0)
        rc = check_model(l, "student", &j->student);
    if (rc == 0)
        rc = check_training(l, "distill", &j->distill);
    if (rc == 0 && j->scratch)
        rc = check_training(l, "scratch", &j->scratch_train);
    if (rc == 0)
        rc = check_loss(l);
    if (rc == 0)
        rc = kd_compress_check(l);
    if (rc == 0 && j->min_workers > j->max_workers)
        rc = bad(l, kd_load_node(l, "cluster.min_workers"), "cluster.min_workers",
                 "%d is more than cluster.max_workers, %d", j->min_workers, j->max_workers);
    return rc;
}

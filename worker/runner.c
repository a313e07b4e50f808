#include "runner_internal.h"

#include "kd/clock.h"
#include "kd/failpoint.h"
#include "kd/log_sink.h"
#include "kd/text.h"
#include "models/models.h"
#include "wire/limits.h"
#include "wire/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Files that cannot be had at once are asked for again: the coordinator may be busy or away. */
#define FILE_RETRY_MS 500

/* ---- talking to the coordinator */

static void send_problem(kd_runner *r, const char *job, uint32_t stage, bool worker_only,
                         const char *code, const char *text)
{
    char whole[KD_DIAG_MAX];
    snprintf(whole, sizeof whole, "%s", text);
    kd_utf8_mend(whole);
    Distill__V1__StageProblem p = DISTILL__V1__STAGE_PROBLEM__INIT;
    p.job = (char *)job;
    p.stage = stage;
    p.worker_only = worker_only;
    p.code = (char *)code;
    p.text = whole;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_PROBLEM;
    m.problem = &p;
    kd_log_set_work(&(kd_log_work){0}); /* the message tells the job of it */
    kd_warn("%s: %s job=%s stage=%u", code, text, job, stage);
    r->cfg.send(r->cfg.arg, &m);
}

/* Under r->mu: this generation cannot go on here; the first reason counts. */
void kd_runner_give_up(kd_runner *r, const char *why)
{
    if (!r->over)
        snprintf(r->over_text, sizeof r->over_text, "%.250s", why);
    r->over = true;
    kd_runner_wake(r);
}

void kd_runner_wake(kd_runner *r)
{
    r->news++;
    pthread_cond_broadcast(&r->changed);
}

/* Once a stage: the first problem is the one that tells. */
void kd_runner_problem(kd_runner *r, const char *code, const char *text)
{
    if (!atomic_exchange(&r->failed, true))
        send_problem(r, r->stage_job, r->stage_index, false, code, text);
    atomic_store(&r->cancel, true);
    pthread_mutex_lock(&r->mu);
    kd_runner_give_up(r, text);
    pthread_mutex_unlock(&r->mu);
}

/* What log lines are about from here on. */
static void tell_log(const kd_runner *r, uint64_t step)
{
    kd_log_work work = {.stage = r->stage_index, .step = step};
    snprintf(work.job, sizeof work.job, "%.12s", r->stage_job);
    kd_log_set_work(&work);
}

void kd_runner_phase(kd_runner *r, const char *phase, uint64_t step)
{
    pthread_mutex_lock(&r->mu);
    r->status.phase = phase;
    r->status.step = step;
    pthread_mutex_unlock(&r->mu);
    tell_log(r, step);
}

void kd_runner_status_get(kd_runner *r, kd_runner_status *out)
{
    pthread_mutex_lock(&r->mu);
    *out = r->status;
    pthread_mutex_unlock(&r->mu);
    out->units = atomic_load(&r->units);
    out->teacher_forwards = atomic_load(&r->counts.forwards);
    out->bank_hits = atomic_load(&r->counts.hits);
    out->teacher_seconds = (double)atomic_load(&r->counts.microseconds) * 1e-6;
}

static void on_bad_picture(void *arg, size_t sample, const char *why)
{
    kd_runner *r = arg;
    const kd_session *ss = r->session;
    unsigned bad = atomic_fetch_add(&r->bad_images, 1) + 1;
    char text[700];
    snprintf(text, sizeof text, "picture %zu cannot be read and does not count: %.200s: %.400s",
             sample, kd_data_name(ss->data, sample), why);
    kd_utf8_mend(text);
    Distill__V1__WorkerLog l = DISTILL__V1__WORKER_LOG__INIT;
    l.job = (char *)ss->job_id;
    l.level = "warn";
    l.text = text;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_LOG;
    m.log = &l;
    r->cfg.send(r->cfg.arg, &m);
    size_t all = kd_data_samples(ss->data);
    if ((double)bad > ss->job.data.max_bad_images * (double)all) {
        snprintf(text, sizeof text,
                 "%u of %zu pictures cannot be read, max_bad_images allows %.3g; "
                 "the last one: %.200s",
                 bad, all, ss->job.data.max_bad_images, kd_data_name(ss->data, sample));
        kd_runner_problem(r, "BAD_IMAGES", text);
    }
}

/* ---- sessions and stages */

/* The counts of a stage that ends between two heart-beats. */
static void send_counts(kd_runner *r)
{
    Distill__V1__Heartbeat h = DISTILL__V1__HEARTBEAT__INIT;
    h.job = r->stage_job;
    h.stage = r->stage_index;
    h.units_done = atomic_load(&r->units);
    h.teacher_forwards = atomic_load(&r->counts.forwards);
    h.bank_hits = atomic_load(&r->counts.hits);
    h.teacher_seconds = (double)atomic_load(&r->counts.microseconds) * 1e-6;
    h.phase = "waiting";
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_HEARTBEAT;
    m.heartbeat = &h;
    r->cfg.send(r->cfg.arg, &m);
}

static void stage_close(kd_runner *r)
{
    if (r->stage && r->stage_job[0])
        send_counts(r);
    /* Answers that are still to come find another number. */
    pthread_mutex_lock(&r->mu);
    kd_part *part = r->part;
    r->part = NULL;
    r->part_number++;
    r->is_prepared = r->values_asked = r->values_there = false;
    pthread_mutex_unlock(&r->mu);
    const float *gradient;
    if (part)
        kd_part_drop(part);
    while (part && kd_part_take_dropped(part, &gradient, 1) == 1)
        kd_reducer_give(r->reducer, (float *)gradient);
    kd_part_free(part);
    kd_stage_free(r->stage);
    r->stage = NULL;
    kd_reducer_free(r->reducer);
    r->reducer = NULL;
    kd_teaching_free(r->teaching);
    r->teaching = NULL;
    for (int i = 0; i < KD_MAX_TEACHERS; i++) {
        kd_outside_free(r->outside[i]);
        r->outside[i] = NULL;
    }
    free(r->digests);
    free(r->check_digests);
    free(r->places);
    free(r->average);
    free(r->values);
    free(r->own_values);
    free(r->evaluation.done);
    free(r->evaluation.units);
    memset(&r->evaluation, 0, sizeof r->evaluation);
    r->digests = r->check_digests = NULL;
    r->places = NULL;
    r->average = r->values = r->own_values = NULL;
    r->vector = NULL;
    r->stats = NULL;
    r->n_valued = r->next_valued = 0;
    r->stage_job[0] = '\0';
    tell_log(r, 0);
}

static void session_close(kd_runner *r)
{
    stage_close(r);
    kd_session_free(r->session);
    r->session = NULL;
    atomic_store(&r->bad_images, 0);
}

static int session_open(kd_runner *r, const Distill__V1__Prepare *p, const char **problem,
                        kd_diag *diag)
{
    if (r->session && strcmp(r->session->job_id, p->job) == 0)
        return 0;
    session_close(r);
    kd_session_config cfg = {.job_id = p->job,
                             .text = p->resolved,
                             .data_root = r->cfg.data_root,
                             .cache_bytes = r->cfg.cache_bytes,
                             .threads = r->cfg.threads,
                             .bad = on_bad_picture,
                             .arg = r};
    return kd_session_open(&cfg, &r->session, problem, diag);
}

static void *take(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    return p;
}

static void on_teacher_problem(void *arg, const char *text)
{
    kd_runner_problem(arg, "TEACHER", text);
}

static int stage_buffers(kd_runner *r, kd_diag *diag)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    kd_part_shape shape = {.floats = h->floats,
                           .slots = h->slots,
                           .chunk_floats = h->chunk_floats,
                           .chunks = h->chunks,
                           .state_vectors = (uint32_t)h->state_vectors,
                           .bfloat16 = h->bfloat16,
                           .initial = kd_stage_initial(r->stage)};
    kd_part *part = kd_part_new(&shape);
    size_t marks = (size_t)h->slots * h->chunks;
    size_t values = (size_t)h->slots * h->slot_batch * h->value_columns;
    pthread_mutex_lock(&r->mu);
    r->part = part;
    pthread_mutex_unlock(&r->mu);
    r->step = UINT64_MAX;
    r->reducer = kd_reducer_new(h->slots, h->floats, h->bfloat16);
    r->digests = take(marks, sizeof(uint32_t));
    r->check_digests = take(marks, sizeof(uint32_t));
    r->places = take(h->slot_batch, sizeof *r->places);
    r->evaluation.done = take(h->eval_units, 1);
    r->evaluation.units = take(h->eval_units, sizeof(uint32_t));
    if (h->average)
        r->average = take(h->floats, sizeof(float));
    if (h->value_columns) {
        r->values = take(values, sizeof(float));
        r->own_values = take(values, sizeof(float));
    }
    bool ok = part && r->digests && r->check_digests && r->places && r->evaluation.done &&
              r->evaluation.units && (!h->average || r->average) &&
              (!h->value_columns || (r->values && r->own_values));
    if (!ok)
        return kd_fail(diag, -KD_ENOMEM, "no memory for %zu parameters and their gradients",
                       h->floats);
    if (!h->n_teachers)
        return 0;
    kd_teaching_config cfg = {.stage = r->stage,
                              .session = r->session,
                              .pool = r->pool,
                              .channel = r->cfg.channel,
                              .views = r->session->job.distill.views,
                              .outside = r->outside,
                              .problem = on_teacher_problem,
                              .stopped = kd_runner_stopped,
                              .arg = r,
                              .counts = &r->counts};
    return kd_teaching_new(&cfg, &r->teaching, diag);
}

static int fetch_blob(kd_runner *r, const char *job, const char *digest, uint8_t **out, size_t *len,
                      kd_diag *diag)
{
    *out = NULL;
    int rc = 0;
    while (digest[0]) {
        rc = kd_exchange_get_blob(r->cfg.channel, job, digest, out, len, diag);
        if (rc == 0 || !kd_err_retry(rc) || atomic_load(&r->cancel))
            break;
        usleep(FILE_RETRY_MS * 1000);
    }
    return rc;
}

static void fill_training_info(kd_runner *r, enum kd_stage_kind kind, Distill__V1__StageInfo *i,
                               char *terms[KD_LOSS_TERMS])
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    const kd_train_spec *t = kd_job_train(&r->session->job, kind);
    i->parameters = h->trained;
    i->state = h->floats - h->trained;
    i->batch = (uint32_t)t->batch;
    i->slots = h->slots;
    i->epochs = (uint32_t)t->epochs;
    i->chunk_floats = h->chunk_floats;
    i->optimizer_vectors = (uint32_t)h->state_vectors;
    i->epoch_samples = h->epoch_samples;
    i->unlabelled_samples = h->epoch_samples - r->session->n_train;
    i->eval_steps = (uint32_t)t->eval_every;
    i->average = h->average;
    i->clip_norm = t->epochs > 0 ? t->optimizer.clip_norm : 0;
    i->value_columns = h->value_columns;
    i->patience = (uint32_t)t->patience;
    i->min_delta = t->min_delta;
    for (int k = 0; k < h->n_terms; k++)
        terms[k] = (char *)kd_loss_term_name(h->terms[k]);
    i->terms = terms;
    i->n_terms = (size_t)h->n_terms;
    i->model = (char *)kd_job_model(&r->session->job, kind)->model;
}

/* What describes the network must fit a message. */
static bool describable(const char *table, const char *metadata)
{
    return table && metadata && strlen(table) <= KD_MAX_JOB_TEXT &&
           strlen(metadata) <= KD_MAX_METADATA;
}

static void send_ready(kd_runner *r, const Distill__V1__Prepare *p, const char *fingerprint)
{
    const kd_session *ss = r->session;
    char data[33], classes[33], *terms[KD_LOSS_TERMS];
    kd_digest d = kd_data_digest(ss->data), k = kd_data_classes_digest(ss->data);
    kd_digest_hex(&d, data);
    kd_digest_hex(&k, classes);
    Distill__V1__StageInfo i = DISTILL__V1__STAGE_INFO__INIT;
    i.train_samples = ss->n_train;
    i.val_samples = ss->n_val;
    i.test_samples = ss->n_test;
    i.classes = (uint32_t)ss->classes;
    i.data_digest = data;
    i.classes_digest = classes;
    i.fingerprint = (char *)fingerprint;
    char **names = kd_xalloc((size_t)ss->classes * sizeof *names);
    for (int c = 0; c < ss->classes; c++)
        names[c] = (char *)kd_data_class_name(ss->data, c);
    i.class_names = names;
    i.n_class_names = (size_t)KD_MIN(ss->classes, 1024);
    char *table = NULL, *metadata = NULL;
    if (kd_stage_graph(r->stage)) {
        enum kd_stage_kind kinds[KD_MAX_STAGES];
        kd_job_stages(&ss->job, kinds);
        fill_training_info(r, kinds[p->stage], &i, terms);
        i.table = table = kd_stage_table(r->stage);
        i.metadata = metadata = kd_stage_metadata(r->stage);
        bool doubtful;
        i.calibrated = (char *)kd_stage_calibrated(r->stage, &doubtful);
        i.doubtful = doubtful;
        if (!describable(table, metadata)) {
            kd_runner_problem(r, "BAD_MODEL",
                              "the network's description is larger than a message takes: too many "
                              "layers, or too many classes");
            free(names);
            free(table);
            free(metadata);
            return;
        }
    }
    KD_FAILPOINT("worker.ready");
    Distill__V1__StageReady ready = DISTILL__V1__STAGE_READY__INIT;
    ready.job = p->job;
    ready.stage = p->stage;
    ready.info = &i;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_READY;
    m.ready = &ready;
    r->cfg.send(r->cfg.arg, &m);
    free(names);
    free(table);
    free(metadata);
}

/* Whether a stage needs the network that an earlier one made: teachers to learn from, what is to be
 * made smaller, all that is finished to evaluate. */
static bool needs(const kd_job *job, enum kd_stage_kind kind, const char *name)
{
    const bool teacher = strncmp(name, "teacher", 7) == 0 && !strchr(name, '.');
    const char *source = kd_stage_source(job, kind);
    if (kind == KD_STAGE_EVALUATE)
        return !kd_stage_name_tunes(name);
    return (teacher && (kind == KD_STAGE_DISTILL || kd_stage_tune(kind) >= 0)) ||
           (source && strcmp(name, source) == 0);
}

static int fetch_finished(kd_runner *r, const Distill__V1__Prepare *p, enum kd_stage_kind kind,
                          kd_finished *out, uint8_t **bytes, size_t *out_n, kd_diag *diag)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n_finished && n < KD_MAX_FINISHED; i++) {
        const Distill__V1__NamedBlob *f = p->finished[i];
        if (!needs(&r->session->job, kind, f->path))
            continue;
        int rc = fetch_blob(r, p->job, f->digest, &bytes[n], &out[n].len, diag);
        if (rc != 0)
            return rc;
        snprintf(out[n].name, sizeof out[n].name, "%.31s", f->path);
        out[n].bytes = bytes[n];
        *out_n = ++n;
    }
    return 0;
}

/* What the job goes by; waits while another worker measures. */
static int decide(void *arg, int teacher, const char *value, const char *why, bool *out_measure,
                  kd_diag *diag)
{
    kd_runner *r = arg;
    kd_stage_ref ref = {.stage = r->stage_index, .process = r->cfg.process};
    snprintf(ref.job, sizeof ref.job, "%s", r->stage_job);
    for (;;) {
        char chosen[33] = "";
        *out_measure = false;
        const int rc = kd_exchange_decide(r->cfg.channel, &ref, (uint32_t)teacher, value, why,
                                          chosen, out_measure, diag);
        enum kd_precision *to = &r->session->job.teachers[teacher].precision;
        if (rc == 0 && (*to = kd_precision_of(chosen)) != KD_PRECISION_AUTO)
            *out_measure = false;
        r->could_not_ask = rc != 0;
        if ((rc != 0 && !kd_err_retry(rc)) || *out_measure || *to != KD_PRECISION_AUTO)
            return rc;
        if (atomic_load(&r->cancel))
            return -KD_ECANCELED;
        usleep(FILE_RETRY_MS * 1000);
    }
}

/* Whether the job asks for numbers that not every processor has kernels for. */
static bool wants_kernels(const kd_session *ss, enum kd_stage_kind kind)
{
    const kd_train_spec *t = kd_job_train(&ss->job, kind);
    bool wants = t && t->bfloat16;
    for (int i = 0; i < ss->job.n_teachers; i++)
        wants = wants || ss->job.teachers[i].precision != KD_FLOAT32;
    return wants;
}

/* Networks, plans, buffers and the composition of an epoch. *out_own: the failure is this worker's
 * alone. */
static int make_stage(kd_runner *r, const Distill__V1__Prepare *p, enum kd_stage_kind kind,
                      char fingerprint[33], const char **problem, bool *out_own, kd_diag *diag)
{
    const kd_model_spec *model = kd_job_model(&r->session->job, kind);
    uint8_t *weights = NULL, *bytes[KD_MAX_FINISHED] = {0};
    kd_finished finished[KD_MAX_FINISHED];
    kd_stage_config cfg = {.session = r->session,
                           .kind = kind,
                           .threads = r->cfg.threads,
                           .numerics = r->cfg.numerics,
                           .finished = finished,
                           .decide = decide,
                           .arg = r};
    *problem = "NO_BLOB";
    int rc = 0;
    if (model && model->weights_digest[0] && !kd_stage_source(&r->session->job, kind))
        rc = fetch_blob(r, p->job, model->weights_digest, &weights, &cfg.weights_len, diag);
    if (rc == 0)
        rc = fetch_finished(r, p, kind, finished, bytes, &cfg.n_finished, diag);
    *out_own = rc != 0; /* the coordinator could not be asked: not the job's fault */
    cfg.weights = weights;
    r->could_not_ask = false;
    if (rc == 0 && (rc = kd_stage_new(&cfg, &r->stage, problem, diag)) != 0)
        *out_own = r->could_not_ask || (rc == -KD_EUNSUP && wants_kernels(r->session, kind));
    free(weights);
    for (size_t i = 0; i < KD_COUNT(bytes); i++)
        free(bytes[i]);
    if (rc != 0 || !kd_stage_graph(r->stage))
        return rc;
    *problem = "TEACHER";
    rc = kd_runner_meet(r, diag);
    *out_own = rc == -KD_EUNAVAIL;
    if (rc == 0) {
        *problem = "NO_MEMORY";
        rc = stage_buffers(r, diag);
    }
    if (rc == 0) {
        *problem = "NO_LABELS";
        rc = kd_runner_label(r, diag);
        *out_own = rc == -KD_EUNAVAIL || rc == -KD_ETIMEOUT;
    }
    if (rc == 0) {
        *problem = "NON_FINITE";
        rc = kd_stage_fingerprint(r->stage, fingerprint, diag);
    }
    return rc;
}

/* All that a stage is made of. */
static kd_digest prepare_digest(const Distill__V1__Prepare *p)
{
    kd_buf buf;
    kd_digest d = {0};
    kd_buf_init(&buf, KD_MAX_CONTROL_BYTES);
    /* The session is the job's, whatever was chosen for it since: that changes the text. */
    Distill__V1__Prepare named = *p;
    named.resolved = "";
    if (kd_wire_pack(&named, &buf) == 0)
        d = kd_digest_of(buf.data, buf.len);
    kd_buf_clear(&buf);
    return d;
}

void kd_runner_ready_again(kd_runner *r, const Distill__V1__Prepare *p)
{
    send_ready(r, p, r->fingerprint);
}

static void do_prepare(kd_runner *r, const Distill__V1__Prepare *p)
{
    kd_diag diag = {0};
    const char *problem = "INTERNAL";
    kd_digest digest = prepare_digest(p);
    pthread_mutex_lock(&r->mu);
    bool here = r->is_prepared && memcmp(&digest, &r->prepared, sizeof digest) == 0;
    pthread_mutex_unlock(&r->mu);
    if (here && !atomic_load(&r->failed)) {
        kd_runner_ready_again(r, p);
        return;
    }
    stage_close(r);
    atomic_store(&r->failed, false);
    atomic_store(&r->counts.forwards, 0);
    atomic_store(&r->counts.hits, 0);
    atomic_store(&r->counts.microseconds, 0);
    pthread_mutex_lock(&r->mu);
    snprintf(r->status.job, sizeof r->status.job, "%.12s", p->job);
    r->status.stage = p->stage;
    r->status.phase = "preparing";
    r->status.step = 0;
    pthread_mutex_unlock(&r->mu);
    snprintf(r->stage_job, sizeof r->stage_job, "%.12s", p->job);
    r->stage_index = p->stage;
    tell_log(r, 0);
    const double begun = kd_clock_s();
    int rc = session_open(r, p, &problem, &diag);
    if (rc != 0) {
        /* Other workers may have the data; but leakage is the data's own. */
        bool own = strcmp(problem, "NO_DATA") == 0 && rc != -KD_EEXIST;
        send_problem(r, p->job, p->stage, own, problem, diag.msg);
        return;
    }
    /* A session that gave way to this one took its name along. */
    snprintf(r->stage_job, sizeof r->stage_job, "%.12s", p->job);
    tell_log(r, 0);
    enum kd_stage_kind kinds[KD_MAX_STAGES];
    int n = kd_job_stages(&r->session->job, kinds);
    enum kd_stage_kind kind = p->stage < (uint32_t)n ? kinds[p->stage] : KD_STAGE_EXPORT;
    char fingerprint[33];
    bool own = false;
    snprintf(fingerprint, sizeof fingerprint, "%s", r->cfg.numerics);
    rc = make_stage(r, p, kind, fingerprint, &problem, &own, &diag);
    if (rc != 0) {
        stage_close(r);
        if (!atomic_load(&r->failed) && rc != -KD_ECANCELED)
            send_problem(r, p->job, p->stage, own || rc == -KD_ENOMEM, problem, diag.msg);
        return;
    }
    snprintf(r->fingerprint, sizeof r->fingerprint, "%s", fingerprint);
    if (atomic_load(&r->failed))
        return;
    pthread_mutex_lock(&r->mu);
    r->prepared = digest;
    r->is_prepared = true;
    pthread_mutex_unlock(&r->mu);
    kd_info("stage %s is prepared: seconds=%.1f", p->stage_name, kd_clock_s() - begun);
    send_ready(r, p, fingerprint);
}

/* ---- the thread */

void kd_runner_free_command(struct command *c)
{
    kd_wire_free((ProtobufCMessage *)c->m);
    free(c);
}

static void do_release(kd_runner *r, const char *job)
{
    /* First: the coordinator has it for idle already, and may have it try a job. */
    pthread_mutex_lock(&r->mu);
    r->status.job[0] = '\0';
    r->status.phase = "idle";
    pthread_mutex_unlock(&r->mu);
    session_close(r);
    Distill__V1__Released d = DISTILL__V1__RELEASED__INIT;
    d.job = (char *)job;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_RELEASED;
    m.released = &d;
    r->cfg.send(r->cfg.arg, &m);
}

/* Commands that leave the stage in place end nothing that is under way. */
bool kd_runner_concerns_stage(const kd_runner *r, const struct command *c)
{
    if (!c->m)
        return true;
    switch ((int)c->m->kind_case) {
    case DISTILL__V1__COORDINATOR_MESSAGE__KIND_BEGIN:
        return strcmp(c->m->begin->job, r->status.job) == 0 &&
               c->m->begin->stage == r->status.stage;
    case DISTILL__V1__COORDINATOR_MESSAGE__KIND_UNITS:
        return true; /* of another stage they come too late to mean anything */
    case DISTILL__V1__COORDINATOR_MESSAGE__KIND_PREPARE: {
        if (!r->is_prepared || strcmp(c->m->prepare->job, r->status.job) != 0 ||
            c->m->prepare->stage != r->status.stage)
            return false;
        kd_digest d = prepare_digest(c->m->prepare);
        return memcmp(&d, &r->prepared, sizeof d) == 0;
    }
    default:
        return false;
    }
}

struct command *kd_runner_pop(kd_runner *r)
{
    struct command *c = r->commands;
    r->commands = c->next;
    if (!r->commands)
        r->commands_end = &r->commands;
    bool cancel = false;
    for (const struct command *k = r->commands; k; k = k->next)
        cancel = cancel || !kd_runner_concerns_stage(r, k);
    atomic_store(&r->cancel, cancel);
    return c;
}

static void *run(void *arg)
{
    kd_runner *r = arg;
    kd_engine_thread(); /* plans are made here, and fingerprints run */
    pthread_mutex_lock(&r->mu);
    while (!r->leaving) {
        if (!r->commands) {
            pthread_cond_wait(&r->changed, &r->mu);
            continue;
        }
        struct command *c = kd_runner_pop(r);
        pthread_mutex_unlock(&r->mu);
        if (c->m) {
            switch ((int)c->m->kind_case) {
            case DISTILL__V1__COORDINATOR_MESSAGE__KIND_PREPARE:
                do_prepare(r, c->m->prepare);
                break;
            case DISTILL__V1__COORDINATOR_MESSAGE__KIND_BEGIN:
                kd_runner_begin(r, c->m->begin);
                break;
            case DISTILL__V1__COORDINATOR_MESSAGE__KIND_MEASURE:
                kd_runner_measure(r, c->m->measure);
                break;
            case DISTILL__V1__COORDINATOR_MESSAGE__KIND_RELEASE:
                do_release(r, c->m->release->job);
                break;
            case DISTILL__V1__COORDINATOR_MESSAGE__KIND_TRIAL:
                kd_runner_try(r, c->m->trial);
                break;
            default:
                break;
            }
        }
        kd_runner_free_command(c);
        pthread_mutex_lock(&r->mu);
    }
    pthread_mutex_unlock(&r->mu);
    return NULL;
}

static void post(kd_runner *r, Distill__V1__CoordinatorMessage *m)
{
    struct command *c = kd_xalloc(sizeof *c);
    c->m = m;
    pthread_mutex_lock(&r->mu);
    *r->commands_end = c;
    r->commands_end = &c->next;
    if (!kd_runner_concerns_stage(r, c))
        atomic_store(&r->cancel, true);
    kd_runner_wake(r);
    pthread_mutex_unlock(&r->mu);
}

static bool is_trial(const Distill__V1__CoordinatorMessage *m)
{
    return m && m->kind_case == DISTILL__V1__COORDINATOR_MESSAGE__KIND_TRIAL;
}

/* Will it have a job once it has done what it was told? */
static bool is_busy(kd_runner *r)
{
    pthread_mutex_lock(&r->mu);
    bool busy = r->status.job[0];
    for (const struct command *c = r->commands; c; c = c->next)
        if (c->m && !is_trial(c->m))
            busy = c->m->kind_case != DISTILL__V1__COORDINATOR_MESSAGE__KIND_RELEASE;
    pthread_mutex_unlock(&r->mu);
    return busy;
}

void kd_runner_command(kd_runner *r, Distill__V1__CoordinatorMessage *m)
{
    /* A trial is never in a job's way. */
    if (is_trial(m) && is_busy(r)) {
        kd_runner_refuse_trial(r, m->trial);
        kd_wire_free((ProtobufCMessage *)m);
    } else {
        post(r, m);
    }
}

bool kd_runner_offer(kd_runner *r, kd_runner_status *out, uint64_t *out_version,
                     uint32_t *out_chunk)
{
    pthread_mutex_lock(&r->mu);
    bool holds = r->part && kd_part_version(r->part) > 0;
    *out = r->status;
    if (holds) {
        *out_version = kd_part_version(r->part);
        *out_chunk = kd_part_first_owned(r->part);
    }
    pthread_mutex_unlock(&r->mu);
    return holds;
}

void kd_runner_reset(kd_runner *r)
{
    post(r, NULL);
}

int kd_runner_new(const kd_runner_config *cfg, kd_runner **out, kd_diag *diag)
{
    kd_runner *r = kd_xalloc(sizeof *r);
    r->cfg = *cfg;
    r->commands_end = &r->commands;
    r->status.phase = "idle";
    pthread_mutex_init(&r->mu, NULL);
    pthread_cond_init(&r->changed, NULL);
    int rc = kd_pool_new(cfg->threads, cfg->cores, &r->pool, diag);
    if (rc == 0 && pthread_create(&r->thread, NULL, run, r) != 0)
        rc = kd_fail(diag, -KD_ELIMIT, "the system gives no more threads");
    r->started = rc == 0;
    if (rc != 0) {
        kd_runner_free(r);
        return rc;
    }
    *out = r;
    return 0;
}

void kd_runner_free(kd_runner *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->mu);
    r->leaving = true;
    atomic_store(&r->cancel, true);
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mu);
    if (r->started)
        pthread_join(r->thread, NULL);
    pthread_mutex_lock(&r->mu);
    while (r->calls > 0)
        pthread_cond_wait(&r->changed, &r->mu);
    pthread_mutex_unlock(&r->mu);
    kd_pool_free(r->pool);
    session_close(r);
    while (r->commands) {
        struct command *c = r->commands;
        r->commands = c->next;
        kd_runner_free_command(c);
    }
    pthread_mutex_destroy(&r->mu);
    pthread_cond_destroy(&r->changed);
    free(r);
}

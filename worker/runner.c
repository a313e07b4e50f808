#include "runner.h"

#include "cache.h"
#include "exchange.h"
#include "kd/clock.h"
#include "kd/hash.h"
#include "kd/log.h"
#include "models/models.h"
#include "pool.h"
#include "stage.h"
#include "teaching.h"
#include "tree.h"
#include "wire/wire.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PUSHES_IN_FLIGHT 8
#define RETRY_MS 100

struct command {
    struct command *next;
    Distill__V1__CoordinatorMessage *m; /* NULL: reset */
};

/* One version of the parameters and what of it is there. */
struct version {
    float *vector;
    bool *have; /* [chunks] */
    uint32_t missing;
};

struct kd_runner {
    kd_runner_config cfg;
    kd_pool *pool;
    pthread_t thread;
    bool started;

    pthread_mutex_t mu; /* guards all below up to the line */
    pthread_cond_t changed;
    struct command *commands, **commands_end;
    bool leaving;
    kd_runner_status status;
    int calls; /* started and not yet answered */
    int pushes;
    bool over;           /* this generation cannot go on */
    char over_text[256]; /* why */
    struct version next;
    bool *sum_there, *sum_checkpoint; /* [chunks] */
    uint8_t *redo; /* [chunks] bit WANT_x: the call failed and is to be repeated */
    int redos;
    float *sums; /* [floats] */
    int state_missing;
    /* ---- the runner's thread only */
    atomic_bool cancel; /* something newer waits */
    kd_session *session;
    kd_stage *stage;
    char stage_job[13];
    uint32_t stage_index;
    kd_stage_ref ref;
    uint32_t slot_first, slot_count, chunk_first, chunk_count, rank, members;
    uint64_t last_version;
    struct version now;
    uint64_t version; /* that `now` holds */
    float *state;     /* [state_vectors][floats]; only own chunks are kept up */
    kd_reducer *reducer;
    kd_teaching *teaching; /* NULL when the loss needs no teacher */
    atomic_uint_fast64_t units, forwards, hits;
    atomic_uint bad_images;
    atomic_bool failed; /* a problem was reported for this stage */
    uint64_t tag;       /* names (generation, version) for the plans */
};

/* ---- talking to the coordinator */

static void send_problem(kd_runner *r, const char *job, uint32_t stage, bool worker_only,
                         const char *code, const char *text)
{
    Distill__V1__StageProblem p = DISTILL__V1__STAGE_PROBLEM__INIT;
    p.job = (char *)job;
    p.stage = stage;
    p.worker_only = worker_only;
    p.code = (char *)code;
    p.text = (char *)text;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_PROBLEM;
    m.problem = &p;
    kd_warn("%s: %s job=%s stage=%u", code, text, job, stage);
    r->cfg.send(r->cfg.arg, &m);
}

/* Under r->mu: this generation cannot go on here; the first reason counts. */
static void give_up(kd_runner *r, const char *why)
{
    if (!r->over)
        snprintf(r->over_text, sizeof r->over_text, "%.250s", why);
    r->over = true;
    pthread_cond_broadcast(&r->changed);
}

/* Once a stage: the first problem is the one that tells. */
static void stage_problem(kd_runner *r, const char *code, const char *text)
{
    if (!atomic_exchange(&r->failed, true))
        send_problem(r, r->stage_job, r->stage_index, false, code, text);
    atomic_store(&r->cancel, true);
    pthread_mutex_lock(&r->mu);
    give_up(r, text);
    pthread_mutex_unlock(&r->mu);
}

static void set_phase(kd_runner *r, const char *phase, uint64_t step)
{
    pthread_mutex_lock(&r->mu);
    r->status.phase = phase;
    r->status.step = step;
    pthread_mutex_unlock(&r->mu);
}

void kd_runner_status_get(kd_runner *r, kd_runner_status *out)
{
    pthread_mutex_lock(&r->mu);
    *out = r->status;
    pthread_mutex_unlock(&r->mu);
    out->units = atomic_load(&r->units);
    out->teacher_forwards = atomic_load(&r->forwards);
    out->bank_hits = atomic_load(&r->hits);
}

static void on_bad_picture(void *arg, size_t sample, const char *why)
{
    kd_runner *r = arg;
    const kd_session *ss = r->session;
    unsigned bad = atomic_fetch_add(&r->bad_images, 1) + 1;
    char text[700];
    snprintf(text, sizeof text, "picture %zu cannot be read and does not count: %.200s: %.400s",
             sample, kd_data_name(ss->data, sample), why);
    Distill__V1__WorkerLog l = DISTILL__V1__WORKER_LOG__INIT;
    l.job = (char *)ss->job_id;
    l.level = "warn";
    l.text = text;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_LOG;
    m.log = &l;
    r->cfg.send(r->cfg.arg, &m);
    if ((double)bad > ss->job.data.max_bad_images * (double)(ss->n_train + ss->n_val)) {
        snprintf(text, sizeof text,
                 "%u of %zu pictures cannot be read, max_bad_images allows %.3g; "
                 "the last one: %.200s",
                 bad, ss->n_train + ss->n_val, ss->job.data.max_bad_images,
                 kd_data_name(ss->data, sample));
        stage_problem(r, "BAD_IMAGES", text);
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
    h.teacher_forwards = atomic_load(&r->forwards);
    h.bank_hits = atomic_load(&r->hits);
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
    kd_stage_free(r->stage);
    r->stage = NULL;
    kd_reducer_free(r->reducer);
    r->reducer = NULL;
    free(r->now.vector);
    free(r->now.have);
    free(r->next.vector);
    free(r->next.have);
    r->now = r->next = (struct version){0};
    free(r->sum_there);
    free(r->sum_checkpoint);
    free(r->redo);
    free(r->sums);
    free(r->state);
    kd_teaching_free(r->teaching);
    r->teaching = NULL;
    r->sum_there = r->sum_checkpoint = NULL;
    r->redo = NULL;
    r->sums = r->state = NULL;
    r->stage_job[0] = '\0';
}

static void session_close(kd_runner *r)
{
    stage_close(r);
    if (!r->session)
        return;
    kd_cache_free(r->session->cache);
    kd_data_free(r->session->data);
    free(r->session);
    r->session = NULL;
    atomic_store(&r->bad_images, 0);
    pthread_mutex_lock(&r->mu);
    r->status.job[0] = '\0';
    r->status.phase = "idle";
    pthread_mutex_unlock(&r->mu);
}

static int session_open(kd_runner *r, const Distill__V1__Prepare *p, const char **problem,
                        kd_diag *diag)
{
    if (r->session && strcmp(r->session->job_id, p->job) == 0)
        return 0;
    session_close(r);
    kd_session *ss = kd_xalloc(sizeof *ss);
    *problem = "BAD_JOB";
    int rc = kd_job_load(p->resolved, strlen(p->resolved), "job", NULL, 0, &ss->job, diag);
    if (rc != 0) {
        free(ss);
        return rc;
    }
    snprintf(ss->job_id, sizeof ss->job_id, "%s", p->job);
    const kd_data_spec *d = &ss->job.data;
    kd_data_config cfg = {.kind = d->format == KD_IDX ? KD_DATA_IDX : KD_DATA_IMAGE_FOLDER,
                          .path = d->path,
                          .train = d->train,
                          .val = d->val,
                          .train_labels = d->train_labels,
                          .val_labels = d->val_labels,
                          .classes = d->classes,
                          .size = d->size,
                          .max_train = d->max_train,
                          .seed = ss->job.seed};
    *problem = "NO_DATA";
    rc = kd_data_open(&cfg, r->cfg.data_root, NULL, NULL, &ss->data, diag);
    if (rc == 0 && kd_data_train_count(ss->data) == 0)
        rc = kd_fail(diag, -KD_EINVAL, "the training list %s is empty", d->train);
    if (rc == 0 && kd_data_val_count(ss->data) == 0)
        rc = kd_fail(diag, -KD_EINVAL, "the validation list %s is empty", d->val);
    if (rc != 0) {
        kd_data_free(ss->data);
        free(ss);
        return rc;
    }
    ss->n_train = kd_data_train_count(ss->data);
    ss->n_val = kd_data_val_count(ss->data);
    ss->classes = kd_data_classes(ss->data);
    ss->size = d->size;
    r->session = ss;
    int ahead = KD_MAX(1, r->cfg.threads / 2);
    ss->cache = kd_cache_new(ss->data, ss->size, r->cfg.cache_bytes, ahead, on_bad_picture, r);
    return 0;
}

static bool step_stopped(void *arg)
{
    kd_runner *r = arg;
    if (atomic_load(&r->cancel))
        return true;
    pthread_mutex_lock(&r->mu);
    bool over = r->over || r->leaving;
    pthread_mutex_unlock(&r->mu);
    return over;
}

static void *take(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    return p;
}

static int stage_buffers(kd_runner *r, kd_diag *diag)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    r->reducer = kd_reducer_new(h->slots, h->floats);
    r->now.vector = take(h->floats, sizeof(float));
    r->next.vector = take(h->floats, sizeof(float));
    r->now.have = take(h->chunks, sizeof(bool));
    r->next.have = take(h->chunks, sizeof(bool));
    r->sum_there = take(h->chunks, sizeof(bool));
    r->sum_checkpoint = take(h->chunks, sizeof(bool));
    r->redo = take(h->chunks, 1);
    r->sums = take(h->floats, sizeof(float));
    r->state = take(h->floats * (size_t)h->state_vectors, sizeof(float));
    bool ok = r->now.vector && r->next.vector && r->now.have && r->next.have && r->sum_there &&
              r->sum_checkpoint && r->redo && r->sums && r->state;
    if (!ok)
        return kd_fail(diag, -KD_ENOMEM, "no memory for %zu parameters and their gradients",
                       h->floats);
    if (!h->needs_teacher)
        return 0;
    kd_teaching_config cfg = {.stage = r->stage,
                              .session = r->session,
                              .pool = r->pool,
                              .channel = r->cfg.channel,
                              .views = r->session->job.distill.views,
                              .stopped = step_stopped,
                              .arg = r,
                              .forwards = &r->forwards,
                              .hits = &r->hits};
    return kd_teaching_new(&cfg, &r->teaching, diag);
}

static int fetch_blob(kd_runner *r, const char *job, const char *digest, uint8_t **out, size_t *len,
                      kd_diag *diag)
{
    *out = NULL;
    return digest[0] ? kd_exchange_get_blob(r->cfg.channel, job, digest, out, len, diag) : 0;
}

static void send_ready(kd_runner *r, const Distill__V1__Prepare *p, const char *fingerprint)
{
    const kd_session *ss = r->session;
    char data[33], classes[33];
    kd_digest d = kd_data_digest(ss->data), k = kd_data_classes_digest(ss->data);
    kd_digest_hex(&d, data);
    kd_digest_hex(&k, classes);
    Distill__V1__StageInfo i = DISTILL__V1__STAGE_INFO__INIT;
    i.train_samples = ss->n_train;
    i.val_samples = ss->n_val;
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
        const kd_stage_shape *h = kd_stage_shape_of(r->stage);
        const kd_train_spec *t = kd_job_train(&ss->job, KD_STAGE_DISTILL);
        enum kd_stage_kind kinds[KD_MAX_STAGES];
        kd_job_stages(&ss->job, kinds);
        t = kd_job_train(&ss->job, kinds[p->stage]);
        i.parameters = h->trained;
        i.state = h->floats - h->trained;
        i.batch = (uint32_t)t->batch;
        i.slots = h->slots;
        i.epochs = (uint32_t)t->epochs;
        i.chunk_floats = h->chunk_floats;
        i.optimizer_vectors = (uint32_t)h->state_vectors;
        i.model = (char *)kd_job_model(&ss->job, kinds[p->stage])->model;
        i.table = table = kd_model_table(kd_stage_graph(r->stage));
        i.metadata = metadata = kd_stage_metadata(r->stage);
    }
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

static void do_prepare(kd_runner *r, const Distill__V1__Prepare *p)
{
    kd_diag diag = {0};
    const char *problem = "INTERNAL";
    stage_close(r);
    atomic_store(&r->failed, false);
    atomic_store(&r->forwards, 0);
    atomic_store(&r->hits, 0);
    pthread_mutex_lock(&r->mu);
    snprintf(r->status.job, sizeof r->status.job, "%.12s", p->job);
    r->status.stage = p->stage;
    r->status.phase = "preparing";
    r->status.step = 0;
    pthread_mutex_unlock(&r->mu);
    snprintf(r->stage_job, sizeof r->stage_job, "%.12s", p->job);
    r->stage_index = p->stage;
    int rc = session_open(r, p, &problem, &diag);
    if (rc != 0) {
        send_problem(r, p->job, p->stage, strcmp(problem, "NO_DATA") == 0, problem, diag.msg);
        return;
    }
    enum kd_stage_kind kinds[KD_MAX_STAGES];
    int n = kd_job_stages(&r->session->job, kinds);
    const kd_model_spec *model =
        p->stage < (uint32_t)n ? kd_job_model(&r->session->job, kinds[p->stage]) : NULL;
    uint8_t *weights = NULL, *finished[3] = {0};
    kd_stage_config cfg = {.session = r->session,
                           .kind = p->stage < (uint32_t)n ? kinds[p->stage] : KD_STAGE_EXPORT,
                           .threads = r->cfg.threads,
                           .numerics = r->cfg.numerics};
    const char *digests[3] = {p->teacher_digest, p->student_digest, p->scratch_digest};
    problem = "NO_BLOB";
    if (model && model->weights_digest[0])
        rc = fetch_blob(r, p->job, model->weights_digest, &weights, &cfg.weights_len, &diag);
    bool wants_finished[3] = {cfg.kind == KD_STAGE_DISTILL || cfg.kind == KD_STAGE_EVALUATE,
                              cfg.kind == KD_STAGE_EVALUATE, cfg.kind == KD_STAGE_EVALUATE};
    for (int i = 0; i < 3 && rc == 0; i++)
        if (wants_finished[i])
            rc = fetch_blob(r, p->job, digests[i], &finished[i], &cfg.finished_len[i], &diag);
    bool network = rc != 0; /* the coordinator could not be asked: not the job's fault */
    cfg.weights = weights;
    for (int i = 0; i < 3; i++)
        cfg.finished[i] = finished[i];
    if (rc == 0)
        rc = kd_stage_new(&cfg, &r->stage, &problem, &diag);
    free(weights);
    for (int i = 0; i < 3; i++)
        free(finished[i]);
    char fingerprint[33];
    snprintf(fingerprint, sizeof fingerprint, "%s", r->cfg.numerics);
    if (rc == 0 && kd_stage_graph(r->stage)) {
        problem = "NO_MEMORY";
        rc = stage_buffers(r, &diag);
        if (rc == 0) {
            problem = "NON_FINITE";
            rc = kd_stage_fingerprint(r->stage, fingerprint, &diag);
        }
    }
    if (rc != 0) {
        stage_close(r);
        if (!atomic_load(&r->failed))
            send_problem(r, p->job, p->stage, network || rc == -KD_ENOMEM, problem, diag.msg);
        return;
    }
    snprintf(r->stage_job, sizeof r->stage_job, "%.12s", p->job);
    if (!atomic_load(&r->failed))
        send_ready(r, p, fingerprint);
}

static void do_measure(kd_runner *r, const Distill__V1__Measure *q)
{
    static const char *const names[] = {"teacher", "student", "scratch"};
    if (!r->stage)
        return;
    set_phase(r, "measuring", 0);
    Distill__V1__ModelCost costs[3], *list[3];
    size_t n = 0;
    for (int i = 0; i < 3; i++) {
        kd_diag diag = {0};
        double ms = 0;
        size_t params = 0, bytes = 0;
        int rc = kd_stage_measure(r->stage, i, &ms, &params, &bytes, &diag);
        if (rc < 0) {
            stage_problem(r, "INTERNAL", diag.msg);
            return;
        }
        if (rc == 0)
            continue;
        distill__v1__model_cost__init(&costs[n]);
        costs[n].name = (char *)names[i];
        costs[n].ms_per_image = ms;
        costs[n].parameters = params;
        costs[n].bytes = bytes;
        list[n] = &costs[n];
        n++;
    }
    Distill__V1__Measured d = DISTILL__V1__MEASURED__INIT;
    d.job = q->job;
    d.stage = q->stage;
    d.models = list;
    d.n_models = n;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_MEASURED;
    m.measured = &d;
    r->cfg.send(r->cfg.arg, &m);
}

/* ---- calls under way */

enum want { WANT_SLICE, WANT_SUM, WANT_STATE, WANT_PUBLISH, WANT_PUSH };

struct call {
    kd_runner *r;
    enum want want;
    uint32_t chunk;
    uint64_t version; /* or step */
    kd_stage_ref ref;
};

/* Is it worth asking again? Everything else means that this generation is over.
 */
static bool transient(int code)
{
    return code == -KD_EUNAVAIL || code == -KD_ETIMEOUT || code == -KD_EDATA || code == -KD_ENOMEM;
}

static size_t chunk_len(const kd_stage_shape *h, uint32_t chunk)
{
    size_t first = (size_t)chunk * h->chunk_floats;
    return KD_MIN((size_t)h->chunk_floats, h->floats - first);
}

/* On gRPC's threads: puts the answer where it belongs. The runner waits for
 * every call to end before it leaves a step, so all it points to is there. */
static void on_answer(void *arg, int code, const char *text, const uint8_t *payload, size_t len,
                      bool checkpoint)
{
    struct call *c = arg;
    kd_runner *r = c->r;
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    size_t first = (size_t)c->chunk * h->chunk_floats, n = chunk_len(h, c->chunk);
    size_t bytes = n * sizeof(float);
    size_t want = c->want == WANT_STATE ? bytes * (1 + (size_t)h->state_vectors) : bytes;
    bool bulk = c->want <= WANT_STATE;
    if (code == 0 && bulk && len != want)
        code = -KD_EINTERNAL; /* not what was asked for: nothing to repeat */
    pthread_mutex_lock(&r->mu);
    if (code == 0) {
        switch (c->want) {
        case WANT_SLICE:
            if (!r->next.have[c->chunk]) {
                memcpy(r->next.vector + first, payload, bytes);
                r->next.have[c->chunk] = true;
                r->next.missing--;
            }
            break;
        case WANT_SUM:
            memcpy(r->sums + first, payload, bytes);
            r->sum_checkpoint[c->chunk] = checkpoint;
            r->sum_there[c->chunk] = true;
            break;
        case WANT_STATE:
            for (size_t v = 0; v < (size_t)h->state_vectors; v++)
                memcpy(r->state + v * h->floats + first, payload + (1 + v) * bytes, bytes);
            r->state_missing--;
            break;
        case WANT_PUBLISH:
        case WANT_PUSH:
            break;
        }
    } else if (transient(code) && bulk) {
        r->redo[c->chunk] |= (uint8_t)(1u << c->want);
        r->redos++;
    } else {
        /* Refused, or what was sent may be lost. */
        give_up(r, text);
    }
    r->calls--;
    r->pushes -= c->want == WANT_PUSH;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mu);
    free(c);
}

static struct call *new_call(kd_runner *r, enum want want, uint64_t version, uint32_t chunk)
{
    struct call *c = kd_xalloc(sizeof *c);
    *c = (struct call){r, want, chunk, version, r->ref};
    pthread_mutex_lock(&r->mu);
    r->calls++;
    r->pushes += want == WANT_PUSH;
    pthread_mutex_unlock(&r->mu);
    return c;
}

static void finish_start(struct call *c, int rc)
{
    if (rc != 0)
        on_answer(c, rc == -KD_ECANCELED ? rc : -KD_EINTERNAL, "the call could not be started",
                  NULL, 0, false);
}

static void start_call(kd_runner *r, enum want want, uint64_t version, uint32_t chunk)
{
    struct call *c = new_call(r, want, version, chunk);
    int rc = -KD_EINTERNAL;
    if (want == WANT_SLICE)
        rc = kd_exchange_await_slice(r->cfg.channel, &c->ref, version, chunk, on_answer, c);
    else if (want == WANT_SUM)
        rc = kd_exchange_await_sum(r->cfg.channel, &c->ref, version, chunk, on_answer, c);
    else if (want == WANT_STATE)
        rc = kd_exchange_fetch_state(r->cfg.channel, &c->ref, version, chunk, on_answer, c);
    finish_start(c, rc);
}

/* Under r->mu: waits for news, and repeats calls that failed for a passing
 * reason, a moment later. */
static void wait_for_calls(kd_runner *r, uint64_t slice_version)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    if (!r->redos) {
        pthread_cond_wait(&r->changed, &r->mu);
        return;
    }
    pthread_mutex_unlock(&r->mu);
    usleep(RETRY_MS * 1000);
    pthread_mutex_lock(&r->mu);
    r->redos = 0;
    for (uint32_t k = 0; k < h->chunks; k++) {
        uint8_t redo = r->redo[k];
        r->redo[k] = 0;
        pthread_mutex_unlock(&r->mu);
        if (redo & 1u << WANT_SLICE)
            start_call(r, WANT_SLICE, slice_version, k);
        if (redo & 1u << WANT_SUM)
            start_call(r, WANT_SUM, r->version, k);
        if (redo & 1u << WANT_STATE)
            start_call(r, WANT_STATE, slice_version, k);
        pthread_mutex_lock(&r->mu);
    }
}

/* Waits until no call is under way. Calls that wait for others are answered by
 * the coordinator when it ends the generation. */
static void settle_calls(kd_runner *r)
{
    pthread_mutex_lock(&r->mu);
    while (r->calls > 0)
        pthread_cond_wait(&r->changed, &r->mu);
    pthread_mutex_unlock(&r->mu);
}

static void publish(kd_runner *r, uint64_t version, uint32_t chunk, const float *slice,
                    bool with_state)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    size_t n = chunk_len(h, chunk), first = (size_t)chunk * h->chunk_floats;
    struct call *c = new_call(r, WANT_PUBLISH, version, chunk);
    int rc;
    if (!with_state || h->state_vectors == 0) {
        rc = kd_exchange_publish(r->cfg.channel, &c->ref, version, chunk, slice, n, with_state,
                                 on_answer, c);
    } else {
        size_t vectors = 1 + (size_t)h->state_vectors;
        float *both = malloc(vectors * n * sizeof *both);
        rc = both ? 0 : -KD_ENOMEM;
        if (both) {
            memcpy(both, slice, n * sizeof *both);
            for (size_t v = 1; v < vectors; v++)
                memcpy(both + v * n, r->state + (v - 1) * h->floats + first, n * sizeof *both);
            rc = kd_exchange_publish(r->cfg.channel, &c->ref, version, chunk, both, vectors * n,
                                     true, on_answer, c);
        }
        free(both);
    }
    finish_start(c, rc);
}

/* ---- units of a step */

static void push_node(kd_runner *r, uint64_t step, uint32_t node, const float *gradient,
                      const kd_tree_sums *sums)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    /* The last layers' gradients first, as they would be ready first. */
    for (uint32_t k = h->chunks; k-- > 0;) {
        pthread_mutex_lock(&r->mu);
        while (r->pushes >= PUSHES_IN_FLIGHT && !r->over && !r->leaving)
            pthread_cond_wait(&r->changed, &r->mu);
        bool over = r->over || r->leaving;
        pthread_mutex_unlock(&r->mu);
        if (over || atomic_load(&r->cancel))
            return;
        struct call *c = new_call(r, WANT_PUSH, step, k);
        finish_start(c, kd_exchange_push(r->cfg.channel, &c->ref, step, node, k,
                                         gradient + (size_t)k * h->chunk_floats, chunk_len(h, k),
                                         sums, on_answer, c));
    }
}

static void run_unit(void *arg, int item, int thread)
{
    kd_runner *r = arg;
    uint64_t step = r->version - 1; /* from 0 */
    uint32_t slot = r->slot_first + (uint32_t)item;
    if (atomic_load(&r->cancel))
        return;
    kd_diag diag = {0};
    kd_tree_sums sums, node_sums;
    float *gradient = kd_reducer_take(r->reducer);
    const float *teacher = r->teaching ? kd_teaching_rows(r->teaching, (uint32_t)item) : NULL;
    int rc = gradient ? kd_stage_unit(r->stage, thread, step, slot, r->now.vector, r->tag, teacher,
                                      gradient, &sums, &diag)
                      : kd_fail(&diag, -KD_ENOMEM, "no memory for a gradient");
    if (rc != 0) {
        if (gradient)
            kd_reducer_give(r->reducer, gradient);
        stage_problem(r, rc == -KD_EDATA ? "NON_FINITE" : "INTERNAL", diag.msg);
        return;
    }
    atomic_fetch_add(&r->units, 1);
    uint32_t node = 0;
    float *whole = kd_reducer_add(r->reducer, slot, gradient, &sums, &node, &node_sums);
    if (whole) {
        push_node(r, step + 1, node, whole, &node_sums);
        kd_reducer_give(r->reducer, whole);
    }
}

static void look_ahead(kd_runner *r, uint64_t version)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    if (version >= r->last_version)
        return;
    uint32_t *samples = kd_xalloc((size_t)r->slot_count * h->slot_batch * sizeof *samples), view;
    for (uint32_t k = 0; k < r->slot_count; k++)
        kd_stage_samples(r->stage, version - 1, r->slot_first + k, samples + k * h->slot_batch,
                         &view);
    kd_cache_ahead(r->session->cache, samples, (size_t)r->slot_count * h->slot_batch);
    free(samples);
}

/* Under r->mu: starts collecting the version after `now`. */
static void clear_next(kd_runner *r)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    memset(r->next.have, 0, h->chunks * sizeof *r->next.have);
    memset(r->sum_there, 0, h->chunks * sizeof *r->sum_there);
    memset(r->redo, 0, h->chunks);
    r->redos = 0;
    r->next.missing = h->chunks;
}

static bool own(const kd_runner *r, uint32_t chunk)
{
    return chunk >= r->chunk_first && chunk < r->chunk_first + r->chunk_count;
}

static void set_now(kd_runner *r, uint64_t version)
{
    pthread_mutex_lock(&r->mu);
    struct version old = r->now;
    r->now = r->next;
    r->next = old;
    clear_next(r);
    pthread_mutex_unlock(&r->mu);
    r->version = version;
    r->tag++;
}

/* Applies the sums that are there and publishes; waits for the rest. */
static void finish_step(kd_runner *r)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    uint64_t step = r->version - 1;
    pthread_mutex_lock(&r->mu);
    while (r->next.missing > 0 && !r->over && !r->leaving && !atomic_load(&r->cancel)) {
        uint32_t k = r->chunk_first, end = r->chunk_first + r->chunk_count;
        while (k < end && !(r->sum_there[k] && !r->next.have[k]))
            k++;
        if (k == end) {
            wait_for_calls(r, r->version + 1);
            continue;
        }
        bool checkpoint = r->sum_checkpoint[k];
        pthread_mutex_unlock(&r->mu);
        size_t first = (size_t)k * h->chunk_floats, n = chunk_len(h, k);
        float *slice = r->next.vector + first;
        memcpy(slice, r->now.vector + first, n * sizeof *slice);
        /* State vectors lie apart in r->state; the update wants them together. */
        float *state = malloc((size_t)h->state_vectors * n * sizeof *state + 1);
        KD_BUG_ON(!state);
        for (size_t v = 0; v < (size_t)h->state_vectors; v++)
            memcpy(state + v * n, r->state + v * h->floats + first, n * sizeof *state);
        kd_optim_apply(kd_stage_optim(r->stage), kd_stage_graph(r->stage), step, first, n, slice,
                       r->sums + first, state);
        for (size_t v = 0; v < (size_t)h->state_vectors; v++)
            memcpy(r->state + v * h->floats + first, state + v * n, n * sizeof *state);
        free(state);
        publish(r, r->version + 1, k, slice, checkpoint);
        pthread_mutex_lock(&r->mu);
        r->next.have[k] = true;
        r->next.missing--;
    }
    pthread_mutex_unlock(&r->mu);
}

static bool fill_teacher(kd_runner *r)
{
    kd_diag diag = {0};
    int rc =
        kd_teaching_fill(r->teaching, &r->ref, r->version - 1, r->slot_first, r->slot_count, &diag);
    if (rc != 0 && rc != -KD_ECANCELED) {
        pthread_mutex_lock(&r->mu);
        give_up(r, diag.msg);
        pthread_mutex_unlock(&r->mu);
    }
    return rc == 0 && !step_stopped(r);
}

static bool train_step(kd_runner *r)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    uint32_t cover[64];
    set_phase(r, "training", r->version);
    if (r->teaching && !fill_teacher(r))
        return false;
    kd_reducer_start(r->reducer, cover, 0);
    int nodes = r->slot_count ? kd_tree_cover(h->slots, r->slot_first, r->slot_count, cover) : 0;
    kd_reducer_start(r->reducer, cover, nodes);
    uint32_t view, *samples = kd_xalloc(h->slot_batch * sizeof *samples);
    kd_stage_samples(r->stage, r->version - 1, 0, samples, &view); /* makes the epoch's order */
    free(samples);
    kd_pool_start(r->pool, (int)r->slot_count, run_unit, r);
    for (uint32_t k = 0; k < h->chunks; k++)
        start_call(r, own(r, k) ? WANT_SUM : WANT_SLICE, r->version + (own(r, k) ? 0 : 1), k);
    look_ahead(r, r->version + 1);
    finish_step(r);
    bool ok = !step_stopped(r);
    if (!ok)
        kd_pool_drop(r->pool);
    kd_pool_wait(r->pool);
    settle_calls(r);
    if (!ok || step_stopped(r))
        return false;
    set_now(r, r->version + 1);
    return true;
}

/* ---- evaluation */

struct evaluation {
    kd_runner *r;
    uint32_t first;
};

static void eval_one(void *arg, int item, int thread)
{
    struct evaluation *e = arg;
    kd_runner *r = e->r;
    uint32_t unit = r->rank + (uint32_t)item * r->members;
    float rows[2 * KD_EVAL_UNIT];
    kd_diag diag = {0};
    if (atomic_load(&r->cancel))
        return;
    int n = kd_stage_eval(r->stage, thread, unit, r->now.vector, r->tag, rows, &diag);
    if (n < 0) {
        stage_problem(r, n == -KD_EDATA ? "NON_FINITE" : "INTERNAL", diag.msg);
        return;
    }
    atomic_fetch_add(&r->units, 1);
    int rc;
    do {
        rc = kd_exchange_gather(r->cfg.channel, &r->ref, r->version, unit, rows, (size_t)n, &diag);
        if (rc != 0 && transient(rc))
            usleep(RETRY_MS * 1000);
    } while (rc != 0 && transient(rc) && !step_stopped(r));
    if (rc != 0) {
        pthread_mutex_lock(&r->mu);
        give_up(r, diag.msg);
        pthread_mutex_unlock(&r->mu);
    }
}

static bool evaluate(kd_runner *r)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    struct evaluation e = {r, 0};
    if (r->rank >= h->eval_units)
        return true;
    set_phase(r, "evaluating", r->version);
    int n = (int)((h->eval_units - r->rank + r->members - 1) / r->members);
    kd_pool_start(r->pool, n, eval_one, &e);
    kd_pool_wait(r->pool);
    return !step_stopped(r);
}

/* ---- a generation */

/* Version 1 is made by everybody and published by its owners, like any other.
 */
static bool load_version(kd_runner *r, uint64_t version)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    pthread_mutex_lock(&r->mu);
    clear_next(r);
    r->state_missing = version > 1 ? (int)r->chunk_count : 0;
    memset(r->state, 0, h->floats * (size_t)h->state_vectors * sizeof *r->state);
    pthread_mutex_unlock(&r->mu);
    if (version == 1)
        for (uint32_t k = r->chunk_first; k < r->chunk_first + r->chunk_count; k++)
            publish(r, 1, k, kd_stage_initial(r->stage) + (size_t)k * h->chunk_floats, true);
    else
        for (uint32_t k = r->chunk_first; k < r->chunk_first + r->chunk_count; k++)
            start_call(r, WANT_STATE, version, k);
    for (uint32_t k = 0; k < h->chunks; k++)
        start_call(r, WANT_SLICE, version, k);
    pthread_mutex_lock(&r->mu);
    while ((r->next.missing > 0 || r->state_missing > 0) && !r->over && !r->leaving &&
           !atomic_load(&r->cancel))
        wait_for_calls(r, version);
    pthread_mutex_unlock(&r->mu);
    settle_calls(r);
    if (step_stopped(r))
        return false;
    set_now(r, version);
    if (version == 1 &&
        memcmp(r->now.vector, kd_stage_initial(r->stage), h->floats * sizeof(float)) != 0) {
        stage_problem(r, "INTERNAL",
                      "initial parameters differ between workers of one fingerprint");
        return false;
    }
    return true;
}

/* From its version to the last one; false when it ended before. */
static bool run_generation(kd_runner *r, const Distill__V1__Begin *b)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    if (!load_version(r, b->version))
        return false;
    bool due = b->evaluate_first;
    for (;;) {
        if (due && !evaluate(r))
            return false;
        if (r->version >= r->last_version)
            return true;
        if (!train_step(r))
            return false;
        due = r->version == r->last_version || (r->version - 1) % h->epoch_steps == 0;
    }
}

/* Nobody ended the generation, yet it cannot go on here: without a word the job would wait for
 * ever. Where the coordinator has ended it already, this changes nothing. */
static void send_stalled(kd_runner *r)
{
    char why[sizeof r->over_text];
    pthread_mutex_lock(&r->mu);
    memcpy(why, r->over_text, sizeof why);
    bool leaving = r->leaving;
    pthread_mutex_unlock(&r->mu);
    if (leaving)
        return;
    Distill__V1__Stalled d = DISTILL__V1__STALLED__INIT;
    d.job = r->ref.job;
    d.stage = r->ref.stage;
    d.generation = r->ref.generation;
    d.text = why;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_STALLED;
    m.stalled = &d;
    r->cfg.send(r->cfg.arg, &m);
}

static void do_begin(kd_runner *r, const Distill__V1__Begin *b)
{
    if (!r->stage || !kd_stage_graph(r->stage) || strcmp(r->stage_job, b->job) != 0 ||
        r->stage_index != b->stage || atomic_load(&r->failed))
        return;
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    snprintf(r->ref.job, sizeof r->ref.job, "%s", b->job);
    r->ref.stage = b->stage;
    r->ref.generation = b->generation;
    r->slot_first = b->n_slots ? b->slots[0]->first : 0;
    r->slot_count = b->n_slots ? b->slots[0]->count : 0;
    r->chunk_first = b->n_chunks ? b->chunks[0]->first : 0;
    r->chunk_count = b->n_chunks ? b->chunks[0]->count : 0;
    r->rank = b->rank;
    r->members = b->members;
    r->last_version = b->last_version;
    if (b->n_slots > 1 || b->n_chunks > 1 || r->slot_first + (uint64_t)r->slot_count > h->slots ||
        r->chunk_first + (uint64_t)r->chunk_count > h->chunks || b->members == 0 ||
        b->version == 0 || b->last_version > h->steps + 1) {
        stage_problem(r, "INTERNAL", "the coordinator began a stage with impossible figures");
        return;
    }
    pthread_mutex_lock(&r->mu);
    r->over = false;
    r->over_text[0] = '\0';
    pthread_mutex_unlock(&r->mu);
    if (run_generation(r, b))
        set_phase(r, "waiting", r->version);
    else if (!atomic_load(&r->cancel))
        send_stalled(r);
}

/* ---- the thread */

static void free_command(struct command *c)
{
    kd_wire_free((ProtobufCMessage *)c->m);
    free(c);
}

static void do_release(kd_runner *r, const char *job)
{
    session_close(r);
    if (!job)
        return;
    Distill__V1__Released d = DISTILL__V1__RELEASED__INIT;
    d.job = (char *)job;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_RELEASED;
    m.released = &d;
    r->cfg.send(r->cfg.arg, &m);
}

static void *run(void *arg)
{
    kd_runner *r = arg;
    kd_engine_thread(); /* plans are made here, and fingerprints run */
    pthread_mutex_lock(&r->mu);
    while (!r->leaving) {
        struct command *c = r->commands;
        if (!c) {
            pthread_cond_wait(&r->changed, &r->mu);
            continue;
        }
        r->commands = c->next;
        if (!r->commands)
            r->commands_end = &r->commands;
        atomic_store(&r->cancel, r->commands != NULL);
        pthread_mutex_unlock(&r->mu);
        if (!c->m) {
            do_release(r, NULL);
        } else {
            switch ((int)c->m->kind_case) {
            case DISTILL__V1__COORDINATOR_MESSAGE__KIND_PREPARE:
                do_prepare(r, c->m->prepare);
                break;
            case DISTILL__V1__COORDINATOR_MESSAGE__KIND_BEGIN:
                do_begin(r, c->m->begin);
                break;
            case DISTILL__V1__COORDINATOR_MESSAGE__KIND_MEASURE:
                do_measure(r, c->m->measure);
                break;
            case DISTILL__V1__COORDINATOR_MESSAGE__KIND_RELEASE:
                do_release(r, c->m->release->job);
                break;
            default:
                break;
            }
        }
        free_command(c);
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
    atomic_store(&r->cancel, true);
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mu);
}

void kd_runner_command(kd_runner *r, Distill__V1__CoordinatorMessage *m)
{
    post(r, m);
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
    int rc = kd_pool_new(cfg->threads, &r->pool, diag);
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
    kd_pool_free(r->pool);
    session_close(r);
    while (r->commands) {
        struct command *c = r->commands;
        r->commands = c->next;
        free_command(c);
    }
    pthread_mutex_destroy(&r->mu);
    pthread_cond_destroy(&r->changed);
    free(r);
}

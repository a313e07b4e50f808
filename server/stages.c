/* A stage from what it is made of to its end: opening a generation, closing it, its networks. */
#include "daemon.h"

#include "kd/file.h"
#include "kd/log.h"
#include "store/safetensors.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_VAL_SAMPLES (10u << 20) /* as many as a worker's data may have, all splits together */
#define MAX_TREE_NODES (1u << 21)   /* 100 MB of book-keeping */

/* ---- what a stage is made of */

uint64_t kd_stage_epoch_steps(const Distill__V1__StageInfo *i)
{
    /* Infos stored by older versions do not tell what an epoch holds: the training samples. */
    uint64_t samples = i->epoch_samples ? i->epoch_samples : i->train_samples;
    return i->batch ? (samples + i->batch - 1) / i->batch : 0;
}

uint64_t kd_stage_eval_steps(const Distill__V1__StageInfo *i)
{
    return i->eval_steps ? i->eval_steps : kd_stage_epoch_steps(i);
}

uint64_t kd_stage_last_version(const kd_stage_record *s)
{
    return s->row.stopped_early ? s->row.stopped_early + 1
                                : 1 + (uint64_t)s->info->epochs * kd_stage_epoch_steps(s->info);
}

uint64_t kd_stage_vector_floats(const Distill__V1__StageInfo *i)
{
    return i->parameters + i->state;
}

static uint32_t chunk_count(const Distill__V1__StageInfo *i)
{
    return (uint32_t)((kd_stage_vector_floats(i) + i->chunk_floats - 1) / i->chunk_floats);
}

/* A stage that does not train has no vector; all others must have figures that fit together. */
static int check_info(const kd_stage_record *s, const Distill__V1__StageInfo *i, kd_diag *diag)
{
    if (i->classes == 0 || i->classes > KD_MAX_CLASSES)
        return kd_fail(diag, -KD_EINVAL, "stage information with %u classes", i->classes);
    if (s->kind == KD_STAGE_EVALUATE)
        return 0;
    bool ok = i->parameters > 0 && i->parameters <= KD_MAX_VECTOR_FLOATS &&
              i->state <= KD_MAX_VECTOR_FLOATS && i->chunk_floats >= KD_MIN_CHUNK_FLOATS &&
              i->chunk_floats <= KD_MAX_CHUNK_FLOATS && i->slots > 0 && i->slots <= KD_MAX_SLOTS &&
              (i->slots & (i->slots - 1)) == 0 && i->batch >= i->slots && i->train_samples > 0 &&
              i->train_samples <= UINT32_MAX && i->val_samples > 0 &&
              i->val_samples <= MAX_VAL_SAMPLES && i->epochs <= 10000 &&
              i->optimizer_vectors <= KD_MAX_STATE_VECTORS && i->epoch_samples <= UINT32_MAX &&
              2 * i->n_terms <= KD_TERM_SUMS && i->clip_norm >= 0 && i->clip_norm < 1e30 &&
              (!i->average || i->optimizer_vectors > 0) &&
              (uint64_t)i->batch * i->value_columns * sizeof(float) <= KD_MAX_PAYLOAD_BYTES;
    /* The reduction tree has a node for each slot and chunk, twice. */
    ok = ok && (uint64_t)chunk_count(i) * i->slots <= MAX_TREE_NODES;
    return ok ? 0 : kd_fail(diag, -KD_EINVAL, "stage information with impossible figures");
}

int kd_stage_set_info(kd_stage_record *s, const uint8_t *packed, size_t len, kd_diag *diag)
{
    Distill__V1__StageInfo *info;
    int rc = kd_wire_unpack(&distill__v1__stage_info__descriptor, packed, len,
                            (ProtobufCMessage **)&info, diag);
    if (rc != 0)
        return rc;
    if ((rc = check_info(s, info, diag)) != 0) {
        kd_wire_free((ProtobufCMessage *)info);
        return rc;
    }
    kd_wire_free((ProtobufCMessage *)s->info);
    free(s->row.info);
    s->info = info;
    s->row.info = kd_xalloc(len);
    memcpy(s->row.info, packed, len);
    s->row.info_len = len;
    snprintf(s->row.fingerprint, sizeof s->row.fingerprint, "%s", info->fingerprint);
    return 0;
}

void kd_stage_core_info(const kd_job_record *j, const kd_stage_record *s, kd_core_stage_info *out)
{
    (void)j;
    const Distill__V1__StageInfo *i = s->info;
    *out = (kd_core_stage_info){.identity = kd_digest_of(s->row.info, s->row.info_len),
                                .last_version = 1,
                                .eval_steps = 1,
                                .slots = 1,
                                .chunks = 1};
    if (s->kind == KD_STAGE_EVALUATE)
        return;
    out->eval_steps = kd_stage_eval_steps(i);
    out->last_version = kd_stage_last_version(s);
    out->slots = i->slots;
    out->chunks = chunk_count(i);
}

static bool same_list(char *const *a, size_t n, char *const *b, size_t m)
{
    bool same = n == m;
    for (size_t i = 0; same && i < n; i++)
        same = strcmp(a[i], b[i]) == 0;
    return same;
}

void kd_stage_compare(const Distill__V1__StageInfo *have, const Distill__V1__StageInfo *got,
                      char out[KD_CORE_TEXT])
{
    out[0] = '\0';
    struct {
        const char *what, *have, *got;
    } texts[] = {
        {"data", have->data_digest, got->data_digest},
        {"list of classes", have->classes_digest, got->classes_digest},
        {"network", have->model, got->model},
        {"parameter table", have->table, got->table},
        {"numeric fingerprint", have->fingerprint, got->fingerprint},
        {"metadata", have->metadata, got->metadata},
    };
    struct {
        const char *what;
        uint64_t have, got;
    } figures[] = {
        {"parameters", have->parameters, got->parameters},
        {"running statistics", have->state, got->state},
        {"training samples", have->train_samples, got->train_samples},
        {"validation samples", have->val_samples, got->val_samples},
        {"classes", have->classes, got->classes},
        {"batch", have->batch, got->batch},
        {"slots", have->slots, got->slots},
        {"epochs", have->epochs, got->epochs},
        {"samples an epoch", have->epoch_samples, got->epoch_samples},
        {"test samples", have->test_samples, got->test_samples},
        {"chunk length", have->chunk_floats, got->chunk_floats},
        {"optimiser vectors", have->optimizer_vectors, got->optimizer_vectors},
        {"unlabelled samples", have->unlabelled_samples, got->unlabelled_samples},
        {"steps between evaluations", have->eval_steps, got->eval_steps},
        {"averages of the parameters", have->average, got->average},
        {"gathered values a sample", have->value_columns, got->value_columns},
        {"evaluations of patience", have->patience, got->patience},
    };
    struct {
        const char *what;
        double have, got;
    } numbers[] = {
        {"gradient norm's limit", have->clip_norm, got->clip_norm},
        {"least improvement", have->min_delta, got->min_delta},
    };
    struct {
        const char *what;
        bool same;
    } lists[] = {
        {"names of the classes",
         same_list(have->class_names, have->n_class_names, got->class_names, got->n_class_names)},
        {"terms of the loss", same_list(have->terms, have->n_terms, got->terms, got->n_terms)},
    };
    for (size_t i = 0; i < KD_COUNT(figures); i++)
        if (figures[i].have != figures[i].got) {
            snprintf(out, KD_CORE_TEXT, "it counts %llu %s where the job's other workers have %llu",
                     (unsigned long long)figures[i].got, figures[i].what,
                     (unsigned long long)figures[i].have);
            return;
        }
    for (size_t i = 0; i < KD_COUNT(texts); i++)
        if (strcmp(texts[i].have, texts[i].got) != 0) {
            snprintf(out, KD_CORE_TEXT,
                     "its %s is %.60s, the job's other workers have %.60s; workers of one job must "
                     "agree, or the result would depend on who computes what",
                     texts[i].what, texts[i].got, texts[i].have);
            return;
        }
    /* Not a number is no figure that anybody could agree on. */
    for (size_t i = 0; i < KD_COUNT(numbers); i++)
        if (!(numbers[i].have == numbers[i].got)) {
            snprintf(out, KD_CORE_TEXT, "its %s is %.9g, the job's other workers have %.9g",
                     numbers[i].what, numbers[i].got, numbers[i].have);
            return;
        }
    for (size_t i = 0; i < KD_COUNT(lists); i++)
        if (!lists[i].same) {
            snprintf(out, KD_CORE_TEXT, "its %s are not those of the job's other workers",
                     lists[i].what);
            return;
        }
}

/* ---- exchanges that other threads may find */

kd_exchange_entry *kd_stage_acquire(kd_daemon *d, kd_job_id job, uint32_t stage)
{
    pthread_mutex_lock(&d->exchange_mu);
    kd_exchange_entry *e = d->exchanges;
    while (e && (e->job != job || e->stage != stage))
        e = e->next;
    if (e)
        e->refs++;
    pthread_mutex_unlock(&d->exchange_mu);
    return e;
}

void kd_stage_release(kd_daemon *d, kd_exchange_entry *e)
{
    if (!e)
        return;
    pthread_mutex_lock(&d->exchange_mu);
    bool last = --e->refs == 0;
    pthread_mutex_unlock(&d->exchange_mu);
    if (last) {
        kd_exchange_free(e->x);
        free(e);
    }
}

static void list_exchange(kd_daemon *d, kd_job_id job, uint32_t stage, kd_exchange *x)
{
    kd_exchange_entry *e = kd_xalloc(sizeof *e);
    *e = (kd_exchange_entry){.job = job, .stage = stage, .x = x, .refs = 1};
    pthread_mutex_lock(&d->exchange_mu);
    e->next = d->exchanges;
    d->exchanges = e;
    pthread_mutex_unlock(&d->exchange_mu);
}

static void unlist_exchange(kd_daemon *d, kd_exchange *x)
{
    pthread_mutex_lock(&d->exchange_mu);
    kd_exchange_entry **at = &d->exchanges;
    while (*at && (*at)->x != x)
        at = &(*at)->next;
    kd_exchange_entry *e = *at;
    if (e)
        *at = e->next;
    pthread_mutex_unlock(&d->exchange_mu);
    kd_stage_release(d, e);
}

/* ---- news from an exchange, brought to the loop */

struct news {
    kd_job_id job;
    uint32_t stage, slot;
    uint64_t generation, version;
    kd_step_totals totals;
    uint64_t process, other;
    bool agrees;
    const char *what;
    char text[KD_CORE_TEXT];
    kd_time_ms since;
    kd_time_ms *done_ms; /* owned */
};

static struct news *new_news(const kd_exchange_config *cfg, uint64_t version)
{
    struct news *n = kd_xalloc(sizeof *n);
    n->job = cfg->job;
    n->stage = cfg->stage;
    n->version = version;
    return n;
}

static void free_news(struct news *n)
{
    free(n->done_ms);
    free(n);
}

kd_stage_record *kd_stage_record_of(kd_daemon *d, kd_job_id job, uint32_t stage,
                                    kd_job_record **out_job)
{
    kd_job_record *j = kd_daemon_job(d, job);
    *out_job = j;
    return j && stage < (uint32_t)j->n_stages ? &j->stages[stage] : NULL;
}

static void lose_checkpoint(kd_daemon *d, kd_job_record *j, uint32_t stage, const kd_diag *why);

/* Sums since the last evaluation. */
static void count_step(kd_stage_record *s, uint64_t version, const kd_step_totals *t)
{
    if ((version - 2) % kd_stage_eval_steps(s->info) == 0)
        s->sums = (kd_step_totals){0}; /* first step after an evaluation */
    s->sums.loss += t->loss;
    s->sums.correct += t->correct;
    s->sums.samples += t->samples;
    for (size_t i = 0; i < KD_COUNT(s->sums.terms); i++)
        s->sums.terms[i] += t->terms[i];
    s->version = version;
    s->last_loss = t->samples > 0 ? t->loss / t->samples : 0;
}

void kd_stage_fault(kd_daemon *d, kd_job_id job)
{
    kd_core_view view;
    kd_job_record *j = kd_daemon_job(d, job);
    if (!j || !kd_core_job_view(d->core, job, &view) || view.stage >= (uint32_t)j->n_stages)
        return;
    kd_stage_record *s = &j->stages[view.stage];
    if (s->exchange && !s->fault_at)
        s->fault_at = kd_clock_ms();
}

/* Time that a fault cost: what the step took beyond what steps take. */
static void count_lost(kd_daemon *d, kd_job_record *j, uint32_t stage, const struct news *n,
                       kd_time_ms now)
{
    kd_stage_record *s = &j->stages[stage];
    char data[192];
    kd_time_ms from = s->last_commit ? s->last_commit : s->fault_at;
    double usual = s->rate > 0 ? n->totals.samples / s->rate * 1000 : 0;
    double lost = KD_MAX((double)(now - from) - usual, 0.0), took = (double)(now - s->fault_at);
    s->row.lost_ms_all += lost;
    s->row.lost_ms_workers += s->fault_own ? 0 : lost;
    snprintf(data, sizeof data,
             "{\"stage\":\"%s\",\"step\":%llu,\"took_ms\":%.0f,\"lost_ms\":%.0f,"
             "\"steps_redone\":%llu,\"of\":\"%s\"}",
             s->row.name, (unsigned long long)n->version - 1, took, lost,
             (unsigned long long)s->fault_redone, s->fault_own ? "coordinator" : "worker");
    kd_stage_store(d, j, stage);
    kd_watch_event(d, j, "recovery", "", data,
                   "recovered in %.1f s: step %llu is done; lost %.1f s, steps computed again %llu",
                   took / 1000, (unsigned long long)n->version - 1, lost / 1000,
                   (unsigned long long)s->fault_redone);
    s->fault_at = 0;
    s->fault_own = false;
    s->fault_redone = 0;
}

static void loop_committed(kd_daemon *d, void *arg)
{
    struct news *n = arg;
    kd_job_record *j;
    kd_stage_record *s = kd_stage_record_of(d, n->job, n->stage, &j);
    if (s && s->exchange && s->info && n->generation == s->generation) {
        kd_time_ms now = kd_clock_ms();
        bool fault = s->fault_at != 0;
        if (fault)
            count_lost(d, j, n->stage, n, now);
        if (s->last_commit && !fault) {
            double seconds = (double)(now - s->last_commit) / 1000;
            double rate = seconds > 0 ? n->totals.samples / seconds : 0;
            s->rate = s->rate > 0 ? 0.9 * s->rate + 0.1 * rate : rate;
        }
        s->last_commit = now;
        count_step(s, n->version, &n->totals);
        j->phase = "training";
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_COMMITTED,
                                       .job = n->job,
                                       .stage = n->stage,
                                       .generation = n->generation,
                                       .version = n->version,
                                       .step = {.version = n->version - 1,
                                                .since = n->since,
                                                .whole = true,
                                                .done_ms = n->done_ms}});
    }
    free_news(n);
}

static void on_committed(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                         uint64_t version, const kd_step_totals *totals, kd_time_ms since,
                         const kd_time_ms *done_ms)
{
    struct news *n = new_news(cfg, version);
    n->generation = generation;
    n->totals = *totals;
    n->since = since;
    n->done_ms = kd_xalloc(cfg->slots * sizeof *n->done_ms);
    memcpy(n->done_ms, done_ms, cfg->slots * sizeof *n->done_ms);
    if (!kd_daemon_post(arg, loop_committed, n))
        free_news(n);
}

static const char *worker_name(kd_daemon *d, uint64_t process)
{
    const kd_worker_record *w = d->workers;
    while (w && w->process != process)
        w = w->next;
    return w ? w->name : "a worker that is gone";
}

static void loop_divergence(kd_daemon *d, void *arg)
{
    struct news *n = arg;
    kd_job_record *j;
    if (kd_stage_record_of(d, n->job, n->stage, &j)) {
        kd_stage_fault(d, n->job);
        if (n->process && n->other)
            kd_watch_event(
                d, j, "warning", "", NULL,
                "divergence in step %llu: %s, of %s and %s; somebody's numbers are wrong",
                (unsigned long long)n->version, n->what, worker_name(d, n->process),
                worker_name(d, n->other));
        else
            kd_watch_event(d, j, "warning", "", NULL,
                           "divergence: %s; a worker's numbers are wrong", n->what);
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_DIVERGED,
                                       .job = n->job,
                                       .stage = n->stage,
                                       .version = n->version,
                                       .slot = n->slot,
                                       .process = n->process,
                                       .other = n->other});
    }
    free_news(n);
}

static void on_divergence(void *arg, const kd_exchange_config *cfg, const char *what, uint64_t step,
                          uint32_t slot, uint64_t first, uint64_t other)
{
    struct news *n = new_news(cfg, step);
    n->what = what;
    n->slot = slot;
    n->process = first;
    n->other = other;
    if (!kd_daemon_post(arg, loop_divergence, n))
        free_news(n);
}

static void loop_checked(kd_daemon *d, void *arg)
{
    struct news *n = arg;
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_CHECKED,
                                   .job = n->job,
                                   .stage = n->stage,
                                   .version = n->version,
                                   .slot = n->slot,
                                   .process = n->process,
                                   .agrees = n->agrees});
    free_news(n);
}

static void on_checked(void *arg, const kd_exchange_config *cfg, uint64_t step, uint32_t slot,
                       uint64_t process, bool agrees)
{
    struct news *n = new_news(cfg, step);
    n->slot = slot;
    n->process = process;
    n->agrees = agrees;
    if (!kd_daemon_post(arg, loop_checked, n))
        free_news(n);
}

static void loop_blocked(kd_daemon *d, void *arg)
{
    struct news *n = arg;
    kd_job_record *j;
    kd_stage_record *s = kd_stage_record_of(d, n->job, n->stage, &j);
    if (s && s->exchange) {
        memcpy(s->blocked, n->text, sizeof s->blocked);
        kd_stage_tell_blocked(d, j, n->stage);
    }
    free_news(n);
}

void kd_stage_tell_blocked(kd_daemon *d, kd_job_record *j, uint32_t stage)
{
    const kd_stage_record *s = &j->stages[stage];
    char text[KD_CORE_TEXT] = "";
    if (s->blocked[0] || s->no_room[0])
        snprintf(text, sizeof text, "waits for the coordinator's disk: %.340s",
                 s->blocked[0] ? s->blocked : s->no_room);
    kd_daemon_event(
        d, &(kd_event){.kind = KD_EV_BLOCKED, .job = j->row.id, .stage = stage, .text = text});
}

static void on_blocked(void *arg, const kd_exchange_config *cfg, const char *why)
{
    struct news *n = new_news(cfg, 0);
    if (why)
        snprintf(n->text, sizeof n->text, "%.390s", why);
    if (!kd_daemon_post(arg, loop_blocked, n))
        free_news(n);
}

static void loop_need_base(kd_daemon *d, void *arg)
{
    struct news *n = arg;
    kd_job_record *j;
    kd_stage_record *s = kd_stage_record_of(d, n->job, n->stage, &j);
    if (s && s->exchange) {
        float *vector = NULL, *state = NULL;
        kd_diag diag = {0};
        uint64_t version = s->row.manifest;
        int rc = version > 1
                     ? kd_stage_load_checkpoint(d, j, n->stage, version, &vector, &state, &diag)
                     : kd_fail(&diag, -KD_ENOENT, "there is no checkpoint yet");
        kd_exchange_set_base(s->exchange, version, vector, state, diag.msg);
        if (rc != 0 && version > 1)
            lose_checkpoint(d, j, n->stage, &diag);
    }
    free_news(n);
}

static void on_need_base(void *arg, const kd_exchange_config *cfg)
{
    struct news *n = new_news(cfg, 0);
    if (!kd_daemon_post(arg, loop_need_base, n))
        free_news(n);
}

static kd_time_ms exchange_now(void *arg)
{
    (void)arg;
    return kd_clock_ms();
}

/* ---- opening and closing */

void kd_stage_store(kd_daemon *d, kd_job_record *j, uint32_t stage)
{
    kd_diag diag = {0};
    if (kd_state_set_stage(&d->state, j->row.id, stage, &j->stages[stage].row, &diag) != 0)
        kd_daemon_fatal(d, &diag);
}

void kd_stage_fail(kd_daemon *d, kd_job_record *j, const char *text)
{
    kd_watch_event(d, j, "warning", "", NULL, "%s", text);
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_FAIL, .job = j->row.id, .text = text});
}

/* Where the vector's trained elements lie, from the parameter table. */
static int trained_spans(kd_stage_record *s, size_t *out_n, kd_diag *diag)
{
    json_t *table = json_loads(s->info->table, JSON_REJECT_DUPLICATES, NULL), *row;
    size_t n = json_array_size(table), i, used = 0;
    uint64_t end = 0, floats = kd_stage_vector_floats(s->info);
    free(s->trained);
    s->trained = calloc(n + 1, sizeof *s->trained);
    int rc = !s->trained ? kd_fail(diag, -KD_ENOMEM, "no memory for a parameter table")
             : n == 0    ? kd_fail(diag, -KD_EDATA, "the parameter table is empty or not JSON")
                         : 0;
    json_array_foreach(table, i, row)
    {
        uint64_t offset = (uint64_t)json_integer_value(json_object_get(row, "offset")), count = 1;
        json_t *shape = json_object_get(row, "shape"), *side;
        size_t k;
        bool ok = true;
        json_array_foreach(shape, k, side) ok =
            ok && json_integer_value(side) > 0 &&
            !__builtin_mul_overflow(count, (uint64_t)json_integer_value(side), &count);
        if (rc != 0 || !json_is_true(json_object_get(row, "trained")))
            continue;
        if (!ok || offset < end || offset > floats || count > floats - offset) {
            rc = kd_fail(diag, -KD_EDATA, "row %zu of the parameter table is not within it", i);
            continue;
        }
        s->trained[used++] = (struct kd_exchange_span){offset, count};
        end = offset + count;
    }
    json_decref(table);
    *out_n = used;
    return rc;
}

void kd_stage_journal_prefix(const kd_daemon *d, kd_job_id job, uint32_t stage, char *out,
                             size_t size)
{
    char id[KD_ID_TEXT];
    kd_id_text(job, id);
    snprintf(out, size, "%s/jobs/%s/stage%u", d->state.dir, id, stage);
}

static int make_exchange(kd_daemon *d, kd_job_record *j, uint32_t stage, uint64_t last_version,
                         kd_diag *diag)
{
    kd_stage_record *s = &j->stages[stage];
    const Distill__V1__StageInfo *i = s->info;
    kd_exchange_config cfg = {.job = j->row.id,
                              .stage = stage,
                              .slots = i->slots,
                              .chunk_floats = i->chunk_floats,
                              .chunks = chunk_count(i),
                              .vector_floats = kd_stage_vector_floats(i),
                              .state_vectors = i->optimizer_vectors,
                              .eval_steps = kd_stage_eval_steps(i),
                              .last_version = last_version,
                              .checkpoint_every = (uint64_t)j->spec.checkpoint_every,
                              .val_samples = (uint32_t)i->val_samples,
                              .eval_unit = KD_EVAL_UNIT,
                              .n_terms = (uint32_t)(2 * i->n_terms),
                              .average = i->average,
                              .clip_norm = i->clip_norm,
                              .batch = i->batch,
                              .columns = i->value_columns,
                              .audit = j->spec.audit,
                              .journal_bytes = KD_MAX_JOURNAL_BYTES};
    if (i->clip_norm > 0) {
        int rc = trained_spans(s, &cfg.n_trained, diag);
        if (rc != 0)
            return rc;
        cfg.trained = s->trained;
    }
    kd_exchange_events ev = {on_committed,
                             kd_checkpoint_snapshot,
                             kd_evaluation_done,
                             on_divergence,
                             on_checked,
                             on_need_base,
                             on_blocked,
                             exchange_now,
                             d};
    s->exchange = kd_exchange_new(&cfg, &ev);
    list_exchange(d, j->row.id, stage, s->exchange);
    return 0;
}

/* The version to go on from: the end of the journal, but no later than an evaluated version that is
 * not stored whole, its checkpoint and its evaluation. */
static uint64_t resume_at(const kd_stage_record *s, uint64_t journal_end, uint64_t last_version)
{
    uint64_t every = kd_stage_eval_steps(s->info), manifest = s->row.manifest;
    uint64_t border = (manifest - 1 + every) / every * every + 1;
    bool at_border = manifest > 1 && (manifest - 1) % every == 0;
    if (at_border && s->row.evaluated < manifest)
        border = manifest;
    else if (at_border)
        border = manifest + every;
    return KD_MIN(KD_MIN(journal_end, border), last_version);
}

static bool readable(kd_daemon *d, kd_job_record *j, uint32_t stage, uint64_t version,
                     kd_diag *diag)
{
    float *vector = NULL, *state = NULL;
    int rc = kd_stage_load_checkpoint(d, j, stage, version, &vector, &state, diag);
    free(vector);
    free(state);
    return rc == 0;
}

/* The newest version before this one that was evaluated: an epoch's sums begin there, which older
 * checkpoints do not tell. */
static uint64_t border_before(const kd_stage_record *s, uint64_t version)
{
    uint64_t every = kd_stage_eval_steps(s->info);
    return version > 1 + every ? (version - 2) / every * every + 1 : 1;
}

/* Opens the journal and finds where the stage stands; vector and state only of the manifest. */
static int find_start(kd_daemon *d, kd_job_record *j, uint32_t stage, const kd_begin *b,
                      kd_exchange_start *start, kd_diag *diag)
{
    kd_stage_record *s = &j->stages[stage];
    char prefix[4096];
    uint64_t torn = 0;
    kd_digest identity = kd_digest_of(s->row.info, s->row.info_len);
    kd_stage_journal_prefix(d, j->row.id, stage, prefix, sizeof prefix);
    if (b->fresh)
        kd_journal_remove(prefix);
    int rc =
        kd_journal_open(prefix, &identity, chunk_count(s->info), s->info->chunk_floats,
                        kd_stage_vector_floats(s->info), b->version, &start->journal, &torn, diag);
    if (rc != 0)
        return rc;
    kd_journal_keep_free(start->journal, d->room.min_free);
    if (torn)
        kd_watch_event(d, j, "warning", "", NULL,
                       "journal %s: %llu bytes were not whole and are left out; their steps are "
                       "computed again",
                       prefix, (unsigned long long)torn);
    start->version = resume_at(s, kd_journal_end(start->journal), b->last_version);
    /* Nothing but its checkpoint brings the best version back, and later it would be missed. */
    uint64_t best = s->row.best_version;
    if (best > 1 && best <= b->version && !readable(d, j, stage, best, diag))
        return -KD_EDATA;
    if (start->version == b->version && b->version > 1)
        rc = kd_stage_load_checkpoint(d, j, stage, b->version, &start->vector, &start->state, diag);
    s->sums = (kd_step_totals){s->row.loss, s->row.correct, s->row.samples, {0}};
    memcpy(s->sums.terms, s->row.term_sums, sizeof s->sums.terms);
    s->version = b->version;
    float *sum = kd_xalloc(s->info->chunk_floats * sizeof *sum);
    for (uint64_t step = b->version; rc == 0 && step < start->version; step++) {
        kd_step_totals totals;
        float scale;
        rc = kd_journal_read(start->journal, step, 0, sum, &scale, &totals, diag);
        if (rc == 0)
            count_step(s, step + 1, &totals);
    }
    free(sum);
    return rc;
}

/* Committed steps that are computed again, as far as anybody remembers them. */
static void count_redone(kd_daemon *d, kd_job_record *j, uint32_t stage, uint64_t before,
                         uint64_t version)
{
    for (const kd_worker_record *w = d->workers; w; w = w->next)
        if (w->offer == j->row.id && w->offer_stage == stage)
            before = KD_MAX(before, w->offer_version);
    if (before > version) {
        j->stages[stage].row.steps_redone += before - version;
        j->stages[stage].fault_redone += before - version;
        kd_stage_store(d, j, stage);
        kd_watch_event(d, j, "worker", "", NULL, "%llu step(s) are computed again",
                       (unsigned long long)(before - version));
    }
}

/* The manifest or the best version cannot be read: back to a checkpoint from which what is lost is
 * made again, else to the beginning. */
static void lose_checkpoint(kd_daemon *d, kd_job_record *j, uint32_t stage, const kd_diag *why)
{
    kd_stage_record *s = &j->stages[stage];
    uint64_t best = s->row.best_version, version = border_before(s, s->row.manifest);
    kd_diag diag = {0};
    kd_watch_event(d, j, "warning", "", NULL, "%s", why->msg);
    bool has_best = best == 0 || readable(d, j, stage, best, &diag);
    while (version > 1 &&
           ((best <= version && !has_best) || !readable(d, j, stage, version, &diag)))
        version = border_before(s, version);
    s->row.manifest = version;
    s->row.evaluated = version > 1 ? version : 0;
    kd_stage_forget_evaluations(j, stage, version);
    s->row.loss = s->row.correct = s->row.samples = 0;
    memset(s->row.term_sums, 0, sizeof s->row.term_sums);
    kd_stage_store(d, j, stage);
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_ROLLBACK,
                                   .job = j->row.id,
                                   .stage = stage,
                                   .version = version,
                                   .text = why->msg});
}

static void tell_begun(kd_daemon *d, kd_job_record *j, kd_stage_record *s, uint64_t version)
{
    const Distill__V1__StageInfo *i = s->info;
    if (s->begun)
        return;
    s->begun = kd_clock_ms();
    char where[64] = "begins";
    if (version > 1)
        snprintf(where, sizeof where, "goes on from step %llu", (unsigned long long)version - 1);
    kd_core_view view = {0};
    (void)kd_core_job_view(d->core, j->row.id, &view);
    kd_watch_event(d, j, "stage", "", NULL,
                   "stage %s %s: %llu parameters, %llu training and %llu validation samples, "
                   "%u classes, %u worker(s)",
                   s->row.name, where, (unsigned long long)i->parameters,
                   (unsigned long long)i->train_samples, (unsigned long long)i->val_samples,
                   i->classes, view.members);
}

void kd_stage_open(kd_daemon *d, kd_job_record *j, uint32_t stage, const kd_begin *b)
{
    kd_stage_record *s = &j->stages[stage];
    char id[KD_ID_TEXT], path[4096];
    kd_id_text(j->row.id, id);
    snprintf(path, sizeof path, "%s/jobs/%s", d->state.dir, id);
    kd_diag diag = {0};
    kd_exchange_start start = {
        .opening = b->generation, .manifest = b->version, .evaluated = s->row.evaluated};
    uint64_t before = s->version;
    bool again = b->version > 1 || s->begun != 0;
    int rc = kd_file_mkdirs(path, &diag);
    if (rc == 0 && !s->exchange)
        rc = make_exchange(d, j, stage, b->last_version, &diag);
    if (rc == 0)
        rc = find_start(d, j, stage, b, &start, &diag);
    if (rc != 0) {
        kd_journal_close(start.journal);
        free(start.vector);
        free(start.state);
        /* What the core still asks of this opening must not be answered. */
        bool made = s->exchange != NULL;
        kd_stage_close(d, j, stage);
        if (made && (rc == -KD_EDATA || rc == -KD_ENOENT) && b->version > 1)
            lose_checkpoint(d, j, stage, &diag);
        else
            kd_stage_fail(d, j, diag.msg);
        return;
    }
    /* What the journal has is applied again, not computed. */
    count_redone(d, j, stage, before, KD_MAX(start.version, kd_journal_end(start.journal)));
    s->version = start.version;
    s->generation = b->generation;
    s->last_commit = 0;
    s->blocked[0] = s->no_room[0] = '\0';
    s->fault_at = 0;
    if ((again || start.version > 1) && !j->planned) {
        /* The first opening of a process ends what its start began. */
        s->fault_at = s->begun ? kd_clock_ms() : d->started;
        s->fault_own = true;
    }
    j->planned = false;
    tell_begun(d, j, s, start.version);
    j->phase = "training";
    kd_exchange_open(s->exchange, &start);
}

void kd_stage_look(kd_daemon *d, kd_job_record *j, uint32_t stage)
{
    kd_stage_record *s = &j->stages[stage];
    if (!s->exchange)
        return;
    kd_exchange_look look;
    kd_time_ms *done_ms = kd_xalloc(s->info->slots * sizeof *done_ms);
    kd_exchange_look_at(s->exchange, &look, done_ms);
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_STEP,
                                   .job = j->row.id,
                                   .stage = stage,
                                   .generation = s->generation,
                                   .step = {.version = look.version,
                                            .since = look.since,
                                            .whole = look.whole,
                                            .want_state = look.want_state,
                                            .done_ms = done_ms}});
    free(done_ms);
}

void kd_stage_settle(kd_daemon *d, kd_job_record *j, uint32_t stage, uint64_t step, bool redo,
                     uint64_t odd)
{
    kd_stage_record *s = &j->stages[stage];
    if (s->exchange && !kd_exchange_settle(s->exchange, step, redo, odd))
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_ROLLBACK,
                                       .job = j->row.id,
                                       .stage = stage,
                                       .text = "wrong numbers had left already"});
}

void kd_stage_tick(kd_daemon *d, kd_time_ms now)
{
    for (kd_job_record *j = d->jobs; j; j = j->next)
        for (int i = 0; i < j->n_stages; i++) {
            kd_stage_record *s = &j->stages[i];
            if (s->exchange && s->blocked[0])
                kd_exchange_retry(s->exchange);
            kd_checkpoint_tick(d, j, s, now);
        }
}

void kd_stage_close(kd_daemon *d, kd_job_record *j, uint32_t stage)
{
    kd_stage_record *s = &j->stages[stage];
    if (!s->exchange)
        return;
    kd_checkpoint_drop_waiting(s);
    kd_exchange_close(s->exchange);
    unlist_exchange(d, s->exchange);
    s->exchange = NULL;
    s->blocked[0] = s->no_room[0] = '\0';
}

void kd_stage_manifest(kd_daemon *d, kd_job_record *j, uint32_t stage, uint64_t version)
{
    kd_stage_record *s = &j->stages[stage];
    s->row.manifest = version;
    s->row.loss = s->pending_sums.loss;
    s->row.correct = s->pending_sums.correct;
    s->row.samples = s->pending_sums.samples;
    memcpy(s->row.term_sums, s->pending_sums.terms, sizeof s->row.term_sums);
    kd_stage_store(d, j, stage);
    if (s->exchange)
        kd_exchange_manifest(s->exchange, version);
    kd_diag diag = {0};
    /* One to go back to stays as well. */
    if (kd_state_drop_checkpoints(&d->state, j->row.id, stage, version, s->row.best_version,
                                  s->info ? border_before(s, version) : 0, &diag) != 0)
        kd_warn("%s", diag.msg);
    kd_watch_event(d, j, "checkpoint", "", NULL, "checkpoint of %s step %llu", s->row.name,
                   (unsigned long long)version - 1);
}

/* ---- the end of a stage */

/* The parameters of a saved version, averaged ones where the stage averages; caller frees. */
static int final_parameters(kd_daemon *d, kd_job_record *j, uint32_t stage, uint64_t version,
                            float **out, char digest[33], kd_diag *diag)
{
    const Distill__V1__StageInfo *i = j->stages[stage].info;
    size_t floats = (size_t)kd_stage_vector_floats(i);
    float *vector = NULL, *state = NULL;
    int rc = kd_stage_load_checkpoint(d, j, stage, version, &vector, &state, diag);
    if (rc != 0)
        return rc;
    if (i->average)
        memcpy(vector, state + (size_t)(i->optimizer_vectors - 1) * floats, floats * sizeof(float));
    free(state);
    kd_digest d128 = kd_digest_of(vector, floats * sizeof(float));
    kd_digest_hex(&d128, digest);
    *out = vector;
    return 0;
}

static int write_networks(kd_daemon *d, kd_job_record *j, uint32_t stage, kd_diag *diag)
{
    kd_stage_record *s = &j->stages[stage];
    uint64_t last = kd_stage_last_version(s);
    float *vector = NULL;
    int rc = final_parameters(d, j, stage, last, &vector, s->row.digest, diag);
    if (rc == 0)
        rc = kd_artefact_write_network(d, j, stage, false, vector, s->row.digest, diag);
    if (rc == 0 && s->info->epochs > 0 && s->row.best_version) {
        free(vector);
        vector = NULL;
        kd_diag why = {0};
        /* Its checkpoint may not have been written (a full disk, say); the last version counts. */
        if (final_parameters(d, j, stage, s->row.best_version, &vector, s->row.best_digest, &why) !=
            0) {
            s->row.best_digest[0] = '\0';
            kd_watch_event(d, j, "warning", "", NULL, "the best version is lost: %s", why.msg);
        } else {
            rc = kd_artefact_write_network(d, j, stage, true, vector, s->row.best_digest, diag);
        }
    }
    free(vector);
    return rc;
}

void kd_stage_tidy(kd_daemon *d, kd_job_record *j, uint32_t stage, bool done)
{
    const kd_stage_record *s = &j->stages[stage];
    kd_diag diag = {0};
    bool keep = done && s->info && kd_stage_teacher(s->kind) < 0 && kd_stage_artefact_name(s->kind);
    if (kd_state_keep_checkpoints(&d->state, j->row.id, stage, keep ? kd_stage_last_version(s) : 0,
                                  keep ? s->row.best_version : 0, &diag) != 0)
        kd_warn("old checkpoints stay: %s", diag.msg);
}

void kd_stage_finished(kd_daemon *d, kd_job_record *j, uint32_t stage)
{
    kd_stage_record *s = &j->stages[stage];
    kd_diag diag = {0};
    if (kd_stage_artefact_name(s->kind)) {
        if (write_networks(d, j, stage, &diag) != 0) {
            kd_stage_fail(d, j, diag.msg);
            return;
        }
        kd_stage_tidy(d, j, stage, true);
        char prefix[4096];
        kd_stage_journal_prefix(d, j->row.id, stage, prefix, sizeof prefix);
        kd_journal_remove(prefix);
    }
    s->row.done = true;
    if (s->begun)
        s->row.seconds += (double)(kd_clock_ms() - s->begun) / 1000;
    s->begun = 0;
    kd_stage_store(d, j, stage);
    kd_watch_event(d, j, "stage", "", NULL, "stage %s done%s%s", s->row.name,
                   s->row.digest[0] ? ": digest " : "", s->row.digest);
}

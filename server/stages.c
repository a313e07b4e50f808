/* What a running stage does with disks: opening a version, saving one, its end, the export. */
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

#define MAX_TREE_NODES (1u << 21) /* 100 MB of book-keeping */

/* ---- what a stage is made of */

static uint64_t epoch_steps(const Distill__V1__StageInfo *i)
{
    return i->batch ? (i->train_samples + i->batch - 1) / i->batch : 0;
}

static uint64_t vector_floats(const Distill__V1__StageInfo *i)
{
    return i->parameters + i->state;
}

static uint32_t chunk_count(const Distill__V1__StageInfo *i)
{
    return (uint32_t)((vector_floats(i) + i->chunk_floats - 1) / i->chunk_floats);
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
              i->val_samples <= UINT32_MAX / 2 && i->epochs <= 10000 && i->optimizer_vectors <= 2;
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
                                .epoch_steps = 1,
                                .slots = 1,
                                .chunks = 1};
    if (s->kind == KD_STAGE_EVALUATE)
        return;
    out->epoch_steps = epoch_steps(i);
    out->last_version = 1 + (uint64_t)i->epochs * out->epoch_steps;
    out->slots = i->slots;
    out->chunks = chunk_count(i);
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
        {"chunk length", have->chunk_floats, got->chunk_floats},
        {"optimiser vectors", have->optimizer_vectors, got->optimizer_vectors},
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
    uint32_t stage;
    uint64_t generation, version;
    kd_exchange_totals totals;
    double val_loss;
    uint32_t correct, samples;
    const char *what;
    kd_exchange_snapshot snap;
    /* of a write */
    uv_work_t work;
    kd_daemon *daemon;
    char path[4096];
    char digest[33];
    uint64_t size;
    double sums[3];
    kd_diag diag;
    int rc;
};

static kd_stage_record *stage_of(kd_daemon *d, const struct news *n, kd_job_record **out_job)
{
    kd_job_record *j = kd_daemon_job(d, n->job);
    *out_job = j;
    return j && n->stage < (uint32_t)j->n_stages ? &j->stages[n->stage] : NULL;
}

static void loop_committed(kd_daemon *d, void *arg)
{
    struct news *n = arg;
    kd_job_record *j;
    kd_stage_record *s = stage_of(d, n, &j);
    if (s && s->exchange && s->info) {
        kd_time_ms now = kd_clock_ms();
        if (s->last_commit) {
            double seconds = (double)(now - s->last_commit) / 1000;
            double rate = seconds > 0 ? n->totals.samples / seconds : 0;
            s->rate = s->rate > 0 ? 0.9 * s->rate + 0.1 * rate : rate;
        }
        s->last_commit = now;
        if ((n->version - 2) % epoch_steps(s->info) == 0)
            s->loss = s->correct = s->samples = 0; /* first step of an epoch */
        s->loss += n->totals.loss;
        s->correct += n->totals.correct;
        s->samples += n->totals.samples;
        s->version = n->version;
        s->last_loss = n->totals.samples > 0 ? n->totals.loss / n->totals.samples : 0;
        j->phase = "training";
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_COMMITTED,
                                       .job = n->job,
                                       .stage = n->stage,
                                       .generation = n->generation,
                                       .version = n->version});
    }
    free(n);
}

static void on_committed(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                         uint64_t version, const kd_exchange_totals *totals)
{
    struct news *n = kd_xalloc(sizeof *n);
    n->job = cfg->job;
    n->stage = cfg->stage;
    n->generation = generation;
    n->version = version;
    n->totals = *totals;
    if (!kd_daemon_post(arg, loop_committed, n))
        free(n);
}

static void loop_divergence(kd_daemon *d, void *arg)
{
    struct news *n = arg;
    kd_job_record *j;
    if (stage_of(d, n, &j))
        kd_watch_event(d, j, "warning", "", NULL, "divergence: %s; a worker's numbers are wrong",
                       n->what);
    free(n);
}

static void on_divergence(void *arg, const kd_exchange_config *cfg, const char *what)
{
    struct news *n = kd_xalloc(sizeof *n);
    n->job = cfg->job;
    n->stage = cfg->stage;
    n->what = what;
    if (!kd_daemon_post(arg, loop_divergence, n))
        free(n);
}

/* ---- evaluation */

static uint32_t epoch_of(const Distill__V1__StageInfo *i, uint64_t version)
{
    return (uint32_t)((version - 1) / epoch_steps(i));
}

static void put_epoch(kd_job_record *j, const kd_epoch_row *row)
{
    for (int i = 0; i < j->n_epochs; i++)
        if (j->epochs[i].stage == row->stage && j->epochs[i].epoch == row->epoch) {
            j->epochs[i] = *row;
            return;
        }
    kd_epoch_row *p = realloc(j->epochs, ((size_t)j->n_epochs + 1) * sizeof *p);
    KD_BUG_ON(!p);
    j->epochs = p;
    j->epochs[j->n_epochs++] = *row;
}

static void loop_evaluated(kd_daemon *d, void *arg)
{
    struct news *n = arg;
    kd_job_record *j;
    kd_stage_record *s = stage_of(d, n, &j);
    if (s && s->exchange && s->info && n->version > s->row.evaluated) {
        kd_epoch_row row = {.stage = n->stage,
                            .epoch = epoch_of(s->info, n->version),
                            .val_loss = n->val_loss,
                            .val_correct = n->correct,
                            .val_samples = n->samples};
        if (s->samples > 0) {
            row.train_loss = s->loss / s->samples;
            row.train_accuracy = s->correct / s->samples;
        }
        kd_diag diag = {0};
        s->row.evaluated = n->version;
        if (kd_state_add_epoch(&d->state, j->row.id, &row, &diag) != 0)
            kd_daemon_fatal(d, &diag);
        put_epoch(j, &row);
        kd_stage_store(d, j, n->stage);
        char data[256];
        snprintf(data, sizeof data,
                 "{\"stage\":\"%s\",\"epoch\":%u,\"train_loss\":%.9g,\"train_accuracy\":%.9g,"
                 "\"val_loss\":%.9g,\"val_correct\":%u,\"val_samples\":%u}",
                 s->row.name, row.epoch, row.train_loss, row.train_accuracy, row.val_loss,
                 row.val_correct, row.val_samples);
        kd_watch_event(d, j, "epoch", "", data,
                       "%s epoch %u/%u: training loss %.4f, accuracy %.1f %%; validation %.1f %% "
                       "(%u of %u)",
                       s->row.name, row.epoch, s->info->epochs, row.train_loss,
                       100 * row.train_accuracy,
                       row.val_samples ? 100.0 * row.val_correct / row.val_samples : 0,
                       row.val_correct, row.val_samples);
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_EVALUATED,
                                       .job = n->job,
                                       .stage = n->stage,
                                       .version = n->version});
    }
    free(n);
}

/* A predicted class is negative when it is the wrong one, so that labels need not be known here. */
static void on_evaluated(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                         uint64_t version, const float *rows)
{
    struct news *n = kd_xalloc(sizeof *n);
    n->job = cfg->job;
    n->stage = cfg->stage;
    n->generation = generation;
    n->version = version;
    n->samples = cfg->val_samples;
    double loss = 0;
    for (uint32_t i = 0; i < cfg->val_samples; i++) {
        n->correct += rows[2 * i] >= 0;
        loss += rows[2 * i + 1];
    }
    n->val_loss = cfg->val_samples ? loss / cfg->val_samples : 0;
    if (!kd_daemon_post(arg, loop_evaluated, n))
        free(n);
}

/* ---- checkpoints */

static void checkpoint_path(const kd_daemon *d, kd_job_id job, uint32_t stage, uint64_t version,
                            char *out, size_t size)
{
    char id[KD_ID_TEXT];
    kd_id_text(job, id);
    snprintf(out, size, "%s/jobs/%s/stage%u-version%llu.safetensors", d->state.dir, id, stage,
             (unsigned long long)version);
}

/* On libuv's pool. */
static void write_checkpoint(uv_work_t *work)
{
    struct news *n = work->data;
    kd_st_item items[3];
    static const char *const names[] = {"vector", "state.0", "state.1"};
    uint64_t floats = n->size;
    size_t count = 0;
    items[count++] = (kd_st_item){names[0], 1, {(int64_t)floats}, n->snap.vector};
    for (uint32_t v = 0; v < (uint32_t)n->samples; v++, count++)
        items[count] =
            (kd_st_item){names[count], 1, {(int64_t)floats}, n->snap.state + (size_t)v * floats};
    char version[24], stage[16], id[KD_ID_TEXT];
    snprintf(version, sizeof version, "%llu", (unsigned long long)n->version);
    snprintf(stage, sizeof stage, "%u", n->stage);
    kd_id_text(n->job, id);
    kd_st_pair meta[] = {
        {"format", "distilld-checkpoint-1"}, {"job", id}, {"stage", stage}, {"version", version}};
    kd_buf buf;
    kd_buf_init(&buf, (size_t)1 << 33);
    n->rc = kd_st_pack(items, count, meta, KD_COUNT(meta), &buf, &n->diag);
    if (n->rc == 0)
        n->rc = kd_file_write(n->path, buf.data, buf.len, &n->diag);
    if (n->rc == 0) {
        kd_digest digest = kd_digest_of(buf.data, buf.len);
        kd_digest_hex(&digest, n->digest);
        n->size = buf.len;
    }
    kd_buf_clear(&buf);
}

static void free_news(struct news *n)
{
    free(n->snap.vector);
    free(n->snap.state);
    free(n);
}

static void checkpoint_written(uv_work_t *work, int status)
{
    struct news *n = work->data;
    kd_daemon *d = n->daemon;
    kd_job_record *j;
    kd_stage_record *s = stage_of(d, n, &j);
    d->writes_running--;
    if (status != 0 && n->rc == 0)
        n->rc = kd_fail(&n->diag, -KD_EINTERNAL, "the write was not run: %s", uv_strerror(status));
    if (j)
        j->saving = false;
    if (!s || !s->exchange) {
        remove(n->path);
    } else if (n->rc != 0) {
        kd_watch_event(d, j, "warning", "", NULL, "checkpoint of step %llu failed: %s",
                       (unsigned long long)n->version - 1, n->diag.msg);
        if (s->info && n->version == 1 + (uint64_t)s->info->epochs * epoch_steps(s->info)) {
            /* Without its last version the stage cannot end; say why instead of waiting for ever.
             */
            kd_daemon_event(d, &(kd_event){.kind = KD_EV_FAIL,
                                           .job = n->job,
                                           .text = "the final parameters could not be saved"});
        }
    } else {
        if (kd_state_add_file(&d->state, n->job, "", n->stage, n->version, n->path, n->size,
                              n->digest, &n->diag) != 0)
            kd_daemon_fatal(d, &n->diag);
        memcpy(s->pending_sums, n->sums, sizeof n->sums);
        if (kd_bank_sync(d->bank, &n->diag) != 0)
            kd_warn("%s", n->diag.msg);
        kd_daemon_event(
            d, &(kd_event){
                   .kind = KD_EV_SAVED, .job = n->job, .stage = n->stage, .version = n->version});
    }
    free_news(n);
}

static void loop_snapshot(kd_daemon *d, void *arg)
{
    struct news *n = arg;
    kd_job_record *j;
    kd_stage_record *s = stage_of(d, n, &j);
    if (!s || !s->exchange || !s->info || !n->snap.vector) {
        if (s && !n->snap.vector)
            kd_watch_event(d, j, "warning", "", NULL, "no memory for a checkpoint");
        free_news(n);
        return;
    }
    n->daemon = d;
    n->sums[0] = s->loss;
    n->sums[1] = s->correct;
    n->sums[2] = s->samples;
    n->size = vector_floats(s->info);
    n->samples = n->snap.state ? s->info->optimizer_vectors : 0;
    checkpoint_path(d, n->job, n->stage, n->version, n->path, sizeof n->path);
    n->work.data = n;
    j->saving = true;
    d->writes_running++;
    KD_BUG_ON(uv_queue_work(&d->loop, &n->work, write_checkpoint, checkpoint_written) != 0);
}

static void on_snapshot(void *arg, kd_exchange_snapshot *snap)
{
    struct news *n = kd_xalloc(sizeof *n);
    n->job = snap->job;
    n->stage = snap->stage;
    n->generation = snap->generation;
    n->version = snap->version;
    n->snap = *snap;
    if (!kd_daemon_post(arg, loop_snapshot, n))
        free_news(n);
}

/* Reads a checkpoint back; its bytes must have the digest that was stored with it. */
static int load_checkpoint(kd_daemon *d, kd_job_record *j, uint32_t stage, uint64_t version,
                           float **out_vector, float **out_state, kd_diag *diag)
{
    const Distill__V1__StageInfo *info = j->stages[stage].info;
    kd_file_row row;
    int rc = kd_state_find_checkpoint(&d->state, j->row.id, stage, version, &row, diag);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return kd_fail(diag, -KD_ENOENT, "no checkpoint of version %llu is stored",
                       (unsigned long long)version);
    char *data = NULL;
    size_t len = 0;
    rc = kd_file_read(row.path, (size_t)1 << 34, &data, &len, diag);
    if (rc != 0)
        return rc;
    kd_digest digest = kd_digest_of(data, len);
    char hex[KD_DIGEST_HEX];
    kd_digest_hex(&digest, hex);
    kd_st_file *f = NULL;
    size_t floats = (size_t)vector_floats(info), bytes = floats * sizeof(float);
    if (strcmp(hex, row.digest) != 0)
        rc = kd_fail(diag, -KD_EDATA, "checkpoint %s is damaged: its digest is %s, %s was stored",
                     row.path, hex, row.digest);
    if (rc == 0)
        rc = kd_st_open_memory(data, len, row.path, &f, diag);
    const kd_st_tensor *t = f ? kd_st_find(f, "vector") : NULL;
    if (rc == 0 && (!t || t->bytes != bytes))
        rc =
            kd_fail(diag, -KD_EDATA, "checkpoint %s has no vector of %zu floats", row.path, floats);
    float *vector = NULL, *state = NULL;
    if (rc == 0) {
        vector = malloc(bytes);
        state = info->optimizer_vectors ? calloc(info->optimizer_vectors, bytes) : NULL;
        if (!vector || (info->optimizer_vectors && !state))
            rc = kd_fail(diag, -KD_ENOMEM, "no memory for a checkpoint of %zu floats", floats);
    }
    if (rc == 0)
        memcpy(vector, t->data, bytes);
    for (uint32_t v = 0; rc == 0 && v < info->optimizer_vectors; v++) {
        t = kd_st_find(f, v == 0 ? "state.0" : "state.1");
        if (!t || t->bytes != bytes)
            rc = kd_fail(diag, -KD_EDATA, "checkpoint %s has no optimiser state %u", row.path, v);
        else
            memcpy(state + v * floats, t->data, bytes);
    }
    kd_st_close(f);
    free(data);
    if (rc != 0) {
        free(vector);
        free(state);
        return rc;
    }
    *out_vector = vector;
    *out_state = state;
    return 0;
}

/* ---- opening and closing */

void kd_stage_store(kd_daemon *d, kd_job_record *j, uint32_t stage)
{
    kd_diag diag = {0};
    if (kd_state_set_stage(&d->state, j->row.id, stage, &j->stages[stage].row, &diag) != 0)
        kd_daemon_fatal(d, &diag);
}

static void fail_job(kd_daemon *d, kd_job_record *j, const char *text)
{
    kd_watch_event(d, j, "warning", "", NULL, "%s", text);
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_FAIL, .job = j->row.id, .text = text});
}

void kd_stage_open(kd_daemon *d, kd_job_record *j, uint32_t stage, const kd_begin *b)
{
    kd_stage_record *s = &j->stages[stage];
    const Distill__V1__StageInfo *i = s->info;
    char id[KD_ID_TEXT], path[4096];
    kd_id_text(j->row.id, id);
    snprintf(path, sizeof path, "%s/jobs/%s", d->state.dir, id);
    kd_diag diag = {0};
    float *vector = NULL, *state = NULL;
    int rc = kd_file_mkdirs(path, &diag);
    if (rc == 0 && b->version > 1)
        rc = load_checkpoint(d, j, stage, b->version, &vector, &state, &diag);
    if (rc != 0) {
        fail_job(d, j, diag.msg);
        return;
    }
    if (!s->exchange) {
        kd_exchange_config cfg = {.job = j->row.id,
                                  .stage = stage,
                                  .slots = i->slots,
                                  .chunk_floats = i->chunk_floats,
                                  .chunks = chunk_count(i),
                                  .vector_floats = vector_floats(i),
                                  .state_vectors = i->optimizer_vectors,
                                  .epoch_steps = epoch_steps(i),
                                  .last_version = b->last_version,
                                  .checkpoint_every = (uint64_t)j->spec.checkpoint_every,
                                  .val_samples = (uint32_t)i->val_samples,
                                  .eval_unit = KD_EVAL_UNIT};
        kd_exchange_events ev = {on_committed, on_snapshot, on_evaluated, on_divergence, d};
        s->exchange = kd_exchange_new(&cfg, &ev);
        list_exchange(d, j->row.id, stage, s->exchange);
    }
    s->loss = s->row.loss;
    s->correct = s->row.correct;
    s->samples = s->row.samples;
    s->version = b->version;
    s->last_commit = 0;
    if (!s->begun) {
        s->begun = kd_clock_ms();
        kd_watch_event(d, j, "stage", "", NULL,
                       "stage %s %s: %llu parameters, %llu training and %llu validation samples, "
                       "%u classes, %u worker(s)",
                       s->row.name, b->version > 1 ? "goes on" : "begins",
                       (unsigned long long)i->parameters, (unsigned long long)i->train_samples,
                       (unsigned long long)i->val_samples, i->classes, b->members);
    }
    j->phase = b->evaluate_first ? "evaluating" : "training";
    kd_exchange_open(s->exchange, b->generation, b->version, vector, state);
}

void kd_stage_close(kd_daemon *d, kd_job_record *j, uint32_t stage)
{
    kd_stage_record *s = &j->stages[stage];
    if (!s->exchange)
        return;
    kd_exchange_close(s->exchange);
    unlist_exchange(d, s->exchange);
    s->exchange = NULL;
}

void kd_stage_manifest(kd_daemon *d, kd_job_record *j, uint32_t stage, uint64_t version)
{
    kd_stage_record *s = &j->stages[stage];
    s->row.manifest = version;
    s->row.loss = s->pending_sums[0];
    s->row.correct = s->pending_sums[1];
    s->row.samples = s->pending_sums[2];
    kd_stage_store(d, j, stage);
    kd_diag diag = {0};
    if (kd_state_drop_checkpoints(&d->state, j->row.id, stage, version, &diag) != 0)
        kd_warn("%s", diag.msg);
    kd_watch_event(d, j, "checkpoint", "", NULL, "checkpoint of %s step %llu", s->row.name,
                   (unsigned long long)version - 1);
}

/* ---- the end of a stage */

const char *kd_stage_artefact_name(enum kd_stage_kind kind)
{
    static const char *const teachers[KD_MAX_TEACHERS] = {
        "teacher.safetensors", "teacher2.safetensors", "teacher3.safetensors",
        "teacher4.safetensors"};
    int teacher = kd_stage_teacher(kind);
    if (teacher >= 0)
        return teachers[teacher];
    return kind == KD_STAGE_DISTILL   ? "student.safetensors"
           : kind == KD_STAGE_SCRATCH ? "scratch.safetensors"
                                      : NULL;
}

void kd_stage_artefact_digest(kd_daemon *d, kd_job_record *j, enum kd_stage_kind kind, char out[33])
{
    kd_file_row row;
    kd_diag diag = {0};
    out[0] = '\0';
    if (kd_state_find_artefact(&d->state, j->row.id, kd_stage_artefact_name(kind), "-", &row,
                               &diag) == 1)
        memcpy(out, row.digest, 33);
}

/* The vector by its table, as one safetensors file. */
static int write_artefact(kd_daemon *d, kd_job_record *j, uint32_t stage, const float *vector,
                          kd_diag *diag)
{
    kd_stage_record *s = &j->stages[stage];
    json_t *table = json_loads(s->info->table, JSON_REJECT_DUPLICATES, NULL);
    size_t n = json_array_size(table);
    kd_st_item *items = kd_xalloc(n * sizeof *items);
    int rc = n ? 0 : kd_fail(diag, -KD_EDATA, "the stage's parameter table is empty or not JSON");
    for (size_t i = 0; i < n && rc == 0; i++) {
        json_t *row = json_array_get(table, i), *shape = json_object_get(row, "shape");
        kd_st_item *it = &items[i];
        it->name = json_string_value(json_object_get(row, "name"));
        int64_t offset = json_integer_value(json_object_get(row, "offset"));
        uint64_t count = 1;
        it->ndim = (int)json_array_size(shape);
        bool ok = it->name && it->ndim <= KD_ST_MAX_DIMS && offset >= 0;
        for (int k = 0; ok && k < it->ndim; k++) {
            it->shape[k] = json_integer_value(json_array_get(shape, (size_t)k));
            ok = it->shape[k] > 0 && !__builtin_mul_overflow(count, (uint64_t)it->shape[k], &count);
        }
        if (!ok || (uint64_t)offset > vector_floats(s->info) ||
            count > vector_floats(s->info) - (uint64_t)offset)
            rc = kd_fail(diag, -KD_EDATA, "row %zu of the parameter table is not within it", i);
        else
            it->data = vector + offset;
    }
    json_t *metadata = json_loads(s->info->metadata, JSON_REJECT_DUPLICATES, NULL);
    kd_st_pair pairs[64];
    size_t n_pairs = 0;
    char id[KD_ID_TEXT], path[4096];
    kd_id_text(j->row.id, id);
    pairs[n_pairs++] = (kd_st_pair){"format", "pt"};
    pairs[n_pairs++] = (kd_st_pair){"distilld.job", id};
    pairs[n_pairs++] = (kd_st_pair){"distilld.digest", s->row.digest};
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value)
    {
        if (json_is_string(value) && n_pairs < KD_COUNT(pairs))
            pairs[n_pairs++] = (kd_st_pair){key, json_string_value(value)};
    }
    kd_buf buf;
    kd_buf_init(&buf, (size_t)1 << 33);
    if (rc == 0)
        rc = kd_st_pack(items, n, pairs, n_pairs, &buf, diag);
    const char *name = kd_stage_artefact_name(s->kind);
    snprintf(path, sizeof path, "%s/jobs/%s/%s", d->state.dir, id, name);
    if (rc == 0)
        rc = kd_file_write(path, buf.data, buf.len, diag);
    if (rc == 0) {
        kd_digest digest = kd_digest_of(buf.data, buf.len);
        char hex[KD_DIGEST_HEX];
        kd_digest_hex(&digest, hex);
        rc = kd_state_add_file(&d->state, j->row.id, name, stage, 0, path, buf.len, hex, diag);
    }
    kd_buf_clear(&buf);
    json_decref(metadata);
    json_decref(table);
    free(items);
    return rc;
}

void kd_stage_finished(kd_daemon *d, kd_job_record *j, uint32_t stage)
{
    kd_stage_record *s = &j->stages[stage];
    kd_diag diag = {0};
    if (kd_stage_artefact_name(s->kind)) {
        float *vector = NULL, *state = NULL;
        uint64_t last = 1 + (uint64_t)s->info->epochs * epoch_steps(s->info);
        int rc = load_checkpoint(d, j, stage, last, &vector, &state, &diag);
        if (rc == 0) {
            kd_digest digest = kd_digest_of(vector, (size_t)vector_floats(s->info) * sizeof(float));
            kd_digest_hex(&digest, s->row.digest);
            rc = write_artefact(d, j, stage, vector, &diag);
        }
        free(vector);
        free(state);
        if (rc != 0) {
            fail_job(d, j, diag.msg);
            return;
        }
        if (kd_state_drop_checkpoints(&d->state, j->row.id, stage, UINT64_MAX, &diag) != 0)
            kd_warn("%s", diag.msg);
    }
    s->row.done = true;
    if (s->begun)
        s->row.seconds += (double)(kd_clock_ms() - s->begun) / 1000;
    s->begun = 0;
    kd_stage_store(d, j, stage);
    kd_watch_event(d, j, "stage", "", NULL, "stage %s done%s%s", s->row.name,
                   s->row.digest[0] ? ": digest " : "", s->row.digest);
}

/* ---- export: result.json */

/* Wilson's score interval at 95 %. */
static void wilson(uint32_t correct, uint32_t n, double *lo, double *hi)
{
    const double z = 1.959963984540054;
    double p = n ? (double)correct / n : 0, d = 1 + z * z / (n ? n : 1);
    double mid = p + z * z / (2.0 * (n ? n : 1));
    double half = z * sqrt(n ? p * (1 - p) / n + z * z / (4.0 * n * n) : 0);
    *lo = (mid - half) / d;
    *hi = (mid + half) / d;
}

static json_t *describe(kd_daemon *d, kd_job_record *j, const kd_stage_record *s, uint32_t stage,
                        const char *name)
{
    const kd_epoch_row *last = NULL, *best = NULL;
    for (int i = 0; i < j->n_epochs; i++) {
        const kd_epoch_row *e = &j->epochs[i];
        if (e->stage != stage)
            continue;
        last = e;
        if (!best || (uint64_t)e->val_correct * best->val_samples >
                         (uint64_t)best->val_correct * e->val_samples)
            best = e;
    }
    kd_file_row file = {0};
    kd_diag diag = {0};
    (void)!kd_state_find_artefact(&d->state, j->row.id, kd_stage_artefact_name(s->kind), "-", &file,
                                  &diag);
    double ms = 0, lo = 0, hi = 1;
    json_t *costs = json_loads(j->costs[0] ? j->costs : "[]", 0, NULL), *cost;
    size_t k;
    json_array_foreach(costs, k, cost)
    {
        const char *of = json_string_value(json_object_get(cost, "name"));
        if (of && strcmp(of, name) == 0)
            ms = json_real_value(json_object_get(cost, "ms_per_image"));
    }
    json_decref(costs);
    if (last)
        wilson(last->val_correct, last->val_samples, &lo, &hi);
    double accuracy = last && last->val_samples ? (double)last->val_correct / last->val_samples : 0;
    double best_accuracy =
        best && best->val_samples ? (double)best->val_correct / best->val_samples : 0;
    return json_pack("{s:s, s:f, s:[f,f], s:i, s:i, s:f, s:i, s:I, s:I, s:f, s:s, s:f}", "model",
                     s->info->model, "accuracy", accuracy, "interval", lo, hi, "correct",
                     last ? (int)last->val_correct : 0, "samples",
                     last ? (int)last->val_samples : 0, "best_accuracy", best_accuracy,
                     "best_epoch", best ? (int)best->epoch : 0, "parameters",
                     (json_int_t)s->info->parameters, "bytes", (json_int_t)file.size,
                     "ms_per_image", ms, "digest", s->row.digest, "seconds", s->row.seconds);
}

void kd_stage_export(kd_daemon *d, kd_job_record *j, uint32_t stage)
{
    char id[KD_ID_TEXT], path[4096];
    kd_id_text(j->row.id, id);
    json_t *result = json_pack("{s:s, s:s}", "job", id, "name", j->row.name);
    uint64_t images = 0;
    const Distill__V1__StageInfo *info = NULL;
    for (int i = 0; i < j->n_stages; i++) {
        kd_stage_record *s = &j->stages[i];
        const char *name = s->kind == KD_STAGE_TEACHER   ? "teacher"
                           : s->kind == KD_STAGE_DISTILL ? "student"
                           : s->kind == KD_STAGE_SCRATCH ? "scratch"
                                                         : NULL;
        if (!name || !s->info)
            continue;
        info = s->info;
        images += s->info->train_samples * s->info->epochs;
        json_object_set_new(result, name, describe(d, j, s, (uint32_t)i, name));
        if (s->kind == KD_STAGE_DISTILL)
            json_object_set_new(result, "digest", json_string(s->row.digest));
    }
    double seconds = (double)(kd_clock_wall_ms() - j->row.started_ms) / 1000;
    json_object_set_new(result, "images", json_integer((json_int_t)images));
    json_object_set_new(result, "seconds", json_real(seconds));
    if (info)
        json_object_set_new(
            result, "data",
            json_pack("{s:s, s:s, s:I, s:I, s:i}", "path", j->spec.data.path, "digest",
                      info->data_digest, "train", (json_int_t)info->train_samples, "val",
                      (json_int_t)info->val_samples, "classes", (int)info->classes));
    char *text = json_dumps(result, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(result);
    snprintf(path, sizeof path, "%s/jobs/%s/result.json", d->state.dir, id);
    kd_diag diag = {0};
    int rc = text ? 0 : kd_fail(&diag, -KD_ENOMEM, "no memory for result.json");
    if (rc == 0)
        rc = kd_file_write(path, text, strlen(text), &diag);
    if (rc == 0) {
        kd_digest digest = kd_digest_of(text, strlen(text));
        char hex[KD_DIGEST_HEX];
        kd_digest_hex(&digest, hex);
        rc = kd_state_add_file(&d->state, j->row.id, "result.json", stage, 0, path, strlen(text),
                               hex, &diag);
    }
    if (rc == 0) {
        free(j->row.result);
        j->row.result = text;
        text = NULL;
    }
    free(text);
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_EXPORTED,
                                   .job = j->row.id,
                                   .stage = stage,
                                   .text = rc == 0 ? NULL : diag.msg});
}

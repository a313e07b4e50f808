/* A running stage to its end: opening a generation, closing it, its networks. */
#include "stages_internal.h"

#include "kd/file.h"
#include "kd/log.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* ---- opening and closing */

kd_stage_record *kd_stage_record_of(kd_daemon *d, kd_job_id job, uint32_t stage,
                                    kd_job_record **out_job)
{
    kd_job_record *j = kd_daemon_job(d, job);
    *out_job = j;
    return j && stage < (uint32_t)j->n_stages ? &j->stages[stage] : NULL;
}

void kd_stage_count_step(kd_stage_record *s, uint64_t version, const kd_step_totals *t)
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
                              .chunks = kd_stage_chunks(i),
                              .vector_floats = kd_stage_vector_floats(i),
                              .state_vectors = i->optimizer_vectors,
                              .eval_steps = kd_stage_eval_steps(i),
                              .last_version = last_version,
                              .checkpoint_every = (uint64_t)j->spec.checkpoint_every,
                              .val_samples = (uint32_t)i->val_samples,
                              .eval_unit = KD_EVAL_UNIT,
                              .n_terms = (uint32_t)(2 * i->n_terms),
                              .bfloat16 = kd_job_train(&j->spec, s->kind)->bfloat16_gradients,
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
    kd_exchange_events ev;
    kd_stage_news(d, &ev);
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
        kd_journal_open(prefix, &identity, kd_stage_chunks(s->info), s->info->chunk_floats,
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
            kd_stage_count_step(s, step + 1, &totals);
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

void kd_stage_lose_checkpoint(kd_daemon *d, kd_job_record *j, uint32_t stage, const kd_diag *why)
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
    while (rc == -KD_ELIMIT && kd_room_make(&d->room, true))
        rc = kd_file_mkdirs(path, &diag);
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
            kd_stage_lose_checkpoint(d, j, stage, &diag);
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
    kd_exchange_look_at(s->exchange, &look);
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_STEP,
                                   .job = j->row.id,
                                   .stage = stage,
                                   .generation = s->generation,
                                   .step = look.step});
    kd_exchange_look_clear(&look);
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
    /* The loop alone changes the list. */
    for (const kd_exchange_entry *e = d->exchanges; e; e = e->next) {
        kd_job_record *j;
        kd_stage_record *s = kd_stage_record_of(d, e->job, e->stage, &j);
        if (!s || !s->exchange)
            continue;
        if (s->blocked[0])
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
    if (s->meter)
        s->meter->saved = kd_clock_ms();
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
    /* Of a network on its way to be pruned or rounded an earlier version is another network. */
    if (rc == 0 && s->info->epochs > 0 && s->row.best_version && kd_stage_tune(s->kind) < 0) {
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
    bool student = s->kind == KD_STAGE_DISTILL || s->kind == KD_STAGE_SCRATCH;
    bool keep = done && s->info && student;
    if (kd_state_keep_checkpoints(&d->state, j->row.id, stage, keep ? kd_stage_last_version(s) : 0,
                                  keep ? s->row.best_version : 0, &diag) != 0)
        kd_warn("old checkpoints stay: %s", diag.msg);
}

void kd_stage_finished(kd_daemon *d, kd_job_record *j, uint32_t stage)
{
    kd_stage_record *s = &j->stages[stage];
    kd_diag diag = {0};
    if (kd_stage_makes(s->kind)) {
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

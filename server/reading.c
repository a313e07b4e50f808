/* Jobs, workers and the coordinator itself, as messages. */
#include "reading.h"
#include "sweep.h"

#include "kd/file.h"
#include "kd/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct summary {
    Distill__V1__JobSummary m;
    Distill__V1__Progress progress;
    char id[KD_ID_TEXT], sweep[KD_ID_TEXT], reason[KD_CORE_TEXT];
};

/* What a running job waits for, as one of its workers has said: it is no state of its own. */
static void tell_waiting(const kd_daemon *d, const kd_job_record *j, char *reason, size_t size)
{
    for (const kd_worker_record *w = d->workers; w && j->row.state == KD_RUN_RUNNING; w = w->next)
        if (w->joined && w->waits[0] && w->beat_job == j->row.id) {
            snprintf(reason, size, "%s (worker %s)", w->waits, w->name);
            return;
        }
}

static void summarise(kd_daemon *d, kd_job_record *j, struct summary *s)
{
    distill__v1__job_summary__init(&s->m);
    kd_id_text(j->row.id, s->id);
    snprintf(s->reason, sizeof s->reason, "%s", j->row.reason);
    if (!s->reason[0])
        tell_waiting(d, j, s->reason, sizeof s->reason);
    s->m.job = s->id;
    s->m.name = j->row.name;
    s->m.owner = j->row.owner;
    s->m.state = (Distill__V1__JobState)(j->row.state + 1);
    s->m.reason = s->reason;
    s->m.submitted_ms = j->row.submitted_ms;
    s->m.started_ms = j->row.started_ms;
    s->m.finished_ms = j->row.finished_ms;
    if (kd_watch_progress(d, j, &s->progress))
        s->m.progress = &s->progress;
    if (j->row.sweep) {
        kd_id_text(j->row.sweep, s->sweep);
        s->m.sweep = s->sweep;
        s->m.label = j->row.label ? j->row.label : "";
    }
    s->m.paused = kd_wish_paused(d, j);
    s->m.priority = j->spec.priority;
    s->m.min_workers = kd_job_min_workers(j);
    s->m.max_workers = kd_job_max_workers(j);
    for (kd_job_record *o = NULL; j->row.is_sweep && (o = kd_sweep_next(d, j, o));) {
        s->m.children++;
        s->m.children_over += o->row.state >= KD_RUN_SUCCEEDED;
    }
}

void kd_tell_summary(kd_daemon *d, kd_job_record *j, kd_tell_fn fn, void *arg)
{
    struct summary s = {0};
    summarise(d, j, &s);
    fn(arg, &s.m);
}

struct summary_list {
    struct summary *items;
    Distill__V1__JobSummary **list;
    size_t n, bytes;
};

/* False when a message holds no more of them. */
static bool add_summary(kd_daemon *d, kd_job_record *j, struct summary_list *l)
{
    struct summary *s = &l->items[l->n];
    summarise(d, j, s);
    l->bytes += protobuf_c_message_get_packed_size(&s->m.base) + 8;
    if (l->bytes > KD_MAX_CONTROL_BYTES - 4096)
        return false;
    l->list[l->n++] = &s->m;
    return true;
}

/* A job, or a sweep and its jobs. */
static bool add_entry(kd_daemon *d, kd_job_record *j, struct summary_list *l)
{
    bool room = add_summary(d, j, l);
    for (kd_job_record *o = NULL; room && j->row.is_sweep && (o = kd_sweep_next(d, j, o));)
        room = add_summary(d, o, l);
    return room;
}

/* What a list begins an entry with: jobs of no sweep, of those that the caller may read. */
static bool is_listed(const kd_daemon *d, const kd_pki_identity *who, const kd_job_record *j)
{
    return j->row.sweep == 0 && kd_access_may_read(d->access, who, j->row.owner);
}

void kd_tell_list(kd_daemon *d, const kd_pki_identity *who, uint32_t limit,
                  const kd_job_record *before, kd_tell_fn fn, void *arg)
{
    size_t most = limit ? KD_MIN(limit, 1000u) : 100, all = 0, tops = 0;
    for (kd_job_record *j = d->jobs; j; j = j->next, all++)
        tops += is_listed(d, who, j);
    kd_job_record **top = kd_xalloc((tops + 1) * sizeof *top);
    struct summary_list l = {.items = kd_xalloc((all + 1) * sizeof *l.items),
                             .list = kd_xalloc((all + 1) * sizeof *l.list)};
    size_t n = 0;
    for (kd_job_record *j = d->jobs; j && j != before; j = j->next)
        if (is_listed(d, who, j))
            top[n++] = j;
    size_t left = n;
    for (const size_t end = n - KD_MIN(n, most); left > end; left--) {
        const size_t whole = l.n;
        if (!add_entry(d, top[left - 1], &l)) {
            l.n = whole; /* a sweep comes with all of its jobs */
            break;
        }
    }
    Distill__V1__ListReply reply = DISTILL__V1__LIST_REPLY__INIT;
    reply.more = left > 0;
    reply.jobs = l.list;
    reply.n_jobs = l.n;
    fn(arg, &reply);
    free(l.list);
    free(l.items);
    free(top);
}

struct artefact_list {
    Distill__V1__Artefact items[32];
    Distill__V1__Artefact *list[32];
    kd_file_row rows[32];
    size_t n;
};

static int add_artefact(void *arg, const kd_file_row *row)
{
    struct artefact_list *l = arg;
    if (l->n == KD_COUNT(l->items))
        return 0;
    l->rows[l->n] = *row;
    Distill__V1__Artefact *a = &l->items[l->n];
    distill__v1__artefact__init(a);
    a->name = l->rows[l->n].name;
    a->digest = l->rows[l->n].digest;
    a->size = row->size;
    l->list[l->n++] = a;
    return 0;
}

static void fill_epoch(const kd_epoch_row *row, Distill__V1__EpochRecord *m)
{
    distill__v1__epoch_record__init(m);
    m->epoch = row->epoch;
    m->train_loss = row->train_loss;
    m->train_accuracy = row->train_accuracy;
    m->val_loss = row->val_loss;
    m->val_correct = row->val_correct;
    m->val_samples = row->val_samples;
    m->step = row->step;
    m->val_agree = row->val_agree;
    m->val_kl = row->val_kl;
    m->learning_rate = row->learning_rate;
    m->best = row->best;
    m->shares = (double *)row->shares;
    m->term_losses = (double *)row->term_losses;
    m->n_shares = m->n_term_losses = row->n_terms;
}

struct names {
    char text[KD_MAX_NAMED_WORKERS][65], *list[KD_MAX_NAMED_WORKERS];
};

/* Workers that events of a kind name. */
static size_t list_names(kd_daemon *d, kd_job_id job, const char *kind, struct names *t)
{
    kd_diag diag = {0};
    int n = kd_state_event_workers(&d->state, job, kind, t->text, KD_COUNT(t->text), &diag);
    if (n < 0)
        kd_warn("%s", diag.msg);
    for (int i = 0; i < n; i++)
        t->list[i] = t->text[i];
    return n < 0 ? 0 : (size_t)n;
}

struct detail {
    Distill__V1__StageRecord stages[KD_MAX_STAGES], *stage_list[KD_MAX_STAGES];
    char shared[KD_MAX_STAGES][KD_ID_TEXT];
    char continued[KD_ID_TEXT], replayed[KD_ID_TEXT];
    struct artefact_list artefacts;
    struct summary summary;
    struct summary_list jobs;
    struct names slow, quarantined;
    Distill__V1__EpochRecord *epochs, **epoch_list;
};

static void fill_stage(const kd_job_record *j, int i, bool running, struct detail *t, size_t *e)
{
    const kd_stage_record *s = &j->stages[i];
    Distill__V1__StageRecord *m = t->stage_list[i] = &t->stages[i];
    distill__v1__stage_record__init(m);
    m->name = (char *)s->row.name;
    m->state = s->row.done ? "done" : running ? "running" : "pending";
    m->digest = (char *)s->row.digest;
    m->fingerprint = (char *)s->row.fingerprint;
    m->seconds = s->row.seconds;
    m->teacher_forwards = s->row.teacher_forwards;
    m->bank_hits = s->row.bank_hits;
    m->teacher_seconds = s->row.teacher_seconds;
    m->best_digest = (char *)s->row.best_digest;
    m->stopped_early = s->row.stopped_early;
    m->best_epoch = s->row.best_epoch;
    m->steps_redone = s->row.steps_redone;
    m->lost_ms_worker_faults = s->row.lost_ms_workers;
    m->lost_ms_all = s->row.lost_ms_all;
    if (s->row.shared) {
        kd_id_text(s->row.shared, t->shared[i]);
        m->shared = t->shared[i];
    }
    if (s->info && s->kind != KD_STAGE_EVALUATE) {
        m->parameters = s->info->parameters;
        m->terms = s->info->terms;
        m->n_terms = s->info->n_terms;
        m->steps = kd_stage_last_version(s) - 1;
        m->committed = s->row.done ? m->steps : s->version ? s->version - 1 : 0;
    }
    m->epochs = t->epoch_list + *e;
    for (int k = 0; k < j->n_epochs; k++) {
        if (j->epochs[k].stage != (uint32_t)i)
            continue;
        fill_epoch(&j->epochs[k], &t->epochs[*e]);
        t->epoch_list[*e] = &t->epochs[*e];
        ++*e;
        m->n_epochs++;
    }
}

/* Every second evaluation goes as long as the message is too large, the last and the best stay. */
static bool thin_out(Distill__V1__JobDetail *m)
{
    bool thinner = false;
    for (size_t i = 0; i < m->n_stages; i++) {
        Distill__V1__StageRecord *s = m->stages[i];
        size_t kept = 0;
        for (size_t k = 0; k < s->n_epochs; k++)
            if (k % 2 == 0 || k + 1 == s->n_epochs || s->epochs[k]->best)
                s->epochs[kept++] = s->epochs[k];
        thinner |= kept < s->n_epochs;
        s->n_epochs = kept;
    }
    return thinner;
}

void kd_tell_detail(kd_daemon *d, kd_job_record *j, kd_tell_fn fn, void *arg)
{
    Distill__V1__JobDetail reply = DISTILL__V1__JOB_DETAIL__INIT;
    struct detail *t = kd_xalloc(sizeof *t);
    t->epochs = kd_xalloc(((size_t)j->n_epochs + 1) * sizeof *t->epochs);
    t->epoch_list = kd_xalloc(((size_t)j->n_epochs + 1) * sizeof *t->epoch_list);
    kd_core_view view = {0};
    bool running = j->row.state == KD_RUN_RUNNING && kd_core_job_view(d->core, j->row.id, &view);
    size_t e = 0;
    for (int i = 0; i < j->n_stages; i++)
        fill_stage(j, i, running && view.stage == (uint32_t)i, t, &e);
    kd_diag diag = {0};
    if (kd_state_each_artefact(&d->state, j->row.id, add_artefact, &t->artefacts, &diag) != 0)
        kd_warn("%s", diag.msg);
    summarise(d, j, &t->summary);
    reply.summary = &t->summary.m;
    reply.resolved = j->row.resolved;
    reply.text = j->row.text ? j->row.text : "";
    reply.stages = t->stage_list;
    reply.n_stages = (size_t)j->n_stages;
    reply.artefacts = t->artefacts.list;
    reply.n_artefacts = t->artefacts.n;
    reply.result = j->row.result ? j->row.result : "";
    if (j->row.continued) {
        kd_id_text(j->row.continued, t->continued);
        reply.continued = t->continued;
    }
    if (j->row.replayed) {
        kd_id_text(j->row.replayed, t->replayed);
        reply.replayed = t->replayed;
    }
    reply.n_slow = list_names(d, j->row.id, "slow", &t->slow);
    reply.slow = t->slow.list;
    reply.n_quarantined = list_names(d, j->row.id, "quarantine", &t->quarantined);
    reply.quarantined = t->quarantined.list;
    if (j->row.is_sweep) {
        t->jobs.items = kd_xalloc((t->summary.m.children + 1) * sizeof *t->jobs.items);
        t->jobs.list = kd_xalloc((t->summary.m.children + 1) * sizeof *t->jobs.list);
        for (kd_job_record *o = NULL; (o = kd_sweep_next(d, j, o));)
            if (!add_summary(d, o, &t->jobs))
                break;
        reply.jobs = t->jobs.list;
        reply.n_jobs = t->jobs.n;
    }
    while (protobuf_c_message_get_packed_size(&reply.base) > KD_MAX_CONTROL_BYTES) {
        if (thin_out(&reply))
            continue;
        if (reply.text[0] == '\0')
            break;
        reply.text = ""; /* the resolved job says the same */
    }
    fn(arg, &reply);
    free(t->jobs.items);
    free(t->jobs.list);
    free(t->epoch_list);
    free(t->epochs);
    free(t);
}

struct worker_info {
    Distill__V1__WorkerInfo m;
    char job[KD_ID_TEXT];
};

static void describe_worker(const kd_daemon *d, kd_worker_record *w, struct worker_info *out)
{
    Distill__V1__WorkerInfo *m = &out->m;
    distill__v1__worker_info__init(m);
    const char *state;
    kd_job_id job = kd_core_member_job(d->core, w->id, &state);
    out->job[0] = '\0';
    if (job)
        kd_id_text(job, out->job);
    m->name = w->name;
    m->address = w->address;
    m->state = (char *)state;
    m->job = out->job;
    m->threads = w->threads;
    m->cpu = w->cpu;
    m->blas = w->blas;
    m->isa = w->isa;
    m->numerics = w->numerics;
    m->seen_ms = w->seen_wall_ms;
    m->units_per_second = w->units_rate;
    m->version = w->version;
    m->resident_bytes = w->resident_bytes;
    m->descriptors = w->descriptors;
    m->slow = kd_core_member_slow(d->core, w->id);
}

void kd_tell_worker(kd_daemon *d, kd_worker_record *w, kd_tell_fn fn, void *arg)
{
    struct worker_info info;
    describe_worker(d, w, &info);
    fn(arg, &info.m);
}

void kd_tell_workers(kd_daemon *d, kd_tell_fn fn, void *arg)
{
    size_t n = 0, i = 0;
    for (kd_worker_record *w = d->workers; w; w = w->next)
        n += w->joined;
    struct worker_info *items = kd_xalloc(n * sizeof *items);
    Distill__V1__WorkerInfo **list = kd_xalloc(n * sizeof *list);
    for (kd_worker_record *w = d->workers; w; w = w->next) {
        if (!w->joined)
            continue;
        describe_worker(d, w, &items[i]);
        list[i] = &items[i].m;
        i++;
    }
    Distill__V1__WorkersReply reply = DISTILL__V1__WORKERS_REPLY__INIT;
    reply.workers = list;
    reply.n_workers = n;
    fn(arg, &reply);
    free(list);
    free(items);
}

void kd_tell_info(kd_daemon *d, kd_tell_fn fn, void *arg)
{
    Distill__V1__InfoReply reply = DISTILL__V1__INFO_REPLY__INIT;
    reply.version = KD_VERSION;
    reply.protocol = KD_PROTOCOL;
    reply.epoch = d->state.epoch;
    reply.started_ms = d->started_wall_ms;
    reply.state_dir = d->state.dir;
    kd_bank_totals bank = kd_bank_store_totals(d->bank);
    reply.free_bytes = kd_file_free_bytes(d->state.dir);
    reply.min_free_bytes = d->room.min_free;
    reply.banks = bank.banks;
    reply.bank_records = bank.records;
    reply.bank_bytes = bank.bytes;
    Distill__V1__JobCounts jobs = DISTILL__V1__JOB_COUNTS__INIT;
    jobs.queued = (uint32_t)d->jobs_in[KD_RUN_QUEUED];
    jobs.running = (uint32_t)d->jobs_in[KD_RUN_RUNNING];
    jobs.succeeded = (uint32_t)d->jobs_in[KD_RUN_SUCCEEDED];
    jobs.failed = (uint32_t)d->jobs_in[KD_RUN_FAILED];
    jobs.cancelled = (uint32_t)d->jobs_in[KD_RUN_CANCELLED];
    reply.jobs = &jobs;
    fn(arg, &reply);
}

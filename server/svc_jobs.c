/* Service Jobs: what clients call. Every call is carried to the loop and answered there. */
#include "daemon.h"
#include "sweep.h"

#include "kd/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct job_call {
    kd_rpc_call *call;
    ProtobufCMessage *m;
    uint8_t *payload; /* of Upload */
    size_t payload_len;
    void (*handle)(kd_daemon *d, struct job_call *c);
};

static void free_call(struct job_call *c)
{
    kd_rpc_call_unref(c->call);
    kd_wire_free(c->m);
    free(c->payload);
    free(c);
}

static void loop_call(kd_daemon *d, void *arg)
{
    struct job_call *c = arg;
    c->handle(d, c);
    free_call(c);
}

static void post(kd_daemon *d, kd_rpc_call *call, ProtobufCMessage *m, const uint8_t *payload,
                 size_t payload_len, void (*handle)(kd_daemon *, struct job_call *))
{
    struct job_call *c = kd_xalloc(sizeof *c);
    c->call = kd_rpc_call_ref(call);
    c->m = m;
    c->handle = handle;
    if (payload_len) {
        c->payload = malloc(payload_len);
        if (c->payload)
            memcpy(c->payload, payload, payload_len);
        c->payload_len = c->payload ? payload_len : 0;
    }
    if (!kd_daemon_post(d, loop_call, c)) {
        kd_rpc_finish(call, -KD_EUNAVAIL, "the coordinator is stopping");
        free_call(c);
    }
}

/* ---- finding jobs */

kd_job_record *kd_job_find(kd_daemon *d, const char *text, kd_diag *diag)
{
    size_t n = strlen(text);
    kd_job_record *found = NULL;
    char id[KD_ID_TEXT];
    for (kd_job_record *j = d->jobs; j && n >= 4; j = j->next) {
        kd_id_text(j->row.id, id);
        if (n > KD_ID_TEXT - 1 || strncmp(id, text, n) != 0)
            continue;
        if (found) {
            (void)kd_fail(diag, -KD_EINVAL, "more than one job begins with %.12s; give more digits",
                          text);
            return NULL;
        }
        found = j;
    }
    if (!found)
        (void)kd_fail(diag, -KD_ENOENT,
                      "no job %.64s here; a job is named by its id or the first digits of it, at "
                      "least 4 (`distill jobs` lists them)",
                      text);
    return found;
}

static kd_job_record *find_job(kd_daemon *d, kd_rpc_call *call, const char *text)
{
    kd_diag diag = {0};
    kd_job_record *j = kd_job_find(d, text, &diag);
    if (!j)
        kd_rpc_finish_diag(call, &diag);
    return j;
}

struct summary {
    Distill__V1__JobSummary m;
    Distill__V1__Progress progress;
    char id[KD_ID_TEXT], sweep[KD_ID_TEXT], reason[KD_CORE_TEXT];
};

static void summarise(kd_daemon *d, kd_job_record *j, struct summary *s)
{
    distill__v1__job_summary__init(&s->m);
    kd_id_text(j->row.id, s->id);
    snprintf(s->reason, sizeof s->reason, "%s", j->row.reason);
    s->m.job = s->id;
    s->m.name = j->row.name;
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

static void do_upload(kd_daemon *d, struct job_call *c)
{
    Distill__V1__UploadReply reply = DISTILL__V1__UPLOAD_REPLY__INIT;
    kd_diag diag = {0};
    if (kd_blob_add_piece(d, (Distill__V1__BlobChunk *)c->m, c->payload, c->payload_len, &reply,
                          &diag) != 0)
        kd_rpc_finish_diag(c->call, &diag);
    else
        kd_answer(c->call, &reply);
}

/* ---- reading */

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

/* Newest first. A sweep is followed by its jobs, which do not count. */
static void do_list(kd_daemon *d, struct job_call *c)
{
    const Distill__V1__ListRequest *r = (Distill__V1__ListRequest *)c->m;
    size_t limit = r->limit ? KD_MIN(r->limit, 1000u) : 100, all = 0, tops = 0;
    for (kd_job_record *j = d->jobs; j; j = j->next, all++)
        tops += j->row.sweep == 0;
    kd_job_record **top = kd_xalloc((tops + 1) * sizeof *top);
    struct summary_list l = {.items = kd_xalloc((all + 1) * sizeof *l.items),
                             .list = kd_xalloc((all + 1) * sizeof *l.list)};
    size_t at = tops;
    for (kd_job_record *j = d->jobs; j; j = j->next)
        if (j->row.sweep == 0)
            top[--at] = j;
    bool room = true;
    for (size_t i = 0; i < KD_MIN(tops, limit) && room; i++) {
        room = add_summary(d, top[i], &l);
        for (kd_job_record *o = NULL;
             room && top[i]->row.is_sweep && (o = kd_sweep_next(d, top[i], o));)
            room = add_summary(d, o, &l);
    }
    Distill__V1__ListReply reply = DISTILL__V1__LIST_REPLY__INIT;
    reply.jobs = l.list;
    reply.n_jobs = l.n;
    kd_answer(c->call, &reply);
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

static void do_get(kd_daemon *d, struct job_call *c)
{
    kd_job_record *j = find_job(d, c->call, ((Distill__V1__JobRequest *)c->m)->job);
    if (!j)
        return;
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
    kd_answer(c->call, &reply);
    free(t->jobs.items);
    free(t->jobs.list);
    free(t->epoch_list);
    free(t->epochs);
    free(t);
}

static void do_watch(kd_daemon *d, struct job_call *c)
{
    const Distill__V1__WatchRequest *r = (Distill__V1__WatchRequest *)c->m;
    kd_job_record *j = find_job(d, c->call, r->job);
    if (!j)
        return;
    kd_watcher *w = kd_xalloc(sizeof *w);
    *w = (kd_watcher){.call = kd_rpc_call_ref(c->call),
                      .job = j->row.id,
                      .next_seq = r->from_seq,
                      .follow = r->follow,
                      .progress = r->progress && r->follow};
    kd_watch_add(d, w);
}

static void loop_unwatch(kd_daemon *d, void *arg)
{
    kd_watch_drop(d, arg);
    kd_rpc_call_unref(arg);
}

static void watch_closed(kd_rpc_call *call, bool cancelled, void *arg)
{
    (void)cancelled;
    kd_rpc_call_ref(call);
    if (!kd_daemon_post(arg, loop_unwatch, call))
        kd_rpc_call_unref(call);
}

static void do_fetch(kd_daemon *d, struct job_call *c)
{
    const Distill__V1__FetchRequest *r = (Distill__V1__FetchRequest *)c->m;
    kd_job_record *j = find_job(d, c->call, r->job);
    if (!j)
        return;
    kd_file_row row;
    kd_diag diag = {0};
    int rc = kd_state_find_artefact(&d->state, j->row.id, r->name, "-", &row, &diag);
    if (rc == 0)
        rc = kd_fail(&diag, -KD_ENOENT, "the job has no artefact %.64s", r->name);
    else if (rc == 1)
        rc = kd_send_file_piece(c->call, row.path, row.digest, r->offset, &diag);
    if (rc != 0)
        kd_rpc_finish_diag(c->call, &diag);
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
    m->slow = kd_core_member_slow(d->core, w->id);
}

static void do_workers(kd_daemon *d, struct job_call *c)
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
    kd_answer(c->call, &reply);
    free(list);
    free(items);
}

struct digest_list {
    const kd_job_record *j;
    Distill__V1__VersionDigest *items, **list;
    char (*text)[33];
    size_t n;
};

static int add_digest(void *arg, uint32_t stage, uint64_t version, const char *digest)
{
    struct digest_list *l = arg;
    if (stage >= (uint32_t)l->j->n_stages)
        return 0;
    if (l->n == KD_MAX_DIGESTS)
        return 1;
    Distill__V1__VersionDigest *m = l->list[l->n] = &l->items[l->n];
    distill__v1__version_digest__init(m);
    snprintf(l->text[l->n], sizeof *l->text, "%s", digest);
    m->stage = (char *)l->j->stages[stage].row.name;
    m->step = version - 1;
    m->digest = l->text[l->n++];
    return 0;
}

static void do_digests(kd_daemon *d, struct job_call *c)
{
    kd_job_record *j = find_job(d, c->call, ((Distill__V1__JobRequest *)c->m)->job);
    kd_diag diag = {0};
    if (!j)
        return;
    struct digest_list l = {.j = j,
                            .items = kd_xalloc(KD_MAX_DIGESTS * sizeof *l.items),
                            .list = kd_xalloc(KD_MAX_DIGESTS * sizeof *l.list),
                            .text = kd_xalloc(KD_MAX_DIGESTS * sizeof *l.text)};
    if (kd_state_each_digest(&d->state, j->row.id, add_digest, &l, &diag) < 0) {
        kd_rpc_finish_diag(c->call, &diag);
    } else {
        Distill__V1__DigestsReply reply = DISTILL__V1__DIGESTS_REPLY__INIT;
        reply.digests = l.list;
        reply.n_digests = l.n;
        kd_answer(c->call, &reply);
    }
    free(l.items);
    free(l.list);
    free(l.text);
}

static void do_info(kd_daemon *d, struct job_call *c)
{
    Distill__V1__InfoReply reply = DISTILL__V1__INFO_REPLY__INIT;
    reply.version = KD_VERSION;
    reply.protocol = KD_PROTOCOL;
    reply.epoch = d->state.epoch;
    reply.started_ms = d->started_wall_ms;
    reply.state_dir = d->state.dir;
    kd_answer(c->call, &reply);
}

/* ---- changing */

static void answer_summary(kd_daemon *d, kd_rpc_call *call, kd_job_record *j)
{
    struct summary s = {0};
    summarise(d, j, &s);
    kd_answer(call, &s.m);
}

static void do_cancel(kd_daemon *d, struct job_call *c)
{
    kd_job_record *j = find_job(d, c->call, ((Distill__V1__JobRequest *)c->m)->job);
    if (!j)
        return;
    if (j->row.state >= KD_RUN_SUCCEEDED) {
        kd_rpc_finish(c->call, -KD_ESTATE, "the job is over already");
        return;
    }
    char text[KD_CORE_TEXT];
    snprintf(text, sizeof text, "cancelled by %s", kd_rpc_call_peer(c->call).address);
    if (j->row.is_sweep)
        kd_sweep_cancel(d, j, text);
    else
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_CANCEL, .job = j->row.id, .text = text});
    answer_summary(d, c->call, j);
}

static void pause_or_resume(kd_daemon *d, struct job_call *c, bool pause)
{
    kd_job_record *j = find_job(d, c->call, ((Distill__V1__JobRequest *)c->m)->job);
    kd_diag diag = {0};
    if (!j)
        return;
    if (kd_wish_pause(d, j, pause, kd_rpc_call_peer(c->call).address, &diag) != 0)
        kd_rpc_finish_diag(c->call, &diag);
    else
        answer_summary(d, c->call, j);
}

static void do_pause(kd_daemon *d, struct job_call *c)
{
    pause_or_resume(d, c, true);
}

static void do_resume(kd_daemon *d, struct job_call *c)
{
    pause_or_resume(d, c, false);
}

static void do_scale(kd_daemon *d, struct job_call *c)
{
    const Distill__V1__ScaleRequest *r = (Distill__V1__ScaleRequest *)c->m;
    kd_job_record *j = find_job(d, c->call, r->job);
    kd_diag diag = {0};
    if (!j)
        return;
    if (kd_wish_scale(d, j, r->min_workers, r->max_workers, kd_rpc_call_peer(c->call).address,
                      &diag) != 0)
        kd_rpc_finish_diag(c->call, &diag);
    else
        answer_summary(d, c->call, j);
}

static void do_drain(kd_daemon *d, struct job_call *c)
{
    const Distill__V1__DrainRequest *r = (Distill__V1__DrainRequest *)c->m;
    kd_diag diag = {0};
    kd_worker_record *w =
        kd_wish_drain(d, r->worker, r->undo, kd_rpc_call_peer(c->call).address, &diag);
    struct worker_info info;
    if (!w) {
        kd_rpc_finish_diag(c->call, &diag);
        return;
    }
    describe_worker(d, w, &info);
    kd_answer(c->call, &info.m);
}

/* Takes the record out of the list and out of the core. */
static void forget(kd_daemon *d, kd_job_record *j)
{
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_FORGET, .job = j->row.id});
    kd_job_record **at = &d->jobs;
    while (*at != j)
        at = &(*at)->next;
    *at = j->next;
}

static int check_removable(const kd_job_record *j, kd_diag *diag)
{
    char sweep[KD_ID_TEXT];
    kd_id_text(j->row.sweep, sweep);
    if (j->row.sweep)
        return kd_fail(diag, -KD_ESTATE, "the job belongs to sweep %s; remove that", sweep);
    if (j->row.state <= KD_RUN_RUNNING)
        return kd_fail(diag, -KD_ESTATE, "the job is not over; cancel it first");
    return 0;
}

/* A sweep goes with all of its jobs. */
static void do_remove(kd_daemon *d, struct job_call *c)
{
    kd_job_record *j = find_job(d, c->call, ((Distill__V1__JobRequest *)c->m)->job);
    if (!j)
        return;
    Distill__V1__RemoveReply reply = DISTILL__V1__REMOVE_REPLY__INIT;
    kd_diag diag = {0};
    size_t n = 1;
    bool saving = j->saving;
    for (kd_job_record *o = NULL; j->row.is_sweep && (o = kd_sweep_next(d, j, o)); n++)
        saving |= o->saving;
    kd_job_record **gone = kd_xalloc(n * sizeof *gone);
    kd_job_id *ids = kd_xalloc(n * sizeof *ids);
    gone[0] = j;
    n = 1;
    for (kd_job_record *o = NULL; j->row.is_sweep && (o = kd_sweep_next(d, j, o));)
        gone[n++] = o;
    for (size_t i = 0; i < n; i++)
        ids[i] = gone[i]->row.id;
    int rc = check_removable(j, &diag);
    if (rc == 0 && saving)
        rc = kd_fail(&diag, -KD_ESTATE, "a checkpoint of the job is being written; try again");
    if (rc == 0)
        rc = kd_state_remove_jobs(&d->state, ids, n, &reply.freed_bytes, &diag);
    for (size_t i = 0; i < n && rc == 0; i++)
        forget(d, gone[i]);
    for (size_t i = 0; i < n && rc == 0; i++) {
        kd_blobs_drop_unused(d, &gone[i]->spec);
        kd_job_record_free(gone[i]);
    }
    if (rc == 0)
        kd_answer(c->call, &reply);
    else
        kd_rpc_finish_diag(c->call, &diag);
    free(ids);
    free(gone);
}

/* ---- the table */

#define HANDLER(name, descriptor, function)                                                        \
    static void name(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)               \
    {                                                                                              \
        ProtobufCMessage *m = NULL;                                                                \
        kd_diag diag = {0};                                                                        \
        if (kd_wire_unpack(&descriptor, bytes, len, &m, &diag) != 0)                               \
            kd_rpc_finish_diag(call, &diag);                                                       \
        else                                                                                       \
            post(arg, call, m, NULL, 0, function);                                                 \
    }
HANDLER(on_list, distill__v1__list_request__descriptor, do_list)
HANDLER(on_get, distill__v1__job_request__descriptor, do_get)
HANDLER(on_watch, distill__v1__watch_request__descriptor, do_watch)
HANDLER(on_cancel, distill__v1__job_request__descriptor, do_cancel)
HANDLER(on_pause, distill__v1__job_request__descriptor, do_pause)
HANDLER(on_resume, distill__v1__job_request__descriptor, do_resume)
HANDLER(on_scale, distill__v1__scale_request__descriptor, do_scale)
HANDLER(on_drain, distill__v1__drain_request__descriptor, do_drain)
HANDLER(on_remove, distill__v1__job_request__descriptor, do_remove)
HANDLER(on_workers, distill__v1__workers_request__descriptor, do_workers)
HANDLER(on_fetch, distill__v1__fetch_request__descriptor, do_fetch)
HANDLER(on_digests, distill__v1__job_request__descriptor, do_digests)
HANDLER(on_info, distill__v1__info_request__descriptor, do_info)

static void on_submit(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    ProtobufCMessage *m = NULL;
    kd_diag diag = {0};
    if (kd_wire_unpack(&distill__v1__submit_request__descriptor, bytes, len, &m, &diag) != 0)
        kd_rpc_finish_diag(call, &diag);
    else
        kd_submit(arg, call, (Distill__V1__SubmitRequest *)m);
}

static void on_upload(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    ProtobufCMessage *m = NULL;
    const uint8_t *payload = NULL;
    size_t payload_len = 0;
    kd_diag diag = {0};
    if (kd_wire_unpack_bulk(&distill__v1__blob_chunk__descriptor, bytes, len, &m, &payload,
                            &payload_len, &diag) != 0)
        kd_rpc_finish_diag(call, &diag);
    else
        post(arg, call, m, payload, payload_len, do_upload);
}

#define UNARY(method, limit, handler)                                                              \
    {                                                                                              \
        .path = "/distill.v1.Jobs/" method, .kind = KD_RPC_UNARY, .max_request = limit,            \
        .on_message = handler                                                                      \
    }
const kd_rpc_method kd_jobs_methods[] = {
    UNARY("Submit", KD_MAX_CONTROL_BYTES, on_submit),
    UNARY("Upload", KD_MAX_BULK_BYTES, on_upload),
    UNARY("List", KD_MAX_CONTROL_BYTES, on_list),
    UNARY("Get", KD_MAX_CONTROL_BYTES, on_get),
    {.path = "/distill.v1.Jobs/Watch",
     .kind = KD_RPC_SERVER_STREAM,
     .max_request = KD_MAX_CONTROL_BYTES,
     .on_message = on_watch,
     .on_close = watch_closed},
    UNARY("Cancel", KD_MAX_CONTROL_BYTES, on_cancel),
    UNARY("Pause", KD_MAX_CONTROL_BYTES, on_pause),
    UNARY("Resume", KD_MAX_CONTROL_BYTES, on_resume),
    UNARY("Scale", KD_MAX_CONTROL_BYTES, on_scale),
    UNARY("Drain", KD_MAX_CONTROL_BYTES, on_drain),
    UNARY("Remove", KD_MAX_CONTROL_BYTES, on_remove),
    UNARY("Workers", KD_MAX_CONTROL_BYTES, on_workers),
    UNARY("Fetch", KD_MAX_CONTROL_BYTES, on_fetch),
    UNARY("Digests", KD_MAX_CONTROL_BYTES, on_digests),
    UNARY("Info", KD_MAX_CONTROL_BYTES, on_info),
};
const size_t kd_n_jobs_methods = KD_COUNT(kd_jobs_methods);

#include "http.h"
#include "sweep.h"
#include "trials.h"

#include "kd/failpoint.h"
#include "kd/file.h"
#include "kd/log.h"

#include "descriptor_set.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How soon a slow unit or a lost worker is seen. */
#define TICK_MS 25
/* How soon a certificate that is over ends what was begun with it. */
#define LOOK_MS 1000

bool kd_id_parse(const char *text, kd_job_id *out)
{
    if (strlen(text) != KD_ID_TEXT - 1)
        return false;
    for (const char *p = text; *p; p++)
        if (!isxdigit((unsigned char)*p))
            return false;
    *out = strtoull(text, NULL, 16);
    return *out != 0;
}

void kd_answer(kd_rpc_call *call, const void *message)
{
    kd_buf buf;
    kd_buf_init(&buf, KD_MAX_CONTROL_BYTES);
    int rc = kd_wire_pack(message, &buf);
    if (rc == 0)
        kd_rpc_reply(call, &(struct iovec){buf.data, buf.len}, 1);
    else
        kd_rpc_finish(call, rc, "the reply is too large");
    kd_buf_clear(&buf);
}

/* ---- tasks */

bool kd_daemon_post(kd_daemon *d, void (*run)(kd_daemon *, void *), void *arg)
{
    kd_task *t = malloc(sizeof *t);
    if (!t)
        return false;
    *t = (kd_task){NULL, run, arg};
    pthread_mutex_lock(&d->task_mu);
    bool open = !d->tasks_closed;
    if (open) {
        *d->tasks_end = t;
        d->tasks_end = &t->next;
        uv_async_send(&d->wake);
    }
    pthread_mutex_unlock(&d->task_mu);
    if (!open)
        free(t);
    return open;
}

/* Sends coalesce, so the whole queue is taken at once. */
static void run_tasks(kd_daemon *d)
{
    pthread_mutex_lock(&d->task_mu);
    kd_task *t = d->tasks;
    d->tasks = NULL;
    d->tasks_end = &d->tasks;
    pthread_mutex_unlock(&d->task_mu);
    while (t) {
        kd_task *next = t->next;
        t->run(d, t->arg);
        free(t);
        t = next;
    }
    kd_submit_run(d);
}

static void on_wake(uv_async_t *handle)
{
    run_tasks(handle->data);
}

void kd_daemon_fatal(kd_daemon *d, const kd_diag *diag)
{
    kd_err("cannot go on: %s", diag->msg);
    (void)d;
    /* What is on disk is whole; a restart knows all that was acknowledged. */
    _exit(1); /* other threads still run */
}

/* ---- records */

kd_job_record *kd_daemon_job(kd_daemon *d, kd_job_id id)
{
    return kd_ids_find(&d->job_ids, id);
}

void kd_daemon_add_job(kd_daemon *d, kd_job_record *j)
{
    if (d->last_job)
        d->last_job->next = j;
    else
        d->jobs = j;
    d->last_job = j;
    kd_ids_add(&d->job_ids, j->row.id, j);
}

void kd_daemon_take_job(kd_daemon *d, kd_job_record *j)
{
    kd_job_record **at = &d->jobs, *before = NULL;
    while (*at != j) {
        before = *at;
        at = &before->next;
    }
    *at = j->next;
    if (d->last_job == j)
        d->last_job = before;
    j->next = NULL;
    kd_ids_remove(&d->job_ids, j->row.id);
}

kd_worker_record *kd_daemon_worker(kd_daemon *d, kd_member_id id)
{
    kd_worker_record *w = d->workers;
    while (w && w->id != id)
        w = w->next;
    return w;
}

kd_job_record *kd_job_record_new(kd_job_row *row, const kd_job *spec, kd_diag *diag)
{
    kd_job_record *j = kd_xalloc(sizeof *j);
    int rc = 0;
    if (spec)
        j->spec = *spec;
    else
        rc = kd_job_load(row->resolved, strlen(row->resolved), "resolved job", NULL, 0, &j->spec,
                         diag);
    if (rc != 0) {
        free(j);
        return NULL;
    }
    j->row = *row;
    *row = (kd_job_row){0};
    enum kd_stage_kind kinds[KD_MAX_STAGES];
    j->n_stages = j->row.is_sweep ? 0 : kd_job_stages(&j->spec, kinds);
    for (int i = 0; i < j->n_stages; i++) {
        j->stages[i].kind = kinds[i];
        j->stages[i].row.manifest = 1;
        snprintf(j->stages[i].row.name, sizeof j->stages[i].row.name, "%s",
                 kd_stage_name(kinds[i]));
    }
    if (j->row.sweep)
        kd_sweep_keys(j);
    j->phase = "preparing";
    j->planned = j->row.state == KD_RUN_QUEUED;
    return j;
}

void kd_job_record_free(kd_job_record *j)
{
    if (!j)
        return;
    for (int i = 0; i < j->n_stages; i++) {
        kd_wire_free((ProtobufCMessage *)j->stages[i].info);
        kd_stage_row_clear(&j->stages[i].row);
        free(j->stages[i].trained);
        free(j->stages[i].meter);
    }
    kd_job_row_clear(&j->row);
    free(j->epochs);
    free(j);
}

uint32_t kd_job_min_workers(const kd_job_record *j)
{
    return j->row.min_workers ? j->row.min_workers : (uint32_t)j->spec.min_workers;
}

uint32_t kd_job_max_workers(const kd_job_record *j)
{
    return j->row.max_workers ? j->row.max_workers : (uint32_t)j->spec.max_workers;
}

_Static_assert(KD_MAX_STAGES <= KD_CORE_STAGES, "the core has room for every stage of a job");

void kd_daemon_introduce(kd_daemon *d, kd_job_record *j, bool more)
{
    kd_core_job_setup setup = {.id = j->row.id,
                               .min_workers = kd_job_min_workers(j),
                               .max_workers = kd_job_max_workers(j),
                               .priority = j->spec.priority,
                               .audit = j->spec.audit,
                               .n_stages = (uint32_t)j->n_stages,
                               .started = j->row.state == KD_RUN_RUNNING,
                               .paused = j->row.paused};
    for (int i = 0; i < j->n_stages; i++) {
        kd_stage_record *s = &j->stages[i];
        kd_core_stage_setup *c = &setup.stages[i];
        c->kind = s->kind == KD_STAGE_EXPORT     ? KD_CORE_EXPORT
                  : s->kind == KD_STAGE_EVALUATE ? KD_CORE_MEASURE
                                                 : KD_CORE_TRAIN;
        c->done = s->row.done;
        c->manifest = s->row.manifest;
        c->evaluated = s->row.evaluated;
        c->has_info = s->info != NULL;
        if (s->info)
            kd_stage_core_info(j, s, &c->info);
        kd_stage_hold(d, j, (uint32_t)i, c->held);
    }
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_SUBMIT, .setup = &setup, .more = more});
}

/* ---- what the core wants */

static void send_prepare(kd_daemon *d, kd_worker_record *w, kd_job_record *j, uint32_t stage)
{
    char id[KD_ID_TEXT];
    struct {
        Distill__V1__NamedBlob m;
        char name[32], digest[33];
    } done[2 * KD_MAX_STAGES];
    Distill__V1__NamedBlob *list[2 * KD_MAX_STAGES];
    size_t n = 0;
    for (int i = 0; i < 2 * j->n_stages; i++) {
        enum kd_stage_kind kind = j->stages[i / 2].kind;
        bool best = i % 2;
        kd_stage_artefact_digest(d, j, kind, best, done[n].digest);
        if (!done[n].digest[0])
            continue;
        snprintf(done[n].name, sizeof done[n].name, "%s%s", kd_stage_makes(kind),
                 best ? ".best" : "");
        distill__v1__named_blob__init(&done[n].m);
        done[n].m.path = done[n].name;
        done[n].m.digest = done[n].digest;
        list[n] = &done[n].m;
        n++;
    }
    kd_id_text(j->row.id, id);
    Distill__V1__Prepare p = DISTILL__V1__PREPARE__INIT;
    p.job = id;
    p.stage = stage;
    p.stage_name = j->stages[stage].row.name;
    p.resolved = j->row.resolved;
    p.finished = list;
    p.n_finished = n;
    Distill__V1__CoordinatorMessage m = DISTILL__V1__COORDINATOR_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__COORDINATOR_MESSAGE__KIND_PREPARE;
    m.prepare = &p;
    j->phase = "preparing";
    kd_cluster_send(d, w, &m);
}

/* Ranges of an action as the wire has them; *out_list is freed by the caller, with all in it. */
static size_t list_ranges(const kd_daemon *d, const kd_action *a, enum kd_ranges kind,
                          Distill__V1__Range ***out_list)
{
    size_t n = a->ranges[kind].n;
    Distill__V1__Range **list = kd_xalloc((n + 1) * sizeof *list + n * sizeof **list);
    Distill__V1__Range *ranges = (Distill__V1__Range *)(list + n + 1);
    for (size_t i = 0; i < n; i++) {
        const kd_range *r = &d->actions.ranges[a->ranges[kind].at + i];
        distill__v1__range__init(&ranges[i]);
        ranges[i].first = r->first;
        ranges[i].count = r->count;
        list[i] = &ranges[i];
    }
    *out_list = list;
    return n;
}

static void send_begin(kd_daemon *d, kd_worker_record *w, kd_job_record *j, const kd_action *a)
{
    const kd_begin *b = &a->begin;
    char id[KD_ID_TEXT];
    kd_id_text(j->row.id, id);
    Distill__V1__Begin m = DISTILL__V1__BEGIN__INIT;
    m.job = id;
    m.stage = a->stage;
    m.generation = b->generation;
    m.version = b->version;
    m.last_version = b->last_version;
    m.manifest = b->manifest;
    m.n_slots = list_ranges(d, a, KD_RANGES_SLOTS, &m.slots);
    m.n_chunks = list_ranges(d, a, KD_RANGES_CHUNKS, &m.chunks);
    m.n_units = list_ranges(d, a, KD_RANGES_UNITS, &m.units);
    m.rank = b->rank;
    m.members = b->members;
    m.evaluate_first = b->evaluate_first;
    m.fresh = b->fresh;
    m.publish = b->publish;
    m.publish_state = b->publish_state;
    Distill__V1__CoordinatorMessage c = DISTILL__V1__COORDINATOR_MESSAGE__INIT;
    c.kind_case = DISTILL__V1__COORDINATOR_MESSAGE__KIND_BEGIN;
    c.begin = &m;
    kd_cluster_send(d, w, &c);
    free(m.slots);
    free(m.chunks);
    free(m.units);
}

static void send_units(kd_daemon *d, kd_worker_record *w, kd_job_record *j, const kd_action *a)
{
    char id[KD_ID_TEXT];
    kd_id_text(j->row.id, id);
    Distill__V1__Units m = DISTILL__V1__UNITS__INIT;
    m.job = id;
    m.stage = a->stage;
    m.step = a->version;
    m.check = a->check;
    m.n_slots = list_ranges(d, a, KD_RANGES_UNITS, &m.slots);
    Distill__V1__CoordinatorMessage c = DISTILL__V1__COORDINATOR_MESSAGE__INIT;
    c.kind_case = DISTILL__V1__COORDINATOR_MESSAGE__KIND_UNITS;
    c.units = &m;
    kd_cluster_send(d, w, &c);
    free(m.slots);
}

static void send_measure(kd_daemon *d, kd_worker_record *w, kd_job_record *j, uint32_t stage)
{
    char id[KD_ID_TEXT];
    kd_id_text(j->row.id, id);
    Distill__V1__Measure m = DISTILL__V1__MEASURE__INIT;
    m.job = id;
    m.stage = stage;
    Distill__V1__CoordinatorMessage c = DISTILL__V1__COORDINATOR_MESSAGE__INIT;
    c.kind_case = DISTILL__V1__COORDINATOR_MESSAGE__KIND_MEASURE;
    c.measure = &m;
    j->phase = "measuring";
    kd_cluster_send(d, w, &c);
}

static void send_release(kd_daemon *d, kd_worker_record *w, kd_job_id job, const char *reason)
{
    char id[KD_ID_TEXT];
    kd_id_text(job, id);
    Distill__V1__Release m = DISTILL__V1__RELEASE__INIT;
    m.job = id;
    m.reason = (char *)reason;
    Distill__V1__CoordinatorMessage c = DISTILL__V1__COORDINATOR_MESSAGE__INIT;
    c.kind_case = DISTILL__V1__COORDINATOR_MESSAGE__KIND_RELEASE;
    c.release = &m;
    kd_cluster_send(d, w, &c);
}

/* What was begun for this job. A part of it that failed has taken all of it back. */
static void commit(kd_daemon *d, kd_job_record *j)
{
    kd_diag diag = {0};
    int rc = d->state.depth ? kd_state_commit(&d->state, &diag)
                            : kd_fail(&diag, -KD_EIO, "a part of a transaction failed");
    if (rc != 0)
        kd_daemon_fatal(d, &diag);
    kd_watch_fed(d, j);
}

/* figures: as of kd_action. They are told to who asks, and not worth a transaction for each of
 * thousands of jobs whenever a worker comes or goes. */
static void set_job_state(kd_daemon *d, kd_job_record *j, enum kd_run_state state,
                          const char *reason, bool figures)
{
    static const char *const words[] = {"queued", "running", "succeeded", "failed", "cancelled"};
    bool changed = (int)state != j->row.state;
    if (!changed && strcmp(j->row.reason, reason) == 0)
        return; /* told again after a restart */
    bool was_waiting = j->row.reason[0] != '\0';
    int64_t now = kd_clock_wall_ms();
    j->row.state = (int)state;
    snprintf(j->row.reason, sizeof j->row.reason, "%s", reason);
    if (!changed && figures)
        return;
    if (state == KD_RUN_QUEUED)
        j->planned = true;
    if (state == KD_RUN_RUNNING && j->row.started_ms == 0)
        j->row.started_ms = now;
    if (state >= KD_RUN_SUCCEEDED)
        j->row.finished_ms = now;
    kd_diag diag = {0};
    /* In one with its event, which nobody would write after a crash between the two. */
    if (kd_state_begin(&d->state, &diag) != 0 ||
        kd_state_set_job(&d->state, j->row.id, j->row.state, j->row.reason, j->row.started_ms,
                         j->row.finished_ms, j->row.result, &diag) != 0)
        kd_daemon_fatal(d, &diag);
    if (state >= KD_RUN_SUCCEEDED && changed) {
        for (int i = 0; i < j->n_stages; i++) {
            char prefix[4096];
            kd_stage_journal_prefix(d, j->row.id, (uint32_t)i, prefix, sizeof prefix);
            kd_journal_remove(prefix);
            kd_stage_tidy(d, j, (uint32_t)i, j->stages[i].row.done);
        }
        kd_watch_event(d, j, "finished", "", NULL, "job %s%s%s", words[state],
                       reason[0] ? ": " : "", reason);
    } else if (reason[0]) {
        kd_watch_event(d, j, "waiting", "", NULL, "%s", reason);
    } else if (was_waiting && state == KD_RUN_RUNNING && !changed) {
        kd_watch_event(d, j, "worker", "", NULL, "the job goes on");
    }
    commit(d, j);
    kd_sweep_changed(d, j);
}

static void carry_out(kd_daemon *d, const kd_action *a)
{
    kd_job_record *j = kd_daemon_job(d, a->job);
    kd_worker_record *w = a->member ? kd_daemon_worker(d, a->member) : NULL;
    kd_diag diag = {0};
    if (!j && a->kind != KD_ACT_RELEASE)
        return;
    switch (a->kind) {
    case KD_ACT_PREPARE:
        if (w)
            send_prepare(d, w, j, a->stage);
        break;
    case KD_ACT_BEGIN:
        if (w)
            send_begin(d, w, j, a);
        break;
    case KD_ACT_MEASURE:
        if (w)
            send_measure(d, w, j, a->stage);
        break;
    case KD_ACT_RELEASE:
        if (w)
            send_release(d, w, a->job, a->text);
        break;
    case KD_ACT_OPEN:
        kd_stage_open(d, j, a->stage, &a->begin);
        break;
    case KD_ACT_LOOK:
        kd_stage_look(d, j, a->stage);
        break;
    case KD_ACT_FENCE:
        if (j->stages[a->stage].exchange)
            kd_exchange_fence(j->stages[a->stage].exchange, a->begin.generation, a->begin.members,
                              d->actions.ranges + a->ranges[KD_RANGES_CHUNKS].at,
                              a->ranges[KD_RANGES_CHUNKS].n);
        break;
    case KD_ACT_UNITS:
        if (w)
            send_units(d, w, j, a);
        break;
    case KD_ACT_SETTLE:
        kd_stage_settle(d, j, a->stage, a->version, a->check, a->process);
        break;
    case KD_ACT_CLOSE:
        kd_stage_close(d, j, a->stage);
        break;
    case KD_ACT_CHECKPOINT:
        if (j->stages[a->stage].exchange)
            kd_exchange_checkpoint(j->stages[a->stage].exchange);
        break;
    case KD_ACT_STATE:
        set_job_state(d, j, a->state, a->text, a->figures);
        break;
    case KD_ACT_STAGE_DONE:
        /* In one with its event, too. */
        if (kd_state_begin(&d->state, &diag) != 0)
            kd_daemon_fatal(d, &diag);
        kd_stage_finished(d, j, a->stage);
        commit(d, j);
        if (j->stages[a->stage].kind == KD_STAGE_EVALUATE)
            kd_artefact_drop_pieces(d, j);
        kd_sweep_stage_done(d, j, a->stage);
        break;
    case KD_ACT_MANIFEST:
        kd_stage_manifest(d, j, a->stage, a->version);
        break;
    case KD_ACT_EXPORT:
        kd_result_export(d, j, a->stage);
        break;
    case KD_ACT_NOTE:
        kd_watch_event(d, j, a->word, w ? w->name : "", NULL, "%s", a->text);
        break;
    }
}

void kd_daemon_event(kd_daemon *d, const kd_event *ev)
{
    /* Carrying out an action may raise another event (an export that is done, a worker that cannot
     * be reached). Its actions come after those still to do: the core decided them in that order.
     */
    kd_core_handle(d->core, ev, kd_clock_ms(), &d->actions);
    if (d->carrying)
        return;
    d->carrying = true;
    for (size_t i = 0; i < d->actions.count; i++) {
        kd_action a = d->actions.items[i]; /* the list may move */
        carry_out(d, &a);
    }
    kd_actions_clear(&d->actions);
    d->carrying = false;
}

/* ---- the loop */

/* Said at most every 10 seconds. */
static void tell_refused(kd_daemon *d, kd_time_ms now)
{
    uint64_t refused = kd_rpc_refused_connections(), cut = kd_rpc_cut_connections();
    if ((refused == d->refused && cut == d->cut) ||
        (d->refused_told && now - d->refused_told < 10000))
        return;
    if (refused != d->refused)
        kd_warn("connections were refused, since no more descriptors are left: number=%llu; raise "
                "the limit of open files (ulimit -n, LimitNOFILE=)",
                (unsigned long long)(refused - d->refused));
    if (cut != d->cut)
        kd_warn("connections were cut, since more were open than had shown who they are: "
                "number=%llu",
                (unsigned long long)(cut - d->cut));
    d->refused = refused;
    d->cut = cut;
    d->refused_told = now;
}

static bool is_over(const kd_rpc_peer *peer, void *arg)
{
    return kd_access_is_over(arg, peer->identity);
}

/* New certificates of our own; streams of callers whose own are over end. */
static void look_after_certificates(kd_daemon *d, kd_time_ms now, bool reload)
{
    kd_diag diag = {0};
    if (!d->authority || (!reload && now - d->looked < LOOK_MS))
        return;
    d->looked = now;
    int rc = kd_authority_refresh(d->authority, reload, &diag);
    if (rc < 0)
        kd_err("the server's certificate stays as it is: %s", diag.msg);
    if (rc == 1) {
        kd_rpc_tls tls = kd_authority_tls(d->authority);
        kd_rpc_server_set_tls(d->server, &tls);
        kd_access_files_changed(d->access);
        kd_info("the server has another certificate: serial=%s", d->authority->own.serial);
    }
    kd_rpc_server_end_calls(d->server, is_over, d->access, -KD_EAUTH,
                            "the certificate is over or was revoked");
}

static void on_reload(uv_signal_t *handle, int number)
{
    (void)number;
    look_after_certificates(handle->data, kd_clock_ms(), true);
}

static void on_tick(uv_timer_t *timer)
{
    kd_daemon *d = timer->data;
    /* Timers run before what has come meanwhile is looked at: after a long blocking of the loop the
     * heartbeats that wait must count before anybody is dropped for silence. */
    run_tasks(d);
    kd_time_ms now = kd_clock_ms();
    kd_cluster_tick(d, now);
    kd_trial_tick(d, now);
    kd_watch_tick(d, now);
    kd_http_tick(d->http, now);
    tell_refused(d, now);
    kd_access_tick(d->access, now);
    look_after_certificates(d, now, false);
    kd_room_tick(&d->room, now);
    kd_stage_tick(d, now);
    kd_result_tick(d);
    kd_keep_tick(d, now);
    kd_hooks_tick(d, now);
    kd_worker_log_tick(d, now);
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_TICK});
}

static void on_signal(uv_signal_t *handle, int number)
{
    kd_daemon *d = handle->data;
    if (d->stopping++) {
        kd_warn("second signal: leaving at once");
        _exit(128 + number);
    }
    kd_info("stopping: signal=%d", number);
    uv_stop(&d->loop);
}

static char *copy_text(const char *text)
{
    return text ? kd_xstrdup(text) : NULL;
}

static int restore_job(void *arg, const kd_job_row *row, const kd_stage_row *stages, int n_stages,
                       const kd_epoch_row *epochs, int n_epochs)
{
    kd_daemon *d = arg;
    kd_diag diag = {0};
    kd_job_row mine = *row;
    mine.resolved = kd_xstrdup(row->resolved);
    mine.result = copy_text(row->result);
    mine.text = copy_text(row->text);
    mine.label = copy_text(row->label);
    mine.values = copy_text(row->values);
    kd_job_record *j = kd_job_record_new(&mine, NULL, &diag);
    if (!j || j->n_stages != n_stages) {
        kd_err("a stored job cannot be read and is left alone: job=%012llx %s",
               (unsigned long long)row->id, diag.msg);
        kd_job_record_free(j);
        kd_job_row_clear(&mine);
        return 0;
    }
    bool trained = true;
    for (int i = 0; i < n_stages; i++)
        trained = trained && (stages[i].done || !kd_job_train(&j->spec, j->stages[i].kind));
    for (int i = 0; i < n_stages; i++) {
        kd_stage_record *s = &j->stages[i];
        s->row = stages[i];
        s->row.info = s->row.expected = NULL;
        s->row.info_len = s->row.expected_len = 0;
        if (stages[i].expected_len) {
            s->row.expected = kd_xalloc(stages[i].expected_len);
            memcpy(s->row.expected, stages[i].expected, stages[i].expected_len);
            s->row.expected_len = stages[i].expected_len;
        }
        /* Measured costs are kept in memory until the export that follows at once, and the result
         * until the job's end. Where they are done before what is trained they are not wanted. */
        if ((s->kind == KD_STAGE_EVALUATE || s->kind == KD_STAGE_EXPORT) &&
            row->state <= KD_RUN_RUNNING && trained)
            s->row.done = false;
        if (stages[i].info_len &&
            kd_stage_set_info(s, stages[i].info, stages[i].info_len, &diag) != 0)
            kd_warn("stored stage information is unreadable: %s", diag.msg);
    }
    if (n_epochs) {
        j->epochs = kd_xalloc((size_t)n_epochs * sizeof *j->epochs);
        memcpy(j->epochs, epochs, (size_t)n_epochs * sizeof *j->epochs);
        j->n_epochs = n_epochs;
    }
    for (int i = 0; i < j->n_epochs; i++) {
        /* Stored before evaluations had a step. */
        kd_epoch_row *e = &j->epochs[i];
        const kd_stage_record *s = e->stage < (uint32_t)n_stages ? &j->stages[e->stage] : NULL;
        if (e->epoch > 0 && e->step == 0 && s && s->info)
            e->step = e->epoch * kd_stage_epoch_steps(s->info);
    }
    /* A row whose stage does not know of it, as after going back, is made again. */
    for (int i = 0; i < n_stages; i++)
        if (!j->stages[i].row.done)
            kd_stage_forget_evaluations(j, (uint32_t)i, j->stages[i].row.evaluated);
    kd_daemon_add_job(d, j);
    return 0;
}

static int write_port(const char *path, int port, kd_diag *diag)
{
    char text[16];
    int n = snprintf(text, sizeof text, "%d\n", port);
    return kd_file_write(path, text, (size_t)n, diag);
}

/* Plain text shows everything to whoever is on the way. */
static int check_plain(const kd_daemon_config *cfg, kd_diag *diag)
{
    if (cfg->insecure || kd_rpc_is_loopback(cfg->listen))
        return 0;
    return kd_fail(diag, -KD_EINVAL,
                   "%.200s can be reached from other machines, and there are no certificates in "
                   "%.300s/tls: make them with `distilld init --state-dir %.300s`, listen on "
                   "127.0.0.1, or allow plain text with --insecure",
                   cfg->listen, cfg->state_dir, cfg->state_dir);
}

/* Certificates where `distilld init` has made some. */
static int open_access(kd_daemon *d, const kd_daemon_config *cfg, kd_diag *diag)
{
    char path[4096];
    snprintf(path, sizeof path, "%.3000s/tls", cfg->state_dir);
    int rc = cfg->insecure ? -KD_ENOENT
                           : kd_authority_open(path, cfg->certificate_life_s, &d->authority, diag);
    if (rc == -KD_ENOENT && (rc = check_plain(cfg, diag)) == 0 && cfg->insecure &&
        !kd_rpc_is_loopback(cfg->listen))
        kd_warn("plain text on %s: whoever reaches it may do everything", cfg->listen);
    return rc == 0 ? kd_access_open(&d->state, d->authority, &cfg->quotas, &d->access, diag) : rc;
}

static int start_server(kd_daemon *d, const kd_daemon_config *cfg, kd_rpc_method *methods,
                        size_t n_methods, kd_diag *diag)
{
    for (size_t i = 0; i < n_methods; i++) {
        methods[i].arg = d;
        methods[i].rule = kd_access_rule(methods[i].path);
    }
    kd_rpc_tls tls = d->authority ? kd_authority_tls(d->authority) : (kd_rpc_tls){0};
    kd_rpc_server_config sc = {.listen = cfg->listen,
                               .tls = d->authority ? &tls : NULL,
                               .guard = kd_access_guard(d->access),
                               .methods = methods,
                               .n_methods = n_methods,
                               .max_message = KD_MAX_BULK_BYTES,
                               .descriptor_set = kd_descriptor_set,
                               .descriptor_set_len = sizeof kd_descriptor_set};
    int rc = kd_rpc_server_new(d->rpc, &sc, &d->server, diag);
    if (rc == 0)
        KD_FAILPOINT("start.serving");
    if (rc != 0 || !cfg->port_file)
        return rc;
    return write_port(cfg->port_file, kd_rpc_server_port(d->server), diag);
}

static int start_http(kd_daemon *d, const kd_daemon_config *cfg, kd_diag *diag)
{
    if (!cfg->http)
        return 0;
    int rc = kd_http_start(d, cfg->http, cfg->insecure, &d->http, diag);
    if (rc != 0)
        return rc;
    kd_info("serving %s: address=%s port=%d%s", kd_access_required(d->access) ? "HTTPS" : "HTTP",
            cfg->http, kd_http_port(d->http),
            cfg->insecure ? " everybody who reaches it may read" : "");
    return cfg->http_port_file ? write_port(cfg->http_port_file, kd_http_port(d->http), diag) : 0;
}

static void close_handles(kd_daemon *d)
{
    uv_close((uv_handle_t *)&d->tick, NULL);
    uv_close((uv_handle_t *)&d->sigint, NULL);
    uv_close((uv_handle_t *)&d->sigterm, NULL);
    uv_close((uv_handle_t *)&d->sighup, NULL);
    uv_close((uv_handle_t *)&d->wake, NULL);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    uv_loop_close(&d->loop);
}

static void shut_down(kd_daemon *d)
{
    atomic_store(&d->closing, true);
    kd_trial_close(d);
    kd_cluster_close(d, "the coordinator is stopping");
    while (d->watchers) {
        const kd_watcher *w = d->watchers;
        w->sink->finish(w->to, -KD_EUNAVAIL, "the coordinator is stopping");
        kd_watch_drop(d, w->to);
    }
    kd_http_close(d->http);
    kd_hooks_stop(d);
    /* Checkpoints under way are finished: they are work that need not be done again. */
    while (d->writes_running)
        uv_run(&d->loop, UV_RUN_ONCE);
    if (d->server)
        kd_rpc_server_stop(d->server, 500);
    run_tasks(d);
    for (kd_job_record *j = d->jobs; j; j = j->next)
        for (int i = 0; i < j->n_stages; i++)
            if (j->stages[i].exchange)
                kd_stage_close(d, j, (uint32_t)i);
    kd_http_free(d->http); /* its last requests were answered by the tasks above */
    pthread_mutex_lock(&d->task_mu);
    d->tasks_closed = true;
    pthread_mutex_unlock(&d->task_mu);
}

static kd_rpc_method *all_methods(size_t *out_n)
{
    const struct {
        const kd_rpc_method *rows;
        size_t n;
    } services[] = {{kd_jobs_methods, kd_n_jobs_methods},
                    {kd_access_methods, kd_n_access_methods},
                    {kd_storage_methods, kd_n_storage_methods},
                    {kd_cluster_methods, kd_n_cluster_methods},
                    {kd_exchange_methods, kd_n_exchange_methods}};
    size_t n = 0;
    for (size_t i = 0; i < KD_COUNT(services); i++)
        n += services[i].n;
    kd_rpc_method *all = kd_xalloc(n * sizeof *all);
    *out_n = n;
    n = 0;
    for (size_t i = 0; i < KD_COUNT(services); i++) {
        memcpy(all + n, services[i].rows, services[i].n * sizeof *all);
        n += services[i].n;
    }
    return all;
}

static void count_commit(void *arg, double seconds)
{
    kd_histogram_add(&((kd_daemon *)arg)->counts.commit_seconds, seconds);
}

int kd_daemon_run(const kd_daemon_config *cfg, kd_diag *diag)
{
    kd_daemon *d = kd_xalloc(sizeof *d);
    d->state.lock_fd = -1;
    d->heartbeat_ms = cfg->heartbeat_ms;
    d->lease_ms = cfg->lease_ms;
    d->outside_teachers = cfg->outside_teachers;
    d->started_wall_ms = kd_clock_wall_ms();
    d->started = kd_clock_ms();
    d->tasks_end = &d->tasks;
    d->submits_end = &d->submits;
    pthread_mutex_init(&d->task_mu, NULL);
    pthread_mutex_init(&d->exchange_mu, NULL);
    uv_loop_init(&d->loop);
    uv_async_init(&d->loop, &d->wake, on_wake);
    uv_timer_init(&d->loop, &d->tick);
    uv_signal_init(&d->loop, &d->sigint);
    uv_signal_init(&d->loop, &d->sigterm);
    uv_signal_init(&d->loop, &d->sighup);
    d->wake.data = d->tick.data = d->sigint.data = d->sigterm.data = d->sighup.data = d;

    size_t n;
    kd_rpc_method *methods = all_methods(&n);

    char path[4096];
    snprintf(path, sizeof path, "%.3000s/bank", cfg->state_dir);
    kd_room_open(&d->room, cfg->state_dir, cfg->min_free);
    int rc = kd_state_open(cfg->state_dir, &d->state, diag);
    while (rc == -KD_ELIMIT && kd_room_make(&d->room, true))
        rc = kd_state_open(cfg->state_dir, &d->state, diag);
    if (rc == 0) {
        d->state.sql.make_room = kd_room_make;
        d->state.sql.make_room_arg = &d->room;
        d->state.sql.committed = count_commit;
        d->state.sql.committed_arg = d;
        rc = kd_bank_store_open(path, &d->bank, diag);
    }
    if (rc == 0) {
        kd_bank_store_keep_free(d->bank, cfg->min_free);
        d->core = kd_core_new(d->state.epoch);
        rc = kd_keep_open(d, &cfg->keep, diag);
    }
    if (rc == 0)
        rc = kd_state_each_job(&d->state, restore_job, d, diag);
    if (rc == 0)
        rc = kd_hooks_open(d, &cfg->hooks, diag);
    KD_FAILPOINT("start.restored");
    if (rc == 0)
        rc = open_access(d, cfg, diag);
    if (rc == 0)
        rc = kd_rpc_new(2, &d->rpc, diag);
    if (rc == 0) {
        kd_blobs_drop_strays(d);
        kd_sweep_restore(d);
        for (kd_job_record *j = d->jobs; j; j = j->next)
            if (j->row.state <= KD_RUN_RUNNING && !j->row.is_sweep)
                kd_daemon_introduce(d, j, true);
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_TICK});
        rc = start_http(d, cfg, diag);
    }
    if (rc == 0)
        rc = start_server(d, cfg, methods, n, diag);
    if (rc == 0) {
        kd_info("listening: address=%s port=%d state_dir=%s epoch=%llu version=%s tls=%s",
                cfg->listen, kd_rpc_server_port(d->server), cfg->state_dir,
                (unsigned long long)d->state.epoch, KD_VERSION, d->authority ? "yes" : "no");
        uv_timer_start(&d->tick, on_tick, TICK_MS, TICK_MS);
        uv_signal_start(&d->sigint, on_signal, SIGINT);
        uv_signal_start(&d->sigterm, on_signal, SIGTERM);
        uv_signal_start(&d->sighup, on_reload, SIGHUP);
        uv_run(&d->loop, UV_RUN_DEFAULT);
    }
    shut_down(d);
    kd_rpc_server_free(d->server);
    if (d->rpc)
        kd_rpc_free(d->rpc);
    run_tasks(d);
    close_handles(d);
    while (d->workers) {
        kd_worker_record *w = d->workers;
        d->workers = w->next;
        kd_rpc_call_unref(w->call);
        free(w);
    }
    while (d->jobs) {
        kd_job_record *j = d->jobs;
        d->jobs = j->next;
        kd_job_record_free(j);
    }
    kd_ids_clear(&d->job_ids);
    free(d->aside);
    kd_hooks_free(d->hooks);
    kd_core_free(d->core);
    kd_bank_store_close(d->bank);
    kd_access_close(d->access);
    kd_authority_close(d->authority);
    kd_state_close(&d->state);
    kd_room_close(&d->room);
    pthread_mutex_destroy(&d->task_mu);
    pthread_mutex_destroy(&d->exchange_mu);
    free(methods);
    free(d);
    return rc;
}

/* What the core wants done: messages to workers, states of jobs, generations and stages. */
#include "daemon.h"
#include "sweep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    kd_daemon_set_job_state(d, j, state);
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

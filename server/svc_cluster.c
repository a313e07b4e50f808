/* Service Cluster: one control stream a worker. Calls arrive on gRPC's threads and are carried to
 * the loop in order; a stream's record lives on the loop. */
#include "daemon.h"
#include "outside.h"
#include "take.h"
#include "trials.h"

#include "kd/log.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WORKERS 4096

struct control_task {
    kd_rpc_call *call;
    Distill__V1__WorkerMessage *m; /* NULL: the stream is over, or half of it, or: */
    kd_diag *refused;              /* why a message cannot be taken */
    bool half;                     /* the worker sends no more: end the stream in order */
    bool sealed;                   /* the message had a checksum */
    uint8_t *info;                 /* packed StageInfo of a StageReady */
    size_t info_len;
    double arrived_s; /* kd_clock_s */
};

static struct control_task *new_task(kd_rpc_call *call)
{
    struct control_task *t = kd_xalloc(sizeof *t);
    t->call = kd_rpc_call_ref(call);
    return t;
}

static void free_task(struct control_task *t)
{
    kd_rpc_call_unref(t->call);
    kd_wire_free((ProtobufCMessage *)t->m);
    free(t->refused);
    free(t->info);
    free(t);
}

/* NULL before its hello and after it was dropped. The loop alone sets and reads it. */
static kd_worker_record *worker_of(const kd_rpc_call *call)
{
    return kd_rpc_call_data(call);
}

void kd_cluster_send(kd_daemon *d, kd_worker_record *w, const Distill__V1__CoordinatorMessage *m)
{
    (void)d;
    kd_buf buf;
    kd_buf_init(&buf, KD_MAX_CONTROL_BYTES);
    int rc = kd_wire_pack_checked(m, &buf);
    if (rc == 0)
        rc = kd_rpc_send(w->call, &(struct iovec){buf.data, buf.len}, 1);
    kd_buf_clear(&buf);
    /* The stream's end reaches the loop by itself and takes the worker out. */
    if (rc != 0 && rc != -KD_ECANCELED)
        kd_rpc_finish(w->call, rc, "the worker does not take its messages");
}

/* Newer ones push older ones out. */
#define MAX_ASIDE 256

/* Remembers what a worker must be when it comes back. */
static void put_aside(kd_daemon *d, const kd_worker_record *w, bool drained, bool quarantined)
{
    if (!d->aside)
        d->aside = kd_xalloc(MAX_ASIDE * sizeof *d->aside);
    if (d->n_aside == MAX_ASIDE)
        memmove(d->aside, d->aside + 1, --d->n_aside * sizeof *d->aside);
    kd_aside *a = &d->aside[d->n_aside++];
    *a = (kd_aside){.drained = drained, .quarantined = quarantined};
    memcpy(a->name, w->name, sizeof a->name);
    memcpy(a->incarnation, w->incarnation, sizeof a->incarnation);
}

/* And takes it out again. A process of another incarnation begins anew. */
static void take_aside(kd_daemon *d, const kd_worker_record *w, kd_event *ev)
{
    for (size_t i = d->n_aside; i-- > 0;) {
        const kd_aside *a = &d->aside[i];
        if (strcmp(a->name, w->name) != 0)
            continue;
        if (strcmp(a->incarnation, w->incarnation) == 0) {
            ev->drained = a->drained;
            ev->quarantined = a->quarantined;
        }
        memmove(d->aside + i, d->aside + i + 1, (--d->n_aside - i) * sizeof *d->aside);
    }
}

void kd_cluster_drop(kd_daemon *d, kd_worker_record *w, int code, const char *why)
{
    kd_rpc_finish(w->call, code, why);
    kd_worker_record **at = &d->workers;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    kd_trial_worker_gone(d, w);
    if (w->joined) {
        kd_info("worker %s: worker=%s why=%s", code == 0 ? "left" : "lost", w->name, why);
        if (code != 0)
            d->counts.lost[code == -KD_ETIMEOUT ? 0 : code == -KD_ECANCELED ? 1 : 2]++;
        const char *state;
        kd_job_id job = kd_core_member_job(d->core, w->id, &state);
        bool drained = strcmp(state, "draining") == 0 || strcmp(state, "drained") == 0;
        bool quarantined = strcmp(state, "quarantined") == 0;
        if (code != 0 && (drained || quarantined))
            put_aside(d, w, drained, quarantined);
        if (job && (drained || strcmp(state, "working") == 0))
            kd_stage_fault(d, job);
        kd_event ev = {.kind = KD_EV_LOST, .member = w->id, .text = why};
        /* The record is out of the list, so nothing is sent to it any more. */
        kd_daemon_event(d, &ev);
    }
    kd_rpc_call_set_data(w->call, NULL);
    kd_rpc_call_unref(w->call);
    free(w);
}

void kd_cluster_close(kd_daemon *d, const char *why)
{
    for (kd_worker_record *w = d->workers; w; w = w->next)
        kd_rpc_finish(w->call, -KD_EUNAVAIL, why);
}

static bool name_ok(const char *name)
{
    size_t n = strlen(name);
    for (const char *p = name; *p; p++)
        if (!isalnum((unsigned char)*p) && *p != '.' && *p != '_' && *p != '-')
            return false;
    return n >= 1 && n <= 64;
}

static void copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from);
}

/* A stage that the worker still holds: of use if its job goes on, else the worker may drop it. */
static void take_offer(kd_daemon *d, kd_worker_record *w, const Distill__V1__Offer *o, kd_event *ev)
{
    kd_job_id id;
    if (!o || !kd_id_parse(o->job, &id))
        return;
    const kd_job_record *j = kd_daemon_job(d, id);
    bool forbidden = j && kd_outside_forbidden(d->outside_teachers, &j->spec);
    if (j && j->row.state <= KD_RUN_RUNNING && !forbidden) {
        w->offer = ev->job = id;
        w->offer_stage = ev->stage = o->stage;
        w->offer_version = o->version;
        ev->first_chunk = o->first_chunk;
        return;
    }
    Distill__V1__Release m = DISTILL__V1__RELEASE__INIT;
    m.job = o->job;
    m.reason = forbidden ? "its teacher is permitted no more" : "the job is over";
    Distill__V1__CoordinatorMessage c = DISTILL__V1__COORDINATOR_MESSAGE__INIT;
    c.kind_case = DISTILL__V1__COORDINATOR_MESSAGE__KIND_RELEASE;
    c.release = &m;
    kd_cluster_send(d, w, &c);
}

/* A worker's name is that of its certificate, or begins with that and a dot: several processes of
 * one machine. */
static bool name_is_its_own(const kd_daemon *d, const kd_worker_record *w, const char *name)
{
    const char *certified = kd_rpc_call_peer(w->call).identity->name;
    size_t n = strlen(certified);
    return !kd_access_required(d->access) ||
           (strncmp(name, certified, n) == 0 && (name[n] == '\0' || name[n] == '.'));
}

static void on_hello(kd_daemon *d, kd_worker_record *w, const Distill__V1__Hello *h)
{
    char text[256];
    if (w->joined) {
        kd_cluster_drop(d, w, -KD_EINVAL, "a second hello on one stream");
        return;
    }
    if (h->protocol != KD_PROTOCOL) {
        snprintf(text, sizeof text,
                 "this coordinator speaks protocol %u (distilld " KD_VERSION
                 "), the worker protocol %u (%.32s); run the same version on both",
                 KD_PROTOCOL, h->protocol, h->version);
        kd_cluster_drop(d, w, -KD_ESTATE, text);
        return;
    }
    if (!name_ok(h->name) || h->threads == 0 || h->threads > 4096) {
        kd_cluster_drop(d, w, -KD_EINVAL,
                        "a worker needs a name of 1 to 64 characters from [A-Za-z0-9._-] and 1 to "
                        "4096 threads");
        return;
    }
    if (!name_is_its_own(d, w, h->name)) {
        const char *certified = kd_rpc_call_peer(w->call).identity->name;
        snprintf(text, sizeof text,
                 "the certificate is that of %s: --name must be %s, or begin with \"%s.\"",
                 certified, certified, certified);
        kd_cluster_drop(d, w, -KD_EPERM, text);
        return;
    }
    for (kd_worker_record *o = d->workers, *next; o; o = next) {
        next = o->next;
        if (o == w || !o->joined || strcmp(o->name, h->name) != 0)
            continue;
        if (strcmp(o->incarnation, h->incarnation) != 0) {
            snprintf(text, sizeof text,
                     "another worker is connected under the name %s; give each its own --name",
                     h->name);
            kd_cluster_drop(d, w, -KD_ESTATE, text);
            return;
        }
        /* The same process came back before its old stream was seen to be dead. */
        kd_cluster_drop(d, o, -KD_ECANCELED, "replaced by a newer stream of the same worker");
        next = d->workers;
    }
    w->joined = true;
    w->threads = h->threads;
    w->trials = h->trials;
    copy(w->name, sizeof w->name, h->name);
    copy(w->version, sizeof w->version, h->version);
    copy(w->cpu, sizeof w->cpu, h->cpu);
    copy(w->blas, sizeof w->blas, h->blas);
    copy(w->isa, sizeof w->isa, h->isa);
    copy(w->numerics, sizeof w->numerics, h->numerics);
    copy(w->incarnation, sizeof w->incarnation, h->incarnation);
    kd_info("worker joined: worker=%s address=%s threads=%u blas=%s isa=%s numerics=%s", w->name,
            w->address, w->threads, w->blas, w->isa, w->numerics);
    Distill__V1__Welcome welcome = DISTILL__V1__WELCOME__INIT;
    welcome.protocol = KD_PROTOCOL;
    welcome.epoch = d->state.epoch;
    welcome.heartbeat_ms = d->heartbeat_ms;
    welcome.lease_ms = d->lease_ms;
    Distill__V1__CoordinatorMessage m = DISTILL__V1__COORDINATOR_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__COORDINATOR_MESSAGE__KIND_WELCOME;
    m.welcome = &welcome;
    kd_cluster_send(d, w, &m);
    kd_event ev = {
        .kind = KD_EV_JOIN, .member = w->id, .process = strtoull(h->incarnation, NULL, 16)};
    w->process = ev.process;
    take_offer(d, w, h->offer, &ev);
    take_aside(d, w, &ev);
    kd_daemon_event(d, &ev);
}

/* Forwards and hits are counted by each worker for its stage; the job shows their sum. */
static void add_counts(kd_daemon *d, kd_worker_record *w, kd_job_id job, uint32_t stage,
                       uint64_t forwards, uint64_t hits, double seconds)
{
    kd_job_record *j = kd_daemon_job(d, job);
    if (!j || stage >= (uint32_t)j->n_stages)
        return;
    bool same = w->beat_job == job && w->beat_stage == stage && forwards >= w->teacher_forwards &&
                hits >= w->bank_hits && seconds >= w->teacher_seconds;
    kd_stage_row *row = &j->stages[stage].row;
    row->teacher_forwards += forwards - (same ? w->teacher_forwards : 0);
    row->bank_hits += hits - (same ? w->bank_hits : 0);
    row->teacher_seconds += seconds - (same ? w->teacher_seconds : 0);
    w->beat_job = job;
    w->beat_stage = stage;
    w->teacher_forwards = forwards;
    w->bank_hits = hits;
    w->teacher_seconds = seconds;
}

static void on_heartbeat(kd_daemon *d, kd_worker_record *w, const Distill__V1__Heartbeat *h)
{
    kd_time_ms now = kd_clock_ms();
    w->resident_bytes = h->resident_bytes;
    w->descriptors = h->descriptors;
    if (w->units_at && now > w->units_at && h->units_done >= w->units) {
        double rate = (double)(h->units_done - w->units) * 1000 / (double)(now - w->units_at);
        w->units_rate = 0.7 * w->units_rate + 0.3 * rate;
        if (w->units_rate < 1e-3)
            w->units_rate = 0; /* idle, not ever slower */
    }
    w->units = h->units_done;
    w->units_at = now;
    kd_job_id job;
    const bool waits = strncmp(h->phase, "waiting for ", 12) == 0;
    snprintf(w->waits, sizeof w->waits, "%s", waits ? h->phase : "");
    if (h->job[0] && kd_id_parse(h->job, &job))
        add_counts(d, w, job, h->stage, h->teacher_forwards, h->bank_hits,
                   h->teacher_seconds >= 0 ? h->teacher_seconds : 0);
}

/* Whether the core waits for this worker's answer on the stage. */
static bool is_asked(const kd_daemon *d, const kd_worker_record *w, kd_job_id job, uint32_t stage)
{
    kd_core_view view;
    const char *state;
    return kd_core_member_job(d->core, w->id, &state) == job && strcmp(state, "preparing") == 0 &&
           kd_core_job_view(d->core, job, &view) && view.stage == stage;
}

/* Whether workers have agreed on a stage that the job runs or has run itself. */
static bool agreed_before(const kd_job_record *j)
{
    for (int i = 0; i < j->n_stages; i++)
        if (j->stages[i].info && !j->stages[i].row.shared)
            return true;
    return false;
}

/* The first worker's figures are the stage's. */
static void keep_info(kd_daemon *d, kd_job_record *j, uint32_t stage, const char *worker)
{
    const Distill__V1__StageInfo *i = j->stages[stage].info;
    kd_stage_store(d, j, stage);
    if (i->calibrated[0])
        kd_watch_event(d, j, i->doubtful ? "warning" : "log", worker, NULL, "%s: %.300s",
                       j->stages[stage].row.name, i->calibrated);
}

static void on_stage_ready(kd_daemon *d, kd_worker_record *w, const Distill__V1__StageReady *r,
                           const uint8_t *info, size_t info_len)
{
    kd_job_id id;
    kd_job_record *j = kd_id_parse(r->job, &id) ? kd_daemon_job(d, id) : NULL;
    if (!j || r->stage >= (uint32_t)j->n_stages || !r->info || !is_asked(d, w, id, r->stage))
        return;
    kd_stage_record *s = &j->stages[r->stage];
    char text[KD_CORE_TEXT] = "", warning[KD_CORE_TEXT] = "";
    kd_diag diag = {0};
    if (!s->info)
        kd_take_check(j, r->stage, r->info, text, warning);
    /* Where others have agreed with what was taken over, it is this worker that differs. */
    if (text[0] && !agreed_before(j)) {
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_FAIL, .job = id, .text = text});
        return;
    }
    if (warning[0])
        kd_watch_event(d, j, "warning", w->name, NULL, "%s", warning);
    if (!text[0] && s->info)
        kd_stage_compare(s->info, r->info, text);
    else if (!text[0] && kd_stage_set_info(s, info, info_len, &diag) != 0)
        snprintf(text, sizeof text, "%.399s", diag.msg);
    else if (!text[0])
        keep_info(d, j, r->stage, w->name);
    kd_event ev = {
        .kind = KD_EV_READY, .member = w->id, .job = id, .stage = r->stage, .text = text};
    if (s->info)
        kd_stage_core_info(j, s, &ev.info);
    kd_daemon_event(d, &ev);
}

static void on_problem(kd_daemon *d, kd_worker_record *w, kd_job_id job,
                       const Distill__V1__StageProblem *p)
{
    char text[KD_CORE_TEXT];
    kd_job_record *j = kd_daemon_job(d, job);
    for (int i = 0; j && i < KD_MAX_TEACHERS; i++)
        if (j->choosing[i].process == w->process)
            j->choosing[i].process = 0; /* another one measures */
    snprintf(text, sizeof text, "%.40s: %.280s (worker %.64s)", p->code, p->text, w->name);
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_PROBLEM,
                                   .member = w->id,
                                   .job = job,
                                   .stage = p->stage,
                                   .worker_only = p->worker_only,
                                   .text = text});
}

/* A message that cannot be taken. What a link damaged is sent again over another stream. But a
 * worker that lost its stream for a message that breaks a bound would come back and send it again,
 * for ever: so it keeps the stream, and it is the job that it serves no more. */
static void on_refused(kd_daemon *d, kd_rpc_call *call, kd_diag *why)
{
    kd_worker_record *w = worker_of(call);
    kd_core_view view;
    const char *state;
    kd_job_id job = w ? kd_core_member_job(d->core, w->id, &state) : 0;
    if (why->code == -KD_EDATA || !job || !kd_core_job_view(d->core, job, &view)) {
        kd_rpc_finish_diag(call, why);
        return;
    }
    Distill__V1__StageProblem p = DISTILL__V1__STAGE_PROBLEM__INIT;
    p.stage = view.stage;
    p.code = "BAD_MESSAGE";
    p.text = why->msg;
    p.worker_only = true;
    on_problem(d, w, job, &p);
}

static void on_measured(kd_daemon *d, kd_worker_record *w, const Distill__V1__Measured *m)
{
    kd_job_id id;
    const char *state;
    kd_job_record *j = kd_id_parse(m->job, &id) ? kd_daemon_job(d, id) : NULL;
    if (!j || kd_core_member_job(d->core, w->id, &state) != id)
        return;
    kd_result_costs(d, j, w->name, m);
    kd_daemon_event(
        d, &(kd_event){.kind = KD_EV_MEASURED, .member = w->id, .job = id, .stage = m->stage});
}

static void on_stalled(kd_daemon *d, kd_worker_record *w, const Distill__V1__Stalled *m)
{
    kd_job_id id;
    char text[KD_CORE_TEXT];
    if (!kd_id_parse(m->job, &id))
        return;
    snprintf(text, sizeof text, "%.380s", m->text);
    const char *state;
    if (kd_core_member_job(d->core, w->id, &state) == id && strcmp(state, "working") == 0)
        kd_stage_fault(d, id);
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_STALLED,
                                   .member = w->id,
                                   .job = id,
                                   .stage = m->stage,
                                   .generation = m->generation,
                                   .text = text});
}

/* A worker that was told to stop and has nothing left to do: its stream ends in order. */
static void end_if_free(kd_daemon *d, kd_worker_record *w)
{
    const char *state;
    if (w->leaves && kd_core_member_job(d->core, w->id, &state) == 0)
        kd_cluster_drop(d, w, 0, "it was told to stop");
}

static void on_leave(kd_daemon *d, kd_worker_record *w)
{
    const char *state;
    kd_job_id job = kd_core_member_job(d->core, w->id, &state);
    kd_job_record *j = job ? kd_daemon_job(d, job) : NULL;
    kd_info("worker leaves: worker=%s", w->name);
    w->leaves = true;
    if (j && strcmp(state, "draining") != 0)
        kd_watch_event(d, j, "worker", w->name, NULL, "was told to stop and finishes its units");
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_DRAIN, .member = w->id});
    end_if_free(d, w);
}

static void loop_control(kd_daemon *d, void *arg)
{
    struct control_task *t = arg;
    kd_worker_record *w = worker_of(t->call);
    kd_job_id job;
    /* Damage that moved the message's end. */
    if (w && w->sealed && !t->sealed && (t->refused || t->m)) {
        kd_rpc_finish(t->call, -KD_EDATA, "a message came without the checksum that others had");
        free_task(t);
        return;
    }
    if (t->refused) {
        on_refused(d, t->call, t->refused);
        free_task(t);
        return;
    }
    if (t->half) {
        kd_rpc_finish(t->call, 0, "");
        free_task(t);
        return;
    }
    if (!t->m) {
        if (w)
            kd_cluster_drop(d, w, -KD_ECANCELED, "its connection closed");
        free_task(t);
        return;
    }
    if (!w && t->m->kind_case == DISTILL__V1__WORKER_MESSAGE__KIND_HELLO) {
        size_t count = 0;
        for (kd_worker_record *o = d->workers; o; o = o->next)
            count++;
        if (count >= MAX_WORKERS) {
            kd_rpc_finish(t->call, -KD_ELIMIT, "this coordinator has as many workers as it takes");
            free_task(t);
            return;
        }
        w = kd_xalloc(sizeof *w);
        w->id = ++d->next_member;
        w->call = kd_rpc_call_ref(t->call);
        kd_rpc_call_set_data(w->call, w);
        copy(w->address, sizeof w->address, kd_rpc_call_peer(t->call).address);
        kd_worker_record **end = &d->workers;
        while (*end)
            end = &(*end)->next;
        *end = w;
    }
    if (w) {
        w->sealed = t->sealed;
        w->seen = kd_clock_ms();
        w->seen_wall_ms = kd_clock_wall_ms();
        if (!w->joined && t->m->kind_case != DISTILL__V1__WORKER_MESSAGE__KIND_HELLO) {
            kd_cluster_drop(d, w, -KD_EINVAL, "the first message must be hello");
            free_task(t);
            return;
        }
        switch ((int)t->m->kind_case) {
        case DISTILL__V1__WORKER_MESSAGE__KIND_HELLO:
            on_hello(d, w, t->m->hello);
            break;
        case DISTILL__V1__WORKER_MESSAGE__KIND_HEARTBEAT:
            on_heartbeat(d, w, t->m->heartbeat);
            break;
        case DISTILL__V1__WORKER_MESSAGE__KIND_READY:
            on_stage_ready(d, w, t->m->ready, t->info, t->info_len);
            break;
        case DISTILL__V1__WORKER_MESSAGE__KIND_PROBLEM:
            if (kd_id_parse(t->m->problem->job, &job))
                on_problem(d, w, job, t->m->problem);
            break;
        case DISTILL__V1__WORKER_MESSAGE__KIND_LOG:
            kd_worker_log_add(d, w, t->m->log);
            break;
        case DISTILL__V1__WORKER_MESSAGE__KIND_MEASURED:
            on_measured(d, w, t->m->measured);
            break;
        case DISTILL__V1__WORKER_MESSAGE__KIND_STALLED:
            on_stalled(d, w, t->m->stalled);
            break;
        case DISTILL__V1__WORKER_MESSAGE__KIND_LEAVE:
            on_leave(d, w);
            break;
        case DISTILL__V1__WORKER_MESSAGE__KIND_TRIED:
            kd_trial_told(d, w, t->m->tried);
            break;
        default: /* released: nothing waits for it */
            break;
        }
    }
    kd_histogram_add(&d->counts.control_seconds, kd_clock_s() - t->arrived_s);
    free_task(t);
}

static void post(kd_daemon *d, struct control_task *t)
{
    if (!kd_daemon_post(d, loop_control, t))
        free_task(t);
}

static void control_message(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    kd_diag diag = {0};
    ProtobufCMessage *m = NULL;
    struct control_task *t = new_task(call);
    if (kd_wire_unpack_checked(&distill__v1__worker_message__descriptor, bytes, len, &t->sealed, &m,
                               &diag) != 0) {
        t->refused = kd_xalloc(sizeof diag);
        *t->refused = diag;
        post(arg, t);
        return;
    }
    t->m = (Distill__V1__WorkerMessage *)m;
    t->arrived_s = kd_clock_s();
    if (t->m->kind_case == DISTILL__V1__WORKER_MESSAGE__KIND_READY && t->m->ready->info) {
        kd_buf packed;
        kd_buf_init(&packed, KD_MAX_CONTROL_BYTES);
        if (kd_wire_pack(t->m->ready->info, &packed) == 0) {
            t->info_len = packed.len;
            t->info = (uint8_t *)kd_buf_take(&packed);
        }
        kd_buf_clear(&packed);
    }
    post(arg, t);
}

static void control_half_close(kd_rpc_call *call, void *arg)
{
    /* By way of the loop, so that what was sent before is answered first. */
    struct control_task *t = new_task(call);
    t->half = true;
    post(arg, t);
}

static void control_close(kd_rpc_call *call, bool cancelled, void *arg)
{
    (void)cancelled;
    post(arg, new_task(call));
}

void kd_cluster_tick(kd_daemon *d, kd_time_ms now)
{
    for (kd_worker_record *w = d->workers, *next; w; w = next) {
        next = w->next;
        if (now - w->seen < d->lease_ms) {
            end_if_free(d, w);
            continue;
        }
        char text[96];
        snprintf(text, sizeof text, "silent for %lld ms", (long long)(now - w->seen));
        kd_cluster_drop(d, w, -KD_ETIMEOUT, text);
        next = d->workers; /* the core may have dropped others */
    }
}

const kd_rpc_method kd_cluster_methods[] = {
    {.path = "/distill.v1.Cluster/Control",
     .kind = KD_RPC_BIDI,
     .max_request = KD_MAX_CONTROL_BYTES,
     .on_message = control_message,
     .on_half_close = control_half_close,
     .on_close = control_close},
};
const size_t kd_n_cluster_methods = KD_COUNT(kd_cluster_methods);

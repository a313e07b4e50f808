#include "trials.h"

#include "estimate.h"
#include "kd/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TRIALS 8
#define PATIENCE_MS 60000
#define LEAST_MS 3000  /* that a call must leave for a trial to be of use */
#define MARGIN_MS 2000 /* the answer leaves so long before the call's deadline */
#define STAGE_MS 8000  /* the worker stops so long before: a stage that has begun is finished */

struct kd_trial {
    struct kd_trial *next;
    uint64_t id;
    kd_member_id member;
    kd_rpc_call *call; /* reference held */
    kd_buf reply;      /* packed, without the estimate */
    kd_time_ms until;
    uint32_t workers, threads, connected, jobs;
    char worker[65];
};

/* ---- the answer */

/* Messages that follow one another are one: the estimate comes behind the rest. */
static void send_reply(kd_rpc_call *call, const kd_buf *reply, Distill__V1__Estimate *e)
{
    Distill__V1__SubmitReply rest = DISTILL__V1__SUBMIT_REPLY__INIT;
    kd_buf more;
    rest.estimate = e;
    kd_buf_init(&more, KD_MAX_CONTROL_BYTES - reply->len);
    const int rc = kd_wire_pack(&rest, &more);
    if (rc == 0)
        kd_rpc_reply(call, (struct iovec[]){{reply->data, reply->len}, {more.data, more.len}}, 2);
    else
        kd_rpc_finish(call, rc, "the reply is too large");
    kd_buf_clear(&more);
}

static void finish(kd_daemon *d, struct kd_trial *t, Distill__V1__Estimate *e)
{
    struct kd_trial **at = &d->trials;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    e->jobs = t->jobs;
    send_reply(t->call, &t->reply, e);
    kd_buf_clear(&t->reply);
    kd_rpc_call_unref(t->call);
    free(t);
}

static void finish_without(kd_daemon *d, struct kd_trial *t, const char *fmt, ...) KD_PRINTF(3, 4);
static void finish_without(kd_daemon *d, struct kd_trial *t, const char *fmt, ...)
{
    Distill__V1__Estimate e = DISTILL__V1__ESTIMATE__INIT;
    char why[KD_CORE_TEXT];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    e.why = why;
    finish(d, t, &e);
}

static void fill_stage(const struct kd_trial *t, const Distill__V1__TriedStage *from,
                       Distill__V1__StageEstimate *to, Distill__V1__Estimate *e)
{
    distill__v1__stage_estimate__init(to);
    to->stage = from->stage;
    to->problem = from->problem;
    to->note = from->note;
    if (from->problem[0])
        return;
    to->samples = from->samples;
    to->epochs = from->epochs;
    to->steps = from->steps;
    to->teacher_views = from->teacher_views;
    to->memory_bytes = from->memory_bytes;
    to->seconds = kd_estimate_seconds(from, t->workers, t->threads);
    e->seconds += to->seconds;
    e->memory_bytes = KD_MAX(e->memory_bytes, to->memory_bytes);
}

void kd_trial_told(kd_daemon *d, const kd_worker_record *w, const Distill__V1__Tried *m)
{
    struct kd_trial *t = d->trials;
    while (t && (t->id != m->id || t->member != w->id))
        t = t->next;
    if (!t)
        return; /* nobody waits for it any more */
    if (m->stopped) {
        finish_without(d, t, "%s was given a job before it had tried this one", t->worker);
        return;
    }
    Distill__V1__Estimate e = DISTILL__V1__ESTIMATE__INIT;
    Distill__V1__StageEstimate items[KD_MAX_TRIED], *list[KD_MAX_TRIED];
    e.worker = t->worker;
    e.problem = m->problem;
    e.workers = t->workers;
    e.threads = t->threads;
    e.connected = t->connected;
    e.stages = list;
    for (; e.n_stages < m->n_stages && e.n_stages < KD_COUNT(items); e.n_stages++) {
        list[e.n_stages] = &items[e.n_stages];
        fill_stage(t, m->stages[e.n_stages], list[e.n_stages], &e);
    }
    finish(d, t, &e);
}

/* ---- whom to ask */

static bool has_trial(const kd_daemon *d, const kd_worker_record *w)
{
    const struct kd_trial *t = d->trials;
    while (t && t->member != w->id)
        t = t->next;
    return t != NULL;
}

static bool is_idle(const kd_daemon *d, const kd_worker_record *w)
{
    const char *state;
    return kd_core_member_job(d->core, w->id, &state) == 0 && strcmp(state, "idle") == 0;
}

/* The workers that the job could have, how many it would have of them, and the least threads of
 * one. */
static void count_workers(const kd_daemon *d, const kd_job *spec, struct kd_trial *t)
{
    for (const kd_worker_record *w = d->workers; w; w = w->next) {
        const char *state;
        (void)kd_core_member_job(d->core, w->id, &state);
        if (!w->joined || w->leaves || strcmp(state, "quarantined") == 0 ||
            strncmp(state, "drain", 5) == 0)
            continue;
        t->connected++;
        t->threads = t->threads ? KD_MIN(t->threads, w->threads) : w->threads;
    }
    t->workers = KD_MIN(t->connected, (uint32_t)spec->max_workers);
    t->workers = KD_MAX(t->workers, (uint32_t)spec->min_workers);
}

/* One that nothing keeps from it; NULL with why there is none. */
static kd_worker_record *choose(const kd_daemon *d, const struct kd_trial *t, const char **out_why)
{
    bool idle = false, willing = false;
    size_t n = 0;
    for (const struct kd_trial *o = d->trials; o; o = o->next)
        n += o != t;
    for (kd_worker_record *w = d->workers; w && n < MAX_TRIALS; w = w->next) {
        if (!w->joined || w->leaves || !is_idle(d, w))
            continue;
        idle = true;
        willing = willing || w->trials;
        if (w->trials && !has_trial(d, w))
            return w;
    }
    *out_why = t->connected == 0 ? "no worker is connected that could try it"
               : n == MAX_TRIALS ? "as many jobs are being tried as may be; try again in a minute"
               : !idle           ? "every worker has a job; an idle one is needed to try this one"
               : !willing        ? "the idle workers are of a version that tries no jobs"
                                 : "every idle worker is trying another job; try again in a minute";
    return NULL;
}

/* ---- life */

static void ask(kd_daemon *d, kd_worker_record *w, const struct kd_trial *t, const char *resolved,
                kd_time_ms patience_ms)
{
    Distill__V1__Trial trial = DISTILL__V1__TRIAL__INIT;
    Distill__V1__CoordinatorMessage m = DISTILL__V1__COORDINATOR_MESSAGE__INIT;
    trial.id = t->id;
    trial.resolved = (char *)resolved;
    trial.patience_ms = (uint32_t)patience_ms;
    m.kind_case = DISTILL__V1__COORDINATOR_MESSAGE__KIND_TRIAL;
    m.trial = &trial;
    kd_cluster_send(d, w, &m);
}

void kd_trial_begin(kd_daemon *d, kd_rpc_call *call, Distill__V1__SubmitReply *reply,
                    const kd_job *spec, size_t n_jobs)
{
    struct kd_trial *t = kd_xalloc(sizeof *t);
    const kd_time_ms now = kd_clock_ms();
    const char *why = "only a job file can be tried";
    kd_worker_record *w = NULL;
    t->call = kd_rpc_call_ref(call);
    t->jobs = (uint32_t)n_jobs;
    t->until = KD_MIN(now + PATIENCE_MS, kd_rpc_call_deadline(call) - MARGIN_MS);
    kd_buf_init(&t->reply, KD_MAX_CONTROL_BYTES);
    t->next = d->trials;
    d->trials = t;
    const int rc = kd_wire_pack(reply, &t->reply);
    if (rc != 0)
        why = "the reply is too large";
    if (rc == 0 && spec) {
        count_workers(d, spec, t);
        why = "the call's deadline leaves no time to try the job";
        if (t->until - now >= LEAST_MS)
            w = choose(d, t, &why);
    }
    if (!w) {
        finish_without(d, t, "%s", why);
        return;
    }
    t->member = w->id;
    t->id = d->state.epoch << 32 | ++d->last_trial; /* an answer may come after a restart */
    snprintf(t->worker, sizeof t->worker, "%s", w->name);
    kd_info("a worker tries a job: worker=%s job=%s", w->name, spec->name);
    ask(d, w, t, reply->resolved, t->until - now - KD_MIN((t->until - now) / 4, STAGE_MS));
}

void kd_trial_worker_gone(kd_daemon *d, const kd_worker_record *w)
{
    for (struct kd_trial *t = d->trials, *next; t; t = next) {
        next = t->next;
        if (t->member == w->id)
            finish_without(d, t, "%s, which was trying the job, was lost", t->worker);
    }
}

/* The worker may turn to something else. One that got a job has done so; anything that it is sent
 * now would be in the job's way. */
static void call_off(kd_daemon *d, const struct kd_trial *t)
{
    kd_worker_record *w = kd_daemon_worker(d, t->member);
    if (w && is_idle(d, w))
        ask(d, w, t, "", 0);
}

void kd_trial_caller_gone(kd_daemon *d, const kd_rpc_call *call)
{
    for (struct kd_trial *t = d->trials, *next; t; t = next) {
        next = t->next;
        if (t->call != call)
            continue;
        call_off(d, t);
        finish_without(d, t, "nobody waits for the answer");
    }
}

void kd_trial_tick(kd_daemon *d, kd_time_ms now)
{
    for (struct kd_trial *t = d->trials, *next; t; t = next) {
        next = t->next;
        if (now < t->until)
            continue;
        call_off(d, t);
        finish_without(d, t, "%s did not get done with trying the job in time", t->worker);
    }
}

void kd_trial_close(kd_daemon *d)
{
    while (d->trials)
        finish_without(d, d->trials, "the coordinator is stopping");
}

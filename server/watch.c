/* Events: stored, logged, and sent to those who watch. */
#include "daemon.h"

#include "kd/log.h"
#include "kd/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 256 /* events sent from the database at once */
#define PROGRESS_MS 250
#define HIGH_WATER (1 << 20) /* bytes queued to a slow watcher before it gets no more */

static Distill__V1__JobState wire_state(int state)
{
    return (Distill__V1__JobState)(state + 1);
}

bool kd_watch_progress(kd_daemon *d, kd_job_record *j, Distill__V1__Progress *p)
{
    kd_core_view v;
    if (j->row.state != KD_RUN_RUNNING || !kd_core_job_view(d->core, j->row.id, &v) ||
        v.stage >= (uint32_t)j->n_stages)
        return false;
    kd_stage_record *s = &j->stages[v.stage];
    distill__v1__progress__init(p);
    p->stage = s->row.name;
    p->stage_index = v.stage;
    p->stage_count = (uint32_t)j->n_stages;
    p->workers = v.members;
    p->phase = v.preparing ? "preparing" : (char *)j->phase;
    p->accuracy = -1;
    p->eta_seconds = -1;
    if (!s->info || s->kind == KD_STAGE_EVALUATE)
        return true;
    uint64_t epoch_steps = KD_MAX(kd_stage_epoch_steps(s->info), (uint64_t)1);
    p->steps = kd_stage_last_version(s) - 1;
    p->step = s->version ? s->version - 1 : 0;
    p->epochs = s->info->epochs;
    p->epoch = (uint32_t)KD_MIN(p->step / epoch_steps + 1, (uint64_t)p->epochs);
    p->loss = s->last_loss;
    if (s->sums.samples > 0)
        p->accuracy = s->sums.correct / s->sums.samples;
    const kd_epoch_row *e = kd_stage_evaluation(j, v.stage, 0);
    p->learning_rate = e ? e->learning_rate : 0;
    p->samples_per_second = s->rate;
    if (s->rate > 0)
        p->eta_seconds = (double)(p->steps - p->step) * s->info->batch / s->rate;
    return true;
}

void kd_watch_fill(Distill__V1__Event *e, const kd_event_row *row)
{
    distill__v1__event__init(e);
    e->seq = row->seq;
    e->time_ms = row->time_ms;
    e->kind = (char *)row->kind;
    e->text = row->text;
    e->worker = (char *)row->worker;
    e->state = wire_state(row->state);
    e->data = row->data ? row->data : "";
}

static int send_row(void *arg, const kd_event_row *row)
{
    kd_watcher *w = arg;
    Distill__V1__Event e;
    kd_watch_fill(&e, row);
    int rc = w->sink->send(w->to, &e);
    if (rc == 0)
        w->next_seq = row->seq + 1;
    return rc;
}

/* Sends what is stored and not yet sent; ends the stream when there is no more to come. */
static void feed(kd_daemon *d, kd_watcher *w)
{
    kd_diag diag = {0};
    kd_job_record *j = kd_daemon_job(d, w->job);
    if (!j) {
        w->sink->finish(w->to, -KD_ENOENT, "the job was removed");
        return;
    }
    while (w->seen != d->state.events + 1) {
        if (w->sink->queued(w->to) > HIGH_WATER)
            return; /* the tick goes on */
        uint64_t from = w->next_seq;
        int rc = kd_state_each_event(&d->state, w->job, from, BATCH, send_row, w, &diag);
        if (rc != 0 && rc != -KD_ELIMIT && rc != -KD_ECANCELED)
            kd_warn("cannot read events: %s", diag.msg);
        if (rc != 0)
            return;
        if (w->next_seq - from < BATCH)
            w->seen = d->state.events + 1;
    }
    if (!w->follow || j->row.state >= KD_RUN_SUCCEEDED)
        w->sink->finish(w->to, 0, "");
}

void kd_watch_add(kd_daemon *d, kd_watcher *w)
{
    w->next = d->watchers;
    d->watchers = w;
    feed(d, w);
}

void kd_watch_drop(kd_daemon *d, const void *to)
{
    kd_watcher **at = &d->watchers;
    while (*at && (*at)->to != to)
        at = &(*at)->next;
    kd_watcher *w = *at;
    if (!w)
        return;
    *at = w->next;
    w->sink->drop(w->to);
    free(w);
}

void kd_watch_tick(kd_daemon *d, kd_time_ms now)
{
    for (kd_watcher *w = d->watchers; w; w = w->next) {
        feed(d, w);
        kd_job_record *j = kd_daemon_job(d, w->job);
        Distill__V1__Progress p;
        if (!w->progress || now - w->last_progress < PROGRESS_MS || !j ||
            w->sink->queued(w->to) > HIGH_WATER || !kd_watch_progress(d, j, &p))
            continue;
        w->last_progress = now;
        Distill__V1__Event e = DISTILL__V1__EVENT__INIT;
        e.time_ms = kd_clock_wall_ms();
        e.kind = "progress";
        e.state = wire_state(j->row.state);
        e.progress = &p;
        (void)w->sink->send(w->to, &e); /* the next one will do */
    }
}

void kd_watch_fed(kd_daemon *d, const kd_job_record *j)
{
    if (d->state.depth > 0)
        return; /* whoever commits tells of it, or the tick */
    for (kd_watcher *w = d->watchers; w; w = w->next)
        if (w->job == j->row.id)
            feed(d, w);
}

/* In one transaction with what hooks are to tell of it. */
static void store(kd_daemon *d, const kd_job_record *j, const kd_event_row *row)
{
    enum kd_hook_kind kind;
    kd_diag diag = {0};
    bool tells = kd_hooks_want(d, j, row->kind, &kind);
    int rc = tells ? kd_state_begin(&d->state, &diag) : 0;
    if (rc == 0)
        rc = kd_state_add_event(&d->state, j->row.id, row, &diag);
    if (rc == 0 && tells)
        rc = kd_hooks_add(d, j, kind, row->text, row->worker, row->data, &diag);
    if (rc == 0 && tells)
        rc = kd_state_commit(&d->state, &diag);
    if (rc != 0)
        kd_daemon_fatal(d, &diag);
}

static void log_event(const kd_job_record *j, const char *kind, const char *worker,
                      const char *text)
{
    bool warns = strcmp(kind, "warning") == 0 || strcmp(kind, "quarantine") == 0;
    kd_log(warns ? KD_LOG_WARN : KD_LOG_INFO, "%s job=%012llx event=%s%s%s", text,
           (unsigned long long)j->row.id, kind, worker[0] ? " worker=" : "", worker);
}

void kd_watch_line(kd_daemon *d, kd_job_record *j, const char *kind, const char *worker,
                   const char *data, int64_t time_ms, const char *text)
{
    kd_event_row row = {.time_ms = time_ms,
                        .state = j->row.state,
                        .text = (char *)text,
                        .data = data ? (char *)data : ""};
    snprintf(row.kind, sizeof row.kind, "%s", kind);
    snprintf(row.worker, sizeof row.worker, "%s", worker);
    store(d, j, &row);
    log_event(j, kind, worker, text);
}

void kd_watch_event(kd_daemon *d, kd_job_record *j, const char *kind, const char *worker,
                    const char *data, const char *fmt, ...)
{
    char text[2 * KD_CORE_TEXT];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    kd_utf8_mend(text); /* a cut may have split a character, which no client would take */
    kd_worker_log_flush(d);
    kd_watch_line(d, j, kind, worker, data, 0, text);
    if (d->state.depth == 0)
        kd_watch_fed(d, j);
}

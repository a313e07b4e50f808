/* What an exchange tells of its step, brought from its threads to the loop. */
#include "stages_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct news {
    kd_job_id job;
    uint32_t stage, slot, settled;
    uint64_t generation, version;
    kd_step_totals totals;
    uint64_t process, other;
    const char *what;
    char text[KD_CORE_TEXT];
    kd_time_ms *done_ms; /* owned */
    kd_exchange_course course;
    kd_exchange_io io;
};

static struct news *new_news(const kd_exchange_config *cfg, uint64_t generation, uint64_t version)
{
    struct news *n = kd_xalloc(sizeof *n);
    n->job = cfg->job;
    n->stage = cfg->stage;
    n->generation = generation;
    n->version = version;
    return n;
}

static void free_news(struct news *n)
{
    free(n->done_ms);
    free(n);
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
    d->counts.recoveries[s->fault_own]++;
    kd_histogram_add(&d->counts.recovery_seconds, took / 1000);
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
        if (!s->meter)
            s->meter = kd_xalloc(sizeof *s->meter);
        kd_meter_step(s->meter, n->version, &n->totals, &n->course, s->info->slots, now);
        kd_stage_count_step(s, n->version, &n->totals);
        j->phase = "training";
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_COMMITTED,
                                       .job = n->job,
                                       .stage = n->stage,
                                       .generation = n->generation,
                                       .version = n->version,
                                       .step = {.version = n->version - 1,
                                                .since = n->course.since,
                                                .whole = true,
                                                .done_ms = n->done_ms}});
    }
    free_news(n);
}

static void on_committed(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                         uint64_t version, const kd_step_totals *totals,
                         const kd_exchange_course *course)
{
    struct news *n = new_news(cfg, generation, version);
    n->totals = *totals;
    n->done_ms = kd_xalloc(cfg->slots * sizeof *n->done_ms);
    memcpy(n->done_ms, course->done_ms, cfg->slots * sizeof *n->done_ms);
    n->io = *course->io;
    n->course = (kd_exchange_course){course->since, n->done_ms, course->left, &n->io};
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
    const kd_stage_record *s = kd_stage_record_of(d, n->job, n->stage, &j);
    if (s) {
        if (n->generation == s->generation)
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
                                       .generation = n->generation,
                                       .version = n->version,
                                       .slot = n->slot,
                                       .process = n->process,
                                       .other = n->other,
                                       .settled = n->settled});
    }
    free_news(n);
}

static void on_divergence(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                          const char *what, uint64_t step, uint32_t slot, uint64_t first,
                          uint64_t other, uint32_t settled)
{
    struct news *n = new_news(cfg, generation, step);
    n->what = what;
    n->slot = slot;
    n->process = first;
    n->other = other;
    n->settled = settled;
    if (!kd_daemon_post(arg, loop_divergence, n))
        free_news(n);
}

static void loop_checked(kd_daemon *d, void *arg)
{
    struct news *n = arg;
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_CHECKED,
                                   .job = n->job,
                                   .stage = n->stage,
                                   .generation = n->generation,
                                   .version = n->version,
                                   .slot = n->slot,
                                   .process = n->process,
                                   .other = n->other,
                                   .settled = n->settled});
    free_news(n);
}

static void on_checked(void *arg, const kd_exchange_config *cfg, uint64_t generation, uint64_t step,
                       uint32_t slot, uint64_t process, uint64_t against, uint32_t settled)
{
    struct news *n = new_news(cfg, generation, step);
    n->slot = slot;
    n->process = process;
    n->other = against;
    n->settled = settled;
    if (!kd_daemon_post(arg, loop_checked, n))
        free_news(n);
}

static void loop_blocked(kd_daemon *d, void *arg)
{
    struct news *n = arg;
    kd_job_record *j;
    kd_stage_record *s = kd_stage_record_of(d, n->job, n->stage, &j);
    if (s && s->exchange && n->generation == s->generation) {
        memcpy(s->blocked, n->text, sizeof s->blocked);
        kd_stage_tell_blocked(d, j, n->stage);
    }
    free_news(n);
}

void kd_stage_tell_waiting(kd_daemon *d, kd_job_record *j, uint32_t stage, const char *why)
{
    char text[KD_CORE_TEXT] = "";
    if (why[0])
        snprintf(text, sizeof text, "waits for the coordinator's disk: %.340s", why);
    kd_daemon_event(
        d, &(kd_event){.kind = KD_EV_BLOCKED, .job = j->row.id, .stage = stage, .text = text});
}

void kd_stage_tell_blocked(kd_daemon *d, kd_job_record *j, uint32_t stage)
{
    const kd_stage_record *s = &j->stages[stage];
    kd_stage_tell_waiting(d, j, stage, s->blocked[0] ? s->blocked : s->no_room);
}

static void on_blocked(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                       const char *why)
{
    struct news *n = new_news(cfg, generation, 0);
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
            kd_stage_lose_checkpoint(d, j, n->stage, &diag);
    }
    free_news(n);
}

static void on_need_base(void *arg, const kd_exchange_config *cfg)
{
    struct news *n = new_news(cfg, 0, 0); /* every opening has the same newest checkpoint */
    if (!kd_daemon_post(arg, loop_need_base, n))
        free_news(n);
}

static kd_time_ms exchange_now(void *arg)
{
    (void)arg;
    return kd_clock_ms();
}

void kd_stage_news(kd_daemon *d, kd_exchange_events *out)
{
    *out = (kd_exchange_events){on_committed,
                                kd_checkpoint_snapshot,
                                kd_evaluation_done,
                                on_divergence,
                                on_checked,
                                on_need_base,
                                on_blocked,
                                exchange_now,
                                d};
}

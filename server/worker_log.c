/* Log lines of workers: they become events of their job, several in one transaction, in order of
 * time; bounded a worker and a job. */
#include "daemon.h"

#include "kd/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLUSH_MS 250
#define A_SECOND 64       /* lines of one worker that are taken */
#define OF_A_JOB 20000    /* lines that are kept of one job in this process */
#define MAX_AGE_MS 600000 /* a worker that was away for longer tells no truth */

void kd_worker_log_add(kd_daemon *d, kd_worker_record *w, const Distill__V1__WorkerLog *l)
{
    kd_job_id id;
    kd_job_record *j = kd_id_parse(l->job, &id) ? kd_daemon_job(d, id) : NULL;
    kd_time_ms now = kd_clock_ms();
    if (!j || j->row.state >= KD_RUN_SUCCEEDED)
        return;
    if (now - w->lines_since >= 1000) {
        w->lines_since = now;
        w->lines = 0;
    }
    if (w->lines++ >= A_SECOND || j->lines >= OF_A_JOB || d->n_lines == KD_COUNT(d->lines)) {
        d->counts.lines[1]++;
        if (j->lines == OF_A_JOB) {
            j->lines++;
            kd_watch_event(d, j, "warning", "", NULL,
                           "further log lines of its workers are not kept");
        }
        return;
    }
    j->lines++;
    d->counts.lines[0]++;
    kd_worker_line *o = &d->lines[d->n_lines++];
    *o = (kd_worker_line){.job = id,
                          .time_ms = kd_clock_wall_ms() - KD_MIN(l->age_ms, (uint32_t)MAX_AGE_MS),
                          .seq = l->seq,
                          .stage = l->stage,
                          .step = l->step,
                          .level = strcmp(l->level, "err") == 0    ? "err"
                                   : strcmp(l->level, "warn") == 0 ? "warn"
                                                                   : "info"};
    snprintf(o->worker, sizeof o->worker, "%s", w->name);
    snprintf(o->text, sizeof o->text, "%.600s", l->text);
    if (d->n_lines == 1)
        d->lines_at = now;
}

static int by_time(const void *a, const void *b)
{
    const kd_worker_line *p = a, *q = b;
    int names = strcmp(p->worker, q->worker);
    return p->time_ms != q->time_ms ? (p->time_ms < q->time_ms ? -1 : 1)
           : names                  ? names
           : p->seq != q->seq       ? (p->seq < q->seq ? -1 : 1)
                                    : 0;
}

void kd_worker_log_flush(kd_daemon *d)
{
    size_t n = d->n_lines;
    kd_diag diag = {0};
    if (n == 0)
        return;
    d->n_lines = 0; /* what is stored asks for this again */
    qsort(d->lines, n, sizeof *d->lines, by_time);
    if (kd_state_begin(&d->state, &diag) != 0)
        kd_daemon_fatal(d, &diag);
    for (size_t i = 0; i < n; i++) {
        const kd_worker_line *l = &d->lines[i];
        kd_job_record *j = kd_daemon_job(d, l->job);
        char data[160];
        if (!j)
            continue;
        snprintf(data, sizeof data,
                 "{\"level\":\"%s\",\"stage\":\"%s\",\"step\":%" PRIu64 ",\"seq\":%" PRIu64 "}",
                 l->level, l->stage < (uint32_t)j->n_stages ? j->stages[l->stage].row.name : "",
                 l->step, l->seq);
        kd_watch_line(d, j, strcmp(l->level, "info") == 0 ? "log" : "warning", l->worker, data,
                      l->time_ms, l->text);
    }
    if (kd_state_commit(&d->state, &diag) != 0)
        kd_daemon_fatal(d, &diag);
    for (size_t i = 0; i < n; i++) {
        const kd_job_record *j = kd_daemon_job(d, d->lines[i].job);
        if (j && (i == 0 || d->lines[i].job != d->lines[i - 1].job))
            kd_watch_fed(d, j);
    }
}

void kd_worker_log_tick(kd_daemon *d, kd_time_ms now)
{
    if (d->n_lines && now - d->lines_at >= FLUSH_MS)
        kd_worker_log_flush(d);
}

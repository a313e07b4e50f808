/* What users want of jobs and workers that are there: paused, resumed, scaled, drained. A wish is
 * stored together with what follows from it at once, before anybody is answered. */
#include "daemon.h"
#include "sweep.h"

#include "kd/log.h"

#include <stdlib.h>
#include <string.h>

#define MAX_SCALE 4096 /* as cluster.min_workers and cluster.max_workers of the job file */

static bool over(const kd_job_record *j)
{
    return j->row.state >= KD_RUN_SUCCEEDED;
}

/* The job itself, or the jobs of a sweep that are not over; the caller frees the list. */
static size_t list_jobs(kd_daemon *d, kd_job_record *j, kd_job_record ***out)
{
    size_t n = 0;
    for (kd_job_record *o = NULL; j->row.is_sweep && (o = kd_sweep_next(d, j, o));)
        n++;
    kd_job_record **list = kd_xalloc((n + 1) * sizeof *list);
    n = 0;
    for (kd_job_record *o = NULL; j->row.is_sweep && (o = kd_sweep_next(d, j, o));)
        if (!over(o))
            list[n++] = o;
    if (!j->row.is_sweep && !over(j))
        list[n++] = j;
    *out = list;
    return n;
}

static void begin(kd_daemon *d)
{
    kd_diag diag = {0};
    if (kd_state_begin(&d->state, &diag) != 0)
        kd_daemon_fatal(d, &diag);
}

static void commit(kd_daemon *d, kd_job_record *const *list, size_t n)
{
    kd_diag diag = {0};
    if (kd_state_commit(&d->state, &diag) != 0)
        kd_daemon_fatal(d, &diag);
    for (size_t i = 0; i < n; i++)
        kd_watch_fed(d, list[i]);
}

static void store(kd_daemon *d, const kd_job_record *j)
{
    const kd_job_row *r = &j->row;
    kd_diag diag = {0};
    if (kd_state_set_wishes(&d->state, r->id, r->paused, r->min_workers, r->max_workers, &diag) !=
        0)
        kd_daemon_fatal(d, &diag);
}

bool kd_wish_paused(kd_daemon *d, const kd_job_record *j)
{
    if (!j->row.is_sweep)
        return j->row.paused && !over(j);
    bool any = false;
    for (kd_job_record *o = NULL; (o = kd_sweep_next(d, j, o));) {
        if (!over(o) && !o->row.paused)
            return false;
        any = any || !over(o);
    }
    return any;
}

int kd_wish_pause(kd_daemon *d, kd_job_record *j, bool pause, const char *who, kd_diag *diag)
{
    kd_job_record **list;
    size_t n = list_jobs(d, j, &list), changed = 0;
    if (n == 0) {
        free(list);
        return kd_fail(diag, -KD_ESTATE, "the job is over already");
    }
    begin(d);
    for (size_t i = 0; i < n; i++) {
        /* Paused from the last on, so that none starts on workers that another has given up. */
        kd_job_record *o = list[pause ? n - 1 - i : i];
        if (o->row.paused == pause)
            continue;
        changed++;
        o->row.paused = pause;
        store(d, o);
        kd_watch_event(d, o, "log", "", NULL, "%s by %s", pause ? "paused" : "resumed", who);
        kd_daemon_event(d,
                        &(kd_event){.kind = pause ? KD_EV_PAUSE : KD_EV_RESUME, .job = o->row.id});
    }
    if (j->row.is_sweep && changed)
        kd_watch_event(d, j, "log", "", NULL, "%s by %s: %zu of its jobs",
                       pause ? "paused" : "resumed", who, changed);
    commit(d, list, n);
    kd_watch_fed(d, j);
    free(list);
    return 0;
}

static int check_scale(const kd_job_record *j, uint32_t min, uint32_t max, kd_diag *diag)
{
    if (min > MAX_SCALE || max > MAX_SCALE)
        return kd_fail(diag, -KD_EINVAL, "at most %d workers can be asked for", MAX_SCALE);
    uint32_t least = min ? min : kd_job_min_workers(j), most = max ? max : kd_job_max_workers(j);
    if (least <= most)
        return 0;
    return kd_fail(
        diag, -KD_EINVAL,
        "job %012llx would want at least %u workers and at most %u; the least may not be "
        "more than the most",
        (unsigned long long)j->row.id, least, most);
}

int kd_wish_scale(kd_daemon *d, kd_job_record *j, uint32_t min, uint32_t max, const char *who,
                  kd_diag *diag)
{
    kd_job_record **list;
    size_t n = list_jobs(d, j, &list), changed = 0;
    int rc = 0;
    if (n == 0)
        rc = kd_fail(diag, -KD_ESTATE, "the job is over already");
    else if (min == 0 && max == 0)
        rc = kd_fail(diag, -KD_EINVAL,
                     "scale to what? a least or a most number of workers, at "
                     "least 1, is expected");
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = check_scale(list[i], min, max, diag);
    if (rc != 0) {
        free(list);
        return rc;
    }
    begin(d);
    for (size_t i = 0; i < n; i++) {
        kd_job_record *o = list[i];
        uint32_t least = kd_job_min_workers(o), most = kd_job_max_workers(o);
        o->row.min_workers = min ? min : o->row.min_workers;
        o->row.max_workers = max ? max : o->row.max_workers;
        if (kd_job_min_workers(o) == least && kd_job_max_workers(o) == most)
            continue;
        changed++;
        least = kd_job_min_workers(o);
        most = kd_job_max_workers(o);
        store(d, o);
        kd_watch_event(d, o, "log", "", NULL, "scaled by %s: %u to %u workers", who, least, most);
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_SCALE,
                                       .job = o->row.id,
                                       .min_workers = least,
                                       .max_workers = most});
    }
    if (j->row.is_sweep) {
        j->row.min_workers = min ? min : j->row.min_workers;
        j->row.max_workers = max ? max : j->row.max_workers;
        store(d, j);
    }
    if (j->row.is_sweep && changed)
        kd_watch_event(d, j, "log", "", NULL, "scaled by %s: %zu of its jobs", who, changed);
    commit(d, list, n);
    kd_watch_fed(d, j);
    free(list);
    return 0;
}

kd_worker_record *kd_wish_drain(kd_daemon *d, const char *name, bool undo, const char *who,
                                kd_diag *diag)
{
    kd_worker_record *w = d->workers;
    while (w && (!w->joined || strcmp(w->name, name) != 0))
        w = w->next;
    if (!w) {
        (void)kd_fail(diag, -KD_ENOENT,
                      "no worker \"%.64s\" is connected (`distill workers` lists those that are)",
                      name);
        return NULL;
    }
    const char *state;
    kd_job_id job = kd_core_member_job(d->core, w->id, &state);
    kd_job_record *j = job ? kd_daemon_job(d, job) : NULL;
    kd_info("%s: worker=%s by=%s", undo ? "drained no more" : "drained", w->name, who);
    begin(d);
    if (j && !undo && strcmp(state, "draining") != 0)
        kd_watch_event(d, j, "worker", w->name, NULL, "drained by %s", who);
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_DRAIN, .member = w->id, .stop = undo});
    commit(d, &j, j != NULL);
    return w;
}

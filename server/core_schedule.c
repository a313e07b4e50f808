/* Who works for whom: the members, what each job takes of them, and when a stage has enough. */
#include "core_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A member that prepares may be this much later than the first one that was ready; after that the
 * stage begins without it and takes it in at a checkpoint. */
#define LATE_MS 20000

struct member *kd_core_member(const kd_core *c, kd_member_id id)
{
    size_t low = 0, high = c->n_members;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c->members[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < c->n_members && c->members[low].id == id ? &c->members[low] : NULL;
}

bool kd_core_refused(const struct member *m, kd_job_id job)
{
    for (size_t i = 0; i < m->n_refused; i++)
        if (m->refused[i] == job)
            return true;
    return false;
}

void kd_core_refuse(struct member *m, kd_job_id job)
{
    kd_job_id *p = realloc(m->refused, (m->n_refused + 1) * sizeof *p);
    KD_BUG_ON(!p);
    m->refused = p;
    m->refused[m->n_refused++] = job;
}

/* Whether it may be given to the job at all. */
static bool usable(const struct member *m, kd_job_id job)
{
    return !m->drain && !m->quarantined && !kd_core_refused(m, job);
}

size_t kd_core_count(const kd_core *c, kd_job_id job, enum member_state least)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_members; i++)
        n += c->members[i].job == job && c->members[i].state >= least && !c->members[i].leaving;
    return n;
}

size_t kd_core_count_in(const kd_core *c, kd_job_id job, enum member_state state)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_members; i++)
        n += c->members[i].job == job && c->members[i].state == state;
    return n;
}

size_t kd_core_most_members(const struct job *j)
{
    const kd_core_stage_setup *s = &j->stages[j->stage].s;
    size_t most = j->max_workers;
    if (s->kind == KD_CORE_TRAIN && s->has_info)
        most = KD_MIN(most, (size_t)s->info.slots);
    most = KD_MAX(most, KD_MAX((size_t)j->min_workers, (size_t)1));
    /* Who decides between two others comes besides. */
    return j->open && j->dispute.open ? most + 1 : most;
}

void kd_core_release(struct member *m, const char *why, kd_actions *out)
{
    kd_action *a = kd_core_act(out, KD_ACT_RELEASE, m->job, 0);
    a->member = m->id;
    snprintf(a->text, sizeof a->text, "%s", why);
    m->job = 0;
    m->state = IDLE;
    m->leaving = m->drained = false;
}

void kd_core_prepare(struct member *m, struct job *j, kd_actions *out)
{
    m->job = j->id;
    m->state = PREPARING;
    kd_core_act(out, KD_ACT_PREPARE, j->id, j->stage)->member = m->id;
}

void kd_core_gone(kd_core *c, struct member *m, const char *why, bool lost, kd_actions *out)
{
    struct job *j = m->job ? kd_core_job(c, m->job) : NULL;
    bool worked = m->state == WORKING;
    if (j && lost)
        kd_core_note(out, j->id, m->id, "worker", "worker lost: %s", why);
    if (lost) {
        free(m->refused);
        size_t at = (size_t)(m - c->members);
        memmove(m, m + 1, (c->n_members - at - 1) * sizeof *m);
        c->n_members--;
    } else {
        kd_core_release(m, why, out);
    }
    if (!j || j->state != KD_RUN_RUNNING || !worked || !j->open)
        return; /* in a stage that measures, try_begin asks another member */
    if (kd_core_count(c, j->id, READY) < KD_MAX(j->min_workers, 1u)) {
        /* What is there stays as it is until there are enough again; who wants to leave has no step
         * left to finish. */
        j->short_handed = true;
        for (size_t i = 0; i < c->n_members; i++)
            if (c->members[i].job == j->id && c->members[i].leaving)
                kd_core_release(&c->members[i], "drained", out);
        return;
    }
    kd_core_note(out, j->id, 0, "worker", "going on with %zu worker(s)",
                 kd_core_count(c, j->id, READY));
    kd_step_reshape(j, out);
}

static void wait_for_workers(kd_core *c, struct job *j, size_t have, size_t need, kd_actions *out)
{
    char text[KD_CORE_TEXT];
    size_t fit = 0;
    for (size_t i = 0; i < c->n_members; i++)
        fit += usable(&c->members[i], j->id);
    if (fit < need && j->problem[0])
        snprintf(text, sizeof text, "no worker can serve it: %.300s", j->problem);
    else
        snprintf(text, sizeof text, "waiting for workers: %zu of at least %zu", have, need);
    kd_core_set_state(j, KD_RUN_RUNNING, text, out);
}

/* Asks one of the members to measure. */
static void try_measure(kd_core *c, struct job *j, kd_actions *out)
{
    bool asked = false;
    for (size_t i = 0; i < c->n_members; i++) {
        struct member *m = &c->members[i];
        if (m->job != j->id || m->state == IDLE)
            continue;
        asked |= m->state == WORKING;
        if (m->state == READY && !asked) {
            m->state = WORKING;
            kd_core_act(out, KD_ACT_MEASURE, j->id, j->stage)->member = m->id;
            asked = true;
        }
    }
}

/* Begins a stage whose members are ready, or goes on with one that was short of them; says what it
 * waits for. */
void kd_core_try_begin(kd_core *c, struct job *j, kd_time_ms now, kd_actions *out)
{
    if (j->state != KD_RUN_RUNNING || j->stage >= j->n_stages || (j->open && !j->short_handed))
        return;
    struct stage *st = &j->stages[j->stage];
    if (st->s.kind == KD_CORE_EXPORT || st->s.held[0])
        return;
    size_t ready = kd_core_count(c, j->id, READY),
           preparing = kd_core_count_in(c, j->id, PREPARING);
    size_t need = st->s.kind == KD_CORE_MEASURE ? 1 : j->min_workers;
    if (ready + preparing < need) {
        wait_for_workers(c, j, ready + preparing, need, out);
        return;
    }
    if (ready < need)
        return;
    if (j->first_ready == 0)
        j->first_ready = now;
    if (preparing && now - j->first_ready < LATE_MS && !j->open)
        return;
    j->first_ready = 0;
    if (st->s.kind == KD_CORE_MEASURE) {
        try_measure(c, j, out);
    } else if (j->open) {
        j->short_handed = false;
        kd_step_reshape(j, out);
    } else {
        kd_step_open(c, j, out);
    }
}

/* ---- who works for whom */

void kd_core_yield_now(kd_core *c, struct job *j, kd_actions *out)
{
    char why[KD_CORE_TEXT];
    memcpy(why, j->yield_why, sizeof why);
    kd_step_close(j, out);
    for (size_t i = 0; i < c->n_members; i++)
        if (c->members[i].job == j->id)
            kd_core_release(&c->members[i], why, out);
    kd_core_set_state(j, KD_RUN_QUEUED, why, out);
}

void kd_core_yield(kd_core *c, struct job *j, const char *why, kd_actions *out)
{
    snprintf(j->yield_why, sizeof j->yield_why, "%s", why);
    if (j->state != KD_RUN_RUNNING || j->export_running)
        return;
    j->yielding = true;
    if (!j->open || j->short_handed || j->fresh || j->blocked[0] || j->dispute.open)
        kd_core_yield_now(c, j, out);
}

void kd_core_let_go(kd_core *c, struct job *j, struct member *m, const char *why, kd_actions *out)
{
    size_t others = kd_core_count(c, j->id, READY) - (m->state >= READY);
    if (m->state != WORKING || !j->open || others < KD_MAX(j->min_workers, 1u)) {
        kd_core_gone(c, m, why, false, out);
        return;
    }
    m->leaving = true;
    kd_step_reshape(j, out);
}

/* Workers of running jobs of lower priority that a queued job would need: first those that are
 * there beyond min_workers, then all of a job's. True when something was set moving. */
static bool preempt(kd_core *c, const struct job *j, size_t missing, kd_actions *out)
{
    char why[KD_CORE_TEXT];
    snprintf(why, sizeof why, "makes room for job %012llx of higher priority",
             (unsigned long long)j->id);
    bool moving = false;
    for (size_t i = 0; i < c->n_members && missing > 0; i++) {
        /* On their way already. */
        bool comes = c->members[i].leaving && usable(&c->members[i], j->id);
        missing -= comes;
        moving = moving || comes;
    }
    /* A copy: a job that yields at once is running no more. */
    size_t n = c->n_running;
    struct job **running = kd_core_copy_list(c->running, n);
    for (size_t k = n; k-- > 0 && missing > 0;) {
        struct job *low = running[k];
        if (low->state != KD_RUN_RUNNING || low->priority >= j->priority || low->yielding)
            continue;
        size_t have = kd_core_count(c, low->id, PREPARING);
        for (size_t i = c->n_members; i-- > 0 && missing > 0 && have > low->min_workers;) {
            struct member *m = &c->members[i];
            if (m->job != low->id || m->leaving || !usable(m, j->id))
                continue;
            moving = true;
            missing--;
            have--;
            kd_core_let_go(c, low, m, why, out);
        }
    }
    for (size_t k = n; k-- > 0 && missing > 0;) {
        struct job *low = running[k];
        if (low->state != KD_RUN_RUNNING || low->priority >= j->priority || low->export_running)
            continue;
        size_t gives = 0;
        for (size_t i = 0; i < c->n_members; i++)
            gives += c->members[i].job == low->id && !c->members[i].leaving &&
                     usable(&c->members[i], j->id);
        missing -= KD_MIN(missing, gives);
        moving = moving || gives > 0;
        if (gives > 0 && !low->yielding)
            kd_core_yield(c, low, why, out);
    }
    free(running);
    return moving;
}

static size_t lower_workers(const kd_core *c, const struct job *j)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_members; i++) {
        const struct member *m = &c->members[i];
        const struct job *o = m->job ? kd_core_job(c, m->job) : NULL;
        n += o && o->priority < j->priority && usable(m, j->id);
    }
    return n;
}

/* The members at a glance, since thousands of jobs may ask: who is idle, how many each job has.
 * Valid until an action changes that. */
struct survey {
    size_t actions; /* that there were when it was made */
    bool made;
    size_t usable, idle; /* of those that refuse no job */
    int lowest;          /* priority of any job that has members */
    size_t *choosy;      /* usable members that refuse some job: numbers in kd_core.members */
    size_t n_choosy;
};

static void take_survey(kd_core *c, struct survey *s, const kd_actions *out)
{
    if (s->made && s->actions == out->count)
        return;
    size_t *room = s->choosy ? s->choosy : kd_xalloc((c->n_members + 1) * sizeof *room);
    *s = (struct survey){.actions = out->count, .made = true, .lowest = INT32_MAX, .choosy = room};
    for (size_t i = 0; i < c->n_running; i++)
        c->running[i]->have = 0;
    for (size_t i = 0; i < c->n_members; i++) {
        const struct member *m = &c->members[i];
        struct job *j = m->job ? kd_core_job(c, m->job) : NULL;
        if (j) {
            j->have += m->state >= PREPARING && !m->leaving;
            s->lowest = KD_MIN(s->lowest, j->priority);
        }
        if (m->drain || m->quarantined)
            continue;
        if (m->n_refused) {
            room[s->n_choosy++] = i;
            continue;
        }
        s->usable++;
        s->idle += m->state == IDLE;
    }
}

/* How many members may be given to the job, and how many of them are idle. */
static void count_fit(const kd_core *c, const struct survey *s, kd_job_id job, size_t *out_fit,
                      size_t *out_idle)
{
    *out_fit = s->usable;
    *out_idle = s->idle;
    for (size_t i = 0; i < s->n_choosy; i++) {
        const struct member *m = &c->members[s->choosy[i]];
        if (!usable(m, job))
            continue;
        ++*out_fit;
        *out_idle += m->state == IDLE;
    }
}

/* Thousands may be queued, and each event looks at all of them: what was told is not put into words
 * again. */
static void tell_queued(const kd_core *c, struct job *j, size_t fit, size_t idle, kd_actions *out)
{
    struct queued now = {j->min_workers, fit, fit < j->min_workers ? c->n_members : idle, true},
                  before = j->queued;
    char text[KD_CORE_TEXT];
    size_t actions = out->count;
    if (memcmp(&now, &before, sizeof now) == 0)
        return;
    if (fit < j->min_workers)
        snprintf(text, sizeof text, "needs %u worker(s), %zu of %zu connected can serve it",
                 j->min_workers, fit, c->n_members);
    else
        snprintf(text, sizeof text, "needs %u worker(s), %zu idle", j->min_workers, idle);
    kd_core_set_state(j, KD_RUN_QUEUED, text, out);
    j->queued = now;
    if (out->count > actions)
        out->items[actions].figures = before.told && before.need == now.need &&
                                      (before.fit < before.need) == (now.fit < now.need);
}

/* What one job takes of the idle workers. Returns false when later ones must not have the rest. */
static bool schedule_job(kd_core *c, struct job *j, struct survey *s, kd_actions *out)
{
    bool needs_workers = j->stage < j->n_stages && j->stages[j->stage].s.kind != KD_CORE_EXPORT;
    if (j->state == KD_RUN_RUNNING && !needs_workers)
        return true;
    if (j->paused || j->yielding)
        return true;
    if (kd_core_held(j)[0]) {
        kd_core_set_state(j, j->state, kd_core_held(j), out);
        return true;
    }
    size_t idle, fit;
    take_survey(c, s, out);
    count_fit(c, s, j->id, &fit, &idle);
    size_t have = j->state == KD_RUN_RUNNING ? j->have : 0;
    if (j->state == KD_RUN_QUEUED && needs_workers && idle < j->min_workers) {
        if (s->lowest < j->priority && idle + lower_workers(c, j) >= j->min_workers)
            preempt(c, j, j->min_workers - idle, out);
        s->made = s->made && s->lowest >= j->priority; /* who leaves is counted no more */
        tell_queued(c, j, fit, idle, out);
        return fit < j->min_workers;
    }
    size_t most = kd_core_most_members(j);
    bool measuring = needs_workers && j->stages[j->stage].s.kind == KD_CORE_MEASURE;
    if (measuring)
        most = 1;
    if (j->state == KD_RUN_QUEUED) {
        kd_core_set_state(j, KD_RUN_RUNNING, "", out);
        kd_core_note(out, j->id, 0, "started", "started");
        kd_core_enter_stage(c, j, out);
    }
    /* Those who hold its stage from before come first. */
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < c->n_members && have < most && idle > 0; i++) {
            struct member *m = &c->members[i];
            if (m->state != IDLE || !usable(m, j->id) || !needs_workers ||
                (pass == 0 && m->offer != j->id))
                continue;
            kd_core_prepare(m, j, out);
            have++;
            idle--;
        }
    return true;
}

/* Gives idle workers to jobs by priority, then in order of submission. A queued job that could
 * start with the workers there are, were they idle, keeps later ones from taking them; one that
 * cannot does not. */
void kd_core_schedule(kd_core *c, kd_actions *out)
{
    size_t n = c->n_live;
    struct job **order = kd_core_copy_list(c->live, n);
    struct survey s = {0};
    for (size_t k = 0; k < n; k++)
        if (!schedule_job(c, order[k], &s, out))
            break;
    free(s.choosy);
    free(order);
}

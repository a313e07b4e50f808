#include "core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A member that prepares may be this much later than the first one that was ready; after that the
 * stage begins without it and takes it in at a checkpoint. */
#define LATE_MS 20000
/* Generations in a row that ended because a member could not go on, without a step between them:
 * what stops the next one is no accident. */
#define MAX_STALLS 5

enum member_state { IDLE, PREPARING, READY, WORKING };

struct member {
    kd_member_id id;
    enum member_state state;
    kd_job_id job;      /* 0 = none */
    kd_job_id *refused; /* jobs that this worker cannot serve */
    size_t n_refused;
};

struct stage {
    kd_core_stage_setup s;
    bool committed_last; /* version last_version is whole */
    bool saved_last;     /* and durable: a network that is only loaded starts at its last version */
    uint64_t pending_manifest; /* saved, but an evaluation before it is still open; 0 = none */
};

struct job {
    kd_job_id id;
    enum kd_run_state state;
    uint32_t min_workers, max_workers, n_stages, stage;
    struct stage stages[KD_CORE_STAGES];
    bool open; /* a generation is running */
    bool export_running;
    bool join_requested; /* a checkpoint was asked for, to take members in */
    uint64_t generation;
    uint32_t stalls;        /* since the last step that was committed */
    kd_time_ms first_ready; /* of the stage's preparation; 0 = nobody yet */
    char reason[KD_CORE_TEXT];
    char problem[KD_CORE_TEXT]; /* why the last worker could not serve it */
};

struct kd_core {
    uint64_t epoch, counter;
    struct member *members; /* in order of joining */
    size_t n_members;
    struct job *jobs; /* in order of submission */
    size_t n_jobs;
};

void kd_actions_clear(kd_actions *a)
{
    free(a->items);
    *a = (kd_actions){0};
}

static kd_action *act(kd_actions *out, enum kd_action_kind kind, kd_job_id job, uint32_t stage)
{
    if (out->count == out->cap) {
        size_t cap = out->cap ? out->cap * 2 : 16;
        kd_action *p = realloc(out->items, cap * sizeof *p);
        KD_BUG_ON(!p);
        out->items = p;
        out->cap = cap;
    }
    kd_action *a = &out->items[out->count++];
    *a = (kd_action){.kind = kind, .job = job, .stage = stage};
    return a;
}

KD_PRINTF(5, 6)
static void note(kd_actions *out, kd_job_id job, kd_member_id member, const char *word,
                 const char *fmt, ...)
{
    kd_action *a = act(out, KD_ACT_NOTE, job, 0);
    a->member = member;
    a->word = word;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(a->text, sizeof a->text, fmt, ap);
    va_end(ap);
}

kd_core *kd_core_new(uint64_t epoch)
{
    kd_core *c = kd_xalloc(sizeof *c);
    c->epoch = epoch;
    return c;
}

void kd_core_free(kd_core *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_members; i++)
        free(c->members[i].refused);
    free(c->members);
    free(c->jobs);
    free(c);
}

static struct job *find_job(const kd_core *c, kd_job_id id)
{
    for (size_t i = 0; i < c->n_jobs; i++)
        if (c->jobs[i].id == id)
            return &c->jobs[i];
    return NULL;
}

static struct member *find_member(const kd_core *c, kd_member_id id)
{
    for (size_t i = 0; i < c->n_members; i++)
        if (c->members[i].id == id)
            return &c->members[i];
    return NULL;
}

static bool refused(const struct member *m, kd_job_id job)
{
    for (size_t i = 0; i < m->n_refused; i++)
        if (m->refused[i] == job)
            return true;
    return false;
}

static void refuse(struct member *m, kd_job_id job)
{
    kd_job_id *p = realloc(m->refused, (m->n_refused + 1) * sizeof *p);
    KD_BUG_ON(!p);
    m->refused = p;
    m->refused[m->n_refused++] = job;
}

static size_t count_members(const kd_core *c, kd_job_id job, enum member_state least)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_members; i++)
        n += c->members[i].job == job && c->members[i].state >= least;
    return n;
}

static size_t count_in_state(const kd_core *c, kd_job_id job, enum member_state state)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_members; i++)
        n += c->members[i].job == job && c->members[i].state == state;
    return n;
}

/* What the job's next stage waits for, "" if it may run. */
static const char *held(const struct job *j)
{
    return j->stage < j->n_stages ? j->stages[j->stage].s.held : "";
}

/* Slots and chunks bound how many members can have work at once. */
static size_t most_members(const struct job *j)
{
    const kd_core_stage_setup *s = &j->stages[j->stage].s;
    size_t most = j->max_workers;
    if (s->kind == KD_CORE_TRAIN && s->has_info)
        most = KD_MIN(most, (size_t)s->info.slots);
    return KD_MAX(most, (size_t)1);
}

static void set_state(struct job *j, enum kd_run_state state, const char *reason, kd_actions *out)
{
    if (j->state == state && strcmp(j->reason, reason) == 0)
        return;
    j->state = state;
    snprintf(j->reason, sizeof j->reason, "%s", reason);
    kd_action *a = act(out, KD_ACT_STATE, j->id, j->stage);
    a->state = state;
    memcpy(a->text, j->reason, sizeof a->text);
}

static void close_generation(struct job *j, kd_actions *out)
{
    if (j->open)
        act(out, KD_ACT_CLOSE, j->id, j->stage);
    j->open = false;
    j->join_requested = false;
}

static void release(struct member *m, const char *why, kd_actions *out)
{
    kd_action *a = act(out, KD_ACT_RELEASE, m->job, 0);
    a->member = m->id;
    snprintf(a->text, sizeof a->text, "%s", why);
    m->job = 0;
    m->state = IDLE;
}

static void finish_job(kd_core *c, struct job *j, enum kd_run_state state, const char *reason,
                       kd_actions *out)
{
    close_generation(j, out);
    for (size_t i = 0; i < c->n_members; i++)
        if (c->members[i].job == j->id)
            release(&c->members[i], reason[0] ? reason : "the job is over", out);
    set_state(j, state, reason, out);
}

static void prepare(struct member *m, struct job *j, kd_actions *out)
{
    m->job = j->id;
    m->state = PREPARING;
    act(out, KD_ACT_PREPARE, j->id, j->stage)->member = m->id;
}

static bool border(const kd_core_stage_info *info, uint64_t version)
{
    if (version == info->last_version)
        return true;
    return version > 1 && (version - 1) % info->eval_steps == 0;
}

/* Newest version before `version` that had to be evaluated; 0 = none. */
static uint64_t border_before(const kd_core_stage_info *info, uint64_t version)
{
    if (version <= 1 + info->eval_steps)
        return 0;
    return (version - 2) / info->eval_steps * info->eval_steps + 1;
}

static void stage_check(kd_core *c, struct job *j, kd_actions *out);

static void begin(kd_core *c, struct job *j, kd_actions *out)
{
    struct stage *st = &j->stages[j->stage];
    const kd_core_stage_info *info = &st->s.info;
    close_generation(j, out);
    uint32_t members = 0;
    size_t most = most_members(j);
    for (size_t i = 0; i < c->n_members; i++) {
        struct member *m = &c->members[i];
        if (m->job != j->id || m->state < READY)
            continue;
        if (members == most) {
            release(m, "the stage has no work for another worker", out);
            continue;
        }
        m->state = WORKING;
        members++;
    }
    j->generation = c->epoch << 32 | ++c->counter;
    j->open = true;
    j->first_ready = 0;
    st->pending_manifest = 0;
    kd_begin b = {.generation = j->generation,
                  .version = st->s.manifest,
                  .last_version = info->last_version,
                  .members = members};
    b.evaluate_first = border(info, b.version) && st->s.evaluated < b.version;
    st->committed_last = b.version == info->last_version;
    st->saved_last = st->committed_last && b.version > 1;
    act(out, KD_ACT_OPEN, j->id, j->stage)->begin = b;
    for (size_t i = 0; i < c->n_members; i++) {
        struct member *m = &c->members[i];
        if (m->job != j->id || m->state != WORKING)
            continue;
        uint32_t r = b.rank;
        b.slot_first = (uint32_t)((uint64_t)info->slots * r / members);
        b.slot_count = (uint32_t)((uint64_t)info->slots * (r + 1) / members) - b.slot_first;
        b.chunk_first = (uint32_t)((uint64_t)info->chunks * r / members);
        b.chunk_count = (uint32_t)((uint64_t)info->chunks * (r + 1) / members) - b.chunk_first;
        kd_action *a = act(out, KD_ACT_BEGIN, j->id, j->stage);
        a->member = m->id;
        a->begin = b;
        b.rank++;
    }
    set_state(j, KD_RUN_RUNNING, "", out);
    /* A restart may find everything done but the stage's end. */
    stage_check(c, j, out);
}

static void enter_stage(kd_core *c, struct job *j, kd_actions *out);

static void stage_done(kd_core *c, struct job *j, kd_actions *out)
{
    close_generation(j, out);
    j->stages[j->stage].s.done = true;
    act(out, KD_ACT_STAGE_DONE, j->id, j->stage);
    j->stage++;
    enter_stage(c, j, out);
}

static void skip_done(struct job *j)
{
    while (j->stage < j->n_stages && j->stages[j->stage].s.done)
        j->stage++;
}

static void enter_stage(kd_core *c, struct job *j, kd_actions *out)
{
    j->stalls = 0;
    skip_done(j);
    j->first_ready = 0;
    if (j->stage == j->n_stages) {
        finish_job(c, j, KD_RUN_SUCCEEDED, "", out);
        return;
    }
    if (j->stages[j->stage].s.kind == KD_CORE_EXPORT) {
        for (size_t i = 0; i < c->n_members; i++)
            if (c->members[i].job == j->id)
                release(&c->members[i], "training is over", out);
        if (!j->export_running)
            act(out, KD_ACT_EXPORT, j->id, j->stage);
        j->export_running = true;
        set_state(j, KD_RUN_RUNNING, "", out);
        return;
    }
    for (size_t i = 0; i < c->n_members; i++) {
        if (c->members[i].job != j->id)
            continue;
        if (held(j)[0])
            release(&c->members[i], held(j), out);
        else
            prepare(&c->members[i], j, out);
    }
}

static void stage_check(kd_core *c, struct job *j, kd_actions *out)
{
    struct stage *st = &j->stages[j->stage];
    uint64_t last = st->s.info.last_version;
    if (j->open && st->committed_last && st->saved_last && st->s.evaluated >= last)
        stage_done(c, j, out);
}

/* A checkpoint may be the manifest only when no evaluation before it is open: a generation that
 * starts there would never make that up. */
static void settle_manifest(kd_core *c, struct job *j, kd_actions *out)
{
    struct stage *st = &j->stages[j->stage];
    if (!st->pending_manifest)
        return;
    if (border_before(&st->s.info, st->pending_manifest) > st->s.evaluated)
        return;
    st->s.manifest = st->pending_manifest;
    st->saved_last = st->s.manifest == st->s.info.last_version;
    st->pending_manifest = 0;
    act(out, KD_ACT_MANIFEST, j->id, j->stage)->version = st->s.manifest;
    bool waiting = count_in_state(c, j->id, READY) > 0;
    if (waiting && j->open && st->s.manifest < st->s.info.last_version) {
        note(out, j->id, 0, "worker", "taking in %zu more worker(s) at step %llu",
             count_in_state(c, j->id, READY), (unsigned long long)st->s.manifest - 1);
        begin(c, j, out);
        return;
    }
    j->join_requested = false;
    stage_check(c, j, out);
}

/* Begins a stage whose members are ready, or says what it waits for. */
static void try_begin(kd_core *c, struct job *j, kd_time_ms now, kd_actions *out)
{
    if (j->state != KD_RUN_RUNNING || j->open || j->stage >= j->n_stages)
        return;
    struct stage *st = &j->stages[j->stage];
    if (st->s.kind == KD_CORE_EXPORT || st->s.held[0])
        return;
    size_t ready = count_members(c, j->id, READY), preparing = count_in_state(c, j->id, PREPARING);
    size_t need = st->s.kind == KD_CORE_MEASURE ? 1 : j->min_workers;
    if (ready + preparing < need) {
        char text[KD_CORE_TEXT];
        size_t fit = 0;
        for (size_t i = 0; i < c->n_members; i++)
            fit += !refused(&c->members[i], j->id);
        if (fit < need && j->problem[0])
            snprintf(text, sizeof text, "no worker can serve it: %.300s", j->problem);
        else
            snprintf(text, sizeof text, "waiting for workers: %zu of at least %zu",
                     ready + preparing, need);
        set_state(j, KD_RUN_RUNNING, text, out);
        return;
    }
    if (ready < need)
        return;
    if (j->first_ready == 0)
        j->first_ready = now;
    if (preparing && now - j->first_ready < LATE_MS)
        return;
    if (st->s.kind == KD_CORE_MEASURE) {
        bool asked = false;
        for (size_t i = 0; i < c->n_members; i++) {
            struct member *m = &c->members[i];
            if (m->job != j->id || m->state == IDLE)
                continue;
            asked |= m->state == WORKING;
            if (m->state == READY && !asked) {
                m->state = WORKING;
                act(out, KD_ACT_MEASURE, j->id, j->stage)->member = m->id;
                asked = true;
            }
        }
        return;
    }
    begin(c, j, out);
}

/* Gives idle workers to jobs in order of submission. A queued job that could start with the workers
 * there are, were they idle, keeps later ones from taking them; one that cannot does not. */
static void schedule(kd_core *c, kd_actions *out)
{
    for (size_t k = 0; k < c->n_jobs; k++) {
        struct job *j = &c->jobs[k];
        if (j->state != KD_RUN_QUEUED && j->state != KD_RUN_RUNNING)
            continue;
        bool needs_workers = j->stage < j->n_stages && j->stages[j->stage].s.kind != KD_CORE_EXPORT;
        if (j->state == KD_RUN_RUNNING && !needs_workers)
            continue;
        if (held(j)[0]) {
            set_state(j, j->state, held(j), out);
            continue;
        }
        size_t have = count_members(c, j->id, PREPARING), idle = 0, fit = 0;
        for (size_t i = 0; i < c->n_members; i++) {
            const struct member *m = &c->members[i];
            if (refused(m, j->id))
                continue;
            fit++;
            idle += m->state == IDLE;
        }
        if (j->state == KD_RUN_QUEUED && needs_workers && idle < j->min_workers) {
            char text[KD_CORE_TEXT];
            if (fit < j->min_workers)
                snprintf(text, sizeof text, "needs %u worker(s), %zu of %zu connected can serve it",
                         j->min_workers, fit, c->n_members);
            else
                snprintf(text, sizeof text, "needs %u worker(s), %zu idle", j->min_workers, idle);
            set_state(j, KD_RUN_QUEUED, text, out);
            if (fit >= j->min_workers)
                return;
            continue;
        }
        size_t most = most_members(j);
        bool measuring = needs_workers && j->stages[j->stage].s.kind == KD_CORE_MEASURE;
        if (measuring)
            most = 1;
        bool starting = j->state == KD_RUN_QUEUED;
        if (starting) {
            set_state(j, KD_RUN_RUNNING, "", out);
            note(out, j->id, 0, "started", "started");
            enter_stage(c, j, out);
        }
        for (size_t i = 0; i < c->n_members && have < most; i++) {
            struct member *m = &c->members[i];
            if (m->state != IDLE || refused(m, j->id) || !needs_workers)
                continue;
            prepare(m, j, out);
            have++;
        }
    }
}

static void on_submit(kd_core *c, const kd_core_job_setup *setup, kd_actions *out)
{
    struct job *p = realloc(c->jobs, (c->n_jobs + 1) * sizeof *p);
    KD_BUG_ON(!p || setup->n_stages > KD_CORE_STAGES);
    c->jobs = p;
    struct job *j = &c->jobs[c->n_jobs++];
    *j = (struct job){.id = setup->id,
                      .state = KD_RUN_QUEUED,
                      .min_workers = setup->min_workers,
                      .max_workers = setup->max_workers,
                      .n_stages = setup->n_stages};
    for (uint32_t i = 0; i < setup->n_stages; i++)
        j->stages[i].s = setup->stages[i];
    skip_done(j);
    if (setup->started) {
        j->state = KD_RUN_RUNNING;
        enter_stage(c, j, out);
    }
}

/* A stage that runs makes the thing itself. */
static bool begun(const struct job *j, uint32_t stage)
{
    return stage == j->stage && j->state == KD_RUN_RUNNING && !j->stages[stage].s.held[0];
}

static void on_hold(struct job *j, uint32_t stage, const char *text, kd_actions *out)
{
    if (j->state >= KD_RUN_SUCCEEDED || stage >= j->n_stages || j->stages[stage].s.done)
        return;
    if (begun(j, stage) && text[0])
        return;
    snprintf(j->stages[stage].s.held, sizeof j->stages[stage].s.held, "%s", text);
    if (stage == j->stage && !text[0])
        set_state(j, j->state, "", out);
}

static void on_taken(kd_core *c, struct job *j, uint32_t stage, kd_actions *out)
{
    if (j->state >= KD_RUN_SUCCEEDED || stage >= j->n_stages || begun(j, stage))
        return;
    j->stages[stage].s.held[0] = '\0';
    j->stages[stage].s.done = true;
    if (j->state == KD_RUN_RUNNING && stage == j->stage)
        enter_stage(c, j, out);
    else
        skip_done(j);
}

/* The generation is over; its members are ready for the next one. */
static void end_generation(kd_core *c, struct job *j, kd_actions *out)
{
    const struct stage *st = &j->stages[j->stage];
    close_generation(j, out);
    for (size_t i = 0; i < c->n_members; i++)
        if (c->members[i].job == j->id && c->members[i].state == WORKING)
            c->members[i].state = READY;
    if (count_members(c, j->id, READY))
        note(out, j->id, 0, "worker", "going on from step %llu with %zu worker(s)",
             (unsigned long long)st->s.manifest - 1, count_members(c, j->id, READY));
}

static void on_gone(kd_core *c, struct member *m, const char *why, bool lost, kd_actions *out)
{
    struct job *j = m->job ? find_job(c, m->job) : NULL;
    bool worked = m->state == WORKING;
    if (j && lost)
        note(out, j->id, m->id, "worker", "worker lost: %s", why);
    if (lost) {
        free(m->refused);
        size_t at = (size_t)(m - c->members);
        memmove(m, m + 1, (c->n_members - at - 1) * sizeof *m);
        c->n_members--;
    } else {
        release(m, why, out);
    }
    if (!j || j->state != KD_RUN_RUNNING || !worked)
        return;
    /* In a stage that measures no generation is open, and try_begin asks another member. */
    if (j->open)
        end_generation(c, j, out);
}

static void on_ready(kd_core *c, const kd_event *ev, kd_actions *out)
{
    struct member *m = find_member(c, ev->member);
    struct job *j = find_job(c, ev->job);
    if (!m || !j || m->job != j->id || m->state != PREPARING || ev->stage != j->stage)
        return; /* an answer to an earlier wish */
    struct stage *st = &j->stages[j->stage];
    if (ev->text && ev->text[0]) {
        note(out, j->id, m->id, "warning", "worker refused: %s", ev->text);
        snprintf(j->problem, sizeof j->problem, "%s", ev->text);
        refuse(m, j->id);
        release(m, ev->text, out);
        return;
    }
    if (!st->s.has_info) {
        st->s.has_info = true;
        st->s.info = ev->info;
    }
    m->state = READY;
    if (j->open && count_in_state(c, j->id, WORKING) >= most_members(j)) {
        release(m, "the stage has no work for another worker", out);
        return;
    }
    if (j->open && !j->join_requested) {
        j->join_requested = true;
        act(out, KD_ACT_CHECKPOINT, j->id, j->stage);
    }
}

static void on_problem(kd_core *c, const kd_event *ev, kd_actions *out)
{
    struct member *m = find_member(c, ev->member);
    struct job *j = find_job(c, ev->job);
    if (!m || !j || m->job != j->id || ev->stage != j->stage)
        return;
    if (!ev->worker_only) {
        finish_job(c, j, KD_RUN_FAILED, ev->text ? ev->text : "a worker reported a problem", out);
        return;
    }
    note(out, j->id, m->id, "warning", "worker cannot serve this job: %s",
         ev->text ? ev->text : "");
    snprintf(j->problem, sizeof j->problem, "%s", ev->text ? ev->text : "");
    refuse(m, j->id);
    on_gone(c, m, ev->text ? ev->text : "", false, out);
}

void kd_core_handle(kd_core *c, const kd_event *ev, kd_time_ms now, kd_actions *out)
{
    struct job *j = ev->job ? find_job(c, ev->job) : NULL;
    struct member *m = ev->member ? find_member(c, ev->member) : NULL;
    bool current = j && j->state == KD_RUN_RUNNING && ev->stage == j->stage;
    struct stage *st = current ? &j->stages[j->stage] : NULL;

    switch (ev->kind) {
    case KD_EV_SUBMIT:
        on_submit(c, ev->setup, out);
        break;
    case KD_EV_CANCEL:
        if (j && (j->state == KD_RUN_QUEUED || j->state == KD_RUN_RUNNING))
            finish_job(c, j, KD_RUN_CANCELLED, ev->text ? ev->text : "cancelled", out);
        break;
    case KD_EV_FAIL:
        if (j && (j->state == KD_RUN_QUEUED || j->state == KD_RUN_RUNNING))
            finish_job(c, j, KD_RUN_FAILED, ev->text ? ev->text : "failed", out);
        break;
    case KD_EV_FORGET:
        if (j && j->state >= KD_RUN_SUCCEEDED) {
            size_t at = (size_t)(j - c->jobs);
            memmove(j, j + 1, (c->n_jobs - at - 1) * sizeof *j);
            c->n_jobs--;
        }
        break;
    case KD_EV_JOIN: {
        struct member *p = realloc(c->members, (c->n_members + 1) * sizeof *p);
        KD_BUG_ON(!p || m);
        c->members = p;
        c->members[c->n_members++] = (struct member){.id = ev->member, .state = IDLE};
        break;
    }
    case KD_EV_LOST:
        if (m)
            on_gone(c, m, ev->text ? ev->text : "connection closed", true, out);
        break;
    case KD_EV_READY:
        on_ready(c, ev, out);
        break;
    case KD_EV_PROBLEM:
        on_problem(c, ev, out);
        break;
    case KD_EV_MEASURED:
        if (current && m && m->job == j->id && st->s.kind == KD_CORE_MEASURE)
            stage_done(c, j, out);
        break;
    case KD_EV_STALLED:
        if (current && j->open && m && m->job == j->id && ev->generation == j->generation) {
            note(out, j->id, m->id, "warning", "worker cannot go on: %s", ev->text ? ev->text : "");
            if (++j->stalls >= MAX_STALLS) {
                char text[KD_CORE_TEXT];
                snprintf(text, sizeof text,
                         "no step in %d generations, the last one because: %.300s", MAX_STALLS,
                         ev->text ? ev->text : "");
                finish_job(c, j, KD_RUN_FAILED, text, out);
            } else {
                end_generation(c, j, out);
            }
        }
        break;
    case KD_EV_COMMITTED:
        if (current && j->open && ev->generation == j->generation)
            j->stalls = 0;
        if (current && j->open && ev->generation == j->generation &&
            ev->version == st->s.info.last_version) {
            st->committed_last = true;
            stage_check(c, j, out);
        }
        break;
    case KD_EV_SAVED:
        if (current && j->open && ev->version >= st->s.manifest &&
            ev->version > st->pending_manifest && ev->version <= st->s.info.last_version) {
            st->pending_manifest = ev->version;
            settle_manifest(c, j, out);
        }
        break;
    case KD_EV_EVALUATED:
        if (current && ev->version > st->s.evaluated) {
            st->s.evaluated = ev->version;
            if (ev->stop && ev->version < st->s.info.last_version) {
                st->s.info.last_version = ev->version;
                st->committed_last = true;
                st->saved_last = st->s.manifest == ev->version;
            }
            settle_manifest(c, j, out);
            if (j->state == KD_RUN_RUNNING && st == &j->stages[j->stage])
                stage_check(c, j, out);
        }
        break;
    case KD_EV_EXPORTED:
        if (current && st->s.kind == KD_CORE_EXPORT) {
            j->export_running = false;
            if (ev->text && ev->text[0])
                finish_job(c, j, KD_RUN_FAILED, ev->text, out);
            else
                stage_done(c, j, out);
        }
        break;
    case KD_EV_HOLD:
        if (j)
            on_hold(j, ev->stage, ev->text ? ev->text : "", out);
        break;
    case KD_EV_TAKEN:
        if (j)
            on_taken(c, j, ev->stage, out);
        break;
    case KD_EV_TICK:
        break;
    }
    schedule(c, out);
    for (size_t i = 0; i < c->n_jobs; i++)
        try_begin(c, &c->jobs[i], now, out);
}

bool kd_core_job_view(const kd_core *c, kd_job_id job, kd_core_view *out)
{
    uint32_t position = 0;
    for (size_t i = 0; i < c->n_jobs; i++) {
        const struct job *j = &c->jobs[i];
        position += j->state == KD_RUN_QUEUED;
        if (j->id != job)
            continue;
        *out = (kd_core_view){.state = j->state,
                              .stage = j->stage,
                              .n_stages = j->n_stages,
                              .members = (uint32_t)count_members(c, job, PREPARING),
                              .preparing = !j->open,
                              .queue_position = j->state == KD_RUN_QUEUED ? position : 0};
        memcpy(out->reason, j->reason, sizeof out->reason);
        return true;
    }
    return false;
}

bool kd_core_stage_begun(const kd_core *c, kd_job_id job, uint32_t stage)
{
    const struct job *j = find_job(c, job);
    return j && (stage < j->stage || begun(j, stage));
}

kd_job_id kd_core_member_job(const kd_core *c, kd_member_id member, const char **out_state)
{
    static const char *const names[] = {"idle", "preparing", "ready", "working"};
    const struct member *m = find_member(c, member);
    *out_state = m ? names[m->state] : "lost";
    return m ? m->job : 0;
}

const char *kd_core_check(const kd_core *c)
{
    for (size_t i = 0; i < c->n_members; i++) {
        const struct member *m = &c->members[i];
        const struct job *j = m->job ? find_job(c, m->job) : NULL;
        if ((m->state == IDLE) != (m->job == 0))
            return "an idle member has a job, or a busy one has none";
        if (m->job && (!j || j->state != KD_RUN_RUNNING))
            return "a member works for a job that does not run";
        if (j && held(j)[0])
            return "a member works for a job whose stage is held";
        if (m->job && refused(m, m->job))
            return "a member works for a job that refused it";
        if (j && m->state == WORKING && !j->open && j->stages[j->stage].s.kind == KD_CORE_TRAIN)
            return "a member works in a stage without a generation";
    }
    for (size_t i = 0; i < c->n_jobs; i++) {
        const struct job *j = &c->jobs[i];
        if (j->open && count_in_state(c, j->id, WORKING) == 0)
            return "a generation without members";
        if (j->open && j->state != KD_RUN_RUNNING)
            return "a generation of a job that does not run";
        if (j->state == KD_RUN_RUNNING && j->stage >= j->n_stages)
            return "a running job without a stage";
        for (uint32_t s = 0; s < j->stage; s++)
            if (!j->stages[s].s.done)
                return "a stage was left before it was done";
    }
    return NULL;
}

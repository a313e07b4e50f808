/* Jobs and their stages, and what each event does to them. */
#include "core_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Members that said one after another that they could not go on, without a step between them:
 * what stops the next one is no accident. */
#define MAX_STALLS 5

static const char g_paused[] = "paused; distill resume lets it go on";

void kd_actions_clear(kd_actions *a)
{
    free(a->items);
    free(a->ranges);
    *a = (kd_actions){0};
}

kd_action *kd_core_act(kd_actions *out, enum kd_action_kind kind, kd_job_id job, uint32_t stage)
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

void kd_core_note(kd_actions *out, kd_job_id job, kd_member_id member, const char *word,
                  const char *fmt, ...)
{
    kd_action *a = kd_core_act(out, KD_ACT_NOTE, job, 0);
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
    kd_core_free_jobs(c);
    free(c);
}

const char *kd_core_held(const struct job *j)
{
    return j->stage < j->n_stages ? j->stages[j->stage].s.held : "";
}

void kd_core_set_state(struct job *j, enum kd_run_state state, const char *reason, kd_actions *out)
{
    j->queued.told = 0;
    if (j->state == state && strcmp(j->reason, reason) == 0)
        return;
    kd_core_move_job(j, state);
    snprintf(j->reason, sizeof j->reason, "%s", reason);
    kd_action *a = kd_core_act(out, KD_ACT_STATE, j->id, j->stage);
    a->state = state;
    memcpy(a->text, j->reason, sizeof a->text);
}

static void finish_job(kd_core *c, struct job *j, enum kd_run_state state, const char *reason,
                       kd_actions *out)
{
    kd_step_close(j, out);
    for (size_t i = 0; i < c->n_members; i++)
        if (c->members[i].job == j->id)
            kd_core_release(&c->members[i], reason[0] ? reason : "the job is over", out);
    kd_core_set_state(j, state, reason, out);
}

bool kd_core_border(const kd_core_stage_info *info, uint64_t version)
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

/* A stage goes on no later than at an evaluated version that is not stored whole: stopped after
 * one, it would do the steps since then once more. */
static bool may_yield(const struct stage *st, uint64_t version)
{
    uint64_t border = border_before(&st->s.info, version);
    return border <= st->s.manifest && border <= st->s.evaluated;
}

static void stage_done(kd_core *c, struct job *j, kd_actions *out)
{
    kd_step_close(j, out);
    j->stages[j->stage].s.done = true;
    kd_core_act(out, KD_ACT_STAGE_DONE, j->id, j->stage);
    j->stage++;
    kd_core_enter_stage(c, j, out);
}

static void skip_done(struct job *j)
{
    while (j->stage < j->n_stages && j->stages[j->stage].s.done)
        j->stage++;
}

void kd_core_enter_stage(kd_core *c, struct job *j, kd_actions *out)
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
                kd_core_release(&c->members[i], "training is over", out);
        if (!j->export_running)
            kd_core_act(out, KD_ACT_EXPORT, j->id, j->stage);
        j->export_running = true;
        kd_core_set_state(j, KD_RUN_RUNNING, "", out);
        return;
    }
    if (j->paused) {
        kd_core_yield_now(c, j, out);
        return;
    }
    for (size_t i = 0; i < c->n_members; i++) {
        if (c->members[i].job != j->id)
            continue;
        if (kd_core_held(j)[0])
            kd_core_release(&c->members[i], kd_core_held(j), out);
        else
            kd_core_prepare(&c->members[i], j, out);
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
    kd_core_act(out, KD_ACT_MANIFEST, j->id, j->stage)->version = st->s.manifest;
    bool waiting = kd_core_count_in(c, j->id, READY) > 0;
    if (waiting && j->open && st->s.manifest < st->s.info.last_version)
        kd_step_reshape(j, out);
    j->join_requested = false;
    stage_check(c, j, out);
}

static void on_submit(kd_core *c, const kd_core_job_setup *setup, kd_actions *out)
{
    struct job *j = kd_core_add_job(c, setup);
    skip_done(j);
    if (setup->started) {
        kd_core_move_job(j, KD_RUN_RUNNING);
        kd_core_enter_stage(c, j, out);
    }
    if (j->paused)
        kd_core_set_state(j, KD_RUN_QUEUED, g_paused, out);
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
        kd_core_set_state(j, j->state, "", out);
}

static void on_taken(kd_core *c, struct job *j, uint32_t stage, kd_actions *out)
{
    if (j->state >= KD_RUN_SUCCEEDED || stage >= j->n_stages || begun(j, stage))
        return;
    j->stages[stage].s.held[0] = '\0';
    j->stages[stage].s.done = true;
    if (j->state == KD_RUN_RUNNING && stage == j->stage)
        kd_core_enter_stage(c, j, out);
    else
        skip_done(j);
}

static void on_ready(kd_core *c, const kd_event *ev, kd_actions *out)
{
    struct member *m = kd_core_member(c, ev->member);
    struct job *j = kd_core_job(c, ev->job);
    if (!m || !j || m->job != j->id || m->state != PREPARING || ev->stage != j->stage)
        return; /* an answer to an earlier wish */
    struct stage *st = &j->stages[j->stage];
    if (ev->text && ev->text[0]) {
        kd_core_note(out, j->id, m->id, "warning", "worker refused: %s", ev->text);
        snprintf(j->problem, sizeof j->problem, "%s", ev->text);
        kd_core_refuse(m, j->id);
        kd_core_release(m, ev->text, out);
        return;
    }
    if (!st->s.has_info) {
        st->s.has_info = true;
        st->s.info = ev->info;
    }
    m->state = READY;
    if (j->open && j->dispute.open && !j->dispute.third) {
        kd_step_reshape(j, out); /* no step is committed before it is decided */
        return;
    }
    if (j->open && !j->short_handed &&
        kd_core_count_in(c, j->id, WORKING) >= kd_core_most_members(j)) {
        kd_core_release(m, "the stage has no work for another worker", out);
        return;
    }
    if (j->open && !j->join_requested && !j->short_handed) {
        j->join_requested = true;
        kd_core_act(out, KD_ACT_CHECKPOINT, j->id, j->stage);
    }
}

static void on_problem(kd_core *c, const kd_event *ev, kd_actions *out)
{
    struct member *m = kd_core_member(c, ev->member);
    struct job *j = kd_core_job(c, ev->job);
    if (!m || !j || m->job != j->id || ev->stage != j->stage)
        return;
    if (!ev->worker_only) {
        finish_job(c, j, KD_RUN_FAILED, ev->text ? ev->text : "a worker reported a problem", out);
        return;
    }
    kd_core_note(out, j->id, m->id, "warning", "worker cannot serve this job: %s",
                 ev->text ? ev->text : "");
    snprintf(j->problem, sizeof j->problem, "%s", ev->text ? ev->text : "");
    kd_core_refuse(m, j->id);
    kd_core_gone(c, m, ev->text ? ev->text : "", false, out);
}

/* A worker that computed other numbers than two others did. */
static void on_odd(kd_core *c, struct job *j, kd_member_id odd, kd_actions *out)
{
    struct member *m = odd ? kd_core_member(c, odd) : NULL;
    if (!odd)
        return;
    if (!m || m->job != j->id) {
        kd_step_reshape(j, out); /* it left meanwhile; the step is computed again all the same */
        return;
    }
    kd_core_note(out, j->id, m->id, "quarantine",
                 "quarantined: it computed other numbers than two others did; check its memory and "
                 "processor, then start it anew");
    m->quarantined = true;
    kd_core_gone(c, m, "its numbers are wrong", false, out);
    /* It may have had no part any more, and the step is computed again all the same. */
    if (j->open && !j->reshape && !j->short_handed)
        kd_step_reshape(j, out);
}

static void roll_back(kd_core *c, struct job *j, const char *why, kd_actions *out)
{
    const struct stage *st = &j->stages[j->stage];
    kd_core_note(out, j->id, 0, "warning", "going back to step %llu: %s",
                 (unsigned long long)st->s.manifest - 1, why);
    kd_step_close(j, out);
    j->discard = true;
    for (size_t i = 0; i < c->n_members; i++)
        if (c->members[i].job == j->id && c->members[i].state == WORKING)
            c->members[i].state = READY;
}

static void on_scale(kd_core *c, struct job *j, uint32_t min, uint32_t max, kd_actions *out)
{
    j->min_workers = min;
    j->max_workers = max;
    if (j->state != KD_RUN_RUNNING)
        return;
    size_t have = kd_core_count(c, j->id, PREPARING);
    for (size_t i = c->n_members; i-- > 0 && have > KD_MAX(max, 1u);) {
        struct member *m = &c->members[i];
        if (m->job != j->id || m->leaving)
            continue;
        kd_core_let_go(c, j, m, "the job has enough workers", out);
        have--;
    }
}

static void on_drain(kd_core *c, struct member *m, bool drain, kd_actions *out)
{
    struct job *j = m->job ? kd_core_job(c, m->job) : NULL;
    m->drain = drain;
    if (drain && j && !m->leaving) {
        kd_core_let_go(c, j, m, "drained", out);
        m->drained = m->leaving;
    }
    if (!drain && m->leaving && m->drained) {
        m->leaving = m->drained = false;
        kd_step_reshape(j, out);
    }
}

static void each_running(kd_core *c, void (*fn)(kd_core *, struct job *, kd_time_ms, kd_actions *),
                         kd_time_ms now, kd_actions *out)
{
    size_t n = c->n_running;
    struct job **list = kd_core_copy_list(c->running, n);
    for (size_t i = 0; i < n; i++)
        fn(c, list[i], now, out);
    free(list);
}

/* Events that come all the time, and that change who may work for whom by an action only. */
static bool leaves_members_alone(enum kd_event_kind kind)
{
    return kind == KD_EV_TICK || kind == KD_EV_COMMITTED || kind == KD_EV_STEP ||
           kind == KD_EV_SAVED || kind == KD_EV_EVALUATED;
}

void kd_core_handle(kd_core *c, const kd_event *ev, kd_time_ms now, kd_actions *out)
{
    struct job *j = ev->job ? kd_core_job(c, ev->job) : NULL;
    struct member *m = ev->member ? kd_core_member(c, ev->member) : NULL;
    bool current = j && j->state == KD_RUN_RUNNING && ev->stage == j->stage;
    size_t before = out->count;
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
        if (j && j->state >= KD_RUN_SUCCEEDED)
            kd_core_remove_job(c, j);
        break;
    case KD_EV_JOIN: {
        struct member *p = realloc(c->members, (c->n_members + 1) * sizeof *p);
        KD_BUG_ON(!p || (c->n_members && p[c->n_members - 1].id >= ev->member));
        c->members = p;
        c->members[c->n_members++] = (struct member){.id = ev->member,
                                                     .process = ev->process,
                                                     .state = IDLE,
                                                     .offer = ev->job,
                                                     .offer_stage = ev->stage,
                                                     .offer_chunk = ev->first_chunk,
                                                     .drain = ev->drained,
                                                     .quarantined = ev->quarantined};
        break;
    }
    case KD_EV_LOST:
        if (m)
            kd_core_gone(c, m, ev->text ? ev->text : "connection closed", true, out);
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
        if (current && j->open && m && m->job == j->id && m->state == WORKING) {
            kd_core_note(out, j->id, m->id, "warning", "worker cannot go on: %s",
                         ev->text ? ev->text : "");
            if (++j->stalls >= MAX_STALLS) {
                char text[KD_CORE_TEXT];
                snprintf(text, sizeof text,
                         "%d workers in a row could not go on, the last one because: %.300s",
                         MAX_STALLS, ev->text ? ev->text : "");
                finish_job(c, j, KD_RUN_FAILED, text, out);
            } else {
                kd_step_reshape(j, out); /* tells it its part once more */
            }
        }
        break;
    case KD_EV_COMMITTED:
        if (!current || !j->open || ev->generation != j->opening)
            break;
        j->stalls = 0;
        kd_step_committed(c, j, ev->version, &ev->step, now, out);
        if (ev->version == st->s.info.last_version) {
            st->committed_last = true;
            stage_check(c, j, out);
        } else if (j->yielding && may_yield(st, ev->version)) {
            kd_core_yield_now(c, j, out);
        }
        break;
    case KD_EV_STEP:
        if (!current || !j->open || ev->generation != j->opening)
            break; /* of an opening before this one */
        kd_step_news(c, j, &ev->step, now, out);
        if (j->open)
            stage_check(c, j, out); /* a restart may find everything done but the stage's end */
        break;
    case KD_EV_CHECKED:
        if (current && j->open && ev->generation == j->opening)
            on_odd(c, j, kd_step_checked(c, j, ev, out), out);
        break;
    case KD_EV_DIVERGED:
        if (current && j->open && ev->generation == j->opening)
            on_odd(c, j, kd_step_diverged(c, j, ev, out), out);
        break;
    case KD_EV_ROLLBACK:
        if (current && j->open && ev->version > 0)
            st->s.manifest = st->s.evaluated = ev->version;
        if (current && j->open)
            roll_back(c, j, ev->text ? ev->text : "", out);
        break;
    case KD_EV_BLOCKED:
        if (current) {
            snprintf(j->blocked, sizeof j->blocked, "%s", ev->text ? ev->text : "");
            kd_core_set_state(j, KD_RUN_RUNNING, j->blocked, out);
        }
        break;
    case KD_EV_PAUSE:
        if (j && j->state < KD_RUN_SUCCEEDED && !j->paused) {
            j->paused = true;
            if (j->state == KD_RUN_QUEUED)
                kd_core_set_state(j, KD_RUN_QUEUED, g_paused, out);
            else
                kd_core_yield(c, j, g_paused, out);
        }
        break;
    case KD_EV_RESUME:
        if (j && j->paused) {
            j->paused = j->yielding = false;
            kd_core_set_state(j, j->state, "", out);
        }
        break;
    case KD_EV_SCALE:
        if (j && j->state < KD_RUN_SUCCEEDED)
            on_scale(c, j, ev->min_workers, ev->max_workers, out);
        break;
    case KD_EV_DRAIN:
        if (m)
            on_drain(c, m, !ev->stop, out);
        break;
    case KD_EV_SAVED:
        if (current && j->open && ev->generation == j->opening && ev->version >= st->s.manifest &&
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
        each_running(c, kd_step_tick, now, out);
        break;
    }
    if (out->count != before || !leaves_members_alone(ev->kind))
        c->settled = false;
    if (ev->more)
        return;
    if (!c->settled) {
        before = out->count;
        kd_core_schedule(c, out);
        c->settled = out->count == before;
    }
    each_running(c, kd_core_try_begin, now, out);
}

bool kd_core_job_view(kd_core *c, kd_job_id job, kd_core_view *out)
{
    struct job *j = kd_core_job(c, job);
    if (!j)
        return false;
    *out = (kd_core_view){.state = j->state,
                          .stage = j->stage,
                          .n_stages = j->n_stages,
                          .members = (uint32_t)kd_core_count(c, job, PREPARING),
                          .min_workers = j->min_workers,
                          .max_workers = j->max_workers,
                          .preparing = !j->open || j->short_handed,
                          .paused = j->paused,
                          .queue_position = kd_core_position(c, j)};
    memcpy(out->reason, j->reason, sizeof out->reason);
    return true;
}

uint64_t kd_core_member_slow(const kd_core *c, kd_member_id member)
{
    const struct member *m = kd_core_member(c, member);
    return m ? m->slow : 0;
}

bool kd_core_stage_begun(const kd_core *c, kd_job_id job, uint32_t stage)
{
    const struct job *j = kd_core_job(c, job);
    return j && (stage < j->stage || begun(j, stage));
}

kd_job_id kd_core_member_job(const kd_core *c, kd_member_id member, const char **out_state)
{
    static const char *const names[] = {"idle", "preparing", "ready", "working"};
    const struct member *m = kd_core_member(c, member);
    *out_state = !m               ? "lost"
                 : m->quarantined ? "quarantined"
                 : m->drain       ? m->job ? "draining" : "drained"
                                  : names[m->state];
    return m ? m->job : 0;
}

const char *kd_core_check(const kd_core *c)
{
    for (size_t i = 0; i < c->n_members; i++) {
        const struct member *m = &c->members[i];
        const struct job *j = m->job ? kd_core_job(c, m->job) : NULL;
        if ((m->state == IDLE) != (m->job == 0))
            return "an idle member has a job, or a busy one has none";
        if (m->job && (!j || j->state != KD_RUN_RUNNING))
            return "a member works for a job that does not run";
        if (j && kd_core_held(j)[0])
            return "a member works for a job whose stage is held";
        if (m->job && kd_core_refused(m, m->job))
            return "a member works for a job that refused it";
        if (j && m->state == WORKING && !j->open && j->stages[j->stage].s.kind == KD_CORE_TRAIN)
            return "a member works in a stage without a generation";
    }
    for (size_t i = 0; i < c->n_jobs; i++) {
        const struct job *j = c->jobs[i];
        if (j->open && !j->short_handed && !j->reshape && kd_core_count_in(c, j->id, WORKING) == 0)
            return "an open stage without members that waits for nobody";
        if (j->paused && j->state == KD_RUN_RUNNING && !j->yielding && !j->export_running)
            return "a paused job runs";
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

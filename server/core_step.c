/* One step of a running stage: who runs which unit and owns which chunk, who is slow, whose numbers
 * are odd. Rules 8, 13 and 14 of docs/protocol.md. */
#include "core_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A straggler is past median + 4 MAD (median absolute deviation) of its peers' times; a deviation
 * below this share of the median, or this many milliseconds, is noise. */
#define SLOW_MADS 4
#define LEAST_MAD_SHARE 40
#define LEAST_MAD_MS 5
#define LEAST_TIMES 4
/* Who was slow in so many steps in a row is helped as soon as half of the others are done, for as
 * many such times; then it is watched anew, since whether it is still slow cannot be seen while
 * others do its units. */
/* Who keeps its stream and does not finish its part in this time is let go; twice as long the next
 * time in a step, since what its chunks' next owner rebuilds may take long, too. */
#define HUNG_MS 60000
#define SLOW_ROW 3
#define SLOW_FOR 16

bool kd_core_audits(double share, kd_job_id job, uint32_t stage, uint64_t step, uint32_t slot)
{
    if (share <= 0)
        return false;
    uint64_t name[4] = {job, stage, step, slot};
    kd_digest d = kd_digest_of(name, sizeof name);
    uint32_t draw;
    memcpy(&draw, &d, sizeof draw);
    return (double)draw < share * 4294967296.0;
}

/* ---- ranges in actions */

static void add_range(kd_actions *out, size_t action, enum kd_ranges kind, uint32_t first)
{
    kd_action *a = &out->items[action];
    if (a->ranges[kind].n > 0) {
        kd_range *last = &out->ranges[a->ranges[kind].at + a->ranges[kind].n - 1];
        if (last->first + last->count == first) {
            last->count++;
            return;
        }
    } else {
        a->ranges[kind].at = out->n_ranges;
    }
    if (out->n_ranges == out->cap_ranges) {
        size_t cap = out->cap_ranges ? 2 * out->cap_ranges : 64;
        kd_range *p = realloc(out->ranges, cap * sizeof *p);
        KD_BUG_ON(!p);
        out->ranges = p;
        out->cap_ranges = cap;
    }
    out->ranges[out->n_ranges++] = (kd_range){first, 1};
    a->ranges[kind].n++;
}

/* One kind at a time: an action's ranges lie together. */
static void add_owned(kd_actions *out, size_t action, enum kd_ranges kind,
                      const kd_member_id *owner, uint32_t n, kd_member_id who)
{
    for (uint32_t k = 0; k < n; k++)
        if (owner[k] == who)
            add_range(out, action, kind, k);
}

/* ---- opening */

void kd_step_free(struct job *j)
{
    free(j->chunk_owner);
    free(j->runner);
    free(j->second);
    free(j->next);
    free(j->checked);
    j->chunk_owner = j->runner = j->second = j->next = NULL;
    j->checked = NULL;
}

void kd_step_open(kd_core *c, struct job *j, kd_actions *out)
{
    struct stage *st = &j->stages[j->stage];
    const kd_core_stage_info *info = &st->s.info;
    kd_step_free(j);
    j->n_chunks = info->chunks;
    j->n_slots = info->slots;
    j->chunk_owner = kd_xalloc(info->chunks * sizeof *j->chunk_owner);
    j->runner = kd_xalloc(info->slots * sizeof *j->runner);
    j->second = kd_xalloc(info->slots * sizeof *j->second);
    j->checked = kd_xalloc(info->slots * sizeof *j->checked);
    j->next = kd_xalloc(info->slots * sizeof *j->next);
    j->opening = j->generation = c->epoch << 32 | ++c->counter;
    j->open = j->fresh = true;
    j->step = j->next_from = 0;
    j->n_times = j->at_times = 0;
    j->hung_after = HUNG_MS;
    j->settled = 0;
    j->dispute = (struct dispute){0};
    st->pending_manifest = 0;
    kd_action *a = kd_core_act(out, KD_ACT_OPEN, j->id, j->stage);
    a->begin.generation = j->opening;
    a->begin.version = st->s.manifest;
    a->begin.last_version = info->last_version;
    a->begin.fresh = j->discard;
    j->discard = j->push_again = j->short_handed = false;
    kd_step_reshape(j, out);
}

void kd_step_close(struct job *j, kd_actions *out)
{
    if (j->open)
        kd_core_act(out, KD_ACT_CLOSE, j->id, j->stage);
    j->open = j->join_requested = j->reshape = j->short_handed = j->yielding = false;
    j->blocked[0] = '\0';
}

void kd_step_reshape(struct job *j, kd_actions *out)
{
    j->reshape = true;
    kd_core_act(out, KD_ACT_LOOK, j->id, j->stage);
}

/* ---- dividing */

struct part {
    kd_member_id id;
    uint32_t units; /* of the step under way that it has yet to do */
    bool fresh;     /* what it holds may be of another course of the stage */
};

static bool takes_part(const struct job *j, const struct member *m)
{
    return m->job == j->id && m->state >= READY && !m->leaving;
}

/* Those who offer a stage that they held come in the order of their chunks, so that these stay. */
static uint32_t order_of(const struct job *j, const struct member *m)
{
    return j->fresh && m->offer == j->id && m->offer_stage == j->stage ? m->offer_chunk
                                                                       : UINT32_MAX;
}

static size_t list_parts(kd_core *c, struct job *j, struct part *parts, kd_actions *out)
{
    size_t n = 0, most = kd_core_most_members(j);
    for (size_t i = 0; i < c->n_members; i++) {
        struct member *m = &c->members[i];
        if (!takes_part(j, m))
            continue;
        if (n == most && m->state == READY) {
            kd_core_release(m, "the stage has no work for another worker", out);
            continue;
        }
        bool fresh = m->state == READY;
        m->state = WORKING;
        size_t at = n++;
        while (at > 0 && order_of(j, kd_core_member(c, parts[at - 1].id)) > order_of(j, m)) {
            parts[at] = parts[at - 1];
            at--;
        }
        parts[at] = (struct part){.id = m->id, .fresh = fresh};
    }
    return n;
}

static uint32_t share_of(uint32_t all, size_t rank, size_t n)
{
    return (uint32_t)((uint64_t)all * (rank + 1) / n) - (uint32_t)((uint64_t)all * rank / n);
}

/* Everybody keeps chunks up to its share; the others go to those who have room. */
static void divide_chunks(struct job *j, const struct part *parts, size_t n, size_t fence,
                          kd_actions *out)
{
    uint32_t *kept = kd_xalloc(n * sizeof *kept);
    bool *moves = kd_xalloc(j->n_chunks * sizeof *moves);
    for (uint32_t k = 0; k < j->n_chunks; k++) {
        size_t r = 0;
        while (r < n && parts[r].id != j->chunk_owner[k])
            r++;
        moves[k] = r == n || kept[r] == share_of(j->n_chunks, r, n);
        if (!moves[k])
            kept[r]++;
    }
    size_t r = 0;
    for (uint32_t k = 0; k < j->n_chunks; k++) {
        if (!moves[k])
            continue;
        while (kept[r] == share_of(j->n_chunks, r, n))
            r++;
        j->chunk_owner[k] = parts[r].id;
        kept[r]++;
        add_range(out, fence, KD_RANGES_CHUNKS, k);
    }
    free(kept);
    free(moves);
}

static struct part *part_of(struct part *parts, size_t n, kd_member_id id)
{
    for (size_t i = 0; i < n; i++)
        if (parts[i].id == id)
            return &parts[i];
    return NULL;
}

static struct part *least_loaded(struct part *parts, size_t n, kd_member_id but, kd_member_id nor)
{
    struct part *best = NULL;
    for (size_t i = 0; i < n; i++)
        if (parts[i].id != but && parts[i].id != nor && (!best || parts[i].units < best->units))
            best = &parts[i];
    return best;
}

static const struct member *by_process(const kd_core *c, const struct job *j, uint64_t process)
{
    for (size_t i = 0; i < c->n_members; i++)
        if (c->members[i].process == process && c->members[i].job == j->id)
            return &c->members[i];
    return NULL;
}

/* Units of the step under way whose runner has gone; those of a member that leaves stay its own. */
static void divide_units(kd_core *c, struct job *j, const kd_core_step *step, struct part *parts,
                         size_t n, kd_member_id *given)
{
    for (uint32_t s = 0; s < j->n_slots; s++) {
        /* Who came back does not run what it was given before. */
        const struct part *p = part_of(parts, n, j->runner[s]);
        if (p && p->fresh)
            j->runner[s] = 0;
        p = part_of(parts, n, j->second[s]);
        const struct member *m = j->second[s] ? kd_core_member(c, j->second[s]) : NULL;
        if ((p && p->fresh) || !m || m->job != j->id)
            j->second[s] = 0;
    }
    for (uint32_t s = 0; s < j->n_slots; s++)
        if (!step->done_ms[s] && part_of(parts, n, j->runner[s]))
            part_of(parts, n, j->runner[s])->units++;
    for (uint32_t s = 0; s < j->n_slots; s++) {
        const struct member *runner = j->runner[s] ? kd_core_member(c, j->runner[s]) : NULL;
        bool there = runner && runner->job == j->id && runner->state == WORKING;
        /* Another one has run it, besides or before it lost its part: who else is asked to must be
         * somebody else. */
        const struct member *by =
            step->done_ms[s] && !there && step->done_by ? by_process(c, j, step->done_by[s]) : NULL;
        if (by) {
            j->runner[s] = by->id;
            j->checked[s] = step->done_second[s];
            if (j->second[s] == by->id)
                j->second[s] = 0;
        } else if (step->done_ms[s] && !there && j->second[s]) {
            /* Who has gone may have told of a part of it. */
            j->runner[s] = j->second[s];
            j->checked[s] = true;
            j->second[s] = 0;
        }
        if (step->done_ms[s] || there)
            continue;
        j->checked[s] = false;
        struct part *p = least_loaded(parts, n, 0, 0);
        /* A fresh start gives whole ranges, which make few tree nodes. */
        if (j->fresh)
            p = part_of(parts, n, j->next[s]);
        p->units++;
        given[s] = j->runner[s] = p->id;
    }
}

static void give(struct job *j, kd_member_id member, uint32_t slot, bool check, kd_actions *out)
{
    size_t at = out->count;
    kd_action *a = kd_core_act(out, KD_ACT_UNITS, j->id, j->stage);
    a->member = member;
    a->version = j->step;
    a->check = check;
    add_range(out, at, KD_RANGES_UNITS, slot);
    j->second[slot] = member;
}

/* Second runs that the step asks for, of those who can do them. */
static void give_audits(kd_core *c, struct job *j, struct part *parts, size_t n, kd_actions *out)
{
    if (n == 0 || j->step >= j->stages[j->stage].s.info.last_version)
        return;
    for (uint32_t s = 0; s < j->n_slots; s++) {
        if (!kd_core_audits(j->audit, j->id, j->stage, j->step, s))
            continue;
        const struct member *second = j->second[s] ? kd_core_member(c, j->second[s]) : NULL;
        if (second && second->job == j->id)
            continue;
        struct part *p = least_loaded(parts, n, j->runner[s], 0);
        p = p ? p : &parts[0];
        p->units++;
        /* A lone worker's two runs are told apart by that. */
        give(j, p->id, s, p->id != j->runner[s] || !j->checked[s], out);
    }
}

/* Somebody who has no part in the dispute runs the unit a third time. */
static void find_third(kd_core *c, struct job *j, kd_actions *out)
{
    struct dispute *d = &j->dispute;
    const struct member *third = d->third ? kd_core_member(c, d->third) : NULL;
    if (!d->open || (third && third->job == j->id))
        return;
    d->third = 0;
    for (size_t i = 0; i < c->n_members && !d->third; i++) {
        const struct member *m = &c->members[i];
        if (m->job == j->id && m->state == WORKING && !m->leaving && m->id != d->first &&
            m->id != d->other)
            d->third = m->id;
    }
    if (d->third)
        give(j, d->third, d->slot, true, out);
    else
        kd_core_set_state(j, KD_RUN_RUNNING,
                          "two workers compute different numbers and a third one is needed to tell "
                          "who is wrong; start another worker",
                          out);
}

static void take_step(struct job *j, uint64_t version, kd_time_ms now)
{
    if (version == j->step)
        return;
    j->step = version;
    j->step_since = now;
    for (uint32_t s = 0; s < j->n_slots; s++)
        if (version >= j->next_from)
            j->runner[s] = j->next[s];
    memset(j->second, 0, j->n_slots * sizeof *j->second);
    memset(j->checked, 0, j->n_slots * sizeof *j->checked);
    j->dispute.open = false;
}

static void reshape(kd_core *c, struct job *j, const kd_core_step *step, kd_actions *out)
{
    struct stage *st = &j->stages[j->stage];
    struct part *parts = kd_xalloc((c->n_members + 1) * sizeof *parts);
    size_t n = list_parts(c, j, parts, out);
    j->reshape = false;
    if (n == 0) {
        free(parts);
        return;
    }
    bool first = j->fresh;
    j->generation = first ? j->opening : c->epoch << 32 | ++c->counter;
    size_t fence = out->count;
    kd_action *f = kd_core_act(out, KD_ACT_FENCE, j->id, j->stage);
    f->begin.generation = j->generation;
    f->begin.members = (uint32_t)n;
    divide_chunks(j, parts, n, fence, out);
    for (uint32_t s = 0, r = 0, left = share_of(j->n_slots, 0, n); s < j->n_slots; s++) {
        while (left == 0)
            left = share_of(j->n_slots, ++r, n);
        j->next[s] = parts[r].id;
        left--;
    }
    j->next_from = j->step + 1;
    kd_member_id *given = kd_xalloc(j->n_slots * sizeof *given);
    if (j->push_again)
        memset(j->second, 0, j->n_slots * sizeof *j->second);
    divide_units(c, j, step, parts, n, given);
    /* A fresh start makes a worker forget what it was given and has not begun. */
    for (uint32_t s = 0; s < j->n_slots; s++) {
        const struct part *p = part_of(parts, n, j->runner[s]);
        if (!step->done_ms[s] && p && (j->push_again || p->fresh))
            given[s] = j->runner[s];
        /* A second run of one's own counts only as long as there is nobody else. */
        if (n > 1 && j->second[s] == j->runner[s])
            j->second[s] = 0;
    }
    st->committed_last = step->version == st->s.info.last_version;
    st->saved_last =
        st->s.manifest == st->s.info.last_version && st->committed_last && st->s.manifest > 1;
    kd_begin begin = {.generation = j->generation,
                      .version = step->version,
                      .last_version = st->s.info.last_version,
                      .manifest = st->s.manifest,
                      .members = (uint32_t)n,
                      .publish = !step->whole,
                      .publish_state = step->want_state};
    for (size_t i = 0; i < c->n_members; i++) {
        /* Who leaves finishes its units, and owns nothing any more. */
        const struct member *m = &c->members[i];
        if (m->job != j->id || m->state != WORKING || !m->leaving)
            continue;
        kd_action *a = kd_core_act(out, KD_ACT_BEGIN, j->id, j->stage);
        a->member = m->id;
        a->begin = begin;
        a->begin.fresh = j->push_again;
    }
    begin.evaluate_first =
        kd_core_border(&st->s.info, step->version) && st->s.evaluated < step->version;
    for (size_t r = 0; r < n; r++) {
        size_t at = out->count;
        kd_action *a = kd_core_act(out, KD_ACT_BEGIN, j->id, j->stage);
        a->member = parts[r].id;
        a->begin = begin;
        a->begin.rank = (uint32_t)r;
        a->begin.fresh = first || j->push_again || parts[r].fresh;
        add_owned(out, at, KD_RANGES_SLOTS, j->next, j->n_slots, parts[r].id);
        add_owned(out, at, KD_RANGES_CHUNKS, j->chunk_owner, j->n_chunks, parts[r].id);
        add_owned(out, at, KD_RANGES_UNITS, given, j->n_slots, parts[r].id);
    }
    j->fresh = j->push_again = false;
    free(given);
    if (!j->dispute.open)
        kd_core_set_state(j, KD_RUN_RUNNING, j->blocked, out);
    give_audits(c, j, parts, n, out);
    find_third(c, j, out);
    free(parts);
}

/* ---- slow workers */

static int by_time(const void *a, const void *b)
{
    kd_time_ms x = *(const kd_time_ms *)a, y = *(const kd_time_ms *)b;
    return x < y ? -1 : x > y;
}

static kd_time_ms median(kd_time_ms *t, size_t n)
{
    qsort(t, n, sizeof *t, by_time);
    return n % 2 ? t[n / 2] : (t[n / 2 - 1] + t[n / 2]) / 2;
}

/* How long a step's units take a member; 0 = not known yet. */
struct pace {
    kd_time_ms middle, slow; /* past slow it is a straggler */
};

static struct pace pace_of(const struct job *j, const kd_time_ms *now_done, size_t n_done)
{
    kd_time_ms t[2 * KD_CORE_TIMES];
    size_t n = 0;
    for (size_t i = 0; i < j->n_times; i++)
        t[n++] = j->times[i];
    for (size_t i = 0; i < n_done && n < KD_COUNT(t); i++)
        t[n++] = now_done[i];
    if (n < LEAST_TIMES)
        return (struct pace){0};
    kd_time_ms mid = median(t, n);
    for (size_t i = 0; i < n; i++)
        t[i] = t[i] > mid ? t[i] - mid : mid - t[i];
    kd_time_ms mad = median(t, n);
    mad = KD_MAX(mad, KD_MAX(mid / LEAST_MAD_SHARE, (kd_time_ms)LEAST_MAD_MS));
    return (struct pace){mid, mid + SLOW_MADS * mad};
}

static kd_time_ms patience(const struct pace *pace, const struct member *m, kd_time_ms now)
{
    return m->slow_until > now ? pace->middle : pace->slow;
}

/* Time to a member's last unit of a step; 0 = it has none, or has not done all of them. */
static kd_time_ms time_of(const struct job *j, const kd_core_step *step, kd_member_id id)
{
    kd_time_ms last = 0;
    for (uint32_t s = 0; s < j->n_slots; s++) {
        if (j->runner[s] != id)
            continue;
        if (!step->done_ms[s] || j->second[s])
            return 0;
        last = KD_MAX(last, step->done_ms[s]);
    }
    return last ? KD_MAX(last - step->since, (kd_time_ms)1) : 0;
}

/* Steps after an evaluation begin with it, so they tell nothing about units. */
static bool comparable(const struct job *j, uint64_t step)
{
    return !kd_core_border(&j->stages[j->stage].s.info, step);
}

static void help_slow(kd_core *c, struct job *j, const kd_core_step *step, kd_time_ms now,
                      kd_actions *out)
{
    struct part *parts = kd_xalloc((c->n_members + 1) * sizeof *parts);
    kd_time_ms done[KD_CORE_TIMES];
    size_t n = 0, n_done = 0;
    for (size_t i = 0; i < c->n_members; i++) {
        const struct member *m = &c->members[i];
        if (m->job != j->id || m->state != WORKING)
            continue;
        kd_time_ms t = time_of(j, step, m->id);
        bool busy = false;
        for (uint32_t s = 0; s < j->n_slots; s++)
            busy = busy || ((j->runner[s] == m->id || j->second[s] == m->id) && !step->done_ms[s]);
        if (t && n_done < KD_COUNT(done))
            done[n_done++] = t;
        if (!busy && !m->leaving)
            parts[n++] = (struct part){.id = m->id};
    }
    struct pace pace = pace_of(j, done, n_done);
    kd_time_ms since = now - step->since;
    kd_member_id told = 0;
    for (uint32_t s = 0; s < j->n_slots && pace.slow && n; s++) {
        struct member *m = j->runner[s] ? kd_core_member(c, j->runner[s]) : NULL;
        if (step->done_ms[s] || j->second[s] || !m || since <= patience(&pace, m, now))
            continue;
        struct part *p = least_loaded(parts, n, m->id, 0);
        if (!p)
            break;
        p->units++;
        give(j, p->id, s, false, out);
        if (since > pace.slow && m->slow_step != step->version) {
            m->slow_step = step->version;
            if (++m->slow_row >= SLOW_ROW)
                m->slow_until = now + SLOW_FOR * pace.slow;
        }
        m->slow++;
        if (told != m->id && (m->slow & (m->slow - 1)) == 0)
            kd_core_note(out, j->id, m->id, "slow",
                         "slow: %lld ms into step %llu where others took %lld ms; its units are "
                         "given to others as well",
                         (long long)since, (unsigned long long)step->version,
                         (long long)(n_done ? median(done, n_done) : pace.middle));
        told = m->id;
    }
    free(parts);
}

/* ---- hung workers */

/* Only slices of the next version are missing: their owners have all that they need. */
static bool only_slices_miss(const struct job *j, const kd_core_step *step)
{
    bool done = step->slices && step->whole && !step->held && !j->blocked[0] &&
                step->version < j->stages[j->stage].s.info.last_version &&
                comparable(j, step->version);
    for (uint32_t s = 0; s < j->n_slots && done; s++)
        done = step->done_ms[s] != 0;
    return done;
}

static void release_hung(kd_core *c, struct job *j, const kd_core_step *step, kd_time_ms now,
                         kd_actions *out)
{
    if (now - step->since <= j->hung_after || !only_slices_miss(j, step))
        return;
    struct member *m = NULL;
    for (uint32_t k = 0; k < j->n_chunks && !m; k++)
        m = step->slices[k] ? NULL : kd_core_member(c, j->chunk_owner[k]);
    if (!m || m->job != j->id || m->state != WORKING)
        return;
    char why[KD_CORE_TEXT];
    snprintf(why, sizeof why, "it has not finished its part of step %llu in %lld s",
             (unsigned long long)step->version, (long long)(now - step->since) / 1000);
    j->hung_after *= 2;
    kd_core_note(out, j->id, m->id, "worker", "worker let go: %s, though it answers", why);
    kd_core_gone(c, m, why, false, out);
}

/* ---- news */

void kd_step_news(kd_core *c, struct job *j, const kd_core_step *step, kd_time_ms now,
                  kd_actions *out)
{
    take_step(j, step->version, now);
    if (j->reshape) {
        reshape(c, j, step, out);
    } else if (comparable(j, step->version)) {
        help_slow(c, j, step, now, out);
        release_hung(c, j, step, now, out);
    }
}

/* Of the step under way. A look may be ahead of the news of a commit, so who was told to leave may
 * have been left its units of a step that has begun since. */
static bool runs_units(const struct job *j, kd_member_id id)
{
    for (uint32_t s = 0; s < j->n_slots; s++)
        if (j->runner[s] == id)
            return true;
    return false;
}

void kd_step_committed(kd_core *c, struct job *j, uint64_t version, const kd_core_step *step,
                       kd_time_ms now, kd_actions *out)
{
    for (size_t i = 0; i < c->n_members && step->done_ms && comparable(j, step->version); i++) {
        struct member *m = &c->members[i];
        kd_time_ms t = m->job == j->id && j->step == step->version ? time_of(j, step, m->id) : 0;
        if (!t)
            continue;
        m->slow_row = 0;
        m->slow_until = 0;
        j->times[j->at_times] = t;
        j->at_times = (j->at_times + 1) % KD_CORE_TIMES;
        j->n_times = KD_MIN(j->n_times + 1, (size_t)KD_CORE_TIMES);
    }
    take_step(j, version, now);
    j->hung_after = HUNG_MS;
    for (size_t i = 0; i < c->n_members; i++) {
        struct member *m = &c->members[i];
        if (m->job == j->id && m->leaving && (j->reshape || !runs_units(j, m->id)))
            kd_core_release(m, m->drain ? "drained" : "the job has enough workers", out);
    }
    if (j->audit > 0 && !j->reshape) {
        struct part *parts = kd_xalloc((c->n_members + 1) * sizeof *parts);
        size_t n = 0;
        for (size_t i = 0; i < c->n_members; i++)
            if (takes_part(j, &c->members[i]) && c->members[i].state == WORKING)
                parts[n++] = (struct part){.id = c->members[i].id};
        give_audits(c, j, parts, n, out);
        free(parts);
    }
}

void kd_step_tick(kd_core *c, struct job *j, kd_time_ms now, kd_actions *out)
{
    if (!j->open || j->reshape || j->fresh || !comparable(j, j->step) || j->blocked[0])
        return;
    struct pace pace = pace_of(j, NULL, 0);
    /* Without enough times of earlier steps those of this one may tell. */
    kd_time_ms look = pace.slow ? pace.slow : 1000;
    for (size_t i = 0; i < c->n_members && pace.slow; i++)
        if (c->members[i].job == j->id)
            look = KD_MIN(look, patience(&pace, &c->members[i], now));
    if (now - j->step_since > look)
        kd_core_act(out, KD_ACT_LOOK, j->id, j->stage);
}

/* Whoever was odd had other units in this step: all of it is computed again. */
static void settle(struct job *j, uint64_t odd, kd_actions *out)
{
    kd_action *a = kd_core_act(out, KD_ACT_SETTLE, j->id, j->stage);
    a->version = j->step;
    a->check = true;
    a->process = odd;
    j->settled++;
    j->dispute.open = false;
    j->push_again = true;
}

kd_member_id kd_step_diverged(kd_core *c, struct job *j, const kd_event *ev, kd_actions *out)
{
    struct dispute *d = &j->dispute;
    const struct member *first = by_process(c, j, ev->process);
    const struct member *other = by_process(c, j, ev->other);
    if (ev->version != j->step || ev->slot >= j->n_slots || ev->settled != j->settled || d->open)
        return 0;
    if (first && first == other) {
        /* It does not even agree with itself. */
        settle(j, ev->process, out);
        return first->id;
    }
    if (!first || !other) {
        /* Nobody need decide about who is gone: all of the step is computed again without it. */
        settle(j, 0, out);
        kd_step_reshape(j, out);
        return 0;
    }
    *d = (struct dispute){.open = true,
                          .step = ev->version,
                          .slot = ev->slot,
                          .first = first->id,
                          .other = other->id};
    kd_core_note(out, j->id, 0, "warning",
                 "two runs of unit %u of step %llu differ; a third run decides", ev->slot,
                 (unsigned long long)ev->version);
    find_third(c, j, out);
    /* Who waits for a checkpoint to be taken in would wait for ever. */
    for (size_t i = 0; i < c->n_members && !d->third; i++)
        if (c->members[i].job == j->id && c->members[i].state == READY) {
            kd_step_reshape(j, out);
            break;
        }
    return 0;
}

kd_member_id kd_step_checked(kd_core *c, struct job *j, const kd_event *ev, kd_actions *out)
{
    struct dispute *d = &j->dispute;
    const struct member *third = by_process(c, j, ev->process);
    if (!d->open || ev->settled != j->settled || ev->version != d->step || ev->slot != d->slot ||
        !third || third->id != d->third)
        return 0;
    /* Each of the two may have told of some chunks first. */
    const struct member *other = by_process(c, j, ev->other);
    kd_member_id odd = !ev->other || (other && other->id == d->other) ? d->other : d->first;
    const struct member *m = kd_core_member(c, odd);
    settle(j, m ? m->process : 0, out);
    return odd;
}

/* The coordinator's core in simulation: workers that come, work, fail and vanish at random,
 * replayed from a seed. After each event the invariants are checked; at the end every job must be
 * over. */
#include "kd_test.h"

#include "core.h"
#include "kd/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MEMBERS 6
#define MAX_JOBS 4
#define SLOTS 8
#define CHUNKS 5
#define STAGES 4

static const enum kd_core_stage_kind g_kinds[STAGES] = {KD_CORE_TRAIN, KD_CORE_TRAIN,
                                                        KD_CORE_MEASURE, KD_CORE_EXPORT};

struct sim_member {
    kd_member_id id; /* 0 = not there */
    kd_job_id job;
    uint32_t stage;
    enum { SIM_IDLE, SIM_PREPARING, SIM_READY, SIM_BEGUN, SIM_MEASURING } state;
    kd_begin begin;
    bool slots[SLOTS], chunks[CHUNKS], units[SLOTS]; /* its part; units: of the step under way */
};

struct sim_job {
    kd_job_id id;
    enum kd_run_state state;
    uint32_t stage;
    bool open, exporting;
    uint64_t generation, opening, version, last, steps, saved, evaluated, every;
    uint64_t manifest[KD_CORE_STAGES], stored_evaluation[KD_CORE_STAGES];
    uint32_t min_workers, max_workers;
    bool wanted_checkpoint, settled;
    int reshapes;
    int leader; /* index of the job whose first stage this one takes over, -1 = none */
    bool held, took;
};

struct sim {
    kd_core *core;
    kd_rng rng;
    kd_time_ms now;
    struct sim_member members[MAX_MEMBERS];
    struct sim_job jobs[MAX_JOBS];
    int n_jobs;
    kd_member_id next_member;
    kd_core_stage_info info;
    uint64_t epoch;
};

static struct sim_job *job_of(struct sim *s, kd_job_id id)
{
    for (int i = 0; i < s->n_jobs; i++)
        if (s->jobs[i].id == id)
            return &s->jobs[i];
    return NULL;
}

static struct sim_member *member_of(struct sim *s, kd_member_id id)
{
    for (int i = 0; i < MAX_MEMBERS; i++)
        if (s->members[i].id == id)
            return &s->members[i];
    return NULL;
}

/* Every slot and chunk has one owner in the newest generation, and everybody has a rank. */
static void check_begin(struct sim *s, struct sim_job *j)
{
    int slots[SLOTS] = {0}, chunks[CHUNKS] = {0};
    uint32_t members = 0, ranks = 0, gone = 0;
    for (int i = 0; i < MAX_MEMBERS; i++) {
        struct sim_member *m = &s->members[i];
        if (!m->id || m->job != j->id || m->state != SIM_BEGUN ||
            m->begin.generation != j->generation)
            continue;
        members++;
        gone = m->begin.members;
        ranks |= 1u << m->begin.rank;
        for (int k = 0; k < SLOTS; k++)
            slots[k] += m->slots[k];
        for (int k = 0; k < CHUNKS; k++)
            chunks[k] += m->chunks[k];
    }
    gone -= members; /* lost while too few are left to go on without them */
    if (gone > 0 || members == 0)
        return;
    assert_int_equal(ranks, (1u << members) - 1);
    for (int k = 0; k < SLOTS; k++)
        assert_int_equal(slots[k], 1);
    for (int k = 0; k < CHUNKS; k++)
        assert_int_equal(chunks[k], 1);
}

/* Every unit of the step under way is somebody's who is there. */
static bool units_covered(const struct sim *s, const struct sim_job *j)
{
    for (int k = 0; k < SLOTS; k++) {
        bool has = false;
        for (int i = 0; i < MAX_MEMBERS; i++)
            has = has || (s->members[i].job == j->id && s->members[i].state == SIM_BEGUN &&
                          s->members[i].units[k]);
        if (!has)
            return false;
    }
    return true;
}

static void mark(const kd_actions *out, const kd_action *a, enum kd_ranges kind, bool *which)
{
    for (size_t i = 0; i < a->ranges[kind].n; i++) {
        const kd_range *r = &out->ranges[a->ranges[kind].at + i];
        memset(which + r->first, true, r->count);
    }
}

/* The step that `j` enters is divided as its members were told. */
static void enter_step(struct sim *s, const struct sim_job *j)
{
    for (int i = 0; i < MAX_MEMBERS; i++)
        if (s->members[i].job == j->id && s->members[i].state == SIM_BEGUN)
            memcpy(s->members[i].units, s->members[i].slots, sizeof s->members[i].units);
}

static void feed(struct sim *s, const kd_event *ev);

static void look(struct sim *s, struct sim_job *j, uint32_t stage)
{
    static const kd_time_ms none[SLOTS];
    feed(s, &(kd_event){
                .kind = KD_EV_STEP,
                .job = j->id,
                .stage = stage,
                .generation = j->opening,
                .step = {.version = j->version, .since = s->now, .whole = true, .done_ms = none}});
}

static void feed(struct sim *s, const kd_event *ev)
{
    kd_actions out = {0};
    kd_core_handle(s->core, ev, s->now, &out);
    for (size_t i = 0; i < out.count; i++) {
        kd_action *a = &out.items[i];
        struct sim_job *j = job_of(s, a->job);
        struct sim_member *m = a->member ? member_of(s, a->member) : NULL;
        switch (a->kind) {
        case KD_ACT_PREPARE:
            assert_non_null(m);
            *m = (struct sim_member){
                .id = m->id, .job = a->job, .stage = a->stage, .state = SIM_PREPARING};
            break;
        case KD_ACT_OPEN:
            assert_false(j->open);
            assert_true(a->begin.generation > j->generation);
            assert_true(a->begin.version == j->manifest[a->stage]);
            j->open = true;
            j->generation = j->opening = a->begin.generation;
            j->stage = a->stage;
            /* The journal has what was committed. */
            j->version = a->begin.fresh ? a->begin.version : KD_MAX(j->version, a->begin.version);
            j->last = a->begin.last_version;
            j->saved = a->begin.version > 1 ? a->begin.version : 0;
            j->wanted_checkpoint = false;
            break;
        case KD_ACT_LOOK:
            look(s, j, a->stage);
            break;
        case KD_ACT_FENCE:
            assert_true(a->begin.generation >= j->generation);
            j->generation = a->begin.generation;
            j->reshapes++;
            break;
        case KD_ACT_UNITS:
            assert_non_null(m);
            assert_int_equal(a->version, j->version);
            mark(&out, a, KD_RANGES_UNITS, m->units);
            break;
        case KD_ACT_SETTLE:
            j->settled = a->check;
            break;
        case KD_ACT_BEGIN:
            assert_non_null(m);
            assert_int_equal(m->job, a->job);
            assert_true(m->state == SIM_READY || m->state == SIM_BEGUN);
            assert_true(a->begin.version == j->version);
            if (m->state == SIM_READY)
                memset(m->units, 0, sizeof m->units);
            m->state = SIM_BEGUN;
            m->begin = a->begin;
            memset(m->slots, 0, sizeof m->slots);
            memset(m->chunks, 0, sizeof m->chunks);
            mark(&out, a, KD_RANGES_SLOTS, m->slots);
            mark(&out, a, KD_RANGES_CHUNKS, m->chunks);
            mark(&out, a, KD_RANGES_UNITS, m->units);
            break;
        case KD_ACT_MEASURE:
            assert_non_null(m);
            m->state = SIM_MEASURING;
            break;
        case KD_ACT_RELEASE:
            if (m)
                *m = (struct sim_member){.id = m->id};
            break;
        case KD_ACT_CLOSE:
            j->open = false;
            break;
        case KD_ACT_CHECKPOINT:
            j->wanted_checkpoint = true;
            break;
        case KD_ACT_STATE:
            j->state = a->state;
            break;
        case KD_ACT_STAGE_DONE:
            assert_int_equal(a->stage, j->stage);
            j->stage++;
            j->version = 1;
            j->saved = j->evaluated = 0;
            break;
        case KD_ACT_MANIFEST:
            assert_true(a->version >= j->manifest[a->stage]);
            assert_true(a->version <= j->saved);
            j->manifest[a->stage] = a->version;
            break;
        case KD_ACT_EXPORT:
            j->exporting = true;
            break;
        case KD_ACT_NOTE:
            break;
        }
    }
    kd_actions_clear(&out);
    const char *broken = kd_core_check(s->core);
    if (broken) {
        print_error("%s\n", broken);
        fail();
    }
}

/* Once nothing is under way between the core and the rest. */
static void check_all(struct sim *s)
{
    for (int i = 0; i < s->n_jobs; i++)
        if (s->jobs[i].open)
            check_begin(s, &s->jobs[i]);
}

static void follow(struct sim *s, uint32_t min, uint32_t max, uint64_t epochs, int leader)
{
    struct sim_job *j = &s->jobs[s->n_jobs++];
    *j = (struct sim_job){.id = 0x100000000000u + (kd_job_id)s->n_jobs,
                          .version = 1,
                          .every = 3,
                          .min_workers = min,
                          .max_workers = max,
                          .leader = leader,
                          .held = leader >= 0};
    for (int i = 0; i < KD_CORE_STAGES; i++)
        j->manifest[i] = 1;
    kd_core_job_setup setup = {
        .id = j->id, .min_workers = min, .max_workers = max, .n_stages = STAGES};
    for (int i = 0; i < STAGES; i++)
        setup.stages[i] = (kd_core_stage_setup){.kind = g_kinds[i], .manifest = 1};
    if (j->held)
        snprintf(setup.stages[0].held, sizeof setup.stages[0].held, "waits for job %d", leader);
    s->info = (kd_core_stage_info){
        .last_version = 1 + 4 * epochs, .eval_steps = 4, .slots = SLOTS, .chunks = CHUNKS};
    feed(s, &(kd_event){.kind = KD_EV_SUBMIT, .setup = &setup});
}

static void submit(struct sim *s, uint32_t min, uint32_t max, uint64_t epochs)
{
    follow(s, min, max, epochs, -1);
}

/* What the sweep does: a stage that a leader has made is taken over, one that it never will is
 * free. */
static void share(struct sim *s)
{
    for (int i = 0; i < s->n_jobs; i++) {
        struct sim_job *j = &s->jobs[i];
        if (!j->held || j->state >= KD_RUN_SUCCEEDED)
            continue;
        const struct sim_job *leader = &s->jobs[j->leader];
        kd_event ev = {.kind = KD_EV_HOLD, .job = j->id, .text = ""};
        if (leader->stage > 0 || leader->state == KD_RUN_SUCCEEDED) {
            ev.kind = KD_EV_TAKEN;
            j->stage = 1;
            j->took = true;
        } else if (leader->state < KD_RUN_SUCCEEDED) {
            continue;
        }
        j->held = false;
        feed(s, &ev);
    }
}

static void join(struct sim *s)
{
    for (int i = 0; i < MAX_MEMBERS; i++)
        if (!s->members[i].id) {
            s->members[i] = (struct sim_member){.id = ++s->next_member};
            feed(s, &(kd_event){.kind = KD_EV_JOIN, .member = s->next_member});
            return;
        }
}

static void lose(struct sim *s, struct sim_member *m)
{
    kd_member_id id = m->id;
    *m = (struct sim_member){0};
    feed(s, &(kd_event){.kind = KD_EV_LOST, .member = id, .text = "killed"});
}

/* The coordinator dies: what is stored comes back, members are gone. */
static void restart(struct sim *s)
{
    kd_core_free(s->core);
    s->core = kd_core_new(++s->epoch);
    memset(s->members, 0, sizeof s->members);
    for (int i = 0; i < s->n_jobs; i++)
        s->jobs[i].open = s->jobs[i].exporting = false;
    for (int i = 0; i < s->n_jobs; i++) {
        struct sim_job *j = &s->jobs[i];
        if (j->state >= KD_RUN_SUCCEEDED)
            continue;
        /* It may have died after the last version was stored and before the stage's end was, and it
         * may have lost the end of the journal. */
        if (j->stage > 0 && j->manifest[j->stage] == 1 && kd_rng_below(&s->rng, 2)) {
            j->stage--;
            j->version = j->manifest[j->stage];
        }
        if (kd_rng_below(&s->rng, 2))
            j->version = j->manifest[j->stage];
        j->evaluated = j->stored_evaluation[j->stage];
        kd_core_job_setup setup = {.id = j->id,
                                   .min_workers = j->min_workers,
                                   .max_workers = j->max_workers,
                                   .n_stages = STAGES,
                                   .started = j->state == KD_RUN_RUNNING};
        j->held = j->leader >= 0 && j->stage == 0;
        for (uint32_t k = 0; k < STAGES; k++)
            setup.stages[k] = (kd_core_stage_setup){.kind = g_kinds[k],
                                                    .done = k < j->stage,
                                                    .manifest = j->manifest[k],
                                                    .evaluated = j->stored_evaluation[k],
                                                    .has_info = k < j->stage || j->manifest[k] > 1,
                                                    .info = s->info};
        if (j->held && j->manifest[0] == 1)
            snprintf(setup.stages[0].held, sizeof setup.stages[0].held, "waits");
        else
            j->held = false; /* it had begun the stage itself */
        feed(s, &(kd_event){.kind = KD_EV_SUBMIT, .setup = &setup});
    }
    share(s);
}

static void save(struct sim *s, struct sim_job *j)
{
    j->saved = j->version;
    feed(s, &(kd_event){.kind = KD_EV_SAVED,
                        .job = j->id,
                        .stage = j->stage,
                        .generation = j->opening,
                        .version = j->version});
}

/* One thing that a real worker or exchange might do next. */
static void act(struct sim *s)
{
    struct sim_member *m = &s->members[kd_rng_below(&s->rng, MAX_MEMBERS)];
    struct sim_job *j = m->id ? job_of(s, m->job) : NULL;
    kd_event ev = {.member = m->id, .job = m->job, .stage = m->stage};
    if (m->id && m->state == SIM_PREPARING) {
        m->state = SIM_READY;
        ev.kind = KD_EV_READY;
        ev.info = s->info;
        feed(s, &ev);
        return;
    }
    if (m->id && m->state == SIM_MEASURING) {
        m->state = SIM_READY;
        ev.kind = KD_EV_MEASURED;
        feed(s, &ev);
        return;
    }
    j = &s->jobs[kd_rng_below(&s->rng, (uint32_t)s->n_jobs)];
    ev = (kd_event){.job = j->id, .stage = j->stage, .generation = j->opening};
    if (j->exporting) {
        j->exporting = false;
        ev.kind = KD_EV_EXPORTED;
        feed(s, &ev);
    } else if (j->open) {
        bool border = j->version == j->last || (j->version > 1 && (j->version - 1) % 4 == 0);
        if (border && j->evaluated < j->version && kd_rng_below(&s->rng, 2)) {
            j->evaluated = j->version;
            j->stored_evaluation[j->stage] = j->version;
            ev.kind = KD_EV_EVALUATED;
            ev.version = j->version;
            feed(s, &ev);
        } else if (j->version < j->last && units_covered(s, j) &&
                   !(border && j->evaluated < j->version && kd_rng_below(&s->rng, 3))) {
            ev.version = ++j->version;
            ev.kind = KD_EV_COMMITTED;
            enter_step(s, j);
            feed(s, &ev);
        } else if (j->version > j->saved && (j->version == j->last || j->wanted_checkpoint)) {
            j->wanted_checkpoint = false;
            save(s, j);
        }
        if (j->open && (j->version - 1) % j->every == 0 && j->version > j->saved)
            save(s, j);
    }
}

static void run_until_over(struct sim *s, int limit)
{
    for (int i = 0; i < limit; i++) {
        bool over = true;
        for (int k = 0; k < s->n_jobs; k++)
            over &= s->jobs[k].state >= KD_RUN_SUCCEEDED;
        if (over)
            return;
        s->now += 100;
        act(s);
        share(s);
        check_all(s);
        if (i % 16 == 0)
            feed(s, &(kd_event){.kind = KD_EV_TICK});
    }
    for (int k = 0; k < s->n_jobs; k++)
        print_error("job %d: state %d stage %u version %llu of %llu open %d\n", k, s->jobs[k].state,
                    s->jobs[k].stage, (unsigned long long)s->jobs[k].version,
                    (unsigned long long)s->jobs[k].last, s->jobs[k].open);
    fail_msg("jobs did not come to their end");
}

static int set_up(void **state)
{
    *state = kd_xalloc(sizeof(struct sim));
    return 0;
}

static int tear_down(void **state)
{
    struct sim *s = *state;
    kd_core_free(s->core);
    free(s);
    return 0;
}

/* The test's simulation, from its beginning. */
static struct sim *start(void **state, uint64_t seed)
{
    struct sim *s = *state;
    kd_core_free(s->core);
    *s = (struct sim){.core = kd_core_new(1), .now = 1000, .epoch = 1};
    kd_rng_init(&s->rng, seed, KD_RNG_TEST, 0, 0);
    return s;
}

static kd_core_view view(const struct sim *s, int job)
{
    kd_core_view v;
    assert_true(kd_core_job_view(s->core, s->jobs[job].id, &v));
    return v;
}

static void test_core_one_job_one_worker(void **state)
{
    struct sim *s = start(state, 1);
    submit(s, 1, 8, 2);
    assert_int_equal(s->jobs[0].state, KD_RUN_QUEUED);
    join(s);
    run_until_over(s, 5000);
    assert_int_equal(s->jobs[0].state, KD_RUN_SUCCEEDED);
}

static void test_core_loaded_network_without_steps(void **state)
{
    struct sim *s = start(state, 2);
    submit(s, 1, 8, 0);
    join(s);
    run_until_over(s, 5000);
    assert_int_equal(s->jobs[0].state, KD_RUN_SUCCEEDED);
}

static void test_core_waits_for_min_workers_and_says_so(void **state)
{
    struct sim *s = start(state, 3);
    submit(s, 2, 8, 1);
    join(s);
    assert_non_null(strstr(view(s, 0).reason, "needs 2 worker(s)"));
    assert_int_equal(view(s, 0).queue_position, 1);
    join(s);
    run_until_over(s, 5000);
}

static void test_core_runs_jobs_in_order_of_submission(void **state)
{
    struct sim *s = start(state, 4);
    submit(s, 1, 1, 1);
    submit(s, 1, 1, 1);
    join(s);
    assert_int_equal(s->jobs[0].state, KD_RUN_RUNNING);
    assert_int_equal(s->jobs[1].state, KD_RUN_QUEUED);
    join(s); /* the first takes one worker at most, so the second starts beside it */
    assert_int_equal(s->jobs[1].state, KD_RUN_RUNNING);
    run_until_over(s, 5000);
}

/* The sentence with the newest numbers is told; only the first of its kind is worth storing. */
static void test_core_queued_job_is_told_figures(void **state)
{
    kd_core *c = kd_core_new(1);
    kd_core_job_setup setup = {.id = 1, .min_workers = 3, .max_workers = 3, .n_stages = 1};
    (void)state;
    for (kd_member_id m = 0; m < 3; m++) {
        kd_actions out = {0};
        kd_core_view v;
        char text[64];
        kd_event ev = m == 0 ? (kd_event){.kind = KD_EV_SUBMIT, .setup = &setup}
                             : (kd_event){.kind = KD_EV_JOIN, .member = m};
        kd_core_handle(c, &ev, 0, &out);
        snprintf(text, sizeof text, "needs 3 worker(s), %d of %d connected can serve it", (int)m,
                 (int)m);
        assert_true(kd_core_job_view(c, 1, &v));
        assert_string_equal(v.reason, text);
        assert_int_equal(out.count, 1);
        assert_int_equal(out.items[0].kind, KD_ACT_STATE);
        assert_int_equal(out.items[0].figures, m > 0);
        kd_actions_clear(&out);
    }
    kd_core_free(c);
}

static void test_core_problem_of_one_worker_excludes_it(void **state)
{
    struct sim *s = start(state, 5);
    submit(s, 1, 8, 1);
    join(s);
    feed(s, &(kd_event){.kind = KD_EV_PROBLEM,
                        .member = s->members[0].id,
                        .job = s->jobs[0].id,
                        .worker_only = true,
                        .text = "NO_DATA: no folder flowers"});
    assert_int_equal(s->members[0].job, 0);
    assert_int_equal(s->jobs[0].state, KD_RUN_RUNNING);
    assert_non_null(strstr(view(s, 0).reason, "no worker can serve it: NO_DATA"));
    join(s);
    run_until_over(s, 5000);
    assert_int_equal(s->jobs[0].state, KD_RUN_SUCCEEDED);
    assert_int_equal(s->members[0].job, 0);
}

static void test_core_problem_of_the_job_fails_it(void **state)
{
    struct sim *s = start(state, 6);
    submit(s, 1, 8, 1);
    join(s);
    join(s);
    feed(s, &(kd_event){.kind = KD_EV_PROBLEM,
                        .member = s->members[0].id,
                        .job = s->jobs[0].id,
                        .text = "NON_FINITE: step 3"});
    assert_int_equal(s->jobs[0].state, KD_RUN_FAILED);
    assert_int_equal(s->members[1].job, 0);
}

static void stall(struct sim *s, const struct sim_member *m)
{
    feed(s, &(kd_event){.kind = KD_EV_STALLED,
                        .member = m->id,
                        .job = m->job,
                        .stage = m->stage,
                        .generation = m->begin.generation,
                        .text = "a push was lost"});
}

/* Lets the only member begin a generation, and then say that it cannot go on. */
static void begin_and_stall(struct sim *s)
{
    struct sim_member *m = &s->members[0];
    for (int i = 0; i < 1000 && m->state != SIM_BEGUN; i++) {
        s->now += 1000;
        feed(s, &(kd_event){.kind = KD_EV_TICK});
        if (m->state != SIM_BEGUN)
            act(s);
    }
    assert_true(m->state == SIM_BEGUN);
    stall(s, m);
}

static void test_core_stalls_without_a_commit_fail_the_job(void **state)
{
    enum { STALLS = 5 };
    for (int commit = 0; commit < 2; commit++) {
        struct sim *s = start(state, 8);
        submit(s, 1, 1, 4);
        join(s);
        for (int i = 0; i < STALLS - 1; i++)
            begin_and_stall(s);
        assert_true(s->jobs[0].state == KD_RUN_RUNNING);
        /* One step that is committed shows that the job can go on: the count starts again. */
        for (int i = 0; commit && i < 1000 && s->jobs[0].version < 2; i++) {
            s->now += 1000;
            act(s);
        }
        assert_true(s->jobs[0].version == (commit ? 2 : 1));
        begin_and_stall(s);
        assert_true(s->jobs[0].state == (commit ? KD_RUN_RUNNING : KD_RUN_FAILED));
        if (!commit)
            assert_non_null(strstr(view(s, 0).reason, "a push was lost"));
    }
}

static void test_core_held_stage_waits_and_is_taken(void **state)
{
    struct sim *s = start(state, 7);
    submit(s, 1, 1, 1);
    follow(s, 1, 1, 1, 0);
    submit(s, 1, 1, 1); /* behind the one that waits, and not kept by it */
    join(s);
    join(s);
    assert_int_equal(s->jobs[0].state, KD_RUN_RUNNING);
    assert_int_equal(s->jobs[1].state, KD_RUN_QUEUED);
    assert_string_equal(view(s, 1).reason, "waits for job 0");
    assert_int_equal(s->jobs[2].state, KD_RUN_RUNNING);
    while (s->jobs[0].stage == 0) {
        s->now += 100;
        act(s);
        assert_int_equal(s->jobs[1].state, KD_RUN_QUEUED);
    }
    join(s);
    assert_int_equal(s->members[2].job, 0); /* idle: nobody has work for it yet */
    share(s);
    assert_true(s->jobs[1].took);
    assert_int_equal(s->jobs[1].state, KD_RUN_RUNNING);
    assert_int_equal(s->members[2].job, s->jobs[1].id);
    assert_int_equal(s->members[2].stage, 1); /* the first stage is not run again */
    run_until_over(s, 9000);
    for (int i = 0; i < 3; i++)
        assert_int_equal(s->jobs[i].state, KD_RUN_SUCCEEDED);
}

static void test_core_held_stage_runs_when_it_is_held_no_more(void **state)
{
    struct sim *s = start(state, 8);
    submit(s, 1, 1, 1);
    follow(s, 1, 1, 1, 0);
    join(s);
    feed(s, &(kd_event){.kind = KD_EV_HOLD, .job = s->jobs[1].id, .text = "waits for another"});
    assert_string_equal(view(s, 1).reason, "waits for another");
    assert_false(kd_core_stage_begun(s->core, s->jobs[1].id, 0));
    assert_true(kd_core_stage_begun(s->core, s->jobs[0].id, 0));
    assert_false(kd_core_stage_begun(s->core, s->jobs[0].id, 1));
    feed(s, &(kd_event){.kind = KD_EV_CANCEL, .job = s->jobs[0].id});
    assert_int_equal(s->members[0].job, 0);
    share(s);
    assert_false(s->jobs[1].took);
    assert_int_equal(s->members[0].job, s->jobs[1].id);
    assert_int_equal(s->members[0].stage, 0);
    assert_string_equal(view(s, 1).reason, "");
    assert_true(kd_core_stage_begun(s->core, s->jobs[1].id, 0));
    /* What runs is not stopped by a late wish to hold it, nor is it another's to make. */
    feed(s, &(kd_event){.kind = KD_EV_HOLD, .job = s->jobs[1].id, .text = "waits"});
    feed(s, &(kd_event){.kind = KD_EV_TAKEN, .job = s->jobs[1].id});
    assert_int_equal(s->members[0].job, s->jobs[1].id);
    assert_int_equal(s->jobs[1].stage, 0);
    run_until_over(s, 5000);
    assert_int_equal(s->jobs[1].state, KD_RUN_SUCCEEDED);
}

static void test_core_running_job_gives_its_workers_up_at_a_held_stage(void **state)
{
    struct sim *s = start(state, 9);
    submit(s, 1, 1, 1);
    join(s);
    feed(s, &(kd_event){
                .kind = KD_EV_HOLD, .job = s->jobs[0].id, .stage = 1, .text = "waits for a twin"});
    while (s->jobs[0].stage == 0) {
        s->now += 100;
        act(s);
    }
    assert_int_equal(s->jobs[0].state, KD_RUN_RUNNING);
    assert_string_equal(view(s, 0).reason, "waits for a twin");
    assert_int_equal(s->members[0].job, 0);
    submit(s, 1, 1, 1);
    assert_int_equal(s->members[0].job, s->jobs[1].id);
    join(s);
    assert_int_equal(s->members[1].job, 0);
    s->jobs[0].stage = 2; /* as share() does */
    feed(s, &(kd_event){.kind = KD_EV_TAKEN, .job = s->jobs[0].id, .stage = 1});
    assert_int_equal(s->members[1].job, s->jobs[0].id);
    assert_int_equal(s->members[1].stage, 2);
    run_until_over(s, 9000);
}

static void test_core_random_faults(void **state)
{
    int reshapes = 0, taken = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct sim *s = start(state, 1000 + seed);
        int jobs = 1 + (int)kd_rng_below(&s->rng, 3);
        for (int i = 0; i < jobs; i++) {
            uint32_t min = 1 + kd_rng_below(&s->rng, 3);
            int leader = i > 0 && kd_rng_below(&s->rng, 2) ? (int)kd_rng_below(&s->rng, 2) % i : -1;
            follow(s, min, min + kd_rng_below(&s->rng, 4), 3, leader);
        }
        for (int i = 0; i < 600; i++) {
            uint32_t what = kd_rng_below(&s->rng, 100);
            struct sim_member *m = &s->members[kd_rng_below(&s->rng, MAX_MEMBERS)];
            s->now += kd_rng_below(&s->rng, 3000);
            if (what < 8)
                join(s);
            else if (what < 14 && m->id)
                lose(s, m);
            else if (what < 15 && i % 5 == 0)
                restart(s);
            else if (what < 15 && s->n_jobs > 1 && i % 3 == 0)
                feed(s, &(kd_event){.kind = KD_EV_CANCEL,
                                    .job = s->jobs[kd_rng_below(&s->rng, (uint32_t)s->n_jobs)].id});
            else if (what < 17 && m->id && m->state == SIM_BEGUN) /* often of a past generation */
                stall(s, m);
            else if (what < 25)
                feed(s, &(kd_event){.kind = KD_EV_TICK});
            else
                act(s);
            share(s);
            check_all(s);
        }
        for (int i = 0; i < MAX_MEMBERS; i++)
            join(s);
        run_until_over(s, 50000);
        for (int i = 0; i < s->n_jobs; i++) {
            reshapes += s->jobs[i].reshapes;
            taken += s->jobs[i].took;
        }
    }
    assert_true(reshapes > 1000); /* the faults did hit running generations */
    assert_true(taken > 20);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_core_one_job_one_worker),
        CASE(test_core_loaded_network_without_steps),
        CASE(test_core_waits_for_min_workers_and_says_so),
        CASE(test_core_runs_jobs_in_order_of_submission),
        cmocka_unit_test(test_core_queued_job_is_told_figures),
        CASE(test_core_problem_of_one_worker_excludes_it),
        CASE(test_core_problem_of_the_job_fails_it),
        CASE(test_core_stalls_without_a_commit_fail_the_job),
        CASE(test_core_held_stage_waits_and_is_taken),
        CASE(test_core_held_stage_runs_when_it_is_held_no_more),
        CASE(test_core_running_job_gives_its_workers_up_at_a_held_stage),
        CASE(test_core_random_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

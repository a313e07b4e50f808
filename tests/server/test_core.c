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

struct sim_member {
    kd_member_id id; /* 0 = not there */
    kd_job_id job;
    uint32_t stage;
    enum { SIM_IDLE, SIM_PREPARING, SIM_READY, SIM_BEGUN, SIM_MEASURING } state;
    kd_begin begin;
};

struct sim_job {
    kd_job_id id;
    enum kd_run_state state;
    uint32_t stage;
    bool open, exporting;
    uint64_t generation, version, last, steps, saved, evaluated, every;
    uint64_t manifest[KD_CORE_STAGES], stored_evaluation[KD_CORE_STAGES];
    uint32_t min_workers, max_workers;
    uint64_t newest_begun;
    bool wanted_checkpoint;
    int rollbacks;
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

static void check_begin(struct sim *s, struct sim_job *j)
{
    bool slots[SLOTS] = {0}, chunks[CHUNKS] = {0};
    uint32_t members = 0, ranks = 0;
    for (int i = 0; i < MAX_MEMBERS; i++) {
        struct sim_member *m = &s->members[i];
        if (!m->id || m->job != j->id || m->state != SIM_BEGUN ||
            m->begin.generation != j->generation)
            continue;
        members++;
        ranks |= 1u << m->begin.rank;
        for (uint32_t k = 0; k < m->begin.slot_count; k++) {
            assert_false(slots[m->begin.slot_first + k]);
            slots[m->begin.slot_first + k] = true;
        }
        for (uint32_t k = 0; k < m->begin.chunk_count; k++) {
            assert_false(chunks[m->begin.chunk_first + k]);
            chunks[m->begin.chunk_first + k] = true;
        }
    }
    assert_true(members > 0);
    assert_int_equal(ranks, (1u << members) - 1);
    for (int k = 0; k < SLOTS; k++)
        assert_true(slots[k]);
    for (int k = 0; k < CHUNKS; k++)
        assert_true(chunks[k]);
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
            j->generation = a->begin.generation;
            j->rollbacks += a->begin.version < j->version && a->stage == j->stage;
            j->stage = a->stage;
            j->version = a->begin.version;
            j->last = a->begin.last_version;
            j->saved = a->begin.version > 1 ? a->begin.version : 0;
            j->wanted_checkpoint = false;
            break;
        case KD_ACT_BEGIN:
            assert_non_null(m);
            assert_int_equal(m->job, a->job);
            assert_true(m->state == SIM_READY || m->state == SIM_BEGUN);
            m->state = SIM_BEGUN;
            m->begin = a->begin;
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
    for (int i = 0; i < s->n_jobs; i++)
        if (s->jobs[i].open)
            check_begin(s, &s->jobs[i]);
}

static void submit(struct sim *s, uint32_t min, uint32_t max, uint64_t epochs)
{
    struct sim_job *j = &s->jobs[s->n_jobs++];
    *j = (struct sim_job){.id = 0x100000000000u + (kd_job_id)s->n_jobs,
                          .version = 1,
                          .every = 3,
                          .min_workers = min,
                          .max_workers = max};
    for (int i = 0; i < KD_CORE_STAGES; i++)
        j->manifest[i] = 1;
    kd_core_job_setup setup = {.id = j->id, .min_workers = min, .max_workers = max, .n_stages = 4};
    setup.stages[0] = (kd_core_stage_setup){.kind = KD_CORE_TRAIN, .manifest = 1};
    setup.stages[1] = (kd_core_stage_setup){.kind = KD_CORE_TRAIN, .manifest = 1};
    setup.stages[2] = (kd_core_stage_setup){.kind = KD_CORE_MEASURE, .manifest = 1};
    setup.stages[3] = (kd_core_stage_setup){.kind = KD_CORE_EXPORT, .manifest = 1};
    s->info = (kd_core_stage_info){
        .last_version = 1 + 4 * epochs, .eval_steps = 4, .slots = SLOTS, .chunks = CHUNKS};
    feed(s, &(kd_event){.kind = KD_EV_SUBMIT, .setup = &setup});
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
        /* It may have died after the last version was stored and before the stage's end was. */
        if (j->stage > 0 && j->manifest[j->stage] == 1 && kd_rng_below(&s->rng, 2))
            j->stage--;
        j->version = j->manifest[j->stage];
        j->evaluated = j->stored_evaluation[j->stage];
        kd_core_job_setup setup = {.id = j->id,
                                   .min_workers = j->min_workers,
                                   .max_workers = j->max_workers,
                                   .n_stages = 4,
                                   .started = j->state == KD_RUN_RUNNING};
        static const enum kd_core_stage_kind kinds[] = {KD_CORE_TRAIN, KD_CORE_TRAIN,
                                                        KD_CORE_MEASURE, KD_CORE_EXPORT};
        for (uint32_t k = 0; k < 4; k++)
            setup.stages[k] = (kd_core_stage_setup){.kind = kinds[k],
                                                    .done = k < j->stage,
                                                    .manifest = j->manifest[k],
                                                    .evaluated = j->stored_evaluation[k],
                                                    .has_info = k < j->stage || j->manifest[k] > 1,
                                                    .info = s->info};
        feed(s, &(kd_event){.kind = KD_EV_SUBMIT, .setup = &setup});
    }
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
    ev = (kd_event){.job = j->id, .stage = j->stage, .generation = j->generation};
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
        } else if (j->version < j->last &&
                   !(border && j->evaluated < j->version && kd_rng_below(&s->rng, 3))) {
            ev.version = ++j->version;
            ev.kind = KD_EV_COMMITTED;
            feed(s, &ev);
        } else if (j->version > j->saved && (j->version == j->last || j->wanted_checkpoint)) {
            j->saved = j->version;
            j->wanted_checkpoint = false;
            ev.kind = KD_EV_SAVED;
            ev.version = j->version;
            feed(s, &ev);
        }
        if (j->open && (j->version - 1) % j->every == 0 && j->version > j->saved) {
            j->saved = j->version;
            ev = (kd_event){
                .kind = KD_EV_SAVED, .job = j->id, .stage = j->stage, .version = j->version};
            feed(s, &ev);
        }
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
        if (i % 16 == 0)
            feed(s, &(kd_event){.kind = KD_EV_TICK});
    }
    for (int k = 0; k < s->n_jobs; k++)
        print_error("job %d: state %d stage %u version %llu of %llu open %d\n", k, s->jobs[k].state,
                    s->jobs[k].stage, (unsigned long long)s->jobs[k].version,
                    (unsigned long long)s->jobs[k].last, s->jobs[k].open);
    fail_msg("jobs did not come to their end");
}

static void start(struct sim *s, uint64_t seed)
{
    *s = (struct sim){.core = kd_core_new(1), .now = 1000, .epoch = 1};
    kd_rng_init(&s->rng, seed, KD_RNG_TEST, 0, 0);
}

static void test_core_one_job_one_worker(void **state)
{
    (void)state;
    struct sim s;
    start(&s, 1);
    submit(&s, 1, 8, 2);
    assert_int_equal(s.jobs[0].state, KD_RUN_QUEUED);
    join(&s);
    run_until_over(&s, 5000);
    assert_int_equal(s.jobs[0].state, KD_RUN_SUCCEEDED);
    kd_core_free(s.core);
}

static void test_core_loaded_network_without_steps(void **state)
{
    (void)state;
    struct sim s;
    start(&s, 2);
    submit(&s, 1, 8, 0);
    join(&s);
    run_until_over(&s, 5000);
    assert_int_equal(s.jobs[0].state, KD_RUN_SUCCEEDED);
    kd_core_free(s.core);
}

static void test_core_waits_for_min_workers_and_says_so(void **state)
{
    (void)state;
    struct sim s;
    start(&s, 3);
    submit(&s, 2, 8, 1);
    join(&s);
    kd_core_view v;
    assert_true(kd_core_job_view(s.core, s.jobs[0].id, &v));
    assert_non_null(strstr(v.reason, "needs 2 worker(s)"));
    assert_int_equal(v.queue_position, 1);
    join(&s);
    run_until_over(&s, 5000);
    kd_core_free(s.core);
}

static void test_core_runs_jobs_in_order_of_submission(void **state)
{
    (void)state;
    struct sim s;
    start(&s, 4);
    submit(&s, 1, 1, 1);
    submit(&s, 1, 1, 1);
    join(&s);
    assert_int_equal(s.jobs[0].state, KD_RUN_RUNNING);
    assert_int_equal(s.jobs[1].state, KD_RUN_QUEUED);
    join(&s); /* the first takes one worker at most, so the second starts beside it */
    assert_int_equal(s.jobs[1].state, KD_RUN_RUNNING);
    run_until_over(&s, 5000);
    kd_core_free(s.core);
}

static void test_core_problem_of_one_worker_excludes_it(void **state)
{
    (void)state;
    struct sim s;
    start(&s, 5);
    submit(&s, 1, 8, 1);
    join(&s);
    feed(&s, &(kd_event){.kind = KD_EV_PROBLEM,
                         .member = s.members[0].id,
                         .job = s.jobs[0].id,
                         .worker_only = true,
                         .text = "NO_DATA: no folder flowers"});
    assert_int_equal(s.members[0].job, 0);
    assert_int_equal(s.jobs[0].state, KD_RUN_RUNNING);
    kd_core_view v;
    assert_true(kd_core_job_view(s.core, s.jobs[0].id, &v));
    assert_non_null(strstr(v.reason, "no worker can serve it: NO_DATA"));
    join(&s);
    run_until_over(&s, 5000);
    assert_int_equal(s.jobs[0].state, KD_RUN_SUCCEEDED);
    assert_int_equal(s.members[0].job, 0);
    kd_core_free(s.core);
}

static void test_core_problem_of_the_job_fails_it(void **state)
{
    (void)state;
    struct sim s;
    start(&s, 6);
    submit(&s, 1, 8, 1);
    join(&s);
    join(&s);
    feed(&s, &(kd_event){.kind = KD_EV_PROBLEM,
                         .member = s.members[0].id,
                         .job = s.jobs[0].id,
                         .text = "NON_FINITE: step 3"});
    assert_int_equal(s.jobs[0].state, KD_RUN_FAILED);
    assert_int_equal(s.members[1].job, 0);
    kd_core_free(s.core);
}

static void test_core_random_faults(void **state)
{
    (void)state;
    int rollbacks = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct sim s;
        start(&s, 1000 + seed);
        int jobs = 1 + (int)kd_rng_below(&s.rng, 3);
        for (int i = 0; i < jobs; i++) {
            uint32_t min = 1 + kd_rng_below(&s.rng, 3);
            submit(&s, min, min + kd_rng_below(&s.rng, 4), 3);
        }
        for (int i = 0; i < 600; i++) {
            uint32_t what = kd_rng_below(&s.rng, 100);
            struct sim_member *m = &s.members[kd_rng_below(&s.rng, MAX_MEMBERS)];
            s.now += kd_rng_below(&s.rng, 3000);
            if (what < 8)
                join(&s);
            else if (what < 14 && m->id)
                lose(&s, m);
            else if (what < 15 && i % 5 == 0)
                restart(&s);
            else if (what < 15 && s.n_jobs > 1 && i % 3 == 0)
                feed(&s, &(kd_event){.kind = KD_EV_CANCEL, .job = s.jobs[s.n_jobs - 1].id});
            else if (what < 17 && m->id && m->state == SIM_BEGUN) /* often of a past generation */
                feed(&s, &(kd_event){.kind = KD_EV_STALLED,
                                     .member = m->id,
                                     .job = m->job,
                                     .stage = m->stage,
                                     .generation = m->begin.generation,
                                     .text = "a push was lost"});
            else if (what < 25)
                feed(&s, &(kd_event){.kind = KD_EV_TICK});
            else
                act(&s);
        }
        for (int i = 0; i < MAX_MEMBERS; i++)
            join(&s);
        run_until_over(&s, 50000);
        for (int i = 0; i < s.n_jobs; i++)
            rollbacks += s.jobs[i].rollbacks;
        kd_core_free(s.core);
    }
    assert_true(rollbacks > 50); /* the faults did hit running generations */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_core_one_job_one_worker),
        cmocka_unit_test(test_core_loaded_network_without_steps),
        cmocka_unit_test(test_core_waits_for_min_workers_and_says_so),
        cmocka_unit_test(test_core_runs_jobs_in_order_of_submission),
        cmocka_unit_test(test_core_problem_of_one_worker_excludes_it),
        cmocka_unit_test(test_core_problem_of_the_job_fails_it),
        cmocka_unit_test(test_core_random_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

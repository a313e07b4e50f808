/* The coordinator's core when users change what runs: pause, resume, scale, drain, priority.
 * Members are ready at once, steps are committed one by one. */
#include "kd_test.h"

#include "core.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS 4
#define MAX 8
#define PROCESS 100 /* of member 0, if there were one */

struct rig {
    kd_core *core;
    kd_time_ms now;
    kd_core_stage_info info;
    struct {
        kd_job_id id;
        uint64_t version, opening;
        bool open;
        enum kd_run_state state;
    } jobs[MAX];
    int n_jobs;
    kd_member_id n_members;
    size_t begun;                         /* BEGINs of the last division */
    char released[MAX + 1][KD_CORE_TEXT]; /* why a member was let go last */
};

static void feed(struct rig *r, const kd_event *ev);

static void save(struct rig *r, int k, uint64_t version)
{
    feed(r, &(kd_event){.kind = KD_EV_SAVED,
                        .job = r->jobs[k].id,
                        .generation = r->jobs[k].opening,
                        .version = version});
}

static void answer(struct rig *r, const kd_action *a)
{
    static const kd_time_ms none[SLOTS];
    int k = 0;
    while (k < r->n_jobs && r->jobs[k].id != a->job)
        k++;
    assert_true(k < r->n_jobs);
    switch (a->kind) {
    case KD_ACT_PREPARE:
        feed(r, &(kd_event){.kind = KD_EV_READY,
                            .member = a->member,
                            .job = a->job,
                            .stage = a->stage,
                            .info = r->info});
        break;
    case KD_ACT_OPEN:
        r->jobs[k].open = true;
        r->jobs[k].opening = a->begin.generation;
        break;
    case KD_ACT_CLOSE:
        r->jobs[k].open = false;
        break;
    case KD_ACT_LOOK:
        feed(r, &(kd_event){.kind = KD_EV_STEP,
                            .job = a->job,
                            .generation = r->jobs[k].opening,
                            .step = {.version = r->jobs[k].version,
                                     .since = r->now,
                                     .whole = true,
                                     .done_ms = none}});
        break;
    case KD_ACT_FENCE:
        r->begun = 0;
        break;
    case KD_ACT_BEGIN:
        r->begun++;
        assert_int_equal(a->begin.version, r->jobs[k].version);
        break;
    case KD_ACT_STATE:
        r->jobs[k].state = a->state;
        break;
    case KD_ACT_CHECKPOINT: /* takes in who waits */
        save(r, k, r->jobs[k].version);
        break;
    case KD_ACT_RELEASE:
        memcpy(r->released[a->member], a->text, sizeof a->text);
        break;
    default:
        break;
    }
}

static void feed(struct rig *r, const kd_event *ev)
{
    kd_actions out = {0};
    kd_core_handle(r->core, ev, r->now, &out);
    for (size_t i = 0; i < out.count; i++)
        answer(r, &out.items[i]);
    kd_actions_clear(&out);
    const char *broken = kd_core_check(r->core);
    if (broken)
        fail_msg("%s", broken);
}

static int set_up(void **state)
{
    struct rig *r = kd_xalloc(sizeof *r);
    r->core = kd_core_new(1);
    r->now = 1000;
    r->info =
        (kd_core_stage_info){.last_version = 100, .eval_steps = 200, .slots = SLOTS, .chunks = 3};
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    struct rig *r = *state;
    kd_core_free(r->core);
    free(r);
    return 0;
}

static int submit(struct rig *r, uint32_t min, uint32_t max, int priority, bool paused)
{
    int k = r->n_jobs++;
    kd_core_job_setup setup = {.id = 0x100000000000u + (kd_job_id)k,
                               .min_workers = min,
                               .max_workers = max,
                               .priority = priority,
                               .paused = paused,
                               .n_stages = 1};
    setup.stages[0] = (kd_core_stage_setup){.kind = KD_CORE_TRAIN, .manifest = 1};
    r->jobs[k].id = setup.id;
    r->jobs[k].version = 1;
    feed(r, &(kd_event){.kind = KD_EV_SUBMIT, .setup = &setup});
    return k;
}

static kd_member_id join(struct rig *r)
{
    ++r->n_members;
    feed(r, &(kd_event){
                .kind = KD_EV_JOIN, .member = r->n_members, .process = PROCESS + r->n_members});
    /* It is ready at once; others that were late may begin after a while. */
    r->now += 60000;
    feed(r, &(kd_event){.kind = KD_EV_TICK});
    return r->n_members;
}

static void commit(struct rig *r, int k)
{
    static const kd_time_ms done[SLOTS] = {1, 1, 1, 1};
    assert_true(r->jobs[k].open);
    feed(r, &(kd_event){.kind = KD_EV_COMMITTED,
                        .job = r->jobs[k].id,
                        .generation = r->jobs[k].opening,
                        .version = ++r->jobs[k].version,
                        .step = {.version = r->jobs[k].version - 1,
                                 .since = r->now,
                                 .whole = true,
                                 .done_ms = done}});
}

static void ask(struct rig *r, enum kd_event_kind kind, int k)
{
    feed(r, &(kd_event){.kind = kind, .job = r->jobs[k].id});
}

static void scale(struct rig *r, int k, uint32_t min, uint32_t max)
{
    feed(r, &(kd_event){
                .kind = KD_EV_SCALE, .job = r->jobs[k].id, .min_workers = min, .max_workers = max});
}

static void drain(struct rig *r, kd_member_id m, bool undo)
{
    feed(r, &(kd_event){.kind = KD_EV_DRAIN, .member = m, .stop = undo});
}

static kd_core_view view(const struct rig *r, int k)
{
    kd_core_view v;
    assert_true(kd_core_job_view(r->core, r->jobs[k].id, &v));
    return v;
}

static const char *state_of(const struct rig *r, kd_member_id m, kd_job_id *out_job)
{
    const char *state;
    *out_job = kd_core_member_job(r->core, m, &state);
    return state;
}

#define IS(member, word, job_id)                                                                   \
    do {                                                                                           \
        kd_job_id job_;                                                                            \
        assert_string_equal(state_of(r, member, &job_), word);                                     \
        assert_true(job_ == (job_id));                                                             \
    } while (0)

static void test_core_pauses_at_the_step_border(void **state)
{
    struct rig *r = *state;
    int k = submit(r, 1, 8, 0, false);
    kd_member_id a = join(r);
    commit(r, k);
    ask(r, KD_EV_PAUSE, k);
    assert_int_equal(r->jobs[k].state, KD_RUN_RUNNING); /* the step under way is not lost */
    assert_true(view(r, k).paused);
    IS(a, "working", r->jobs[k].id);
    commit(r, k);
    assert_int_equal(r->jobs[k].state, KD_RUN_QUEUED);
    assert_false(r->jobs[k].open);
    IS(a, "idle", 0);
    assert_non_null(strstr(view(r, k).reason, "paused"));
    ask(r, KD_EV_PAUSE, k); /* once more changes nothing */
    join(r);
    assert_int_equal(r->jobs[k].state, KD_RUN_QUEUED);
    ask(r, KD_EV_RESUME, k);
    assert_int_equal(r->jobs[k].state, KD_RUN_RUNNING);
    assert_true(r->jobs[k].open);
    assert_int_equal(r->jobs[k].version, 3);
    assert_false(view(r, k).paused);
    commit(r, k);
}

static void test_core_stops_only_where_no_step_is_lost(void **state)
{
    struct rig *r = *state;
    r->info.eval_steps = 2;
    int k = submit(r, 1, 8, 0, false);
    join(r);
    commit(r, k);
    commit(r, k); /* version 3 is to be evaluated and saved */
    ask(r, KD_EV_PAUSE, k);
    commit(r, k);
    assert_int_equal(r->jobs[k].state, KD_RUN_RUNNING);
    save(r, k, 3);
    commit(r, k); /* 5 has its turn, too, but it may stop there */
    assert_int_equal(r->jobs[k].state, KD_RUN_RUNNING);
    feed(r, &(kd_event){.kind = KD_EV_EVALUATED, .job = r->jobs[k].id, .version = 3});
    commit(r, k);
    assert_int_equal(r->jobs[k].state, KD_RUN_RUNNING);
    feed(r, &(kd_event){.kind = KD_EV_EVALUATED, .job = r->jobs[k].id, .version = 5});
    save(r, k, 5);
    commit(r, k);
    assert_int_equal(r->jobs[k].version, 7);
    assert_int_equal(r->jobs[k].state, KD_RUN_QUEUED);
}

static void test_core_resumes_before_the_step_is_over(void **state)
{
    struct rig *r = *state;
    int k = submit(r, 1, 8, 0, false);
    join(r);
    commit(r, k);
    ask(r, KD_EV_PAUSE, k);
    ask(r, KD_EV_RESUME, k);
    commit(r, k);
    assert_int_equal(r->jobs[k].state, KD_RUN_RUNNING);
    assert_true(r->jobs[k].open);
}

static void test_core_paused_job_waits_and_keeps_nobody(void **state)
{
    struct rig *r = *state;
    int k = submit(r, 1, 8, 5, true), other = submit(r, 1, 8, 0, false);
    kd_member_id a = join(r);
    assert_int_equal(r->jobs[k].state, KD_RUN_QUEUED);
    IS(a, "working", r->jobs[other].id);
    ask(r, KD_EV_RESUME, k); /* it comes first and takes the worker once the step is over */
    commit(r, other);
    IS(a, "working", r->jobs[k].id);
    assert_int_equal(r->jobs[other].state, KD_RUN_QUEUED);
    ask(r, KD_EV_CANCEL, k);
    IS(a, "working", r->jobs[other].id);
    assert_int_equal(r->jobs[other].version, 2);
    commit(r, other);
}

static void test_core_scales_up_and_down(void **state)
{
    struct rig *r = *state;
    int k = submit(r, 1, 1, 0, false);
    kd_member_id a = join(r), b = join(r), c = join(r);
    IS(a, "working", r->jobs[k].id);
    IS(b, "idle", 0);
    commit(r, k);
    scale(r, k, 1, 3);
    commit(r, k);
    IS(b, "working", r->jobs[k].id);
    IS(c, "working", r->jobs[k].id);
    assert_int_equal(r->begun, 3);
    assert_int_equal(view(r, k).max_workers, 3);
    scale(r, k, 1, 1);
    IS(c, "working", r->jobs[k].id); /* its units of the step are its own */
    assert_int_equal(view(r, k).members, 1);
    drain(r, c, true); /* it was not drained: that is no reason to stay */
    commit(r, k);
    IS(a, "working", r->jobs[k].id);
    IS(b, "idle", 0);
    IS(c, "idle", 0);
    assert_string_equal(r->released[c], "the job has enough workers");
    commit(r, k);
}

static void test_core_scaled_job_waits_for_its_least_workers(void **state)
{
    struct rig *r = *state;
    int k = submit(r, 3, 3, 0, false);
    join(r);
    join(r);
    assert_int_equal(r->jobs[k].state, KD_RUN_QUEUED);
    scale(r, k, 2, 3);
    assert_int_equal(r->jobs[k].state, KD_RUN_RUNNING);
    commit(r, k);
}

/* A job that two members work for. */
static int two_at_work(struct rig *r, kd_member_id *out_a, kd_member_id *out_b)
{
    int k = submit(r, 1, 8, 0, false);
    *out_a = join(r);
    commit(r, k);
    *out_b = join(r);
    commit(r, k);
    IS(*out_b, "working", r->jobs[k].id);
    return k;
}

static void test_core_drains_a_worker(void **state)
{
    struct rig *r = *state;
    kd_member_id a, b;
    int k = two_at_work(r, &a, &b);
    drain(r, b, false);
    IS(b, "draining", r->jobs[k].id);
    commit(r, k);
    IS(b, "drained", 0);
    assert_string_equal(r->released[b], "drained");
    IS(a, "working", r->jobs[k].id);
    commit(r, k);
    IS(b, "drained", 0);
    drain(r, b, true); /* it may work again, and does */
    commit(r, k);
    IS(b, "working", r->jobs[k].id);

    /* The only one that is left: the job waits. */
    drain(r, a, false);
    commit(r, k);
    drain(r, b, false);
    IS(b, "drained", 0);
    assert_non_null(strstr(view(r, k).reason, "waiting for workers"));
    join(r);
    commit(r, k);
}

/* What is looked up when it is told to leave is ahead of the news that a step was committed. */
static void test_core_who_leaves_has_units_of_the_step_that_began_meanwhile(void **state)
{
    static const kd_time_ms done[SLOTS] = {1, 1, 1, 1};
    struct rig *r = *state;
    kd_member_id a, b;
    int k = two_at_work(r, &a, &b);
    r->jobs[k].version++;
    drain(r, b, false);
    feed(r, &(kd_event){.kind = KD_EV_COMMITTED,
                        .job = r->jobs[k].id,
                        .generation = r->jobs[k].opening,
                        .version = r->jobs[k].version,
                        .step = {.version = r->jobs[k].version - 1, .done_ms = done}});
    IS(b, "draining", r->jobs[k].id);
    commit(r, k);
    IS(b, "drained", 0);
    IS(a, "working", r->jobs[k].id);
}

static void two_runs(struct rig *r, int k, uint64_t opening, enum kd_event_kind kind,
                     uint64_t process, uint64_t other, uint32_t settled)
{
    feed(r, &(kd_event){.kind = kind,
                        .job = r->jobs[k].id,
                        .generation = opening,
                        .version = r->jobs[k].version,
                        .process = process,
                        .other = other,
                        .settled = settled});
}

/* Of two workers it depends on whose run came first who is called the other one; after a settlement
 * all runs come again, in whatever order. */
static void test_core_news_from_before_a_settlement_are_void(void **state)
{
    struct rig *r = *state;
    kd_member_id a, b;
    int k = two_at_work(r, &a, &b);
    kd_member_id c = join(r);
    commit(r, k);
    uint64_t now = r->jobs[k].opening;
    two_runs(r, k, now, KD_EV_DIVERGED, PROCESS + a, PROCESS + 77, 0); /* who is gone: settled */
    two_runs(r, k, now, KD_EV_DIVERGED, PROCESS + a, PROCESS + b, 0);
    two_runs(r, k, now, KD_EV_CHECKED, PROCESS + c, 0, 0);
    IS(b, "working", r->jobs[k].id);
    two_runs(r, k, now, KD_EV_DIVERGED, PROCESS + b, PROCESS + a, 1);
    two_runs(r, k, now, KD_EV_CHECKED, PROCESS + c, 0, 1);
    IS(a, "quarantined", 0);
    IS(b, "working", r->jobs[k].id);
    commit(r, k);
}

/* The loop may hear of two runs when the step that they were of has been begun anew: its dispute is
 * with nobody any more, and settlements are counted from 0 again. */
static void test_core_news_of_an_earlier_opening_are_void(void **state)
{
    struct rig *r = *state;
    kd_member_id a, b;
    int k = two_at_work(r, &a, &b);
    kd_member_id c = join(r);
    commit(r, k);
    uint64_t before = r->jobs[k].opening;
    ask(r, KD_EV_PAUSE, k);
    commit(r, k);
    assert_false(r->jobs[k].open);
    ask(r, KD_EV_RESUME, k);
    r->now += 60000;
    feed(r, &(kd_event){.kind = KD_EV_TICK});
    uint64_t now = r->jobs[k].opening;
    assert_true(now > before);
    IS(c, "working", r->jobs[k].id);
    two_runs(r, k, before, KD_EV_DIVERGED, PROCESS + a, PROCESS + b, 0);
    two_runs(r, k, now, KD_EV_CHECKED, PROCESS + c, 0, 0);
    IS(b, "working", r->jobs[k].id);
    two_runs(r, k, now, KD_EV_DIVERGED, PROCESS + a, PROCESS + b, 0);
    two_runs(r, k, before, KD_EV_CHECKED, PROCESS + c, PROCESS + a, 0);
    IS(a, "working", r->jobs[k].id);
    two_runs(r, k, now, KD_EV_CHECKED, PROCESS + c, 0, 0);
    IS(a, "working", r->jobs[k].id);
    IS(b, "quarantined", 0);
    commit(r, k);
}

/* A step of which everything is there but some slices. */
static void look_at_step(struct rig *r, int k, kd_time_ms since, const bool slices[3])
{
    static const kd_time_ms done[SLOTS] = {1, 1, 1, 1};
    feed(r, &(kd_event){.kind = KD_EV_STEP,
                        .job = r->jobs[k].id,
                        .generation = r->jobs[k].opening,
                        .step = {.version = r->jobs[k].version,
                                 .since = since,
                                 .whole = true,
                                 .done_ms = done,
                                 .slices = slices}});
}

static void test_core_lets_go_who_answers_and_does_nothing(void **state)
{
    struct rig *r = *state;
    static const bool first_misses[3] = {false, true, true}, none_misses[3] = {true, true, true};
    kd_member_id a, b;
    int k = two_at_work(r, &a, &b);
    kd_time_ms since = r->now;
    r->now += 59000;
    look_at_step(r, k, since, first_misses);
    IS(a, "working", r->jobs[k].id);
    r->now += 2000;
    look_at_step(r, k, since, none_misses);
    IS(a, "working", r->jobs[k].id);
    look_at_step(r, k, since, first_misses);
    assert_non_null(strstr(r->released[a], "has not finished its part of step"));
    IS(b, "working", r->jobs[k].id);
    /* Who has taken over has more time. */
    look_at_step(r, k, since, first_misses);
    IS(b, "working", r->jobs[k].id);
    r->now += 60000;
    look_at_step(r, k, since, first_misses);
    assert_string_not_equal(r->released[b], "");
}

static void test_core_stays_drained_or_quarantined_over_a_reconnect(void **state)
{
    struct rig *r = *state;
    int k = submit(r, 1, 8, 0, false);
    feed(r, &(kd_event){.kind = KD_EV_JOIN, .member = ++r->n_members, .drained = true});
    feed(r, &(kd_event){.kind = KD_EV_JOIN, .member = ++r->n_members, .quarantined = true});
    IS(1, "drained", 0);
    IS(2, "quarantined", 0);
    assert_int_equal(r->jobs[k].state, KD_RUN_QUEUED);
    drain(r, 2, true); /* no way out of the quarantine */
    IS(2, "quarantined", 0);
    drain(r, 1, true);
    IS(1, "working", r->jobs[k].id);
}

static void test_core_takes_what_is_beyond_the_least_first(void **state)
{
    struct rig *r = *state;
    int low = submit(r, 1, 3, 0, false);
    kd_member_id a = join(r), b = join(r), c = join(r);
    commit(r, low);
    commit(r, low);
    IS(c, "working", r->jobs[low].id);
    int high = submit(r, 2, 2, 1, false);
    commit(r, low);
    IS(a, "working", r->jobs[low].id); /* goes on with its least */
    IS(b, "working", r->jobs[high].id);
    IS(c, "working", r->jobs[high].id);
    commit(r, low);
    commit(r, high);
}

static void test_core_takes_all_workers_and_gives_them_back(void **state)
{
    struct rig *r = *state;
    int low = submit(r, 2, 2, 0, false);
    kd_member_id a = join(r), b = join(r);
    commit(r, low);
    int equal = submit(r, 2, 2, 0, false), high = submit(r, 2, 2, 1, false);
    assert_int_equal(r->jobs[low].state, KD_RUN_RUNNING); /* to the end of its step */
    assert_int_equal(r->jobs[high].state, KD_RUN_QUEUED);
    commit(r, low);
    assert_int_equal(r->jobs[low].state, KD_RUN_QUEUED);
    assert_int_equal(r->jobs[high].state, KD_RUN_RUNNING);
    IS(a, "working", r->jobs[high].id);
    IS(b, "working", r->jobs[high].id);
    ask(r, KD_EV_CANCEL, high);
    assert_int_equal(r->jobs[low].state, KD_RUN_RUNNING); /* it was there before its equal */
    assert_int_equal(r->jobs[equal].state, KD_RUN_QUEUED);
    assert_int_equal(r->jobs[low].version, 3);
    commit(r, low);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_core_pauses_at_the_step_border),
        CASE(test_core_stops_only_where_no_step_is_lost),
        CASE(test_core_resumes_before_the_step_is_over),
        CASE(test_core_paused_job_waits_and_keeps_nobody),
        CASE(test_core_scales_up_and_down),
        CASE(test_core_scaled_job_waits_for_its_least_workers),
        CASE(test_core_drains_a_worker),
        CASE(test_core_news_from_before_a_settlement_are_void),
        CASE(test_core_news_of_an_earlier_opening_are_void),
        CASE(test_core_who_leaves_has_units_of_the_step_that_began_meanwhile),
        CASE(test_core_lets_go_who_answers_and_does_nothing),
        CASE(test_core_stays_drained_or_quarantined_over_a_reconnect),
        CASE(test_core_takes_what_is_beyond_the_least_first),
        CASE(test_core_takes_all_workers_and_gives_them_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

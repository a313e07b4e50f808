/* Seconds of a stage out of what a worker has measured of it. */
#include "kd_test.h"

#include "estimate.h"

#include <math.h>
#include <string.h>

static Distill__V1__TriedStage stage(void)
{
    Distill__V1__TriedStage t = DISTILL__V1__TRIED_STAGE__INIT;
    t.slots = 8;
    t.steps = 100;
    t.unit_seconds = 0.5;
    return t;
}

static void assert_seconds(const Distill__V1__TriedStage *t, uint32_t workers, uint32_t threads,
                           double want)
{
    const double got = kd_estimate_seconds(t, workers, threads);
    if (!(fabs(got - want) <= 1e-9 * want))
        fail_msg("%u workers of %u threads: %.17g s, %.17g were expected", workers, threads, got,
                 want);
}

static void test_seconds_units_in_rounds(void **state)
{
    (void)state;
    Distill__V1__TriedStage t = stage();
    assert_seconds(&t, 1, 1, 400);
    assert_seconds(&t, 1, 2, 200);
    assert_seconds(&t, 2, 2, 100);
    assert_seconds(&t, 3, 1, 150); /* 3, 3 and 2 units */
    assert_seconds(&t, 3, 2, 100); /* of 3 units two rounds */
    assert_seconds(&t, 1, 5, 100);
    assert_seconds(&t, 8, 1, 50);
    assert_seconds(&t, 64, 16, 50); /* there is no more to divide */
}

static void test_seconds_all_parts(void **state)
{
    (void)state;
    Distill__V1__TriedStage t = stage();
    t.update_seconds = 0.1; /* its owner's share of each step */
    assert_seconds(&t, 1, 1, 400 + 10);
    assert_seconds(&t, 2, 1, 200 + 5);
    t.teacher_views = 1000;
    t.teacher_seconds = 0.01;
    assert_seconds(&t, 2, 2, 100 + 5 + 2.5);
    t.pictures = 4000;
    t.picture_seconds = 0.001;
    assert_seconds(&t, 2, 2, 100 + 5 + 2.5 + 1);
    t.evaluations = 10;
    t.eval_units = 5;
    t.eval_seconds = 0.2; /* 3 and 2 units: two rounds of two threads */
    assert_seconds(&t, 2, 2, 100 + 5 + 2.5 + 1 + 4);
    t.alone_seconds = 7;
    assert_seconds(&t, 2, 2, 100 + 5 + 2.5 + 1 + 4 + 7);
    t.vector_bytes = 4000000; /* two gradients, sums, slices, and those to the other one */
    t.chunks = 10;
    assert_seconds(&t, 2, 2, 100 + 5 + 2.5 + 1 + 4 + 7 + 100 * 5 * (10 * 90e-6 + 6e-3) / 2);
    assert_seconds(&t, 1, 1, 400 + 10 + 10 + 4 + 10 + 7 + 100 * 3 * (10 * 90e-6 + 6e-3) / 2);
    /* More workers than slots help a stage in nothing. */
    assert_seconds(&t, 800, 2, kd_estimate_seconds(&t, 8, 2));
}

static void test_seconds_no_steps(void **state)
{
    (void)state;
    Distill__V1__TriedStage t = DISTILL__V1__TRIED_STAGE__INIT;
    assert_seconds(&t, 3, 2, 0);
    t.alone_seconds = 2;
    assert_seconds(&t, 3, 2, 2);
    t.evaluations = 1;
    t.eval_units = 12;
    t.eval_seconds = 1;
    assert_seconds(&t, 3, 2, 4);
}

/* A worker may say anything that is finite. */
static void test_seconds_bounded(void **state)
{
    (void)state;
    Distill__V1__TriedStage t = DISTILL__V1__TRIED_STAGE__INIT;
    const double most[] = {1e308, KD_ESTIMATE_MOST, 0, -1e308};
    for (int i = 0; i < 4; i++) {
        t.steps = t.teacher_views = t.pictures = UINT64_MAX;
        t.evaluations = t.eval_units = t.slots = UINT32_MAX;
        t.unit_seconds = t.update_seconds = t.teacher_seconds = most[i];
        t.picture_seconds = t.eval_seconds = t.alone_seconds = most[i];
        t.vector_bytes = most[i] > 0 ? UINT64_MAX : 0;
        t.chunks = most[i] > 0 ? UINT32_MAX : 0;
        assert_seconds(&t, 1, 1, most[i] > 0 ? KD_ESTIMATE_MOST : 0);
        assert_seconds(&t, UINT32_MAX, UINT32_MAX, most[i] > 0 ? KD_ESTIMATE_MOST : 0);
        assert_seconds(&t, 0, 0, most[i] > 0 ? KD_ESTIMATE_MOST : 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seconds_units_in_rounds),
        cmocka_unit_test(test_seconds_all_parts),
        cmocka_unit_test(test_seconds_no_steps),
        cmocka_unit_test(test_seconds_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

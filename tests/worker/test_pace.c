/* Requests to a server that has no room for all of them. */
#include "kd_test.h"

#include "pace.h"

#include <limits.h>

static bool never(void *arg)
{
    (void)arg;
    return false;
}

static bool at_once(void *arg)
{
    (void)arg;
    return true;
}

static void enter(kd_pace *p, int n)
{
    for (int i = 0; i < n; i++)
        assert_true(kd_pace_enter(p, never, NULL));
}

static void test_pace_falls_to_what_has_room(void **state)
{
    kd_pace p;
    (void)state;
    kd_pace_init(&p);
    enter(&p, 5);
    kd_pace_leave(&p, KD_PACE_LOST);
    kd_pace_leave(&p, KD_PACE_ANSWERED);
    assert_int_equal(p.limit, INT_MAX);
    kd_pace_leave(&p, KD_PACE_CROWDED);
    assert_int_equal(p.limit, 2);
    assert_false(kd_pace_enter(&p, at_once, NULL));
    assert_int_equal(p.under_way, 2);
    /* It never falls to none, and does not rise by being told of more room than it has had. */
    kd_pace_leave(&p, KD_PACE_CROWDED);
    assert_int_equal(p.limit, 1);
    kd_pace_leave(&p, KD_PACE_CROWDED);
    assert_int_equal(p.limit, 1);
    enter(&p, 1);
    kd_pace_clear(&p);
}

static void test_pace_rises_after_rounds_of_answers(void **state)
{
    kd_pace p;
    (void)state;
    kd_pace_init(&p);
    enter(&p, 2);
    kd_pace_leave(&p, KD_PACE_CROWDED);
    kd_pace_leave(&p, KD_PACE_ANSWERED);
    assert_int_equal(p.limit, 1);
    int needed = 1;
    for (int limit = 1; limit < 5; limit++) {
        for (; p.limit == limit; needed++) {
            enter(&p, limit);
            for (int i = 0; i < limit; i++)
                kd_pace_leave(&p, i ? KD_PACE_LOST : KD_PACE_ANSWERED);
        }
        assert_int_equal(p.limit, limit + 1);
    }
    assert_int_equal(needed, 4 * (1 + 2 + 3 + 4));
    /* While fewer are sent than may be, answers tell nothing. */
    for (int i = 0; i < 100; i++) {
        enter(&p, 1);
        kd_pace_leave(&p, KD_PACE_ANSWERED);
    }
    assert_int_equal(p.limit, 5);
    kd_pace_clear(&p);
}

static void test_pace_pauses_within_their_bounds(void **state)
{
    static const struct {
        int tries;
        bool crowded;
        int most;
    } want[] = {{1, true, 10},   {2, true, 20},    {5, true, 160},
                {6, true, 200},  {90, true, 200},  {1, false, 100},
                {4, false, 800}, {7, false, 5000}, {INT_MAX, false, 5000}};
    (void)state;
    for (size_t i = 0; i < KD_COUNT(want); i++) {
        int low = INT_MAX, high = 0;
        for (int k = 0; k < 500; k++) {
            const int ms = kd_pace_pause(want[i].tries, want[i].crowded);
            low = KD_MIN(low, ms);
            high = KD_MAX(high, ms);
        }
        assert_in_range(low, want[i].most / 2, want[i].most * 3 / 4);
        assert_in_range(high, want[i].most * 3 / 4, want[i].most);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pace_falls_to_what_has_room),
        cmocka_unit_test(test_pace_rises_after_rounds_of_answers),
        cmocka_unit_test(test_pace_pauses_within_their_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "data/balance.h"
#include "kd_test.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 3000, CLASSES = 6 };

static uint32_t next(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state;
}

/* The same as samples() in tests/golden/make_balance_golden.py. */
static void samples(float confidence[N], int32_t best[N])
{
    uint32_t state = 1;
    for (int i = 0; i < N; i++) {
        uint32_t u = next(&state) >> 8, c = (next(&state) >> 16) % 16;
        double part = (u % 1001) / 1000.0;
        best[i] = c < 7 ? 0 : c < 11 ? 1 : c < 14 ? 2 : 3;
        if (u % 301 == 0)
            best[i] = 4;
        confidence[i] =
            (float)(best[i] != 3 ? 1 - 0.8 * (part * part) : 0.2 + 0.5 * (u % 1001) / 1000);
    }
}

static void test_balance_agrees_with_reference(void **state)
{
    (void)state;
    static float confidence[N];
    static int32_t best[N];
    static uint8_t copies[N], again[N];
    json_error_t error;
    json_t *file = json_load_file("tests/golden/balance.json", 0, &error), *one;
    assert_non_null(file);
    samples(confidence, best);
    size_t i;
    json_array_foreach(json_object_get(file, "cases"), i, one)
    {
        double minimum, tau, want;
        int per_class, upsample, n;
        json_t *classes, *cls;
        kd_diag diag = {0};
        assert_int_equal(json_unpack(one, "{s:F, s:i, s:b, s:o}", "minimum", &minimum, "per_class",
                                     &per_class, "upsample", &upsample, "classes", &classes),
                         0);
        kd_assert_ok(kd_balance(confidence, best, N, CLASSES, minimum, per_class, upsample, 7, 1000,
                                copies, &diag),
                     &diag);
        kd_assert_ok(kd_balance(confidence, best, N, CLASSES, minimum, per_class, upsample, 7, 1000,
                                again, &diag),
                     &diag);
        assert_memory_equal(copies, again, N);
        size_t c;
        json_array_foreach(classes, c, cls)
        {
            assert_int_equal(
                json_unpack(cls, "{s:F, s:i, s:F}", "tau", &tau, "n", &n, "copies", &want), 0);
            int kept = 0, more = 0, whole = (int)floor(KD_MIN(want, KD_BALANCE_MAX_COPIES));
            for (int k = 0; k < N; k++) {
                if (best[k] != (int32_t)c)
                    continue;
                if (confidence[k] < (float)tau) {
                    assert_int_equal(copies[k], 0);
                    continue;
                }
                kept++;
                more += copies[k] - whole;
                assert_in_range(copies[k], whole, whole + 1);
            }
            assert_int_equal(kept, n);
            double p = want < KD_BALANCE_MAX_COPIES ? want - whole : 0;
            double spread = sqrt(n * p * (1 - p));
            assert_true(fabs(more - n * p) <= 5 * spread);
        }
    }
    assert_int_equal(i, 7);
    json_decref(file);
}

/* Who gets one more depends on the seed and the sample's number, not on who else is there. */
static void test_balance_draws_by_sample(void **state)
{
    (void)state;
    enum { FEW = 400 };
    float confidence[FEW];
    int32_t best[FEW] = {0};
    uint8_t a[FEW], b[FEW];
    kd_diag diag = {0};
    for (int i = 0; i < FEW; i++)
        confidence[i] = 0.5f;
    kd_assert_ok(kd_balance(confidence, best, FEW, 1, 0.3, 1000, true, 1, 0, a, &diag), &diag);
    kd_assert_ok(kd_balance(confidence, best, FEW, 1, 0.3, 1000, true, 2, 0, b, &diag), &diag);
    int total = 0, differ = 0;
    for (int i = 0; i < FEW; i++) {
        assert_in_range(a[i], 2, 3);
        total += a[i];
        differ += a[i] != b[i];
    }
    assert_in_range(total, 950, 1050); /* 1000, standard deviation 10 */
    assert_in_range(differ, 150, 250);
    /* The same samples in two halves, each with half of the wish. */
    kd_assert_ok(kd_balance(confidence, best, 200, 1, 0.3, 500, true, 1, 0, b, &diag), &diag);
    kd_assert_ok(kd_balance(confidence, best, 200, 1, 0.3, 500, true, 1, 200, b + 200, &diag),
                 &diag);
    assert_memory_equal(a, b, FEW);
}

static void test_balance_as_they_come(void **state)
{
    (void)state;
    static const float confidence[5] = {0.2f, 0.3f, 0.31f, 1.0f, 0.29999f};
    static const int32_t best[5] = {0, 0, 1, 1, 1};
    static const uint8_t want[5] = {0, 1, 1, 1, 0};
    uint8_t copies[5];
    kd_diag diag = {0};
    kd_assert_ok(kd_balance(confidence, best, 5, 2, 0.3, 0, true, 1, 0, copies, &diag), &diag);
    assert_memory_equal(copies, want, 5);
    kd_assert_ok(kd_balance(NULL, NULL, 0, 2, 0.3, 5, true, 1, 0, NULL, &diag), &diag);
    kd_assert_ok(kd_balance(confidence, best, 5, 2, 0, 1000, true, 1, 0, copies, &diag), &diag);
    for (int i = 0; i < 5; i++)
        assert_int_equal(copies[i], KD_BALANCE_MAX_COPIES);
    kd_assert_ok(kd_balance(confidence, best, 5, 2, 0, 1000, false, 1, 0, copies, &diag), &diag);
    for (int i = 0; i < 5; i++)
        assert_int_equal(copies[i], 1);
}

static void test_balance_bad_values(void **state)
{
    (void)state;
    const float good = 0.5f, bad = NAN;
    const int32_t best = 0, beyond = 3;
    uint8_t copies;
    kd_diag diag = {0};
    kd_assert_fails(kd_balance(&bad, &best, 1, 3, 0.3, 1, true, 1, 70, &copies, &diag), KD_EINVAL,
                    &diag, "sample 70 has class 0 (of 3) with a confidence of");
    kd_assert_fails(kd_balance(&good, &beyond, 1, 3, 0.3, 1, true, 1, 0, &copies, &diag), KD_EINVAL,
                    &diag, "class 3 (of 3)");
    kd_assert_fails(kd_balance(&good, &best, 1, 3, 1.5, 1, true, 1, 0, &copies, &diag), KD_EINVAL,
                    &diag, "min_confidence is 1.5");
    kd_assert_fails(kd_balance(&good, &best, 1, 3, 0.3, -1, true, 1, 0, &copies, &diag), KD_EINVAL,
                    &diag, "per_class -1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_balance_agrees_with_reference),
        cmocka_unit_test(test_balance_draws_by_sample),
        cmocka_unit_test(test_balance_as_they_come),
        cmocka_unit_test(test_balance_bad_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

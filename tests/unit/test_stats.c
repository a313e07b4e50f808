/* Intervals of shares, of paired differences, and of means. */
#include "kd_test.h"

#include "kd/err.h"
#include "kd/stats.h"

#include <math.h>

/* The ends of the interval are the two p that solve (k/n - p)^2 = z^2 p (1-p) / n. */
static void test_stats_wilson(void **state)
{
    (void)state;
    double lo, hi;
    kd_wilson(506, 551, &lo, &hi);
    kd_assert_close(lo, 0.8924633, 0, 1e-6);
    kd_assert_close(hi, 0.9384047, 0, 1e-6);
    kd_wilson(5, 10, &lo, &hi);
    kd_assert_close(lo, 0.2365931, 0, 1e-6);
    kd_assert_close(hi, 0.7634069, 0, 1e-6);
    kd_wilson(0, 10, &lo, &hi);
    kd_assert_close(lo, 0, 0, 1e-12);
    kd_assert_close(hi, 0.2775328, 0, 1e-6);
    kd_wilson(10, 10, &lo, &hi);
    kd_assert_close(lo, 0.7224672, 0, 1e-6);
    kd_assert_close(hi, 1, 0, 1e-12);
    for (uint64_t k = 0; k <= 551; k += 19) {
        kd_wilson(k, 551, &lo, &hi);
        double f = (double)k / 551, z2 = 1.959963984540054 * 1.959963984540054;
        kd_assert_close((f - lo) * (f - lo), z2 * lo * (1 - lo) / 551, 1e-9, 1e-15);
        kd_assert_close((f - hi) * (f - hi), z2 * hi * (1 - hi) / 551, 1e-9, 1e-15);
        assert_true(lo <= f && f <= hi);
    }
    kd_wilson(0, 0, &lo, &hi);
    assert_true(lo == 0 && hi == 1);
    kd_wilson(11, 10, &lo, &hi);
    assert_true(lo == 0 && hi == 1);
}

static void test_stats_paired_interval(void **state)
{
    (void)state;
    double d, lo, hi;
    /* Worked apart from this code, from the formulas of Newcombe (1998). */
    static const struct {
        kd_paired counts;
        double d, lo, hi;
    } cases[] = {{{36, 12, 2, 0}, 0.2, 0.056930, 0.340428},
                 {{20, 12, 2, 16}, 0.2, 0.056156, 0.329207},
                 {{14, 5, 0, 22}, 0.121951, 0.011483, 0.226493},
                 {{53, 0, 1, 0}, -0.018519, -0.097714, 0.049622},
                 {{30, 0, 0, 0}, 0, -0.113513, 0.113513},
                 {{380, 66, 31, 74}, 0.063521, 0.028689, 0.098495}};
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        kd_paired_interval(&cases[i].counts, &d, &lo, &hi);
        kd_assert_close(d, cases[i].d, 0, 1e-6);
        kd_assert_close(lo, cases[i].lo, 0, 1e-6);
        kd_assert_close(hi, cases[i].hi, 0, 1e-6);
    }
    kd_paired none = {0};
    kd_paired_interval(&none, &d, &lo, &hi);
    assert_true(d == 0 && lo == -1 && hi == 1);
    /* The other way round is the mirror. */
    kd_paired swapped = {53, 1, 0, 0};
    kd_paired_interval(&swapped, &d, &lo, &hi);
    kd_assert_close(d, 0.018519, 0, 1e-6);
    kd_assert_close(hi, 0.097714, 0, 1e-6);
}

/* From the usual tables, and scipy.stats.t.ppf(0.975, df). */
static void test_stats_t_quantiles(void **state)
{
    (void)state;
    static const struct {
        size_t df;
        double t;
    } rows[] = {{1, 12.706204736}, {2, 4.302652730}, {3, 3.182446305},  {4, 2.776445105},
                {5, 2.570581836},  {9, 2.262157163}, {30, 2.042272456}, {255, 1.969310570}};
    for (size_t i = 0; i < KD_COUNT(rows); i++)
        kd_assert_close(kd_t_quantile(rows[i].df), rows[i].t, 1e-8, 0);
    assert_true(isnan(kd_t_quantile(0)));
}

static void test_stats_mean_interval(void **state)
{
    (void)state;
    double mean, lo, hi;
    kd_mean_interval((double[]){1, 2, 3, 4, 5}, 5, &mean, &lo, &hi);
    kd_assert_close(mean, 3, 0, 1e-12);
    kd_assert_close(lo, 3 - 1.9632, 0, 1e-3); /* 2.7764 * sqrt(2.5 / 5) */
    kd_assert_close(hi, 3 + 1.9632, 0, 1e-3);
    kd_mean_interval((double[]){7}, 1, &mean, &lo, &hi);
    assert_true(mean == 7 && isnan(lo) && isnan(hi));
    /* Equal values say nothing of how values spread. */
    kd_mean_interval((double[]){0.5, 0.5}, 2, &mean, &lo, &hi);
    assert_true(mean == 0.5 && isnan(lo) && isnan(hi));
    kd_mean_interval(NULL, 0, &mean, &lo, &hi);
    assert_true(isnan(mean));
    assert_string_equal(kd_verdict_word(kd_verdict_of(0.01, 0.05)), "gain");
    assert_string_equal(kd_verdict_word(kd_verdict_of(-0.01, 0.05)), "no gain");
    assert_string_equal(kd_verdict_word(kd_verdict_of(-0.02, -0.01)), "loss");
    assert_string_equal(kd_verdict_word(kd_verdict_of(NAN, 1)), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stats_wilson),
        cmocka_unit_test(test_stats_paired_interval),
        cmocka_unit_test(test_stats_t_quantiles),
        cmocka_unit_test(test_stats_mean_interval),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Ensembles of teachers, and the numbers of evaluation. */
#include "losses.h"

#include <math.h>
#include <string.h>

enum { CLASSES = 7, TEACHERS = 3 };
static const double share[TEACHERS] = {0.5, 0.2, 0.3};

static void softmax(const float *x, double temperature, double *out)
{
    double all = 0, top = -INFINITY;
    for (int j = 0; j < CLASSES; j++)
        top = fmax(top, (double)x[j]);
    for (int j = 0; j < CLASSES; j++)
        all += out[j] = exp(((double)x[j] - top) / temperature);
    for (int j = 0; j < CLASSES; j++)
        out[j] /= all;
}

static double mean(const float *x)
{
    double sum = 0;
    for (int j = 0; j < CLASSES; j++)
        sum += (double)x[j] / CLASSES;
    return sum;
}

static void draw_teachers(kd_rng *r, float rows[TEACHERS][CLASSES], const float *at[TEACHERS])
{
    for (int i = 0; i < TEACHERS; i++) {
        draw_logits(r, rows[i], CLASSES, 3);
        at[i] = rows[i];
    }
}

static void test_logits_ensemble(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 31, KD_RNG_TEST, 0, 0);
    float rows[TEACHERS][CLASSES], out[CLASSES];
    const float *at[TEACHERS];
    draw_teachers(&r, rows, at);
    kd_ensemble_logits(KD_COMBINE_LOGITS, TEACHERS, share, 2, CLASSES, at, out);
    for (int j = 0; j < CLASSES; j++)
        kd_assert_close(
            out[j], 0.5 * (double)rows[0][j] + 0.2 * (double)rows[1][j] + 0.3 * (double)rows[2][j],
            1e-7, 1e-9);
    const double level = mean(out);
    const double temperatures[] = {0.5, 1, 4, 100};
    for (size_t t = 0; t < KD_COUNT(temperatures); t++) {
        double want[CLASSES] = {0}, one[CLASSES];
        for (int i = 0; i < TEACHERS; i++) {
            softmax(rows[i], temperatures[t], one);
            for (int j = 0; j < CLASSES; j++)
                want[j] += share[i] * one[j];
        }
        kd_ensemble_logits(KD_COMBINE_PROBABILITIES, TEACHERS, share, temperatures[t], CLASSES, at,
                           out);
        softmax(out, temperatures[t], one);
        for (int j = 0; j < CLASSES; j++)
            kd_assert_close(one[j], want[j], 4e-6 / temperatures[t], 0);
        kd_assert_close(mean(out), level, 1e-6, 1e-6);
    }
}

static void test_logits_ensemble_limits(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 32, KD_RNG_TEST, 0, 0);
    float rows[TEACHERS][CLASSES], out[CLASSES], other[CLASSES];
    const float *at[TEACHERS];
    draw_teachers(&r, rows, at);
    /* Hot, the mean of probabilities is that of logits. */
    kd_ensemble_logits(KD_COMBINE_PROBABILITIES, TEACHERS, share, 1e6, CLASSES, at, out);
    kd_ensemble_logits(KD_COMBINE_LOGITS, TEACHERS, share, 1e6, CLASSES, at, other);
    kd_assert_all_close(out, other, CLASSES, 1e-4, 1e-4);
    /* Cold, it is not: a sure teacher outvotes those who are undecided. */
    kd_ensemble_logits(KD_COMBINE_PROBABILITIES, TEACHERS, share, 0.5, CLASSES, at, out);
    double apart = 0;
    for (int j = 0; j < CLASSES; j++)
        apart = fmax(apart, fabs((double)out[j] - (double)other[j]));
    assert_true(apart > 0.1);
    /* One teacher is himself; so are two of one mind, and one whose companion has no share. */
    for (int kind = 0; kind < 2; kind++) {
        kd_ensemble_logits((enum kd_ensemble_kind)kind, 1, (double[]){1}, 3, CLASSES, at, out);
        assert_memory_equal(out, rows[0], sizeof out);
        kd_ensemble_logits((enum kd_ensemble_kind)kind, 2, (double[]){0.25, 0.75}, 3, CLASSES,
                           (const float *[]){rows[1], rows[1]}, out);
        kd_assert_all_close(out, rows[1], CLASSES, 1e-6, 1e-6);
        kd_ensemble_logits((enum kd_ensemble_kind)kind, 2, (double[]){0, 1}, 3, CLASSES,
                           (const float *[]){rows[0], rows[2]}, out);
        kd_assert_all_close(out, rows[2], CLASSES, 1e-6, 1e-6);
    }
    const double temperatures[] = {0.1, 1, 1e6};
    for (size_t t = 0; t < KD_COUNT(temperatures); t++) {
        for (int i = 0; i < TEACHERS; i++)
            for (int j = 0; j < CLASSES; j++)
                rows[i][j] = (i + j) % 3 ? -1e4f : 1e4f;
        kd_ensemble_logits(KD_COMBINE_PROBABILITIES, TEACHERS, share, temperatures[t], CLASSES, at,
                           out);
        for (int j = 0; j < CLASSES; j++)
            assert_true(isfinite(out[j]));
    }
}

static void test_logits_evaluation(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 33, KD_RNG_TEST, 0, 0);
    float z[CLASSES], v[CLASSES];
    double p[CLASSES], q[CLASSES], kl = 0;
    draw_logits(&r, z, CLASSES, 2);
    draw_logits(&r, v, CLASSES, 2);
    softmax(z, 1, p);
    softmax(v, 1, q);
    for (int j = 0; j < CLASSES; j++) {
        kl += q[j] * log(q[j] / p[j]);
        kd_assert_close(kd_cross_entropy(z, CLASSES, j), -log(p[j]), 1e-12, 0);
    }
    kd_assert_close(kd_kl(v, z, CLASSES), kl, 1e-12, 0);
    assert_true(fabs(kd_kl(z, v, CLASSES) - kl) > 1e-3);
    kd_assert_close(kd_kl(v, v, CLASSES), 0, 0, 0);
    assert_int_equal(kd_argmax((const float[]){1, 3, 3, -2}, 4), 1);
    const float sure[2] = {1e4f, -1e4f}, wrong[2] = {-1e4f, 1e4f};
    kd_assert_close(kd_kl(sure, wrong, 2), 2e4, 1e-12, 0);
    z[3] = NAN;
    assert_true(isnan(kd_kl(v, z, CLASSES)) && isnan(kd_kl(z, v, CLASSES)));
    assert_true(isnan(kd_cross_entropy(z, CLASSES, 0)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_ensemble),
        cmocka_unit_test(test_logits_ensemble_limits),
        cmocka_unit_test(test_logits_evaluation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

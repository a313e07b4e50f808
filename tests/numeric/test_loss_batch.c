/* DIST's second half sees the whole batch: slots have to give what the batch gives. */
#include "losses.h"

#include "kd_golden.h"

#include <math.h>
#include <string.h>

enum { ROWS = 8, CLASSES = 6 };
static const kd_loss dist = {.weight = {[KD_TERM_DIST] = 1, [KD_TERM_CE] = 0.5},
                             .temperature = 2,
                             .dist_inter = 2,
                             .dist_intra = 3};

static void probabilities(const float *x, int n, int classes, double temperature, double *out)
{
    for (int i = 0; i < n; i++) {
        double all = 0;
        for (int j = 0; j < classes; j++)
            all += out[i * classes + j] = exp((double)x[i * classes + j] / temperature);
        for (int j = 0; j < classes; j++)
            out[i * classes + j] /= all;
    }
}

static double pearson(const double *p, const double *q, int n, int stride)
{
    double mean_p = 0, mean_q = 0, pp = 0, qq = 0, pq = 0;
    for (int i = 0; i < n; i++) {
        mean_p += p[i * stride] / n;
        mean_q += q[i * stride] / n;
    }
    for (int i = 0; i < n; i++) {
        const double a = p[i * stride] - mean_p, b = q[i * stride] - mean_q;
        pp += a * a;
        qq += b * b;
        pq += a * b;
    }
    return pq / (sqrt(pp) * sqrt(qq) + 1e-8);
}

/* The definition, written down plainly: mean of 1 - rho along rows, and along columns. */
static void plain(const float *z, const float *v, int n, int classes, double temperature,
                  double *out_inter, double *out_intra)
{
    double p[ROWS * CLASSES], q[ROWS * CLASSES];
    probabilities(z, n, classes, temperature, p);
    probabilities(v, n, classes, temperature, q);
    *out_inter = *out_intra = 1;
    for (int i = 0; i < n; i++)
        *out_inter -= pearson(p + i * classes, q + i * classes, classes, 1) / n;
    for (int j = 0; j < classes; j++)
        *out_intra -= pearson(p + j, q + j, n, classes) / classes;
}

static void test_batch_slots(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 21, KD_RNG_TEST, 0, 0);
    float z[ROWS * CLASSES], v[ROWS * CLASSES], whole[ROWS * CLASSES], slots[ROWS * CLASSES];
    double stats[CLASSES * KD_LOSS_STATS];
    for (int real = 2; real <= ROWS; real++) {
        kd_target targets[ROWS];
        float weight[ROWS];
        draw_logits(&r, z, ROWS * CLASSES, 2);
        draw_logits(&r, v, ROWS * CLASSES, 2);
        for (int i = 0; i < ROWS; i++) {
            targets[i] = (kd_target){i % 3 ? i % CLASSES : -1, -1, 0};
            weight[i] = i < real ? 1 : 0;
            for (int j = 0; i >= real && j < CLASSES; j++)
                z[i * CLASSES + j] = v[i * CLASSES + j] = NAN;
        }
        kd_diag diag = {0};
        kd_loss_sums all, slot;
        kd_assert_ok(kd_loss_couple(&dist, ROWS, CLASSES, z, v, weight, stats, &diag), &diag);
        kd_loss_apply(&dist, ROWS, CLASSES, z, v, targets, weight, 1.0 / real, stats, whole, &all);
        assert_int_equal(all.bad, -1);
        double loss = 0, value = 0;
        for (int at = 0; at < ROWS; at++) {
            kd_loss_apply(&dist, 1, CLASSES, z + at * CLASSES, v + at * CLASSES, targets + at,
                          weight + at, 1.0 / real, stats, slots + at * CLASSES, &slot);
            loss += slot.loss;
            value += slot.value[KD_TERM_DIST];
        }
        assert_memory_equal(slots, whole, sizeof whole);
        assert_memory_equal(&loss, &all.loss, sizeof loss);
        double inter, intra;
        plain(z, v, real, CLASSES, dist.temperature, &inter, &intra);
        kd_assert_close(value / real, 2 * inter + 3 * intra, 1e-12, 0);
        for (int i = real * CLASSES; i < ROWS * CLASSES; i++)
            assert_true(whole[i] == 0);
    }
}

/* The same batch, and what comes out when each shard takes its own correlations: the published
 * numbers of the mistake. */
static void test_batch_not_by_shards(void **state)
{
    (void)state;
    json_t *root = kd_golden_load("tests/golden/losses.json");
    float z[15], v[15];
    kd_golden_floats(root, "student_logits", z, 15);
    kd_golden_floats(root, "teacher_logits", v, 15);
    json_decref(root);
    const kd_loss intra = {.weight = {[KD_TERM_DIST] = 1}, .temperature = 1, .dist_intra = 1};
    const kd_loss inter = {.weight = {[KD_TERM_DIST] = 1}, .temperature = 1, .dist_inter = 1};
    const int32_t none[3] = {-1, -1, -1};
    kd_assert_close(mean_loss(&intra, 3, 5, z, v, none, NULL), 0.4649, 0, 5e-5);
    kd_assert_close((2 * mean_loss(&intra, 2, 5, z, v, none, NULL) +
                     mean_loss(&intra, 1, 5, z + 10, v + 10, none, NULL)) /
                        3,
                    0.8667, 0, 5e-5);
    kd_assert_close(mean_loss(&inter, 3, 5, z, v, none, NULL), 0.3418, 0, 5e-5);
    kd_assert_close((2 * mean_loss(&inter, 2, 5, z, v, none, NULL) +
                     mean_loss(&inter, 1, 5, z + 10, v + 10, none, NULL)) /
                        3,
                    0.3418, 0, 5e-5);
    assert_true(kd_loss_needs_batch(&intra) && !kd_loss_needs_batch(&inter));
    /* A batch of one has nothing to correlate: the value of no correlation, and no push. */
    float d_z[5];
    kd_assert_close(mean_loss(&intra, 1, 5, z, v, none, d_z), 1, 0, 0);
    for (int j = 0; j < 5; j++)
        assert_true(d_z[j] == 0);
}

static void test_batch_refuses(void **state)
{
    (void)state;
    float z[ROWS * CLASSES] = {0}, v[ROWS * CLASSES] = {0}, weight[ROWS] = {1, 1, 1, 1, 1, 1, 0, 1};
    double stats[CLASSES * KD_LOSS_STATS];
    kd_diag diag = {0};
    z[6 * CLASSES] = NAN; /* padding */
    kd_assert_ok(kd_loss_couple(&dist, ROWS, CLASSES, z, v, weight, stats, &diag), &diag);
    v[4 * CLASSES + 2] = INFINITY;
    kd_assert_fails(kd_loss_couple(&dist, ROWS, CLASSES, z, v, weight, stats, &diag), KD_EDATA,
                    &diag, "row 4");
    memset(weight, 0, sizeof weight);
    diag = (kd_diag){0};
    kd_assert_ok(kd_loss_couple(&dist, ROWS, CLASSES, z, v, weight, stats, &diag), &diag);
    for (size_t i = 0; i < KD_COUNT(stats); i++)
        assert_true(stats[i] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_slots),
        cmocka_unit_test(test_batch_not_by_shards),
        cmocka_unit_test(test_batch_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

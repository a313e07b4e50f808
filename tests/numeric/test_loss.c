#include "losses.h"

#include "kd_golden.h"

#include <math.h>
#include <string.h>

#define MAX_CLASSES 1000

/* kd_loss_apply on plain labels, of a loss that no batch couples. */
static void apply(const kd_loss *l, int n, int classes, const float *z, const float *v,
                  const int32_t *labels, const float *weight, double inv_batch, float *d_z,
                  kd_loss_sums *out)
{
    kd_target targets[MAX_ROWS];
    for (int i = 0; i < n; i++)
        targets[i] = (kd_target){labels[i], -1, NAN};
    kd_loss_apply(l, n, classes, z, v, targets, weight, inv_batch, NULL, d_z, out);
}

static kd_loss loss_from(const json_t *k)
{
    const char *t2 = json_string_value(json_object_get(k, "t2"));
    kd_loss l = {
        .temperature = kd_golden_option(k, "temperature", 1),
        .t2 = !t2                       ? KD_LOSS_T2_NONE
              : strcmp(t2, "soft") == 0 ? KD_LOSS_T2_SOFT
                                        : KD_LOSS_T2_ALL,
        .mse_half = json_is_true(json_object_get(k, "mse_half")),
        .normalise = json_is_true(json_object_get(k, "normalise")),
        .standardise = json_is_true(json_object_get(k, "standardise")),
        .smoothing = kd_golden_option(k, "smoothing", 0),
        .dkd_alpha = kd_golden_option(k, "dkd_alpha", NAN),
        .dkd_beta = kd_golden_option(k, "dkd_beta", NAN),
        .dist_inter = kd_golden_option(k, "dist_inter", NAN),
        .dist_intra = kd_golden_option(k, "dist_intra", NAN),
        .nkd_gamma = kd_golden_option(k, "nkd_gamma", NAN),
        .nkd_temperature = kd_golden_option(k, "nkd_temperature", NAN),
        .jsd_beta = kd_golden_option(k, "jsd_beta", NAN),
    };
    for (int t = 0; t < KD_LOSS_TERMS; t++)
        l.weight[t] = kd_golden_option(k, kd_loss_term_name((enum kd_loss_term)t), 0);
    return l;
}

static void test_loss_golden(void **state)
{
    (void)state;
    json_t *root = kd_golden_load("tests/golden/losses.json");
    float z[15], v[15], got[15], want[15];
    double y[3];
    kd_golden_floats(root, "student_logits", z, 15);
    kd_golden_floats(root, "teacher_logits", v, 15);
    assert_int_equal(kd_golden_flatten(kd_golden_get(root, "labels"), y, 0, 3), 3);
    const int32_t labels[3] = {(int32_t)y[0], (int32_t)y[1], (int32_t)y[2]};
    const json_t *cases = kd_golden_get(root, "cases");
    assert_int_equal(json_array_size(cases), 19);
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *k = json_array_get(cases, c);
        print_message("%s\n", json_string_value(kd_golden_get(k, "name")));
        const json_t *options = kd_golden_get(k, "loss");
        const kd_loss l = loss_from(options);
        kd_diag diag = {0};
        kd_assert_ok(kd_loss_check(&l, 5, &diag), &diag);
        double value = mean_loss(&l, 3, 5, z, v, labels, got);
        if (json_is_true(json_object_get(options, "cross_entropy"))) {
            const double square = l.t2 == KD_LOSS_T2_SOFT ? l.temperature * l.temperature : 1;
            const double all = l.normalise ? l.weight[KD_TERM_KD] + l.weight[KD_TERM_CE] : 1;
            value += l.weight[KD_TERM_KD] * square / all * mean_entropy(3, 5, v, l.temperature);
        }
        kd_assert_close(value, kd_golden_number(k, "value"), 1e-10, 1e-12);
        kd_golden_floats(k, "grad", want, 15);
        kd_assert_all_close(got, want, 15, 1e-6, 1e-9);
    }
    json_decref(root);
}

static void draw(kd_rng *r, float *out, int n, double scale)
{
    for (int i = 0; i < n; i++)
        out[i] = (float)(scale * kd_rng_normal(r));
}

static const kd_loss mixed = {
    .weight = {[KD_TERM_KD] = 0.6, [KD_TERM_CE] = 0.3, [KD_TERM_MSE] = 0.2},
    .temperature = 3,
    .t2 = KD_LOSS_T2_SOFT,
    .normalise = true};

static void test_loss_central_differences(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 1, KD_RNG_TEST, 0, 0);
    const int n = 4, classes = 7;
    float z[28], v[28], d_z[28];
    const int32_t labels[4] = {6, -1, 0, 3};
    for (int t2 = 0; t2 < 3; t2++)
        for (int flags = 0; flags < 4; flags++) {
            kd_loss l = mixed;
            l.t2 = (enum kd_loss_t2)t2;
            l.normalise = flags & 1;
            l.mse_half = flags & 2;
            draw(&r, z, n * classes, 2);
            draw(&r, v, n * classes, 2);
            mean_loss(&l, n, classes, z, v, labels, d_z);
            for (int i = 0; i < n * classes; i++) {
                const float at = z[i];
                z[i] = at + 0x1p-10f;
                const float up = z[i];
                const double high = mean_loss(&l, n, classes, z, v, labels, NULL);
                z[i] = at - 0x1p-10f;
                const double width = (double)up - (double)z[i];
                const double low = mean_loss(&l, n, classes, z, v, labels, NULL);
                z[i] = at;
                /* Third derivatives of softmax are below 1, so the error is below
                 * weight * h^2 / 6 with h = 2^-10 and weights up to T^2. */
                kd_assert_close(d_z[i], (high - low) / width, 1e-6, 9 * 1.6e-7);
            }
        }
}

static void test_loss_extremes(void **state)
{
    (void)state;
    const double temperatures[] = {0.1, 1, 5, 1e3, 1e6};
    const float values[] = {1e4f, -1e4f, 0, 1e4f, -1e4f, 1e-30f};
    const int n = 6, classes = 6;
    float z[36], v[36], d_z[36];
    int32_t labels[6];
    for (int i = 0; i < n; i++) {
        labels[i] = (i * 5 + 1) % classes;
        for (int j = 0; j < classes; j++) {
            z[i * classes + j] = values[(i + j) % 6];
            v[i * classes + j] = values[(5 * i + 2 * j) % 6];
        }
    }
    for (size_t t = 0; t < KD_COUNT(temperatures); t++)
        for (int t2 = 0; t2 < 3; t2++) {
            kd_loss l = mixed;
            l.temperature = temperatures[t];
            l.t2 = (enum kd_loss_t2)t2;
            const double value = mean_loss(&l, n, classes, z, v, labels, d_z);
            assert_true(isfinite(value) && value > 0);
            for (int i = 0; i < n * classes; i++)
                assert_true(isfinite(d_z[i]));
        }
    /* Sure and wrong by 2e4: the hard loss is that difference itself. */
    const float sure[2] = {1e4f, -1e4f};
    const kd_loss hard = {.weight = {[KD_TERM_CE] = 1}, .temperature = 1};
    kd_assert_close(mean_loss(&hard, 1, 2, sure, NULL, (int32_t[]){1}, d_z), 2e4, 1e-12, 0);
    kd_assert_close(d_z[0], 1, 0, 0);
    kd_assert_close(d_z[1], -1, 0, 0);
    kd_assert_close(mean_loss(&hard, 1, 2, sure, NULL, (int32_t[]){0}, d_z), 0, 0, 0);
}

/* T^2 KL tends to the mean squared difference of the centred logits over 2 as T grows. */
static void test_loss_hot_limit(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 2, KD_RNG_TEST, 0, 0);
    const int classes = 11;
    float z[11], v[11], d_z[11];
    draw(&r, z, classes, 2);
    draw(&r, v, classes, 2);
    double mean_z = 0, mean_v = 0, limit = 0;
    for (int j = 0; j < classes; j++) {
        mean_z += (double)z[j] / classes;
        mean_v += (double)v[j] / classes;
    }
    double want[11];
    for (int j = 0; j < classes; j++) {
        want[j] = (((double)z[j] - mean_z) - ((double)v[j] - mean_v)) / classes;
        limit += want[j] * want[j] * classes / 2;
    }
    double before = INFINITY;
    for (double temperature = 1e2; temperature < 2e6; temperature *= 10) {
        const kd_loss l = {
            .weight = {[KD_TERM_KD] = 1}, .temperature = temperature, .t2 = KD_LOSS_T2_SOFT};
        const double kl = mean_loss(&l, 1, classes, z, v, (int32_t[]){-1}, d_z);
        kd_assert_close(kl, limit, 10 / temperature, 0);
        double error = 0;
        for (int j = 0; j < classes; j++)
            error = fmax(error, fabs((double)d_z[j] - want[j]));
        assert_true(error < 10 / temperature + 1e-7);
        assert_true(error < before);
        before = error + 1e-7;
    }
}

static void test_loss_padding(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 3, KD_RNG_TEST, 0, 0);
    const int classes = 5;
    float z[25], v[25], all[25], alone[15];
    draw(&r, z, 25, 2);
    draw(&r, v, 25, 2);
    for (int j = 15; j < 25; j++)
        z[j] = v[j] = j % 2 ? NAN : INFINITY;
    const int32_t labels[5] = {0, 3, 4, 2, -1};
    const float weight[5] = {1, 1, 1, 0, 0};
    kd_loss_sums padded, plain;
    apply(&mixed, 5, classes, z, v, labels, weight, 1.0 / 3, all, &padded);
    apply(&mixed, 3, classes, z, v, labels, weight, 1.0 / 3, alone, &plain);
    assert_int_equal(padded.bad, -1);
    kd_assert_close(padded.samples, 3, 0, 0);
    assert_memory_equal(&padded.loss, &plain.loss, sizeof padded.loss);
    assert_memory_equal(&padded.correct, &plain.correct, sizeof padded.correct);
    assert_memory_equal(all, alone, sizeof alone);
    for (int j = 15; j < 25; j++)
        assert_true(all[j] == 0 && !signbit(all[j]));
    /* All padding. */
    apply(&mixed, 2, classes, z + 15, v + 15, labels, weight + 3, 1, all, &padded);
    assert_true(padded.loss == 0 && padded.samples == 0 && padded.correct == 0 && padded.bad == -1);
}

/* A row's gradient has the same bits whatever rows stand beside it; a gradient adds up to zero over
 * the classes unless logits are matched. */
static void test_loss_rows_alone(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 4, KD_RNG_TEST, 0, 0);
    const int n = 9, classes = 1000;
    float *z = malloc(9000 * sizeof *z), *v = malloc(9000 * sizeof *v);
    float *all = malloc(9000 * sizeof *all), alone[MAX_CLASSES], weight[9];
    int32_t labels[9];
    draw(&r, z, n * classes, 4);
    draw(&r, v, n * classes, 4);
    for (int i = 0; i < n; i++) {
        labels[i] = (int32_t)kd_rng_below(&r, 1000);
        weight[i] = 1;
    }
    kd_loss l = mixed;
    l.weight[KD_TERM_MSE] = 0;
    kd_loss_sums whole, one;
    apply(&l, n, classes, z, v, labels, weight, 1.0 / n, all, &whole);
    double loss = 0;
    for (int i = 0; i < n; i++) {
        const size_t at = (size_t)(i * classes);
        apply(&l, 1, classes, z + at, v + at, labels + i, weight, 1.0 / n, alone, &one);
        assert_memory_equal(all + at, alone, sizeof alone);
        loss += one.loss;
        double sum = 0;
        for (int j = 0; j < classes; j++)
            sum += (double)alone[j];
        kd_assert_close(sum, 0, 0, 1e-6);
    }
    assert_memory_equal(&loss, &whole.loss, sizeof loss);
    free(z);
    free(v);
    free(all);
}

static void test_loss_counts(void **state)
{
    (void)state;
    const float z[] = {1, 3, 3, 0, 2, 2, 2, 2, -1, -5, -1, -9};
    const float weight[3] = {1, 1, 1};
    const kd_loss l = {.weight = {[KD_TERM_CE] = 1}, .temperature = 1};
    kd_loss_sums sums;
    apply(&l, 3, 4, z, NULL, (int32_t[]){1, 0, 0}, weight, 1, NULL, &sums);
    kd_assert_close(sums.correct, 3, 0, 0);
    apply(&l, 3, 4, z, NULL, (int32_t[]){2, 3, 2}, weight, 1, NULL, &sums);
    kd_assert_close(sums.correct, 0, 0, 0);
    /* Unlabelled rows count as samples, never as correct, and have no hard loss. */
    float d_z[12];
    apply(&l, 3, 4, z, NULL, (int32_t[]){-1, 0, -1}, weight, 1, d_z, &sums);
    kd_assert_close(sums.correct, 1, 0, 0);
    kd_assert_close(sums.samples, 3, 0, 0);
    kd_assert_close(sums.loss, log(4), 1e-12, 0);
    for (int j = 0; j < 4; j++)
        assert_true(d_z[j] == 0 && d_z[8 + j] == 0);
    assert_false(kd_loss_needs_teacher(&l));
    assert_true(kd_loss_needs_teacher(&(kd_loss){.weight = {[KD_TERM_KD] = 1}}));
    assert_true(kd_loss_needs_teacher(&(kd_loss){.weight = {[KD_TERM_MSE] = 1}}));
}

static void test_loss_nonfinite(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < KD_COUNT(bad); k++)
        for (int teacher = 0; teacher < 2; teacher++) {
            float z[12], v[12], d_z[12];
            for (int i = 0; i < 12; i++)
                z[i] = v[i] = (float)i;
            (teacher ? v : z)[5] = bad[k];
            (teacher ? v : z)[9] = bad[k];
            const float weight[4] = {1, 1, 1, 1};
            const int32_t labels[4] = {0, 1, 2, 0};
            kd_loss_sums sums;
            apply(&mixed, 4, 3, z, v, labels, weight, 0.25, d_z, &sums);
            assert_int_equal(sums.bad, 1);
            assert_true(isnan(sums.loss));
            for (int i = 0; i < 12; i++)
                assert_true(isfinite(d_z[i]));
            /* The teacher's faults are nothing to a loss without it. */
            const kd_loss hard = {.weight = {[KD_TERM_CE] = 1}, .temperature = 1};
            apply(&hard, 4, 3, z, v, labels, weight, 0.25, d_z, &sums);
            assert_int_equal(sums.bad, teacher ? -1 : 1);
        }
}

/* Finite logits whose gradient does not fit a float. */
static void test_loss_overflow(void **state)
{
    (void)state;
    const float z[4] = {1, 2, 3e38f, 3e38f}, v[4] = {2, 1, -3e38f, 3e38f}, weight[2] = {1, 1};
    float d_z[4];
    const kd_loss l = {.weight = {[KD_TERM_MSE] = 1}, .mse_half = true};
    kd_loss_sums sums;
    apply(&l, 2, 2, z, v, (int32_t[]){0, 1}, weight, 1, d_z, &sums);
    assert_int_equal(sums.bad, 1);
    assert_true(isnan(sums.loss));
    assert_true(d_z[0] == -1 && d_z[1] == 1 && d_z[2] == 0 && d_z[3] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss_golden),   cmocka_unit_test(test_loss_central_differences),
        cmocka_unit_test(test_loss_extremes), cmocka_unit_test(test_loss_hot_limit),
        cmocka_unit_test(test_loss_padding),  cmocka_unit_test(test_loss_rows_alone),
        cmocka_unit_test(test_loss_counts),   cmocka_unit_test(test_loss_nonfinite),
        cmocka_unit_test(test_loss_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

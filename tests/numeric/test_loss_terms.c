/* What each term of the loss has to be, whatever the logits are. */
#include "losses.h"

#include <math.h>
#include <string.h>

#define MAX_CLASSES 100
#define ROWS 4

/* Every term, and every switch of it. */
static const struct {
    const char *name;
    kd_loss loss;
} variants[] = {
    {"ce", {.weight = {[KD_TERM_CE] = 1}, .temperature = 3}},
    {"ce, smoothed", {.weight = {[KD_TERM_CE] = 0.7}, .temperature = 3, .smoothing = 0.1}},
    {"kd", {.weight = {[KD_TERM_KD] = 1}, .temperature = 3}},
    {"kd, T^2", {.weight = {[KD_TERM_KD] = 0.9}, .temperature = 3, .t2 = KD_LOSS_T2_SOFT}},
    {"kd, standardised",
     {.weight = {[KD_TERM_KD] = 1}, .temperature = 2, .t2 = KD_LOSS_T2_SOFT, .standardise = true}},
    {"mse", {.weight = {[KD_TERM_MSE] = 1}, .temperature = 3}},
    {"mse, half", {.weight = {[KD_TERM_MSE] = 1}, .temperature = 3, .mse_half = true}},
    {"dkd",
     {.weight = {[KD_TERM_DKD] = 1},
      .temperature = 4,
      .t2 = KD_LOSS_T2_SOFT,
      .dkd_alpha = 1,
      .dkd_beta = 8}},
    {"dist, rows", {.weight = {[KD_TERM_DIST] = 1}, .temperature = 2, .dist_inter = 1}},
    {"dist, columns", {.weight = {[KD_TERM_DIST] = 1}, .temperature = 2, .dist_intra = 1}},
    {"dist",
     {.weight = {[KD_TERM_DIST] = 2},
      .temperature = 1.5,
      .t2 = KD_LOSS_T2_ALL,
      .dist_inter = 2,
      .dist_intra = 3}},
    {"nkd",
     {.weight = {[KD_TERM_NKD] = 1}, .temperature = 3, .nkd_gamma = 1.5, .nkd_temperature = 2}},
    {"jsd, forward", {.weight = {[KD_TERM_JSD] = 1}, .temperature = 2, .jsd_beta = 0}},
    {"jsd, 0.3", {.weight = {[KD_TERM_JSD] = 1}, .temperature = 2, .jsd_beta = 0.3}},
    {"jsd, reverse", {.weight = {[KD_TERM_JSD] = 1}, .temperature = 2, .jsd_beta = 1}},
    {"all",
     {.weight = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7},
      .temperature = 3,
      .t2 = KD_LOSS_T2_SOFT,
      .normalise = true,
      .standardise = true,
      .smoothing = 0.2,
      .dkd_alpha = 1,
      .dkd_beta = 2,
      .dist_inter = 1,
      .dist_intra = 1,
      .nkd_gamma = 1,
      .nkd_temperature = 1.5,
      .jsd_beta = 0.5}},
};
static const int class_counts[] = {2, 5, MAX_CLASSES};

static const kd_loss *variant(const char *name)
{
    for (size_t i = 0; i < KD_COUNT(variants); i++)
        if (strcmp(variants[i].name, name) == 0)
            return &variants[i].loss;
    fail_msg("no variant '%s'", name);
    return NULL;
}

/* Plain, unlabelled, mixed and mixed with itself. */
static void make_targets(kd_rng *r, int classes, kd_target targets[ROWS])
{
    for (int i = 0; i < ROWS; i++)
        targets[i] = (kd_target){(int32_t)kd_rng_below(r, (uint32_t)classes), -1, 0};
    targets[1].label = -1;
    targets[2].other = (targets[2].label + 1) % classes;
    targets[2].share = 0.625f;
    targets[3].other = targets[3].label;
    targets[3].share = 0.25f;
}

static void test_terms_central_differences(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 11, KD_RNG_TEST, 0, 0);
    float z[ROWS * MAX_CLASSES], v[ROWS * MAX_CLASSES], d_z[ROWS * MAX_CLASSES];
    kd_target targets[ROWS];
    for (size_t k = 0; k < KD_COUNT(variants); k++)
        for (size_t c = 0; c < KD_COUNT(class_counts); c++) {
            const kd_loss *l = &variants[k].loss;
            const int classes = class_counts[c];
            kd_diag diag = {0};
            kd_assert_ok(kd_loss_check(l, classes, &diag), &diag);
            draw_logits(&r, z, ROWS * classes, 2);
            draw_logits(&r, v, ROWS * classes, 2);
            make_targets(&r, classes, targets);
            sums_of(l, ROWS, classes, z, v, targets, d_z);
            double most = 0;
            for (int i = 0; i < ROWS * classes; i++) {
                /* Steps of h and 2h, combined so that the error is of fourth order in h. */
                const float at = z[i], h = 0x1p-8f;
                double slope[2];
                for (int s = 0; s < 2; s++) {
                    z[i] = at + (float)(s + 1) * h;
                    const double up = sums_of(l, ROWS, classes, z, v, targets, NULL).loss;
                    z[i] = at - (float)(s + 1) * h;
                    const double down = sums_of(l, ROWS, classes, z, v, targets, NULL).loss;
                    slope[s] = (up - down) / (2 * (s + 1) * (double)h) / ROWS;
                }
                z[i] = at;
                const double want = (4 * slope[0] - slope[1]) / 3;
                most = fmax(most, fabs((double)d_z[i] - want));
                kd_assert_close(d_z[i], want, 1e-6, 1e-7);
            }
            print_message("%s, %d classes: within %.1e\n", variants[k].name, classes, most);
        }
}

/* Renaming the classes renames the gradient; another order of the rows another order of theirs. */
static void test_terms_permutation(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 12, KD_RNG_TEST, 0, 0);
    const int classes = 7;
    float z[ROWS * 7], v[ROWS * 7], d_z[ROWS * 7], z2[ROWS * 7], v2[ROWS * 7], d2[ROWS * 7];
    kd_target targets[ROWS], targets2[ROWS];
    for (size_t k = 0; k < KD_COUNT(variants); k++) {
        const kd_loss *l = &variants[k].loss;
        draw_logits(&r, z, ROWS * classes, 2);
        draw_logits(&r, v, ROWS * classes, 2);
        make_targets(&r, classes, targets);
        for (int i = 0; i < ROWS; i++) {
            const int i2 = (i + 1) % ROWS;
            targets2[i2] = targets[i];
            targets2[i2].label = targets[i].label < 0 ? -1 : targets[i].label * 3 % classes;
            targets2[i2].other = targets[i].other < 0 ? -1 : targets[i].other * 3 % classes;
            for (int j = 0; j < classes; j++) {
                z2[i2 * classes + j * 3 % classes] = z[i * classes + j];
                v2[i2 * classes + j * 3 % classes] = v[i * classes + j];
            }
        }
        const kd_loss_sums a = sums_of(l, ROWS, classes, z, v, targets, d_z);
        const kd_loss_sums b = sums_of(l, ROWS, classes, z2, v2, targets2, d2);
        kd_assert_close(b.loss, a.loss, 1e-13, 1e-14);
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < classes; j++)
                kd_assert_close(d2[(i + 1) % ROWS * classes + j * 3 % classes],
                                d_z[i * classes + j], 2e-7, 1e-12);
    }
}

static void test_terms_extremes(void **state)
{
    (void)state;
    const double temperatures[] = {0.1, 1, 5, 1e3, 1e6};
    const float values[] = {1e4f, -1e4f, 0, 1e4f, -1e4f, 1e-30f, 1e4f};
    enum { N = 8, CLASSES = 6 };
    float z[N * CLASSES], v[N * CLASSES], d_z[N * CLASSES];
    kd_target targets[N];
    for (int i = 0; i < N; i++) {
        targets[i] = (kd_target){(i * 5 + 1) % CLASSES, i % 2 ? i % CLASSES : -1, 0.75f};
        for (int j = 0; j < CLASSES; j++) {
            z[i * CLASSES + j] = values[(i + j) % 7];
            v[i * CLASSES + j] = values[(5 * i + 2 * j) % 7];
        }
    }
    /* Rows in which nothing varies, and a teacher who is nothing but sure. */
    for (int j = 0; j < CLASSES; j++) {
        z[j] = 1e4f;
        z[CLASSES + j] = v[CLASSES + j] = -1e4f;
        v[2 * CLASSES + j] = j ? -1e4f : 1e4f;
    }
    for (size_t k = 0; k < KD_COUNT(variants); k++)
        for (size_t t = 0; t < KD_COUNT(temperatures); t++)
            for (int t2 = 0; t2 < 3; t2++)
                for (int rows = 1; rows <= N; rows += N - 1) {
                    kd_loss l = variants[k].loss;
                    l.temperature = l.nkd_temperature = temperatures[t];
                    l.t2 = (enum kd_loss_t2)t2;
                    const kd_loss_sums sums = sums_of(&l, rows, CLASSES, z, v, targets, d_z);
                    assert_true(isfinite(sums.loss) && sums.loss > -1e-9);
                    for (int i = 0; i < rows * CLASSES; i++)
                        assert_true(isfinite(d_z[i]));
                    for (int term = 0; term < KD_LOSS_TERMS; term++)
                        assert_true(isfinite(sums.value[term]) && isfinite(sums.pull[term]));
                }
}

static void test_terms_equal_networks(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 13, KD_RNG_TEST, 0, 0);
    static const char *const zero[] = {
        "kd",       "kd, T^2",      "kd, standardised", "mse",        "mse, half",    "dkd",
        "jsd, 0.3", "jsd, forward", "jsd, reverse",     "dist, rows", "dist, columns"};
    float z[ROWS * MAX_CLASSES], d_z[ROWS * MAX_CLASSES];
    kd_target targets[ROWS];
    for (size_t k = 0; k < KD_COUNT(zero); k++)
        for (size_t c = 0; c < KD_COUNT(class_counts); c++) {
            const kd_loss *l = variant(zero[k]);
            const int classes = class_counts[c];
            draw_logits(&r, z, ROWS * classes, 3);
            make_targets(&r, classes, targets);
            const kd_loss_sums sums = sums_of(l, ROWS, classes, z, z, targets, d_z);
            /* DIST's 1e-8 under the fraction keeps the correlation of equals below 1, the more the
             * less a column varies. */
            const double slack = l->weight[KD_TERM_DIST] != 0 ? 5e-3 : 0;
            kd_assert_close(sums.loss, 0, 0, slack);
            for (int i = 0; i < ROWS * classes; i++)
                kd_assert_close(d_z[i], 0, 0, slack);
        }
}

/* KL(q||p) = TCKD + (1 - q_y) NCKD. */
static void test_terms_dkd_identity(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 14, KD_RNG_TEST, 0, 0);
    for (int t = 0; t < 20; t++) {
        enum { CLASSES = 9 };
        float z[CLASSES], v[CLASSES], d_dkd[CLASSES], d_kd[CLASSES];
        const double temperature = 0.5 + t;
        draw_logits(&r, z, CLASSES, 3);
        draw_logits(&r, v, CLASSES, 3);
        const int32_t y = t % CLASSES;
        double all = 0;
        for (int j = 0; j < CLASSES; j++)
            all += exp((double)v[j] / temperature);
        const kd_loss kd = {.weight = {[KD_TERM_KD] = 1}, .temperature = temperature};
        const kd_loss dkd = {.weight = {[KD_TERM_DKD] = 1},
                             .temperature = temperature,
                             .dkd_alpha = 1,
                             .dkd_beta = 1 - exp((double)v[y] / temperature) / all};
        kd_assert_close(mean_loss(&dkd, 1, CLASSES, z, v, &y, d_dkd),
                        mean_loss(&kd, 1, CLASSES, z, v, &y, d_kd), 1e-12, 0);
        kd_assert_all_close(d_dkd, d_kd, CLASSES, 1e-6, 1e-9);
    }
}

static void test_terms_targets(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 15, KD_RNG_TEST, 0, 0);
    static const char *const hard[] = {"ce", "ce, smoothed", "dkd", "nkd"};
    enum { CLASSES = 6 };
    float z[CLASSES], v[CLASSES], d_mixed[CLASSES], d_a[CLASSES], d_b[CLASSES];
    for (size_t k = 0; k < KD_COUNT(hard); k++) {
        const kd_loss *l = variant(hard[k]);
        draw_logits(&r, z, CLASSES, 2);
        draw_logits(&r, v, CLASSES, 2);
        const kd_target none = {-1, 3, 0.5f}, mixed = {2, 5, 0.7f};
        assert_true(kd_loss_needs_labels(l));
        kd_assert_close(sums_of(l, 1, CLASSES, z, v, &none, d_a).loss, 0, 0, 0);
        for (int j = 0; j < CLASSES; j++)
            assert_true(d_a[j] == 0);
        const double share = (double)mixed.share;
        const double a = mean_loss(l, 1, CLASSES, z, v, (int32_t[]){2}, d_a);
        const double b = mean_loss(l, 1, CLASSES, z, v, (int32_t[]){5}, d_b);
        assert_true(fabs(a - b) > 0.01);
        kd_assert_close(sums_of(l, 1, CLASSES, z, v, &mixed, d_mixed).loss,
                        share * a + (1 - share) * b, 1e-14, 0);
        for (int j = 0; j < CLASSES; j++)
            kd_assert_close(d_mixed[j], share * (double)d_a[j] + (1 - share) * (double)d_b[j], 1e-6,
                            1e-8);
    }
    /* The others do not know what a label is. */
    for (size_t k = 0; k < KD_COUNT(variants); k++) {
        const kd_loss *l = &variants[k].loss;
        if (kd_loss_needs_labels(l))
            continue;
        const kd_target none = {-1, -1, 0}, mixed = {2, 5, 0.7f};
        const double a = sums_of(l, 1, CLASSES, z, v, &none, d_a).loss;
        const double b = sums_of(l, 1, CLASSES, z, v, &mixed, d_b).loss;
        assert_memory_equal(&a, &b, sizeof a);
        assert_memory_equal(d_a, d_b, sizeof d_a);
        assert_true(kd_loss_needs_teacher(l));
    }
}

static void test_terms_jsd_limits(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 16, KD_RNG_TEST, 0, 0);
    enum { CLASSES = 8 };
    float z[CLASSES], v[CLASSES], d_a[CLASSES], d_b[CLASSES];
    const int32_t y = -1;
    for (int t = 0; t < 5; t++) {
        draw_logits(&r, z, CLASSES, 2);
        draw_logits(&r, v, CLASSES, 2);
        kd_loss l = {.weight = {[KD_TERM_JSD] = 1}, .temperature = 2};
        const kd_loss kd = {.weight = {[KD_TERM_KD] = 1}, .temperature = 2};
        const double forward = mean_loss(&l, 1, CLASSES, z, v, &y, d_a);
        kd_assert_close(forward, mean_loss(&kd, 1, CLASSES, z, v, &y, d_b), 1e-14, 0);
        assert_memory_equal(d_a, d_b, sizeof d_a);
        l.jsd_beta = 1;
        const double reverse = mean_loss(&l, 1, CLASSES, z, v, &y, NULL);
        kd_assert_close(reverse, mean_loss(&kd, 1, CLASSES, v, z, &y, NULL), 1e-14, 0);
        assert_true(fabs(reverse - forward) > 1e-3);
        /* Between them it has to be scaled to meet the ends. */
        l.jsd_beta = 1e-6;
        kd_assert_close(mean_loss(&l, 1, CLASSES, z, v, &y, NULL) / 1e-6, forward, 1e-4, 0);
        l.jsd_beta = 1 - 1e-6;
        kd_assert_close(mean_loss(&l, 1, CLASSES, z, v, &y, NULL) / 1e-6, reverse, 1e-4, 0);
        /* Symmetric at one half. */
        l.jsd_beta = 0.5;
        kd_assert_close(mean_loss(&l, 1, CLASSES, z, v, &y, NULL),
                        mean_loss(&l, 1, CLASSES, v, z, &y, NULL), 1e-13, 0);
        /* Hot, it is b (1-b) of what KL(q||p) is. */
        kd_loss hot_kd = kd, hot = l;
        hot_kd.temperature = hot.temperature = 1e6;
        hot.jsd_beta = 0.3;
        kd_assert_close(mean_loss(&hot, 1, CLASSES, z, v, &y, NULL),
                        0.3 * 0.7 * mean_loss(&hot_kd, 1, CLASSES, z, v, &y, NULL), 1e-5, 0);
    }
}

/* Standardised logits: neither scale nor offset of either network counts. */
static void test_terms_standardise(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 17, KD_RNG_TEST, 0, 0);
    enum { CLASSES = 10 };
    float z[CLASSES], v[CLASSES], z2[CLASSES], v2[CLASSES], d_a[CLASSES], d_b[CLASSES];
    const kd_loss *l = variant("kd, standardised");
    draw_logits(&r, z, CLASSES, 2);
    draw_logits(&r, v, CLASSES, 2);
    for (int j = 0; j < CLASSES; j++) {
        z2[j] = 4 * z[j] + 3;
        v2[j] = 0.5f * v[j] - 7;
    }
    const int32_t y = -1;
    const double a = mean_loss(l, 1, CLASSES, z, v, &y, d_a);
    const double b = mean_loss(l, 1, CLASSES, z2, v2, &y, d_b);
    kd_assert_close(a, b, 1e-6, 0);
    double along = 0;
    for (int j = 0; j < CLASSES; j++) {
        kd_assert_close(4 * d_b[j], d_a[j], 1e-5, 1e-7);
        along += (double)d_a[j] * (double)z[j];
    }
    kd_assert_close(along, 0, 0, 1e-6);
    kd_loss plain = *l;
    plain.standardise = false;
    assert_true(fabs(mean_loss(&plain, 1, CLASSES, z, v, &y, NULL) - a) > 0.01);
}

/* The parts of a sum: values add up, and each pull is the L1 norm of that term's gradient alone. */
static void test_terms_shares(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 18, KD_RNG_TEST, 0, 0);
    for (size_t c = 0; c < KD_COUNT(class_counts); c++) {
        const int classes = class_counts[c];
        const kd_loss *l = variant("all");
        float z[ROWS * MAX_CLASSES], v[ROWS * MAX_CLASSES], d_z[ROWS * MAX_CLASSES];
        double total[ROWS * MAX_CLASSES] = {0}, value = 0;
        kd_target targets[ROWS];
        draw_logits(&r, z, ROWS * classes, 2);
        draw_logits(&r, v, ROWS * classes, 2);
        make_targets(&r, classes, targets);
        const kd_loss_sums all = sums_of(l, ROWS, classes, z, v, targets, d_z);
        for (int t = 0; t < KD_LOSS_TERMS; t++) {
            kd_loss one = *l;
            memset(one.weight, 0, sizeof one.weight);
            one.normalise = false;
            one.weight[t] = l->weight[t] / 2.8; /* the sum of the weights */
            float d_one[ROWS * MAX_CLASSES];
            const kd_loss_sums alone = sums_of(&one, ROWS, classes, z, v, targets, d_one);
            kd_assert_close(all.value[t], alone.loss, 1e-13, 0);
            kd_assert_close(alone.loss, alone.value[t], 1e-14, 0);
            double norm = 0;
            for (int i = 0; i < ROWS * classes; i++) {
                norm += fabs((double)d_one[i]) * ROWS;
                total[i] += (double)d_one[i];
            }
            kd_assert_close(all.pull[t], norm, 1e-6, 0);
            value += all.value[t];
        }
        kd_assert_close(all.loss, value, 1e-13, 0);
        for (int i = 0; i < ROWS * classes; i++)
            kd_assert_close(d_z[i], total[i], 1e-6, 1e-7);
    }
}

static void test_terms_check(void **state)
{
    (void)state;
    const struct {
        kd_loss loss;
        const char *part; /* NULL: nothing to refuse */
    } cases[] = {
        {{.weight = {[KD_TERM_CE] = 1}}, NULL},
        {{.weight = {[KD_TERM_MSE] = 1}, .jsd_beta = NAN, .temperature = NAN}, NULL},
        {{.temperature = 1}, "every weight is 0"},
        {{.weight = {[KD_TERM_NKD] = -1}}, "nkd is -1"},
        {{.weight = {[KD_TERM_CE] = 1, [KD_TERM_JSD] = NAN}}, "jsd"},
        {{.weight = {[KD_TERM_MSE] = INFINITY}}, "mse"},
        {{.weight = {[KD_TERM_KD] = 1}}, "temperature is 0"},
        {{.weight = {[KD_TERM_CE] = 1}, .t2 = KD_LOSS_T2_ALL, .temperature = NAN}, "temperature"},
        {{.weight = {[KD_TERM_CE] = 1}, .smoothing = 1}, "label smoothing is 1"},
        {{.weight = {[KD_TERM_DKD] = 1}, .temperature = 1, .dkd_beta = -8}, "dkd_beta is -8"},
        {{.weight = {[KD_TERM_DIST] = 1}, .temperature = 1, .dist_intra = NAN}, "dist_intra"},
        {{.weight = {[KD_TERM_NKD] = 1}, .nkd_gamma = 1}, "nkd_temperature is 0"},
        {{.weight = {[KD_TERM_JSD] = 1}, .temperature = 1, .jsd_beta = 1.5}, "jsd_beta is 1.5"},
    };
    for (size_t k = 0; k < KD_COUNT(cases); k++) {
        kd_diag diag = {0};
        const int rc = kd_loss_check(&cases[k].loss, 5, &diag);
        if (cases[k].part)
            kd_assert_fails(rc, KD_EINVAL, &diag, cases[k].part);
        else
            kd_assert_ok(rc, &diag);
    }
    kd_diag diag = {0};
    kd_assert_fails(kd_loss_check(&cases[0].loss, 1, &diag), KD_EINVAL, &diag, "2 classes");
    static const char *const names[] = {"ce", "kd", "mse", "dkd", "dist", "nkd", "jsd"};
    for (int t = 0; t < KD_LOSS_TERMS; t++)
        assert_string_equal(kd_loss_term_name((enum kd_loss_term)t), names[t]);
}

#ifdef __SANITIZE_ADDRESS__
/* Of the sanitizer's allocator_interface.h, which GCC does not install. */
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *));

static int watched, allocations;

static void seen_malloc(const volatile void *at, size_t size)
{
    (void)at;
    (void)size;
    allocations += watched;
}

static void seen_free(const volatile void *at)
{
    (void)at;
}
#endif

static void test_terms_no_allocation(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    enum { CLASSES = 3000 };
    float *z = malloc(2 * CLASSES * sizeof *z), *v = malloc(2 * CLASSES * sizeof *v);
    float *d_z = malloc(2 * CLASSES * sizeof *d_z);
    double *stats = malloc((size_t)CLASSES * KD_LOSS_STATS * sizeof *stats);
    kd_rng r;
    kd_rng_init(&r, 19, KD_RNG_TEST, 0, 0);
    draw_logits(&r, z, 2 * CLASSES, 2);
    draw_logits(&r, v, 2 * CLASSES, 2);
    const float weight[2] = {1, 1};
    const kd_target targets[2] = {{2999, 7, 0.5f}, {-1, -1, 0}};
    kd_diag diag = {0};
    kd_loss_sums sums;
    assert_true(__sanitizer_install_malloc_and_free_hooks(seen_malloc, seen_free) > 0);
    watched = 1;
    void *volatile seen = malloc(1);
    assert_int_equal(allocations, 1);
    free(seen);
    const int rc = kd_loss_couple(variant("all"), 2, CLASSES, z, v, weight, stats, &diag);
    kd_loss_apply(variant("all"), 2, CLASSES, z, v, targets, weight, 0.5, stats, d_z, &sums);
    watched = 0;
    assert_int_equal(allocations, 1);
    kd_assert_ok(rc, &diag);
    assert_true(sums.bad == -1 && sums.loss > 0);
    free(z);
    free(v);
    free(d_z);
    free(stats);
#else
    skip();
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_terms_central_differences),
        cmocka_unit_test(test_terms_permutation),
        cmocka_unit_test(test_terms_extremes),
        cmocka_unit_test(test_terms_equal_networks),
        cmocka_unit_test(test_terms_dkd_identity),
        cmocka_unit_test(test_terms_targets),
        cmocka_unit_test(test_terms_jsd_limits),
        cmocka_unit_test(test_terms_standardise),
        cmocka_unit_test(test_terms_shares),
        cmocka_unit_test(test_terms_check),
        cmocka_unit_test(test_terms_no_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

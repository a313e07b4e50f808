/* Sweeps: which children a matrix and seeds make, that each is an ordinary job, and what is
 * refused. */
#include "job_case.h"

#include "job/sweep.h"

#include <jansson.h>
#include <stdio.h>

static void load_sweep(const char *text, const char *const *sets, int n, kd_sweep *out)
{
    kd_diag diag = {0};
    kd_assert_ok(kd_sweep_load(text, strlen(text), "job.yaml", sets, n, out, &diag), &diag);
    assert_int_equal(diag.code, 0);
}

static void refuse_sweep_code(const char *text, int code, const char *part)
{
    kd_sweep sweep, before;
    kd_diag diag = {0};
    memset(&sweep, 0x5a, sizeof sweep);
    before = sweep;
    kd_assert_fails(kd_sweep_load(text, strlen(text), "job.yaml", NULL, 0, &sweep, &diag), code,
                    &diag, part);
    assert_memory_equal(&sweep, &before, sizeof sweep);
}

static void refuse_sweep(const char *text, const char *part)
{
    refuse_sweep_code(text, KD_EINVAL, part);
}

/* The job of one child. */
static void child_job(const char *text, const kd_sweep *sweep, int i, kd_job *job)
{
    accept_sets(text, (const char *const *)sweep->child[i].sets, sweep->child[i].n_sets, job);
}

static void test_sweep_none(void **state)
{
    (void)state;
    kd_sweep s;
    load_sweep(TEACHER, NULL, 0, &s);
    assert_int_equal(s.n, 0);
    assert_null(s.child);
    kd_sweep_free(&s);
    /* An ordinary load passes over both keys. */
    kd_job with, without;
    accept(TEACHER "matrix: {distill.epochs: [1, 2]}\nseeds: 3\n", &with);
    accept(TEACHER, &without);
    assert_memory_equal(&with, &without, sizeof with);
}

static void test_sweep_matrix(void **state)
{
    (void)state;
    const char *text = TEACHER "matrix:\n  distill.loss.temperature: [1, 2.5]\n"
                               "  distill.loss: [{kd: 1}, {mse: 1, kd: 0}, {kd: 0.5, ce: 0.5}]\n";
    kd_sweep s;
    kd_job j;
    load_sweep(text, NULL, 0, &s);
    assert_int_equal(s.n, 6);
    assert_int_equal(s.seeds, 1);
    assert_string_equal(s.child[0].label, "distill.loss.temperature=1 distill.loss={kd: 1}");
    assert_string_equal(s.child[5].label,
                        "distill.loss.temperature=2.5 distill.loss={kd: 0.5, ce: 0.5}");
    assert_string_equal(s.child[5].group, s.child[5].label);
    /* A later override of a whole mapping replaces what an earlier one put into it. */
    child_job(text, &s, 4, &j);
    kd_assert_close(j.distill.loss.mse, 1, 0, 0);
    kd_assert_close(j.distill.loss.kd, 0, 0, 0);
    kd_assert_close(j.distill.loss.temperature, 5, 0, 0);
    kd_sweep_free(&s);

    text = TEACHER "matrix:\n  distill.loss.temperature: [1, 2, 5, 10]\n"
                   "  student.model: [mlp, \"lenet\"]\n";
    load_sweep(text, NULL, 0, &s);
    assert_int_equal(s.n, 8);
    static const double temperatures[] = {1, 1, 2, 2, 5, 5, 10, 10};
    for (int i = 0; i < s.n; i++) {
        child_job(text, &s, i, &j);
        kd_assert_close(j.distill.loss.temperature, temperatures[i], 0, 0);
        assert_string_equal(j.student.model, i % 2 ? "lenet" : "mlp");
        assert_true(s.child[i].seed == 1);
        round_trip(&j);
    }
    json_t *values = json_loads(s.child[3].values, 0, NULL);
    assert_int_equal(json_object_size(values), 2);
    assert_int_equal(json_integer_value(json_object_get(values, "distill.loss.temperature")), 2);
    assert_string_equal(json_string_value(json_object_get(values, "student.model")), "lenet");
    json_decref(values);
    kd_sweep_free(&s);
}

/* What steers a terminal is not in a label, but comes through to the job's check. */
static void test_sweep_hostile_text(void **state)
{
    (void)state;
    refuse_sweep(TEACHER "matrix: {name: [\"a\\e[2J\"]}\n",
                 "matrix: with name=\"a\\x1b[2J\": --set");
    refuse_sweep(TEACHER "matrix: {name: [\"a\\x9b2J\"]}\n",
                 "matrix: with name=\"a\\x9b2J\": --set");
    refuse_sweep(TEACHER "matrix: {name: [\"a\\0b\"]}\n", "matrix: with name=\"a\\x00b\"");
}

/* Every kind of value comes through: lists, mappings, texts that need quotes. */
static void test_sweep_values(void **state)
{
    (void)state;
    const char *text =
        PLAIN "matrix:\n  data:\n    augment: [[], [flip, {crop: {pad: 4}}]]\n    labelled.path: "
              "['a \"b\"', \"c\\u00e9\", \"x: {y}\", plain text, \"12\"]\n"
              "  student:\n  - {layers: [{conv: {channels: 16}}, batch_norm, relu, {max_pool: "
              "2}, global_avg_pool]}\n  - {layers: [flatten]}\n";
    static const char *const paths[] = {"a \"b\"", "c\xc3\xa9", "x: {y}", "plain text", "12"};
    kd_sweep s;
    kd_job j;
    load_sweep(text, NULL, 0, &s);
    assert_int_equal(s.n, 20);
    for (int i = 0; i < s.n; i++) {
        child_job(text, &s, i, &j);
        assert_int_equal(j.data.augment.flip, i >= 10);
        assert_int_equal(j.data.augment.crop_pad, i >= 10 ? 4 : 0);
        assert_string_equal(j.data.path, paths[i / 2 % 5]);
        assert_int_equal(j.student.n_layers, i % 2 ? 1 : 5);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(s.child[i].label, s.child[k].label);
    }
    /* Long values are cut in labels, and numbered so that they differ. */
    assert_non_null(
        strstr(s.child[0].label, "student={layers: [{conv: {channels: 16}}, batch_norm"));
    assert_non_null(strstr(s.child[0].label, "...#1"));
    json_t *values = json_loads(s.child[10].values, 0, NULL);
    json_t *augment = json_object_get(values, "data.augment");
    assert_string_equal(json_string_value(json_array_get(augment, 0)), "flip");
    assert_string_equal(json_string_value(json_object_get(values, "data.labelled.path")),
                        "a \"b\"");
    json_decref(values);
    kd_sweep_free(&s);
}

static void test_sweep_seeds(void **state)
{
    (void)state;
    const char *text = "name: x\nseed: 40\ndata: {labelled: {path: p, val_share: 0.2}}\n"
                       "student: {model: mlp}\nseeds: 3\n"
                       "teacher: {model: lenet, fine_tune: {}}\nscratch: {}\n"
                       "matrix: {distill.epochs: [1, 2]}\n";
    kd_sweep s;
    kd_job j;
    load_sweep(text, NULL, 0, &s);
    assert_int_equal(s.n, 6);
    assert_int_equal(s.seeds, 3);
    assert_string_equal(s.child[1].label, "distill.epochs=1 seed=41");
    assert_string_equal(s.child[1].group, "distill.epochs=1");
    for (int i = 0; i < s.n; i++) {
        child_job(text, &s, i, &j);
        assert_true(j.seed == 40 + (uint64_t)(i % 3));
        assert_true(j.seed == s.child[i].seed);
        assert_true(j.distill.seed == j.seed);
        assert_true(j.scratch_train.seed == j.seed);
        assert_int_equal(j.distill.epochs, 1 + i / 3);
        /* Splits, views and the teacher are the same for all. */
        assert_true(j.data.seed == 40);
        assert_true(j.teachers[0].train.seed == 40);
        assert_string_equal(s.child[i].values,
                            i < 3 ? "{\"distill.epochs\":1}" : "{\"distill.epochs\":2}");
    }
    kd_sweep_free(&s);

    /* Seeds that the file names stay; each teacher of a list has its own. */
    text = "name: x\ndata: {seed: 7, labelled: {path: p, val_share: 0.2}}\nstudent: {model: mlp}\n"
           "teacher:\n  - {model: lenet, fine_tune: {seed: 11}}\n  - {model: mlp, weights: w}\n"
           "  - {model: mlp, fine_tune: {}}\nseeds: 2\n";
    load_sweep(text, NULL, 0, &s);
    assert_int_equal(s.n, 2);
    assert_string_equal(s.child[1].label, "seed=2");
    assert_string_equal(s.child[1].group, "");
    child_job(text, &s, 1, &j);
    assert_true(j.seed == 2);
    assert_true(j.data.seed == 7);
    assert_true(j.teachers[0].train.seed == 11);
    assert_true(j.teachers[2].train.seed == 1);
    assert_false(j.teachers[1].fine_tune);
    kd_sweep_free(&s);
    /* A list of one, and a matrix over one of its keys. */
    text = "name: x\ndata: {labelled: {path: p, val_share: 0.2}}\nstudent: {model: mlp}\n"
           "teacher: [{model: lenet, fine_tune: {}}]\nseeds: 1\n"
           "matrix: {\"teacher[0].fine_tune.epochs\": [5, 6], teacher.0.weight: [1]}\n";
    load_sweep(text, NULL, 0, &s);
    assert_int_equal(s.n, 2);
    child_job(text, &s, 1, &j);
    assert_int_equal(j.teachers[0].train.epochs, 6);
    assert_true(j.teachers[0].train.seed == 1);
    kd_sweep_free(&s);
}

static void test_sweep_overrides(void **state)
{
    (void)state;
    static const char *const sets[] = {"seed=5", "seeds=2", "matrix.distill.epochs=[3, 4]"};
    const char *text = TEACHER "matrix: {distill.batch: [32, 64]}\n";
    kd_sweep s;
    kd_job j;
    load_sweep(text, sets, 3, &s);
    assert_int_equal(s.n, 8);
    assert_string_equal(s.child[7].label, "distill.batch=64 distill.epochs=4 seed=6");
    const char *all[16];
    int n = 0;
    for (; n < 3; n++)
        all[n] = sets[n];
    for (int i = 0; i < s.child[7].n_sets; i++)
        all[n++] = s.child[7].sets[i];
    accept_sets(text, all, n, &j);
    assert_true(j.seed == 6);
    assert_true(j.data.seed == 5);
    assert_int_equal(j.distill.epochs, 4);
    assert_int_equal(j.distill.batch, 64);
    kd_sweep_free(&s);
    const char *many[64];
    for (int i = 0; i < 64; i++)
        many[i] = "seed=5";
    kd_diag diag = {0};
    kd_assert_fails(kd_sweep_load(text, strlen(text), "job.yaml", many, 64, &s, &diag), KD_ELIMIT,
                    &diag, "64 overrides (--set) and 1 of the sweep; at most 64 are taken");
}

static void test_sweep_refused(void **state)
{
    (void)state;
#define MATRIX(m) TEACHER "matrix: " m "\n"
    refuse_sweep(MATRIX("{distill.los.temperature: [1]}"),
                 "job.yaml:6:10: matrix: `distill.los.temperature` is no key of a job; did you "
                 "mean `distill.loss.temperature`?");
    refuse_sweep(MATRIX("{temperature: [1]}"), "`temperature` is no key of a job");
    refuse_sweep(MATRIX("{matrix: [1]}"), "`matrix` is no key of a job");
    refuse_sweep(MATRIX("{seeds: [1]}"), "`seeds` is no key");
    refuse_sweep(MATRIX("{squash: [1]}"), "`squash` is no key");
    refuse_sweep(MATRIX("[1]"), "job.yaml:6:9: matrix: expected a mapping of keys to lists");
    refuse_sweep(MATRIX(""), "matrix: expected a mapping of keys to lists");
    refuse_sweep(MATRIX("{}"), "matrix: no keys below it");
    refuse_sweep(MATRIX("{distill: {}}"), "matrix: no keys below it");
    refuse_sweep(MATRIX("{distill.epochs: 3}"),
                 "job.yaml:6:26: matrix: expected a list of values for distill.epochs");
    refuse_sweep(MATRIX("{distill.epochs: []}"), "expected a list of values");
    refuse_sweep(MATRIX("{[a]: [1]}"), "expected a key of the job");
    refuse_sweep(MATRIX("{distill.epochs: [1], distill: {epochs: [2]}}"),
                 "job.yaml:6:41: matrix: distill.epochs is written twice");
    /* A value that does not load: which combination, and why. */
    refuse_sweep(MATRIX("{distill.epochs: [1, 2], distill.loss.temperature: [1, 0]}"),
                 "job.yaml:6:9: matrix: with distill.epochs=1 distill.loss.temperature=0: --set "
                 "distill.loss.temperature=0: distill.loss.temperature: expected a number");
    refuse_sweep(MATRIX("{distill.batch: [64, 65]}"),
                 "with distill.batch=65: --set distill.batch=65: distill.slots: 8 slots do not");
    refuse_sweep(MATRIX("{teacher.0.weight: [1]}"),
                 "with teacher.0.weight=1: --set teacher.0.weight=1: teacher.0: unknown key");
    /* What is wrong without the matrix too is said as ever. */
    refuse_sweep(TEACHER "seeds: 2\nsed: 1\n", "job.yaml:7:1: sed: unknown key");
    refuse_sweep(TEACHER "seeds: 0\n",
                 "job.yaml:6:8: seeds: expected a whole number from 1 to 256");
    refuse_sweep(TEACHER "seeds: [1]\n", "seeds: expected a whole number");
    refuse_sweep(TEACHER "seeds: 257\n", "seeds: expected a whole number");
    refuse_sweep(TEACHER "seeds: 2\nmatrix: {seed: [1, 2]}\n", "seed is swept by `seeds` already");
    refuse_sweep(TEACHER "seed: 9223372036854775807\nseeds: 2\n", "seed: expected a whole number");
    /* 256 children are made, 257 are not. */
    kd_sweep s;
    load_sweep(MATRIX("{distill.views: [1, 2, 3, 4], distill.epochs: [1, 2, 3, 4, 5, 6, 7, 8]}\n"
                      "seeds: 8"),
               NULL, 0, &s);
    assert_int_equal(s.n, 256);
    kd_sweep_free(&s);
    refuse_sweep_code(MATRIX("{distill.views: [1, 2, 3], distill.epochs: [1, 2]}\nseeds: 43"),
                      KD_ELIMIT, "job.yaml:6:9: matrix: more than 256 combinations");
    char text[16384];
    int n = snprintf(text, sizeof text, MATRIX("{distill.epochs: [1"));
    n -= 1;
    for (int i = 0; i < 256; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, ", 1");
    snprintf(text + n, sizeof text - (size_t)n, "]}\n");
    refuse_sweep_code(text, KD_ELIMIT, "more than 256 combinations");
    n = snprintf(text, sizeof text, TEACHER "matrix:\n");
    for (int i = 0; i < 17; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "  \"data.augment[%d]\": [flip]\n", i);
    refuse_sweep_code(text, KD_ELIMIT, "job.yaml:23:3: matrix: more than 16 keys");
    n = snprintf(text, sizeof text, TEACHER "matrix: {data.labelled.classes: [");
    memset(text + n, 'x', 4100);
    snprintf(text + n + 4100, sizeof text - (size_t)n - 4100, "]}\n");
    refuse_sweep_code(text, KD_ELIMIT,
                      "a value of data.labelled.classes is longer than 4096 bytes");
#undef MATRIX
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sweep_none),    cmocka_unit_test(test_sweep_matrix),
        cmocka_unit_test(test_sweep_values),  cmocka_unit_test(test_sweep_hostile_text),
        cmocka_unit_test(test_sweep_seeds),   cmocka_unit_test(test_sweep_overrides),
        cmocka_unit_test(test_sweep_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

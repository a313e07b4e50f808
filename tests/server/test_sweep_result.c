/* Statistics over a sweep's children, and what its result says. */
#include "kd_test.h"

#include "sweep_result.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- results */

static const char g_result[] =
    "{\"student\":{\"accuracy\":%g,\"correct\":5,\"samples\":10,\"best_accuracy\":%g,"
    "\"best_epoch\":2,\"digest\":\"aa\",\"best_digest\":\"bb\"%s},"
    "\"scratch\":{\"accuracy\":%g,\"best_accuracy\":%g%s},"
    "\"pairs\":[{\"a\":\"student\",\"b\":\"teacher\",\"split\":\"val\",\"both\":1,\"only_a\":1,"
    "\"only_b\":9,\"neither\":1},{\"a\":\"scratch\",\"b\":\"student\",\"split\":\"val\","
    "\"both\":50,\"only_a\":%d,\"only_b\":%d,\"neither\":10}],"
    "\"bank\":{\"asked\":%d,\"served\":%d,\"computed\":%d,\"seconds\":%d,\"seconds_saved\":0}}";

struct made {
    char text[6][2048], values[6][96], label[6][96];
    kd_child_result rows[6];
    size_t n;
};

static void add(struct made *m, int temperature, int seed, double student, double scratch,
                const char *student_test, const char *scratch_test, int computed, int served)
{
    size_t i = m->n++;
    snprintf(m->text[i], sizeof m->text[i], g_result, student, student + 0.1, student_test, scratch,
             scratch + 0.1, scratch_test, 5, 25, computed + served, served, computed,
             computed / 10);
    snprintf(m->values[i], sizeof m->values[i], "{\"distill.loss.temperature\":%d,\"seed\":%d}",
             temperature, seed);
    snprintf(m->label[i], sizeof m->label[i], "distill.loss.temperature=%d seed=%d", temperature,
             seed);
    static const char *const ids[] = {"a0", "a1", "a2", "a3", "a4", "a5"};
    m->rows[i] = (kd_child_result){ids[i],      m->label[i], m->values[i],
                                   "succeeded", m->text[i],  (uint64_t)seed};
}

static json_t *make(const struct made *m)
{
    kd_diag diag = {0};
    char *text = NULL;
    kd_assert_ok(kd_sweep_result("ffff", "name", m->rows, m->n, &text, &diag), &diag);
    json_error_t why;
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!o)
        fail_msg("%s in %s", why.text, text);
    free(text);
    return o;
}

static json_t *at(json_t *o, const char *list, size_t i)
{
    json_t *row = json_array_get(json_object_get(o, list), i);
    assert_non_null(row);
    return row;
}

static double real(json_t *o, const char *key)
{
    json_t *v = json_object_get(o, key);
    if (!json_is_number(v))
        fail_msg("%s is missing", key);
    return json_number_value(v);
}

static const char *text(json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void test_sweep_result_groups_over_seeds(void **state)
{
    (void)state;
    struct made *m = kd_xalloc(sizeof *m);
    /* Two temperatures, three seeds; at 2 the student is ever better, at 5 sometimes. */
    add(m, 2, 1, 0.60, 0.50, "", "", 90, 0);
    add(m, 2, 2, 0.70, 0.59, "", "", 0, 90);
    add(m, 2, 3, 0.65, 0.56, "", "", 0, 90);
    add(m, 5, 1, 0.50, 0.50, "", "", 0, 90);
    add(m, 5, 2, 0.61, 0.59, "", "", 0, 90);
    add(m, 5, 3, 0.55, 0.56, "", "", 0, 90);
    json_t *o = make(m);
    assert_string_equal(text(o, "best"), "a1");
    assert_int_equal(json_array_size(json_object_get(o, "children")), 6);
    assert_int_equal(json_array_size(json_object_get(o, "groups")), 2);
    json_t *g = at(o, "groups", 0);
    assert_string_equal(text(g, "label"), "distill.loss.temperature=2");
    assert_int_equal(real(g, "n"), 3);
    kd_assert_close(real(g, "val_mean"), 0.65, 1e-9, 0);
    kd_assert_close(real(g, "difference_mean"), 0.1, 1e-9, 0);
    json_t *interval = json_object_get(g, "difference_interval");
    double half = 4.302652730 * 0.01 / 1.7320508075688772;
    kd_assert_close(json_number_value(json_array_get(interval, 0)), 0.1 - half, 1e-6, 0);
    assert_string_equal(text(g, "gain"), "gain");
    assert_string_equal(text(g, "difference_over"), "seeds");
    assert_null(json_object_get(g, "test_mean"));
    assert_string_equal(text(at(o, "groups", 1), "gain"), "no gain");
    json_t *bank = json_object_get(o, "bank");
    assert_int_equal(real(bank, "asked"), 540);
    assert_int_equal(real(bank, "computed"), 90);
    kd_assert_close(real(bank, "seconds_saved"), 45, 1e-9, 0); /* 450 at 0.1 s */
    json_t *child = at(o, "children", 3);
    assert_string_equal(text(json_object_get(child, "student"), "version"), "last");
    assert_string_equal(text(json_object_get(child, "student"), "digest"), "aa");
    assert_int_equal(real(json_object_get(child, "values"), "distill.loss.temperature"), 5);
    json_decref(o);
    free(m);
}

static void test_sweep_result_selects_on_validation_and_reports_on_test(void **state)
{
    (void)state;
    struct made *m = kd_xalloc(sizeof *m);
    const char *good =
        ",\"test\":{\"accuracy\":0.1},\"test_best\":{\"accuracy\":0.9,\"correct\":9}";
    const char *poor =
        ",\"test\":{\"accuracy\":0.8},\"test_best\":{\"accuracy\":0.4,\"correct\":4}";
    add(m, 2, 1, 0.60, 0.5, good, poor, 0, 0);
    add(m, 5, 1, 0.70, 0.5, poor, good, 0, 0); /* better on validation, worse on test */
    json_t *o = make(m);
    assert_string_equal(text(o, "best"), "a1");
    json_t *student = json_object_get(at(o, "children", 1), "student");
    assert_string_equal(text(student, "version"), "best");
    assert_string_equal(text(student, "digest"), "bb");
    kd_assert_close(real(json_object_get(student, "val"), "accuracy"), 0.8, 1e-9, 0);
    kd_assert_close(real(json_object_get(student, "test"), "accuracy"), 0.4, 1e-9, 0);
    kd_assert_close(real(at(o, "groups", 1), "test_mean"), 0.4, 1e-9, 0);
    kd_assert_close(real(at(o, "groups", 1), "difference_mean"), -0.5, 1e-9, 0);
    /* One seed and no table of pairs for the test split: nothing is said about gain. */
    assert_null(json_object_get(at(o, "groups", 1), "gain"));
    assert_true(json_is_null(json_object_get(at(o, "groups", 1), "difference_interval")));
    json_decref(o);
    free(m);
}

static void test_sweep_result_compares_one_child_over_its_samples(void **state)
{
    (void)state;
    struct made *m = kd_xalloc(sizeof *m);
    add(m, 2, 1, 0.60, 0.5, "", "", 0,
        0); /* pairs: 25 in the student alone, 5 in the twin, of 90 */
    json_t *o = make(m);
    json_t *g = at(o, "groups", 0);
    assert_string_equal(text(g, "difference_over"), "samples");
    kd_assert_close(real(g, "difference_mean"), 20.0 / 90, 1e-9, 0);
    assert_string_equal(text(g, "gain"), "gain");
    json_decref(o);
    free(m);
}

static void test_sweep_result_with_failed_children_and_nonsense(void **state)
{
    (void)state;
    struct made *m = kd_xalloc(sizeof *m);
    add(m, 2, 1, 0.60, 0.70, "", "", 0, 0);
    add(m, 2, 2, 0.60, 0.71, "", "", 0, 0);
    add(m, 2, 3, 0.60, 0.701, "", "", 0, 0);
    m->rows[1].state = "failed";
    m->rows[1].result = NULL;
    json_t *o = make(m);
    assert_string_equal(text(at(o, "children", 1), "state"), "failed");
    assert_null(json_object_get(at(o, "children", 1), "student"));
    assert_int_equal(real(at(o, "groups", 0), "n"), 2);
    assert_string_equal(text(at(o, "groups", 0), "gain"), "loss");
    json_decref(o);
    static const char *const nonsense[] = {"", "[]", "{\"student\":3,\"bank\":[]}",
                                           "{\"student\":{\"accuracy\":\"x\",\"test\":7}}"};
    for (size_t i = 0; i < KD_COUNT(nonsense); i++) {
        m->rows[0].result = nonsense[i];
        m->rows[0].values = nonsense[i];
        json_decref(make(m));
    }
    m->n = 0;
    o = make(m);
    assert_null(json_object_get(o, "best"));
    json_decref(o);
    free(m);
}

static void test_sweep_result_of_many_children_fits_a_message(void **state)
{
    (void)state;
    struct made *m = kd_xalloc(sizeof *m);
    add(m, 2, 1, 0.61234567891, 0.51234567891, "", "", 10, 10);
    kd_child_result *rows = kd_xalloc(256 * sizeof *rows);
    char label[200];
    memset(label, 'x', sizeof label);
    label[sizeof label - 1] = '\0';
    for (int i = 0; i < 256; i++) {
        rows[i] = m->rows[0];
        rows[i].label = label;
    }
    char *out = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_sweep_result("ffff", "name", rows, 256, &out, &diag), &diag);
    assert_true(strlen(out) < 240 << 10);
    free(out);
    free(rows);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sweep_result_groups_over_seeds),
        cmocka_unit_test(test_sweep_result_selects_on_validation_and_reports_on_test),
        cmocka_unit_test(test_sweep_result_compares_one_child_over_its_samples),
        cmocka_unit_test(test_sweep_result_with_failed_children_and_nonsense),
        cmocka_unit_test(test_sweep_result_of_many_children_fits_a_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

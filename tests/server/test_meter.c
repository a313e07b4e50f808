/* What is measured of a stage: phases of a step, curves of bounded length, bytes over restarts. */
#include "kd_test.h"

#include "meter.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS 4

static kd_exchange_io g_io;

/* Commits the step before `version` at 1000 ms after its beginning. */
static void step(kd_meter *m, uint64_t version, double loss)
{
    static const kd_time_ms done[SLOTS] = {700, 100, 400, 200};
    const kd_exchange_course c = {.since = 0, .done_ms = done, .left = 750, .io = &g_io};
    const kd_step_totals t = {.loss = loss * 8, .correct = 4, .samples = 8};
    kd_meter_step(m, version, &t, &c, SLOTS, 1000);
}

static void test_meter_phases(void **state)
{
    (void)state;
    kd_meter *m = kd_xalloc(sizeof *m);
    step(m, 2, 0.5);
    kd_assert_close(m->phases[KD_PHASE_COMPUTE], 0.4, 0, 1e-12);
    kd_assert_close(m->phases[KD_PHASE_WAIT], 0.3, 0, 1e-12);
    kd_assert_close(m->phases[KD_PHASE_RELEASE], 0.05, 0, 1e-12);
    kd_assert_close(m->phases[KD_PHASE_APPLY], 0.25, 0, 1e-12);
    kd_assert_close(m->seconds, 1, 0, 1e-12);
    assert_int_equal(m->step_seconds.in[7], 1); /* up to 1 s */
    free(m);
}

/* Marks that are missing or lie beyond the commit do not make time of their own. */
static void test_meter_odd_marks(void **state)
{
    static const kd_time_ms done[SLOTS] = {0, 0, 5000, 0};
    const kd_exchange_course c = {.since = 100, .done_ms = done, .left = 0, .io = &g_io};
    const kd_step_totals t = {0};
    kd_meter *m = kd_xalloc(sizeof *m);
    (void)state;
    kd_meter_step(m, 2, &t, &c, SLOTS, 300);
    double sum = 0;
    for (int i = 0; i < KD_METER_PHASES; i++) {
        assert_true(m->phases[i] >= 0);
        sum += m->phases[i];
    }
    kd_assert_close(sum, 0.2, 0, 1e-12);
    json_t *o = kd_meter_json(m, "teacher");
    const json_t *curve = json_object_get(o, "curve");
    assert_true(json_is_null(json_array_get(json_object_get(curve, "loss"), 0))); /* no samples */
    json_decref(o);
    free(m);
}

static void test_meter_curve_is_bounded(void **state)
{
    (void)state;
    kd_meter *m = kd_xalloc(sizeof *m);
    const uint64_t steps = 5 * KD_METER_POINTS;
    for (uint64_t v = 2; v < steps + 2; v++) {
        step(m, v, (double)v);
        assert_true(m->n_points < KD_METER_POINTS);
    }
    assert_int_equal(m->stride, 8);
    assert_int_equal(m->steps, steps);
    double all = m->next.steps;
    for (size_t i = 0; i < m->n_points; i++) {
        const kd_meter_point *p = &m->points[i];
        all += p->steps;
        assert_true(i == 0 || p->step == m->points[i - 1].step + 8);
        /* The mean over its steps: versions step - 6 to step + 1. */
        kd_assert_close(p->loss / p->samples, (double)p->step - 2.5, 1e-9, 0);
    }
    assert_true(all == (double)steps);
    json_t *o = kd_meter_json(m, "distill");
    const json_t *curve = json_object_get(o, "curve"), *column;
    const char *name;
    json_object_foreach((json_t *)curve, name, column)
        assert_int_equal(json_array_size(column), m->n_points);
    json_decref(o);
    free(m);
}

/* Steps that are computed again take the place of those before. */
static void test_meter_goes_back(void **state)
{
    (void)state;
    kd_meter *m = kd_xalloc(sizeof *m);
    for (uint64_t v = 2; v <= 11; v++)
        step(m, v, 1);
    step(m, 6, 3);
    assert_int_equal(m->n_points, 5);
    assert_int_equal(m->points[4].step, 5);
    kd_assert_close(m->points[4].loss / m->points[4].samples, 3, 1e-12, 0);
    assert_int_equal(m->steps, 11);
    free(m);
}

static void test_meter_bytes_over_exchanges(void **state)
{
    (void)state;
    kd_meter *m = kd_xalloc(sizeof *m);
    g_io = (kd_exchange_io){.in = {100}, .units = {5}};
    step(m, 2, 1);
    g_io = (kd_exchange_io){.in = {150}, .out = {0, 7}, .units = {9}};
    step(m, 3, 1);
    g_io = (kd_exchange_io){.in = {30}, .units = {2}}; /* another one */
    step(m, 4, 1);
    assert_int_equal(m->io.in[KD_IO_GRADIENTS], 180);
    assert_int_equal(m->io.out[KD_IO_PARAMETERS], 7);
    assert_int_equal(m->io.units[KD_UNIT_OK], 11);
    g_io = (kd_exchange_io){0};
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_meter_phases),
        cmocka_unit_test(test_meter_odd_marks),
        cmocka_unit_test(test_meter_curve_is_bounded),
        cmocka_unit_test(test_meter_goes_back),
        cmocka_unit_test(test_meter_bytes_over_exchanges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

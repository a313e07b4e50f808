/* The operations of which views are made: against torchvision, and where they must be exact. */
#include "data/augment.h"
#include "data/exact.h"
#include "kd_test.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 16, BYTES = 3 * SIZE * SIZE };

/* The same bytes as picture() in tests/golden/make_view_golden.py. */
static void picture(uint8_t out[BYTES])
{
    uint32_t state = 12345;
    for (int y = 0; y < SIZE; y++)
        for (int x = 0; x < SIZE; x++)
            for (int c = 0; c < 3; c++) {
                state = state * 1664525u + 1013904223u;
                int slope = (x * (c + 1) * 5 + y * (3 - c) * 4) % 160;
                *out++ = (uint8_t)(20 + slope + (int)((state >> 24) * 40 / 256));
            }
}

typedef void (*factor_op)(kd_canvas *, int32_t);

static bool apply(kd_canvas *c, const char *op, double value)
{
    static const struct {
        const char *name;
        factor_op apply;
    } factors[] = {{"brightness", kd_augment_brightness},
                   {"contrast", kd_augment_contrast},
                   {"saturation", kd_augment_saturation},
                   {"sharpness", kd_augment_sharpness}};
    static const char *const rand[KD_RAND_OPS] = {
        "identity",    "shear_x",         "shear_y",      "translate_x",   "translate_y",
        "rand_rotate", "rand_brightness", "rand_color",   "rand_contrast", "rand_sharpness",
        "posterize",   "solarize",        "autocontrast", "equalize"};
    for (size_t i = 0; i < KD_COUNT(factors); i++)
        if (strcmp(op, factors[i].name) == 0) {
            factors[i].apply(c, kd_augment_factor(value));
            return true;
        }
    if (strcmp(op, "rotate") == 0) {
        kd_augment_rotate(c, value);
        return true;
    }
    for (int i = 0; i < KD_RAND_OPS; i++)
        if (strcmp(op, rand[i]) == 0) {
            kd_augment_rand(c, (enum kd_rand_op)i, abs((int)value), value < 0);
            return true;
        }
    return false;
}

static void test_view_ops_agree_with_torchvision(void **state)
{
    (void)state;
    json_error_t error;
    json_t *file = json_load_file("tests/golden/views.json", 0, &error), *one, *rgb;
    assert_non_null(file);
    json_t *cases = json_object_get(file, "cases");
    assert_int_equal(json_array_size(cases), 45);
    size_t i, seen = 0;
    json_array_foreach(cases, i, one)
    {
        const char *op;
        double value;
        uint8_t a[BYTES], b[BYTES];
        kd_canvas c = {SIZE, a, b};
        assert_int_equal(
            json_unpack(one, "{s:s, s:F, s:o}", "op", &op, "value", &value, "rgb", &rgb), 0);
        picture(a);
        uint8_t before[BYTES];
        memcpy(before, a, BYTES);
        assert_true(apply(&c, op, value));
        assert_int_equal(json_array_size(rgb), BYTES);
        int worst = 0, changed = 0;
        for (int k = 0; k < BYTES; k++) {
            int want = (int)json_integer_value(json_array_get(rgb, (size_t)k));
            worst = KD_MAX(worst, abs(want - c.now[k]));
            changed += c.now[k] != before[k];
        }
        /* Their sums are in float32 and cut off, ours are in whole numbers. */
        bool exact = strcmp(op, "posterize") == 0 || strcmp(op, "solarize") == 0 ||
                     strcmp(op, "equalize") == 0 || strncmp(op, "translate", 9) == 0;
        if (worst > (exact ? 0 : 1)) {
            print_error("%s %g: off by %d\n", op, value, worst);
            fail();
        }
        seen += changed > BYTES / 20;
    }
    /* All but the factors of one, and solarizing from above the brightest, do something. */
    assert_in_range(seen, 45 - 4 - 3, 45 - 4);
    json_decref(file);
}

static void test_view_ops_leave_well_alone(void **state)
{
    (void)state;
    uint8_t in[BYTES], a[BYTES], b[BYTES];
    picture(in);
    memcpy(a, in, BYTES);
    kd_canvas c = {SIZE, a, b};
    kd_augment_brightness(&c, KD_FACTOR_ONE);
    kd_augment_contrast(&c, KD_FACTOR_ONE);
    kd_augment_saturation(&c, KD_FACTOR_ONE);
    kd_augment_sharpness(&c, KD_FACTOR_ONE);
    kd_augment_rotate(&c, 0);
    kd_augment_posterize(&c, 8);
    kd_augment_rand(&c, KD_RAND_IDENTITY, 30, true);
    for (int op = KD_RAND_SHEAR_X; op <= KD_RAND_POSTERIZE; op++)
        kd_augment_rand(&c, (enum kd_rand_op)op, 0, op % 2 == 0);
    assert_memory_equal(c.now, in, BYTES);
    /* Quarters of a turn are exact; four of them are none. */
    kd_augment_rotate(&c, 90);
    for (int y = 0; y < SIZE; y++)
        for (int x = 0; x < SIZE; x++)
            assert_memory_equal(c.now + 3 * (y * SIZE + x), in + 3 * (x * SIZE + SIZE - 1 - y), 3);
    kd_augment_rotate(&c, -180);
    kd_augment_rotate(&c, 90);
    assert_memory_equal(c.now, in, BYTES);
    /* Grey has no colour to lose, one flat colour nothing to stretch. */
    memset(c.now, 200, BYTES);
    kd_augment_saturation(&c, 0);
    kd_augment_autocontrast(&c);
    kd_augment_equalize(&c);
    kd_augment_contrast(&c, 2 * KD_FACTOR_ONE);
    kd_augment_sharpness(&c, 0);
    for (int i = 0; i < BYTES; i++)
        assert_int_equal(c.now[i], 200);
}

static void test_view_ops_cut_off(void **state)
{
    (void)state;
    uint8_t a[BYTES], b[BYTES];
    kd_canvas c = {SIZE, a, b};
    picture(a);
    kd_augment_brightness(&c, 2 * KD_FACTOR_ONE);
    kd_augment_contrast(&c, 2 * KD_FACTOR_ONE);
    kd_augment_saturation(&c, 2 * KD_FACTOR_ONE);
    kd_augment_sharpness(&c, 2 * KD_FACTOR_ONE);
    int low = 0, high = 0;
    for (int i = 0; i < BYTES; i++) {
        low += c.now[i] == 0;
        high += c.now[i] == 255;
    }
    assert_true(low > 10 && high > 10);
    kd_augment_brightness(&c, 0);
    for (int i = 0; i < BYTES; i++)
        assert_int_equal(c.now[i], 0);
}

static void test_view_ops_cutout(void **state)
{
    (void)state;
    static const struct {
        int x, y, side, x0, y0, x1, y1;
    } cases[] = {{8, 8, 4, 6, 6, 10, 10},  {8, 8, 5, 6, 6, 11, 11}, {0, 15, 6, 0, 12, 3, 16},
                 {15, 0, 1, 15, 0, 16, 1}, {3, 3, 0, 0, 0, 0, 0},   {8, 8, 100, 0, 0, 16, 16}};
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        uint8_t in[BYTES], a[BYTES];
        kd_canvas c = {SIZE, a, NULL};
        picture(in);
        memcpy(a, in, BYTES);
        kd_augment_cutout(&c, cases[i].x, cases[i].y, cases[i].side);
        for (int y = 0; y < SIZE; y++)
            for (int x = 0; x < SIZE; x++) {
                bool inside =
                    x >= cases[i].x0 && x < cases[i].x1 && y >= cases[i].y0 && y < cases[i].y1;
                for (int k = 0; k < 3; k++) {
                    int at = 3 * (y * SIZE + x) + k;
                    assert_int_equal(a[at], inside ? 127 : in[at]);
                }
            }
    }
}

/* Transforms that throw the picture out altogether, with places far outside. */
static void test_view_ops_affine_outside(void **state)
{
    (void)state;
    uint8_t a[BYTES], b[BYTES];
    static const double far[][6] = {{1, 0, 1e6, 0, 1, 0},
                                    {1, 0, 0, 0, 1, -1e6},
                                    {1, 0, 16, 0, 1, 0},
                                    {1, 0, -16, 0, 1, 0},
                                    {0, 0, -3, 0, 0, -3}};
    for (size_t i = 0; i < KD_COUNT(far); i++) {
        kd_canvas c = {SIZE, a, b};
        picture(a);
        kd_augment_affine(&c, far[i]);
        for (int k = 0; k < BYTES; k++)
            assert_int_equal(c.now[k], 0);
    }
    /* A picture of one pixel has no neighbours. */
    uint8_t one[3] = {9, 99, 199}, other[3];
    kd_canvas c = {1, one, other};
    for (int op = 0; op < KD_RAND_OPS; op++)
        kd_augment_rand(&c, (enum kd_rand_op)op, 0, false);
    assert_int_equal(c.now[1], 99);
}

static void test_view_exact_functions(void **state)
{
    (void)state;
    for (int i = -1000; i <= 1000; i++) {
        double s, c, x = i * 0.36;
        kd_exact_sincos(x, &s, &c);
        kd_assert_close(s, sin(x * acos(-1) / 180), 0, 2e-15);
        kd_assert_close(c, cos(x * acos(-1) / 180), 0, 2e-15);
        kd_assert_close(kd_exact_exp(i * 0.7), exp(i * 0.7), 4e-15, 0);
        kd_assert_close(kd_exact_log(exp(i * 0.7)), log(exp(i * 0.7)), 1e-15, 1e-15);
        kd_assert_close(kd_exact_log(1 + i * 1e-4), log(1 + i * 1e-4), 4e-15, 1e-16);
    }
    assert_true(kd_exact_exp(-1e9) == 0 && kd_exact_exp(1e9) == kd_exact_exp(700));
    assert_true(kd_exact_exp(0) == 1 && kd_exact_log(1) == 0);
    double s, c;
    kd_exact_sincos(270, &s, &c);
    assert_true(s == -1 && c == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_view_ops_agree_with_torchvision),
        cmocka_unit_test(test_view_ops_leave_well_alone),
        cmocka_unit_test(test_view_ops_cut_off),
        cmocka_unit_test(test_view_ops_cutout),
        cmocka_unit_test(test_view_ops_affine_outside),
        cmocka_unit_test(test_view_exact_functions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

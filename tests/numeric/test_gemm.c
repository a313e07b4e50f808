/* The products of dense layers against plain loops, to the bit: each sum takes its products in
 * order with one rounding each. Operands both ways around, whole and cut tiles, rows that lie apart
 * with NaN between them. */
#include <math.h>
#include <stdlib.h>

#include "engine/ops/gemm.h"
#include "kd/err.h"
#include "kd/rng.h"
#include "kd_test.h"

static float *numbers(size_t n)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = NAN;
    return x;
}

static void draw(kd_rng *r, float *x, int64_t rows, int64_t columns, int64_t row, int64_t column)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            x[i * row + j * column] = 2 * kd_rng_float(r) - 1;
}

static void check(int64_t m, int64_t n, int64_t k, bool turned)
{
    enum { APART = 3 };
    kd_rng r;
    kd_rng_init(&r, 4, KD_RNG_TEST, (uint64_t)(m * 1000 + n), (uint64_t)k);
    const int64_t b_row = n + APART, c_row = n + APART;
    const int64_t a_row = turned ? 1 : k + APART, a_column = turned ? m + APART : 1;
    float *a = numbers((size_t)((m + APART) * (k + APART))), *b = numbers((size_t)(k * b_row));
    float *c = numbers((size_t)(m * c_row));
    draw(&r, a, m, k, a_row, a_column);
    draw(&r, b, k, n, b_row, 1);
    kd_gemm_run(&(kd_gemm){m, n, k, a, a_row, a_column, b, b_row, c, c_row});
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            float sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum = fmaf(a[i * a_row + l * a_column], b[l * b_row + j], sum);
            if (c[i * c_row + j] != sum)
                fail_msg("%ld x %ld x %ld: (%ld, %ld) is %g, not %g", (long)m, (long)n, (long)k,
                         (long)i, (long)j, (double)c[i * c_row + j], (double)sum);
        }
        for (int64_t j = n; j < c_row; j++)
            assert_true(isnan(c[i * c_row + j])); /* nothing is written beside the result */
    }
    free(a);
    free(b);
    free(c);
}

static void test_products_are_those_of_plain_loops(void **state)
{
    (void)state;
    static const int64_t rows[] = {1, 5, 6, 7, 12, 20}, depths[] = {1, 2, 37};
    static const int64_t columns[] = {1, 15, 16, 17, 32, 40, 63, 64, 65, 130};
    for (size_t i = 0; i < KD_COUNT(rows); i++)
        for (size_t j = 0; j < KD_COUNT(columns); j++)
            for (size_t l = 0; l < KD_COUNT(depths); l++) {
                check(rows[i], columns[j], depths[l], false);
                check(rows[i], columns[j], depths[l], true);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products_are_those_of_plain_loops),
    };
    if (!kd_gemm_supported()) {
        print_message("skipped: this processor has no AVX-512\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "data/data.h"
#include "kd_test.h"

#include <stdlib.h>
#include <string.h>

static void test_sampler_is_a_permutation(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 2, 7, 1000};
    for (size_t i = 0; i < KD_COUNT(sizes); i++) {
        size_t n = sizes[i];
        uint32_t *order = kd_xalloc((n + 1) * sizeof *order);
        uint8_t *seen = kd_xalloc(n + 1);
        order[n] = 0xABCD;
        kd_sampler_order(5, 2, n, order);
        for (size_t k = 0; k < n; k++) {
            assert_true(order[k] < n);
            assert_false(seen[order[k]]);
            seen[order[k]] = 1;
        }
        assert_int_equal(order[n], 0xABCD);
        free(order);
        free(seen);
    }
}

static void test_sampler_depends_on_seed_and_epoch(void **state)
{
    (void)state;
    uint32_t a[100], b[100];
    kd_sampler_order(1, 0, 100, a);
    kd_sampler_order(1, 0, 100, b);
    assert_memory_equal(a, b, sizeof a);
    kd_sampler_order(1, 1, 100, b);
    assert_memory_not_equal(a, b, sizeof a);
    kd_sampler_order(2, 0, 100, b);
    assert_memory_not_equal(a, b, sizeof a);
}

/* Pinned: another order would make stored jobs go on differently after an update. */
static void test_sampler_order_is_pinned(void **state)
{
    (void)state;
    static const uint32_t want[8] = {4, 2, 5, 6, 0, 7, 1, 3};
    uint32_t order[8];
    kd_sampler_order(1, 0, 8, order);
    assert_memory_equal(order, want, sizeof want);
}

/* Four things have 24 orders; over 24000 epochs each is expected 1000 times, standard deviation 31.
 */
static void test_sampler_is_fair(void **state)
{
    (void)state;
    int count[256] = {0};
    for (uint32_t epoch = 0; epoch < 24000; epoch++) {
        uint32_t o[4];
        kd_sampler_order(42, epoch, 4, o);
        count[o[0] | o[1] << 2 | o[2] << 4 | o[3] << 6]++;
    }
    int kinds = 0;
    for (int i = 0; i < 256; i++)
        if (count[i]) {
            kinds++;
            assert_in_range(count[i], 1000 - 6 * 31, 1000 + 6 * 31);
        }
    assert_int_equal(kinds, 24);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampler_is_a_permutation),
        cmocka_unit_test(test_sampler_depends_on_seed_and_epoch),
        cmocka_unit_test(test_sampler_order_is_pinned),
        cmocka_unit_test(test_sampler_is_fair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

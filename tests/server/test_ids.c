/* The table of ids against a plain list. */
#include "kd_test.h"

#include "ids.h"

#include "kd/rng.h"

enum { MOST = 3000, IDS = 6000 };

static void test_ids_are_those_of_a_list(void **state)
{
    (void)state;
    static uint64_t ids[MOST];
    static char values[IDS + 1]; /* an id's is that of its number */
    size_t n = 0;
    kd_ids t = {0};
    kd_rng r;
    kd_rng_init(&r, 7, KD_RNG_TEST, 0, 0);
    assert_null(kd_ids_find(&t, 5));
    kd_ids_remove(&t, 5);
    for (int turn = 0; turn < 60000; turn++) {
        bool add = n == 0 || (n < MOST && kd_rng_float(&r) < (turn < 30000 ? 0.6f : 0.4f));
        if (add) {
            /* Neighbours, so that runs grow long. */
            uint64_t id = 1 + kd_rng_below(&r, IDS);
            bool there = kd_ids_find(&t, id) != NULL;
            size_t k = 0;
            while (k < n && ids[k] != id)
                k++;
            assert_int_equal(there, k < n);
            if (there)
                continue;
            ids[n++] = id;
            kd_ids_add(&t, id, &values[id]);
        } else {
            size_t k = (size_t)(kd_rng_float(&r) * (float)n) % n;
            kd_ids_remove(&t, ids[k]);
            assert_null(kd_ids_find(&t, ids[k]));
            ids[k] = ids[--n];
        }
        assert_int_equal(t.n, n);
        if (turn % 997 == 0)
            for (size_t k = 0; k < n; k++)
                assert_ptr_equal(kd_ids_find(&t, ids[k]), &values[ids[k]]);
    }
    while (n > 0)
        kd_ids_remove(&t, ids[--n]);
    for (size_t i = 0; i < t.cap; i++)
        assert_int_equal(t.entries[i].id, 0);
    kd_ids_clear(&t);
    assert_int_equal(t.cap, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ids_are_those_of_a_list)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

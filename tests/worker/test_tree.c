/* The reduction tree: whoever adds which slots, the root has the same bits. */
#include "kd_test.h"

#include "kd/bfloat16.h"
#include "kd/rng.h"
#include "tree.h"

#include <stdlib.h>
#include <string.h>

#define FLOATS 37

static void fill(float *g, kd_tree_sums *s, uint32_t slot)
{
    kd_rng r;
    kd_rng_init(&r, 11, KD_RNG_TEST, slot, 0);
    for (int i = 0; i < FLOATS; i++)
        g[i] = (float)(kd_rng_normal(&r) * (i % 3 ? 1e-6 : 1e4));
    *s = (kd_tree_sums){.loss = kd_rng_normal(&r), .correct = (double)(slot % 3), .samples = 1};
    for (int i = 0; i < KD_TERM_SUMS; i++)
        s->terms[i] = kd_rng_normal(&r);
}

static void test_cover_is_exact_and_maximal(void **state)
{
    (void)state;
    for (uint32_t slots = 1; slots <= 64; slots *= 2)
        for (uint32_t first = 0; first <= slots; first++)
            for (uint32_t count = 0; first + count <= slots; count++) {
                uint32_t nodes[64];
                int n = kd_tree_cover(slots, first, count, nodes);
                uint32_t at = first;
                for (int i = 0; i < n; i++) {
                    uint32_t lo = nodes[i], width = 1;
                    while (lo < slots) {
                        lo *= 2;
                        width *= 2;
                    }
                    assert_int_equal(lo - slots, at); /* left to right, without a gap */
                    at += width;
                    /* Two siblings in the cover would have been their parent. */
                    if (i > 0)
                        assert_false(nodes[i] == (nodes[i - 1] ^ 1u) && (nodes[i] & 1));
                }
                assert_int_equal(at, first + count);
            }
}

/* Adds slots in a random order; returns what the wanted nodes came out as. */
static void reduce(uint32_t slots, bool bfloat16, uint32_t first, uint32_t count, uint64_t seed,
                   float *nodes, kd_tree_sums *sums)
{
    uint32_t cover[64], order[64];
    int n = kd_tree_cover(slots, first, count, cover), done = 0;
    kd_reducer *r = kd_reducer_new(slots, FLOATS, bfloat16);
    kd_reducer_start(r);
    kd_reducer_want(r, cover, n);
    kd_rng rng;
    kd_rng_init(&rng, seed, KD_RNG_TEST, 1, 0);
    for (uint32_t i = 0; i < count; i++)
        order[i] = first + i;
    for (uint32_t i = count; i > 1; i--) {
        uint32_t k = kd_rng_below(&rng, i), t = order[k];
        order[k] = order[i - 1];
        order[i - 1] = t;
    }
    for (uint32_t i = 0; i < count; i++) {
        float *g = kd_reducer_take(r);
        kd_tree_sums s, out;
        uint32_t node = 0;
        fill(g, &s, order[i]);
        if (bfloat16)
            kd_bfloat16_round(g, FLOATS);
        float *whole = kd_reducer_add(r, order[i], g, &s, &node, &out);
        if (whole) {
            memcpy(nodes + (size_t)node * FLOATS, whole, FLOATS * sizeof *nodes);
            sums[node] = out;
            kd_reducer_give(r, whole);
            done++;
        }
    }
    assert_int_equal(done, n);
    kd_reducer_free(r);
}

/* The node as the coordinator has it: as it would be, were it sent. */
static void travel(float *node)
{
    uint16_t halves[FLOATS];
    float there[FLOATS];
    kd_bfloat16_pack(node, FLOATS, halves);
    kd_bfloat16_unpack(halves, FLOATS, there);
    assert_memory_equal(there, node, sizeof there);
}

/* What the coordinator does with the nodes of all workers. */
static void complete(uint32_t slots, bool bfloat16, uint32_t node, const bool *have, float *nodes,
                     kd_tree_sums *sums)
{
    float *sum = nodes + (size_t)node * FLOATS;
    if (have[node]) {
        if (bfloat16)
            travel(sum);
        return;
    }
    assert_true(node < slots);
    complete(slots, bfloat16, 2 * node, have, nodes, sums);
    complete(slots, bfloat16, 2 * node + 1, have, nodes, sums);
    const float *a = nodes + (size_t)2 * node * FLOATS, *b = a + FLOATS;
    for (int i = 0; i < FLOATS; i++)
        sum[i] = a[i] + b[i];
    if (bfloat16)
        kd_bfloat16_round(sum, FLOATS);
    sums[node].loss = sums[2 * node].loss + sums[2 * node + 1].loss;
}

static void divide(bool bfloat16)
{
    enum { SLOTS = 32 };
    float *want = kd_xalloc(2 * SLOTS * FLOATS * sizeof *want);
    float *got = kd_xalloc(2 * SLOTS * FLOATS * sizeof *got);
    kd_tree_sums want_sums[2 * SLOTS], got_sums[2 * SLOTS];
    reduce(SLOTS, bfloat16, 0, SLOTS, 1, want, want_sums);
    kd_rng rng;
    kd_rng_init(&rng, 5, KD_RNG_TEST, 2, 0);
    for (int round = 0; round < 300; round++) {
        bool have[2 * SLOTS] = {0};
        for (uint32_t first = 0; first < SLOTS;) {
            uint32_t count = 1 + kd_rng_below(&rng, SLOTS - first), cover[64];
            reduce(SLOTS, bfloat16, first, count, (uint64_t)round, got, got_sums);
            int n = kd_tree_cover(SLOTS, first, count, cover);
            for (int i = 0; i < n; i++)
                have[cover[i]] = true;
            first += count;
        }
        complete(SLOTS, bfloat16, 1, have, got, got_sums);
        assert_memory_equal(got + FLOATS, want + FLOATS, FLOATS * sizeof *got);
        assert_memory_equal(&got_sums[1].loss, &want_sums[1].loss, sizeof(double));
    }
    free(want);
    free(got);
}

static void test_any_division_gives_the_same_bits(void **state)
{
    (void)state;
    divide(false);
}

/* Any node may have to be sent for some number of workers, so each has the bits that it has there.
 */
static void test_any_division_gives_the_same_bits_in_bfloat16(void **state)
{
    (void)state;
    divide(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cover_is_exact_and_maximal),
        cmocka_unit_test(test_any_division_gives_the_same_bits),
        cmocka_unit_test(test_any_division_gives_the_same_bits_in_bfloat16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

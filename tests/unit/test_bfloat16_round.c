/* Rounding to bfloat16: nearest, ties to even, against the definition; what must not be lost on the
 * way (sign, subnormals, infinity) is not. */
#include "kd_test.h"

#include "kd/bfloat16.h"
#include "kd/rng.h"

#include <math.h>
#include <string.h>

static float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static uint32_t rounded(float x)
{
    uint32_t u;
    kd_bfloat16_round(&x, 1);
    memcpy(&u, &x, sizeof u);
    return u;
}

static void test_bfloat16_known(void **state)
{
    (void)state;
    static const struct {
        uint32_t in, out;
    } rows[] = {
        {0x3f800000, 0x3f800000}, /* 1 */
        {0x3f808000, 0x3f800000}, /* 1 + 2^-8: a tie, to the even one below */
        {0x3f818000, 0x3f820000}, /* a tie, to the even one above */
        {0x3f808001, 0x3f810000}, /* past the tie */
        {0x3f807fff, 0x3f800000}, /* before it */
        {0xbf808001, 0xbf810000}, /* signs are kept */
        {0x80000000, 0x80000000}, /* -0 */
        {0x00000001, 0x00000000}, /* least subnormal float32 */
        {0x00018000, 0x00020000}, /* subnormal numbers are numbers: a tie */
        {0x007f0000, 0x007f0000}, /* largest subnormal bfloat16 */
        {0x007fffff, 0x00800000}, /* up to the least normal one */
        {0x7f7f0000, 0x7f7f0000}, /* largest bfloat16 */
        {0x7f7f7fff, 0x7f7f0000}, {0x7f7f8000, 0x7f800000}, /* beyond it: infinity */
        {0x7f800000, 0x7f800000}, {0xff800000, 0xff800000}, /* infinities */
        {0x7f800001, 0x7fc00000}, {0xffc12345, 0x7fc00000}, {0xffffffff, 0x7fc00000}, /* NaNs */
    };
    for (size_t i = 0; i < KD_COUNT(rows); i++)
        assert_int_equal(rounded(float_of(rows[i].in)), rows[i].out);
}

/* Nobody is nearer, and of two that are as near it is the even one. */
static void test_bfloat16_nearest(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 3, KD_RNG_TEST, 1, 0);
    for (int i = 0; i < 200000; i++) {
        uint32_t u = (uint32_t)kd_rng_below(&r, 0x10000) << 16 | kd_rng_below(&r, 0x10000);
        float x = float_of(u);
        if (!isfinite(x) || fabsf(x) > 0x1.fep127f)
            continue;
        uint32_t got = rounded(x);
        assert_int_equal(got & 0xffff, 0);
        double off = fabs((double)float_of(got) - (double)x);
        double below = fabs((double)float_of(u & 0xffff0000u) - (double)x);
        double above = fabs((double)float_of((u & 0xffff0000u) + 0x10000) - (double)x);
        assert_true(off <= below && off <= above);
        assert_true(below != above || (got >> 16) % 2 == 0);
    }
}

/* All ways to the same sum give the same bits, whatever the numbers and their place in memory. */
static void test_bfloat16_sums(void **state)
{
    (void)state;
    enum { N = 101 };
    kd_rng r;
    kd_rng_init(&r, 4, KD_RNG_TEST, 1, 0);
    for (int round = 0; round < 100; round++) {
        float a[N], b[N], x[N], y[N];
        uint16_t halves[N];
        uint8_t moved[2 * N + 1];
        for (int i = 0; i < N; i++) {
            a[i] = float_of((uint32_t)kd_rng_below(&r, 0x10000) << 16);
            b[i] = float_of((uint32_t)kd_rng_below(&r, 0x10000) << 16);
        }
        kd_bfloat16_round(a, N); /* one NaN */
        kd_bfloat16_round(b, N);
        kd_bfloat16_pack(b, N, halves);
        memcpy(moved + 1, halves, sizeof halves);
        kd_bfloat16_unpack(moved + 1, N, y);
        assert_memory_equal(y, b, sizeof b);
        memcpy(x, a, sizeof a);
        kd_bfloat16_add(x, b, N);
        kd_bfloat16_add(y, a, N);
        assert_memory_equal(x, y, sizeof x);
        kd_bfloat16_add_packed(a, moved + 1, N);
        assert_memory_equal(x, a, sizeof x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bfloat16_known),
        cmocka_unit_test(test_bfloat16_nearest),
        cmocka_unit_test(test_bfloat16_sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

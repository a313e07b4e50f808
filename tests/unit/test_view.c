#include "data/data.h"
#include "kd_test.h"

#include <string.h>

enum { SIZE = 8, BYTES = SIZE * SIZE * 3 };

/* Every pixel differs from all others and from padding. */
static void fill(uint8_t in[BYTES])
{
    for (int i = 0; i < SIZE * SIZE; i++) {
        in[3 * i] = (uint8_t)(1 + i);
        in[3 * i + 1] = (uint8_t)(100 + i);
        in[3 * i + 2] = (uint8_t)(255 - i);
    }
}

/* The plain form: what a view with shift (dx, dy) must be. */
static bool is_view(const uint8_t *in, const uint8_t *out, int dx, int dy, bool flip)
{
    for (int y = 0; y < SIZE; y++)
        for (int x = 0; x < SIZE; x++) {
            int sx = (flip ? SIZE - 1 - x : x) + dx, sy = y + dy;
            bool inside = sx >= 0 && sy >= 0 && sx < SIZE && sy < SIZE;
            for (int c = 0; c < 3; c++)
                if (out[3 * (y * SIZE + x) + c] != (inside ? in[3 * (sy * SIZE + sx) + c] : 0))
                    return false;
        }
    return true;
}

static void test_view_without_rule_is_the_picture(void **state)
{
    (void)state;
    uint8_t in[BYTES], out[BYTES];
    fill(in);
    kd_view_rule rule = {.size = SIZE, .seed = 3};
    for (uint32_t view = 0; view < 20; view++) {
        memset(out, 0xEE, sizeof out);
        kd_view_make(&rule, 5, view, in, out);
        assert_memory_equal(in, out, BYTES);
    }
}

static void test_view_flips_half(void **state)
{
    (void)state;
    uint8_t in[BYTES], out[BYTES];
    fill(in);
    kd_view_rule rule = {.size = SIZE, .seed = 3, .flip = true};
    int flipped = 0;
    for (size_t sample = 0; sample < 1000; sample++) {
        kd_view_make(&rule, sample, 1, in, out);
        bool same = is_view(in, out, 0, 0, false), mirrored = is_view(in, out, 0, 0, true);
        assert_true(same != mirrored);
        flipped += mirrored;
    }
    /* 1000 fair coins: outside 420..580 with probability below 1e-6. */
    assert_in_range(flipped, 420, 580);
}

static void test_view_crops_everywhere(void **state)
{
    (void)state;
    uint8_t in[BYTES], out[BYTES];
    fill(in);
    kd_view_rule rule = {.size = SIZE, .seed = 9, .flip = true, .crop_pad = 2};
    int seen[2][5][5] = {0};
    for (size_t sample = 0; sample < 1500; sample++) {
        kd_view_make(&rule, sample, 0, in, out);
        int found = 0;
        for (int flip = 0; flip < 2; flip++)
            for (int dy = -2; dy <= 2; dy++)
                for (int dx = -2; dx <= 2; dx++)
                    if (is_view(in, out, dx, dy, flip)) {
                        found++;
                        seen[flip][dy + 2][dx + 2]++;
                    }
        assert_int_equal(found, 1);
    }
    /* Fifty places, thirty hits each on average: a missed one has probability below 1e-11. */
    for (int i = 0; i < 50; i++)
        assert_true((&seen[0][0][0])[i] > 0);
}

/* Padding wider than the picture may leave nothing of it. */
static void test_view_pad_beyond_size(void **state)
{
    (void)state;
    uint8_t in[BYTES], out[BYTES];
    fill(in);
    kd_view_rule rule = {.size = SIZE, .seed = 1, .flip = true, .crop_pad = 3 * SIZE};
    for (uint32_t view = 0; view < 300; view++) {
        int found = 0;
        kd_view_make(&rule, 0, view, in, out);
        for (int dy = -24; dy <= 24; dy++)
            for (int dx = -24; dx <= 24; dx++)
                found += is_view(in, out, dx, dy, false) || is_view(in, out, dx, dy, true);
        assert_true(found > 0);
    }
}

static void test_view_depends_on_its_name_only(void **state)
{
    (void)state;
    uint8_t in[BYTES], a[BYTES], b[BYTES];
    fill(in);
    kd_view_rule rule = {.size = SIZE, .seed = 7, .flip = true, .crop_pad = 3};
    int differ[3] = {0};
    for (size_t sample = 0; sample < 200; sample++) {
        kd_view_make(&rule, sample, 4, in, a);
        kd_view_make(&rule, sample + 1, 4, in, b);
        differ[0] += memcmp(a, b, BYTES) != 0;
        kd_view_make(&rule, sample, 5, in, b);
        differ[1] += memcmp(a, b, BYTES) != 0;
        kd_view_rule other = rule;
        other.seed = 8;
        kd_view_make(&other, sample, 4, in, b);
        differ[2] += memcmp(a, b, BYTES) != 0;
        kd_view_make(&rule, sample, 4, in, b);
        assert_memory_equal(a, b, BYTES);
    }
    /* 98 equally likely views: fewer than 150 of 200 differing is out of the question. */
    for (int i = 0; i < 3; i++)
        assert_true(differ[i] > 150);
}

static void test_view_to_float(void **state)
{
    (void)state;
    const uint8_t rgb[6] = {0, 255, 128, 51, 102, 204};
    float out[6];
    kd_view_to_float(0, rgb, 2, out);
    for (int i = 0; i < 6; i++)
        kd_assert_close(out[i], rgb[i] / 255.0, 1e-7, 0);
    kd_view_to_float(1, rgb, 2, out);
    for (int i = 0; i < 6; i++)
        kd_assert_close(out[i], rgb[i] / 127.5 - 1, 0, 1e-7);
    kd_view_to_float(2, rgb, 2, out);
    const double mean[3] = {0.485, 0.456, 0.406}, std[3] = {0.229, 0.224, 0.225};
    for (int i = 0; i < 6; i++)
        kd_assert_close(out[i], (rgb[i] / 255.0 - mean[i % 3]) / std[i % 3], 1e-6, 1e-6);
}

static void test_view_rule_text(void **state)
{
    (void)state;
    char a[KD_VIEW_TEXT_MAX], b[KD_VIEW_TEXT_MAX];
    kd_view_rule rule = {.size = 224, .seed = UINT64_MAX, .flip = true, .crop_pad = 6};
    kd_view_rule_text(&rule, 1, a, sizeof a);
    assert_string_equal(a, "view 1 size 224 flip 1 crop 6 preprocess symmetric seed "
                           "18446744073709551615");
    kd_view_rule plain = {.size = 224, .seed = 1}, other = {.size = 224, .seed = 2};
    kd_view_rule_text(&plain, 0, a, sizeof a);
    kd_view_rule_text(&other, 0, b, sizeof b);
    assert_string_equal(a, b);
    kd_view_rule_text(&other, 2, b, sizeof b);
    assert_string_not_equal(a, b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_view_without_rule_is_the_picture),
        cmocka_unit_test(test_view_flips_half),
        cmocka_unit_test(test_view_crops_everywhere),
        cmocka_unit_test(test_view_pad_beyond_size),
        cmocka_unit_test(test_view_depends_on_its_name_only),
        cmocka_unit_test(test_view_to_float),
        cmocka_unit_test(test_view_rule_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "data/data.h"
#include "kd/hash.h"
#include "kd_test.h"

#include <math.h>
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

static kd_view_rule everything(void)
{
    return (kd_view_rule){.size = SIZE,
                          .seed = 8,
                          .flip = true,
                          .crop_pad = 1,
                          .resized_crop = 0.5,
                          .resized_crop_ratio = 4.0 / 3,
                          .rotate = 10,
                          .brightness = 0.2,
                          .contrast = 0.2,
                          .saturation = 0.2,
                          .randaugment_n = 2,
                          .randaugment_m = 9,
                          .cutout = 3,
                          .mixup = 0.8,
                          .cutmix = 1,
                          .mix_probability = 1};
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

/* Pinned: flips and crops have been these since the first bank was filled. */
static void test_view_flips_and_crops_are_pinned(void **state)
{
    (void)state;
    static const struct {
        kd_view_rule rule;
        const char *digest;
    } pinned[] = {{{.flip = true, .crop_pad = 3, .size = SIZE, .seed = 7},
                   "1494b0db0171459a3df1ee326468d181"},
                  {{.flip = true, .size = SIZE, .seed = 9}, "e851b72a69603385d5b719f7df786fe5"},
                  {{.crop_pad = 5, .size = SIZE, .seed = 11}, "f37c2ca7f8913a53d224bae5dfd344c0"}};
    for (size_t r = 0; r < KD_COUNT(pinned); r++) {
        static uint8_t in[BYTES], out[50 * BYTES];
        char hex[KD_DIGEST_HEX];
        for (int i = 0; i < BYTES; i++)
            in[i] = (uint8_t)(i * 37 + 11);
        for (uint32_t k = 0; k < 50; k++)
            kd_view_make(&pinned[r].rule, 1000 + (size_t)k * k, k % 7, in, out + BYTES * k);
        kd_digest d = kd_digest_of(out, sizeof out);
        kd_digest_hex(&d, hex);
        assert_string_equal(hex, pinned[r].digest);
    }
}

static void test_view_clean_is_the_picture(void **state)
{
    (void)state;
    uint8_t in[BYTES], out[BYTES];
    fill(in);
    kd_view_rule rule = everything();
    kd_view_make(&rule, 5, KD_VIEW_CLEAN, in, out);
    assert_memory_equal(in, out, BYTES);
    kd_view_mix mix;
    kd_view_mix_of(&rule, 5, KD_VIEW_CLEAN, 100, &mix);
    assert_int_equal(mix.kind, KD_MIX_NONE);
}

/* Each augmentation alone: what it does to a picture is not nothing, depends on (seed, sample,
 * view), and comes out the same when it is asked for again. The digests pin the bits. */
static void test_view_each_augmentation(void **state)
{
    (void)state;
    static const struct {
        kd_view_rule rule;
        int at_least; /* of 400 views that differ from the picture */
        const char *digest;
    } each[] = {
        {{.resized_crop = 0.3, .resized_crop_ratio = 1.5}, 380, "ca441e4109be282a297c3389e2a405b8"},
        {{.rotate = 25}, 390, "3dc8594922eb34e3fb389e2f608643d5"},
        {{.brightness = 0.4}, 380, "15f695f45e78b8a6d429db3fa9cf9a42"},
        {{.contrast = 0.4}, 380, "52221481e9cd2382060623a6db67969f"},
        {{.saturation = 0.4}, 380, "cad1ec42c52e07a78e56b9fe0a4feb0c"},
        {{.brightness = 0.4, .contrast = 0.4, .saturation = 0.4},
         390,
         "81cf7d67a95afa9c88546687273dfed7"},
        {{.randaugment_n = 2, .randaugment_m = 12}, 330, "428290fe92f1d71727dafad2460818c3"},
        {{.cutout = 4}, 400, "6bb8c2b125081a23e2819e5cdde0abcf"},
    };
    for (size_t i = 0; i < KD_COUNT(each); i++) {
        static uint8_t in[BYTES], out[400 * BYTES], again[BYTES];
        kd_view_rule rule = each[i].rule;
        int changed = 0, like_last = 0, like_other_seed = 0;
        rule.size = SIZE;
        rule.seed = 21;
        fill(in);
        for (uint32_t k = 0; k < 400; k++) {
            uint8_t *now = out + BYTES * k;
            kd_view_make(&rule, k / 2, k % 2, in, now);
            changed += memcmp(in, now, BYTES) != 0;
            like_last += k > 0 && memcmp(now - BYTES, now, BYTES) == 0;
            rule.seed = 22;
            kd_view_make(&rule, k / 2, k % 2, in, again);
            like_other_seed += memcmp(again, now, BYTES) == 0;
            rule.seed = 21;
            kd_view_make(&rule, k / 2, k % 2, in, again);
            assert_memory_equal(again, now, BYTES);
        }
        assert_in_range(changed, each[i].at_least, 400);
        assert_in_range(like_last, 0, 30);
        assert_in_range(like_other_seed, 0, 30);
        char hex[KD_DIGEST_HEX];
        kd_digest d = kd_digest_of(out, sizeof out);
        kd_digest_hex(&d, hex);
        assert_string_equal(hex, each[i].digest);
    }
}

/* Turning one augmentation on leaves what the others draw alone: a view that is cut out as well is
 * the other one but for the grey square. */
static void test_view_streams_are_apart(void **state)
{
    (void)state;
    uint8_t in[BYTES], a[BYTES], b[BYTES];
    kd_view_rule rule = everything(), less = rule;
    less.cutout = 0;
    fill(in);
    for (size_t sample = 0; sample < 100; sample++) {
        int grey = 0;
        kd_view_make(&rule, sample, 3, in, a);
        kd_view_make(&less, sample, 3, in, b);
        for (int i = 0; i < BYTES; i++)
            if (a[i] != b[i]) {
                assert_int_equal(a[i], 127);
                grey++;
            }
        assert_in_range(grey, 1, 27); /* 3x3 pixels at most */
    }
}

/* Means and spreads over many views, on pictures for which the right answer is known. */
static void test_view_statistics(void **state)
{
    (void)state;
    enum { N = 4000 };
    uint8_t in[BYTES], out[BYTES];
    /* Brightness: grey 100 becomes 100 f, f uniform from 0.6 to 1.4. */
    memset(in, 100, BYTES);
    kd_view_rule rule = {.size = SIZE, .seed = 5, .brightness = 0.4};
    double sum = 0, squares = 0;
    for (size_t i = 0; i < N; i++) {
        kd_view_make(&rule, i, 0, in, out);
        assert_in_range(out[0], 59, 140);
        sum += out[0];
        squares += (double)out[0] * out[0];
    }
    double mean = sum / N, spread = sqrt(squares / N - mean * mean);
    kd_assert_close(mean, 99.5, 0, 2.2); /* standard error 0.37 */
    kd_assert_close(spread, 80 / sqrt(12), 0, 1.2);
    /* Resized crop: of a slope 1 level a pixel wide, the mean tells the middle of the box and the
     * steepness its width. */
    enum { WIDE = 64 };
    static uint8_t slope[3 * WIDE * WIDE], cut[3 * WIDE * WIDE];
    for (int i = 0; i < 3 * WIDE * WIDE; i++)
        slope[i] = (uint8_t)(3 * (i / 3 % WIDE));
    kd_view_rule crop = {.size = WIDE, .seed = 6, .resized_crop = 0.25, .resized_crop_ratio = 1};
    double area = 0, middle = 0;
    for (size_t i = 0; i < 1000; i++) {
        kd_view_make(&crop, i, 0, slope, cut);
        double side = (cut[3 * (WIDE - 1)] - cut[0]) / 3.0 + 1;
        assert_true(side > 29 && side < 66);
        area += side * side / (WIDE * WIDE);
        middle += cut[3 * WIDE / 2] / 3.0;
    }
    kd_assert_close(area / 1000, 0.625, 0, 0.03); /* uniform from 0.25 to 1 */
    kd_assert_close(middle / 1000, 31.5, 0, 1.5);
    /* Rotation: where the middle of the right edge goes. */
    kd_view_rule turn = {.size = WIDE, .seed = 7, .rotate = 30};
    memset(slope, 0, sizeof slope);
    for (int y = 30; y < 34; y++)
        memset(slope + 3 * (y * WIDE + 52), 255, 12);
    double up = 0, far = 0;
    for (size_t i = 0; i < 500; i++) {
        double weight = 0, place = 0;
        kd_view_make(&turn, i, 0, slope, cut);
        for (int k = 0; k < WIDE * WIDE; k++) {
            weight += cut[3 * k];
            place += cut[3 * k] * (k / WIDE - 31.5);
        }
        place /= weight;
        assert_true(fabs(place) < 22 * 0.5 + 0.5); /* sin 30 */
        up += place;
        far += fabs(place);
    }
    kd_assert_close(up / 500, 0, 0, 1.4); /* standard error 0.29 */
    kd_assert_close(far / 500, 22 * (1 - cos(acos(-1) / 6)) / (acos(-1) / 6), 0, 0.8);
}

/* Rates of RandAugment's operations, told apart by what they do to one picture. */
static void test_view_randaugment_draws_all(void **state)
{
    (void)state;
    enum { N = 2800 };
    uint8_t in[BYTES], out[BYTES];
    static uint8_t kinds[64][BYTES];
    int count[64] = {0}, n = 0;
    fill(in);
    kd_view_rule rule = {.size = SIZE, .seed = 3, .randaugment_n = 1, .randaugment_m = 17};
    for (size_t i = 0; i < N; i++) {
        int k = 0;
        kd_view_make(&rule, i, 0, in, out);
        while (k < n && memcmp(kinds[k], out, BYTES) != 0)
            k++;
        if (k == n) {
            assert_true(n < 64);
            memcpy(kinds[n++], out, BYTES);
        }
        count[k]++;
    }
    /* Nine operations have two directions, five none. Some may do the same to this picture. */
    assert_in_range(n, 20, 23);
    for (int k = 0; k < n; k++)
        assert_in_range(count[k], 60, 700);
    rule.randaugment_m = 0;
    kd_view_make(&rule, 1, 0, in, out);
}

/* ---- mixing */

static void test_view_mix_statistics(void **state)
{
    (void)state;
    enum { N = 4000, TRAIN = 50 };
    static const double alphas[] = {0.2, 1, 3};
    for (size_t a = 0; a < KD_COUNT(alphas); a++) {
        kd_view_rule rule = {.size = 224, .seed = 4, .mixup = alphas[a], .mix_probability = 0.7};
        int mixed = 0, hits[TRAIN] = {0};
        double sum = 0, squares = 0;
        for (uint32_t i = 0; i < N; i++) {
            kd_view_mix mix, same;
            size_t sample = i % TRAIN;
            kd_view_mix_of(&rule, sample, i / TRAIN, TRAIN, &mix);
            kd_view_mix_of(&rule, sample, i / TRAIN, TRAIN, &same);
            assert_memory_equal(&mix, &same, sizeof mix);
            if (mix.kind == KD_MIX_NONE) {
                assert_true(mix.share == 1 && mix.partner == sample);
                continue;
            }
            assert_int_equal(mix.kind, KD_MIX_UP);
            assert_true(mix.partner < TRAIN && mix.partner != sample);
            assert_true(mix.share >= 0.5 && mix.share < 1);
            hits[mix.partner]++;
            mixed++;
            sum += mix.share - 0.5;
            squares += (mix.share - 0.5) * (mix.share - 0.5);
        }
        /* The variance of Beta(a, a) is 1 / (4 (2a + 1)); that of its distance from 1/2 about 0
         * is the same. At 0.2 a share of 1 is frequent and is no mixing. */
        double want = 1 / (4 * (2 * alphas[a] + 1));
        double all = N * 0.7;
        kd_assert_close((squares + (all - mixed) * 0.25) / all, want, 0.06, 0);
        assert_in_range(mixed, alphas[a] < 1 ? all * 0.8 : all - 130, all + 130);
        for (int k = 0; k < TRAIN; k++)
            assert_in_range(hits[k], 20, 100);
        if (alphas[a] == 1) /* uniform: the mean distance is a quarter */
            kd_assert_close(sum / mixed, 0.25, 0, 0.015);
    }
}

static void test_view_mix_boxes(void **state)
{
    (void)state;
    enum { N = 4000 };
    kd_view_rule rule = {.size = 512, .seed = 4, .cutmix = 1, .mix_probability = 1};
    double sum = 0;
    int at_edge = 0, cut = 0;
    for (uint32_t i = 0; i < N; i++) {
        kd_view_mix mix;
        kd_view_mix_of(&rule, i, 0, N, &mix);
        if (mix.kind == KD_MIX_NONE)
            continue;
        cut++;
        assert_int_equal(mix.kind, KD_MIX_CUT);
        assert_true(0 <= mix.x0 && mix.x0 < mix.x1 && mix.x1 <= 512);
        assert_true(0 <= mix.y0 && mix.y0 < mix.y1 && mix.y1 <= 512);
        double area = (double)(mix.x1 - mix.x0) * (mix.y1 - mix.y0) / (512.0 * 512.0);
        kd_assert_close(mix.share, 1 - area, 0, 1e-15);
        at_edge += mix.x0 == 0 || mix.y0 == 0 || mix.x1 == 512 || mix.y1 == 512;
        sum += area;
    }
    assert_true(cut > N * 0.97 && at_edge > N / 4 && at_edge < N * 0.95);
    /* Side s uncut: E[cut side] = s - s^2/4 of 1, so E[area] = E[(s - s^2/4)^2], s^2 uniform:
     * 1/2 - 1/5 + 1/48. */
    kd_assert_close(sum / N, 0.5 - 0.2 + 1 / 48.0, 0, 0.016);
    /* Both: half each. */
    rule.mixup = 1;
    int ups = 0;
    for (uint32_t i = 0; i < N; i++) {
        kd_view_mix mix;
        kd_view_mix_of(&rule, i, 1, N, &mix);
        ups += mix.kind == KD_MIX_UP;
    }
    assert_in_range(ups, N / 2 - 200, N / 2 + 200);
}

/* Pinned: a bank holds what a teacher said of these very mixtures. */
static void test_view_mix_is_pinned(void **state)
{
    (void)state;
    kd_view_rule rule = {.size = 96, .seed = 12, .mixup = 0.4, .cutmix = 1, .mix_probability = 0.9};
    int64_t all[200][7];
    for (uint32_t i = 0; i < 200; i++) {
        kd_view_mix m;
        kd_view_mix_of(&rule, i, 2, 150, &m); /* some unlabelled ones among them */
        int64_t one[7] = {m.kind, m.partner, (int64_t)(m.share * 65536 * 96 * 96 + 0.5), m.x0, m.y0,
                          m.x1,   m.y1};
        memcpy(all[i], one, sizeof one);
    }
    char hex[KD_DIGEST_HEX];
    kd_digest d = kd_digest_of(all, sizeof all);
    kd_digest_hex(&d, hex);
    assert_string_equal(hex, "480234e0659187f7ebdd45a34c22021f");
}

static void test_view_mix_few_samples(void **state)
{
    (void)state;
    kd_view_rule rule = {.size = 8, .seed = 4, .mixup = 1, .mix_probability = 1};
    kd_view_mix mix;
    for (uint32_t view = 0; view < 50; view++) {
        kd_view_mix_of(&rule, 0, view, 1, &mix); /* nobody to mix with */
        assert_true(mix.kind == KD_MIX_NONE && mix.share == 1 && mix.partner == 0);
        kd_view_mix_of(&rule, 0, view, 2, &mix);
        assert_int_equal(mix.partner, mix.kind == KD_MIX_NONE ? 0 : 1);
        kd_view_mix_of(&rule, 1, view, 2, &mix);
        assert_int_equal(mix.partner, mix.kind == KD_MIX_NONE ? 1 : 0);
        kd_view_mix_of(&rule, 9, view, 1, &mix); /* unlabelled, with the only training sample */
        assert_int_equal(mix.partner, mix.kind == KD_MIX_NONE ? 9 : 0);
        kd_view_mix_of(&rule, 9, view, 0, &mix);
        assert_int_equal(mix.kind, KD_MIX_NONE);
    }
    rule.mixup = 1e-3; /* nearly always one or the other; nothing overflows */
    rule.cutmix = 1e5;
    for (uint32_t view = 0; view < 200; view++) {
        kd_view_mix_of(&rule, 3, view, 10, &mix);
        assert_true(mix.share >= 0 && mix.share <= 1);
        if (mix.kind == KD_MIX_CUT) /* lambda is 1/2 */
            assert_true(mix.x1 - mix.x0 <= 4 && mix.y1 - mix.y0 <= 4);
    }
}

static void test_view_blend(void **state)
{
    (void)state;
    uint8_t a[BYTES], b[BYTES], out[BYTES];
    fill(a);
    for (int i = 0; i < BYTES; i++)
        b[i] = (uint8_t)(3 * i);
    kd_view_mix mix = {.kind = KD_MIX_NONE, .share = 1};
    kd_view_blend(&mix, SIZE, a, b, out);
    assert_memory_equal(out, a, BYTES);
    mix = (kd_view_mix){.kind = KD_MIX_UP, .share = 0.6875};
    kd_view_blend(&mix, SIZE, a, b, out);
    for (int i = 0; i < BYTES; i++)
        kd_assert_close(out[i], 0.6875 * a[i] + 0.3125 * b[i], 0, 0.51);
    mix = (kd_view_mix){
        .kind = KD_MIX_CUT, .share = 1 - 6 / 64.0, .x0 = 5, .y0 = 1, .x1 = 8, .y1 = 3};
    kd_view_blend(&mix, SIZE, a, b, a); /* in place */
    fill(out);
    for (int i = 0; i < BYTES; i++) {
        int x = i / 3 % SIZE, y = i / 3 / SIZE;
        assert_int_equal(a[i], x >= 5 && y >= 1 && y < 3 ? b[i] : out[i]);
    }
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
    kd_view_rule all = everything();
    kd_view_rule_text(&all, 2, a, sizeof a);
    assert_string_equal(a, "view 1 size 8 flip 1 crop 1 resized_crop 0.5 ratio 1.3333333333333333 "
                           "rotate 10 randaugment 2 magnitude 9 brightness 0.2 contrast 0.2 "
                           "saturation 0.2 cutout 3 mixup 0.8 cutmix 1 mix 1 preprocess imagenet "
                           "seed 8");
    /* The longest there can be fits. */
    double odd = 0x1.23456789abcdfp-100;
    all = (kd_view_rule){.flip = true,
                         .crop_pad = INT32_MAX,
                         .resized_crop = odd,
                         .resized_crop_ratio = odd,
                         .rotate = odd,
                         .brightness = odd,
                         .contrast = odd,
                         .saturation = odd,
                         .randaugment_n = INT32_MAX,
                         .randaugment_m = INT32_MAX,
                         .cutout = INT32_MAX,
                         .mixup = odd,
                         .cutmix = odd,
                         .mix_probability = odd,
                         .size = INT32_MAX,
                         .seed = UINT64_MAX};
    kd_view_rule_text(&all, 2, a, sizeof a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_view_without_rule_is_the_picture),
        cmocka_unit_test(test_view_flips_half),
        cmocka_unit_test(test_view_crops_everywhere),
        cmocka_unit_test(test_view_pad_beyond_size),
        cmocka_unit_test(test_view_depends_on_its_name_only),
        cmocka_unit_test(test_view_flips_and_crops_are_pinned),
        cmocka_unit_test(test_view_clean_is_the_picture),
        cmocka_unit_test(test_view_each_augmentation),
        cmocka_unit_test(test_view_streams_are_apart),
        cmocka_unit_test(test_view_statistics),
        cmocka_unit_test(test_view_randaugment_draws_all),
        cmocka_unit_test(test_view_mix_statistics),
        cmocka_unit_test(test_view_mix_boxes),
        cmocka_unit_test(test_view_mix_is_pinned),
        cmocka_unit_test(test_view_mix_few_samples),
        cmocka_unit_test(test_view_blend),
        cmocka_unit_test(test_view_to_float),
        cmocka_unit_test(test_view_rule_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

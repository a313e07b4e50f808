/* Damaged pictures of every kind we hold: each must decode or be refused, under the sanitizers. */
#include "fuzz.h"
#include "kd/file.h"
#include "kd/rng.h"
#include "kd_test.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 1500 /* of each seed file */
#define MAX_SEEDS 64

typedef struct seed {
    char *bytes;
    size_t len;
} seed;

static int load_seeds(seed seeds[MAX_SEEDS])
{
    DIR *dir = opendir("tests/golden/images");
    assert_non_null(dir);
    struct dirent *e;
    int n = 0;
    while ((e = readdir(dir)) && n < MAX_SEEDS) {
        char path[512];
        kd_diag diag = {0};
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "tests/golden/images/%s", e->d_name);
        kd_assert_ok(kd_file_read(path, 65536, &seeds[n].bytes, &seeds[n].len, &diag), &diag);
        n++;
    }
    closedir(dir);
    return n;
}

/* Flips bits, overwrites with telling values, cuts, repeats. Returns the new length, at most 2 *
 * len. */
static size_t mutate(kd_rng *r, uint8_t *p, size_t len)
{
    static const uint8_t telling[] = {0, 1, 0x7F, 0x80, 0xD8, 0xFE, 0xFF};
    uint32_t times = 1 + kd_rng_below(r, 6);
    size_t full = len;
    while (times-- && len > 1) {
        size_t at = kd_rng_below(r, (uint32_t)len);
        switch (kd_rng_below(r, 5)) {
        case 0:
            p[at] ^= (uint8_t)(1u << kd_rng_below(r, 8));
            break;
        case 1:
            p[at] = telling[kd_rng_below(r, KD_COUNT(telling))];
            break;
        case 2:
            p[at] = (uint8_t)kd_rng_u32(r);
            break;
        case 3:
            if (kd_rng_below(r, 4) == 0)
                len = at + 1;
            break;
        default: { /* a stretch again, right after itself */
            size_t run = 1 + kd_rng_below(r, 16);
            if (at + run > len || len + run > 2 * full)
                break;
            memmove(p + at + run, p + at, len - at);
            len += run;
        }
        }
    }
    return len;
}

static void test_fuzz_image_decode(void **state)
{
    (void)state;
    seed seeds[MAX_SEEDS] = {0};
    int n = load_seeds(seeds), good = 0, bad = 0;
    assert_true(n >= 20);
    for (int s = 0; s < n; s++)
        for (uint32_t round = 0; round < ROUNDS; round++) {
            kd_rng r;
            kd_rng_init(&r, 1, KD_RNG_TEST, (uint64_t)s, round);
            uint8_t *big = malloc(2 * seeds[s].len);
            assert_non_null(big);
            memcpy(big, seeds[s].bytes, seeds[s].len);
            size_t len = mutate(&r, big, seeds[s].len);
            *(kd_fuzz_run(kd_fuzz_image, big, len) ? &good : &bad) += 1;
            free(big);
        }
    /* Both ways must have been taken, else the mutations test nothing. */
    assert_true(good > 100);
    assert_true(bad > 100);
    for (int s = 0; s < n; s++)
        free(seeds[s].bytes);
}

static void test_fuzz_exif(void **state)
{
    (void)state;
    static const uint8_t start[] =
        "Exif\0\0MM\0\x2A\0\0\0\x08\0\x02\x01\0\0\x04\0\0\0\x01\0\0\0\x10"
        "\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    int found = 0;
    for (uint32_t round = 0; round < 50000; round++) {
        kd_rng r;
        kd_rng_init(&r, 2, KD_RNG_TEST, 0, round);
        uint8_t bytes[2 * sizeof start];
        memcpy(bytes, start, sizeof start);
        size_t len = mutate(&r, bytes, sizeof start);
        found += kd_fuzz_run(kd_fuzz_exif, bytes, len);
    }
    assert_true(found > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fuzz_image_decode),
        cmocka_unit_test(test_fuzz_exif),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

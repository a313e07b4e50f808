/* Mutated safetensors files. */
#include "fuzz.h"
#include "kd/rng.h"
#include "kd_test.h"
#include "store/safetensors.h"

#include <stdlib.h>
#include <string.h>

#define ROUNDS 30000
#define MAX_LEN 4096

static const char *const words[] = {
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "0",
    "-1",
    "1e3",
    "4",
    "64",
    "4294967296",
    "F32",
    "BF16",
    "dtype",
    "shape",
    "null",
    "true",
    "\\u0000",
    "\xff",
    "\\ud800",
    "  ",
    "data_offsets",
    "18446744073709551615",
    "9223372036854775807",
    "__metadata__",
    "4611686018427387904",
};

static size_t seed_file(unsigned which, uint8_t *out)
{
    static const float data[64];
    const kd_st_item items[] = {
        {.name = "a", .ndim = 2, .shape = {4, 4}, .data = data},
        {.name = "b.weight", .ndim = 4, .shape = {2, 3, 1, 1}, .data = data},
        {.name = "c", .ndim = 1, .shape = {0}, .data = data},
        {.name = "d", .ndim = 0, .data = data},
    };
    const kd_st_pair meta[] = {{"digest", "00"}, {"step", "17"}};
    kd_buf buf;
    kd_buf_init(&buf, MAX_LEN);
    kd_diag diag = {0};
    kd_assert_ok(kd_st_pack(items, 1 + which % 4, meta, which % 3, &buf, &diag), &diag);
    memcpy(out, buf.data, buf.len);
    const size_t len = buf.len;
    kd_buf_clear(&buf);
    return len;
}

static size_t mutate(kd_rng *r, uint8_t *file, size_t len)
{
    const uint32_t n = len ? (uint32_t)len : 1;
    const size_t at = kd_rng_below(r, n);
    switch (kd_rng_below(r, 7)) {
    case 0:
        file[at] ^= (uint8_t)(1 << kd_rng_below(r, 8));
        return len;
    case 1:
        file[at] = (uint8_t)kd_rng_u32(r);
        return len;
    case 2:
        return at;
    case 3: { /* another word into the header, its length corrected */
        const char *word = words[kd_rng_below(r, KD_COUNT(words))];
        const size_t extra = strlen(word);
        if (len < 8 || at < 8 || len + extra > MAX_LEN)
            return len;
        memmove(file + at + extra, file + at, len - at);
        memcpy(file + at, word, extra);
        const size_t header = (size_t)file[0] + ((size_t)file[1] << 8) + extra;
        file[0] = (uint8_t)header;
        file[1] = (uint8_t)(header >> 8);
        return len + extra;
    }
    case 4: { /* a piece of the file over another */
        const size_t from = kd_rng_below(r, n), room = len - KD_MAX(from, at);
        memmove(file + at, file + from, room ? kd_rng_below(r, (uint32_t)room) : 0);
        return len;
    }
    case 5: /* a digit for a digit: offsets and sides that almost fit */
        for (size_t i = at; i < len; i++)
            if (file[i] >= '0' && file[i] <= '9') {
                file[i] = (uint8_t)('0' + kd_rng_below(r, 10));
                break;
            }
        return len;
    default: { /* more data */
        const size_t extra = kd_rng_below(r, 9);
        if (len + extra > MAX_LEN)
            return len;
        memset(file + len, 7, extra);
        return len + extra;
    }
    }
}

static void test_fuzz_safetensors(void **state)
{
    (void)state;
    unsigned good = 0, refused = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        kd_rng r;
        kd_rng_init(&r, 1, KD_RNG_TEST, i, 0);
        uint8_t file[MAX_LEN + 64];
        size_t len = seed_file(i, file);
        for (uint32_t k = kd_rng_below(&r, 4); k > 0; k--)
            len = mutate(&r, file, len);
        *(kd_fuzz_run(kd_fuzz_safetensors, file, len) ? &good : &refused) += 1;
    }
    print_message("%u files read, %u refused\n", good, refused);
    /* Neither half of the code was left out. */
    assert_true(good > ROUNDS / 20 && refused > ROUNDS / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fuzz_safetensors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

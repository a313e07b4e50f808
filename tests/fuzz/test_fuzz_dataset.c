/* Damaged lists, class files, IDX, CIFAR and .npy files: opening must succeed or be refused with a
 * sentence. */
#include "fuzz.h"
#include "kd/rng.h"
#include "kd_test.h"

#include <string.h>
#include <zlib.h>

#define ROUNDS 600
#define MAX_ALL 32768

static size_t mutate(kd_rng *r, uint8_t *p, size_t len, size_t room)
{
    /* Bytes that mean something in one of the formats. */
    static const char telling[] = "\t\n\r/.\0-09\xFF'(),{}|<>: ";
    uint32_t times = 1 + kd_rng_below(r, 4);
    while (times-- && len > 0) {
        size_t at = kd_rng_below(r, (uint32_t)len);
        switch (kd_rng_below(r, 5)) {
        case 0:
            p[at] ^= (uint8_t)(1u << kd_rng_below(r, 8));
            break;
        case 1:
            p[at] = (uint8_t)telling[kd_rng_below(r, sizeof telling - 1)];
            break;
        case 2: /* one byte less */
            memmove(p + at, p + at + 1, len - at - 1);
            len--;
            break;
        case 3:
            if (kd_rng_below(r, 4) == 0)
                len = at;
            break;
        default:
            if (len < room) {
                memmove(p + at + 1, p + at, len - at);
                p[at] = (uint8_t)telling[kd_rng_below(r, sizeof telling - 1)];
                len++;
            }
        }
    }
    return len;
}

/* Replaces one file of the set after the other by mutations of itself. option < 0: the target has
 * no byte of options. */
static void fuzz_files(kd_fuzz_fn *fn, int option, const kd_fuzz_part *files, size_t count)
{
    int good = 0, bad = 0;
    for (size_t which = 0; which < count; which++) {
        for (uint32_t round = 0; round <= ROUNDS; round++) {
            kd_rng r;
            static uint8_t all[MAX_ALL];
            size_t n = 0;
            if (option >= 0)
                all[n++] = (uint8_t)option;
            kd_rng_init(&r, 3, KD_RNG_TEST, which, round);
            for (size_t i = 0; i < count; i++) {
                if (i > 0) {
                    memcpy(all + n, KD_FUZZ_CUT, sizeof KD_FUZZ_CUT - 1);
                    n += sizeof KD_FUZZ_CUT - 1;
                }
                assert_true(n + files[i].len + 64 <= sizeof all);
                memcpy(all + n, files[i].data, files[i].len);
                n += i == which && round > 0 ? mutate(&r, all + n, files[i].len, files[i].len + 8)
                                             : files[i].len;
            }
            const int accepted = kd_fuzz_run(fn, all, n);
            assert_true(accepted || round > 0);
            *(accepted ? &good : &bad) += 1;
        }
    }
    assert_true(good > 50);
    assert_true(bad > 50);
}

#define TEXT(t)                                                                                    \
    {                                                                                              \
        (const uint8_t *)(t), sizeof(t) - 1                                                        \
    }
#define BYTES(b)                                                                                   \
    {                                                                                              \
        (b), sizeof(b)                                                                             \
    }

static void test_fuzz_dataset_lists(void **state)
{
    (void)state;
    static const kd_fuzz_part files[] = {TEXT("ant\nbee\n"),
                                         TEXT("ant/1.png\t0\r\nant/1.png\nbee/2.png\t1\n"),
                                         TEXT("ant/1.png\t1\n"), TEXT("ant/1.png\nant/2.png\t5\n")};
    fuzz_files(kd_fuzz_lists,
               KD_FUZZ_LISTS_CLASSES | KD_FUZZ_LISTS_UNLABELLED | KD_FUZZ_LISTS_LIMIT |
                   2 * KD_FUZZ_LISTS_LEAKAGE,
               files, KD_COUNT(files));
    /* Without a file of classes the folders' names count; shares divide whatever is left. */
    static const kd_fuzz_part bare[] = {
        TEXT(""), TEXT("ant/1.png\nbee/2.png\r\n\nbee/3.png\nant/4.png\nbee/5.png\n")};
    fuzz_files(kd_fuzz_lists, KD_FUZZ_LISTS_SHARES | KD_FUZZ_LISTS_LEAKAGE, bare, KD_COUNT(bare));
}

static void test_fuzz_dataset_idx(void **state)
{
    (void)state;
    static const uint8_t images[] = {0, 0, 8, 3, 0, 0, 0, 2, 0,  0,  0,  2,
                                     0, 0, 0, 2, 1, 2, 3, 4, 11, 12, 13, 14};
    static const uint8_t others[] = {0, 0, 8, 3, 0, 0, 0, 2, 0,  0,  0,  2,
                                     0, 0, 0, 2, 5, 6, 7, 8, 15, 16, 17, 18};
    static const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 2, 1, 0};
    uint8_t packed[256];
    z_stream z = {.next_in = (uint8_t *)others,
                  .avail_in = sizeof others,
                  .next_out = packed,
                  .avail_out = sizeof packed};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    const kd_fuzz_part files[] = {
        BYTES(images), BYTES(labels), {packed, sizeof packed - z.avail_out}, BYTES(labels)};
    deflateEnd(&z);
    fuzz_files(kd_fuzz_idx, -1, files, KD_COUNT(files));
}

/* n records of one or two label bytes. */
static size_t cifar(uint8_t *out, size_t label_bytes, size_t n)
{
    memset(out, 0, n * (3072 + label_bytes));
    for (size_t i = 0; i < n; i++)
        out[i * (3072 + label_bytes) + label_bytes] = (uint8_t)(7 * i + label_bytes);
    return n * (3072 + label_bytes);
}

static void test_fuzz_dataset_cifar(void **state)
{
    (void)state;
    static uint8_t train[4 * 3074], test[2 * 3074];
    kd_fuzz_part files[] = {
        {train, cifar(train, 1, 4)}, {test, cifar(test, 1, 2)}, TEXT("a\nb\nc\n\n")};
    fuzz_files(kd_fuzz_cifar, 0, files, 3);
    files[0].len = cifar(train, 2, 4);
    files[1].len = cifar(test, 2, 2);
    fuzz_files(kd_fuzz_cifar, 1, files, 2);
}

/* A file of version 1 with this header; 10 bytes come before it. */
static size_t npy(uint8_t *out, const char *header, const void *values, size_t len)
{
    size_t n = strlen(header);
    memcpy(out, "\x93NUMPY\1\0", 8);
    out[8] = (uint8_t)n;
    out[9] = 0;
    memcpy(out + 10, header, n);
    memcpy(out + 10 + n, values, len);
    return 10 + n + len;
}

static void test_fuzz_dataset_npy(void **state)
{
    (void)state;
    static uint8_t images[256], labels[256], val[256];
    static const char images_header[] =
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 2, 3), }\n",
                      labels_header[] =
                          "{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }\n";
    const size_t n_labels = npy(labels, labels_header, "\1\0\0\0", 4);
    const kd_fuzz_part files[] = {{images, npy(images, images_header, "0123456789ab", 12)},
                                  {labels, n_labels},
                                  {val, npy(val, images_header, "cdefghijklmn", 12)},
                                  {labels, n_labels}};
    fuzz_files(kd_fuzz_npy, -1, files, KD_COUNT(files));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fuzz_dataset_lists),
        cmocka_unit_test(test_fuzz_dataset_idx),
        cmocka_unit_test(test_fuzz_dataset_cifar),
        cmocka_unit_test(test_fuzz_dataset_npy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* lib/base: buffers, errors, random numbers, digests, files. */
#include "kd_test.h"

#include "kd/buf.h"
#include "kd/clock.h"
#include "kd/file.h"
#include "kd/hash.h"
#include "kd/rng.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- buf */

static void assert_buf_sane(const kd_buf *b)
{
    assert_true(b->len <= b->max);
    assert_true(b->len == 0 || b->data);
    if (b->data) {
        assert_true(b->len < b->cap);
        assert_int_equal(b->data[b->len], 0);
    }
}

static void test_buf_grows_to_its_maximum(void **state)
{
    (void)state;
    kd_buf b;
    kd_buf_init(&b, 1000);
    assert_null(b.data);
    for (int i = 0; i < 1000; i++) {
        char c = (char)('a' + i % 26);
        assert_int_equal(kd_buf_add(&b, &c, 1), 0);
        assert_buf_sane(&b);
    }
    assert_false(b.failed);
    assert_int_equal(kd_buf_add(&b, "x", 1), -KD_ELIMIT);
    assert_true(b.failed);
    assert_int_equal(b.len, 1000);
    assert_int_equal(b.data[999], 'a' + 999 % 26);
    assert_null(kd_buf_take(&b)); /* what was cut is not given out */
    assert_int_equal(kd_buf_str(&b, "again"), 0);
    assert_false(b.failed);
    assert_string_equal(b.data, "again");
    kd_buf_clear(&b);
    assert_int_equal(b.max, 1000);
    assert_buf_sane(&b);
}

static void test_buf_append_and_take(void **state)
{
    (void)state;
    kd_buf b;
    kd_buf_init(&b, 64);
    assert_int_equal(kd_buf_str(&b, ""), 0);
    assert_int_equal(kd_buf_add(&b, NULL, 0), 0);
    assert_int_equal(kd_buf_printf(&b, "%d-%s", 42, "x"), 0);
    assert_int_equal(kd_buf_add(&b, "\0y", 2), 0);
    assert_int_equal(b.len, 6);
    assert_memory_equal(b.data, "42-x\0y", 7);
    assert_int_equal(kd_buf_printf(&b, "%64s", ""), -KD_ELIMIT);
    assert_int_equal(b.len, 6);
    kd_buf_clear(&b);
    char *at = kd_buf_grow(&b, 3);
    assert_non_null(at);
    memcpy(at, "abc", 3);
    char *text = kd_buf_take(&b);
    assert_string_equal(text, "abc");
    free(text);
    text = kd_buf_take(&b); /* never NULL for a buffer that did not fail */
    assert_string_equal(text, "");
    free(text);
    kd_buf_init(&b, 10);
    assert_null(kd_buf_grow(&b, SIZE_MAX));
    assert_true(b.failed);
    kd_buf_clear(&b);
}

/* ---- err */

static void test_err_table(void **state)
{
    (void)state;
    for (int i = 1; i < KD_ERR_COUNT; i++) {
        assert_true(kd_err_name(i)[0] == 'E');
        assert_string_equal(kd_err_name(i), kd_err_name(-i));
        assert_true(kd_err_grpc(-i) >= 1 && kd_err_grpc(-i) <= 16);
        /* Several codes may share a status; the way back gives one of them. */
        int back = kd_err_from_grpc(kd_err_grpc(i));
        assert_true(back < 0);
        assert_int_equal(kd_err_grpc(back), kd_err_grpc(i));
    }
    assert_string_equal(kd_err_name(-KD_EDATA), "EDATA");
    assert_int_equal(kd_err_grpc(-KD_ENOENT), 5);
    assert_true(kd_err_retry(-KD_EUNAVAIL));
    assert_false(kd_err_retry(KD_EINVAL));
    assert_string_equal(kd_err_text(-9999), "unknown error");
    assert_int_equal(kd_err_grpc(9999), 2);
    assert_int_equal(kd_err_from_grpc(0), 0);
    assert_int_equal(kd_err_from_grpc(77), -KD_EINTERNAL);
}

static void test_err_diag(void **state)
{
    (void)state;
    kd_diag d = {0};
    assert_int_equal(kd_fail(&d, -KD_EIO, "disk %d", 3), -KD_EIO);
    assert_string_equal(d.msg, "disk 3");
    assert_int_equal(kd_fail_at(&d, -KD_EDATA, "job %s", "x"), -KD_EIO); /* the first code stays */
    assert_string_equal(d.msg, "job x: disk 3");
    kd_diag empty = {0};
    assert_int_equal(kd_fail_at(&empty, -KD_EDATA, "bank"), -KD_EDATA);
    assert_string_equal(empty.msg, "bank: corrupt data");
    assert_int_equal(kd_fail(NULL, -KD_EIO, "x"), -KD_EIO);
    assert_int_equal(kd_fail_at(NULL, -KD_EIO, "x"), -KD_EIO);
    char big[3000];
    memset(big, 'b', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    kd_fail(&d, -KD_EIO, "%s", big);
    assert_int_equal(strlen(d.msg), KD_DIAG_MAX - 1);
    assert_string_equal(d.msg + KD_DIAG_MAX - 4, "...");
    kd_fail_at(&d, -KD_EIO, "%s", big);
    assert_true(strlen(d.msg) < KD_DIAG_MAX);
    size_t n = 7;
    assert_false(kd_mul_size(SIZE_MAX / 2, 3, &n));
    assert_int_equal(n, 7);
    assert_true(kd_mul_size(6, 7, &n));
    assert_int_equal(n, 42);
}

/* ---- rng */

/* philox4x32_10 in kat_vectors of the Random123 distribution (Salmon et al., SC'11). */
static void test_rng_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < KD_COUNT(kat); i++) {
        kd_rng r = {.used = 4};
        memcpy(r.key, kat[i].key, sizeof r.key);
        memcpy(r.counter, kat[i].counter, sizeof r.counter);
        for (int k = 0; k < 4; k++)
            assert_int_equal(kd_rng_u32(&r), kat[i].out[k]);
    }
}

/* Jobs of the past must stay repeatable: how a name becomes a stream is pinned. */
static void test_rng_streams_are_pinned(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 1, KD_RNG_INIT, 2, 3);
    static const uint32_t first[] = {0x113191cf, 0xb7312c94, 0xcb1ed600,
                                     0x93609d7c, 0xf9b96210, 0x68479b7a};
    for (size_t i = 0; i < KD_COUNT(first); i++)
        assert_int_equal(kd_rng_u32(&r), first[i]);
}

static void test_rng_streams_differ_by_every_part(void **state)
{
    (void)state;
    static const uint64_t names[][4] = {
        {1, 1, 1, 1}, {2, 1, 1, 1},          {1, 2, 1, 1},          {1, 1, 2, 1},
        {1, 1, 1, 2}, {1ull << 40, 1, 1, 1}, {1, 1, 1ull << 40, 1}, {1, 1, 1, 1ull << 40}};
    uint64_t seen[KD_COUNT(names)];
    for (size_t i = 0; i < KD_COUNT(names); i++) {
        kd_rng r, again;
        kd_rng_init(&r, names[i][0], (uint32_t)names[i][1], names[i][2], names[i][3]);
        again = r;
        seen[i] = kd_rng_u64(&r);
        assert_true(kd_rng_u64(&again) == seen[i]);
        for (size_t k = 0; k < i; k++)
            assert_true(seen[k] != seen[i]);
    }
}

/* Bounds are six standard deviations of the statistic under the hypothesis. */
static void test_rng_distributions(void **state)
{
    (void)state;
    enum { N = 60000 };
    kd_rng r;
    kd_rng_init(&r, 5, KD_RNG_TEST, 0, 0);
    int counts[6] = {0};
    for (int i = 0; i < N; i++) {
        uint32_t v = kd_rng_below(&r, 6);
        assert_true(v < 6);
        counts[v]++;
    }
    for (int k = 0; k < 6; k++)
        kd_assert_close(counts[k], N / 6.0, 0, 6 * sqrt(N * (1.0 / 6) * (5.0 / 6)));
    assert_int_equal(kd_rng_below(&r, 1), 0);
    /* Just above 2^31 nearly half of the draws are rejected. */
    int64_t low = 0;
    for (int i = 0; i < N; i++) {
        uint32_t v = kd_rng_below(&r, 0x80000001u);
        assert_true(v < 0x80000001u);
        low += v < 0x40000000u;
    }
    kd_assert_close((double)low, N / 2.0, 0, 6 * sqrt(N * 0.25));
    double sum_f = 0, sum_d = 0, sum_n = 0, sum_n2 = 0;
    for (int i = 0; i < N; i++) {
        float f = kd_rng_float(&r);
        double d = kd_rng_double(&r), n = kd_rng_normal(&r);
        assert_true(f >= 0 && f < 1 && d >= 0 && d < 1);
        sum_f += (double)f;
        sum_d += d;
        sum_n += n;
        sum_n2 += n * n;
    }
    double deviation = 6 * sqrt(1.0 / 12 / N);
    kd_assert_close(sum_f / N, 0.5, 0, deviation);
    kd_assert_close(sum_d / N, 0.5, 0, deviation);
    kd_assert_close(sum_n / N, 0, 0, 6 / sqrt(N));
    kd_assert_close(sum_n2 / N, 1, 0, 6 * sqrt(2.0 / N));
}

/* ---- hash */

static void test_hash_crc32c(void **state)
{
    (void)state;
    assert_int_equal(kd_crc32c(0, "123456789", 9), 0xE3069283);
    uint8_t bytes[64] = {0};
    /* RFC 3720, B.4: 32 bytes of zeros, of ones, rising. */
    assert_int_equal(kd_crc32c(0, bytes, 32), 0x8A9136AA);
    memset(bytes, 0xff, 32);
    assert_int_equal(kd_crc32c(0, bytes, 32), 0x62A8AB43);
    for (int i = 0; i < 64; i++)
        bytes[i] = (uint8_t)i;
    assert_int_equal(kd_crc32c(0, bytes, 32), 0x46DD794E);
    assert_int_equal(kd_crc32c(0, bytes, 0), 0);
    uint32_t whole = kd_crc32c(0, bytes, 64);
    for (size_t cut = 0; cut <= 64; cut++)
        assert_int_equal(kd_crc32c(kd_crc32c(0, bytes, cut), bytes + cut, 64 - cut), whole);
}

/* Bit by bit, as RFC 3720 defines it. */
static uint32_t slow_crc32c(uint32_t crc, const uint8_t *p, size_t len)
{
    crc = ~crc;
    while (len--) {
        crc ^= *p++;
        for (int i = 0; i < 8; i++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    }
    return ~crc;
}

static void test_hash_crc32c_of_long_data(void **state)
{
    (void)state;
    enum { LONGEST = 30000 };
    uint8_t *bytes = malloc(LONGEST);
    uint32_t x = 12345;
    assert_non_null(bytes);
    for (size_t i = 0; i < LONGEST; i++)
        bytes[i] = (uint8_t)((x = x * 1664525u + 1013904223u) >> 24);
    static const size_t lengths[] = {12287, 12288, 12289, 12295, 24575, 24576, 29999};
    for (size_t n = 0; n < 1100; n++) /* every beginning and end of each way to compute it */
        assert_int_equal(kd_crc32c((uint32_t)n, bytes + n % 67, n),
                         slow_crc32c((uint32_t)n, bytes + n % 67, n));
    for (size_t i = 0; i < KD_COUNT(lengths); i++)
        for (size_t at = 0; at < 2; at++) {
            size_t n = KD_MIN(lengths[i], LONGEST - at);
            assert_int_equal(kd_crc32c(0, bytes + at, n), slow_crc32c(0, bytes + at, n));
            assert_int_equal(kd_crc32c(0xdeadbeef, bytes + at, n),
                             slow_crc32c(0xdeadbeef, bytes + at, n));
        }
    free(bytes);
}

static void test_hash_digest(void **state)
{
    (void)state;
    char hex[KD_DIGEST_HEX];
    kd_digest d = kd_digest_of("", 0), e;
    kd_digest_hex(&d, hex);
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f"); /* XXH3-128 of nothing */
    assert_true(kd_digest_parse(hex, &e));
    assert_true(kd_digest_equal(&d, &e));
    assert_true(kd_digest_parse("99AA06D3014798D86001C324468D497F", &e));
    assert_true(kd_digest_equal(&d, &e));
    static const char *const wrong[] = {"",
                                        "99aa06d3014798d86001c324468d497",
                                        "99aa06d3014798d86001c324468d497f0",
                                        "99aa06d3014798d86001c324468d497g",
                                        "99aa06d3014798d8 001c324468d497f",
                                        "0x9aa06d3014798d86001c324468d497",
                                        "\xd9"
                                        "9aa06d3014798d86001c324468d497f"};
    for (size_t i = 0; i < KD_COUNT(wrong); i++) {
        kd_digest before = e;
        assert_false(kd_digest_parse(wrong[i], &e));
        assert_true(kd_digest_equal(&before, &e));
    }
    /* In pieces as in one go, past the 240 bytes where XXH3 changes its method. */
    uint8_t data[5000];
    kd_rng r;
    kd_rng_init(&r, 1, KD_RNG_TEST, 1, 0);
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)kd_rng_u32(&r);
    for (size_t n = 0; n < sizeof data; n += 311) {
        kd_hasher *h = kd_hasher_new();
        for (size_t at = 0; at < n; at += 97)
            kd_hasher_add(h, data + at, KD_MIN((size_t)97, n - at));
        d = kd_digest_of(data, n);
        e = kd_hasher_digest(h);
        assert_true(kd_digest_equal(&d, &e));
        kd_hasher_free(h);
    }
    kd_hasher_free(NULL);
}

/* ---- file */

struct folder {
    char *dir, path[256];
    kd_diag diag;
};

static int setup(void **state)
{
    struct folder *f = kd_xalloc(sizeof *f);
    f->dir = kd_test_mkdir();
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct folder *f = *state;
    kd_test_rmdir(f->dir);
    free(f);
    return 0;
}

static const char *in(struct folder *f, const char *name)
{
    snprintf(f->path, sizeof f->path, "%s/%s", f->dir, name);
    return f->path;
}

static void put(struct folder *f, const char *name, const char *text)
{
    kd_assert_ok(kd_file_write(in(f, name), text, strlen(text), &f->diag), &f->diag);
}

static void test_file_write_and_read(void **state)
{
    struct folder *f = *state;
    char *data;
    size_t len;
    put(f, "a", "hello");
    put(f, "a", "bye"); /* replaced as a whole */
    kd_assert_ok(kd_file_read(in(f, "a"), 3, &data, &len, &f->diag), &f->diag);
    assert_int_equal(len, 3);
    assert_string_equal(data, "bye");
    free(data);
    kd_assert_fails(kd_file_read(in(f, "a"), 2, &data, &len, &f->diag), KD_ELIMIT, &f->diag,
                    "has 3 bytes, at most 2");
    kd_assert_fails(kd_file_read(in(f, "none"), 2, &data, &len, &f->diag), KD_ENOENT, &f->diag,
                    "No such file");
    kd_assert_fails(kd_file_read(f->dir, 2, &data, &len, &f->diag), KD_EINVAL, &f->diag,
                    "is a folder");
    put(f, "empty", "");
    kd_assert_ok(kd_file_read(in(f, "empty"), 0, &data, &len, &f->diag), &f->diag);
    assert_int_equal(len, 0);
    assert_string_equal(data, "");
    free(data);
    kd_assert_fails(kd_file_write(in(f, "no/such"), "x", 1, &f->diag), KD_ENOENT, &f->diag,
                    "no/such");
    /* Nothing temporary is left behind. */
    kd_assert_fails(kd_file_write(in(f, "."), "x", 1, &f->diag), KD_EIO, &f->diag, "cannot rename");
    char command[300];
    snprintf(command, sizeof command, "test -z \"$(find %s -name '*tmp*')\"", f->dir);
    assert_int_equal(system(command), 0);
}

/* A pipe tells no size: the reader must grow, and stop at the limit. */
static void test_file_read_from_a_pipe(void **state)
{
    struct folder *f = *state;
    static char text[20000];
    memset(text, 'p', sizeof text);
    static const size_t limits[] = {20000, 30000, 19999, 4096};
    for (size_t i = 0; i < KD_COUNT(limits); i++) {
        int ends[2];
        char *data;
        size_t len;
        assert_int_equal(pipe(ends), 0);
        assert_int_equal(write(ends[1], text, sizeof text), sizeof text);
        close(ends[1]);
        int rc = kd_file_read_fd(ends[0], "pipe", limits[i], &data, &len, &f->diag);
        close(ends[0]);
        if (limits[i] < sizeof text) {
            kd_assert_fails(rc, KD_ELIMIT, &f->diag, "larger than");
            continue;
        }
        kd_assert_ok(rc, &f->diag);
        assert_int_equal(len, sizeof text);
        assert_memory_equal(data, text, len);
        free(data);
    }
}

static void test_file_beneath(void **state)
{
    struct folder *f = *state;
    kd_assert_ok(kd_file_mkdirs(in(f, "root/sub/deep"), &f->diag), &f->diag);
    kd_assert_ok(kd_file_mkdirs(in(f, "root/sub/deep"), &f->diag), &f->diag);
    put(f, "root/sub/ok", "fine");
    put(f, "secret", "secret");
    char target[256];
    snprintf(target, sizeof target, "%s", in(f, "secret"));
    assert_int_equal(symlink(target, in(f, "root/absolute")), 0);
    assert_int_equal(symlink("../secret", in(f, "root/up")), 0);
    assert_int_equal(symlink("sub/ok", in(f, "root/inside")), 0);
    int root = open(in(f, "root"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(root >= 0);
    static const char *const right[] = {"sub/ok", "./sub/../sub/ok", "inside"};
    for (size_t i = 0; i < KD_COUNT(right); i++) {
        int fd = kd_file_open_beneath(root, right[i], 0, &f->diag);
        kd_assert_ok(fd, &f->diag);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        char *data;
        size_t len;
        kd_assert_ok(kd_file_read_fd(fd, right[i], 100, &data, &len, &f->diag), &f->diag);
        assert_string_equal(data, "fine");
        free(data);
        close(fd);
    }
    const char *const wrong[] = {"../secret", "sub/../../secret", "absolute", "up", target, "/"};
    for (size_t i = 0; i < KD_COUNT(wrong); i++)
        kd_assert_fails(kd_file_open_beneath(root, wrong[i], 0, &f->diag), KD_EPERM, &f->diag,
                        "leads out of the data root");
    kd_assert_fails(kd_file_open_beneath(root, "sub/none", 0, &f->diag), KD_ENOENT, &f->diag,
                    "sub/none");
    /* kd_file_open_at goes wherever a path leads, and is told of the rest alike. */
    static const char *const outside[] = {"../secret", "absolute", "up"};
    for (size_t i = 0; i < KD_COUNT(outside); i++) {
        int fd = kd_file_open_at(root, outside[i], 0, &f->diag);
        kd_assert_ok(fd, &f->diag);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        close(fd);
    }
    kd_assert_fails(kd_file_open_at(root, "sub/none", 0, &f->diag), KD_ENOENT, &f->diag,
                    "sub/none");
    char longer[300] = "";
    memset(longer, 'x', sizeof longer - 1);
    kd_assert_fails(kd_file_open_at(root, longer, 0, &f->diag), KD_EIO, &f->diag, "too long");
    close(root);
}

static void test_file_remove_tree(void **state)
{
    struct folder *f = *state;
    put(f, "keep", "kept");
    kd_assert_ok(kd_file_mkdirs(in(f, "tree/a/b"), &f->diag), &f->diag);
    put(f, "tree/a/b/file", "x");
    assert_int_equal(symlink("../..", in(f, "tree/a/out")), 0);
    kd_assert_ok(kd_file_remove_tree(in(f, "tree"), &f->diag), &f->diag);
    struct stat st;
    assert_int_equal(stat(in(f, "tree"), &st), -1);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(stat(in(f, "keep"), &st), 0); /* links are not followed */
    kd_assert_ok(kd_file_remove_tree(in(f, "tree"), &f->diag), &f->diag);
    kd_assert_fails(kd_file_mkdirs(in(f, "keep/sub"), &f->diag), KD_ENOENT, &f->diag, "keep");
    kd_assert_fails(kd_file_mkdirs(in(f, "keep"), &f->diag), KD_EINVAL, &f->diag,
                    "is not a folder");
    assert_true(kd_file_free_bytes(f->dir) > 0);
    assert_int_equal(kd_file_free_bytes("/no/such/folder"), -1);
}

static void test_clock_runs_forward(void **state)
{
    (void)state;
    kd_time_ms a = kd_clock_ms();
    double s = kd_clock_s();
    assert_true(kd_clock_ms() >= a);
    const double spent = kd_clock_thread_s(); /* of this thread, which has not slept all the time */
    assert_true(spent > 0 && kd_clock_thread_s() >= spent);
    assert_true(kd_clock_s() >= s);
    assert_true(kd_clock_wall_ms() > 1600000000000); /* after 2020 */
}

static void test_clock_iso(void **state)
{
    char o[KD_CLOCK_ISO];
    (void)state;
    assert_string_equal(kd_clock_iso(0, o), "");
    assert_string_equal(kd_clock_iso(1714564800123, o), "2024-05-01T12:00:00.123Z");
    assert_string_equal(kd_clock_iso(INT64_MAX, o), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buf_grows_to_its_maximum),
        cmocka_unit_test(test_buf_append_and_take),
        cmocka_unit_test(test_err_table),
        cmocka_unit_test(test_err_diag),
        cmocka_unit_test(test_rng_known_answers),
        cmocka_unit_test(test_rng_streams_are_pinned),
        cmocka_unit_test(test_rng_streams_differ_by_every_part),
        cmocka_unit_test(test_rng_distributions),
        cmocka_unit_test(test_hash_crc32c),
        cmocka_unit_test(test_hash_crc32c_of_long_data),
        cmocka_unit_test(test_hash_digest),
        cmocka_unit_test_setup_teardown(test_file_write_and_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_read_from_a_pipe, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_beneath, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_remove_tree, setup, teardown),
        cmocka_unit_test(test_clock_runs_forward),
        cmocka_unit_test(test_clock_iso),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

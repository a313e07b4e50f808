#include "kd_test.h"

#include "bank.h"
#include "kd/file.h"
#include "kd/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLASSES 5
#define RECORD (8 + 4 * CLASSES)

static const kd_bank_key g_key = {"teacher", "float32", "numerics", "data", "rule", CLASSES};

static void make_record(uint8_t *r, uint32_t sample, uint32_t view)
{
    float logits[CLASSES];
    kd_rng rng;
    kd_rng_init(&rng, 7, KD_RNG_TEST, sample, view);
    for (int i = 0; i < CLASSES; i++)
        logits[i] = (float)kd_rng_normal(&rng);
    memcpy(r, &sample, 4);
    memcpy(r + 4, &view, 4);
    memcpy(r + 8, logits, sizeof logits);
}

static void put(kd_bank *b, uint32_t first, uint32_t n, uint32_t expect_new)
{
    uint8_t *records = kd_xalloc((size_t)n * RECORD);
    for (uint32_t i = 0; i < n; i++)
        make_record(records + (size_t)i * RECORD, first + i, 3);
    kd_diag diag = {0};
    uint32_t fresh = 0;
    bool differs = true;
    kd_assert_ok(kd_bank_put(b, records, (size_t)n * RECORD, &fresh, &differs, &diag), &diag);
    assert_int_equal(fresh, expect_new);
    assert_false(differs);
    free(records);
}

static void expect(kd_bank *b, uint32_t first, uint32_t n, uint32_t there)
{
    uint8_t *wanted = kd_xalloc((size_t)n * 8), record[RECORD];
    for (uint32_t i = 0; i < n; i++) {
        uint32_t pair[2] = {first + i, 3};
        memcpy(wanted + (size_t)i * 8, pair, 8);
    }
    kd_buf out;
    kd_diag diag = {0};
    kd_buf_init(&out, 1 << 24);
    kd_assert_ok(kd_bank_find(b, wanted, n, &out, &diag), &diag);
    assert_int_equal(out.len, (size_t)there * RECORD);
    for (uint32_t i = 0; i < there; i++) {
        make_record(record, first + i, 3);
        assert_memory_equal(out.data + (size_t)i * RECORD, record, RECORD);
    }
    kd_buf_clear(&out);
    free(wanted);
}

static kd_bank_store *open_store(const char *dir)
{
    kd_bank_store *s = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_bank_store_open(dir, &s, &diag), &diag);
    return s;
}

static kd_bank *get(kd_bank_store *s)
{
    kd_bank *b = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_bank_get(s, &g_key, &b, &diag), &diag);
    return b;
}

static char *records_file(const char *dir)
{
    char command[256], line[256] = "";
    snprintf(command, sizeof command, "ls %s/*/records.bin", dir);
    FILE *p = popen(command, "r");
    assert_non_null(fgets(line, sizeof line, p));
    pclose(p);
    line[strcspn(line, "\n")] = '\0';
    return kd_xstrdup(line);
}

static void test_bank_keeps_what_was_put(void **state)
{
    (void)state;
    char *dir = kd_test_mkdir();
    kd_bank_store *s = open_store(dir);
    kd_bank *b = get(s);
    put(b, 0, 3000, 3000);
    put(b, 1000, 4000, 2000); /* the overlap is there already */
    expect(b, 0, 5000, 5000);
    expect(b, 5000, 10, 0);
    kd_bank_store_close(s);
    s = open_store(dir);
    b = get(s);
    assert_int_equal(kd_bank_count(b), 5000);
    expect(b, 0, 5000, 5000);
    kd_bank_store_close(s);
    kd_test_rmdir(dir);
}

static void test_bank_reports_other_bits(void **state)
{
    (void)state;
    char *dir = kd_test_mkdir();
    kd_bank_store *s = open_store(dir);
    kd_bank *b = get(s);
    put(b, 1, 1, 1);
    uint8_t r[2 * RECORD];
    make_record(r, 1, 3);
    r[RECORD - 1] ^= 1;
    kd_diag diag = {0};
    uint32_t fresh;
    bool differs;
    kd_assert_ok(kd_bank_put(b, r, RECORD, &fresh, &differs, &diag), &diag);
    assert_true(differs);
    assert_int_equal(fresh, 0);
    expect(b, 1, 1, 1); /* the first one stays */
    make_record(r, 9, 3);
    make_record(r + RECORD, 9, 3);
    r[RECORD + 8] ^= 1; /* twice in one block, with other bits */
    kd_assert_ok(kd_bank_put(b, r, 2 * RECORD, &fresh, &differs, &diag), &diag);
    assert_true(differs);
    assert_int_equal(fresh, 1);
    kd_assert_fails(kd_bank_put(b, r, RECORD - 1, &fresh, &differs, &diag), KD_EINVAL, &diag,
                    "records of 28 bytes");
    kd_bank_store_close(s);
    kd_test_rmdir(dir);
}

static void test_bank_cuts_a_torn_or_flipped_block(void **state)
{
    (void)state;
    char *dir = kd_test_mkdir();
    kd_bank_store *s = open_store(dir);
    kd_bank *b = get(s);
    put(b, 0, 100, 100);
    put(b, 100, 100, 100);
    kd_bank_store_close(s);
    char *path = records_file(dir);
    for (int flip = 0; flip < 2; flip++) {
        kd_diag diag = {0};
        char *data;
        size_t len;
        kd_assert_ok(kd_file_read(path, 1 << 20, &data, &len, &diag), &diag);
        if (flip)
            data[len - 5] ^= 4;
        kd_assert_ok(kd_file_write(path, data, flip ? len : len - 7, &diag), &diag);
        free(data);
        s = open_store(dir);
        b = get(s);
        expect(b, 0, 200, 100);
        put(b, 100, 100, 100); /* and it goes on from there */
        expect(b, 0, 200, 200);
        kd_bank_store_close(s);
    }
    free(path);
    kd_test_rmdir(dir);
}

static void test_bank_of_another_key_is_another_bank(void **state)
{
    (void)state;
    char *dir = kd_test_mkdir();
    kd_bank_store *s = open_store(dir);
    put(get(s), 0, 10, 10);
    kd_bank_key other = g_key;
    other.teacher = "another";
    kd_bank *b = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_bank_get(s, &other, &b, &diag), &diag);
    expect(b, 0, 10, 0);
    other.classes = 0;
    kd_assert_fails(kd_bank_get(s, &other, &b, &diag), KD_EINVAL, &diag, "classes");
    kd_bank_store_close(s);
    kd_test_rmdir(dir);
}

static char *bank_id(const char *dir)
{
    char *path = records_file(dir), *end = strrchr(path, '/');
    char *id = strndup(end - 32, 32);
    free(path);
    return id;
}

static void test_bank_remembers_its_jobs(void **state)
{
    (void)state;
    char *dir = kd_test_mkdir();
    kd_bank_store *s = open_store(dir);
    kd_bank *b = get(s);
    put(b, 0, 10, 10);
    static const kd_bank_use wanted[] = {
        {0xabcdef012345, 90}, {0x1, 0}, {0xabcdef012345, 40}, {0x1, 180}, {0x2, 7}};
    for (size_t i = 0; i < KD_COUNT(wanted); i++)
        kd_bank_note_use(b, wanted[i].job, wanted[i].wanted);
    char *id = bank_id(dir), path[300];
    for (int again = 0; again < 2; again++) {
        kd_bank_use *uses;
        assert_int_equal(kd_bank_uses(s, id, &uses), 3);
        assert_true(uses[0].job == 0xabcdef012345 && uses[0].wanted == 90);
        assert_true(uses[1].job == 1 && uses[1].wanted == 180);
        assert_true(uses[2].job == 2 && uses[2].wanted == 7);
        free(uses);
        /* A line that a crash tore, and what was never one. */
        snprintf(path, sizeof path, "%s/%s/uses", dir, id);
        FILE *f = fopen(path, "a");
        fputs("hello\n\n00000000000g 5\n000000000003 12", f);
        fclose(f);
    }
    kd_bank_store_close(s);
    s = open_store(dir);
    b = get(s);
    for (uint64_t job = 1; job <= 6000; job++)
        kd_bank_note_use(b, job, 1);
    kd_bank_use *uses;
    size_t n = kd_bank_uses(s, id, &uses);
    assert_in_range(n, 500, 1024);
    assert_true(uses[n - 1].job == 6000 && uses[n - 500].job == 5501);
    free(uses);
    kd_bank_store_close(s);
    free(id);
    kd_test_rmdir(dir);
}

static void test_bank_goes_when_nobody_has_it(void **state)
{
    (void)state;
    char *dir = kd_test_mkdir(), path[4096], left[4096];
    kd_bank_store *s = open_store(dir);
    kd_bank *b = get(s);
    kd_diag diag = {0};
    put(b, 0, 10, 10);
    char *id = bank_id(dir);
    kd_assert_fails(kd_bank_doom(s, id, path, &diag), KD_ESTATE, &diag, "being read or stored");
    kd_bank_release(b);
    kd_assert_fails(kd_bank_doom(s, "../bank", path, &diag), KD_EINVAL, &diag, "32 hex digits");
    kd_assert_ok(kd_bank_doom(s, id, path, &diag), &diag);
    kd_assert_fails(kd_bank_doom(s, id, left, &diag), KD_ENOENT, &diag, "no logit bank");
    assert_int_equal(access(path, F_OK), 0);
    /* A new one of that name begins anew, and what is left of the old one goes at the next start.
     */
    b = get(s);
    assert_int_equal(kd_bank_count(b), 0);
    put(b, 0, 5, 5);
    kd_bank_store_close(s);
    s = open_store(dir);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(kd_bank_count(get(s)), 5);
    kd_bank_store_close(s);
    free(id);
    kd_test_rmdir(dir);
}

static void check(kd_bank_store *s, const char *id, uint64_t blocks, uint64_t records, bool bad,
                  uint64_t at)
{
    atomic_bool stop = false;
    kd_bank_check c;
    kd_diag diag = {0};
    kd_assert_ok(kd_bank_verify(s, id, &stop, &c, &diag), &diag);
    assert_int_equal(c.blocks, blocks);
    assert_int_equal(c.records, records);
    assert_int_equal(c.bad, bad);
    assert_int_equal(c.bad_at, at);
}

static void test_bank_is_verified_block_by_block(void **state)
{
    (void)state;
    char *dir = kd_test_mkdir(), *data;
    kd_bank_store *s = open_store(dir);
    kd_bank *b = get(s);
    kd_diag diag = {0};
    kd_bank_about about;
    size_t len;
    put(b, 0, 100, 100);
    put(b, 100, 50, 50);
    char *id = bank_id(dir), *path = records_file(dir);
    check(s, id, 2, 150, false, 0);
    kd_assert_ok(kd_bank_describe(s, id, &about, &diag), &diag);
    assert_int_equal(about.records, 150);
    kd_bank_store_close(s);
    s = open_store(dir);
    check(s, id, 2, 150, false, 0);
    kd_assert_ok(kd_bank_describe(s, id, &about, &diag), &diag);
    assert_int_equal(about.records, 150);
    assert_int_equal(about.classes, CLASSES);
    assert_string_equal(about.teacher, "teacher");
    kd_assert_ok(kd_file_read(path, 1 << 20, &data, &len, &diag), &diag);
    const size_t second = 16 + 100 * RECORD;
    data[second + 16 + 3] ^= 1;
    kd_assert_ok(kd_file_write(path, data, len, &diag), &diag);
    check(s, id, 1, 100, true, second);
    data[second + 16 + 3] ^= 1;
    memset(data + 4, 0xff, 4); /* more records than there are bytes */
    kd_assert_ok(kd_file_write(path, data, len, &diag), &diag);
    check(s, id, 0, 0, true, 0);
    /* A stop ends it. */
    atomic_bool stop = true;
    kd_bank_check c;
    memcpy(data + 4, &(uint32_t){100}, 4);
    kd_assert_ok(kd_file_write(path, data, len, &diag), &diag);
    kd_assert_fails(kd_bank_verify(s, id, &stop, &c, &diag), KD_ECANCELED, &diag, "stopped");
    free(data);
    snprintf(strrchr(path, '/'), 16, "/bank.json");
    static const char *const damaged[] = {"", "{", "[]", "{\"classes\": -1}",
                                          "{\"classes\": 99999999999}"};
    for (size_t i = 0; i < KD_COUNT(damaged); i++) {
        kd_assert_ok(kd_file_write(path, damaged[i], strlen(damaged[i]), &diag), &diag);
        kd_assert_ok(kd_bank_describe(s, id, &about, &diag), &diag);
        assert_true(about.damaged);
        check(s, id, 0, 0, true, 0);
    }
    kd_bank_store_close(s);
    free(id);
    free(path);
    kd_test_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bank_keeps_what_was_put),
        cmocka_unit_test(test_bank_reports_other_bits),
        cmocka_unit_test(test_bank_cuts_a_torn_or_flipped_block),
        cmocka_unit_test(test_bank_of_another_key_is_another_bank),
        cmocka_unit_test(test_bank_remembers_its_jobs),
        cmocka_unit_test(test_bank_goes_when_nobody_has_it),
        cmocka_unit_test(test_bank_is_verified_block_by_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

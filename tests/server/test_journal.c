/* The journal of a stage's sums: what is in it comes back bit for bit or not at all, whatever byte
 * is lost or flipped, and it can be gone on with from its end. */
#include "kd_test.h"

#include "journal.h"
#include "kd/file.h"
#include "kd/rng.h"
#include "stage_case.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

struct fixture {
    char *dir, prefix[4096];
    kd_digest identity;
    uint64_t torn; /* what the last opening found */
    kd_rng rng;
    kd_diag diag;
};

static int setup(void **state)
{
    struct fixture *f = kd_xalloc(sizeof *f);
    f->dir = kd_test_mkdir();
    snprintf(f->prefix, sizeof f->prefix, "%s/stage1", f->dir);
    f->identity = kd_digest_of("a stage", 7);
    kd_rng_init(&f->rng, 5, KD_RNG_TEST, 5, 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kd_assert_ok(kd_file_remove_tree(f->dir, &f->diag), &f->diag);
    free(f->dir);
    free(f);
    return 0;
}

/* ---- sums that are a function of their name */

static void make_sum(uint64_t step, uint32_t chunk, float *sum, float *scale, kd_step_totals *t)
{
    for (size_t i = 0; i < len_of(chunk); i++)
        sum[i] = (float)(step * 100 + chunk * 10 + i) + 0.25f;
    *scale = 1 / (float)(step + chunk + 1);
    *t = (kd_step_totals){(double)step, (double)step / 3, (double)chunk, {0}};
    t->terms[KD_TERM_SUMS - 1] = (double)step + 0.5;
}

static kd_journal *open_at(struct fixture *f, uint64_t base)
{
    kd_journal *j = NULL;
    kd_assert_ok(kd_journal_open(f->prefix, &f->identity, CHUNKS, CHUNK_FLOATS, FLOATS, base, &j,
                                 &f->torn, &f->diag),
                 &f->diag);
    return j;
}

static int append(struct fixture *f, kd_journal *j, uint64_t step, uint32_t chunk)
{
    float sum[CHUNK_FLOATS], scale;
    kd_step_totals t;
    make_sum(step, chunk, sum, &scale, &t);
    return kd_journal_append(j, step, chunk, sum, scale, &t, &f->diag);
}

/* What is there is what was put there. */
static void check(struct fixture *f, kd_journal *j, uint64_t from, uint64_t to)
{
    uint64_t end = kd_journal_end(j);
    for (uint64_t step = from; step < to; step++)
        for (uint32_t k = 0; k < CHUNKS; k++) {
            float want[CHUNK_FLOATS], got[CHUNK_FLOATS], want_scale, scale;
            kd_step_totals want_totals, totals;
            make_sum(step, k, want, &want_scale, &want_totals);
            if (!kd_journal_has(j, step, k)) {
                assert_true(step >= end);
                assert_int_equal(kd_journal_read(j, step, k, got, &scale, &totals, &f->diag),
                                 -KD_ENOENT);
                continue;
            }
            kd_assert_ok(kd_journal_read(j, step, k, got, &scale, &totals, &f->diag), &f->diag);
            assert_memory_equal(got, want, len_of(k) * sizeof *got);
            assert_memory_equal(&scale, &want_scale, sizeof scale);
            if (k == 0)
                assert_memory_equal(&totals, &want_totals, sizeof totals);
        }
}

/* Steps [from, to) as a stage appends them, chunks in any order; a new file at each step in
 * `rolls`. */
static void write_steps(struct fixture *f, kd_journal *j, uint64_t from, uint64_t to,
                        uint64_t roll_every)
{
    for (uint64_t step = from; step < to; step++) {
        uint32_t order[CHUNKS] = {0, 1, 2};
        for (uint32_t i = CHUNKS - 1; i > 0; i--) {
            uint32_t at = (uint32_t)kd_rng_below(&f->rng, i + 1), o = order[i];
            order[i] = order[at];
            order[at] = o;
        }
        if (roll_every && step % roll_every == 0)
            kd_journal_roll(j, step);
        for (uint32_t i = 0; i < CHUNKS; i++) {
            kd_assert_ok(append(f, j, step, order[i]), &f->diag);
            assert_int_equal(kd_journal_end(j), i + 1 < CHUNKS ? step : step + 1);
        }
    }
}

/* ---- files */

struct image {
    char name[64][64];
    char *data[64];
    size_t len[64];
    size_t n;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void list(struct fixture *f, struct image *im)
{
    DIR *d = opendir(f->dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.')
            snprintf(im->name[im->n++], sizeof im->name[0], "%.60s", e->d_name);
    closedir(d);
    qsort(im->name, im->n, sizeof im->name[0], by_name);
}

/* Good until the next call. */
static const char *path_of(const struct fixture *f, const struct image *im, size_t i)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s/%s", f->dir, im->name[i]);
    return path;
}

static void take_image(struct fixture *f, struct image *im)
{
    list(f, im);
    for (size_t i = 0; i < im->n; i++)
        kd_assert_ok(kd_file_read(path_of(f, im, i), 1 << 20, &im->data[i], &im->len[i], &f->diag),
                     &f->diag);
}

static void put_image(struct fixture *f, const struct image *im)
{
    kd_journal_remove(f->prefix);
    for (size_t i = 0; i < im->n; i++) {
        int fd = open(path_of(f, im, i), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, im->data[i], im->len[i]), im->len[i]);
        close(fd);
    }
}

static void free_image(struct image *im)
{
    for (size_t i = 0; i < im->n; i++)
        free(im->data[i]);
}

/* Writes steps [from, to) and keeps what the files then hold; the caller frees it. */
static struct image written(struct fixture *f, uint64_t from, uint64_t to, uint64_t roll_every)
{
    struct image im = {0};
    kd_journal *j = open_at(f, from);
    write_steps(f, j, from, to, roll_every);
    kd_journal_close(j);
    take_image(f, &im);
    return im;
}

/* ---- the tests */

/* What is left is right, and the journal can be gone on with: after the missing steps are made
 * again all of it is there, in this process and in the next. */
static void goes_on(struct fixture *f, uint64_t base, uint64_t to, bool damaged)
{
    kd_journal *j = open_at(f, base);
    assert_int_equal(f->torn > 0, damaged);
    uint64_t end = kd_journal_end(j);
    assert_true(end >= base && end <= to);
    check(f, j, base, to);
    for (uint64_t step = end; step < to; step++)
        for (uint32_t k = 0; k < CHUNKS; k++)
            kd_assert_ok(append(f, j, step, k), &f->diag);
    assert_int_equal(kd_journal_end(j), to);
    kd_journal_close(j);
    j = open_at(f, base);
    assert_int_equal(f->torn, 0);
    assert_int_equal(kd_journal_end(j), to);
    check(f, j, base, to);
    kd_journal_close(j);
}

static void comes_back(void **state)
{
    struct fixture *f = *state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        kd_rng_init(&f->rng, 77, KD_RNG_TEST, seed, 0);
        uint64_t base = 1 + kd_rng_below(&f->rng, 5), step = base;
        kd_journal_remove(f->prefix);
        for (int life = 0; life < 4; life++) {
            kd_journal *j = open_at(f, base);
            assert_int_equal(f->torn, 0);
            assert_int_equal(kd_journal_end(j), step);
            check(f, j, base, step);
            uint64_t more = 1 + kd_rng_below(&f->rng, 8);
            write_steps(f, j, step, step + more, 1 + kd_rng_below(&f->rng, 4));
            step += more;
            if (kd_rng_below(&f->rng, 2)) { /* a checkpoint somewhere behind */
                base += kd_rng_below(&f->rng, (uint32_t)(step - base) + 1);
                kd_journal_cut(j, base);
                assert_false(kd_journal_has(j, base - 1, 0));
            }
            check(f, j, base, step);
            kd_journal_close(j);
        }
    }
}

static void crashes_at_any_byte(void **state)
{
    struct fixture *f = *state;
    struct image im = written(f, 3, 9, 4);
    assert_int_equal(im.n, 3); /* from steps 3, 4 and 8 on */
    size_t last = im.n - 1, whole = im.len[last], cut_clean = 0;
    for (size_t len = 0; len < whole; len++) {
        put_image(f, &im);
        assert_int_equal(truncate(path_of(f, &im, last), (off_t)len), 0);
        kd_journal *j = open_at(f, 3);
        assert_true(f->torn < whole);
        cut_clean += f->torn == 0 && len > 0;
        assert_true(kd_journal_end(j) == 8);
        kd_journal_close(j);
        goes_on(f, 3, 9, false);
    }
    assert_int_equal(cut_clean, CHUNKS); /* just behind the file's head and two of its records */
    free_image(&im);
}

static void any_byte_flips(void **state)
{
    struct fixture *f = *state;
    struct image im = written(f, 3, 9, 4);
    for (size_t i = 0; i < im.n; i++)
        for (size_t at = 0; at < im.len[i]; at++) {
            im.data[i][at] ^= (char)(1 << at % 8);
            put_image(f, &im);
            goes_on(f, 3, 9, true);
            im.data[i][at] ^= (char)(1 << at % 8);
        }
    free_image(&im);
}

static void files_vanish(void **state)
{
    struct fixture *f = *state;
    struct image im = written(f, 3, 12, 3);
    assert_int_equal(im.n, 3); /* in order of their names: from steps 3, 6 and 9 on */
    for (size_t i = 0; i < im.n; i++) {
        put_image(f, &im);
        assert_int_equal(unlink(path_of(f, &im, i)), 0);
        /* The last one leaves no trace: that much is computed again. */
        goes_on(f, 3, 12, i + 1 < im.n);
    }
    free_image(&im);
}

static void other_stages(void **state)
{
    struct fixture *f = *state;
    kd_journal *j = open_at(f, 1);
    write_steps(f, j, 1, 5, 0);
    kd_journal_close(j);
    f->identity = kd_digest_of("another", 7);
    j = open_at(f, 1);
    assert_int_equal(kd_journal_end(j), 1);
    kd_journal_close(j);
}

static void old_files_go(void **state)
{
    struct fixture *f = *state;
    kd_journal *j = open_at(f, 1);
    write_steps(f, j, 1, 13, 3); /* files from 1, 3, 6, 9 and 12 on */
    uint64_t before = kd_journal_bytes(j);
    kd_journal_cut(j, 8);
    struct image im = {0};
    list(f, &im);
    assert_int_equal(im.n, 3);
    assert_string_equal(im.name[1], "stage1-journal-6");
    assert_true(kd_journal_bytes(j) < before);
    assert_int_equal(kd_journal_end(j), 13);
    check(f, j, 8, 13);
    kd_journal_close(j);
    goes_on(f, 8, 13, false);
    kd_journal_remove(f->prefix);
    im = (struct image){0};
    list(f, &im);
    assert_int_equal(im.n, 0);
}

/* A full disk, played by a limit on the size of files, at any byte of what is appended. */
static void no_room(void **state)
{
    struct fixture *f = *state;
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t limit = 0; limit < 700; limit += 13) {
        struct rlimit old, small;
        kd_journal_remove(f->prefix);
        kd_journal *j = open_at(f, 1);
        getrlimit(RLIMIT_FSIZE, &old);
        small = old;
        small.rlim_cur = limit;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        uint64_t step = 1;
        uint32_t k = 0;
        int rc = 0;
        while ((rc = append(f, j, step, k)) == 0) {
            k = (k + 1) % CHUNKS;
            step += k == 0;
            assert_true(step < 50);
        }
        assert_int_equal(rc, -KD_ELIMIT);
        assert_false(kd_journal_has(j, step, k));
        assert_int_equal(append(f, j, step, k), -KD_ELIMIT);
        check(f, j, 1, step + 1);
        setrlimit(RLIMIT_FSIZE, &old);
        kd_assert_ok(append(f, j, step, k), &f->diag);
        check(f, j, 1, step + 1);
        kd_journal_close(j);
        goes_on(f, 1, step + 2, false);
    }
}

static void what_is_kept_free(void **state)
{
    struct fixture *f = *state;
    kd_journal *j = open_at(f, 1);
    kd_journal_keep_free(j, UINT64_MAX);
    assert_int_equal(append(f, j, 1, 0), -KD_ELIMIT);
    assert_non_null(strstr(f->diag.msg, "--min-free"));
    assert_false(kd_journal_has(j, 1, 0));
    kd_journal_keep_free(j, 1);
    kd_assert_ok(append(f, j, 1, 0), &f->diag);
    kd_journal_close(j);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(comes_back),   CASE(crashes_at_any_byte), CASE(any_byte_flips),
        CASE(files_vanish), CASE(other_stages),        CASE(old_files_go),
        CASE(no_room),      CASE(what_is_kept_free),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

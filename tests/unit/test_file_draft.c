/* Drafts: files that come in pieces and get their names at the end. */
#include "kd_test.h"

#include "kd/file.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

static char *g_dir, g_path[300];
static kd_diag g_diag;

static int setup(void **state)
{
    (void)state;
    g_dir = kd_test_mkdir();
    snprintf(g_path, sizeof g_path, "%s/file", g_dir);
    kd_assert_ok(kd_file_write(g_path, "old", 3, &g_diag), &g_diag);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    kd_test_rmdir(g_dir);
    return 0;
}

/* The file has that content, and `files` lie in the folder. */
static void holds(const char *content, int files)
{
    char *data;
    size_t len;
    int n = 0;
    kd_assert_ok(kd_file_read(g_path, 100, &data, &len, &g_diag), &g_diag);
    assert_string_equal(data, content);
    free(data);
    DIR *dir = opendir(g_dir);
    assert_non_null(dir);
    for (const struct dirent *e; (e = readdir(dir));)
        n += e->d_name[0] != '.';
    closedir(dir);
    assert_int_equal(n, files);
}

static mode_t mode(void)
{
    struct stat st;
    assert_int_equal(stat(g_path, &st), 0);
    return st.st_mode & 0777;
}

static void test_file_draft_pieces(void **state)
{
    (void)state;
    kd_file_draft d = KD_FILE_DRAFT_INIT;
    kd_assert_ok(kd_file_draft_open(g_path, &d, &g_diag), &g_diag);
    kd_assert_ok(kd_file_draft_add(&d, "one ", 4, &g_diag), &g_diag);
    kd_assert_ok(kd_file_draft_add(&d, "two", 3, &g_diag), &g_diag);
    kd_assert_ok(kd_file_draft_sync(&d, 0644, &g_diag), &g_diag);
    holds("old", 2);
    kd_assert_ok(kd_file_draft_place(&d, &g_diag), &g_diag);
    holds("one two", 1);
    kd_file_draft_clear(&d);
    holds("one two", 1);
    assert_int_equal(mode(), 0644);
    /* Nothing is added to a mode that nobody asked for. */
    kd_assert_ok(kd_file_write(g_path, "own", 3, &g_diag), &g_diag);
    assert_int_equal(mode(), 0600);
}

static void test_file_draft_given_up(void **state)
{
    (void)state;
    kd_file_draft d = KD_FILE_DRAFT_INIT;
    kd_file_draft_clear(&d);
    kd_assert_ok(kd_file_draft_open(g_path, &d, &g_diag), &g_diag);
    kd_assert_ok(kd_file_draft_add(&d, "new", 3, &g_diag), &g_diag);
    kd_file_draft_clear(&d);
    holds("old", 1);
    char path[320];
    snprintf(path, sizeof path, "%s/none/file", g_dir);
    kd_assert_fails(kd_file_draft_open(path, &d, &g_diag), KD_ENOENT, &g_diag,
                    "none/file: No such");
    assert_int_equal(d.fd, -1);
    /* Where there is a folder in its place. */
    assert_int_equal(unlink(g_path), 0);
    assert_int_equal(mkdir(g_path, 0700), 0);
    kd_assert_ok(kd_file_draft_open(g_path, &d, &g_diag), &g_diag);
    kd_assert_fails(kd_file_draft_place(&d, &g_diag), KD_EIO, &g_diag, "cannot rename");
    kd_file_draft_clear(&d);
    assert_int_equal(rmdir(g_path), 0);
    kd_assert_ok(kd_file_write(g_path, "old", 3, &g_diag), &g_diag);
    holds("old", 1);
}

static volatile sig_atomic_t g_rings;

static void on_alarm(int signal)
{
    (void)signal;
    g_rings = g_rings + 1;
}

static int thrice(void)
{
    return g_rings >= 3;
}

/* A device and a pipe; a write that nobody takes ends when it is told to, and not before. */
static void test_file_draft_there(void **state)
{
    (void)state;
    static const char much[1 << 20];
    kd_file_draft d = KD_FILE_DRAFT_INIT;
    kd_assert_ok(kd_file_draft_open_there("/dev/full", &d, &g_diag), &g_diag);
    kd_assert_fails(kd_file_draft_add(&d, "x", 1, &g_diag), KD_ELIMIT, &g_diag,
                    "cannot write /dev/full: No space left");
    kd_file_draft_clear(&d);
    struct stat st;
    assert_int_equal(stat("/dev/full", &st), 0);
    int ends[2];
    char path[64], got[4] = "";
    assert_int_equal(pipe(ends), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", ends[1]);
    kd_assert_ok(kd_file_draft_open_there(path, &d, &g_diag), &g_diag);
    kd_assert_ok(kd_file_draft_add(&d, "abc", 3, &g_diag), &g_diag);
    kd_assert_ok(kd_file_draft_sync(&d, 0644, &g_diag), &g_diag);
    kd_assert_ok(kd_file_draft_place(&d, &g_diag), &g_diag);
    assert_int_equal(read(ends[0], got, 3), 3);
    assert_string_equal(got, "abc");
    const struct sigaction ring = {.sa_handler = on_alarm};
    const struct itimerval often = {{0, 20000}, {0, 20000}}, never = {{0, 0}, {0, 0}};
    assert_int_equal(sigaction(SIGALRM, &ring, NULL), 0);
    assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
    d.stop = thrice;
    const int rc = kd_file_draft_add(&d, much, sizeof much, &g_diag);
    assert_int_equal(setitimer(ITIMER_REAL, &never, NULL), 0);
    kd_assert_fails(rc, KD_EIO, &g_diag, "Interrupted");
    assert_true(g_rings >= 3);
    kd_file_draft_clear(&d);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_file_draft_pieces, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_draft_given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_draft_there, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

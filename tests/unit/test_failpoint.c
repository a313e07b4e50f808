/* Failpoints: what the variable may say, and each action at work in a process of its own. */
#include "kd_test.h"

#include "kd/failpoint.h"
#include "kd/file.h"

#ifdef KD_FAILPOINTS
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void refuses(const char *text, const char *word)
{
    char why[256] = "";
    if (kd_failpoints_arm(text, why))
        fail_msg("%s was taken", text);
    if (!strstr(why, word))
        fail_msg("\"%s\" does not speak of %s", why, word);
}

static void test_refusals(void **state)
{
    (void)state;
    char why[256];
    refuses("file.writ=kill", "file.writ");
    refuses("file.write", "NAME=ACTION");
    refuses("file.write=die", "die");
    refuses("file.write=kill:3", "kill:3");
    refuses("file.write=kill@0", "file.write");
    refuses("file.write=kill@x", "file.write");
    refuses("file.write=error:EWHAT", "EIO");
    refuses("file.write=delay", "delay");
    refuses("file.write=delay:-1", "delay");
    refuses("file.write=delay:99999999999999999999", "delay");
    refuses("file.renamed=error", "cannot fail");
    refuses("file.write=kill;file.renam=kill", "file.renam");
    /* A refused text arms nothing, not even its good entries. */
    assert_false(kd_failpoint_hit("file.write"));
    assert_true(kd_failpoints_arm("", why));
    assert_true(kd_failpoints_arm(";file.write=error:ENOSPC@2;;", why));
    assert_true(kd_failpoints_arm("*=delay:0;file.write=error", why));
    assert_true(kd_failpoints_arm("", why));
}

static void test_error_at_a_hit(void **state)
{
    (void)state;
    char why[256], path[] = "/tmp/kd-failpoint-XXXXXX", *data;
    size_t len;
    kd_diag diag = {0};
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_true(kd_failpoints_arm("file.rename=error:ENOSPC@2", why));
    assert_int_equal(kd_file_write(path, "one", 3, &diag), 0);
    assert_int_equal(kd_file_write(path, "two", 3, &diag), -KD_ELIMIT);
    assert_non_null(strstr(diag.msg, "No space left"));
    assert_int_equal(kd_file_read(path, 16, &data, &len, &diag), 0);
    assert_string_equal(data, "one");
    free(data);
    assert_int_equal(kd_file_write(path, "three", 5, &diag), 0);
    /* A star leaves an entry of its own alone, wherever it stands. */
    assert_true(kd_failpoints_arm("file.rename=error:ENOSPC@9;*=error:EACCES", why));
    assert_int_equal(kd_file_write(path, "four", 4, &diag), -KD_EPERM);
    assert_true(kd_failpoints_arm("", why));
    unlink(path);
}

/* How a child ends that writes two files with the failpoints armed. */
static int child(const char *text, const char *path)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char why[256];
        kd_diag diag;
        bool armed = kd_failpoints_arm(text, why);
        int rc = armed ? kd_file_write(path, "old", 3, &diag) : 1;
        rc = rc == 0 ? kd_file_write(path, "new", 3, &diag) : rc;
        _exit(rc == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    if (WIFSTOPPED(status)) {
        kill(pid, SIGCONT);
        int after;
        assert_int_equal(waitpid(pid, &after, 0), pid);
        assert_int_equal(after, 0);
    }
    return status;
}

static void test_kill_and_stop(void **state)
{
    (void)state;
    static const struct {
        const char *at, *content;
    } cases[] = {
        {"file.write=kill@2", "old"},
        {"file.fsync=kill@3", "old"}, /* the first file has two: its own and the folder's */
        {"file.rename=kill@2", "old"},
        {"file.renamed=kill@2", "new"},
        {"file.synced=kill@2", "new"}};
    char folder[] = "/tmp/kd-failpoint-XXXXXX", path[64], *data;
    size_t len;
    kd_diag diag;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        int status = child(cases[i].at, path);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_int_equal(kd_file_read(path, 16, &data, &len, &diag), 0);
        assert_string_equal(data, cases[i].content);
        free(data);
    }
    assert_true(WIFSTOPPED(child("file.rename=stop@2", path)));
    int status = child("file.fsync=error:EIO", path);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_int_equal(child("file.rename=delay:1", path), 0);
    assert_int_equal(kd_file_remove_tree(folder, &diag), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_error_at_a_hit),
                                       cmocka_unit_test(test_kill_and_stop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
/* A build without them must compile the macros to nothing, an undefined function included. */
static void test_nothing(void **state)
{
    (void)state;
    KD_FAILPOINTS_START();
    KD_FAILPOINT("no such name");
    assert_false(KD_FAILPOINT_FAILS("no such name"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif

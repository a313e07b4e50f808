/* Contexts, and where a command's settings come from. */
#include "client_run.h"

#include "contexts.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char *g_dir, *g_out, *g_err;

static int distill(const char *const *words)
{
    free(g_out);
    free(g_err);
    g_out = g_err = NULL;
    return kd_run_distill(g_dir, &g_out, &g_err, words);
}
#define RUNS(rc, says, talks, ...)                                                                 \
    do {                                                                                           \
        int rc_ = distill((const char *[]){__VA_ARGS__, NULL});                                    \
        if (rc_ != (rc) || !strstr(g_out, says) || !strstr(g_err, talks))                          \
            fail_msg("exit code %d\n%s\n%s", rc_, g_out, g_err);                                   \
    } while (0)

static const char *const g_env[] = {"DISTILL_SERVER", "DISTILL_CONTEXT", "DISTILL_CREDENTIALS",
                                    "DISTILL_INSECURE", "NO_COLOR"};

static int fresh(void **state)
{
    char config[300];
    (void)state;
    g_dir = kd_test_mkdir();
    snprintf(config, sizeof config, "%s/config", g_dir);
    setenv("DISTILL_CONFIG", config, 1);
    for (size_t i = 0; i < KD_COUNT(g_env); i++)
        unsetenv(g_env[i]);
    return 0;
}

static int clear(void **state)
{
    (void)state;
    kd_test_rmdir(g_dir);
    free(g_out);
    free(g_err);
    g_out = g_err = NULL;
    return 0;
}

static void test_contexts_add_use_remove(void **state)
{
    (void)state;
    RUNS(0, "", "there are no contexts", "context", "ls");
    RUNS(0, "near is 127.0.0.1:7001", "", "context", "add", "near", "--server", "127.0.0.1:7001");
    RUNS(0, "far is far.example:7070",
         "distill login TOKEN --server far.example:7070 --context far", "context", "add", "far",
         "--server", "far.example");
    RUNS(KD_EXIT_CONFLICT, "", "there is a context far already, for far.example:7070", "context",
         "add", "far", "--server", "other");
    RUNS(0, "far\nnear\n", "", "context", "ls", "-o", "name");
    RUNS(0, "near is in use: 127.0.0.1:7001", "", "context", "use", "near");
    RUNS(0, "true,near,127.0.0.1:7001,,,,false,\r\n", "", "context", "ls", "-o", "csv");
    RUNS(KD_EXIT_USAGE, "", "there is no context naer; did you mean near?", "context", "use",
         "naer");
    RUNS(KD_EXIT_USAGE, "", "cannot name a context", "context", "use", "../x");
    RUNS(KD_EXIT_USAGE, "", "cannot name a context", "--context", "a/b", "config");
    RUNS(KD_EXIT_USAGE, "", "context add needs --server", "context", "add", "x");
    RUNS(KD_EXIT_USAGE, "", "context use needs a NAME", "context", "use");
    RUNS(KD_EXIT_USAGE, "", "no such thing as \"drop\"", "context", "drop", "x");
    RUNS(0, "near is removed", "", "context", "rm", "near");
    char name[KD_CONTEXT_NAME];
    assert_false(kd_context_current(name));
    RUNS(0, "{\"name\":\"far\"", "", "context", "rm", "far", "-o", "jsonl");
    RUNS(KD_EXIT_USAGE, "", "there is no context far", "context", "rm", "far");
}

/* The row of one setting. */
static void holds(const char *setting, const char *value, const char *from)
{
    char *line = g_out;
    while (*line && strncmp(line, setting, strlen(setting)) != 0)
        line += strcspn(line, "\n") + (strchr(line, '\n') != NULL);
    if (!*line)
        fail_msg("no %s in:\n%s", setting, g_out);
    line[strcspn(line, "\n")] = '\0';
    if (!strstr(line, value) || !strstr(line, from))
        fail_msg("%s of %s was expected: %s", value, from, line);
}

static void test_contexts_what_goes_before_what(void **state)
{
    (void)state;
    RUNS(0, "", "", "config");
    holds("server", "127.0.0.1:7070", "default");
    RUNS(0, "", "", "context", "add", "a", "--server", "127.0.0.1:7001");
    RUNS(0, "", "", "context", "add", "b", "--server", "127.0.0.1:7002");
    RUNS(0, "", "", "context", "use", "a");
    RUNS(0, "", "", "config");
    holds("server", "127.0.0.1:7001", "the context");
    setenv("DISTILL_CONTEXT", "b", 1);
    RUNS(0, "", "", "config");
    holds("server", "127.0.0.1:7002", "the context");
    setenv("DISTILL_SERVER", "127.0.0.1:7003", 1);
    RUNS(0, "", "", "config");
    holds("server", "127.0.0.1:7003", "DISTILL_SERVER");
    RUNS(0, "", "", "config", "--context", "a");
    holds("server", "127.0.0.1:7001", "the context");
    RUNS(0, "", "", "config", "--context", "a", "--server", "127.0.0.1:7004");
    holds("server", "127.0.0.1:7004", "--server");
    /* A server by its address brings its own context with it. */
    unsetenv("DISTILL_CONTEXT");
    RUNS(0, "", "", "config", "--server", "127.0.0.1:7002");
    holds("context", "b", "its server");
    RUNS(0, "", "note: DISTILL_SERVER=127.0.0.1:7003 goes before the context in use", "context",
         "use", "a");
}

static void test_contexts_missing_one(void **state)
{
    (void)state;
    RUNS(KD_EXIT_USAGE, "", "there is no context gone (from --context)", "jobs", "--context",
         "gone");
    setenv("DISTILL_CONTEXT", "gone", 1);
    RUNS(KD_EXIT_USAGE, "", "there is no context gone (from DISTILL_CONTEXT)", "jobs");
    /* What asks no coordinator needs no context. */
    RUNS(0, "distill ", "", "version");
    RUNS(0, "", "note: there is no context gone", "config");
}

static void test_contexts_protection(void **state)
{
    (void)state;
    RUNS(0, "", "", "context", "add", "far", "--server", "far.example:1");
    RUNS(KD_EXIT_AUTH, "", "there is no certificate for far.example:1", "jobs", "--context", "far");
    RUNS(0, "", "", "context", "add", "open", "--server", "far.example:2", "--insecure");
    RUNS(0, "", "", "config", "--context", "open");
    holds("insecure", "yes", "the context");
    RUNS(0, "", "", "config", "--context", "far");
    holds("insecure", "no", "default");
}

/* Files of a context that somebody has spoilt. */
static void test_contexts_hostile_files(void **state)
{
    (void)state;
    char path[600], *text = calloc(1, 9000);
    kd_diag diag = {0};
    RUNS(0, "", "", "context", "add", "a", "--server", "127.0.0.1:7001");
    snprintf(path, sizeof path, "%s/config/contexts/a/server", g_dir);
    memset(text, 'x', 8999);
    kd_assert_ok(kd_file_write(path, text, 8999, &diag), &diag);
    RUNS(KD_EXIT_USAGE, "", "there is no context a", "jobs", "--context", "a");
    kd_assert_ok(kd_file_write(path, "not a server\n", 13, &diag), &diag);
    RUNS(KD_EXIT_USAGE, "", "the server is not HOST:PORT", "jobs", "--context", "a");
    snprintf(path, sizeof path, "%s/config/context", g_dir);
    kd_assert_ok(kd_file_write(path, "../../etc\n", 10, &diag), &diag);
    RUNS(0, "", "", "config");
    holds("context", "none", "default");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_contexts_add_use_remove, fresh, clear),
        cmocka_unit_test_setup_teardown(test_contexts_what_goes_before_what, fresh, clear),
        cmocka_unit_test_setup_teardown(test_contexts_missing_one, fresh, clear),
        cmocka_unit_test_setup_teardown(test_contexts_protection, fresh, clear),
        cmocka_unit_test_setup_teardown(test_contexts_hostile_files, fresh, clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

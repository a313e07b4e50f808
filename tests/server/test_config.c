/* The settings of distilld: the file that `distilld init` writes says the truth, and what is no
 * setting is refused with its line. */
#include "kd_test.h"

#include "config.h"
#include "kd/file.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fixture {
    char *dir, path[256];
    kd_daemon_config defaults;
    kd_diag diag;
};

static void options(kd_daemon_config *cfg, char *flag, char *value)
{
    char *argv[] = {(char *)"distilld", flag, value, NULL};
    *cfg = (kd_daemon_config){0};
    optind = 0;
    assert_int_equal(kd_daemon_options(flag ? (value ? 3 : 2) : 1, argv, cfg), -1);
}

static int setup(void **state)
{
    struct fixture *f = kd_xalloc(sizeof *f);
    f->dir = kd_test_mkdir();
    snprintf(f->path, sizeof f->path, "%s/distilld.yaml", f->dir);
    options(&f->defaults, NULL, NULL);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kd_test_rmdir(f->dir);
    free(f);
    return 0;
}

static void put_file(struct fixture *f, const char *text, size_t len)
{
    kd_assert_ok(kd_file_write(f->path, text, len, &f->diag), &f->diag);
}

static void assert_same(const kd_daemon_config *a, const kd_daemon_config *b)
{
    assert_int_equal(a->heartbeat_ms, b->heartbeat_ms);
    assert_int_equal(a->lease_ms, b->lease_ms);
    assert_true(a->min_free == b->min_free);
    assert_int_equal(a->insecure, b->insecure);
    assert_true(a->certificate_life_s == b->certificate_life_s);
    assert_memory_equal(&a->quotas, &b->quotas, sizeof a->quotas);
    assert_memory_equal(&a->keep, &b->keep, sizeof a->keep);
    assert_int_equal(a->hooks.command.n, b->hooks.command.n);
    assert_int_equal(a->hooks.kinds.n, b->hooks.kinds.n);
    assert_true(a->hooks.timeout_s == b->hooks.timeout_s);
    assert_string_equal(a->hooks.url ? a->hooks.url : "", b->hooks.url ? b->hooks.url : "");
}

/* What is shown commented out is what holds without it. */
static void test_config_examples_are_defaults(void **state)
{
    struct fixture *f = *state;
    kd_buf text;
    kd_buf_init(&text, 65536);
    kd_config_write("/var/lib/\"distilld\"", "0.0.0.0:7070", &text);
    for (size_t i = 0; i < kd_n_settings; i++) {
        char key[64], *at;
        snprintf(key, sizeof key, "\n# %s: ", kd_settings[i].key);
        at = strstr(text.data, key);
        if (at)
            memmove(at + 1, at + 3, strlen(at + 3) + 1);
    }
    put_file(f, text.data, strlen(text.data));
    kd_buf_clear(&text);
    kd_daemon_config cfg = {0};
    kd_assert_ok(kd_config_read(f->path, &cfg, &f->diag), &f->diag);
    assert_string_equal(cfg.state_dir, "/var/lib/\"distilld\"");
    assert_string_equal(cfg.listen, "0.0.0.0:7070");
    assert_same(&cfg, &f->defaults);
}

/* Flag before environment before file before default. */
static void test_config_order(void **state)
{
    struct fixture *f = *state;
    static const char text[] = "listen: 127.0.0.1:1\nstate_dir: /file\nmin_free: 1G\n";
    char flag[300];
    kd_daemon_config cfg;
    put_file(f, text, sizeof text - 1);
    snprintf(flag, sizeof flag, "--config=%s", f->path);
    options(&cfg, flag, NULL);
    assert_string_equal(cfg.listen, "127.0.0.1:1");
    assert_string_equal(cfg.state_dir, "/file");
    assert_true(cfg.min_free == 1u << 30);
    assert_int_equal(cfg.lease_ms, f->defaults.lease_ms);
    setenv("DISTILLD_LISTEN", "127.0.0.1:2", 1);
    options(&cfg, flag, NULL);
    assert_string_equal(cfg.listen, "127.0.0.1:2");
    options(&cfg, flag, (char *)"--listen=127.0.0.1:3");
    assert_string_equal(cfg.listen, "127.0.0.1:3");
    assert_string_equal(cfg.state_dir, "/file");
    unsetenv("DISTILLD_LISTEN");
}

static void test_config_refuses(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *text, *says;
    } rows[] = {
        {"lisen: x\n", ":1: unknown key \"lisen\""},
        {"\nlease-ms: 9000\n", ":2: unknown key"},
        {"lease_ms: 9000\nlease_ms: 9000\n", ":2: lease_ms is there twice"},
        {"lease_ms: many\n", ":1: lease_ms: wants a whole number from 100"},
        {"lease_ms: -1\n", "wants a whole number"},
        {"lease_ms: 99999999999999999999\n", "wants a whole number"},
        {"min_free: 9999999999G\n", "wants a size"},
        {"min_free: 1T\n", "wants a size"},
        {"certificate_life: 0s\n", "wants a duration"},
        {"certificate_life: 99999d\n", "wants a duration"},
        {"insecure: perhaps\n", "wants true or false"},
        {"log_level: loud\n", "wants err, warn"},
        {"log_format: xml\n", "wants text or json"},
        {"listen:\n", "wants a HOST:PORT"},
        {"listen: [a, b]\n", ":1: listen: one value is expected"},
        {"listen: {a: b}\n", "one `key: value` a line"},
        {"\nhook_command: [/x, [y]]\n", ":2: hook_command: a list of words"},
        {"hook_timeout: 0s\n", "wants a duration"},
        {"keep_logs: -1d\n", "wants a duration"},
        {"keep_banks_size: lots\n", "wants a size"},
        {"? [a]\n: b\n", "one `key: value` a line"},
        {"- a\n- b\n", "lines of `key: value`"},
        {"just words\n", "lines of `key: value`"},
        {"listen: \"x\n", ":"},
        {"a: &a b\nlisten: *b\n", ":"},
        {"\x01\x02\xff", ":"},
    };
    for (size_t i = 0; i < KD_COUNT(rows); i++) {
        kd_daemon_config cfg = f->defaults;
        put_file(f, rows[i].text, strlen(rows[i].text));
        kd_assert_fails(kd_config_read(f->path, &cfg, &f->diag), KD_EINVAL, &f->diag, rows[i].says);
    }
    char *big = kd_xalloc(70000);
    kd_daemon_config cfg = f->defaults;
    memset(big, '#', 69999);
    put_file(f, big, 69999);
    kd_assert_fails(kd_config_read(f->path, &cfg, &f->diag), KD_ELIMIT, &f->diag, "at most");
    memcpy(big, "listen: ", 8);
    memset(big + 8, 'a', 2000);
    put_file(f, big, 2008);
    kd_assert_fails(kd_config_read(f->path, &cfg, &f->diag), KD_EINVAL, &f->diag, "too long");
    put_file(f, "", 0);
    kd_assert_ok(kd_config_read(f->path, &cfg, &f->diag), &f->diag);
    free(big);
}

static void test_config_lists(void **state)
{
    struct fixture *f = *state;
    kd_daemon_config cfg = f->defaults;
    static const char text[] = "hook_command: [/bin/notify, \"two words\", '']\n"
                               "hook_events:\n- fail\n- stall\n";
    put_file(f, text, sizeof text - 1);
    kd_assert_ok(kd_config_read(f->path, &cfg, &f->diag), &f->diag);
    assert_int_equal(cfg.hooks.command.n, 3);
    assert_string_equal(kd_words_at(&cfg.hooks.command, 0), "/bin/notify");
    assert_string_equal(kd_words_at(&cfg.hooks.command, 1), "two words");
    assert_string_equal(kd_words_at(&cfg.hooks.command, 2), "");
    assert_int_equal(cfg.hooks.kinds.n, 2);
    options(&cfg, (char *)"--hook-command", (char *)"  /bin/echo  a   b ");
    assert_int_equal(cfg.hooks.command.n, 3);
    assert_string_equal(kd_words_at(&cfg.hooks.command, 2), "b");
    /* No more than there is room for. */
    kd_words w = {0};
    char *big = kd_xalloc(KD_WORDS_TEXT + 1);
    memset(big, 'x', KD_WORDS_TEXT);
    kd_assert_fails(kd_words_add(&w, big, &f->diag), KD_ELIMIT, &f->diag, "more than");
    big[KD_WORDS_TEXT - 1] = '\0';
    kd_assert_ok(kd_words_add(&w, big, &f->diag), &f->diag);
    kd_assert_fails(kd_words_add(&w, "", &f->diag), KD_ELIMIT, &f->diag, "more than");
    w = (kd_words){0};
    for (int i = 0; i < KD_WORDS; i++)
        kd_assert_ok(kd_words_add(&w, "word", &f->diag), &f->diag);
    kd_assert_fails(kd_words_add(&w, "word", &f->diag), KD_ELIMIT, &f->diag, "more than");
    free(big);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_config_examples_are_defaults),
        TEST(test_config_order),
        TEST(test_config_refuses),
        TEST(test_config_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

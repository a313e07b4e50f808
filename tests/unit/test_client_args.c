/* Flag parsing, suggestions and server addresses of the command line. */
#include "kd_test.h"

#include "args.h"
#include "cli.h"
#include "kd/rng.h"

#include <stdlib.h>
#include <string.h>

static const kd_opt g_opts[] = {
    {"set", 0, "KEY=VALUE", ""}, {"quiet", 'q', NULL, ""},       {"watch", 'w', NULL, ""},
    {"limit", 'n', "N", ""},     {"timeout", 0, "DURATION", ""},
};

static int parse(kd_args *a, char *hint, kd_diag *diag, int argc, const char *const *words)
{
    char **argv = calloc((size_t)argc + 1, sizeof *argv);
    for (int i = 0; i < argc; i++)
        argv[i] = (char *)words[i];
    int rc = kd_args_parse(g_opts, KD_COUNT(g_opts), kd_global_opts, kd_n_global_opts, argc, argv,
                           a, hint, 96, diag);
    free(argv);
    return rc;
}
#define PARSE(...)                                                                                 \
    parse(&a, hint, &diag, (int)KD_COUNT(((const char *[]){__VA_ARGS__})),                         \
          (const char *[]){__VA_ARGS__})

static void test_args_forms(void **state)
{
    (void)state;
    kd_args a;
    char hint[96];
    kd_diag diag = {0};
    kd_assert_ok(PARSE("job.yaml", "--set", "a=1", "--set=b=2", "-qw", "-n5", "--server", "h:1",
                       "-o", "json", "--", "--not-a-flag", "-"),
                 &diag);
    assert_int_equal(a.n_operands, 3);
    assert_string_equal(a.operands[0], "job.yaml");
    assert_string_equal(a.operands[1], "--not-a-flag");
    assert_string_equal(a.operands[2], "-");
    const char *sets[4];
    assert_int_equal(kd_args_values(&a, "set", sets, 4), 2);
    assert_string_equal(sets[0], "a=1");
    assert_string_equal(sets[1], "b=2");
    assert_true(kd_args_has(&a, "quiet"));
    assert_true(kd_args_has(&a, "watch"));
    assert_false(kd_args_has(&a, "timeout"));
    assert_string_equal(kd_args_value(&a, "limit"), "5");
    assert_string_equal(kd_args_value(&a, "server"), "h:1");
    assert_string_equal(kd_args_value(&a, "output"), "json");
    assert_null(kd_args_value(&a, "timeout"));
    kd_args_clear(&a);
}

static void test_args_last_value_wins(void **state)
{
    (void)state;
    kd_args a;
    char hint[96];
    kd_diag diag = {0};
    kd_assert_ok(PARSE("-n", "5", "--limit=6", "-", "-n7"), &diag);
    uint64_t v = 0;
    kd_assert_ok(kd_args_u64(&a, "limit", 1, 10, 9, &v, &diag), &diag);
    assert_int_equal(v, 7);
    assert_int_equal(a.n_operands, 1);
    kd_args_clear(&a);
}

static void refused(const char *message, const char *expected_hint, int argc,
                    const char *const *words)
{
    kd_args a;
    char hint[96];
    kd_diag diag = {0};
    kd_assert_fails(parse(&a, hint, &diag, argc, words), KD_EINVAL, &diag, message);
    assert_string_equal(hint, expected_hint);
    kd_args_clear(&a);
}
#define REFUSED(message, hint, ...)                                                                \
    refused(message, hint, (int)KD_COUNT(((const char *[]){__VA_ARGS__})),                         \
            (const char *[]){__VA_ARGS__})

static void test_args_refusals(void **state)
{
    (void)state;
    REFUSED("unknown flag --wtach", "did you mean --watch?", "--wtach");
    REFUSED("unknown flag --tiemout", "did you mean --timeout?", "--tiemout=5s");
    REFUSED("unknown flag --sever", "did you mean --server?", "--sever", "h:1");
    REFUSED("unknown flag --zzzzzz", "", "--zzzzzz");
    REFUSED("unknown flag -z", "", "-z");
    REFUSED("unknown flag -set", "did you mean --set?", "-set=a=1");
    REFUSED("--limit needs a value: --limit N", "", "--limit");
    REFUSED("-n needs a value", "", "-n");
    REFUSED("--quiet takes no value", "", "--quiet=1");
}

static void number_case(const char *text, bool good, uint64_t value)
{
    const char *words[] = {"--limit", text};
    kd_args a;
    char hint[96];
    kd_diag diag = {0};
    uint64_t v = 77;
    kd_assert_ok(parse(&a, hint, &diag, 2, words), &diag);
    int rc = kd_args_u64(&a, "limit", 2, 100, 50, &v, &diag);
    if (good) {
        kd_assert_ok(rc, &diag);
        assert_int_equal(v, value);
    } else {
        kd_assert_fails(rc, KD_EINVAL, &diag, "from 2 to 100");
        assert_int_equal(v, 77);
    }
    kd_args_clear(&a);
}

static void test_args_numbers(void **state)
{
    (void)state;
    number_case("2", true, 2);
    number_case("100", true, 100);
    number_case("1", false, 0);
    number_case("101", false, 0);
    number_case("-5", false, 0);
    number_case("+5", false, 0);
    number_case(" 5", false, 0);
    number_case("5x", false, 0);
    number_case("", false, 0);
    number_case("18446744073709551617", false, 0);
}

static void test_args_nearest(void **state)
{
    (void)state;
    static const char *const names[] = {"submit", "jobs", "show", "watch", "wait", "rm"};
    struct {
        const char *word, *near;
    } cases[] = {{"sumbit", "submit"}, {"sub", "submit"}, {"job", "jobs"},
                 {"wach", "watch"},    {"shwo", "show"},  {"wait ", "wait"},
                 {"destroy", NULL},    {"x", NULL},       {"", NULL}};
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        const char *near = kd_args_nearest(cases[i].word, names, KD_COUNT(names));
        if (cases[i].near)
            assert_string_equal(near, cases[i].near);
        else
            assert_null(near);
    }
    assert_int_equal(kd_args_distance("kitten", "sitting"), 3);
    assert_int_equal(kd_args_distance("ab", "ba"), 1);
    assert_int_equal(kd_args_distance("", "abc"), 3);
    char longer[200];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    assert_null(kd_args_nearest(longer, names, KD_COUNT(names)));
}

static void test_args_server(void **state)
{
    (void)state;
    struct {
        const char *text, *target;
    } good[] = {{"127.0.0.1:7070", "127.0.0.1:7070"},
                {"host", "host:7070"},
                {"host:1", "host:1"},
                {"::1", "[::1]:7070"},
                {"[::1]:80", "[::1]:80"},
                {"[::1]", "[::1]:7070"}};
    const char *bad[] = {"",        ":7070", "host:",  "host:0",        "host:65536", "host:x",
                         "host:-1", "[::1",  "[::1]x", "http://host:1", "a b"};
    char out[KD_CLI_SERVER_MAX];
    kd_diag diag = {0};
    for (size_t i = 0; i < KD_COUNT(good); i++) {
        kd_assert_ok(kd_args_server(good[i].text, out, sizeof out, &diag), &diag);
        assert_string_equal(out, good[i].target);
    }
    for (size_t i = 0; i < KD_COUNT(bad); i++)
        kd_assert_fails(kd_args_server(bad[i], out, sizeof out, &diag), KD_EINVAL, &diag,
                        "the server");
    char longer[400];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    kd_assert_fails(kd_args_server(longer, out, sizeof out, &diag), KD_EINVAL, &diag, "too long");
}

/* Flags of one verb must not hide each other or a global one, and every verb must be usable. */
static void test_args_verb_table(void **state)
{
    (void)state;
    for (int i = 0; i < kd_n_verbs; i++) {
        const kd_verb *v = kd_verbs[i];
        assert_non_null(v->run);
        assert_true(v->summary && v->summary[0]);
        assert_ptr_equal(kd_verb_find(v->name), v);
        for (int a = 0; a < v->n_opts; a++) {
            assert_true(v->opts[a].help[0] != '\0');
            for (int b = 0; b < a; b++) {
                assert_string_not_equal(v->opts[a].name, v->opts[b].name);
                assert_true(!v->opts[a].letter || v->opts[a].letter != v->opts[b].letter);
            }
            /* A verb may have more formats than table and json, or -o names the file it makes. */
            bool format = strcmp(v->opts[a].name, "output") == 0;
            if (format)
                assert_true(v->opts[a].letter == 'o' && (strstr(v->opts[a].meta, "json") ||
                                                         strcmp(v->opts[a].meta, "FILE") == 0));
            for (int g = 0; g < kd_n_global_opts && !format; g++) {
                assert_string_not_equal(v->opts[a].name, kd_global_opts[g].name);
                assert_true(!v->opts[a].letter || v->opts[a].letter != kd_global_opts[g].letter);
            }
        }
    }
    assert_null(kd_verb_find("nosuch"));
}

static void test_args_random_words(void **state)
{
    (void)state;
    static const char *const parts[] = {"-",     "--", "=", "set", "q",      "w",    "n",
                                        "limit", "x",  "5", "",    "server", "\xff", "o"};
    kd_rng r;
    kd_rng_init(&r, 1, KD_RNG_TEST, 1, 0);
    for (int round = 0; round < 20000; round++) {
        char words[6][64];
        const char *list[6];
        int n = (int)kd_rng_below(&r, 6);
        for (int i = 0; i < n; i++) {
            words[i][0] = '\0';
            for (uint32_t k = kd_rng_below(&r, 5); k > 0; k--)
                strcat(words[i], parts[kd_rng_below(&r, KD_COUNT(parts))]);
            list[i] = words[i];
        }
        kd_args a;
        char hint[96];
        kd_diag diag = {0};
        int rc = parse(&a, hint, &diag, n, list);
        if (rc == 0)
            assert_true(a.n_operands <= n);
        else
            assert_true(rc == -KD_EINVAL && diag.msg[0]);
        kd_args_clear(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_args_forms),      cmocka_unit_test(test_args_last_value_wins),
        cmocka_unit_test(test_args_refusals),   cmocka_unit_test(test_args_numbers),
        cmocka_unit_test(test_args_nearest),    cmocka_unit_test(test_args_server),
        cmocka_unit_test(test_args_verb_table), cmocka_unit_test(test_args_random_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

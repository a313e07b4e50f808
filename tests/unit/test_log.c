/* Log lines as JSON: always one object, whatever the text, however long. */
#include "kd_test.h"

#include "kd/log_sink.h"

#include <jansson.h>
#include <string.h>

static json_t *line(const char *text, const kd_log_work *work, const char *worker, size_t size)
{
    char out[4096];
    size_t n = kd_log_json(out, size, 1714564800123, KD_LOG_WARN, "distilld", worker, work, text);
    assert_true(n <= size && out[n - 1] == '\n' && memchr(out, '\n', n) == out + n - 1);
    json_t *o = json_loadb(out, n, JSON_REJECT_DUPLICATES, NULL);
    if (!o)
        print_error("no JSON: %.*s", (int)n, out);
    assert_non_null(o);
    return o;
}

static void has(const json_t *o, const char *key, const char *text)
{
    const char *got = json_string_value(json_object_get(o, key));
    assert_non_null(got);
    assert_string_equal(got, text);
}

static void test_log_fields(void **state)
{
    (void)state;
    kd_log_work work = {.job = "0123456789ab", .stage = 2, .step = 7000000000};
    json_t *o = line("worker joined: worker=one isa=avx512 bf16 at=1", &work, "me", 4096);
    has(o, "time", "2024-05-01T12:00:00.123Z");
    has(o, "level", "warn");
    has(o, "program", "distilld");
    has(o, "text", "worker joined");
    has(o, "worker", "one");
    has(o, "isa", "avx512 bf16");
    has(o, "at", "1");
    has(o, "job", "0123456789ab");
    assert_true(json_integer_value(json_object_get(o, "step")) == 7000000000);
    json_decref(o);
    o = line("a sentence", &work, "me", 4096);
    has(o, "worker", "me");
    json_decref(o);
    o = line("done job=ffff stage=3 text=\"x\" time=y", &work, NULL, 4096);
    has(o, "job", "ffff");
    has(o, "stage", "3");
    has(o, "its_text", "\"x\"");
    has(o, "its_time", "y");
    assert_null(json_object_get(o, "worker"));
    json_decref(o);
}

static void test_log_any_text(void **state)
{
    (void)state;
    kd_log_work none = {.job = ""};
    static const char *const texts[] = {
        "", "=", " =x", " a=", ": ", "\\\"\\", "\x01\x7f\xff\xc3", "\xf0\x9f\x8c\xbc = \xc3\xa4"};
    for (size_t i = 0; i < KD_COUNT(texts); i++)
        json_decref(line(texts[i], &none, "w", 4096));
}

/* Cut anywhere it is still one object. */
static void test_log_any_size(void **state)
{
    (void)state;
    kd_log_work work = {.job = "0123456789ab", .stage = 1, .step = 2};
    char text[2000];
    memset(text, '"', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    memcpy(text + 300, " key=", 5);
    memcpy(text + 900, " other=", 7);
    for (size_t size = 300; size < 4096; size += 7)
        json_decref(line(text, &work, "worker", size));
}

static int g_seen;
static kd_log_work g_work;

static void see(void *arg, enum kd_log_level level, const char *text, const kd_log_work *work)
{
    assert_ptr_equal(arg, &g_seen);
    assert_int_equal(level, KD_LOG_WARN);
    assert_string_equal(text, "number=5");
    g_seen++;
    g_work = *work;
}

static void test_log_sink(void **state)
{
    (void)state;
    kd_log_set_level(KD_LOG_INFO);
    kd_log_set_work(&(kd_log_work){.job = "abcdefabcdef", .stage = 4, .step = 9});
    kd_log_set_sink(see, &g_seen);
    kd_debug("number=%d", 4); /* not printed, not given */
    kd_warn("number=%d", 5);
    kd_log_set_sink(NULL, NULL);
    kd_warn("number=%d", 6);
    assert_int_equal(g_seen, 1);
    assert_string_equal(g_work.job, "abcdefabcdef");
    assert_int_equal(g_work.stage, 4);
    assert_int_equal(g_work.step, 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_fields),
        cmocka_unit_test(test_log_any_text),
        cmocka_unit_test(test_log_any_size),
        cmocka_unit_test(test_log_sink),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Tables, bars, event and progress lines, JSON and exit codes of the command line. */
#include "kd_test.h"

#include "connect.h"
#include "format.h"
#include "json.h"
#include "output.h"
#include "progress.h"
#include "upload.h"
#include "views.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void render(kd_table *t, int indent, bool color, const char *expected)
{
    kd_buf b;
    kd_buf_init(&b, 1 << 20);
    assert_int_equal(kd_table_render(t, indent, color, &b), 0);
    assert_string_equal(b.data, expected);
    kd_buf_clear(&b);
}

static void test_output_table(void **state)
{
    (void)state;
    kd_table t;
    kd_table_init(&t, "ID|STEP>|REASON");
    render(&t, 0, false, "ID  STEP  REASON\n");
    kd_table_add(&t, KD_PLAIN, "7f3a9c1e0011");
    kd_table_add(&t, KD_PLAIN, "%d/%d", 1240, 5000);
    kd_table_add(&t, KD_PLAIN, "%s", "");
    kd_table_add(&t, KD_PLAIN, "caf\xc3\xa9");
    kd_table_add(&t, KD_RED, "9");
    kd_table_add(&t, KD_PLAIN, "evil \033[2J name");
    render(&t, 0, false,
           "ID                 STEP  REASON\n"
           "7f3a9c1e0011  1240/5000  -\n"
           "caf\xc3\xa9                  9  evil ?[2J name\n");
    render(&t, 2, false,
           "  ID                 STEP  REASON\n"
           "  7f3a9c1e0011  1240/5000  -\n"
           "  caf\xc3\xa9                  9  evil ?[2J name\n");
    kd_table_clear(&t);
}

static void test_output_table_color(void **state)
{
    (void)state;
    kd_table t;
    kd_table_init(&t, "A|B");
    kd_table_add(&t, KD_GREEN, "ok");
    kd_table_add(&t, KD_PLAIN, "x");
    render(&t, 0, true,
           "\033[1mA\033[0m   \033[1mB\033[0m\n"
           "\033[32mok\033[0m  x\n");
    kd_table_clear(&t);
    assert_string_equal(kd_color_start(KD_RED, false), "");
    assert_string_equal(kd_color_end(false), "");
}

/* A row that is not whole, and more columns of text than headings. */
static void test_output_table_partial_row(void **state)
{
    (void)state;
    kd_table t;
    kd_table_init(&t, "A|B|C");
    for (int i = 0; i < 200; i++)
        kd_table_add(&t, KD_PLAIN, "%d", i);
    kd_buf b;
    kd_buf_init(&b, 1 << 20);
    assert_int_equal(kd_table_render(&t, 0, false, &b), 0);
    int lines = 0;
    for (const char *p = b.data; *p; p++)
        lines += *p == '\n';
    assert_int_equal(lines, 1 + 67);
    assert_non_null(strstr(b.data, "198  199\n"));
    kd_buf_clear(&b);
    kd_buf_init(&b, 10);
    assert_int_equal(kd_table_render(&t, 0, false, &b), -KD_ENOMEM);
    kd_buf_clear(&b);
    kd_table_clear(&t);
}

static void bar_case(double fraction, int width, const char *expected)
{
    kd_buf b;
    kd_buf_init(&b, 1000);
    kd_bar_draw(&b, fraction, width, false);
    assert_string_equal(b.data, expected);
    kd_buf_clear(&b);
}

static void test_output_bar(void **state)
{
    (void)state;
    bar_case(0, 12, "[----------]");
    bar_case(0.5, 12, "[#####-----]");
    bar_case(0.999, 12, "[#########-]");
    bar_case(1, 12, "[##########]");
    bar_case(7, 12, "[##########]");
    bar_case(-1, 12, "[----------]");
    bar_case(NAN, 12, "[----------]");
    bar_case(0.5, 0, "[-]");
}

static void test_output_bar_line(void **state)
{
    (void)state;
    static const kd_cli cli = {0};
    kd_bar bar;
    kd_bar_start(&bar, &cli, KD_BAR_BYTES, "student.safetensors", 10000000, 2000000);
    bar.samples[0].at = bar.started = 1000;
    bar.done = 6000000;
    kd_buf b;
    kd_buf_init(&b, 1000);
    /* 4 MB in 2 s, 4 MB to go. */
    kd_bar_line(&bar, 3000, 100, &b);
    assert_string_equal(b.data, "student.safetensors [##################------------]  60 %  "
                                "6.0 MB/10.0 MB  2.0 MB/s  ETA 2.0s");
    kd_buf_clear(&b);
    kd_bar_line(&bar, 1001, 40, &b);
    assert_string_equal(b.data, "student.safetensors   60 %  6.0 MB/10.0 MB  -/s  ETA -");
    kd_buf_clear(&b);
    kd_bar_start(&bar, &cli, KD_BAR_PICTURES, "drawing", 0, 0);
    kd_bar_line(&bar, bar.started, 60, &b);
    assert_non_null(strstr(b.data, "100 %"));
    kd_buf_clear(&b);
}

static Distill__V1__Progress progress_of(uint64_t step)
{
    Distill__V1__Progress p = DISTILL__V1__PROGRESS__INIT;
    p.stage = (char *)"distill";
    p.stage_index = 1;
    p.stage_count = 5;
    p.step = step;
    p.steps = 780;
    p.epoch = 3;
    p.epochs = 10;
    p.loss = 0.41234;
    p.accuracy = 0.861;
    p.samples_per_second = 612.4;
    p.eta_seconds = 72;
    p.workers = 2;
    p.phase = (char *)"training";
    return p;
}

static void progress_case(const Distill__V1__Progress *p, int width, bool bar, const char *expected)
{
    kd_buf b;
    kd_buf_init(&b, 4096);
    kd_view_progress(p, width, bar, false, &b);
    assert_string_equal(b.data, expected);
    assert_true(width == 0 || kd_text_width(b.data) <= width);
    kd_buf_clear(&b);
}

static void test_output_progress(void **state)
{
    (void)state;
    Distill__V1__Progress p = progress_of(390);
    progress_case(&p, 120, true,
                  "distill 2/5  epoch 3/10  [############------------]  390/780  loss 0.4123  "
                  "acc 86.1 %  612 img/s  ETA 1m12s  2 workers");
    progress_case(
        &p, 96, true,
        "distill 2/5  epoch 3/10  390/780  loss 0.4123  acc 86.1 %  612 img/s  ETA 1m12s  "
        "2 workers");
    progress_case(
        &p, 0, false,
        "distill 2/5  epoch 3/10  390/780  loss 0.4123  acc 86.1 %  612 img/s  ETA 1m12s  "
        "2 workers");
    progress_case(&p, 20, true, "distill 2/5  epoch 3");
    Distill__V1__Progress early = DISTILL__V1__PROGRESS__INIT;
    early.stage = (char *)"teacher";
    early.stage_count = 5;
    early.accuracy = -1;
    early.eta_seconds = -1;
    early.workers = 1;
    early.phase = (char *)"preparing";
    progress_case(&early, 80, true, "teacher 1/5  preparing  1 worker");
}

static void test_output_event(void **state)
{
    (void)state;
    setenv("TZ", "UTC", 1);
    tzset();
    kd_cli cli = {0};
    Distill__V1__Event e = DISTILL__V1__EVENT__INIT;
    e.seq = 4;
    e.time_ms = 1714564800123;
    e.kind = (char *)"warning";
    e.worker = (char *)"w\0331";
    e.text = (char *)"image is damaged:\nx.jpg";
    kd_buf b;
    kd_buf_init(&b, 4096);
    kd_view_event(&cli, &e, 1714564900000, &b);
    assert_string_equal(b.data, "12:00:00.123  warning     w?1: image is damaged: x.jpg");
    kd_buf_clear(&b);
    cli.color_out = true;
    kd_view_event(&cli, &e, 1714564900000, &b);
    assert_string_equal(b.data, "\033[2m12:00:00.123\033[0m  \033[33mwarning\033[0m     "
                                "w?1: image is damaged: x.jpg");
    kd_buf_clear(&b);
}

static void test_output_best_epoch(void **state)
{
    (void)state;
    Distill__V1__EpochRecord e[4], *list[4];
    static const uint32_t correct[] = {10, 40, 80, 39}, samples[] = {100, 50, 100, 0};
    for (int i = 0; i < 4; i++) {
        distill__v1__epoch_record__init(&e[i]);
        e[i].val_correct = correct[i];
        e[i].val_samples = samples[i];
        list[i] = &e[i];
    }
    Distill__V1__StageRecord s = DISTILL__V1__STAGE_RECORD__INIT;
    assert_int_equal(kd_view_best(&s), -1);
    s.epochs = list;
    s.n_epochs = 4;
    /* 40/50 and 80/100 are equal: the first counts; one without validation never does. */
    assert_int_equal(kd_view_best(&s), 1);
    e[2].val_correct = 81;
    assert_int_equal(kd_view_best(&s), 2);
    e[2].val_correct = 101;
    assert_int_equal(kd_view_best(&s), 1);
}

static void test_output_exit_codes(void **state)
{
    (void)state;
    struct {
        int code, grpc;
        bool reached;
        int exit_code;
    } cases[] = {{0, 0, true, 0},
                 {-KD_ENOENT, 5, true, 3},
                 {-KD_EPERM, 7, true, 4},
                 {-KD_EINTERNAL, 16, true, 4},
                 {-KD_ESTATE, 9, true, 5},
                 {-KD_EEXIST, 6, true, 5},
                 {-KD_EUNAVAIL, 14, false, 69},
                 {-KD_EUNAVAIL, 14, true, 69},
                 {-KD_ETIMEOUT, 4, false, 69},
                 {-KD_ETIMEOUT, 4, true, 75},
                 {-KD_ELIMIT, 8, true, 75},
                 {-KD_EIO, 13, true, 1},
                 {-KD_EUNSUP, 12, true, 1},
                 {-KD_EINVAL, 3, true, 2}};
    for (size_t i = 0; i < KD_COUNT(cases); i++)
        assert_int_equal(kd_conn_exit(cases[i].code, cases[i].grpc, cases[i].reached),
                         cases[i].exit_code);
    assert_int_equal(kd_state_exit(DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED), 0);
    assert_int_equal(kd_state_exit(DISTILL__V1__JOB_STATE__JOB_STATE_FAILED), 7);
    assert_int_equal(kd_state_exit(DISTILL__V1__JOB_STATE__JOB_STATE_CANCELLED), 8);
    /* Each code once, in rising order, as `help exit-codes` prints them. */
    for (int i = 1; i < kd_n_exit_codes; i++)
        assert_true(kd_exit_codes[i].code > kd_exit_codes[i - 1].code);
}

static void json_is(json_t *v, const char *expected)
{
    char *text = kd_json_dump(v, JSON_COMPACT | JSON_ENCODE_ANY);
    assert_string_equal(text, expected);
    free(text);
    json_decref(v);
}

static void test_output_json(void **state)
{
    (void)state;
    Distill__V1__Progress p = progress_of(1);
    p.accuracy = -1;
    p.eta_seconds = -1;
    p.loss = NAN;
    Distill__V1__JobSummary s = DISTILL__V1__JOB_SUMMARY__INIT;
    s.job = (char *)"0123456789ab";
    s.name = (char *)"flowers";
    s.state = DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING;
    s.submitted_ms = 1714564800123;
    s.progress = &p;
    s.priority = -3;
    s.min_workers = 1;
    s.max_workers = 8;
    json_is(kd_json_summary(&s),
            "{\"job\":\"0123456789ab\",\"name\":\"flowers\",\"state\":\"running\",\"reason\":\"\","
            "\"submitted\":\"2024-05-01T12:00:00.123Z\",\"started\":null,\"finished\":null,"
            "\"progress\":{\"stage\":\"distill\",\"stage_index\":1,\"stage_count\":5,\"step\":1,"
            "\"steps\":780,\"epoch\":3,\"epochs\":10,\"loss\":null,\"accuracy\":null,"
            "\"samples_per_second\":612.4,\"eta_seconds\":null,\"workers\":2,"
            "\"phase\":\"training\",\"learning_rate\":null},\"paused\":false,\"priority\":-3,"
            "\"min_workers\":1,\"max_workers\":8,\"owner\":null,\"sweep\":null,\"label\":null}");
    Distill__V1__Event e = DISTILL__V1__EVENT__INIT;
    e.kind = (char *)"epoch";
    e.data = (char *)"{\"epoch\":1}";
    e.state = DISTILL__V1__JOB_STATE__JOB_STATE_QUEUED;
    json_is(kd_json_event("ab", &e),
            "{\"job\":\"ab\",\"seq\":null,\"time\":null,\"kind\":\"epoch\",\"text\":\"\","
            "\"worker\":\"\",\"state\":\"queued\",\"data\":{\"epoch\":1}}");
    json_is(kd_json_parse("{broken"), "null");
    json_is(kd_json_parse(""), "null");
}

/* Numbers are as short as they can be and read back as what they were; strings are left alone. */
static void test_output_json_numbers(void **state)
{
    (void)state;
    static const double values[] = {0,
                                    -0.0,
                                    0.9,
                                    -0.1,
                                    0.1f,
                                    1.0 / 3,
                                    5e-324,
                                    1.7976931348623157e308,
                                    1e15,
                                    1e16,
                                    1e23,
                                    1.5e-7,
                                    1234567890123450,
                                    9007199254740992,
                                    123456789.123};
    for (size_t i = 0; i < KD_COUNT(values); i++) {
        json_t *v = json_real(values[i]);
        char *text = kd_json_dump(v, JSON_ENCODE_ANY), real[KD_JSON_REAL];
        json_t *back = json_loads(text, JSON_DECODE_ANY, NULL);
        assert_true(json_is_real(back));
        double got = json_real_value(back);
        assert_memory_equal(&got, &values[i], sizeof got);
        got = strtod(kd_json_real(values[i], real), NULL);
        assert_memory_equal(&got, &values[i], sizeof got);
        free(text);
        json_decref(back);
        json_decref(v);
    }
    json_is(json_pack("{s:f, s:[f, i, b, b, n], s:s}", "a \"0.90000000000000002", 0.9, "e", 1.5e-7,
                      -7, 1, 0, "s", "\\ 0.10000000000000001 \""),
            "{\"a \\\"0.90000000000000002\":0.9,\"e\":[1.5e-7,-7,true,false,null],"
            "\"s\":\"\\\\ 0.10000000000000001 \\\"\"}");
    json_is(json_real(7), "7.0");
}

static void test_output_local_path(void **state)
{
    (void)state;
    struct {
        const char *job, *name, *path;
    } cases[] = {{"jobs/a.yaml", "weights/w.safetensors", "jobs/weights/w.safetensors"},
                 {"a.yaml", "w", "w"},
                 {"/a.yaml", "w", "/w"},
                 {"x/a.yaml", "/abs/w", "/abs/w"},
                 {"-", "w", "w"},
                 {NULL, "w", "w"}};
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        char *path = kd_local_path(cases[i].job, cases[i].name);
        assert_string_equal(path, cases[i].path);
        free(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_output_table),
        cmocka_unit_test(test_output_table_color),
        cmocka_unit_test(test_output_table_partial_row),
        cmocka_unit_test(test_output_bar),
        cmocka_unit_test(test_output_bar_line),
        cmocka_unit_test(test_output_progress),
        cmocka_unit_test(test_output_event),
        cmocka_unit_test(test_output_best_epoch),
        cmocka_unit_test(test_output_exit_codes),
        cmocka_unit_test(test_output_json),
        cmocka_unit_test(test_output_json_numbers),
        cmocka_unit_test(test_output_local_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

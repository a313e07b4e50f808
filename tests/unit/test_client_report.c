/* Reports from fixture files (fixtures/make_report.py): figures, pages that cannot be broken out
 * of, CSV, Markdown, JSON; intervals against figures worked apart. With KD_REPORT_OUT=FOLDER the
 * pages are kept there, to be looked at. */
#include "kd_test.h"

#include "format.h"
#include "kd/file.h"
#include "report_page.h"
#include "wire/wire.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EPOCHS 10
#define FIXTURES "tests/unit/fixtures/"

static char *slurp(const char *path, size_t *len)
{
    char *text = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_file_read(path, 1 << 20, &text, len, &diag), &diag);
    return text;
}

/* ---- a job's detail, as the wire would give it */

typedef struct stage_plan {
    const char *name, *digest;
    int epochs;
    double from, to; /* share that is right, at first and at last */
} stage_plan;

static void fill_epoch(Distill__V1__EpochRecord *e, const stage_plan *p, int k, double *numbers)
{
    double t = p->epochs > 1 ? (double)k / (p->epochs - 1) : 1;
    double accuracy = p->from + (p->to - p->from) * sqrt(t);
    distill__v1__epoch_record__init(e);
    e->epoch = (uint32_t)k + 1;
    e->train_loss = 9.5 - 4 * t;
    e->train_accuracy = accuracy + 0.02 * t;
    e->val_loss = 1.7 - 1.1 * t;
    e->val_samples = 551;
    e->val_correct = (uint32_t)(accuracy * 551);
    e->step = (uint64_t)(k + 1) * 49;
    e->learning_rate = 0.01 * (1 - 0.9 * t);
    e->val_kl = -1;
    if (strcmp(p->name, "teacher") != 0) {
        e->val_agree = (uint32_t)(551 * (accuracy + 0.03));
        e->val_kl = 1.2 - t;
    }
    if (strcmp(p->name, "distill") == 0) {
        numbers[0] = 0.8 - 0.3 * t;
        numbers[1] = 0.2 + 0.3 * t;
        e->shares = e->term_losses = numbers;
        e->n_shares = e->n_term_losses = 2;
    }
}

/* Packed and unpacked, so that the report owns it as it owns a reply. */
static Distill__V1__JobDetail *detail_of(const char *job, Distill__V1__JobState state,
                                         const stage_plan *plans, size_t n, const char *result,
                                         const char *label)
{
    static Distill__V1__EpochRecord epochs[4][EPOCHS];
    static Distill__V1__EpochRecord *lists[4][EPOCHS];
    static double numbers[4][EPOCHS][2];
    static char *terms[] = {"ce", "kd"};
    Distill__V1__StageRecord stages[4], *stage_list[4];
    Distill__V1__Artefact a = DISTILL__V1__ARTEFACT__INIT, *artefacts[] = {&a};
    Distill__V1__JobSummary s = DISTILL__V1__JOB_SUMMARY__INIT;
    Distill__V1__JobDetail d = DISTILL__V1__JOB_DETAIL__INIT;
    for (size_t i = 0; i < n; i++) {
        distill__v1__stage_record__init(&stages[i]);
        stages[i].name = (char *)plans[i].name;
        stages[i].state = (char *)"done";
        stages[i].digest = (char *)plans[i].digest;
        stages[i].steps = stages[i].committed = (uint64_t)plans[i].epochs * 49;
        stages[i].parameters = 144261;
        stages[i].epochs = lists[i];
        stages[i].n_epochs = (size_t)plans[i].epochs;
        for (int k = 0; k < plans[i].epochs; k++) {
            fill_epoch(&epochs[i][k], &plans[i], k, numbers[i][k]);
            lists[i][k] = &epochs[i][k];
        }
        if (strcmp(plans[i].name, "distill") == 0) {
            stages[i].terms = terms;
            stages[i].n_terms = 2;
        }
        stage_list[i] = &stages[i];
    }
    s.job = (char *)job;
    s.name = (char *)"fixture";
    s.state = state;
    s.submitted_ms = 1714564800123;
    s.started_ms = 1714564801000;
    s.finished_ms = state == DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING ? 0 : 1714566035500;
    s.reason = (char *)(state == DISTILL__V1__JOB_STATE__JOB_STATE_FAILED ? "loss <b>NaN</b>" : "");
    s.label = (char *)label;
    s.sweep = (char *)(label[0] ? "aaaaaaaaaaaa" : "");
    a.name = (char *)"student.safetensors";
    a.size = 577940;
    a.digest = (char *)"66666666666666666666666666666666";
    d.summary = &s;
    d.stages = stage_list;
    d.n_stages = n;
    d.artefacts = artefacts;
    d.n_artefacts = 1;
    d.result = (char *)result;
    d.resolved = (char *)"{\"name\":\"fixture\",\"seed\":1,\"data\":{\"path\":\"</pre><img "
                         "src=http://example.org/a>\"},\"distill\":{\"epochs\":10}}";
    d.text = (char *)"name: fixture\n# </pre><script>alert(1)</script>\n";
    kd_buf packed;
    kd_buf_init(&packed, 1 << 20);
    assert_int_equal(kd_wire_pack(&d, &packed), 0);
    ProtobufCMessage *m = NULL;
    kd_diag diag = {0};
    kd_assert_ok(
        kd_wire_unpack(&distill__v1__job_detail__descriptor, packed.data, packed.len, &m, &diag),
        &diag);
    kd_buf_clear(&packed);
    return (Distill__V1__JobDetail *)m;
}

static const stage_plan g_plans[] = {
    {"teacher", "11111111111111111111111111111111", 4, 0.7, 0.93},
    {"distill", "33333333333333333333333333333333", EPOCHS, 0.4, 0.81},
    {"scratch", "55555555555555555555555555555555", EPOCHS, 0.35, 0.745},
};

static kd_report_job *add_fixture(kd_report *r)
{
    size_t len;
    kd_report_job *j = NULL;
    kd_diag diag = {0};
    char *result = slurp(FIXTURES "report_result.json", &len);
    kd_assert_ok(
        kd_report_add_job(r,
                          detail_of("0123456789ab", DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED,
                                    g_plans, KD_COUNT(g_plans), result, ""),
                          -1, &j, &diag),
        &diag);
    free(result);
    char *evaluation = slurp(FIXTURES "report_evaluation.json", &len);
    kd_assert_ok(kd_report_evaluation(j, evaluation, len, &diag), &diag);
    free(evaluation);
    return j;
}

/* ---- reading */

static void test_report_figures(void **state)
{
    (void)state;
    kd_report r = {0};
    const kd_report_job *j = add_fixture(&r);
    assert_int_equal(j->n_networks, 3);
    const kd_network *student = kd_report_network(j, "student");
    assert_string_equal(student->model, "shallow_cnn");
    assert_int_equal(student->val.correct, 446);
    kd_assert_close(student->val.accuracy, 446.0 / 551, 0, 1e-12);
    /* The interval is ours, whatever result.json says. */
    kd_assert_close(student->val.lo, 0.7746, 0, 1e-3);
    kd_assert_close(student->test_best.accuracy, 154.0 / 184, 0, 1e-12);
    assert_int_equal(student->best_epoch, EPOCHS);
    /* The twin's best version is its last one, and stands there once. */
    assert_int_equal(j->n_evals, 3);
    assert_int_equal(j->evals[1].confusion[2 * 5 + 4], 19);
    assert_int_equal(j->n_samples, 3);
    assert_int_equal(j->dropped_pictures, 1);
    assert_string_equal(j->samples[2].picture, "");
    assert_string_equal(j->samples[1].by[1].guesses[0].name, j->classes[4]);
    const kd_pair *p = kd_report_twin_pair(j);
    assert_non_null(p);
    kd_assert_close(p->difference, 35.0 / 551, 0, 1e-12);
    char sentence[320];
    assert_true(kd_pair_sentence(p, sentence, sizeof sentence));
    assert_memory_equal(sentence, "gain: the student is +6.4 points", 32);
    kd_assert_close(j->bank.served, 28071, 0, 0);
    kd_report_clear(&r);
}

/* JSON that lies about everything leaves a report without those figures. */
static void test_report_hostile_json(void **state)
{
    (void)state;
    static const char *const evaluations[] = {
        "[]",
        "",
        "{\"classes\":7,\"networks\":[{\"name\":\"student\",\"split\":\"val\",\"samples\":-4,"
        "\"correct\":\"many\",\"per_class\":[{\"correct\":9,\"samples\":3},7],"
        "\"confusion\":[[1],[2,3]]},[],4,{\"name\":5}],\"samples\":[7,{\"label\":99,"
        "\"picture\":\"data:image/png;base64,AA\\\" onload=\\\"x\",\"guesses\":{\"a\":[[9]]}}]}",
        "{\"networks\":[{\"name\":\"student\",\"split\":\"val\",\"samples\":4,\"correct\":5,"
        "\"loss\":1e999}]}",
        "{\"pairs\":[{\"a\":\"student\",\"b\":\"scratch\",\"split\":\"val\",\"both\":-1,"
        "\"only_a\":1e300,\"only_b\":1,\"neither\":1}],\"samples\":{\"x\":1}}",
    };
    for (size_t i = 0; i < KD_COUNT(evaluations); i++) {
        kd_report r = {0};
        kd_report_job *j = NULL;
        kd_diag diag = {0};
        kd_assert_ok(
            kd_report_add_job(&r,
                              detail_of("0123456789ab", DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED,
                                        g_plans, 2,
                                        "{\"student\":{\"accuracy\":7,\"correct\":-1,"
                                        "\"samples\":1e99,\"parameters\":-3},\"teacher\":[],"
                                        "\"bank\":{\"asked\":\"x\"},\"data\":3}",
                                        ""),
                              -1, &j, &diag),
            &diag);
        int rc = kd_report_evaluation(j, evaluations[i], strlen(evaluations[i]), &diag);
        assert_true(rc == 0 || rc == -KD_EDATA);
        for (int e = 0; e < j->n_evals; e++)
            assert_false(j->evals[e].score.there || j->evals[e].confusion);
        for (int s = 0; s < j->n_samples; s++)
            assert_string_equal(j->samples[s].picture, "");
        assert_int_equal(j->n_pairs, 0);
        kd_buf out;
        kd_buf_init(&out, KD_PAGE_BYTES);
        kd_report_finish(&r);
        assert_int_equal(kd_report_html(&r, &out), 0);
        assert_null(strstr(out.data, "onload"));
        /* The stages' own figures stand in. */
        assert_int_equal(kd_report_network(j, "student")->val.samples, 551);
        kd_buf_clear(&out);
        kd_report_clear(&r);
    }
}

static void test_report_labels(void **state)
{
    (void)state;
    kd_sweep_value v[KD_REPORT_VALUES];
    assert_int_equal(
        kd_label_values("distill.loss.temperature=2.5 data.augment=[flip, {crop: {pad: 2}}] seed=3",
                        v),
        3);
    assert_string_equal(v[0].key, "distill.loss.temperature");
    kd_assert_close(v[0].number, 2.5, 0, 0);
    assert_string_equal(v[1].text, "[flip, {crop: {pad: 2}}]");
    assert_true(isnan(v[1].number));
    assert_string_equal(v[2].text, "3");
    assert_int_equal(kd_label_values("", v), 0);
    assert_int_equal(kd_label_values("=5 x", v), 0);
    assert_int_equal(
        kd_label_values("a=1 a=1 a=1 a=1 a=1 a=1 a=1 a=1 a=1 a=1 a=1 a=1 a=1 a=1 a=1 a=1 a=1 a=1",
                        v),
        KD_REPORT_VALUES);
}

/* ---- pages */

static void escape_case(const char *s, const char *expected)
{
    kd_buf b;
    kd_buf_init(&b, 1000);
    kd_html_text(&b, s);
    assert_string_equal(b.data ? b.data : "", expected);
    kd_buf_clear(&b);
}

static void test_report_escape(void **state)
{
    (void)state;
    escape_case("", "");
    escape_case("a<b>&\"'", "a&lt;b&gt;&amp;&quot;&#39;");
    escape_case("caf\xc3\xa9 \xe6\xbc\xa2", "caf\xc3\xa9 \xe6\xbc\xa2");
    escape_case("x\x1b[2J\xff\xe2\x80\xae", "x?[2J??");
}

static void test_report_ticks(void **state)
{
    (void)state;
    double t[16];
    assert_int_equal(kd_svg_ticks(0, 1, 5, false, t), 6);
    kd_assert_close(t[1], 0.2, 0, 1e-12);
    assert_int_equal(kd_svg_ticks(1, 4, 5, true, t), 4);
    kd_assert_close(t[3], 4, 0, 1e-12);
    assert_true(kd_svg_ticks(0, 10000, 5, true, t) <= 6);
    assert_int_equal(kd_svg_ticks(1, 1, 5, false, t), 0);
    assert_int_equal(kd_svg_ticks(NAN, 1, 5, false, t), 0);
    assert_int_equal(kd_svg_ticks(-INFINITY, 1, 5, false, t), 0);
}

/* Marks of an axis must fit beside it, whatever the numbers. */
static void test_report_tick_text(void **state)
{
    (void)state;
    static const double ranges[][2] = {
        {0.0009, 0.0011}, {1e-9, 3e-9}, {0, 1e9}, {0.99999, 1.00001}};
    for (size_t i = 0; i < KD_COUNT(ranges); i++) {
        kd_chart c = {
            .title = "t", .description = "d", .x_label = "x", .y_label = "y", .mark_x = NAN};
        double x[] = {1, 2};
        c.series[c.n_series++] =
            (kd_series){.label = "a", .n = 2, .x = x, .y = ranges[i], .style = KD_LINE};
        kd_buf b;
        kd_buf_init(&b, 1 << 20);
        kd_svg_chart(&b, &c, 0);
        int marks = 0;
        for (const char *p = b.data; (p = strstr(p, "text-anchor=\"end\">")); marks++) {
            p += strlen("text-anchor=\"end\">");
            size_t n = strcspn(p, "<");
            if (n > 8)
                fail_msg("a mark is too long: %.*s", (int)n, p);
        }
        assert_true(marks >= 2);
        kd_buf_clear(&b);
    }
}

static void keep(const char *name, const kd_buf *page)
{
    const char *folder = getenv("KD_REPORT_OUT");
    char path[512];
    kd_diag diag = {0};
    if (!folder)
        return;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    kd_assert_ok(kd_file_write(path, page->data, page->len, &diag), &diag);
}

static size_t count(const char *text, const char *part)
{
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, part)); p++)
        n++;
    return n;
}

/* What no page may hold, and that what was opened is closed. */
static void check_page(const kd_buf *page)
{
    static const char *const never[] = {"<script", "src=\"http", "href=\"http",
                                        "url(",    "@import",    "<iframe",
                                        "<link",   "<b>NaN",     "<img src=http"};
    static const char *const pairs[][2] = {{"<table", "</table>"},     {"<svg", "</svg>"},
                                           {"<figure", "</figure>"},   {"<div", "</div>"},
                                           {"<article", "</article>"}, {"<details", "</details>"},
                                           {"<tr", "</tr>"},           {"<ul", "</ul>"},
                                           {"<dl", "</dl>"},           {"<section", "</section>"}};
    for (size_t i = 0; i < KD_COUNT(never); i++)
        if (strstr(page->data, never[i]))
            fail_msg("the page holds %s", never[i]);
    for (size_t i = 0; i < KD_COUNT(pairs); i++)
        assert_int_equal(count(page->data, pairs[i][0]), count(page->data, pairs[i][1]));
    static const char *const no_numbers[] = {" nan", "\"nan", "Mnan", "Lnan",
                                             "-nan", ">nan",  "inf\""};
    for (size_t i = 0; i < KD_COUNT(no_numbers); i++)
        assert_null(strstr(page->data, no_numbers[i]));
    assert_non_null(strstr(page->data, "default-src 'none'"));
    assert_int_equal(count(page->data, "role=\"img\""), count(page->data, "<desc"));
    assert_int_equal(count(page->data, "<img"), count(page->data, " alt=\""));
}

static void page_has(const kd_buf *page, const char *part)
{
    if (!strstr(page->data, part))
        fail_msg("the page does not hold: %s", part);
}

static void test_report_page(void **state)
{
    (void)state;
    kd_report r = {.now_ms = 1714566099000};
    kd_report_job *j = add_fixture(&r);
    j->log = json_pack("[{s:s},{s:s}]", "worker", "w1 <i>", "warning", "w1: slow & \"late\"");
    kd_report_finish(&r);
    kd_buf page;
    kd_buf_init(&page, KD_PAGE_BYTES);
    assert_int_equal(kd_report_html(&r, &page), 0);
    keep("job.html", &page);
    check_page(&page);
    page_has(&page, "&lt;script&gt;alert(&#39;tulips&#39;)&lt;/script&gt;");
    page_has(&page, "446/551");
    page_has(&page, "77.5 – 84.0 %");
    page_has(&page, "Gain: the student is +6.4 points");
    page_has(&page, "Gradient shares of the student");
    page_has(&page, "Agreement with the teacher");
    page_has(&page, "KL divergence from the teacher");
    page_has(&page, "Accuracy by class");
    page_has(&page, "w1 &lt;i&gt;");
    page_has(&page, "31,190");
    page_has(&page, "33333333333333333333333333333333");
    page_has(&page, "&lt;/pre&gt;&lt;img src=http");
    /* Validation accuracy, then loss and accuracy of three stages, shares, agreement, KL, rate. */
    assert_int_equal(count(page.data, "<svg class=\"chart\""), 11);
    assert_int_equal(count(page.data, "<img"), 2);
    assert_int_equal(count(page.data, "class=\"heat"), 3);
    kd_buf_clear(&page);
    kd_report_clear(&r);
}

/* A job that is running, one that failed at once, and one of the older kind without evaluation. */
static void test_report_unfinished(void **state)
{
    (void)state;
    kd_report r = {.now_ms = 1714566099000};
    kd_diag diag = {0};
    kd_assert_ok(
        kd_report_add_job(&r,
                          detail_of("111111111111", DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING,
                                    g_plans, 2, "", ""),
                          -1, NULL, &diag),
        &diag);
    kd_assert_ok(
        kd_report_add_job(
            &r,
            detail_of("222222222222", DISTILL__V1__JOB_STATE__JOB_STATE_FAILED, NULL, 0, "", ""),
            -1, NULL, &diag),
        &diag);
    kd_report_finish(&r);
    kd_buf page;
    kd_buf_init(&page, KD_PAGE_BYTES);
    assert_int_equal(kd_report_html(&r, &page), 0);
    keep("unfinished.html", &page);
    check_page(&page);
    page_has(&page, "The job has not ended");
    page_has(&page, "loss &lt;b&gt;NaN&lt;/b&gt;");
    page_has(&page, "Side by side");
    kd_buf_clear(&page);
    kd_report_clear(&r);
}

static void add_sweep(kd_report *r)
{
    static const int temperatures[] = {1, 2, 5, 10};
    static const double reach[] = {0.76, 0.79, 0.82, 0.80};
    Distill__V1__JobSummary s = DISTILL__V1__JOB_SUMMARY__INIT;
    Distill__V1__JobDetail d = DISTILL__V1__JOB_DETAIL__INIT;
    kd_diag diag = {0};
    int number = -1;
    s.job = (char *)"aaaaaaaaaaaa";
    s.name = (char *)"temperatures";
    s.children = 12;
    s.children_over = 12;
    d.summary = &s;
    kd_buf packed;
    kd_buf_init(&packed, 1 << 20);
    assert_int_equal(kd_wire_pack(&d, &packed), 0);
    ProtobufCMessage *m = NULL;
    kd_assert_ok(
        kd_wire_unpack(&distill__v1__job_detail__descriptor, packed.data, packed.len, &m, &diag),
        &diag);
    kd_buf_clear(&packed);
    kd_assert_ok(kd_report_add_sweep(r, (Distill__V1__JobDetail *)m, &number, &diag), &diag);
    for (int t = 0; t < 4; t++)
        for (int seed = 1; seed <= 3; seed++) {
            char job[16], label[64];
            stage_plan plans[3] = {g_plans[0], g_plans[1], g_plans[2]};
            plans[1].to = reach[t] + 0.008 * seed;
            plans[2].to = 0.74 + 0.006 * (seed % 2);
            snprintf(job, sizeof job, "%012x", t * 16 + seed + 0xb000);
            snprintf(label, sizeof label, "distill.loss.temperature=%d seed=%d", temperatures[t],
                     seed);
            kd_assert_ok(
                kd_report_add_job(r,
                                  detail_of(job, DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED, plans,
                                            3, "", label),
                                  number, NULL, &diag),
                &diag);
        }
}

static void test_report_sweep(void **state)
{
    (void)state;
    kd_report r = {.now_ms = 1714566099000};
    add_sweep(&r);
    kd_report_finish(&r);
    size_t n;
    kd_group *groups = kd_report_groups(&r, 0, &n);
    assert_int_equal(n, 4);
    assert_string_equal(groups[2].label, "distill.loss.temperature=5");
    assert_int_equal(groups[2].n, 3);
    assert_true(groups[2].has_best && !groups[0].has_best);
    assert_int_equal(groups[2].val.n, 3);
    assert_true(groups[2].val.lo < groups[2].val.mean && groups[2].val.mean < groups[2].val.hi);
    kd_assert_close(groups[2].val.mean, 0.836, 0, 2e-3);
    assert_int_equal(kd_verdict_of(groups[2].difference.lo, groups[2].difference.hi),
                     KD_VERDICT_GAIN);
    free(groups);
    kd_buf page;
    kd_buf_init(&page, KD_PAGE_BYTES);
    assert_int_equal(kd_report_html(&r, &page), 0);
    keep("sweep.html", &page);
    check_page(&page);
    page_has(&page, "accuracy over temperature");
    page_has(&page, "Over seeds: mean and 95 % t interval");
    page_has(&page, "distill.loss.temperature=5 seed=3 (best by validation)");
    kd_buf_clear(&page);
    assert_int_equal(kd_report_md(&r, &page), 0);
    page_has(&page, "| distill.loss.temperature=5 (best by validation) | 3 |");
    kd_buf_clear(&page);
    kd_report_clear(&r);
}

/* Long runs and many classes: the page stays small, lines are thinned, the last point is kept. */
static void test_report_large(void **state)
{
    (void)state;
    enum { LONG = 10000, WIDE = 64 };
    kd_buf text, page;
    double *v = malloc(3 * LONG * sizeof *v);
    for (int i = 0; i < LONG; i++) {
        v[i] = i;
        v[LONG + i] = i % 7 == 3 ? NAN : 1.0 / (1 + i);
        v[2 * LONG + i] = i == LONG - 1 ? 3 : 0.5;
    }
    kd_chart c = {.title = "t", .description = "d", .x_label = "x", .y_label = "y", .mark_x = NAN};
    c.series[c.n_series++] =
        (kd_series){.label = "a", .n = LONG, .x = v, .y = v + LONG, .style = KD_LINE};
    c.series[c.n_series++] =
        (kd_series){.label = "b", .n = LONG, .x = v, .y = v + 2 * LONG, .style = KD_DASHED};
    kd_buf_init(&page, KD_PAGE_BYTES);
    kd_svg_chart(&page, &c, 0);
    assert_true(page.len < 40000);
    assert_null(strstr(page.data, "nan"));
    /* The last value, 3, is the highest: the line must end at the right edge near the top. */
    page_has(&page, "L350.0 ");
    kd_buf_clear(&page);
    c.y_log = true;
    kd_svg_chart(&page, &c, 0);
    assert_null(strstr(page.data, "inf"));
    kd_buf_clear(&page);
    free(v);

    kd_buf_init(&text, 1 << 20);
    (void)kd_buf_str(&text,
                     "{\"networks\":[{\"name\":\"student\",\"split\":\"val\",\"samples\":640,"
                     "\"correct\":640,\"per_class\":[");
    for (int i = 0; i < WIDE; i++)
        (void)kd_buf_printf(&text, "%s{\"correct\":10,\"samples\":10}", i ? "," : "");
    (void)kd_buf_str(&text, "],\"confusion\":[");
    for (int i = 0; i < WIDE; i++) {
        (void)kd_buf_str(&text, i ? ",[" : "[");
        for (int k = 0; k < WIDE; k++)
            (void)kd_buf_printf(&text, "%s%d", k ? "," : "", k == i ? 10 : 0);
        (void)kd_buf_str(&text, "]");
    }
    (void)kd_buf_str(&text, "]}]}");
    kd_report r = {0};
    kd_report_job *j = NULL;
    kd_diag diag = {0};
    kd_assert_ok(
        kd_report_add_job(&r,
                          detail_of("0123456789ab", DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED,
                                    g_plans, 3, "", ""),
                          -1, &j, &diag),
        &diag);
    kd_assert_ok(kd_report_evaluation(j, text.data, text.len, &diag), &diag);
    assert_non_null(j->evals[0].confusion);
    kd_report_finish(&r);
    assert_int_equal(kd_report_html(&r, &page), 0);
    keep("wide.html", &page);
    check_page(&page);
    assert_int_equal(count(page.data, "class=\"diag hi\""), WIDE);
    kd_buf_clear(&page);
    kd_buf_clear(&text);
    kd_report_clear(&r);
    /* A buffer that is too small is said to be. */
    kd_buf_init(&page, 3000);
    kd_report empty = {0};
    assert_int_equal(kd_report_html(&empty, &page), -KD_ELIMIT);
    kd_buf_clear(&page);
}

/* ---- the other formats */

static void test_report_csv(void **state)
{
    (void)state;
    kd_report r = {0};
    (void)add_fixture(&r);
    r.jobs[0]->detail->summary->name[0] = '"';
    r.jobs[0]->detail->summary->name[1] = ',';
    kd_buf out;
    kd_buf_init(&out, 1 << 20);
    assert_int_equal(kd_report_csv(&r, &out), 0);
    assert_int_equal(count(out.data, "\r\n"), 1 + 4 + 2 * EPOCHS);
    page_has(&out, ",best,share_ce,share_kd,loss_ce,loss_kd\r\n");
    page_has(&out, "0123456789ab,\"\"\",xture\",,,succeeded,distill,1,49,9.5,");
    page_has(&out, "succeeded,teacher,4,196,");
    kd_buf_clear(&out);
    kd_report_clear(&r);
}

static void test_report_md_json(void **state)
{
    (void)state;
    kd_report r = {0};
    (void)add_fixture(&r);
    kd_buf out;
    kd_buf_init(&out, 1 << 20);
    assert_int_equal(kd_report_md(&r, &out), 0);
    page_has(&out, "| student | shallow\\_cnn | validation | last | 80.9 % | 77.5 – 84.0 % | "
                   "446/551 | 0.5532 | 83.4 % | 0.2917 |");
    page_has(&out, "**gain: the student is +6.4 points");
    kd_buf_clear(&out);
    json_t *o = kd_report_json(&r);
    assert_non_null(o);
    const json_t *j = json_array_get(json_object_get(o, "jobs"), 0);
    const json_t *pair = json_array_get(json_object_get(j, "pairs"), 0);
    assert_string_equal(json_string_value(json_object_get(pair, "verdict")), "gain");
    assert_int_equal(json_array_size(json_object_get(json_object_get(j, "evaluation"), "networks")),
                     4);
    const json_t *distill = json_array_get(json_object_get(j, "stages"), 1);
    const json_t *epoch = json_array_get(json_object_get(distill, "epochs"), 0);
    kd_assert_close(json_number_value(json_array_get(json_object_get(epoch, "shares"), 0)), 0.8, 0,
                    1e-12);
    json_decref(o);
    kd_report_clear(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_report_figures), cmocka_unit_test(test_report_hostile_json),
        cmocka_unit_test(test_report_labels),  cmocka_unit_test(test_report_escape),
        cmocka_unit_test(test_report_ticks),   cmocka_unit_test(test_report_tick_text),
        cmocka_unit_test(test_report_page),    cmocka_unit_test(test_report_unfinished),
        cmocka_unit_test(test_report_sweep),   cmocka_unit_test(test_report_large),
        cmocka_unit_test(test_report_csv),     cmocka_unit_test(test_report_md_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* `estimate` and dry runs against a coordinator of our own making: who asks for a trial, what is
 * shown of it, and the exit codes. */
#include "client_fake.h"

/* The coordinator. Guarded by g_mu. */
static struct {
    Distill__V1__Estimate *estimate; /* the answer's; NULL: it knows none */
    int trials, dry_runs;
} g;

static void on_submit(kd_rpc_call *call, const void *request)
{
    const Distill__V1__SubmitRequest *s = request;
    Distill__V1__SubmitReply r = DISTILL__V1__SUBMIT_REPLY__INIT;
    g.dry_runs += s->dry_run;
    g.trials += s->trial;
    r.notes = (char *[]){(char *)"a note"};
    r.n_notes = 1;
    r.resolved = (char *)"{\"name\":\"n\"}";
    r.estimate = s->trial ? g.estimate : NULL;
    kd_fake_answer(call, &r);
}

static const kd_rpc_method g_methods[] = {UNARY("Submit", submit_request, on_submit)};

static char g_file[256];

static int set_up(void **state)
{
    (void)state;
    static const char text[] = "name: n\n"
                               "data: {labelled: {path: d, train: t.txt, val: v.txt}}\n"
                               "student: {model: shallow_cnn}\n"
                               "distill: {loss: {kd: 0, ce: 1}}\n";
    kd_diag diag = {0};
    kd_fake_start(g_methods, KD_COUNT(g_methods));
    snprintf(g_file, sizeof g_file, "%s/job.yaml", g_dir);
    kd_assert_ok(kd_file_write(g_file, text, sizeof text - 1, &diag), &diag);
    return 0;
}

static int fresh(void **state)
{
    (void)state;
    memset(&g, 0, sizeof g);
    return 0;
}

static void answer(Distill__V1__Estimate *e, Distill__V1__StageEstimate *a,
                   Distill__V1__StageEstimate *b, Distill__V1__StageEstimate **list)
{
    distill__v1__estimate__init(e);
    distill__v1__stage_estimate__init(a);
    distill__v1__stage_estimate__init(b);
    a->stage = (char *)"distill";
    a->samples = 2300;
    a->epochs = 10;
    a->steps = 360;
    a->teacher_views = 2800;
    a->seconds = 125;
    a->memory_bytes = 300000000;
    a->note = (char *)"a note\033[31m";
    b->stage = (char *)"tune";
    b->problem = (char *)"no kernels";
    list[0] = a;
    list[1] = b;
    e->worker = (char *)"w1\033[2J";
    e->workers = 4;
    e->connected = 3;
    e->threads = 2;
    e->jobs = 12;
    e->seconds = 125;
    e->memory_bytes = 300000000;
    e->stages = list;
    e->n_stages = 2;
    g.estimate = e;
}

static void test_estimate_table(void **state)
{
    (void)state;
    Distill__V1__Estimate e;
    Distill__V1__StageEstimate a, b, *list[2];
    answer(&e, &a, &b, list);
    assert_int_equal(DISTILL("estimate", g_file), KD_EXIT_OK);
    HAS(g_out, "STAGE    SAMPLES  EPOCHS  STEPS  TAUGHT   TIME  MEMORY  NOTE\n"
               "distill    2,300      10    360   2,800  2m05s  300 MB  a note?[31m\n"
               "tune           -       -      -       -      -       -  not tried: no kernels\n"
               "about 2m05s and 1 stage that could not be tried on 4 workers of 2 threads, up to "
               "300 MB each, as worker w1?[2J measured it\n"
               "it waits until 4 workers are there; now it could have 3\n"
               "that is the first of the sweep's 12 jobs");
    assert_string_equal(g_err, "");
    assert_int_equal(g.dry_runs, 1);
    assert_int_equal(g.trials, 1);
    /* Of a dry run it is talk: what is read of it is the resolved job. */
    assert_int_equal(DISTILL("submit", g_file, "-n"), KD_EXIT_OK);
    LACKS(g_out, "STAGE");
    HAS(g_out, "\"name\"");
    HAS(g_err, "is a good job file; nothing was stored\nSTAGE ");
    HAS(g_err, "now it could have 3\n");
    assert_int_equal(g.trials, 2);
}

static void test_estimate_json(void **state)
{
    (void)state;
    Distill__V1__Estimate e;
    Distill__V1__StageEstimate a, b, *list[2];
    answer(&e, &a, &b, list);
    assert_int_equal(DISTILL("estimate", g_file, "-o", "jsonl"), KD_EXIT_OK);
    HAS(g_out, "{\"why\":\"\",\"worker\":");
    HAS(g_out, "\"workers\":4,\"threads\":2,\"connected\":3,\"jobs\":12,\"seconds\":125.0,"
               "\"memory_bytes\":300000000,\"stages\":[{\"stage\":\"distill\",\"problem\":\"\",");
    HAS(g_out, "\"samples\":2300,\"epochs\":10,\"steps\":360,\"teacher_views\":2800,"
               "\"seconds\":125.0,\"memory_bytes\":300000000}");
    HAS(g_out, "\"problem\":\"no kernels\"");
    HAS(g_out, "\"seconds\":null,\"memory_bytes\":null}]}\n");
}

static void test_estimate_without(void **state)
{
    (void)state;
    Distill__V1__Estimate e = DISTILL__V1__ESTIMATE__INIT;
    /* A coordinator of before. */
    assert_int_equal(DISTILL("estimate", g_file), KD_EXIT_TEMPORARY);
    HAS(g_err, "of a version that estimates nothing");
    assert_string_equal(g_out, "");
    assert_int_equal(DISTILL("estimate", g_file, "-o", "json"), KD_EXIT_TEMPORARY);
    HAS(g_out, "of a version that estimates nothing");
    e.why = (char *)"all are at work";
    g.estimate = &e;
    assert_int_equal(DISTILL("estimate", g_file), KD_EXIT_TEMPORARY);
    HAS(g_err, "no estimate: all are at work\n");
    assert_int_equal(DISTILL("submit", g_file, "-n"), KD_EXIT_OK);
    HAS(g_err, "no estimate: all are at work\n");
    distill__v1__estimate__init(&e);
    e.worker = (char *)"w1";
    e.problem = (char *)"there is no folder d";
    assert_int_equal(DISTILL("estimate", g_file), KD_EXIT_CONFIG);
    HAS(g_err, "worker w1 tried the job and says: there is no folder d\n");
    assert_int_equal(DISTILL("estimate", g_file, "-o", "json"), KD_EXIT_CONFIG);
    HAS(g_out, "\"seconds\": null");
    assert_int_equal(DISTILL("submit", g_file, "-n"), KD_EXIT_CONFIG);
    HAS(g_err, "says: there is no folder d\n");
}

/* Programs and the quiet learn it as well. */
static void test_dry_run(void **state)
{
    (void)state;
    Distill__V1__Estimate e = DISTILL__V1__ESTIMATE__INIT;
    e.why = (char *)"all are at work";
    g.estimate = &e;
    assert_int_equal(DISTILL("submit", g_file, "-n", "-q"), KD_EXIT_OK);
    assert_string_equal(g_out, "{\n  \"name\": \"n\"\n}\n");
    assert_string_equal(g_err, "note: a note\n");
    assert_int_equal(DISTILL("submit", g_file, "-n", "-o", "jsonl"), KD_EXIT_OK);
    HAS(g_out,
        "{\"notes\":[\"a note\"],\"resolved\":{\"name\":\"n\"},\"estimate\":{\"why\":\"all are");
    assert_string_equal(g_err, "");
    distill__v1__estimate__init(&e);
    e.worker = (char *)"w1";
    e.problem = (char *)"there is no folder d";
    assert_int_equal(DISTILL("submit", g_file, "-n", "-q"), KD_EXIT_CONFIG);
    HAS(g_err, "\nerror: worker w1 tried the job and says: there is no folder d\n");
    assert_int_equal(DISTILL("submit", g_file, "-n", "-o", "json"), KD_EXIT_CONFIG);
    HAS(g_out, "\"problem\": \"there is no folder d\"");
    g.estimate = NULL;
    assert_int_equal(DISTILL("submit", g_file, "-n", "-o", "json"), KD_EXIT_OK);
    HAS(g_out, "estimates nothing");
    assert_int_equal(g.dry_runs, 5);
    assert_int_equal(g.trials, 5);
}

static void test_estimate_is_not_asked_for(void **state)
{
    (void)state;
    assert_int_equal(DISTILL("estimate", g_file, "--set", "distill.epocs=3"), KD_EXIT_CONFIG);
    assert_int_equal(DISTILL("estimate"), KD_EXIT_USAGE);
    assert_int_equal(g.dry_runs, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_estimate_table, fresh),
        cmocka_unit_test_setup(test_estimate_json, fresh),
        cmocka_unit_test_setup(test_estimate_without, fresh),
        cmocka_unit_test_setup(test_dry_run, fresh),
        cmocka_unit_test_setup(test_estimate_is_not_asked_for, fresh),
    };
    return cmocka_run_group_tests(tests, set_up, kd_fake_stop);
}

/* `completion words` against a coordinator of our own making: what comes next on a line. */
#include "client_fake.h"

#include "complete.h"

#define JOB "0123456789ab"
#define SWEEP "0a23456789ab"

static void on_list(kd_rpc_call *call, const void *request)
{
    (void)request;
    Distill__V1__ListReply r = DISTILL__V1__LIST_REPLY__INIT;
    Distill__V1__JobSummary jobs[3], *list[3] = {&jobs[0], &jobs[1], &jobs[2]};
    for (int i = 0; i < 3; i++) {
        distill__v1__job_summary__init(&jobs[i]);
        jobs[i].state = DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING;
    }
    jobs[0].job = (char *)JOB;
    jobs[0].name = (char *)"flowers\033[31m";
    jobs[1].job = (char *)SWEEP;
    jobs[1].name = (char *)"grid";
    jobs[1].children = 4;
    /* What no coordinator of ours would say. */
    jobs[2].job = (char *)"0$(reboot)";
    jobs[2].name = (char *)"gr;id";
    r.jobs = list;
    r.n_jobs = 3;
    kd_fake_answer(call, &r);
}

static void on_workers(kd_rpc_call *call, const void *request)
{
    (void)request;
    Distill__V1__WorkersReply r = DISTILL__V1__WORKERS_REPLY__INIT;
    Distill__V1__WorkerInfo w = DISTILL__V1__WORKER_INFO__INIT;
    w.name = (char *)"w1";
    w.state = (char *)"idle";
    r.workers = (Distill__V1__WorkerInfo *[]){&w};
    r.n_workers = 1;
    kd_fake_answer(call, &r);
}

static const kd_rpc_method g_methods[] = {UNARY("List", list_request, on_list),
                                          UNARY("Workers", workers_request, on_workers)};

static int set_up(void **state)
{
    (void)state;
    kd_fake_start(g_methods, KD_COUNT(g_methods));
    setenv("DISTILL_CONFIG", g_dir, 1);
    return 0;
}

/* The candidates for the last of the words, without their descriptions, with blanks between. */
static void expect(int at, const char *expected, const char *const *words)
{
    char got[4096] = "";
    const char *all[16] = {"completion", "words", "--"};
    for (int i = 0; words[i]; i++)
        all[3 + i] = words[i];
    assert_int_equal(kd_fake_distill(all), 0);
    for (char *line = g_out, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        assert_non_null(next);
        *next++ = '\0';
        line[strcspn(line, "\t")] = '\0';
        size_t n = strlen(got);
        snprintf(got + n, sizeof got - n, "%s%s", n ? " " : "", line);
    }
    if (strcmp(got, expected) != 0)
        fail_msg("line %d: \"%s\" where \"%s\" was expected", at, got, expected);
}
#define GIVES(expected, ...) expect(__LINE__, expected, (const char *[]){__VA_ARGS__, NULL})

static void test_completion_verbs(void **state)
{
    (void)state;
    GIVES("explain", "expl");
    GIVES("", "nothing-like-it");
    GIVES("show", "--server", "127.0.0.1:1", "sho");
    GIVES("show", "--insecure", "--no-color", "-ojson", "sho");
    GIVES("", "no-verb", "");
    GIVES("quantize", "help", "qua");
    GIVES("exit-codes export explain", "help", "ex");
    GIVES("all audit", "help", "a");
}

static void test_completion_flags(void **state)
{
    (void)state;
    GIVES("--state", "jobs", "--sta");
    GIVES("-n", "jobs", "-n");
    GIVES("--no-color", "jobs", "--no-");
    GIVES("--server", "--se");
    GIVES("", "jobs", "--", "--sta");
    GIVES("--output-file --output", "quantize", "--outp");
    GIVES("auto minmax percentile mse kl", "quantize", "--method", "");
    GIVES("image-folder idx cifar npy", "evaluate", "--data-format", "");
    GIVES("c onnx safetensors", "export", "--format", "");
    /* A flag of the verb hides the global one. */
    GIVES("--output", "report", "--outp");
}

static void test_completion_values(void **state)
{
    (void)state;
    GIVES("json jsonl", "jobs", "-o", "js");
    GIVES("table json jsonl", "show", "-o", "");
    GIVES("table json jsonl wide csv name", "jobs", "--output", "");
    GIVES("-ojson -ojsonl", "jobs", "-ojs");
    GIVES("html json csv md", "report", "-o", "");
    GIVES("--state=running", "jobs", "--state=ru");
    GIVES("worker submitter viewer operator admin", "token", "create", "--role", "");
    GIVES("c onnx safetensors", "export", "m", "-f", "");
    GIVES(":files", "export", "m", "-O", "");
    GIVES(":folders", "fetch", JOB, "-O", "");
    GIVES("best last", "checkpoint", "get", "--step", "");
    GIVES("distill.loss.temperature", "explain", "distill.loss.temp");
    GIVES("distill.loss.temperature=", "submit", "--set", "distill.loss.temp");
    GIVES("warn", "logs", "--level", "w");
    GIVES("w1", "logs", JOB, "--worker", "");
    GIVES(SWEEP, "jobs", "--sweep", "0");
    GIVES("", "jobs", "--limit", "");
}

static void test_completion_operands(void **state)
{
    (void)state;
    GIVES(JOB " " SWEEP, "show", "");
    GIVES(JOB, "-o", "json", "show", "01");
    GIVES(SWEEP, "cancel", JOB, "0a");
    GIVES("", "show", JOB, "");
    GIVES("grid", "show", "g"); /* by name, but not by one that a shell would run */
    GIVES("", "show", "--server", "127.0.0.1:1", "");
    GIVES("w1", "drain", "");
    GIVES("up down status", "local", "");
    GIVES("", "local", "up", "");
    GIVES("status", "cluster", "");
    GIVES("bash zsh fish", "completion", "");
    GIVES("", "completion", "bash", "");
    GIVES("set reset", "retention", "");
    GIVES("make", "data", "");
    GIVES("flowers", "data", "make", "");
    GIVES(":folders", "data", "make", "flowers", "");
    GIVES(":files", "submit", "");
    GIVES(":files", "predict", "m.onnx", "a.jpg", "");
    GIVES("", "jobs", "");
    assert_int_equal(DISTILL("context", "add", "mine", "--server", "far.example"), 0);
    GIVES("mine", "context", "use", "");
    GIVES("", "context", "add", "");
    GIVES("mine", "jobs", "--context", "m");
    assert_int_equal(DISTILL("context", "rm", "mine"), 0);
}

static void test_completion_descriptions(void **state)
{
    (void)state;
    assert_int_equal(DISTILL("completion", "words", "--", "show", "01"), 0);
    assert_string_equal(g_out, JOB "\tflowers?[31m, running\n");
    assert_int_equal(DISTILL("completion", "words", "--", "jobs", "--quiet"), 0);
    assert_string_equal(g_out, "--quiet\tprint ids only, as -o name\n");
    assert_int_equal(DISTILL("completion", "words"), 0); /* no word at all: the verbs */
    HAS(g_out, "submit\tsubmit a job file\n");
}

/* Whatever the usage line of a verb calls its operands is something known, or listed here. */
static void test_completion_knows_operands(void **state)
{
    (void)state;
    static const char *const unknown[] = {"login"};
    for (int i = 0; i < kd_n_verbs; i++) {
        const kd_verb *v = kd_verbs[i];
        bool known = v->max_operands == 0;
        for (size_t k = 0; k < KD_COUNT(unknown); k++)
            known = known || strcmp(v->name, unknown[k]) == 0;
        /* These ask services that the coordinator of this test does not have. */
        if (known || v == &kd_verb_revoke)
            continue;
        assert_int_equal(DISTILL("completion", "words", "--", v->name, ""), 0);
        if (!g_out[0])
            fail_msg("nothing is known of the operands of %s", v->name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_completion_verbs),
        cmocka_unit_test(test_completion_flags),
        cmocka_unit_test(test_completion_values),
        cmocka_unit_test(test_completion_operands),
        cmocka_unit_test(test_completion_descriptions),
        cmocka_unit_test(test_completion_knows_operands),
    };
    return cmocka_run_group_tests(tests, set_up, kd_fake_stop);
}

/* pause, resume, scale, drain, verify and events against a coordinator of our own making. */
#include "client_fake.h"

#define JOB "0123456789ab"
#define RUN "00000000feed"
#define DIGEST(c) c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c

/* Guarded by g_mu. */
static struct {
    char calls[256]; /* methods in order, with what was asked */
    Distill__V1__JobState state;
    bool paused;
    int code; /* refuse with it */
    const char *text;
    int busy; /* answers of Workers in which the worker still has a job */
    bool differs;
} g;

KD_PRINTF(1, 2)
static void note(const char *fmt, ...)
{
    size_t n = strlen(g.calls);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(g.calls + n, sizeof g.calls - n, fmt, ap);
    va_end(ap);
}

static Distill__V1__JobSummary summary_of(const char *job)
{
    Distill__V1__JobSummary s = DISTILL__V1__JOB_SUMMARY__INIT;
    s.job = (char *)job;
    s.name = (char *)"flowers";
    s.state = g.state;
    s.submitted_ms = 1714564800000;
    s.started_ms = 1714564801000;
    s.paused = g.paused;
    s.priority = 7;
    s.min_workers = 2;
    s.max_workers = 5;
    return s;
}

/* Refuses if the test wants it. */
static bool refused(kd_rpc_call *call)
{
    if (g.code)
        kd_rpc_finish(call, g.code, g.text);
    return g.code != 0;
}

static void job_call(kd_rpc_call *call, const char *name, const Distill__V1__JobRequest *r)
{
    note("%s %s;", name, r->job);
    Distill__V1__JobSummary s = summary_of(r->job);
    if (!refused(call))
        kd_fake_answer(call, &s);
}

static void on_pause(kd_rpc_call *call, const void *request)
{
    job_call(call, "Pause", request);
}

static void on_resume(kd_rpc_call *call, const void *request)
{
    job_call(call, "Resume", request);
}

static void on_scale(kd_rpc_call *call, const void *request)
{
    const Distill__V1__ScaleRequest *r = request;
    note("Scale %s %u %u;", r->job, r->min_workers, r->max_workers);
    Distill__V1__JobSummary s = summary_of(r->job);
    if (!refused(call))
        kd_fake_answer(call, &s);
}

static Distill__V1__WorkerInfo worker(void)
{
    Distill__V1__WorkerInfo w = DISTILL__V1__WORKER_INFO__INIT;
    w.name = (char *)"w1";
    w.state = (char *)(g.busy > 0 ? "draining" : "drained");
    w.job = (char *)(g.busy > 0 ? JOB : "");
    w.slow = 12;
    return w;
}

static void on_drain(kd_rpc_call *call, const void *request)
{
    const Distill__V1__DrainRequest *r = request;
    note("Drain %s %d;", r->worker, (int)r->undo);
    Distill__V1__WorkerInfo w = worker();
    if (!refused(call))
        kd_fake_answer(call, &w);
}

static void on_workers(kd_rpc_call *call, const void *request)
{
    (void)request;
    g.busy -= g.busy > 0;
    Distill__V1__WorkerInfo w = worker(), *list[] = {&w};
    Distill__V1__WorkersReply r = DISTILL__V1__WORKERS_REPLY__INIT;
    r.workers = list;
    r.n_workers = 1;
    kd_fake_answer(call, &r);
}

static void on_list(kd_rpc_call *call, const void *request)
{
    (void)request;
    Distill__V1__JobSummary s = summary_of(JOB), *list[] = {&s};
    Distill__V1__ListReply r = DISTILL__V1__LIST_REPLY__INIT;
    r.jobs = list;
    r.n_jobs = 1;
    kd_fake_answer(call, &r);
}

static void on_get(kd_rpc_call *call, const void *request)
{
    Distill__V1__JobSummary s = summary_of(((const Distill__V1__JobRequest *)request)->job);
    Distill__V1__StageRecord stage = DISTILL__V1__STAGE_RECORD__INIT, *stages[] = {&stage};
    Distill__V1__JobDetail d = DISTILL__V1__JOB_DETAIL__INIT;
    char *slow[] = {(char *)"w1", (char *)"w7"}, *odd[] = {(char *)"w9"};
    stage.name = (char *)"distill";
    stage.state = (char *)"done";
    stage.digest = (char *)DIGEST("a");
    stage.steps_redone = 4;
    stage.lost_ms_worker_faults = 1500;
    stage.lost_ms_all = 2500;
    d.summary = &s;
    d.stages = stages;
    d.n_stages = 1;
    d.slow = slow;
    d.n_slow = 2;
    d.quarantined = odd;
    d.n_quarantined = 1;
    kd_fake_answer(call, &d);
}

static void on_digests(kd_rpc_call *call, const void *request)
{
    bool second = strcmp(((const Distill__V1__JobRequest *)request)->job, RUN) == 0;
    Distill__V1__VersionDigest v[3], *list[3];
    static const uint64_t steps[2][3] = {{3, 6, 9}, {3, 6, 7}};
    for (int i = 0; i < 3; i++) {
        distill__v1__version_digest__init(&v[i]);
        v[i].stage = (char *)"distill";
        v[i].step = steps[second][i];
        v[i].digest = (char *)(second && i == 1 && g.differs ? DIGEST("c") : DIGEST("b"));
        list[i] = &v[i];
    }
    Distill__V1__DigestsReply r = DISTILL__V1__DIGESTS_REPLY__INIT;
    r.digests = list;
    r.n_digests = 3;
    kd_fake_answer(call, &r);
}

static void on_submit(kd_rpc_call *call, const void *request)
{
    const Distill__V1__SubmitRequest *s = request;
    note("Submit %s %s %llu %llu;", s->replay_job, s->verify_stage,
         (unsigned long long)s->verify_from, (unsigned long long)s->verify_to);
    Distill__V1__SubmitReply r = DISTILL__V1__SUBMIT_REPLY__INIT;
    r.job = (char *)RUN;
    r.resolved = (char *)"{}";
    kd_fake_answer(call, &r);
}

static void on_remove(kd_rpc_call *call, const void *request)
{
    note("Remove %s;", ((const Distill__V1__JobRequest *)request)->job);
    Distill__V1__RemoveReply r = DISTILL__V1__REMOVE_REPLY__INIT;
    kd_fake_answer(call, &r);
}

static void on_watch(kd_rpc_call *call, const void *request)
{
    (void)request;
    static const struct {
        int64_t at_ms;
        const char *kind, *worker, *text;
    } rows[] = {
        {0, "submitted", "", "submitted as flowers"},
        {1000, "started", "", "started"},
        {1400, "stage", "", "stage teacher begins: 9 parameters"},
        {2000, "checkpoint", "", "checkpoint of teacher step 3"},
        {3000, "epoch", "", "teacher epoch 1/2: training loss 0.1"},
        {4000, "worker", "w2", "worker lost: silent for 4000 ms"},
        {6500, "recovery", "",
         "recovered in 2.5 s: step 5 is done; lost 2.1 s, steps computed again 0"},
        {7000, "stage", "", "stage teacher done: digest ab"},
        {8000, "stage", "", "stage distill begins: 5 parameters"},
        {8500, "slow", "w1", "slow: 900 ms into step 3"},
        {9000, "waiting", "", "paused; distill resume lets it go on"},
        {69000, "started", "", "started"},
        {70000, "quarantine", "w9\033[2J", "quarantined: it computed other numbers"},
        {71000, "finished", "", "job succeeded"},
    };
    for (size_t i = 0; i < KD_COUNT(rows); i++) {
        Distill__V1__Event e = DISTILL__V1__EVENT__INIT;
        e.seq = i + 1;
        e.time_ms = 1714564800000 + rows[i].at_ms;
        e.kind = (char *)rows[i].kind;
        e.worker = (char *)rows[i].worker;
        e.text = (char *)rows[i].text;
        e.state = DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED;
        kd_fake_send(call, &e);
    }
    kd_rpc_finish(call, 0, "");
}

static const kd_rpc_method g_methods[] = {
    UNARY("Pause", job_request, on_pause),
    UNARY("Resume", job_request, on_resume),
    UNARY("Scale", scale_request, on_scale),
    UNARY("Drain", drain_request, on_drain),
    UNARY("Workers", workers_request, on_workers),
    UNARY("List", list_request, on_list),
    UNARY("Get", job_request, on_get),
    UNARY("Submit", submit_request, on_submit),
    UNARY("Remove", job_request, on_remove),
    UNARY("Digests", job_request, on_digests),
    STREAM("Watch", watch_request, on_watch),
};

KD_FAKE_SET_UP

static int fresh(void **state)
{
    (void)state;
    pthread_mutex_lock(&g_mu);
    g.calls[0] = '\0';
    g.state = DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED;
    g.code = g.busy = 0;
    g.paused = g.differs = false;
    pthread_mutex_unlock(&g_mu);
    return 0;
}

/* Runs it; the exit code and what its two outputs hold ("" = anything). */
#define RUNS(rc, says, talks, ...)                                                                 \
    do {                                                                                           \
        int rc_ = DISTILL(__VA_ARGS__);                                                            \
        if (rc_ != (rc) || !strstr(g_out, says) || !strstr(g_err, talks))                          \
            fail_msg("exit code %d\n%s\n%s", rc_, g_out, g_err);                                   \
    } while (0)

static void test_changes_pause_and_resume(void **state)
{
    (void)state;
    g.state = DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING;
    g.paused = true;
    RUNS(0, "job " JOB " pauses as soon as its step is done\n", "", "pause", JOB);
    RUNS(0, "pausing", "", "jobs");
    g.state = DISTILL__V1__JOB_STATE__JOB_STATE_QUEUED;
    RUNS(0, "job " JOB " is paused\njob " RUN " is paused\n", "", "pause", JOB, RUN);
    RUNS(0, "paused", "", "jobs", "--state", "paused");
    RUNS(0, "paused", "", "jobs", "--state", "queued");
    RUNS(0, "state      paused", "", "show", JOB);
    RUNS(0, "\"paused\": true", "", "pause", JOB, "-o", "json");
    g.paused = false;
    RUNS(0, "", "no paused jobs", "jobs", "--state", "paused");
    RUNS(0, "job " JOB " is queued\n", "", "resume", JOB);
    assert_string_equal(g.calls,
                        "Pause " JOB ";Pause " JOB ";Pause " RUN ";Pause " JOB ";Resume " JOB ";");
    g.code = -KD_ESTATE;
    g.text = "the job is over already";
    RUNS(KD_EXIT_CONFLICT, "", "error: the job is over already\nhint: ", "pause", JOB);
    RUNS(KD_EXIT_CONFLICT, "", "error: the job is over already\nhint: ", "resume", JOB);
    RUNS(KD_EXIT_NO_JOB, "", "error: no such job: x y", "pause", "x y");
    RUNS(KD_EXIT_USAGE, "", "usage: distill pause", "pause");
}

static void test_changes_scale(void **state)
{
    (void)state;
    g.state = DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING;
    RUNS(0, "job " JOB " takes 2 to 5 workers\n", "", "scale", JOB, "--max", "5");
    RUNS(0, "\"max_workers\": 5", "", "scale", JOB, "--min", "2", "--max", "5", "-o", "json");
    assert_string_equal(g.calls, "Scale " JOB " 0 5;Scale " JOB " 2 5;");
    RUNS(KD_EXIT_USAGE, "", "error: scale to what?", "scale", JOB);
    RUNS(KD_EXIT_USAGE, "", "--min 5 is more than --max 2", "scale", JOB, "--min", "5", "--max",
         "2");
    RUNS(KD_EXIT_USAGE, "", "max", "scale", JOB, "--max", "0");
    RUNS(KD_EXIT_USAGE, "", "min", "scale", JOB, "--min", "-1");
    RUNS(KD_EXIT_USAGE, "", "max", "scale", JOB, "--max", "4097");
    assert_string_equal(g.calls, "Scale " JOB " 0 5;Scale " JOB " 2 5;");
    g.code = -KD_EINVAL;
    g.text = "the least may not be more than the most";
    RUNS(KD_EXIT_USAGE, "", "error: the least may not be", "scale", JOB, "--min", "9");
}

static void test_changes_drain(void **state)
{
    (void)state;
    g.busy = 1;
    RUNS(0, "worker w1 leaves job " JOB " when its step is done\n", "", "drain", "w1");
    g.busy = 3;
    RUNS(0, "worker w1 is drained\n", "", "drain", "w1", "--wait");
    assert_int_equal(g.busy, 0);
    g.busy = 1 << 20;
    RUNS(KD_EXIT_TIMEOUT, "", "still works for a job", "drain", "w1", "--wait", "--timeout",
         "300ms");
    g.busy = 2;
    RUNS(0, "\"state\": \"drained\"", "", "drain", "w1", "-w", "-o", "json");
    RUNS(0, "worker w1 is drained", "", "drain", "w1", "--undo"); /* as the coordinator says */
    assert_string_equal(g.calls, "Drain w1 0;Drain w1 0;Drain w1 0;Drain w1 0;Drain w1 1;");
    RUNS(KD_EXIT_USAGE, "", "exclude each other", "drain", "w1", "--undo", "--wait");
    RUNS(KD_EXIT_USAGE, "", "--timeout goes with --wait", "drain", "w1", "--timeout", "1s");
    g.code = -KD_ENOENT;
    g.text = "no worker w2 is connected (`distill workers` lists those that are)";
    RUNS(KD_EXIT_NO_JOB, "", "error: no worker w2 is connected", "drain", "w2");
}

static void test_changes_are_seen(void **state)
{
    (void)state;
    g.state = DISTILL__V1__JOB_STATE__JOB_STATE_QUEUED;
    RUNS(0, "PRIORITY", "", "jobs");
    RUNS(0, "2-5", "", "jobs");
    RUNS(0, "priority   7\nworkers    2 to 5\n", "", "show", JOB);
    RUNS(0, "slow       w1, w7\nquarantined w9\n", "", "show", JOB);
    RUNS(0, "distill: faults cost 2.5s, steps computed again 4", "", "show", JOB);
    RUNS(0,
         "\"steps_redone\": 4,\n      \"lost_ms_worker_faults\": 1500.0,\n      "
         "\"lost_ms_all\": 2500.0,",
         "", "show", JOB, "-o", "json");
    RUNS(0, "\"quarantined\": [\n    \"w9\"\n  ]", "", "show", JOB, "-o", "json");
    RUNS(0, "SLOW", "", "workers");
    RUNS(0, "drained", "", "workers");
    RUNS(0, "\"slow\": 12", "", "workers", "-o", "json");
}

static void test_changes_lists_in_every_format(void **state)
{
    (void)state;
    g.state = DISTILL__V1__JOB_STATE__JOB_STATE_QUEUED;
    RUNS(0, JOB "\n", "", "jobs", "-o", "name");
    RUNS(0, JOB "\n", "", "jobs", "-q");
    RUNS(0, "{\n  \"jobs\": [", "", "jobs", "-q", "-o", "json"); /* who asks for JSON gets it */
    RUNS(0, "{\"job\":\"" JOB "\",", "", "jobs", "-o", "jsonl");
    RUNS(0, "job,name,state,paused,owner,priority,sweep,label,progress.stage,", "", "jobs", "-o",
         "csv");
    RUNS(0, "\r\n" JOB ",", "", "jobs", "-o", "csv");
    RUNS(0, "  CPU\n", "", "workers", "-o", "wide");
    RUNS(0, "NAME", "", "workers");
    LACKS(g_out, "CPU");
    RUNS(0, "w1\n", "", "workers", "-o", "name");
    RUNS(KD_EXIT_USAGE, "", "show prints no list: it has no -o csv", "show", JOB, "-o", "csv");
    RUNS(KD_EXIT_USAGE, "", "hint: -o table, wide, json, jsonl, csv or name", "jobs", "-o", "xml");
    RUNS(KD_EXIT_USAGE, "", "hint: -o table, json or jsonl", "show", JOB, "-o", "xml");
    RUNS(0, "job,seq,time,kind,state,worker,text\r\n", "", "events", JOB, "-o", "csv");
    RUNS(KD_EXIT_USAGE, "", "events have no names", "events", JOB, "-o", "name");
}

static void test_changes_events_tell_a_story(void **state)
{
    (void)state;
    RUNS(0,
         "       +0.0s  started\n"
         "\nstage teacher\n"
         "       +0.4s  begins: 9 parameters\n"
         "       +2.0s  epoch 1/2: training loss 0.1\n"
         "       +3.0s  w2: worker lost: silent for 4000 ms\n"
         "       +5.5s  recovered in 2.5 s: step 5 is done; lost 2.1 s, steps computed again 0\n"
         "       +6.0s  done: digest ab\n"
         "\nstage distill\n"
         "       +7.0s  begins: 5 parameters\n"
         "       +7.5s  w1: slow: 900 ms into step 3\n"
         "       +8.0s  waits: paused; distill resume lets it go on\n"
         "      +1m08s  goes on\n"
         "      +1m09s  w9?[2J: quarantined: it computed other numbers\n"
         "      +1m10s  job succeeded\n",
         "", "events", JOB);
    RUNS(0, "       +1.0s  checkpoint of teacher step 3\n", "", "events", JOB, "--all");
    RUNS(0, "job " JOB " flowers, submitted ", "", "events", JOB);
    RUNS(0, "\"kind\":\"checkpoint\"", "", "events", JOB, "-o", "json");
    RUNS(0, "recovered in", "", "logs", JOB);
    RUNS(0, "slow: 900 ms", "", "logs", JOB, "--worker", "w1");
}

static void test_changes_verify(void **state)
{
    (void)state;
    RUNS(0, "2 of 2 equal", "job " JOB " is verified: 3 digests are equal", "verify", JOB);
    assert_string_equal(g.calls, "Submit " JOB "  0 0;Remove " RUN ";");
    g.calls[0] = '\0';
    RUNS(0, "\"equal\": true", "", "verify", JOB, "--steps", "2..5", "--keep", "-o", "json");
    assert_string_equal(g.calls, "Submit " JOB " distill 2 6;"); /* 6 is the next known step */
    g.calls[0] = '\0';
    g.differs = true;
    RUNS(KD_EXIT_FAILURE, "DIFFERS", "1 of 3 digests differ from job " JOB, "verify", JOB);
    RUNS(KD_EXIT_FAILURE, "1 of 2 equal", RUN, "verify", JOB, "--steps", "3");
    assert_string_equal(g.calls, "Submit " JOB "  0 0;Submit " JOB " distill 3 3;");
    RUNS(KD_EXIT_CONFLICT, "", "no digest of job " JOB " from step 10 of stage distill", "verify",
         JOB, "--steps", "10..10");
    RUNS(KD_EXIT_CONFLICT, "", "of stage other", "verify", JOB, "--steps", "1..2", "--stage",
         "other");
    static const char *const bad[] = {"0..1", "2..1", "a", "1..", "1.2", "1..2x", "-1..2", ""};
    for (size_t i = 0; i < KD_COUNT(bad); i++)
        RUNS(KD_EXIT_USAGE, "", "--steps", "verify", JOB, "--steps", bad[i]);
    RUNS(KD_EXIT_USAGE, "", "--stage goes with --steps", "verify", JOB, "--stage", "distill");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_changes_pause_and_resume, fresh),
        cmocka_unit_test_setup(test_changes_scale, fresh),
        cmocka_unit_test_setup(test_changes_drain, fresh),
        cmocka_unit_test_setup(test_changes_are_seen, fresh),
        cmocka_unit_test_setup(test_changes_lists_in_every_format, fresh),
        cmocka_unit_test_setup(test_changes_events_tell_a_story, fresh),
        cmocka_unit_test_setup(test_changes_verify, fresh),
    };
    return cmocka_run_group_tests(tests, set_up, kd_fake_stop);
}

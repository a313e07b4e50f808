/* Sweeps, continue and replay against a coordinator of our own making, over real gRPC. */
#include "client_fake.h"

#include "replay.h"
#include "sweep.h"

#include <sys/stat.h>

#define SWEEP "aaaaaaaaaaaa"
#define CHILDREN 4
#define OLD "111111111111"
#define NEW "222222222222"

/* Guarded by g_mu. */
static struct {
    int over;    /* children that have ended; one more at each look at the sweep */
    bool differ; /* the replayed job comes out otherwise */
    int failed;  /* number of the child that fails, -1 = none */
    int lists;   /* calls of List */
    char continued[16], replayed[16], key[80];
    unsigned epochs;
} g;

/* ---- what there is */

static const char *const g_ids[CHILDREN] = {"b00000000001", "b00000000002", "b00000000003",
                                            "b00000000004"};
static const char *const g_labels[CHILDREN] = {
    "distill.loss.temperature=1 seed=1", "distill.loss.temperature=1 seed=2",
    "distill.loss.temperature=5 seed=1", "distill.loss.temperature=5 seed=2"};
static const unsigned g_correct[CHILDREN] = {70, 72, 81, 83};

static Distill__V1__JobState child_state(int i)
{
    if (i >= g.over)
        return i == g.over ? DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING
                           : DISTILL__V1__JOB_STATE__JOB_STATE_QUEUED;
    return i == g.failed ? DISTILL__V1__JOB_STATE__JOB_STATE_FAILED
                         : DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED;
}

static void child_summary(int i, Distill__V1__JobSummary *s, Distill__V1__Progress *p)
{
    distill__v1__job_summary__init(s);
    s->job = (char *)g_ids[i];
    s->name = (char *)"temps";
    s->sweep = (char *)SWEEP;
    s->label = (char *)g_labels[i];
    s->state = child_state(i);
    s->submitted_ms = 1714564800123;
    if (s->state != DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING)
        return;
    distill__v1__progress__init(p);
    p->stage = (char *)"distill";
    p->stage_index = 1;
    p->stage_count = 4;
    p->step = 30;
    p->steps = 60;
    p->epoch = 2;
    p->epochs = 4;
    p->loss = 0.5;
    p->accuracy = -1;
    p->eta_seconds = 12;
    p->workers = 1;
    p->phase = (char *)"training";
    s->progress = p;
}

static void sweep_summary(Distill__V1__JobSummary *s)
{
    bool ended = g.over >= CHILDREN;
    distill__v1__job_summary__init(s);
    s->job = (char *)SWEEP;
    s->name = (char *)"temps";
    s->submitted_ms = 1714564800100;
    s->children = CHILDREN;
    s->children_over = (uint32_t)g.over;
    s->state = !ended          ? DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING
               : g.failed >= 0 ? DISTILL__V1__JOB_STATE__JOB_STATE_FAILED
                               : DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED;
    s->reason = (char *)(ended && g.failed >= 0 ? "1 of 4 jobs failed" : "");
}

static void send_sweep(kd_rpc_call *call)
{
    Distill__V1__JobDetail d = DISTILL__V1__JOB_DETAIL__INIT;
    Distill__V1__JobSummary s, children[CHILDREN], *list[CHILDREN];
    Distill__V1__Progress progress[CHILDREN];
    sweep_summary(&s);
    for (int i = 0; i < CHILDREN; i++) {
        child_summary(i, &children[i], &progress[i]);
        list[i] = &children[i];
    }
    d.summary = &s;
    d.jobs = list;
    d.n_jobs = CHILDREN;
    kd_fake_answer(call, &d);
    g.over = KD_MIN(g.over + 1, CHILDREN);
}

/* A job with one trained stage of two evaluations. */
static void send_job(kd_rpc_call *call, const Distill__V1__JobSummary *s, unsigned correct,
                     const char *digest)
{
    static char *terms[] = {"ce", "kd"};
    static double shares[2][2] = {{0.9, 0.1}, {0.6, 0.4}};
    Distill__V1__JobDetail d = DISTILL__V1__JOB_DETAIL__INIT;
    Distill__V1__StageRecord stages[2], *list[2];
    Distill__V1__EpochRecord epochs[2], *epoch_list[2];
    d.summary = (Distill__V1__JobSummary *)s;
    for (int i = 0; i < 2; i++) {
        distill__v1__stage_record__init(&stages[i]);
        list[i] = &stages[i];
        distill__v1__epoch_record__init(&epochs[i]);
        epochs[i].epoch = (uint32_t)i + 1;
        epochs[i].val_samples = 100;
        epochs[i].val_correct = correct - 5 + 5 * (uint32_t)i;
        epochs[i].val_agree = 77;
        epochs[i].val_kl = 0.321;
        epochs[i].learning_rate = 0.0125;
        epochs[i].best = true;
        epochs[i].shares = shares[i];
        epochs[i].n_shares = 2;
        epoch_list[i] = &epochs[i];
    }
    stages[0].name = (char *)"teacher";
    stages[0].digest = (char *)"11111111111111111111111111111111";
    stages[0].shared = (char *)"b00000000009";
    stages[1].name = (char *)"distill";
    stages[1].digest = (char *)digest;
    stages[1].epochs = epoch_list;
    stages[1].n_epochs = 2;
    stages[1].terms = terms;
    stages[1].n_terms = 2;
    stages[1].teacher_forwards = 100;
    stages[1].bank_hits = 300;
    stages[1].teacher_seconds = 20;
    stages[1].stopped_early = 55;
    d.stages = list;
    d.n_stages = 2;
    if (s->state == DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED)
        d.result = (char *)"{\"student\":{\"model\":\"shallow_cnn\",\"accuracy\":0.8}}";
    kd_fake_answer(call, &d);
}

static void on_get(kd_rpc_call *call, const void *request)
{
    const char *job = ((const Distill__V1__JobRequest *)request)->job;
    Distill__V1__JobSummary s = DISTILL__V1__JOB_SUMMARY__INIT;
    Distill__V1__Progress p;
    bool found = strlen(job) >= 4 && strncmp(job, SWEEP, strlen(job)) == 0;
    if (found)
        send_sweep(call);
    for (int i = 0; !found && i < CHILDREN; i++)
        if (strcmp(job, g_ids[i]) == 0) {
            child_summary(i, &s, &p);
            send_job(call, &s, g_correct[i], "33333333333333333333333333333333");
            found = true;
        }
    if (!found) {
        bool fresh = strcmp(job, NEW) == 0;
        s.job = (char *)(fresh ? NEW : OLD);
        s.name = (char *)"alone";
        s.submitted_ms = 1714564800000;
        s.state = DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED;
        send_job(call, &s, 80,
                 fresh && g.differ ? "44444444444444444444444444444444"
                                   : "33333333333333333333333333333333");
    }
}

static void on_list(kd_rpc_call *call, const void *request)
{
    (void)request;
    g.lists++;
    Distill__V1__ListReply r = DISTILL__V1__LIST_REPLY__INIT;
    Distill__V1__JobSummary rows[CHILDREN + 2], *list[CHILDREN + 2];
    Distill__V1__Progress progress[CHILDREN];
    /* Newest first: the sweep with its jobs, one job alone. */
    sweep_summary(&rows[0]);
    for (int i = 0; i < CHILDREN; i++)
        child_summary(i, &rows[i + 1], &progress[i]);
    distill__v1__job_summary__init(&rows[CHILDREN + 1]);
    rows[CHILDREN + 1].job = (char *)OLD;
    rows[CHILDREN + 1].name = (char *)"alone";
    rows[CHILDREN + 1].state = DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED;
    for (int i = 0; i < CHILDREN + 2; i++)
        list[i] = &rows[i];
    r.jobs = list;
    r.n_jobs = CHILDREN + 2;
    kd_fake_answer(call, &r);
}

static void on_submit(kd_rpc_call *call, const void *request)
{
    const Distill__V1__SubmitRequest *s = request;
    Distill__V1__SubmitReply r = DISTILL__V1__SUBMIT_REPLY__INIT;
    snprintf(g.continued, sizeof g.continued, "%s", s->continue_job);
    snprintf(g.replayed, sizeof g.replayed, "%s", s->replay_job);
    snprintf(g.key, sizeof g.key, "%s", s->key);
    g.epochs = s->continue_epochs;
    bool other = g.continued[0] || g.replayed[0];
    r.job = (char *)(other ? NEW : SWEEP);
    r.resolved = (char *)"{}";
    if (!other) {
        r.children = (char **)g_ids;
        r.n_children = CHILDREN;
    }
    kd_fake_answer(call, &r);
}

static void on_watch(kd_rpc_call *call, const void *request)
{
    (void)request;
    kd_rpc_finish(call, 0, "");
}

static const kd_rpc_method g_methods[] = {
    UNARY("Get", job_request, on_get),
    UNARY("List", list_request, on_list),
    STREAM("Watch", watch_request, on_watch),
    UNARY("Submit", submit_request, on_submit),
};

KD_FAKE_SET_UP

static int fresh(void **state)
{
    (void)state;
    pthread_mutex_lock(&g_mu);
    g.over = CHILDREN;
    g.differ = false;
    g.failed = -1;
    g.lists = 0;
    pthread_mutex_unlock(&g_mu);
    return 0;
}

/* ---- the tests */

static void test_sweeps_jobs(void **state)
{
    (void)state;
    g.over = 1;
    assert_int_equal(DISTILL("jobs"), 0);
    HAS(g_out, "1 of 4 over");
    HAS(g_out, OLD);
    LACKS(g_out, "temperature");
    assert_int_equal(DISTILL("jobs", "--all"), 0);
    const char *at = g_out;
    static const char *const order[] = {SWEEP,          "b00000000001", "b00000000002",
                                        "b00000000003", "b00000000004", OLD};
    for (size_t i = 0; i < KD_COUNT(order); i++) {
        const char *next = strstr(at, order[i]);
        assert_non_null(next);
        at = next;
    }
    HAS(g_out, "  distill.loss.temperature=5 seed=1");
    assert_int_equal(DISTILL("jobs", "-n", "1", "-q"), 0);
    assert_string_equal(g_out, SWEEP "\n");
}

/* Those of one sweep come with the sweep, however long ago it was. */
static void test_sweeps_jobs_of_one(void **state)
{
    (void)state;
    assert_int_equal(DISTILL("jobs", "--sweep", "aaaa", "-q", "-n", "1"), 0);
    assert_string_equal(g_out, "b00000000001\nb00000000002\nb00000000003\nb00000000004\n");
    g.failed = 2;
    assert_int_equal(DISTILL("jobs", "--sweep", SWEEP, "--state", "failed"), 0);
    HAS(g_out, "  distill.loss.temperature=5 seed=1");
    LACKS(g_out, "b00000000002");
    assert_int_equal(DISTILL("jobs", "--sweep", SWEEP, "--state", "queued"), 0);
    HAS(g_err, "no queued jobs of sweep " SWEEP);
    assert_int_equal(DISTILL("jobs", "--sweep", OLD), KD_EXIT_CONFLICT);
    HAS(g_err, "error: job " OLD " is no sweep\nhint: ");
    assert_int_equal(DISTILL("jobs", "--sweep", "no job"), KD_EXIT_NO_JOB);
    assert_int_equal(g.lists, 0);
}

static void test_sweeps_show(void **state)
{
    (void)state;
    assert_int_equal(DISTILL("show", SWEEP), 0);
    HAS(g_out, "4 of 4 over");
    HAS(g_out, "72.0 %");
    HAS(g_out, "best by validation");
    /* The best is the job with most right answers. */
    const char *best = strstr(g_out, "b00000000004");
    const char *mark = strstr(g_out, "best by validation");
    assert_true(best && mark > best && !memchr(best, '\n', (size_t)(mark - best)));
    HAS(g_out, "over seeds");
    HAS(g_out, "82.0 %");
    HAS(g_out, "1,600 views asked, 1,200 served, 400 computed; 4m00s saved");
}

static void test_sweeps_show_job(void **state)
{
    (void)state;
    assert_int_equal(DISTILL("show", OLD), 0);
    HAS(g_out, "gradient shares of the loss terms in distill");
    HAS(g_out, "60.0 %");
    HAS(g_out, "AGREES");
    HAS(g_out, "77.0 %");
    HAS(g_out, "0.3210");
    HAS(g_out, "0.0125");
    HAS(g_out, "teacher: taken over from job b00000000009");
    HAS(g_out, "distill: best by validation at epoch 2, 80.0 %");
    HAS(g_out, "distill: stopped early at step 55");
    HAS(g_out, "400 views asked: 300 served from the bank, 100 computed");
    HAS(g_out, "teacher's time 20s, saved 1m00s");
}

static void test_sweeps_wait_and_watch(void **state)
{
    (void)state;
    g.over = 2;
    assert_int_equal(DISTILL("wait", SWEEP), 0);
    HAS(g_out, "best by validation");
    g.over = 2;
    assert_int_equal(DISTILL("watch", SWEEP), 0);
    HAS(g_out, "b00000000004  distill.loss.temperature=5 seed=2  succeeded");
    HAS(g_out, "distill 2/4  epoch 2/4  30/60");
    HAS(g_out, "best by validation");
    g.over = 3;
    g.failed = 1;
    assert_int_equal(DISTILL("watch", SWEEP, "-o", "json"), 7);
    HAS(g_out, "\"kind\":\"end\"");
    HAS(g_out, "\"children_over\":4");
    g.over = 0;
    assert_int_equal(DISTILL("wait", SWEEP, "--timeout", "500ms"), 124);
    HAS(g_err, "has not ended after 0.5s");
}

static void test_sweeps_submit(void **state)
{
    (void)state;
    char path[256];
    static const char job[] = "name: temps\n"
                              "data: {labelled: {format: image-folder, path: flowers, train: "
                              "train.txt, val: val.txt, size: 32}}\n"
                              "teacher: {model: mobilenet_v2, fine_tune: {epochs: 1}}\n"
                              "student: {model: shallow_cnn}\n"
                              "distill: {loss: {kd: 1, ce: 0.1}, epochs: 2, batch: 16}\n"
                              "matrix: {distill.loss.temperature: [1, 5]}\nseeds: 2\n";
    kd_diag diag = {0};
    snprintf(path, sizeof path, "%s/sweep.yaml", g_dir);
    kd_assert_ok(kd_file_write(path, job, strlen(job), &diag), &diag);
    assert_int_equal(DISTILL("submit", path), 0);
    HAS(g_out, "sweep of 4 jobs " SWEEP " accepted");
    HAS(g_out, "b00000000003  distill.loss.temperature=5 seed=1");
    assert_int_equal(DISTILL("submit", path, "-o", "json"), 0);
    HAS(g_out, "\"children\"");
    assert_int_equal(DISTILL("submit", path, "-q"), 0);
    assert_string_equal(g_out, SWEEP "\n");
}

static void test_sweeps_fetch(void **state)
{
    (void)state;
    char dir[200], path[420];
    struct stat st;
    snprintf(dir, sizeof dir, "%s/got", g_dir);
    assert_int_equal(DISTILL("fetch", SWEEP, "-O", dir), 0);
    for (int i = 0; i < CHILDREN; i++) {
        char label[64];
        snprintf(label, sizeof label, "%s", g_labels[i]);
        *strchr(label, ' ') = '_';
        snprintf(path, sizeof path, "%s/%s_%s/result.json", dir, g_ids[i], label);
        assert_int_equal(stat(path, &st), 0);
    }
    /* The jobs that succeeded are fetched all the same. */
    g.failed = 0;
    snprintf(dir, sizeof dir, "%s/some", g_dir);
    assert_int_equal(DISTILL("fetch", SWEEP, "-O", dir), 5);
    snprintf(path, sizeof path, "%s/%s_distill.loss.temperature=5_seed=2/result.json", dir,
             g_ids[3]);
    assert_int_equal(stat(path, &st), 0);
}

static void test_sweeps_continue(void **state)
{
    (void)state;
    assert_int_equal(DISTILL("continue", OLD, "--epochs", "7", "--key", "k1", "-q"), 0);
    assert_string_equal(g_out, NEW "\n");
    assert_string_equal(g.continued, OLD);
    assert_string_equal(g.key, "k1");
    assert_int_equal(g.epochs, 7);
    assert_int_equal(DISTILL("continue", OLD, "--epochs", "7", "--watch"), 0);
    HAS(g_out, "job " NEW " accepted");
    assert_int_equal(DISTILL("continue", OLD), 2);
    HAS(g_err, "--epochs");
    assert_int_equal(DISTILL("continue", OLD, "--epochs", "0"), 2);
    assert_int_equal(DISTILL("continue", "no job", "--epochs", "1"), 3);
}

static void test_sweeps_replay(void **state)
{
    (void)state;
    assert_int_equal(DISTILL("replay", OLD), 0);
    assert_string_equal(g.replayed, OLD);
    HAS(g_out, "equal");
    LACKS(g_out, "DIFFERENT");
    g.differ = true;
    assert_int_equal(DISTILL("replay", OLD), KD_EXIT_DIFFERENT);
    HAS(g_out, "44444444444444444444444444444444  DIFFERENT");
    HAS(g_err, "1 digest differs from job " OLD);
    assert_int_equal(DISTILL("replay", OLD, "-o", "json"), KD_EXIT_DIFFERENT);
    HAS(g_out, "\"equal\": false");
    assert_int_equal(DISTILL("replay", OLD, "--no-wait"), 0);
    HAS(g_out, "job " NEW " accepted");
}

static void test_sweeps_replay_compare(void **state)
{
    (void)state;
    Distill__V1__JobDetail a = DISTILL__V1__JOB_DETAIL__INIT, b = DISTILL__V1__JOB_DETAIL__INIT;
    Distill__V1__StageRecord s = DISTILL__V1__STAGE_RECORD__INIT, *list[] = {&s};
    int different = 0;
    s.name = (char *)"distill";
    s.digest = (char *)"33";
    a.stages = b.stages = list;
    a.n_stages = 1;
    /* A stage that is missing in one of the two is a difference. */
    json_t *o = kd_replay_compare(&a, &b, &different);
    assert_int_equal(different, 1);
    json_decref(o);
    o = kd_replay_compare(&b, &a, &different);
    assert_int_equal(different, 1);
    json_decref(o);
    b.n_stages = 1;
    o = kd_replay_compare(&a, &b, &different);
    assert_int_equal(different, 0);
    assert_int_equal(json_array_size(o), 1);
    json_decref(o);
}

static void test_sweeps_line(void **state)
{
    (void)state;
    Distill__V1__JobSummary s;
    Distill__V1__Progress p;
    g.over = 0;
    kd_buf b;
    kd_buf_init(&b, 1000);
    child_summary(0, &s, &p);
    kd_sweep_line(&s, 20, 100, false, &b);
    assert_string_equal(b.data, "distill.loss.tempera  running    distill 2/4  epoch 2/4  "
                                "30/60  loss 0.5000  ETA 12s  1 worker");
    kd_buf_clear(&b);
    child_summary(1, &s, &p);
    s.reason = (char *)"waits for its \033turn";
    kd_sweep_line(&s, 40, 100, false, &b);
    assert_string_equal(b.data, "distill.loss.temperature=1 seed=2         queued     waits for "
                                "its ?turn");
    kd_buf_clear(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_sweeps_jobs, fresh),
        cmocka_unit_test_setup(test_sweeps_jobs_of_one, fresh),
        cmocka_unit_test_setup(test_sweeps_show, fresh),
        cmocka_unit_test_setup(test_sweeps_show_job, fresh),
        cmocka_unit_test_setup(test_sweeps_wait_and_watch, fresh),
        cmocka_unit_test_setup(test_sweeps_submit, fresh),
        cmocka_unit_test_setup(test_sweeps_fetch, fresh),
        cmocka_unit_test_setup(test_sweeps_continue, fresh),
        cmocka_unit_test_setup(test_sweeps_replay, fresh),
        cmocka_unit_test(test_sweeps_replay_compare),
        cmocka_unit_test_setup(test_sweeps_line, fresh),
    };
    return cmocka_run_group_tests(tests, set_up, kd_fake_stop);
}

/* `cluster status` against a coordinator of our own making: its alerts, and how little it asks for.
 */
#include "client_fake.h"

#define PAGE 100
#define QUIET 3 /* jobs of a page that run and have their workers */

/* Guarded by g_mu. */
static struct {
    unsigned running;  /* as Info counts them */
    bool counts;       /* Info does */
    unsigned unserved; /* jobs that run without a worker, the oldest of all */
    unsigned before;   /* jobs that are newer; the first QUIET of them run as well */
    int lists;         /* calls */
    unsigned largest;  /* limit of these */
} g;

static void on_info(kd_rpc_call *call, const void *request)
{
    (void)request;
    Distill__V1__InfoReply r = DISTILL__V1__INFO_REPLY__INIT;
    Distill__V1__JobCounts counts = DISTILL__V1__JOB_COUNTS__INIT;
    r.version = (char *)KD_VERSION;
    r.protocol = KD_PROTOCOL;
    r.free_bytes = -1;
    counts.running = g.running;
    r.jobs = g.counts ? &counts : NULL;
    kd_fake_answer(call, &r);
}

static void on_workers(kd_rpc_call *call, const void *request)
{
    (void)request;
    Distill__V1__WorkersReply r = DISTILL__V1__WORKERS_REPLY__INIT;
    kd_fake_answer(call, &r);
}

static void on_list(kd_rpc_call *call, const void *request)
{
    static Distill__V1__JobSummary jobs[PAGE], *list[PAGE];
    static Distill__V1__Progress progress[PAGE];
    static char ids[PAGE][13];
    const Distill__V1__ListRequest *r = request;
    Distill__V1__ListReply reply = DISTILL__V1__LIST_REPLY__INIT;
    const unsigned all = g.before + g.unserved;
    unsigned at = r->before[0] ? (unsigned)strtoul(r->before, NULL, 16) + 1 : 0;
    g.lists++;
    g.largest = KD_MAX(g.largest, r->limit);
    for (; reply.n_jobs < KD_MIN(r->limit, (unsigned)PAGE) && at < all; at++) {
        const size_t i = reply.n_jobs++;
        const bool unserved = at >= g.before;
        distill__v1__job_summary__init(&jobs[i]);
        distill__v1__progress__init(&progress[i]);
        snprintf(ids[i], sizeof ids[i], "%012x", at);
        jobs[i].job = ids[i];
        jobs[i].name = (char *)"n";
        jobs[i].state = unserved || at < QUIET ? DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING
                                               : DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED;
        jobs[i].reason = (char *)(unserved ? "no data" : "");
        progress[i].workers = unserved ? 0 : 1;
        jobs[i].progress = &progress[i];
        list[i] = &jobs[i];
    }
    reply.jobs = list;
    reply.more = at < all;
    kd_fake_answer(call, &reply);
}

static const kd_rpc_method g_methods[] = {
    UNARY("Info", info_request, on_info),
    UNARY("Workers", workers_request, on_workers),
    UNARY("List", list_request, on_list),
};

KD_FAKE_SET_UP

static int fresh(void **state)
{
    (void)state;
    memset(&g, 0, sizeof g);
    g.counts = true;
    return 0;
}

/* What Info counts needs no list. */
static void test_cluster_nothing_runs(void **state)
{
    (void)state;
    g.before = 5000;
    assert_int_equal(DISTILL("cluster", "status"), 0);
    HAS(g_out, "jobs         0 running");
    HAS(g_out, "alerts       none");
    assert_int_equal(g.lists, 0);
}

/* Jobs are asked for until all that run were seen. */
static void test_cluster_looks_as_far_as_needed(void **state)
{
    (void)state;
    g.before = 5000;
    g.running = QUIET;
    assert_int_equal(DISTILL("cluster", "status"), 0);
    HAS(g_out, "alerts       none");
    assert_int_equal(g.lists, 1);
    assert_int_equal(g.largest, PAGE);
    g.lists = 0;
    g.before = 250;
    g.unserved = 2;
    g.running = QUIET + 2;
    assert_int_equal(DISTILL("cluster", "status"), 0);
    HAS(g_out, "alerts       job 0000000000fa (n) runs without a worker: no data\n");
    HAS(g_out, "             job 0000000000fb (n) runs without a worker: no data\n");
    LACKS(g_out, "more jobs");
    assert_int_equal(g.lists, 3);
    g.unserved = 7;
    g.running = QUIET + 7;
    assert_int_equal(DISTILL("cluster", "status", "-o", "json"), 0);
    HAS(g_out, "\"job 0000000000fd (n) runs");
    LACKS(g_out, "\"job 0000000000fe (n) runs");
    HAS(g_out, "3 more jobs run without a worker");
}

/* Who sees only his own jobs, or asks one that does not count, does not look for ever. */
static void test_cluster_looks_no_further(void **state)
{
    (void)state;
    g.before = 5000;
    g.running = 100;
    assert_int_equal(DISTILL("cluster", "status"), 0);
    assert_int_equal(g.lists, 10);
    g.lists = 0;
    g.counts = false;
    g.before = 30;
    g.unserved = 1;
    assert_int_equal(DISTILL("cluster", "status"), 0);
    HAS(g_out, "job 00000000001e (n) runs without a worker");
    assert_int_equal(g.lists, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_cluster_nothing_runs, fresh),
        cmocka_unit_test_setup(test_cluster_looks_as_far_as_needed, fresh),
        cmocka_unit_test_setup(test_cluster_looks_no_further, fresh),
    };
    return cmocka_run_group_tests(tests, set_up, kd_fake_stop);
}

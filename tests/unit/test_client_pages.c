/* `jobs` against a coordinator of our own making that has more than one answer may hold. */
#include "client_fake.h"

#define JOBS 2500
#define PAGE 1000

/* Guarded by g_mu. Every tenth job failed; the last one is the first that was submitted. */
static struct {
    int calls;
    unsigned least, most; /* limits of the requests */
    bool old;             /* it knows of no second page */
} g;

static void on_list(kd_rpc_call *call, const void *request)
{
    static Distill__V1__JobSummary jobs[PAGE], *list[PAGE];
    static char ids[PAGE][13];
    const Distill__V1__ListRequest *r = request;
    Distill__V1__ListReply reply = DISTILL__V1__LIST_REPLY__INIT;
    unsigned at = r->before[0] && !g.old ? (unsigned)strtoul(r->before, NULL, 16) + 1 : 0;
    g.least = g.calls == 0 || r->limit < g.least ? r->limit : g.least;
    g.most = r->limit > g.most ? r->limit : g.most;
    g.calls++;
    for (; reply.n_jobs < r->limit && reply.n_jobs < PAGE && at < JOBS; at++) {
        const size_t i = reply.n_jobs++;
        distill__v1__job_summary__init(&jobs[i]);
        snprintf(ids[i], sizeof ids[i], "%012x", at);
        jobs[i].job = ids[i];
        jobs[i].name = (char *)"n";
        jobs[i].state = at % 10 ? DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED
                                : DISTILL__V1__JOB_STATE__JOB_STATE_FAILED;
        list[i] = &jobs[i];
    }
    reply.jobs = list;
    reply.more = !g.old && at < JOBS;
    kd_fake_answer(call, &reply);
}

static const kd_rpc_method g_methods[] = {UNARY("List", list_request, on_list)};

KD_FAKE_SET_UP

static int fresh(void **state)
{
    (void)state;
    memset(&g, 0, sizeof g);
    return 0;
}

/* The ids that were printed are first, first + step, ..., n of them. */
static void printed(unsigned n, unsigned step)
{
    const char *line = g_out;
    char id[16];
    for (unsigned i = 0; i < n; i++) {
        snprintf(id, sizeof id, "%012x\n", i * step);
        if (strncmp(line, id, 13) != 0)
            fail_msg("row %u is %.13s where %s was expected", i, line, id);
        line += 13;
    }
    assert_string_equal(line, "");
}

static void test_pages(void **state)
{
    (void)state;
    assert_int_equal(DISTILL("jobs", "-q"), 0);
    printed(100, 1);
    assert_int_equal(g.calls, 1);
    assert_int_equal(DISTILL("jobs", "-q", "-n", "2300"), 0);
    printed(2300, 1);
    assert_int_equal(g.calls, 4);
    assert_int_equal(g.most, PAGE);
    assert_int_equal(DISTILL("jobs", "-q", "-n", "100000"), 0);
    printed(JOBS, 1);
    assert_int_equal(g.calls, 7);
    assert_int_equal(DISTILL("jobs", "-n", "100001"), KD_EXIT_USAGE);
}

/* What a filter leaves out does not count. */
static void test_pages_filter(void **state)
{
    (void)state;
    assert_int_equal(DISTILL("jobs", "-q", "--state", "failed", "-n", "150"), 0);
    printed(150, 10);
    assert_int_equal(g.calls, 2);
    assert_int_equal(g.least, PAGE);
    assert_int_equal(DISTILL("jobs", "--state", "foo"), KD_EXIT_USAGE);
    HAS(g_err, "hint: --state queued, paused, running, succeeded, failed or cancelled\n");
}

static void test_pages_of_before(void **state)
{
    (void)state;
    g.old = true;
    assert_int_equal(DISTILL("jobs", "-q", "-n", "2300"), 0);
    printed(PAGE, 1);
    assert_int_equal(g.calls, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_pages, fresh),
        cmocka_unit_test_setup(test_pages_filter, fresh),
        cmocka_unit_test_setup(test_pages_of_before, fresh),
    };
    return cmocka_run_group_tests(tests, set_up, kd_fake_stop);
}

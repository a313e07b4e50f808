/* The CPUs that units stay on: what `--cores` takes, and that a pool keeps to them. */
#include "kd_test.h"

#include "daemon.h"
#include "pool.h"

#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

/* The first CPUs that this process may use. */
static int usable(int *out, int most)
{
    cpu_set_t set;
    int n = 0;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    for (int cpu = 0; cpu < CPU_SETSIZE && n < most; cpu++)
        if (CPU_ISSET((size_t)cpu, &set))
            out[n++] = cpu;
    return n;
}

static int options(kd_worker_config *cfg, const char *cores, const char *threads)
{
    char *argv[] = {"distill-worker", "--cores", (char *)cores, "--threads", (char *)threads, NULL};
    optind = 0; /* glibc: begin anew */
    return kd_worker_options(threads ? 5 : 3, argv, cfg);
}

static void test_lists_of_cpus(void **state)
{
    int cpus[2], n = usable(cpus, 2);
    kd_worker_config cfg;
    char text[64];
    (void)state;
    snprintf(text, sizeof text, "%d", cpus[0]);
    assert_int_equal(options(&cfg, text, NULL), -1);
    assert_int_equal(cfg.threads, 1);
    assert_int_equal(cfg.n_cores, 1);
    assert_int_equal(cfg.cores[0], cpus[0]);
    assert_int_equal(options(&cfg, text, "1"), -1);
    assert_int_equal(options(&cfg, text, "2"), 2);
    snprintf(text, sizeof text, "%d,%d", cpus[0], cpus[0]);
    assert_int_equal(options(&cfg, text, NULL), 2);
    if (n < 2 || cpus[1] != cpus[0] + 1)
        return;
    snprintf(text, sizeof text, "%d-%d", cpus[0], cpus[1]);
    assert_int_equal(options(&cfg, text, NULL), -1);
    assert_int_equal(cfg.threads, 2);
    assert_int_equal(cfg.cores[1], cpus[1]);
    snprintf(text, sizeof text, "%d-%d", cpus[1], cpus[0]);
    assert_int_equal(options(&cfg, text, NULL), 2);
}

static void test_what_is_no_list_is_refused(void **state)
{
    static const char *const bad[] = {"",    "x",    "0,",        "0-", "-1",
                                      "0-x", "1023", "999999999", "0 ", "99999999999999999999"};
    kd_worker_config cfg;
    (void)state;
    for (size_t i = 0; i < KD_COUNT(bad); i++)
        if (options(&cfg, bad[i], NULL) != 2)
            fail_msg("--cores \"%s\" was taken", bad[i]);
}

struct seen {
    int cpu[64];
    int thread[64];
};

static void look(void *arg, int item, int thread)
{
    struct seen *s = arg;
    /* Long enough for the others to be at work as well. */
    for (volatile int i = 0; i < 1000000; i++)
        ;
    s->cpu[item] = sched_getcpu();
    s->thread[item] = thread;
}

static void test_units_stay_on_their_cpu(void **state)
{
    int cpus[2], n = usable(cpus, 2);
    struct seen s;
    kd_pool *p = NULL;
    kd_diag diag = {0};
    (void)state;
    kd_assert_ok(kd_pool_new(n, cpus, &p, &diag), &diag);
    kd_pool_start(p, 64, look, &s);
    kd_pool_wait(p);
    kd_pool_free(p);
    for (int i = 0; i < 64; i++)
        assert_int_equal(s.cpu[i], cpus[s.thread[i]]);
}

static void test_a_cpu_that_is_not_there(void **state)
{
    kd_pool *p = NULL;
    kd_diag diag = {0};
    (void)state;
    assert_int_equal(kd_pool_new(1, &(int){CPU_SETSIZE - 1}, &p, &diag), -KD_EINVAL);
    assert_null(p);
    assert_non_null(strstr(diag.msg, "CPU 1023"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lists_of_cpus),
        cmocka_unit_test(test_what_is_no_list_is_refused),
        cmocka_unit_test(test_units_stay_on_their_cpu),
        cmocka_unit_test(test_a_cpu_that_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The queue of hooks: all of a job's events are told, once and in their order, however many wait
 * and wherever a restart falls. */
#include "kd_test.h"

#include "daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOBS 2

struct fixture {
    char *dir, told[4096];
    kd_daemon daemon;
    kd_hook_config cfg;
    kd_job_record jobs[JOBS];
    int added;
    kd_diag diag;
};

static void start(struct fixture *f)
{
    kd_daemon *d = &f->daemon;
    *d = (kd_daemon){.state.lock_fd = -1, .tasks_closed = true};
    assert_int_equal(uv_loop_init(&d->loop), 0);
    kd_assert_ok(kd_state_open(f->dir, &d->state, &f->diag), &f->diag);
    kd_assert_ok(kd_hooks_open(d, &f->cfg, &f->diag), &f->diag);
}

static void stop(struct fixture *f)
{
    kd_daemon *d = &f->daemon;
    kd_hooks_stop(d);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&d->loop), 0);
    kd_hooks_free(d->hooks);
    kd_state_close(&d->state);
}

static int setup(void **state)
{
    struct fixture *f = kd_xalloc(sizeof *f);
    f->dir = kd_test_mkdir();
    snprintf(f->told, sizeof f->told, "%s/told", f->dir);
    f->cfg.timeout_s = 60;
    const char *const words[] = {"/bin/sh", "-c", "{ cat && echo; } >>\"$0-$DISTILL_JOB\"",
                                 f->told};
    for (size_t i = 0; i < KD_COUNT(words); i++)
        kd_assert_ok(kd_words_add(&f->cfg.command, words[i], &f->diag), &f->diag);
    for (int k = 0; k < JOBS; k++) {
        f->jobs[k].row.id = (kd_job_id)k + 1;
        snprintf(f->jobs[k].row.name, sizeof f->jobs[k].row.name, "job");
    }
    start(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    stop(f);
    kd_test_rmdir(f->dir);
    free(f);
    return 0;
}

/* n events of each job, numbered by their text. */
static void add(struct fixture *f, int n)
{
    for (int i = 0; i < n; i++, f->added++)
        for (int k = 0; k < JOBS; k++) {
            char text[16];
            snprintf(text, sizeof text, "%d", f->added);
            kd_assert_ok(
                kd_hooks_add(&f->daemon, &f->jobs[k], KD_HOOK_EPOCH, text, "", NULL, &f->diag),
                &f->diag);
        }
}

/* Goes on until at most `left` wait. */
static void tell(struct fixture *f, uint64_t left)
{
    kd_daemon *d = &f->daemon;
    while (kd_hooks_count(d->hooks).waiting > left) {
        kd_hooks_tick(d, kd_clock_ms());
        assert_true(uv_loop_alive(&d->loop)); /* none fails, so one is being told */
        uv_run(&d->loop, UV_RUN_ONCE);
    }
}

static void assert_all_told(const struct fixture *f)
{
    for (int k = 0; k < JOBS; k++) {
        char path[sizeof f->told + 16], line[1024];
        int n = 0, text = -1;
        snprintf(path, sizeof path, "%s-%012d", f->told, k + 1);
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        for (; fgets(line, sizeof line, file); n++) {
            const char *at = strstr(line, "\"text\":\"");
            assert_true(at && sscanf(at, "\"text\":\"%d\"", &text) == 1);
            assert_int_equal(text, n);
        }
        fclose(file);
        assert_int_equal(n, f->added);
    }
}

static void test_many_wait(void **state)
{
    struct fixture *f = *state;
    add(f, 40); /* more than are held in memory */
    tell(f, 70);
    add(f, 10); /* while they are told */
    tell(f, 0);
    assert_all_told(f);
    add(f, 3); /* after all were */
    tell(f, 0);
    assert_all_told(f);
}

static void test_many_wait_at_start(void **state)
{
    struct fixture *f = *state;
    add(f, 35);
    stop(f);
    start(f);
    assert_int_equal(kd_hooks_count(f->daemon.hooks).waiting, JOBS * f->added);
    add(f, 5);
    tell(f, 0);
    assert_all_told(f);
}

/* What ends at the address never reaches this loop. */
static void test_address_that_does_not_answer_holds_no_command_up(void **state)
{
    struct fixture *f = *state;
    stop(f);
    f->cfg.url = "http://127.0.0.1:1/";
    start(f);
    add(f, 35);
    tell(f, (uint64_t)JOBS * (uint64_t)f->added); /* the address's own */
    assert_all_told(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_many_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_wait_at_start, setup, teardown),
        cmocka_unit_test_setup_teardown(test_address_that_does_not_answer_holds_no_command_up,
                                        setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Lists of jobs that do not fit into one answer: each answer tells whether there is more, a sweep
 * comes with all of its jobs or not yet, and page by page every job comes once. */
#include "kd_test.h"

#include "access_internal.h"
#include "reading.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SWEEPS 3
#define CHILDREN KD_MAX_SWEEP_JOBS

struct fixture {
    kd_daemon d;
    kd_access access; /* in plain text: everybody may read everything */
    kd_job_id last;
    /* of the pages read so far */
    size_t entries, jobs;
    kd_job_id oldest; /* entry */
    bool more;
};

/* As large as a job's summary gets: two sweeps of them fit into a message, three do not. */
static kd_job_record *add(struct fixture *f, kd_job_id sweep, bool is_sweep)
{
    kd_job_record *j = kd_xalloc(sizeof *j);
    j->row.id = ++f->last;
    j->row.sweep = sweep;
    j->row.is_sweep = is_sweep;
    memset(j->row.name, 'n', sizeof j->row.name - 1);
    memset(j->row.reason, 'r', sizeof j->row.reason - 1);
    if (sweep) {
        j->row.label = kd_xalloc(KD_MAX_LABEL + 1);
        memset(j->row.label, 'l', KD_MAX_LABEL);
    }
    kd_daemon_add_job(&f->d, j);
    return j;
}

/* A job, the sweeps, another job. */
static int setup(void **state)
{
    struct fixture *f = kd_xalloc(sizeof *f);
    f->d.access = &f->access;
    f->last = 0x100000000000;
    add(f, 0, false);
    for (int i = 0; i < SWEEPS; i++) {
        const kd_job_id sweep = add(f, 0, true)->row.id;
        for (unsigned k = 0; k < CHILDREN; k++)
            add(f, sweep, false);
    }
    add(f, 0, false);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    for (kd_job_record *j = f->d.jobs, *next; j; j = next) {
        next = j->next;
        kd_job_record_free(j);
    }
    kd_ids_clear(&f->d.job_ids);
    free(f);
    return 0;
}

static void check_page(void *arg, const void *message)
{
    struct fixture *f = arg;
    const Distill__V1__ListReply *r = message;
    assert_true(protobuf_c_message_get_packed_size(&r->base) <= KD_MAX_CONTROL_BYTES);
    assert_true(r->n_jobs > 0);
    f->more = r->more;
    f->jobs += r->n_jobs;
    for (size_t i = 0; i < r->n_jobs;) {
        const Distill__V1__JobSummary *entry = r->jobs[i++];
        kd_job_id id;
        assert_true(kd_id_parse(entry->job, &id));
        assert_string_equal(entry->sweep, "");
        assert_true(id < f->oldest);
        f->oldest = id;
        f->entries++;
        size_t children = 0;
        for (; i < r->n_jobs && r->jobs[i]->sweep[0]; i++, children++)
            assert_string_equal(r->jobs[i]->sweep, entry->job);
        assert_int_equal(children, entry->children);
        assert_true(children == 0 || children == CHILDREN);
    }
}

static void read_page(struct fixture *f, uint32_t limit)
{
    const kd_job_record *before = f->oldest == UINT64_MAX ? NULL : kd_daemon_job(&f->d, f->oldest);
    kd_tell_list(&f->d, NULL, limit, before, check_page, f);
}

static void begin(struct fixture *f)
{
    f->entries = f->jobs = 0;
    f->oldest = UINT64_MAX;
}

static void test_list_no_sweep_is_cut_in_two(void **state)
{
    struct fixture *f = *state;
    begin(f);
    read_page(f, 0);
    assert_true(f->more);
    assert_int_equal(f->entries, 3); /* the newest job, two sweeps: a third is too much */
    read_page(f, 0);
    assert_false(f->more);
    assert_int_equal(f->entries, SWEEPS + 2);
    assert_int_equal(f->jobs, SWEEPS * (1 + CHILDREN) + 2);
}

/* What is asked for counts entries: a sweep's jobs come besides. */
static void test_list_pages_of_one(void **state)
{
    struct fixture *f = *state;
    begin(f);
    for (size_t page = 1; page <= SWEEPS + 2; page++) {
        read_page(f, 1);
        assert_int_equal(f->entries, page);
        assert_int_equal(f->more, page < SWEEPS + 2);
    }
    assert_int_equal(f->jobs, SWEEPS * (1 + CHILDREN) + 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_list_no_sweep_is_cut_in_two, setup, teardown),
        cmocka_unit_test_setup_teardown(test_list_pages_of_one, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

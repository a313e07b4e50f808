/* What the tests of the job file share: the least job, and what accepting and refusing mean. */
#ifndef KD_TESTS_JOB_CASE_H
#define KD_TESTS_JOB_CASE_H

#include "kd_test.h"

#include "job/job.h"

#include <stdlib.h>
#include <string.h>

/* The least job there is; tests add lines to it. */
#define LEAST                                                                                      \
    "name: least\n"                                                                                \
    "data:\n"                                                                                      \
    "  labelled: {path: flowers, train: train.txt, val: val.txt}\n"                                \
    "student: {model: shallow_cnn}\n"
#define PLAIN LEAST "distill: {loss: {kd: 0, ce: 1}}\n"
#define TEACHER LEAST "teacher: {model: mobilenet_v2, weights: w/a.safetensors}\n"

static inline int load_sets(const char *text, const char *const *sets, int n, kd_job *job,
                            kd_diag *diag)
{
    return kd_job_load(text, strlen(text), "job.yaml", sets, n, job, diag);
}

static inline void accept_sets(const char *text, const char *const *sets, int n, kd_job *job)
{
    kd_diag diag = {0};
    memset(job, 0, sizeof *job);
    kd_assert_ok(load_sets(text, sets, n, job, &diag), &diag);
    assert_int_equal(diag.code, 0);
}

static inline void accept(const char *text, kd_job *job)
{
    accept_sets(text, NULL, 0, job);
}

static inline void refuse_code(const char *text, int code, const char *part)
{
    kd_job job, before;
    kd_diag diag = {0};
    memset(&job, 0x5a, sizeof job);
    before = job;
    kd_assert_fails(load_sets(text, NULL, 0, &job, &diag), code, &diag, part);
    assert_memory_equal(&job, &before, sizeof job);
}

static inline void refuse(const char *text, const char *part)
{
    refuse_code(text, KD_EINVAL, part);
}

static inline void refuse_set(const char *text, const char *set, const char *part)
{
    kd_job job = {0};
    kd_diag diag = {0};
    kd_assert_fails(load_sets(text, &set, 1, &job, &diag), KD_EINVAL, &diag, part);
}

/* Prints and loads again: the same bytes, and the same text from them. */
static inline void round_trip(const kd_job *job)
{
    kd_diag diag = {0};
    char *first = NULL, *second = NULL;
    kd_job again = {0};
    kd_assert_ok(kd_job_resolved(job, &first, &diag), &diag);
    kd_assert_ok(kd_job_load(first, strlen(first), "resolved", NULL, 0, &again, &diag), &diag);
    assert_memory_equal(job, &again, sizeof again);
    kd_assert_ok(kd_job_resolved(&again, &second, &diag), &diag);
    assert_string_equal(first, second);
    free(first);
    free(second);
}

#endif

/* result.json of a sweep, from those of its children. docs/jobs.md shows one. */
#ifndef KD_SERVER_SWEEP_RESULT_H
#define KD_SERVER_SWEEP_RESULT_H

#include "kd/err.h"

/* What is known of a child that is over; everything borrowed. */
typedef struct kd_child_result {
    const char *job;    /* id */
    const char *label;  /* "distill.loss.temperature=2 seed=1" */
    const char *values; /* JSON object: what it varies, `seed` among it */
    const char *state;  /* succeeded | failed | cancelled */
    const char *result; /* its result.json, NULL = it has none */
    uint64_t seed;
} kd_child_result;

/* Which accuracy of a network counts: with a test split that of its best version by validation, as
 * measured on the test split, else that of its last version on the validation split (the best of
 * many validations would flatter). The best child is the one with the highest validation accuracy
 * of that version. Groups hold the children that differ in their seed only; with one child a
 * group's difference from the twin is over the samples that just one of the two has right, with
 * several over the seeds. Caller frees *out. */
int kd_sweep_result(const char *sweep, const char *name, const kd_child_result *children, size_t n,
                    char **out, kd_diag *diag) KD_MUST_CHECK;

#endif

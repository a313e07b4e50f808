/* Sweeps: the children of a job file's `matrix` and `seeds`.
 *
 *     matrix:
 *       distill.loss.temperature: [1, 2, 5, 10]
 *       distill.loss: [{kd: 1, ce: 0}, {kd: 0, mse: 1}]
 *     seeds: 3
 *
 * A child is a job of its own: the same file with a few more `--set` overrides, in the order of the
 * file with the last key turning fastest and the seeds fastest of all. Children of one sweep share
 * splits, views and fine-tuned teachers, and so one logit bank, unless the matrix itself changes
 * them. Threads: reentrant; a kd_sweep is plain data of the caller. */
#ifndef KD_JOB_SWEEP_H
#define KD_JOB_SWEEP_H

#include "job/job.h"

#define KD_SWEEP_CHILDREN 256
#define KD_SWEEP_KEYS 16    /* of a matrix */
#define KD_SWEEP_LABEL 1023 /* bytes of a label */

typedef struct kd_sweep_child {
    char *label;   /* "distill.loss.temperature=2 seed=1"; long values are cut and numbered */
    char *group;   /* without the seed: children of one group differ by their seeds only */
    char *values;  /* JSON object of the matrix: {"distill.loss.temperature": 2} */
    uint64_t seed; /* the child's `seed` */
    char **sets;   /* to be added after the caller's own for kd_job_load */
    int n_sets;
} kd_sweep_child;

typedef struct kd_sweep {
    kd_sweep_child *child;
    int n;     /* 0 = the file has neither matrix nor seeds: it is one job */
    int seeds; /* children of each group */
} kd_sweep;

/* text, file and sets as for kd_job_load. Every child has been loaded once, so each of them is
 * valid. With `seeds: N` child k of a group has `seed` = s + k, where s is the file's seed, while
 * the seeds of data and of teachers stay as they are for s. Refused with a position: keys that do
 * not exist, values that do not load (naming the combination), more than KD_SWEEP_CHILDREN
 * children. On success the caller frees *out; untouched on failure. */
int kd_sweep_load(const char *text, size_t len, const char *file, const char *const *sets,
                  int n_sets, kd_sweep *out, kd_diag *diag) KD_MUST_CHECK;
void kd_sweep_free(kd_sweep *sweep);

#endif

/* Whether the steps of a job's `compress` can do anything with its student, before it is trained:
 * structure alone decides whether a network has channels that can go and convolutions that can run
 * in 8 bits. Threads: one that has called kd_engine_thread. */
#ifndef KD_COMPRESS_POSSIBLE_H
#define KD_COMPRESS_POSSIBLE_H

#include "job/job.h"

/* -KD_EINVAL with the step and why. What cannot be told is taken for possible: students from ONNX
 * files, and 8 bits on a machine that computes none. */
int kd_compress_possible(const kd_job *job, kd_diag *diag) KD_MUST_CHECK;

#endif

/* Sweeps: jobs that make jobs.
 *
 * A sweep is stored as a job without stages; its children are jobs like any other that name it. Its
 * state follows from theirs and is derived anew at each start. Children whose teacher or twin would
 * come out the same (equal bytes of all that the stage depends on) make it once: the first of them
 * runs the stage, the others hold and then take it over; if that one fails or is cancelled the next
 * one runs it. Threads: the loop. */
#ifndef KD_SERVER_SWEEP_H
#define KD_SERVER_SWEEP_H

#include "daemon.h"

/* Digests of what each stage depends on; for every child once. */
void kd_sweep_keys(kd_job_record *j);
/* What a stage has to wait for before it may begin, "" = nothing: a sibling that makes it, or the
 * permission to ask a teacher outside, which a restart may have taken away. */
void kd_stage_hold(kd_daemon *d, const kd_job_record *j, uint32_t stage, char out[KD_CORE_HELD]);
/* At start, before jobs are introduced: what a crash left between a child and its siblings or its
 * sweep. */
void kd_sweep_restore(kd_daemon *d);
/* A child's stage is done and stored; a child's state has changed and is stored. */
void kd_sweep_stage_done(kd_daemon *d, kd_job_record *j, uint32_t stage);
void kd_sweep_changed(kd_daemon *d, kd_job_record *j);
/* The next child of a sweep after `after` (NULL: the first), in the order of its combinations. */
kd_job_record *kd_sweep_next(kd_daemon *d, const kd_job_record *sweep, kd_job_record *after);
/* Cancels every child that is not over, all of them or none. */
void kd_sweep_cancel(kd_daemon *d, kd_job_record *sweep, const char *why);

#endif

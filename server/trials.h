/* Trials: a dry run asks an idle worker to try the job, and its call is answered with an estimate
 * when the worker has told what it found.
 *
 * Nothing of it is stored, and the core knows nothing of it: a worker that tries a job is idle, and
 * the first job that wants it gets it. At most one trial a worker, and MAX_TRIALS (trials.c) at
 * once; every one ends within a minute, its call's deadline or with its worker's stream, whichever
 * comes first. Whatever the reason that there is no estimate, the call is answered and says it.
 * Threads: the loop. */
#ifndef KD_SERVER_TRIALS_H
#define KD_SERVER_TRIALS_H

#include "daemon.h"

/* Answers the call with the reply and an estimate, at once if nobody can try the job. All is
 * borrowed during the call. resolved: the job's text. n_jobs: of the sweep that it is the first of,
 * 0 = none. */
void kd_trial_begin(kd_daemon *d, kd_rpc_call *call, Distill__V1__SubmitReply *reply,
                    const kd_job *spec, size_t n_jobs);
void kd_trial_told(kd_daemon *d, const kd_worker_record *w, const Distill__V1__Tried *m);
void kd_trial_worker_gone(kd_daemon *d, const kd_worker_record *w);
/* Nobody waits for the answer any more; a call without a trial is none of ours. */
void kd_trial_caller_gone(kd_daemon *d, const kd_rpc_call *call);
void kd_trial_tick(kd_daemon *d, kd_time_ms now);
/* At stop: all that wait are answered. */
void kd_trial_close(kd_daemon *d);

#endif

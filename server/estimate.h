/* How long a job would take, out of what one worker has measured of its stages. Pure arithmetic;
 * the figures need not be trusted. Threads: reentrant. */
#ifndef KD_SERVER_ESTIMATE_H
#define KD_SERVER_ESTIMATE_H

#include "distill.pb-c.h"

#define KD_ESTIMATE_MOST 1e12 /* seconds; more is told as this */

/* Seconds that a stage takes with so many workers of so many threads each (both >= 1), all as quick
 * as the one that measured it: 0..KD_ESTIMATE_MOST.
 *
 * Units are given out evenly, each worker runs its own in rounds of one unit a thread, and the step
 * waits for the slowest. With R = ceil(ceil(slots / workers) / threads) rounds, L = workers *
 * threads, and X = (2 * workers + 1) * (chunks * 90 us + vector_bytes * 1.5 ns) / 2 for a step's
 * exchange, in which so many vectors are moved, each in `chunks` calls, by both ends at once:
 *
 *   alone + steps * (R * unit + update / workers + X)
 *         + views * teacher / L + pictures * picture / L
 *         + evaluations * ceil(ceil(eval_units / workers) / threads) * eval
 *
 * More workers than slots are of no use to a stage. */
double kd_estimate_seconds(const Distill__V1__TriedStage *t, uint32_t workers, uint32_t threads);

#endif

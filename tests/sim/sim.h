/* A cluster in one process: the real core, exchange and journal of the coordinator and the real
 * part of every worker, driven by a seed over a virtual network, clock and disk.
 *
 * Only what computes is replaced: a gradient is a hash of (step, slot, parameter), so that the
 * whole run can be computed beside it in ten lines and every vector that anybody ever holds whole
 * is compared with that, bit by bit. Threads: none. */
#ifndef KD_TESTS_SIM_H
#define KD_TESTS_SIM_H

#include "kd/rng.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct kd_sim_config {
    uint64_t seed;
    int workers, threads;
    uint32_t slots, chunks;
    uint64_t steps, eval_steps, checkpoint_every;
    uint32_t min_workers, max_workers;
    double clip_norm, audit;
    bool average, bfloat16; /* bfloat16: gradients and their sums are of it */
    /* Faults of each kind, at times drawn from the seed. */
    int worker_kills, worker_stops, partitions, coordinator_kills, power_failures, joins, drains,
        slow_starts;
    int odd_worker;     /* computes wrong numbers now and then, -1 = none */
    double slow_worker; /* worker 0 takes that many times as long, 0 = it does not */
    double loop_ms;     /* that the coordinator's loop may be busy with something else, at most */
    double loss;        /* share of calls that are lost, on the way there or back */
    bool verbose;
} kd_sim_config;

typedef struct kd_sim_result {
    const char *broken; /* NULL, or the promise that was not kept */
    char detail[400];
    double virtual_ms;
    uint64_t steps_redone, rebuilt, second_runs, quarantined, reopened, reshapes;
    uint64_t refused; /* calls that a part asked for and that had no success */
} kd_sim_result;

/* A configuration drawn from a seed, as the thousand seeds of the tests use it. */
void kd_sim_draw(uint64_t seed, kd_sim_config *out);
void kd_sim_run(const kd_sim_config *cfg, kd_sim_result *out);

#endif

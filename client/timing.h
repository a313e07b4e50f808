/* How fast a network is on this machine, on one thread. Threads: one at a time. */
#ifndef KD_CLI_TIMING_H
#define KD_CLI_TIMING_H

#include "models/loaded.h"

#define KD_TIMING_BATCH 64

typedef struct kd_timing {
    int runs;                   /* of one picture */
    double p50, p90, p99, mean; /* milliseconds of one picture by itself */
    double throughput;          /* pictures a second in batches of KD_TIMING_BATCH */
    size_t arena;               /* bytes of a plan's memory for one picture, weights included */
    int int8_tasks;             /* convolutions in 8 bits */
    char cpu[96], isa[64];
} kd_timing;

/* Runs for about `seconds` each, after a tenth of that to warm up, on made-up pictures. The
 * thread computes by itself from then on (kd_engine_thread). Errors: those of plans. */
int kd_timing_run(const kd_loaded *net, double seconds, kd_timing *out,
                  kd_diag *diag) KD_MUST_CHECK;

#endif

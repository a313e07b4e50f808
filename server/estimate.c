#include "estimate.h"

#include "kd/err.h"

/* Processor time of a call and of a byte in it, both ends together (docs/performance.md). */
#define CALL_SECONDS 90e-6
#define BYTE_SECONDS 1.5e-9

static double at_least_0(double seconds)
{
    return seconds > 0 ? KD_MIN(seconds, KD_ESTIMATE_MOST) : 0;
}

static double rounds(uint32_t units, uint32_t workers, uint32_t threads)
{
    const uint64_t each = ((uint64_t)units + workers - 1) / workers;
    return (double)((each + threads - 1) / threads);
}

/* Of a step's exchange: every worker's gradient, the sums, the slices, and those to every other
 * worker. Both ends are at it at the same time. */
static double exchange(const Distill__V1__TriedStage *t, uint32_t workers)
{
    const double moves = 2.0 * workers + 1;
    return moves * ((double)t->chunks * CALL_SECONDS + (double)t->vector_bytes * BYTE_SECONDS) / 2;
}

double kd_estimate_seconds(const Distill__V1__TriedStage *t, uint32_t workers, uint32_t threads)
{
    const uint32_t slots = KD_MAX(t->slots, 1u);
    workers = KD_MAX(t->slots ? KD_MIN(workers, slots) : workers, 1u);
    threads = KD_MAX(threads, 1u);
    const double lanes = (double)workers * threads;
    const double step = rounds(slots, workers, threads) * at_least_0(t->unit_seconds) +
                        at_least_0(t->update_seconds) / workers + exchange(t, workers);
    const double all = at_least_0(t->alone_seconds) + (double)t->steps * step +
                       (double)t->teacher_views * at_least_0(t->teacher_seconds) / lanes +
                       (double)t->pictures * at_least_0(t->picture_seconds) / lanes +
                       (double)t->evaluations * rounds(t->eval_units, workers, threads) *
                           at_least_0(t->eval_seconds);
    return at_least_0(all);
}

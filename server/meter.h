/* What is measured of a stage while it runs: curves for people, sums for Prometheus.
 *
 * In memory only and of this process: stored are the evaluations (kd_epoch_row) and what faults
 * cost. A curve has at most KD_METER_POINTS points; when it is full, two neighbours become one and
 * later points are means over twice as many steps. Threads: the loop. */
#ifndef KD_SERVER_METER_H
#define KD_SERVER_METER_H

#include "exchange.h"

#include <jansson.h>

#define KD_METER_POINTS 512

/* Where a step's time goes, as the coordinator sees it: until half of the units were in; until the
 * last one was; until all sums had left (evaluation, second runs, a full disk hold them back);
 * until the owners' new parameters were there. */
enum kd_meter_phase {
    KD_PHASE_COMPUTE,
    KD_PHASE_WAIT,
    KD_PHASE_RELEASE,
    KD_PHASE_APPLY,
    KD_METER_PHASES
};
extern const char *const kd_meter_phases[KD_METER_PHASES];

#define KD_HISTOGRAM_BOUNDS 13
typedef struct kd_histogram {
    uint64_t in[KD_HISTOGRAM_BOUNDS + 1]; /* up to kd_histogram_bounds[i], the last one beyond */
    double sum;
} kd_histogram;
extern const double kd_histogram_bounds[KD_HISTOGRAM_BOUNDS]; /* seconds */
void kd_histogram_add(kd_histogram *h, double seconds);

typedef struct kd_meter_point {
    uint64_t step; /* the last one of those it is the mean of */
    double steps, loss, correct, samples, seconds;
    double phases[KD_METER_PHASES];
} kd_meter_point;

typedef struct kd_meter {
    uint64_t steps;
    double samples, seconds;
    double phases[KD_METER_PHASES]; /* seconds */
    kd_histogram step_seconds;
    kd_exchange_io io;      /* of all its exchanges */
    kd_exchange_io io_then; /* of this one, as last told */
    kd_time_ms saved;       /* newest checkpoint, 0 = none yet */
    kd_meter_point points[KD_METER_POINTS];
    size_t n_points;
    uint64_t stride;     /* steps a point */
    kd_meter_point next; /* gathers */
} kd_meter;

/* The step before `version` was committed at `now`. */
void kd_meter_step(kd_meter *m, uint64_t version, const kd_step_totals *t,
                   const kd_exchange_course *c, uint32_t slots, kd_time_ms now);
/* {"name", "steps", "samples", "seconds", "phases": {...}, "bytes_in", "bytes_out", "stride",
 * "curve": {"step": [...], "loss", "accuracy", "samples_per_second", "step_seconds", each phase}}.
 * New reference. */
json_t *kd_meter_json(const kd_meter *m, const char *name);

/* What happens beside stages, since the start. */
typedef struct kd_counts {
    uint64_t recoveries[2]; /* of a worker's fault; of the coordinator's own */
    kd_histogram recovery_seconds;
    uint64_t checkpoints;
    kd_histogram checkpoint_seconds;
    kd_histogram commit_seconds;     /* of the database */
    uint64_t lines[2];               /* log lines of workers: kept, not kept */
    kd_histogram control_seconds;    /* a worker's message, from its arrival to being done with */
    uint64_t lost[3];                /* workers: silent, closed, refused */
    _Atomic uint64_t logit_bytes[2]; /* any thread: in, out */
} kd_counts;

#endif

/* What the parts of a stage take on this worker, measured while all compute threads are at the
 * same: a unit, a teacher's view, an evaluation unit, a picture's decoding, an update.
 *
 * What is fed besides the pictures (logits of teachers, values of a coupled loss) is made up: the
 * times do not depend on it. Threads: the runner's; the pool must be idle. */
#ifndef KD_WORKER_TIMES_H
#define KD_WORKER_TIMES_H

#include "pool.h"
#include "stage.h"

/* Seconds of one thread, medians; 0 where the stage has none of it. */
typedef struct kd_stage_times {
    double unit;             /* of the gradient of one slot, with its parameters loaded anew */
    double update;           /* of the optimiser over the whole vector */
    double teacher;          /* of one view by all teachers that are here */
    double eval;             /* of one evaluation unit; of all there are if that is fewer */
    double picture;          /* read and decoded */
    uint64_t resident_bytes; /* of the process, with every thread's plans and one gradient each */
} kd_stage_times;

/* A composed stage. Each part is measured for 0.3 s or three times, whichever is longer, but no
 * more than 5 s once it has run. -KD_ECANCELED between two rounds once stopped(arg) is true;
 * -KD_EDATA for a loss that is not finite. */
int kd_stage_time(kd_stage *s, const kd_session *ss, kd_pool *pool, bool (*stopped)(void *arg),
                  void *arg, kd_stage_times *out, kd_diag *diag) KD_MUST_CHECK;

#endif

/* Many items through one network on several threads, each with a lane of its own, with a bar while
 * it goes. Threads: called on the main thread. */
#ifndef KD_CLI_LANES_H
#define KD_CLI_LANES_H

#include "predict_model.h"

#include <pthread.h>

#define KD_LANES_MAX 256

/* One item on one lane; what fails ends the run. */
typedef int kd_lane_fn(void *arg, kd_predict_lane *lane, size_t item, kd_diag *diag);
/* Items 0..n-1, each once, in no order. KD_EXIT_OK when all are done, else the exit code after a
 * message; no thread is left. */
int kd_lanes_run(const kd_cli *cli, const kd_predictor *p, int threads, size_t n, const char *label,
                 kd_lane_fn *fn, void *arg) KD_MUST_CHECK;
/* Until somebody signals cond, at most 0.1 s, so that Ctrl-C is seen. Under mu. */
void kd_lanes_wait(pthread_cond_t *cond, pthread_mutex_t *mu);
/* CPUs that this process may use, 1..KD_LANES_MAX. */
int kd_lanes_cpus(void);

#endif

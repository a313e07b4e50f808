/* Log lines of this worker on their way to the coordinator: those of a job, from info on. They wait
 * in a ring and go with the heart-beats; what does not fit is counted, and the count is told.
 * Threads: any may log; one sends. */
#ifndef KD_WORKER_LOG_SHIP_H
#define KD_WORKER_LOG_SHIP_H

#include "distill.pb-c.h"

/* From now on lines are kept; for as long as the process lives. */
void kd_log_ship_start(void);
/* Sends what waits, at most so many lines at once. */
void kd_log_ship(void (*send)(void *arg, const Distill__V1__WorkerMessage *m), void *arg);

#endif

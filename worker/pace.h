/* How many requests are under way at once to a server that somebody else runs, and for how long who
 * was sent away stays away.
 *
 * A request for which there was no room tells how many there was room for: those that were under
 * way beside it. No more are sent from then on, until GROW rounds of that number have been answered
 * one after another; then it is tried with one more. So it goes up slowly and down at once, as TCP
 * does (RFC 5681, section 3.1), and several workers share a server without knowing of each other.
 *
 * Threads: any, but init and clear. */
#ifndef KD_WORKER_PACE_H
#define KD_WORKER_PACE_H

#include "kd/err.h"

#include <pthread.h>

typedef struct kd_pace {
    pthread_mutex_t mu; /* guards all below */
    pthread_cond_t changed;
    int limit, under_way; /* limit >= 1 */
    int answered;         /* in a row, while no more might have been sent */
} kd_pace;

enum kd_pace_end {
    KD_PACE_ANSWERED,
    KD_PACE_CROWDED, /* there was no room for it, or no time */
    KD_PACE_LOST     /* which tells nothing of room */
};

void kd_pace_init(kd_pace *p);
void kd_pace_clear(kd_pace *p);
/* Waits until one more may be sent. False: stopped(arg) is true, and none is. */
bool kd_pace_enter(kd_pace *p, bool (*stopped)(void *arg), void *arg) KD_MUST_CHECK;
/* After each kd_pace_enter that was true. */
void kd_pace_leave(kd_pace *p, enum kd_pace_end end);
/* Milliseconds before the next try, of which `tries` have failed, 1 or more. Doubled each time, for
 * a server without room from 10 up to 200, else from 100 up to 5000, and drawn from the upper half
 * of that, so that those who were sent away together do not come back together. */
int kd_pace_pause(int tries, bool crowded);

#endif

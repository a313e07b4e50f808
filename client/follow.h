/* A job's events as they come, over restarts of the coordinator.
 *
 * Every stored event is handed on once and in order: after a lost connection the stream is taken up
 * again at the next sequence number, with a sentence on standard error, for KD_FOLLOW_PATIENCE_MS.
 * Threads: the main thread; the stream's own callbacks only queue. */
#ifndef KD_CLI_FOLLOW_H
#define KD_CLI_FOLLOW_H

#include "connect.h"

#include "kd/clock.h"

#define KD_FOLLOW_PATIENCE_MS (10 * 60 * 1000)

typedef struct kd_follow {
    const char *job;
    uint64_t from_seq; /* 0 = all */
    bool follow;       /* until the job ends; else what is stored */
    bool progress;     /* snapshots too */
    double timeout_s;  /* < 0 = none; 124 when it is over */
    /* Returns 0 to go on, else the exit code to stop with. */
    int (*on_event)(const Distill__V1__Event *event, void *arg);
    /* About ten times a second while nothing comes, to redraw; may be NULL. Returns as on_event. */
    int (*on_idle)(void *arg);
    void *arg;
} kd_follow;

/* Returns an exit code. On KD_EXIT_OK *out_detail (may be NULL) is the job as it is now, to be
 * freed with kd_wire_free; with `follow` it has ended. */
int kd_follow_run(kd_conn *c, const kd_follow *f,
                  Distill__V1__JobDetail **out_detail) KD_MUST_CHECK;

#endif

/* Printing a job's stored events, and new ones as they come: what `events` and `logs` share.
 * Threads: the main thread. */
#ifndef KD_CLI_EVENT_LIST_H
#define KD_CLI_EVENT_LIST_H

#include "connect.h"

typedef struct kd_event_list {
    const char *job;
    uint64_t from_seq; /* 0 = all */
    bool follow;       /* until the job ends */
    bool (*wanted)(const Distill__V1__Event *e, void *arg);
    /* For people; with -o json each wanted event is printed as an object on a line. */
    void (*print)(const kd_cli *cli, const Distill__V1__Event *e, void *arg);
    /* Before the first event, with the job as it is now; may be NULL. */
    void (*begin)(const kd_cli *cli, const Distill__V1__JobDetail *d, void *arg);
    void *arg;
    uint64_t lines; /* out: events that were wanted */
} kd_event_list;

/* Connects, prints, disconnects. Returns an exit code. */
int kd_event_list_run(kd_cli *cli, kd_event_list *l);

#endif

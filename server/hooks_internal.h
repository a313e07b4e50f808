/* What the files of hooks share: hooks.c the queue, hook_command.c and hook_url.c who is told. */
#ifndef KD_SERVER_HOOKS_INTERNAL_H
#define KD_SERVER_HOOKS_INTERNAL_H

#include "daemon.h"

/* One that waits or is being told. */
typedef struct kd_hook_call {
    struct kd_hook_call *next;
    int64_t n; /* of its row */
    enum kd_hook_target to;
    kd_job_id job;
    uint64_t seq;
    char kind[8], *body;
    int tries;
    kd_time_ms due;
    bool running;
} kd_hook_call;

/* What is to be told to one of them, so that none waits for the other. */
struct kd_hook_queue {
    bool wanted;         /* it is configured */
    kd_hook_call *calls; /* the first rows, in order */
    size_t n_calls, n_running;
    int64_t loaded; /* highest row of those */
    bool more;      /* rows past it */
};

struct kd_hooks {
    const kd_hook_config *cfg;
    bool wanted[KD_HOOK_KINDS];
    struct kd_hook_queue to[KD_HOOK_TARGETS];
    kd_hook_counts counts;
    kd_time_ms told_dropped; /* when the log last said so */
    struct kd_hook_run *runs;
    struct kd_hook_web *web; /* NULL = no address */
};

/* A call is over: rc 0 = told, else why not. Loop. */
void kd_hook_ended(kd_daemon *d, kd_hook_call *c, int rc, const char *why);

/* hook_command.c */
int kd_hook_command_start(kd_daemon *d, kd_hook_call *c, kd_diag *diag) KD_MUST_CHECK;
void kd_hook_command_stop(kd_daemon *d);

/* hook_url.c */
int kd_hook_web_open(kd_daemon *d, struct kd_hook_web **out, kd_diag *diag) KD_MUST_CHECK;
void kd_hook_web_start(struct kd_hook_web *w, kd_hook_call *c);
void kd_hook_web_close(struct kd_hook_web *w); /* NULL allowed; what it does is given up */

#endif

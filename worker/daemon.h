/* The worker process: control stream, heart-beats, signals. */
#ifndef KD_WORKER_DAEMON_H
#define KD_WORKER_DAEMON_H

#include "kd/err.h"

typedef struct kd_worker_config {
    const char *server, *name, *data_root;
    int threads;
    size_t cache_bytes;
    char own_name[65]; /* what `name` points to unless one was given */
} kd_worker_config;

/* options.c: flags and environment into *cfg, whose texts are borrowed. -1 = run with it; else the
 * exit code, with everything said. */
int kd_worker_options(int argc, char **argv, kd_worker_config *cfg) KD_MUST_CHECK;

/* Runs until SIGINT or SIGTERM (0), or until the coordinator refuses this
 * worker for good
 * (-KD_ESTATE or -KD_EINVAL with its reason in diag). */
int kd_worker_run(const kd_worker_config *cfg, kd_diag *diag) KD_MUST_CHECK;

#endif

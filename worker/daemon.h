/* The worker process: control stream, heart-beats, signals. */
#ifndef KD_WORKER_DAEMON_H
#define KD_WORKER_DAEMON_H

#include "kd/err.h"

typedef struct kd_worker_config {
    const char *server, *name, *data_root;
    int threads;
    size_t cache_bytes;
} kd_worker_config;

/* Runs until SIGINT or SIGTERM (0), or until the coordinator refuses this
 * worker for good
 * (-KD_ESTATE or -KD_EINVAL with its reason in diag). */
int kd_worker_run(const kd_worker_config *cfg, kd_diag *diag) KD_MUST_CHECK;

#endif

/* The worker process: control stream, heart-beats, signals. */
#ifndef KD_WORKER_DAEMON_H
#define KD_WORKER_DAEMON_H

#include "kd/err.h"

#define KD_WORKER_DEFAULT_SERVER "127.0.0.1:7070"
#define KD_WORKER_THREADS 256 /* that compute, at most */

typedef struct kd_worker_config {
    const char *server, *name, *data_root; /* name NULL = its certificate's, else own_name */
    int threads;                           /* that compute */
    int cores[KD_WORKER_THREADS]; /* the CPU that each of them stays on, with n_cores == threads */
    int n_cores;                  /* 0 = where the system puts them */
    size_t cache_bytes;
    int drain_s;             /* to finish units after a signal; 0 = leave at once */
    char own_name[65];       /* host name and process number */
    char credentials[4096];  /* folder of its login, see login/login.h */
    bool credentials_chosen; /* by flag or environment */
    bool insecure;           /* plain text, also to another machine */
    /* Files for TLS to teachers outside: the CA of their certificates, our own certificate and key;
     * NULL = the system's CAs, none. */
    const char *teacher_ca, *teacher_identity;
    char joined[300]; /* what `server` points to if it comes from there */
} kd_worker_config;

/* options.c: flags and environment into *cfg, whose texts are borrowed. -1 = run with it; else the
 * exit code, with everything said. */
int kd_worker_options(int argc, char **argv, kd_worker_config *cfg) KD_MUST_CHECK;

/* join.c: `distill-worker join`, argv from that word on. Returns an exit code, with everything
 * said.
 */
int kd_worker_join(int argc, char **argv);

/* Runs until SIGINT or SIGTERM (0; units under way are finished within drain_s), or until the
 * coordinator refuses this worker for good
 * (-KD_ESTATE, -KD_EINVAL or -KD_EPERM with its reason in diag). */
int kd_worker_run(const kd_worker_config *cfg, kd_diag *diag) KD_MUST_CHECK;

#endif

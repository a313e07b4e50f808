/* A cluster on this machine, for a while: a coordinator and workers on loopback, on free ports,
 * with everything they write in one folder.
 *
 * A process of its own, forked from this one before it has threads, starts them, waits for them and
 * ends them: it holds a lock on DIR/lock, by which others find it, and every daemon ends when it
 * does, however that comes. It ends the cluster on SIGTERM, when the process that started it ends
 * without having released it, when the coordinator has ended, and when the last worker has;
 * DIR/ended tells why of the last two.
 *
 *   DIR/lock  DIR/cluster.json  DIR/ended  DIR/state/  DIR/logs/{distilld,worker-N}.log
 *
 * Threads: the main thread. */
#ifndef KD_CLI_THROWAWAY_H
#define KD_CLI_THROWAWAY_H

#include "connect.h"

#include <sys/types.h>

#define KD_THROWAWAY_WORKERS 64
#define KD_THROWAWAY_PATH 3000

typedef struct kd_throwaway {
    char dir[KD_THROWAWAY_PATH];
    char data_root[KD_THROWAWAY_PATH];
    int workers, threads;      /* threads: of each worker */
    const char *outside;       /* HOST:PORT, ... of teachers that jobs may name; borrowed */
    bool made;                 /* the folder was made for it and goes with it */
    char server[64], http[64]; /* HOST:PORT, once it runs */
    pid_t keeper;              /* the process that holds it, 0 = none */
    bool child;                /* it is ours to wait for */
    int news_fd;               /* what it tells comes here */
} kd_throwaway;

/* A new folder below TMPDIR; or `given`, which must be empty or have held such a cluster before. */
int kd_throwaway_folder(kd_throwaway *t, const char *given, kd_diag *diag) KD_MUST_CHECK;
/* Starts it and waits until all its workers have joined; what it does is said on standard error.
 * cli->server is then its. Call before anything that starts threads. Returns an exit code, with
 * everything ended and said where it is not KD_EXIT_OK. */
int kd_throwaway_start(kd_cli *cli, kd_throwaway *t) KD_MUST_CHECK;
/* Lets it outlive this process, with which it would end otherwise. */
int kd_throwaway_release(kd_throwaway *t, kd_diag *diag) KD_MUST_CHECK;
/* What lies in t->dir; keeper is 0 where it does not run. -KD_ENOENT: there was no cluster. */
int kd_throwaway_load(const char *dir, kd_throwaway *out, kd_diag *diag) KD_MUST_CHECK;
/* Why it ended by itself; false: it did not. */
bool kd_throwaway_ended(const kd_throwaway *t, char *out, size_t size);
/* The last lines of its logs, on standard error. */
void kd_throwaway_show_logs(const kd_cli *cli, const kd_throwaway *t);
/* Ends it, the workers first, and waits until it is gone; a signal meanwhile ends it at once. */
void kd_throwaway_stop(kd_throwaway *t);
/* Removes what it left, where its folder was made for it. */
int kd_throwaway_remove(const kd_throwaway *t, kd_diag *diag) KD_MUST_CHECK;

#endif

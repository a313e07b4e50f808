/* What one verb does for another: submit watches and waits. */
#ifndef KD_CLI_VERBS_H
#define KD_CLI_VERBS_H

#include "connect.h"
#include "job/job.h"
#include "throwaway.h"

/* Prints the job's events and its progress until it ends, then the table; with `hints` also how to
 * get the files. Returns the job's exit code; on Ctrl-C says how to watch again. */
int kd_watch_run(kd_conn *c, const char *job, bool hints);
/* Waits without a word until the job ends; timeout_s < 0 = for ever. Says why if it did not
 * succeed; with `table` prints the final one. */
int kd_wait_run(kd_conn *c, const char *job, double timeout_s, bool table);
/* Likewise without a table, with a line on standard error of how far the job is. */
int kd_wait_shown(kd_conn *c, const char *job, double timeout_s);

/* Prints the coordinator, jobs, workers, disk, bank and alerts. Returns an exit code. */
int kd_cluster_status(kd_cli *cli, const kd_args *args);

/* A job file with its overrides: read, checked, its local files found; then submitted. */
typedef struct kd_submit kd_submit;
/* FILE and --set, --key of args. Returns an exit code; *out is to be freed in any case. */
int kd_submit_read(kd_cli *cli, const char *verb, const kd_args *args, kd_submit **out);
void kd_submit_free(kd_submit *s);
const kd_job *kd_submit_job(const kd_submit *s);
/* HOST:PORT,... of the teachers outside that the job names, or jobs of a sweep do; "" = none, NULL
 * = more than can be named. */
const char *kd_submit_outside(const kd_submit *s);
/* Uploads and submits; the job's id. Returns an exit code. */
int kd_submit_send(kd_conn *c, kd_submit *s, char id[KD_CONN_ID]);
/* A dry run with a worker's trial; nothing is uploaded. Returns an exit code. */
int kd_submit_try(kd_conn *c, kd_submit *s, Distill__V1__SubmitReply **out);
/* A job's files into dir, as `distill fetch`. */
int kd_fetch_all(kd_conn *c, const char *job, const char *dir);
/* --workers, --threads and --data-root, and what holds without them. Returns an exit code. */
int kd_throwaway_flags(kd_cli *cli, const char *verb, const kd_args *args, int workers,
                       const char *data_root, kd_throwaway *out);
/* Says where the environment goes before the context of this name and server. */
void kd_context_warn(const kd_cli *cli, const char *name, const char *server);

#endif

/* Calls that are made for one job after another: cancel, pause, resume, rm. Threads: the main
 * thread. */
#ifndef KD_CLI_EACH_H
#define KD_CLI_EACH_H

#include "connect.h"
#include "json.h"

/* Calls `one` with each operand of args that can be a job; it returns an exit code, and with
 * -o json adds to `list`, which is printed as {KEY: [...]}. Goes on after a job that fails, but not
 * without a coordinator. Returns the first exit code that is not 0. */
int kd_each_run(kd_cli *cli, const kd_args *args, const char *key,
                int (*one)(kd_conn *c, const char *job, json_t *list, const void *arg),
                const void *arg);
/* Likewise where `one` is a call of Jobs/METHOD; the answers, summaries, are told by `tell` or
 * printed as {"jobs": [...]}. */
int kd_each_job(kd_cli *cli, const kd_args *args, const char *method,
                void (*tell)(const kd_cli *cli, const Distill__V1__JobSummary *s));

#endif

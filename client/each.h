/* Calls that change one job after another: cancel, pause, resume. Threads: the main thread. */
#ifndef KD_CLI_EACH_H
#define KD_CLI_EACH_H

#include "connect.h"

/* Calls Jobs/METHOD with each operand of args as the job; the answers, summaries, are told by
 * `tell` or printed as {"jobs": [...]}. Goes on after a job that fails, but not without a
 * coordinator. Returns the first exit code that is not 0. */
int kd_each_job(kd_cli *cli, const kd_args *args, const char *method,
                void (*tell)(const kd_cli *cli, const Distill__V1__JobSummary *s));

#endif

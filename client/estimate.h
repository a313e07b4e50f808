/* What a worker that tried a job found: a table for people, an object for programs. In all of it e
 * NULL is the answer of a coordinator that estimates nothing. */
#ifndef KD_CLI_ESTIMATE_H
#define KD_CLI_ESTIMATE_H

#include "cli.h"
#include "json.h"

/* A table of the stages and a sentence on the whole, to standard output, or with `talk` to standard
 * error. Where there are no stages, a sentence on standard error says why. Returns
 * kd_estimate_exit. */
int kd_estimate_tell(const kd_cli *cli, const Distill__V1__Estimate *e, bool talk);
json_t *kd_estimate_json(const Distill__V1__Estimate *e);
/* KD_EXIT_OK; KD_EXIT_TEMPORARY if nobody has tried the job, and KD_EXIT_CONFIG if the worker found
 * something wrong. */
int kd_estimate_exit(const Distill__V1__Estimate *e);

#endif

/* Comparing two runs of one job. Threads: reentrant. */
#ifndef KD_CLI_REPLAY_H
#define KD_CLI_REPLAY_H

#include "distill.pb-c.h"

#include <jansson.h>

/* [{"stage", "version": "last"|"best", "old", "new", "equal"}...] of every stage that has a digest
 * in one of the two; *out_different counts those that are not the same, or are missing in one. New
 * reference. */
json_t *kd_replay_compare(const Distill__V1__JobDetail *before, const Distill__V1__JobDetail *after,
                          int *out_different);

#endif

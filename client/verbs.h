/* What one verb does for another: submit watches and waits. */
#ifndef KD_CLI_VERBS_H
#define KD_CLI_VERBS_H

#include "connect.h"

/* Prints the job's events and its progress until it ends, then the table; with `hints` also how to
 * get the files. Returns the job's exit code; on Ctrl-C says how to watch again. */
int kd_watch_run(kd_conn *c, const char *job, bool hints);
/* Waits without a word until the job ends; timeout_s < 0 = for ever. Says why if it did not
 * succeed; with `table` prints the final one. */
int kd_wait_run(kd_conn *c, const char *job, double timeout_s, bool table);

#endif

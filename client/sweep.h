/* Sweeps: many jobs under one id. Following them, and their table.
 *
 * A sweep is looked at about once a second, since its children's progress comes with it; outages of
 * the coordinator are waited for as with single jobs. Threads: the main thread. */
#ifndef KD_CLI_SWEEP_H
#define KD_CLI_SWEEP_H

#include "connect.h"
#include "report_data.h"

bool kd_is_sweep(const Distill__V1__JobSummary *s);
/* "3 of 8 over" */
char *kd_sweep_count(const Distill__V1__JobSummary *s, char *out, size_t size);

/* As kd_watch_run and kd_wait_run (verbs.h), for a sweep. */
int kd_sweep_watch(kd_conn *c, const char *job, bool hints) KD_MUST_CHECK;
int kd_sweep_wait(kd_conn *c, const char *job, double timeout_s, bool table) KD_MUST_CHECK;

/* The sweep and all its children into r. Ownership of detail moves in. Returns an exit code. */
int kd_sweep_collect(kd_conn *c, Distill__V1__JobDetail *detail, kd_report *r) KD_MUST_CHECK;
/* Table of the children with values and accuracies, the best marked, and of groups over seeds. r is
 * finished (kd_report_finish). */
void kd_sweep_table(const kd_cli *cli, const kd_report *r, int sweep);

/* One line of a child for the live block: label, state, bar and ETA. width: columns there are. */
void kd_sweep_line(const Distill__V1__JobSummary *child, int label_width, int width, bool utf8,
                   kd_buf *out);

#endif

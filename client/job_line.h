/* How far a job is: a live line on a terminal, elsewhere a plain one every ten seconds. Threads:
 * the main thread. */
#ifndef KD_CLI_JOB_LINE_H
#define KD_CLI_JOB_LINE_H

#include "cli.h"
#include "distill.pb-c.h"
#include "kd/buf.h"
#include "kd/clock.h"

typedef struct kd_job_line {
    kd_cli *cli;
    bool talk;          /* plain lines to standard error: nobody asked for them as data */
    kd_buf live;        /* text of the live line, empty = none */
    kd_time_ms live_at; /* when its snapshot came */
    kd_time_ms drawn_at;
    kd_time_ms printed_at; /* last plain line */
} kd_job_line;

void kd_job_line_init(kd_job_line *l, kd_cli *cli, bool talk);
/* A snapshot came: an event with progress. Returns an exit code. */
int kd_job_line_set(kd_job_line *l, const Distill__V1__Event *e);
/* Draws it again where something took it away, and says when it has grown old. */
void kd_job_line_idle(kd_job_line *l);
/* There is no progress any more. */
void kd_job_line_clear(kd_job_line *l);

#endif

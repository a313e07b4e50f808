/* pause: jobs that wait until they are resumed. */
#include "each.h"
#include "output.h"
#include "views.h"

static void tell(const kd_cli *cli, const Distill__V1__JobSummary *s)
{
    if (s->state == DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING)
        kd_out_clean(cli, "job %s pauses as soon as its step is done", s->job);
    else
        kd_out_clean(cli, "job %s is paused", s->job);
}

static int run(kd_cli *cli, const kd_args *args)
{
    return kd_each_job(cli, args, "Pause", tell);
}

const kd_verb kd_verb_pause = {
    .name = "pause",
    .operands = "JOB...",
    .summary = "let jobs wait; their workers are free for others",
    .help = "A running job stops at the next step border where nothing of it is lost; a queued one "
            "does\n"
            "not start. One that only writes its files finishes. It stays paused over a restart of "
            "the\n"
            "coordinator, until `distill resume`. Of a sweep: all its jobs that are not over.",
    .min_operands = 1,
    .max_operands = -1,
    .run = run};

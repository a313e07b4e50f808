/* cancel: stops jobs for good. */
#include "each.h"
#include "output.h"
#include "views.h"

static void tell(const kd_cli *cli, const Distill__V1__JobSummary *s)
{
    kd_out_clean(cli, "job %s %s", s->job, kd_state_word(s->state));
}

static int run(kd_cli *cli, const kd_args *args)
{
    return kd_each_job(cli, args, "Cancel", tell);
}

const kd_verb kd_verb_cancel = {.name = "cancel",
                                .operands = "JOB...",
                                .summary = "stop jobs; what they made so far is not kept",
                                .min_operands = 1,
                                .max_operands = -1,
                                .run = run};

/* resume: paused jobs may go on. */
#include "each.h"
#include "output.h"
#include "views.h"

static void tell(const kd_cli *cli, const Distill__V1__JobSummary *s)
{
    kd_out_clean(cli, "job %s is %s%s%s", s->job, kd_state_word(s->state), s->reason[0] ? ": " : "",
                 s->reason);
}

static int run(kd_cli *cli, const kd_args *args)
{
    return kd_each_job(cli, args, "Resume", tell);
}

const kd_verb kd_verb_resume = {
    .name = "resume",
    .operands = "JOB...",
    .summary = "let paused jobs go on",
    .help =
        "From the step where it stopped, as soon as there are workers for it; the result is the\n"
        "same as without the pause. A job that is not paused stays as it is.",
    .min_operands = 1,
    .max_operands = -1,
    .run = run};

/* logs: what workers and coordinator had to say while a job ran. */
#include "args.h"
#include "event_list.h"
#include "output.h"
#include "views.h"

#include "kd/clock.h"

#include <string.h>

static const kd_opt g_opts[] = {
    {"follow", 'f', NULL, "go on with new lines until the job ends"},
    {"worker", 0, "NAME", "only lines of this worker"},
};

/* Epochs, stages and checkpoints are the business of `events`. */
static bool wanted(const Distill__V1__Event *e, void *arg)
{
    static const char *const kinds[] = {"log",        "warning",  "worker",  "slow",
                                        "quarantine", "recovery", "finished"};
    const char *worker = arg;
    for (size_t i = 0; i < KD_COUNT(kinds); i++)
        if (strcmp(e->kind, kinds[i]) == 0)
            return !worker || strcmp(worker, e->worker) == 0;
    return false;
}

static void print(const kd_cli *cli, const Distill__V1__Event *e, void *arg)
{
    (void)arg;
    kd_buf line;
    kd_buf_init(&line, KD_MAX_CONTROL_BYTES);
    kd_view_event(cli, e, kd_clock_wall_ms(), &line);
    kd_out(cli, "%s", line.data ? line.data : "");
    kd_buf_clear(&line);
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_event_list l = {.job = args->operands[0],
                       .follow = kd_args_has(args, "follow"),
                       .wanted = wanted,
                       .print = print,
                       .arg = (void *)kd_args_value(args, "worker")};
    int rc = kd_event_list_run(cli, &l);
    if (rc == KD_EXIT_OK && l.lines == 0 && !cli->json)
        kd_say(cli, "no log lines; `distill events %s%s` shows what happened", l.job,
               cli->server_flag);
    return rc;
}

const kd_verb kd_verb_logs = {
    .name = "logs",
    .operands = "JOB",
    .summary = "print a job's messages and warnings",
    .help = "Everything else that happened (stages, epochs, checkpoints) is in `distill events`.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};

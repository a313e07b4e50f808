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
    {"since", 0, "DURATION", "only lines of so long ago and later, as 10m or 2h"},
    {"level", 0, "LEVEL", "only lines as important as warn or info (info)"},
};

struct filter {
    const char *worker; /* NULL = any */
    int64_t since_ms;
    bool warnings; /* only */
};

/* Epochs, stages and checkpoints are the business of `events`. */
static bool wanted(const Distill__V1__Event *e, void *arg)
{
    static const char *const kinds[] = {"log",        "warning",  "worker",  "slow",
                                        "quarantine", "recovery", "finished"};
    const struct filter *f = arg;
    bool warns = strcmp(e->kind, "warning") == 0 || strcmp(e->kind, "quarantine") == 0;
    if (e->time_ms < f->since_ms || (f->warnings && !warns) ||
        (f->worker && strcmp(f->worker, e->worker) != 0))
        return false;
    for (size_t i = 0; i < KD_COUNT(kinds); i++)
        if (strcmp(e->kind, kinds[i]) == 0)
            return true;
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
    struct filter f = {.worker = kd_args_value(args, "worker")};
    const char *level = kd_args_value(args, "level");
    kd_diag diag = {0};
    double since_s;
    if (kd_args_duration(args, "since", &since_s, &diag) != 0)
        return kd_usage(cli, "logs", NULL, "%s", diag.msg);
    if (level && strcmp(level, "warn") != 0 && strcmp(level, "info") != 0)
        return kd_usage(cli, "logs", "--level warn or --level info", "logs: no level \"%s\"",
                        level);
    f.warnings = level && strcmp(level, "warn") == 0;
    if (since_s >= 0)
        f.since_ms = kd_clock_wall_ms() - (int64_t)(since_s * 1000);
    kd_event_list l = {.job = args->operands[0],
                       .follow = kd_args_has(args, "follow"),
                       .wanted = wanted,
                       .print = print,
                       .arg = &f};
    int rc = kd_event_list_run(cli, &l);
    if (rc == KD_EXIT_OK && l.lines == 0 && !cli->json)
        kd_say(cli, "no log lines; `distill events %s%s` shows what happened", l.job,
               cli->server_flag);
    return rc;
}

const kd_verb kd_verb_logs = {
    .name = "logs",
    .operands = "JOB",
    .summary = "print a job's log lines and warnings, from all workers and the coordinator",
    .help = "Workers' lines are in the order of time as the coordinator knows it; with -o json "
            "each has\n"
            "its level, stage, step and number in `data`. Everything else that happened (stages, "
            "epochs,\n"
            "checkpoints) is in `distill events`.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .lists = true,
    .min_operands = 1,
    .max_operands = 1,
    .run = run};

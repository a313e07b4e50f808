/* logs: what workers and coordinator had to say while a job ran. */
#include "args.h"
#include "connect.h"
#include "follow.h"
#include "format.h"
#include "json.h"
#include "output.h"
#include "views.h"

#include "kd/clock.h"

#include <string.h>

static const kd_opt g_opts[] = {
    {"follow", 'f', NULL, "go on with new lines until the job ends"},
    {"worker", 0, "NAME", "only lines of this worker"},
};

typedef struct printer {
    kd_cli *cli;
    const char *job, *worker;
    uint64_t lines;
} printer;

/* Epochs, stages and checkpoints are the business of `events`. */
static bool is_log(const char *kind)
{
    static const char *const kinds[] = {"log", "warning", "worker", "finished"};
    for (size_t i = 0; i < KD_COUNT(kinds); i++)
        if (strcmp(kind, kinds[i]) == 0)
            return true;
    return false;
}

static int on_event(const Distill__V1__Event *e, void *arg)
{
    printer *p = arg;
    if (e->seq == 0 || !is_log(e->kind) || (p->worker && strcmp(p->worker, e->worker) != 0))
        return 0;
    p->lines++;
    if (p->cli->json)
        return kd_json_print(p->cli, kd_json_event(p->job, e), true);
    kd_buf line;
    kd_buf_init(&line, KD_MAX_CONTROL_BYTES);
    kd_view_event(p->cli, e, kd_clock_wall_ms(), &line);
    kd_out(p->cli, "%s", line.data ? line.data : "");
    kd_buf_clear(&line);
    return kd_out_flush(p->cli);
}

static int on_idle(void *arg)
{
    (void)arg;
    return kd_out_check_reader();
}

static int run(kd_cli *cli, const kd_args *args)
{
    printer p = {.cli = cli, .job = args->operands[0], .worker = kd_args_value(args, "worker")};
    kd_follow f = {.job = p.job,
                   .follow = kd_args_has(args, "follow"),
                   .timeout_s = -1,
                   .on_event = on_event,
                   .on_idle = on_idle,
                   .arg = &p};
    int rc = kd_conn_check_id(cli, p.job);
    if (rc != KD_EXIT_OK)
        return rc;
    kd_conn conn;
    rc = kd_conn_open(cli, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    kd_cli_catch_signals();
    rc = kd_follow_run(&conn, &f, NULL);
    kd_conn_close(&conn);
    if (rc == KD_EXIT_OK && p.lines == 0 && !cli->json)
        kd_say(cli, "no log lines; `distill events %s%s` shows what happened", p.job,
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

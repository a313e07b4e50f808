/* events: what happened to a job, stored by the coordinator. */
#include "args.h"
#include "connect.h"
#include "follow.h"
#include "json.h"
#include "output.h"
#include "views.h"

#include "kd/clock.h"

static const kd_opt g_opts[] = {
    {"follow", 'f', NULL, "go on with new events until the job ends"},
    {"from", 0, "SEQ", "begin with this sequence number"},
};

typedef struct printer {
    kd_cli *cli;
    const char *job;
} printer;

static int on_event(const Distill__V1__Event *e, void *arg)
{
    printer *p = arg;
    if (e->seq == 0)
        return 0;
    if (p->cli->json)
        return kd_json_print(p->cli, kd_json_event(p->job, e), true);
    kd_buf line;
    kd_buf_init(&line, KD_MAX_CONTROL_BYTES);
    kd_buf_printf(&line, "%4llu  ", (unsigned long long)e->seq);
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
    printer p = {.cli = cli, .job = args->operands[0]};
    kd_follow f = {.job = p.job,
                   .follow = kd_args_has(args, "follow"),
                   .timeout_s = -1,
                   .on_event = on_event,
                   .on_idle = on_idle,
                   .arg = &p};
    kd_diag diag = {0};
    if (kd_args_u64(args, "from", 1, INT64_MAX, 0, &f.from_seq, &diag) != 0)
        return kd_usage(cli, "events", NULL, "%s", diag.msg);
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
    return rc;
}

const kd_verb kd_verb_events = {
    .name = "events",
    .operands = "JOB",
    .summary = "print what happened to a job, numbered",
    .help = "With -o json: one JSON object a line, with the event's figures under `data`.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};

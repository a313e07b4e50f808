/* wait: until a job ends; its result as exit code. */
#include "args.h"
#include "connect.h"
#include "follow.h"
#include "format.h"
#include "job_line.h"
#include "json.h"
#include "output.h"
#include "sweep.h"
#include "verbs.h"
#include "views.h"

static const kd_opt g_opts[] = {
    {"timeout", 0, "DURATION", "give up after 90, 90s, 10m, 1h30m ...; exit code 124"},
};

/* line: NULL = without a word. */
static int on_event(const Distill__V1__Event *e, void *line)
{
    return line && e->progress ? kd_job_line_set(line, e) : KD_EXIT_OK;
}

static int on_idle(void *line)
{
    if (line)
        kd_job_line_idle(line);
    return KD_EXIT_OK;
}

static int wait_for(kd_conn *c, const char *job, double timeout_s, bool table, kd_job_line *line)
{
    Distill__V1__JobDetail *now = NULL;
    int asked = kd_conn_job(c, job, &now);
    if (asked != KD_EXIT_OK)
        return asked;
    bool sweep = kd_is_sweep(now->summary);
    char id[KD_CONN_ID];
    /* Another job may be given the same name meanwhile. */
    job = kd_conn_id(now->summary, id);
    kd_wire_free(&now->base);
    if (sweep)
        return kd_sweep_wait(c, job, timeout_s, table);
    kd_follow f = {.job = job,
                   .from_seq = INT64_MAX, /* no stored event, only the end */
                   .follow = true,
                   .progress = line != NULL,
                   .timeout_s = timeout_s,
                   .on_event = on_event,
                   .on_idle = on_idle,
                   .arg = line};
    Distill__V1__JobDetail *detail = NULL;
    int rc = kd_follow_run(c, &f, &detail);
    if (line)
        kd_job_line_clear(line);
    if (rc == KD_EXIT_OK) {
        if (c->cli->json && table) {
            rc = kd_json_print(c->cli, kd_json_detail(detail), false);
            rc = rc != KD_EXIT_OK ? rc : kd_state_exit(detail->summary->state);
        } else if (table || detail->summary->state != DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED) {
            rc = kd_view_end(c->cli, detail, table);
        }
        kd_wire_free(&detail->base);
    } else if (kd_cli_comes_back(c->cli)) {
        kd_say(c->cli, "%sjob %s goes on; wait again: distill wait %s%s",
               c->cli->tty_err ? "\n" : "", job, job, c->cli->server_flag);
    }
    return rc;
}

int kd_wait_run(kd_conn *c, const char *job, double timeout_s, bool table)
{
    return wait_for(c, job, timeout_s, table, NULL);
}

int kd_wait_shown(kd_conn *c, const char *job, double timeout_s)
{
    kd_job_line line;
    kd_job_line_init(&line, c->cli, true);
    return wait_for(c, job, timeout_s, false, &line);
}

static int run(kd_cli *cli, const kd_args *args)
{
    const char *job = args->operands[0];
    double timeout_s;
    kd_diag diag = {0};
    if (kd_args_duration(args, "timeout", &timeout_s, &diag) != 0)
        return kd_usage(cli, "wait", NULL, "%s", diag.msg);
    kd_conn conn;
    int rc = kd_conn_start(cli, job, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = kd_wait_run(&conn, job, timeout_s, true);
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_wait = {
    .name = "wait",
    .operands = "JOB",
    .summary = "wait until a job ends; the exit code tells how",
    .help = "Exit code 0 succeeded, 7 failed, 8 cancelled, 124 not yet "
            "after --timeout. A restart of the\n"
            "coordinator is waited for. A sweep is over when all its jobs are.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};

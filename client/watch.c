/* watch: a job's events and its progress, live, until it ends. */
#include "args.h"
#include "connect.h"
#include "follow.h"
#include "job_line.h"
#include "json.h"
#include "output.h"
#include "sweep.h"
#include "verbs.h"
#include "views.h"

#include "kd/clock.h"

#include <string.h>

#define JSON_MS 1000 /* between progress objects */

typedef struct watcher {
    kd_cli *cli;
    const char *job;
    kd_job_line line;
    kd_time_ms printed_at; /* last progress object */
} watcher;

static int on_idle(void *arg)
{
    watcher *w = arg;
    kd_job_line_idle(&w->line);
    return kd_out_check_reader();
}

static int on_progress(watcher *w, const Distill__V1__Event *e)
{
    kd_time_ms now = kd_clock_ms();
    if (!w->cli->json)
        return kd_job_line_set(&w->line, e);
    if (now - w->printed_at < JSON_MS)
        return KD_EXIT_OK;
    w->printed_at = now;
    return kd_json_print(w->cli, kd_json_event(w->job, e), true);
}

/* On a cluster that goes with this command nobody else will come. */
static int check_servable(const watcher *w, const Distill__V1__Event *e)
{
    static const char hopeless[] = "no worker can serve it";
    if (!w->cli->throwaway || strcmp(e->kind, "waiting") != 0 ||
        strncmp(e->text, hopeless, sizeof hopeless - 1) != 0)
        return KD_EXIT_OK;
    kd_error(w->cli, "%s", e->text);
    if (strstr(e->text, "NO_DATA"))
        kd_hint(w->cli, "data are looked for beneath --data-root DIR");
    return KD_EXIT_JOB_FAILED;
}

static int on_event(const Distill__V1__Event *e, void *arg)
{
    watcher *w = arg;
    if (e->progress)
        return on_progress(w, e);
    if (w->cli->json) {
        int printed = kd_json_print(w->cli, kd_json_event(w->job, e), true);
        return printed != KD_EXIT_OK ? printed : check_servable(w, e);
    }
    kd_buf line;
    kd_buf_init(&line, KD_MAX_CONTROL_BYTES);
    kd_view_event(w->cli, e, kd_clock_wall_ms(), &line);
    kd_out(w->cli, "%s", line.data ? line.data : "");
    kd_buf_clear(&line);
    int rc = kd_out_flush(w->cli);
    /* A job that ended has no progress any more. */
    if (kd_state_ended(e->state))
        kd_job_line_clear(&w->line);
    return rc != KD_EXIT_OK ? rc : check_servable(w, e);
}

static int print_end(const watcher *w, const Distill__V1__JobDetail *d, bool hints)
{
    if (!w->cli->json)
        return kd_view_end(w->cli, d, hints);
    json_t *o = json_object();
    json_object_set_new(o, "job", kd_json_text(d->summary->job));
    json_object_set_new(o, "kind", json_string("end"));
    json_object_set_new(o, "state", json_string(kd_state_word(d->summary->state)));
    json_object_set_new(o, "reason", kd_json_text(d->summary->reason));
    json_object_set_new(o, "result", kd_json_parse(d->result));
    int rc = kd_json_print(w->cli, o, true);
    return rc != KD_EXIT_OK ? rc : kd_state_exit(d->summary->state);
}

int kd_watch_run(kd_conn *c, const char *job, bool hints)
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
        return kd_sweep_watch(c, job, hints);
    watcher w = {.cli = c->cli, .job = job, .printed_at = -JSON_MS};
    kd_job_line_init(&w.line, c->cli, false);
    kd_follow f = {.job = job,
                   .follow = true,
                   .progress = true,
                   .timeout_s = -1,
                   .on_event = on_event,
                   .on_idle = on_idle,
                   .arg = &w};
    Distill__V1__JobDetail *detail = NULL;
    int rc = kd_follow_run(c, &f, &detail);
    kd_job_line_clear(&w.line);
    if (rc == KD_EXIT_OK) {
        rc = print_end(&w, detail, hints);
        kd_wire_free(&detail->base);
    } else if (kd_cli_comes_back(c->cli)) {
        kd_say(c->cli, "%sjob %s goes on; watch it again: distill watch %s%s",
               c->cli->tty_err ? "\n" : "", job, job, c->cli->server_flag);
        kd_say(c->cli, "to stop it: distill cancel %s%s", job, c->cli->server_flag);
    }
    return rc;
}

static int run(kd_cli *cli, const kd_args *args)
{
    const char *job = args->operands[0];
    kd_conn conn;
    int rc = kd_conn_start(cli, job, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = kd_watch_run(&conn, job, true);
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_watch = {
    .name = "watch",
    .operands = "JOB",
    .summary = "follow a job live until it ends",
    .help =
        "On a terminal the last line shows the running stage; elsewhere a progress line comes "
        "every\n"
        "ten seconds. A restart of the coordinator is waited for. Ctrl-C stops watching only: the\n"
        "job goes on. With -o json: one JSON object a line, the last of kind `end`. Of a sweep "
        "each\n"
        "job has a line of its own.",
    .min_operands = 1,
    .max_operands = 1,
    .run = run};

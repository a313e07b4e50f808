/* drain: a worker that gets no more work, so that it can be stopped without loss. */
#include "args.h"
#include "connect.h"
#include "json.h"
#include "output.h"

#include "kd/clock.h"

#include <string.h>

#define POLL_MS 200

static const kd_opt g_opts[] = {
    {"undo", 0, NULL, "it may work again"},
    {"wait", 'w', NULL, "return when it works for no job any more"},
    {"timeout", 0, "DURATION", "give up waiting after 90s, 10m ...; exit code 124"},
};

static const Distill__V1__WorkerInfo *find(const Distill__V1__WorkersReply *r, const char *name)
{
    for (size_t i = 0; i < r->n_workers; i++)
        if (strcmp(r->workers[i]->name, name) == 0)
            return r->workers[i];
    return NULL;
}

/* Until it has no job or has gone; state [64]: what it is then. */
static int wait_idle(kd_conn *c, const char *name, double timeout_s, char state[64])
{
    kd_time_ms end = timeout_s >= 0 ? kd_clock_ms() + (kd_time_ms)(timeout_s * 1000) : INT64_MAX;
    for (;;) {
        Distill__V1__WorkersRequest request = DISTILL__V1__WORKERS_REQUEST__INIT;
        ProtobufCMessage *reply = NULL;
        int rc = kd_conn_ask(c, "Workers", &request, NULL, &distill__v1__workers_reply__descriptor,
                             &reply);
        if (rc != KD_EXIT_OK)
            return rc;
        const Distill__V1__WorkerInfo *w = find((Distill__V1__WorkersReply *)reply, name);
        bool idle = !w || !w->job[0];
        snprintf(state, 64, "%s", w ? w->state : "gone");
        kd_wire_free(reply);
        if (idle)
            return KD_EXIT_OK;
        if (kd_clock_ms() >= end) {
            kd_error(c->cli, "worker %s still works for a job", name);
            kd_hint(c->cli,
                    "it leaves when its step is done; wait again: distill drain %s --wait%s", name,
                    c->cli->server_flag);
            return KD_EXIT_TIMEOUT;
        }
        if (!kd_conn_pause(POLL_MS))
            return kd_cli_signal_exit();
    }
}

static int tell(const kd_cli *cli, const Distill__V1__WorkerInfo *w, const char *state, bool undo)
{
    if (cli->json) {
        json_t *o = kd_json_worker(w);
        if (state)
            (void)json_object_set_new(o, "state", kd_json_text(state));
        if (state)
            (void)json_object_set_new(o, "job", kd_json_text(""));
        return kd_json_print(cli, o, false);
    }
    if (undo)
        kd_out_clean(cli, "worker %s is %s", w->name, w->state);
    else if (state || !w->job[0])
        kd_out_clean(cli, "worker %s is %s", w->name, state ? state : w->state);
    else
        kd_out_clean(cli, "worker %s leaves job %s when its step is done", w->name, w->job);
    return KD_EXIT_OK;
}

static int drain(kd_conn *c, const kd_args *args, double timeout_s)
{
    const char *name = args->operands[0];
    char state[64] = "";
    bool wait = kd_args_has(args, "wait");
    Distill__V1__DrainRequest request = DISTILL__V1__DRAIN_REQUEST__INIT;
    request.worker = (char *)name;
    request.undo = kd_args_has(args, "undo");
    ProtobufCMessage *reply = NULL;
    int rc = kd_conn_ask(c, "Drain", &request, NULL, &distill__v1__worker_info__descriptor, &reply);
    if (rc != KD_EXIT_OK)
        return rc;
    if (wait)
        rc = wait_idle(c, name, timeout_s, state);
    if (rc == KD_EXIT_OK)
        rc = tell(c->cli, (Distill__V1__WorkerInfo *)reply, wait ? state : NULL, request.undo);
    kd_wire_free(reply);
    return rc;
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_diag diag = {0};
    double timeout_s;
    if (kd_args_duration(args, "timeout", &timeout_s, &diag) != 0)
        return kd_usage(cli, "drain", NULL, "%s", diag.msg);
    if (kd_args_has(args, "undo") && kd_args_has(args, "wait"))
        return kd_usage(cli, "drain", NULL, "--undo and --wait exclude each other");
    if (timeout_s >= 0 && !kd_args_has(args, "wait"))
        return kd_usage(cli, "drain", NULL, "--timeout goes with --wait");
    if (!args->operands[0][0] || strlen(args->operands[0]) > 64)
        return kd_usage(cli, "drain", NULL, "a worker's name has 1 to 64 characters");
    kd_conn conn;
    int rc = kd_conn_start(cli, NULL, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = drain(&conn, args, timeout_s);
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_drain = {
    .name = "drain",
    .operands = "WORKER",
    .summary = "give a worker no more work, so that it can be stopped",
    .help =
        "It finishes its part of the step under way, others take over from there, and nothing is\n"
        "computed twice. `distill workers` shows it as draining, then drained. It stays so while "
        "it\n"
        "is connected and when the same process connects again; neither a worker that was started\n"
        "anew nor a coordinator that was restarted knows of it. --undo lets it work again.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};

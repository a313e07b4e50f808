/* cancel: stops jobs for good. */
#include "args.h"
#include "connect.h"
#include "json.h"
#include "output.h"
#include "views.h"

static int cancel_one(kd_conn *c, const char *job, json_t *list)
{
    int rc = kd_conn_check_id(c->cli, job);
    if (rc != KD_EXIT_OK)
        return rc;
    Distill__V1__JobRequest request = DISTILL__V1__JOB_REQUEST__INIT;
    request.job = (char *)job;
    ProtobufCMessage *reply = NULL;
    kd_failure why;
    if (kd_conn_call(c, "Cancel", &request, &distill__v1__job_summary__descriptor,
                     KD_CONN_TIMEOUT_MS, false, &reply, &why) != 0)
        return kd_conn_report(c, &why, job);
    const Distill__V1__JobSummary *s = (const Distill__V1__JobSummary *)reply;
    if (c->cli->json)
        (void)json_array_append_new(list, kd_json_summary(s));
    else
        kd_out_clean(c->cli, "job %s %s", s->job, kd_state_word(s->state));
    kd_wire_free(reply);
    return KD_EXIT_OK;
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_conn conn;
    int rc = kd_conn_open(cli, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    kd_cli_catch_signals();
    json_t *list = json_array();
    for (int i = 0; i < args->n_operands && kd_cli_signal() == 0; i++) {
        int one = cancel_one(&conn, args->operands[i], list);
        rc = rc != KD_EXIT_OK ? rc : one;
        if (one == KD_EXIT_UNREACHABLE)
            break;
    }
    kd_conn_close(&conn);
    if (cli->json && json_array_size(list) > 0) {
        int printed = kd_json_print(cli, json_pack("{s:O}", "jobs", list), false);
        rc = rc != KD_EXIT_OK ? rc : printed;
    }
    json_decref(list);
    return rc;
}

const kd_verb kd_verb_cancel = {.name = "cancel",
                                .operands = "JOB...",
                                .summary = "stop jobs; what they made so far is not kept",
                                .min_operands = 1,
                                .max_operands = -1,
                                .run = run};

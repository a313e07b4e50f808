#include "each.h"

#include "json.h"

static int call_one(kd_conn *c, const char *job, const char *method, json_t *list,
                    void (*tell)(const kd_cli *, const Distill__V1__JobSummary *))
{
    int rc = kd_conn_check_id(c->cli, job);
    if (rc != KD_EXIT_OK)
        return rc;
    Distill__V1__JobRequest request = DISTILL__V1__JOB_REQUEST__INIT;
    request.job = (char *)job;
    ProtobufCMessage *reply = NULL;
    kd_failure why;
    if (kd_conn_call(c, method, &request, &distill__v1__job_summary__descriptor, KD_CONN_TIMEOUT_MS,
                     false, &reply, &why) != 0)
        return kd_conn_report(c, &why, job);
    const Distill__V1__JobSummary *s = (const Distill__V1__JobSummary *)reply;
    if (c->cli->json)
        (void)json_array_append_new(list, kd_json_summary(s));
    else
        tell(c->cli, s);
    kd_wire_free(reply);
    return KD_EXIT_OK;
}

int kd_each_job(kd_cli *cli, const kd_args *args, const char *method,
                void (*tell)(const kd_cli *cli, const Distill__V1__JobSummary *s))
{
    kd_conn conn;
    int rc = kd_conn_open(cli, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    kd_cli_catch_signals();
    json_t *list = json_array();
    for (int i = 0; i < args->n_operands && kd_cli_signal() == 0; i++) {
        int one = call_one(&conn, args->operands[i], method, list, tell);
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

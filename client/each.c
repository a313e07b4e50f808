#include "each.h"

int kd_each_run(kd_cli *cli, const kd_args *args, const char *key,
                int (*one)(kd_conn *c, const char *job, json_t *list, const void *arg),
                const void *arg)
{
    kd_conn conn;
    int first = kd_conn_start(cli, NULL, &conn);
    if (first != KD_EXIT_OK)
        return first;
    json_t *list = json_array();
    for (int i = 0; i < args->n_operands && kd_cli_signal() == 0; i++) {
        int rc = kd_conn_check_job(cli, args->operands[i]);
        if (rc == KD_EXIT_OK)
            rc = one(&conn, args->operands[i], list, arg);
        first = first != KD_EXIT_OK ? first : rc;
        if (rc == KD_EXIT_UNREACHABLE)
            break;
    }
    kd_conn_close(&conn);
    if (cli->json && json_array_size(list) > 0) {
        int printed = kd_json_print(cli, json_pack("{s:O}", key, list), false);
        first = first != KD_EXIT_OK ? first : printed;
    }
    json_decref(list);
    return first;
}

struct change {
    const char *method;
    void (*tell)(const kd_cli *cli, const Distill__V1__JobSummary *s);
};

static int change_one(kd_conn *c, const char *job, json_t *list, const void *arg)
{
    const struct change *change = arg;
    ProtobufCMessage *reply = NULL;
    int rc = kd_conn_ask_job(c, change->method, job, &distill__v1__job_summary__descriptor, &reply);
    if (rc != KD_EXIT_OK)
        return rc;
    const Distill__V1__JobSummary *s = (const Distill__V1__JobSummary *)reply;
    if (c->cli->json)
        (void)json_array_append_new(list, kd_json_summary(s));
    else
        change->tell(c->cli, s);
    kd_wire_free(reply);
    return KD_EXIT_OK;
}

int kd_each_job(kd_cli *cli, const kd_args *args, const char *method,
                void (*tell)(const kd_cli *cli, const Distill__V1__JobSummary *s))
{
    struct change change = {.method = method, .tell = tell};
    return kd_each_run(cli, args, "jobs", change_one, &change);
}

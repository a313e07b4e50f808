/* rm: the coordinator forgets finished jobs and their files. */
#include "args.h"
#include "connect.h"
#include "format.h"
#include "json.h"
#include "output.h"

static int remove_one(kd_conn *c, const char *job, json_t *list)
{
    int rc = kd_conn_check_id(c->cli, job);
    if (rc != KD_EXIT_OK)
        return rc;
    Distill__V1__JobRequest request = DISTILL__V1__JOB_REQUEST__INIT;
    request.job = (char *)job;
    ProtobufCMessage *reply = NULL;
    kd_failure why;
    if (kd_conn_call(c, "Remove", &request, &distill__v1__remove_reply__descriptor,
                     KD_CONN_TIMEOUT_MS, false, &reply, &why) != 0)
        return kd_conn_report(c, &why, job);
    uint64_t freed = ((const Distill__V1__RemoveReply *)reply)->freed_bytes;
    kd_wire_free(reply);
    char a[KD_FMT];
    if (c->cli->json)
        (void)json_array_append_new(
            list, json_pack("{s:s, s:I}", "job", job, "freed_bytes", (json_int_t)freed));
    else
        kd_out(c->cli, "job %s removed, %s freed", job, kd_fmt_bytes((double)freed, a));
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
        int one = remove_one(&conn, args->operands[i], list);
        rc = rc != KD_EXIT_OK ? rc : one;
        if (one == KD_EXIT_UNREACHABLE)
            break;
    }
    kd_conn_close(&conn);
    if (cli->json && json_array_size(list) > 0) {
        int printed = kd_json_print(cli, json_pack("{s:O}", "removed", list), false);
        rc = rc != KD_EXIT_OK ? rc : printed;
    }
    json_decref(list);
    return rc;
}

const kd_verb kd_verb_rm = {
    .name = "rm",
    .operands = "JOB...",
    .summary = "forget finished jobs and delete their files",
    .help = "A job that waits or runs is refused (exit code 5): cancel it first.",
    .min_operands = 1,
    .max_operands = -1,
    .run = run};

/* rm: the coordinator forgets finished jobs and their files. */
#include "each.h"
#include "format.h"
#include "output.h"

static int remove_one(kd_conn *c, const char *job, json_t *list, const void *arg)
{
    (void)arg;
    ProtobufCMessage *reply = NULL;
    int rc = kd_conn_ask_job(c, "Remove", job, &distill__v1__remove_reply__descriptor, &reply);
    if (rc != KD_EXIT_OK)
        return rc;
    const Distill__V1__RemoveReply *r = (const Distill__V1__RemoveReply *)reply;
    /* Coordinators of before do not say which it was. */
    const char *id = r->job[0] ? r->job : job;
    char a[KD_FMT];
    if (c->cli->json)
        (void)json_array_append_new(list, json_pack("{s:o, s:I}", "job", kd_json_text(id),
                                                    "freed_bytes", (json_int_t)r->freed_bytes));
    else
        kd_out_clean(c->cli, "job %s removed, %s freed", id,
                     kd_fmt_bytes((double)r->freed_bytes, a));
    kd_wire_free(reply);
    return KD_EXIT_OK;
}

static int run(kd_cli *cli, const kd_args *args)
{
    return kd_each_run(cli, args, "removed", remove_one, NULL);
}

const kd_verb kd_verb_rm = {
    .name = "rm",
    .operands = "JOB...",
    .summary = "forget finished jobs and delete their files",
    .help = "A job that waits or runs is refused (exit code 5): cancel it first.",
    .min_operands = 1,
    .max_operands = -1,
    .run = run};

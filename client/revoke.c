/* revoke: certificates that are good no more. */
#include "args.h"
#include "certificates.h"

static int tell(kd_cli *cli, const kd_args *args, const ProtobufCMessage *reply)
{
    (void)args;
    const Distill__V1__RevokeReply *r = (const Distill__V1__RevokeReply *)reply;
    int rc =
        kd_certificates_print(cli, r->certificates, r->n_certificates,
                              json_pack("{s:I, s:I}", "calls_ended", (json_int_t)r->calls_ended,
                                        "sessions_ended", (json_int_t)r->sessions_ended));
    if (!cli->json)
        kd_say(cli, "%u of its calls and %u of its sessions ended", r->calls_ended,
               r->sessions_ended);
    return rc;
}

static int run(kd_cli *cli, const kd_args *args)
{
    Distill__V1__RevokeRequest request = DISTILL__V1__REVOKE_REQUEST__INIT;
    request.who = (char *)args->operands[0];
    return kd_conn_run(cli, args, "Access/Revoke", &request, &distill__v1__revoke_reply__descriptor,
                       tell);
}

const kd_verb kd_verb_revoke = {
    .name = "revoke",
    .operands = "NAME|SERIAL",
    .summary = "end certificates, and at once what runs by them",
    .help =
        "Of a name all certificates, and its sessions at the HTTP port. A worker that is\n"
        "revoked is lost to its job, which goes on without it. `distill token create --name NAME`\n"
        "lets the name in again.",
    .min_operands = 1,
    .max_operands = 1,
    .lists = true,
    .run = run};

/* revoke: certificates that are good no more. */
#include "args.h"
#include "certificates.h"
#include "connect.h"
#include "json.h"
#include "output.h"

static int tell(kd_cli *cli, const kd_args *args, const ProtobufCMessage *reply)
{
    (void)args;
    const Distill__V1__RevokeReply *r = (const Distill__V1__RevokeReply *)reply;
    if (cli->json)
        return kd_json_print(cli,
                             json_pack("{s:o, s:i}", "certificates",
                                       kd_certificates_json(r->certificates, r->n_certificates),
                                       "calls_ended", (int)r->calls_ended),
                             false);
    kd_certificates_table(cli, r->certificates, r->n_certificates);
    kd_say(cli, "%u of its calls ended", r->calls_ended);
    return KD_EXIT_OK;
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
        "Of a name all certificates. A worker that is revoked is lost to its job, which goes on\n"
        "without it. `distill token create --name NAME` lets the name in again.",
    .min_operands = 1,
    .max_operands = 1,
    .run = run};

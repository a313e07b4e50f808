/* whoami: who one is for the coordinator. */
#include "args.h"
#include "connect.h"
#include "json.h"
#include "output.h"

#include "kd/clock.h"

static int tell(kd_cli *cli, const kd_args *args, const ProtobufCMessage *reply)
{
    (void)args;
    const Distill__V1__WhoReply *w = (const Distill__V1__WhoReply *)reply;
    char ends[KD_CLOCK_ISO];
    if (cli->json)
        return kd_json_print(cli,
                             json_pack("{s:b, s:o, s:o, s:o, s:o, s:o}", "tls", (int)w->tls, "role",
                                       kd_json_text(w->role), "name", kd_json_text(w->name),
                                       "serial", kd_json_text(w->serial), "not_after",
                                       kd_json_time(w->not_after_ms), "address",
                                       kd_json_text(w->address)),
                             false);
    if (!w->tls)
        kd_out_clean(cli, "anybody: %s asks for no certificates", cli->server);
    else if (!w->name[0])
        kd_out_clean(cli, "nobody: you showed %s no certificate", cli->server);
    else
        kd_out_clean(cli, "%s (%s) at %s, certificate %.8s until %s", w->name, w->role, cli->server,
                     w->serial, kd_clock_iso(w->not_after_ms, ends));
    return KD_EXIT_OK;
}

static int run(kd_cli *cli, const kd_args *args)
{
    Distill__V1__WhoRequest request = DISTILL__V1__WHO_REQUEST__INIT;
    return kd_conn_run(cli, args, "Access/WhoAmI", &request, &distill__v1__who_reply__descriptor,
                       tell);
}

const kd_verb kd_verb_whoami = {
    .name = "whoami", .operands = "", .summary = "who you are for the coordinator", .run = run};

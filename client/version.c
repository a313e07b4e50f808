/* version: of this program, and on request of the coordinator. */
#include "args.h"
#include "connect.h"
#include "format.h"
#include "json.h"
#include "output.h"

#include "kd/clock.h"

#include <string.h>

static const kd_opt g_opts[] = {
    {"check-server", 0, NULL, "also ask the coordinator for its version"},
};

static int ask(kd_cli *cli, Distill__V1__InfoReply **out)
{
    kd_conn conn;
    int rc = kd_conn_start(cli, NULL, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    Distill__V1__InfoRequest request = DISTILL__V1__INFO_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    rc = kd_conn_ask(&conn, "Info", &request, NULL, &distill__v1__info_reply__descriptor, &reply);
    kd_conn_close(&conn);
    *out = (Distill__V1__InfoReply *)reply;
    return rc;
}

static int run(kd_cli *cli, const kd_args *args)
{
    Distill__V1__InfoReply *info = NULL;
    int rc = kd_args_has(args, "check-server") ? ask(cli, &info) : KD_EXIT_OK;
    if (cli->json) {
        json_t *o = json_pack("{s:s, s:i}", "version", KD_VERSION, "protocol", (int)KD_PROTOCOL);
        if (info) {
            json_t *server = kd_json_info(info);
            json_object_set_new(server, "address", kd_json_text(cli->server));
            json_object_set_new(o, "server", server);
        }
        int printed = kd_json_print(cli, o, false);
        rc = rc == KD_EXIT_OK ? printed : rc;
    } else {
        char age[KD_FMT];
        kd_out(cli, "distill " KD_VERSION " (protocol %u)", KD_PROTOCOL);
        if (info) {
            kd_buf line;
            kd_buf_init(&line, KD_MAX_CONTROL_BYTES);
            kd_buf_printf(&line, "distilld ");
            kd_text_clean(&line, info->version);
            kd_buf_printf(&line, " (protocol %u) at %s, up %s, start %llu, state in ",
                          info->protocol, cli->server,
                          kd_fmt_age(info->started_ms, kd_clock_wall_ms(), age),
                          (unsigned long long)info->epoch);
            kd_text_clean(&line, info->state_dir);
            kd_out(cli, "%s", line.data);
            kd_buf_clear(&line);
        }
    }
    if (info && info->protocol != KD_PROTOCOL) {
        kd_error(cli, "the coordinator speaks protocol %u, this program %u", info->protocol,
                 KD_PROTOCOL);
        kd_hint(cli, "install the same version of distilld and distill");
        rc = KD_EXIT_CONFLICT;
    }
    if (info)
        kd_wire_free(&info->base);
    return rc;
}

const kd_verb kd_verb_version = {.name = "version",
                                 .operands = "",
                                 .summary = "print the version, and the coordinator's",
                                 .opts = g_opts,
                                 .n_opts = KD_COUNT(g_opts),
                                 .run = run};

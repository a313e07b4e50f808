/* login: a certificate for this user, by a token. */
#include "args.h"
#include "connect.h"
#include "contexts.h"
#include "json.h"
#include "output.h"
#include "verbs.h"

#include "kd/clock.h"

#include <stdlib.h>

static const kd_opt g_opts[] = {
    {"name", 0, "NAME", "how you are called there, if the token leaves that open ($USER)"},
    {"replace", 0, NULL, "give up a login that is here, of another name or to another coordinator"},
};

static int exit_of(int rc)
{
    return rc == -KD_EINVAL                           ? KD_EXIT_USAGE
           : rc == -KD_EUNAVAIL || rc == -KD_ETIMEOUT ? KD_EXIT_UNREACHABLE
           : rc == -KD_EAUTH || rc == -KD_EPERM       ? KD_EXIT_AUTH
           : rc == -KD_EEXIST                         ? KD_EXIT_CONFLICT
                                                      : KD_EXIT_FAILURE;
}

static int tell(const kd_cli *cli, const kd_login *l)
{
    char ends[KD_CLOCK_ISO];
    if (cli->json)
        return kd_json_print(cli,
                             json_pack("{s:o, s:s, s:s, s:s, s:o, s:o}", "name",
                                       kd_json_text(l->who.name), "role", kd_role_name(l->who.role),
                                       "serial", l->who.serial, "server", l->server, "not_after",
                                       kd_json_time(l->who.not_after_ms), "credentials",
                                       kd_json_text(l->dir)),
                             false);
    kd_out(cli, "you are %s (%s) at %s until %s; certificate and key are in %s", l->who.name,
           kd_role_name(l->who.role), l->server, kd_clock_iso(l->who.not_after_ms, ends), l->dir);
    return KD_EXIT_OK;
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_diag diag = {0};
    kd_rpc *rpc = NULL;
    kd_login l = {0};
    const char *name = kd_args_value(args, "name"), *user = getenv("USER");
    bool own_folder = cli->credentials_chosen && kd_args_has(args, "credentials");
    const kd_login_wish wish = {.holder = KD_HOLDER_PERSON,
                                .name = name ? name : "",
                                .suggested = user ? user : "",
                                .replace = kd_args_has(args, "replace"),
                                .keep = own_folder ? "with another --credentials DIR"
                                                   : "with --context NAME"};
    int rc = kd_rpc_new(1, &rpc, &diag);
    if (rc == 0)
        rc = kd_login_join(rpc, cli->credentials, cli->server, args->operands[0], &wish, &l, &diag);
    if (rpc)
        kd_rpc_free(rpc);
    /* What one logs in to is what one uses from then on. */
    const char *context = cli->context[0] ? cli->context : KD_CONTEXT_DEFAULT;
    if (rc == 0 && !cli->credentials_chosen && (rc = kd_context_use(context, &diag)) == 0)
        kd_context_warn(cli, context, cli->server);
    if (rc != 0) {
        kd_error(cli, "%s", diag.msg);
        if (rc == -KD_EUNAVAIL)
            kd_hint(cli, "name the coordinator with --server HOST:PORT");
        return exit_of(rc);
    }
    rc = tell(cli, &l);
    kd_login_clear(&l);
    return rc;
}

const kd_verb kd_verb_login = {
    .name = "login",
    .operands = "TOKEN",
    .summary = "get a certificate for a coordinator by a token from its admin",
    .help =
        "The key is made here and leaves this machine never. The token says which CA the\n"
        "coordinator must have, and is sent to no other. It is good once. From then on commands\n"
        "that go to this coordinator (it becomes the one in use) show the certificate, and\n"
        "renew it in time. With --context NAME it is one of several, see `distill context`; a\n"
        "login that is there is not lost to another one unless you say --replace. They are kept\n"
        "in --credentials DIR, $DISTILL_CREDENTIALS, or ~/.config/distill, readable by you alone.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};

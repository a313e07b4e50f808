#include "settings.h"

#include "args.h"
#include "contexts.h"
#include "output.h"

#include "kd/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *env_of(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

/* The context that the run is in, if any; what is wrong with it goes into cli. */
static bool choose_context(kd_cli *cli, const kd_args *args, kd_context *out)
{
    kd_diag diag = {0};
    char current[KD_CONTEXT_NAME];
    const char *flag = kd_args_value(args, "context"), *env = env_of("DISTILL_CONTEXT");
    const char *name = flag ? flag : env;
    cli->from.context = flag ? "--context" : env ? "DISTILL_CONTEXT" : "`distill context use`";
    if (!name && kd_context_current(current))
        name = current;
    if (!name) {
        cli->from.context = "default";
        return false;
    }
    snprintf(cli->context, sizeof cli->context, "%s", name);
    if (kd_context_load(name, out, &diag) == 0)
        return true;
    snprintf(cli->context_problem, sizeof cli->context_problem, "%.200s (from %s)", diag.msg,
             cli->from.context);
    return false;
}

/* What the context has to say is of no use for another server than its own. */
static void leave_context(kd_cli *cli, kd_context *c)
{
    bool there = kd_context_of_server(cli->server, c);
    snprintf(cli->context, sizeof cli->context, "%s", there ? c->name : "");
    cli->from.context = there ? "its server" : "default";
    cli->context_problem[0] = '\0';
    if (!there)
        *c = (kd_context){0};
}

static int read_server(kd_cli *cli, const char *text, const char *from)
{
    kd_diag diag = {0};
    cli->from.server = from;
    if (kd_args_server(text, cli->server, sizeof cli->server, &diag) == 0)
        return KD_EXIT_OK;
    return kd_usage(cli, NULL, "for example --server 10.0.0.5:7070", "%s (from %s)", diag.msg,
                    from);
}

/* cli->credentials holds what flag or environment say, else the folder of a login without a
 * context. */
static int choose_server(kd_cli *cli, const kd_args *args, kd_context *c, bool in_context)
{
    const char *flag = kd_args_value(args, "server"), *env = env_of("DISTILL_SERVER");
    bool context_flag = kd_args_has(args, "context");
    char joined[KD_LOGIN_SERVER];
    int rc;
    if (flag || (env && !context_flag)) {
        rc = read_server(cli, flag ? flag : env, flag ? "--server" : "DISTILL_SERVER");
        if (rc == KD_EXIT_OK && !context_flag && strcmp(c->server, cli->server) != 0)
            leave_context(cli, c);
        return rc;
    }
    if (cli->credentials_chosen && !context_flag && kd_login_server(cli->credentials, joined))
        return read_server(cli, joined, cli->from.credentials);
    if (in_context)
        return read_server(cli, c->server, "the context");
    if (!cli->context[0] && kd_login_server(cli->credentials, joined))
        return read_server(cli, joined, "`distill login`");
    return read_server(cli, KD_CLI_DEFAULT_SERVER, "default");
}

static void choose_credentials(kd_cli *cli, const kd_args *args)
{
    const char *flag = kd_args_value(args, "credentials");
    kd_login_folder(flag, "DISTILL_CREDENTIALS", "distill", false, cli->credentials,
                    &cli->credentials_chosen);
    cli->from.credentials = flag                      ? "--credentials"
                            : cli->credentials_chosen ? "DISTILL_CREDENTIALS"
                                                      : "default";
    /* A context that is named goes before the environment. */
    if (!flag && kd_args_has(args, "context"))
        cli->credentials_chosen = false;
    if (!cli->credentials_chosen)
        kd_context_folder(KD_CONTEXT_DEFAULT, cli->credentials);
}

static void choose_protection(kd_cli *cli, const kd_args *args, const kd_context *c)
{
    const char *env = env_of("DISTILL_INSECURE");
    bool flag = kd_args_has(args, "insecure"), wanted = env && strcmp(env, "0") != 0;
    cli->insecure = flag || wanted || c->insecure;
    cli->from.insecure = flag          ? "--insecure"
                         : wanted      ? "DISTILL_INSECURE"
                         : c->insecure ? "the context"
                                       : "default";
}

/* What a command has to be given again to reach the same coordinator. */
static void note_flags(kd_cli *cli, const kd_args *args)
{
    if (kd_args_has(args, "server"))
        snprintf(cli->server_flag, sizeof cli->server_flag, " --server %s", cli->server);
    else if (kd_args_has(args, "context"))
        snprintf(cli->server_flag, sizeof cli->server_flag, " --context %s", cli->context);
}

int kd_settings_read(kd_cli *cli, const kd_args *args)
{
    kd_context c = {0};
    kd_diag diag = {0};
    const char *name = kd_args_value(args, "context");
    if (name && kd_context_check_name(name, &diag) != 0)
        return kd_usage(cli, NULL, NULL, "%s", diag.msg);
    if (kd_args_has(args, "no-color")) {
        cli->color_out = cli->color_err = false;
        cli->from.color = "--no-color";
    }
    choose_credentials(cli, args);
    bool in_context = choose_context(cli, args, &c);
    int rc = choose_server(cli, args, &c, in_context);
    /* One that is not there yet is where `distill login` puts what it gets. */
    if (!cli->credentials_chosen && cli->context[0]) {
        kd_context_folder(cli->context, cli->credentials);
        cli->from.credentials = "the context";
    }
    choose_protection(cli, args, &c);
    note_flags(cli, args);
    return rc;
}

int kd_settings_check(const kd_cli *cli)
{
    if (!cli->context_problem[0])
        return KD_EXIT_OK;
    kd_error(cli, "%s", cli->context_problem);
    kd_hint(cli, "`distill context ls` lists them, `distill context use NAME` chooses one");
    return KD_EXIT_USAGE;
}

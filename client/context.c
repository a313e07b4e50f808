/* context: clusters by name. */
#include "args.h"
#include "contexts.h"
#include "list.h"
#include "verbs.h"

#include "kd/address.h"
#include "kd/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- ls */

typedef struct row {
    kd_context c;
    bool current;
    kd_pki_identity who; /* of its certificate; name "" = none */
} row;

static json_t *to_json(const void *item)
{
    const row *r = item;
    return json_pack("{s:s, s:s, s:b, s:s, s:s, s:o, s:b, s:o}", "name", r->c.name, "server",
                     r->c.server, "current", (int)r->current, "user", r->who.name, "role",
                     r->who.name[0] ? kd_role_name(r->who.role) : "", "not_after",
                     kd_json_time(r->who.name[0] ? r->who.not_after_ms : 0), "insecure",
                     (int)r->c.insecure, "local", kd_json_text(r->c.local));
}

static void add_row(kd_table *t, const void *item, int64_t now)
{
    const row *r = item;
    char ends[KD_CLOCK_ISO];
    (void)now;
    kd_table_add(t, r->current ? KD_GREEN : KD_PLAIN, "%s", r->current ? "*" : "");
    kd_table_add(t, KD_BOLD, "%s", r->c.name);
    kd_table_add(t, KD_PLAIN, "%s", r->c.server);
    kd_table_add(t, KD_PLAIN, "%s", r->who.name);
    kd_table_add(t, KD_PLAIN, "%s", r->who.name[0] ? kd_role_name(r->who.role) : "");
    kd_table_add(t, KD_PLAIN, "%s", r->who.name[0] ? kd_clock_iso(r->who.not_after_ms, ends) : "");
    kd_table_add(t, KD_PLAIN, "%s", r->c.local);
}

static const kd_column g_columns[] = {
    {"IN USE", "current", KD_ALWAYS}, {"NAME", "name", KD_ALWAYS},
    {"SERVER", "server", KD_ALWAYS},  {"USER", "user", KD_IF_ANY},
    {"ROLE", "role", KD_IF_ANY},      {"ENDS", "not_after", KD_IF_ANY},
    {NULL, "insecure", KD_ALWAYS},    {"LOCAL CLUSTER IN", "local", KD_IF_ANY},
};

static const kd_list g_list = {.key = "contexts",
                               .name = "name",
                               .columns = g_columns,
                               .n_columns = KD_COUNT(g_columns),
                               .json = to_json,
                               .row = add_row};

static int list(const kd_cli *cli)
{
    kd_context *all;
    size_t n = kd_context_list(&all);
    row *rows = kd_xalloc((n + 1) * sizeof *rows);
    const void **items = kd_xalloc((n + 1) * sizeof *items);
    for (size_t i = 0; i < n; i++) {
        kd_login login = {0};
        rows[i] = (row){.c = all[i], .current = strcmp(all[i].name, cli->context) == 0};
        if (kd_login_load(all[i].dir, &login, NULL) == 0)
            rows[i].who = login.who;
        kd_login_clear(&login);
        items[i] = &rows[i];
    }
    int rc = kd_list_print(cli, &g_list, items, n, NULL);
    if (n == 0 && !cli->json) {
        kd_say(cli, "there are no contexts");
        kd_hint(cli,
                "`distill login TOKEN --server HOST:PORT --context NAME` or `distill context "
                "add NAME --server HOST:PORT` makes one, `distill local up` a cluster with one");
    }
    free(items);
    free(rows);
    free(all);
    return rc;
}

/* ---- use, add, rm */

static int fail(const kd_cli *cli, int rc, const kd_diag *diag)
{
    kd_error(cli, "%s", diag->msg);
    if (rc == -KD_ENOENT)
        kd_hint(cli, "`distill context ls` lists them");
    return rc == -KD_EINVAL || rc == -KD_ENOENT ? KD_EXIT_USAGE
           : rc == -KD_EEXIST                   ? KD_EXIT_CONFLICT
                                                : KD_EXIT_FAILURE;
}

void kd_context_warn(const kd_cli *cli, const char *name, const char *server)
{
    const char *s = getenv("DISTILL_SERVER"), *c = getenv("DISTILL_CONTEXT");
    if (s && *s && strcmp(s, server) != 0)
        kd_say(cli, "note: DISTILL_SERVER=%s goes before the context in use; unset it to use %s", s,
               name);
    else if (c && *c && strcmp(c, name) != 0)
        kd_say(cli, "note: DISTILL_CONTEXT=%s goes before the context in use; unset it to use %s",
               c, name);
}

static int use(const kd_cli *cli, const char *name)
{
    kd_diag diag = {0};
    kd_context c;
    int rc = kd_context_load(name, &c, &diag);
    if (rc == 0)
        rc = kd_context_use(name, &diag);
    if (rc != 0)
        return fail(cli, rc, &diag);
    if (cli->json)
        return kd_json_print(cli, json_pack("{s:s, s:s}", "name", c.name, "server", c.server),
                             false);
    kd_out(cli, "%s is in use: %s", c.name, c.server);
    kd_context_warn(cli, name, c.server);
    return KD_EXIT_OK;
}

static int add(const kd_cli *cli, const kd_args *args, const char *name)
{
    kd_diag diag = {0};
    kd_context c = {.insecure = kd_args_has(args, "insecure")};
    if (!kd_args_has(args, "server"))
        return kd_usage(cli, "context", "for example --server 10.0.0.5:7070",
                        "context add needs --server HOST:PORT");
    snprintf(c.name, sizeof c.name, "%s", name);
    snprintf(c.server, sizeof c.server, "%s", cli->server);
    int rc = kd_context_check_name(name, &diag);
    if (rc == 0)
        rc = kd_context_add(&c, &diag);
    if (rc != 0)
        return fail(cli, rc, &diag);
    if (cli->json)
        return kd_json_print(cli, json_pack("{s:s, s:s}", "name", c.name, "server", c.server),
                             false);
    kd_out(cli, "%s is %s; `distill context use %s` makes it the one in use", c.name, c.server,
           c.name);
    if (!c.insecure && !kd_address_is_loopback(c.server))
        kd_hint(cli, "`distill login TOKEN --server %s --context %s` gets a certificate for it",
                c.server, c.name);
    return KD_EXIT_OK;
}

static int rm(const kd_cli *cli, const char *name)
{
    kd_diag diag = {0};
    kd_context c;
    int rc = kd_context_load(name, &c, &diag);
    if (rc == 0 && c.local[0] && access(c.local, F_OK) == 0) {
        kd_error(cli, "%s is a local cluster in %s", name, c.local);
        kd_hint(cli, "`distill local down --context %s` ends it and removes its context", name);
        return KD_EXIT_CONFLICT;
    }
    if (rc == 0)
        rc = kd_context_remove(&c, &diag);
    if (rc != 0)
        return fail(cli, rc, &diag);
    if (cli->json)
        return kd_json_print(cli, json_pack("{s:s, s:s}", "name", c.name, "server", c.server),
                             false);
    kd_out(cli, "%s is removed", name);
    return KD_EXIT_OK;
}

static int run(kd_cli *cli, const kd_args *args)
{
    const char *what = args->operands[0], *name = args->n_operands > 1 ? args->operands[1] : NULL;
    bool lists = strcmp(what, "ls") == 0, uses = strcmp(what, "use") == 0,
         adds = strcmp(what, "add") == 0, removes = strcmp(what, "rm") == 0;
    if (!lists && !uses && !adds && !removes)
        return kd_usage(cli, "context", "ls, use NAME, add NAME or rm NAME",
                        "context: no such thing as \"%s\"", what);
    if (!lists && !name)
        return kd_usage(cli, "context", NULL, "context %s needs a NAME", what);
    if (lists && name)
        return kd_usage(cli, "context", NULL, "context ls takes no operand");
    if (lists)
        return list(cli);
    if (kd_cli_no_list(cli, "context") != KD_EXIT_OK)
        return KD_EXIT_USAGE;
    return uses ? use(cli, name) : adds ? add(cli, args, name) : rm(cli, name);
}

const kd_verb kd_verb_context = {
    .name = "context",
    .operands = "ls|use|add|rm [NAME]",
    .summary = "clusters by name: list them, choose the one that commands go to",
    .help =
        "A context is a coordinator's address with the certificate for it. `distill login TOKEN\n"
        "--server HOST:PORT --context NAME` makes one and uses it, `add NAME --server HOST:PORT`\n"
        "one without a certificate, `distill local up` one for a cluster on this machine. A\n"
        "command goes to the context in use, or to another by --context NAME or DISTILL_CONTEXT;\n"
        "`distill config` tells which and why. They lie in ~/.config/distill (DISTILL_CONFIG).",
    .min_operands = 1,
    .max_operands = 2,
    .lists = true,
    .run = run};

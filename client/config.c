/* config: what holds for a command, and where each value comes from. */
#include "args.h"
#include "contexts.h"
#include "list.h"

#include "kd/clock.h"

#include <stdio.h>
#include <string.h>

typedef struct row {
    const char *setting, *value, *from;
} row;

static json_t *to_json(const void *item)
{
    const row *r = item;
    return json_pack("{s:s, s:o, s:s}", "setting", r->setting, "value", kd_json_text(r->value),
                     "from", r->from);
}

static void add_row(kd_table *t, const void *item, int64_t now)
{
    const row *r = item;
    (void)now;
    kd_table_add(t, KD_BOLD, "%s", r->setting);
    kd_table_add(t, KD_PLAIN, "%s", r->value);
    kd_table_add(t, KD_DIM, "%s", r->from);
}

static const kd_column g_columns[] = {
    {"SETTING", "setting", KD_ALWAYS},
    {"VALUE", "value", KD_ALWAYS},
    {"FROM", "from", KD_ALWAYS},
};

static const kd_list g_list = {.key = "settings",
                               .name = "setting",
                               .columns = g_columns,
                               .n_columns = KD_COUNT(g_columns),
                               .json = to_json,
                               .row = add_row};

/* The certificate that a call would show, and how the connection would be protected. */
static void describe(const kd_cli *cli, char who[300], char protection[600])
{
    kd_login login = {0};
    kd_diag diag = {0};
    char ends[KD_CLOCK_ISO];
    int rc = kd_login_choose(cli->credentials, cli->credentials_chosen, cli->insecure, cli->server,
                             &login, &diag);
    snprintf(who, 300, "none");
    if (rc == 1)
        snprintf(who, 300, "%s (%s) until %s", login.who.name, kd_role_name(login.who.role),
                 kd_clock_iso(login.who.not_after_ms, ends));
    snprintf(protection, 600, "%.500s", rc < 0 ? diag.msg : rc == 1 ? "TLS" : "plain text");
    kd_login_clear(&login);
}

static int run(kd_cli *cli, const kd_args *args)
{
    char base[KD_CONTEXT_PATH], who[300], protection[600];
    (void)args;
    kd_context_base(base);
    describe(cli, who, protection);
    const row rows[] = {
        {"server", cli->server, cli->from.server},
        {"context", cli->context[0] ? cli->context : "none", cli->from.context},
        {"credentials", cli->credentials, cli->from.credentials},
        {"certificate", who, "the credentials"},
        {"connection", protection, "the server and its certificate"},
        {"insecure", cli->insecure ? "yes" : "no", cli->from.insecure},
        {"colours", cli->color_out ? "yes" : "no", cli->from.color},
        {"contexts in", base, getenv("DISTILL_CONFIG") ? "DISTILL_CONFIG" : "default"},
    };
    const void *items[KD_COUNT(rows)];
    for (size_t i = 0; i < KD_COUNT(rows); i++)
        items[i] = &rows[i];
    int rc = kd_list_print(cli, &g_list, items, KD_COUNT(items), NULL);
    if (cli->context_problem[0])
        kd_say(cli, "note: %s", cli->context_problem);
    return rc;
}

const kd_verb kd_verb_config = {
    .name = "config",
    .operands = "",
    .summary = "show what holds for a command, and where each value comes from",
    .help = "A flag goes before the context that --context names, that before the environment, "
            "that\nbefore the context in use, that before a login without a context and the "
            "defaults.",
    .lists = true,
    .run = run};

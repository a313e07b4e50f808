/* token: what admins let others in with. */
#include "args.h"
#include "connect.h"
#include "format.h"
#include "list.h"

#include <string.h>

static const kd_opt g_opts[] = {
    {"role", 0, "ROLE", "create: worker, submitter, viewer, operator or admin"},
    {"ttl", 0, "DURATION", "create: how long it can be used, at most 30d, a session 366d (1h)"},
    {"name", 0, "NAME", "create: whom it is for; else whoever uses it picks a name nobody had"},
    {"session", 0, NULL, "create: for a browser; good until it ends, not for a certificate"},
};

static json_t *to_json(const void *item)
{
    const Distill__V1__TokenInfo *t = item;
    return json_pack("{s:o, s:o, s:o, s:b, s:o, s:o, s:o, s:o, s:o}", "id", kd_json_text(t->id),
                     "role", kd_json_text(t->role), "name", kd_json_text(t->name), "session",
                     (int)t->session, "created", kd_json_time(t->created_ms), "expires",
                     kd_json_time(t->expires_ms), "state", kd_json_text(t->state), "used_by",
                     kd_json_text(t->used_by), "created_by", kd_json_text(t->created_by));
}

static int create(kd_conn *c, const kd_args *args, double ttl_s)
{
    const kd_cli *cli = c->cli;
    const char *name = kd_args_value(args, "name");
    Distill__V1__CreateTokenRequest request = DISTILL__V1__CREATE_TOKEN_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    request.role = (char *)kd_args_value(args, "role");
    request.name = (char *)(name ? name : "");
    request.ttl_ms = (uint64_t)(ttl_s * 1000);
    request.session = kd_args_has(args, "session");
    int rc = kd_conn_ask(c, "Access/CreateToken", &request, NULL,
                         &distill__v1__create_token_reply__descriptor, &reply);
    if (rc != KD_EXIT_OK)
        return rc;
    const Distill__V1__CreateTokenReply *r = (Distill__V1__CreateTokenReply *)reply;
    if (cli->json && r->info) {
        json_t *o = to_json(r->info);
        (void)json_object_set_new(o, "token", kd_json_text(r->token));
        rc = kd_json_print(cli, o, false);
    } else {
        kd_out_clean(cli, "%s", r->token);
        if (request.session)
            kd_hint(cli, "it opens the dashboard until it ends; it is shown this once");
        else if (strcmp(request.role, "worker") == 0)
            kd_hint(cli, "there: distill-worker join TOKEN --server HOST:PORT; it is shown this "
                         "once and good once");
        else
            kd_hint(cli, "there: distill login TOKEN --server HOST:PORT; it is shown this once and "
                         "good once");
    }
    kd_wire_free(reply);
    return rc;
}

static void add_row(kd_table *t, const void *item, int64_t now)
{
    const Distill__V1__TokenInfo *k = item;
    char a[KD_FMT];
    kd_table_add(t, KD_PLAIN, "%s", k->id);
    kd_table_add(t, strcmp(k->state, "open") == 0 ? KD_GREEN : KD_PLAIN, "%s", k->state);
    kd_table_add(t, KD_PLAIN, "%s", k->role);
    kd_table_add(t, KD_PLAIN, "%s", k->name);
    kd_table_add(t, KD_PLAIN, "%s", k->session ? "session" : "certificate");
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_clock(k->created_ms, now, a));
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_clock(k->expires_ms, now, a));
    kd_table_add(t, KD_PLAIN, "%s", k->used_by);
    kd_table_add(t, KD_PLAIN, "%s", k->created_by);
}

static const kd_column g_columns[] = {
    {"ID", "id", KD_ALWAYS},
    {"STATE", "state", KD_ALWAYS},
    {"ROLE", "role", KD_ALWAYS},
    {"NAME", "name", KD_ALWAYS},
    {"KIND", "session", KD_ALWAYS},
    {"CREATED", "created", KD_ALWAYS},
    {"ENDS", "expires", KD_ALWAYS},
    {"USED BY", "used_by", KD_ALWAYS},
    {"CREATED BY", "created_by", KD_ALWAYS},
};

static const kd_list g_list = {.key = "tokens",
                               .name = "id",
                               .columns = g_columns,
                               .n_columns = KD_COUNT(g_columns),
                               .json = to_json,
                               .row = add_row};

static int list(kd_conn *c)
{
    Distill__V1__ListTokensRequest request = DISTILL__V1__LIST_TOKENS_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    int rc = kd_conn_ask(c, "Access/ListTokens", &request, NULL,
                         &distill__v1__list_tokens_reply__descriptor, &reply);
    if (rc != KD_EXIT_OK)
        return rc;
    const Distill__V1__ListTokensReply *r = (Distill__V1__ListTokensReply *)reply;
    rc = kd_list_print(c->cli, &g_list, (const void *const *)r->tokens, r->n_tokens, NULL);
    if (r->n_tokens == 0 && !c->cli->json)
        kd_say(c->cli, "no tokens at %s", c->cli->server);
    kd_wire_free(reply);
    return rc;
}

static int revoke(kd_conn *c, const char *id)
{
    Distill__V1__RevokeTokenRequest request = DISTILL__V1__REVOKE_TOKEN_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    request.id = (char *)id;
    int rc = kd_conn_ask(c, "Access/RevokeToken", &request, NULL,
                         &distill__v1__token_info__descriptor, &reply);
    if (rc != KD_EXIT_OK)
        return rc;
    const Distill__V1__TokenInfo *t = (Distill__V1__TokenInfo *)reply;
    if (c->cli->json)
        rc = kd_json_print(c->cli, to_json(t), false);
    else
        kd_out_clean(c->cli, "token %s is revoked%s%s", t->id,
                     t->used_by[0] ? "; it was used by " : "", t->used_by);
    if (t->used_by[0] && !c->cli->json)
        kd_hint(c->cli, "`distill revoke %s` ends what was made of it", t->used_by);
    kd_wire_free(reply);
    return rc;
}

static int run(kd_cli *cli, const kd_args *args)
{
    const char *what = args->operands[0];
    bool makes = strcmp(what, "create") == 0, lists = strcmp(what, "ls") == 0,
         revokes = strcmp(what, "revoke") == 0;
    kd_diag diag = {0};
    double ttl_s;
    if (!makes && !lists && !revokes)
        return kd_usage(cli, "token", "create, ls or revoke ID", "token: no such thing as \"%s\"",
                        what);
    if (revokes && args->n_operands != 2)
        return kd_usage(cli, "token", NULL, "token revoke needs one ID");
    if (!revokes && args->n_operands != 1)
        return kd_usage(cli, "token", NULL, "token %s takes no operand", what);
    if (makes && !kd_args_value(args, "role"))
        return kd_usage(cli, "token", "for example --role worker", "token create needs --role");
    if (!lists && kd_cli_no_list(cli, makes ? "token create" : "token revoke") != KD_EXIT_OK)
        return KD_EXIT_USAGE;
    if (kd_args_duration(args, "ttl", &ttl_s, &diag) != 0)
        return kd_usage(cli, "token", NULL, "%s", diag.msg);
    kd_conn conn;
    int rc = kd_conn_start(cli, NULL, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = makes   ? create(&conn, args, ttl_s >= 0 ? ttl_s : 3600)
         : lists ? list(&conn)
                 : revoke(&conn, args->operands[1]);
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_token = {
    .name = "token",
    .operands = "create|ls|revoke [ID]",
    .summary = "let workers and people in: one-time tokens, sessions for browsers",
    .help =
        "Roles: worker trains; viewer reads everything; submitter submits jobs, reads and changes\n"
        "its own; operator changes everybody's and drains workers; admin makes and revokes tokens\n"
        "and certificates as well. Whoever uses a token gets a certificate with its role. A token\n"
        "with --name may replace the certificate of somebody who was there before.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 2,
    .lists = true,
    .run = run};

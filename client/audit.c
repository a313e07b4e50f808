/* audit: who did what, from where, and what came of it. */
#include "args.h"
#include "connect.h"
#include "format.h"
#include "list.h"

#include <string.h>

static const kd_opt g_opts[] = {
    {"limit", 'n', "N", "at most so many entries, the newest (100)"},
    {"name", 0, "NAME", "only what this name did"},
};

static json_t *to_json(const void *item)
{
    const Distill__V1__AuditEntry *e = item;
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "time", kd_json_time(e->time_ms),
                     "name", kd_json_text(e->name), "role", kd_json_text(e->role), "address",
                     kd_json_text(e->address), "method", kd_json_text(e->method), "object",
                     kd_json_text(e->object), "result", kd_json_text(e->result), "text",
                     kd_json_text(e->text));
}

static void add_row(kd_table *t, const void *item, int64_t now)
{
    const Distill__V1__AuditEntry *e = item;
    char a[KD_FMT];
    bool good = strcmp(e->result, "OK") == 0 || strcmp(e->result, "BEGUN") == 0;
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_clock(e->time_ms, now, a));
    kd_table_add(t, KD_PLAIN, "%s", e->name);
    kd_table_add(t, KD_PLAIN, "%s", e->role);
    kd_table_add(t, KD_PLAIN, "%s", e->address);
    kd_table_add(t, KD_PLAIN, "%s", e->method);
    kd_table_add(t, KD_PLAIN, "%s", e->object);
    kd_table_add(t, good ? KD_PLAIN : KD_YELLOW, "%s", e->result);
    kd_table_add(t, KD_PLAIN, "%s", e->text);
}

static const kd_column g_columns[] = {
    {"TIME", "time", KD_ALWAYS},     {"NAME", "name", KD_ALWAYS},
    {"ROLE", "role", KD_ALWAYS},     {"ADDRESS", "address", KD_ALWAYS},
    {"METHOD", "method", KD_ALWAYS}, {"OBJECT", "object", KD_ALWAYS},
    {"RESULT", "result", KD_ALWAYS}, {"TEXT", "text", KD_ALWAYS},
};

static const kd_list g_list = {.key = "entries",
                               .name = "name",
                               .columns = g_columns,
                               .n_columns = KD_COUNT(g_columns),
                               .json = to_json,
                               .row = add_row};

static int tell(kd_cli *cli, const kd_args *args, const ProtobufCMessage *reply)
{
    (void)args;
    const Distill__V1__AuditReply *r = (const Distill__V1__AuditReply *)reply;
    return kd_list_print(cli, &g_list, (const void *const *)r->entries, r->n_entries, NULL);
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_diag diag = {0};
    uint64_t limit;
    const char *name = kd_args_value(args, "name");
    if (kd_args_u64(args, "limit", 1, 1000, 100, &limit, &diag) != 0)
        return kd_usage(cli, "audit", NULL, "%s", diag.msg);
    Distill__V1__AuditRequest request = DISTILL__V1__AUDIT_REQUEST__INIT;
    request.limit = (uint32_t)limit;
    request.name = (char *)(name ? name : "");
    return kd_conn_run(cli, args, "Access/Audit", &request, &distill__v1__audit_reply__descriptor,
                       tell);
}

const kd_verb kd_verb_audit = {
    .name = "audit",
    .operands = "",
    .summary = "who did what from where, and what came of it; newest first",
    .help =
        "What changes something is entered, and all that was refused. The coordinator keeps the\n"
        "newest 100,000 entries.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .lists = true,
    .run = run};

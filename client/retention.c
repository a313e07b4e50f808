/* retention: by which rules the coordinator keeps what is over. */
#include "args.h"
#include "connect.h"
#include "format.h"
#include "list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 30d, 12h, 90s; 64G, 3M, 812. What a rule is set by gives the same rule. */
static const char *value_text(const Distill__V1__RetentionRule *r, uint64_t value, char out[KD_FMT])
{
    static const struct {
        char letter;
        uint64_t factor;
    } units[2][4] = {{{'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}},
                     {{'G', 1u << 30}, {'M', 1u << 20}, {'K', 1u << 10}, {'\0', 1}}};
    int i = 0;
    while (value % units[r->size][i].factor)
        i++;
    if (value == 0)
        snprintf(out, KD_FMT, "no limit");
    else
        snprintf(out, KD_FMT, "%llu%.1s", (unsigned long long)(value / units[r->size][i].factor),
                 &units[r->size][i].letter);
    return out;
}

static const Distill__V1__RetentionRule *rule_of(const Distill__V1__RetentionReply *r,
                                                 const char *what, bool size)
{
    char name[80];
    snprintf(name, sizeof name, "keep_%.32s%s", what, size ? "_size" : "");
    for (size_t i = 0; i < r->n_rules; i++)
        if (strcmp(r->rules[i]->name, name) == 0)
            return r->rules[i];
    return NULL;
}

static json_t *rule_json(const Distill__V1__RetentionRule *m)
{
    return json_pack("{s:o, s:s, s:I, s:I, s:b}", "name", kd_json_text(m->name), "unit",
                     m->size ? "bytes" : "seconds", "value", (json_int_t)m->value, "configured",
                     (json_int_t)m->configured, "changed", (int)m->changed);
}

static json_t *limit_json(const Distill__V1__RetentionRule *m)
{
    return m ? json_integer((json_int_t)m->value) : json_null();
}

/* What is kept, and the rules for it; NULL = there is none. */
typedef struct row {
    const Distill__V1__KeptSum *sum;
    const Distill__V1__RetentionRule *age, *size;
} row;

static json_t *to_json(const void *item)
{
    const row *r = item;
    const Distill__V1__KeptSum *m = r->sum;
    return json_pack("{s:o, s:o, s:o, s:I, s:I, s:I, s:I}", "what", kd_json_text(m->what), "keep",
                     limit_json(r->age), "keep_size", limit_json(r->size), "items",
                     (json_int_t)m->items, "bytes", (json_int_t)m->bytes, "dropped",
                     (json_int_t)m->dropped, "dropped_bytes", (json_int_t)m->dropped_bytes);
}

static void add_rule(kd_table *t, const Distill__V1__RetentionRule *m)
{
    char a[KD_FMT];
    kd_table_add(t, m && m->changed ? KD_BOLD : KD_PLAIN, "%s%s",
                 m ? value_text(m, m->value, a) : "", m && m->changed ? " *" : "");
}

static void add_row(kd_table *t, const void *item, int64_t now)
{
    const row *r = item;
    const Distill__V1__KeptSum *m = r->sum;
    char a[KD_FMT];
    (void)now;
    kd_table_add(t, KD_PLAIN, "%s", m->what);
    add_rule(t, r->age);
    add_rule(t, r->size);
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_count(m->items, a));
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_bytes((double)m->bytes, a));
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_count(m->dropped, a));
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_bytes((double)m->dropped_bytes, a));
}

static const kd_column g_columns[] = {
    {"OF", "what", KD_ALWAYS},
    {"FOR", "keep", KD_ALWAYS},
    {"AT MOST", "keep_size", KD_ALWAYS},
    {"ITEMS>", "items", KD_ALWAYS},
    {"SIZE>", "bytes", KD_ALWAYS},
    {"DROPPED>", "dropped", KD_ALWAYS},
    {"SIZE>", "dropped_bytes", KD_ALWAYS},
};

static const kd_list g_list = {.key = "kept",
                               .name = "what",
                               .columns = g_columns,
                               .n_columns = KD_COUNT(g_columns),
                               .json = to_json,
                               .row = add_row};

static int print(const kd_cli *cli, const Distill__V1__RetentionReply *r)
{
    json_t *rules = json_array();
    row *rows = kd_xalloc((r->n_kept + 1) * sizeof *rows);
    const void **items = kd_xalloc((r->n_kept + 1) * sizeof *items);
    bool changed = false;
    for (size_t i = 0; i < r->n_rules; i++) {
        (void)json_array_append_new(rules, rule_json(r->rules[i]));
        changed = changed || r->rules[i]->changed;
    }
    for (size_t i = 0; i < r->n_kept; i++) {
        const char *what = r->kept[i]->what;
        rows[i] = (row){r->kept[i], rule_of(r, what, false), rule_of(r, what, true)};
        items[i] = &rows[i];
    }
    int rc = kd_list_print(cli, &g_list, items, r->n_kept, json_pack("{s:o}", "rules", rules));
    if (changed && kd_list_is_table(cli))
        kd_hint(cli, "* changed at run time; `distill retention reset RULE` takes it back");
    free(items);
    free(rows);
    return rc;
}

/* One call, whose answer is the last one's. */
static int change(kd_conn *c, const char *name, const char *value, ProtobufCMessage **out)
{
    Distill__V1__SetRetentionRequest request = DISTILL__V1__SET_RETENTION_REQUEST__INIT;
    kd_wire_free(*out);
    *out = NULL;
    request.name = (char *)name;
    request.value = (char *)value;
    return kd_conn_ask(c, "Storage/SetRetention", &request, NULL,
                       &distill__v1__retention_reply__descriptor, out);
}

static int run(kd_cli *cli, const kd_args *args)
{
    const char *what = args->n_operands ? args->operands[0] : "";
    bool sets = strcmp(what, "set") == 0, resets = strcmp(what, "reset") == 0;
    if (what[0] && !sets && !resets)
        return kd_usage(cli, "retention", "set RULE=VALUE... or reset RULE...",
                        "retention: no such thing as \"%s\"", what);
    if (what[0] && args->n_operands < 2)
        return kd_usage(cli, "retention", "for example keep_checkpoints=30d",
                        "retention %s needs a rule", what);
    for (int i = 1; sets && i < args->n_operands; i++) {
        const char *eq = strchr(args->operands[i], '=');
        if (!eq || eq == args->operands[i] || !eq[1])
            return kd_usage(cli, "retention", "for example keep_checkpoints=30d",
                            "retention set wants RULE=VALUE, not \"%s\"", args->operands[i]);
    }
    kd_conn conn;
    ProtobufCMessage *reply = NULL;
    int rc = kd_conn_start(cli, NULL, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    for (int i = 1; rc == KD_EXIT_OK && i < args->n_operands; i++) {
        char name[65];
        const char *eq = sets ? strchr(args->operands[i], '=') : NULL;
        snprintf(name, sizeof name, "%.*s", eq ? (int)(eq - args->operands[i]) : 64,
                 args->operands[i]);
        rc = change(&conn, name, eq ? eq + 1 : "", &reply);
    }
    if (!what[0]) {
        Distill__V1__GetRetentionRequest request = DISTILL__V1__GET_RETENTION_REQUEST__INIT;
        rc = kd_conn_ask(&conn, "Storage/GetRetention", &request, NULL,
                         &distill__v1__retention_reply__descriptor, &reply);
    }
    if (rc == KD_EXIT_OK)
        rc = print(cli, (const Distill__V1__RetentionReply *)reply);
    kd_wire_free(reply);
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_retention = {
    .name = "retention",
    .operands = "[set RULE=VALUE...|reset RULE...]",
    .summary = "how long what is over is kept, and how much of it there is",
    .help =
        "Rules are keep_checkpoints, keep_logs, keep_banks and keep_uploads, an age as 12h or "
        "30d,\n"
        "and each with _size, bytes as 64G of all together; 0 is no limit. They are the\n"
        "configuration's until an operator sets them; that outlives the coordinator. What is due\n"
        "goes at once, the oldest first, but never what a job needs that is not over. Networks "
        "and\n"
        "results stay until `distill rm`.",
    .min_operands = 0,
    .max_operands = -1,
    .lists = true,
    .run = run};

/* retention: by which rules the coordinator keeps what is over. */
#include "args.h"
#include "connect.h"
#include "format.h"
#include "json.h"
#include "output.h"

#include <stdio.h>
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

static int print_json(const kd_cli *cli, const Distill__V1__RetentionReply *r)
{
    json_t *rules = json_array(), *kept = json_array();
    for (size_t i = 0; i < r->n_rules; i++) {
        const Distill__V1__RetentionRule *m = r->rules[i];
        (void)json_array_append_new(
            rules, json_pack("{s:o, s:s, s:I, s:I, s:b}", "name", kd_json_text(m->name), "unit",
                             m->size ? "bytes" : "seconds", "value", (json_int_t)m->value,
                             "configured", (json_int_t)m->configured, "changed", (int)m->changed));
    }
    for (size_t i = 0; i < r->n_kept; i++) {
        const Distill__V1__KeptSum *m = r->kept[i];
        (void)json_array_append_new(
            kept, json_pack("{s:o, s:I, s:I, s:I, s:I}", "what", kd_json_text(m->what), "items",
                            (json_int_t)m->items, "bytes", (json_int_t)m->bytes, "dropped",
                            (json_int_t)m->dropped, "dropped_bytes", (json_int_t)m->dropped_bytes));
    }
    return kd_json_print(cli, json_pack("{s:o, s:o}", "rules", rules, "kept", kept), false);
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

static void add_rule(kd_table *t, const Distill__V1__RetentionRule *m)
{
    char a[KD_FMT];
    kd_table_add(t, m && m->changed ? KD_BOLD : KD_PLAIN, "%s%s",
                 m ? value_text(m, m->value, a) : "", m && m->changed ? " *" : "");
}

static void print_table(const kd_cli *cli, const Distill__V1__RetentionReply *r)
{
    kd_table t;
    char a[KD_FMT];
    bool changed = false;
    kd_table_init(&t, "OF|FOR|AT MOST|ITEMS>|SIZE>|DROPPED>|SIZE>");
    for (size_t i = 0; i < r->n_kept; i++) {
        const Distill__V1__KeptSum *m = r->kept[i];
        kd_table_add(&t, KD_PLAIN, "%s", m->what);
        add_rule(&t, rule_of(r, m->what, false));
        add_rule(&t, rule_of(r, m->what, true));
        kd_table_add(&t, KD_PLAIN, "%s", kd_fmt_count(m->items, a));
        kd_table_add(&t, KD_PLAIN, "%s", kd_fmt_bytes((double)m->bytes, a));
        kd_table_add(&t, KD_PLAIN, "%s", kd_fmt_count(m->dropped, a));
        kd_table_add(&t, KD_PLAIN, "%s", kd_fmt_bytes((double)m->dropped_bytes, a));
    }
    kd_table_print(cli, &t, 0);
    for (size_t i = 0; i < r->n_rules; i++)
        changed = changed || r->rules[i]->changed;
    if (changed)
        kd_hint(cli, "* changed at run time; `distill retention reset RULE` takes it back");
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
    if (rc == KD_EXIT_OK && cli->json)
        rc = print_json(cli, (const Distill__V1__RetentionReply *)reply);
    else if (rc == KD_EXIT_OK)
        print_table(cli, (const Distill__V1__RetentionReply *)reply);
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
    .run = run};

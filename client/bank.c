/* bank: the coordinator's logit banks. */
#include "args.h"
#include "connect.h"
#include "format.h"
#include "list.h"

#include <stdio.h>
#include <string.h>

#define VERIFY_MS (6 * 3600 * 1000) /* all of a bank is read */

static json_t *to_json(const void *item)
{
    const Distill__V1__BankInfo *b = item;
    json_t *jobs = json_array();
    for (size_t i = 0; i < b->n_jobs; i++)
        (void)json_array_append_new(jobs, kd_json_text(b->jobs[i]));
    return json_pack("{s:o, s:o, s:o, s:o, s:I, s:I, s:o, s:I, s:o, s:o, s:b, s:b}", "bank",
                     kd_json_text(b->bank), "teacher", kd_json_text(b->teacher), "precision",
                     kd_json_text(b->precision), "data", kd_json_text(b->data), "classes",
                     (json_int_t)b->classes, "records", (json_int_t)b->records, "wanted",
                     b->wanted ? json_integer((json_int_t)b->wanted) : json_null(), "bytes",
                     (json_int_t)b->bytes, "used", kd_json_time(b->used_ms), "jobs", jobs, "in_use",
                     (int)b->in_use, "damaged", (int)b->damaged);
}

static void add_row(kd_table *t, const void *item, int64_t now)
{
    const Distill__V1__BankInfo *b = item;
    char a[KD_FMT];
    double share = b->wanted ? (double)b->records / (double)b->wanted : -1;
    kd_buf jobs;
    kd_buf_init(&jobs, 4096);
    size_t shown = KD_MIN(b->n_jobs, (size_t)3);
    if (b->n_jobs > shown)
        kd_buf_printf(&jobs, "%zu more, ", b->n_jobs - shown);
    for (size_t k = b->n_jobs - shown; k < b->n_jobs; k++)
        kd_buf_printf(&jobs, "%s%s", b->jobs[k], k + 1 < b->n_jobs ? ", " : "");
    kd_table_add(t, b->in_use ? KD_GREEN : KD_PLAIN, "%.12s%s", b->bank,
                 b->in_use ? " in use" : "");
    kd_table_add(t, b->damaged ? KD_RED : KD_PLAIN, "%.12s", b->damaged ? "damaged" : b->teacher);
    kd_table_add(t, KD_PLAIN, "%.24s", b->precision);
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_count(b->records, a));
    kd_table_add(t, KD_PLAIN, "%s", share >= 0 ? kd_fmt_percent(KD_MIN(share, 1.0), a) : "");
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_bytes((double)b->bytes, a));
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_age(b->used_ms, now, a));
    kd_table_add(t, KD_PLAIN, "%s", b->data);
    kd_table_add(t, KD_PLAIN, "%s", jobs.data ? jobs.data : "");
    kd_buf_clear(&jobs);
}

static const kd_column g_columns[] = {
    {"BANK", "bank", KD_ALWAYS},
    {"TEACHER", "teacher", KD_ALWAYS},
    {"PRECISION", "precision", KD_ALWAYS},
    {"RECORDS>", "records", KD_ALWAYS},
    {"THERE>", "wanted", KD_ALWAYS},
    {"SIZE>", "bytes", KD_ALWAYS},
    {"USED>", "used", KD_ALWAYS},
    {"DATA", "data", KD_WIDE},
    {"JOBS", NULL, KD_ALWAYS},
    {NULL, "in_use", KD_ALWAYS},
    {NULL, "damaged", KD_ALWAYS},
};

static const kd_list g_list = {.key = "banks",
                               .name = "bank",
                               .columns = g_columns,
                               .n_columns = KD_COUNT(g_columns),
                               .json = to_json,
                               .row = add_row};

static int list(kd_conn *c)
{
    Distill__V1__ListBanksRequest request = DISTILL__V1__LIST_BANKS_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    int rc = kd_conn_ask(c, "Storage/ListBanks", &request, NULL,
                         &distill__v1__list_banks_reply__descriptor, &reply);
    if (rc != KD_EXIT_OK)
        return rc;
    const Distill__V1__ListBanksReply *r = (const Distill__V1__ListBanksReply *)reply;
    rc = kd_list_print(c->cli, &g_list, (const void *const *)r->banks, r->n_banks, NULL);
    if (r->n_banks == 0 && !c->cli->json)
        kd_say(c->cli, "no logit banks at %s", c->cli->server);
    kd_wire_free(reply);
    return rc;
}

static int verify_one(kd_conn *c, const char *bank, json_t *all)
{
    Distill__V1__BankRequest request = DISTILL__V1__BANK_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    kd_failure why;
    char a[KD_FMT], b[KD_FMT];
    request.bank = (char *)bank;
    if (kd_conn_call(c, "Storage/VerifyBank", &request, &distill__v1__bank_check__descriptor,
                     VERIFY_MS, false, &reply, &why) != 0)
        return kd_conn_report(c, &why, NULL);
    const Distill__V1__BankCheck *r = (const Distill__V1__BankCheck *)reply;
    bool whole = r->whole;
    if (c->cli->json)
        (void)json_array_append_new(
            all, json_pack("{s:o, s:b, s:I, s:I, s:I, s:o}", "bank", kd_json_text(r->bank), "whole",
                           (int)whole, "blocks", (json_int_t)r->blocks, "records",
                           (json_int_t)r->records, "bytes", (json_int_t)r->bytes, "bad_at",
                           whole ? json_null() : json_integer((json_int_t)r->bad_at)));
    else if (whole)
        kd_out_clean(c->cli, "bank %s is whole: %s records, %s", r->bank,
                     kd_fmt_count(r->records, a), kd_fmt_bytes((double)r->bytes, b));
    else
        kd_out_clean(c->cli, "bank %s is damaged at byte %llu; %s records before it are whole",
                     r->bank, (unsigned long long)r->bad_at, kd_fmt_count(r->records, a));
    if (!whole)
        kd_hint(c->cli, "what follows is cut off when the coordinator opens it next, and computed "
                        "again when a job wants it; `distill bank rm` drops all of it");
    kd_wire_free(reply);
    return whole ? KD_EXIT_OK : KD_EXIT_FAILURE;
}

static int remove_one(kd_conn *c, const char *bank, json_t *all)
{
    Distill__V1__BankRequest request = DISTILL__V1__BANK_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    char a[KD_FMT];
    request.bank = (char *)bank;
    int rc = kd_conn_ask(c, "Storage/RemoveBank", &request, NULL,
                         &distill__v1__remove_reply__descriptor, &reply);
    if (rc != KD_EXIT_OK)
        return rc;
    uint64_t freed = ((const Distill__V1__RemoveReply *)reply)->freed_bytes;
    kd_wire_free(reply);
    if (c->cli->json)
        (void)json_array_append_new(
            all, json_pack("{s:s, s:I}", "bank", bank, "freed_bytes", (json_int_t)freed));
    else
        kd_out_clean(c->cli, "bank %s removed, %s freed", bank, kd_fmt_bytes((double)freed, a));
    return KD_EXIT_OK;
}

static int run(kd_cli *cli, const kd_args *args)
{
    const char *what = args->operands[0];
    bool lists = strcmp(what, "ls") == 0, removes = strcmp(what, "rm") == 0,
         verifies = strcmp(what, "verify") == 0;
    if (!lists && !removes && !verifies)
        return kd_usage(cli, "bank", "ls, rm BANK... or verify BANK...",
                        "bank: no such thing as \"%s\"", what);
    if (lists != (args->n_operands == 1))
        return kd_usage(cli, "bank", NULL, "bank %s %s", what,
                        lists ? "takes no operand" : "needs a BANK");
    if (!lists && kd_cli_no_list(cli, removes ? "bank rm" : "bank verify") != KD_EXIT_OK)
        return KD_EXIT_USAGE;
    kd_conn conn;
    int rc = kd_conn_start(cli, NULL, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    json_t *all = json_array();
    if (lists)
        rc = list(&conn);
    for (int i = 1; i < args->n_operands && kd_cli_signal() == 0; i++) {
        int one = removes ? remove_one(&conn, args->operands[i], all)
                          : verify_one(&conn, args->operands[i], all);
        rc = rc != KD_EXIT_OK ? rc : one;
        if (one == KD_EXIT_UNREACHABLE)
            break;
    }
    kd_conn_close(&conn);
    if (cli->json && json_array_size(all) > 0) {
        int printed =
            kd_json_print(cli, json_pack("{s:O}", removes ? "removed" : "verified", all), false);
        rc = rc != KD_EXIT_OK ? rc : printed;
    }
    json_decref(all);
    return rc;
}

const kd_verb kd_verb_bank = {
    .name = "bank",
    .operands = "ls|rm|verify [BANK...]",
    .summary = "the coordinator's logit banks: list, remove, check",
    .help =
        "A bank has the logits of one teacher over one data set under one rule of views. THERE is\n"
        "how much of what the jobs want is there, unless they want new views every epoch. verify\n"
        "reads all of it and compares its checksums (exit code 1: damaged). rm is for operators "
        "and\n"
        "refuses what a job uses that is not over; what is removed is computed again when a job\n"
        "wants it. `distill retention` says how long banks stay. A BANK is named by its first\n"
        "digits, at least 4.",
    .min_operands = 1,
    .max_operands = -1,
    .lists = true,
    .run = run};

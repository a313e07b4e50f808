#include "complete.h"

#include "connect.h"
#include "contexts.h"
#include "format.h"
#include "job/job.h"
#include "output.h"
#include "settings.h"
#include "sweep.h"
#include "views.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATIENCE_MS 2000 /* somebody waits at the keyboard */
#define MAX_DESCRIPTION 60
#define MAX_JOBS 1000

static const char g_formats[] = "table json jsonl", g_list_formats[] = "wide csv name";

void kd_complete_add(kd_candidates *c, const char *value, const char *description)
{
    if (!*value || strncmp(value, c->typed, strlen(c->typed)) != 0)
        return;
    (void)kd_buf_printf(&c->lines, "%s%s", c->lead, value);
    if (description && *description) {
        kd_buf clean;
        kd_buf_init(&clean, 64u << 10);
        kd_text_clean(&clean, description);
        const size_t n = clean.data ? kd_text_cut(clean.data, MAX_DESCRIPTION) : 0;
        (void)kd_buf_printf(&c->lines, "\t%.*s", (int)n, clean.data ? clean.data : "");
        kd_buf_clear(&clean);
    }
    (void)kd_buf_str(&c->lines, "\n");
}

/* What comes from elsewhere is put into a command line: nothing that a shell would take for more
 * than a word. */
static void add_id(kd_candidates *c, const char *id, const char *description)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    if (id[0] != '-' && id[strspn(id, good)] == '\0')
        kd_complete_add(c, id, description);
}

/* Parted by blanks or bars; those in capitals are no words but names of values. */
static void add_words(kd_candidates *c, const char *words)
{
    for (const char *p = words; *p; p += strspn(p, " |")) {
        char word[64];
        const size_t n = strcspn(p, " |");
        snprintf(word, sizeof word, "%.*s", (int)n, p);
        if (word[0] < 'A' || word[0] > 'Z')
            kd_complete_add(c, word, NULL);
        p += n;
    }
}

static void add_verbs(kd_candidates *c)
{
    for (int i = 0; i < kd_n_verbs; i++)
        kd_complete_add(c, kd_verbs[i]->name, kd_verbs[i]->summary);
}

static void add_keys(kd_candidates *c, const char *end)
{
    const char *key, *meaning;
    for (int i = 0; (key = kd_job_key(i, &meaning)) != NULL; i++) {
        char text[128];
        snprintf(text, sizeof text, "%s%s", key, end);
        kd_complete_add(c, text, meaning);
    }
}

static void add_contexts(kd_candidates *c)
{
    kd_context *all = NULL;
    const size_t n = kd_context_list(&all);
    for (size_t i = 0; i < n; i++)
        add_id(c, all[i].name, all[i].server);
    free(all);
}

/* ---- what the coordinator has */

static void add_jobs(kd_candidates *c, const Distill__V1__ListReply *r, bool sweeps)
{
    const size_t before = c->lines.len;
    char about[256];
    for (size_t i = 0; i < r->n_jobs; i++) {
        const Distill__V1__JobSummary *s = r->jobs[i];
        snprintf(about, sizeof about, "%.64s, %s", s->label[0] ? s->label : s->name,
                 kd_summary_word(s));
        if (!sweeps || kd_is_sweep(s))
            add_id(c, s->job, about);
    }
    /* By name only who begins with one. */
    for (size_t i = 0; c->lines.len == before && i < r->n_jobs; i++)
        if (!sweeps || kd_is_sweep(r->jobs[i]))
            add_id(c, r->jobs[i]->name, r->jobs[i]->job);
}

static void add_workers(kd_candidates *c, const Distill__V1__WorkersReply *r)
{
    for (size_t i = 0; i < r->n_workers; i++)
        add_id(c, r->workers[i]->name, r->workers[i]->state);
}

static void add_banks(kd_candidates *c, const Distill__V1__ListBanksReply *r)
{
    char size[KD_FMT], about[64];
    for (size_t i = 0; i < r->n_banks; i++) {
        snprintf(about, sizeof about, "%s%s", kd_fmt_bytes((double)r->banks[i]->bytes, size),
                 r->banks[i]->in_use ? ", in use" : "");
        add_id(c, r->banks[i]->bank, about);
    }
}

static void add_tokens(kd_candidates *c, const Distill__V1__ListTokensReply *r)
{
    char about[128];
    for (size_t i = 0; i < r->n_tokens; i++) {
        snprintf(about, sizeof about, "%.16s %.64s", r->tokens[i]->role, r->tokens[i]->name);
        if (strcmp(r->tokens[i]->state, "open") == 0)
            add_id(c, r->tokens[i]->id, about);
    }
}

static void add_people(kd_candidates *c, const Distill__V1__ListCertificatesReply *r)
{
    for (size_t i = 0; i < r->n_certificates; i++) {
        const Distill__V1__CertificateInfo *m = r->certificates[i];
        bool named = false;
        for (size_t k = 0; k < i && !named; k++)
            named = strcmp(r->certificates[k]->name, m->name) == 0;
        if (!named)
            add_id(c, m->name, m->role);
        /* Serial numbers are for who has begun one. */
        if (c->typed[0] && m->revoked_ms == 0)
            add_id(c, m->serial, m->name);
    }
}

static void add_rules(kd_candidates *c, const Distill__V1__RetentionReply *r, const char *end)
{
    for (size_t i = 0; i < r->n_rules; i++) {
        char text[80];
        snprintf(text, sizeof text, "%.64s", r->rules[i]->name);
        if (text[strspn(text, "abcdefghijklmnopqrstuvwxyz_")] != '\0')
            continue;
        strcat(text, end);
        kd_complete_add(c, text, r->rules[i]->changed ? "changed" : NULL);
    }
}

static void add_reply(kd_candidates *c, enum kd_complete what, const ProtobufCMessage *reply)
{
    const void *m = reply;
    switch (what) {
    case KD_COMPLETE_JOBS:
    case KD_COMPLETE_SWEEPS:
        add_jobs(c, m, what == KD_COMPLETE_SWEEPS);
        break;
    case KD_COMPLETE_WORKERS:
        add_workers(c, m);
        break;
    case KD_COMPLETE_BANKS:
        add_banks(c, m);
        break;
    case KD_COMPLETE_TOKENS:
        add_tokens(c, m);
        break;
    case KD_COMPLETE_PEOPLE:
        add_people(c, m);
        break;
    case KD_COMPLETE_RULES:
        add_rules(c, m, "");
        break;
    default:
        add_rules(c, m, "=");
        break;
    }
}

/* Which call answers it; NULL: none does. */
static const char *method_of(enum kd_complete what, const ProtobufCMessageDescriptor **out_request,
                             const ProtobufCMessageDescriptor **out_reply)
{
    static const struct {
        enum kd_complete what;
        const char *method;
        const ProtobufCMessageDescriptor *request, *reply;
    } rows[] = {
        {KD_COMPLETE_JOBS, "List", &distill__v1__list_request__descriptor,
         &distill__v1__list_reply__descriptor},
        {KD_COMPLETE_SWEEPS, "List", &distill__v1__list_request__descriptor,
         &distill__v1__list_reply__descriptor},
        {KD_COMPLETE_WORKERS, "Workers", &distill__v1__workers_request__descriptor,
         &distill__v1__workers_reply__descriptor},
        {KD_COMPLETE_BANKS, "Storage/ListBanks", &distill__v1__list_banks_request__descriptor,
         &distill__v1__list_banks_reply__descriptor},
        {KD_COMPLETE_TOKENS, "Access/ListTokens", &distill__v1__list_tokens_request__descriptor,
         &distill__v1__list_tokens_reply__descriptor},
        {KD_COMPLETE_PEOPLE, "Access/ListCertificates",
         &distill__v1__list_certificates_request__descriptor,
         &distill__v1__list_certificates_reply__descriptor},
        {KD_COMPLETE_RULES, "Storage/GetRetention", &distill__v1__get_retention_request__descriptor,
         &distill__v1__retention_reply__descriptor},
        {KD_COMPLETE_LIMITS, "Storage/GetRetention",
         &distill__v1__get_retention_request__descriptor,
         &distill__v1__retention_reply__descriptor},
    };
    for (size_t i = 0; i < KD_COUNT(rows); i++) {
        if (rows[i].what != what)
            continue;
        *out_request = rows[i].request;
        *out_reply = rows[i].reply;
        return rows[i].method;
    }
    return NULL;
}

/* Of the coordinator that the line's flags name. Whatever goes wrong, there are no candidates. */
static void ask(kd_candidates *c, enum kd_complete what, const kd_args *connection)
{
    const ProtobufCMessageDescriptor *request, *descriptor;
    const char *method = method_of(what, &request, &descriptor);
    kd_cli cli = {0};
    kd_conn conn;
    if (!method || kd_settings_read(&cli, connection) != KD_EXIT_OK ||
        kd_conn_open(&cli, &conn) != KD_EXIT_OK)
        return;
    ProtobufCMessage *message = kd_xalloc(request->sizeof_message), *reply = NULL;
    kd_failure why;
    protobuf_c_message_init(request, message);
    if (strcmp(method, "List") == 0)
        ((Distill__V1__ListRequest *)message)->limit = MAX_JOBS;
    if (kd_conn_call(&conn, method, message, descriptor, PATIENCE_MS, false, &reply, &why) == 0)
        add_reply(c, what, reply);
    kd_wire_free(reply);
    free(message);
    kd_conn_close(&conn);
}

void kd_complete_values(kd_candidates *c, const kd_wanted *wanted, const kd_args *connection)
{
    switch (wanted->what) {
    case KD_COMPLETE_NOTHING:
        break;
    case KD_COMPLETE_WORDS:
        add_words(c, wanted->words);
        break;
    case KD_COMPLETE_FILES:
        (void)kd_buf_str(&c->lines, ":files\n");
        break;
    case KD_COMPLETE_FOLDERS:
        (void)kd_buf_str(&c->lines, ":folders\n");
        break;
    case KD_COMPLETE_TOPICS:
        add_words(c, "all job exit-codes");
        add_verbs(c);
        break;
    case KD_COMPLETE_VERBS:
        add_verbs(c);
        break;
    case KD_COMPLETE_FORMATS:
        add_words(c, g_formats);
        if (!wanted->verb || wanted->verb->lists)
            add_words(c, g_list_formats);
        break;
    case KD_COMPLETE_KEYS:
        add_keys(c, "");
        break;
    case KD_COMPLETE_SETTINGS:
        add_keys(c, "=");
        break;
    case KD_COMPLETE_CONTEXTS:
        add_contexts(c);
        break;
    default:
        ask(c, wanted->what, connection);
        break;
    }
}

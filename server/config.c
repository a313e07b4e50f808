#include "config.h"

#include "kd/file.h"
#include "kd/log_sink.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define MAX_FILE 65536
#define TEN_YEARS (3660ll * 86400) /* in seconds */
#define EMPTY "\"\""               /* default of a text that may be empty */
#define AT(field) offsetof(kd_daemon_config, field)

const kd_setting kd_settings[] = {
    {"state_dir", "DISTILLD_STATE_DIR", KD_SET_TEXT, AT(state_dir), 0, 0, "DIR",
     "jobs, checkpoints, certificates and logs live here", "./distilld-state"},
    {"listen", "DISTILLD_LISTEN", KD_SET_TEXT, AT(listen), 0, 0, "HOST:PORT",
     "one gRPC port for clients and workers; port 0 takes any free one", "127.0.0.1:7070"},
    {"http", "DISTILLD_HTTP", KD_SET_TEXT, AT(http), 0, 0, "ADDRESS:PORT",
     "dashboard, /metrics, /healthz, /readyz and a JSON API that only reads: HTTPS where "
     "`distilld\n"
     "init` has made certificates; else the address has to be a loopback's; empty = none",
     EMPTY},
    {"insecure", "DISTILLD_INSECURE", KD_SET_BOOL, AT(insecure), 0, 0, NULL,
     "plain text on both ports: whoever reaches listen may do everything, whoever reaches http "
     "may\n"
     "read everything; each stays on this machine where its address is a loopback's. Without it, a "
     "port that other\n"
     "machines can reach wants the certificates that `distilld init` makes",
     "false"},
    {"outside_teachers", "DISTILLD_OUTSIDE_TEACHERS", KD_SET_TEXT, AT(outside_teachers), 0, 0,
     "LIST",
     "HOST:PORT,HOST:PORT,... that jobs may name as teachers (teacher.kserve), since workers then\n"
     "send pictures there; empty = none",
     EMPTY},
    {"heartbeat_ms", NULL, KD_SET_NUMBER, AT(heartbeat_ms), 10, 60000, "N",
     "how often workers report", "1000"},
    {"lease_ms", NULL, KD_SET_NUMBER, AT(lease_ms), 100, 600000, "N",
     "silence after which a worker is lost", "5000"},
    {"min_free", NULL, KD_SET_SIZE, AT(min_free), 0, 0, "SIZE",
     "bytes kept free on the disk of state_dir for checkpoints and the database, as\n"
     "64M or 2G: jobs wait and nothing is taken in below it",
     "64M"},
    {"log_level", NULL, KD_SET_LEVEL, 0, 0, 0, "LEVEL", "err, warn, info or debug", "info"},
    {"log_format", "KD_LOG_FORMAT", KD_SET_FORMAT, 0, 0, 0, "FORMAT",
     "of the log: text, or json, one object a line", "text"},
    {"certificate_life", NULL, KD_SET_DURATION, AT(certificate_life_s), 1, TEN_YEARS, "DURATION",
     "of certificates that are issued, as 12h or 30d; workers renew theirs in time", "30d"},
    {"quota_jobs", NULL, KD_SET_NUMBER, AT(quotas.jobs), 0, 100000, "N",
     "jobs of one name that are not over; this and the quotas below: 0 = no limit", "200"},
    {"quota_streams", NULL, KD_SET_NUMBER, AT(quotas.streams), 0, 100000, "N",
     "streams of one name (distill watch, workers) at once", "256"},
    {"quota_calls", NULL, KD_SET_NUMBER, AT(quotas.calls), 0, 100000, "N",
     "calls of one name running at once, streams counted", "4096"},
    {"quota_requests", NULL, KD_SET_NUMBER, AT(quotas.requests_a_second), 0, 100000, "N",
     "requests a second of one name, training's own not counted", "200"},
    {"quota_upload", NULL, KD_SET_SIZE, AT(quotas.upload_a_day), 0, 0, "SIZE",
     "bytes that one name may upload in a day", "256G"},
    {"keep_checkpoints", NULL, KD_SET_DURATION, AT(keep.age_s[KD_KEEP_CHECKPOINTS]), 0, TEN_YEARS,
     "DURATION",
     "how long the checkpoints of a job that is over stay, by which it can be continued; this\n"
     "and what follows: 0 = no limit, the oldest go first, `distill retention` changes it",
     "90d"},
    {"keep_checkpoints_size", NULL, KD_SET_SIZE, AT(keep.bytes[KD_KEEP_CHECKPOINTS]), 0, 0, "SIZE",
     "bytes of such checkpoints together", "0"},
    {"keep_logs", NULL, KD_SET_DURATION, AT(keep.age_s[KD_KEEP_LOGS]), 0, TEN_YEARS, "DURATION",
     "how long the events and logs of a job that is over stay; its beginning and end always do",
     "365d"},
    {"keep_logs_size", NULL, KD_SET_SIZE, AT(keep.bytes[KD_KEEP_LOGS]), 0, 0, "SIZE",
     "bytes of such events and logs together", "4G"},
    {"keep_banks", NULL, KD_SET_DURATION, AT(keep.age_s[KD_KEEP_BANKS]), 0, TEN_YEARS, "DURATION",
     "how long a logit bank stays that no job uses; teachers can fill it again", "90d"},
    {"keep_banks_size", NULL, KD_SET_SIZE, AT(keep.bytes[KD_KEEP_BANKS]), 0, 0, "SIZE",
     "bytes of all banks together; those that a job uses are never dropped", "0"},
    {"keep_uploads", NULL, KD_SET_DURATION, AT(keep.age_s[KD_KEEP_UPLOADS]), 0, TEN_YEARS,
     "DURATION", "how long uploaded files stay that no job came to name", "7d"},
    {"keep_uploads_size", NULL, KD_SET_SIZE, AT(keep.bytes[KD_KEEP_UPLOADS]), 0, 0, "SIZE",
     "bytes of such files together", "0"},
    {"hook_command", NULL, KD_SET_LIST, AT(hooks.command), 0, 0, "WORDS",
     "a program, by its whole path, and its arguments: run without a shell when a job starts,\n"
     "ends, fails or stalls and at each epoch, the event as JSON on its standard input",
     "[]"},
    {"hook_url", NULL, KD_SET_TEXT, AT(hooks.url), 0, 0, "URL",
     "the same is posted to this address, http:// or https://; empty = to none", EMPTY},
    {"hook_events", NULL, KD_SET_LIST, AT(hooks.kinds), 0, 0, "WORDS",
     "only these of start, end, fail, stall and epoch; empty = all", "[]"},
    {"hook_timeout", NULL, KD_SET_DURATION, AT(hooks.timeout_s), 1, 3600, "DURATION",
     "after which a hook has failed; it is tried again", "30s"},
};
const size_t kd_n_settings = KD_COUNT(kd_settings);

const kd_setting *kd_setting_of(const char *name)
{
    for (size_t i = 0; i < kd_n_settings; i++) {
        const char *p = kd_settings[i].key, *q = name;
        while (*p && (*p == *q || (*p == '_' && *q == '-')))
            p++, q++;
        if (*p == '\0' && *q == '\0')
            return &kd_settings[i];
    }
    return NULL;
}

/* ---- values */

static bool number(const char *text, int64_t low, int64_t high, int64_t *out)
{
    char *end;
    long long v = strtoll(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || v < low || v > high)
        return false;
    *out = v;
    return true;
}

/* A number with a unit of `units` behind it, each worth factors[i]. */
static bool with_unit(const char *text, const char *units, const int64_t *factors, int64_t high,
                      int64_t *out)
{
    char *end;
    long long v = strtoll(text, &end, 10);
    const char *at = *end ? strchr(units, *end) : NULL;
    int64_t factor = at ? factors[at - units] : 1;
    if (at)
        end++;
    if (*text < '0' || *text > '9' || *end || v > high / factor)
        return false;
    *out = v * factor;
    return true;
}

static int put_bool(const char *text, bool *out)
{
    bool yes = strcmp(text, "true") == 0 || strcmp(text, "yes") == 0;
    if (!yes && strcmp(text, "false") != 0 && strcmp(text, "no") != 0)
        return -KD_EINVAL;
    *out = yes;
    return 0;
}

static int put_words(const char *text, kd_words *out, kd_diag *diag)
{
    char word[KD_WORDS_TEXT];
    int rc = 0;
    *out = (kd_words){0};
    while (rc == 0 && *(text += strspn(text, " ")) != '\0') {
        size_t n = strcspn(text, " ");
        if (n >= sizeof word)
            return kd_fail(diag, -KD_ELIMIT, "a word is too long");
        memcpy(word, text, n);
        word[n] = '\0';
        text += n;
        rc = kd_words_add(out, word, diag);
    }
    return rc;
}

int kd_setting_put(const kd_setting *s, const char *text, kd_daemon_config *cfg, kd_diag *diag)
{
    static const int64_t bytes[] = {1ll << 10, 1ll << 20, 1ll << 30},
                         seconds[] = {1, 60, 3600, 86400};
    void *field = (char *)cfg + s->at;
    int64_t v;
    int level;
    switch (s->type) {
    case KD_SET_TEXT:
        *(const char **)field = text;
        return text[0] || strcmp(s->example, EMPTY) == 0
                   ? 0
                   : kd_fail(diag, -KD_EINVAL, "wants a %s", s->meta);
    case KD_SET_NUMBER:
        if (!number(text, s->low, s->high, &v))
            return kd_fail(diag, -KD_EINVAL,
                           "wants a whole number from %lld to %lld, not \"%.64s\"",
                           (long long)s->low, (long long)s->high, text);
        *(uint32_t *)field = (uint32_t)v;
        return 0;
    case KD_SET_SIZE:
        if (!with_unit(text, "KMG", bytes, 1ll << 50, &v))
            return kd_fail(diag, -KD_EINVAL, "wants a size as 64M or 2G, not \"%.64s\"", text);
        *(uint64_t *)field = (uint64_t)v;
        return 0;
    case KD_SET_DURATION:
        if (!with_unit(text, "smhd", seconds, s->high, &v) || v < s->low)
            return kd_fail(diag, -KD_EINVAL, "wants a duration as 90s, 12h or 30d, not \"%.64s\"",
                           text);
        *(int64_t *)field = v;
        return 0;
    case KD_SET_BOOL:
        return put_bool(text, field) == 0
                   ? 0
                   : kd_fail(diag, -KD_EINVAL, "wants true or false, not \"%.64s\"", text);
    case KD_SET_LIST:
        return put_words(text, field, diag);
    case KD_SET_LEVEL:
        level = kd_log_level_of(text);
        if (level < 0)
            return kd_fail(diag, -KD_EINVAL, "wants err, warn, info or debug");
        kd_log_set_level((enum kd_log_level)level);
        return 0;
    case KD_SET_FORMAT:
        return kd_log_set_format(text)
                   ? 0
                   : kd_fail(diag, -KD_EINVAL, "wants text or json, not \"%.64s\"", text);
    }
    return -KD_EINTERNAL;
}

/* ---- the file */

struct reader {
    const char *path;
    kd_daemon_config *cfg;
    bool seen[KD_COUNT(kd_settings)];
    size_t held;
    kd_diag *diag;
};

static int put_sequence(struct reader *r, yaml_document_t *doc, const yaml_node_t *value,
                        kd_words *out)
{
    int rc = 0;
    *out = (kd_words){0};
    for (const yaml_node_item_t *i = value->data.sequence.items.start;
         rc == 0 && i < value->data.sequence.items.top; i++) {
        const yaml_node_t *word = yaml_document_get_node(doc, *i);
        rc = word->type == YAML_SCALAR_NODE
                 ? kd_words_add(out, (const char *)word->data.scalar.value, r->diag)
                 : kd_fail(r->diag, -KD_EINVAL, "a list of words is expected");
    }
    return rc;
}

static int put_pair(struct reader *r, yaml_document_t *doc, const yaml_node_t *key,
                    const yaml_node_t *value)
{
    size_t line = key->start_mark.line + 1;
    bool list = value->type == YAML_SEQUENCE_NODE;
    if (key->type != YAML_SCALAR_NODE || (value->type != YAML_SCALAR_NODE && !list))
        return kd_fail(r->diag, -KD_EINVAL, "%.300s:%zu: one `key: value` a line is expected",
                       r->path, line);
    const char *name = (const char *)key->data.scalar.value;
    const kd_setting *s = strchr(name, '-') ? NULL : kd_setting_of(name);
    if (!s)
        return kd_fail(r->diag, -KD_EINVAL,
                       "%.300s:%zu: unknown key \"%.64s\"; `distilld init` writes a file with all "
                       "of them",
                       r->path, line, name);
    if (r->seen[s - kd_settings])
        return kd_fail(r->diag, -KD_EINVAL, "%.300s:%zu: %s is there twice", r->path, line, s->key);
    r->seen[s - kd_settings] = true;
    if (list) {
        int rc = s->type == KD_SET_LIST
                     ? put_sequence(r, doc, value, (kd_words *)((char *)r->cfg + s->at))
                     : kd_fail(r->diag, -KD_EINVAL, "one value is expected, no list");
        return rc == 0 ? 0 : kd_fail_at(r->diag, rc, "%.300s:%zu: %s", r->path, line, s->key);
    }
    const char *text = (const char *)value->data.scalar.value;
    if (s->type == KD_SET_TEXT) {
        KD_BUG_ON(r->held == KD_COUNT(r->cfg->held));
        char *held = r->cfg->held[r->held++];
        if (strlen(text) >= sizeof r->cfg->held[0])
            return kd_fail(r->diag, -KD_EINVAL, "%.300s:%zu: %s is too long", r->path, line,
                           s->key);
        strcpy(held, text);
        text = held;
    }
    int rc = kd_setting_put(s, text, r->cfg, r->diag);
    return rc == 0 ? 0 : kd_fail_at(r->diag, rc, "%.300s:%zu: %s", r->path, line, s->key);
}

static int put_document(struct reader *r, yaml_document_t *doc)
{
    yaml_node_t *root = yaml_document_get_root_node(doc);
    if (!root)
        return 0;
    if (root->type != YAML_MAPPING_NODE)
        return kd_fail(r->diag, -KD_EINVAL, "%.300s: lines of `key: value` are expected", r->path);
    int rc = 0;
    for (yaml_node_pair_t *p = root->data.mapping.pairs.start;
         p < root->data.mapping.pairs.top && rc == 0; p++)
        rc = put_pair(r, doc, yaml_document_get_node(doc, p->key),
                      yaml_document_get_node(doc, p->value));
    return rc;
}

int kd_config_read(const char *path, kd_daemon_config *cfg, kd_diag *diag)
{
    struct reader r = {.path = path, .cfg = cfg, .diag = diag};
    char *text = NULL;
    size_t len;
    int rc = kd_file_read(path, MAX_FILE, &text, &len, diag);
    if (rc != 0)
        return rc;
    yaml_parser_t parser;
    yaml_document_t doc;
    yaml_parser_initialize(&parser);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    if (yaml_parser_load(&parser, &doc) == 1) {
        rc = put_document(&r, &doc);
        yaml_document_delete(&doc);
    } else {
        rc = kd_fail(diag, -KD_EINVAL, "%.300s:%zu: %s", path, parser.problem_mark.line + 1,
                     parser.problem ? parser.problem : "this is no YAML");
    }
    yaml_parser_delete(&parser);
    free(text);
    return rc;
}

/* A text that YAML would read as something else is quoted. */
static void put_text(kd_buf *out, const char *key, const char *text)
{
    kd_buf_printf(out, "%s: \"", key);
    for (; *text; text++)
        kd_buf_printf(out, "%s%c", *text == '"' || *text == '\\' ? "\\" : "", *text);
    kd_buf_str(out, "\"\n");
}

void kd_config_write(const char *state_dir, const char *listen, kd_buf *out)
{
    kd_buf_str(out, "# Settings of distilld, read with `distilld --config FILE`. Flags and the "
                    "environment go\n# before it. A key that is commented out has the value "
                    "shown.\n");
    for (size_t i = 0; i < kd_n_settings; i++) {
        const kd_setting *s = &kd_settings[i];
        kd_buf_str(out, "\n# ");
        for (const char *p = s->meaning; *p; p++)
            kd_buf_printf(out, "%c%s", *p, *p == '\n' ? "# " : "");
        kd_buf_str(out, "\n");
        if (s->at == AT(state_dir) && s->type == KD_SET_TEXT)
            put_text(out, s->key, state_dir);
        else if (s->at == AT(listen) && s->type == KD_SET_TEXT)
            put_text(out, s->key, listen);
        else
            kd_buf_printf(out, "# %s: %s\n", s->key, s->example);
    }
}

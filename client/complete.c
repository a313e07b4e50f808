#include "complete.h"

#include "args.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define MAX_FLAGS 16 /* global ones of a line */

/* The line as far as it is whole. */
typedef struct line {
    const kd_verb *verb;   /* NULL = none yet */
    bool strange;          /* there is no such verb */
    bool only_operands;    /* `--` was there */
    const kd_opt *pending; /* it wants the next word */
    const char *first;     /* operand */
    int n_operands;
    kd_arg global[MAX_FLAGS];
    int n_global;
} line;

static const kd_opt *long_flag(const line *l, const char *name, size_t len)
{
    const kd_opt *own = l->verb ? kd_opt_long(l->verb->opts, l->verb->n_opts, name, len) : NULL;
    return own ? own : kd_opt_long(kd_global_opts, kd_n_global_opts, name, len);
}

static const kd_opt *short_flag(const line *l, char letter)
{
    const kd_opt *own = l->verb ? kd_opt_letter(l->verb->opts, l->verb->n_opts, letter) : NULL;
    return own ? own : kd_opt_letter(kd_global_opts, kd_n_global_opts, letter);
}

static bool is_global(const kd_opt *opt)
{
    return opt >= kd_global_opts && opt < kd_global_opts + kd_n_global_opts;
}

static void take_flag(line *l, const kd_opt *opt, const char *value)
{
    if (is_global(opt) && l->n_global < MAX_FLAGS)
        l->global[l->n_global++] = (kd_arg){.opt = opt, .value = value};
}

static void take_letters(line *l, const char *letters)
{
    for (const char *p = letters; *p; p++) {
        const kd_opt *opt = short_flag(l, *p);
        if (!opt)
            return;
        if (opt->meta && !p[1])
            l->pending = opt;
        else
            take_flag(l, opt, opt->meta ? p + 1 + (p[1] == '=') : NULL);
        if (opt->meta)
            return;
    }
}

static void take_long(line *l, const char *word)
{
    const size_t len = strcspn(word, "=");
    const kd_opt *opt = long_flag(l, word, len);
    if (opt && opt->meta && !word[len])
        l->pending = opt;
    else if (opt)
        take_flag(l, opt, word[len] ? word + len + 1 : NULL);
}

static void take_operand(line *l, const char *word)
{
    if (!l->verb) {
        l->verb = kd_verb_find(word);
        l->strange = !l->verb;
        return;
    }
    if (l->n_operands++ == 0)
        l->first = word;
}

static void take(line *l, const char *word)
{
    if (l->pending) {
        take_flag(l, l->pending, word);
        l->pending = NULL;
    } else if (l->only_operands || word[0] != '-' || !word[1]) {
        take_operand(l, word);
    } else if (strcmp(word, "--") == 0) {
        l->only_operands = true;
    } else if (word[1] == '-') {
        take_long(l, word + 2);
    } else {
        take_letters(l, word + 1);
    }
}

/* ---- what a value is, by what it is called */

struct meaning {
    const kd_verb *verb; /* NULL = any */
    const char *name;    /* of the flag, or the first operand; NULL = any */
    const char *meta;    /* NULL = any */
    enum kd_complete what;
    const char *words;
};

/* The first row that fits holds. */
static const struct meaning g_flags[] = {
    {NULL, "context", NULL, KD_COMPLETE_CONTEXTS, NULL},
    {NULL, "output", "FORMAT", KD_COMPLETE_FORMATS, NULL},
    {&kd_verb_logs, "worker", NULL, KD_COMPLETE_WORKERS, NULL},
    {&kd_verb_audit, "name", NULL, KD_COMPLETE_PEOPLE, NULL},
    {NULL, "stage", NULL, KD_COMPLETE_WORDS, "teacher distill scratch tune compress evaluate"},
    {NULL, NULL, "STATE", KD_COMPLETE_WORDS, "queued paused running succeeded failed cancelled"},
    {NULL, NULL, "ROLE", KD_COMPLETE_WORDS, "worker submitter viewer operator admin"},
    {NULL, NULL, "LEVEL", KD_COMPLETE_WORDS, "warn info"},
    {NULL, NULL, "SWEEP", KD_COMPLETE_SWEEPS, NULL},
    {NULL, NULL, "KEY=VALUE", KD_COMPLETE_SETTINGS, NULL},
    {NULL, NULL, "FILE", KD_COMPLETE_FILES, NULL},
    {NULL, NULL, "NET", KD_COMPLETE_FILES, NULL},
    {NULL, NULL, "DIR", KD_COMPLETE_FOLDERS, NULL},
    {NULL, NULL, "FOLDER", KD_COMPLETE_FOLDERS, NULL},
};

static const struct meaning g_operands[] = {
    {&kd_verb_retention, "set", NULL, KD_COMPLETE_LIMITS, NULL},
    {&kd_verb_retention, "reset", NULL, KD_COMPLETE_RULES, NULL},
    {&kd_verb_retention, "", NULL, KD_COMPLETE_WORDS, "set reset"},
    {&kd_verb_context, "use", NULL, KD_COMPLETE_CONTEXTS, NULL},
    {&kd_verb_context, "rm", NULL, KD_COMPLETE_CONTEXTS, NULL},
    {&kd_verb_token, "revoke", NULL, KD_COMPLETE_TOKENS, NULL},
    {&kd_verb_bank, "ls", NULL, KD_COMPLETE_NOTHING, NULL},
    {NULL, NULL, "BANK", KD_COMPLETE_BANKS, NULL},
    {NULL, NULL, "JOB", KD_COMPLETE_JOBS, NULL},
    {NULL, NULL, "WORKER", KD_COMPLETE_WORKERS, NULL},
    {NULL, NULL, "KEY", KD_COMPLETE_KEYS, NULL},
    {NULL, NULL, "VERB", KD_COMPLETE_TOPICS, NULL},
    {&kd_verb_revoke, NULL, "NAME", KD_COMPLETE_PEOPLE, NULL},
    {NULL, NULL, "FILE", KD_COMPLETE_FILES, NULL},
    {NULL, NULL, "MODEL", KD_COMPLETE_FILES, NULL},
    {NULL, NULL, "PICTURE", KD_COMPLETE_FILES, NULL},
    {NULL, NULL, "DATA", KD_COMPLETE_FOLDERS, NULL},
    {NULL, NULL, "DIR", KD_COMPLETE_FOLDERS, NULL},
};

/* meta [len]: what the value is called. */
static kd_wanted meaning_of(const struct meaning *rows, size_t n, const kd_verb *verb,
                            const char *name, const char *meta, size_t len)
{
    for (size_t i = 0; i < n; i++) {
        const struct meaning *m = &rows[i];
        const bool fits = (!m->verb || m->verb == verb) &&
                          (!m->name || strcmp(m->name, name) == 0) &&
                          (!m->meta || (strlen(m->meta) == len && !strncmp(m->meta, meta, len)));
        if (fits)
            return (kd_wanted){.what = m->what, .words = m->words, .verb = verb};
    }
    return (kd_wanted){.what = KD_COMPLETE_NOTHING};
}

static kd_wanted wanted_flag(const line *l, const kd_opt *opt)
{
    if (strchr(opt->meta, '|'))
        return (kd_wanted){.what = KD_COMPLETE_WORDS, .words = opt->meta};
    return meaning_of(g_flags, KD_COUNT(g_flags), l->verb, opt->name, opt->meta, strlen(opt->meta));
}

/* The usage line has a word for each operand; a last one with `...` stands for all that follow. */
static kd_wanted wanted_operand(const line *l)
{
    static char token[64]; /* the answer may point into it */
    const kd_verb *v = l->verb;
    if (v->max_operands >= 0 && l->n_operands >= v->max_operands)
        return (kd_wanted){.what = KD_COMPLETE_NOTHING};
    const char *p = v->operands + strspn(v->operands, "[");
    size_t n = strcspn(p, " ]");
    for (int i = 0; i < l->n_operands; i++) {
        const char *next = p + n + strspn(p + n, " []");
        if (!*next && strncmp(p + n - KD_MIN(n, 3u), "...", 3) != 0)
            return (kd_wanted){.what = KD_COMPLETE_NOTHING};
        p = *next ? next : p;
        n = strcspn(p, " ]");
    }
    snprintf(token, sizeof token, "%.*s", (int)n, p);
    if (islower((unsigned char)token[0]) && v != &kd_verb_retention)
        return (kd_wanted){.what = KD_COMPLETE_WORDS, .words = token};
    return meaning_of(g_operands, KD_COUNT(g_operands), v, l->first ? l->first : "", token,
                      strcspn(token, ".|="));
}

/* ---- the word that is typed */

static void add_flags(kd_candidates *c, const kd_opt *opts, int n)
{
    for (int i = 0; i < n; i++) {
        char name[64];
        snprintf(name, sizeof name, "--%s", opts[i].name);
        kd_complete_add(c, name, opts[i].help);
        snprintf(name, sizeof name, "-%c", opts[i].letter);
        if (opts[i].letter)
            kd_complete_add(c, name, opts[i].help);
    }
}

/* The flag whose value begins within the word, as in --state=ru and -ojs; *out_at: where. */
static const kd_opt *flag_within(const line *l, const char *word, size_t *out_at)
{
    const size_t len = strcspn(word, "=");
    const kd_opt *opt = NULL;
    if (word[1] == '-' && word[len]) {
        opt = long_flag(l, word + 2, len - 2);
        *out_at = len + 1;
    } else if (word[1] != '-' && word[1] && word[2]) {
        opt = short_flag(l, word[1]);
        *out_at = 2;
    }
    return opt && opt->meta && *out_at < sizeof((kd_candidates *)0)->lead ? opt : NULL;
}

static void complete_flag(kd_candidates *c, const line *l, const kd_args *connection)
{
    size_t at = 0;
    const kd_opt *opt = flag_within(l, c->typed, &at);
    if (opt) {
        const kd_wanted wanted = wanted_flag(l, opt);
        snprintf(c->lead, sizeof c->lead, "%.*s", (int)at, c->typed);
        c->typed += at;
        kd_complete_values(c, &wanted, connection);
        return;
    }
    if (l->verb)
        add_flags(c, l->verb->opts, l->verb->n_opts);
    /* What the verb's own flags hide was found by them. */
    for (int i = 0; i < kd_n_global_opts; i++)
        if (!l->verb || !kd_opt_long(l->verb->opts, l->verb->n_opts, kd_global_opts[i].name,
                                     strlen(kd_global_opts[i].name)))
            add_flags(c, &kd_global_opts[i], 1);
}

void kd_complete_line(const char *const *words, int n, kd_buf *out)
{
    line l = {0};
    kd_candidates c = {.typed = n > 0 ? words[n - 1] : ""};
    for (int i = 0; i < n - 1; i++)
        take(&l, words[i]);
    const kd_args connection = {.flags = l.global, .n_flags = l.n_global};
    kd_buf_init(&c.lines, out->max);
    if (!l.pending && c.typed[0] == '-' && !l.only_operands) {
        complete_flag(&c, &l, &connection);
    } else if (!l.strange) {
        const kd_wanted wanted = l.pending ? wanted_flag(&l, l.pending)
                                 : l.verb  ? wanted_operand(&l)
                                           : (kd_wanted){.what = KD_COMPLETE_VERBS};
        kd_complete_values(&c, &wanted, &connection);
    }
    (void)kd_buf_str(out, c.lines.data ? c.lines.data : "");
    kd_buf_clear(&c.lines);
}

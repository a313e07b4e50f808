#include "args.h"

#include "format.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WORD 64 /* longer words are no slips of a known one */

int kd_args_distance(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    if (na > MAX_WORD || nb > MAX_WORD)
        return MAX_WORD + 1;
    int rows[3][MAX_WORD + 1];
    int *before = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= nb; j++)
        above[j] = (int)j;
    for (size_t i = 1; i <= na; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int best = above[j - 1] + (a[i - 1] != b[j - 1]);
            best = KD_MIN(best, above[j] + 1);
            best = KD_MIN(best, row[j - 1] + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = KD_MIN(best, before[j - 2] + 1);
            row[j] = best;
        }
        int *oldest = before;
        before = above;
        above = row;
        row = oldest;
    }
    return above[nb];
}

const char *kd_args_nearest(const char *word, const char *const *names, int n)
{
    const char *best = NULL;
    int best_distance = MAX_WORD;
    for (int i = 0; i < n; i++) {
        int longer = (int)KD_MAX(strlen(word), strlen(names[i]));
        int d = kd_args_distance(word, names[i]);
        /* A beginning of three letters or more counts as near: `sub` for `submit`. */
        if (strlen(word) >= 3 && strncmp(names[i], word, strlen(word)) == 0)
            d = 1;
        if (d <= KD_MAX(1, longer / 3) && d < longer && d < best_distance) {
            best = names[i];
            best_distance = d;
        }
    }
    return best;
}

const kd_opt *kd_opt_long(const kd_opt *opts, int n, const char *name, size_t len)
{
    for (int i = 0; i < n; i++)
        if (strlen(opts[i].name) == len && memcmp(opts[i].name, name, len) == 0)
            return &opts[i];
    return NULL;
}

const kd_opt *kd_opt_letter(const kd_opt *opts, int n, char letter)
{
    for (int i = 0; i < n; i++)
        if (opts[i].letter == letter)
            return &opts[i];
    return NULL;
}

typedef struct parser {
    const kd_opt *opts, *global;
    int n_opts, n_global, argc, at;
    char **argv;
    kd_args *out;
    char *hint;
    size_t hint_len;
    kd_diag *diag;
} parser;

static int unknown_flag(parser *p, const char *word, size_t len)
{
    const char *names[64];
    int n = 0;
    for (int i = 0; i < p->n_opts && n < (int)KD_COUNT(names); i++)
        names[n++] = p->opts[i].name;
    for (int i = 0; i < p->n_global && n < (int)KD_COUNT(names); i++)
        names[n++] = p->global[i].name;
    char cut[MAX_WORD + 1];
    snprintf(cut, sizeof cut, "%.*s", (int)KD_MIN(len, sizeof cut - 1), word);
    const char *near = kd_args_nearest(cut, names, n);
    if (near)
        snprintf(p->hint, p->hint_len, "did you mean --%s?", near);
    return kd_fail(p->diag, -KD_EINVAL, "unknown flag --%s", cut);
}

static void add_flag(parser *p, const kd_opt *opt, const char *value)
{
    p->out->flags[p->out->n_flags++] = (kd_arg){.opt = opt, .value = value};
}

static int parse_long(parser *p, const char *word)
{
    const char *equals = strchr(word, '=');
    size_t len = equals ? (size_t)(equals - word) : strlen(word);
    const kd_opt *opt = kd_opt_long(p->opts, p->n_opts, word, len);
    if (!opt)
        opt = kd_opt_long(p->global, p->n_global, word, len);
    if (!opt)
        return unknown_flag(p, word, len);
    if (!opt->meta) {
        if (equals)
            return kd_fail(p->diag, -KD_EINVAL, "--%s takes no value", opt->name);
        add_flag(p, opt, NULL);
        return 0;
    }
    if (equals) {
        add_flag(p, opt, equals + 1);
        return 0;
    }
    if (p->at + 1 >= p->argc)
        return kd_fail(p->diag, -KD_EINVAL, "--%s needs a value: --%s %s", opt->name, opt->name,
                       opt->meta);
    add_flag(p, opt, p->argv[++p->at]);
    return 0;
}

static int parse_letters(parser *p, const char *word)
{
    for (const char *c = word; *c; c++) {
        const kd_opt *opt = kd_opt_letter(p->opts, p->n_opts, *c);
        if (!opt)
            opt = kd_opt_letter(p->global, p->n_global, *c);
        if (!opt) {
            /* One dash before a whole name is the commoner slip than a strange letter. */
            size_t len = strcspn(word, "=");
            const kd_opt *whole = kd_opt_long(p->opts, p->n_opts, word, len);
            if (!whole)
                whole = kd_opt_long(p->global, p->n_global, word, len);
            if (whole)
                snprintf(p->hint, p->hint_len, "did you mean --%s?", whole->name);
            return kd_fail(p->diag, -KD_EINVAL, "unknown flag -%.*s", (int)len, word);
        }
        if (!opt->meta) {
            add_flag(p, opt, NULL);
            continue;
        }
        const char *value = c + 1;
        if (*value == '=')
            value++;
        if (!*value) {
            if (p->at + 1 >= p->argc)
                return kd_fail(p->diag, -KD_EINVAL, "-%c needs a value: -%c %s", *c, *c, opt->meta);
            value = p->argv[++p->at];
        }
        add_flag(p, opt, value);
        return 0;
    }
    return 0;
}

int kd_args_parse(const kd_opt *opts, int n_opts, const kd_opt *global, int n_global, int argc,
                  char **argv, kd_args *out, char *hint, size_t hint_len, kd_diag *diag)
{
    hint[0] = '\0';
    /* Every letter of a word may be a flag of its own. */
    size_t most = 1;
    for (int i = 0; i < argc; i++)
        most += strlen(argv[i]) + 1;
    *out = (kd_args){.flags = calloc(most, sizeof *out->flags),
                     .operands = calloc((size_t)argc + 1, sizeof *out->operands)};
    if (!out->flags || !out->operands)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the command line");
    parser p = {.opts = opts,
                .global = global,
                .n_opts = n_opts,
                .n_global = n_global,
                .argc = argc,
                .argv = argv,
                .out = out,
                .hint = hint,
                .hint_len = hint_len,
                .diag = diag};
    bool only_operands = false;
    for (; p.at < argc; p.at++) {
        const char *word = argv[p.at];
        int rc = 0;
        if (only_operands || word[0] != '-' || word[1] == '\0')
            out->operands[out->n_operands++] = word;
        else if (strcmp(word, "--") == 0)
            only_operands = true;
        else if (word[1] == '-')
            rc = parse_long(&p, word + 2);
        else
            rc = parse_letters(&p, word + 1);
        if (rc != 0)
            return rc;
    }
    return 0;
}

void kd_args_clear(kd_args *a)
{
    free(a->flags);
    free(a->operands);
    *a = (kd_args){0};
}

bool kd_args_has(const kd_args *a, const char *name)
{
    for (int i = 0; i < a->n_flags; i++)
        if (strcmp(a->flags[i].opt->name, name) == 0)
            return true;
    return false;
}

const char *kd_args_value(const kd_args *a, const char *name)
{
    const char *value = NULL;
    for (int i = 0; i < a->n_flags; i++)
        if (strcmp(a->flags[i].opt->name, name) == 0)
            value = a->flags[i].value;
    return value;
}

int kd_args_values(const kd_args *a, const char *name, const char **out, int max)
{
    int n = 0;
    for (int i = 0; i < a->n_flags; i++) {
        if (strcmp(a->flags[i].opt->name, name) != 0)
            continue;
        if (n < max)
            out[n] = a->flags[i].value;
        n++;
    }
    return n;
}

int kd_args_u64(const kd_args *a, const char *name, uint64_t min, uint64_t max, uint64_t fallback,
                uint64_t *out, kd_diag *diag)
{
    const char *text = kd_args_value(a, name);
    if (!text) {
        *out = fallback;
        return 0;
    }
    char *end = NULL;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    /* strtoull takes a minus sign and wraps. */
    if (text[0] < '0' || text[0] > '9' || *end || errno != 0 || v < min || v > max)
        return kd_fail(diag, -KD_EINVAL, "--%s %s: a whole number from %llu to %llu is expected",
                       name, text, (unsigned long long)min, (unsigned long long)max);
    *out = v;
    return 0;
}

int kd_args_duration(const kd_args *a, const char *name, double *out, kd_diag *diag)
{
    const char *text = kd_args_value(a, name);
    if (!text) {
        *out = -1;
        return 0;
    }
    double seconds;
    if (!kd_parse_duration(text, &seconds))
        return kd_fail(diag, -KD_EINVAL,
                       "--%s %s: a duration such as 90, 90s, 10m or 1h30m is expected", name, text);
    *out = seconds;
    return 0;
}

int kd_args_server(const char *text, char *out, size_t out_len, kd_diag *diag)
{
    size_t len = strlen(text);
    if (len == 0 || strpbrk(text, "/ \t\n"))
        return kd_fail(diag, -KD_EINVAL, "the server is not HOST:PORT: \"%s\"", text);
    const char *first = strchr(text, ':'), *last = strrchr(text, ':');
    const char *port = NULL;
    int n;
    if (text[0] == '[') {
        const char *close = strchr(text, ']');
        if (!close || (close[1] != '\0' && close[1] != ':'))
            return kd_fail(diag, -KD_EINVAL, "the server is not [ADDRESS]:PORT: \"%s\"", text);
        port = close[1] ? close + 2 : NULL;
        n = snprintf(out, out_len, "%s%s", text, port ? "" : ":7070");
    } else if (first && first != last) {
        n = snprintf(out, out_len, "[%s]:7070", text);
    } else {
        port = first ? first + 1 : NULL;
        if (first == text)
            return kd_fail(diag, -KD_EINVAL, "the server has no host name: \"%s\"", text);
        n = snprintf(out, out_len, "%s%s", text, port ? "" : ":7070");
    }
    if (port) {
        char *end = NULL;
        long v = strtol(port, &end, 10);
        if (port[0] < '0' || port[0] > '9' || *end || v < 1 || v > 65535)
            return kd_fail(diag, -KD_EINVAL,
                           "the server's port is not a number from 1 to 65535: \"%s\"", text);
    }
    if (n < 0 || (size_t)n >= out_len)
        return kd_fail(diag, -KD_EINVAL, "the server's name is too long");
    return 0;
}

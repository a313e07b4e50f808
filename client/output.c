#include "output.h"

#include "format.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MAX_TEXT (64u << 20) /* one table or one line; messages are bounded at 16 MiB */

static bool g_live;     /* a live block stands on the terminal */
static int g_live_up;   /* lines of it above the one that the cursor is in */
static int g_out_error; /* errno of the first failed write to standard output */

int kd_terminal_width(int fd)
{
    struct winsize ws;
    if (ioctl(fd, TIOCGWINSZ, &ws) != 0 || ws.ws_col == 0)
        return 80;
    return ws.ws_col;
}

const char *kd_color_start(enum kd_color color, bool on)
{
    static const char *const starts[] = {
        [KD_PLAIN] = "",        [KD_BOLD] = "\033[1m",   [KD_DIM] = "\033[2m",
        [KD_RED] = "\033[31m",  [KD_GREEN] = "\033[32m", [KD_YELLOW] = "\033[33m",
        [KD_CYAN] = "\033[36m",
    };
    return on ? starts[color] : "";
}

const char *kd_color_end(bool on)
{
    return on ? "\033[0m" : "";
}

void kd_table_init(kd_table *t, const char *spec)
{
    *t = (kd_table){.spec = kd_xstrdup(spec)};
    for (char *p = t->spec; p && t->n_columns < KD_TABLE_COLUMNS;) {
        char *bar = strchr(p, '|');
        if (bar)
            *bar = '\0';
        size_t len = strlen(p);
        if (len > 0 && p[len - 1] == '>') {
            p[len - 1] = '\0';
            t->right[t->n_columns] = true;
        }
        t->heading[t->n_columns++] = p;
        p = bar ? bar + 1 : NULL;
    }
}

void kd_table_clear(kd_table *t)
{
    for (size_t i = 0; i < t->count; i++)
        free(t->cells[i].text);
    free(t->cells);
    free(t->spec);
    *t = (kd_table){0};
}

void kd_table_add(kd_table *t, enum kd_color color, const char *fmt, ...)
{
    if (t->count == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        kd_cell *cells = realloc(t->cells, cap * sizeof *cells);
        if (!cells) {
            t->failed = true;
            return;
        }
        t->cells = cells;
        t->cap = cap;
    }
    char *raw = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&raw, fmt, ap);
    va_end(ap);
    kd_buf clean;
    kd_buf_init(&clean, MAX_TEXT);
    if (n >= 0)
        kd_text_clean(&clean, raw[0] ? raw : "-");
    if (n >= 0)
        free(raw);
    char *text = n >= 0 ? kd_buf_take(&clean) : NULL;
    kd_buf_clear(&clean);
    if (!text) {
        t->failed = true;
        return;
    }
    t->cells[t->count++] = (kd_cell){.text = text, .color = color};
}

bool kd_table_is_blank(const kd_table *t, int column)
{
    for (size_t i = (size_t)column; i < t->count; i += (size_t)t->n_columns)
        if (strcmp(t->cells[i].text, "-") != 0)
            return false;
    return true;
}

static void put_cell(kd_buf *out, const char *text, int columns, bool right, bool last,
                     enum kd_color color, bool color_on)
{
    int pad = columns - kd_text_width(text);
    if (right && pad > 0)
        (void)kd_buf_printf(out, "%*s", pad, "");
    bool colored = color_on && color != KD_PLAIN;
    (void)kd_buf_printf(out, "%s%s%s", kd_color_start(color, colored), text, kd_color_end(colored));
    if (!right && !last && pad > 0)
        (void)kd_buf_printf(out, "%*s", pad, "");
    if (!last)
        (void)kd_buf_str(out, "  ");
}

int kd_table_render(const kd_table *t, int indent, bool color, kd_buf *out)
{
    int columns[KD_TABLE_COLUMNS], n = t->n_columns, last = -1;
    if (t->failed)
        return -KD_ENOMEM;
    for (int c = 0; c < n; c++) {
        columns[c] = kd_text_width(t->heading[c]);
        last = t->hidden[c] ? last : c;
    }
    for (size_t i = 0; i < t->count; i++) {
        int w = kd_text_width(t->cells[i].text);
        columns[i % (size_t)n] = KD_MAX(columns[i % (size_t)n], w);
    }
    size_t rows = (t->count + (size_t)n - 1) / (size_t)n;
    for (size_t r = 0; r <= rows; r++) {
        kd_buf line;
        kd_buf_init(&line, MAX_TEXT);
        (void)kd_buf_printf(&line, "%*s", indent, "");
        for (int c = 0; c < n; c++) {
            if (t->hidden[c])
                continue;
            size_t i = (r - 1) * (size_t)n + (size_t)c;
            bool there = r > 0 && i < t->count;
            const char *text = r == 0 ? t->heading[c] : there ? t->cells[i].text : "";
            put_cell(&line, text, columns[c], t->right[c], c == last,
                     r == 0  ? KD_BOLD
                     : there ? t->cells[i].color
                             : KD_PLAIN,
                     color);
        }
        while (line.len > 0 && line.data[line.len - 1] == ' ')
            line.data[--line.len] = '\0';
        (void)kd_buf_printf(out, "%s\n", line.data ? line.data : "");
        bool failed = line.failed;
        kd_buf_clear(&line);
        if (failed || out->failed)
            return -KD_ENOMEM;
    }
    return 0;
}

void kd_table_print(const kd_cli *cli, kd_table *t, int indent)
{
    kd_buf text;
    kd_buf_init(&text, MAX_TEXT);
    if (kd_table_render(t, indent, cli->color_out, &text) == 0)
        kd_out_text(cli, text.data);
    else
        kd_error(cli, "no memory for the table");
    kd_buf_clear(&text);
    kd_table_clear(t);
}

static void note_error(void)
{
    if (g_out_error == 0)
        g_out_error = errno ? errno : EIO;
}

void kd_out_text(const kd_cli *cli, const char *text)
{
    kd_live_clear(cli);
    if (fputs(text, stdout) < 0)
        note_error();
}

void kd_out(const kd_cli *cli, const char *fmt, ...)
{
    kd_live_clear(cli);
    va_list ap;
    va_start(ap, fmt);
    int n = vfprintf(stdout, fmt, ap);
    va_end(ap);
    if (n < 0 || fputc('\n', stdout) < 0)
        note_error();
}

void kd_out_clean(const kd_cli *cli, const char *fmt, ...)
{
    char *raw = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&raw, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    kd_buf clean;
    kd_buf_init(&clean, MAX_TEXT);
    kd_text_clean(&clean, raw);
    kd_out(cli, "%s", clean.data ? clean.data : "");
    kd_buf_clear(&clean);
    free(raw);
}

int kd_out_flush(const kd_cli *cli)
{
    static bool said;
    if (fflush(stdout) != 0)
        note_error();
    if (g_out_error == 0)
        return 0;
    /* A reader such as `head` that has seen enough is no error to talk about. */
    if (!said && g_out_error != EPIPE)
        kd_error(cli, "cannot write to standard output: %s", strerror(g_out_error));
    said = true;
    return KD_EXIT_FAILURE;
}

int kd_out_check_reader(void)
{
    struct pollfd p = {.fd = STDOUT_FILENO};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLERR) ? KD_EXIT_FAILURE : KD_EXIT_OK;
}

/* One line to standard error: prefix in colour, the rest cleaned. */
static KD_PRINTF(4, 0) void say(const kd_cli *cli, enum kd_color color, const char *prefix,
                                const char *fmt, va_list ap)
{
    char *raw = NULL;
    if (vasprintf(&raw, fmt, ap) < 0)
        return;
    kd_buf clean;
    kd_buf_init(&clean, MAX_TEXT);
    /* Lines of a longer message keep their breaks. */
    for (char *line = raw, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        kd_text_clean(&clean, line);
        (void)kd_buf_add(&clean, "\n", 1);
    }
    kd_live_clear(cli);
    /* What standard output has so far stands before it, where both are one terminal. */
    if (cli->tty_out)
        fflush(stdout);
    fprintf(stderr, "%s%s%s%s", kd_color_start(color, cli->color_err), prefix,
            kd_color_end(cli->color_err && color != KD_PLAIN), clean.data ? clean.data : "\n");
    fflush(stderr);
    kd_buf_clear(&clean);
    free(raw);
}

void kd_say(const kd_cli *cli, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(cli, KD_PLAIN, "", fmt, ap);
    va_end(ap);
}

void kd_error(const kd_cli *cli, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(cli, KD_RED, "error: ", fmt, ap);
    va_end(ap);
}

void kd_hint(const kd_cli *cli, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(cli, KD_CYAN, "hint: ", fmt, ap);
    va_end(ap);
}

int kd_usage(const kd_cli *cli, const char *verb, const char *hint, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(cli, KD_RED, "error: ", fmt, ap);
    va_end(ap);
    if (hint && *hint)
        kd_hint(cli, "%s", hint);
    else if (verb)
        kd_hint(cli, "`distill help %s` shows its flags", verb);
    else
        kd_hint(cli, "`distill help` lists the verbs");
    return KD_EXIT_USAGE;
}

/* To the first column of the live block's first line. */
static void go_home(void)
{
    if (g_live && g_live_up > 0)
        fprintf(stderr, "\r\033[%dA", g_live_up);
    else
        fputs("\r", stderr);
    g_live_up = 0;
}

void kd_live_set(const kd_cli *cli, const char *text)
{
    if (!cli->tty_err)
        return;
    if (cli->tty_out)
        fflush(stdout);
    int width = kd_terminal_width(STDERR_FILENO) - 1;
    go_home();
    for (const char *line = text; line;) {
        const char *end = strchr(line, '\n');
        size_t n = end ? (size_t)(end - line) : strlen(line);
        char *one = strndup(line, n);
        /* The last column stays free: some terminals wrap as soon as it is filled. */
        size_t len = one ? kd_text_cut(one, width) : 0;
        fprintf(stderr, "%.*s%s\033[K%s", (int)len, one ? one : "", kd_color_end(cli->color_err),
                end ? "\n" : "");
        free(one);
        g_live_up += end != NULL;
        line = end ? end + 1 : NULL;
    }
    fputs("\033[J", stderr);
    fflush(stderr);
    g_live = true;
}

void kd_live_clear(const kd_cli *cli)
{
    if (!g_live || !cli->tty_err)
        return;
    go_home();
    fputs("\033[J", stderr);
    fflush(stderr);
    g_live = false;
}

bool kd_live_shown(void)
{
    return g_live;
}

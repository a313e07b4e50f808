/* What the user sees: tables, JSON, errors, hints.
 *
 * Colours are written only where kd_cli says so. Text from outside is cleaned of control characters
 * before it reaches a terminal. Threads: the main thread. */
#ifndef KD_CLI_OUTPUT_H
#define KD_CLI_OUTPUT_H

#include "cli.h"
#include "kd/buf.h"

enum kd_color { KD_PLAIN, KD_BOLD, KD_DIM, KD_RED, KD_GREEN, KD_YELLOW, KD_CYAN };

/* ---- tables: a heading and rows of cells, columns as wide as their widest cell */
#define KD_TABLE_COLUMNS 16
typedef struct kd_cell {
    char *text;
    enum kd_color color;
} kd_cell;
typedef struct kd_table {
    const char *heading[KD_TABLE_COLUMNS];
    bool right[KD_TABLE_COLUMNS];  /* aligned to the right */
    bool hidden[KD_TABLE_COLUMNS]; /* filled, but not shown */
    int n_columns;
    char *spec;
    kd_cell *cells; /* row by row */
    size_t count, cap;
    bool failed; /* out of memory */
} kd_table;
/* spec: headings with `|` between; one that ends in `>` is aligned to the right. */
void kd_table_init(kd_table *t, const char *spec);
void kd_table_clear(kd_table *t);
/* The next cell, row by row. An empty text becomes "-". */
void kd_table_add(kd_table *t, enum kd_color color, const char *fmt, ...) KD_PRINTF(3, 4);
/* No row has anything but "-" there. */
bool kd_table_is_blank(const kd_table *t, int column);
/* Appends the table. indent: columns before each line. Rows that are not whole are filled with
 * empty cells. Lines are not cut, since what stands last (a reason, a digest) is what people came
 * for; no blanks at line ends. -KD_ENOMEM. */
int kd_table_render(const kd_table *t, int indent, bool color, kd_buf *out) KD_MUST_CHECK;
/* Renders to standard output. Frees the table. */
void kd_table_print(const kd_cli *cli, kd_table *t, int indent);

/* Escape sequence that starts a colour, "" when `on` is false; kd_color_end ends it. */
const char *kd_color_start(enum kd_color color, bool on);
const char *kd_color_end(bool on);

/* ---- standard output */
/* A formatted line of data; a line break is added. Clears the live line first. */
void kd_out(const kd_cli *cli, const char *fmt, ...) KD_PRINTF(2, 3);
/* Likewise, all of it cleaned of control characters. */
void kd_out_clean(const kd_cli *cli, const char *fmt, ...) KD_PRINTF(2, 3);
/* Text of any length, as it is. */
void kd_out_text(const kd_cli *cli, const char *text);
/* Sends on what is buffered. 0, or the exit code for a reader that went away (said nothing) or a
 * full disk (said once). */
int kd_out_flush(const kd_cli *cli);
/* For verbs that print for a long time: the exit code once the reader of standard output went away,
 * 0 while it is there. Without it they would notice at the next line only. */
int kd_out_check_reader(void);

/* ---- standard error */
void kd_say(const kd_cli *cli, const char *fmt, ...) KD_PRINTF(2, 3);
/* "error: ..." */
void kd_error(const kd_cli *cli, const char *fmt, ...) KD_PRINTF(2, 3);
/* "hint: ..." */
void kd_hint(const kd_cli *cli, const char *fmt, ...) KD_PRINTF(2, 3);
/* Error, optional hint (NULL or "" = where the help is), exit code 2. */
int kd_usage(const kd_cli *cli, const char *verb, const char *hint, const char *fmt, ...)
    KD_PRINTF(4, 5);

/* ---- the live block: a line or more at the bottom of a terminal, on standard error */
/* Draws text (which may hold colours and line breaks), each line cut to the terminal, which must
 * have room for all of them. Nothing unless standard error is one. */
void kd_live_set(const kd_cli *cli, const char *text);
void kd_live_clear(const kd_cli *cli);
bool kd_live_shown(void);
/* Columns of the terminal behind fd, 80 if unknown. */
int kd_terminal_width(int fd);

#endif

/* Lists that verbs print, in every format of -o by one description of each.
 *
 * An item is what a message holds (a job, a worker, a token). Its JSON object is what all formats
 * for programs are made of: `json` an object with an array of them, `jsonl` one a line, `csv` a row
 * of the columns' fields, `name` one field alone. Tables for people are filled by `row`; `wide`
 * shows all of their columns, `table` those that are not kept for it. Threads: the main thread. */
#ifndef KD_CLI_LIST_H
#define KD_CLI_LIST_H

#include "cli.h"
#include "json.h"
#include "output.h"

#define KD_LIST_COLUMNS KD_TABLE_COLUMNS

typedef struct kd_column {
    const char *heading; /* of tables; one that ends in `>` is aligned to the right; NULL = in CSV
                            only */
    const char *field;   /* in the item's JSON object, dots go deeper; NULL = in tables only */
    enum kd_column_when {
        KD_ALWAYS,
        KD_WIDE,  /* with -o wide */
        KD_IF_ANY /* where some item has one, or with -o wide */
    } when;
} kd_column;

typedef struct kd_list {
    const char *key;  /* of the array in -o json */
    const char *name; /* field that -o name prints; NULL = -o name is refused */
    const kd_column *columns;
    int n_columns; /* at most KD_LIST_COLUMNS with a heading */
    /* A new object. */
    json_t *(*json)(const void *item);
    /* One cell for each column that has a heading, in order. now: kd_clock_wall_ms. */
    void (*row)(kd_table *t, const void *item, int64_t now);
} kd_list;

/* All items in the format that was asked for. more: further fields beside the array in -o json, its
 * reference is taken; NULL = none. An empty table prints nothing. Returns an exit code. */
int kd_list_print(const kd_cli *cli, const kd_list *l, const void *const *items, size_t n,
                  json_t *more) KD_MUST_CHECK;
/* Prints one item of a stream as a line of the formats that have lines (json, jsonl, csv, name);
 * first: the heading of CSV comes before it. Takes the reference of `object`. Returns an exit code.
 */
int kd_list_line(const kd_cli *cli, const kd_list *l, json_t *object, bool first) KD_MUST_CHECK;

/* Whether people read it, not programs: a table. */
bool kd_list_is_table(const kd_cli *cli);

/* Appends s as a field of CSV (RFC 4180), cleaned of control characters. */
void kd_csv_text(kd_buf *out, const char *s);

#endif

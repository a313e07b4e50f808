#include "list.h"

#include "format.h"
#include "kd/clock.h"

#include <stdlib.h>
#include <string.h>

#define MAX_LINE (16u << 20)

void kd_csv_text(kd_buf *out, const char *s)
{
    kd_buf clean;
    kd_buf_init(&clean, out->max);
    kd_text_clean(&clean, s);
    const char *text = clean.data ? clean.data : "";
    if (!strpbrk(text, ",\"\r\n")) {
        (void)kd_buf_str(out, text);
    } else {
        (void)kd_buf_str(out, "\"");
        for (const char *p = text; *p; p++) {
            if (*p == '"')
                (void)kd_buf_str(out, "\"");
            (void)kd_buf_add(out, p, 1);
        }
        (void)kd_buf_str(out, "\"");
    }
    kd_buf_clear(&clean);
}

/* Borrowed; NULL: there is none. */
static const json_t *field_of(const json_t *object, const char *path)
{
    for (const char *dot; object && (dot = strchr(path, '.')); path = dot + 1) {
        char part[64];
        snprintf(part, sizeof part, "%.*s", (int)(dot - path), path);
        object = json_object_get(object, part);
    }
    return json_object_get(object, path);
}

static void put_value(kd_buf *out, const json_t *v)
{
    if (json_is_string(v)) {
        kd_csv_text(out, json_string_value(v));
    } else if (json_is_real(v)) {
        char real[KD_JSON_REAL];
        (void)kd_buf_str(out, kd_json_real(json_real_value(v), real));
    } else if (json_is_integer(v)) {
        (void)kd_buf_printf(out, "%lld", (long long)json_integer_value(v));
    } else if (json_is_boolean(v)) {
        (void)kd_buf_str(out, json_is_true(v) ? "true" : "false");
    }
}

static int print_buf(const kd_cli *cli, kd_buf *b)
{
    char *text = kd_buf_take(b);
    kd_buf_clear(b);
    if (!text) {
        kd_error(cli, "no memory for the list");
        return KD_EXIT_FAILURE;
    }
    kd_out_text(cli, text);
    free(text);
    return kd_out_flush(cli);
}

/* object NULL: the heading. */
static void put_csv(kd_buf *out, const kd_list *l, const json_t *object)
{
    const char *comma = "";
    for (int i = 0; i < l->n_columns; i++) {
        const char *field = l->columns[i].field;
        if (!field)
            continue;
        (void)kd_buf_str(out, comma);
        comma = ",";
        if (object)
            put_value(out, field_of(object, field));
        else
            kd_csv_text(out, field);
    }
    (void)kd_buf_str(out, "\r\n");
}

int kd_list_line(const kd_cli *cli, const kd_list *l, json_t *object, bool first)
{
    if (cli->format != KD_FORMAT_CSV && cli->format != KD_FORMAT_NAME)
        return kd_json_print(cli, object, true);
    kd_buf line;
    kd_buf_init(&line, MAX_LINE);
    if (cli->format == KD_FORMAT_CSV && first)
        put_csv(&line, l, NULL);
    if (cli->format == KD_FORMAT_CSV) {
        put_csv(&line, l, object);
    } else {
        const char *name = json_string_value(field_of(object, l->name));
        kd_text_clean(&line, name ? name : "");
        (void)kd_buf_str(&line, "\n");
    }
    json_decref(object);
    return print_buf(cli, &line);
}

static int print_json(const kd_cli *cli, const kd_list *l, const void *const *items, size_t n,
                      json_t *more)
{
    json_t *all = json_array(), *o = json_object();
    for (size_t i = 0; i < n; i++)
        (void)json_array_append_new(all, l->json(items[i]));
    (void)json_object_set_new(o, l->key, all);
    if (more)
        (void)json_object_update(o, more);
    return kd_json_print(cli, o, false);
}

static int print_table(const kd_cli *cli, const kd_list *l, const void *const *items, size_t n)
{
    kd_table t;
    kd_buf spec;
    enum kd_column_when when[KD_LIST_COLUMNS];
    int shown = 0;
    int64_t now = kd_clock_wall_ms();
    kd_buf_init(&spec, 4096);
    for (int i = 0; i < l->n_columns; i++) {
        if (!l->columns[i].heading)
            continue;
        KD_BUG_ON(shown == KD_LIST_COLUMNS);
        (void)kd_buf_printf(&spec, "%s%s", shown ? "|" : "", l->columns[i].heading);
        when[shown++] = l->columns[i].when;
    }
    kd_table_init(&t, spec.data ? spec.data : "");
    kd_buf_clear(&spec);
    for (size_t i = 0; i < n; i++)
        l->row(&t, items[i], now);
    bool wide = cli->format == KD_FORMAT_WIDE;
    for (int c = 0; c < shown && !wide; c++)
        t.hidden[c] = when[c] == KD_WIDE || (when[c] == KD_IF_ANY && kd_table_is_blank(&t, c));
    kd_table_print(cli, &t, 0);
    return kd_out_flush(cli);
}

bool kd_list_is_table(const kd_cli *cli)
{
    return cli->format == KD_FORMAT_TABLE || cli->format == KD_FORMAT_WIDE;
}

int kd_list_print(const kd_cli *cli, const kd_list *l, const void *const *items, size_t n,
                  json_t *more)
{
    int rc = KD_EXIT_OK;
    switch (cli->format) {
    case KD_FORMAT_JSON:
        rc = print_json(cli, l, items, n, more);
        break;
    case KD_FORMAT_TABLE:
    case KD_FORMAT_WIDE:
        rc = n > 0 ? print_table(cli, l, items, n) : KD_EXIT_OK;
        break;
    case KD_FORMAT_JSONL:
    case KD_FORMAT_CSV:
    case KD_FORMAT_NAME:
        for (size_t i = 0; rc == KD_EXIT_OK && i < n; i++)
            rc = kd_list_line(cli, l, l->json(items[i]), i == 0);
        if (n == 0 && cli->format == KD_FORMAT_CSV) {
            kd_buf head;
            kd_buf_init(&head, MAX_LINE);
            put_csv(&head, l, NULL);
            rc = print_buf(cli, &head);
        }
        break;
    }
    json_decref(more);
    return rc;
}

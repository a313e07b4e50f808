#include "items.h"

#include "kd/buf.h"

#include <stdio.h>
#include <string.h>

/* "from 1 to 64", "above 0, up to 1000", "from 0 to below 1" */
static void range_text(const kd_key *k, char *out, size_t size)
{
    if (k->type == KD_KEY_SEED)
        snprintf(out, size, "from 0 to 2^63-1");
    else
        snprintf(out, size, "%s %.10g%s %.10g", k->flags & KD_KEY_LO_OPEN ? "above" : "from", k->lo,
                 k->flags & KD_KEY_HI_OPEN   ? " to below"
                 : k->flags & KD_KEY_LO_OPEN ? ", up to"
                                             : " to",
                 k->hi);
}

void kd_schema_expected(const kd_key *k, char *out, size_t size)
{
    char range[80];
    range_text(k, range, sizeof range);
    switch (k->type) {
    case KD_KEY_MAP:
        snprintf(out, size, "a mapping of keys");
        break;
    case KD_KEY_SWEEP:
        snprintf(out, size, "nothing");
        break;
    case KD_KEY_NAME:
        snprintf(out, size, "1 to %d letters, digits, dots, dashes or underscores",
                 KD_JOB_NAME - 1);
        break;
    case KD_KEY_PATH:
        snprintf(out, size, "a relative path without `..`, of up to %d bytes", KD_JOB_PATH - 1);
        break;
    case KD_KEY_FILE:
        snprintf(out, size, "the path of a local file, of up to %d bytes", KD_JOB_PATH - 1);
        break;
    case KD_KEY_ADDRESS:
        snprintf(out, size, "HOST:PORT");
        break;
    case KD_KEY_DIGEST:
        snprintf(out, size, "32 hex digits");
        break;
    case KD_KEY_WORD:
    case KD_KEY_CHOICE:
    case KD_KEY_FLAG:
        snprintf(out, size, "one of %s", k->choices);
        break;
    case KD_KEY_BOOL:
        snprintf(out, size, "true or false");
        break;
    case KD_KEY_INT:
    case KD_KEY_SEED:
        if (k->choices)
            snprintf(out, size, "one of %s", k->choices);
        else
            snprintf(out, size, "a whole number %s", range);
        break;
    case KD_KEY_REAL:
        snprintf(out, size, "a number %s", range);
        break;
    case KD_KEY_INTS:
        snprintf(out, size, "a list of up to %d whole numbers %s", KD_INTS_MAX, range);
        break;
    case KD_KEY_VIEWS:
        snprintf(out, size, "`fresh` or a whole number %s", range);
        break;
    case KD_KEY_EDGE:
        snprintf(out, size, "`same`, `valid` or a whole number %s", range);
        break;
    case KD_KEY_AUGMENT:
        snprintf(out, size, "a list, as in [flip, {crop: {pad: 4}}]");
        break;
    case KD_KEY_LAYERS:
        snprintf(out, size, "a list, as in [{conv: {channels: 16}}, relu, global_avg_pool]");
        break;
    case KD_KEY_COMPRESS:
        snprintf(out, size, "a list, as in [{prune: 0.8}, {quantize: int8}]");
        break;
    case KD_KEY_EXPORT:
        snprintf(out, size, "a list of safetensors, onnx and {onnx: {opset: 13|17}}");
        break;
    }
}

void kd_schema_default(const kd_key *k, char *out, size_t size)
{
    if (k->flags & KD_KEY_REQUIRED)
        snprintf(out, size, "required");
    else if (k->type == KD_KEY_MAP)
        snprintf(out, size, "%s", k->flags & KD_KEY_OPTIONAL ? "none" : "");
    else if (k->type == KD_KEY_EXPORT)
        snprintf(out, size, "[safetensors]");
    else if (!k->def[0])
        snprintf(out, size, "none");
    else if (k->def[0] == '=')
        snprintf(out, size, "as %s", k->def + 1);
    else if (k->type == KD_KEY_INTS)
        snprintf(out, size, "[%s]", k->def);
    else
        snprintf(out, size, "%s", k->def);
}

void kd_schema_value(const kd_key *k, char *out, size_t size)
{
    char range[80];
    range_text(k, range, sizeof range);
    switch (k->type) {
    case KD_KEY_MAP:
    case KD_KEY_AUGMENT:
    case KD_KEY_LAYERS:
    case KD_KEY_COMPRESS:
    case KD_KEY_EXPORT:
    case KD_KEY_EDGE:
        snprintf(out, size, "%s", "");
        break;
    case KD_KEY_SWEEP:
        if (k->hi > 0)
            snprintf(out, size, "whole, %s", range);
        else
            snprintf(out, size, "{key: [value, ...], ...}");
        break;
    case KD_KEY_NAME:
        snprintf(out, size, "letters, digits . - _");
        break;
    case KD_KEY_PATH:
        snprintf(out, size, "relative path");
        break;
    case KD_KEY_FILE:
        snprintf(out, size, "local path");
        break;
    case KD_KEY_INTS:
        snprintf(out, size, "list of whole numbers");
        break;
    case KD_KEY_VIEWS:
        snprintf(out, size, "fresh, or from %.0f", k->lo);
        break;
    case KD_KEY_INT:
    case KD_KEY_SEED:
        snprintf(out, size, "whole, %s", range);
        break;
    case KD_KEY_REAL:
        snprintf(out, size, "number, %s", range);
        break;
    case KD_KEY_WORD:
    case KD_KEY_CHOICE:
    case KD_KEY_FLAG:
        snprintf(out, size, "%s", k->choices);
        break;
    case KD_KEY_ADDRESS:
    case KD_KEY_DIGEST:
    case KD_KEY_BOOL:
        kd_schema_expected(k, out, size);
        break;
    }
}

/* The group of keys that this row belongs to if an earlier part of the table has the same one: all
 * optimizers have the keys of the first. Returns the length of the group's name, 0 = print it. */
static size_t repeated(const kd_key *k)
{
    static const char shared[] = ".optimizer";
    const char *at = strstr(k->key, shared);
    size_t n = at ? (size_t)(at - k->key) + sizeof shared - 1 : 0;
    return n && strncmp(k->key, KD_HELP_OPTIMIZER, n) != 0 ? n : 0;
}

#define ITEM_COLUMN 40

static void print_items(kd_buf *b, const kd_items *list)
{
    char text[160];
    for (int i = 0; i < list->n; i++) {
        kd_item_text(&list->of[i], text, sizeof text);
        if (strlen(text) > ITEM_COLUMN)
            kd_buf_printf(b, "    %s\n    %-*s %s\n", text, ITEM_COLUMN, "", list->of[i].meaning);
        else
            kd_buf_printf(b, "    %-*s %s\n", ITEM_COLUMN, text, list->of[i].meaning);
    }
}

static void print_row(kd_buf *b, const kd_key *k, int wide_key, int wide_def)
{
    char value[160], def[80];
    kd_schema_default(k, def, sizeof def);
    kd_schema_value(k, value, sizeof value);
    kd_buf_printf(b, "%-*s  %-*s  %s", wide_key, k->key, wide_def, def, k->meaning);
    if (value[0])
        kd_buf_printf(b, " [%s]", value);
    if (k->only) {
        int n = (int)strcspn(k->only, "=");
        kd_buf_printf(b, " (only with %.*s: %s)", n, k->only, k->only + n + 1);
    }
    kd_buf_str(b, "\n");
}

int kd_job_schema(char **out_text)
{
    kd_buf b;
    char def[80];
    int wide[2] = {3, 7}; /* of the headings */
    kd_buf_init(&b, 64u << 10);
    for (int i = 0; i < kd_schema_count; i++) {
        kd_schema_default(&kd_schema[i], def, sizeof def);
        if (repeated(&kd_schema[i]))
            continue;
        wide[0] = KD_MAX(wide[0], (int)strlen(kd_schema[i].key));
        wide[1] = KD_MAX(wide[1], (int)strlen(def));
    }
    kd_buf_printf(&b, "%-*s  %-*s  MEANING [VALUE]\n", wide[0], "KEY", wide[1], "DEFAULT");
    bool layers_told = false;
    for (int i = 0; i < kd_schema_count; i++) {
        const kd_key *k = &kd_schema[i];
        size_t group = repeated(k);
        if (k->type == KD_KEY_MAP && !strchr(k->key, '.'))
            kd_buf_str(&b, "\n");
        if (group && !k->key[group])
            kd_buf_printf(&b, "%-*s  %-*s  the keys of %s\n", wide[0], k->key, wide[1], "",
                          KD_HELP_OPTIMIZER);
        if (group)
            continue;
        print_row(&b, k, wide[0], wide[1]);
        if (kd_items_of(k) && !(k->type == KD_KEY_LAYERS && layers_told))
            print_items(&b, kd_items_of(k));
        layers_told |= k->type == KD_KEY_LAYERS;
    }
    char *text = kd_buf_take(&b);
    if (!text)
        return -KD_ENOMEM;
    *out_text = text;
    return 0;
}

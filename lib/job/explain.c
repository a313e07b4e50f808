/* The schema for people who ask of one key, and for editors: JSON Schema. */
#include "items.h"
#include "load.h"

#include "kd/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Keys that nobody writes: put there by the coordinator. */
static bool hidden(const kd_key *k)
{
    return k->type == KD_KEY_DIGEST;
}

static const char *leaf_of(const char *key)
{
    const char *dot = strrchr(key, '.');
    return dot ? dot + 1 : key;
}

/* ---- one key */

/* One key of the same mapping that the last word begins, as `temp` does temperature; NULL = none,
 * or several. */
static const char *begun(const char *key)
{
    const size_t n = strlen(key), before = (size_t)(leaf_of(key) - key);
    const char *found = NULL;
    for (int i = 0; i < kd_schema_count; i++) {
        const char *name = kd_schema[i].key;
        const bool fits = before > 0 ? strncmp(name, key, n) == 0 && !strchr(name + before, '.')
                                     : strncmp(leaf_of(name), key, n) == 0;
        if (hidden(&kd_schema[i]) || !fits)
            continue;
        if (found)
            return NULL;
        found = name;
    }
    return n - before >= 2 ? found : NULL;
}

static const char *nearest(const char *key)
{
    int least = 1 + (int)strlen(key) / 4;
    const char *found = begun(key);
    if (found)
        return found;
    for (int i = 0; i < kd_schema_count; i++) {
        int whole = kd_schema_distance(key, kd_schema[i].key);
        int leaf = kd_schema_distance(leaf_of(key), leaf_of(kd_schema[i].key));
        int d = strchr(key, '.') ? whole : KD_MIN(whole, leaf);
        if (hidden(&kd_schema[i]) || d >= least)
            continue;
        least = d;
        found = kd_schema[i].key;
    }
    return found;
}

/* What the key is made of: the keys right below it, or a list's elements. */
static void print_below(kd_buf *b, int row)
{
    const kd_key *k = &kd_schema[row];
    const kd_items *items = kd_items_of(k);
    char text[160];
    for (int i = 0; items && i < items->n; i++) {
        kd_item_text(&items->of[i], text, sizeof text);
        kd_buf_printf(b, "  %-38s %s\n", text, items->of[i].meaning);
    }
    for (int i = 0; i < kd_schema_count; i++)
        if (kd_schema_parent(i) == row && !hidden(&kd_schema[i]))
            kd_buf_printf(b, "  %-22s %s\n", leaf_of(kd_schema[i].key), kd_schema[i].meaning);
}

static void print_key(kd_buf *b, int row)
{
    const kd_key *k = &kd_schema[row];
    char expected[200], def[80];
    kd_schema_expected(k, expected, sizeof expected);
    kd_schema_default(k, def, sizeof def);
    kd_buf_printf(b, "%s\n  %s\n\n", k->key, k->meaning);
    if (k->type != KD_KEY_SWEEP)
        kd_buf_printf(b, "value    %s\n", expected);
    if (def[0])
        kd_buf_printf(b, "default  %s\n", def);
    if (k->only) {
        int n = (int)strcspn(k->only, "=");
        kd_buf_printf(b, "only     with %.*s: %s\n", n, k->only, k->only + n + 1);
    }
    if (k->type == KD_KEY_MAP || kd_items_of(k)) {
        kd_buf_str(b, "\n");
        print_below(b, row);
    }
}

/* The key's row, -1 for the file itself (key NULL). */
static int find(const char *key, int *out_row, kd_diag *diag)
{
    *out_row = key ? kd_schema_find(key, strlen(key)) : -1;
    if (!key || (*out_row >= 0 && !hidden(&kd_schema[*out_row])))
        return 0;
    const char *near = nearest(key);
    return near ? kd_fail(diag, -KD_ENOENT,
                          "there is no key \"%.100s\" in a job file; did you mean %s?", key, near)
                : kd_fail(diag, -KD_ENOENT, "there is no key \"%.100s\" in a job file", key);
}

int kd_job_explain(const char *key, char **out_text, kd_diag *diag)
{
    int row, rc = find(key, &row, diag);
    if (rc != 0)
        return rc;
    kd_buf b;
    kd_buf_init(&b, 64u << 10);
    if (key)
        print_key(&b, row);
    else
        print_below(&b, -1);
    *out_text = kd_buf_take(&b);
    return *out_text ? 0 : kd_fail(diag, -KD_ENOMEM, "no memory to explain a key");
}

/* The keys or elements right below a row, each with its meaning. */
static json_t *below_json(int row)
{
    const kd_items *items = row >= 0 ? kd_items_of(&kd_schema[row]) : NULL;
    json_t *list = json_array();
    char text[160];
    for (int i = 0; items && i < items->n; i++) {
        kd_item_text(&items->of[i], text, sizeof text);
        json_array_append_new(
            list, json_pack("{s:s, s:s}", "element", text, "meaning", items->of[i].meaning));
    }
    for (int i = 0; i < kd_schema_count; i++)
        if (kd_schema_parent(i) == row && !hidden(&kd_schema[i]))
            json_array_append_new(list, json_pack("{s:s, s:s}", "key", kd_schema[i].key, "meaning",
                                                  kd_schema[i].meaning));
    return list;
}

int kd_job_explain_json(const char *key, char **out_text, kd_diag *diag)
{
    int row, rc = find(key, &row, diag);
    if (rc != 0)
        return rc;
    json_t *o = json_object();
    if (row >= 0) {
        const kd_key *k = &kd_schema[row];
        char expected[200], def[80];
        kd_schema_expected(k, expected, sizeof expected);
        kd_schema_default(k, def, sizeof def);
        json_object_set_new(o, "key", json_string(k->key));
        json_object_set_new(o, "meaning", json_string(k->meaning));
        json_object_set_new(o, "value",
                            k->type == KD_KEY_SWEEP ? json_null() : json_string(expected));
        json_object_set_new(o, "default", def[0] ? json_string(def) : json_null());
        json_object_set_new(o, "only", k->only ? json_string(k->only) : json_null());
    }
    json_object_set_new(o, "below", below_json(row));
    *out_text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return *out_text ? 0 : kd_fail(diag, -KD_ENOMEM, "no memory to explain a key");
}

const char *kd_job_key(int i, const char **out_meaning)
{
    for (int row = 0; row < kd_schema_count; row++) {
        if (hidden(&kd_schema[row]) || i-- > 0)
            continue;
        *out_meaning = kd_schema[row].meaning;
        return kd_schema[row].key;
    }
    return NULL;
}

/* ---- JSON Schema, draft 2020-12 (json-schema.org/draft/2020-12) */

static json_t *choices_json(const char *choices)
{
    json_t *list = json_array();
    char word[KD_JOB_WORD];
    for (int i = 0; kd_schema_choice_text(choices, i, word, sizeof word); i++)
        json_array_append_new(list, json_string(word));
    return json_pack("{s:o}", "enum", list);
}

static json_t *number_json(const kd_key *k, const char *type)
{
    json_t *o = json_pack("{s:s}", "type", type);
    if (k->type == KD_KEY_SEED)
        return json_object_set_new(o, "minimum", json_integer(0)) == 0 ? o : NULL;
    json_object_set_new(o, k->flags & KD_KEY_LO_OPEN ? "exclusiveMinimum" : "minimum",
                        json_real(k->lo));
    json_object_set_new(o, k->flags & KD_KEY_HI_OPEN ? "exclusiveMaximum" : "maximum",
                        json_real(k->hi));
    return o;
}

/* A word that stands for something, or a number. */
static json_t *word_or_number(const kd_key *k, const char *words)
{
    return json_pack("{s:[o, o]}", "anyOf", choices_json(words), number_json(k, "integer"));
}

static json_t *item_json(const kd_item *item);

static json_t *items_json(const kd_items *items)
{
    json_t *any = json_array();
    for (int i = 0; i < items->n; i++)
        json_array_append_new(any, item_json(&items->of[i]));
    return json_pack("{s:s, s:{s:o}}", "type", "array", "items", "anyOf", any);
}

static json_t *value_json(const kd_key *k)
{
    switch (k->type) {
    case KD_KEY_BOOL:
        return json_pack("{s:s}", "type", "boolean");
    case KD_KEY_INT:
        if (k->choices)
            break;
        return number_json(k, "integer");
    case KD_KEY_SEED:
        return number_json(k, "integer");
    case KD_KEY_REAL:
        return number_json(k, "number");
    case KD_KEY_INTS:
        return json_pack("{s:s, s:i, s:o}", "type", "array", "maxItems", KD_INTS_MAX, "items",
                         number_json(k, "integer"));
    case KD_KEY_VIEWS:
        return word_or_number(k, "fresh");
    case KD_KEY_EDGE:
        return word_or_number(k, "same|valid");
    case KD_KEY_WORD:
    case KD_KEY_CHOICE:
    case KD_KEY_FLAG:
        return choices_json(k->choices);
    case KD_KEY_AUGMENT:
    case KD_KEY_LAYERS:
    case KD_KEY_COMPRESS:
    case KD_KEY_EXPORT:
        return items_json(kd_items_of(k));
    case KD_KEY_SWEEP:
        return k->hi > 0 ? number_json(k, "integer")
                         : json_pack("{s:s, s:{s:s}}", "type", "object", "additionalProperties",
                                     "type", "array");
    default:
        return json_pack("{s:s}", "type", "string");
    }
    /* An INT of choices. */
    json_t *list = json_array();
    char word[KD_JOB_WORD];
    for (int i = 0; kd_schema_choice_text(k->choices, i, word, sizeof word); i++)
        json_array_append_new(list, json_integer(atoi(word)));
    return json_pack("{s:o}", "enum", list);
}

/* `name`, {name: VALUE} or {name: {field: VALUE}} */
static json_t *item_json(const kd_item *item)
{
    json_t *any = json_array();
    if (item->word)
        json_array_append_new(any, json_pack("{s:s}", "const", item->name));
    if (item->scalar)
        json_array_append_new(any, json_pack("{s:s, s:{s:o}, s:[s], s:b}", "type", "object",
                                             "properties", item->name, value_json(&item->fields[0]),
                                             "required", item->name, "additionalProperties", 0));
    if (item->map) {
        json_t *fields = json_object();
        for (int i = 0; i < item->n_fields; i++)
            json_object_set_new(fields, item->fields[i].key, value_json(&item->fields[i]));
        json_array_append_new(any, json_pack("{s:s, s:{s:{s:s, s:o, s:b}}, s:[s], s:b}", "type",
                                             "object", "properties", item->name, "type", "object",
                                             "properties", fields, "additionalProperties", 0,
                                             "required", item->name, "additionalProperties", 0));
    }
    return json_pack("{s:o, s:s}", "anyOf", any, "description", item->meaning);
}

/* Beside `kserve` `model` is the name of a model there, elsewhere one of our words (load.c). */
static void loosen_model(json_t *map)
{
    json_t *properties = json_object_get(map, "properties");
    json_t *model = json_object_get(properties, "model");
    if (!model || !json_object_get(properties, "kserve"))
        return;
    json_object_set_new(map, "if", json_pack("{s:[s]}", "required", "kserve"));
    json_object_set_new(map, "then",
                        json_pack("{s:{s:{s:s}}}", "properties", "model", "type", "string"));
    json_object_set_new(map, "else", json_pack("{s:{s:O}}", "properties", "model", model));
    json_object_set_new(properties, "model",
                        json_pack("{s:O}", "description", json_object_get(model, "description")));
}

static json_t *map_json(int row)
{
    json_t *properties = json_object(), *required = json_array();
    for (int i = 0; i < kd_schema_count; i++) {
        const kd_key *k = &kd_schema[i];
        char def[80];
        if (kd_schema_parent(i) != row || hidden(k))
            continue;
        json_t *o = k->type == KD_KEY_MAP ? map_json(i) : value_json(k);
        if (kd_schema_each(k) && k->type == KD_KEY_MAP && !strchr(k->key, '.'))
            o = json_pack("{s:[O, {s:s, s:o}]}", "anyOf", o, "type", "array", "items", o);
        kd_schema_default(k, def, sizeof def);
        if (def[0] && k->type != KD_KEY_MAP && !(k->flags & KD_KEY_REQUIRED))
            json_object_set_new(o, "description",
                                json_sprintf("%s (default: %s)", k->meaning, def));
        else
            json_object_set_new(o, "description", json_string(k->meaning));
        json_object_set_new(properties, leaf_of(k->key), o);
        /* One that another key may imply is not asked for. */
        if (k->flags & KD_KEY_REQUIRED && !k->only && k->type != KD_KEY_WORD)
            json_array_append_new(required, json_string(leaf_of(k->key)));
    }
    json_t *map = json_pack("{s:[s, s], s:o, s:o, s:b}", "type", "object", "null", "properties",
                            properties, "required", required, "additionalProperties", 0);
    loosen_model(map);
    return map;
}

int kd_job_json_schema(char **out_text)
{
    json_t *o = map_json(-1);
    json_object_set_new(o, "$schema", json_string("https://json-schema.org/draft/2020-12/schema"));
    json_object_set_new(o, "title", json_string("distilld job file"));
    *out_text = json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_decref(o);
    return *out_text ? 0 : -KD_ENOMEM;
}

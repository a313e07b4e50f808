#include "items.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *choice_value(const kd_key *k, int n)
{
    char word[KD_JOB_WORD];
    return kd_schema_choice_text(k->choices, n, word, sizeof word) ? json_string(word) : NULL;
}

json_t *kd_value_json(const kd_key *k, const char *field)
{
    int whole;
    bool yes;
    double real;
    uint64_t seed;
    switch (k->type) {
    case KD_KEY_NAME:
    case KD_KEY_PATH:
    case KD_KEY_FILE:
    case KD_KEY_ADDRESS:
    case KD_KEY_DIGEST:
    case KD_KEY_WORD:
        return field[0] ? json_string(field) : json_null();
    case KD_KEY_CHOICE:
        memcpy(&whole, field, sizeof whole);
        return choice_value(k, whole);
    case KD_KEY_FLAG:
        memcpy(&yes, field, sizeof yes);
        return choice_value(k, yes);
    case KD_KEY_BOOL:
        memcpy(&yes, field, sizeof yes);
        return json_boolean(yes);
    case KD_KEY_VIEWS:
    case KD_KEY_INT:
        memcpy(&whole, field, sizeof whole);
        return k->type == KD_KEY_VIEWS && whole == 0 ? json_string("fresh") : json_integer(whole);
    case KD_KEY_EDGE:
        memcpy(&whole, field, sizeof whole);
        return whole < 0    ? json_string("same")
               : whole == 0 ? json_string("valid")
                            : json_integer(whole);
    case KD_KEY_SEED:
        memcpy(&seed, field, sizeof seed);
        return json_integer((json_int_t)seed);
    case KD_KEY_REAL:
        memcpy(&real, field, sizeof real);
        return json_real(real);
    default:
        return json_null();
    }
}

static json_t *ints_value(const char *field)
{
    json_t *list = json_array();
    int count;
    memcpy(&count, field + KD_INTS_MAX * sizeof(int), sizeof count);
    for (int i = 0, v; i < count && i < KD_INTS_MAX; i++) {
        memcpy(&v, field + (size_t)i * sizeof v, sizeof v);
        json_array_append_new(list, json_integer(v));
    }
    return list;
}

/* NULL: memory ran out. An empty text is json_null, for "leave it out". */
static json_t *row_value(const kd_key *k, const kd_job *job, int inst)
{
    const char *field = kd_schema_const_field(job, k, inst);
    if (k->type == KD_KEY_COMPRESS && job->n_compress == 0)
        return json_null();
    if (kd_items_of(k))
        return kd_items_json(k, job, inst);
    if (k->type == KD_KEY_INTS)
        return ints_value(field);
    return k->type == KD_KEY_MAP ? json_object() : kd_value_json(k, field);
}

/* Raises the number of digits until this real number comes back. */
static void need_digits(void *arg, double v)
{
    int *digits = arg;
    char text[64];
    while (*digits < 17 && snprintf(text, sizeof text, "%.*g", *digits, v) &&
           strtod(text, NULL) != v)
        ++*digits;
}

/* The least number of digits that brings back every real number of the job: 15 for what people
 * write, so that 0.9 stays 0.9. */
static size_t digits_needed(const kd_job *job)
{
    int digits = 15;
    for (int i = 0; i < kd_schema_count; i++) {
        const kd_key *k = &kd_schema[i];
        int n = kd_schema_each(k) ? job->n_teachers : 1;
        for (int inst = 0; inst < n; inst++) {
            double v;
            if (kd_items_of(k))
                kd_items_reals(k, job, inst, need_digits, &digits);
            if (k->type != KD_KEY_REAL)
                continue;
            memcpy(&v, kd_schema_const_field(job, k, inst), sizeof v);
            need_digits(&digits, v);
        }
    }
    return (size_t)digits;
}

/* Objects made so far, by row; borrowed from the root. */
typedef struct objects {
    json_t *root;
    json_t *of[KD_MAX_TEACHERS][KD_KEYS_MAX];
} objects;

/* Puts the row below the mapping around it, if that mapping is there. False: no memory. */
static bool put_row(objects *o, int row, int inst, const kd_job *job)
{
    const kd_key *k = &kd_schema[row];
    int parent = kd_schema_parent(row);
    json_t *into = o->root;
    if (parent >= 0)
        into = o->of[kd_schema_each(&kd_schema[parent]) ? inst : 0][parent];
    if (!into || k->type == KD_KEY_SWEEP || k->flags & KD_KEY_ALIAS ||
        !kd_schema_applies(k, job, inst))
        return true;
    if (k->flags & KD_KEY_OPTIONAL && *kd_schema_const_field(job, k, inst) == 0)
        return true;
    json_t *value = row_value(k, job, inst);
    if (!value)
        return false;
    if (json_is_null(value))
        return true;
    const char *dot = strrchr(k->key, '.');
    if (k->type == KD_KEY_MAP)
        o->of[inst][row] = value;
    if (job->n_teachers < 2 || strcmp(k->key, KD_SCHEMA_EACH) != 0)
        return json_object_set_new(into, dot ? dot + 1 : k->key, value) == 0;
    json_t *list = json_object_get(into, k->key);
    if (!list && json_object_set_new(into, k->key, list = json_array()) != 0)
        return false;
    return json_array_append_new(list, value) == 0;
}

int kd_job_resolved(const kd_job *job, char **out_json, kd_diag *diag)
{
    objects o = {.root = json_object()};
    bool ok = o.root != NULL;
    for (int i = 0; ok && i < kd_schema_count; i++) {
        int n = kd_schema_each(&kd_schema[i]) ? job->n_teachers : 1;
        for (int inst = 0; ok && inst < n; inst++)
            ok = put_row(&o, i, inst, job);
    }
    char *text =
        ok ? json_dumps(o.root, JSON_INDENT(2) | JSON_REAL_PRECISION(digits_needed(job))) : NULL;
    json_decref(o.root);
    if (!text)
        return kd_fail(diag, -KD_ENOMEM, "no memory to print the job %.63s", job->name);
    *out_json = text;
    return 0;
}

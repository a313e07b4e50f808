#include "items.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int *kd_load_at(kd_loader *l, int row)
{
    return &l->at[kd_schema_each(&kd_schema[row]) ? l->inst : 0][row];
}

int kd_load_node(kd_loader *l, const char *key)
{
    int row = kd_schema_find(key, strlen(key));
    KD_BUG_ON(row < 0);
    while (row >= 0 && !*kd_load_at(l, row))
        row = kd_schema_parent(row);
    return row < 0 ? 1 : *kd_load_at(l, row);
}

int kd_load_bad(kd_loader *l, int node, const char *key, const char *fmt, ...)
{
    static const char each[] = KD_SCHEMA_EACH;
    const size_t n = sizeof each - 1;
    char what[600], shown[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    if (l->listed && strncmp(key, each, n) == 0 && (!key[n] || key[n] == '.'))
        snprintf(shown, sizeof shown, "%s[%d]%s", each, l->inst, key + n);
    else
        snprintf(shown, sizeof shown, "%s", key);
    return kd_tree_fail(l->tree, node, shown, l->diag, -KD_EINVAL, "%s", what);
}

/* "a list", "the text \"abc\"", ... */
static void found_text(const yaml_node_t *n, char *out, size_t size)
{
    char shown[KD_SHOWN];
    if (n->type == YAML_MAPPING_NODE)
        snprintf(out, size, "a mapping");
    else if (n->type == YAML_SEQUENCE_NODE)
        snprintf(out, size, "a list");
    else if (kd_tree_is_null(n))
        snprintf(out, size, "nothing");
    else
        snprintf(out, size,
                 n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? "`%s`" : "the text \"%s\"",
                 kd_tree_shown((const char *)n->data.scalar.value, n->data.scalar.length, shown));
}

int kd_load_bad_value(kd_loader *l, int node, const char *key, const kd_key *k)
{
    char expected[200], found[120];
    const yaml_node_t *n = kd_tree_node(l->tree, node);
    kd_schema_expected(k, expected, sizeof expected);
    found_text(n, found, sizeof found);
    if (n->type == YAML_SCALAR_NODE && k->choices && !kd_tree_is_null(n)) {
        char one[KD_JOB_WORD], best[KD_JOB_WORD] = "";
        int least = 3;
        for (int i = 0; kd_schema_choice_text(k->choices, i, one, sizeof one); i++) {
            const char *word = (const char *)n->data.scalar.value;
            bool begun = word[0] && strncmp(one, word, strlen(word)) == 0;
            int d = begun ? 0 : kd_schema_distance(word, one);
            if (d < least) {
                least = d;
                snprintf(best, sizeof best, "%s", one);
            }
        }
        if (best[0])
            return kd_load_bad(l, node, key, "expected %s, found %s; did you mean `%s`?", expected,
                               found, best);
    }
    return kd_load_bad(l, node, key, "expected %s, found %s", expected, found);
}

/* ---- keys */

static bool is_child(const char *key, const char *prefix, size_t prefix_len)
{
    if (prefix_len == 0)
        return !strchr(key, '.');
    return strncmp(key, prefix, prefix_len) == 0 && key[prefix_len] == '.' &&
           !strchr(key + prefix_len + 1, '.');
}

/* The nearest key here; a key of the same name elsewhere if none here is near. */
static void nearest_key(const char *prefix, const char *name, char *out, size_t size)
{
    size_t prefix_len = strlen(prefix);
    int least = 1000;
    const char *near = "", *elsewhere = NULL;
    for (int i = 0; i < kd_schema_count; i++) {
        const char *key = kd_schema[i].key, *dot = strrchr(key, '.');
        const char *leaf = dot ? dot + 1 : key;
        if (is_child(key, prefix, prefix_len)) {
            int d = kd_schema_distance(name, leaf);
            if (d < least) {
                least = d;
                near = leaf;
            }
        } else if (!elsewhere && strcmp(leaf, name) == 0) {
            elsewhere = key;
        }
    }
    bool close = least <= 1 + (int)strlen(name) / 4;
    snprintf(out, size, "%s", !close && elsewhere ? elsewhere : near);
}

static int unknown_key(kd_loader *l, int node, const char *prefix, const char *name)
{
    char key[256], near[128], known[400] = "", shown[KD_SHOWN];
    size_t prefix_len = strlen(prefix), n = 0;
    for (int i = 0; i < kd_schema_count && n < sizeof known; i++)
        if (is_child(kd_schema[i].key, prefix, prefix_len))
            n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "",
                                  kd_schema[i].key + (prefix_len ? prefix_len + 1 : 0));
    nearest_key(prefix, name, near, sizeof near);
    snprintf(key, sizeof key, "%s%s%s", prefix, prefix[0] ? "." : "",
             kd_tree_shown(name, strlen(name), shown));
    return kd_load_bad(l, node, key, "unknown key; did you mean `%s`? (known here: %s)", near,
                       known);
}

static int walk(kd_loader *l, int map, const char *prefix);

static int walk_below(kd_loader *l, int row, int node)
{
    const yaml_node_t *v = kd_tree_node(l->tree, node);
    const char *key = kd_schema[row].key;
    if (kd_tree_is_null(v))
        return kd_load_bad(l, node, key, "no keys below it; write {} for all defaults");
    if (v->type != YAML_MAPPING_NODE)
        return kd_load_bad_value(l, node, key, &kd_schema[row]);
    *kd_load_at(l, row) = node;
    return walk(l, node, key);
}

/* A list of teachers: each has the keys of the one. */
static int walk_each(kd_loader *l, int row, int node)
{
    const yaml_node_t *v = kd_tree_node(l->tree, node);
    const char *key = kd_schema[row].key;
    if (v->type != YAML_SEQUENCE_NODE) {
        l->job.n_teachers = 1;
        return walk_below(l, row, node);
    }
    ptrdiff_t n = v->data.sequence.items.top - v->data.sequence.items.start;
    if (n < 1 || n > KD_MAX_TEACHERS)
        return kd_load_bad(l, node, key, "expected 1 to %d mappings of keys in the list, found %td",
                           KD_MAX_TEACHERS, n);
    l->listed = true;
    l->job.n_teachers = (int)n;
    int rc = 0;
    for (l->inst = 0; rc == 0 && l->inst < (int)n; l->inst++)
        rc = walk_below(l, row, kd_tree_node(l->tree, node)->data.sequence.items.start[l->inst]);
    l->inst = 0;
    return rc;
}

/* Finds the row of every key of a mapping and notes its value's node; recursion is as deep as the
 * table's keys. A mapping of many keys is given up at its first unknown or repeated one, so time
 * stays linear. */
static int walk(kd_loader *l, int map, const char *prefix)
{
    const yaml_node_t *m = kd_tree_node(l->tree, map);
    for (yaml_node_pair_t *p = m->data.mapping.pairs.start; p < m->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = kd_tree_node(l->tree, p->key);
        if (k->type != YAML_SCALAR_NODE)
            return kd_load_bad(l, p->key, prefix,
                               "a key must be a word, this one is a list or mapping");
        const char *name = (const char *)k->data.scalar.value;
        char key[192];
        int n = snprintf(key, sizeof key, "%s%s%s", prefix, prefix[0] ? "." : "", name);
        int row = -1, rc = 0;
        if (strlen(name) == k->data.scalar.length && !strchr(name, '.') && n < (int)sizeof key)
            row = kd_schema_find(key, (size_t)n);
        if (row < 0)
            return unknown_key(l, p->key, prefix, name);
        int *at = kd_load_at(l, row);
        if (*at) {
            const yaml_node_t *first = kd_tree_node(l->tree, *at);
            l->listed &= prefix[0] != '\0'; /* else it is not about one of the teachers */
            return kd_load_bad(l, p->key, key, "written twice; the first one is in line %zu",
                               first->start_mark.line + 1);
        }
        *at = p->value;
        if (strcmp(key, KD_SCHEMA_EACH) == 0)
            rc = walk_each(l, row, p->value);
        else if (kd_schema[row].type == KD_KEY_MAP)
            rc = walk_below(l, row, p->value);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* ---- lists */

static int read_ints(kd_loader *l, const kd_key *k, int node)
{
    const yaml_node_t *list = kd_tree_node(l->tree, node);
    int *field = (int *)(void *)kd_schema_field(&l->job, k, l->inst), n = 0;
    if (list->type != YAML_SEQUENCE_NODE ||
        list->data.sequence.items.top - list->data.sequence.items.start > KD_INTS_MAX)
        return kd_load_bad_value(l, node, k->key, k);
    for (yaml_node_item_t *i = list->data.sequence.items.start; i < list->data.sequence.items.top;
         i++) {
        if (!kd_value_int(kd_tree_node(l->tree, *i), k, &field[n++]))
            return kd_load_bad_value(l, *i, k->key, k);
    }
    field[KD_INTS_MAX] = n;
    return 0;
}

/* ---- rows */

static char *field_of(kd_loader *l, const kd_key *k)
{
    return kd_schema_field(&l->job, k, l->inst);
}

static int read_row(kd_loader *l, const kd_key *k, int node)
{
    if (k->type == KD_KEY_INTS)
        return read_ints(l, k, node);
    if (kd_items_of(k))
        return kd_items_read(l, k, node);
    if (k->type == KD_KEY_SWEEP)
        return 0;
    if (!kd_value_node(field_of(l, k), k, kd_tree_node(l->tree, node)))
        return kd_load_bad_value(l, node, k->key, k);
    return 0;
}

static int missing(kd_loader *l, int row)
{
    const kd_key *k = &kd_schema[row];
    int parent = kd_schema_parent(row);
    char expected[200];
    kd_schema_expected(k, expected, sizeof expected);
    return kd_load_bad(l, parent < 0 ? 1 : *kd_load_at(l, parent), k->key, "missing: %s (%s)",
                       k->meaning, expected);
}

static int not_here(kd_loader *l, int row)
{
    const kd_key *k = &kd_schema[row];
    int n = (int)strcspn(k->only, "=");
    return kd_load_bad(l, *kd_load_at(l, row), k->key, "only with `%.*s: %s`", n, k->only,
                       k->only + n + 1);
}

/* `layers: [...]` says that the model is layers, `onnx: FILE` that it is onnx. */
static int imply_row(kd_loader *l, int row)
{
    const kd_key *k = &kd_schema[row];
    if (!(k->flags & KD_KEY_IMPLIES) || !*kd_load_at(l, row))
        return 0;
    int sibling = kd_schema_sibling(k);
    const kd_key *s = &kd_schema[sibling];
    const char *word = strchr(k->only, '=') + 1;
    if (!*kd_load_at(l, sibling) && !field_of(l, s)[0])
        KD_BUG_ON(!kd_value_store(field_of(l, s), s, word, strlen(word), false));
    return 0;
}

/* Fills the row's field, of the teacher that is looked at, from its node, else from its default. */
static int fill_row(kd_loader *l, int row)
{
    const kd_key *k = &kd_schema[row];
    int parent = kd_schema_parent(row), node = *kd_load_at(l, row);
    bool applies = kd_schema_applies(k, &l->job, l->inst);
    if (node && !applies)
        return not_here(l, row);
    if (node && k->type == KD_KEY_MAP) {
        if (k->flags & KD_KEY_STORED)
            memcpy(field_of(l, k), &(bool){true}, sizeof(bool));
        return 0;
    }
    if (node)
        return read_row(l, k, node);
    if (k->flags & KD_KEY_REQUIRED && applies && (parent < 0 || *kd_load_at(l, parent)) &&
        !(k->type == KD_KEY_WORD && field_of(l, k)[0]))
        return missing(l, row);
    if (k->def && k->def[0] && k->def[0] != '=' && applies)
        KD_BUG_ON(!kd_value_store(field_of(l, k), k, k->def, strlen(k->def), false));
    return 0;
}

/* A default that copies another key's value. */
static int copy_row(kd_loader *l, int row)
{
    const kd_key *k = &kd_schema[row];
    if (*kd_load_at(l, row) || !k->def || k->def[0] != '=' ||
        !kd_schema_applies(k, &l->job, l->inst))
        return 0;
    int from = kd_schema_find(k->def + 1, strlen(k->def + 1));
    KD_BUG_ON(from < 0 || kd_schema[from].type != k->type || kd_schema_size(k) == 0);
    memcpy(field_of(l, k), field_of(l, &kd_schema[from]), kd_schema_size(k));
    return 0;
}

/* `{kserve: HOST:PORT, model: NAME}`: the name is that of the model there. */
static void name_outside(kd_loader *l)
{
    const int kserve = kd_schema_find("teacher.kserve", strlen("teacher.kserve"));
    const int model = kd_schema_find("teacher.model", strlen("teacher.model"));
    const int served = kd_schema_find("teacher.served", strlen("teacher.served"));
    for (l->inst = 0; l->inst < l->job.n_teachers; l->inst++) {
        int *word = kd_load_at(l, model), *name = kd_load_at(l, served);
        if (!*kd_load_at(l, kserve) || !*word || *name)
            continue;
        *name = *word;
        *word = 0;
    }
    l->inst = 0;
}

static int each_row(kd_loader *l, int (*what)(kd_loader *l, int row))
{
    int rc = 0;
    for (int i = 0; rc == 0 && i < kd_schema_count; i++) {
        int n = kd_schema_each(&kd_schema[i]) ? l->job.n_teachers : 1;
        for (l->inst = 0; rc == 0 && l->inst < n; l->inst++)
            rc = what(l, i);
        l->inst = 0;
    }
    return rc;
}

int kd_load_job(const char *text, size_t len, const char *file, const char *const *sets, int n_sets,
                kd_job *out, bool *out_listed, kd_diag *diag)
{
    kd_loader *l = calloc(1, sizeof *l);
    if (!l)
        return kd_fail(diag, -KD_ENOMEM, "no memory to read %.200s", file);
    l->diag = diag;
    int rc = kd_tree_new(text, len, file, sets, n_sets, &l->tree, diag);
    if (rc == 0)
        rc = walk(l, 1, "");
    if (rc == 0) {
        name_outside(l);
        rc = each_row(l, imply_row);
    }
    if (rc == 0)
        rc = each_row(l, fill_row);
    /* What they copy is there by now. */
    if (rc == 0)
        rc = each_row(l, copy_row);
    if (rc == 0) {
        kd_load_derive(&l->job);
        rc = kd_load_check(l);
    }
    if (rc == 0) {
        memcpy(out, &l->job, sizeof *out); /* padding too: equal jobs are equal bytes */
        *out_listed = l->listed;
    }
    kd_tree_free(l->tree);
    free(l);
    return rc;
}

int kd_job_load(const char *text, size_t len, const char *file, const char *const *sets, int n_sets,
                kd_job *out, kd_diag *diag)
{
    bool listed;
    return kd_load_job(text, len, file, sets, n_sets, out, &listed, diag);
}

#include "job/sweep.h"

#include "load.h"

#include "kd/buf.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_VALUE 60 /* bytes of a value in a label */

typedef struct axis {
    char key[129];
    int node;   /* of the key */
    int values; /* node of the list */
    int n;
} axis;

typedef struct sweeper {
    const char *text, *file;
    size_t len;
    const char *const *sets;
    int n_sets;
    kd_tree *tree;
    kd_diag *diag;
    axis axes[KD_SWEEP_KEYS];
    int n_axes;
    int matrix, seeds_at; /* nodes, 0 = not written */
    int seeds;
    kd_sweep out;
    kd_job job; /* of the child that is made */
} sweeper;

static int no_memory(sweeper *s)
{
    return kd_fail(s->diag, -KD_ENOMEM, "no memory for the sweep of %.200s", s->file);
}

/* ---- text of a value */

/* Bytes of a text that make whole characters and are at most max. */
static int whole_chars(const char *text, size_t max)
{
    size_t n = strnlen(text, max + 1);
    if (n > max)
        for (n = max; n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80;)
            n--;
    return (int)n;
}

/* Words and numbers stay as they are; everything else is quoted. */
static void put_scalar(kd_buf *b, const yaml_node_t *n)
{
    const char *v = (const char *)n->data.scalar.value;
    size_t len = n->data.scalar.length;
    static const char bare[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+._/-";
    bool plain = n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (kd_tree_is_null(n)) {
        kd_buf_str(b, "null");
        return;
    }
    if (plain && strlen(v) == len && v[strspn(v, bare)] == '\0') {
        kd_buf_str(b, v);
        return;
    }
    kd_buf_str(b, "\"");
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)v[i];
        bool c1 = c == 0xc2 && i + 1 < len && (unsigned char)v[i + 1] < 0xa0;
        if (c < 0x20 || c == 0x7f)
            kd_buf_printf(b, "\\x%02x", c);
        else if (c1) /* U+0080 to U+009F steer terminals too */
            kd_buf_printf(b, "\\x%02x", (unsigned char)v[++i]);
        else if (c == '"' || c == '\\')
            kd_buf_printf(b, "\\%c", c);
        else
            kd_buf_add(b, &v[i], 1);
    }
    kd_buf_str(b, "\"");
}

/* A node as flow YAML on one line; as deep as the tree, which is at most KD_TREE_NESTING. */
static void put_flow(kd_buf *b, kd_tree *t, int node)
{
    const yaml_node_t *n = kd_tree_node(t, node);
    const char *comma = "";
    if (n->type == YAML_SEQUENCE_NODE) {
        kd_buf_str(b, "[");
        for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top;
             i++, comma = ", ") {
            kd_buf_str(b, comma);
            put_flow(b, t, *i);
        }
        kd_buf_str(b, "]");
    } else if (n->type == YAML_MAPPING_NODE) {
        kd_buf_str(b, "{");
        for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top;
             p++, comma = ", ") {
            kd_buf_str(b, comma);
            put_flow(b, t, p->key);
            kd_buf_str(b, ": ");
            put_flow(b, t, p->value);
        }
        kd_buf_str(b, "}");
    } else {
        put_scalar(b, n);
    }
}

/* A plain scalar that JSON would take for a number, true or false is that; all else is text. */
static json_t *json_scalar(const yaml_node_t *n)
{
    const char *v = (const char *)n->data.scalar.value;
    if (kd_tree_is_null(n))
        return json_null();
    json_t *value = NULL;
    if (n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
        value = json_loadb(v, n->data.scalar.length, JSON_DECODE_ANY, NULL);
    return value ? value : json_stringn(v, n->data.scalar.length);
}

static json_t *json_of(kd_tree *t, int node)
{
    const yaml_node_t *n = kd_tree_node(t, node);
    if (n->type == YAML_SEQUENCE_NODE) {
        json_t *list = json_array();
        for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top;
             i++)
            json_array_append_new(list, json_of(t, *i));
        return list;
    }
    if (n->type == YAML_MAPPING_NODE) {
        json_t *map = json_object();
        for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top;
             p++) {
            const yaml_node_t *key = kd_tree_node(t, p->key);
            if (key->type == YAML_SCALAR_NODE)
                json_object_set_new(map, (const char *)key->data.scalar.value,
                                    json_of(t, p->value));
        }
        return map;
    }
    return json_scalar(n);
}

/* ---- what is swept */

/* Row of a dotted key, whose numbers of list elements are left out. */
static int row_of(const char *key)
{
    char plain[129];
    size_t n = 0;
    for (const char *p = key; *p && n < sizeof plain - 1;) {
        size_t digits = strspn(p + 1, "0123456789");
        bool number = (*p == '[' || *p == '.') && digits > 0 &&
                      (p[1 + digits] == (*p == '[' ? ']' : '.') || !p[1 + digits]);
        if (number)
            p += 1 + digits + (*p == '[');
        else
            plain[n++] = *p++;
    }
    plain[n] = '\0';
    return kd_schema_find(plain, n);
}

static int unknown_axis(sweeper *s, int node, const char *key)
{
    char shown[KD_SHOWN];
    int least = 1000, near = 0;
    for (int i = 0; i < kd_schema_count; i++) {
        int d = kd_schema_distance(key, kd_schema[i].key);
        if (d < least) {
            least = d;
            near = i;
        }
    }
    return kd_tree_fail(s->tree, node, "matrix", s->diag, -KD_EINVAL,
                        "`%s` is no key of a job; did you mean `%s`?",
                        kd_tree_shown(key, strlen(key), shown), kd_schema[near].key);
}

static int add_axis(sweeper *s, int node, int list, const char *key)
{
    const yaml_node_t *v = kd_tree_node(s->tree, list);
    int row = row_of(key);
    if (row < 0 || kd_schema[row].type == KD_KEY_SWEEP)
        return unknown_axis(s, node, key);
    if (v->type != YAML_SEQUENCE_NODE || v->data.sequence.items.top == v->data.sequence.items.start)
        return kd_tree_fail(s->tree, list, "matrix", s->diag, -KD_EINVAL,
                            "expected a list of values for %s, as in [1, 2]", key);
    for (int i = 0; i < s->n_axes; i++)
        if (strcmp(s->axes[i].key, key) == 0)
            return kd_tree_fail(s->tree, node, "matrix", s->diag, -KD_EINVAL, "%s is written twice",
                                key);
    if (s->n_axes == KD_SWEEP_KEYS)
        return kd_tree_fail(s->tree, node, "matrix", s->diag, -KD_ELIMIT, "more than %d keys",
                            KD_SWEEP_KEYS);
    axis *a = &s->axes[s->n_axes++];
    ptrdiff_t n = v->data.sequence.items.top - v->data.sequence.items.start;
    *a = (axis){.node = node, .values = list, .n = (int)KD_MIN(n, KD_SWEEP_CHILDREN + 1)};
    snprintf(a->key, sizeof a->key, "%s", key);
    return 0;
}

/* Keys are dotted, or mappings within one another, or both. */
static int read_axes(sweeper *s, int map, const char *prefix)
{
    const yaml_node_t *m = kd_tree_node(s->tree, map);
    int rc = 0;
    for (yaml_node_pair_t *p = m->data.mapping.pairs.start;
         rc == 0 && p < m->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = kd_tree_node(s->tree, p->key);
        const char *name = k->type == YAML_SCALAR_NODE ? (const char *)k->data.scalar.value : "";
        char key[129];
        int n = snprintf(key, sizeof key, "%s%s%s", prefix, prefix[0] ? "." : "", name);
        if (!name[0] || strlen(name) != k->data.scalar.length || n >= (int)sizeof key)
            return kd_tree_fail(s->tree, p->key, "matrix", s->diag, -KD_EINVAL,
                                "expected a key of the job, as in distill.loss.temperature");
        if (kd_tree_node(s->tree, p->value)->type == YAML_MAPPING_NODE)
            rc = read_axes(s, p->value, key);
        else
            rc = add_axis(s, p->key, p->value, key);
    }
    return rc;
}

static int read_sweep(sweeper *s)
{
    static const kd_key count = {.type = KD_KEY_INT, .lo = 1, .hi = KD_SWEEP_CHILDREN};
    int rc = 0;
    s->matrix = kd_tree_find(s->tree, 1, "matrix");
    s->seeds_at = kd_tree_find(s->tree, 1, "seeds");
    s->seeds = 1;
    if (s->matrix) {
        const yaml_node_t *m = kd_tree_node(s->tree, s->matrix);
        if (m->type != YAML_MAPPING_NODE)
            return kd_tree_fail(s->tree, s->matrix, "matrix", s->diag, -KD_EINVAL,
                                "expected a mapping of keys to lists of values, as in "
                                "{distill.loss.temperature: [1, 2]}");
        rc = read_axes(s, s->matrix, "");
        if (rc == 0 && s->n_axes == 0)
            rc =
                kd_tree_fail(s->tree, s->matrix, "matrix", s->diag, -KD_EINVAL, "no keys below it");
    }
    if (rc == 0 && s->seeds_at &&
        !kd_value_int(kd_tree_node(s->tree, s->seeds_at), &count, &s->seeds))
        rc = kd_tree_fail(s->tree, s->seeds_at, "seeds", s->diag, -KD_EINVAL,
                          "expected a whole number from 1 to %d", KD_SWEEP_CHILDREN);
    for (int i = 0; rc == 0 && s->seeds_at && i < s->n_axes; i++)
        if (strcmp(s->axes[i].key, "seed") == 0)
            rc = kd_tree_fail(s->tree, s->axes[i].node, "matrix", s->diag, -KD_EINVAL,
                              "seed is swept by `seeds` already");
    if (rc != 0)
        return rc;
    int64_t n = s->seeds;
    for (int i = 0; i < s->n_axes && n <= KD_SWEEP_CHILDREN; i++)
        n *= s->axes[i].n;
    if (n > KD_SWEEP_CHILDREN)
        return kd_tree_fail(s->tree, s->matrix ? s->matrix : s->seeds_at,
                            s->matrix ? "matrix" : "seeds", s->diag, -KD_ELIMIT,
                            "more than %d combinations; split the sweep", KD_SWEEP_CHILDREN);
    s->out.n = s->matrix || s->seeds_at ? (int)n : 0;
    s->out.seeds = s->seeds;
    return 0;
}

/* ---- one child */

/* Which value of each axis a child has; the last axis turns fastest. */
static int choice_of(const sweeper *s, int child, int of_axis)
{
    int turn = child / s->seeds;
    for (int i = s->n_axes - 1; i > of_axis; i--)
        turn /= s->axes[i].n;
    return turn % s->axes[of_axis].n;
}

static int value_node(const sweeper *s, int child, int of_axis)
{
    const yaml_node_t *list = kd_tree_node(s->tree, s->axes[of_axis].values);
    return list->data.sequence.items.start[choice_of(s, child, of_axis)];
}

static int add_set(kd_sweep_child *c, kd_buf *text)
{
    c->sets[c->n_sets] = kd_buf_take(text);
    return c->sets[c->n_sets] ? (c->n_sets++, 0) : -KD_ELIMIT;
}

static int add_seed(kd_sweep_child *c, const char *key, uint64_t seed)
{
    kd_buf b;
    kd_buf_init(&b, KD_TREE_SET_TEXT);
    kd_buf_printf(&b, "%s=%llu", key, (unsigned long long)seed);
    return add_set(c, &b);
}

/* Overrides, label and values of the matrix for one child. */
static int name_child(sweeper *s, int number, kd_sweep_child *c)
{
    kd_buf label, set;
    json_t *values = json_object();
    int rc = 0;
    kd_buf_init(&label, KD_SWEEP_LABEL);
    for (int i = 0; rc == 0 && i < s->n_axes; i++) {
        const axis *a = &s->axes[i];
        int node = value_node(s, number, i);
        kd_buf_init(&set, KD_TREE_SET_TEXT);
        kd_buf_printf(&set, "%s=", a->key);
        put_flow(&set, s->tree, node);
        const char *shown = set.failed ? "" : set.data + strlen(a->key) + 1;
        int cut = whole_chars(shown, SHOWN_VALUE);
        kd_buf_printf(&label, "%s%s=%.*s", i ? " " : "", a->key, cut, shown);
        if (shown[cut])
            kd_buf_printf(&label, "...#%d", choice_of(s, number, i) + 1);
        if (add_set(c, &set) != 0)
            rc = kd_tree_fail(s->tree, node, "matrix", s->diag, -KD_ELIMIT,
                              "a value of %s is longer than %d bytes", a->key, KD_TREE_SET_TEXT);
        else if (json_object_set_new(values, a->key, json_of(s->tree, node)) != 0)
            rc = no_memory(s);
        kd_buf_clear(&set);
    }
    if (rc == 0) {
        c->group = s->n_axes ? kd_buf_take(&label) : strdup("");
        c->values = json_dumps(values, JSON_COMPACT | JSON_REAL_PRECISION(17));
        if (label.failed)
            rc = kd_tree_fail(s->tree, s->matrix, "matrix", s->diag, -KD_ELIMIT,
                              "a combination's keys and values are longer than %d bytes",
                              KD_SWEEP_LABEL);
        else if (!c->group || !c->values)
            rc = no_memory(s);
    }
    kd_buf_clear(&label);
    json_decref(values);
    return rc;
}

/* Loads the child into s->job; a complaint names the combination. */
static int try_child(sweeper *s, const kd_sweep_child *c, bool *listed)
{
    const char *all[KD_TREE_SETS];
    if (s->n_sets + c->n_sets > KD_TREE_SETS)
        return kd_fail(s->diag, -KD_ELIMIT,
                       "%.200s: %d overrides (--set) and %d of the sweep; at most %d are taken",
                       s->file, s->n_sets, c->n_sets, KD_TREE_SETS);
    for (int i = 0; i < s->n_sets; i++)
        all[i] = s->sets[i];
    for (int i = 0; i < c->n_sets; i++)
        all[s->n_sets + i] = c->sets[i];
    kd_diag diag = {0};
    int rc =
        kd_load_job(s->text, s->len, s->file, all, s->n_sets + c->n_sets, &s->job, listed, &diag);
    if (rc == 0)
        return 0;
    if (!s->matrix)
        return kd_fail(s->diag, rc, "%s", diag.msg);
    return kd_tree_fail(s->tree, s->matrix, "matrix", s->diag, rc, "with %.*s: %s",
                        whole_chars(c->group, 250), c->group, diag.msg);
}

/* The seeds of data and teachers stay as the first child has them, so that all share one bank. */
static int seed_child(sweeper *s, int number, kd_sweep_child *c, bool listed)
{
    const kd_job *j = &s->job;
    int rc = add_seed(c, "seed", j->seed + (uint64_t)(number % s->seeds));
    if (rc == 0)
        rc = add_seed(c, "data.seed", j->data.seed);
    for (int i = 0; rc == 0 && i < j->n_teachers; i++) {
        char key[64] = "teacher.fine_tune.seed";
        if (listed)
            snprintf(key, sizeof key, "teacher[%d].fine_tune.seed", i);
        if (j->teachers[i].fine_tune)
            rc = add_seed(c, key, j->teachers[i].train.seed);
    }
    return rc == 0 ? 0 : no_memory(s);
}

static int make_child(sweeper *s, int number, kd_sweep_child *c)
{
    bool listed = false;
    c->sets = calloc((size_t)s->n_axes + 2 + KD_MAX_TEACHERS, sizeof *c->sets);
    int rc = c->sets ? name_child(s, number, c) : no_memory(s);
    if (rc == 0)
        rc = try_child(s, c, &listed);
    if (rc == 0 && s->seeds_at) {
        rc = seed_child(s, number, c, listed);
        if (rc == 0)
            rc = try_child(s, c, &listed);
    }
    if (rc != 0)
        return rc;
    c->seed = s->job.seed;
    kd_buf label;
    kd_buf_init(&label, KD_SWEEP_LABEL + 32);
    kd_buf_str(&label, c->group);
    if (s->seeds_at)
        kd_buf_printf(&label, "%sseed=%llu", c->group[0] ? " " : "", (unsigned long long)c->seed);
    c->label = kd_buf_take(&label);
    return c->label ? 0 : no_memory(s);
}

int kd_sweep_load(const char *text, size_t len, const char *file, const char *const *sets,
                  int n_sets, kd_sweep *out, kd_diag *diag)
{
    sweeper *s = calloc(1, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "no memory to read %.200s", file);
    s->text = text;
    s->len = len;
    s->file = file;
    s->sets = sets;
    s->n_sets = n_sets;
    s->diag = diag;
    int rc = kd_tree_new(text, len, file, sets, n_sets, &s->tree, diag);
    if (rc == 0)
        rc = read_sweep(s);
    if (rc == 0 && s->out.n > 0) {
        s->out.child = calloc((size_t)s->out.n, sizeof *s->out.child);
        rc = s->out.child ? 0 : no_memory(s);
    }
    for (int i = 0; rc == 0 && i < s->out.n; i++)
        rc = make_child(s, i, &s->out.child[i]);
    if (rc == 0)
        *out = s->out;
    else
        kd_sweep_free(&s->out);
    kd_tree_free(s->tree);
    free(s);
    return rc;
}

void kd_sweep_free(kd_sweep *sweep)
{
    for (int i = 0; sweep->child && i < sweep->n; i++) {
        kd_sweep_child *c = &sweep->child[i];
        for (int k = 0; k < c->n_sets; k++)
            free(c->sets[k]);
        free(c->sets);
        free(c->label);
        free(c->group);
        free(c->values);
    }
    free(sweep->child);
    *sweep = (kd_sweep){0};
}

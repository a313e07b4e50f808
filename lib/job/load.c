#include "schema.h"

#include "kd/hash.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct loader {
    kd_tree *tree;
    kd_diag *diag;
    int at[KD_KEYS_MAX]; /* node that gives each row its value, 0 = not written */
    kd_job job;
} loader;

static int bad(loader *l, int node, const char *key, const char *fmt, ...) KD_PRINTF(4, 5);
static int bad(loader *l, int node, const char *key, const char *fmt, ...)
{
    char what[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return kd_tree_fail(l->tree, node, key, l->diag, -KD_EINVAL, "%s", what);
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

static int bad_value(loader *l, int node, const kd_key *k)
{
    char expected[160], found[120];
    const yaml_node_t *n = kd_tree_node(l->tree, node);
    kd_schema_expected(k, expected, sizeof expected);
    found_text(n, found, sizeof found);
    if (n->type == YAML_SCALAR_NODE && k->choices && !kd_tree_is_null(n)) {
        char one[KD_JOB_WORD], best[KD_JOB_WORD] = "";
        int least = 3;
        for (int i = 0; kd_schema_choice_text(k->choices, i, one, sizeof one); i++) {
            int d = kd_schema_distance((const char *)n->data.scalar.value, one);
            if (d < least) {
                least = d;
                snprintf(best, sizeof best, "%s", one);
            }
        }
        if (best[0])
            return bad(l, node, k->key, "expected %s, found %s; did you mean `%s`?", expected,
                       found, best);
    }
    return bad(l, node, k->key, "expected %s, found %s", expected, found);
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

static int unknown_key(loader *l, int node, const char *prefix, const char *name)
{
    char key[256], near[128], known[400] = "", shown[KD_SHOWN];
    size_t prefix_len = strlen(prefix), n = 0;
    for (int i = 0; i < kd_schema_count && n < sizeof known; i++)
        if (is_child(kd_schema[i].key, prefix, prefix_len) && kd_schema[i].type != KD_KEY_SOON)
            n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "",
                                  kd_schema[i].key + (prefix_len ? prefix_len + 1 : 0));
    nearest_key(prefix, name, near, sizeof near);
    snprintf(key, sizeof key, "%s%s%s", prefix, prefix[0] ? "." : "",
             kd_tree_shown(name, strlen(name), shown));
    return bad(l, node, key, "unknown key; did you mean `%s`? (known here: %s)", near, known);
}

/* Finds the row of every key of a mapping and notes its value's node; recursion is as deep as the
 * table's keys. A mapping of many keys is given up at its first unknown or repeated one, so time
 * stays linear. */
static int walk(loader *l, int map, const char *prefix)
{
    const yaml_node_t *m = kd_tree_node(l->tree, map);
    for (yaml_node_pair_t *p = m->data.mapping.pairs.start; p < m->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = kd_tree_node(l->tree, p->key), *v = kd_tree_node(l->tree, p->value);
        if (k->type != YAML_SCALAR_NODE)
            return bad(l, p->key, prefix, "a key must be a word, this one is a list or mapping");
        const char *name = (const char *)k->data.scalar.value;
        char key[192];
        int n = snprintf(key, sizeof key, "%s%s%s", prefix, prefix[0] ? "." : "", name);
        int row = -1;
        if (strlen(name) == k->data.scalar.length && !strchr(name, '.') && n < (int)sizeof key)
            row = kd_schema_find(key, (size_t)n);
        if (row < 0)
            return unknown_key(l, p->key, prefix, name);
        if (kd_schema[row].type == KD_KEY_SOON)
            return bad(l, p->key, key, "not built yet (%s)", kd_schema[row].meaning);
        if (l->at[row]) {
            const yaml_node_t *first = kd_tree_node(l->tree, l->at[row]);
            return bad(l, p->key, key, "written twice; the first one is in line %zu",
                       first->start_mark.line + 1);
        }
        l->at[row] = p->value;
        if (kd_schema[row].type != KD_KEY_MAP)
            continue;
        if (strcmp(key, "teacher") == 0 && v->type == YAML_SEQUENCE_NODE)
            return bad(l, p->value, key, "not built yet (a list of teachers, an ensemble)");
        if (kd_tree_is_null(v))
            return bad(l, p->value, key, "no keys below it; write {} for all defaults");
        if (v->type != YAML_MAPPING_NODE)
            return bad_value(l, p->value, &kd_schema[row]);
        int rc = walk(l, p->value, key);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* ---- values */

/* What may stand in a name or path: no control characters, and nothing that YAML cannot hold as it
 * is, so that the resolved job reads back the same. libyaml has checked that it is UTF-8. */
static bool clean_text(const char *s, size_t len)
{
    const unsigned char *p = (const unsigned char *)s, *end = p + len;
    for (; p < end; p++) {
        if (*p < 0x20 || *p == 0x7f)
            return false;
        if (*p == 0xc2 && p + 1 < end && p[1] < 0xa0) /* U+0080 to U+009F */
            return false;
        if (*p == 0xe2 && p + 2 < end && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9))
            return false; /* line and paragraph separators */
        if (*p == 0xef && p + 2 < end &&
            ((p[1] == 0xbb && p[2] == 0xbf) || (p[1] == 0xbf && p[2] >= 0xbe)))
            return false; /* byte order mark, U+FFFE, U+FFFF */
    }
    return true;
}

static bool valid_name(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = s[i];
        bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!word && c != '.' && c != '_' && c != '-')
            return false;
    }
    return len > 0 && len < KD_JOB_NAME;
}

static bool valid_path(const char *s)
{
    if (s[0] == '/')
        return false;
    for (const char *p = s;; p++) {
        size_t n = strcspn(p, "/");
        if (n == 2 && p[0] == '.' && p[1] == '.')
            return false;
        p += n;
        if (!*p)
            return true;
    }
}

/* Digits only, so that 010 (octal to some readers), 1_000, 0x10 and 1e3 are not guessed at. */
static bool read_int(const char *s, double lo, double hi, int64_t *out)
{
    const char *digits = s + (*s == '-' || *s == '+');
    size_t n = strspn(digits, "0123456789");
    if (n == 0 || n > 19 || digits[n] || (digits[0] == '0' && n > 1))
        return false;
    errno = 0;
    long long v = strtoll(s, NULL, 10);
    /* hi may be 2^63, which no int64_t reaches. */
    if (errno != 0 || (double)v < lo || (hi < 0x1p63 && (double)v > hi))
        return false;
    *out = v;
    return true;
}

/* 1, 0.5, .5, 1., 1e-5, 1.5E+3: also what YAML 1.1 would take for text (1e-5). */
static bool read_real(const char *s, const kd_key *k, double *out)
{
    const char *p = s + (*s == '-' || *s == '+');
    size_t whole = strspn(p, "0123456789"), part = 0;
    if (whole > 1 && p[0] == '0')
        return false;
    p += whole;
    if (*p == '.') {
        part = strspn(++p, "0123456789");
        p += part;
    }
    if (whole + part == 0 || strlen(s) > 64)
        return false;
    if (*p == 'e' || *p == 'E') {
        p += 1 + (p[1] == '-' || p[1] == '+');
        size_t n = strspn(p, "0123456789");
        if (n == 0)
            return false;
        p += n;
    }
    if (*p)
        return false;
    char *end;
    double v = strtod(s, &end) + 0.0; /* -0 becomes 0 */
    if (*end || !isfinite(v) || v < k->lo || v > k->hi ||
        (v == k->lo && k->flags & KD_KEY_LO_OPEN) || (v == k->hi && k->flags & KD_KEY_HI_OPEN))
        return false;
    *out = v;
    return true;
}

static bool store_text(char *field, size_t size, const char *s, size_t len)
{
    if (len >= size || !clean_text(s, len))
        return false;
    memset(field, 0, size);
    memcpy(field, s, len);
    return true;
}

/* Reads one scalar into the row's field. quoted: not a plain scalar, so never a number. */
static bool store(kd_job *job, const kd_key *k, const char *s, size_t len, bool quoted)
{
    char *field = (char *)job + k->at;
    bool optional_text = k->def && !k->def[0] && len == 0;
    int64_t whole = 0;
    double real = 0;
    int choice = -1;
    bool yes = false;
    if (strlen(s) != len)
        return false; /* "\0" inside */
    switch (k->type) {
    case KD_KEY_NAME:
        return valid_name(s, len) && store_text(field, KD_JOB_NAME, s, len);
    case KD_KEY_PATH:
        return (len > 0 || optional_text) && store_text(field, KD_JOB_PATH, s, len) &&
               valid_path(field);
    case KD_KEY_FILE:
        return (len > 0 || optional_text) && store_text(field, KD_JOB_PATH, s, len);
    case KD_KEY_DIGEST: {
        kd_digest digest;
        return optional_text ||
               (store_text(field, KD_DIGEST_HEX, s, len) && kd_digest_parse(field, &digest));
    }
    case KD_KEY_WORD:
        return kd_schema_choice(k->choices, s) >= 0 && store_text(field, KD_JOB_WORD, s, len);
    case KD_KEY_CHOICE:
    case KD_KEY_FLAG:
        choice = kd_schema_choice(k->choices, s);
        yes = choice == 1;
        if (choice >= 0 && k->type == KD_KEY_FLAG)
            memcpy(field, &yes, sizeof yes);
        else if (choice >= 0)
            memcpy(field, &choice, sizeof choice);
        return choice >= 0;
    case KD_KEY_BOOL:
        yes = strcmp(s, "true") == 0;
        if (quoted || (!yes && strcmp(s, "false") != 0))
            return false;
        memcpy(field, &yes, sizeof yes);
        return true;
    case KD_KEY_INT:
    case KD_KEY_VIEWS:
        if (k->type == KD_KEY_VIEWS && strcmp(s, "fresh") == 0)
            whole = 0;
        else if (quoted || !read_int(s, k->lo, k->hi, &whole))
            return false;
        memcpy(field, &(int){(int)whole}, sizeof(int));
        return true;
    case KD_KEY_SEED:
        if (quoted || !read_int(s, k->lo, k->hi, &whole))
            return false;
        memcpy(field, &(uint64_t){(uint64_t)whole}, sizeof(uint64_t));
        return true;
    case KD_KEY_REAL:
        if (quoted || !read_real(s, k, &real))
            return false;
        memcpy(field, &real, sizeof real);
        return true;
    case KD_KEY_INTS:
        KD_BUG_ON(!read_int(s, k->lo, k->hi, &whole)); /* a default; lists are read elsewhere */
        memcpy(field, (int[]){(int)whole}, sizeof(int));
        memcpy(field + KD_HIDDEN_MAX * sizeof(int), (int[]){1}, sizeof(int));
        return true;
    case KD_KEY_AUGMENT:
    case KD_KEY_EXPORT:
        return true; /* their default is what zeros mean */
    case KD_KEY_MAP:
    case KD_KEY_SOON:
        break;
    }
    return false;
}

static int read_ints(loader *l, const kd_key *k, int node)
{
    const yaml_node_t *list = kd_tree_node(l->tree, node);
    int *field = (int *)(void *)((char *)&l->job + k->at), n = 0;
    if (list->type != YAML_SEQUENCE_NODE ||
        list->data.sequence.items.top - list->data.sequence.items.start > KD_HIDDEN_MAX)
        return bad_value(l, node, k);
    for (yaml_node_item_t *i = list->data.sequence.items.start; i < list->data.sequence.items.top;
         i++) {
        const yaml_node_t *item = kd_tree_node(l->tree, *i);
        int64_t v;
        if (item->type != YAML_SCALAR_NODE || item->data.scalar.style != YAML_PLAIN_SCALAR_STYLE ||
            strlen((const char *)item->data.scalar.value) != item->data.scalar.length ||
            !read_int((const char *)item->data.scalar.value, k->lo, k->hi, &v))
            return bad_value(l, *i, k);
        field[n++] = (int)v;
    }
    field[KD_HIDDEN_MAX] = n;
    return 0;
}

static bool is_word(const yaml_node_t *n, const char *word)
{
    return n->type == YAML_SCALAR_NODE && n->data.scalar.length == strlen(word) &&
           memcmp(n->data.scalar.value, word, n->data.scalar.length) == 0;
}

/* The only pair of a mapping if its key is this word. */
static const yaml_node_pair_t *only_pair(loader *l, int node, const char *word)
{
    const yaml_node_t *m = kd_tree_node(l->tree, node);
    if (m->type != YAML_MAPPING_NODE ||
        m->data.mapping.pairs.top - m->data.mapping.pairs.start != 1 ||
        !is_word(kd_tree_node(l->tree, m->data.mapping.pairs.start->key), word))
        return NULL;
    return m->data.mapping.pairs.start;
}

static int read_augment(loader *l, const kd_key *k, int node)
{
    const yaml_node_t *list = kd_tree_node(l->tree, node);
    kd_data_spec *d = &l->job.data;
    if (list->type != YAML_SEQUENCE_NODE)
        return bad_value(l, node, k);
    for (yaml_node_item_t *i = list->data.sequence.items.start; i < list->data.sequence.items.top;
         i++) {
        const yaml_node_t *item = kd_tree_node(l->tree, *i);
        const yaml_node_pair_t *crop = only_pair(l, *i, "crop");
        bool flip = is_word(item, "flip");
        if ((flip && d->augment.flip) || (crop && d->augment.crop_pad))
            return bad(l, *i, k->key, "`%s` is listed twice", flip ? "flip" : "crop");
        d->augment.flip |= flip;
        if (flip)
            continue;
        const yaml_node_pair_t *pad = crop ? only_pair(l, crop->value, "pad") : NULL;
        const yaml_node_t *value = pad ? kd_tree_node(l->tree, pad->value) : NULL;
        int64_t v;
        if (!pad)
            return bad_value(l, *i, k);
        if (value->type != YAML_SCALAR_NODE ||
            value->data.scalar.style != YAML_PLAIN_SCALAR_STYLE ||
            strlen((const char *)value->data.scalar.value) != value->data.scalar.length ||
            !read_int((const char *)value->data.scalar.value, k->lo, k->hi, &v)) {
            char found[120];
            found_text(value, found, sizeof found);
            return bad(l, pad->value, "data.augment.crop.pad",
                       "expected a whole number from %.0f to %.0f, found %s", k->lo, k->hi, found);
        }
        d->augment.crop_pad = (int)v;
    }
    return 0;
}

static int read_export(loader *l, const kd_key *k, int node)
{
    const yaml_node_t *list = kd_tree_node(l->tree, node);
    bool there = false;
    if (list->type != YAML_SEQUENCE_NODE)
        return bad_value(l, node, k);
    for (yaml_node_item_t *i = list->data.sequence.items.start; i < list->data.sequence.items.top;
         i++) {
        const yaml_node_t *item = kd_tree_node(l->tree, *i);
        if (is_word(item, "onnx"))
            return bad(l, *i, k->key, "onnx is not built yet; safetensors is");
        if (!is_word(item, k->choices))
            return bad_value(l, *i, k);
        if (there)
            return bad(l, *i, k->key, "`%s` is listed twice", k->choices);
        there = true;
    }
    return there ? 0 : bad(l, node, k->key, "the list is empty; `%s` is built", k->choices);
}

static int read_row(loader *l, const kd_key *k, int node)
{
    const yaml_node_t *n = kd_tree_node(l->tree, node);
    if (k->type == KD_KEY_INTS)
        return read_ints(l, k, node);
    if (k->type == KD_KEY_AUGMENT)
        return read_augment(l, k, node);
    if (k->type == KD_KEY_EXPORT)
        return read_export(l, k, node);
    if (n->type != YAML_SCALAR_NODE || kd_tree_is_null(n) ||
        !store(&l->job, k, (const char *)n->data.scalar.value, n->data.scalar.length,
               n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE))
        return bad_value(l, node, k);
    return 0;
}

static int missing(loader *l, int row)
{
    const kd_key *k = &kd_schema[row];
    int parent = kd_schema_parent(row);
    char expected[160];
    kd_schema_expected(k, expected, sizeof expected);
    return bad(l, parent < 0 ? 1 : l->at[parent], k->key, "missing: %s (%s)", k->meaning, expected);
}

static int not_here(loader *l, int row)
{
    const kd_key *k = &kd_schema[row];
    int n = (int)strcspn(k->only, "=");
    return bad(l, l->at[row], k->key, "only with `%.*s: %s`", n, k->only, k->only + n + 1);
}

/* Fills every row's field: from its node, else from its default. Rows that copy come last, when
 * what they copy is there. */
static int fill(loader *l)
{
    for (int i = 0; i < kd_schema_count; i++) {
        const kd_key *k = &kd_schema[i];
        int parent = kd_schema_parent(i), rc = 0;
        bool applies = kd_schema_applies(k, &l->job);
        if (l->at[i] && !applies)
            return not_here(l, i);
        if (l->at[i] && k->type == KD_KEY_MAP) {
            if (k->flags & KD_KEY_STORED)
                memcpy((char *)&l->job + k->at, &(bool){true}, sizeof(bool));
        } else if (l->at[i]) {
            rc = read_row(l, k, l->at[i]);
        } else if (k->flags & KD_KEY_REQUIRED && applies && (parent < 0 || l->at[parent])) {
            rc = missing(l, i);
        } else if (k->def && k->def[0] && k->def[0] != '=' && applies) {
            KD_BUG_ON(!store(&l->job, k, k->def, strlen(k->def), false));
        }
        if (rc != 0)
            return rc;
    }
    for (int i = 0; i < kd_schema_count; i++) {
        const kd_key *k = &kd_schema[i];
        if (l->at[i] || !k->def || k->def[0] != '=')
            continue;
        int from = kd_schema_find(k->def + 1, strlen(k->def + 1));
        KD_BUG_ON(from < 0 || kd_schema[from].type != k->type);
        KD_BUG_ON(k->type != KD_KEY_INT && k->type != KD_KEY_VIEWS);
        memcpy((char *)&l->job + k->at, (char *)&l->job + kd_schema[from].at, sizeof(int));
    }
    return 0;
}

/* ---- rules between keys */

/* The node to point at for a complaint about key: its own, else that of the nearest mapping around
 * it that is written. */
static int node_of(const loader *l, const char *key)
{
    int row = kd_schema_find(key, strlen(key));
    KD_BUG_ON(row < 0);
    while (row >= 0 && !l->at[row])
        row = kd_schema_parent(row);
    return row < 0 ? 1 : l->at[row];
}

static int check_training(loader *l, const char *prefix, const kd_train_spec *t)
{
    char key[128], other[128];
    snprintf(key, sizeof key, "%s.slots", prefix);
    snprintf(other, sizeof other, "%s.batch", prefix);
    int row = kd_schema_find(key, strlen(key));
    int node = node_of(l, l->at[row] ? key : other);
    if (t->slots & (t->slots - 1))
        return bad(l, node, key, "expected a power of two, found %d", t->slots);
    if (t->batch % t->slots != 0)
        return bad(l, node, key,
                   "%d slots do not divide a batch of %d; the batch must be a multiple", t->slots,
                   t->batch);
    snprintf(key, sizeof key, "%s.optimizer.warmup", prefix);
    if (t->optimizer.warmup > t->epochs)
        return bad(l, node_of(l, key), key, "a warm-up of %g epochs in a run of %d",
                   t->optimizer.warmup, t->epochs);
    return 0;
}

static int check_model(loader *l, const char *prefix, const kd_model_spec *m)
{
    char key[128];
    snprintf(key, sizeof key, "%s.weights_digest", prefix);
    if (m->weights_digest[0] && !m->weights[0])
        return bad(l, node_of(l, key), key, "given without %s.weights", prefix);
    /* 3x3 valid, 4x4 pool and 3x3 valid leave nothing of a smaller picture. */
    if (strcmp(m->model, "shallow_cnn") == 0 && l->job.data.size < 14)
        return bad(l, node_of(l, "data.labelled.size"), "data.labelled.size",
                   "%d pixels are too few for shallow_cnn (%s.model); it needs 14",
                   l->job.data.size, prefix);
    return 0;
}

static int check(loader *l)
{
    const kd_job *j = &l->job;
    const kd_loss_spec *loss = &j->distill.loss;
    int rc = check_model(l, "teacher", &j->teachers[0].model);
    if (rc == 0)
        rc = check_model(l, "student", &j->student);
    if (rc == 0)
        rc = check_training(l, "distill", &j->distill);
    if (rc == 0 && j->teachers[0].fine_tune)
        rc = check_training(l, "teacher.fine_tune", &j->teachers[0].train);
    if (rc == 0 && j->scratch)
        rc = check_training(l, "scratch", &j->scratch_train);
    if (rc != 0)
        return rc;
    if (!(loss->kd > 0 || loss->ce > 0 || loss->mse > 0))
        return bad(l, node_of(l, "distill.loss"), "distill.loss",
                   "kd, ce and mse are all 0; one of them must be above it");
    if (!j->teachers[0].model.model[0] && (loss->kd > 0 || loss->mse > 0))
        return bad(l, node_of(l, loss->kd > 0 ? "distill.loss.kd" : "distill.loss.mse"), "teacher",
                   "missing: %s is %g, which needs one",
                   loss->kd > 0 ? "distill.loss.kd" : "distill.loss.mse",
                   loss->kd > 0 ? loss->kd : loss->mse);
    if (j->teachers[0].model.model[0] && !j->teachers[0].model.weights[0] &&
        !j->teachers[0].fine_tune)
        return bad(l, node_of(l, "teacher"), "teacher",
                   "neither weights nor fine_tune: it would know nothing");
    if (j->data.augment.crop_pad > j->data.size)
        return bad(l, node_of(l, "data.augment"), "data.augment.crop.pad",
                   "%d pixels are more than the picture has (data.labelled.size: %d)",
                   j->data.augment.crop_pad, j->data.size);
    if (j->min_workers > j->max_workers)
        return bad(l, node_of(l, "cluster.min_workers"), "cluster.min_workers",
                   "%d is more than cluster.max_workers, %d", j->min_workers, j->max_workers);
    return 0;
}

/* What no key says: the teacher and the twin learn from the true classes alone. */
static void derive(kd_job *j)
{
    kd_train_spec *hard[] = {&j->teachers[0].train, &j->scratch_train};
    for (size_t i = 0; i < KD_COUNT(hard); i++) {
        hard[i]->loss.ce = 1;
        hard[i]->loss.temperature = 1;
        hard[i]->loss.normalise = true;
    }
    j->n_teachers = j->teachers[0].model.model[0] ? 1 : 0;
    if (!j->teachers[0].fine_tune)
        j->teachers[0].train.epochs = 0;
}

int kd_job_load(const char *text, size_t len, const char *file, const char *const *sets, int n_sets,
                kd_job *out, kd_diag *diag)
{
    loader *l = calloc(1, sizeof *l);
    if (!l)
        return kd_fail(diag, -KD_ENOMEM, "no memory to read %.200s", file);
    l->diag = diag;
    int rc = kd_tree_new(text, len, file, sets, n_sets, &l->tree, diag);
    if (rc == 0)
        rc = walk(l, 1, "");
    if (rc == 0)
        rc = fill(l);
    if (rc == 0) {
        derive(&l->job);
        rc = check(l);
    }
    if (rc == 0)
        memcpy(out, &l->job, sizeof *out); /* padding too: equal jobs are equal bytes */
    kd_tree_free(l->tree);
    free(l);
    return rc;
}

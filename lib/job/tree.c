#include "schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is shown on a terminal must not steer it: C0, DEL and C1 (U+0080 to U+009F) become '?'. */
static void make_printable(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p; p++) {
        if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
            p[0] = p[1] = '?';
        if (*p < 0x20 || *p == 0x7f)
            *p = '?';
    }
}

const char *kd_tree_shown(const char *text, size_t len, char out[KD_SHOWN])
{
    size_t n = KD_MIN(len, (size_t)KD_SHOWN - 4);
    while (n < len && n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
        n--;
    memcpy(out, text, n);
    snprintf(out + n, KD_SHOWN - n, "%s", n < len ? "..." : "");
    make_printable(out);
    return out;
}

const char *kd_job_set_place(const char *set, char out[KD_JOB_SET])
{
    char shown[KD_SHOWN];
    snprintf(out, KD_JOB_SET, "--set %s", kd_tree_shown(set, strlen(set), shown));
    return out;
}

/* Where a text came from, for messages: a file, or override number `set` (0-based, -1 = the file).
 */
static void place_text(const char *file, const char *const *sets, int set, const yaml_mark_t *mark,
                       char *out, size_t size)
{
    char own[KD_JOB_SET];
    if (set >= 0)
        snprintf(out, size, "%s", kd_job_set_place(sets[set], own));
    else if (mark)
        snprintf(out, size, "%.200s:%zu:%zu", file, mark->line + 1, mark->column + 1);
    else
        snprintf(out, size, "%.200s", file);
    make_printable(out);
}

struct source {
    const char *text;
    size_t len;
    const char *file;
    const char *const *sets;
    int set;
};

static int source_fail(const struct source *s, const yaml_mark_t *mark, kd_diag *diag, int code,
                       const char *fmt, ...) KD_PRINTF(5, 6);
static int source_fail(const struct source *s, const yaml_mark_t *mark, kd_diag *diag, int code,
                       const char *fmt, ...)
{
    char place[320], what[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    place_text(s->file, s->sets, s->set, mark, place, sizeof place);
    return kd_fail(diag, code, "%s: %s", place, what);
}

static int syntax_fail(const struct source *s, const yaml_parser_t *p, kd_diag *diag)
{
    const char *problem = p->problem ? p->problem : "malformed";
    if (p->error == YAML_MEMORY_ERROR)
        return source_fail(s, NULL, diag, -KD_ENOMEM, "out of memory");
    yaml_mark_t mark = p->problem_mark;
    if (p->error == YAML_READER_ERROR) {
        /* The reader knows only a byte offset. */
        mark = (yaml_mark_t){0};
        for (size_t i = 0; i < p->problem_offset && i < s->len; i++) {
            mark.column++;
            if (s->text[i] == '\n') {
                mark.line++;
                mark.column = 0;
            }
        }
    }
    const char *hint = "";
    if (mark.index < s->len && s->text[mark.index] == '\t')
        hint = " (indent with spaces: YAML does not allow tabs there)";
    if (p->context)
        return source_fail(s, &mark, diag, -KD_EINVAL, "not valid YAML: %s %s%s", problem,
                           p->context, hint);
    return source_fail(s, &mark, diag, -KD_EINVAL, "not valid YAML: %s%s", problem, hint);
}

struct scan {
    int depth, nodes, documents;
    bool done;
};

/* The document tree no longer shows anchors, and limits must hold before it is built: so one pass
 * over the events comes first. */
static int scan_event(const struct source *s, struct scan *sc, const yaml_event_t *e, int max_nodes,
                      kd_diag *diag)
{
    const yaml_mark_t *at = &e->start_mark;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    bool node = true;
    switch (e->type) {
    case YAML_STREAM_END_EVENT:
        sc->done = true;
        return 0;
    case YAML_DOCUMENT_START_EVENT:
        if (++sc->documents > 1)
            return source_fail(s, at, diag, -KD_EINVAL,
                               "a second document begins here; a job is one");
        return 0;
    case YAML_ALIAS_EVENT:
        return source_fail(s, at, diag, -KD_EINVAL, "aliases (*name) are not accepted in a job");
    case YAML_SCALAR_EVENT:
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
        sc->depth++;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
        sc->depth++;
        break;
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        sc->depth--;
        return 0;
    default:
        node = false;
    }
    if (!node)
        return 0;
    if (anchor)
        return source_fail(s, at, diag, -KD_EINVAL, "anchors (&name) are not accepted in a job");
    if (tag)
        return source_fail(s, at, diag, -KD_EINVAL, "tags (!name) are not accepted in a job");
    if (sc->depth > KD_TREE_NESTING)
        return source_fail(s, at, diag, -KD_ELIMIT, "nested deeper than %d levels",
                           KD_TREE_NESTING);
    if (++sc->nodes > max_nodes)
        return source_fail(s, at, diag, -KD_ELIMIT, "more than %d values", KD_TREE_NODES);
    return 0;
}

static bool start(yaml_parser_t *p, const struct source *s)
{
    if (!yaml_parser_initialize(p))
        return false;
    yaml_parser_set_encoding(p, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(p, (const unsigned char *)s->text, s->len);
    return true;
}

/* Loads one text as a document of at most max_nodes nodes. An empty one has no root. */
static int parse(const struct source *s, int max_nodes, yaml_document_t *out, kd_diag *diag)
{
    yaml_parser_t p;
    struct scan sc = {0};
    int rc = 0;
    if (!start(&p, s))
        return source_fail(s, NULL, diag, -KD_ENOMEM, "out of memory");
    while (rc == 0 && !sc.done) {
        yaml_event_t e;
        if (!yaml_parser_parse(&p, &e)) {
            rc = syntax_fail(s, &p, diag);
            break;
        }
        rc = scan_event(s, &sc, &e, max_nodes, diag);
        yaml_event_delete(&e);
    }
    yaml_parser_delete(&p);
    if (rc != 0)
        return rc;
    if (!start(&p, s))
        return source_fail(s, NULL, diag, -KD_ENOMEM, "out of memory");
    if (!yaml_parser_load(&p, out))
        rc = syntax_fail(s, &p, diag);
    yaml_parser_delete(&p);
    return rc;
}

const yaml_node_t *kd_tree_node(kd_tree *t, int node)
{
    return yaml_document_get_node(&t->doc, node);
}

bool kd_tree_is_null(const yaml_node_t *n)
{
    if (n->type != YAML_SCALAR_NODE || n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return false;
    const char *v = (const char *)n->data.scalar.value;
    return !v[0] || strcmp(v, "~") == 0 || strcmp(v, "null") == 0;
}

int kd_tree_fail(kd_tree *t, int node, const char *key, kd_diag *diag, int code, const char *fmt,
                 ...)
{
    char place[320], what[700];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    const yaml_node_t *n = node ? kd_tree_node(t, node) : NULL;
    place_text(t->file, t->sets, node ? t->from_set[node] - 1 : -1, n ? &n->start_mark : NULL,
               place, sizeof place);
    return kd_fail(diag, code, "%s: %s%s%s", place, key, key[0] ? ": " : "", what);
}

static int count(const yaml_document_t *d)
{
    return (int)(d->nodes.top - d->nodes.start);
}

/* Marks what was just added; 0 when memory or numbers ran out. */
static int added(kd_tree *t, int node, int set)
{
    if (node <= 0 || node > KD_TREE_NODES)
        return 0;
    t->from_set[node] = (uint8_t)(set + 1);
    return node;
}

static int add_scalar(kd_tree *t, const char *text, size_t len, yaml_scalar_style_t style, int set)
{
    return added(
        t, yaml_document_add_scalar(&t->doc, NULL, (const yaml_char_t *)text, (int)len, style),
        set);
}

/* Copies a node and all below it (at most KD_TREE_NESTING deep) from another document. */
static int copy(kd_tree *t, yaml_document_t *from, int node, int set)
{
    const yaml_node_t *n = yaml_document_get_node(from, node);
    int made = 0;
    switch (n->type) {
    case YAML_SCALAR_NODE:
        return add_scalar(t, (const char *)n->data.scalar.value, n->data.scalar.length,
                          n->data.scalar.style, set);
    case YAML_SEQUENCE_NODE:
        made = added(t, yaml_document_add_sequence(&t->doc, NULL, YAML_FLOW_SEQUENCE_STYLE), set);
        for (yaml_node_item_t *i = n->data.sequence.items.start;
             made && i < n->data.sequence.items.top; i++) {
            int item = copy(t, from, *i, set);
            if (!item || !yaml_document_append_sequence_item(&t->doc, made, item))
                return 0;
        }
        return made;
    case YAML_MAPPING_NODE:
        made = added(t, yaml_document_add_mapping(&t->doc, NULL, YAML_FLOW_MAPPING_STYLE), set);
        for (yaml_node_pair_t *i = n->data.mapping.pairs.start;
             made && i < n->data.mapping.pairs.top; i++) {
            int key = copy(t, from, i->key, set), value = copy(t, from, i->value, set);
            if (!key || !value || !yaml_document_append_mapping_pair(&t->doc, made, key, value))
                return 0;
        }
        return made;
    case YAML_NO_NODE:
        break;
    }
    return 0;
}

/* The pair of a mapping that has this key, NULL = none. */
static yaml_node_pair_t *find(kd_tree *t, int map, const char *key, size_t len)
{
    const yaml_node_t *m = kd_tree_node(t, map);
    for (yaml_node_pair_t *i = m->data.mapping.pairs.start; i < m->data.mapping.pairs.top; i++) {
        const yaml_node_t *k = kd_tree_node(t, i->key);
        if (k->type == YAML_SCALAR_NODE && k->data.scalar.length == len &&
            memcmp(k->data.scalar.value, key, len) == 0)
            return i;
    }
    return NULL;
}

int kd_tree_find(kd_tree *t, int map, const char *key)
{
    const yaml_node_pair_t *pair = find(t, map, key, strlen(key));
    return pair ? pair->value : 0;
}

/* Puts value at key of map, or makes a mapping there (value 0). Returns the node now there. */
static int put(kd_tree *t, int map, const char *key, size_t len, int value, int set)
{
    if (!value)
        value = added(t, yaml_document_add_mapping(&t->doc, NULL, YAML_FLOW_MAPPING_STYLE), set);
    if (!value)
        return 0;
    yaml_node_pair_t *old = find(t, map, key, len);
    if (old) {
        old->value = value;
        return value;
    }
    int name = add_scalar(t, key, len, YAML_PLAIN_SCALAR_STYLE, set);
    return name && yaml_document_append_mapping_pair(&t->doc, map, name, value) ? value : 0;
}

static bool is_word_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
}

/* Bytes of the name or number that a dotted key begins with. */
static size_t part_len(const char *key)
{
    size_t n = 0;
    while (is_word_char(key[n]))
        n++;
    return n;
}

/* a.b, a[0].b and a.0.b; the texts of a number are words too. */
static bool dotted_key(const char *key, size_t len)
{
    size_t i = 0;
    for (;;) {
        size_t n = part_len(key + i);
        if (n == 0)
            return false;
        i += n;
        while (key[i] == '[') {
            n = strspn(key + i + 1, "0123456789");
            if (n == 0 || key[i + 1 + n] != ']')
                return false;
            i += n + 2;
        }
        if (i == len)
            return len <= 128;
        if (key[i++] != '.')
            return false;
    }
}

/* The list's element that a part of a key names, NULL = none. */
static yaml_node_item_t *element(const yaml_node_t *list, const char *part, size_t n)
{
    size_t count = (size_t)(list->data.sequence.items.top - list->data.sequence.items.start);
    size_t index = 0;
    for (size_t i = 0; i < n; i++) {
        if (part[i] < '0' || part[i] > '9' || index > KD_TREE_NODES)
            return NULL;
        index = index * 10 + (size_t)(part[i] - '0');
    }
    return index < count ? &list->data.sequence.items.start[index] : NULL;
}

static int too_many(const struct source *s, kd_diag *diag)
{
    return source_fail(s, NULL, diag, -KD_ELIMIT, "more than %d values", KD_TREE_NODES);
}

/* Puts the value at a dotted key of len bytes, making mappings on the way. */
static int set_place(kd_tree *t, const struct source *s, const char *key, size_t len,
                     yaml_document_t *value, kd_diag *diag)
{
    int at = 1; /* the mapping or list that holds the next part */
    for (const char *part = key; part < key + len;) {
        size_t n = part_len(part);
        bool last = part + n + strspn(part + n, "]") == key + len;
        int before = (int)KD_MIN(part > key ? (size_t)(part - key) - 1 : 0, (size_t)60);
        const yaml_node_t *holder = kd_tree_node(t, at);
        yaml_node_item_t *item = NULL;
        yaml_node_pair_t *pair = NULL;
        if (holder->type == YAML_SEQUENCE_NODE) {
            item = element(holder, part, n);
            if (!item)
                return source_fail(
                    s, NULL, diag, -KD_EINVAL,
                    "`%.*s` is a list of %td; name an element, as in %.*s[0]", before, key,
                    holder->data.sequence.items.top - holder->data.sequence.items.start, before,
                    key);
        } else if (part > key && part[-1] == '[') {
            return source_fail(s, NULL, diag, -KD_EINVAL, "`%.*s` is no list", before, key);
        } else {
            pair = find(t, at, part, n);
        }
        if (last) {
            const yaml_node_t *root = yaml_document_get_root_node(value);
            int made = root ? copy(t, value, 1, s->set)
                            : add_scalar(t, "", 0, YAML_PLAIN_SCALAR_STYLE, s->set);
            if (made && item)
                *item = made;
            return made && (item || put(t, at, part, n, made, s->set)) ? 0 : too_many(s, diag);
        }
        int below = item ? *item : pair ? pair->value : 0;
        const yaml_node_t *child = below ? kd_tree_node(t, below) : NULL;
        if (!item && (!child || kd_tree_is_null(child)))
            below = put(t, at, part, n, 0, s->set);
        else if (child->type == YAML_SCALAR_NODE)
            return source_fail(s, NULL, diag, -KD_EINVAL, "`%.*s` has no keys below it",
                               (int)KD_MIN(n, (size_t)60), part);
        if (!below)
            return too_many(s, diag);
        at = below;
        part += n;
        part += strspn(part, "].[");
    }
    return 0;
}

static int apply_set(kd_tree *t, int set, kd_diag *diag)
{
    const char *text = t->sets[set];
    const char *equals = strchr(text, '=');
    struct source s = {.file = t->file, .sets = t->sets, .set = set};
    if (strlen(text) > KD_TREE_SET_TEXT)
        return source_fail(&s, NULL, diag, -KD_ELIMIT, "longer than %d bytes", KD_TREE_SET_TEXT);
    if (!equals || !dotted_key(text, (size_t)(equals - text)))
        return source_fail(&s, NULL, diag, -KD_EINVAL,
                           "expected key=value, as in distill.epochs=5");
    s.text = equals + 1;
    s.len = strlen(s.text);
    yaml_document_t value;
    int rc = parse(&s, KD_TREE_NODES - count(&t->doc), &value, diag);
    if (rc != 0)
        return rc;
    rc = set_place(t, &s, text, (size_t)(equals - text), &value, diag);
    yaml_document_delete(&value);
    return rc;
}

int kd_tree_new(const char *text, size_t len, const char *file, const char *const *sets, int n_sets,
                kd_tree **out, kd_diag *diag)
{
    struct source s = {.text = text, .len = len, .file = file, .sets = sets, .set = -1};
    if (len > KD_TREE_TEXT)
        return source_fail(&s, NULL, diag, -KD_ELIMIT, "%zu bytes; a job has at most %u", len,
                           KD_TREE_TEXT);
    if (n_sets > KD_TREE_SETS)
        return source_fail(&s, NULL, diag, -KD_ELIMIT, "%d overrides (--set); at most %d are taken",
                           n_sets, KD_TREE_SETS);
    kd_tree *t = calloc(1, sizeof *t);
    if (!t)
        return source_fail(&s, NULL, diag, -KD_ENOMEM, "out of memory");
    t->file = file;
    t->sets = sets;
    int rc = parse(&s, KD_TREE_NODES, &t->doc, diag);
    if (rc != 0) {
        free(t);
        return rc;
    }
    const yaml_node_t *root = yaml_document_get_root_node(&t->doc);
    if (!root || kd_tree_is_null(root))
        rc = source_fail(&s, NULL, diag, -KD_EINVAL,
                         "the file is empty; a job begins with `name: ...`");
    else if (root->type != YAML_MAPPING_NODE)
        rc = source_fail(&s, &root->start_mark, diag, -KD_EINVAL,
                         "a job is a mapping of keys, as in `name: my-job`");
    for (int i = 0; rc == 0 && i < n_sets; i++)
        rc = apply_set(t, i, diag);
    if (rc != 0) {
        kd_tree_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void kd_tree_free(kd_tree *t)
{
    if (!t)
        return;
    yaml_document_delete(&t->doc);
    free(t);
}

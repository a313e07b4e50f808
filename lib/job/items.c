#include "items.h"

#include <stdio.h>
#include <string.h>

#define FIELDS(list) KD_ITEM_FIELDS(list)
#define OPEN KD_KEY_LO_OPEN

/* ---- data.augment: members of kd_augment_spec; an element is there if its first one is not 0 */

#define A(member, name, kind, low, high, default_, bits)                                           \
    KD_ITEM_FIELD(kd_augment_spec, member, name, kind, low, high, default_, bits)
static const kd_key flip[] = {A(flip, "on", BOOL, 0, 0, "true", 0)};
static const kd_key crop[] = {A(crop_pad, "pad", INT, 1, 512, NULL, 0)};
static const kd_key resized_crop[] = {A(resized_crop, "area", REAL, 0, 1, "0.35", OPEN),
                                      A(resized_crop_ratio, "ratio", REAL, 1, 10, "1.333", 0)};
static const kd_key rotate[] = {A(rotate, "degrees", REAL, 0, 180, NULL, OPEN)};
static const kd_key brightness[] = {A(brightness, "by", REAL, 0, 1, NULL, OPEN)};
static const kd_key contrast[] = {A(contrast, "by", REAL, 0, 1, NULL, OPEN)};
static const kd_key saturation[] = {A(saturation, "by", REAL, 0, 1, NULL, OPEN)};
static const kd_key randaugment[] = {A(randaugment_n, "n", INT, 1, 16, "2", 0),
                                     A(randaugment_m, "m", INT, 0, 30, "9", 0)};
static const kd_key cutout[] = {A(cutout, "side", INT, 1, 1024, NULL, 0)};
static const kd_key mixup[] = {A(mixup, "alpha", REAL, 0, 100, NULL, OPEN)};
static const kd_key cutmix[] = {A(cutmix, "alpha", REAL, 0, 100, NULL, OPEN)};
static const kd_key mix_probability[] = {A(mix_probability, "share", REAL, 0, 1, NULL, OPEN)};

static const kd_item augment_items[] = {
    {"flip", FIELDS(flip), .word = true, .meaning = "mirrored half the time"},
    {"crop", FIELDS(crop), .map = true, .meaning = "padded by so many pixels, then cut at random"},
    {"resized_crop", FIELDS(resized_crop), .word = true, .map = true,
     .meaning = "a part of at least this area, aspect from 1/ratio to ratio, made full size"},
    {"rotate", FIELDS(rotate), .scalar = true, .meaning = "turned by up to so many degrees"},
    {"brightness", FIELDS(brightness), .scalar = true, .meaning = "times 1-x to 1+x"},
    {"contrast", FIELDS(contrast), .scalar = true, .meaning = "times 1-x to 1+x about grey"},
    {"saturation", FIELDS(saturation), .scalar = true, .meaning = "times 1-x to 1+x"},
    {"randaugment", FIELDS(randaugment), .word = true, .map = true,
     .meaning = "n random operations of magnitude m (0 to 30)"},
    {"cutout", FIELDS(cutout), .scalar = true, .meaning = "a grey square of so many pixels a side"},
    {"mixup", FIELDS(mixup), .scalar = true,
     .meaning = "blended with another sample; alpha of the Beta distribution"},
    {"cutmix", FIELDS(cutmix), .scalar = true,
     .meaning = "a box of another sample pasted in; alpha likewise"},
    {"mix_probability", FIELDS(mix_probability), .scalar = true,
     .meaning = "share of the views that are mixed, 1 unless written"},
};
static const kd_items augment_list = {augment_items, (int)KD_COUNT(augment_items)};

/* ---- layers: members of kd_layer_spec; an element's number is its enum kd_layer_kind */

#define L(member, name, kind, low, high, default_, bits)                                           \
    KD_ITEM_FIELD(kd_layer_spec, member, name, kind, low, high, default_, bits)
static const kd_key conv[] = {
    L(channels, "channels", INT, 1, 65536, NULL, 0), L(kernel, "kernel", INT, 1, 1024, "3", 0),
    L(stride, "stride", INT, 1, 1024, "1", 0),       L(pad, "padding", EDGE, 0, 1024, "same", 0),
    L(groups, "groups", INT, 1, 65536, "1", 0),      L(bias, "bias", BOOL, 0, 0, "true", 0),
};
static const kd_key dense[] = {L(channels, "units", INT, 1, 65536, NULL, 0)};
static const kd_key pool[] = {
    L(kernel, "kernel", INT, 1, 1024, NULL, 0),
    L(stride, "stride", INT, 1, 1024, "", 0),
    L(pad, "padding", EDGE, 0, 1024, "valid", 0),
};
static const kd_key dropout[] = {L(rate, "rate", REAL, 0, 1, NULL, KD_KEY_HI_OPEN)};

static const kd_item layer_items[] = {
    [KD_LAYER_CONV] = {"conv", FIELDS(conv), .map = true, .meaning = "convolution"},
    [KD_LAYER_DENSE] = {"dense", FIELDS(dense), .scalar = true, .meaning = "so many units"},
    [KD_LAYER_BATCH_NORM] = {"batch_norm", .word = true, .meaning = "batch normalisation"},
    [KD_LAYER_RELU] = {"relu", .word = true, .meaning = "max(x, 0)"},
    [KD_LAYER_RELU6] = {"relu6", .word = true, .meaning = "min(max(x, 0), 6)"},
    [KD_LAYER_SILU] = {"silu", .word = true, .meaning = "x times its sigmoid"},
    [KD_LAYER_MAX_POOL] = {"max_pool", FIELDS(pool), .scalar = true, .map = true,
                           .meaning = "largest of a square; stride = kernel unless written"},
    [KD_LAYER_AVG_POOL] = {"avg_pool", FIELDS(pool), .scalar = true, .map = true,
                           .meaning = "mean of a square; stride = kernel unless written"},
    [KD_LAYER_GLOBAL_AVG_POOL] = {"global_avg_pool", .word = true,
                                  .meaning = "mean over the picture"},
    [KD_LAYER_FLATTEN] = {"flatten", .word = true, .meaning = "the picture as a vector"},
    [KD_LAYER_DROPOUT] = {"dropout", FIELDS(dropout), .scalar = true,
                          .meaning = "share of values that training drops"},
};
static const kd_items layer_list = {layer_items, (int)KD_COUNT(layer_items)};

/* ---- export: members of kd_job */

enum { EXPORT_SAFETENSORS, EXPORT_ONNX };
static const kd_key onnx[] = {{.key = "opset",
                               .type = KD_KEY_INT,
                               .lo = 13,
                               .hi = 17,
                               .choices = "13|17",
                               .def = "17",
                               .at = offsetof(kd_job, onnx_opset)}};
static const kd_item export_items[] = {
    [EXPORT_SAFETENSORS] = {"safetensors", .word = true, .meaning = "always written"},
    [EXPORT_ONNX] = {"onnx", FIELDS(onnx), .word = true, .map = true,
                     .meaning = "for other programs"},
};
static const kd_items export_list = {export_items, (int)KD_COUNT(export_items)};

/* Rows that are arrays of structs, one an element, each with its kind first: the number of its
 * item. The count stands behind the array. */
typedef struct array {
    size_t each;
    int least, most;
    const char *what;
} array;
_Static_assert(offsetof(kd_layer_spec, kind) == 0 && offsetof(kd_compress_spec, kind) == 0,
               "an element's kind stands first");

static bool is_array(const kd_key *k, array *out)
{
    *out = k->type == KD_KEY_LAYERS
               ? (array){sizeof(kd_layer_spec), 1, KD_MAX_LAYERS, "layers"}
               : (array){sizeof(kd_compress_spec), 0, KD_MAX_COMPRESS, "steps"};
    return k->type == KD_KEY_LAYERS || k->type == KD_KEY_COMPRESS;
}

const kd_items *kd_items_of(const kd_key *k)
{
    switch (k->type) {
    case KD_KEY_AUGMENT:
        return &augment_list;
    case KD_KEY_LAYERS:
        return &layer_list;
    case KD_KEY_COMPRESS:
        return &kd_compress_list;
    case KD_KEY_EXPORT:
        return &export_list;
    default:
        return NULL;
    }
}

/* ---- text */

static void field_text(const kd_key *f, char *out, size_t size)
{
    if (f->type == KD_KEY_BOOL)
        snprintf(out, size, "true|false");
    else if (f->choices)
        snprintf(out, size, "%s", f->choices);
    else
        snprintf(out, size, "%s", f->type == KD_KEY_EDGE ? "same|valid|N" : "N");
}

void kd_item_text(const kd_item *item, char *out, size_t size)
{
    char value[KD_JOB_WORD];
    size_t n = 0;
    if (!item->map && !item->scalar) {
        snprintf(out, size, "%s", item->name);
        return;
    }
    if (item->scalar && !item->map) {
        field_text(&item->fields[0], value, sizeof value);
        snprintf(out, size, "{%s: %s}", item->name, value);
        return;
    }
    n = (size_t)snprintf(out, size, "{%s: {", item->name);
    for (int i = 0; i < item->n_fields && n < size; i++) {
        field_text(&item->fields[i], value, sizeof value);
        n += (size_t)snprintf(out + n, size - n, "%s%s: %s", i ? ", " : "", item->fields[i].key,
                              value);
    }
    if (n < size)
        snprintf(out + n, size - n, "}}");
}

/* ---- reading */

/* One element that is being read. */
struct element {
    kd_loader *l;
    const kd_items *list;
    char key[128]; /* "data.augment[2]" */
    int node;
    const kd_item *item;
    char *target; /* its fields lie here */
};

static bool is_word(const yaml_node_t *n)
{
    return n->type == YAML_SCALAR_NODE && !kd_tree_is_null(n) &&
           strlen((const char *)n->data.scalar.value) == n->data.scalar.length;
}

/* The nearest name is offered only if it is near. */
static int unknown_item(const struct element *e, int node, const char *word)
{
    char names[240] = "", shown[KD_SHOWN];
    size_t n = 0;
    const char *near = NULL;
    int least = 1 + (int)strlen(word) / 3;
    for (int i = 0; i < e->list->n; i++) {
        const char *name = e->list->of[i].name;
        int d = kd_schema_distance(word, name);
        if (d <= least) {
            least = d - 1;
            near = name;
        }
        if (n < sizeof names)
            n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", name);
    }
    kd_tree_shown(word, strlen(word), shown);
    if (near)
        return kd_load_bad(e->l, node, e->key, "expected one of %s; found `%s`, did you mean `%s`?",
                           names, shown, near);
    return kd_load_bad(e->l, node, e->key, "expected one of %s; found `%s`", names, shown);
}

static int store_field(const struct element *e, const kd_key *f, int node, const char *shown)
{
    if (kd_value_node(e->target + f->at, f, kd_tree_node(e->l->tree, node)))
        return 0;
    return kd_load_bad_value(e->l, node, shown, f);
}

static void store_default(const struct element *e, const kd_key *k)
{
    if (k->def && k->def[0])
        KD_BUG_ON(!kd_value_store(e->target + k->at, k, k->def, strlen(k->def), false));
}

static int read_map(const struct element *e, int node)
{
    const yaml_node_t *m = kd_tree_node(e->l->tree, node);
    char shown[256];
    unsigned seen = 0;
    for (yaml_node_pair_t *p = m->data.mapping.pairs.start; p < m->data.mapping.pairs.top; p++) {
        const yaml_node_t *name = kd_tree_node(e->l->tree, p->key);
        int f = e->item->n_fields;
        while (is_word(name) && --f >= 0 &&
               strcmp(e->item->fields[f].key, (const char *)name->data.scalar.value) != 0)
            ;
        if (f < 0 || f == e->item->n_fields) {
            char text[160];
            kd_item_text(e->item, text, sizeof text);
            return kd_load_bad(e->l, p->key, e->key, "unknown field; expected %s", text);
        }
        snprintf(shown, sizeof shown, "%s.%s.%s", e->key, e->item->name, e->item->fields[f].key);
        if (seen & 1u << f)
            return kd_load_bad(e->l, p->key, shown, "written twice");
        seen |= 1u << f;
        int rc = store_field(e, &e->item->fields[f], p->value, shown);
        if (rc != 0)
            return rc;
    }
    for (int f = 0; f < e->item->n_fields; f++) {
        const kd_key *k = &e->item->fields[f];
        if (seen & 1u << f)
            continue;
        snprintf(shown, sizeof shown, "%s.%s.%s", e->key, e->item->name, k->key);
        if (!k->def) {
            char expected[200];
            kd_schema_expected(k, expected, sizeof expected);
            return kd_load_bad(e->l, node, shown, "missing: %s", expected);
        }
        store_default(e, k);
    }
    return 0;
}

static int wrong_shape(const struct element *e, int node)
{
    char text[160];
    kd_item_text(e->item, text, sizeof text);
    return kd_load_bad(e->l, node, e->key, "expected %s", text);
}

/* Finds the element's name: which item it is, and in *out_value the node of its fields, 0 = none.
 */
static int find_item(struct element *e, int *out_value)
{
    const yaml_node_t *n = kd_tree_node(e->l->tree, e->node);
    int name_node = e->node;
    *out_value = 0;
    if (n->type == YAML_MAPPING_NODE &&
        n->data.mapping.pairs.top - n->data.mapping.pairs.start == 1) {
        name_node = n->data.mapping.pairs.start->key;
        *out_value = n->data.mapping.pairs.start->value;
        n = kd_tree_node(e->l->tree, name_node);
    }
    if (!is_word(n))
        return kd_load_bad(e->l, e->node, e->key,
                           "expected a word or a mapping of one key, as in `%s` or {%s: ...}",
                           e->list->of[0].name, e->list->of[1].name);
    const char *word = (const char *)n->data.scalar.value;
    for (int i = 0; i < e->list->n; i++)
        if (strcmp(e->list->of[i].name, word) == 0) {
            e->item = &e->list->of[i];
            return 0;
        }
    return unknown_item(e, name_node, word);
}

static int read_fields(const struct element *e, int value)
{
    if (!value) {
        if (!e->item->word)
            return wrong_shape(e, e->node);
        for (int f = 0; f < e->item->n_fields; f++)
            store_default(e, &e->item->fields[f]);
        return 0;
    }
    const yaml_node_t *v = kd_tree_node(e->l->tree, value);
    if (v->type == YAML_MAPPING_NODE && e->item->map)
        return read_map(e, value);
    if (!e->item->scalar)
        return wrong_shape(e, value);
    char shown[200];
    snprintf(shown, sizeof shown, "%s.%s", e->key, e->item->name);
    int rc = store_field(e, &e->item->fields[0], value, shown);
    for (int f = 1; rc == 0 && f < e->item->n_fields; f++)
        store_default(e, &e->item->fields[f]);
    return rc;
}

/* A list may name each of its items once. */
static int once(const struct element *e, unsigned *seen)
{
    unsigned bit = 1u << (e->item - e->list->of);
    if (*seen & bit)
        return kd_load_bad(e->l, e->node, e->key, "`%s` is listed twice", e->item->name);
    *seen |= bit;
    return 0;
}

static int finish_augment(kd_loader *l, int node, const char *key, kd_augment_spec *a)
{
    bool mixing = a->mixup > 0 || a->cutmix > 0;
    if (a->mix_probability > 0 && !mixing)
        return kd_load_bad(l, node, key, "mix_probability without mixup or cutmix");
    if (mixing && !(a->mix_probability > 0))
        a->mix_probability = 1;
    return 0;
}

static int read_array(struct element *e, const kd_key *k, const array *of, int node, int n)
{
    char *base = e->target;
    if (n < of->least || n > of->most)
        return kd_load_bad(e->l, node, k->key, "expected %d to %d %s, found %d", of->least,
                           of->most, of->what, n);
    memcpy(base + (size_t)of->most * of->each, &n, sizeof n);
    for (int i = 0; i < n; i++) {
        int value;
        e->node = kd_tree_node(e->l->tree, node)->data.sequence.items.start[i];
        snprintf(e->key, sizeof e->key, "%s[%d]", k->key, i);
        e->target = base + (size_t)i * of->each;
        int rc = find_item(e, &value);
        if (rc == 0)
            rc = read_fields(e, value);
        if (rc != 0)
            return rc;
        memcpy(e->target, &(int){(int)(e->item - e->list->of)}, sizeof(int));
    }
    return 0;
}

static void finish_layers(kd_layer_spec *layers, int n)
{
    for (int i = 0; i < n; i++)
        if (layers[i].stride == 0)
            layers[i].stride = layers[i].kernel; /* pools */
}

int kd_items_read(kd_loader *l, const kd_key *k, int node)
{
    const yaml_node_t *list = kd_tree_node(l->tree, node);
    struct element e = {.l = l, .list = kd_items_of(k)};
    array of;
    if (list->type != YAML_SEQUENCE_NODE)
        return kd_load_bad_value(l, node, k->key, k);
    const int n = (int)(list->data.sequence.items.top - list->data.sequence.items.start);
    e.target = kd_schema_field(&l->job, k, l->inst);
    if (is_array(k, &of)) {
        kd_layer_spec *layers = (kd_layer_spec *)(void *)e.target;
        int rc = read_array(&e, k, &of, node, n);
        if (rc == 0 && k->type == KD_KEY_LAYERS)
            finish_layers(layers, n);
        return rc;
    }
    unsigned seen = 0;
    for (int i = 0; i < n; i++) {
        int value, rc;
        e.node = kd_tree_node(l->tree, node)->data.sequence.items.start[i];
        snprintf(e.key, sizeof e.key, "%s[%d]", k->key, i);
        rc = find_item(&e, &value);
        if (rc == 0)
            rc = once(&e, &seen);
        if (rc == 0)
            rc = read_fields(&e, value);
        if (rc != 0)
            return rc;
    }
    if (k->type == KD_KEY_AUGMENT)
        return finish_augment(l, node, k->key, &l->job.data.augment);
    if (!seen)
        return kd_load_bad(l, node, k->key, "the list is empty; expected safetensors, onnx");
    l->job.export_onnx = seen & 1u << EXPORT_ONNX;
    return 0;
}

/* ---- printing */

static bool is_there(const kd_key *k, const char *target, int item, const kd_job *job)
{
    static const char zero[sizeof(double)] = {0};
    if (k->type == KD_KEY_EXPORT)
        return item == EXPORT_SAFETENSORS || job->export_onnx;
    const kd_key *first = &augment_items[item].fields[0];
    return memcmp(target + first->at, zero, kd_schema_size(first)) != 0;
}

static json_t *item_json(const kd_item *item, const char *target)
{
    if (!item->map && !item->scalar)
        return json_string(item->name);
    json_t *value = item->map ? json_object() : NULL, *element = json_object();
    bool ok = true;
    for (int f = 0; f < item->n_fields && ok; f++) {
        const kd_key *k = &item->fields[f];
        json_t *field = kd_value_json(k, target + k->at);
        if (item->map)
            ok = json_object_set_new(value, k->key, field) == 0;
        else
            value = field;
    }
    /* Setting a NULL value fails, so a lack of memory comes out here. */
    ok = json_object_set_new(element, item->name, value) == 0 && ok;
    if (ok)
        return element;
    json_decref(element);
    return NULL;
}

/* The elements that the job has, in the order in which they are printed. */
struct cursor {
    const kd_key *k;
    const kd_job *job;
    const char *base;
    array of;
    int next, n; /* of an array */
};

static struct cursor begin(const kd_key *k, const kd_job *job, int inst)
{
    struct cursor c = {.k = k, .job = job, .base = kd_schema_const_field(job, k, inst)};
    if (is_array(k, &c.of))
        memcpy(&c.n, c.base + (size_t)c.of.most * c.of.each, sizeof c.n);
    return c;
}

static const kd_item *next_item(struct cursor *c, const char **out_target)
{
    int kind;
    *out_target = c->base;
    if (is_array(c->k, &c->of)) {
        if (c->next >= c->n || c->next >= c->of.most)
            return NULL;
        *out_target = c->base + (size_t)c->next++ * c->of.each;
        memcpy(&kind, *out_target, sizeof kind);
        return &kd_items_of(c->k)->of[kind];
    }
    const kd_items *list = kd_items_of(c->k);
    while (c->next < list->n) {
        int i = c->next++;
        if (is_there(c->k, c->base, i, c->job))
            return &list->of[i];
    }
    return NULL;
}

json_t *kd_items_json(const kd_key *k, const kd_job *job, int inst)
{
    json_t *list = json_array();
    struct cursor c = begin(k, job, inst);
    const char *target;
    for (const kd_item *item; list && (item = next_item(&c, &target));)
        if (json_array_append_new(list, item_json(item, target)) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

void kd_items_reals(const kd_key *k, const kd_job *job, int inst, void (*each)(void *arg, double v),
                    void *arg)
{
    struct cursor c = begin(k, job, inst);
    const char *target;
    for (const kd_item *item; (item = next_item(&c, &target));)
        for (int f = 0; f < item->n_fields; f++)
            if (item->fields[f].type == KD_KEY_REAL) {
                double v;
                memcpy(&v, target + item->fields[f].at, sizeof v);
                each(arg, v);
            }
}

/* ---- layers that follow one another */

/* One side after a window passed over it; 0 = nothing is left. */
static int side_after(int side, const kd_layer_spec *layer)
{
    if (layer->pad < 0)
        return (side + layer->stride - 1) / layer->stride;
    int room = side + 2 * layer->pad - layer->kernel;
    return room < 0 ? 0 : room / layer->stride + 1;
}

int kd_items_check_layers(kd_loader *l, const char *prefix, const kd_model_spec *m)
{
    char key[64], at[96];
    snprintf(key, sizeof key, "%s.layers", prefix);
    int list = kd_load_node(l, key), side = m->size;
    int channels = 0; /* of a picture: 1 or 3, the data says which */
    for (int i = 0; i < m->n_layers; i++) {
        const kd_layer_spec *layer = &m->layers[i];
        int node = kd_tree_node(l->tree, list)->data.sequence.items.start[i];
        snprintf(at, sizeof at, "%s[%d].%s", key, i, layer_items[layer->kind].name);
        bool conv_here = layer->kind == KD_LAYER_CONV;
        if (conv_here || layer->kind == KD_LAYER_MAX_POOL || layer->kind == KD_LAYER_AVG_POOL) {
            int after = side_after(side, layer);
            if (layer->pad >= layer->kernel)
                return kd_load_bad(l, node, at, "a padding of %d is not below the kernel, %d",
                                   layer->pad, layer->kernel);
            if (after < 1)
                return kd_load_bad(l, node, at, "a kernel of %d does not fit %dx%d pixels",
                                   layer->kernel, side, side);
            side = after;
        }
        if (conv_here) {
            if (layer->channels % layer->groups != 0 ||
                (channels > 0 && channels % layer->groups != 0))
                return kd_load_bad(l, node, at,
                                   "%d groups do not divide the channels before and after it",
                                   layer->groups);
            channels = layer->channels;
        } else if (layer->kind == KD_LAYER_DENSE) {
            if (side != 1)
                return kd_load_bad(l, node, at,
                                   "its input is still a picture of %dx%d; put flatten or "
                                   "global_avg_pool before it",
                                   side, side);
            channels = layer->channels;
        } else if (layer->kind == KD_LAYER_GLOBAL_AVG_POOL) {
            side = 1;
        } else if (layer->kind == KD_LAYER_FLATTEN) {
            /* Too many values for an int are the network's to refuse. */
            if (side != 1)
                channels = 0;
            side = 1;
        }
    }
    if (side != 1)
        return kd_load_bad(l, list, key,
                           "the last layer leaves a picture of %dx%d; end with global_avg_pool or "
                           "flatten, a dense layer of the classes follows",
                           side, side);
    return 0;
}

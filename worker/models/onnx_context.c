/* Values by name, and what a node says: inputs, outputs, attributes. */
#include "models/onnx_internal.h"

#include <stdio.h>
#include <stdlib.h>

int kd_onnx_fail(kd_onnx_ctx *c, int code, const char *fmt, ...)
{
    char text[KD_DIAG_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!c->node)
        return kd_fail(c->diag, code, "%s: %s", c->name, text);
    const char *node = c->node->name;
    if (!*node && c->node->n_output)
        node = c->node->output[0];
    return kd_fail(c->diag, code, "%s: node %.200s (%.60s): %s", c->name, node, c->node->op_type,
                   text);
}

int kd_onnx_no_memory(kd_onnx_ctx *c)
{
    return kd_fail(c->diag, -KD_ENOMEM, "no memory for reading %s", c->name);
}

/* ---- values */

static int compare(const void *a, const void *b)
{
    return strcmp(((const kd_onnx_value *)a)->name, ((const kd_onnx_value *)b)->name);
}

static int compare_key(const void *key, const void *value)
{
    return strcmp(key, ((const kd_onnx_value *)value)->name);
}

kd_onnx_value *kd_onnx_find(kd_onnx_ctx *c, const char *name)
{
    return bsearch(name, c->values, c->n_values, sizeof *c->values, compare_key);
}

int kd_onnx_collect(kd_onnx_ctx *c)
{
    const Onnx__GraphProto *g = c->graph;
    size_t room = g->n_initializer + g->n_input + 1;
    for (size_t i = 0; i < g->n_node; i++)
        room += g->node[i]->n_output;
    c->values = calloc(room, sizeof *c->values);
    if (!c->values)
        return kd_onnx_no_memory(c);
    size_t n = 0;
    for (size_t i = 0; i < g->n_initializer; i++)
        c->values[n++] = (kd_onnx_value){
            .name = g->initializer[i]->name, .initializer = g->initializer[i], .maker = -1};
    for (size_t i = 0; i < g->n_node; i++)
        for (size_t k = 0; k < g->node[i]->n_output; k++)
            if (*g->node[i]->output[k])
                c->values[n++] = (kd_onnx_value){.name = g->node[i]->output[k], .maker = (int)i};
    qsort(c->values, n, sizeof *c->values, compare);
    c->n_values = n;
    for (size_t i = 1; i < n; i++)
        if (strcmp(c->values[i - 1].name, c->values[i].name) == 0)
            return kd_onnx_fail(c, -KD_EDATA, "two things are named %s", c->values[i].name);
    /* Old files list initialisers among the inputs too: those are no inputs. */
    size_t all = n;
    for (size_t i = 0; i < g->n_input; i++)
        if (!kd_onnx_find(c, g->input[i]->name))
            c->values[all++] = (kd_onnx_value){.name = g->input[i]->name, .maker = -1};
    qsort(c->values, all, sizeof *c->values, compare);
    c->n_values = all;
    for (size_t i = 1; i < all; i++)
        if (strcmp(c->values[i - 1].name, c->values[i].name) == 0)
            return kd_onnx_fail(c, -KD_EDATA, "two inputs are named %s", c->values[i].name);
    return 0;
}

kd_onnx_value *kd_onnx_in(kd_onnx_ctx *c, size_t i)
{
    if (i >= c->node->n_input || !*c->node->input[i])
        return NULL;
    return kd_onnx_find(c, c->node->input[i]);
}

int kd_onnx_in_dyn(kd_onnx_ctx *c, size_t i, const kd_onnx_dyn **out)
{
    kd_onnx_value *v = kd_onnx_in(c, i);
    if (!v)
        return kd_onnx_fail(c, -KD_EDATA, "input %zu is missing", i);
    if (v->constant)
        return kd_onnx_fail(c, -KD_EUNSUP,
                            "input %zu (%s) does not depend on the picture, which is not read here",
                            i, v->name);
    *out = &v->d;
    return 0;
}

int kd_onnx_in_const(kd_onnx_ctx *c, size_t i, const char *what, kd_onnx_const **out)
{
    kd_onnx_value *v = kd_onnx_in(c, i);
    if (!v)
        return kd_onnx_fail(c, -KD_EDATA, "input %zu, the %s, is missing", i, what);
    if (!v->constant)
        return kd_onnx_fail(c, -KD_EUNSUP,
                            "the %s (%s) is computed from the picture, it must be an initialiser",
                            what, v->name);
    *out = v->constant;
    return 0;
}

int kd_onnx_in_ints(kd_onnx_ctx *c, size_t i, const char *what, const int64_t **out, size_t *out_n)
{
    kd_onnx_const *k;
    int rc = kd_onnx_in_const(c, i, what, &k);
    if (rc)
        return rc;
    if (!k->integer || k->rank > 1 || k->count > 64)
        return kd_onnx_fail(c, -KD_EDATA, "the %s (%s) is no short list of integers", what,
                            k->name);
    rc = kd_onnx_const_load(c, k);
    if (rc)
        return rc;
    *out = k->i;
    *out_n = k->count;
    return 0;
}

int kd_onnx_in_scalar(kd_onnx_ctx *c, size_t i, const char *what, float absent, float *out)
{
    kd_onnx_const *k;
    *out = absent;
    if (!kd_onnx_in(c, i))
        return 0;
    int rc = kd_onnx_in_const(c, i, what, &k);
    if (!rc && k->count != 1)
        rc = kd_onnx_fail(c, -KD_EDATA, "the %s (%s) has %zu values, 1 was expected", what, k->name,
                          k->count);
    return rc ? rc : kd_onnx_const_floats(c, k, out);
}

static int out_value(kd_onnx_ctx *c, size_t i, kd_onnx_value **out)
{
    *out = NULL;
    if (i < c->node->n_output && *c->node->output[i])
        *out = kd_onnx_find(c, c->node->output[i]);
    return 0;
}

int kd_onnx_out_dyn(kd_onnx_ctx *c, size_t i, const kd_onnx_dyn *d)
{
    kd_onnx_value *v;
    if (c->g->error[0])
        return kd_onnx_fail(c, -KD_EDATA, "%s", c->g->error);
    int rc = out_value(c, i, &v);
    if (rc || !v)
        return rc;
    v->d = *d;
    v->d.shared = d->shared || v->readers > 1;
    v->ready = true;
    return 0;
}

int kd_onnx_out_const(kd_onnx_ctx *c, size_t i, kd_onnx_const *k)
{
    kd_onnx_value *v;
    int rc = out_value(c, i, &v);
    if (rc || !v)
        return rc;
    v->constant = k;
    v->ready = true;
    return 0;
}

/* ---- attributes */

const Onnx__AttributeProto *kd_onnx_attr(const kd_onnx_ctx *c, const char *name)
{
    for (size_t i = 0; i < c->node->n_attribute; i++)
        if (strcmp(c->node->attribute[i]->name, name) == 0)
            return c->node->attribute[i];
    return NULL;
}

/* NULL if absent; *out_rc tells of another type. Files of the first versions name no types. */
static const Onnx__AttributeProto *typed(kd_onnx_ctx *c, const char *name, int32_t type,
                                         int *out_rc)
{
    const Onnx__AttributeProto *a = kd_onnx_attr(c, name);
    *out_rc = 0;
    if (a && a->has_type && a->type != type)
        *out_rc =
            kd_onnx_fail(c, -KD_EDATA, "attribute %s is of type %d, not %d", name, a->type, type);
    return a;
}

int kd_onnx_attr_int(kd_onnx_ctx *c, const char *name, int64_t absent, int64_t *out)
{
    int rc;
    const Onnx__AttributeProto *a = typed(c, name, KD_ONNX_ATTR_INT, &rc);
    *out = a ? a->i : absent;
    return rc;
}

int kd_onnx_attr_float(kd_onnx_ctx *c, const char *name, float absent, float *out)
{
    int rc;
    const Onnx__AttributeProto *a = typed(c, name, KD_ONNX_ATTR_FLOAT, &rc);
    *out = a ? a->f : absent;
    return rc;
}

int kd_onnx_attr_ints(kd_onnx_ctx *c, const char *name, const int64_t **out, size_t *out_n)
{
    int rc;
    const Onnx__AttributeProto *a = typed(c, name, KD_ONNX_ATTR_INTS, &rc);
    *out = a ? a->ints : NULL;
    *out_n = a ? a->n_ints : 0;
    return rc;
}

int kd_onnx_attr_text(kd_onnx_ctx *c, const char *name, const char *absent, char *out, size_t size)
{
    int rc;
    const Onnx__AttributeProto *a = typed(c, name, KD_ONNX_ATTR_STRING, &rc);
    const char *text = a ? (const char *)a->s.data : absent;
    size_t len = a ? a->s.len : strlen(absent);
    if (!rc && (len >= size || (len && memchr(text, '\0', len))))
        rc = kd_onnx_fail(c, -KD_EDATA, "attribute %s is no word", name);
    if (!rc) {
        if (len)
            memcpy(out, text, len);
        out[len] = '\0';
    }
    return rc;
}

int kd_onnx_only_attrs(kd_onnx_ctx *c, const char *names)
{
    for (size_t i = 0; i < c->node->n_attribute; i++) {
        const char *name = c->node->attribute[i]->name;
        const size_t n = strlen(name);
        bool known = false;
        for (const char *p = names; *p; p += strspn(p, " ")) {
            size_t word = strcspn(p, " ");
            known |= word == n && memcmp(p, name, n) == 0;
            p += word;
        }
        if (!known)
            return kd_onnx_fail(c, -KD_EUNSUP, "the attribute %s is not supported", name);
        for (size_t k = 0; k < i; k++)
            if (strcmp(c->node->attribute[k]->name, name) == 0)
                return kd_onnx_fail(c, -KD_EDATA, "the attribute %s comes twice", name);
    }
    return 0;
}

int kd_onnx_axis(kd_onnx_ctx *c, int64_t axis, int rank, int *out)
{
    if (axis < -rank || axis >= rank)
        return kd_onnx_fail(c, -KD_EDATA, "axis %lld of a tensor with %d axes", (long long)axis,
                            rank);
    *out = (int)(axis < 0 ? axis + rank : axis);
    return 0;
}

int kd_onnx_axes(kd_onnx_ctx *c, size_t i, int rank, int *out, int *out_n)
{
    const int64_t *axes;
    size_t n;
    int rc = kd_onnx_attr_ints(c, "axes", &axes, &n);
    if (!rc && !axes && kd_onnx_in(c, i))
        rc = kd_onnx_in_ints(c, i, "axes", &axes, &n);
    if (!rc && n > (size_t)rank)
        rc = kd_onnx_fail(c, -KD_EDATA, "%zu axes of a tensor with %d", n, rank);
    *out_n = 0;
    for (size_t k = 0; !rc && k < n; k++) {
        rc = kd_onnx_axis(c, axes[k], rank, &out[k]);
        for (size_t j = 0; !rc && j < k; j++)
            if (out[j] == out[k])
                rc = kd_onnx_fail(c, -KD_EDATA, "axis %d comes twice", out[k]);
        *out_n = (int)k + 1;
    }
    return rc;
}

/* ---- parameters */

static bool taken(const kd_onnx_ctx *c, const char *name)
{
    for (int i = 0; i < c->g->n_nodes; i++)
        if (c->g->nodes[i].weight >= 0 && strcmp(c->g->nodes[i].name, name) == 0)
            return true;
    return false;
}

/* Letters that are safe in every file and on every screen; the end of a long name says more than
 * its beginning. */
static void plain(const char *name, size_t len, char *out, size_t size)
{
    if (len > size - 1) {
        name += len - (size - 1);
        len = size - 1;
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char b = (unsigned char)name[i];
        bool ok = (b >= '0' && b <= '9') || (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') ||
                  strchr("_./:-", b);
        out[i] = ok ? (char)b : '_';
    }
    out[len] = '\0';
}

void kd_onnx_name(kd_onnx_ctx *c, const kd_onnx_const *k, char out[80])
{
    static const char *const endings[] = {".weight", ".value"};
    const char *name = k && k->src ? k->name : "";
    /* What PyTorch calls weights that it has folded a batch norm into. */
    if (strncmp(name, "onnx::", 6) == 0)
        name = "";
    if (!*name && c->node)
        name = *c->node->name ? c->node->name : c->node->n_output ? c->node->output[0] : "";
    size_t len = strlen(name);
    for (size_t i = 0; i < KD_COUNT(endings); i++) {
        size_t n = strlen(endings[i]);
        if (len > n && strcmp(name + len - n, endings[i]) == 0)
            len -= n;
    }
    char base[72];
    plain(name, len, base, sizeof base);
    if (!base[0])
        snprintf(base, sizeof base, "node");
    snprintf(out, 80, "%s", base);
    /* Far copies are numbered by their place: looking for each in turn would take too long. */
    for (int i = 2; taken(c, out); i = i < 9 ? i + 1 : KD_MAX(i + 1, c->g->n_nodes))
        snprintf(out, 80, "%.60s_%d", base, i);
}

static int add_fill(kd_onnx_ctx *c, kd_onnx_fill fill)
{
    if (c->g->error[0] || fill.param < 0) {
        free(fill.values);
        return kd_onnx_fail(c, -KD_EDATA, "%s", c->g->error);
    }
    if (c->n_fills == c->room_fills) {
        size_t room = c->room_fills ? 2 * c->room_fills : 128;
        kd_onnx_fill *more = realloc(c->fills, room * sizeof *more);
        if (!more) {
            free(fill.values);
            return kd_onnx_no_memory(c);
        }
        c->fills = more;
        c->room_fills = room;
    }
    c->fills[c->n_fills++] = fill;
    return 0;
}

int kd_onnx_fill_from(kd_onnx_ctx *c, int param, kd_onnx_const *from, bool transpose, float scale)
{
    return add_fill(c, (kd_onnx_fill){.param = param,
                                      .from = from,
                                      .transpose = transpose,
                                      .scale = scale,
                                      .held = from->held});
}

int kd_onnx_fill_with(kd_onnx_ctx *c, int param, const kd_onnx_const *like, float *values)
{
    return add_fill(
        c, (kd_onnx_fill){.param = param, .values = values, .scale = 1, .held = like->held});
}

const kd_onnx_fill *kd_onnx_filled(const kd_onnx_ctx *c, int param)
{
    for (size_t i = 0; i < c->n_fills; i++)
        if (c->fills[i].param == param)
            return &c->fills[i];
    return NULL;
}

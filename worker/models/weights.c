#include "models/models.h"
#include "store/narrow.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *shape_text(const int64_t *shape, int ndim, char *out, size_t size)
{
    size_t at = 0;
    at += (size_t)snprintf(out, size, "[");
    for (int i = 0; i < ndim && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%lld", i ? "," : "", (long long)shape[i]);
    if (at < size)
        snprintf(out + at, size - at, "]");
    return out;
}

static bool same_shape(const kd_param *p, const kd_st_tensor *t)
{
    if (t->ndim != p->ndim)
        return false;
    for (int i = 0; i < p->ndim; i++)
        if (t->shape[i] != p->shape[i])
            return false;
    return true;
}

/* Same but for the first side: the same features, another number of classes. */
static bool other_classes(const kd_param *p, const kd_st_tensor *t)
{
    if (!p->head || t->ndim != p->ndim)
        return false;
    for (int i = 1; i < p->ndim; i++)
        if (t->shape[i] != p->shape[i])
            return false;
    return t->shape[0] != p->shape[0];
}

/* The scales of a tensor of 8 bits, "NAME.scale"; NULL if there are none that fit. */
static const kd_st_tensor *scales_of(const kd_st_file *f, const kd_st_tensor *t)
{
    char name[sizeof((kd_param *)0)->name + 8];
    snprintf(name, sizeof name, "%s.scale", t->name);
    const kd_st_tensor *s = kd_st_find(f, name);
    const bool fits = s && strcmp(s->dtype, "F32") == 0 && s->ndim == 1 && t->ndim > 0 &&
                      s->shape[0] == t->shape[0];
    return fits ? s : NULL;
}

static int check_tensor(const kd_param *p, const kd_st_file *f, const char *name, bool *new_head,
                        kd_diag *diag)
{
    char want[128], have[128];
    shape_text(p->shape, p->ndim, want, sizeof want);
    const kd_st_tensor *t = kd_st_find(f, p->name);
    if (!t)
        return kd_fail(
            diag, -KD_EDATA,
            "%s has no tensor %s of shape %s, which the network needs; it has %zu others.", name,
            p->name, want, kd_st_count(f));
    shape_text(t->shape, t->ndim, have, sizeof have);
    const bool int8 = strcmp(t->dtype, "I8") == 0;
    if (int8 && !scales_of(f, t))
        return kd_fail(diag, -KD_EDATA,
                       "%s: tensor %s has the type I8, but there is no tensor %s.scale of type F32 "
                       "with one value a row.",
                       name, p->name, p->name);
    if (kd_st_type_of(t->dtype) < 0)
        return kd_fail(diag, -KD_EDATA, "%s: tensor %s has the type %s, F32 was expected.", name,
                       p->name, t->dtype);
    if (same_shape(p, t))
        return 0;
    if (!other_classes(p, t))
        return kd_fail(diag, -KD_EDATA, "%s: tensor %s has the shape %s, the network needs %s.",
                       name, p->name, have, want);
    *new_head = true;
    return 0;
}

static float float_at(const uint8_t *data, size_t i)
{
    float value;
    memcpy(&value, data + i * sizeof value, sizeof value);
    return value;
}

/* What kd_int8_codes can have given. */
static int check_codes(const kd_param *p, const kd_st_tensor *t, const kd_st_tensor *scales,
                       const char *name, kd_diag *diag)
{
    for (size_t i = 0; i < (size_t)scales->shape[0]; i++) {
        const float scale = float_at(scales->data, i);
        if (!(scale > 0 && scale <= KD_INT8_MOST))
            return kd_fail(diag, -KD_EDATA,
                           "%s: scale %zu of tensor %s is %g, above 0 and at most %g is read.",
                           name, i, p->name, (double)scale, (double)KD_INT8_MOST);
    }
    const void *low = memchr(t->data, 0x80, p->count);
    return !low ? 0
                : kd_fail(diag, -KD_EDATA,
                          "%s: value %zu of tensor %s has the code -128; codes go from -127 to "
                          "127.",
                          name, (size_t)((const uint8_t *)low - t->data), p->name);
}

/* scale: of its row, of a tensor of 8 bits. */
static float value_at(const kd_st_tensor *t, enum kd_st_type type, float scale, size_t i)
{
    uint16_t half;
    switch (type) {
    case KD_ST_F16:
    case KD_ST_BF16:
        memcpy(&half, t->data + i * sizeof half, sizeof half);
        return kd_half_value(half, type);
    case KD_ST_I8:
        return scale * (float)(int8_t)t->data[i];
    case KD_ST_F32:
        break;
    }
    return float_at(t->data, i);
}

/* scales: of a tensor of 8 bits, else NULL. */
static int copy_tensor(const kd_param *p, const kd_st_tensor *t, const kd_st_tensor *scales,
                       const char *name, float *vector, kd_diag *diag)
{
    const bool variance = p->kind == KD_PARAM_STATISTIC && p->init == KD_INIT_ONE;
    const size_t row = p->count / (size_t)p->shape[0];
    const enum kd_st_type type = (enum kd_st_type)kd_st_type_of(t->dtype);
    for (size_t i = 0; i < p->count; i++) {
        const float value = value_at(t, type, scales ? float_at(scales->data, i / row) : 1, i);
        if (!isfinite(value) || (variance && value < 0))
            return kd_fail(diag, -KD_EDATA, "%s: value %zu of tensor %s is %g.", name, i, p->name,
                           (double)value);
        if (vector)
            vector[p->offset + i] = value;
    }
    return 0;
}

static int load(const kd_graph *g, const kd_st_file *f, const char *name, float *vector,
                bool *out_new_head, kd_diag *diag)
{
    bool new_head = false;
    int rc = 0;
    for (int i = 0; i < g->n_params && !rc; i++)
        rc = check_tensor(&g->params[i], f, name, &new_head, diag);
    /* All is looked at before the first value is written, so that a refused file changes nothing.
     */
    for (int write = 0; write < 2; write++)
        for (int i = 0; i < g->n_params && !rc; i++) {
            const kd_param *p = &g->params[i];
            if (p->head && new_head)
                continue;
            const kd_st_tensor *t = kd_st_find(f, p->name);
            const kd_st_tensor *scales = strcmp(t->dtype, "I8") == 0 ? scales_of(f, t) : NULL;
            if (scales && !write)
                rc = check_codes(p, t, scales, name, diag);
            if (!rc)
                rc = copy_tensor(p, t, scales, name, write ? vector : NULL, diag);
        }
    if (!rc)
        *out_new_head = new_head;
    return rc;
}

int kd_model_load(const kd_graph *g, const void *file, size_t len, const char *name, float *vector,
                  bool *out_new_head, kd_diag *diag)
{
    kd_st_file *f;
    int rc = kd_st_open_memory(file, len, name, &f, diag);
    if (rc)
        return rc;
    rc = load(g, f, name, vector, out_new_head, diag);
    kd_st_close(f);
    return rc;
}

char *kd_model_table(const kd_graph *g, const enum kd_st_type *types)
{
    json_t *table = json_array();
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        json_t *shape = json_array();
        for (int k = 0; k < p->ndim; k++)
            json_array_append_new(shape, json_integer(p->shape[k]));
        json_t *row =
            json_pack("{s:s, s:o, s:I, s:b}", "name", p->name, "shape", shape, "offset",
                      (json_int_t)p->offset, "trained", (int)(p->kind == KD_PARAM_TRAINED));
        if (types && types[i] != KD_ST_F32)
            json_object_set_new(row, "type", json_string(kd_st_type_word(types[i])));
        json_array_append_new(table, row);
    }
    char *text = json_dumps(table, JSON_COMPACT);
    json_decref(table);
    return text;
}

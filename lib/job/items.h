/* Lists whose elements are words and small mappings (data.augment, layers, compress, export): one
 * table each, private to lib/job. An element is written `name`, `{name: VALUE}` or `{name: {field:
 * VALUE}}`; its fields are rows as those of the schema, with short names and offsets in the list's
 * own struct. */
#ifndef KD_JOB_ITEMS_H
#define KD_JOB_ITEMS_H

#include "load.h"

#include <jansson.h>

typedef struct kd_item {
    const char *name;
    const kd_key *fields; /* def NULL = must be written, "" = zero */
    int n_fields;
    bool word;   /* may stand alone: every field has a default */
    bool scalar; /* its first field may stand without a name */
    bool map;    /* may have a mapping of fields */
    const char *meaning;
} kd_item;

typedef struct kd_items {
    const kd_item *of;
    int n;
} kd_items;

/* Rows of such tables. */
#define KD_ITEM_FIELD(struct_, member, name, kind, low, high, default_, bits)                      \
    {                                                                                              \
        .key = (name), .type = KD_KEY_##kind, .lo = (low), .hi = (high), .def = (default_),        \
        .flags = (bits), .at = offsetof(struct_, member)                                           \
    }
#define KD_ITEM_FIELDS(list) .fields = (list), .n_fields = (int)KD_COUNT(list)

/* The list of a row's type; NULL = the row is no such list. */
const kd_items *kd_items_of(const kd_key *k);
/* Reads the value of an augment, layers, compress or export row. */
int kd_items_read(kd_loader *l, const kd_key *k, int node);
/* The row's list; NULL: memory ran out. */
json_t *kd_items_json(const kd_key *k, const kd_job *job, int inst);
/* Calls `each` for every real number in the row's list. */
void kd_items_reals(const kd_key *k, const kd_job *job, int inst, void (*each)(void *arg, double v),
                    void *arg);
/* "{crop: {pad: N}}" */
void kd_item_text(const kd_item *item, char *out, size_t size);
/* JSON of one scalar field (not INTS and the lists); NULL: memory ran out. */
json_t *kd_value_json(const kd_key *k, const char *field);
/* Refuses layers that do not follow one another: groups, sizes, a dense layer on a picture. */
int kd_items_check_layers(kd_loader *l, const char *prefix, const kd_model_spec *m);

/* ---- compress.c */
extern const kd_items kd_compress_list;
/* Fills what each step of `compress` trains with from `distill`. */
void kd_compress_derive(kd_job *job);
/* Refuses steps that cannot follow one another. */
int kd_compress_check(kd_loader *l);

#endif

/* Networks as safetensors files that say all about themselves. */
#include "models/int8.h"
#include "models/loaded.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for what is written of the parameters. */
typedef struct room {
    bool *int8;        /* [n_params] */
    kd_st_item *items; /* [2 * n_params] */
    char (*names)[sizeof((kd_param *)0)->name + 8];
    int8_t *codes; /* [vector_len] */
    float *units;  /* [sum of rows] */
} room;

static bool make_room(const kd_graph *g, room *r)
{
    const size_t n = (size_t)g->n_params + 1;
    size_t rows = 1;
    r->int8 = calloc(n, sizeof *r->int8);
    r->items = calloc(2 * n, sizeof *r->items);
    r->names = calloc(n, sizeof *r->names);
    if (!r->int8 || !r->items || !r->names)
        return false;
    kd_int8_params(g, r->int8);
    for (int i = 0; i < g->n_params; i++)
        rows += r->int8[i] ? (size_t)g->params[i].shape[0] : 0;
    r->codes = rows > 1 ? malloc(g->vector_len) : NULL;
    r->units = malloc(rows * sizeof *r->units);
    return r->units && (rows == 1 || r->codes);
}

/* Floats first, so that they lie at multiples of their size. */
static size_t list(const kd_graph *g, const float *vector, const room *r)
{
    size_t n = 0, row = 0;
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        if (!r->int8[i]) {
            r->items[n] =
                (kd_st_item){.name = p->name, .ndim = p->ndim, .data = vector + p->offset};
            memcpy(r->items[n++].shape, p->shape, sizeof p->shape);
            continue;
        }
        const int rows = (int)p->shape[0];
        kd_int8_codes(vector + p->offset, rows, p->count / (size_t)rows, r->codes + p->offset,
                      r->units + row);
        snprintf(r->names[i], sizeof r->names[i], "%s.scale", p->name);
        r->items[n++] =
            (kd_st_item){.name = r->names[i], .ndim = 1, .shape = {rows}, .data = r->units + row};
        row += (size_t)rows;
    }
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        if (!r->int8[i])
            continue;
        r->items[n] = (kd_st_item){
            .name = p->name, .ndim = p->ndim, .data = r->codes + p->offset, .int8 = true};
        memcpy(r->items[n++].shape, p->shape, sizeof p->shape);
    }
    return n;
}

int kd_loaded_pack(const kd_graph *g, const float *vector, const kd_model_file_info *info,
                   kd_buf *out, kd_diag *diag)
{
    room r = {0};
    kd_loaded_meta meta = {0};
    kd_model_file_info said = *info;
    const kd_digest digest = kd_digest_of(vector, g->vector_len * sizeof *vector);
    kd_digest_hex(&digest, said.digest);
    int rc = make_room(g, &r) ? kd_loaded_describe(g, &said, &meta, diag)
                              : kd_fail(diag, -KD_ENOMEM, "no memory for writing a network");
    if (!rc)
        rc = kd_st_pack(r.items, list(g, vector, &r), meta.pairs, meta.n_pairs, out, diag);
    kd_loaded_meta_clear(&meta);
    free(r.int8);
    free(r.items);
    free(r.names);
    free(r.codes);
    free(r.units);
    return rc;
}

/* Networks as safetensors files that say all about themselves. */
#include "models/int8.h"
#include "models/loaded.h"

#include <stdlib.h>
#include <string.h>

static void list(const kd_graph *g, const float *vector, const enum kd_st_type *types,
                 kd_st_item *items)
{
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        items[i] = (kd_st_item){
            .name = p->name, .ndim = p->ndim, .data = vector + p->offset, .type = types[i]};
        memcpy(items[i].shape, p->shape, sizeof p->shape);
    }
}

int kd_loaded_pack(const kd_graph *g, const float *vector, const kd_model_file_info *info,
                   kd_buf *out, kd_diag *diag)
{
    const size_t n = (size_t)g->n_params;
    kd_loaded_meta meta = {0};
    kd_model_file_info said = *info;
    const kd_digest digest = kd_digest_of(vector, g->vector_len * sizeof *vector);
    kd_st_item *items = calloc(n + 1, sizeof *items);
    enum kd_st_type *types = calloc(n + 1, sizeof *types);
    kd_digest_hex(&digest, said.digest);
    int rc = items && types ? kd_loaded_describe(g, &said, &meta, diag)
                            : kd_fail(diag, -KD_ENOMEM, "no memory for writing a network");
    if (!rc) {
        kd_param_types(g, info->half, types);
        list(g, vector, types, items);
        rc = kd_narrow_pack(items, n, meta.pairs, meta.n_pairs, out, diag);
    }
    kd_loaded_meta_clear(&meta);
    free(items);
    free(types);
    return rc;
}

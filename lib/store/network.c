#include "store/network.h"

#include "store/narrow.h"

#include <jansson.h>
#include <stdlib.h>

/* One row of the parameter table. */
static int table_item(json_t *row, size_t i, const float *vector, uint64_t floats, kd_st_item *it,
                      kd_diag *diag)
{
    json_t *shape = json_object_get(row, "shape");
    it->name = json_string_value(json_object_get(row, "name"));
    int64_t offset = json_integer_value(json_object_get(row, "offset"));
    uint64_t count = 1;
    it->ndim = (int)json_array_size(shape);
    const char *word = json_string_value(json_object_get(row, "type"));
    const int type = word ? kd_st_type_of(word) : KD_ST_F32;
    bool ok = it->name && it->ndim <= KD_ST_MAX_DIMS && offset >= 0 && type >= 0;
    for (int k = 0; ok && k < it->ndim; k++) {
        it->shape[k] = json_integer_value(json_array_get(shape, (size_t)k));
        ok = it->shape[k] > 0 && !__builtin_mul_overflow(count, (uint64_t)it->shape[k], &count);
    }
    if (!ok || (uint64_t)offset > floats || count > floats - (uint64_t)offset)
        return kd_fail(diag, -KD_EDATA, "row %zu of the parameter table is not within it", i);
    it->data = vector + offset;
    it->type = (enum kd_st_type)type;
    return 0;
}

int kd_network_pack(const char *table, const char *metadata, const float *vector, uint64_t floats,
                    const kd_st_pair *first, size_t n_first, kd_buf *out, kd_diag *diag)
{
    json_t *rows = json_loads(table, JSON_REJECT_DUPLICATES, NULL);
    json_t *more = json_loads(metadata, JSON_REJECT_DUPLICATES, NULL), *value;
    size_t n = json_array_size(rows), n_pairs = 0;
    kd_st_item *items = kd_xalloc((n + 1) * sizeof *items);
    kd_st_pair pairs[KD_NETWORK_PAIRS];
    int rc = n ? 0 : kd_fail(diag, -KD_EDATA, "the parameter table is empty or not JSON");
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = table_item(json_array_get(rows, i), i, vector, floats, &items[i], diag);
    while (n_pairs < n_first && n_pairs < KD_COUNT(pairs)) {
        pairs[n_pairs] = first[n_pairs];
        n_pairs++;
    }
    const char *key;
    json_object_foreach(more, key, value)
    {
        if (json_is_string(value) && n_pairs < KD_COUNT(pairs))
            pairs[n_pairs++] = (kd_st_pair){key, json_string_value(value)};
    }
    if (rc == 0)
        rc = kd_narrow_pack(items, n, pairs, n_pairs, out, diag);
    json_decref(more);
    json_decref(rows);
    free(items);
    return rc;
}

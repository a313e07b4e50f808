#include "fuzz.h"

#include "store/safetensors.h"

/* Tensors lie within the file, share no byte and can be found by name. */
int kd_fuzz_safetensors(const uint8_t *data, size_t len)
{
    kd_st_file *f = NULL;
    kd_diag diag = {0};
    int rc = kd_st_open_memory(data, len, "fuzz", &f, &diag);
    if (rc != 0) {
        KD_FUZZ_CHECK(rc == -KD_EDATA || rc == -KD_ELIMIT);
        KD_FUZZ_CHECK(!f);
        return kd_fuzz_refused(rc, &diag);
    }
    size_t total = 0;
    for (size_t i = 0; i < kd_st_count(f); i++) {
        const kd_st_tensor *t = kd_st_at(f, i);
        KD_FUZZ_CHECK(t->data >= data && t->bytes <= len);
        KD_FUZZ_CHECK(t->data <= data + len && t->bytes <= (size_t)(data + len - t->data));
        KD_FUZZ_CHECK(t->ndim >= 0 && t->ndim <= KD_ST_MAX_DIMS);
        KD_FUZZ_CHECK(kd_st_find(f, t->name) == t);
        for (size_t k = 0; k < i; k++) {
            const kd_st_tensor *o = kd_st_at(f, k);
            KD_FUZZ_CHECK(!t->bytes || !o->bytes || t->data + t->bytes <= o->data ||
                          o->data + o->bytes <= t->data);
        }
        total += t->bytes;
    }
    KD_FUZZ_CHECK(total <= len);
    (void)kd_st_metadata(f, "digest");
    kd_st_close(f);
    return 1;
}

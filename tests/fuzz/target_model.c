#include "fuzz.h"

#include "compress/c_write.h"
#include "compress/fold.h"
#include "models/loaded.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FLOATS 4096 /* of a network that is written again; larger ones take long */

/* What was read is written and read again as the same network. */
static void check_packed(const kd_loaded *l)
{
    kd_diag diag = {0};
    kd_loaded again;
    kd_model_file_info info = l->info;
    kd_buf b;
    info.has_preprocess = true;
    info.size = l->size;
    kd_buf_init(&b, 16u << 20);
    KD_FUZZ_CHECK(kd_loaded_pack(l->graph, l->vector, &info, &b, &diag) == 0);
    KD_FUZZ_CHECK(kd_graph_is_int8(l->graph) ||
                  kd_loaded_open((uint8_t *)b.data, b.len, "packed", &again, &diag) == 0);
    kd_buf_clear(&b);
    if (kd_graph_is_int8(l->graph)) /* its weights may be no codes yet */
        return;
    KD_FUZZ_CHECK(memcmp(again.vector, l->vector, l->graph->vector_len * sizeof(float)) == 0);
    KD_FUZZ_CHECK(again.n_classes == l->n_classes);
    KD_FUZZ_CHECK(strcmp(again.info.job, l->info.job) == 0);
    kd_loaded_clear(&again);
}

static void check_written(const kd_loaded *l)
{
    kd_diag diag = {0};
    kd_graph *g;
    float *v;
    kd_buf header, source;
    size_t memory;
    char prefix[KD_C_PREFIX];
    int rc = kd_fold(l->graph, l->vector, &g, &v, &diag);
    if (rc != 0) {
        KD_FUZZ_CHECK(rc == -KD_EDATA || rc == -KD_EINVAL);
        return;
    }
    kd_graph_free(g);
    free(v);
    kd_buf_init(&header, 1u << 20);
    kd_buf_init(&source, 16u << 20);
    kd_c_prefix(l->info.model, prefix);
    rc = kd_c_write(l->graph, l->vector, &l->info, prefix, "m.h", &header, &source, &memory, &diag);
    KD_FUZZ_CHECK(rc == 0 || rc == -KD_EUNSUP || rc == -KD_ELIMIT);
    KD_FUZZ_CHECK(rc != 0 || (!strstr(header.data, "??") && strstr(source.data, "_run(")));
    kd_buf_clear(&header);
    kd_buf_clear(&source);
}

int kd_fuzz_model(const uint8_t *data, size_t len)
{
    kd_loaded l = {0};
    kd_diag diag = {0};
    const int rc = kd_loaded_open(data, len, "model", &l, &diag);
    if (rc != 0) {
        KD_FUZZ_CHECK(!l.graph && !l.vector);
        return kd_fuzz_refused(rc, &diag);
    }
    KD_FUZZ_CHECK(l.size >= 1 && l.n_classes == l.graph->nodes[l.graph->output].c);
    KD_FUZZ_CHECK(!l.info.classes || l.info.n_classes == l.n_classes);
    for (size_t i = 0; i < l.graph->vector_len; i++)
        KD_FUZZ_CHECK(isfinite(l.vector[i]));
    if (l.graph->vector_len <= MAX_FLOATS) {
        check_packed(&l);
        check_written(&l);
    }
    kd_loaded_clear(&l);
    return 1;
}

#include "fuzz.h"

#include "kd/buf.h"
#include "models/graph_json.h"
#include "models/onnx.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int g_sizes[] = {0, 8, 12, 32}, g_classes[] = {0, 1, 7, 1000};

uint8_t kd_fuzz_onnx_options(int size, int classes, int use)
{
    unsigned s = KD_COUNT(g_sizes) - 1, c = KD_COUNT(g_classes) - 1;
    while (g_sizes[s] > size)
        s--;
    while (g_classes[c] > classes)
        c--;
    return (uint8_t)(s | c << 2 | (unsigned)use << 4);
}

/* A classifier can be built again from its own description. */
static void check_graph(const kd_graph *g)
{
    kd_diag diag = {0};
    kd_graph *again = NULL;
    char *text = kd_graph_to_json(g);
    KD_FUZZ_CHECK(text);
    KD_FUZZ_CHECK(kd_graph_from_json(text, &again, &diag) == 0);
    KD_FUZZ_CHECK(again->vector_len == g->vector_len);
    char *text_again = kd_graph_to_json(again);
    KD_FUZZ_CHECK(text_again && strcmp(text, text_again) == 0);
    free(text_again);
    kd_graph_free(again);
    free(text);
}

/* What was read can be written, and is read again as the same network. */
static void check_written(const kd_graph *g, const float *vector)
{
    const kd_onnx_write_options opt = {.opset = 17};
    const kd_onnx_read_options again_opt = {.folder_fd = -1};
    kd_buf b;
    kd_diag diag = {0};
    kd_graph *again = NULL;
    float *again_vector = NULL;
    bool new_head = false;
    kd_onnx_info info = {0};
    kd_buf_init(&b, 64u << 20);
    int rc = kd_onnx_write(g, vector, &opt, &b, &diag);
    KD_FUZZ_CHECK(rc == 0 || rc == -KD_ELIMIT);
    if (rc == 0) {
        rc = kd_onnx_read((const uint8_t *)b.data, b.len, "written.onnx", &again_opt, &again,
                          &again_vector, &new_head, &info, &diag);
        KD_FUZZ_CHECK(rc == 0);
        KD_FUZZ_CHECK(again->vector_len == g->vector_len);
        KD_FUZZ_CHECK(memcmp(again_vector, vector, g->vector_len * sizeof *vector) == 0);
    }
    kd_graph_free(again);
    free(again_vector);
    kd_onnx_info_clear(&info);
    kd_buf_clear(&b);
}

int kd_fuzz_onnx(const uint8_t *data, size_t len)
{
    if (len < 1)
        return 0;
    const uint8_t o = data[0];
    const unsigned use = KD_MIN(o >> 4 & 3u, (unsigned)KD_ONNX_WHOLE);
    const kd_onnx_read_options opt = {.folder_fd = -1,
                                      .size = g_sizes[o & 3],
                                      .classes = g_classes[o >> 2 & 3],
                                      .use = (enum kd_onnx_use)use};
    kd_graph *g = NULL;
    float *vector = NULL;
    bool new_head = false;
    kd_onnx_info info = {0};
    kd_diag diag = {0};
    int rc =
        kd_onnx_read(data + 1, len - 1, "model.onnx", &opt, &g, &vector, &new_head, &info, &diag);
    if (rc != 0) {
        KD_FUZZ_CHECK(!g && !vector);
        return kd_fuzz_refused(rc, &diag);
    }
    for (size_t i = 0; i < g->vector_len; i++)
        KD_FUZZ_CHECK(isfinite(vector[i]));
    if (use == KD_ONNX_CLASSIFIER)
        check_graph(g);
    /* Weights of an 8-bit network are rounded again when it is written. */
    if (use == KD_ONNX_CLASSIFIER && !kd_graph_is_int8(g))
        check_written(g, vector);
    kd_graph_free(g);
    free(vector);
    kd_onnx_info_clear(&info);
    return 1;
}

int kd_fuzz_graph(const uint8_t *data, size_t len)
{
    char *text = kd_fuzz_text(data, len);
    kd_graph *g = NULL;
    kd_diag diag = {0};
    int rc = kd_graph_from_json(text, &g, &diag);
    free(text);
    if (rc != 0) {
        KD_FUZZ_CHECK(rc == -KD_EDATA || rc == -KD_ELIMIT);
        KD_FUZZ_CHECK(!g);
        return kd_fuzz_refused(rc, &diag);
    }
    check_graph(g);
    kd_graph_free(g);
    return 1;
}

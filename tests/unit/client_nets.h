/* Networks as files for the tests of verbs that read them. Include after kd_test.h. */
#ifndef KD_CLIENT_NETS_H
#define KD_CLIENT_NETS_H

#include "client_run.h"
#include "data/decode.h"
#include "data/flowers.h"
#include "kd/file.h"
#include "models/loaded.h"
#include "models/onnx.h"

/* info NULL: as others write them, nothing but the network. */
static inline void kd_write_onnx(const char *path, const kd_graph *g, const float *vector,
                                 const kd_model_file_info *info)
{
    const kd_onnx_write_options opt = {.opset = info ? 13 : 17, .info = info};
    kd_diag diag = {0};
    kd_buf b;
    kd_buf_init(&b, 64 << 20);
    kd_assert_ok(kd_onnx_write(g, vector, &opt, &b, &diag), &diag);
    kd_assert_ok(kd_file_write(path, b.data, b.len, &diag), &diag);
    kd_buf_clear(&b);
}

static inline void kd_write_safetensors(const char *path, const kd_graph *g, const float *vector,
                                        const kd_model_file_info *info)
{
    kd_diag diag = {0};
    kd_buf b;
    kd_buf_init(&b, 64 << 20);
    kd_assert_ok(kd_loaded_pack(g, vector, info, &b, &diag), &diag);
    kd_assert_ok(kd_file_write(path, b.data, b.len, &diag), &diag);
    kd_buf_clear(&b);
}

/* What files of a shallow CNN say of themselves. classes is borrowed. */
static inline kd_model_file_info kd_client_nets_info(int side, const char *const *classes,
                                                     int n_classes)
{
    return (kd_model_file_info){.model = "shallow_cnn",
                                .has_preprocess = true,
                                .preprocess = KD_PRE_SYMMETRIC,
                                .size = side,
                                .classes = (char **)(uintptr_t)classes,
                                .n_classes = n_classes};
}

/* A small network of pictures of `side` pixels, as three files in a folder of its own. */
struct kd_client_nets {
    char *dir, ours[300], onnx[300], bare[300]; /* bare: says nothing of itself */
    kd_graph *graph;
    float *vector;
};

static inline void kd_client_nets_make(struct kd_client_nets *n, int side,
                                       const kd_model_file_info *info)
{
    const kd_model_config cfg = {
        .model = info->model, .size = side, .channels = 3, .classes = info->n_classes};
    kd_diag diag = {0};
    n->dir = kd_test_mkdir();
    snprintf(n->ours, sizeof n->ours, "%s/student.safetensors", n->dir);
    snprintf(n->onnx, sizeof n->onnx, "%s/student.onnx", n->dir);
    snprintf(n->bare, sizeof n->bare, "%s/bare.ONNX", n->dir);
    kd_assert_ok(kd_model_build(&cfg, &n->graph, &diag), &diag);
    n->vector = malloc(n->graph->vector_len * sizeof *n->vector);
    kd_graph_init(n->graph, 11, n->vector);
    kd_write_safetensors(n->ours, n->graph, n->vector, info);
    kd_write_onnx(n->onnx, n->graph, n->vector, info);
    kd_write_onnx(n->bare, n->graph, n->vector, NULL);
}

static inline void kd_client_nets_free(struct kd_client_nets *n)
{
    kd_graph_free(n->graph);
    free(n->vector);
    kd_test_rmdir(n->dir);
}

/* Draws picture i of a class as a PNG file. */
static inline void kd_client_draw(const char *path, int side, int label, int i)
{
    kd_diag diag = {0};
    uint8_t *rgb = malloc((size_t)side * (size_t)side * 3);
    assert_non_null(rgb);
    kd_flowers_draw(3, side, label, (uint32_t)i, rgb);
    kd_assert_ok(kd_image_write_png(path, rgb, side, side, &diag), &diag);
    free(rgb);
}

/* Class folders of `each` pictures in a folder. */
static inline void kd_client_draw_classes(const char *folder, int side, const char *const *classes,
                                          int n_classes, int each)
{
    kd_diag diag = {0};
    char path[600];
    for (int c = 0; c < n_classes; c++) {
        snprintf(path, sizeof path, "%s/%s", folder, classes[c]);
        kd_assert_ok(kd_file_mkdirs(path, &diag), &diag);
        for (int i = 0; i < each; i++) {
            snprintf(path, sizeof path, "%s/%s/p%d.png", folder, classes[c], i);
            kd_client_draw(path, side, c, i);
        }
    }
}

#endif

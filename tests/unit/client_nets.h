/* Networks as files for the tests of verbs that read them. Include after kd_test.h. */
#ifndef KD_CLIENT_NETS_H
#define KD_CLIENT_NETS_H

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

#endif

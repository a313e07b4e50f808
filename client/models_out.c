#include "models_out.h"

#include "kd/file.h"
#include "models/onnx.h"

#include <string.h>

#define OPSET 17

static const char *const g_words[] = {"safetensors", "onnx", "c"};

int kd_model_format_of(const char *word)
{
    for (size_t i = 0; i < KD_COUNT(g_words); i++)
        if (strcmp(g_words[i], word) == 0)
            return (int)i;
    return -1;
}

const char *kd_model_format_word(int format)
{
    return g_words[format];
}

enum kd_model_format kd_model_format_of_path(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot && strcasecmp(dot, ".onnx") == 0 ? KD_FORMAT_ONNX : KD_FORMAT_SAFETENSORS;
}

int kd_model_write(const char *path, enum kd_model_format format, const kd_graph *g,
                   const float *vector, const kd_model_file_info *info, size_t *out_bytes,
                   kd_diag *diag)
{
    kd_buf bytes;
    kd_model_file_info said = *info;
    const kd_digest digest = kd_digest_of(vector, g->vector_len * sizeof *vector);
    const kd_onnx_write_options opt = {.opset = OPSET, .info = &said};
    kd_digest_hex(&digest, said.digest);
    kd_buf_init(&bytes, KD_LOADED_MAX);
    int rc = format == KD_FORMAT_ONNX ? kd_onnx_write(g, vector, &opt, &bytes, diag)
                                      : kd_loaded_pack(g, vector, &said, &bytes, diag);
    if (rc == 0)
        rc = kd_file_write(path, bytes.data, bytes.len, diag);
    *out_bytes = bytes.len;
    kd_buf_clear(&bytes);
    return rc;
}

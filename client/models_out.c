#include "models_out.h"

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

kd_model_file_info kd_model_about(const kd_predictor *p)
{
    kd_model_file_info info = p->net.info;
    info.has_preprocess = true;
    info.preprocess = (enum kd_preprocess)p->preprocess;
    info.size = p->w;
    info.grey = p->channels == 1;
    return info;
}

int kd_model_pack(enum kd_model_format format, const kd_graph *g, const float *vector,
                  const kd_model_file_info *info, kd_buf *out, kd_diag *diag)
{
    kd_model_file_info said = *info;
    const kd_digest digest = kd_digest_of(vector, g->vector_len * sizeof *vector);
    const kd_onnx_write_options opt = {.opset = OPSET, .info = &said};
    kd_digest_hex(&digest, said.digest);
    kd_buf_init(out, KD_LOADED_MAX);
    return format == KD_FORMAT_ONNX ? kd_onnx_write(g, vector, &opt, out, diag)
                                    : kd_loaded_pack(g, vector, &said, out, diag);
}

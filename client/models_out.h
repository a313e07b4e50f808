/* Networks as files. Threads: one that has called kd_engine_thread. */
#ifndef KD_CLI_MODELS_OUT_H
#define KD_CLI_MODELS_OUT_H

#include "models/loaded.h"

enum kd_model_format { KD_FORMAT_SAFETENSORS, KD_FORMAT_ONNX, KD_FORMAT_C };
/* "safetensors", "onnx", "c"; -1 for another word. */
int kd_model_format_of(const char *word);
const char *kd_model_format_word(int format);
/* ONNX by its ending, else safetensors. */
enum kd_model_format kd_model_format_of_path(const char *path);
/* Writes a safetensors or ONNX (opset 17) file, durably; the digest in it is the vector's. */
int kd_model_write(const char *path, enum kd_model_format format, const kd_graph *g,
                   const float *vector, const kd_model_file_info *info, size_t *out_bytes,
                   kd_diag *diag) KD_MUST_CHECK;

#endif

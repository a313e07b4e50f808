/* Networks as files. Threads: one that has called kd_engine_thread. */
#ifndef KD_CLI_MODELS_OUT_H
#define KD_CLI_MODELS_OUT_H

#include "predict_model.h"

enum kd_model_format { KD_FORMAT_SAFETENSORS, KD_FORMAT_ONNX, KD_FORMAT_C };
/* "safetensors", "onnx", "c"; -1 for another word. */
int kd_model_format_of(const char *word);
const char *kd_model_format_word(int format);
/* ONNX by its ending, else safetensors. */
enum kd_model_format kd_model_format_of_path(const char *path);
/* A safetensors or ONNX (opset 17) file, into out, which begins here and is cleared by the caller
 * in any case; the digest in it is the vector's. */
int kd_model_pack(enum kd_model_format format, const kd_graph *g, const float *vector,
                  const kd_model_file_info *info, kd_buf *out, kd_diag *diag) KD_MUST_CHECK;
/* What a file that is made from p says of itself. Names are borrowed from p. */
kd_model_file_info kd_model_about(const kd_predictor *p);

#endif

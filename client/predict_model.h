/* A network in a file, run on pictures, on this machine. Threads: a kd_predictor is read-only once
 * it is open; each thread has a kd_predict_lane of its own. */
#ifndef KD_CLI_PREDICT_MODEL_H
#define KD_CLI_PREDICT_MODEL_H

#include "engine/plan.h"

#define KD_PREDICT_MODEL_BYTES (2ull << 30)

typedef struct kd_predict_options {
    int size;            /* pixels a side where an ONNX model leaves it open; 0 = the model's own */
    int preprocess;      /* enum kd_preprocess; -1 = as the file says */
    const char *classes; /* file of names, one a line; NULL = as the file says */
} kd_predict_options;

typedef struct kd_predictor {
    kd_graph *graph;
    float *vector;
    int preprocess;
    int w, h;
    char **classes; /* NULL = no names: classes are numbers */
    int n_classes;
    char model[64]; /* what the file calls it, may be "" */
} kd_predictor;

/* path: .safetensors of ours, which says all about itself, or .onnx (external data beneath its
 * folder). -KD_EINVAL: the options do not fit it, or it needs some; others as kd_loaded_open and
 * kd_onnx_read. */
int kd_predictor_open(const char *path, const kd_predict_options *opt, kd_predictor *out,
                      kd_diag *diag) KD_MUST_CHECK;
void kd_predictor_clear(kd_predictor *p);

typedef struct kd_predict_lane {
    const kd_predictor *p; /* borrowed */
    kd_plan *plan;
    uint8_t *rgb;
    float *input, *logits;
} kd_predict_lane;
/* On the thread that uses it, which has called kd_engine_thread. */
int kd_predict_lane_init(kd_predict_lane *l, const kd_predictor *p, kd_diag *diag) KD_MUST_CHECK;
void kd_predict_lane_clear(kd_predict_lane *l);

typedef struct kd_prediction {
    int index;          /* of the class */
    double probability; /* softmax at T = 1 */
} kd_prediction;
/* The picture file's `top` most probable classes, falling, the lower number first among equals,
 * into out [top]. Errors: the file cannot be read or is no picture. */
int kd_predict_file(kd_predict_lane *l, const char *path, int top, kd_prediction *out,
                    kd_diag *diag) KD_MUST_CHECK;
/* Likewise from logits [n]. */
void kd_predict_top(const float *logits, int n, int top, kd_prediction *out);

#endif

/* A network in a file, run on pictures, on this machine. Threads: a kd_predictor is read-only once
 * it is open; each thread has a kd_predict_lane of its own. */
#ifndef KD_CLI_PREDICT_MODEL_H
#define KD_CLI_PREDICT_MODEL_H

#include "args.h"
#include "cli.h"
#include "engine/plan.h"
#include "models/loaded.h"

typedef struct kd_predict_options {
    int size;            /* pixels a side where an ONNX model leaves it open; 0 = the model's own */
    int preprocess;      /* enum kd_preprocess; -1 = as the file says */
    const char *classes; /* file of names, one a line; NULL = as the file says */
} kd_predict_options;

typedef struct kd_predictor {
    kd_loaded net;      /* info.classes: as the file or the options name them, NULL = numbers */
    int preprocess;     /* enum kd_preprocess */
    int w, h, channels; /* 3, or 1: pictures are made grey */
    int from; /* pixels a side of the square that a picture is squeezed into first; w where
                 there is nothing between */
} kd_predictor;

/* The flags of every verb that runs a network. */
#define KD_PREDICT_FLAGS                                                                           \
    {"size", 0, "N", "pixels a side, where an ONNX model leaves it open"},                         \
        {"preprocess", 0, "P", "unit, symmetric or imagenet, where the file does not say"},        \
    {                                                                                              \
        "classes", 0, "FILE", "names of the classes, one a line, where the file does not say"      \
    }
/* path: .safetensors of ours, which says all about itself, or .onnx (external data beneath its
 * folder). -KD_EINVAL: the options do not fit it, or it needs some; others as kd_loaded_open and
 * kd_onnx_read. */
int kd_predictor_open(const char *path, const kd_predict_options *opt, kd_predictor *out,
                      kd_diag *diag) KD_MUST_CHECK;
/* The file that a verb's first operand names, for verbs that want nothing but --size. KD_EXIT_OK,
 * or the exit code after a message. */
int kd_model_start(const kd_cli *cli, const char *verb, const kd_args *args,
                   kd_loaded *out) KD_MUST_CHECK;
/* The network that a verb's first operand names, opened as its flags say. KD_EXIT_OK, or the exit
 * code after a message. */
int kd_predictor_start(const kd_cli *cli, const char *verb, const kd_args *args,
                       kd_predictor *out) KD_MUST_CHECK;
void kd_predictor_clear(kd_predictor *p);
/* Name of class c, or its number in `number`. */
const char *kd_predictor_class(const kd_predictor *p, int c, char number[16]);

typedef struct kd_predict_lane {
    const kd_predictor *p; /* borrowed */
    kd_plan *plan;
    uint8_t *rgb; /* kd_predict_room */
    float *input, *logits;
} kd_predict_lane;
/* On the thread that uses it, which has called kd_engine_thread. */
int kd_predict_lane_init(kd_predict_lane *l, const kd_predictor *p, kd_diag *diag) KD_MUST_CHECK;
void kd_predict_lane_clear(kd_predict_lane *l);

/* Bytes that a picture needs on its way to a network. */
size_t kd_predict_room(const kd_predictor *p);
/* A picture, which stands at the beginning of its room as [from,from,3], as the network wants it:
 * into input [h,w,channels]. What it is squeezed into comes behind it. Grey is kd_augment_grey's.
 * -KD_ENOMEM. */
int kd_predict_floats(const kd_predictor *p, uint8_t *room, float *input,
                      kd_diag *diag) KD_MUST_CHECK;
/* A picture file's bytes as the network wants it: room and input as in kd_predict_floats; input
 * NULL = into its room alone. -KD_EDATA, -KD_ELIMIT as kd_image_decode. */
int kd_predict_bytes(const kd_predictor *p, const void *bytes, size_t len, uint8_t *room,
                     float *input, kd_diag *diag) KD_MUST_CHECK;
/* A picture file as the network wants it: room and input as in kd_predict_bytes. Errors: the file
 * cannot be read or is no picture. */
int kd_predict_picture(const kd_predictor *p, const char *path, uint8_t *room, float *input,
                       kd_diag *diag) KD_MUST_CHECK;

typedef struct kd_prediction {
    int index;          /* of the class */
    double probability; /* softmax at T = 1 */
} kd_prediction;
/* From what stands in l->input to l->logits, which are finite, or -KD_EINTERNAL. */
int kd_predict_input(kd_predict_lane *l, kd_diag *diag) KD_MUST_CHECK;
/* The picture file's `top` most probable classes, falling, the lower number first among equals,
 * into out [top]. Errors: the file cannot be read or is no picture. */
int kd_predict_file(kd_predict_lane *l, const char *path, int top, kd_prediction *out,
                    kd_diag *diag) KD_MUST_CHECK;
/* What the logits [n] have in common, and the probability of one of them. */
typedef struct kd_predict_sum {
    double largest, sum;
} kd_predict_sum;
kd_predict_sum kd_predict_sum_of(const float *logits, int n);
double kd_predict_probability(const kd_predict_sum *s, float logit);
/* As kd_predict_file, from logits [n]. */
void kd_predict_top(const float *logits, int n, int top, kd_prediction *out);

#endif

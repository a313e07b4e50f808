/* Networks by name, and weights from safetensors.
 *
 *   shallow_cnn       the report's student: 3x3 conv 64 valid, ReLU, 4x4 max-pool, 3x3 conv 128
 *                     valid, ReLU, global average pool, dense 512, ReLU, dense classes
 *                     (144,261 parameters at 5)
 *   shallow_cnn_deep  its deeper variant: after conv 128 another 4x4 max-pool and 3x3 conv 256
 *                     valid, ReLU (504,965 parameters at 5)
 *   cheap_cnn         depthwise separable, strided early, any width: an eleventh of MobileNetV2's
 *                     multiply-adds (158,757 parameters at 5)
 *   lenet             LeNet-5 with ReLU and max-pools, from 12 pixels on (61,706 parameters for 28
 *                     or 32 grey pixels and 10 classes)
 *   mlp               flatten, dense+ReLU for each hidden size, dense classes
 *   mobilenet_v2      Sandler et al. 2018, any width; channel rounding and names as torchvision
 *   efficientnet_b0   Tan and Le 2019, names as torchvision; drop_path as torchvision's
 *                     stochastic_depth_prob
 *   resnet18, resnet34, resnet50
 *                     He et al. 2016, names as torchvision, with its stride in the 3x3 layer
 *                     (v1.5); drop_path on the residual branches (Huang et al. 2016)
 *   layers            the given list and a dense layer of the classes
 *
 * mobilenet_v2 and efficientnet_b0 exist in two kinds: padding tf = "SAME" (stride-2 layers pad an
 * even side at its end only) and batch-norm eps 1e-3, padding torch = symmetric and 1e-5. The
 * others pad symmetrically; in `layers` the eps follows pad_tf.
 *
 * Threads: reentrant. */
#ifndef KD_MODELS_H
#define KD_MODELS_H

#include "engine/graph.h"
#include "job/job.h"
#include "store/safetensors.h"

typedef struct kd_model_config {
    const char *model;
    double width; /* mobilenet_v2, cheap_cnn */
    const int *hidden;
    int n_hidden;
    const kd_layer_spec *layers; /* 1..KD_MAX_LAYERS with model layers */
    int n_layers;
    bool pad_tf;
    int size;         /* input height and width */
    int channels;     /* 3, or 1 for grey sets */
    double dropout;   /* before the head, [0,1); 0 = no such node */
    double drop_path; /* efficientnet_b0, resnet*: block i of n is left out of an image's forward
                         with probability drop_path * i / n, [0,1) */
    int classes;
} kd_model_config;

/* Of a job's network that sees pictures of `size` pixels a side. m is borrowed. */
kd_model_config kd_model_config_of(const kd_model_spec *m, int size, int classes);

/* Names of parameters: conv1, conv2, ..., fc1, fc2 (shallow_cnn, shallow_cnn_deep, lenet); stem,
 * blocks.N, classifier (cheap_cnn); fc1 ... fcN (mlp); layers.N, head (layers); torchvision's (the
 * others). The last dense layer is the head, and dropout changes no name.
 *
 * Start values: Glorot uniform and zero biases (Keras's defaults) for lenet, mlp and the dense
 * layers of shallow_cnn*; He normal by fan_in for the convolutions of shallow_cnn* (as the report's
 * notebook has it), cheap_cnn and layers; torchvision's for its networks: He normal by fan_out, and
 * a head of N(0, 0.01) (mobilenet_v2), uniform within 1/sqrt(classes) (efficientnet_b0) or
 * 1/sqrt(features), bias too (resnet*). -KD_EINVAL with a sentence for what cannot be built. */
int kd_model_build(const kd_model_config *cfg, kd_graph **out, kd_diag *diag) KD_MUST_CHECK;
/* Whether a network exists in both kinds of padding, so that weights must be of the right one. */
bool kd_model_has_padding(const char *model);

/* ---- weights */

/* Copies tensors by name from safetensors bytes into vector (initialised before). When the file's
 * head is for another number of classes, all of the head keeps its initial values and *out_new_head
 * is true, else false. Any other missing or wrongly shaped tensor is refused with both shapes, as
 * is a value that is not finite; then vector is unchanged. Tensors the network has no use for are
 * passed over. `name` is for messages. Errors: -KD_EDATA, -KD_ELIMIT. */
int kd_model_load(const kd_graph *g, const void *file, size_t len, const char *name, float *vector,
                  bool *out_new_head, kd_diag *diag) KD_MUST_CHECK;
/* What a file says of itself, in the __metadata__ of safetensors and the metadata_props of ONNX
 * alike; docs/weights.md has the table of keys. */
#define KD_INFO_TEXT 96
typedef struct kd_model_file_info {
    bool has_padding, pad_tf; /* "padding": tf | torch */
    bool grey;                /* "channels": grey, of one channel | rgb */
    bool has_preprocess;      /* "preprocess": unit | symmetric | imagenet, or "mean" and "std" */
    enum kd_preprocess preprocess;
    double label_smoothing; /* "label_smoothing": [0,1) that it was trained with; 0 = not named */
    enum kd_half half;      /* "distilld.weights": float16 | bfloat16 that they are stored as */
    int size;               /* "size": pixels a side, 1..4096; 0 = not named */
    int resized_from;       /* "resized_from": pixels a side, 1..4096, of the square into which a
                               picture is squeezed before it is into `size`; 0 = at once */
    char **classes;         /* "classes": names, as loaded.h writes them; NULL = not named */
    int n_classes;
    char model[KD_JOB_WORD];    /* "model": name in job files, "" = not named; so are the others */
    char job[KD_INFO_TEXT];     /* "distilld.job" that made it */
    char digest[KD_DIGEST_HEX]; /* "distilld.digest" of its parameters */
    char data[KD_DIGEST_HEX];   /* "distilld.data": digest of what it was trained on */
    char teacher[KD_INFO_TEXT]; /* "distilld.teacher": name and digest of who taught it */
    char calibration[KD_INFO_TEXT]; /* "distilld.calibration" of its 8 bits, for people */
} kd_model_file_info;

/* Value of a key in a file's metadata, NULL = it has none. */
typedef const char *kd_info_find(const void *arg, const char *key);
/* Reads them; on success the caller clears *out. A value of none of these kinds is refused:
 * -KD_EDATA with the value and what was expected, -KD_ELIMIT. `name` is for messages. */
int kd_model_file_info_of(kd_info_find *find, const void *arg, const char *name,
                          kd_model_file_info *out, kd_diag *diag) KD_MUST_CHECK;
/* Of safetensors bytes. */
int kd_model_file_info_read(const void *file, size_t len, const char *name, kd_model_file_info *out,
                            kd_diag *diag) KD_MUST_CHECK;
void kd_model_file_info_clear(kd_model_file_info *info);
/* Refuses to put a file's weights into a network of the other padding (where the network has two)
 * or behind another preprocessing: shapes would fit, and the answers be quietly wrong. -KD_EINVAL
 * says which key to set. What the file does not name is not checked. */
int kd_model_file_info_check(const kd_model_file_info *info, const char *name, const char *model,
                             bool pad_tf, enum kd_preprocess preprocess,
                             kd_diag *diag) KD_MUST_CHECK;
/* JSON table of the vector: [{"name","shape","offset","trained"}...], with "type" where types
 * [n_params] (NULL = none) says that files hold it as another than F32; caller frees. NULL when
 * memory is out. */
char *kd_model_table(const kd_graph *g, const enum kd_st_type *types);

#endif

/* A network from one file that says everything about itself: structure, parameters, preprocessing,
 * size of its pictures and names of its classes. Two kinds of file do: our safetensors, which carry
 * them as metadata, and ONNX.
 *
 * Metadata of a safetensors file: "graph" (graph_json.h) and what kd_model_file_info has. Names of
 * classes stand there with commas between; a comma or backslash in a name has a backslash before
 * it. Weights of 8 bits are tensors of type I8 with their scales beside them, one an output channel
 * ("NAME" and "NAME.scale"). Threads: reentrant. */
#ifndef KD_MODELS_LOADED_H
#define KD_MODELS_LOADED_H

#include "models/models.h"
#include "store/safetensors.h"

typedef struct kd_loaded {
    kd_graph *graph;
    float *vector;           /* [graph->vector_len] */
    kd_model_file_info info; /* classes: NULL or as many as the network has */
    bool ours;               /* distilld wrote it */
    bool changed;            /* ONNX: its digest is of other parameters; info has none then */
    bool softmax;            /* one at its end was left out (ONNX) */
    int size;                /* pixels a side */
    int n_classes;           /* of the network, names or not */
    enum kd_st_type *types;  /* [graph->n_params] that the file holds them as (kd_onnx_info) */
} kd_loaded;

/* bytes are borrowed during the call; `name` is for messages. Which kind of file it is shows in its
 * bytes, else in its name. Hostile files are safe. The digest of its parameters, where it names
 * one, is checked: safetensors that differ are refused, ONNX, which programs of others change, is
 * marked. A file may lack preprocessing and classes; its size is then that of its graph. Errors:
 * -KD_EDATA (damaged; or safetensors without a graph in its metadata), those of kd_onnx_read. */
int kd_loaded_open(const uint8_t *bytes, size_t len, const char *name, kd_loaded *out,
                   kd_diag *diag) KD_MUST_CHECK;
/* The same of a file of at most KD_LOADED_MAX bytes; an ONNX model's external data is read beneath
 * its folder. size: pixels a side where it leaves them open, 0 = its own. Errors besides: those of
 * kd_file_read. */
#define KD_LOADED_MAX ((size_t)2 << 30)
int kd_loaded_open_file(const char *path, int size, kd_loaded *out, kd_diag *diag) KD_MUST_CHECK;
void kd_loaded_clear(kd_loaded *l);

/* The metadata of a file: what info says, and g if it is not NULL. Texts are owned by it or
 * borrowed from info. -KD_ENOMEM. */
#define KD_LOADED_PAIRS 20
typedef struct kd_loaded_meta {
    kd_st_pair pairs[KD_LOADED_PAIRS];
    size_t n_pairs;
    char *graph, *classes, size[16], resized_from[16], smoothing[32];
} kd_loaded_meta;
int kd_loaded_describe(const kd_graph *g, const kd_model_file_info *info, kd_loaded_meta *out,
                       kd_diag *diag) KD_MUST_CHECK;
void kd_loaded_meta_clear(kd_loaded_meta *m);

/* A whole safetensors file that kd_loaded_open reads, appended to out; the digest is that of vector
 * whatever info says. Weights of convolutions and dense layers of an 8-bit network
 * (kd_graph_is_int8) are written in 8 bits, of others as info->half says; what is read then is
 * vector, bit for bit, if it comes from kd_quantise or kd_half_round. -KD_ELIMIT when out is full.
 */
int kd_loaded_pack(const kd_graph *g, const float *vector, const kd_model_file_info *info,
                   kd_buf *out, kd_diag *diag) KD_MUST_CHECK;

/* "unit" etc.; -1 for another word, NULL for another number. */
int kd_preprocess_of(const char *word);
const char *kd_preprocess_word(int preprocess);
/* Of pixels from 0 to 1, red, green, blue: (x - mean) / std. */
void kd_preprocess_scaling(int preprocess, const char **out_mean, const char **out_std);
/* Caller frees; NULL when memory is out. */
char *kd_class_names_join(const char *const *names, int n);
/* -KD_ENOMEM. Free with kd_class_names_free (NULL allowed). */
int kd_class_names_split(const char *text, char ***out_names, int *out_n) KD_MUST_CHECK;
void kd_class_names_free(char **names, int n);

#endif

/* A network from one file that says everything about itself: structure, parameters, preprocessing,
 * size of its pictures and names of its classes. Two kinds of file do: our safetensors, which carry
 * them as metadata, and ONNX.
 *
 * Metadata of a safetensors file: "graph" (graph_json.h), "preprocess" (unit, symmetric, imagenet),
 * "size" (pixels a side), "classes" (names with commas between; a comma or backslash in a name has
 * a backslash before it), "model" (its name in job files). Threads: reentrant. */
#ifndef KD_MODELS_LOADED_H
#define KD_MODELS_LOADED_H

#include "engine/graph.h"
#include "job/job.h"
#include "store/safetensors.h"

typedef struct kd_loaded {
    kd_graph *graph;
    float *vector;  /* [graph->vector_len] */
    int preprocess; /* enum kd_preprocess; -1 = the file does not say (ONNX of others) */
    int size;       /* pixels a side */
    char **classes; /* NULL = the file has no names */
    int n_classes;  /* of the network, names or not */
    char model[KD_JOB_WORD];
} kd_loaded;

/* bytes are borrowed during the call; `name` is for messages. Which kind of file it is shows in its
 * bytes. Hostile files are safe. Errors: -KD_EDATA (damaged; or safetensors without a graph in its
 * metadata), those of kd_onnx_read. */
int kd_loaded_open(const uint8_t *bytes, size_t len, const char *name, kd_loaded *out,
                   kd_diag *diag) KD_MUST_CHECK;
void kd_loaded_clear(kd_loaded *l);

/* The metadata of a safetensors file that kd_loaded_open reads. Texts are owned by it; classes may
 * be NULL. -KD_ENOMEM. */
#define KD_LOADED_PAIRS 5
typedef struct kd_loaded_meta {
    kd_st_pair pairs[KD_LOADED_PAIRS];
    size_t n_pairs;
    char *graph, *classes, size[16];
} kd_loaded_meta;
int kd_loaded_describe(const kd_graph *g, const char *model, int preprocess, int size,
                       const char *const *classes, int n_classes, kd_loaded_meta *out,
                       kd_diag *diag) KD_MUST_CHECK;
void kd_loaded_meta_clear(kd_loaded_meta *m);

/* "unit" etc.; -1 for another word, NULL for another number. */
int kd_preprocess_of(const char *word);
const char *kd_preprocess_word(int preprocess);
/* Caller frees; NULL when memory is out. */
char *kd_class_names_join(const char *const *names, int n);
/* -KD_ENOMEM. Free with kd_class_names_free (NULL allowed). */
int kd_class_names_split(const char *text, char ***out_names, int *out_n) KD_MUST_CHECK;
void kd_class_names_free(char **names, int n);

#endif

/* A network over a folder of labelled pictures: what `evaluate` prints, and what other verbs put
 * beside it. Threads: called on the main thread. */
#ifndef KD_CLI_SCORING_H
#define KD_CLI_SCORING_H

#include "data/dataset.h"
#include "distill/figures.h"
#include "lanes.h"

#define KD_SCORING_NAMED 20 /* pictures that could not be read, named one by one */

typedef struct kd_scoring {
    kd_figures figures;
    char data[KD_DIGEST_HEX]; /* digest of names, labels and bytes of the pictures */
    double lo, hi;            /* Wilson's interval of the accuracy */
    size_t skipped;           /* pictures that could not be read; they do not count */
    double seconds;           /* that it took */
} kd_scoring;

/* Labelled pictures, as in a job's `labelled`. */
typedef struct kd_scoring_data {
    enum kd_data_kind kind;
    const char *folder; /* NULL = none */
    const char *list;   /* in it: a list, or the file of pictures; NULL = class folders, or the
                           usual test file of CIFAR */
    const char *labels; /* in it, of IDX and npy */
} kd_scoring_data;
/* The flags that say it. */
#define KD_SCORING_FLAGS                                                                           \
    {"list", 0, "FILE",                                                                            \
     "in the folder: a list, `PICTURE<TAB>CLASS` a line (else all that class folders hold), or "   \
     "the file of pictures"},                                                                      \
        {"labels", 0, "FILE", "in the folder: the labels, of idx and npy"},                        \
    {                                                                                              \
        "data-format", 0, "image-folder|idx|cifar|npy", "as in a job (image-folder)"               \
    }
/* What the flags say of `folder`; of NULL they may say nothing. KD_EXIT_OK, or the exit code after
 * a message. */
int kd_scoring_flags(const kd_cli *cli, const char *verb, const kd_args *args, const char *folder,
                     kd_scoring_data *out) KD_MUST_CHECK;

/* Classes go by their names where both sides have some, else by their numbers. KD_EXIT_OK, or the
 * exit code after a message; on success the caller clears *out. */
int kd_scoring_run(const kd_cli *cli, const kd_predictor *p, const kd_scoring_data *data,
                   int threads, kd_scoring *out) KD_MUST_CHECK;
void kd_scoring_clear(kd_scoring *s);

#endif

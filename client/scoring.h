/* A network over a folder of labelled pictures: what `evaluate` prints, and what other verbs put
 * beside it. Threads: called on the main thread. */
#ifndef KD_CLI_SCORING_H
#define KD_CLI_SCORING_H

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

/* folder: class folders, or whatever `list` (a file in it, NULL = none) names, as in a job's
 * `labelled`. Classes go by their names where both sides have some, else by their numbers.
 * KD_EXIT_OK, or the exit code after a message; on success the caller clears *out. */
int kd_scoring_run(const kd_cli *cli, const kd_predictor *p, const char *folder, const char *list,
                   int threads, kd_scoring *out) KD_MUST_CHECK;
void kd_scoring_clear(kd_scoring *s);

#endif

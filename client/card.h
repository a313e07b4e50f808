/* A model card: what a network is, what it was made from, and what was measured of it here. Source
 * of the sections: Mitchell et al. 2019, arXiv:1810.03993, as far as a file can know. Threads: any.
 */
#ifndef KD_CLI_CARD_H
#define KD_CLI_CARD_H

#include "kd/buf.h"
#include "models_out.h"
#include "scoring.h"
#include "timing.h"

/* The file that the card is of. */
typedef struct kd_card_file {
    const char *name;
    enum kd_model_format format;
    size_t bytes;
} kd_card_file;

/* Appends Markdown. timing and scoring, of p, may be NULL; data: the folder of scoring. Errors mark
 * out as failed. */
void kd_card_write(const kd_predictor *p, const kd_card_file *file, const kd_timing *timing,
                   const kd_scoring *scoring, const char *data, kd_buf *out);

#endif

/* Teacher logits: from memory, else the bank, else the teachers themselves, whose answers go to the
 * bank for everybody. Of several teachers each has its bank; their logits are joined here.
 *
 * Threads: the runner's; the teachers run on the pool. kd_teaching_clean_row may be called by
 * compute threads for samples that were asked for before. */
#ifndef KD_WORKER_TEACHING_H
#define KD_WORKER_TEACHING_H

#include "outside.h"
#include "pool.h"
#include "stage.h"

#include <stdatomic.h>

typedef struct kd_teaching_counts {
    atomic_uint_fast64_t forwards, hits; /* of the stage: inferences, answers of the bank */
    atomic_uint_fast64_t microseconds;   /* spent in inferences, summed over threads */
} kd_teaching_counts;

typedef struct kd_teaching_config {
    kd_stage *stage;
    const kd_session *session;
    kd_pool *pool;
    kd_rpc_channel *channel;
    int views; /* of the job: 0 = a new one each epoch, which is not worth keeping */
    kd_outside *const *outside; /* [KD_MAX_TEACHERS] that run elsewhere; NULL for others */
    void (*problem)(void *arg, const char *text); /* with one of those: the job cannot go on */
    /* True when the step is no longer wanted. */
    bool (*stopped)(void *arg);
    void *arg;
    kd_teaching_counts *counts; /* counted up */
} kd_teaching_config;

typedef struct kd_teaching kd_teaching;
/* Bytes of logits that a stage comes to keep in memory, of n_teachers whose views are N of each
 * sample. */
size_t kd_teaching_bytes(const kd_session *ss, int n_teachers, int views);
int kd_teaching_new(const kd_teaching_config *cfg, kd_teaching **out, kd_diag *diag) KD_MUST_CHECK;
void kd_teaching_free(kd_teaching *t);
/* Gets the logits for slots [first, first+count) of a step (from 0). -KD_ECANCELED when stopped. */
int kd_teaching_fill(kd_teaching *t, const kd_stage_ref *ref, uint64_t step, uint32_t first,
                     uint32_t count, kd_diag *diag) KD_MUST_CHECK;
/* While units of a step run: takes what units of the next one will want from a bank that had all so
 * far, so that nobody waits for it. Blocks for a call or two; touches no row of the step that runs.
 */
void kd_teaching_ahead(kd_teaching *t, const kd_stage_ref *ref, uint64_t step, uint32_t first,
                       uint32_t count);
/* After fill: [slot_batch, classes] of the item-th of those slots. */
const float *kd_teaching_rows(const kd_teaching *t, uint32_t item);
/* Gets the logits of n clean pictures that are no training samples, and keeps them. */
int kd_teaching_clean(kd_teaching *t, const kd_stage_ref *ref, const uint32_t *samples, size_t n,
                      kd_diag *diag) KD_MUST_CHECK;
/* [classes] of such a sample, of all teachers at temperature 1; NULL if it was not asked for. */
const float *kd_teaching_clean_row(const kd_teaching *t, uint32_t sample);

#endif

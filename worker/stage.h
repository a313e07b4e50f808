/* A stage as its worker computes it: data, networks, and units as pure
 * functions.
 *
 * Nothing here knows the network or other workers. A unit's gradient depends on
 * (job, step, slot) and the parameter vector alone; an evaluation unit's rows
 * on the vector alone; a sample's teacher logits on (teacher, sample, view).
 * Threads: after kd_stage_new the functions marked [thread] run on compute
 * threads, each with its own index; everything else belongs to the runner. */
#ifndef KD_WORKER_STAGE_H
#define KD_WORKER_STAGE_H

#include "cache.h"
#include "distill/loss.h"
#include "engine/optim.h"
#include "engine/plan.h"
#include "exchange.h"
#include "job/job.h"

/* What stays the same for all stages of a job on this worker. */
typedef struct kd_session {
    char job_id[13];
    kd_job job;
    kd_data *data;
    kd_cache *cache;
    size_t n_train, n_val;
    int classes, size;
} kd_session;

/* A network with its parameters. */
typedef struct kd_net {
    kd_graph *graph;
    float *vector; /* initial or final parameters */
    enum kd_preprocess preprocess;
} kd_net;

typedef struct kd_stage kd_stage;

typedef struct kd_stage_config {
    const kd_session *session;
    enum kd_stage_kind kind;
    int threads;
    const char *numerics; /* digest of the process's numerics */
    /* safetensors bytes, borrowed during new; NULL = none */
    const uint8_t *weights; /* named in the job for the network that is trained */
    size_t weights_len;
    const uint8_t *finished[3]; /* final teacher, student, twin */
    size_t finished_len[3];
} kd_stage_config;

/* code in diag: -KD_EINVAL for what is wrong with the job itself; *out_problem
 * is the word for it. */
int kd_stage_new(const kd_stage_config *cfg, kd_stage **out, const char **out_problem,
                 kd_diag *diag) KD_MUST_CHECK;
void kd_stage_free(kd_stage *s);

typedef struct kd_stage_shape {
    size_t floats; /* of the vector */
    size_t trained;
    uint32_t slots, slot_batch, chunk_floats, chunks;
    int state_vectors;
    uint64_t epoch_steps, steps;
    uint32_t eval_units;
    bool needs_teacher;
} kd_stage_shape;
const kd_stage_shape *kd_stage_shape_of(const kd_stage *s);
const float *kd_stage_initial(const kd_stage *s);
const kd_graph *kd_stage_graph(const kd_stage *s);
const kd_optim *kd_stage_optim(const kd_stage *s);
const kd_bank_ref *kd_stage_bank(const kd_stage *s);
/* Digest of initial vector, logits and gradient of slot 0 of step 0; runs on
 * the calling thread. */
int kd_stage_fingerprint(kd_stage *s, char out[33], kd_diag *diag) KD_MUST_CHECK;
/* JSON object of strings for the exported file; caller frees. */
char *kd_stage_metadata(const kd_stage *s);

/* The samples of a unit: (sample, view) for each place of its batch, real ones
 * first; returns how many are real. step from 0. */
uint32_t kd_stage_samples(const kd_stage *s, uint64_t step, uint32_t slot, uint32_t *samples,
                          uint32_t *out_view);
uint32_t kd_stage_real_in_batch(const kd_stage *s, uint64_t step);

/* [thread] Gradient of a unit. vector: version step+1; tag: names it, so that a
 * plan loads each once. teacher [slot_batch, classes] or NULL. -KD_EDATA with
 * the reason for a non-finite loss. */
int kd_stage_unit(kd_stage *s, int thread, uint64_t step, uint32_t slot, const float *vector,
                  uint64_t tag, const float *teacher, float *gradient, kd_tree_sums *out,
                  kd_diag *diag) KD_MUST_CHECK;
/* [thread] Rows (class, cross-entropy) of validation unit `unit`; returns the
 * number of samples. */
int kd_stage_eval(kd_stage *s, int thread, uint32_t unit, const float *vector, uint64_t tag,
                  float *rows, kd_diag *diag);
/* [thread] Teacher logits of one sample and view: [classes]. */
int kd_stage_teach(kd_stage *s, int thread, uint32_t sample, uint32_t view, float *logits,
                   kd_diag *diag) KD_MUST_CHECK;

/* Milliseconds of one single-image inference on one thread: median of many.
 * which 0..2: teacher, student, twin. 1 = measured, 0 = that network is not
 * there. */
int kd_stage_measure(kd_stage *s, int which, double *out_ms, size_t *out_params, size_t *out_bytes,
                     kd_diag *diag);

#endif

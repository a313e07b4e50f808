/* A stage as its worker computes it: data, networks, and units as pure
 * functions.
 *
 * Nothing here knows the network or other workers. A unit's gradient depends on
 * (job, step, slot) and the parameter vector alone (with a batch-coupled loss
 * on the whole batch's values besides, which are functions of the same); an
 * evaluation unit's rows on the vector alone; a sample's teacher logits on
 * (teacher, sample, view). Threads: after kd_stage_new and kd_stage_compose the
 * functions marked [thread] run on compute threads, each with its own index;
 * everything else belongs to the runner. */
#ifndef KD_WORKER_STAGE_H
#define KD_WORKER_STAGE_H

#include "distill/loss.h"
#include "engine/optim.h"
#include "engine/plan.h"
#include "exchange.h"
#include "models/models.h"
#include "session.h"
#include "wire/limits.h"

#define KD_MAX_FINISHED (2 * KD_MAX_STAGES) /* networks of a job, best ones counted */

/* A network with its parameters. */
typedef struct kd_net {
    kd_graph *graph;
    float *vector; /* initial or final parameters */
    enum kd_preprocess preprocess;
    int size; /* pixels a side of what it sees */
} kd_net;

typedef struct kd_stage kd_stage;

/* safetensors bytes of a network that an earlier stage made: "teacher", "teacher2", "student",
 * "student.best", ...; borrowed during new. */
typedef struct kd_finished {
    char name[32];
    const uint8_t *bytes;
    size_t len;
} kd_finished;

typedef struct kd_stage_config {
    const kd_session *session;
    enum kd_stage_kind kind;
    int threads;
    const char *numerics;   /* digest of the process's numerics */
    const uint8_t *weights; /* file named in the job for the network that is trained, NULL = none */
    size_t weights_len;
    const kd_finished *finished;
    size_t n_finished;
    /* Where the job leaves a teacher's precision to a measurement. With a value of "" it blocks
     * until the job's choice stands in session->job, or *out_measure says that it is this worker's
     * to make, who calls again with it and why. */
    int (*decide)(void *arg, int teacher, const char *value, const char *why, bool *out_measure,
                  kd_diag *diag);
    void *arg;
} kd_stage_config;

/* code in diag: -KD_EINVAL for what is wrong with the job itself; *out_problem
 * is the word for it. */
int kd_stage_new(const kd_stage_config *cfg, kd_stage **out, const char **out_problem,
                 kd_diag *diag) KD_MUST_CHECK;
/* Settles what an epoch holds: every training sample once, and copies[i] times unlabelled sample i
 * (copies NULL = none). Until then steps and epochs are unknown. */
int kd_stage_compose(kd_stage *s, const uint8_t *copies, kd_diag *diag) KD_MUST_CHECK;
void kd_stage_free(kd_stage *s);

typedef struct kd_stage_shape {
    size_t floats; /* of the vector */
    size_t trained;
    uint32_t slots, slot_batch, chunk_floats, chunks;
    int state_vectors;
    uint64_t epoch_samples, epoch_steps, steps, eval_steps;
    uint32_t eval_units;
    int n_teachers;         /* whose logits the loss wants; 0 = none */
    uint32_t value_columns; /* of a batch-coupled loss: z, v, weight; 0 = none */
    bool average;           /* the last state vector is what is evaluated */
    bool bfloat16;          /* every node of the reduction tree is rounded to it */
    int n_terms;            /* of the loss: those with a weight */
    enum kd_loss_term terms[KD_LOSS_TERMS];
} kd_stage_shape;
const kd_stage_shape *kd_stage_shape_of(const kd_stage *s);
const float *kd_stage_initial(const kd_stage *s);
const kd_graph *kd_stage_graph(const kd_stage *s);
const kd_optim *kd_stage_optim(const kd_stage *s);
/* Of a teacher's views, or of its clean pictures. */
const kd_bank_ref *kd_stage_bank(const kd_stage *s, int teacher, bool clean);
/* Logits of all teachers for one sample -> one row. rows [n_teachers] of [classes]. An ensemble of
 * probabilities is one at `temperature` only. */
void kd_stage_join_teachers(const kd_stage *s, double temperature, const float *const *rows,
                            float *out);
double kd_stage_temperature(const kd_stage *s); /* of the loss */
/* The banks of a teacher outside are known by its probe (32 hex digits), not by parameters. */
void kd_stage_name_outside(kd_stage *s, int teacher, const char *probe);
/* Digest of initial vector, logits and gradient of slot 0 of step 0; runs on
 * the calling thread. */
int kd_stage_fingerprint(kd_stage *s, char out[33], kd_diag *diag) KD_MUST_CHECK;
/* JSON object of strings for the exported file, and its table of parameters; caller frees. */
char *kd_stage_metadata(const kd_stage *s);
char *kd_stage_table(const kd_stage *s);
/* How the 8 bits that the stage chose answer, for people; "" where it chose none. */
const char *kd_stage_calibrated(const kd_stage *s, bool *out_doubtful);
/* The finished network that a stage of `compress` goes on from, NULL for another stage. */
const char *kd_stage_source(const kd_job *job, enum kd_stage_kind kind);

/* One place of a unit's batch. */
typedef struct kd_place {
    uint32_t sample, view;
    uint32_t teacher_view; /* what the teacher looks at: the view, or the clean picture */
    uint32_t key;          /* names its random numbers in the network */
} kd_place;
/* The samples of a unit, [slot_batch], real ones first; returns how many are
 * real. step from 0. */
uint32_t kd_stage_places(const kd_stage *s, uint64_t step, uint32_t slot, kd_place *places);
uint32_t kd_stage_real_in_batch(const kd_stage *s, uint64_t step);
/* Samples that must be decoded for a place, at most 2 (a mixed view has a partner); returns how
 * many. */
int kd_stage_pictures(const kd_stage *s, const kd_place *place, uint32_t out[2]);

/* [thread] Gradient of a unit. vector: version step+1; tag: names it, so that a
 * plan loads each once. teacher [slot_batch, classes] or NULL; stats of
 * kd_stage_couple or NULL. -KD_EDATA with the reason for a non-finite loss. */
int kd_stage_unit(kd_stage *s, int thread, uint64_t step, uint32_t slot, const float *vector,
                  uint64_t tag, const float *teacher, const double *stats, float *gradient,
                  kd_tree_sums *out, kd_diag *diag) KD_MUST_CHECK;
/* [thread] What a batch-coupled loss must know of a slot: [slot_batch][value_columns]. */
int kd_stage_values(kd_stage *s, int thread, uint64_t step, uint32_t slot, const float *vector,
                    uint64_t tag, const float *teacher, float *values, kd_diag *diag) KD_MUST_CHECK;
/* values [batch][value_columns] of all slots. The result is the stage's, good until the next call.
 */
int kd_stage_couple(kd_stage *s, const float *values, const double **out_stats,
                    kd_diag *diag) KD_MUST_CHECK;
/* [thread] Rows of validation unit `unit` as GatherChunk has them; returns the
 * number of samples. vector: of the version after `step` steps; teacher gives a sample's teacher
 * logits, NULL if there are none. */
typedef const float *(*kd_stage_teacher_row)(void *arg, uint32_t sample);
int kd_stage_eval(kd_stage *s, int thread, uint32_t unit, uint64_t step, const float *vector,
                  uint64_t tag, kd_stage_teacher_row teacher, void *arg, float *rows,
                  kd_diag *diag);
/* [thread] A view of a sample as a teacher sees it: input [size,size,3] of its size. */
int kd_stage_show(kd_stage *s, int thread, int teacher, uint32_t sample, uint32_t view,
                  float *input, kd_diag *diag) KD_MUST_CHECK;
/* [thread] Logits of one teacher, not outside, for one sample and view: [classes]. */
int kd_stage_teach(kd_stage *s, int thread, int teacher, uint32_t sample, uint32_t view,
                   float *logits, kd_diag *diag) KD_MUST_CHECK;

/* ---- for evaluate.c and costs.c: networks that earlier stages made */
int kd_stage_n_finished(const kd_stage *s);
const kd_net *kd_stage_finished_net(const kd_stage *s, int i, const char **out_name);
const kd_model_file_info *kd_stage_finished_info(const kd_stage *s, int i); /* of its file */
/* A picture of the session's size, rgb [size,size,3], as the network wants it. small: room for one
 * of its size; input [net->size, net->size, 3]. -KD_ENOMEM. */
int kd_stage_to_input(const kd_session *ss, const kd_net *net, const uint8_t *rgb, uint8_t *small,
                      float *input, kd_diag *diag) KD_MUST_CHECK;
/* A clean picture of a sample as a network is fed it. rgb [size,size,3] and small are the caller's
 * room; input [net->size, net->size, 3]. False for a picture that cannot be read. */
bool kd_stage_feed(const kd_session *ss, const kd_net *net, uint32_t sample, uint8_t *rgb,
                   uint8_t *small, float *input);

#endif

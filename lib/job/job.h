/* The job file: one schema table over libyaml's document tree, resolved into plain structs.
 *
 * A job is data, never code. Loading refuses unknown keys (naming the nearest one that exists),
 * wrong types, impossible values, duplicate keys, aliases and anchors, more than one document,
 * nesting deeper than 16 and keys of parts that are not built yet, each with line and column. A
 * loaded job has every default filled in; kd_job_resolved prints it as JSON, which loads to the
 * same job. Threads: reentrant; a kd_job is plain data. */
#ifndef KD_JOB_H
#define KD_JOB_H

#include "kd/err.h"

#define KD_JOB_NAME 64
#define KD_JOB_PATH 512
#define KD_JOB_WORD 32

enum kd_optimizer_kind { KD_SGD, KD_ADAM };
enum kd_schedule_kind { KD_CONSTANT, KD_COSINE };
typedef struct kd_optimizer_spec {
    enum kd_optimizer_kind name;
    double lr;                /* > 0 */
    double head_lr;           /* of a new head; 0 = lr */
    double momentum;          /* sgd, [0,1) */
    double beta1, beta2, eps; /* adam */
    double weight_decay;      /* coupled L2 (as torch.optim.SGD/Adam), >= 0 */
    enum kd_schedule_kind schedule;
    double warmup; /* epochs of linear warm-up from lr/steps, >= 0 */
} kd_optimizer_spec;

enum kd_t2 { KD_T2_NONE, KD_T2_SOFT, KD_T2_ALL };
enum kd_mse_kind { KD_MSE_MEAN, KD_MSE_HALF };
typedef struct kd_loss_spec {
    double kd, ce, mse; /* weights >= 0, not all zero */
    double temperature; /* > 0 */
    enum kd_t2 t2;
    enum kd_mse_kind mse_kind;
    bool normalise; /* divide by the sum of the weights */
} kd_loss_spec;

enum kd_padding { KD_PAD_TF, KD_PAD_TORCH };
/* u8 -> float: unit x/255; symmetric x/127.5-1; imagenet (x/255-mean)/std per channel. */
enum kd_preprocess { KD_PRE_UNIT, KD_PRE_SYMMETRIC, KD_PRE_IMAGENET };
typedef struct kd_model_spec {
    char model[KD_JOB_WORD]; /* shallow_cnn | mlp | mobilenet_v2; "" = there is no teacher */
    double width;            /* mobilenet_v2 multiplier, (0, 4] */
    int hidden[8];           /* mlp: units of hidden layers */
    int n_hidden;
    enum kd_padding padding;
    enum kd_preprocess preprocess;
    char weights[KD_JOB_PATH]; /* file as named, "" = none */
    char weights_digest[33];   /* filled at submit from the uploaded blob */
} kd_model_spec;

/* One training run: teacher fine-tuning, distillation or the from-scratch twin. */
typedef struct kd_train_spec {
    int epochs; /* 0..10000 */
    int batch;  /* global batch, 1..65536 */
    int slots;  /* power of two, divides batch */
    kd_optimizer_spec optimizer;
    kd_loss_spec loss;      /* teacher and scratch: ce 1, the rest 0 */
    bool batch_norm_frozen; /* else trained */
    int views;              /* N >= 1; 0 = fresh, a new view every epoch */
} kd_train_spec;

enum kd_data_format { KD_IMAGE_FOLDER, KD_IDX };
typedef struct kd_data_spec {
    enum kd_data_format format;
    char path[KD_JOB_PATH];  /* folder beneath the worker's data root */
    char train[KD_JOB_PATH]; /* image-folder: list file in it; idx: images file */
    char val[KD_JOB_PATH];
    char train_labels[KD_JOB_PATH], val_labels[KD_JOB_PATH]; /* idx */
    char classes[KD_JOB_PATH]; /* list of names, "classes.txt"; "" = names from folders / numbers */
    int size;                  /* pixels of the square view, 8..1024 */
    int max_train; /* train on N samples chosen by the seed; 0 = all. Validation stays whole */
    double max_bad_images; /* fraction, default 0.001 */
    bool flip;
    int crop_pad; /* pixels a side, 0 = no crop */
} kd_data_spec;

typedef struct kd_job {
    char name[KD_JOB_NAME];
    uint64_t seed;
    kd_data_spec data;
    kd_model_spec teacher;
    bool fine_tune; /* a teacher stage that trains */
    kd_train_spec teacher_train;
    kd_model_spec student;
    kd_train_spec distill;
    bool scratch; /* queue the from-scratch twin */
    kd_train_spec scratch_train;
    int min_workers, max_workers;
    int checkpoint_every; /* steps */
} kd_job;

/* Stages of a job in order; the list that later stages join. */
enum kd_stage_kind {
    KD_STAGE_TEACHER,
    KD_STAGE_DISTILL,
    KD_STAGE_SCRATCH,
    KD_STAGE_EVALUATE,
    KD_STAGE_EXPORT
};
#define KD_MAX_STAGES 8
const char *kd_stage_name(enum kd_stage_kind kind);
/* Fills kinds, returns how many. */
int kd_job_stages(const kd_job *job, enum kd_stage_kind kinds[KD_MAX_STAGES]);
/* The training run of a stage; NULL for evaluate and export. A teacher that is only loaded has
 * epochs 0. */
const kd_train_spec *kd_job_train(const kd_job *job, enum kd_stage_kind kind);
/* The network that a stage trains; NULL for evaluate and export. */
const kd_model_spec *kd_job_model(const kd_job *job, enum kd_stage_kind kind);

/* text: YAML or resolved JSON, len bytes. file: name for messages. sets: `dotted.key=value`
 * overrides, value read as YAML scalar or flow; applied before validation. Errors read
 * "FILE:LINE:COLUMN: data.labelled.sizee: unknown key; did you mean `size`?". */
int kd_job_load(const char *text, size_t len, const char *file, const char *const *sets, int n_sets,
                kd_job *out, kd_diag *diag) KD_MUST_CHECK;
/* JSON with every default filled in; caller frees. */
int kd_job_resolved(const kd_job *job, char **out_json, kd_diag *diag) KD_MUST_CHECK;
/* Advice at submit, e.g. a hard weight that is not below the soft one. Returns how many notes were
 * written to notes (at most max, each NUL-terminated). */
int kd_job_notes(const kd_job *job, char notes[][256], int max);
/* Prints the schema as a table: key, type, range, default, meaning (for `distill help job`). */
int kd_job_schema(char **out_text) KD_MUST_CHECK;
/* Local files that the job names (weights), for upload at submit. Returns the count, pointers into
 * job. */
int kd_job_local_files(const kd_job *job, const char *out[4]);

#endif

/* The job file: one schema table over libyaml's document tree, resolved into plain structs.
 *
 * A job is data, never code. Loading refuses unknown keys (naming the nearest one that exists),
 * wrong types, impossible values, duplicate keys, aliases and anchors, more than one document and
 * nesting deeper than 16, each with line and column. A loaded job has every default filled in;
 * kd_job_resolved prints it as JSON, which loads to the same job. Threads: reentrant; a kd_job is
 * plain data. */
#ifndef KD_JOB_H
#define KD_JOB_H

#include "kd/err.h"

#define KD_JOB_NAME 64
#define KD_JOB_PATH 512
#define KD_JOB_WORD 32

enum kd_optimizer_kind { KD_SGD, KD_ADAM, KD_ADAMW };
enum kd_schedule_kind { KD_CONSTANT, KD_COSINE, KD_STEP, KD_ONE_CYCLE };
#define KD_MAX_MILESTONES 8
typedef struct kd_optimizer_spec {
    enum kd_optimizer_kind name;
    double lr;                /* > 0 */
    double head_lr;           /* of the head; 0 = lr */
    double momentum;          /* sgd, [0,1) */
    bool nesterov;            /* sgd, needs momentum */
    double beta1, beta2, eps; /* adam, adamw */
    double weight_decay;      /* >= 0; coupled L2 (torch.optim.SGD, Adam), decoupled with adamw */
    enum kd_schedule_kind schedule;
    double warmup; /* epochs of linear warm-up from lr/steps, >= 0; not with one_cycle */
    int milestones[KD_MAX_MILESTONES]; /* step: epochs after which lr is multiplied by gamma */
    int n_milestones;
    double gamma;                        /* step, (0, 1] */
    double pct_start;                    /* one_cycle: share of the run in which lr rises, (0, 1) */
    double div_factor, final_div_factor; /* one_cycle: lr begins at lr/div and ends at
                                            lr/div/final_div, as torch.optim OneCycleLR */
    double clip_norm; /* global L2 norm above which gradients are scaled down; 0 = off */
    double ema; /* decay of the exponential moving average of all parameters, [0,1); 0 = off */
} kd_optimizer_spec;

enum kd_t2 { KD_T2_NONE, KD_T2_SOFT, KD_T2_ALL };
enum kd_mse_kind { KD_MSE_MEAN, KD_MSE_HALF };
/* worker/distill/loss.h has the formulas. */
typedef struct kd_loss_spec {
    double kd, ce, mse, dkd, dist, nkd, jsd; /* weights >= 0, not all zero */
    double temperature;                      /* > 0; of kd, dkd, dist, jsd and ensembles */
    enum kd_t2 t2;
    enum kd_mse_kind mse_kind;
    bool normalise;         /* divide by the sum of the weights */
    double label_smoothing; /* of ce, [0,1) */
    bool standardise;       /* kd on standardised logits */
    double dkd_alpha, dkd_beta;
    double dist_inter, dist_intra;
    double nkd_gamma, nkd_temperature;
    double jsd_beta; /* [0,1] */
} kd_loss_spec;

enum kd_padding { KD_PAD_TF, KD_PAD_TORCH };
/* AUTO: left to a measurement; the job's workers agree on one of the others when its students
 * begin.
 */
enum kd_precision { KD_FLOAT32, KD_INT8, KD_BFLOAT16, KD_PRECISION_AUTO };
/* u8 -> float: unit x/255; symmetric x/127.5-1; imagenet (x/255-mean)/std per channel. */
enum kd_preprocess { KD_PRE_UNIT, KD_PRE_SYMMETRIC, KD_PRE_IMAGENET };

/* One entry of `layers`. Only the fields that its kind names are used, the others are zero. */
enum kd_layer_kind {
    KD_LAYER_CONV,  /* channels, kernel, stride, groups, pad (-1 = same: ceil(n/stride)), bias */
    KD_LAYER_DENSE, /* channels */
    KD_LAYER_BATCH_NORM,
    KD_LAYER_RELU,
    KD_LAYER_RELU6,
    KD_LAYER_SILU,
    KD_LAYER_MAX_POOL, /* kernel, stride, pad */
    KD_LAYER_AVG_POOL, /* kernel, stride, pad */
    KD_LAYER_GLOBAL_AVG_POOL,
    KD_LAYER_FLATTEN,
    KD_LAYER_DROPOUT /* rate */
};
typedef struct kd_layer_spec {
    enum kd_layer_kind kind;
    int channels, kernel, stride, groups, pad;
    bool bias;
    double rate;
} kd_layer_spec;
#define KD_MAX_LAYERS 64

typedef struct kd_model_spec {
    /* shallow_cnn | shallow_cnn_deep | mlp | lenet | cheap_cnn | mobilenet_v2 | efficientnet_b0 |
     * resnet18 | resnet34 | resnet50 | layers | onnx | kserve (teachers); "" = there is no teacher
     */
    char model[KD_JOB_WORD];
    double width;  /* mobilenet_v2, cheap_cnn: multiplier, (0, 4] */
    int hidden[8]; /* mlp: units of hidden layers */
    int n_hidden;
    kd_layer_spec layers[KD_MAX_LAYERS]; /* model layers; a dense layer of the classes follows */
    int n_layers;
    enum kd_padding padding;
    enum kd_preprocess preprocess;
    int size;         /* pixels a side of what this network sees, 8..1024; data.size by default */
    double dropout;   /* before the head, [0,1) */
    double drop_path; /* efficientnet_b0, resnet*: stochastic depth of the last block, [0,1) */
    /* File as named, or `job:ID` (student artefact of that job), `job:ID/NAME` (an artefact); "" =
     * none. With model onnx: the .onnx file. */
    char weights[KD_JOB_PATH];
    char weights_digest[33]; /* filled at submit from the uploaded blob or the other job */
} kd_model_spec;

enum kd_freeze { KD_FREEZE_NONE, KD_FREEZE_BACKBONE };
enum kd_ensemble { KD_ENSEMBLE_LOGITS, KD_ENSEMBLE_PROBABILITIES };
/* One training run: teacher fine-tuning, distillation or the from-scratch twin. */
typedef struct kd_train_spec {
    uint64_t seed; /* of initial values, order and dropout */
    int epochs;    /* 0..10000 */
    int batch;     /* global batch, 1..65536 */
    int slots;     /* power of two, divides batch */
    kd_optimizer_spec optimizer;
    kd_loss_spec loss;      /* teacher and scratch: ce 1, the rest 0 */
    bool batch_norm_frozen; /* else trained */
    bool bfloat16;          /* operands of convolutions; else float32 */
    /* Every node of the reduction tree; else float32. The same for all stages of a job. */
    bool bfloat16_gradients;
    enum kd_freeze freeze;
    int views;        /* N >= 1; 0 = fresh, a new view every epoch */
    int eval_every;   /* steps between evaluations; 0 = at each epoch's end */
    int patience;     /* early stopping: evaluations without a better one; 0 = off */
    double min_delta; /* accuracy, 0..1, by which a better one must be better */
} kd_train_spec;

#define KD_MAX_TEACHERS 4
typedef struct kd_teacher_spec {
    kd_model_spec model;
    bool fine_tune; /* a teacher stage that trains */
    kd_train_spec train;
    double weight;               /* in an ensemble, > 0; divided by the sum */
    bool allow_label_smoothing;  /* at temperature > 1 */
    enum kd_precision precision; /* of the runs whose logits are learnt from */
    /* Of a teacher outside (model kserve): it answers the Open Inference Protocol. */
    char kserve[KD_JOB_PATH];                                            /* HOST:PORT */
    char served[KD_JOB_NAME], version[KD_JOB_NAME], output[KD_JOB_NAME]; /* "" = its choice */
    bool tls;
    int pictures;          /* of a request, >= 2 */
    int timeout, patience; /* seconds */
    char probe[33];        /* digest of its answers at the job's beginning; "" = not asked yet */
} kd_teacher_spec;
/* It runs elsewhere: there is no network of it here, and no stage that makes it. */
bool kd_teacher_is_outside(const kd_teacher_spec *t);

/* One entry of `compress`: a step that makes the student smaller. Only the fields that its kind
 * names are used, the others are zero. */
enum kd_compress_kind {
    KD_COMPRESS_PRUNE,    /* share, scope, ramp */
    KD_COMPRESS_CHANNELS, /* share, multiple */
    KD_COMPRESS_QUANTIZE, /* method, percentile, pictures */
    KD_COMPRESS_WEIGHTS   /* bfloat16 */
};
enum kd_compress_scope { KD_SCOPE_GLOBAL, KD_SCOPE_LAYER };
enum kd_compress_bits { KD_BITS_INT8 };
enum kd_compress_method {
    KD_METHOD_MINMAX,
    KD_METHOD_PERCENTILE,
    KD_METHOD_MSE,
    KD_METHOD_KL,
    KD_METHOD_AUTO /* the one of these after which the network's answers change least */
};
enum kd_half { KD_HALF_NONE, KD_HALF_FLOAT16, KD_HALF_BFLOAT16 };
typedef struct kd_compress_spec {
    enum kd_compress_kind kind;
    double share; /* of weights or channels that are gone, (0,1) */
    enum kd_compress_scope scope;
    double ramp;  /* share of the run in which the weights go, [0,1] */
    int multiple; /* of what is left of a layer's channels, >= 1 */
    enum kd_compress_bits bits;
    enum kd_compress_method method;
    double percentile;  /* (0,100] */
    int pictures;       /* to calibrate with */
    bool bfloat16;      /* weights: else float16 */
    bool from_student;  /* else from what the step before made */
    kd_train_spec tune; /* epochs 0: without training */
    kd_train_spec made; /* the same of no epochs: what is made of it */
} kd_compress_spec;
#define KD_MAX_COMPRESS 8

enum kd_data_format { KD_IMAGE_FOLDER, KD_IDX, KD_CIFAR, KD_NPY };
enum kd_leakage { KD_LEAKAGE_REFUSE, KD_LEAKAGE_MOVE, KD_LEAKAGE_ALLOW };
/* worker/data/view.h has what each does; zero = off. Lengths in pixels of the picture of
 * data.size. */
typedef struct kd_augment_spec {
    bool flip;
    int crop_pad;
    double resized_crop;                     /* least share of the area, (0,1]; 0 = off */
    double resized_crop_ratio;               /* aspect from 1/r to r, >= 1 */
    double rotate;                           /* degrees to either side, 0..180 */
    double brightness, contrast, saturation; /* factor from 1-x to 1+x, 0..1 */
    int randaugment_n, randaugment_m;        /* operations, magnitude 0..30 */
    int cutout;                              /* side of the grey square */
    double mixup, cutmix;                    /* alpha of the Beta distribution, 0 = off */
    double mix_probability;                  /* share of views that are mixed, (0,1] */
} kd_augment_spec;

typedef struct kd_data_spec {
    uint64_t seed; /* of splits, choices and views */
    enum kd_data_format format;
    char path[KD_JOB_PATH]; /* folder beneath the worker's data root */
    /* image-folder: list file or folder of class folders in it; "" = `path` itself is a folder of
     * class folders. idx, npy: file of images. cifar: file, "" = the usual names. */
    char train[KD_JOB_PATH];
    char val[KD_JOB_PATH], test[KD_JOB_PATH]; /* "" = none, or a share of the training samples */
    char train_labels[KD_JOB_PATH], val_labels[KD_JOB_PATH],
        test_labels[KD_JOB_PATH]; /* idx, npy */
    double val_share, test_share; /* of the training samples, by class and seed; 0..0.9 */
    enum kd_leakage leakage;      /* the same picture in two splits */
    char classes[KD_JOB_PATH]; /* list of names, "classes.txt"; "" = names from folders / numbers */
    int size;                  /* pixels of the square view, 8..1024 */
    int max_train; /* train on N samples chosen by the seed; 0 = all. Validation stays whole */
    double max_bad_images; /* fraction, default 0.001 */
    kd_augment_spec augment;
    /* Noisy Student: pictures without classes. path "" = none. */
    struct kd_unlabelled_spec {
        char path[KD_JOB_PATH]; /* folder beneath the data root */
        char list[KD_JOB_PATH]; /* file of paths in it; "" = every picture below path */
        double min_confidence;  /* of the teacher's best class at T = 1, 0..1 */
        int per_class;          /* wanted of each class; 0 = as they come */
        bool upsample;          /* repeat pictures of a class that has too few */
    } unlabelled;
} kd_data_spec;

typedef struct kd_job {
    char name[KD_JOB_NAME];
    uint64_t seed;
    kd_data_spec data;
    kd_teacher_spec teachers[KD_MAX_TEACHERS];
    int n_teachers;
    enum kd_ensemble ensemble;
    kd_model_spec student;
    kd_train_spec distill;
    bool scratch; /* queue the from-scratch twin */
    kd_train_spec scratch_train;
    kd_compress_spec compress[KD_MAX_COMPRESS];
    int n_compress;
    int min_workers, max_workers;
    int checkpoint_every; /* steps */
    int priority;         /* greater comes first */
    double audit;         /* share of units that are run twice, 0..1 */
    bool export_onnx;     /* beside safetensors */
    int onnx_opset;       /* 13 or 17 */
} kd_job;

/* Stages of a job in order; the list that later stages join. Each teacher has a stage, unless it is
 * outside. */
enum kd_stage_kind {
    KD_STAGE_TEACHER, /* + number of the teacher, 0..KD_MAX_TEACHERS-1 */
    KD_STAGE_TEACHER_LAST = KD_STAGE_TEACHER + KD_MAX_TEACHERS - 1,
    KD_STAGE_DISTILL,
    KD_STAGE_SCRATCH,
    KD_STAGE_TUNE, /* + number of the step: its training, where it has some */
    KD_STAGE_TUNE_LAST = KD_STAGE_TUNE + KD_MAX_COMPRESS - 1,
    KD_STAGE_COMPRESS, /* + number of the step: what it makes */
    KD_STAGE_COMPRESS_LAST = KD_STAGE_COMPRESS + KD_MAX_COMPRESS - 1,
    KD_STAGE_EVALUATE,
    KD_STAGE_EXPORT
};
#define KD_MAX_STAGES 24
/* "float32", "int8", "bfloat16", "auto"; and the other way, AUTO for any other word. */
const char *kd_precision_name(enum kd_precision p);
enum kd_precision kd_precision_of(const char *name);
/* teacher, teacher2, ..., distill, scratch, tune, tune2, ..., compress, compress2, ..., evaluate,
 * export */
const char *kd_stage_name(enum kd_stage_kind kind);
/* Number of the teacher that a stage makes, -1 = another stage. */
int kd_stage_teacher(enum kd_stage_kind kind);
/* Number of the step of `compress` whose training, or whose making, a stage is; -1 = another stage.
 */
int kd_stage_tune(enum kd_stage_kind kind);
int kd_stage_compress(enum kd_stage_kind kind);
/* Whether a name is that of such a training, or of what it made (`tune2.safetensors`): floats that
 * are not yet pruned to the end or rounded, and nothing to use. */
bool kd_stage_name_tunes(const char *name);
/* Of a step of `compress`: the one that it goes on from, -1 = the student; whether what it makes
 * has 8 bits; what else its weights are stored as. */
int kd_compress_source(const kd_job *job, int step);
bool kd_compress_int8(const kd_job *job, int step);
enum kd_half kd_compress_half(const kd_job *job, int step);
const char *kd_half_name(enum kd_half half); /* "float16", "bfloat16", "float32" */
/* What a step does, for people: "80 % of the weights pruned". */
void kd_compress_text(const kd_compress_spec *step, char *out, size_t size);
/* Fills kinds, returns how many. */
int kd_job_stages(const kd_job *job, enum kd_stage_kind kinds[KD_MAX_STAGES]);
/* The training run of a stage; NULL for evaluate and export. A teacher that is only loaded has
 * epochs 0. */
const kd_train_spec *kd_job_train(const kd_job *job, enum kd_stage_kind kind);
/* The highest temperature at which a loss looks at the teacher's probabilities; 0 = at none. */
double kd_loss_spec_temperature(const kd_loss_spec *loss);
/* The network that a stage trains; NULL for evaluate and export. */
const kd_model_spec *kd_job_model(const kd_job *job, enum kd_stage_kind kind);
/* Pixels a side of the views that are squeezed into the pictures which that network sees; 0 = it
 * sees views as they are. */
int kd_job_squeezed_from(const kd_job *job, enum kd_stage_kind kind);

/* text: YAML or resolved JSON, len bytes. file: name for messages. sets: `dotted.key=value`
 * overrides, value read as YAML scalar or flow; applied before validation. Errors read
 * "FILE:LINE:COLUMN: data.labelled.sizee: unknown key; did you mean `size`?". */
int kd_job_load(const char *text, size_t len, const char *file, const char *const *sets, int n_sets,
                kd_job *out, kd_diag *diag) KD_MUST_CHECK;
/* What stands for FILE:LINE:COLUMN in errors about an override: "--set KEY=VALUE", a long one cut.
 * Returns out. */
#define KD_JOB_SET 72
const char *kd_job_set_place(const char *set, char out[KD_JOB_SET]);
/* JSON with every default filled in; caller frees. */
int kd_job_resolved(const kd_job *job, char **out_json, kd_diag *diag) KD_MUST_CHECK;
/* Advice at submit, e.g. a hard weight that is not below the soft one. Returns how many notes were
 * written to notes (at most max, each NUL-terminated). */
int kd_job_notes(const kd_job *job, char notes[][256], int max);
/* Prints the schema as a table: key, type, range, default, meaning (for `distill help job`). */
int kd_job_schema(char **out_text) KD_MUST_CHECK;
/* One key in words: meaning, value, default, what stands below it; key NULL: the keys of the file
 * itself. -KD_ENOENT names the nearest key. Caller frees. */
int kd_job_explain(const char *key, char **out_text, kd_diag *diag) KD_MUST_CHECK;
/* The same as a JSON object: key, meaning, value, default, only (null: there is none), below. */
int kd_job_explain_json(const char *key, char **out_text, kd_diag *diag) KD_MUST_CHECK;
/* The keys that people write, by number from 0, and what each means; NULL past the last. */
const char *kd_job_key(int i, const char **out_meaning);
/* The schema as JSON Schema (draft 2020-12), for editors. It says what the table says: what depends
 * on other keys or on the data is checked by kd_job_load alone. Caller frees. */
int kd_job_json_schema(char **out_text) KD_MUST_CHECK;
/* A job file to begin with: the keys that `sets` (as for kd_job_load) name, with their values, and
 * behind `#` other keys worth knowing (with `all`: every one that applies) with their defaults, all
 * with their meaning. It loads to the same job as the sets alone. Errors as kd_job_load's. Caller
 * frees. */
int kd_job_template(const char *const *sets, int n_sets, bool all, char **out_text,
                    kd_diag *diag) KD_MUST_CHECK;
/* Weights that another job made: `job:ID` or `job:ID/NAME`, no file of the submitting machine. */
#define KD_JOB_REF "job:"
bool kd_job_is_ref(const char *weights);
/* Local files that the job names (weights), for upload at submit. Returns the count, pointers into
 * job. */
#define KD_JOB_MAX_FILES (KD_MAX_TEACHERS + 1)
int kd_job_local_files(const kd_job *job, const char *out[KD_JOB_MAX_FILES]);

#endif

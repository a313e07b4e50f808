/* What stage.c (units), networks.c (where networks come from) and teachers.c share. */
#ifndef KD_WORKER_STAGE_INTERNAL_H
#define KD_WORKER_STAGE_INTERNAL_H

#include "stage.h"

#include "compress/tune.h"

/* What one compute thread has for itself. */
struct context {
    kd_plan *train, *infer, *teachers[KD_MAX_TEACHERS];
    uint64_t train_tag, infer_tag; /* what the plans hold; 0 = nothing */
    bool teacher_loaded[KD_MAX_TEACHERS];
    uint8_t *raw, *view, *other, *small; /* [size, size, 3] */
    float *input;                        /* [slot_batch, seen, seen, 3] of the network */
    float *image;                        /* [size, size, 3] */
    float *logits, *d_logits, *weight;
    kd_target *targets;
    kd_place *places;
    uint32_t *keys;
    /* Where the stage tunes: what the network computes with of a version, and what of it is gone.
     */
    float *version; /* [floats] */
    uint8_t *mask;  /* [floats] */
};

/* One copy of an unlabelled sample in an epoch. */
struct copy {
    uint32_t sample;
    uint8_t copy;
};

struct kd_stage {
    const kd_session *session;
    enum kd_stage_kind kind;
    const kd_train_spec *train;
    kd_net net;       /* that is trained */
    double smoothing; /* that the weights it starts from were trained with */
    /* of `compress` */
    char taught_by[KD_INFO_TEXT]; /* what the network's file said; "" where this stage has teachers
                                   */
    char calibration[KD_INFO_TEXT]; /* of its 8 bits, "" = none */
    char calibrated[256];           /* how they answer, where this stage chose them */
    bool doubtful;                  /* too many other answers than in float32 */
    enum kd_half half;              /* what its weights are stored as */
    bool tunes;                     /* masks, and rounds 8 bits, before it computes */
    kd_tune_pruning pruning;
    kd_graph *rounded; /* what is trained in place of the graph of net; NULL = that one */
    struct {
        char name[32];
        kd_net net;
        kd_model_file_info info; /* of its file */
    } finished[KD_MAX_FINISHED];
    int n_finished;
    const kd_net *teachers[KD_MAX_TEACHERS]; /* among the finished, or outside */
    kd_net outside[KD_MAX_TEACHERS]; /* how pictures are prepared for those that run elsewhere */
    kd_loss loss;
    kd_optim optim;
    kd_stage_shape shape;
    kd_bank_ref banks[KD_MAX_TEACHERS][2]; /* of views, of clean pictures */
    struct context *contexts;
    int threads;
    struct copy *extra; /* places n_train.. of an epoch */
    struct {
        uint32_t *samples;
        uint32_t epoch;
        bool made;
    } orders[2];   /* of even and odd epochs: one is used while the next is looked
                      ahead to */
    double *stats; /* of a batch-coupled loss */
    float *batch;  /* room for its values, column by column */
};

/* networks.c: the network that the stage trains, with the job's weights; those of earlier stages.
 */
int kd_net_new(const kd_stage_config *cfg, kd_stage *s, const char **out_problem,
               kd_diag *diag) KD_MUST_CHECK;
void kd_net_clear(kd_net *n);
int kd_stage_load_finished(const kd_stage_config *cfg, kd_stage *s, kd_diag *diag) KD_MUST_CHECK;
const kd_net *kd_stage_find_finished(const kd_stage *s, const char *name); /* NULL = none */

/* stage.c: makes a view in c->view; false when one of its pictures cannot be read. */
bool kd_stage_make_view(const kd_stage *s, struct context *c, uint32_t sample, uint32_t view,
                        kd_view_mix *mix);

/* small.c: the network of a stage of `compress`, from the finished ones; and what depends on how
 * many steps it has. */
int kd_small_new(kd_stage *s, const char **out_problem, kd_diag *diag) KD_MUST_CHECK;
void kd_small_compose(kd_stage *s);

/* teachers.c */
/* Of a teacher that runs elsewhere: no graph, but what it sees; NULL for others. */
const kd_net *kd_stage_outside_net(kd_stage *s, int teacher);
void kd_stage_set_banks(kd_stage *s, const char *numerics);
/* Their plans in every context; 8-bit ones are calibrated first. */
int kd_stage_make_teachers(kd_stage *s, const kd_stage_config *cfg, kd_diag *diag) KD_MUST_CHECK;
/* A plan of a teacher that is ready to run. */
int kd_stage_teacher_plan(kd_stage *s, int teacher, enum kd_precision precision, kd_plan **out,
                          kd_diag *diag) KD_MUST_CHECK;
/* The i-th of n clean training pictures, evenly spread, the same for every worker, into
 * contexts[0].image as the teacher sees it. */
int kd_stage_training_picture(kd_stage *s, int teacher, size_t i, size_t n,
                              kd_diag *diag) KD_MUST_CHECK;
/* precision.c: why [size], for people. */
int kd_stage_measure_precision(kd_stage *s, int teacher, enum kd_precision *out, char *why,
                               size_t size, kd_diag *diag) KD_MUST_CHECK;

#endif

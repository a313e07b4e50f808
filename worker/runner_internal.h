/* What runner.c (commands, sessions, preparing) and steps.c (the step flow) share. */
#ifndef KD_WORKER_RUNNER_INTERNAL_H
#define KD_WORKER_RUNNER_INTERNAL_H

#include "exchange.h"
#include "pool.h"
#include "runner.h"
#include "stage.h"
#include "teaching.h"
#include "tree.h"

#include <pthread.h>
#include <stdatomic.h>

struct command {
    struct command *next;
    Distill__V1__CoordinatorMessage *m; /* NULL: reset */
};

/* One version of the parameters and what of it is there. */
struct version {
    float *vector;
    bool *have; /* [chunks] */
    uint32_t missing;
};

struct kd_runner {
    kd_runner_config cfg;
    kd_pool *pool;
    pthread_t thread;
    bool started;

    pthread_mutex_t mu; /* guards all below up to the line */
    pthread_cond_t changed;
    struct command *commands, **commands_end;
    bool leaving;
    kd_runner_status status;
    int calls; /* started and not yet answered */
    int pushes;
    bool over;           /* this generation cannot go on */
    char over_text[256]; /* why */
    struct version next;
    bool *sum_there, *sum_checkpoint; /* [chunks] */
    float *sum_scale;                 /* [chunks] */
    uint8_t *redo; /* [chunks] bit WANT_x: the call failed and is to be repeated */
    int redos;
    float *sums; /* [floats] */
    int state_missing;
    int average_missing;
    float *average; /* [floats] of the version that is evaluated; NULL unless the stage averages */
    /* ---- the runner's thread writes; compute threads read while their units run */
    atomic_bool cancel; /* something newer waits; any thread */
    kd_session *session;
    kd_stage *stage;
    char stage_job[13];
    uint32_t stage_index;
    kd_stage_ref ref;
    uint32_t slot_first, slot_count, chunk_first, chunk_count, rank, members;
    uint64_t last_version;
    struct version now;
    uint64_t version; /* that `now` holds */
    float *state;     /* chunk by chunk [state_vectors][chunk length]; own chunks are kept up */
    kd_reducer *reducer;
    kd_teaching *teaching; /* NULL when the loss needs no teacher */
    float *values;         /* [batch][value_columns] of the step; NULL unless the loss is coupled */
    const double *stats;   /* made of them */
    atomic_uint_fast64_t units;
    kd_teaching_counts counts;
    atomic_uint bad_images;
    atomic_bool failed; /* a problem was reported for this stage */
    uint64_t tag;       /* names (generation, version) for the plans */
};

/* runner.c. Under r->mu: this generation cannot go on here; the first reason counts. */
void kd_runner_give_up(kd_runner *r, const char *why);
/* Once a stage: the first problem is the one that tells; it fails the job. */
void kd_runner_problem(kd_runner *r, const char *code, const char *text);
/* What heart-beats say from now on. */
void kd_runner_phase(kd_runner *r, const char *phase, uint64_t step);

/* evaluate.c: measures and evaluates the finished networks, hands over what it found. */
void kd_runner_measure(kd_runner *r, const Distill__V1__Measure *q);

/* label.c: has the teacher label the unlabelled pictures and settles which are taken how often. */
int kd_runner_label(kd_runner *r, kd_diag *diag) KD_MUST_CHECK;

/* steps.c. True when the step under way is no longer wanted; arg is the runner. */
bool kd_runner_stopped(void *arg);
/* Carries a generation from its version as far as it goes. */
void kd_runner_begin(kd_runner *r, const Distill__V1__Begin *b);

#endif

/* What runner.c (commands, sessions, preparing) and steps.c (the step flow) share. */
#ifndef KD_WORKER_RUNNER_INTERNAL_H
#define KD_WORKER_RUNNER_INTERNAL_H

#include "exchange.h"
#include "outside.h"
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

/* Units whose values are pushed and whose gradients wait for those of the whole batch. */
struct valued {
    kd_span span;
    bool check;
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
    const char *phase_before; /* it waits for a teacher outside */
    int calls;                /* started and not yet answered */
    bool over;                /* it cannot go on */
    char over_text[256];      /* why */
    uint64_t news, news_seen;
    kd_part *part; /* NULL without a stage that trains */
    uint64_t part_number;
    int round_left; /* units under way */
    bool values_there, values_asked;
    kd_time_ms values_retry_at;
    kd_digest prepared; /* what the stage was made of, see kd_runner_concerns_stage */
    bool is_prepared;
    /* ---- the runner's thread writes; compute threads read while their units run */
    atomic_bool cancel; /* something newer waits; any thread */
    kd_session *session;
    kd_stage *stage;
    char stage_job[13];
    uint32_t stage_index;
    char fingerprint[33];
    kd_stage_ref ref;
    uint64_t step;       /* from 0: version - 1; UINT64_MAX = no version is here */
    uint64_t last_step;  /* step + 1 = steps */
    const float *vector; /* of the version */
    kd_span round;       /* units under way */
    bool round_checks;
    struct valued valued[64];
    size_t n_valued, next_valued;
    uint32_t *digests, *check_digests; /* [slots][chunks] CRC32C of gradients */
    kd_place *places;                  /* [slot_batch] */
    float *average; /* [floats] of the version that is evaluated; NULL unless the stage averages */
    struct {
        uint64_t version; /* 0 = none */
        uint32_t rank, members;
        unsigned char *done; /* [eval_units] */
        uint32_t *units;     /* [eval_units] under way */
        kd_time_ms hold_until;
    } evaluation;
    kd_reducer *reducer;
    kd_teaching *teaching;                /* NULL when the loss needs no teacher */
    kd_outside *outside[KD_MAX_TEACHERS]; /* teachers that run elsewhere; NULL for others */
    char waits_for[64];                   /* the phase in which it waits for one */
    float *values,
        *own_values;     /* [batch][value_columns] of the step; NULL unless the loss is coupled */
    const double *stats; /* made of them */
    atomic_uint_fast64_t units;
    kd_teaching_counts counts;
    atomic_uint bad_images;
    bool could_not_ask; /* the coordinator, what a teacher's precision is */
    atomic_bool failed; /* a problem was reported for this stage */
    uint64_t tag;       /* names the version for the plans */
};

/* ---- runner.c */
/* Under r->mu: it cannot go on here; the first reason counts. */
void kd_runner_give_up(kd_runner *r, const char *why);
/* Under r->mu: something has changed. */
void kd_runner_wake(kd_runner *r);
/* Once a stage: the first problem is the one that tells; it fails the job. */
void kd_runner_problem(kd_runner *r, const char *code, const char *text);
/* What heart-beats say from now on. */
void kd_runner_phase(kd_runner *r, const char *phase, uint64_t step);
/* Under r->mu: whether a command is for the stage that is here and leaves it in place. */
bool kd_runner_concerns_stage(const kd_runner *r, const struct command *c);
/* Under r->mu: takes the first command out. */
struct command *kd_runner_pop(kd_runner *r);
void kd_runner_free_command(struct command *c);
/* The coordinator asks for the stage that is prepared already. */
void kd_runner_ready_again(kd_runner *r, const Distill__V1__Prepare *p);

/* ---- evaluate.c: measures and evaluates the finished networks, hands over what it found. */
void kd_runner_measure(kd_runner *r, const Distill__V1__Measure *q);

/* ---- costs.c: what an inference of each finished network costs. costs
 * [KD_MAX_FINISHED]; their names stay the stage's. -KD_ECANCELED when it was stopped. */
int kd_runner_costs(kd_runner *r, Distill__V1__ModelCost *costs, size_t *out_n,
                    kd_diag *diag) KD_MUST_CHECK;

/* ---- trial.c: tries a job, until another command comes; the answer that it cannot. */
void kd_runner_try(kd_runner *r, const Distill__V1__Trial *ask);
void kd_runner_refuse_trial(kd_runner *r, const Distill__V1__Trial *ask);

/* ---- meeting.c: meets the teachers that run elsewhere. -KD_EUNAVAIL: the coordinator is away;
 * what else fails is the teacher's fault, or the job's. */
int kd_runner_meet(kd_runner *r, kd_diag *diag) KD_MUST_CHECK;

/* ---- label.c: has the teacher label the unlabelled pictures and settles which are taken how
 * often.
 */
int kd_runner_label(kd_runner *r, kd_diag *diag) KD_MUST_CHECK;

/* ---- evaluation.c, all on the runner's thread */
void kd_runner_evaluation_due(kd_runner *r, uint64_t version);
/* Whose share, and whether Begin.version is still to be evaluated. */
void kd_runner_evaluate_as(kd_runner *r, const Distill__V1__Begin *b);
/* Whether there is something to evaluate at the version that is here. */
bool kd_runner_evaluation_waits(const kd_runner *r);
bool kd_runner_evaluate(kd_runner *r); /* false: it cannot go on */

/* ---- steps.c */
/* True when what is under way is no longer wanted; arg is the runner. */
bool kd_runner_stopped(void *arg);
/* Under no lock: gives up after a failure, unless it was stopped anyway. True if it cannot go on.
 */
bool kd_runner_refused(kd_runner *r, int rc, const kd_diag *diag);
/* Carries a stage on from where the coordinator says until another command comes. */
void kd_runner_begin(kd_runner *r, const Distill__V1__Begin *b);

#endif

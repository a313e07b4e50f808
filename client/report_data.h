/* What a report shows, as plain bounded numbers and strings.
 *
 * Sources: a job's detail (Get), its result.json and evaluation.json. Everything in them counts as
 * hostile: what has the wrong type, is out of range or is beyond a limit below is left out, never
 * trusted. Strings are borrowed from the sources, which a kd_report owns; they are not escaped.
 * Unknown figures are NAN or negative, unknown words "". Jobs without result or evaluation, running
 * and failed ones, have what there is so far. Threads: plain data, one thread. */
#ifndef KD_CLI_REPORT_DATA_H
#define KD_CLI_REPORT_DATA_H

#include "distill.pb-c.h"
#include "kd/err.h"
#include "kd/stats.h"

#include <jansson.h>

#define KD_REPORT_JOBS 512               /* with the children of sweeps */
#define KD_REPORT_NETWORKS 16            /* teachers, student, twin, what steps make smaller */
#define KD_REPORT_PAIRS 32               /* pairs of networks that are compared */
#define KD_REPORT_EVALS 64               /* (network, split) with a matrix */
#define KD_REPORT_CONFUSION 64           /* classes up to which a matrix is shown */
#define KD_REPORT_CLASSES 65536          /* classes */
#define KD_REPORT_SAMPLES 24             /* pictures */
#define KD_REPORT_GUESSES 3              /* per network and picture */
#define KD_REPORT_PICTURE (1u << 20)     /* bytes of a picture's data URL */
#define KD_REPORT_VALUES 17              /* keys of a sweep and the seed */
#define KD_REPORT_LABEL 1024             /* bytes of a label with its NUL */
#define KD_REPORT_EVALUATION (64u << 20) /* bytes of evaluation.json */

/* Accuracy on one split. */
typedef struct kd_score {
    bool there;
    uint64_t correct, samples;
    double accuracy, lo, hi; /* 0..1; lo and hi: Wilson's interval */
    double loss;             /* mean cross-entropy in nats */
    double agreement, kl;    /* with the teacher: share, nats */
} kd_score;

typedef struct kd_network {
    char name[24];     /* teacher, teacher2, ..., student, scratch, compress, compress2, ... */
    const char *model, /* of a step: what it did */
        *digest, *best_digest;
    kd_score val, best, test, test_best; /* last version, best by validation; validation, test */
    int64_t best_epoch;                  /* -1 = unknown */
    double parameters, bytes, ms_per_image, seconds;
    const Distill__V1__StageRecord *stage; /* that made it; may be NULL */
} kd_network;

typedef struct kd_pair {
    const char *a, *b, *split;
    kd_paired counts;
    double difference, lo, hi; /* accuracy of a minus that of b */
} kd_pair;

typedef struct kd_eval {
    const char *network, *split;
    kd_score score;
    int n_classes;
    uint64_t *correct, *samples; /* [n_classes], NULL = not told */
    uint64_t *confusion;         /* [n_classes * n_classes], rows = true class; NULL = not told */
} kd_eval;

typedef struct kd_guess {
    const char *name;
    double probability;
} kd_guess;
typedef struct kd_sample {
    const char *name, *label;
    const char *picture; /* data URL of a JPEG or PNG, checked; "" = none */
    struct {
        const char *network;
        kd_guess guesses[KD_REPORT_GUESSES];
        int n;
    } by[KD_REPORT_NETWORKS];
    int n_by;
} kd_sample;

typedef struct kd_bank_account {
    bool there;
    double asked, served, computed, seconds, seconds_saved;
} kd_bank_account;

/* One value of a sweep's child. */
typedef struct kd_sweep_value {
    char key[128], text[128];
    double number; /* NAN if it is none */
} kd_sweep_value;

typedef struct kd_report_job {
    Distill__V1__JobDetail *detail;         /* owned */
    json_t *resolved, *result, *evaluation; /* owned; NULL = not there */
    kd_network networks[KD_REPORT_NETWORKS];
    int n_networks;
    kd_pair pairs[KD_REPORT_PAIRS];
    int n_pairs;
    kd_eval evals[KD_REPORT_EVALS];
    int n_evals;
    const char **classes; /* [n_classes] */
    int n_classes;
    kd_sample samples[KD_REPORT_SAMPLES];
    int n_samples, dropped_pictures;
    kd_bank_account bank;
    int sweep; /* number in kd_report.sweeps, -1 = none */
    kd_sweep_value values[KD_REPORT_VALUES];
    int n_values;
    bool best;   /* the sweep's best by validation */
    json_t *log; /* owned; array of {event}, {warning} or {worker}: strings;
                    NULL = not asked */
} kd_report_job;

typedef struct kd_report_sweep {
    Distill__V1__JobDetail *detail; /* owned */
    json_t *result;                 /* owned */
    kd_bank_account bank;           /* of all children */
} kd_report_sweep;

typedef struct kd_report {
    kd_report_job **jobs; /* owned */
    size_t n_jobs, cap_jobs;
    kd_report_sweep *sweeps;
    size_t n_sweeps;
    char server_version[64]; /* "" = unknown */
    int64_t now_ms;
} kd_report;

void kd_report_clear(kd_report *r);
/* Adds a job or a sweep (without its children). Ownership of detail moves in, also on failure.
 * sweep: number of its sweep, -1 = none. out_* may be NULL. -KD_ELIMIT past KD_REPORT_JOBS. */
int kd_report_add_job(kd_report *r, Distill__V1__JobDetail *detail, int sweep,
                      kd_report_job **out_job, kd_diag *diag) KD_MUST_CHECK;
int kd_report_add_sweep(kd_report *r, Distill__V1__JobDetail *detail, int *out_sweep,
                        kd_diag *diag) KD_MUST_CHECK;
/* Text of evaluation.json. -KD_EDATA when it is no JSON object; the job is as it was. */
int kd_report_evaluation(kd_report_job *j, const char *text, size_t len,
                         kd_diag *diag) KD_MUST_CHECK;
/* Once all jobs are there: finds each sweep's best child and account. */
void kd_report_finish(kd_report *r);

/* NULL if the job has none of that name. */
const kd_network *kd_report_network(const kd_report_job *j, const char *name);
/* The accuracy that counts: where every network has a test split, that of its best version by
 * validation as measured on test, else that of its last version on validation (the best of many
 * validations would flatter). server/sweep_result.h has the same rule. */
const kd_score *kd_report_score(const kd_report_job *j, const kd_network *n);
bool kd_report_tested(const kd_report_job *j);
/* "teacher", "student", "from-scratch twin"; else the name. */
const char *kd_network_title(const char *name);
/* Student against twin, versions and split as in kd_report_score. NULL = unknown. */
const kd_pair *kd_report_twin_pair(const kd_report_job *j);
/* What a stage's network is called: "teacher2" of teacher2, "student" of distill; NULL = none. */
const char *kd_stage_network(const char *stage);
/* Splits "a.b=1 seed=2" into values; returns how many. */
int kd_label_values(const char *label, kd_sweep_value values[KD_REPORT_VALUES]);

/* Children of a sweep that differ in their seed only. */
typedef struct kd_group {
    char label[KD_REPORT_LABEL]; /* without the seed; "" = the sweep has seeds only */
    const kd_report_job *first;
    size_t n; /* children */
    struct kd_mean {
        size_t n; /* with a figure */
        double mean, lo, hi;
    } val, test,
        difference; /* of the student; student minus twin on the test or validation split */
    bool has_best;
} kd_group;
/* Groups in order of their first child; caller frees. NULL when there are none. */
kd_group *kd_report_groups(const kd_report *r, int sweep, size_t *out_n);

#endif

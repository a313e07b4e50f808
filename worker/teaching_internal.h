/* What teaching.c (memory, bank, teachers of ours) and teaching_outside.c share. */
#ifndef KD_WORKER_TEACHING_INTERNAL_H
#define KD_WORKER_TEACHING_INTERNAL_H

#include "teaching.h"

/* One place of the step's batch and the sample whose logits it wants. */
struct place {
    uint32_t sample, view;
    size_t row;
};

/* Requests to a teacher outside. */
struct requests {
    size_t most, n, views; /* views: of one, at most; 0 = no teacher is outside */
    uint32_t *pairs;       /* [most][views][2] */
    size_t *counts;        /* [most] */
    float *logits;         /* [most][views][classes] */
    bool *answered;        /* [max_rows] pairs */
};

struct kd_teaching {
    kd_teaching_config cfg;
    size_t classes, record, n_train, n_clean;
    uint32_t slot_batch;
    int n_teachers;
    size_t max_rows;
    float *rows;        /* [slots*slot_batch][classes] of this step */
    struct place *want; /* [max_rows] places without logits, sorted */
    size_t n_want;
    kd_place *places; /* [slot_batch] */
    uint32_t *pairs;  /* [max_rows][2] each wanted sample and view once, sorted */
    size_t n_pairs;
    float *answers[KD_MAX_TEACHERS]; /* [max_rows][classes] for the pairs */
    float *joined;                   /* [max_rows][classes] */
    bool *have;                      /* [max_rows] of the teacher that is asked */
    uint32_t *asked;                 /* [max_rows] numbers of pairs */
    uint32_t *request;               /* [max_rows][2] */
    uint8_t *records;                /* [max_rows][record] */
    float *kept;                     /* [kept_views][n_train][classes] */
    bool *kept_have;                 /* [kept_views][n_train] */
    uint32_t kept_views;
    float *clean;     /* [n_clean][classes], samples from n_train on, joined as the loss wants */
    float *plain;     /* the same joined at temperature 1; clean itself where that is the same */
    bool *clean_have; /* [n_clean] */
    struct requests requests;
    struct {
        uint64_t step;
        uint32_t first, count; /* slots whose places the pairs are of; 0 = clean pictures */
    } from;
    int teacher;     /* that runs on the pool */
    bool not_stored; /* the bank took no logits; said once */
    bool bank_full;  /* it had all that it was asked for last */
    int failed;      /* there */
    kd_diag diag;
};

/* ---- teaching.c */
/* Takes from a bank what it has of the pairs without answers. patient: until it says. */
int kd_teaching_from_bank(kd_teaching *t, const kd_stage_ref *ref, int teacher, bool clean,
                          bool patient, kd_diag *diag) KD_MUST_CHECK;

/* ---- teaching_outside.c */
bool kd_teaching_make_requests(kd_teaching *t); /* false: no memory */
/* Answers of a teacher outside to the pairs that its bank had none of, by way of the bank. A
 * failure that will not pass is a problem of the job: it is said, and -KD_ECANCELED returned. */
int kd_teaching_ask_outside(kd_teaching *t, const kd_stage_ref *ref, int teacher,
                            kd_diag *diag) KD_MUST_CHECK;

#endif

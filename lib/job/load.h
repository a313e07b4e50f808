/* What the loader's files share; private to lib/job. load.c finds the row of every key and fills
 * its field, value.c reads one scalar, check.c holds the rules between keys. Threads: a loader
 * belongs to one thread. */
#ifndef KD_JOB_LOAD_H
#define KD_JOB_LOAD_H

#include "schema.h"

typedef struct kd_loader {
    kd_tree *tree;
    kd_diag *diag;
    /* Node that gives each row its value, 0 = not written. Rows below `teacher` have one for each
     * teacher, the others are at [0]. */
    int at[KD_MAX_TEACHERS][KD_KEYS_MAX];
    int inst;    /* the teacher that is looked at */
    bool listed; /* teachers are written as a list, so messages number them */
    kd_job job;
} kd_loader;

/* Where the row is written, for the teacher that is looked at. */
int *kd_load_at(kd_loader *l, int row);
/* The node to point at for a complaint about key: its own, else that of the nearest mapping around
 * it that is written. */
int kd_load_node(kd_loader *l, const char *key);
/* "FILE:LINE:COLUMN: key: ..."; a key below `teacher` gets its number. Returns -KD_EINVAL. */
int kd_load_bad(kd_loader *l, int node, const char *key, const char *fmt, ...) KD_PRINTF(4, 5);
/* "expected ..., found ...". `key` is shown, `k` says what was expected. */
int kd_load_bad_value(kd_loader *l, int node, const char *key, const kd_key *k);

/* kd_job_load, which also tells whether teachers are written as a list. */
int kd_load_job(const char *text, size_t len, const char *file, const char *const *sets, int n_sets,
                kd_job *out, bool *out_listed, kd_diag *diag) KD_MUST_CHECK;

/* ---- value.c */
/* Reads one scalar (NUL-terminated, len bytes) into the row's field. quoted: not a plain scalar, so
 * never a number. False: not a value of this row. */
bool kd_value_store(char *field, const kd_key *k, const char *s, size_t len, bool quoted);
/* A node that is a plain scalar holding a whole number of the row's range. */
bool kd_value_int(const yaml_node_t *n, const kd_key *k, int *out);
/* Stores a node if it is a scalar that fits the row. */
bool kd_value_node(char *field, const kd_key *k, const yaml_node_t *n);

/* ---- check.c */
/* What no key says: the losses of teachers and twin, seeds that follow another. */
void kd_load_derive(kd_job *job);
/* Rules between keys. */
int kd_load_check(kd_loader *l);

#endif

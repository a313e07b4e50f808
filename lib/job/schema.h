/* The schema table of the job file and libyaml's document tree under it; private to lib/job.
 *
 * One row a key. Loading, defaults, the resolved JSON, error texts and `distill help job` all read
 * these rows, so a key that is added here is known everywhere. Threads: the table is constant; a
 * tree belongs to one thread. */
#ifndef KD_JOB_SCHEMA_H
#define KD_JOB_SCHEMA_H

#include "job/job.h"

#include <yaml.h>

enum kd_key_type {
    KD_KEY_MAP,      /* keys below it */
    KD_KEY_NAME,     /* char[KD_JOB_NAME], [A-Za-z0-9._-] */
    KD_KEY_PATH,     /* char[KD_JOB_PATH], relative, no ".." */
    KD_KEY_FILE,     /* char[KD_JOB_PATH], any local path */
    KD_KEY_ADDRESS,  /* char[KD_JOB_PATH], HOST:PORT */
    KD_KEY_DIGEST,   /* char[33], 32 hex digits */
    KD_KEY_WORD,     /* char[KD_JOB_WORD], one of choices */
    KD_KEY_CHOICE,   /* enum, number of the choice */
    KD_KEY_FLAG,     /* bool, true = second of two choices */
    KD_KEY_BOOL,     /* bool */
    KD_KEY_INT,      /* int, lo..hi */
    KD_KEY_SEED,     /* uint64_t, 0..2^63-1 (what JSON integers hold in every reader) */
    KD_KEY_REAL,     /* double, lo..hi */
    KD_KEY_INTS,     /* int[8] and a count after it, each lo..hi */
    KD_KEY_VIEWS,    /* int, "fresh" = 0 */
    KD_KEY_EDGE,     /* int, "same" = -1, "valid" = 0, or lo..hi */
    KD_KEY_AUGMENT,  /* kd_augment_spec from a list; items.h has the tables of these four */
    KD_KEY_LAYERS,   /* kd_layer_spec[KD_MAX_LAYERS] and a count after it */
    KD_KEY_COMPRESS, /* kd_compress_spec[KD_MAX_COMPRESS] and a count after it */
    KD_KEY_EXPORT,   /* export_onnx and onnx_opset */
    KD_KEY_SWEEP     /* matrix and seeds: sweep.c reads them, a job is one child */
};

enum {
    KD_KEY_REQUIRED = 1, /* wherever the mapping around it is there */
    KD_KEY_LO_OPEN = 2,  /* lo itself is out of range */
    KD_KEY_HI_OPEN = 4,
    KD_KEY_OPTIONAL = 8, /* mapping may be absent: the byte at `at` is then 0 */
    KD_KEY_STORED = 16,  /* its presence is stored as a bool at `at` */
    KD_KEY_IMPLIES = 32, /* written without the sibling in `only`, it chooses that for it */
    KD_KEY_ALIAS = 64    /* another way to write a row's value; never printed */
};

typedef struct kd_key {
    const char *key; /* dotted */
    enum kd_key_type type;
    unsigned flags;
    double lo, hi;
    const char *choices; /* "a|b|c" in the order of the enum */
    const char *def;     /* as written in a file; "=other.key" copies; NULL = none */
    const char *only;    /* "sibling=a|b": key exists only then, its field is zero otherwise */
    const char *meaning;
    size_t at; /* offset in kd_job; of the first teacher for rows that all teachers have */
} kd_key;

#define KD_KEYS_MAX 256
extern const kd_key kd_schema[];
extern const int kd_schema_count;

#define KD_INTS_MAX 8 /* numbers of a KD_KEY_INTS */

/* Row of the first len characters of key, -1 = unknown. */
int kd_schema_find(const char *key, size_t len);
/* Row of the mapping around row, -1 = the file itself. */
int kd_schema_parent(int row);
/* "a whole number from 1 to 65536" */
void kd_schema_expected(const kd_key *k, char *out, size_t size);
/* Type and range in few words; empty where the default or the meaning tells. */
void kd_schema_value(const kd_key *k, char *out, size_t size);
/* What it is without being written: "required", "0.9", "as distill.epochs"; "" for a mapping. */
void kd_schema_default(const kd_key *k, char *out, size_t size);
/* The optimizer that `distill help job` prints; it refers to it for the others, whose keys, ranges
 * and defaults are the same. */
#define KD_HELP_OPTIMIZER "distill.optimizer"
/* Number of word in choices, -1 = none of them. */
int kd_schema_choice(const char *choices, const char *word);
/* Copies choice number n; false past the last one. */
bool kd_schema_choice_text(const char *choices, int n, char *out, size_t size);
/* Bytes of a row's field; 0 for rows that have none of fixed size. */
size_t kd_schema_size(const kd_key *k);
/* The mapping that may also be a list of such mappings, one for each teacher. */
#define KD_SCHEMA_EACH "teacher"
/* True for it and the rows below it: the job has their fields once for each teacher. */
bool kd_schema_each(const kd_key *k);
/* The row's field; inst is the number of the teacher, for rows that have one each. */
char *kd_schema_field(kd_job *job, const kd_key *k, int inst);
const char *kd_schema_const_field(const kd_job *job, const kd_key *k, int inst);
/* Row of the sibling that the row's `only` names. */
int kd_schema_sibling(const kd_key *k);
/* False if the row's `only` does not hold for this job. */
bool kd_schema_applies(const kd_key *k, const kd_job *job, int inst);
/* Edit distance (insert, delete, replace, swap of neighbours; Damerau 1964) of words of up to 63
 * characters; longer ones are compared by their first 63. */
int kd_schema_distance(const char *a, const char *b);

/* ---- tree.c */
#define KD_TREE_TEXT (256u << 10)
#define KD_TREE_NESTING 16
#define KD_TREE_NODES 10000
#define KD_TREE_SETS 64
#define KD_TREE_SET_TEXT 4096

typedef struct kd_tree {
    yaml_document_t doc; /* node numbers start at 1; root is 1 */
    const char *file;    /* borrowed, as are sets */
    const char *const *sets;
    uint8_t from_set[KD_TREE_NODES + 1]; /* number of the override + 1 that made a node; 0 = file */
} kd_tree;

/* Parses text, refuses what a job may not hold and applies the overrides. Caller frees. */
int kd_tree_new(const char *text, size_t len, const char *file, const char *const *sets, int n_sets,
                kd_tree **out, kd_diag *diag) KD_MUST_CHECK;
void kd_tree_free(kd_tree *t);
/* Borrowed until kd_tree_free. */
const yaml_node_t *kd_tree_node(kd_tree *t, int node);
/* Node of a mapping's value, 0 = no such key. */
int kd_tree_find(kd_tree *t, int map, const char *key);
/* An absent value: plain and empty, `~` or `null`. */
bool kd_tree_is_null(const yaml_node_t *n);
/* "FILE:LINE:COLUMN: key: ..." or "--set a.b=c: key: ..."; node 0 = no position. Returns code. */
int kd_tree_fail(kd_tree *t, int node, const char *key, kd_diag *diag, int code, const char *fmt,
                 ...) KD_PRINTF(6, 7);
/* Bytes of text for a message: control characters as '?', cut at a character. */
#define KD_SHOWN 64
const char *kd_tree_shown(const char *text, size_t len, char out[KD_SHOWN]);

#endif

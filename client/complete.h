/* What a command line that is being typed could go on with, for the completions of shells.
 *
 * The flags and operands are those of the table of verbs; what a value is, its name in the usage
 * line tells. Ids come from the coordinator that the line names, within two seconds; without one
 * there are none. Threads: the main thread. */
#ifndef KD_CLI_COMPLETE_H
#define KD_CLI_COMPLETE_H

#include "cli.h"
#include "kd/buf.h"

/* What is typed next is one of ... */
enum kd_complete {
    KD_COMPLETE_NOTHING, /* that is known */
    KD_COMPLETE_WORDS,   /* kd_wanted.words */
    KD_COMPLETE_FILES,
    KD_COMPLETE_FOLDERS,
    KD_COMPLETE_VERBS,
    KD_COMPLETE_TOPICS, /* of `distill help` */
    KD_COMPLETE_FORMATS,
    KD_COMPLETE_KEYS,     /* of the job file */
    KD_COMPLETE_SETTINGS, /* a key and `=` */
    KD_COMPLETE_RULES,    /* of retention */
    KD_COMPLETE_LIMITS,   /* a rule and `=` */
    KD_COMPLETE_CONTEXTS,
    KD_COMPLETE_JOBS,
    KD_COMPLETE_SWEEPS,
    KD_COMPLETE_WORKERS,
    KD_COMPLETE_BANKS,
    KD_COMPLETE_TOKENS, /* that are open */
    KD_COMPLETE_PEOPLE  /* names and serial numbers of certificates */
};
typedef struct kd_wanted {
    enum kd_complete what;
    const char *words; /* parted by blanks or bars */
    const kd_verb *verb;
} kd_wanted;

/* Candidates for one word. */
typedef struct kd_candidates {
    kd_buf lines;
    char lead[64];     /* stands before each: `--state=` */
    const char *typed; /* what each begins with */
} kd_candidates;

/* words [n]: what stands behind `distill`, the last one as far as it is typed. Appends a line for
 * each candidate to out, an initialised buffer: VALUE, or VALUE TAB DESCRIPTION. `:files` and
 * `:folders` stand for those of the file system. */
void kd_complete_line(const char *const *words, int n, kd_buf *out);

/* ---- for complete.c */
/* Adds what `wanted` is, as far as it fits. connection: the global flags of the line. */
void kd_complete_values(kd_candidates *c, const kd_wanted *wanted, const kd_args *connection);
/* Adds one if it fits. description: NULL = none; it is cleaned and cut. */
void kd_complete_add(kd_candidates *c, const char *value, const char *description);

#endif

/* Flags and operands of one verb.
 *
 * Accepted: --name value, --name=value, -x value, -xvalue, -xy (switches), `--` (operands only from
 * here), `-` (an operand). Flags and operands may be mixed. A flag of the verb hides a global one
 * of the same name. An unknown flag is refused with the nearest one that exists. Threads: plain
 * data; values point into argv. */
#ifndef KD_CLI_ARGS_H
#define KD_CLI_ARGS_H

#include "kd/err.h"

typedef struct kd_opt {
    const char *name; /* without the dashes */
    char letter;      /* 0 = none */
    const char *meta; /* what the value is called; NULL = a switch */
    const char *help;
} kd_opt;

typedef struct kd_arg {
    const kd_opt *opt;
    const char *value; /* NULL for a switch */
} kd_arg;

typedef struct kd_args {
    kd_arg *flags; /* in the order given */
    int n_flags;
    const char **operands;
    int n_operands;
} kd_args;

/* The flag of opts [n] with that name [len] or letter; NULL = none. */
const kd_opt *kd_opt_long(const kd_opt *opts, int n, const char *name, size_t len);
const kd_opt *kd_opt_letter(const kd_opt *opts, int n, char letter);

/* opts: the verb's (may be NULL), then the global ones. -KD_EINVAL: diag says what is wrong, and
 * `hint` [hint_len] what was meant, "" if nothing is near. Free with kd_args_clear in any case. */
int kd_args_parse(const kd_opt *opts, int n_opts, const kd_opt *global, int n_global, int argc,
                  char **argv, kd_args *out, char *hint, size_t hint_len,
                  kd_diag *diag) KD_MUST_CHECK;
void kd_args_clear(kd_args *a);

bool kd_args_has(const kd_args *a, const char *name);
/* Last value given, NULL if none. */
const char *kd_args_value(const kd_args *a, const char *name);
/* All values in order into out [max]; returns how many there are, which may be more than max. */
int kd_args_values(const kd_args *a, const char *name, const char **out, int max);
/* Whole number in [min, max]; `fallback` when the flag is absent. */
int kd_args_u64(const kd_args *a, const char *name, uint64_t min, uint64_t max, uint64_t fallback,
                uint64_t *out, kd_diag *diag) KD_MUST_CHECK;
/* Seconds from a duration; -1 when the flag is absent. */
int kd_args_duration(const kd_args *a, const char *name, double *out, kd_diag *diag) KD_MUST_CHECK;

/* Nearest of names to word by edit distance with transposition (Damerau, restricted), NULL when
 * none is near enough to be a likely slip: at most a third of the longer word, and at least one
 * letter. */
const char *kd_args_nearest(const char *word, const char *const *names, int n);
int kd_args_distance(const char *a, const char *b);

/* host:port for gRPC from what a person wrote: a missing port becomes 7070, a bare IPv6 address
 * gets its brackets. */
int kd_args_server(const char *text, char *out, size_t out_len, kd_diag *diag) KD_MUST_CHECK;

#endif

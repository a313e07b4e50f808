/* What every verb of the `distill` command shares: exit codes, the settings of one run, signals.
 *
 * One process runs one verb: main parses the words, fills a kd_cli, calls the verb's `run` and
 * returns what that returned. Data goes to standard output, talk (progress, hints, errors) to
 * standard error. A function that returns "an exit code" has printed its message already.
 *
 * Threads: everything in client/ runs on the main thread, but the stream callbacks in follow.c. */
#ifndef KD_CLI_H
#define KD_CLI_H

#include "args.h"
#include "kd/err.h"

/* Stable: scripts depend on them. `distill help exit-codes` prints kd_exit_codes. */
enum kd_exit {
    KD_EXIT_OK = 0,
    KD_EXIT_FAILURE = 1,
    KD_EXIT_USAGE = 2,
    KD_EXIT_NO_JOB = 3,
    KD_EXIT_AUTH = 4,
    KD_EXIT_CONFLICT = 5,
    KD_EXIT_JOB_FAILED = 7,
    KD_EXIT_JOB_CANCELLED = 8,
    KD_EXIT_DIFFERENT = 9,
    KD_EXIT_UNREACHABLE = 69,
    KD_EXIT_TEMPORARY = 75,
    KD_EXIT_CONFIG = 78,
    KD_EXIT_TIMEOUT = 124,
    KD_EXIT_INTERRUPTED = 130
};
typedef struct kd_exit_row {
    int code;
    const char *meaning;
} kd_exit_row;
extern const kd_exit_row kd_exit_codes[];
extern const int kd_n_exit_codes;

#define KD_CLI_DEFAULT_SERVER "127.0.0.1:7070"
#define KD_CLI_SERVER_MAX 300

/* What -o asks for. Verbs that list take all of them (list.h), the others table, json and jsonl. */
enum kd_format {
    KD_FORMAT_TABLE,
    KD_FORMAT_WIDE,
    KD_FORMAT_JSON,
    KD_FORMAT_JSONL,
    KD_FORMAT_CSV,
    KD_FORMAT_NAME
};

/* The settings of one run. */
typedef struct kd_cli {
    char server[KD_CLI_SERVER_MAX]; /* host:port */
    /* " --server host:port" or " --context name" if it was a flag, else "" */
    char server_flag[KD_CLI_SERVER_MAX + 16];
    char context[64];          /* the run's, see contexts.h; "" = none */
    char context_problem[256]; /* it is not there; settings.h */
    char credentials[4096];    /* folder of the login, see login/login.h */
    bool credentials_chosen;   /* by flag or environment */
    bool insecure;             /* plain text, also to other machines */
    enum kd_format format;     /* a verb with an `output` flag of its own reads that itself */
    bool json;                 /* json or jsonl */
    bool tty_out, tty_err;     /* a terminal that understands control sequences */
    bool color_out, color_err; /* likewise, and neither NO_COLOR nor --no-color */
    bool utf8;                 /* the terminal's character set */
    bool throwaway; /* the cluster goes when this command does: no word on how to come back */
    struct {
        const char *server, *context, *credentials, *insecure, *color;
    } from; /* where they come from, in words */
} kd_cli;

/* One verb: its row in the table of main.c. */
typedef struct kd_verb {
    const char *name;
    const char *operands; /* as the usage line shows them, "" = none */
    const char *summary;  /* one line for `distill help` */
    const char *help;     /* further paragraphs for `distill help VERB`, may be NULL */
    const kd_opt *opts;
    int n_opts;
    int min_operands, max_operands;               /* -1 = any number */
    bool lists;                                   /* takes every format of -o */
    int (*run)(kd_cli *cli, const kd_args *args); /* returns an exit code */
} kd_verb;

extern const kd_verb kd_verb_submit, kd_verb_jobs, kd_verb_show, kd_verb_watch, kd_verb_logs,
    kd_verb_events, kd_verb_wait, kd_verb_cancel, kd_verb_rm, kd_verb_workers, kd_verb_fetch,
    kd_verb_data, kd_verb_version, kd_verb_help, kd_verb_report, kd_verb_continue, kd_verb_replay,
    kd_verb_predict, kd_verb_pause, kd_verb_resume, kd_verb_scale, kd_verb_drain, kd_verb_verify,
    kd_verb_explain, kd_verb_completion, kd_verb_retry, kd_verb_inspect, kd_verb_evaluate,
    kd_verb_bench, kd_verb_quantize, kd_verb_export, kd_verb_login, kd_verb_whoami, kd_verb_token,
    kd_verb_certificates, kd_verb_revoke, kd_verb_audit, kd_verb_context, kd_verb_config,
    kd_verb_local, kd_verb_run, kd_verb_init, kd_verb_cluster, kd_verb_serve, kd_verb_bank,
    kd_verb_checkpoint, kd_verb_retention, kd_verb_estimate;
/* Verbs that run networks on the engine. */
bool kd_verb_computes(const char *name);
extern const kd_verb *const kd_verbs[]; /* in the order of `distill help` */
extern const int kd_n_verbs;
const kd_verb *kd_verb_find(const char *name); /* NULL if there is none */
extern const kd_opt kd_global_opts[];
extern const int kd_n_global_opts;

/* The word of argv that names the verb, NULL if there is none. */
const char *kd_cli_verb_word(int argc, char **argv);
/* Flags and operands of the whole command, and the settings of the global flags. KD_EXIT_OK: run
 * *out_verb with *out_args. Another exit code: what is wrong has been said. Free *out_args with
 * kd_args_clear in any case; its values point into argv. */
int kd_cli_parse(kd_cli *cli, int argc, char **argv, const kd_verb **out_verb,
                 kd_args *out_args) KD_MUST_CHECK;
/* For what prints one thing rather than a list: refuses the formats that lists alone have. Returns
 * an exit code. */
int kd_cli_no_list(const kd_cli *cli, const char *what) KD_MUST_CHECK;
/* Runs the whole command; what main returns. */
int kd_cli_main(int argc, char **argv);

/* ---- signals. INT, TERM and HUP set a flag the first time and kill the second time. */
void kd_cli_catch_signals(void);
/* From now on they kill no more: somebody who is cleaning up looks at how many have come. */
void kd_cli_outlive_signals(void);
int kd_cli_signals(void);
/* From now on the end of a child process counts as a signal, too: SIGCHLD. */
void kd_cli_catch_child(void);
/* The signal that came, 0 if none. */
int kd_cli_signal(void);
/* A signal has ended the wait, and somebody is there to be told how to come back: not after a
 * hang-up, and not where the cluster goes as well. */
bool kd_cli_comes_back(const kd_cli *cli);
/* 130 for INT, 143 for TERM, ... */
int kd_cli_signal_exit(void);

#endif

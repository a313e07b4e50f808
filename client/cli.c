/* The table of verbs, the global flags, and what happens around every verb. */
#include "cli.h"

#include "args.h"
#include "kd/log.h"
#include "output.h"
#include "settings.h"

#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const kd_exit_row kd_exit_codes[] = {
    {KD_EXIT_OK, "success; with --wait, --watch, wait and watch: the job succeeded"},
    {KD_EXIT_FAILURE, "general failure; verify: a digest differs"},
    {KD_EXIT_USAGE, "usage error: unknown verb or flag, missing or impossible value"},
    {KD_EXIT_NO_JOB, "no such job, no such artefact of it, or no such worker"},
    {KD_EXIT_AUTH, "authentication or authorization"},
    {KD_EXIT_CONFLICT, "conflict or wrong state: already finished, key reused with another job"},
    {KD_EXIT_JOB_FAILED, "the job failed (with --wait, --watch, wait and watch)"},
    {KD_EXIT_JOB_CANCELLED, "the job was cancelled (likewise)"},
    {KD_EXIT_DIFFERENT, "replay: a stage came out with another digest"},
    {KD_EXIT_UNREACHABLE, "coordinator unreachable"},
    {KD_EXIT_TEMPORARY, "temporary trouble of the coordinator; the same command may work later"},
    {KD_EXIT_CONFIG, "bad configuration: the job file or a file it names"},
    {KD_EXIT_TIMEOUT, "--timeout reached; the job goes on"},
    {KD_EXIT_INTERRUPTED, "interrupted by Ctrl-C; the job goes on (other signals: 128 + number)"},
};
const int kd_n_exit_codes = KD_COUNT(kd_exit_codes);

const kd_verb *const kd_verbs[] = {
    &kd_verb_init,       &kd_verb_run,          &kd_verb_local,     &kd_verb_submit,
    &kd_verb_estimate,   &kd_verb_jobs,         &kd_verb_show,      &kd_verb_watch,
    &kd_verb_logs,       &kd_verb_events,       &kd_verb_wait,      &kd_verb_pause,
    &kd_verb_resume,     &kd_verb_scale,        &kd_verb_cancel,    &kd_verb_rm,
    &kd_verb_fetch,      &kd_verb_report,       &kd_verb_continue,  &kd_verb_retry,
    &kd_verb_replay,     &kd_verb_verify,       &kd_verb_predict,   &kd_verb_evaluate,
    &kd_verb_bench,      &kd_verb_serve,        &kd_verb_inspect,   &kd_verb_quantize,
    &kd_verb_export,     &kd_verb_workers,      &kd_verb_cluster,   &kd_verb_drain,
    &kd_verb_login,      &kd_verb_context,      &kd_verb_config,    &kd_verb_whoami,
    &kd_verb_token,      &kd_verb_certificates, &kd_verb_revoke,    &kd_verb_audit,
    &kd_verb_checkpoint, &kd_verb_bank,         &kd_verb_retention, &kd_verb_data,
    &kd_verb_explain,    &kd_verb_completion,   &kd_verb_version,   &kd_verb_help,
};
const int kd_n_verbs = KD_COUNT(kd_verbs);

const kd_opt kd_global_opts[] = {
    {"server", 0, "HOST:PORT",
     "the coordinator; else DISTILL_SERVER, else that of the context or of `distill login`, "
     "else " KD_CLI_DEFAULT_SERVER},
    {"context", 0, "NAME",
     "the cluster of that name; else DISTILL_CONTEXT, else that of `distill context use`"},
    {"credentials", 0, "DIR",
     "certificate and key; else DISTILL_CREDENTIALS, else those of the context"},
    {"insecure", 0, NULL, "plain text, also to other machines (so does DISTILL_INSECURE=1)"},
    {"output", 'o', "FORMAT",
     "table, or json for programs, jsonl on one line; lists also as wide, csv or name"},
    {"no-color", 0, NULL, "no colours (so does NO_COLOR in the environment)"},
    {"help", 'h', NULL, "show the help of the verb"},
};
const int kd_n_global_opts = KD_COUNT(kd_global_opts);

/* Mutable globals are allowed for signals only: the flag and what a handler must know. */
static volatile sig_atomic_t g_signal, g_signals;

const kd_verb *kd_verb_find(const char *name)
{
    for (int i = 0; i < kd_n_verbs; i++)
        if (strcmp(kd_verbs[i]->name, name) == 0)
            return kd_verbs[i];
    return NULL;
}

bool kd_verb_computes(const char *name)
{
    static const kd_verb *const verbs[] = {&kd_verb_predict,  &kd_verb_evaluate, &kd_verb_bench,
                                           &kd_verb_quantize, &kd_verb_export,   &kd_verb_serve};
    for (size_t i = 0; i < KD_COUNT(verbs); i++)
        if (strcmp(verbs[i]->name, name) == 0)
            return true;
    return false;
}

static void on_signal(int number)
{
    g_signal = number;
    g_signals++;
}

static void catch_signals(int flags)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < KD_COUNT(numbers); i++) {
        struct sigaction old;
        /* A signal that our parent had us ignore (nohup) stays ignored. */
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN)
            continue;
        struct sigaction sa = {.sa_handler = on_signal, .sa_flags = flags};
        sigemptyset(&sa.sa_mask);
        sigaction(numbers[i], &sa, NULL);
    }
}

void kd_cli_catch_signals(void)
{
    catch_signals((int)SA_RESETHAND);
}

void kd_cli_outlive_signals(void)
{
    catch_signals(0);
}

int kd_cli_signals(void)
{
    return g_signals;
}

static void on_child(int number)
{
    if (g_signal == 0)
        g_signal = number;
}

void kd_cli_catch_child(void)
{
    sigaction(SIGCHLD, &(struct sigaction){.sa_handler = on_child, .sa_flags = SA_NOCLDSTOP}, NULL);
}

int kd_cli_signal(void)
{
    return g_signal;
}

bool kd_cli_comes_back(const kd_cli *cli)
{
    return g_signal != 0 && g_signal != SIGHUP && !cli->throwaway;
}

int kd_cli_signal_exit(void)
{
    return 128 + g_signal;
}

/* A descriptor 0, 1 or 2 that is closed would be taken by the next socket, and talk would go to the
 * coordinator. Writing to the stand-in for 1 fails, as writing to a closed one does. */
static void occupy_std(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            (void)!open("/dev/null", fd == 2 ? O_WRONLY : O_RDONLY);
}

static bool smart_terminal(int fd)
{
    const char *term = getenv("TERM");
    return isatty(fd) && (!term || strcmp(term, "dumb") != 0);
}

static void look_around(kd_cli *cli)
{
    const char *no_color = getenv("NO_COLOR");
    bool color = !no_color || !*no_color;
    /* Characters only: figures keep the point whatever the country. */
    setlocale(LC_CTYPE, "");
    cli->utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    cli->tty_out = smart_terminal(STDOUT_FILENO);
    cli->tty_err = smart_terminal(STDERR_FILENO);
    cli->from.color = color ? "the terminal" : "NO_COLOR";
    cli->color_out = cli->tty_out && color;
    cli->color_err = cli->tty_err && color;
}

static const char *const g_formats[] = {
    [KD_FORMAT_TABLE] = "table", [KD_FORMAT_WIDE] = "wide", [KD_FORMAT_JSON] = "json",
    [KD_FORMAT_JSONL] = "jsonl", [KD_FORMAT_CSV] = "csv",   [KD_FORMAT_NAME] = "name",
};

static bool makes_file(const kd_verb *verb)
{
    for (int i = 0; i < verb->n_opts; i++)
        if (verb->opts[i].letter == 'O')
            return true;
    return false;
}

/* Returns an exit code. */
static int apply_format(kd_cli *cli, const kd_verb *verb, const char *word)
{
    for (int i = 0; i < verb->n_opts; i++)
        if (strcmp(verb->opts[i].name, "output") == 0)
            return KD_EXIT_OK;
    size_t f = 0;
    while (word && f < KD_COUNT(g_formats) && strcmp(word, g_formats[f]) != 0)
        f++;
    if (f == KD_COUNT(g_formats)) {
        char hint[96];
        snprintf(hint, sizeof hint, "-o %s%s",
                 verb->lists ? "table, wide, json, jsonl, csv or name" : "table, json or jsonl",
                 makes_file(verb) ? "; -O names the file" : "");
        return kd_usage(cli, NULL, hint, "unknown output format \"%s\"", word);
    }
    cli->format = (enum kd_format)f;
    cli->json = f == KD_FORMAT_JSON || f == KD_FORMAT_JSONL;
    return verb->lists ? KD_EXIT_OK : kd_cli_no_list(cli, verb->name);
}

int kd_cli_no_list(const kd_cli *cli, const char *what)
{
    if (cli->format == KD_FORMAT_TABLE || cli->json)
        return KD_EXIT_OK;
    return kd_usage(cli, NULL, "-o table, json or jsonl", "%s prints no list: it has no -o %s",
                    what, g_formats[cli->format]);
}

/* Settings from flags and environment. Returns an exit code. */
static int apply_globals(kd_cli *cli, const kd_verb *verb, const kd_args *args)
{
    int rc = kd_settings_read(cli, args);
    return rc == KD_EXIT_OK ? apply_format(cli, verb, kd_args_value(args, "output")) : rc;
}

/* Index in argv of the verb: the first word that is neither a global flag nor its value. argc if
 * none. */
static int find_verb(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *w = argv[i];
        if (w[0] != '-' || w[1] == '\0')
            return i;
        for (int k = 0; k < kd_n_global_opts; k++) {
            const kd_opt *o = &kd_global_opts[k];
            bool named =
                w[1] == '-' ? strcmp(w + 2, o->name) == 0 : o->letter && w[1] == o->letter && !w[2];
            i += named && o->meta;
        }
    }
    return argc;
}

const char *kd_cli_verb_word(int argc, char **argv)
{
    int at = find_verb(argc, argv);
    return at < argc ? argv[at] : NULL;
}

/* What other tools call it. */
static const char *usual_name(const char *word)
{
    static const char *const names[][2] = {
        {"list", "jobs"},   {"ls", "jobs"},       {"ps", "jobs"},      {"status", "show"},
        {"info", "show"},   {"start", "submit"},  {"train", "submit"}, {"stop", "cancel"},
        {"kill", "cancel"}, {"delete", "rm"},     {"remove", "rm"},    {"download", "fetch"},
        {"get", "fetch"},   {"nodes", "workers"}, {"tail", "logs"},
    };
    for (size_t i = 0; i < KD_COUNT(names); i++)
        if (strcmp(word, names[i][0]) == 0)
            return names[i][1];
    return NULL;
}

static int unknown_verb(const kd_cli *cli, const char *word)
{
    const char *names[64];
    int n = 0;
    for (; n < kd_n_verbs && n < (int)KD_COUNT(names); n++)
        names[n] = kd_verbs[n]->name;
    const char *near = usual_name(word);
    if (!near)
        near = kd_args_nearest(word, names, n);
    char hint[96] = "";
    if (near)
        snprintf(hint, sizeof hint, "did you mean `distill %s`?", near);
    return kd_usage(cli, NULL, hint, "unknown verb \"%s\"", word);
}

static int check_operands(const kd_cli *cli, const kd_verb *verb, const kd_args *args)
{
    char hint[160];
    snprintf(hint, sizeof hint, "usage: distill %s [flags]%s%s", verb->name,
             verb->operands[0] ? " " : "", verb->operands);
    if (args->n_operands < verb->min_operands)
        return kd_usage(cli, verb->name, hint, "%s needs %s", verb->name, verb->operands);
    if (verb->max_operands >= 0 && args->n_operands > verb->max_operands)
        return kd_usage(cli, verb->name, hint, "%s: unexpected argument \"%s\"", verb->name,
                        args->operands[verb->max_operands]);
    return KD_EXIT_OK;
}

/* `--help` and `--version` are verbs, too. */
static void ask_other(const char *name, const char *operand, const kd_verb **out_verb,
                      kd_args *out_args)
{
    kd_args_clear(out_args);
    out_args->operands = kd_xalloc(sizeof *out_args->operands);
    out_args->operands[0] = operand;
    out_args->n_operands = operand ? 1 : 0;
    *out_verb = kd_verb_find(name);
}

int kd_cli_parse(kd_cli *cli, int argc, char **argv, const kd_verb **out_verb, kd_args *out_args)
{
    int at = find_verb(argc, argv);
    const kd_verb *verb = at < argc ? kd_verb_find(argv[at]) : NULL;
    *out_args = (kd_args){0};
    if (at < argc && !verb)
        return unknown_verb(cli, argv[at]);
    if (!verb && argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)) {
        ask_other("version", NULL, out_verb, out_args);
        return KD_EXIT_OK;
    }

    /* What stands before the verb are global flags; take the verb's word out and parse the rest. */
    char **words = kd_xalloc((size_t)(argc + 1) * sizeof *words);
    int n = 0;
    for (int i = 1; i < argc; i++)
        if (i != at)
            words[n++] = argv[i];
    kd_diag diag = {0};
    char hint[96];
    int rc = kd_args_parse(verb ? verb->opts : NULL, verb ? verb->n_opts : 0, kd_global_opts,
                           kd_n_global_opts, n, words, out_args, hint, sizeof hint, &diag);
    free(words);
    if (rc != 0)
        return kd_usage(cli, verb ? verb->name : NULL, hint, "%s%s%s", verb ? verb->name : "",
                        verb ? ": " : "", diag.msg);
    if (kd_args_has(out_args, "help")) {
        ask_other("help", verb ? verb->name : NULL, out_verb, out_args);
        return KD_EXIT_OK;
    }
    if (!verb)
        return kd_usage(cli, NULL, NULL, "no verb was given");
    *out_verb = verb;
    rc = apply_globals(cli, verb, out_args);
    return rc == KD_EXIT_OK ? check_operands(cli, verb, out_args) : rc;
}

static int run_verb(kd_cli *cli, int argc, char **argv)
{
    const kd_verb *verb;
    kd_args args;
    int rc = kd_cli_parse(cli, argc, argv, &verb, &args);
    if (rc == KD_EXIT_OK)
        rc = verb->run(cli, &args);
    kd_args_clear(&args);
    return rc;
}

int kd_cli_main(int argc, char **argv)
{
    kd_cli cli = {0};
    occupy_std();
    /* A reader that goes away is noticed where output is written. */
    signal(SIGPIPE, SIG_IGN);
    kd_log_set_name("distill");
    /* What libraries have to say is for debugging only; verbs print their errors. */
    if (!getenv("KD_LOG"))
        kd_log_set_level(KD_LOG_ERR);
    look_around(&cli);
    int rc = run_verb(&cli, argc, argv);
    kd_live_clear(&cli);
    int written = kd_out_flush(&cli);
    return rc == KD_EXIT_OK ? written : rc;
}

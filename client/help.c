/* help: verbs, flags, exit codes, the job file's keys. */
#include "args.h"
#include "cli.h"
#include "format.h"
#include "job/job.h"
#include "output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_opts(const kd_cli *cli, const kd_opt *opts, int n)
{
    char left[64];
    for (int i = 0; i < n; i++) {
        snprintf(left, sizeof left, "%c%c%s --%s%s%s", opts[i].letter ? '-' : ' ',
                 opts[i].letter ? opts[i].letter : ' ', opts[i].letter ? "," : " ", opts[i].name,
                 opts[i].meta ? " " : "", opts[i].meta ? opts[i].meta : "");
        kd_out(cli, "  %-28s %s", left, opts[i].help);
    }
}

static void print_own(const kd_cli *cli, const kd_verb *v)
{
    kd_out(cli, "distill %s - %s", v->name, v->summary);
    kd_out(cli, "\nUsage: distill %s%s%s%s", v->name, v->n_opts ? " [flags]" : "",
           v->operands[0] ? " " : "", v->operands);
    if (v->help)
        kd_out(cli, "\n%s", v->help);
    if (v->n_opts) {
        kd_out(cli, "\nFlags:");
        print_opts(cli, v->opts, v->n_opts);
    }
}

static void print_verb(const kd_cli *cli, const kd_verb *v)
{
    print_own(cli, v);
    kd_out(cli, "\nGlobal flags:");
    print_opts(cli, kd_global_opts, kd_n_global_opts);
}

static void print_overview(const kd_cli *cli)
{
    kd_out(cli, "distill " KD_VERSION " - submits, watches and fetches distillation jobs\n\n"
                "Usage: distill VERB [flags] [operands]\n\nVerbs:");
    for (int i = 0; i < kd_n_verbs; i++)
        kd_out(cli, "  %-12s  %s", kd_verbs[i]->name, kd_verbs[i]->summary);
    kd_out(cli, "\nGlobal flags:");
    print_opts(cli, kd_global_opts, kd_n_global_opts);
    kd_out(cli, "\nMore: distill help VERB, help all, help job (the job file), help exit-codes.\n"
                "Data goes to standard output, talk to standard error. A job is named by its id,\n"
                "the first four or more digits of it, or its name where one job alone has it,\n"
                "or one alone of those that are not over.");
}

static int print_schema(const kd_cli *cli)
{
    char *text = NULL;
    if (kd_job_schema(&text) != 0) {
        kd_error(cli, "no memory for the table of keys");
        return KD_EXIT_FAILURE;
    }
    kd_out_text(cli, text);
    free(text);
    return KD_EXIT_OK;
}

static void print_exit_codes(const kd_cli *cli)
{
    for (int i = 0; i < kd_n_exit_codes; i++)
        kd_out(cli, "%4d  %s", kd_exit_codes[i].code, kd_exit_codes[i].meaning);
}

/* Everything but the job file, which is a text of its own; the man page is made of it. */
static void print_all(const kd_cli *cli)
{
    print_overview(cli);
    for (int i = 0; i < kd_n_verbs; i++) {
        kd_out(cli, "%s", "");
        print_own(cli, kd_verbs[i]);
    }
    kd_out(cli, "\nExit codes:");
    print_exit_codes(cli);
}

static int run(kd_cli *cli, const kd_args *args)
{
    const char *topic = args->n_operands ? args->operands[0] : NULL;
    if (!topic) {
        print_overview(cli);
        return KD_EXIT_OK;
    }
    if (strcmp(topic, "job") == 0)
        return print_schema(cli);
    const kd_verb *v = kd_verb_find(topic);
    if (strcmp(topic, "all") == 0) {
        print_all(cli);
    } else if (strcmp(topic, "exit-codes") == 0) {
        print_exit_codes(cli);
    } else if (v) {
        print_verb(cli, v);
    } else {
        const char *names[64] = {"job", "exit-codes", "all"};
        int n = 3;
        for (int i = 0; i < kd_n_verbs && n < (int)KD_COUNT(names); i++)
            names[n++] = kd_verbs[i]->name;
        const char *near = kd_args_nearest(topic, names, n);
        char hint[96] = "";
        if (near)
            snprintf(hint, sizeof hint, "did you mean `distill help %s`?", near);
        return kd_usage(cli, NULL, hint, "there is no help on \"%s\"", topic);
    }
    return KD_EXIT_OK;
}

const kd_verb kd_verb_help = {.name = "help",
                              .operands = "[VERB|all|job|exit-codes]",
                              .summary = "explain a verb, the job file or the exit codes",
                              .max_operands = 1,
                              .run = run};

/* completion: scripts for shells, made of the tables of verbs and flags; ids come live from the
 * coordinator. */
#include "args.h"
#include "cli.h"
#include "output.h"

#include "kd/buf.h"

#include <stdlib.h>
#include <string.h>

#define FORMATS "table wide json jsonl csv name"

/* What a verb's operands are, as the usage line calls them. */
enum operand { OPERAND_NONE, OPERAND_JOB, OPERAND_WORKER, OPERAND_CONTEXT, OPERAND_FILE };

static enum operand operand_of(const kd_verb *v)
{
    if (v == &kd_verb_context)
        return OPERAND_CONTEXT;
    if (strncmp(v->operands, "JOB.yaml", 8) == 0 || strstr(v->operands, "FILE") ||
        strstr(v->operands, "MODEL"))
        return OPERAND_FILE;
    if (strstr(v->operands, "JOB"))
        return OPERAND_JOB;
    return strstr(v->operands, "WORKER") ? OPERAND_WORKER : OPERAND_NONE;
}

static const char *ids_of(enum operand o)
{
    return o == OPERAND_JOB       ? "distill jobs -o name 2>/dev/null"
           : o == OPERAND_WORKER  ? "distill workers -o name 2>/dev/null"
           : o == OPERAND_CONTEXT ? "distill context ls -o name 2>/dev/null"
                                  : "";
}

/* The words that the first operand is one of, as "up down status"; "" = it is none of some words.
 * They stand in the usage line with bars between, in small letters. */
static const char *words_of(const kd_verb *v, char out[128])
{
    size_t n = strcspn(v->operands, " ");
    if (v->operands[0] < 'a' || v->operands[0] > 'z' || n >= 128 || strchr(v->operands, '/'))
        n = 0;
    for (size_t i = 0; i < n; i++)
        out[i] = v->operands[i] == '|' ? ' ' : v->operands[i];
    out[n] = '\0';
    return out;
}

static void flags_of(kd_buf *b, const kd_opt *opts, int n)
{
    for (int i = 0; i < n; i++)
        kd_buf_printf(b, " --%s", opts[i].name);
}

static void bash(kd_buf *b)
{
    kd_buf_str(b, "# bash completion of distill: source <(distill completion bash)\n"
                  "_distill() {\n"
                  "    local word=${COMP_WORDS[COMP_CWORD]} verb=${COMP_WORDS[1]} words=''\n"
                  "    if ((COMP_CWORD == 1)); then\n"
                  "        COMPREPLY=($(compgen -W '");
    for (int i = 0; i < kd_n_verbs; i++)
        kd_buf_printf(b, "%s%s", i ? " " : "", kd_verbs[i]->name);
    kd_buf_str(b, "' -- \"$word\"))\n        return\n    fi\n    if [[ $word == -* ]]; then\n"
                  "        case $verb in\n");
    for (int i = 0; i < kd_n_verbs; i++) {
        kd_buf_printf(b, "        %s) words='", kd_verbs[i]->name);
        flags_of(b, kd_verbs[i]->opts, kd_verbs[i]->n_opts);
        kd_buf_str(b, "' ;;\n");
    }
    kd_buf_str(b, "        esac\n        words+='");
    flags_of(b, kd_global_opts, kd_n_global_opts);
    kd_buf_str(b, "'\n"
                  "    elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == --context ]]; then\n"
                  "        words=$(distill context ls -o name 2>/dev/null)\n"
                  "    elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == @(-o|--output) ]]; then\n"
                  "        words='" FORMATS "'\n"
                  "    else\n        case $verb in\n");
    for (int i = 0; i < kd_n_verbs; i++) {
        const char *ids = ids_of(operand_of(kd_verbs[i]));
        char words[128];
        words_of(kd_verbs[i], words);
        if (words[0] && ids[0])
            kd_buf_printf(b, "        %s) ((COMP_CWORD == 2)) && words='%s' || words=$(%s) ;;\n",
                          kd_verbs[i]->name, words, ids);
        else if (words[0])
            kd_buf_printf(b, "        %s) ((COMP_CWORD == 2)) && words='%s' ;;\n",
                          kd_verbs[i]->name, words);
        else if (ids[0])
            kd_buf_printf(b, "        %s) words=$(%s) ;;\n", kd_verbs[i]->name, ids);
    }
    kd_buf_str(b, "        esac\n    fi\n"
                  "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n}\n"
                  "complete -o default -F _distill distill\n");
}

/* A text within single quotes of a shell; zsh's colons and brackets would end a description. */
static void quoted(kd_buf *b, const char *text, const char *also)
{
    for (; *text; text++) {
        if (*text == '\'')
            kd_buf_str(b, "'\\''");
        else if (strchr(also, *text))
            kd_buf_printf(b, "\\%c", *text);
        else
            kd_buf_printf(b, "%c", *text);
    }
}

static void zsh_flags(kd_buf *b, const kd_opt *opts, int n)
{
    for (int i = 0; i < n; i++) {
        kd_buf_printf(b, " \\\n            '--%s[", opts[i].name);
        quoted(b, opts[i].help, "[]:");
        const char *values = strcmp(opts[i].name, "context") == 0
                                 ? ":{_values context ${(f)\"$(distill context ls -o name)\"}}"
                             : opts[i].meta && strcmp(opts[i].meta, "FORMAT") == 0 ? ":(" FORMATS
                                                                                     ")"
                                                                                   : ":_files";
        kd_buf_printf(b, "]%s%s%s'", opts[i].meta ? ":" : "", opts[i].meta ? opts[i].meta : "",
                      opts[i].meta ? values : "");
    }
}

static void zsh(kd_buf *b)
{
    kd_buf_str(b, "#compdef distill\n"
                  "# zsh completion of distill: source <(distill completion zsh), after compinit\n"
                  "_distill() {\n    local -a verbs ids\n    verbs=(\n");
    for (int i = 0; i < kd_n_verbs; i++) {
        kd_buf_printf(b, "        '%s:", kd_verbs[i]->name);
        quoted(b, kd_verbs[i]->summary, ":");
        kd_buf_str(b, "'\n");
    }
    kd_buf_str(b, "    )\n    if ((CURRENT == 2)); then\n        _describe verb verbs\n"
                  "        return\n    fi\n    case $words[2] in\n");
    for (int i = 0; i < kd_n_verbs; i++) {
        enum operand o = operand_of(kd_verbs[i]);
        kd_buf_printf(b, "    %s)\n", kd_verbs[i]->name);
        char words[128];
        words_of(kd_verbs[i], words);
        if (ids_of(o)[0])
            kd_buf_printf(b, "        ids=(%s ${(f)\"$(%s)\"})\n", words, ids_of(o));
        else if (words[0])
            kd_buf_printf(b, "        ids=(%s)\n", words);
        kd_buf_str(b, "        shift words\n        ((CURRENT--))\n        _arguments");
        zsh_flags(b, kd_verbs[i]->opts, kd_verbs[i]->n_opts);
        zsh_flags(b, kd_global_opts, kd_n_global_opts);
        if (ids_of(o)[0] || words[0])
            kd_buf_str(b, " \\\n            '*:operand:($ids)'\n        ;;\n");
        else
            kd_buf_str(b, " \\\n            '*:operand:_files'\n        ;;\n");
    }
    kd_buf_str(b, "    esac\n}\ncompdef _distill distill\n");
}

static void fish_flags(kd_buf *b, const char *verb, const kd_opt *opts, int n)
{
    for (int i = 0; i < n; i++) {
        kd_buf_printf(b, "complete -c distill%s%s%s -l %s",
                      verb ? " -n '__fish_seen_subcommand_from " : "", verb ? verb : "",
                      verb ? "'" : "", opts[i].name);
        if (opts[i].letter)
            kd_buf_printf(b, " -s %c", opts[i].letter);
        kd_buf_str(b, opts[i].meta ? " -r" : "");
        if (strcmp(opts[i].name, "context") == 0)
            kd_buf_str(b, " -f -a '(distill context ls -o name 2>/dev/null)'");
        else if (opts[i].meta && strcmp(opts[i].meta, "FORMAT") == 0)
            kd_buf_str(b, " -f -a '" FORMATS "'");
        kd_buf_str(b, " -d '");
        quoted(b, opts[i].help, "");
        kd_buf_str(b, "'\n");
    }
}

static void fish(kd_buf *b)
{
    kd_buf_str(b, "# fish completion of distill: distill completion fish | source\n");
    for (int i = 0; i < kd_n_verbs; i++) {
        const kd_verb *v = kd_verbs[i];
        enum operand o = operand_of(v);
        kd_buf_printf(b, "complete -c distill -f -n __fish_use_subcommand -a %s -d '", v->name);
        quoted(b, v->summary, "");
        kd_buf_str(b, "'\n");
        char words[128];
        if (words_of(v, words)[0])
            kd_buf_printf(b, "complete -c distill -f -n '__fish_seen_subcommand_from %s' -a '%s'\n",
                          v->name, words);
        if (ids_of(o)[0])
            kd_buf_printf(b,
                          "complete -c distill -f -n '__fish_seen_subcommand_from %s' -a '(%s)'\n",
                          v->name, ids_of(o));
        fish_flags(b, v->name, v->opts, v->n_opts);
    }
    fish_flags(b, NULL, kd_global_opts, kd_n_global_opts);
}

static int run(kd_cli *cli, const kd_args *args)
{
    static const struct {
        const char *name;
        void (*print)(kd_buf *b);
    } shells[] = {{"bash", bash}, {"zsh", zsh}, {"fish", fish}};
    for (size_t i = 0; i < KD_COUNT(shells); i++) {
        if (strcmp(args->operands[0], shells[i].name) != 0)
            continue;
        kd_buf b;
        kd_buf_init(&b, 1u << 20);
        shells[i].print(&b);
        char *text = kd_buf_take(&b);
        if (!text) {
            kd_error(cli, "no memory for the script");
            return KD_EXIT_FAILURE;
        }
        kd_out_text(cli, text);
        free(text);
        return kd_out_flush(cli);
    }
    return kd_usage(cli, "completion", "one of bash, zsh, fish",
                    "there is no completion for \"%s\"", args->operands[0]);
}

const kd_verb kd_verb_completion = {
    .name = "completion",
    .operands = "SHELL",
    .summary = "print the completion script for bash, zsh or fish",
    .help = "For bash, in ~/.bashrc:  source <(distill completion bash)\n"
            "For zsh, in ~/.zshrc, after compinit:  source <(distill completion zsh)\n"
            "For fish:  distill completion fish > ~/.config/fish/completions/distill.fish\n"
            "Ids of jobs and names of workers are asked from the coordinator (DISTILL_SERVER).",
    .min_operands = 1,
    .max_operands = 1,
    .run = run};

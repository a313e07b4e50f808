/* completion: scripts for shells, which ask this program what could come next. */
#include "args.h"
#include "complete.h"
#include "output.h"

#include <stdlib.h>
#include <string.h>

#define MAX_TEXT (1u << 20)

/* bash parts words at `=` and `:`, and replaces only what stands behind the last of them. */
static const char g_bash[] =
    "# bash completion of distill: source <(distill completion bash)\n"
    "_distill() {\n"
    "    local i line value word lead=''\n"
    "    local -a words=()\n"
    "    COMPREPLY=()\n"
    "    for ((i = 1; i <= COMP_CWORD; i++)); do\n"
    "        word=${COMP_WORDS[i]}\n"
    "        if ((i > 1)) && [[ $word == [=:] || ${COMP_WORDS[i - 1]} == [=:] ]]; then\n"
    "            words[-1]+=$word\n"
    "        else\n"
    "            words+=(\"$word\")\n"
    "        fi\n"
    "    done\n"
    "    word=${words[-1]}\n"
    "    [[ $COMP_WORDBREAKS == *=* ]] && lead=${word%\"${word##*=}\"}\n"
    "    [[ $COMP_WORDBREAKS == *:* && $word == *:* && ${word%\"${word##*:}\"} == \"$lead\"* ]] "
    "&&\n"
    "        lead=${word%\"${word##*:}\"}\n"
    "    while IFS= read -r line; do\n"
    "        value=${line%%$'\\t'*}\n"
    "        case $value in\n"
    "        :files) compopt -o default ;;\n"
    "        :folders) compopt -o dirnames ;;\n"
    "        *)\n"
    "            [[ $value == *= ]] && compopt -o nospace\n"
    "            COMPREPLY+=(\"${value#\"$lead\"}\")\n"
    "            ;;\n"
    "        esac\n"
    "    done < <(distill completion words -- \"${words[@]}\" 2>/dev/null)\n"
    "}\n"
    "complete -F _distill distill\n";

static const char g_zsh[] =
    "#compdef distill\n"
    "# zsh completion of distill: source <(distill completion zsh), after compinit\n"
    "_distill() {\n"
    "    local line value\n"
    "    local -a found open\n"
    "    for line in \"${(@f)$(distill completion words -- \"${(@)words[2,CURRENT]}\" "
    "2>/dev/null)}\"; do\n"
    "        value=${line%%$'\\t'*}\n"
    "        case $value in\n"
    "        '') ;;\n"
    "        :files) compset -P '*='; _files ;;\n"
    "        :folders) compset -P '*='; _files -/ ;;\n"
    "        *=) open+=(\"$value\") ;;\n"
    "        $line) found+=(\"${value//:/\\\\:}\") ;;\n"
    "        *) found+=(\"${value//:/\\\\:}:${line#*$'\\t'}\") ;;\n"
    "        esac\n"
    "    done\n"
    "    (($#found)) && _describe distill found\n"
    "    (($#open)) && compadd -S '' -a open\n"
    "}\n"
    "compdef _distill distill\n";

static const char g_fish[] = "# fish completion of distill: distill completion fish | source\n"
                             "function __distill_words\n"
                             "    set -l words (commandline -opc) (commandline -ct)\n"
                             "    set -e words[1]\n"
                             "    for line in (distill completion words -- $words 2>/dev/null)\n"
                             "        switch $line\n"
                             "            case ':files'\n"
                             "                __fish_complete_path (commandline -ct)\n"
                             "            case ':folders'\n"
                             "                __fish_complete_directories (commandline -ct) ''\n"
                             "            case '*'\n"
                             "                echo $line\n"
                             "        end\n"
                             "    end\n"
                             "end\n"
                             "complete -c distill -f -a '(__distill_words)'\n";

static int words(kd_cli *cli, const kd_args *args)
{
    kd_buf b;
    kd_buf_init(&b, MAX_TEXT);
    kd_complete_line(args->operands + 1, args->n_operands - 1, &b);
    kd_out_text(cli, b.data ? b.data : "");
    kd_buf_clear(&b);
    return kd_out_flush(cli);
}

static int run(kd_cli *cli, const kd_args *args)
{
    static const struct {
        const char *name, *script;
    } shells[] = {{"bash", g_bash}, {"zsh", g_zsh}, {"fish", g_fish}};
    if (strcmp(args->operands[0], "words") == 0)
        return words(cli, args);
    if (args->n_operands > 1)
        return kd_usage(cli, "completion", NULL, "completion: unexpected argument \"%s\"",
                        args->operands[1]);
    for (size_t i = 0; i < KD_COUNT(shells); i++) {
        if (strcmp(args->operands[0], shells[i].name) != 0)
            continue;
        kd_out_text(cli, shells[i].script);
        return kd_out_flush(cli);
    }
    return kd_usage(cli, "completion", "one of bash, zsh, fish",
                    "there is no completion for \"%s\"", args->operands[0]);
}

const kd_verb kd_verb_completion = {
    .name = "completion",
    .operands = "bash|zsh|fish",
    .summary = "print the completion script for bash, zsh or fish",
    .help =
        "For bash, in ~/.bashrc:\n\n    source <(distill completion bash)\n\n"
        "For zsh, in ~/.zshrc, after compinit:\n\n    source <(distill completion zsh)\n\n"
        "For fish:\n\n"
        "    distill completion fish > ~/.config/fish/completions/distill.fish\n\n"
        "Ids, names and keys are asked from the coordinator that the line names, two seconds at\n"
        "most. For another shell: `distill completion words -- WORD...`, of which the last is\n"
        "the one that is typed, prints a candidate a line, a tab and what it is; `:files` and\n"
        "`:folders` stand for those of the file system.",
    .min_operands = 1,
    .max_operands = -1,
    .run = run};

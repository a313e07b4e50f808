#include "fuzz.h"

#include "cli.h"

#include <math.h>
#include <stdlib.h>

/* Values are read as the verbs read them, whichever flag they belong to. */
static void read_values(const kd_args *args)
{
    kd_diag diag = {0};
    for (int i = 0; i < args->n_flags; i++) {
        const char *name = args->flags[i].opt->name;
        KD_FUZZ_CHECK(kd_args_has(args, name));
        KD_FUZZ_CHECK(!args->flags[i].value == !args->flags[i].opt->meta);
        if (!args->flags[i].value)
            continue;
        uint64_t n = 0;
        double seconds = 0;
        char server[KD_CLI_SERVER_MAX];
        const char *values[4];
        int rc = kd_args_u64(args, name, 1, 10000, 5, &n, &diag);
        KD_FUZZ_CHECK(rc == 0 ? n >= 1 && n <= 10000 : kd_fuzz_refused(rc, &diag) == 0);
        rc = kd_args_duration(args, name, &seconds, &diag);
        KD_FUZZ_CHECK(rc == 0 ? isfinite(seconds) && seconds >= 0
                              : kd_fuzz_refused(rc, &diag) == 0);
        rc = kd_args_server(args->flags[i].value, server, sizeof server, &diag);
        KD_FUZZ_CHECK(rc == 0 ? server[0] != '\0' : kd_fuzz_refused(rc, &diag) == 0);
        KD_FUZZ_CHECK(kd_args_values(args, name, values, 4) >= 1);
    }
}

/* Parses; of the verbs, only help is run, since the others go to the network and to files. */
int kd_fuzz_distill(const uint8_t *data, size_t len)
{
    kd_fuzz_words w;
    kd_cli cli = {0};
    const kd_verb *verb = NULL;
    kd_args args;
    kd_fuzz_words_of("distill", data, len, &w);
    kd_fuzz_silence(true);
    int rc = kd_cli_parse(&cli, w.argc, w.argv, &verb, &args);
    int help = rc == KD_EXIT_OK && verb == &kd_verb_help ? verb->run(&cli, &args) : KD_EXIT_OK;
    kd_fuzz_silence(false);
    KD_FUZZ_CHECK(rc == KD_EXIT_OK || rc == KD_EXIT_USAGE);
    KD_FUZZ_CHECK(help == KD_EXIT_OK || help == KD_EXIT_USAGE);
    if (rc == KD_EXIT_OK) {
        KD_FUZZ_CHECK(verb);
        KD_FUZZ_CHECK(args.n_operands >= verb->min_operands);
        KD_FUZZ_CHECK(verb->max_operands < 0 || args.n_operands <= verb->max_operands);
        read_values(&args);
    }
    kd_args_clear(&args);
    free(w.text);
    return rc == KD_EXIT_OK;
}

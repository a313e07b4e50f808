/* distill: the command line of the distillation trainer. */
#include "cli.h"
#include "engine/plan.h"
#include "kd/failpoint.h"

#include <string.h>

int main(int argc, char **argv)
{
    KD_FAILPOINTS_START();
    /* Only this verb computes; it starts the program again where the BLAS must be told its CPU. */
    const char *verb = kd_cli_verb_word(argc, argv);
    if (verb && strcmp(verb, "predict") == 0)
        kd_engine_mend_blas(argv);
    return kd_cli_main(argc, argv);
}

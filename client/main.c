/* distill: the command line of the distillation trainer. */
#include "cli.h"
#include "engine/plan.h"
#include "kd/failpoint.h"

int main(int argc, char **argv)
{
    KD_FAILPOINTS_START();
    /* Those that compute start the program again where the BLAS must be told its CPU. */
    const char *verb = kd_cli_verb_word(argc, argv);
    if (verb && kd_verb_computes(verb))
        kd_engine_mend_blas(argv);
    return kd_cli_main(argc, argv);
}

/* distill: the command line of the distillation trainer. */
#include "cli.h"

int main(int argc, char **argv)
{
    return kd_cli_main(argc, argv);
}

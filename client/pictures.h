/* Picture files that a command line names: files as they are, folders with all that is below them.
 * Threads: the main thread. */
#ifndef KD_CLI_PICTURES_H
#define KD_CLI_PICTURES_H

#include "cli.h"

#define KD_PICTURES_MAX (10u << 20)
typedef struct kd_pictures {
    char **paths;
    size_t n, cap;
} kd_pictures;

/* Appends a file, or every .jpg, .jpeg and .png below a folder in the order of the names; links are
 * followed, but not in circles. KD_EXIT_OK, or the exit code after a message. Cleared by the caller
 * in any case. */
int kd_pictures_add(const kd_cli *cli, const char *operand, kd_pictures *p) KD_MUST_CHECK;
void kd_pictures_clear(kd_pictures *p);

#endif

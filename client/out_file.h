/* Files that a verb makes where -O says, as readable as any other file of the user. Threads: the
 * main thread. */
#ifndef KD_CLI_OUT_FILE_H
#define KD_CLI_OUT_FILE_H

#include "kd/err.h"

#include <sys/types.h>

#define KD_OUT_FILES 3 /* at once, at most */
typedef struct kd_out_file {
    const char *path;
    const void *data; /* [len] */
    size_t len;
} kd_out_file;

/* Whether n files may be written there, before anything is computed for them. A link is followed; a
 * device or a pipe is written to as it is. -KD_EINVAL: a folder, a link to nothing, standard output
 * ("-" too: it is for what `distill` tells), one file twice. -KD_EIO: the folder takes no file. */
int kd_out_files_check(const char *const *names, size_t n, kd_diag *diag) KD_MUST_CHECK;
/* Writes n files, durably: all under temporary names, then each is renamed, so that a full disk
 * leaves what was there before. Modes are kd_out_mode's. Errors of kd_out_files_check and of drafts
 * (kd/file.h). */
int kd_out_files_write(const kd_out_file *files, size_t n, kd_diag *diag) KD_MUST_CHECK;
/* Of a new file: what the umask leaves of 0666. */
mode_t kd_out_mode(void);

#endif

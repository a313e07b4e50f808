/* Files: bounded reads, durable writes, paths that cannot leave their root.
 * Every function fills diag with the path and the reason. Threads: any. */
#ifndef KD_FILE_H
#define KD_FILE_H

#include "kd/err.h"

#include <sys/types.h>

/* Whole file into fresh memory (caller frees; one NUL added after len). -KD_ENOENT, -KD_EINVAL for
 * a folder, -KD_ELIMIT when larger than max, -KD_EIO. */
int kd_file_read(const char *path, size_t max, char **out_data, size_t *out_len,
                 kd_diag *diag) KD_MUST_CHECK;
/* Durable replace: temporary name in the same folder, write, fsync, rename, fsync of the folder.
 * Either the old or the new content is there after a crash. An fsync error aborts the process: the
 * page cache can no longer be trusted. */
int kd_file_write(const char *path, const void *data, size_t len, kd_diag *diag) KD_MUST_CHECK;
/* Removes what kd_file_write and drafts left in a folder when their process was killed; nobody may
 * be writing there. */
void kd_file_drop_temporaries(const char *path);
int kd_file_fsync_parent(const char *path, kd_diag *diag) KD_MUST_CHECK;
/* mkdir -p with mode 0700. */
int kd_file_mkdirs(const char *path, kd_diag *diag) KD_MUST_CHECK;
/* Removes a folder and all below it, not following links. Missing is success. */
int kd_file_remove_tree(const char *path, kd_diag *diag) KD_MUST_CHECK;
/* Opens `path` for reading beneath the folder `root_fd` with openat2(RESOLVE_BENEATH): no "..",
 * absolute path or link leads out. Returns a descriptor (O_CLOEXEC) or -KD_E.... */
int kd_file_open_beneath(int root_fd, const char *path, int extra_flags,
                         kd_diag *diag) KD_MUST_CHECK;
/* The same wherever the path or a link in it leads: for paths of the person who runs the program.
 */
int kd_file_open_at(int root_fd, const char *path, int extra_flags, kd_diag *diag) KD_MUST_CHECK;
/* All of the file behind fd (caller still owns fd), as kd_file_read. `name` for messages. */
int kd_file_read_fd(int fd, const char *name, size_t max, char **out_data, size_t *out_len,
                    kd_diag *diag) KD_MUST_CHECK;
/* -KD_ELIMIT with a sentence when the file system of path would have fewer than `keep` bytes left
 * after `bytes` more. keep 0 = nothing is kept. */
int kd_file_need_room(const char *path, uint64_t keep, uint64_t bytes, kd_diag *diag) KD_MUST_CHECK;
/* After a failed fsync (errno says how): ends the process. What the page cache holds need not be
 * what the disk holds, and nobody may go on from it. */
__attribute__((noreturn)) void kd_file_fsync_failed(const char *path);
/* Free bytes for us on the file system of path; -1 if unknown. */
int64_t kd_file_free_bytes(const char *path);

/* ---- drafts: what kd_file_write does, for content that comes in pieces and for several files that
 * get their names together
 *
 * Opened, added to, synced, placed; cleared in any case. Until it is placed what was there before
 * stays, and clearing it removes all that was written. A draft is one thread's. */
typedef struct kd_file_draft {
    char *path;
    char *temporary; /* beside it; NULL = placed, or path itself is written to */
    int fd;
    /* Asked when a signal interrupts a write: not 0 = give up. NULL = go on. */
    int (*stop)(void);
} kd_file_draft;
#define KD_FILE_DRAFT_INIT                                                                         \
    {                                                                                              \
        .fd = -1                                                                                   \
    }
/* An empty file of mode 0600. */
int kd_file_draft_open(const char *path, kd_file_draft *out, kd_diag *diag) KD_MUST_CHECK;
/* For a device or a pipe, which is there: it is written to as it is, and neither synced nor placed.
 */
int kd_file_draft_open_there(const char *path, kd_file_draft *out, kd_diag *diag) KD_MUST_CHECK;
int kd_file_draft_add(kd_file_draft *d, const void *data, size_t len, kd_diag *diag) KD_MUST_CHECK;
/* Mode (0 = it stays 0600) and fsync. On failure errno is that of it; whoever keeps state goes on
 * with kd_file_fsync_failed. */
int kd_file_draft_sync(kd_file_draft *d, mode_t mode, kd_diag *diag) KD_MUST_CHECK;
/* Rename, and fsync of the folder, whose failure ends the process. */
int kd_file_draft_place(kd_file_draft *d, kd_diag *diag) KD_MUST_CHECK;
void kd_file_draft_clear(kd_file_draft *d);

#endif

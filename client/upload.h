/* Uploads a local file that a job names, known by its digest. */
#ifndef KD_CLI_UPLOAD_H
#define KD_CLI_UPLOAD_H

#include "connect.h"

#include "kd/hash.h"

typedef struct kd_local_file {
    char name[512]; /* as the job file has it */
    char *path;     /* where it lies here */
    uint64_t size;
    char digest[KD_DIGEST_HEX];
} kd_local_file;

/* Path of `name` as seen from the folder of `job_file` (NULL or "-": the current folder); caller
 * frees. */
char *kd_local_path(const char *job_file, const char *name);
/* Fills size and digest by reading the file. Returns an exit code. path must be set; free it with
 * kd_local_file_clear. */
int kd_local_file_measure(const kd_cli *cli, kd_local_file *f) KD_MUST_CHECK;
void kd_local_file_clear(kd_local_file *f);
/* Sends what the coordinator does not have yet, in pieces of 1 MiB; goes on after a short outage.
 * Returns an exit code. */
int kd_upload(kd_conn *c, const kd_local_file *f) KD_MUST_CHECK;

#endif

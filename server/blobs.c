/* Files that jobs start from, named by the digest of their content: uploads, and what other jobs
 * made. */
#include "daemon.h"
#include "take.h"

#include "kd/failpoint.h"
#include "kd/file.h"
#include "kd/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void blob_file(const kd_daemon *d, const char *digest, bool part, char *out, size_t size)
{
    snprintf(out, size, "%s/blobs/%s%s", d->state.dir, digest, part ? ".part" : "");
}

/* ---- uploads */

/* Appends the piece if it continues what is there; the last one is checked and named. */
int kd_blob_add_piece(kd_daemon *d, const Distill__V1__BlobChunk *m, const uint8_t *piece,
                      size_t len, Distill__V1__UploadReply *reply, kd_diag *diag)
{
    kd_digest wanted;
    char part[4200], whole[4200];
    if (!kd_digest_parse(m->digest, &wanted))
        return kd_fail(diag, -KD_EINVAL, "a file is named by 32 hex digits");
    if (m->size == 0 || m->size > KD_MAX_BLOB_BYTES || len > KD_BLOB_PIECE)
        return kd_fail(diag, -KD_ELIMIT,
                       "files of 1 byte to %llu MiB are taken, in pieces of 1 MiB",
                       KD_MAX_BLOB_BYTES >> 20);
    blob_file(d, m->digest, true, part, sizeof part);
    blob_file(d, m->digest, false, whole, sizeof whole);
    if (access(whole, R_OK) == 0) {
        (void)utimensat(AT_FDCWD, whole, NULL, 0); /* a job is about to name it */
        reply->complete = true;
        reply->have = m->size;
        return 0;
    }
    /* All of it twice: its pieces, and the file that is made of them. */
    int room = kd_room_check(&d->room, 2 * m->size - KD_MIN(m->offset, m->size), diag);
    if (room != 0)
        return kd_fail_at(diag, room, "the upload is not taken");
    int fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        if (fd >= 0)
            close(fd);
        return kd_fail(diag, errno == ENOSPC ? -KD_ELIMIT : -KD_EIO, "cannot open the upload: %s",
                       strerror(errno));
    }
    uint64_t have = (uint64_t)st.st_size;
    int rc = 0;
    if (len && kd_crc32c(0, piece, len) != m->crc32c)
        rc = kd_fail(diag, -KD_EDATA, "the piece's CRC32C differs; send it again");
    else if (len && m->offset == have && have + len <= m->size) {
        ssize_t n = KD_FAILPOINT_FAILS("blob.piece") ? -1 : pwrite(fd, piece, len, (off_t)have);
        if (n != (ssize_t)len)
            rc = kd_fail(diag, n < 0 && errno != ENOSPC ? -KD_EIO : -KD_ELIMIT,
                         "cannot store the upload: %s", n < 0 ? strerror(errno) : "disk full");
        else
            have += len;
    }
    close(fd);
    if (rc == 0 && have == m->size) {
        char *data = NULL;
        size_t size = 0;
        rc = KD_FAILPOINT_FAILS("blob.whole")
                 ? kd_fail(diag, -KD_EIO, "cannot read the upload: %s", strerror(errno))
                 : kd_file_read(part, KD_MAX_BLOB_BYTES, &data, &size, diag);
        if (rc == 0) {
            kd_digest got = kd_digest_of(data, size);
            if (!kd_digest_equal(&got, &wanted)) {
                rc = kd_fail(diag, -KD_EDATA,
                             "the uploaded file has another digest; upload it again");
                unlink(part);
            } else if ((rc = kd_file_write(whole, data, size, diag)) == 0) {
                KD_FAILPOINT("blob.named");
                unlink(part);
                reply->complete = true;
            }
        }
        free(data);
    }
    reply->have = have;
    return rc;
}

/* ---- what a job starts from */

/* The network number i of a job: its teachers, then its student; NULL past the end. */
static const kd_model_spec *network(const kd_job *job, int i)
{
    return i < job->n_teachers    ? &job->teachers[i].model
           : i == job->n_teachers ? &job->student
                                  : NULL;
}

bool kd_blobs_needed(const kd_job *job)
{
    const kd_model_spec *m;
    for (int i = 0; (m = network(job, i)); i++)
        if (m->weights[0])
            return true;
    return false;
}

static bool has_blob(const kd_daemon *d, const char *digest)
{
    char path[4200];
    kd_digest parsed;
    if (!kd_digest_parse(digest, &parsed))
        return false;
    blob_file(d, digest, false, path, sizeof path);
    return access(path, R_OK) == 0;
}

static bool weights_name(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && (strcmp(dot, ".safetensors") == 0 || strcmp(dot, ".onnx") == 0);
}

/* job:ID or job:ID/NAME: the artefact of a job that has succeeded. */
static int bind_artefact(kd_daemon *d, const kd_rpc_call *call, kd_model_spec *m, bool dry,
                         kd_diag *diag)
{
    char id[KD_ID_TEXT], name[65];
    const char *ref = m->weights + strlen(KD_JOB_REF), *slash = strchr(ref, '/');
    snprintf(id, sizeof id, "%.*s", slash ? (int)(slash - ref) : (int)sizeof id - 1, ref);
    snprintf(name, sizeof name, "%s", slash ? slash + 1 : "student.safetensors");
    kd_diag why = {0};
    kd_job_record *j = kd_job_find_id(d, call, id, &why);
    if (!j && why.code == -KD_ENOENT && has_blob(d, m->weights_digest))
        return 0; /* a resolved job whose source is gone, and the file is not */
    if (!j)
        return kd_fail(diag, why.code, "weights %.100s: %.800s", m->weights, why.msg);
    kd_id_text(j->row.id, id);
    if (j->row.is_sweep)
        return kd_fail(diag, -KD_EINVAL,
                       "weights %.100s: job %s is a sweep; name one of its jobs (`distill show %s` "
                       "lists them)",
                       m->weights, id, id);
    if (j->row.state != KD_RUN_SUCCEEDED)
        return kd_fail(diag, -KD_ESTATE, "weights %.100s: job %s has not succeeded", m->weights,
                       id);
    kd_file_row row;
    int rc = kd_state_find_artefact(&d->state, j->row.id, name, "-", &row, diag);
    if (rc < 0)
        return rc;
    if (rc == 0 || !weights_name(name))
        return kd_fail(diag, -KD_ENOENT,
                       "weights %.100s: job %s has no file of weights %s (`distill show %s` lists "
                       "its files; .safetensors and .onnx hold weights)",
                       m->weights, id, name, id);
    snprintf(m->weights, sizeof m->weights, KD_JOB_REF "%s/%s", id, name);
    snprintf(m->weights_digest, sizeof m->weights_digest, "%s", row.digest);
    char path[4200];
    blob_file(d, row.digest, false, path, sizeof path);
    return dry || access(path, R_OK) == 0 ? 0 : kd_link_file(row.path, path, diag);
}

static int bind_upload(kd_daemon *d, Distill__V1__NamedBlob *const *uploaded, size_t n,
                       kd_model_spec *m, kd_diag *diag)
{
    for (size_t k = 0; k < n; k++)
        if (strcmp(uploaded[k]->path, m->weights) == 0)
            snprintf(m->weights_digest, sizeof m->weights_digest, "%s", uploaded[k]->digest);
    kd_digest digest;
    if (!kd_digest_parse(m->weights_digest, &digest))
        return kd_fail(diag, -KD_ESTATE, "the file %.200s was not uploaded with the job",
                       m->weights);
    if (!has_blob(d, m->weights_digest))
        return kd_fail(diag, -KD_ESTATE, "upload %.200s first: no file with digest %s is here",
                       m->weights, m->weights_digest);
    return 0;
}

int kd_blobs_bind(kd_daemon *d, const kd_rpc_call *call, Distill__V1__NamedBlob *const *uploaded,
                  size_t n, kd_job *job, bool dry, kd_diag *diag)
{
    int rc = 0;
    for (int i = 0; i <= job->n_teachers && rc == 0; i++) {
        kd_model_spec *m = i < job->n_teachers ? &job->teachers[i].model : &job->student;
        if (kd_job_is_ref(m->weights))
            rc = bind_artefact(d, call, m, dry, diag);
        else if (m->weights[0] && !dry)
            rc = bind_upload(d, uploaded, n, m, diag);
    }
    return rc;
}

/* ---- what no job names */

static bool is_named(const kd_daemon *d, const char *digest)
{
    for (const kd_job_record *j = d->jobs; j; j = j->next) {
        const kd_model_spec *m;
        for (int i = 0; (m = network(&j->spec, i)); i++)
            if (strcmp(m->weights_digest, digest) == 0)
                return true;
    }
    return false;
}

void kd_blobs_drop_unused(kd_daemon *d, const kd_job *job)
{
    const kd_model_spec *m;
    for (int i = 0; (m = network(job, i)); i++) {
        char path[4200];
        if (!m->weights_digest[0] || is_named(d, m->weights_digest))
            continue;
        blob_file(d, m->weights_digest, false, path, sizeof path);
        if (unlink(path) != 0 && errno != ENOENT)
            kd_warn("cannot remove a blob: path=%s err=%s", path, strerror(errno));
    }
}

/* The pieces of a file that a crash kept after all of it had its name. */
static void drop_pieces(kd_daemon *d, const char *name)
{
    char digest[KD_DIGEST_HEX], path[4200];
    if (strlen(name) < sizeof digest || strcmp(name + sizeof digest - 1, ".part") != 0)
        return;
    snprintf(digest, sizeof digest, "%.32s", name);
    blob_file(d, digest, true, path, sizeof path);
    if (has_blob(d, digest) && unlink(path) == 0)
        kd_info("removed the pieces of a whole upload: path=%s", path);
}

void kd_blobs_each_waiting(kd_daemon *d, kd_blob_fn fn, void *arg)
{
    char path[4200], digest[KD_DIGEST_HEX];
    snprintf(path, sizeof path, "%s/blobs", d->state.dir);
    DIR *folder = opendir(path);
    for (struct dirent *e; folder && (e = readdir(folder));) {
        kd_digest parsed;
        struct stat st;
        const char *end = e->d_name + KD_MIN(strlen(e->d_name), sizeof digest - 1);
        snprintf(digest, sizeof digest, "%.32s", e->d_name);
        if (!kd_digest_parse(digest, &parsed) || (end[0] && strcmp(end, ".part") != 0) ||
            (!end[0] && is_named(d, digest)))
            continue;
        blob_file(d, digest, end[0] != '\0', path, sizeof path);
        if (stat(path, &st) == 0)
            fn(arg, path, (uint64_t)st.st_size, (int64_t)st.st_mtim.tv_sec * 1000);
    }
    if (folder)
        closedir(folder);
}

void kd_blobs_drop_strays(kd_daemon *d)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/blobs", d->state.dir);
    DIR *folder = opendir(path);
    for (struct dirent *e; folder && (e = readdir(folder));) {
        kd_digest digest;
        struct stat st;
        drop_pieces(d, e->d_name);
        if (!kd_digest_parse(e->d_name, &digest) || is_named(d, e->d_name))
            continue;
        /* An upload that waits for its job has one name; what has a second one loses nothing. */
        blob_file(d, e->d_name, false, path, sizeof path);
        if (stat(path, &st) == 0 && st.st_nlink > 1 && unlink(path) == 0)
            kd_info("removed a link that no job names: path=%s", path);
    }
    if (folder)
        closedir(folder);
}

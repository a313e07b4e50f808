/* Files that a job makes: networks, and what workers send. */
#include "daemon.h"

#include "kd/failpoint.h"
#include "kd/file.h"
#include "kd/log.h"
#include "store/network.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILES 64 /* of a job, that workers made or are sending */

/* ---- networks */

const char *kd_stage_makes(enum kd_stage_kind kind)
{
    if (kind == KD_STAGE_EVALUATE || kind == KD_STAGE_EXPORT)
        return NULL;
    return kind == KD_STAGE_DISTILL ? "student" : kd_stage_name(kind);
}

void kd_stage_network_file(enum kd_stage_kind kind, bool best, char out[KD_NETWORK_FILE])
{
    snprintf(out, KD_NETWORK_FILE, "%s%s.safetensors", kd_stage_makes(kind), best ? ".best" : "");
}

void kd_stage_artefact_digest(kd_daemon *d, kd_job_record *j, enum kd_stage_kind kind, bool best,
                              char out[33])
{
    kd_file_row row;
    kd_diag diag = {0};
    char name[KD_NETWORK_FILE];
    out[0] = '\0';
    if (!kd_stage_makes(kind))
        return;
    kd_stage_network_file(kind, best, name);
    if (kd_state_find_artefact(&d->state, j->row.id, name, "-", &row, &diag) == 1)
        memcpy(out, row.digest, 33);
}

static void artefact_path(const kd_daemon *d, const kd_job_record *j, const char *name,
                          const char *suffix, char *out, size_t size)
{
    char id[KD_ID_TEXT];
    kd_id_text(j->row.id, id);
    snprintf(out, size, "%s/jobs/%s/%s%s", d->state.dir, id, name, suffix);
}

int kd_artefact_write(kd_daemon *d, kd_job_record *j, uint32_t stage, const char *name,
                      const void *bytes, size_t len, kd_diag *diag)
{
    char path[4096], hex[KD_DIGEST_HEX];
    artefact_path(d, j, name, "", path, sizeof path);
    int rc = KD_FAILPOINT_FAILS("artefact.write")
                 ? kd_fail(diag, -KD_EIO, "cannot write %s: %s", path, strerror(errno))
                 : kd_file_write(path, bytes, len, diag);
    while (rc == -KD_ELIMIT && kd_room_make(&d->room, true))
        rc = kd_file_write(path, bytes, len, diag);
    if (rc == 0 && KD_FAILPOINT_FAILS("artefact.written"))
        rc = kd_fail(diag, -KD_EIO, "cannot store the row of %s: %s", path, strerror(errno));
    if (rc != 0)
        return rc;
    kd_digest digest = kd_digest_of(bytes, len);
    kd_digest_hex(&digest, hex);
    return kd_state_add_file(&d->state, j->row.id, name, stage, 0, path, len, hex, diag);
}

int kd_artefact_write_network(kd_daemon *d, kd_job_record *j, uint32_t stage, bool best,
                              const float *vector, const char *digest, kd_diag *diag)
{
    const kd_stage_record *s = &j->stages[stage];
    const int from = kd_job_squeezed_from(&j->spec, s->kind);
    char id[KD_ID_TEXT], name[KD_NETWORK_FILE], side[16];
    kd_id_text(j->row.id, id);
    snprintf(side, sizeof side, "%d", from);
    const kd_st_pair first[] = {{"format", "pt"},
                                {"distilld.job", id},
                                {"distilld.digest", digest},
                                {"resized_from", side}};
    kd_buf buf;
    kd_buf_init(&buf, (size_t)1 << 33);
    kd_stage_network_file(s->kind, best, name);
    int rc =
        kd_network_pack(s->info->table, s->info->metadata, vector, kd_stage_vector_floats(s->info),
                        first, KD_COUNT(first) - (from == 0), &buf, diag);
    if (rc == 0)
        rc = kd_artefact_write(d, j, stage, name, buf.data, buf.len, diag);
    kd_buf_clear(&buf);
    return rc;
}

/* ---- what workers send */

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), len = strlen(end);
    return n >= len && strcmp(name + n - len, end) == 0;
}

/* The coordinator's own files are not for workers to write, and "-" stands for no name. */
static int check_name(const char *name, kd_diag *diag)
{
    size_t n = strlen(name);
    bool ok =
        n >= 1 && n <= 64 && name[0] != '.' && name[0] != '-' && strcmp(name, "result.json") != 0;
    for (const char *p = name; ok && *p; p++)
        ok = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
             *p == '.' || *p == '_' || *p == '-';
    ok = ok && !ends_with(name, ".safetensors") && !ends_with(name, ".part");
    return ok ? 0 : kd_fail(diag, -KD_EINVAL, "no artefact may be named %.64s", name);
}

struct counting {
    const char *name;
    size_t n;
};

static int count_file(void *arg, const kd_file_row *row)
{
    struct counting *c = arg;
    c->n += strcmp(row->name, c->name) != 0;
    return 0;
}

/* Whether the job may have one file more of that name, those that only began to arrive counted. */
static int check_room(kd_daemon *d, kd_job_record *j, const Distill__V1__ArtefactPiece *m,
                      kd_diag *diag)
{
    struct counting c = {.name = m->name};
    char folder[4096];
    int rc = kd_state_each_stage_file(&d->state, j->row.id, m->stage, count_file, &c, diag);
    if (rc != 0)
        return rc;
    artefact_path(d, j, "", "", folder, sizeof folder);
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        c.n += ends_with(e->d_name, ".part");
    if (dir)
        closedir(dir);
    return c.n < MAX_FILES
               ? 0
               : kd_fail(diag, -KD_ELIMIT, "the workers of a job may make %d files", MAX_FILES);
}

/* Bytes that are there already are written again: the file's name has the digest of the whole. */
static int put_piece(const char *path, uint64_t at, const uint8_t *bytes, size_t len, kd_diag *diag)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | (at == 0 ? O_CREAT : 0), 0600);
    struct stat st = {0};
    int rc = 0;
    if ((fd < 0 && (errno != ENOENT || at == 0)) || (fd >= 0 && fstat(fd, &st) != 0))
        rc = kd_fail(diag, -KD_EIO, "cannot open %s: %s", path, strerror(errno));
    else if ((uint64_t)st.st_size < at)
        rc = kd_fail(diag, -KD_ESTALE, "the file has %llu bytes so far, this piece begins at %llu",
                     (unsigned long long)st.st_size, (unsigned long long)at);
    if (rc == 0 && KD_FAILPOINT_FAILS("artefact.piece"))
        rc = kd_fail(diag, errno == ENOSPC ? -KD_ELIMIT : -KD_EIO, "cannot write %s: %s", path,
                     strerror(errno));
    for (size_t done = 0; rc == 0 && done < len;) {
        ssize_t n = pwrite(fd, bytes + done, len - done, (off_t)(at + done));
        if (n < 0 && errno != EINTR)
            rc = kd_fail(diag, errno == ENOSPC ? -KD_ELIMIT : -KD_EIO, "cannot write %s: %s", path,
                         strerror(errno));
        done += n > 0 ? (size_t)n : 0;
    }
    if (fd >= 0)
        close(fd);
    return rc;
}

static int finish_file(kd_daemon *d, kd_job_record *j, const Distill__V1__ArtefactPiece *m,
                       const char *part, kd_diag *diag)
{
    kd_digest digest;
    char hex[KD_DIGEST_HEX];
    char *bytes = NULL;
    size_t len = 0;
    int rc = KD_FAILPOINT_FAILS("artefact.whole")
                 ? kd_fail(diag, -KD_EIO, "cannot read %s: %s", part, strerror(errno))
                 : kd_file_read(part, KD_MAX_ARTEFACT_BYTES, &bytes, &len, diag);
    if (rc == 0) {
        digest = kd_digest_of(bytes, len);
        kd_digest_hex(&digest, hex);
        if (strcmp(hex, m->digest) != 0)
            rc = kd_fail(diag, -KD_EDATA, "%s arrived with digest %s instead of %s", m->name, hex,
                         m->digest);
    }
    if (rc == 0)
        rc = kd_artefact_write(d, j, m->stage, m->name, bytes, len, diag);
    free(bytes);
    if (unlink(part) != 0)
        kd_warn("cannot remove %s: %s", part, strerror(errno));
    return rc;
}

/* The worker keeps its file and comes again. */
static int wait_for_disk(kd_daemon *d, kd_job_record *j, uint32_t stage, kd_diag *diag)
{
    if (!j->told_no_room)
        kd_stage_tell_waiting(d, j, stage, diag->msg);
    j->told_no_room = true;
    diag->code = -KD_ESTATE;
    return -KD_ESTATE;
}

void kd_artefact_drop_pieces(kd_daemon *d, const kd_job_record *j)
{
    char path[4096];
    artefact_path(d, j, "", "", path, sizeof path);
    DIR *folder = opendir(path);
    for (struct dirent *e; folder && (e = readdir(folder));)
        if (ends_with(e->d_name, ".part"))
            unlinkat(dirfd(folder), e->d_name, 0);
    if (folder)
        closedir(folder);
}

int kd_artefact_add_piece(kd_daemon *d, const Distill__V1__ArtefactPiece *m, const uint8_t *piece,
                          size_t len, Distill__V1__UploadReply *reply, kd_diag *diag)
{
    kd_job_id id;
    kd_job_record *j = kd_id_parse(m->job, &id) ? kd_daemon_job(d, id) : NULL;
    kd_core_view now;
    kd_digest digest;
    kd_file_row row;
    char part[4096], suffix[48];
    if (!j || m->stage >= (uint32_t)j->n_stages || j->stages[m->stage].kind != KD_STAGE_EVALUATE ||
        !kd_core_job_view(d->core, id, &now) || now.state != KD_RUN_RUNNING ||
        now.stage != m->stage)
        return kd_fail(diag, -KD_ESTALE, "that job does not evaluate now");
    int rc = check_name(m->name, diag);
    if (rc != 0)
        return rc;
    if (!kd_digest_parse(m->digest, &digest))
        return kd_fail(diag, -KD_EINVAL, "a file is named by 32 hex digits");
    if (m->size == 0 || m->size > KD_MAX_ARTEFACT_BYTES || len == 0 || len > KD_BLOB_PIECE ||
        m->offset > m->size || len > m->size - m->offset)
        return kd_fail(diag, -KD_ELIMIT,
                       "artefacts of 1 byte to %llu MiB are taken, in pieces of 1 MiB",
                       KD_MAX_ARTEFACT_BYTES >> 20);
    if (kd_crc32c(0, piece, len) != m->crc32c)
        return kd_fail(diag, -KD_EUNAVAIL, "the piece's CRC32C differs; send it again");
    rc = kd_state_find_artefact(&d->state, id, m->name, "-", &row, diag);
    if (rc < 0)
        return rc;
    if (rc == 1 && strcmp(row.digest, m->digest) == 0) {
        reply->complete = true; /* an answer was lost, or another worker has sent the same */
        reply->have = row.size;
        return 0;
    }
    /* Named by what it is to become, so that the pieces of two workers do not mix. */
    snprintf(suffix, sizeof suffix, ".%.32s.part", m->digest);
    artefact_path(d, j, m->name, suffix, part, sizeof part);
    rc = access(part, F_OK) == 0 ? 0 : check_room(d, j, m, diag);
    if (rc != 0)
        return rc;
    /* Its pieces, and the file that is made of them. */
    rc = kd_room_check(&d->room, 2 * m->size - m->offset, diag);
    if (rc == 0)
        rc = put_piece(part, m->offset, piece, len, diag);
    if (rc == -KD_ELIMIT)
        return wait_for_disk(d, j, m->stage, diag);
    if (rc != 0)
        return rc;
    if (j->told_no_room)
        kd_stage_tell_waiting(d, j, m->stage, "");
    j->told_no_room = false;
    reply->have = m->offset + len;
    if (reply->have < m->size)
        return 0;
    reply->complete = true;
    return finish_file(d, j, m, part, diag);
}

#include "upload.h"

#include "format.h"
#include "output.h"
#include "progress.h"

#include "kd/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATIENCE_MS 60000 /* of an outage in the middle of an upload */

char *kd_local_path(const char *job_file, const char *name)
{
    const char *slash = job_file && strcmp(job_file, "-") != 0 ? strrchr(job_file, '/') : NULL;
    char *path = NULL;
    if (name[0] == '/' || !slash)
        return strdup(name);
    return asprintf(&path, "%.*s/%s", (int)(slash - job_file), job_file, name) < 0 ? NULL : path;
}

void kd_local_file_clear(kd_local_file *f)
{
    free(f->path);
    *f = (kd_local_file){0};
}

/* Reads up to len bytes at offset; fewer only at the end. -1 with errno. */
static ssize_t read_at(int fd, void *buf, size_t len, uint64_t offset)
{
    size_t got = 0;
    while (got < len) {
        ssize_t n = pread(fd, (char *)buf + got, len - got, (off_t)(offset + got));
        if (n < 0 && errno == EINTR && kd_cli_signal() == 0)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    return (ssize_t)got;
}

static int hash_fd(const kd_cli *cli, kd_local_file *f, int fd, uint8_t *piece)
{
    kd_hasher *h = kd_hasher_new();
    kd_bar bar;
    int rc = h ? KD_EXIT_OK : KD_EXIT_FAILURE;
    char label[80];
    snprintf(label, sizeof label, "reading %.60s", f->name);
    kd_bar_start(&bar, cli, KD_BAR_BYTES, label, f->size, 0);
    for (uint64_t at = 0; rc == KD_EXIT_OK && at < f->size;) {
        size_t want = (size_t)KD_MIN(f->size - at, (uint64_t)KD_BLOB_PIECE);
        ssize_t n = read_at(fd, piece, want, at);
        if (kd_cli_signal() != 0) {
            rc = kd_cli_signal_exit();
        } else if (n < (ssize_t)want) {
            kd_bar_end(&bar);
            kd_error(cli, "cannot read %s: %s", f->path,
                     n < 0 ? strerror(errno) : "it became shorter");
            rc = KD_EXIT_CONFIG;
        } else {
            kd_hasher_add(h, piece, want);
            at += want;
            kd_bar_set(&bar, at);
        }
    }
    kd_bar_end(&bar);
    if (rc == KD_EXIT_OK) {
        kd_digest d = kd_hasher_digest(h);
        kd_digest_hex(&d, f->digest);
    }
    kd_hasher_free(h);
    return rc;
}

int kd_local_file_measure(const kd_cli *cli, kd_local_file *f)
{
    struct stat st;
    int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) {
        kd_error(cli, "cannot open %s, which the job names: %s", f->path, strerror(errno));
        kd_hint(cli, "a weights file's path is relative to the job file's folder");
        if (fd >= 0)
            close(fd);
        return KD_EXIT_CONFIG;
    }
    const char *wrong = !S_ISREG(st.st_mode)                       ? "is not a file"
                        : st.st_size == 0                          ? "is empty"
                        : (uint64_t)st.st_size > KD_MAX_BLOB_BYTES ? "is larger than 4 GiB"
                                                                   : NULL;
    if (wrong) {
        kd_error(cli, "%s, which the job names, %s", f->path, wrong);
        close(fd);
        return KD_EXIT_CONFIG;
    }
    f->size = (uint64_t)st.st_size;
    uint8_t *piece = malloc(KD_BLOB_PIECE);
    int rc = piece ? hash_fd(cli, f, fd, piece) : KD_EXIT_FAILURE;
    if (!piece)
        kd_error(cli, "no memory to read %s", f->path);
    free(piece);
    close(fd);
    return rc;
}

/* One piece, or the question what is there when len is 0. */
static int send_piece(kd_conn *c, const kd_local_file *f, uint64_t offset, const uint8_t *piece,
                      size_t len, bool *out_complete, uint64_t *out_have, kd_failure *why)
{
    Distill__V1__BlobChunk chunk = DISTILL__V1__BLOB_CHUNK__INIT;
    chunk.digest = (char *)f->digest;
    chunk.size = f->size;
    chunk.offset = offset;
    chunk.crc32c = len ? kd_crc32c(0, piece, len) : 0;
    ProtobufCMessage *reply = NULL;
    int rc = kd_conn_call_bulk(c, "Upload", &chunk, piece, len,
                               &distill__v1__upload_reply__descriptor, &reply, why);
    if (rc != 0)
        return rc;
    *out_complete = ((const Distill__V1__UploadReply *)reply)->complete;
    *out_have = ((const Distill__V1__UploadReply *)reply)->have;
    kd_wire_free(reply);
    return 0;
}

static int send_all(kd_conn *c, const kd_local_file *f, int fd, uint8_t *piece)
{
    kd_failure why;
    bool complete = false, ask = true;
    uint64_t have = 0;
    int pause_ms = 500;
    kd_time_ms lost_at = 0;
    kd_bar bar = {.cli = c->cli};
    bool drawn = false, restarted = false;
    while (!complete) {
        size_t len = 0;
        if (!ask) {
            len = (size_t)KD_MIN(f->size - have, (uint64_t)KD_BLOB_PIECE);
            ssize_t n = read_at(fd, piece, len, have);
            if (kd_cli_signal() != 0)
                return kd_cli_signal_exit();
            if (n < (ssize_t)len) {
                kd_bar_end(&bar);
                kd_error(c->cli, "cannot read %s: %s", f->path,
                         n < 0 ? strerror(errno) : "it became shorter while it was sent");
                return KD_EXIT_CONFIG;
            }
        }
        uint64_t now_have = 0;
        int rc = send_piece(c, f, ask ? 0 : have, piece, len, &complete, &now_have, &why);
        if (rc != 0) {
            kd_time_ms now = kd_clock_ms();
            lost_at = lost_at ? lost_at : now;
            if (!kd_conn_passing(&why) || !c->reached || now - lost_at > PATIENCE_MS) {
                kd_bar_end(&bar);
                return kd_conn_report(c, &why, NULL);
            }
            if (!kd_conn_pause(pause_ms))
                return kd_cli_signal_exit();
            pause_ms = KD_MIN(pause_ms * 2, 5000);
            ask = true; /* it may have lost what was not on its disk */
            continue;
        }
        lost_at = 0;
        pause_ms = 500;
        bool stuck = !complete && (now_have >= f->size || (!ask && now_have <= have));
        if (stuck && (restarted || now_have >= f->size)) {
            kd_bar_end(&bar);
            kd_error(c->cli,
                     "the coordinator does not take %s: its content does not agree with its digest",
                     f->path);
            kd_hint(c->cli, "did the file change while it was sent? submit again");
            return KD_EXIT_TEMPORARY;
        }
        restarted = stuck;
        have = now_have;
        ask = false;
        if (!complete && !drawn) {
            char label[80];
            snprintf(label, sizeof label, "uploading %.60s", f->name);
            kd_bar_start(&bar, c->cli, KD_BAR_BYTES, label, f->size, have);
            drawn = true;
        }
        if (drawn)
            kd_bar_set(&bar, complete ? f->size : have);
    }
    kd_bar_end(&bar);
    if (drawn) {
        char a[KD_FMT], b[KD_FMT];
        double rate = kd_bar_mean_rate(&bar);
        kd_say(c->cli, "uploaded %s, %s%s%s%s", f->name, kd_fmt_bytes((double)f->size, a),
               rate > 0 ? " at " : "", rate > 0 ? kd_fmt_bytes(rate, b) : "", rate > 0 ? "/s" : "");
    }
    return KD_EXIT_OK;
}

int kd_upload(kd_conn *c, const kd_local_file *f)
{
    int fd = open(f->path, O_RDONLY | O_CLOEXEC);
    uint8_t *piece = malloc(KD_BLOB_PIECE);
    int rc = KD_EXIT_FAILURE;
    if (fd < 0)
        kd_error(c->cli, "cannot open %s: %s", f->path, strerror(errno));
    else if (!piece)
        kd_error(c->cli, "no memory to send %s", f->path);
    else
        rc = send_all(c, f, fd, piece);
    if (fd >= 0)
        close(fd);
    free(piece);
    return rc;
}

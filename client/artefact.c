#include "artefact.h"

#include "output.h"

#include "kd/clock.h"
#include "kd/hash.h"

#include <stdlib.h>
#include <string.h>

#define PATIENCE_MS 60000 /* of an outage in the middle of a file */

static int damaged(const kd_conn *c, const char *name, const char *what)
{
    kd_error(c->cli, "%s came damaged: %s", name, what);
    kd_hint(c->cli, "try again; if it happens twice, the coordinator's copy is damaged");
    return KD_EXIT_FAILURE;
}

/* Checks one piece against what was asked for. Returns an exit code. */
static int check_piece(const kd_conn *c, const Distill__V1__Artefact *a, uint64_t offset,
                       const Distill__V1__BlobChunk *chunk, const uint8_t *payload, size_t len)
{
    if (chunk->size != a->size || strcmp(chunk->digest, a->digest) != 0)
        return damaged(c, a->name, "it changed while it was fetched");
    if (chunk->offset != offset || len == 0 || len > a->size - offset)
        return damaged(c, a->name, "a piece is not the one that was asked for");
    if (kd_crc32c(0, payload, len) != chunk->crc32c)
        return damaged(c, a->name, "the checksum of a piece is wrong");
    return KD_EXIT_OK;
}

static int ask_piece(kd_conn *c, const kd_artefact_source *from, const char *name, uint64_t at,
                     ProtobufCMessage **reply, uint8_t **bytes, const uint8_t **payload,
                     size_t *len, kd_failure *why)
{
    Distill__V1__FetchRequest artefact = DISTILL__V1__FETCH_REQUEST__INIT;
    Distill__V1__FetchCheckpointRequest checkpoint = DISTILL__V1__FETCH_CHECKPOINT_REQUEST__INIT;
    artefact.job = checkpoint.job = (char *)from->job;
    artefact.name = (char *)name;
    artefact.offset = checkpoint.offset = at;
    checkpoint.stage = (char *)from->stage;
    checkpoint.step = from->step;
    return kd_conn_fetch_bulk(c, from->stage ? "Storage/FetchCheckpoint" : "Fetch",
                              from->stage ? (void *)&checkpoint : &artefact,
                              &distill__v1__blob_chunk__descriptor, reply, bytes, payload, len,
                              why);
}

int kd_artefact_receive(kd_conn *c, const kd_artefact_source *from, const Distill__V1__Artefact *a,
                        const kd_artefact_sink *sink)
{
    kd_hasher *h = kd_hasher_new();
    kd_failure why;
    kd_time_ms lost_at = 0;
    int pause_ms = 500, rc = h ? KD_EXIT_OK : KD_EXIT_FAILURE;
    uint64_t at = 0;
    while (rc == KD_EXIT_OK && at < a->size) {
        ProtobufCMessage *reply = NULL;
        uint8_t *bytes = NULL;
        const uint8_t *payload = NULL;
        size_t len = 0;
        if (ask_piece(c, from, a->name, at, &reply, &bytes, &payload, &len, &why) != 0) {
            kd_time_ms now = kd_clock_ms();
            lost_at = lost_at ? lost_at : now;
            if (from->gone && why.code == -KD_ENOENT) {
                *from->gone = true;
                rc = KD_EXIT_NO_JOB;
            } else if (!kd_conn_passing(&why) || now - lost_at > PATIENCE_MS)
                rc = kd_conn_report(c, &why, from->job);
            else if (!kd_conn_pause(pause_ms))
                rc = kd_cli_signal_exit();
            pause_ms = KD_MIN(pause_ms * 2, 5000);
            continue;
        }
        lost_at = 0;
        pause_ms = 500;
        rc = check_piece(c, a, at, (const Distill__V1__BlobChunk *)reply, payload, len);
        if (rc == KD_EXIT_OK)
            rc = sink->take(sink->arg, payload, len);
        if (rc == KD_EXIT_OK) {
            kd_hasher_add(h, payload, len);
            at += len;
            if (sink->bar)
                kd_bar_set(sink->bar, at);
        }
        kd_wire_free(reply);
        free(bytes);
    }
    if (rc == KD_EXIT_OK) {
        char hex[KD_DIGEST_HEX];
        kd_digest d = kd_hasher_digest(h);
        kd_digest_hex(&d, hex);
        if (strcmp(hex, a->digest) != 0)
            rc = damaged(c, a->name, "its digest is not the one that the coordinator gave");
    }
    kd_hasher_free(h);
    return rc;
}

const Distill__V1__Artefact *kd_artefact_find(const Distill__V1__JobDetail *d, const char *name)
{
    for (size_t i = 0; i < d->n_artefacts; i++)
        if (strcmp(d->artefacts[i]->name, name) == 0)
            return d->artefacts[i];
    return NULL;
}

static int keep(void *arg, const uint8_t *bytes, size_t len)
{
    /* Cannot fail: the buffer's whole size was taken before. */
    return kd_buf_add(arg, bytes, len) == 0 ? KD_EXIT_OK : KD_EXIT_FAILURE;
}

int kd_artefact_read(kd_conn *c, const kd_artefact_source *from, const Distill__V1__Artefact *a,
                     size_t max, char **out_data, size_t *out_len)
{
    kd_buf b;
    kd_buf_init(&b, max);
    if (a->size > max) {
        kd_error(c->cli, "%s of job %s has %llu bytes; at most %zu are read", a->name, from->job,
                 (unsigned long long)a->size, max);
        return KD_EXIT_FAILURE;
    }
    if (a->size > 0 && !kd_buf_grow(&b, (size_t)a->size)) {
        kd_error(c->cli, "no memory for %s", a->name);
        return KD_EXIT_FAILURE;
    }
    b.len = 0;
    kd_artefact_sink sink = {.take = keep, .arg = &b};
    int rc = kd_artefact_receive(c, from, a, &sink);
    if (rc == KD_EXIT_OK) {
        *out_len = b.len;
        *out_data = kd_buf_take(&b);
    }
    kd_buf_clear(&b);
    return rc;
}

/* Service Exchange: bulk calls, answered on gRPC's own threads; blobs by the loop. */
#include "daemon.h"

#include "kd/file.h"
#include "kd/hash.h"
#include "kd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A bulk call: its head, owned, and its payload, which lies in the call's bytes. */
struct bulk {
    void *head;
    const uint8_t *payload;
    size_t len;
};

/* Answers the call itself on failure. */
static bool take(kd_rpc_call *call, const ProtobufCMessageDescriptor *desc, const uint8_t *bytes,
                 size_t len, struct bulk *out)
{
    ProtobufCMessage *m = NULL;
    kd_diag diag = {0};
    *out = (struct bulk){0};
    if (kd_wire_unpack_bulk(desc, bytes, len, &m, &out->payload, &out->len, &diag) != 0) {
        kd_rpc_finish_diag(call, &diag);
        return false;
    }
    out->head = m;
    return true;
}

static kd_exchange_entry *find(kd_daemon *d, kd_rpc_call *call, const char *job, uint32_t stage)
{
    kd_job_id id;
    kd_exchange_entry *e = kd_id_parse(job, &id) ? kd_stage_acquire(d, id, stage) : NULL;
    if (!e)
        kd_rpc_finish(call, -KD_ESTALE, "that stage does not run now");
    return e;
}

#define BULK_HANDLER(name, type, descriptor, function)                                             \
    static void name(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)               \
    {                                                                                              \
        struct bulk in;                                                                            \
        if (!take(call, &descriptor, bytes, len, &in))                                             \
            return;                                                                                \
        const type *m = in.head;                                                                   \
        kd_exchange_entry *e = find(arg, call, m->job, m->stage);                                  \
        if (e)                                                                                     \
            function(e->x, call, m, in.payload, in.len);                                           \
        kd_stage_release(arg, e);                                                                  \
        kd_wire_free(in.head);                                                                     \
    }

/* Calls that may wait remember their exchange, so that a client that goes away is forgotten there.
 */
#define WAIT_HANDLER(name, type, descriptor, function)                                             \
    static void name(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)               \
    {                                                                                              \
        struct bulk in;                                                                            \
        if (!take(call, &descriptor, bytes, len, &in))                                             \
            return;                                                                                \
        const type *m = in.head;                                                                   \
        kd_exchange_entry *e = find(arg, call, m->job, m->stage);                                  \
        if (e) {                                                                                   \
            kd_rpc_call_set_data(call, e);                                                         \
            function(e->x, call, m);                                                               \
        }                                                                                          \
        kd_wire_free(in.head);                                                                     \
    }

BULK_HANDLER(on_push, Distill__V1__NodeChunk, distill__v1__node_chunk__descriptor, kd_exchange_push)
BULK_HANDLER(on_publish, Distill__V1__SliceChunk, distill__v1__slice_chunk__descriptor,
             kd_exchange_publish)
BULK_HANDLER(on_gather, Distill__V1__GatherChunk, distill__v1__gather_chunk__descriptor,
             kd_exchange_gather)
BULK_HANDLER(on_push_values, Distill__V1__ValueChunk, distill__v1__value_chunk__descriptor,
             kd_exchange_push_values)
WAIT_HANDLER(on_await_values, Distill__V1__ValueRequest, distill__v1__value_request__descriptor,
             kd_exchange_await_values)
WAIT_HANDLER(on_await_sum, Distill__V1__SumRequest, distill__v1__sum_request__descriptor,
             kd_exchange_await_sum)
WAIT_HANDLER(on_await_slice, Distill__V1__SliceRequest, distill__v1__slice_request__descriptor,
             kd_exchange_await_slice)
WAIT_HANDLER(on_fetch_state, Distill__V1__SliceRequest, distill__v1__slice_request__descriptor,
             kd_exchange_fetch_state)

static void on_wait_closed(kd_rpc_call *call, bool cancelled, void *arg)
{
    kd_exchange_entry *e = kd_rpc_call_data(call);
    if (!e)
        return;
    if (cancelled)
        kd_exchange_forget(e->x, call);
    kd_stage_release(arg, e);
}

/* ---- the bank */

/* Borrowed until kd_bank_release. */
static int bank_of(kd_daemon *d, const char *job, const Distill__V1__BankKey *k, kd_bank **out,
                   kd_diag *diag)
{
    kd_job_id id;
    if (!k)
        return kd_fail(diag, -KD_EINVAL, "the call names no bank");
    kd_bank_key key = {k->teacher, k->precision, k->numerics, k->data, k->view_rule, k->classes};
    int rc = kd_bank_get(d->bank, &key, out, diag);
    if (rc == 0 && kd_id_parse(job, &id))
        kd_bank_note_use(*out, id, k->wanted);
    return rc;
}

/* A bank is a store of what can be computed again: that it cannot be read or written costs teacher
 * passes and no job, and is said once until it works again. */
static bool bank_failed(kd_daemon *d, int rc, const kd_diag *diag)
{
    bool failed = rc == -KD_ELIMIT || rc == -KD_EIO || rc == -KD_EDATA;
    if ((failed || rc == 0) && atomic_exchange(&d->bank_failed, failed) != failed)
        kd_warn("%s%s",
                failed ? "logits are not kept, but computed again: " : "logits are kept again",
                failed ? diag->msg : "");
    return failed;
}

static void on_get_logits(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    struct bulk in;
    if (!take(call, &distill__v1__logit_request__descriptor, bytes, len, &in))
        return;
    const Distill__V1__LogitRequest *m = in.head;
    kd_diag diag = {0};
    kd_bank *bank = NULL;
    kd_buf records, head;
    kd_buf_init(&records, KD_MAX_PAYLOAD_BYTES);
    kd_buf_init(&head, KD_MAX_CONTROL_BYTES);
    int rc = in.len % 8 == 0 ? bank_of(arg, m->job, m->bank, &bank, &diag)
                             : kd_fail(&diag, -KD_EINVAL, "wanted samples come in 8 bytes each");
    if (rc != 0 && bank_failed(arg, rc, &diag))
        rc = 0;
    else if (rc == 0)
        rc = kd_bank_find(bank, in.payload, in.len / 8, &records, &diag);
    Distill__V1__LogitBlock reply = DISTILL__V1__LOGIT_BLOCK__INIT;
    reply.crc32c = kd_crc32c(0, records.data, records.len);
    if (rc == 0)
        rc = kd_wire_pack_bulk_head(&reply, records.len, &head);
    if (rc == 0) {
        struct iovec parts[] = {{head.data, head.len}, {records.data, records.len}};
        atomic_fetch_add(&((kd_daemon *)arg)->counts.logit_bytes[1], records.len);
        kd_rpc_reply(call, parts, 2);
    } else {
        kd_rpc_finish_diag(call, &diag);
    }
    kd_bank_release(bank);
    kd_buf_clear(&records);
    kd_buf_clear(&head);
    kd_wire_free(in.head);
}

static void on_put_logits(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    struct bulk in;
    if (!take(call, &distill__v1__logit_block__descriptor, bytes, len, &in))
        return;
    const Distill__V1__LogitBlock *m = in.head;
    kd_diag diag = {0};
    kd_bank *bank = NULL;
    bool differs = false;
    Distill__V1__PutLogitsReply reply = DISTILL__V1__PUT_LOGITS_REPLY__INIT;
    bool crc_ok = kd_crc32c(0, in.payload, in.len) == m->crc32c;
    if (crc_ok)
        atomic_fetch_add(&((kd_daemon *)arg)->counts.logit_bytes[0], in.len);
    int rc = crc_ok ? bank_of(arg, m->job, m->bank, &bank, &diag)
                    : kd_fail(&diag, -KD_EDATA, "the payload's CRC32C differs; send it again");
    if (rc == 0)
        rc = kd_bank_put(bank, in.payload, in.len, &reply.stored, &differs, &diag);
    kd_bank_release(bank);
    if (rc == 0)
        kd_answer(call, &reply);
    else
        kd_rpc_finish_diag(call, &diag);
    if (crc_ok)
        (void)bank_failed(arg, rc, &diag);
    if (differs)
        kd_warn("divergence: two workers computed other logits for one sample: job=%.12s", m->job);
    kd_wire_free(in.head);
}

/* ---- blobs */

struct blob_task {
    kd_rpc_call *call;
    Distill__V1__BlobRequest *req;
};

static int blob_path(kd_daemon *d, const Distill__V1__BlobRequest *req, char *out, size_t size,
                     kd_diag *diag)
{
    kd_digest digest;
    kd_job_id id;
    if (!kd_digest_parse(req->digest, &digest))
        return kd_fail(diag, -KD_EINVAL, "a blob is named by 32 hex digits");
    kd_file_row row;
    if (kd_id_parse(req->job, &id)) {
        int rc = kd_state_find_artefact(&d->state, id, "-", req->digest, &row, diag);
        if (rc < 0)
            return rc;
        if (rc == 1) {
            snprintf(out, size, "%s", row.path);
            return 0;
        }
    }
    snprintf(out, size, "%s/blobs/%s", d->state.dir, req->digest);
    return 0;
}

static void loop_get_blob(kd_daemon *d, void *arg)
{
    struct blob_task *t = arg;
    kd_diag diag = {0};
    char path[4200];
    int rc = blob_path(d, t->req, path, sizeof path, &diag);
    if (rc == 0)
        rc = kd_send_file_piece(t->call, path, t->req->digest, t->req->offset, &diag);
    if (rc != 0)
        kd_rpc_finish_diag(t->call, &diag);
    kd_rpc_call_unref(t->call);
    kd_wire_free((ProtobufCMessage *)t->req);
    free(t);
}

int kd_send_file_piece(kd_rpc_call *call, const char *path, const char *digest, uint64_t offset,
                       kd_diag *diag)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        if (fd >= 0)
            close(fd);
        return kd_fail(diag, -KD_ENOENT, "there is no such file here");
    }
    Distill__V1__BlobChunk m = DISTILL__V1__BLOB_CHUNK__INIT;
    m.digest = (char *)digest;
    m.size = (uint64_t)st.st_size;
    m.offset = offset;
    kd_buf head;
    kd_buf_init(&head, KD_MAX_CONTROL_BYTES);
    uint8_t *piece = malloc(KD_BLOB_PIECE);
    ssize_t n = 0;
    int rc = piece ? 0 : kd_fail(diag, -KD_ENOMEM, "no memory for a piece of a file");
    if (rc == 0 && offset > m.size)
        rc =
            kd_fail(diag, -KD_EINVAL, "the file ends before byte %llu", (unsigned long long)offset);
    if (rc == 0 && (n = pread(fd, piece, KD_BLOB_PIECE, (off_t)offset)) < 0)
        rc = kd_fail(diag, -KD_EIO, "cannot read: %s", strerror(errno));
    close(fd);
    if (rc == 0) {
        m.crc32c = kd_crc32c(0, piece, (size_t)n);
        rc = kd_wire_pack_bulk_head(&m, (size_t)n, &head);
    }
    if (rc == 0) {
        struct iovec parts[] = {{head.data, head.len}, {piece, (size_t)n}};
        kd_rpc_reply(call, parts, 2);
    }
    kd_buf_clear(&head);
    free(piece);
    return rc;
}

static void on_get_blob(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    kd_diag diag = {0};
    ProtobufCMessage *m = NULL;
    if (kd_wire_unpack_checked(&distill__v1__blob_request__descriptor, bytes, len, NULL, &m,
                               &diag) != 0) {
        kd_rpc_finish_diag(call, &diag);
        return;
    }
    struct blob_task *t = kd_xalloc(sizeof *t);
    t->call = kd_rpc_call_ref(call);
    t->req = (Distill__V1__BlobRequest *)m;
    if (!kd_daemon_post(arg, loop_get_blob, t)) {
        kd_rpc_finish(call, -KD_EUNAVAIL, "the coordinator is stopping");
        kd_rpc_call_unref(call);
        kd_wire_free(m);
        free(t);
    }
}

/* ---- choices */

struct choice_task {
    kd_rpc_call *call;
    Distill__V1__Choice *m;
};

static void loop_decide(kd_daemon *d, void *arg)
{
    struct choice_task *t = arg;
    Distill__V1__ChoiceReply reply = DISTILL__V1__CHOICE_REPLY__INIT;
    kd_diag diag = {0};
    if (kd_choice_make(d, t->m, &reply, &diag) == 0)
        kd_answer(t->call, &reply);
    else
        kd_rpc_finish_diag(t->call, &diag);
    kd_rpc_call_unref(t->call);
    kd_wire_free((ProtobufCMessage *)t->m);
    free(t);
}

static void on_decide(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    kd_diag diag = {0};
    ProtobufCMessage *m = NULL;
    if (kd_wire_unpack_checked(&distill__v1__choice__descriptor, bytes, len, NULL, &m, &diag) !=
        0) {
        kd_rpc_finish_diag(call, &diag);
        return;
    }
    struct choice_task *t = kd_xalloc(sizeof *t);
    t->call = kd_rpc_call_ref(call);
    t->m = (Distill__V1__Choice *)m;
    if (!kd_daemon_post(arg, loop_decide, t)) {
        kd_rpc_finish(call, -KD_EUNAVAIL, "the coordinator is stopping");
        kd_rpc_call_unref(call);
        kd_wire_free(m);
        free(t);
    }
}

/* ---- artefacts */

struct piece_task {
    kd_rpc_call *call;
    Distill__V1__ArtefactPiece *m;
    uint8_t *piece;
    size_t len;
};

static void free_piece(struct piece_task *t)
{
    kd_rpc_call_unref(t->call);
    kd_wire_free((ProtobufCMessage *)t->m);
    free(t->piece);
    free(t);
}

static void loop_put_artefact(kd_daemon *d, void *arg)
{
    struct piece_task *t = arg;
    Distill__V1__UploadReply reply = DISTILL__V1__UPLOAD_REPLY__INIT;
    kd_diag diag = {0};
    if (kd_artefact_add_piece(d, t->m, t->piece, t->len, &reply, &diag) == 0)
        kd_answer(t->call, &reply);
    else
        kd_rpc_finish_diag(t->call, &diag);
    free_piece(t);
}

static void on_put_artefact(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    struct bulk in;
    if (!take(call, &distill__v1__artefact_piece__descriptor, bytes, len, &in))
        return;
    struct piece_task *t = kd_xalloc(sizeof *t);
    *t = (struct piece_task){.call = kd_rpc_call_ref(call), .m = in.head, .len = in.len};
    t->piece = malloc(in.len ? in.len : 1);
    if (t->piece && in.len)
        memcpy(t->piece, in.payload, in.len);
    if (!t->piece) {
        kd_rpc_finish(call, -KD_ENOMEM, "no memory for a piece of a file");
        free_piece(t);
    } else if (!kd_daemon_post(arg, loop_put_artefact, t)) {
        kd_rpc_finish(call, -KD_EUNAVAIL, "the coordinator is stopping");
        free_piece(t);
    }
}

#define UNARY(method, limit, handler, closed)                                                      \
    {                                                                                              \
        .path = "/distill.v1.Exchange/" method, .kind = KD_RPC_UNARY, .max_request = limit,        \
        .on_message = handler, .on_close = closed                                                  \
    }
const kd_rpc_method kd_exchange_methods[] = {
    UNARY("PushNode", KD_MAX_BULK_BYTES, on_push, NULL),
    UNARY("AwaitSum", KD_MAX_CONTROL_BYTES, on_await_sum, on_wait_closed),
    UNARY("Publish", KD_MAX_BULK_BYTES, on_publish, NULL),
    UNARY("AwaitSlice", KD_MAX_CONTROL_BYTES, on_await_slice, on_wait_closed),
    UNARY("FetchState", KD_MAX_CONTROL_BYTES, on_fetch_state, on_wait_closed),
    UNARY("PutLogits", KD_MAX_BULK_BYTES, on_put_logits, NULL),
    UNARY("GetLogits", KD_MAX_BULK_BYTES, on_get_logits, NULL),
    UNARY("Gather", KD_MAX_BULK_BYTES, on_gather, NULL),
    UNARY("PushValues", KD_MAX_BULK_BYTES, on_push_values, NULL),
    UNARY("AwaitValues", KD_MAX_CONTROL_BYTES, on_await_values, on_wait_closed),
    UNARY("GetBlob", KD_MAX_CONTROL_BYTES, on_get_blob, NULL),
    UNARY("Decide", KD_MAX_CONTROL_BYTES, on_decide, NULL),
    UNARY("PutArtefact", KD_MAX_BULK_BYTES, on_put_artefact, NULL),
};
const size_t kd_n_exchange_methods = KD_COUNT(kd_exchange_methods);

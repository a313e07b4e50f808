#include "exchange.h"

#include "kd/bfloat16.h"
#include "kd/hash.h"
#include "wire/wire.h"

#include "distill.pb-c.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_BLOB ((size_t)4 << 30)
#define DAMAGED_TRIES 8 /* of a blocking call; as many in a row are no accident */

/* Whom a call waits for at the coordinator. One that waits for others is repeated by the caller, so
 * that a lost one costs no more than its time. */
enum awaits { AWAITS_NOBODY, AWAITS_OTHERS };
static const int g_wait_ms[] = {[AWAITS_NOBODY] = 20000, [AWAITS_OTHERS] = 10000};

enum answer { ANSWER_PLAIN, ANSWER_PUBLISH, ANSWER_SUM, ANSWER_SLICE, ANSWER_VALUES };

struct pending {
    enum answer answer;
    kd_rpc_channel *quick; /* of a call that is answered at once; else NULL */
    kd_exchange_done done;
    void *arg;
};

/* What is answered at once and was not may be the connection's fault. */
static void judge(kd_rpc_channel *ch, int rc)
{
    if (rc == -KD_ETIMEOUT)
        kd_rpc_channel_reconnect(ch);
}

/* The bulk answers: payload, and what stands before it. */
static int read_bulk(const kd_rpc_result *r, enum answer kind, kd_exchange_answer *a, kd_diag *diag)
{
    static const ProtobufCMessageDescriptor *const types[] = {
        [ANSWER_SUM] = &distill__v1__sum_chunk__descriptor,
        [ANSWER_SLICE] = &distill__v1__slice_chunk__descriptor,
        [ANSWER_VALUES] = &distill__v1__value_chunk__descriptor};
    ProtobufCMessage *m = NULL;
    uint32_t crc = 0;
    int rc = kd_wire_unpack_bulk(types[kind], r->bytes, r->len, &m, &a->payload, &a->len, diag);
    if (rc != 0)
        return rc;
    if (kind == ANSWER_SUM) {
        const Distill__V1__SumChunk *sum = (Distill__V1__SumChunk *)m;
        a->checkpoint = sum->checkpoint;
        a->scale = sum->scale;
        a->version = sum->step;
        a->chunk = sum->chunk;
        crc = sum->crc32c;
    } else if (kind == ANSWER_SLICE) {
        a->version = ((Distill__V1__SliceChunk *)m)->version;
        a->chunk = ((Distill__V1__SliceChunk *)m)->chunk;
        crc = ((Distill__V1__SliceChunk *)m)->crc32c;
    } else {
        crc = ((Distill__V1__ValueChunk *)m)->crc32c;
    }
    kd_wire_free(m);
    if (kd_crc32c(0, a->payload, a->len) != crc)
        return kd_fail(diag, -KD_EUNAVAIL, "the answer's CRC32C differs");
    return 0;
}

static void on_done(const kd_rpc_result *r, void *arg)
{
    struct pending *p = arg;
    kd_diag diag = {.code = r->code};
    kd_exchange_answer a = {.scale = 1};
    int rc = r->code;
    memcpy(diag.msg, r->text, sizeof diag.msg);
    if (p->quick)
        judge(p->quick, rc);
    if (rc == 0 && p->answer >= ANSWER_SUM) {
        rc = read_bulk(r, p->answer, &a, &diag);
    } else if (rc == 0 && p->answer == ANSWER_PUBLISH) {
        ProtobufCMessage *m = NULL;
        rc = kd_wire_unpack_checked(&distill__v1__publish_reply__descriptor, r->bytes, r->len, NULL,
                                    &m, &diag);
        a.want_state = rc == 0 && ((Distill__V1__PublishReply *)m)->want_state;
        kd_wire_free(m);
    }
    a.code = rc;
    a.text = diag.msg;
    p->done(p->arg, &a);
    free(p);
}

/* The parts of a call: its head, packed into `head`, and its payload if it has one. Returns their
 * number, negative on failure; the caller clears head in any case. */
static int pack(const void *message, const void *payload, size_t len, kd_buf *head,
                struct iovec parts[2])
{
    kd_buf_init(head, KD_MAX_CONTROL_BYTES);
    int rc =
        payload ? kd_wire_pack_bulk_head(message, len, head) : kd_wire_pack_checked(message, head);
    parts[0] = (struct iovec){head->data, head->len};
    parts[1] = (struct iovec){(void *)payload, len};
    return rc != 0 ? rc : payload ? 2 : 1;
}

static int begin(kd_rpc_channel *ch, const char *path, const void *message, const void *payload,
                 size_t len, enum awaits awaits, enum answer answer, kd_exchange_done done,
                 void *arg)
{
    struct pending *p = malloc(sizeof *p);
    if (!p)
        return -KD_ENOMEM;
    *p = (struct pending){answer, awaits == AWAITS_NOBODY ? ch : NULL, done, arg};
    kd_buf head;
    struct iovec parts[2];
    int n = pack(message, payload, len, &head, parts);
    int rc =
        n < 0 ? n : kd_rpc_unary_start(ch, path, parts, n, g_wait_ms[awaits], false, on_done, p);
    kd_buf_clear(&head);
    if (rc != 0)
        free(p);
    return rc;
}

/* Each message has fields of its own for the stage that it is of. */
#define SET_STAGE(m, ref)                                                                          \
    ((m)->job = (char *)(ref)->job, (m)->stage = (ref)->stage, (m)->generation = (ref)->generation)

int kd_exchange_push(kd_rpc_channel *ch, const kd_stage_ref *ref, const kd_todo *push, int n_terms,
                     kd_exchange_done done, void *arg)
{
    Distill__V1__NodeChunk m = DISTILL__V1__NODE_CHUNK__INIT;
    m.job = (char *)ref->job;
    m.stage = ref->stage;
    m.generation = push->generation;
    m.step = push->version;
    m.node = push->node;
    m.chunk = push->chunk;
    m.check = push->check;
    m.process = ref->process;
    m.leaves = (uint32_t *)push->leaves;
    m.n_leaves = push->n_leaves;
    size_t len = push->floats * (push->bfloat16 ? sizeof(uint16_t) : sizeof(float));
    uint16_t *halves = push->bfloat16 ? malloc(len) : NULL;
    if (push->bfloat16 && !halves)
        return -KD_ENOMEM;
    if (halves)
        kd_bfloat16_pack(push->data, push->floats, halves);
    const void *payload = halves ? (const void *)halves : push->data;
    m.crc32c = kd_crc32c(0, payload, len);
    if (push->chunk == 0) {
        m.loss = push->sums->loss;
        m.correct = push->sums->correct;
        m.samples = push->sums->samples;
        m.terms = (double *)push->sums->terms;
        m.n_terms = (size_t)n_terms;
    }
    int rc = begin(ch, "/distill.v1.Exchange/PushNode", &m, payload, len, AWAITS_NOBODY,
                   ANSWER_PLAIN, done, arg);
    free(halves);
    return rc;
}

int kd_exchange_await_sum(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t step,
                          uint32_t chunk, kd_exchange_done done, void *arg)
{
    Distill__V1__SumRequest m = DISTILL__V1__SUM_REQUEST__INIT;
    SET_STAGE(&m, ref);
    m.step = step;
    m.chunk = chunk;
    return begin(ch, "/distill.v1.Exchange/AwaitSum", &m, NULL, 0, AWAITS_OTHERS, ANSWER_SUM, done,
                 arg);
}

static Distill__V1__SliceRequest slice_request(const kd_stage_ref *ref, uint64_t version,
                                               uint32_t chunk)
{
    Distill__V1__SliceRequest m = DISTILL__V1__SLICE_REQUEST__INIT;
    SET_STAGE(&m, ref);
    m.version = version;
    m.chunk = chunk;
    return m;
}

static int slice_call(kd_rpc_channel *ch, const char *path, const kd_stage_ref *ref,
                      uint64_t version, uint32_t chunk, kd_exchange_done done, void *arg)
{
    Distill__V1__SliceRequest m = slice_request(ref, version, chunk);
    return begin(ch, path, &m, NULL, 0, AWAITS_OTHERS, ANSWER_SLICE, done, arg);
}

int kd_exchange_await_slice(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t version,
                            uint32_t chunk, kd_exchange_done done, void *arg)
{
    return slice_call(ch, "/distill.v1.Exchange/AwaitSlice", ref, version, chunk, done, arg);
}

int kd_exchange_fetch_state(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t version,
                            uint32_t chunk, kd_exchange_done done, void *arg)
{
    return slice_call(ch, "/distill.v1.Exchange/FetchState", ref, version, chunk, done, arg);
}

int kd_exchange_publish(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t version,
                        uint32_t chunk, const float *data, size_t floats, bool with_state,
                        kd_exchange_done done, void *arg)
{
    Distill__V1__SliceChunk m = DISTILL__V1__SLICE_CHUNK__INIT;
    SET_STAGE(&m, ref);
    m.version = version;
    m.chunk = chunk;
    m.with_state = with_state;
    m.crc32c = kd_crc32c(0, data, floats * sizeof(float));
    return begin(ch, "/distill.v1.Exchange/Publish", &m, data, floats * sizeof(float),
                 AWAITS_NOBODY, ANSWER_PUBLISH, done, arg);
}

/* ---- blocking calls */

struct reply {
    kd_rpc_result r;
    ProtobufCMessage *m;
    const uint8_t *payload; /* lies in r.bytes */
    size_t len;
};

static void free_reply(struct reply *a)
{
    kd_wire_free(a->m);
    free(a->r.bytes);
    *a = (struct reply){0};
}

/* How the CRC32C beside the payload of a reply is found. */
typedef uint32_t crc_of(const ProtobufCMessage *m);

#define CRC_OF(name, type)                                                                         \
    static uint32_t name(const ProtobufCMessage *m)                                                \
    {                                                                                              \
        return ((const type *)m)->crc32c;                                                          \
    }
CRC_OF(crc_of_slice, Distill__V1__SliceChunk)
CRC_OF(crc_of_logits, Distill__V1__LogitBlock)
CRC_OF(crc_of_blob, Distill__V1__BlobChunk)

static int call_once(kd_rpc_channel *ch, const char *path, const struct iovec *parts, int n,
                     const ProtobufCMessageDescriptor *desc, crc_of *crc, struct reply *a,
                     kd_diag *diag)
{
    int rc = kd_rpc_unary(ch, path, parts, n, g_wait_ms[AWAITS_NOBODY], false, &a->r);
    judge(ch, rc);
    if (rc != 0)
        return kd_fail(diag, rc, "%s", a->r.text);
    if (desc)
        rc = kd_wire_unpack_bulk(desc, a->r.bytes, a->r.len, &a->m, &a->payload, &a->len, diag);
    if (rc == 0 && crc && kd_crc32c(0, a->payload, a->len) != crc(a->m))
        rc = kd_fail(diag, -KD_EDATA, "the CRC32C of an answer to %s differs", path);
    return rc;
}

/* Makes the call again where request or answer were damaged. desc NULL: the answer says no more
 * than that it was done; crc NULL: it has no payload. The caller frees the reply if the call went
 * well. */
static int call(kd_rpc_channel *ch, const char *path, const void *message, const void *payload,
                size_t len, const ProtobufCMessageDescriptor *desc, crc_of *crc, struct reply *out,
                kd_diag *diag)
{
    kd_buf head;
    struct iovec parts[2];
    *out = (struct reply){0};
    int n = pack(message, payload, len, &head, parts);
    int rc = n < 0 ? kd_fail(diag, n, "a request could not be packed") : -KD_EDATA;
    for (int tries = 0; rc == -KD_EDATA && tries < DAMAGED_TRIES; tries++) {
        free_reply(out);
        rc = call_once(ch, path, parts, n, desc, crc, out, diag);
    }
    kd_buf_clear(&head);
    if (rc != 0)
        free_reply(out);
    return rc;
}

/* A call whose answer says no more than that it was done. */
static int tell(kd_rpc_channel *ch, const char *path, const void *message, const void *payload,
                size_t len, kd_diag *diag)
{
    struct reply a;
    int rc = call(ch, path, message, payload, len, NULL, NULL, &a, diag);
    free_reply(&a);
    return rc;
}

int kd_exchange_gather(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t version, uint32_t unit,
                       const float *rows, size_t samples, int columns, double learning_rate,
                       kd_diag *diag)
{
    Distill__V1__GatherChunk m = DISTILL__V1__GATHER_CHUNK__INIT;
    size_t len = samples * (size_t)columns * sizeof(float);
    SET_STAGE(&m, ref);
    m.version = version;
    m.unit = unit;
    m.columns = (uint32_t)columns;
    m.learning_rate = learning_rate;
    m.crc32c = kd_crc32c(0, rows, len);
    return tell(ch, "/distill.v1.Exchange/Gather", &m, rows, len, diag);
}

int kd_exchange_push_values(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t step,
                            uint32_t slot, const float *values, size_t floats, kd_diag *diag)
{
    Distill__V1__ValueChunk m = DISTILL__V1__VALUE_CHUNK__INIT;
    size_t len = floats * sizeof(float);
    SET_STAGE(&m, ref);
    m.step = step;
    m.slot = slot;
    m.crc32c = kd_crc32c(0, values, len);
    return tell(ch, "/distill.v1.Exchange/PushValues", &m, values, len, diag);
}

int kd_exchange_await_values(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t step,
                             kd_exchange_done done, void *arg)
{
    Distill__V1__ValueRequest m = DISTILL__V1__VALUE_REQUEST__INIT;
    SET_STAGE(&m, ref);
    m.step = step;
    return begin(ch, "/distill.v1.Exchange/AwaitValues", &m, NULL, 0, AWAITS_OTHERS, ANSWER_VALUES,
                 done, arg);
}

int kd_exchange_get_average(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t version,
                            uint32_t chunk, float *out, size_t floats, uint32_t vectors,
                            kd_diag *diag)
{
    Distill__V1__SliceRequest m = slice_request(ref, version, chunk);
    struct reply a;
    int rc = call(ch, "/distill.v1.Exchange/FetchState", &m, NULL, 0,
                  &distill__v1__slice_chunk__descriptor, crc_of_slice, &a, diag);
    if (rc == 0 && a.len != (1 + (size_t)vectors) * floats * sizeof *out)
        rc = kd_fail(diag, -KD_EINTERNAL, "averaged parameters have %zu bytes", a.len);
    if (rc == 0)
        memcpy(out, a.payload + vectors * floats * sizeof *out, floats * sizeof *out);
    free_reply(&a);
    return rc;
}

int kd_exchange_put_artefact(kd_rpc_channel *ch, const char *job, uint32_t stage, const char *name,
                             const void *bytes, size_t len, kd_diag *diag)
{
    char hex[KD_DIGEST_HEX];
    kd_digest digest = kd_digest_of(bytes, len);
    kd_digest_hex(&digest, hex);
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < len;) {
        Distill__V1__ArtefactPiece m = DISTILL__V1__ARTEFACT_PIECE__INIT;
        const char *from = (const char *)bytes + at;
        size_t piece = KD_MIN((size_t)KD_BLOB_PIECE, len - at);
        m.job = (char *)job;
        m.stage = stage;
        m.name = (char *)name;
        m.digest = hex;
        m.size = len;
        m.offset = at;
        m.crc32c = kd_crc32c(0, from, piece);
        rc = tell(ch, "/distill.v1.Exchange/PutArtefact", &m, from, piece, diag);
        at += piece;
    }
    return rc;
}

int kd_exchange_decide(kd_rpc_channel *ch, const kd_stage_ref *ref, uint32_t teacher,
                       const char *value, const char *why, char out[33], bool *out_measure,
                       kd_diag *diag)
{
    Distill__V1__Choice m = DISTILL__V1__CHOICE__INIT;
    m.job = (char *)ref->job;
    m.process = ref->process;
    m.teacher = teacher;
    m.value = (char *)value;
    m.why = (char *)why;
    struct reply a;
    int rc = call(ch, "/distill.v1.Exchange/Decide", &m, NULL, 0,
                  &distill__v1__choice_reply__descriptor, NULL, &a, diag);
    if (rc == 0) {
        snprintf(out, 33, "%.32s", ((Distill__V1__ChoiceReply *)a.m)->value);
        *out_measure = ((Distill__V1__ChoiceReply *)a.m)->measure;
    }
    free_reply(&a);
    return rc;
}

static void fill_key(Distill__V1__BankKey *k, const kd_bank_ref *bank)
{
    distill__v1__bank_key__init(k);
    k->teacher = (char *)bank->teacher;
    k->precision = (char *)bank->precision;
    k->numerics = (char *)bank->numerics;
    k->data = (char *)bank->data;
    k->view_rule = (char *)bank->view_rule;
    k->classes = bank->classes;
    k->wanted = bank->wanted;
}

int kd_exchange_get_logits(kd_rpc_channel *ch, const kd_stage_ref *ref, const kd_bank_ref *bank,
                           const uint32_t *pairs, size_t n, kd_buf *out, kd_diag *diag)
{
    Distill__V1__LogitRequest m = DISTILL__V1__LOGIT_REQUEST__INIT;
    Distill__V1__BankKey key;
    fill_key(&key, bank);
    m.job = (char *)ref->job;
    m.bank = &key;
    struct reply a;
    int rc = call(ch, "/distill.v1.Exchange/GetLogits", &m, pairs, n * 8,
                  &distill__v1__logit_block__descriptor, crc_of_logits, &a, diag);
    if (rc == 0 && a.len % (8 + 4 * (size_t)bank->classes) != 0)
        rc = kd_fail(diag, -KD_EDATA, "the bank answered with broken records");
    if (rc == 0)
        rc = kd_buf_add(out, a.payload, a.len);
    free_reply(&a);
    return rc;
}

int kd_exchange_put_logits(kd_rpc_channel *ch, const kd_stage_ref *ref, const kd_bank_ref *bank,
                           const void *records, size_t len, kd_diag *diag)
{
    Distill__V1__LogitBlock m = DISTILL__V1__LOGIT_BLOCK__INIT;
    Distill__V1__BankKey key;
    fill_key(&key, bank);
    m.job = (char *)ref->job;
    m.bank = &key;
    m.crc32c = kd_crc32c(0, records, len);
    return tell(ch, "/distill.v1.Exchange/PutLogits", &m, records, len, diag);
}

bool kd_exchange_again(int rc, bool (*stopped)(void *arg), void *arg)
{
    if (!kd_err_retry(rc) && rc != -KD_ELIMIT) /* ELIMIT: the bank's disk is full */
        return false;
    usleep(KD_EXCHANGE_PAUSE_MS * 1000);
    return !stopped(arg);
}

int kd_exchange_get_blob(kd_rpc_channel *ch, const char *job, const char *digest, uint8_t **out,
                         size_t *out_len, kd_diag *diag)
{
    kd_buf file;
    kd_buf_init(&file, MAX_BLOB);
    int rc = 0;
    uint64_t size = 1;
    while (rc == 0 && file.len < size) {
        Distill__V1__BlobRequest m = DISTILL__V1__BLOB_REQUEST__INIT;
        m.job = (char *)job;
        m.digest = (char *)digest;
        m.offset = file.len;
        struct reply a;
        rc = call(ch, "/distill.v1.Exchange/GetBlob", &m, NULL, 0,
                  &distill__v1__blob_chunk__descriptor, crc_of_blob, &a, diag);
        if (rc == 0) {
            size = ((Distill__V1__BlobChunk *)a.m)->size;
            if (a.len == 0 && file.len < size)
                rc = kd_fail(diag, -KD_EDATA, "file %s ends early", digest);
            else if (kd_buf_add(&file, a.payload, a.len) != 0)
                rc = kd_fail(diag, -KD_ELIMIT, "file %s is larger than is accepted", digest);
        }
        free_reply(&a);
    }
    if (rc == 0) {
        kd_digest d = kd_digest_of(file.data, file.len);
        char hex[KD_DIGEST_HEX];
        kd_digest_hex(&d, hex);
        if (strcmp(hex, digest) != 0)
            rc = kd_fail(diag, -KD_EDATA, "file %s arrived with digest %s", digest, hex);
    }
    if (rc == 0) {
        *out_len = file.len;
        *out = (uint8_t *)kd_buf_take(&file);
    }
    kd_buf_clear(&file);
    return rc;
}

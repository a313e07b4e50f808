/* Messages: round trips, every limit and one past it, torn and hostile input. */
#include "kd_test.h"

#include "wire/wire.h"

#include "distill.pb-c.h"
#include "inference.pb-c.h"
#include "reflection.pb-c.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DESC(name) (&distill__v1__##name##__descriptor)

static int unpack(const ProtobufCMessageDescriptor *desc, const kd_buf *b, ProtobufCMessage **out,
                  kd_diag *diag)
{
    return kd_wire_unpack(desc, b->data, b->len, out, diag);
}

/* Unpacks and frees; returns the code, diag the sentence. */
static int verdict(const ProtobufCMessageDescriptor *desc, const kd_buf *b, kd_diag *diag)
{
    ProtobufCMessage *m = NULL;
    int rc = unpack(desc, b, &m, diag);
    assert_true((rc == 0) == (m != NULL));
    kd_wire_free(m);
    return rc;
}

static kd_buf packed(const void *msg)
{
    kd_buf b;
    kd_buf_init(&b, 64u << 20);
    assert_int_equal(kd_wire_pack(msg, &b), 0);
    return b;
}

/* Both clear b. */
static void accept_bytes(const ProtobufCMessageDescriptor *desc, kd_buf *b)
{
    kd_diag diag = {0};
    kd_assert_ok(verdict(desc, b, &diag), &diag);
    kd_buf_clear(b);
}

static void refuse_bytes(const ProtobufCMessageDescriptor *desc, kd_buf *b, int code,
                         const char *part)
{
    kd_diag diag = {0};
    kd_assert_fails(verdict(desc, b, &diag), code, &diag, part);
    kd_buf_clear(b);
}

static void assert_accepted(const ProtobufCMessageDescriptor *desc, const void *msg)
{
    kd_buf b = packed(msg);
    accept_bytes(desc, &b);
}

static void assert_refused(const ProtobufCMessageDescriptor *desc, const void *msg, int code,
                           const char *part)
{
    kd_buf b = packed(msg);
    refuse_bytes(desc, &b, code, part);
}

static char *text_of(size_t n)
{
    char *s = kd_xalloc(n + 1);
    memset(s, 'x', n);
    return s;
}

static void put_varint(kd_buf *b, uint64_t v)
{
    do {
        uint8_t byte = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        assert_int_equal(kd_buf_add(b, &byte, 1), 0);
        v >>= 7;
    } while (v);
}

static void put_tag(kd_buf *b, unsigned field, unsigned type)
{
    put_varint(b, (uint64_t)field << 3 | type);
}

static void put_number(kd_buf *b, unsigned field, uint64_t v)
{
    put_tag(b, field, 0);
    put_varint(b, v);
}

static void put_bytes(kd_buf *b, unsigned field, const void *p, size_t n)
{
    put_tag(b, field, 2);
    put_varint(b, n);
    assert_int_equal(kd_buf_add(b, p, n), 0);
}

/* ---- round trips */

static void test_wire_round_trip(void **state)
{
    (void)state;
    Distill__V1__Range r1 = DISTILL__V1__RANGE__INIT, r2 = DISTILL__V1__RANGE__INIT;
    r1.first = 3;
    r1.count = 4;
    r2.first = UINT32_MAX;
    Distill__V1__Range *ranges[] = {&r1, &r2};
    Distill__V1__Begin begin = DISTILL__V1__BEGIN__INIT;
    begin.job = "0123456789ab";
    begin.version = UINT64_MAX;
    begin.slots = ranges;
    begin.n_slots = 2;
    begin.evaluate_first = true;
    Distill__V1__CoordinatorMessage m = DISTILL__V1__COORDINATOR_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__COORDINATOR_MESSAGE__KIND_BEGIN;
    m.begin = &begin;
    kd_buf b = packed(&m);
    Distill__V1__CoordinatorMessage *got = NULL;
    kd_diag diag = {0};
    kd_assert_ok(unpack(DESC(coordinator_message), &b, (ProtobufCMessage **)&got, &diag), &diag);
    assert_int_equal(got->kind_case, DISTILL__V1__COORDINATOR_MESSAGE__KIND_BEGIN);
    assert_string_equal(got->begin->job, "0123456789ab");
    assert_true(got->begin->version == UINT64_MAX);
    assert_int_equal(got->begin->n_slots, 2);
    assert_int_equal(got->begin->slots[0]->count, 4);
    assert_int_equal(got->begin->slots[1]->first, UINT32_MAX);
    assert_true(got->begin->evaluate_first);
    kd_buf again = packed(got);
    assert_int_equal(again.len, b.len);
    assert_memory_equal(again.data, b.data, b.len);
    kd_wire_free((ProtobufCMessage *)got);
    kd_buf_clear(&again);
    kd_buf_clear(&b);
}

static void test_wire_empty_message(void **state)
{
    (void)state;
    kd_diag diag = {0};
    ProtobufCMessage *m = NULL;
    kd_assert_ok(kd_wire_unpack(DESC(list_request), NULL, 0, &m, &diag), &diag);
    assert_int_equal(((Distill__V1__ListRequest *)m)->limit, 0);
    kd_wire_free(m);
    kd_wire_free(NULL);
    m = NULL;
    kd_assert_fails(kd_wire_unpack(DESC(worker_message), "", 0, &m, &diag), KD_EINVAL, &diag,
                    "WorkerMessage");
    kd_assert_fails(kd_wire_unpack(DESC(coordinator_message), "", 0, &m, &diag), KD_EINVAL, &diag,
                    "CoordinatorMessage");
    assert_null(m);
}

static void test_wire_pack_respects_the_buffer(void **state)
{
    (void)state;
    Distill__V1__JobRequest m = DISTILL__V1__JOB_REQUEST__INIT;
    m.job = "0123456789ab";
    kd_buf b;
    kd_buf_init(&b, 14); /* tag, length, 12 digits */
    assert_int_equal(kd_wire_pack(&m, &b), 0);
    kd_buf_clear(&b);
    kd_buf_init(&b, 13);
    assert_int_equal(kd_wire_pack(&m, &b), -KD_ELIMIT);
    assert_int_equal(b.len, 0);
    kd_buf_clear(&b);
}

/* ---- limits */

struct limit {
    size_t limit;
    unsigned field;
    const ProtobufCMessageDescriptor *desc;
    const char *name;
};

static void test_wire_string_limits(void **state)
{
    (void)state;
    const struct limit rows[] = {
        {KD_MAX_JOB_TEXT, 2, DESC(submit_request), "SubmitRequest.text"},
        {64, 1, DESC(submit_request), "SubmitRequest.key"},
        {KD_MAX_STRING, 4, DESC(submit_request), "SubmitRequest.file_name"},
        {KD_MAX_STRING, 3, DESC(submit_request), "SubmitRequest.set"},
        {KD_MAX_JOB_TEXT, 3, DESC(submit_reply), "SubmitReply.resolved"},
        {KD_MAX_JOB_TEXT, 2, DESC(job_detail), "JobDetail.resolved"},
        {KD_MAX_JOB_TEXT, 4, DESC(prepare), "Prepare.resolved"},
        {KD_MAX_JOB_TEXT, 2, DESC(trial), "Trial.resolved"},
        {2048, 2, DESC(tried), "Tried.problem"},
        {64, 1, DESC(tried_stage), "TriedStage.stage"},
        {1024, 2, DESC(tried_stage), "TriedStage.problem"},
        {1024, 3, DESC(tried_stage), "TriedStage.note"},
        {1024, 1, DESC(estimate), "Estimate.why"},
        {64, 2, DESC(estimate), "Estimate.worker"},
        {2048, 3, DESC(estimate), "Estimate.problem"},
        {64, 1, DESC(stage_estimate), "StageEstimate.stage"},
        {1024, 2, DESC(stage_estimate), "StageEstimate.problem"},
        {1024, 3, DESC(stage_estimate), "StageEstimate.note"},
        {KD_MAX_JOB_TEXT, 14, DESC(stage_info), "StageInfo.table"},
        {KD_MAX_METADATA, 17, DESC(stage_info), "StageInfo.metadata"},
        {64, 1, DESC(job_request), "JobRequest.job"},
        {64, 10, DESC(submit_request), "SubmitRequest.verify_stage"},
        {64, 1, DESC(version_digest), "VersionDigest.stage"},
        {64, 1, DESC(scale_request), "ScaleRequest.job"},
        {64, 1, DESC(drain_request), "DrainRequest.worker"},
        {64, 3, DESC(hello), "Hello.name"},
        {64, 1, DESC(heartbeat), "Heartbeat.job"},
        {64, 7, DESC(submit_request), "SubmitRequest.continue_job"},
        {64, 9, DESC(submit_request), "SubmitRequest.replay_job"},
        {64, 9, DESC(job_summary), "JobSummary.sweep"},
        {KD_MAX_LABEL, 12, DESC(job_summary), "JobSummary.label"},
        {KD_MAX_JOB_TEXT, 7, DESC(job_detail), "JobDetail.text"},
        {64, 8, DESC(job_detail), "JobDetail.continued"},
        {64, 9, DESC(job_detail), "JobDetail.replayed"},
        {64, 14, DESC(stage_record), "StageRecord.shared"},
        {64, 18, DESC(job_summary), "JobSummary.owner"},
        {64, 1, DESC(enroll_request), "EnrollRequest.token"},
        {KD_MAX_PEM, 2, DESC(enroll_request), "EnrollRequest.csr"},
        {64, 3, DESC(enroll_request), "EnrollRequest.name"},
        {64, 4, DESC(enroll_request), "EnrollRequest.suggested"},
        {KD_MAX_PEM, 1, DESC(renew_request), "RenewRequest.csr"},
        {KD_MAX_PEM, 1, DESC(certificate_reply), "CertificateReply.certificate"},
        {16, 1, DESC(create_token_request), "CreateTokenRequest.role"},
        {64, 2, DESC(create_token_request), "CreateTokenRequest.name"},
        {128, 1, DESC(create_token_reply), "CreateTokenReply.token"},
        {64, 1, DESC(revoke_token_request), "RevokeTokenRequest.id"},
        {64, 1, DESC(revoke_request), "RevokeRequest.who"},
        {64, 2, DESC(audit_request), "AuditRequest.name"},
        {64, 1, DESC(set_retention_request), "SetRetentionRequest.name"},
        {32, 2, DESC(set_retention_request), "SetRetentionRequest.value"},
        {64, 1, DESC(bank_request), "BankRequest.bank"},
        {64, 1, DESC(list_checkpoints_request), "ListCheckpointsRequest.job"},
        {64, 2, DESC(list_checkpoints_request), "ListCheckpointsRequest.stage"},
        {64, 1, DESC(fetch_checkpoint_request), "FetchCheckpointRequest.job"},
        {64, 2, DESC(fetch_checkpoint_request), "FetchCheckpointRequest.stage"},
    };
    for (size_t i = 0; i < KD_COUNT(rows); i++) {
        char *text = text_of(rows[i].limit + 1);
        kd_buf b;
        kd_buf_init(&b, KD_MAX_CONTROL_BYTES);
        put_bytes(&b, rows[i].field, text, rows[i].limit);
        accept_bytes(rows[i].desc, &b);
        put_bytes(&b, rows[i].field, text, rows[i].limit + 1);
        refuse_bytes(rows[i].desc, &b, KD_ELIMIT, rows[i].name);
        free(text);
    }
}

static void test_wire_repeated_limits(void **state)
{
    (void)state;
    const struct limit rows[] = {
        {64, 3, DESC(submit_request), "SubmitRequest.set"},
        {16, 5, DESC(submit_request), "SubmitRequest.blobs"},
        {KD_MAX_SLOTS, 5, DESC(begin), "Begin.slots"},
        {KD_MAX_REPEATED, 6, DESC(begin), "Begin.chunks"},
        {KD_MAX_SLOTS, 11, DESC(begin), "Begin.units"},
        {KD_MAX_SLOTS, 4, DESC(units), "Units.slots"},
        {KD_MAX_REPEATED, 16, DESC(stage_info), "StageInfo.class_names"},
        {KD_MAX_MODELS, 3, DESC(measured), "Measured.models"},
        {KD_MAX_TRIED, 3, DESC(tried), "Tried.stages"},
        {KD_MAX_TRIED, 8, DESC(estimate), "Estimate.stages"},
        {KD_MAX_SWEEP_JOBS, 6, DESC(submit_reply), "SubmitReply.children"},
        {KD_MAX_SWEEP_JOBS, 6, DESC(job_detail), "JobDetail.jobs"},
        {KD_MAX_DIGESTS, 1, DESC(digests_reply), "DigestsReply.digests"},
        {KD_MAX_NAMED_WORKERS, 10, DESC(job_detail), "JobDetail.slow"},
        {KD_MAX_NAMED_WORKERS, 11, DESC(job_detail), "JobDetail.quarantined"},
        {8, 15, DESC(stage_record), "StageRecord.terms"},
        {KD_MAX_ACCESS_ROWS, 1, DESC(list_tokens_reply), "ListTokensReply.tokens"},
        {KD_MAX_ACCESS_ROWS, 1, DESC(list_certificates_reply),
         "ListCertificatesReply.certificates"},
        {KD_MAX_ACCESS_ROWS, 1, DESC(revoke_reply), "RevokeReply.certificates"},
        {KD_MAX_ACCESS_ROWS, 1, DESC(audit_reply), "AuditReply.entries"},
    };
    for (size_t i = 0; i < KD_COUNT(rows); i++) {
        kd_diag diag = {0};
        kd_buf b;
        kd_buf_init(&b, KD_MAX_CONTROL_BYTES);
        for (size_t k = 0; k < rows[i].limit; k++)
            put_bytes(&b, rows[i].field, "", 0);
        kd_assert_ok(verdict(rows[i].desc, &b, &diag), &diag);
        put_bytes(&b, rows[i].field, "", 0);
        refuse_bytes(rows[i].desc, &b, KD_ELIMIT, rows[i].name);
    }
}

static void test_wire_message_size_limits(void **state)
{
    (void)state;
    /* Without payload: padded to the byte with an unknown field. */
    char *pad = text_of(KD_MAX_BULK_BYTES);
    kd_buf b;
    kd_buf_init(&b, KD_MAX_BULK_BYTES + 1);
    put_bytes(&b, 1000, pad, KD_MAX_CONTROL_BYTES - 5); /* two bytes of tag, three of length */
    assert_int_equal(b.len, KD_MAX_CONTROL_BYTES);
    accept_bytes(DESC(list_request), &b);
    put_bytes(&b, 1000, pad, KD_MAX_CONTROL_BYTES - 4);
    refuse_bytes(DESC(list_request), &b, KD_ELIMIT, "ListRequest");
    /* With payload. */
    put_bytes(&b, 15, pad, KD_MAX_BULK_BYTES - 5);
    assert_int_equal(b.len, KD_MAX_BULK_BYTES);
    accept_bytes(DESC(blob_chunk), &b);
    put_bytes(&b, 15, pad, KD_MAX_BULK_BYTES - 4);
    refuse_bytes(DESC(blob_chunk), &b, KD_ELIMIT, "BlobChunk");
    free(pad);
}

/* An inference request may be larger than other messages, within what its reader says, and is
 * checked like them. */
static void test_wire_large_messages(void **state)
{
    (void)state;
    const size_t floats = 1u << 19;
    const ProtobufCMessageDescriptor *desc = &inference__model_infer_request__descriptor;
    Inference__InferTensorContents c = INFERENCE__INFER_TENSOR_CONTENTS__INIT;
    Inference__ModelInferRequest__InferInputTensor in =
        INFERENCE__MODEL_INFER_REQUEST__INFER_INPUT_TENSOR__INIT;
    Inference__ModelInferRequest__InferInputTensor *inputs[] = {&in};
    Inference__ModelInferRequest m = INFERENCE__MODEL_INFER_REQUEST__INIT;
    kd_diag diag = {0};
    ProtobufCMessage *got = NULL;
    c.fp32_contents = calloc(floats, sizeof(float));
    c.n_fp32_contents = floats;
    in.contents = &c;
    m.inputs = inputs;
    m.n_inputs = 1;
    kd_buf b = packed(&m);
    kd_assert_ok(kd_wire_unpack_large(desc, b.data, b.len, b.len, &got, &diag), &diag);
    assert_int_equal(((Inference__ModelInferRequest *)got)->inputs[0]->contents->n_fp32_contents,
                     floats);
    kd_wire_free(got);
    kd_assert_fails(kd_wire_unpack_large(desc, b.data, b.len, b.len - 1, &got, &diag), KD_ELIMIT,
                    &diag, "at most");
    kd_assert_fails(kd_wire_unpack_large(desc, b.data, b.len - 1, b.len, &got, &diag), KD_EDATA,
                    &diag, "ModelInferRequest");
    refuse_bytes(desc, &b, KD_ELIMIT, "at most"); /* as any other message */
    c.fp32_contents[floats - 1] = NAN;
    b = packed(&m);
    kd_assert_fails(kd_wire_unpack_large(desc, b.data, b.len, b.len, &got, &diag), KD_EINVAL, &diag,
                    "InferTensorContents.fp32_contents is not a finite number");
    kd_buf_clear(&b);
    free(c.fp32_contents);
}

/* ---- what validation refuses */

static void test_wire_text_must_be_utf8(void **state)
{
    (void)state;
    static const char *const good[] = {"",
                                       "abc",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf",
                                       "gr\xc3\xbc\xc3\x9f dich"};
    /* Lone continuation, overlong forms, a surrogate, above U+10FFFF, cut off, not UTF-8 at all. */
    static const char *const bad[] = {"\x80",         "\xc0\xaf",         "\xc1\xbf",
                                      "\xe0\x9f\xbf", "\xed\xa0\x80",     "\xf0\x8f\xbf\xbf",
                                      "\xc3",         "a\xe2\x82",        "\xf0\x90\x80",
                                      "\xff",         "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
                                      "\xc3(",        "x\xe2(\xa1"};
    kd_buf b;
    kd_buf_init(&b, 100);
    for (size_t i = 0; i < KD_COUNT(good); i++) {
        put_bytes(&b, 4, good[i], strlen(good[i]));
        accept_bytes(DESC(submit_request), &b);
    }
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        put_bytes(&b, 4, bad[i], strlen(bad[i]));
        refuse_bytes(DESC(submit_request), &b, KD_EINVAL, "SubmitRequest.file_name");
    }
    put_bytes(&b, 4, "a\0b", 3);
    refuse_bytes(DESC(submit_request), &b, KD_EINVAL, "NUL");
    /* In a repeated string and in a message inside another, too. */
    put_bytes(&b, 3, "\xff", 1);
    refuse_bytes(DESC(submit_request), &b, KD_EINVAL, "SubmitRequest.set");
    put_bytes(&b, 5, "\x0a\x01\xff", 3);
    refuse_bytes(DESC(submit_request), &b, KD_EINVAL, "NamedBlob.path");
}

static void test_wire_digests(void **state)
{
    (void)state;
    Distill__V1__BlobRequest m = DISTILL__V1__BLOB_REQUEST__INIT;
    assert_accepted(DESC(blob_request), &m); /* empty: none */
    m.digest = "0123456789abcdef0123456789abcdef";
    assert_accepted(DESC(blob_request), &m);
    static const char *const bad[] = {
        "0123456789abcdef0123456789abcde", "0123456789abcdef0123456789abcdef0",
        "0123456789ABCDEF0123456789abcdef", "0123456789abcdef0123456789abcdeg",
        "../../../../../../etc/passwd...."};
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        m.digest = (char *)bad[i];
        assert_refused(DESC(blob_request), &m, KD_EINVAL, "BlobRequest.digest");
    }
    Distill__V1__BankKey key = DISTILL__V1__BANK_KEY__INIT;
    key.teacher = "nothing";
    assert_refused(DESC(bank_key), &key, KD_EINVAL, "BankKey.teacher");
    Distill__V1__Event event = DISTILL__V1__EVENT__INIT;
    event.data = "{\"a\": 1}"; /* `data` is a digest in BankKey only */
    assert_accepted(DESC(event), &event);
}

static void test_wire_enums(void **state)
{
    (void)state;
    kd_buf b;
    kd_buf_init(&b, 100);
    for (uint64_t v = 0; v <= 5; v++) {
        put_number(&b, 3, v);
        accept_bytes(DESC(job_summary), &b);
    }
    static const uint64_t bad[] = {6,
                                   42,
                                   INT32_MAX,
                                   (uint64_t)INT32_MAX + 1,
                                   UINT32_MAX,
                                   UINT64_MAX /* -1 */,
                                   UINT64_C(1) << 32};
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        put_number(&b, 3, bad[i]);
        refuse_bytes(DESC(job_summary), &b, KD_EINVAL, "JobSummary.state");
    }
}

static void test_wire_numbers_must_be_finite(void **state)
{
    (void)state;
    Distill__V1__NodeChunk m = DISTILL__V1__NODE_CHUNK__INIT;
    static const double good[] = {0.0, -1.5, DBL_MAX, -DBL_MAX, DBL_TRUE_MIN};
    for (size_t i = 0; i < KD_COUNT(good); i++) {
        m.loss = good[i];
        assert_accepted(DESC(node_chunk), &m);
    }
    const double bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        m.loss = bad[i];
        assert_refused(DESC(node_chunk), &m, KD_EINVAL, "NodeChunk.loss");
    }
}

static void test_wire_one_alternative_only(void **state)
{
    (void)state;
    kd_buf b;
    kd_buf_init(&b, 100);
    kd_diag diag = {0};
    put_bytes(&b, 2, "", 0); /* heartbeat */
    kd_assert_ok(verdict(DESC(worker_message), &b, &diag), &diag);
    put_bytes(&b, 5, "", 0); /* and log */
    refuse_bytes(DESC(worker_message), &b, KD_EINVAL, "WorkerMessage");
    /* An alternative of a newer peer alone says nothing to us. */
    put_bytes(&b, 99, "", 0);
    refuse_bytes(DESC(worker_message), &b, KD_EINVAL, "WorkerMessage");
    /* A message that comes in two halves would have to be merged; ours are never split. */
    put_bytes(&b, 8, "", 0);
    put_bytes(&b, 8, "", 0);
    refuse_bytes(DESC(job_summary), &b, KD_ELIMIT, "JobSummary.progress");
}

static void test_wire_unknown_fields_are_skipped_up_to_a_limit(void **state)
{
    (void)state;
    kd_buf b;
    kd_buf_init(&b, 10000);
    kd_diag diag = {0};
    for (int i = 0; i < 16; i++) {
        put_number(&b, 500, UINT64_MAX);
        put_tag(&b, 501, 1);
        assert_int_equal(kd_buf_add(&b, "12345678", 8), 0);
        put_tag(&b, 502, 5);
        assert_int_equal(kd_buf_add(&b, "1234", 4), 0);
        put_bytes(&b, 503, "xyz", 3);
    }
    put_number(&b, 1, 7);
    Distill__V1__ListRequest *m = NULL;
    kd_assert_ok(unpack(DESC(list_request), &b, (ProtobufCMessage **)&m, &diag), &diag);
    assert_int_equal(m->limit, 7);
    kd_wire_free((ProtobufCMessage *)m);
    put_number(&b, 500, 0);
    refuse_bytes(DESC(list_request), &b, KD_EDATA, "unknown");
    /* Groups have not been written by anybody for a decade. */
    put_tag(&b, 500, 3);
    put_tag(&b, 500, 4);
    refuse_bytes(DESC(list_request), &b, KD_EDATA, "ListRequest");
    /* A known field with a foreign wire type, and field number 0. */
    put_bytes(&b, 1, "", 0);
    refuse_bytes(DESC(list_request), &b, KD_EDATA, "ListRequest.limit");
    put_number(&b, 0, 0);
    refuse_bytes(DESC(list_request), &b, KD_EDATA, "tag");
}

/* proto3 packs repeated numbers into one field; readers take both forms. */
static void test_wire_packed_numbers(void **state)
{
    (void)state;
    const ProtobufCMessageDescriptor *desc =
        &grpc__reflection__v1__extension_number_response__descriptor;
    kd_buf b, inner;
    kd_buf_init(&b, KD_MAX_CONTROL_BYTES);
    kd_buf_init(&inner, KD_MAX_CONTROL_BYTES);
    kd_diag diag = {0};
    for (uint64_t i = 0; i < KD_MAX_REPEATED; i++)
        put_varint(&inner, i);
    put_bytes(&b, 2, inner.data, inner.len);
    put_bytes(&b, 2, "", 0);
    Grpc__Reflection__V1__ExtensionNumberResponse *m = NULL;
    kd_assert_ok(unpack(desc, &b, (ProtobufCMessage **)&m, &diag), &diag);
    assert_int_equal(m->n_extension_number, KD_MAX_REPEATED);
    assert_int_equal(m->extension_number[300], 300);
    kd_wire_free((ProtobufCMessage *)m);
    put_number(&b, 2, 1); /* one more, not packed */
    refuse_bytes(desc, &b, KD_ELIMIT, "extension_number");
    kd_buf_clear(&inner);
    put_bytes(&b, 2, "\x01\x80", 2); /* cut off inside */
    refuse_bytes(desc, &b, KD_EDATA, "extension_number");
}

static void test_wire_torn_at_every_byte(void **state)
{
    (void)state;
    Distill__V1__StageInfo info = DISTILL__V1__STAGE_INFO__INIT;
    char *names[] = {"daisy", "tulip", "r\xc3\xb6schen"};
    info.parameters = 123456789;
    info.class_names = names;
    info.n_class_names = 3;
    info.data_digest = "0123456789abcdef0123456789abcdef";
    info.table = "[]";
    Distill__V1__StageReady ready = DISTILL__V1__STAGE_READY__INIT;
    ready.job = "0123456789ab";
    ready.info = &info;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_READY;
    m.ready = &ready;
    kd_buf b = packed(&m);
    for (size_t n = 0; n < b.len; n++) {
        /* In memory of its own, so that a read past the end is seen. */
        uint8_t *part = malloc(n ? n : 1);
        assert_non_null(part);
        memcpy(part, b.data, n);
        ProtobufCMessage *got = NULL;
        kd_diag diag = {0};
        int rc = kd_wire_unpack(DESC(worker_message), part, n, &got, &diag);
        assert_true(rc == -KD_EDATA || (n == 0 && rc == -KD_EINVAL));
        assert_null(got);
        assert_true(diag.msg[0] != '\0');
        free(part);
    }
    kd_buf_clear(&b);
}

/* Two bytes on the wire become an object of a hundred in memory. */
static void test_wire_amplification_is_bounded(void **state)
{
    (void)state;
    kd_buf b, inner;
    kd_buf_init(&b, KD_MAX_CONTROL_BYTES);
    kd_buf_init(&inner, KD_MAX_CONTROL_BYTES);
    kd_diag diag = {0};
    /* Seven stages of 65 000 empty epochs each keep every count within its limit. */
    for (int i = 0; i < 65000; i++)
        put_bytes(&inner, 8, "", 0);
    for (int i = 0; i < 7; i++)
        put_bytes(&b, 3, inner.data, inner.len);
    kd_assert_fails(verdict(DESC(job_detail), &b, &diag), KD_ELIMIT, &diag, "memory");
    kd_buf_clear(&inner);
    kd_buf_clear(&b);
    /* A few of them are an ordinary message. */
    for (int i = 0; i < 1000; i++)
        put_bytes(&inner, 8, "", 0);
    put_bytes(&b, 3, inner.data, inner.len);
    kd_assert_ok(verdict(DESC(job_detail), &b, &diag), &diag);
    kd_buf_clear(&inner);
    kd_buf_clear(&b);
}

/* ---- bulk messages */

static kd_buf bulk(const void *head, const void *payload, size_t n)
{
    kd_buf b;
    kd_buf_init(&b, 16u << 20);
    assert_int_equal(kd_wire_pack_bulk_head(head, n, &b), 0);
    assert_int_equal(kd_buf_add(&b, payload, n), 0);
    return b;
}

static void test_wire_bulk_round_trip(void **state)
{
    (void)state;
    Distill__V1__NodeChunk head = DISTILL__V1__NODE_CHUNK__INIT;
    head.job = "0123456789ab";
    head.node = 5;
    head.loss = -0.25;
    static const size_t sizes[] = {0, 1, 127, 128, 16383, 16384, 1u << 20, KD_MAX_PAYLOAD_BYTES};
    uint8_t *payload = kd_xalloc(KD_MAX_PAYLOAD_BYTES + 1);
    for (size_t i = 0; i < KD_MAX_PAYLOAD_BYTES; i++)
        payload[i] = (uint8_t)(i * 31);
    for (size_t i = 0; i < KD_COUNT(sizes); i++) {
        kd_buf b = bulk(&head, payload, sizes[i]);
        kd_diag diag = {0};
        size_t head_len, n = 77;
        const uint8_t *p = payload;
        kd_assert_ok(kd_wire_split(b.data, b.len, &head_len, &p, &n, &diag), &diag);
        assert_int_equal(n, sizes[i]);
        if (n)
            assert_ptr_equal(p, (uint8_t *)b.data + b.len - n); /* not copied */
        else
            assert_null(p);
        Distill__V1__NodeChunk *m = NULL;
        kd_assert_ok(kd_wire_unpack_bulk(DESC(node_chunk), b.data, b.len, (ProtobufCMessage **)&m,
                                         &p, &n, &diag),
                     &diag);
        assert_int_equal(m->node, 5);
        kd_assert_close(m->loss, -0.25, 0, 0);
        assert_int_equal(m->payload.len, 0);
        assert_int_equal(n, sizes[i]);
        if (n)
            assert_memory_equal(p, payload, n);
        kd_wire_free((ProtobufCMessage *)m);
        /* Any protobuf implementation reads it as one message. */
        m = NULL;
        kd_assert_ok(unpack(DESC(node_chunk), &b, (ProtobufCMessage **)&m, &diag), &diag);
        assert_int_equal(m->payload.len, sizes[i]);
        if (sizes[i])
            assert_memory_equal(m->payload.data, payload, sizes[i]);
        /* And what one writes, with the payload in the struct, splits as well. */
        if (sizes[i]) {
            Distill__V1__NodeChunk plain = head;
            plain.payload = m->payload;
            kd_buf whole = packed(&plain);
            Distill__V1__NodeChunk *other = NULL;
            kd_assert_ok(kd_wire_unpack_bulk(DESC(node_chunk), whole.data, whole.len,
                                             (ProtobufCMessage **)&other, &p, &n, &diag),
                         &diag);
            assert_int_equal(n, sizes[i]);
            assert_memory_equal(p, payload, n);
            assert_true(other->loss == head.loss);
            kd_wire_free((ProtobufCMessage *)other);
            kd_buf_clear(&whole);
        }
        kd_wire_free((ProtobufCMessage *)m);
        kd_buf_clear(&b);
    }
    kd_buf b = bulk(&head, payload, KD_MAX_PAYLOAD_BYTES + 1);
    kd_diag diag = {0};
    size_t head_len, n;
    const uint8_t *p;
    kd_assert_fails(kd_wire_split(b.data, b.len, &head_len, &p, &n, &diag), KD_ELIMIT, &diag,
                    "payload");
    kd_buf_clear(&b);
    free(payload);
}

static void test_wire_payload_must_be_last(void **state)
{
    (void)state;
    Distill__V1__NodeChunk head = DISTILL__V1__NODE_CHUNK__INIT;
    head.job = "0123456789ab";
    kd_diag diag = {0};
    size_t head_len, n;
    const uint8_t *p;
    ProtobufCMessage *m = NULL;
    kd_buf b = bulk(&head, "12345678", 8);
    put_number(&b, 5, 1);
    kd_assert_fails(kd_wire_split(b.data, b.len, &head_len, &p, &n, &diag), KD_EDATA, &diag,
                    "payload");
    kd_assert_fails(kd_wire_unpack_bulk(DESC(node_chunk), b.data, b.len, &m, &p, &n, &diag),
                    KD_EDATA, &diag, "payload");
    kd_buf_clear(&b);
    b = bulk(&head, "12345678", 8);
    put_bytes(&b, 15, "12345678", 8); /* a second one */
    kd_assert_fails(kd_wire_split(b.data, b.len, &head_len, &p, &n, &diag), KD_EDATA, &diag,
                    "payload");
    kd_buf_clear(&b);
    /* Longer than the message says; and of another wire type. */
    b = bulk(&head, "12345678", 8);
    kd_assert_fails(kd_wire_split(b.data, b.len - 1, &head_len, &p, &n, &diag), KD_EDATA, &diag,
                    "");
    kd_buf_clear(&b);
    kd_buf_init(&b, 100);
    put_number(&b, 15, 3);
    kd_assert_fails(kd_wire_unpack_bulk(DESC(node_chunk), b.data, b.len, &m, &p, &n, &diag),
                    KD_EDATA, &diag, "NodeChunk.payload");
    kd_buf_clear(&b);
    assert_null(m);
}

static void test_wire_bulk_torn_at_every_byte(void **state)
{
    (void)state;
    Distill__V1__SliceChunk head = DISTILL__V1__SLICE_CHUNK__INIT;
    head.job = "0123456789ab";
    head.version = 300;
    kd_buf b = bulk(&head, "0123456789abcdef", 16), fields = packed(&head);
    for (size_t n = 0; n < b.len; n++) {
        uint8_t *part = malloc(n ? n : 1);
        assert_non_null(part);
        memcpy(part, b.data, n);
        ProtobufCMessage *m = NULL;
        const uint8_t *p = NULL;
        size_t len = 0;
        int rc = kd_wire_unpack_bulk(DESC(slice_chunk), part, n, &m, &p, &len, NULL);
        /* Between two fields a shorter message begins; it just has no payload. */
        assert_true(rc == -KD_EDATA || (rc == 0 && n <= fields.len + 6 && p == NULL && len == 0));
        kd_wire_free(m);
        free(part);
    }
    kd_buf_clear(&fields);
    kd_buf_clear(&b);
}

/* Fields are as precious as the payload: a gradient for another node would be another student. */
static void test_wire_bulk_head_is_checked(void **state)
{
    (void)state;
    Distill__V1__NodeChunk head = DISTILL__V1__NODE_CHUNK__INIT;
    head.job = "0123456789ab";
    head.step = 12;
    head.node = 5;
    head.loss = 0.75;
    kd_buf b = bulk(&head, "0123456789abcdef", 16), fields = packed(&head);
    for (size_t bit = 0; bit < 8 * fields.len; bit++) {
        ProtobufCMessage *m = NULL;
        const uint8_t *p;
        size_t n;
        b.data[bit / 8] = (char)(b.data[bit / 8] ^ 1 << bit % 8);
        int rc = kd_wire_unpack_bulk(DESC(node_chunk), b.data, b.len, &m, &p, &n, NULL);
        /* A length that swallows the rest leaves no payload, which no handler takes for one. */
        assert_true(rc != 0 || n == 0);
        kd_wire_free(m);
        b.data[bit / 8] = (char)(b.data[bit / 8] ^ 1 << bit % 8);
    }
    kd_buf_clear(&fields);
    kd_buf_clear(&b);
}

static void test_wire_bulk_head_is_bounded(void **state)
{
    (void)state;
    char *pad = text_of(KD_MAX_CONTROL_BYTES);
    for (int extra = 0; extra < 2; extra++) {
        kd_buf b;
        kd_buf_init(&b, KD_MAX_BULK_BYTES);
        put_bytes(&b, 1000, pad, KD_MAX_CONTROL_BYTES - 5 + (size_t)extra);
        put_bytes(&b, 15, "1234", 4);
        ProtobufCMessage *m = NULL;
        const uint8_t *p;
        size_t n;
        kd_diag diag = {0};
        int rc = kd_wire_unpack_bulk(DESC(node_chunk), b.data, b.len, &m, &p, &n, &diag);
        if (extra)
            kd_assert_fails(rc, KD_ELIMIT, &diag, "NodeChunk");
        else
            kd_assert_ok(rc, &diag);
        kd_wire_free(m);
        kd_buf_clear(&b);
    }
    free(pad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wire_round_trip),
        cmocka_unit_test(test_wire_empty_message),
        cmocka_unit_test(test_wire_pack_respects_the_buffer),
        cmocka_unit_test(test_wire_string_limits),
        cmocka_unit_test(test_wire_repeated_limits),
        cmocka_unit_test(test_wire_message_size_limits),
        cmocka_unit_test(test_wire_large_messages),
        cmocka_unit_test(test_wire_text_must_be_utf8),
        cmocka_unit_test(test_wire_digests),
        cmocka_unit_test(test_wire_enums),
        cmocka_unit_test(test_wire_numbers_must_be_finite),
        cmocka_unit_test(test_wire_one_alternative_only),
        cmocka_unit_test(test_wire_unknown_fields_are_skipped_up_to_a_limit),
        cmocka_unit_test(test_wire_packed_numbers),
        cmocka_unit_test(test_wire_torn_at_every_byte),
        cmocka_unit_test(test_wire_amplification_is_bounded),
        cmocka_unit_test(test_wire_bulk_round_trip),
        cmocka_unit_test(test_wire_payload_must_be_last),
        cmocka_unit_test(test_wire_bulk_torn_at_every_byte),
        cmocka_unit_test(test_wire_bulk_head_is_checked),
        cmocka_unit_test(test_wire_bulk_head_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

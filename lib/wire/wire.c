#include "wire/wire.h"
#include "wire/pb.h"

#include <math.h>
#include <string.h>

#define MAX_DEPTH 8    /* no message type of ours contains itself; deeper is not ours */
#define MAX_FIELDS 64  /* of one message type */
#define MAX_UNKNOWN 64 /* fields of a newer peer, skipped */

/* ---- limits that differ from the general ones, by message and field */

static const struct {
    const char *message, *field;
    size_t limit;
} g_limits[] = {
    {"SubmitRequest", "text", KD_MAX_JOB_TEXT},
    {"SubmitRequest", "key", 64},
    {"SubmitRequest", "set", 64},
    {"SubmitRequest", "blobs", 16},
    {"SubmitRequest", "continue_job", 64},
    {"SubmitRequest", "replay_job", 64},
    {"SubmitRequest", "verify_stage", 64},
    {"SubmitReply", "resolved", KD_MAX_JOB_TEXT},
    {"SubmitReply", "children", KD_MAX_SWEEP_JOBS},
    {"Estimate", "why", 1024},
    {"Estimate", "worker", 64},
    {"Estimate", "problem", 2048},
    {"Estimate", "stages", KD_MAX_TRIED},
    {"StageEstimate", "stage", 64},
    {"StageEstimate", "problem", 1024},
    {"StageEstimate", "note", 1024},
    {"JobSummary", "sweep", 64},
    {"JobSummary", "label", KD_MAX_LABEL},
    {"JobDetail", "text", KD_MAX_JOB_TEXT},
    {"JobDetail", "jobs", KD_MAX_SWEEP_JOBS},
    {"JobDetail", "continued", 64},
    {"JobDetail", "replayed", 64},
    {"JobDetail", "slow", KD_MAX_NAMED_WORKERS},
    {"JobDetail", "quarantined", KD_MAX_NAMED_WORKERS},
    {"StageRecord", "shared", 64},
    {"StageRecord", "terms", 8},
    {"EpochRecord", "shares", 16},
    {"EpochRecord", "term_losses", 16},
    {"JobDetail", "resolved", KD_MAX_JOB_TEXT},
    {"JobDetail", "result", KD_MAX_JOB_TEXT},
    {"Prepare", "resolved", KD_MAX_JOB_TEXT},
    {"Trial", "resolved", KD_MAX_JOB_TEXT},
    {"Tried", "problem", 2048},
    {"Tried", "stages", KD_MAX_TRIED},
    {"TriedStage", "stage", 64},
    {"TriedStage", "problem", 1024},
    {"TriedStage", "note", 1024},
    {"StageInfo", "table", KD_MAX_JOB_TEXT},
    {"StageInfo", "model", 64},
    {"StageInfo", "metadata", KD_MAX_METADATA},
    {"Hello", "version", 64},
    {"Hello", "name", 64},
    {"Hello", "incarnation", 16},
    {"NamedBlob", "path", 4096},
    {"BlobRequest", "job", 64},
    {"Heartbeat", "job", 64},
    {"Heartbeat", "phase", 64},
    {"StageReady", "job", 64},
    {"StageProblem", "job", 64},
    {"WorkerLog", "job", 64},
    {"Measured", "job", 64},
    {"Released", "job", 64},
    {"ModelCost", "name", 64},
    {"NodeChunk", "job", 64},
    {"SumRequest", "job", 64},
    {"SliceRequest", "job", 64},
    {"SliceChunk", "job", 64},
    {"Choice", "job", 64},
    {"Choice", "value", 32},
    {"Choice", "why", 512},
    {"ChoiceReply", "value", 32},
    {"LogitRequest", "job", 64},
    {"LogitBlock", "job", 64},
    {"GatherChunk", "job", 64},
    {"NodeChunk", "terms", 16},
    {"ValueChunk", "job", 64},
    {"ValueRequest", "job", 64},
    {"ArtefactPiece", "job", 64},
    {"ArtefactPiece", "name", 64},
    {"StageInfo", "terms", 8},
    {"Prepare", "finished", 64},
    {"Hello", "cpu", 96},
    {"Hello", "blas", 64},
    {"Hello", "isa", 64},
    {"Begin", "slots", KD_MAX_SLOTS},
    {"Begin", "units", KD_MAX_SLOTS},
    {"Units", "slots", KD_MAX_SLOTS},
    {"NodeChunk", "leaves", KD_MAX_SLOTS},
    {"Measured", "models", KD_MAX_MODELS},
    {"BankKey", "precision", 32},
    {"BankKey", "view_rule", 1024},
    {"WorkerLog", "level", 16},
    {"WorkerLog", "text", 2048},
    {"StageProblem", "code", 64},
    {"StageProblem", "text", 2048},
    {"JobRequest", "job", 64},
    {"ScaleRequest", "job", 64},
    {"DigestsReply", "digests", KD_MAX_DIGESTS},
    {"VersionDigest", "stage", 64},
    {"DrainRequest", "worker", 64},
    {"WatchRequest", "job", 64},
    {"FetchRequest", "job", 64},
    {"FetchRequest", "name", 64},
    {"JobSummary", "owner", 64},
    {"EnrollRequest", "token", 64},
    {"EnrollRequest", "csr", KD_MAX_PEM},
    {"EnrollRequest", "name", 64},
    {"EnrollRequest", "suggested", 64},
    {"RenewRequest", "csr", KD_MAX_PEM},
    {"CertificateReply", "certificate", KD_MAX_PEM},
    {"CertificateReply", "name", 64},
    {"CreateTokenRequest", "role", 16},
    {"CreateTokenRequest", "name", 64},
    {"CreateTokenReply", "token", 128},
    {"RevokeTokenRequest", "id", 64},
    {"RevokeRequest", "who", 64},
    {"AuditRequest", "name", 64},
    {"ListTokensReply", "tokens", KD_MAX_ACCESS_ROWS},
    {"ListCertificatesReply", "certificates", KD_MAX_ACCESS_ROWS},
    {"RevokeReply", "certificates", KD_MAX_ACCESS_ROWS},
    {"AuditReply", "entries", KD_MAX_ACCESS_ROWS},
    {"ModelInferRequest", "model_name", KD_MAX_TENSOR_NAME},
    {"ModelInferRequest", "model_version", 64},
    {"ModelInferRequest", "id", 1024},
    {"ModelInferRequest", "inputs", KD_MAX_TENSORS},
    {"ModelInferRequest", "outputs", KD_MAX_TENSORS},
    {"ModelInferRequest", "raw_input_contents", KD_MAX_TENSORS},
    {"ModelInferRequest", "parameters", 64},
    {"ModelInferResponse", "outputs", KD_MAX_TENSORS},
    {"ModelInferResponse", "raw_output_contents", KD_MAX_TENSORS},
    {"ModelInferResponse", "parameters", 64},
    {"InferInputTensor", "name", KD_MAX_TENSOR_NAME},
    {"InferInputTensor", "datatype", 16},
    {"InferInputTensor", "shape", KD_MAX_TENSORS},
    {"InferInputTensor", "parameters", 64},
    {"InferRequestedOutputTensor", "name", KD_MAX_TENSOR_NAME},
    {"InferRequestedOutputTensor", "parameters", 64},
    {"InferOutputTensor", "name", KD_MAX_TENSOR_NAME},
    {"InferOutputTensor", "datatype", 16},
    {"InferOutputTensor", "shape", KD_MAX_TENSORS},
    {"InferOutputTensor", "parameters", 64},
    {"InferTensorContents", "fp32_contents", KD_MAX_TENSOR_FLOATS},
    {"ModelMetadataRequest", "name", KD_MAX_TENSOR_NAME},
    {"ModelMetadataRequest", "version", 64},
    {"ModelReadyRequest", "name", KD_MAX_TENSOR_NAME},
    {"ModelReadyRequest", "version", 64},
    {"ModelMetadataResponse", "platform", KD_MAX_TENSOR_NAME},
    {"ModelMetadataResponse", "versions", 64},
    {"ModelMetadataResponse", "inputs", 64},
    {"ModelMetadataResponse", "outputs", 64},
    {"TensorMetadata", "name", KD_MAX_TENSOR_NAME},
    {"TensorMetadata", "datatype", 16},
    {"TensorMetadata", "shape", KD_MAX_TENSORS},
    {"SetRetentionRequest", "name", 64},
    {"SetRetentionRequest", "value", 32},
    {"RetentionReply", "rules", 64},
    {"RetentionReply", "kept", 64},
    {"ListBanksReply", "banks", KD_MAX_BANKS},
    {"BankInfo", "jobs", KD_MAX_BANK_JOBS},
    {"BankRequest", "bank", 64},
    {"ListCheckpointsRequest", "job", 64},
    {"ListCheckpointsRequest", "stage", 64},
    {"ListCheckpointsReply", "checkpoints", KD_MAX_CHECKPOINTS},
    {"ListCheckpointsReply", "table", KD_MAX_JOB_TEXT},
    {"ListCheckpointsReply", "metadata", KD_MAX_METADATA},
    {"FetchCheckpointRequest", "job", 64},
    {"FetchCheckpointRequest", "stage", 64},
};

/* Fields that name content are empty or 32 lower-case hex digits; message NULL = any. */
static const struct {
    const char *message, *field;
} g_digests[] = {
    {NULL, "digest"},         {NULL, "best_digest"}, {NULL, "data_digest"},
    {NULL, "classes_digest"}, {NULL, "fingerprint"}, {NULL, "numerics"},
    {"BankKey", "teacher"},   {"BankKey", "data"},   {NULL, "content"},
};

static const char *const g_needs_kind[] = {"WorkerMessage", "CoordinatorMessage"};

static size_t limit_of(const ProtobufCMessageDescriptor *desc, const ProtobufCFieldDescriptor *f,
                       size_t general)
{
    for (size_t i = 0; i < KD_COUNT(g_limits); i++)
        if (strcmp(g_limits[i].field, f->name) == 0 &&
            strcmp(g_limits[i].message, desc->short_name) == 0)
            return g_limits[i].limit;
    return general;
}

static int check_string(const ProtobufCMessageDescriptor *desc, const ProtobufCFieldDescriptor *f,
                        const uint8_t *p, size_t n, kd_diag *diag)
{
    size_t limit =
        f->label == PROTOBUF_C_LABEL_REPEATED ? KD_MAX_STRING : limit_of(desc, f, KD_MAX_STRING);
    if (n > limit)
        return kd_fail(diag, -KD_ELIMIT, "%s.%s has %zu bytes, at most %zu are accepted",
                       desc->short_name, f->name, n, limit);
    if (!kd_pb_text(p, n))
        return kd_fail(diag, -KD_EINVAL, "%s.%s is not UTF-8 text without NUL", desc->short_name,
                       f->name);
    for (size_t i = 0; i < KD_COUNT(g_digests) && n > 0; i++) {
        if (strcmp(f->name, g_digests[i].field) != 0 ||
            (g_digests[i].message && strcmp(desc->short_name, g_digests[i].message) != 0))
            continue;
        bool ok = n == 32;
        for (size_t k = 0; ok && k < n; k++)
            ok = (p[k] >= '0' && p[k] <= '9') || (p[k] >= 'a' && p[k] <= 'f');
        if (!ok)
            return kd_fail(diag, -KD_EINVAL, "%s.%s is not a digest of 32 hex digits",
                           desc->short_name, f->name);
    }
    return 0;
}

static bool finite_bits(const uint8_t *p, bool wide)
{
    double d;
    float f;
    if (wide) {
        memcpy(&d, p, 8);
        return isfinite(d);
    }
    memcpy(&f, p, 4);
    return isfinite(f);
}

static const char g_torn[] = "the message is cut off inside %s.%s";

static int scan(const ProtobufCMessageDescriptor *desc, kd_pb_cursor c, int depth, kd_diag *diag);

static int scan_value(const ProtobufCMessageDescriptor *desc, const ProtobufCFieldDescriptor *f,
                      unsigned type, kd_pb_cursor *c, int depth, kd_diag *diag)
{
    uint64_t v = 0;
    const uint8_t *at = c->p;
    if (type == 0) {
        if (!kd_pb_varint(c, &v))
            return kd_fail(diag, -KD_EDATA, g_torn, desc->short_name, f->name);
        if (f->type == PROTOBUF_C_TYPE_ENUM &&
            (v > INT32_MAX || !protobuf_c_enum_descriptor_get_value(f->descriptor, (int)v)))
            return kd_fail(diag, -KD_EINVAL, "%s.%s has the unknown value %llu", desc->short_name,
                           f->name, (unsigned long long)v);
        return 0;
    }
    if (type == 1 || type == 5) {
        if (!kd_pb_skip(c, type == 1 ? 8 : 4))
            return kd_fail(diag, -KD_EDATA, g_torn, desc->short_name, f->name);
        if ((f->type == PROTOBUF_C_TYPE_DOUBLE || f->type == PROTOBUF_C_TYPE_FLOAT) &&
            !finite_bits(at, type == 1))
            return kd_fail(diag, -KD_EINVAL, "%s.%s is not a finite number", desc->short_name,
                           f->name);
        return 0;
    }
    kd_pb_cursor bytes;
    if (!kd_pb_bytes(c, &bytes))
        return kd_fail(diag, -KD_EDATA, g_torn, desc->short_name, f->name);
    if (f->type == PROTOBUF_C_TYPE_MESSAGE)
        return scan(f->descriptor, bytes, depth + 1, diag);
    if (f->type == PROTOBUF_C_TYPE_STRING)
        return check_string(desc, f, bytes.p, (size_t)(bytes.end - bytes.p), diag);
    return 0;
}

static int scan(const ProtobufCMessageDescriptor *desc, kd_pb_cursor c, int depth, kd_diag *diag)
{
    uint32_t counts[MAX_FIELDS] = {0}, unknown = 0, oneofs = 0;
    KD_BUG_ON(desc->n_fields > MAX_FIELDS);
    if (depth > MAX_DEPTH)
        return kd_fail(diag, -KD_ELIMIT, "messages nested deeper than %d", MAX_DEPTH);
    while (c.p < c.end) {
        uint64_t tag;
        if (!kd_pb_varint(&c, &tag) || tag >> 3 == 0 || tag >> 3 > 536870911)
            return kd_fail(diag, -KD_EDATA, "%s has a damaged field tag", desc->short_name);
        unsigned type = (unsigned)(tag & 7);
        const ProtobufCFieldDescriptor *f =
            protobuf_c_message_descriptor_get_field(desc, (unsigned)(tag >> 3));
        if (!f) {
            bool ok = ++unknown <= MAX_UNKNOWN && kd_pb_skip_value(&c, type);
            if (!ok)
                return kd_fail(diag, -KD_EDATA, "%s has damaged or too many unknown fields",
                               desc->short_name);
            continue;
        }
        size_t index = (size_t)(f - desc->fields);
        bool repeated = f->label == PROTOBUF_C_LABEL_REPEATED;
        bool packed = repeated && type == 2 && kd_pb_wire_type(f->type) != 2;
        kd_pb_cursor values = c;
        if (packed) {
            if (!kd_pb_bytes(&c, &values))
                return kd_fail(diag, -KD_EDATA, g_torn, desc->short_name, f->name);
            type = kd_pb_wire_type(f->type);
        } else if (type != kd_pb_wire_type(f->type)) {
            return kd_fail(diag, -KD_EDATA, "%s.%s has wire type %u", desc->short_name, f->name,
                           type);
        }
        if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
            oneofs++;
        size_t most = repeated                             ? limit_of(desc, f, KD_MAX_REPEATED)
                      : f->type == PROTOBUF_C_TYPE_MESSAGE ? 1 /* protobuf-c's merge loses fields */
                                                           : MAX_UNKNOWN;
        bool last = packed && values.p == values.end;
        while (!last) {
            if (++counts[index] > most)
                return kd_fail(diag, -KD_ELIMIT, "%s.%s comes more than %zu times",
                               desc->short_name, f->name, most);
            int rc = scan_value(desc, f, type, packed ? &values : &c, depth, diag);
            if (rc != 0)
                return rc;
            last = !packed || values.p == values.end;
        }
    }
    if (oneofs > 1)
        return kd_fail(diag, -KD_EINVAL, "%s has more than one alternative set", desc->short_name);
    for (size_t i = 0; i < KD_COUNT(g_needs_kind) && oneofs == 0; i++)
        if (strcmp(desc->short_name, g_needs_kind[i]) == 0)
            return kd_fail(diag, -KD_EINVAL, "%s says nothing: no alternative is set",
                           desc->short_name);
    return 0;
}

/* ---- unpacking under a budget */

static int unpack(const ProtobufCMessageDescriptor *desc, const void *bytes, size_t len,
                  size_t limit, size_t memory, ProtobufCMessage **out, kd_diag *diag)
{
    if (len > limit)
        return kd_fail(diag, -KD_ELIMIT, "%s of %zu bytes, at most %zu are accepted",
                       desc->short_name, len, limit);
    int rc = scan(desc, kd_pb_cursor_of(bytes, len), 0, diag);
    if (rc != 0)
        return rc;
    size_t budget = memory;
    ProtobufCMessage *m = kd_pb_unpack(desc, bytes, len, &budget);
    if (!m)
        return kd_fail(diag, budget < memory / 2 ? -KD_ELIMIT : -KD_EDATA,
                       "%s does not parse, or takes more than %zu bytes of memory",
                       desc->short_name, memory);
    *out = m;
    return 0;
}

int kd_wire_unpack(const ProtobufCMessageDescriptor *desc, const void *bytes, size_t len,
                   ProtobufCMessage **out, kd_diag *diag)
{
    const ProtobufCFieldDescriptor *payload =
        protobuf_c_message_descriptor_get_field(desc, KD_WIRE_PAYLOAD);
    size_t limit = payload && payload->type == PROTOBUF_C_TYPE_BYTES ? KD_MAX_BULK_BYTES
                                                                     : KD_MAX_CONTROL_BYTES;
    return unpack(desc, bytes, len, limit, KD_MAX_UNPACK_BYTES, out, diag);
}

int kd_wire_unpack_large(const ProtobufCMessageDescriptor *desc, const void *bytes, size_t len,
                         size_t most, ProtobufCMessage **out, kd_diag *diag)
{
    return unpack(desc, bytes, len, most, KD_MAX_UNPACK_BYTES + len, out, diag);
}

void kd_wire_free(ProtobufCMessage *msg)
{
    kd_pb_free(msg);
}

int kd_wire_pack(const void *msg, kd_buf *out)
{
    const ProtobufCMessage *m = msg;
    KD_BUG_ON(!protobuf_c_message_check(m));
    size_t size = protobuf_c_message_get_packed_size(m);
    char *at = kd_buf_grow(out, size);
    if (!at)
        return -KD_ELIMIT;
    protobuf_c_message_pack(m, (uint8_t *)at);
    return 0;
}

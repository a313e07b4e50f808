#include "remote.h"

#include "kserve/kserve.h"
#include "patience.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_REQUEST ((size_t)1 << 30)
#define MAX_METADATA ((size_t)1 << 20)
/* An answer may have other tensors, and texts, beside the one that was asked for. */
#define ANSWER_BESIDE ((size_t)4 << 20)
#define RAW_INPUT_CONTENTS 7 /* field of ModelInferRequest */

struct kd_remote {
    kd_remote_config cfg;
    kd_rpc_channel *channel;
    char input[KD_MAX_TENSOR_NAME + 1], output[KD_MAX_TENSOR_NAME + 1];
    bool nchw; /* pictures go as [3,h,w] */
    size_t floats, max_answer;
    kd_patience patience;
};

int kd_remote_new(const kd_remote_config *cfg, kd_remote **out, kd_diag *diag)
{
    kd_remote *r = kd_xalloc(sizeof *r);
    r->cfg = *cfg;
    r->floats = (size_t)cfg->size * (size_t)cfg->size * 3;
    r->max_answer = (size_t)cfg->pictures * (size_t)cfg->classes * sizeof(float) + ANSWER_BESIDE;
    const size_t request = (size_t)cfg->pictures * r->floats * sizeof(float) + KD_KSERVE_BESIDE;
    int rc =
        request <= MAX_REQUEST
            ? 0
            : kd_fail(diag, -KD_EINVAL,
                      "a request of %d pictures has %zu bytes, at most %zu are sent; use fewer "
                      "(teacher.pictures)",
                      cfg->pictures, request, MAX_REQUEST);
    if (rc == 0)
        rc = kd_rpc_channel_new_foreign(cfg->rpc, "teacher", cfg->address, cfg->tls,
                                        KD_MAX(request, r->max_answer), &r->channel, diag);
    if (rc != 0) {
        free(r);
        return rc;
    }
    kd_patience_init(&r->patience,
                     &(kd_patience_config){.timeout_ms = cfg->timeout_ms,
                                           .patience_ms = cfg->patience_ms,
                                           .stopped = cfg->stopped,
                                           .waits = cfg->waits,
                                           .arg = cfg->arg},
                     r->channel);
    *out = r;
    return 0;
}

void kd_remote_free(kd_remote *r)
{
    if (!r)
        return;
    kd_rpc_channel_free(r->channel);
    kd_patience_clear(&r->patience);
    free(r);
}

/* ---- calls */

static int refused(const kd_remote *r, const kd_rpc_result *result, int rc, kd_diag *diag)
{
    switch (result->oversize) {
    case KD_RPC_REPLY_TOO_LARGE:
        return kd_fail(diag, -KD_EDATA,
                       "its answer is larger than logits of %d pictures can be: %.700s",
                       r->cfg.pictures, result->text);
    case KD_RPC_REQUEST_TOO_LARGE:
        return kd_fail(diag, -KD_EINVAL,
                       "it takes no message as large as a request of %d pictures; use fewer "
                       "(teacher.pictures) or raise its limit: %.700s",
                       r->cfg.pictures, result->text);
    case KD_RPC_FITS:
        break;
    }
    return rc;
}

/* As kd_patience_call, with what is wrong with a message that is too large. */
static int call(kd_remote *r, const char *path, const struct iovec *parts, int n_parts, bool first,
                kd_rpc_result *result, kd_diag *diag)
{
    const int rc = kd_patience_call(&r->patience, path, parts, n_parts, first, result, diag);
    return rc == 0 || rc == -KD_ECANCELED ? rc : refused(r, result, rc, diag);
}

/* ---- what it is */

typedef Inference__ModelMetadataResponse__TensorMetadata tensor_meta;

static int read_input(kd_remote *r, const Inference__ModelMetadataResponse *m, kd_diag *diag)
{
    char shape[KD_KSERVE_SHAPE];
    const int size = r->cfg.size;
    if (m->n_inputs != 1)
        return kd_fail(diag, -KD_EINVAL, "it takes %zu inputs; a teacher takes pictures alone",
                       m->n_inputs);
    const tensor_meta *t = m->inputs[0];
    const int64_t *d = t->shape;
    bool fits = strcmp(t->datatype, "FP32") == 0 && t->n_shape == 4 &&
                (d[0] < 0 || d[0] == r->cfg.pictures);
    r->nchw = fits && d[1] == 3 && d[3] != 3;
    fits = fits && (r->nchw || d[3] == 3);
    for (int i = 0; fits && i < 2; i++) {
        const int64_t side = d[(r->nchw ? 2 : 1) + i];
        fits = side < 0 || side == size;
    }
    if (!fits)
        return kd_fail(diag, -KD_EINVAL,
                       "its input %.80s is %s %s; FP32 [-1, %d, %d, 3] or [-1, 3, %d, %d] was "
                       "expected (teacher.size; teacher.pictures where it wants a fixed number)",
                       t->name, t->datatype, kd_kserve_shape_text(d, t->n_shape, shape), size, size,
                       size, size);
    snprintf(r->input, sizeof r->input, "%s", t->name);
    return 0;
}

static bool is_row(const kd_remote *r, const tensor_meta *t)
{
    return strcmp(t->datatype, "FP32") == 0 && t->n_shape == 2 &&
           (t->shape[1] < 0 || t->shape[1] == r->cfg.classes);
}

/* The one that is asked for; else `logits`, else the only one that fits. */
static int read_output(kd_remote *r, const Inference__ModelMetadataResponse *m, kd_diag *diag)
{
    const char *wanted = r->cfg.output;
    const tensor_meta *found = NULL;
    char shape[KD_KSERVE_SHAPE], has[512] = "";
    size_t rows = 0, n = 0;
    for (size_t i = 0; i < m->n_outputs; i++) {
        const tensor_meta *t = m->outputs[i];
        if (n < sizeof has)
            n += (size_t)snprintf(has + n, sizeof has - n, "%s%.60s %s %s", i ? ", " : "", t->name,
                                  t->datatype, kd_kserve_shape_text(t->shape, t->n_shape, shape));
        if (!is_row(r, t) || (wanted[0] && strcmp(wanted, t->name) != 0))
            continue;
        rows++;
        if (!found || strcmp(t->name, "logits") == 0)
            found = t;
    }
    if (!found)
        return kd_fail(diag, -KD_EINVAL,
                       "it gives %s; %s%sFP32 [-1, %d] was expected, for the %d "
                       "classes of the data",
                       has, wanted, wanted[0] ? " " : "", r->cfg.classes, r->cfg.classes);
    if (rows > 1 && strcmp(found->name, "logits") != 0)
        return kd_fail(diag, -KD_EINVAL, "it gives %s; name the logits with teacher.output", has);
    snprintf(r->output, sizeof r->output, "%s", found->name);
    return 0;
}

int kd_remote_meet(kd_remote *r, kd_diag *diag)
{
    Inference__ModelMetadataRequest q = INFERENCE__MODEL_METADATA_REQUEST__INIT;
    kd_rpc_result result;
    ProtobufCMessage *m = NULL;
    kd_buf b;
    q.name = (char *)r->cfg.model;
    q.version = (char *)r->cfg.version;
    kd_buf_init(&b, MAX_METADATA);
    int rc = kd_wire_pack(&q, &b);
    if (rc == 0)
        rc = call(r, KD_KSERVE_PATH "ModelMetadata", &(struct iovec){b.data, b.len}, 1, true,
                  &result, diag);
    kd_buf_clear(&b);
    if (rc != 0)
        return rc;
    rc = kd_wire_unpack(&inference__model_metadata_response__descriptor, result.bytes, result.len,
                        &m, diag);
    free(result.bytes);
    if (rc == 0)
        rc = read_input(r, (Inference__ModelMetadataResponse *)m, diag);
    if (rc == 0)
        rc = read_output(r, (Inference__ModelMetadataResponse *)m, diag);
    kd_wire_free(m);
    return rc;
}

/* ---- inference */

/* The request but for its pixels, which follow raw, as the message's last field. */
static int pack_head(const kd_remote *r, size_t bytes, kd_buf *out)
{
    const int64_t n = r->cfg.pictures, size = r->cfg.size;
    int64_t nhwc[] = {n, size, size, 3}, nchw[] = {n, 3, size, size};
    Inference__ModelInferRequest__InferInputTensor in =
        INFERENCE__MODEL_INFER_REQUEST__INFER_INPUT_TENSOR__INIT;
    Inference__ModelInferRequest__InferRequestedOutputTensor wanted =
        INFERENCE__MODEL_INFER_REQUEST__INFER_REQUESTED_OUTPUT_TENSOR__INIT;
    Inference__ModelInferRequest__InferInputTensor *inputs[] = {&in};
    Inference__ModelInferRequest__InferRequestedOutputTensor *outputs[] = {&wanted};
    Inference__ModelInferRequest m = INFERENCE__MODEL_INFER_REQUEST__INIT;
    in.name = (char *)r->input;
    in.datatype = "FP32";
    in.shape = r->nchw ? nchw : nhwc;
    in.n_shape = KD_COUNT(nhwc);
    wanted.name = (char *)r->output;
    m.model_name = (char *)r->cfg.model;
    m.model_version = (char *)r->cfg.version;
    m.inputs = inputs;
    m.n_inputs = KD_COUNT(inputs);
    m.outputs = outputs;
    m.n_outputs = KD_COUNT(outputs);
    int rc = kd_wire_pack(&m, out);
    return rc == 0 ? kd_wire_add_bytes_head(RAW_INPUT_CONTENTS, bytes, out) : rc;
}

static int read_answer(const kd_remote *r, const Inference__ModelInferResponse *m, float *logits,
                       kd_diag *diag)
{
    char shape[KD_KSERVE_SHAPE];
    const int64_t want[] = {r->cfg.pictures, r->cfg.classes};
    const size_t floats = (size_t)want[0] * (size_t)want[1];
    const float *values = NULL;
    size_t i = 0;
    while (i < m->n_outputs && strcmp(m->outputs[i]->name, r->output) != 0)
        i++;
    if (i == m->n_outputs)
        return kd_fail(diag, -KD_EDATA, "its answer has no %s", r->output);
    const Inference__ModelInferResponse__InferOutputTensor *t = m->outputs[i];
    if (strcmp(t->datatype, "FP32") != 0 ||
        !kd_kserve_shape_is(t->shape, t->n_shape, want, KD_COUNT(want)))
        return kd_fail(diag, -KD_EDATA, "its answer is %s %s; FP32 [%d, %d] was expected",
                       t->datatype, kd_kserve_shape_text(t->shape, t->n_shape, shape),
                       r->cfg.pictures, r->cfg.classes);
    if (m->n_raw_output_contents > 0 && m->n_raw_output_contents != m->n_outputs)
        return kd_fail(diag, -KD_EDATA, "its answer has %zu tensors and contents of %zu",
                       m->n_outputs, m->n_raw_output_contents);
    const ProtobufCBinaryData *raw = m->n_raw_output_contents ? &m->raw_output_contents[i] : NULL;
    int rc = kd_kserve_floats(t->name, raw, t->contents, floats, &values, diag);
    if (rc != 0) {
        diag->code = -KD_EDATA;
        return kd_fail_at(diag, -KD_EDATA, "its answer");
    }
    memcpy(logits, values, floats * sizeof *logits);
    return 0;
}

/* [h,w,3] of each picture to [3,h,w]. */
static void to_planes(const kd_remote *r, const float *pixels, float *out)
{
    const size_t pixels_of = r->floats / 3;
    for (size_t p = 0; p < (size_t)r->cfg.pictures; p++, pixels += r->floats, out += r->floats)
        for (size_t i = 0; i < pixels_of; i++)
            for (size_t c = 0; c < 3; c++)
                out[c * pixels_of + i] = pixels[3 * i + c];
}

int kd_remote_ask(kd_remote *r, const float *pixels, float *logits, kd_diag *diag)
{
    const size_t bytes = (size_t)r->cfg.pictures * r->floats * sizeof(float);
    kd_rpc_result result;
    ProtobufCMessage *m = NULL;
    float *planes = r->nchw ? malloc(bytes) : NULL;
    kd_buf head;
    kd_buf_init(&head, KD_KSERVE_BESIDE);
    int rc = pack_head(r, bytes, &head);
    if (rc != 0 || (r->nchw && !planes))
        rc = kd_fail(diag, -KD_ENOMEM, "no memory for a request of %zu bytes", bytes);
    if (rc == 0) {
        if (planes)
            to_planes(r, pixels, planes);
        const struct iovec parts[] = {{head.data, head.len},
                                      {(void *)(uintptr_t)(planes ? planes : pixels), bytes}};
        rc = call(r, KD_KSERVE_PATH "ModelInfer", parts, KD_COUNT(parts), false, &result, diag);
    }
    kd_buf_clear(&head);
    free(planes);
    if (rc != 0)
        return rc;
    rc = kd_wire_unpack_large(&inference__model_infer_response__descriptor, result.bytes,
                              result.len, r->max_answer, &m, diag);
    free(result.bytes);
    if (rc != 0)
        return kd_fail_at(diag, rc, "its answer");
    rc = read_answer(r, (Inference__ModelInferResponse *)m, logits, diag);
    kd_wire_free(m);
    return rc;
}

/* The six calls of the inference protocol, on gRPC's threads. A request for an inference is checked
 * here as a whole; what is wrong with it costs nobody any computing. */
#include "serve.h"

#include "kd/clock.h"

#include <stdlib.h>
#include <string.h>

static const char *const g_inputs[KD_SERVE_INPUTS] = {"pixels", "image"};
static const char *const g_types[KD_SERVE_INPUTS] = {"FP32", "BYTES"};

static void answer(kd_rpc_call *call, const void *message)
{
    kd_buf b;
    kd_buf_init(&b, KD_MAX_CONTROL_BYTES);
    if (kd_wire_pack(message, &b) == 0)
        kd_rpc_reply(call, &(struct iovec){b.data, b.len}, 1);
    else
        kd_rpc_finish(call, -KD_ELIMIT, "the answer is too long for a message");
    kd_buf_clear(&b);
}

/* Answers the call itself on failure. */
static bool take(kd_rpc_call *call, const ProtobufCMessageDescriptor *desc, const uint8_t *bytes,
                 size_t len, void *out)
{
    kd_diag diag = {0};
    ProtobufCMessage *m = NULL;
    if (kd_wire_unpack(desc, bytes, len, &m, &diag) != 0) {
        kd_rpc_finish_diag(call, &diag);
        return false;
    }
    memcpy(out, &m, sizeof m);
    return true;
}

/* Which model a call is about. */
static int find_model(const kd_serve *s, const char *name, const char *version,
                      enum kd_serve_input *out, kd_diag *diag)
{
    int i = 0;
    while (i < KD_SERVE_INPUTS && strcmp(name, s->names[i]) != 0)
        i++;
    if (i == KD_SERVE_INPUTS)
        return kd_fail(diag, -KD_ENOENT, "there is no model \"%.80s\" here; there are %s and %s",
                       name, s->names[KD_SERVE_PIXELS], s->names[KD_SERVE_FILES]);
    if (version[0] && strcmp(version, KD_SERVE_VERSION) != 0)
        return kd_fail(diag, -KD_ENOENT,
                       "there is no version \"%.20s\" of %s; there is " KD_SERVE_VERSION, version,
                       s->names[i]);
    *out = (enum kd_serve_input)i;
    return 0;
}

/* ---- what there is */

static void on_live(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    Inference__ServerLiveRequest *m;
    Inference__ServerLiveResponse reply = INFERENCE__SERVER_LIVE_RESPONSE__INIT;
    (void)arg;
    reply.live = true;
    if (take(call, &inference__server_live_request__descriptor, bytes, len, &m)) {
        answer(call, &reply);
        kd_wire_free((ProtobufCMessage *)m);
    }
}

static void on_ready(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    kd_serve *s = arg;
    Inference__ServerReadyRequest *m;
    Inference__ServerReadyResponse reply = INFERENCE__SERVER_READY_RESPONSE__INIT;
    reply.ready = !atomic_load(&s->draining);
    if (take(call, &inference__server_ready_request__descriptor, bytes, len, &m)) {
        answer(call, &reply);
        kd_wire_free((ProtobufCMessage *)m);
    }
}

static void on_model_ready(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    kd_serve *s = arg;
    kd_diag diag = {0};
    enum kd_serve_input input;
    Inference__ModelReadyRequest *m;
    Inference__ModelReadyResponse reply = INFERENCE__MODEL_READY_RESPONSE__INIT;
    if (!take(call, &inference__model_ready_request__descriptor, bytes, len, &m))
        return;
    reply.ready = !atomic_load(&s->draining);
    if (find_model(s, m->name, m->version, &input, &diag) == 0)
        answer(call, &reply);
    else
        kd_rpc_finish_diag(call, &diag);
    kd_wire_free((ProtobufCMessage *)m);
}

static void on_server(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    static char *extensions[] = {"classification"};
    Inference__ServerMetadataRequest *m;
    Inference__ServerMetadataResponse reply = INFERENCE__SERVER_METADATA_RESPONSE__INIT;
    (void)arg;
    reply.name = "distill";
    reply.version = KD_VERSION;
    reply.extensions = extensions;
    reply.n_extensions = KD_COUNT(extensions);
    if (take(call, &inference__server_metadata_request__descriptor, bytes, len, &m)) {
        answer(call, &reply);
        kd_wire_free((ProtobufCMessage *)m);
    }
}

static void describe(kd_rpc_call *call, const kd_serve *s, enum kd_serve_input input)
{
    typedef Inference__ModelMetadataResponse__TensorMetadata tensor;
    static char *versions[] = {KD_SERVE_VERSION};
    int64_t row[] = {-1, s->net.net.n_classes};
    tensor in = INFERENCE__MODEL_METADATA_RESPONSE__TENSOR_METADATA__INIT, out[2] = {in, in},
           *inputs[] = {&in}, *outputs[] = {&out[0], &out[1]};
    Inference__ModelMetadataResponse m = INFERENCE__MODEL_METADATA_RESPONSE__INIT;
    in.name = (char *)g_inputs[input];
    in.datatype = (char *)g_types[input];
    in.shape = (int64_t *)s->shapes[input];
    in.n_shape = s->n_shape[input];
    out[0].name = "logits";
    out[1].name = "probabilities";
    for (size_t i = 0; i < KD_COUNT(out); i++) {
        out[i].datatype = "FP32";
        out[i].shape = row;
        out[i].n_shape = KD_COUNT(row);
    }
    m.name = (char *)s->names[input];
    m.versions = versions;
    m.n_versions = KD_COUNT(versions);
    m.platform = kd_graph_is_int8(s->net.net.graph) ? "distilld_int8" : "distilld_float32";
    m.inputs = inputs;
    m.n_inputs = KD_COUNT(inputs);
    m.outputs = outputs;
    m.n_outputs = KD_COUNT(outputs);
    answer(call, &m);
}

static void on_model(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    kd_serve *s = arg;
    kd_diag diag = {0};
    enum kd_serve_input input = KD_SERVE_PIXELS;
    Inference__ModelMetadataRequest *m;
    if (!take(call, &inference__model_metadata_request__descriptor, bytes, len, &m))
        return;
    if (find_model(s, m->name, m->version, &input, &diag) == 0)
        describe(call, s, input);
    else
        kd_rpc_finish_diag(call, &diag);
    kd_wire_free((ProtobufCMessage *)m);
}

/* ---- inference: what is asked for */

/* The classification extension; any other parameter of an output is not kept quiet about. */
static int read_output(const kd_serve *s,
                       const Inference__ModelInferRequest__InferRequestedOutputTensor *t,
                       kd_serve_output *out, kd_diag *diag)
{
    *out = (kd_serve_output){.probabilities = strcmp(t->name, "probabilities") == 0};
    if (!out->probabilities && strcmp(t->name, "logits") != 0)
        return kd_fail(diag, -KD_EINVAL,
                       "there is no output \"%.80s\"; there are logits and probabilities", t->name);
    for (size_t i = 0; i < t->n_parameters; i++) {
        const Inference__InferParameter *p = t->parameters[i]->value;
        if (strcmp(t->parameters[i]->key, "classification") != 0)
            return kd_fail(diag, -KD_EINVAL,
                           "output %s: unknown parameter \"%.80s\"; classification is known",
                           t->name, t->parameters[i]->key);
        if (!p ||
            p->parameter_choice_case != INFERENCE__INFER_PARAMETER__PARAMETER_CHOICE_INT64_PARAM ||
            p->int64_param < 0)
            return kd_fail(diag, -KD_EINVAL,
                           "output %s: classification is a number of classes (int64_param)",
                           t->name);
        out->top = (size_t)KD_MIN(p->int64_param, (int64_t)s->net.net.n_classes);
    }
    return 0;
}

static int read_outputs(const kd_serve *s, kd_serve_request *r, kd_diag *diag)
{
    const Inference__ModelInferRequest *m = r->m;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < m->n_outputs; i++) {
        rc = read_output(s, m->outputs[i], &r->outputs[i], diag);
        for (size_t k = 0; rc == 0 && k < i; k++)
            if (strcmp(m->outputs[i]->name, m->outputs[k]->name) == 0)
                rc = kd_fail(diag, -KD_EINVAL, "output %s is asked for twice", m->outputs[i]->name);
    }
    r->n_outputs = m->n_outputs;
    if (m->n_outputs == 0) {
        r->outputs[1].probabilities = true;
        r->n_outputs = 2;
    }
    return rc;
}

/* ---- inference: what it is asked about */

static int read_pixels(const kd_serve *s, kd_serve_request *r, const ProtobufCBinaryData *raw,
                       kd_diag *diag)
{
    const size_t floats = (size_t)s->net.w * (size_t)s->net.h * 3;
    const float *pixels = NULL;
    int rc = kd_kserve_floats(g_inputs[KD_SERVE_PIXELS], raw, r->m->inputs[0]->contents,
                              r->n * floats, &pixels, diag);
    for (size_t i = 0; rc == 0 && i < r->n; i++)
        r->pictures[i] =
            (struct iovec){(void *)(uintptr_t)(pixels + i * floats), floats * sizeof(float)};
    return rc;
}

/* Raw: each file behind its length. */
static bool split_files(kd_serve_request *r, const ProtobufCBinaryData *raw)
{
    size_t at = 0;
    for (size_t i = 0; i < r->n; i++) {
        uint32_t len;
        if (raw->len - at < sizeof len)
            return false;
        memcpy(&len, raw->data + at, sizeof len);
        at += sizeof len;
        if (raw->len - at < len)
            return false;
        r->pictures[i] = (struct iovec){raw->data + at, len};
        at += len;
    }
    return at == raw->len;
}

static int read_files(kd_serve_request *r, const ProtobufCBinaryData *raw, kd_diag *diag)
{
    const Inference__InferTensorContents *c = r->m->inputs[0]->contents;
    if (raw)
        return split_files(r, raw) ? 0
                                   : kd_fail(diag, -KD_EINVAL,
                                             "image: the raw bytes are not %zu elements, each "
                                             "behind its length (uint32)",
                                             r->n);
    if (!c || c->n_bytes_contents != r->n)
        return kd_fail(diag, -KD_EINVAL, "image: %zu elements in bytes_contents, its shape has %zu",
                       c ? c->n_bytes_contents : 0, r->n);
    for (size_t i = 0; i < r->n; i++)
        r->pictures[i] = (struct iovec){c->bytes_contents[i].data, c->bytes_contents[i].len};
    return 0;
}

/* Name, type and shape of the one input; how many pictures it holds. */
static int check_input(const kd_serve *s, kd_serve_request *r, kd_diag *diag)
{
    const Inference__ModelInferRequest *m = r->m;
    const char *name = g_inputs[r->input], *type = g_types[r->input];
    char has[KD_KSERVE_SHAPE], wants[KD_KSERVE_SHAPE];
    if (m->n_inputs != 1 || strcmp(m->inputs[0]->name, name) != 0)
        return kd_fail(diag, -KD_EINVAL, "%s takes one input, \"%s\"; %zu came%s%.80s%s",
                       s->names[r->input], name, m->n_inputs, m->n_inputs == 1 ? ", \"" : "",
                       m->n_inputs == 1 ? m->inputs[0]->name : "", m->n_inputs == 1 ? "\"" : "");
    const Inference__ModelInferRequest__InferInputTensor *t = m->inputs[0];
    if (t->n_parameters > 0)
        return kd_fail(diag, -KD_EINVAL, "%s: unknown parameter \"%.80s\"", name,
                       t->parameters[0]->key);
    if (strcmp(t->datatype, type) != 0)
        return kd_fail(diag, -KD_EINVAL, "%s is %s, not \"%s\"", name, type, t->datatype);
    if (!kd_kserve_shape_is(t->shape, t->n_shape, s->shapes[r->input], s->n_shape[r->input]))
        return kd_fail(diag, -KD_EINVAL, "%s has the shape %s; %s was expected", name,
                       kd_kserve_shape_text(t->shape, t->n_shape, has),
                       kd_kserve_shape_text(s->shapes[r->input], s->n_shape[r->input], wants));
    if (t->shape[0] < 1 || (uint64_t)t->shape[0] > s->most)
        return kd_fail(diag, -KD_EINVAL, "%lld pictures in a request; 1 to %zu are taken",
                       (long long)t->shape[0], s->most);
    if (m->n_raw_input_contents > 1 || (m->n_raw_input_contents == 1 && t->contents))
        return kd_fail(diag, -KD_EINVAL,
                       "contents come either raw or with the input, once for each input");
    r->n = (size_t)t->shape[0];
    return 0;
}

static int read_request(const kd_serve *s, kd_serve_request *r, kd_diag *diag)
{
    int rc = find_model(s, r->m->model_name, r->m->model_version, &r->input, diag);
    if (rc == 0)
        rc = check_input(s, r, diag);
    if (rc == 0)
        rc = read_outputs(s, r, diag);
    if (rc != 0)
        return rc;
    const ProtobufCBinaryData *raw =
        r->m->n_raw_input_contents ? &r->m->raw_input_contents[0] : NULL;
    r->pictures = calloc(r->n, sizeof *r->pictures);
    r->logits = malloc(r->n * (size_t)s->net.net.n_classes * sizeof(float));
    if (!r->pictures || !r->logits)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a request of %zu pictures", r->n);
    return r->input == KD_SERVE_PIXELS ? read_pixels(s, r, raw, diag) : read_files(r, raw, diag);
}

static void on_infer(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    kd_serve *s = arg;
    kd_diag diag = {0};
    ProtobufCMessage *m = NULL;
    if (!kd_serve_enter(s)) {
        kd_rpc_finish(call, -KD_ELIMIT, "as many requests wait as are taken (--queue); try later");
        return;
    }
    kd_serve_request *r = calloc(1, sizeof *r);
    int rc = r ? kd_wire_unpack_large(&inference__model_infer_request__descriptor, bytes, len,
                                      s->max_request, &m, &diag)
               : kd_fail(&diag, -KD_ENOMEM, "no memory for a request");
    if (rc == 0) {
        r->arrived = kd_clock_s();
        r->call = kd_rpc_call_ref(call);
        r->m = (Inference__ModelInferRequest *)m;
        rc = read_request(s, r, &diag);
    }
    if (rc == 0) {
        kd_rpc_call_set_data(call, r);
        kd_serve_push(s, r);
        return;
    }
    kd_rpc_finish_diag(call, &diag);
    kd_serve_request_free(r);
    kd_serve_leave(s);
}

static void on_infer_over(kd_rpc_call *call, bool cancelled, void *arg)
{
    kd_serve_request *r = kd_rpc_call_data(call);
    if (r)
        kd_serve_call_over(arg, r, cancelled);
}

void kd_serve_methods(kd_serve *s, kd_rpc_method rows[KD_SERVE_METHODS])
{
    static const kd_rpc_method methods[KD_SERVE_METHODS] = {
        {.path = KD_KSERVE_PATH "ServerLive", .on_message = on_live},
        {.path = KD_KSERVE_PATH "ServerReady", .on_message = on_ready},
        {.path = KD_KSERVE_PATH "ModelReady", .on_message = on_model_ready},
        {.path = KD_KSERVE_PATH "ServerMetadata", .on_message = on_server},
        {.path = KD_KSERVE_PATH "ModelMetadata", .on_message = on_model},
        {.path = KD_KSERVE_PATH "ModelInfer", .on_message = on_infer, .on_close = on_infer_over},
    };
    for (int i = 0; i < KD_SERVE_METHODS; i++) {
        rows[i] = methods[i];
        rows[i].kind = KD_RPC_UNARY;
        rows[i].max_request = methods[i].on_close ? s->max_request : KD_KSERVE_BESIDE;
        rows[i].arg = s;
    }
}

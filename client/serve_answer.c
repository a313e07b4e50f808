/* The answer to an inference request: logits, probabilities, or the best classes of either as text.
 */
#include "serve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One tensor, owned: FP32 values, or texts one behind another. */
struct tensor {
    Inference__ModelInferResponse__InferOutputTensor head;
    Inference__InferTensorContents contents;
    int64_t shape[2];
    float *values;
    kd_buf texts; /* each with its length before it, as raw contents have them */
};

static void probabilities(const float *logits, int n, float *out)
{
    const kd_predict_sum s = kd_predict_sum_of(logits, n);
    for (int i = 0; i < n; i++)
        out[i] = (float)kd_predict_probability(&s, logits[i]);
}

/* "value:index:label", as the classification extension has it. */
static void add_text(const kd_serve *s, kd_buf *out, double value, int index)
{
    char number[16], head[64];
    const char *label = s->net.net.info.classes ? kd_predictor_class(&s->net, index, number) : NULL;
    const int n = snprintf(head, sizeof head, "%f:%d%s", value, index, label ? ":" : "");
    const uint32_t len = (uint32_t)n + (uint32_t)(label ? strlen(label) : 0);
    kd_buf_add(out, &len, sizeof len);
    kd_buf_str(out, head);
    kd_buf_str(out, label ? label : "");
}

static void fill_texts(const kd_serve *s, const kd_serve_request *r, const kd_serve_output *o,
                       kd_prediction *best, struct tensor *t)
{
    const size_t classes = (size_t)s->net.net.n_classes;
    for (size_t i = 0; i < r->n; i++) {
        const float *logits = r->logits + i * classes;
        kd_predict_top(logits, (int)classes, (int)o->top, best);
        for (size_t k = 0; k < o->top; k++)
            add_text(s, &t->texts,
                     o->probabilities ? best[k].probability : (double)logits[best[k].index],
                     best[k].index);
    }
}

/* False when memory is out. */
static bool fill(const kd_serve *s, const kd_serve_request *r, const kd_serve_output *o,
                 struct tensor *t)
{
    const size_t classes = (size_t)s->net.net.n_classes;
    inference__model_infer_response__infer_output_tensor__init(&t->head);
    inference__infer_tensor_contents__init(&t->contents);
    t->shape[0] = (int64_t)r->n;
    t->shape[1] = (int64_t)(o->top ? o->top : classes);
    t->head.name = (char *)(o->probabilities ? "probabilities" : "logits");
    t->head.datatype = (char *)(o->top ? "BYTES" : "FP32");
    t->head.shape = t->shape;
    t->head.n_shape = KD_COUNT(t->shape);
    kd_buf_init(&t->texts, s->max_request);
    if (o->top) {
        kd_prediction *best = malloc(o->top * sizeof *best);
        if (best)
            fill_texts(s, r, o, best, t);
        free(best);
        return best && !t->texts.failed;
    }
    t->values = malloc(r->n * classes * sizeof(float));
    for (size_t i = 0; t->values && i < r->n; i++)
        if (o->probabilities)
            probabilities(r->logits + i * classes, (int)classes, t->values + i * classes);
        else
            memcpy(t->values + i * classes, r->logits + i * classes, classes * sizeof(float));
    return t->values != NULL;
}

/* Points the tensor's typed contents to what it holds. texts: room for one a text. */
static void set_contents(struct tensor *t, ProtobufCBinaryData *texts)
{
    const size_t n = (size_t)t->shape[0] * (size_t)t->shape[1];
    t->head.contents = &t->contents;
    if (t->values) {
        t->contents.fp32_contents = t->values;
        t->contents.n_fp32_contents = n;
        return;
    }
    char *at = t->texts.data;
    for (size_t i = 0; i < n; i++) {
        uint32_t len;
        memcpy(&len, at, sizeof len);
        texts[i] = (ProtobufCBinaryData){len, (uint8_t *)at + sizeof len};
        at += sizeof len + len;
    }
    t->contents.bytes_contents = texts;
    t->contents.n_bytes_contents = n;
}

static ProtobufCBinaryData raw_of(const struct tensor *t)
{
    const size_t n = (size_t)t->shape[0] * (size_t)t->shape[1];
    return t->values ? (ProtobufCBinaryData){n * sizeof(float), (uint8_t *)t->values}
                     : (ProtobufCBinaryData){t->texts.len, (uint8_t *)t->texts.data};
}

static void reply(const kd_serve *s, const kd_serve_request *r, struct tensor *tensors)
{
    Inference__ModelInferResponse m = INFERENCE__MODEL_INFER_RESPONSE__INIT;
    Inference__ModelInferResponse__InferOutputTensor *heads[KD_MAX_TENSORS];
    ProtobufCBinaryData raw[KD_MAX_TENSORS], *texts[KD_MAX_TENSORS] = {0};
    bool ok = true;
    m.model_name = (char *)s->names[r->input];
    m.model_version = (char *)KD_SERVE_VERSION;
    m.id = r->m->id;
    m.outputs = heads;
    m.n_outputs = r->n_outputs;
    for (size_t i = 0; i < r->n_outputs; i++) {
        heads[i] = &tensors[i].head;
        raw[i] = raw_of(&tensors[i]);
        if (r->m->n_raw_input_contents > 0)
            continue;
        /* In the manner in which it was asked. */
        texts[i] = calloc(r->n * KD_MAX(r->outputs[i].top, (size_t)1), sizeof *texts[i]);
        ok = ok && texts[i];
        if (texts[i])
            set_contents(&tensors[i], texts[i]);
    }
    if (r->m->n_raw_input_contents > 0) {
        m.raw_output_contents = raw;
        m.n_raw_output_contents = r->n_outputs;
    }
    kd_buf out;
    kd_buf_init(&out, SIZE_MAX / 2);
    if (ok && kd_wire_pack(&m, &out) == 0)
        kd_rpc_reply(r->call, &(struct iovec){out.data, out.len}, 1);
    else
        kd_rpc_finish(r->call, -KD_ENOMEM, "no memory for the answer");
    kd_buf_clear(&out);
    for (size_t i = 0; i < r->n_outputs; i++)
        free(texts[i]);
}

void kd_serve_answer(const kd_serve *s, const kd_serve_request *r)
{
    struct tensor tensors[KD_MAX_TENSORS] = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < r->n_outputs; i++)
        ok = fill(s, r, &r->outputs[i], &tensors[i]);
    if (ok)
        reply(s, r, tensors);
    else
        kd_rpc_finish(r->call, -KD_ELIMIT, "no room for the answer; ask for fewer pictures");
    for (size_t i = 0; i < r->n_outputs; i++) {
        free(tensors[i].values);
        kd_buf_clear(&tensors[i].texts);
    }
}

#include "models/onnx_model.h"

#include "kd/buf.h"
#include "wire/pb.h"

#include <string.h>

#define MAX_FIELDS 16
#define SPAN 16 /* raw data is replaced by its place: offset and length, 8 bytes each */
#define LENGTH_ROOM 5

/* How many elements a repeated field may have, and how long a text may be; 1 for what is not
 * repeated. A packed list of a tensor's data counts as one: the file bounds it. */
static const struct {
    const char *message, *field;
    uint32_t times, bytes;
} g_limits[] = {
    {"GraphProto", "node", KD_ONNX_MAX_NODES, 0},
    {"GraphProto", "initializer", 65536, 0},
    {"GraphProto", "input", 65536, 0}, /* old files list every initialiser here */
    {"GraphProto", "output", 256, 0},
    {"NodeProto", "input", 4096, KD_ONNX_MAX_NAME},
    {"NodeProto", "output", 256, KD_ONNX_MAX_NAME},
    {"NodeProto", "attribute", 64, 0},
    {"AttributeProto", "floats", 65536, 0},
    {"AttributeProto", "ints", 65536, 0},
    {"AttributeProto", "strings", 4096, 65536},
    {"AttributeProto", "s", 1, 65536},
    {"TensorProto", "dims", KD_ONNX_MAX_RANK, 0},
    {"TensorProto", "float_data", 65536, 0},
    {"TensorProto", "int32_data", 65536, 0},
    {"TensorProto", "int64_data", 65536, 0},
    {"TensorProto", "double_data", 65536, 0},
    {"TensorProto", "external_data", 16, 0},
    {"TensorShapeProto", "dim", KD_ONNX_MAX_RANK, 0},
    {"ModelProto", "opset_import", 64, 0},
    {"ModelProto", "metadata_props", 256, 0},
    {"StringStringEntryProto", "value", 1, 8u << 20}, /* class names, a graph's text */
};

static void limits_of(const ProtobufCMessageDescriptor *d, const ProtobufCFieldDescriptor *f,
                      uint32_t *out_times, uint32_t *out_bytes)
{
    *out_times = 1;
    *out_bytes = KD_ONNX_MAX_NAME;
    for (size_t i = 0; i < KD_COUNT(g_limits); i++)
        if (strcmp(g_limits[i].message, d->short_name) == 0 &&
            strcmp(g_limits[i].field, f->name) == 0) {
            *out_times = g_limits[i].times;
            if (g_limits[i].bytes)
                *out_bytes = g_limits[i].bytes;
        }
}

typedef struct scan {
    const uint8_t *file; /* where it begins */
    const char *name;
    kd_buf out; /* the file without raw data and unknown fields */
    kd_diag *diag;
} scan;

/* Elements of a packed list; 0 if it is cut off, or empty. */
static size_t packed_count(const ProtobufCMessageDescriptor *d, const ProtobufCFieldDescriptor *f,
                           kd_pb_cursor list)
{
    size_t n = 0;
    if (strcmp(d->short_name, "TensorProto") == 0 && strcmp(f->name, "dims") != 0)
        return 1;
    while (list.p < list.end) {
        if (!kd_pb_skip_value(&list, kd_pb_wire_type(f->type)))
            return 0;
        n++;
    }
    return n;
}

static int torn(const scan *s, const ProtobufCMessageDescriptor *d, const char *field)
{
    return kd_fail(s->diag, -KD_EDATA, "%s is no ONNX model, or is damaged: it is cut off in %s.%s",
                   s->name, d->short_name, field);
}

static int out_of_memory(const scan *s)
{
    return kd_fail(s->diag, -KD_ENOMEM, "no memory for reading %s", s->name);
}

static int scan_message(scan *s, const ProtobufCMessageDescriptor *d, kd_pb_cursor c);

static bool add_varint(kd_buf *b, uint64_t v)
{
    uint8_t bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
    } while (v);
    return kd_buf_add(b, bytes, n) == 0;
}

/* A sub-message in its shorter form, with its length in as many bytes as any length takes. */
static int scan_child(scan *s, const ProtobufCMessageDescriptor *d, kd_pb_cursor value)
{
    size_t at = s->out.len;
    if (!kd_buf_grow(&s->out, LENGTH_ROOM))
        return out_of_memory(s);
    int rc = scan_message(s, d, value);
    if (rc)
        return rc;
    size_t len = s->out.len - at - LENGTH_ROOM;
    for (int i = 0; i < LENGTH_ROOM; i++, len >>= 7)
        s->out.data[at + (size_t)i] = (char)((len & 0x7f) | (i < LENGTH_ROOM - 1 ? 0x80 : 0));
    return 0;
}

/* One length-delimited value; its tag is written already. */
static int scan_bytes(scan *s, const ProtobufCMessageDescriptor *d,
                      const ProtobufCFieldDescriptor *f, kd_pb_cursor value, uint32_t limit)
{
    size_t n = (size_t)(value.end - value.p);
    if (f->type == PROTOBUF_C_TYPE_MESSAGE)
        return scan_child(s, f->descriptor, value);
    if (f->type == PROTOBUF_C_TYPE_BYTES && strcmp(f->name, "raw_data") == 0) {
        uint64_t span[2] = {(uint64_t)(value.p - s->file), n};
        bool ok = add_varint(&s->out, SPAN) && kd_buf_add(&s->out, span, SPAN) == 0;
        return ok ? 0 : out_of_memory(s);
    }
    if (f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_BYTES) {
        if (n > limit)
            return kd_fail(s->diag, -KD_ELIMIT, "%s: %s.%s has %zu bytes, at most %u are accepted",
                           s->name, d->short_name, f->name, n, limit);
        if (f->type == PROTOBUF_C_TYPE_STRING && !kd_pb_text(value.p, n))
            return kd_fail(s->diag, -KD_EDATA, "%s: %s.%s is not UTF-8 text without NUL", s->name,
                           d->short_name, f->name);
    }
    bool ok = add_varint(&s->out, n) && kd_buf_add(&s->out, value.p, n) == 0;
    return ok ? 0 : out_of_memory(s);
}

static int scan_message(scan *s, const ProtobufCMessageDescriptor *d, kd_pb_cursor c)
{
    size_t counts[MAX_FIELDS] = {0};
    KD_BUG_ON(d->n_fields > MAX_FIELDS);
    while (c.p < c.end) {
        uint64_t tag;
        if (!kd_pb_varint(&c, &tag) || tag >> 3 == 0 || tag >> 3 > 536870911)
            return torn(s, d, "(a field's tag)");
        unsigned type = (unsigned)(tag & 7);
        const ProtobufCFieldDescriptor *f =
            protobuf_c_message_descriptor_get_field(d, (unsigned)(tag >> 3));
        const uint8_t *start = c.p;
        if (!f) {
            if (!kd_pb_skip_value(&c, type))
                return torn(s, d, "(a field that is left out)");
            continue;
        }
        unsigned own = kd_pb_wire_type(f->type);
        bool packed = f->label == PROTOBUF_C_LABEL_REPEATED && own != KD_PB_BYTES;
        if (type != own && !(packed && type == KD_PB_BYTES))
            return kd_fail(s->diag, -KD_EDATA,
                           "%s is no ONNX model, or is damaged: %s.%s has wire type %u", s->name,
                           d->short_name, f->name, type);
        uint32_t times, bytes;
        size_t more = 1;
        kd_pb_cursor list = c, elements;
        limits_of(d, f, &times, &bytes);
        if (packed && type == KD_PB_BYTES) {
            if (!kd_pb_bytes(&list, &elements))
                return torn(s, d, f->name);
            more = packed_count(d, f, elements);
            if (more == 0 && elements.p < elements.end)
                return torn(s, d, f->name);
        }
        counts[f - d->fields] += more;
        if (counts[f - d->fields] > times)
            return kd_fail(s->diag, -KD_ELIMIT,
                           "%s: %s.%s comes more than %u times, which is not accepted", s->name,
                           d->short_name, f->name, times);
        if (!add_varint(&s->out, tag))
            return out_of_memory(s);
        if (own == KD_PB_BYTES) {
            kd_pb_cursor value;
            if (!kd_pb_bytes(&c, &value))
                return torn(s, d, f->name);
            int rc = scan_bytes(s, d, f, value, bytes);
            if (rc)
                return rc;
            continue;
        }
        if (!kd_pb_skip_value(&c, type))
            return torn(s, d, f->name);
        if (kd_buf_add(&s->out, start, (size_t)(c.p - start)))
            return out_of_memory(s);
    }
    return 0;
}

int kd_onnx_unpack(const uint8_t *bytes, size_t len, const char *name, Onnx__ModelProto **out,
                   kd_diag *diag)
{
    if (len > KD_ONNX_MAX_FILE)
        return kd_fail(diag, -KD_ELIMIT,
                       "%s has %zu bytes, at most %u are accepted; larger weights may lie in a "
                       "file of external data beside it",
                       name, len, KD_ONNX_MAX_FILE);
    scan s = {.file = bytes, .name = name, .diag = diag};
    /* Lengths and spans may make it longer than the file, by less than its own length again. */
    kd_buf_init(&s.out, 12 * len + 64);
    int rc = scan_message(&s, &onnx__model_proto__descriptor, kd_pb_cursor_of(bytes, len));
    /* Packed lists take what they need; 256 MiB is far above what the nodes of any model take. */
    size_t budget = 2 * s.out.len + (256u << 20), whole = budget;
    ProtobufCMessage *m = NULL;
    if (!rc) {
        m = kd_pb_unpack(&onnx__model_proto__descriptor, s.out.data ? s.out.data : "", s.out.len,
                         &budget);
        if (!m)
            rc = kd_fail(diag, budget < whole / 2 ? -KD_ELIMIT : -KD_EDATA,
                         "%s is no ONNX model, or takes more than %zu MiB to read", name,
                         whole >> 20);
    }
    kd_buf_clear(&s.out);
    if (rc)
        return rc;
    *out = (Onnx__ModelProto *)m;
    if (!(*out)->graph) {
        kd_onnx_free(*out);
        *out = NULL;
        return kd_fail(diag, -KD_EDATA, "%s is no ONNX model: there is no graph in it", name);
    }
    return 0;
}

void kd_onnx_free(Onnx__ModelProto *m)
{
    kd_pb_free((ProtobufCMessage *)m);
}

bool kd_onnx_raw(const Onnx__TensorProto *t, const uint8_t *file, const uint8_t **out_data,
                 size_t *out_len)
{
    if (!t->has_raw_data)
        return false;
    uint64_t span[2];
    KD_BUG_ON(t->raw_data.len != SPAN);
    memcpy(span, t->raw_data.data, SPAN);
    *out_data = file + span[0];
    *out_len = (size_t)span[1];
    return true;
}

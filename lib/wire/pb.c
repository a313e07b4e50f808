#include "wire/pb.h"

#include "kd/text.h"

#include <stdlib.h>

kd_pb_cursor kd_pb_cursor_of(const void *bytes, size_t len)
{
    const uint8_t *p = len ? bytes : (const uint8_t *)"";
    return (kd_pb_cursor){p, p + len};
}

bool kd_pb_varint(kd_pb_cursor *c, uint64_t *out)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64 && c->p < c->end; shift += 7) {
        uint8_t b = *c->p++;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) {
            *out = v;
            return true;
        }
    }
    return false;
}

bool kd_pb_skip(kd_pb_cursor *c, uint64_t n)
{
    if (n > (uint64_t)(c->end - c->p))
        return false;
    c->p += n;
    return true;
}

bool kd_pb_bytes(kd_pb_cursor *c, kd_pb_cursor *out)
{
    uint64_t n;
    if (!kd_pb_varint(c, &n) || n > (uint64_t)(c->end - c->p))
        return false;
    *out = (kd_pb_cursor){c->p, c->p + n};
    c->p += n;
    return true;
}

bool kd_pb_skip_value(kd_pb_cursor *c, unsigned wire_type)
{
    uint64_t n;
    kd_pb_cursor bytes;
    switch (wire_type) {
    case KD_PB_VARINT:
        return kd_pb_varint(c, &n);
    case KD_PB_64:
        return kd_pb_skip(c, 8);
    case KD_PB_32:
        return kd_pb_skip(c, 4);
    case KD_PB_BYTES:
        return kd_pb_bytes(c, &bytes);
    default:
        return false;
    }
}

unsigned kd_pb_wire_type(ProtobufCType t)
{
    switch (t) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return KD_PB_BYTES;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return KD_PB_64;
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return KD_PB_32;
    default:
        return KD_PB_VARINT;
    }
}

bool kd_pb_text(const uint8_t *p, size_t n)
{
    for (size_t i = 0, bytes; i < n; i += bytes)
        if ((bytes = kd_utf8_char(p + i, n - i)) == 0)
            return false;
    return true;
}

/* protobuf-c has no limit but its allocator's. */
static void *budget_alloc(void *data, size_t size)
{
    size_t *left = data;
    if (size > *left)
        return NULL;
    *left -= size;
    return malloc(size ? size : 1);
}

static void budget_free(void *data, void *p)
{
    (void)data;
    free(p);
}

ProtobufCMessage *kd_pb_unpack(const ProtobufCMessageDescriptor *desc, const void *bytes,
                               size_t len, size_t *budget)
{
    ProtobufCAllocator alloc = {budget_alloc, budget_free, budget};
    return protobuf_c_message_unpack(desc, &alloc, len, bytes);
}

void kd_pb_free(ProtobufCMessage *msg)
{
    ProtobufCAllocator alloc = {budget_alloc, budget_free, NULL};
    if (msg)
        protobuf_c_message_free_unpacked(msg, &alloc);
}

/* Protobuf bytes before they are unpacked: the pieces that every scan of hostile input needs.
 * Threads: reentrant. Source: https://protobuf.dev/programming-guides/encoding. */
#ifndef KD_WIRE_PB_H
#define KD_WIRE_PB_H

#include "kd/err.h"

#include <protobuf-c/protobuf-c.h>

enum { KD_PB_VARINT = 0, KD_PB_64 = 1, KD_PB_BYTES = 2, KD_PB_32 = 5 };

/* p <= end always; what is read moves p. */
typedef struct kd_pb_cursor {
    const uint8_t *p, *end;
} kd_pb_cursor;

/* An empty message may come without an address. */
kd_pb_cursor kd_pb_cursor_of(const void *bytes, size_t len);
/* false where the bytes end too early; the cursor is then of no more use. */
bool kd_pb_varint(kd_pb_cursor *c, uint64_t *out);
bool kd_pb_skip(kd_pb_cursor *c, uint64_t n);
/* Passes over one value of a wire type; false also for a type that is none. */
bool kd_pb_skip_value(kd_pb_cursor *c, unsigned wire_type);
/* A length and that many bytes: *out spans them, c goes behind them. */
bool kd_pb_bytes(kd_pb_cursor *c, kd_pb_cursor *out);
/* The wire type that a field's own type has. */
unsigned kd_pb_wire_type(ProtobufCType t);
/* UTF-8 without NUL, overlong forms and surrogates. */
bool kd_pb_text(const uint8_t *p, size_t n);

/* Unpacks with at most *budget bytes of memory, which goes down by what was taken. NULL when the
 * bytes do not parse or the budget is spent. Free with kd_pb_free. */
ProtobufCMessage *kd_pb_unpack(const ProtobufCMessageDescriptor *desc, const void *bytes,
                               size_t len, size_t *budget);
/* NULL allowed. */
void kd_pb_free(ProtobufCMessage *msg);

#endif

/* Messages: bounded unpacking, generic validation, checksums, bulk payloads.
 *
 * Generated protobuf-c structs are used as they are once they have passed kd_wire_unpack: it caps
 * the input, unpacks under a memory budget and walks the message by its descriptor, refusing bad
 * UTF-8, NUL inside a string, strings and repeated fields over their limit, unknown enum values,
 * unset oneofs (where the table says required) and non-finite floats. A handler may rely on that
 * and has only meaning left to check.
 *
 * Between our own programs messages end with a checksum, so that what was damaged on its way is
 * never taken for another message: field 100, fixed32, the CRC32C of all bytes before it. A reader
 * that does not know it skips it.
 *
 * Bulk messages end with field 15, `payload`, and have the checksum before it. kd_wire_split finds
 * it without copying, the head before it is unpacked as usual; kd_wire_pack_bulk_head writes the
 * head.
 *
 * Threads: reentrant. Source: https://protobuf.dev/programming-guides/encoding. */
#ifndef KD_WIRE_H
#define KD_WIRE_H

#include "kd/buf.h"
#include "kd/err.h"
#include "wire/limits.h"

#include <protobuf-c/protobuf-c.h>

#define KD_WIRE_PAYLOAD 15 /* the field of a bulk message's payload */

/* *out on success: free with kd_wire_free. -KD_ELIMIT, -KD_EDATA (does not parse), -KD_EINVAL (does
 * not validate; diag names the field). A zero-length input is the empty message. */
int kd_wire_unpack(const ProtobufCMessageDescriptor *desc, const void *bytes, size_t len,
                   ProtobufCMessage **out, kd_diag *diag) KD_MUST_CHECK;
/* The same for a message of at most `most` bytes, whatever its type: an inference request. Takes
 * up to KD_MAX_UNPACK_BYTES of memory beside what it holds. */
int kd_wire_unpack_large(const ProtobufCMessageDescriptor *desc, const void *bytes, size_t len,
                         size_t most, ProtobufCMessage **out, kd_diag *diag) KD_MUST_CHECK;
/* NULL allowed. */
void kd_wire_free(ProtobufCMessage *msg);

/* Typed form: KD_UNPACK(Submit_request, ...) is not possible without the generated names, so
 * callers write  Distill__V1__SubmitRequest *m; rc =
 * kd_wire_unpack(&distill__v1__submit_request__descriptor, p, n, (ProtobufCMessage **)&m, d); */

/* Appends the packed message to out (already initialised, any maximum). */
int kd_wire_pack(const void *msg, kd_buf *out) KD_MUST_CHECK;

/* The same with the checksum behind it: 6 bytes more. */
int kd_wire_pack_checked(const void *msg, kd_buf *out) KD_MUST_CHECK;
/* As kd_wire_unpack, but -KD_EDATA when there is a checksum and it does not agree. sealed is of the
 * sender, NULL when nothing is known of him: false at first, set by a message that has a checksum;
 * once it is set a message without one is -KD_EDATA too, since damage has taken it away. */
int kd_wire_unpack_checked(const ProtobufCMessageDescriptor *desc, const void *bytes, size_t len,
                           bool *sealed, ProtobufCMessage **out, kd_diag *diag) KD_MUST_CHECK;

/* Splits a bulk message. *out_head: length of the fields before payload; *out_payload points into
 * bytes, 4-byte alignment not promised, NULL and 0 when there is no payload field. The payload must
 * be the very end of the message; anything behind it, or a second one, is -KD_EDATA. */
int kd_wire_split(const void *bytes, size_t len, size_t *out_head, const uint8_t **out_payload,
                  size_t *out_payload_len, kd_diag *diag) KD_MUST_CHECK;
/* Splits, and unpacks the head as kd_wire_unpack_checked does. */
int kd_wire_unpack_bulk(const ProtobufCMessageDescriptor *desc, const void *bytes, size_t len,
                        ProtobufCMessage **out, const uint8_t **out_payload,
                        size_t *out_payload_len, kd_diag *diag) KD_MUST_CHECK;
/* Appends head (its payload field empty), its checksum, the tag and length of the payload; the
 * payload bytes themselves are to follow as the next part of the send. */
int kd_wire_pack_bulk_head(const void *head, size_t payload_len, kd_buf *out) KD_MUST_CHECK;
/* Appends the tag of a bytes field, 1..15, and its length; the bytes themselves are to follow as
 * the next part of the send, and nothing after them. */
int kd_wire_add_bytes_head(unsigned field, size_t len, kd_buf *out) KD_MUST_CHECK;

#endif

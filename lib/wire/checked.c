#include "wire/pb.h"
#include "wire/wire.h"

#include "kd/hash.h"

#include <endian.h>
#include <string.h>

#define PAYLOAD_TAG (KD_WIRE_PAYLOAD << 3 | 2)

/* ---- the checksum of the fields */

/* Field 100, fixed32: the CRC32C of the fields before it. */
#define CRC_TAG_1 0xa5
#define CRC_TAG_2 0x06
#define CRC_BYTES 6

int kd_wire_unpack_checked(const ProtobufCMessageDescriptor *desc, const void *bytes, size_t len,
                           bool *sealed, ProtobufCMessage **out, kd_diag *diag)
{
    const size_t body = len < CRC_BYTES ? 0 : len - CRC_BYTES;
    const uint8_t *tail = len < CRC_BYTES ? NULL : (const uint8_t *)bytes + body;
    const bool had = tail && tail[0] == CRC_TAG_1 && tail[1] == CRC_TAG_2;
    if (!had && sealed && *sealed)
        return kd_fail(diag, -KD_EDATA,
                       "%s comes without the checksum that others had; send it again",
                       desc->short_name);
    if (sealed)
        *sealed = had;
    /* From a program in another language, perhaps. */
    if (!had)
        return kd_wire_unpack(desc, bytes, len, out, diag);
    uint32_t crc;
    memcpy(&crc, tail + 2, sizeof crc);
    if (le32toh(crc) != kd_crc32c(0, bytes, body))
        return kd_fail(diag, -KD_EDATA, "%s: the CRC32C of its fields differs; send it again",
                       desc->short_name);
    return kd_wire_unpack(desc, bytes, body, out, diag);
}

int kd_wire_pack_checked(const void *msg, kd_buf *out)
{
    size_t from = out->len;
    int rc = kd_wire_pack(msg, out);
    if (rc != 0)
        return rc;
    uint8_t tail[CRC_BYTES] = {CRC_TAG_1, CRC_TAG_2};
    uint32_t crc = htole32(kd_crc32c(0, out->data + from, out->len - from));
    memcpy(tail + 2, &crc, sizeof crc);
    return kd_buf_add(out, tail, sizeof tail);
}

/* ---- bulk messages */

int kd_wire_split(const void *bytes, size_t len, size_t *out_head, const uint8_t **out_payload,
                  size_t *out_payload_len, kd_diag *diag)
{
    kd_pb_cursor c = kd_pb_cursor_of(bytes, len);
    while (c.p < c.end) {
        const uint8_t *start = c.p;
        uint64_t tag;
        kd_pb_cursor value;
        if (!kd_pb_varint(&c, &tag))
            return kd_fail(diag, -KD_EDATA, "a bulk message has a damaged field tag");
        if (tag != PAYLOAD_TAG) {
            if (!kd_pb_skip_value(&c, tag & 7))
                return kd_fail(diag, -KD_EDATA, "a bulk message is cut off");
            continue;
        }
        if (!kd_pb_bytes(&c, &value))
            return kd_fail(diag, -KD_EDATA, "a bulk message is cut off");
        if (value.end != c.end)
            return kd_fail(diag, -KD_EDATA, "the payload is not the end of its message");
        size_t n = (size_t)(value.end - value.p);
        if (n > KD_MAX_PAYLOAD_BYTES)
            return kd_fail(diag, -KD_ELIMIT, "a payload of %zu bytes, at most %u are accepted", n,
                           KD_MAX_PAYLOAD_BYTES);
        *out_head = (size_t)(start - (const uint8_t *)bytes);
        *out_payload = n ? value.p : NULL;
        *out_payload_len = n;
        return 0;
    }
    *out_head = len;
    *out_payload = NULL;
    *out_payload_len = 0;
    return 0;
}

int kd_wire_unpack_bulk(const ProtobufCMessageDescriptor *desc, const void *bytes, size_t len,
                        ProtobufCMessage **out, const uint8_t **out_payload,
                        size_t *out_payload_len, kd_diag *diag)
{
    size_t head, n;
    const uint8_t *payload;
    int rc = kd_wire_split(bytes, len, &head, &payload, &n, diag);
    if (rc == 0 && head > KD_MAX_CONTROL_BYTES)
        rc = kd_fail(diag, -KD_ELIMIT,
                     "%s has %zu bytes before its payload, at most %u are accepted",
                     desc->short_name, head, KD_MAX_CONTROL_BYTES);
    if (rc == 0)
        rc = kd_wire_unpack_checked(desc, bytes, head, NULL, out, diag);
    if (rc == 0) {
        *out_payload = payload;
        *out_payload_len = n;
    }
    return rc;
}

int kd_wire_add_bytes_head(unsigned field, size_t len, kd_buf *out)
{
    uint8_t head[12] = {(uint8_t)(field << 3 | 2)};
    size_t n = 1;
    for (; len > 0x7f; len >>= 7)
        head[n++] = (uint8_t)(len | 0x80);
    head[n++] = (uint8_t)len;
    return kd_buf_add(out, head, n);
}

int kd_wire_pack_bulk_head(const void *head, size_t payload_len, kd_buf *out)
{
    int rc = kd_wire_pack_checked(head, out);
    return rc == 0 ? kd_wire_add_bytes_head(KD_WIRE_PAYLOAD, payload_len, out) : rc;
}

#include "fuzz.h"

#include "kd/hash.h"
#include "wire/wire.h"

#include "distill.pb-c.h"
#include "health.pb-c.h"
#include "inference.pb-c.h"
#include "reflection.pb-c.h"

#include <string.h>

static const ProtobufCMessageDescriptor *const g_types[] = {
/* One line X(name) for each message of distill.proto, made by CMake. */
#define X(name) &distill__v1__##name##__descriptor,
#include "wire_types.h"
#undef X
    &grpc__health__v1__health_check_request__descriptor,
    &grpc__reflection__v1__server_reflection_request__descriptor,
    &grpc__reflection__v1__server_reflection_response__descriptor,
    &inference__model_infer_request__descriptor,
    &inference__model_infer_response__descriptor,
    &inference__model_metadata_response__descriptor,
};

const ProtobufCMessageDescriptor *kd_fuzz_wire_type(size_t i)
{
    return i < KD_COUNT(g_types) ? g_types[i] : NULL;
}

static uint16_t point_of(const ProtobufCMessageDescriptor *desc)
{
    return (uint16_t)kd_crc32c(0, desc->name, strlen(desc->name));
}

void kd_fuzz_wire_prefix(size_t i, uint8_t out[2])
{
    const uint16_t point = point_of(g_types[i]);
    memcpy(out, &point, 2);
}

/* The first type at or after a point of the circle of 65536, so that a corpus keeps its meaning
 * when types come and go. */
static const ProtobufCMessageDescriptor *choose(const uint8_t *data)
{
    uint16_t point;
    memcpy(&point, data, 2);
    size_t best = 0;
    for (size_t i = 1; i < KD_COUNT(g_types); i++)
        if ((uint16_t)(point_of(g_types[i]) - point) < (uint16_t)(point_of(g_types[best]) - point))
            best = i;
    return g_types[best];
}

/* What was accepted packs to bytes that are accepted and pack to themselves. */
static void check_packing(const ProtobufCMessageDescriptor *desc, const ProtobufCMessage *m)
{
    kd_buf first, second;
    kd_diag diag = {0};
    ProtobufCMessage *again = NULL;
    kd_buf_init(&first, KD_MAX_BULK_BYTES);
    kd_buf_init(&second, KD_MAX_BULK_BYTES);
    KD_FUZZ_CHECK(kd_wire_pack(m, &first) == 0);
    KD_FUZZ_CHECK(kd_wire_unpack(desc, first.data, first.len, &again, &diag) == 0);
    KD_FUZZ_CHECK(kd_wire_pack(again, &second) == 0);
    KD_FUZZ_CHECK(first.len == second.len);
    KD_FUZZ_CHECK(first.len == 0 || memcmp(first.data, second.data, first.len) == 0);
    kd_wire_free(again);
    kd_buf_clear(&first);
    kd_buf_clear(&second);
}

static void check_bulk(const ProtobufCMessageDescriptor *desc, const uint8_t *bytes, size_t n)
{
    kd_diag diag = {0};
    const uint8_t *payload = NULL;
    size_t payload_len = 0, head = 0;
    if (kd_wire_split(bytes, n, &head, &payload, &payload_len, NULL) == 0) {
        KD_FUZZ_CHECK(head <= n);
        KD_FUZZ_CHECK(payload ? payload + payload_len == bytes + n : payload_len == 0);
    }
    ProtobufCMessage *m = NULL;
    int rc = kd_wire_unpack_bulk(desc, bytes, n, &m, &payload, &payload_len, &diag);
    if (rc != 0) {
        (void)kd_fuzz_refused(rc, &diag);
        KD_FUZZ_CHECK(!m);
        return;
    }
    check_packing(desc, m);
    if (payload) {
        kd_buf b;
        kd_buf_init(&b, 2 * KD_MAX_BULK_BYTES);
        KD_FUZZ_CHECK(kd_wire_pack_bulk_head(m, payload_len, &b) == 0);
        KD_FUZZ_CHECK(kd_buf_add(&b, payload, payload_len) == 0);
        const uint8_t *again = NULL;
        size_t again_len = 0;
        KD_FUZZ_CHECK(kd_wire_split(b.data, b.len, &head, &again, &again_len, &diag) == 0);
        KD_FUZZ_CHECK(again_len == payload_len && memcmp(again, payload, payload_len) == 0);
        kd_buf_clear(&b);
    }
    kd_wire_free(m);
}

int kd_fuzz_wire(const uint8_t *data, size_t len)
{
    if (len < 2)
        return 0;
    const ProtobufCMessageDescriptor *desc = choose(data);
    kd_diag diag = {0};
    ProtobufCMessage *m = NULL;
    data += 2;
    len -= 2;
    check_bulk(desc, data, len);
    int rc = kd_wire_unpack(desc, data, len, &m, &diag);
    if (rc != 0) {
        KD_FUZZ_CHECK(!m);
        return kd_fuzz_refused(rc, &diag);
    }
    KD_FUZZ_CHECK(m->descriptor == desc);
    check_packing(desc, m);
    kd_wire_free(m);
    return 1;
}

/* Unpacking of mutated messages: whatever comes is refused with a reason, or is a message that
 * packs and unpacks again. Deterministic; a failure prints the round and the message type. */
#include "kd_test.h"

#include "kd/rng.h"
#include "wire/wire.h"

#include "distill.pb-c.h"
#include "health.pb-c.h"
#include "reflection.pb-c.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 4000
#define MAX_SEED 512

static const ProtobufCMessageDescriptor *const g_types[] = {
    &distill__v1__submit_request__descriptor,
    &distill__v1__submit_reply__descriptor,
    &distill__v1__blob_chunk__descriptor,
    &distill__v1__list_reply__descriptor,
    &distill__v1__job_detail__descriptor,
    &distill__v1__watch_request__descriptor,
    &distill__v1__event__descriptor,
    &distill__v1__workers_reply__descriptor,
    &distill__v1__worker_message__descriptor,
    &distill__v1__coordinator_message__descriptor,
    &distill__v1__node_chunk__descriptor,
    &distill__v1__slice_chunk__descriptor,
    &distill__v1__logit_block__descriptor,
    &distill__v1__gather_chunk__descriptor,
    &grpc__health__v1__health_check_request__descriptor,
    &grpc__reflection__v1__server_reflection_request__descriptor,
    &grpc__reflection__v1__server_reflection_response__descriptor,
};

static void put_varint(kd_buf *b, uint64_t v)
{
    do {
        uint8_t byte = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        (void)kd_buf_add(b, &byte, 1);
        v >>= 7;
    } while (v);
}

/* A valid message with a random choice of its fields, written from the descriptor alone. */
static void generate(const ProtobufCMessageDescriptor *desc, kd_rng *rng, kd_buf *out, int depth)
{
    static const char *const words[] = {"", "a", "0123456789ab", "0123456789abcdef0123456789abcdef",
                                        "gr\xc3\xbc\xc3\x9f"};
    bool oneof_set = false;
    for (unsigned i = 0; i < desc->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &desc->fields[i];
        bool oneof = (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0;
        if ((oneof && oneof_set) || kd_rng_below(rng, 3) == 0)
            continue;
        oneof_set |= oneof;
        unsigned times = f->label == PROTOBUF_C_LABEL_REPEATED ? kd_rng_below(rng, 4) : 1;
        for (unsigned k = 0; k < times; k++) {
            kd_buf inner;
            kd_buf_init(&inner, 4096);
            switch (f->type) {
            case PROTOBUF_C_TYPE_MESSAGE:
                if (depth < 4)
                    generate(f->descriptor, rng, &inner, depth + 1);
                break;
            case PROTOBUF_C_TYPE_BYTES:
            case PROTOBUF_C_TYPE_STRING:
                (void)kd_buf_str(&inner, strstr(f->name, "digest")
                                             ? words[3]
                                             : words[kd_rng_below(rng, KD_COUNT(words))]);
                break;
            case PROTOBUF_C_TYPE_DOUBLE: {
                double d = kd_rng_double(rng);
                put_varint(out, (uint64_t)f->id << 3 | 1);
                (void)kd_buf_add(out, &d, 8);
                continue;
            }
            default:
                put_varint(out, (uint64_t)f->id << 3);
                put_varint(out, f->type == PROTOBUF_C_TYPE_ENUM ? kd_rng_below(rng, 3)
                                : f->type == PROTOBUF_C_TYPE_BOOL
                                    ? 1
                                    : kd_rng_u64(rng) >> kd_rng_below(rng, 64));
                continue;
            }
            put_varint(out, (uint64_t)f->id << 3 | 2);
            put_varint(out, inner.len);
            (void)kd_buf_add(out, inner.data ? inner.data : "", inner.len);
            kd_buf_clear(&inner);
        }
    }
}

/* One change: a byte, a bit, a cut, a repeated stretch, or a length blown up. */
static size_t mutate(kd_rng *rng, uint8_t *p, size_t n, size_t cap)
{
    if (n == 0) {
        p[0] = (uint8_t)kd_rng_u32(rng);
        return 1;
    }
    size_t at = kd_rng_below(rng, (uint32_t)n), len = kd_rng_below(rng, 16) + 1;
    len = KD_MIN(len, n - at);
    switch (kd_rng_below(rng, 6)) {
    case 0:
        p[at] = (uint8_t)kd_rng_u32(rng);
        return n;
    case 1:
        p[at] ^= (uint8_t)(1u << kd_rng_below(rng, 8));
        return n;
    case 2:
        return at;
    case 3:
        if (n + len > cap)
            return n;
        memmove(p + at + len, p + at, n - at);
        return n + len;
    case 4:
        for (size_t i = at; i < n && i < at + 5; i++)
            p[i] = 0xff;
        return n;
    default:
        memmove(p + at, p + at + len, n - at - len);
        return n - len;
    }
}

/* Exact memory, so that ASan sees one byte too far. */
static uint8_t *exact(const uint8_t *p, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    KD_BUG_ON(!copy);
    memcpy(copy, p, n);
    return copy;
}

static bool check(const ProtobufCMessageDescriptor *desc, const uint8_t *bytes, size_t n)
{
    kd_diag diag = {0};
    ProtobufCMessage *m = NULL, *again = NULL;
    const uint8_t *payload = NULL;
    size_t payload_len = 0, head;
    int rc = kd_wire_unpack(desc, bytes, n, &m, &diag);
    if (rc != 0) {
        assert_null(m);
        assert_true(rc == diag.code && diag.msg[0] != '\0');
    } else {
        kd_buf b;
        kd_buf_init(&b, KD_MAX_BULK_BYTES);
        assert_int_equal(kd_wire_pack(m, &b), 0);
        kd_assert_ok(kd_wire_unpack(desc, b.data, b.len, &again, &diag), &diag);
        kd_wire_free(again);
        kd_buf_clear(&b);
        kd_wire_free(m);
    }
    if (kd_wire_split(bytes, n, &head, &payload, &payload_len, NULL) == 0) {
        assert_true(head <= n);
        assert_true(payload ? payload + payload_len == bytes + n : payload_len == 0);
    }
    m = NULL;
    if (kd_wire_unpack_bulk(desc, bytes, n, &m, &payload, &payload_len, NULL) == 0)
        kd_wire_free(m);
    return rc == 0;
}

static void test_fuzz_wire(void **state)
{
    (void)state;
    kd_rng rng;
    kd_rng_init(&rng, 20231, KD_RNG_TEST, 1, 0);
    size_t accepted = 0, refused = 0;
    for (size_t t = 0; t < KD_COUNT(g_types); t++) {
        size_t valid = 0;
        for (int round = 0; round < ROUNDS; round++) {
            kd_buf seed;
            kd_buf_init(&seed, MAX_SEED * 64);
            generate(g_types[t], &rng, &seed, 0);
            uint8_t work[MAX_SEED * 64 + 64];
            size_t n = seed.len;
            memcpy(work, seed.data ? seed.data : "", n);
            kd_buf_clear(&seed);
            for (unsigned k = round % 4; k > 0; k--)
                n = mutate(&rng, work, n, sizeof work);
            uint8_t *bytes = exact(work, n);
            bool ok = check(g_types[t], bytes, n);
            free(bytes);
            valid += ok && round % 4 == 0;
            accepted += ok;
            refused += !ok;
        }
        /* The generator must reach past the first check, or this test would test nothing. */
        if (valid == 0)
            print_error("no valid %s was made\n", g_types[t]->name);
        assert_true(valid > 0);
    }
    print_message("%zu accepted, %zu refused\n", accepted, refused);
    assert_true(accepted > 1000 && refused > 1000);
}

static void test_fuzz_wire_noise(void **state)
{
    (void)state;
    kd_rng rng;
    kd_rng_init(&rng, 20231, KD_RNG_TEST, 2, 0);
    for (int round = 0; round < 20000; round++) {
        uint8_t noise[64];
        size_t n = kd_rng_below(&rng, sizeof noise);
        for (size_t i = 0; i < n; i++)
            noise[i] = (uint8_t)kd_rng_u32(&rng);
        uint8_t *bytes = exact(noise, n);
        (void)check(g_types[kd_rng_below(&rng, KD_COUNT(g_types))], bytes, n);
        free(bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fuzz_wire),
        cmocka_unit_test(test_fuzz_wire_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Unpacking of mutated messages: whatever comes is refused with a reason, or is a message that
 * packs and unpacks again. Deterministic; a failure prints the round and the message type. */
#include "fuzz.h"
#include "kd_test.h"
#include "mutate.h"

#include "wire/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 1200 /* of each type */
#define MAX_SEED 512

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

static void test_fuzz_wire(void **state)
{
    (void)state;
    kd_rng rng;
    kd_rng_init(&rng, 20231, KD_RNG_TEST, 1, 0);
    size_t accepted = 0, refused = 0;
    const ProtobufCMessageDescriptor *type;
    for (size_t t = 0; (type = kd_fuzz_wire_type(t)); t++) {
        size_t valid = 0;
        for (int round = 0; round < ROUNDS; round++) {
            kd_buf seed;
            kd_buf_init(&seed, MAX_SEED * 64);
            generate(type, &rng, &seed, 0);
            uint8_t work[2 + MAX_SEED * 64 + 64];
            size_t n = seed.len;
            kd_fuzz_wire_prefix(t, work);
            memcpy(work + 2, seed.data ? seed.data : "", n);
            kd_buf_clear(&seed);
            for (unsigned k = round % 4; k > 0; k--)
                n = kd_fuzz_mutate(&rng, work + 2, n, sizeof work - 2);
            bool ok = kd_fuzz_run(kd_fuzz_wire, work, 2 + n);
            valid += ok && round % 4 == 0;
            accepted += ok;
            refused += !ok;
        }
        /* The generator must reach past the first check, or this test would test nothing. */
        if (valid == 0)
            print_error("no valid %s was made\n", type->name);
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
        uint8_t noise[64]; /* the type is noise, too */
        size_t n = kd_rng_below(&rng, sizeof noise);
        for (size_t i = 0; i < n; i++)
            noise[i] = (uint8_t)kd_rng_u32(&rng);
        (void)kd_fuzz_run(kd_fuzz_wire, noise, n);
    }
}

/* The generator's bytes must reach the type that they were made for. */
static void test_fuzz_wire_prefix(void **state)
{
    (void)state;
    uint8_t a[2], b[2];
    size_t n = 0;
    for (; kd_fuzz_wire_type(n); n++) {
        kd_fuzz_wire_prefix(n, a);
        for (size_t i = 0; i < n; i++) {
            kd_fuzz_wire_prefix(i, b);
            assert_memory_not_equal(a, b, 2);
        }
    }
    assert_true(n > 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fuzz_wire_prefix),
        cmocka_unit_test(test_fuzz_wire),
        cmocka_unit_test(test_fuzz_wire_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

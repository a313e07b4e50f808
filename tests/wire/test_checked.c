/* Checksums behind messages: what is damaged on its way is refused, or is the message that was
 * sent. */
#include "kd_test.h"

#include "kd/hash.h"
#include "wire/wire.h"

#include "distill.pb-c.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#define CRC_BYTES 6

static const ProtobufCMessageDescriptor *const g_desc = &distill__v1__worker_message__descriptor;

/* What a worker says of a stage: text inside text, and numbers. */
static kd_buf stage_ready(void)
{
    Distill__V1__StageInfo info = DISTILL__V1__STAGE_INFO__INIT;
    info.parameters = 5000;
    info.batch = 16;
    info.metadata = "{\"classes\": [\"aster\", \"bellis\"], \"size\": 32}";
    info.data_digest = "00112233445566778899aabbccddeeff";
    Distill__V1__StageReady ready = DISTILL__V1__STAGE_READY__INIT;
    ready.job = "0123456789ab";
    ready.stage = 1;
    ready.info = &info;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_READY;
    m.ready = &ready;
    kd_buf b;
    kd_buf_init(&b, KD_MAX_CONTROL_BYTES);
    assert_int_equal(kd_wire_pack_checked(&m, &b), 0);
    return b;
}

/* Of `n` bytes, in memory of just that size: the code. Whatever is taken must be the `want` bytes.
 */
static int take(const void *bytes, size_t n, bool *sealed, const void *want, size_t want_len)
{
    uint8_t *part = kd_xalloc(n ? n : 1);
    memcpy(part, bytes, n);
    ProtobufCMessage *m = NULL;
    kd_diag diag = {0};
    int rc = kd_wire_unpack_checked(g_desc, part, n, sealed, &m, &diag);
    assert_true((rc == 0) == (m != NULL));
    assert_true((rc == 0) == (diag.msg[0] == '\0'));
    if (rc == 0) {
        /* A field that nobody knows stays behind in what was unpacked; a worker's has none. */
        kd_buf again;
        kd_buf_init(&again, KD_MAX_CONTROL_BYTES);
        assert_int_equal(kd_wire_pack(m, &again), 0);
        assert_true(again.len >= want_len);
        assert_memory_equal(again.data, want, want_len);
        kd_buf_clear(&again);
    }
    kd_wire_free(m);
    free(part);
    return rc;
}

static void test_checked_round_trip(void **state)
{
    (void)state;
    kd_buf b = stage_ready();
    size_t body = b.len - CRC_BYTES;
    bool sealed = false;
    assert_int_equal(take(b.data, b.len, &sealed, b.data, body), 0);
    assert_true(sealed);
    assert_int_equal(take(b.data, b.len, NULL, b.data, body), 0);
    /* Field 100, fixed32, as the contract says. */
    uint32_t crc;
    memcpy(&crc, b.data + body + 2, sizeof crc);
    assert_memory_equal(b.data + body, "\xa5\x06", 2);
    assert_int_equal(le32toh(crc), kd_crc32c(0, b.data, body));
    /* Who does not know the checksum reads the message all the same. */
    ProtobufCMessage *m = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_wire_unpack(g_desc, b.data, b.len, &m, &diag), &diag);
    assert_string_equal(((Distill__V1__WorkerMessage *)m)->ready->job, "0123456789ab");
    kd_wire_free(m);
    kd_buf_clear(&b);
}

static void test_checked_empty_message(void **state)
{
    (void)state;
    Distill__V1__ListRequest q = DISTILL__V1__LIST_REQUEST__INIT;
    ProtobufCMessage *m = NULL;
    kd_diag diag = {0};
    kd_buf b;
    kd_buf_init(&b, CRC_BYTES);
    assert_int_equal(kd_wire_pack_checked(&q, &b), 0);
    assert_int_equal(b.len, CRC_BYTES);
    kd_assert_ok(kd_wire_unpack_checked(q.base.descriptor, b.data, b.len, NULL, &m, &diag), &diag);
    kd_wire_free(m);
    kd_buf_clear(&b);
    kd_buf_init(&b, CRC_BYTES - 1);
    assert_int_equal(kd_wire_pack_checked(&q, &b), -KD_ELIMIT);
    kd_buf_clear(&b);
}

/* It stands behind what the buffer has already, and covers the message alone. */
static void test_checked_covers_its_own_message(void **state)
{
    (void)state;
    Distill__V1__ListRequest q = DISTILL__V1__LIST_REQUEST__INIT;
    q.limit = 7;
    ProtobufCMessage *m = NULL;
    kd_diag diag = {0};
    kd_buf b;
    kd_buf_init(&b, 100);
    assert_int_equal(kd_buf_add(&b, "before", 6), 0);
    assert_int_equal(kd_wire_pack_checked(&q, &b), 0);
    kd_assert_ok(kd_wire_unpack_checked(q.base.descriptor, b.data + 6, b.len - 6, NULL, &m, &diag),
                 &diag);
    kd_wire_free(m);
    kd_buf_clear(&b);
}

/* A flipped bit of the message is always noticed; one of the checksum's tag may hide it, and then
 * the message is whole. */
static void test_checked_every_flipped_bit(void **state)
{
    (void)state;
    kd_buf b = stage_ready();
    size_t body = b.len - CRC_BYTES;
    for (size_t bit = 0; bit < 8 * b.len; bit++) {
        bool known = true;
        b.data[bit / 8] = (char)(b.data[bit / 8] ^ 1 << bit % 8);
        /* take looks for the body that was sent, which is not damaged when it is the tag. */
        int rc = take(b.data, b.len, NULL, b.data, body);
        if (bit / 8 < body || bit / 8 >= body + 2)
            assert_int_equal(rc, -KD_EDATA);
        assert_int_equal(take(b.data, b.len, &known, b.data, body), -KD_EDATA);
        b.data[bit / 8] = (char)(b.data[bit / 8] ^ 1 << bit % 8);
    }
    kd_buf_clear(&b);
}

/* Once a sender's messages have it, nothing without it is taken: bytes lost, doubled or put in. */
static void test_checked_damage_that_moves_the_end(void **state)
{
    (void)state;
    kd_buf b = stage_ready();
    bool sealed = true;
    uint8_t *other = kd_xalloc(2 * b.len);
    for (size_t at = 0; at < b.len; at++) {
        assert_int_equal(take(b.data, at, &sealed, "", 0), -KD_EDATA);
        for (size_t n = 1; n <= 16 && at + n <= b.len; n++) {
            memcpy(other, b.data, at);
            memcpy(other + at, b.data + at + n, b.len - at - n);
            assert_int_equal(take(other, b.len - n, &sealed, "", 0), -KD_EDATA);
            memcpy(other, b.data, at + n);
            memcpy(other + at + n, b.data + at, b.len - at);
            assert_int_equal(take(other, b.len + n, &sealed, "", 0), -KD_EDATA);
            /* Cut at the length that was announced; the end may well be the old one. */
            if (memcmp(other, b.data, b.len) != 0)
                assert_int_equal(take(other, b.len, &sealed, "", 0), -KD_EDATA);
        }
    }
    assert_true(sealed);
    free(other);
    kd_buf_clear(&b);
}

static void test_checked_without_checksum(void **state)
{
    (void)state;
    kd_buf b = stage_ready();
    size_t body = b.len - CRC_BYTES;
    bool sealed = false;
    assert_int_equal(take(b.data, body, &sealed, b.data, body), 0); /* another implementation */
    assert_false(sealed);
    assert_int_equal(take(b.data, body, NULL, b.data, body), 0);
    assert_int_equal(take(b.data, b.len, &sealed, b.data, body), 0);
    assert_int_equal(take(b.data, body, &sealed, b.data, body), -KD_EDATA);
    kd_buf_clear(&b);
}

/* A message that does not validate is no damage when its checksum agrees: the sender means it. */
static void test_checked_tells_damage_from_nonsense(void **state)
{
    (void)state;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    bool sealed = false;
    kd_buf b;
    kd_buf_init(&b, 100);
    assert_int_equal(kd_wire_pack_checked(&m, &b), 0);
    assert_int_equal(take(b.data, b.len, &sealed, "", 0), -KD_EINVAL);
    assert_true(sealed);
    kd_buf_clear(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checked_round_trip),
        cmocka_unit_test(test_checked_empty_message),
        cmocka_unit_test(test_checked_covers_its_own_message),
        cmocka_unit_test(test_checked_every_flipped_bit),
        cmocka_unit_test(test_checked_damage_that_moves_the_end),
        cmocka_unit_test(test_checked_without_checksum),
        cmocka_unit_test(test_checked_tells_damage_from_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

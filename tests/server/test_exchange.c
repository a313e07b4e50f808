/* What a stage's exchange takes for a gradient, and in what form sums leave it. Calls are structs
 * that remember their answer; the tree, the answers and the journal are the real ones. */
#include "kd_test.h"

#include "exchange_internal.h"
#include "kd/bfloat16.h"
#include "kd/file.h"
#include "kd/hash.h"
#include "stage_case.h"
#include "wire/wire.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 2
#define OPENING 9

/* ---- what the exchange thinks is gRPC */

struct kd_rpc_call {
    int code; /* 1 = no answer yet */
    uint8_t reply[512];
    size_t len;
};

kd_rpc_call *kd_rpc_call_ref(kd_rpc_call *c)
{
    return c;
}

void kd_rpc_call_unref(kd_rpc_call *c)
{
    (void)c;
}

void kd_rpc_reply(kd_rpc_call *c, const struct iovec *parts, int n)
{
    assert_int_equal(c->code, 1);
    c->code = 0;
    for (int i = 0; i < n; i++) {
        assert_true(c->len + parts[i].iov_len <= sizeof c->reply);
        if (parts[i].iov_len)
            memcpy(c->reply + c->len, parts[i].iov_base, parts[i].iov_len);
        c->len += parts[i].iov_len;
    }
}

void kd_rpc_finish(kd_rpc_call *c, int code, const char *text)
{
    (void)text;
    assert_int_equal(c->code, 1);
    c->code = code;
}

kd_rpc_shared *kd_rpc_shared_new(const struct iovec *parts, int n)
{
    (void)parts, (void)n;
    fail_msg("no slice is asked for here");
    return NULL;
}

void kd_rpc_reply_shared(kd_rpc_call *c, const kd_rpc_shared *m)
{
    (void)c, (void)m;
}

void kd_rpc_shared_free(kd_rpc_shared *m)
{
    assert_null(m);
}

/* ---- a stage of two units */

struct fixture {
    char *dir, prefix[4096];
    kd_exchange *x;
    int divergences, checks;
    kd_diag diag;
};

static void on_divergence(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                          const char *what, uint64_t step, uint32_t slot, uint64_t first,
                          uint64_t other, uint32_t settled)
{
    (void)cfg, (void)what, (void)step, (void)slot, (void)first, (void)other, (void)settled;
    assert_int_equal(generation, OPENING);
    ((struct fixture *)arg)->divergences++;
}

static void on_checked(void *arg, const kd_exchange_config *cfg, uint64_t generation, uint64_t step,
                       uint32_t slot, uint64_t process, uint64_t against, uint32_t settled)
{
    (void)cfg, (void)step, (void)slot, (void)process, (void)against, (void)settled;
    assert_int_equal(generation, OPENING);
    ((struct fixture *)arg)->checks++;
}

static kd_time_ms on_now(void *arg)
{
    (void)arg;
    return 1;
}

static void open_stage(struct fixture *f, bool bfloat16)
{
    kd_exchange_config cfg = {.slots = SLOTS,
                              .chunk_floats = CHUNK_FLOATS,
                              .chunks = CHUNKS,
                              .vector_floats = FLOATS,
                              .eval_steps = 100,
                              .last_version = 100,
                              .checkpoint_every = 100,
                              .bfloat16 = bfloat16};
    kd_exchange_events ev = {
        .divergence = on_divergence, .checked = on_checked, .now = on_now, .arg = f};
    kd_exchange_start start = {.opening = OPENING, .version = 1, .manifest = 1};
    kd_digest identity = {0};
    uint64_t torn;
    kd_assert_ok(kd_journal_open(f->prefix, &identity, CHUNKS, CHUNK_FLOATS, FLOATS, 1,
                                 &start.journal, &torn, &f->diag),
                 &f->diag);
    start.vector = kd_xalloc(FLOATS * sizeof *start.vector);
    f->x = kd_exchange_new(&cfg, &ev);
    kd_exchange_open(f->x, &start);
}

static int setup(void **state)
{
    struct fixture *f = kd_xalloc(sizeof *f);
    f->dir = kd_test_mkdir();
    snprintf(f->prefix, sizeof f->prefix, "%s/stage0", f->dir);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kd_exchange_free(f->x);
    kd_assert_ok(kd_file_remove_tree(f->dir, &f->diag), &f->diag);
    free(f->dir);
    free(f);
    return 0;
}

static int push(struct fixture *f, uint32_t node, uint32_t chunk, const void *payload, size_t len,
                bool spoilt)
{
    kd_rpc_call call = {.code = 1};
    Distill__V1__NodeChunk m = DISTILL__V1__NODE_CHUNK__INIT;
    m.step = 1;
    m.node = node;
    m.chunk = chunk;
    m.crc32c = kd_crc32c(0, payload, len) ^ spoilt;
    kd_exchange_push(f->x, &call, &m, payload, len);
    return call.code;
}

/* The sum of a chunk as it leaves; returns its bytes, 0 when it does not. */
static size_t sum_of(struct fixture *f, uint32_t chunk, uint8_t out[64])
{
    static kd_rpc_call call; /* may wait for the end of the stage */
    call = (kd_rpc_call){.code = 1};
    Distill__V1__SumRequest req = DISTILL__V1__SUM_REQUEST__INIT;
    req.step = 1;
    req.chunk = chunk;
    req.generation = OPENING;
    kd_exchange_await_sum(f->x, &call, &req);
    if (call.code != 0)
        return 0;
    ProtobufCMessage *m = NULL;
    const uint8_t *payload;
    size_t len;
    kd_assert_ok(kd_wire_unpack_bulk(&distill__v1__sum_chunk__descriptor, call.reply, call.len, &m,
                                     &payload, &len, &f->diag),
                 &f->diag);
    assert_int_equal(((Distill__V1__SumChunk *)m)->crc32c, kd_crc32c(0, payload, len));
    memcpy(out, payload, len);
    kd_wire_free(m);
    return len;
}

static void gradient(uint32_t slot, uint32_t chunk, float out[CHUNK_FLOATS])
{
    for (uint32_t i = 0; i < CHUNK_FLOATS; i++)
        out[i] = (float)(1 + slot) * 1.0078125f + (float)(chunk * 4 + i) * 0.01171875f;
    kd_bfloat16_round(out, CHUNK_FLOATS);
}

static void test_exchange_bfloat16_sums(void **state)
{
    struct fixture *f = *state;
    open_stage(f, true);
    for (uint32_t again = 0; again < 2; again++) {
        /* The second time round the journal has the sums. */
        for (uint32_t k = 0; k < CHUNKS; k++) {
            float a[CHUNK_FLOATS], b[CHUNK_FLOATS];
            uint16_t halves[CHUNK_FLOATS], want[CHUNK_FLOATS];
            uint8_t got[64];
            bool differs = false;
            gradient(0, k, a);
            gradient(1, k, b);
            for (uint32_t slot = 2; slot-- > 0 && !again;) {
                kd_bfloat16_pack(slot ? b : a, len_of(k), halves);
                assert_int_equal(push(f, SLOTS + slot, k, halves, 2 * len_of(k), false), 0);
            }
            for (size_t i = 0; i < len_of(k); i++) {
                float sum = a[i] + b[i];
                differs = differs || (kd_bfloat16_round(&sum, 1), sum != a[i] + b[i]);
            }
            assert_true(differs); /* rounding has something to do */
            kd_bfloat16_add(a, b, CHUNK_FLOATS);
            kd_bfloat16_pack(a, len_of(k), want);
            assert_int_equal(sum_of(f, k, got), 2 * len_of(k));
            assert_memory_equal(got, want, 2 * len_of(k));
        }
        if (!again) {
            kd_exchange_free(f->x);
            open_stage(f, true);
        }
    }
    assert_int_equal(f->divergences, 0);
}

static void refuse(struct fixture *f, uint32_t chunk, size_t bytes)
{
    uint8_t payload[64] = {0};
    assert_int_equal(push(f, SLOTS, chunk, payload, bytes, false), -KD_EINVAL);
}

/* Of every length only the chunk's own is taken, in the form that the job has. */
static void lengths(struct fixture *f, bool bfloat16)
{
    uint8_t got[64];
    open_stage(f, bfloat16);
    for (uint32_t k = 0; k < CHUNKS; k++) {
        size_t want = len_of(k) * (bfloat16 ? sizeof(uint16_t) : sizeof(float));
        for (size_t bytes = 0; bytes <= 64; bytes++)
            if (bytes != want)
                refuse(f, k, bytes);
        uint8_t payload[64] = {0};
        assert_int_equal(push(f, SLOTS, k, payload, want, true), -KD_EDATA);
        assert_int_equal(push(f, 0, k, payload, want, false), -KD_EINVAL);
        assert_int_equal(push(f, 2 * SLOTS, k, payload, want, false), -KD_EINVAL);
        assert_int_equal(sum_of(f, k, got), 0);
        assert_int_equal(push(f, 1, k, payload, want, false), 0);
        assert_int_equal(sum_of(f, k, got), want);
    }
    refuse(f, CHUNKS, 8);
    refuse(f, UINT32_MAX, 8);
}

static void test_exchange_takes_halves(void **state)
{
    lengths(*state, true);
}

static void test_exchange_takes_floats(void **state)
{
    lengths(*state, false);
}

/* Whatever bits come, in whatever order, the sum is one. */
static void test_exchange_bfloat16_odd_numbers(void **state)
{
    struct fixture *f = *state;
    static const uint16_t left[] = {0x7f80, 0xffff, 0x7fa5, 0x7f7f};
    static const uint16_t right[] = {0xff80, 0x7f81, 0x0001, 0x7f7f};
    static const uint16_t want[] = {0x7fc0, 0x7fc0, 0x7fc0, 0x7f80};
    for (int order = 0; order < 2; order++) {
        uint8_t got[64];
        kd_exchange_free(f->x);
        kd_journal_remove(f->prefix);
        open_stage(f, true);
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t slot = order ? 1 - i : i;
            assert_int_equal(push(f, SLOTS + slot, 0, slot ? right : left, sizeof left, false), 0);
        }
        assert_int_equal(sum_of(f, 0, got), sizeof want);
        assert_memory_equal(got, want, sizeof want);
    }
}

/* Who hears of it late tells by that whether it is of what runs now (on_checked, on_divergence). */
static void test_exchange_news_name_their_opening(void **state)
{
    struct fixture *f = *state;
    open_stage(f, false);
    for (int run = 0; run < 3; run++)
        for (uint32_t k = 0; k < CHUNKS; k++) {
            kd_rpc_call call = {.code = 1};
            Distill__V1__NodeChunk m = DISTILL__V1__NODE_CHUNK__INIT;
            float g[CHUNK_FLOATS];
            gradient(0, k, g);
            g[0] += (float)(run == 2); /* the last one is unlike the others */
            m.step = 1;
            m.node = SLOTS;
            m.chunk = k;
            m.check = run > 0;
            m.process = 1 + (uint64_t)run;
            m.crc32c = kd_crc32c(0, g, len_of(k) * sizeof *g);
            kd_exchange_push(f->x, &call, &m, (uint8_t *)g, len_of(k) * sizeof *g);
            assert_int_equal(call.code, 0);
        }
    assert_int_equal(f->checks, 2);
    assert_int_equal(f->divergences, CHUNKS);
}

/* What became of each unit: with its first chunk, and with any chunk that is wrong. */
static void test_exchange_counts_units(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint32_t node, chunk;
        uint64_t step;
        bool check, spoilt;
        float more; /* than the unit's gradient is */
        enum kd_unit_end ends;
        int code;
    } pushes[] = {
        {SLOTS, 0, 1, false, false, 0, KD_UNIT_OK, 0},
        {SLOTS, 1, 1, false, false, 0, KD_UNIT_ENDS, 0},
        {SLOTS, 0, 1, false, false, 0, KD_UNIT_DUPLICATE, 0},
        {SLOTS, 0, 1, true, false, 0, KD_UNIT_BACKUP, 0},
        {SLOTS, 0, 7, false, false, 0, KD_UNIT_STALE, -KD_ESTALE},
        {SLOTS, 0, 1, false, false, 1, KD_UNIT_DIVERGENT, 0},
        {SLOTS, 1, 1, false, false, 1, KD_UNIT_DIVERGENT, 0},
        {SLOTS + 1, 0, 1, false, true, 0, KD_UNIT_CORRUPT, -KD_EDATA},
        {SLOTS + 1, 1, 1, false, true, 0, KD_UNIT_CORRUPT, -KD_EDATA},
        {2 * SLOTS, 0, 1, false, false, 0, KD_UNIT_ENDS, -KD_EINVAL},
        {0, 0, 1, false, false, 0, KD_UNIT_ENDS, -KD_EINVAL},
    };
    uint64_t want[KD_UNIT_ENDS + 1] = {0};
    open_stage(f, false);
    for (size_t i = 0; i < KD_COUNT(pushes); i++) {
        kd_rpc_call call = {.code = 1};
        Distill__V1__NodeChunk m = DISTILL__V1__NODE_CHUNK__INIT;
        float g[CHUNK_FLOATS];
        gradient(0, pushes[i].chunk, g);
        g[0] += pushes[i].more;
        m.step = pushes[i].step;
        m.node = pushes[i].node;
        m.chunk = pushes[i].chunk;
        m.check = pushes[i].check;
        m.crc32c = kd_crc32c(0, g, sizeof g) ^ pushes[i].spoilt;
        kd_exchange_push(f->x, &call, &m, (uint8_t *)g, sizeof g);
        assert_int_equal(call.code, pushes[i].code);
        want[pushes[i].ends]++;
        assert_memory_equal(f->x->io.units, want, KD_UNIT_ENDS * sizeof *want);
    }
    /* The root is both units. */
    float g[CHUNK_FLOATS];
    gradient(0, 0, g);
    kd_exchange_free(f->x);
    kd_journal_remove(f->prefix);
    open_stage(f, false);
    assert_int_equal(push(f, 1, 0, g, sizeof g, false), 0);
    assert_int_equal(f->x->io.units[KD_UNIT_OK], SLOTS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_exchange_bfloat16_sums, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exchange_takes_halves, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exchange_takes_floats, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exchange_bfloat16_odd_numbers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exchange_news_name_their_opening, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exchange_counts_units, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

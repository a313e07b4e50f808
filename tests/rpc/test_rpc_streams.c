/* Streams in both directions: order, back-pressure, and every way to end. */
#include "rpc_fixture.h"

#include <string.h>

static void test_rpc_server_stream_with_slow_reader(void **state)
{
    struct rpc_sink k = {.slow = true};
    uint32_t n = 500; /* 32 MB: four times what a stream may queue */
    rpc_sink_open(*state, "/t.T/Flood", &k);
    kd_rpc_stream_send(k.stream, &(struct iovec){&n, 4}, 1);
    kd_rpc_stream_close_send(k.stream);
    assert_true(rpc_await(&k.ended, 1));
    assert_int_equal(rpc_seen.limited, 1);
    assert_int_equal(k.messages, 500);
    assert_true(k.in_order);
    assert_int_equal(k.code, 0);
    kd_rpc_stream_free(k.stream);
}

static void test_rpc_bidi(void **state)
{
    struct rpc_sink k = {.echo_left = 200};
    rpc_sink_open(*state, "/t.T/Ping", &k);
    uint32_t zero = 0;
    kd_rpc_stream_send(k.stream, &(struct iovec){&zero, 4}, 1);
    assert_true(rpc_await(&k.ended, 1));
    assert_int_equal(k.messages, 201);
    assert_true(k.in_order);
    assert_int_equal(k.code, 0);
    assert_true(rpc_await(&rpc_seen.closed, 1));
    assert_int_equal(rpc_seen.cancelled, 0);
    kd_rpc_stream_free(k.stream);
}

static void test_rpc_stream_cancelled_by_its_client(void **state)
{
    struct rpc_sink k = {0};
    rpc_sink_open(*state, "/t.T/Ping", &k);
    uint32_t zero = 0;
    kd_rpc_stream_send(k.stream, &(struct iovec){&zero, 4}, 1);
    assert_true(rpc_await(&k.messages, 1));
    kd_rpc_stream_cancel(k.stream);
    assert_true(rpc_await(&k.ended, 1));
    assert_int_equal(k.code, -KD_ECANCELED);
    assert_true(rpc_await(&rpc_seen.cancelled, 1));
    assert_int_equal(kd_rpc_stream_send(k.stream, &(struct iovec){&zero, 4}, 1), -KD_ECANCELED);
    kd_rpc_stream_free(k.stream);
}

static void test_rpc_stream_ended_by_its_server(void **state)
{
    struct rpc_sink k = {0};
    rpc_sink_open(*state, "/t.T/EndBadly", &k);
    static uint8_t big[MAX_MESSAGE + 1];
    assert_int_equal(kd_rpc_stream_send(k.stream, &(struct iovec){big, sizeof big}, 1), -KD_EINVAL);
    assert_int_equal(kd_rpc_stream_send(k.stream, &(struct iovec){"go", 2}, 1), 0);
    assert_true(rpc_await(&k.ended, 1)); /* though this side never said that it is done */
    assert_int_equal(k.messages, 2);
    assert_true(k.in_order);
    assert_int_equal(k.code, -KD_ESTALE);
    assert_string_equal(k.text, "generation 3 is over");
    assert_true(rpc_await(&rpc_seen.closed, 1));
    assert_int_equal(rpc_seen.cancelled, 0);
    kd_rpc_stream_free(k.stream);
}

static void test_rpc_stream_keeps_its_data(void **state)
{
    struct rpc_sink k[8] = {0};
    for (int i = 0; i < 8; i++) {
        rpc_sink_open(*state, "/t.T/Data", &k[i]);
        for (uint32_t n = 0; n < 50; n++)
            assert_int_equal(kd_rpc_stream_send(k[i].stream, &(struct iovec){&n, 4}, 1), 0);
        if (i % 2)
            kd_rpc_stream_close_send(k[i].stream);
        else
            kd_rpc_stream_cancel(k[i].stream);
    }
    for (int i = 0; i < 8; i++) {
        assert_true(rpc_await(&k[i].ended, 1));
        assert_true(k[i].in_order);
        assert_int_equal(k[i].code, i % 2 ? 0 : -KD_ECANCELED);
        if (i % 2)
            assert_int_equal(k[i].messages, 50);
        kd_rpc_stream_free(k[i].stream);
    }
}

/* Freed while open: the end still comes, and the object lives until it has. */
static void test_rpc_stream_freed_while_open(void **state)
{
    struct rpc_sink k = {0};
    rpc_sink_open(*state, "/t.T/Ping", &k);
    kd_rpc_stream_free(k.stream);
    assert_true(rpc_await(&k.ended, 1));
    assert_int_equal(k.code, -KD_ECANCELED);
}

static void test_rpc_stream_of_a_server_that_goes(void **state)
{
    struct rpc_fixture *f = *state;
    struct rpc_sink k = {0};
    rpc_sink_open(f, "/t.T/Ping", &k);
    uint32_t zero = 0;
    kd_rpc_stream_send(k.stream, &(struct iovec){&zero, 4}, 1);
    assert_true(rpc_await(&k.messages, 1));
    kd_rpc_server_stop(f->server, 0);
    assert_true(rpc_await(&k.ended, 1));
    assert_true(k.code == -KD_EUNAVAIL || k.code == -KD_ECANCELED);
    assert_true(k.text[0] != '\0');
    kd_rpc_stream_free(k.stream);
    struct rpc_sink later = {0};
    rpc_sink_open(f, "/t.T/Ping", &later);
    assert_true(rpc_await(&later.ended, 1));
    assert_int_equal(later.code, -KD_EUNAVAIL);
    assert_non_null(strstr(later.text, "cannot reach coordinator"));
    kd_rpc_stream_free(later.stream);
}

/* A unary method whose caller sends no message, or more than it should. */
static void test_rpc_unary_called_as_a_stream(void **state)
{
    struct rpc_sink k = {0};
    rpc_sink_open(*state, "/t.T/Echo", &k);
    kd_rpc_stream_close_send(k.stream);
    assert_true(rpc_await(&k.ended, 1));
    assert_int_equal(k.code, -KD_EINVAL);
    assert_string_equal(k.text, "the call carries no message");
    kd_rpc_stream_free(k.stream);
    struct rpc_sink many = {0};
    rpc_sink_open(*state, "/t.T/Echo", &many);
    for (int i = 0; i < 100; i++)
        (void)kd_rpc_stream_send(many.stream, &(struct iovec){"abc", 3}, 1);
    kd_rpc_stream_close_send(many.stream);
    assert_true(rpc_await(&many.ended, 1));
    assert_int_equal(many.messages, 1);
    kd_rpc_stream_free(many.stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RPC_TEST(test_rpc_server_stream_with_slow_reader),
        RPC_TEST(test_rpc_bidi),
        RPC_TEST(test_rpc_stream_cancelled_by_its_client),
        RPC_TEST(test_rpc_stream_ended_by_its_server),
        RPC_TEST(test_rpc_stream_keeps_its_data),
        RPC_TEST(test_rpc_stream_freed_while_open),
        RPC_TEST(test_rpc_stream_of_a_server_that_goes),
        RPC_TEST(test_rpc_unary_called_as_a_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

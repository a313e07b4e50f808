/* Unary calls, their ends and limits, and a port that anybody may speak to. */
#include "rpc_fixture.h"

#include "kd/rng.h"
#include "wire/limits.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static void test_rpc_unary(void **state)
{
    kd_rpc_result r;
    assert_int_equal(rpc_call(*state, "/t.T/Echo", "abc", 3, &r), 0);
    assert_int_equal(r.len, 5);
    assert_memory_equal(r.bytes, "<abc>", 5);
    free(r.bytes);
    assert_int_equal(rpc_call(*state, "/t.T/Echo", "", 0, &r), 0);
    assert_int_equal(r.len, 2);
    free(r.bytes);
    assert_int_equal(rpc_call(*state, "/t.T/Later", "", 0, &r), 0);
    assert_memory_equal(r.bytes, "late", 4);
    free(r.bytes);
    assert_true(rpc_await(&rpc_seen.closed, 2));
    assert_int_equal(rpc_seen.cancelled, 0);
}

static void test_rpc_large_messages(void **state)
{
    const struct rpc_fixture *f = *state;
    uint8_t *big = kd_xalloc(MAX_MESSAGE + 1);
    for (size_t i = 0; i < MAX_MESSAGE; i++)
        big[i] = (uint8_t)(i * 2654435761u >> 24);
    kd_rpc_result r;
    assert_int_equal(rpc_call(*state, "/t.T/Echo", big, MAX_MESSAGE - 2, &r), 0);
    assert_int_equal(r.len, MAX_MESSAGE);
    assert_memory_equal(r.bytes + 1, big, MAX_MESSAGE - 2);
    free(r.bytes);
    /* One byte too much in the reply, then in the request. */
    assert_int_equal(rpc_call(*state, "/t.T/Echo", big, MAX_MESSAGE - 1, &r), -KD_ELIMIT);
    assert_string_equal(r.text, "a reply of 2097153 bytes, at most 2097152 can be sent");
    assert_int_equal(r.oversize, KD_RPC_REQUEST_TOO_LARGE);
    assert_true(rpc_await(&rpc_seen.closed, 2));
    assert_int_equal(rpc_seen.cancelled, 0);
    assert_int_equal(rpc_call(*state, "/t.T/Echo", big, MAX_MESSAGE + 1, &r), -KD_ELIMIT);
    assert_int_equal(r.oversize, KD_RPC_REQUEST_TOO_LARGE);
    assert_int_equal(rpc_call(*state, "/t.T/Later", big, 11, &r), -KD_ELIMIT);
    assert_non_null(strstr(r.text, "at most 10"));
    assert_int_equal(r.oversize, KD_RPC_REQUEST_TOO_LARGE);
    /* A client that takes less than the server sends. */
    kd_rpc_channel *small = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_rpc_channel_new(f->rpc, f->target, NULL, 1000, &small, &diag), &diag);
    assert_int_equal(
        kd_rpc_unary(small, "/t.T/Echo", &(struct iovec){big, 999}, 1, 20000, true, &r),
        -KD_ELIMIT);
    assert_int_equal(r.oversize, KD_RPC_REPLY_TOO_LARGE);
    kd_rpc_channel_free(small);
    free(big);
}

static void test_rpc_errors_are_readable(void **state)
{
    kd_rpc_result r;
    assert_int_equal(rpc_call(*state, "/t.T/Refuse", "", 0, &r), -KD_ESTATE);
    assert_string_equal(r.text, "the thing is not ready; make it ready first");
    assert_int_equal(rpc_call(*state, "/t.T/Unknown", "", 0, &r), -KD_EUNSUP);
    assert_int_equal(r.grpc_status, 12);
    assert_non_null(strstr(r.text, "/t.T/Unknown"));
}

static void test_rpc_error_text_is_made_safe(void **state)
{
    kd_rpc_result r;
    assert_int_equal(
        rpc_call(*state, "/t.T/Say", "a\x1b[2Jb\x7f\xff\xc2\x9b\nr\xc3\xb6schen", 20, &r),
        -KD_EINVAL);
    assert_string_equal(r.text, "a?[2Jb????\nr\xc3\xb6schen");
    /* Too long, of characters of three bytes: cut between two of them. */
    char *text = kd_xalloc(9000);
    for (int i = 0; i < 3000; i++)
        memcpy(text + (size_t)i * 3, "\xe2\x82\xac", 3);
    assert_int_equal(rpc_call(*state, "/t.T/Say", text, 9000, &r), -KD_EINVAL);
    assert_int_equal(strlen(r.text), KD_MAX_STATUS_TEXT);
    text[KD_MAX_STATUS_TEXT] = '\0';
    assert_string_equal(r.text, text);
    /* One byte before them: the limit now lies inside a character, which goes as a whole. */
    text[0] = 'x';
    for (int i = 0; i < 2999; i++)
        memcpy(text + 1 + (size_t)i * 3, "\xe2\x82\xac", 3);
    assert_int_equal(rpc_call(*state, "/t.T/Say", text, 8998, &r), -KD_EINVAL);
    assert_int_equal(strlen(r.text), 898);
    assert_memory_equal(r.text, text, 898);
    free(text);
}

static void test_rpc_call_facts(void **state)
{
    kd_rpc_result r;
    assert_int_equal(rpc_call(*state, "/t.T/Facts", "", 0, &r), 0);
    assert_true(r.len > 20 && r.len < 200);
    r.bytes[r.len - 1] = '\0';
    assert_memory_equal(r.bytes, "soon ipv4:127.0.0.1:", 20);
    assert_non_null(strstr((char *)r.bytes, " ["));
    free(r.bytes);
    /* Without a deadline. */
    struct rpc_sink k = {0};
    rpc_sink_open(*state, "/t.T/Facts", &k);
    kd_rpc_stream_send(k.stream, &(struct iovec){"", 0}, 1);
    assert_true(rpc_await(&k.ended, 1));
    assert_int_equal(k.code, 0);
    assert_memory_equal(k.last, "never ipv4:", 11);
    kd_rpc_stream_free(k.stream);
}

static void test_rpc_deadline_and_cancel_reach_the_server(void **state)
{
    struct rpc_fixture *f = *state;
    kd_rpc_result r;
    int rc = kd_rpc_unary(f->channel, "/t.T/Hold", &(struct iovec){"", 0}, 1, 200, false, &r);
    assert_int_equal(rc, -KD_ETIMEOUT);
    assert_true(rpc_await(&rpc_seen.cancelled, 1));
    assert_int_equal(rpc_seen.closed, 1);
    assert_true(kd_rpc_call_deadline(rpc_seen.held) < kd_clock_ms() + 1000);
    kd_rpc_reply(rpc_seen.held, &(struct iovec){"x", 1}, 1); /* too late; nothing happens */
}

static void ignore_result(const kd_rpc_result *r, void *arg)
{
    atomic_store((atomic_int *)arg, r->code == 0 ? 1000 : -r->code);
    rpc_signal();
}

static void test_rpc_stop_with_calls_in_flight(void **state)
{
    struct rpc_fixture *f = *state;
    atomic_int code = 0;
    assert_int_equal(kd_rpc_unary_start(f->channel, "/t.T/Hold", &(struct iovec){"", 0}, 1, 20000,
                                        false, ignore_result, &code),
                     0);
    assert_true(rpc_await(&rpc_seen.opened, 1));
    kd_rpc_server_stop(f->server, 50);
    assert_int_equal(rpc_seen.closed, 1);
    assert_true(rpc_await(&code, 1));
    assert_true(code == KD_EUNAVAIL || code == KD_ECANCELED);
    kd_rpc_result r;
    assert_int_equal(rpc_call(f, "/t.T/Echo", "", 0, &r), -KD_EUNAVAIL);
    assert_non_null(strstr(r.text, "cannot reach coordinator 127.0.0.1"));
}

static void count_result(const kd_rpc_result *r, void *arg)
{
    atomic_int *counts = arg; /* all, good ones, cancelled ones */
    atomic_fetch_add(&counts[1], r->code == 0 && r->len == 3 && memcmp(r->bytes, "<x>", 3) == 0);
    atomic_fetch_add(&counts[2], r->code == -KD_ECANCELED);
    atomic_fetch_add(&counts[0], 1);
    rpc_signal();
}

/* More at once than the server has accepts posted. */
static void test_rpc_many_calls_at_once(void **state)
{
    struct rpc_fixture *f = *state;
    atomic_int counts[3] = {0, 0, 0};
    for (int i = 0; i < 500; i++)
        assert_int_equal(kd_rpc_unary_start(f->channel, "/t.T/Echo", &(struct iovec){"x", 1}, 1,
                                            20000, false, count_result, counts),
                         0);
    assert_true(rpc_await(&counts[0], 500));
    assert_int_equal(counts[0], 500);
    assert_int_equal(counts[1], 500);
}

/* Freeing a channel ends each of its calls exactly once, before it returns. */
static void test_rpc_channel_closed_with_calls_in_flight(void **state)
{
    struct rpc_fixture *f = *state;
    atomic_int counts[3] = {0, 0, 0};
    for (int i = 0; i < 50; i++)
        assert_int_equal(kd_rpc_unary_start(f->channel, i % 2 ? "/t.T/Hold" : "/t.T/Echo",
                                            &(struct iovec){"x", 1}, 1, 20000, false, count_result,
                                            counts),
                         0);
    kd_rpc_channel_close(f->channel);
    kd_rpc_result r;
    assert_int_equal(rpc_call(f, "/t.T/Echo", "x", 1, &r), -KD_ECANCELED);
    assert_null(r.bytes);
    kd_rpc_stream_events none = {NULL, NULL, NULL};
    kd_rpc_stream *s = NULL;
    kd_diag diag = {0};
    kd_assert_fails(kd_rpc_stream_open(f->channel, "/t.T/Ping", 0, &none, &s, &diag), KD_ECANCELED,
                    &diag, "closing");
    kd_rpc_channel_free(f->channel);
    f->channel = NULL;
    assert_int_equal(counts[0], 50);
    assert_int_equal(counts[1] + counts[2], 50); /* none waited for its deadline */
    assert_true(counts[2] >= 25);
}

static void *stop_server(void *arg)
{
    kd_rpc_server_stop(arg, 20);
    return NULL;
}

static void test_rpc_two_stops_at_once(void **state)
{
    struct rpc_fixture *f = *state;
    atomic_int counts[3] = {0, 0, 0};
    for (int i = 0; i < 100; i++)
        assert_int_equal(kd_rpc_unary_start(f->channel, i % 2 ? "/t.T/Hold" : "/t.T/Echo",
                                            &(struct iovec){"x", 1}, 1, 20000, false, count_result,
                                            counts),
                         0);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, stop_server, f->server), 0);
    kd_rpc_server_stop(f->server, 10);
    int closed = rpc_seen.closed;
    pthread_join(t, NULL);
    assert_int_equal(rpc_seen.closed, closed); /* no callback after the first return */
    assert_true(rpc_await(&counts[0], 100));
}

static void test_rpc_port_taken_and_bad_addresses(void **state)
{
    struct rpc_fixture *f = *state;
    kd_rpc_server *s = NULL;
    kd_diag diag = {0};
    kd_rpc_server_config cfg = {
        .listen = f->target, .methods = rpc_methods, .n_methods = 1, .max_message = 1000};
    kd_assert_fails(kd_rpc_server_new(f->rpc, &cfg, &s, &diag), KD_EEXIST, &diag, "taken");
    static const char *const bad[] = {"", "nonsense", "127.0.0.1", ":1", "127.0.0.1:99999", "h:1x"};
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        cfg.listen = bad[i];
        kd_assert_fails(kd_rpc_server_new(f->rpc, &cfg, &s, &diag), KD_EINVAL, &diag, "HOST:PORT");
    }
    cfg.listen = "192.0.2.1:0"; /* TEST-NET-1 (RFC 5737): nobody's */
    kd_assert_fails(kd_rpc_server_new(f->rpc, &cfg, &s, &diag), KD_EINVAL, &diag, "192.0.2.1:0");
    assert_null(s);
    kd_rpc_channel *ch = NULL;
    kd_assert_fails(kd_rpc_channel_new(f->rpc, "nonsense", NULL, 1000, &ch, &diag), KD_EINVAL,
                    &diag, "HOST:PORT");
    kd_rpc *rpc = NULL;
    kd_assert_fails(kd_rpc_new(0, &rpc, &diag), KD_EINVAL, &diag, "threads");
}

static void test_rpc_client_reconnects(void **state)
{
    struct rpc_fixture *f = *state;
    kd_diag diag = {0};
    kd_rpc_server_free(f->server);
    f->server = NULL;
    kd_rpc_result r;
    assert_int_equal(rpc_call(f, "/t.T/Echo", "", 0, &r), -KD_EUNAVAIL);
    char want[128];
    snprintf(want, sizeof want,
             "cannot reach coordinator %s: Connection refused, is distilld running there?",
             f->target);
    assert_string_equal(r.text, want);
    assert_int_equal(
        kd_rpc_unary(f->channel, "/t.T/Echo", &(struct iovec){"a", 1}, 1, 300, true, &r),
        -KD_ETIMEOUT);
    assert_non_null(strstr(r.text, "cannot reach coordinator 127.0.0.1:"));
    kd_rpc_server_config cfg = {.listen = f->target,
                                .methods = rpc_methods,
                                .n_methods = rpc_n_methods,
                                .max_message = MAX_MESSAGE};
    kd_assert_ok(kd_rpc_server_new(f->rpc, &cfg, &f->server, &diag), &diag);
    assert_int_equal(
        kd_rpc_unary(f->channel, "/t.T/Echo", &(struct iovec){"a", 1}, 1, 20000, true, &r), 0);
    free(r.bytes);
}

/* Who calls, as the server sees it. */
static void call_who(const struct rpc_fixture *f, char address[128])
{
    kd_rpc_result r;
    assert_int_equal(
        kd_rpc_unary(f->channel, "/t.T/Who", &(struct iovec){"a", 1}, 1, 20000, true, &r), 0);
    snprintf(address, 128, "%.*s", (int)r.len, (const char *)r.bytes);
    free(r.bytes);
}

/* Of a connection over IPv6, too, the address is spelled as everywhere (kd/peer.h). */
static void test_rpc_peer_over_ipv6(void **state)
{
    struct rpc_fixture six = {.rpc = ((struct rpc_fixture *)*state)->rpc};
    kd_diag diag = {0};
    char address[128];
    kd_rpc_server_config cfg = {.listen = "[::1]:0",
                                .methods = rpc_methods,
                                .n_methods = rpc_n_methods,
                                .max_message = MAX_MESSAGE};
    if (kd_rpc_server_new(six.rpc, &cfg, &six.server, &diag) != 0)
        skip(); /* no IPv6 on this machine */
    snprintf(six.target, sizeof six.target, "[::1]:%d", kd_rpc_server_port(six.server));
    kd_assert_ok(kd_rpc_channel_new(six.rpc, six.target, NULL, MAX_MESSAGE, &six.channel, &diag),
                 &diag);
    call_who(&six, address);
    assert_memory_equal(address, "ipv6:[::1]:", 11);
    kd_rpc_channel_free(six.channel);
    kd_rpc_server_free(six.server);
}

/* A new connection for calls to come, not two at once; what runs on the old one ends. */
static void test_rpc_reconnect_on_demand(void **state)
{
    struct rpc_fixture *f = *state;
    char first[128], same[128], second[128], third[128];
    atomic_int counts[3] = {0, 0, 0};
    call_who(f, first);
    call_who(f, same);
    assert_string_equal(first, same);
    assert_int_equal(kd_rpc_unary_start(f->channel, "/t.T/Hold", &(struct iovec){"x", 1}, 1, 20000,
                                        false, count_result, counts),
                     0);
    assert_true(rpc_await(&rpc_seen.opened, 1));
    kd_rpc_channel_reconnect(f->channel);
    call_who(f, second);
    assert_string_not_equal(first, second);
    kd_rpc_channel_reconnect(f->channel);
    call_who(f, third);
    assert_string_equal(second, third);
    assert_true(rpc_await(&counts[0], 1));
    assert_int_equal(counts[1] + counts[2], 0); /* neither answered nor given up by its caller */
    assert_true(rpc_await(&rpc_seen.cancelled, 1));
}

/* ---- what else comes to the port */

/* What is no gRPC at all must not disturb those who speak it. */
static void test_rpc_survives_noise_on_the_port(void **state)
{
    struct rpc_fixture *f = *state;
    kd_rng rng;
    kd_rng_init(&rng, 7, KD_RNG_TEST, 0, 0);
    static const char *const starts[] = {"", "GET / HTTP/1.1\r\n\r\n",
                                         "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"};
    for (int i = 0; i < 60; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        struct sockaddr_in a = {.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)kd_rpc_server_port(f->server)),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
        uint8_t noise[512];
        for (size_t k = 0; k < sizeof noise; k++)
            noise[k] = (uint8_t)kd_rng_u32(&rng);
        const char *start = starts[i % 3];
        ssize_t w = send(fd, start, strlen(start), MSG_NOSIGNAL);
        w = send(fd, noise, kd_rng_below(&rng, sizeof noise), MSG_NOSIGNAL);
        (void)w;
        close(fd);
    }
    kd_rpc_result r;
    assert_int_equal(rpc_call(f, "/t.T/Echo", "abc", 3, &r), 0);
    free(r.bytes);
}

/* gRPC's listener would not recover from a failed accept: connections beyond the descriptors there
 * are must be refused, and the server must be there afterwards. */
static void test_rpc_more_connections_than_descriptors(void **state)
{
    struct rpc_fixture *f = *state;
    struct rlimit old, small;
    int fds[400], n = 0;
    getrlimit(RLIMIT_NOFILE, &old);
    int next = dup(0);
    close(next);
    small = old;
    small.rlim_cur = (rlim_t)next + 60;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
    uint64_t before = kd_rpc_refused_connections();
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)kd_rpc_server_port(f->server)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int round = 0; round < 5; round++) {
        while (n < 400 && (fds[n] = socket(AF_INET, SOCK_STREAM, 0)) >= 0) {
            assert_int_equal(connect(fds[n], (struct sockaddr *)&a, sizeof a), 0);
            n++;
        }
        usleep(50000);
        /* The oldest make room, and the server's side of them. */
        for (int i = 0; i < n; i++)
            close(fds[i]);
        n = 0;
    }
    assert_true(kd_rpc_refused_connections() > before);
    kd_rpc_result r;
    assert_int_equal(
        kd_rpc_unary(f->channel, "/t.T/Echo", &(struct iovec){"abc", 3}, 1, 20000, true, &r), 0);
    free(r.bytes);
    setrlimit(RLIMIT_NOFILE, &old);
}

static void count_limited(const kd_rpc_result *r, void *arg)
{
    atomic_int *counts = arg;
    if (r->code == -KD_ELIMIT)
        atomic_fetch_add(&counts[1], strstr(r->text, "as many calls as it takes") != NULL &&
                                         r->oversize == KD_RPC_FITS);
    atomic_fetch_add(&counts[0], 1);
    rpc_signal();
}

static void test_rpc_more_calls_than_are_taken(void **state)
{
    struct rpc_fixture *f = *state;
    kd_diag diag = {0};
    kd_rpc_server_config cfg = {.listen = f->target,
                                .methods = rpc_methods,
                                .n_methods = rpc_n_methods,
                                .max_message = MAX_MESSAGE,
                                .max_calls = 8};
    kd_rpc_server_free(f->server);
    f->server = NULL;
    kd_assert_ok(kd_rpc_server_new(f->rpc, &cfg, &f->server, &diag), &diag);
    static atomic_int counts[2]; /* calls that end later than a failed check still count */
    /* The first of them connects, which takes none of the others' time. */
    for (int i = 0; i < 20; i++) {
        assert_int_equal(kd_rpc_unary_start(f->channel, "/t.T/Hold", &(struct iovec){"x", 1}, 1,
                                            i ? 4000 : 8000, true, count_limited, counts),
                         0);
        assert_true(i || rpc_await(&rpc_seen.opened, 1));
    }
    assert_true(rpc_await(&counts[1], 12));
    /* Others are refused while the last of these are still being read. */
    assert_true(rpc_await(&rpc_seen.opened, 8));
    assert_true(rpc_await(&counts[0], 20)); /* the 8 by their deadline */
    assert_int_equal(counts[1], 12);
    assert_int_equal(rpc_seen.opened, 8);
    /* A call's place is free a moment after its client knows that it is over. */
    kd_rpc_result r = {.code = -KD_ELIMIT};
    for (int i = 0; i < 1000 && r.code == -KD_ELIMIT; i++) {
        rpc_call(f, "/t.T/Echo", "abc", 3, &r);
        free(r.bytes);
        usleep(1000);
    }
    assert_int_equal(r.code, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RPC_TEST(test_rpc_unary),
        RPC_TEST(test_rpc_large_messages),
        RPC_TEST(test_rpc_errors_are_readable),
        RPC_TEST(test_rpc_error_text_is_made_safe),
        RPC_TEST(test_rpc_call_facts),
        RPC_TEST(test_rpc_deadline_and_cancel_reach_the_server),
        RPC_TEST(test_rpc_stop_with_calls_in_flight),
        RPC_TEST(test_rpc_many_calls_at_once),
        RPC_TEST(test_rpc_channel_closed_with_calls_in_flight),
        RPC_TEST(test_rpc_two_stops_at_once),
        RPC_TEST(test_rpc_port_taken_and_bad_addresses),
        RPC_TEST(test_rpc_peer_over_ipv6),
        RPC_TEST(test_rpc_client_reconnects),
        RPC_TEST(test_rpc_reconnect_on_demand),
        RPC_TEST(test_rpc_survives_noise_on_the_port),
        RPC_TEST(test_rpc_more_connections_than_descriptors),
        RPC_TEST(test_rpc_more_calls_than_are_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

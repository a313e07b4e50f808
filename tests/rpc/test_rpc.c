/* The RPC layer against itself over loopback: a real server and a real client in one process. */
#include "kd_test.h"

#include "kd/rng.h"
#include "rpc/internal.h"
#include "rpc/rpc.h"
#include "wire/limits.h"
#include "wire/wire.h"

#include "descriptor_set.h"
#include "health.pb-c.h"
#include "reflection.pb-c.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_MESSAGE (2u << 20)

struct fixture {
    kd_rpc *rpc;
    kd_rpc_server *server;
    kd_rpc_channel *channel;
    char target[32];
};

static atomic_int g_closed, g_cancelled, g_opened, g_limited;
static kd_rpc_call *g_held; /* of /t.T/Hold, answered by nobody; guarded by g_mu */
static pthread_mutex_t g_mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t g_cond = PTHREAD_COND_INITIALIZER;

static void signal_change(void)
{
    pthread_mutex_lock(&g_mu);
    pthread_cond_broadcast(&g_cond);
    pthread_mutex_unlock(&g_mu);
}

/* Waits until *value >= want; the deadline only keeps a failing test from hanging. */
static bool await(atomic_int *value, int want)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    pthread_mutex_lock(&g_mu);
    int rc = 0;
    while (atomic_load(value) < want && rc == 0)
        rc = pthread_cond_timedwait(&g_cond, &g_mu, &until);
    pthread_mutex_unlock(&g_mu);
    return atomic_load(value) >= want;
}

static void on_close(kd_rpc_call *call, bool cancelled, void *arg)
{
    (void)call;
    (void)arg;
    atomic_fetch_add(&g_closed, 1);
    atomic_fetch_add(&g_cancelled, cancelled);
    signal_change();
}

static void echo(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)arg;
    struct iovec parts[] = {{"<", 1}, {(void *)bytes, len}, {">", 1}};
    kd_rpc_reply(call, parts, 3);
    kd_rpc_finish(call, -KD_EINTERNAL, "a second answer is ignored");
}

static void *answer_later(void *arg)
{
    kd_rpc_call *call = arg;
    usleep(20000);
    kd_rpc_reply(call, &(struct iovec){"late", 4}, 1);
    kd_rpc_call_unref(call);
    return NULL;
}

static void later(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)bytes, (void)len, (void)arg;
    pthread_t t;
    kd_rpc_call_ref(call);
    KD_BUG_ON(pthread_create(&t, NULL, answer_later, call) != 0);
    pthread_detach(t);
}

static void refuse(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)bytes, (void)len, (void)arg;
    kd_rpc_finish(call, -KD_ESTATE, "the thing is not ready; make it ready first");
}

static void hold(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)bytes, (void)len, (void)arg;
    pthread_mutex_lock(&g_mu);
    kd_rpc_call *old = g_held;
    g_held = kd_rpc_call_ref(call);
    pthread_mutex_unlock(&g_mu);
    if (old)
        kd_rpc_call_unref(old);
    atomic_fetch_add(&g_opened, 1);
    signal_change();
}

/* Sends 0, 1, ... n-1 of 64 KiB each, as fast as the queue takes them. */
struct flood {
    kd_rpc_call *call;
    uint32_t n;
};

static void *run_flood(void *arg)
{
    struct flood *f = arg;
    uint8_t *block = kd_xalloc(65536);
    for (uint32_t i = 0; i < f->n; i++) {
        memcpy(block, &i, 4);
        int rc;
        while ((rc = kd_rpc_send(f->call, &(struct iovec){block, 65536}, 1)) == -KD_ELIMIT) {
            KD_BUG_ON(kd_rpc_queued(f->call) > 8u << 20);
            atomic_store(&g_limited, 1);
            signal_change();
            usleep(1000);
        }
        if (rc != 0)
            break;
    }
    kd_rpc_finish(f->call, 0, "");
    kd_rpc_call_unref(f->call);
    free(block);
    free(f);
    return NULL;
}

static void flood(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)arg;
    struct flood *f = kd_xalloc(sizeof *f);
    f->call = kd_rpc_call_ref(call);
    KD_BUG_ON(len != 4);
    memcpy(&f->n, bytes, 4);
    pthread_t t;
    KD_BUG_ON(pthread_create(&t, NULL, run_flood, f) != 0);
    pthread_detach(t);
}

static void ping(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)arg;
    KD_BUG_ON(kd_rpc_send(call, &(struct iovec){(void *)bytes, len}, 1) != 0);
}

static void half_close(kd_rpc_call *call, void *arg)
{
    (void)arg;
    kd_rpc_finish(call, 0, "");
}

/* Answers the first message of a stream with two of its own and an error. */
static void end_badly(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)bytes, (void)len, (void)arg;
    uint32_t n[2] = {0, 1};
    static uint8_t big[MAX_MESSAGE + 1];
    KD_BUG_ON(kd_rpc_send(call, &(struct iovec){big, sizeof big}, 1) != -KD_EINVAL);
    for (int i = 0; i < 2; i++)
        KD_BUG_ON(kd_rpc_send(call, &(struct iovec){&n[i], 4}, 1) != 0);
    kd_diag diag;
    kd_fail(&diag, -KD_ESTALE, "generation 3 is over");
    kd_rpc_finish_diag(call, &diag);
    KD_BUG_ON(kd_rpc_send(call, &(struct iovec){&n[0], 4}, 1) != -KD_ECANCELED);
}

/* Finishes with the request as its text. */
static void say(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)arg;
    char *text = kd_xalloc(len + 1);
    memcpy(text, bytes, len);
    kd_rpc_finish(call, -KD_EINVAL, text);
    free(text);
}

/* Says how long there is and who asks. */
static void facts(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)bytes, (void)len, (void)arg;
    char text[200];
    kd_time_ms deadline = kd_rpc_call_deadline(call), left = deadline - kd_clock_ms();
    snprintf(text, sizeof text, "%s %s [%s]",
             deadline == INT64_MAX       ? "never"
             : left > 0 && left <= 20202 ? "soon" /* 20 s and gRPC's rounding up, see rpc.h */
                                         : "wrong",
             kd_rpc_call_peer(call).address, kd_rpc_call_peer(call).identity);
    kd_rpc_reply(call, &(struct iovec){text, strlen(text)}, 1);
}

/* Streams keep their own state: an open is seen before any message, a close after all of them. */
static void data_open(kd_rpc_call *call, void *arg)
{
    (void)arg;
    KD_BUG_ON(kd_rpc_call_data(call));
    int *state = kd_xalloc(sizeof *state);
    kd_rpc_call_set_data(call, state);
}

static void data_message(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    int *state = kd_rpc_call_data(call);
    KD_BUG_ON(*state < 0);
    ++*state;
    ping(call, bytes, len, arg);
}

static void data_close(kd_rpc_call *call, bool cancelled, void *arg)
{
    int *state = kd_rpc_call_data(call);
    KD_BUG_ON(*state < 0);
    *state = -1;
    free(state);
    on_close(call, cancelled, arg);
}

static const kd_rpc_method g_methods[] = {
    {.path = "/t.T/Echo",
     .kind = KD_RPC_UNARY,
     .max_request = MAX_MESSAGE,
     .on_message = echo,
     .on_close = on_close},
    {.path = "/t.T/Later", .kind = KD_RPC_UNARY, .max_request = 10, .on_message = later},
    {.path = "/t.T/Refuse", .kind = KD_RPC_UNARY, .max_request = 10, .on_message = refuse},
    {.path = "/t.T/Hold",
     .kind = KD_RPC_UNARY,
     .max_request = 10,
     .on_message = hold,
     .on_close = on_close},
    {.path = "/t.T/Flood",
     .kind = KD_RPC_SERVER_STREAM,
     .max_request = 10,
     .on_message = flood,
     .on_close = on_close},
    {.path = "/t.T/Ping",
     .kind = KD_RPC_BIDI,
     .max_request = 1000,
     .on_message = ping,
     .on_half_close = half_close,
     .on_close = on_close},
    {.path = "/t.T/EndBadly",
     .kind = KD_RPC_BIDI,
     .max_request = 10,
     .on_message = end_badly,
     .on_close = on_close},
    {.path = "/t.T/Data",
     .kind = KD_RPC_BIDI,
     .max_request = 10,
     .on_open = data_open,
     .on_message = data_message,
     .on_half_close = half_close,
     .on_close = data_close},
    {.path = "/t.T/Say", .kind = KD_RPC_UNARY, .max_request = MAX_MESSAGE, .on_message = say},
    {.path = "/t.T/Facts", .kind = KD_RPC_UNARY, .max_request = 10, .on_message = facts},
};

static int setup(void **state)
{
    struct fixture *f = kd_xalloc(sizeof *f);
    kd_diag diag = {0};
    g_closed = g_cancelled = g_opened = g_limited = 0;
    kd_assert_ok(kd_rpc_new(2, &f->rpc, &diag), &diag);
    kd_rpc_server_config cfg = {.listen = "127.0.0.1:0",
                                .methods = g_methods,
                                .n_methods = KD_COUNT(g_methods),
                                .max_message = MAX_MESSAGE,
                                .descriptor_set = kd_descriptor_set,
                                .descriptor_set_len = sizeof kd_descriptor_set};
    kd_assert_ok(kd_rpc_server_new(f->rpc, &cfg, &f->server, &diag), &diag);
    snprintf(f->target, sizeof f->target, "127.0.0.1:%d", kd_rpc_server_port(f->server));
    kd_assert_ok(kd_rpc_channel_new(f->rpc, f->target, MAX_MESSAGE, &f->channel, &diag), &diag);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kd_rpc_channel_free(f->channel);
    kd_rpc_server_free(f->server);
    if (g_held)
        kd_rpc_call_unref(g_held);
    g_held = NULL;
    kd_rpc_free(f->rpc);
    free(f);
    return 0;
}

/* ---- a client stream that remembers what it got */

struct sink {
    atomic_int messages, ended, code;
    uint32_t expect;
    bool in_order, slow;
    char text[256], last[32];
    kd_rpc_stream *stream;
    int echo_left;
};

static void sink_message(kd_rpc_stream *s, const uint8_t *bytes, size_t len, void *arg)
{
    struct sink *k = arg;
    uint32_t got = 0;
    if (len >= 4)
        memcpy(&got, bytes, 4);
    k->in_order &= got == k->expect++;
    memcpy(k->last, bytes, KD_MIN(len, sizeof k->last));
    if (k->slow && k->expect == 1)
        await(&g_limited, 1);
    if (k->echo_left > 0) {
        k->echo_left--;
        uint32_t next = k->expect;
        kd_rpc_stream_send(s, &(struct iovec){&next, 4}, 1);
        if (k->echo_left == 0)
            kd_rpc_stream_close_send(s);
    }
    atomic_fetch_add(&k->messages, 1);
    signal_change();
}

static void sink_end(kd_rpc_stream *s, int code, const char *text, void *arg)
{
    struct sink *k = arg;
    (void)s;
    atomic_store(&k->code, code);
    snprintf(k->text, sizeof k->text, "%s", text);
    atomic_store(&k->ended, 1);
    signal_change();
}

static void open_stream(struct fixture *f, const char *path, struct sink *k)
{
    kd_diag diag = {0};
    k->in_order = true;
    kd_rpc_stream_events ev = {sink_message, sink_end, k};
    kd_assert_ok(kd_rpc_stream_open(f->channel, path, 0, &ev, &k->stream, &diag), &diag);
}

/* ---- unary calls */

static int call(struct fixture *f, const char *path, const void *p, size_t n, kd_rpc_result *r)
{
    return kd_rpc_unary(f->channel, path, &(struct iovec){(void *)p, n}, 1, 20000, false, r);
}

static void test_rpc_unary(void **state)
{
    kd_rpc_result r;
    assert_int_equal(call(*state, "/t.T/Echo", "abc", 3, &r), 0);
    assert_int_equal(r.len, 5);
    assert_memory_equal(r.bytes, "<abc>", 5);
    free(r.bytes);
    assert_int_equal(call(*state, "/t.T/Echo", "", 0, &r), 0);
    assert_int_equal(r.len, 2);
    free(r.bytes);
    assert_int_equal(call(*state, "/t.T/Later", "", 0, &r), 0);
    assert_memory_equal(r.bytes, "late", 4);
    free(r.bytes);
    assert_true(await(&g_closed, 2));
    assert_int_equal(g_cancelled, 0);
}

static void test_rpc_large_messages(void **state)
{
    uint8_t *big = kd_xalloc(MAX_MESSAGE + 1);
    for (size_t i = 0; i < MAX_MESSAGE; i++)
        big[i] = (uint8_t)(i * 2654435761u >> 24);
    kd_rpc_result r;
    assert_int_equal(call(*state, "/t.T/Echo", big, MAX_MESSAGE - 2, &r), 0);
    assert_int_equal(r.len, MAX_MESSAGE);
    assert_memory_equal(r.bytes + 1, big, MAX_MESSAGE - 2);
    free(r.bytes);
    /* One byte too much in the reply, then in the request. */
    assert_int_equal(call(*state, "/t.T/Echo", big, MAX_MESSAGE - 1, &r), -KD_ELIMIT);
    assert_string_equal(r.text, "a reply of 2097153 bytes, at most 2097152 can be sent");
    assert_true(await(&g_closed, 2));
    assert_int_equal(g_cancelled, 0);
    assert_int_equal(call(*state, "/t.T/Echo", big, MAX_MESSAGE + 1, &r), -KD_ELIMIT);
    assert_int_equal(call(*state, "/t.T/Later", big, 11, &r), -KD_ELIMIT);
    assert_non_null(strstr(r.text, "at most 10"));
    free(big);
}

static void test_rpc_errors_are_readable(void **state)
{
    kd_rpc_result r;
    assert_int_equal(call(*state, "/t.T/Refuse", "", 0, &r), -KD_ESTATE);
    assert_string_equal(r.text, "the thing is not ready; make it ready first");
    assert_int_equal(call(*state, "/t.T/Unknown", "", 0, &r), -KD_EUNSUP);
    assert_int_equal(r.grpc_status, 12);
    assert_non_null(strstr(r.text, "/t.T/Unknown"));
}

static void test_rpc_error_text_is_made_safe(void **state)
{
    kd_rpc_result r;
    assert_int_equal(call(*state, "/t.T/Say", "a\x1b[2Jb\x7f\xff\xc2\x9b\nr\xc3\xb6schen", 20, &r),
                     -KD_EINVAL);
    assert_string_equal(r.text, "a?[2Jb????\nr\xc3\xb6schen");
    /* Too long, of characters of three bytes: cut between two of them. */
    char *text = kd_xalloc(9000);
    for (int i = 0; i < 3000; i++)
        memcpy(text + (size_t)i * 3, "\xe2\x82\xac", 3);
    assert_int_equal(call(*state, "/t.T/Say", text, 9000, &r), -KD_EINVAL);
    assert_int_equal(strlen(r.text), KD_MAX_STATUS_TEXT);
    text[KD_MAX_STATUS_TEXT] = '\0';
    assert_string_equal(r.text, text);
    /* One byte before them: the limit now lies inside a character, which goes as a whole. */
    text[0] = 'x';
    for (int i = 0; i < 2999; i++)
        memcpy(text + 1 + (size_t)i * 3, "\xe2\x82\xac", 3);
    assert_int_equal(call(*state, "/t.T/Say", text, 8998, &r), -KD_EINVAL);
    assert_int_equal(strlen(r.text), 898);
    assert_memory_equal(r.text, text, 898);
    free(text);
}

static void test_rpc_call_facts(void **state)
{
    kd_rpc_result r;
    assert_int_equal(call(*state, "/t.T/Facts", "", 0, &r), 0);
    assert_true(r.len > 20 && r.len < 200);
    r.bytes[r.len - 1] = '\0';
    assert_memory_equal(r.bytes, "soon ipv4:127.0.0.1:", 20);
    assert_non_null(strstr((char *)r.bytes, " ["));
    free(r.bytes);
    /* Without a deadline. */
    struct sink k = {0};
    open_stream(*state, "/t.T/Facts", &k);
    kd_rpc_stream_send(k.stream, &(struct iovec){"", 0}, 1);
    assert_true(await(&k.ended, 1));
    assert_int_equal(k.code, 0);
    assert_memory_equal(k.last, "never ipv4:", 11);
    kd_rpc_stream_free(k.stream);
}

static void test_rpc_deadline_and_cancel_reach_the_server(void **state)
{
    struct fixture *f = *state;
    kd_rpc_result r;
    int rc = kd_rpc_unary(f->channel, "/t.T/Hold", &(struct iovec){"", 0}, 1, 200, false, &r);
    assert_int_equal(rc, -KD_ETIMEOUT);
    assert_true(await(&g_cancelled, 1));
    assert_int_equal(g_closed, 1);
    assert_true(kd_rpc_call_deadline(g_held) < kd_clock_ms() + 1000);
    kd_rpc_reply(g_held, &(struct iovec){"x", 1}, 1); /* too late; nothing happens */
}

static void ignore_result(const kd_rpc_result *r, void *arg)
{
    atomic_store((atomic_int *)arg, r->code == 0 ? 1000 : -r->code);
    signal_change();
}

static void test_rpc_stop_with_calls_in_flight(void **state)
{
    struct fixture *f = *state;
    atomic_int code = 0;
    assert_int_equal(kd_rpc_unary_start(f->channel, "/t.T/Hold", &(struct iovec){"", 0}, 1, 20000,
                                        false, ignore_result, &code),
                     0);
    assert_true(await(&g_opened, 1));
    kd_rpc_server_stop(f->server, 50);
    assert_int_equal(g_closed, 1);
    assert_true(await(&code, 1));
    assert_true(code == KD_EUNAVAIL || code == KD_ECANCELED);
    kd_rpc_result r;
    assert_int_equal(call(f, "/t.T/Echo", "", 0, &r), -KD_EUNAVAIL);
    assert_non_null(strstr(r.text, "cannot reach coordinator 127.0.0.1"));
}

static void count_result(const kd_rpc_result *r, void *arg)
{
    atomic_int *counts = arg; /* all, good ones, cancelled ones */
    atomic_fetch_add(&counts[1], r->code == 0 && r->len == 3 && memcmp(r->bytes, "<x>", 3) == 0);
    atomic_fetch_add(&counts[2], r->code == -KD_ECANCELED);
    atomic_fetch_add(&counts[0], 1);
    signal_change();
}

/* More at once than the server has accepts posted. */
static void test_rpc_many_calls_at_once(void **state)
{
    struct fixture *f = *state;
    atomic_int counts[3] = {0, 0, 0};
    for (int i = 0; i < 500; i++)
        assert_int_equal(kd_rpc_unary_start(f->channel, "/t.T/Echo", &(struct iovec){"x", 1}, 1,
                                            20000, false, count_result, counts),
                         0);
    assert_true(await(&counts[0], 500));
    assert_int_equal(counts[0], 500);
    assert_int_equal(counts[1], 500);
}

/* Freeing a channel ends each of its calls exactly once, before it returns. */
static void test_rpc_channel_closed_with_calls_in_flight(void **state)
{
    struct fixture *f = *state;
    atomic_int counts[3] = {0, 0, 0};
    for (int i = 0; i < 50; i++)
        assert_int_equal(kd_rpc_unary_start(f->channel, i % 2 ? "/t.T/Hold" : "/t.T/Echo",
                                            &(struct iovec){"x", 1}, 1, 20000, false, count_result,
                                            counts),
                         0);
    kd_rpc_channel_close(f->channel);
    kd_rpc_result r;
    assert_int_equal(call(f, "/t.T/Echo", "x", 1, &r), -KD_ECANCELED);
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
    struct fixture *f = *state;
    atomic_int counts[3] = {0, 0, 0};
    for (int i = 0; i < 100; i++)
        assert_int_equal(kd_rpc_unary_start(f->channel, i % 2 ? "/t.T/Hold" : "/t.T/Echo",
                                            &(struct iovec){"x", 1}, 1, 20000, false, count_result,
                                            counts),
                         0);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, stop_server, f->server), 0);
    kd_rpc_server_stop(f->server, 10);
    int closed = g_closed;
    pthread_join(t, NULL);
    assert_int_equal(g_closed, closed); /* no callback after the first return */
    assert_true(await(&counts[0], 100));
}

static void test_rpc_port_taken_and_bad_addresses(void **state)
{
    struct fixture *f = *state;
    kd_rpc_server *s = NULL;
    kd_diag diag = {0};
    kd_rpc_server_config cfg = {
        .listen = f->target, .methods = g_methods, .n_methods = 1, .max_message = 1000};
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
    kd_assert_fails(kd_rpc_channel_new(f->rpc, "nonsense", 1000, &ch, &diag), KD_EINVAL, &diag,
                    "HOST:PORT");
    kd_rpc *rpc = NULL;
    kd_assert_fails(kd_rpc_new(0, &rpc, &diag), KD_EINVAL, &diag, "threads");
}

static void test_rpc_client_reconnects(void **state)
{
    struct fixture *f = *state;
    kd_diag diag = {0};
    kd_rpc_server_free(f->server);
    f->server = NULL;
    kd_rpc_result r;
    assert_int_equal(call(f, "/t.T/Echo", "", 0, &r), -KD_EUNAVAIL);
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
                                .methods = g_methods,
                                .n_methods = KD_COUNT(g_methods),
                                .max_message = MAX_MESSAGE};
    kd_assert_ok(kd_rpc_server_new(f->rpc, &cfg, &f->server, &diag), &diag);
    assert_int_equal(
        kd_rpc_unary(f->channel, "/t.T/Echo", &(struct iovec){"a", 1}, 1, 20000, true, &r), 0);
    free(r.bytes);
}

/* ---- streams */

static void test_rpc_server_stream_with_slow_reader(void **state)
{
    struct sink k = {.slow = true};
    uint32_t n = 500; /* 32 MB: four times what a stream may queue */
    open_stream(*state, "/t.T/Flood", &k);
    kd_rpc_stream_send(k.stream, &(struct iovec){&n, 4}, 1);
    kd_rpc_stream_close_send(k.stream);
    assert_true(await(&k.ended, 1));
    assert_int_equal(g_limited, 1);
    assert_int_equal(k.messages, 500);
    assert_true(k.in_order);
    assert_int_equal(k.code, 0);
    kd_rpc_stream_free(k.stream);
}

static void test_rpc_bidi(void **state)
{
    struct sink k = {.echo_left = 200};
    open_stream(*state, "/t.T/Ping", &k);
    uint32_t zero = 0;
    kd_rpc_stream_send(k.stream, &(struct iovec){&zero, 4}, 1);
    assert_true(await(&k.ended, 1));
    assert_int_equal(k.messages, 201);
    assert_true(k.in_order);
    assert_int_equal(k.code, 0);
    assert_true(await(&g_closed, 1));
    assert_int_equal(g_cancelled, 0);
    kd_rpc_stream_free(k.stream);
}

static void test_rpc_stream_cancelled_by_its_client(void **state)
{
    struct sink k = {0};
    open_stream(*state, "/t.T/Ping", &k);
    uint32_t zero = 0;
    kd_rpc_stream_send(k.stream, &(struct iovec){&zero, 4}, 1);
    assert_true(await(&k.messages, 1));
    kd_rpc_stream_cancel(k.stream);
    assert_true(await(&k.ended, 1));
    assert_int_equal(k.code, -KD_ECANCELED);
    assert_true(await(&g_cancelled, 1));
    assert_int_equal(kd_rpc_stream_send(k.stream, &(struct iovec){&zero, 4}, 1), -KD_ECANCELED);
    kd_rpc_stream_free(k.stream);
}

static void test_rpc_stream_ended_by_its_server(void **state)
{
    struct sink k = {0};
    open_stream(*state, "/t.T/EndBadly", &k);
    static uint8_t big[MAX_MESSAGE + 1];
    assert_int_equal(kd_rpc_stream_send(k.stream, &(struct iovec){big, sizeof big}, 1), -KD_EINVAL);
    assert_int_equal(kd_rpc_stream_send(k.stream, &(struct iovec){"go", 2}, 1), 0);
    assert_true(await(&k.ended, 1)); /* though this side never said that it is done */
    assert_int_equal(k.messages, 2);
    assert_true(k.in_order);
    assert_int_equal(k.code, -KD_ESTALE);
    assert_string_equal(k.text, "generation 3 is over");
    assert_true(await(&g_closed, 1));
    assert_int_equal(g_cancelled, 0);
    kd_rpc_stream_free(k.stream);
}

static void test_rpc_stream_keeps_its_data(void **state)
{
    struct sink k[8] = {0};
    for (int i = 0; i < 8; i++) {
        open_stream(*state, "/t.T/Data", &k[i]);
        for (uint32_t n = 0; n < 50; n++)
            assert_int_equal(kd_rpc_stream_send(k[i].stream, &(struct iovec){&n, 4}, 1), 0);
        if (i % 2)
            kd_rpc_stream_close_send(k[i].stream);
        else
            kd_rpc_stream_cancel(k[i].stream);
    }
    for (int i = 0; i < 8; i++) {
        assert_true(await(&k[i].ended, 1));
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
    struct sink k = {0};
    open_stream(*state, "/t.T/Ping", &k);
    kd_rpc_stream_free(k.stream);
    assert_true(await(&k.ended, 1));
    assert_int_equal(k.code, -KD_ECANCELED);
}

static void test_rpc_stream_of_a_server_that_goes(void **state)
{
    struct fixture *f = *state;
    struct sink k = {0};
    open_stream(f, "/t.T/Ping", &k);
    uint32_t zero = 0;
    kd_rpc_stream_send(k.stream, &(struct iovec){&zero, 4}, 1);
    assert_true(await(&k.messages, 1));
    kd_rpc_server_stop(f->server, 0);
    assert_true(await(&k.ended, 1));
    assert_true(k.code == -KD_EUNAVAIL || k.code == -KD_ECANCELED);
    assert_true(k.text[0] != '\0');
    kd_rpc_stream_free(k.stream);
    struct sink later = {0};
    open_stream(f, "/t.T/Ping", &later);
    assert_true(await(&later.ended, 1));
    assert_int_equal(later.code, -KD_EUNAVAIL);
    assert_non_null(strstr(later.text, "cannot reach coordinator"));
    kd_rpc_stream_free(later.stream);
}

/* A unary method whose caller sends no message, or more than it should. */
static void test_rpc_unary_called_as_a_stream(void **state)
{
    struct sink k = {0};
    open_stream(*state, "/t.T/Echo", &k);
    kd_rpc_stream_close_send(k.stream);
    assert_true(await(&k.ended, 1));
    assert_int_equal(k.code, -KD_EINVAL);
    assert_string_equal(k.text, "the call carries no message");
    kd_rpc_stream_free(k.stream);
    struct sink many = {0};
    open_stream(*state, "/t.T/Echo", &many);
    for (int i = 0; i < 100; i++)
        (void)kd_rpc_stream_send(many.stream, &(struct iovec){"abc", 3}, 1);
    kd_rpc_stream_close_send(many.stream);
    assert_true(await(&many.ended, 1));
    assert_int_equal(many.messages, 1);
    kd_rpc_stream_free(many.stream);
}

/* What is no gRPC at all must not disturb those who speak it. */
static void test_rpc_survives_noise_on_the_port(void **state)
{
    struct fixture *f = *state;
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
    assert_int_equal(call(f, "/t.T/Echo", "abc", 3, &r), 0);
    free(r.bytes);
}

/* gRPC's listener would not recover from a failed accept: connections beyond the descriptors there
 * are must be refused, and the server must be there afterwards. */
static void test_rpc_more_connections_than_descriptors(void **state)
{
    struct fixture *f = *state;
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
        atomic_fetch_add(&counts[1], strstr(r->text, "as many calls as it takes") != NULL);
    atomic_fetch_add(&counts[0], 1);
    signal_change();
}

static void test_rpc_more_calls_than_are_taken(void **state)
{
    struct fixture *f = *state;
    kd_rpc_server *server = NULL;
    kd_rpc_channel *channel = NULL;
    kd_diag diag = {0};
    kd_rpc_server_config cfg = {.listen = "127.0.0.1:0",
                                .methods = g_methods,
                                .n_methods = KD_COUNT(g_methods),
                                .max_message = MAX_MESSAGE,
                                .max_calls = 8};
    kd_assert_ok(kd_rpc_server_new(f->rpc, &cfg, &server, &diag), &diag);
    char target[32];
    snprintf(target, sizeof target, "127.0.0.1:%d", kd_rpc_server_port(server));
    kd_assert_ok(kd_rpc_channel_new(f->rpc, target, MAX_MESSAGE, &channel, &diag), &diag);
    atomic_int counts[2] = {0, 0};
    atomic_store(&g_opened, 0);
    for (int i = 0; i < 20; i++)
        assert_int_equal(kd_rpc_unary_start(channel, "/t.T/Hold", &(struct iovec){"x", 1}, 1, 2000,
                                            true, count_limited, counts),
                         0);
    assert_true(await(&counts[1], 12));
    assert_int_equal(g_opened, 8);
    assert_true(await(&counts[0], 20)); /* the 8 by their deadline */
    assert_int_equal(counts[1], 12);
    kd_rpc_result r;
    assert_int_equal(
        kd_rpc_unary(channel, "/t.T/Echo", &(struct iovec){"abc", 3}, 1, 20000, true, &r), 0);
    free(r.bytes);
    kd_rpc_channel_free(channel);
    kd_rpc_server_free(server);
}

/* ---- standard services */

static int health(struct fixture *f, const char *service, int *out_status)
{
    Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    q.service = (char *)service;
    kd_buf buf;
    kd_buf_init(&buf, 1000);
    KD_BUG_ON(kd_wire_pack(&q, &buf) != 0);
    kd_rpc_result r;
    int rc = call(f, "/grpc.health.v1.Health/Check", buf.data, buf.len, &r);
    kd_buf_clear(&buf);
    if (rc != 0)
        return rc;
    ProtobufCMessage *m = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_wire_unpack(&grpc__health__v1__health_check_response__descriptor, r.bytes,
                                r.len, &m, &diag),
                 &diag);
    *out_status = (int)((Grpc__Health__V1__HealthCheckResponse *)m)->status;
    kd_wire_free(m);
    free(r.bytes);
    return 0;
}

static void test_rpc_health(void **state)
{
    struct fixture *f = *state;
    int status = -1;
    assert_int_equal(health(f, "", &status), 0);
    assert_int_equal(status, 1);
    assert_int_equal(health(f, "t.T", &status), 0);
    assert_int_equal(status, 1);
    assert_int_equal(health(f, "no.Such", &status), -KD_ENOENT);
    kd_rpc_server_set_health(f->server, "t.T", false);
    assert_int_equal(health(f, "t.T", &status), 0);
    assert_int_equal(status, 2);
}

struct watch_log {
    atomic_int n, ended, code;
    int status[16];
};

static void watch_message(kd_rpc_stream *s, const uint8_t *bytes, size_t len, void *arg)
{
    struct watch_log *w = arg;
    (void)s;
    ProtobufCMessage *m = NULL;
    KD_BUG_ON(kd_wire_unpack(&grpc__health__v1__health_check_response__descriptor, bytes, len, &m,
                             NULL) != 0);
    w->status[atomic_load(&w->n) % 16] = (int)((Grpc__Health__V1__HealthCheckResponse *)m)->status;
    kd_wire_free(m);
    atomic_fetch_add(&w->n, 1);
    signal_change();
}

static void watch_end(kd_rpc_stream *s, int code, const char *text, void *arg)
{
    struct watch_log *w = arg;
    (void)s, (void)text;
    atomic_store(&w->code, code);
    atomic_store(&w->ended, 1);
    signal_change();
}

static kd_rpc_stream *watch(struct fixture *f, const char *service, struct watch_log *log)
{
    Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    q.service = (char *)service;
    kd_buf buf;
    kd_buf_init(&buf, 1000);
    KD_BUG_ON(kd_wire_pack(&q, &buf) != 0);
    kd_rpc_stream_events ev = {watch_message, watch_end, log};
    kd_rpc_stream *s = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_rpc_stream_open(f->channel, "/grpc.health.v1.Health/Watch", 0, &ev, &s, &diag),
                 &diag);
    kd_rpc_stream_send(s, &(struct iovec){buf.data ? buf.data : "", buf.len}, 1);
    kd_rpc_stream_close_send(s);
    kd_buf_clear(&buf);
    return s;
}

static void test_rpc_health_watch(void **state)
{
    enum { SERVING = 1, NOT_SERVING = 2, SERVICE_UNKNOWN = 3 };
    struct fixture *f = *state;
    struct watch_log all = {0}, one = {0}, unknown = {0}, gone = {0};
    kd_rpc_stream *s_all = watch(f, "", &all), *s_one = watch(f, "t.T", &one),
                  *s_unknown = watch(f, "no.Such", &unknown), *s_gone = watch(f, "t.T", &gone);
    assert_true(await(&all.n, 1) && await(&one.n, 1) && await(&unknown.n, 1) && await(&gone.n, 1));
    assert_int_equal(all.status[0], SERVING);
    assert_int_equal(one.status[0], SERVING);
    assert_int_equal(unknown.status[0], SERVICE_UNKNOWN);
    kd_rpc_stream_free(s_gone);
    assert_true(await(&gone.ended, 1));
    kd_rpc_server_set_health(f->server, "t.T", false);
    kd_rpc_server_set_health(f->server, "t.T", false); /* no change, no message */
    kd_rpc_server_set_health(f->server, "t.T", true);
    assert_true(await(&one.n, 3));
    assert_int_equal(one.status[1], NOT_SERVING);
    assert_int_equal(one.status[2], SERVING);
    kd_rpc_server_set_health(f->server, "no.Such", true);
    assert_true(await(&unknown.n, 2));
    assert_int_equal(unknown.status[1], SERVING);
    kd_rpc_server_stop(f->server, 1000);
    assert_true(await(&all.ended, 1) && await(&one.ended, 1) && await(&unknown.ended, 1));
    assert_int_equal(all.n, 2);
    assert_int_equal(all.status[1], NOT_SERVING);
    assert_int_equal(all.code, -KD_EUNAVAIL);
    kd_rpc_stream_free(s_all);
    kd_rpc_stream_free(s_one);
    kd_rpc_stream_free(s_unknown);
}

struct reply_box {
    atomic_int there;
    uint8_t *bytes;
    size_t len;
};

static void box_message(kd_rpc_stream *s, const uint8_t *bytes, size_t len, void *arg)
{
    struct reply_box *b = arg;
    (void)s;
    b->bytes = kd_xalloc(len);
    memcpy(b->bytes, bytes, len);
    b->len = len;
    atomic_store(&b->there, 1);
    signal_change();
}

static void box_end(kd_rpc_stream *s, int code, const char *text, void *arg)
{
    struct reply_box *b = arg;
    (void)s, (void)code, (void)text;
    atomic_fetch_add(&b->there, 2);
    signal_change();
}

static Grpc__Reflection__V1__ServerReflectionResponse *
reflect(struct fixture *f, const char *path, Grpc__Reflection__V1__ServerReflectionRequest *q)
{
    kd_buf buf;
    kd_buf_init(&buf, 1000);
    KD_BUG_ON(kd_wire_pack(q, &buf) != 0);
    struct reply_box box = {0};
    kd_rpc_stream_events ev = {box_message, box_end, &box};
    kd_rpc_stream *s = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_rpc_stream_open(f->channel, path, 20000, &ev, &s, &diag), &diag);
    kd_rpc_stream_send(s, &(struct iovec){buf.data, buf.len}, 1);
    kd_rpc_stream_close_send(s);
    assert_true(await(&box.there, 3));
    kd_rpc_stream_free(s);
    kd_buf_clear(&buf);
    ProtobufCMessage *m = NULL;
    kd_assert_ok(kd_wire_unpack(&grpc__reflection__v1__server_reflection_response__descriptor,
                                box.bytes, box.len, &m, &diag),
                 &diag);
    free(box.bytes);
    return (Grpc__Reflection__V1__ServerReflectionResponse *)m;
}

static void test_rpc_reflection(void **state)
{
    static const char *const paths[] = {
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"};
    for (size_t i = 0; i < KD_COUNT(paths); i++) {
        Grpc__Reflection__V1__ServerReflectionRequest q =
            GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
        q.message_request_case =
            GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES;
        q.list_services = "";
        Grpc__Reflection__V1__ServerReflectionResponse *m = reflect(*state, paths[i], &q);
        assert_int_equal(m->list_services_response->n_service, 4);
        kd_wire_free((ProtobufCMessage *)m);
        q.message_request_case =
            GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL;
        static const char *const known[] = {
            "distill.v1.Jobs",       "distill.v1.Jobs.Submit",
            "distill.v1.JobState",   "distill.v1.SubmitRequest",
            "grpc.health.v1.Health", "grpc.health.v1.HealthCheckResponse.ServingStatus"};
        for (size_t k = 0; k < KD_COUNT(known); k++) {
            q.file_containing_symbol = (char *)known[k];
            m = reflect(*state, paths[i], &q);
            assert_int_equal(m->message_response_case, 4);
            assert_int_equal(m->file_descriptor_response->n_file_descriptor_proto, 1);
            assert_true(m->file_descriptor_response->file_descriptor_proto[0].len > 100);
            kd_wire_free((ProtobufCMessage *)m);
        }
        q.file_containing_symbol = "distill.v1.Nothing";
        m = reflect(*state, paths[i], &q);
        assert_int_equal(m->error_response->error_code, 5);
        kd_wire_free((ProtobufCMessage *)m);
    }
}

static void test_rpc_reflection_by_file(void **state)
{
    static const char path[] = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    Grpc__Reflection__V1__ServerReflectionRequest q =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    q.message_request_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME;
    q.host = "here";
    q.file_by_filename = "distill.proto";
    Grpc__Reflection__V1__ServerReflectionResponse *m = reflect(*state, path, &q);
    assert_int_equal(m->file_descriptor_response->n_file_descriptor_proto, 1);
    assert_string_equal(m->valid_host, "here");
    assert_string_equal(m->original_request->file_by_filename, "distill.proto");
    kd_wire_free((ProtobufCMessage *)m);
    q.file_by_filename = "../distill.proto";
    m = reflect(*state, path, &q);
    assert_int_equal(m->error_response->error_code, 5);
    kd_wire_free((ProtobufCMessage *)m);
    q.message_request_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE;
    q.all_extension_numbers_of_type = "distill.v1.Event";
    m = reflect(*state, path, &q);
    assert_int_equal(m->error_response->error_code, 5);
    kd_wire_free((ProtobufCMessage *)m);
    q.message_request_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST__NOT_SET;
    m = reflect(*state, path, &q);
    assert_int_equal(m->error_response->error_code, 3);
    kd_wire_free((ProtobufCMessage *)m);
}

/* a.proto imports b.proto and declares p.M { N { E { X } } f; oneof o }, p.S { m }. */
static void test_rpc_reflection_follows_imports(void **state)
{
    struct fixture *f = *state;
    static const char a[] = "\n\x07"
                            "a.proto"
                            "\x12\x01p"
                            "\x1a\x07"
                            "b.proto"
                            "\"\x1c"
                            "\n\x01M"
                            "\x12\x03\n\x01"
                            "f"
                            "\x42\x03\n\x01o"
                            "\x1a\x0d"
                            "\n\x01N"
                            "\"\x08"
                            "\n\x01"
                            "E"
                            "\x12\x03\n\x01X"
                            "2\x08"
                            "\n\x01S"
                            "\x12\x03\n\x01m";
    static const char b[] = "\n\x07"
                            "b.proto";
    kd_buf set;
    kd_buf_init(&set, 1000);
    uint8_t head[] = {'\n', (uint8_t)(sizeof a - 1)}, head_b[] = {'\n', (uint8_t)(sizeof b - 1)};
    kd_buf_add(&set, head_b, 2);
    kd_buf_add(&set, b, sizeof b - 1);
    kd_buf_add(&set, head, 2);
    kd_buf_add(&set, a, sizeof a - 1);
    kd_rpc_server_free(f->server);
    f->server = NULL;
    kd_diag diag = {0};
    kd_rpc_server_config cfg = {.listen = f->target,
                                .methods = g_methods,
                                .n_methods = KD_COUNT(g_methods),
                                .max_message = MAX_MESSAGE,
                                .descriptor_set = set.data,
                                .descriptor_set_len = set.len};
    kd_assert_ok(kd_rpc_server_new(f->rpc, &cfg, &f->server, &diag), &diag);
    /* The first call may meet the back-off of the lost connection. */
    kd_rpc_result r;
    assert_int_equal(
        kd_rpc_unary(f->channel, "/t.T/Echo", &(struct iovec){"a", 1}, 1, 20000, true, &r), 0);
    free(r.bytes);
    Grpc__Reflection__V1__ServerReflectionRequest q =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    q.message_request_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL;
    /* Values of an enum stand beside it, as in C++. */
    static const char *const known[] = {"p.M",     "p.M.f",   "p.M.o", "p.M.N",
                                        "p.M.N.E", "p.M.N.X", "p.S",   "p.S.m"};
    static const char *const unknown[] = {"p", "M", "p.M.N.E.X", "p.M.", "", "p.S.m.x"};
    for (size_t i = 0; i < KD_COUNT(known) + KD_COUNT(unknown); i++) {
        bool there = i < KD_COUNT(known);
        q.file_containing_symbol = (char *)(there ? known[i] : unknown[i - KD_COUNT(known)]);
        Grpc__Reflection__V1__ServerReflectionResponse *m =
            reflect(f, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &q);
        if (there) {
            assert_int_equal(m->message_response_case, 4);
            assert_int_equal(m->file_descriptor_response->n_file_descriptor_proto, 2);
            assert_int_equal(m->file_descriptor_response->file_descriptor_proto[0].len,
                             sizeof a - 1);
            assert_memory_equal(m->file_descriptor_response->file_descriptor_proto[0].data, a,
                                sizeof a - 1);
        } else {
            assert_int_equal(m->error_response->error_code, 5);
        }
        kd_wire_free((ProtobufCMessage *)m);
    }
    kd_rpc_server_free(f->server);
    f->server = NULL;
    kd_buf_clear(&set);
}

/* The set is made at build time, but a damaged one must be refused, not believed. */
static void test_rpc_reflection_damaged_set(void **state)
{
    (void)state;
    kd_rng rng;
    kd_rng_init(&rng, 7, KD_RNG_TEST, 1, 0);
    size_t n = sizeof kd_descriptor_set, refused = 0;
    for (int round = 0; round < 300; round++) {
        size_t len = round % 2 ? n : kd_rng_below(&rng, (uint32_t)n);
        uint8_t *set = malloc(len ? len : 1);
        assert_non_null(set);
        memcpy(set, kd_descriptor_set, len);
        for (int k = 0; round % 2 && k < 8; k++)
            set[kd_rng_below(&rng, (uint32_t)len)] = (uint8_t)kd_rng_u32(&rng);
        kd_rpc_reflection *r = NULL;
        kd_diag diag = {0};
        int rc = kd_rpc_reflection_new(set, len, g_methods, 1, &r, &diag);
        assert_true(rc == 0 || rc == -KD_EDATA);
        refused += rc != 0;
        kd_rpc_reflection_free(rc == 0 ? r : NULL);
        free(set);
    }
    assert_true(refused > 100);
}

static void test_rpc_reflection_hostile_requests(void **state)
{
    struct fixture *f = *state;
    kd_rng rng;
    kd_rng_init(&rng, 7, KD_RNG_TEST, 2, 0);
    for (int round = 0; round < 100; round++) {
        struct sink k = {0};
        open_stream(f, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &k);
        uint8_t noise[40] = {0x22}; /* file_containing_symbol */
        size_t len = kd_rng_below(&rng, sizeof noise) + 1;
        for (size_t i = round % 2; i < len; i++)
            noise[i] = (uint8_t)kd_rng_u32(&rng);
        (void)kd_rpc_stream_send(k.stream, &(struct iovec){noise, len}, 1);
        kd_rpc_stream_close_send(k.stream);
        assert_true(await(&k.ended, 1));
        assert_true(k.code == 0 ? k.messages == 1 : k.text[0] != '\0');
        kd_rpc_stream_free(k.stream);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_rpc_unary),
        TEST(test_rpc_large_messages),
        TEST(test_rpc_errors_are_readable),
        TEST(test_rpc_error_text_is_made_safe),
        TEST(test_rpc_call_facts),
        TEST(test_rpc_deadline_and_cancel_reach_the_server),
        TEST(test_rpc_stop_with_calls_in_flight),
        TEST(test_rpc_many_calls_at_once),
        TEST(test_rpc_channel_closed_with_calls_in_flight),
        TEST(test_rpc_two_stops_at_once),
        TEST(test_rpc_port_taken_and_bad_addresses),
        TEST(test_rpc_client_reconnects),
        TEST(test_rpc_server_stream_with_slow_reader),
        TEST(test_rpc_bidi),
        TEST(test_rpc_stream_cancelled_by_its_client),
        TEST(test_rpc_stream_ended_by_its_server),
        TEST(test_rpc_stream_keeps_its_data),
        TEST(test_rpc_stream_freed_while_open),
        TEST(test_rpc_stream_of_a_server_that_goes),
        TEST(test_rpc_unary_called_as_a_stream),
        TEST(test_rpc_survives_noise_on_the_port),
        TEST(test_rpc_more_connections_than_descriptors),
        TEST(test_rpc_more_calls_than_are_taken),
        TEST(test_rpc_health),
        TEST(test_rpc_health_watch),
        TEST(test_rpc_reflection),
        TEST(test_rpc_reflection_by_file),
        TEST(test_rpc_reflection_follows_imports),
        TEST(test_rpc_reflection_damaged_set),
        TEST(test_rpc_reflection_hostile_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

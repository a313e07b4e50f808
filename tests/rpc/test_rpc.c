/* The RPC layer against itself over loopback: a real server and a real client in one process. */
#include "kd_test.h"

#include "rpc/rpc.h"
#include "wire/limits.h"
#include "wire/wire.h"

#include "descriptor_set.h"
#include "health.pb-c.h"
#include "reflection.pb-c.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_MESSAGE (2u << 20)

struct fixture {
    kd_rpc *rpc;
    kd_rpc_server *server;
    kd_rpc_channel *channel;
    char target[32];
};

static atomic_int g_closed, g_cancelled, g_opened;
static kd_rpc_call *g_held; /* of /t.T/Hold, answered by nobody */
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
    if (g_held)
        kd_rpc_call_unref(g_held);
    g_held = kd_rpc_call_ref(call);
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
        while ((rc = kd_rpc_send(f->call, &(struct iovec){block, 65536}, 1)) == -KD_ELIMIT)
            usleep(1000);
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

static const kd_rpc_method g_methods[] = {
    {.path = "/t.T/Echo", .kind = KD_RPC_UNARY, .max_request = MAX_MESSAGE, .on_message = echo,
     .on_close = on_close},
    {.path = "/t.T/Later", .kind = KD_RPC_UNARY, .max_request = 10, .on_message = later},
    {.path = "/t.T/Refuse", .kind = KD_RPC_UNARY, .max_request = 10, .on_message = refuse},
    {.path = "/t.T/Hold", .kind = KD_RPC_UNARY, .max_request = 10, .on_message = hold,
     .on_close = on_close},
    {.path = "/t.T/Flood", .kind = KD_RPC_SERVER_STREAM, .max_request = 10, .on_message = flood,
     .on_close = on_close},
    {.path = "/t.T/Ping", .kind = KD_RPC_BIDI, .max_request = 1000, .on_message = ping,
     .on_half_close = half_close, .on_close = on_close},
};

static int setup(void **state)
{
    struct fixture *f = kd_xalloc(sizeof *f);
    kd_diag diag = {0};
    g_closed = g_cancelled = g_opened = 0;
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

static void test_rpc_port_taken_and_bad_addresses(void **state)
{
    struct fixture *f = *state;
    kd_rpc_server *s = NULL;
    kd_diag diag = {0};
    kd_rpc_server_config cfg = {.listen = f->target, .methods = g_methods, .n_methods = 1,
                                .max_message = 1000};
    kd_assert_fails(kd_rpc_server_new(f->rpc, &cfg, &s, &diag), KD_EEXIST, &diag, "taken");
    static const char *const bad[] = {"", "nonsense", "127.0.0.1", ":1", "127.0.0.1:99999", "h:1x"};
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        cfg.listen = bad[i];
        kd_assert_fails(kd_rpc_server_new(f->rpc, &cfg, &s, &diag), KD_EINVAL, &diag, "HOST:PORT");
    }
    kd_rpc_channel *ch = NULL;
    kd_assert_fails(kd_rpc_channel_new(f->rpc, "nonsense", 1000, &ch, &diag), KD_EINVAL, &diag,
                    "HOST:PORT");
}

static void test_rpc_client_reconnects(void **state)
{
    struct fixture *f = *state;
    kd_diag diag = {0};
    kd_rpc_server_free(f->server);
    kd_rpc_result r;
    assert_int_equal(call(f, "/t.T/Echo", "", 0, &r), -KD_EUNAVAIL);
    kd_rpc_server_config cfg = {.listen = f->target, .methods = g_methods,
                                .n_methods = KD_COUNT(g_methods), .max_message = MAX_MESSAGE};
    kd_assert_ok(kd_rpc_server_new(f->rpc, &cfg, &f->server, &diag), &diag);
    assert_int_equal(kd_rpc_unary(f->channel, "/t.T/Echo", &(struct iovec){"a", 1}, 1, 20000, true,
                                  &r),
                     0);
    free(r.bytes);
}

/* ---- streams */

struct sink {
    atomic_int messages, ended, code;
    uint32_t expect;
    bool in_order, slow;
    char text[256];
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
    if (k->slow)
        usleep(500);
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

static void test_rpc_server_stream_with_slow_reader(void **state)
{
    struct sink k = {.slow = true};
    uint32_t n = 500; /* 32 MB: four times what a stream may queue */
    open_stream(*state, "/t.T/Flood", &k);
    kd_rpc_stream_send(k.stream, &(struct iovec){&n, 4}, 1);
    kd_rpc_stream_close_send(k.stream);
    assert_true(await(&k.ended, 1));
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
    kd_assert_ok(kd_wire_unpack(&grpc__health__v1__health_check_response__descriptor, r.bytes, r.len,
                                &m, &diag),
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
        static const char *const known[] = {"distill.v1.Jobs", "distill.v1.Jobs.Submit",
                                            "distill.v1.JobState", "distill.v1.SubmitRequest",
                                            "grpc.health.v1.Health",
                                            "grpc.health.v1.HealthCheckResponse.ServingStatus"};
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

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_rpc_unary),
        TEST(test_rpc_large_messages),
        TEST(test_rpc_errors_are_readable),
        TEST(test_rpc_deadline_and_cancel_reach_the_server),
        TEST(test_rpc_stop_with_calls_in_flight),
        TEST(test_rpc_port_taken_and_bad_addresses),
        TEST(test_rpc_client_reconnects),
        TEST(test_rpc_server_stream_with_slow_reader),
        TEST(test_rpc_bidi),
        TEST(test_rpc_stream_cancelled_by_its_client),
        TEST(test_rpc_health),
        TEST(test_rpc_reflection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

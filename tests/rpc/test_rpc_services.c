/* The standard services beside ours: health, and reflection from the descriptor set. */
#include "rpc_fixture.h"

#include "kd/rng.h"
#include "rpc/internal.h"
#include "wire/wire.h"

#include "descriptor_set.h"
#include "health.pb-c.h"
#include "reflection.pb-c.h"

#include <stdlib.h>
#include <string.h>

/* ---- health */

static int health(struct rpc_fixture *f, const char *service, int *out_status)
{
    Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    q.service = (char *)service;
    kd_buf buf;
    kd_buf_init(&buf, 1000);
    KD_BUG_ON(kd_wire_pack(&q, &buf) != 0);
    kd_rpc_result r;
    int rc = rpc_call(f, "/grpc.health.v1.Health/Check", buf.data, buf.len, &r);
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
    struct rpc_fixture *f = *state;
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
    rpc_signal();
}

static void watch_end(kd_rpc_stream *s, int code, const char *text, void *arg)
{
    struct watch_log *w = arg;
    (void)s, (void)text;
    atomic_store(&w->code, code);
    atomic_store(&w->ended, 1);
    rpc_signal();
}

static kd_rpc_stream *watch(struct rpc_fixture *f, const char *service, struct watch_log *log)
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
    struct rpc_fixture *f = *state;
    struct watch_log all = {0}, one = {0}, unknown = {0}, gone = {0};
    kd_rpc_stream *s_all = watch(f, "", &all), *s_one = watch(f, "t.T", &one),
                  *s_unknown = watch(f, "no.Such", &unknown), *s_gone = watch(f, "t.T", &gone);
    assert_true(rpc_await(&all.n, 1) && rpc_await(&one.n, 1) && rpc_await(&unknown.n, 1) &&
                rpc_await(&gone.n, 1));
    assert_int_equal(all.status[0], SERVING);
    assert_int_equal(one.status[0], SERVING);
    assert_int_equal(unknown.status[0], SERVICE_UNKNOWN);
    kd_rpc_stream_free(s_gone);
    assert_true(rpc_await(&gone.ended, 1));
    kd_rpc_server_set_health(f->server, "t.T", false);
    kd_rpc_server_set_health(f->server, "t.T", false); /* no change, no message */
    kd_rpc_server_set_health(f->server, "t.T", true);
    assert_true(rpc_await(&one.n, 3));
    assert_int_equal(one.status[1], NOT_SERVING);
    assert_int_equal(one.status[2], SERVING);
    kd_rpc_server_set_health(f->server, "no.Such", true);
    assert_true(rpc_await(&unknown.n, 2));
    assert_int_equal(unknown.status[1], SERVING);
    kd_rpc_server_stop(f->server, 1000);
    assert_true(rpc_await(&all.ended, 1) && rpc_await(&one.ended, 1) &&
                rpc_await(&unknown.ended, 1));
    assert_int_equal(all.n, 2);
    assert_int_equal(all.status[1], NOT_SERVING);
    assert_int_equal(all.code, -KD_EUNAVAIL);
    kd_rpc_stream_free(s_all);
    kd_rpc_stream_free(s_one);
    kd_rpc_stream_free(s_unknown);
}

/* ---- reflection */

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
    rpc_signal();
}

static void box_end(kd_rpc_stream *s, int code, const char *text, void *arg)
{
    struct reply_box *b = arg;
    (void)s, (void)code, (void)text;
    atomic_fetch_add(&b->there, 2);
    rpc_signal();
}

static Grpc__Reflection__V1__ServerReflectionResponse *
reflect(struct rpc_fixture *f, const char *path, Grpc__Reflection__V1__ServerReflectionRequest *q)
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
    assert_true(rpc_await(&box.there, 3));
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
    struct rpc_fixture *f = *state;
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
                                .methods = rpc_methods,
                                .n_methods = rpc_n_methods,
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
        int rc = kd_rpc_reflection_new(set, len, rpc_methods, 1, &r, &diag);
        assert_true(rc == 0 || rc == -KD_EDATA);
        refused += rc != 0;
        kd_rpc_reflection_free(rc == 0 ? r : NULL);
        free(set);
    }
    assert_true(refused > 100);
}

static void test_rpc_reflection_hostile_requests(void **state)
{
    struct rpc_fixture *f = *state;
    kd_rng rng;
    kd_rng_init(&rng, 7, KD_RNG_TEST, 2, 0);
    for (int round = 0; round < 100; round++) {
        struct rpc_sink k = {0};
        rpc_sink_open(f, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &k);
        uint8_t noise[40] = {0x22}; /* file_containing_symbol */
        size_t len = kd_rng_below(&rng, sizeof noise) + 1;
        for (size_t i = round % 2; i < len; i++)
            noise[i] = (uint8_t)kd_rng_u32(&rng);
        (void)kd_rpc_stream_send(k.stream, &(struct iovec){noise, len}, 1);
        kd_rpc_stream_close_send(k.stream);
        assert_true(rpc_await(&k.ended, 1));
        assert_true(k.code == 0 ? k.messages == 1 : k.text[0] != '\0');
        kd_rpc_stream_free(k.stream);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RPC_TEST(test_rpc_health),
        RPC_TEST(test_rpc_health_watch),
        RPC_TEST(test_rpc_reflection),
        RPC_TEST(test_rpc_reflection_by_file),
        RPC_TEST(test_rpc_reflection_follows_imports),
        RPC_TEST(test_rpc_reflection_damaged_set),
        RPC_TEST(test_rpc_reflection_hostile_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

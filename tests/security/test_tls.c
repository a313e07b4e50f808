/* lib/rpc over TLS: who is let in, who the server takes a caller for, what ends running calls, and
 * that certificates change without a restart. */
#include "../rpc/rpc_fixture.h"
#include "certs.h"

#include <stdio.h>
#include <unistd.h>

struct tls_fixture {
    struct rpc_fixture rpc;
    struct kd_test_ca ca;
    char *server;
};

/* What the guard saw. */
static struct {
    atomic_int admitted, left, refuse;
    atomic_int last_code;
} g_guard;

static int admit(const kd_rpc_call *call, void *arg, kd_diag *diag)
{
    (void)call, (void)arg;
    if (atomic_load(&g_guard.refuse))
        return kd_fail(diag, -KD_EPERM, "the guard does not let %s in",
                       kd_rpc_call_peer(call).identity->name);
    atomic_fetch_add(&g_guard.admitted, 1);
    return 0;
}

static void leave(const kd_rpc_call *call, int code, const char *text, void *arg)
{
    (void)call, (void)text, (void)arg;
    atomic_store(&g_guard.last_code, code);
    atomic_fetch_add(&g_guard.left, 1);
    rpc_signal();
}

static const kd_rpc_guard g_rules = {admit, leave, NULL};

static int setup(void **state)
{
    struct tls_fixture *f = kd_xalloc(sizeof *f);
    kd_diag diag = {0};
    atomic_store(&rpc_seen.closed, 0);
    atomic_store(&rpc_seen.opened, 0);
    atomic_store(&g_guard.admitted, 0);
    atomic_store(&g_guard.left, 0);
    atomic_store(&g_guard.refuse, 0);
    f->ca = kd_test_ca_new();
    f->server = kd_test_issue(&f->ca, KD_ROLE_SERVER, "distilld", 3600, NULL);
    kd_rpc_tls tls = {f->ca.certificate, f->server, f->server};
    kd_assert_ok(kd_rpc_new(2, &f->rpc.rpc, &diag), &diag);
    kd_rpc_server_config cfg = {.listen = "127.0.0.1:0",
                                .tls = &tls,
                                .guard = &g_rules,
                                .methods = rpc_methods,
                                .n_methods = rpc_n_methods,
                                .max_message = MAX_MESSAGE};
    kd_assert_ok(kd_rpc_server_new(f->rpc.rpc, &cfg, &f->rpc.server, &diag), &diag);
    snprintf(f->rpc.target, sizeof f->rpc.target, "127.0.0.1:%d",
             kd_rpc_server_port(f->rpc.server));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct tls_fixture *f = *state;
    kd_rpc_channel_free(f->rpc.channel);
    kd_rpc_server_free(f->rpc.server);
    if (rpc_seen.held)
        kd_rpc_call_unref(rpc_seen.held);
    rpc_seen.held = NULL;
    kd_rpc_free(f->rpc.rpc);
    kd_pki_drop(f->server);
    kd_test_ca_free(&f->ca);
    free(f);
    return 0;
}

/* The channel of the fixture becomes one that trusts ca and shows login (NULL = nothing). */
static void connect_as(struct tls_fixture *f, const char *ca, const char *login)
{
    kd_diag diag = {0};
    kd_rpc_tls tls = {ca, login, login};
    kd_rpc_channel_free(f->rpc.channel);
    f->rpc.channel = NULL;
    kd_assert_ok(
        kd_rpc_channel_new(f->rpc.rpc, f->rpc.target, &tls, MAX_MESSAGE, &f->rpc.channel, &diag),
        &diag);
}

/* Facts ends with "[NAME]". */
static void assert_name(struct tls_fixture *f, const char *name)
{
    kd_rpc_result r;
    char want[80], *got;
    snprintf(want, sizeof want, "[%s]", name);
    int rc = rpc_call(&f->rpc, "/t.T/Facts", "x", 1, &r);
    if (rc != 0)
        print_error("%s\n", r.text);
    assert_int_equal(rc, 0);
    got = strndup((char *)r.bytes, r.len);
    assert_non_null(strstr(got, want));
    free(got);
    free(r.bytes);
}

static void assert_unreachable(struct tls_fixture *f, const char *says)
{
    kd_rpc_result r;
    int admitted = atomic_load(&g_guard.admitted);
    int rc = rpc_call(&f->rpc, "/t.T/Echo", "x", 1, &r);
    if (rc != -KD_EUNAVAIL || !strstr(r.text, says))
        print_error("%d %s\n", rc, r.text);
    assert_int_equal(rc, -KD_EUNAVAIL);
    assert_non_null(strstr(r.text, says));
    assert_int_equal(atomic_load(&g_guard.admitted), admitted);
}

static void test_tls_identity(void **state)
{
    struct tls_fixture *f = *state;
    char *login = kd_test_issue(&f->ca, KD_ROLE_SUBMITTER, "alice", 3600, NULL);
    connect_as(f, f->ca.certificate, login);
    for (int i = 0; i < 3; i++)
        assert_name(f, "alice");
    connect_as(f, f->ca.certificate, NULL);
    assert_name(f, "");
    kd_pki_drop(login);
}

static void test_tls_wrong_ca(void **state)
{
    struct tls_fixture *f = *state;
    struct kd_test_ca other = kd_test_ca_new();
    char *login = kd_test_issue(&other, KD_ROLE_ADMIN, "mallory", 3600, NULL),
         *own = kd_test_issue(&f->ca, KD_ROLE_ADMIN, "root", 3600, NULL);
    /* A certificate of a CA that the server does not know. */
    connect_as(f, f->ca.certificate, login);
    assert_unreachable(f, "not know ours");
    /* A server that the client does not know. */
    connect_as(f, other.certificate, NULL);
    assert_unreachable(f, "another CA");
    connect_as(f, other.certificate, own);
    assert_unreachable(f, "another CA");
    kd_pki_drop(login);
    kd_pki_drop(own);
    kd_test_ca_free(&other);
}

static void test_tls_expired(void **state)
{
    struct tls_fixture *f = *state;
    char *login = kd_test_issue(&f->ca, KD_ROLE_ADMIN, "late", 1, NULL);
    sleep(2);
    connect_as(f, f->ca.certificate, login);
    assert_unreachable(f, "cannot reach");
    kd_pki_drop(login);
}

/* A certificate for clients does not make a server of who holds it. */
static void test_tls_client_as_server(void **state)
{
    struct tls_fixture *f = *state;
    char *login = kd_test_issue(&f->ca, KD_ROLE_WORKER, "localhost", 3600, NULL);
    kd_rpc_tls tls = {f->ca.certificate, login, login};
    kd_rpc_server_set_tls(f->rpc.server, &tls);
    connect_as(f, f->ca.certificate, NULL);
    assert_unreachable(f, "cannot reach");
    kd_pki_drop(login);
}

static void test_tls_other_name(void **state)
{
    struct tls_fixture *f = *state;
    kd_diag diag = {0};
    /* The certificate names 127.0.0.1 and localhost; this one is listened on as well. */
    kd_rpc_server_free(f->rpc.server);
    kd_rpc_tls tls = {f->ca.certificate, f->server, f->server};
    kd_rpc_server_config cfg = {.listen = "127.0.0.2:0",
                                .tls = &tls,
                                .guard = &g_rules,
                                .methods = rpc_methods,
                                .n_methods = rpc_n_methods,
                                .max_message = MAX_MESSAGE};
    kd_assert_ok(kd_rpc_server_new(f->rpc.rpc, &cfg, &f->rpc.server, &diag), &diag);
    snprintf(f->rpc.target, sizeof f->rpc.target, "127.0.0.2:%d",
             kd_rpc_server_port(f->rpc.server));
    connect_as(f, f->ca.certificate, NULL);
    assert_unreachable(f, "does not name");
}

static void test_tls_plain_client(void **state)
{
    struct tls_fixture *f = *state;
    kd_diag diag = {0};
    kd_assert_ok(
        kd_rpc_channel_new(f->rpc.rpc, f->rpc.target, NULL, MAX_MESSAGE, &f->rpc.channel, &diag),
        &diag);
    assert_unreachable(f, "may want a certificate");
}

static void test_tls_reload(void **state)
{
    struct tls_fixture *f = *state;
    struct rpc_sink k = {0};
    connect_as(f, f->ca.certificate, NULL);
    rpc_sink_open(&f->rpc, "/t.T/Ping", &k);
    uint32_t zero = 0, one = 1;
    kd_rpc_stream_send(k.stream, &(struct iovec){&zero, 4}, 1);
    assert_true(rpc_await(&k.messages, 1));

    struct kd_test_ca next = kd_test_ca_new();
    char *server = kd_test_issue(&next, KD_ROLE_SERVER, "distilld", 3600, NULL),
         *login = kd_test_issue(&next, KD_ROLE_VIEWER, "new", 3600, NULL);
    kd_rpc_tls tls = {next.certificate, server, server};
    kd_rpc_server_set_tls(f->rpc.server, &tls);
    /* What runs goes on; who comes new meets the new certificate and the new CA. */
    kd_rpc_stream_send(k.stream, &(struct iovec){&one, 4}, 1);
    assert_true(rpc_await(&k.messages, 2));
    kd_rpc_stream_close_send(k.stream);
    assert_true(rpc_await(&k.ended, 1));
    kd_rpc_stream_free(k.stream);
    connect_as(f, f->ca.certificate, NULL);
    assert_unreachable(f, "another CA");
    connect_as(f, next.certificate, login);
    assert_name(f, "new");
    kd_pki_drop(server);
    kd_pki_drop(login);
    kd_test_ca_free(&next);
}

/* A client changes its certificate: a stream stays, later calls show the new one. */
static void test_tls_renewed_client(void **state)
{
    struct tls_fixture *f = *state;
    struct rpc_sink k = {0};
    char *first = kd_test_issue(&f->ca, KD_ROLE_WORKER, "before", 3600, NULL);
    connect_as(f, f->ca.certificate, first);
    assert_name(f, "before");
    rpc_sink_open(&f->rpc, "/t.T/Ping", &k);
    uint32_t n = 0;
    kd_rpc_stream_send(k.stream, &(struct iovec){&n, 4}, 1);
    assert_true(rpc_await(&k.messages, 1));
    for (int i = 0; i < 12; i++) { /* more often than channels are kept beside each other */
        char name[32];
        snprintf(name, sizeof name, "after%d", i);
        char *next = kd_test_issue(&f->ca, KD_ROLE_WORKER, name, 3600, NULL);
        kd_rpc_tls tls = {f->ca.certificate, next, next};
        kd_rpc_channel_set_tls(f->rpc.channel, &tls);
        assert_name(f, name);
        kd_pki_drop(next);
    }
    n = 1;
    kd_rpc_stream_send(k.stream, &(struct iovec){&n, 4}, 1);
    assert_true(rpc_await(&k.messages, 2));
    kd_rpc_stream_close_send(k.stream);
    assert_true(rpc_await(&k.ended, 1));
    assert_int_equal(atomic_load(&k.code), 0);
    kd_rpc_stream_free(k.stream);
    kd_pki_drop(first);
}

static void test_tls_guard(void **state)
{
    struct tls_fixture *f = *state;
    kd_rpc_result r;
    char *login = kd_test_issue(&f->ca, KD_ROLE_VIEWER, "bob", 3600, NULL);
    connect_as(f, f->ca.certificate, login);
    atomic_store(&g_guard.refuse, 1);
    int closed = atomic_load(&rpc_seen.closed);
    assert_int_equal(rpc_call(&f->rpc, "/t.T/Echo", "x", 1, &r), -KD_EPERM);
    assert_int_equal(r.grpc_status, 7);
    assert_string_equal(r.text, "the guard does not let bob in");
    struct rpc_sink k = {0};
    rpc_sink_open(&f->rpc, "/t.T/Ping", &k);
    assert_true(rpc_await(&k.ended, 1));
    assert_int_equal(atomic_load(&k.code), -KD_EPERM);
    kd_rpc_stream_free(k.stream);
    assert_int_equal(atomic_load(&g_guard.left), 0);
    assert_int_equal(atomic_load(&rpc_seen.closed), closed); /* no handler heard of it */

    atomic_store(&g_guard.refuse, 0);
    assert_int_equal(rpc_call(&f->rpc, "/t.T/Refuse", "x", 1, &r), -KD_ESTATE);
    assert_true(rpc_await(&g_guard.left, 1));
    assert_int_equal(atomic_load(&g_guard.last_code), -KD_ESTATE);
    assert_int_equal(rpc_call(&f->rpc, "/t.T/Echo", "x", 1, &r), 0);
    free(r.bytes);
    assert_true(rpc_await(&g_guard.left, 2));
    assert_int_equal(atomic_load(&g_guard.last_code), 0);
    assert_int_equal(atomic_load(&g_guard.admitted), 2);
    kd_pki_drop(login);
}

static bool is_mallory(const kd_rpc_peer *peer, void *arg)
{
    (void)arg;
    return strcmp(peer->identity->name, "mallory") == 0;
}

static void end_mallory(struct tls_fixture *f, int expected)
{
    assert_int_equal(
        kd_rpc_server_end_calls(f->rpc.server, is_mallory, NULL, -KD_EPERM, "you are out"),
        expected);
}

/* Streams, waiting calls and streams whose client does not read end at once; others go on. */
static void test_tls_end_calls(void **state)
{
    struct tls_fixture *f = *state;
    struct rpc_sink idle = {0}, flood = {.slow = true}, other = {0};
    char *login = kd_test_issue(&f->ca, KD_ROLE_WORKER, "mallory", 3600, NULL),
         *good = kd_test_issue(&f->ca, KD_ROLE_WORKER, "good", 3600, NULL);
    uint32_t zero = 0, many = 2000;
    connect_as(f, f->ca.certificate, login);
    rpc_sink_open(&f->rpc, "/t.T/Ping", &idle);
    kd_rpc_stream_send(idle.stream, &(struct iovec){&zero, 4}, 1);
    assert_true(rpc_await(&idle.messages, 1));
    rpc_sink_open(&f->rpc, "/t.T/Flood", &flood); /* its first message waits for the full queue */
    kd_rpc_stream_send(flood.stream, &(struct iovec){&many, 4}, 1);
    kd_rpc_stream_close_send(flood.stream);
    assert_true(rpc_await(&flood.messages, 1));
    kd_rpc_tls tls = {f->ca.certificate, good, good};
    kd_rpc_channel_set_tls(f->rpc.channel, &tls);
    rpc_sink_open(&f->rpc, "/t.T/Ping", &other);
    kd_rpc_stream_send(other.stream, &(struct iovec){&zero, 4}, 1);
    assert_true(rpc_await(&other.messages, 1));

    end_mallory(f, 2);
    assert_true(rpc_await(&idle.ended, 1));
    assert_int_equal(atomic_load(&idle.code), -KD_EPERM);
    assert_string_equal(idle.text, "you are out");
    assert_true(rpc_await(&flood.ended, 1));
    assert_true(atomic_load(&flood.messages) < 2000);
    assert_true(rpc_await(&g_guard.left, 2));
    end_mallory(f, 0);
    zero = 1;
    kd_rpc_stream_send(other.stream, &(struct iovec){&zero, 4}, 1);
    assert_true(rpc_await(&other.messages, 2));
    kd_rpc_stream_free(idle.stream);
    kd_rpc_stream_free(flood.stream);
    kd_rpc_stream_free(other.stream);
    kd_pki_drop(login);
    kd_pki_drop(good);
}

/* The CA is taken from the handshake if, and only if, it has the digest. */
static void test_tls_fetch_ca(void **state)
{
    struct tls_fixture *f = *state;
    kd_diag diag = {0};
    char digest[KD_PKI_DIGEST], wrong[KD_PKI_DIGEST], *got, *chain, port[8];
    struct kd_test_ca other = kd_test_ca_new();
    chain = kd_pki_join(f->server, f->ca.certificate);
    kd_rpc_tls tls = {f->ca.certificate, chain, f->server};
    kd_rpc_server_set_tls(f->rpc.server, &tls);
    snprintf(port, sizeof port, "%d", kd_rpc_server_port(f->rpc.server));
    kd_assert_ok(kd_pki_digest(f->ca.certificate, digest, &diag), &diag);
    kd_assert_ok(kd_pki_digest(other.certificate, wrong, &diag), &diag);
    kd_assert_ok(kd_pki_fetch_ca("127.0.0.1", port, digest, 5000, &got, &diag), &diag);
    assert_string_equal(got, f->ca.certificate);
    kd_pki_drop(got);
    kd_assert_fails(kd_pki_fetch_ca("127.0.0.1", port, wrong, 5000, &got, &diag), KD_EPERM, &diag,
                    "another CA");
    /* Somebody shows the right CA beside a certificate that it did not sign. */
    char *fake = kd_test_issue(&other, KD_ROLE_SERVER, "distilld", 3600, NULL);
    char *both = kd_pki_join(fake, f->ca.certificate);
    tls = (kd_rpc_tls){other.certificate, both, fake};
    kd_rpc_server_set_tls(f->rpc.server, &tls);
    kd_assert_fails(kd_pki_fetch_ca("127.0.0.1", port, digest, 5000, &got, &diag), KD_EPERM, &diag,
                    "another CA");
    kd_assert_fails(kd_pki_fetch_ca("127.0.0.1", "1", digest, 5000, &got, &diag), KD_EUNAVAIL,
                    &diag, "cannot reach");
    free(chain);
    free(both);
    kd_pki_drop(fake);
    kd_test_ca_free(&other);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_tls_identity),         TEST(test_tls_wrong_ca),       TEST(test_tls_expired),
        TEST(test_tls_client_as_server), TEST(test_tls_other_name),     TEST(test_tls_plain_client),
        TEST(test_tls_reload),           TEST(test_tls_renewed_client), TEST(test_tls_guard),
        TEST(test_tls_end_calls),        TEST(test_tls_fetch_ca),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

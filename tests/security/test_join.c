/* lib/login: what a token becomes, against a coordinator that does not look at who asks, as those
 * did before EnrollRequest had a `holder`. */
#include "certs.h"

#include "login/login.h"
#include "wire/wire.h"

#include "distill.pb-c.h"

#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

struct fixture {
    char *dir, *server_login, token[KD_LOGIN_TOKEN], target[32];
    struct kd_test_ca ca;
    kd_rpc *rpc;
    kd_rpc_server *server;
    kd_diag diag;
};

/* What its tokens are for, and how often one was used up. */
static struct {
    struct kd_test_ca *ca;
    enum kd_role role;
    char name[KD_PKI_NAME]; /* "" = whoever uses it chooses */
    int64_t life_s;
    atomic_int used;
} g_there;

static void on_enroll(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)arg;
    ProtobufCMessage *m;
    kd_diag diag = {0};
    kd_pki_identity who;
    Distill__V1__CertificateReply reply = DISTILL__V1__CERTIFICATE_REPLY__INIT;
    KD_BUG_ON(kd_wire_unpack(&distill__v1__enroll_request__descriptor, bytes, len, &m, &diag) != 0);
    const Distill__V1__EnrollRequest *r = (Distill__V1__EnrollRequest *)m;
    const char *name = g_there.name[0] ? g_there.name : r->name[0] ? r->name : r->suggested;
    const kd_pki_want want = {.role = g_there.role, .name = name, .life_s = g_there.life_s};
    if (r->name[0] && strcmp(r->name, name) != 0) {
        kd_rpc_finish(call, -KD_EPERM, "the token is for somebody else");
    } else if (kd_pki_issue(g_there.ca->certificate, g_there.ca->key, r->csr, &want,
                            &reply.certificate, &who, &diag) != 0) {
        kd_rpc_finish_diag(call, &diag);
    } else {
        kd_buf packed;
        kd_buf_init(&packed, KD_MAX_CONTROL_BYTES);
        KD_BUG_ON(kd_wire_pack(&reply, &packed) != 0);
        atomic_fetch_add(&g_there.used, 1);
        kd_rpc_reply(call, &(struct iovec){packed.data, packed.len}, 1);
        kd_buf_clear(&packed);
        kd_pki_drop(reply.certificate);
    }
    kd_wire_free(m);
}

static const kd_rpc_method g_methods[] = {{.path = "/distill.v1.Access/Enroll",
                                           .kind = KD_RPC_UNARY,
                                           .max_request = 65536,
                                           .on_message = on_enroll}};

static void token_of(struct fixture *f, const struct kd_test_ca *ca, char out[KD_LOGIN_TOKEN])
{
    char digest[KD_PKI_DIGEST];
    kd_assert_ok(kd_pki_digest(ca->certificate, digest, &f->diag), &f->diag);
    snprintf(out, KD_LOGIN_TOKEN, "distill1.%s.0123456789abcdef01234567", digest);
}

static int setup(void **state)
{
    struct fixture *f = kd_xalloc(sizeof *f);
    f->dir = kd_test_mkdir();
    f->ca = kd_test_ca_new();
    token_of(f, &f->ca, f->token);
    f->server_login = kd_test_issue(&f->ca, KD_ROLE_SERVER, "distilld", 3600, NULL);
    kd_rpc_tls tls = {f->ca.certificate, f->server_login, f->server_login};
    kd_assert_ok(kd_rpc_new(2, &f->rpc, &f->diag), &f->diag);
    kd_rpc_server_config cfg = {.listen = "127.0.0.1:0",
                                .tls = &tls,
                                .methods = g_methods,
                                .n_methods = KD_COUNT(g_methods),
                                .max_message = 65536};
    kd_assert_ok(kd_rpc_server_new(f->rpc, &cfg, &f->server, &f->diag), &f->diag);
    snprintf(f->target, sizeof f->target, "127.0.0.1:%d", kd_rpc_server_port(f->server));
    g_there.ca = &f->ca;
    g_there.life_s = 3600;
    g_there.name[0] = '\0';
    atomic_store(&g_there.used, 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kd_rpc_server_free(f->server);
    kd_rpc_free(f->rpc);
    kd_pki_drop(f->server_login);
    kd_test_ca_free(&f->ca);
    kd_test_rmdir(f->dir);
    free(f);
    return 0;
}

/* Joins with a token for that role and name ("" = free). */
static int join(struct fixture *f, enum kd_role role, const char *name, const kd_login_wish *wish)
{
    kd_login l = {0};
    g_there.role = role;
    snprintf(g_there.name, sizeof g_there.name, "%s", name);
    f->diag = (kd_diag){0};
    int rc = kd_login_join(f->rpc, f->dir, f->target, f->token, wish, &l, &f->diag);
    kd_login_clear(&l);
    return rc;
}

static kd_login_wish wish_of(enum kd_holder holder, const char *name, bool replace)
{
    return (kd_login_wish){holder, name, "guest", replace, "somewhere else"};
}

/* Who the folder's login stands for. */
static void assert_there(struct fixture *f, enum kd_role role, const char *name)
{
    kd_login l = {0};
    kd_assert_ok(kd_login_load(f->dir, &l, &f->diag), &f->diag);
    assert_string_equal(l.who.name, name);
    assert_int_equal(l.who.role, role);
    kd_login_clear(&l);
}

static void test_join_wrong_kind(void **state)
{
    struct fixture *f = *state;
    const kd_login_wish person = wish_of(KD_HOLDER_PERSON, "", false),
                        worker = wish_of(KD_HOLDER_WORKER, "", false);
    kd_assert_ok(join(f, KD_ROLE_SUBMITTER, "bob", &person), &f->diag);
    kd_assert_fails(join(f, KD_ROLE_WORKER, "bob", &person), KD_EINVAL, &f->diag,
                    "nothing was stored");
    assert_there(f, KD_ROLE_SUBMITTER, "bob");
    kd_assert_fails(join(f, KD_ROLE_VIEWER, "bob", &worker), KD_EINVAL, &f->diag,
                    "for a viewer, not for a worker");
    assert_there(f, KD_ROLE_SUBMITTER, "bob");
}

/* What is no token is told apart before anybody is asked, and never repeated. */
static void test_join_no_token(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *given, *told;
    } cases[] = {
        {"distill1.QUJD", "this is a token that is not whole; a one-time token is expected"},
        {"0123456789ab", "this is the id of a token; "},
        {"-----BEGIN CERTIFICATE-----\nQUJD\n", "this is a certificate or key; "},
        {"QUJD", "this is no token; "},
        {"", "this is no token; "}};
    for (size_t i = 0; i < KD_COUNT(cases); i++)
        for (enum kd_holder h = KD_HOLDER_WORKER; h <= KD_HOLDER_PERSON; h++) {
            const kd_login_wish w = wish_of(h, "", false);
            snprintf(f->token, sizeof f->token, "%s", cases[i].given);
            kd_assert_fails(join(f, KD_ROLE_VIEWER, "", &w), KD_EINVAL, &f->diag, cases[i].told);
            assert_non_null(strstr(f->diag.msg, h == KD_HOLDER_WORKER
                                                    ? "`distill token create --role worker`"
                                                    : "`distill token create --role submitter|"));
            assert_null(strstr(f->diag.msg, "QUJD"));
        }
    assert_int_equal(atomic_load(&g_there.used), 0);
}

static void test_join_other_name(void **state)
{
    struct fixture *f = *state;
    const kd_login_wish free_name = wish_of(KD_HOLDER_PERSON, "", false),
                        carol = wish_of(KD_HOLDER_PERSON, "carol", false),
                        give_up = wish_of(KD_HOLDER_PERSON, "", true);
    kd_assert_ok(join(f, KD_ROLE_VIEWER, "", &free_name), &f->diag);
    assert_there(f, KD_ROLE_VIEWER, "guest");
    kd_assert_fails(join(f, KD_ROLE_VIEWER, "carol", &free_name), KD_EPERM, &f->diag,
                    "has the login of guest (viewer) at 127.0.0.1:");
    kd_assert_fails(join(f, KD_ROLE_VIEWER, "", &carol), KD_EEXIST, &f->diag,
                    "keep both somewhere else, or give it up with --replace");
    assert_there(f, KD_ROLE_VIEWER, "guest");
    assert_int_equal(atomic_load(&g_there.used), 1);
    /* The same name again, as another role: that is what its admin wanted. */
    kd_assert_ok(join(f, KD_ROLE_OPERATOR, "guest", &free_name), &f->diag);
    assert_there(f, KD_ROLE_OPERATOR, "guest");
    kd_assert_ok(join(f, KD_ROLE_VIEWER, "carol", &give_up), &f->diag);
    assert_there(f, KD_ROLE_VIEWER, "carol");
}

/* The CA tells coordinators apart: the address of one changes, and two may share one (a tunnel). */
static void test_join_other_coordinator(void **state)
{
    struct fixture *f = *state;
    const kd_login_wish w = wish_of(KD_HOLDER_PERSON, "", false),
                        give_up = wish_of(KD_HOLDER_PERSON, "", true);
    char path[400];
    struct kd_test_ca other = kd_test_ca_new();
    char *login = kd_test_issue(&other, KD_ROLE_ADMIN, "root", 3600, NULL);
    snprintf(path, sizeof path, "%s/identity.pem", f->dir);
    kd_assert_ok(kd_pki_write(path, login, &f->diag), &f->diag);
    snprintf(path, sizeof path, "%s/ca.pem", f->dir);
    kd_assert_ok(kd_pki_write(path, other.certificate, &f->diag), &f->diag);
    snprintf(path, sizeof path, "%s/server", f->dir);
    kd_assert_ok(kd_pki_write(path, f->target, &f->diag), &f->diag);
    kd_assert_fails(join(f, KD_ROLE_ADMIN, "root", &w), KD_EEXIST, &f->diag,
                    "has the login of root (admin)");
    assert_there(f, KD_ROLE_ADMIN, "root");
    assert_int_equal(atomic_load(&g_there.used), 0);
    kd_assert_ok(join(f, KD_ROLE_ADMIN, "root", &give_up), &f->diag);
    kd_assert_ok(kd_pki_write(path, "moved.example:7070", &f->diag), &f->diag);
    kd_assert_ok(join(f, KD_ROLE_ADMIN, "root", &w), &f->diag);
    kd_pki_drop(login);
    kd_test_ca_free(&other);
}

/* What cannot be used any more is no loss; what cannot be read may be one. */
static void test_join_over_and_damaged(void **state)
{
    struct fixture *f = *state;
    const kd_login_wish w = wish_of(KD_HOLDER_WORKER, "", false),
                        give_up = wish_of(KD_HOLDER_WORKER, "", true);
    char path[400];
    g_there.life_s = 1;
    kd_assert_ok(join(f, KD_ROLE_WORKER, "old", &w), &f->diag);
    sleep(2);
    g_there.life_s = 3600;
    kd_assert_ok(join(f, KD_ROLE_WORKER, "new", &w), &f->diag);
    assert_there(f, KD_ROLE_WORKER, "new");
    snprintf(path, sizeof path, "%s/identity.pem", f->dir);
    kd_assert_ok(kd_pki_write(path, "no certificate", &f->diag), &f->diag);
    kd_assert_fails(join(f, KD_ROLE_WORKER, "new", &w), KD_EEXIST, &f->diag, "cannot be used");
    kd_assert_ok(join(f, KD_ROLE_WORKER, "new", &give_up), &f->diag);
    assert_there(f, KD_ROLE_WORKER, "new");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_join_wrong_kind), TEST(test_join_no_token), TEST(test_join_other_name),
        TEST(test_join_other_coordinator), TEST(test_join_over_and_damaged)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* server/access: tokens, certificates, revocation, quotas and the audit, over a real database and a
 * real server with the guard before it. */
#include "certs.h"

#include "access_internal.h"
#include "kd/clock.h"
#include "kd/file.h"

#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

struct fixture {
    char *dir, tls[300];
    kd_state state;
    kd_authority *authority;
    kd_access *access;
    kd_rpc *rpc;
    kd_rpc_server *server;
    char target[32];
    kd_diag diag;
};

static void on_get(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)arg;
    kd_rpc_call_set_note(call, "0123456789ab");
    kd_rpc_reply(call, &(struct iovec){(void *)bytes, len}, 1);
}

static void on_watch(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)arg;
    (void)kd_rpc_send(call, &(struct iovec){(void *)bytes, len}, 1); /* and stays open */
}

static kd_rpc_method g_methods[] = {
    {.path = "/distill.v1.Jobs/Get",
     .kind = KD_RPC_UNARY,
     .max_request = 100,
     .on_message = on_get},
    {.path = "/distill.v1.Jobs/Cancel",
     .kind = KD_RPC_UNARY,
     .max_request = 100,
     .on_message = on_get},
    {.path = "/distill.v1.Jobs/Watch",
     .kind = KD_RPC_SERVER_STREAM,
     .max_request = 100,
     .on_message = on_watch},
    {.path = "/distill.v1.Exchange/PushNode",
     .kind = KD_RPC_UNARY,
     .max_request = 100,
     .on_message = on_get},
};

static void open_access(struct fixture *f, const kd_quotas *quotas)
{
    kd_assert_ok(kd_state_open(f->dir, &f->state, &f->diag), &f->diag);
    kd_assert_ok(kd_authority_open(f->tls, 3600, &f->authority, &f->diag), &f->diag);
    kd_assert_ok(kd_access_open(&f->state, f->authority, quotas, &f->access, &f->diag), &f->diag);
    kd_rpc_tls tls = kd_authority_tls(f->authority);
    for (size_t i = 0; i < KD_COUNT(g_methods); i++)
        g_methods[i].rule = kd_access_rule(g_methods[i].path);
    kd_rpc_server_config cfg = {.listen = "127.0.0.1:0",
                                .tls = &tls,
                                .guard = kd_access_guard(f->access),
                                .methods = g_methods,
                                .n_methods = KD_COUNT(g_methods),
                                .max_message = 4096};
    kd_assert_ok(kd_rpc_server_new(f->rpc, &cfg, &f->server, &f->diag), &f->diag);
    snprintf(f->target, sizeof f->target, "127.0.0.1:%d", kd_rpc_server_port(f->server));
}

static void close_access(struct fixture *f)
{
    kd_rpc_server_free(f->server);
    kd_access_close(f->access);
    kd_authority_close(f->authority);
    kd_state_close(&f->state);
}

static int setup(void **state)
{
    static const char *const hosts[] = {"localhost", "127.0.0.1"};
    static const kd_quotas quotas = KD_QUOTAS_DEFAULT;
    struct fixture *f = kd_xalloc(sizeof *f);
    f->dir = kd_test_mkdir();
    snprintf(f->tls, sizeof f->tls, "%s/tls", f->dir);
    kd_assert_ok(kd_authority_make(f->tls, hosts, 2, "localhost:1", 3600, &f->diag), &f->diag);
    kd_assert_ok(kd_rpc_new(2, &f->rpc, &f->diag), &f->diag);
    open_access(f, &quotas);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    close_access(f);
    kd_rpc_free(f->rpc);
    kd_test_rmdir(f->dir);
    free(f);
    return 0;
}

static void again(struct fixture *f, const kd_quotas *quotas)
{
    close_access(f);
    open_access(f, quotas);
}

/* A token's secret part into out. */
static void token(struct fixture *f, enum kd_role role, const char *name, int64_t ttl_ms,
                  bool session, char out[KD_TOKEN_TEXT], kd_token_row *row)
{
    char text[KD_TOKEN_TEXT];
    kd_assert_ok(
        kd_access_create_token(f->access, role, name, ttl_ms, session, "root", text, row, &f->diag),
        &f->diag);
    assert_int_equal(strncmp(text, "distill1.", 9), 0);
    assert_int_equal(strncmp(text + 9, f->authority->digest, KD_PKI_DIGEST - 1), 0);
    snprintf(out, KD_TOKEN_TEXT, "%s", session ? text : strrchr(text, '.') + 1);
}

static int enroll_as(struct fixture *f, enum kd_holder holder, const char *secret, const char *name,
                     char **out_login, kd_pki_identity *out)
{
    char *key, *csr, *certificate;
    kd_assert_ok(kd_pki_make_key(&key, &f->diag), &f->diag);
    kd_assert_ok(kd_pki_make_csr(key, &csr, &f->diag), &f->diag);
    const kd_enrolment e = {secret, csr, name, "", holder};
    int rc = kd_access_enroll(f->access, &e, &certificate, out, &f->diag);
    if (rc == 0) {
        *out_login = kd_pki_join(certificate, key);
        kd_pki_drop(certificate);
    }
    kd_pki_drop(key);
    kd_pki_drop(csr);
    return rc;
}

static int enroll(struct fixture *f, const char *secret, const char *name, char **out_login,
                  kd_pki_identity *out)
{
    return enroll_as(f, KD_HOLDER_ANY, secret, name, out_login, out);
}

static char *member(struct fixture *f, enum kd_role role, const char *name, kd_pki_identity *out)
{
    char secret[KD_TOKEN_TEXT], *login;
    kd_token_row row;
    kd_pki_identity who;
    token(f, role, name, 60000, false, secret, &row);
    kd_assert_ok(enroll(f, secret, "", &login, out ? out : &who), &f->diag);
    return login;
}

static kd_rpc_channel *channel_of(struct fixture *f, const char *login)
{
    kd_rpc_channel *ch;
    kd_rpc_tls tls = {f->authority->ca, login, login};
    kd_assert_ok(kd_rpc_channel_new(f->rpc, f->target, &tls, 4096, &ch, &f->diag), &f->diag);
    return ch;
}

static int ask(kd_rpc_channel *ch, const char *method, kd_rpc_result *r)
{
    char path[64];
    snprintf(path, sizeof path, "/distill.v1.%s", method);
    int rc = kd_rpc_unary(ch, path, &(struct iovec){"x", 1}, 1, 20000, false, r);
    free(r->bytes);
    return rc;
}

/* ---- tokens */

static void test_access_token_once(void **state)
{
    struct fixture *f = *state;
    char secret[KD_TOKEN_TEXT], *login, *other;
    kd_token_row row;
    kd_pki_identity who;
    token(f, KD_ROLE_WORKER, "", 60000, false, secret, &row);
    kd_assert_ok(enroll(f, secret, "node1", &login, &who), &f->diag);
    assert_int_equal(who.role, KD_ROLE_WORKER);
    assert_string_equal(who.name, "node1");
    kd_assert_ok(kd_pki_check(f->authority->ca, login, login, &f->diag), &f->diag);
    kd_assert_fails(enroll(f, secret, "node2", &other, &who), KD_EAUTH, &f->diag,
                    "used already, by node1");
    static const kd_quotas quotas = KD_QUOTAS_DEFAULT;
    again(f, &quotas); /* and not after a restart either */
    kd_assert_fails(enroll(f, secret, "node2", &other, &who), KD_EAUTH, &f->diag, "used already");
    /* What is stored is a hash. */
    char path[400], *db;
    size_t len;
    snprintf(path, sizeof path, "%s/distilld.db", f->dir);
    kd_assert_ok(kd_file_read(path, 1 << 24, &db, &len, &f->diag), &f->diag);
    assert_null(memmem(db, len, secret, strlen(secret)));
    free(db);
    kd_pki_drop(login);
}

static void test_access_token_ends(void **state)
{
    struct fixture *f = *state;
    char secret[KD_TOKEN_TEXT], *login, text[KD_TOKEN_TEXT];
    kd_token_row row, gone;
    kd_pki_identity who;
    token(f, KD_ROLE_VIEWER, "", 1000, false, secret, &row);
    usleep(1100000);
    kd_assert_fails(enroll(f, secret, "v", &login, &who), KD_EAUTH, &f->diag, "is over");
    token(f, KD_ROLE_VIEWER, "", 60000, false, secret, &row);
    char id[KD_TOKEN_ID + 1];
    snprintf(id, sizeof id, "%.12s", row.hash);
    kd_assert_ok(kd_access_revoke_token(f->access, id, &gone, &f->diag), &f->diag);
    kd_assert_fails(enroll(f, secret, "v", &login, &who), KD_EAUTH, &f->diag, "was revoked");
    kd_assert_fails(kd_access_revoke_token(f->access, "%", &gone, &f->diag), KD_ENOENT, &f->diag,
                    "no token");
    kd_assert_fails(enroll(f, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "v", &login, &who), KD_EAUTH,
                    &f->diag, "no such token");
    kd_assert_fails(enroll(f, "", "v", &login, &who), KD_EAUTH, &f->diag, "no such token");
    const struct {
        enum kd_role role;
        const char *name;
        int64_t ttl;
        bool session;
    } bad[] = {{KD_ROLE_NONE, "", 60000, false},
               {KD_ROLE_SERVER, "", 60000, false},
               {KD_ROLE_WORKER, "a/b", 60000, false},
               {KD_ROLE_WORKER, "", 0, false},
               {KD_ROLE_WORKER, "", INT64_MAX, false},
               {KD_ROLE_WORKER, "w", 60000, true},
               {KD_ROLE_VIEWER, "", 60000, true},
               {KD_ROLE_WORKER, "", KD_TOKEN_MAX_TTL_MS + 1, false},
               {KD_ROLE_VIEWER, "v", KD_SESSION_MAX_TTL_MS + 1, true}};
    for (size_t i = 0; i < KD_COUNT(bad); i++)
        kd_assert_fails(kd_access_create_token(f->access, bad[i].role, bad[i].name, bad[i].ttl,
                                               bad[i].session, "root", text, &row, &f->diag),
                        KD_EINVAL, &f->diag, "");
}

/* Whoever says what he is finds out that a token is not for him, and has not used it up. */
static void test_access_holder(void **state)
{
    struct fixture *f = *state;
    char secret[KD_TOKEN_TEXT], *login;
    kd_token_row row;
    kd_pki_identity who;
    for (enum kd_role r = KD_ROLE_WORKER; r <= KD_ROLE_ADMIN; r++) {
        bool worker = r == KD_ROLE_WORKER;
        enum kd_holder right = worker ? KD_HOLDER_WORKER : KD_HOLDER_PERSON,
                       wrong = worker ? KD_HOLDER_PERSON : KD_HOLDER_WORKER;
        token(f, r, kd_role_name(r), 60000, false, secret, &row);
        kd_assert_fails(enroll_as(f, wrong, secret, "", &login, &who), KD_EINVAL, &f->diag,
                        worker ? "for a worker, not for a person: `distill-worker join TOKEN`"
                               : "not for a worker: `distill login TOKEN` takes it");
        kd_assert_ok(enroll_as(f, right, secret, "", &login, &who), &f->diag);
        assert_int_equal(who.role, r);
        kd_pki_drop(login);
    }
}

/* A name that stands for somebody is not taken by who picks his own. */
static void test_access_names(void **state)
{
    struct fixture *f = *state;
    char secret[KD_TOKEN_TEXT], *login, *first = member(f, KD_ROLE_SUBMITTER, "alice", NULL);
    kd_token_row row;
    kd_pki_identity who;
    token(f, KD_ROLE_SUBMITTER, "", 60000, false, secret, &row);
    kd_assert_fails(enroll(f, secret, "alice", &login, &who), KD_EEXIST, &f->diag, "somebody's");
    kd_assert_fails(enroll(f, secret, "admin", &login, &who), KD_EEXIST, &f->diag, "somebody's");
    kd_assert_fails(enroll(f, secret, "../x", &login, &who), KD_EINVAL, &f->diag, "no such name");
    /* Refused for the name, the token is still good; and one for the name may replace it. */
    kd_assert_ok(enroll(f, secret, "bob", &login, &who), &f->diag);
    kd_pki_drop(login);
    token(f, KD_ROLE_SUBMITTER, "alice", 60000, false, secret, &row);
    kd_assert_fails(enroll(f, secret, "bob", &login, &who), KD_EPERM, &f->diag, "for alice");
    kd_assert_ok(enroll(f, secret, "", &login, &who), &f->diag);
    assert_string_equal(who.name, "alice");
    kd_pki_drop(login);
    kd_pki_drop(first);
}

static void test_access_session(void **state)
{
    struct fixture *f = *state;
    static const kd_quotas quotas = KD_QUOTAS_DEFAULT;
    char text[KD_TOKEN_TEXT], name[KD_PKI_NAME] = "", *login;
    kd_token_row row;
    kd_pki_identity who;
    token(f, KD_ROLE_VIEWER, "browser", 60000, true, text, &row);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(kd_access_session(f->access, text, name), KD_ROLE_VIEWER);
        assert_string_equal(name, "browser");
    }
    again(f, &quotas);
    assert_int_equal(kd_access_session(f->access, text, name), KD_ROLE_VIEWER);
    static const struct {
        enum kd_holder holder;
        const char *told;
    } takers[] = {{KD_HOLDER_PERSON,
                   "`distill login` takes a one-time token, which an admin makes by "
                   "`distill token create --role viewer`"},
                  {KD_HOLDER_WORKER, "`distill-worker join` takes a one-time token, which an admin "
                                     "makes by `distill token create --role worker`"}};
    for (size_t i = 0; i < KD_COUNT(takers); i++) {
        kd_assert_fails(enroll_as(f, takers[i].holder, strrchr(text, '.') + 1, "", &login, &who),
                        KD_EINVAL, &f->diag,
                        "of browser, for the HTTP port; no certificate is made of it");
        assert_non_null(strstr(f->diag.msg, takers[i].told));
    }
    text[strlen(text) - 1] ^= 1;
    assert_int_equal(kd_access_session(f->access, text, name), KD_ROLE_NONE);
    text[strlen(text) - 1] ^= 1;
    char id[KD_TOKEN_ID + 1];
    snprintf(id, sizeof id, "%.12s", row.hash);
    kd_assert_ok(kd_access_revoke_token(f->access, id, &row, &f->diag), &f->diag);
    assert_int_equal(kd_access_session(f->access, text, name), KD_ROLE_NONE);
    token(f, KD_ROLE_VIEWER, "sue", 1000, true, text, &row);
    token(f, KD_ROLE_VIEWER, "short", 1000, true, text, &row);
    usleep(1100000);
    assert_int_equal(kd_access_session(f->access, text, name), KD_ROLE_NONE);
    /* A name that is revoked has no session either; who has no certificate may be revoked as well.
     */
    kd_certificate_row rows[2];
    uint32_t ended;
    token(f, KD_ROLE_SUBMITTER, "sue", KD_SESSION_MAX_TTL_MS, true, text, &row);
    assert_int_equal(kd_access_session(f->access, text, name), KD_ROLE_SUBMITTER);
    assert_int_equal(kd_access_revoke(f->access, "sue", rows, 2, &ended, &f->diag), 0);
    assert_int_equal(ended, 1); /* the other one was over */
    assert_int_equal(kd_access_session(f->access, text, name), KD_ROLE_NONE);
    again(f, &quotas);
    assert_int_equal(kd_access_session(f->access, text, name), KD_ROLE_NONE);
    kd_assert_fails(kd_access_revoke(f->access, "sue", rows, 2, &ended, &f->diag), KD_ENOENT,
                    &f->diag, "no certificate or session");
    kd_access_files files;
    kd_access_files_get(f->access, &files);
    kd_assert_ok(kd_pki_check(files.ca, files.certificate, files.key, &f->diag), &f->diag);
    assert_int_equal(files.version, kd_access_files_version(f->access));
    kd_access_files_clear(&files);
}

/* ---- at every call */

static void test_access_roles(void **state)
{
    struct fixture *f = *state;
    kd_rpc_result r;
    char *viewer = member(f, KD_ROLE_VIEWER, "vera", NULL),
         *worker = member(f, KD_ROLE_WORKER, "node1", NULL);
    kd_rpc_channel *none = channel_of(f, NULL), *v = channel_of(f, viewer),
                   *w = channel_of(f, worker);
    assert_int_equal(ask(none, "Jobs/Get", &r), -KD_EAUTH);
    assert_int_equal(r.grpc_status, 16);
    assert_non_null(strstr(r.text, "wants a certificate"));
    assert_int_equal(ask(v, "Jobs/Get", &r), 0);
    assert_int_equal(ask(v, "Jobs/Cancel", &r), -KD_EPERM);
    assert_int_equal(r.grpc_status, 7);
    assert_string_equal(r.text,
                        "vera is a viewer and may not call Jobs/Cancel, which takes the role "
                        "submitter, operator or admin");
    assert_int_equal(ask(v, "Exchange/PushNode", &r), -KD_EPERM);
    assert_int_equal(ask(w, "Exchange/PushNode", &r), 0);
    assert_int_equal(ask(w, "Jobs/Get", &r), -KD_EPERM);
    assert_int_equal(ask(v, "Jobs/Nothing", &r), -KD_EUNSUP);

    /* All of it but the plain reads is in the audit, newest first. */
    kd_audit_row rows[10];
    int n = kd_access_list_audit(f->access, "", rows, 10, &f->diag);
    assert_int_equal(n, 4);
    assert_string_equal(rows[0].name, "node1");
    assert_string_equal(rows[0].method, "Jobs/Get");
    assert_string_equal(rows[0].result, "EPERM");
    assert_string_equal(rows[2].method, "Jobs/Cancel");
    assert_string_equal(rows[2].role, "viewer");
    assert_int_equal(strncmp(rows[2].address, "ipv4:127.0.0.1:", 15), 0);
    assert_string_equal(rows[3].result, "EAUTH");
    assert_string_equal(rows[3].name, "");
    n = kd_access_list_audit(f->access, "vera", rows, 10, &f->diag);
    assert_int_equal(n, 2);
    kd_rpc_channel_free(none);
    kd_rpc_channel_free(v);
    kd_rpc_channel_free(w);
    kd_pki_drop(viewer);
    kd_pki_drop(worker);
}

static void test_access_revoke(void **state)
{
    struct fixture *f = *state;
    static const kd_quotas quotas = KD_QUOTAS_DEFAULT;
    kd_rpc_result r;
    kd_pki_identity one, two;
    kd_certificate_row rows[8];
    uint32_t ended;
    char *a = member(f, KD_ROLE_VIEWER, "vera", &one), *b = member(f, KD_ROLE_VIEWER, "vera", &two),
         *c = member(f, KD_ROLE_VIEWER, "carl", NULL);
    kd_rpc_channel *first = channel_of(f, a), *second = channel_of(f, b), *other = channel_of(f, c);
    assert_int_equal(ask(first, "Jobs/Get", &r), 0);
    /* By serial number that one alone, over the connection that is there. */
    assert_int_equal(kd_access_revoke(f->access, one.serial, rows, 8, &ended, &f->diag), 1);
    assert_true(kd_access_is_over(f->access, &one));
    assert_int_equal(ask(first, "Jobs/Get", &r), -KD_EPERM);
    assert_non_null(strstr(r.text, "was revoked"));
    assert_int_equal(ask(second, "Jobs/Get", &r), 0);
    /* By name all of them; others are not touched. */
    assert_int_equal(kd_access_revoke(f->access, "vera", rows, 8, &ended, &f->diag), 2);
    assert_int_equal(ended, 0);
    assert_int_equal(ask(second, "Jobs/Get", &r), -KD_EPERM);
    assert_int_equal(ask(other, "Jobs/Get", &r), 0);
    kd_assert_fails(kd_access_revoke(f->access, "nobody", rows, 8, &ended, &f->diag), KD_ENOENT,
                    &f->diag, "no certificate");
    /* A serial number that this database has never seen. */
    assert_int_equal(
        kd_access_revoke(f->access, "4123456789abcdef0123456789abcdef", rows, 8, &ended, &f->diag),
        1);
    kd_rpc_channel_free(first);
    kd_rpc_channel_free(second);
    kd_rpc_channel_free(other);
    again(f, &quotas);
    assert_true(kd_access_is_over(f->access, &one));
    assert_true(kd_access_is_over(f->access, &two));
    memcpy(one.serial, "4123456789abcdef0123456789abcdef", sizeof one.serial);
    assert_true(kd_access_is_over(f->access, &one));
    /* A new token lets the name in again. */
    char *again_in = member(f, KD_ROLE_VIEWER, "vera", &one);
    assert_false(kd_access_is_over(f->access, &one));
    kd_pki_drop(again_in);
    kd_pki_drop(a);
    kd_pki_drop(b);
    kd_pki_drop(c);
}

struct sink {
    atomic_int messages, ended, code;
};

static void sink_message(kd_rpc_stream *s, const uint8_t *bytes, size_t len, void *arg)
{
    (void)s, (void)bytes, (void)len;
    atomic_fetch_add(&((struct sink *)arg)->messages, 1);
}

static void sink_end(kd_rpc_stream *s, int code, const char *text, void *arg)
{
    (void)s, (void)text;
    atomic_store(&((struct sink *)arg)->code, code);
    atomic_store(&((struct sink *)arg)->ended, 1);
}

/* Opens a stream and waits for its first message or its end. */
static kd_rpc_stream *watch(struct fixture *f, kd_rpc_channel *ch, struct sink *k)
{
    kd_rpc_stream_events ev = {sink_message, sink_end, k};
    kd_rpc_stream *s;
    kd_assert_ok(kd_rpc_stream_open(ch, "/distill.v1.Jobs/Watch", 20000, &ev, &s, &f->diag),
                 &f->diag);
    kd_rpc_stream_send(s, &(struct iovec){"x", 1}, 1);
    kd_rpc_stream_close_send(s);
    for (int i = 0; i < 2000 && !atomic_load(&k->messages) && !atomic_load(&k->ended); i++)
        usleep(5000);
    return s;
}

static void test_access_quotas(void **state)
{
    struct fixture *f = *state;
    static const kd_quotas quotas = {.streams = 2, .requests_a_second = 2, .calls = 4};
    kd_rpc_result r;
    char *greedy = member(f, KD_ROLE_VIEWER, "greedy", NULL),
         *modest = member(f, KD_ROLE_VIEWER, "modest", NULL);
    again(f, &quotas);
    kd_rpc_channel *g = channel_of(f, greedy), *m = channel_of(f, modest);
    struct sink k[3] = {0};
    kd_rpc_stream *s[3];
    for (int i = 0; i < 3; i++)
        s[i] = watch(f, g, &k[i]);
    assert_int_equal(atomic_load(&k[1].ended), 0);
    assert_int_equal(atomic_load(&k[2].code), -KD_ELIMIT);
    /* The shares of others are their own. */
    struct sink own = {0};
    kd_rpc_stream *other = watch(f, m, &own);
    assert_int_equal(atomic_load(&own.messages), 1);
    /* A stream that ended makes room. */
    kd_rpc_stream_free(s[0]);
    struct sink next = {0};
    kd_rpc_stream *fourth = NULL;
    for (int i = 0; i < 100 && !atomic_load(&next.messages); i++) {
        kd_rpc_stream_free(fourth);
        next = (struct sink){0};
        usleep(300000); /* its own request comes back as well */
        fourth = watch(f, g, &next);
    }
    assert_int_equal(atomic_load(&next.messages), 1);
    /* Twenty at once, then two a second. */
    int refused = 0;
    for (int i = 0; i < 40; i++)
        refused += ask(g, "Jobs/Get", &r) == -KD_ELIMIT;
    assert_true(refused >= 10 && refused < 40);
    assert_int_equal(ask(m, "Jobs/Get", &r), 0);
    for (int i = 1; i < 3; i++)
        kd_rpc_stream_free(s[i]);
    kd_rpc_stream_free(other);
    kd_rpc_stream_free(fourth);
    kd_rpc_channel_free(g);
    kd_rpc_channel_free(m);
    kd_pki_drop(greedy);
    kd_pki_drop(modest);
}

/* One call of somebody without a certificate, begun and over. */
static int call_from(struct fixture *f, const char *address)
{
    static const kd_pki_identity nobody = {.role = KD_ROLE_NONE};
    static const kd_rule rule = {.metered = true};
    const kd_rpc_peer peer = {address, &nobody};
    pthread_mutex_lock(&f->access->mu);
    const int rc = kd_access_use(f->access, &peer, &rule, false, &f->diag);
    if (rc == 0)
        kd_access_unuse(f->access, &peer, false);
    pthread_mutex_unlock(&f->access->mu);
    return rc;
}

/* Who has a /64 has more addresses than there are calls: they count as one. */
static void test_access_strangers(void **state)
{
    struct fixture *f = *state;
    char address[64];
    int refused = 0;
    for (int i = 0; i < 1000; i++) {
        snprintf(address, sizeof address, "ipv6:%%5B2001:db8:0:7:%x::ffff:%d%%5D:40312", i, i);
        refused += call_from(f, address) == -KD_ELIMIT;
    }
    assert_true(refused >= 500);
    assert_non_null(strstr(f->diag.msg, "at 2001:db8:0:7::/64 makes more than 20 requests"));
    assert_int_equal(call_from(f, "ipv6:%5B2001:db8:0:8::1%5D:40312"), 0);
    assert_int_equal(call_from(f, "ipv4:10.0.0.7:40312"), 0);
}

/* ---- the authority */

static void test_authority_files(void **state)
{
    struct fixture *f = *state;
    char path[400], serial[KD_PKI_SERIAL];
    memcpy(serial, f->authority->own.serial, sizeof serial);
    assert_int_equal(kd_authority_refresh(f->authority, true, &f->diag), 0);
    /* Made anew by an admin: taken. Damaged: made anew. */
    static const char *const more[] = {"other.example"};
    kd_assert_ok(kd_authority_make(f->tls, more, 1, "localhost:1", 3600, &f->diag), &f->diag);
    assert_int_equal(kd_authority_refresh(f->authority, true, &f->diag), 1);
    assert_string_not_equal(serial, f->authority->own.serial);
    snprintf(path, sizeof path, "%s/server.pem", f->tls);
    kd_assert_ok(kd_file_write(path, "x", 1, &f->diag), &f->diag);
    assert_int_equal(kd_authority_refresh(f->authority, true, &f->diag), 1);
    /* A CA's key that others may read is not used. */
    kd_authority *a;
    snprintf(path, sizeof path, "%s/ca.key", f->tls);
    assert_int_equal(chmod(path, 0644), 0);
    kd_assert_fails(kd_authority_open(f->tls, 3600, &a, &f->diag), KD_EPERM, &f->diag, "chmod 600");
    kd_assert_fails(kd_authority_open(f->dir, 3600, &a, &f->diag), KD_ENOENT, &f->diag,
                    "distilld init");
}

/* A server certificate is made anew before it is over. */
static void test_authority_renews(void **state)
{
    struct fixture *f = *state;
    kd_authority *a;
    static const char *const hosts[] = {"localhost"};
    kd_assert_ok(kd_authority_make(f->tls, hosts, 1, "localhost:1", 2, &f->diag), &f->diag);
    sleep(2);
    kd_assert_ok(kd_authority_open(f->tls, 3600, &a, &f->diag), &f->diag);
    assert_true(a->own.not_after_ms > kd_clock_wall_ms() + 3000000);
    kd_authority_close(a);
}

/* An admin's login that lives `life_s` from now on. */
static void make_admin(struct fixture *f, int64_t life_s)
{
    f->authority->life_s = life_s;
    kd_assert_ok(kd_authority_make_admin(f->authority, &f->diag), &f->diag);
    f->authority->life_s = 3600;
}

/* The admin's login is good for as long as the coordinator runs, and at each start; what was
 * revoked stays so, and a folder that holds something else is left as it is. */
static void test_authority_admin(void **state)
{
    struct fixture *f = *state;
    const kd_quotas quotas = KD_QUOTAS_DEFAULT;
    char serial[KD_PKI_SERIAL], path[400];
    kd_certificate_row rows[8];
    uint32_t ended;
    kd_pki_identity *admin = &f->authority->admin;
    memcpy(serial, admin->serial, sizeof serial);
    kd_assert_ok(kd_access_keep_admin(f->access, false, &f->diag), &f->diag);
    assert_string_equal(admin->serial, serial);

    make_admin(f, 1);
    sleep(1);
    assert_true(kd_access_is_over(f->access, admin));
    kd_assert_ok(kd_access_keep_admin(f->access, false, &f->diag), &f->diag);
    assert_false(kd_access_is_over(f->access, admin));
    assert_int_equal(kd_access_list_certificates(f->access, rows, 8, &f->diag), 2);

    make_admin(f, 1);
    sleep(1);
    again(f, &quotas);
    admin = &f->authority->admin;
    assert_int_equal(admin->role, KD_ROLE_ADMIN);
    assert_false(kd_access_is_over(f->access, admin));

    make_admin(f, 3);
    kd_assert_ok(kd_access_keep_admin(f->access, true, &f->diag), &f->diag);
    memcpy(serial, admin->serial, sizeof serial);
    assert_int_equal(kd_access_was_revoked(f->dir, serial, &f->diag), 0);
    assert_int_equal(kd_access_revoke(f->access, serial, rows, 8, &ended, &f->diag), 1);
    assert_int_equal(kd_access_was_revoked(f->dir, serial, &f->diag), 1);
    sleep(3);
    kd_assert_ok(kd_access_keep_admin(f->access, true, &f->diag), &f->diag);
    assert_string_equal(admin->serial, serial);
    assert_true(kd_access_is_over(f->access, admin));
    again(f, &quotas); /* nor does a restart let it in again */
    admin = &f->authority->admin;
    assert_string_equal(admin->serial, serial);
    assert_true(kd_access_is_over(f->access, admin));

    snprintf(path, sizeof path, "%s/admin/identity.pem", f->tls);
    kd_assert_ok(kd_pki_write(path, "nothing", &f->diag), &f->diag);
    kd_assert_ok(kd_access_keep_admin(f->access, true, &f->diag), &f->diag);
    assert_int_equal(admin->role, KD_ROLE_NONE);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_access_token_once), TEST(test_access_token_ends), TEST(test_access_holder),
        TEST(test_access_names),      TEST(test_access_session),    TEST(test_access_roles),
        TEST(test_access_revoke),     TEST(test_access_quotas),     TEST(test_access_strangers),
        TEST(test_authority_files),   TEST(test_authority_renews),  TEST(test_authority_admin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

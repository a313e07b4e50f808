#include "login.h"

#include "kd/address.h"
#include "kd/clock.h"
#include "kd/file.h"
#include "wire/wire.h"

#include "distill.pb-c.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define CALL_MS 15000
#define TOKEN_PREFIX "distill1."
#define TOKEN_ID 12 /* digits, as lists of tokens show it */

static void path_of(const char *dir, const char *name, char out[4096])
{
    snprintf(out, 4096, "%.3000s/%s", dir, name);
}

/* ---- what lies there */

static int read_server(const char *dir, char out[KD_LOGIN_SERVER], kd_diag *diag)
{
    char path[4096], *text = NULL;
    size_t len;
    path_of(dir, "server", path);
    int rc = kd_file_read(path, KD_LOGIN_SERVER - 1, &text, &len, diag);
    if (rc != 0)
        return rc;
    snprintf(out, KD_LOGIN_SERVER, "%.*s", (int)strcspn(text, "\r\n"), text);
    free(text);
    return 0;
}

int kd_login_load(const char *dir, kd_login *out, kd_diag *diag)
{
    char path[4096];
    kd_login l = {0};
    path_of(dir, "identity.pem", path);
    if (access(path, F_OK) != 0 && errno == ENOENT)
        return kd_fail(diag, -KD_ENOENT, "there is no certificate in %.300s", dir);
    int rc = kd_pki_read_key(path, &l.identity, diag);
    if (rc == 0)
        rc = kd_pki_identity_of(l.identity, strlen(l.identity), &l.who, diag);
    path_of(dir, "ca.pem", path);
    if (rc == 0)
        rc = kd_pki_read_certificate(path, &l.ca, diag);
    if (rc == 0 && (rc = kd_pki_check(l.ca, l.identity, l.identity, diag)) != 0)
        (void)kd_fail_at(diag, rc, "%.300s", dir);
    if (rc == 0)
        rc = read_server(dir, l.server, diag);
    l.dir = kd_xstrdup(dir);
    if (rc == 0)
        *out = l;
    else
        kd_login_clear(&l);
    return rc;
}

void kd_login_clear(kd_login *l)
{
    free(l->dir);
    kd_pki_drop(l->ca);
    kd_pki_drop(l->identity);
    *l = (kd_login){0};
}

kd_rpc_tls kd_login_tls(const kd_login *l)
{
    return (kd_rpc_tls){l->ca, l->identity, l->identity};
}

bool kd_login_is_due(const kd_login *l)
{
    return kd_pki_is_due(&l->who, kd_clock_wall_ms());
}

bool kd_login_is_over(const kd_login *l)
{
    return kd_clock_wall_ms() >= l->who.not_after_ms;
}

/* ---- calls */

static int call(kd_rpc_channel *ch, const char *path, const void *request,
                Distill__V1__CertificateReply **out, kd_diag *diag)
{
    kd_buf packed;
    kd_rpc_result r;
    kd_buf_init(&packed, KD_MAX_CONTROL_BYTES);
    int rc = kd_wire_pack(request, &packed);
    if (rc != 0) {
        kd_buf_clear(&packed);
        return kd_fail(diag, rc, "the request is too large");
    }
    struct iovec part = {packed.data, packed.len};
    rc = kd_rpc_unary(ch, path, &part, 1, CALL_MS, false, &r);
    kd_buf_clear(&packed);
    if (rc != 0)
        return kd_fail(diag, rc, "%s", r.text);
    rc = kd_wire_unpack(&distill__v1__certificate_reply__descriptor, r.bytes, r.len,
                        (ProtobufCMessage **)out, diag);
    free(r.bytes);
    return rc;
}

/* Believes a certificate only if it is one, for this key, from this CA. */
static int take_certificate(const char *ca, const char *key,
                            const Distill__V1__CertificateReply *reply, char **out_identity,
                            kd_pki_identity *out_who, kd_diag *diag)
{
    int rc = kd_pki_check(ca, reply->certificate, key, diag);
    if (rc == 0)
        rc = kd_pki_identity_of(reply->certificate, strlen(reply->certificate), out_who, diag);
    if (rc == 0)
        *out_identity = kd_pki_join(reply->certificate, key);
    return rc == 0 ? 0 : kd_fail_at(diag, rc, "the coordinator's answer");
}

static int make_request(char **out_key, char **out_csr, kd_diag *diag)
{
    int rc = kd_pki_make_key(out_key, diag);
    return rc == 0 ? kd_pki_make_csr(*out_key, out_csr, diag) : rc;
}

int kd_login_renew(kd_rpc_channel *ch, kd_login *l, kd_diag *diag)
{
    char path[4096], *key = NULL, *csr = NULL, *identity = NULL;
    kd_pki_identity who;
    Distill__V1__RenewRequest r = DISTILL__V1__RENEW_REQUEST__INIT;
    Distill__V1__CertificateReply *reply = NULL;
    path_of(l->dir, "identity.pem", path);
    int rc = make_request(&key, &csr, diag);
    r.csr = csr;
    if (rc == 0)
        rc = call(ch, "/distill.v1.Access/Renew", &r, &reply, diag);
    if (rc == 0)
        rc = take_certificate(l->ca, key, reply, &identity, &who, diag);
    if (rc == 0)
        rc = kd_pki_write(path, identity, diag);
    if (rc == 0) {
        kd_pki_drop(l->identity);
        l->identity = identity;
        l->who = who;
        identity = NULL;
    }
    kd_wire_free((ProtobufCMessage *)reply);
    kd_pki_drop(identity);
    kd_pki_drop(key);
    kd_pki_drop(csr);
    return rc;
}

/* ---- joining */

/* What was given may be a secret all the same: only its kind is told. */
static int refuse_token(const char *token, enum kd_holder holder, kd_diag *diag)
{
    const char *given = "no token";
    if (strncmp(token, TOKEN_PREFIX, strlen(TOKEN_PREFIX)) == 0)
        given = "a token that is not whole";
    else if (strlen(token) == TOKEN_ID && strspn(token, "0123456789abcdef") == TOKEN_ID)
        given = "the id of a token";
    else if (strstr(token, "-----BEGIN"))
        given = "a certificate or key";
    return kd_fail(diag, -KD_EINVAL,
                   "this is %s; a one-time token is expected, " TOKEN_PREFIX
                   "DIGEST.SECRET, which an admin of the coordinator makes by `distill token "
                   "create --role %s`",
                   given,
                   holder == KD_HOLDER_WORKER ? "worker" : "submitter|viewer|operator|admin");
}

/* DIGEST and SECRET of `distill1.DIGEST.SECRET`. */
static int split_token(const char *token, enum kd_holder holder, char digest[KD_PKI_DIGEST],
                       const char **out_secret, kd_diag *diag)
{
    static const char base64url[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    size_t n = strlen(TOKEN_PREFIX);
    const char *start = token + n;
    if (strlen(token) >= KD_LOGIN_TOKEN || strncmp(token, TOKEN_PREFIX, n) != 0 ||
        strspn(start, base64url) != KD_PKI_DIGEST - 1 || start[KD_PKI_DIGEST - 1] != '.' ||
        strspn(start + KD_PKI_DIGEST, base64url) < 16 ||
        start[KD_PKI_DIGEST + strspn(start + KD_PKI_DIGEST, base64url)] != '\0')
        return refuse_token(token, holder, diag);
    snprintf(digest, KD_PKI_DIGEST, "%s", start);
    *out_secret = start + KD_PKI_DIGEST;
    return 0;
}

/* HOST and PORT of an address as kd_rpc_channel_new takes it. */
static int split_server(const char *server, char host[256], char port[8], kd_diag *diag)
{
    const char *colon = strrchr(server, ':');
    size_t n = colon ? (size_t)(colon - server) : 0;
    if (n == 0 || n > 255 || strlen(colon + 1) == 0 || strlen(colon + 1) > 5)
        return kd_fail(diag, -KD_EINVAL, "%.300s is no server address; HOST:PORT was expected",
                       server);
    if (server[0] == '[' && server[n - 1] == ']')
        server++, n -= 2;
    snprintf(host, 256, "%.*s", (int)n, server);
    snprintf(port, 8, "%s", colon + 1);
    return 0;
}

static int store(const char *dir, const char *ca, const char *identity, const char *server,
                 kd_diag *diag)
{
    const struct {
        const char *name, *text;
    } files[] = {{"ca.pem", ca}, {"server", server}, {"identity.pem", identity}};
    int rc = kd_file_mkdirs(dir, diag);
    for (size_t i = 0; i < KD_COUNT(files) && rc == 0; i++) {
        char path[4096];
        path_of(dir, files[i].name, path);
        rc = kd_pki_write(path, files[i].text, diag);
    }
    return rc;
}

/* Coordinators that do not know `holder` make of a token what it is for. */
static int check_holder(const kd_pki_identity *who, enum kd_holder holder, kd_diag *diag)
{
    if (kd_holder_is(holder, who->role))
        return 0;
    return kd_fail(
        diag, -KD_EINVAL,
        "the token was for a %s, not for a %s, and this coordinator is too old to say so "
        "before: it is used up; nothing was stored, ask for another one",
        kd_role_name(who->role), holder == KD_HOLDER_WORKER ? "worker" : "person");
}

static int enroll(kd_rpc *rpc, const char *server, const char *ca, const char *secret,
                  const kd_login_wish *wish, char **out_identity, kd_diag *diag)
{
    kd_rpc_tls tls = {.ca = ca};
    kd_rpc_channel *ch = NULL;
    char *key = NULL, *csr = NULL, *identity = NULL;
    kd_pki_identity who;
    Distill__V1__EnrollRequest r = DISTILL__V1__ENROLL_REQUEST__INIT;
    Distill__V1__CertificateReply *reply = NULL;
    int rc = make_request(&key, &csr, diag);
    if (rc == 0)
        rc = kd_rpc_channel_new(rpc, server, &tls, KD_MAX_CONTROL_BYTES, &ch, diag);
    r.token = (char *)secret;
    r.csr = csr;
    r.name = (char *)wish->name;
    r.suggested = (char *)wish->suggested;
    r.holder = (Distill__V1__Holder)wish->holder;
    if (rc == 0)
        rc = call(ch, "/distill.v1.Access/Enroll", &r, &reply, diag);
    if (rc == 0)
        rc = take_certificate(ca, key, reply, &identity, &who, diag);
    if (rc == 0)
        rc = check_holder(&who, wish->holder, diag);
    if (rc == 0)
        *out_identity = identity;
    else
        kd_pki_drop(identity);
    kd_wire_free((ProtobufCMessage *)reply);
    kd_rpc_channel_free(ch);
    kd_pki_drop(key);
    kd_pki_drop(csr);
    return rc;
}

/* Where it is to lie must be writable before the token is gone. */
static int try_folder(const char *dir, kd_diag *diag)
{
    int rc = kd_file_mkdirs(dir, diag);
    if (rc == 0 && access(dir, W_OK | X_OK) != 0)
        rc = kd_fail(diag, -KD_EPERM, "cannot write to %.300s: %s", dir, strerror(errno));
    return rc;
}

/* What lies there and may not be lost; name "" = nothing. */
struct present {
    char name[KD_PKI_NAME];
    kd_diag lost; /* what to say of it */
};

/* A login that can be used is not lost to one of another name, or to another coordinator, which its
 * CA tells: addresses change. */
static int look_at_place(const char *dir, const char *digest, const kd_login_wish *wish,
                         struct present *out, kd_diag *diag)
{
    kd_login l = {0};
    kd_diag why = {0};
    char there[KD_PKI_DIGEST] = "";
    int rc = wish->replace ? -KD_ENOENT : kd_login_load(dir, &l, &why);
    *out = (struct present){0};
    if (rc == -KD_ENOENT)
        return 0;
    if (rc != 0)
        return kd_fail(diag, -KD_EEXIST,
                       "the login that is there cannot be used (%s); --replace puts another in its "
                       "place",
                       why.msg);
    rc = kd_pki_digest(l.ca, there, diag);
    if (rc == 0 && !kd_login_is_over(&l)) {
        (void)kd_fail(
            &out->lost, -KD_EEXIST,
            "%.300s has the login of %s (%s) at %s, which would be lost; keep both %s, or "
            "give it up with --replace",
            dir, l.who.name, kd_role_name(l.who.role), l.server, wish->keep);
        memcpy(out->name, l.who.name, sizeof out->name);
        if (strcmp(there, digest) != 0 || (wish->name[0] && strcmp(wish->name, out->name) != 0))
            rc = kd_fail(diag, -KD_EEXIST, "%s", out->lost.msg);
    }
    kd_login_clear(&l);
    return rc;
}

/* The name is asked for, so that a token for another one is refused before it is used up. */
static int enroll_there(kd_rpc *rpc, const char *server, const char *ca, const char *secret,
                        const kd_login_wish *wish, const struct present *present,
                        char **out_identity, kd_diag *diag)
{
    kd_login_wish same = *wish;
    if (present->name[0])
        same.name = present->name;
    int rc = enroll(rpc, server, ca, secret, &same, out_identity, diag);
    if (present->name[0] && (rc == -KD_EPERM || rc == -KD_EEXIST))
        rc = kd_fail_at(diag, rc, "%s", present->lost.msg);
    return rc;
}

int kd_login_join(kd_rpc *rpc, const char *dir, const char *server, const char *token,
                  const kd_login_wish *wish, kd_login *out, kd_diag *diag)
{
    char digest[KD_PKI_DIGEST], host[256], port[8], *ca = NULL, *identity = NULL;
    const char *secret = NULL;
    struct present present;
    int rc = split_token(token, wish->holder, digest, &secret, diag);
    if (rc == 0)
        rc = split_server(server, host, port, diag);
    if (rc == 0)
        rc = try_folder(dir, diag);
    if (rc == 0)
        rc = look_at_place(dir, digest, wish, &present, diag);
    if (rc == 0)
        rc = kd_pki_fetch_ca(host, port, digest, CALL_MS, &ca, diag);
    if (rc == 0)
        rc = enroll_there(rpc, server, ca, secret, wish, &present, &identity, diag);
    if (rc == 0)
        rc = store(dir, ca, identity, server, diag);
    kd_pki_drop(ca);
    kd_pki_drop(identity);
    return rc == 0 ? kd_login_load(dir, out, diag) : rc;
}

/* ---- where it lies, and whether it is used */

void kd_login_folder(const char *flag, const char *env, const char *word, bool service,
                     char out[4096], bool *out_chosen)
{
    const char *named = flag ? flag : getenv(env);
    *out_chosen = named && *named;
    const char *state = service ? getenv("STATE_DIRECTORY") : NULL;
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    if (*out_chosen)
        snprintf(out, 4096, "%.3000s", named);
    else if (state && *state)
        snprintf(out, 4096, "%.*s/credentials", (int)KD_MIN(strcspn(state, ":"), (size_t)3000),
                 state);
    else if (service && geteuid() == 0)
        snprintf(out, 4096, "/var/lib/%s/credentials", word);
    else if (xdg && *xdg)
        snprintf(out, 4096, "%.3000s/%s", xdg, word);
    else
        snprintf(out, 4096, "%.3000s/.config/%s", home && *home ? home : ".", word);
}

bool kd_login_server(const char *dir, char out[KD_LOGIN_SERVER])
{
    return read_server(dir, out, NULL) == 0 && out[0];
}

int kd_login_choose(const char *dir, bool chosen, bool insecure, const char *server, kd_login *out,
                    kd_diag *diag)
{
    kd_diag why = {0};
    *out = (kd_login){0};
    int rc = insecure ? -KD_ENOENT : kd_login_load(dir, out, &why);
    if (rc != 0 && !insecure && (rc != -KD_ENOENT || chosen))
        return kd_fail(diag, rc, "%s", why.msg);
    bool ours = rc == 0 && (chosen || strcmp(server, out->server) == 0);
    if (ours && !kd_login_is_over(out))
        return 1;
    if (ours)
        rc = kd_fail(diag, -KD_EAUTH,
                     "the certificate of %s is over; join again with a new token for that name "
                     "(`distill token create --name %s`)%s",
                     out->who.name, out->who.name,
                     out->who.role == KD_ROLE_ADMIN
                         ? ". Where no admin is left, `distilld init` on the coordinator's host "
                           "renews STATE/tls/admin"
                         : "");
    else if (!insecure && !kd_address_is_loopback(server))
        rc = kd_fail(diag, -KD_EAUTH,
                     "there is no certificate for %s here: join with a token from its admin, or "
                     "allow plain text with --insecure",
                     server);
    else
        rc = 0;
    kd_login_clear(out);
    return rc;
}

/* Who is let in, and where HTTP listens. */
#include "http_internal.h"

#include "access.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool kd_http_is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
    return a->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

/* The host that the browser believes to speak to, without its port. Another name than loopback's
 * own is a foreign page that had its name resolved to this machine. */
static bool host_is_local(const char *host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    if (!host)
        return true; /* HTTP/1.0: no browser */
    for (size_t i = 0; i < KD_COUNT(names); i++) {
        size_t n = strlen(names[i]);
        if (strncasecmp(host, names[i], n) == 0 && (host[n] == '\0' || host[n] == ':'))
            return true;
    }
    return false;
}

/* ---- sessions, where callers have to show who they are */

/* The token of a program (RFC 6750, section 2.1) or of a browser that has logged in; "" = none. */
static void session_of(struct MHD_Connection *c, char out[KD_TOKEN_TEXT])
{
    static const char bearer[] = "Bearer ";
    const char *text =
        MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
    if (text && strncasecmp(text, bearer, sizeof bearer - 1) == 0)
        text += sizeof bearer - 1;
    else
        text = MHD_lookup_connection_value(c, MHD_COOKIE_KIND, KD_HTTP_COOKIE);
    snprintf(out, KD_TOKEN_TEXT, "%s", text && strlen(text) < KD_TOKEN_TEXT ? text : "");
}

/* Enters into the audit that a request was let in or refused. */
static void audit(const kd_http_request *r, const char *method, int code, const char *text)
{
    const union MHD_ConnectionInfo *peer =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    char host[INET6_ADDRSTRLEN] = "", address[64] = "";
    const struct sockaddr *a = peer ? peer->client_addr : NULL;
    if (a && a->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)a;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        snprintf(address, sizeof address, "ipv4:%s:%u", host, ntohs(in->sin_port));
    } else if (a && a->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)a;
        inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host);
        snprintf(address, sizeof address, "ipv6:[%s]:%u", host, ntohs(in->sin6_port));
    }
    kd_access_audit_http(r->http->daemon->access,
                         &(kd_http_act){&r->who, address, method, r->path, text, code});
}

void kd_http_forbid(kd_http_request *r, const char *why)
{
    audit(r, "Get", -KD_EPERM, why);
    kd_http_refuse(r, MHD_HTTP_FORBIDDEN, why);
}

/* Takes the token for the request's session: whether it is one that may read. */
static bool take_session(kd_http_request *r, const char *token)
{
    r->who = (kd_pki_identity){0};
    if (token[0])
        r->who.role = kd_access_session(r->http->daemon->access, token, r->who.name);
    return r->who.role != KD_ROLE_NONE;
}

bool kd_http_session_ok(kd_http *h, const char *token)
{
    char name[KD_PKI_NAME];
    return token[0] && kd_access_session(h->daemon->access, token, name) != KD_ROLE_NONE;
}

bool kd_http_sees_all(const kd_http *h, const kd_pki_identity *who)
{
    return !kd_access_required(h->daemon->access) || kd_access_may_read_all(who->role);
}

/* A secret of 192 random bits is not guessed; who tries shall not keep the processor busy either.
 */
static bool guesses_too_much(kd_http *h)
{
    kd_time_ms second = kd_clock_ms() / 1000;
    if (atomic_exchange(&h->guess_second, second) != second)
        atomic_store(&h->guesses, 0);
    return atomic_fetch_add(&h->guesses, 1) >= KD_HTTP_GUESSES;
}

static int refuse_session(kd_http_request *r, int status, int code, const char *why,
                          const char **out_why)
{
    audit(r, "Get", code, why);
    *out_why = why;
    return status;
}

static int check_session(kd_http_request *r, enum kd_http_role role, const char **out_why)
{
    session_of(r->connection, r->token);
    if (take_session(r, r->token)) {
        if (role != KD_HTTP_ALL || kd_http_sees_all(r->http, &r->who))
            return 0;
        return refuse_session(r, MHD_HTTP_FORBIDDEN, -KD_EPERM,
                              "this is of everybody's jobs: it takes the session of a viewer, "
                              "operator or admin",
                              out_why);
    }
    if (r->token[0] && guesses_too_much(r->http))
        return refuse_session(r, MHD_HTTP_TOO_MANY_REQUESTS, -KD_ELIMIT,
                              "too many wrong tokens; try again in a second", out_why);
    return refuse_session(
        r, MHD_HTTP_UNAUTHORIZED, -KD_EAUTH,
        "show a session: `distill token create --session --role viewer` makes one; a browser opens "
        "/login?token=TOKEN, a program sends `Authorization: Bearer TOKEN`",
        out_why);
}

void kd_http_login(kd_http_request *r)
{
    const char *token = MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, "token");
    if (!kd_access_required(r->http->daemon->access)) {
        kd_http_say(r, MHD_HTTP_SEE_OTHER, "text/plain", "nobody has to log in here\n");
        r->location = "/";
    } else if (token && strlen(token) < KD_TOKEN_TEXT && take_session(r, token)) {
        audit(r, "Login", 0, "");
        kd_http_say(r, MHD_HTTP_SEE_OTHER, "text/plain", "logged in\n");
        r->location = "/";
        snprintf(r->cookie, sizeof r->cookie, "%s=%s; Path=/; HttpOnly; SameSite=Strict%s",
                 KD_HTTP_COOKIE, token, r->http->tls ? "; Secure" : "");
    } else if (token && guesses_too_much(r->http)) {
        audit(r, "Login", -KD_ELIMIT, "too many wrong tokens");
        kd_http_refuse(r, MHD_HTTP_TOO_MANY_REQUESTS, "too many wrong tokens");
    } else {
        audit(r, "Login", -KD_EAUTH, token ? "no such session, or it is over" : "no token");
        kd_http_refuse(r, MHD_HTTP_UNAUTHORIZED,
                       "no such session, or it is over: `distill token create --session --role "
                       "viewer` makes one; open /login?token=TOKEN");
    }
}

int kd_http_authorise(kd_http_request *r, enum kd_http_role role, const char **out_why)
{
    if (role == KD_HTTP_PROBE)
        return 0;
    if (kd_access_required(r->http->daemon->access))
        return check_session(r, role, out_why);
    if (r->http->open)
        return 0;
    const union MHD_ConnectionInfo *peer =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    *out_why = "only programs on the coordinator's own machine may ask; see --http";
    if (!peer || !kd_http_is_loopback(peer->client_addr))
        return MHD_HTTP_FORBIDDEN;
    *out_why =
        "ask for localhost, 127.0.0.1 or [::1]: another Host is refused, since a foreign page "
        "could hide behind it";
    if (!host_is_local(
            MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST)))
        return MHD_HTTP_FORBIDDEN;
    return 0;
}

int kd_http_resolve(const char *listen, struct sockaddr_storage *out, kd_diag *diag)
{
    char host[256];
    const char *colon = strrchr(listen, ':');
    size_t n = colon ? (size_t)(colon - listen) : 0;
    char *end = NULL;
    /* getaddrinfo takes a port modulo 65536. */
    if (!colon || n == 0 || n >= sizeof host || strtoul(colon + 1, &end, 10) > UINT16_MAX ||
        end == colon + 1 || *end)
        return kd_fail(diag, -KD_EINVAL, "--http wants ADDRESS:PORT, not \"%.200s\"", listen);
    bool six = listen[0] == '[' && listen[n - 1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(six ? n - 2 : n), listen + six);
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(host, colon + 1, &hints, &found);
    if (rc != 0)
        return kd_fail(diag, -KD_EINVAL, "--http %.200s: %s", listen, gai_strerror(rc));
    memcpy(out, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return 0;
}

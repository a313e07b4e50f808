/* Who is let in, and where HTTP listens. */
#include "http_internal.h"

#include "access.h"
#include "kd/peer.h"

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

/* Enters into the audit that a request was let in, code 0, or refused. */
static void audit(const kd_http_request *r, int code, const char *text)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const bool login = r->route && r->route->here == kd_http_login;
    const char *method = login ? "Login" : r->head ? "Head" : "Get";
    char address[KD_PEER_TEXT] = "";
    kd_peer from;
    if (info && kd_peer_of(info->client_addr, &from))
        kd_peer_text(&from, address);
    kd_access_audit_http(r->http->daemon->access,
                         &(kd_http_act){&r->who, address, method, r->path, text, code});
}

static void turn_away(kd_http_request *r, int status, int code, const char *why)
{
    audit(r, code, why);
    kd_http_refuse(r, status, why);
}

void kd_http_forbid(kd_http_request *r, const char *why)
{
    turn_away(r, MHD_HTTP_FORBIDDEN, -KD_EPERM, why);
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
    return kd_access_may_read_all(h->daemon->access, who);
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

static bool check_session(kd_http_request *r, enum kd_http_role role)
{
    session_of(r->connection, r->token);
    if (take_session(r, r->token)) {
        if (role != KD_HTTP_ALL || kd_http_sees_all(r->http, &r->who))
            return true;
        kd_http_forbid(r, "this is of everybody's jobs: it takes the session of a viewer, operator "
                          "or admin");
    } else if (r->token[0] && guesses_too_much(r->http)) {
        turn_away(r, MHD_HTTP_TOO_MANY_REQUESTS, -KD_ELIMIT,
                  "too many wrong tokens; try again in a second");
    } else {
        turn_away(
            r, MHD_HTTP_UNAUTHORIZED, -KD_EAUTH,
            "show a session: `distill token create --session --role viewer` makes one; a "
            "browser opens /login?token=TOKEN, a program sends `Authorization: Bearer TOKEN`");
    }
    return false;
}

void kd_http_login(kd_http_request *r)
{
    const char *token = MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, "token");
    if (!kd_access_required(r->http->daemon->access)) {
        kd_http_say(r, MHD_HTTP_SEE_OTHER, "text/plain", "nobody has to log in here\n");
        r->location = "/";
    } else if (token && strlen(token) < KD_TOKEN_TEXT && take_session(r, token)) {
        audit(r, 0, "");
        kd_http_say(r, MHD_HTTP_SEE_OTHER, "text/plain", "logged in\n");
        r->location = "/";
        snprintf(r->cookie, sizeof r->cookie, "%s=%s; Path=/; HttpOnly; SameSite=Strict%s",
                 KD_HTTP_COOKIE, token, r->http->tls ? "; Secure" : "");
    } else if (token && guesses_too_much(r->http)) {
        turn_away(r, MHD_HTTP_TOO_MANY_REQUESTS, -KD_ELIMIT, "too many wrong tokens");
    } else {
        turn_away(r, MHD_HTTP_UNAUTHORIZED, -KD_EAUTH,
                  "no such session, or it is over: `distill token create --session --role viewer` "
                  "makes one; open /login?token=TOKEN");
    }
}

/* Where nobody has to show who he is: from this machine, unless everybody may. */
static bool check_place(kd_http_request *r)
{
    if (r->http->open)
        return true;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const char *host =
        MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST);
    if (!info || !kd_http_is_loopback(info->client_addr))
        kd_http_refuse(r, MHD_HTTP_FORBIDDEN,
                       "only programs on the coordinator's own machine may ask; see --http");
    else if (!host_is_local(host))
        kd_http_refuse(r, MHD_HTTP_FORBIDDEN,
                       "ask for localhost, 127.0.0.1 or [::1]: another Host is refused, since a "
                       "foreign page could hide behind it");
    else
        return true;
    return false;
}

bool kd_http_authorise(kd_http_request *r, enum kd_http_role role)
{
    return role == KD_HTTP_PROBE ||
           (kd_access_required(r->http->daemon->access) ? check_session(r, role) : check_place(r));
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

/* Who is let in, and where HTTP listens. */
#include "http_internal.h"

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

int kd_http_authorise(const kd_http_request *r, enum kd_http_role role, const char **out_why)
{
    if (role == KD_HTTP_PROBE || r->http->insecure)
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

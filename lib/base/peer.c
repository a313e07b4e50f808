#include "kd/peer.h"

#include "kd/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t g_mapped[12] = {[10] = 0xff, [11] = 0xff}; /* what IPv4 begins with there */

static void map_v4(const void *v4, uint8_t ip[16])
{
    memcpy(ip, g_mapped, sizeof g_mapped);
    memcpy(ip + sizeof g_mapped, v4, 4);
}

static bool is_v4(const kd_peer *p)
{
    return memcmp(p->ip, g_mapped, sizeof g_mapped) == 0;
}

bool kd_peer_of(const struct sockaddr *a, kd_peer *out)
{
    if (a->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
        map_v4(&v4->sin_addr, out->ip);
        out->port = ntohs(v4->sin_port);
        return true;
    }
    if (a->sa_family != AF_INET6)
        return false;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
    memcpy(out->ip, &v6->sin6_addr, sizeof out->ip);
    out->port = ntohs(v6->sin6_port);
    return true;
}

/* Undoes the three escapes that gRPC puts into an address (RFC 3986): of brackets, and of what
 * stands before a zone. false when it does not fit. */
static bool unescape(const char *text, char *out, size_t size)
{
    static const char *const escapes[] = {"%5B", "%5D", "%25"};
    size_t n = 0;
    while (*text && n + 1 < size) {
        size_t k = 0;
        while (k < 3 && strncmp(text, escapes[k], 3) != 0)
            k++;
        out[n++] = k < 3 ? "[]%"[k] : *text;
        text += k < 3 ? 3 : 1;
    }
    out[n] = '\0';
    return !*text;
}

bool kd_peer_parse(const char *text, kd_peer *out)
{
    char plain[96], host[64], port[6];
    const char *colon = strchr(text, ':');
    if (!colon || !unescape(colon + 1, plain, sizeof plain) ||
        !kd_address_split(plain, host, sizeof host, port))
        return false;
    host[strcspn(host, "%")] = '\0';
    uint8_t v4[4], v6[16];
    if (inet_pton(AF_INET, host, v4) == 1)
        map_v4(v4, out->ip);
    else if (inet_pton(AF_INET6, host, v6) == 1)
        memcpy(out->ip, v6, sizeof v6);
    else
        return false;
    out->port = (uint16_t)strtoul(port, NULL, 10);
    return true;
}

void kd_peer_text(const kd_peer *p, char out[KD_PEER_TEXT])
{
    char host[INET6_ADDRSTRLEN];
    const bool v4 = is_v4(p);
    inet_ntop(v4 ? AF_INET : AF_INET6, p->ip + (v4 ? sizeof g_mapped : 0), host, sizeof host);
    snprintf(out, KD_PEER_TEXT, v4 ? "ipv4:%s:%u" : "ipv6:[%s]:%u", host, p->port);
}

uint64_t kd_peer_network(const kd_peer *p)
{
    uint64_t network = 0;
    if (is_v4(p))
        memcpy(&network, p->ip + sizeof g_mapped, 4);
    else
        memcpy(&network, p->ip, sizeof network);
    return network;
}

void kd_peer_network_text(const kd_peer *p, char out[KD_PEER_NETWORK])
{
    uint8_t v6[16] = {0};
    if (is_v4(p)) {
        inet_ntop(AF_INET, p->ip + sizeof g_mapped, out, KD_PEER_NETWORK);
        return;
    }
    memcpy(v6, p->ip, 8);
    inet_ntop(AF_INET6, v6, out, KD_PEER_NETWORK - 4);
    strcat(out, "/64");
}

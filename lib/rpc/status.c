#include "internal.h"

#include <stdio.h>
#include <string.h>

/* Length of the printable character at p, 0 if it is none (https://www.unicode.org/versions/latest,
 * table 3-7). C1 controls (U+0080..U+009F) move terminals about and are left out. */
static size_t printable(const unsigned char *p)
{
    if (p[0] < 0x80)
        return p[0] == '\n' || (p[0] >= 0x20 && p[0] != 0x7f) ? 1 : 0;
    size_t n = p[0] >= 0xc2 && p[0] < 0xe0   ? 2
               : p[0] >= 0xe0 && p[0] < 0xf0 ? 3
               : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
                                             : 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xc2 && p[1] < 0xa0) || (p[0] == 0xe0 && p[1] < 0xa0) ||
        (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

void kd_rpc_safe_text(const char *text, char *out, size_t size)
{
    size_t used = 0;
    for (const unsigned char *p = (const unsigned char *)(text ? text : ""); *p;) {
        size_t n = printable(p);
        if (used + KD_MAX(n, (size_t)1) >= size)
            break;
        if (n)
            memcpy(out + used, p, n);
        else
            out[used] = '?';
        n = KD_MAX(n, (size_t)1);
        used += n;
        p += n;
    }
    out[used] = '\0';
}

/* What the words of OpenSSL and gRPC mean for who tries to connect over TLS, or should. */
static const struct tls_reason {
    const char *words, *meaning;
    const char *hint; /* where it is a coordinator */
    bool untrusted;   /* by us: trying again does not help */
} g_tls_reasons[] = {
    {"certificate verify failed",
     "its certificate is of another CA than the one that is trusted here, or over", "", true},
    {"not in peer certificate", "its certificate does not name this host",
     " (`distilld init --host` adds names to it)", true},
    {"wrong version number", "it does not speak TLS", "", true},
    {"Socket closed", "it closed the connection; it may want a certificate, or not know ours", "",
     false},
};

static const struct tls_reason *tls_reason(const char *details)
{
    for (size_t i = 0; i < KD_COUNT(g_tls_reasons); i++)
        if (strstr(details, g_tls_reasons[i].words))
            return &g_tls_reasons[i];
    return NULL;
}

/* gRPC's own texts nest: "failed to connect to all addresses; last error: UNKNOWN:
 * ipv4:127.0.0.1:1: Failed to connect to remote host: Connection refused". The end is what helps.
 */
static const char *reason_of(const char *details)
{
    static const char *const before[] = {"remote host: ", "last error: "};
    for (size_t i = 0; i < KD_COUNT(before); i++) {
        const char *at = strstr(details, before[i]);
        if (at)
            return at + strlen(before[i]);
    }
    return details[0] ? details : "no connection";
}

bool kd_rpc_explain(const char *what, const char *target, int grpc_status, const char *details,
                    bool from_peer, bool connected, char *out, size_t size)
{
    const bool ours = strcmp(what, KD_RPC_COORDINATOR) == 0;
    const char *ask = ours ? ", is distilld running there?" : "";
    char text[KD_MAX_STATUS_TEXT + 1];
    const bool refused = grpc_status == GRPC_STATUS_UNAVAILABLE && !from_peer && !connected;
    const struct tls_reason *tls = refused ? tls_reason(details) : NULL;
    kd_rpc_safe_text(from_peer ? details : reason_of(details), text, sizeof text);
    if (grpc_status == GRPC_STATUS_OK)
        out[0] = '\0';
    else if (from_peer && text[0])
        snprintf(out, size, "%s", text);
    else if (tls)
        snprintf(out, size, "cannot reach %s %.250s: %s%s", what, target, tls->meaning,
                 ours ? tls->hint : "");
    else if (grpc_status == GRPC_STATUS_UNAVAILABLE)
        snprintf(out, size, "cannot reach %s %.250s: %.300s%s", what, target, text, ask);
    else if (grpc_status == GRPC_STATUS_DEADLINE_EXCEEDED && !connected)
        snprintf(out, size, "cannot reach %s %.250s: no connection in time%s", what, target, ask);
    else if (grpc_status == GRPC_STATUS_DEADLINE_EXCEEDED)
        snprintf(out, size, "no answer from %s %.250s in time", what, target);
    else
        snprintf(out, size, "%s", text);
    return tls && tls->untrusted;
}

kd_rpc_oversize kd_rpc_too_large(int grpc_status, const char *details, size_t max_message)
{
    /* Of gRPC's C core, Go, Java and our own server (call.c): no status tells it from a server that
     * is full. */
    static const char *const words[] = {"larger than max", "exceeds maximum size",
                                        "bytes, at most"};
    char ours[48];
    bool found = false;
    for (size_t i = 0; i < KD_COUNT(words) && grpc_status == GRPC_STATUS_RESOURCE_EXHAUSTED; i++)
        found = found || strstr(details, words[i]);
    if (!found)
        return KD_RPC_FITS;
    /* The same words come from both ends, but none that has this limit gets more from us. */
    snprintf(ours, sizeof ours, " vs. %zu)", max_message);
    return strncmp(details, "Received", 8) == 0 && strstr(details, ours) ? KD_RPC_REPLY_TOO_LARGE
                                                                         : KD_RPC_REQUEST_TOO_LARGE;
}

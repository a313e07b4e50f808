/* Connections that have not shown yet who they are.
 *
 * Whoever reaches the port can open connections and leave them half open: no TLS, no HTTP/2, no
 * call. gRPC gives each its time (HANDSHAKE_MS in server.c), and in that time they could take all
 * descriptors. So only so many may be unproven at once; one more, and the oldest of the address
 * that has the most is cut. A connection is proven by a call with a verified certificate, or by any
 * call where the server asks for none. Honest ones are proven milliseconds after they were
 * accepted, so that from another address than the attacker's they are never cut, and from the same
 * one only if it opens hundreds in these milliseconds.
 *
 * A descriptor is gRPC's to close, and its number may be another file by now: it is cut by
 * shutdown on a duplicate that is still the socket which was accepted. */
#include "internal.h"

#include "kd/peer.h"

#include <netinet/in.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_YOUNG 2048
#define BUCKETS 256

struct young {
    int fd;
    ino_t socket;
    kd_peer from;
};

static pthread_mutex_t g_mu = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static struct young g_young[MOST_YOUNG];                 /* oldest first */
static size_t g_n;
static atomic_bool g_any; /* whether g_n > 0: most calls come over proven connections */
static int g_ports[8];    /* of our listeners, 0 = none; under the lock too */
static atomic_ullong g_cut;

uint64_t kd_rpc_cut_connections(void)
{
    return atomic_load(&g_cut);
}

static bool peer_of(int fd, kd_peer *out)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    return getpeername(fd, (struct sockaddr *)&a, &n) == 0 &&
           kd_peer_of((struct sockaddr *)&a, out);
}

static unsigned bucket_of(const kd_peer *p)
{
    return (unsigned)(kd_peer_network(p) * 0x9e3779b97f4a7c15u >> 32) % BUCKETS;
}

/* ---- under the lock */

static void take_out(size_t i)
{
    memmove(g_young + i, g_young + i + 1, (--g_n - i) * sizeof *g_young);
    atomic_store(&g_any, g_n > 0);
}

static void cut(const struct young *y)
{
    struct stat st;
    int fd = dup(y->fd);
    if (fd < 0)
        return;
    if (fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_ino == y->socket &&
        shutdown(fd, SHUT_RDWR) == 0)
        atomic_fetch_add(&g_cut, 1);
    close(fd);
}

static void cut_one(void)
{
    unsigned count[BUCKETS] = {0}, most = 0;
    for (size_t i = 0; i < g_n; i++)
        most = KD_MAX(most, ++count[bucket_of(&g_young[i].from)]);
    size_t i = 0;
    while (count[bucket_of(&g_young[i].from)] != most)
        i++;
    cut(&g_young[i]);
    take_out(i);
}

/* ---- */

static void set_port(int from, int to)
{
    pthread_mutex_lock(&g_mu);
    size_t i = 0;
    while (i < KD_COUNT(g_ports) && g_ports[i] != from)
        i++;
    if (i < KD_COUNT(g_ports))
        g_ports[i] = to;
    pthread_mutex_unlock(&g_mu);
}

void kd_rpc_connection_listen(int port, bool on)
{
    set_port(on ? 0 : port, on ? port : 0);
}

static int local_port(int fd)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &n) != 0)
        return -1;
    return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port
                                         : ((struct sockaddr_in *)&a)->sin_port);
}

/* Under the lock. */
static bool is_ours(int port)
{
    for (size_t i = 0; i < KD_COUNT(g_ports); i++)
        if (g_ports[i] == port)
            return true;
    return false;
}

void kd_rpc_connection_add(int fd, int limit)
{
    struct stat st;
    struct young y = {.fd = fd};
    if (fstat(fd, &st) != 0 || !peer_of(fd, &y.from))
        return;
    y.socket = st.st_ino;
    size_t room = KD_MIN((size_t)MOST_YOUNG, (size_t)KD_MAX(limit / 2, 1));
    int port = local_port(fd);
    pthread_mutex_lock(&g_mu);
    if (port > 0 && is_ours(port)) {
        while (g_n >= room)
            cut_one();
        g_young[g_n++] = y;
        atomic_store(&g_any, true);
    }
    pthread_mutex_unlock(&g_mu);
}

void kd_rpc_connection_prove(const char *peer)
{
    kd_peer from;
    if (!atomic_load(&g_any) || !kd_peer_parse(peer, &from))
        return;
    pthread_mutex_lock(&g_mu);
    for (size_t i = g_n; i-- > 0;)
        if (g_young[i].from.port == from.port && memcmp(g_young[i].from.ip, from.ip, 16) == 0) {
            take_out(i);
            break;
        }
    pthread_mutex_unlock(&g_mu);
}

/* The connections of the HTTP port: which one is cut when there are too many, or when its request
 * does not come.
 *
 * Whoever reaches the port can open connections and leave them without a request. So those that
 * were not let in (yet) are counted apart: one more than KD_HTTP_STRANGERS, and the oldest of the
 * network that has the most is cut, as on the gRPC port (lib/rpc/young.c). Each connection carries
 * one request, and a probe is answered milliseconds after it was accepted, so that it finds room
 * however many others wait; those that were let in have room of their own and are left in peace.
 *
 * A descriptor is libmicrohttpd's to close. It is cut by shutdown, under the lock: the call that
 * takes it out of the table comes before it is closed. */
#include "http_internal.h"

#include "kd/peer.h"

#include <sys/socket.h>

/* Of one that is neither IPv4 nor IPv6: 0. */
static uint64_t network_of(struct MHD_Connection *c)
{
    kd_peer from;
    const struct sockaddr *a =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr;
    return kd_peer_of(a, &from) ? kd_peer_network(&from) : 0;
}

static kd_http_link *link_of(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* ---- under the lock */

static void cut(kd_http_link *k)
{
    (void)shutdown(k->fd, SHUT_RDWR);
    k->cut = true;
}

static bool is_stranger(const kd_http_link *k)
{
    return k->used && !k->cut && !k->known;
}

static size_t count_strangers(const kd_http_links *l)
{
    size_t n = 0;
    for (size_t i = 0; i < KD_HTTP_LINKS; i++)
        n += is_stranger(&l->all[i]);
    return n;
}

static size_t count_network(const kd_http_links *l, uint64_t network)
{
    size_t n = 0;
    for (size_t i = 0; i < KD_HTTP_LINKS; i++)
        n += is_stranger(&l->all[i]) && l->all[i].network == network;
    return n;
}

/* There is one. */
static void cut_stranger(kd_http_links *l)
{
    kd_http_link *found = NULL;
    size_t most = 0;
    for (size_t i = 0; i < KD_HTTP_LINKS; i++) {
        kd_http_link *k = &l->all[i];
        size_t n = is_stranger(k) ? count_network(l, k->network) : 0;
        if (n == 0 || n < most || (n == most && found->turn < k->turn))
            continue;
        found = k;
        most = n;
    }
    cut(found);
    l->n_cut++;
}

static kd_http_link *add(kd_http_links *l, struct MHD_Connection *c)
{
    kd_http_link *k = l->all;
    while (k < l->all + KD_HTTP_LINKS && k->used)
        k++;
    if (k == l->all + KD_HTTP_LINKS)
        return NULL; /* libmicrohttpd takes no more than that */
    *k = (kd_http_link){
        .used = true,
        .fd = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd,
        .network = network_of(c),
        .since = kd_clock_ms(),
        .turn = l->turns++};
    if (count_strangers(l) > KD_HTTP_STRANGERS)
        cut_stranger(l);
    return k;
}

/* ---- */

void kd_http_link_notify(void *arg, struct MHD_Connection *connection, void **context,
                         enum MHD_ConnectionNotificationCode code)
{
    kd_http_links *l = &((kd_http *)arg)->links;
    pthread_mutex_lock(&l->mu);
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        *context = add(l, connection);
    } else if (*context) {
        kd_http_link *k = *context;
        l->n_known -= k->known;
        *k = (kd_http_link){0};
    }
    pthread_mutex_unlock(&l->mu);
}

bool kd_http_link_let_in(kd_http *h, struct MHD_Connection *connection)
{
    kd_http_links *l = &h->links;
    kd_http_link *k = link_of(connection);
    if (!k)
        return false;
    pthread_mutex_lock(&l->mu);
    bool room = k->known || l->n_known < KD_HTTP_CONNECTIONS;
    l->n_known += room && !k->known;
    k->known = room;
    pthread_mutex_unlock(&l->mu);
    return room;
}

void kd_http_link_tick(kd_http *h, kd_time_ms now)
{
    kd_http_links *l = &h->links;
    pthread_mutex_lock(&l->mu);
    for (size_t i = 0; i < KD_HTTP_LINKS; i++)
        if (is_stranger(&l->all[i]) && now - l->all[i].since > KD_HTTP_STRANGER_MS)
            cut(&l->all[i]);
    pthread_mutex_unlock(&l->mu);
}

uint64_t kd_http_cut_connections(kd_http *h)
{
    if (!h)
        return 0;
    pthread_mutex_lock(&h->links.mu);
    uint64_t n = h->links.n_cut;
    pthread_mutex_unlock(&h->links.mu);
    return n;
}

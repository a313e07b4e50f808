/* grpc.health.v1.Health: Check and Watch over a small table of services. */
#include "internal.h"

#include "wire/wire.h"

#include "health.pb-c.h"

#include <stdlib.h>
#include <string.h>

#define MAX_SERVICES 32
#define MAX_WATCHERS 256

struct watcher {
    struct watcher *next;
    kd_rpc_call *call;
    char service[128];
};

struct kd_rpc_health {
    pthread_mutex_t mu; /* guards all below */
    struct {
        char name[128];
        bool serving;
    } services[MAX_SERVICES];
    int n_services, n_watchers;
    struct watcher *watchers;
    bool stopped; /* nothing serves any more */
};

kd_rpc_health *kd_rpc_health_new(const kd_rpc_method *methods, size_t n)
{
    kd_rpc_health *h = kd_xalloc(sizeof *h);
    pthread_mutex_init(&h->mu, NULL);
    kd_rpc_health_set(h, "", true);
    for (size_t i = 0; i < n; i++) {
        char name[128];
        kd_rpc_service_of(methods[i].path, name, sizeof name);
        kd_rpc_health_set(h, name, true);
    }
    kd_rpc_health_set(h, "grpc.health.v1.Health", true);
    return h;
}

void kd_rpc_health_free(kd_rpc_health *h)
{
    if (!h)
        return;
    KD_BUG_ON(h->watchers);
    pthread_mutex_destroy(&h->mu);
    free(h);
}

/* "a.B" of "/a.B/Method". */
void kd_rpc_service_of(const char *path, char *out, size_t size)
{
    const char *start = path[0] == '/' ? path + 1 : path;
    const char *end = strchr(start, '/');
    size_t n = end ? (size_t)(end - start) : strlen(start);
    KD_BUG_ON(n >= size); /* our own method table */
    memcpy(out, start, n);
    out[n] = '\0';
}

/* 1 serving, 0 not, -1 unknown service. Under the lock. */
static int lookup(const kd_rpc_health *h, const char *service)
{
    for (int i = 0; i < h->n_services; i++)
        if (strcmp(h->services[i].name, service) == 0)
            return h->services[i].serving;
    return -1;
}

static void pack_status(int status, kd_buf *buf)
{
    Grpc__Health__V1__HealthCheckResponse m = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    m.status = status < 0 ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN
               : status   ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
                          : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
    kd_buf_init(buf, 64);
    KD_BUG_ON(kd_wire_pack(&m, buf) != 0);
}

static void send_status(kd_rpc_call *call, int status)
{
    kd_buf buf;
    pack_status(status, &buf);
    (void)kd_rpc_send(call, &(struct iovec){buf.data, buf.len}, 1);
    kd_buf_clear(&buf);
}

void kd_rpc_health_set(kd_rpc_health *h, const char *service, bool serving)
{
    pthread_mutex_lock(&h->mu);
    serving = serving && !h->stopped;
    int old = lookup(h, service);
    if (old < 0) {
        KD_BUG_ON(h->n_services == MAX_SERVICES || strlen(service) >= sizeof h->services[0].name);
        strcpy(h->services[h->n_services++].name, service);
    }
    for (int i = 0; i < h->n_services; i++)
        if (strcmp(h->services[i].name, service) == 0)
            h->services[i].serving = serving;
    for (struct watcher *w = h->watchers; w && old != (int)serving; w = w->next)
        if (strcmp(w->service, service) == 0)
            send_status(w->call, serving);
    pthread_mutex_unlock(&h->mu);
}

void kd_rpc_health_stop(kd_rpc_health *h)
{
    pthread_mutex_lock(&h->mu);
    h->stopped = true;
    for (int i = 0; i < h->n_services; i++)
        h->services[i].serving = false;
    for (struct watcher *w = h->watchers; w; w = w->next) {
        send_status(w->call, 0);
        kd_rpc_finish(w->call, -KD_EUNAVAIL, "the server is stopping");
    }
    pthread_mutex_unlock(&h->mu);
}

/* The service asked for, or NULL and the call answered. */
static Grpc__Health__V1__HealthCheckRequest *request(kd_rpc_call *call, const uint8_t *bytes,
                                                     size_t len)
{
    kd_diag diag = {0};
    ProtobufCMessage *m = NULL;
    if (kd_wire_unpack(&grpc__health__v1__health_check_request__descriptor, bytes, len, &m,
                       &diag) != 0)
        kd_rpc_finish_diag(call, &diag);
    return (Grpc__Health__V1__HealthCheckRequest *)m;
}

static void on_check(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    kd_rpc_health *h = arg;
    Grpc__Health__V1__HealthCheckRequest *m = request(call, bytes, len);
    if (!m)
        return;
    pthread_mutex_lock(&h->mu);
    int status = lookup(h, m->service);
    pthread_mutex_unlock(&h->mu);
    if (status < 0) {
        kd_rpc_finish(call, -KD_ENOENT, "unknown service");
    } else {
        kd_buf buf;
        pack_status(status, &buf);
        kd_rpc_reply(call, &(struct iovec){buf.data, buf.len}, 1);
        kd_buf_clear(&buf);
    }
    kd_wire_free((ProtobufCMessage *)m);
}

static void on_watch(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    kd_rpc_health *h = arg;
    Grpc__Health__V1__HealthCheckRequest *m = request(call, bytes, len);
    if (!m)
        return;
    pthread_mutex_lock(&h->mu);
    struct watcher *w = NULL;
    if (h->stopped)
        kd_rpc_finish(call, -KD_EUNAVAIL, "the server is stopping");
    else if (strlen(m->service) >= sizeof w->service)
        kd_rpc_finish(call, -KD_EINVAL, "no service has so long a name");
    else if (h->n_watchers >= MAX_WATCHERS || !(w = calloc(1, sizeof *w)))
        kd_rpc_finish(call, -KD_ELIMIT, "no more watchers are taken");
    if (w) {
        w->call = kd_rpc_call_ref(call);
        strcpy(w->service, m->service);
        w->next = h->watchers;
        h->watchers = w;
        h->n_watchers++;
        send_status(call, lookup(h, w->service));
    }
    pthread_mutex_unlock(&h->mu);
    kd_wire_free((ProtobufCMessage *)m);
}

static void on_watch_closed(kd_rpc_call *call, bool cancelled, void *arg)
{
    kd_rpc_health *h = arg;
    (void)cancelled;
    pthread_mutex_lock(&h->mu);
    for (struct watcher **at = &h->watchers; *at; at = &(*at)->next)
        if ((*at)->call == call) {
            struct watcher *w = *at;
            *at = w->next;
            h->n_watchers--;
            kd_rpc_call_unref(w->call);
            free(w);
            break;
        }
    pthread_mutex_unlock(&h->mu);
}

void kd_rpc_health_methods(kd_rpc_health *h, kd_rpc_method rows[KD_HEALTH_METHODS])
{
    rows[0] = (kd_rpc_method){.path = "/grpc.health.v1.Health/Check",
                              .kind = KD_RPC_UNARY,
                              .max_request = 4096,
                              .on_message = on_check,
                              .arg = h};
    rows[1] = (kd_rpc_method){.path = "/grpc.health.v1.Health/Watch",
                              .kind = KD_RPC_SERVER_STREAM,
                              .max_request = 4096,
                              .on_message = on_watch,
                              .on_close = on_watch_closed,
                              .arg = h};
}

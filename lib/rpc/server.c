/* Listening, accepting and stopping. What happens on a call is in call.c. */
#include "internal.h"

#include "kd/address.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPTS 32       /* calls that may arrive before one is re-posted */
#define MAX_CALLS 16384  /* running at once; further ones are refused */
#define MAX_STREAMS 4096 /* of one connection; further ones wait at their client */
#define HANDSHAKE_MS 10000
#define IDLE_MS 900000
#define INTERNAL_METHODS (KD_HEALTH_METHODS + KD_REFLECTION_METHODS)

struct accept {
    struct kd_op op;
    kd_rpc_server *server;
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
};

struct kd_rpc_server {
    kd_rpc *rpc;
    grpc_server *grpc;
    const kd_rpc_method *methods;
    size_t n_methods, max_message;
    int max_calls;
    kd_rpc_method internal[INTERNAL_METHODS];
    size_t n_internal;
    int port;
    kd_rpc_certs *certs;       /* NULL = plain text */
    bool by_role;              /* a connection without one of our certificates proves nothing */
    const kd_rpc_guard *guard; /* may be NULL */
    kd_rpc_health *health;
    kd_rpc_reflection *reflection;
    struct accept accept[ACCEPTS]; /* each belongs to its tag */

    pthread_mutex_t mu; /* guards all below */
    pthread_cond_t changed;
    bool stopping, shut_down;
    int accepts, calls;      /* outstanding */
    struct kd_rpc_live live; /* head of the ring of admitted calls */
    struct kd_op shutdown_op;
};

/* ---- accepting */

static const kd_rpc_method *find_method(const kd_rpc_server *s, grpc_slice path)
{
    for (size_t i = 0; i < s->n_methods; i++)
        if (grpc_slice_str_cmp(path, s->methods[i].path) == 0)
            return &s->methods[i];
    for (size_t i = 0; i < s->n_internal; i++)
        if (grpc_slice_str_cmp(path, s->internal[i].path) == 0)
            return &s->internal[i];
    return NULL;
}

static void post_accept(struct accept *a)
{
    kd_rpc_server *s = a->server;
    a->call = NULL;
    grpc_call_details_init(&a->details);
    grpc_metadata_array_init(&a->metadata);
    pthread_mutex_lock(&s->mu);
    bool go = !s->stopping;
    if (go) {
        s->accepts++;
        kd_rpc_hand_over(&a->op);
        KD_BUG_ON(grpc_server_request_call(s->grpc, &a->call, &a->details, &a->metadata, s->rpc->cq,
                                           s->rpc->cq, &a->op) != GRPC_CALL_OK);
    }
    pthread_mutex_unlock(&s->mu);
    if (!go) {
        grpc_call_details_destroy(&a->details);
        grpc_metadata_array_destroy(&a->metadata);
    }
}

static void on_accept(struct kd_op *op, bool ok)
{
    struct accept *a = KD_RPC_OWNER(op, struct accept, op);
    kd_rpc_server *s = a->server;
    grpc_call *call = a->call;
    grpc_call_details details = a->details;
    grpc_metadata_array metadata = a->metadata;
    if (ok) {
        pthread_mutex_lock(&s->mu);
        bool full = ++s->calls > s->max_calls;
        pthread_mutex_unlock(&s->mu);
        post_accept(a); /* the next one waits for nothing that a handler does */
        const kd_rpc_method *method = find_method(s, details.method);
        char text[256] = "the server runs as many calls as it takes; try again later";
        if (!method) {
            char *path = grpc_slice_to_c_string(details.method);
            snprintf(text, sizeof text, "this server has no method %.200s", path);
            gpr_free(path);
        }
        kd_rpc_call_serve(s, call, details.deadline, method, s->max_message,
                          !method ? -KD_EUNSUP
                          : full  ? -KD_ELIMIT
                                  : 0,
                          text);
    }
    grpc_call_details_destroy(&details);
    grpc_metadata_array_destroy(&metadata);
    pthread_mutex_lock(&s->mu);
    s->accepts--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
}

void kd_rpc_server_identify(kd_rpc_server *s, grpc_call *call, kd_pki_identity *out)
{
    *out = (kd_pki_identity){0};
    if (s->certs)
        kd_rpc_certs_identify(s->certs, call, out);
}

int kd_rpc_server_enter(kd_rpc_server *s, struct kd_rpc_live *live, kd_diag *diag)
{
    const kd_rpc_guard *g = s->guard;
    kd_rpc_peer peer = kd_rpc_call_peer(live->call);
    int rc = g ? g->admit(live->call, g->arg, diag) : 0;
    if (rc != 0)
        return rc;
    if (!s->by_role || peer.identity->role != KD_ROLE_NONE)
        kd_rpc_connection_prove(peer.address);
    pthread_mutex_lock(&s->mu);
    live->next = &s->live;
    live->prev = s->live.prev;
    live->prev->next = live->next->prev = live;
    pthread_mutex_unlock(&s->mu);
    return 0;
}

void kd_rpc_server_call_over(kd_rpc_server *s, struct kd_rpc_live *live, int code, const char *text)
{
    if (live && s->guard)
        s->guard->leave(live->call, code, text, s->guard->arg);
    pthread_mutex_lock(&s->mu);
    if (live) {
        live->prev->next = live->next;
        live->next->prev = live->prev;
    }
    s->calls--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
}

int kd_rpc_server_end_calls(kd_rpc_server *s, bool (*match)(const kd_rpc_peer *peer, void *arg),
                            void *arg, int code, const char *text)
{
    pthread_mutex_lock(&s->mu);
    kd_rpc_call **found = malloc((size_t)(s->calls + 1) * sizeof *found);
    KD_BUG_ON(!found); /* bounded by max_calls */
    int n = 0;
    for (struct kd_rpc_live *l = s->live.next; l != &s->live; l = l->next) {
        kd_rpc_peer peer = kd_rpc_call_peer(l->call);
        if (match(&peer, arg))
            found[n++] = kd_rpc_call_ref(l->call);
    }
    pthread_mutex_unlock(&s->mu);
    for (int i = 0; i < n; i++) {
        kd_rpc_call_cut(found[i], code, text);
        kd_rpc_call_unref(found[i]);
    }
    free(found);
    return n;
}

void kd_rpc_server_set_tls(kd_rpc_server *s, const kd_rpc_tls *tls)
{
    KD_BUG_ON(!s->certs);
    kd_rpc_certs_set(s->certs, tls);
}

/* ---- life */

/* gRPC says only that it could not listen; asking the system once more tells why. */
static int explain_listen(const char *listen, const char *host, const char *port, kd_diag *diag)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    int rc = getaddrinfo(host, port, &hints, &found);
    if (rc != 0)
        return kd_fail(diag, -KD_EINVAL, "cannot listen on %s: %s", listen, gai_strerror(rc));
    int why = EADDRINUSE;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    if (fd >= 0) {
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(fd, found->ai_addr, found->ai_addrlen) != 0)
            why = errno;
        close(fd);
    }
    freeaddrinfo(found);
    if (why == EADDRINUSE)
        return kd_fail(diag, -KD_EEXIST,
                       "cannot listen on %s: the port is taken, another process listens there",
                       listen);
    return kd_fail(diag, why == EACCES ? -KD_EPERM : -KD_EINVAL, "cannot listen on %s: %s", listen,
                   strerror(why));
}

static void free_parts(kd_rpc_server *s)
{
    kd_rpc_health_free(s->health);
    kd_rpc_reflection_free(s->reflection);
    kd_rpc_certs_free(s->certs);
    pthread_mutex_destroy(&s->mu);
    pthread_cond_destroy(&s->changed);
    free(s);
}

int kd_rpc_server_new(kd_rpc *rpc, const kd_rpc_server_config *cfg, kd_rpc_server **out,
                      kd_diag *diag)
{
    char host[256], port[6];
    if (!kd_address_split(cfg->listen, host, sizeof host, port))
        return kd_fail(diag, -KD_EINVAL,
                       "%.300s is no address to listen on; HOST:PORT was expected", cfg->listen);
    kd_rpc_server *s = kd_xalloc(sizeof *s);
    s->rpc = rpc;
    s->methods = cfg->methods;
    s->n_methods = cfg->n_methods;
    s->max_message = cfg->max_message;
    s->max_calls = cfg->max_calls ? cfg->max_calls : MAX_CALLS;
    s->certs = cfg->tls ? kd_rpc_certs_new(cfg->tls) : NULL;
    s->by_role = cfg->tls && cfg->tls->ca && !cfg->known_clients;
    s->guard = cfg->guard;
    s->live.prev = s->live.next = &s->live;
    pthread_mutex_init(&s->mu, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    s->health = kd_rpc_health_new(cfg->methods, cfg->n_methods);
    kd_rpc_health_methods(s->health, s->internal);
    s->n_internal = KD_HEALTH_METHODS;
    if (cfg->descriptor_set) {
        int rc = kd_rpc_reflection_new(cfg->descriptor_set, cfg->descriptor_set_len, cfg->methods,
                                       cfg->n_methods, &s->reflection, diag);
        if (rc != 0) {
            free_parts(s);
            return rc;
        }
        kd_rpc_reflection_methods(s->reflection, s->internal + s->n_internal);
        s->n_internal += KD_REFLECTION_METHODS;
    }
    grpc_arg args[KD_RPC_COMMON_ARGS + 5];
    size_t n = kd_rpc_common_args(cfg->max_message, args);
    args[n++] = kd_rpc_int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0);
    args[n++] = kd_rpc_int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, MAX_STREAMS);
    args[n++] = kd_rpc_int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                               KD_SERVER_MIN_PING_MS);
    /* Until TLS and HTTP/2 have said hello, and without any call after that. */
    args[n++] = kd_rpc_int_arg(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, HANDSHAKE_MS);
    args[n++] = kd_rpc_int_arg(GRPC_ARG_MAX_CONNECTION_IDLE_MS, IDLE_MS);
    grpc_channel_args channel_args = {n, args};
    s->grpc = grpc_server_create(&channel_args, NULL);
    grpc_server_register_completion_queue(s->grpc, rpc->cq, NULL);
    grpc_server_credentials *creds = kd_rpc_server_creds(s->certs, cfg->known_clients);
    s->port = grpc_server_add_http2_port(s->grpc, cfg->listen, creds);
    grpc_server_credentials_release(creds);
    if (s->port == 0) {
        kd_rpc_server_free(s);
        return explain_listen(cfg->listen, host, port, diag);
    }
    kd_rpc_connection_listen(s->port, true);
    grpc_server_start(s->grpc);
    for (int i = 0; i < ACCEPTS; i++) {
        s->accept[i].op.done = on_accept;
        s->accept[i].server = s;
        post_accept(&s->accept[i]);
    }
    *out = s;
    return 0;
}

int kd_rpc_server_port(const kd_rpc_server *s)
{
    return s->port;
}

void kd_rpc_server_set_health(kd_rpc_server *s, const char *service, bool serving)
{
    kd_rpc_health_set(s->health, service, serving);
}

static void on_shutdown(struct kd_op *op, bool ok)
{
    kd_rpc_server *s = KD_RPC_OWNER(op, kd_rpc_server, shutdown_op);
    (void)ok;
    pthread_mutex_lock(&s->mu);
    s->shut_down = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
}

static struct timespec after_ms(int ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

void kd_rpc_server_stop(kd_rpc_server *s, int grace_ms)
{
    pthread_mutex_lock(&s->mu);
    bool first = !s->stopping;
    s->stopping = true;
    pthread_mutex_unlock(&s->mu);
    if (first) {
        kd_rpc_health_stop(s->health);
        s->shutdown_op.done = on_shutdown;
        kd_rpc_hand_over(&s->shutdown_op);
        grpc_server_shutdown_and_notify(s->grpc, s->rpc->cq, &s->shutdown_op);
    }
    struct timespec until = after_ms(KD_MAX(grace_ms, 0));
    pthread_mutex_lock(&s->mu);
    while (!s->shut_down && pthread_cond_timedwait(&s->changed, &s->mu, &until) == 0) {
    }
    bool cancel = !s->shut_down;
    pthread_mutex_unlock(&s->mu);
    if (cancel)
        grpc_server_cancel_all_calls(s->grpc);
    /* shut_down is gRPC's word; calls and accepts count our callbacks. */
    pthread_mutex_lock(&s->mu);
    while (!s->shut_down || s->calls > 0 || s->accepts > 0)
        pthread_cond_wait(&s->changed, &s->mu);
    pthread_mutex_unlock(&s->mu);
}

void kd_rpc_server_free(kd_rpc_server *s)
{
    if (!s)
        return;
    kd_rpc_server_stop(s, 0);
    grpc_server_destroy(s->grpc);
    if (s->port)
        kd_rpc_connection_listen(s->port, false);
    free_parts(s);
}

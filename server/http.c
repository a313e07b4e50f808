#include "http_internal.h"

#include "kd/log.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RETRY_MS 1000 /* a listener that did not start */

/* Scripts, styles and data of this server only, nothing inline, no frame around it. */
static const char g_policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' "
    "data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/* ---- answers */

void kd_http_say(kd_http_request *r, int status, const char *type, const char *text)
{
    r->status = status;
    r->type = type;
    kd_buf_clear(&r->body);
    (void)kd_buf_str(&r->body, text);
}

void kd_http_refuse(kd_http_request *r, int status, const char *text)
{
    kd_http_say(r, status, "application/json", "");
    (void)kd_buf_str(&r->body, "{\"error\":\"");
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\')
            (void)kd_buf_str(&r->body, "\\");
        (void)kd_buf_add(&r->body, (unsigned char)*p < ' ' ? " " : p, 1);
    }
    (void)kd_buf_str(&r->body, "\"}\n");
}

static void header(struct MHD_Response *m, const char *name, const char *value)
{
    (void)!MHD_add_response_header(m, name, value);
}

static enum MHD_Result send_response(kd_http_request *r, struct MHD_Response *m, const char *cache)
{
    if (!m)
        return MHD_NO; /* closes the connection */
    if (r->type)
        header(m, "Content-Type", r->type);
    /* One request each: who is let in is settled once, and nobody holds one between two. */
    header(m, "Connection", "close");
    header(m, "Cache-Control", cache);
    header(m, "Content-Security-Policy", g_policy);
    header(m, "X-Content-Type-Options", "nosniff");
    header(m, "Referrer-Policy", "no-referrer");
    header(m, "Cross-Origin-Resource-Policy", "same-origin");
    header(m, "Cross-Origin-Opener-Policy", "same-origin");
    if (r->location)
        header(m, "Location", r->location);
    if (r->cookie[0])
        header(m, "Set-Cookie", r->cookie);
    if (r->status == MHD_HTTP_UNAUTHORIZED)
        header(m, "WWW-Authenticate", "Bearer");
    if (r->status == MHD_HTTP_METHOD_NOT_ALLOWED)
        header(m, "Allow", "GET, HEAD");
    if (r->status == MHD_HTTP_SERVICE_UNAVAILABLE)
        header(m, "Retry-After", "5");
    enum MHD_Result rc = MHD_queue_response(r->connection, (unsigned)r->status, m);
    MHD_destroy_response(m);
    return rc;
}

/* Puts the message's JSON in its place. */
static void show(kd_http_request *r)
{
    kd_diag diag = {0};
    char *text = kd_http_json(r->form, &r->body, &diag);
    r->form = NULL;
    if (text)
        kd_http_say(r, MHD_HTTP_OK, "application/json", text);
    else
        kd_http_refuse(r, MHD_HTTP_INTERNAL_SERVER_ERROR, diag.msg);
    free(text);
}

static enum MHD_Result send_answer(kd_http_request *r)
{
    struct MHD_Response *m;
    if (r->form && !r->body.failed)
        show(r);
    if (r->body.failed)
        kd_http_refuse(r, MHD_HTTP_INTERNAL_SERVER_ERROR, "the answer is too large");
    if (r->stream) {
        m = kd_http_stream_response(r->stream, r->connection);
        r->stream = NULL;
    } else if (r->fd >= 0) {
        m = MHD_create_response_from_fd64(r->size, r->fd);
        r->fd = m ? -1 : r->fd;
    } else {
        size_t len = r->body.len;
        m = MHD_create_response_from_buffer(len, len ? kd_buf_take(&r->body) : "",
                                            len ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    }
    return send_response(r, m, "no-store");
}

static enum MHD_Result send_asset(kd_http_request *r, const kd_http_asset *a)
{
    const char *have =
        MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_IF_NONE_MATCH);
    bool same = have && strcmp(have, a->etag) == 0;
    r->status = same ? MHD_HTTP_NOT_MODIFIED : MHD_HTTP_OK;
    r->type = a->type;
    struct MHD_Response *m = MHD_create_response_from_buffer(same ? 0 : a->len, (void *)a->bytes,
                                                             MHD_RESPMEM_PERSISTENT);
    if (m)
        header(m, "ETag", a->etag);
    return send_response(r, m, "no-cache");
}

/* ---- health */

static void answer_health(kd_http_request *r)
{
    kd_time_ms still = kd_clock_ms() - atomic_load(&r->http->beat);
    char text[96];
    if (still <= KD_HTTP_LOOP_MS) {
        kd_http_say(r, MHD_HTTP_OK, "text/plain", "ok\n");
        return;
    }
    snprintf(text, sizeof text, "the coordinator's loop has stood still for %lld ms\n",
             (long long)still);
    kd_http_say(r, MHD_HTTP_SERVICE_UNAVAILABLE, "text/plain", text);
}

static void answer_ready(kd_http_request *r)
{
    static const char *const why[] = {
        [KD_HTTP_STARTING] = "starting\n",
        [KD_HTTP_READY] = "ready\n",
        [KD_HTTP_NO_ROOM] = "the disk has less room than --min-free: nothing new is taken\n",
        [KD_HTTP_STOPPING] = "stopping\n"};
    answer_health(r);
    int ready = atomic_load(&r->http->ready);
    if (r->status == MHD_HTTP_OK)
        kd_http_say(r, ready == KD_HTTP_READY ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE,
                    "text/plain", why[ready]);
}

static const kd_http_route g_probes[] = {{"/healthz", KD_HTTP_PROBE, NULL, answer_health, NULL},
                                         {"/readyz", KD_HTTP_PROBE, NULL, answer_ready, NULL},
                                         {"/login", KD_HTTP_PROBE, NULL, kd_http_login, NULL}};

/* ---- one request */

/* Whether the path is the route's; its job goes to out_job. */
static bool path_is(const char *route, const char *path, char out_job[KD_ID_TEXT])
{
    while (*route && *path) {
        if (*route != '*') {
            if (*route++ != *path++)
                return false;
            continue;
        }
        size_t n = strcspn(path, "/");
        if (n == 0 || n >= KD_ID_TEXT)
            return false;
        for (size_t i = 0; i < n; i++)
            if (!isxdigit((unsigned char)path[i]))
                return false;
        memcpy(out_job, path, n);
        out_job[n] = '\0';
        route++;
        path += n;
    }
    return *route == '\0' && *path == '\0';
}

static bool find_route(kd_http_request *r, const kd_http_route *routes, size_t n, const char *path)
{
    for (size_t i = 0; i < n && !r->route; i++)
        if (path_is(routes[i].path, path, r->job))
            r->route = &routes[i];
    return r->route != NULL;
}

static const kd_http_asset *find_asset(const char *path)
{
    for (size_t i = 0; i < kd_http_n_assets; i++)
        if (strcmp(path, kd_http_assets[i].path) == 0)
            return &kd_http_assets[i];
    return NULL;
}

/* ?name=NUMBER; false when it is there and none. */
static bool query_number(kd_http_request *r, const char *name, uint64_t *out)
{
    const char *text = MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, name);
    char *end;
    if (!text)
        return true;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return isdigit((unsigned char)*text) && !*end && errno == 0 && *out <= INT64_MAX;
}

static void loop_request(kd_daemon *d, void *arg)
{
    kd_http_request *r = arg;
    kd_http *h = r->http;
    /* A long answer lets others have the loop between its pieces, unless it is about to end. */
    do
        r->route->answer(d, r), r->piece++;
    while (r->more && h->closing);
    if (r->more && kd_daemon_post(d, loop_request, r))
        return;
    if (r->more)
        kd_http_refuse(r, MHD_HTTP_SERVICE_UNAVAILABLE, "the coordinator is stopping");
    MHD_resume_connection(r->connection);
    h->waiting--;
}

/* Suspended first: the loop may be done with it before this returns. */
static enum MHD_Result ask_loop(kd_http_request *r)
{
    kd_http *h = r->http;
    pthread_mutex_lock(&h->mu);
    bool open = !h->closing;
    if (open) {
        MHD_suspend_connection(r->connection);
        h->waiting++;
        if (!kd_daemon_post(h->daemon, loop_request, r)) {
            kd_http_refuse(r, MHD_HTTP_SERVICE_UNAVAILABLE, "the coordinator is stopping");
            MHD_resume_connection(r->connection);
            h->waiting--;
        }
    }
    pthread_mutex_unlock(&h->mu);
    if (open)
        return MHD_YES;
    kd_http_refuse(r, MHD_HTTP_SERVICE_UNAVAILABLE, "the coordinator is stopping");
    return send_answer(r);
}

static enum MHD_Result refuse(kd_http_request *r, int status, const char *why)
{
    kd_http_refuse(r, status, why);
    return send_answer(r);
}

static bool has_body(struct MHD_Connection *c)
{
    const char *length =
        MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    return (length && strcmp(length, "0") != 0) ||
           MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_TRANSFER_ENCODING);
}

static enum MHD_Result answer(kd_http_request *r, const char *path, const char *method)
{
    r->head = strcmp(method, MHD_HTTP_METHOD_HEAD) == 0;
    if (!r->head && strcmp(method, MHD_HTTP_METHOD_GET) != 0)
        return refuse(r, MHD_HTTP_METHOD_NOT_ALLOWED,
                      "nothing can be changed here: only GET and HEAD; use `distill`");
    if (has_body(r->connection))
        return refuse(r, MHD_HTTP_CONTENT_TOO_LARGE, "a request has no body here");
    const kd_http_asset *asset = find_asset(path);
    if (!asset && !find_route(r, g_probes, KD_COUNT(g_probes), path) &&
        !find_route(r, kd_http_api, kd_http_n_api, path))
        return refuse(r, MHD_HTTP_NOT_FOUND, "there is nothing under this path");
    const enum kd_http_role role = asset ? KD_HTTP_READER : r->route->role;
    if (!kd_http_authorise(r, role))
        return send_answer(r);
    if (role != KD_HTTP_PROBE && !kd_http_link_let_in(r->http, r->connection))
        return refuse(r, MHD_HTTP_SERVICE_UNAVAILABLE, "too many connections are open");
    if (asset)
        return send_asset(r, asset);
    if (!query_number(r, "from", &r->from) || !query_number(r, "limit", &r->limit))
        return refuse(r, MHD_HTTP_BAD_REQUEST, "`from` and `limit` are whole numbers");
    if (r->route->answer)
        return ask_loop(r);
    r->route->here(r);
    return send_answer(r);
}

/* Called once with the head, and again after the loop has answered. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **state)
{
    (void)version;
    (void)upload;
    kd_http_request *r = *state;
    *upload_size = 0;
    if (r)
        return send_answer(r);
    r = *state = calloc(1, sizeof *r);
    if (!r)
        return MHD_NO; /* closes the connection */
    r->http = arg;
    r->connection = connection;
    r->path = url;
    r->fd = -1;
    kd_buf_init(&r->body, KD_HTTP_BODY);
    return answer(r, url, method);
}

static void on_end(void *arg, struct MHD_Connection *connection, void **state,
                   enum MHD_RequestTerminationCode why)
{
    (void)arg;
    (void)connection;
    (void)why;
    kd_http_request *r = *state;
    *state = NULL;
    if (!r)
        return;
    if (r->stream)
        kd_http_stream_leave(r->stream);
    if (r->fd >= 0)
        close(r->fd);
    kd_buf_clear(&r->body);
    free(r);
}

/* ---- life */

static KD_PRINTF(2, 0) void log_line(void *arg, const char *fmt, va_list ap)
{
    char text[256];
    (void)arg;
    vsnprintf(text, sizeof text, fmt, ap);
    text[strcspn(text, "\r\n")] = '\0';
    kd_debug("http: %s", text);
}

/* Returns errno of a start that failed. */
static int start_daemon(kd_http *h)
{
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    if (h->address.ss_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    const struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_MEM_KEY, 0, h->files.key},
        {MHD_OPTION_HTTPS_MEM_CERT, 0, h->files.certificate},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"},
        {MHD_OPTION_END, 0, NULL}};
    static const struct MHD_OptionItem plain[] = {{MHD_OPTION_END, 0, NULL}};
    errno = 0;
    h->mhd = MHD_start_daemon(flags | (h->tls ? MHD_USE_TLS : 0u), 0, NULL, NULL, on_request, h,
                              MHD_OPTION_EXTERNAL_LOGGER, log_line, NULL, MHD_OPTION_SOCK_ADDR,
                              &h->address, MHD_OPTION_CONNECTION_LIMIT, KD_HTTP_LINKS,
                              MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)KD_HTTP_HEAD,
                              MHD_OPTION_CONNECTION_TIMEOUT, KD_HTTP_TIMEOUT_S,
                              MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_NOTIFY_COMPLETED, on_end,
                              NULL, MHD_OPTION_NOTIFY_CONNECTION, kd_http_link_notify, h,
                              MHD_OPTION_ARRAY, h->tls ? tls : plain, MHD_OPTION_END);
    return errno;
}

int kd_http_start(kd_daemon *d, const char *listen, bool insecure, kd_http **out, kd_diag *diag)
{
    struct sockaddr_storage address;
    int rc = kd_http_resolve(listen, &address, diag);
    if (rc != 0)
        return rc;
    const bool tls = kd_access_required(d->access);
    const bool everybody = !tls && !kd_http_is_loopback((struct sockaddr *)&address);
    if (everybody && !insecure)
        return kd_fail(diag, -KD_EINVAL,
                       "--http %.200s would show everything to everybody who reaches it: make "
                       "certificates with `distilld init`, give a loopback address (and come in by "
                       "`ssh -L`), or --insecure",
                       listen);
    kd_http *h = kd_xalloc(sizeof *h);
    h->daemon = d;
    h->open = everybody;
    h->tls = tls;
    if (tls)
        kd_access_files_get(d->access, &h->files);
    pthread_mutex_init(&h->mu, NULL);
    pthread_mutex_init(&h->links.mu, NULL);
    atomic_store(&h->beat, kd_clock_ms());
    h->address = address;
    rc = start_daemon(h);
    if (!h->mhd) {
        kd_http_free(h);
        return kd_fail(diag, rc == EADDRINUSE ? -KD_EEXIST : -KD_EIO,
                       "cannot serve HTTP on %.200s: %s", listen,
                       rc ? strerror(rc) : "libmicrohttpd did not start");
    }
    *out = h;
    return 0;
}

bool kd_http_is_open(const kd_http *h)
{
    return h->open;
}

int kd_http_port(const kd_http *h)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->mhd, MHD_DAEMON_INFO_BIND_PORT);
    return info ? info->port : 0;
}

/* With the coordinator's newest certificate, where it listened before. */
static void restart(kd_http *h, kd_time_ms now)
{
    h->tried = now;
    kd_access_files_clear(&h->files);
    kd_access_files_get(h->daemon->access, &h->files);
    int err = start_daemon(h);
    if (h->mhd)
        kd_info("HTTPS has a new certificate");
    else
        kd_err("HTTPS does not start again with its new certificate: %s; it is tried again",
               err ? strerror(err) : "libmicrohttpd did not start");
}

static void close_to(kd_http *h, bool closing)
{
    pthread_mutex_lock(&h->mu);
    h->closing = closing;
    pthread_mutex_unlock(&h->mu);
}

/* The coordinator's certificate was renewed: the listener begins anew with it, once no request
 * waits for this loop. Browsers come back by themselves. */
static void renew(kd_http *h, kd_time_ms now)
{
    close_to(h, true);
    if (h->waiting > 0)
        return;
    int port = kd_http_port(h);
    if (h->address.ss_family == AF_INET6)
        ((struct sockaddr_in6 *)&h->address)->sin6_port = htons((uint16_t)port);
    else
        ((struct sockaddr_in *)&h->address)->sin_port = htons((uint16_t)port);
    kd_http_stream_end_all(h);
    MHD_stop_daemon(h->mhd);
    h->mhd = NULL;
    kd_http_stream_end_all(h);
    close_to(h, false);
    restart(h, now);
}

void kd_http_tick(kd_http *h, kd_time_ms now)
{
    if (!h)
        return;
    if (!h->mhd) {
        if (now - h->tried >= RETRY_MS)
            restart(h, now);
        return;
    }
    if (h->tls && kd_access_files_version(h->daemon->access) != h->files.version) {
        renew(h, now);
        return;
    }
    atomic_store(&h->beat, now);
    atomic_store(&h->ready, h->daemon->room.low ? KD_HTTP_NO_ROOM : KD_HTTP_READY);
    kd_http_link_tick(h, now);
    kd_http_stream_tick(h, now);
}

void kd_http_close(kd_http *h)
{
    if (!h)
        return;
    atomic_store(&h->ready, KD_HTTP_STOPPING);
    pthread_mutex_lock(&h->mu);
    h->closing = true;
    pthread_mutex_unlock(&h->mu);
    kd_http_stream_end_all(h);
}

void kd_http_free(kd_http *h)
{
    if (!h)
        return;
    kd_http_stream_end_all(h); /* a task may have begun one since the close */
    if (h->mhd)
        MHD_stop_daemon(h->mhd);
    kd_http_stream_end_all(h);
    pthread_mutex_destroy(&h->mu);
    pthread_mutex_destroy(&h->links.mu);
    kd_access_files_clear(&h->files);
    free(h);
}

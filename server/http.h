/* HTTP beside gRPC: health, Prometheus metrics, a JSON API that only reads, live streams and the
 * dashboard, by libmicrohttpd.
 *
 *   GET /healthz /readyz             for probes: 200, or 503 with the reason
 *   GET /metrics                     Prometheus text format 0.0.4
 *   GET /api/v1/...                  JSON, field names as `distill ... -o json` (http_api.c)
 *   GET /api/v1/stream, .../jobs/ID/stream   server-sent events (http_stream.c)
 *   GET / and its files              the dashboard's files, part of the program (web/)
 *   GET /login?token=TOKEN           a session's cookie for a browser
 *
 * Where the coordinator has certificates it is HTTPS, and all but the probes and /login want a
 * session (`distill token create --session`): its token as a bearer's, or as a cookie.
 *
 * How it meets the loop. One thread of libmicrohttpd does all sockets. It answers health and files
 * by itself; every other request is suspended and queued as a task, the loop builds the answer in
 * memory and resumes it. So the loop never waits for a socket, and HTTP never touches its records.
 * Streams are filled by the loop and emptied by that thread, each through a buffer of its own.
 *
 * Bounds: connections of who was let in and of others, streams, bytes of a request's head and
 * seconds for it, bytes queued to a stream, seconds without progress. A request with a body, or
 * another method than GET and HEAD, is refused.
 *
 * Threads: kd_http_* are the loop's. */
#ifndef KD_SERVER_HTTP_H
#define KD_SERVER_HTTP_H

#include "daemon.h"

/* listen: ADDRESS:PORT, port 0 = any free one. Anything but a loopback address needs certificates,
 * or `insecure`, which lets everybody in. -KD_EINVAL bad or forbidden address, -KD_EEXIST it is in
 * use. */
int kd_http_start(kd_daemon *d, const char *listen, bool insecure, kd_http **out,
                  kd_diag *diag) KD_MUST_CHECK;
bool kd_http_is_open(const kd_http *h); /* everybody who reaches the address may read */
int kd_http_port(const kd_http *h);
/* Connections that were cut since more were open than there is room for; h may be NULL. */
uint64_t kd_http_cut_connections(kd_http *h);
/* Every few milliseconds; h may be NULL. */
void kd_http_tick(kd_http *h, kd_time_ms now);
/* Ends all streams; from now on requests are refused. Tasks that wait have to be run before the
 * free. NULL allowed in both. */
void kd_http_close(kd_http *h);
void kd_http_free(kd_http *h);

#endif

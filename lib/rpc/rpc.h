/* RPC over gRPC C core: the only module that includes <grpc/...>.
 *
 * Messages are byte strings here; lib/wire turns them into structs. The runtime owns one completion
 * queue polled by its own threads. Callbacks and handlers run on those threads: they must not block
 * (no disk, no BLAS, no lock held long) and may call anything below. To meet libuv, a daemon's
 * handler queues an event and calls uv_async_send.
 *
 * Threads: every function is callable from any thread unless it says otherwise.
 * Sources: gRPC C core 1.51 headers; doc/keepalive.md, doc/statuscodes.md. */
#ifndef KD_RPC_H
#define KD_RPC_H

#include "kd/clock.h"
#include "kd/err.h"
#include "pki/pki.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* ---- runtime: one per process */
typedef struct kd_rpc kd_rpc;
/* threads >= 1 pollers. Routes gRPC's own log into ours. */
int kd_rpc_new(int threads, kd_rpc **out, kd_diag *diag) KD_MUST_CHECK;
/* All servers and channels must be freed before. Drains the queue, joins, grpc_shutdown. */
void kd_rpc_free(kd_rpc *rpc);

/* ---- TLS */
/* PEM texts, copied by who takes them; check them first (kd_pki_check), since gRPC finds out only
 * when somebody connects. */
typedef struct kd_rpc_tls {
    const char *ca; /* has signed the other side's certificate; NULL: clients trust the system's
                       CAs, servers ask for no certificate */
    const char *certificate; /* our own, then those that lead to the CA; NULL = none (clients) */
    const char *key;         /* of the first of them; NULL likewise */
} kd_rpc_tls;

/* ---- server */
typedef struct kd_rpc_server kd_rpc_server;
typedef struct kd_rpc_call kd_rpc_call; /* one call as its server sees it; reference-counted */

/* Who calls. Valid as long as the call is. */
typedef struct kd_rpc_peer {
    const char *address; /* as kd_peer_text spells it; not authenticated */
    /* Of the certificate that TLS has verified; role KD_ROLE_NONE and "" without one. */
    const kd_pki_identity *identity;
} kd_rpc_peer;

enum kd_rpc_kind { KD_RPC_UNARY, KD_RPC_SERVER_STREAM, KD_RPC_BIDI };

/* One method. Exactly one row per path.
 * unary, server stream: on_message is called once with the request.
 * bidi: on_open once, on_message per message in order, never two at once for one call.
 * on_close (any kind, may be NULL): exactly once, after the last on_message, when the call is over
 * for whatever reason; cancelled = the client went away or its deadline passed before the finish.
 * `bytes` are borrowed during the callback. */
typedef struct kd_rpc_method {
    const char *path; /* "/distill.v1.Jobs/Submit" */
    enum kd_rpc_kind kind;
    size_t max_request; /* bytes; larger is answered RESOURCE_EXHAUSTED */
    void (*on_open)(kd_rpc_call *call, void *arg);
    void (*on_message)(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg);
    /* bidi: the client sends no more; may be NULL */
    void (*on_half_close)(kd_rpc_call *call, void *arg);
    void (*on_close)(kd_rpc_call *call, bool cancelled, void *arg);
    void *arg;
    unsigned rule; /* for the server's `admit`, nobody else reads it */
} kd_rpc_method;

/* Decides who may call what, before anything of the call is read and before its handler hears of
 * it. On gRPC's threads. */
typedef struct kd_rpc_guard {
    /* 0, or a negative -KD_E... that the call is refused with, and diag says why. */
    int (*admit)(const kd_rpc_call *call, void *arg, kd_diag *diag);
    /* Once for each call that was admitted, when it is over. code: what it was finished with, or
     * -KD_ECANCELED; text: the sentence that went with it. */
    void (*leave)(const kd_rpc_call *call, int code, const char *text, void *arg);
    void *arg;
} kd_rpc_guard;

typedef struct kd_rpc_server_config {
    const char *listen; /* host:port; port 0 = any free one */
    /* NULL = plain text. A client's certificate is asked for and verified, but a client without one
     * is served as well: the guard decides. */
    const kd_rpc_tls *tls;
    bool known_clients;           /* with tls: a client needs a certificate to connect at all */
    const kd_rpc_guard *guard;    /* borrowed until free; NULL = everybody may everything */
    const kd_rpc_method *methods; /* borrowed until free */
    size_t n_methods;
    size_t max_message;         /* largest message in either direction */
    int max_calls;              /* running at once, further ones are refused; 0 = 16384 */
    const void *descriptor_set; /* serialized FileDescriptorSet for reflection, borrowed; or NULL */
    size_t descriptor_set_len;
} kd_rpc_server_config;

/* Binds and serves at once. Also serves grpc.health.v1.Health (Check, Watch) and, with a descriptor
 * set, server reflection v1 and v1alpha. Unknown methods are answered UNIMPLEMENTED.
 * -KD_EEXIST port taken (another process holds it), -KD_EINVAL bad address. */
int kd_rpc_server_new(kd_rpc *rpc, const kd_rpc_server_config *cfg, kd_rpc_server **out,
                      kd_diag *diag) KD_MUST_CHECK;
/* Connections to this process that were closed at once, for want of descriptors. */
uint64_t kd_rpc_refused_connections(void);
/* Connections that were cut, since too many had not shown who they are. */
uint64_t kd_rpc_cut_connections(void);
int kd_rpc_server_port(const kd_rpc_server *s);
/* What handshakes from now on show and trust; connections that are there stay. Only for a server
 * that began with TLS. */
void kd_rpc_server_set_tls(kd_rpc_server *s, const kd_rpc_tls *tls);
/* Ends running calls, streams or not, at once: nothing more is taken from them, and what waits to
 * be sent is dropped. match is called under the server's lock. Returns how many. */
int kd_rpc_server_end_calls(kd_rpc_server *s, bool (*match)(const kd_rpc_peer *peer, void *arg),
                            void *arg, int code, const char *text);
/* Health status: service "" (the whole server) or a full service name. New ones start SERVING. */
void kd_rpc_server_set_health(kd_rpc_server *s, const char *service, bool serving);
/* Refuses new calls, waits up to grace_ms for running ones, cancels the rest, waits for every
 * callback to return. Synchronous; not from a callback. Then free. */
void kd_rpc_server_stop(kd_rpc_server *s, int grace_ms);
void kd_rpc_server_free(kd_rpc_server *s); /* stops first if needed */

/* ---- server side of one call */
kd_rpc_call *kd_rpc_call_ref(kd_rpc_call *call);
void kd_rpc_call_unref(kd_rpc_call *call);
kd_rpc_peer kd_rpc_call_peer(const kd_rpc_call *call);
const kd_rpc_method *kd_rpc_call_method(const kd_rpc_call *call);
/* A word on what the call is about, for the guard's `leave`; cut at KD_RPC_NOTE - 1. By the
 * handler, before it answers. */
#define KD_RPC_NOTE 72
void kd_rpc_call_set_note(kd_rpc_call *call, const char *note);
void kd_rpc_call_note(const kd_rpc_call *call, char out[KD_RPC_NOTE]);
double kd_rpc_call_begun(const kd_rpc_call *call); /* on the scale of kd_clock_s */
/* On the scale of kd_clock_ms; INT64_MAX = none. Up to 1 % later than the client's own, which gives
 * up first: gRPC rounds a timeout up to send it in few digits (1000 ms as 1010, 20 s as 20.1). */
kd_time_ms kd_rpc_call_deadline(const kd_rpc_call *call);
/* For the handler's own state; plain pointer, set in on_open or on_message. */
void kd_rpc_call_set_data(kd_rpc_call *call, void *data);
void *kd_rpc_call_data(const kd_rpc_call *call);
/* Answers a unary call: message of the joined parts + OK. Once; later answers, and answers after
 * the call is over, are ignored. May come long after the handler returned (keep a ref). */
void kd_rpc_reply(kd_rpc_call *call, const struct iovec *parts, int n_parts);
/* An answer for several calls: its parts are joined once, not once a call. NULL without memory. */
typedef struct kd_rpc_shared kd_rpc_shared;
kd_rpc_shared *kd_rpc_shared_new(const struct iovec *parts, int n_parts);
void kd_rpc_shared_free(kd_rpc_shared *m); /* NULL allowed; answers under way keep what they need */
/* As kd_rpc_reply; m NULL: the call ends with -KD_ENOMEM. */
void kd_rpc_reply_shared(kd_rpc_call *call, const kd_rpc_shared *m);
/* Queues one message on a stream. -KD_ELIMIT when more than 8 MiB wait for a slow peer (nothing
 * queued), -KD_ECANCELED when the call is over, -KD_EINVAL when it is larger than max_message. */
int kd_rpc_send(kd_rpc_call *call, const struct iovec *parts, int n_parts);
size_t kd_rpc_queued(kd_rpc_call *call); /* bytes not yet taken by the transport */
/* Ends any call. code 0 = OK, else our error code (its gRPC status goes out, see KD_ERR_MAP); text
 * is cut at KD_MAX_STATUS_TEXT. Queued messages of a stream go out first. */
void kd_rpc_finish(kd_rpc_call *call, int code, const char *text);
void kd_rpc_finish_diag(kd_rpc_call *call, const kd_diag *diag);

/* ---- client */
typedef struct kd_rpc_channel kd_rpc_channel;
/* Makes no connection yet. target host:port. Reconnects by itself with back-off (0.2 to 5 s). tls
 * NULL = plain text; else the server's certificate must name the target's host. */
int kd_rpc_channel_new(kd_rpc *rpc, const char *target, const kd_rpc_tls *tls, size_t max_message,
                       kd_rpc_channel **out, kd_diag *diag) KD_MUST_CHECK;
/* The same to a server that is not ours: messages call it `what` (borrowed for ever), and it is
 * sent no keep-alive, which others take for an attack. */
int kd_rpc_channel_new_foreign(kd_rpc *rpc, const char *what, const char *target,
                               const kd_rpc_tls *tls, size_t max_message, kd_rpc_channel **out,
                               kd_diag *diag) KD_MUST_CHECK;
/* For calls and streams from now on; running ones go on over the connection that they have. */
void kd_rpc_channel_set_tls(kd_rpc_channel *ch, const kd_rpc_tls *tls);
/* Running calls and streams end with -KD_EUNAVAIL, later ones have another connection. For who
 * finds that a connection lives and carries nothing, as damage to HTTP/2's windows can leave one
 * over plain text; with TLS, where damage ends the connection, nothing is done. Nor soon after the
 * last time. */
void kd_rpc_channel_reconnect(kd_rpc_channel *ch);
/* Cancels what is running; further calls and streams are refused with -KD_ECANCELED. */
void kd_rpc_channel_close(kd_rpc_channel *ch);
/* Closes, and waits for the callbacks of what was running. Not from a callback. */
void kd_rpc_channel_free(kd_rpc_channel *ch);

/* Whose message is larger than the other end takes, where a call has ended with -KD_ELIMIT for it:
 * trying again does not help. */
typedef enum kd_rpc_oversize {
    KD_RPC_FITS,
    KD_RPC_REQUEST_TOO_LARGE, /* the server says so, which may mean its reply */
    KD_RPC_REPLY_TOO_LARGE    /* for the channel's max_message */
} kd_rpc_oversize;

/* Result of a unary call. code: 0 or -KD_E...; text: the server's sentence, or one that says which
 * target could not be reached and what to check. bytes: reply, NULL unless code is 0. Borrowed
 * during the callback; kd_rpc_unary hands them to its caller. */
typedef struct kd_rpc_result {
    int code;
    int grpc_status;
    bool untrusted; /* -KD_EUNAVAIL since the server's certificate is none to trust, or missing */
    kd_rpc_oversize oversize;
    char text[1024];
    uint8_t *bytes;
    size_t len;
} kd_rpc_result;
typedef void (*kd_rpc_done)(const kd_rpc_result *result, void *arg);

/* Starts a unary call; done is called exactly once iff 0 is returned. The parts are copied or sent
 * before return. Every call has a deadline. wait_ready: wait for a connection until then instead of
 * failing at once with -KD_EUNAVAIL. */
int kd_rpc_unary_start(kd_rpc_channel *ch, const char *path, const struct iovec *parts, int n_parts,
                       int timeout_ms, bool wait_ready, kd_rpc_done done, void *arg) KD_MUST_CHECK;
/* Blocking form, not from a callback. Returns result->code; the caller frees result->bytes. */
int kd_rpc_unary(kd_rpc_channel *ch, const char *path, const struct iovec *parts, int n_parts,
                 int timeout_ms, bool wait_ready, kd_rpc_result *result);

/* The same, but -KD_ECANCELED soon after stopped(arg) is true; what is answered then is dropped. */
int kd_rpc_unary_until(kd_rpc_channel *ch, const char *path, const struct iovec *parts, int n_parts,
                       int timeout_ms, bool wait_ready, bool (*stopped)(void *arg), void *arg,
                       kd_rpc_result *result);

/* Client side of a stream (server stream or bidi). */
typedef struct kd_rpc_stream kd_rpc_stream;
typedef struct kd_rpc_stream_events {
    void (*on_message)(kd_rpc_stream *s, const uint8_t *bytes, size_t len, void *arg);
    /* Exactly once, last. code 0 = the server ended it well. */
    void (*on_end)(kd_rpc_stream *s, int code, const char *text, void *arg);
    void *arg;
} kd_rpc_stream_events;
/* timeout_ms 0 = no deadline (keepalive finds a dead peer). */
int kd_rpc_stream_open(kd_rpc_channel *ch, const char *path, int timeout_ms,
                       const kd_rpc_stream_events *events, kd_rpc_stream **out,
                       kd_diag *diag) KD_MUST_CHECK;
/* As kd_rpc_send. */
int kd_rpc_stream_send(kd_rpc_stream *s, const struct iovec *parts, int n_parts);
void kd_rpc_stream_close_send(kd_rpc_stream *s);
void kd_rpc_stream_cancel(kd_rpc_stream *s);
/* Releases the caller's reference; cancels if still open; on_end still comes. */
void kd_rpc_stream_free(kd_rpc_stream *s);

#endif

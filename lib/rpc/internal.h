/* Shared by the files of this folder: the tag protocol, received bytes, what waits to be sent. */
#ifndef KD_RPC_INTERNAL_H
#define KD_RPC_INTERNAL_H

#include "rpc/rpc.h"
#include "wire/limits.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <pthread.h>

#define KD_RPC_MAX_QUEUED (8u << 20) /* bytes waiting in one stream */

/* ---- runtime.c */

/* Every tag on the completion queue points to one of these, embedded in the object that owns the
 * batch. done runs on a poller thread, once; ok is gRPC's word on the batch. */
struct kd_op {
    void (*done)(struct kd_op *op, bool ok);
};

/* Before a tag is given to gRPC, by whatever function: what was written until now is seen by done.
 * gRPC's queue sees to that; this only tells ThreadSanitizer, which cannot look into gRPC. */
void kd_rpc_hand_over(struct kd_op *op);
void kd_rpc_start_batch(grpc_call *call, const grpc_op *ops, size_t n, struct kd_op *op);

/* The object of `type` whose member `field` the tag is. */
#define KD_RPC_OWNER(op, type, field) ((type *)(void *)((char *)(op)-offsetof(type, field)))

struct kd_rpc {
    grpc_completion_queue *cq;
    pthread_t *threads;
    int n_threads;
};

gpr_timespec kd_rpc_deadline(int timeout_ms); /* 0 = never */

/* Channel arguments that both ends set alike: sizes, keep-alive, no compression. Writes at most
 * KD_RPC_COMMON_ARGS of them and returns how many. */
#define KD_RPC_COMMON_ARGS 16
size_t kd_rpc_common_args(size_t max_message, grpc_arg *args);
grpc_arg kd_rpc_int_arg(const char *key, int value);

/* ---- bytes.c: messages to and from gRPC's buffers */

/* One byte buffer with copies of the parts; the caller destroys it. */
grpc_byte_buffer *kd_rpc_join(const struct iovec *parts, int n_parts);
size_t kd_rpc_parts_len(const struct iovec *parts, int n_parts);
/* The whole of a received message as one slice (caller unrefs); copies only when it came in several
 * pieces. The buffer stays the caller's. */
grpc_slice kd_rpc_contiguous(grpc_byte_buffer *bb);
/* The same into memory for free(); NULL when there is none. */
uint8_t *kd_rpc_gather(grpc_byte_buffer *bb, size_t *out_len);

/* Messages waiting for a stream's one outstanding send. Guarded by the owner's lock. */
struct kd_outgoing;
typedef struct kd_outbox {
    struct kd_outgoing *first, *last, *in_flight;
    size_t queued; /* bytes, the one in flight included */
} kd_outbox;
/* Takes bb. -KD_ENOMEM (bb destroyed). */
int kd_outbox_add(kd_outbox *o, grpc_byte_buffer *bb, size_t len) KD_MUST_CHECK;
grpc_byte_buffer *kd_outbox_next(kd_outbox *o); /* now in flight; NULL when nothing waits */
void kd_outbox_sent(kd_outbox *o);              /* what was in flight is released */
void kd_outbox_clear(kd_outbox *o);             /* what still waits is dropped */

/* ---- status.c: sentences */

/* Copies text as printable UTF-8: control characters (but newline) and bytes that are no UTF-8 come
 * out as '?'; cut between characters. */
void kd_rpc_safe_text(const char *text, char *out, size_t size);
/* What a finished client call's status says to a person. what: the target is; from_peer: the server
 * sent it itself; connected: the channel had a connection when it ended. Empty for OK. True: there
 * is no connection since we do not trust the server. */
bool kd_rpc_explain(const char *what, const char *target, int grpc_status, const char *details,
                    bool from_peer, bool connected, char *out, size_t size);
/* Whether a call has ended for a message's size. max_message: of the channel. */
kd_rpc_oversize kd_rpc_too_large(int grpc_status, const char *details, size_t max_message);
#define KD_RPC_COORDINATOR "coordinator" /* what servers are, unless it is said */

/* ---- creds.c: the one place that says how a connection is protected */
/* tls NULL = plain text. */
grpc_channel_credentials *kd_rpc_channel_creds(const kd_rpc_tls *tls);

/* What a server shows, and whom it has seen. */
typedef struct kd_rpc_certs kd_rpc_certs;
kd_rpc_certs *kd_rpc_certs_new(const kd_rpc_tls *tls);
void kd_rpc_certs_free(kd_rpc_certs *c); /* NULL allowed */
void kd_rpc_certs_set(kd_rpc_certs *c, const kd_rpc_tls *tls);
/* c NULL = plain text; else it must outlive the server. known_clients: as in the server's config.
 */
grpc_server_credentials *kd_rpc_server_creds(kd_rpc_certs *c, bool known_clients);
/* Who calls, by the certificate that the handshake has verified; role KD_ROLE_NONE if there is
 * none, or if it is none of ours. */
void kd_rpc_certs_identify(kd_rpc_certs *c, grpc_call *call, kd_pki_identity *out);

/* ---- young.c: connections that have not shown yet who they are */
/* Connections to this port are counted; others that the process accepts are not ours. */
void kd_rpc_connection_listen(int port, bool on);
/* One that was just accepted; descriptors below limit are for connections. */
void kd_rpc_connection_add(int fd, int limit);
/* The connection that a call of this peer came over is as good as others from now on. */
void kd_rpc_connection_prove(const char *peer);

/* ---- call.c and server.c */

struct kd_rpc_live { /* one call in its server's ring */
    struct kd_rpc_live *prev, *next;
    kd_rpc_call *call;
};

/* Serves an accepted call to its end; the server counts it until kd_rpc_server_call_over. code !=
 * 0: refused at once with code and text, and method is not used. */
void kd_rpc_call_serve(kd_rpc_server *s, grpc_call *call, gpr_timespec deadline,
                       const kd_rpc_method *method, size_t max_message, int code, const char *text);
/* Ends the call at once, whatever waits. Any thread. */
void kd_rpc_call_cut(kd_rpc_call *call, int code, const char *text);
void kd_rpc_server_identify(kd_rpc_server *s, grpc_call *call, kd_pki_identity *out);
/* Lists the call, if the guard admits it: 0, or its code and diag. */
int kd_rpc_server_enter(kd_rpc_server *s, struct kd_rpc_live *live, kd_diag *diag) KD_MUST_CHECK;
/* live NULL: it was not entered. code and text: its end. */
void kd_rpc_server_call_over(kd_rpc_server *s, struct kd_rpc_live *live, int code,
                             const char *text);

/* ---- channel.c and stream.c */

struct kd_rpc_link { /* one running call in its channel's ring */
    struct kd_rpc_link *prev, *next;
    grpc_call *call;
    grpc_channel *grpc; /* that it was made on */
};

#define KD_RPC_RETIRED 8

struct kd_rpc_channel {
    kd_rpc *rpc;
    grpc_channel *grpc;
    char *target;
    const char *what; /* it is, for messages; KD_RPC_COORDINATOR or a foreign server */
    size_t max_message;
    bool plain;         /* without TLS */
    pthread_mutex_t mu; /* guards all below, and grpc */
    pthread_cond_t changed;
    struct kd_rpc_link calls; /* head of the ring */
    bool closing;
    grpc_channel *retired[KD_RPC_RETIRED]; /* earlier ones with calls running */
    int n_retired;
    kd_time_ms reconnect_at; /* not before */
};

/* Makes the call and lists it; -KD_ECANCELED when the channel is being freed. */
int kd_rpc_link_open(kd_rpc_channel *ch, struct kd_rpc_link *l, const char *path,
                     int timeout_ms) KD_MUST_CHECK;
/* Unlists and releases the call. The channel may be gone when this returns. */
void kd_rpc_link_close(kd_rpc_channel *ch, struct kd_rpc_link *l);

/* What a client receives beside messages; lives until the status has come. */
struct kd_rpc_status {
    grpc_status_code code;
    grpc_slice details;
    grpc_metadata_array initial, trailing;
    const char *error_string;
};
void kd_rpc_status_init(struct kd_rpc_status *s);
void kd_rpc_status_clear(struct kd_rpc_status *s);
grpc_op kd_rpc_status_op(struct kd_rpc_status *s);
/* What of a result a status tells: all but the bytes. */
void kd_rpc_status_read(kd_rpc_channel *ch, const struct kd_rpc_status *s, kd_rpc_result *out);

/* ---- methods that every server has: health.c and reflection.c fill rows */

typedef struct kd_rpc_health kd_rpc_health;
kd_rpc_health *kd_rpc_health_new(const kd_rpc_method *methods, size_t n);
void kd_rpc_health_free(kd_rpc_health *h);
void kd_rpc_health_set(kd_rpc_health *h, const char *service, bool serving);
void kd_rpc_health_stop(kd_rpc_health *h); /* all NOT_SERVING for good, watchers ended */
#define KD_HEALTH_METHODS 2
void kd_rpc_health_methods(kd_rpc_health *h, kd_rpc_method rows[KD_HEALTH_METHODS]);

typedef struct kd_rpc_reflection kd_rpc_reflection;
/* The set is borrowed. -KD_EDATA when it does not parse. */
int kd_rpc_reflection_new(const void *set, size_t len, const kd_rpc_method *methods, size_t n,
                          kd_rpc_reflection **out, kd_diag *diag) KD_MUST_CHECK;
void kd_rpc_reflection_free(kd_rpc_reflection *r);
#define KD_REFLECTION_METHODS 2
void kd_rpc_reflection_methods(kd_rpc_reflection *r, kd_rpc_method rows[KD_REFLECTION_METHODS]);

/* "distill.v1.Jobs" of "/distill.v1.Jobs/Submit" into out. */
void kd_rpc_service_of(const char *path, char *out, size_t size);

#endif

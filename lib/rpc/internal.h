/* Shared by the files of this folder: the tag protocol and small helpers over gRPC types. */
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

/* Every tag on the completion queue points to one of these, embedded in the object that owns the
 * batch. done runs on a poller thread, once. */
struct kd_op {
    void (*done)(struct kd_op *op, bool ok);
};

struct kd_rpc {
    grpc_completion_queue *cq;
    pthread_t *threads;
    int n_threads;
};

/* One byte buffer of the joined parts; the caller owns it. */
grpc_byte_buffer *kd_rpc_join(const struct iovec *parts, int n_parts, size_t *out_len);
/* The whole of a received message as one slice; the buffer stays the caller's. */
grpc_slice kd_rpc_contiguous(grpc_byte_buffer *bb);
gpr_timespec kd_rpc_deadline(int timeout_ms);
/* Text for a status: printable, cut at KD_MAX_STATUS_TEXT. */
void kd_rpc_safe_text(const char *text, char out[KD_MAX_STATUS_TEXT + 1]);

/* Methods that every server has. health.c and reflection.c fill rows; arg is their own state. */
typedef struct kd_rpc_health kd_rpc_health;
kd_rpc_health *kd_rpc_health_new(const kd_rpc_method *methods, size_t n);
void kd_rpc_health_free(kd_rpc_health *h);
void kd_rpc_health_set(kd_rpc_health *h, const char *service, bool serving);
void kd_rpc_health_stop(kd_rpc_health *h); /* all NOT_SERVING, watchers ended */
#define KD_HEALTH_METHODS 2
void kd_rpc_health_methods(kd_rpc_health *h, kd_rpc_method rows[KD_HEALTH_METHODS]);

typedef struct kd_rpc_reflection kd_rpc_reflection;
int kd_rpc_reflection_new(const void *set, size_t len, const kd_rpc_method *methods, size_t n,
                          kd_rpc_reflection **out, kd_diag *diag) KD_MUST_CHECK;
void kd_rpc_reflection_free(kd_rpc_reflection *r);
#define KD_REFLECTION_METHODS 2
void kd_rpc_reflection_methods(kd_rpc_reflection *r, kd_rpc_method rows[KD_REFLECTION_METHODS]);
/* "distill.v1.Jobs" of "/distill.v1.Jobs/Submit" into out (size bytes). */
void kd_rpc_service_of(const char *path, char *out, size_t size);

#endif

/* Unary calls that are answered on the loop: unpacked on gRPC's thread, carried over, handled
 * there. */
#ifndef KD_SERVER_LOOP_CALL_H
#define KD_SERVER_LOOP_CALL_H

#include "daemon.h"

typedef struct kd_loop_call {
    kd_rpc_call *call;
    ProtobufCMessage *m;
    uint8_t *payload; /* of a bulk message */
    size_t payload_len;
    void (*handle)(kd_daemon *d, struct kd_loop_call *c);
} kd_loop_call;

/* Takes m, copies payload. handle answers, unless the coordinator is stopping; all is freed after
 * it. */
void kd_loop_call_post(kd_daemon *d, kd_rpc_call *call, ProtobufCMessage *m, const uint8_t *payload,
                       size_t payload_len, void (*handle)(kd_daemon *, kd_loop_call *));

/* Defines on_message `name` for a message without payload. */
#define KD_LOOP_HANDLER(name, descriptor, function)                                                \
    static void name(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)               \
    {                                                                                              \
        ProtobufCMessage *m = NULL;                                                                \
        kd_diag diag = {0};                                                                        \
        if (kd_wire_unpack_checked(&descriptor, bytes, len, NULL, &m, &diag) != 0)                 \
            kd_rpc_finish_diag(call, &diag);                                                       \
        else                                                                                       \
            kd_loop_call_post(arg, call, m, NULL, 0, function);                                    \
    }

/* A row of a method table. */
#define KD_UNARY(name, limit, handler)                                                             \
    {                                                                                              \
        .path = name, .kind = KD_RPC_UNARY, .max_request = limit, .on_message = handler            \
    }

/* The job that a call names (kd_job_find), which the audit notes; NULL: the call is answered. */
kd_job_record *kd_call_job(kd_daemon *d, kd_rpc_call *call, const char *text);

#endif

#include "loop_call.h"

#include <stdlib.h>
#include <string.h>

static void free_call(kd_loop_call *c)
{
    kd_rpc_call_unref(c->call);
    kd_wire_free(c->m);
    free(c->payload);
    free(c);
}

static void on_loop(kd_daemon *d, void *arg)
{
    kd_loop_call *c = arg;
    /* Its certificate may have been revoked while it waited here. */
    if (kd_access_is_over(d->access, kd_rpc_call_peer(c->call).identity))
        kd_rpc_finish(c->call, -KD_EPERM, "the certificate is over or was revoked");
    else
        c->handle(d, c);
    free_call(c);
}

void kd_loop_call_post(kd_daemon *d, kd_rpc_call *call, ProtobufCMessage *m, const uint8_t *payload,
                       size_t payload_len, void (*handle)(kd_daemon *, kd_loop_call *))
{
    kd_loop_call *c = kd_xalloc(sizeof *c);
    c->call = kd_rpc_call_ref(call);
    c->m = m;
    c->handle = handle;
    if (payload_len) {
        c->payload = malloc(payload_len);
        if (c->payload)
            memcpy(c->payload, payload, payload_len);
        c->payload_len = c->payload ? payload_len : 0;
    }
    if (!kd_daemon_post(d, on_loop, c)) {
        kd_rpc_finish(call, -KD_EUNAVAIL, "the coordinator is stopping");
        free_call(c);
    }
}

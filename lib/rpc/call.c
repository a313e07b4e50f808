/* One call as its server sees it.
 *
 * Counting: `ops` is the number of batches (and of our own sections) whose end is still to come;
 * the call is over when the close has come and ops is 0. Only then the handler hears of the close,
 * the gRPC call is released and the server's count goes down. Each op holds a reference. At most
 * one send and one receive are outstanding: that is the back-pressure. */
#include "internal.h"

#include "kd/peer.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct kd_rpc_call {
    atomic_int refs;
    kd_rpc_server *server;
    const kd_rpc_method *method; /* NULL: refused from the start */
    struct kd_rpc_live live;     /* the server's */
    bool listed;                 /* there */
    size_t max_message;
    char peer[128];
    kd_pki_identity identity;
    kd_time_ms deadline;
    double begun;
    void *data; /* the handler's */

    pthread_mutex_t mu; /* guards all below */
    char note[KD_RPC_NOTE];
    grpc_call *call; /* NULL once it is released */
    int ops;
    bool sending, metadata_sent, closed, cancelled;
    bool finishing; /* the status is decided; no more messages are taken */
    bool finished;  /* the status is on its way */
    int finish_code;
    char finish_text[KD_MAX_STATUS_TEXT + 1];
    kd_outbox out;
    struct kd_op close_op, read_op, send_op;
    int cancelled_flag;         /* written by gRPC before close_op */
    grpc_byte_buffer *received; /* written by gRPC before read_op */
};

/* ---- references and plain facts */

static void set_peer(kd_rpc_call *c, grpc_call *call)
{
    char *peer = grpc_call_get_peer(call);
    kd_peer from;
    if (peer && kd_peer_parse(peer, &from))
        kd_peer_text(&from, c->peer);
    else
        snprintf(c->peer, sizeof c->peer, "%s", peer ? peer : "");
    gpr_free(peer);
}

kd_rpc_call *kd_rpc_call_ref(kd_rpc_call *c)
{
    atomic_fetch_add(&c->refs, 1);
    return c;
}

void kd_rpc_call_unref(kd_rpc_call *c)
{
    if (atomic_fetch_sub(&c->refs, 1) != 1)
        return;
    KD_BUG_ON(c->call != NULL);
    pthread_mutex_destroy(&c->mu);
    free(c);
}

kd_rpc_peer kd_rpc_call_peer(const kd_rpc_call *c)
{
    return (kd_rpc_peer){c->peer, &c->identity};
}

const kd_rpc_method *kd_rpc_call_method(const kd_rpc_call *c)
{
    return c->method;
}

double kd_rpc_call_begun(const kd_rpc_call *c)
{
    return c->begun;
}

kd_time_ms kd_rpc_call_deadline(const kd_rpc_call *c)
{
    return c->deadline;
}

void kd_rpc_call_set_data(kd_rpc_call *c, void *data)
{
    c->data = data;
}

void *kd_rpc_call_data(const kd_rpc_call *c)
{
    return c->data;
}

void kd_rpc_call_set_note(kd_rpc_call *c, const char *note)
{
    pthread_mutex_lock(&c->mu);
    snprintf(c->note, sizeof c->note, "%s", note);
    pthread_mutex_unlock(&c->mu);
}

void kd_rpc_call_note(const kd_rpc_call *c, char out[KD_RPC_NOTE])
{
    pthread_mutex_t *mu = (pthread_mutex_t *)&c->mu;
    pthread_mutex_lock(mu);
    memcpy(out, c->note, KD_RPC_NOTE);
    pthread_mutex_unlock(mu);
}

/* ---- batches; all of these under the lock */

static void start(kd_rpc_call *c, grpc_op *ops, size_t n, struct kd_op *tag)
{
    kd_rpc_call_ref(c);
    c->ops++;
    kd_rpc_start_batch(c->call, ops, n, tag);
}

/* Ends one op; gives the lock back. */
static void end_op(kd_rpc_call *c)
{
    bool over = --c->ops == 0 && c->closed;
    pthread_mutex_unlock(&c->mu);
    if (over) {
        const kd_rpc_method *m = c->method;
        if (m && m->on_close)
            m->on_close(c, c->cancelled, m->arg);
        pthread_mutex_lock(&c->mu);
        grpc_call *call = c->call;
        c->call = NULL;
        kd_outbox_clear(&c->out);
        pthread_mutex_unlock(&c->mu);
        grpc_call_unref(call);
        kd_rpc_server_call_over(c->server, c->listed ? &c->live : NULL,
                                c->finishing ? c->finish_code : -KD_ECANCELED, c->finish_text);
        kd_rpc_call_unref(c); /* the transport's */
    }
    kd_rpc_call_unref(c); /* the op's */
}

/* Sends what is next, the status with the last message. */
static void pump(kd_rpc_call *c)
{
    if (c->sending || c->closed || c->finished)
        return;
    grpc_byte_buffer *bb = kd_outbox_next(&c->out);
    bool last = c->finishing && !c->out.first;
    if (!bb && !last)
        return;
    grpc_op ops[3];
    size_t n = 0;
    memset(ops, 0, sizeof ops);
    if (!c->metadata_sent)
        ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
    c->metadata_sent = true;
    if (bb) {
        ops[n].op = GRPC_OP_SEND_MESSAGE;
        ops[n++].data.send_message.send_message = bb;
    }
    grpc_slice details = grpc_empty_slice();
    if (last) {
        c->finished = true;
        details = grpc_slice_from_copied_string(c->finish_text);
        ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
        ops[n].data.send_status_from_server.status = (grpc_status_code)kd_err_grpc(c->finish_code);
        ops[n++].data.send_status_from_server.status_details = &details;
    }
    c->sending = true;
    start(c, ops, n, &c->send_op);
    grpc_slice_unref(details);
}

static void read_next(kd_rpc_call *c)
{
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &c->received;
    start(c, &op, 1, &c->read_op);
}

/* ---- tags */

static void on_sent(struct kd_op *op, bool ok)
{
    kd_rpc_call *c = KD_RPC_OWNER(op, kd_rpc_call, send_op);
    (void)ok; /* a send fails only on a call that is ending; the close says so */
    pthread_mutex_lock(&c->mu);
    c->sending = false;
    kd_outbox_sent(&c->out);
    pump(c);
    end_op(c);
}

static void on_closed(struct kd_op *op, bool ok)
{
    kd_rpc_call *c = KD_RPC_OWNER(op, kd_rpc_call, close_op);
    (void)ok; /* always true for this op */
    pthread_mutex_lock(&c->mu);
    c->closed = true;
    c->cancelled = c->cancelled_flag != 0;
    end_op(c);
}

static void take_message(kd_rpc_call *c, grpc_byte_buffer *bb)
{
    const kd_rpc_method *m = c->method;
    size_t len = grpc_byte_buffer_length(bb);
    if (len > m->max_request) {
        char text[96];
        snprintf(text, sizeof text, "a request of %zu bytes, at most %zu are accepted", len,
                 m->max_request);
        grpc_byte_buffer_destroy(bb);
        kd_rpc_finish(c, -KD_ELIMIT, text);
        return;
    }
    grpc_slice all = kd_rpc_contiguous(bb);
    grpc_byte_buffer_destroy(bb);
    m->on_message(c, GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all), m->arg);
    grpc_slice_unref(all);
}

static void on_read(struct kd_op *op, bool ok)
{
    kd_rpc_call *c = KD_RPC_OWNER(op, kd_rpc_call, read_op);
    const kd_rpc_method *m = c->method;
    grpc_byte_buffer *bb = c->received;
    c->received = NULL;
    pthread_mutex_lock(&c->mu);
    bool deaf = c->finishing; /* the status is decided */
    pthread_mutex_unlock(&c->mu);
    bool more = ok && bb != NULL && !deaf;
    if (more)
        take_message(c, bb);
    else if (bb)
        grpc_byte_buffer_destroy(bb);
    else if (!deaf && m->kind != KD_RPC_BIDI)
        kd_rpc_finish(c, -KD_EINVAL, "the call carries no message");
    else if (!deaf && m->on_half_close)
        m->on_half_close(c, m->arg);
    pthread_mutex_lock(&c->mu);
    if (more && m->kind == KD_RPC_BIDI && !c->closed && !c->finishing)
        read_next(c);
    end_op(c);
}

/* ---- answers */

static void set_finish(kd_rpc_call *c, int code, const char *text)
{
    c->finishing = true;
    c->finish_code = code;
    kd_rpc_safe_text(text, c->finish_text, sizeof c->finish_text);
}

void kd_rpc_finish(kd_rpc_call *c, int code, const char *text)
{
    pthread_mutex_lock(&c->mu);
    if (!c->finishing && !c->closed) {
        set_finish(c, code, text);
        pump(c);
    }
    pthread_mutex_unlock(&c->mu);
}

void kd_rpc_call_cut(kd_rpc_call *c, int code, const char *text)
{
    pthread_mutex_lock(&c->mu);
    if (c->call && !c->closed) {
        set_finish(c, code, text);
        c->finished = true; /* by gRPC, past what waits */
        kd_outbox_clear(&c->out);
        grpc_call_cancel_with_status(c->call, (grpc_status_code)kd_err_grpc(code), c->finish_text,
                                     NULL);
    }
    pthread_mutex_unlock(&c->mu);
}

void kd_rpc_finish_diag(kd_rpc_call *c, const kd_diag *diag)
{
    kd_rpc_finish(c, diag->code ? diag->code : -KD_EINTERNAL, diag->msg);
}

/* Takes bb over. */
static void reply(kd_rpc_call *c, grpc_byte_buffer *bb)
{
    size_t len = grpc_byte_buffer_length(bb);
    pthread_mutex_lock(&c->mu);
    if (!c->finishing && !c->closed) {
        int rc = kd_outbox_add(&c->out, bb, len);
        bb = NULL;
        set_finish(c, rc, rc ? "no memory for the reply" : "");
        pump(c);
    }
    pthread_mutex_unlock(&c->mu);
    if (bb)
        grpc_byte_buffer_destroy(bb);
}

/* gRPC would cancel the call, and on_close would hear that the client went away. */
static bool too_large(kd_rpc_call *c, size_t len)
{
    char text[96];
    if (len <= c->max_message)
        return false;
    snprintf(text, sizeof text, "a reply of %zu bytes, at most %zu can be sent", len,
             c->max_message);
    kd_rpc_finish(c, -KD_ELIMIT, text);
    return true;
}

void kd_rpc_reply(kd_rpc_call *c, const struct iovec *parts, int n_parts)
{
    if (!too_large(c, kd_rpc_parts_len(parts, n_parts)))
        reply(c, kd_rpc_join(parts, n_parts));
}

kd_rpc_shared *kd_rpc_shared_new(const struct iovec *parts, int n_parts)
{
    return (kd_rpc_shared *)kd_rpc_join(parts, n_parts);
}

void kd_rpc_shared_free(kd_rpc_shared *m)
{
    if (m)
        grpc_byte_buffer_destroy((grpc_byte_buffer *)m);
}

void kd_rpc_reply_shared(kd_rpc_call *c, const kd_rpc_shared *m)
{
    grpc_byte_buffer *bb = (grpc_byte_buffer *)m;
    if (!bb)
        kd_rpc_finish(c, -KD_ENOMEM, "no memory for the reply");
    else if (!too_large(c, grpc_byte_buffer_length(bb)))
        reply(c, grpc_byte_buffer_copy(bb)); /* counts its slices up */
}

int kd_rpc_send(kd_rpc_call *c, const struct iovec *parts, int n_parts)
{
    size_t len = kd_rpc_parts_len(parts, n_parts);
    if (len > c->max_message)
        return -KD_EINVAL;
    pthread_mutex_lock(&c->mu);
    int rc = 0;
    if (c->finishing || c->closed)
        rc = -KD_ECANCELED;
    else if (c->out.queued + len > KD_RPC_MAX_QUEUED && c->out.queued > 0)
        rc = -KD_ELIMIT;
    else
        rc = kd_outbox_add(&c->out, kd_rpc_join(parts, n_parts), len);
    if (rc == 0)
        pump(c);
    pthread_mutex_unlock(&c->mu);
    return rc;
}

size_t kd_rpc_queued(kd_rpc_call *c)
{
    pthread_mutex_lock(&c->mu);
    size_t n = c->out.queued;
    pthread_mutex_unlock(&c->mu);
    return n;
}

/* ---- accepting */

/* gRPC's deadlines and kd_clock_ms both count CLOCK_MONOTONIC, but not from the same zero. */
static kd_time_ms to_clock_ms(gpr_timespec deadline)
{
    deadline = gpr_convert_clock_type(deadline, GPR_CLOCK_MONOTONIC);
    if (gpr_time_cmp(deadline, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0)
        return INT64_MAX;
    gpr_timespec left = gpr_time_sub(deadline, gpr_now(GPR_CLOCK_MONOTONIC));
    return kd_clock_ms() + (kd_time_ms)left.tv_sec * 1000 + left.tv_nsec / 1000000;
}

void kd_rpc_call_serve(kd_rpc_server *s, grpc_call *call, gpr_timespec deadline,
                       const kd_rpc_method *method, size_t max_message, int code, const char *text)
{
    kd_rpc_call *c = calloc(1, sizeof *c);
    if (!c) {
        grpc_call_cancel_with_status(call, GRPC_STATUS_RESOURCE_EXHAUSTED, "out of memory", NULL);
        grpc_call_unref(call);
        kd_rpc_server_call_over(s, NULL, 0, "");
        return;
    }
    atomic_init(&c->refs, 2); /* the transport's and this function's */
    pthread_mutex_init(&c->mu, NULL);
    c->server = s;
    c->call = call;
    c->method = code ? NULL : method;
    c->max_message = max_message;
    c->begun = kd_clock_s();
    c->deadline = to_clock_ms(deadline);
    c->close_op.done = on_closed;
    c->read_op.done = on_read;
    c->send_op.done = on_sent;
    set_peer(c, call);
    kd_rpc_server_identify(s, call, &c->identity);
    c->live.call = c;
    kd_diag why = {0};
    if (code == 0)
        code = kd_rpc_server_enter(s, &c->live, &why);
    c->listed = c->method && code == 0;
    if (c->method && code) {
        c->method = NULL;
        text = why.msg;
    }

    /* Early and alone: the only way to hear of a cancelled call. */
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    op.data.recv_close_on_server.cancelled = &c->cancelled_flag;
    pthread_mutex_lock(&c->mu);
    c->ops++; /* this function: no close is told before the open */
    start(c, &op, 1, &c->close_op);
    pthread_mutex_unlock(&c->mu);
    if (code)
        kd_rpc_finish(c, code, text);
    else if (method->kind == KD_RPC_BIDI && method->on_open)
        method->on_open(c, method->arg);
    pthread_mutex_lock(&c->mu);
    if (c->method && !c->closed && !c->finishing)
        read_next(c);
    end_op(c);
}

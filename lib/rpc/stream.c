/* A client's streams. Counting as in call.c: the stream is over when its status has come and no
 * batch is outstanding; then on_end is called and the transport's reference goes. */
#include "internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct kd_rpc_stream {
    atomic_int refs; /* the caller's and the transport's */
    kd_rpc_channel *ch;
    size_t max_message;
    struct kd_rpc_link link;
    kd_rpc_stream_events ev;
    struct kd_rpc_status status;

    pthread_mutex_t mu; /* guards all below */
    int ops;            /* batches whose tag is still to come */
    bool sending, close_wanted, close_sent, have_status, over;
    kd_outbox out;
    struct kd_op open_op, read_op, send_op, status_op;
    grpc_byte_buffer *received;
};

static void stream_unref(kd_rpc_stream *s)
{
    if (atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    pthread_mutex_destroy(&s->mu);
    free(s);
}

/* ---- batches; all of these under the lock */

static void start(kd_rpc_stream *s, grpc_op *ops, size_t n, struct kd_op *tag)
{
    s->ops++;
    kd_rpc_start_batch(s->link.call, ops, n, tag);
}

/* Ends one op; gives the lock back. */
static void end_op(kd_rpc_stream *s)
{
    s->over = --s->ops == 0 && s->have_status;
    bool over = s->over;
    if (over)
        kd_outbox_clear(&s->out);
    pthread_mutex_unlock(&s->mu);
    if (!over)
        return;
    kd_rpc_result r;
    kd_rpc_status_read(s->ch, &s->status, &r);
    s->ev.on_end(s, r.code, r.text, s->ev.arg);
    kd_rpc_status_clear(&s->status);
    kd_rpc_link_close(s->ch, &s->link);
    stream_unref(s);
}

static void pump(kd_rpc_stream *s)
{
    if (s->sending || s->have_status || s->close_sent)
        return;
    grpc_op op;
    memset(&op, 0, sizeof op);
    grpc_byte_buffer *bb = kd_outbox_next(&s->out);
    if (bb) {
        op.op = GRPC_OP_SEND_MESSAGE;
        op.data.send_message.send_message = bb;
    } else if (s->close_wanted) {
        op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
        s->close_sent = true;
    } else {
        return;
    }
    s->sending = true;
    start(s, &op, 1, &s->send_op);
}

static void read_next(kd_rpc_stream *s)
{
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &s->received;
    start(s, &op, 1, &s->read_op);
}

/* ---- tags */

static void on_stream_sent(struct kd_op *op, bool ok)
{
    kd_rpc_stream *s = KD_RPC_OWNER(op, kd_rpc_stream, send_op);
    (void)ok; /* a send fails only on a stream that is ending; its status says why */
    pthread_mutex_lock(&s->mu);
    s->sending = false;
    kd_outbox_sent(&s->out);
    pump(s);
    end_op(s);
}

static void on_stream_read(struct kd_op *op, bool ok)
{
    kd_rpc_stream *s = KD_RPC_OWNER(op, kd_rpc_stream, read_op);
    grpc_byte_buffer *bb = s->received;
    s->received = NULL;
    bool more = ok && bb != NULL;
    if (more) {
        grpc_slice all = kd_rpc_contiguous(bb);
        s->ev.on_message(s, GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all), s->ev.arg);
        grpc_slice_unref(all);
    }
    if (bb)
        grpc_byte_buffer_destroy(bb);
    pthread_mutex_lock(&s->mu);
    if (more)
        read_next(s);
    end_op(s);
}

static void on_stream_status(struct kd_op *op, bool ok)
{
    kd_rpc_stream *s = KD_RPC_OWNER(op, kd_rpc_stream, status_op);
    (void)ok; /* always true for this op */
    pthread_mutex_lock(&s->mu);
    s->have_status = true;
    end_op(s);
}

static void on_stream_open(struct kd_op *op, bool ok)
{
    kd_rpc_stream *s = KD_RPC_OWNER(op, kd_rpc_stream, open_op);
    (void)ok; /* the status tells */
    pthread_mutex_lock(&s->mu);
    end_op(s);
}

/* ---- what callers use */

int kd_rpc_stream_open(kd_rpc_channel *ch, const char *path, int timeout_ms,
                       const kd_rpc_stream_events *events, kd_rpc_stream **out, kd_diag *diag)
{
    kd_rpc_stream *s = calloc(1, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a stream");
    atomic_init(&s->refs, 2);
    s->ch = ch;
    s->max_message = ch->max_message;
    s->ev = *events;
    s->open_op.done = on_stream_open;
    s->read_op.done = on_stream_read;
    s->send_op.done = on_stream_sent;
    s->status_op.done = on_stream_status;
    int rc = kd_rpc_link_open(ch, &s->link, path, timeout_ms);
    if (rc != 0) {
        free(s);
        return kd_fail(diag, rc, "the channel is closing");
    }
    pthread_mutex_init(&s->mu, NULL);
    kd_rpc_status_init(&s->status);
    grpc_op ops[2];
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &s->status.initial;
    grpc_op end = kd_rpc_status_op(&s->status);
    *out = s; /* before the first event can come */
    pthread_mutex_lock(&s->mu);
    start(s, ops, KD_COUNT(ops), &s->open_op);
    start(s, &end, 1, &s->status_op);
    read_next(s);
    pthread_mutex_unlock(&s->mu);
    return 0;
}

int kd_rpc_stream_send(kd_rpc_stream *s, const struct iovec *parts, int n_parts)
{
    size_t len = kd_rpc_parts_len(parts, n_parts);
    if (len > s->max_message)
        return -KD_EINVAL;
    pthread_mutex_lock(&s->mu);
    int rc = 0;
    if (s->over || s->have_status || s->close_wanted)
        rc = -KD_ECANCELED;
    else if (s->out.queued + len > KD_RPC_MAX_QUEUED && s->out.queued > 0)
        rc = -KD_ELIMIT;
    else
        rc = kd_outbox_add(&s->out, kd_rpc_join(parts, n_parts), len);
    if (rc == 0)
        pump(s);
    pthread_mutex_unlock(&s->mu);
    return rc;
}

void kd_rpc_stream_close_send(kd_rpc_stream *s)
{
    pthread_mutex_lock(&s->mu);
    s->close_wanted = true;
    if (!s->over)
        pump(s);
    pthread_mutex_unlock(&s->mu);
}

void kd_rpc_stream_cancel(kd_rpc_stream *s)
{
    pthread_mutex_lock(&s->mu);
    if (!s->over)
        grpc_call_cancel(s->link.call, NULL);
    pthread_mutex_unlock(&s->mu);
}

void kd_rpc_stream_free(kd_rpc_stream *s)
{
    if (!s)
        return;
    kd_rpc_stream_cancel(s);
    stream_unref(s);
}

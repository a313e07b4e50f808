#include "internal.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_QUEUED (64u << 20)

struct link { /* one running call in its channel's list */
    struct link *prev, *next;
    grpc_call *call;
};

struct kd_rpc_channel {
    kd_rpc *rpc;
    grpc_channel *grpc;
    char *target;
    pthread_mutex_t mu; /* guards the list */
    pthread_cond_t changed;
    struct link calls; /* ring head */
    bool closing;
};

static grpc_arg int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

int kd_rpc_channel_new(kd_rpc *rpc, const char *target, size_t max_message, kd_rpc_channel **out,
                       kd_diag *diag)
{
    const char *colon = strrchr(target, ':');
    char *end = NULL;
    long port = colon ? strtol(colon + 1, &end, 10) : 0;
    if (!colon || colon == target || end == colon + 1 || *end || port < 1 || port > 65535)
        return kd_fail(diag, -KD_EINVAL, "%s is no server address; HOST:PORT was expected", target);
    grpc_arg args[] = {
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)max_message),
        int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, (int)max_message),
        int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, KD_KEEPALIVE_MS),
        int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KD_KEEPALIVE_TIMEOUT_MS),
        int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200),
        int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 200),
        int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5000),
        int_arg(GRPC_ARG_ENABLE_RETRIES, 0), /* whether to call again is our callers' decision */
        int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
    };
    grpc_channel_args channel_args = {KD_COUNT(args), args};
    grpc_channel_credentials *creds = grpc_insecure_credentials_create();
    kd_rpc_channel *ch = kd_xalloc(sizeof *ch);
    ch->grpc = grpc_channel_create(target, creds, &channel_args);
    grpc_channel_credentials_release(creds);
    ch->rpc = rpc;
    ch->target = kd_xstrdup(target);
    ch->calls.prev = ch->calls.next = &ch->calls;
    pthread_mutex_init(&ch->mu, NULL);
    pthread_cond_init(&ch->changed, NULL);
    *out = ch;
    return 0;
}

void kd_rpc_channel_free(kd_rpc_channel *ch)
{
    if (!ch)
        return;
    pthread_mutex_lock(&ch->mu);
    ch->closing = true;
    for (struct link *l = ch->calls.next; l != &ch->calls; l = l->next)
        grpc_call_cancel(l->call, NULL);
    while (ch->calls.next != &ch->calls)
        pthread_cond_wait(&ch->changed, &ch->mu);
    pthread_mutex_unlock(&ch->mu);
    grpc_channel_destroy(ch->grpc);
    pthread_mutex_destroy(&ch->mu);
    pthread_cond_destroy(&ch->changed);
    free(ch->target);
    free(ch);
}

/* Makes the call and lists it; false when the channel is being freed. */
static bool open_call(kd_rpc_channel *ch, struct link *l, const char *path, int timeout_ms)
{
    pthread_mutex_lock(&ch->mu);
    bool go = !ch->closing;
    if (go) {
        grpc_slice method = grpc_slice_from_copied_string(path);
        l->call = grpc_channel_create_call(ch->grpc, NULL, GRPC_PROPAGATE_DEFAULTS, ch->rpc->cq,
                                           method, NULL, kd_rpc_deadline(timeout_ms), NULL);
        grpc_slice_unref(method);
        l->next = &ch->calls;
        l->prev = ch->calls.prev;
        l->prev->next = l->next->prev = l;
    }
    pthread_mutex_unlock(&ch->mu);
    return go;
}

/* Takes the call out of the list and gives it back. After this the channel may be gone. */
static void close_call(kd_rpc_channel *ch, struct link *l)
{
    pthread_mutex_lock(&ch->mu);
    l->prev->next = l->next;
    l->next->prev = l->prev;
    grpc_call_unref(l->call);
    pthread_cond_broadcast(&ch->changed);
    pthread_mutex_unlock(&ch->mu);
}

/* A sentence for people: what the server said, or which address could not be reached. */
static void explain(const kd_rpc_channel *ch, int status, const char *details, char *out, size_t size)
{
    if (status == GRPC_STATUS_OK)
        out[0] = '\0';
    else if (status == GRPC_STATUS_UNAVAILABLE &&
             (strstr(details, "connect") || strstr(details, "Connection") ||
              strstr(details, "Socket closed") || strstr(details, "DNS") || !details[0]))
        snprintf(out, size, "cannot reach coordinator %s: %.300s", ch->target,
                 strstr(details, "refused") ? "connection refused" : details);
    else if (status == GRPC_STATUS_DEADLINE_EXCEEDED)
        snprintf(out, size, "no answer from coordinator %s in time", ch->target);
    else
        snprintf(out, size, "%.900s", details[0] ? details : "the call failed without a reason");
}

struct status {
    grpc_status_code code;
    grpc_slice details;
    grpc_metadata_array trailing, initial;
    const char *error_string;
};

static void status_init(struct status *s)
{
    *s = (struct status){.details = grpc_empty_slice()};
    grpc_metadata_array_init(&s->trailing);
    grpc_metadata_array_init(&s->initial);
}

static void status_clear(struct status *s)
{
    grpc_slice_unref(s->details);
    grpc_metadata_array_destroy(&s->trailing);
    grpc_metadata_array_destroy(&s->initial);
    gpr_free((void *)s->error_string);
}

static grpc_op status_op(struct status *s)
{
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    op.data.recv_status_on_client.trailing_metadata = &s->trailing;
    op.data.recv_status_on_client.status = &s->code;
    op.data.recv_status_on_client.status_details = &s->details;
    op.data.recv_status_on_client.error_string = &s->error_string;
    return op;
}

/* ---- unary */

struct unary {
    struct kd_op op;
    struct link link;
    kd_rpc_channel *ch;
    struct status status;
    grpc_byte_buffer *reply;
    kd_rpc_done done;
    void *arg;
};

static void on_unary(struct kd_op *op, bool ok)
{
    struct unary *u = (struct unary *)op;
    (void)ok; /* a batch with a status always succeeds; the status tells */
    kd_rpc_result r = {.grpc_status = (int)u->status.code};
    char *details = grpc_slice_to_c_string(u->status.details);
    grpc_slice all = grpc_empty_slice();
    explain(u->ch, r.grpc_status, details, r.text, sizeof r.text);
    r.code = kd_err_from_grpc(r.grpc_status);
    if (r.code == 0 && !u->reply) {
        r.code = -KD_EDATA;
        snprintf(r.text, sizeof r.text, "coordinator %s answered without a message", u->ch->target);
    } else if (r.code == 0) {
        all = kd_rpc_contiguous(u->reply);
        r.bytes = GRPC_SLICE_START_PTR(all);
        r.len = GRPC_SLICE_LENGTH(all);
    }
    u->done(&r, u->arg);
    gpr_free(details);
    grpc_slice_unref(all);
    if (u->reply)
        grpc_byte_buffer_destroy(u->reply);
    status_clear(&u->status);
    close_call(u->ch, &u->link);
    free(u);
}

int kd_rpc_unary_start(kd_rpc_channel *ch, const char *path, const struct iovec *parts, int n_parts,
                       int timeout_ms, bool wait_ready, kd_rpc_done done, void *arg)
{
    KD_BUG_ON(timeout_ms <= 0);
    struct unary *u = calloc(1, sizeof *u);
    if (!u)
        return -KD_ENOMEM;
    u->op.done = on_unary;
    u->ch = ch;
    u->done = done;
    u->arg = arg;
    if (!open_call(ch, &u->link, path, timeout_ms)) {
        free(u);
        return -KD_ECANCELED;
    }
    status_init(&u->status);
    size_t len;
    grpc_byte_buffer *request = kd_rpc_join(parts, n_parts, &len);
    grpc_op ops[6];
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    if (wait_ready)
        ops[0].flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY |
                       GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = request;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &u->status.initial;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &u->reply;
    ops[5] = status_op(&u->status);
    KD_BUG_ON(grpc_call_start_batch(u->link.call, ops, 6, u, NULL) != GRPC_CALL_OK);
    grpc_byte_buffer_destroy(request);
    return 0;
}

struct waiting {
    pthread_mutex_t mu;
    pthread_cond_t ready;
    bool there;
    kd_rpc_result *result;
};

static void on_waiting(const kd_rpc_result *r, void *arg)
{
    struct waiting *w = arg;
    *w->result = *r;
    w->result->bytes = NULL;
    if (r->bytes) {
        w->result->bytes = malloc(r->len + 1);
        if (w->result->bytes)
            memcpy(w->result->bytes, r->bytes, r->len);
        else
            w->result->code = -KD_ENOMEM;
    }
    pthread_mutex_lock(&w->mu);
    w->there = true;
    pthread_cond_signal(&w->ready);
    pthread_mutex_unlock(&w->mu);
}

int kd_rpc_unary(kd_rpc_channel *ch, const char *path, const struct iovec *parts, int n_parts,
                 int timeout_ms, bool wait_ready, kd_rpc_result *result)
{
    struct waiting w = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, result};
    *result = (kd_rpc_result){0};
    int rc = kd_rpc_unary_start(ch, path, parts, n_parts, timeout_ms, wait_ready, on_waiting, &w);
    if (rc != 0) {
        result->code = rc;
        snprintf(result->text, sizeof result->text, "%s", kd_err_text(rc));
        return rc;
    }
    pthread_mutex_lock(&w.mu);
    while (!w.there)
        pthread_cond_wait(&w.ready, &w.mu);
    pthread_mutex_unlock(&w.mu);
    pthread_mutex_destroy(&w.mu);
    pthread_cond_destroy(&w.ready);
    return result->code;
}

/* ---- streams */

struct outgoing {
    struct outgoing *next;
    grpc_byte_buffer *bb;
    size_t len;
};

struct kd_rpc_stream {
    atomic_int refs; /* the caller's and one for the transport */
    kd_rpc_channel *ch;
    struct link link;
    kd_rpc_stream_events ev;
    struct status status;

    pthread_mutex_t mu; /* guards all below */
    int ops;
    bool sending, close_wanted, close_sent, have_status, over;
    struct outgoing *out, **out_end, *in_flight;
    size_t queued;
    struct kd_op open_op, read_op, send_op, status_op;
    grpc_byte_buffer *received;
};

#define FROM_OP(op, field) ((kd_rpc_stream *)(void *)((char *)(op)-offsetof(kd_rpc_stream, field)))

static void stream_unref(kd_rpc_stream *s)
{
    if (atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    while (s->out) {
        struct outgoing *o = s->out;
        s->out = o->next;
        grpc_byte_buffer_destroy(o->bb);
        free(o);
    }
    pthread_mutex_destroy(&s->mu);
    free(s);
}

static void start(kd_rpc_stream *s, grpc_op *ops, size_t n, struct kd_op *tag)
{
    s->ops++;
    KD_BUG_ON(grpc_call_start_batch(s->link.call, ops, n, tag, NULL) != GRPC_CALL_OK);
}

/* Ends the handling of a tag; the last one tells the end. Called with the lock, gives it back. */
static void end_op(kd_rpc_stream *s)
{
    bool last = --s->ops == 0 && s->have_status;
    if (last)
        s->over = true;
    pthread_mutex_unlock(&s->mu);
    if (!last)
        return;
    char text[1024];
    char *details = grpc_slice_to_c_string(s->status.details);
    explain(s->ch, (int)s->status.code, details, text, sizeof text);
    s->ev.on_end(s, kd_err_from_grpc((int)s->status.code), text, s->ev.arg);
    gpr_free(details);
    status_clear(&s->status);
    close_call(s->ch, &s->link);
    stream_unref(s);
}

static void pump(kd_rpc_stream *s)
{
    if (s->sending || s->over || s->have_status || s->close_sent)
        return;
    grpc_op op;
    memset(&op, 0, sizeof op);
    if (s->out) {
        s->in_flight = s->out;
        s->out = s->out->next;
        if (!s->out)
            s->out_end = &s->out;
        op.op = GRPC_OP_SEND_MESSAGE;
        op.data.send_message.send_message = s->in_flight->bb;
    } else if (s->close_wanted) {
        op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
        s->close_sent = true;
    } else {
        return;
    }
    s->sending = true;
    start(s, &op, 1, &s->send_op);
}

static void on_stream_sent(struct kd_op *op, bool ok)
{
    kd_rpc_stream *s = FROM_OP(op, send_op);
    (void)ok;
    pthread_mutex_lock(&s->mu);
    s->sending = false;
    if (s->in_flight) {
        s->queued -= s->in_flight->len;
        grpc_byte_buffer_destroy(s->in_flight->bb);
        free(s->in_flight);
        s->in_flight = NULL;
    }
    pump(s);
    end_op(s);
}

static void read_next(kd_rpc_stream *s)
{
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &s->received;
    start(s, &op, 1, &s->read_op);
}

static void on_stream_read(struct kd_op *op, bool ok)
{
    kd_rpc_stream *s = FROM_OP(op, read_op);
    grpc_byte_buffer *bb = ok ? s->received : NULL;
    s->received = NULL;
    if (bb) {
        grpc_slice all = kd_rpc_contiguous(bb);
        grpc_byte_buffer_destroy(bb);
        s->ev.on_message(s, GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all), s->ev.arg);
        grpc_slice_unref(all);
    }
    pthread_mutex_lock(&s->mu);
    if (bb)
        read_next(s);
    end_op(s);
}

static void on_stream_status(struct kd_op *op, bool ok)
{
    kd_rpc_stream *s = FROM_OP(op, status_op);
    (void)ok;
    pthread_mutex_lock(&s->mu);
    s->have_status = true;
    end_op(s);
}

static void on_stream_open(struct kd_op *op, bool ok)
{
    kd_rpc_stream *s = FROM_OP(op, open_op);
    (void)ok;
    pthread_mutex_lock(&s->mu);
    end_op(s);
}

int kd_rpc_stream_open(kd_rpc_channel *ch, const char *path, int timeout_ms,
                       const kd_rpc_stream_events *events, kd_rpc_stream **out, kd_diag *diag)
{
    kd_rpc_stream *s = kd_xalloc(sizeof *s);
    atomic_init(&s->refs, 2);
    s->ch = ch;
    s->ev = *events;
    s->out_end = &s->out;
    pthread_mutex_init(&s->mu, NULL);
    s->open_op.done = on_stream_open;
    s->read_op.done = on_stream_read;
    s->send_op.done = on_stream_sent;
    s->status_op.done = on_stream_status;
    if (!open_call(ch, &s->link, path, timeout_ms)) {
        pthread_mutex_destroy(&s->mu);
        free(s);
        return kd_fail(diag, -KD_ECANCELED, "the channel is closing");
    }
    status_init(&s->status);
    grpc_op ops[2];
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &s->status.initial;
    grpc_op end = status_op(&s->status);
    pthread_mutex_lock(&s->mu);
    *out = s;
    start(s, ops, 2, &s->open_op);
    start(s, &end, 1, &s->status_op);
    read_next(s);
    pthread_mutex_unlock(&s->mu);
    return 0;
}

int kd_rpc_stream_send(kd_rpc_stream *s, const struct iovec *parts, int n_parts)
{
    struct outgoing *o = malloc(sizeof *o);
    if (!o)
        return -KD_ENOMEM;
    o->next = NULL;
    o->bb = kd_rpc_join(parts, n_parts, &o->len);
    pthread_mutex_lock(&s->mu);
    int rc = s->over || s->have_status || s->close_wanted ? -KD_ECANCELED
             : s->queued + o->len > MAX_QUEUED            ? -KD_ELIMIT
                                                          : 0;
    if (rc == 0) {
        s->queued += o->len;
        *s->out_end = o;
        s->out_end = &o->next;
        pump(s);
    }
    pthread_mutex_unlock(&s->mu);
    if (rc != 0) {
        grpc_byte_buffer_destroy(o->bb);
        free(o);
    }
    return rc;
}

void kd_rpc_stream_close_send(kd_rpc_stream *s)
{
    pthread_mutex_lock(&s->mu);
    s->close_wanted = true;
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

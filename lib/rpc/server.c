#include "internal.h"

#include "kd/log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ACCEPTS 32                 /* calls that may arrive before one is re-posted */
#define MAX_QUEUED (8u << 20)      /* bytes waiting in one stream */
#define INTERNAL_METHODS (KD_HEALTH_METHODS + KD_REFLECTION_METHODS)

struct outgoing {
    struct outgoing *next;
    grpc_byte_buffer *bb;
    size_t len;
};

struct kd_rpc_call {
    atomic_int refs;
    kd_rpc_server *server;
    const kd_rpc_method *method; /* NULL: unknown */
    char peer[128];
    kd_time_ms deadline;
    void *data;

    pthread_mutex_t mu; /* guards all below */
    grpc_call *call;    /* NULL once the transport is done with it */
    int ops;            /* batches whose tag is still to come */
    bool opened;        /* handler knows of it */
    bool reading, sending, closed, cancelled, close_told;
    bool metadata_sent, finishing, finished;
    int finish_code;
    char finish_text[KD_MAX_STATUS_TEXT + 1];
    struct outgoing *out, **out_end;
    size_t queued;

    struct kd_op close_op, read_op, send_op;
    int cancelled_flag; /* written by gRPC */
    grpc_byte_buffer *received;
    struct outgoing *in_flight;
};

struct accept {
    struct kd_op op;
    kd_rpc_server *server;
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
};

struct kd_rpc_server {
    kd_rpc *rpc;
    grpc_server *grpc;
    const kd_rpc_method *methods;
    size_t n_methods;
    kd_rpc_method internal[INTERNAL_METHODS];
    size_t n_internal;
    int port;
    kd_rpc_health *health;
    kd_rpc_reflection *reflection;

    pthread_mutex_t mu; /* guards all below */
    pthread_cond_t changed;
    bool stopping, shut_down, stopped;
    int accepts, calls; /* outstanding */
    struct kd_op shutdown_op;
};

/* ---- references */

kd_rpc_call *kd_rpc_call_ref(kd_rpc_call *c)
{
    atomic_fetch_add(&c->refs, 1);
    return c;
}

static void drop_queue(kd_rpc_call *c)
{
    while (c->out) {
        struct outgoing *o = c->out;
        c->out = o->next;
        grpc_byte_buffer_destroy(o->bb);
        free(o);
    }
    c->out_end = &c->out;
    c->queued = 0;
}

void kd_rpc_call_unref(kd_rpc_call *c)
{
    if (atomic_fetch_sub(&c->refs, 1) != 1)
        return;
    KD_BUG_ON(c->call != NULL);
    drop_queue(c);
    pthread_mutex_destroy(&c->mu);
    free(c);
}

kd_rpc_peer kd_rpc_call_peer(const kd_rpc_call *c)
{
    return (kd_rpc_peer){c->peer, ""};
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

/* ---- batches */

/* Under the lock. The call object stays until the tag has come. */
static void start(kd_rpc_call *c, grpc_op *ops, size_t n, struct kd_op *tag)
{
    kd_rpc_call_ref(c);
    c->ops++;
    grpc_call_error e = grpc_call_start_batch(c->call, ops, n, tag, NULL);
    KD_BUG_ON(e != GRPC_CALL_OK);
}

/* Under the lock, at the end of each tag: when the transport has nothing more to say, its call goes,
 * and the handler is told once that this is over. Returns true when the caller must tell. */
static bool settle(kd_rpc_call *c)
{
    if (!c->closed || c->ops > 0 || c->close_told)
        return false;
    c->close_told = true;
    return true;
}

static void tell_close(kd_rpc_call *c)
{
    if (c->opened && c->method && c->method->on_close)
        c->method->on_close(c, c->cancelled, c->method->arg);
    pthread_mutex_lock(&c->mu);
    grpc_call *call = c->call;
    c->call = NULL;
    pthread_mutex_unlock(&c->mu);
    grpc_call_unref(call);
    kd_rpc_server *s = c->server;
    kd_rpc_call_unref(c);
    pthread_mutex_lock(&s->mu);
    s->calls--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
}

/* Ends the handling of a tag: drops its count, tells the close if it was the last. */
static void end_op(kd_rpc_call *c)
{
    c->ops--;
    bool tell = settle(c);
    pthread_mutex_unlock(&c->mu);
    if (tell)
        tell_close(c);
    kd_rpc_call_unref(c);
}

/* Under the lock: sends what is next, one batch at a time. */
static void pump(kd_rpc_call *c)
{
    if (c->sending || c->closed || !c->call || c->finished)
        return;
    bool last = c->finishing && (!c->out || !c->out->next);
    if (!c->out && !last)
        return;
    grpc_op ops[3];
    size_t n = 0;
    memset(ops, 0, sizeof ops);
    if (!c->metadata_sent)
        ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
    c->metadata_sent = true;
    if (c->out) {
        struct outgoing *o = c->out;
        c->out = o->next;
        if (!c->out)
            c->out_end = &c->out;
        c->in_flight = o;
        ops[n].op = GRPC_OP_SEND_MESSAGE;
        ops[n++].data.send_message.send_message = o->bb;
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

#define FROM_OP(op, field) ((kd_rpc_call *)(void *)((char *)(op)-offsetof(kd_rpc_call, field)))

static void on_sent(struct kd_op *op, bool ok)
{
    kd_rpc_call *c = FROM_OP(op, send_op);
    (void)ok; /* a failed send is followed by the close */
    pthread_mutex_lock(&c->mu);
    c->sending = false;
    if (c->in_flight) {
        c->queued -= c->in_flight->len;
        grpc_byte_buffer_destroy(c->in_flight->bb);
        free(c->in_flight);
        c->in_flight = NULL;
    }
    pump(c);
    end_op(c);
}

static void on_closed(struct kd_op *op, bool ok)
{
    kd_rpc_call *c = FROM_OP(op, close_op);
    (void)ok;
    pthread_mutex_lock(&c->mu);
    c->closed = true;
    c->cancelled = c->cancelled_flag != 0;
    end_op(c);
}

static void read_next(kd_rpc_call *c)
{
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &c->received;
    c->reading = true;
    start(c, &op, 1, &c->read_op);
}

static void on_read(struct kd_op *op, bool ok)
{
    kd_rpc_call *c = FROM_OP(op, read_op);
    const kd_rpc_method *m = c->method;
    grpc_byte_buffer *bb = ok ? c->received : NULL;
    c->received = NULL;
    if (bb) {
        size_t len = grpc_byte_buffer_length(bb);
        if (len > m->max_request) {
            char text[96];
            snprintf(text, sizeof text, "a request of %zu bytes, at most %zu are accepted", len,
                     m->max_request);
            kd_rpc_finish(c, -KD_ELIMIT, text);
            bb = (grpc_byte_buffer_destroy(bb), NULL);
        } else {
            grpc_slice all = kd_rpc_contiguous(bb);
            grpc_byte_buffer_destroy(bb);
            m->on_message(c, GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all), m->arg);
            grpc_slice_unref(all);
        }
        pthread_mutex_lock(&c->mu);
        c->reading = false;
        if (bb && m->kind == KD_RPC_BIDI && !c->closed && !c->finished)
            read_next(c);
        end_op(c);
        return;
    }
    /* End of the client's messages, or the call is over; for one request both are an error. */
    if (m->kind != KD_RPC_BIDI)
        kd_rpc_finish(c, -KD_EINVAL, "the call carries no message");
    else if (m->on_half_close)
        m->on_half_close(c, m->arg);
    pthread_mutex_lock(&c->mu);
    c->reading = false;
    end_op(c);
}

/* ---- answers */

static int enqueue(kd_rpc_call *c, const struct iovec *parts, int n_parts)
{
    struct outgoing *o = malloc(sizeof *o);
    if (!o)
        return -KD_ENOMEM;
    o->next = NULL;
    o->bb = kd_rpc_join(parts, n_parts, &o->len);
    c->queued += o->len;
    *c->out_end = o;
    c->out_end = &o->next;
    return 0;
}

static void set_finish(kd_rpc_call *c, int code, const char *text)
{
    c->finishing = true;
    c->finish_code = code;
    kd_rpc_safe_text(text, c->finish_text);
}

void kd_rpc_reply(kd_rpc_call *c, const struct iovec *parts, int n_parts)
{
    pthread_mutex_lock(&c->mu);
    if (!c->finishing && !c->closed) {
        int rc = enqueue(c, parts, n_parts);
        set_finish(c, rc, rc ? "no memory for the reply" : "");
        pump(c);
    }
    pthread_mutex_unlock(&c->mu);
}

int kd_rpc_send(kd_rpc_call *c, const struct iovec *parts, int n_parts)
{
    size_t len = 0;
    for (int i = 0; i < n_parts; i++)
        len += parts[i].iov_len;
    pthread_mutex_lock(&c->mu);
    int rc = c->finishing || c->closed                       ? -KD_ECANCELED
             : c->queued && c->queued + len > MAX_QUEUED ? -KD_ELIMIT
                                                             : enqueue(c, parts, n_parts);
    if (rc == 0)
        pump(c);
    pthread_mutex_unlock(&c->mu);
    return rc;
}

size_t kd_rpc_queued(kd_rpc_call *c)
{
    pthread_mutex_lock(&c->mu);
    size_t n = c->queued;
    pthread_mutex_unlock(&c->mu);
    return n;
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

void kd_rpc_finish_diag(kd_rpc_call *c, const kd_diag *diag)
{
    kd_rpc_finish(c, diag->code ? diag->code : -KD_EINTERNAL, diag->msg);
}

/* ---- accepting */

static const kd_rpc_method *find_method(const kd_rpc_server *s, grpc_slice path)
{
    for (size_t i = 0; i < s->n_methods; i++)
        if (grpc_slice_str_cmp(path, s->methods[i].path) == 0)
            return &s->methods[i];
    for (size_t i = 0; i < s->n_internal; i++)
        if (grpc_slice_str_cmp(path, s->internal[i].path) == 0)
            return &s->internal[i];
    return NULL;
}

static kd_time_ms to_clock_ms(gpr_timespec deadline)
{
    deadline = gpr_convert_clock_type(deadline, GPR_CLOCK_MONOTONIC);
    if (gpr_time_cmp(deadline, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0)
        return INT64_MAX;
    gpr_timespec left = gpr_time_sub(deadline, gpr_now(GPR_CLOCK_MONOTONIC));
    return kd_clock_ms() + (kd_time_ms)left.tv_sec * 1000 + left.tv_nsec / 1000000;
}

static void serve(struct accept *a)
{
    kd_rpc_server *s = a->server;
    kd_rpc_call *c = kd_xalloc(sizeof *c);
    atomic_init(&c->refs, 1);
    pthread_mutex_init(&c->mu, NULL);
    c->server = s;
    c->call = a->call;
    c->out_end = &c->out;
    c->method = find_method(s, a->details.method);
    c->deadline = to_clock_ms(a->details.deadline);
    c->close_op.done = on_closed;
    c->read_op.done = on_read;
    c->send_op.done = on_sent;
    char *peer = grpc_call_get_peer(a->call);
    snprintf(c->peer, sizeof c->peer, "%s", peer ? peer : "");
    gpr_free(peer);

    /* Early and alone: the only way to hear of a cancelled call. */
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    op.data.recv_close_on_server.cancelled = &c->cancelled_flag;
    kd_rpc_call_ref(c); /* until this function is done with it */
    pthread_mutex_lock(&c->mu);
    start(c, &op, 1, &c->close_op);
    c->opened = c->method != NULL;
    c->ops++; /* keeps the close from being told before the open */
    pthread_mutex_unlock(&c->mu);
    if (!c->method) {
        char text[256];
        char *path = grpc_slice_to_c_string(a->details.method);
        snprintf(text, sizeof text, "this server has no method %.200s", path);
        gpr_free(path);
        kd_rpc_finish(c, -KD_EUNSUP, text);
    } else if (c->method->kind == KD_RPC_BIDI && c->method->on_open) {
        c->method->on_open(c, c->method->arg);
    }
    pthread_mutex_lock(&c->mu);
    if (c->method && !c->closed)
        read_next(c);
    end_op(c);
}

static void on_accept(struct kd_op *op, bool ok);

static void post_accept(kd_rpc_server *s)
{
    struct accept *a = kd_xalloc(sizeof *a);
    a->op.done = on_accept;
    a->server = s;
    grpc_call_details_init(&a->details);
    grpc_metadata_array_init(&a->metadata);
    pthread_mutex_lock(&s->mu);
    bool go = !s->stopping && grpc_server_request_call(s->grpc, &a->call, &a->details, &a->metadata,
                                                       s->rpc->cq, s->rpc->cq,
                                                       a) == GRPC_CALL_OK;
    s->accepts += go;
    pthread_mutex_unlock(&s->mu);
    if (!go) {
        grpc_call_details_destroy(&a->details);
        grpc_metadata_array_destroy(&a->metadata);
        free(a);
    }
}

static void on_accept(struct kd_op *op, bool ok)
{
    struct accept *a = (struct accept *)op;
    kd_rpc_server *s = a->server;
    if (ok) {
        pthread_mutex_lock(&s->mu);
        s->calls++;
        pthread_mutex_unlock(&s->mu);
        post_accept(s);
        serve(a);
    }
    grpc_call_details_destroy(&a->details);
    grpc_metadata_array_destroy(&a->metadata);
    free(a);
    pthread_mutex_lock(&s->mu);
    s->accepts--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
}

/* ---- life */

static grpc_arg int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

int kd_rpc_server_new(kd_rpc *rpc, const kd_rpc_server_config *cfg, kd_rpc_server **out,
                      kd_diag *diag)
{
    const char *colon = strrchr(cfg->listen, ':');
    char *end = NULL;
    long want = colon ? strtol(colon + 1, &end, 10) : -1;
    if (!colon || colon == cfg->listen || end == colon + 1 || *end || want < 0 || want > 65535)
        return kd_fail(diag, -KD_EINVAL, "%s is no address to listen on; HOST:PORT was expected",
                       cfg->listen);
    kd_rpc_server *s = kd_xalloc(sizeof *s);
    s->rpc = rpc;
    s->methods = cfg->methods;
    s->n_methods = cfg->n_methods;
    pthread_mutex_init(&s->mu, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    s->health = kd_rpc_health_new(cfg->methods, cfg->n_methods);
    kd_rpc_health_methods(s->health, s->internal);
    s->n_internal = KD_HEALTH_METHODS;
    if (cfg->descriptor_set) {
        int rc = kd_rpc_reflection_new(cfg->descriptor_set, cfg->descriptor_set_len, cfg->methods,
                                       cfg->n_methods, &s->reflection, diag);
        if (rc != 0) {
            kd_rpc_health_free(s->health);
            free(s);
            return rc;
        }
        kd_rpc_reflection_methods(s->reflection, s->internal + s->n_internal);
        s->n_internal += KD_REFLECTION_METHODS;
    }
    grpc_arg args[] = {
        int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0),
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)cfg->max_message),
        int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, (int)cfg->max_message),
        int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, KD_KEEPALIVE_MS),
        int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KD_KEEPALIVE_TIMEOUT_MS),
        int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, KD_SERVER_MIN_PING_MS),
        int_arg(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0),
        int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
    };
    grpc_channel_args channel_args = {KD_COUNT(args), args};
    s->grpc = grpc_server_create(&channel_args, NULL);
    grpc_server_register_completion_queue(s->grpc, rpc->cq, NULL);
    grpc_server_credentials *creds = grpc_insecure_server_credentials_create();
    s->port = grpc_server_add_http2_port(s->grpc, cfg->listen, creds);
    grpc_server_credentials_release(creds);
    if (s->port == 0) {
        kd_rpc_server_free(s);
        return kd_fail(diag, -KD_EEXIST,
                       "cannot listen on %s: the port is taken or the address is not of this machine",
                       cfg->listen);
    }
    grpc_server_start(s->grpc);
    for (int i = 0; i < ACCEPTS; i++)
        post_accept(s);
    *out = s;
    return 0;
}

int kd_rpc_server_port(const kd_rpc_server *s)
{
    return s->port;
}

void kd_rpc_server_set_health(kd_rpc_server *s, const char *service, bool serving)
{
    kd_rpc_health_set(s->health, service, serving);
}

static void on_shutdown(struct kd_op *op, bool ok)
{
    kd_rpc_server *s =
        (kd_rpc_server *)(void *)((char *)op - offsetof(kd_rpc_server, shutdown_op));
    (void)ok;
    pthread_mutex_lock(&s->mu);
    s->shut_down = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
}

void kd_rpc_server_stop(kd_rpc_server *s, int grace_ms)
{
    pthread_mutex_lock(&s->mu);
    if (s->stopping) {
        pthread_mutex_unlock(&s->mu);
        return;
    }
    s->stopping = true;
    pthread_mutex_unlock(&s->mu);
    kd_rpc_health_stop(s->health);
    s->shutdown_op.done = on_shutdown;
    grpc_server_shutdown_and_notify(s->grpc, s->rpc->cq, &s->shutdown_op);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += grace_ms / 1000;
    until.tv_nsec += (long)(grace_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&s->mu);
    while (!s->shut_down && pthread_cond_timedwait(&s->changed, &s->mu, &until) == 0) {
    }
    bool cancel = !s->shut_down;
    pthread_mutex_unlock(&s->mu);
    if (cancel)
        grpc_server_cancel_all_calls(s->grpc);
    pthread_mutex_lock(&s->mu);
    while (!s->shut_down || s->calls > 0 || s->accepts > 0)
        pthread_cond_wait(&s->changed, &s->mu);
    pthread_mutex_unlock(&s->mu);
}

void kd_rpc_server_free(kd_rpc_server *s)
{
    if (!s)
        return;
    kd_rpc_server_stop(s, 0);
    grpc_server_destroy(s->grpc);
    kd_rpc_health_free(s->health);
    kd_rpc_reflection_free(s->reflection);
    pthread_mutex_destroy(&s->mu);
    pthread_cond_destroy(&s->changed);
    free(s);
}

/* A client's channel and its unary calls. */
#include "internal.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOOK_MS 50        /* who waits looks so often whether to go on */
#define RECONNECT_MS 5000 /* calls that fail together are one reason */

static grpc_channel *make_channel(const char *what, const char *target, const kd_rpc_tls *tls,
                                  size_t max_message)
{
    grpc_arg args[KD_RPC_COMMON_ARGS + 8];
    size_t n = kd_rpc_common_args(max_message, args);
    for (size_t i = 0; i < n && strcmp(what, KD_RPC_COORDINATOR) != 0; i++)
        if (strcmp(args[i].key, GRPC_ARG_KEEPALIVE_TIME_MS) == 0)
            args[i].value.integer = INT_MAX;
    args[n++] = kd_rpc_int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
    args[n++] = kd_rpc_int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5000);
    /* Despite its name this bounds one attempt to connect, not the pause between two. */
    args[n++] = kd_rpc_int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 3000);
    /* Whether to call again is our callers' decision. */
    args[n++] = kd_rpc_int_arg(GRPC_ARG_ENABLE_RETRIES, 0);
    /* Connections and their back-off are not shared between channels. */
    args[n++] = kd_rpc_int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    /* $http_proxy is not meant for the cluster. */
    args[n++] = kd_rpc_int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    args[n++] = kd_rpc_int_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
    grpc_channel_args channel_args = {n, args};
    /* With its scheme, so that no host name is taken for one. */
    char uri[300];
    snprintf(uri, sizeof uri, "dns:///%s", target);
    grpc_channel_credentials *creds = kd_rpc_channel_creds(tls);
    grpc_channel *made = grpc_channel_create(uri, creds, &channel_args);
    grpc_channel_credentials_release(creds);
    return made;
}

int kd_rpc_channel_new(kd_rpc *rpc, const char *target, const kd_rpc_tls *tls, size_t max_message,
                       kd_rpc_channel **out, kd_diag *diag)
{
    return kd_rpc_channel_new_foreign(rpc, KD_RPC_COORDINATOR, target, tls, max_message, out, diag);
}

int kd_rpc_channel_new_foreign(kd_rpc *rpc, const char *what, const char *target,
                               const kd_rpc_tls *tls, size_t max_message, kd_rpc_channel **out,
                               kd_diag *diag)
{
    const char *colon = strrchr(target, ':');
    char *end = NULL;
    long port = colon ? strtol(colon + 1, &end, 10) : 0;
    if (!colon || colon == target || strlen(target) > 255 || end == colon + 1 || *end || port < 1 ||
        port > 65535)
        return kd_fail(diag, -KD_EINVAL, "%.300s is no server address; HOST:PORT was expected",
                       target);
    kd_rpc_channel *ch = kd_xalloc(sizeof *ch);
    ch->grpc = make_channel(what, target, tls, max_message);
    ch->rpc = rpc;
    ch->target = kd_xstrdup(target);
    ch->what = what;
    ch->max_message = max_message;
    ch->plain = !tls;
    ch->calls.prev = ch->calls.next = &ch->calls;
    pthread_mutex_init(&ch->mu, NULL);
    pthread_cond_init(&ch->changed, NULL);
    *out = ch;
    return 0;
}

static bool has_calls(const kd_rpc_channel *ch, const grpc_channel *grpc)
{
    for (const struct kd_rpc_link *l = ch->calls.next; l != &ch->calls; l = l->next)
        if (l->grpc == grpc)
            return true;
    return false;
}

/* Channels whose last call has ended. Under the lock. */
static void drop_retired(kd_rpc_channel *ch)
{
    for (int i = ch->n_retired; i-- > 0;) {
        if (has_calls(ch, ch->retired[i]))
            continue;
        grpc_channel_destroy(ch->retired[i]);
        ch->retired[i] = ch->retired[--ch->n_retired];
    }
}

/* Calls from now on are made on another one. Under the lock. */
static void replace(kd_rpc_channel *ch, grpc_channel *made)
{
    drop_retired(ch);
    if (ch->n_retired == KD_RPC_RETIRED) { /* the oldest one's calls end; their callers try again */
        for (struct kd_rpc_link *l = ch->calls.next; l != &ch->calls; l = l->next)
            if (l->grpc == ch->retired[0])
                grpc_call_cancel(l->call, NULL);
        grpc_channel_destroy(ch->retired[0]);
        memmove(ch->retired, ch->retired + 1, --ch->n_retired * sizeof *ch->retired);
    }
    ch->retired[ch->n_retired++] = ch->grpc;
    ch->grpc = made;
    drop_retired(ch);
}

void kd_rpc_channel_set_tls(kd_rpc_channel *ch, const kd_rpc_tls *tls)
{
    grpc_channel *made = make_channel(ch->what, ch->target, tls, ch->max_message);
    pthread_mutex_lock(&ch->mu);
    replace(ch, made);
    pthread_mutex_unlock(&ch->mu);
}

void kd_rpc_channel_reconnect(kd_rpc_channel *ch)
{
    pthread_mutex_lock(&ch->mu);
    const kd_time_ms now = kd_clock_ms();
    if (ch->plain && !ch->closing && now >= ch->reconnect_at) {
        ch->reconnect_at = now + RECONNECT_MS;
        for (struct kd_rpc_link *l = ch->calls.next; l != &ch->calls; l = l->next)
            grpc_call_cancel_with_status(l->call, GRPC_STATUS_UNAVAILABLE,
                                         "the connection was given up", NULL);
        replace(ch, make_channel(ch->what, ch->target, NULL, ch->max_message));
    }
    pthread_mutex_unlock(&ch->mu);
}

void kd_rpc_channel_close(kd_rpc_channel *ch)
{
    pthread_mutex_lock(&ch->mu);
    ch->closing = true;
    for (struct kd_rpc_link *l = ch->calls.next; l != &ch->calls; l = l->next)
        grpc_call_cancel(l->call, NULL);
    pthread_mutex_unlock(&ch->mu);
}

void kd_rpc_channel_free(kd_rpc_channel *ch)
{
    if (!ch)
        return;
    kd_rpc_channel_close(ch);
    pthread_mutex_lock(&ch->mu);
    while (ch->calls.next != &ch->calls)
        pthread_cond_wait(&ch->changed, &ch->mu);
    drop_retired(ch);
    pthread_mutex_unlock(&ch->mu);
    grpc_channel_destroy(ch->grpc);
    pthread_mutex_destroy(&ch->mu);
    pthread_cond_destroy(&ch->changed);
    free(ch->target);
    free(ch);
}

int kd_rpc_link_open(kd_rpc_channel *ch, struct kd_rpc_link *l, const char *path, int timeout_ms)
{
    pthread_mutex_lock(&ch->mu);
    bool go = !ch->closing;
    if (go) {
        grpc_slice method = grpc_slice_from_copied_string(path);
        l->grpc = ch->grpc;
        l->call = grpc_channel_create_call(l->grpc, NULL, GRPC_PROPAGATE_DEFAULTS, ch->rpc->cq,
                                           method, NULL, kd_rpc_deadline(timeout_ms), NULL);
        grpc_slice_unref(method);
        l->next = &ch->calls;
        l->prev = ch->calls.prev;
        l->prev->next = l->next->prev = l;
    }
    pthread_mutex_unlock(&ch->mu);
    return go ? 0 : -KD_ECANCELED;
}

void kd_rpc_link_close(kd_rpc_channel *ch, struct kd_rpc_link *l)
{
    /* The unref comes first and the list last: freeing the channel waits for the list alone. */
    pthread_mutex_lock(&ch->mu);
    grpc_call_unref(l->call);
    l->prev->next = l->next;
    l->next->prev = l->prev;
    if (ch->n_retired)
        drop_retired(ch);
    pthread_cond_broadcast(&ch->changed);
    pthread_mutex_unlock(&ch->mu);
}

void kd_rpc_status_init(struct kd_rpc_status *s)
{
    *s = (struct kd_rpc_status){.details = grpc_empty_slice()};
    grpc_metadata_array_init(&s->trailing);
    grpc_metadata_array_init(&s->initial);
}

void kd_rpc_status_clear(struct kd_rpc_status *s)
{
    grpc_slice_unref(s->details);
    grpc_metadata_array_destroy(&s->trailing);
    grpc_metadata_array_destroy(&s->initial);
    gpr_free((void *)s->error_string);
}

grpc_op kd_rpc_status_op(struct kd_rpc_status *s)
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

void kd_rpc_status_read(kd_rpc_channel *ch, const struct kd_rpc_status *s, kd_rpc_result *out)
{
    char *details = grpc_slice_to_c_string(s->details);
    bool from_peer = s->error_string && strstr(s->error_string, "Error received from peer");
    pthread_mutex_lock(&ch->mu); /* it may be replaced */
    bool connected = grpc_channel_check_connectivity_state(ch->grpc, 0) == GRPC_CHANNEL_READY;
    pthread_mutex_unlock(&ch->mu);
    *out = (kd_rpc_result){.grpc_status = (int)s->code, .code = kd_err_from_grpc((int)s->code)};
    out->untrusted = kd_rpc_explain(ch->what, ch->target, (int)s->code, details, from_peer,
                                    connected, out->text, sizeof out->text);
    out->oversize = kd_rpc_too_large((int)s->code, details, ch->max_message);
    gpr_free(details);
    /* A connection that broke in the middle of something ends calls with these; nobody refused
     * them. */
    if (!from_peer && (s->code == GRPC_STATUS_UNKNOWN || s->code == GRPC_STATUS_INTERNAL))
        out->code = -KD_EUNAVAIL;
}

/* ---- unary calls */

struct unary {
    struct kd_op op;
    struct kd_rpc_link link;
    kd_rpc_channel *ch;
    struct kd_rpc_status status;
    grpc_byte_buffer *request, *reply;
    kd_rpc_done done;
    void *arg;
    bool keep; /* done takes the bytes over */
};

static void on_unary(struct kd_op *op, bool ok)
{
    struct unary *u = KD_RPC_OWNER(op, struct unary, op);
    (void)ok; /* a batch with a status always succeeds; the status tells */
    kd_rpc_result r;
    grpc_slice all = grpc_empty_slice();
    kd_rpc_status_read(u->ch, &u->status, &r);
    if (r.code == 0 && !u->reply) {
        r.code = -KD_EDATA;
        snprintf(r.text, sizeof r.text, "%s %s answered without a message", u->ch->what,
                 u->ch->target);
    } else if (r.code == 0 && u->keep) {
        r.bytes = kd_rpc_gather(u->reply, &r.len);
        if (!r.bytes) {
            r.code = -KD_ENOMEM;
            snprintf(r.text, sizeof r.text, "no memory for a reply");
        }
    } else if (r.code == 0) {
        all = kd_rpc_contiguous(u->reply);
        r.bytes = GRPC_SLICE_START_PTR(all);
        r.len = GRPC_SLICE_LENGTH(all);
    }
    u->done(&r, u->arg);
    grpc_slice_unref(all);
    grpc_byte_buffer_destroy(u->request);
    if (u->reply)
        grpc_byte_buffer_destroy(u->reply);
    kd_rpc_status_clear(&u->status);
    kd_rpc_link_close(u->ch, &u->link);
    free(u);
}

static int start_unary(kd_rpc_channel *ch, const char *path, const struct iovec *parts, int n_parts,
                       int timeout_ms, bool wait_ready, bool keep, kd_rpc_done done, void *arg)
{
    KD_BUG_ON(timeout_ms <= 0);
    struct unary *u = calloc(1, sizeof *u);
    if (!u)
        return -KD_ENOMEM;
    u->op.done = on_unary;
    u->ch = ch;
    u->done = done;
    u->arg = arg;
    u->keep = keep;
    int rc = kd_rpc_link_open(ch, &u->link, path, timeout_ms);
    if (rc != 0) {
        free(u);
        return rc;
    }
    kd_rpc_status_init(&u->status);
    u->request = kd_rpc_join(parts, n_parts);
    grpc_op ops[6];
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    if (wait_ready)
        ops[0].flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY |
                       GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = u->request;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &u->status.initial;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &u->reply;
    ops[5] = kd_rpc_status_op(&u->status);
    kd_rpc_start_batch(u->link.call, ops, KD_COUNT(ops), &u->op);
    return 0; /* u belongs to its tag */
}

int kd_rpc_unary_start(kd_rpc_channel *ch, const char *path, const struct iovec *parts, int n_parts,
                       int timeout_ms, bool wait_ready, kd_rpc_done done, void *arg)
{
    return start_unary(ch, path, parts, n_parts, timeout_ms, wait_ready, false, done, arg);
}

/* Whoever of the caller and the callback comes last frees it. */
struct waiting {
    pthread_mutex_t mu;
    pthread_cond_t ready;
    bool there, abandoned; /* guarded by mu, as is result */
    kd_rpc_result result;
};

static void free_waiting(struct waiting *w)
{
    pthread_mutex_destroy(&w->mu);
    pthread_cond_destroy(&w->ready);
    free(w);
}

static void on_waiting(const kd_rpc_result *r, void *arg)
{
    struct waiting *w = arg;
    pthread_mutex_lock(&w->mu);
    w->result = *r;
    w->there = true;
    const bool abandoned = w->abandoned;
    pthread_cond_signal(&w->ready);
    pthread_mutex_unlock(&w->mu);
    if (abandoned) {
        free(r->bytes);
        free_waiting(w);
    }
}

/* Until there is an answer, or nobody waits for it any more. Under w->mu. */
static void wait_until(struct waiting *w, bool (*stopped)(void *arg), void *arg)
{
    while (!w->there && !w->abandoned) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += LOOK_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        pthread_cond_timedwait(&w->ready, &w->mu, &until);
        w->abandoned = !w->there && stopped(arg);
    }
}

static bool never(void *arg)
{
    (void)arg;
    return false;
}

int kd_rpc_unary_until(kd_rpc_channel *ch, const char *path, const struct iovec *parts, int n_parts,
                       int timeout_ms, bool wait_ready, bool (*stopped)(void *arg), void *arg,
                       kd_rpc_result *result)
{
    struct waiting *w = calloc(1, sizeof *w);
    int rc = w ? 0 : -KD_ENOMEM;
    *result = (kd_rpc_result){0};
    if (w) {
        pthread_condattr_t attr;
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_mutex_init(&w->mu, NULL);
        pthread_cond_init(&w->ready, &attr);
        pthread_condattr_destroy(&attr);
        rc = start_unary(ch, path, parts, n_parts, timeout_ms, wait_ready, true, on_waiting, w);
        if (rc != 0)
            free_waiting(w);
    }
    if (rc == 0) {
        pthread_mutex_lock(&w->mu);
        wait_until(w, stopped, arg);
        const bool there = w->there;
        if (there)
            *result = w->result;
        pthread_mutex_unlock(&w->mu);
        if (there) {
            free_waiting(w);
            return result->code;
        }
        rc = -KD_ECANCELED; /* w is the callback's */
    }
    result->code = rc;
    snprintf(result->text, sizeof result->text, "%s", kd_err_text(rc));
    return rc;
}

int kd_rpc_unary(kd_rpc_channel *ch, const char *path, const struct iovec *parts, int n_parts,
                 int timeout_ms, bool wait_ready, kd_rpc_result *result)
{
    return kd_rpc_unary_until(ch, path, parts, n_parts, timeout_ms, wait_ready, never, NULL,
                              result);
}

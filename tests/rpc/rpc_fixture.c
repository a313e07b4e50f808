#include "rpc_fixture.h"

#include "descriptor_set.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct rpc_seen rpc_seen; /* held: guarded by g_mu */
static pthread_mutex_t g_mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t g_cond = PTHREAD_COND_INITIALIZER;

void rpc_signal(void)
{
    pthread_mutex_lock(&g_mu);
    pthread_cond_broadcast(&g_cond);
    pthread_mutex_unlock(&g_mu);
}

bool rpc_await(atomic_int *value, int want)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    pthread_mutex_lock(&g_mu);
    int rc = 0;
    while (atomic_load(value) < want && rc == 0)
        rc = pthread_cond_timedwait(&g_cond, &g_mu, &until);
    pthread_mutex_unlock(&g_mu);
    return atomic_load(value) >= want;
}

static void on_close(kd_rpc_call *call, bool cancelled, void *arg)
{
    (void)call;
    (void)arg;
    atomic_fetch_add(&rpc_seen.closed, 1);
    atomic_fetch_add(&rpc_seen.cancelled, cancelled);
    rpc_signal();
}

static void echo(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)arg;
    struct iovec parts[] = {{"<", 1}, {(void *)bytes, len}, {">", 1}};
    kd_rpc_reply(call, parts, 3);
    kd_rpc_finish(call, -KD_EINTERNAL, "a second answer is ignored");
}

static void who(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)bytes, (void)len, (void)arg;
    const char *address = kd_rpc_call_peer(call).address;
    kd_rpc_reply(call, &(struct iovec){(void *)address, strlen(address)}, 1);
}

static void *answer_later(void *arg)
{
    kd_rpc_call *call = arg;
    usleep(20000);
    kd_rpc_reply(call, &(struct iovec){"late", 4}, 1);
    kd_rpc_call_unref(call);
    return NULL;
}

static void later(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)bytes, (void)len, (void)arg;
    pthread_t t;
    kd_rpc_call_ref(call);
    KD_BUG_ON(pthread_create(&t, NULL, answer_later, call) != 0);
    pthread_detach(t);
}

static void refuse(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)bytes, (void)len, (void)arg;
    kd_rpc_finish(call, -KD_ESTATE, "the thing is not ready; make it ready first");
}

static void hold(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)bytes, (void)len, (void)arg;
    pthread_mutex_lock(&g_mu);
    kd_rpc_call *old = rpc_seen.held;
    rpc_seen.held = kd_rpc_call_ref(call);
    pthread_mutex_unlock(&g_mu);
    if (old)
        kd_rpc_call_unref(old);
    atomic_fetch_add(&rpc_seen.opened, 1);
    rpc_signal();
}

/* Sends 0, 1, ... n-1 of 64 KiB each, as fast as the queue takes them. */
struct flood {
    kd_rpc_call *call;
    uint32_t n;
};

static void *run_flood(void *arg)
{
    struct flood *f = arg;
    uint8_t *block = kd_xalloc(65536);
    for (uint32_t i = 0; i < f->n; i++) {
        memcpy(block, &i, 4);
        int rc;
        while ((rc = kd_rpc_send(f->call, &(struct iovec){block, 65536}, 1)) == -KD_ELIMIT) {
            KD_BUG_ON(kd_rpc_queued(f->call) > 8u << 20);
            atomic_store(&rpc_seen.limited, 1);
            rpc_signal();
            usleep(1000);
        }
        if (rc != 0)
            break;
    }
    kd_rpc_finish(f->call, 0, "");
    kd_rpc_call_unref(f->call);
    free(block);
    free(f);
    return NULL;
}

static void flood(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)arg;
    struct flood *f = kd_xalloc(sizeof *f);
    f->call = kd_rpc_call_ref(call);
    KD_BUG_ON(len != 4);
    memcpy(&f->n, bytes, 4);
    pthread_t t;
    KD_BUG_ON(pthread_create(&t, NULL, run_flood, f) != 0);
    pthread_detach(t);
}

static void ping(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)arg;
    KD_BUG_ON(kd_rpc_send(call, &(struct iovec){(void *)bytes, len}, 1) != 0);
}

static void half_close(kd_rpc_call *call, void *arg)
{
    (void)arg;
    kd_rpc_finish(call, 0, "");
}

/* Answers the first message of a stream with two of its own and an error. */
static void end_badly(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)bytes, (void)len, (void)arg;
    uint32_t n[2] = {0, 1};
    static uint8_t big[MAX_MESSAGE + 1];
    KD_BUG_ON(kd_rpc_send(call, &(struct iovec){big, sizeof big}, 1) != -KD_EINVAL);
    for (int i = 0; i < 2; i++)
        KD_BUG_ON(kd_rpc_send(call, &(struct iovec){&n[i], 4}, 1) != 0);
    kd_diag diag;
    kd_fail(&diag, -KD_ESTALE, "generation 3 is over");
    kd_rpc_finish_diag(call, &diag);
    KD_BUG_ON(kd_rpc_send(call, &(struct iovec){&n[0], 4}, 1) != -KD_ECANCELED);
}

/* Finishes with the request as its text. */
static void say(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)arg;
    char *text = kd_xalloc(len + 1);
    memcpy(text, bytes, len);
    kd_rpc_finish(call, -KD_EINVAL, text);
    free(text);
}

/* Says how long there is and who asks. */
static void facts(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)bytes, (void)len, (void)arg;
    char text[200];
    kd_time_ms deadline = kd_rpc_call_deadline(call), left = deadline - kd_clock_ms();
    snprintf(text, sizeof text, "%s %s [%s]",
             deadline == INT64_MAX       ? "never"
             : left > 0 && left <= 20202 ? "soon" /* 20 s and gRPC's rounding up, see rpc.h */
                                         : "wrong",
             kd_rpc_call_peer(call).address, kd_rpc_call_peer(call).identity->name);
    kd_rpc_reply(call, &(struct iovec){text, strlen(text)}, 1);
}

/* Streams keep their own state: an open is seen before any message, a close after all of them. */
static void data_open(kd_rpc_call *call, void *arg)
{
    (void)arg;
    KD_BUG_ON(kd_rpc_call_data(call));
    int *state = kd_xalloc(sizeof *state);
    kd_rpc_call_set_data(call, state);
}

static void data_message(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    int *state = kd_rpc_call_data(call);
    KD_BUG_ON(*state < 0);
    ++*state;
    ping(call, bytes, len, arg);
}

static void data_close(kd_rpc_call *call, bool cancelled, void *arg)
{
    int *state = kd_rpc_call_data(call);
    KD_BUG_ON(*state < 0);
    *state = -1;
    free(state);
    on_close(call, cancelled, arg);
}

const kd_rpc_method rpc_methods[] = {
    {.path = "/t.T/Echo",
     .kind = KD_RPC_UNARY,
     .max_request = MAX_MESSAGE,
     .on_message = echo,
     .on_close = on_close},
    {.path = "/t.T/Later", .kind = KD_RPC_UNARY, .max_request = 10, .on_message = later},
    {.path = "/t.T/Who", .kind = KD_RPC_UNARY, .max_request = 10, .on_message = who},
    {.path = "/t.T/Refuse", .kind = KD_RPC_UNARY, .max_request = 10, .on_message = refuse},
    {.path = "/t.T/Hold",
     .kind = KD_RPC_UNARY,
     .max_request = 10,
     .on_message = hold,
     .on_close = on_close},
    {.path = "/t.T/Flood",
     .kind = KD_RPC_SERVER_STREAM,
     .max_request = 10,
     .on_message = flood,
     .on_close = on_close},
    {.path = "/t.T/Ping",
     .kind = KD_RPC_BIDI,
     .max_request = 1000,
     .on_message = ping,
     .on_half_close = half_close,
     .on_close = on_close},
    {.path = "/t.T/EndBadly",
     .kind = KD_RPC_BIDI,
     .max_request = 10,
     .on_message = end_badly,
     .on_close = on_close},
    {.path = "/t.T/Data",
     .kind = KD_RPC_BIDI,
     .max_request = 10,
     .on_open = data_open,
     .on_message = data_message,
     .on_half_close = half_close,
     .on_close = data_close},
    {.path = "/t.T/Say", .kind = KD_RPC_UNARY, .max_request = MAX_MESSAGE, .on_message = say},
    {.path = "/t.T/Facts", .kind = KD_RPC_UNARY, .max_request = 10, .on_message = facts},
};
const size_t rpc_n_methods = KD_COUNT(rpc_methods);

int rpc_setup(void **state)
{
    struct rpc_fixture *f = kd_xalloc(sizeof *f);
    kd_diag diag = {0};
    atomic_store(&rpc_seen.closed, 0);
    atomic_store(&rpc_seen.cancelled, 0);
    atomic_store(&rpc_seen.opened, 0);
    atomic_store(&rpc_seen.limited, 0);
    kd_assert_ok(kd_rpc_new(2, &f->rpc, &diag), &diag);
    kd_rpc_server_config cfg = {.listen = "127.0.0.1:0",
                                .methods = rpc_methods,
                                .n_methods = rpc_n_methods,
                                .max_message = MAX_MESSAGE,
                                .descriptor_set = kd_descriptor_set,
                                .descriptor_set_len = sizeof kd_descriptor_set};
    kd_assert_ok(kd_rpc_server_new(f->rpc, &cfg, &f->server, &diag), &diag);
    snprintf(f->target, sizeof f->target, "127.0.0.1:%d", kd_rpc_server_port(f->server));
    kd_assert_ok(kd_rpc_channel_new(f->rpc, f->target, NULL, MAX_MESSAGE, &f->channel, &diag),
                 &diag);
    *state = f;
    return 0;
}

int rpc_teardown(void **state)
{
    struct rpc_fixture *f = *state;
    kd_rpc_channel_free(f->channel);
    kd_rpc_server_free(f->server);
    if (rpc_seen.held)
        kd_rpc_call_unref(rpc_seen.held);
    rpc_seen.held = NULL;
    kd_rpc_free(f->rpc);
    free(f);
    return 0;
}

/* ---- a client stream that remembers what it got */

static void sink_message(kd_rpc_stream *s, const uint8_t *bytes, size_t len, void *arg)
{
    struct rpc_sink *k = arg;
    uint32_t got = 0;
    if (len >= 4)
        memcpy(&got, bytes, 4);
    k->in_order &= got == k->expect++;
    memcpy(k->last, bytes, KD_MIN(len, sizeof k->last));
    if (k->slow && k->expect == 1)
        rpc_await(&rpc_seen.limited, 1);
    if (k->echo_left > 0) {
        k->echo_left--;
        uint32_t next = k->expect;
        kd_rpc_stream_send(s, &(struct iovec){&next, 4}, 1);
        if (k->echo_left == 0)
            kd_rpc_stream_close_send(s);
    }
    atomic_fetch_add(&k->messages, 1);
    rpc_signal();
}

static void sink_end(kd_rpc_stream *s, int code, const char *text, void *arg)
{
    struct rpc_sink *k = arg;
    (void)s;
    atomic_store(&k->code, code);
    snprintf(k->text, sizeof k->text, "%s", text);
    atomic_store(&k->ended, 1);
    rpc_signal();
}

void rpc_sink_open(struct rpc_fixture *f, const char *path, struct rpc_sink *k)
{
    kd_diag diag = {0};
    k->in_order = true;
    kd_rpc_stream_events ev = {sink_message, sink_end, k};
    kd_assert_ok(kd_rpc_stream_open(f->channel, path, 0, &ev, &k->stream, &diag), &diag);
}

int rpc_call(struct rpc_fixture *f, const char *path, const void *p, size_t n, kd_rpc_result *r)
{
    return kd_rpc_unary(f->channel, path, &(struct iovec){(void *)p, n}, 1, 20000, false, r);
}

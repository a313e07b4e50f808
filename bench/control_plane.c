/* Many workers that only say they are there: each has a connection and a control stream of its own
 * and sends heart-beats as the coordinator's welcome wants them; what it is told to prepare it
 * prepares for ever. Beside them one client asks for this and that. Prints one JSON object:
 * milliseconds of each call, median, 99 % and worst. */
#include "kd/clock.h"
#include "rpc/rpc.h"
#include "wire/limits.h"
#include "wire/wire.h"

#include "distill.pb-c.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct worker {
    struct bench *bench;
    kd_rpc_channel *channel;
    kd_rpc_stream *stream;
    kd_time_ms next; /* heart-beat */
};

struct bench {
    struct worker *workers;
    int n;
    pthread_mutex_t mu; /* guards what follows */
    int welcomed, ended, prepared;
    uint32_t heartbeat_ms;
    char why[256];
};

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void on_message(kd_rpc_stream *s, const uint8_t *bytes, size_t len, void *arg)
{
    struct bench *b = ((struct worker *)arg)->bench;
    ProtobufCMessage *raw = NULL;
    (void)s;
    if (kd_wire_unpack(&distill__v1__coordinator_message__descriptor, bytes, len, &raw, NULL) != 0)
        return;
    const Distill__V1__CoordinatorMessage *m = (const Distill__V1__CoordinatorMessage *)raw;
    pthread_mutex_lock(&b->mu);
    if (m->kind_case == DISTILL__V1__COORDINATOR_MESSAGE__KIND_WELCOME) {
        b->welcomed++;
        b->heartbeat_ms = m->welcome->heartbeat_ms;
    }
    b->prepared += m->kind_case == DISTILL__V1__COORDINATOR_MESSAGE__KIND_PREPARE;
    pthread_mutex_unlock(&b->mu);
    kd_wire_free(raw);
}

static void on_end(kd_rpc_stream *s, int code, const char *text, void *arg)
{
    struct bench *b = ((struct worker *)arg)->bench;
    (void)s;
    (void)code;
    pthread_mutex_lock(&b->mu);
    if (b->ended++ == 0)
        snprintf(b->why, sizeof b->why, "%.250s", text);
    pthread_mutex_unlock(&b->mu);
}

static void send_message(struct worker *w, const Distill__V1__WorkerMessage *m)
{
    kd_buf buf;
    kd_buf_init(&buf, KD_MAX_CONTROL_BYTES);
    if (kd_wire_pack(m, &buf) == 0)
        (void)kd_rpc_stream_send(w->stream, &(struct iovec){buf.data, buf.len}, 1);
    kd_buf_clear(&buf);
}

static int join(struct worker *w, int i, kd_rpc *rpc, const char *server, kd_diag *diag)
{
    char name[32], incarnation[17];
    snprintf(name, sizeof name, "many-%04d", i);
    snprintf(incarnation, sizeof incarnation, "%016x", i + 1);
    int rc = kd_rpc_channel_new(rpc, server, NULL, KD_MAX_CONTROL_BYTES, &w->channel, diag);
    if (rc == 0)
        rc = kd_rpc_stream_open(w->channel, "/distill.v1.Cluster/Control", 0,
                                &(kd_rpc_stream_events){on_message, on_end, w}, &w->stream, diag);
    if (rc != 0)
        return rc;
    Distill__V1__Hello h = DISTILL__V1__HELLO__INIT;
    h.protocol = KD_PROTOCOL;
    h.version = KD_VERSION;
    h.name = name;
    h.incarnation = incarnation;
    h.threads = 1;
    h.cpu = h.blas = h.isa = "none";
    h.numerics = "00000000000000000000000000000000";
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_HELLO;
    m.hello = &h;
    send_message(w, &m);
    return 0;
}

static void beat(struct bench *b, kd_time_ms now)
{
    Distill__V1__Heartbeat h = DISTILL__V1__HEARTBEAT__INIT;
    h.phase = "waiting";
    h.resident_bytes = 100 << 20;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_HEARTBEAT;
    m.heartbeat = &h;
    for (int i = 0; i < b->n; i++)
        if (b->workers[i].stream && now >= b->workers[i].next) {
            send_message(&b->workers[i], &m);
            b->workers[i].next = now + b->heartbeat_ms;
        }
}

/* All of them join, a few at a time, and keep their leases meanwhile. */
static int join_all(struct bench *b, kd_rpc *rpc, const char *server, kd_diag *diag)
{
    int rc = 0;
    for (int i = 0; i < b->n && rc == 0; i++) {
        struct worker *w = &b->workers[i];
        w->bench = b;
        w->next = kd_clock_ms() + 500 + i % 1000;
        rc = join(w, i, rpc, server, diag);
        for (bool behind = true; rc == 0 && behind;) {
            pthread_mutex_lock(&b->mu);
            behind = b->welcomed + b->ended + 32 < i;
            pthread_mutex_unlock(&b->mu);
            beat(b, kd_clock_ms());
            if (behind)
                nap();
        }
    }
    for (kd_time_ms end = kd_clock_ms() + 30000; rc == 0 && kd_clock_ms() < end; nap()) {
        pthread_mutex_lock(&b->mu);
        bool done = b->welcomed == b->n || b->ended;
        pthread_mutex_unlock(&b->mu);
        beat(b, kd_clock_ms());
        if (done)
            break;
    }
    if (rc == 0 && b->welcomed < b->n)
        rc = kd_fail(diag, -KD_ETIMEOUT, "%d of %d workers joined, %d streams ended: %s",
                     b->welcomed, b->n, b->ended, b->why);
    return rc;
}

/* ---- calls beside them */

enum { CALLS = 4, MOST = 20000 };
struct call {
    const char *word, *path;
    uint8_t request[8];
    size_t len;
    int every_ms;
    kd_time_ms next;
    double began_s;
    bool runs;
    int n, failed;
    double ms[MOST];
};
struct caller {
    kd_rpc_channel *channel;
    pthread_mutex_t mu; /* guards the calls */
    struct call calls[CALLS];
    size_t bytes[CALLS];
};

static struct caller g_caller = {
    .mu = PTHREAD_MUTEX_INITIALIZER,
    .calls = {{.word = "info", .path = "/distill.v1.Jobs/Info", .every_ms = 10},
              {.word = "list_100", .path = "/distill.v1.Jobs/List", .every_ms = 200},
              /* limit = 1000 */
              {.word = "list_1000",
               .path = "/distill.v1.Jobs/List",
               .request = {0x08, 0xe8, 0x07},
               .len = 3,
               .every_ms = 1000},
              {.word = "workers", .path = "/distill.v1.Jobs/Workers", .every_ms = 1000}}};

static void on_done(const kd_rpc_result *result, void *arg)
{
    struct call *c = arg;
    pthread_mutex_lock(&g_caller.mu);
    if (result->code != 0)
        c->failed++;
    else if (c->n < MOST)
        c->ms[c->n++] = (kd_clock_s() - c->began_s) * 1000;
    g_caller.bytes[c - g_caller.calls] = result->len;
    c->runs = false;
    pthread_mutex_unlock(&g_caller.mu);
}

static void call_those_due(kd_time_ms now)
{
    pthread_mutex_lock(&g_caller.mu);
    for (int i = 0; i < CALLS; i++) {
        struct call *c = &g_caller.calls[i];
        if (c->runs || now < c->next)
            continue;
        c->next = now + c->every_ms;
        c->began_s = kd_clock_s();
        c->runs = kd_rpc_unary_start(g_caller.channel, c->path, &(struct iovec){c->request, c->len},
                                     1, 60000, true, on_done, c) == 0;
    }
    pthread_mutex_unlock(&g_caller.mu);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const struct bench *b, double seconds)
{
    printf("{\"workers\": %d, \"preparing\": %d, \"lost\": %d, \"seconds\": %.1f", b->n,
           b->prepared, b->ended, seconds);
    for (int i = 0; i < CALLS; i++) {
        struct call *c = &g_caller.calls[i];
        if (c->n == 0)
            continue;
        qsort(c->ms, (size_t)c->n, sizeof *c->ms, by_size);
        printf(", \"%s_ms\": {\"median\": %.2f, \"p99\": %.2f, \"worst\": %.2f, \"calls\": %d, "
               "\"failed\": %d, \"bytes\": %zu}",
               c->word, c->ms[c->n / 2], c->ms[c->n * 99 / 100], c->ms[c->n - 1], c->n, c->failed,
               g_caller.bytes[i]);
    }
    puts("}");
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fputs("Usage: control-plane HOST:PORT WORKERS SECONDS\n"
              "Joins, prints \"joined\", then measures; the last line is its result.\n",
              stderr);
        return 2;
    }
    struct bench b = {.n = atoi(argv[2]), .mu = PTHREAD_MUTEX_INITIALIZER, .heartbeat_ms = 1000};
    kd_diag diag = {0};
    kd_rpc *rpc = NULL;
    b.workers = kd_xalloc((size_t)b.n * sizeof *b.workers);
    int rc = kd_rpc_new(2, &rpc, &diag);
    if (rc == 0)
        rc = kd_rpc_channel_new(rpc, argv[1], NULL, 16 << 20, &g_caller.channel, &diag);
    if (rc == 0)
        rc = join_all(&b, rpc, argv[1], &diag);
    if (rc != 0) {
        fprintf(stderr, "control-plane: %s\n", diag.msg);
        _exit(1); /* a thousand streams need no order to end */
    }
    puts("joined");
    fflush(stdout);
    double began = kd_clock_s(), end = began + atof(argv[3]);
    while (kd_clock_s() < end) {
        kd_time_ms now = kd_clock_ms();
        beat(&b, now);
        call_those_due(now);
        nap();
    }
    print(&b, kd_clock_s() - began);
    fflush(stdout);
    _exit(b.ended > 0);
}

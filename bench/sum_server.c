/* The coordinator's side of a step by itself: a real exchange with its journal behind the real
 * calls, for workers that compute nothing (sum_worker.c). Prints its port, then after the last step
 * the seconds from the end of the first one. */
#include "authority.h"
#include "daemon.h"
#include "exchange.h"

#include "kd/file.h"
#include "kd/memory.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bench {
    kd_exchange *x;
    pthread_mutex_t mu;
    pthread_cond_t changed;
    uint64_t steps;
    struct timespec begun, ended;
    bool over;
};

static void committed(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                      uint64_t version, const kd_step_totals *totals,
                      const kd_exchange_course *course)
{
    struct bench *b = arg;
    (void)cfg, (void)generation, (void)totals, (void)course;
    if (version == 2)
        clock_gettime(CLOCK_MONOTONIC, &b->begun);
    if (version != b->steps + 2)
        return;
    clock_gettime(CLOCK_MONOTONIC, &b->ended);
    pthread_mutex_lock(&b->mu);
    b->over = true;
    pthread_cond_signal(&b->changed);
    pthread_mutex_unlock(&b->mu);
}

static void snapshot(void *arg, kd_exchange_snapshot *snap)
{
    (void)arg;
    free(snap->vector);
    free(snap->state);
}

static void divergence(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                       const char *what, uint64_t step, uint32_t slot, uint64_t first,
                       uint64_t other, uint32_t settled)
{
    (void)arg, (void)cfg, (void)generation, (void)step, (void)slot, (void)first, (void)other,
        (void)settled;
    fprintf(stderr, "sum-server: divergence: %s\n", what);
    exit(1);
}

static void blocked(void *arg, const kd_exchange_config *cfg, uint64_t generation, const char *why)
{
    (void)arg, (void)cfg, (void)generation;
    fprintf(stderr, "sum-server: blocked: %s\n", why ? why : "no more");
    exit(1);
}

static kd_time_ms now(void *arg)
{
    (void)arg;
    return kd_clock_ms();
}

#define CALL(name, type, descriptor, call_it)                                                      \
    static void name(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)               \
    {                                                                                              \
        struct bench *b = arg;                                                                     \
        ProtobufCMessage *m = NULL;                                                                \
        const uint8_t *payload = NULL;                                                             \
        size_t n = 0;                                                                              \
        kd_diag diag = {0};                                                                        \
        if (kd_wire_unpack_bulk(&descriptor, bytes, len, &m, &payload, &n, &diag) != 0) {          \
            kd_rpc_finish_diag(call, &diag);                                                       \
            return;                                                                                \
        }                                                                                          \
        const type *head = (const type *)m;                                                        \
        call_it;                                                                                   \
        kd_wire_free(m);                                                                           \
    }
CALL(on_push, Distill__V1__NodeChunk, distill__v1__node_chunk__descriptor,
     kd_exchange_push(b->x, call, head, payload, n))
CALL(on_sum, Distill__V1__SumRequest, distill__v1__sum_request__descriptor,
     kd_exchange_await_sum(b->x, call, head))
CALL(on_publish, Distill__V1__SliceChunk, distill__v1__slice_chunk__descriptor,
     kd_exchange_publish(b->x, call, head, payload, n))
CALL(on_slice, Distill__V1__SliceRequest, distill__v1__slice_request__descriptor,
     kd_exchange_await_slice(b->x, call, head))

/* certificates: folder in which they are made; NULL = plain text. */
static int serve(struct bench *b, kd_rpc *rpc, const char *certificates, kd_diag *diag)
{
    enum { LIFE_S = 3600 };
    static const char *const host = "127.0.0.1";
    kd_authority *authority = NULL;
    kd_rpc_tls tls = {0};
    int rc = 0;
    if (certificates) {
        rc = kd_authority_make(certificates, &host, 1, host, LIFE_S, diag);
        if (rc == 0)
            rc = kd_authority_open(certificates, LIFE_S, &authority, diag);
        if (rc != 0)
            return rc;
        tls = kd_authority_tls(authority);
    }
    kd_rpc_method methods[] = {
        {.path = "/distill.v1.Exchange/PushNode", .on_message = on_push},
        {.path = "/distill.v1.Exchange/AwaitSum", .on_message = on_sum},
        {.path = "/distill.v1.Exchange/Publish", .on_message = on_publish},
        {.path = "/distill.v1.Exchange/AwaitSlice", .on_message = on_slice},
    };
    for (size_t i = 0; i < KD_COUNT(methods); i++) {
        methods[i].kind = KD_RPC_UNARY;
        methods[i].max_request = KD_MAX_BULK_BYTES;
        methods[i].arg = b;
    }
    kd_rpc_server_config cfg = {.listen = "127.0.0.1:0",
                                .tls = certificates ? &tls : NULL,
                                .known_clients = certificates != NULL,
                                .methods = methods,
                                .n_methods = KD_COUNT(methods),
                                .max_message = KD_MAX_BULK_BYTES};
    kd_rpc_server *server = NULL;
    rc = kd_rpc_server_new(rpc, &cfg, &server, diag);
    kd_authority_close(authority);
    if (rc != 0)
        return rc;
    printf("%d\n", kd_rpc_server_port(server));
    fflush(stdout);
    pthread_mutex_lock(&b->mu);
    while (!b->over)
        pthread_cond_wait(&b->changed, &b->mu);
    pthread_mutex_unlock(&b->mu);
    printf("%.6f\n", (double)(b->ended.tv_sec - b->begun.tv_sec) +
                         (double)(b->ended.tv_nsec - b->begun.tv_nsec) / 1e9);
    fflush(stdout);
    kd_rpc_server_stop(server, 2000);
    kd_rpc_server_free(server);
    return 0;
}

int main(int argc, char **argv)
{
    kd_memory_for_chunks();
    if (argc != 7 || (strcmp(argv[5], "float32") != 0 && strcmp(argv[5], "bfloat16") != 0)) {
        fputs("Usage: sum-server FLOATS WORKERS STEPS JOURNAL-PREFIX float32|bfloat16 "
              "plain|CERTIFICATES\n",
              stderr);
        return 2;
    }
    const char *certificates = strcmp(argv[6], "plain") == 0 ? NULL : argv[6];
    struct bench b = {.mu = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    kd_diag diag = {0};
    kd_rpc *rpc = NULL;
    kd_digest identity = {0};
    uint64_t torn, floats = strtoull(argv[1], NULL, 10);
    uint32_t slots = 1, workers = (uint32_t)atoi(argv[2]);
    while (slots < workers)
        slots *= 2;
    b.steps = strtoull(argv[3], NULL, 10);
    uint32_t chunk = kd_chunk_floats(floats);
    kd_exchange_config cfg = {.slots = slots,
                              .chunk_floats = chunk,
                              .chunks = (uint32_t)((floats + chunk - 1) / chunk),
                              .vector_floats = floats,
                              .bfloat16 = strcmp(argv[5], "bfloat16") == 0,
                              .eval_steps = 1u << 30,
                              .last_version = 1u << 30,
                              .checkpoint_every = 1u << 30};
    kd_exchange_events events = {.committed = committed,
                                 .snapshot = snapshot,
                                 .divergence = divergence,
                                 .blocked = blocked,
                                 .now = now,
                                 .arg = &b};
    kd_exchange_start start = {.opening = 1, .version = 1, .manifest = 1};
    int rc = kd_journal_open(argv[4], &identity, cfg.chunks, chunk, floats, 1, &start.journal,
                             &torn, &diag);
    if (rc == 0)
        rc = kd_rpc_new(2, &rpc, &diag);
    if (rc == 0) {
        start.vector = kd_xalloc(floats * sizeof *start.vector);
        b.x = kd_exchange_new(&cfg, &events);
        kd_exchange_open(b.x, &start);
        rc = serve(&b, rpc, certificates, &diag);
        kd_exchange_free(b.x);
    }
    if (rpc)
        kd_rpc_free(rpc);
    if (rc != 0)
        fprintf(stderr, "sum-server: %s\n", diag.msg);
    return rc != 0;
}

/* A worker that computes nothing: pushes a gradient a step, takes the sums of its chunks, publishes
 * them as the next version and awaits the others' slices, by a worker's own calls. */
#include "exchange.h"
#include "login/login.h"
#include "wire/limits.h"

#include "kd/bfloat16.h"
#include "kd/hash.h"
#include "kd/memory.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bench {
    kd_rpc_channel *channel;
    kd_stage_ref ref;
    size_t floats;
    uint32_t chunk_floats, chunks, workers, index, node;
    float *gradient, *vector;
    uint32_t *leaves;
    kd_tree_sums sums;
    pthread_mutex_t mu;
    pthread_cond_t changed;
    int open;
    bool bfloat16;
    uint64_t steps;
    bool failed;
};

enum what { PUSH, SUM, PUBLISH, SLICE };
struct call {
    struct bench *b;
    enum what what;
    uint32_t chunk;
    uint64_t step;
};

static size_t length(const struct bench *b, uint32_t chunk)
{
    size_t first = (size_t)chunk * b->chunk_floats;
    return KD_MIN((size_t)b->chunk_floats, b->floats - first);
}

static void start(struct bench *b, enum what what, uint32_t chunk, uint64_t step);

static void on_answer(void *arg, const kd_exchange_answer *a)
{
    struct call *c = arg;
    struct bench *b = c->b;
    float *at = b->vector + (size_t)c->chunk * b->chunk_floats;
    pthread_mutex_lock(&b->mu);
    /* The coordinator goes once the last version is there, whether or not all have seen its slices.
     */
    bool gone = c->what == SLICE && c->step == b->steps && a->code == -KD_EUNAVAIL;
    bool again = a->code != 0 && kd_part_again(a->code) && !b->failed && !gone;
    if (a->code != 0 && !again && !gone) {
        fprintf(stderr, "sum-worker: %s\n", a->text);
        b->failed = true;
    }
    pthread_mutex_unlock(&b->mu);
    if (a->code == 0 && c->what == SUM && b->bfloat16)
        kd_bfloat16_unpack(a->payload, KD_MIN(a->len / 2, length(b, c->chunk)), at);
    else if (a->code == 0 && (c->what == SUM || c->what == SLICE))
        memcpy(at, a->payload, KD_MIN(a->len, length(b, c->chunk) * sizeof *at));
    if (again)
        start(b, c->what, c->chunk, c->step);
    else if (a->code == 0 && c->what == SUM)
        start(b, PUBLISH, c->chunk, c->step);
    pthread_mutex_lock(&b->mu);
    b->open--;
    pthread_cond_signal(&b->changed);
    pthread_mutex_unlock(&b->mu);
    free(c);
}

static void start(struct bench *b, enum what what, uint32_t chunk, uint64_t step)
{
    struct call *c = malloc(sizeof *c);
    KD_BUG_ON(!c);
    *c = (struct call){b, what, chunk, step};
    pthread_mutex_lock(&b->mu);
    b->open++;
    pthread_mutex_unlock(&b->mu);
    size_t first = (size_t)chunk * b->chunk_floats, n = length(b, chunk);
    kd_todo push = {.chunk = chunk,
                    .node = b->node,
                    .version = step,
                    .generation = 1,
                    .floats = n,
                    .bfloat16 = b->bfloat16,
                    .data = b->gradient + first,
                    .sums = &b->sums,
                    .leaves = &b->leaves[chunk],
                    .n_leaves = 1};
    int rc = 0;
    switch (what) {
    case PUSH:
        b->leaves[chunk] = kd_crc32c(0, push.data, n * sizeof(float));
        rc = kd_exchange_push(b->channel, &b->ref, &push, 0, on_answer, c);
        break;
    case SUM:
        rc = kd_exchange_await_sum(b->channel, &b->ref, step, chunk, on_answer, c);
        break;
    case PUBLISH:
        rc = kd_exchange_publish(b->channel, &b->ref, step + 1, chunk, b->vector + first, n, false,
                                 on_answer, c);
        break;
    case SLICE:
        rc = kd_exchange_await_slice(b->channel, &b->ref, step + 1, chunk, on_answer, c);
        break;
    }
    if (rc != 0)
        on_answer(c, &(kd_exchange_answer){.code = rc, .text = "the call could not be started"});
}

static bool step(struct bench *b, uint64_t t)
{
    for (uint32_t k = 0; k < b->chunks; k++)
        start(b, PUSH, k, t);
    for (uint32_t k = 0; k < b->chunks; k++)
        start(b, k % b->workers == b->index ? SUM : SLICE, k, t);
    pthread_mutex_lock(&b->mu);
    while (b->open > 0)
        pthread_cond_wait(&b->changed, &b->mu);
    bool well = !b->failed;
    pthread_mutex_unlock(&b->mu);
    return well;
}

int main(int argc, char **argv)
{
    kd_memory_for_chunks();
    if (argc != 8 || (strcmp(argv[6], "float32") != 0 && strcmp(argv[6], "bfloat16") != 0)) {
        fputs(
            "Usage: sum-worker HOST:PORT FLOATS WORKERS INDEX STEPS float32|bfloat16 plain|LOGIN\n",
            stderr);
        return 2;
    }
    const bool plain = strcmp(argv[7], "plain") == 0;
    struct bench b = {.mu = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    kd_diag diag = {0};
    kd_rpc *rpc = NULL;
    uint32_t slots = 1;
    kd_login login = {0};
    b.bfloat16 = strcmp(argv[6], "bfloat16") == 0;
    b.floats = strtoull(argv[2], NULL, 10);
    b.workers = (uint32_t)atoi(argv[3]);
    b.index = (uint32_t)atoi(argv[4]);
    b.steps = strtoull(argv[5], NULL, 10);
    while (slots < b.workers)
        slots *= 2;
    b.node = slots + b.index;
    b.chunk_floats = kd_chunk_floats(b.floats);
    b.chunks = (uint32_t)((b.floats + b.chunk_floats - 1) / b.chunk_floats);
    b.gradient = kd_xalloc(b.floats * sizeof *b.gradient);
    b.vector = kd_xalloc(b.floats * sizeof *b.vector);
    b.leaves = kd_xalloc(b.chunks * sizeof *b.leaves);
    for (size_t i = 0; i < b.floats; i++)
        b.gradient[i] = (float)(i % 1000) + (float)b.index;
    if (b.bfloat16)
        kd_bfloat16_round(b.gradient, b.floats);
    b.ref = (kd_stage_ref){.job = "000000000001", .generation = 1, .process = b.index + 1};
    int rc = kd_rpc_new(1, &rpc, &diag);
    if (rc == 0 && !plain)
        rc = kd_login_load(argv[7], &login, &diag);
    kd_rpc_tls tls = kd_login_tls(&login);
    if (rc == 0)
        rc = kd_rpc_channel_new(rpc, argv[1], plain ? NULL : &tls, KD_MAX_BULK_BYTES, &b.channel,
                                &diag);
    for (uint64_t t = 1; rc == 0 && t <= b.steps; t++)
        if (!step(&b, t))
            rc = kd_fail(&diag, -KD_EINTERNAL, "step %llu failed", (unsigned long long)t);
    if (rc != 0)
        fprintf(stderr, "sum-worker: %s\n", diag.msg);
    if (b.channel)
        kd_rpc_channel_free(b.channel);
    if (rpc)
        kd_rpc_free(rpc);
    kd_login_clear(&login);
    free(b.gradient);
    free(b.vector);
    free(b.leaves);
    return rc != 0;
}

#include "exchange.h"

#include "kd/clip.h"
#include "kd/hash.h"
#include "kd/log.h"
#include "wire/wire.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum want { WANT_SUM, WANT_SLICE, WANT_STATE, WANT_VALUES };

struct waiter {
    kd_rpc_call *call;
    enum want want;
    uint32_t chunk;
};

struct node {
    float *sum;  /* [chunk length]; NULL when empty or already in the parent */
    bool filled; /* its value is known, here or in an ancestor */
    bool pushed; /* came from a worker: crc says what */
    uint32_t crc;
};

struct gathered {
    uint64_t version;
    float *rows; /* [val_samples][KD_EVAL_COLUMNS] */
    uint32_t *unit_crc;
    bool *have;
    uint32_t missing;
};

struct kd_exchange {
    kd_exchange_config cfg;
    kd_exchange_events ev;
    pthread_mutex_t mu; /* guards all below */
    bool open;
    uint64_t generation, version; /* T */
    float *current;               /* version T, NULL while nobody published version 1 */
    float *state; /* optimiser state of state_version: where the generation began, or, with averaged
                     parameters, what is evaluated */
    uint64_t state_version;
    float *next; /* slices of T+1 (of 1 while current is NULL) */
    float *next_state;
    bool *have;          /* [chunks] slice of the next version is in */
    uint32_t *slice_crc; /* [chunks] of the slices of `next`, then of `current` */
    uint32_t missing;    /* slices of the next version not yet in */
    struct node *nodes;  /* [chunks][2*slots] */
    struct {
        kd_exchange_totals t;
        bool have;
    } * totals;            /* [2*slots], from chunk 0 */
    uint32_t sums_missing; /* chunks of T whose root is not filled yet */
    double *squares;       /* [chunks] of the trained elements of the sums, with clip_norm */
    float scale;           /* of the sums of T, once all are there */
    struct {
        float *rows;   /* [batch][columns] of step T */
        uint32_t *crc; /* [slots] */
        bool *have;    /* [slots] */
        uint32_t missing;
    } values;
    bool checkpoint_next; /* decided for version T+1 */
    bool sums_left;       /* a sum of T has been sent: the decision stands */
    bool checkpoint_wanted;
    struct gathered gathered;
    struct waiter *waiters;
    size_t n_waiters, cap_waiters;
};

static size_t chunk_len(const kd_exchange *x, uint32_t chunk)
{
    size_t first = (size_t)chunk * x->cfg.chunk_floats;
    return KD_MIN((size_t)x->cfg.chunk_floats, (size_t)x->cfg.vector_floats - first);
}

static struct node *node_at(kd_exchange *x, uint32_t chunk, uint32_t node)
{
    return &x->nodes[(size_t)chunk * 2 * x->cfg.slots + node];
}

kd_exchange *kd_exchange_new(const kd_exchange_config *cfg, const kd_exchange_events *events)
{
    kd_exchange *x = kd_xalloc(sizeof *x);
    x->cfg = *cfg;
    x->ev = *events;
    pthread_mutex_init(&x->mu, NULL);
    x->have = kd_xalloc(cfg->chunks * sizeof *x->have);
    x->slice_crc = kd_xalloc(cfg->chunks * sizeof *x->slice_crc);
    x->nodes = kd_xalloc((size_t)cfg->chunks * 2 * cfg->slots * sizeof *x->nodes);
    x->totals = kd_xalloc(2 * (size_t)cfg->slots * sizeof *x->totals);
    x->squares = kd_xalloc(cfg->chunks * sizeof *x->squares);
    x->values.crc = kd_xalloc(cfg->slots * sizeof *x->values.crc);
    x->values.have = kd_xalloc(cfg->slots * sizeof *x->values.have);
    return x;
}

static void clear_tree(kd_exchange *x)
{
    size_t n = (size_t)x->cfg.chunks * 2 * x->cfg.slots;
    for (size_t i = 0; i < n; i++)
        free(x->nodes[i].sum);
    memset(x->nodes, 0, n * sizeof *x->nodes);
    memset(x->totals, 0, 2 * (size_t)x->cfg.slots * sizeof *x->totals);
    memset(x->values.have, 0, x->cfg.slots * sizeof *x->values.have);
    x->values.missing = x->cfg.slots;
    x->sums_missing = x->cfg.chunks;
    x->scale = 1;
}

static void clear_gathered(kd_exchange *x)
{
    free(x->gathered.rows);
    free(x->gathered.unit_crc);
    free(x->gathered.have);
    x->gathered = (struct gathered){0};
}

static void clear_all(kd_exchange *x)
{
    clear_tree(x);
    clear_gathered(x);
    free(x->current);
    free(x->state);
    free(x->next);
    free(x->next_state);
    x->current = x->state = x->next = x->next_state = NULL;
    memset(x->have, 0, x->cfg.chunks * sizeof *x->have);
    x->missing = x->cfg.chunks;
    x->checkpoint_next = x->checkpoint_wanted = x->sums_left = false;
}

/* ---- answers */

static void answer(kd_rpc_call *call, const void *head, const void *payload, size_t len)
{
    kd_buf buf;
    kd_buf_init(&buf, KD_MAX_CONTROL_BYTES);
    int rc = len ? kd_wire_pack_bulk_head(head, len, &buf) : kd_wire_pack(head, &buf);
    if (rc == 0) {
        struct iovec parts[] = {{buf.data, buf.len}, {(void *)payload, len}};
        kd_rpc_reply(call, parts, len ? 2 : 1);
    } else {
        kd_rpc_finish(call, rc, "the reply could not be packed");
    }
    kd_buf_clear(&buf);
}

/* Chunk 0 of version 1 and the like must be told apart from an empty reply, so a head always has at
 * least its version or step. */
static void answer_slice(kd_exchange *x, kd_rpc_call *call, uint64_t version, uint32_t chunk,
                         const float *vector)
{
    Distill__V1__SliceChunk m = DISTILL__V1__SLICE_CHUNK__INIT;
    size_t len = chunk_len(x, chunk) * sizeof(float);
    const float *at = vector + (size_t)chunk * x->cfg.chunk_floats;
    m.version = version;
    m.chunk = chunk;
    m.generation = x->generation;
    m.crc32c = kd_crc32c(0, at, len);
    answer(call, &m, at, len);
}

static void answer_sum(kd_exchange *x, kd_rpc_call *call, uint32_t chunk)
{
    Distill__V1__SumChunk m = DISTILL__V1__SUM_CHUNK__INIT;
    size_t len = chunk_len(x, chunk) * sizeof(float);
    const float *sum = node_at(x, chunk, 1)->sum;
    m.step = x->version;
    m.chunk = chunk;
    m.checkpoint = x->checkpoint_next;
    m.scale = x->scale;
    m.crc32c = kd_crc32c(0, sum, len);
    x->sums_left = true;
    answer(call, &m, sum, len);
}

/* The slice of `current` with its optimiser vectors; state_version is the version. */
static void answer_state(kd_exchange *x, kd_rpc_call *call, uint32_t chunk)
{
    size_t n = chunk_len(x, chunk), vectors = x->cfg.state_vectors;
    size_t first = (size_t)chunk * x->cfg.chunk_floats, bytes = (1 + vectors) * n * sizeof(float);
    float *both = malloc(bytes);
    if (!both) {
        kd_rpc_finish(call, -KD_ENOMEM, "no memory for a state chunk");
        return;
    }
    memcpy(both, x->current + first, n * sizeof(float));
    for (size_t v = 0; v < vectors; v++)
        memcpy(both + (1 + v) * n, x->state + v * x->cfg.vector_floats + first, n * sizeof(float));
    Distill__V1__SliceChunk m = DISTILL__V1__SLICE_CHUNK__INIT;
    m.version = x->state_version;
    m.chunk = chunk;
    m.generation = x->generation;
    m.with_state = true;
    m.crc32c = kd_crc32c(0, both, bytes);
    answer(call, &m, both, bytes);
    free(both);
}

static void answer_values(kd_exchange *x, kd_rpc_call *call)
{
    Distill__V1__ValueChunk m = DISTILL__V1__VALUE_CHUNK__INIT;
    size_t bytes = (size_t)x->cfg.batch * x->cfg.columns * sizeof(float);
    m.step = x->version;
    m.crc32c = kd_crc32c(0, x->values.rows, bytes);
    answer(call, &m, x->values.rows, bytes);
}

static void add_waiter(kd_exchange *x, kd_rpc_call *call, enum want want, uint32_t chunk)
{
    if (x->n_waiters == x->cap_waiters) {
        size_t cap = x->cap_waiters ? 2 * x->cap_waiters : 64;
        struct waiter *p = realloc(x->waiters, cap * sizeof *p);
        if (!p) {
            kd_rpc_finish(call, -KD_ENOMEM, "no memory for a waiting call");
            return;
        }
        x->waiters = p;
        x->cap_waiters = cap;
    }
    x->waiters[x->n_waiters++] = (struct waiter){kd_rpc_call_ref(call), want, chunk};
}

/* Answers the waiters that `want` this chunk of what has just become ready. */
static void serve_waiters(kd_exchange *x, enum want want, uint32_t chunk, uint64_t version,
                          const float *vector)
{
    size_t kept = 0;
    for (size_t i = 0; i < x->n_waiters; i++) {
        struct waiter w = x->waiters[i];
        if (w.want != want || w.chunk != chunk) {
            x->waiters[kept++] = w;
            continue;
        }
        switch (want) {
        case WANT_SUM:
            answer_sum(x, w.call, chunk);
            break;
        case WANT_SLICE:
            answer_slice(x, w.call, version, chunk, vector);
            break;
        case WANT_STATE:
            answer_state(x, w.call, chunk);
            break;
        case WANT_VALUES:
            answer_values(x, w.call);
            break;
        }
        kd_rpc_call_unref(w.call);
    }
    x->n_waiters = kept;
}

static void dismiss_waiters(kd_exchange *x)
{
    for (size_t i = 0; i < x->n_waiters; i++) {
        kd_rpc_finish(x->waiters[i].call, -KD_ESTALE, "the generation is over");
        kd_rpc_call_unref(x->waiters[i].call);
    }
    x->n_waiters = 0;
}

void kd_exchange_forget(kd_exchange *x, kd_rpc_call *call)
{
    pthread_mutex_lock(&x->mu);
    size_t kept = 0;
    for (size_t i = 0; i < x->n_waiters; i++) {
        if (x->waiters[i].call == call)
            kd_rpc_call_unref(call);
        else
            x->waiters[kept++] = x->waiters[i];
    }
    x->n_waiters = kept;
    pthread_mutex_unlock(&x->mu);
}

/* ---- life */

static bool is_border(const kd_exchange_config *cfg, uint64_t version)
{
    return version == cfg->last_version || (version > 1 && (version - 1) % cfg->eval_steps == 0);
}

static void decide_checkpoint(kd_exchange *x)
{
    uint64_t next = x->current ? x->version + 1 : 1;
    uint64_t done = next - 1; /* steps that lead to it */
    x->checkpoint_next = is_border(&x->cfg, next) ||
                         (done > 0 && done % x->cfg.checkpoint_every == 0) || x->checkpoint_wanted;
    x->sums_left = false;
}

void kd_exchange_open(kd_exchange *x, uint64_t generation, uint64_t version, float *vector,
                      float *state)
{
    pthread_mutex_lock(&x->mu);
    dismiss_waiters(x);
    clear_all(x);
    x->open = true;
    x->generation = generation;
    x->version = version;
    x->current = vector;
    x->state = state;
    x->state_version = version;
    decide_checkpoint(x);
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_close(kd_exchange *x)
{
    pthread_mutex_lock(&x->mu);
    dismiss_waiters(x);
    clear_all(x);
    x->open = false;
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_free(kd_exchange *x)
{
    if (!x)
        return;
    kd_exchange_close(x);
    pthread_mutex_destroy(&x->mu);
    free(x->waiters);
    free(x->have);
    free(x->slice_crc);
    free(x->nodes);
    free(x->totals);
    free(x->squares);
    free(x->values.rows);
    free(x->values.crc);
    free(x->values.have);
    free(x);
}

void kd_exchange_checkpoint(kd_exchange *x)
{
    pthread_mutex_lock(&x->mu);
    x->checkpoint_wanted = true;
    if (x->open && !x->sums_left)
        decide_checkpoint(x);
    pthread_mutex_unlock(&x->mu);
}

/* Under the lock. false and the call answered when the generation is not the running one. */
static bool fence(kd_exchange *x, kd_rpc_call *call, uint64_t generation, uint32_t chunk)
{
    if (!x->open || generation != x->generation) {
        kd_rpc_finish(call, -KD_ESTALE, "another generation is running");
        return false;
    }
    if (chunk >= x->cfg.chunks) {
        kd_rpc_finish(call, -KD_EINVAL, "no such chunk");
        return false;
    }
    return true;
}

static bool payload_ok(kd_rpc_call *call, const uint8_t *payload, size_t len, size_t want_bytes,
                       uint32_t crc)
{
    if (len != want_bytes) {
        kd_rpc_finish(call, -KD_EINVAL, "the payload has not the length of its chunk");
        return false;
    }
    if (kd_crc32c(0, payload, len) != crc) {
        kd_rpc_finish(call, -KD_EDATA, "the payload's CRC32C differs; send it again");
        return false;
    }
    return true;
}

/* ---- push: the reduction tree */

/* Puts the totals of a node in and adds siblings up; the same tree as the gradients. */
static void add_totals(kd_exchange *x, uint32_t node, const kd_exchange_totals *t)
{
    x->totals[node].t = *t;
    x->totals[node].have = true;
    while (node > 1 && x->totals[node ^ 1].have) {
        const kd_exchange_totals *a = &x->totals[node & ~1u].t, *b = &x->totals[node | 1u].t;
        kd_exchange_totals *sum = &x->totals[node >> 1].t;
        sum->loss = a->loss + b->loss;
        sum->correct = a->correct + b->correct;
        sum->samples = a->samples + b->samples;
        for (uint32_t i = 0; i < x->cfg.n_terms; i++)
            sum->terms[i] = a->terms[i] + b->terms[i];
        node >>= 1;
        x->totals[node].have = true;
    }
}

/* Sum of the squares of a chunk's trained elements, in their order, in double. */
static double square_sum(const kd_exchange *x, uint32_t chunk, const float *sum)
{
    uint64_t first = (uint64_t)chunk * x->cfg.chunk_floats, end = first + chunk_len(x, chunk);
    double total = 0;
    for (size_t i = 0; i < x->cfg.n_trained; i++) {
        uint64_t from = KD_MAX(x->cfg.trained[i].first, first);
        uint64_t to = KD_MIN(x->cfg.trained[i].first + x->cfg.trained[i].count, end);
        for (uint64_t k = from; k < to; k++)
            total += (double)sum[k - first] * (double)sum[k - first];
    }
    return total;
}

/* A root is filled. With clipping nothing leaves before all of them are: the factor is that of
 * torch.nn.utils.clip_grad_norm_, its norm added up by chunk. */
static void root_filled(kd_exchange *x, uint32_t chunk)
{
    x->sums_missing--;
    if (x->cfg.clip_norm <= 0) {
        serve_waiters(x, WANT_SUM, chunk, x->version, NULL);
        return;
    }
    x->squares[chunk] = square_sum(x, chunk, node_at(x, chunk, 1)->sum);
    if (x->sums_missing > 0)
        return;
    double total = 0;
    for (uint32_t k = 0; k < x->cfg.chunks; k++)
        total += x->squares[k];
    x->scale = (float)kd_clip_scale(x->cfg.clip_norm, total);
    for (uint32_t k = 0; k < x->cfg.chunks; k++)
        serve_waiters(x, WANT_SUM, k, x->version, NULL);
}

static bool sum_ready(kd_exchange *x, uint32_t chunk)
{
    return node_at(x, chunk, 1)->sum && (x->cfg.clip_norm <= 0 || x->sums_missing == 0);
}

static void mark_below(kd_exchange *x, uint32_t chunk, uint32_t node)
{
    if (node >= 2 * x->cfg.slots)
        return;
    struct node *n = node_at(x, chunk, node);
    n->filled = true;
    free(n->sum);
    n->sum = NULL;
    mark_below(x, chunk, 2 * node);
    mark_below(x, chunk, 2 * node + 1);
}

void kd_exchange_push(kd_exchange *x, kd_rpc_call *call, const Distill__V1__NodeChunk *head,
                      const uint8_t *payload, size_t len)
{
    Distill__V1__PushReply reply = DISTILL__V1__PUSH_REPLY__INIT;
    const char *diverged = NULL;
    pthread_mutex_lock(&x->mu);
    if (!fence(x, call, head->generation, head->chunk))
        goto out;
    if (head->node == 0 || head->node >= 2 * x->cfg.slots) {
        kd_rpc_finish(call, -KD_EINVAL, "no such node in the reduction tree");
        goto out;
    }
    if (!x->current || head->step != x->version || x->version >= x->cfg.last_version) {
        kd_rpc_finish(call, -KD_ESTALE, "another step is being collected");
        goto out;
    }
    size_t n = chunk_len(x, head->chunk);
    if (!payload_ok(call, payload, len, n * sizeof(float), head->crc32c))
        goto out;
    struct node *node = node_at(x, head->chunk, head->node);
    if (node->filled) {
        if (node->pushed && node->crc != head->crc32c)
            diverged = "two different gradients for one tree node";
        reply.duplicate = true;
        answer(call, &reply, NULL, 0);
        goto out;
    }
    float *mine = malloc(n * sizeof(float));
    if (!mine) {
        kd_rpc_finish(call, -KD_ENOMEM, "no memory for a tree buffer");
        goto out;
    }
    memcpy(mine, payload, n * sizeof(float));
    mark_below(x, head->chunk, head->node);
    node->sum = mine;
    node->pushed = true;
    node->crc = head->crc32c;
    if (head->chunk == 0) {
        kd_exchange_totals t = {head->loss, head->correct, head->samples, {0}};
        memcpy(t.terms, head->terms, KD_MIN(head->n_terms, x->cfg.n_terms) * sizeof t.terms[0]);
        add_totals(x, head->node, &t);
    }
    uint32_t at = head->node;
    while (at > 1 && node_at(x, head->chunk, at ^ 1)->sum) {
        struct node *left = node_at(x, head->chunk, at & ~1u);
        struct node *right = node_at(x, head->chunk, at | 1u);
        struct node *parent = node_at(x, head->chunk, at >> 1);
        for (size_t i = 0; i < n; i++)
            left->sum[i] += right->sum[i];
        parent->sum = left->sum;
        parent->filled = true;
        free(right->sum);
        left->sum = right->sum = NULL;
        at >>= 1;
    }
    if (at == 1)
        root_filled(x, head->chunk);
    answer(call, &reply, NULL, 0);
out:
    pthread_mutex_unlock(&x->mu);
    if (diverged)
        x->ev.divergence(x->ev.arg, &x->cfg, diverged);
}

void kd_exchange_await_sum(kd_exchange *x, kd_rpc_call *call, const Distill__V1__SumRequest *req)
{
    pthread_mutex_lock(&x->mu);
    if (fence(x, call, req->generation, req->chunk)) {
        if (req->step != x->version || !x->current)
            kd_rpc_finish(call, -KD_ESTALE, "another step is being collected");
        else if (sum_ready(x, req->chunk))
            answer_sum(x, call, req->chunk);
        else
            add_waiter(x, call, WANT_SUM, req->chunk);
    }
    pthread_mutex_unlock(&x->mu);
}

/* ---- publish: versions */

static kd_exchange_snapshot take_snapshot(kd_exchange *x)
{
    kd_exchange_snapshot s = {.job = x->cfg.job,
                              .stage = x->cfg.stage,
                              .generation = x->generation,
                              .version = x->version};
    size_t bytes = (size_t)x->cfg.vector_floats * sizeof(float);
    s.vector = malloc(bytes);
    if (s.vector)
        memcpy(s.vector, x->current, bytes);
    s.state = x->next_state;
    x->next_state = NULL;
    return s;
}

/* Version `version` is evaluated with its averaged parameters: keeps its state for those who ask.
 */
static void keep_average(kd_exchange *x, uint64_t version)
{
    size_t bytes = (size_t)x->cfg.vector_floats * x->cfg.state_vectors * sizeof(float);
    free(x->state);
    x->state = malloc(bytes);
    if (!x->state) {
        kd_err("no memory for averaged parameters");
        return;
    }
    memcpy(x->state, x->next_state, bytes);
    x->state_version = version;
    for (uint32_t k = 0; k < x->cfg.chunks; k++)
        serve_waiters(x, WANT_STATE, k, version, NULL);
}

void kd_exchange_publish(kd_exchange *x, kd_rpc_call *call, const Distill__V1__SliceChunk *head,
                         const uint8_t *payload, size_t len)
{
    Distill__V1__PublishReply reply = DISTILL__V1__PUBLISH_REPLY__INIT;
    const char *diverged = NULL;

    pthread_mutex_lock(&x->mu);
    if (!fence(x, call, head->generation, head->chunk))
        goto out;
    uint64_t want = x->current ? x->version + 1 : 1;
    size_t n = chunk_len(x, head->chunk), bytes = n * sizeof(float);
    if (head->version != want && !(x->current && head->version == x->version)) {
        kd_rpc_finish(call, -KD_ESTALE, "another version is being collected");
        goto out;
    }
    size_t vectors = head->with_state ? x->cfg.state_vectors : 0;
    if (!payload_ok(call, payload, len, bytes * (1 + vectors), head->crc32c))
        goto out;
    uint32_t crc = kd_crc32c(0, payload, bytes);
    if (head->version != want || x->have[head->chunk]) {
        if (crc != x->slice_crc[head->chunk])
            diverged = "two different slices for one chunk and version";
        reply.duplicate = true;
        answer(call, &reply, NULL, 0);
        goto out;
    }
    if (x->checkpoint_next && !head->with_state) {
        kd_rpc_finish(call, -KD_EINVAL, "this version is to be saved: publish it with its state");
        goto out;
    }
    size_t vector_bytes = (size_t)x->cfg.vector_floats * sizeof(float);
    if (!x->next)
        x->next = malloc(vector_bytes);
    if (vectors && !x->next_state)
        x->next_state = malloc(vector_bytes * vectors);
    if (!x->next || (vectors && !x->next_state)) {
        kd_rpc_finish(call, -KD_ENOMEM, "no memory for the next version");
        goto out;
    }
    size_t first = (size_t)head->chunk * x->cfg.chunk_floats;
    memcpy(x->next + first, payload, bytes);
    for (size_t v = 0; v < vectors; v++)
        memcpy(x->next_state + v * x->cfg.vector_floats + first, payload + (1 + v) * bytes, bytes);
    x->have[head->chunk] = true;
    x->slice_crc[head->chunk] = crc;
    x->missing--;
    answer(call, &reply, NULL, 0);
    serve_waiters(x, WANT_SLICE, head->chunk, want, x->next);
    if (x->missing == 0) {
        /* The commit point of a step. */
        bool first_version = !x->current;
        float *old = x->current;
        x->current = x->next;
        x->next = old;
        x->version = want;
        kd_exchange_totals totals = x->totals[1].t;
        clear_tree(x);
        memset(x->have, 0, x->cfg.chunks * sizeof *x->have);
        x->missing = x->cfg.chunks;
        bool saved = x->checkpoint_next;
        kd_exchange_snapshot snap = {0};
        if (saved && x->cfg.average && is_border(&x->cfg, want))
            keep_average(x, want);
        if (saved)
            snap = take_snapshot(x);
        if (saved)
            x->checkpoint_wanted = false;
        free(x->next_state);
        x->next_state = NULL;
        decide_checkpoint(x);
        /* Still under the lock, so that versions are told in their order. */
        if (!first_version)
            x->ev.committed(x->ev.arg, &x->cfg, x->generation, x->version, &totals);
        if (saved)
            x->ev.snapshot(x->ev.arg, &snap);
    }
out:
    pthread_mutex_unlock(&x->mu);
    if (diverged)
        x->ev.divergence(x->ev.arg, &x->cfg, diverged);
}

void kd_exchange_await_slice(kd_exchange *x, kd_rpc_call *call,
                             const Distill__V1__SliceRequest *req)
{
    pthread_mutex_lock(&x->mu);
    if (fence(x, call, req->generation, req->chunk)) {
        uint64_t want = x->current ? x->version + 1 : 1;
        if (x->current && req->version == x->version)
            answer_slice(x, call, x->version, req->chunk, x->current);
        else if (req->version != want)
            kd_rpc_finish(call, -KD_ESTALE, "that version is not kept any more");
        else if (x->have[req->chunk])
            answer_slice(x, call, want, req->chunk, x->next);
        else
            add_waiter(x, call, WANT_SLICE, req->chunk);
    }
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_fetch_state(kd_exchange *x, kd_rpc_call *call,
                             const Distill__V1__SliceRequest *req)
{
    pthread_mutex_lock(&x->mu);
    if (fence(x, call, req->generation, req->chunk)) {
        bool here = req->version == x->state_version && req->version == x->version &&
                    (x->state || x->cfg.state_vectors == 0);
        if (here)
            answer_state(x, call, req->chunk);
        else if (x->current && req->version == x->version + 1 && x->cfg.average &&
                 is_border(&x->cfg, req->version))
            add_waiter(x, call, WANT_STATE, req->chunk);
        else
            kd_rpc_finish(call, -KD_ESTALE,
                          "state is kept for the version a generation began at, and for averaged "
                          "parameters that are evaluated");
    }
    pthread_mutex_unlock(&x->mu);
}

/* ---- values of a batch-coupled loss */

void kd_exchange_push_values(kd_exchange *x, kd_rpc_call *call, const Distill__V1__ValueChunk *head,
                             const uint8_t *payload, size_t len)
{
    Distill__V1__PushReply reply = DISTILL__V1__PUSH_REPLY__INIT;
    const char *diverged = NULL;
    pthread_mutex_lock(&x->mu);
    size_t floats = (size_t)x->cfg.batch / x->cfg.slots * x->cfg.columns;
    if (!fence(x, call, head->generation, 0))
        goto out;
    if (floats == 0 || head->slot >= x->cfg.slots) {
        kd_rpc_finish(call, -KD_EINVAL, "no such slot, or this stage gathers no values");
        goto out;
    }
    if (!x->current || head->step != x->version || x->version >= x->cfg.last_version) {
        kd_rpc_finish(call, -KD_ESTALE, "another step is being collected");
        goto out;
    }
    if (!payload_ok(call, payload, len, floats * sizeof(float), head->crc32c))
        goto out;
    if (!x->values.rows)
        x->values.rows = calloc((size_t)x->cfg.batch * x->cfg.columns, sizeof(float));
    if (!x->values.rows) {
        kd_rpc_finish(call, -KD_ENOMEM, "no memory for a batch's values");
        goto out;
    }
    reply.duplicate = x->values.have[head->slot];
    if (reply.duplicate) {
        if (x->values.crc[head->slot] != head->crc32c)
            diverged = "two different values for one slot";
    } else {
        memcpy(x->values.rows + head->slot * floats, payload, len);
        x->values.have[head->slot] = true;
        x->values.crc[head->slot] = head->crc32c;
        if (--x->values.missing == 0)
            serve_waiters(x, WANT_VALUES, 0, x->version, NULL);
    }
    answer(call, &reply, NULL, 0);
out:
    pthread_mutex_unlock(&x->mu);
    if (diverged)
        x->ev.divergence(x->ev.arg, &x->cfg, diverged);
}

void kd_exchange_await_values(kd_exchange *x, kd_rpc_call *call,
                              const Distill__V1__ValueRequest *req)
{
    pthread_mutex_lock(&x->mu);
    if (fence(x, call, req->generation, 0)) {
        if (req->step != x->version || !x->current || x->cfg.columns == 0)
            kd_rpc_finish(call, -KD_ESTALE, "another step is being collected");
        else if (x->values.missing == 0)
            answer_values(x, call);
        else
            add_waiter(x, call, WANT_VALUES, 0);
    }
    pthread_mutex_unlock(&x->mu);
}

/* ---- gather: evaluation */

void kd_exchange_gather(kd_exchange *x, kd_rpc_call *call, const Distill__V1__GatherChunk *head,
                        const uint8_t *payload, size_t len)
{
    Distill__V1__GatherReply reply = DISTILL__V1__GATHER_REPLY__INIT;
    const char *diverged = NULL;
    float *rows = NULL;
    pthread_mutex_lock(&x->mu);
    uint32_t units = (x->cfg.val_samples + x->cfg.eval_unit - 1) / x->cfg.eval_unit;
    if (!fence(x, call, head->generation, 0))
        goto out;
    if (head->columns != KD_EVAL_COLUMNS || head->unit >= units) {
        kd_rpc_finish(call, -KD_EINVAL, "no such evaluation unit, or another number of columns");
        goto out;
    }
    uint32_t first = head->unit * x->cfg.eval_unit;
    uint32_t n = KD_MIN(x->cfg.eval_unit, x->cfg.val_samples - first);
    if (!payload_ok(call, payload, len, (size_t)n * KD_EVAL_COLUMNS * sizeof(float), head->crc32c))
        goto out;
    /* Version T was whole at this worker before it was told so here, so T+1 may be asked for. */
    uint64_t newest = x->current ? x->version + 1 : 1;
    if (!is_border(&x->cfg, head->version) || head->version > newest ||
        head->version < x->gathered.version) {
        kd_rpc_finish(call, -KD_ESTALE, "that version is not evaluated now");
        goto out;
    }
    struct gathered *g = &x->gathered;
    if (g->version != head->version) {
        clear_gathered(x);
        g->rows = calloc((size_t)x->cfg.val_samples * KD_EVAL_COLUMNS, sizeof *g->rows);
        g->unit_crc = calloc(units, sizeof *g->unit_crc);
        g->have = calloc(units, sizeof *g->have);
        if (!g->rows || !g->unit_crc || !g->have) {
            clear_gathered(x);
            kd_rpc_finish(call, -KD_ENOMEM, "no memory for an evaluation");
            goto out;
        }
        g->version = head->version;
        g->missing = units;
    }
    if (g->have[head->unit]) {
        if (g->unit_crc[head->unit] != head->crc32c)
            diverged = "two different evaluations of one unit";
        reply.duplicate = true;
    } else {
        size_t bytes = (size_t)x->cfg.val_samples * KD_EVAL_COLUMNS * sizeof *rows;
        /* Before the last unit counts, so that it may be sent again. */
        if (g->missing == 1 && !(rows = malloc(bytes))) {
            kd_rpc_finish(call, -KD_ENOMEM, "no memory for an evaluation");
            goto out;
        }
        memcpy(g->rows + (size_t)first * KD_EVAL_COLUMNS, payload, len);
        g->have[head->unit] = true;
        g->unit_crc[head->unit] = head->crc32c;
        g->missing--;
        if (rows)
            memcpy(rows, g->rows, bytes);
    }
    /* Before the answer: nobody trains on before it, so the news comes before that of any later
     * version. */
    if (rows)
        x->ev.evaluated(x->ev.arg, &x->cfg, head->generation, head->version, head->learning_rate,
                        rows);
    answer(call, &reply, NULL, 0);
out:
    pthread_mutex_unlock(&x->mu);
    if (diverged)
        x->ev.divergence(x->ev.arg, &x->cfg, diverged);
    free(rows);
}

#include "exchange_internal.h"

#include "kd/bfloat16.h"
#include "kd/failpoint.h"
#include "kd/hash.h"
#include "kd/log.h"
#include "wire/wire.h"

#include <stdlib.h>
#include <string.h>

size_t kd_xc_chunk_len(const kd_exchange *x, uint32_t chunk)
{
    size_t first = (size_t)chunk * x->cfg.chunk_floats;
    return KD_MIN((size_t)x->cfg.chunk_floats, (size_t)x->cfg.vector_floats - first);
}

size_t kd_xc_gradient_bytes(const kd_exchange *x, uint32_t chunk)
{
    return kd_xc_chunk_len(x, chunk) * (x->cfg.bfloat16 ? sizeof(uint16_t) : sizeof(float));
}

struct node *kd_xc_node_at(kd_exchange *x, uint32_t chunk, uint32_t node)
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
    x->owner_generation = kd_xalloc(cfg->chunks * sizeof *x->owner_generation);
    x->logged = kd_xalloc(cfg->chunks * sizeof *x->logged);
    x->served = kd_xalloc(cfg->chunks * sizeof *x->served);
    x->slot_left = kd_xalloc(cfg->slots * sizeof *x->slot_left);
    x->done_ms = kd_xalloc(cfg->slots * sizeof *x->done_ms);
    x->last_done_ms = kd_xalloc(cfg->slots * sizeof *x->last_done_ms);
    x->audited = kd_xalloc(cfg->slots * sizeof *x->audited);
    x->twice_left = kd_xalloc(cfg->slots * sizeof *x->twice_left);
    x->checks = kd_xalloc((size_t)cfg->slots * CHECKS * sizeof *x->checks);
    x->check_have = kd_xalloc((size_t)cfg->slots * CHECKS * cfg->chunks * sizeof *x->check_have);
    kd_xc_new_leaves(&x->leaves, cfg);
    kd_xc_new_leaves(&x->late, cfg);
    x->values.crc = kd_xalloc(cfg->slots * sizeof *x->values.crc);
    x->values.have = kd_xalloc(cfg->slots * sizeof *x->values.have);
    return x;
}

void kd_xc_drop_base(kd_exchange *x)
{
    free(x->base.vector);
    free(x->base.state);
    x->base.vector = x->base.state = NULL;
    x->base.version = 0;
}

void kd_xc_clear_gathered(kd_exchange *x)
{
    free(x->gathered.rows);
    free(x->gathered.unit_crc);
    free(x->gathered.have);
    x->gathered = (struct gathered){0};
}

static void clear_all(kd_exchange *x)
{
    kd_xc_clear_tree(x);
    kd_xc_clear_leaves(&x->late, &x->cfg);
    kd_xc_clear_gathered(x);
    kd_xc_drop_base(x);
    x->base.asked = x->blocked = x->held = false;
    kd_journal_close(x->journal);
    x->journal = NULL;
    free(x->current);
    free(x->state);
    free(x->next);
    free(x->next_state);
    x->current = x->state = x->next = x->next_state = NULL;
    memset(x->have, 0, x->cfg.chunks * sizeof *x->have);
    x->missing = x->cfg.chunks;
    x->checkpoint_next = x->checkpoint_wanted = x->sums_left = false;
}

/* ---- answers and those who wait */

void kd_xc_answer(kd_rpc_call *call, const void *head, const void *payload, size_t len)
{
    kd_buf buf;
    kd_buf_init(&buf, KD_MAX_CONTROL_BYTES);
    int rc = len ? kd_wire_pack_bulk_head(head, len, &buf) : kd_wire_pack_checked(head, &buf);
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
static kd_rpc_shared *pack_slice(const kd_exchange *x, uint64_t version, uint32_t chunk,
                                 const float *vector)
{
    Distill__V1__SliceChunk m = DISTILL__V1__SLICE_CHUNK__INIT;
    size_t len = kd_xc_chunk_len(x, chunk) * sizeof(float);
    const float *at = vector + (size_t)chunk * x->cfg.chunk_floats;
    m.version = version;
    m.chunk = chunk;
    m.crc32c = kd_crc32c(0, at, len);
    kd_rpc_shared *packed = NULL;
    kd_buf head;
    kd_buf_init(&head, KD_MAX_CONTROL_BYTES);
    if (kd_wire_pack_bulk_head(&m, len, &head) == 0)
        packed = kd_rpc_shared_new((struct iovec[]){{head.data, head.len}, {(void *)at, len}}, 2);
    kd_buf_clear(&head);
    return packed;
}

static void send_slice(kd_exchange *x, kd_rpc_call *call, uint32_t chunk,
                       const kd_rpc_shared *packed)
{
    x->io.out[KD_IO_PARAMETERS] += kd_xc_chunk_len(x, chunk) * sizeof(float);
    kd_rpc_reply_shared(call, packed);
}

void kd_xc_answer_slice(kd_exchange *x, kd_rpc_call *call, uint64_t version, uint32_t chunk,
                        const float *vector)
{
    kd_rpc_shared *packed = pack_slice(x, version, chunk, vector);
    send_slice(x, call, chunk, packed);
    kd_rpc_shared_free(packed);
}

void kd_xc_send_sum(kd_exchange *x, kd_rpc_call *call, Distill__V1__SumChunk *m, const float *sum)
{
    size_t len = kd_xc_gradient_bytes(x, m->chunk);
    uint16_t *halves = x->cfg.bfloat16 ? malloc(len) : NULL;
    if (x->cfg.bfloat16 && !halves) {
        kd_rpc_finish(call, -KD_ENOMEM, "no memory for a sum");
        return;
    }
    if (halves)
        kd_bfloat16_pack(sum, kd_xc_chunk_len(x, m->chunk), halves);
    const void *payload = halves ? (const void *)halves : sum;
    m->crc32c = kd_crc32c(0, payload, len);
    x->io.out[KD_IO_GRADIENTS] += len;
    kd_xc_answer(call, m, payload, len);
    free(halves);
}

void kd_xc_answer_sum(kd_exchange *x, kd_rpc_call *call, uint32_t chunk)
{
    Distill__V1__SumChunk m = DISTILL__V1__SUM_CHUNK__INIT;
    m.step = x->version;
    m.chunk = chunk;
    m.checkpoint = x->checkpoint_next;
    m.scale = x->scale;
    x->sums_left = true;
    kd_xc_send_sum(x, call, &m, kd_xc_node_at(x, chunk, 1)->sum);
}

/* A slice with its optimiser vectors: of the newest checkpoint, else of `current`. */
void kd_xc_answer_state(kd_exchange *x, kd_rpc_call *call, uint32_t chunk, bool base)
{
    size_t n = kd_xc_chunk_len(x, chunk), vectors = x->cfg.state_vectors;
    size_t first = (size_t)chunk * x->cfg.chunk_floats, bytes = (1 + vectors) * n * sizeof(float);
    const float *vector = base ? x->base.vector : x->current;
    const float *state = base ? x->base.state : x->state;
    float *both = malloc(bytes);
    if (!both) {
        kd_rpc_finish(call, -KD_ENOMEM, "no memory for a state chunk");
        return;
    }
    memcpy(both, vector + first, n * sizeof(float));
    for (size_t v = 0; v < vectors; v++)
        memcpy(both + (1 + v) * n, state + v * x->cfg.vector_floats + first, n * sizeof(float));
    Distill__V1__SliceChunk m = DISTILL__V1__SLICE_CHUNK__INIT;
    m.version = base ? x->base.version : x->state_version;
    m.chunk = chunk;
    m.with_state = true;
    m.crc32c = kd_crc32c(0, both, bytes);
    x->io.out[KD_IO_STATE] += bytes;
    kd_xc_answer(call, &m, both, bytes);
    free(both);
}

void kd_xc_answer_values(kd_exchange *x, kd_rpc_call *call)
{
    Distill__V1__ValueChunk m = DISTILL__V1__VALUE_CHUNK__INIT;
    size_t bytes = (size_t)x->cfg.batch * x->cfg.columns * sizeof(float);
    m.step = x->version;
    m.crc32c = kd_crc32c(0, x->values.rows, bytes);
    x->io.out[KD_IO_VALUES] += bytes;
    kd_xc_answer(call, &m, x->values.rows, bytes);
}

void kd_xc_add_waiter(kd_exchange *x, kd_rpc_call *call, enum want want, uint32_t chunk)
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
void kd_xc_serve_waiters(kd_exchange *x, enum want want, uint32_t chunk, uint64_t version,
                         const float *vector)
{
    size_t kept = 0;
    kd_rpc_shared *slice = NULL; /* for all members but its owner, packed once */
    for (size_t i = 0; i < x->n_waiters; i++) {
        struct waiter w = x->waiters[i];
        if (w.want != want || w.chunk != chunk) {
            x->waiters[kept++] = w;
            continue;
        }
        switch (want) {
        case WANT_SUM:
            kd_xc_answer_sum(x, w.call, chunk);
            break;
        case WANT_SLICE:
            slice = slice ? slice : pack_slice(x, version, chunk, vector);
            send_slice(x, w.call, chunk, slice);
            break;
        case WANT_STATE:
        case WANT_BASE:
            kd_xc_answer_state(x, w.call, chunk, want == WANT_BASE);
            break;
        case WANT_VALUES:
            kd_xc_answer_values(x, w.call);
            break;
        }
        kd_rpc_call_unref(w.call);
    }
    x->n_waiters = kept;
    kd_rpc_shared_free(slice);
}

/* Ends the waiting calls that `want` the chunk; of any kind and chunk with want < 0. */
void kd_xc_dismiss(kd_exchange *x, int want, uint32_t chunk, int code, const char *why)
{
    size_t kept = 0;
    for (size_t i = 0; i < x->n_waiters; i++) {
        struct waiter w = x->waiters[i];
        if (want >= 0 && ((int)w.want != want || w.chunk != chunk)) {
            x->waiters[kept++] = w;
            continue;
        }
        kd_rpc_finish(w.call, code, why);
        kd_rpc_call_unref(w.call);
    }
    x->n_waiters = kept;
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

bool kd_xc_is_border(const kd_exchange_config *cfg, uint64_t version)
{
    return version == cfg->last_version || (version > 1 && (version - 1) % cfg->eval_steps == 0);
}

/* The version whose slices come in now. */
uint64_t kd_xc_collected(const kd_exchange *x)
{
    return x->current ? x->version + 1 : x->version;
}

void kd_xc_decide_checkpoint(kd_exchange *x)
{
    uint64_t next = kd_xc_collected(x);
    uint64_t done = next - 1; /* steps that lead to it */
    bool durable = next <= x->manifest && next > 1;
    x->checkpoint_next = !durable && (kd_xc_is_border(&x->cfg, next) ||
                                      (done > 0 && done % x->cfg.checkpoint_every == 0) ||
                                      (done > 0 && x->checkpoint_wanted));
    x->sums_left = false;
}

void kd_exchange_close(kd_exchange *x)
{
    pthread_mutex_lock(&x->mu);
    kd_xc_dismiss(x, -1, 0, -KD_ESTALE, "the stage is over, or goes on elsewhere");
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
    free(x->owner_generation);
    free(x->logged);
    free(x->served);
    free(x->slot_left);
    free(x->done_ms);
    free(x->last_done_ms);
    free(x->audited);
    free(x->checks);
    free(x->twice_left);
    free(x->check_have);
    kd_xc_free_leaves(&x->leaves);
    kd_xc_free_leaves(&x->late);
    free(x->values.rows);
    free(x->values.crc);
    free(x->values.have);
    free(x);
}

void kd_exchange_checkpoint(kd_exchange *x)
{
    pthread_mutex_lock(&x->mu);
    x->checkpoint_wanted = true;
    /* Slices that are in may be without their state. */
    if (x->open && !x->sums_left && x->missing == x->cfg.chunks)
        kd_xc_decide_checkpoint(x);
    pthread_mutex_unlock(&x->mu);
}

/* ---- what a call may want */

/* Under the lock. false and the call answered when nothing is collected, or not such a chunk. */
bool kd_xc_usable(kd_exchange *x, kd_rpc_call *call, uint32_t chunk)
{
    if (!x->open) {
        kd_rpc_finish(call, -KD_ESTALE, "the stage does not run now");
        return false;
    }
    if (chunk >= x->cfg.chunks) {
        kd_rpc_finish(call, -KD_EINVAL, "no such chunk");
        return false;
    }
    return true;
}

/* Likewise, when the chunk has got another owner since. */
bool kd_xc_fence(kd_exchange *x, kd_rpc_call *call, uint64_t generation, uint32_t chunk)
{
    if (!kd_xc_usable(x, call, chunk))
        return false;
    if (generation < x->owner_generation[chunk]) {
        kd_rpc_finish(call, -KD_ESTALE, "the chunk has another owner");
        return false;
    }
    return true;
}

bool kd_xc_payload_ok(kd_rpc_call *call, size_t len, size_t want_bytes, bool whole)
{
    if (len != want_bytes) {
        kd_rpc_finish(call, -KD_EINVAL, "the payload has not the length of its chunk");
        return false;
    }
    if (!whole) {
        kd_rpc_finish(call, -KD_EDATA, "the payload's CRC32C differs; send it again");
        return false;
    }
    return true;
}

/* ---- where a stage begins, and who owns what */

void kd_exchange_open(kd_exchange *x, const kd_exchange_start *start)
{
    pthread_mutex_lock(&x->mu);
    kd_xc_dismiss(x, -1, 0, -KD_ESTALE, "the stage begins anew");
    clear_all(x);
    x->open = true;
    x->opening = start->opening;
    x->settled = 0;
    x->version = start->version;
    x->manifest = start->manifest;
    x->evaluated = start->evaluated;
    x->current = start->vector;
    x->state = start->state;
    x->state_version = start->version;
    x->journal = start->journal;
    x->since = x->ev.now(x->ev.arg);
    for (uint32_t k = 0; k < x->cfg.chunks; k++)
        x->owner_generation[k] = start->opening;
    kd_xc_decide_checkpoint(x);
    kd_xc_choose_audits(x);
    kd_xc_preload(x);
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_fence(kd_exchange *x, uint64_t generation, uint32_t members, const kd_range *moved,
                       size_t n)
{
    pthread_mutex_lock(&x->mu);
    x->members = members;
    for (size_t i = 0; i < n; i++)
        for (uint32_t k = moved[i].first; k < moved[i].first + moved[i].count; k++) {
            KD_BUG_ON(k >= x->cfg.chunks);
            x->owner_generation[k] = generation;
            kd_xc_dismiss(x, WANT_SUM, k, -KD_ESTALE, "the chunk has another owner");
        }
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_manifest(kd_exchange *x, uint64_t version)
{
    pthread_mutex_lock(&x->mu);
    x->manifest = KD_MAX(x->manifest, version);
    if (x->journal)
        kd_journal_cut(x->journal, version);
    if (x->base.version < version)
        kd_xc_drop_base(x);
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_look_at(kd_exchange *x, kd_exchange_look *out)
{
    const uint32_t slots = x->cfg.slots, chunks = x->cfg.chunks;
    kd_time_ms *done_ms = kd_xalloc(slots * sizeof *done_ms);
    uint64_t *done_by = kd_xalloc(slots * sizeof *done_by);
    bool *done_second = kd_xalloc(slots * sizeof *done_second);
    bool *slices = kd_xalloc(chunks * sizeof *slices);
    pthread_mutex_lock(&x->mu);
    memcpy(done_ms, x->done_ms, slots * sizeof *done_ms);
    for (uint32_t s = 0; s < slots; s++) {
        const size_t at = (size_t)s * chunks;
        done_by[s] = x->leaves.have[at] ? x->leaves.process[at] : 0;
        done_second[s] = x->leaves.runs[at] == SECOND_RUN;
    }
    memcpy(slices, x->have, chunks * sizeof *slices);
    *out = (kd_exchange_look){.step = {.version = x->version,
                                       .since = x->since,
                                       .whole = x->current != NULL,
                                       .want_state = !x->current && x->checkpoint_next,
                                       .held = x->audits_missing > 0 || x->disputed,
                                       .done_ms = done_ms,
                                       .done_by = done_by,
                                       .done_second = done_second,
                                       .slices = slices},
                              .audits = x->audits_missing,
                              .disputed = x->disputed};
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_look_clear(kd_exchange_look *look)
{
    free((void *)look->step.done_ms);
    free((void *)look->step.done_by);
    free((void *)look->step.done_second);
    free((void *)look->step.slices);
    *look = (kd_exchange_look){0};
}

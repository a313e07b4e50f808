#include "part.h"

#include "kd/bfloat16.h"
#include "kd/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_MS 100
#define STALE_RETRY_MS 200
#define PUSHES_IN_FLIGHT 8
#define MAX_REFUSALS 5

enum slot_state { SLOT_NONE, SLOT_GIVEN, SLOT_BEGUN };
enum push_state { PUSH_DUE, PUSH_SENT, PUSH_DONE };

/* A publication that is due. */
struct due {
    uint64_t version; /* 0 = none */
    bool with_state;
};

struct chunk {
    bool owned, need_base;
    uint64_t label;
    bool sum_there, checkpoint; /* the sum of step `label` is here; its slice is to be saved */
    float scale;
    struct due base, slice; /* of the version that the stage goes on from; of `label` */
    bool ahead; /* the slice was kept over a fresh start: its sum may have to be made again */
    bool busy_slice, busy_sum, busy_base, busy_publish, busy_apply;
    kd_time_ms retry_at;
};

struct push {
    uint32_t node, first_slot, n_slots;
    bool check;
    const float *gradient;
    kd_tree_sums sums;
};

struct kd_part {
    kd_part_shape h;
    uint64_t generation, last_version, manifest;
    uint64_t fresh_from; /* what was taken under earlier generations is gone */
    uint64_t version, goal;
    float *now, *next; /* [floats] */
    bool *have;        /* [chunks] of next */
    uint32_t missing;
    float *own, *state, *sums; /* of owned chunks: [floats], [floats][state_vectors], [floats] */
    struct chunk *chunks;
    kd_time_ms stale_since;
    int refusals; /* in a row, that no repetition should mend */

    uint8_t *slots, *checks; /* [slots] of the version's step */
    bool *division, *before; /* [slots] of steps from division_from on, and until then */
    uint64_t division_from;
    bool *pending, *pending_checks; /* [slots] besides, of pending_step */
    uint64_t pending_step;

    struct push *pushes;
    size_t n_pushes, cap_pushes;
    uint8_t *push_states; /* [cap_pushes][chunks] */
    size_t pushes_sent, push_cursor;
    kd_time_ms push_retry_at;
    uint32_t *leaves[2]; /* [chunks][slots] first runs, second ones */
    const float **dropped;
    size_t n_dropped, cap_dropped;
};

static size_t chunk_first(const kd_part *p, uint32_t k)
{
    return (size_t)k * p->h.chunk_floats;
}

static size_t chunk_len(const kd_part *p, uint32_t k)
{
    return KD_MIN((size_t)p->h.chunk_floats, p->h.floats - chunk_first(p, k));
}

/* Chunk by chunk, as updates and the wire want it. */
static float *state_of(const kd_part *p, uint32_t k)
{
    return p->state + chunk_first(p, k) * p->h.state_vectors;
}

kd_part *kd_part_new(const kd_part_shape *shape)
{
    kd_part *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->h = *shape;
    size_t n = shape->floats, s = shape->slots, k = shape->chunks;
    p->cap_pushes = 2 * s + 64;
    p->now = calloc(n, sizeof *p->now);
    p->next = calloc(n, sizeof *p->next);
    p->own = calloc(n, sizeof *p->own);
    p->sums = calloc(n, sizeof *p->sums);
    p->state = calloc(n * shape->state_vectors + 1, sizeof *p->state);
    p->have = calloc(k, sizeof *p->have);
    p->chunks = calloc(k, sizeof *p->chunks);
    p->slots = calloc(s, 1);
    p->checks = calloc(s, 1);
    p->division = calloc(s, sizeof(bool));
    p->before = calloc(s, sizeof(bool));
    p->pending = calloc(s, sizeof(bool));
    p->pending_checks = calloc(s, sizeof(bool));
    p->pushes = calloc(p->cap_pushes, sizeof *p->pushes);
    p->push_states = calloc(p->cap_pushes, k);
    p->leaves[0] = calloc(s * k, sizeof(uint32_t));
    p->leaves[1] = calloc(s * k, sizeof(uint32_t));
    p->missing = shape->chunks;
    bool ok = p->now && p->next && p->own && p->sums && p->state && p->have && p->chunks &&
              p->slots && p->checks && p->division && p->before && p->pending &&
              p->pending_checks && p->pushes && p->push_states && p->leaves[0] && p->leaves[1];
    if (!ok) {
        kd_part_free(p);
        return NULL;
    }
    return p;
}

void kd_part_free(kd_part *p)
{
    if (!p)
        return;
    free(p->now);
    free(p->next);
    free(p->own);
    free(p->sums);
    free(p->state);
    free(p->have);
    free(p->chunks);
    free(p->slots);
    free(p->checks);
    free(p->division);
    free(p->before);
    free(p->pending);
    free(p->pending_checks);
    free(p->pushes);
    free(p->push_states);
    free(p->leaves[0]);
    free(p->leaves[1]);
    free(p->dropped);
    free(p);
}

/* ---- versions */

static void take_slice(kd_part *p, uint32_t k, const void *slice)
{
    if (p->have[k])
        return;
    memcpy(p->next + chunk_first(p, k), slice, chunk_len(p, k) * sizeof(float));
    p->have[k] = true;
    p->missing--;
}

static void take_own(kd_part *p, uint32_t k)
{
    const struct chunk *c = &p->chunks[k];
    if (c->owned && c->label == p->goal)
        take_slice(p, k, p->own + chunk_first(p, k));
}

/* A half-assembled version is dropped whole when the goal changes. */
static void set_goal(kd_part *p, uint64_t goal)
{
    p->goal = goal;
    memset(p->have, 0, p->h.chunks * sizeof *p->have);
    p->missing = p->h.chunks;
    for (uint32_t k = 0; k < p->h.chunks; k++)
        take_own(p, k);
}

/* Versions before this one are whole: nobody waits for slices of theirs. */
static void forget_due(kd_part *p, uint64_t version)
{
    for (uint32_t k = 0; k < p->h.chunks; k++) {
        struct chunk *c = &p->chunks[k];
        if (c->slice.version < version)
            c->slice.version = 0;
        if (c->base.version < version)
            c->base.version = 0;
    }
}

static void drop_pushes(kd_part *p)
{
    if (p->n_dropped + p->n_pushes > p->cap_dropped) {
        p->cap_dropped = 2 * (p->n_dropped + p->n_pushes);
        p->dropped = realloc(p->dropped, p->cap_dropped * sizeof *p->dropped);
        KD_BUG_ON(!p->dropped);
    }
    for (size_t i = 0; i < p->n_pushes; i++)
        p->dropped[p->n_dropped++] = p->pushes[i].gradient;
    p->n_pushes = p->push_cursor = 0;
}

static void give(uint8_t *slots, const bool *which, uint32_t n)
{
    for (uint32_t s = 0; s < n; s++)
        if (which[s] && slots[s] == SLOT_NONE)
            slots[s] = SLOT_GIVEN;
}

/* What is to be done in the version's step, as far as it is known. */
static void give_units(kd_part *p)
{
    give(p->slots, p->version >= p->division_from ? p->division : p->before, p->h.slots);
    if (p->pending_step == p->version) {
        give(p->slots, p->pending, p->h.slots);
        give(p->checks, p->pending_checks, p->h.slots);
    }
}

static void clear_units(kd_part *p)
{
    memset(p->slots, SLOT_NONE, p->h.slots);
    memset(p->checks, SLOT_NONE, p->h.slots);
    drop_pushes(p);
}

bool kd_part_whole(const kd_part *p)
{
    bool whole = p->missing == 0 && p->goal <= p->last_version;
    /* The units that a lost sum is made of are this version's. */
    for (uint32_t k = 0; k < p->h.chunks && whole; k++)
        whole = !p->chunks[k].owned || !p->chunks[k].ahead || !p->chunks[k].slice.version;
    return whole;
}

void kd_part_advance(kd_part *p)
{
    float *old = p->now;
    KD_BUG_ON(p->missing != 0);
    p->now = p->next;
    p->next = old;
    p->version = p->goal;
    forget_due(p, p->version);
    clear_units(p);
    give_units(p);
    set_goal(p, p->version + 1);
}

uint64_t kd_part_version(const kd_part *p)
{
    return p->version;
}

const float *kd_part_vector(const kd_part *p)
{
    return p->now;
}

uint64_t kd_part_last_version(const kd_part *p)
{
    return p->last_version;
}

uint32_t kd_part_first_owned(const kd_part *p)
{
    uint32_t k = 0;
    while (k < p->h.chunks && !p->chunks[k].owned)
        k++;
    return k;
}

kd_time_ms kd_part_stale_since(const kd_part *p)
{
    return p->stale_since;
}

/* Slices of the version that the coordinator has not taken yet: until then it may not be there. */
static bool unpublished(const kd_part *p)
{
    bool any = false;
    for (uint32_t k = 0; k < p->h.chunks && !any; k++)
        any = p->chunks[k].owned && p->version && p->chunks[k].slice.version == p->version;
    return any;
}

bool kd_part_owes(const kd_part *p)
{
    bool base = false;
    for (uint32_t k = 0; k < p->h.chunks && !base; k++)
        base = p->chunks[k].owned && (p->chunks[k].base.version || p->chunks[k].busy_base);
    return base || unpublished(p);
}

static char letter(uint8_t state)
{
    return (char)(state == SLOT_NONE ? '.' : state == SLOT_GIVEN ? 'g' : 'b');
}

void kd_part_describe(const kd_part *p, char *out, size_t size)
{
    kd_buf buf;
    kd_buf_init(&buf, 1 << 20);
    kd_buf_printf(
        &buf, "version %llu goal %llu missing %u of generation %llx; pushes %zu, %zu sent; units ",
        (unsigned long long)p->version, (unsigned long long)p->goal, p->missing,
        (unsigned long long)p->generation, p->n_pushes, p->pushes_sent);
    for (uint32_t s = 0; s < p->h.slots; s++)
        kd_buf_printf(&buf, "%c", letter(p->slots[s]));
    kd_buf_str(&buf, "; again ");
    for (uint32_t s = 0; s < p->h.slots; s++)
        kd_buf_printf(&buf, "%c", letter(p->checks[s]));
    for (uint32_t k = 0; k < p->h.chunks; k++) {
        const struct chunk *c = &p->chunks[k];
        kd_buf_printf(&buf, "; chunk %u:%s label %llu%s%s%s%s%s%s%s%s", k, c->owned ? " own" : "",
                      (unsigned long long)c->label, p->have[k] ? " have" : "",
                      c->sum_there ? " sum" : "", c->base.version ? " base due" : "",
                      c->slice.version ? " slice due" : "", c->busy_slice ? " awaits slice" : "",
                      c->busy_sum ? " awaits sum" : "", c->busy_base ? " fetches" : "",
                      c->busy_publish ? " publishes" : "");
    }
    snprintf(out, size, "%s", buf.data ? buf.data : "");
    kd_buf_clear(&buf);
}

/* ---- what the coordinator says */

static void mark(bool *which, const kd_span *spans, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (uint32_t s = 0; s < spans[i].count; s++)
            which[spans[i].first + s] = true;
}

/* The stage goes on from b->version, whatever was reached before. */
static void start_fresh(kd_part *p, const kd_part_begin *b)
{
    p->fresh_from = b->generation;
    if (p->version > b->version) {
        p->version = 0;
        clear_units(p);
    }
    /* Units of a step beyond that were never begun. */
    if (p->pending_step > b->version)
        p->pending_step = 0;
    for (uint32_t k = 0; k < p->h.chunks; k++) {
        struct chunk *c = &p->chunks[k];
        bool keeps =
            c->label <= b->version || (c->label == b->version + 1 && p->version == b->version &&
                                       !b->publish_state && b->version > b->manifest);
        if (!keeps)
            c->label = 0;
        c->sum_there = c->sum_there && keeps;
        /* What waits at the coordinator may wait for what this worker is to do now. */
        c->busy_slice = c->busy_sum = c->busy_base = c->busy_publish = false;
        c->base = (struct due){0};
        /* Nobody has it any more. */
        c->ahead = c->label == b->version + 1;
        c->slice.version = c->ahead ? c->label : 0;
    }
    memset(p->push_states, PUSH_DUE, p->cap_pushes * p->h.chunks);
    p->push_cursor = 0;
    p->goal = p->pending_step = 0;
}

void kd_part_begin_at(kd_part *p, const kd_part_begin *b)
{
    bool first = p->generation == 0;
    p->generation = b->generation;
    p->last_version = b->last_version;
    p->manifest = b->manifest;
    p->stale_since = 0;
    p->refusals = 0;
    if (b->fresh || first)
        start_fresh(p, b);
    for (uint32_t k = 0; k < p->h.chunks; k++)
        p->chunks[k].owned = false;
    for (size_t i = 0; i < b->n_chunks; i++)
        for (uint32_t k = b->chunks[i].first; k < b->chunks[i].first + b->chunks[i].count; k++) {
            struct chunk *c = &p->chunks[k];
            c->owned = true;
            c->retry_at = 0;
            if (b->publish)
                c->base = (struct due){b->version, b->publish_state};
        }
    if (p->version < b->version && p->goal != b->version)
        set_goal(p, b->version);
    else if (p->version >= b->version && p->goal != p->version + 1)
        set_goal(p, p->version + 1);
    else
        for (uint32_t k = 0; k < p->h.chunks; k++)
            take_own(p, k);
    forget_due(p, b->version + !b->publish);
    /* Units of steps before the new division stay as they were divided. */
    if (b->fresh || first)
        memset(p->before, 0, p->h.slots * sizeof *p->before);
    else if (b->version >= p->division_from)
        memcpy(p->before, p->division, p->h.slots * sizeof *p->before);
    memset(p->division, 0, p->h.slots * sizeof *p->division);
    mark(p->division, b->slots, b->n_slots);
    p->division_from = b->version + 1;
    kd_part_add_units(p, b->version, b->units, b->n_units, false);
    if (p->version)
        give_units(p);
}

void kd_part_add_units(kd_part *p, uint64_t step, const kd_span *slots, size_t n, bool check)
{
    if (step < p->version || step < p->pending_step)
        return;
    if (step != p->pending_step) {
        memset(p->pending, 0, p->h.slots * sizeof *p->pending);
        memset(p->pending_checks, 0, p->h.slots * sizeof *p->pending_checks);
        p->pending_step = step;
    }
    mark(check ? p->pending_checks : p->pending, slots, n);
    if (check && step == p->version)
        for (size_t i = 0; i < n; i++)
            memset(p->checks + slots[i].first, SLOT_NONE, slots[i].count); /* once more */
    if (step == p->version)
        give_units(p);
}

/* ---- units */

bool kd_part_round(kd_part *p, kd_span *out, bool *out_check, uint32_t nodes[64], int *out_n_nodes)
{
    if (p->version == 0 || p->version >= p->last_version)
        return false;
    for (int check = 0; check < 2; check++) {
        uint8_t *slots = check ? p->checks : p->slots;
        uint32_t first = 0, count = 0;
        bool begun = false;
        for (uint32_t s = 0; s < p->h.slots; s++)
            begun = begun || slots[s] == SLOT_BEGUN;
        while (first < p->h.slots && slots[first] != SLOT_GIVEN)
            first++;
        while (first + count < p->h.slots && slots[first + count] == SLOT_GIVEN)
            count++;
        if (count == 0)
            continue;
        /* Later ones go one by one: somebody else may send their neighbours. */
        bool alone = check || begun;
        if (alone)
            count = KD_MIN(count, 64u);
        memset(slots + first, SLOT_BEGUN, count);
        *out = (kd_span){first, count};
        *out_check = check;
        if (alone)
            for (uint32_t i = 0; i < count; i++)
                nodes[i] = p->h.slots + first + i;
        *out_n_nodes = alone ? (int)count : kd_tree_cover(p->h.slots, first, count, nodes);
        return true;
    }
    return false;
}

void kd_part_return(kd_part *p, kd_span span, bool check)
{
    memset((check ? p->checks : p->slots) + span.first, SLOT_GIVEN, span.count);
}

kd_span kd_part_coming(const kd_part *p)
{
    const bool *d = p->version + 1 >= p->division_from ? p->division : p->before;
    kd_span span = {0};
    while (span.first < p->h.slots && !d[span.first])
        span.first++;
    while (span.first + span.count < p->h.slots && d[span.first + span.count])
        span.count++;
    return span;
}

/* Units that are asked for again and again make more of them than the tree has nodes. */
static void more_pushes(kd_part *p)
{
    size_t cap = 2 * p->cap_pushes;
    p->pushes = realloc(p->pushes, cap * sizeof *p->pushes);
    p->push_states = realloc(p->push_states, cap * p->h.chunks);
    KD_BUG_ON(!p->pushes || !p->push_states);
    p->cap_pushes = cap;
}

void kd_part_push(kd_part *p, uint32_t node, const float *gradient, const kd_tree_sums *sums,
                  const uint32_t *leaf_crc, bool check)
{
    if (p->n_pushes == p->cap_pushes)
        more_pushes(p);
    struct push *q = &p->pushes[p->n_pushes];
    uint32_t first = node, count = 1;
    while (first < p->h.slots) {
        first *= 2;
        count *= 2;
    }
    *q = (struct push){node, first - p->h.slots, count, check, gradient, *sums};
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t k = 0; k < p->h.chunks; k++)
            p->leaves[check][(size_t)k * p->h.slots + q->first_slot + i] =
                leaf_crc[(size_t)i * p->h.chunks + k];
    memset(p->push_states + p->n_pushes * p->h.chunks, PUSH_DUE, p->h.chunks);
    p->n_pushes++;
    p->push_cursor = 0;
}

void kd_part_drop(kd_part *p)
{
    drop_pushes(p);
}

size_t kd_part_take_dropped(kd_part *p, const float **out, size_t most)
{
    size_t n = KD_MIN(most, p->n_dropped);
    for (size_t i = 0; i < n; i++)
        out[i] = p->dropped[--p->n_dropped];
    return n;
}

/* ---- what to do next */

static void fill(const kd_part *p, kd_todo *t, enum kd_todo_kind kind, uint32_t k, uint64_t version)
{
    *t = (kd_todo){.kind = kind,
                   .chunk = k,
                   .version = version,
                   .generation = p->generation,
                   .bfloat16 = p->h.bfloat16,
                   .first = chunk_first(p, k),
                   .floats = chunk_len(p, k)};
}

static bool next_publish(kd_part *p, uint32_t k, kd_todo *t)
{
    struct chunk *c = &p->chunks[k];
    size_t first = chunk_first(p, k);
    if (c->busy_publish)
        return false;
    if (c->base.version && c->base.version == c->label) {
        fill(p, t, KD_TODO_PUBLISH, k, c->label);
        t->with_state = c->base.with_state;
        t->data = p->own + first;
    } else if (c->base.version && c->base.version + 1 == c->label &&
               p->version == c->base.version) {
        fill(p, t, KD_TODO_PUBLISH, k, p->version);
        t->data = p->now + first;
    } else if (c->slice.version && c->slice.version == c->label) {
        fill(p, t, KD_TODO_PUBLISH, k, c->label);
        t->with_state = c->slice.with_state;
        t->data = p->own + first;
    } else {
        return false;
    }
    t->state = state_of(p, k);
    c->busy_publish = true;
    return true;
}

/* ahead: the coordinator may not be at p->version yet. */
static bool next_owned(kd_part *p, uint32_t k, bool ahead, kd_todo *t)
{
    struct chunk *c = &p->chunks[k];
    size_t first = chunk_first(p, k), n = chunk_len(p, k);
    if (c->busy_apply)
        return false;
    if (c->label == 0 && p->manifest == 1 && !c->need_base) {
        memcpy(p->own + first, p->h.initial + first, n * sizeof *p->own);
        memset(state_of(p, k), 0, n * p->h.state_vectors * sizeof *p->state);
        c->label = 1;
        take_own(p, k);
    }
    if (c->label == 0) {
        if (c->busy_base)
            return false;
        fill(p, t, KD_TODO_BASE, k, 0);
        return c->busy_base = true;
    }
    if (c->sum_there) {
        /* A sum of `label` is there, so that version was whole: nobody waits for its slice. */
        fill(p, t, KD_TODO_APPLY, k, c->label);
        t->slice = p->own + first;
        t->state = state_of(p, k);
        t->sum = p->sums + first;
        t->scale = c->scale;
        return c->busy_apply = true;
    }
    if (next_publish(p, k, t))
        return true;
    /* After the last version nothing is assembled, yet it may be asked for again. */
    uint64_t want = p->goal <= p->last_version ? p->goal : p->version;
    if (c->busy_sum || c->label >= want || (ahead && c->label == p->version))
        return false;
    fill(p, t, KD_TODO_SUM, k, c->label);
    return c->busy_sum = true;
}

static bool next_push(kd_part *p, kd_todo *t)
{
    size_t all = p->n_pushes * p->h.chunks;
    if (p->pushes_sent >= PUSHES_IN_FLIGHT)
        return false;
    for (; p->push_cursor < all; p->push_cursor++) {
        size_t i = p->push_cursor / p->h.chunks;
        /* The last layers' gradients first, as they would be ready first. */
        uint32_t k = p->h.chunks - 1 - (uint32_t)(p->push_cursor % p->h.chunks);
        if (p->push_states[i * p->h.chunks + k] != PUSH_DUE)
            continue;
        const struct push *q = &p->pushes[i];
        fill(p, t, KD_TODO_PUSH, k, p->version);
        t->node = q->node;
        t->push = (uint32_t)i;
        t->check = q->check;
        t->data = q->gradient + chunk_first(p, k);
        t->sums = &q->sums;
        t->leaves = &p->leaves[q->check][(size_t)k * p->h.slots + q->first_slot];
        t->n_leaves = q->n_slots;
        p->push_states[i * p->h.chunks + k] = PUSH_SENT;
        p->pushes_sent++;
        return true;
    }
    return false;
}

static void wait_until(int *wait, kd_time_ms at, kd_time_ms now)
{
    int ms = (int)(at - now);
    if (*wait < 0 || ms < *wait)
        *wait = ms;
}

bool kd_part_next(kd_part *p, kd_time_ms now, kd_todo *out, int *out_wait_ms)
{
    *out_wait_ms = -1;
    if (p->generation == 0)
        return false;
    bool ahead = unpublished(p);
    bool slices = p->goal <= p->last_version && !ahead;
    for (uint32_t k = 0; k < p->h.chunks; k++) {
        struct chunk *c = &p->chunks[k];
        if (c->retry_at > now) {
            wait_until(out_wait_ms, c->retry_at, now);
            continue;
        }
        if (c->owned) {
            if (next_owned(p, k, ahead, out))
                return true;
        } else if (slices && !p->have[k] && !c->busy_slice) {
            fill(p, out, KD_TODO_SLICE, k, p->goal);
            c->busy_slice = true;
            return true;
        }
    }
    if (p->push_retry_at > now)
        wait_until(out_wait_ms, p->push_retry_at, now);
    else if (!ahead && next_push(p, out))
        return true;
    return false;
}

/* ---- what came of it */

bool kd_part_again(int code)
{
    return kd_err_retry(code) || code == -KD_EDATA; /* damaged on the way */
}

/* The others may be further than this worker knew. */
static void follow(kd_part *p, uint64_t version)
{
    if (version <= p->goal || version > p->last_version)
        return;
    forget_due(p, version);
    set_goal(p, version);
}

static void tell_slice(kd_part *p, uint32_t k, const kd_outcome *o, kd_time_ms now)
{
    if (o->version < p->goal) {
        p->chunks[k].retry_at = now + RETRY_MS;
        return;
    }
    follow(p, o->version);
    if (o->version == p->goal)
        take_slice(p, k, o->data);
}

static void tell_base(kd_part *p, uint32_t k, const kd_outcome *o)
{
    struct chunk *c = &p->chunks[k];
    size_t n = chunk_len(p, k);
    if (c->label != 0)
        return;
    size_t bytes = n * sizeof(float);
    memcpy(p->own + chunk_first(p, k), o->data, bytes);
    memcpy(state_of(p, k), (const char *)o->data + bytes, bytes * p->h.state_vectors);
    c->label = o->version;
    c->need_base = false;
    follow(p, o->version);
    take_own(p, k);
}

static void tell_sum(kd_part *p, const kd_todo *t, const kd_outcome *o)
{
    struct chunk *c = &p->chunks[t->chunk];
    if (!c->owned || c->label != t->version || c->busy_apply)
        return;
    if (t->bfloat16)
        kd_bfloat16_unpack(o->data, t->floats, p->sums + t->first);
    else
        memcpy(p->sums + t->first, o->data, t->floats * sizeof(float));
    c->scale = o->scale;
    c->checkpoint = o->checkpoint;
    c->sum_there = true;
}

static void tell_publish(kd_part *p, const kd_todo *t, const kd_outcome *o)
{
    struct chunk *c = &p->chunks[t->chunk];
    struct due *due = c->base.version == t->version ? &c->base : &c->slice;
    if (due->version != t->version)
        return;
    if (o->want_state && !t->with_state)
        due->with_state = true;
    else
        due->version = 0;
}

static void tell_push(kd_part *p, const kd_todo *t, int code, kd_time_ms now)
{
    p->pushes_sent--;
    /* Of an earlier step: its place in the list is another one's. */
    if (t->version != p->version || t->push >= p->n_pushes || p->pushes[t->push].node != t->node)
        return;
    bool taken = code == 0 && t->generation >= p->fresh_from;
    p->push_states[t->push * p->h.chunks + t->chunk] = taken ? PUSH_DONE : PUSH_DUE;
    if (!taken) {
        p->push_retry_at = now + RETRY_MS;
        p->push_cursor = 0;
    }
}

int kd_part_tell(kd_part *p, const kd_todo *t, const kd_outcome *o, kd_time_ms now)
{
    struct chunk *c = &p->chunks[t->chunk];
    bool again = kd_part_again(o->code) || o->code == -KD_ESTALE;
    /* Answers from before a restart tell of a course that the stage may not be on any more. */
    if (t->generation < p->fresh_from && t->kind != KD_TODO_PUSH)
        return 0;
    switch (t->kind) {
    case KD_TODO_SLICE:
        c->busy_slice = false;
        break;
    case KD_TODO_SUM:
        c->busy_sum = false;
        break;
    case KD_TODO_BASE:
        c->busy_base = false;
        break;
    case KD_TODO_PUBLISH:
        c->busy_publish = false;
        break;
    case KD_TODO_PUSH:
        tell_push(p, t, o->code, now);
        break;
    case KD_TODO_APPLY:
        break;
    }
    if (o->code == 0) {
        p->stale_since = 0;
        p->refusals = 0;
        if (t->kind == KD_TODO_SLICE)
            tell_slice(p, t->chunk, o, now);
        else if (t->kind == KD_TODO_SUM)
            tell_sum(p, t, o);
        else if (t->kind == KD_TODO_BASE)
            tell_base(p, t->chunk, o);
        else if (t->kind == KD_TODO_PUBLISH)
            tell_publish(p, t, o);
        return 0;
    }
    if (o->code == -KD_ENOENT && t->kind == KD_TODO_SUM) {
        /* The journal begins later: so does the newest checkpoint. */
        if (c->label == t->version) {
            c->label = 0;
            c->need_base = true;
        }
        return 0;
    }
    /* One refusal may be of what was spoilt on the way, several in a row are not. */
    if (!again && ++p->refusals >= MAX_REFUSALS)
        return o->code;
    if (o->code == -KD_ESTALE && p->stale_since == 0)
        p->stale_since = now;
    if (t->kind != KD_TODO_PUSH)
        c->retry_at = now + (o->code == -KD_ESTALE ? STALE_RETRY_MS : RETRY_MS);
    return 0;
}

void kd_part_applied(kd_part *p, uint32_t k)
{
    struct chunk *c = &p->chunks[k];
    KD_BUG_ON(!c->busy_apply);
    c->busy_apply = c->sum_there = false;
    c->label++;
    c->base.version = c->base.version < c->label ? 0 : c->base.version;
    /* Older labels are steps on the way; who gets a chunk that was published before does it again.
     */
    c->ahead = false;
    if (c->label > p->version)
        c->slice = (struct due){c->label, c->checkpoint};
    take_own(p, k);
}

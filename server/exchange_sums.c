/* The reduction tree of a step: what is pushed, added up, compared and sent to owners. */
#include "exchange_internal.h"

#include "kd/bfloat16.h"
#include "kd/clip.h"
#include "kd/failpoint.h"
#include "kd/hash.h"
#include "kd/log.h"
#include "wire/wire.h"

#include <stdlib.h>
#include <string.h>

void kd_xc_new_leaves(struct leaves *l, const kd_exchange_config *cfg)
{
    l->crc = kd_xalloc((size_t)cfg->slots * cfg->chunks * sizeof *l->crc);
    l->have = kd_xalloc((size_t)cfg->slots * cfg->chunks * sizeof *l->have);
    l->process = kd_xalloc((size_t)cfg->slots * cfg->chunks * sizeof *l->process);
    l->runs = kd_xalloc((size_t)cfg->slots * cfg->chunks * sizeof *l->runs);
    l->twice = kd_xalloc((size_t)cfg->slots * cfg->chunks * sizeof *l->twice);
}

void kd_xc_clear_leaves(struct leaves *l, const kd_exchange_config *cfg)
{
    memset(l->have, 0, (size_t)cfg->slots * cfg->chunks * sizeof *l->have);
    memset(l->twice, 0, (size_t)cfg->slots * cfg->chunks * sizeof *l->twice);
}

void kd_xc_free_leaves(struct leaves *l)
{
    free(l->crc);
    free(l->have);
    free(l->process);
    free(l->runs);
    free(l->twice);
}

void kd_xc_clear_tree(kd_exchange *x)
{
    size_t n = (size_t)x->cfg.chunks * 2 * x->cfg.slots;
    for (size_t i = 0; i < n; i++)
        free(x->nodes[i].sum);
    memset(x->nodes, 0, n * sizeof *x->nodes);
    memset(x->totals, 0, 2 * (size_t)x->cfg.slots * sizeof *x->totals);
    memset(x->values.have, 0, x->cfg.slots * sizeof *x->values.have);
    x->values.missing = x->cfg.slots;
    x->sums_missing = x->cfg.chunks;
    x->left_ms = 0;
    x->scale = 1;
    memset(x->logged, 0, x->cfg.chunks * sizeof *x->logged);
    memset(x->served, 0, x->cfg.chunks * sizeof *x->served);
    struct leaves late = x->leaves;
    x->leaves = x->late;
    x->late = late;
    kd_xc_clear_leaves(&x->leaves, &x->cfg);
    for (uint32_t s = 0; s < x->cfg.slots; s++) {
        x->slot_left[s] = x->cfg.chunks;
        x->done_ms[s] = 0;
    }
}

/* Which units of T are run twice is a function of the step, so that the core knows as well. */
void kd_xc_choose_audits(kd_exchange *x)
{
    x->audits_missing = 0;
    x->disputed = false;
    for (uint32_t s = 0; s < x->cfg.slots; s++) {
        x->audited[s] = x->version < x->cfg.last_version &&
                        kd_core_audits(x->cfg.audit, x->cfg.job, x->cfg.stage, x->version, s);
        x->twice_left[s] = x->cfg.chunks;
        memset(&x->checks[s * CHECKS], 0, CHECKS * sizeof *x->checks);
        x->audits_missing += x->audited[s];
    }
}

/* ---- sums */

/* Puts the totals of a node in and adds siblings up; the same tree as the gradients. */
static void add_totals(kd_exchange *x, uint32_t node, const kd_step_totals *t)
{
    x->totals[node].t = *t;
    x->totals[node].have = true;
    while (node > 1 && x->totals[node ^ 1].have) {
        const kd_step_totals *a = &x->totals[node & ~1u].t, *b = &x->totals[node | 1u].t;
        kd_step_totals *sum = &x->totals[node >> 1].t;
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
    uint64_t first = (uint64_t)chunk * x->cfg.chunk_floats, end = first + kd_xc_chunk_len(x, chunk);
    double total = 0;
    for (size_t i = 0; i < x->cfg.n_trained; i++) {
        uint64_t from = KD_MAX(x->cfg.trained[i].first, first);
        uint64_t to = KD_MIN(x->cfg.trained[i].first + x->cfg.trained[i].count, end);
        for (uint64_t k = from; k < to; k++)
            total += (double)sum[k - first] * (double)sum[k - first];
    }
    return total;
}

static bool clipped(const kd_exchange *x)
{
    return x->cfg.clip_norm > 0;
}

/* Sums of an evaluated version leave when its evaluation is there, so that nobody leaves it behind
 * before, and none before the version itself is whole, so that no owner steps over it. */
static bool may_leave(const kd_exchange *x)
{
    bool evaluating = kd_xc_is_border(&x->cfg, x->version) && x->evaluated < x->version;
    return x->current && !evaluating && !x->held && !x->disputed && x->audits_missing == 0 &&
           !(clipped(x) && x->sums_missing > 0);
}

static bool sum_ready(kd_exchange *x, uint32_t chunk)
{
    return x->logged[chunk] && may_leave(x);
}

/* Sends the sums that may leave, journalled first. With clipping all of them go together: the
 * factor is that of torch.nn.utils.clip_grad_norm_, its norm added up by chunk. */
void kd_xc_release_sums(kd_exchange *x)
{
    bool was_blocked = x->blocked;
    kd_diag diag = {0};
    if (!x->open || !may_leave(x))
        return;
    if (clipped(x)) {
        double total = 0;
        for (uint32_t k = 0; k < x->cfg.chunks; k++)
            total += x->squares[k];
        x->scale = (float)kd_clip_scale(x->cfg.clip_norm, total);
    }
    x->blocked = false;
    for (uint32_t k = 0; k < x->cfg.chunks && !x->blocked; k++) {
        const float *sum = kd_xc_node_at(x, k, 1)->sum;
        if (!sum || x->served[k])
            continue;
        if (!x->logged[k] && x->journal &&
            kd_journal_append(x->journal, x->version, k, sum, x->scale, &x->totals[1].t, &diag) !=
                0) {
            x->blocked = true;
            break;
        }
        x->logged[k] = x->served[k] = true;
        KD_FAILPOINT("exchange.sum");
        kd_xc_serve_waiters(x, WANT_SUM, k, x->version, NULL);
    }
    if (!x->blocked && x->sums_missing == 0 && x->left_ms == 0)
        x->left_ms = x->ev.now(x->ev.arg);
    if (x->journal && x->cfg.journal_bytes && !x->checkpoint_wanted &&
        kd_journal_bytes(x->journal) > x->cfg.journal_bytes / 2)
        x->checkpoint_wanted = true;
    if (x->blocked != was_blocked)
        x->ev.blocked(x->ev.arg, &x->cfg, x->opening, x->blocked ? diag.msg : NULL);
}

/* A chunk's root has its value. */
static void root_filled(kd_exchange *x, uint32_t chunk)
{
    x->sums_missing--;
    if (clipped(x))
        x->squares[chunk] = square_sum(x, chunk, kd_xc_node_at(x, chunk, 1)->sum);
}

static void mark_below(kd_exchange *x, uint32_t chunk, uint32_t node)
{
    if (node >= 2 * x->cfg.slots)
        return;
    struct node *n = kd_xc_node_at(x, chunk, node);
    if (node >= x->cfg.slots && !n->filled && --x->slot_left[node - x->cfg.slots] == 0)
        x->done_ms[node - x->cfg.slots] = KD_MAX(x->ev.now(x->ev.arg), (kd_time_ms)1);
    n->filled = true;
    free(n->sum);
    n->sum = NULL;
    mark_below(x, chunk, 2 * node);
    mark_below(x, chunk, 2 * node + 1);
}

/* Sums of T that the journal has already: nobody need make them again. */
void kd_xc_preload(kd_exchange *x)
{
    if (!x->journal || x->version >= x->cfg.last_version)
        return;
    for (uint32_t k = 0; k < x->cfg.chunks; k++) {
        kd_diag diag = {0};
        kd_step_totals totals;
        float scale;
        if (!kd_journal_has(x->journal, x->version, k))
            continue;
        float *sum = malloc(kd_xc_chunk_len(x, k) * sizeof *sum);
        if (!sum || kd_journal_read(x->journal, x->version, k, sum, &scale, &totals, &diag) != 0) {
            kd_warn("a journalled sum is made again: %s", sum ? diag.msg : "no memory");
            free(sum);
            continue;
        }
        mark_below(x, k, 1);
        kd_xc_node_at(x, k, 1)->sum = sum;
        x->logged[k] = true;
        if (k == 0) {
            x->totals[1].t = totals;
            x->totals[1].have = true;
        }
        root_filled(x, k);
    }
    /* What left once was not in dispute. */
    if (x->sums_missing == 0) {
        memset(x->audited, 0, x->cfg.slots * sizeof *x->audited);
        x->audits_missing = 0;
    }
    kd_xc_release_sums(x);
}

/* ---- units */

static bool is_node(const kd_exchange *x, uint32_t node)
{
    return node > 0 && node < 2 * x->cfg.slots;
}

/* How many slots a node of the tree is the sum of. */
static uint32_t units_below(const kd_exchange *x, uint32_t node)
{
    uint32_t count = 1;
    while (node * count < x->cfg.slots)
        count *= 2;
    return count;
}

static void count_units(kd_exchange *x, const Distill__V1__NodeChunk *head, enum kd_unit_end ended)
{
    bool each = ended == KD_UNIT_DIVERGENT || ended == KD_UNIT_CORRUPT;
    if (ended != KD_UNIT_ENDS && is_node(x, head->node) && (each || head->chunk == 0))
        x->io.units[ended] += units_below(x, head->node);
}

/* ---- second runs */

/* The CRC32Cs of the units in a push, against those that came before. Returns the slot that
 * differs, UINT32_MAX for none; *out_first: who sent it first. */
static uint32_t compare_leaves(kd_exchange *x, struct leaves *l, const Distill__V1__NodeChunk *head,
                               uint64_t *out_first)
{
    uint32_t differs = UINT32_MAX;
    const uint32_t count = units_below(x, head->node), first = head->node * count - x->cfg.slots;
    const uint8_t run = head->check ? SECOND_RUN : FIRST_RUN;
    if (head->n_leaves != count)
        return differs; /* a worker that tells none */
    for (uint32_t i = 0; i < count; i++) {
        size_t at = (size_t)(first + i) * x->cfg.chunks + head->chunk;
        if (!l->have[at]) {
            l->have[at] = true;
            l->crc[at] = head->leaves[i];
            l->process[at] = head->process;
            l->runs[at] = run;
            continue;
        }
        if (l->crc[at] != head->leaves[i] && differs == UINT32_MAX) {
            differs = first + i;
            *out_first = l->process[at];
        }
        if (l->process[at] == head->process)
            l->runs[at] = (uint8_t)(l->runs[at] | run);
        /* A lone worker can only be compared with itself. */
        bool other = l->process[at] != head->process ||
                     (x->members < 2 && l->runs[at] == (FIRST_RUN | SECOND_RUN));
        if (other && !l->twice[at] && l == &x->leaves) {
            l->twice[at] = true;
            if (--x->twice_left[first + i] == 0 && x->audited[first + i]) {
                x->audited[first + i] = false;
                x->audits_missing--;
            }
        }
    }
    return differs;
}

/* ---- pushes */

/* sum = left + right, where the payload is one of the two: its order decides which of two NaNs is
 * kept. */
static void add_into(const kd_exchange *x, float *sum, const uint8_t *payload, size_t n,
                     bool payload_is_left)
{
    if (x->cfg.bfloat16) {
        kd_bfloat16_add_packed(sum, payload, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float pushed;
        memcpy(&pushed, payload + i * sizeof pushed, sizeof pushed);
        sum[i] = payload_is_left ? pushed + sum[i] : sum[i] + pushed;
    }
}

static void add_up(const kd_exchange *x, float *left, const float *right, size_t n)
{
    if (x->cfg.bfloat16)
        kd_bfloat16_add(left, right, n);
    else
        for (size_t i = 0; i < n; i++)
            left[i] += right[i];
}

/* Under the lock: puts a node's gradient where it belongs and adds up what is complete. */
static int take_node(kd_exchange *x, const Distill__V1__NodeChunk *head, const uint8_t *payload,
                     bool *out_duplicate, const char **out_diverged)
{
    size_t n = kd_xc_chunk_len(x, head->chunk);
    struct node *node = kd_xc_node_at(x, head->chunk, head->node);
    *out_duplicate = node->filled;
    if (node->filled) {
        if (node->pushed && node->crc != head->crc32c)
            *out_diverged = "two different gradients for one tree node";
        return 0;
    }
    /* Where its other half is there, it is added to that without a buffer of its own. */
    struct node *half =
        head->node > 1 ? kd_xc_node_at(x, head->chunk, head->node ^ 1) : &(struct node){0};
    float *sum = half->sum ? half->sum : malloc(n * sizeof(float));
    uint32_t at = half->sum ? head->node >> 1 : head->node;
    if (!sum)
        return -KD_ENOMEM;
    if (half->sum)
        add_into(x, sum, payload, n, head->node % 2 == 0);
    else if (x->cfg.bfloat16)
        kd_bfloat16_unpack(payload, n, sum);
    else
        memcpy(sum, payload, n * sizeof(float));
    mark_below(x, head->chunk, head->node);
    half->sum = NULL;
    node->filled = true;
    node->pushed = true;
    node->crc = head->crc32c;
    kd_xc_node_at(x, head->chunk, at)->sum = sum;
    kd_xc_node_at(x, head->chunk, at)->filled = true;
    if (head->chunk == 0) {
        kd_step_totals t = {head->loss, head->correct, head->samples, {0}};
        for (size_t i = 0; i < KD_MIN(head->n_terms, (size_t)x->cfg.n_terms); i++)
            t.terms[i] = head->terms[i];
        add_totals(x, head->node, &t);
    }
    while (at > 1 && kd_xc_node_at(x, head->chunk, at ^ 1)->sum) {
        struct node *left = kd_xc_node_at(x, head->chunk, at & ~1u);
        struct node *right = kd_xc_node_at(x, head->chunk, at | 1u);
        struct node *parent = kd_xc_node_at(x, head->chunk, at >> 1);
        add_up(x, left->sum, right->sum, n);
        parent->sum = left->sum;
        parent->filled = true;
        free(right->sum);
        left->sum = right->sum = NULL;
        at >>= 1;
    }
    if (at == 1)
        root_filled(x, head->chunk);
    return 0;
}

/* A second run has told of one more chunk, which differs from what `against` told of it, 0 = it
 * does not. Pushes may come again. */
static void count_check(kd_exchange *x, uint32_t slot, uint64_t against,
                        const Distill__V1__NodeChunk *head)
{
    struct check *c = &x->checks[slot * CHECKS];
    int i = 0;
    while (i < CHECKS - 1 && c[i].process && c[i].process != head->process)
        i++;
    bool *have = x->check_have + ((size_t)slot * CHECKS + (size_t)i) * x->cfg.chunks;
    /* One that is over may be asked for once more. */
    if (c[i].process != head->process || c[i].left == 0) {
        c[i] = (struct check){.process = head->process, .left = x->cfg.chunks};
        memset(have, 0, x->cfg.chunks * sizeof *have);
    }
    if (have[head->chunk])
        return;
    have[head->chunk] = true;
    c[i].against = against ? against : c[i].against;
    if (--c[i].left > 0)
        return;
    x->ev.checked(x->ev.arg, &x->cfg, x->opening, head->step, slot, head->process, c[i].against,
                  x->settled);
}

void kd_exchange_push(kd_exchange *x, kd_rpc_call *call, const Distill__V1__NodeChunk *head,
                      const uint8_t *payload, size_t len)
{
    Distill__V1__PushReply reply = DISTILL__V1__PUSH_REPLY__INIT;
    const char *diverged = NULL;
    uint64_t first = 0;
    uint32_t slot = UINT32_MAX;
    enum kd_unit_end ended = KD_UNIT_STALE;
    /* Before the lock, which is for what others must not see half done. */
    bool whole = kd_crc32c(0, payload, len) == head->crc32c;
    pthread_mutex_lock(&x->mu);
    if (!kd_xc_usable(x, call, head->chunk))
        goto out;
    if (!is_node(x, head->node)) {
        kd_rpc_finish(call, -KD_EINVAL, "no such node in the reduction tree");
        goto out;
    }
    for (size_t i = 0; i < KD_COUNT(x->odd); i++)
        if (x->odd[i] && x->odd[i] == head->process) {
            kd_rpc_finish(call, -KD_ESTALE, "this worker's numbers were found to be wrong");
            ended = KD_UNIT_DIVERGENT;
            goto out;
        }
    bool late = head->step + 1 == x->version;
    if (!late && (head->step != x->version || x->version >= x->cfg.last_version)) {
        kd_rpc_finish(call, -KD_ESTALE, "another step is being collected");
        goto out;
    }
    ended = KD_UNIT_CORRUPT;
    if (!kd_xc_payload_ok(call, len, kd_xc_gradient_bytes(x, head->chunk), whole))
        goto out;
    x->io.in[KD_IO_GRADIENTS] += len;
    KD_FAILPOINT("exchange.push");
    slot = compare_leaves(x, late ? &x->late : &x->leaves, head, &first);
    if (slot != UINT32_MAX)
        diverged = "two different gradients for one unit";
    if (!late && slot != UINT32_MAX)
        x->disputed = true;
    if (!late && head->check && head->node >= x->cfg.slots)
        count_check(x, head->node - x->cfg.slots, slot == UINT32_MAX ? 0 : first, head);
    bool duplicate = true;
    int rc = late ? 0 : take_node(x, head, payload, &duplicate, &diverged);
    reply.duplicate = duplicate;
    ended = rc != 0       ? KD_UNIT_ENDS
            : diverged    ? KD_UNIT_DIVERGENT
            : late        ? KD_UNIT_STALE
            : !duplicate  ? KD_UNIT_OK
            : head->check ? KD_UNIT_BACKUP
                          : KD_UNIT_DUPLICATE;
    if (rc == 0)
        kd_xc_answer(call, &reply, NULL, 0);
    else
        kd_rpc_finish(call, rc, "no memory for a tree buffer");
    kd_xc_release_sums(x);
    if (diverged)
        x->ev.divergence(x->ev.arg, &x->cfg, x->opening, diverged, head->step, slot, first,
                         head->process, x->settled);
out:
    count_units(x, head, ended);
    pthread_mutex_unlock(&x->mu);
}

static void answer_old_sum(kd_exchange *x, kd_rpc_call *call, const Distill__V1__SumRequest *req)
{
    kd_diag diag = {0};
    float *sum = malloc(kd_xc_chunk_len(x, req->chunk) * sizeof *sum);
    Distill__V1__SumChunk m = DISTILL__V1__SUM_CHUNK__INIT;
    if (!sum) {
        kd_rpc_finish(call, -KD_ENOMEM, "no memory for an older sum");
    } else if (!x->journal || kd_journal_read(x->journal, req->step, req->chunk, sum, &m.scale,
                                              NULL, &diag) != 0) {
        kd_rpc_finish(call, -KD_ENOENT,
                      "that sum is in the journal no more; begin with the newest checkpoint");
    } else {
        m.step = req->step;
        m.chunk = req->chunk;
        kd_xc_send_sum(x, call, &m, sum);
    }
    free(sum);
}

void kd_exchange_await_sum(kd_exchange *x, kd_rpc_call *call, const Distill__V1__SumRequest *req)
{
    pthread_mutex_lock(&x->mu);
    if (kd_xc_fence(x, call, req->generation, req->chunk)) {
        if (req->step < x->version)
            answer_old_sum(x, call, req);
        else if (req->step > x->version || x->version >= x->cfg.last_version)
            kd_rpc_finish(call, -KD_ESTALE, "another step is being collected");
        else if (sum_ready(x, req->chunk))
            kd_xc_answer_sum(x, call, req->chunk);
        else
            kd_xc_add_waiter(x, call, WANT_SUM, req->chunk);
    }
    pthread_mutex_unlock(&x->mu);
}

/* ---- what holds sums back */

void kd_exchange_hold(kd_exchange *x, bool hold)
{
    pthread_mutex_lock(&x->mu);
    x->held = hold;
    kd_xc_release_sums(x);
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_retry(kd_exchange *x)
{
    pthread_mutex_lock(&x->mu);
    if (x->blocked)
        kd_xc_release_sums(x);
    pthread_mutex_unlock(&x->mu);
}

bool kd_exchange_settle(kd_exchange *x, uint64_t step, bool redo, uint64_t odd)
{
    bool ok = true;
    pthread_mutex_lock(&x->mu);
    x->settled++;
    if (odd)
        x->odd[x->n_odd++ % KD_COUNT(x->odd)] = odd;
    if (x->open && x->version == step) {
        ok = !redo || !x->sums_left;
        if (redo && ok) {
            kd_xc_clear_tree(x);
            kd_xc_clear_leaves(&x->late, &x->cfg); /* what is not to be believed */
            kd_xc_choose_audits(x);
        }
        x->disputed = !ok;
        memset(x->served, 0, x->cfg.chunks * sizeof *x->served);
        kd_xc_release_sums(x);
    }
    pthread_mutex_unlock(&x->mu);
    return ok;
}

/* Versions of the parameters: slices, optimiser state, and what is gathered of all slots. */
#include "exchange_internal.h"

#include "kd/failpoint.h"
#include "kd/hash.h"
#include "kd/log.h"
#include "wire/wire.h"

#include <stdlib.h>
#include <string.h>

static kd_exchange_snapshot take_snapshot(kd_exchange *x)
{
    kd_exchange_snapshot s = {
        .job = x->cfg.job, .stage = x->cfg.stage, .generation = x->opening, .version = x->version};
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
        kd_xc_serve_waiters(x, WANT_STATE, k, version, NULL);
}

/* Every slice of the collected version is there: the commit point of a step, unless it is the
 * version that the stage goes on from. */
static void version_whole(kd_exchange *x)
{
    bool step = x->current != NULL;
    KD_FAILPOINT("exchange.commit");
    float *old = x->current;
    x->current = x->next;
    x->next = old;
    x->version += step;
    kd_time_ms since = x->since;
    x->since = x->ev.now(x->ev.arg);
    kd_step_totals totals = x->totals[1].t;
    memcpy(x->last_done_ms, x->done_ms, x->cfg.slots * sizeof *x->done_ms);
    const kd_exchange_course course = {since, x->last_done_ms, x->left_ms, &x->io};
    if (step) {
        kd_xc_clear_tree(x);
        kd_xc_choose_audits(x);
    }
    memset(x->have, 0, x->cfg.chunks * sizeof *x->have);
    x->missing = x->cfg.chunks;
    kd_exchange_snapshot snap = {0};
    bool saved = x->checkpoint_next;
    if (saved) {
        if (x->cfg.average && kd_xc_is_border(&x->cfg, x->version))
            keep_average(x, x->version);
        snap = take_snapshot(x);
        x->checkpoint_wanted = false;
        if (x->journal)
            kd_journal_roll(x->journal, x->version);
    }
    free(x->next_state);
    x->next_state = NULL;
    kd_xc_decide_checkpoint(x);
    if (step)
        x->ev.committed(x->ev.arg, &x->cfg, x->opening, x->version, &totals, &course);
    if (saved)
        x->ev.snapshot(x->ev.arg, &snap);
    if (step)
        kd_xc_preload(x);
    else
        kd_xc_release_sums(x);
}

/* Under the lock. 1 = taken, 0 = it was there, or an error. */
static int take_slice(kd_exchange *x, const Distill__V1__SliceChunk *head, const uint8_t *payload,
                      uint32_t crc)
{
    size_t bytes = kd_xc_chunk_len(x, head->chunk) * sizeof(float);
    size_t vectors = head->with_state ? x->cfg.state_vectors : 0;
    size_t vector_bytes = (size_t)x->cfg.vector_floats * sizeof(float);
    if (!x->next)
        x->next = malloc(vector_bytes);
    if (vectors && !x->next_state)
        x->next_state = malloc(vector_bytes * vectors);
    if (!x->next || (vectors && !x->next_state))
        return -KD_ENOMEM;
    size_t first = (size_t)head->chunk * x->cfg.chunk_floats;
    memcpy(x->next + first, payload, bytes);
    for (size_t v = 0; v < vectors; v++)
        memcpy(x->next_state + v * x->cfg.vector_floats + first, payload + (1 + v) * bytes, bytes);
    x->have[head->chunk] = true;
    x->slice_crc[head->chunk] = crc;
    x->missing--;
    return 1;
}

void kd_exchange_publish(kd_exchange *x, kd_rpc_call *call, const Distill__V1__SliceChunk *head,
                         const uint8_t *payload, size_t len)
{
    Distill__V1__PublishReply reply = DISTILL__V1__PUBLISH_REPLY__INIT;
    bool whole = kd_crc32c(0, payload, len) == head->crc32c;
    pthread_mutex_lock(&x->mu);
    if (!kd_xc_fence(x, call, head->generation, head->chunk))
        goto out;
    uint64_t want = kd_xc_collected(x);
    size_t bytes = kd_xc_chunk_len(x, head->chunk) * sizeof(float);
    if (head->version > want) {
        kd_rpc_finish(call, -KD_ESTALE, "an earlier version is being collected");
        goto out;
    }
    if (head->version + 1 < want) {
        /* Whole long ago. An owner that catches up must hear it, since it asks for nothing that
         * follows a version before its slice of that is taken. */
        reply.duplicate = true;
        kd_xc_answer(call, &reply, NULL, 0);
        goto out;
    }
    size_t vectors = head->with_state ? x->cfg.state_vectors : 0;
    if (!kd_xc_payload_ok(call, len, bytes * (1 + vectors), whole))
        goto out;
    x->io.in[KD_IO_PARAMETERS] += bytes;
    x->io.in[KD_IO_STATE] += len - bytes;
    uint32_t crc = vectors ? kd_crc32c(0, payload, bytes) : head->crc32c;
    bool there = head->version != want || x->have[head->chunk];
    if (there && head->version == want && crc != x->slice_crc[head->chunk])
        x->ev.divergence(x->ev.arg, &x->cfg, x->opening,
                         "two different slices for one chunk and version", want - 1, UINT32_MAX, 0,
                         0, x->settled);
    reply.duplicate = there;
    reply.want_state = !there && x->checkpoint_next && !head->with_state;
    /* An owner may be ahead of a journal that lost its end: a step is committed with all of its
     * sums on record. */
    if (x->current && head->version == want && !x->logged[head->chunk]) {
        kd_rpc_finish(call, -KD_EUNAVAIL, "the sum that led there is not there yet");
        goto out;
    }
    KD_FAILPOINT("exchange.publish");
    int rc = there || reply.want_state ? 0 : take_slice(x, head, payload, crc);
    if (rc < 0) {
        kd_rpc_finish(call, rc, "no memory for the next version");
        goto out;
    }
    kd_xc_answer(call, &reply, NULL, 0);
    if (rc == 1) {
        kd_xc_serve_waiters(x, WANT_SLICE, head->chunk, want, x->next);
        if (x->missing == 0)
            version_whole(x);
    }
out:
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_await_slice(kd_exchange *x, kd_rpc_call *call,
                             const Distill__V1__SliceRequest *req)
{
    pthread_mutex_lock(&x->mu);
    if (kd_xc_usable(x, call, req->chunk)) {
        uint64_t want = kd_xc_collected(x);
        if (x->current && req->version <= x->version)
            kd_xc_answer_slice(x, call, x->version, req->chunk, x->current);
        else if (req->version != want)
            kd_rpc_finish(call, -KD_ESTALE, "that version is not collected now");
        else if (x->have[req->chunk])
            kd_xc_answer_slice(x, call, want, req->chunk, x->next);
        else
            kd_xc_add_waiter(x, call, WANT_SLICE, req->chunk);
    }
    pthread_mutex_unlock(&x->mu);
}

static void fetch_base(kd_exchange *x, kd_rpc_call *call, uint32_t chunk)
{
    if (x->base.vector) {
        kd_xc_answer_state(x, call, chunk, true);
        return;
    }
    kd_xc_add_waiter(x, call, WANT_BASE, chunk);
    if (!x->base.asked)
        x->ev.need_base(x->ev.arg, &x->cfg);
    x->base.asked = true;
}

void kd_exchange_fetch_state(kd_exchange *x, kd_rpc_call *call,
                             const Distill__V1__SliceRequest *req)
{
    pthread_mutex_lock(&x->mu);
    if (kd_xc_usable(x, call, req->chunk)) {
        bool here = x->current && req->version == x->state_version && req->version == x->version &&
                    (x->state || x->cfg.state_vectors == 0);
        if (req->version == 0)
            fetch_base(x, call, req->chunk);
        else if (here)
            kd_xc_answer_state(x, call, req->chunk, false);
        else if (req->version == kd_xc_collected(x) && x->cfg.average &&
                 kd_xc_is_border(&x->cfg, req->version))
            kd_xc_add_waiter(x, call, WANT_STATE, req->chunk);
        else
            kd_rpc_finish(call, -KD_ESTALE,
                          "state is kept for averaged parameters that are evaluated");
    }
    pthread_mutex_unlock(&x->mu);
}

/* ---- values of a batch-coupled loss */

void kd_exchange_push_values(kd_exchange *x, kd_rpc_call *call, const Distill__V1__ValueChunk *head,
                             const uint8_t *payload, size_t len)
{
    Distill__V1__PushReply reply = DISTILL__V1__PUSH_REPLY__INIT;
    const char *diverged = NULL;
    bool whole = kd_crc32c(0, payload, len) == head->crc32c;
    pthread_mutex_lock(&x->mu);
    size_t floats = (size_t)x->cfg.batch / x->cfg.slots * x->cfg.columns;
    if (!kd_xc_usable(x, call, 0))
        goto out;
    if (floats == 0 || head->slot >= x->cfg.slots) {
        kd_rpc_finish(call, -KD_EINVAL, "no such slot, or this stage gathers no values");
        goto out;
    }
    if (x->current && head->step == x->version + 1 && head->step < x->cfg.last_version) {
        kd_rpc_finish(call, -KD_EUNAVAIL, "that version is not committed yet");
        goto out;
    }
    if (head->step != x->version || x->version >= x->cfg.last_version) {
        kd_rpc_finish(call, -KD_ESTALE, "another step is being collected");
        goto out;
    }
    if (!kd_xc_payload_ok(call, len, floats * sizeof(float), whole))
        goto out;
    x->io.in[KD_IO_VALUES] += len;
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
            kd_xc_serve_waiters(x, WANT_VALUES, 0, x->version, NULL);
    }
    kd_xc_answer(call, &reply, NULL, 0);
out:
    if (diverged)
        x->ev.divergence(x->ev.arg, &x->cfg, x->opening, diverged, x->version, UINT32_MAX, 0, 0,
                         x->settled);
    pthread_mutex_unlock(&x->mu);
}

void kd_exchange_await_values(kd_exchange *x, kd_rpc_call *call,
                              const Distill__V1__ValueRequest *req)
{
    pthread_mutex_lock(&x->mu);
    if (kd_xc_usable(x, call, 0)) {
        if (x->current && req->step == x->version + 1)
            kd_rpc_finish(call, -KD_EUNAVAIL, "that version is not committed yet");
        else if (req->step != x->version || x->cfg.columns == 0)
            kd_rpc_finish(call, -KD_ESTALE, "another step is being collected");
        else if (x->values.missing == 0)
            kd_xc_answer_values(x, call);
        else
            kd_xc_add_waiter(x, call, WANT_VALUES, 0);
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
    bool whole = kd_crc32c(0, payload, len) == head->crc32c;
    pthread_mutex_lock(&x->mu);
    uint32_t units = (x->cfg.val_samples + x->cfg.eval_unit - 1) / x->cfg.eval_unit;
    if (!kd_xc_usable(x, call, 0))
        goto out;
    if (head->columns != KD_EVAL_COLUMNS || head->unit >= units) {
        kd_rpc_finish(call, -KD_EINVAL, "no such evaluation unit, or another number of columns");
        goto out;
    }
    uint32_t first = head->unit * x->cfg.eval_unit;
    uint32_t n = KD_MIN(x->cfg.eval_unit, x->cfg.val_samples - first);
    if (!kd_xc_payload_ok(call, len, (size_t)n * KD_EVAL_COLUMNS * sizeof(float), whole))
        goto out;
    x->io.in[KD_IO_EVALUATION] += len;
    if (!kd_xc_is_border(&x->cfg, head->version) || head->version > kd_xc_collected(x) ||
        head->version < x->gathered.version) {
        kd_rpc_finish(call, -KD_ESTALE, "that version is not evaluated now");
        goto out;
    }
    /* A worker may have all slices before the coordinator has: news of an evaluation comes after
     * that of the step which led there. */
    if (!x->current || head->version > x->version) {
        kd_rpc_finish(call, -KD_EUNAVAIL, "that version is not committed yet");
        goto out;
    }
    struct gathered *g = &x->gathered;
    if (g->version != head->version) {
        kd_xc_clear_gathered(x);
        g->rows = calloc((size_t)x->cfg.val_samples * KD_EVAL_COLUMNS, sizeof *g->rows);
        g->unit_crc = calloc(units, sizeof *g->unit_crc);
        g->have = calloc(units, sizeof *g->have);
        if (!g->rows || !g->unit_crc || !g->have) {
            kd_xc_clear_gathered(x);
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
    if (rows) {
        x->ev.evaluated(x->ev.arg, &x->cfg, x->opening, head->version, head->learning_rate, rows);
        x->evaluated = head->version;
        kd_xc_release_sums(x);
    }
    kd_xc_answer(call, &reply, NULL, 0);
out:
    if (diverged)
        x->ev.divergence(x->ev.arg, &x->cfg, x->opening, diverged, x->version, UINT32_MAX, 0, 0,
                         x->settled);
    pthread_mutex_unlock(&x->mu);
    free(rows);
}

void kd_exchange_set_base(kd_exchange *x, uint64_t version, float *vector, float *state,
                          const char *why)
{
    pthread_mutex_lock(&x->mu);
    kd_xc_drop_base(x);
    x->base.asked = false;
    x->base.vector = vector;
    x->base.state = state;
    x->base.version = version;
    for (uint32_t k = 0; k < x->cfg.chunks; k++) {
        if (vector)
            kd_xc_serve_waiters(x, WANT_BASE, k, version, NULL);
        else
            kd_xc_dismiss(x, WANT_BASE, k, -KD_EUNAVAIL, why);
    }
    pthread_mutex_unlock(&x->mu);
}

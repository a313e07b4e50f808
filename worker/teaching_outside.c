/* Teachers that run elsewhere. What a request holds is a function of the job alone, however many
 * workers there are and whatever is known already: the places of a slot, or an aligned block of
 * clean pictures. Answers go into the bank and are taken from it again, so that all workers have
 * the same ones even where the server rounds now so, now so. */
#include "teaching_internal.h"

#include "data/view.h"
#include "kd/clock.h"
#include "kd/log.h"
#include "wire/limits.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_REQUESTS 64
#define ANSWERS_ROOM ((size_t)64 << 20) /* bytes of the answers to requests at once */

bool kd_teaching_make_requests(kd_teaching *t)
{
    struct requests *q = &t->requests;
    for (int k = 0; k < t->n_teachers; k++)
        if (t->cfg.outside[k])
            q->views = KD_MAX(q->views, kd_outside_views(t->cfg.outside[k]));
    if (q->views == 0)
        return true;
    const size_t answer = q->views * t->classes * sizeof(float);
    q->most = KD_MAX(KD_MIN(ANSWERS_ROOM / answer, (size_t)MOST_REQUESTS), (size_t)1);
    q->pairs = calloc(q->most * q->views, 2 * sizeof *q->pairs);
    q->counts = calloc(q->most, sizeof *q->counts);
    q->logits = calloc(q->most, answer);
    q->answered = calloc(t->max_rows, sizeof *q->answered);
    return q->pairs && q->counts && q->logits && q->answered;
}

/* ---- which */

static int compare_pairs(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    if (x[0] != y[0])
        return x[0] < y[0] ? -1 : 1;
    return x[1] < y[1] ? -1 : x[1] > y[1];
}

/* Index of a pair; SIZE_MAX: it is not asked for. */
static size_t find_pair(const kd_teaching *t, const uint32_t *pair)
{
    const uint32_t *found =
        bsearch(pair, t->pairs, t->n_pairs, 2 * sizeof *t->pairs, compare_pairs);
    return found ? (size_t)(found - t->pairs) / 2 : SIZE_MAX;
}

static bool is_missing(const kd_teaching *t, const uint32_t *pair)
{
    const size_t i = find_pair(t, pair);
    return i != SIZE_MAX && !t->have[i];
}

/* Where the pairs of the next request go; NULL when there is room for no more. */
static uint32_t *next_request(kd_teaching *t)
{
    const struct requests *q = &t->requests;
    return q->n < q->most ? q->pairs + q->n * q->views * 2 : NULL;
}

/* The places of a slot, in their order. */
static void list_slot(kd_teaching *t, uint32_t slot, size_t views)
{
    uint32_t *to;
    kd_stage_places(t->cfg.stage, t->from.step, slot, t->places);
    for (size_t at = 0; at < t->slot_batch && (to = next_request(t)); at += views) {
        const size_t n = KD_MIN(views, t->slot_batch - at);
        bool wanted = false;
        for (size_t i = 0; i < n; i++) {
            to[2 * i] = t->places[at + i].sample;
            to[2 * i + 1] = t->places[at + i].teacher_view;
            wanted = wanted || is_missing(t, to + 2 * i);
        }
        if (wanted)
            t->requests.counts[t->requests.n++] = n;
    }
}

/* Blocks of all clean pictures that have a missing one. */
static void list_clean(kd_teaching *t, size_t views)
{
    size_t last = SIZE_MAX;
    uint32_t *to;
    for (size_t i = 0; i < t->n_pairs && (to = next_request(t)); i++) {
        const size_t block = (t->pairs[2 * i] - t->n_train) / views, first = block * views;
        const size_t n = KD_MIN(views, t->n_clean - first);
        if (t->have[i] || block == last)
            continue;
        for (size_t k = 0; k < n; k++) {
            to[2 * k] = (uint32_t)(t->n_train + first + k);
            to[2 * k + 1] = KD_VIEW_CLEAN;
        }
        t->requests.counts[t->requests.n++] = n;
        last = block;
    }
}

/* Those that bring what is missing, as many as there is room for. */
static size_t list_requests(kd_teaching *t, int teacher)
{
    const size_t views = kd_outside_views(t->cfg.outside[teacher]);
    t->requests.n = 0;
    for (uint32_t k = 0; k < t->from.count; k++)
        list_slot(t, t->from.first + k, views);
    if (t->from.count == 0)
        list_clean(t, views);
    return t->requests.n;
}

/* ---- asking */

static void ask_one(void *arg, int item, int thread)
{
    kd_teaching *t = arg;
    const struct requests *q = &t->requests;
    kd_diag diag = {0};
    if (t->cfg.stopped(t->cfg.arg) || __atomic_load_n(&t->failed, __ATOMIC_RELAXED))
        return;
    const double begin = kd_clock_s();
    const int rc = kd_outside_request(t->cfg.outside[t->teacher], thread,
                                      q->pairs + (size_t)item * q->views * 2, q->counts[item],
                                      q->logits + (size_t)item * q->views * t->classes, &diag);
    atomic_fetch_add(&t->cfg.counts->forwards, q->counts[item]);
    atomic_fetch_add(&t->cfg.counts->microseconds, (uint64_t)((kd_clock_s() - begin) * 1e6));
    if (rc != 0 && !__atomic_exchange_n(&t->failed, rc, __ATOMIC_RELAXED))
        t->diag = diag;
}

static int ask_all(kd_teaching *t, int teacher, kd_diag *diag)
{
    t->failed = 0;
    t->teacher = teacher;
    kd_pool_start(t->cfg.pool, (int)t->requests.n, ask_one, t);
    kd_pool_wait(t->cfg.pool);
    if (t->cfg.stopped(t->cfg.arg))
        return -KD_ECANCELED;
    return t->failed ? kd_fail(diag, t->failed, "%.1000s", t->diag.msg) : 0;
}

/* Answers to pairs that have one already, in the bank: they must agree. */
static int compare(const kd_teaching *t, int teacher, kd_diag *diag)
{
    const struct requests *q = &t->requests;
    for (size_t k = 0; k < q->n; k++)
        for (size_t m = 0; m < q->counts[k]; m++) {
            const uint32_t *pair = q->pairs + (k * q->views + m) * 2;
            const size_t i = find_pair(t, pair);
            if (i == SIZE_MAX || !t->have[i] ||
                kd_outside_agree(t->answers[teacher] + i * t->classes,
                                 q->logits + (k * q->views + m) * t->classes, t->classes))
                continue;
            return kd_fail(diag, -KD_EDATA,
                           "the teacher's answers have changed: on sample %u, view %u it says "
                           "something else than it did for the logit bank",
                           pair[0], pair[1]);
        }
    return 0;
}

/* Records of the pairs without an answer in the bank; returns how many. */
static size_t make_records(kd_teaching *t, bool clean)
{
    const struct requests *q = &t->requests;
    size_t n = 0;
    for (size_t k = 0; k < q->n; k++)
        for (size_t m = 0; m < q->counts[k]; m++) {
            const uint32_t *pair = q->pairs + (k * q->views + m) * 2;
            const size_t i = find_pair(t, pair);
            if (i == SIZE_MAX || t->have[i] || q->answered[i] ||
                (pair[1] == KD_VIEW_CLEAN) != clean)
                continue;
            uint8_t *to = t->records + n++ * t->record;
            memcpy(to, pair, 8);
            memcpy(to + 8, q->logits + (k * q->views + m) * t->classes, t->record - 8);
            q->answered[i] = true;
        }
    return n;
}

/* Until the bank has them: the students of all workers learn from what it says. */
static int put_records(kd_teaching *t, const kd_stage_ref *ref, int teacher, bool clean,
                       kd_diag *diag)
{
    const size_t n = make_records(t, clean), most = KD_MAX_PAYLOAD_BYTES / t->record;
    for (size_t done = 0; done < n;) {
        const size_t piece = KD_MIN(most, n - done);
        const int rc =
            kd_exchange_put_logits(t->cfg.channel, ref, kd_stage_bank(t->cfg.stage, teacher, clean),
                                   t->records + done * t->record, piece * t->record, diag);
        done += rc == 0 ? piece : 0;
        const bool again = rc != 0 && kd_exchange_again(rc, t->cfg.stopped, t->cfg.arg);
        if (t->cfg.stopped(t->cfg.arg))
            return -KD_ECANCELED;
        if (rc != 0 && !again)
            return kd_fail_at(diag, rc, "the logit bank takes no answers of an outside teacher");
        if (rc != 0 && !t->not_stored)
            kd_warn("waiting for room in the logit bank, which an outside teacher needs: %s",
                    diag->msg);
        t->not_stored = rc != 0;
    }
    return 0;
}

/* A bank that cannot be read has nothing even of what it took. */
static bool is_lost(const kd_teaching *t)
{
    for (size_t i = 0; i < t->n_pairs; i++)
        if (t->requests.answered[i] && !t->have[i])
            return true;
    return false;
}

int kd_teaching_ask_outside(kd_teaching *t, const kd_stage_ref *ref, int teacher, kd_diag *diag)
{
    int rc = 0;
    while (rc == 0 && list_requests(t, teacher) > 0) {
        memset(t->requests.answered, 0, t->n_pairs * sizeof *t->requests.answered);
        rc = ask_all(t, teacher, diag);
        if (rc == 0)
            rc = compare(t, teacher, diag);
        const uint_fast64_t hits = atomic_load(&t->cfg.counts->hits);
        for (int clean = 0; clean < 2 && rc == 0; clean++) {
            rc = put_records(t, ref, teacher, clean, diag);
            if (rc == 0)
                rc = kd_teaching_from_bank(t, ref, teacher, clean, true, diag);
        }
        atomic_store(&t->cfg.counts->hits, hits); /* the bank saved nobody a teacher's run there */
        /* Another worker may have been first, with answers of another model. */
        if (rc == 0)
            rc = compare(t, teacher, diag);
        if (rc == 0 && is_lost(t))
            usleep(KD_EXCHANGE_PAUSE_MS * 1000);
    }
    if (rc != 0 && rc != -KD_ECANCELED) {
        t->cfg.problem(t->cfg.arg, diag->msg);
        return -KD_ECANCELED;
    }
    return rc;
}

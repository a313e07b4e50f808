#include "teaching.h"

#include "kd/log.h"
#include "wire/limits.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_KEPT ((size_t)256 << 20) /* bytes of logits kept in memory */
#define RETRY_MS 100

/* One place of the step's batch and the sample whose logits it wants. */
struct place {
    uint32_t sample, view;
    size_t row;
};

struct kd_teaching {
    kd_teaching_config cfg;
    size_t classes, record, n_train;
    uint32_t slot_batch;
    size_t max_rows;
    float *rows;        /* [max_rows][classes] of this step */
    struct place *want; /* [max_rows], the first n_want still without logits */
    size_t n_want;
    uint32_t *samples; /* [slot_batch] */
    uint32_t *pairs;   /* [max_rows][2] each sample and view once */
    float *fresh;      /* [max_rows][classes] */
    uint8_t *records;  /* [max_rows][record] */
    float *kept;       /* [kept_views][n_train][classes] */
    bool *have;        /* [kept_views][n_train] */
    uint32_t kept_views;
    int failed; /* of the teacher, on the pool */
    kd_diag diag;
};

int kd_teaching_new(const kd_teaching_config *cfg, kd_teaching **out, kd_diag *diag)
{
    const kd_stage_shape *h = kd_stage_shape_of(cfg->stage);
    kd_teaching *t = kd_xalloc(sizeof *t);
    t->cfg = *cfg;
    t->classes = (size_t)cfg->session->classes;
    t->record = 8 + 4 * t->classes;
    t->n_train = cfg->session->n_train;
    t->slot_batch = h->slot_batch;
    t->max_rows = (size_t)h->slots * h->slot_batch;
    size_t all = 0;
    if (kd_mul_size((size_t)cfg->views * t->n_train, t->classes * sizeof(float), &all) &&
        all <= MAX_KEPT)
        t->kept_views = (uint32_t)cfg->views;
    t->rows = calloc(t->max_rows, t->classes * sizeof(float));
    t->want = calloc(t->max_rows, sizeof *t->want);
    t->samples = calloc(t->slot_batch, sizeof *t->samples);
    t->pairs = calloc(t->max_rows, 2 * sizeof *t->pairs);
    t->fresh = calloc(t->max_rows, t->classes * sizeof(float));
    t->records = calloc(t->max_rows, t->record);
    if (t->kept_views) {
        t->kept = malloc(all);
        t->have = calloc(t->kept_views * t->n_train, sizeof *t->have);
    }
    if (!t->rows || !t->want || !t->samples || !t->pairs || !t->fresh || !t->records ||
        (t->kept_views && (!t->kept || !t->have))) {
        kd_teaching_free(t);
        return kd_fail(diag, -KD_ENOMEM, "no memory for the teacher's logits");
    }
    *out = t;
    return 0;
}

void kd_teaching_free(kd_teaching *t)
{
    if (!t)
        return;
    free(t->rows);
    free(t->want);
    free(t->samples);
    free(t->pairs);
    free(t->fresh);
    free(t->records);
    free(t->kept);
    free(t->have);
    free(t);
}

const float *kd_teaching_rows(const kd_teaching *t, uint32_t item)
{
    return t->rows + (size_t)item * t->slot_batch * t->classes;
}

/* ---- steps of a fill */

static int by_pair(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->sample != y->sample)
        return x->sample < y->sample ? -1 : 1;
    return x->view < y->view ? -1 : x->view > y->view;
}

/* Lists the places whose logits are not in memory, sorted; padding repeats samples. */
static void list_wanted(kd_teaching *t, uint64_t step, uint32_t first, uint32_t count)
{
    t->n_want = 0;
    for (uint32_t k = 0; k < count; k++) {
        uint32_t view;
        kd_stage_samples(t->cfg.stage, step, first + k, t->samples, &view);
        for (uint32_t i = 0; i < t->slot_batch; i++) {
            size_t row = (size_t)k * t->slot_batch + i;
            size_t at = (size_t)view * t->n_train + t->samples[i];
            if (view < t->kept_views && t->have[at])
                memcpy(t->rows + row * t->classes, t->kept + at * t->classes,
                       t->classes * sizeof(float));
            else
                t->want[t->n_want++] = (struct place){t->samples[i], view, row};
        }
    }
    qsort(t->want, t->n_want, sizeof *t->want, by_pair);
}

/* Each wanted sample and view once; returns how many. */
static size_t list_pairs(kd_teaching *t)
{
    size_t n = 0;
    for (size_t i = 0; i < t->n_want; i++)
        if (i == 0 || by_pair(&t->want[i], &t->want[i - 1]) != 0) {
            t->pairs[2 * n] = t->want[i].sample;
            t->pairs[2 * n++ + 1] = t->want[i].view;
        }
    return n;
}

/* Puts logits where they are wanted, from want[*at] on, and keeps them. */
static void place_logits(kd_teaching *t, uint32_t sample, uint32_t view, const void *logits,
                         size_t *at)
{
    size_t bytes = t->classes * sizeof(float), kept = (size_t)view * t->n_train + sample;
    if (view < t->kept_views) {
        memcpy(t->kept + kept * t->classes, logits, bytes);
        t->have[kept] = true;
    }
    for (; *at < t->n_want && t->want[*at].sample == sample && t->want[*at].view == view; ++*at)
        memcpy(t->rows + t->want[*at].row * t->classes, logits, bytes);
}

static int ask_bank(kd_teaching *t, const kd_stage_ref *ref, const uint32_t *pairs, size_t n,
                    kd_buf *found, kd_diag *diag)
{
    for (;;) {
        int rc = kd_exchange_get_logits(t->cfg.channel, ref, kd_stage_bank(t->cfg.stage), pairs, n,
                                        found, diag);
        if (rc == 0 || !kd_err_retry(rc))
            return rc;
        if (t->cfg.stopped(t->cfg.arg))
            return -KD_ECANCELED;
        usleep(RETRY_MS * 1000);
    }
}

/* Takes from the bank what it has; want keeps the rest. The bank answers in the order it was asked,
 * leaving out what it has not. */
static int from_bank(kd_teaching *t, const kd_stage_ref *ref, kd_diag *diag)
{
    size_t n = list_pairs(t), most = KD_MAX_PAYLOAD_BYTES / t->record, at = 0, left = 0;
    kd_buf found;
    kd_buf_init(&found, KD_MAX_PAYLOAD_BYTES);
    int rc = 0;
    for (size_t done = 0; done < n && rc == 0; done += most) {
        size_t piece = KD_MIN(most, n - done), f = 0;
        found.len = 0;
        rc = ask_bank(t, ref, t->pairs + 2 * done, piece, &found, diag);
        for (size_t i = done; rc == 0 && i < done + piece; i++) {
            const uint32_t *pair = &t->pairs[2 * i];
            const char *record = found.data + f * t->record;
            if (f * t->record < found.len && memcmp(record, pair, 8) == 0) {
                place_logits(t, pair[0], pair[1], record + 8, &at);
                f++;
                continue;
            }
            for (; at < t->n_want && t->want[at].sample == pair[0] && t->want[at].view == pair[1];
                 at++)
                t->want[left++] = t->want[at];
        }
        atomic_fetch_add(t->cfg.hits, f);
    }
    kd_buf_clear(&found);
    t->n_want = left;
    return rc;
}

static void teach_one(void *arg, int item, int thread)
{
    kd_teaching *t = arg;
    kd_diag diag = {0};
    if (t->cfg.stopped(t->cfg.arg))
        return;
    int rc = kd_stage_teach(t->cfg.stage, thread, t->pairs[2 * item], t->pairs[2 * item + 1],
                            t->fresh + (size_t)item * t->classes, &diag);
    atomic_fetch_add(t->cfg.forwards, 1);
    if (rc != 0 && !__atomic_exchange_n(&t->failed, rc, __ATOMIC_RELAXED))
        t->diag = diag;
}

/* Runs the teacher for what is still wanted, and gives its answers to the bank. */
static int from_teacher(kd_teaching *t, const kd_stage_ref *ref, kd_diag *diag)
{
    size_t n = list_pairs(t), most = KD_MAX_PAYLOAD_BYTES / t->record, at = 0;
    if (n == 0)
        return 0;
    t->failed = 0;
    kd_pool_start(t->cfg.pool, (int)n, teach_one, t);
    kd_pool_wait(t->cfg.pool);
    if (t->failed)
        return kd_fail(diag, t->failed, "the teacher: %.900s", t->diag.msg);
    if (t->cfg.stopped(t->cfg.arg))
        return -KD_ECANCELED;
    for (size_t i = 0; i < n; i++) {
        memcpy(t->records + i * t->record, &t->pairs[2 * i], 8);
        memcpy(t->records + i * t->record + 8, t->fresh + i * t->classes,
               t->classes * sizeof(float));
        place_logits(t, t->pairs[2 * i], t->pairs[2 * i + 1], t->fresh + i * t->classes, &at);
    }
    for (size_t done = 0; done < n; done += most) {
        kd_diag why = {0};
        /* A bank that cannot take them costs another job a teacher pass, no more. */
        if (kd_exchange_put_logits(t->cfg.channel, ref, kd_stage_bank(t->cfg.stage),
                                   t->records + done * t->record,
                                   KD_MIN(most, n - done) * t->record, &why) != 0) {
            kd_warn("logits were not stored: %s", why.msg);
            break;
        }
    }
    return 0;
}

int kd_teaching_fill(kd_teaching *t, const kd_stage_ref *ref, uint64_t step, uint32_t first,
                     uint32_t count, kd_diag *diag)
{
    list_wanted(t, step, first, count);
    int rc = t->n_want ? from_bank(t, ref, diag) : 0;
    return rc == 0 && t->n_want ? from_teacher(t, ref, diag) : rc;
}

#include "teaching_internal.h"

#include "kd/clock.h"
#include "kd/log.h"
#include "wire/limits.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_KEPT ((size_t)256 << 20)   /* bytes of training logits kept in memory */
#define MAX_CLEAN ((size_t)1024 << 20) /* bytes of logits of clean pictures, which must fit */
#define MIN_ROWS 256                   /* pairs that are worked on at once, at least */
#define RETRY_MS 100

/* Of training samples; 0: they are too many to be kept. */
static size_t kept_bytes(const kd_session *ss, int views)
{
    size_t all;
    const size_t row = (size_t)ss->classes * sizeof(float);
    return kd_mul_size((size_t)views * ss->n_train, row, &all) && all <= MAX_KEPT ? all : 0;
}

/* Of an ensemble of probabilities clean pictures' logits are kept at temperature 1 as well. */
static bool joins_alike(const kd_session *ss, int n_teachers)
{
    return n_teachers == 1 || ss->job.ensemble == KD_ENSEMBLE_LOGITS;
}

size_t kd_teaching_bytes(const kd_session *ss, int n_teachers, int views)
{
    size_t clean = (kd_data_samples(ss->data) - ss->n_train) * (size_t)ss->classes * sizeof(float);
    return kept_bytes(ss, views) + clean * (joins_alike(ss, n_teachers) ? 1 : 2);
}

static bool allocate(kd_teaching *t)
{
    size_t row = t->classes * sizeof(float), all = kept_bytes(t->cfg.session, t->cfg.views);
    size_t batch = (size_t)kd_stage_shape_of(t->cfg.stage)->slots * t->slot_batch;
    if (all)
        t->kept_views = (uint32_t)t->cfg.views;
    t->rows = calloc(batch, row);
    t->want = calloc(t->max_rows, sizeof *t->want);
    t->places = calloc(t->slot_batch, sizeof *t->places);
    t->pairs = calloc(t->max_rows, 2 * sizeof *t->pairs);
    t->joined = calloc(t->max_rows, row);
    t->have = calloc(t->max_rows, sizeof *t->have);
    t->asked = calloc(t->max_rows, sizeof *t->asked);
    t->request = calloc(t->max_rows, 2 * sizeof *t->request);
    t->records = calloc(t->max_rows, t->record);
    t->clean_have = calloc(t->n_clean + 1, sizeof *t->clean_have);
    bool ok = t->rows && t->want && t->places && t->pairs && t->joined && t->have && t->asked &&
              t->request && t->records && t->clean_have;
    for (int k = 0; k < t->n_teachers && ok; k++)
        ok = (t->answers[k] = calloc(t->max_rows, row)) != NULL;
    if (ok && t->kept_views) {
        t->kept = malloc(all);
        t->kept_have = calloc(t->kept_views * t->n_train, sizeof *t->kept_have);
        ok = t->kept && t->kept_have;
    }
    ok = ok && (t->clean = calloc(t->n_clean + 1, row)) != NULL;
    ok = ok && kd_teaching_make_requests(t);
    t->plain = joins_alike(t->cfg.session, t->n_teachers) ? t->clean : calloc(t->n_clean + 1, row);
    return ok && t->plain;
}

int kd_teaching_new(const kd_teaching_config *cfg, kd_teaching **out, kd_diag *diag)
{
    const kd_stage_shape *h = kd_stage_shape_of(cfg->stage);
    kd_teaching *t = kd_xalloc(sizeof *t);
    t->cfg = *cfg;
    t->classes = (size_t)cfg->session->classes;
    t->record = 8 + 4 * t->classes;
    t->n_train = cfg->session->n_train;
    t->n_clean = kd_data_samples(cfg->session->data) - t->n_train;
    t->slot_batch = h->slot_batch;
    t->n_teachers = h->n_teachers;
    t->max_rows = KD_MAX((size_t)h->slots * h->slot_batch, (size_t)MIN_ROWS);
    size_t bytes;
    if (!kd_mul_size(t->n_clean, t->classes * sizeof(float), &bytes) || bytes > MAX_CLEAN) {
        kd_teaching_free(t);
        return kd_fail(diag, -KD_ELIMIT,
                       "the teacher's logits of %zu pictures with %zu classes take more than %zu "
                       "MiB of a worker's memory",
                       cfg->session->n_val + cfg->session->n_unlabelled,
                       (size_t)cfg->session->classes, MAX_CLEAN >> 20);
    }
    if (!allocate(t)) {
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
    free(t->places);
    free(t->pairs);
    for (int k = 0; k < KD_MAX_TEACHERS; k++)
        free(t->answers[k]);
    free(t->joined);
    free(t->have);
    free(t->asked);
    free(t->request);
    free(t->records);
    free(t->kept);
    free(t->kept_have);
    if (t->plain != t->clean)
        free(t->plain);
    free(t->clean);
    free(t->clean_have);
    free(t->requests.pairs);
    free(t->requests.counts);
    free(t->requests.logits);
    free(t->requests.answered);
    free(t);
}

const float *kd_teaching_rows(const kd_teaching *t, uint32_t item)
{
    return t->rows + (size_t)item * t->slot_batch * t->classes;
}

/* ---- logits of pairs */

/* patient: until there is an answer. */
static int ask_bank(kd_teaching *t, const kd_stage_ref *ref, const kd_bank_ref *bank, bool patient,
                    size_t n, size_t first, kd_buf *found, kd_diag *diag)
{
    for (;;) {
        int rc = kd_exchange_get_logits(t->cfg.channel, ref, bank, t->request + 2 * first, n, found,
                                        diag);
        if (rc == 0 || !kd_err_retry(rc) || !patient)
            return rc;
        if (t->cfg.stopped(t->cfg.arg))
            return -KD_ECANCELED;
        usleep(RETRY_MS * 1000);
    }
}

/* Numbers of the pairs that belong to one kind of bank and are still without logits. */
static size_t list_asked(kd_teaching *t, bool clean)
{
    size_t n = 0;
    for (size_t i = 0; i < t->n_pairs; i++) {
        if (t->have[i] || (t->pairs[2 * i + 1] == KD_VIEW_CLEAN) != clean)
            continue;
        memcpy(t->request + 2 * n, t->pairs + 2 * i, 8);
        t->asked[n++] = (uint32_t)i;
    }
    return n;
}

/* The bank answers in the order it was asked, leaving out what it has not. */
int kd_teaching_from_bank(kd_teaching *t, const kd_stage_ref *ref, int teacher, bool clean,
                          bool patient, kd_diag *diag)
{
    size_t n = list_asked(t, clean), most = KD_MAX_PAYLOAD_BYTES / t->record;
    kd_buf found;
    kd_buf_init(&found, KD_MAX_PAYLOAD_BYTES);
    size_t all = 0;
    int rc = 0;
    for (size_t done = 0; done < n && rc == 0; done += most) {
        size_t piece = KD_MIN(most, n - done), f = 0;
        found.len = 0;
        rc = ask_bank(t, ref, kd_stage_bank(t->cfg.stage, teacher, clean), patient, piece, done,
                      &found, diag);
        for (size_t i = done; rc == 0 && i < done + piece; i++) {
            const char *record = found.data + f * t->record;
            if (f * t->record >= found.len || memcmp(record, t->request + 2 * i, 8) != 0)
                continue;
            memcpy(t->answers[teacher] + t->asked[i] * t->classes, record + 8,
                   t->classes * sizeof(float));
            t->have[t->asked[i]] = true;
            f++;
        }
        atomic_fetch_add(&t->cfg.counts->hits, f);
        all += f;
    }
    if (n > 0)
        t->bank_full = all == n;
    kd_buf_clear(&found);
    return rc;
}

static void teach_one(void *arg, int item, int thread)
{
    kd_teaching *t = arg;
    kd_diag diag = {0};
    if (t->cfg.stopped(t->cfg.arg))
        return;
    const uint32_t *pair = t->request + 2 * item;
    double begin = kd_clock_s();
    int rc = kd_stage_teach(t->cfg.stage, thread, t->teacher, pair[0], pair[1],
                            t->answers[t->teacher] + t->asked[item] * t->classes, &diag);
    atomic_fetch_add(&t->cfg.counts->forwards, 1);
    atomic_fetch_add(&t->cfg.counts->microseconds, (uint64_t)((kd_clock_s() - begin) * 1e6));
    if (rc != 0 && !__atomic_exchange_n(&t->failed, rc, __ATOMIC_RELAXED))
        t->diag = diag;
}

/* Runs a teacher for what is still wanted, and gives its answers to the bank. */
static int from_teacher(kd_teaching *t, const kd_stage_ref *ref, int teacher, bool clean,
                        kd_diag *diag)
{
    size_t n = list_asked(t, clean), most = KD_MAX_PAYLOAD_BYTES / t->record;
    if (n == 0)
        return 0;
    t->failed = 0;
    t->teacher = teacher;
    kd_pool_start(t->cfg.pool, (int)n, teach_one, t);
    kd_pool_wait(t->cfg.pool);
    if (t->failed)
        return kd_fail(diag, t->failed, "the teacher: %.900s", t->diag.msg);
    if (t->cfg.stopped(t->cfg.arg))
        return -KD_ECANCELED;
    for (size_t i = 0; i < n; i++) {
        memcpy(t->records + i * t->record, t->request + 2 * i, 8);
        memcpy(t->records + i * t->record + 8, t->answers[teacher] + t->asked[i] * t->classes,
               t->classes * sizeof(float));
        t->have[t->asked[i]] = true;
    }
    for (size_t done = 0; done < n; done += most) {
        kd_diag why = {0};
        /* A bank that cannot take them costs another job a teacher pass, no more. */
        if (kd_exchange_put_logits(t->cfg.channel, ref, kd_stage_bank(t->cfg.stage, teacher, clean),
                                   t->records + done * t->record,
                                   KD_MIN(most, n - done) * t->record, &why) != 0) {
            if (!t->not_stored)
                kd_warn("logits are not stored: %s", why.msg);
            t->not_stored = true;
            break;
        }
        t->not_stored = false;
    }
    return 0;
}

/* Of one pair, whose answers are there. */
static void join(kd_teaching *t, size_t i)
{
    const float *rows[KD_MAX_TEACHERS];
    for (int k = 0; k < t->n_teachers; k++)
        rows[k] = t->answers[k] + i * t->classes;
    kd_stage_join_teachers(t->cfg.stage, kd_stage_temperature(t->cfg.stage), rows,
                           t->joined + i * t->classes);
    uint32_t sample = t->pairs[2 * i];
    if (t->plain != t->clean && t->pairs[2 * i + 1] == KD_VIEW_CLEAN && sample >= t->n_train)
        kd_stage_join_teachers(t->cfg.stage, 1, rows,
                               t->plain + (sample - t->n_train) * t->classes);
}

/* Logits of the listed pairs, of all teachers joined. */
static int get_pairs(kd_teaching *t, const kd_stage_ref *ref, kd_diag *diag)
{
    int rc = 0;
    for (int k = 0; k < t->n_teachers && rc == 0; k++) {
        memset(t->have, 0, t->n_pairs * sizeof *t->have);
        for (int clean = 0; clean < 2 && rc == 0; clean++) {
            rc = kd_teaching_from_bank(t, ref, k, clean, true, diag);
            if (rc == 0 && !t->cfg.outside[k])
                rc = from_teacher(t, ref, k, clean, diag);
        }
        if (rc == 0 && t->cfg.outside[k])
            rc = kd_teaching_ask_outside(t, ref, k, diag);
    }
    for (size_t i = 0; i < t->n_pairs && rc == 0; i++)
        join(t, i);
    return rc;
}

/* ---- training samples of a step */

static int by_pair(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->sample != y->sample)
        return x->sample < y->sample ? -1 : 1;
    return x->view < y->view ? -1 : x->view > y->view;
}

/* Logits that are in memory, NULL = none. */
static const float *known(const kd_teaching *t, uint32_t sample, uint32_t view)
{
    if (view == KD_VIEW_CLEAN)
        return kd_teaching_clean_row(t, sample) ? t->clean + (sample - t->n_train) * t->classes
                                                : NULL;
    size_t at = (size_t)view * t->n_train + sample;
    return view < t->kept_views && t->kept_have[at] ? t->kept + at * t->classes : NULL;
}

static void keep(kd_teaching *t, uint32_t sample, uint32_t view, const float *logits)
{
    size_t bytes = t->classes * sizeof(float), at = (size_t)view * t->n_train + sample;
    if (view == KD_VIEW_CLEAN && sample >= t->n_train) {
        memcpy(t->clean + (sample - t->n_train) * t->classes, logits, bytes);
        t->clean_have[sample - t->n_train] = true;
    } else if (view < t->kept_views) {
        memcpy(t->kept + at * t->classes, logits, bytes);
        t->kept_have[at] = true;
    }
}

/* Lists the places whose logits are not in memory, sorted, and their pairs; padding repeats
 * samples. fill: those that are in memory go into the step's rows. */
static void list_wanted(kd_teaching *t, uint64_t step, uint32_t first, uint32_t count, bool fill)
{
    t->n_want = 0;
    for (uint32_t k = 0; k < count; k++) {
        kd_stage_places(t->cfg.stage, step, first + k, t->places);
        for (uint32_t i = 0; i < t->slot_batch; i++) {
            size_t row = (size_t)k * t->slot_batch + i;
            const kd_place *p = &t->places[i];
            const float *logits = known(t, p->sample, p->teacher_view);
            if (logits && fill)
                memcpy(t->rows + row * t->classes, logits, t->classes * sizeof(float));
            else if (!logits)
                t->want[t->n_want++] = (struct place){p->sample, p->teacher_view, row};
        }
    }
    qsort(t->want, t->n_want, sizeof *t->want, by_pair);
    t->n_pairs = 0;
    for (size_t i = 0; i < t->n_want; i++)
        if (i == 0 || by_pair(&t->want[i], &t->want[i - 1]) != 0) {
            t->pairs[2 * t->n_pairs] = t->want[i].sample;
            t->pairs[2 * t->n_pairs++ + 1] = t->want[i].view;
        }
}

int kd_teaching_fill(kd_teaching *t, const kd_stage_ref *ref, uint64_t step, uint32_t first,
                     uint32_t count, kd_diag *diag)
{
    list_wanted(t, step, first, count, true);
    t->from.step = step;
    t->from.first = first;
    t->from.count = count;
    int rc = t->n_pairs ? get_pairs(t, ref, diag) : 0;
    for (size_t i = 0, at = 0; rc == 0 && i < t->n_pairs; i++) {
        const float *logits = t->joined + i * t->classes;
        keep(t, t->pairs[2 * i], t->pairs[2 * i + 1], logits);
        for (; at < t->n_want && t->want[at].sample == t->pairs[2 * i] &&
               t->want[at].view == t->pairs[2 * i + 1];
             at++)
            memcpy(t->rows + t->want[at].row * t->classes, logits, t->classes * sizeof(float));
    }
    return rc;
}

void kd_teaching_ahead(kd_teaching *t, const kd_stage_ref *ref, uint64_t step, uint32_t first,
                       uint32_t count)
{
    kd_diag diag = {0}; /* what fails here is asked for again when it is needed */
    if (!t->kept_views || !t->bank_full || t->n_teachers != 1)
        return;
    list_wanted(t, step, first, count, false);
    memset(t->have, 0, t->n_pairs * sizeof *t->have);
    for (int clean = 0; clean < 2; clean++)
        if (kd_teaching_from_bank(t, ref, 0, clean, false, &diag) != 0)
            return;
    for (size_t i = 0; i < t->n_pairs; i++)
        if (t->have[i]) {
            join(t, i);
            keep(t, t->pairs[2 * i], t->pairs[2 * i + 1], t->joined + i * t->classes);
        }
}

/* ---- clean pictures */

static int by_sample(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return x[0] < y[0] ? -1 : x[0] > y[0];
}

int kd_teaching_clean(kd_teaching *t, const kd_stage_ref *ref, const uint32_t *samples, size_t n,
                      kd_diag *diag)
{
    int rc = 0;
    t->from.count = 0;
    for (size_t at = 0; at < n && rc == 0;) {
        t->n_pairs = 0;
        for (; at < n && t->n_pairs < t->max_rows; at++) {
            KD_BUG_ON(samples[at] < t->n_train || samples[at] - t->n_train >= t->n_clean);
            if (t->clean_have[samples[at] - t->n_train])
                continue;
            t->pairs[2 * t->n_pairs] = samples[at];
            t->pairs[2 * t->n_pairs++ + 1] = KD_VIEW_CLEAN;
        }
        qsort(t->pairs, t->n_pairs, 2 * sizeof *t->pairs, by_sample);
        rc = t->cfg.stopped(t->cfg.arg) ? -KD_ECANCELED : t->n_pairs ? get_pairs(t, ref, diag) : 0;
        for (size_t i = 0; i < t->n_pairs && rc == 0; i++)
            keep(t, t->pairs[2 * i], KD_VIEW_CLEAN, t->joined + i * t->classes);
    }
    return rc;
}

const float *kd_teaching_clean_row(const kd_teaching *t, uint32_t sample)
{
    if (sample < t->n_train || sample - t->n_train >= t->n_clean ||
        !t->clean_have[sample - t->n_train])
        return NULL;
    return t->plain + (sample - t->n_train) * t->classes;
}

/* A trial: what would a job take on this worker, which has none? Its data are opened, each stage is
 * made as for a job and its parts are measured; nothing is fetched, sent or kept. Teachers are the
 * networks that their stages begin with: what they say takes the same time. */
#include "runner_internal.h"

#include "kd/clock.h"
#include "kd/log.h"
#include "kd/text.h"
#include "store/network.h"
#include "times.h"

#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_BYTES ((size_t)32 << 20) /* decoded pictures of a trial */
#define TEXT 512
#define COST_RUNS 36 /* inferences by which the last stage tells what one costs */

_Static_assert(KD_MAX_STAGES <= KD_MAX_TRIED, "one message tells of all stages");

struct trial {
    kd_runner *r;
    const Distill__V1__Trial *ask;
    kd_time_ms until;
    kd_session *ss;
    double opened; /* seconds that it took to open the data */
    atomic_uint bad;
    Distill__V1__TriedStage items[KD_MAX_STAGES], *list[KD_MAX_STAGES];
    char problems[KD_MAX_STAGES][TEXT], notes[KD_MAX_STAGES][TEXT];
    size_t n;
    kd_buf teachers[KD_MAX_TEACHERS]; /* files of those that were tried */
    uint64_t views_shown;             /* of each sample, by the stages so far */
    bool clean_shown, train_decoded, val_decoded;
};

static bool stopped(void *arg)
{
    const struct trial *t = arg;
    return kd_runner_stopped(t->r) || kd_clock_ms() >= t->until;
}

static bool go_on(size_t done, size_t all, void *arg)
{
    (void)done;
    (void)all;
    return !stopped(arg);
}

static void on_bad_picture(void *arg, size_t sample, const char *why)
{
    struct trial *t = arg;
    (void)sample;
    (void)why;
    atomic_fetch_add(&t->bad, 1);
}

static void note(struct trial *t, size_t i, const char *fmt, ...) KD_PRINTF(3, 4);
static void note(struct trial *t, size_t i, const char *fmt, ...)
{
    char *text = t->notes[i];
    const size_t at = strlen(text);
    va_list ap;
    int n = snprintf(text + at, TEXT - at, "%s", at ? "; " : "");
    va_start(ap, fmt);
    if (at + (size_t)n < TEXT)
        vsnprintf(text + at + n, TEXT - at - (size_t)n, fmt, ap);
    va_end(ap);
}

static void problem(struct trial *t, size_t i, const char *text)
{
    snprintf(t->problems[i], TEXT, "%.*s", TEXT - 1, text);
}

/* ---- stages that are made */

static double threads_of(const struct trial *t)
{
    return (double)kd_pool_threads(t->r->pool);
}

/* Bytes that a worker holds besides, if it has the stage alone: vectors of the version to come, the
 * sums, the tree's nodes, pictures, teachers' logits. */
static uint64_t besides(const struct trial *t, const kd_stage_shape *h, int views)
{
    const kd_session *ss = t->ss;
    const uint64_t vector = h->floats * sizeof(float), side = (uint64_t)ss->size;
    uint64_t vectors = 0;
    if (h->steps > 0) {
        vectors = 4 + h->average;
        for (uint32_t slots = h->slots; slots > 1; slots /= 2)
            vectors++;
    }
    const uint64_t pictures = (uint64_t)kd_data_samples(ss->data) * side * side * 3;
    return vectors * vector + KD_MIN(pictures, (uint64_t)t->r->cfg.cache_bytes) +
           (h->n_teachers ? kd_teaching_bytes(ss, h->n_teachers, views) : 0);
}

/* Where all pictures fit the cache every worker decodes each once, in the first stage that looks at
 * it; else whoever needs it does each time. */
static void add_pictures(struct trial *t, Distill__V1__TriedStage *it, double seconds)
{
    const kd_session *ss = t->ss;
    const uint64_t train = it->steps > 0 ? ss->n_train : 0, val = ss->n_val;
    const size_t picture = (size_t)ss->size * (size_t)ss->size * 3;
    if (kd_data_samples(ss->data) > t->r->cfg.cache_bytes / picture) {
        it->pictures = train * it->epochs + val * it->evaluations;
        it->picture_seconds = seconds;
        return;
    }
    const uint64_t fresh = (t->train_decoded ? 0 : train) + (t->val_decoded ? 0 : val);
    it->alone_seconds += (double)fresh * seconds / threads_of(t);
    t->val_decoded = true;
    t->train_decoded = t->train_decoded || train > 0;
}

/* Views that no stage before has shown the teachers: the bank keeps those. */
static uint64_t fresh_views(struct trial *t, int epochs, int views)
{
    const kd_session *ss = t->ss;
    const uint64_t each = (uint64_t)(views > 0 ? KD_MIN(epochs, views) : epochs);
    const uint64_t clean = t->clean_shown ? 0 : ss->n_val + ss->n_unlabelled;
    const uint64_t fresh = each > t->views_shown ? each - t->views_shown : 0;
    t->views_shown += fresh;
    t->clean_shown = true;
    return fresh * ss->n_train + clean;
}

static bool has_teacher(const struct trial *t)
{
    for (int k = 0; k < t->ss->job.n_teachers; k++)
        if (t->teachers[k].len)
            return true;
    return false;
}

static void fill(struct trial *t, size_t i, const kd_stage *s, const kd_train_spec *train,
                 const kd_stage_times *times)
{
    Distill__V1__TriedStage *it = &t->items[i];
    const kd_stage_shape *h = kd_stage_shape_of(s);
    it->samples = h->epoch_samples;
    it->epochs = (uint32_t)train->epochs;
    it->steps = h->steps;
    it->slots = h->slots;
    it->unit_seconds = times->unit;
    it->update_seconds = times->update;
    it->vector_bytes = h->steps > 0 ? h->floats * sizeof(float) : 0;
    it->chunks = h->steps > 0 ? h->chunks : 0;
    it->evaluations =
        (uint32_t)KD_MIN(KD_MAX((h->steps + h->eval_steps - 1) / h->eval_steps, 1u), UINT32_MAX);
    it->eval_units = h->eval_units;
    it->eval_seconds = times->eval;
    it->memory_bytes = times->resident_bytes + besides(t, h, train->views);
    if (h->n_teachers && has_teacher(t)) {
        it->teacher_seconds = times->teacher;
        it->teacher_views = fresh_views(t, train->epochs, train->views);
    }
    add_pictures(t, it, times->picture);
    if (h->n_teachers && t->ss->n_unlabelled)
        note(t, i, "without the unlabelled pictures that its teacher will be sure of");
    if (train->patience > 0)
        note(t, i, "it may end early");
}

/* The file of the network that a teacher's stage begins with, for those who learn from it. */
static int keep_teacher(struct trial *t, int teacher, const kd_stage *s, kd_diag *diag)
{
    const size_t floats = kd_stage_shape_of(s)->floats;
    char *table = kd_stage_table(s), *metadata = kd_stage_metadata(s);
    kd_buf *to = &t->teachers[teacher];
    kd_buf_init(to, floats * sizeof(float) + KD_MAX_UNPACK_BYTES);
    const int rc = table && metadata ? kd_network_pack(table, metadata, kd_stage_initial(s), floats,
                                                       NULL, 0, to, diag)
                                     : kd_fail(diag, -KD_ENOMEM, "no memory for the teacher");
    if (rc != 0)
        kd_buf_clear(to);
    free(table);
    free(metadata);
    return rc;
}

/* Those that could not be tried count as ones that run elsewhere. Returns how many files. */
static size_t list_teachers(struct trial *t, size_t i, kd_finished *out)
{
    size_t n = 0;
    for (int k = 0; k < t->ss->job.n_teachers; k++) {
        kd_teacher_spec *spec = &t->ss->job.teachers[k];
        const char *name = kd_stage_name((enum kd_stage_kind)(KD_STAGE_TEACHER + k));
        if (t->teachers[k].len) {
            out[n] = (kd_finished){.bytes = (const uint8_t *)t->teachers[k].data,
                                   .len = t->teachers[k].len};
            snprintf(out[n++].name, sizeof out->name, "%s", name);
        } else if (kd_teacher_is_outside(spec)) {
            note(t, i, "without the time of %s, which runs elsewhere", name);
        } else {
            snprintf(spec->model.model, sizeof spec->model.model, "kserve");
            note(t, i, "without the time of %s", name);
        }
        if (t->teachers[k].len && spec->precision == KD_PRECISION_AUTO)
            note(t, i, "%s in float32: its precision is chosen when the job runs", name);
    }
    return n;
}

static int decide(void *arg, int teacher, const char *value, const char *why, bool *out_measure,
                  kd_diag *diag)
{
    struct trial *t = arg;
    (void)value;
    (void)why;
    (void)diag;
    *out_measure = false;
    t->ss->job.teachers[teacher].precision = KD_FLOAT32;
    return 0;
}

static int make_and_time(struct trial *t, size_t i, enum kd_stage_kind kind, kd_diag *diag)
{
    kd_finished finished[KD_MAX_TEACHERS];
    kd_stage_config cfg = {.session = t->ss,
                           .kind = kind,
                           .threads = t->r->cfg.threads,
                           .numerics = t->r->cfg.numerics,
                           .finished = finished,
                           .decide = decide,
                           .arg = t};
    const char *word;
    kd_stage *s = NULL;
    kd_stage_times times = {0};
    if (kind == KD_STAGE_DISTILL)
        cfg.n_finished = list_teachers(t, i, finished);
    const double begun = kd_clock_s();
    int rc = kd_stage_new(&cfg, &s, &word, diag);
    if (rc == 0)
        rc = kd_stage_compose(s, NULL, diag);
    /* A job's worker runs a unit besides, to show that its numbers are the others'. */
    const double made = kd_clock_s() - begun;
    if (rc == 0)
        rc = kd_stage_time(s, t->ss, t->r->pool, stopped, t, &times, diag);
    if (rc == 0) {
        t->items[i].alone_seconds = made + times.unit + (i == 0 ? t->opened : 0);
        fill(t, i, s, kd_job_train(&t->ss->job, kind), &times);
        if (kd_stage_teacher(kind) >= 0)
            rc = keep_teacher(t, kd_stage_teacher(kind), s, diag);
    }
    kd_stage_free(s);
    malloc_trim(0); /* what the next one takes is not what this one has left */
    return rc;
}

static void try_stage(struct trial *t, size_t i, enum kd_stage_kind kind)
{
    kd_diag diag = {0};
    if (stopped(t)) {
        problem(t, i, "there was no time left to try it");
    } else if (strcmp(kd_job_model(&t->ss->job, kind)->model, "onnx") == 0) {
        problem(t, i,
                "its network is in an ONNX file, which does not leave the submitting machine "
                "before the job is submitted");
    } else {
        const int rc = make_and_time(t, i, kind, &diag);
        if (rc != 0)
            problem(t, i, rc == -KD_ECANCELED ? "there was no time left to try it" : diag.msg);
    }
    if (kind == KD_STAGE_DISTILL)
        for (int k = 0; k < KD_MAX_TEACHERS; k++)
            kd_buf_clear(&t->teachers[k]);
}

/* ---- stages that follow from others */

static Distill__V1__TriedStage *find(struct trial *t, const char *stage)
{
    for (size_t i = 0; i < t->n; i++)
        if (strcmp(t->items[i].stage, stage) == 0)
            return t->problems[i][0] ? NULL : &t->items[i];
    return NULL;
}

/* Of `compress`: training takes what the student's units take, and each network is evaluated. */
static void derive_small(struct trial *t, size_t i, enum kd_stage_kind kind)
{
    const kd_train_spec *train = kd_job_train(&t->ss->job, kind);
    const kd_train_spec *of = kd_job_train(&t->ss->job, KD_STAGE_DISTILL);
    Distill__V1__TriedStage *it = &t->items[i];
    const Distill__V1__TriedStage *student = find(t, kd_stage_name(KD_STAGE_DISTILL));
    if (!student) {
        problem(t, i, "its student could not be tried");
        return;
    }
    const uint64_t batch = (uint64_t)train->batch;
    const uint64_t epoch_steps = (student->samples + batch - 1) / batch;
    const double unit = (double)train->batch / train->slots,
                 student_unit = (double)of->batch / of->slots;
    it->samples = student->samples;
    it->epochs = (uint32_t)train->epochs;
    it->steps = epoch_steps * it->epochs;
    it->slots = (uint32_t)train->slots;
    it->unit_seconds = student->unit_seconds * unit / student_unit;
    it->update_seconds = student->update_seconds;
    it->vector_bytes = student->vector_bytes;
    it->chunks = student->chunks;
    const uint64_t border = train->eval_every ? (uint64_t)train->eval_every : epoch_steps;
    it->evaluations = (uint32_t)KD_MIN(KD_MAX((it->steps + border - 1) / border, 1u), UINT32_MAX);
    it->eval_units = student->eval_units;
    it->eval_seconds = student->eval_seconds;
    it->alone_seconds = student->unit_seconds;
    it->memory_bytes = it->steps ? student->memory_bytes : 0;
    if (it->steps && student->teacher_views) {
        it->teacher_seconds = student->teacher_seconds;
        it->teacher_views = fresh_views(t, train->epochs, train->views);
    }
    if (student->pictures)
        add_pictures(t, it, student->picture_seconds);
    note(t, i, "from what the student takes");
}

/* The last stage: one worker runs every network that was made over all held-out pictures. */
static void derive_evaluation(struct trial *t, size_t i)
{
    const size_t val = t->ss->n_val, held = val + t->ss->n_test;
    Distill__V1__TriedStage *it = &t->items[i];
    for (size_t k = 0; k < i; k++) {
        const Distill__V1__TriedStage *of = &t->items[k];
        if (kd_stage_name_tunes(of->stage))
            continue; /* what it made is the next one's */
        if (t->problems[k][0]) {
            note(t, i, "without what %s makes", of->stage);
            continue;
        }
        const double one = of->eval_seconds / (double)KD_MIN(val, (size_t)KD_EVAL_UNIT);
        const bool best = strcmp(of->stage, "distill") == 0 || strcmp(of->stage, "scratch") == 0;
        it->alone_seconds += one * (COST_RUNS + (best ? 2 : 1) * (double)held / threads_of(t));
    }
    it->samples = held;
}

/* ---- the whole */

static void try_stages(struct trial *t)
{
    enum kd_stage_kind kinds[KD_MAX_STAGES];
    const int n = kd_job_stages(&t->ss->job, kinds);
    for (int k = 0; k < n && !kd_runner_stopped(t->r); k++) {
        if (kinds[k] == KD_STAGE_EXPORT)
            continue; /* the coordinator's, and done in no time */
        const size_t i = t->n;
        distill__v1__tried_stage__init(&t->items[i]);
        t->list[i] = &t->items[i];
        t->items[i].stage = (char *)kd_stage_name(kinds[k]);
        if (kinds[k] == KD_STAGE_EVALUATE)
            derive_evaluation(t, i);
        else if (kd_stage_source(&t->ss->job, kinds[k]))
            derive_small(t, i, kinds[k]);
        else
            try_stage(t, i, kinds[k]);
        t->n++;
    }
}

static void send_tried(kd_runner *r, Distill__V1__Tried *tried)
{
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_TRIED;
    m.tried = tried;
    r->cfg.send(r->cfg.arg, &m);
}

void kd_runner_refuse_trial(kd_runner *r, const Distill__V1__Trial *ask)
{
    Distill__V1__Tried tried = DISTILL__V1__TRIED__INIT;
    tried.id = ask->id;
    tried.stopped = true;
    send_tried(r, &tried);
}

static void answer(struct trial *t, const char *whole)
{
    Distill__V1__Tried tried = DISTILL__V1__TRIED__INIT;
    char text[KD_DIAG_MAX];
    snprintf(text, sizeof text, "%s", whole);
    kd_utf8_mend(text);
    const unsigned bad = atomic_load(&t->bad);
    if (bad && t->n)
        note(t, 0, "%u of the pictures looked at cannot be read", bad);
    for (size_t i = 0; i < t->n; i++) {
        kd_utf8_mend(t->problems[i]);
        t->items[i].problem = t->problems[i];
        t->items[i].note = t->notes[i];
    }
    tried.id = t->ask->id;
    tried.stopped = kd_runner_stopped(t->r);
    tried.problem = text;
    tried.stages = t->list;
    tried.n_stages = text[0] || tried.stopped ? 0 : t->n;
    send_tried(t->r, &tried);
}

void kd_runner_try(kd_runner *r, const Distill__V1__Trial *ask)
{
    if (!ask->resolved[0])
        return; /* the one before has ended by now */
    struct trial *t = kd_xalloc(sizeof *t);
    t->r = r;
    t->ask = ask;
    t->until = kd_clock_ms() + ask->patience_ms;
    pthread_mutex_lock(&r->mu);
    r->over = false; /* of an earlier generation */
    pthread_mutex_unlock(&r->mu);
    kd_runner_phase(r, "trying a job", 0);
    malloc_trim(0);
    const kd_session_config cfg = {.job_id = "000000000000",
                                   .text = ask->resolved,
                                   .data_root = r->cfg.data_root,
                                   .cache_bytes = KD_MIN(r->cfg.cache_bytes, CACHE_BYTES),
                                   .threads = r->cfg.threads,
                                   .bad = on_bad_picture,
                                   .progress = go_on,
                                   .arg = t};
    kd_diag diag = {0};
    const char *word;
    const double begun = kd_clock_s();
    const int rc = kd_session_open(&cfg, &t->ss, &word, &diag);
    t->opened = kd_clock_s() - begun;
    if (rc == 0)
        try_stages(t);
    answer(t, rc == -KD_ECANCELED ? "there was no time to look through all of its data" : diag.msg);
    kd_info("tried a job: seconds=%.1f stages=%zu", kd_clock_s() - begun, t->n);
    for (int k = 0; k < KD_MAX_TEACHERS; k++)
        kd_buf_clear(&t->teachers[k]);
    kd_session_free(t->ss);
    free(t);
    malloc_trim(0);
    kd_runner_phase(r, "idle", 0);
}

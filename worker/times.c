#include "times.h"

#include "kd/clock.h"
#include "kd/process.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_S 0.3
#define LEAST_ROUNDS 3
#define MOST_S 5.0
#define MOST_ROUNDS 64

struct times {
    kd_stage *s;
    const kd_session *ss;
    const kd_stage_shape *shape;
    kd_pool *pool;
    int threads;
    bool (*stopped)(void *arg);
    void *arg;
    /* One round: every thread does it once, all at the same time. */
    int (*work)(struct times *t, int thread, kd_diag *diag);
    pthread_barrier_t all_there;
    int round;
    double *took; /* [MOST_ROUNDS][threads] */
    int failed;
    kd_diag diag;
    /* What units work with. */
    int teacher;
    uint32_t real_slots; /* that hold a sample in step 0 */
    float *logits;       /* [slot_batch][classes] of a teacher */
    float **gradients;   /* [threads][floats] */
    float **values;      /* [threads][slot_batch][value_columns] */
    const double *stats; /* of a coupled loss */
    uint8_t **pictures;  /* [threads][size, size, 3] */
    float **answers;     /* [threads][classes] */
};

/* ---- rounds */

/* The barrier holds each thread at its item until all have one. */
static void one_item(void *arg, int item, int thread)
{
    struct times *t = arg;
    kd_diag diag = {0};
    pthread_barrier_wait(&t->all_there);
    const double begin = kd_clock_s();
    const int rc = t->work(t, thread, &diag);
    t->took[t->round * t->threads + item] = kd_clock_s() - begin;
    if (rc != 0 && !__atomic_exchange_n(&t->failed, rc, __ATOMIC_RELAXED))
        t->diag = diag;
}

static int run_round(struct times *t, int round, kd_diag *diag)
{
    if (t->stopped(t->arg))
        return kd_fail(diag, -KD_ECANCELED, "it is wanted no more");
    t->round = round;
    kd_pool_start(t->pool, t->threads, one_item, t);
    kd_pool_wait(t->pool);
    return t->failed ? kd_fail(diag, t->failed, "%.900s", t->diag.msg) : 0;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The first round makes what later ones find: memory, decoded pictures, loaded parameters. */
static int measure(struct times *t, int (*work)(struct times *t, int thread, kd_diag *diag),
                   double *out, kd_diag *diag)
{
    t->work = work;
    int rc = run_round(t, 0, diag), n = 0;
    const double begin = kd_clock_s();
    double gone = 0;
    while (rc == 0 && n < MOST_ROUNDS && gone < MOST_S && (n < LEAST_ROUNDS || gone < LEAST_S)) {
        rc = run_round(t, n++, diag);
        gone = kd_clock_s() - begin;
    }
    if (rc != 0)
        return rc;
    const size_t all = (size_t)n * (size_t)t->threads;
    qsort(t->took, all, sizeof *t->took, by_size);
    *out = t->took[all / 2];
    return 0;
}

/* ---- what is measured */

/* Parameters are loaded anew, as in every step. */
static int one_unit(struct times *t, int thread, kd_diag *diag)
{
    const uint32_t slot = (uint32_t)thread % t->real_slots;
    const float *vector = kd_stage_initial(t->s),
                *teacher = t->shape->n_teachers ? t->logits : NULL;
    const uint64_t tag = (uint64_t)t->round + 1;
    kd_tree_sums sums;
    int rc = 0;
    if (t->shape->value_columns)
        rc = kd_stage_values(t->s, thread, 0, slot, vector, tag, teacher, t->values[thread], diag);
    return rc == 0 ? kd_stage_unit(t->s, thread, 0, slot, vector, tag, teacher, t->stats,
                                   t->gradients[thread], &sums, diag)
                   : rc;
}

static int one_view(struct times *t, int thread, kd_diag *diag)
{
    const uint32_t sample = (uint32_t)((size_t)thread % t->ss->n_train);
    return kd_stage_teach(t->s, thread, t->teacher, sample, 0, t->answers[thread], diag);
}

static int one_evaluation(struct times *t, int thread, kd_diag *diag)
{
    float rows[KD_EVAL_COLUMNS * KD_EVAL_UNIT];
    const int n =
        kd_stage_eval(t->s, thread, 0, 0, kd_stage_initial(t->s), 1, NULL, NULL, rows, diag);
    return KD_MIN(n, 0);
}

/* Another one each time; one that cannot be read costs its time as well. */
static int one_picture(struct times *t, int thread, kd_diag *diag)
{
    kd_diag none = {0};
    (void)diag;
    (void)!kd_data_load(t->ss->data, (size_t)(t->round * t->threads + thread) % t->ss->n_train,
                        t->pictures[thread], &none);
    return 0;
}

static int measure_teachers(struct times *t, kd_stage_times *out, kd_diag *diag)
{
    int rc = 0;
    for (int i = 0; i < t->shape->n_teachers && rc == 0; i++) {
        double seconds = 0;
        if (kd_teacher_is_outside(&t->ss->job.teachers[i]))
            continue;
        t->teacher = i;
        rc = measure(t, one_view, &seconds, diag);
        out->teacher += seconds;
    }
    return rc;
}

static int measure_update(struct times *t, kd_stage_times *out, kd_diag *diag)
{
    const size_t floats = t->shape->floats, vectors = (size_t)t->shape->state_vectors;
    float *w = malloc((floats + 1) * sizeof *w);
    float *state = calloc(floats * vectors + 1, sizeof *state);
    if (!w || !state) {
        free(w);
        free(state);
        return kd_fail(diag, -KD_ENOMEM, "no memory for %zu parameters and the optimiser's state",
                       floats);
    }
    for (int i = 0; i < 2; i++) { /* the first time finds memory that nobody has touched */
        memcpy(w, kd_stage_initial(t->s), floats * sizeof *w);
        const double begin = kd_clock_s();
        kd_optim_apply(kd_stage_optim(t->s), kd_stage_graph(t->s), 0, 0, floats, w, t->gradients[0],
                       1, state);
        out->update = kd_clock_s() - begin;
    }
    out->resident_bytes = kd_process_look().resident_bytes;
    free(w);
    free(state);
    return 0;
}

/* ---- what they work with */

/* Small numbers that differ, the same each time. */
static void make_up(float *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (float)(i * 37 % 101) * 0.05f - 2.5f;
}

static int couple(struct times *t, kd_diag *diag)
{
    const size_t columns = t->shape->value_columns;
    const size_t batch = (size_t)t->shape->slots * t->shape->slot_batch;
    float *values = malloc(batch * columns * sizeof *values);
    if (!values)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a batch's values");
    make_up(values, batch * columns);
    for (size_t i = 0; i < batch; i++)
        values[(i + 1) * columns - 1] = 1; /* the weight */
    const int rc = kd_stage_couple(t->s, values, &t->stats, diag);
    free(values);
    return rc;
}

static float *room(size_t floats)
{
    return malloc((floats + 1) * sizeof(float));
}

static bool allocate(struct times *t)
{
    const size_t n = (size_t)t->threads, batch = t->shape->slot_batch;
    const size_t classes = (size_t)t->ss->classes;
    const bool trains = t->shape->steps > 0;
    t->took = malloc(MOST_ROUNDS * n * sizeof *t->took);
    t->logits = room(batch * classes);
    t->gradients = kd_xalloc(n * sizeof(float *));
    t->values = kd_xalloc(n * sizeof(float *));
    t->pictures = kd_xalloc(n * sizeof(uint8_t *));
    t->answers = kd_xalloc(n * sizeof(float *));
    bool ok = t->took && t->logits;
    for (size_t i = 0; i < n && ok; i++) {
        t->gradients[i] = room(trains ? t->shape->floats : 0);
        t->values[i] = room(batch * t->shape->value_columns);
        t->pictures[i] = malloc((size_t)t->ss->size * (size_t)t->ss->size * 3);
        t->answers[i] = room(classes);
        ok = t->gradients[i] && t->values[i] && t->pictures[i] && t->answers[i];
    }
    return ok;
}

static void clear(struct times *t)
{
    for (int i = 0; i < t->threads; i++) {
        free(t->gradients[i]);
        free(t->values[i]);
        free(t->pictures[i]);
        free(t->answers[i]);
    }
    free(t->took);
    free(t->logits);
    free(t->gradients);
    free(t->values);
    free(t->pictures);
    free(t->answers);
}

/* A stage that trains. */
static int measure_step(struct times *t, kd_stage_times *out, kd_diag *diag)
{
    const kd_stage_shape *h = t->shape;
    kd_place *places = malloc(h->slot_batch * sizeof *places);
    if (!places)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a unit's places");
    /* The runner makes the order of an epoch, compute threads read it. */
    kd_stage_places(t->s, 0, 0, places);
    free(places);
    const uint32_t real = kd_stage_real_in_batch(t->s, 0);
    t->real_slots = KD_MAX((real + h->slot_batch - 1) / h->slot_batch, 1u);
    make_up(t->logits, (size_t)h->slot_batch * (size_t)t->ss->classes);
    int rc = h->value_columns ? couple(t, diag) : 0;
    if (rc == 0)
        rc = measure(t, one_unit, &out->unit, diag);
    if (rc == 0)
        rc = measure_teachers(t, out, diag);
    return rc == 0 ? measure_update(t, out, diag) : rc;
}

int kd_stage_time(kd_stage *s, const kd_session *ss, kd_pool *pool, bool (*stopped)(void *),
                  void *arg, kd_stage_times *out, kd_diag *diag)
{
    struct times t = {.s = s,
                      .ss = ss,
                      .shape = kd_stage_shape_of(s),
                      .pool = pool,
                      .threads = kd_pool_threads(pool),
                      .stopped = stopped,
                      .arg = arg};
    kd_stage_times got = {0};
    if (pthread_barrier_init(&t.all_there, NULL, (unsigned)t.threads) != 0)
        return kd_fail(diag, -KD_ELIMIT, "the system gives no barrier for %d threads", t.threads);
    int rc = allocate(&t) ? 0 : kd_fail(diag, -KD_ENOMEM, "no memory to measure with");
    if (rc == 0)
        rc = measure(&t, one_picture, &got.picture, diag);
    if (rc == 0)
        rc = measure(&t, one_evaluation, &got.eval, diag);
    if (rc == 0 && t.shape->steps > 0)
        rc = measure_step(&t, &got, diag);
    else if (rc == 0)
        got.resident_bytes = kd_process_look().resident_bytes;
    clear(&t);
    pthread_barrier_destroy(&t.all_there);
    if (rc == 0)
        *out = got;
    return rc;
}

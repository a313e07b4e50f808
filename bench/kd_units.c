/* The units of a distillation step in one process: no coordinator, no network, logits that are
 * there. What a cluster of as many threads does beyond this is its exchange. Prints images a
 * second. */
#include "engine/plan.h"
#include "kd/clock.h"
#include "kd/file.h"
#include "kd/memory.h"
#include "pool.h"
#include "stage.h"
#include "tree.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct bench {
    kd_session *session;
    kd_stage *stage;
    kd_pool *pool;
    kd_reducer *reducer;
    const kd_stage_shape *h;
    float *vector, *state, *teacher;
    kd_place *places;  /* [slot_batch] */
    uint32_t *samples; /* [2][batch] */
    float *sum;        /* of the step */
    uint64_t step;
};

static void check(int rc, const kd_diag *diag)
{
    if (rc == 0)
        return;
    fprintf(stderr, "kd-units: %s\n", diag->msg);
    exit(1);
}

static void bad(void *arg, size_t sample, const char *why)
{
    (void)arg, (void)sample;
    fprintf(stderr, "kd-units: %s\n", why);
    exit(1);
}

static void run_unit(void *arg, int item, int thread)
{
    struct bench *b = arg;
    kd_diag diag = {0};
    kd_tree_sums sums, all;
    uint32_t node;
    float *gradient = kd_reducer_take(b->reducer);
    check(kd_stage_unit(b->stage, thread, b->step, (uint32_t)item, b->vector, b->step + 1,
                        b->teacher, NULL, gradient, &sums, &diag),
          &diag);
    float *whole = kd_reducer_add(b->reducer, (uint32_t)item, gradient, &sums, &node, &all);
    if (whole)
        b->sum = whole;
}

static void run_update(void *arg, int item, int thread)
{
    struct bench *b = arg;
    (void)thread;
    size_t first = (size_t)item * b->h->chunk_floats;
    size_t n = KD_MIN((size_t)b->h->chunk_floats, b->h->floats - first);
    kd_optim_apply(kd_stage_optim(b->stage), kd_stage_graph(b->stage), b->step, first, n,
                   b->vector + first, b->sum + first, 1,
                   b->state + first * (size_t)b->h->state_vectors);
}

static void look_ahead(struct bench *b)
{
    size_t n = 0;
    for (uint32_t slot = 0; slot < b->h->slots; slot++) {
        kd_stage_places(b->stage, b->step + 1, slot, b->places);
        for (uint32_t i = 0; i < b->h->slot_batch; i++)
            n += (size_t)kd_stage_pictures(b->stage, &b->places[i], b->samples + n);
    }
    kd_cache_ahead(b->session->cache, b->samples, n);
}

static void run_step(struct bench *b)
{
    kd_stage_places(b->stage, b->step, 0, b->places); /* makes the epoch's order */
    kd_reducer_start(b->reducer);
    kd_reducer_want(b->reducer, &(uint32_t){1}, 1);
    kd_pool_start(b->pool, (int)b->h->slots, run_unit, b);
    if (b->step + 1 < b->h->steps)
        look_ahead(b);
    kd_pool_wait(b->pool);
    kd_pool_start(b->pool, (int)b->h->chunks, run_update, b);
    kd_pool_wait(b->pool);
    kd_reducer_give(b->reducer, b->sum);
}

int main(int argc, char **argv)
{
    kd_memory_for_chunks();
    kd_engine_mend_blas(argv);
    kd_diag diag = {0};
    char *text, *teacher;
    const char *problem;
    size_t len, teacher_len;
    struct bench b = {0};
    if (argc != 5) {
        fputs("Usage: kd-units JOB.yaml DATA-ROOT TEACHER.safetensors THREADS\n", stderr);
        return 2;
    }
    int threads = atoi(argv[4]), root = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    check(kd_file_read(argv[1], KD_MAX_JOB_TEXT, &text, &len, &diag), &diag);
    check(kd_file_read(argv[3], (size_t)1 << 32, &teacher, &teacher_len, &diag), &diag);
    kd_session_config sc = {.job_id = "000000000001",
                            .text = text,
                            .data_root = root,
                            .cache_bytes = (size_t)1 << 30,
                            .threads = threads,
                            .bad = bad};
    kd_engine_thread();
    check(kd_session_open(&sc, &b.session, &problem, &diag), &diag);
    kd_finished done = {.name = "teacher", .bytes = (uint8_t *)teacher, .len = teacher_len};
    kd_stage_config cfg = {.session = b.session,
                           .kind = KD_STAGE_DISTILL,
                           .threads = threads,
                           .numerics = "00000000000000000000000000000000",
                           .finished = &done,
                           .n_finished = 1};
    check(kd_stage_new(&cfg, &b.stage, &problem, &diag), &diag);
    check(kd_stage_compose(b.stage, NULL, &diag), &diag);
    /* Each on a core of its own, as the workers that it is compared with. */
    int *cores = kd_xalloc((size_t)threads * sizeof *cores);
    for (int i = 0; i < threads; i++)
        cores[i] = i;
    check(kd_pool_new(threads, threads <= sysconf(_SC_NPROCESSORS_ONLN) ? cores : NULL, &b.pool,
                      &diag),
          &diag);
    free(cores);
    b.h = kd_stage_shape_of(b.stage);
    b.reducer = kd_reducer_new(b.h->slots, b.h->floats, b.h->bfloat16);
    b.vector = kd_xalloc(b.h->floats * sizeof(float));
    b.state = kd_xalloc(b.h->floats * (size_t)b.h->state_vectors * sizeof(float) + 1);
    b.places = kd_xalloc(b.h->slot_batch * sizeof *b.places);
    b.samples = kd_xalloc(2 * (size_t)b.h->slots * b.h->slot_batch * sizeof *b.samples);
    b.teacher = kd_xalloc((size_t)b.h->slot_batch * (size_t)b.session->classes * sizeof(float));
    memcpy(b.vector, kd_stage_initial(b.stage), b.h->floats * sizeof(float));
    kd_time_ms begun = 0;
    uint64_t images = 0;
    for (b.step = 0; b.step < b.h->steps; b.step++) {
        if (b.step == b.h->epoch_steps)
            begun = kd_clock_ms();
        if (b.step >= b.h->epoch_steps)
            images += kd_stage_real_in_batch(b.stage, b.step);
        run_step(&b);
    }
    printf("%.2f\n", (double)images * 1000 / (double)(kd_clock_ms() - begun));
    kd_pool_free(b.pool);
    kd_reducer_free(b.reducer);
    kd_stage_free(b.stage);
    kd_session_free(b.session);
    free(b.vector);
    free(b.state);
    free(b.teacher);
    free(b.places);
    free(b.samples);
    free(text);
    free(teacher);
    return 0;
}

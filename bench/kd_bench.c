/* kd-bench student-step | teacher-infer: images a second of one thread on made-up pictures at
 * 224x224. Prints one number. Peers: bench/peer.py with the same words. */
#include "distill/loss.h"
#include "engine/optim.h"
#include "engine/plan.h"
#include "kd/clock.h"
#include "kd/rng.h"
#include "models/models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 224, CLASSES = 5, BATCH = 8 };
#define SECONDS 4.0

static float *numbers(size_t n, uint64_t seed)
{
    float *p = kd_xalloc(n * sizeof *p);
    kd_rng r;
    kd_rng_init(&r, seed, KD_RNG_PROBE, 0, 0);
    for (size_t i = 0; i < n; i++)
        p[i] = 2 * kd_rng_float(&r) - 1;
    return p;
}

static void check(int rc, const kd_diag *diag)
{
    if (rc == 0)
        return;
    fprintf(stderr, "kd-bench: %s\n", diag->msg);
    exit(1);
}

int main(int argc, char **argv)
{
    kd_engine_mend_blas(argv);
    bool train = argc == 2 && strcmp(argv[1], "student-step") == 0;
    if (!train && (argc != 2 || strcmp(argv[1], "teacher-infer") != 0)) {
        fprintf(stderr, "usage: kd-bench student-step | teacher-infer\n");
        return 2;
    }
    kd_engine_thread();
    kd_model_config cfg = {.model = train ? "shallow_cnn" : "mobilenet_v2",
                           .width = 1,
                           .size = SIZE,
                           .channels = 3,
                           .classes = CLASSES};
    kd_diag diag = {0};
    kd_graph *g = NULL;
    kd_plan *p = NULL;
    int batch = train ? BATCH : 1;
    check(kd_model_build(&cfg, &g, &diag), &diag);
    check(kd_plan_new(g, batch, train ? KD_PLAN_TRAIN : KD_PLAN_INFER, &p, &diag), &diag);
    float *w = numbers(g->vector_len, 0), *grad = numbers(g->vector_len, 0);
    float *state = kd_xalloc(2 * g->vector_len * sizeof *state);
    kd_graph_init(g, 1, w);
    float *input = numbers((size_t)batch * SIZE * SIZE * 3, 2);
    float *teacher = numbers((size_t)batch * CLASSES, 3), logits[BATCH * CLASSES],
          d[BATCH * CLASSES];
    kd_target targets[BATCH];
    float weight[BATCH] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (int i = 0; i < BATCH; i++)
        targets[i] = (kd_target){i % CLASSES, -1, 1};
    kd_loss loss = {
        .weight = {[KD_TERM_KD] = 0.9, [KD_TERM_CE] = 0.1}, .temperature = 5, .normalise = true};
    kd_optim optim = {.rule = KD_OPTIM_ADAM,
                      .lr = 1e-3,
                      .beta1 = 0.9,
                      .beta2 = 0.999,
                      .eps = 1e-8,
                      .total_steps = 1};
    if (!train)
        check(kd_plan_load(p, w, &diag), &diag);
    double begin = 0;
    uint64_t images = 0;
    for (uint64_t step = 0;; step++) {
        if (step == 3)
            begin = kd_clock_s();
        if (step >= 3 && kd_clock_s() - begin >= SECONDS)
            break;
        if (train)
            check(kd_plan_load(p, w, &diag), &diag);
        check(kd_plan_forward(p, input, logits, &diag), &diag);
        if (train) {
            kd_loss_sums sums;
            kd_loss_apply(&loss, batch, CLASSES, logits, teacher, targets, weight, 1.0 / batch,
                          NULL, d, &sums);
            check(kd_plan_backward(p, d, 1, grad, &diag), &diag);
            kd_optim_apply(&optim, g, step, 0, g->vector_len, w, grad, 1, state);
        }
        images += step >= 3 ? (uint64_t)batch : 0;
    }
    printf("%.3f\n", (double)images / (kd_clock_s() - begin));
    kd_plan_free(p);
    kd_graph_free(g);
    free(w);
    free(grad);
    free(state);
    free(input);
    free(teacher);
    return 0;
}

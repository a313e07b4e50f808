/* kd-bench NAME: images a second of one thread on made-up pictures. Prints one number; --list shows
 * the names. Peers: bench/peer.py with the same words. And what they could be at most (limit.h). */
#include "distill/loss.h"
#include "engine/optim.h"
#include "kd/clock.h"
#include "kd/rng.h"
#include "limit.h"
#include "models/models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECONDS 4.0
#define WARM_UP 3
enum { MOST_BATCH = 64, MOST_CLASSES = 10 };

static const int hidden[] = {512, 256};

/* Steps are forward, distillation loss, backward and Adam. */
static const struct bench {
    const char *name, *model;
    enum kd_plan_use use;
    int size, channels, batch, classes;
    enum kd_precision precision;
} benches[] = {
    {"student-step", "shallow_cnn", KD_PLAN_TRAIN, 224, 3, 8, 5, KD_FLOAT32},
    {"cheap-step", "cheap_cnn", KD_PLAN_TRAIN, 224, 3, 8, 5, KD_FLOAT32},
    {"fine-tune-step", "mobilenet_v2", KD_PLAN_TRAIN, 224, 3, 8, 5, KD_FLOAT32},
    {"resnet18-step", "resnet18", KD_PLAN_TRAIN, 224, 3, 8, 5, KD_FLOAT32},
    {"student-bfloat16-step", "shallow_cnn", KD_PLAN_TRAIN, 224, 3, 8, 5, KD_BFLOAT16},
    {"fine-tune-bfloat16-step", "mobilenet_v2", KD_PLAN_TRAIN, 224, 3, 8, 5, KD_BFLOAT16},
    {"resnet18-bfloat16-step", "resnet18", KD_PLAN_TRAIN, 224, 3, 8, 5, KD_BFLOAT16},
    {"mlp-step", "mlp", KD_PLAN_TRAIN, 28, 1, 64, 10, KD_FLOAT32},
    {"teacher-infer", "mobilenet_v2", KD_PLAN_INFER, 224, 3, 1, 5, KD_FLOAT32},
    {"teacher-bfloat16", "mobilenet_v2", KD_PLAN_INFER, 224, 3, 1, 5, KD_BFLOAT16},
    {"teacher-int8", "mobilenet_v2", KD_PLAN_INFER, 224, 3, 1, 5, KD_INT8},
};

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

static kd_graph *graph_of(const struct bench *b)
{
    kd_model_config cfg = {.model = b->model,
                           .width = 1,
                           .hidden = hidden,
                           .n_hidden = KD_COUNT(hidden),
                           .size = b->size,
                           .channels = b->channels,
                           .classes = b->classes};
    kd_diag diag = {0};
    kd_graph *g = NULL;
    check(kd_model_build(&cfg, &g, &diag), &diag);
    return g;
}

static kd_plan *plan_of(const struct bench *b, const kd_graph *g)
{
    kd_diag diag = {0};
    kd_plan *p = NULL;
    check((b->precision == KD_BFLOAT16 ? kd_plan_new_bfloat16 : kd_plan_new)(g, b->batch, b->use,
                                                                             &p, &diag),
          &diag);
    return p;
}

static double run(const struct bench *b)
{
    kd_diag diag = {0};
    kd_graph *g = graph_of(b);
    kd_plan *p = plan_of(b, g);
    const size_t n = (size_t)b->batch;
    float *w = numbers(g->vector_len, 0), *grad = numbers(g->vector_len, 0);
    float *state = kd_xalloc(2 * g->vector_len * sizeof *state);
    kd_graph_init(g, 1, w);
    float *input = numbers(n * (size_t)(b->size * b->size * b->channels), 2);
    float *teacher = numbers(n * (size_t)b->classes, 3);
    float logits[MOST_BATCH * MOST_CLASSES], d[MOST_BATCH * MOST_CLASSES], weight[MOST_BATCH];
    kd_target targets[MOST_BATCH];
    for (int i = 0; i < b->batch; i++) {
        targets[i] = (kd_target){i % b->classes, -1, 1};
        weight[i] = 1;
    }
    kd_loss loss = {
        .weight = {[KD_TERM_KD] = 0.9, [KD_TERM_CE] = 0.1}, .temperature = 5, .normalise = true};
    kd_optim optim = {.rule = KD_OPTIM_ADAM,
                      .lr = 1e-3,
                      .beta1 = 0.9,
                      .beta2 = 0.999,
                      .eps = 1e-8,
                      .total_steps = 1};
    const bool train = b->use != KD_PLAN_INFER;
    if (!train)
        check(kd_plan_load(p, w, &diag), &diag);
    if (b->precision == KD_INT8) {
        const size_t channels = kd_graph_channels(g, g->n_nodes);
        float *largest = kd_xalloc((size_t)g->n_nodes * sizeof *largest);
        double *sums = kd_xalloc(channels * sizeof *sums);
        float *means = kd_xalloc(channels * sizeof *means);
        kd_plan_watch(p, largest);
        kd_plan_watch_sums(p, sums);
        check(kd_plan_forward(p, input, logits, &diag), &diag);
        kd_plan_free(p);
        kd_plan_means(g, sums, n, means);
        check(kd_plan_new_int8(g, b->batch, w, largest, means, &p, &diag), &diag);
        free(sums);
        free(means);
        free(largest);
    }
    double begin = 0;
    uint64_t step = 0;
    for (; step <= WARM_UP || kd_clock_s() - begin < SECONDS; step++) {
        if (step == WARM_UP)
            begin = kd_clock_s();
        if (train)
            check(kd_plan_load(p, w, &diag), &diag);
        check(kd_plan_forward(p, input, logits, &diag), &diag);
        if (!train)
            continue;
        kd_loss_sums sums;
        kd_loss_apply(&loss, b->batch, b->classes, logits, teacher, targets, weight, 1.0 / b->batch,
                      NULL, d, &sums);
        check(kd_plan_backward(p, d, 1, grad, &diag), &diag);
        kd_optim_apply(&optim, g, step, 0, g->vector_len, w, grad, 1, state);
    }
    double rate = (double)((step - WARM_UP) * n) / (kd_clock_s() - begin);
    kd_plan_free(p);
    kd_graph_free(g);
    free(w);
    free(grad);
    free(state);
    free(input);
    free(teacher);
    return rate;
}

/* Images a second if each passes through all of them, one after the other, on so many cores. */
static void print_limit(const struct bench *const *of, int n, int cores)
{
    double seconds = 0;
    for (int i = 0; i < n; i++) {
        kd_graph *g = graph_of(of[i]);
        const double batch = kd_limit(g, of[i]->batch, of[i]->use, of[i]->precision);
        kd_graph_free(g);
        if (!(batch > 0)) {
            puts("null");
            return;
        }
        seconds += batch / of[i]->batch;
    }
    printf("%.1f\n", cores / seconds);
}

/* MB of the values between layers and of the weights, in training with their gradients. */
static void print_memory(const struct bench *const *of, int n)
{
    size_t bytes = 0;
    for (int i = 0; i < n; i++) {
        kd_graph *g = graph_of(of[i]);
        kd_plan *p = plan_of(of[i], g);
        bytes += kd_plan_arena_bytes(p) +
                 g->vector_len * sizeof(float) * (of[i]->use == KD_PLAN_INFER ? 1 : 2);
        kd_plan_free(p);
        kd_graph_free(g);
    }
    printf("%.1f\n", (double)bytes / 1e6);
}

static const struct bench *find(const char *name)
{
    for (size_t i = 0; i < KD_COUNT(benches); i++)
        if (strcmp(name, benches[i].name) == 0)
            return &benches[i];
    fprintf(stderr, "kd-bench: there is no %s; kd-bench --list shows the names\n", name);
    exit(2);
}

int main(int argc, char **argv)
{
    enum { MOST = 8 };
    const struct bench *of[MOST];
    kd_engine_mend_blas(argv);
    kd_engine_thread();
    const char *what = argc > 1 ? argv[1] : "";
    if (argc == 2 && strcmp(what, "--list") == 0) {
        for (size_t i = 0; i < KD_COUNT(benches); i++)
            puts(benches[i].name);
        return 0;
    }
    if (argc == 2 && what[0] != '-' && what[0] != '\0') {
        printf("%.3f\n", run(find(what)));
        return 0;
    }
    if (argc == 3 && strcmp(what, "--copy") == 0 && atof(argv[2]) > 0) {
        printf("%.0f\n", kd_copy_rate((size_t)(atof(argv[2]) * 2e6)) / 2e6);
        return 0;
    }
    const bool limit = strcmp(what, "--limit") == 0, memory = strcmp(what, "--memory") == 0;
    const int first = limit ? 3 : 2;
    if ((limit || memory) && argc > first && argc - first <= MOST) {
        for (int i = first; i < argc; i++)
            of[i - first] = find(argv[i]);
        if (memory)
            print_memory(of, argc - first);
        else
            print_limit(of, argc - first, atoi(argv[2]));
        return 0;
    }
    fputs("usage: kd-bench NAME              images a second of one core\n"
          "       kd-bench --limit CORES NAME...  what the machine would allow, limit.h\n"
          "       kd-bench --memory NAME...       MB of weights, gradients and values between "
          "layers\n"
          "       kd-bench --copy MB              MB a second of one core that copies so many\n"
          "       kd-bench --list                 the names\n",
          stderr);
    return 2;
}

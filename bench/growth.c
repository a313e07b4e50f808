/* How costs grow: "classes N" in the loss, "bank N" in the bank's records, "images N" in a data
 * set's index. One JSON object each. server/ and worker/ have names in common, so bank is a program
 * of its own (growth_bank.c). */
#include "data/data.h"
#include "distill/loss.h"
#include "kd/rng.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

enum { BATCH = 64, FILES = 100 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int grow_classes(int classes)
{
    kd_loss loss = {.weight = {[KD_TERM_CE] = 0.1, [KD_TERM_KD] = 0.9}, .temperature = 5};
    size_t n = (size_t)BATCH * (size_t)classes;
    float *z = kd_xalloc(n * sizeof *z), *v = kd_xalloc(n * sizeof *v),
          *d = kd_xalloc(n * sizeof *d);
    float weight[BATCH];
    kd_target targets[BATCH];
    kd_rng r;
    kd_rng_init(&r, 1, KD_RNG_PROBE, 0, 0);
    for (size_t i = 0; i < n; i++) {
        z[i] = 8 * kd_rng_float(&r) - 4;
        v[i] = 8 * kd_rng_float(&r) - 4;
    }
    for (int i = 0; i < BATCH; i++) {
        weight[i] = 1;
        targets[i] = (kd_target){.label = i % classes, .other = -1};
    }
    kd_loss_sums sums;
    double begun = seconds(), took;
    int rounds = 0;
    do {
        kd_loss_apply(&loss, BATCH, classes, z, v, targets, weight, 1.0 / BATCH, NULL, d, &sums);
        rounds++;
        took = seconds() - begun;
    } while (took < 1);
    printf("{\"curve\": \"loss\", \"classes\": %d, \"us_an_image\": %.3f, \"ns_a_logit\": %.2f}\n",
           classes, took / rounds / BATCH * 1e6, took / rounds / (double)n * 1e9);
    free(z);
    free(v);
    free(d);
    return isfinite(sums.loss) ? 0 : 1;
}

/* N names of a few small files: what the index costs, not the disk. */
static int make_list(const char *dir, size_t n)
{
    char path[4096];
    mkdir(dir, 0700);
    for (int i = 0; i < FILES; i++) {
        snprintf(path, sizeof path, "%s/p%02d.png", dir, i);
        FILE *f = fopen(path, "w");
        if (!f || fprintf(f, "%d", i) < 0 || fclose(f) != 0)
            return 1;
    }
    snprintf(path, sizeof path, "%s/train.txt", dir);
    FILE *list = fopen(path, "w");
    for (size_t i = 0; list && i < n; i++)
        fprintf(list, "p%02zu.png\t%zu\n", i % (FILES - 1), i % 5);
    if (!list || fclose(list) != 0)
        return 1;
    snprintf(path, sizeof path, "%s/val.txt", dir);
    FILE *val = fopen(path, "w");
    if (!val || fprintf(val, "p%02d.png\t0\n", FILES - 1) < 0 || fclose(val) != 0)
        return 1;
    snprintf(path, sizeof path, "%s/classes.txt", dir);
    FILE *classes = fopen(path, "w");
    return !classes || fputs("a\nb\nc\nd\ne\n", classes) < 0 || fclose(classes) != 0;
}

static int grow_images(size_t n, const char *dir)
{
    kd_diag diag = {0};
    kd_data *data;
    kd_data_config cfg = {.train = "train.txt", .val = "val.txt", .size = 32};
    if (make_list(dir, n) != 0) {
        fprintf(stderr, "growth: cannot write the list into %s\n", dir);
        return 1;
    }
    int root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    double begun = seconds();
    if (kd_data_open(&cfg, root, NULL, NULL, &data, &diag) != 0) {
        fprintf(stderr, "growth: %s\n", diag.msg);
        return 1;
    }
    double opened = seconds();
    uint32_t *order = kd_xalloc(n * sizeof *order);
    kd_sampler_order(1, 0, n, order);
    double ordered = seconds();
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    printf("{\"curve\": \"images\", \"images\": %zu, \"open_s\": %.3f, \"order_s\": %.4f, "
           "\"peak_mb\": %.1f}\n",
           n, opened - begun, ordered - opened, (double)use.ru_maxrss / 1024);
    free(order);
    kd_data_free(data);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "classes") == 0)
        return grow_classes(atoi(argv[2]));
    if (argc == 4 && strcmp(argv[1], "images") == 0)
        return grow_images(strtoull(argv[2], NULL, 10), argv[3]);
    fputs("Usage: growth classes N | growth images N FOLDER\n", stderr);
    return 2;
}

/* kd_convert_check FILE MODEL WIDTH SIZE CLASSES OUT: loads a converted file as a worker does, with
 * the padding and preprocessing that its metadata names, and writes pictures and their logits to
 * OUT as safetensors, so that the library which the file came from can be asked for the same. */
#include "engine/plan.h"
#include "kd/file.h"
#include "kd/rng.h"
#include "models/models.h"
#include "store/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGES = 2, MAX_CLASSES = 1000 };

/* Bytes 0 to 255 as floats; preprocess makes of them what the network sees. */
static void draw(size_t pixels, float *raw)
{
    kd_rng r;
    kd_rng_init(&r, 1, KD_RNG_PROBE, 0, 0);
    for (size_t i = 0; i < IMAGES * pixels * 3; i++)
        raw[i] = (float)kd_rng_below(&r, 256);
}

static void preprocess(enum kd_preprocess how, size_t pixels, const float *raw, float *input)
{
    static const float mean[] = {0.485f, 0.456f, 0.406f}, deviation[] = {0.229f, 0.224f, 0.225f};
    for (size_t i = 0; i < IMAGES * pixels * 3; i++)
        input[i] = how == KD_PRE_UNIT        ? raw[i] / 255
                   : how == KD_PRE_SYMMETRIC ? raw[i] / 127.5f - 1
                                             : (raw[i] / 255 - mean[i % 3]) / deviation[i % 3];
}

static int answer(const kd_graph *g, const float *vector, enum kd_preprocess how, const char *out,
                  kd_diag *diag)
{
    const int size = g->nodes[0].h, classes = g->nodes[g->output].c;
    const size_t pixels = (size_t)size * (size_t)size;
    float *raw = kd_xalloc(IMAGES * pixels * 3 * sizeof *raw);
    float *input = kd_xalloc(IMAGES * pixels * 3 * sizeof *input);
    static float logits[IMAGES * MAX_CLASSES];
    kd_plan *plan = NULL;
    draw(pixels, raw);
    preprocess(how, pixels, raw, input);
    int rc = kd_plan_new(g, IMAGES, KD_PLAN_INFER, &plan, diag);
    if (!rc)
        rc = kd_plan_load(plan, vector, diag);
    if (!rc)
        rc = kd_plan_forward(plan, input, logits, diag);
    if (!rc) {
        const kd_st_item items[] = {
            {.name = "raw", .ndim = 4, .shape = {IMAGES, size, size, 3}, .data = raw},
            {.name = "logits", .ndim = 2, .shape = {IMAGES, classes}, .data = logits}};
        rc = kd_st_write(out, items, 2, NULL, 0, diag);
    }
    kd_plan_free(plan);
    free(raw);
    free(input);
    return rc;
}

static int check(char **argv, const char *bytes, size_t len, kd_diag *diag)
{
    kd_model_file_info info = {0};
    kd_model_config cfg = {.model = argv[2],
                           .width = strtod(argv[3], NULL),
                           .size = (int)strtol(argv[4], NULL, 10),
                           .channels = 3,
                           .classes = (int)strtol(argv[5], NULL, 10)};
    kd_graph *g = NULL;
    float *vector = NULL;
    bool new_head = true;
    int rc = cfg.classes <= MAX_CLASSES ? kd_model_file_info_read(bytes, len, argv[1], &info, diag)
                                        : kd_fail(diag, -KD_EINVAL, "too many classes");
    if (!rc && !(info.has_padding && info.has_preprocess && info.size))
        rc = kd_fail(diag, -KD_EDATA, "%s names no padding, preprocessing or size", argv[1]);
    cfg.pad_tf = info.pad_tf;
    if (!rc)
        rc = kd_model_build(&cfg, &g, diag);
    if (!rc) {
        vector = kd_xalloc(g->vector_len * sizeof *vector);
        kd_graph_init(g, 1, vector);
        rc = kd_model_load(g, bytes, len, argv[1], vector, &new_head, diag);
    }
    if (!rc && new_head)
        rc = kd_fail(diag, -KD_EDATA, "%s has another number of classes", argv[1]);
    if (!rc && info.n_classes && info.n_classes != cfg.classes)
        rc = kd_fail(diag, -KD_EDATA, "%s names %d classes", argv[1], info.n_classes);
    if (!rc)
        rc = answer(g, vector, info.preprocess, argv[6], diag);
    if (!rc)
        printf("%s %d %d %g\n", info.pad_tf ? "tf" : "torch", info.size, info.n_classes,
               info.label_smoothing);
    kd_model_file_info_clear(&info);
    kd_graph_free(g);
    free(vector);
    return rc;
}

int main(int argc, char **argv)
{
    kd_diag diag = {0};
    char *bytes = NULL;
    size_t len = 0;
    if (argc != 7) {
        fprintf(stderr, "usage: %s FILE MODEL WIDTH SIZE CLASSES OUT\n", argv[0]);
        return 2;
    }
    kd_engine_mend_blas(argv);
    kd_engine_thread();
    int rc = kd_file_read(argv[1], (size_t)1 << 28, &bytes, &len, &diag);
    if (!rc)
        rc = check(argv, bytes, len, &diag);
    free(bytes);
    if (rc)
        fprintf(stderr, "%s: %s\n", argv[0], diag.msg);
    return rc ? 1 : 0;
}

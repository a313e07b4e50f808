/* Our ONNX reader, engine and writer for tests/peers.sh, which compares them with others'.
 *
 *   kd_onnx_run run MODEL.onnx INPUT OUTPUT [classifier|any|whole] [size]
 *       INPUT: raw float32 as the model's own input, OUTPUT likewise. `any` and `whole` are
 *       KD_ONNX_ANY and KD_ONNX_WHOLE, for single operators; without a word it is a classifier.
 *   kd_onnx_run export MODEL SIZE CLASSES SEED OPSET OUT.onnx
 *       A network of the zoo with random parameters, statistics of batch norms included.
 *   kd_onnx_run rewrite MODEL.onnx OPSET OUT.onnx
 *       A classifier read and written again.
 *
 * Exit codes: 0; 2 the model is refused (reason on standard error); 1 anything else. */
#include "kd/file.h"
#include "kd/rng.h"

#include "engine/plan.h"
#include "models/models.h"
#include "models/onnx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BATCH 4096

static int complain(const kd_diag *diag, int code)
{
    fprintf(stderr, "%s\n", diag->msg);
    return code;
}

/* Values of one image: channel-height-width -> height-width-channel. */
static void to_nhwc(const kd_node *n, const float *in, float *out)
{
    const size_t area = (size_t)n->h * (size_t)n->w, c = (size_t)n->c;
    for (size_t p = 0; p < area; p++)
        for (size_t k = 0; k < c; k++)
            out[p * c + k] = in[k * area + p];
}

static int run_graph(const kd_graph *g, const float *vector, bool nhwc, const float *input,
                     size_t batch, const char *path, kd_diag *diag)
{
    const kd_node *first = &g->nodes[0], *last = &g->nodes[g->output];
    const size_t image = (size_t)first->h * (size_t)first->w * (size_t)first->c;
    const size_t gives = (size_t)last->h * (size_t)last->w * (size_t)last->c;
    float *in = malloc(batch * image * sizeof *in), *out = malloc(batch * gives * sizeof *out);
    KD_BUG_ON(!in || !out);
    for (size_t b = 0; b < batch; b++)
        if (nhwc)
            memcpy(in + b * image, input + b * image, image * sizeof *in);
        else
            to_nhwc(first, input + b * image, in + b * image);
    kd_plan *plan = NULL;
    int rc = kd_plan_new(g, (int)batch, KD_PLAN_INFER, &plan, diag);
    if (!rc)
        rc = kd_plan_load(plan, vector, diag);
    if (!rc)
        rc = kd_plan_forward(plan, in, out, diag);
    if (!rc)
        rc = kd_file_write(path, out, batch * gives * sizeof *out, diag);
    kd_plan_free(plan);
    free(in);
    free(out);
    return rc;
}

static int run(int argc, char **argv)
{
    const char *use = argc > 5 ? argv[5] : "classifier";
    kd_onnx_read_options opt = {.folder_fd = -1,
                                .size = argc > 6 ? atoi(argv[6]) : 0,
                                .use = strcmp(use, "any") == 0     ? KD_ONNX_ANY
                                       : strcmp(use, "whole") == 0 ? KD_ONNX_WHOLE
                                                                   : KD_ONNX_CLASSIFIER};
    char *model, *input;
    size_t model_len, input_len;
    kd_diag diag = {0};
    kd_graph *g;
    float *vector;
    bool new_head;
    kd_onnx_info info;
    if (kd_file_read(argv[2], (size_t)1 << 29, &model, &model_len, &diag))
        return complain(&diag, 1);
    const int refused = kd_onnx_read((const uint8_t *)model, model_len, argv[2], &opt, &g, &vector,
                                     &new_head, &info, &diag);
    free(model);
    if (refused)
        return complain(&diag, 2);
    if (kd_file_read(argv[3], (size_t)1 << 31, &input, &input_len, &diag)) {
        input = NULL;
        input_len = 0;
        complain(&diag, 1);
    }
    const kd_node *n = &g->nodes[0];
    const size_t image = (size_t)n->h * (size_t)n->w * (size_t)n->c * sizeof(float);
    const size_t batch = input_len / image;
    int rc = 1;
    if (batch < 1 || batch > MAX_BATCH || batch * image != input_len)
        fprintf(stderr, "%zu bytes of input, an image has %zu\n", input_len, image);
    else if (run_graph(g, vector, info.nhwc, (const float *)(const void *)input, batch, argv[4],
                       &diag))
        complain(&diag, 1);
    else
        rc = 0;
    kd_onnx_info_clear(&info);
    kd_graph_free(g);
    free(vector);
    free(input);
    return rc;
}

/* Start values leave batch norms without an effect and make the head say the same to all pictures;
 * these do not. */
static void shake(const kd_graph *g, uint64_t seed, float *vector)
{
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        kd_rng r;
        kd_rng_init(&r, seed, KD_RNG_TEST, (uint64_t)i, 0);
        for (size_t k = 0; k < p->count; k++)
            if (p->head)
                vector[p->offset + k] *= 10;
            else if (p->ndim == 1)
                vector[p->offset + k] += 0.3f * kd_rng_float(&r);
    }
}

/* Statistics of batch norms as they are on pictures of coarse patterns, as after training: with
 * others nothing of the picture is left after some layers. */
static int measure(const kd_graph *g, uint64_t seed, float *vector, kd_diag *diag)
{
    enum { PICTURES = 16, PATCHES = 4 };
    const kd_node *n = &g->nodes[0];
    const size_t image = (size_t)n->h * (size_t)n->w * (size_t)n->c;
    const size_t classes = (size_t)g->nodes[g->output].c;
    float *in = malloc(PICTURES * image * sizeof *in);
    float *out = calloc(2 * PICTURES * classes, sizeof *out);
    float *gradient = malloc(g->vector_len * sizeof *gradient);
    KD_BUG_ON(!in || !out || !gradient);
    for (size_t i = 0; i < PICTURES * image; i++) {
        const size_t at = i % image, c = at % (size_t)n->c, x = at / (size_t)n->c % (size_t)n->w,
                     y = at / (size_t)n->c / (size_t)n->w;
        const size_t patch = y * PATCHES / (size_t)n->h * PATCHES + x * PATCHES / (size_t)n->w;
        kd_rng r;
        kd_rng_init(&r, seed, KD_RNG_TEST, 1000 + i / image, patch * 4 + c);
        in[i] = 6 * kd_rng_float(&r) - 3;
    }
    kd_plan *plan = NULL;
    int rc = kd_plan_new(g, PICTURES, KD_PLAN_TRAIN, &plan, diag);
    if (!rc)
        rc = kd_plan_load(plan, vector, diag);
    if (!rc)
        rc = kd_plan_forward(plan, in, out, diag);
    if (!rc)
        rc = kd_plan_backward(plan, out + PICTURES * classes, 1, gradient, diag);
    for (int i = 0; i < g->n_params && !rc; i++)
        if (g->params[i].kind == KD_PARAM_STATISTIC)
            memcpy(vector + g->params[i].offset, gradient + g->params[i].offset,
                   g->params[i].count * sizeof *vector);
    kd_plan_free(plan);
    free(in);
    free(out);
    free(gradient);
    return rc;
}

static int write_file(const kd_graph *g, const float *vector, const kd_onnx_write_options *opt,
                      const char *path, kd_diag *diag)
{
    kd_buf out;
    kd_buf_init(&out, (size_t)1 << 30);
    int rc = kd_onnx_write(g, vector, opt, &out, diag);
    if (!rc)
        rc = kd_file_write(path, out.data, out.len, diag);
    kd_buf_clear(&out);
    return rc;
}

static int rewrite(char **argv)
{
    const kd_onnx_read_options opt = {.folder_fd = -1};
    const kd_onnx_write_options how = {.opset = atoi(argv[3])};
    char *model;
    size_t len;
    kd_diag diag = {0};
    kd_graph *g;
    float *vector;
    bool new_head;
    kd_onnx_info info;
    if (kd_file_read(argv[2], (size_t)1 << 29, &model, &len, &diag))
        return complain(&diag, 1);
    const int refused = kd_onnx_read((const uint8_t *)model, len, argv[2], &opt, &g, &vector,
                                     &new_head, &info, &diag);
    free(model);
    if (refused)
        return complain(&diag, 2);
    int rc = write_file(g, vector, &how, argv[4], &diag);
    if (rc)
        complain(&diag, 1);
    kd_onnx_info_clear(&info);
    kd_graph_free(g);
    free(vector);
    return rc ? 1 : 0;
}

static int export(char **argv)
{
    const int hidden[] = {64, 32};
    const int classes = atoi(argv[4]);
    const kd_model_config cfg = {.model = argv[2],
                                 .width = 0.35,
                                 .hidden = hidden,
                                 .n_hidden = 2,
                                 .size = atoi(argv[3]),
                                 .channels = 3,
                                 .classes = classes};
    kd_diag diag = {0};
    kd_graph *g;
    if (kd_model_build(&cfg, &g, &diag))
        return complain(&diag, 2);
    float *vector = malloc(g->vector_len * sizeof *vector);
    char **names = calloc((size_t)classes, sizeof *names);
    KD_BUG_ON(!vector || !names);
    for (int i = 0; i < classes; i++)
        KD_BUG_ON(asprintf(&names[i], "class %d, of %d", i, classes) < 0);
    const uint64_t seed = strtoull(argv[5], NULL, 10);
    kd_graph_init(g, seed, vector);
    shake(g, seed, vector);
    kd_model_file_info info = {.classes = names,
                               .n_classes = classes,
                               .has_preprocess = true,
                               .preprocess = KD_PRE_SYMMETRIC};
    snprintf(info.model, sizeof info.model, "%s", argv[2]);
    const kd_onnx_write_options opt = {.opset = atoi(argv[6]), .info = &info};
    int rc = measure(g, seed, vector, &diag);
    if (!rc)
        rc = write_file(g, vector, &opt, argv[7], &diag);
    if (rc)
        complain(&diag, 1);
    for (int i = 0; i < classes; i++)
        free(names[i]);
    free(names);
    free(vector);
    kd_graph_free(g);
    return rc ? 1 : 0;
}

int main(int argc, char **argv)
{
    kd_engine_mend_blas(argv);
    kd_engine_thread();
    if (argc >= 5 && strcmp(argv[1], "run") == 0)
        return run(argc, argv);
    if (argc == 8 && strcmp(argv[1], "export") == 0)
        return export(argv);
    if (argc == 5 && strcmp(argv[1], "rewrite") == 0)
        return rewrite(argv);
    fprintf(stderr, "usage: kd_onnx_run run MODEL INPUT OUTPUT [classifier|any|whole] [SIZE]\n"
                    "       kd_onnx_run export MODEL SIZE CLASSES SEED OPSET OUT.onnx\n"
                    "       kd_onnx_run rewrite MODEL OPSET OUT.onnx\n");
    return 1;
}

/* kd_golden_weights FILE MODEL WIDTH tf|torch SIZE CLASSES IMAGES SEED [apart]: the weights,
 * inputs, teacher logits and labels of a golden case as safetensors, for make_golden.py. */
#include "models/models.h"
#include "recipe.h"
#include "store/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int emit(const char *path, const kd_graph *g, int images, uint64_t seed, bool apart,
                kd_diag *diag)
{
    const kd_node *in = &g->nodes[0];
    const int classes = g->nodes[g->output].c;
    const size_t n = (size_t)images, pixels = (size_t)in->h * (size_t)in->w * (size_t)in->c;
    float *vector = kd_xalloc(g->vector_len * sizeof *vector);
    float *input = kd_xalloc(n * pixels * sizeof *input);
    float *teacher = kd_xalloc(n * (size_t)classes * sizeof *teacher);
    float *labels = kd_xalloc(n * sizeof *labels);
    int32_t *classes_of = kd_xalloc(n * sizeof *classes_of);
    kd_st_item *items = kd_xalloc(((size_t)g->n_params + 3) * sizeof *items);
    kd_golden_vector(g, seed, vector);
    if (apart)
        kd_golden_apart(g, seed, vector);
    kd_golden_samples(g, seed, images, input, teacher, classes_of);
    for (int i = 0; i < images; i++)
        labels[i] = (float)classes_of[i];
    size_t at = 0;
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        items[at] = (kd_st_item){.name = p->name, .ndim = p->ndim, .data = vector + p->offset};
        memcpy(items[at++].shape, p->shape, sizeof p->shape);
    }
    items[at++] = (kd_st_item){
        .name = "golden.input", .ndim = 4, .shape = {images, in->h, in->w, in->c}, .data = input};
    items[at++] = (kd_st_item){
        .name = "golden.teacher", .ndim = 2, .shape = {images, classes}, .data = teacher};
    items[at++] =
        (kd_st_item){.name = "golden.labels", .ndim = 1, .shape = {images}, .data = labels};
    const int rc = kd_st_write(path, items, at, NULL, 0, diag);
    free(vector);
    free(input);
    free(teacher);
    free(labels);
    free(classes_of);
    free(items);
    return rc;
}

int main(int argc, char **argv)
{
    const bool apart = argc == 10 && strcmp(argv[9], "apart") == 0;
    if (argc != 9 && !apart) {
        fprintf(stderr, "usage: %s FILE MODEL WIDTH tf|torch SIZE CLASSES IMAGES SEED [apart]\n",
                argv[0]);
        return 2;
    }
    const kd_model_config cfg = {
        .model = argv[2],
        .width = strtod(argv[3], NULL),
        .pad_tf = strcmp(argv[4], "tf") == 0,
        .size = (int)strtol(argv[5], NULL, 10),
        .channels = 3,
        .classes = (int)strtol(argv[6], NULL, 10),
    };
    const long images = strtol(argv[7], NULL, 10);
    kd_diag diag = {0};
    kd_graph *g = NULL;
    int rc = images < 1 || images > 4096 ? kd_fail(&diag, -KD_EINVAL, "1 to 4096 images")
                                         : kd_model_build(&cfg, &g, &diag);
    if (!rc)
        rc = emit(argv[1], g, (int)images, strtoull(argv[8], NULL, 10), apart, &diag);
    kd_graph_free(g);
    if (rc)
        fprintf(stderr, "%s: %s\n", argv[0], diag.msg);
    return rc ? 1 : 0;
}

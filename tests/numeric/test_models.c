#include "kd/file.h"
#include "kd_test.h"
#include "models/models.h"
#include "store/safetensors.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static kd_model_config config(const char *model, int size, int classes)
{
    return (kd_model_config){.model = model,
                             .width = 1,
                             .pad_tf = true,
                             .size = size,
                             .channels = 3,
                             .classes = classes};
}

static kd_graph *build(const kd_model_config *cfg)
{
    kd_graph *g = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_model_build(cfg, &g, &diag), &diag);
    const kd_node *n = &g->nodes[g->output];
    assert_int_equal(n->c, cfg->classes);
    assert_true(g->params[n->weight].head && g->params[n->bias].head);
    int heads = 0;
    for (int i = 0; i < g->n_params; i++)
        heads += g->params[i].head;
    assert_int_equal(heads, 2);
    return g;
}

static void assert_shape(const kd_graph *g, const char *name, int ndim, const int64_t *shape)
{
    const kd_param *p = kd_graph_param(g, name);
    if (!p)
        fail_msg("no parameter %s", name);
    assert_int_equal(p->ndim, ndim);
    for (int i = 0; i < ndim; i++)
        assert_int_equal(p->shape[i], shape[i]);
}

static void test_models_shallow_cnn(void **state)
{
    (void)state;
    kd_model_config cfg = config("shallow_cnn", 224, 5);
    kd_graph *g = build(&cfg);
    assert_int_equal(g->trained_len, 144261);
    assert_int_equal(g->vector_len, 144261);
    assert_int_equal(g->n_params, 8);
    assert_shape(g, "conv1.weight", 4, (int64_t[]){64, 3, 3, 3});
    assert_shape(g, "conv1.bias", 1, (int64_t[]){64});
    assert_shape(g, "conv2.weight", 4, (int64_t[]){128, 64, 3, 3});
    assert_shape(g, "fc1.weight", 2, (int64_t[]){512, 128});
    assert_shape(g, "fc2.weight", 2, (int64_t[]){5, 512});
    assert_string_equal(g->nodes[1].name, "conv1");
    assert_int_equal(g->nodes[1].h, 222);
    assert_int_equal(g->nodes[3].h, 55);
    assert_int_equal(g->nodes[4].h, 53);
    assert_int_equal(kd_graph_macs(g), 222LL * 222 * 1728 + 53LL * 53 * 73728 + 65536 + 2560);
    kd_graph_free(g);
    /* Grey pictures have a third of the first layer's weights. */
    cfg.channels = 1;
    g = build(&cfg);
    assert_int_equal(g->trained_len, 144261 - 64 * 2 * 9);
    kd_graph_free(g);
    /* The smallest picture the two layers fit into. */
    cfg = config("shallow_cnn", 14, 2);
    g = build(&cfg);
    kd_graph_free(g);
}

static void test_models_mlp(void **state)
{
    (void)state;
    const int hidden[] = {300, 100};
    kd_model_config cfg = config("mlp", 28, 10);
    cfg.channels = 1;
    cfg.hidden = hidden;
    cfg.n_hidden = 2;
    kd_graph *g = build(&cfg);
    assert_int_equal(g->trained_len, 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10);
    assert_shape(g, "fc1.weight", 2, (int64_t[]){300, 784});
    assert_shape(g, "fc2.weight", 2, (int64_t[]){100, 300});
    assert_shape(g, "fc3.bias", 1, (int64_t[]){10});
    kd_graph_free(g);
    cfg.n_hidden = 0;
    g = build(&cfg);
    assert_int_equal(g->trained_len, 7850);
    kd_graph_free(g);
}

static void test_models_mobilenet_v2(void **state)
{
    (void)state;
    kd_model_config cfg = config("mobilenet_v2", 224, 1000);
    kd_graph *g = build(&cfg);
    /* torchvision: 3,504,872 parameters, 34,112 running statistics; 300.8 million multiply-adds. */
    assert_int_equal(g->trained_len, 3504872);
    assert_int_equal(g->vector_len, 3504872 + 2 * 17056);
    assert_int_equal(g->n_params, 262);
    assert_int_equal(kd_graph_macs(g), 300774272);
    assert_shape(g, "features.0.0.weight", 4, (int64_t[]){32, 3, 3, 3});
    assert_shape(g, "features.1.conv.0.0.weight", 4, (int64_t[]){32, 1, 3, 3});
    assert_shape(g, "features.1.conv.1.weight", 4, (int64_t[]){16, 32, 1, 1});
    assert_shape(g, "features.1.conv.2.running_var", 1, (int64_t[]){16});
    assert_shape(g, "features.2.conv.0.0.weight", 4, (int64_t[]){96, 16, 1, 1});
    assert_shape(g, "features.17.conv.3.running_mean", 1, (int64_t[]){320});
    assert_shape(g, "features.18.1.bias", 1, (int64_t[]){1280});
    assert_shape(g, "classifier.1.weight", 2, (int64_t[]){1000, 1280});
    kd_graph_free(g);

    /* Widths and padding change no name; the two paddings have equal shapes. */
    const struct {
        double width;
        size_t trained;
    } widths[] = {{1, 2230277}, {0.35, 402533}, {0.5, 694085}, {1.4, 4324741}};
    for (size_t i = 0; i < KD_COUNT(widths); i++)
        for (int tf = 0; tf < 2; tf++) {
            cfg = config("mobilenet_v2", 96, 5);
            cfg.width = widths[i].width;
            cfg.pad_tf = tf;
            g = build(&cfg);
            assert_int_equal(g->n_params, 262);
            assert_int_equal(g->trained_len, widths[i].trained);
            assert_true(g->nodes[2].eps == (tf ? 1e-3f : 1e-5f));
            kd_graph_free(g);
        }
}

/* "SAME" padding of the strided layers, for even and odd sides. */
static void test_models_padding(void **state)
{
    (void)state;
    const struct {
        int size;
        bool tf;
        int pad[4], side;
    } cases[] = {{224, true, {0, 0, 1, 1}, 112},
                 {225, true, {1, 1, 1, 1}, 113},
                 {224, false, {1, 1, 1, 1}, 112},
                 {225, false, {1, 1, 1, 1}, 113}};
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        kd_model_config cfg = config("mobilenet_v2", cases[i].size, 5);
        cfg.pad_tf = cases[i].tf;
        kd_graph *g = build(&cfg);
        assert_memory_equal(g->nodes[1].pad, cases[i].pad, sizeof cases[i].pad);
        assert_int_equal(g->nodes[1].h, cases[i].side);
        assert_int_equal(g->nodes[1].w, cases[i].side);
        /* Unstrided 3x3 layers keep their size, and pointwise ones have no padding. */
        const int all[4] = {1, 1, 1, 1}, none[4] = {0, 0, 0, 0};
        assert_memory_equal(g->nodes[4].pad, all, sizeof all);
        assert_memory_equal(g->nodes[7].pad, none, sizeof none);
        kd_graph_free(g);
    }
    for (int size = 1; size < 70; size++)
        for (int tf = 0; tf < 2; tf++) {
            kd_model_config cfg = config("mobilenet_v2", size, 5);
            cfg.pad_tf = tf;
            kd_graph *g = build(&cfg);
            /* Five halvings, each rounded up. */
            const kd_node *last = &g->nodes[g->nodes[g->nodes[g->output].in[0]].in[0]];
            assert_int_equal(last->h, (size + 31) / 32);
            kd_graph_free(g);
        }
}

static void refuse(kd_model_config cfg, const char *part)
{
    kd_graph *g = NULL;
    kd_diag diag = {0};
    kd_assert_fails(kd_model_build(&cfg, &g, &diag), KD_EINVAL, &diag, part);
    assert_null(g);
}

static void test_models_refusals(void **state)
{
    (void)state;
    refuse(config("resnet", 224, 5), "there are shallow_cnn, mlp and mobilenet_v2");
    refuse(config("shallow_cnn", 13, 5), "conv2: a 3x3 kernel does not fit into 2x2");
    refuse(config("shallow_cnn", 224, 1), "1 classes");
    refuse(config("shallow_cnn", 0, 5), "image size of 0");
    refuse(config("shallow_cnn", 1 << 30, 5), "image size");
    kd_model_config cfg = config("shallow_cnn", 224, 5);
    cfg.channels = 4;
    refuse(cfg, "not 4");
    cfg = config("mobilenet_v2", 224, 5);
    const double widths[] = {0, -1, 100, NAN};
    for (size_t i = 0; i < KD_COUNT(widths); i++) {
        cfg.width = widths[i];
        refuse(cfg, "width");
    }
    const int hidden[] = {100, 0};
    cfg = config("mlp", 28, 5);
    cfg.hidden = hidden;
    cfg.n_hidden = 2;
    refuse(cfg, "hidden layer of 0");
    cfg.n_hidden = 17;
    refuse(cfg, "17 hidden layers");
    cfg = config("mlp", 4096, 5);
    cfg.hidden = hidden;
    cfg.n_hidden = 1;
    refuse(cfg, "too many parameters");
}

static void save(const kd_graph *g, const float *vector, kd_buf *out, int skip_param)
{
    kd_st_item *items = calloc((size_t)g->n_params, sizeof *items);
    size_t n = 0;
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        if (i == skip_param)
            continue;
        items[n] = (kd_st_item){.name = p->name, .ndim = p->ndim, .data = vector + p->offset};
        memcpy(items[n++].shape, p->shape, sizeof p->shape);
    }
    kd_diag diag = {0};
    kd_buf_init(out, (size_t)1 << 26);
    kd_assert_ok(kd_st_pack(items, n, NULL, 0, out, &diag), &diag);
    free(items);
}

static void test_models_load(void **state)
{
    (void)state;
    kd_model_config cfg = config("mobilenet_v2", 64, 5);
    cfg.width = 0.35;
    kd_graph *g = build(&cfg);
    const size_t bytes = g->vector_len * sizeof(float);
    float *from = malloc(bytes), *to = malloc(bytes), *start = malloc(bytes);
    kd_graph_init(g, 1, from);
    kd_graph_init(g, 2, start);
    kd_buf file;
    save(g, from, &file, -1);
    kd_diag diag = {0};
    bool fresh = true;
    memcpy(to, start, bytes);
    kd_assert_ok(kd_model_load(g, file.data, file.len, "w", to, &fresh, &diag), &diag);
    assert_false(fresh);
    assert_memory_equal(from, to, bytes);

    /* Another number of classes: all but the head comes from the file. */
    cfg.classes = 7;
    kd_graph *other = build(&cfg);
    float *big = malloc(other->vector_len * sizeof *big),
          *first = malloc(other->vector_len * sizeof *big);
    kd_graph_init(other, 2, big);
    memcpy(first, big, other->vector_len * sizeof *big);
    kd_assert_ok(kd_model_load(other, file.data, file.len, "w", big, &fresh, &diag), &diag);
    assert_true(fresh);
    for (int i = 0; i < other->n_params; i++) {
        const kd_param *p = &other->params[i];
        const float *want = p->head ? first + p->offset : from + kd_graph_param(g, p->name)->offset;
        assert_memory_equal(big + p->offset, want, p->count * sizeof *want);
    }
    free(big);
    free(first);
    kd_graph_free(other);

    /* Another width is refused with both shapes, and nothing is written. */
    cfg.classes = 5;
    cfg.width = 0.5;
    other = build(&cfg);
    big = malloc(other->vector_len * sizeof *big);
    first = malloc(other->vector_len * sizeof *big);
    kd_graph_init(other, 3, big);
    memcpy(first, big, other->vector_len * sizeof *big);
    kd_assert_fails(kd_model_load(other, file.data, file.len, "w", big, &fresh, &diag), KD_EDATA,
                    &diag, "has the shape [8,48,1,1], the network needs [16,48,1,1]");
    assert_memory_equal(big, first, other->vector_len * sizeof *big);
    free(big);
    free(first);
    kd_graph_free(other);
    kd_buf_clear(&file);

    memcpy(to, start, bytes);
    save(g, from, &file, 17);
    kd_assert_fails(kd_model_load(g, file.data, file.len, "w", to, &fresh, &diag), KD_EDATA, &diag,
                    g->params[17].name);
    kd_buf_clear(&file);
    /* A head that is missing is not a head for other classes. */
    save(g, from, &file, g->n_params - 1);
    kd_assert_fails(kd_model_load(g, file.data, file.len, "w", to, &fresh, &diag), KD_EDATA, &diag,
                    "w has no tensor classifier.1.bias of shape [5]");
    kd_buf_clear(&file);

    const kd_param *var = kd_graph_param(g, "features.18.1.running_var");
    from[var->offset + 3] = -1e-3f;
    save(g, from, &file, -1);
    kd_assert_fails(kd_model_load(g, file.data, file.len, "w", to, &fresh, &diag), KD_EDATA, &diag,
                    "value 3 of tensor features.18.1.running_var is -0.001");
    kd_buf_clear(&file);
    from[var->offset + 3] = 1;
    from[g->vector_len - 1] = INFINITY;
    save(g, from, &file, -1);
    kd_assert_fails(kd_model_load(g, file.data, file.len, "w", to, &fresh, &diag), KD_EDATA, &diag,
                    "classifier.1.bias is inf");
    assert_memory_equal(to, start, bytes);
    kd_assert_fails(kd_model_load(g, file.data, file.len / 2, "w", to, &fresh, &diag), KD_EDATA,
                    &diag, "truncated");
    kd_buf_clear(&file);
    free(from);
    free(to);
    free(start);
    kd_graph_free(g);
}

static void test_models_table(void **state)
{
    (void)state;
    kd_model_config cfg = config("mobilenet_v2", 64, 5);
    kd_graph *g = build(&cfg);
    char *text = kd_model_table(g);
    json_error_t error;
    json_t *table = json_loads(text, 0, &error);
    assert_non_null(table);
    assert_int_equal(json_array_size(table), g->n_params);
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        const json_t *row = json_array_get(table, (size_t)i);
        assert_string_equal(json_string_value(json_object_get(row, "name")), p->name);
        assert_int_equal(json_integer_value(json_object_get(row, "offset")), p->offset);
        assert_int_equal(json_is_true(json_object_get(row, "trained")),
                         p->kind == KD_PARAM_TRAINED);
        const json_t *shape = json_object_get(row, "shape");
        assert_int_equal(json_array_size(shape), p->ndim);
        for (int k = 0; k < p->ndim; k++)
            assert_int_equal(json_integer_value(json_array_get(shape, (size_t)k)), p->shape[k]);
    }
    json_decref(table);
    free(text);
    kd_graph_free(g);
}

/* The names of the real file are those of the builder, one for one. */
static void test_models_real_weights(void **state)
{
    (void)state;
    if (!kd_test_data()) {
        print_message("DISTILL_DATA is not set\n");
        skip();
    }
    char path[512], *bytes;
    size_t len;
    snprintf(path, sizeof path, "%s/weights/mobilenet_v2.safetensors", kd_test_data());
    kd_diag diag = {0};
    kd_assert_ok(kd_file_read(path, (size_t)1 << 26, &bytes, &len, &diag), &diag);
    kd_st_file *f;
    kd_assert_ok(kd_st_open_memory(bytes, len, path, &f, &diag), &diag);
    for (int classes = 1000; classes >= 5; classes -= 995) {
        kd_model_config cfg = config("mobilenet_v2", 224, classes);
        kd_graph *g = build(&cfg);
        assert_int_equal(kd_st_count(f), g->n_params);
        for (size_t i = 0; i < kd_st_count(f); i++)
            assert_non_null(kd_graph_param(g, kd_st_at(f, i)->name));
        float *vector = malloc(g->vector_len * sizeof *vector);
        kd_graph_init(g, 1, vector);
        bool fresh;
        kd_assert_ok(kd_model_load(g, bytes, len, path, vector, &fresh, &diag), &diag);
        assert_int_equal(fresh, classes == 5);
        free(vector);
        kd_graph_free(g);
    }
    kd_st_close(f);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_shallow_cnn),  cmocka_unit_test(test_models_mlp),
        cmocka_unit_test(test_models_mobilenet_v2), cmocka_unit_test(test_models_padding),
        cmocka_unit_test(test_models_refusals),     cmocka_unit_test(test_models_load),
        cmocka_unit_test(test_models_table),        cmocka_unit_test(test_models_real_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Networks by name: shapes, names, counts, start values and refusals. */
#include "kd_test.h"

#include "zoo_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void assert_shape(const kd_graph *g, const char *name, int ndim, const int64_t *shape)
{
    const kd_param *p = kd_graph_param(g, name);
    if (!p)
        fail_msg("no parameter %s", name);
    assert_int_equal(p->ndim, ndim);
    for (int i = 0; i < ndim; i++)
        assert_int_equal(p->shape[i], shape[i]);
}

static void refuse(kd_model_config cfg, const char *part)
{
    kd_graph *g = NULL;
    kd_diag diag = {0};
    kd_assert_fails(kd_model_build(&cfg, &g, &diag), KD_EINVAL, &diag, part);
    assert_null(g);
}

static void test_models_shallow_cnn(void **state)
{
    (void)state;
    kd_model_config cfg = zoo_config("shallow_cnn", 224, 5);
    kd_graph *g = zoo_build(&cfg);
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
    g = zoo_build(&cfg);
    assert_int_equal(g->trained_len, 144261 - 64 * 2 * 9);
    kd_graph_free(g);
    /* The smallest picture the two layers fit into. */
    cfg = zoo_config("shallow_cnn", 14, 2);
    g = zoo_build(&cfg);
    kd_graph_free(g);
}

static void test_models_shallow_cnn_deep(void **state)
{
    (void)state;
    kd_model_config cfg = zoo_config("shallow_cnn_deep", 224, 5);
    kd_graph *g = zoo_build(&cfg);
    /* As Keras's summary in the report's notebook. */
    assert_int_equal(g->trained_len, 504965);
    assert_int_equal(g->vector_len, 504965);
    assert_shape(g, "conv3.weight", 4, (int64_t[]){256, 128, 3, 3});
    assert_shape(g, "fc1.weight", 2, (int64_t[]){512, 256});
    assert_int_equal(kd_graph_macs(g),
                     222LL * 222 * 1728 + 53LL * 53 * 73728 + 11LL * 11 * 294912 + 131072 + 2560);
    kd_graph_free(g);
    cfg = zoo_config("shallow_cnn_deep", 58, 2);
    kd_graph_free(zoo_build(&cfg));
}

static void test_models_lenet(void **state)
{
    (void)state;
    for (int size = 28; size <= 32; size += 4) {
        kd_model_config cfg = zoo_config("lenet", size, 10);
        cfg.channels = 1;
        kd_graph *g = zoo_build(&cfg);
        assert_int_equal(g->trained_len, 61706);
        assert_shape(g, "conv1.weight", 4, (int64_t[]){6, 1, 5, 5});
        assert_shape(g, "conv2.weight", 4, (int64_t[]){16, 6, 5, 5});
        assert_shape(g, "fc1.weight", 2, (int64_t[]){120, 400});
        assert_shape(g, "fc3.bias", 1, (int64_t[]){10});
        kd_graph_free(g);
    }
    for (int size = 12; size < 80; size++) {
        kd_model_config cfg = zoo_config("lenet", size, 5);
        kd_graph_free(zoo_build(&cfg));
    }
}

/* The point of this network is its price: at least five times fewer multiply-adds than MobileNetV2
 * for the same picture, whatever its size, and 100,000 to 300,000 parameters. */
static void test_models_cheap_cnn(void **state)
{
    (void)state;
    const int sizes[] = {32, 64, 96, 128, 160, 224, 300};
    for (size_t i = 0; i < KD_COUNT(sizes); i++) {
        kd_model_config cfg = zoo_config("mobilenet_v2", sizes[i], 5);
        kd_graph *large = zoo_build(&cfg);
        cfg.model = "cheap_cnn";
        kd_graph *g = zoo_build(&cfg);
        assert_true(5 * kd_graph_macs(g) <= kd_graph_macs(large));
        assert_int_equal(g->trained_len, 158757);
        if (sizes[i] == 224)
            assert_int_equal(kd_graph_macs(g), 26550656);
        kd_graph_free(g);
        kd_graph_free(large);
    }
    kd_model_config cfg = zoo_config("cheap_cnn", 224, 5);
    size_t before = 0;
    for (int i = 1; i <= 4; i++) {
        cfg.width = 0.5 * i;
        kd_graph *g = zoo_build(&cfg);
        assert_true(g->trained_len > before);
        before = g->trained_len;
        kd_graph_free(g);
    }
    for (int size = 1; size < 70; size++) {
        cfg = zoo_config("cheap_cnn", size, 5);
        kd_graph_free(zoo_build(&cfg));
    }
}

static void test_models_mlp(void **state)
{
    (void)state;
    const int hidden[] = {300, 100};
    kd_model_config cfg = zoo_config("mlp", 28, 10);
    cfg.channels = 1;
    cfg.hidden = hidden;
    cfg.n_hidden = 2;
    kd_graph *g = zoo_build(&cfg);
    assert_int_equal(g->trained_len, 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10);
    assert_shape(g, "fc1.weight", 2, (int64_t[]){300, 784});
    assert_shape(g, "fc2.weight", 2, (int64_t[]){100, 300});
    assert_shape(g, "fc3.bias", 1, (int64_t[]){10});
    kd_graph_free(g);
    cfg.n_hidden = 0;
    g = zoo_build(&cfg);
    assert_int_equal(g->trained_len, 7850);
    kd_graph_free(g);
}

static void test_models_mobilenet_v2(void **state)
{
    (void)state;
    kd_model_config cfg = zoo_config("mobilenet_v2", 224, 1000);
    kd_graph *g = zoo_build(&cfg);
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
            cfg = zoo_config("mobilenet_v2", 96, 5);
            cfg.width = widths[i].width;
            cfg.pad_tf = tf;
            g = zoo_build(&cfg);
            assert_int_equal(g->n_params, 262);
            assert_int_equal(g->trained_len, widths[i].trained);
            assert_true(g->nodes[2].eps == (tf ? 1e-3f : 1e-5f));
            kd_graph_free(g);
        }
}

/* Counts from torchvision 0.14.1: parameters, tensors with statistics but without
 * num_batches_tracked, multiply-adds of convolutions and dense layers at 224 pixels. */
static void test_models_torchvision(void **state)
{
    (void)state;
    const struct {
        const char *model;
        size_t trained, statistics;
        int n_params;
        uint64_t macs;
    } nets[] = {{"efficientnet_b0", 5288548, 42016, 311, 385814752},
                {"resnet18", 11689512, 9600, 102, 1814073344},
                {"resnet34", 21797672, 17024, 182, 3663761408},
                {"resnet50", 25557032, 53120, 267, 4089184256}};
    for (size_t i = 0; i < KD_COUNT(nets); i++) {
        kd_model_config cfg = zoo_config(nets[i].model, 224, 1000);
        kd_graph *g = zoo_build(&cfg);
        assert_int_equal(g->trained_len, nets[i].trained);
        assert_int_equal(g->vector_len, nets[i].trained + nets[i].statistics);
        assert_int_equal(g->n_params, nets[i].n_params);
        assert_int_equal(kd_graph_macs(g), nets[i].macs);
        kd_graph_free(g);
        /* The smallest pictures too, and grey ones. */
        for (int size = 1; size < 70; size += 3) {
            cfg = zoo_config(nets[i].model, size, 5);
            cfg.channels = 1;
            kd_graph_free(zoo_build(&cfg));
        }
    }
}

static void test_models_names(void **state)
{
    (void)state;
    kd_model_config cfg = zoo_config("efficientnet_b0", 224, 5);
    kd_graph *g = zoo_build(&cfg);
    assert_shape(g, "features.0.0.weight", 4, (int64_t[]){32, 3, 3, 3});
    assert_shape(g, "features.1.0.block.0.0.weight", 4, (int64_t[]){32, 1, 3, 3});
    assert_shape(g, "features.1.0.block.1.fc1.weight", 4, (int64_t[]){8, 32, 1, 1});
    assert_shape(g, "features.1.0.block.1.fc2.bias", 1, (int64_t[]){32});
    assert_shape(g, "features.3.0.block.1.0.weight", 4, (int64_t[]){144, 1, 5, 5});
    assert_shape(g, "features.6.3.block.3.1.running_var", 1, (int64_t[]){192});
    assert_shape(g, "features.8.0.weight", 4, (int64_t[]){1280, 320, 1, 1});
    assert_shape(g, "classifier.1.weight", 2, (int64_t[]){5, 1280});
    kd_graph_free(g);
    cfg = zoo_config("resnet50", 224, 5);
    g = zoo_build(&cfg);
    assert_shape(g, "conv1.weight", 4, (int64_t[]){64, 3, 7, 7});
    assert_shape(g, "layer1.0.downsample.0.weight", 4, (int64_t[]){256, 64, 1, 1});
    assert_shape(g, "layer2.0.conv2.weight", 4, (int64_t[]){128, 128, 3, 3});
    assert_shape(g, "layer4.2.bn3.running_mean", 1, (int64_t[]){2048});
    assert_shape(g, "fc.weight", 2, (int64_t[]){5, 2048});
    for (int i = 0; i < g->n_nodes; i++) {
        const kd_node *n = &g->nodes[i];
        if (strcmp(n->name, "layer2.0.conv1") == 0 || strcmp(n->name, "layer2.0.conv2") == 0)
            assert_int_equal(n->stride_h, n->kernel_h == 3 ? 2 : 1);
    }
    kd_graph_free(g);
}

/* The nodes of one kind, in order. */
static int find_nodes(const kd_graph *g, enum kd_op op, int *out, int max)
{
    int n = 0;
    for (int i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].op == op) {
            assert_true(n < max);
            out[n++] = i;
        }
    return n;
}

static void test_models_dropout(void **state)
{
    (void)state;
    const int hidden[] = {8};
    const kd_layer_spec layers[] = {{.kind = KD_LAYER_GLOBAL_AVG_POOL}};
    const char *const models[] = {
        "shallow_cnn",  "shallow_cnn_deep", "cheap_cnn", "lenet",           "mlp",
        "mobilenet_v2", "resnet18",         "resnet50",  "efficientnet_b0", "layers"};
    for (size_t i = 0; i < KD_COUNT(models); i++) {
        kd_model_config cfg = zoo_config(models[i], 64, 5);
        cfg.hidden = hidden;
        cfg.n_hidden = 1;
        cfg.layers = layers;
        cfg.n_layers = 1;
        kd_graph *plain = zoo_build(&cfg);
        cfg.dropout = 0.3;
        kd_graph *g = zoo_build(&cfg);
        int at[4];
        assert_int_equal(find_nodes(plain, KD_OP_DROPOUT, at, 4), 0);
        assert_int_equal(find_nodes(g, KD_OP_DROPOUT, at, 4), 1);
        assert_int_equal(g->nodes[g->output].in[0], at[0]);
        assert_true(g->nodes[at[0]].alpha == 0.3f);
        assert_int_equal(g->n_params, plain->n_params);
        for (int k = 0; k < g->n_params; k++) {
            assert_string_equal(g->params[k].name, plain->params[k].name);
            assert_int_equal(g->params[k].offset, plain->params[k].offset);
        }
        kd_graph_free(g);
        kd_graph_free(plain);
    }
}

/* Stochastic depth grows with depth, on residual branches only: block i of n has drop_path i / n.
 */
static void test_models_drop_path(void **state)
{
    (void)state;
    const struct {
        const char *model;
        int n, total, index[16];
    } nets[] = {
        {"efficientnet_b0", 9, 16, {2, 4, 6, 7, 9, 10, 12, 13, 14}},
        {"resnet18", 7, 8, {1, 2, 3, 4, 5, 6, 7}},
    };
    for (size_t i = 0; i < KD_COUNT(nets); i++) {
        kd_model_config cfg = zoo_config(nets[i].model, 64, 5);
        int at[16];
        kd_graph *g = zoo_build(&cfg);
        assert_int_equal(find_nodes(g, KD_OP_DROP_PATH, at, 16), 0);
        kd_graph_free(g);
        cfg.drop_path = 0.2;
        g = zoo_build(&cfg);
        assert_int_equal(find_nodes(g, KD_OP_DROP_PATH, at, 16), nets[i].n);
        for (int k = 0; k < nets[i].n; k++) {
            const kd_node *n = &g->nodes[at[k]];
            assert_true(n->alpha == (float)(0.2 * nets[i].index[k] / nets[i].total));
            assert_int_equal(g->nodes[n->in[0]].op, KD_OP_BATCH_NORM);
            /* The sum takes the branch, and the shortcut as it is. */
            assert_int_equal(g->nodes[at[k] + 1].op, KD_OP_ADD);
            assert_int_equal(g->nodes[at[k] + 1].in[0], at[k]);
        }
        kd_graph_free(g);
    }
}

static double deviation(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum / (double)n);
}

static void test_models_start_values(void **state)
{
    (void)state;
    const double third = sqrt(3);
    const struct {
        const char *model, *param;
        double deviation;
    } cases[] = {
        {"resnet18", "layer4.1.conv2.weight", sqrt(2.0 / (512 * 9))},
        {"resnet18", "layer3.0.downsample.0.weight", sqrt(2.0 / 256)},
        {"resnet18", "fc.weight", 1 / sqrt(512) / third},
        {"resnet18", "fc.bias", 1 / sqrt(512) / third},
        {"efficientnet_b0", "features.5.0.block.1.0.weight", sqrt(2.0 / (480 * 25))},
        {"efficientnet_b0", "features.5.0.block.2.fc2.weight", sqrt(2.0 / 480)},
        {"efficientnet_b0", "classifier.1.weight", 1 / sqrt(500) / third},
        {"mobilenet_v2", "classifier.1.weight", 0.01},
        {"shallow_cnn", "conv2.weight", sqrt(2.0 / (64 * 9))},
        {"shallow_cnn", "fc1.weight", sqrt(2.0 / (128 + 512))},
        {"shallow_cnn_deep", "conv3.weight", sqrt(2.0 / (128 * 9))},
        {"shallow_cnn_deep", "fc1.weight", sqrt(2.0 / (256 + 512))},
        {"cheap_cnn", "blocks.6.pointwise.weight", sqrt(2.0 / 128)},
    };
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        kd_model_config cfg = zoo_config(cases[i].model, 64, 500);
        kd_graph *g = zoo_build(&cfg);
        float *vector = kd_xalloc(g->vector_len * sizeof *vector);
        kd_graph_init(g, 3, vector);
        const kd_param *p = kd_graph_param(g, cases[i].param);
        assert_non_null(p);
        /* Four standard errors of a deviation from that many draws. */
        kd_assert_close(deviation(vector + p->offset, p->count), cases[i].deviation,
                        4 / sqrt(2.0 * (double)p->count), 0);
        free(vector);
        kd_graph_free(g);
    }
}

static kd_graph *build_layers(const kd_layer_spec *layers, int n, int size)
{
    kd_model_config cfg = zoo_config("layers", size, 5);
    cfg.layers = layers;
    cfg.n_layers = n;
    return zoo_build(&cfg);
}

static void test_models_layers(void **state)
{
    (void)state;
    const kd_layer_spec layers[] = {
        {.kind = KD_LAYER_CONV, .channels = 8, .kernel = 3, .stride = 2, .groups = 1, .pad = -1},
        {.kind = KD_LAYER_BATCH_NORM},
        {.kind = KD_LAYER_SILU},
        {.kind = KD_LAYER_CONV,
         .channels = 16,
         .kernel = 5,
         .stride = 1,
         .groups = 4,
         .pad = 1,
         .bias = true},
        {.kind = KD_LAYER_RELU6},
        {.kind = KD_LAYER_MAX_POOL, .kernel = 3, .stride = 2, .pad = 1},
        {.kind = KD_LAYER_AVG_POOL, .kernel = 2, .stride = 2, .pad = -1},
        {.kind = KD_LAYER_FLATTEN},
        {.kind = KD_LAYER_DENSE, .channels = 12},
        {.kind = KD_LAYER_RELU},
        {.kind = KD_LAYER_DROPOUT, .rate = 0.5},
    };
    kd_graph *g = build_layers(layers, KD_COUNT(layers), 33);
    const enum kd_op ops[] = {KD_OP_INPUT,   KD_OP_CONV,  KD_OP_BATCH_NORM, KD_OP_SILU,
                              KD_OP_CONV,    KD_OP_RELU6, KD_OP_MAX_POOL,   KD_OP_AVG_POOL,
                              KD_OP_FLATTEN, KD_OP_DENSE, KD_OP_RELU,       KD_OP_DROPOUT,
                              KD_OP_DENSE};
    const int sides[] = {33, 17, 17, 17, 15, 15, 8, 4, 1, 1, 1, 1, 1};
    assert_int_equal(g->n_nodes, KD_COUNT(ops));
    for (int i = 0; i < g->n_nodes; i++) {
        assert_int_equal(g->nodes[i].op, ops[i]);
        assert_int_equal(g->nodes[i].h, sides[i]);
        assert_int_equal(g->nodes[i].w, sides[i]);
    }
    assert_shape(g, "layers.0.weight", 4, (int64_t[]){8, 3, 3, 3});
    assert_null(kd_graph_param(g, "layers.0.bias"));
    assert_shape(g, "layers.1.running_var", 1, (int64_t[]){8});
    assert_shape(g, "layers.3.weight", 4, (int64_t[]){16, 2, 5, 5});
    assert_shape(g, "layers.3.bias", 1, (int64_t[]){16});
    assert_shape(g, "layers.8.weight", 2, (int64_t[]){12, 16 * 4 * 4});
    assert_shape(g, "head.weight", 2, (int64_t[]){5, 12});
    assert_false(g->nodes[7].count_pad);
    assert_true(g->nodes[11].alpha == 0.5f);
    kd_graph_free(g);
    /* -1 gives ceil(n / stride) for every kernel, as TensorFlow's "SAME". */
    for (int size = 8; size < 24; size++)
        for (int kernel = 1; kernel < 8; kernel++)
            for (int stride = 1; stride < 4; stride++)
                for (int kind = 0; kind < 3; kind++) {
                    const enum kd_layer_kind kinds[] = {KD_LAYER_CONV, KD_LAYER_MAX_POOL,
                                                        KD_LAYER_AVG_POOL};
                    const kd_layer_spec two[] = {{.kind = kinds[kind],
                                                  .channels = 4,
                                                  .kernel = kernel,
                                                  .stride = stride,
                                                  .groups = 1,
                                                  .pad = -1},
                                                 {.kind = KD_LAYER_GLOBAL_AVG_POOL}};
                    g = build_layers(two, 2, size);
                    assert_int_equal(g->nodes[1].h, (size + stride - 1) / stride);
                    kd_graph_free(g);
                }
}

static void refuse_layers(const kd_layer_spec *layers, int n, const char *part)
{
    kd_model_config cfg = zoo_config("layers", 32, 5);
    cfg.layers = layers;
    cfg.n_layers = n;
    refuse(cfg, part);
}

static void test_models_layers_refused(void **state)
{
    (void)state;
    const kd_layer_spec conv = {
        .kind = KD_LAYER_CONV, .channels = 8, .kernel = 3, .stride = 1, .groups = 1, .pad = -1};
    const kd_layer_spec dense = {.kind = KD_LAYER_DENSE, .channels = 8};
    refuse_layers(NULL, 0, "list them under `layers`");
    refuse_layers(&conv, KD_MAX_LAYERS + 1, "65 layers are not in 1..64");
    refuse_layers(&conv, 1, "the layers end with a picture of 32x32x8; add global_avg_pool or");
    refuse_layers((kd_layer_spec[]){conv, dense}, 2,
                  "layers.1 is dense, but its input is still a picture of 32x32x8; put flatten");
    const struct {
        int channels, kernel, stride, groups, pad;
        const char *part;
    } bad[] = {
        {0, 3, 1, 1, 0, "layers.0: channels 0 is not in 1..65536"},
        {8, 0, 1, 1, 0, "layers.0: kernel 0"},
        {8, 3, 0, 1, 0, "layers.0: stride 0"},
        {8, 3, 1, 0, 0, "layers.0: groups 0"},
        {8, 3, 1, 2, 0, "layers.0: 3 channels in 2 groups"},
        {8, 3, 1, 1, -2, "layers.0: pad -2"},
        {8, 3, 1, 1, 1 << 30, "layers.0: pad 1073741824"},
        {8, 33, 1, 1, 0, "layers.0: a 33x33 kernel does not fit"},
    };
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        kd_layer_spec l = conv;
        l.channels = bad[i].channels;
        l.kernel = bad[i].kernel;
        l.stride = bad[i].stride;
        l.groups = bad[i].groups;
        l.pad = bad[i].pad;
        refuse_layers(&l, 1, bad[i].part);
    }
    const kd_layer_spec drop = {.kind = KD_LAYER_DROPOUT, .rate = 1};
    refuse_layers(&drop, 1, "layers.0: a dropout rate of 1");
    const kd_layer_spec pool = {.kind = KD_LAYER_MAX_POOL, .kernel = 2, .stride = 2, .pad = 2};
    refuse_layers(&pool, 1, "padding 2 does not go with a kernel of 2x2");
    const kd_layer_spec strange = {.kind = (enum kd_layer_kind)77};
    refuse_layers(&strange, 1, "layers.0 is of no known kind");
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
        kd_model_config cfg = zoo_config("mobilenet_v2", cases[i].size, 5);
        cfg.pad_tf = cases[i].tf;
        kd_graph *g = zoo_build(&cfg);
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
            kd_model_config cfg = zoo_config("mobilenet_v2", size, 5);
            cfg.pad_tf = tf;
            kd_graph *g = zoo_build(&cfg);
            /* Five halvings, each rounded up. */
            const kd_node *last = &g->nodes[g->nodes[g->nodes[g->output].in[0]].in[0]];
            assert_int_equal(last->h, (size + 31) / 32);
            kd_graph_free(g);
        }
}

static void test_models_refusals(void **state)
{
    (void)state;
    refuse(zoo_config("resnet", 224, 5), "There is no model resnet; there are shallow_cnn, ");
    refuse(zoo_config("resnet", 224, 5), "resnet50 and layers.");
    refuse(zoo_config("shallow_cnn", 13, 5), "conv2: a 3x3 kernel does not fit into 2x2");
    refuse(zoo_config("shallow_cnn", 224, 1), "1 classes");
    refuse(zoo_config("shallow_cnn", 0, 5), "image size of 0");
    refuse(zoo_config("shallow_cnn", 1 << 30, 5), "image size");
    kd_model_config cfg = zoo_config("shallow_cnn", 224, 5);
    cfg.channels = 4;
    refuse(cfg, "not 4");
    cfg = zoo_config("mobilenet_v2", 224, 5);
    const double widths[] = {0, -1, 100, NAN};
    for (size_t i = 0; i < KD_COUNT(widths); i++) {
        cfg.width = widths[i];
        refuse(cfg, "width");
    }
    const int hidden[] = {100, 0};
    cfg = zoo_config("mlp", 28, 5);
    cfg.hidden = hidden;
    cfg.n_hidden = 2;
    refuse(cfg, "hidden layer of 0");
    cfg.n_hidden = 17;
    refuse(cfg, "17 hidden layers");
    cfg = zoo_config("mlp", 4096, 5);
    cfg.hidden = hidden;
    cfg.n_hidden = 1;
    refuse(cfg, "too many parameters");
    for (int i = 0; i < 2; i++) {
        cfg = zoo_config("resnet18", 64, 5);
        *(i ? &cfg.dropout : &cfg.drop_path) = 1;
        refuse(cfg, i ? "a dropout of 1 is not in" : "a drop_path of 1 is not in");
        *(i ? &cfg.dropout : &cfg.drop_path) = NAN;
        refuse(cfg, "nan is not in [0, 1)");
    }
    refuse(zoo_config("lenet", 11, 5), "max-pool does not fit into 1x1");
    refuse(zoo_config("shallow_cnn_deep", 57, 5), "conv3");
    cfg = zoo_config("cheap_cnn", 64, 5);
    cfg.width = 5;
    refuse(cfg, "width of 5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_shallow_cnn),
        cmocka_unit_test(test_models_shallow_cnn_deep),
        cmocka_unit_test(test_models_lenet),
        cmocka_unit_test(test_models_cheap_cnn),
        cmocka_unit_test(test_models_mlp),
        cmocka_unit_test(test_models_mobilenet_v2),
        cmocka_unit_test(test_models_torchvision),
        cmocka_unit_test(test_models_names),
        cmocka_unit_test(test_models_dropout),
        cmocka_unit_test(test_models_drop_path),
        cmocka_unit_test(test_models_start_values),
        cmocka_unit_test(test_models_layers),
        cmocka_unit_test(test_models_layers_refused),
        cmocka_unit_test(test_models_padding),
        cmocka_unit_test(test_models_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

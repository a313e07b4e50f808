/* Graphs as JSON and back, text that lies, and networks from one file. */
#include "kd_test.h"

#include "nets_ops.h"

#include "models/graph_json.h"
#include "models/loaded.h"
#include "models/models.h"
#include "store/narrow.h"

#include <jansson.h>

static const char *const zoo[] = {"shallow_cnn", "mlp", "mobilenet_v2"};

static kd_graph *zoo_graph(const char *model)
{
    const int hidden[] = {9};
    const kd_model_config cfg = {.model = model,
                                 .width = 0.35,
                                 .hidden = hidden,
                                 .n_hidden = 1,
                                 .size = 32,
                                 .channels = 3,
                                 .classes = 5};
    kd_graph *g;
    kd_diag diag = {0};
    kd_assert_ok(kd_model_build(&cfg, &g, &diag), &diag);
    return g;
}

static void assert_same_params(const kd_graph *a, const kd_graph *b)
{
    assert_int_equal(a->n_params, b->n_params);
    assert_int_equal(a->vector_len, b->vector_len);
    assert_int_equal(a->trained_len, b->trained_len);
    for (int i = 0; i < a->n_params; i++) {
        const kd_param *p = &a->params[i], *q = &b->params[i];
        assert_string_equal(p->name, q->name);
        assert_true(p->kind == q->kind && p->init == q->init && p->head == q->head);
        assert_true(p->offset == q->offset && p->count == q->count && p->ndim == q->ndim);
        assert_memory_equal(p->shape, q->shape, sizeof p->shape);
        assert_true(p->fan_in == q->fan_in && p->fan_out == q->fan_out);
    }
}

/* Everything a plan reads of a graph is the same. */
static void assert_same(const kd_graph *a, const kd_graph *b)
{
    assert_same_params(a, b);
    assert_int_equal(a->n_nodes, b->n_nodes);
    assert_int_equal(a->output, b->output);
    for (int i = 0; i < a->n_nodes; i++) {
        const kd_node *p = &a->nodes[i], *q = &b->nodes[i];
        assert_string_equal(p->name, q->name);
        assert_memory_equal(&p->in, &q->in, sizeof p->in);
        assert_true(p->op == q->op && p->h == q->h && p->w == q->w && p->c == q->c);
        assert_true(p->kernel_h == q->kernel_h && p->kernel_w == q->kernel_w);
        assert_true(p->stride_h == q->stride_h && p->stride_w == q->stride_w);
        assert_true(p->dilation_h == q->dilation_h && p->dilation_w == q->dilation_w);
        assert_true(p->groups == q->groups && p->count_pad == q->count_pad);
        assert_memory_equal(p->pad, q->pad, sizeof p->pad);
        assert_true(p->eps == q->eps && p->alpha == q->alpha && p->beta == q->beta);
        assert_true(p->axis == q->axis);
        assert_memory_equal(p->start, q->start, sizeof p->start);
        assert_memory_equal(p->step, q->step, sizeof p->step);
        assert_memory_equal(p->of, q->of, sizeof p->of);
        assert_true(p->weight == q->weight && p->bias == q->bias);
        assert_true(p->mean == q->mean && p->var == q->var);
    }
}

static void round_trip(const kd_graph *g)
{
    char *text = kd_graph_to_json(g);
    assert_non_null(text);
    kd_graph *again;
    kd_diag diag = {0};
    kd_assert_ok(kd_graph_from_json(text, &again, &diag), &diag);
    assert_same(g, again);
    char *second = kd_graph_to_json(again);
    assert_string_equal(text, second);
    free(second);
    free(text);
    kd_graph_free(again);
}

static void test_graph_json_round_trip(void **state)
{
    (void)state;
    for (size_t i = 0; i < KD_COUNT(zoo); i++) {
        kd_graph *g = zoo_graph(zoo[i]);
        round_trip(g);
        kd_graph_free(g);
    }
    for (size_t s = 0; s < KD_COUNT(ops_settings); s++)
        for (size_t i = 0; i < KD_COUNT(ops_nets); i++) {
            ref_net net = ops_net_make(&ops_nets[i], &ops_settings[s]);
            round_trip(net.g);
            ref_net_free(&net);
        }
}

/* The text of a small graph with one value of node `at` (or the root, -1) replaced. */
static char *tampered(int at, const char *key, json_t *value)
{
    kd_graph *g = zoo_graph("shallow_cnn");
    char *text = kd_graph_to_json(g);
    kd_graph_free(g);
    json_t *root = json_loads(text, 0, NULL);
    free(text);
    json_t *o = at < 0 ? root : json_array_get(json_object_get(root, "nodes"), (size_t)at);
    if (value)
        json_object_set_new(o, key, value);
    else
        json_object_del(o, key);
    text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

static void assert_refused(char *text, const char *part)
{
    kd_graph *g = NULL;
    kd_diag diag = {0};
    kd_assert_fails(kd_graph_from_json(text, &g, &diag), KD_EDATA, &diag, part);
    assert_null(g);
    free(text);
}

static void test_graph_json_lies(void **state)
{
    (void)state;
    /* Nodes: 0 input, 1 conv1, 2 relu, 3 max_pool, 4 conv2, 5 relu, 6 average, 7 fc1, 8 relu, 9 fc2
     */
    assert_refused(tampered(1, "shape", json_pack("[i,i,i]", 30, 30, 65)), "conv1");
    assert_refused(tampered(2, "shape", json_pack("[i,i,i]", 30, 30, 63)), "node 2");
    assert_refused(tampered(1, "kernel", json_pack("[i,i]", 5, 5)), "node 1");
    assert_refused(tampered(1, "kernel", json_pack("[i,i]", 0, -3)), "node 1");
    assert_refused(tampered(1, "kernel", json_pack("[i]", 3)), "`kernel`");
    assert_refused(tampered(1, "pad", json_pack("[i,i,i,i]", 9, 9, 9, 9)), "node 1");
    assert_refused(tampered(1, "groups", json_integer(0x7fffffff)), "node 1");
    assert_refused(tampered(1, "groups", json_integer(0x80000000)), "`groups`");
    assert_refused(tampered(1, "range", json_real(1e38)), "`range`");
    assert_refused(tampered(1, "range", json_real(-1)), "`range`");
    assert_refused(tampered(0, "range", json_integer(0)), "`range`");
    assert_refused(tampered(1, "bias", NULL), "`bias`");
    assert_refused(tampered(1, "bias", json_false()), "parameters");
    assert_refused(tampered(1, "name", json_string("conv2")), "parameter");
    assert_refused(tampered(1, "name", json_string("")), "`name`");
    assert_refused(tampered(1, "op", json_string("hadamard")), "`op`");
    assert_refused(tampered(2, "op", json_string("input")), "second input");
    assert_refused(tampered(2, "op", json_string("pad")), "`alpha`");
    assert_refused(tampered(2, "in", json_pack("[i]", 2)), "node 2");
    assert_refused(tampered(2, "in", json_pack("[i]", -1)), "node 2");
    assert_refused(tampered(2, "in", json_pack("[i]", 0)), "node 2");
    assert_refused(tampered(2, "in", json_pack("[i]", 1000000)), "node 2");
    assert_refused(tampered(7, "head", json_true()), "fc1.weight");
    assert_refused(tampered(9, "init", json_string("zero")), "fc2.weight");
    assert_refused(tampered(0, "shape", json_pack("[i,i,i]", 0, 32, 3)), "0x32x3");
    assert_refused(tampered(0, "op", json_string("relu")), "begin with an input");
    assert_refused(tampered(-1, "output", json_integer(8)), "the graph");
    assert_refused(tampered(-1, "output", json_integer(10)), "the graph");
    assert_refused(tampered(-1, "version", json_integer(2)), "version");
    assert_refused(tampered(-1, "format", json_string("graph")), "format");
    assert_refused(tampered(-1, "params", json_array()), "parameters");
    assert_refused(tampered(-1, "nodes", json_array()), "input");
    assert_refused(strdup("{"), "no JSON");
    assert_refused(strdup("[]"), "format");
    assert_refused(strdup(""), "no JSON");
    /* Deep nesting and too much text. */
    char *deep = malloc(100001);
    memset(deep, '[', 100000);
    deep[100000] = '\0';
    assert_refused(deep, "no JSON");
    char *much = malloc(KD_GRAPH_JSON_MAX + 2u);
    memset(much, ' ', KD_GRAPH_JSON_MAX + 1u);
    much[KD_GRAPH_JSON_MAX + 1u] = '\0';
    kd_graph *g = NULL;
    kd_diag diag = {0};
    kd_assert_fails(kd_graph_from_json(much, &g, &diag), KD_ELIMIT, &diag, "bytes");
    free(much);
}

/* A safetensors file with the given metadata; caller clears the buffer. */
static kd_buf weights_file(const kd_graph *g, const float *vector, const kd_st_pair *meta,
                           size_t n_meta)
{
    kd_st_item items[64];
    KD_BUG_ON(g->n_params > 64);
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        items[i] = (kd_st_item){.name = p->name, .ndim = p->ndim, .data = vector + p->offset};
        memcpy(items[i].shape, p->shape, sizeof p->shape);
    }
    kd_buf out;
    kd_buf_init(&out, 64u << 20);
    kd_diag diag = {0};
    kd_assert_ok(kd_st_pack(items, (size_t)g->n_params, meta, n_meta, &out, &diag), &diag);
    return out;
}

static void test_loaded_safetensors(void **state)
{
    (void)state;
    kd_graph *g = zoo_graph("shallow_cnn");
    float *vector = kd_xalloc(g->vector_len * sizeof *vector);
    kd_graph_init(g, 5, vector);
    char *names[] = {"daisy", "dandelion, common", "rose\\bud", "sun,", "tulip"};
    kd_loaded_meta meta;
    kd_diag diag = {0};
    kd_model_file_info info = {.has_preprocess = true,
                               .preprocess = KD_PRE_SYMMETRIC,
                               .size = 32,
                               .model = "shallow_cnn",
                               .classes = names,
                               .n_classes = 5};
    const kd_digest digest = kd_digest_of(vector, g->vector_len * sizeof *vector);
    kd_digest_hex(&digest, info.digest);
    kd_assert_ok(kd_loaded_describe(g, &info, &meta, &diag), &diag);
    kd_buf file = weights_file(g, vector, meta.pairs, meta.n_pairs);
    kd_loaded l;
    kd_assert_ok(kd_loaded_open((uint8_t *)file.data, file.len, "student", &l, &diag), &diag);
    assert_same(g, l.graph);
    assert_memory_equal(vector, l.vector, g->vector_len * sizeof *vector);
    assert_int_equal(l.info.preprocess, KD_PRE_SYMMETRIC);
    assert_int_equal(l.size, 32);
    assert_string_equal(l.info.model, "shallow_cnn");
    assert_true(l.ours);
    assert_int_equal(l.n_classes, 5);
    for (int i = 0; i < 5; i++)
        assert_string_equal(l.info.classes[i], names[i]);
    kd_loaded_clear(&l);
    kd_buf_clear(&file);
    /* Without a graph it is nothing; the rest can be given, or follows from it. */
    static const char *const parts[] = {"graph", "preprocess, mean, std, classes", "size"};
    for (size_t drop = 0; drop < 3; drop++) {
        kd_st_pair some[KD_LOADED_PAIRS];
        size_t n = 0;
        for (size_t i = 0; i < meta.n_pairs; i++)
            if (!strstr(parts[drop], meta.pairs[i].key))
                some[n++] = meta.pairs[i];
        file = weights_file(g, vector, some, n);
        const int rc = kd_loaded_open((uint8_t *)file.data, file.len, "student", &l, &diag);
        kd_buf_clear(&file);
        if (drop == 0) {
            kd_assert_fails(rc, KD_EDATA, &diag, "it has no metadata `graph`");
            continue;
        }
        kd_assert_ok(rc, &diag);
        assert_int_equal(l.info.has_preprocess, drop != 1);
        assert_int_equal(l.info.classes != NULL, drop != 1);
        assert_int_equal(l.size, 32);
        kd_loaded_clear(&l);
    }
    kd_assert_fails(kd_loaded_open((const uint8_t *)"", 0, "a.safetensors", &l, &diag), KD_EDATA,
                    &diag, "a.safetensors");
    assert_null(strstr(diag.msg, "ONNX"));
    const struct {
        const char *key, *value, *part;
    } wrong[] = {{"preprocess", "other", "other"},
                 {"mean", "0,0,0", "which is not symmetric"},
                 {"distilld.digest", "00112233445566778899aabbccddeeff", "damaged or was changed"},
                 {"size", "33", "33"},
                 {"size", "3x", "3x"},
                 {"classes", "a,,c,d,e", "class 1"},
                 {"classes", "a,b", "names 2 classes"},
                 {"graph", "{}", "format"}};
    for (size_t i = 0; i < KD_COUNT(wrong); i++) {
        kd_st_pair changed[KD_LOADED_PAIRS];
        memcpy(changed, meta.pairs, sizeof changed);
        for (size_t k = 0; k < meta.n_pairs; k++)
            if (strcmp(changed[k].key, wrong[i].key) == 0)
                changed[k].value = wrong[i].value;
        file = weights_file(g, vector, changed, meta.n_pairs);
        kd_assert_fails(kd_loaded_open((uint8_t *)file.data, file.len, "student", &l, &diag),
                        KD_EDATA, &diag, wrong[i].part);
        kd_buf_clear(&file);
    }
    kd_loaded_meta_clear(&meta);
    free(vector);
    kd_graph_free(g);
}

/* Codes and scales that no file of 8 bits of ours has. */
static void test_loaded_8_bit_lies(void **state)
{
    (void)state;
    kd_graph *g = zoo_graph("shallow_cnn");
    float *vector = kd_xalloc(g->vector_len * sizeof *vector);
    const kd_model_file_info info = {.model = "m"};
    kd_graph_init(g, 5, vector);
    g->nodes[1].range = 4;
    for (int i = 0; i < g->n_params; i++)
        if (g->params[i].ndim > 1)
            kd_int8_round(vector + g->params[i].offset, (int)g->params[i].shape[0],
                          g->params[i].count / (size_t)g->params[i].shape[0]);
    static const float scales[] = {0, -1, 1e30F, INFINITY, NAN};
    for (size_t i = 0; i <= KD_COUNT(scales) + 1; i++) {
        kd_buf b;
        kd_diag diag = {0};
        kd_loaded l;
        kd_st_file *f;
        kd_buf_init(&b, 64u << 20);
        kd_assert_ok(kd_loaded_pack(g, vector, &info, &b, &diag), &diag);
        kd_assert_ok(kd_st_open_memory(b.data, b.len, "f", &f, &diag), &diag);
        const char *name = i < KD_COUNT(scales) ? "conv2.weight.scale" : "conv2.weight";
        char *place = b.data + ((const char *)kd_st_find(f, name)->data - b.data);
        if (i < KD_COUNT(scales))
            memcpy(place + sizeof(float), &scales[i], sizeof(float));
        else if (i == KD_COUNT(scales))
            place[3] = (char)-128;
        kd_st_close(f);
        const int rc = kd_loaded_open((uint8_t *)b.data, b.len, "f", &l, &diag);
        if (i < KD_COUNT(scales)) {
            kd_assert_fails(rc, KD_EDATA, &diag, "scale 1 of tensor conv2.weight");
        } else if (i == KD_COUNT(scales)) {
            kd_assert_fails(rc, KD_EDATA, &diag, "value 3 of tensor conv2.weight has the code");
        } else {
            kd_assert_ok(rc, &diag);
            kd_loaded_clear(&l);
        }
        kd_buf_clear(&b);
    }
    free(vector);
    kd_graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_graph_json_round_trip),
        cmocka_unit_test(test_graph_json_lies),
        cmocka_unit_test(test_loaded_safetensors),
        cmocka_unit_test(test_loaded_8_bit_lies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

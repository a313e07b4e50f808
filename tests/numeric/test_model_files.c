/* Weights and what they say of themselves: loading, tables, metadata. */
#include "kd/file.h"
#include "kd_test.h"
#include "store/safetensors.h"

#include "models/graph_json.h"
#include "models/loaded.h"
#include "zoo_support.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static void test_model_files_load(void **state)
{
    (void)state;
    kd_model_config cfg = zoo_config("mobilenet_v2", 64, 5);
    cfg.width = 0.35;
    kd_graph *g = zoo_build(&cfg);
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
    kd_graph *other = zoo_build(&cfg);
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
    other = zoo_build(&cfg);
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

static void test_model_files_table(void **state)
{
    (void)state;
    kd_model_config cfg = zoo_config("mobilenet_v2", 64, 5);
    kd_graph *g = zoo_build(&cfg);
    char *text = kd_model_table(g, NULL);
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
static void test_model_files_real_weights(void **state)
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
        kd_model_config cfg = zoo_config("mobilenet_v2", 224, classes);
        kd_graph *g = zoo_build(&cfg);
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

/* A file of one tensor with one or two lines of metadata. */
static void describe(const char *key, const char *value, const char *key2, const char *value2,
                     kd_buf *out)
{
    const float one = 1;
    const kd_st_item item = {.name = "x", .ndim = 1, .shape = {1}, .data = &one};
    const kd_st_pair pairs[] = {{key, value}, {key2, value2}};
    kd_diag diag = {0};
    kd_buf_init(out, (size_t)1 << 26);
    kd_assert_ok(kd_st_pack(&item, 1, pairs, key2 ? 2 : key ? 1 : 0, out, &diag), &diag);
}

static int read_info(const char *key, const char *value, const char *key2, const char *value2,
                     kd_model_file_info *info, kd_diag *diag)
{
    kd_buf file;
    describe(key, value, key2, value2, &file);
    const int rc = kd_model_file_info_read(file.data, file.len, "w", info, diag);
    kd_buf_clear(&file);
    return rc;
}

static void test_model_files_info(void **state)
{
    (void)state;
    kd_model_file_info info = {.size = 7};
    kd_diag diag = {0};
    kd_assert_ok(read_info(NULL, NULL, NULL, NULL, &info, &diag), &diag);
    assert_false(info.has_padding || info.has_preprocess);
    assert_true(info.label_smoothing == 0 && info.size == 0 && info.resized_from == 0);
    assert_null(info.classes);
    kd_model_file_info_clear(&info);

    kd_assert_ok(read_info("padding", "tf", "preprocess", "symmetric", &info, &diag), &diag);
    assert_true(info.has_padding && info.pad_tf);
    assert_true(info.has_preprocess);
    assert_int_equal(info.preprocess, KD_PRE_SYMMETRIC);
    kd_model_file_info_clear(&info);
    kd_assert_ok(read_info("padding", "torch", "preprocess", "imagenet", &info, &diag), &diag);
    assert_true(info.has_padding && !info.pad_tf);
    assert_int_equal(info.preprocess, KD_PRE_IMAGENET);
    kd_model_file_info_clear(&info);

    /* Mean and deviation alone tell, too. */
    kd_assert_ok(read_info("mean", "0.485,0.456,0.406", "std", "0.229, 0.224, 0.225", &info, &diag),
                 &diag);
    assert_true(info.has_preprocess);
    assert_int_equal(info.preprocess, KD_PRE_IMAGENET);
    kd_model_file_info_clear(&info);
    kd_assert_ok(read_info("label_smoothing", "0.1", "size", "224", &info, &diag), &diag);
    assert_true(info.label_smoothing == 0.1);
    assert_int_equal(info.size, 224);
    kd_model_file_info_clear(&info);
    kd_assert_ok(read_info("size", "64", "resized_from", "224", &info, &diag), &diag);
    assert_true(info.size == 64 && info.resized_from == 224);
    kd_model_file_info_clear(&info);

    kd_assert_ok(read_info("classes", "daisy,a rose,tulips", NULL, NULL, &info, &diag), &diag);
    assert_int_equal(info.n_classes, 3);
    assert_string_equal(info.classes[0], "daisy");
    assert_string_equal(info.classes[1], "a rose");
    assert_string_equal(info.classes[2], "tulips");
    kd_model_file_info_clear(&info);
    assert_null(info.classes);
    assert_int_equal(info.n_classes, 0);
}

static void test_model_files_info_refused(void **state)
{
    (void)state;
    const struct {
        const char *key, *value, *part;
    } bad[] = {
        {"padding", "same", "w: its metadata says padding 'same', tf or torch was expected"},
        {"padding", "", "padding ''"},
        {"preprocess", "caffe", "unit, symmetric or imagenet was expected"},
        {"distilld.weights", "float8", "distilld.weights 'float8', float16 or bfloat16"},
        {"label_smoothing", "1", "label_smoothing '1', a number in [0, 1) was expected"},
        {"label_smoothing", "-0.1", "label_smoothing"},
        {"label_smoothing", "nan", "label_smoothing"},
        {"label_smoothing", "0.1x", "label_smoothing"},
        {"size", "0", "a whole number in 1..4096"},
        {"size", "22.5", "size '22.5'"},
        {"size", "1e9", "size"},
        {"resized_from", "0", "resized_from '0', a whole number in 1..4096"},
        {"resized_from", "4097", "resized_from"},
        {"resized_from", "", "resized_from"},
        {"mean", "0,0,0", "std '', three numbers with commas between was expected"},
        {"mean", "0,0", "mean '0,0'"},
        {"channels", "bgr", "channels 'bgr', rgb or grey was expected"},
        {"distilld.digest", "0123", "32 hexadecimal digits"},
        {"distilld.job", "a\nb", "without control characters"},
        {"model", "a name that is much longer than the name of any model may be in a job file",
         "a short text"},
        {"classes", "a,,b", "class 1 of its metadata has no name"},
        {"classes", "a,", "class 1 of its metadata has no name"},
        {"classes", ",", "class 0 of its metadata has no name"},
    };
    kd_model_file_info info = {.size = 7};
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        kd_diag diag = {0};
        kd_assert_fails(read_info(bad[i].key, bad[i].value, NULL, NULL, &info, &diag), KD_EDATA,
                        &diag, bad[i].part);
        assert_int_equal(info.size, 7);
    }
    kd_diag scaling = {0};
    kd_assert_fails(read_info("mean", "0.5,0.5,0.4", "std", "0.5,0.5,0.5", &info, &scaling),
                    KD_EDATA, &scaling, "which is not unit, symmetric or imagenet");
    char *many = kd_xalloc(3 * 65537);
    memset(many, 'a', 2 * 65537);
    for (int i = 1; i < 2 * 65537; i += 2)
        many[i] = ',';
    many[2 * 65537] = 'a';
    kd_diag diag = {0};
    kd_assert_fails(read_info("classes", many, NULL, NULL, &info, &diag), KD_ELIMIT, &diag,
                    "more than 65536 classes");
    free(many);
    kd_assert_fails(kd_model_file_info_read("nothing", 7, "w", &info, &diag), KD_EDATA, &diag, "w");
}

/* Weights of another padding or preprocessing would fit and answer wrongly. */
static void test_model_files_info_check(void **state)
{
    (void)state;
    kd_model_file_info info;
    kd_diag diag = {0};
    kd_assert_ok(read_info("padding", "torch", "preprocess", "imagenet", &info, &diag), &diag);
    kd_assert_ok(
        kd_model_file_info_check(&info, "w", "mobilenet_v2", false, KD_PRE_IMAGENET, &diag), &diag);
    kd_assert_fails(
        kd_model_file_info_check(&info, "w", "mobilenet_v2", true, KD_PRE_IMAGENET, &diag),
        KD_EINVAL, &diag,
        "w was made for padding torch, but the network has padding tf; set "
        "`padding: torch` beside its `weights`");
    kd_assert_fails(
        kd_model_file_info_check(&info, "w", "efficientnet_b0", true, KD_PRE_IMAGENET, &diag),
        KD_EINVAL, &diag, "padding");
    /* A ResNet has one kind of padding, whatever the job says. */
    kd_assert_ok(kd_model_file_info_check(&info, "w", "resnet18", true, KD_PRE_IMAGENET, &diag),
                 &diag);
    kd_assert_fails(kd_model_file_info_check(&info, "w", "resnet18", false, KD_PRE_UNIT, &diag),
                    KD_EINVAL, &diag, "the network is given `unit`; set `preprocess: imagenet`");
    kd_model_file_info_clear(&info);
    /* What is not named is not checked. */
    kd_assert_ok(kd_model_file_info_check(&info, "w", "mobilenet_v2", true, KD_PRE_UNIT, &diag),
                 &diag);
}

/* What an exported file says of its network is enough to build it again, whichever network it is.
 */
static void test_model_files_describe(void **state)
{
    (void)state;
    static const char *const models[] = {"shallow_cnn", "shallow_cnn_deep", "lenet",
                                         "cheap_cnn",   "mobilenet_v2",     "efficientnet_b0",
                                         "resnet18",    "resnet34",         "resnet50"};
    for (size_t i = 0; i < KD_COUNT(models); i++) {
        kd_model_config cfg = zoo_config(models[i], 64, 5);
        kd_graph *g = zoo_build(&cfg), *again = NULL;
        kd_diag diag = {0};
        kd_loaded_meta meta;
        const kd_model_file_info info = {.has_preprocess = true, .size = 64};
        kd_assert_ok(kd_loaded_describe(g, &info, &meta, &diag), &diag);
        kd_assert_ok(kd_graph_from_json(meta.graph, &again, &diag), &diag);
        assert_int_equal(again->vector_len, g->vector_len);
        for (int p = 0; p < g->n_params; p++) {
            assert_int_equal(again->params[p].init, g->params[p].init);
            assert_int_equal(again->params[p].fan_in, g->params[p].fan_in);
        }
        kd_loaded_meta_clear(&meta);
        kd_graph_free(again);
        kd_graph_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_files_load),
        cmocka_unit_test(test_model_files_table),
        cmocka_unit_test(test_model_files_real_weights),
        cmocka_unit_test(test_model_files_info),
        cmocka_unit_test(test_model_files_info_refused),
        cmocka_unit_test(test_model_files_info_check),
        cmocka_unit_test(test_model_files_describe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

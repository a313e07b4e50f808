/* The job file's lists: augmentation, layers, exports, teachers. */
#include "job_case.h"

#include <jansson.h>
#include <stdio.h>

/* `augment` is in line 4 from column 56 on. */
#define DATA(augment)                                                                              \
    "name: x\nstudent: {model: mlp}\ndistill: {loss: {kd: 0}}\n"                                   \
    "data: {labelled: {path: p, train: t, val: v}, augment: " augment "}\n"

static void test_job_augment(void **state)
{
    (void)state;
    kd_job j;
    accept(DATA("[]"), &j);
    static const kd_augment_spec nothing;
    assert_memory_equal(&j.data.augment, &nothing, sizeof nothing);
    accept(DATA("[{crop: {pad: 2}}]"), &j);
    assert_false(j.data.augment.flip);
    assert_int_equal(j.data.augment.crop_pad, 2);
    accept(DATA("[{cutmix: 0.5}, {mix_probability: 0.25}, flip, {crop: {pad: 3}}, {rotate: 15},\n"
                "  {resized_crop: {area: 0.5, ratio: 1.5}}, {brightness: 0.1}, {contrast: 0.2},\n"
                "  {saturation: 0.3}, {randaugment: {n: 3, m: 11}}, {cutout: 16}, {mixup: 0.2}]"),
           &j);
    const kd_augment_spec *a = &j.data.augment;
    assert_true(a->flip);
    assert_int_equal(a->crop_pad, 3);
    kd_assert_close(a->resized_crop, 0.5, 0, 0);
    kd_assert_close(a->resized_crop_ratio, 1.5, 0, 0);
    kd_assert_close(a->rotate, 15, 0, 0);
    kd_assert_close(a->brightness, 0.1, 0, 0);
    kd_assert_close(a->contrast, 0.2, 0, 0);
    kd_assert_close(a->saturation, 0.3, 0, 0);
    assert_int_equal(a->randaugment_n, 3);
    assert_int_equal(a->randaugment_m, 11);
    assert_int_equal(a->cutout, 16);
    kd_assert_close(a->mixup, 0.2, 0, 0);
    kd_assert_close(a->cutmix, 0.5, 0, 0);
    kd_assert_close(a->mix_probability, 0.25, 0, 0);
    round_trip(&j);
    /* Defaults of elements and of their fields. */
    accept(DATA("[resized_crop, randaugment, {mixup: 1}]"), &j);
    kd_assert_close(a->resized_crop, 0.35, 0, 0);
    kd_assert_close(a->resized_crop_ratio, 1.333, 0, 0);
    assert_int_equal(a->randaugment_n, 2);
    assert_int_equal(a->randaugment_m, 9);
    kd_assert_close(a->mix_probability, 1, 0, 0);
    round_trip(&j);
    accept(DATA("[{resized_crop: {ratio: 1}}, {randaugment: {m: 0}}]"), &j);
    kd_assert_close(a->resized_crop, 0.35, 0, 0);
    assert_int_equal(a->randaugment_n, 2);
    assert_int_equal(a->randaugment_m, 0);
    round_trip(&j);
    /* A number that needs all its digits. */
    accept(DATA("[{rotate: 0.30000000000000004}]"), &j);
    assert_true(a->rotate == 0.30000000000000004);
    round_trip(&j);
}

static void test_job_augment_refused(void **state)
{
    (void)state;
    refuse(DATA("flip"), "job.yaml:4:56: data.augment: expected a list, as in [flip, {crop: {pad: "
                         "4}}], found `flip`");
    refuse(DATA("[flip, flip]"), "job.yaml:4:63: data.augment[1]: `flip` is listed twice");
    refuse(DATA("[{crop: {pad: 1}}, {crop: {pad: 1}}]"),
           "job.yaml:4:75: data.augment[1]: `crop` is listed twice");
    refuse(DATA("[{crop: {pad: 0}}]"),
           "job.yaml:4:70: data.augment[0].crop.pad: expected a whole number from 1 to 512, found "
           "`0`");
    refuse(DATA("[{crop: {pad: [1]}}]"), "found a list");
    refuse(DATA("[{crop: {}}]"),
           "job.yaml:4:64: data.augment[0].crop.pad: missing: a whole number");
    refuse(DATA("[{crop: {pad: 1, x: 2}}]"),
           "job.yaml:4:73: data.augment[0]: unknown field; expected {crop: {pad: N}}");
    refuse(DATA("[{crop: {pad: 1, pad: 2}}]"), "data.augment[0].crop.pad: written twice");
    refuse(DATA("[{crop: 4}]"), "job.yaml:4:64: data.augment[0]: expected {crop: {pad: N}}");
    refuse(DATA("[crop]"), "job.yaml:4:57: data.augment[0]: expected {crop: {pad: N}}");
    refuse(DATA("[{flip: true}]"), "data.augment[0]: expected flip");
    refuse(DATA("[{rotate: {degrees: 3}}]"), "data.augment[0].rotate: expected a number above 0");
    refuse(DATA("[{rotate: 181}]"), "expected a number above 0, up to 180, found `181`");
    refuse(DATA("[{rotate: \"3\"}]"), "found the text \"3\"");
    refuse(DATA("[rotate]"), "expected {rotate: N}");
    refuse(DATA("[{mixup: 0}]"), "data.augment[0].mixup: expected a number above 0");
    refuse(DATA("[mixp]"),
           "expected one of flip, crop, resized_crop, rotate, brightness, contrast, "
           "saturation, randaugment, cutout, mixup, cutmix, mix_probability; found "
           "`mixp`, did you mean `mixup`?");
    refuse(DATA("[quxqux]"), "found `quxqux`");
    refuse(DATA("[[flip]]"), "data.augment[0]: expected a word or a mapping of one key");
    refuse(DATA("[{flip: {}, crop: {}}]"), "expected a word or a mapping of one key");
    refuse(DATA("[{}]"), "expected a word or a mapping of one key");
    refuse(DATA("[~]"), "expected a word or a mapping of one key");
    refuse(DATA("[\"flip\\0\"]"), "expected a word or a mapping of one key");
    refuse(DATA("[{mix_probability: 0.5}]"),
           "data.augment: mix_probability without mixup or cutmix");
    refuse(DATA("[{cutout: 225}]"),
           "data.augment: a cutout of 225 pixels, more than the picture has");
}

static void test_job_export(void **state)
{
    (void)state;
    kd_job j;
    accept(PLAIN, &j);
    assert_false(j.export_onnx);
    assert_int_equal(j.onnx_opset, 17);
    accept(PLAIN "export: [onnx]\n", &j);
    assert_true(j.export_onnx);
    assert_int_equal(j.onnx_opset, 17);
    round_trip(&j);
    accept(PLAIN "export: [safetensors, {onnx: {opset: 13}}]\n", &j);
    assert_true(j.export_onnx);
    assert_int_equal(j.onnx_opset, 13);
    round_trip(&j);
    refuse(PLAIN "export: [{onnx: {opset: 14}}]\n",
           "job.yaml:6:25: export[0].onnx.opset: expected one of 13|17, found `14`");
    refuse(PLAIN "export: [pickle]\n",
           "export[0]: expected one of safetensors, onnx; found `pickle`");
    refuse(PLAIN "export: []\n", "export: the list is empty");
    refuse(PLAIN "export: safetensors\n", "export: expected a list");
    refuse(PLAIN "export: [onnx, onnx]\n", "export[1]: `onnx` is listed twice");
    refuse(PLAIN "teacher: {model: mlp, hidden: [1,2,3,4,5,6,7,8,9]}\n",
           "a list of up to 8 whole numbers");
    refuse(PLAIN "teacher: {model: mlp, hidden: [0]}\n", "teacher.hidden: expected");
    refuse(PLAIN "teacher: {model: mlp, hidden: 3}\n", "teacher.hidden: expected");
}

/* The student is in line 5; its list begins in column 19. */
#define LAYERS(size, list)                                                                         \
    "name: x\ndistill: {loss: {kd: 0}}\n"                                                          \
    "data:\n  labelled: {path: p, val: v, size: " size "}\n"                                       \
    "student: {layers: " list "}\n"

static void test_job_layers(void **state)
{
    (void)state;
    kd_job j;
    accept(LAYERS("32",
                  "[{conv: {channels: 16}}, batch_norm, relu, {max_pool: 2},\n"
                  "  {conv: {channels: 32, kernel: 5, stride: 2, padding: 1, groups: 4, bias: "
                  "false}},\n"
                  "  relu6, {avg_pool: {kernel: 3, stride: 1, padding: same}}, silu,\n"
                  "  {conv: {channels: 8, padding: valid}}, flatten, {dense: 64}, {dropout: "
                  "0.3}]"),
           &j);
    const kd_layer_spec *y = j.student.layers;
    assert_string_equal(j.student.model, "layers");
    assert_int_equal(j.student.n_layers, 12);
    static const enum kd_layer_kind kinds[] = {
        KD_LAYER_CONV, KD_LAYER_BATCH_NORM, KD_LAYER_RELU,     KD_LAYER_MAX_POOL,
        KD_LAYER_CONV, KD_LAYER_RELU6,      KD_LAYER_AVG_POOL, KD_LAYER_SILU,
        KD_LAYER_CONV, KD_LAYER_FLATTEN,    KD_LAYER_DENSE,    KD_LAYER_DROPOUT};
    for (int i = 0; i < 12; i++)
        assert_int_equal(y[i].kind, kinds[i]);
    assert_int_equal(y[0].channels, 16);
    assert_int_equal(y[0].kernel, 3);
    assert_int_equal(y[0].stride, 1);
    assert_int_equal(y[0].pad, -1);
    assert_int_equal(y[0].groups, 1);
    assert_true(y[0].bias);
    assert_int_equal(y[3].kernel, 2);
    assert_int_equal(y[3].stride, 2);
    assert_int_equal(y[3].pad, 0);
    assert_int_equal(y[4].kernel, 5);
    assert_int_equal(y[4].stride, 2);
    assert_int_equal(y[4].pad, 1);
    assert_int_equal(y[4].groups, 4);
    assert_false(y[4].bias);
    assert_int_equal(y[6].stride, 1);
    assert_int_equal(y[6].pad, -1);
    assert_int_equal(y[8].pad, 0);
    assert_int_equal(y[10].channels, 64);
    kd_assert_close(y[11].rate, 0.3, 0, 0);
    round_trip(&j);
    char *text = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_job_resolved(&j, &text, &diag), &diag);
    json_t *root = json_loads(text, 0, NULL);
    json_t *list = json_object_get(json_object_get(root, "student"), "layers");
    assert_int_equal(json_array_size(list), 12);
    assert_string_equal(json_string_value(json_array_get(list, 2)), "relu");
    assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 10), "dense")), 64);
    json_decref(root);
    free(text);
    /* Teachers too, and with the model written. */
    accept(LEAST "teacher: {model: layers, layers: [global_avg_pool], fine_tune: {}}\n", &j);
    assert_int_equal(j.teachers[0].model.n_layers, 1);
    round_trip(&j);
}

static void test_job_layers_refused(void **state)
{
    (void)state;
    refuse(LAYERS("32", "[]"), "job.yaml:5:19: student.layers: expected 1 to 64 layers, found 0");
    refuse(LAYERS("32", "[relv, flatten]"),
           "job.yaml:5:20: student.layers[0]: expected one of conv,");
    refuse(LAYERS("32", "[relv, flatten]"), "found `relv`, did you mean `relu`?");
    refuse(LAYERS("32", "relu"), "student.layers: expected a list, as in [{conv: {channels: 16}}");
    refuse(LAYERS("32", "[{conv: {kernel: 3}}, flatten]"),
           "job.yaml:5:27: student.layers[0].conv.channels: missing");
    refuse(LAYERS("32", "[{conv: {channels: 3, padding: full}}, flatten]"),
           "job.yaml:5:50: student.layers[0].conv.padding: expected `same`, `valid` or a whole "
           "number from 0 to 1024, found `full`");
    refuse(LAYERS("32", "[{conv: {channels: 3, kernel: 3, padding: 3}}, flatten]"),
           "student.layers[0].conv: a padding of 3 is not below the kernel, 3");
    refuse(LAYERS("32", "[{conv: {channels: 6, groups: 2}}, {conv: {channels: 9, groups: 4}}, "
                        "flatten]"),
           "job.yaml:5:54: student.layers[1].conv: 4 groups do not divide");
    refuse(LAYERS("32", "[{conv: {channels: 6}}, {conv: {channels: 8, groups: 4}}, flatten]"),
           "student.layers[1].conv: 4 groups");
    refuse(LAYERS("8", "[{max_pool: 4}, {conv: {channels: 6, padding: valid}}, flatten]"),
           "job.yaml:5:35: student.layers[1].conv: a kernel of 3 does not fit 2x2 pixels");
    refuse(LAYERS("8", "[relu, {dense: 4}]"),
           "student.layers[1].dense: its input is still a picture of 8x8; put flatten");
    refuse(LAYERS("8", "[relu]"),
           "student.layers: the last layer leaves a picture of 8x8; end with global_avg_pool");
    refuse(LAYERS("32", "[{dropout: 1}, flatten]"), "student.layers[0].dropout: expected a number");
    refuse(LAYERS("32", "[{dense: 0}]"), "student.layers[0].dense: expected a whole number");
    refuse(LAYERS("32", "[relu, flatten], dropout: 0.1"),
           "student.dropout: only with `model: shallow");
    refuse(LEAST "teacher: {model: mlp, layers: [flatten]}\n",
           "job.yaml:5:31: teacher.layers: only with `model: layers`");
    refuse(LEAST "teacher: {model: layers, fine_tune: {}}\n", "teacher.layers: missing");
    char text[4096];
    int n = snprintf(text, sizeof text, LEAST "teacher: {fine_tune: {}, layers: [flatten");
    for (int i = 0; i < 64; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, ", relu");
    snprintf(text + n, sizeof text - (size_t)n, "]}\n");
    refuse(text, "teacher.layers: expected 1 to 64 layers, found 65");
}

static void test_job_onnx(void **state)
{
    (void)state;
    kd_job j, other;
    const char *files[KD_JOB_MAX_FILES];
    accept(LEAST "teacher: {onnx: t/a.onnx, size: 96}\n", &j);
    assert_string_equal(j.teachers[0].model.model, "onnx");
    assert_string_equal(j.teachers[0].model.weights, "t/a.onnx");
    assert_int_equal(kd_job_local_files(&j, files), 1);
    assert_string_equal(files[0], "t/a.onnx");
    round_trip(&j);
    accept(LEAST "teacher: {model: onnx, weights: t/a.onnx, size: 96}\n", &other);
    assert_memory_equal(&j, &other, sizeof j);
    accept(LEAST "teacher: {model: onnx, onnx: t/a.onnx, size: 96}\n", &other);
    assert_memory_equal(&j, &other, sizeof j);
    refuse(LEAST "teacher: {onnx: a, weights: b}\n",
           "job.yaml:5:29: teacher.weights: given beside teacher.onnx");
    refuse(LEAST "teacher: {model: lenet, onnx: a}\n", "teacher.onnx: only with `model: onnx`");
    refuse(LEAST "teacher: {model: onnx, fine_tune: {}}\n",
           "job.yaml:5:10: teacher.weights: missing: the ONNX file (teacher.onnx)");
    refuse(LEAST "teacher: {onnx: a, layers: [flatten]}\n", "only with `model: layers`");
    refuse(LEAST "teacher: {onnx: \"\"}\n", "teacher.weights: missing: the ONNX file");
}

static void test_job_teachers(void **state)
{
    (void)state;
    kd_job j;
#define LIST(more)                                                                                 \
    "name: x\nseed: 4\ndata: {labelled: {path: p, train: t, val: v}}\nstudent: {model: mlp}\n"     \
    "teacher:\n  - {model: lenet, weights: w/a, weight: 3, fine_tune: {epochs: 2, seed: 8}}\n"     \
    "  - {onnx: w/b.onnx, preprocess: imagenet, size: 64}\n"                                       \
    "  - {layers: [flatten], fine_tune: {optimizer: {name: sgd, momentum: 0.9}}" more "}\n"
    accept(LIST(""), &j);
    assert_int_equal(j.n_teachers, 3);
    assert_string_equal(j.teachers[0].model.model, "lenet");
    assert_string_equal(j.teachers[1].model.model, "onnx");
    assert_string_equal(j.teachers[2].model.model, "layers");
    kd_assert_close(j.teachers[0].weight, 3, 0, 0);
    kd_assert_close(j.teachers[1].weight, 1, 0, 0);
    assert_int_equal(j.teachers[0].train.epochs, 2);
    assert_true(j.teachers[0].train.seed == 8);
    assert_false(j.teachers[1].fine_tune);
    assert_int_equal(j.teachers[1].train.epochs, 0);
    assert_int_equal(j.teachers[1].model.size, 64);
    assert_int_equal(j.teachers[1].model.preprocess, KD_PRE_IMAGENET);
    assert_int_equal(j.teachers[0].model.preprocess, KD_PRE_SYMMETRIC);
    assert_int_equal(j.teachers[2].train.epochs, 4);
    assert_true(j.teachers[2].train.seed == 4);
    kd_assert_close(j.teachers[2].train.optimizer.momentum, 0.9, 0, 0);
    for (int i = 0; i < 3; i++)
        kd_assert_close(j.teachers[i].train.loss.ce, 1, 0, 0);
    static const kd_teacher_spec nobody;
    assert_memory_equal(&j.teachers[3], &nobody, sizeof nobody);
    round_trip(&j);
    const char *files[KD_JOB_MAX_FILES];
    assert_int_equal(kd_job_local_files(&j, files), 2);
    assert_string_equal(files[1], "w/b.onnx");
    enum kd_stage_kind kinds[KD_MAX_STAGES];
    assert_int_equal(kd_job_stages(&j, kinds), 6);
    assert_string_equal(kd_stage_name(kinds[2]), "teacher3");

    static const char *const sets[] = {"teacher[0].weights=w/z", "teacher.1.size=32",
                                       "teacher[2].fine_tune.epochs=9", "teacher[2].layers[0]=relu",
                                       "teacher[2].layers=[relu, flatten]"};
    accept_sets(LIST(""), sets, (int)KD_COUNT(sets), &j);
    assert_string_equal(j.teachers[0].model.weights, "w/z");
    assert_int_equal(j.teachers[1].model.size, 32);
    assert_int_equal(j.teachers[2].train.epochs, 9);
    assert_int_equal(j.teachers[2].model.n_layers, 2);
    refuse_set(LIST(""), "teacher.weights=w",
               "--set teacher.weights=w: `teacher` is a list of 3; name an element, as in "
               "teacher[0]");
    refuse_set(LIST(""), "teacher[3].weights=w", "`teacher` is a list of 3");
    refuse_set(LIST(""), "teacher[99999999999999999999].weights=w", "`teacher` is a list of 3");

    /* Complaints name the teacher that they are about. */
    refuse(LIST(", wieght: 2"), "teacher[2].wieght: unknown key; did you mean `weight`?");
    refuse(LIST(", weight: 0"), "teacher[2].weight: expected a number above 0");
    refuse(LIST(", width: 1"), "teacher[2].width: only with");
    refuse_set(LIST(""), "teacher[1].fine_tune={slots: 3}",
               "teacher[1].fine_tune.slots: expected a power of two, found 3");
    refuse_set(LIST(""), "teacher[2].layers=[{dense: 2}]",
               "teacher[2].layers[0].dense: its input is still a picture");
    refuse_set(LIST(""), "teacher[2]={model: mlp}", "teacher[2]: neither weights nor fine_tune");
    refuse_set(LIST(""), "teacher[0]={weights: a}", "teacher[0].model: missing");
    refuse_set(LIST(""), "teacher[0].fine_tune.loss.label_smoothing=0.1",
               "teacher[0].fine_tune.loss.label_smoothing: a teacher trained");
    refuse_set(LIST(""), "teacher=[]", "teacher: expected 1 to 4 mappings of keys in the list");
    refuse_set(LIST(""), "teacher=[{model: mlp}, {model: mlp}, {model: mlp}, {}, {}]", "found 5");
    refuse_set(LIST(""), "teacher=[mlp]", "teacher[0]: expected a mapping of keys, found `mlp`");
    refuse_set(LIST(""), "teacher=[[]]", "teacher[0]: expected a mapping of keys, found a list");
    refuse_set(LIST(""), "teacher=mlp", "teacher: expected a mapping of keys, found `mlp`");
    refuse(LIST("") "teacher: {}\n", "teacher: written twice");
#undef LIST
    /* A list of one is the same job as the one. */
    kd_job one;
    accept(LEAST "teacher: [{model: lenet, weights: w}]\n", &j);
    accept(LEAST "teacher: {model: lenet, weights: w}\n", &one);
    assert_memory_equal(&j, &one, sizeof j);
    refuse(LEAST "teacher: [{model: lenet}]\n", "teacher[0]: neither weights");
    round_trip(&j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_job_augment),        cmocka_unit_test(test_job_augment_refused),
        cmocka_unit_test(test_job_export),         cmocka_unit_test(test_job_layers),
        cmocka_unit_test(test_job_layers_refused), cmocka_unit_test(test_job_onnx),
        cmocka_unit_test(test_job_teachers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

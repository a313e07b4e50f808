/* `distill predict`: networks from files of both kinds on pictures, in every form of output, with
 * any number of threads. */
#include "client_run.h"

#include "client_nets.h"

#include "data/flowers.h"
#include "data/view.h"
#include "predict_model.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SIZE 24
#define CLASSES 4
#define PICTURES 7

static char *g_out, *g_err;
static char g_pictures[300];
static struct kd_client_nets g_nets;
static const char *const g_classes[CLASSES] = {"daisy", "a, \"b\"", "roses", "tulips"};

static void name_picture(int i, char out[400])
{
    snprintf(out, 400, "%s/%s%d.png", g_pictures, i < 4 ? "a/p" : "b/p", i);
}

static int set_up(void **state)
{
    (void)state;
    const kd_model_file_info info = kd_client_nets_info(SIZE, g_classes, CLASSES);
    kd_diag diag = {0};
    char path[400];
    kd_client_nets_make(&g_nets, SIZE, &info);
    snprintf(g_pictures, sizeof g_pictures, "%s/pictures", g_nets.dir);
    static const char *const folders[] = {"", "/a", "/b"};
    for (size_t i = 0; i < KD_COUNT(folders); i++) {
        snprintf(path, sizeof path, "%s%s", g_pictures, folders[i]);
        kd_assert_ok(kd_file_mkdirs(path, &diag), &diag);
    }
    for (int i = 0; i < PICTURES; i++) {
        name_picture(i, path);
        kd_client_draw(path, SIZE, i % KD_FLOWERS_CLASSES, i);
    }
    snprintf(path, sizeof path, "%s/a/notes.txt", g_pictures);
    kd_assert_ok(kd_file_write(path, "x", 1, &diag), &diag);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kd_client_nets_free(&g_nets);
    return 0;
}

#define DISTILL(...)                                                                               \
    kd_run_distill(g_nets.dir, &g_out, &g_err, (const char *[]){"predict", __VA_ARGS__, NULL})
/* The network's answer by another way: one plan for all pictures at once. */
static void expected(double probability[PICTURES][CLASSES])
{
    kd_diag diag = {0};
    kd_plan *plan = NULL;
    static float input[PICTURES * SIZE * SIZE * 3] __attribute__((aligned(64)));
    static float logits[PICTURES * CLASSES] __attribute__((aligned(64)));
    for (int i = 0; i < PICTURES; i++) {
        uint8_t rgb[SIZE * SIZE * 3];
        kd_flowers_draw(3, SIZE, i % KD_FLOWERS_CLASSES, (uint32_t)i, rgb);
        for (size_t k = 0; k < sizeof rgb; k++)
            input[(size_t)i * sizeof rgb + k] = (float)rgb[k] / 127.5F - 1;
    }
    kd_engine_thread();
    kd_assert_ok(kd_plan_new(g_nets.graph, PICTURES, KD_PLAN_INFER, &plan, &diag), &diag);
    kd_assert_ok(kd_plan_load(plan, g_nets.vector, &diag), &diag);
    kd_assert_ok(kd_plan_forward(plan, input, logits, &diag), &diag);
    kd_plan_free(plan);
    for (int i = 0; i < PICTURES; i++) {
        double sum = 0;
        for (int c = 0; c < CLASSES; c++)
            sum += exp((double)logits[i * CLASSES + c]);
        for (int c = 0; c < CLASSES; c++)
            probability[i][c] = exp((double)logits[i * CLASSES + c]) / sum;
    }
}

static void check_lines(const char *text)
{
    double probability[PICTURES][CLASSES];
    char path[400];
    expected(probability);
    for (int i = 0; i < PICTURES; i++) {
        const char *end = strchr(text, '\n');
        assert_non_null(end);
        json_t *o = json_loadb(text, (size_t)(end - text), 0, NULL);
        assert_non_null(o);
        name_picture(i, path);
        assert_string_equal(json_string_value(json_object_get(o, "picture")), path);
        const json_t *guesses = json_object_get(o, "guesses");
        assert_int_equal(json_array_size(guesses), CLASSES);
        double before = 1;
        for (size_t k = 0; k < CLASSES; k++) {
            const json_t *g = json_array_get(guesses, k);
            int c = (int)json_integer_value(json_object_get(g, "index"));
            double p = json_number_value(json_object_get(g, "probability"));
            kd_assert_close(p, probability[i][c], 1e-5, 1e-7);
            assert_true(p <= before);
            before = p;
            assert_string_equal(json_string_value(json_object_get(g, "class")), g_classes[c]);
        }
        json_decref(o);
        text = end + 1;
    }
    assert_string_equal(text, "");
}

static void test_predict_ours_and_onnx(void **state)
{
    (void)state;
    static const char *const threads[] = {"1", "3", "16"};
    char *first = NULL;
    for (size_t i = 0; i < KD_COUNT(threads); i++) {
        assert_int_equal(
            DISTILL(g_nets.ours, g_pictures, "-o", "json", "--top", "9", "--threads", threads[i]),
            0);
        check_lines(g_out);
        /* The same bits whatever the number of threads. */
        if (first)
            assert_string_equal(g_out, first);
        else
            first = strdup(g_out);
        kd_run_drop(&g_out, &g_err);
    }
    free(first);
    assert_int_equal(DISTILL(g_nets.onnx, g_pictures, "-o", "json", "--top", "4"), 0);
    check_lines(g_out);
    kd_run_drop(&g_out, &g_err);
}

static void test_predict_bare_onnx(void **state)
{
    (void)state;
    char classes[300], picture[400];
    kd_diag diag = {0};
    name_picture(0, picture);
    assert_int_equal(DISTILL(g_nets.bare, picture), 2);
    kd_assert_has(g_err, "--preprocess");
    kd_run_drop(&g_out, &g_err);
    snprintf(classes, sizeof classes, "%s/classes.txt", g_nets.dir);
    kd_assert_ok(kd_file_write(classes, "daisy\r\na, \"b\"\nroses\ntulips\n", 27, &diag), &diag);
    assert_int_equal(DISTILL(g_nets.bare, g_pictures, "-o", "json", "--top", "4", "--preprocess",
                             "symmetric", "--classes", classes),
                     0);
    check_lines(g_out);
    kd_run_drop(&g_out, &g_err);
    kd_assert_ok(kd_file_write(classes, "daisy\nroses\n", 12, &diag), &diag);
    assert_int_equal(DISTILL(g_nets.bare, picture, "--preprocess", "unit", "--classes", classes),
                     2);
    kd_assert_has(g_err, "names 2 classes, the network has 4");
    kd_run_drop(&g_out, &g_err);
    assert_int_equal(DISTILL(g_nets.bare, picture, "--preprocess", "unit", "-n", "1"), 0);
    kd_assert_has(g_out, "GUESS 1");
    kd_assert_has(g_err, "does not name its classes");
    kd_run_drop(&g_out, &g_err);
    assert_int_equal(DISTILL(g_nets.ours, picture, "--size", "99"), 2);
    kd_assert_has(g_err, "24 x 24");
    kd_run_drop(&g_out, &g_err);
    assert_int_equal(DISTILL(g_nets.ours, picture, "--preprocess", "upside-down"), 2);
    kd_run_drop(&g_out, &g_err);
    assert_int_equal(DISTILL(g_nets.ours, picture, "-o", "xml"), 2);
    kd_run_drop(&g_out, &g_err);
}

/* Names that no file could hold, or that do not tell classes apart. */
static void test_predict_bad_names(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said;
    } cases[] = {
        {"daisy\n\nroses\ntulips\n", "classes.txt:2: the name of the class is empty"},
        {"daisy\n\xff\xfe\nroses\ntulips", "classes.txt:2: the name of the class is not UTF-8"},
        {"daisy\nroses\ntulips\nroses\n", "`roses` stands there twice"},
        {"", "names 0 classes"}};
    static const char nul[] = "a\nb\nc\0d\ne";
    char classes[300], picture[400];
    kd_diag diag = {0};
    name_picture(0, picture);
    snprintf(classes, sizeof classes, "%s/classes.txt", g_nets.dir);
    for (size_t i = 0; i <= KD_COUNT(cases); i++) {
        const bool text = i < KD_COUNT(cases);
        kd_assert_ok(kd_file_write(classes, text ? cases[i].text : nul,
                                   text ? strlen(cases[i].text) : sizeof nul - 1, &diag),
                     &diag);
        assert_int_equal(DISTILL(g_nets.ours, picture, "--classes", classes), 2);
        kd_assert_has(g_err, text ? cases[i].said : "NUL byte");
        kd_run_drop(&g_out, &g_err);
    }
}

static void test_predict_bad_pictures(void **state)
{
    (void)state;
    char good[400], torn[400];
    kd_diag diag = {0};
    name_picture(2, good);
    snprintf(torn, sizeof torn, "%s/torn.png", g_nets.dir);
    char *bytes;
    size_t len;
    kd_assert_ok(kd_file_read(good, 1 << 20, &bytes, &len, &diag), &diag);
    kd_assert_ok(kd_file_write(torn, bytes, len / 2, &diag), &diag);
    free(bytes);
    assert_int_equal(DISTILL(g_nets.ours, good, torn, "/no/such.jpg", good, "-o", "csv"), 1);
    kd_assert_has(g_err, "torn.png is passed over");
    kd_assert_has(g_err, "/no/such.jpg is passed over");
    kd_assert_has(g_err, "2 of 4 pictures could not be read");
    kd_assert_has(g_out, "picture,rank,class,index,probability\r\n");
    kd_assert_has(g_out, ",3,\"");
    const char *second = strstr(strstr(g_out, ",3,\"") + 1, ",3,\"");
    assert_non_null(second);
    assert_null(strstr(second + 1, ",3,\""));
    assert_null(strstr(g_out, "torn"));
    kd_run_drop(&g_out, &g_err);
    assert_int_equal(DISTILL(g_nets.ours, good, torn, "-o", "json"), 1);
    kd_assert_has(g_out, "\"error\"");
    kd_run_drop(&g_out, &g_err);
    assert_int_equal(DISTILL(g_nets.ours, good, torn), 1);
    kd_assert_has(g_out, "PICTURE");
    kd_assert_has(g_out, "p2.png");
    kd_run_drop(&g_out, &g_err);
}

static void test_predict_no_network(void **state)
{
    (void)state;
    char picture[400], path[300];
    kd_diag diag = {0};
    name_picture(0, picture);
    assert_int_equal(DISTILL("/no/such.safetensors", picture), 1);
    kd_run_drop(&g_out, &g_err);
    assert_int_equal(DISTILL(g_nets.dir, picture), 2);
    kd_assert_has(g_err, "is a folder");
    kd_run_drop(&g_out, &g_err);
    assert_int_equal(DISTILL(picture, picture), 1);
    kd_run_drop(&g_out, &g_err);
    /* Weights alone do not say what network they belong to. */
    snprintf(path, sizeof path, "%s/weights.safetensors", g_nets.dir);
    float one = 1;
    kd_st_item item = {.name = "w", .ndim = 1, .shape = {1}, .data = &one};
    kd_assert_ok(kd_st_write(path, &item, 1, NULL, 0, &diag), &diag);
    assert_int_equal(DISTILL(path, picture), 1);
    kd_assert_has(g_err, "metadata");
    kd_run_drop(&g_out, &g_err);
    /* The one that test_predict_bad_pictures tore is found below the folder, too. */
    assert_int_equal(DISTILL(g_nets.ours, g_nets.dir), 1);
    kd_assert_has(g_err, "1 of 8 pictures could not be read");
    kd_run_drop(&g_out, &g_err);
    snprintf(path, sizeof path, "%s/empty", g_nets.dir);
    kd_assert_ok(kd_file_mkdirs(path, &diag), &diag);
    assert_int_equal(DISTILL(g_nets.ours, path), 1);
    kd_assert_has(g_err, "there is no picture");
    kd_run_drop(&g_out, &g_err);
}

static void test_predict_top(void **state)
{
    (void)state;
    kd_prediction out[4];
    kd_predict_top((const float[]){1, 3, 3, 2}, 4, 3, out);
    assert_int_equal(out[0].index, 1);
    assert_int_equal(out[1].index, 2);
    assert_int_equal(out[2].index, 3);
    kd_assert_close(out[0].probability, 0.3994863, 1e-6, 0);
    kd_assert_close(out[0].probability, out[1].probability, 0, 0);
    /* Large logits neither overflow nor vanish. */
    kd_predict_top((const float[]){-1e4F, 1e4F}, 2, 2, out);
    assert_int_equal(out[0].index, 1);
    kd_assert_close(out[0].probability, 1, 0, 0);
    kd_assert_close(out[1].probability, 0, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_predict_ours_and_onnx), cmocka_unit_test(test_predict_bare_onnx),
        cmocka_unit_test(test_predict_bad_names),     cmocka_unit_test(test_predict_bad_pictures),
        cmocka_unit_test(test_predict_no_network),    cmocka_unit_test(test_predict_top),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* The labelled pictures that `evaluate` takes: IDX, CIFAR and npy files, links out of the folder,
 * and grey ones for a network of one channel. */
#include "client_run.h"

#include "client_nets.h"

#include "engine/plan.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZE 32
#define CLASSES 10
#define SAMPLES 12

static char *g_out, *g_err, *g_dir;
static uint8_t g_rgb[SAMPLES][SIZE * SIZE][3], g_labels[SAMPLES];

/* A network of `channels`, and its file. */
typedef struct net {
    kd_graph *graph;
    float *vector;
    char path[400];
} net;

static net g_colour, g_grey;

static const char *at(const char *name)
{
    static char paths[4][500];
    static int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", g_dir, name);
    return path;
}

static void make(net *n, int channels)
{
    static const char *const names[CLASSES] = {"nought", "one", "two",   "three", "four",
                                               "five",   "six", "seven", "eight", "nine"};
    const kd_model_config cfg = {
        .model = "lenet", .size = SIZE, .channels = channels, .classes = CLASSES};
    const kd_model_file_info info = {.model = "lenet",
                                     .has_preprocess = true,
                                     .preprocess = KD_PRE_UNIT,
                                     .size = SIZE,
                                     .grey = channels == 1,
                                     .classes = (char **)(uintptr_t)names,
                                     .n_classes = CLASSES};
    kd_diag diag = {0};
    kd_assert_ok(kd_model_build(&cfg, &n->graph, &diag), &diag);
    n->vector = malloc(n->graph->vector_len * sizeof *n->vector);
    kd_graph_init(n->graph, 3, n->vector);
    snprintf(n->path, sizeof n->path, "%s/c%d.onnx", g_dir, channels);
    kd_write_onnx(n->path, n->graph, n->vector, &info);
}

static void put(const char *name, const void *head, size_t head_len, const void *data, size_t len)
{
    char *all = malloc(head_len + len + 1);
    kd_diag diag = {0};
    memcpy(all, head, head_len);
    memcpy(all + head_len, data, len);
    kd_assert_ok(kd_file_write(at(name), all, head_len + len, &diag), &diag);
    free(all);
}

static int set_up(void **state)
{
    (void)state;
    static const uint8_t images[] = {0, 0, 8, 3, 0, 0, 0, SAMPLES, 0, 0, 0, SIZE, 0, 0, 0, SIZE};
    static const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, SAMPLES};
    static uint8_t grey[SAMPLES][SIZE * SIZE], batch[SAMPLES][1 + 3 * SIZE * SIZE];
    char head[2][128];
    g_dir = kd_test_mkdir();
    make(&g_colour, 3);
    make(&g_grey, 1);
    for (int i = 0; i < SAMPLES; i++) {
        g_labels[i] = batch[i][0] = (uint8_t)(i % CLASSES);
        for (int k = 0; k < SIZE * SIZE; k++) {
            grey[i][k] = (uint8_t)(k * (i + 3) / 4);
            for (int c = 0; c < 3; c++) {
                g_rgb[i][k][c] = (uint8_t)(k * (i + 1) / (c + 2) + 40 * c);
                batch[i][1 + c * SIZE * SIZE + k] = g_rgb[i][k][c];
            }
        }
    }
    put("images", images, sizeof images, grey, sizeof grey);
    put("labels", labels, sizeof labels, g_labels, sizeof g_labels);
    put("test_batch.bin", "", 0, batch, sizeof batch);
    const char *const shapes[] = {"12, 32, 32, 3", "12,"};
    for (int i = 0; i < 2; i++) {
        memcpy(head[i], "\x93NUMPY\x01\x00\x76\x00", 10);
        const int n =
            snprintf(head[i] + 10, 118, "{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }",
                     shapes[i]);
        memset(head[i] + 10 + n, ' ', (size_t)(117 - n));
        head[i][127] = '\n';
    }
    put("x.npy", head[0], 128, g_rgb, sizeof g_rgb);
    put("y.npy", head[1], 128, g_labels, sizeof g_labels);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    net *const nets[] = {&g_colour, &g_grey};
    for (size_t i = 0; i < KD_COUNT(nets); i++) {
        kd_graph_free(nets[i]->graph);
        free(nets[i]->vector);
    }
    kd_test_rmdir(g_dir);
    return 0;
}

#define EXPECT(code, ...)                                                                          \
    kd_run_expect(g_dir, &g_out, &g_err, code, (const char *[]){__VA_ARGS__, NULL})

/* The loss by another way, of g_rgb or of the grey pictures. */
static double loss_of(const net *n, bool grey)
{
    static float input[3 * SIZE * SIZE] __attribute__((aligned(64)));
    float z[CLASSES];
    double loss = 0;
    kd_plan *plan;
    kd_diag diag = {0};
    const int channels = n->graph->nodes[0].c;
    kd_engine_thread();
    kd_assert_ok(kd_plan_new_infer(n->graph, 1, n->vector, &plan, &diag), &diag);
    for (int i = 0; i < SAMPLES; i++) {
        for (int k = 0; k < SIZE * SIZE; k++)
            for (int c = 0; c < channels; c++) {
                const uint8_t *p = g_rgb[i][k];
                const double luma = round(0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]);
                const double v = grey            ? (double)(uint8_t)(k * (i + 3) / 4)
                                 : channels == 1 ? luma
                                                 : (double)p[c];
                input[k * channels + c] = (float)v / 255.0F;
            }
        kd_assert_ok(kd_plan_forward(plan, input, z, &diag), &diag);
        double sum = 0;
        for (int c = 0; c < CLASSES; c++)
            sum += exp((double)z[c]);
        loss += (log(sum) - (double)z[g_labels[i]]) / SAMPLES;
    }
    kd_plan_free(plan);
    return loss;
}

/* What `evaluate -o json` has printed. tolerance: a rounding of grey may fall the other way. */
static void check(double loss, double tolerance)
{
    json_t *o = json_loads(g_out, 0, NULL);
    assert_non_null(o);
    assert_int_equal(json_integer_value(json_object_get(o, "samples")), SAMPLES);
    kd_assert_close(json_number_value(json_object_get(o, "loss")), loss, tolerance, 0);
    json_decref(o);
    kd_run_drop(&g_out, &g_err);
}

static void test_labelled_formats(void **state)
{
    (void)state;
    const net *const nets[] = {&g_colour, &g_grey};
    for (size_t i = 0; i < KD_COUNT(nets); i++) {
        const net *n = nets[i];
        EXPECT(0, "evaluate", n->path, g_dir, "--data-format", "idx", "--list", "images",
               "--labels", "labels", "-o", "json");
        check(loss_of(n, true), 1e-6);
        EXPECT(0, "evaluate", n->path, g_dir, "--data-format", "cifar", "-o", "json");
        check(loss_of(n, false), i ? 1e-3 : 1e-6);
        EXPECT(0, "evaluate", n->path, g_dir, "--data-format", "npy", "--list", "x.npy", "--labels",
               "y.npy", "-o", "json");
        check(loss_of(n, false), i ? 1e-3 : 1e-6);
    }
    EXPECT(2, "evaluate", g_colour.path, g_dir, "--data-format", "tar");
    kd_run_drop(&g_out, &g_err);
    EXPECT(2, "evaluate", g_colour.path, g_dir, "--data-format", "idx");
    kd_assert_has(g_err, "needs --list and --labels");
    kd_run_drop(&g_out, &g_err);
    EXPECT(2, "evaluate", g_colour.path, g_dir, "--labels", "labels");
    kd_run_drop(&g_out, &g_err);
}

/* The other verbs with a network of one channel. */
static void test_labelled_grey(void **state)
{
    (void)state;
    kd_client_draw(at("p.png"), SIZE, 1, 1);
    EXPECT(0, "predict", g_grey.path, at("p.png"));
    kd_run_drop(&g_out, &g_err);
    EXPECT(2, "predict", g_grey.path, at("p.png"), "--preprocess", "imagenet");
    kd_assert_has(g_err, "grey");
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "export", g_grey.path, "-f", "c", "-O", at("g.c"));
    kd_assert_has(g_out, "g_run(), ");
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "export", g_grey.path, "-f", "safetensors", "-O", at("g.safetensors"));
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "inspect", at("g.safetensors"), "-o", "json");
    kd_assert_has(g_out, "\"channels\": \"grey\"");
    kd_run_drop(&g_out, &g_err);
    EXPECT(1, "serve", g_grey.path, "--listen", "127.0.0.1:0");
    kd_assert_has(g_err, "grey pictures, which are not served");
    kd_run_drop(&g_out, &g_err);
}

/* Links to pictures and folders elsewhere, to nothing, and in a circle. */
static void test_labelled_links(void **state)
{
    (void)state;
    kd_diag diag = {0};
    static const char *const folders[] = {"else/one", "links/one", "odd"};
    for (size_t i = 0; i < KD_COUNT(folders); i++)
        kd_assert_ok(kd_file_mkdirs(at(folders[i]), &diag), &diag);
    kd_client_draw(at("else/one/a.png"), SIZE, 1, 1);
    assert_int_equal(symlink("../../else/one/a.png", at("links/one/b.png")), 0);
    assert_int_equal(symlink(at("else/one"), at("links/two")), 0);
    assert_int_equal(symlink("..", at("links/one/up")), 0);
    assert_int_equal(symlink("links", at("start")), 0);
    EXPECT(0, "evaluate", g_colour.path, at("start"), "-o", "json");
    kd_assert_has(g_out, "\"samples\": 2");
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "predict", g_colour.path, at("start"), "-o", "csv", "--top", "1");
    kd_assert_has(g_out, "one/b.png");
    kd_assert_has(g_out, "two/a.png");
    kd_run_drop(&g_out, &g_err);
    assert_int_equal(symlink("nowhere", at("odd/c.png")), 0);
    EXPECT(1, "predict", g_colour.path, at("odd"));
    kd_assert_has(g_err, "c.png is passed over");
    kd_run_drop(&g_out, &g_err);
}

/* A job's data folder without its list. */
static void test_labelled_hint(void **state)
{
    (void)state;
    kd_diag diag = {0};
    kd_assert_ok(kd_file_mkdirs(at("job/images/one"), &diag), &diag);
    kd_client_draw(at("job/images/one/a.png"), SIZE, 1, 1);
    kd_assert_ok(kd_file_write(at("job/classes.txt"), "nought\none\n", 11, &diag), &diag);
    kd_assert_ok(kd_file_write(at("job/val.txt"), "images/one/a.png\t1\n", 19, &diag), &diag);
    EXPECT(1, "evaluate", g_colour.path, at("job"));
    kd_assert_has(g_err, "--list val.txt");
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "evaluate", g_colour.path, at("job"), "--list", "val.txt");
    kd_run_drop(&g_out, &g_err);
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_labelled_formats),
        cmocka_unit_test(test_labelled_grey),
        cmocka_unit_test(test_labelled_links),
        cmocka_unit_test(test_labelled_hint),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

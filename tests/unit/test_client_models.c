/* What `distill` does with models' files: inspect, evaluate, bench, export. */
#include "client_models.h"

#include "data/flowers.h"
#include "data/resize.h"
#include "engine/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- inspect */

static void test_models_inspect(void **state)
{
    (void)state;
    const char *const files[] = {g_nets.ours, g_nets.onnx};
    for (size_t i = 0; i < KD_COUNT(files); i++) {
        EXPECT(0, "inspect", files[i], "-o", "json");
        json_t *o = kd_run_json(g_out, g_err);
        const json_t *meta = json_object_get(o, "metadata");
        assert_int_equal((int)kd_run_number(o, "macs"), (int)kd_graph_macs(g_nets.graph));
        assert_int_equal((int)kd_run_number(o, "trained"), (int)g_nets.graph->trained_len);
        assert_int_equal((int)kd_run_number(o, "parameter_bytes"),
                         4 * (int)g_nets.graph->vector_len);
        assert_int_equal((int)kd_run_number(o, "classes"), CLASSES);
        assert_true(json_is_true(json_object_get(o, "distilld")));
        assert_false(json_is_true(json_object_get(o, "int8")));
        assert_int_equal(json_array_size(json_object_get(o, "layers")), g_nets.graph->n_nodes);
        assert_string_equal(json_string_value(json_object_get(meta, "distilld.job")),
                            "0123456789ab");
        assert_string_equal(json_string_value(json_object_get(meta, "mean")), "0.5,0.5,0.5");
        assert_string_equal(json_string_value(json_object_get(meta, "channels")), "rgb");
        const json_t *names = json_object_get(meta, "classes");
        assert_string_equal(json_string_value(json_array_get(names, 1)), "daisy");
        json_decref(o);
        kd_run_drop(&g_out, &g_err);
    }
    EXPECT(0, "inspect", g_nets.ours);
    kd_assert_has(g_out, "WEIGHT BITS");
    kd_assert_has(g_out, "conv2");
    kd_assert_has(g_out, "mobilenet_v2 0011223344556677");
    kd_run_drop(&g_out, &g_err);
    /* What is missing is said. */
    EXPECT(0, "inspect", g_nets.bare);
    kd_assert_has(g_out, "names the file does not say");
    kd_assert_has(g_out, "does not say how its pictures are prepared");
    kd_run_drop(&g_out, &g_err);
}

static void test_models_hostile(void **state)
{
    (void)state;
    char path[400], *bytes;
    size_t len;
    kd_diag diag = {0};
    const char *const verbs[] = {"inspect", "bench"};
    const char *const files[] = {g_nets.ours, g_nets.onnx};
    for (size_t f = 0; f < KD_COUNT(files); f++) {
        kd_assert_ok(kd_file_read(files[f], 1 << 24, &bytes, &len, &diag), &diag);
        snprintf(path, sizeof path, "%s/torn%zu%s", g_nets.dir, f, f ? ".onnx" : ".safetensors");
        kd_assert_ok(kd_file_write(path, bytes, len / 2, &diag), &diag);
        for (size_t v = 0; v < KD_COUNT(verbs); v++) {
            EXPECT(1, verbs[v], path);
            kd_assert_has(g_err, "torn");
            assert_string_equal(g_out, "");
            kd_run_drop(&g_out, &g_err);
        }
        free(bytes);
    }
    /* One changed value is noticed by the digest. */
    kd_assert_ok(kd_file_read(g_nets.ours, 1 << 24, &bytes, &len, &diag), &diag);
    bytes[len - 1] ^= 0x01;
    snprintf(path, sizeof path, "%s/changed.safetensors", g_nets.dir);
    kd_assert_ok(kd_file_write(path, bytes, len, &diag), &diag);
    free(bytes);
    EXPECT(1, "inspect", path);
    kd_assert_has(g_err, "damaged or was changed");
    kd_run_drop(&g_out, &g_err);
    /* Programs of others change ONNX files and keep what stands in them. */
    float *other = malloc(g_nets.graph->vector_len * sizeof *other);
    memcpy(other, g_nets.vector, g_nets.graph->vector_len * sizeof *other);
    other[0] += 1;
    snprintf(path, sizeof path, "%s/changed.onnx", g_nets.dir);
    kd_write_onnx(path, g_nets.graph, other,
                  &(kd_model_file_info){.digest = "00112233445566778899aabbccddeeff"});
    free(other);
    EXPECT(0, "inspect", path, "-o", "json");
    kd_assert_has(g_err, "changed by another program");
    assert_null(strstr(g_out, "distilld.digest"));
    kd_run_drop(&g_out, &g_err);
    EXPECT(1, "inspect", "/no/such.onnx");
    kd_run_drop(&g_out, &g_err);
}

/* ---- evaluate */

/* The figures by another way. */
static void expected(size_t *correct, double *loss, int matrix[CLASSES][CLASSES])
{
    kd_diag diag = {0};
    kd_plan *plan;
    float input[SIZE * SIZE * 3], z[CLASSES];
    *correct = 0;
    *loss = 0;
    memset(matrix, 0, CLASSES * sizeof *matrix);
    kd_engine_thread();
    kd_assert_ok(kd_plan_new_infer(g_nets.graph, 1, g_nets.vector, &plan, &diag), &diag);
    for (int c = 0; c < CLASSES; c++)
        for (int i = 0; i < EACH; i++) {
            uint8_t rgb[SIZE * SIZE * 3];
            kd_flowers_draw(3, SIZE, c, (uint32_t)i, rgb);
            for (size_t k = 0; k < sizeof rgb; k++)
                input[k] = (float)rgb[k] / 127.5F - 1;
            kd_assert_ok(kd_plan_forward(plan, input, z, &diag), &diag);
            int best = 0;
            double sum = 0;
            for (int k = 0; k < CLASSES; k++) {
                best = z[k] > z[best] ? k : best;
                sum += exp((double)z[k]);
            }
            matrix[c][best]++;
            *correct += best == c;
            *loss += (log(sum) - (double)z[c]) / (CLASSES * EACH);
        }
    kd_plan_free(plan);
}

static void check_evaluation(void)
{
    size_t correct;
    double loss;
    int matrix[CLASSES][CLASSES];
    expected(&correct, &loss, matrix);
    json_t *o = kd_run_json(g_out, g_err);
    assert_int_equal((int)kd_run_number(o, "samples"), CLASSES * EACH);
    assert_int_equal((size_t)kd_run_number(o, "correct"), correct);
    assert_int_equal((int)kd_run_number(o, "top5"), CLASSES * EACH);
    kd_assert_close(kd_run_number(o, "loss"), loss, 1e-6, 0);
    assert_true(kd_run_number(o, "ece") >= 0 && kd_run_number(o, "ece") <= 1);
    for (size_t y = 0; y < CLASSES; y++) {
        const json_t *row = json_array_get(json_object_get(o, "confusion"), y);
        const json_t *c = json_array_get(json_object_get(o, "per_class"), y);
        int guessed = 0;
        for (size_t x = 0; x < CLASSES; x++) {
            assert_int_equal(json_integer_value(json_array_get(row, x)), matrix[y][x]);
            guessed += matrix[x][y];
        }
        assert_string_equal(json_string_value(json_object_get(c, "class")), g_classes[y]);
        kd_assert_close(kd_run_number(c, "recall"), matrix[y][y] / (double)EACH, 1e-12, 0);
        kd_assert_close(kd_run_number(c, "precision"), guessed ? matrix[y][y] / (double)guessed : 0,
                        1e-12, 0);
        kd_assert_close(kd_run_number(c, "f1"), 2.0 * matrix[y][y] / (EACH + guessed), 1e-12, 0);
    }
    json_decref(o);
}

static void test_models_evaluate(void **state)
{
    (void)state;
    char list[400], names[400];
    kd_diag diag = {0};
    const char *const files[] = {g_nets.ours, g_nets.onnx};
    for (size_t i = 0; i < KD_COUNT(files); i++)
        for (int threads = 1; threads <= 3; threads += 2) {
            EXPECT(0, "evaluate", files[i], g_data, "-o", "json", "--threads",
                   threads == 1 ? "1" : "3");
            check_evaluation();
            kd_run_drop(&g_out, &g_err);
        }
    /* A model of others: classes and preprocessing are given. */
    snprintf(names, sizeof names, "%s/names.txt", g_nets.dir);
    kd_assert_ok(kd_file_write(names, "tulips\ndaisy\nroses\n", 19, &diag), &diag);
    EXPECT(2, "evaluate", g_nets.bare, g_data);
    kd_assert_has(g_err, "--preprocess");
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "evaluate", g_nets.bare, g_data, "-o", "json", "--preprocess", "symmetric",
           "--classes", names);
    check_evaluation();
    kd_run_drop(&g_out, &g_err);
    /* So does a file of ours that lacks them. */
    char silent[400];
    snprintf(silent, sizeof silent, "%s/silent.safetensors", g_nets.dir);
    kd_write_safetensors(silent, g_nets.graph, g_nets.vector, &(kd_model_file_info){.model = "m"});
    EXPECT(2, "evaluate", silent, g_data);
    kd_assert_has(g_err, "--preprocess");
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "evaluate", silent, g_data, "-o", "json", "--preprocess", "symmetric", "--classes",
           names);
    check_evaluation();
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "evaluate", g_nets.ours, g_data);
    kd_assert_has(g_out, "PRECISION");
    kd_assert_has(g_out, "TRUE CLASS");
    kd_assert_has(g_out, "top-1");
    kd_run_drop(&g_out, &g_err);
    /* A list, a picture that is none, a class that the network does not know. */
    snprintf(list, sizeof list, "%s/val.txt", g_data);
    kd_assert_ok(kd_file_write(list, "daisy/p0.png\nroses/p1.png\ndaisy/none.png\n", 40, &diag),
                 &diag);
    EXPECT(1, "evaluate", g_nets.ours, g_data, "--list", "val.txt", "-o", "json");
    kd_assert_has(g_err, "none.png is passed over");
    json_t *o = kd_run_json(g_out, g_err);
    assert_int_equal((int)kd_run_number(o, "samples"), 2);
    assert_int_equal((int)kd_run_number(o, "skipped"), 1);
    json_decref(o);
    kd_run_drop(&g_out, &g_err);
    kd_assert_ok(kd_file_write(names, "tulips\ndaisy\nfuchsia\n", 21, &diag), &diag);
    EXPECT(2, "evaluate", g_nets.ours, g_data, "--classes", names);
    kd_assert_has(g_err, "class `roses`");
    kd_run_drop(&g_out, &g_err);
    EXPECT(1, "evaluate", g_nets.ours, "/no/such/folder");
    kd_run_drop(&g_out, &g_err);
    assert_int_equal(unlink(list), 0);
}

/* A file that says by way of which square its pictures come: the answers are those to pictures that
 * have been squeezed into it already. */
static void test_models_resized_from(void **state)
{
    (void)state;
    enum { WIDE = 71, FROM = 45 };
    char path[2][480], whole[400], squeezed[400], ours[400], c[400], *answers[3], *text;
    uint8_t *rgb = malloc(WIDE * WIDE * 3), *small = malloc(FROM * FROM * 3);
    kd_diag diag = {0};
    kd_model_file_info info = kd_client_nets_info(SIZE, g_classes, CLASSES);
    info.resized_from = FROM;
    snprintf(ours, sizeof ours, "%s/from.safetensors", g_nets.dir);
    kd_write_safetensors(ours, g_nets.graph, g_nets.vector, &info);
    snprintf(whole, sizeof whole, "%s/whole", g_nets.dir);
    snprintf(squeezed, sizeof squeezed, "%s/small", g_nets.dir);
    for (int k = 0; k < CLASSES * EACH; k++) {
        const kd_image im = {.w = WIDE, .h = WIDE, .rgb = rgb};
        for (int i = 0; i < 2; i++) {
            snprintf(path[i], sizeof path[i], "%s/%s", i ? squeezed : whole,
                     g_classes[k % CLASSES]);
            kd_assert_ok(kd_file_mkdirs(path[i], &diag), &diag);
            snprintf(path[i] + strlen(path[i]), 32, "/p%d.png", k);
        }
        kd_flowers_draw(3, WIDE, k % CLASSES, (uint32_t)k, rgb);
        kd_assert_ok(kd_image_write_png(path[0], rgb, WIDE, WIDE, &diag), &diag);
        kd_assert_ok(kd_image_resize(&im, FROM, FROM, small, &diag), &diag);
        kd_assert_ok(kd_image_write_png(path[1], small, FROM, FROM, &diag), &diag);
    }
    free(rgb);
    free(small);
    const struct {
        const char *model, *data;
    } runs[] = {{ours, whole}, {g_nets.ours, squeezed}, {g_nets.ours, whole}};
    double loss[KD_COUNT(runs)];
    for (size_t i = 0; i < KD_COUNT(runs); i++) {
        EXPECT(0, "evaluate", runs[i].model, runs[i].data, "-o", "json");
        json_t *o = kd_run_json(g_out, g_err);
        loss[i] = kd_run_number(o, "loss");
        json_decref(o);
        kd_run_drop(&g_out, &g_err);
        EXPECT(0, "predict", runs[i].model, runs[i].data, "-o", "csv", "--top", "3");
        /* But for the folder's name. */
        answers[i] = strdup(g_out);
        for (char *p = answers[i]; (p = strstr(p, "/small/"));)
            memcpy(p, "/whole/", 7);
        kd_run_drop(&g_out, &g_err);
    }
    assert_true(loss[0] == loss[1] && loss[0] != loss[2]);
    assert_string_equal(answers[0], answers[1]);
    assert_string_not_equal(answers[0], answers[2]);
    for (size_t i = 0; i < KD_COUNT(runs); i++)
        free(answers[i]);
    /* It stays with what is made of the file. */
    snprintf(c, sizeof c, "%s/from.onnx", g_nets.dir);
    EXPECT(0, "export", ours, "-f", "onnx", "-O", c);
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "evaluate", c, whole, "-o", "json");
    json_t *o = kd_run_json(g_out, g_err);
    assert_true(kd_run_number(o, "loss") == loss[0]);
    json_decref(o);
    kd_run_drop(&g_out, &g_err);
    snprintf(path[0], sizeof path[0], "%s/from.md", g_nets.dir);
    snprintf(c, sizeof c, "%s/from.c", g_nets.dir);
    EXPECT(0, "export", ours, "-f", "c", "-O", c, "--card", path[0], "--data", whole);
    kd_run_drop(&g_out, &g_err);
    text = kd_run_slurp(path[0]);
    kd_assert_has(text, "; of pictures squeezed into 45 x 45 first |");
    free(text);
    snprintf(c, sizeof c, "%s/from.h", g_nets.dir);
    text = kd_run_slurp(c);
    kd_assert_has(text, "each is squeezed into 45 x 45 pixels first");
    free(text);
}

static void test_models_bench(void **state)
{
    (void)state;
    EXPECT(0, "bench", g_nets.onnx, "--seconds", "1", "-o", "json");
    json_t *o = kd_run_json(g_out, g_err);
    const json_t *ms = json_object_get(o, "latency_ms");
    assert_true(kd_run_number(ms, "p50") > 0 &&
                kd_run_number(ms, "p50") <= kd_run_number(ms, "p90"));
    assert_true(kd_run_number(ms, "p90") <= kd_run_number(ms, "p99"));
    assert_true(kd_run_number(o, "throughput") > 0 && kd_run_number(o, "runs") >= 20);
    assert_int_equal((int)kd_run_number(o, "batch"), 64);
    json_decref(o);
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "bench", g_nets.ours, "--seconds", "1");
    kd_assert_has(g_out, "pictures a second");
    kd_run_drop(&g_out, &g_err);
    EXPECT(2, "bench", g_nets.ours, "--size", "48");
    kd_assert_has(g_err, "24 x 24 pixels, not of 48");
    kd_run_drop(&g_out, &g_err);
}

/* ---- export */

static void test_models_export(void **state)
{
    (void)state;
    char onnx[400], back[400], c[400], card[400], *text;
    kd_diag diag = {0};
    size_t len;
    snprintf(onnx, sizeof onnx, "%s/e.onnx", g_nets.dir);
    snprintf(back, sizeof back, "%s/e.safetensors", g_nets.dir);
    snprintf(c, sizeof c, "%s/my-net.c", g_nets.dir);
    snprintf(card, sizeof card, "%s/card.md", g_nets.dir);
    EXPECT(0, "export", g_nets.ours, "--format", "onnx", "-O", onnx);
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "export", onnx, "--format", "safetensors", "-O", back, "-o", "jsonl");
    kd_assert_has(g_out, "\"format\":\"safetensors\",\"bytes\":");
    kd_run_drop(&g_out, &g_err);
    EXPECT(2, "export", onnx, "--format", "safetensors", "-o", back);
    kd_assert_has(g_err, "-O names the file");
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "evaluate", back, g_data, "-o", "json");
    check_evaluation();
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "export", g_nets.ours, "-f", "c", "-O", c, "--card", card, "--data", g_data);
    kd_assert_has(g_out, "my_net_run_rgb()");
    kd_run_drop(&g_out, &g_err);
    kd_assert_ok(kd_file_read(c, 1 << 24, &text, &len, &diag), &diag);
    kd_assert_has(text, "#include \"my-net.h\"");
    kd_assert_has(text, "\"tulips\"");
    free(text);
    snprintf(c, sizeof c, "%s/my-net.h", g_nets.dir);
    kd_assert_ok(kd_file_read(c, 1 << 24, &text, &len, &diag), &diag);
    kd_assert_has(text, "#define MY_NET_CLASSES 3");
    kd_assert_has(text, "0123456789ab");
    free(text);
    kd_assert_ok(kd_file_read(card, 1 << 24, &text, &len, &diag), &diag);
    kd_assert_has(text, "| job | 0123456789ab |");
    kd_assert_has(text, "mobilenet_v2 0011223344556677");
    kd_assert_has(text, "| pictures | 42 |");
    kd_assert_has(text, "one picture");
    kd_assert_has(text, "tulips, daisy, roses");
    free(text);
    snprintf(c, sizeof c, "%s/again.c", g_nets.dir);
    EXPECT(0, "export", g_nets.ours, "-f", "c", "-O", c, "-o", "json");
    kd_assert_has(g_out, "/again.h\"");
    kd_assert_has(g_out, "\"prefix\": \"again\"");
    kd_run_drop(&g_out, &g_err);
    snprintf(c, sizeof c, "%s/my-net.h", g_nets.dir);
    EXPECT(2, "export", g_nets.ours, "-f", "tflite", "-O", c);
    kd_run_drop(&g_out, &g_err);
    EXPECT(2, "export", g_nets.ours, "-f", "c", "-O", c);
    kd_assert_has(g_err, "its header");
    kd_run_drop(&g_out, &g_err);
}

/* What the flags say is looked at before the network is: here there is none. */
static void test_models_export_flags(void **state)
{
    (void)state;
    static const struct {
        const char *flags[5], *told;
    } cases[] = {
        {{"--data", "d"}, "--data is for the card"},
        {{"--list", "val.txt"}, "--list is for labelled pictures, and none are given"},
        {{"--card", "c.md", "--labels", "y"}, "--labels is for labelled pictures"},
        {{"--data-format", "idx"}, "--data-format is for labelled pictures"},
        {{"--card", "c.md", "--data=d", "--data-format", "tar"}, "unknown format of data"},
        {{"--card", "c.md", "--data=d", "--data-format=npy"}, "needs --list and --labels"},
        {{"--card", "c.md", "--data=d", "--labels", "y"}, "for --data-format idx and npy"}};
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        const char *words[12] = {"export", "/no/such/network.onnx", "-f", "c", "-O", "x.c"};
        memcpy(words + 6, cases[i].flags, sizeof cases[i].flags);
        kd_run_expect(g_nets.dir, &g_out, &g_err, 2, words);
        kd_assert_has(g_err, cases[i].told);
        kd_run_drop(&g_out, &g_err);
    }
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_inspect),      cmocka_unit_test(test_models_hostile),
        cmocka_unit_test(test_models_evaluate),     cmocka_unit_test(test_models_resized_from),
        cmocka_unit_test(test_models_bench),        cmocka_unit_test(test_models_export),
        cmocka_unit_test(test_models_export_flags),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

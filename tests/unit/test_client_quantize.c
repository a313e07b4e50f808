/* `quantize`: the files that it makes, what it refuses, and how it reads its pictures. */
#include "client_models.h"

#include "engine/plan.h"

#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

static void test_quantize_files(void **state)
{
    (void)state;
    char ours[400], onnx[400], few[400];
    snprintf(ours, sizeof ours, "%s/q.safetensors", g_nets.dir);
    snprintf(onnx, sizeof onnx, "%s/q.onnx", g_nets.dir);
    EXPECT(0, "quantize", g_nets.ours, "--data", g_data, "-O", ours);
    kd_assert_has(g_out, "of 2 convolutions in 8 bits");
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "quantize", g_nets.onnx, "--data", g_data, "--method", "kl", "-O", onnx, "-o",
           "json");
    json_t *said = kd_run_json(g_out, g_err);
    assert_string_equal(json_string_value(json_object_get(said, "path")), onnx);
    assert_string_equal(json_string_value(json_object_get(said, "method")), "kl");
    assert_true(kd_run_number(said, "convolutions") == 2 && kd_run_number(said, "bytes") > 0);
    json_decref(said);
    kd_run_drop(&g_out, &g_err);
    const char *const files[] = {ours, onnx};
    double accuracy = -1;
    for (size_t i = 0; i < KD_COUNT(files); i++) {
        EXPECT(0, "inspect", files[i], "-o", "json");
        json_t *o = kd_run_json(g_out, g_err);
        assert_true(json_is_true(json_object_get(o, "int8")));
        assert_true(kd_run_number(o, "parameter_bytes") < 1.2 * (double)g_nets.graph->vector_len);
        const json_t *meta = json_object_get(o, "metadata");
        assert_string_equal(json_string_value(json_object_get(meta, "distilld.job")),
                            "0123456789ab");
        json_decref(o);
        kd_run_drop(&g_out, &g_err);
        EXPECT(0, "evaluate", files[i], g_data, "-o", "json");
        o = kd_run_json(g_out, g_err);
        accuracy = kd_run_number(o, "accuracy");
        json_decref(o);
        kd_run_drop(&g_out, &g_err);
    }
    assert_true(accuracy >= 0);
    snprintf(few, sizeof few, "%s/daisy", g_data);
    EXPECT(2, "quantize", g_nets.ours, "--data", few, "-O", ours);
    kd_assert_has(g_err, "14 pictures to calibrate with");
    kd_run_drop(&g_out, &g_err);
    EXPECT(2, "quantize", g_nets.ours, "--data", g_data, "-O", ours, "--method", "magic");
    kd_run_drop(&g_out, &g_err);
    snprintf(few, sizeof few, "%s/torn.png", g_data);
    kd_assert_ok(kd_file_write(few, "\x89PNG", 4, &(kd_diag){0}), &(kd_diag){0});
    EXPECT(0, "quantize", g_nets.ours, "--data", g_data, "--pictures", "43", "-O", onnx);
    kd_assert_has(g_err, "torn.png is passed over");
    kd_assert_has(g_out, "on 42 pictures");
    kd_run_drop(&g_out, &g_err);
    assert_int_equal(unlink(few), 0);
    EXPECT(2, "quantize", g_nets.ours, "--data", g_data);
    kd_assert_has(g_err, "needs --data and -O");
    kd_run_drop(&g_out, &g_err);
    EXPECT(2, "quantize", g_nets.ours, "--data", g_data, "-O", ours, "--method", "percentile",
           "--percentile", "101");
    kd_run_drop(&g_out, &g_err);
    EXPECT(2, "quantize", g_nets.ours, "--data", g_data, "-O", ours, "--method", "mse",
           "--percentile", "99");
    kd_assert_has(g_err, "--percentile says nothing to --method mse");
    kd_run_drop(&g_out, &g_err);
    EXPECT(2, "quantize", g_nets.ours, "--data", g_data, "-O", "q.c");
    kd_assert_has(g_err, "ends in .safetensors or .onnx");
    kd_run_drop(&g_out, &g_err);
    EXPECT(1, "quantize", g_nets.ours, "--data", "/nowhere", "-O", ours);
    kd_assert_has(g_err, "--data /nowhere: No such file");
    kd_run_drop(&g_out, &g_err);
    EXPECT(1, "quantize", ours, "--data", g_data, "-O", onnx);
    kd_assert_has(g_err, "is in 8 bits already");
    kd_run_drop(&g_out, &g_err);
}

/* Which files are opened is watched: a method looks at the values twice or more, `auto` at more of
 * them. */
static void test_quantize_reads_once(void **state)
{
    (void)state;
    char folder[400], out[400];
    char events[64 << 10] __attribute__((aligned(8)));
    int opened = 0;
    const int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    assert_true(watch >= 0);
    for (int c = 0; c < CLASSES; c++) {
        snprintf(folder, sizeof folder, "%s/%s", g_data, g_classes[c]);
        assert_true(inotify_add_watch(watch, folder, IN_OPEN) >= 0);
    }
    snprintf(out, sizeof out, "%s/once.safetensors", g_nets.dir);
    EXPECT(0, "quantize", g_nets.ours, "--data", g_data, "-O", out);
    kd_assert_has(g_out, "on 42 pictures");
    kd_run_drop(&g_out, &g_err);
    for (ssize_t n; (n = read(watch, events, sizeof events)) > 0;)
        for (const char *at = events; at < events + n;) {
            const struct inotify_event *e = (const void *)at;
            opened += !(e->mask & IN_ISDIR);
            at += sizeof *e + e->len;
        }
    close(watch);
    assert_int_equal(opened, CLASSES * EACH);
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantize_files),
        cmocka_unit_test(test_quantize_reads_once),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

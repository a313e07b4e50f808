/* Where `quantize` and `export` put their files: modes, links, devices, full disks, odd names. */
#include "client_run.h"

#include "client_nets.h"

#include "engine/plan.h"
#include "models/int8.h"
#include "out_file.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZE 24
#define CLASSES 3

static char *g_out, *g_err;
static struct kd_client_nets g_nets;
static const char *const g_classes[CLASSES] = {"tulips", "daisy", "roses"};

static int set_up(void **state)
{
    (void)state;
    const kd_model_file_info info = kd_client_nets_info(SIZE, g_classes, CLASSES);
    kd_client_nets_make(&g_nets, SIZE, &info);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kd_client_nets_free(&g_nets);
    return 0;
}

/* PATH in the tests' folder, in one of four places by turns. */
static const char *at(const char *name)
{
    static char paths[4][500];
    static int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", g_nets.dir, name);
    return path;
}

#define EXPECT(code, ...)                                                                          \
    kd_run_expect(g_nets.dir, &g_out, &g_err, code, (const char *[]){__VA_ARGS__, NULL})

static bool there(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static mode_t mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    return st.st_mode;
}

/* Nothing but what is expected has stayed. */
static void no_temporaries(void)
{
    char command[600];
    snprintf(command, sizeof command, "! ls %s | grep -q tmp-", g_nets.dir);
    assert_int_equal(system(command), 0);
}

/* Also what a card says of the numbers in the file that it is of. */
static void test_out_modes_follow_the_umask(void **state)
{
    (void)state;
    const kd_model_file_info info = {.model = "shallow_cnn",
                                     .has_preprocess = true,
                                     .preprocess = KD_PRE_UNIT,
                                     .size = SIZE,
                                     .half = KD_HALF_FLOAT16};
    const size_t bytes = g_nets.graph->vector_len * sizeof(float);
    float *half = malloc(bytes);
    memcpy(half, g_nets.vector, bytes);
    kd_half_round(g_nets.graph, KD_HALF_FLOAT16, half);
    kd_write_safetensors(at("half.safetensors"), g_nets.graph, half, &info);
    free(half);
    const mode_t before = umask(027);
    EXPECT(0, "export", at("half.safetensors"), "-f", "safetensors", "-O", at("mode.safetensors"),
           "--card", at("mode.md"));
    kd_run_drop(&g_out, &g_err);
    char *text = kd_run_slurp(at("mode.md"));
    kd_assert_has(text, "| numbers | weights in float16, computed in float32 |");
    kd_assert_has(text, "| size of the file |");
    free(text);
    EXPECT(0, "inspect", at("mode.safetensors"));
    kd_assert_has(g_out, "of them are held in 16 bits");
    kd_run_drop(&g_out, &g_err);
    /* ONNX has them as float32. */
    EXPECT(0, "export", at("half.safetensors"), "-f", "onnx", "-O", at("half.onnx"));
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "inspect", at("half.onnx"));
    assert_null(strstr(g_out, "16 bits"));
    kd_run_drop(&g_out, &g_err);
    umask(022);
    EXPECT(0, "export", at("half.safetensors"), "-f", "c", "-O", at("mode.c"), "--card",
           at("mode.md"));
    kd_run_drop(&g_out, &g_err);
    text = kd_run_slurp(at("mode.md"));
    kd_assert_has(text, "| numbers | float32, weights rounded to float16 |");
    kd_assert_has(text, "| size of the source text");
    free(text);
    umask(before);
    assert_int_equal(mode_of(at("mode.safetensors")) & 0777, 0640);
    assert_int_equal(mode_of(at("mode.c")) & 0777, 0644);
    assert_int_equal(mode_of(at("mode.h")) & 0777, 0644);
    assert_int_equal(mode_of(at("mode.md")) & 0777, 0644);
    no_temporaries();
}

static void test_out_links_stay_links(void **state)
{
    (void)state;
    kd_diag diag = {0};
    kd_assert_ok(kd_file_write(at("real.onnx"), "old", 3, &diag), &diag);
    assert_int_equal(symlink("real.onnx", at("link.onnx")), 0);
    EXPECT(0, "export", g_nets.ours, "-f", "onnx", "-O", at("link.onnx"));
    kd_run_drop(&g_out, &g_err);
    assert_true(S_ISLNK(mode_of(at("link.onnx"))));
    EXPECT(0, "inspect", at("real.onnx"));
    kd_run_drop(&g_out, &g_err);
    assert_int_equal(symlink("nowhere", at("dangling.onnx")), 0);
    EXPECT(2, "export", g_nets.ours, "-f", "onnx", "-O", at("dangling.onnx"));
    kd_assert_has(g_err, "link to what is not there");
    kd_run_drop(&g_out, &g_err);
    assert_false(there(at("nowhere")));
}

static void test_out_devices_stay_devices(void **state)
{
    (void)state;
    EXPECT(0, "export", g_nets.ours, "-f", "onnx", "-O", "/dev/null");
    kd_run_drop(&g_out, &g_err);
    EXPECT(1, "export", g_nets.ours, "-f", "onnx", "-O", "/dev/full");
    kd_assert_has(g_err, "cannot write /dev/full: No space left");
    kd_run_drop(&g_out, &g_err);
    assert_true(S_ISCHR(mode_of("/dev/null")) && S_ISCHR(mode_of("/dev/full")));
    /* A pipe, here one with a name, has a reader that gets all of it. */
    char command[1200];
    assert_int_equal(mkfifo(at("pipe"), 0600), 0);
    snprintf(command, sizeof command, "cat %s >%s", at("pipe"), at("copy.onnx"));
    FILE *reader = popen(command, "r");
    assert_non_null(reader);
    EXPECT(0, "export", g_nets.ours, "-f", "onnx", "-O", at("pipe"));
    kd_run_drop(&g_out, &g_err);
    assert_int_equal(pclose(reader), 0);
    assert_true(S_ISFIFO(mode_of(at("pipe"))));
    EXPECT(0, "inspect", at("copy.onnx"));
    kd_run_drop(&g_out, &g_err);
    static const char *const refused[] = {"-", "/dev/stdout", "/", ""};
    for (size_t i = 0; i < KD_COUNT(refused); i++) {
        EXPECT(2, "export", g_nets.ours, "-f", "onnx", "-O", refused[i]);
        assert_string_equal(g_out, "");
        kd_run_drop(&g_out, &g_err);
        EXPECT(2, "quantize", g_nets.ours, "--data", g_nets.dir, "-O", refused[i]);
        kd_run_drop(&g_out, &g_err);
    }
    assert_false(there("-"));
    EXPECT(2, "export", g_nets.ours, "-f", "c", "-O", "/dev/null");
    kd_assert_has(g_err, "names the C file");
    kd_run_drop(&g_out, &g_err);
}

/* What the second file meets leaves the first as it was. */
static void test_out_all_or_nothing(void **state)
{
    (void)state;
    kd_diag diag = {0};
    char *text;
    size_t len;
    kd_assert_ok(kd_file_write(at("pair.h"), "old", 3, &diag), &diag);
    const kd_out_file files[] = {{at("pair.h"), "new", 3}, {"/dev/full", "new", 3}};
    kd_assert_fails(kd_out_files_write(files, 2, &diag), KD_ELIMIT, &diag, "No space left");
    kd_assert_ok(kd_file_read(at("pair.h"), 10, &text, &len, &diag), &diag);
    assert_string_equal(text, "old");
    free(text);
    no_temporaries();
    assert_int_equal(symlink(".", at("here")), 0);
    const kd_out_file twice[] = {{at("pair.h"), "a", 1}, {at("here/pair.h"), "b", 1}};
    kd_assert_fails(kd_out_files_write(twice, 2, &diag), KD_EINVAL, &diag, "written twice");
    no_temporaries();
    /* Nor by two names of one that is not there yet. */
    EXPECT(2, "export", g_nets.ours, "-f", "c", "-O", at("early.c"), "--card", at("here/early.h"));
    kd_assert_has(g_err, "early.h would be written twice");
    kd_run_drop(&g_out, &g_err);
    /* What is wrong with the card is found before the model is written. */
    EXPECT(1, "export", g_nets.ours, "-f", "c", "-O", at("early.c"), "--card", "/no/such/card.md");
    kd_run_drop(&g_out, &g_err);
    EXPECT(1, "export", g_nets.ours, "-f", "c", "-O", at("early.c"), "--card", at("early.md"),
           "--data", "/no/such/data");
    kd_run_drop(&g_out, &g_err);
    EXPECT(1, "export", g_nets.ours, "-f", "c", "-O", at("early.c"), "--card", "/dev/full");
    kd_run_drop(&g_out, &g_err);
    assert_false(there(at("early.c")) || there(at("early.h")) || there(at("early.md")));
    no_temporaries();
}

/* The C file finds its header under every name, from C and from C++. */
static void test_out_c_names(void **state)
{
    (void)state;
    static const char *const good[] = {"\xc3\xbcn\xc3\xaf c\xc3\xb6.c", "it's 100%.net.c"};
    static const char *const bad[] = {"a\"b.c", "a\\b.c", "a\nb.c", "a?\?-b.c"};
    char command[1200];
    for (size_t i = 0; i < KD_COUNT(good); i++) {
        EXPECT(0, "export", g_nets.ours, "-f", "c", "-O", at(good[i]));
        kd_run_drop(&g_out, &g_err);
        snprintf(command, sizeof command,
                 "cd %s && gcc -std=c99 -pedantic -Wall -Wextra -Werror -c \"%s\" -o net.o",
                 g_nets.dir, good[i]);
        assert_int_equal(system(command), 0);
    }
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        EXPECT(2, "export", g_nets.ours, "-f", "c", "-O", at(bad[i]));
        kd_assert_has(g_err, "C cannot include a file of the name");
        kd_run_drop(&g_out, &g_err);
        assert_false(there(at(bad[i])));
    }
    static const char main_text[] =
        "#include \"net.h\"\n"
        "int main()\n{\n    static unsigned char rgb[NET_HEIGHT * "
        "NET_WIDTH * 3];\n    float z[NET_CLASSES];\n"
        "    net_run_rgb(rgb, z);\n"
        "    return net_classes[0][0] == 't' && z[0] == z[0] ? 0 : 1;\n}\n";
    kd_diag diag = {0};
    kd_assert_ok(kd_file_write(at("main.cc"), main_text, sizeof main_text - 1, &diag), &diag);
    EXPECT(0, "export", g_nets.ours, "-f", "c", "-O", at("net.c"));
    kd_run_drop(&g_out, &g_err);
    snprintf(command, sizeof command,
             "cd %s && gcc -std=c99 -c net.c && g++ -Wall -Wextra -Werror main.cc net.o -lm -o net "
             "&& ./net",
             g_nets.dir);
    assert_int_equal(system(command), 0);
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_out_modes_follow_the_umask),
        cmocka_unit_test(test_out_links_stay_links),
        cmocka_unit_test(test_out_devices_stay_devices),
        cmocka_unit_test(test_out_all_or_nothing),
        cmocka_unit_test(test_out_c_names),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

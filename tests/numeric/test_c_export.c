/* Networks as C: compiled by the system's compiler as C99 with every warning an error, and run;
 * also for 32-bit Arm under QEMU, where both are installed. */
#include "checks.h"
#include "compress_nets.h"

#include "compress/c_write.h"
#include "compress/prune.h"
#include "compress/quantise.h"
#include "kd/file.h"
#include "nets_ops.h"

#include <stdio.h>

enum { PICTURES = 3 };

/* Reads pictures from standard input and writes logits. */
static const char g_main[] = "#include <stdio.h>\n"
                             "#include \"m.h\"\n"
                             "static float x[M_HEIGHT * M_WIDTH * M_CHANNELS], z[M_CLASSES];\n"
                             "int main(void)\n"
                             "{\n"
                             "    while (fread(x, sizeof x, 1, stdin) == 1) {\n"
                             "        m_run(x, z);\n"
                             "        if (fwrite(z, sizeof z, 1, stdout) != 1)\n"
                             "            return 1;\n"
                             "    }\n"
                             "    return 0;\n"
                             "}\n";

typedef struct target {
    const char *compiler, *run;
} target;

static const target g_host = {"gcc", ""};
static const target g_arm = {"arm-linux-gnueabihf-gcc -static", "qemu-arm"};

static bool there(const target *t)
{
    char command[200];
    snprintf(command, sizeof command, "command -v %.*s >/dev/null && command -v %s >/dev/null",
             (int)strcspn(t->compiler, " "), t->compiler, *t->run ? t->run : "true");
    return system(command) == 0;
}

static void write_text(const char *dir, const char *name, const char *text, size_t len)
{
    char path[400];
    kd_diag diag = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    kd_assert_ok(kd_file_write(path, text, len, &diag), &diag);
}

static void shell(const char *dir, const char *command)
{
    char line[1200];
    snprintf(line, sizeof line, "cd %s && %s", dir, command);
    if (system(line) != 0)
        fail_msg("failed: %s", line);
}

/* The network as C in a new folder, which the caller frees with kd_test_rmdir. */
static char *write_c(const kd_graph *g, const float *vector, kd_buf *source, size_t *memory)
{
    char *dir = kd_test_mkdir();
    const kd_model_file_info info = {
        .model = "*/ it", .has_preprocess = g->nodes[0].c == 3, .preprocess = KD_PRE_SYMMETRIC};
    kd_buf header;
    kd_diag diag = {0};
    kd_buf_init(&header, 1 << 20);
    kd_buf_init(source, (size_t)1 << 29);
    kd_assert_ok(kd_c_write(g, vector, &info, "m", "m.h", &header, source, memory, &diag), &diag);
    write_text(dir, "m.h", header.data, header.len);
    write_text(dir, "m.c", source->data, source->len);
    kd_buf_clear(&header);
    return dir;
}

/* Logits of the exported network; caller frees. */
static float *by_c(const target *t, const kd_graph *g, const float *vector, const float *input,
                   int pictures, kd_buf *source, size_t *memory)
{
    char *dir = write_c(g, vector, source, memory), command[600], path[400], *bytes;
    const kd_node *in = &g->nodes[0];
    const size_t floats = (size_t)in->h * (size_t)in->w * (size_t)in->c * (size_t)pictures;
    size_t len;
    kd_diag diag = {0};
    write_text(dir, "main.c", g_main, sizeof g_main - 1);
    write_text(dir, "in.bin", (const char *)(const void *)input, floats * sizeof *input);
    snprintf(command, sizeof command,
             "%s -std=c99 -pedantic -Wall -Wextra -Wshadow -Werror -O1 m.c main.c -lm -o m",
             t->compiler);
    shell(dir, command);
    snprintf(command, sizeof command, "%s ./m <in.bin >out.bin", t->run);
    shell(dir, command);
    snprintf(path, sizeof path, "%s/out.bin", dir);
    kd_assert_ok(kd_file_read(path, 1 << 20, &bytes, &len, &diag), &diag);
    assert_int_equal(len, (size_t)pictures * (size_t)g->nodes[g->output].c * sizeof(float));
    kd_test_rmdir(dir);
    return (float *)(void *)bytes;
}

/* Bytes of code and tables in the compiled network. */
static size_t compiled(const kd_graph *g, const float *vector)
{
    kd_buf source;
    kd_diag diag = {0};
    size_t memory, len;
    char *dir = write_c(g, vector, &source, &memory), path[400], *text;
    shell(dir, "gcc -std=c99 -Os -c m.c -o m.o && size m.o | awk 'NR == 2 {print $1}' >size");
    snprintf(path, sizeof path, "%s/size", dir);
    kd_assert_ok(kd_file_read(path, 100, &text, &len, &diag), &diag);
    const size_t n = strtoul(text, NULL, 10);
    assert_true(n > 0);
    free(text);
    kd_buf_clear(&source);
    kd_test_rmdir(dir);
    return n;
}

static void compare(const target *t, const zoo_net *n, const kd_graph *g, const float *vector,
                    size_t most_memory, size_t most_source)
{
    float *in = net_pictures(n, 0, PICTURES), *z = net_logits(n, g, vector, PICTURES);
    kd_buf source;
    size_t memory;
    float *c = by_c(t, g, vector, in, PICTURES, &source, &memory);
    kd_assert_all_close(c, z, PICTURES * NET_CLASSES, 1e-4, 1e-4 * net_largest(z, PICTURES));
    print_message("%zu bytes of memory, %zu of source\n", memory, source.len);
    assert_true(most_memory == 0 || memory <= most_memory);
    assert_true(most_source == 0 || source.len <= most_source);
    kd_buf_clear(&source);
    free(c);
    free(in);
    free(z);
}

static void test_c_zoo(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        int size;
        size_t memory;
    } nets[] = {
        /* 62x62x64 values of the first convolution alone would be a megabyte. */
        {"shallow_cnn", 64, 160000}, {"cheap_cnn", 32, 0}, {"lenet", 28, 0},
        {"mobilenet_v2", 32, 0},     {"mlp", 8, 0},
    };
    for (size_t i = 0; i < KD_COUNT(nets); i++) {
        zoo_net n = net_zoo(nets[i].model, nets[i].size);
        print_message("%s: ", nets[i].model);
        compare(&g_host, &n, n.g, n.vector, nets[i].memory, 0);
        net_free(&n);
    }
}

/* Every operator that has C, in the nets that test the engine's. */
static void test_c_operators(void **state)
{
    (void)state;
    int written = 0, refused = 0;
    for (size_t k = 0; k < KD_COUNT(ops_nets); k++) {
        ref_net net = ops_net_make(&ops_nets[k], &ops_settings[k % KD_COUNT(ops_settings)]);
        kd_graph *g = net.g;
        kd_buf header, source;
        size_t memory;
        kd_diag diag = {0};
        kd_buf_init(&header, 1 << 20);
        kd_buf_init(&source, 1 << 28);
        const kd_model_file_info info = {0};
        const int rc =
            kd_c_write(g, net.vector, &info, "m", "m.h", &header, &source, &memory, &diag);
        kd_buf_clear(&header);
        kd_buf_clear(&source);
        if (rc != 0) {
            assert_int_equal(rc, -KD_EUNSUP);
            assert_non_null(strstr(diag.msg, "there is no C for the operator of"));
            refused++;
        } else {
            kd_plan *p;
            const size_t n = ref_count(&g->nodes[g->output]) * (size_t)net.batch;
            float *z = kd_xalloc(n * sizeof *z), *c;
            double largest = 0;
            kd_assert_ok(kd_plan_new_infer(g, net.batch, net.vector, &p, &diag), &diag);
            kd_assert_ok(kd_plan_forward(p, net.input, z, &diag), &diag);
            c = by_c(&g_host, g, net.vector, net.input, net.batch, &source, &memory);
            for (size_t i = 0; i < n; i++)
                largest = fmax(largest, fabs((double)z[i]));
            kd_assert_all_close(c, z, n, 1e-4, 1e-4 * largest);
            kd_plan_free(p);
            kd_buf_clear(&source);
            free(c);
            free(z);
            written++;
        }
        ref_net_free(&net);
    }
    print_message("%d nets as C, %d refused\n", written, refused);
    assert_true(written >= 10);
}

/* Without the `share` of smallest weights. */
static void prune(zoo_net *n, double share)
{
    kd_diag diag = {0};
    uint8_t *mask = malloc(n->g->vector_len);
    memset(mask, 1, n->g->vector_len);
    kd_assert_ok(kd_prune_magnitude(n->g, n->vector, share, KD_PRUNE_GLOBAL, mask, &diag), &diag);
    kd_prune_apply(mask, n->g->vector_len, n->vector);
    free(mask);
}

static kd_quantised quantise(zoo_net *n)
{
    kd_diag diag = {0};
    kd_quantised q;
    const kd_quantise_options opt = {.n = 32, .picture = zoo_give, .arg = n};
    kd_assert_ok(kd_quantise(n->g, n->vector, &opt, &q, &diag), &diag);
    return q;
}

/* C of 8 bits computes in float32: against the same weights without ranges. */
static void compare_int8(const target *t, const zoo_net *n, const kd_quantised *q)
{
    kd_graph *g = q->graph;
    float *ranges = kd_xalloc((size_t)g->n_nodes * sizeof *ranges);
    for (int i = 0; i < g->n_nodes; i++) {
        ranges[i] = g->nodes[i].range;
        g->nodes[i].range = 0;
    }
    float *in = net_pictures(n, 0, PICTURES), *z = net_logits(n, g, q->vector, PICTURES);
    for (int i = 0; i < g->n_nodes; i++)
        g->nodes[i].range = ranges[i];
    kd_buf source;
    size_t memory;
    float *c = by_c(t, g, q->vector, in, PICTURES, &source, &memory);
    kd_assert_all_close(c, z, PICTURES * NET_CLASSES, 1e-4, 1e-4 * net_largest(z, PICTURES));
    assert_true(source.len < 7 * g->vector_len);
    kd_buf_clear(&source);
    free(ranges);
    free(c);
    free(z);
    free(in);
}

/* Sparse weights take less room. */
static void test_c_small(void **state)
{
    (void)state;
    zoo_net n = net_zoo("shallow_cnn", 32);
    prune(&n, 0.9);
    compare(&g_host, &n, n.g, n.vector, 0, 12 * n.g->vector_len / 2);
    net_free(&n);
}

/* 8-bit ones a quarter, and sparse ones of 8 bits less than either. */
static void test_c_int8(void **state)
{
    (void)state;
    zoo_net n = net_zoo("cheap_cnn", 32);
    const size_t dense = compiled(n.g, n.vector);
    kd_quantised q = quantise(&n);
    compare_int8(&g_host, &n, &q);
    const size_t eight = compiled(q.graph, q.vector);
    kd_quantised_clear(&q);
    prune(&n, 0.8);
    const size_t sparse = compiled(n.g, n.vector);
    q = quantise(&n);
    compare_int8(&g_host, &n, &q);
    const size_t both = compiled(q.graph, q.vector);
    print_message("compiled: %zu bytes, in 8 bits %zu, 80 %% pruned %zu, both %zu\n", dense, eight,
                  sparse, both);
    assert_true(eight < dense * 2 / 5 && sparse < dense / 2);
    assert_true(both < sparse * 3 / 4 && both < eight * 3 / 4);
    kd_quantised_clear(&q);
    net_free(&n);
}

static void test_c_arm(void **state)
{
    (void)state;
    if (!there(&g_arm)) {
        print_message("no gcc-arm-linux-gnueabihf or qemu-user\n");
        skip();
    }
    zoo_net n = net_zoo("shallow_cnn", 32);
    compare(&g_arm, &n, n.g, n.vector, 0, 0);
    kd_quantised q = quantise(&n);
    compare_int8(&g_arm, &n, &q);
    kd_quantised_clear(&q);
    prune(&n, 0.8);
    compare(&g_arm, &n, n.g, n.vector, 0, 0);
    q = quantise(&n);
    compare_int8(&g_arm, &n, &q);
    kd_quantised_clear(&q);
    net_free(&n);
    n = net_zoo("mobilenet_v2", 32);
    compare(&g_arm, &n, n.g, n.vector, 0, 0);
    net_free(&n);
}

static void test_c_prefix(void **state)
{
    (void)state;
    char out[KD_C_PREFIX];
    static const char *const cases[][2] = {{"/a/b/my-student.v2.c", "my_student"},
                                           {"7up.c", "m7up"},
                                           {".c", "m"},
                                           {"caf\xc3\xa9.c", "caf__"}};
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        kd_c_prefix(cases[i][0], out);
        assert_string_equal(out, cases[i][1]);
    }
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_c_zoo),   cmocka_unit_test(test_c_operators),
        cmocka_unit_test(test_c_small), cmocka_unit_test(test_c_int8),
        cmocka_unit_test(test_c_arm),   cmocka_unit_test(test_c_prefix),
    };
    return cmocka_run_group_tests_name("C", tests, NULL, NULL);
}

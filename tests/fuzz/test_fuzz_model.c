/* Mutated models' files: safetensors with their graph, of float32 and of 8 bits, and ONNX. */
#include "fuzz.h"
#include "kd_test.h"
#include "mutate.h"

#include "compress/quantise.h"
#include "engine/plan.h"
#include "kd/file.h"
#include "models/loaded.h"
#include "models/onnx.h"

#include <stdio.h>
#include <stdlib.h>

#define ROUNDS 6000
#define MAX_LEN 32768
#define SIZE 6

static int picture(void *arg, size_t i, float *input, kd_diag *diag)
{
    (void)arg, (void)diag;
    kd_rng r;
    kd_rng_init(&r, 3, KD_RNG_TEST, i, 0);
    for (int k = 0; k < SIZE * SIZE * 3; k++)
        input[k] = 2 * kd_rng_float(&r) - 1;
    return 0;
}

static kd_graph *small(void)
{
    const int pad[4] = {1, 1, 1, 1};
    kd_diag diag = {0};
    kd_graph *g = kd_graph_new(SIZE, SIZE, 3);
    int x = kd_graph_conv(g, 0, "a", 4, 3, 1, pad, 1, true, KD_INIT_HE_NORMAL);
    x = kd_graph_relu(g, kd_graph_batch_norm(g, x, "n", 1e-3F));
    x = kd_graph_relu(g, kd_graph_conv(g, x, "b", 4, 3, 1, pad, 1, true, KD_INIT_HE_NORMAL));
    x = kd_graph_flatten(g, kd_graph_global_avg_pool(g, x));
    x = kd_graph_dense(g, x, "fc", 3, true, KD_INIT_GLOROT_UNIFORM);
    kd_assert_ok(kd_graph_finish(g, x, &diag), &diag);
    return g;
}

enum { SEEDS = 4 };
static kd_buf g_seeds[SEEDS];

static void write_seeds(const kd_graph *g, const float *vector, kd_buf out[2])
{
    static char *const names[] = {"a", "b, \\ c", "d"};
    kd_diag diag = {0};
    const kd_model_file_info info = {.model = "small",
                                     .has_preprocess = true,
                                     .preprocess = KD_PRE_IMAGENET,
                                     .size = SIZE,
                                     .classes = (char **)(uintptr_t)names,
                                     .n_classes = 3,
                                     .job = "0123456789ab",
                                     .teacher = "teacher 00"};
    const kd_onnx_write_options opt = {.opset = 13, .info = &info};
    kd_buf_init(&out[0], MAX_LEN);
    kd_buf_init(&out[1], MAX_LEN);
    kd_assert_ok(kd_loaded_pack(g, vector, &info, &out[0], &diag), &diag);
    kd_assert_ok(kd_onnx_write(g, vector, &opt, &out[1], &diag), &diag);
}

static int set_up(void **state)
{
    (void)state;
    kd_diag diag = {0};
    kd_quantised q;
    kd_graph *g = small();
    float *vector = malloc(g->vector_len * sizeof *vector);
    kd_graph_init(g, 2, vector);
    const kd_quantise_options opt = {.n = 32, .picture = picture};
    kd_assert_ok(kd_quantise(g, vector, &opt, &q, &diag), &diag);
    write_seeds(g, vector, &g_seeds[0]);
    write_seeds(q.graph, q.vector, &g_seeds[2]);
    kd_quantised_clear(&q);
    free(vector);
    kd_graph_free(g);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < SEEDS; i++)
        kd_buf_clear(&g_seeds[i]);
    return 0;
}

static void test_fuzz_model(void **state)
{
    (void)state;
    unsigned good = 0, refused = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        const kd_buf *seed = &g_seeds[i % SEEDS];
        uint8_t *file = malloc(MAX_LEN + 64);
        size_t len = seed->len;
        kd_rng r;
        kd_rng_init(&r, 1, KD_RNG_TEST, i, 0);
        memcpy(file, seed->data, len);
        for (uint32_t k = kd_rng_below(&r, 3); k > 0; k--)
            len = kd_fuzz_mutate(&r, file, len, MAX_LEN);
        *(kd_fuzz_run(kd_fuzz_model, file, len) ? &good : &refused) += 1;
        free(file);
    }
    print_message("%u models read, %u refused\n", good, refused);
    assert_true(good > ROUNDS / 10 && refused > ROUNDS / 4);
}

/* Cut anywhere; an ONNX file may end between two of its parts. */
static void test_fuzz_model_torn(void **state)
{
    (void)state;
    for (int s = 0; s < SEEDS; s++)
        for (size_t len = 0; len < g_seeds[s].len; len += 7)
            if (kd_fuzz_run(kd_fuzz_model, g_seeds[s].data, len) && s % 2 == 0)
                fail_msg("seed %d of %zu bytes is accepted", s, len);
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    kd_engine_thread();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fuzz_model),
                                       cmocka_unit_test(test_fuzz_model_torn)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

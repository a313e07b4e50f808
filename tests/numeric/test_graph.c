#include "engine/graph.h"
#include "kd_test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int no_pad[4] = {0, 0, 0, 0}, pad_1[4] = {1, 1, 1, 1}, pad_tf[4] = {0, 0, 1, 1};

static kd_graph *small_net(void)
{
    kd_graph *g = kd_graph_new(9, 7, 3);
    int x = kd_graph_conv(g, 0, "a", 8, 3, 2, pad_tf, 1, false, KD_INIT_HE_NORMAL);
    x = kd_graph_batch_norm(g, x, "a.bn", 1e-3f);
    int skip = x = kd_graph_relu6(g, x);
    x = kd_graph_conv(g, x, "b", 8, 3, 1, pad_1, 8, true, KD_INIT_GLOROT_UNIFORM);
    x = kd_graph_relu(g, kd_graph_add(g, x, skip));
    x = kd_graph_max_pool(g, x, 2);
    x = kd_graph_flatten(g, x);
    x = kd_graph_dense(g, x, "c", 16, false, KD_INIT_TORCH_UNIFORM);
    x = kd_graph_dense(g, x, "d", 5, true, KD_INIT_NORMAL_001);
    kd_diag diag = {0};
    kd_assert_ok(kd_graph_finish(g, x, &diag), &diag);
    return g;
}

static void test_graph_shapes(void **state)
{
    (void)state;
    kd_graph *g = small_net();
    const int want[][3] = {{9, 7, 3}, {4, 3, 8}, {4, 3, 8},  {4, 3, 8},  {4, 3, 8}, {4, 3, 8},
                           {4, 3, 8}, {2, 1, 8}, {1, 1, 16}, {1, 1, 16}, {1, 1, 5}};
    assert_int_equal(g->n_nodes, (int)KD_COUNT(want));
    for (int i = 0; i < g->n_nodes; i++) {
        const kd_node *n = &g->nodes[i];
        assert_int_equal(n->h, want[i][0]);
        assert_int_equal(n->w, want[i][1]);
        assert_int_equal(n->c, want[i][2]);
        assert_true(n->in[0] < i && n->in[1] < i);
    }
    assert_int_equal(g->output, 10);
    /* conv a, depthwise b, dense c and d at their output sizes. */
    assert_int_equal(kd_graph_macs(g), 8 * 3 * 9 * 12 + 8 * 9 * 12 + 16 * 16 + 16 * 5);
    kd_graph_free(g);
    kd_graph_free(NULL);
}

static void test_graph_vector(void **state)
{
    (void)state;
    kd_graph *g = small_net();
    size_t at = 0, trained = 0;
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        size_t count = 1;
        for (int k = 0; k < p->ndim; k++)
            count *= (size_t)p->shape[k];
        assert_int_equal(p->offset, at);
        assert_int_equal(p->count, count);
        at += count;
        trained += p->kind == KD_PARAM_TRAINED ? count : 0;
        assert_ptr_equal(kd_graph_param(g, p->name), p);
    }
    assert_int_equal(g->vector_len, at);
    assert_int_equal(g->trained_len, trained);
    assert_int_equal(g->vector_len - g->trained_len, 2 * 8);
    assert_null(kd_graph_param(g, "nobody"));
    const kd_param *b = kd_graph_param(g, "b.weight");
    assert_int_equal(b->shape[0], 8);
    assert_int_equal(b->shape[1], 1);
    assert_int_equal(b->fan_in, 9);
    assert_int_equal(b->fan_out, 72);
    assert_false(kd_graph_param(g, "c.weight")->head);
    assert_true(kd_graph_param(g, "d.weight")->head && kd_graph_param(g, "d.bias")->head);
    assert_int_equal(kd_graph_param(g, "a.bn.running_var")->kind, KD_PARAM_STATISTIC);
    kd_graph_free(g);
}

static void test_graph_init(void **state)
{
    (void)state;
    kd_graph *g = kd_graph_new(4, 4, 32);
    int x = kd_graph_conv(g, 0, "he", 64, 3, 1, pad_1, 1, true, KD_INIT_HE_NORMAL);
    x = kd_graph_conv(g, x, "out", 32, 3, 1, pad_1, 1, false, KD_INIT_HE_NORMAL_OUT);
    x = kd_graph_batch_norm(g, x, "bn", 1e-5f);
    x = kd_graph_flatten(g, x);
    x = kd_graph_dense(g, x, "glorot", 40, false, KD_INIT_GLOROT_UNIFORM);
    x = kd_graph_dense(g, x, "torch", 100, false, KD_INIT_TORCH_UNIFORM);
    x = kd_graph_dense(g, x, "small", 100, true, KD_INIT_NORMAL_001);
    kd_diag diag = {0};
    kd_assert_ok(kd_graph_finish(g, x, &diag), &diag);
    float *v = malloc(g->vector_len * sizeof *v), *again = malloc(g->vector_len * sizeof *v);
    kd_graph_init(g, 7, v);
    kd_graph_init(g, 7, again);
    assert_memory_equal(v, again, g->vector_len * sizeof *v);
    kd_graph_init(g, 8, again);
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        const float *w = v + p->offset;
        double sum = 0, square = 0, top = 0, n = (double)p->count;
        for (size_t k = 0; k < p->count; k++) {
            sum += (double)w[k];
            square += (double)w[k] * (double)w[k];
            top = fmax(top, fabs((double)w[k]));
        }
        double sd = 0, bound = INFINITY, fan_in = (double)p->fan_in, fan_out = (double)p->fan_out;
        switch (p->init) {
        case KD_INIT_ZERO:
            assert_true(top == 0);
            continue;
        case KD_INIT_ONE:
            assert_true(sum == n && square == n);
            continue;
        case KD_INIT_HE_NORMAL:
            sd = sqrt(2 / fan_in);
            break;
        case KD_INIT_HE_NORMAL_OUT:
            sd = sqrt(2 / fan_out);
            break;
        case KD_INIT_NORMAL_001:
            sd = 0.01;
            break;
        case KD_INIT_UNIFORM_OUT:
            bound = 1 / sqrt(fan_out);
            sd = bound / sqrt(3);
            break;
        case KD_INIT_GLOROT_UNIFORM:
            bound = sqrt(6 / (fan_in + fan_out));
            sd = bound / sqrt(3);
            break;
        case KD_INIT_TORCH_UNIFORM:
            bound = 1 / sqrt(fan_in);
            sd = bound / sqrt(3);
            break;
        }
        /* Five standard errors: of the mean sd/sqrt(n), of the deviation at most sd/sqrt(2n). */
        assert_true(fabs(sum / n) < 5 * sd / sqrt(n));
        kd_assert_close(sqrt(square / n), sd, 5 / sqrt(2 * n), 0);
        assert_true(top <= bound * (1 + 1e-6));
        assert_true(memcmp(w, again + p->offset, p->count * sizeof *w) != 0);
    }
    assert_true(v[kd_graph_param(g, "bn.running_var")->offset] == 1);
    free(v);
    free(again);
    kd_graph_free(g);
}

/* The start values of a parameter hang on its name alone, so that a new layer moves no other. */
static void test_graph_init_by_name(void **state)
{
    (void)state;
    kd_diag diag = {0};
    float first[2][6 * 2];
    for (int deep = 0; deep < 2; deep++) {
        kd_graph *g = kd_graph_new(1, 1, 6);
        int x = 0;
        if (deep)
            x = kd_graph_dense(g, x, "extra", 6, false, KD_INIT_GLOROT_UNIFORM);
        x = kd_graph_dense(g, x, "head", 2, true, KD_INIT_GLOROT_UNIFORM);
        kd_assert_ok(kd_graph_finish(g, x, &diag), &diag);
        float *v = malloc(g->vector_len * sizeof *v);
        kd_graph_init(g, 3, v);
        memcpy(first[deep], v + kd_graph_param(g, "head.weight")->offset, sizeof first[deep]);
        free(v);
        kd_graph_free(g);
    }
    assert_memory_equal(first[0], first[1], sizeof first[0]);
}

static void refuse(kd_graph *g, int output, const char *part)
{
    kd_diag diag = {0};
    kd_assert_fails(kd_graph_finish(g, output, &diag), KD_EINVAL, &diag, part);
    kd_graph_free(g);
}

static void test_graph_refusals(void **state)
{
    (void)state;
    kd_graph *g = kd_graph_new(0, 4, 3);
    refuse(g, kd_graph_flatten(g, 0), "0x4x3");

    g = kd_graph_new(4, 4, 3);
    int x = kd_graph_conv(g, 0, "a", 8, 5, 1, no_pad, 1, true, KD_INIT_ZERO);
    assert_int_equal(x, -1);
    /* The first error stays whatever comes behind. */
    assert_int_equal(kd_graph_flatten(g, 9000), -1);
    assert_int_equal(kd_graph_add(g, x, x), -1);
    assert_int_equal(kd_graph_dense(g, x, "d", 2, true, KD_INIT_ZERO), -1);
    refuse(g, x, "a: a 5x5 kernel does not fit into 4x4");

    g = kd_graph_new(4, 4, 3);
    refuse(g, kd_graph_conv(g, 0, "a", 8, 3, 1, pad_1, 2, true, KD_INIT_ZERO), "2 groups");
    g = kd_graph_new(4, 4, 3);
    refuse(g, kd_graph_conv(g, 0, "a", 8, 3, 1, (int[]){0, -1, 0, 0}, 1, true, KD_INIT_ZERO),
           "padding -1");
    g = kd_graph_new(4, 4, 3);
    refuse(g, kd_graph_max_pool(g, 0, 5), "5x5 max-pool");
    g = kd_graph_new(4, 4, 3);
    refuse(g, kd_graph_dense(g, 0, "d", 2, true, KD_INIT_ZERO), "wants a vector");
    g = kd_graph_new(4, 4, 3);
    refuse(g, kd_graph_add(g, 0, kd_graph_max_pool(g, 0, 2)), "cannot be added");
    g = kd_graph_new(4, 4, 3);
    refuse(g, kd_graph_add(g, 0, 17), "node 17");
    g = kd_graph_new(4, 4, 3);
    refuse(g, kd_graph_relu(g, 5), "no such input");
    g = kd_graph_new(4096, 4096, 64);
    refuse(g, kd_graph_flatten(g, 0), "flattening");
    g = kd_graph_new(4, 4, 3);
    refuse(g, kd_graph_relu(g, 0), "logits of 2 or more classes");
    g = kd_graph_new(4, 4, 3);
    refuse(g, 0, "no output");

    g = kd_graph_new(1, 1, 4);
    x = kd_graph_dense(g, 0, "same", 4, false, KD_INIT_ZERO);
    refuse(g, kd_graph_dense(g, x, "same", 4, false, KD_INIT_ZERO), "two parameters are named");
    g = kd_graph_new(1, 1, 4);
    (void)kd_graph_dense(g, 0, "dead", 4, false, KD_INIT_ZERO);
    refuse(g, kd_graph_dense(g, 0, "live", 4, false, KD_INIT_ZERO), "(dead) leads nowhere");
    g = kd_graph_new(1, 1, 4);
    char longest[96];
    memset(longest, 'x', 95);
    longest[95] = 0;
    refuse(g, kd_graph_dense(g, 0, longest, 4, false, KD_INIT_ZERO), "longer than 95 letters");
    g = kd_graph_new(1, 1, 2);
    x = 0;
    for (int i = 0; i < 5000; i++)
        x = kd_graph_relu(g, x);
    refuse(g, x, "more than 2048 nodes");
    g = kd_graph_new(1, 1, 60);
    x = kd_graph_dense(g, 0, "big", 65536, false, KD_INIT_ZERO);
    refuse(g, kd_graph_dense(g, x, "bigger", 65536, false, KD_INIT_ZERO), "too many parameters");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_graph_shapes),   cmocka_unit_test(test_graph_vector),
        cmocka_unit_test(test_graph_init),     cmocka_unit_test(test_graph_init_by_name),
        cmocka_unit_test(test_graph_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

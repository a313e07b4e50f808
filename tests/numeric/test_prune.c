/* Pruning: the schedule, masks, and whole channels. */
#include "kd_test.h"

#include "compress_nets.h"

#include "compress/prune.h"

static void test_prune_schedule(void **state)
{
    (void)state;
    kd_assert_close(kd_prune_schedule(0, 0.9, 100, 200, 0), 0, 0, 0);
    kd_assert_close(kd_prune_schedule(0, 0.9, 100, 200, 100), 0, 0, 0);
    kd_assert_close(kd_prune_schedule(0, 0.9, 100, 200, 200), 0.9, 0, 0);
    kd_assert_close(kd_prune_schedule(0, 0.9, 100, 200, 999), 0.9, 0, 0);
    /* 0.8 + (0.2 - 0.8) * (1/2)^3 */
    kd_assert_close(kd_prune_schedule(0.2, 0.8, 0, 10, 5), 0.725, 1e-12, 0);
    double before = 0;
    for (uint64_t s = 90; s < 210; s++) {
        const double now = kd_prune_schedule(0.1, 0.9, 100, 200, s);
        assert_true(now >= before);
        before = now;
    }
    kd_assert_close(kd_prune_schedule(0.1, 0.9, 5, 5, 5), 0.9, 0, 0);
}

static size_t gone(const kd_graph *g, const uint8_t *mask, const char *name)
{
    size_t n = 0;
    for (int i = 0; i < g->n_params; i++)
        if (!name || strcmp(g->params[i].name, name) == 0)
            for (size_t k = 0; k < g->params[i].count; k++)
                n += !mask[g->params[i].offset + k];
    return n;
}

static void test_prune_magnitude(void **state)
{
    (void)state;
    kd_diag diag = {0};
    zoo_net n = net_zoo("shallow_cnn", 32);
    const kd_graph *g = n.g;
    uint8_t *mask = malloc(g->vector_len), *other = malloc(g->vector_len);
    size_t prunable = 0;
    for (int i = 0; i < g->n_params; i++)
        prunable += g->params[i].ndim > 1 && !g->params[i].head ? g->params[i].count : 0;
    memset(mask, 1, g->vector_len);
    kd_assert_ok(kd_prune_magnitude(g, n.vector, 0.5, KD_PRUNE_LAYER, mask, &diag), &diag);
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        const bool may = p->ndim > 1 && !p->head;
        assert_int_equal(gone(g, mask, p->name), may ? p->count / 2 : 0);
        /* Nothing that stays is smaller than what went. */
        float least = INFINITY, most = 0;
        for (size_t k = p->offset; k < p->offset + p->count && may; k++) {
            least = mask[k] ? fminf(least, fabsf(n.vector[k])) : least;
            most = mask[k] ? most : fmaxf(most, fabsf(n.vector[k]));
        }
        assert_true(!may || most <= least);
    }
    memset(other, 1, g->vector_len);
    kd_assert_ok(kd_prune_magnitude(g, n.vector, 0.5, KD_PRUNE_GLOBAL, other, &diag), &diag);
    assert_int_equal(gone(g, other, NULL), prunable / 2);
    assert_memory_not_equal(mask, other, g->vector_len);
    /* What is gone stays so, whatever its weight has become since, and counts. */
    uint8_t *more = malloc(g->vector_len);
    memcpy(more, mask, g->vector_len);
    for (size_t i = 0; i < g->vector_len; i++)
        n.vector[i] += mask[i] ? 0 : 100;
    kd_assert_ok(kd_prune_magnitude(g, n.vector, 0.75, KD_PRUNE_LAYER, more, &diag), &diag);
    for (size_t i = 0; i < g->vector_len; i++)
        assert_true(mask[i] || !more[i]);
    assert_true(gone(g, more, NULL) > prunable * 74 / 100);
    kd_prune_apply(more, g->vector_len, n.vector);
    for (size_t i = 0; i < g->vector_len; i++)
        assert_true(more[i] || n.vector[i] == 0);
    kd_assert_fails(kd_prune_magnitude(g, n.vector, 1.5, KD_PRUNE_LAYER, more, &diag), KD_EINVAL,
                    &diag, "1.5");
    kd_assert_ok(kd_prune_magnitude(g, n.vector, 1, KD_PRUNE_LAYER, more, &diag), &diag);
    assert_int_equal(gone(g, more, NULL), prunable);
    free(mask);
    free(other);
    free(more);
    net_free(&n);
}

/* Equal magnitudes: the first places go first, in every run. */
static void test_prune_ties(void **state)
{
    (void)state;
    kd_diag diag = {0};
    zoo_net n = net_zoo("mlp", 8);
    uint8_t *mask = malloc(n.g->vector_len);
    memset(mask, 1, n.g->vector_len);
    for (size_t i = 0; i < n.g->vector_len; i++)
        n.vector[i] = i % 2 ? 1 : -1;
    kd_assert_ok(kd_prune_magnitude(n.g, n.vector, 0.25, KD_PRUNE_LAYER, mask, &diag), &diag);
    const kd_param *p = kd_graph_param(n.g, "fc1.weight");
    for (size_t i = 0; i < p->count; i++)
        assert_int_equal(mask[p->offset + i], i >= p->count / 4);
    free(mask);
    net_free(&n);
}

/* ---- channels */

/* Zeros the filters that have no part in the answer: their removal changes nothing. */
static void silence(zoo_net *n, int keep_every)
{
    for (int i = 0; i < n->g->n_nodes; i++) {
        const kd_node *node = &n->g->nodes[i];
        const kd_param *params = n->g->params;
        if (node->op != KD_OP_CONV && node->op != KD_OP_DENSE && node->op != KD_OP_BATCH_NORM)
            continue;
        if (params[node->weight].head)
            continue;
        const size_t row = params[node->weight].count / (size_t)node->c;
        for (int c = 0; c < node->c; c++) {
            if (c % keep_every == 0)
                continue;
            memset(n->vector + params[node->weight].offset + (size_t)c * row, 0,
                   row * sizeof(float));
            if (node->bias >= 0)
                n->vector[params[node->bias].offset + (size_t)c] = 0;
            if (node->mean >= 0)
                n->vector[params[node->mean].offset + (size_t)c] = 0;
        }
    }
}

static void test_prune_silent_channels(void **state)
{
    (void)state;
    static const char *const models[] = {"shallow_cnn",  "shallow_cnn_deep", "cheap_cnn", "lenet",
                                         "mobilenet_v2", "resnet18",         "mlp"};
    for (size_t i = 0; i < KD_COUNT(models); i++) {
        zoo_net n = net_zoo(models[i], 64);
        kd_graph *g;
        float *v;
        kd_diag diag = {0};
        silence(&n, 2);
        kd_assert_ok(kd_prune_channels(n.g, n.vector, 0.5, 1, &g, &v, &diag), &diag);
        print_message("%s: %zu -> %zu parameters, %.1f -> %.1f million multiply-adds\n", models[i],
                      n.g->vector_len, g->vector_len, (double)kd_graph_macs(n.g) / 1e6,
                      (double)kd_graph_macs(g) / 1e6);
        assert_true(kd_graph_macs(g) < kd_graph_macs(n.g) * 6 / 10);
        float *z = net_logits(&n, n.g, n.vector, 4), *y = net_logits(&n, g, v, 4);
        kd_assert_all_close(y, z, 4 * NET_CLASSES, 1e-4, 1e-4 * net_largest(z, 4));
        assert_true(net_largest(z, 4) > 1e-3);
        free(z);
        free(y);
        free(v);
        kd_graph_free(g);
        net_free(&n);
    }
}

static void test_prune_channels_choice(void **state)
{
    (void)state;
    kd_diag diag = {0};
    zoo_net n = net_zoo("shallow_cnn", 32);
    kd_graph *g;
    float *v;
    /* Nothing asked for: the same network. */
    kd_assert_ok(kd_prune_channels(n.g, n.vector, 0, 1, &g, &v, &diag), &diag);
    assert_int_equal(g->vector_len, n.g->vector_len);
    assert_memory_equal(v, n.vector, g->vector_len * sizeof *v);
    free(v);
    kd_graph_free(g);
    /* A tenth of 64 and 128 channels in multiples of 16, the head as it is. */
    kd_assert_ok(kd_prune_channels(n.g, n.vector, 0.3, 16, &g, &v, &diag), &diag);
    assert_int_equal(kd_graph_param(g, "conv1.weight")->shape[0], 48);
    assert_int_equal(kd_graph_param(g, "conv2.weight")->shape[0], 96);
    assert_int_equal(kd_graph_param(g, "conv2.weight")->shape[1], 48);
    assert_int_equal(kd_graph_param(g, "fc2.weight")->shape[0], NET_CLASSES);
    free(v);
    kd_graph_free(g);
    /* Hardly anything left still works. */
    kd_assert_ok(kd_prune_channels(n.g, n.vector, 0.9999, 1, &g, &v, &diag), &diag);
    assert_int_equal(kd_graph_param(g, "conv1.weight")->shape[0], 1);
    float *z = net_logits(&n, g, v, 1);
    assert_true(isfinite(z[0]));
    free(z);
    free(v);
    kd_graph_free(g);
    static const struct {
        double share;
        int multiple;
        const char *says;
    } wrong[] = {{1, 1, "a share of 1 of the channels"},
                 {-0.25, 1, "a share of -0.25 of the channels"},
                 {NAN, 1, "nan of the channels"},
                 {0.5, 0, "in multiples of 0"}};
    for (size_t i = 0; i < KD_COUNT(wrong); i++)
        kd_assert_fails(
            kd_prune_channels(n.g, n.vector, wrong[i].share, wrong[i].multiple, &g, &v, &diag),
            KD_EINVAL, &diag, wrong[i].says);
    net_free(&n);
}

/* Channels behind a concatenation or a grouped convolution stay. */
static void test_prune_leaves_what_it_must(void **state)
{
    (void)state;
    const int pad[4] = {1, 1, 1, 1};
    kd_diag diag = {0};
    kd_graph *g = kd_graph_new(8, 8, 3), *p;
    float *v;
    int a = kd_graph_conv(g, 0, "a", 8, 3, 1, pad, 1, true, KD_INIT_HE_NORMAL);
    int b = kd_graph_conv(g, 0, "b", 8, 3, 1, pad, 1, true, KD_INIT_HE_NORMAL);
    int x = kd_graph_relu(g, kd_graph_concat(g, a, b, KD_AXIS_C));
    x = kd_graph_conv(g, x, "c", 8, 3, 1, pad, 1, true, KD_INIT_HE_NORMAL);
    x = kd_graph_conv(g, x, "grouped", 8, 3, 1, pad, 2, true, KD_INIT_HE_NORMAL);
    x = kd_graph_conv(g, x, "free", 8, 3, 2, pad, 1, true, KD_INIT_HE_NORMAL);
    x = kd_graph_dense(g, kd_graph_flatten(g, x), "fc", NET_CLASSES, true, KD_INIT_HE_NORMAL);
    kd_assert_ok(kd_graph_finish(g, x, &diag), &diag);
    zoo_net n = net_of(g, 8);
    kd_assert_ok(kd_prune_channels(g, n.vector, 0.5, 1, &p, &v, &diag), &diag);
    static const struct {
        const char *name;
        int left;
    } want[] = {{"a.weight", 8},
                {"b.weight", 8},
                {"c.weight", 8},
                {"grouped.weight", 8},
                {"free.weight", 4}};
    for (size_t i = 0; i < KD_COUNT(want); i++)
        assert_int_equal(kd_graph_param(p, want[i].name)->shape[0], want[i].left);
    assert_int_equal(kd_graph_param(p, "fc.weight")->shape[1], 4 * 16);
    free(v);
    kd_graph_free(p);
    net_free(&n);
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prune_schedule),
        cmocka_unit_test(test_prune_magnitude),
        cmocka_unit_test(test_prune_ties),
        cmocka_unit_test(test_prune_silent_channels),
        cmocka_unit_test(test_prune_channels_choice),
        cmocka_unit_test(test_prune_leaves_what_it_must),
    };
    return cmocka_run_group_tests_name("prune", tests, NULL, NULL);
}

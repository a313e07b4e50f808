/* The builders of the operators of imported networks, graphs that come from elsewhere, and how
 * plans fuse what they can. */
#include "checks.h"
#include "nets_ops.h"

static void assert_shape(const kd_graph *g, int node, int h, int w, int c)
{
    assert_true(node > 0);
    assert_int_equal(g->nodes[node].h, h);
    assert_int_equal(g->nodes[node].w, w);
    assert_int_equal(g->nodes[node].c, c);
}

static void test_graphs_shapes(void **state)
{
    (void)state;
    kd_graph *g = kd_graph_new(10, 8, 6);
    const kd_conv_spec conv = {.out_channels = 9,
                               .kernel_h = 3,
                               .kernel_w = 2,
                               .stride_h = 2,
                               .dilation_h = 3,
                               .groups = 3,
                               .pad = {2, 1, 1, 0},
                               .bias = true,
                               .head = true};
    /* (10+3-7)/2+1 and (8+1-2)/1+1 */
    const int a = kd_graph_conv2(g, 0, "a", &conv);
    assert_shape(g, a, 4, 8, 9);
    const kd_param *w = kd_graph_param(g, "a.weight"), *b = kd_graph_param(g, "a.bias");
    assert_true(w->head && b->head);
    assert_true(w->shape[0] == 9 && w->shape[1] == 2 && w->shape[2] == 3 && w->shape[3] == 2);
    assert_int_equal(w->fan_in, 12);
    const kd_pool_spec pool = {
        .average = true, .kernel_h = 3, .kernel_w = 2, .stride_w = 3, .pad = {1, 0, 2, 1}};
    assert_shape(g, kd_graph_pool(g, a, &pool), 5, 3, 9);
    const int k = kd_graph_const(g, "k", 1, 8, 1, KD_INIT_ONE);
    assert_shape(g, k, 1, 8, 1);
    const kd_param *value = kd_graph_param(g, "k.value");
    assert_int_equal(value->kind, KD_PARAM_FIXED);
    assert_int_equal(g->vector_len - g->trained_len, 8);
    assert_shape(g, kd_graph_mul(g, k, kd_graph_global_avg_pool(g, a)), 1, 8, 9);
    assert_shape(g, kd_graph_div(g, k, a), 4, 8, 9);
    assert_shape(g, kd_graph_pad(g, a, (int[]){1, 2, 3}, (int[]){4, 5, 6}, 0.5F), 11, 17, 14);
    assert_shape(g, kd_graph_concat(g, a, a, KD_AXIS_H), 8, 8, 9);
    assert_shape(g, kd_graph_slice(g, a, (int[]){8, 0, 1}, (int[]){-1, 4, 8}, (int[]){-3, 3, 2}), 2,
                 4, 3);
    assert_shape(g, kd_graph_reshape(g, a, 16, 2, 9), 16, 2, 9);
    const enum kd_axis of[] = {KD_AXIS_H, KD_AXIS_W, KD_AXIS_C};
    assert_shape(g, kd_graph_permute(g, a, of), 8, 9, 4);
    /* A padding as large as the kernel goes into a node of its own. */
    const kd_conv_spec wide = {.out_channels = 2, .pad = {1, 0, 0, 2}};
    const int c = kd_graph_conv2(g, a, "c", &wide);
    assert_shape(g, c, 5, 10, 2);
    assert_int_equal(g->nodes[g->nodes[c].in[0]].op, KD_OP_PAD);
    assert_string_equal(g->error, "");
    kd_graph_free(g);
}

static void test_graphs_macs_and_any_output(void **state)
{
    (void)state;
    kd_graph *g = kd_graph_new(6, 5, 4);
    kd_diag diag = {0};
    const kd_conv_spec conv = {
        .out_channels = 8, .kernel_h = 3, .kernel_w = 1, .groups = 2, .pad = {1, 0, 1, 0}};
    int x = kd_graph_silu(g, kd_graph_conv2(g, 0, "a", &conv));
    x = kd_graph_mul(g, x, kd_graph_const(g, "k", 1, 1, 8, KD_INIT_ONE));
    kd_assert_fails(kd_graph_finish(g, x, &diag), KD_EINVAL, &diag, "6x5x8");
    kd_assert_ok(kd_graph_finish_any(g, x, &diag), &diag);
    kd_assert_ok(kd_graph_check(g, &diag), &diag);
    assert_int_equal(kd_graph_macs(g), 8 * 2 * 3 * 30);
    kd_graph_free(g);
}

static void refuse(kd_graph *g, int output, const char *part)
{
    kd_diag diag = {0};
    assert_int_equal(output, -1);
    kd_assert_fails(kd_graph_finish_any(g, 1, &diag), KD_EINVAL, &diag, part);
    kd_graph_free(g);
}

#define REFUSE(part, ...)                                                                          \
    do {                                                                                           \
        kd_graph *g = kd_graph_new(4, 4, 3);                                                       \
        refuse(g, __VA_ARGS__, part);                                                              \
    } while (0)

static void test_graphs_refusals(void **state)
{
    (void)state;
    REFUSE("dilation 1x5000",
           kd_graph_conv2(g, 0, "a", &(kd_conv_spec){.out_channels = 1, .dilation_w = 5000}));
    REFUSE("does not fit",
           kd_graph_conv2(g, 0, "a",
                          &(kd_conv_spec){.out_channels = 1, .kernel_h = 3, .dilation_h = 2}));
    REFUSE("padding 2", kd_graph_pool(g, 0, &(kd_pool_spec){.kernel_h = 2, .pad = {2, 0, 0, 0}}));
    REFUSE("3x9 average-pool",
           kd_graph_pool(g, 0, &(kd_pool_spec){.average = true, .kernel_h = 3, .kernel_w = 9}));
    REFUSE("multiplied", kd_graph_mul(g, 0, kd_graph_const(g, "k", 1, 1, 2, KD_INIT_ONE)));
    REFUSE("subtracted", kd_graph_sub(g, 0, kd_graph_const(g, "k", 2, 1, 3, KD_INIT_ONE)));
    REFUSE("0x1x1", kd_graph_const(g, "k", 0, 1, 1, KD_INIT_ONE));
    REFUSE("clip", kd_graph_clip(g, 0, 2, 1));
    REFUSE("clip", kd_graph_clip(g, 0, NAN, 1));
    REFUSE("leaky_relu", kd_graph_leaky_relu(g, 0, INFINITY));
    REFUSE("rate of 1", kd_graph_dropout(g, 0, 1));
    REFUSE("rate of -0.5", kd_graph_drop_path(g, 0, -0.5F));
    REFUSE("places before", kd_graph_pad(g, 0, (int[]){0, -1, 0}, (int[]){0, 1, 0}, 0));
    REFUSE("of nan", kd_graph_pad(g, 0, (int[]){0, 0, 0}, (int[]){0, 1, 0}, NAN));
    REFUSE("too many", kd_graph_pad(g, 0, (int[]){0, 0, 0}, (int[]){9999, 9999, 9999}, 0));
    REFUSE("beside each other", kd_graph_concat(g, 0, kd_graph_global_avg_pool(g, 0), KD_AXIS_C));
    REFUSE("no axis 3", kd_graph_concat(g, 0, 0, (enum kd_axis)3));
    REFUSE("2 to 2 by 1 is no slice of 4",
           kd_graph_slice(g, 0, (int[]){0, 2, 0}, (int[]){3, 2, 4}, (int[]){1, 1, 1}));
    REFUSE("no slice of 3",
           kd_graph_slice(g, 0, (int[]){3, 0, 0}, (int[]){-1, 4, 4}, (int[]){-1, 1, 1}));
    REFUSE("by 0", kd_graph_slice(g, 0, (int[]){0, 0, 0}, (int[]){3, 4, 4}, (int[]){1, 0, 1}));
    REFUSE("cannot become", kd_graph_reshape(g, 0, 4, 4, 4));
    REFUSE("cannot become", kd_graph_reshape(g, 0, -4, -4, 3));
    REFUSE("named twice", kd_graph_permute(g, 0, (enum kd_axis[]){0, 1, 1}));
    REFUSE("no axis", kd_graph_permute(g, 0, (enum kd_axis[]){0, 1, (enum kd_axis)7}));
}

/* No shape but the one that follows from the inputs is taken. */
static void test_graphs_check_every_shape(void **state)
{
    (void)state;
    for (size_t i = 0; i < KD_COUNT(ops_nets); i++) {
        ref_net net = ops_net_make(&ops_nets[i], &ops_settings[2]);
        kd_diag diag = {0};
        kd_assert_ok(kd_graph_check(net.g, &diag), &diag);
        for (int n = 0; n < net.g->n_nodes; n++) {
            kd_node *node = &net.g->nodes[n];
            int *sides[] = {&node->h, &node->w, &node->c};
            for (size_t k = 0; k < KD_COUNT(sides); k++) {
                ++*sides[k];
                if (kd_graph_check(net.g, &diag) != -KD_EINVAL) {
                    print_error("%s: node '%s' may have another side %zu\n", net.name, node->name,
                                k);
                    fail();
                }
                --*sides[k];
            }
        }
        ref_net_free(&net);
    }
}

/* A graph with any number in any attribute is refused, or runs. */
static void test_graphs_hostile_attributes(void **state)
{
    (void)state;
    static const int values[] = {-2, -1, 0, 1, 2, 3, 5, 16, 4096, 100000, INT32_MAX, INT32_MIN};
    kd_rng r;
    kd_rng_init(&r, 3, KD_RNG_TEST, 8, 0);
    int ran = 0;
    for (size_t i = 0; i < KD_COUNT(ops_nets); i++) {
        ref_net net = ops_net_make(&ops_nets[i], &ops_settings[0]);
        float z[9];
        for (int round = 0; round < 60; round++) {
            kd_node *node = &net.g->nodes[1 + kd_rng_below(&r, (uint32_t)net.g->n_nodes - 1)];
            const kd_node was = *node;
            int *const ints[] = {&node->kernel_h, &node->kernel_w,   &node->stride_h,
                                 &node->stride_w, &node->dilation_h, &node->dilation_w,
                                 &node->groups,   &node->pad[0],     &node->pad[3],
                                 &node->start[0], &node->start[1],   &node->step[2],
                                 &node->in[0],    &node->in[1],      &node->weight,
                                 &node->bias,     &node->h,          &node->c};
            float *const floats[] = {&node->alpha, &node->beta, &node->eps};
            static const float odd[] = {NAN, INFINITY, -1, 0, 0.5F, 1, 2};
            if (kd_rng_below(&r, 4) == 0)
                *floats[kd_rng_below(&r, KD_COUNT(floats))] = odd[kd_rng_below(&r, KD_COUNT(odd))];
            else if (kd_rng_below(&r, 8) == 0)
                node->axis = node->of[1] = (enum kd_axis)kd_rng_below(&r, 5);
            else
                *ints[kd_rng_below(&r, KD_COUNT(ints))] =
                    values[kd_rng_below(&r, KD_COUNT(values))];
            kd_plan *p = NULL;
            kd_diag diag = {0};
            int rc = kd_plan_new(net.g, 3, KD_PLAN_TRAIN, &p, &diag);
            if (!rc)
                rc = kd_plan_load(p, net.vector, &diag);
            if (!rc)
                rc = kd_plan_forward(p, net.input, z, &diag);
            assert_true(rc == 0 || diag.msg[0]);
            ran += rc == 0;
            kd_plan_free(p);
            *node = was;
        }
        ref_net_free(&net);
    }
    assert_true(ran > 100); /* most attributes are another operator's */
}

/* ---- fusing */

static const ops_net *net_named(const char *name)
{
    for (size_t i = 0; i < KD_COUNT(ops_nets); i++)
        if (strcmp(ops_nets[i].name, name) == 0)
            return &ops_nets[i];
    fail();
    return NULL;
}

static int tasks_of(const kd_plan *p, enum kd_op op)
{
    int n = 0;
    for (int i = 0; i < p->n_tasks; i++)
        n += p->graph->nodes[p->tasks[i].node].op == op;
    return n;
}

/* A mobile block with squeeze-excite: in inference all but the pool and the product run inside
 * convolutions; in training SiLU runs inside the batch norms, keeps its input without one, and the
 * rest runs in place. Nothing changes the layout that the convolutions chose. */
static void test_graphs_fuse_mobile_block(void **state)
{
    (void)state;
    static const struct ops_setting setting = {16, 2, false};
    ref_net net = ops_net_make(net_named("mobile_block"), &setting);
    kd_plan *infer = plan_of(&net, 2, KD_PLAN_INFER), *train = plan_of(&net, 2, KD_PLAN_TRAIN);
    /* input, pre, expand, depth, pool, squeeze, excite, product, project, flatten, head */
    assert_int_equal(infer->n_tasks, 11);
    assert_int_equal(tasks_of(infer, KD_OP_CONV), 6);
    assert_int_equal(tasks_of(infer, KD_OP_MUL), 1);
    assert_int_equal(tasks_of(train, KD_OP_SILU), 1);
    assert_int_equal(tasks_of(train, KD_OP_SIGMOID), 0);
    assert_int_equal(tasks_of(train, KD_OP_DROP_PATH), 1);
    for (int i = 0; i < train->n_tasks; i++) {
        const kd_task *t = &train->tasks[i];
        const enum kd_op op = net.g->nodes[t->node].op;
        const int in = op == KD_OP_MUL ? t->in[1] : t->in[0];
        if (op == KD_OP_MUL || op == KD_OP_SILU || op == KD_OP_DROP_PATH)
            assert_true(kd_desc_equal(&train->values[in].md, &train->values[t->result].md));
    }
    kd_plan_free(infer);
    kd_plan_free(train);
    ref_net_free(&net);
}

/* An output that is no vector leaves, and its gradient enters, in channel-height-width order: the
 * same bits as flattened. */
static void test_graphs_output_of_any_shape(void **state)
{
    (void)state;
    static const enum kd_plan_use uses[] = {KD_PLAN_INFER, KD_PLAN_TRAIN};
    float *z[2][2], *d[2];
    size_t floats = 0, bytes = 0;
    for (int flat = 0; flat < 2; flat++) {
        kd_graph *g = kd_graph_new(5, 4, 3);
        int x = kd_graph_conv(g, 0, "c", 20, 3, 1, ref_pad1, 1, true, KD_INIT_HE_NORMAL);
        ref_net net = ref_net_of("shape", g, flat ? kd_graph_flatten(g, x) : x, 3);
        kd_diag diag = {0};
        floats = logits_of(&net);
        bytes = g->vector_len * sizeof(float);
        d[flat] = kd_xalloc(bytes);
        for (int u = 0; u < 2; u++) {
            z[flat][u] = kd_xalloc(floats * sizeof(float));
            kd_plan *p = plan_of(&net, 3, uses[u]);
            kd_assert_ok(kd_plan_forward(p, net.input, z[flat][u], &diag), &diag);
            if (u == 1)
                kd_assert_ok(kd_plan_backward(p, z[flat][u], 1, d[flat], &diag), &diag);
            kd_plan_free(p);
        }
        if (!flat) {
            ref_run r = ref_new(g, 3);
            const double *y = ref_forward(g, true, net.wide, net.input, &r);
            for (size_t i = 0; i < floats; i++) {
                const size_t b = i / 400, c = i / 20 % 20, place = i % 20;
                kd_assert_close(z[0][0][i], y[(b * 20 + place) * 20 + c], 1e-4, 1e-5);
            }
            ref_free(&r);
        }
        ref_net_free(&net);
    }
    for (int u = 0; u < 2; u++)
        assert_memory_equal(z[0][u], z[1][u], floats * sizeof(float));
    assert_memory_equal(d[0], d[1], bytes);
    for (int i = 0; i < 2; i++) {
        free(z[i][0]);
        free(z[i][1]);
        free(d[i]);
    }
}

int main(void)
{
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_graphs_shapes),
        cmocka_unit_test(test_graphs_macs_and_any_output),
        cmocka_unit_test(test_graphs_refusals),
        cmocka_unit_test(test_graphs_check_every_shape),
        cmocka_unit_test(test_graphs_hostile_attributes),
        cmocka_unit_test(test_graphs_fuse_mobile_block),
        cmocka_unit_test(test_graphs_output_of_any_shape),
    };
    return cmocka_run_group_tests_name("ops_graphs", tests, NULL, NULL);
}

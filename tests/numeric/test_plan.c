/* Plans against the reference, against themselves and against misuse. */
#include <omp.h>
#include <pthread.h>

#include "checks.h"

static const enum kd_plan_use uses[] = {KD_PLAN_INFER, KD_PLAN_TRAIN, KD_PLAN_TRAIN_FROZEN_BN};

static void test_plan_operators_forward(void **state)
{
    (void)state;
    for (int i = 0; i < REF_NETS; i++) {
        ref_net net = ref_net_make(i);
        for (size_t u = 0; u < KD_COUNT(uses); u++)
            check_forward(&net, uses[u]);
        ref_net_free(&net);
    }
}

static void test_plan_random_nets_forward(void **state)
{
    (void)state;
    for (uint64_t seed = 100; seed < 160; seed++) {
        ref_net net = ref_net_random(seed);
        for (size_t u = 0; u < KD_COUNT(uses); u++)
            check_forward(&net, uses[u]);
        ref_net_free(&net);
    }
}

/* Folded into weights and run as post-operations, or node by node: the same function. */
static void test_plan_folded_as_unfolded(void **state)
{
    (void)state;
    static const int which[] = {REF_INVERTED_RESIDUAL, REF_ADD, REF_ADD_SHARED_RESIDUAL,
                                REF_BATCH_NORM_TWICE, REF_STUDENT};
    for (size_t i = 0; i < KD_COUNT(which); i++) {
        ref_net net = ref_net_make(which[i]);
        float *folded = logits_by(&net, net.batch, KD_PLAN_INFER, net.input);
        float *unfolded = logits_by(&net, net.batch, KD_PLAN_TRAIN_FROZEN_BN, net.input);
        kd_assert_all_close(folded, unfolded, logits_of(&net), 1e-4, 1e-4);
        free(folded);
        free(unfolded);
        ref_net_free(&net);
    }
}

/* The inverted residual becomes convolutions only, in training convolutions and batch norms: fusing
 * must not quietly stop. */
static void test_plan_fuses_inverted_residual(void **state)
{
    (void)state;
    ref_net net = ref_net_make(REF_INVERTED_RESIDUAL);
    kd_plan *infer = plan_of(&net, 1, KD_PLAN_INFER), *train = plan_of(&net, 1, KD_PLAN_TRAIN);
    int convs = 0, norms = 0;
    for (int i = 0; i < net.g->n_nodes; i++) {
        convs += net.g->nodes[i].op == KD_OP_CONV;
        norms += net.g->nodes[i].op == KD_OP_BATCH_NORM;
    }
    /* and the input, the average, the flatten and the head; "pre" and "linear" stay two */
    assert_int_equal(infer->n_tasks, convs + 4);
    assert_int_equal(train->n_tasks, convs + norms + 4);
    assert_true(kd_plan_arena_bytes(infer) < kd_plan_arena_bytes(train));
    for (int i = 0; i < infer->n_tasks; i++)
        if (infer->tasks[i].residual >= 0)
            assert_int_equal(infer->values[infer->tasks[i].residual].block,
                             infer->values[infer->tasks[i].result].block);
    kd_plan_free(infer);
    kd_plan_free(train);
    ref_net_free(&net);
}

/* No two things that live at one tick share a byte, and no task writes over what it reads. */
static void test_plan_arena_has_no_overlap(void **state)
{
    (void)state;
    for (uint64_t seed = 145; seed <= 155; seed++) {
        ref_net net = ref_net_random(seed);
        for (size_t u = 0; u < KD_COUNT(uses); u++) {
            kd_plan *p = plan_of(&net, net.batch, uses[u]);
            size_t sum = 0;
            for (int i = 1; i < p->n_tasks; i++)
                for (int k = 0; k < 2; k++)
                    assert_true(p->tasks[i].in[k] < 0 || p->values[p->tasks[i].in[k]].block !=
                                                             p->values[p->tasks[i].result].block);
            for (int i = 0; i < p->n_blocks; i++) {
                const kd_block *a = &p->blocks[i];
                sum += a->bytes;
                assert_true(a->offset % 64 == 0 && a->offset + a->bytes <= p->arena_bytes);
                for (int k = 0; k < i; k++) {
                    const kd_block *b = &p->blocks[k];
                    const bool together = a->first <= b->last && b->first <= a->last;
                    const bool overlap =
                        a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
                    assert_false(together && overlap);
                }
            }
            assert_true(p->arena_bytes < sum);
            kd_plan_free(p);
        }
        ref_net_free(&net);
    }
}

/* An image's logits do not know the image's place, its neighbours or the plan's batch. */
static void test_plan_infer_rows_stand_alone(void **state)
{
    (void)state;
    static const int which[] = {REF_INVERTED_RESIDUAL, REF_STUDENT, REF_MLP, REF_CONV_WIDE};
    static const int order[] = {2, 0, 1};
    for (size_t i = 0; i < KD_COUNT(which); i++) {
        ref_net net = ref_net_make(which[i]);
        const size_t picture = ref_count(&net.g->nodes[0]), row = logits_of(&net) / 3;
        /* One float further: rows at addresses that are no multiple of 64. */
        float *memory = kd_xalloc((3 * picture + 1) * sizeof *memory), *mixed = memory + 1;
        for (size_t k = 0; k < 3; k++)
            memcpy(mixed + k * picture, net.input + (size_t)order[k] * picture,
                   picture * sizeof *mixed);
        float *straight = logits_by(&net, 3, KD_PLAN_INFER, net.input);
        float *permuted = logits_by(&net, 3, KD_PLAN_INFER, mixed);
        for (size_t k = 0; k < 3; k++) {
            const float *z = straight + (size_t)order[k] * row;
            assert_memory_equal(permuted + k * row, z, row * sizeof *z);
            float *alone = logits_by(&net, 1, KD_PLAN_INFER, mixed + k * picture);
            assert_memory_equal(alone, z, row * sizeof *z);
            free(alone);
        }
        free(straight);
        free(permuted);
        free(memory);
        ref_net_free(&net);
    }
}

/* ---- the same bits everywhere */

typedef struct {
    const ref_net *net;
    size_t bytes;
    float *gradient; /* of the last of a few steps that move the weights */
    kd_diag diag;
    int rc;
} steps_run;

static void *run_steps(void *arg)
{
    steps_run *s = arg;
    const ref_net *net = s->net;
    const size_t n = logits_of(net);
    float *vector = kd_xalloc(s->bytes), *z = kd_xalloc(n * sizeof *z);
    kd_plan *p = NULL;
    kd_engine_thread();
    memcpy(vector, net->vector, s->bytes);
    s->rc = kd_plan_new(net->g, net->batch, KD_PLAN_TRAIN, &p, &s->diag);
    for (int step = 0; step < 3 && !s->rc; step++) {
        s->rc = kd_plan_load(p, vector, &s->diag);
        if (!s->rc)
            s->rc = kd_plan_forward(p, net->input, z, &s->diag);
        if (!s->rc)
            s->rc = kd_plan_backward(p, z, 1, s->gradient, &s->diag);
        for (size_t i = 0; i < net->g->vector_len; i++)
            vector[i] -= 1e-3F * s->gradient[i];
    }
    kd_plan_free(p);
    free(vector);
    free(z);
    return NULL;
}

static void test_plan_same_bits_in_every_instance_and_thread(void **state)
{
    (void)state;
    enum { THREADS = 2 };
    static const int which[] = {REF_INVERTED_RESIDUAL, REF_STUDENT, REF_MLP};
    for (size_t i = 0; i < KD_COUNT(which); i++) {
        ref_net net = ref_net_make(which[i]);
        steps_run runs[THREADS + 1];
        pthread_t threads[THREADS];
        for (int k = 0; k <= THREADS; k++) {
            const size_t bytes = net.g->vector_len * sizeof(float);
            runs[k] = (steps_run){.net = &net, .bytes = bytes, .gradient = kd_xalloc(bytes)};
            if (k < THREADS)
                assert_int_equal(pthread_create(&threads[k], NULL, run_steps, &runs[k]), 0);
            else
                run_steps(&runs[k]);
        }
        for (int k = 0; k < THREADS; k++)
            assert_int_equal(pthread_join(threads[k], NULL), 0);
        for (int k = 0; k <= THREADS; k++) {
            kd_assert_ok(runs[k].rc, &runs[k].diag);
            assert_memory_equal(runs[k].gradient, runs[0].gradient, runs[0].bytes);
        }
        for (int k = 0; k <= THREADS; k++)
            free(runs[k].gradient);
        ref_net_free(&net);
    }
}

/* ---- trouble */

static void test_plan_names_the_nonfinite_layer(void **state)
{
    (void)state;
    ref_net net = ref_net_make(REF_STUDENT);
    kd_diag diag = {0};
    net.vector[kd_graph_param(net.g, "c2.bias")->offset + 3] = INFINITY;
    float *z = kd_xalloc(logits_of(&net) * sizeof *z);
    kd_plan *p = plan_of(&net, net.batch, KD_PLAN_TRAIN);
    assert_null(kd_plan_find_nonfinite(p)); /* nothing ran */
    kd_assert_ok(kd_plan_forward(p, net.input, z, &diag), &diag);
    assert_string_equal(kd_plan_find_nonfinite(p), "c2");
    kd_plan_free(p);
    /* An inference plan may have overwritten the layer, but never keeps quiet. */
    p = plan_of(&net, net.batch, KD_PLAN_INFER);
    kd_assert_ok(kd_plan_forward(p, net.input, z, &diag), &diag);
    assert_non_null(kd_plan_find_nonfinite(p));
    kd_plan_free(p);
    free(z);
    ref_net_free(&net);
}

static void test_plan_refuses_misuse(void **state)
{
    (void)state;
    ref_net net = ref_net_make(REF_INVERTED_RESIDUAL);
    kd_diag diag = {0};
    kd_plan *p = NULL;
    float *z = kd_xalloc(logits_of(&net) * sizeof *z);
    float *gradient = kd_xalloc(net.g->vector_len * sizeof *gradient);
    kd_assert_fails(kd_plan_new(net.g, 0, KD_PLAN_INFER, &p, &diag), KD_EINVAL, &diag, "4096");
    kd_assert_fails(kd_plan_new(net.g, 4097, KD_PLAN_INFER, &p, &diag), KD_EINVAL, &diag, "4096");
    assert_null(p);
    kd_assert_ok(kd_plan_new(net.g, net.batch, KD_PLAN_INFER, &p, &diag), &diag);
    kd_assert_fails(kd_plan_forward(p, net.input, z, &diag), KD_ESTATE, &diag, "no weights");
    kd_assert_ok(kd_plan_load(p, net.vector, &diag), &diag);
    kd_assert_ok(kd_plan_forward(p, net.input, z, &diag), &diag);
    kd_assert_fails(kd_plan_backward(p, z, 1, gradient, &diag), KD_ESTATE, &diag, "no backward");
    /* No batch norm can be folded over a negative variance; the plan has no weights then. */
    net.vector[kd_graph_param(net.g, "depth_bn.running_var")->offset + 1] = -1;
    kd_assert_fails(kd_plan_load(p, net.vector, &diag), KD_EDATA, &diag, "depth_bn");
    kd_assert_fails(kd_plan_forward(p, net.input, z, &diag), KD_ESTATE, &diag, "no weights");
    kd_plan_free(p);
    p = plan_of(&net, net.batch, KD_PLAN_TRAIN);
    kd_assert_fails(kd_plan_backward(p, z, 1, gradient, &diag), KD_ESTATE, &diag, "forward");
    kd_assert_ok(kd_plan_forward(p, net.input, z, &diag), &diag);
    kd_assert_ok(kd_plan_backward(p, z, 1, gradient, &diag), &diag);
    kd_assert_fails(kd_plan_backward(p, z, 1, gradient, &diag), KD_ESTATE, &diag, "forward");
    /* A thread that may use several would compute other bits. */
    omp_set_num_threads(2);
    kd_assert_fails(kd_plan_forward(p, net.input, z, &diag), KD_ESTATE, &diag, "kd_engine_thread");
    kd_engine_thread();
    kd_assert_ok(kd_plan_forward(p, net.input, z, &diag), &diag);
    kd_plan_free(p);
    kd_plan_free(NULL);
    free(z);
    free(gradient);
    ref_net_free(&net);
}

/* Every shape rule, by bending a good graph. */
static void test_plan_refuses_impossible_shapes(void **state)
{
    (void)state;
    static const struct {
        int net;
        enum kd_op op;
        const char *part;
    } cases[] = {
        {REF_CONV, KD_OP_CONV, "Convolution"},
        {REF_BATCH_NORM, KD_OP_BATCH_NORM, "Batch norm"},
        {REF_RELU_SHARED, KD_OP_RELU, "shape"},
        {REF_MAX_POOL, KD_OP_MAX_POOL, "Max pool"},
        {REF_FLATTEN, KD_OP_FLATTEN, "Flatten"},
        {REF_MLP, KD_OP_DENSE, "parameters"},
        {REF_ADD_SELF, KD_OP_ADD, "Arithmetic"},
        {REF_GLOBAL_AVG_POOL, KD_OP_GLOBAL_AVG_POOL, "Global"},
    };
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        ref_net net = ref_net_make(cases[i].net);
        kd_diag diag = {0};
        kd_plan *p = NULL;
        int at = 0;
        while (net.g->nodes[at].op != cases[i].op)
            at++;
        net.g->nodes[at].c++;
        kd_assert_fails(kd_plan_new(net.g, 1, KD_PLAN_INFER, &p, &diag), KD_EINVAL, &diag,
                        cases[i].part);
        net.g->nodes[at].c--;
        const int in = net.g->nodes[at].in[0];
        net.g->nodes[at].in[0] = at;
        kd_assert_fails(kd_plan_new(net.g, 1, KD_PLAN_INFER, &p, &diag), KD_EINVAL, &diag,
                        "before");
        net.g->nodes[at].in[0] = in;
        net.g->nodes[at].h = 0;
        kd_assert_fails(kd_plan_new(net.g, 1, KD_PLAN_TRAIN, &p, &diag), KD_EINVAL, &diag, "shape");
        ref_net_free(&net);
    }
    /* One value a channel has no variance. */
    kd_graph *g = kd_graph_new(1, 1, 4);
    ref_net net = ref_net_of("point", g, kd_graph_batch_norm(g, 0, "bn", 1e-3F), 1);
    kd_diag diag = {0};
    kd_plan *p = NULL;
    kd_assert_fails(kd_plan_new(g, 1, KD_PLAN_TRAIN, &p, &diag), KD_EINVAL, &diag, "variance");
    check_forward(&net, KD_PLAN_TRAIN_FROZEN_BN);
    ref_net_free(&net);
}

int main(void)
{
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_operators_forward),
        cmocka_unit_test(test_plan_random_nets_forward),
        cmocka_unit_test(test_plan_folded_as_unfolded),
        cmocka_unit_test(test_plan_fuses_inverted_residual),
        cmocka_unit_test(test_plan_arena_has_no_overlap),
        cmocka_unit_test(test_plan_infer_rows_stand_alone),
        cmocka_unit_test(test_plan_same_bits_in_every_instance_and_thread),
        cmocka_unit_test(test_plan_names_the_nonfinite_layer),
        cmocka_unit_test(test_plan_refuses_misuse),
        cmocka_unit_test(test_plan_refuses_impossible_shapes),
    };
    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}

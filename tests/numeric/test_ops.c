/* Every operator of imported networks: forward in all uses and gradients against the reference,
 * with values shared and not, and an image's results wherever it stands. */
#include "checks.h"
#include "nets_ops.h"

static const enum kd_plan_use uses[] = {KD_PLAN_INFER, KD_PLAN_TRAIN, KD_PLAN_TRAIN_FROZEN_BN};

static void test_ops_forward(void **state)
{
    (void)state;
    for (size_t i = 0; i < KD_COUNT(ops_nets); i++)
        for (size_t k = 0; k < KD_COUNT(ops_settings); k++) {
            ref_net net = ops_net_make(&ops_nets[i], &ops_settings[k]);
            for (size_t u = 0; u < KD_COUNT(uses); u++)
                check_forward(&net, uses[u]);
            ref_net_free(&net);
        }
}

static void test_ops_gradients(void **state)
{
    (void)state;
    for (size_t i = 0; i < KD_COUNT(ops_nets); i++)
        for (size_t k = 0; k < KD_COUNT(ops_settings); k++) {
            ref_net net = ops_net_make(&ops_nets[i], &ops_settings[k]);
            check_gradients(&net);
            ref_net_free(&net);
        }
}

static void test_ops_infer_rows_stand_alone(void **state)
{
    (void)state;
    static const struct ops_setting setting = {20, 3, true};
    static const size_t order[] = {2, 0, 1};
    for (size_t i = 0; i < KD_COUNT(ops_nets); i++) {
        ref_net net = ops_net_make(&ops_nets[i], &setting);
        const size_t picture = ref_count(&net.g->nodes[0]), row = logits_of(&net) / 3;
        float *mixed = kd_xalloc(3 * picture * sizeof *mixed);
        for (size_t k = 0; k < 3; k++)
            memcpy(mixed + k * picture, net.input + order[k] * picture, picture * sizeof *mixed);
        float *straight = logits_by(&net, 3, KD_PLAN_INFER, net.input);
        float *permuted = logits_by(&net, 3, KD_PLAN_INFER, mixed);
        for (size_t k = 0; k < 3; k++) {
            float *alone = logits_by(&net, 1, KD_PLAN_INFER, mixed + k * picture);
            assert_memory_equal(permuted + k * row, straight + order[k] * row, row * sizeof *alone);
            assert_memory_equal(alone, straight + order[k] * row, row * sizeof *alone);
            free(alone);
        }
        free(straight);
        free(permuted);
        free(mixed);
        ref_net_free(&net);
    }
}

int main(void)
{
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ops_forward),
        cmocka_unit_test(test_ops_gradients),
        cmocka_unit_test(test_ops_infer_rows_stand_alone),
    };
    return cmocka_run_group_tests_name("ops", tests, NULL, NULL);
}

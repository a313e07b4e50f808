/* Gradients of every operator against central differences; checks.h has the scheme. */
#include "checks.h"

static void test_gradients_operators(void **state)
{
    (void)state;
    for (int i = 0; i < REF_NETS; i++) {
        ref_net net = ref_net_make(i);
        check_gradients(&net);
        ref_net_free(&net);
    }
}

/* Every element of the gradient at once: L along a random direction. */
static void test_gradients_random_nets(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        ref_net net = ref_net_random(seed);
        float *d_logits, *gradient = engine_gradient(&net, KD_PLAN_TRAIN_FROZEN_BN, &d_logits);
        ref_run r = ref_new(net.g, net.batch);
        r.noisy = true;
        double *w = kd_xalloc(net.g->vector_len * sizeof *w), ends[2], dot = 0, size = 0;
        for (int side = 0; side < 2; side++) {
            kd_rng rng;
            kd_rng_init(&rng, seed, KD_RNG_TEST, 4, 0);
            dot = size = 0;
            memcpy(w, net.wide, net.g->vector_len * sizeof *w);
            for (int i = 0; i < net.g->n_params; i++)
                for (size_t k = 0; k < net.g->params[i].count; k++) {
                    const size_t at = net.g->params[i].offset + k;
                    const double along = kd_rng_normal(&rng);
                    if (net.g->params[i].kind != KD_PARAM_TRAINED)
                        continue;
                    w[at] += (side ? -REF_STEP : REF_STEP) * along;
                    dot += along * (double)gradient[at];
                    size += along * along * (double)gradient[at] * (double)gradient[at];
                }
            ends[side] = scalar(&net, false, w, d_logits, &r);
        }
        kd_assert_close(dot, (ends[0] - ends[1]) / (2 * REF_STEP), 1e-4, 1e-4 * sqrt(size) + 1e-5);
        free(w);
        ref_free(&r);
        free(gradient);
        free(d_logits);
        ref_net_free(&net);
    }
}

int main(void)
{
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients_operators),
        cmocka_unit_test(test_gradients_random_nets),
    };
    return cmocka_run_group_tests_name("gradients", tests, NULL, NULL);
}

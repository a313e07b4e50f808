/* The protocol in simulation (sim.h): a thousand seeds, a thousand workers, a slow one, an odd one.
 *
 *   test_sim                 all of it
 *   test_sim --seed N [-v]   one seed again; -v tells what happens
 *   test_sim --odd N [-v]    the same with an odd worker
 *   test_sim --seeds N       that many of them */
#include "kd_test.h"

#include "sim.h"

#include "kd/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t g_seeds = 1000;

static void test_sim_seeds(void **state)
{
    (void)state;
    uint64_t rebuilt = 0, redone = 0, reopened = 0, reshapes = 0, second = 0;
    for (uint64_t seed = 1; seed <= g_seeds; seed++) {
        kd_sim_config cfg;
        kd_sim_result r;
        kd_sim_draw(seed, &cfg);
        kd_sim_run(&cfg, &r);
        if (r.broken)
            fail_msg("seed %llu breaks \"%s\": %s\n  again: test_sim --seed %llu -v",
                     (unsigned long long)seed, r.broken, r.detail, (unsigned long long)seed);
        rebuilt += r.rebuilt;
        redone += r.steps_redone;
        reopened += r.reopened;
        reshapes += r.reshapes;
        second += r.second_runs;
    }
    print_message("%llu seeds: %llu openings, %llu memberships, %llu chunks rebuilt from "
                  "checkpoints, %llu units run twice, %llu steps redone after power failures\n",
                  (unsigned long long)g_seeds, (unsigned long long)reopened,
                  (unsigned long long)reshapes, (unsigned long long)rebuilt,
                  (unsigned long long)second, (unsigned long long)redone);
    /* The faults did hit. */
    assert_true(g_seeds < 1000 || (rebuilt > 100 && reshapes > 2000 && reopened > 1200));
}

static kd_sim_config eight_workers(void)
{
    return (kd_sim_config){.seed = 7,
                           .workers = 8,
                           .threads = 1,
                           .slots = 32,
                           .chunks = 8,
                           .steps = 60,
                           .eval_steps = 60,
                           .checkpoint_every = 20,
                           .min_workers = 1,
                           .max_workers = 8,
                           .loop_ms = 20,
                           .odd_worker = -1};
}

static kd_sim_config with_odd_worker(uint64_t seed)
{
    kd_sim_config cfg = eight_workers();
    cfg.seed = seed;
    cfg.workers = 4;
    cfg.slots = 8;
    cfg.audit = 1;
    cfg.odd_worker = 1;
    return cfg;
}

static kd_sim_result unbroken(const kd_sim_config *cfg)
{
    kd_sim_result r;
    kd_sim_run(cfg, &r);
    if (r.broken)
        fail_msg("seed %llu breaks \"%s\": %s", (unsigned long long)cfg->seed, r.broken, r.detail);
    return r;
}

static void test_sim_nothing_is_refused_without_a_fault(void **state)
{
    (void)state;
    kd_sim_config cfg = eight_workers();
    for (cfg.seed = 1; cfg.seed <= 20; cfg.seed++) {
        cfg.bfloat16 = cfg.seed % 2 == 0;
        assert_int_equal(unbroken(&cfg).refused, 0);
    }
}

static void test_sim_slow_worker_costs_half_a_step_at_most(void **state)
{
    (void)state;
    double worst = 0, sum = 0;
    const int seeds = 12;
    for (int seed = 1; seed <= seeds; seed++) {
        kd_sim_config cfg = eight_workers();
        cfg.seed = (uint64_t)seed;
        cfg.loop_ms = 0; /* what the worker costs, not what else the coordinator does */
        double even = unbroken(&cfg).virtual_ms;
        cfg.slow_worker = 10;
        double slow = unbroken(&cfg).virtual_ms;
        worst = KD_MAX(worst, slow / even);
        sum += slow / even;
    }
    print_message("60 steps of 8 workers and 32 slots, one worker ten times slower, %d seeds: %.2f "
                  "times the time in the mean, %.2f at most\n",
                  seeds, sum / seeds, worst);
    assert_true(worst < 1.5);
}

static void test_sim_odd_worker_is_found(void **state)
{
    (void)state;
    int found = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        kd_sim_config cfg = with_odd_worker(seed);
        kd_sim_result r;
        kd_sim_run(&cfg, &r);
        if (r.broken)
            fail_msg("seed %llu breaks \"%s\": %s", (unsigned long long)seed, r.broken, r.detail);
        found += r.quarantined > 0;
    }
    assert_int_equal(found, 20);
}

static void test_sim_thousand_workers(void **state)
{
    (void)state;
    kd_sim_config cfg = eight_workers();
    kd_sim_result r;
    cfg.workers = 1000;
    cfg.slots = 1024;
    cfg.chunks = 40;
    cfg.steps = 4;
    cfg.eval_steps = 2;
    cfg.max_workers = 1000;
    cfg.worker_kills = 20;
    cfg.coordinator_kills = 1;
    kd_sim_run(&cfg, &r);
    if (r.broken)
        fail_msg("breaks \"%s\": %s", r.broken, r.detail);
}

static int one_seed(uint64_t seed, bool odd, bool verbose)
{
    kd_sim_config cfg;
    kd_sim_result r;
    kd_sim_draw(seed, &cfg);
    if (odd)
        cfg = with_odd_worker(seed);
    cfg.verbose = verbose;
    if (verbose)
        printf("workers %d threads %d slots %u chunks %u steps %llu eval %llu checkpoint %llu "
               "min %u clip %g average %d bfloat16 %d audit %g loss %g\n",
               cfg.workers, cfg.threads, cfg.slots, cfg.chunks, (unsigned long long)cfg.steps,
               (unsigned long long)cfg.eval_steps, (unsigned long long)cfg.checkpoint_every,
               cfg.min_workers, cfg.clip_norm, cfg.average, cfg.bfloat16, cfg.audit, cfg.loss);
    kd_sim_run(&cfg, &r);
    printf("seed %llu: %s %s, %.0f virtual ms\n", (unsigned long long)seed,
           r.broken ? r.broken : "well", r.broken ? r.detail : "", r.virtual_ms);
    return r.broken != NULL;
}

int main(int argc, char **argv)
{
    if (argc > 2 && (strcmp(argv[1], "--seed") == 0 || strcmp(argv[1], "--odd") == 0))
        return one_seed(strtoull(argv[2], NULL, 10), argv[1][2] == 'o', argc > 3);
    bool only_seeds = argc > 2 && strcmp(argv[1], "--seeds") == 0;
    if (only_seeds)
        g_seeds = strtoull(argv[2], NULL, 10);
    const struct CMUnitTest seeds[] = {cmocka_unit_test(test_sim_seeds)};
    const struct CMUnitTest rest[] = {
        cmocka_unit_test(test_sim_nothing_is_refused_without_a_fault),
        cmocka_unit_test(test_sim_slow_worker_costs_half_a_step_at_most),
        cmocka_unit_test(test_sim_odd_worker_is_found),
        cmocka_unit_test(test_sim_thousand_workers),
    };
    int failed = cmocka_run_group_tests(seeds, NULL, NULL);
    return only_seeds ? failed : failed + cmocka_run_group_tests(rest, NULL, NULL);
}

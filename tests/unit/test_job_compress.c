/* The list `compress` of a job file. */
#include "job_case.h"

#include <stdio.h>

#define STEPS(list) TEACHER "distill: {optimizer: {lr: 1e-2}, epochs: 3}\ncompress: " list "\n"

static void test_compress_steps(void **state)
{
    (void)state;
    kd_job j;
    char text[96];
    accept(STEPS("\n"
                 "  - {prune: 0.8}\n"
                 "  - {quantize: {method: kl, epochs: 2, lr: 0.5}}\n"
                 "  - {channels: {share: 0.5, multiple: 8, epochs: 0, from: student}}\n"
                 "  - {weights: bfloat16}\n"
                 "  - {quantize: int8}\n"
                 "  - {weights: {type: float16, from: student}}"),
           &j);
    assert_int_equal(j.n_compress, 6);
    const kd_compress_spec *c = j.compress;
    assert_int_equal(c[0].kind, KD_COMPRESS_PRUNE);
    kd_assert_close(c[0].share, 0.8, 0, 0);
    kd_assert_close(c[0].ramp, 0.75, 0, 0);
    assert_int_equal(c[0].scope, KD_SCOPE_GLOBAL);
    assert_int_equal(c[0].tune.epochs, 4);
    kd_assert_close(c[0].tune.optimizer.lr, 1e-3, 1e-12, 0);
    assert_int_equal(c[0].tune.optimizer.schedule, KD_COSINE);
    kd_assert_close(c[0].tune.loss.kd, j.distill.loss.kd, 0, 0);
    assert_int_equal(c[1].method, KD_METHOD_KL);
    assert_int_equal(c[1].pictures, 128);
    kd_assert_close(c[1].tune.optimizer.lr, 0.5, 0, 0);
    assert_int_equal(c[1].made.epochs, 0);
    assert_int_equal(c[2].multiple, 8);
    assert_true(c[3].bfloat16 && !c[5].bfloat16);

    assert_int_equal(kd_compress_source(&j, 1), 0);
    assert_int_equal(kd_compress_source(&j, 2), -1);
    assert_true(kd_compress_int8(&j, 1) && !kd_compress_int8(&j, 3) && kd_compress_int8(&j, 4));
    assert_int_equal(kd_compress_half(&j, 2), KD_HALF_NONE);
    assert_int_equal(kd_compress_half(&j, 3), KD_HALF_BFLOAT16);
    assert_int_equal(kd_compress_half(&j, 4), KD_HALF_NONE);
    assert_int_equal(kd_compress_half(&j, 5), KD_HALF_FLOAT16);
    kd_compress_text(&c[1], text, sizeof text);
    assert_string_equal(text, "8 bits (kl), 2 epochs");
    kd_compress_text(&c[0], text, sizeof text);
    assert_string_equal(text, "80 % of the weights pruned, 4 epochs");
    round_trip(&j);

    static const char *const names[] = {"teacher",   "distill",   "tune",      "compress",
                                        "tune2",     "compress2", "compress3", "compress4",
                                        "compress5", "compress6", "evaluate",  "export"};
    enum kd_stage_kind kinds[KD_MAX_STAGES];
    assert_int_equal(kd_job_stages(&j, kinds), KD_COUNT(names));
    for (size_t i = 0; i < KD_COUNT(names); i++) {
        char made[40];
        assert_string_equal(kd_stage_name(kinds[i]), names[i]);
        snprintf(made, sizeof made, "%s.safetensors", names[i]);
        assert_int_equal(kd_stage_name_tunes(names[i]), kd_stage_tune(kinds[i]) >= 0);
        assert_int_equal(kd_stage_name_tunes(made), kd_stage_tune(kinds[i]) >= 0);
    }
    static const char *const others[] = {"",       "tun",  "tune9", "tunes.safetensors",
                                         "tune22", ".tune"};
    for (size_t i = 0; i < KD_COUNT(others); i++)
        assert_false(kd_stage_name_tunes(others[i]));
    assert_ptr_equal(kd_job_train(&j, kinds[4]), &j.compress[1].tune);
    assert_ptr_equal(kd_job_train(&j, kinds[5]), &j.compress[1].made);
    assert_ptr_equal(kd_job_model(&j, kinds[5]), &j.student);
    char notes[4][256];
    assert_int_equal(kd_job_notes(&j, notes, 4), 1);
    assert_non_null(strstr(notes[0], "compress[2]: 50 % of the channels go at once"));
}

static void test_compress_needs_none(void **state)
{
    (void)state;
    kd_job j;
    kd_diag diag = {0};
    char *text;
    accept(TEACHER, &j);
    assert_int_equal(j.n_compress, 0);
    kd_assert_ok(kd_job_resolved(&j, &text, &diag), &diag);
    assert_null(strstr(text, "compress"));
    free(text);
    accept(STEPS("[]"), &j);
    assert_int_equal(j.n_compress, 0);
    /* As many as there may be, behind four teachers and a twin. */
    accept(STEPS("[{prune: 0.1}, {prune: 0.2}, {prune: 0.3}, {prune: 0.4}, {prune: 0.5}, "
                 "{prune: 0.6}, {prune: 0.7}, {prune: 0.8}]\nscratch: {}"),
           &j);
    enum kd_stage_kind kinds[KD_MAX_STAGES];
    assert_int_equal(kd_job_stages(&j, kinds), 1 + 2 + 2 * KD_MAX_COMPRESS + 2);
}

static void test_compress_refused(void **state)
{
    (void)state;
    refuse(STEPS("{prune: 0.5}"), "compress: expected a list, as in [{prune: 0.8}");
    refuse(STEPS("[prune]"), "compress[0]: expected {prune: {share: N");
    refuse(STEPS("[{prun: 0.5}]"), "found `prun`, did you mean `prune`?");
    refuse(STEPS("[{prune: 1}]"), "compress[0].prune: expected a number above 0 to below 1");
    refuse(STEPS("[{prune: 0}]"), "compress[0].prune: expected a number above 0");
    refuse(STEPS("[{prune: {epochs: 3}}]"), "compress[0].prune.share: missing");
    refuse(STEPS("[{prune: {share: 0.5, scope: all}}]"), "expected one of global|layer");
    refuse(STEPS("[{prune: {share: 0.5, ramp: 1.5}}]"), "compress[0].prune.ramp: expected");
    refuse(STEPS("[{quantize: int4}]"), "compress[0].quantize: expected one of int8");
    refuse(STEPS("[{quantize: {method: entropy}}]"), "minmax|percentile|mse|kl");
    refuse(STEPS("[{quantize: {pictures: 31}}]"), "compress[0].quantize.pictures: expected");
    refuse(STEPS("[{weights: int8}]"), "expected one of float16|bfloat16");
    refuse(STEPS("[{weights: {from: student}}]"), "compress[0].weights.type: missing");
    refuse(STEPS("[{quantize: int8}, {prune: 0.5}, {quantize: int8}]"),
           "compress[2]: the weights have 8 bits since compress[0]");
    refuse(STEPS("[{quantize: int8}, {weights: float16}]"), "compress[1]: the weights have 8 bits");
    refuse(STEPS("[{prune: 0.8}, {quantize: int8}, {prune: 0.5}]"),
           "compress[2]: 0.8 of the weights are gone since compress[0]");
    kd_job j;
    accept(STEPS("[{prune: 0.8}, {quantize: int8}, {prune: {share: 0.5, from: student}}, "
                 "{quantize: {from: student}}]"),
           &j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compress_steps),
        cmocka_unit_test(test_compress_needs_none),
        cmocka_unit_test(test_compress_refused),
    };
    return cmocka_run_group_tests_name("job_compress", tests, NULL, NULL);
}

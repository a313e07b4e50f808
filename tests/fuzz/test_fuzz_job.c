/* Job files and overrides from hostile hands: seeds, mutated. */
#include "fuzz.h"
#include "kd_test.h"

#include "kd/file.h"
#include "kd/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXT 8192

static const char *const g_seeds[] = {
    "name: a\ndata: {labelled: {path: p, train: t, val: v}}\nstudent: {model: mlp, hidden: [1, "
    "2]}\n"
    "teacher: {model: mobilenet_v2, weights: w, fine_tune: {batch_norm: frozen, views: fresh}}\n"
    "distill: {loss: {kd: 0.9, ce: 0.1}, optimizer: {name: sgd, momentum: 0.9, lr: 1e-5}}\n",
    "name: 'b'\ndata:\n  labelled:\n    format: idx\n    path: \"p\\u00e9\"\n    train: t\n    "
    "val: v\n"
    "    train_labels: a\n    val_labels: b\n    size: 28\n  augment:\n  - flip\n  - crop: {pad: "
    "2}\n"
    "student: {model: shallow_cnn}\ndistill:\n  loss: {kd: 0, ce: 1}\nscratch: {}\n",
    "{\"name\": \"c\", \"seed\": 9, \"data\": {\"labelled\": {\"path\": \"p\", \"train\": \"t\", "
    "\"val\": \"v\"}},\n"
    "\"student\": {\"model\": \"mlp\"}, \"distill\": {\"loss\": {\"kd\": 0}}, \"export\": "
    "[\"safetensors\"]}\n",
    "name: d\ndata:\n  labelled: {path: p, val_share: 0.2, test_share: 0.1, size: 32}\n"
    "  augment: [flip, {rotate: 10}, {resized_crop: {area: 0.5}}, {mixup: 0.2}, randaugment]\n"
    "  unlabelled: {path: more, per_class: 7}\n"
    "teacher:\n- {onnx: a.onnx, weight: 2}\n- {model: lenet, fine_tune: {epochs: 1, loss: "
    "{label_smoothing: 0}}}\n"
    "student: {layers: [{conv: {channels: 8, padding: valid}}, relu, {max_pool: 2}, flatten, "
    "{dense: 4}]}\n"
    "distill: {loss: {dist: 1, jsd: 0.5}, optimizer: {schedule: step, milestones: [1, 2]}, "
    "early_stop: {patience: 3}}\n"
    "export: [{onnx: {opset: 13}}]\nmatrix: {distill.epochs: [1, 2], distill.loss: [{kd: 1}]}\n"
    "seeds: 2\n",
};
static const char *const g_pieces[] = {":",
                                       " ",
                                       "\n",
                                       "\n  ",
                                       "- ",
                                       "{",
                                       "}",
                                       "[",
                                       "]",
                                       ",",
                                       "\"",
                                       "'",
                                       "&a ",
                                       "*a",
                                       "!!int ",
                                       "|\n",
                                       ">\n",
                                       "? ",
                                       "#",
                                       "%",
                                       "---\n",
                                       "...\n",
                                       "\\",
                                       "\\0",
                                       "\\u2028",
                                       "\t",
                                       "~",
                                       "null",
                                       "true",
                                       "1e-5",
                                       "-0",
                                       "0",
                                       "1e999",
                                       "fresh",
                                       "seed: 1\n",
                                       "matrix: {}\n",
                                       "scratch: {}\n",
                                       "\xef\xbb\xbf",
                                       "\xff",
                                       "\xc2\x85",
                                       "<<: ",
                                       "same",
                                       "relu, ",
                                       "{dropout: 0.5}",
                                       "{cutmix: 1}",
                                       "{}",
                                       "[]"};
static const char *const g_sets[] = {"seed=3",
                                     "distill.loss={kd: 0, ce: 1}",
                                     "teacher.fine_tune.optimizer.lr=1e-5",
                                     "data.augment=[flip, {crop: {pad: 3}}]",
                                     "a.b.c.d=e",
                                     "teacher[1].fine_tune={slots: 2}",
                                     "teacher.0.onnx=b",
                                     "student={layers: [{avg_pool: {kernel: 3, stride: 2}}, "
                                     "global_avg_pool]}",
                                     "data.augment[1]=cutout",
                                     "matrix.distill.batch=[16, 32]",
                                     "seeds=3",
                                     "scratch="};

static size_t mutate(kd_rng *r, char *text, size_t len)
{
    uint32_t changes = 1 + kd_rng_below(r, 4);
    for (uint32_t i = 0; i < changes; i++) {
        size_t at = kd_rng_below(r, (uint32_t)len + 1);
        size_t n = 1 + kd_rng_below(r, 12);
        const char *piece = g_pieces[kd_rng_below(r, KD_COUNT(g_pieces))];
        switch (kd_rng_below(r, 5)) {
        case 0: /* put a piece of YAML in */
            n = strlen(piece);
            if (len + n > MAX_TEXT)
                break;
            memmove(text + at + n, text + at, len - at);
            memcpy(text + at, piece, n);
            len += n;
            break;
        case 1: /* cut */
            n = KD_MIN(n, len - at);
            memmove(text + at, text + at + n, len - at - n);
            len -= n;
            break;
        case 2: /* change one byte */
            if (at < len)
                text[at] = (char)kd_rng_u32(r);
            break;
        case 3: /* repeat a stretch */
            n = KD_MIN(n * 8, len - at);
            if (len + n > MAX_TEXT)
                break;
            memmove(text + at + n, text + at, len - at);
            len += n;
            break;
        default: /* break off */
            if (kd_rng_below(r, 8) == 0)
                len = at;
        }
    }
    return len;
}

static void test_fuzz_job_file(void **state)
{
    (void)state;
    char *report = NULL;
    size_t report_len = 0;
    kd_diag diag = {0};
    kd_assert_ok(
        kd_file_read("docs/report/weighted.yaml", MAX_TEXT / 2, &report, &report_len, &diag),
        &diag);
    char *text = malloc(MAX_TEXT);
    assert_non_null(text);
    int accepted = 0, swept = 0, rounds = 6000;
    for (int i = 0; i < rounds; i++) {
        kd_rng r;
        kd_rng_init(&r, 11, KD_RNG_TEST, (uint64_t)i, 0);
        uint32_t which = kd_rng_below(&r, KD_COUNT(g_seeds) + 1);
        const char *seed = which < KD_COUNT(g_seeds) ? g_seeds[which] : report;
        size_t len = strlen(seed);
        memcpy(text, seed, len);
        len = mutate(&r, text, len);
        accepted += kd_fuzz_run(kd_fuzz_job, text, len);
        if (i % 2 == 0)
            swept += kd_fuzz_run(kd_fuzz_sweep, text, len);
    }
    /* Both ways must be tried: mutations that all fail early would test little. */
    assert_in_range(accepted, rounds / 50, rounds - rounds / 4);
    assert_in_range(swept, rounds / 400, rounds);
    free(text);
    free(report);
}

static void test_fuzz_job_overrides(void **state)
{
    (void)state;
    int accepted = 0, swept = 0, rounds = 4000;
    for (int i = 0; i < rounds; i++) {
        kd_rng r;
        kd_rng_init(&r, 12, KD_RNG_TEST, (uint64_t)i, 0);
        const char *set = g_sets[kd_rng_below(&r, KD_COUNT(g_sets))];
        char changed[MAX_TEXT], all[4 * MAX_TEXT];
        memcpy(changed, set, strlen(set));
        const size_t len = mutate(&r, changed, strlen(set));
        const char *seed = g_seeds[kd_rng_below(&r, KD_COUNT(g_seeds))];
        size_t n = (size_t)snprintf(all, sizeof all, "%s" KD_FUZZ_CUT "%s" KD_FUZZ_CUT, seed, set);
        memcpy(all + n, changed, len);
        n += len;
        accepted += kd_fuzz_run(kd_fuzz_job, all, n);
        if (i % 2 == 0)
            swept += kd_fuzz_run(kd_fuzz_sweep, all, n);
    }
    assert_in_range(accepted, rounds / 50, rounds - rounds / 4);
    assert_in_range(swept, rounds / 400, rounds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fuzz_job_file),
        cmocka_unit_test(test_fuzz_job_overrides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

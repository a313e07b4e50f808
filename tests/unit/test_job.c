/* The job file: what is accepted, what every refusal says and where, and that the resolved job is
 * the same job. */
#include "job_case.h"

#include "kd/file.h"

#include <jansson.h>
#include <stdio.h>

static void test_job_defaults(void **state)
{
    (void)state;
    kd_job j;
    accept(PLAIN, &j);
    assert_string_equal(j.name, "least");
    assert_int_equal(j.seed, 1);
    assert_int_equal(j.data.format, KD_IMAGE_FOLDER);
    assert_string_equal(j.data.path, "flowers");
    assert_string_equal(j.data.train, "train.txt");
    assert_string_equal(j.data.val, "val.txt");
    assert_string_equal(j.data.classes, "");
    assert_int_equal(j.data.size, 224);
    assert_int_equal(j.data.max_train, 0);
    kd_assert_close(j.data.max_bad_images, 0.001, 0, 0);
    assert_false(j.data.augment.flip);
    assert_int_equal(j.data.augment.crop_pad, 0);
    assert_string_equal(j.teachers[0].model.model, "");
    assert_false(j.teachers[0].fine_tune);
    assert_int_equal(j.teachers[0].train.epochs, 0);
    assert_int_equal(j.student.preprocess, KD_PRE_UNIT);
    assert_int_equal(j.distill.epochs, 10);
    assert_int_equal(j.distill.batch, 64);
    assert_int_equal(j.distill.slots, 8);
    assert_int_equal(j.distill.views, 1);
    assert_int_equal(j.distill.optimizer.name, KD_ADAM);
    kd_assert_close(j.distill.optimizer.lr, 1e-3, 0, 0);
    kd_assert_close(j.distill.optimizer.beta1, 0.9, 0, 0);
    kd_assert_close(j.distill.optimizer.beta2, 0.999, 0, 0);
    kd_assert_close(j.distill.optimizer.eps, 1e-8, 0, 0);
    kd_assert_close(j.distill.optimizer.momentum, 0, 0, 0);
    assert_int_equal(j.distill.optimizer.schedule, KD_CONSTANT);
    kd_assert_close(j.distill.loss.temperature, 5, 0, 0);
    assert_int_equal(j.distill.loss.t2, KD_T2_SOFT);
    assert_int_equal(j.distill.loss.mse_kind, KD_MSE_MEAN);
    assert_true(j.distill.loss.normalise);
    assert_false(j.scratch);
    assert_int_equal(j.min_workers, 1);
    assert_int_equal(j.max_workers, 8);
    assert_int_equal(j.checkpoint_every, 50);
    round_trip(&j);

    accept(TEACHER, &j);
    kd_assert_close(j.distill.loss.kd, 0.9, 0, 0);
    kd_assert_close(j.distill.loss.ce, 0.1, 0, 0);
    kd_assert_close(j.distill.loss.mse, 0, 0, 0);
    kd_assert_close(j.teachers[0].model.width, 1, 0, 0);
    assert_int_equal(j.teachers[0].model.padding, KD_PAD_TF);
    assert_int_equal(j.teachers[0].model.preprocess, KD_PRE_SYMMETRIC);
    assert_int_equal(j.teachers[0].train.epochs, 0);
    assert_int_equal(j.teachers[0].train.batch, 64);
    round_trip(&j);
}

static void test_job_inherits_from_distill(void **state)
{
    (void)state;
    kd_job j;
    accept(LEAST "teacher: {model: mlp, hidden: [32, 16], fine_tune: {slots: 4}}\n"
                 "distill: {epochs: 3, batch: 32, slots: 16, views: fresh, optimizer: {lr: 0.5}}\n"
                 "scratch: {batch: 48}\n",
           &j);
    assert_true(j.teachers[0].fine_tune);
    assert_int_equal(j.teachers[0].train.epochs, 4);
    assert_int_equal(j.teachers[0].train.batch, 32);
    assert_int_equal(j.teachers[0].train.slots, 4);
    assert_int_equal(j.teachers[0].train.views, 0);
    assert_int_equal(j.teachers[0].model.n_hidden, 2);
    assert_int_equal(j.teachers[0].model.hidden[0], 32);
    assert_int_equal(j.teachers[0].model.hidden[1], 16);
    assert_true(j.scratch);
    assert_int_equal(j.scratch_train.epochs, 3);
    assert_int_equal(j.scratch_train.batch, 48);
    assert_int_equal(j.scratch_train.slots, 16);
    assert_int_equal(j.scratch_train.views, 0);
    /* The twin's optimiser does not follow the student's. */
    kd_assert_close(j.scratch_train.optimizer.lr, 1e-3, 0, 0);
    const kd_train_spec *hard[] = {&j.teachers[0].train, &j.scratch_train};
    for (size_t i = 0; i < KD_COUNT(hard); i++) {
        kd_assert_close(hard[i]->loss.ce, 1, 0, 0);
        kd_assert_close(hard[i]->loss.kd, 0, 0, 0);
        kd_assert_close(hard[i]->loss.mse, 0, 0, 0);
    }
    round_trip(&j);
}

static void load_report(const char *file, kd_job *j)
{
    kd_diag diag = {0};
    char *text = NULL;
    size_t len = 0;
    kd_assert_ok(kd_file_read(file, 1 << 16, &text, &len, &diag), &diag);
    kd_assert_ok(kd_job_load(text, len, file, NULL, 0, j, &diag), &diag);
    free(text);
    round_trip(j);
}

static void test_job_report(void **state)
{
    (void)state;
    kd_job j = {0};
    load_report("docs/report/teacher.yaml", &j);
    assert_int_equal(j.n_teachers, 0);
    assert_true(j.distill.batch_norm_frozen);
    assert_int_equal(j.distill.epochs, 5);
    kd_assert_close(j.distill.optimizer.lr, 1e-5, 0, 0);
    kd_assert_close(j.distill.optimizer.head_lr, 1e-3, 0, 0);
    load_report("docs/report/weighted.yaml", &j);
    assert_int_equal(j.data.size, 224);
    assert_int_equal(j.distill.batch, 64);
    assert_int_equal(j.distill.epochs, 10);
    kd_assert_close(j.distill.loss.kd, 0.9, 0, 0);
    kd_assert_close(j.distill.loss.ce, 0.1, 0, 0);
    kd_assert_close(j.distill.loss.temperature, 5, 0, 0);
    assert_int_equal(j.distill.loss.t2, KD_T2_NONE);
    assert_true(j.distill.loss.normalise);
    kd_assert_close(j.distill.optimizer.lr, 1e-2, 0, 0);
    assert_int_equal(j.n_teachers, 1);
    assert_false(j.teachers[0].fine_tune);
    assert_true(j.scratch);
    kd_assert_close(j.scratch_train.optimizer.lr, 1e-3, 0, 0);
    assert_false(j.data.augment.flip);
    assert_int_equal(j.data.augment.crop_pad, 0);
    const char *files[KD_JOB_MAX_FILES];
    assert_int_equal(kd_job_local_files(&j, files), 1);
    assert_string_equal(files[0], "teacher.safetensors");
    enum kd_stage_kind kinds[KD_MAX_STAGES];
    static const char *const names[] = {"teacher", "distill", "scratch", "evaluate", "export"};
    assert_int_equal(kd_job_stages(&j, kinds), 5);
    for (int i = 0; i < 5; i++)
        assert_string_equal(kd_stage_name(kinds[i]), names[i]);
    assert_ptr_equal(kd_job_train(&j, KD_STAGE_TEACHER), &j.teachers[0].train);
    assert_ptr_equal(kd_job_train(&j, KD_STAGE_SCRATCH), &j.scratch_train);
    assert_ptr_equal(kd_job_model(&j, KD_STAGE_SCRATCH), &j.student);
    assert_null(kd_job_train(&j, KD_STAGE_EXPORT));
    assert_null(kd_job_model(&j, KD_STAGE_EVALUATE));
    assert_int_equal(kd_job_squeezed_from(&j, KD_STAGE_DISTILL), 0);
    j.student.size = 64;
    static const enum kd_stage_kind students[] = {KD_STAGE_DISTILL, KD_STAGE_SCRATCH, KD_STAGE_TUNE,
                                                  KD_STAGE_COMPRESS};
    for (size_t i = 0; i < KD_COUNT(students); i++)
        assert_int_equal(kd_job_squeezed_from(&j, students[i]), 224);
    assert_int_equal(kd_job_squeezed_from(&j, KD_STAGE_TEACHER), 0);
    assert_int_equal(kd_job_squeezed_from(&j, KD_STAGE_EVALUATE), 0);
}

/* A value for each field that differs from its default, so that a row that is not printed, or is
 * read into another's field, shows. */
static void test_job_resolved_keeps_everything(void **state)
{
    (void)state;
    kd_job j;
    accept(
        "name: all.of-it_1\nseed: 9223372036854775807\n"
        "data:\n  labelled: {format: idx, path: \"a b/\\u00fc\", train: t, val: v, train_labels: "
        "tl,\n"
        "    val_labels: vl, classes: c, size: 28, max_train: 7, max_bad_images: 0.3}\n"
        "  augment: [{crop: {pad: 3}}, flip]\n"
        "teacher: {model: mobilenet_v2, width: 0.35, padding: torch, preprocess: imagenet,\n"
        "  weights: \"/tmp/../x y.safetensors\", weights_digest: "
        "00112233445566778899aabbccddeeff,\n"
        "  fine_tune: {epochs: 2, batch: 24, slots: 4, views: 5, batch_norm: frozen, optimizer: {\n"
        "    name: sgd, lr: 0.1, head_lr: 0.2, momentum: 0.9, weight_decay: 4e-5,\n"
        "    schedule: cosine, warmup: 0.5}}}\n"
        "student: {model: mlp, hidden: [], preprocess: symmetric}\n"
        "distill: {loss: {kd: 0.1, ce: 0.2, mse: 0.30000000000000004, mse_kind: half,\n"
        "  temperature: 2.5, t2: all, normalise: false}, epochs: 0, batch: 6, slots: 2, views: 9,\n"
        "  optimizer: {lr: 1.7976931348623157e2, beta1: 0.1, beta2: 0.2, eps: 1e-300}}\n"
        "scratch: {epochs: 1, batch: 8, slots: 1, views: fresh}\n"
        "cluster: {min_workers: 2, max_workers: 3, checkpoint_every: 4}\nexport: [safetensors]\n",
        &j);
    assert_true(j.seed == INT64_MAX);
    assert_string_equal(j.data.path, "a b/\xc3\xbc");
    assert_string_equal(j.teachers[0].model.weights, "/tmp/../x y.safetensors");
    assert_string_equal(j.teachers[0].model.weights_digest, "00112233445566778899aabbccddeeff");
    assert_int_equal(j.student.n_hidden, 0);
    assert_int_equal(j.distill.loss.mse_kind, KD_MSE_HALF);
    assert_true(j.distill.loss.mse == 0.30000000000000004);
    round_trip(&j);
}

static void test_job_resolved_is_readable(void **state)
{
    (void)state;
    kd_job j;
    kd_diag diag = {0};
    char *text = NULL;
    accept(TEACHER "scratch: {}\n", &j);
    kd_assert_ok(kd_job_resolved(&j, &text, &diag), &diag);
    assert_non_null(strstr(text, "\"kd\": 0.9,"));
    assert_non_null(strstr(text, "\"lr\": 0.001,"));
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    const char *key = json_object_iter_key(json_object_iter(root));
    assert_string_equal(key, "name"); /* the schema's order */
    json_t *scratch = json_object_get(root, "scratch");
    assert_int_equal(json_integer_value(json_object_get(scratch, "batch")), 64);
    assert_null(json_object_get(root, "matrix"));
    assert_null(json_object_get(json_object_get(root, "student"), "width"));
    json_decref(root);
    free(text);
}

static void test_job_unknown_keys(void **state)
{
    (void)state;
    refuse("name: x\ndata:\n  labelled:\n    path: p\n    train: t\n    val: v\n    sizee: 3\n",
           "job.yaml:7:5: data.labelled.sizee: unknown key; did you mean `size`? (known here: "
           "format, ");
    refuse("nmae: x\n", "job.yaml:1:1: nmae: unknown key; did you mean `name`?");
    refuse(PLAIN "cluster: {min_worker: 1}\n",
           "job.yaml:6:11: cluster.min_worker: unknown key; did you mean `min_workers`?");
    refuse(LEAST "temperature: 3\n",
           "job.yaml:5:1: temperature: unknown key; did you mean `distill.loss.temperature`?");
    refuse(LEAST "\"distill.epochs\": 3\n", "unknown key");
    refuse(LEAST "\"seed\\0\": 3\n", "unknown key");
    refuse(LEAST "\"a\\nb\": 3\n", "job.yaml:5:1: a?b: unknown key");
    refuse(LEAST "? [a, b]\n: 3\n", "a key must be a word");
    refuse(LEAST "<<: {seed: 1}\n", "unknown key");
}

static void test_job_wrong_types(void **state)
{
    (void)state;
    refuse(LEAST "seed: one\n",
           "job.yaml:5:7: seed: expected a whole number from 0 to 2^63-1, found `one`");
    refuse(LEAST "seed: \"1\"\n", "found the text \"1\"");
    refuse(LEAST "seed: 9223372036854775808\n", "seed: expected a whole number");
    refuse(LEAST "seed: -1\n", "seed: expected");
    refuse(LEAST "seed: 010\n", "seed: expected");
    refuse(LEAST "seed: 1_000\n", "seed: expected");
    refuse(LEAST "seed: 0x10\n", "seed: expected");
    refuse(LEAST "seed: 1e3\n", "seed: expected");
    refuse(LEAST "seed: 1.0\n", "seed: expected");
    refuse(LEAST "seed:\n", "found nothing");
    refuse(LEAST "seed: [1]\n", "found a list");
    refuse(LEAST "seed: {a: 1}\n", "found a mapping");
    refuse(LEAST "distill: 3\n", "distill: expected a mapping of keys, found `3`");
    refuse(LEAST "distill:\n", "distill: no keys below it; write {} for all defaults");
    refuse(LEAST "distill: {loss: {normalise: yes}}\n", "expected true or false, found `yes`");
    refuse(LEAST "distill: {loss: {t2: sof}}\n",
           "job.yaml:5:22: distill.loss.t2: expected one of none|soft|all, found `sof`; did you "
           "mean `soft`?");
    refuse(LEAST "distill: {views: 0}\n",
           "expected `fresh` or a whole number from 1 to 1000000, found `0`");
    refuse("name: x\nstudent: {model: resnet}\ndata: {labelled: {path: a, train: b, val: c}}\n",
           "found `resnet`; did you mean `resnet18`?");
    refuse("name: a/b\n", "name: expected 1 to 63 letters");
    refuse("name: \"\"\n", "name: expected 1 to 63 letters");
    refuse("name: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
           "name: expected");
    refuse("- name\n", "job.yaml:1:1: a job is a mapping of keys");
    refuse("", "job.yaml: the file is empty");
    refuse("# nothing\n", "the file is empty");
}

static void test_job_real_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double value; /* < 0: refused */
    } cases[] = {{"1e-5", 1e-5}, {"1E-5", 1e-5}, {"1.e-2", 1e-2}, {".5", 0.5},   {"+2", 2},
                 {"3.25", 3.25}, {"1e+2", 100},  {"1000", 1000},  {"0", -1},     {"1000.1", -1},
                 {"-1", -1},     {".inf", -1},   {"inf", -1},     {"nan", -1},   {".nan", -1},
                 {"1e400", -1},  {"0x1p3", -1},  {"1e", -1},      {".", -1},     {"e5", -1},
                 {"1 2", -1},    {"01.5", -1},   {"1,5", -1},     {"\"2\"", -1}, {"1.5.2", -1},
                 {"1e-400", -1}, {"--1", -1},    {"1f", -1}};
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        char text[512];
        snprintf(text, sizeof text, TEACHER "distill:\n  optimizer:\n    lr: %s\n", cases[i].text);
        if (cases[i].value < 0) {
            refuse(text,
                   "job.yaml:8:9: distill.optimizer.lr: expected a number above 0, up to 1000");
            continue;
        }
        kd_job j;
        accept(text, &j);
        kd_assert_close(j.distill.optimizer.lr, cases[i].value, 0, 0);
        round_trip(&j);
    }
    refuse(TEACHER "distill: {optimizer: {name: sgd, momentum: 1}}\n", "from 0 to below 1");
}

static void test_job_paths(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "/abs",         "..",          "a/../b",     "a/..",
        "\"a\\tb\"",    "\"a\\0b\"",   "\"a\\x7f\"", "\"a\\u0085b\"",
        "\"\\ufeffa\"", "\"\\u2028\"", "\"\"",       "~"};
    char text[2048];
    for (size_t i = 0; i < KD_COUNT(wrong); i++) {
        snprintf(text, sizeof text,
                 "name: x\nstudent: {model: mlp}\ndata: {labelled: {path: %s, train: t, val: v}}\n",
                 wrong[i]);
        refuse(text, "job.yaml:3:25: data.labelled.path: expected a relative path without `..`");
    }
    static const char *const right[] = {".", "a/b/", "..a/b..", "a//b", "\"\\u20ac\\U0001f33b\""};
    kd_job j;
    for (size_t i = 0; i < KD_COUNT(right); i++) {
        snprintf(text, sizeof text,
                 "name: x\nstudent: {model: mlp}\ndistill: {loss: {kd: 0}}\n"
                 "data: {labelled: {path: %s, train: t, val: v}}\n",
                 right[i]);
        accept(text, &j);
        round_trip(&j);
    }
    char longest[KD_JOB_PATH + 1];
    for (int extra = 0; extra < 2; extra++) {
        memset(longest, 'p', sizeof longest);
        longest[KD_JOB_PATH - 1 + extra] = '\0';
        snprintf(text, sizeof text, PLAIN "teacher: {model: mlp, weights: %s}\n", longest);
        if (extra)
            refuse(text, "teacher.weights: expected the path of a local file, of up to 511 bytes");
        else
            accept(text, &j);
    }
}

static void test_job_missing_keys(void **state)
{
    (void)state;
    refuse("seed: 1\n", "job.yaml:1:1: name: missing: name of the job");
    refuse("name: x\n", "job.yaml:1:1: data: missing");
    refuse("name: x\ndata: {labelled: {train: t, val: v}}\nstudent: {model: mlp}\n",
           "job.yaml:2:18: data.labelled.path: missing: folder beneath each worker's data root");
    refuse("name: x\ndata: {}\nstudent: {model: mlp}\n", "job.yaml:2:7: data.labelled: missing");
    refuse("name: x\ndata: {labelled: {path: p, train: t, val: v}}\n", "student: missing");
    refuse("name: x\ndata: {labelled: {path: p, train: t, val: v}}\nstudent: {}\n",
           "job.yaml:3:10: student.model: missing");
    refuse("name: x\ndata: {labelled: {format: idx, path: p, train: t, val: v}}\nstudent: {model: "
           "mlp}\n",
           "data.labelled.train_labels: missing");
}

static void test_job_rules_between_keys(void **state)
{
    (void)state;
    refuse(PLAIN "teacher: {model: mlp}\n", "teacher: neither weights nor fine_tune");
    refuse(LEAST, "teacher: missing: distill.loss.kd is 0.9, which needs one");
    refuse(LEAST "distill: {loss: {kd: 0, mse: 1}}\n",
           "job.yaml:5:30: teacher: missing: distill.loss.mse is 1");
    refuse(LEAST "distill: {loss: {kd: 0, ce: 0}}\n",
           "job.yaml:5:17: distill.loss: kd, ce, mse, dkd, dist, nkd and jsd are all 0");
    refuse(TEACHER "distill: {slots: 6}\n",
           "job.yaml:6:18: distill.slots: expected a power of two, found 6");
    refuse(TEACHER "distill: {batch: 12}\n",
           "job.yaml:6:18: distill.slots: 8 slots do not divide a batch of 12");
    refuse(TEACHER "distill: {batch: 16}\nscratch: {slots: 32}\n",
           "job.yaml:7:18: scratch.slots: 32 slots");
    refuse(PLAIN "teacher: {model: mlp, fine_tune: {batch: 4}}\n",
           "teacher.fine_tune.slots: 8 slots");
    refuse(TEACHER "cluster: {min_workers: 9}\n",
           "job.yaml:6:24: cluster.min_workers: 9 is more than cluster.max_workers, 8");
    refuse(TEACHER "distill: {optimizer: {momentum: 0.9}}\n",
           "job.yaml:6:33: distill.optimizer.momentum: only with `name: sgd`");
    refuse(TEACHER "distill: {optimizer: {name: sgd, beta1: 0.9}}\n",
           "only with `name: adam|adamw`");
    refuse(TEACHER "distill: {epochs: 2, optimizer: {warmup: 3}}\n",
           "distill.optimizer.warmup: a warm-up of 3 epochs in a run of 2");
    refuse(
        "name: x\ndata: {labelled: {path: p, train: t, val: v}}\nstudent: {model: mlp, width: 1}\n",
        "student.width: only with `model: mobilenet_v2|cheap_cnn`");
    refuse("name: x\ndata: {labelled: {path: p, train: t, val: v, val_labels: l}}\nstudent: "
           "{model: mlp}\n",
           "data.labelled.val_labels: only with `format: idx|npy`");
    refuse("name: x\ndata: {labelled: {path: p, train: t, val: v, size: 13}}\n"
           "student: {model: shallow_cnn}\ndistill: {loss: {kd: 0}}\n",
           "data.labelled.size: 13 pixels are too few for shallow_cnn");
    refuse("name: x\ndata: {labelled: {path: p, train: t, val: v, size: 14}, augment: [{crop: "
           "{pad: 15}}]}\n"
           "student: {model: shallow_cnn}\ndistill: {loss: {kd: 0}}\n",
           "data.augment: a crop of 15 pixels, more than the picture has");
    refuse(
        PLAIN
        "teacher: {model: mlp, fine_tune: {}, weights_digest: 00112233445566778899aabbccddeeff}\n",
        "teacher.weights_digest: given without teacher.weights");
    refuse(PLAIN
           "teacher: {model: mlp, weights: w, weights_digest: 00112233445566778899aabbccddee}\n",
           "teacher.weights_digest: expected 32 hex digits");
}

static void test_job_yaml_refused(void **state)
{
    (void)state;
    refuse(LEAST "seed: 1\nseed: 2\n",
           "job.yaml:6:1: seed: written twice; the first one is in line 5");
    refuse("name: &a x\n", "job.yaml:1:7: anchors");
    refuse("name: x\nseed: *a\n", "job.yaml:2:7: aliases");
    refuse("name: !!str x\n", "job.yaml:1:7: tags");
    refuse("data: !x {}\n", "tags");
    refuse("name: x\n---\nname: y\n", "job.yaml:2:1: a second document");
    refuse("name: x\ndata:\n\tlabelled: {}\n", "job.yaml:3:1: not valid YAML: ");
    refuse("name: x\ndata:\n\tlabelled: {}\n", "indent with spaces");
    refuse("name: [x\n", "job.yaml:2:1: not valid YAML");
    refuse("name: x\nseed: \x01\n", "job.yaml:2:7: not valid YAML: control characters");
    refuse("name: x\nseed: \xff\n", "job.yaml:2:7: not valid YAML: invalid leading UTF-8");
    kd_job job;
    kd_diag diag = {0};
    kd_assert_fails(kd_job_load("name: x\0y\n", 10, "job.yaml", NULL, 0, &job, &diag), KD_EINVAL,
                    &diag, "control characters");
}

static void test_job_limits(void **state)
{
    (void)state;
    size_t most = 256u << 10;
    char *text = malloc(most + 2);
    assert_non_null(text);
    /* A comment fills the file up to the limit. */
    size_t n = (size_t)snprintf(text, most, PLAIN "#");
    memset(text + n, 'x', most + 1 - n);
    text[most] = '\0';
    kd_job j;
    accept(text, &j);
    text[most] = 'x';
    text[most + 1] = '\0';
    refuse_code(text, KD_ELIMIT, "a job has at most 262144");
    /* Nesting: 16 levels are read (and then refused as no key of ours), 17 are not. */
    for (int depth = 16; depth <= 17; depth++) {
        char *p = text + snprintf(text, most, "seed: ");
        for (int i = 0; i < depth - 1; i++)
            *p++ = '[';
        for (int i = 0; i < depth - 1; i++)
            *p++ = ']';
        snprintf(p, 2, "\n");
        if (depth == 16)
            refuse(text, "name: missing");
        else
            refuse_code(text, KD_ELIMIT, "job.yaml:1:22: nested deeper than 16 levels");
    }
    memset(text, '[', most);
    text[most] = '\0';
    refuse_code(text, KD_ELIMIT, "nested deeper");
    /* 10000 values: the mapping, one key, the list and its items. */
    for (int values = 10000; values <= 10001; values++) {
        char *p = text + snprintf(text, most, "seed: [");
        for (int i = 0; i < values - 3; i++)
            p += snprintf(p, 3, "1,");
        snprintf(p, 3, "]\n");
        if (values == 10000)
            refuse(text, "name: missing");
        else
            refuse_code(text, KD_ELIMIT, "more than 10000 values");
    }
    free(text);
    const char *sets[65];
    for (int i = 0; i < 65; i++)
        sets[i] = "seed=3";
    accept_sets(PLAIN, sets, 64, &j);
    kd_diag diag = {0};
    kd_assert_fails(load_sets(PLAIN, sets, 65, &j, &diag), KD_ELIMIT, &diag, "at most 64");
}

static void test_job_overrides(void **state)
{
    (void)state;
    kd_job j;
    static const char *const sets[] = {"seed=7",
                                       "distill.loss.temperature=2",
                                       "teacher.model=mlp",
                                       "teacher.hidden=[3, 4]",
                                       "teacher.fine_tune.optimizer={name: sgd, momentum: 0.5}",
                                       "data.augment=[flip]",
                                       "name='a'",
                                       "scratch.epochs=2",
                                       "seed=8"};
    accept_sets(PLAIN, sets, (int)KD_COUNT(sets), &j);
    assert_int_equal(j.seed, 8);
    assert_string_equal(j.name, "a");
    kd_assert_close(j.distill.loss.temperature, 2, 0, 0);
    kd_assert_close(j.distill.loss.kd, 0, 0, 0);
    assert_int_equal(j.teachers[0].model.hidden[1], 4);
    kd_assert_close(j.teachers[0].train.optimizer.momentum, 0.5, 0, 0);
    assert_true(j.data.augment.flip);
    assert_true(j.scratch);
    assert_int_equal(j.scratch_train.epochs, 2);
    round_trip(&j);
    /* What the file lacks or has empty is made on the way. */
    static const char *const one[] = {"distill.loss={kd: 0, ce: 1}"};
    accept_sets(LEAST, one, 1, &j);
    accept_sets(LEAST "distill:\n", one, 1, &j);
    accept_sets(LEAST "distill: {loss: {kd: 1}}\n", one, 1, &j);

    refuse_set(PLAIN, "sed=1", "--set sed=1: sed: unknown key; did you mean `seed`?");
    refuse_set(PLAIN, "seed=x",
               "--set seed=x: seed: expected a whole number from 0 to 2^63-1, found `x`");
    refuse_set(PLAIN, "seed=",
               "--set seed=: seed: expected a whole number from 0 to 2^63-1, found nothing");
    refuse_set(PLAIN, "seed", "--set seed: expected key=value");
    char eighty[81] = "seed=", place[KD_JOB_SET];
    memset(eighty + 5, 'a', 75);
    assert_int_equal(strlen(kd_job_set_place(eighty, place)), 6 + 63);
    refuse_set(PLAIN, eighty, place);
    refuse_set(PLAIN, "=1", "expected key=value");
    refuse_set(PLAIN, "a..b=1", "expected key=value");
    refuse_set(PLAIN, ".a=1", "expected key=value");
    refuse_set(PLAIN, "a.=1", "expected key=value");
    refuse_set(PLAIN, "a b=1", "expected key=value");
    refuse_set(PLAIN, "name.x=1", "--set name.x=1: `name` has no keys below it");
    refuse_set(PLAIN, "seed=[1", "--set seed=[1: not valid YAML");
    refuse_set(PLAIN, "seed=*a", "aliases");
    refuse_set(PLAIN, "seed=!x 1", "tags");
    refuse_set(PLAIN, "compress.x=1",
               "compress: expected a list, as in [{prune: 0.8}, {quantize: int8}]");
    /* Elements of lists, in two ways of writing. */
    static const char *const elements[] = {"data.augment=[flip, {rotate: 1}]",
                                           "data.augment[1]={rotate: 7}",
                                           "data.augment.0=resized_crop"};
    accept_sets(PLAIN, elements, (int)KD_COUNT(elements), &j);
    assert_false(j.data.augment.flip);
    kd_assert_close(j.data.augment.rotate, 7, 0, 0);
    kd_assert_close(j.data.augment.resized_crop, 0.35, 0, 0);
    refuse_set(PLAIN "export: [safetensors]\n", "export[1]=onnx",
               "--set export[1]=onnx: `export` is a list of 1; name an element, as in export[0]");
    refuse_set(PLAIN "export: [safetensors]\n", "export.a=onnx", "`export` is a list of 1");
    refuse_set(PLAIN "export: [safetensors]\n", "export[0].a=1", "`0` has no keys below it");
    refuse_set(PLAIN, "student[0].model=mlp", "`student` is no list");
    refuse_set(PLAIN, "student[x]=mlp", "expected key=value");
    refuse_set(PLAIN, "student[0=mlp", "expected key=value");
    refuse_set(PLAIN, "student[]=mlp", "expected key=value");
    refuse_set(PLAIN, "[0]=mlp", "expected key=value");
    refuse_set(PLAIN, "distill.batch=12",
               "--set distill.batch=12: distill.slots: 8 slots do not divide");
    refuse_set(PLAIN, "seed=\n\n- 1", "--set seed=?\?- 1: seed: expected");
}

static void test_job_notes(void **state)
{
    (void)state;
    kd_job j;
    char notes[8][256];
    accept(TEACHER, &j);
    assert_int_equal(kd_job_notes(&j, notes, 8), 0);
    accept(TEACHER
           "distill: {loss: {kd: 0.5, ce: 0.5, t2: none}, views: 2}\ncluster: {max_workers: 9}\n",
           &j);
    assert_int_equal(kd_job_notes(&j, notes, 8), 4);
    assert_non_null(strstr(notes[0], "hard weight ce (0.5) is not below the soft one kd (0.5)"));
    assert_non_null(strstr(notes[1], "1/T^2 = 0.04"));
    assert_non_null(strstr(notes[2], "without data.augment"));
    assert_non_null(strstr(notes[3], "max_workers (9)"));
    assert_int_equal(kd_job_notes(&j, notes, 2), 2);
    accept(PLAIN "teacher: {model: mobilenet_v2, preprocess: unit, weights: w, fine_tune: {}}\n",
           &j);
    assert_int_equal(kd_job_notes(&j, notes, 8), 2);
    assert_non_null(strstr(notes[0], "learns nothing from the teacher"));
    assert_non_null(strstr(notes[1], "teacher.preprocess is unit"));
    /* Each of the others, alone. */
    static const struct {
        const char *text, *note;
    } alone[] = {
        {"distill: {loss: {dkd: 1, kd: 0.9}}\n", "kd (0.9) is minimised beside dkd"},
        {"distill: {loss: {nkd: 1}}\n", "beside nkd"},
        {"distill: {loss: {jsd: 1}}\n", "beside jsd"},
        {"distill: {loss: {kd: 0, dkd: 1, t2: none}}\n", "1/T^2 = 0.04"},
        {"distill: {batch_norm: frozen}\n",
         "distill.batch_norm is frozen, but without student.weights"},
        {"distill: {freeze: backbone}\n",
         "distill.freeze is backbone, but without student.weights"},
        {"distill: {epochs: 5, early_stop: {patience: 5}}\n",
         "distill.early_stop.patience (5 evaluations, one an epoch) is never used up in 5"},
        {"distill: {epochs: 5, optimizer: {schedule: step, milestones: [2, 5]}}\n",
         "distill.optimizer.milestones: epoch 5 is never over in a run of 5"},
        {"distill: {views: fresh}\n", "without data.augment"},
    };
    for (size_t i = 0; i < KD_COUNT(alone); i++) {
        char text[512];
        snprintf(text, sizeof text, TEACHER "%s", alone[i].text);
        accept(text, &j);
        assert_int_equal(kd_job_notes(&j, notes, 8), 1);
        assert_non_null(strstr(notes[0], alone[i].note));
    }
    static const char *const quiet[] = {
        "distill: {loss: {kd: 0, dkd: 1}}\n", "distill: {loss: {kd: 0, dist: 1}}\n",
        "distill: {loss: {kd: 0, mse: 1}}\n",
        "distill: {epochs: 5, early_stop: {patience: 5}, eval_every: 9}\n",
        "distill: {epochs: 6, optimizer: {schedule: step, milestones: [2, 5]}}\n"};
    for (size_t i = 0; i < KD_COUNT(quiet); i++) {
        char text[512];
        snprintf(text, sizeof text, TEACHER "%s", quiet[i]);
        accept(text, &j);
        assert_int_equal(kd_job_notes(&j, notes, 8), 0);
    }
    accept(LEAST "teacher: [{model: lenet, weights: w},\n"
                 "  {model: lenet, fine_tune: {freeze: backbone, batch_norm: frozen}}]\n",
           &j);
    assert_int_equal(kd_job_notes(&j, notes, 8), 2);
    assert_non_null(strstr(notes[0], "teacher[1].fine_tune.batch_norm is frozen"));
    assert_non_null(strstr(notes[1], "teacher[1].fine_tune.freeze is backbone"));
    static const char *const views[] = {"data.augment=[{mixup: 1}]", "distill.views=fresh"};
    accept_sets(TEACHER, views, 2, &j);
    assert_int_equal(kd_job_notes(&j, notes, 8), 1);
    assert_non_null(strstr(notes[0], "distill.views is fresh: the teacher runs"));
}

static void test_job_schema(void **state)
{
    (void)state;
    char *text = NULL;
    assert_int_equal(kd_job_schema(&text), 0);
    assert_non_null(strstr(text, "\ndata.labelled.size "));
    assert_non_null(strstr(text, "whole, from 8 to 1024"));
    assert_non_null(strstr(text, "\ndistill.optimizer.ema "));
    assert_non_null(strstr(text, "the keys of distill.optimizer"));
    assert_null(strstr(text, "scratch.optimizer.lr"));
    assert_non_null(strstr(text, "{resized_crop: {area: N, ratio: N}}"));
    assert_non_null(strstr(text, "global_avg_pool"));
    assert_non_null(strstr(text, "\nseeds "));
    assert_non_null(strstr(text, "as distill.batch"));
    assert_non_null(strstr(text, "{quantize: {type: int8, "));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_job_defaults),
        cmocka_unit_test(test_job_inherits_from_distill),
        cmocka_unit_test(test_job_report),
        cmocka_unit_test(test_job_resolved_keeps_everything),
        cmocka_unit_test(test_job_resolved_is_readable),
        cmocka_unit_test(test_job_unknown_keys),
        cmocka_unit_test(test_job_wrong_types),
        cmocka_unit_test(test_job_real_numbers),
        cmocka_unit_test(test_job_paths),
        cmocka_unit_test(test_job_missing_keys),
        cmocka_unit_test(test_job_rules_between_keys),
        cmocka_unit_test(test_job_yaml_refused),
        cmocka_unit_test(test_job_limits),
        cmocka_unit_test(test_job_overrides),
        cmocka_unit_test(test_job_notes),
        cmocka_unit_test(test_job_schema),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

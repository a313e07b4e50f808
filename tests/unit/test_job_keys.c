/* The keys of a training run, its losses, data and networks: each is read into its own field, has
 * its default, its range and the sibling that it belongs to, and comes back from the resolved job.
 */
#include "job_case.h"

#include <stdio.h>

/* A key, another value than its default, and what its field then holds. */
enum kind { REAL, WHOLE, SEED, FLAG, TEXT };
static const struct row {
    const char *key, *with; /* a sibling that must be set too, or NULL */
    size_t at;
    enum kind kind;
    double before; /* the default */
    const char *written;
    double after;
    const char *wrong;
} g_rows[] = {
#define ROW_WITH(key, sibling, kind, f, before, written, after, wrong)                             \
    {                                                                                              \
        key, sibling, offsetof(kd_job, f), kind, before, written, after, wrong                     \
    }
#define ROW(key, ...) ROW_WITH(key, NULL, __VA_ARGS__)
#define TRAIN(p, f)                                                                                \
    ROW(p ".eval_every", WHOLE, f.eval_every, 0, "25", 25, "-1"),                                  \
        ROW(p ".early_stop.patience", WHOLE, f.patience, 0, "3", 3, "1.5"),                        \
        ROW(p ".early_stop.min_delta", REAL, f.min_delta, 0, "0.01", 0.01, "1"),                   \
        ROW(p ".loss.label_smoothing", REAL, f.loss.label_smoothing, 0, "0.1", 0.1, "1"),          \
        ROW(p ".optimizer.name", WHOLE, f.optimizer.name, KD_ADAM, "adamw", KD_ADAMW, "lion"),     \
        ROW_WITH(p ".optimizer.nesterov", p ".optimizer={name: sgd, momentum: 0.9}", FLAG,         \
                 f.optimizer.nesterov, 0, "true", 1, "yes"),                                       \
        ROW_WITH(p ".optimizer.beta1", p ".optimizer.name=adamw", REAL, f.optimizer.beta1, 0.9,    \
                 "0.8", 0.8, "1"),                                                                 \
        ROW_WITH(p ".optimizer.beta2", p ".optimizer.name=adamw", REAL, f.optimizer.beta2, 0.999,  \
                 "0.95", 0.95, "1"),                                                               \
        ROW_WITH(p ".optimizer.eps", p ".optimizer.name=adamw", REAL, f.optimizer.eps, 1e-8,       \
                 "1e-6", 1e-6, "0"),                                                               \
        ROW(p ".optimizer.weight_decay", REAL, f.optimizer.weight_decay, 0, "1e-4", 1e-4, "-1"),   \
        ROW(p ".optimizer.schedule", WHOLE, f.optimizer.schedule, KD_CONSTANT, "one_cycle",        \
            KD_ONE_CYCLE, "linear"),                                                               \
        ROW_WITH(p ".optimizer.gamma", p ".optimizer={schedule: step, milestones: [1]}", REAL,     \
                 f.optimizer.gamma, 0.1, "0.5", 0.5, "0"),                                         \
        ROW_WITH(p ".optimizer.pct_start", p ".optimizer.schedule=one_cycle", REAL,                \
                 f.optimizer.pct_start, 0.3, "0.25", 0.25, "1"),                                   \
        ROW_WITH(p ".optimizer.div_factor", p ".optimizer.schedule=one_cycle", REAL,               \
                 f.optimizer.div_factor, 25, "10", 10, "0.5"),                                     \
        ROW_WITH(p ".optimizer.final_div_factor", p ".optimizer.schedule=one_cycle", REAL,         \
                 f.optimizer.final_div_factor, 1e4, "100", 100, "0"),                              \
        ROW(p ".optimizer.clip_norm", REAL, f.optimizer.clip_norm, 0, "1.5", 1.5, "-1"),           \
        ROW(p ".optimizer.ema", REAL, f.optimizer.ema, 0, "0.999", 0.999, "1")
#define FROZEN(p, f)                                                                               \
    ROW(p ".freeze", WHOLE, f.freeze, KD_FREEZE_NONE, "backbone", KD_FREEZE_BACKBONE, "all"),      \
        ROW(p ".batch_norm", FLAG, f.batch_norm_frozen, 0, "frozen", 1, "off")
#define NETWORK(p, f)                                                                              \
    ROW(p ".size", WHOLE, f.size, 224, "160", 160, "4"),                                           \
        ROW(p ".dropout", REAL, f.dropout, 0, "0.2", 0.2, "1"),                                    \
        ROW_WITH(p ".drop_path", p ".model=efficientnet_b0", REAL, f.drop_path, 0, "0.1", 0.1,     \
                 "1"),                                                                             \
        ROW_WITH(p ".padding", p ".model=efficientnet_b0", WHOLE, f.padding, KD_PAD_TF, "torch",   \
                 KD_PAD_TORCH, "same"),                                                            \
        ROW_WITH(p ".width", p ".model=cheap_cnn", REAL, f.width, 1, "0.5", 0.5, "0")
    TRAIN("distill", distill),
    TRAIN("scratch", scratch_train),
    TRAIN("teacher.fine_tune", teachers[0].train),
    FROZEN("distill", distill),
    FROZEN("teacher.fine_tune", teachers[0].train),
    NETWORK("student", student),
    NETWORK("teacher", teachers[0].model),
    ROW("seed", SEED, seed, 1, "5", 5, "-1"),
    ROW("data.seed", SEED, data.seed, 1, "6", 6, "-1"),
    ROW("teacher.fine_tune.seed", SEED, teachers[0].train.seed, 1, "7", 7, "-1"),
    ROW("teacher.weight", REAL, teachers[0].weight, 1, "2.5", 2.5, "0"),
    ROW("teacher.allow_label_smoothing", FLAG, teachers[0].allow_label_smoothing, 0, "true", 1,
        "1"),
    ROW("teacher.precision", WHOLE, teachers[0].precision, KD_FLOAT32, "int8", KD_INT8, "int4"),
    ROW("teacher.precision", WHOLE, teachers[0].precision, KD_FLOAT32, "bfloat16", KD_BFLOAT16,
        "float16"),
    ROW("teacher.precision", WHOLE, teachers[0].precision, KD_FLOAT32, "auto", KD_PRECISION_AUTO,
        "best"),
#define OUTSIDE "teacher={kserve: \"localhost:1\", served: m}"
    ROW_WITH("teacher.kserve", OUTSIDE, TEXT, teachers[0].kserve, 1, "\"[::1]:8001\"", 1, "h"),
    ROW_WITH("teacher.served", OUTSIDE, TEXT, teachers[0].served, 1, "m.2", 1, "a/b"),
    ROW_WITH("teacher.version", OUTSIDE, TEXT, teachers[0].version, 0, "\"3\"", 1, "a/b"),
    ROW_WITH("teacher.output", OUTSIDE, TEXT, teachers[0].output, 0, "logits", 1, "a b"),
    ROW_WITH("teacher.tls", OUTSIDE, FLAG, teachers[0].tls, 0, "true", 1, "1"),
    ROW_WITH("teacher.pictures", OUTSIDE, WHOLE, teachers[0].pictures, 32, "2", 2, "1"),
    ROW_WITH("teacher.timeout", OUTSIDE, WHOLE, teachers[0].timeout, 30, "3600", 3600, "0"),
    ROW_WITH("teacher.patience", OUTSIDE, WHOLE, teachers[0].patience, 600, "0", 0, "-1"),
    ROW("distill.precision", FLAG, distill.bfloat16, 0, "bfloat16", 1, "int8"),
    ROW("cluster.gradients", FLAG, distill.bfloat16_gradients, 0, "bfloat16", 1, "float16"),
    ROW("distill.ensemble", WHOLE, ensemble, KD_ENSEMBLE_LOGITS, "probabilities",
        KD_ENSEMBLE_PROBABILITIES, "mean"),
    ROW("distill.loss.kd", REAL, distill.loss.kd, 0.9, "2", 2, "-1"),
    ROW("distill.loss.ce", REAL, distill.loss.ce, 0.1, "2", 2, "-1"),
    ROW("distill.loss.mse", REAL, distill.loss.mse, 0, "2", 2, "-1"),
    ROW("distill.loss.dkd", REAL, distill.loss.dkd, 0, "2", 2, "-1"),
    ROW("distill.loss.dist", REAL, distill.loss.dist, 0, "2", 2, "-1"),
    ROW("distill.loss.nkd", REAL, distill.loss.nkd, 0, "2", 2, "-1"),
    ROW("distill.loss.jsd", REAL, distill.loss.jsd, 0, "2", 2, "-1"),
    ROW("distill.loss.temperature", REAL, distill.loss.temperature, 5, "1e6", 1e6, "9e-4"),
    ROW("distill.loss.standardise", FLAG, distill.loss.standardise, 0, "true", 1, "on"),
    ROW("distill.loss.dkd_alpha", REAL, distill.loss.dkd_alpha, 1, "2", 2, "-1"),
    ROW("distill.loss.dkd_beta", REAL, distill.loss.dkd_beta, 8, "2", 2, "-1"),
    ROW("distill.loss.dist_inter", REAL, distill.loss.dist_inter, 1, "2", 2, "-1"),
    ROW("distill.loss.dist_intra", REAL, distill.loss.dist_intra, 1, "2", 2, "-1"),
    ROW("distill.loss.nkd_gamma", REAL, distill.loss.nkd_gamma, 1.5, "2", 2, "-1"),
    ROW("distill.loss.nkd_temperature", REAL, distill.loss.nkd_temperature, 1, "2", 2, "0"),
    ROW("distill.loss.jsd_beta", REAL, distill.loss.jsd_beta, 0.5, "0", 0, "1.1"),
    ROW("data.labelled.test", TEXT, data.test, 0, "te", 1, "/abs"),
    ROW("data.labelled.test_share", REAL, data.test_share, 0, "0.2", 0.2, "0.91"),
    ROW("data.labelled.leakage", WHOLE, data.leakage, KD_LEAKAGE_REFUSE, "move", KD_LEAKAGE_MOVE,
        "drop"),
    ROW("data.unlabelled.path", TEXT, data.unlabelled.path, 0, "more", 1, ".."),
    ROW_WITH("data.unlabelled.list", "data.unlabelled.path=more", TEXT, data.unlabelled.list, 0,
             "l.txt", 1, "/l"),
    ROW_WITH("data.unlabelled.min_confidence", "data.unlabelled.path=more", REAL,
             data.unlabelled.min_confidence, 0.3, "0.5", 0.5, "1.5"),
    ROW_WITH("data.unlabelled.per_class", "data.unlabelled.path=more", WHOLE,
             data.unlabelled.per_class, 0, "700", 700, "-1"),
    ROW_WITH("data.unlabelled.upsample", "data.unlabelled.path=more", FLAG,
             data.unlabelled.upsample, 1, "false", 0, "0"),
};

/* Everything that can be there is there, so that defaults of all rows are filled in. */
#define WHOLE_JOB                                                                                  \
    LEAST "teacher: {model: mobilenet_v2, weights: w, fine_tune: {}, allow_label_smoothing: "      \
          "false}\nscratch: {}\n"

static double field_value(const kd_job *j, const struct row *r)
{
    const char *field = (const char *)j + r->at;
    switch (r->kind) {
    case REAL:
        return *(const double *)(const void *)field;
    case WHOLE:
        return *(const int *)(const void *)field;
    case SEED:
        return (double)*(const uint64_t *)(const void *)field;
    case FLAG:
        return *(const bool *)(const void *)field;
    case TEXT:
        return field[0] != '\0';
    }
    return -1;
}

static void test_job_keys_each(void **state)
{
    (void)state;
    for (size_t i = 0; i < KD_COUNT(g_rows); i++) {
        const struct row *r = &g_rows[i];
        char set[160], wrong[160];
        snprintf(set, sizeof set, "%s=%s", r->key, r->written);
        snprintf(wrong, sizeof wrong, "%s=%s", r->key, r->wrong);
        /* The smoothing of a teacher would be refused at the default temperature. */
        const char *sets[] = {"distill.loss.temperature=1", r->with ? r->with : "seed=1", set};
        int n = strcmp(r->key, "distill.loss.temperature") == 0 ? 0 : 1;
        kd_job j;
        accept_sets(WHOLE_JOB, sets + 1 - n, r->with ? 1 + n : n, &j);
        double before = field_value(&j, r);
        if (before != r->before)
            fail_msg("%s is %g by default, expected %g", r->key, before, r->before);
        accept_sets(WHOLE_JOB, sets + 1 - n, 2 + n, &j);
        double after = field_value(&j, r);
        if (after != r->after)
            fail_msg("%s: %g after %s", r->key, after, set);
        round_trip(&j);
        sets[2] = wrong;
        kd_diag diag = {0};
        kd_assert_fails(load_sets(WHOLE_JOB, sets + 1 - n, 2 + n, &j, &diag), KD_EINVAL, &diag,
                        "expected");
        assert_non_null(strstr(diag.msg, r->key));
    }
}

static void test_job_keys_follow(void **state)
{
    (void)state;
    kd_job j;
    accept("name: x\nseed: 9\ndata: {labelled: {path: p, val_share: 0.1, size: 96}}\n"
           "teacher: {model: lenet, fine_tune: {}}\nstudent: {model: mlp}\nscratch: {}\n"
           "distill: {eval_every: 7, early_stop: {patience: 2, min_delta: 0.5}, freeze: backbone,\n"
           "  batch_norm: frozen, precision: bfloat16, loss: {label_smoothing: 0.2}}\n"
           "cluster: {gradients: bfloat16}\n",
           &j);
    assert_true(j.data.seed == 9);
    assert_true(j.distill.seed == 9);
    assert_true(j.scratch_train.seed == 9);
    assert_true(j.teachers[0].train.seed == 9);
    assert_int_equal(j.teachers[0].model.size, 96);
    assert_int_equal(j.student.size, 96);
    /* The twin stops by the same rule and learns the same layers with the same labels. */
    assert_int_equal(j.scratch_train.eval_every, 7);
    assert_int_equal(j.scratch_train.patience, 2);
    kd_assert_close(j.scratch_train.min_delta, 0.5, 0, 0);
    kd_assert_close(j.scratch_train.loss.label_smoothing, 0.2, 0, 0);
    assert_int_equal(j.scratch_train.freeze, KD_FREEZE_BACKBONE);
    assert_true(j.scratch_train.batch_norm_frozen);
    assert_true(j.scratch_train.bfloat16);
    /* How gradients travel is one for all that is trained. */
    assert_true(j.scratch_train.bfloat16_gradients && j.teachers[0].train.bfloat16_gradients);
    /* The teacher does not. */
    assert_int_equal(j.teachers[0].train.eval_every, 0);
    assert_int_equal(j.teachers[0].train.patience, 0);
    assert_int_equal(j.teachers[0].train.freeze, KD_FREEZE_NONE);
    kd_assert_close(j.teachers[0].train.loss.label_smoothing, 0, 0, 0);
    round_trip(&j);
}

static void test_job_keys_outside(void **state)
{
    (void)state;
    kd_job j;
    enum kd_stage_kind kinds[KD_MAX_STAGES];
    accept(LEAST "teacher: {kserve: \"gpu:8001\", model: lenet, preprocess: unit, tls: false}\n",
           &j);
    assert_true(kd_teacher_is_outside(&j.teachers[0]));
    assert_string_equal(j.teachers[0].kserve, "gpu:8001");
    assert_string_equal(j.teachers[0].served, "lenet"); /* a name, whatever networks there are */
    assert_int_equal(kd_job_stages(&j, kinds), 3);
    assert_int_equal(kinds[0], KD_STAGE_DISTILL);
    round_trip(&j);
    accept(LEAST "teacher:\n  - {model: lenet, fine_tune: {}}\n"
                 "  - {kserve: \"gpu:8001\", model: kserve, tls: true}\n",
           &j);
    assert_false(kd_teacher_is_outside(&j.teachers[0]));
    assert_string_equal(j.teachers[1].served, "kserve");
    assert_int_equal(kd_job_stages(&j, kinds), 4);
    round_trip(&j);
    static const char *const wrong[] = {"",        "h",          "h:",       ":1",    "h:0",
                                        "h:65536", "h:01",       "h:1x",     "a/b:1", "[::1:1",
                                        "::1:1",   "dns:///h:1", "unix:/x:1"};
    for (size_t i = 0; i < KD_COUNT(wrong); i++) {
        char text[400];
        snprintf(text, sizeof text, LEAST "teacher: {kserve: \"%s\", model: m}\n", wrong[i]);
        refuse(text, wrong[i][0] ? "expected HOST:PORT" : "missing: the server's address");
    }
#define OUT(more) LEAST "teacher: {kserve: \"h:1\"" more "}\n"
    refuse(OUT(", model: m"),
           "teacher.tls: missing: true, or false to send pictures to h:1 in plain");
    refuse(OUT(""), "teacher.model: missing: the name of the model at h:1");
    refuse(OUT(", model: m, fine_tune: {}"), "teacher.fine_tune: not with a teacher");
    refuse(OUT(", model: m, weights: w"), "teacher.weights: not with a teacher");
    refuse(OUT(", model: m, precision: int8"), "teacher.precision: not with a teacher");
    refuse(OUT(", model: m, width: 2"), "only with `model: mobilenet_v2|cheap_cnn`");
    refuse(LEAST "teacher: {model: lenet, tls: true, fine_tune: {}}\n",
           "only with `model: kserve`");
    refuse(LEAST "teacher: {model: kserve}\n", "missing: the server's address");
}

static void test_job_keys_milestones(void **state)
{
    (void)state;
    kd_job j;
    accept(TEACHER "distill: {optimizer: {schedule: step, milestones: [3, 5, 9]}}\n", &j);
    assert_int_equal(j.distill.optimizer.n_milestones, 3);
    assert_int_equal(j.distill.optimizer.milestones[2], 9);
    kd_assert_close(j.distill.optimizer.gamma, 0.1, 0, 0);
    round_trip(&j);
    refuse(TEACHER "distill: {optimizer: {schedule: step}}\n",
           "job.yaml:6:22: distill.optimizer.milestones: missing");
    refuse(TEACHER "distill: {optimizer: {schedule: step, milestones: [5, 5]}}\n",
           "job.yaml:6:51: distill.optimizer.milestones: 5 follows 5");
    refuse(TEACHER "distill: {optimizer: {schedule: step, milestones: [0]}}\n", "milestones");
    refuse(TEACHER "distill: {optimizer: {schedule: step, milestones: [1,2,3,4,5,6,7,8,9]}}\n",
           "a list of up to 8 whole numbers");
    refuse(TEACHER "distill: {optimizer: {milestones: [1]}}\n", "only with `schedule: step`");
    refuse(TEACHER "distill: {optimizer: {gamma: 1}}\n", "only with `schedule: step`");
    refuse(TEACHER "distill: {optimizer: {pct_start: 0.5}}\n", "only with `schedule: one_cycle`");
    refuse(TEACHER "distill: {optimizer: {name: sgd, nesterov: true}}\n",
           "job.yaml:6:44: distill.optimizer.nesterov: needs momentum");
    refuse(TEACHER "distill: {optimizer: {nesterov: false}}\n", "only with `name: sgd`");
    refuse(TEACHER "distill: {optimizer: {schedule: one_cycle, warmup: 1}}\n",
           "job.yaml:6:52: distill.optimizer.warmup: the one_cycle schedule has a rise of its own");
    refuse(TEACHER "distill: {optimizer: {name: sgd, beta1: 0.9}}\n",
           "only with `name: adam|adamw`");
}

static void test_job_keys_data(void **state)
{
    (void)state;
#define DATA(labelled, more)                                                                       \
    "name: x\nstudent: {model: mlp}\ndata: {labelled: {path: p, " labelled "}" more "}\n"
    kd_job j;
    static const char *const hard[] = {"distill.loss={kd: 0}"};
    accept_sets(DATA("val_share: 0.2, test_share: 0.1", ""), hard, 1, &j);
    assert_string_equal(j.data.train, "");
    kd_assert_close(j.data.val_share, 0.2, 0, 0);
    round_trip(&j);
    accept_sets(DATA("format: cifar", ""), hard, 1, &j);
    assert_int_equal(j.data.format, KD_CIFAR);
    round_trip(&j);
    accept_sets(DATA("format: npy, train: t, train_labels: tl, val: v, val_labels: vl, test: e, "
                     "test_labels: el",
                     ""),
                hard, 1, &j);
    assert_int_equal(j.data.format, KD_NPY);
    assert_string_equal(j.data.test_labels, "el");
    round_trip(&j);
    refuse(DATA("train: t", ""),
           "data.labelled.val: missing: the validation samples, or `val_share");
    refuse(DATA("val: v, val_share: 0.1", ""),
           "job.yaml:3:33: data.labelled.val: both `val` and `val_share`");
    refuse(DATA("val: v, test: t, test_share: 0.1", ""),
           "data.labelled.test: both `test` and `test_share`");
    refuse(DATA("val_share: 0.9, test_share: 0.1", ""),
           "data.labelled.test_share: 0.1 and a val_share of 0.9 leave too little");
    refuse(DATA("format: idx, val: v, val_labels: l", ""), "data.labelled.train: missing");
    refuse(DATA("format: idx, train: t, val: v, val_labels: l", ""),
           "data.labelled.train_labels: missing: labels of data.labelled.train");
    refuse(DATA("format: npy, train: t, train_labels: l, val: v", ""),
           "data.labelled.val_labels: missing");
    refuse(DATA("format: npy, train: t, train_labels: l, val_share: 0.1, val_labels: v", ""),
           "data.labelled.val_labels: given without data.labelled.val");
    refuse(DATA("format: npy, train: t, train_labels: l, val_share: 0.1, test: v", ""),
           "data.labelled.test_labels: missing");
    refuse(DATA("format: cifar, val: v, val_share: 0.1", ""), "both");
    refuse(DATA("val: v", ", unlabelled: {}"), "data.unlabelled.path: missing");
#undef DATA
}

static void test_job_keys_networks(void **state)
{
    (void)state;
    kd_job j;
    const char *files[KD_JOB_MAX_FILES];
    accept(LEAST "teacher: {model: resnet18, weights: \"job:0123456789ab/student.safetensors\"}\n",
           &j);
    assert_int_equal(kd_job_local_files(&j, files), 0);
    round_trip(&j);
    accept(LEAST "teacher: {model: resnet50, weights: job:0123}\n", &j);
    assert_int_equal(kd_job_local_files(&j, files), 0);
    static const char *const wrong[] = {"job:",        "job:012",   "job:0123456789abc",
                                        "job:xyzw",    "job:0123/", "job:0123/a/b",
                                        "job:0123/a b"};
    for (size_t i = 0; i < KD_COUNT(wrong); i++) {
        char text[512];
        snprintf(text, sizeof text, LEAST "teacher: {model: resnet18, weights: \"%s\"}\n",
                 wrong[i]);
        refuse(text, "teacher.weights: expected job:ID or job:ID/NAME");
    }
#define SIZED(data, model)                                                                         \
    "name: x\ndistill: {loss: {kd: 0}}\ndata: {labelled: {path: p, val: v, size: " data "}}\n"     \
    "student: {" model "}\n"
    accept(SIZED("58", "model: shallow_cnn_deep"), &j);
    refuse(SIZED("57", "model: shallow_cnn_deep"), "57 pixels are too few for shallow_cnn_deep");
    refuse(SIZED("11", "model: lenet"), "11 pixels are too few for lenet");
    refuse(SIZED("64", "model: shallow_cnn, size: 13"),
           "job.yaml:4:37: student.size: 13 pixels are too few for shallow_cnn (student.model)");
    refuse(SIZED("64", "model: mlp, size: 65"),
           "job.yaml:4:29: student.size: 65 pixels are more than the view has");
    refuse(SIZED("64", "model: lenet, drop_path: 0.1"), "only with `model: efficientnet_b0");
    refuse(SIZED("64", "model: resnet18, padding: tf"), "only with `model: mobilenet_v2");
#undef SIZED
}

static void test_job_keys_teaching(void **state)
{
    (void)state;
    kd_job j;
    static const char *const soft[] = {"mse", "dkd", "dist", "nkd", "jsd"};
    char text[512], part[128];
    for (size_t i = 0; i < KD_COUNT(soft); i++) {
        snprintf(text, sizeof text, LEAST "distill: {loss: {kd: 0, %s: 2}}\n", soft[i]);
        snprintf(part, sizeof part, "teacher: missing: distill.loss.%s is 2, which needs one",
                 soft[i]);
        refuse(text, part);
    }
#define SMOOTH(more, distill)                                                                      \
    LEAST "teacher: {model: lenet, fine_tune: {loss: {label_smoothing: 0.1}}" more                 \
          "}\ndistill: {loss: {" distill "}}\n"
    refuse(SMOOTH("", "temperature: 2"),
           "job.yaml:5:61: teacher.fine_tune.loss.label_smoothing: a teacher trained with label "
           "smoothing makes a worse student at a temperature above 1 (here 2)");
    refuse(SMOOTH("", "kd: 0, nkd: 1, nkd_temperature: 3"), "(here 3)");
    accept(SMOOTH("", "temperature: 1"), &j);
    accept(SMOOTH("", "kd: 0, mse: 1"), &j); /* no term has a temperature */
    accept(SMOOTH(", allow_label_smoothing: true", "temperature: 2"), &j);
    round_trip(&j);
#undef SMOOTH
    refuse(TEACHER "distill: {loss: {mse: 1}, ensemble: probabilities}\n",
           "job.yaml:6:37: distill.ensemble: probabilities are averaged at the temperature, but "
           "distill.loss.mse");
    refuse(TEACHER "distill: {loss: {nkd: 1}, ensemble: probabilities}\n", "distill.loss.nkd");
    refuse(TEACHER "distill: {batch: 1, slots: 1, loss: {dist: 1}}\n",
           "distill.loss.dist_intra: compares the samples of a batch");
    accept(TEACHER "distill: {batch: 1, slots: 1, loss: {dist: 1, dist_intra: 0}}\n", &j);
    static const char *const more[] = {"data.unlabelled.path=more"};
    accept_sets(TEACHER, more, 1, &j);
    round_trip(&j);
    kd_diag diag = {0};
    kd_assert_fails(
        load_sets(TEACHER "distill: {loss: {kd: 0, dkd: 1, nkd: 1}}\n", more, 1, &j, &diag),
        KD_EINVAL, &diag, "data.unlabelled: nothing is learnt from pictures");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_job_keys_each),     cmocka_unit_test(test_job_keys_follow),
        cmocka_unit_test(test_job_keys_outside),  cmocka_unit_test(test_job_keys_milestones),
        cmocka_unit_test(test_job_keys_data),     cmocka_unit_test(test_job_keys_networks),
        cmocka_unit_test(test_job_keys_teaching),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "schema.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOBILE "mobilenet_v2"
#define RESIDUAL "efficientnet_b0|resnet18|resnet34|resnet50"
#define BUILT "shallow_cnn|shallow_cnn_deep|mlp|lenet|cheap_cnn|" MOBILE "|" RESIDUAL
#define FILES "idx|npy"
#define OUTSIDE "model=kserve"

/* The count of KD_KEY_INTS follows its array, whose length is KD_INTS_MAX. */
#define COUNT_FOLLOWS(struct_, list, count)                                                        \
    _Static_assert(offsetof(struct_, count) ==                                                     \
                           offsetof(struct_, list) + KD_INTS_MAX * sizeof(int) &&                  \
                       sizeof(((struct_ *)0)->list) == KD_INTS_MAX * sizeof(int),                  \
                   "a list of whole numbers has its count behind it")
COUNT_FOLLOWS(kd_model_spec, hidden, n_hidden);
COUNT_FOLLOWS(kd_optimizer_spec, milestones, n_milestones);
_Static_assert(offsetof(kd_model_spec, n_layers) ==
                   offsetof(kd_model_spec, layers) + KD_MAX_LAYERS * sizeof(kd_layer_spec),
               "the count of KD_KEY_LAYERS follows its array");
_Static_assert(offsetof(kd_job, n_compress) ==
                   offsetof(kd_job, compress) + KD_MAX_COMPRESS * sizeof(kd_compress_spec),
               "the count of KD_KEY_COMPRESS follows its array");

/* One row each; `field` is a member of kd_job. */
#define ROW(name, kind, bits, text, ...)                                                           \
    {                                                                                              \
        .key = (name), .type = KD_KEY_##kind, .flags = (bits), .meaning = (text), __VA_ARGS__      \
    }
#define AT(field) .at = offsetof(kd_job, field)
#define MAP(name, bits, text) ROW(name, MAP, bits, text, .at = 0)
#define MAP_IF(name, bits, field, text) ROW(name, MAP, KD_KEY_OPTIONAL | (bits), text, AT(field))
#define TEXT(name, kind, bits, default_, field, text)                                              \
    ROW(name, kind, bits, text, .def = (default_), AT(field))
#define LABELS(name, field, text)                                                                  \
    ROW(name, PATH, 0, text, .def = "", .only = "format=" FILES, AT(field))
#define CHOICE(name, kind, words, default_, when, field, text)                                     \
    ROW(name, kind, 0, text, .choices = (words), .def = (default_), .only = (when), AT(field))
#define BOOL(name, default_, when, field, text)                                                    \
    ROW(name, BOOL, 0, text, .def = (default_), .only = (when), AT(field))
#define NUMBER(name, kind, low, high, default_, field, text)                                       \
    ROW(name, kind, 0, text, .lo = (low), .hi = (high), .def = (default_), AT(field))
#define REAL(name, bits, high, default_, when, field, text)                                        \
    ROW(name, REAL, bits, text, .hi = (high), .def = (default_), .only = (when), AT(field))
#define ABOVE_0 KD_KEY_LO_OPEN
#define BELOW_1 KD_KEY_HI_OPEN

/* clang-format off */
#define MODEL(p, f, words, preprocess_def)                                                         \
    ROW(p ".model", WORD, KD_KEY_REQUIRED, "network", .choices = words,                            \
        AT(f.model)),                                                                              \
    ROW(p ".onnx", FILE, KD_KEY_IMPLIES | KD_KEY_ALIAS,                                            \
        "a network from an ONNX file: model onnx with these weights", .def = "",                   \
        .only = "model=onnx", AT(f.weights)),                                                      \
    ROW(p ".layers", LAYERS, KD_KEY_IMPLIES,                                                       \
        "a network as a list, which a dense layer of the classes follows", .def = "",              \
        .only = "model=layers", AT(f.layers)),                                                     \
    ROW(p ".width", REAL, 0, "multiplier of the channels", .lo = 0.05, .hi = 4, .def = "1",        \
        .only = "model=" MOBILE "|cheap_cnn", AT(f.width)),                                        \
    ROW(p ".hidden", INTS, 0, "units of each hidden layer", .lo = 1, .hi = 65536, .def = "256",    \
        .only = "model=mlp", AT(f.hidden)),                                                        \
    CHOICE(p ".padding", CHOICE, "tf|torch", "tf", "model=" MOBILE "|efficientnet_b0", f.padding,  \
           "edges of stride-2 layers: bottom and right, or all around"),                           \
    CHOICE(p ".preprocess", CHOICE, "unit|symmetric|imagenet", preprocess_def, NULL, f.preprocess, \
           "pixels to [0,1], to [-1,1], or by ImageNet's mean and deviation"),                     \
    NUMBER(p ".size", INT, 8, 1024, "=data.labelled.size", f.size,                                 \
           "pixels a side of what this network sees, scaled down from the view"),                  \
    REAL(p ".dropout", BELOW_1, 1, "0", "model=" BUILT, f.dropout,                                 \
         "share of values that training drops before the last layer"),                             \
    REAL(p ".drop_path", BELOW_1, 1, "0", "model=" RESIDUAL, f.drop_path,                          \
         "share of pictures for which training skips the last residual block, less before it"),    \
    TEXT(p ".weights", FILE, 0, "", f.weights,                                                     \
         "file to start from (safetensors, or ONNX with model onnx), uploaded at submit; or job:ID, job:ID/NAME"),            \
    TEXT(p ".weights_digest", DIGEST, 0, "", f.weights_digest,                                     \
         "digest of that file; filled in at submit")

#define TRAINING(p, f, epochs_def, batch_def, slots_def, views_def)                                \
    NUMBER(p ".epochs", INT, 0, 10000, epochs_def, f.epochs, "passes over the training samples"),  \
    NUMBER(p ".batch", INT, 1, 65536, batch_def, f.batch,                                          \
           "samples of one update, over all workers"),                                             \
    NUMBER(p ".slots", INT, 1, 1024, slots_def, f.slots,                                           \
           "fixed parts of a batch; a power of two that divides it"),                              \
    NUMBER(p ".views", VIEWS, 1, 1000000, views_def, f.views,                                      \
           "augmented versions of a sample, taken in turn; fresh = another every epoch")

#define STOPPING(p, f, every_def, patience_def, delta_def)                                         \
    NUMBER(p ".eval_every", INT, 0, 1e9, every_def, f.eval_every,                                  \
           "updates between two evaluations; 0 = at the end of each epoch"),                       \
    MAP(p ".early_stop", 0, "end before the last epoch when validation gets no better"),           \
    NUMBER(p ".early_stop.patience", INT, 0, 1000000, patience_def, f.patience,                    \
           "evaluations without a better accuracy to wait for; 0 = never stop early"),             \
    REAL(p ".early_stop.min_delta", BELOW_1, 1, delta_def, NULL, f.min_delta,                      \
         "accuracy by which a better one must be better")

#define FROZEN(p, f)                                                                               \
    CHOICE(p ".batch_norm", FLAG, "trained|frozen", "trained", NULL, f.batch_norm_frozen,          \
           "frozen keeps statistics, scale and shift of batch-norm as they are"),                  \
    CHOICE(p ".freeze", CHOICE, "none|backbone", "none", NULL, f.freeze,                           \
           "backbone: only the last layer learns")

#define SMOOTHING(p, default_, f)                                                                  \
    REAL(p ".label_smoothing", BELOW_1, 1, default_, NULL, f.loss.label_smoothing,                 \
         "share of the true class's probability that is spread over all classes (ce)")

#define OPTIMIZER(p, f)                                                                            \
    MAP(p ".optimizer", 0, "how parameters are updated"),                                          \
    CHOICE(p ".optimizer.name", CHOICE, "sgd|adam|adamw", "adam", NULL, f.name, "update rule"),    \
    REAL(p ".optimizer.lr", ABOVE_0, 1000, "1e-3", NULL, f.lr, "learning rate"),                   \
    REAL(p ".optimizer.head_lr", 0, 1000, "0", NULL, f.head_lr,                                    \
         "learning rate of a new last layer, 0 = lr"),                                             \
    REAL(p ".optimizer.momentum", BELOW_1, 1, "0", "name=sgd", f.momentum,                         \
         "share of the last update that is kept"),                                                 \
    BOOL(p ".optimizer.nesterov", "false", "name=sgd", f.nesterov,                                 \
         "look ahead along the momentum"),                                                         \
    REAL(p ".optimizer.beta1", BELOW_1, 1, "0.9", "name=adam|adamw", f.beta1,                      \
         "decay of the mean gradient"),                                                            \
    REAL(p ".optimizer.beta2", BELOW_1, 1, "0.999", "name=adam|adamw", f.beta2,                    \
         "decay of the mean squared gradient"),                                                    \
    REAL(p ".optimizer.eps", ABOVE_0, 1, "1e-8", "name=adam|adamw", f.eps,                         \
         "added to the divisor"),                                                                  \
    REAL(p ".optimizer.weight_decay", 0, 100, "0", NULL, f.weight_decay,                           \
         "this times the parameter joins its gradient (adamw: leaves the parameter, times lr)"),   \
    CHOICE(p ".optimizer.schedule", CHOICE, "constant|cosine|step|one_cycle", "constant", NULL,    \
           f.schedule, "course of the learning rate"),                                             \
    REAL(p ".optimizer.warmup", 0, 10000, "0", NULL, f.warmup, "epochs of linear warm-up"),        \
    ROW(p ".optimizer.milestones", INTS, 0, "epochs after which the rate is multiplied by gamma",  \
        .lo = 1, .hi = 10000, .def = "", .only = "schedule=step", AT(f.milestones)),               \
    REAL(p ".optimizer.gamma", ABOVE_0, 1, "0.1", "schedule=step", f.gamma,                        \
         "factor of the learning rate at a milestone"),                                            \
    REAL(p ".optimizer.pct_start", ABOVE_0 | BELOW_1, 1, "0.3", "schedule=one_cycle", f.pct_start, \
         "share of the run in which the rate rises to lr"),                                        \
    ROW(p ".optimizer.div_factor", REAL, 0, "the rate begins at lr divided by this",               \
        .lo = 1, .hi = 1e9, .def = "25", .only = "schedule=one_cycle", AT(f.div_factor)),          \
    ROW(p ".optimizer.final_div_factor", REAL, 0, "it ends at its beginning divided by this",      \
        .lo = 1, .hi = 1e12, .def = "1e4", .only = "schedule=one_cycle", AT(f.final_div_factor)),  \
    REAL(p ".optimizer.clip_norm", 0, 1e9, "0", NULL, f.clip_norm,                                 \
         "length of the whole gradient above which it is scaled down; 0 = off"),                   \
    REAL(p ".optimizer.ema", BELOW_1, 1, "0", NULL, f.ema,                                         \
         "decay of a moving average of the parameters, which is what is evaluated; 0 = off")

#define WEIGHT(p, default_, f, text) REAL(p, 0, 1e6, default_, NULL, f, text)

const kd_key kd_schema[] = {
    TEXT("name", NAME, KD_KEY_REQUIRED, NULL, name, "name of the job"),
    NUMBER("seed", SEED, 0, 0x1p63, "1", seed, "all that is random follows from it"),

    MAP("data", KD_KEY_REQUIRED, "what is learnt from"),
    NUMBER("data.seed", SEED, 0, 0x1p63, "=seed", data.seed,
           "of splits, chosen samples and augmented views"),
    MAP("data.labelled", KD_KEY_REQUIRED, "samples with their classes"),
    CHOICE("data.labelled.format", CHOICE, "image-folder|idx|cifar|npy", "image-folder", NULL,
           data.format,
           "pictures in folders or lists; files of MNIST and its kin; CIFAR's binary; NumPy arrays"),
    TEXT("data.labelled.path", PATH, KD_KEY_REQUIRED, NULL, data.path,
         "folder beneath each worker's data root"),
    TEXT("data.labelled.train", PATH, 0, "", data.train,
         "list, or folder of class folders, of the training samples (idx, npy: file of images); "
         "none = `path` is that folder (cifar: the usual names)"),
    TEXT("data.labelled.val", PATH, 0, "", data.val, "the same for the validation samples"),
    TEXT("data.labelled.test", PATH, 0, "", data.test, "the same for the test samples"),
    LABELS("data.labelled.train_labels", data.train_labels, "labels of the training samples"),
    LABELS("data.labelled.val_labels", data.val_labels, "labels of the validation samples"),
    LABELS("data.labelled.test_labels", data.test_labels, "labels of the test samples"),
    NUMBER("data.labelled.val_share", REAL, 0, 0.9, "0", data.val_share,
           "share of the training samples, by class and seed, that validates instead of `val`"),
    NUMBER("data.labelled.test_share", REAL, 0, 0.9, "0", data.test_share,
           "share of the training samples that tests instead of `test`"),
    CHOICE("data.labelled.leakage", CHOICE, "refuse|move|allow", "refuse", NULL, data.leakage,
           "the same picture in two splits: fail, keep it in one, or let it be"),
    TEXT("data.labelled.classes", PATH, 0, "", data.classes,
         "file of class names, one a line; none = classes.txt, or the folders' names"),
    NUMBER("data.labelled.size", INT, 8, 1024, "224", data.size,
           "pixels a side of what the networks see"),
    NUMBER("data.labelled.max_train", INT, 0, 1e8, "0", data.max_train,
           "train on so many samples, chosen by the seed; 0 = all"),
    NUMBER("data.labelled.max_bad_images", REAL, 0, 1, "0.001", data.max_bad_images,
           "share of unreadable pictures past which the job fails"),
    ROW("data.augment", AUGMENT, 0, "what makes the views of a sample", .def = "",
        AT(data.augment)),
    MAP_IF("data.unlabelled", 0, data.unlabelled.path,
           "pictures without classes, whose soft targets the teacher gives"),
    TEXT("data.unlabelled.path", PATH, KD_KEY_REQUIRED, NULL, data.unlabelled.path,
         "folder beneath each worker's data root"),
    TEXT("data.unlabelled.list", PATH, 0, "", data.unlabelled.list,
         "file of paths in it, one a line; none = every picture below it"),
    NUMBER("data.unlabelled.min_confidence", REAL, 0, 1, "0.3", data.unlabelled.min_confidence,
           "least probability of the teacher's best class for a picture to be used"),
    NUMBER("data.unlabelled.per_class", INT, 0, 1e6, "0", data.unlabelled.per_class,
           "pictures wanted of each class; 0 = as they come"),
    BOOL("data.unlabelled.upsample", "true", NULL, data.unlabelled.upsample,
         "repeat pictures of a class that has fewer than per_class"),

    MAP_IF("teacher", 0, teachers[0].model.model, "the network that is learnt from"),
    MODEL("teacher", teachers[0].model, BUILT "|layers|onnx|kserve", "symmetric"),
    ROW("teacher.kserve", ADDRESS, KD_KEY_IMPLIES,
        "a teacher that answers the Open Inference Protocol (Triton, KServe, distill serve) at this address; "
        "`model` is then its name there",
        .def = "", .only = OUTSIDE, AT(teachers[0].kserve)),
    ROW("teacher.served", NAME, 0, "its name there", .def = "", .only = OUTSIDE, AT(teachers[0].served)),
    ROW("teacher.version", NAME, 0, "of the model there; left out = the server's choice", .def = "",
        .only = OUTSIDE, AT(teachers[0].version)),
    ROW("teacher.output", NAME, 0, "its tensor of logits; left out = `logits`, or the only one", .def = "",
        .only = OUTSIDE, AT(teachers[0].output)),
    BOOL("teacher.tls", "false", OUTSIDE, teachers[0].tls,
         "over TLS, by the workers' --teacher-ca and --teacher-identity; must be said of another machine"),
    ROW("teacher.pictures", INT, 0, "pictures of each request; one of them is the same in all, to notice "
        "another model", .lo = 2, .hi = 1024, .def = "32", .only = OUTSIDE, AT(teachers[0].pictures)),
    ROW("teacher.timeout", INT, 0, "seconds that an answer may take", .lo = 1, .hi = 3600, .def = "30",
        .only = OUTSIDE, AT(teachers[0].timeout)),
    ROW("teacher.patience", INT, 0, "seconds that workers wait for a server that is away; then the job fails",
        .lo = 0, .hi = 1e6, .def = "600", .only = OUTSIDE, AT(teachers[0].patience)),
    ROW("teacher.probe", DIGEST, 0, "digest of its answers to the job's probe; filled in by the first worker",
        .def = "", .only = OUTSIDE, AT(teachers[0].probe)),
    REAL("teacher.weight", ABOVE_0, 1e6, "1", NULL, teachers[0].weight,
         "share in an ensemble, divided by the sum of all"),
    BOOL("teacher.allow_label_smoothing", "false", NULL, teachers[0].allow_label_smoothing,
         "take a teacher trained with label smoothing at a temperature above 1"),
    CHOICE("teacher.precision", CHOICE, "float32|int8|bfloat16|auto", "float32", NULL,
           teachers[0].precision,
           "of its convolutions when it labels; int8 is some two times quicker and nearly the same; "
           "auto = the quickest that agrees with float32 on training pictures, measured once"),
    MAP_IF("teacher.fine_tune", KD_KEY_STORED, teachers[0].fine_tune,
           "train the teacher on this data first"),
    NUMBER("teacher.fine_tune.seed", SEED, 0, 0x1p63, "=seed", teachers[0].train.seed,
           "of new values, order and dropout"),
    MAP("teacher.fine_tune.loss", 0, "cross-entropy with the true class"),
    SMOOTHING("teacher.fine_tune.loss", "0", teachers[0].train),
    TRAINING("teacher.fine_tune", teachers[0].train, "4", "=distill.batch", "=distill.slots",
             "=distill.views"),
    OPTIMIZER("teacher.fine_tune", teachers[0].train.optimizer),
    FROZEN("teacher.fine_tune", teachers[0].train),
    STOPPING("teacher.fine_tune", teachers[0].train, "0", "0", "0"),

    MAP("student", KD_KEY_REQUIRED, "the network that is trained"),
    MODEL("student", student, BUILT "|layers|onnx", "unit"),

    MAP("distill", 0, "how the student is trained"),
    MAP("distill.loss", 0, "what is minimised"),
    WEIGHT("distill.loss.kd", "0.9", distill.loss.kd,
           "weight of the soft loss: teacher's probabilities at the temperature"),
    WEIGHT("distill.loss.ce", "0.1", distill.loss.ce,
           "weight of the hard loss: cross-entropy with the true class"),
    WEIGHT("distill.loss.mse", "0", distill.loss.mse,
           "weight of the squared difference of raw logits"),
    WEIGHT("distill.loss.dkd", "0", distill.loss.dkd,
           "weight of decoupled KD: true class and other classes apart"),
    WEIGHT("distill.loss.dist", "0", distill.loss.dist,
           "weight of DIST: correlation by sample and by class"),
    WEIGHT("distill.loss.nkd", "0", distill.loss.nkd,
           "weight of normalised KD: the other classes sum to one"),
    WEIGHT("distill.loss.jsd", "0", distill.loss.jsd,
           "weight of the generalised Jensen-Shannon divergence"),
    CHOICE("distill.loss.mse_kind", CHOICE, "mean|half", "mean", NULL, distill.loss.mse_kind,
           "squares averaged over the classes, or half their sum"),
    ROW("distill.loss.temperature", REAL, 0, "divides the logits in kd, dkd, dist and jsd",
        .lo = 1e-3, .hi = 1e6, .def = "5", AT(distill.loss.temperature)),
    CHOICE("distill.loss.t2", CHOICE, "none|soft|all", "soft", NULL, distill.loss.t2,
           "what is multiplied by the temperature squared"),
    BOOL("distill.loss.normalise", "true", NULL, distill.loss.normalise,
         "divide the loss by the sum of the weights"),
    SMOOTHING("distill.loss", "0", distill),
    BOOL("distill.loss.standardise", "false", NULL, distill.loss.standardise,
         "kd on logits of mean 0 and deviation 1"),
    WEIGHT("distill.loss.dkd_alpha", "1", distill.loss.dkd_alpha, "dkd: of the true class's part"),
    WEIGHT("distill.loss.dkd_beta", "8", distill.loss.dkd_beta, "dkd: of the other classes' part"),
    WEIGHT("distill.loss.dist_inter", "1", distill.loss.dist_inter,
           "dist: of the correlation over the classes of a sample"),
    WEIGHT("distill.loss.dist_intra", "1", distill.loss.dist_intra,
           "dist: of the correlation over the samples of a class"),
    WEIGHT("distill.loss.nkd_gamma", "1.5", distill.loss.nkd_gamma,
           "nkd: of the other classes' part"),
    ROW("distill.loss.nkd_temperature", REAL, 0, "nkd: divides the logits of the other classes",
        .lo = 1e-3, .hi = 1e6, .def = "1", AT(distill.loss.nkd_temperature)),
    REAL("distill.loss.jsd_beta", 0, 1, "0.5", NULL, distill.loss.jsd_beta,
         "jsd: the teacher's share of the mixture; 0 = forward KL, 1 = reverse"),
    CHOICE("distill.ensemble", CHOICE, "logits|probabilities", "logits", NULL, ensemble,
           "what is averaged over several teachers"),
    OPTIMIZER("distill", distill.optimizer),
    TRAINING("distill", distill, "10", "64", "8", "1"),
    FROZEN("distill", distill),
    CHOICE("distill.precision", FLAG, "float32|bfloat16", "float32", NULL, distill.bfloat16,
           "of the convolutions' operands, the twin's too; sums, parameters and all else are float32"),
    STOPPING("distill", distill, "0", "0", "0"),

    MAP_IF("scratch", KD_KEY_STORED, scratch,
           "train a twin of the student without the teacher, to compare"),
    MAP("scratch.loss", 0, "cross-entropy with the true class"),
    SMOOTHING("scratch.loss", "=distill.loss.label_smoothing", scratch_train),
    OPTIMIZER("scratch", scratch_train.optimizer),
    TRAINING("scratch", scratch_train, "=distill.epochs", "=distill.batch", "=distill.slots",
             "=distill.views"),
    STOPPING("scratch", scratch_train, "=distill.eval_every", "=distill.early_stop.patience",
             "=distill.early_stop.min_delta"),

    ROW("compress", COMPRESS, 0, "what makes the trained student smaller, one step after the other",
        .def = "", AT(compress)),

    MAP("cluster", 0, "where the job runs"),
    NUMBER("cluster.min_workers", INT, 1, 4096, "1", min_workers, "workers to wait for"),
    NUMBER("cluster.max_workers", INT, 1, 4096, "8", max_workers, "workers to take at most"),
    NUMBER("cluster.checkpoint_every", INT, 1, 1e6, "50", checkpoint_every,
           "updates between two checkpoints"),
    NUMBER("cluster.priority", INT, -100, 100, "0", priority,
           "jobs of greater priority come first and take workers from others"),
    NUMBER("cluster.audit", REAL, 0, 1, "0", audit,
           "share of the work that is done twice, by two workers, and compared"),
    CHOICE("cluster.gradients", FLAG, "float32|bfloat16", "float32", NULL,
           distill.bfloat16_gradients,
           "how gradients travel; bfloat16: rounded to half the bytes, wherever they are added up"),

    ROW("export", EXPORT, 0, "file formats of the student", .def = "", .at = 0),
    ROW("matrix", SWEEP, 0, "a sweep: one job for each combination of values of these keys",
        .def = "", .at = 0),
    ROW("seeds", SWEEP, 0, "a sweep: one job for each of so many seeds, on the same data",
        .lo = 1, .hi = 256, .def = "", .at = 0),
};
/* clang-format on */
const int kd_schema_count = (int)KD_COUNT(kd_schema);
_Static_assert(KD_COUNT(kd_schema) <= KD_KEYS_MAX, "arrays of one entry a row have this size");

static bool is_key(int row, const char *key, size_t len)
{
    return strncmp(kd_schema[row].key, key, len) == 0 && kd_schema[row].key[len] == '\0';
}

int kd_schema_find(const char *key, size_t len)
{
    for (int i = 0; i < kd_schema_count; i++)
        if (is_key(i, key, len))
            return i;
    return -1;
}

static int find_parent(int row)
{
    const char *key = kd_schema[row].key, *dot = strrchr(key, '.');
    return dot ? kd_schema_find(key, (size_t)(dot - key)) : -1;
}

static int find_sibling(int row)
{
    const kd_key *k = &kd_schema[row];
    size_t prefix = (size_t)(strrchr(k->key, '.') + 1 - k->key), len = strcspn(k->only, "=");
    for (int i = 0; i < kd_schema_count; i++) {
        const char *key = kd_schema[i].key;
        if (strncmp(key, k->key, prefix) == 0 && strncmp(key + prefix, k->only, len) == 0 &&
            key[prefix + len] == '\0')
            return i;
    }
    KD_BUG_ON(true && "a key without the sibling that it applies with");
}

/* Rows are asked for their relatives again and again. Racing writers store the same. */
static int remembered(atomic_int *known, int row, int (*find)(int row))
{
    int found = atomic_load_explicit(&known[row], memory_order_relaxed);
    if (found)
        return found - 2;
    found = find(row);
    atomic_store_explicit(&known[row], found + 2, memory_order_relaxed);
    return found;
}

int kd_schema_parent(int row)
{
    static atomic_int known[KD_KEYS_MAX];
    return remembered(known, row, find_parent);
}

int kd_schema_sibling(const kd_key *k)
{
    static atomic_int known[KD_KEYS_MAX];
    return remembered(known, (int)(k - kd_schema), find_sibling);
}

/* The n-th of the words between bars; NULL: there are no so many. */
static const char *choice_at(const char *choices, int n, size_t *out_len)
{
    for (; n > 0 && choices; n--)
        if ((choices = strchr(choices, '|')))
            choices++;
    *out_len = choices ? strcspn(choices, "|") : 0;
    return choices;
}

static int choice_of(const char *choices, const char *word, size_t len)
{
    for (int i = 0; choices; i++) {
        size_t n = strcspn(choices, "|");
        if (n == len && memcmp(choices, word, n) == 0)
            return i;
        choices = choices[n] ? choices + n + 1 : NULL;
    }
    return -1;
}

bool kd_schema_choice_text(const char *choices, int n, char *out, size_t size)
{
    size_t len;
    const char *word = choice_at(choices, n, &len);
    if (word)
        snprintf(out, size, "%.*s", (int)len, word);
    return word != NULL;
}

int kd_schema_choice(const char *choices, const char *word)
{
    return choice_of(choices, word, strlen(word));
}

bool kd_schema_each(const kd_key *k)
{
    const size_t n = sizeof KD_SCHEMA_EACH - 1;
    return strncmp(k->key, KD_SCHEMA_EACH, n) == 0 && (!k->key[n] || k->key[n] == '.');
}

const char *kd_schema_const_field(const kd_job *job, const kd_key *k, int inst)
{
    size_t of_inst = kd_schema_each(k) ? (size_t)inst * sizeof(kd_teacher_spec) : 0;
    return (const char *)job + k->at + of_inst;
}

char *kd_schema_field(kd_job *job, const kd_key *k, int inst)
{
    return (char *)job + (kd_schema_const_field(job, k, inst) - (const char *)job);
}

bool kd_schema_applies(const kd_key *k, const kd_job *job, int inst)
{
    if (!k->only)
        return true;
    const char *only = strchr(k->only, '=') + 1;
    const kd_key *sibling = &kd_schema[kd_schema_sibling(k)];
    const char *word = kd_schema_const_field(job, sibling, inst);
    size_t len;
    int chosen;
    if (sibling->type == KD_KEY_WORD)
        return kd_schema_choice(only, word) >= 0;
    memcpy(&chosen, word, sizeof chosen);
    word = choice_at(sibling->choices, chosen, &len);
    return word && choice_of(only, word, len) >= 0;
}

size_t kd_schema_size(const kd_key *k)
{
    switch (k->type) {
    case KD_KEY_CHOICE:
    case KD_KEY_INT:
    case KD_KEY_VIEWS:
    case KD_KEY_EDGE:
        return sizeof(int);
    case KD_KEY_FLAG:
    case KD_KEY_BOOL:
        return sizeof(bool);
    case KD_KEY_SEED:
        return sizeof(uint64_t);
    case KD_KEY_REAL:
        return sizeof(double);
    default:
        return 0;
    }
}

int kd_schema_distance(const char *a, const char *b)
{
    enum { MAX = 63 };
    int rows[3][MAX + 1];
    int n = (int)strnlen(a, MAX), m = (int)strnlen(b, MAX);
    for (int j = 0; j <= m; j++)
        rows[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int same = a[i - 1] == b[j - 1];
            int d = KD_MIN(KD_MIN(last[j], now[j - 1]) + 1, last[j - 1] + !same);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d = KD_MIN(d, before[j - 2] + 1);
            now[j] = d;
        }
    }
    return rows[n % 3][m];
}

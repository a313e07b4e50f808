#include "schema.h"

#include "kd/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODELS "shallow_cnn|mlp|mobilenet_v2"

_Static_assert(offsetof(kd_model_spec, n_hidden) ==
                   offsetof(kd_model_spec, hidden) + sizeof(((kd_model_spec *)0)->hidden),
               "the count of KD_KEY_INTS follows its array");

/* One row each; `field` is a member of kd_job. */
#define ROW(name, kind, bits, text, ...)                                                           \
    {                                                                                              \
        .key = (name), .type = KD_KEY_##kind, .flags = (bits), .meaning = (text), __VA_ARGS__      \
    }
#define AT(field) .at = offsetof(kd_job, field)
#define MAP(name, bits, text) ROW(name, MAP, bits, text, .at = 0)
#define MAP_IF(name, bits, field, text) ROW(name, MAP, KD_KEY_OPTIONAL | (bits), text, AT(field))
#define SOON(name, text) ROW(name, SOON, 0, text, .at = 0)
#define TEXT(name, kind, bits, default_, field, text)                                              \
    ROW(name, kind, bits, text, .def = (default_), AT(field))
#define LABELS(name, field, text)                                                                  \
    ROW(name, PATH, KD_KEY_REQUIRED, text, .only = "format=idx", AT(field))
#define CHOICE(name, kind, words, default_, when, field, text)                                     \
    ROW(name, kind, 0, text, .choices = (words), .def = (default_), .only = (when), AT(field))
#define NUMBER(name, kind, low, high, default_, field, text)                                       \
    ROW(name, kind, 0, text, .lo = (low), .hi = (high), .def = (default_), AT(field))
#define REAL(name, bits, high, default_, when, field, text)                                        \
    ROW(name, REAL, bits, text, .hi = (high), .def = (default_), .only = (when), AT(field))
#define ABOVE_0 KD_KEY_LO_OPEN
#define BELOW_1 KD_KEY_HI_OPEN

/* clang-format off */
#define MODEL(p, f, preprocess_def)                                                                \
    ROW(p ".model", WORD, KD_KEY_REQUIRED, "network", .choices = MODELS, AT(f.model)),             \
    REAL(p ".width", ABOVE_0, 4, "1", "model=mobilenet_v2", f.width, "multiplier of the channels"), \
    ROW(p ".hidden", INTS, 0, "units of each hidden layer", .lo = 1, .hi = 65536, .def = "256",    \
        .only = "model=mlp", AT(f.hidden)),                                                        \
    CHOICE(p ".padding", CHOICE, "tf|torch", "tf", "model=mobilenet_v2", f.padding,                \
           "edges of stride-2 layers: bottom and right, or all around"),                           \
    CHOICE(p ".preprocess", CHOICE, "unit|symmetric|imagenet", preprocess_def, NULL, f.preprocess, \
           "pixels to [0,1], to [-1,1], or by ImageNet's mean and deviation"),                     \
    TEXT(p ".weights", FILE, 0, "", f.weights,                                                     \
         "safetensors file to start from, uploaded at submit"),                                    \
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

#define OPTIMIZER(p, f)                                                                            \
    MAP(p ".optimizer", 0, "how parameters are updated"),                                          \
    CHOICE(p ".optimizer.name", CHOICE, "sgd|adam", "adam", NULL, f.name, "update rule"),          \
    REAL(p ".optimizer.lr", ABOVE_0, 1000, "1e-3", NULL, f.lr, "learning rate"),                   \
    REAL(p ".optimizer.head_lr", 0, 1000, "0", NULL, f.head_lr,                                    \
         "learning rate of a new last layer, 0 = lr"),                                             \
    REAL(p ".optimizer.momentum", BELOW_1, 1, "0", "name=sgd", f.momentum,                  \
         "share of the last update that is kept"),                                                 \
    REAL(p ".optimizer.beta1", BELOW_1, 1, "0.9", "name=adam", f.beta1,                     \
         "decay of the mean gradient"),                                                            \
    REAL(p ".optimizer.beta2", BELOW_1, 1, "0.999", "name=adam", f.beta2,                   \
         "decay of the mean squared gradient"),                                                    \
    REAL(p ".optimizer.eps", ABOVE_0, 1, "1e-8", "name=adam", f.eps, "added to the divisor"),      \
    REAL(p ".optimizer.weight_decay", 0, 100, "0", NULL, f.weight_decay,                           \
         "coupled L2: this times the parameter joins its gradient"),                               \
    CHOICE(p ".optimizer.schedule", CHOICE, "constant|cosine", "constant", NULL, f.schedule,       \
           "course of the learning rate"),                                                         \
    REAL(p ".optimizer.warmup", 0, 10000, "0", NULL, f.warmup, "epochs of linear warm-up")

const kd_key kd_schema[] = {
    TEXT("name", NAME, KD_KEY_REQUIRED, NULL, name, "name of the job"),
    NUMBER("seed", SEED, 0, 0x1p63, "1", seed, "all that is random follows from it"),

    MAP("data", KD_KEY_REQUIRED, "what is learnt from"),
    MAP("data.labelled", KD_KEY_REQUIRED, "samples with their classes"),
    CHOICE("data.labelled.format", CHOICE, "image-folder|idx", "image-folder", NULL, data.format,
           "pictures and lists of them, or the files of MNIST and its kin"),
    TEXT("data.labelled.path", PATH, KD_KEY_REQUIRED, NULL, data.path,
         "folder beneath each worker's data root"),
    TEXT("data.labelled.train", PATH, KD_KEY_REQUIRED, NULL, data.train,
         "list file of the training samples (idx: file of images)"),
    TEXT("data.labelled.val", PATH, KD_KEY_REQUIRED, NULL, data.val,
         "the same for the validation samples"),
    LABELS("data.labelled.train_labels", data.train_labels, "labels of the training samples"),
    LABELS("data.labelled.val_labels", data.val_labels, "labels of the validation samples"),
    TEXT("data.labelled.classes", PATH, 0, "", data.classes,
         "file of class names, one a line; none = classes.txt, or the folders' names"),
    NUMBER("data.labelled.size", INT, 8, 1024, "224", data.size,
           "pixels a side of what the networks see"),
    NUMBER("data.labelled.max_train", INT, 0, 1e8, "0", data.max_train,
           "use so many samples of each list, chosen by the seed; 0 = all"),
    NUMBER("data.labelled.max_bad_images", REAL, 0, 1, "0.001", data.max_bad_images,
           "share of unreadable pictures past which the job fails"),
    ROW("data.augment", AUGMENT, 0,
        "flip: mirrored half the time; crop: padded by so many pixels, then cut at random",
        .lo = 1, .hi = 512, .def = ""),
    SOON("data.unlabelled", "samples without classes, for the soft loss only"),

    MAP_IF("teacher", 0, teachers[0].model.model, "the network that is learnt from"),
    MODEL("teacher", teachers[0].model, "symmetric"),
    SOON("teacher.onnx", "a network from an ONNX file"),
    MAP_IF("teacher.fine_tune", KD_KEY_STORED, teachers[0].fine_tune, "train the teacher on this data first"),
    TRAINING("teacher.fine_tune", teachers[0].train, "4", "=distill.batch", "=distill.slots",
             "=distill.views"),
    OPTIMIZER("teacher.fine_tune", teachers[0].train.optimizer),
    CHOICE("teacher.fine_tune.batch_norm", FLAG, "trained|frozen", "trained", NULL,
           teachers[0].train.batch_norm_frozen,
           "frozen keeps statistics, scale and shift of batch-norm as they are"),

    MAP("student", KD_KEY_REQUIRED, "the network that is trained"),
    MODEL("student", student, "unit"),
    SOON("student.onnx", "a network from an ONNX file"),
    SOON("student.layers", "a network written as a list of layers"),

    MAP("distill", 0, "how the student is trained"),
    MAP("distill.loss", 0, "what is minimised"),
    REAL("distill.loss.kd", 0, 1e6, "0.9", NULL, distill.loss.kd,
         "weight of the soft loss: teacher's probabilities at the temperature"),
    REAL("distill.loss.ce", 0, 1e6, "0.1", NULL, distill.loss.ce,
         "weight of the hard loss: cross-entropy with the true class"),
    REAL("distill.loss.mse", 0, 1e6, "0", NULL, distill.loss.mse,
         "weight of the squared difference of raw logits"),
    CHOICE("distill.loss.mse_kind", CHOICE, "mean|half", "mean", NULL, distill.loss.mse_kind,
           "squares averaged over the classes, or half their sum"),
    REAL("distill.loss.temperature", ABOVE_0, 1000, "5", NULL, distill.loss.temperature,
         "divides the logits in the soft loss"),
    CHOICE("distill.loss.t2", CHOICE, "none|soft|all", "soft", NULL, distill.loss.t2,
           "what is multiplied by the temperature squared"),
    ROW("distill.loss.normalise", BOOL, 0, "divide the loss by the sum of the weights",
        .def = "true", AT(distill.loss.normalise)),
    OPTIMIZER("distill", distill.optimizer),
    TRAINING("distill", distill, "10", "64", "8", "1"),

    MAP_IF("scratch", KD_KEY_STORED, scratch,
           "train a twin of the student without the teacher, to compare"),
    OPTIMIZER("scratch", scratch_train.optimizer),
    TRAINING("scratch", scratch_train, "=distill.epochs", "=distill.batch", "=distill.slots",
             "=distill.views"),

    MAP("cluster", 0, "where the job runs"),
    NUMBER("cluster.min_workers", INT, 1, 4096, "1", min_workers, "workers to wait for"),
    NUMBER("cluster.max_workers", INT, 1, 4096, "8", max_workers, "workers to take at most"),
    NUMBER("cluster.checkpoint_every", INT, 1, 1e6, "50", checkpoint_every,
           "updates between two checkpoints"),

    ROW("export", EXPORT, 0, "file formats of the student", .choices = "safetensors",
        .def = "safetensors"),
    SOON("matrix", "a sweep: one job for each combination"),
    SOON("sweep", "how a sweep is run"),
    SOON("compress", "pruning and int8 after distillation"),
};
/* clang-format on */
const int kd_schema_count = (int)KD_COUNT(kd_schema);
_Static_assert(KD_COUNT(kd_schema) <= KD_KEYS_MAX, "arrays of one entry a row have this size");

int kd_schema_find(const char *key, size_t len)
{
    for (int i = 0; i < kd_schema_count; i++)
        if (strlen(kd_schema[i].key) == len && memcmp(kd_schema[i].key, key, len) == 0)
            return i;
    return -1;
}

int kd_schema_parent(int row)
{
    const char *dot = strrchr(kd_schema[row].key, '.');
    return dot ? kd_schema_find(kd_schema[row].key, (size_t)(dot - kd_schema[row].key)) : -1;
}

bool kd_schema_choice_text(const char *choices, int n, char *out, size_t size)
{
    for (; n > 0 && choices; n--)
        if ((choices = strchr(choices, '|')))
            choices++;
    if (!choices)
        return false;
    snprintf(out, size, "%.*s", (int)strcspn(choices, "|"), choices);
    return true;
}

int kd_schema_choice(const char *choices, const char *word)
{
    char one[KD_JOB_WORD];
    for (int i = 0; kd_schema_choice_text(choices, i, one, sizeof one); i++)
        if (strcmp(one, word) == 0)
            return i;
    return -1;
}

bool kd_schema_applies(const kd_key *k, const kd_job *job)
{
    if (!k->only)
        return true;
    const char *equals = strchr(k->only, '='), *dot = strrchr(k->key, '.');
    char key[128], word[KD_JOB_WORD];
    int n = snprintf(key, sizeof key, "%.*s.%.*s", (int)(dot - k->key), k->key,
                     (int)(equals - k->only), k->only);
    int row = kd_schema_find(key, (size_t)n);
    KD_BUG_ON(row < 0);
    const kd_key *sibling = &kd_schema[row];
    const char *field = (const char *)job + sibling->at;
    if (sibling->type == KD_KEY_WORD)
        return strcmp(field, equals + 1) == 0;
    int chosen;
    memcpy(&chosen, field, sizeof chosen);
    return kd_schema_choice_text(sibling->choices, chosen, word, sizeof word) &&
           strcmp(word, equals + 1) == 0;
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

/* "from 1 to 64", "above 0, up to 1000", "from 0 to below 1" */
static void range_text(const kd_key *k, char *out, size_t size)
{
    if (k->type == KD_KEY_SEED)
        snprintf(out, size, "from 0 to 2^63-1");
    else
        snprintf(out, size, "%s %.10g%s %.10g", k->flags & KD_KEY_LO_OPEN ? "above" : "from", k->lo,
                 k->flags & KD_KEY_HI_OPEN   ? " to below"
                 : k->flags & KD_KEY_LO_OPEN ? ", up to"
                                             : " to",
                 k->hi);
}

void kd_schema_expected(const kd_key *k, char *out, size_t size)
{
    char range[80];
    range_text(k, range, sizeof range);
    switch (k->type) {
    case KD_KEY_MAP:
        snprintf(out, size, "a mapping of keys");
        break;
    case KD_KEY_SOON:
        snprintf(out, size, "nothing");
        break;
    case KD_KEY_NAME:
        snprintf(out, size, "1 to %d letters, digits, dots, dashes or underscores",
                 KD_JOB_NAME - 1);
        break;
    case KD_KEY_PATH:
        snprintf(out, size, "a relative path without `..`, of up to %d bytes", KD_JOB_PATH - 1);
        break;
    case KD_KEY_FILE:
        snprintf(out, size, "the path of a local file, of up to %d bytes", KD_JOB_PATH - 1);
        break;
    case KD_KEY_DIGEST:
        snprintf(out, size, "32 hex digits");
        break;
    case KD_KEY_WORD:
    case KD_KEY_CHOICE:
    case KD_KEY_FLAG:
        snprintf(out, size, "one of %s", k->choices);
        break;
    case KD_KEY_BOOL:
        snprintf(out, size, "true or false");
        break;
    case KD_KEY_INT:
    case KD_KEY_SEED:
        snprintf(out, size, "a whole number %s", range);
        break;
    case KD_KEY_REAL:
        snprintf(out, size, "a number %s", range);
        break;
    case KD_KEY_INTS:
        snprintf(out, size, "a list of up to %d whole numbers %s", KD_HIDDEN_MAX, range);
        break;
    case KD_KEY_VIEWS:
        snprintf(out, size, "`fresh` or a whole number %s", range);
        break;
    case KD_KEY_AUGMENT:
        snprintf(out, size, "a list of `flip` and `{crop: {pad: N}}`");
        break;
    case KD_KEY_EXPORT:
        snprintf(out, size, "a list of formats (%s)", k->choices);
        break;
    }
}

/* The default column: what a key is without being written. */
static void default_text(const kd_key *k, char *out, size_t size)
{
    if (k->type == KD_KEY_SOON)
        snprintf(out, size, "not built yet");
    else if (k->flags & KD_KEY_REQUIRED)
        snprintf(out, size, "required");
    else if (k->type == KD_KEY_MAP)
        snprintf(out, size, "%s", k->flags & KD_KEY_OPTIONAL ? "none" : "");
    else if (!k->def[0])
        snprintf(out, size, "none");
    else if (k->def[0] == '=')
        snprintf(out, size, "as %s", k->def + 1);
    else if (k->type == KD_KEY_INTS || k->type == KD_KEY_EXPORT)
        snprintf(out, size, "[%s]", k->def);
    else
        snprintf(out, size, "%s", k->def);
}

/* The value column: type and range in few words. */
static void value_text(const kd_key *k, char *out, size_t size)
{
    char range[80];
    range_text(k, range, sizeof range);
    switch (k->type) {
    case KD_KEY_MAP:
    case KD_KEY_SOON:
        snprintf(out, size, "%s", "");
        break;
    case KD_KEY_NAME:
        snprintf(out, size, "letters, digits . - _");
        break;
    case KD_KEY_PATH:
        snprintf(out, size, "relative path");
        break;
    case KD_KEY_FILE:
        snprintf(out, size, "local path");
        break;
    case KD_KEY_INTS:
        snprintf(out, size, "list of whole numbers");
        break;
    case KD_KEY_VIEWS:
        snprintf(out, size, "fresh, or from %.0f", k->lo);
        break;
    case KD_KEY_AUGMENT:
        snprintf(out, size, "[flip, {crop: {pad: N}}]");
        break;
    case KD_KEY_INT:
    case KD_KEY_SEED:
        snprintf(out, size, "whole, %s", range);
        break;
    case KD_KEY_REAL:
        snprintf(out, size, "number, %s", range);
        break;
    case KD_KEY_WORD:
    case KD_KEY_CHOICE:
    case KD_KEY_FLAG:
    case KD_KEY_EXPORT:
        snprintf(out, size, "%s", k->choices);
        break;
    case KD_KEY_DIGEST:
    case KD_KEY_BOOL:
        kd_schema_expected(k, out, size);
        break;
    }
}

int kd_job_schema(char **out_text)
{
    kd_buf b;
    char value[80], def[80];
    int wide[3] = {3, 5, 7}; /* of the headings */
    kd_buf_init(&b, 64u << 10);
    for (int i = 0; i < kd_schema_count; i++) {
        value_text(&kd_schema[i], value, sizeof value);
        default_text(&kd_schema[i], def, sizeof def);
        wide[0] = KD_MAX(wide[0], (int)strlen(kd_schema[i].key));
        wide[1] = KD_MAX(wide[1], (int)strlen(value));
        wide[2] = KD_MAX(wide[2], (int)strlen(def));
    }
    kd_buf_printf(&b, "%-*s  %-*s  %-*s  MEANING\n", wide[0], "KEY", wide[1], "VALUE", wide[2],
                  "DEFAULT");
    for (int i = 0; i < kd_schema_count; i++) {
        const kd_key *k = &kd_schema[i];
        value_text(k, value, sizeof value);
        default_text(k, def, sizeof def);
        kd_buf_printf(&b, "%-*s  %-*s  %-*s  %s", wide[0], k->key, wide[1], value, wide[2], def,
                      k->meaning);
        if (k->only) {
            int n = (int)strcspn(k->only, "=");
            kd_buf_printf(&b, " (only with %.*s: %s)", n, k->only, k->only + n + 1);
        }
        kd_buf_str(&b, "\n");
    }
    char *text = kd_buf_take(&b);
    if (!text)
        return -KD_ENOMEM;
    *out_text = text;
    return 0;
}

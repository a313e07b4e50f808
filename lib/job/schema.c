#include "schema.h"

#include "kd/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) .at = offsetof(kd_job, field)
#define MODELS "shallow_cnn|mlp|mobilenet_v2"

_Static_assert(offsetof(kd_model_spec, n_hidden) ==
                   offsetof(kd_model_spec, hidden) + sizeof(((kd_model_spec *)0)->hidden),
               "the count of KD_KEY_INTS follows its array");

#define OPTIMIZER(prefix, field)                                                                   \
    {.key = prefix ".optimizer", .type = KD_KEY_MAP, .meaning = "how parameters are updated"},     \
        {.key = prefix ".optimizer.name",                                                          \
         .type = KD_KEY_CHOICE,                                                                    \
         .choices = "sgd|adam",                                                                    \
         .def = "adam",                                                                            \
         .meaning = "update rule",                                                                 \
         AT(field.name)},                                                                          \
        {.key = prefix ".optimizer.lr",                                                            \
         .type = KD_KEY_REAL,                                                                      \
         .flags = KD_KEY_LO_OPEN,                                                                  \
         .hi = 1000,                                                                               \
         .def = "1e-3",                                                                            \
         .meaning = "learning rate",                                                               \
         AT(field.lr)},                                                                            \
        {.key = prefix ".optimizer.head_lr",                                                       \
         .type = KD_KEY_REAL,                                                                      \
         .hi = 1000,                                                                               \
         .def = "0",                                                                               \
         .meaning = "learning rate of a new last layer, 0 = lr",                                   \
         AT(field.head_lr)},                                                                       \
        {.key = prefix ".optimizer.momentum",                                                      \
         .type = KD_KEY_REAL,                                                                      \
         .flags = KD_KEY_HI_OPEN,                                                                  \
         .hi = 1,                                                                                  \
         .def = "0",                                                                               \
         .only = "name=sgd",                                                                       \
         .meaning = "share of the last update that is kept",                                       \
         AT(field.momentum)},                                                                      \
        {.key = prefix ".optimizer.beta1",                                                         \
         .type = KD_KEY_REAL,                                                                      \
         .flags = KD_KEY_HI_OPEN,                                                                  \
         .hi = 1,                                                                                  \
         .def = "0.9",                                                                             \
         .only = "name=adam",                                                                      \
         .meaning = "decay of the mean gradient",                                                  \
         AT(field.beta1)},                                                                         \
        {.key = prefix ".optimizer.beta2",                                                         \
         .type = KD_KEY_REAL,                                                                      \
         .flags = KD_KEY_HI_OPEN,                                                                  \
         .hi = 1,                                                                                  \
         .def = "0.999",                                                                           \
         .only = "name=adam",                                                                      \
         .meaning = "decay of the mean squared gradient",                                          \
         AT(field.beta2)},                                                                         \
        {.key = prefix ".optimizer.eps",                                                           \
         .type = KD_KEY_REAL,                                                                      \
         .flags = KD_KEY_LO_OPEN,                                                                  \
         .hi = 1,                                                                                  \
         .def = "1e-8",                                                                            \
         .only = "name=adam",                                                                      \
         .meaning = "added to the divisor",                                                        \
         AT(field.eps)},                                                                           \
        {.key = prefix ".optimizer.weight_decay",                                                  \
         .type = KD_KEY_REAL,                                                                      \
         .hi = 100,                                                                                \
         .def = "0",                                                                               \
         .meaning = "coupled L2: this times the parameter joins its gradient",                     \
         AT(field.weight_decay)},                                                                  \
        {.key = prefix ".optimizer.schedule",                                                      \
         .type = KD_KEY_CHOICE,                                                                    \
         .choices = "constant|cosine",                                                             \
         .def = "constant",                                                                        \
         .meaning = "course of the learning rate",                                                 \
         AT(field.schedule)},                                                                      \
    {                                                                                              \
        .key = prefix ".optimizer.warmup", .type = KD_KEY_REAL, .hi = 10000, .def = "0",           \
        .meaning = "epochs of linear warm-up", AT(field.warmup)                                    \
    }

#define TRAINING(prefix, field, epochs_def, batch_def, slots_def, views_def)                       \
    {.key = prefix ".epochs",                                                                      \
     .type = KD_KEY_INT,                                                                           \
     .hi = 10000,                                                                                  \
     .def = epochs_def,                                                                            \
     .meaning = "passes over the training samples",                                                \
     AT(field.epochs)},                                                                            \
        {.key = prefix ".batch",                                                                   \
         .type = KD_KEY_INT,                                                                       \
         .lo = 1,                                                                                  \
         .hi = 65536,                                                                              \
         .def = batch_def,                                                                         \
         .meaning = "samples of one update, over all workers",                                     \
         AT(field.batch)},                                                                         \
        {.key = prefix ".slots",                                                                   \
         .type = KD_KEY_INT,                                                                       \
         .lo = 1,                                                                                  \
         .hi = 1024,                                                                               \
         .def = slots_def,                                                                         \
         .meaning = "fixed parts of a batch; a power of two that divides it",                      \
         AT(field.slots)},                                                                         \
    {                                                                                              \
        .key = prefix ".views", .type = KD_KEY_VIEWS, .lo = 1, .hi = 1000000, .def = views_def,    \
        .meaning = "augmented versions of a sample, taken in turn; fresh = another every epoch",   \
        AT(field.views)                                                                            \
    }

#define MODEL(prefix, field, preprocess_def)                                                       \
    {.key = prefix ".model",                                                                       \
     .type = KD_KEY_WORD,                                                                          \
     .flags = KD_KEY_REQUIRED,                                                                     \
     .choices = MODELS,                                                                            \
     .meaning = "network",                                                                         \
     AT(field.model)},                                                                             \
        {.key = prefix ".width",                                                                   \
         .type = KD_KEY_REAL,                                                                      \
         .flags = KD_KEY_LO_OPEN,                                                                  \
         .hi = 4,                                                                                  \
         .def = "1",                                                                               \
         .only = "model=mobilenet_v2",                                                             \
         .meaning = "multiplier of the channels",                                                  \
         AT(field.width)},                                                                         \
        {.key = prefix ".hidden",                                                                  \
         .type = KD_KEY_INTS,                                                                      \
         .lo = 1,                                                                                  \
         .hi = 65536,                                                                              \
         .def = "256",                                                                             \
         .only = "model=mlp",                                                                      \
         .meaning = "units of each hidden layer",                                                  \
         AT(field.hidden)},                                                                        \
        {.key = prefix ".padding",                                                                 \
         .type = KD_KEY_CHOICE,                                                                    \
         .choices = "tf|torch",                                                                    \
         .def = "tf",                                                                              \
         .only = "model=mobilenet_v2",                                                             \
         .meaning = "edges of stride-2 layers: bottom and right, or all around",                   \
         AT(field.padding)},                                                                       \
        {.key = prefix ".preprocess",                                                              \
         .type = KD_KEY_CHOICE,                                                                    \
         .choices = "unit|symmetric|imagenet",                                                     \
         .def = preprocess_def,                                                                    \
         .meaning = "pixels to [0,1], to [-1,1], or by ImageNet's mean and deviation",             \
         AT(field.preprocess)},                                                                    \
        {.key = prefix ".weights",                                                                 \
         .type = KD_KEY_FILE,                                                                      \
         .def = "",                                                                                \
         .meaning = "safetensors file to start from, uploaded at submit",                          \
         AT(field.weights)},                                                                       \
    {                                                                                              \
        .key = prefix ".weights_digest", .type = KD_KEY_DIGEST, .def = "",                         \
        .meaning = "digest of that file; filled in at submit", AT(field.weights_digest)            \
    }

const kd_key kd_schema[] = {
    {.key = "name",
     .type = KD_KEY_NAME,
     .flags = KD_KEY_REQUIRED,
     .meaning = "name of the job",
     AT(name)},
    {.key = "seed",
     .type = KD_KEY_SEED,
     .hi = 0x1p63,
     .def = "1",
     .meaning = "all that is random follows from it",
     AT(seed)},
    {.key = "data", .type = KD_KEY_MAP, .flags = KD_KEY_REQUIRED, .meaning = "what is learnt from"},
    {.key = "data.labelled",
     .type = KD_KEY_MAP,
     .flags = KD_KEY_REQUIRED,
     .meaning = "samples with their classes"},
    {.key = "data.labelled.format",
     .type = KD_KEY_CHOICE,
     .choices = "image-folder|idx",
     .def = "image-folder",
     .meaning = "pictures and lists of them, or the files of MNIST and its kin",
     AT(data.format)},
    {.key = "data.labelled.path",
     .type = KD_KEY_PATH,
     .flags = KD_KEY_REQUIRED,
     .meaning = "folder beneath each worker's data root",
     AT(data.path)},
    {.key = "data.labelled.train",
     .type = KD_KEY_PATH,
     .flags = KD_KEY_REQUIRED,
     .meaning = "list file of the training samples (idx: file of images)",
     AT(data.train)},
    {.key = "data.labelled.val",
     .type = KD_KEY_PATH,
     .flags = KD_KEY_REQUIRED,
     .meaning = "the same for the validation samples",
     AT(data.val)},
    {.key = "data.labelled.train_labels",
     .type = KD_KEY_PATH,
     .flags = KD_KEY_REQUIRED,
     .only = "format=idx",
     .meaning = "file of labels of the training samples",
     AT(data.train_labels)},
    {.key = "data.labelled.val_labels",
     .type = KD_KEY_PATH,
     .flags = KD_KEY_REQUIRED,
     .only = "format=idx",
     .meaning = "file of labels of the validation samples",
     AT(data.val_labels)},
    {.key = "data.labelled.classes",
     .type = KD_KEY_PATH,
     .def = "",
     .meaning = "file of class names, one a line; none = names of folders, or numbers",
     AT(data.classes)},
    {.key = "data.labelled.size",
     .type = KD_KEY_INT,
     .lo = 8,
     .hi = 1024,
     .def = "224",
     .meaning = "pixels a side of what the networks see",
     AT(data.size)},
    {.key = "data.labelled.max_train",
     .type = KD_KEY_INT,
     .hi = 100000000,
     .def = "0",
     .meaning = "use so many samples of each list, chosen by the seed; 0 = all",
     AT(data.max_train)},
    {.key = "data.labelled.max_bad_images",
     .type = KD_KEY_REAL,
     .hi = 1,
     .def = "0.001",
     .meaning = "share of unreadable pictures past which the job fails",
     AT(data.max_bad_images)},
    {.key = "data.augment",
     .type = KD_KEY_AUGMENT,
     .lo = 1,
     .hi = 512,
     .def = "",
     .meaning = "changes to training pictures: flip (mirrored half the time), crop (cut at random "
                "after padding by so many pixels)"},
    {.key = "data.unlabelled",
     .type = KD_KEY_SOON,
     .meaning = "samples without classes, for the soft loss only"},
    {.key = "teacher",
     .type = KD_KEY_MAP,
     .flags = KD_KEY_OPTIONAL,
     .meaning = "the network that is learnt from",
     AT(teacher.model)},
    MODEL("teacher", teacher, "symmetric"),
    {.key = "teacher.onnx", .type = KD_KEY_SOON, .meaning = "a network from an ONNX file"},
    {.key = "teacher.fine_tune",
     .type = KD_KEY_MAP,
     .flags = KD_KEY_OPTIONAL | KD_KEY_STORED,
     .meaning = "train the teacher on this data first",
     AT(fine_tune)},
    TRAINING("teacher.fine_tune", teacher_train, "4", "=distill.batch", "=distill.slots",
             "=distill.views"),
    OPTIMIZER("teacher.fine_tune", teacher_train.optimizer),
    {.key = "teacher.fine_tune.batch_norm",
     .type = KD_KEY_FLAG,
     .choices = "trained|frozen",
     .def = "trained",
     .meaning = "frozen keeps statistics, scale and shift of batch-norm as they are",
     AT(teacher_train.batch_norm_frozen)},
    {.key = "student",
     .type = KD_KEY_MAP,
     .flags = KD_KEY_REQUIRED,
     .meaning = "the network that is trained"},
    MODEL("student", student, "unit"),
    {.key = "student.onnx", .type = KD_KEY_SOON, .meaning = "a network from an ONNX file"},
    {.key = "student.layers", .type = KD_KEY_SOON, .meaning = "a network written as a list of layers"},
    {.key = "distill", .type = KD_KEY_MAP, .meaning = "how the student is trained"},
    {.key = "distill.loss", .type = KD_KEY_MAP, .meaning = "what is minimised"},
    {.key = "distill.loss.kd",
     .type = KD_KEY_REAL,
     .hi = 1e6,
     .def = "0.9",
     .meaning = "weight of the soft loss: teacher's probabilities at the temperature",
     AT(distill.loss.kd)},
    {.key = "distill.loss.ce",
     .type = KD_KEY_REAL,
     .hi = 1e6,
     .def = "0.1",
     .meaning = "weight of the hard loss: cross-entropy with the true class",
     AT(distill.loss.ce)},
    {.key = "distill.loss.mse",
     .type = KD_KEY_REAL,
     .hi = 1e6,
     .def = "0",
     .meaning = "weight of the squared difference of raw logits",
     AT(distill.loss.mse)},
    {.key = "distill.loss.mse_kind",
     .type = KD_KEY_CHOICE,
     .choices = "mean|half",
     .def = "mean",
     .meaning = "squares averaged over the classes, or half their sum",
     AT(distill.loss.mse_kind)},
    {.key = "distill.loss.temperature",
     .type = KD_KEY_REAL,
     .flags = KD_KEY_LO_OPEN,
     .hi = 1000,
     .def = "5",
     .meaning = "divides the logits in the soft loss",
     AT(distill.loss.temperature)},
    {.key = "distill.loss.t2",
     .type = KD_KEY_CHOICE,
     .choices = "none|soft|all",
     .def = "soft",
     .meaning = "what is multiplied by the temperature squared",
     AT(distill.loss.t2)},
    {.key = "distill.loss.normalise",
     .type = KD_KEY_BOOL,
     .def = "true",
     .meaning = "divide the loss by the sum of the weights",
     AT(distill.loss.normalise)},
    OPTIMIZER("distill", distill.optimizer),
    TRAINING("distill", distill, "10", "64", "8", "1"),
    {.key = "scratch",
     .type = KD_KEY_MAP,
     .flags = KD_KEY_OPTIONAL | KD_KEY_STORED,
     .meaning = "train a twin of the student without the teacher, to compare",
     AT(scratch)},
    OPTIMIZER("scratch", scratch_train.optimizer),
    TRAINING("scratch", scratch_train, "=distill.epochs", "=distill.batch", "=distill.slots",
             "=distill.views"),
    {.key = "cluster", .type = KD_KEY_MAP, .meaning = "where the job runs"},
    {.key = "cluster.min_workers",
     .type = KD_KEY_INT,
     .lo = 1,
     .hi = 4096,
     .def = "1",
     .meaning = "workers to wait for",
     AT(min_workers)},
    {.key = "cluster.max_workers",
     .type = KD_KEY_INT,
     .lo = 1,
     .hi = 4096,
     .def = "8",
     .meaning = "workers to take at most",
     AT(max_workers)},
    {.key = "cluster.checkpoint_every",
     .type = KD_KEY_INT,
     .lo = 1,
     .hi = 1000000,
     .def = "50",
     .meaning = "updates between two checkpoints",
     AT(checkpoint_every)},
    {.key = "export",
     .type = KD_KEY_EXPORT,
     .choices = "safetensors",
     .def = "safetensors",
     .meaning = "file formats of the student"},
    {.key = "matrix", .type = KD_KEY_SOON, .meaning = "a sweep: one job for each combination"},
    {.key = "sweep", .type = KD_KEY_SOON, .meaning = "how a sweep is run"},
    {.key = "compress", .type = KD_KEY_SOON, .meaning = "pruning and int8 after distillation"},
};
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

int kd_job_schema(char **out_text)
{
    kd_buf b;
    kd_buf_init(&b, 64u << 10);
    int key_width = 0, default_width = 0;
    char expected[160], def[80];
    for (int i = 0; i < kd_schema_count; i++) {
        default_text(&kd_schema[i], def, sizeof def);
        key_width = KD_MAX(key_width, (int)strlen(kd_schema[i].key));
        default_width = KD_MAX(default_width, (int)strlen(def));
    }
    kd_buf_printf(&b, "%-*s  %-*s  %s\n", key_width, "KEY", default_width, "DEFAULT",
                  "MEANING (VALUE)");
    for (int i = 0; i < kd_schema_count; i++) {
        const kd_key *k = &kd_schema[i];
        default_text(k, def, sizeof def);
        kd_buf_printf(&b, "%-*s  %-*s  %s", key_width, k->key, default_width, def, k->meaning);
        if (k->type != KD_KEY_MAP && k->type != KD_KEY_SOON) {
            kd_schema_expected(k, expected, sizeof expected);
            kd_buf_printf(&b, " (%s", expected);
            if (k->only) {
                int n = (int)strcspn(k->only, "=");
                kd_buf_printf(&b, "; only with %.*s: %s", n, k->only, k->only + n + 1);
            }
            kd_buf_str(&b, ")");
        }
        kd_buf_str(&b, "\n");
    }
    char *text = kd_buf_take(&b);
    if (!text)
        return -KD_ENOMEM;
    *out_text = text;
    return 0;
}

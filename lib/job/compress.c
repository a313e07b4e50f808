/* The list `compress`: steps that make the trained student smaller, each from what the one before
 * it made or from the student. */
#include "items.h"

#include <stdio.h>
#include <string.h>

#define C(member, name, kind, low, high, default_, bits)                                           \
    KD_ITEM_FIELD(kd_compress_spec, member, name, kind, low, high, default_, bits)
#define WORDS(member, name, kind, words, default_)                                                 \
    {                                                                                              \
        .key = (name), .type = KD_KEY_##kind, .choices = (words), .def = (default_),               \
        .at = offsetof(kd_compress_spec, member)                                                   \
    }
#define SHARE(what) C(share, what, REAL, 0, 1, NULL, KD_KEY_LO_OPEN | KD_KEY_HI_OPEN)
#define TUNE(epochs_def)                                                                           \
    C(tune.epochs, "epochs", INT, 0, 10000, epochs_def, 0),                                        \
        C(tune.optimizer.lr, "lr", REAL, 0, 1000, "0", 0)
#define METHODS "minmax|percentile|mse|kl|auto" /* enum kd_compress_method */
#define FROM WORDS(from_student, "from", FLAG, "previous|student", "previous")

static const kd_key prune[] = {
    SHARE("share"),
    WORDS(scope, "scope", CHOICE, "global|layer", "global"),
    C(ramp, "ramp", REAL, 0, 1, "0.75", 0),
    TUNE("4"),
    FROM,
};
static const kd_key channels[] = {
    SHARE("share"),
    C(multiple, "multiple", INT, 1, 1024, "1", 0),
    TUNE("4"),
    FROM,
};
static const kd_key quantize[] = {
    WORDS(bits, "type", CHOICE, "int8", "int8"),
    WORDS(method, "method", CHOICE, METHODS, "auto"),
    C(percentile, "percentile", REAL, 0, 100, "99.99", KD_KEY_LO_OPEN),
    C(pictures, "pictures", INT, 32, 4096, "128", 0),
    TUNE("0"),
    FROM,
};
static const kd_key weights[] = {WORDS(bfloat16, "type", FLAG, "float16|bfloat16", NULL), FROM};

static const kd_item items[] = {
    [KD_COMPRESS_PRUNE] = {"prune", KD_ITEM_FIELDS(prune), .scalar = true, .map = true,
                           .meaning =
                               "weights of smallest magnitude become 0, more and more of them "
                               "until `ramp` of the epochs (cubic)"},
    [KD_COMPRESS_CHANNELS] = {"channels", KD_ITEM_FIELDS(channels), .scalar = true, .map = true,
                              .meaning =
                                  "so many channels of each layer leave the network, then it "
                                  "is trained"},
    [KD_COMPRESS_QUANTIZE] = {"quantize", KD_ITEM_FIELDS(quantize), .scalar = true, .map = true,
                              .meaning = "8 bits, calibrated on training pictures by the method "
                                         "named, or by the one of four that changes answers "
                                         "least (auto); with epochs trained as it will be rounded"},
    [KD_COMPRESS_WEIGHTS] = {"weights", KD_ITEM_FIELDS(weights), .scalar = true, .map = true,
                             .meaning = "what weights are rounded to and stored as"},
};
const kd_items kd_compress_list = {items, (int)KD_COUNT(items)};

/* ---- what follows from the list */

#define TUNE_LR 0.1 /* of the rate that the student was trained with, unless one is written */

/* The student's own run, but shorter, at a lower rate that falls to nothing, and without what would
 * leave something else than its last version to go on from. Its pictures come in the same order, so
 * the bank has the teacher's answers. */
static void derive_run(const kd_train_spec *distill, kd_train_spec *t)
{
    const int epochs = t->epochs;
    const double lr = t->optimizer.lr;
    *t = *distill;
    t->epochs = epochs;
    t->optimizer.lr = lr > 0 ? lr : distill->optimizer.lr * TUNE_LR;
    t->optimizer.head_lr = t->optimizer.warmup = t->optimizer.ema = 0;
    t->optimizer.schedule = KD_COSINE;
    t->optimizer.n_milestones = 0;
    t->bfloat16 = false;
    t->freeze = KD_FREEZE_NONE;
    t->eval_every = t->patience = 0;
}

void kd_compress_derive(kd_job *j)
{
    for (int i = 0; i < j->n_compress; i++) {
        kd_compress_spec *c = &j->compress[i];
        derive_run(&j->distill, &c->tune);
        c->made = c->tune;
        c->made.epochs = 0;
    }
}

int kd_compress_source(const kd_job *job, int step)
{
    return job->compress[step].from_student ? -1 : step - 1;
}

bool kd_compress_int8(const kd_job *job, int step)
{
    for (; step >= 0; step = kd_compress_source(job, step))
        if (job->compress[step].kind == KD_COMPRESS_QUANTIZE)
            return true;
    return false;
}

enum kd_half kd_compress_half(const kd_job *job, int step)
{
    if (kd_compress_int8(job, step))
        return KD_HALF_NONE;
    for (; step >= 0; step = kd_compress_source(job, step))
        if (job->compress[step].kind == KD_COMPRESS_WEIGHTS)
            return job->compress[step].bfloat16 ? KD_HALF_BFLOAT16 : KD_HALF_FLOAT16;
    return KD_HALF_NONE;
}

const char *kd_half_name(enum kd_half half)
{
    static const char *const names[] = {
        [KD_HALF_NONE] = "float32", [KD_HALF_FLOAT16] = "float16", [KD_HALF_BFLOAT16] = "bfloat16"};
    return names[half];
}

void kd_compress_text(const kd_compress_spec *step, char *out, size_t size)
{
    char trained[48] = "", method[16] = "";
    if (step->tune.epochs > 0)
        snprintf(trained, sizeof trained, ", %d epoch%s", step->tune.epochs,
                 step->tune.epochs == 1 ? "" : "s");
    switch (step->kind) {
    case KD_COMPRESS_PRUNE:
        snprintf(out, size, "%.4g %% of the weights pruned%s", step->share * 100, trained);
        break;
    case KD_COMPRESS_CHANNELS:
        snprintf(out, size, "%.4g %% of the channels removed%s", step->share * 100, trained);
        break;
    case KD_COMPRESS_QUANTIZE:
        kd_schema_choice_text(METHODS, (int)step->method, method, sizeof method);
        snprintf(out, size, "8 bits (%s)%s", method, trained);
        break;
    case KD_COMPRESS_WEIGHTS:
        snprintf(out, size, "weights in %s",
                 kd_half_name(step->bfloat16 ? KD_HALF_BFLOAT16 : KD_HALF_FLOAT16));
        break;
    }
}

/* ---- rules */

/* The nearest step of a kind that this one stands behind, -1 = none. */
static int behind(const kd_job *j, int step, enum kd_compress_kind kind)
{
    for (step = kd_compress_source(j, step); step >= 0; step = kd_compress_source(j, step))
        if (j->compress[step].kind == kind)
            return step;
    return -1;
}

int kd_compress_check(kd_loader *l)
{
    const kd_job *j = &l->job;
    const int node = kd_load_node(l, "compress");
    for (int i = 0; i < j->n_compress; i++) {
        const kd_compress_spec *c = &j->compress[i];
        const int int8 = behind(j, i, KD_COMPRESS_QUANTIZE), pruned = behind(j, i, c->kind);
        char key[32];
        snprintf(key, sizeof key, "compress[%d]", i);
        if (int8 >= 0 && (c->kind == KD_COMPRESS_QUANTIZE || c->kind == KD_COMPRESS_WEIGHTS))
            return kd_load_bad(l, node, key,
                               "the weights have 8 bits since compress[%d]; go on `from: student`, "
                               "or leave one of them out",
                               int8);
        if (c->kind == KD_COMPRESS_PRUNE && pruned >= 0 && j->compress[pruned].share >= c->share)
            return kd_load_bad(l, node, key,
                               "%g of the weights are gone since compress[%d]; prune more than "
                               "that, or go on `from: student`",
                               j->compress[pruned].share, pruned);
    }
    return 0;
}

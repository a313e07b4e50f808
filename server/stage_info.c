/* What a stage is made of, as its workers tell it, and whether they agree. */
#include "stages_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_VAL_SAMPLES (10u << 20) /* as many as a worker's data may have, all splits together */
#define MAX_TREE_NODES (1u << 21)   /* 100 MB of book-keeping */

uint64_t kd_stage_epoch_steps(const Distill__V1__StageInfo *i)
{
    /* Infos stored by older versions do not tell what an epoch holds: the training samples. */
    uint64_t samples = i->epoch_samples ? i->epoch_samples : i->train_samples;
    return i->batch ? (samples + i->batch - 1) / i->batch : 0;
}

uint64_t kd_stage_eval_steps(const Distill__V1__StageInfo *i)
{
    return i->eval_steps ? i->eval_steps : kd_stage_epoch_steps(i);
}

uint64_t kd_stage_last_version(const kd_stage_record *s)
{
    return s->row.stopped_early ? s->row.stopped_early + 1
                                : 1 + (uint64_t)s->info->epochs * kd_stage_epoch_steps(s->info);
}

uint64_t kd_stage_vector_floats(const Distill__V1__StageInfo *i)
{
    return i->parameters + i->state;
}

uint32_t kd_stage_chunks(const Distill__V1__StageInfo *i)
{
    return (uint32_t)((kd_stage_vector_floats(i) + i->chunk_floats - 1) / i->chunk_floats);
}

/* A stage that does not train has no vector; all others must have figures that fit together. */
static int check_info(const kd_stage_record *s, const Distill__V1__StageInfo *i, kd_diag *diag)
{
    if (i->classes == 0 || i->classes > KD_MAX_CLASSES)
        return kd_fail(diag, -KD_EINVAL, "stage information with %u classes", i->classes);
    if (s->kind == KD_STAGE_EVALUATE)
        return 0;
    bool ok = i->parameters > 0 && i->parameters <= KD_MAX_VECTOR_FLOATS &&
              i->state <= KD_MAX_VECTOR_FLOATS && i->chunk_floats >= KD_MIN_CHUNK_FLOATS &&
              i->chunk_floats <= KD_MAX_CHUNK_FLOATS && i->slots > 0 && i->slots <= KD_MAX_SLOTS &&
              (i->slots & (i->slots - 1)) == 0 && i->batch >= i->slots && i->train_samples > 0 &&
              i->train_samples <= UINT32_MAX && i->val_samples > 0 &&
              i->val_samples <= MAX_VAL_SAMPLES && i->epochs <= 10000 &&
              i->optimizer_vectors <= KD_MAX_STATE_VECTORS && i->epoch_samples <= UINT32_MAX &&
              2 * i->n_terms <= KD_TERM_SUMS && i->clip_norm >= 0 && i->clip_norm < 1e30 &&
              (!i->average || i->optimizer_vectors > 0) &&
              (uint64_t)i->batch * i->value_columns * sizeof(float) <= KD_MAX_PAYLOAD_BYTES;
    /* The reduction tree has a node for each slot and chunk, twice. */
    ok = ok && (uint64_t)kd_stage_chunks(i) * i->slots <= MAX_TREE_NODES;
    return ok ? 0 : kd_fail(diag, -KD_EINVAL, "stage information with impossible figures");
}

int kd_stage_set_info(kd_stage_record *s, const uint8_t *packed, size_t len, kd_diag *diag)
{
    Distill__V1__StageInfo *info;
    int rc = kd_wire_unpack(&distill__v1__stage_info__descriptor, packed, len,
                            (ProtobufCMessage **)&info, diag);
    if (rc != 0)
        return rc;
    if ((rc = check_info(s, info, diag)) != 0) {
        kd_wire_free((ProtobufCMessage *)info);
        return rc;
    }
    kd_wire_free((ProtobufCMessage *)s->info);
    free(s->row.info);
    s->info = info;
    s->row.info = kd_xalloc(len);
    memcpy(s->row.info, packed, len);
    s->row.info_len = len;
    snprintf(s->row.fingerprint, sizeof s->row.fingerprint, "%s", info->fingerprint);
    return 0;
}

void kd_stage_core_info(const kd_job_record *j, const kd_stage_record *s, kd_core_stage_info *out)
{
    (void)j;
    const Distill__V1__StageInfo *i = s->info;
    *out = (kd_core_stage_info){.identity = kd_digest_of(s->row.info, s->row.info_len),
                                .last_version = 1,
                                .eval_steps = 1,
                                .slots = 1,
                                .chunks = 1};
    if (s->kind == KD_STAGE_EVALUATE)
        return;
    out->eval_steps = kd_stage_eval_steps(i);
    out->last_version = kd_stage_last_version(s);
    out->slots = i->slots;
    out->chunks = kd_stage_chunks(i);
}

static bool same_list(char *const *a, size_t n, char *const *b, size_t m)
{
    bool same = n == m;
    for (size_t i = 0; same && i < n; i++)
        same = strcmp(a[i], b[i]) == 0;
    return same;
}

void kd_stage_compare(const Distill__V1__StageInfo *have, const Distill__V1__StageInfo *got,
                      char out[KD_CORE_TEXT])
{
    out[0] = '\0';
    struct {
        const char *what, *have, *got;
    } texts[] = {
        {"data", have->data_digest, got->data_digest},
        {"list of classes", have->classes_digest, got->classes_digest},
        {"network", have->model, got->model},
        {"parameter table", have->table, got->table},
        {"numeric fingerprint", have->fingerprint, got->fingerprint},
        {"metadata", have->metadata, got->metadata},
        {"calibration", have->calibrated, got->calibrated},
    };
    struct {
        const char *what;
        uint64_t have, got;
    } figures[] = {
        {"parameters", have->parameters, got->parameters},
        {"running statistics", have->state, got->state},
        {"training samples", have->train_samples, got->train_samples},
        {"validation samples", have->val_samples, got->val_samples},
        {"classes", have->classes, got->classes},
        {"batch", have->batch, got->batch},
        {"doubt in the calibration", have->doubtful, got->doubtful},
        {"slots", have->slots, got->slots},
        {"epochs", have->epochs, got->epochs},
        {"samples an epoch", have->epoch_samples, got->epoch_samples},
        {"test samples", have->test_samples, got->test_samples},
        {"chunk length", have->chunk_floats, got->chunk_floats},
        {"optimiser vectors", have->optimizer_vectors, got->optimizer_vectors},
        {"unlabelled samples", have->unlabelled_samples, got->unlabelled_samples},
        {"steps between evaluations", have->eval_steps, got->eval_steps},
        {"averages of the parameters", have->average, got->average},
        {"gathered values a sample", have->value_columns, got->value_columns},
        {"evaluations of patience", have->patience, got->patience},
    };
    struct {
        const char *what;
        double have, got;
    } numbers[] = {
        {"gradient norm's limit", have->clip_norm, got->clip_norm},
        {"least improvement", have->min_delta, got->min_delta},
    };
    struct {
        const char *what;
        bool same;
    } lists[] = {
        {"names of the classes",
         same_list(have->class_names, have->n_class_names, got->class_names, got->n_class_names)},
        {"terms of the loss", same_list(have->terms, have->n_terms, got->terms, got->n_terms)},
    };
    for (size_t i = 0; i < KD_COUNT(figures); i++)
        if (figures[i].have != figures[i].got) {
            snprintf(out, KD_CORE_TEXT, "it counts %llu %s where the job's other workers have %llu",
                     (unsigned long long)figures[i].got, figures[i].what,
                     (unsigned long long)figures[i].have);
            return;
        }
    for (size_t i = 0; i < KD_COUNT(texts); i++)
        if (strcmp(texts[i].have, texts[i].got) != 0) {
            bool numerics = texts[i].have == have->fingerprint;
            snprintf(out, KD_CORE_TEXT,
                     "its %s is %.60s, the job's other workers have %.60s; workers of one job must "
                     "agree, or the result would depend on who computes what%s",
                     texts[i].what, texts[i].got, texts[i].have,
                     numerics ? ". It is another kind of processor or another version: start "
                                "workers like those that began the job, or cancel it and submit it "
                                "anew"
                              : "");
            return;
        }
    /* Not a number is no figure that anybody could agree on. */
    for (size_t i = 0; i < KD_COUNT(numbers); i++)
        if (!(numbers[i].have == numbers[i].got)) {
            snprintf(out, KD_CORE_TEXT, "its %s is %.9g, the job's other workers have %.9g",
                     numbers[i].what, numbers[i].got, numbers[i].have);
            return;
        }
    for (size_t i = 0; i < KD_COUNT(lists); i++)
        if (!lists[i].same) {
            snprintf(out, KD_CORE_TEXT, "its %s are not those of the job's other workers",
                     lists[i].what);
            return;
        }
}

#include "take.h"

#include "kd/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void kd_taken_clear(kd_taken *t)
{
    kd_stage_row_clear(&t->row);
    free(t->epochs);
    free(t->files);
    *t = (kd_taken){0};
}

/* ---- files */

static int copy_file(const char *from, const char *to, kd_diag *diag)
{
    char *data = NULL;
    size_t len = 0;
    int rc = kd_file_read(from, (size_t)1 << 34, &data, &len, diag);
    if (rc == 0)
        rc = kd_file_write(to, data, len, diag);
    free(data);
    return rc;
}

int kd_link_file(const char *from, const char *to, kd_diag *diag)
{
    /* What a crash left behind may be anything; it is named nowhere. */
    int rc = link(from, to);
    if (rc != 0 && errno == EEXIST && unlink(to) == 0)
        rc = link(from, to);
    if (rc == 0)
        return kd_file_fsync_parent(to, diag);
    if (errno == ENOENT)
        return kd_fail(diag, -KD_ESTATE, "the file %s is no longer there", from);
    return copy_file(from, to, diag);
}

struct linking {
    kd_daemon *d;
    const kd_job_record *from;
    enum kd_take how;
    uint64_t last, best; /* versions whose checkpoints are wanted */
    char folder[4096];
    uint32_t stage;
    kd_taken *out;
    kd_diag *diag;
    bool has_last, has_best, has_network;
    char network[KD_NETWORK_FILE]; /* "" = the stage makes none */
};

/* Lists what is to be linked; links are made when the statement that lists them is over. */
static int list_file(void *arg, const kd_file_row *row)
{
    struct linking *l = arg;
    kd_taken *t = l->out;
    bool checkpoint = row->name[0] == '\0';
    if (checkpoint ? row->version != l->last && (row->version != l->best || l->how == KD_TAKE_BEST)
                   : l->how != KD_TAKE_DONE)
        return 0;
    kd_file_row *p = realloc(t->files, (t->n_files + 1) * sizeof *p);
    KD_BUG_ON(!p);
    t->files = p;
    t->files[t->n_files++] = *row;
    l->has_last |= checkpoint && row->version == l->last;
    l->has_best |= checkpoint && row->version == l->best;
    l->has_network |= strcmp(row->name, l->network) == 0;
    return 0;
}

static int link_listed(struct linking *l)
{
    kd_taken *t = l->out;
    int rc = kd_file_mkdirs(l->folder, l->diag);
    for (size_t i = 0; i < t->n_files && rc == 0; i++) {
        kd_file_row *f = &t->files[i];
        char path[sizeof f->path];
        int n = f->name[0] ? snprintf(path, sizeof path, "%s/%s", l->folder, f->name)
                           : snprintf(path, sizeof path, "%s/stage%u-version%llu.safetensors",
                                      l->folder, l->stage, (unsigned long long)f->version);
        if (n >= (int)sizeof path)
            return kd_fail(l->diag, -KD_ELIMIT, "the path of the state folder is too long");
        rc = kd_link_file(f->path, path, l->diag);
        snprintf(f->path, sizeof f->path, "%s", path);
        f->stage = l->stage;
    }
    return rc;
}

/* ---- a stage */

static uint8_t *copy_bytes(const uint8_t *bytes, size_t len)
{
    if (len == 0)
        return NULL;
    uint8_t *p = kd_xalloc(len);
    memcpy(p, bytes, len);
    return p;
}

static void take_row(const kd_job_record *from, const kd_stage_record *s, enum kd_take how,
                     kd_stage_row *row)
{
    *row = s->row;
    row->info = row->expected = NULL;
    row->info_len = row->expected_len = 0;
    row->teacher_forwards = row->bank_hits = 0; /* what this job had to do for it */
    row->teacher_seconds = 0;
    row->steps_redone = 0;
    row->lost_ms_workers = row->lost_ms_all = 0;
    if (how == KD_TAKE_DONE) {
        row->info = copy_bytes(s->row.info, s->row.info_len);
        row->info_len = s->row.info_len;
        row->shared = s->row.shared ? s->row.shared : from->row.id;
        return;
    }
    row->expected = copy_bytes(s->row.info, s->row.info_len);
    row->expected_len = s->row.info_len;
    row->done = false;
    row->shared = 0;
    row->stopped_early = 0;
    row->digest[0] = row->fingerprint[0] = '\0';
}

/* Those that were made up to a version. */
static void take_epochs(const kd_job_record *from, uint32_t from_stage, uint64_t version,
                        uint32_t to_stage, kd_taken *out)
{
    out->epochs = kd_xalloc(((size_t)from->n_epochs + 1) * sizeof *out->epochs);
    for (int i = 0; i < from->n_epochs; i++) {
        if (from->epochs[i].stage != from_stage || from->epochs[i].step >= version)
            continue;
        out->epochs[out->n_epochs] = from->epochs[i];
        out->epochs[out->n_epochs++].stage = to_stage;
    }
}

int kd_take_stage(kd_daemon *d, const kd_job_record *from, uint32_t from_stage, enum kd_take how,
                  kd_job_id to, uint32_t to_stage, kd_taken *out, kd_diag *diag)
{
    const kd_stage_record *s = &from->stages[from_stage];
    char id[KD_ID_TEXT], source[KD_ID_TEXT];
    *out = (kd_taken){0};
    kd_id_text(to, id);
    kd_id_text(from->row.id, source);
    if (!s->row.done || !s->info)
        return kd_fail(diag, -KD_ESTATE, "the stage %s of job %s is not done", s->row.name, source);
    struct linking l = {.d = d,
                        .from = from,
                        .how = how,
                        .last =
                            how == KD_TAKE_BEST ? s->row.best_version : kd_stage_last_version(s),
                        .best = s->row.best_version,
                        .stage = to_stage,
                        .out = out,
                        .diag = diag};
    if (kd_stage_makes(s->kind))
        kd_stage_network_file(s->kind, false, l.network);
    snprintf(l.folder, sizeof l.folder, "%s/jobs/%s", d->state.dir, id);
    int rc = kd_state_each_stage_file(&d->state, from->row.id, from_stage, list_file, &l, diag);
    bool whole = how == KD_TAKE_DONE   ? l.has_network || !l.network[0]
                 : how == KD_TAKE_BEST ? l.has_last
                                       : l.has_last && (l.has_best || l.best == 0);
    if (rc == 0 && !whole)
        rc = kd_fail(diag, -KD_ESTATE, "the stage %s of job %s has no %s any more", s->row.name,
                     source,
                     how == KD_TAKE_DONE   ? "network file"
                     : how == KD_TAKE_BEST ? "best checkpoint"
                                           : "last checkpoint");
    if (rc == 0)
        rc = link_listed(&l);
    if (rc == 0) {
        take_row(from, s, how, &out->row);
        take_epochs(from, from_stage, l.last, to_stage, out);
        if (how != KD_TAKE_DONE)
            out->row.manifest = out->row.evaluated = l.last;
    } else {
        kd_taken_clear(out);
    }
    return rc;
}

int kd_take_into(kd_job_record *to, uint32_t stage, kd_taken *t, kd_diag *diag)
{
    kd_stage_record *s = &to->stages[stage];
    kd_stage_row_clear(&s->row);
    uint8_t *info = t->row.info;
    size_t len = t->row.info_len;
    t->row.info = NULL;
    t->row.info_len = 0;
    s->row = t->row;
    t->row = (kd_stage_row){0};
    int rc = len ? kd_stage_set_info(s, info, len, diag) : 0;
    free(info);
    if (t->n_epochs) {
        size_t n = (size_t)to->n_epochs;
        kd_epoch_row *p = realloc(to->epochs, (n + t->n_epochs) * sizeof *p);
        KD_BUG_ON(!p);
        to->epochs = p;
        memcpy(p + n, t->epochs, t->n_epochs * sizeof *p);
        to->n_epochs += (int)t->n_epochs;
    }
    kd_taken_clear(t);
    return rc;
}

/* ---- what workers answer */

static const char *stage_source(const kd_job_record *j, const kd_stage_record *s,
                                char id[KD_ID_TEXT])
{
    kd_id_text(s->row.shared ? s->row.shared : j->row.continued, id);
    return id;
}

/* An expected info that does not unpack fits nothing. */
static void check_expected(const kd_job_record *j, const kd_stage_record *s,
                           const Distill__V1__StageInfo *got, char out[KD_CORE_TEXT],
                           char warning[KD_CORE_TEXT])
{
    Distill__V1__StageInfo *want = NULL;
    kd_diag diag = {0};
    char id[KD_ID_TEXT];
    stage_source(j, s, id);
    if (kd_wire_unpack(&distill__v1__stage_info__descriptor, s->row.expected, s->row.expected_len,
                       (ProtobufCMessage **)&want, &diag) != 0) {
        snprintf(out, KD_CORE_TEXT, "what is stored of job %s cannot be read: %.200s", id,
                 diag.msg);
        return;
    }
    struct {
        const char *what, *want, *got;
    } texts[] = {{"data", want->data_digest, got->data_digest},
                 {"list of classes", want->classes_digest, got->classes_digest},
                 {"network", want->model, got->model},
                 {"parameter table", want->table, got->table}};
    struct {
        const char *what;
        uint64_t want, got;
    } figures[] = {{"parameters", want->parameters, got->parameters},
                   {"running statistics", want->state, got->state},
                   {"samples an epoch", want->epoch_samples, got->epoch_samples},
                   {"samples a batch", want->batch, got->batch},
                   {"parameters a chunk", want->chunk_floats, got->chunk_floats},
                   {"optimiser vectors", want->optimizer_vectors, got->optimizer_vectors}};
    for (size_t i = 0; i < KD_COUNT(texts) && !out[0]; i++) {
        if (strcmp(texts[i].want, texts[i].got) == 0)
            continue;
        if (strlen(texts[i].want) > 64 || strlen(texts[i].got) > 64)
            snprintf(out, KD_CORE_TEXT, "cannot go on with job %s: its %s is another one now", id,
                     texts[i].what);
        else
            snprintf(out, KD_CORE_TEXT,
                     "cannot go on with job %s: its %s was %s, the workers have %s now", id,
                     texts[i].what, texts[i].want, texts[i].got);
    }
    for (size_t i = 0; i < KD_COUNT(figures) && !out[0]; i++)
        if (figures[i].want != figures[i].got)
            snprintf(out, KD_CORE_TEXT,
                     "cannot go on with job %s: it had %llu %s, the workers have %llu now", id,
                     (unsigned long long)figures[i].want, figures[i].what,
                     (unsigned long long)figures[i].got);
    if (!out[0] && strcmp(want->fingerprint, got->fingerprint) != 0)
        snprintf(warning, KD_CORE_TEXT,
                 "the numeric fingerprint of stage %s is %.32s, in job %s it was %.32s: other "
                 "processors or other kernels, so the digest is not that of one run",
                 s->row.name, got->fingerprint, id, want->fingerprint);
    kd_wire_free((ProtobufCMessage *)want);
}

void kd_take_check(const kd_job_record *j, uint32_t stage, const Distill__V1__StageInfo *got,
                   char out[KD_CORE_TEXT], char out_warning[KD_CORE_TEXT])
{
    const kd_stage_record *s = &j->stages[stage];
    char id[KD_ID_TEXT];
    out[0] = out_warning[0] = '\0';
    if (s->row.expected_len)
        check_expected(j, s, got, out, out_warning);
    for (int i = 0; i < j->n_stages && !out[0]; i++) {
        const kd_stage_record *o = &j->stages[i];
        if (!o->row.done || !o->row.shared || !o->info ||
            strcmp(o->info->data_digest, got->data_digest) == 0)
            continue;
        snprintf(out, KD_CORE_TEXT,
                 "the data have changed: stage %s of job %s, which was taken over, was trained on "
                 "%.32s, the workers have %.32s now",
                 o->row.name, stage_source(j, o, id), o->info->data_digest, got->data_digest);
    }
}

/* The call Submit: a job file becomes one job or a sweep, or a finished job is gone on with or run
 * again. Whatever it makes is stored before the answer, in one transaction with what the calls make
 * that wait beside it: a disk takes few syncs a second, and they may be shared. */
#include "daemon.h"
#include "sweep.h"
#include "take.h"

#include "job/sweep.h"
#include "kd/failpoint.h"
#include "kd/file.h"
#include "kd/hash.h"
#include "kd/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define MAX_JOBS 10000 /* stored at once; finished ones are removed with `distill rm` */
#define MAX_NOTES 8
#define BATCH 128 /* submissions that are stored together at most */
#define MAX_EPOCHS 10000

_Static_assert(KD_SWEEP_CHILDREN <= KD_MAX_SWEEP_JOBS && KD_SWEEP_LABEL <= KD_MAX_LABEL,
               "a sweep fits the messages that tell of it");

/* A job that is about to be. */
struct draft {
    kd_job_id id;
    kd_job *spec;
    char *resolved, *label, *values; /* the record takes them */
    kd_taken taken[KD_MAX_STAGES];
    bool takes[KD_MAX_STAGES];
    kd_job_record *record; /* the list of jobs takes it */
};

struct submission {
    kd_daemon *d;
    kd_rpc_call *call;
    const Distill__V1__SubmitRequest *r;
    char digest[KD_DIGEST_HEX]; /* of what was asked */
    const char *text;           /* to be stored as the job file */
    struct draft *drafts;
    size_t n;
    bool is_sweep;
    const kd_job_record *source; /* of files and stages that are taken over, NULL = none */
    kd_job_id continued, replayed;
    int verified;     /* the stage of which a part is run again, -1 = none */
    bool verify_best; /* from its best version; else from the beginning */
    char event[160];
    char told[KD_JOB_NAME + 256]; /* its first event */
    char notes[MAX_NOTES][256];
    int n_notes;
    kd_job_record *parent, *first; /* once stored: the sweep if it is one, and its first job */
    int rc;
    kd_diag *diag; /* = &why */
    kd_diag why;
};

static void clear(struct submission *s)
{
    for (size_t i = 0; i < s->n; i++) {
        struct draft *f = &s->drafts[i];
        for (int k = 0; k < KD_MAX_STAGES; k++)
            kd_taken_clear(&f->taken[k]);
        kd_job_record_free(f->record);
        free(f->spec);
        free(f->resolved);
        free(f->label);
        free(f->values);
    }
    free(s->drafts);
}

static void digest_of_request(const Distill__V1__SubmitRequest *r, char hex[KD_DIGEST_HEX])
{
    kd_hasher *h = kd_hasher_new();
    KD_BUG_ON(!h);
    kd_hasher_add(h, r->text, strlen(r->text) + 1);
    for (size_t i = 0; i < r->n_set; i++)
        kd_hasher_add(h, r->set[i], strlen(r->set[i]) + 1);
    for (size_t i = 0; i < r->n_blobs; i++)
        kd_hasher_add(h, r->blobs[i]->digest, strlen(r->blobs[i]->digest) + 1);
    if (r->continue_job[0] || r->replay_job[0]) {
        char more[160];
        int n = snprintf(more, sizeof more, "continue %.64s by %u, replay %.64s", r->continue_job,
                         r->continue_epochs, r->replay_job);
        kd_hasher_add(h, more, (size_t)n);
    }
    if (r->verify_stage[0]) {
        char more[160];
        int n = snprintf(more, sizeof more, "verify %.64s %llu to %llu", r->verify_stage,
                         (unsigned long long)r->verify_from, (unsigned long long)r->verify_to);
        kd_hasher_add(h, more, (size_t)n);
    }
    kd_digest digest = kd_hasher_digest(h);
    kd_digest_hex(&digest, hex);
    kd_hasher_free(h);
}

KD_PRINTF(2, 3)
static void note(struct submission *s, const char *fmt, ...)
{
    if (s->n_notes == MAX_NOTES)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(s->notes[s->n_notes++], sizeof s->notes[0], fmt, ap);
    va_end(ap);
}

/* ---- drafts */

static int add_draft(struct submission *s, const char *text, const char *file,
                     const char *const *sets, int n_sets, struct draft **out)
{
    struct draft *p = realloc(s->drafts, (s->n + 1) * sizeof *p);
    KD_BUG_ON(!p);
    s->drafts = p;
    struct draft *f = &s->drafts[s->n++];
    *f = (struct draft){.spec = kd_xalloc(sizeof(kd_job))};
    *out = f;
    int rc = kd_job_load(text, strlen(text), file, sets, n_sets, f->spec, s->diag);
    if (rc == 0)
        rc = kd_blobs_bind(s->d, s->r->blobs, s->r->n_blobs, f->spec, s->r->dry_run, s->diag);
    if (rc == 0)
        rc = kd_job_resolved(f->spec, &f->resolved, s->diag);
    if (rc == 0 && strlen(f->resolved) > KD_MAX_JOB_TEXT)
        rc = kd_fail(s->diag, -KD_ELIMIT, "the job with all its defaults is too large: %zu bytes",
                     strlen(f->resolved));
    return rc;
}

static int draft_child(struct submission *s, const char *file, const kd_sweep_child *c)
{
    struct draft *f;
    size_t n = s->r->n_set;
    const char **sets = kd_xalloc((n + (size_t)c->n_sets + 1) * sizeof *sets);
    for (size_t i = 0; i < n; i++)
        sets[i] = s->r->set[i];
    for (int i = 0; i < c->n_sets; i++)
        sets[n + (size_t)i] = c->sets[i];
    int rc = add_draft(s, s->r->text, file, sets, (int)n + c->n_sets, &f);
    free(sets);
    f->label = kd_xstrdup(c->label);
    f->values = kd_xstrdup(c->values);
    return rc;
}

static int draft_text(struct submission *s)
{
    const Distill__V1__SubmitRequest *r = s->r;
    const char *file = r->file_name[0] ? r->file_name : "job";
    kd_sweep sweep;
    struct draft *f;
    int rc = kd_sweep_load(r->text, strlen(r->text), file, (const char *const *)r->set,
                           (int)r->n_set, &sweep, s->diag);
    if (rc != 0)
        return rc;
    s->text = r->text;
    s->is_sweep = sweep.n > 0;
    if (!s->is_sweep)
        rc = add_draft(s, r->text, file, (const char *const *)r->set, (int)r->n_set, &f);
    for (int i = 0; i < sweep.n && rc == 0; i++)
        rc = draft_child(s, file, &sweep.child[i]);
    kd_sweep_free(&sweep);
    return rc;
}

/* The job that is gone on with or run again. */
static int find_source(struct submission *s, const char *id, const kd_job_record **out)
{
    const kd_job_record *j = kd_job_find(s->d, id, s->diag);
    char text[KD_ID_TEXT];
    if (!j)
        return s->diag->code;
    kd_id_text(j->row.id, text);
    if (s->r->text[0] || s->r->n_set || s->r->n_blobs)
        return kd_fail(s->diag, -KD_EINVAL,
                       "a job file, overrides or files do not go with continue and replay");
    if (j->row.is_sweep)
        return kd_fail(s->diag, -KD_EINVAL,
                       "job %s is a sweep; name one of its jobs (`distill show %s` lists them)",
                       text, text);
    if (j->row.state != KD_RUN_SUCCEEDED)
        return kd_fail(s->diag, -KD_ESTATE, "job %s has not succeeded", text);
    *out = j;
    return 0;
}

static int stage_at(const kd_job_record *j, enum kd_stage_kind kind)
{
    for (int i = 0; i < j->n_stages; i++)
        if (j->stages[i].kind == kind)
            return i;
    return -1;
}

/* Epochs that a finished stage has run, a part of one counted whole. */
static int epochs_done(const kd_stage_record *s)
{
    const Distill__V1__StageInfo *i = s->info;
    if (!i || i->batch == 0 || s->row.stopped_early == 0)
        return i ? (int)i->epochs : 0;
    uint64_t samples = i->epoch_samples ? i->epoch_samples : i->train_samples;
    uint64_t steps = (samples + i->batch - 1) / i->batch;
    return steps ? (int)((s->row.stopped_early + steps - 1) / steps) : 0;
}

struct longer {
    char text[4][64];
    const char *sets[4];
    int n;
};

/* Overrides that make one of the two runs longer. */
static int make_longer(struct submission *s, const kd_job_record *j, enum kd_stage_kind kind,
                       const char *key, struct longer *out)
{
    int at = stage_at(j, kind);
    const kd_stage_record *stage = at >= 0 ? &j->stages[at] : NULL;
    uint64_t epochs = (stage ? (uint64_t)epochs_done(stage) : 0) + s->r->continue_epochs;
    if (!stage || !stage->info || epochs > MAX_EPOCHS)
        return kd_fail(s->diag, -KD_EINVAL, "%s: %llu epochs are more than %d", key,
                       (unsigned long long)epochs, MAX_EPOCHS);
    snprintf(out->text[out->n], sizeof out->text[0], "%s.epochs=%d", key, (int)epochs);
    out->sets[out->n] = out->text[out->n];
    out->n++;
    if (stage->row.stopped_early) {
        /* It would stop again at once: nobody has asked it to get better, but to go on. */
        snprintf(out->text[out->n], sizeof out->text[0], "%s.early_stop.patience=0", key);
        out->sets[out->n] = out->text[out->n];
        out->n++;
        note(s, "%s was ended early at step %llu; it goes on from there without early stopping",
             key, (unsigned long long)stage->row.stopped_early);
    }
    const kd_optimizer_spec *o = &kd_job_train(&j->spec, kind)->optimizer;
    if (o->schedule == KD_COSINE || o->schedule == KD_ONE_CYCLE)
        note(s,
             "%s.optimizer.schedule is computed over %d epochs now, so the learning rate is not "
             "where it ended",
             key, (int)epochs);
    return 0;
}

/* A twin of as many epochs as the student grows with it. */
static bool twin_grows(const kd_job_record *from)
{
    return from->spec.scratch && from->spec.scratch_train.epochs == from->spec.distill.epochs;
}

/* What a job that goes on from `from` takes over: finished teachers, the runs that grow at their
 * last version, a twin that does not grow as it is. */
static int take_stages(struct submission *s, struct draft *f, const kd_job_record *from)
{
    enum kd_stage_kind kinds[KD_MAX_STAGES];
    int n = kd_job_stages(f->spec, kinds), rc = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        int at = stage_at(from, kinds[i]);
        if (!kd_job_train(f->spec, kinds[i]))
            continue; /* evaluation and export are made anew */
        if (at < 0)
            return kd_fail(s->diag, -KD_EINTERNAL, "the job has no stage %s",
                           kd_stage_name(kinds[i]));
        /* Not by the epochs of the two jobs: those of a twin that was ended early may be equal. */
        bool grows =
            kinds[i] == KD_STAGE_DISTILL || (kinds[i] == KD_STAGE_SCRATCH && twin_grows(from));
        rc = kd_take_stage(s->d, from, (uint32_t)at, grows ? KD_TAKE_ON : KD_TAKE_DONE, f->id,
                           (uint32_t)i, &f->taken[i], s->diag);
        f->takes[i] = rc == 0;
    }
    return rc;
}

static int draft_continue(struct submission *s)
{
    const Distill__V1__SubmitRequest *r = s->r;
    const kd_job_record *j;
    struct longer more = {0};
    struct draft *f;
    int rc = find_source(s, r->continue_job, &j);
    if (rc == 0 && r->continue_epochs == 0)
        rc = kd_fail(s->diag, -KD_EINVAL, "continue by how many epochs? at least 1 is expected");
    if (rc == 0)
        rc = make_longer(s, j, KD_STAGE_DISTILL, "distill", &more);
    if (rc == 0 && twin_grows(j))
        rc = make_longer(s, j, KD_STAGE_SCRATCH, "scratch", &more);
    if (rc == 0)
        rc = add_draft(s, j->row.resolved, "continued job", more.sets, more.n, &f);
    if (rc != 0)
        return rc;
    s->source = j;
    s->text = j->row.text;
    s->continued = j->row.id;
    snprintf(s->event, sizeof s->event, ", going on from job %012llx",
             (unsigned long long)j->row.id);
    return 0;
}

/* Steps of one stage, from the newest version before them that is still there. */
static int draft_verify(struct submission *s)
{
    const Distill__V1__SubmitRequest *r = s->r;
    const kd_job_record *j;
    struct draft *f;
    int rc = find_source(s, r->replay_job, &j), at = -1;
    for (int i = 0; rc == 0 && i < j->n_stages; i++)
        if (strcmp(j->stages[i].row.name, r->verify_stage) == 0 &&
            kd_job_train(&j->spec, j->stages[i].kind))
            at = i;
    if (rc == 0 && (at < 0 || !j->stages[at].info))
        rc = kd_fail(s->diag, -KD_EINVAL, "job %012llx has no stage %.32s that trains",
                     (unsigned long long)j->row.id, r->verify_stage);
    if (rc != 0)
        return rc;
    const kd_stage_record *stage = &j->stages[at];
    uint64_t steps = kd_stage_last_version(stage) - 1;
    if (r->verify_from < 1 || r->verify_from > r->verify_to || r->verify_to > steps)
        return kd_fail(s->diag, -KD_EINVAL,
                       "steps %llu to %llu are not within 1 to %llu of stage %s",
                       (unsigned long long)r->verify_from, (unsigned long long)r->verify_to,
                       (unsigned long long)steps, stage->row.name);
    kd_file_row row;
    s->verify_best = stage->row.best_version > 1 && stage->row.best_version <= r->verify_from;
    if (s->verify_best) {
        int found = kd_state_find_checkpoint(&s->d->state, j->row.id, (uint32_t)at,
                                             stage->row.best_version, &row, s->diag);
        if (found < 0)
            return found;
        s->verify_best = found == 1;
    }
    if (j->row.continued && !s->verify_best)
        return kd_fail(s->diag, -KD_ESTATE,
                       "job %012llx went on from job %012llx and has no version of its own before "
                       "step %llu; verify all of it",
                       (unsigned long long)j->row.id, (unsigned long long)j->row.continued,
                       (unsigned long long)r->verify_from);
    rc = add_draft(s, j->row.resolved, "verified job", NULL, 0, &f);
    if (rc != 0)
        return rc;
    s->text = j->row.text;
    s->source = j;
    s->replayed = j->row.id;
    s->verified = at;
    uint64_t begin = s->verify_best ? stage->row.best_version : 1;
    snprintf(s->event, sizeof s->event, ", steps %llu to %llu of stage %s of job %012llx again",
             (unsigned long long)begin, (unsigned long long)r->verify_to, stage->row.name,
             (unsigned long long)j->row.id);
    return 0;
}

/* What the other stages made is taken over, and nothing is made of it after the verified one. */
static int take_verified(struct submission *s, struct draft *f)
{
    const kd_job_record *from = s->source;
    int rc = 0;
    for (int i = 0; i < from->n_stages && rc == 0; i++) {
        kd_stage_row *row = &f->record->stages[i].row;
        bool trains = kd_job_train(f->spec, from->stages[i].kind) != NULL;
        if (!trains) {
            row->done = true;
            continue;
        }
        if (i == s->verified && !s->verify_best) {
            row->stopped_early = s->r->verify_to;
            continue;
        }
        rc = kd_take_stage(s->d, from, (uint32_t)i, i == s->verified ? KD_TAKE_BEST : KD_TAKE_DONE,
                           f->id, (uint32_t)i, &f->taken[i], s->diag);
        f->takes[i] = rc == 0;
        if (rc == 0 && i == s->verified)
            f->taken[i].row.stopped_early = s->r->verify_to;
    }
    return rc;
}

static int draft_replay(struct submission *s)
{
    const kd_job_record *j;
    struct draft *f;
    int rc = find_source(s, s->r->replay_job, &j);
    if (rc == 0)
        rc = add_draft(s, j->row.resolved, "replayed job", NULL, 0, &f);
    if (rc != 0)
        return rc;
    s->text = j->row.text;
    s->replayed = j->row.id;
    s->continued = j->row.continued;
    if (s->continued) {
        /* Where its run began is part of what is run again. */
        s->source = kd_daemon_job(s->d, s->continued);
        if (!s->source)
            return kd_fail(s->diag, -KD_ESTATE,
                           "job %012llx went on from job %012llx, which is no longer here",
                           (unsigned long long)j->row.id, (unsigned long long)s->continued);
    }
    snprintf(s->event, sizeof s->event, ", running job %012llx again",
             (unsigned long long)j->row.id);
    return 0;
}

static int make_drafts(struct submission *s)
{
    const Distill__V1__SubmitRequest *r = s->r;
    if (r->continue_job[0] && r->replay_job[0])
        return kd_fail(s->diag, -KD_EINVAL, "continue and replay exclude each other");
    if (r->verify_stage[0] && !r->replay_job[0])
        return kd_fail(s->diag, -KD_EINVAL, "verify goes with replay");
    return r->continue_job[0]   ? draft_continue(s)
           : r->verify_stage[0] ? draft_verify(s)
           : r->replay_job[0]   ? draft_replay(s)
                                : draft_text(s);
}

/* ---- storing */

static kd_job_id new_id(const struct submission *s, kd_job_id parent)
{
    for (;;) {
        kd_job_id id = 0;
        KD_BUG_ON(getrandom(&id, 6, 0) != 6);
        /* An id that begins with another's first digits would make short ids ambiguous sooner. */
        bool taken = id >> 44 == 0 || id == parent || kd_daemon_job(s->d, id);
        for (size_t i = 0; i < s->n && !taken; i++)
            taken = s->drafts[i].id == id;
        if (!taken)
            return id;
    }
}

static char *copy_text(const char *text)
{
    return text ? kd_xstrdup(text) : NULL;
}

static int make_record(struct submission *s, kd_job_row *row, const kd_job *spec,
                       kd_job_record **out)
{
    row->submitted_ms = kd_clock_wall_ms();
    row->text = copy_text(s->text);
    row->continued = s->continued;
    row->replayed = s->replayed;
    snprintf(row->name, sizeof row->name, "%s", spec->name);
    snprintf(row->text_digest, sizeof row->text_digest, "%s", s->digest);
    *out = kd_job_record_new(s->d, row, s->diag);
    if (*out)
        return 0;
    kd_job_row_clear(row);
    return s->diag->code ? s->diag->code : -KD_EINTERNAL;
}

static int make_records(struct submission *s)
{
    kd_job_id parent = s->is_sweep ? new_id(s, 0) : 0;
    int rc = 0;
    if (s->is_sweep) {
        kd_job_row row = {.id = parent, .is_sweep = true};
        row.resolved = kd_xstrdup(s->drafts[0].resolved);
        snprintf(row.key, sizeof row.key, "%s", s->r->key);
        rc = make_record(s, &row, s->drafts[0].spec, &s->parent);
    }
    for (size_t i = 0; i < s->n && rc == 0; i++) {
        struct draft *f = &s->drafts[i];
        f->id = new_id(s, parent);
        kd_job_row row = {.id = f->id, .sweep = parent, .label = f->label, .values = f->values};
        row.resolved = kd_xstrdup(f->resolved);
        f->label = f->values = NULL;
        /* No client's key has a blank. */
        if (s->is_sweep)
            snprintf(row.key, sizeof row.key, "sweep %012llx %zu", (unsigned long long)parent, i);
        else
            snprintf(row.key, sizeof row.key, "%s", s->r->key);
        rc = make_record(s, &row, f->spec, &f->record);
        if (rc == 0 && s->source)
            rc = s->verified >= 0 ? take_verified(s, f) : take_stages(s, f, s->source);
    }
    return rc;
}

/* What one record is stored with; room for its lists is the caller's to free. */
static kd_new_job new_job(const struct draft *f, const char *event, kd_stage_row *stages)
{
    kd_new_job job = {
        .row = &f->record->row, .stages = stages, .n_stages = f->record->n_stages, .event = event};
    size_t n_epochs = 0, n_files = 0;
    for (int i = 0; i < job.n_stages; i++) {
        n_epochs += f->taken[i].n_epochs;
        n_files += f->taken[i].n_files;
    }
    kd_epoch_row *epochs = kd_xalloc((n_epochs + 1) * sizeof *epochs);
    kd_file_row *files = kd_xalloc((n_files + 1) * sizeof *files);
    for (int i = 0; i < job.n_stages; i++) {
        const kd_taken *t = &f->taken[i];
        stages[i] = f->takes[i] ? t->row : f->record->stages[i].row;
        if (t->n_epochs)
            memcpy(epochs + job.n_epochs, t->epochs, t->n_epochs * sizeof *epochs);
        if (t->n_files)
            memcpy(files + job.n_files, t->files, t->n_files * sizeof *files);
        job.n_epochs += t->n_epochs;
        job.n_files += t->n_files;
    }
    job.epochs = epochs;
    job.files = files;
    return job;
}

/* The records of all of them that are well so far, or of none. */
static int store_records(kd_daemon *d, struct submission *const *list, size_t n, kd_diag *diag)
{
    size_t total = 0, n_jobs = 0, n_drafts = 0;
    for (size_t i = 0; i < n; i++)
        total += list[i]->n;
    kd_new_job *jobs = kd_xalloc((total + n) * sizeof *jobs);
    kd_stage_row(*stages)[KD_MAX_STAGES] = kd_xalloc(total * sizeof *stages);
    for (size_t i = 0; i < n; i++) {
        struct submission *s = list[i];
        char more[64] = "";
        if (s->is_sweep)
            snprintf(more, sizeof more, ", a sweep of %zu jobs", s->n);
        char *event = s->told;
        snprintf(event, sizeof s->told, "submitted as %s%s%s", s->drafts[0].spec->name, more,
                 s->event);
        if (s->parent)
            jobs[n_jobs++] = (kd_new_job){.row = &s->parent->row, .event = event};
        for (size_t k = 0; k < s->n; k++)
            jobs[n_jobs++] = new_job(&s->drafts[k], event, stages[n_drafts++]);
    }
    KD_FAILPOINT("submit.store");
    int rc = kd_state_add_jobs(&d->state, jobs, n_jobs, diag);
    KD_FAILPOINT("submit.stored");
    for (size_t i = 0; i < n_jobs; i++) {
        free((void *)jobs[i].epochs);
        free((void *)jobs[i].files);
    }
    free(stages);
    free(jobs);
    return rc;
}

static void append(kd_daemon *d, kd_job_record *j)
{
    kd_job_record **end = &d->jobs;
    while (*end)
        end = &(*end)->next;
    *end = j;
}

/* What was made on the way goes if the jobs do not come to be. */
static void undo(struct submission *s)
{
    for (size_t i = 0; i < s->n; i++) {
        char path[4096];
        kd_diag why = {0};
        snprintf(path, sizeof path, "%.3500s/jobs/%012llx", s->d->state.dir,
                 (unsigned long long)s->drafts[i].id);
        if (s->drafts[i].id && kd_file_remove_tree(path, &why) != 0)
            kd_warn("%s", why.msg);
    }
    kd_job_record_free(s->parent);
    s->parent = NULL;
}

/* While there is room for them: a job must not fail at its first stage for want of a folder. */
static int make_folders(struct submission *s)
{
    int rc = 0;
    for (size_t i = 0; i < s->n && rc == 0; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%.3500s/jobs/%012llx", s->d->state.dir,
                 (unsigned long long)s->drafts[i].id);
        rc = kd_file_mkdirs(path, s->diag);
    }
    return rc;
}

static int make_jobs(struct submission *s)
{
    int rc = make_records(s);
    return rc == 0 ? make_folders(s) : rc;
}

/* What is stored becomes part of the lists. */
static void enlist(struct submission *s)
{
    kd_info("%s job=%012llx", s->told,
            (unsigned long long)(s->parent ? s->parent : s->drafts[0].record)->row.id);
    if (s->parent)
        append(s->d, s->parent);
    for (size_t i = 0; i < s->n; i++) {
        struct draft *f = &s->drafts[i];
        for (int k = 0; k < f->record->n_stages; k++)
            if (f->takes[k] && kd_take_into(f->record, (uint32_t)k, &f->taken[k], s->diag) != 0)
                kd_daemon_fatal(s->d, s->diag);
        append(s->d, f->record);
        s->first = s->first ? s->first : f->record;
    }
    s->parent = s->parent ? s->parent : s->first;
}

/* Tells the core. What they wait for is stored in one go; they are there already. */
static void introduce(kd_daemon *d, struct submission *const *list, size_t n)
{
    kd_diag diag = {0};
    if (kd_state_begin(&d->state, &diag) != 0)
        kd_daemon_fatal(d, &diag);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < list[i]->n; k++) {
            kd_job_record *j = list[i]->drafts[k].record;
            list[i]->drafts[k].record = NULL;
            kd_daemon_introduce(d, j, i + 1 < n || k + 1 < list[i]->n);
        }
    if (kd_state_commit(&d->state, &diag) != 0)
        kd_daemon_fatal(d, &diag);
}

/* ---- the answer */

static void answer(struct submission *s, bool existed, const char *resolved, const kd_job *spec)
{
    Distill__V1__SubmitReply reply = DISTILL__V1__SUBMIT_REPLY__INIT;
    char id[KD_ID_TEXT] = "";
    char(*ids)[KD_ID_TEXT] = kd_xalloc((KD_SWEEP_CHILDREN + 1) * sizeof *ids);
    char **children = kd_xalloc((KD_SWEEP_CHILDREN + 1) * sizeof *children);
    char *notes[MAX_NOTES];
    kd_core_view view = {0};
    s->n_notes += kd_job_notes(spec, s->notes + s->n_notes, MAX_NOTES - s->n_notes);
    for (int i = 0; i < s->n_notes; i++)
        notes[i] = s->notes[i];
    if (s->parent) {
        kd_id_text(s->parent->row.id, id);
        kd_core_job_view(s->d->core, s->first ? s->first->row.id : s->parent->row.id, &view);
    }
    for (kd_job_record *o = NULL; s->parent && s->parent->row.is_sweep &&
                                  reply.n_children < KD_SWEEP_CHILDREN &&
                                  (o = kd_sweep_next(s->d, s->parent, o));) {
        kd_id_text(o->row.id, ids[reply.n_children]);
        children[reply.n_children] = ids[reply.n_children];
        reply.n_children++;
    }
    reply.job = id;
    reply.existed = existed;
    reply.resolved = (char *)resolved;
    reply.notes = notes;
    reply.n_notes = (size_t)s->n_notes;
    reply.queue_position = view.queue_position;
    reply.children = children;
    kd_answer(s->call, &reply);
    free(children);
    free(ids);
}

/* The jobs that clients submitted under a key; a sweep's children have keys of their own kind. */
static kd_job_record *find_key(kd_daemon *d, const char *key)
{
    kd_job_record *j = d->jobs;
    while (j && (j->row.sweep || strcmp(j->row.key, key) != 0))
        j = j->next;
    return j;
}

static int check_key(const char *key, kd_diag *diag)
{
    bool plain = key[0] != '\0';
    for (const char *p = key; *p; p++)
        plain = plain && *p > ' ' && *p < 0x7f;
    return plain ? 0
                 : kd_fail(diag, -KD_EINVAL,
                           "a submit needs a key of 1 to 64 printable ASCII characters without "
                           "blanks");
}

/* Everything but storing. The call is answered where nothing is to be stored; n_jobs: that there
 * will be once those before it are stored. */
static int draft(struct submission *s, size_t n_jobs)
{
    kd_daemon *d = s->d;
    const Distill__V1__SubmitRequest *r = s->r;
    digest_of_request(r, s->digest);
    kd_job_record *known = r->dry_run ? NULL : find_key(d, r->key);
    int rc = r->dry_run ? 0 : check_key(r->key, s->diag);
    if (rc == 0 && known && strcmp(known->row.text_digest, s->digest) != 0)
        rc = kd_fail(s->diag, -KD_EEXIST, "the key %.64s belongs to another job", r->key);
    if (rc == 0 && known) {
        s->parent = known;
        s->first = known->row.is_sweep ? kd_sweep_next(d, known, NULL) : known;
        answer(s, true, known->row.resolved, &known->spec);
        return 0;
    }
    if (rc == 0 && !r->dry_run && kd_room_check(&d->room, 0, s->diag) != 0)
        rc = kd_fail_at(s->diag, -KD_ELIMIT, "the job is not taken");
    if (rc == 0)
        rc = make_drafts(s);
    if (rc == 0 && r->dry_run) {
        if (s->is_sweep)
            note(s, "a sweep of %zu jobs; the first one is shown", s->n);
        answer(s, false, s->drafts[0].resolved, s->drafts[0].spec);
        return 0;
    }
    if (rc == 0 && n_jobs + s->n + 1 > MAX_JOBS)
        rc = kd_fail(s->diag, -KD_ELIMIT,
                     "%zu jobs are stored and %zu would be more than %d; remove finished ones with "
                     "`distill rm`",
                     n_jobs, s->n, MAX_JOBS);
    return rc == 0 ? make_jobs(s) : rc;
}

static void refuse(struct submission *s, const kd_diag *diag)
{
    kd_rpc_finish_diag(s->call, diag);
    undo(s);
    for (size_t i = 0; i < s->n; i++)
        for (int k = 0; k <= s->drafts[i].spec->n_teachers; k++)
            if (kd_job_is_ref(k < s->drafts[i].spec->n_teachers
                                  ? s->drafts[i].spec->teachers[k].model.weights
                                  : s->drafts[i].spec->student.weights)) {
                kd_blobs_drop_unused(s->d, s->drafts[i].spec);
                break;
            }
}

/* All of them are stored, or those that can be are and the others are told why they cannot. */
static void submit_all(kd_daemon *d, struct submission *const *list, size_t n)
{
    struct submission **well = kd_xalloc(n * sizeof *well);
    kd_diag diag = {0};
    size_t n_jobs = 0, n_well = 0;
    for (const kd_job_record *o = d->jobs; o; o = o->next)
        n_jobs++;
    for (size_t i = 0; i < n; i++) {
        list[i]->rc = draft(list[i], n_jobs);
        if (list[i]->rc != 0 || !list[i]->n || !list[i]->drafts[0].record)
            continue;
        n_jobs += list[i]->n + list[i]->is_sweep;
        well[n_well++] = list[i];
    }
    int rc = n_well ? store_records(d, well, n_well, &diag) : 0;
    for (size_t i = 0; i < n_well && rc != 0; i++) {
        well[i]->rc = rc;
        well[i]->why = diag;
    }
    for (size_t i = 0; i < n_well && rc == 0; i++)
        enlist(well[i]);
    if (n_well && rc == 0)
        introduce(d, well, n_well);
    for (size_t i = 0; i < n_well && rc == 0; i++)
        answer(well[i], false, well[i]->drafts[0].resolved, well[i]->drafts[0].spec);
    /* Last, since the others' files are named now. */
    for (size_t i = 0; i < n; i++)
        if (list[i]->rc != 0)
            refuse(list[i], &list[i]->why);
    free(well);
}

/* ---- those that wait */

struct kd_waiting_submit {
    struct kd_waiting_submit *next;
    kd_rpc_call *call;
    Distill__V1__SubmitRequest *r;
};

void kd_submit_add(kd_daemon *d, kd_rpc_call *call, Distill__V1__SubmitRequest *r)
{
    struct kd_waiting_submit *w = kd_xalloc(sizeof *w);
    *w = (struct kd_waiting_submit){.call = kd_rpc_call_ref(call), .r = r};
    *d->submits_end = w;
    d->submits_end = &w->next;
}

static bool has_key(struct submission *const *list, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i]->r->key, key) == 0)
            return true;
    return false;
}

void kd_submit_run(kd_daemon *d)
{
    while (d->submits) {
        struct submission *list[BATCH];
        struct kd_waiting_submit *taken = d->submits, **end = &d->submits;
        size_t n = 0;
        /* The same key again is answered with the job that the first one makes. */
        while (*end && n < BATCH && !has_key(list, n, (*end)->r->key)) {
            struct submission *s = kd_xalloc(sizeof *s);
            *s = (struct submission){.d = d, .call = (*end)->call, .r = (*end)->r, .verified = -1};
            s->diag = &s->why;
            list[n++] = s;
            end = &(*end)->next;
        }
        d->submits = *end;
        *end = NULL;
        if (!d->submits)
            d->submits_end = &d->submits;
        submit_all(d, list, n);
        for (size_t i = 0; i < n; i++) {
            clear(list[i]);
            free(list[i]);
        }
        while (taken) {
            struct kd_waiting_submit *next = taken->next;
            kd_rpc_call_unref(taken->call);
            kd_wire_free((ProtobufCMessage *)taken->r);
            free(taken);
            taken = next;
        }
    }
}

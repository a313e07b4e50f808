/* What a submit is to become: a job or a sweep of its text, or a finished job gone on with, run
 * again or verified in a part. */
#include "submission.h"

#include "outside.h"

#include "job/sweep.h"
#include "kd/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_EPOCHS 10000

void kd_submission_digest(const Distill__V1__SubmitRequest *r, char hex[KD_DIGEST_HEX])
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

void kd_submission_note(struct kd_submission *s, const char *fmt, ...)
{
    if (s->n_notes == KD_SUBMIT_NOTES)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(s->notes[s->n_notes++], sizeof s->notes[0], fmt, ap);
    va_end(ap);
}

/* ---- drafts */

static int check_teachers(const struct kd_submission *s, const kd_job *spec)
{
    const char *address = kd_outside_forbidden(s->d->outside_teachers, spec);
    return address ? kd_fail(s->diag, -KD_EPERM,
                             "teacher.kserve: %.200s is none of the outside teachers that this "
                             "coordinator permits; its setting outside_teachers names them",
                             address)
                   : 0;
}

static int load_draft(struct kd_submission *s, const char *text, const char *file,
                      const char *const *sets, int n_sets, struct kd_draft **out)
{
    struct kd_draft *p = realloc(s->drafts, (s->n + 1) * sizeof *p);
    KD_BUG_ON(!p);
    s->drafts = p;
    struct kd_draft *f = &s->drafts[s->n++];
    *f = (struct kd_draft){.spec = kd_xalloc(sizeof(kd_job))};
    *out = f;
    int rc = kd_job_load(text, strlen(text), file, sets, n_sets, f->spec, s->diag);
    return rc == 0 ? check_teachers(s, f->spec) : rc;
}

static int resolve_draft(struct kd_submission *s, struct kd_draft *f)
{
    int rc = kd_job_resolved(f->spec, &f->resolved, s->diag);
    if (rc == 0 && strlen(f->resolved) > KD_MAX_JOB_TEXT)
        rc = kd_fail(s->diag, -KD_ELIMIT, "the job with all its defaults is too large: %zu bytes",
                     strlen(f->resolved));
    return rc;
}

/* Finds the files that the job starts from; their digests are part of what it resolves to. */
static int bind_draft(struct kd_submission *s, struct kd_draft *f)
{
    int rc =
        kd_blobs_bind(s->d, s->call, s->r->blobs, s->r->n_blobs, f->spec, s->r->dry_run, s->diag);
    return rc == 0 ? resolve_draft(s, f) : rc;
}

static int add_draft(struct kd_submission *s, const char *text, const char *file,
                     const char *const *sets, int n_sets, struct kd_draft **out)
{
    int rc = load_draft(s, text, file, sets, n_sets, out);
    return rc == 0 ? bind_draft(s, *out) : rc;
}

static int draft_child(struct kd_submission *s, const char *file, const kd_sweep_child *c)
{
    struct kd_draft *f;
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

static const char *file_of(const Distill__V1__SubmitRequest *r)
{
    return r->file_name[0] ? r->file_name : "job";
}

static int draft_text(struct kd_submission *s)
{
    const Distill__V1__SubmitRequest *r = s->r;
    const char *file = file_of(r);
    kd_sweep sweep;
    struct kd_draft *f;
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
static int find_source(struct kd_submission *s, const char *id, const kd_job_record **out)
{
    const kd_job_record *j = kd_job_find(s->d, s->call, id, s->diag);
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
static int make_longer(struct kd_submission *s, const kd_job_record *j, enum kd_stage_kind kind,
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
        kd_submission_note(
            s, "%s was ended early at step %llu; it goes on from there without early stopping", key,
            (unsigned long long)stage->row.stopped_early);
    }
    const kd_optimizer_spec *o = &kd_job_train(&j->spec, kind)->optimizer;
    if (o->schedule == KD_COSINE || o->schedule == KD_ONE_CYCLE)
        kd_submission_note(
            s,
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
int kd_submission_take_stages(struct kd_submission *s, struct kd_draft *f,
                              const kd_job_record *from)
{
    enum kd_stage_kind kinds[KD_MAX_STAGES];
    int n = kd_job_stages(f->spec, kinds), rc = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        int at = stage_at(from, kinds[i]);
        bool small = kd_stage_tune(kinds[i]) >= 0 || kd_stage_compress(kinds[i]) >= 0;
        if (!kd_job_train(f->spec, kinds[i]) || small)
            continue; /* what is made of the student is made anew, evaluation and export too */
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

static int draft_continue(struct kd_submission *s)
{
    const Distill__V1__SubmitRequest *r = s->r;
    const kd_job_record *j = NULL;
    struct longer more = {0};
    struct kd_draft *f;
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
static int draft_verify(struct kd_submission *s)
{
    const Distill__V1__SubmitRequest *r = s->r;
    const kd_job_record *j;
    struct kd_draft *f;
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
int kd_submission_take_verified(struct kd_submission *s, struct kd_draft *f)
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

static int draft_replay(struct kd_submission *s)
{
    const kd_job_record *j;
    struct kd_draft *f;
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
        rc = kd_access_job(s->d->access, s->call, s->source->row.owner, s->diag);
        if (rc != 0)
            return rc;
    }
    snprintf(s->event, sizeof s->event, ", running job %012llx again",
             (unsigned long long)j->row.id);
    return 0;
}

void kd_submission_read(struct kd_submission *s)
{
    const Distill__V1__SubmitRequest *r = s->r;
    kd_sweep sweep = {0};
    struct kd_draft *f;
    if (!r->text[0] || r->continue_job[0] || r->replay_job[0] || r->verify_stage[0])
        return;
    const char *const *sets = (const char *const *)r->set;
    s->rc =
        kd_sweep_load(r->text, strlen(r->text), file_of(r), sets, (int)r->n_set, &sweep, s->diag);
    s->read = sweep.n == 0;
    kd_sweep_free(&sweep);
    if (s->rc == 0 && s->read)
        s->rc = load_draft(s, r->text, file_of(r), sets, (int)r->n_set, &f);
    if (s->rc == 0 && s->read && !kd_blobs_needed(f->spec))
        s->rc = resolve_draft(s, f);
    s->text = r->text;
}

int kd_submission_draft(struct kd_submission *s)
{
    const Distill__V1__SubmitRequest *r = s->r;
    if (s->read)
        return s->drafts[0].resolved ? 0 : bind_draft(s, &s->drafts[0]);
    if (r->continue_job[0] && r->replay_job[0])
        return kd_fail(s->diag, -KD_EINVAL, "continue and replay exclude each other");
    if (r->verify_stage[0] && !r->replay_job[0])
        return kd_fail(s->diag, -KD_EINVAL, "verify goes with replay");
    return r->continue_job[0]   ? draft_continue(s)
           : r->verify_stage[0] ? draft_verify(s)
           : r->replay_job[0]   ? draft_replay(s)
                                : draft_text(s);
}

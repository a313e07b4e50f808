/* The call Submit: a job file becomes one job or a sweep, or a finished job is gone on with or run
 * again. Whatever it makes is stored before the answer, in one transaction with what the calls make
 * that wait beside it: a disk takes few syncs a second, and they may be shared. */
#include "submission.h"
#include "sweep.h"
#include "trials.h"

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

#define MAX_JOBS 50000 /* stored at once; finished ones are removed with `distill rm` */
#define BATCH 128      /* submissions that are stored together at most */
#define MOST_READ 512  /* that wait with their texts read */
#define ENOUGH 32      /* that wait are stored, and fewer when they have waited as long as this: */
#define PATIENCE_MS 4

_Static_assert(KD_SWEEP_CHILDREN <= KD_MAX_SWEEP_JOBS && KD_SWEEP_LABEL <= KD_MAX_LABEL,
               "a sweep fits the messages that tell of it");

static void clear(struct kd_submission *s)
{
    for (size_t i = 0; i < s->n; i++) {
        struct kd_draft *f = &s->drafts[i];
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

/* ---- storing */

static kd_job_id new_id(const struct kd_submission *s, kd_job_id parent)
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

static int make_record(struct kd_submission *s, kd_job_row *row, const kd_job *spec,
                       kd_job_record **out)
{
    row->submitted_ms = kd_clock_wall_ms();
    row->text = copy_text(s->text);
    row->continued = s->continued;
    row->replayed = s->replayed;
    snprintf(row->name, sizeof row->name, "%s", spec->name);
    snprintf(row->owner, sizeof row->owner, "%s", kd_access_owner(s->call));
    snprintf(row->text_digest, sizeof row->text_digest, "%s", s->digest);
    *out = kd_job_record_new(row, spec, s->diag);
    if (*out)
        return 0;
    kd_job_row_clear(row);
    return s->diag->code ? s->diag->code : -KD_EINTERNAL;
}

static int make_records(struct kd_submission *s)
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
        struct kd_draft *f = &s->drafts[i];
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
            rc = s->verified >= 0 ? kd_submission_take_verified(s, f)
                                  : kd_submission_take_stages(s, f, s->source);
    }
    return rc;
}

/* What one record is stored with; room for its lists is the caller's to free. */
static kd_new_job new_job(const struct kd_draft *f, const char *event, kd_stage_row *stages)
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
static int store_records(kd_daemon *d, struct kd_submission *const *list, size_t n, kd_diag *diag)
{
    size_t total = 0, n_jobs = 0, n_drafts = 0;
    for (size_t i = 0; i < n; i++)
        total += list[i]->n;
    kd_new_job *jobs = kd_xalloc((total + n) * sizeof *jobs);
    kd_stage_row(*stages)[KD_MAX_STAGES] = kd_xalloc(total * sizeof *stages);
    for (size_t i = 0; i < n; i++) {
        struct kd_submission *s = list[i];
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

/* What was made on the way goes if the jobs do not come to be. */
static void undo(struct kd_submission *s)
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

/* What is stored goes to the end of the list. */
static void enlist(struct kd_submission *s)
{
    kd_info("%s job=%012llx", s->told,
            (unsigned long long)(s->parent ? s->parent : s->drafts[0].record)->row.id);
    if (s->parent)
        kd_daemon_add_job(s->d, s->parent);
    for (size_t i = 0; i < s->n; i++) {
        struct kd_draft *f = &s->drafts[i];
        for (int k = 0; k < f->record->n_stages; k++)
            if (f->takes[k] && kd_take_into(f->record, (uint32_t)k, &f->taken[k], s->diag) != 0)
                kd_daemon_fatal(s->d, s->diag);
        kd_daemon_add_job(s->d, f->record);
        s->first = s->first ? s->first : f->record;
    }
    s->parent = s->parent ? s->parent : s->first;
}

/* Tells the core. What they wait for is stored in one go; they are there already. */
static void introduce(kd_daemon *d, struct kd_submission *const *list, size_t n)
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

static void answer(struct kd_submission *s, bool existed, const char *resolved, const kd_job *spec)
{
    Distill__V1__SubmitReply reply = DISTILL__V1__SUBMIT_REPLY__INIT;
    char id[KD_ID_TEXT] = "";
    char(*ids)[KD_ID_TEXT] = kd_xalloc((KD_SWEEP_CHILDREN + 1) * sizeof *ids);
    char **children = kd_xalloc((KD_SWEEP_CHILDREN + 1) * sizeof *children);
    char *notes[KD_SUBMIT_NOTES];
    kd_core_view view = {0};
    s->n_notes += kd_job_notes(spec, s->notes + s->n_notes, KD_SUBMIT_NOTES - s->n_notes);
    for (int i = 0; i < s->n_notes; i++)
        notes[i] = s->notes[i];
    if (s->parent) {
        kd_id_text(s->parent->row.id, id);
        kd_rpc_call_set_note(s->call, id);
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
    if (s->r->dry_run && s->r->trial)
        kd_trial_begin(s->d, s->call, &reply, s->r->text[0] ? spec : NULL, s->is_sweep ? s->n : 0);
    else
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
 * will be once those before it are stored, n_own: of the caller's, those that are not over. */
static int draft(struct kd_submission *s, size_t n_jobs, size_t n_own)
{
    kd_daemon *d = s->d;
    const Distill__V1__SubmitRequest *r = s->r;
    kd_job_record *known = r->dry_run ? NULL : find_key(d, r->key);
    int rc = r->dry_run ? 0 : check_key(r->key, s->diag);
    if (rc == 0 && known &&
        (strcmp(known->row.text_digest, s->digest) != 0 ||
         strcmp(known->row.owner, kd_access_owner(s->call)) != 0))
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
        rc = s->rc;
    if (rc == 0)
        rc = kd_submission_draft(s);
    if (rc == 0 && r->dry_run) {
        if (s->is_sweep)
            kd_submission_note(s, "a sweep of %zu jobs; the first one is shown", s->n);
        answer(s, false, s->drafts[0].resolved, s->drafts[0].spec);
        return 0;
    }
    if (rc == 0 && n_jobs + s->n + 1 > MAX_JOBS)
        rc = kd_fail(s->diag, -KD_ELIMIT,
                     "%zu jobs are stored and %zu would be more than %d; remove finished ones with "
                     "`distill rm`",
                     n_jobs, s->n, MAX_JOBS);
    if (rc == 0)
        rc = kd_access_more_jobs(d->access, s->call, n_own, s->n, s->diag);
    return rc == 0 ? make_records(s) : rc;
}

static void refuse(struct kd_submission *s, const kd_diag *diag)
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

/* Jobs of the caller of s that are not over, with those that are about to be stored; of nobody's
 * where nobody has to say who he is. */
static size_t count_own(const struct kd_submission *s, struct kd_submission *const *well,
                        size_t n_well)
{
    const char *owner = kd_access_owner(s->call);
    size_t n = 0;
    for (const kd_job_record *o = kd_access_required(s->d->access) ? s->d->jobs : NULL; o;
         o = o->next)
        n += o->row.state <= KD_RUN_RUNNING && strcmp(o->row.owner, owner) == 0;
    for (size_t i = 0; i < n_well; i++)
        n += strcmp(kd_access_owner(well[i]->call), owner) == 0 ? well[i]->n : 0;
    return n;
}

/* All of them are stored, or those that can be are and the others are told why they cannot. */
static void submit_all(kd_daemon *d, struct kd_submission *const *list, size_t n)
{
    struct kd_submission **well = kd_xalloc(n * sizeof *well);
    kd_diag diag = {0};
    size_t n_jobs = d->job_ids.n, n_well = 0;
    for (size_t i = 0; i < n; i++) {
        list[i]->rc = draft(list[i], n_jobs, count_own(list[i], well, n_well));
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

static void free_submission(struct kd_submission *s)
{
    clear(s);
    kd_rpc_call_unref(s->call);
    kd_wire_free((ProtobufCMessage *)s->r);
    free(s);
}

static void loop_add(kd_daemon *d, void *arg)
{
    struct kd_submission *s = arg;
    *d->submits_end = s;
    d->submits_end = &s->next;
    s->since = kd_clock_ms();
    d->submits_waiting++;
}

void kd_submit(kd_daemon *d, kd_rpc_call *call, Distill__V1__SubmitRequest *r)
{
    struct kd_submission *s = kd_xalloc(sizeof *s);
    *s = (struct kd_submission){.d = d, .call = kd_rpc_call_ref(call), .r = r, .verified = -1};
    s->diag = &s->why;
    kd_submission_digest(r, s->digest);
    atomic_fetch_add(&d->submits_coming, 1);
    /* Texts that are read take memory. */
    if (atomic_fetch_add(&d->submits_open, 1) < MOST_READ)
        kd_submission_read(s);
    atomic_fetch_sub(&d->submits_coming, 1);
    if (kd_daemon_post(d, loop_add, s))
        return;
    kd_rpc_finish(call, -KD_EUNAVAIL, "the coordinator is stopping");
    free_submission(s);
}

static bool has_key(struct kd_submission *const *list, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i]->r->key, key) == 0)
            return true;
    return false;
}

/* Those whose texts are being read come in a moment, and one sync is for all. */
static bool enough(const kd_daemon *d)
{
    return d->submits && (d->submits_waiting >= ENOUGH || atomic_load(&d->submits_coming) == 0 ||
                          kd_clock_ms() - d->submits->since >= PATIENCE_MS);
}

void kd_submit_run(kd_daemon *d)
{
    while (enough(d)) {
        struct kd_submission *list[BATCH];
        size_t n = 0;
        /* The same key again is answered with the job that the first one makes. */
        while (d->submits && n < BATCH && !has_key(list, n, d->submits->r->key)) {
            list[n++] = d->submits;
            d->submits = d->submits->next;
        }
        if (!d->submits)
            d->submits_end = &d->submits;
        submit_all(d, list, n);
        d->submits_waiting -= n;
        atomic_fetch_sub(&d->submits_open, (int)n);
        for (size_t i = 0; i < n; i++)
            free_submission(list[i]);
    }
}

#include "sweep.h"

#include "outside.h"
#include "sweep_result.h"
#include "take.h"

#include "kd/file.h"
#include "kd/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

kd_job_record *kd_sweep_next(kd_daemon *d, const kd_job_record *sweep, kd_job_record *after)
{
    kd_job_record *j = after ? after->next : d->jobs;
    while (j && j->row.sweep != sweep->row.id)
        j = j->next;
    return j;
}

static kd_job_record *sibling(kd_daemon *d, const kd_job_record *j, kd_job_record *after)
{
    kd_job_record *o = after ? after->next : d->jobs;
    while (o && (o->row.sweep != j->row.sweep || o == j))
        o = o->next;
    return o;
}

static bool over(const kd_job_record *j)
{
    return j->row.state >= KD_RUN_SUCCEEDED;
}

/* ---- stages that children share */

static void add_train(kd_hasher *h, const kd_train_spec *t)
{
    kd_hasher_add(h, t, sizeof *t);
}

void kd_sweep_keys(kd_job_record *j)
{
    const kd_job *spec = &j->spec;
    for (int i = 0; i < j->n_stages; i++) {
        kd_stage_record *s = &j->stages[i];
        int teacher = kd_stage_teacher(s->kind);
        s->shareable = teacher >= 0 || s->kind == KD_STAGE_SCRATCH;
        if (!s->shareable)
            continue;
        kd_hasher *h = kd_hasher_new();
        KD_BUG_ON(!h);
        /* A loaded job has no stray bytes, so equal fields are equal bytes. */
        kd_hasher_add(h, &spec->data, sizeof spec->data);
        if (teacher >= 0) {
            const kd_teacher_spec *t = &spec->teachers[teacher];
            kd_hasher_add(h, "teacher", 8);
            /* Artefacts are named by the teacher's position, so another position is another stage.
             */
            kd_hasher_add(h, &teacher, sizeof teacher);
            kd_hasher_add(h, &t->model, sizeof t->model);
            kd_hasher_add(h, &t->fine_tune, sizeof t->fine_tune);
            add_train(h, &t->train);
        } else {
            kd_hasher_add(h, "scratch", 8);
            kd_hasher_add(h, &spec->student, sizeof spec->student);
            add_train(h, &spec->scratch_train);
        }
        s->share_key = kd_hasher_digest(h);
        kd_hasher_free(h);
    }
}

/* The stage of o that is the same as this one, -1 = none. */
static int same_stage(const kd_job_record *o, const kd_stage_record *s)
{
    for (int i = 0; i < o->n_stages && s->shareable; i++)
        if (o->stages[i].shareable && kd_digest_equal(&o->stages[i].share_key, &s->share_key))
            return i;
    return -1;
}

void kd_stage_hold(kd_daemon *d, const kd_job_record *j, uint32_t stage, char out[KD_CORE_HELD])
{
    const kd_stage_record *s = &j->stages[stage];
    const char *address = kd_outside_forbidden(d->outside_teachers, &j->spec);
    bool before = true; /* o stands before j */
    out[0] = '\0';
    if (s->row.done || s->kind == KD_STAGE_EXPORT)
        return;
    if (address) {
        snprintf(out, KD_CORE_HELD, "its teacher %.40s is none that outside_teachers permits",
                 address);
        return;
    }
    if (!j->row.sweep)
        return;
    for (const kd_job_record *o = d->jobs; o; o = o->next) {
        before = before && o != j;
        int same = o->row.sweep == j->row.sweep && o != j ? same_stage(o, s) : -1;
        if (same >= 0 && o->stages[same].row.done) {
            out[0] = '\0'; /* it could not be taken over */
            return;
        }
        if (same >= 0 && before && !over(o) && !out[0])
            snprintf(out, KD_CORE_HELD, "waits for the %s of job %012llx",
                     s->kind == KD_STAGE_SCRATCH ? "scratch twin" : kd_stage_name(s->kind),
                     (unsigned long long)o->row.id);
    }
}

/* Stores that `to` has the stage as `from` made it. */
static int take_over(kd_daemon *d, const kd_job_record *from, uint32_t from_stage,
                     kd_job_record *to, uint32_t to_stage)
{
    kd_taken taken;
    kd_diag diag = {0};
    char id[KD_ID_TEXT];
    int rc = kd_take_stage(d, from, from_stage, KD_TAKE_DONE, to->row.id, to_stage, &taken, &diag);
    if (rc != 0) {
        kd_watch_event(d, to, "warning", "", NULL, "stage %s is made again: %s",
                       to->stages[to_stage].row.name, diag.msg);
        return rc;
    }
    kd_id_text(taken.row.shared, id);
    if (kd_state_take_stage(&d->state, to->row.id, to_stage, &taken.row, taken.epochs,
                            taken.n_epochs, taken.files, taken.n_files, &diag) != 0 ||
        kd_take_into(to, to_stage, &taken, &diag) != 0)
        kd_daemon_fatal(d, &diag);
    kd_watch_event(d, to, "stage", "", NULL, "stage %s taken over from job %s: digest %s",
                   to->stages[to_stage].row.name, id, to->stages[to_stage].row.digest);
    return 0;
}

/* Not done, and nothing of it made by the job itself. */
static bool wants(const kd_job_record *j, int stage)
{
    const kd_stage_record *s = &j->stages[stage];
    return !over(j) && !s->row.done && !s->info && s->row.manifest <= 1;
}

/* Tells the core whom the stage waits for now, if for anybody. */
static void hold(kd_daemon *d, const kd_job_record *j, uint32_t stage)
{
    char text[KD_CORE_HELD];
    kd_stage_hold(d, j, stage, text);
    kd_daemon_event(
        d, &(kd_event){.kind = KD_EV_HOLD, .job = j->row.id, .stage = stage, .text = text});
}

void kd_sweep_stage_done(kd_daemon *d, kd_job_record *j, uint32_t stage)
{
    if (!j->row.sweep || !j->stages[stage].row.done)
        return;
    for (kd_job_record *o = NULL; (o = sibling(d, j, o));) {
        int same = same_stage(o, &j->stages[stage]);
        /* One that could not take it over from another makes it itself, though nothing shows yet.
         */
        if (same < 0 || !wants(o, same) || kd_core_stage_begun(d->core, o->row.id, (uint32_t)same))
            continue;
        if (take_over(d, j, stage, o, (uint32_t)same) != 0)
            hold(d, o, (uint32_t)same); /* it may make the stage itself */
        else
            kd_daemon_event(
                d, &(kd_event){.kind = KD_EV_TAKEN, .job = o->row.id, .stage = (uint32_t)same});
    }
}

/* Tells those who waited for a job that is over whom they wait for now, if for anybody. */
static void hold_again(kd_daemon *d, const kd_job_record *gone)
{
    for (kd_job_record *o = NULL; (o = sibling(d, gone, o));) {
        if (over(o))
            continue;
        for (int i = 0; i < gone->n_stages; i++) {
            int same = gone->stages[i].row.done ? -1 : same_stage(o, &gone->stages[i]);
            if (same < 0 || !wants(o, same))
                continue;
            hold(d, o, (uint32_t)same);
        }
    }
}

/* ---- the sweep's own state */

struct count {
    size_t n, over, failed, cancelled, begun;
    int64_t started_ms;
};

static struct count count_children(kd_daemon *d, const kd_job_record *sweep)
{
    struct count c = {0};
    for (kd_job_record *j = NULL; (j = kd_sweep_next(d, sweep, j));) {
        c.n++;
        c.over += over(j);
        c.failed += j->row.state == KD_RUN_FAILED;
        c.cancelled += j->row.state == KD_RUN_CANCELLED;
        c.begun += j->row.started_ms != 0;
        if (j->row.started_ms && (!c.started_ms || j->row.started_ms < c.started_ms))
            c.started_ms = j->row.started_ms;
    }
    return c;
}

static const char *state_word(int state)
{
    static const char *const words[] = {"queued", "running", "succeeded", "failed", "cancelled"};
    return words[state];
}

static int write_result(kd_daemon *d, kd_job_record *sweep, size_t n, kd_diag *diag)
{
    char id[KD_ID_TEXT], path[4096], *text = NULL;
    kd_child_result *rows = kd_xalloc((n + 1) * sizeof *rows);
    char(*ids)[KD_ID_TEXT] = kd_xalloc((n + 1) * sizeof *ids);
    size_t i = 0;
    for (kd_job_record *j = NULL; i < n && (j = kd_sweep_next(d, sweep, j)); i++) {
        kd_id_text(j->row.id, ids[i]);
        rows[i] = (kd_child_result){.job = ids[i],
                                    .label = j->row.label ? j->row.label : "",
                                    .values = j->row.values,
                                    .state = state_word(j->row.state),
                                    .result = j->row.result,
                                    .seed = j->spec.seed};
    }
    kd_id_text(sweep->row.id, id);
    snprintf(path, sizeof path, "%.3500s/jobs/%s", d->state.dir, id);
    int rc = kd_sweep_result(id, sweep->row.name, rows, i, &text, diag);
    if (rc == 0)
        rc = kd_file_mkdirs(path, diag);
    if (rc == 0)
        rc = kd_artefact_write(d, sweep, 0, "result.json", text, strlen(text), diag);
    if (rc == 0) {
        free(sweep->row.result);
        sweep->row.result = text;
        text = NULL;
    }
    free(text);
    free(ids);
    free(rows);
    return rc;
}

static void update(kd_daemon *d, kd_job_record *sweep)
{
    struct count c = count_children(d, sweep);
    kd_diag diag = {0};
    char reason[KD_CORE_TEXT] = "";
    int state = c.over < c.n  ? (c.begun ? KD_RUN_RUNNING : KD_RUN_QUEUED)
                : c.failed    ? KD_RUN_FAILED
                : c.cancelled ? KD_RUN_CANCELLED
                              : KD_RUN_SUCCEEDED;
    if (c.failed)
        snprintf(reason, sizeof reason, "%zu of %zu jobs failed", c.failed, c.n);
    else if (c.cancelled)
        snprintf(reason, sizeof reason, "%zu of %zu jobs were cancelled", c.cancelled, c.n);
    if (state == sweep->row.state && strcmp(reason, sweep->row.reason) == 0)
        return;
    bool ended = state >= KD_RUN_SUCCEEDED;
    bool begins = state == KD_RUN_RUNNING && sweep->row.state == KD_RUN_QUEUED;
    if (ended && write_result(d, sweep, c.n, &diag) != 0) {
        state = KD_RUN_FAILED;
        snprintf(reason, sizeof reason, "the result could not be written: %.300s", diag.msg);
    }
    sweep->row.state = state;
    snprintf(sweep->row.reason, sizeof sweep->row.reason, "%s", reason);
    sweep->row.started_ms = c.started_ms;
    sweep->row.finished_ms = ended ? kd_clock_wall_ms() : 0;
    if (kd_state_set_job(&d->state, sweep->row.id, state, reason, sweep->row.started_ms,
                         sweep->row.finished_ms, sweep->row.result, &diag) != 0)
        kd_daemon_fatal(d, &diag);
    if (begins)
        kd_watch_event(d, sweep, "started", "", NULL, "started");
    if (ended)
        kd_watch_event(d, sweep, "finished", "", NULL, "sweep %s%s%s", state_word(state),
                       reason[0] ? ": " : "", reason);
}

void kd_sweep_changed(kd_daemon *d, kd_job_record *j)
{
    kd_job_record *sweep = j->row.sweep ? kd_daemon_job(d, j->row.sweep) : NULL;
    if (!sweep)
        return;
    if (over(j)) {
        struct count c = count_children(d, sweep);
        kd_watch_event(d, sweep, "log", "", NULL, "job %012llx %s, %zu of %zu are over: %s",
                       (unsigned long long)j->row.id, state_word(j->row.state), c.over, c.n,
                       j->row.label ? j->row.label : "");
        hold_again(d, j);
    }
    update(d, sweep);
}

void kd_sweep_restore(kd_daemon *d)
{
    for (kd_job_record *j = d->jobs; j; j = j->next)
        for (int i = 0; i < j->n_stages && j->row.sweep; i++) {
            kd_job_record *o = NULL;
            while (wants(j, i) && (o = sibling(d, j, o))) {
                int same = same_stage(o, &j->stages[i]);
                if (same >= 0 && o->stages[same].row.done)
                    (void)take_over(d, o, (uint32_t)same, j, (uint32_t)i);
            }
        }
    for (kd_job_record *j = d->jobs; j; j = j->next)
        if (j->row.is_sweep && !over(j))
            update(d, j);
}

void kd_sweep_cancel(kd_daemon *d, kd_job_record *sweep, const char *why)
{
    kd_diag diag = {0};
    size_t n = 0, i = 0;
    for (kd_job_record *j = NULL; (j = kd_sweep_next(d, sweep, j));)
        n++;
    kd_job_id *ids = kd_xalloc((n + 1) * sizeof *ids);
    for (kd_job_record *j = NULL; (j = kd_sweep_next(d, sweep, j));)
        ids[i++] = j->row.id;
    if (kd_state_begin(&d->state, &diag) != 0)
        kd_daemon_fatal(d, &diag);
    /* The last first, so that none of them starts on workers that another has given up. */
    while (i-- > 0)
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_CANCEL, .job = ids[i], .text = why});
    if (kd_state_commit(&d->state, &diag) != 0)
        kd_daemon_fatal(d, &diag);
    free(ids);
}

/* The coordinator's records of jobs and workers: found, added, made of stored rows, told to the
 * core. */
#include "daemon.h"
#include "sweep.h"

#include "kd/log.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

bool kd_id_parse(const char *text, kd_job_id *out)
{
    if (strlen(text) != KD_ID_TEXT - 1)
        return false;
    for (const char *p = text; *p; p++)
        if (!isxdigit((unsigned char)*p))
            return false;
    *out = strtoull(text, NULL, 16);
    return *out != 0;
}

kd_job_record *kd_daemon_job(kd_daemon *d, kd_job_id id)
{
    return kd_ids_find(&d->job_ids, id);
}

void kd_daemon_add_job(kd_daemon *d, kd_job_record *j)
{
    if (d->last_job)
        d->last_job->next = j;
    else
        d->jobs = j;
    d->last_job = j;
    d->jobs_in[j->row.state] += !j->row.is_sweep;
    kd_ids_add(&d->job_ids, j->row.id, j);
}

void kd_daemon_set_job_state(kd_daemon *d, kd_job_record *j, enum kd_run_state state)
{
    d->jobs_in[j->row.state] -= !j->row.is_sweep;
    j->row.state = (int)state;
    d->jobs_in[j->row.state] += !j->row.is_sweep;
}

void kd_daemon_take_job(kd_daemon *d, kd_job_record *j)
{
    kd_job_record **at = &d->jobs, *before = NULL;
    while (*at != j) {
        before = *at;
        at = &before->next;
    }
    *at = j->next;
    if (d->last_job == j)
        d->last_job = before;
    j->next = NULL;
    d->jobs_in[j->row.state] -= !j->row.is_sweep;
    kd_ids_remove(&d->job_ids, j->row.id);
}

kd_worker_record *kd_daemon_worker(kd_daemon *d, kd_member_id id)
{
    kd_worker_record *w = d->workers;
    while (w && w->id != id)
        w = w->next;
    return w;
}

kd_job_record *kd_job_record_new(kd_job_row *row, const kd_job *spec, kd_diag *diag)
{
    kd_job_record *j = kd_xalloc(sizeof *j);
    int rc = 0;
    if (spec)
        j->spec = *spec;
    else
        rc = kd_job_load(row->resolved, strlen(row->resolved), "resolved job", NULL, 0, &j->spec,
                         diag);
    if (rc != 0) {
        free(j);
        return NULL;
    }
    j->row = *row;
    *row = (kd_job_row){0};
    enum kd_stage_kind kinds[KD_MAX_STAGES];
    j->n_stages = j->row.is_sweep ? 0 : kd_job_stages(&j->spec, kinds);
    for (int i = 0; i < j->n_stages; i++) {
        j->stages[i].kind = kinds[i];
        j->stages[i].row.manifest = 1;
        snprintf(j->stages[i].row.name, sizeof j->stages[i].row.name, "%s",
                 kd_stage_name(kinds[i]));
    }
    if (j->row.sweep)
        kd_sweep_keys(j);
    j->phase = "preparing";
    j->planned = j->row.state == KD_RUN_QUEUED;
    return j;
}

void kd_job_record_free(kd_job_record *j)
{
    if (!j)
        return;
    for (int i = 0; i < j->n_stages; i++) {
        kd_wire_free((ProtobufCMessage *)j->stages[i].info);
        kd_stage_row_clear(&j->stages[i].row);
        free(j->stages[i].trained);
        free(j->stages[i].meter);
    }
    kd_job_row_clear(&j->row);
    free(j->epochs);
    free(j);
}

uint32_t kd_job_min_workers(const kd_job_record *j)
{
    return j->row.min_workers ? j->row.min_workers : (uint32_t)j->spec.min_workers;
}

uint32_t kd_job_max_workers(const kd_job_record *j)
{
    return j->row.max_workers ? j->row.max_workers : (uint32_t)j->spec.max_workers;
}

_Static_assert(KD_MAX_STAGES <= KD_CORE_STAGES, "the core has room for every stage of a job");

void kd_daemon_introduce(kd_daemon *d, kd_job_record *j, bool more)
{
    kd_core_job_setup setup = {.id = j->row.id,
                               .min_workers = kd_job_min_workers(j),
                               .max_workers = kd_job_max_workers(j),
                               .priority = j->spec.priority,
                               .audit = j->spec.audit,
                               .n_stages = (uint32_t)j->n_stages,
                               .started = j->row.state == KD_RUN_RUNNING,
                               .paused = j->row.paused};
    for (int i = 0; i < j->n_stages; i++) {
        kd_stage_record *s = &j->stages[i];
        kd_core_stage_setup *c = &setup.stages[i];
        c->kind = s->kind == KD_STAGE_EXPORT     ? KD_CORE_EXPORT
                  : s->kind == KD_STAGE_EVALUATE ? KD_CORE_MEASURE
                                                 : KD_CORE_TRAIN;
        c->done = s->row.done;
        c->manifest = s->row.manifest;
        c->evaluated = s->row.evaluated;
        c->has_info = s->info != NULL;
        if (s->info)
            kd_stage_core_info(j, s, &c->info);
        kd_stage_hold(d, j, (uint32_t)i, c->held);
    }
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_SUBMIT, .setup = &setup, .more = more});
}

/* ---- what is stored */

static char *copy_text(const char *text)
{
    return text ? kd_xstrdup(text) : NULL;
}

static int restore_job(void *arg, const kd_job_row *row, const kd_stage_row *stages, int n_stages,
                       const kd_epoch_row *epochs, int n_epochs)
{
    kd_daemon *d = arg;
    kd_diag diag = {0};
    kd_job_row mine = *row;
    mine.resolved = kd_xstrdup(row->resolved);
    mine.result = copy_text(row->result);
    mine.text = copy_text(row->text);
    mine.label = copy_text(row->label);
    mine.values = copy_text(row->values);
    kd_job_record *j = kd_job_record_new(&mine, NULL, &diag);
    if (!j || j->n_stages != n_stages) {
        kd_err("a stored job cannot be read and is left alone: job=%012llx %s",
               (unsigned long long)row->id, diag.msg);
        kd_job_record_free(j);
        kd_job_row_clear(&mine);
        return 0;
    }
    bool trained = true;
    for (int i = 0; i < n_stages; i++)
        trained = trained && (stages[i].done || !kd_job_train(&j->spec, j->stages[i].kind));
    for (int i = 0; i < n_stages; i++) {
        kd_stage_record *s = &j->stages[i];
        s->row = stages[i];
        s->row.info = s->row.expected = NULL;
        s->row.info_len = s->row.expected_len = 0;
        if (stages[i].expected_len) {
            s->row.expected = kd_xalloc(stages[i].expected_len);
            memcpy(s->row.expected, stages[i].expected, stages[i].expected_len);
            s->row.expected_len = stages[i].expected_len;
        }
        /* Measured costs are kept in memory until the export that follows at once, and the result
         * until the job's end. Where they are done before what is trained they are not wanted. */
        if ((s->kind == KD_STAGE_EVALUATE || s->kind == KD_STAGE_EXPORT) &&
            row->state <= KD_RUN_RUNNING && trained)
            s->row.done = false;
        if (stages[i].info_len &&
            kd_stage_set_info(s, stages[i].info, stages[i].info_len, &diag) != 0)
            kd_warn("stored stage information is unreadable: %s", diag.msg);
    }
    if (n_epochs) {
        j->epochs = kd_xalloc((size_t)n_epochs * sizeof *j->epochs);
        memcpy(j->epochs, epochs, (size_t)n_epochs * sizeof *j->epochs);
        j->n_epochs = n_epochs;
    }
    for (int i = 0; i < j->n_epochs; i++) {
        /* Stored before evaluations had a step. */
        kd_epoch_row *e = &j->epochs[i];
        const kd_stage_record *s = e->stage < (uint32_t)n_stages ? &j->stages[e->stage] : NULL;
        if (e->epoch > 0 && e->step == 0 && s && s->info)
            e->step = e->epoch * kd_stage_epoch_steps(s->info);
    }
    /* A row whose stage does not know of it, as after going back, is made again. */
    for (int i = 0; i < n_stages; i++)
        if (!j->stages[i].row.done)
            kd_stage_forget_evaluations(j, (uint32_t)i, j->stages[i].row.evaluated);
    kd_daemon_add_job(d, j);
    return 0;
}

int kd_daemon_restore(kd_daemon *d, kd_diag *diag)
{
    return kd_state_each_job(&d->state, restore_job, d, diag);
}

/* What a job leaves to a measurement, `teacher.precision: auto`, and what an outside teacher's
 * answers are known by, `teacher.probe`: one worker at a time is asked to measure, the first answer
 * is written into the resolved job, and everybody goes by that: the job's other workers, its later
 * stages and runs after a crash, and jobs that replay or continue it. */
#include "daemon.h"

#include "kd/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEASURE_MS (5 * 60 * 1000) /* then another worker may try */

static kd_worker_record *worker_of(kd_daemon *d, uint64_t process)
{
    kd_worker_record *w = d->workers;
    while (w && (!w->joined || w->process != process))
        w = w->next;
    return w;
}

/* What a teacher goes by; "" = nobody has chosen. */
static const char *choice_of(const kd_teacher_spec *t)
{
    if (kd_teacher_is_outside(t))
        return t->probe;
    return t->precision == KD_PRECISION_AUTO ? "" : kd_precision_name(t->precision);
}

static int put_choice(kd_teacher_spec *t, const char *value, kd_diag *diag)
{
    kd_digest probe;
    if (kd_teacher_is_outside(t)) {
        if (!kd_digest_parse(value, &probe))
            return kd_fail(diag, -KD_EINVAL, "a probe is known by 32 hex digits");
        snprintf(t->probe, sizeof t->probe, "%s", value);
        return 0;
    }
    const enum kd_precision chosen = kd_precision_of(value);
    if (chosen == KD_PRECISION_AUTO)
        return kd_fail(diag, -KD_EINVAL, "a teacher's precision is float32, bfloat16 or int8");
    t->precision = chosen;
    return 0;
}

/* Keeps the choice: the job's text and what people read of it, both or neither. */
static int settle(kd_daemon *d, kd_job_record *j, uint32_t teacher, const char *value,
                  const char *worker, const char *why, kd_diag *diag)
{
    kd_job *spec = malloc(sizeof *spec);
    char *text = NULL;
    if (!spec)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the job's choice");
    *spec = j->spec;
    int rc = put_choice(&spec->teachers[teacher], value, diag);
    if (rc == 0)
        rc = kd_job_resolved(spec, &text, diag);
    free(spec);
    if (rc != 0)
        return rc;
    kd_diag broken = {0};
    if (kd_state_begin(&d->state, &broken) != 0 ||
        kd_state_set_resolved(&d->state, j->row.id, text, &broken) != 0)
        kd_daemon_fatal(d, &broken);
    free(j->row.resolved);
    j->row.resolved = text;
    KD_BUG_ON(put_choice(&j->spec.teachers[teacher], value, NULL) != 0); /* as before */
    const char *name = kd_stage_name((enum kd_stage_kind)((int)KD_STAGE_TEACHER + (int)teacher));
    if (kd_teacher_is_outside(&j->spec.teachers[teacher]))
        kd_watch_event(d, j, "choice", worker, NULL, "%s is %s: its probe is %s", name, why, value);
    else
        kd_watch_event(d, j, "choice", worker, NULL, "%s labels in %s: %s", name, value, why);
    if (kd_state_commit(&d->state, &broken) != 0)
        kd_daemon_fatal(d, &broken);
    kd_watch_fed(d, j);
    return 0;
}

int kd_choice_make(kd_daemon *d, const Distill__V1__Choice *m, Distill__V1__ChoiceReply *reply,
                   kd_diag *diag)
{
    kd_job_id id;
    kd_job_record *j = kd_id_parse(m->job, &id) ? kd_daemon_job(d, id) : NULL;
    if (!j || j->row.state >= KD_RUN_SUCCEEDED || m->teacher >= (uint32_t)j->spec.n_teachers)
        return kd_fail(diag, -KD_ENOENT, "there is no such choice to make");
    const char *has = choice_of(&j->spec.teachers[m->teacher]);
    if (has[0]) {
        reply->value = (char *)has;
        return 0;
    }
    kd_worker_record *w = worker_of(d, m->process);
    if (!w)
        return kd_fail(diag, -KD_EUNAVAIL, "the worker that chooses has no control stream now");
    if (m->value[0]) {
        const int rc = settle(d, j, m->teacher, m->value, w->name, m->why, diag);
        if (rc == 0)
            reply->value = (char *)choice_of(&j->spec.teachers[m->teacher]);
        return rc;
    }
    const kd_time_ms now = kd_clock_ms();
    const uint64_t busy = j->choosing[m->teacher].process;
    if (!busy || busy == m->process || now >= j->choosing[m->teacher].until ||
        !worker_of(d, busy)) {
        j->choosing[m->teacher].process = m->process;
        j->choosing[m->teacher].until = now + MEASURE_MS;
        reply->measure = true;
    }
    return 0;
}

#include "json/json.h"

#include "kd/clock.h"
#include "kd/stats.h"

#include <math.h>

const char *kd_state_word(Distill__V1__JobState state)
{
    switch ((int)state) {
    case DISTILL__V1__JOB_STATE__JOB_STATE_QUEUED:
        return "queued";
    case DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING:
        return "running";
    case DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED:
        return "succeeded";
    case DISTILL__V1__JOB_STATE__JOB_STATE_FAILED:
        return "failed";
    case DISTILL__V1__JOB_STATE__JOB_STATE_CANCELLED:
        return "cancelled";
    default:
        return "unknown";
    }
}

bool kd_epoch_taught(const Distill__V1__EpochRecord *e)
{
    return e->val_samples > 0 && e->val_kl >= 0 && e->val_agree <= e->val_samples &&
           (e->val_kl > 0 || e->val_agree > 0);
}

json_t *kd_json_text(const char *s)
{
    json_t *v = json_string(s ? s : "");
    return v ? v : json_string("?");
}

/* null: there is none. */
static json_t *named(const char *s)
{
    return s[0] ? kd_json_text(s) : json_null();
}

json_t *kd_json_time(int64_t ms)
{
    char t[KD_CLOCK_ISO];
    return ms > 0 ? json_string(kd_clock_iso(ms, t)) : json_null();
}

json_t *kd_json_parse(const char *text)
{
    if (!text || !*text)
        return json_null();
    json_t *v = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    return v ? v : json_null();
}

static json_t *number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *whole(uint64_t v)
{
    return v <= INT64_MAX ? json_integer((json_int_t)v) : json_real((double)v);
}

/* Negative = not known. */
static json_t *known(double v)
{
    return v >= 0 ? number(v) : json_null();
}

static void set(json_t *o, const char *key, json_t *v)
{
    /* A missing value, which only lack of memory makes, leaves its key out. */
    (void)json_object_set_new(o, key, v);
}

static json_t *progress(const Distill__V1__Progress *p)
{
    if (!p)
        return json_null();
    json_t *o = json_object();
    set(o, "stage", kd_json_text(p->stage));
    set(o, "stage_index", whole(p->stage_index));
    set(o, "stage_count", whole(p->stage_count));
    set(o, "step", whole(p->step));
    set(o, "steps", whole(p->steps));
    set(o, "epoch", whole(p->epoch));
    set(o, "epochs", whole(p->epochs));
    set(o, "loss", number(p->loss));
    set(o, "accuracy", known(p->accuracy));
    set(o, "samples_per_second", number(p->samples_per_second));
    set(o, "eta_seconds", known(p->eta_seconds));
    set(o, "workers", whole(p->workers));
    set(o, "phase", kd_json_text(p->phase));
    set(o, "learning_rate", p->learning_rate > 0 ? number(p->learning_rate) : json_null());
    return o;
}

json_t *kd_json_summary(const Distill__V1__JobSummary *s)
{
    json_t *o = json_object();
    set(o, "job", kd_json_text(s->job));
    set(o, "name", kd_json_text(s->name));
    set(o, "state", json_string(kd_state_word(s->state)));
    set(o, "reason", kd_json_text(s->reason));
    set(o, "submitted", kd_json_time(s->submitted_ms));
    set(o, "started", kd_json_time(s->started_ms));
    set(o, "finished", kd_json_time(s->finished_ms));
    set(o, "progress", progress(s->progress));
    set(o, "paused", json_boolean(s->paused));
    set(o, "priority", json_integer(s->priority));
    set(o, "min_workers", whole(s->min_workers));
    set(o, "max_workers", whole(s->max_workers));
    set(o, "owner", named(s->owner));
    set(o, "sweep", named(s->sweep));
    set(o, "label", named(s->label));
    /* What only sweeps have stands in theirs alone. */
    if (s->children > 0) {
        set(o, "children", whole(s->children));
        set(o, "children_over", whole(s->children_over));
    }
    return o;
}

static json_t *interval(uint64_t correct, uint64_t samples)
{
    double lo, hi;
    kd_wilson(correct, samples, &lo, &hi);
    json_t *a = json_array();
    (void)json_array_append_new(a, json_real(lo));
    (void)json_array_append_new(a, json_real(hi));
    return a;
}

static json_t *numbers(const double *v, size_t n)
{
    json_t *a = json_array();
    for (size_t i = 0; i < n; i++)
        (void)json_array_append_new(a, number(v[i]));
    return a;
}

static json_t *texts(char *const *v, size_t n)
{
    json_t *a = json_array();
    for (size_t i = 0; i < n; i++)
        (void)json_array_append_new(a, kd_json_text(v[i]));
    return a;
}

static json_t *stage(const Distill__V1__StageRecord *s)
{
    json_t *o = json_object(), *epochs = json_array();
    for (size_t i = 0; i < s->n_epochs; i++) {
        const Distill__V1__EpochRecord *e = s->epochs[i];
        json_t *row = json_object();
        set(row, "epoch", whole(e->epoch));
        set(row, "train_loss", e->epoch ? number(e->train_loss) : json_null());
        set(row, "train_accuracy", e->epoch ? known(e->train_accuracy) : json_null());
        set(row, "val_loss", e->val_samples ? number(e->val_loss) : json_null());
        set(row, "val_correct", whole(e->val_correct));
        set(row, "val_samples", whole(e->val_samples));
        set(row, "val_accuracy",
            e->val_samples ? number((double)e->val_correct / e->val_samples) : json_null());
        set(row, "val_interval",
            e->val_samples ? interval(e->val_correct, e->val_samples) : json_null());
        bool taught = kd_epoch_taught(e);
        set(row, "step", whole(e->step));
        set(row, "val_agree", taught ? whole(e->val_agree) : json_null());
        set(row, "val_kl", taught ? number(e->val_kl) : json_null());
        set(row, "shares", numbers(e->shares, e->n_shares));
        set(row, "term_losses", numbers(e->term_losses, e->n_term_losses));
        set(row, "learning_rate", e->learning_rate > 0 ? number(e->learning_rate) : json_null());
        set(row, "best", json_boolean(e->best));
        (void)json_array_append_new(epochs, row);
    }
    set(o, "name", kd_json_text(s->name));
    set(o, "state", kd_json_text(s->state));
    set(o, "digest", kd_json_text(s->digest));
    set(o, "fingerprint", kd_json_text(s->fingerprint));
    set(o, "parameters", whole(s->parameters));
    set(o, "steps", whole(s->steps));
    set(o, "committed", whole(s->committed));
    set(o, "seconds", number(s->seconds));
    set(o, "teacher_forwards", whole(s->teacher_forwards));
    set(o, "bank_hits", whole(s->bank_hits));
    set(o, "teacher_seconds", number(s->teacher_seconds));
    set(o, "best_digest", kd_json_text(s->best_digest));
    set(o, "best_epoch", whole(s->best_epoch));
    set(o, "shared", s->shared[0] ? kd_json_text(s->shared) : json_null());
    set(o, "stopped_early", s->stopped_early ? whole(s->stopped_early) : json_null());
    set(o, "steps_redone", whole(s->steps_redone));
    set(o, "lost_ms_worker_faults", number(s->lost_ms_worker_faults));
    set(o, "lost_ms_all", number(s->lost_ms_all));
    set(o, "terms", texts(s->terms, s->n_terms));
    set(o, "epochs", epochs);
    return o;
}

json_t *kd_json_detail(const Distill__V1__JobDetail *d)
{
    json_t *o = kd_json_summary(d->summary), *stages = json_array(), *artefacts = json_array();
    for (size_t i = 0; i < d->n_stages; i++)
        (void)json_array_append_new(stages, stage(d->stages[i]));
    for (size_t i = 0; i < d->n_artefacts; i++) {
        json_t *a = json_object();
        set(a, "name", kd_json_text(d->artefacts[i]->name));
        set(a, "size", whole(d->artefacts[i]->size));
        set(a, "digest", kd_json_text(d->artefacts[i]->digest));
        (void)json_array_append_new(artefacts, a);
    }
    set(o, "stages", stages);
    set(o, "artefacts", artefacts);
    set(o, "resolved", kd_json_parse(d->resolved));
    set(o, "result", kd_json_parse(d->result));
    set(o, "continued", d->continued[0] ? kd_json_text(d->continued) : json_null());
    set(o, "replayed", d->replayed[0] ? kd_json_text(d->replayed) : json_null());
    set(o, "slow", texts(d->slow, d->n_slow));
    set(o, "quarantined", texts(d->quarantined, d->n_quarantined));
    if (d->n_jobs > 0) {
        json_t *jobs = json_array();
        for (size_t i = 0; i < d->n_jobs; i++)
            (void)json_array_append_new(jobs, kd_json_summary(d->jobs[i]));
        set(o, "jobs", jobs);
    }
    return o;
}

json_t *kd_json_event(const char *job, const Distill__V1__Event *e)
{
    json_t *o = json_object();
    set(o, "job", kd_json_text(job));
    set(o, "seq", e->seq ? whole(e->seq) : json_null());
    set(o, "time", kd_json_time(e->time_ms));
    set(o, "kind", kd_json_text(e->kind));
    set(o, "text", kd_json_text(e->text));
    set(o, "worker", kd_json_text(e->worker));
    set(o, "state", json_string(kd_state_word(e->state)));
    if (e->progress)
        set(o, "progress", progress(e->progress));
    set(o, "data", kd_json_parse(e->data));
    return o;
}

json_t *kd_json_worker(const Distill__V1__WorkerInfo *w)
{
    json_t *o = json_object();
    set(o, "name", kd_json_text(w->name));
    set(o, "address", kd_json_text(w->address));
    set(o, "state", kd_json_text(w->state));
    set(o, "job", kd_json_text(w->job));
    set(o, "threads", whole(w->threads));
    set(o, "cpu", kd_json_text(w->cpu));
    set(o, "blas", kd_json_text(w->blas));
    set(o, "isa", kd_json_text(w->isa));
    set(o, "numerics", kd_json_text(w->numerics));
    set(o, "seen", kd_json_time(w->seen_ms));
    set(o, "units_per_second", number(w->units_per_second));
    set(o, "version", kd_json_text(w->version));
    set(o, "slow", whole(w->slow));
    set(o, "resident_bytes", w->resident_bytes ? whole(w->resident_bytes) : json_null());
    set(o, "descriptors", w->descriptors ? whole(w->descriptors) : json_null());
    return o;
}

static json_t *counts(const Distill__V1__JobCounts *c)
{
    if (!c)
        return json_null();
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "queued", (json_int_t)c->queued, "running",
                     (json_int_t)c->running, "succeeded", (json_int_t)c->succeeded, "failed",
                     (json_int_t)c->failed, "cancelled", (json_int_t)c->cancelled);
}

static json_t *stage_estimate(const Distill__V1__StageEstimate *e)
{
    const bool tried = !e->problem[0];
    json_t *o = json_object();
    set(o, "stage", kd_json_text(e->stage));
    set(o, "problem", kd_json_text(e->problem));
    set(o, "note", kd_json_text(e->note));
    set(o, "samples", whole(e->samples));
    set(o, "epochs", whole(e->epochs));
    set(o, "steps", whole(e->steps));
    set(o, "teacher_views", whole(e->teacher_views));
    set(o, "seconds", tried ? number(e->seconds) : json_null());
    set(o, "memory_bytes", e->memory_bytes ? whole(e->memory_bytes) : json_null());
    return o;
}

json_t *kd_json_estimate(const Distill__V1__Estimate *e)
{
    const bool tried = !e->why[0] && !e->problem[0];
    json_t *o = json_object(), *stages = json_array();
    for (size_t i = 0; i < e->n_stages; i++)
        (void)json_array_append_new(stages, stage_estimate(e->stages[i]));
    set(o, "why", kd_json_text(e->why));
    set(o, "worker", kd_json_text(e->worker));
    set(o, "problem", kd_json_text(e->problem));
    set(o, "workers", whole(e->workers));
    set(o, "threads", whole(e->threads));
    set(o, "connected", whole(e->connected));
    set(o, "jobs", whole(e->jobs));
    set(o, "seconds", tried ? number(e->seconds) : json_null());
    set(o, "memory_bytes", e->memory_bytes ? whole(e->memory_bytes) : json_null());
    set(o, "stages", stages);
    return o;
}

json_t *kd_json_info(const Distill__V1__InfoReply *info)
{
    json_t *o = json_object();
    set(o, "version", kd_json_text(info->version));
    set(o, "protocol", whole(info->protocol));
    set(o, "epoch", whole(info->epoch));
    set(o, "started", kd_json_time(info->started_ms));
    set(o, "state_dir", kd_json_text(info->state_dir));
    set(o, "free_bytes",
        info->free_bytes < 0 ? json_null() : json_integer((json_int_t)info->free_bytes));
    set(o, "min_free_bytes", whole(info->min_free_bytes));
    set(o, "bank",
        json_pack("{s:o, s:o, s:o}", "banks", whole(info->banks), "records",
                  whole(info->bank_records), "bytes", whole(info->bank_bytes)));
    set(o, "jobs", counts(info->jobs));
    return o;
}

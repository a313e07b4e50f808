/* Metrics of jobs and their stages.
 *
 * They have series while they run and KEPT_MS after they ended, so that the last values are
 * scraped; at most SHOWN of them, so that there is a bound on series. A job's name stands in
 * distill_job_info alone. */
#include "daemon.h"
#include "metrics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define SHOWN 256
#define KEPT_MS (10 * 60 * 1000)
#define G KD_METRIC_GAUGE
#define C KD_METRIC_COUNTER

/* A stage with steps in this process. */
struct shown {
    const kd_job_record *j;
    const kd_stage_record *s;
    const kd_meter *m;
    const kd_epoch_row *e; /* newest evaluation, NULL = none */
    kd_time_ms now;
    char labels[64];
};

struct metric {
    const char *name, *type, *help;
    const char *label; /* further one, "" = none */
    double (*of)(const struct shown *s, int k);
    int k;
};

static double step_of(const struct shown *s, int k)
{
    (void)k;
    return s->s->version ? (double)(s->s->version - 1) : 0;
}

static double last_step_of(const struct shown *s, int k)
{
    (void)k;
    return (double)(kd_stage_last_version(s->s) - 1);
}

static double steps_of(const struct shown *s, int k)
{
    (void)k;
    return (double)s->m->steps;
}

static double samples_of(const struct shown *s, int k)
{
    (void)k;
    return s->m->samples;
}

static double rate_of(const struct shown *s, int k)
{
    (void)k;
    return s->s->exchange ? s->s->rate : 0;
}

static double loss_of(const struct shown *s, int k)
{
    return k == 0 ? s->s->last_loss : !s->e ? NAN : k == 1 ? s->e->train_loss : s->e->val_loss;
}

static double accuracy_of(const struct shown *s, int k)
{
    if (k == 0)
        return s->s->sums.samples > 0 ? s->s->sums.correct / s->s->sums.samples : NAN;
    if (!s->e || s->e->val_samples == 0)
        return NAN;
    return (double)(k == 1 ? s->e->val_correct : s->e->val_agree) / s->e->val_samples;
}

static double learning_rate_of(const struct shown *s, int k)
{
    (void)k;
    return s->e ? s->e->learning_rate : NAN;
}

static double phase_of(const struct shown *s, int k)
{
    return k < KD_METER_PHASES ? s->m->phases[k] : s->s->row.teacher_seconds;
}

static double effective_of(const struct shown *s, int k)
{
    (void)k;
    double all = s->s->row.seconds + (s->s->begun ? (double)(s->now - s->s->begun) / 1000 : 0);
    return all > 0 ? fmax(0, 1 - s->s->row.lost_ms_all / 1000 / all) : NAN;
}

static double lost_of(const struct shown *s, int k)
{
    double workers = s->s->row.lost_ms_workers;
    return (k == 0 ? workers : s->s->row.lost_ms_all - workers) / 1000;
}

static double redone_of(const struct shown *s, int k)
{
    (void)k;
    return (double)s->s->row.steps_redone;
}

static double bank_of(const struct shown *s, int k)
{
    return (double)(k == 0 ? s->s->row.bank_hits : s->s->row.teacher_forwards);
}

static double bytes_in_of(const struct shown *s, int k)
{
    return (double)s->m->io.in[k];
}

static double bytes_out_of(const struct shown *s, int k)
{
    return (double)s->m->io.out[k];
}

static double units_of(const struct shown *s, int k)
{
    return (double)s->m->io.units[k];
}

static double saved_step_of(const struct shown *s, int k)
{
    (void)k;
    return (double)(s->s->row.manifest - 1);
}

static double saved_age_of(const struct shown *s, int k)
{
    (void)k;
    return s->m->saved && s->s->exchange ? (double)(s->now - s->m->saved) / 1000 : NAN;
}

#define LOSS                                                                                       \
    "distill_job_loss", G,                                                                         \
        "Mean loss: of the last step; of the epoch's training; of the validation split "           \
        "(cross-entropy, nats)."
#define ACCURACY                                                                                   \
    "distill_job_accuracy_ratio", G,                                                               \
        "Share of right answers: of the running epoch's training; of the validation split; and "   \
        "there agreement with the teacher."
#define PHASE                                                                                      \
    "distill_job_phase_seconds_total", C,                                                          \
        "Where the time of steps goes (server/meter.h); `teacher` is summed over the workers' "    \
        "threads and part of the others."
#define LOST                                                                                       \
    "distill_job_lost_seconds_total", C, "Waited for because of faults, beyond what the steps take."
#define BYTES "distill_net_bytes_total", C, "Payload bytes exchanged with workers."
#define UNITS                                                                                      \
    "distill_units_total", C,                                                                      \
        "Units whose gradients were pushed: taken; run a second time, and alike; taken before; "   \
        "of "                                                                                      \
        "another step; with other numbers than another run's; damaged on the way."
static const struct metric g_metrics[] = {
    {"distill_job_step", G, "Committed steps of the stage.", "", step_of, 0},
    {"distill_job_last_step", G, "Steps of the stage at its end.", "", last_step_of, 0},
    {"distill_job_steps_total", C, "Steps committed by this process.", "", steps_of, 0},
    {"distill_job_samples_total", C, "Training samples of those steps.", "", samples_of, 0},
    {"distill_job_samples_per_second", G, "Training samples a second, smoothed.", "", rate_of, 0},
    {LOSS, "kind=\"step\"", loss_of, 0},
    {LOSS, "kind=\"train\"", loss_of, 1},
    {LOSS, "kind=\"validation\"", loss_of, 2},
    {ACCURACY, "kind=\"train\"", accuracy_of, 0},
    {ACCURACY, "kind=\"validation\"", accuracy_of, 1},
    {ACCURACY, "kind=\"agreement\"", accuracy_of, 2},
    {"distill_job_learning_rate", G, "Learning rate as of the newest evaluation.", "",
     learning_rate_of, 0},
    {PHASE, "phase=\"compute\"", phase_of, KD_PHASE_COMPUTE},
    {PHASE, "phase=\"wait\"", phase_of, KD_PHASE_WAIT},
    {PHASE, "phase=\"release\"", phase_of, KD_PHASE_RELEASE},
    {PHASE, "phase=\"apply\"", phase_of, KD_PHASE_APPLY},
    {PHASE, "phase=\"teacher\"", phase_of, KD_METER_PHASES},
    {"distill_job_effective_time_ratio", G, "Share of the stage's time not lost to faults.", "",
     effective_of, 0},
    {LOST, "of=\"worker\"", lost_of, 0},
    {LOST, "of=\"coordinator\"", lost_of, 1},
    {"distill_job_steps_redone_total", C, "Steps committed once and computed again.", "", redone_of,
     0},
    {"distill_logit_cache_hits_total", C, "Teacher logits taken from the bank.", "", bank_of, 0},
    {"distill_logit_cache_misses_total", C, "Teacher logits that had to be computed.", "", bank_of,
     1},
    {BYTES, "dir=\"in\",kind=\"gradients\"", bytes_in_of, KD_IO_GRADIENTS},
    {BYTES, "dir=\"in\",kind=\"parameters\"", bytes_in_of, KD_IO_PARAMETERS},
    {BYTES, "dir=\"in\",kind=\"state\"", bytes_in_of, KD_IO_STATE},
    {BYTES, "dir=\"in\",kind=\"values\"", bytes_in_of, KD_IO_VALUES},
    {BYTES, "dir=\"in\",kind=\"evaluation\"", bytes_in_of, KD_IO_EVALUATION},
    {BYTES, "dir=\"out\",kind=\"gradients\"", bytes_out_of, KD_IO_GRADIENTS},
    {BYTES, "dir=\"out\",kind=\"parameters\"", bytes_out_of, KD_IO_PARAMETERS},
    {BYTES, "dir=\"out\",kind=\"state\"", bytes_out_of, KD_IO_STATE},
    {BYTES, "dir=\"out\",kind=\"values\"", bytes_out_of, KD_IO_VALUES},
    {UNITS, "result=\"ok\"", units_of, KD_UNIT_OK},
    {UNITS, "result=\"backup\"", units_of, KD_UNIT_BACKUP},
    {UNITS, "result=\"duplicate\"", units_of, KD_UNIT_DUPLICATE},
    {UNITS, "result=\"stale\"", units_of, KD_UNIT_STALE},
    {UNITS, "result=\"divergent\"", units_of, KD_UNIT_DIVERGENT},
    {UNITS, "result=\"corrupt\"", units_of, KD_UNIT_CORRUPT},
    {"distill_checkpoint_last_step", G, "Step of the newest checkpoint.", "", saved_step_of, 0},
    {"distill_checkpoint_age_seconds", G, "Age of the newest checkpoint of a running stage.", "",
     saved_age_of, 0},
};

static bool is_shown(const kd_job_record *j, int64_t wall)
{
    return j->row.state == KD_RUN_RUNNING ||
           (j->row.state > KD_RUN_RUNNING && wall - j->row.finished_ms < KEPT_MS);
}

/* Newest first. */
static size_t list_jobs(const kd_daemon *d, kd_job_record *out[SHOWN])
{
    size_t n = 0;
    int64_t wall = kd_clock_wall_ms();
    for (kd_job_record *j = d->jobs; j; j = j->next) {
        if (!is_shown(j, wall))
            continue;
        if (n == SHOWN)
            memmove(out, out + 1, --n * sizeof *out);
        out[n++] = j;
    }
    return n;
}

static size_t list_stages(kd_job_record *const *jobs, size_t n_jobs, struct shown out[SHOWN])
{
    size_t n = 0;
    char id[KD_ID_TEXT];
    for (size_t i = n_jobs; i-- > 0;)
        for (int k = 0; k < jobs[i]->n_stages && n < SHOWN; k++) {
            const kd_stage_record *s = &jobs[i]->stages[k];
            if (!s->meter || !s->info)
                continue;
            out[n] = (struct shown){.j = jobs[i],
                                    .s = s,
                                    .m = s->meter,
                                    .e = kd_stage_evaluation(jobs[i], (uint32_t)k, 0),
                                    .now = kd_clock_ms()};
            kd_id_text(jobs[i]->row.id, id);
            snprintf(out[n].labels, sizeof out[n].labels, "job_id=\"%s\",stage=\"%s\"", id,
                     s->row.name);
            n++;
        }
    return n;
}

static void write_stages(kd_buf *b, const struct shown *list, size_t n)
{
    const char *last = "";
    for (size_t i = 0; i < KD_COUNT(g_metrics); i++) {
        const struct metric *m = &g_metrics[i];
        if (strcmp(m->name, last) != 0)
            kd_metric_family(b, m->name, m->type, m->help);
        last = m->name;
        for (size_t k = 0; k < n; k++) {
            double v = m->of(&list[k], m->k);
            if (isnan(v))
                continue;
            (void)kd_buf_printf(b, "%s{%s%s%s}", m->name, list[k].labels, m->label[0] ? "," : "",
                                m->label);
            kd_metric_value(b, v);
        }
    }
    kd_metric_family(b, "distill_job_step_seconds", "histogram", "Time of a step.");
    for (size_t k = 0; k < n; k++)
        kd_metric_histogram(b, "distill_job_step_seconds", list[k].labels,
                            &list[k].m->step_seconds);
    kd_metric_family(b, "distill_job_term_share_ratio", G,
                     "Share of each of the loss's terms in the gradient on the logits.");
    for (size_t k = 0; k < n; k++)
        for (uint32_t t = 0; list[k].e && t < list[k].e->n_terms && t < list[k].s->info->n_terms;
             t++) {
            (void)kd_buf_printf(b, "distill_job_term_share_ratio{%s,", list[k].labels);
            kd_metric_label(b, "term", list[k].s->info->terms[t]);
            (void)kd_buf_str(b, "}");
            kd_metric_value(b, list[k].e->shares[t]);
        }
}

static const char *const g_states[] = {"queued", "running", "succeeded", "failed", "cancelled"};

static void write_each(kd_daemon *d, kd_buf *b, kd_job_record *const *jobs, size_t n)
{
    uint64_t paused = 0;
    char id[KD_ID_TEXT];
    for (const kd_job_record *j = d->jobs; j; j = j->next)
        paused += j->row.paused && j->row.state <= KD_RUN_RUNNING && !j->row.is_sweep;
    kd_metric_family(b, "distill_jobs", G,
                     "Jobs by state; sweeps by the jobs that they are made of.");
    for (size_t i = 0; i < KD_COUNT(g_states); i++)
        kd_metric_by_word(b, "distill_jobs", "state", g_states[i], (double)d->jobs_in[i]);
    kd_metric_single(b, "distill_jobs_paused", G, (double)paused,
                     "Jobs of the first two that a user paused.");
    kd_metric_family(b, "distill_job_info", G, "Name, state and sweep of a job, with the value 1.");
    for (size_t i = 0; i < n; i++) {
        kd_id_text(jobs[i]->row.id, id);
        (void)kd_buf_printf(b, "distill_job_info{job_id=\"%s\",state=\"%s\",", id,
                            g_states[jobs[i]->row.state]);
        kd_metric_label(b, "name", jobs[i]->row.name);
        if (jobs[i]->row.sweep) {
            kd_id_text(jobs[i]->row.sweep, id);
            (void)kd_buf_printf(b, ",sweep=\"%s\",", id);
            kd_metric_label(b, "values", jobs[i]->row.label ? jobs[i]->row.label : "");
        }
        (void)kd_buf_str(b, "} 1\n");
    }
    kd_metric_family(b, "distill_job_workers", G, "Workers of a running job.");
    for (size_t i = 0; i < n; i++) {
        kd_core_view v;
        kd_id_text(jobs[i]->row.id, id);
        if (kd_core_job_view(d->core, jobs[i]->row.id, &v))
            kd_metric_by_word(b, "distill_job_workers", "job_id", id, v.members);
    }
    kd_metric_family(b, "distill_job_eta_seconds", G,
                     "Until the running stage ends, at its present rate.");
    for (size_t i = 0; i < n; i++) {
        Distill__V1__Progress p;
        kd_id_text(jobs[i]->row.id, id);
        if (kd_watch_progress(d, jobs[i], &p) && p.eta_seconds >= 0)
            kd_metric_by_word(b, "distill_job_eta_seconds", "job_id", id, p.eta_seconds);
    }
}

void kd_metrics_jobs(kd_daemon *d, kd_buf *out)
{
    static kd_job_record *jobs[SHOWN]; /* the loop's */
    static struct shown stages[SHOWN];
    size_t n_jobs = list_jobs(d, jobs);
    size_t n_stages = list_stages(jobs, n_jobs, stages);
    write_each(d, out, jobs, n_jobs);
    write_stages(out, stages, n_stages);
}

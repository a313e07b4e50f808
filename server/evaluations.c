/* Evaluations of a stage: what the units' rows come to, which version is the best, early stopping.
 */
#include "daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One, on its way to the loop. */
struct evaluation {
    kd_job_id job;
    uint32_t stage;
    uint64_t generation, version;
    kd_epoch_row row;
};

static void put_epoch(kd_job_record *j, const kd_epoch_row *row)
{
    for (int i = 0; i < j->n_epochs; i++)
        if (j->epochs[i].stage == row->stage && j->epochs[i].step == row->step) {
            j->epochs[i] = *row;
            return;
        }
    kd_epoch_row *p = realloc(j->epochs, ((size_t)j->n_epochs + 1) * sizeof *p);
    KD_BUG_ON(!p);
    j->epochs = p;
    j->epochs[j->n_epochs++] = *row;
}

const kd_epoch_row *kd_stage_evaluation(const kd_job_record *j, uint32_t stage, uint64_t version)
{
    const kd_epoch_row *found = NULL;
    for (int i = 0; i < j->n_epochs; i++)
        if (j->epochs[i].stage == stage && (version == 0 || j->epochs[i].step + 1 == version))
            found = &j->epochs[i];
    return found;
}

void kd_stage_forget_evaluations(kd_job_record *j, uint32_t stage, uint64_t version)
{
    kd_stage_row *row = &j->stages[stage].row;
    int kept = 0;
    row->best_version = 0;
    row->best_epoch = 0;
    for (int i = 0; i < j->n_epochs; i++) {
        const kd_epoch_row e = j->epochs[i];
        if (e.stage == stage && e.step + 1 > version)
            continue;
        if (e.stage == stage && e.best) { /* in order of steps, and each of these better */
            row->best_version = e.step + 1;
            row->best_epoch = e.epoch;
        }
        j->epochs[kept++] = e;
    }
    j->n_epochs = kept;
}

static double accuracy_of(const kd_epoch_row *e)
{
    return e->val_samples ? (double)e->val_correct / e->val_samples : 0;
}

/* More right; as many right, but a lower loss. */
static bool better(const kd_epoch_row *a, const kd_epoch_row *b)
{
    if (a->val_correct != b->val_correct)
        return a->val_correct > b->val_correct;
    return a->val_loss < b->val_loss;
}

/* Early stopping: `patience` evaluations in a row that are not better than the best before them by
 * more than min_delta. A function of the stored evaluations, in their order. */
static bool should_stop(const kd_job_record *j, const kd_stage_record *s, uint32_t stage)
{
    double best = -1;
    uint32_t since = 0;
    if (s->info->patience == 0)
        return false;
    for (int i = 0; i < j->n_epochs; i++) {
        if (j->epochs[i].stage != stage)
            continue;
        double accuracy = accuracy_of(&j->epochs[i]);
        bool improved = best < 0 || accuracy > best + s->info->min_delta;
        best = improved ? accuracy : best;
        since = improved ? 0 : since + 1;
    }
    return since >= s->info->patience;
}

/* NodeChunk.terms has value and pull of each term in turn; pulls become shares of their sum. */
static void fill_terms(const kd_stage_record *s, kd_epoch_row *row)
{
    double all = 0;
    row->n_terms = (uint32_t)KD_MIN(s->info->n_terms, (size_t)KD_MAX_EPOCH_TERMS);
    for (uint32_t i = 0; i < row->n_terms; i++)
        all += s->sums.terms[2 * i + 1];
    for (uint32_t i = 0; i < row->n_terms; i++) {
        row->term_losses[i] = s->sums.terms[2 * i] / s->sums.samples;
        row->shares[i] = all > 0 ? s->sums.terms[2 * i + 1] / all : 0;
    }
}

static void fill_row(const kd_stage_record *s, const struct evaluation *n, kd_epoch_row *row)
{
    *row = n->row;
    row->stage = n->stage;
    row->step = n->version - 1;
    row->epoch =
        (uint32_t)(kd_stage_epoch_steps(s->info) ? row->step / kd_stage_epoch_steps(s->info) : 0);
    if (s->sums.samples > 0) {
        row->train_loss = s->sums.loss / s->sums.samples;
        row->train_accuracy = s->sums.correct / s->sums.samples;
        fill_terms(s, row);
    }
}

static void tell_evaluation(kd_daemon *d, kd_job_record *j, const kd_stage_record *s,
                            const kd_epoch_row *row)
{
    char data[640], more[80] = "";
    size_t n = (size_t)snprintf(
        data, sizeof data,
        "{\"stage\":\"%s\",\"epoch\":%u,\"step\":%llu,\"train_loss\":%.9g,\"train_accuracy\":%.9g,"
        "\"val_loss\":%.9g,\"val_correct\":%u,\"val_samples\":%u,\"learning_rate\":%.9g",
        s->row.name, row->epoch, (unsigned long long)row->step, row->train_loss,
        row->train_accuracy, row->val_loss, row->val_correct, row->val_samples, row->learning_rate);
    if (row->val_kl >= 0) {
        n += (size_t)snprintf(data + n, sizeof data - n, ",\"val_agree\":%u,\"val_kl\":%.9g",
                              row->val_agree, row->val_kl);
        snprintf(more, sizeof more, ", agrees with the teacher on %.1f %%",
                 row->val_samples ? 100.0 * row->val_agree / row->val_samples : 0);
    }
    snprintf(data + n, sizeof data - n, ",\"best\":%s}", row->best ? "true" : "false");
    char when[64];
    if (s->info->epochs == 0) {
        kd_watch_event(d, j, "epoch", "", data, "%s: validation %.1f %% (%u of %u)%s", s->row.name,
                       100 * accuracy_of(row), row->val_correct, row->val_samples, more);
        return;
    }
    if (s->info->eval_steps)
        snprintf(when, sizeof when, "step %llu/%llu", (unsigned long long)row->step,
                 (unsigned long long)s->info->epochs * kd_stage_epoch_steps(s->info));
    else
        snprintf(when, sizeof when, "epoch %u/%u", row->epoch, s->info->epochs);
    kd_watch_event(d, j, "epoch", "", data,
                   "%s %s: training loss %.4f, accuracy %.1f %%; validation %.1f %% (%u of %u)%s",
                   s->row.name, when, row->train_loss, 100 * row->train_accuracy,
                   100 * accuracy_of(row), row->val_correct, row->val_samples, more);
}

static void loop_evaluated(kd_daemon *d, void *arg)
{
    struct evaluation *n = arg;
    kd_job_record *j;
    kd_stage_record *s = kd_stage_record_of(d, n->job, n->stage, &j);
    if (s && s->exchange && s->info && n->version > s->row.evaluated &&
        n->version <= kd_stage_last_version(s) && n->generation == s->generation) {
        kd_epoch_row row;
        fill_row(s, n, &row);
        const kd_epoch_row *best =
            s->row.best_version ? kd_stage_evaluation(j, n->stage, s->row.best_version) : NULL;
        row.best = !best || better(&row, best);
        kd_diag diag = {0};
        /* Evaluation, stage and event in one: after a crash it is there with its event, or again to
         * come. */
        if (kd_state_begin(&d->state, &diag) != 0 ||
            kd_state_add_epoch(&d->state, j->row.id, &row, &diag) != 0)
            kd_daemon_fatal(d, &diag);
        put_epoch(j, &row);
        s->row.evaluated = n->version;
        if (row.best) {
            s->row.best_version = n->version;
            s->row.best_epoch = row.epoch;
        }
        bool stop = n->version < kd_stage_last_version(s) && should_stop(j, s, n->stage);
        if (stop)
            s->row.stopped_early = n->version - 1;
        kd_stage_store(d, j, n->stage);
        tell_evaluation(d, j, s, &row);
        if (stop)
            kd_watch_event(d, j, "stage", "", NULL,
                           "%s ends early at step %llu: %u evaluations without a better one",
                           s->row.name, (unsigned long long)row.step, s->info->patience);
        if (kd_state_commit(&d->state, &diag) != 0)
            kd_daemon_fatal(d, &diag);
        kd_watch_fed(d, j);
        if (stop && s->lost == n->version) {
            kd_stage_fail(d, j, "the parameters it should end with could not be saved");
            free(n);
            return;
        }
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_EVALUATED,
                                       .job = n->job,
                                       .stage = n->stage,
                                       .version = n->version,
                                       .stop = stop});
    }
    free(n);
}

void kd_evaluation_done(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                        uint64_t version, double learning_rate, const float *rows)
{
    struct evaluation *n = kd_xalloc(sizeof *n);
    n->job = cfg->job;
    n->stage = cfg->stage;
    n->generation = generation;
    n->version = version;
    kd_epoch_row *r = &n->row;
    r->val_samples = cfg->val_samples;
    r->learning_rate = learning_rate;
    r->val_kl = -1;
    double kl = 0;
    for (uint32_t i = 0; i < cfg->val_samples; i++) {
        const float *row = rows + (size_t)i * KD_EVAL_COLUMNS;
        r->val_correct += row[0] == row[1];
        r->val_loss += row[2];
        if (row[3] < 0)
            continue;
        r->val_agree += row[0] == row[3];
        kl += row[4];
        r->val_kl = 0;
    }
    if (cfg->val_samples)
        r->val_loss /= cfg->val_samples;
    if (r->val_kl == 0)
        r->val_kl = kl / cfg->val_samples;
    if (!kd_daemon_post(arg, loop_evaluated, n))
        free(n);
}

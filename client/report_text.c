/* A report as CSV, Markdown and JSON. */
#include "report_page.h"

#include "format.h"
#include "json.h"
#include "kd/stats.h"
#include "list.h"
#include "views.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TERMS 16 /* names of loss terms in one table */

/* ---- CSV (RFC 4180) */

/* Enough digits to get the same number back; empty = unknown. */
static void csv_real(kd_buf *out, double v)
{
    char real[KD_JSON_REAL];
    (void)kd_buf_str(out, ",");
    if (isfinite(v))
        (void)kd_buf_str(out, kd_json_real(v, real));
}

static int term_names(const kd_report *r, const char *names[MAX_TERMS])
{
    int n = 0;
    for (size_t i = 0; i < r->n_jobs; i++)
        for (size_t s = 0; s < r->jobs[i]->detail->n_stages; s++) {
            const Distill__V1__StageRecord *stage = r->jobs[i]->detail->stages[s];
            for (size_t t = 0; t < stage->n_terms; t++) {
                int k = 0;
                while (k < n && strcmp(names[k], stage->terms[t]) != 0)
                    k++;
                if (k == n && n < MAX_TERMS)
                    names[n++] = stage->terms[t];
            }
        }
    return n;
}

static double of_term(const Distill__V1__StageRecord *s, const char *name, const double *values,
                      size_t n)
{
    for (size_t t = 0; t < s->n_terms && t < n; t++)
        if (strcmp(s->terms[t], name) == 0)
            return values[t];
    return NAN;
}

static void csv_row(kd_buf *out, const kd_report_job *j, const Distill__V1__StageRecord *s,
                    const Distill__V1__EpochRecord *e, const char *const *terms, int n_terms)
{
    const Distill__V1__JobSummary *m = j->detail->summary;
    bool val = e->val_samples > 0 && e->val_correct <= e->val_samples;
    bool taught = kd_epoch_taught(e);
    double lo = NAN, hi = NAN;
    if (val)
        kd_wilson(e->val_correct, e->val_samples, &lo, &hi);
    kd_csv_text(out, m->job);
    const char *const words[] = {m->name, m->sweep, m->label, kd_state_word(m->state), s->name};
    for (size_t i = 0; i < KD_COUNT(words); i++) {
        (void)kd_buf_str(out, ",");
        kd_csv_text(out, words[i]);
    }
    (void)kd_buf_printf(out, ",%u,%llu", e->epoch, (unsigned long long)e->step);
    csv_real(out, e->epoch ? e->train_loss : NAN);
    csv_real(out, e->epoch && e->train_accuracy >= 0 ? e->train_accuracy : NAN);
    csv_real(out, val ? e->val_loss : NAN);
    (void)kd_buf_printf(out, ",%u,%u", e->val_correct, e->val_samples);
    csv_real(out, val ? (double)e->val_correct / e->val_samples : NAN);
    csv_real(out, lo);
    csv_real(out, hi);
    csv_real(out, taught ? (double)e->val_agree / e->val_samples : NAN);
    csv_real(out, taught ? e->val_kl : NAN);
    csv_real(out, e->learning_rate > 0 ? e->learning_rate : NAN);
    int best = kd_view_best(s);
    (void)kd_buf_printf(out, ",%d", best >= 0 && s->epochs[best] == e);
    for (int t = 0; t < n_terms; t++)
        csv_real(out, of_term(s, terms[t], e->shares, e->n_shares));
    for (int t = 0; t < n_terms; t++)
        csv_real(out, of_term(s, terms[t], e->term_losses, e->n_term_losses));
    (void)kd_buf_str(out, "\r\n");
}

int kd_report_csv(const kd_report *r, kd_buf *out)
{
    const char *terms[MAX_TERMS];
    int n_terms = term_names(r, terms);
    (void)kd_buf_str(out, "job,name,sweep,label,state,stage,epoch,step,train_loss,train_accuracy,"
                          "val_loss,val_correct,val_samples,val_accuracy,val_lo,val_hi,"
                          "val_agreement,val_kl,learning_rate,best");
    for (int k = 0; k < 2; k++)
        for (int t = 0; t < n_terms; t++) {
            (void)kd_buf_str(out, k ? ",loss_" : ",share_");
            kd_csv_text(out, terms[t]);
        }
    (void)kd_buf_str(out, "\r\n");
    for (size_t i = 0; i < r->n_jobs; i++)
        for (size_t s = 0; s < r->jobs[i]->detail->n_stages; s++) {
            const Distill__V1__StageRecord *stage = r->jobs[i]->detail->stages[s];
            for (size_t e = 0; e < stage->n_epochs; e++)
                csv_row(out, r->jobs[i], stage, stage->epochs[e], terms, n_terms);
        }
    return out->failed ? -KD_ENOMEM : 0;
}

/* ---- Markdown */

static void md_text(kd_buf *out, const char *s)
{
    kd_buf clean;
    kd_buf_init(&clean, out->max);
    kd_text_clean(&clean, s);
    for (const char *p = clean.data ? clean.data : ""; *p; p++) {
        if (*p == '<' || *p == '&') {
            (void)kd_buf_str(out, *p == '<' ? "&lt;" : "&amp;");
            continue;
        }
        if (strchr("\\`*_[]|#>", *p))
            (void)kd_buf_str(out, "\\");
        (void)kd_buf_add(out, p, 1);
    }
    kd_buf_clear(&clean);
}

static void md_score(kd_buf *out, const kd_network *n, const kd_score *s, const char *split,
                     const char *version)
{
    char a[KD_FMT], interval[64];
    if (!s->there)
        return;
    kd_page_interval(interval, sizeof interval, s->lo, s->hi, false);
    (void)kd_buf_str(out, "| ");
    md_text(out, kd_network_title(n->name));
    (void)kd_buf_str(out, " | ");
    md_text(out, n->model);
    (void)kd_buf_printf(out, " | %s | %s | %s | %s | %llu/%llu |", split, version,
                        kd_fmt_percent(s->accuracy, a), interval, (unsigned long long)s->correct,
                        (unsigned long long)s->samples);
    (void)kd_buf_printf(out, " %s |", isfinite(s->loss) ? kd_fmt_figure(s->loss, a) : "–");
    (void)kd_buf_printf(out, " %s |",
                        isfinite(s->agreement) ? kd_fmt_percent(s->agreement, a) : "–");
    (void)kd_buf_printf(out, " %s |\n", isfinite(s->kl) ? kd_fmt_figure(s->kl, a) : "–");
}

static void md_job(kd_buf *out, const kd_report_job *j)
{
    const Distill__V1__JobSummary *s = j->detail->summary;
    char sentence[320], version[64];
    (void)kd_buf_str(out, "\n## ");
    md_text(out, s->name[0] ? s->name : s->job);
    if (s->label[0]) {
        (void)kd_buf_str(out, ", ");
        md_text(out, s->label);
    }
    (void)kd_buf_str(out, "\n\nJob ");
    md_text(out, s->job);
    (void)kd_buf_printf(out, ", %s", kd_state_word(s->state));
    if (s->reason[0]) {
        (void)kd_buf_str(out, ": ");
        md_text(out, s->reason);
    }
    (void)kd_buf_str(out, ".\n\n| network | model | split | version | accuracy | 95 % interval | "
                          "correct | loss | agreement | KL |\n"
                          "|---|---|---|---|---:|---:|---:|---:|---:|---:|\n");
    for (int i = 0; i < j->n_networks; i++) {
        const kd_network *n = &j->networks[i];
        snprintf(version, sizeof version, "best (epoch %lld)", (long long)n->best_epoch);
        md_score(out, n, &n->val, "validation", "last");
        if (n->best_epoch >= 0)
            md_score(out, n, &n->best, "validation", version);
        md_score(out, n, &n->test, "test", "last");
        md_score(out, n, &n->test_best, "test", n->best_epoch >= 0 ? version : "best");
    }
    if (kd_pair_sentence(kd_report_twin_pair(j), sentence, sizeof sentence))
        (void)kd_buf_printf(out, "\n**%s.**\n", sentence);
    (void)kd_buf_str(out, "\n| stage | digest of the parameters | best version |\n|---|---|---|\n");
    for (size_t i = 0; i < j->detail->n_stages; i++) {
        const Distill__V1__StageRecord *stage = j->detail->stages[i];
        if (!stage->digest[0])
            continue;
        (void)kd_buf_str(out, "| ");
        md_text(out, stage->name);
        (void)kd_buf_str(out, " | ");
        md_text(out, stage->digest);
        (void)kd_buf_str(out, " | ");
        md_text(out, stage->best_digest[0] ? stage->best_digest : "–");
        (void)kd_buf_str(out, " |\n");
    }
}

static void md_mean(kd_buf *out, const struct kd_mean *m, bool sign)
{
    char interval[64];
    kd_page_interval(interval, sizeof interval, m->lo, m->hi, sign);
    if (!isfinite(m->mean))
        (void)kd_buf_str(out, " – | – |");
    else if (sign)
        (void)kd_buf_printf(out, " %+.1f | %s |", m->mean * 100, interval);
    else
        (void)kd_buf_printf(out, " %.1f %% | %s |", m->mean * 100, interval);
}

static void md_sweep(kd_buf *out, const kd_report *r, int sweep)
{
    size_t n = 0;
    kd_group *groups = kd_report_groups(r, sweep, &n);
    (void)kd_buf_str(out, "\n## Sweep ");
    md_text(out, r->sweeps[sweep].detail->summary->name);
    (void)kd_buf_str(out,
                     "\n\n| values | seeds | validation | 95 % interval | test | 95 % interval "
                     "| student − twin | 95 % interval | verdict |\n"
                     "|---|---:|---:|---:|---:|---:|---:|---:|---|\n");
    for (size_t g = 0; g < n; g++) {
        (void)kd_buf_str(out, "| ");
        md_text(out, groups[g].label[0] ? groups[g].label : "all");
        (void)kd_buf_printf(out, "%s | %zu |", groups[g].has_best ? " (best by validation)" : "",
                            groups[g].n);
        md_mean(out, &groups[g].val, false);
        md_mean(out, &groups[g].test, false);
        md_mean(out, &groups[g].difference, true);
        (void)kd_buf_printf(
            out, " %s |\n",
            kd_verdict_word(kd_verdict_of(groups[g].difference.lo, groups[g].difference.hi)));
    }
    free(groups);
}

int kd_report_md(const kd_report *r, kd_buf *out)
{
    (void)kd_buf_str(out, "# Distillation report\n");
    for (size_t s = 0; s < r->n_sweeps; s++)
        md_sweep(out, r, (int)s);
    for (size_t i = 0; i < r->n_jobs; i++)
        md_job(out, r->jobs[i]);
    return out->failed ? -KD_ENOMEM : 0;
}

/* ---- JSON */

static json_t *real(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *interval(double lo, double hi)
{
    return isfinite(lo) && isfinite(hi) ? json_pack("[f, f]", lo, hi) : json_null();
}

static json_t *score(const kd_score *s)
{
    if (!s->there)
        return json_null();
    return json_pack("{s:I, s:I, s:f, s:o, s:o, s:o, s:o}", "correct", (json_int_t)s->correct,
                     "samples", (json_int_t)s->samples, "accuracy", s->accuracy, "interval",
                     interval(s->lo, s->hi), "loss", real(s->loss), "agreement", real(s->agreement),
                     "kl", real(s->kl));
}

static json_t *networks(const kd_report_job *j)
{
    json_t *all = json_array();
    for (int i = 0; i < j->n_networks; i++) {
        const kd_network *n = &j->networks[i];
        (void)json_array_append_new(
            all,
            json_pack("{s:o, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "name",
                      kd_json_text(n->name), "model", kd_json_text(n->model), "val", score(&n->val),
                      "best", score(&n->best), "best_epoch", (json_int_t)n->best_epoch, "test",
                      score(&n->test), "test_best", score(&n->test_best), "parameters",
                      real(n->parameters), "ms_per_image", real(n->ms_per_image), "seconds",
                      real(n->seconds), "digest", kd_json_text(n->digest)));
    }
    return all;
}

static json_t *pairs(const kd_report_job *j)
{
    json_t *all = json_array();
    for (int i = 0; i < j->n_pairs; i++) {
        const kd_pair *p = &j->pairs[i];
        (void)json_array_append_new(
            all,
            json_pack("{s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:f, s:o, s:s}", "a", kd_json_text(p->a),
                      "b", kd_json_text(p->b), "split", kd_json_text(p->split), "both",
                      (json_int_t)p->counts.both, "only_a", (json_int_t)p->counts.only_a, "only_b",
                      (json_int_t)p->counts.only_b, "neither", (json_int_t)p->counts.neither,
                      "difference", p->difference, "interval", interval(p->lo, p->hi), "verdict",
                      kd_verdict_word(kd_verdict_of(p->lo, p->hi))));
    }
    return all;
}

static json_t *mean(const struct kd_mean *m)
{
    return json_pack("{s:I, s:o, s:o}", "n", (json_int_t)m->n, "mean", real(m->mean), "interval",
                     interval(m->lo, m->hi));
}

static json_t *sweep(const kd_report *r, int number)
{
    size_t n = 0;
    kd_group *groups = kd_report_groups(r, number, &n);
    json_t *list = json_array();
    for (size_t g = 0; g < n; g++)
        (void)json_array_append_new(
            list,
            json_pack(
                "{s:o, s:I, s:o, s:o, s:o, s:s, s:b}", "label", kd_json_text(groups[g].label), "n",
                (json_int_t)groups[g].n, "val", mean(&groups[g].val), "test", mean(&groups[g].test),
                "difference", mean(&groups[g].difference), "verdict",
                kd_verdict_word(kd_verdict_of(groups[g].difference.lo, groups[g].difference.hi)),
                "best", (int)groups[g].has_best));
    free(groups);
    json_t *o = kd_json_detail(r->sweeps[number].detail);
    (void)json_object_set_new(o, "groups", list);
    return o;
}

json_t *kd_report_json(const kd_report *r)
{
    json_t *jobs = json_array(), *sweeps = json_array();
    for (size_t i = 0; i < r->n_jobs; i++) {
        const kd_report_job *j = r->jobs[i];
        json_t *o = kd_json_detail(j->detail);
        (void)json_object_set_new(o, "networks", networks(j));
        (void)json_object_set_new(o, "pairs", pairs(j));
        (void)json_object_set_new(o, "best_of_sweep", json_boolean(j->best));
        (void)json_object_set(o, "evaluation", j->evaluation ? j->evaluation : json_null());
        (void)json_array_append_new(jobs, o);
    }
    for (size_t s = 0; s < r->n_sweeps; s++)
        (void)json_array_append_new(sweeps, sweep(r, (int)s));
    return json_pack("{s:s, s:o, s:o, s:o, s:o}", "version", KD_VERSION, "server_version",
                     kd_json_text(r->server_version), "made", kd_json_time(r->now_ms), "jobs", jobs,
                     "sweeps", sweeps);
}

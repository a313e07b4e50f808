/* The sections of one job: results, curves, bank, provenance. */
#include "report_page.h"

#include "format.h"
#include "kd/clock.h"
#include "kd/stats.h"
#include "views.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_EPOCH_ROWS 200 /* of a table of evaluations */

/* ---- headline and results */

static void card(kd_buf *out, const kd_report_job *j, const kd_network *n)
{
    const kd_score *s = kd_report_score(j, n);
    char a[KD_FMT], b[KD_FMT], interval[64];
    if (!s->there && !n->model[0])
        return;
    kd_page_interval(interval, sizeof interval, s->lo, s->hi, false);
    (void)kd_buf_printf(out, "<div class=\"card c%d\"><h4>", kd_network_color(n->name));
    kd_html_text(out, kd_network_title(n->name));
    (void)kd_buf_printf(out, "</h4><b>%s</b><span>", kd_fmt_percent(s->accuracy, a));
    if (s->there)
        (void)kd_buf_printf(out, "%s, 95 %% interval %s, %llu of %llu</span><span>",
                            s == &n->test_best ? "test, best version"
                            : s == &n->test    ? "test"
                                               : "validation",
                            interval, (unsigned long long)s->correct,
                            (unsigned long long)s->samples);
    kd_html_text(out, n->model);
    if (isfinite(n->parameters))
        (void)kd_buf_printf(out, "%s%s parameters", n->model[0] ? ", " : "",
                            kd_fmt_count((uint64_t)n->parameters, b));
    (void)kd_buf_str(out, "</span></div>\n");
}

static void score_row(kd_grid *g, const kd_network *n, const kd_score *s, const char *split,
                      const char *version)
{
    char a[KD_FMT], interval[64];
    if (!s->there)
        return;
    kd_grid_row(g, false);
    kd_grid_cell(g, "%s", kd_network_title(n->name));
    kd_grid_cell(g, "%s", version);
    kd_grid_cell(g, "%s", split);
    kd_grid_cell(g, "%s", kd_fmt_percent(s->accuracy, a));
    kd_page_interval(interval, sizeof interval, s->lo, s->hi, false);
    kd_grid_cell(g, "%s", interval);
    kd_grid_cell(g, "%llu/%llu", (unsigned long long)s->correct, (unsigned long long)s->samples);
    kd_grid_cell(g, "%s", isfinite(s->loss) ? kd_fmt_figure(s->loss, a) : "");
    kd_grid_cell(g, "%s", isfinite(s->agreement) ? kd_fmt_percent(s->agreement, a) : "");
    kd_grid_cell(g, "%s", isfinite(s->kl) ? kd_fmt_figure(s->kl, a) : "");
}

static void results(kd_page *p, const kd_report_job *j)
{
    kd_grid g;
    char version[64], a[KD_FMT];
    bool any = false;
    for (int i = 0; i < j->n_networks; i++)
        any = any || j->networks[i].val.there || j->networks[i].test.there;
    if (!any)
        return;
    (void)kd_buf_str(p->out, "<h3>Results</h3>\n");
    kd_grid_open(&g, p->out, "Accuracy with 95 % Wilson intervals",
                 "Network|Version|Split|Accuracy>|95 % interval>|Correct>|Loss (nats)>|"
                 "Agrees with teacher>|KL from teacher>");
    for (int i = 0; i < j->n_networks; i++) {
        const kd_network *n = &j->networks[i];
        snprintf(version, sizeof version, "best (epoch %lld)", (long long)n->best_epoch);
        bool best = n->best.there && n->best_epoch >= 0;
        score_row(&g, n, &n->val, "validation", "last");
        if (best)
            score_row(&g, n, &n->best, "validation", version);
        score_row(&g, n, &n->test, "test", "last");
        score_row(&g, n, &n->test_best, "test", best ? version : "best");
    }
    kd_grid_close(&g);
    (void)kd_buf_str(p->out,
                     "<p class=\"mut\">Best is chosen on validation, so its validation figure is "
                     "a little too good; the test figure at the best version is not.</p>\n");
    kd_grid_open(&g, p->out, "Size and speed",
                 "Network|Model|Parameters>|File>|ms/image>|Time to make>");
    for (int i = 0; i < j->n_networks; i++) {
        const kd_network *n = &j->networks[i];
        kd_grid_row(&g, false);
        kd_grid_cell(&g, "%s", kd_network_title(n->name));
        kd_grid_cell(&g, "%s", n->model);
        kd_grid_cell(&g, "%s",
                     isfinite(n->parameters) ? kd_fmt_count((uint64_t)n->parameters, a) : "");
        kd_grid_cell(&g, "%s", isfinite(n->bytes) ? kd_fmt_bytes(n->bytes, a) : "");
        kd_grid_cell(&g, "%s", isfinite(n->ms_per_image) ? kd_fmt_figure(n->ms_per_image, a) : "");
        kd_grid_cell(&g, "%s", isfinite(n->seconds) ? kd_fmt_duration(n->seconds, a) : "");
    }
    kd_grid_close(&g);
}

static void pairs(kd_page *p, const kd_report_job *j)
{
    kd_grid g;
    char interval[64];
    if (j->n_pairs == 0)
        return;
    kd_grid_open(&g, p->out, "Paired differences on the same pictures",
                 "Networks|Split|Difference (points)>|95 % interval>|Verdict|Both right>|"
                 "Only first>|Only second>|Neither>");
    for (int i = 0; i < j->n_pairs; i++) {
        const kd_pair *q = &j->pairs[i];
        kd_page_interval(interval, sizeof interval, q->lo, q->hi, true);
        kd_grid_row(&g, false);
        kd_grid_cell(&g, "%s − %s", kd_network_title(q->a), kd_network_title(q->b));
        kd_grid_cell(&g, "%s", strcmp(q->split, "val") == 0 ? "validation" : q->split);
        kd_grid_cell(&g, "%+.1f", q->difference * 100);
        kd_grid_cell(&g, "%s", interval);
        kd_grid_cell(&g, "%s", kd_verdict_word(kd_verdict_of(q->lo, q->hi)));
        kd_grid_cell(&g, "%llu", (unsigned long long)q->counts.both);
        kd_grid_cell(&g, "%llu", (unsigned long long)q->counts.only_a);
        kd_grid_cell(&g, "%llu", (unsigned long long)q->counts.only_b);
        kd_grid_cell(&g, "%llu", (unsigned long long)q->counts.neither);
    }
    kd_grid_close(&g);
}

/* ---- curves */

enum column {
    COLUMN_X,
    COLUMN_TRAIN_LOSS,
    COLUMN_TRAIN_ACCURACY,
    COLUMN_VAL_LOSS,
    COLUMN_VAL_ACCURACY,
    COLUMN_VAL_LO,
    COLUMN_VAL_HI,
    COLUMN_AGREEMENT,
    COLUMN_KL,
    COLUMN_RATE,
    COLUMNS
};

/* The figures of a stage's evaluations, column by column. */
typedef struct curves {
    const Distill__V1__StageRecord *stage;
    size_t n;
    double *column[COLUMNS]; /* [n]; NAN = unknown */
    bool by_step;            /* x counts steps, else epochs */
} curves;

static void curves_clear(curves *c)
{
    free(c->column[0]);
}

static double *column_of(const curves *c, enum column k)
{
    return c->column[k];
}

static bool has(const curves *c, enum column k)
{
    for (size_t i = 0; i < c->n; i++)
        if (isfinite(c->column[k][i]))
            return true;
    return false;
}

static bool curves_init(curves *c, const Distill__V1__StageRecord *s)
{
    size_t n = s->n_epochs;
    *c = (curves){.stage = s, .n = n};
    double *all = n ? malloc(n * COLUMNS * sizeof *all) : NULL;
    if (!all)
        return false;
    for (int k = 0; k < COLUMNS; k++)
        c->column[k] = all + (size_t)k * n;
    /* Several evaluations an epoch are told apart by their steps. */
    for (size_t i = 1; i < n; i++)
        c->by_step = c->by_step || (s->epochs[i]->epoch == s->epochs[i - 1]->epoch &&
                                    s->epochs[i]->step > s->epochs[i - 1]->step);
    for (size_t i = 0; i < n; i++) {
        const Distill__V1__EpochRecord *e = s->epochs[i];
        bool val = e->val_samples > 0 && e->val_correct <= e->val_samples;
        bool taught = kd_epoch_taught(e);
        c->column[COLUMN_X][i] = c->by_step ? (double)e->step : e->epoch;
        c->column[COLUMN_TRAIN_LOSS][i] = e->epoch ? e->train_loss : NAN;
        c->column[COLUMN_TRAIN_ACCURACY][i] =
            e->epoch && e->train_accuracy >= 0 && e->train_accuracy <= 1 ? e->train_accuracy : NAN;
        c->column[COLUMN_VAL_LOSS][i] = val ? e->val_loss : NAN;
        c->column[COLUMN_VAL_ACCURACY][i] = val ? (double)e->val_correct / e->val_samples : NAN;
        c->column[COLUMN_VAL_LO][i] = c->column[COLUMN_VAL_HI][i] = NAN;
        if (val)
            kd_wilson(e->val_correct, e->val_samples, &c->column[COLUMN_VAL_LO][i],
                      &c->column[COLUMN_VAL_HI][i]);
        c->column[COLUMN_AGREEMENT][i] = taught ? (double)e->val_agree / e->val_samples : NAN;
        c->column[COLUMN_KL][i] = taught ? e->val_kl : NAN;
        c->column[COLUMN_RATE][i] = e->learning_rate > 0 ? e->learning_rate : NAN;
    }
    return true;
}

static kd_series line_of(const curves *c, enum column k, const char *label, int color,
                         enum kd_series_style style)
{
    return (kd_series){.label = label,
                       .color = color,
                       .style = style,
                       .n = c->n,
                       .x = column_of(c, COLUMN_X),
                       .y = column_of(c, k)};
}

/* Curves of very different height are told apart on a logarithmic axis only. */
static bool far_apart(const kd_chart *c)
{
    double lo = INFINITY, hi = 0;
    for (int k = 0; k < c->n_series; k++)
        for (size_t i = 0; i < c->series[k].n; i++) {
            double v = c->series[k].y[i];
            if (!isfinite(v))
                continue;
            if (v <= 0)
                return false;
            lo = KD_MIN(lo, v);
            hi = KD_MAX(hi, v);
        }
    return hi > 12 * lo;
}

static const char *x_name(const curves *c)
{
    return c->by_step ? "step" : "epoch";
}

static void mark_best(kd_chart *chart, const curves *c)
{
    int best = kd_view_best(c->stage);
    if (best < 0 || c->n < 2)
        return;
    chart->mark_x = c->column[COLUMN_X][best];
    chart->mark = "best";
}

static void stage_charts(kd_page *p, const curves *c, const char *network)
{
    int color = kd_network_color(network);
    char title[96], description[256], a[KD_FMT], b[KD_FMT];
    const char *name = kd_network_title(network);
    bool distill = strcmp(network, "student") == 0;
    size_t last = c->n - 1;
    kd_chart chart = {.title = title,
                      .description = description,
                      .x_label = x_name(c),
                      .y_label = "loss",
                      .x_whole = true,
                      .mark_x = NAN};
    snprintf(title, sizeof title, "Loss of the %s", name);
    snprintf(description, sizeof description,
             "Loss in training and validation over the %ss; at last %s in training and %s in "
             "validation.",
             x_name(c), kd_fmt_figure(c->column[COLUMN_TRAIN_LOSS][last], a),
             kd_fmt_figure(c->column[COLUMN_VAL_LOSS][last], b));
    chart.series[chart.n_series++] = line_of(
        c, COLUMN_TRAIN_LOSS, distill ? "training (whole loss)" : "training", color, KD_DASHED);
    chart.series[chart.n_series++] = line_of(
        c, COLUMN_VAL_LOSS, distill ? "validation (cross-entropy)" : "validation", color, KD_LINE);
    chart.y_log = far_apart(&chart);
    mark_best(&chart, c);
    kd_svg_chart(p->out, &chart, p->ids++);

    chart.n_series = 0;
    chart.y_label = "accuracy";
    chart.percent = true;
    chart.y_log = false;
    snprintf(title, sizeof title, "Accuracy of the %s", name);
    snprintf(description, sizeof description,
             "Accuracy in training and validation over the %ss; at last %s in training and %s in "
             "validation.",
             x_name(c), kd_fmt_percent(c->column[COLUMN_TRAIN_ACCURACY][last], a),
             kd_fmt_percent(c->column[COLUMN_VAL_ACCURACY][last], b));
    chart.series[chart.n_series++] =
        line_of(c, COLUMN_TRAIN_ACCURACY, "training", color, KD_DASHED);
    chart.series[chart.n_series++] = line_of(c, COLUMN_VAL_ACCURACY, "validation", color, KD_LINE);
    kd_svg_chart(p->out, &chart, p->ids++);
}

static void shares_chart(kd_page *p, const curves *c, const char *network)
{
    const Distill__V1__StageRecord *s = c->stage;
    size_t terms = KD_MIN(s->n_terms, (size_t)KD_SVG_SERIES), n = 0;
    /* One term has it all. */
    if (terms < 2)
        return;
    double *y = malloc(c->n * (terms + 1) * sizeof *y);
    if (!y)
        return;
    double *x = y + c->n * terms;
    char title[96];
    snprintf(title, sizeof title, "Gradient shares of the %s's loss terms",
             kd_network_title(network));
    for (size_t i = 0; i < c->n; i++) {
        if (s->epochs[i]->n_shares < terms)
            continue;
        x[n] = c->column[COLUMN_X][i];
        for (size_t t = 0; t < terms; t++)
            y[t * c->n + n] = s->epochs[i]->shares[t];
        n++;
    }
    kd_chart chart = {.title = title,
                      .description = "Share of each term of the loss in the gradient on the "
                                     "logits, one on the other.",
                      .x_label = x_name(c),
                      .y_label = "share of the gradient",
                      .percent = true,
                      .x_whole = true,
                      .mark_x = NAN};
    for (size_t t = 0; t < terms; t++)
        chart.series[chart.n_series++] = (kd_series){/* Other colours than those of the networks. */
                                                     .label = s->terms[t],
                                                     .color = (int)t + 4,
                                                     .n = n,
                                                     .x = x,
                                                     .y = y + t * c->n};
    if (n > 0)
        kd_svg_stack(p->out, &chart, p->ids++);
    free(y);
}

/* Curves of several stages in one drawing. */
static void together(kd_page *p, const curves *c, const char *const *names, int n, enum column k,
                     const char *title, const char *description, const char *y_label, bool percent)
{
    kd_chart chart = {.title = title,
                      .description = description,
                      .x_label = n ? x_name(&c[0]) : "",
                      .y_label = y_label,
                      .percent = percent,
                      .x_whole = true,
                      .mark_x = NAN};
    double from = INFINITY, to = -INFINITY;
    double level_x[KD_SVG_SERIES][2], level_y[KD_SVG_SERIES][2];
    for (int i = 0; i < n; i++)
        if (strncmp(names[i], "teacher", 7) != 0 && has(&c[i], k)) {
            from = KD_MIN(from, c[i].column[COLUMN_X][0]);
            to = KD_MAX(to, c[i].column[COLUMN_X][c[i].n - 1]);
        }
    for (int i = 0; i < n && chart.n_series < KD_SVG_SERIES; i++) {
        bool level = strncmp(names[i], "teacher", 7) == 0;
        if (!has(&c[i], k) || (level && k != COLUMN_VAL_ACCURACY))
            continue;
        int at = chart.n_series++;
        int color = kd_network_color(names[i]);
        if (!level || !(to > from)) {
            chart.series[at] = line_of(&c[i], k, kd_network_title(names[i]), color, KD_LINE);
            continue;
        }
        /* The teacher was trained before: it is a level to reach. */
        level_x[at][0] = from;
        level_x[at][1] = to;
        level_y[at][0] = level_y[at][1] = c[i].column[k][c[i].n - 1];
        chart.series[at] = (kd_series){.label = kd_network_title(names[i]),
                                       .color = color,
                                       .style = KD_DOTTED,
                                       .n = 2,
                                       .x = level_x[at],
                                       .y = level_y[at]};
    }
    if (chart.n_series > 0)
        kd_svg_chart(p->out, &chart, p->ids++);
}

static void epochs_table(kd_page *p, const curves *c, const char *network)
{
    kd_grid g;
    char caption[96], a[KD_FMT], interval[64];
    const Distill__V1__StageRecord *s = c->stage;
    int best = kd_view_best(s);
    snprintf(caption, sizeof caption, "Epochs of the %s", kd_network_title(network));
    (void)kd_buf_str(p->out, "<details><summary>Numbers: ");
    kd_html_text(p->out, caption);
    (void)kd_buf_str(p->out, "</summary>");
    kd_grid_open(&g, p->out, caption,
                 "Epoch|Step>|Training loss>|Training accuracy>|Validation loss>|"
                 "Validation accuracy>|95 % interval>|Correct>|Agreement>|KL>|Learning rate>|");
    size_t stride = (c->n + MAX_EPOCH_ROWS - 1) / MAX_EPOCH_ROWS;
    for (size_t i = 0; i < c->n; i++) {
        const Distill__V1__EpochRecord *e = s->epochs[i];
        if (i % stride != 0 && (int)i != best && i + 1 != c->n)
            continue;
        kd_grid_row(&g, (int)i == best);
        kd_grid_cell(&g, "%u", e->epoch);
        if (e->step)
            kd_grid_cell(&g, "%llu", (unsigned long long)e->step);
        else
            kd_grid_cell(&g, "%s", "");
        static const enum column figures[] = {COLUMN_TRAIN_LOSS, COLUMN_TRAIN_ACCURACY,
                                              COLUMN_VAL_LOSS, COLUMN_VAL_ACCURACY};
        for (size_t k = 0; k < KD_COUNT(figures); k++) {
            double v = c->column[figures[k]][i];
            kd_grid_cell(&g, "%s", k % 2 ? kd_fmt_percent(v, a) : kd_fmt_figure(v, a));
        }
        kd_page_interval(interval, sizeof interval, c->column[COLUMN_VAL_LO][i],
                         c->column[COLUMN_VAL_HI][i], false);
        kd_grid_cell(&g, "%s", interval);
        kd_grid_cell(&g, "%u/%u", e->val_correct, e->val_samples);
        kd_grid_cell(&g, "%s", kd_fmt_percent(c->column[COLUMN_AGREEMENT][i], a));
        kd_grid_cell(&g, "%s", kd_fmt_figure(c->column[COLUMN_KL][i], a));
        kd_grid_cell(&g, "%s", kd_fmt_figure(c->column[COLUMN_RATE][i], a));
        kd_grid_cell(&g, "%s", (int)i == best ? "best" : "");
    }
    kd_grid_close(&g);
    if (stride > 1)
        (void)kd_buf_printf(p->out,
                            "<p class=\"mut\">One row in %zu; `distill report -o csv` has all "
                            "%zu.</p>\n",
                            stride, c->n);
    (void)kd_buf_str(p->out, "</details>\n");
}

static void all_curves(kd_page *p, const kd_report_job *j)
{
    curves c[KD_REPORT_NETWORKS];
    const char *names[KD_REPORT_NETWORKS];
    int n = 0;
    for (int i = 0; i < j->n_networks; i++) {
        const Distill__V1__StageRecord *s = j->networks[i].stage;
        if (!s || s->n_epochs == 0)
            continue;
        if (curves_init(&c[n], s))
            names[n++] = j->networks[i].name;
        else
            p->out->failed = true;
    }
    if (n == 0)
        return;
    (void)kd_buf_str(p->out, "<h3>Curves</h3>\n<div class=\"charts\">\n");
    together(p, c, names, n, COLUMN_VAL_ACCURACY, "Validation accuracy",
             "Accuracy of the student and its from-scratch twin on the validation split, with the "
             "teacher's as a level.",
             "accuracy", true);
    for (int i = 0; i < n; i++)
        stage_charts(p, &c[i], names[i]);
    for (int i = 0; i < n; i++)
        shares_chart(p, &c[i], names[i]);
    together(p, c, names, n, COLUMN_AGREEMENT, "Agreement with the teacher",
             "Share of the validation pictures on which teacher and student name the same class.",
             "agreement", true);
    together(p, c, names, n, COLUMN_KL, "KL divergence from the teacher",
             "Mean Kullback-Leibler divergence from the teacher's to the student's probabilities "
             "at T = 1, in nats.",
             "KL (nats)", false);
    together(p, c, names, n, COLUMN_RATE, "Learning rate",
             "Learning rate of the optimiser at each evaluation.", "learning rate", false);
    (void)kd_buf_str(p->out, "</div>\n");
    for (int i = 0; i < n; i++) {
        epochs_table(p, &c[i], names[i]);
        curves_clear(&c[i]);
    }
}

/* ---- bank and provenance */

static void fact(kd_buf *out, const char *term, const char *text)
{
    if (!text[0])
        return;
    (void)kd_buf_printf(out, "<dt>%s</dt><dd>", term);
    kd_html_text(out, text);
    (void)kd_buf_str(out, "</dd>");
}

static void bank(kd_page *p, const kd_report_job *j)
{
    const kd_bank_account *b = &j->bank;
    char text[KD_FMT];
    if (!b->there)
        return;
    (void)kd_buf_str(p->out, "<h3>Logit bank</h3>\n<dl class=\"facts\">");
    if (isfinite(b->asked))
        fact(p->out, "views asked", kd_fmt_count((uint64_t)b->asked, text));
    if (isfinite(b->served))
        fact(p->out, "served from the bank", kd_fmt_count((uint64_t)b->served, text));
    if (isfinite(b->computed))
        fact(p->out, "computed by the teacher", kd_fmt_count((uint64_t)b->computed, text));
    if (isfinite(b->seconds))
        fact(p->out, "teacher's time", kd_fmt_duration(b->seconds, text));
    if (isfinite(b->seconds_saved))
        fact(p->out, "time saved", kd_fmt_duration(b->seconds_saved, text));
    (void)kd_buf_str(p->out, "</dl>\n");
}

static void digests(kd_page *p, const kd_report_job *j)
{
    kd_grid g;
    (void)kd_buf_str(p->out, "<h3>Provenance</h3>\n");
    kd_grid_open(&g, p->out, "Digests of the stages",
                 "Stage|State|Steps>|Parameters|Best version|Numeric fingerprint|Notes");
    for (size_t i = 0; i < j->detail->n_stages; i++) {
        const Distill__V1__StageRecord *s = j->detail->stages[i];
        char notes[160] = "";
        if (s->shared[0])
            snprintf(notes, sizeof notes, "taken from job %.32s", s->shared);
        else if (s->stopped_early)
            snprintf(notes, sizeof notes, "stopped early at step %llu",
                     (unsigned long long)s->stopped_early);
        kd_grid_row(&g, false);
        kd_grid_cell(&g, "%s", s->name);
        kd_grid_cell(&g, "%s", s->state);
        kd_grid_cell(&g, "%llu/%llu", (unsigned long long)s->committed,
                     (unsigned long long)s->steps);
        kd_grid_cell(&g, "%s", s->digest);
        kd_grid_cell(&g, "%s", s->best_digest);
        kd_grid_cell(&g, "%s", s->fingerprint);
        kd_grid_cell(&g, "%s", notes);
    }
    kd_grid_close(&g);
    if (j->detail->n_artefacts == 0)
        return;
    kd_grid_open(&g, p->out, "Files", "Artefact|Size>|Digest of the file");
    for (size_t i = 0; i < j->detail->n_artefacts; i++) {
        char a[KD_FMT];
        kd_grid_row(&g, false);
        kd_grid_cell(&g, "%s", j->detail->artefacts[i]->name);
        kd_grid_cell(&g, "%s", kd_fmt_bytes((double)j->detail->artefacts[i]->size, a));
        kd_grid_cell(&g, "%s", j->detail->artefacts[i]->digest);
    }
    kd_grid_close(&g);
}

static void data_facts(kd_page *p, const kd_report_job *j)
{
    static const char *const keys[][2] = {
        {"path", "data set"},           {"digest", "data digest"},
        {"train", "training pictures"}, {"val", "validation pictures"},
        {"test", "test pictures"},      {"unlabelled", "unlabelled pictures"}};
    const json_t *data = json_object_get(j->result, "data");
    (void)kd_buf_str(p->out, "<dl class=\"facts\">");
    for (size_t i = 0; i < KD_COUNT(keys); i++) {
        const json_t *v = json_object_get(data, keys[i][0]);
        char a[KD_FMT];
        if (json_is_string(v))
            fact(p->out, keys[i][1], json_string_value(v));
        else if (json_is_integer(v) && json_integer_value(v) > 0)
            fact(p->out, keys[i][1], kd_fmt_count((uint64_t)json_integer_value(v), a));
    }
    fact(p->out, "continues job", j->detail->continued);
    fact(p->out, "runs again job", j->detail->replayed);
    (void)kd_buf_str(p->out, "</dl>\n");
}

/* Folded, since it can be long. */
static void log_list(kd_page *p, const kd_report_job *j, const char *key, const char *title)
{
    size_t i, n = 0;
    const json_t *o;
    json_array_foreach(j->log, i, o)
    {
        const char *s = json_string_value(json_object_get(o, key));
        if (!s)
            continue;
        if (n++ == 0)
            (void)kd_buf_printf(p->out, "<details><summary>%s</summary><ul><li>", title);
        else
            (void)kd_buf_str(p->out, "</li><li>");
        kd_html_text(p->out, s);
    }
    if (n > 0)
        (void)kd_buf_str(p->out, "</li></ul></details>\n");
}

static void folded(kd_page *p, const char *title, const char *text)
{
    if (!text || !text[0])
        return;
    (void)kd_buf_printf(p->out, "<details><summary>%s</summary><pre>", title);
    /* Lines stay lines: only they are cleaned and escaped. */
    for (const char *s = text; *s;) {
        size_t n = strcspn(s, "\n");
        char *line = strndup(s, n);
        if (line)
            kd_html_text(p->out, line);
        else
            p->out->failed = true;
        free(line);
        s += n;
        if (*s) {
            (void)kd_buf_str(p->out, "\n");
            s++;
        }
    }
    (void)kd_buf_str(p->out, "</pre></details>\n");
}

static void job_files(kd_page *p, const kd_report_job *j)
{
    char *text = kd_json_dump(j->resolved, JSON_INDENT(2));
    folded(p, "The resolved job: every default filled in", text);
    free(text);
    folded(p, "The job file as it was submitted", j->detail->text);
}

static void times(kd_page *p, const Distill__V1__JobSummary *s)
{
    char a[KD_FMT];
    (void)kd_buf_str(p->out, "<dl class=\"facts\">");
    fact(p->out, "job", s->job);
    fact(p->out, "sweep", s->sweep);
    fact(p->out, "submitted", kd_clock_iso(s->submitted_ms, a));
    fact(p->out, "started", kd_clock_iso(s->started_ms, a));
    fact(p->out, "finished", kd_clock_iso(s->finished_ms, a));
    if (s->started_ms)
        fact(p->out, s->finished_ms ? "took" : "running for",
             kd_fmt_age(s->started_ms, s->finished_ms ? s->finished_ms : p->report->now_ms, a));
    fact(p->out, "reason", s->reason);
    (void)kd_buf_str(p->out, "</dl>\n");
}

void kd_page_job(kd_page *p, const kd_report_job *j)
{
    const Distill__V1__JobSummary *s = j->detail->summary;
    char sentence[320];
    bool failed = s->state == DISTILL__V1__JOB_STATE__JOB_STATE_FAILED;
    (void)kd_buf_str(p->out, "<article id=\"job-");
    kd_html_text(p->out, s->job);
    (void)kd_buf_str(p->out, "\"><h2>");
    kd_page_job_name(p->out, j);
    (void)kd_buf_printf(p->out, " <span class=\"pill%s\">%s</span></h2>\n",
                        failed                                                    ? " bad"
                        : s->state == DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED ? " good"
                                                                                  : "",
                        kd_state_word(s->state));
    times(p, s);
    (void)kd_buf_str(p->out, "<div class=\"cards\">\n");
    for (int i = 0; i < j->n_networks; i++)
        card(p->out, j, &j->networks[i]);
    (void)kd_buf_str(p->out, "</div>\n");
    if (kd_pair_sentence(kd_report_twin_pair(j), sentence, sizeof sentence))
        (void)kd_buf_printf(p->out, "<p><strong>%c%s.</strong></p>\n", sentence[0] - 'a' + 'A',
                            sentence + 1);
    if (!kd_state_ended(s->state))
        (void)kd_buf_str(p->out, "<p class=\"mut\">The job has not ended: these are the figures "
                                 "so far.</p>\n");
    results(p, j);
    pairs(p, j);
    all_curves(p, j);
    kd_page_evaluation(p, j);
    bank(p, j);
    digests(p, j);
    data_facts(p, j);
    log_list(p, j, "warning", "Warnings");
    log_list(p, j, "event", "What happened");
    log_list(p, j, "worker", "Workers at the coordinator when this report was made");
    job_files(p, j);
    (void)kd_buf_str(p->out, "</article>\n");
}

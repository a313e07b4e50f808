/* Several jobs side by side: a table, intervals one below the other, and for a sweep the figures
 * over each numeric key. */
#include "report_page.h"

#include "format.h"
#include "views.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CAPTION(what)                                                                              \
    what "; accuracy of the best version on test where there is a test split, else of the last "   \
         "version on validation"
#define MAX_DIFFERENT 12 /* keys of jobs that were set differently */

static const kd_score *score_of_network(const kd_report_job *j, const char *network)
{
    const kd_network *n = kd_report_network(j, network);
    const kd_score *s = n ? kd_report_score(j, n) : NULL;
    return s && s->there ? s : NULL;
}

/* ---- keys in which jobs differ */

typedef struct flat {
    char key[128], text[128];
} flat;
typedef struct flat_list {
    flat *rows;
    size_t n, cap;
} flat_list;

static void flatten(flat_list *l, const char *prefix, json_t *v, int depth)
{
    const char *key;
    json_t *below;
    if (json_is_object(v) && depth < 8) {
        json_object_foreach(v, key, below)
        {
            char name[sizeof l->rows->key];
            snprintf(name, sizeof name, "%s%s%.100s", prefix, prefix[0] ? "." : "", key);
            flatten(l, name, below, depth + 1);
        }
        return;
    }
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 128;
        flat *rows = cap <= 4096 ? realloc(l->rows, cap * sizeof *rows) : NULL;
        if (!rows)
            return;
        l->rows = rows;
        l->cap = cap;
    }
    flat *f = &l->rows[l->n++];
    snprintf(f->key, sizeof f->key, "%s", prefix);
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
    const char *shown = json_is_string(v) ? json_string_value(v) : text;
    snprintf(f->text, sizeof f->text, "%s", shown ? shown : "");
    free(text);
}

static const char *flat_text(const flat_list *l, const char *key)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->rows[i].key, key) == 0)
            return l->rows[i].text;
    return "";
}

/* Finds keys whose values are not the same in all jobs; a few, in the order of the file. */
static int different_keys(const flat_list *lists, size_t n, char keys[MAX_DIFFERENT][128])
{
    int found = 0;
    for (size_t l = 0; l < n; l++)
        for (size_t i = 0; i < lists[l].n && found < MAX_DIFFERENT; i++) {
            const flat *f = &lists[l].rows[i];
            bool same = true, again = false;
            for (size_t k = 0; k < n && same; k++)
                same = strcmp(flat_text(&lists[k], f->key), f->text) == 0;
            for (int k = 0; k < found && !again; k++)
                again = strcmp(keys[k], f->key) == 0;
            if (!same && !again && strcmp(f->key, "name") != 0)
                snprintf(keys[found++], sizeof keys[0], "%s", f->key);
        }
    return found;
}

static void differences(kd_page *p, size_t n_jobs)
{
    char keys[MAX_DIFFERENT][128];
    flat_list *lists = calloc(n_jobs, sizeof *lists);
    if (!lists) {
        p->out->failed = true;
        return;
    }
    for (size_t i = 0; i < n_jobs; i++)
        if (p->report->jobs[i]->resolved)
            flatten(&lists[i], "", p->report->jobs[i]->resolved, 0);
    int n = different_keys(lists, n_jobs, keys);
    kd_grid g;
    if (n > 0) {
        char spec[64] = "Key";
        size_t shown = KD_MIN(n_jobs, (size_t)8);
        for (size_t i = 0; i < shown; i++)
            snprintf(spec + strlen(spec), sizeof spec - strlen(spec), "|Job %zu", i + 1);
        kd_grid_open(&g, p->out, "What was set differently", spec);
        for (int k = 0; k < n; k++) {
            kd_grid_row(&g, false);
            kd_grid_cell(&g, "%s", keys[k]);
            for (size_t i = 0; i < shown; i++)
                kd_grid_cell(&g, "%s", flat_text(&lists[i], keys[k]));
        }
        kd_grid_close(&g);
    }
    for (size_t i = 0; i < n_jobs; i++)
        free(lists[i].rows);
    free(lists);
}

/* ---- tables of jobs */

static void score_cells(kd_grid *g, const kd_score *s)
{
    char a[KD_FMT], interval[64];
    if (!s || !s->there) {
        kd_grid_cell(g, "%s", "");
        kd_grid_cell(g, "%s", "");
        return;
    }
    kd_page_interval(interval, sizeof interval, s->lo, s->hi, false);
    kd_grid_cell(g, "%s", kd_fmt_percent(s->accuracy, a));
    kd_grid_cell(g, "%s", interval);
}

static void job_label(const kd_report_job *j, size_t number, char *out, size_t size)
{
    const Distill__V1__JobSummary *s = j->detail->summary;
    if (s->label[0])
        snprintf(out, size, "%s", s->label);
    else
        snprintf(out, size, "%zu %s", number, s->name[0] ? s->name : s->job);
}

/* sweep -1: every job. */
static void jobs_table(kd_page *p, int sweep, const char *caption)
{
    kd_grid g;
    char label[256], interval[64];
    kd_grid_open(&g, p->out, caption,
                 sweep < 0 ? "Job|Id|State|Teacher>|Student>|95 % interval>|Twin>|95 % interval>|"
                             "Student − twin>|95 % interval>|Verdict|Took>"
                           : "Values|Id|State|Teacher>|Student>|95 % interval>|Twin>|"
                             "95 % interval>|Student − twin>|95 % interval>|Verdict|Took>");
    for (size_t i = 0; i < p->report->n_jobs; i++) {
        const kd_report_job *j = p->report->jobs[i];
        const Distill__V1__JobSummary *s = j->detail->summary;
        const kd_score *teacher = score_of_network(j, "teacher");
        const kd_pair *q = kd_report_twin_pair(j);
        char a[KD_FMT];
        if (sweep >= 0 && j->sweep != sweep)
            continue;
        job_label(j, i + 1, label, sizeof label);
        kd_grid_row(&g, j->best);
        kd_grid_cell(&g, "%s%s", label, j->best ? " (best by validation)" : "");
        kd_grid_cell(&g, "%s", s->job);
        kd_grid_cell(&g, "%s", kd_state_word(s->state));
        kd_grid_cell(&g, "%s", teacher ? kd_fmt_percent(teacher->accuracy, a) : "");
        score_cells(&g, score_of_network(j, "student"));
        score_cells(&g, score_of_network(j, "scratch"));
        if (q) {
            kd_grid_cell(&g, "%+.1f", q->difference * 100);
            kd_page_interval(interval, sizeof interval, q->lo, q->hi, true);
            kd_grid_cell(&g, "%s", interval);
            kd_grid_cell(&g, "%s", kd_verdict_word(kd_verdict_of(q->lo, q->hi)));
        } else {
            for (int k = 0; k < 3; k++)
                kd_grid_cell(&g, "%s", "");
        }
        kd_grid_cell(&g, "%s",
                     s->started_ms && s->finished_ms ? kd_fmt_age(s->started_ms, s->finished_ms, a)
                                                     : "");
    }
    kd_grid_close(&g);
}

static void intervals_of_jobs(kd_page *p, int sweep, const char *title)
{
    size_t n = 0;
    kd_interval_row *rows = calloc(p->report->n_jobs + 1, 2 * sizeof *rows);
    char(*labels)[256] = calloc(p->report->n_jobs + 1, sizeof *labels);
    if (!rows || !labels) {
        p->out->failed = true;
        free(rows);
        free(labels);
        return;
    }
    for (size_t i = 0; i < p->report->n_jobs && n < 2 * 40; i++) {
        const kd_report_job *j = p->report->jobs[i];
        const kd_score *s = score_of_network(j, "student"), *twin = score_of_network(j, "scratch");
        if (sweep >= 0 && j->sweep != sweep)
            continue;
        job_label(j, i + 1, labels[i], sizeof labels[i]);
        if (s)
            rows[n++] =
                (kd_interval_row){labels[i], s->accuracy, s->lo, s->hi, j->best ? 2 : 0, j->best};
        /* A twin is shown beside its student when there are few jobs. */
        if (twin && p->report->n_jobs <= 8)
            rows[n++] = (kd_interval_row){
                "   its from-scratch twin", twin->accuracy, twin->lo, twin->hi, 1, false};
    }
    kd_svg_intervals(p->out, title,
                     "Accuracy of each student with its 95 % Wilson interval, one below the other.",
                     rows, n, false, p->ids++);
    free(rows);
    free(labels);
}

/* ---- figures over a numeric key */

static int by_number(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static const kd_sweep_value *value_of(const kd_report_job *j, const char *key)
{
    for (int i = 0; i < j->n_values; i++)
        if (strcmp(j->values[i].key, key) == 0)
            return &j->values[i];
    return NULL;
}

/* The group's label without one key: groups that share it are one line. */
static void without_key(const kd_report_job *j, const char *key, char *out, size_t size)
{
    size_t n = 0;
    out[0] = '\0';
    for (int i = 0; i < j->n_values && n < size; i++) {
        const kd_sweep_value *v = &j->values[i];
        if (strcmp(v->key, key) != 0 && strcmp(v->key, "seed") != 0)
            n += (size_t)snprintf(out + n, size - n, "%s%s=%s", n ? " " : "", v->key, v->text);
    }
}

typedef struct key_line {
    char label[KD_REPORT_LABEL + 16];
    double *x, *y, *lo, *hi; /* [n] */
    size_t n;
} key_line;

/* One seed says nothing about the spread over seeds; its interval is then over the pictures. */
static void add_point(key_line *line, double x, const kd_group *g, bool test)
{
    const struct kd_mean *m = test ? &g->test : &g->val;
    size_t at = line->n++;
    line->x[at] = x;
    line->y[at] = m->mean;
    line->lo[at] = m->lo;
    line->hi[at] = m->hi;
    if (m->n == 1) {
        const kd_network *s = kd_report_network(g->first, "student");
        bool best = kd_report_tested(g->first);
        const kd_score *score = !s                      ? NULL
                                : test                  ? kd_report_score(g->first, s)
                                : best && s->best.there ? &s->best
                                                        : &s->val;
        line->lo[at] = score ? score->lo : NAN;
        line->hi[at] = score ? score->hi : NAN;
    }
}

static void sort_line(key_line *line)
{
    for (size_t i = 1; i < line->n; i++)
        for (size_t k = i; k > 0 && line->x[k] < line->x[k - 1]; k--) {
            double *const columns[] = {line->x, line->y, line->lo, line->hi};
            for (size_t c = 0; c < KD_COUNT(columns); c++) {
                double t = columns[c][k];
                columns[c][k] = columns[c][k - 1];
                columns[c][k - 1] = t;
            }
        }
}

static size_t distinct(double *x, size_t n)
{
    size_t kept = 0;
    qsort(x, n, sizeof *x, by_number);
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || x[i] != x[kept - 1])
            x[kept++] = x[i];
    return kept;
}

static void key_chart(kd_page *p, const char *key, const kd_group *groups, size_t n)
{
    /* Two lines, validation and test, for each combination of the other keys. */
    double *all = calloc(n, (4 * KD_SVG_SERIES + 1) * sizeof *all);
    key_line *lines = calloc(KD_SVG_SERIES, sizeof *lines);
    size_t n_lines = 0, n_ticks = 0;
    char rest[KD_REPORT_LABEL], title[200];
    bool test = false;
    for (size_t g = 0; g < n; g++)
        test = test || groups[g].test.n > 0;
    for (size_t i = 0; all && lines && i < KD_SVG_SERIES; i++) {
        double *own = all + (1 + 4 * i) * n;
        lines[i] = (key_line){.x = own, .y = own + n, .lo = own + 2 * n, .hi = own + 3 * n};
    }
    for (size_t g = 0; all && lines && g < n; g++) {
        const kd_sweep_value *v = value_of(groups[g].first, key);
        if (!v || !isfinite(v->number))
            continue;
        without_key(groups[g].first, key, rest, sizeof rest);
        for (int what = 0; what < (test ? 2 : 1); what++) {
            char label[sizeof lines->label];
            snprintf(label, sizeof label, "%s%s%s", what ? "test" : "validation",
                     rest[0] ? ", " : "", rest);
            size_t l = 0;
            while (l < n_lines && strcmp(lines[l].label, label) != 0)
                l++;
            if (l == n_lines && l == KD_SVG_SERIES)
                continue;
            if (l == n_lines)
                memcpy(lines[n_lines++].label, label, sizeof label);
            add_point(&lines[l], v->number, &groups[g], what == 1);
        }
        all[n_ticks++] = v->number;
    }
    n_ticks = all ? distinct(all, n_ticks) : 0;
    if (n_ticks > 1) {
        const char *dot = strrchr(key, '.');
        snprintf(title, sizeof title, "Student's accuracy over %s", dot ? dot + 1 : key);
        kd_chart chart = {.title = title,
                          .description = "Accuracy of the students, best version by validation, "
                                         "for each value of the key, with 95 % intervals.",
                          .x_label = key,
                          .y_label = "accuracy",
                          .percent = true,
                          .x_log = all[0] > 0 && all[n_ticks - 1] >= 8 * all[0],
                          .x_ticks = all,
                          .n_x_ticks = n_ticks,
                          .mark_x = NAN};
        for (size_t l = 0; l < n_lines; l++) {
            sort_line(&lines[l]);
            bool is_test = strncmp(lines[l].label, "test", 4) == 0;
            chart.series[chart.n_series++] =
                (kd_series){.label = lines[l].label,
                            .color = n_lines <= 2 ? (is_test ? 2 : 0) : (int)l,
                            .style = is_test ? KD_MARKS : KD_DASHED,
                            .n = lines[l].n,
                            .x = lines[l].x,
                            .y = lines[l].y,
                            .lo = lines[l].lo,
                            .hi = lines[l].hi};
        }
        if (!test && n_lines == 1)
            chart.series[0].style = KD_MARKS;
        kd_svg_chart(p->out, &chart, p->ids++);
    }
    free(lines);
    free(all);
}

static void groups_table(kd_page *p, const kd_group *groups, size_t n)
{
    kd_grid g;
    char a[KD_FMT], interval[64];
    kd_grid_open(&g, p->out, "Over seeds: mean and 95 % t interval",
                 "Values|Seeds>|Validation>|95 % interval>|Test>|95 % interval>|"
                 "Student − twin>|95 % interval>|Verdict");
    for (size_t i = 0; i < n; i++) {
        const kd_group *q = &groups[i];
        kd_grid_row(&g, q->has_best);
        kd_grid_cell(&g, "%s", q->label[0] ? q->label : "all");
        kd_grid_cell(&g, "%zu", q->n);
        kd_grid_cell(&g, "%s", kd_fmt_percent(q->val.mean, a));
        kd_page_interval(interval, sizeof interval, q->val.lo, q->val.hi, false);
        kd_grid_cell(&g, "%s", interval);
        kd_grid_cell(&g, "%s", kd_fmt_percent(q->test.mean, a));
        kd_page_interval(interval, sizeof interval, q->test.lo, q->test.hi, false);
        kd_grid_cell(&g, "%s", interval);
        if (q->difference.n > 0)
            kd_grid_cell(&g, "%+.1f", q->difference.mean * 100);
        else
            kd_grid_cell(&g, "%s", "");
        kd_page_interval(interval, sizeof interval, q->difference.lo, q->difference.hi, true);
        kd_grid_cell(&g, "%s", interval);
        enum kd_verdict v = kd_verdict_of(q->difference.lo, q->difference.hi);
        kd_grid_cell(&g, "%s", v == KD_VERDICT_UNKNOWN ? "" : kd_verdict_word(v));
    }
    kd_grid_close(&g);
}

static void sweep_bank(kd_page *p, const kd_bank_account *b)
{
    char asked[KD_FMT], served[KD_FMT], computed[KD_FMT], saved[KD_FMT];
    if (!b->there || !isfinite(b->asked) || !isfinite(b->served) || !isfinite(b->computed))
        return;
    (void)kd_buf_printf(
        p->out,
        "<p>The children share one logit bank: %s views were asked, %s served "
        "from it, %s computed by the teacher; %s saved.</p>\n",
        kd_fmt_count((uint64_t)b->asked, asked), kd_fmt_count((uint64_t)b->served, served),
        kd_fmt_count((uint64_t)b->computed, computed),
        isfinite(b->seconds_saved) ? kd_fmt_duration(b->seconds_saved, saved) : "an unknown time");
}

void kd_page_sweep(kd_page *p, int sweep)
{
    const kd_report_sweep *s = &p->report->sweeps[sweep];
    const Distill__V1__JobSummary *summary = s->detail->summary;
    size_t n = 0;
    kd_group *groups = kd_report_groups(p->report, sweep, &n);
    bool seeds = false;
    (void)kd_buf_str(p->out, "<section><h2>Sweep ");
    kd_html_text(p->out, summary->name);
    (void)kd_buf_str(p->out, " <span class=\"mut mono\">");
    kd_html_text(p->out, summary->job);
    (void)kd_buf_printf(p->out, "</span></h2>\n<p>%u of %u jobs are over.</p>\n",
                        summary->children_over, summary->children);
    for (size_t g = 0; g < n; g++)
        seeds = seeds || groups[g].n > 1;
    sweep_bank(p, &s->bank);
    (void)kd_buf_str(p->out, "<div class=\"charts\">\n");
    for (int k = 0; n > 1 && k < groups[0].first->n_values; k++) {
        const kd_sweep_value *v = &groups[0].first->values[k];
        if (strcmp(v->key, "seed") != 0)
            key_chart(p, v->key, groups, n);
    }
    intervals_of_jobs(p, sweep, "Students");
    (void)kd_buf_str(p->out, "</div>\n");
    if (seeds)
        groups_table(p, groups, n);
    jobs_table(p, sweep, CAPTION("Children"));
    (void)kd_buf_str(p->out, "</section>\n");
    free(groups);
}

void kd_page_compare(kd_page *p)
{
    (void)kd_buf_str(p->out, "<section><h2>Side by side</h2>\n<div class=\"charts\">\n");
    intervals_of_jobs(p, -1, "Students");
    (void)kd_buf_str(p->out, "</div>\n");
    jobs_table(p, -1, CAPTION("Jobs"));
    differences(p, p->report->n_jobs);
    (void)kd_buf_str(p->out, "</section>\n");
}

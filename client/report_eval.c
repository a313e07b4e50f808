/* What a network confuses, class by class, and pictures with the networks' guesses. */
#include "report_page.h"

#include "format.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MANY_CLASSES 12    /* with more, headings stand upright */
#define WIDE_CHARS 24      /* so they do when they are longer together */
#define MAX_CLASS_ROWS 100 /* of the table of classes */

static const char *class_name(const kd_report_job *j, int c, char number[16])
{
    if (c < j->n_classes)
        return j->classes[c];
    snprintf(number, 16, "%d", c);
    return number;
}

static const char *split_word(const char *split)
{
    return strcmp(split, "val") == 0 ? "validation" : split;
}

static void confusion(kd_page *p, const kd_report_job *j, const kd_eval *e)
{
    kd_buf *out = p->out;
    int n = e->n_classes;
    char number[16], caption[160], a[KD_FMT];
    snprintf(caption, sizeof caption, "%.40s on the %.16s split: %s of %llu right",
             kd_network_title(e->network), split_word(e->split),
             kd_fmt_percent(e->score.accuracy, a), (unsigned long long)e->score.samples);
    (void)kd_buf_str(out, "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"");
    kd_html_text(out, caption);
    int wide = 0;
    for (int c = 0; c < n; c++)
        wide += kd_text_width(class_name(j, c, number));
    (void)kd_buf_printf(out, "\"><table class=\"heat%s\"><caption><span>",
                        n > MANY_CLASSES || wide > WIDE_CHARS ? " upright" : "");
    kd_html_text(out, caption);
    (void)kd_buf_str(out, "</span></caption><thead><tr><th scope=\"col\">true \\ named</th>");
    for (int c = 0; c < n; c++) {
        (void)kd_buf_str(out, "<th scope=\"col\"><span>");
        kd_html_text(out, class_name(j, c, number));
        (void)kd_buf_str(out, "</span></th>");
    }
    (void)kd_buf_str(out, "</tr></thead><tbody>\n");
    for (int r = 0; r < n; r++) {
        const uint64_t *row = e->confusion + (size_t)r * (size_t)n;
        double all = 0;
        for (int c = 0; c < n; c++)
            all += (double)row[c];
        (void)kd_buf_str(out, "<tr><th scope=\"row\"><span>");
        kd_html_text(out, class_name(j, r, number));
        (void)kd_buf_str(out, "</span></th>");
        for (int c = 0; c < n; c++) {
            double share = all > 0 ? (double)row[c] / all : 0;
            (void)kd_buf_printf(out, "<td class=\"%s%s\" style=\"--v:%.2f\">%llu</td>",
                                r == c ? "diag" : "",
                                share > 0.85  ? " hi"
                                : share > 0.6 ? " mid"
                                              : "",
                                share, (unsigned long long)row[c]);
        }
        (void)kd_buf_str(out, "</tr>\n");
    }
    (void)kd_buf_str(out, "</tbody></table></div>\n");
}

/* Evaluations on the split that matters: test where there is one. */
static int pick(const kd_report_job *j, const kd_eval *out[KD_REPORT_NETWORKS])
{
    bool test = false;
    int n = 0;
    for (int i = 0; i < j->n_evals; i++)
        test = test || strcmp(j->evals[i].split, "test") == 0;
    for (int i = 0; i < j->n_evals && n < KD_REPORT_NETWORKS; i++)
        if (strcmp(j->evals[i].split, test ? "test" : "val") == 0 && j->evals[i].samples)
            out[n++] = &j->evals[i];
    return n;
}

typedef struct class_rank {
    int number;
    double accuracy;
} class_rank;

static int by_accuracy(const void *a, const void *b)
{
    const class_rank *x = a, *y = b;
    if (x->accuracy != y->accuracy)
        return x->accuracy < y->accuracy ? -1 : 1;
    return x->number - y->number;
}

static void class_cell(kd_page *p, const kd_eval *e, int c)
{
    char a[KD_FMT];
    if (c >= e->n_classes || e->samples[c] == 0) {
        (void)kd_buf_str(p->out, "<td>–</td>");
        return;
    }
    double accuracy = (double)e->correct[c] / (double)e->samples[c];
    (void)kd_buf_printf(p->out,
                        "<td><span class=\"bar c%d\" aria-hidden=\"true\"><i "
                        "style=\"width:%.0f%%\"></i></span>%s (%llu/%llu)</td>",
                        kd_network_color(e->network), accuracy * 100, kd_fmt_percent(accuracy, a),
                        (unsigned long long)e->correct[c], (unsigned long long)e->samples[c]);
}

static void per_class(kd_page *p, const kd_report_job *j)
{
    const kd_eval *evals[KD_REPORT_NETWORKS];
    char number[16], caption[160];
    int n = pick(j, evals), rows = 0;
    for (int i = 0; i < n; i++)
        rows = KD_MAX(rows, evals[i]->n_classes);
    class_rank *order = rows ? calloc((size_t)rows, sizeof *order) : NULL;
    if (!order)
        return;
    const kd_eval *student = evals[0];
    for (int i = 0; i < n; i++)
        if (strcmp(evals[i]->network, "student") == 0)
            student = evals[i];
    for (int c = 0; c < rows; c++)
        order[c] = (class_rank){c, c < student->n_classes && student->samples[c]
                                       ? (double)student->correct[c] / (double)student->samples[c]
                                       : 2};
    bool cut = rows > MAX_CLASS_ROWS;
    if (cut)
        qsort(order, (size_t)rows, sizeof *order, by_accuracy);
    snprintf(caption, sizeof caption, "Accuracy by class on the %.16s split%s",
             split_word(evals[0]->split), cut ? "; the classes that do worst" : "");
    (void)kd_buf_str(p->out, "<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
                             "aria-label=\"Accuracy by class\"><table><caption><span>");
    kd_html_text(p->out, caption);
    (void)kd_buf_str(p->out, "</span></caption><thead><tr><th scope=\"col\">Class</th>");
    for (int i = 0; i < n; i++) {
        (void)kd_buf_str(p->out, "<th scope=\"col\">");
        kd_html_text(p->out, kd_network_title(evals[i]->network));
        (void)kd_buf_str(p->out, "</th>");
    }
    (void)kd_buf_str(p->out, "</tr></thead><tbody>\n");
    for (int k = 0; k < KD_MIN(rows, MAX_CLASS_ROWS); k++) {
        (void)kd_buf_str(p->out, "<tr><th scope=\"row\">");
        kd_html_text(p->out, class_name(j, order[k].number, number));
        (void)kd_buf_str(p->out, "</th>");
        for (int i = 0; i < n; i++)
            class_cell(p, evals[i], order[k].number);
        (void)kd_buf_str(p->out, "</tr>\n");
    }
    (void)kd_buf_str(p->out, "</tbody></table></div>\n");
    free(order);
}

/* One list of guesses as "roses 71.3 %, tulips 20.1 %". */
static void guesses(kd_buf *out, const kd_guess *g, int n)
{
    for (int i = 0; i < n; i++) {
        (void)kd_buf_str(out, i == 0 ? "" : ", ");
        kd_html_text(out, g[i].name[0] ? g[i].name : "?");
        if (g[i].probability >= 0)
            (void)kd_buf_printf(out, "&nbsp;%.1f&nbsp;%%", KD_MIN(g[i].probability, 1) * 100);
    }
}

static void sample(kd_page *p, const kd_sample *s)
{
    kd_buf *out = p->out;
    (void)kd_buf_str(out, "<li>");
    if (s->picture[0]) {
        (void)kd_buf_str(out, "<img loading=\"lazy\" alt=\"");
        kd_html_text(out, s->name);
        (void)kd_buf_str(out, ", true class ");
        kd_html_text(out, s->label[0] ? s->label : "unknown");
        (void)kd_buf_printf(out, "\" src=\"%s\">", s->picture);
    } else {
        (void)kd_buf_str(out, "<div class=\"none\">no picture</div>");
    }
    (void)kd_buf_str(out, "<div><h4>");
    kd_html_text(out, s->label[0] ? s->label : "unknown class");
    (void)kd_buf_str(out, "</h4><p class=\"mut\">");
    kd_html_text(out, s->name);
    (void)kd_buf_str(out, "</p></div><dl>");
    for (int i = 0; i < s->n_by; i++) {
        bool right =
            s->by[i].n > 0 && s->label[0] && strcmp(s->by[i].guesses[0].name, s->label) == 0;
        (void)kd_buf_printf(out, "<dt class=\"c%d\">", kd_network_color(s->by[i].network));
        kd_html_text(out, strcmp(s->by[i].network, "scratch") == 0 ? "twin" : s->by[i].network);
        (void)kd_buf_printf(out, "</dt><dd><span class=\"%s\">%s</span> ", right ? "good" : "bad",
                            right ? "right" : "wrong");
        guesses(out, s->by[i].guesses, s->by[i].n);
        (void)kd_buf_str(out, "</dd>");
    }
    (void)kd_buf_str(out, "</dl></li>\n");
}

void kd_page_evaluation(kd_page *p, const kd_report_job *j)
{
    const kd_eval *evals[KD_REPORT_NETWORKS];
    int n = pick(j, evals), shown = 0;
    if (n > 0) {
        (void)kd_buf_str(p->out, "<h3>Classes</h3>\n");
        per_class(p, j);
        (void)kd_buf_str(p->out, "<div class=\"pair\">\n");
        for (int i = 0; i < n; i++)
            if (evals[i]->confusion) {
                confusion(p, j, evals[i]);
                shown++;
            }
        (void)kd_buf_str(p->out, "</div>\n");
        if (shown > 0)
            (void)kd_buf_str(p->out,
                             "<p class=\"mut\">Confusion: a row is what the pictures are, a "
                             "column what the network names them; the stronger the colour, "
                             "the larger the share of its row.</p>\n");
    }
    if (j->n_samples == 0)
        return;
    (void)kd_buf_str(p->out, "<h3>Pictures</h3>\n<ul class=\"pics\">\n");
    for (int i = 0; i < j->n_samples; i++)
        sample(p, &j->samples[i]);
    (void)kd_buf_str(p->out, "</ul>\n");
    if (j->dropped_pictures > 0)
        (void)kd_buf_printf(p->out,
                            "<p class=\"mut\">Pictures left out, since they are no JPEG or PNG of "
                            "less than 1 MiB: %d.</p>\n",
                            j->dropped_pictures);
}

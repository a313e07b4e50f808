#include "report_page.h"

#include "format.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void kd_grid_open(kd_grid *g, kd_buf *out, const char *caption, const char *spec)
{
    *g = (kd_grid){.out = out};
    (void)kd_buf_str(out, "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"");
    kd_html_text(out, caption);
    (void)kd_buf_str(out, "\"><table><caption><span>");
    kd_html_text(out, caption);
    (void)kd_buf_str(out, "</span></caption><thead><tr>");
    for (const char *s = spec; s && g->columns < KD_PAGE_COLUMNS;) {
        const char *bar = strchr(s, '|');
        size_t n = bar ? (size_t)(bar - s) : strlen(s);
        bool right = n > 0 && s[n - 1] == '>';
        g->right[g->columns++] = right;
        (void)kd_buf_printf(out, "<th scope=\"col\"%s>%.*s</th>", right ? " class=\"r\"" : "",
                            (int)(right ? n - 1 : n), s);
        s = bar ? bar + 1 : NULL;
    }
    (void)kd_buf_str(out, "</tr></thead><tbody>\n");
}

static void end_row(kd_grid *g)
{
    if (g->at == 0)
        return;
    while (g->at < g->columns)
        kd_grid_cell(g, "%s", "");
    (void)kd_buf_str(g->out, "</tr>\n");
    g->at = 0;
}

void kd_grid_row(kd_grid *g, bool top)
{
    end_row(g);
    (void)kd_buf_str(g->out, top ? "<tr class=\"top\">" : "<tr>");
}

void kd_grid_cell(kd_grid *g, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    bool head = g->at == 0;
    (void)kd_buf_printf(g->out, "<%s%s>", head ? "th scope=\"row\"" : "td",
                        g->right[KD_MIN(g->at, KD_PAGE_COLUMNS - 1)] ? " class=\"r\"" : "");
    kd_html_text(g->out, text[0] && strcmp(text, "-") != 0 ? text : "–");
    (void)kd_buf_str(g->out, head ? "</th>" : "</td>");
    g->at++;
}

void kd_grid_close(kd_grid *g)
{
    end_row(g);
    (void)kd_buf_str(g->out, "</tbody></table></div>\n");
}

void kd_page_interval(char *out, size_t size, double lo, double hi, bool sign)
{
    if (!isfinite(lo) || !isfinite(hi))
        snprintf(out, size, "–");
    else if (sign)
        snprintf(out, size, "%+.1f to %+.1f", lo * 100, hi * 100);
    else
        snprintf(out, size, "%.1f – %.1f %%", lo * 100, hi * 100);
}

int kd_network_color(const char *name)
{
    static const char *const names[] = {"student",  "scratch",  "",        "teacher",
                                        "teacher2", "teacher3", "teacher4"};
    size_t n = strcspn(name, ".");
    for (size_t i = 0; i < KD_COUNT(names); i++)
        if (strlen(names[i]) == n && n > 0 && strncmp(names[i], name, n) == 0)
            return (int)i;
    return 7;
}

void kd_page_job_name(kd_buf *out, const kd_report_job *j)
{
    const Distill__V1__JobSummary *s = j->detail->summary;
    kd_html_text(out, s->name[0] ? s->name : s->job);
    if (s->label[0]) {
        (void)kd_buf_str(out, ", ");
        kd_html_text(out, s->label);
    }
}

bool kd_pair_sentence(const kd_pair *p, char *out, size_t size)
{
    char interval[64];
    if (!p)
        return false;
    enum kd_verdict v = kd_verdict_of(p->lo, p->hi);
    uint64_t n = p->counts.both + p->counts.only_a + p->counts.only_b + p->counts.neither;
    kd_page_interval(interval, sizeof interval, p->lo, p->hi, true);
    snprintf(out, size,
             "%s: the student is %+.1f points from its from-scratch twin on the same %llu %s "
             "pictures (95 %% interval %s points, paired)",
             kd_verdict_word(v), p->difference * 100, (unsigned long long)n,
             strcmp(p->split, "test") == 0 ? "test" : "validation", interval);
    return true;
}

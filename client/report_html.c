/* The page as a whole. */
#include "report_page.h"

#include "format.h"
#include "kd/clock.h"

#include <stdio.h>
#include <string.h>

static void head(kd_page *p, const char *title)
{
    /* The policy forbids every fetch, whatever a name or a picture may have smuggled in. */
    (void)kd_buf_str(p->out,
                     "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                     "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                     "img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action "
                     "'none'\">\n<meta name=\"viewport\" content=\"width=device-width, "
                     "initial-scale=1\">\n<meta name=\"referrer\" content=\"no-referrer\">\n"
                     "<title>");
    kd_html_text(p->out, title);
    (void)kd_buf_printf(p->out, "</title>\n<style>\n%s</style></head>\n<body>\n<main>\n<h1>",
                        kd_page_css);
    kd_html_text(p->out, title);
    (void)kd_buf_str(p->out, "</h1>\n");
}

static void foot(kd_page *p)
{
    char t[KD_FMT];
    (void)kd_buf_printf(p->out, "</main>\n<footer>Made by distill " KD_VERSION " on %s",
                        kd_clock_iso(p->report->now_ms, t));
    if (p->report->server_version[0]) {
        (void)kd_buf_str(p->out, " from coordinator version ");
        kd_html_text(p->out, p->report->server_version);
    }
    (void)kd_buf_str(p->out,
                     ". Intervals are at 95 %: Wilson's for one accuracy, Newcombe's for a paired "
                     "difference, Student's t over seeds.</footer>\n</body></html>\n");
}

static void contents(kd_page *p, const bool *full)
{
    (void)kd_buf_str(p->out, "<nav aria-label=\"Jobs\"><ol>");
    for (size_t i = 0; i < p->report->n_jobs; i++) {
        const kd_report_job *j = p->report->jobs[i];
        (void)kd_buf_str(p->out, "<li>");
        if (full[i]) {
            (void)kd_buf_str(p->out, "<a href=\"#job-");
            kd_html_text(p->out, j->detail->summary->job);
            (void)kd_buf_str(p->out, "\">");
        }
        kd_page_job_name(p->out, j);
        (void)kd_buf_str(p->out, full[i] ? "</a></li>\n" : "</li>\n");
    }
    (void)kd_buf_str(p->out, "</ol></nav>\n");
}

size_t kd_page_choose(const kd_report *r, bool full[KD_REPORT_JOBS])
{
    size_t n = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < r->n_jobs && n < KD_PAGE_FULL; i++)
            if (!full[i] && (pass == 1 || r->jobs[i]->best))
                full[i] = ++n > 0;
    return n;
}

int kd_report_html(const kd_report *r, kd_buf *out)
{
    kd_page p = {.out = out, .report = r};
    bool full[KD_REPORT_JOBS] = {false};
    size_t n_full = kd_page_choose(r, full);
    char title[256];
    const Distill__V1__JobSummary *s = r->n_sweeps ? r->sweeps[0].detail->summary
                                       : r->n_jobs ? r->jobs[0]->detail->summary
                                                   : NULL;
    if (r->n_jobs == 1 || (r->n_sweeps == 1 && r->n_jobs && r->jobs[0]->sweep == 0 &&
                           r->jobs[r->n_jobs - 1]->sweep == 0))
        snprintf(title, sizeof title, "Distillation report: %.180s", s->name[0] ? s->name : s->job);
    else
        snprintf(title, sizeof title, "Distillation report: %zu jobs", r->n_jobs);
    head(&p, title);
    if (r->n_jobs > 1)
        contents(&p, full);
    for (size_t i = 0; i < r->n_sweeps; i++)
        kd_page_sweep(&p, (int)i);
    bool alone = false;
    for (size_t i = 0; i < r->n_jobs; i++)
        alone = alone || r->jobs[i]->sweep < 0;
    if (r->n_jobs > 1 && (alone || r->n_sweeps > 1))
        kd_page_compare(&p);
    if (n_full < r->n_jobs)
        (void)kd_buf_printf(out,
                            "<p class=\"mut\">%zu of the %zu jobs are shown in full; `distill "
                            "report JOB` makes a page of any other.</p>\n",
                            n_full, r->n_jobs);
    for (size_t i = 0; i < r->n_jobs; i++)
        if (full[i])
            kd_page_job(&p, r->jobs[i]);
    foot(&p);
    return out->failed ? -KD_ELIMIT : 0;
}

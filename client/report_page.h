/* Pieces of the report's page. The page fetches nothing: no script, no font, no picture but those
 * in data URLs, and a content security policy that says so. All text of others goes through
 * kd_html_text. Threads: one page, one thread. */
#ifndef KD_CLI_REPORT_PAGE_H
#define KD_CLI_REPORT_PAGE_H

#include "kd/buf.h"
#include "report_data.h"
#include "report_svg.h"

#define KD_PAGE_BYTES (256u << 20)
#define KD_PAGE_FULL 16 /* jobs shown with all their sections */
#define KD_PAGE_COLUMNS 20

extern const char kd_page_css[];

typedef struct kd_page {
    kd_buf *out;
    const kd_report *report;
    int ids; /* charts so far */
} kd_page;

/* ---- tables (report_page.c) */
typedef struct kd_grid {
    kd_buf *out;
    int columns, at;
    bool right[KD_PAGE_COLUMNS];
} kd_grid;
/* spec: headings with `|` between; one that ends in `>` is aligned to the right. Headings are ours
 * and not escaped. caption is escaped. */
void kd_grid_open(kd_grid *g, kd_buf *out, const char *caption, const char *spec);
/* A row's first cell is its heading. top: stands out. */
void kd_grid_row(kd_grid *g, bool top);
/* The text is escaped; "" and "-", which the formatters give for what is unknown,
 * become a dash. */
void kd_grid_cell(kd_grid *g, const char *fmt, ...) KD_PRINTF(2, 3);
void kd_grid_close(kd_grid *g);

/* "80.7 – 86.9 %", "-" when unknown */
void kd_page_interval(char *out, size_t size, double lo, double hi, bool sign);
/* Colour number of a network. */
int kd_network_color(const char *name);
/* A job as a heading: its name, with the label of a sweep's child. Escaped. */
void kd_page_job_name(kd_buf *out, const kd_report_job *j);
/* "gain: the student is 3.1 points better than its from-scratch twin (95 % interval ...)". Not
 * escaped; nothing of others in it. False if there is no pair. */
bool kd_pair_sentence(const kd_pair *p, char *out, size_t size);

/* ---- sections of one job (report_job.c, report_eval.c) */
void kd_page_job(kd_page *p, const kd_report_job *j);
void kd_page_evaluation(kd_page *p, const kd_report_job *j);
/* ---- what several jobs share (report_compare.c) */
void kd_page_sweep(kd_page *p, int sweep);
void kd_page_compare(kd_page *p);

/* Marks the jobs to show in full, returns how many: a page of hundreds would be too large to open.
 * The sweeps' best ones come first, then the others in order. full: all false before. */
size_t kd_page_choose(const kd_report *r, bool full[KD_REPORT_JOBS]);
/* The whole page. -KD_ELIMIT: out's maximum, or memory, does not do for it. */
int kd_report_html(const kd_report *r, kd_buf *out) KD_MUST_CHECK;
/* One row a (job, stage, epoch). */
int kd_report_csv(const kd_report *r, kd_buf *out) KD_MUST_CHECK;
int kd_report_md(const kd_report *r, kd_buf *out) KD_MUST_CHECK;
/* New reference; NULL when memory is out. */
json_t *kd_report_json(const kd_report *r);

#endif

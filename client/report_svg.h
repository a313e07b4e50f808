/* Charts as inline SVG, drawn for the width of a phone so that their text stays readable there.
 *
 * Colours are classes c0..c7 of the page's style sheet (report_css.c), so light and dark are the
 * page's affair. All text is escaped here. Points that are not finite are gaps. Every chart has a
 * title and a description for those who cannot see it. Threads: reentrant. */
#ifndef KD_CLI_REPORT_SVG_H
#define KD_CLI_REPORT_SVG_H

#include "kd/buf.h"

#define KD_SVG_WIDTH 360
#define KD_SVG_SERIES 8
#define KD_SVG_POINTS 500 /* of a line; longer ones are thinned, the last point stays */

/* Appends s with & < > " ' as entities and what could steer a terminal or turn the direction of
 * writing replaced: fit for text and for attributes in double quotes. */
void kd_html_text(kd_buf *b, const char *s);

enum kd_series_style {
    KD_LINE,
    KD_DASHED,
    KD_DOTTED,
    KD_MARKS /* points with a line */
};
typedef struct kd_series {
    const char *label;
    int color; /* 0..7 */
    enum kd_series_style style;
    size_t n;
    const double *x, *y;   /* [n] */
    const double *lo, *hi; /* [n] limits of y, drawn as bars; NULL = none */
} kd_series;

typedef struct kd_chart {
    const char *title;       /* heading of the figure */
    const char *description; /* for people who cannot see it */
    const char *x_label, *y_label;
    bool percent; /* y is a share: shown in per cent, within 0..1 */
    bool x_log, y_log;
    bool x_whole;          /* x has whole numbers only */
    const double *x_ticks; /* [n_x_ticks] where to put marks; NULL = chosen */
    size_t n_x_ticks;
    double mark_x; /* vertical line, NAN = none */
    const char *mark;
    kd_series series[KD_SVG_SERIES];
    int n_series;
} kd_chart;

/* <figure> with heading, legend and drawing. Nothing when no point is finite. id: unique in the
 * page. */
void kd_svg_chart(kd_buf *out, const kd_chart *c, int id);
/* Shares that add up to 1, one on the other: series' y are the shares, all with the same x. */
void kd_svg_stack(kd_buf *out, const kd_chart *c, int id);

/* One row of a comparison: a point with its interval. */
typedef struct kd_interval_row {
    const char *label;
    double value, lo, hi; /* shares; NAN = unknown */
    int color;
    bool bold;
} kd_interval_row;
/* <figure> of rows one below the other, with the axis below. zero: draw a line at 0 and count y as
 * differences in points. */
void kd_svg_intervals(kd_buf *out, const char *title, const char *description,
                      const kd_interval_row *rows, size_t n, bool zero, int id);

/* Marks of an axis: about `want` round numbers from lo to hi. Returns how many were put in ticks
 * [16]. */
int kd_svg_ticks(double lo, double hi, int want, bool whole, double ticks[16]);

#endif

#include "report_svg.h"

#include "format.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEIGHT 240
#define LEFT 48
#define RIGHT 10
#define TICK_CHARS 6 /* that LEFT has room for */
#define TOP 24       /* room for what the upright axis counts */
#define BOTTOM 38
#define ROW 36     /* of an interval chart */
#define ROWS_TOP 8 /* likewise */

void kd_html_text(kd_buf *b, const char *s)
{
    kd_buf clean;
    kd_buf_init(&clean, b->max);
    kd_text_clean(&clean, s);
    for (const char *p = clean.data ? clean.data : ""; *p;) {
        size_t n = strcspn(p, "&<>\"'");
        (void)kd_buf_add(b, p, n);
        p += n;
        const char *entity = *p == '&'   ? "&amp;"
                             : *p == '<' ? "&lt;"
                             : *p == '>' ? "&gt;"
                             : *p == '"' ? "&quot;"
                             : *p        ? "&#39;"
                                         : NULL;
        if (entity) {
            (void)kd_buf_str(b, entity);
            p++;
        }
    }
    if (clean.failed)
        b->failed = true;
    kd_buf_clear(&clean);
}

int kd_svg_ticks(double lo, double hi, int want, bool whole, double ticks[16])
{
    int n = 0;
    if (!(hi > lo) || !isfinite(hi - lo) || want < 1)
        return 0;
    double raw = (hi - lo) / want, power = pow(10, floor(log10(raw))), step = power;
    static const double factors[] = {1, 2, 2.5, 5, 10};
    for (size_t i = 0; i < KD_COUNT(factors); i++) {
        step = factors[i] * power;
        if (whole && step < 1)
            step = 1;
        if (step >= raw && (!whole || step == floor(step)))
            break;
    }
    if (whole)
        step = ceil(step);
    for (double k = ceil(lo / step - 1e-9); k * step <= hi + step * 1e-9 && n < 16; k++)
        ticks[n++] = k == 0 ? 0 : k * step;
    return n;
}

/* ---- axes */

typedef struct axis {
    double lo, hi;   /* of the values, log10 of them if log */
    double from, to; /* pixels */
    bool log;
} axis;

static double value_of(const axis *a, double v)
{
    return a->log ? (v > 0 ? log10(v) : NAN) : v;
}

static double place(const axis *a, double v)
{
    return a->from + (value_of(a, v) - a->lo) / (a->hi - a->lo) * (a->to - a->from);
}

/* Widens to hold v. */
static void hold(axis *a, double v)
{
    double t = value_of(a, v);
    if (!isfinite(t) || fabs(t) > 1e30)
        return;
    a->lo = KD_MIN(a->lo, t);
    a->hi = KD_MAX(a->hi, t);
}

/* A little air, and never an empty range. */
static void settle(axis *a, double air)
{
    double range = a->hi - a->lo;
    double least = KD_MAX(fabs(a->hi), fabs(a->lo)) * 1e-6 + 1e-30;
    if (range < least) {
        double wide = a->log ? 0.1 : a->lo != 0 ? fabs(a->lo) * 0.1 : 0.01;
        a->lo -= wide;
        a->hi += wide;
        return;
    }
    a->lo -= range * air;
    a->hi += range * air;
}

/* 1.05e-3, without the zeros that printf would put. */
static void short_exponent(double v, char out[KD_FMT])
{
    int e = v == 0 ? 0 : (int)floor(log10(fabs(v)) + 1e-9);
    if (v == 0)
        snprintf(out, KD_FMT, "0");
    else
        snprintf(out, KD_FMT, "%.3ge%d", v / pow(10, e), e);
}

/* Text of a mark; step tells how many digits it takes. */
static void tick_text(double v, double step, bool percent, char out[KD_FMT])
{
    double shown = percent ? v * 100 : v, s = percent ? step * 100 : step;
    if (fabs(shown) >= 1e6) {
        short_exponent(shown, out);
        return;
    }
    int digits = s >= 1 || s <= 0 ? 0 : (int)ceil(-log10(s) - 1e-9);
    if (s > 0 && s < 10 && fabs(s * 2 - round(s * 2)) < 1e-9 && fabs(s - round(s)) > 1e-9)
        digits = KD_MAX(digits, 1);
    if (s > 0 && fabs(s * pow(10, digits) - round(s * pow(10, digits))) > 1e-6)
        digits++;
    snprintf(out, KD_FMT, "%.*f%s", KD_MIN(digits, 9), shown, percent ? "%" : "");
    if (strlen(out) > TICK_CHARS && !percent)
        short_exponent(shown, out);
}

static void x_mark(kd_buf *out, double x, double bottom, const char *text)
{
    (void)kd_buf_printf(out,
                        "<path class=\"ax\" d=\"M%.1f %.1fv4\"/><text x=\"%.1f\" y=\"%.1f\" "
                        "text-anchor=\"middle\">%s</text>",
                        x, bottom, x, bottom + 16, text);
}

static void draw_x(kd_buf *out, const kd_chart *c, const axis *x, double bottom)
{
    double ticks[16], last = -1e9;
    char text[KD_FMT];
    if (c->x_ticks) {
        for (size_t i = 0; i < c->n_x_ticks; i++) {
            double at = place(x, c->x_ticks[i]);
            if (!isfinite(at) || at - last < 26)
                continue;
            snprintf(text, sizeof text, "%.4g", c->x_ticks[i]);
            x_mark(out, at, bottom, text);
            last = at;
        }
        return;
    }
    int n = kd_svg_ticks(x->lo, x->hi, 5, c->x_whole, ticks);
    for (int i = 0; i < n; i++) {
        tick_text(ticks[i], n > 1 ? ticks[1] - ticks[0] : 0, false, text);
        x_mark(out, place(x, ticks[i]), bottom, text);
    }
}

static void y_mark(kd_buf *out, double y, double left, double right, const char *text)
{
    (void)kd_buf_printf(out,
                        "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/><text x=\"%.1f\" y=\"%.1f\" "
                        "text-anchor=\"end\">%s</text>",
                        left, y, right, left - 5, y + 4, text);
}

static void draw_y(kd_buf *out, const kd_chart *c, const axis *y)
{
    double ticks[16], right = KD_SVG_WIDTH - RIGHT;
    char text[KD_FMT];
    if (y->log) {
        /* 1, 2, 5 in every decade, or decades alone when there are many. */
        static const double steps[] = {1, 2, 5};
        bool many = y->hi - y->lo > 2.2;
        double last = 1e9;
        for (int d = (int)floor(y->lo); d <= (int)ceil(y->hi); d++)
            for (size_t i = 0; i < (many ? 1 : KD_COUNT(steps)); i++) {
                double v = steps[i] * pow(10, d), at = place(y, v);
                if (at > y->from + 0.5 || at < y->to - 0.5 || last - at < 14)
                    continue;
                snprintf(text, sizeof text, "%.3g", v);
                y_mark(out, at, LEFT, right, text);
                last = at;
            }
        return;
    }
    int n = kd_svg_ticks(y->lo, y->hi, 5, false, ticks);
    for (int i = 0; i < n; i++) {
        tick_text(ticks[i], n > 1 ? ticks[1] - ticks[0] : 0, c->percent, text);
        y_mark(out, place(y, ticks[i]), LEFT, right, text);
    }
}

/* ---- figure: heading, legend, opening and end of the drawing */

static const char *const g_dash[] = {"", "6 4", "1.5 4", ""};

static void legend(kd_buf *out, const kd_chart *c, bool area)
{
    (void)kd_buf_str(out, "<ul class=\"legend\">");
    for (int i = 0; i < c->n_series; i++) {
        const kd_series *s = &c->series[i];
        (void)kd_buf_str(out, "<li><svg aria-hidden=\"true\" width=\"26\" height=\"12\">");
        if (area)
            (void)kd_buf_printf(
                out, "<rect class=\"area c%d\" x=\"6\" y=\"0\" width=\"14\" height=\"12\"/>",
                s->color & 7);
        else
            (void)kd_buf_printf(out,
                                "<path class=\"line c%d\" stroke-dasharray=\"%s\" d=\"M1 6H25\"/>",
                                s->color & 7, g_dash[s->style]);
        if (!area && s->style == KD_MARKS)
            (void)kd_buf_printf(out, "<circle class=\"dot c%d\" cx=\"13\" cy=\"6\" r=\"3.5\"/>",
                                s->color & 7);
        (void)kd_buf_str(out, "</svg>");
        kd_html_text(out, s->label);
        (void)kd_buf_str(out, "</li>");
    }
    (void)kd_buf_str(out, "</ul>");
}

static void open_svg(kd_buf *out, const char *title, const char *description, int height, int id)
{
    (void)kd_buf_printf(out,
                        "<svg class=\"chart\" viewBox=\"0 0 %d %d\" role=\"img\" "
                        "aria-labelledby=\"t%d d%d\"><title id=\"t%d\">",
                        KD_SVG_WIDTH, height, id, id, id);
    kd_html_text(out, title);
    (void)kd_buf_printf(out, "</title><desc id=\"d%d\">", id);
    kd_html_text(out, description);
    (void)kd_buf_str(out, "</desc>");
}

static void open_figure(kd_buf *out, const kd_chart *c, bool area, int id)
{
    (void)kd_buf_str(out, "<figure><figcaption>");
    kd_html_text(out, c->title);
    (void)kd_buf_str(out, "</figcaption>");
    legend(out, c, area);
    open_svg(out, c->title, c->description, HEIGHT, id);
}

static void axis_names(kd_buf *out, const kd_chart *c, int height)
{
    (void)kd_buf_printf(out, "<text class=\"name\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">",
                        (LEFT + KD_SVG_WIDTH - RIGHT) / 2, height - 4);
    kd_html_text(out, c->x_label);
    (void)kd_buf_str(out, "</text><text class=\"name\" x=\"2\" y=\"13\">");
    kd_html_text(out, c->y_label);
    (void)kd_buf_str(out, "</text>");
}

static void frame(kd_buf *out, const kd_chart *c, const axis *x, const axis *y)
{
    draw_y(out, c, y);
    draw_x(out, c, x, y->from);
    (void)kd_buf_printf(out, "<path class=\"ax\" d=\"M%d %dV%dH%d\"/>", LEFT, TOP, HEIGHT - BOTTOM,
                        KD_SVG_WIDTH - RIGHT);
    axis_names(out, c, HEIGHT);
    if (isfinite(c->mark_x) && c->mark) {
        double at = place(x, c->mark_x);
        bool late = at > (LEFT + KD_SVG_WIDTH - RIGHT) / 2;
        (void)kd_buf_printf(out,
                            "<path class=\"mark\" d=\"M%.1f %dV%d\"/><text x=\"%.1f\" y=\"%d\" "
                            "text-anchor=\"%s\">",
                            at, TOP, HEIGHT - BOTTOM, at + (late ? -4 : 4), HEIGHT - BOTTOM - 5,
                            late ? "end" : "start");
        kd_html_text(out, c->mark);
        (void)kd_buf_str(out, "</text>");
    }
}

/* ---- lines */

/* Number in the series of the k-th shown point. */
static size_t point_of(const kd_series *s, size_t k)
{
    if (s->n <= KD_SVG_POINTS)
        return k;
    return k + 1 == KD_SVG_POINTS ? s->n - 1
                                  : (size_t)((double)k * (double)(s->n - 1) / (KD_SVG_POINTS - 1));
}

static void draw_line(kd_buf *out, const kd_series *s, const axis *x, const axis *y)
{
    bool pen = false;
    size_t n = KD_MIN(s->n, (size_t)KD_SVG_POINTS), finite = 0;
    (void)kd_buf_printf(out, "<path class=\"line c%d\" stroke-dasharray=\"%s\" d=\"", s->color & 7,
                        g_dash[s->style]);
    for (size_t k = 0; k < n; k++) {
        size_t i = point_of(s, k);
        double px = place(x, s->x[i]), py = place(y, s->y[i]);
        bool there = isfinite(px) && isfinite(py);
        if (there)
            (void)kd_buf_printf(out, "%c%.1f %.1f", pen ? 'L' : 'M', px, py);
        pen = there;
        finite += there;
    }
    (void)kd_buf_str(out, "\"/>");
    /* A single point has no line, and few of them are easier to tell with dots. */
    if (s->style != KD_MARKS && finite > 1 && n > 25)
        return;
    for (size_t k = 0; k < n; k++) {
        size_t i = point_of(s, k);
        double px = place(x, s->x[i]), py = place(y, s->y[i]);
        if (!isfinite(px) || !isfinite(py))
            continue;
        double lo = s->lo ? place(y, s->lo[i]) : NAN, hi = s->hi ? place(y, s->hi[i]) : NAN;
        if (isfinite(lo) && isfinite(hi))
            (void)kd_buf_printf(out,
                                "<path class=\"line c%d\" d=\"M%.1f %.1fV%.1fM%.1f %.1fh8M%.1f "
                                "%.1fh8\"/>",
                                s->color & 7, px, lo, hi, px - 4, lo, px - 4, hi);
        /* Where there is no line to tell them apart, the points of a dashed one are hollow. */
        (void)kd_buf_printf(out, "<circle class=\"%s c%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"%s\">",
                            s->style == KD_DASHED ? "dot ring" : "dot", s->color & 7, px, py,
                            s->style == KD_MARKS || finite == 1 ? "3.5" : "2.2");
        (void)kd_buf_str(out, "<title>");
        kd_html_text(out, s->label);
        (void)kd_buf_printf(out, ": %.4g at %.6g</title></circle>", s->y[i], s->x[i]);
    }
}

void kd_svg_chart(kd_buf *out, const kd_chart *c, int id)
{
    axis x = {
        .lo = INFINITY, .hi = -INFINITY, .from = LEFT, .to = KD_SVG_WIDTH - RIGHT, .log = c->x_log};
    axis y = {.lo = INFINITY, .hi = -INFINITY, .from = HEIGHT - BOTTOM, .to = TOP, .log = c->y_log};
    for (int k = 0; k < c->n_series; k++) {
        const kd_series *s = &c->series[k];
        for (size_t i = 0; i < s->n; i++) {
            if (!isfinite(value_of(&x, s->x[i])) || !isfinite(value_of(&y, s->y[i])))
                continue;
            hold(&x, s->x[i]);
            hold(&y, s->y[i]);
            if (s->lo && s->hi) {
                hold(&y, s->lo[i]);
                hold(&y, s->hi[i]);
            }
        }
    }
    if (!(y.hi >= y.lo))
        return;
    bool at_zero = !y.log && y.lo >= 0 && y.lo < 0.3 * y.hi;
    settle(&x, c->x_ticks ? 0.06 : 0);
    settle(&y, 0.06);
    if (at_zero)
        y.lo = 0;
    if (c->percent) {
        y.lo = KD_MAX(y.lo, 0);
        y.hi = KD_MIN(y.hi, 1);
    }
    open_figure(out, c, false, id);
    frame(out, c, &x, &y);
    for (int k = 0; k < c->n_series; k++)
        draw_line(out, &c->series[k], &x, &y);
    (void)kd_buf_str(out, "</svg></figure>\n");
}

void kd_svg_stack(kd_buf *out, const kd_chart *c, int id)
{
    size_t n = c->n_series ? c->series[0].n : 0;
    double *below = n ? calloc(n, sizeof *below) : NULL;
    if (!below)
        return;
    axis x = {.lo = INFINITY, .hi = -INFINITY, .from = LEFT, .to = KD_SVG_WIDTH - RIGHT};
    axis y = {.lo = 0, .hi = 1, .from = HEIGHT - BOTTOM, .to = TOP};
    for (size_t i = 0; i < n; i++)
        hold(&x, c->series[0].x[i]);
    settle(&x, 0);
    open_figure(out, c, true, id);
    for (int k = 0; k < c->n_series; k++) {
        const kd_series *s = &c->series[k];
        size_t shown = KD_MIN(n, (size_t)KD_SVG_POINTS);
        (void)kd_buf_printf(out, "<path class=\"area c%d\" d=\"", s->color & 7);
        for (size_t q = 0; q < 2 * shown; q++) {
            /* There along the upper edge, back along the lower one. */
            size_t i = point_of(s, q < shown ? q : 2 * shown - 1 - q);
            double share = isfinite(s->y[i]) ? KD_MIN(KD_MAX(s->y[i], 0), 1) : 0;
            double v = KD_MIN(below[i] + (q < shown ? share : 0), 1);
            (void)kd_buf_printf(out, "%c%.1f %.1f", q ? 'L' : 'M', place(&x, s->x[i]),
                                place(&y, v));
        }
        (void)kd_buf_str(out, "Z\"><title>");
        kd_html_text(out, s->label);
        (void)kd_buf_printf(out, ": %.1f %% at last</title></path>", s->y[n - 1] * 100);
        for (size_t i = 0; i < n; i++)
            below[i] += isfinite(s->y[i]) ? KD_MIN(KD_MAX(s->y[i], 0), 1) : 0;
    }
    frame(out, c, &x, &y);
    (void)kd_buf_str(out, "</svg></figure>\n");
    free(below);
}

/* ---- rows of intervals */

void kd_svg_intervals(kd_buf *out, const char *title, const char *description,
                      const kd_interval_row *rows, size_t n, bool zero, int id)
{
    axis x = {
        .lo = zero ? 0 : INFINITY, .hi = zero ? 0 : -INFINITY, .from = 12, .to = KD_SVG_WIDTH - 12};
    size_t shown = 0;
    for (size_t i = 0; i < n; i++) {
        hold(&x, rows[i].value);
        hold(&x, rows[i].lo);
        hold(&x, rows[i].hi);
        shown += isfinite(rows[i].value);
    }
    if (shown == 0)
        return;
    settle(&x, 0.04);
    if (!zero) {
        x.lo = KD_MAX(x.lo, 0);
        x.hi = KD_MIN(x.hi, 1);
    }
    int row = ROW, height = ROWS_TOP + (int)shown * row + BOTTOM;
    double bottom = height - BOTTOM, ticks[16];
    char text[KD_FMT];
    (void)kd_buf_str(out, "<figure><figcaption>");
    kd_html_text(out, title);
    (void)kd_buf_str(out, "</figcaption>");
    open_svg(out, title, description, height, id);
    int n_ticks = kd_svg_ticks(x.lo, x.hi, 5, false, ticks);
    for (int i = 0; i < n_ticks; i++) {
        double at = place(&x, ticks[i]);
        tick_text(ticks[i], n_ticks > 1 ? ticks[1] - ticks[0] : 0, true, text);
        (void)kd_buf_printf(out, "<path class=\"grid\" d=\"M%.1f %dV%.1f\"/>", at, ROWS_TOP,
                            bottom);
        x_mark(out, KD_MIN(KD_MAX(at, 16), KD_SVG_WIDTH - 16), bottom, text);
    }
    if (zero)
        (void)kd_buf_printf(out, "<path class=\"mark\" d=\"M%.1f %dV%.1f\"/>", place(&x, 0),
                            ROWS_TOP, bottom);
    (void)kd_buf_printf(out, "<path class=\"ax\" d=\"M12 %.1fH%d\"/>", bottom, KD_SVG_WIDTH - 12);
    int at = ROWS_TOP;
    for (size_t i = 0; i < n; i++) {
        const kd_interval_row *r = &rows[i];
        if (!isfinite(r->value))
            continue;
        double px = place(&x, r->value), mid = at + row - 9;
        (void)kd_buf_printf(out, "<text x=\"12\" y=\"%d\"%s>", at + 14,
                            r->bold ? " class=\"bold\"" : "");
        kd_buf label;
        kd_buf_init(&label, 4096);
        kd_text_clean(&label, r->label);
        size_t cut = label.data ? kd_text_cut(label.data, 46) : 0;
        bool whole = label.data && !label.data[cut];
        if (label.data)
            label.data[cut] = '\0';
        kd_html_text(out, label.data ? label.data : "");
        kd_buf_clear(&label);
        (void)kd_buf_printf(out, "%s</text>", whole ? "" : "…");
        snprintf(text, sizeof text, zero ? "%+.1f" : "%.1f %%", r->value * 100);
        (void)kd_buf_printf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\"%s>%s</text>",
                            KD_SVG_WIDTH - 12, at + 14, r->bold ? " class=\"bold\"" : "", text);
        if (isfinite(r->lo) && isfinite(r->hi))
            (void)kd_buf_printf(out, "<path class=\"line c%d\" d=\"M%.1f %.1fH%.1f\"/>",
                                r->color & 7, place(&x, r->lo), mid, place(&x, r->hi));
        (void)kd_buf_printf(out, "<circle class=\"dot c%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/>",
                            r->color & 7, px, mid);
        at += row;
    }
    (void)kd_buf_str(out, "</svg></figure>\n");
}

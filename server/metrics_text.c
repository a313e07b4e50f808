#include "metrics.h"

#include <inttypes.h>
#include <math.h>

void kd_metric_family(kd_buf *b, const char *name, const char *type, const char *help)
{
    (void)kd_buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void kd_metric_value(kd_buf *b, double v)
{
    if (isnan(v))
        (void)kd_buf_str(b, " NaN\n");
    else if (isinf(v))
        (void)kd_buf_str(b, v > 0 ? " +Inf\n" : " -Inf\n");
    else
        (void)kd_buf_printf(b, " %.15g\n", v);
}

void kd_metric_label(kd_buf *b, const char *name, const char *text)
{
    (void)kd_buf_printf(b, "%s=\"", name);
    for (const char *p = text; *p; p++) {
        if (*p == '\n')
            (void)kd_buf_str(b, "\\n");
        else if (*p == '"' || *p == '\\')
            (void)kd_buf_printf(b, "\\%c", *p);
        else
            (void)kd_buf_add(b, p, 1);
    }
    (void)kd_buf_str(b, "\"");
}

void kd_metric_single(kd_buf *b, const char *name, const char *type, double v, const char *help)
{
    kd_metric_family(b, name, type, help);
    (void)kd_buf_str(b, name);
    kd_metric_value(b, v);
}

void kd_metric_by_word(kd_buf *b, const char *name, const char *key, const char *word, double v)
{
    (void)kd_buf_printf(b, "%s{", name);
    kd_metric_label(b, key, word);
    (void)kd_buf_str(b, "}");
    kd_metric_value(b, v);
}

void kd_metric_histogram(kd_buf *b, const char *name, const char *labels, const kd_histogram *h)
{
    uint64_t n = 0;
    const char *comma = labels[0] ? "," : "", *open = labels[0] ? "{" : "";
    const char *close = labels[0] ? "}" : "";
    for (int i = 0; i < KD_HISTOGRAM_BOUNDS; i++) {
        n += h->in[i];
        (void)kd_buf_printf(b, "%s_bucket{%s%sle=\"%g\"} %" PRIu64 "\n", name, labels, comma,
                            kd_histogram_bounds[i], n);
    }
    n += h->in[KD_HISTOGRAM_BOUNDS];
    (void)kd_buf_printf(b, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, labels, comma, n);
    (void)kd_buf_printf(b, "%s_sum%s%s%s", name, open, labels, close);
    kd_metric_value(b, h->sum);
    (void)kd_buf_printf(b, "%s_count%s%s%s %" PRIu64 "\n", name, open, labels, close, n);
}

/* /metrics in Prometheus' text exposition format 0.0.4
 * (prometheus.io/docs/instrumenting/exposition_formats). docs/http.md lists what there is.
 *
 * The functions append to a buffer whose owner checks once, at the end, whether it took all.
 * Threads: the loop. */
#ifndef KD_SERVER_METRICS_H
#define KD_SERVER_METRICS_H

#include "daemon.h"
#include "kd/buf.h"

/* All of them, in pieces 0, 1, ... that stand by themselves: a thousand workers take milliseconds.
 * False: that was the last. */
bool kd_metrics_write(kd_daemon *d, unsigned piece, kd_buf *out);

/* metrics_jobs.c: those of jobs and their stages */
void kd_metrics_jobs(kd_daemon *d, kd_buf *out);

/* metrics_text.c: the format */
#define KD_METRIC_GAUGE "gauge"
#define KD_METRIC_COUNTER "counter"
/* The two lines before a metric's series. */
void kd_metric_family(kd_buf *b, const char *name, const char *type, const char *help);
/* " VALUE" and the line's end. */
void kd_metric_value(kd_buf *b, double v);
/* NAME="TEXT", with what the format wants escaped. */
void kd_metric_label(kd_buf *b, const char *name, const char *text);
/* A metric of one series without labels. */
void kd_metric_single(kd_buf *b, const char *name, const char *type, double v, const char *help);
/* A series with one label, of a family that is there. */
void kd_metric_by_word(kd_buf *b, const char *name, const char *key, const char *word, double v);
/* Likewise all series of a histogram; labels "" or `a="b",c="d"`. */
void kd_metric_histogram(kd_buf *b, const char *name, const char *labels, const kd_histogram *h);

#endif

/* Figures and text for people: durations, bytes, percentages, times, safe text.
 *
 * Every kd_fmt_ function writes a NUL-terminated string of at most KD_FMT bytes and returns it.
 * Threads: reentrant. */
#ifndef KD_CLI_FORMAT_H
#define KD_CLI_FORMAT_H

#include "kd/buf.h"

#define KD_FMT 48

/* 0.4s, 17s, 2m05s, 1h03m, 3d04h; negative or not finite: "-". */
char *kd_fmt_duration(double seconds, char out[KD_FMT]);
/* 812 B, 1.2 kB, 8.9 MB (powers of 1000). */
char *kd_fmt_bytes(double bytes, char out[KD_FMT]);
/* 2,230,277 */
char *kd_fmt_count(uint64_t n, char out[KD_FMT]);
/* 0.9183 -> "91.8 %"; outside [0,1] or not finite: "-". */
char *kd_fmt_percent(double fraction, char out[KD_FMT]);
/* Four significant digits without exponent where that is readable: 0.4123, 12.35, 1834. */
char *kd_fmt_figure(double v, char out[KD_FMT]);
/* Unix milliseconds as local time of day 12:01:07.114, or with the date when that is not
 * `now_ms`'s. */
char *kd_fmt_clock(int64_t ms, int64_t now_ms, char out[KD_FMT]);
/* How long ago: 5s, 2m05s, ...; 0 gives "-". */
char *kd_fmt_age(int64_t ms, int64_t now_ms, char out[KD_FMT]);

/* Seconds from 90, 1.5s, 10m, 1h30m, 2d, 500ms (units d h m s ms, falling); false if it is none of
 * these or over ten years. */
bool kd_parse_duration(const char *text, double *out_seconds);

/* Appends s with everything that could steer a terminal (C0 and C1 controls, DEL, broken UTF-8)
 * replaced by '?'; line breaks and tabs become spaces. */
void kd_text_clean(kd_buf *b, const char *s);
/* What names of jobs, contexts and models are made of. */
#define KD_NAME_LETTERS "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-"
/* Replaces everything in s that a name cannot have by `other`. */
void kd_text_name(char *s, char other);
/* Columns that UTF-8 text takes on a terminal; control sequences of colours count nothing. */
int kd_text_width(const char *s);
/* Bytes of the longest beginning of s that takes at most `columns`. */
size_t kd_text_cut(const char *s, int columns);

#endif

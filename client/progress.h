/* Progress: a bar with rate and time to go for transfers, and a bar's drawing for `watch`.
 * Drawn on standard error when it is a terminal, else nothing. Threads: the main thread. */
#ifndef KD_CLI_PROGRESS_H
#define KD_CLI_PROGRESS_H

#include "cli.h"
#include "kd/buf.h"
#include "kd/clock.h"

#define KD_BAR_SAMPLES 32

enum kd_bar_unit { KD_BAR_BYTES, KD_BAR_PICTURES };
typedef struct kd_bar {
    const kd_cli *cli;
    char label[96];
    enum kd_bar_unit unit;
    uint64_t total, done,
        first; /* first: what was there at the start (a transfer taken up again) */
    kd_time_ms started, drawn;
    struct {
        kd_time_ms at;
        uint64_t done;
    } samples[KD_BAR_SAMPLES]; /* ring: the rate is over the last few seconds */
    unsigned n_samples;
} kd_bar;

void kd_bar_start(kd_bar *bar, const kd_cli *cli, enum kd_bar_unit unit, const char *label,
                  uint64_t total, uint64_t done);
/* Draws at most ten times a second. */
void kd_bar_set(kd_bar *bar, uint64_t done);
/* Takes the bar away. */
void kd_bar_end(kd_bar *bar);
/* A second of work or more gives the mean rate over all of it, else 0. */
double kd_bar_mean_rate(const kd_bar *bar);

/* The line that kd_bar_set draws, at a given time; for tests too. */
void kd_bar_line(const kd_bar *bar, kd_time_ms now, int width, kd_buf *out);
/* A bar of `width` columns, e.g. [#####-----]; fraction outside [0,1] is clamped. */
void kd_bar_draw(kd_buf *out, double fraction, int width, bool utf8);

#endif

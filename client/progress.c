#include "progress.h"

#include "format.h"
#include "output.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#define RATE_WINDOW_MS 5000

void kd_bar_draw(kd_buf *out, double fraction, int width, bool utf8)
{
    int inner = KD_MAX(width - 2, 1);
    double f = isfinite(fraction) ? KD_MIN(KD_MAX(fraction, 0), 1) : 0;
    /* Full only when it is: a bar that looks done at 99 % makes people wait in doubt. */
    int full = (int)(f * inner);
    (void)kd_buf_str(out, "[");
    for (int i = 0; i < inner; i++)
        (void)kd_buf_str(out, i < full ? (utf8 ? "█" : "#") : (utf8 ? "·" : "-"));
    (void)kd_buf_str(out, "]");
}

static void add_sample(kd_bar *bar, kd_time_ms now)
{
    unsigned newest = (bar->n_samples + KD_BAR_SAMPLES - 1) % KD_BAR_SAMPLES;
    if (bar->n_samples > 0 && now - bar->samples[newest].at < RATE_WINDOW_MS / (KD_BAR_SAMPLES / 2))
        return;
    bar->samples[bar->n_samples % KD_BAR_SAMPLES].at = now;
    bar->samples[bar->n_samples % KD_BAR_SAMPLES].done = bar->done;
    bar->n_samples++;
}

void kd_bar_start(kd_bar *bar, const kd_cli *cli, enum kd_bar_unit unit, const char *label,
                  uint64_t total, uint64_t done)
{
    *bar = (kd_bar){.cli = cli, .unit = unit, .total = total, .done = done, .first = done};
    snprintf(bar->label, sizeof bar->label, "%s", label);
    bar->started = kd_clock_ms();
    add_sample(bar, bar->started);
}

/* Units a second over the window, 0 while nothing can be said. */
static double recent_rate(const kd_bar *bar, kd_time_ms now)
{
    unsigned n = KD_MIN(bar->n_samples, (unsigned)KD_BAR_SAMPLES);
    for (unsigned i = 0; i < n; i++) {
        unsigned at = (bar->n_samples - n + i) % KD_BAR_SAMPLES;
        kd_time_ms age = now - bar->samples[at].at;
        if (age > RATE_WINDOW_MS && i + 1 < n)
            continue;
        if (age < 200 || bar->done < bar->samples[at].done)
            return 0;
        return (double)(bar->done - bar->samples[at].done) * 1000 / (double)age;
    }
    return 0;
}

static void amount(const kd_bar *bar, double v, char out[KD_FMT])
{
    if (bar->unit == KD_BAR_BYTES)
        kd_fmt_bytes(v, out);
    else
        kd_fmt_count((uint64_t)v, out);
}

void kd_bar_line(const kd_bar *bar, kd_time_ms now, int width, kd_buf *out)
{
    double fraction = bar->total ? (double)bar->done / (double)bar->total : 1;
    double rate = recent_rate(bar, now);
    char done[KD_FMT], total[KD_FMT], speed[KD_FMT], eta[KD_FMT];
    amount(bar, (double)bar->done, done);
    amount(bar, (double)bar->total, total);
    amount(bar, rate, speed);
    kd_fmt_duration(rate > 0 ? (double)(bar->total - bar->done) / rate : NAN, eta);
    char tail[256];
    snprintf(tail, sizeof tail, " %3.0f %%  %s/%s  %s%s/s  ETA %s", floor(fraction * 100), done,
             total, rate > 0 ? speed : "-", bar->unit == KD_BAR_PICTURES ? " pictures" : "", eta);
    (void)kd_buf_printf(out, "%s ", bar->label);
    int room = width - kd_text_width(bar->label) - 1 - kd_text_width(tail);
    if (room >= 6)
        kd_bar_draw(out, fraction, KD_MIN(room, 32), bar->cli && bar->cli->utf8);
    (void)kd_buf_str(out, tail);
}

void kd_bar_set(kd_bar *bar, uint64_t done)
{
    kd_time_ms now = kd_clock_ms();
    bar->done = KD_MIN(done, bar->total);
    add_sample(bar, now);
    if (!bar->cli->tty_err || (bar->drawn && now - bar->drawn < 100))
        return;
    bar->drawn = now;
    kd_buf line;
    kd_buf_init(&line, 4096);
    kd_bar_line(bar, now, kd_terminal_width(STDERR_FILENO) - 1, &line);
    if (!line.failed)
        kd_live_set(bar->cli, line.data);
    kd_buf_clear(&line);
}

void kd_bar_end(kd_bar *bar)
{
    kd_live_clear(bar->cli);
}

double kd_bar_mean_rate(const kd_bar *bar)
{
    double s = (double)(kd_clock_ms() - bar->started) / 1000;
    return s >= 1 ? (double)(bar->done - bar->first) / s : 0;
}

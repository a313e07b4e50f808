#include "job_line.h"

#include "format.h"
#include "output.h"
#include "views.h"

#include <unistd.h>

#define PLAIN_MS 10000  /* between plain lines */
#define SILENCE_MS 5000 /* the live line says when it has grown old */
#define MAX_LINE 8192

void kd_job_line_init(kd_job_line *l, kd_cli *cli, bool talk)
{
    *l = (kd_job_line){.cli = cli, .talk = talk, .printed_at = -PLAIN_MS};
    kd_buf_init(&l->live, MAX_LINE);
}

static void draw(kd_job_line *l)
{
    kd_time_ms age = kd_clock_ms() - l->live_at;
    if (l->live.len == 0)
        return;
    l->drawn_at = kd_clock_ms();
    if (age < SILENCE_MS) {
        kd_live_set(l->cli, l->live.data);
        return;
    }
    char a[KD_FMT];
    kd_buf line;
    kd_buf_init(&line, MAX_LINE);
    kd_buf_printf(&line, "%s  (no news for %s)", l->live.data,
                  kd_fmt_duration((double)age / 1000, a));
    kd_live_set(l->cli, line.data ? line.data : "");
    kd_buf_clear(&line);
}

static int print_plain(kd_job_line *l, const Distill__V1__Event *e)
{
    char t[KD_FMT];
    kd_buf line;
    int64_t wall = kd_clock_wall_ms();
    kd_buf_init(&line, MAX_LINE);
    kd_buf_printf(&line, "%s  progress    ", kd_fmt_clock(e->time_ms ? e->time_ms : wall, wall, t));
    kd_view_progress(e->progress, 0, false, false, &line);
    if (l->talk)
        kd_say(l->cli, "%s", line.data ? line.data : "");
    else
        kd_out(l->cli, "%s", line.data ? line.data : "");
    kd_buf_clear(&line);
    return l->talk ? KD_EXIT_OK : kd_out_flush(l->cli);
}

int kd_job_line_set(kd_job_line *l, const Distill__V1__Event *e)
{
    kd_time_ms now = kd_clock_ms();
    if (l->cli->tty_err) {
        kd_buf_clear(&l->live);
        kd_view_progress(e->progress, kd_terminal_width(STDERR_FILENO) - 1, true, l->cli->utf8,
                         &l->live);
        l->live_at = now;
        draw(l);
        return KD_EXIT_OK;
    }
    if (now - l->printed_at < PLAIN_MS)
        return KD_EXIT_OK;
    l->printed_at = now;
    return print_plain(l, e);
}

void kd_job_line_idle(kd_job_line *l)
{
    kd_time_ms now = kd_clock_ms();
    if (!kd_live_shown() || (now - l->live_at >= SILENCE_MS && now - l->drawn_at >= 1000))
        draw(l);
}

void kd_job_line_clear(kd_job_line *l)
{
    kd_buf_clear(&l->live);
    kd_live_clear(l->cli);
}

#include "kd/clock.h"

#include <stdio.h>
#include <time.h>

static struct timespec now(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return ts;
}

kd_time_ms kd_clock_ms(void)
{
    struct timespec ts = now(CLOCK_MONOTONIC);
    return (kd_time_ms)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

double kd_clock_s(void)
{
    struct timespec ts = now(CLOCK_MONOTONIC);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

double kd_clock_thread_s(void)
{
    struct timespec ts = now(CLOCK_THREAD_CPUTIME_ID);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

int64_t kd_clock_wall_ms(void)
{
    struct timespec ts = now(CLOCK_REALTIME);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

char *kd_clock_iso(int64_t ms, char out[KD_CLOCK_ISO])
{
    time_t t = (time_t)(ms / 1000);
    struct tm tm;
    char text[24];
    out[0] = '\0';
    if (ms > 0 && gmtime_r(&t, &tm) && strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm))
        snprintf(out, KD_CLOCK_ISO, "%s.%03dZ", text, (int)(ms % 1000));
    return out;
}

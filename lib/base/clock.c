#include "kd/clock.h"

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

int64_t kd_clock_wall_ms(void)
{
    struct timespec ts = now(CLOCK_REALTIME);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

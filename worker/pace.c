#include "pace.h"

#include <limits.h>
#include <sys/random.h>
#include <time.h>

#define GROW 4
#define LOOK_MS 50 /* who waits looks so often whether it still has to */

static const struct {
    int first_ms, last_ms;
} g_crowded = {10, 200}, g_away = {100, 5000};

void kd_pace_init(kd_pace *p)
{
    pthread_condattr_t attr;
    *p = (kd_pace){.limit = INT_MAX};
    pthread_mutex_init(&p->mu, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->changed, &attr);
    pthread_condattr_destroy(&attr);
}

void kd_pace_clear(kd_pace *p)
{
    pthread_mutex_destroy(&p->mu);
    pthread_cond_destroy(&p->changed);
}

static struct timespec in_ms(int ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += ms * 1000000L;
    t.tv_sec += t.tv_nsec / 1000000000L;
    t.tv_nsec %= 1000000000L;
    return t;
}

bool kd_pace_enter(kd_pace *p, bool (*stopped)(void *arg), void *arg)
{
    bool stop = false;
    pthread_mutex_lock(&p->mu);
    while (p->under_way >= p->limit && !(stop = stopped(arg))) {
        const struct timespec until = in_ms(LOOK_MS);
        pthread_cond_timedwait(&p->changed, &p->mu, &until);
    }
    p->under_way += !stop;
    pthread_mutex_unlock(&p->mu);
    return !stop;
}

void kd_pace_leave(kd_pace *p, enum kd_pace_end end)
{
    pthread_mutex_lock(&p->mu);
    const int beside = p->under_way - 1;
    if (end == KD_PACE_CROWDED) {
        p->limit = KD_MIN(p->limit, KD_MAX(beside, 1));
        p->answered = 0;
    } else if (end == KD_PACE_ANSWERED && p->under_way >= p->limit) {
        p->answered++;
    }
    if (p->answered / GROW >= p->limit) {
        p->limit++;
        p->answered = 0;
    }
    p->under_way = beside;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mu);
}

int kd_pace_pause(int tries, bool crowded)
{
    const int last = crowded ? g_crowded.last_ms : g_away.last_ms;
    int ms = crowded ? g_crowded.first_ms : g_away.first_ms;
    while (--tries > 0 && ms < last)
        ms *= 2;
    ms = KD_MIN(ms, last);
    uint32_t drawn = 0;
    (void)!getrandom(&drawn, sizeof drawn, 0);
    return ms - (int)(drawn % (uint32_t)(ms / 2 + 1));
}

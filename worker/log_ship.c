#include "log_ship.h"

#include "kd/clock.h"
#include "kd/log_sink.h"
#include "kd/text.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define KEPT 128   /* lines that wait */
#define AT_ONCE 32 /* of one heart-beat */
#define TEXT 600

struct line {
    kd_log_work work;
    enum kd_log_level level;
    kd_time_ms at;
    uint64_t seq;
    char text[TEXT];
};

/* One a process, as the log is. */
static struct {
    pthread_mutex_t mu;
    struct line ring[KEPT];
    size_t first, n;
    uint64_t seq, left_out;
} g_ship = {.mu = PTHREAD_MUTEX_INITIALIZER};

static void keep(void *arg, enum kd_log_level level, const char *text, const kd_log_work *work)
{
    (void)arg;
    if (!work->job[0] || level > KD_LOG_INFO)
        return;
    pthread_mutex_lock(&g_ship.mu);
    if (g_ship.n == KEPT) {
        g_ship.left_out++;
    } else {
        struct line *l = &g_ship.ring[(g_ship.first + g_ship.n++) % KEPT];
        l->work = *work;
        l->level = level;
        l->at = kd_clock_ms();
        l->seq = ++g_ship.seq;
        snprintf(l->text, sizeof l->text, "%s", text);
        kd_utf8_mend(l->text);
    }
    pthread_mutex_unlock(&g_ship.mu);
}

void kd_log_ship_start(void)
{
    kd_log_set_sink(keep, NULL);
}

static void send_line(const struct line *l,
                      void (*send)(void *, const Distill__V1__WorkerMessage *), void *arg)
{
    Distill__V1__WorkerLog m = DISTILL__V1__WORKER_LOG__INIT;
    m.job = (char *)l->work.job;
    m.level = (char *)kd_log_level_word(l->level);
    m.text = (char *)l->text;
    m.stage = l->work.stage;
    m.step = l->work.step;
    m.seq = l->seq;
    m.age_ms = (uint32_t)KD_MIN(kd_clock_ms() - l->at, (kd_time_ms)UINT32_MAX);
    Distill__V1__WorkerMessage w = DISTILL__V1__WORKER_MESSAGE__INIT;
    w.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_LOG;
    w.log = &m;
    send(arg, &w);
}

void kd_log_ship(void (*send)(void *arg, const Distill__V1__WorkerMessage *m), void *arg)
{
    for (int i = 0; i < AT_ONCE; i++) {
        struct line l;
        pthread_mutex_lock(&g_ship.mu);
        bool any = g_ship.n > 0;
        if (any) {
            l = g_ship.ring[g_ship.first];
            g_ship.first = (g_ship.first + 1) % KEPT;
            if (--g_ship.n == 0 && g_ship.left_out) {
                /* In the last one's place in time, after it. */
                struct line *more = &g_ship.ring[g_ship.first];
                *more = l;
                more->seq = ++g_ship.seq;
                more->level = KD_LOG_WARN;
                snprintf(more->text, sizeof more->text, "%" PRIu64 " more lines were not kept",
                         g_ship.left_out);
                g_ship.left_out = 0;
                g_ship.n = 1;
            }
        }
        pthread_mutex_unlock(&g_ship.mu);
        if (!any)
            return;
        send_line(&l, send, arg);
    }
}

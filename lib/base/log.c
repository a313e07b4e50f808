#include "kd/log_sink.h"

#include "kd/clock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_int g_level = -1;
static atomic_int g_json = -1;
static const char *g_name = "distill", *g_worker;
static pthread_mutex_t g_mu = PTHREAD_MUTEX_INITIALIZER; /* guards g_work */
static kd_log_work g_work;
static kd_log_sink g_sink;
static void *g_sink_arg;

void kd_log_set_level(enum kd_log_level level)
{
    atomic_store(&g_level, (int)level);
}

void kd_log_set_name(const char *name)
{
    g_name = name;
}

void kd_log_set_worker(const char *name)
{
    g_worker = name;
}

void kd_log_set_work(const kd_log_work *work)
{
    pthread_mutex_lock(&g_mu);
    g_work = *work;
    pthread_mutex_unlock(&g_mu);
}

void kd_log_set_sink(kd_log_sink sink, void *arg)
{
    g_sink_arg = arg;
    g_sink = sink;
}

bool kd_log_set_format(const char *word)
{
    bool json = strcmp(word, "json") == 0;
    if (json || strcmp(word, "text") == 0)
        atomic_store(&g_json, json);
    return json || strcmp(word, "text") == 0;
}

static bool wants_json(void)
{
    int json = atomic_load(&g_json);
    if (json < 0) {
        const char *env = getenv("KD_LOG_FORMAT");
        json = env && strcmp(env, "json") == 0;
        atomic_store(&g_json, json);
    }
    return json;
}

static const char *const g_levels[] = {"err", "warn", "info", "debug"};

int kd_log_level_of(const char *word)
{
    for (size_t i = 0; i < KD_COUNT(g_levels); i++)
        if (strcmp(word, g_levels[i]) == 0)
            return (int)i;
    return -1;
}

const char *kd_log_level_word(enum kd_log_level level)
{
    return g_levels[level];
}

static int current_level(void)
{
    int level = atomic_load(&g_level);
    if (level >= 0)
        return level;
    const char *env = getenv("KD_LOG");
    level = env ? kd_log_level_of(env) : KD_LOG_INFO;
    if (level < 0)
        level = KD_LOG_INFO;
    atomic_store(&g_level, level);
    return level;
}

/* The prefix of a line of text. */
static size_t begin_line(char *line, size_t size, enum kd_log_level level)
{
    static const char *const words[] = {"ERROR", "WARN", "INFO", "DEBUG"};
    static const int priority[] = {3, 4, 6, 7};
    if (getenv("JOURNAL_STREAM"))
        return (size_t)snprintf(line, size, "<%d>", priority[level]);
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    size_t k = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &tm);
    return k + (size_t)snprintf(line + k, size - k, ".%03ldZ %-5s %s: ", ts.tv_nsec / 1000000,
                                words[level], g_name);
}

void kd_log(enum kd_log_level level, const char *fmt, ...)
{
    if ((int)level > current_level())
        return;
    char line[2048], json[4096];
    size_t n = begin_line(line, sizeof line, level);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - n - 1, fmt, ap);
    va_end(ap);
    size_t end = KD_MIN(n + (m < 0 ? 0 : (size_t)m), sizeof line - 2);
    for (size_t i = n; i < end; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    line[end] = '\0';
    pthread_mutex_lock(&g_mu);
    const kd_log_work work = g_work;
    pthread_mutex_unlock(&g_mu);
    if (g_sink)
        g_sink(g_sink_arg, level, line + n, &work);
    const char *out = line;
    if (wants_json()) {
        end = kd_log_json(json, sizeof json, kd_clock_wall_ms(), level, g_name, g_worker, &work,
                          line + n);
        out = json;
    } else {
        line[end++] = '\n';
    }
    ssize_t w = write(STDERR_FILENO, out, end);
    (void)w; /* nowhere left to report it */
}

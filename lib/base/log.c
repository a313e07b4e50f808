#include "kd/log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_int g_level = -1;
static const char *g_name = "distill";

void kd_log_set_level(enum kd_log_level level)
{
    atomic_store(&g_level, (int)level);
}

void kd_log_set_name(const char *name)
{
    g_name = name;
}

int kd_log_level_of(const char *word)
{
    static const char *const words[] = {"err", "warn", "info", "debug"};
    for (int i = 0; i < 4; i++)
        if (strcmp(word, words[i]) == 0)
            return i;
    return -1;
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

void kd_log(enum kd_log_level level, const char *fmt, ...)
{
    static const char *const words[] = {"ERROR", "WARN", "INFO", "DEBUG"};
    static const int priority[] = {3, 4, 6, 7};
    if ((int)level > current_level())
        return;
    char line[2048];
    int n;
    if (getenv("JOURNAL_STREAM")) {
        n = snprintf(line, sizeof line, "<%d>", priority[level]);
    } else {
        struct timespec ts;
        struct tm tm;
        clock_gettime(CLOCK_REALTIME, &ts);
        gmtime_r(&ts.tv_sec, &tm);
        size_t k = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
        n = (int)k + snprintf(line + k, sizeof line - k, ".%03ldZ %-5s %s: ", ts.tv_nsec / 1000000,
                              words[level], g_name);
    }
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    int end = n + (m < 0 ? 0 : m);
    if (end > (int)sizeof line - 2)
        end = (int)sizeof line - 2;
    for (int i = n; i < end; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    line[end++] = '\n';
    ssize_t w = write(STDERR_FILENO, line, (size_t)end);
    (void)w; /* nowhere left to report it */
}

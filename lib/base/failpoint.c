#include "kd/failpoint.h"

#ifdef KD_FAILPOINTS
#include "kd/err.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define VARIABLE "DISTILL_FAILPOINTS"
#define MAX_DELAY_MS 600000

enum what { NOTHING, KILL, STOP, ERROR, DELAY };

struct arming {
    enum what what;
    unsigned at; /* this hit only; 0 = every one */
    int err;
    long delay_ms;
};

static struct point {
    const char *name;
    bool can_fail;
    const char *where;
    struct arming armed; /* written before any thread starts */
    atomic_uint hits;
} g_points[] = {
#define POINT(arg, name, fails, where) {name, fails, where, {NOTHING, 0, 0, 0}, 0},
    KD_FAILPOINT_MAP(POINT, )
#undef POINT
};

static const struct {
    const char *name;
    int err;
} g_errors[] = {{"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EACCES", EACCES}, {"ENOMEM", ENOMEM}};

static struct point *find(const char *name)
{
    for (size_t i = 0; i < KD_COUNT(g_points); i++)
        if (strcmp(g_points[i].name, name) == 0)
            return &g_points[i];
    return NULL;
}

static bool whole_number(const char *text, long low, long high, long *out)
{
    char *end;
    errno = 0;
    *out = strtol(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && errno == 0 && *out >= low && *out <= high;
}

/* "error:ENOSPC@2", which is cut at its signs. */
static bool read_action(char *text, struct arming *out)
{
    char *at = strchr(text, '@');
    long n;
    *out = (struct arming){0};
    if (at) {
        *at++ = '\0';
        if (!whole_number(at, 1, 1000000000, &n))
            return false;
        out->at = (unsigned)n;
    }
    char *more = strchr(text, ':');
    if (more)
        *more++ = '\0';
    if (strcmp(text, "delay") == 0) {
        out->what = DELAY;
        return more && whole_number(more, 0, MAX_DELAY_MS, &out->delay_ms);
    }
    if (strcmp(text, "error") == 0) {
        out->what = ERROR;
        for (size_t i = 0; i < KD_COUNT(g_errors); i++)
            if (strcmp(more ? more : "EIO", g_errors[i].name) == 0)
                out->err = g_errors[i].err;
        return out->err != 0;
    }
    out->what = strcmp(text, "kill") == 0 ? KILL : strcmp(text, "stop") == 0 ? STOP : NOTHING;
    out->at = out->at ? out->at : 1;
    return out->what != NOTHING && !more;
}

static bool arm_one(char *entry, char why[256])
{
    char *equals = strchr(entry, '=');
    struct arming a;
    if (!equals) {
        snprintf(why, 256, "\"%.80s\" is not NAME=ACTION", entry);
        return false;
    }
    *equals = '\0';
    struct point *p = find(entry);
    bool all = strcmp(entry, "*") == 0;
    if (!p && !all) {
        snprintf(why, 256, "there is no failpoint \"%.80s\"; " VARIABLE "=list shows all", entry);
        return false;
    }
    char action[64];
    snprintf(action, sizeof action, "%s", equals + 1);
    if (strlen(equals + 1) >= sizeof action || !read_action(action, &a)) {
        snprintf(why, 256,
                 "%s=%.80s: kill, stop, error[:EIO|:ENOSPC|:EACCES|:ENOMEM] or delay:MS is "
                 "expected, each with @N or without",
                 entry, equals + 1);
        return false;
    }
    if (p && a.what == ERROR && !p->can_fail) {
        snprintf(why, 256, "%s cannot fail: %s", entry, p->where);
        return false;
    }
    if (p)
        p->armed = a;
    for (size_t i = 0; all && i < KD_COUNT(g_points); i++)
        if (g_points[i].armed.what == NOTHING && (a.what != ERROR || g_points[i].can_fail))
            g_points[i].armed = a;
    return true;
}

static bool arm_all(char *copy, bool stars, char why[256])
{
    char *rest = copy;
    for (char *entry; (entry = strsep(&rest, ";"));)
        if (*entry && (*entry == '*') == stars && !arm_one(entry, why))
            return false;
    return true;
}

bool kd_failpoints_arm(const char *text, char why[256])
{
    for (size_t i = 0; i < KD_COUNT(g_points); i++) {
        g_points[i].armed = (struct arming){0};
        atomic_store(&g_points[i].hits, 0);
    }
    /* Stars come last, wherever they stand: they are for what has no entry of its own. */
    bool good = true;
    for (int stars = 0; stars < 2 && good; stars++) {
        char *copy = kd_xstrdup(text);
        good = arm_all(copy, stars, why);
        free(copy);
    }
    for (size_t i = 0; i < KD_COUNT(g_points) && !good; i++)
        g_points[i].armed = (struct arming){0};
    return good;
}

void kd_failpoints_start(void)
{
    const char *text = getenv(VARIABLE);
    char why[256] = "";
    if (!text || !*text)
        return;
    if (strcmp(text, "list") == 0) {
        for (size_t i = 0; i < KD_COUNT(g_points); i++)
            printf("%-18s %-6s %s\n", g_points[i].name, g_points[i].can_fail ? "error" : "-",
                   g_points[i].where);
        exit(0);
    }
    if (!kd_failpoints_arm(text, why)) {
        fprintf(stderr, VARIABLE ": %s\n", why);
        exit(2);
    }
}

bool kd_failpoint_hit(const char *name)
{
    static const char *const words[] = {"nothing", "kill", "stop", "error", "delay"};
    struct point *p = find(name);
    KD_BUG_ON(!p);
    if (p->armed.what == NOTHING)
        return false;
    unsigned n = atomic_fetch_add(&p->hits, 1) + 1;
    if (p->armed.at && p->armed.at != n)
        return false;
    /* One write, so that the lines of threads do not mix and a kill does not cut it. */
    dprintf(STDERR_FILENO, "failpoint %s hit %u: %s\n", name, n, words[p->armed.what]);
    struct timespec pause = {p->armed.delay_ms / 1000, p->armed.delay_ms % 1000 * 1000000};
    switch (p->armed.what) {
    case KILL:
        kill(getpid(), SIGKILL);
        pause.tv_sec = 3600; /* it need not arrive before kill returns */
        nanosleep(&pause, NULL);
        break;
    case STOP:
        kill(getpid(), SIGSTOP);
        break;
    case DELAY:
        while (nanosleep(&pause, &pause) != 0 && errno == EINTR)
            continue;
        break;
    case ERROR:
        errno = p->armed.err;
        return true;
    case NOTHING:
        break;
    }
    return false;
}
#endif

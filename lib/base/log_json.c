#include "kd/clock.h"
#include "kd/log_sink.h"
#include "kd/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

struct out {
    char *at, *end; /* room for what closes the object is past the end */
};

/* Callers have looked whether there is room. */
static void put(struct out *o, const char *bytes, size_t n)
{
    if (n > (size_t)(o->end - o->at))
        return;
    memcpy(o->at, bytes, n);
    o->at += n;
}

/* A JSON string. One that does not fit ends early, but it ends. */
static void put_text(struct out *o, const char *text, size_t len)
{
    put(o, "\"", 1);
    for (const char *p = text, *stop = text + len; p < stop && o->end - o->at > 12;) {
        size_t n = kd_utf8_char(p, (size_t)(stop - p));
        char escaped[8];
        if (n == 0 || (unsigned char)*p < 0x20 || *p == 0x7f)
            put(o, "?", 1);
        else if (*p == '"' || *p == '\\')
            put(o, escaped, (size_t)snprintf(escaped, sizeof escaped, "\\%c", *p));
        else
            put(o, p, n);
        p += n ? n : 1;
    }
    put(o, "\"", 1);
}

static void put_pair(struct out *o, const char *key, const char *value)
{
    if (!value[0] || o->end - o->at < 64)
        return;
    char name[48];
    put(o, name, (size_t)snprintf(name, sizeof name, ",\"%.40s\":", key));
    put_text(o, value, strlen(value));
}

/* Where the next " key=" of a line begins, its end if there is none. */
static const char *next_key(const char *text)
{
    for (const char *p = text; (p = strchr(p, ' ')); p++) {
        size_t n = strspn(p + 1, "abcdefghijklmnopqrstuvwxyz_");
        if (n > 0 && n <= 40 && p[1 + n] == '=')
            return p;
    }
    return text + strlen(text);
}

static bool is_reserved(const char *key, size_t n)
{
    static const char *const words[] = {"time", "level", "program", "text"};
    for (size_t i = 0; i < KD_COUNT(words); i++)
        if (strlen(words[i]) == n && memcmp(words[i], key, n) == 0)
            return true;
    return false;
}

static bool has_key(const char *at, const char *key)
{
    size_t n = strlen(key);
    for (at = next_key(at); *at; at = next_key(at + 1))
        if (strncmp(at + 1, key, n) == 0 && at[1 + n] == '=')
            return true;
    return false;
}

/* The line's own pairs. */
static void put_fields(struct out *o, const char *at)
{
    while (*at && o->end - o->at >= 64) {
        const char *key = at + 1, *eq = strchr(key, '='), *end = next_key(eq);
        size_t n = (size_t)(eq - key);
        char name[56];
        put(o, name,
            (size_t)snprintf(name, sizeof name, ",\"%s%.*s\":", is_reserved(key, n) ? "its_" : "",
                             (int)n, key));
        put_text(o, eq + 1, (size_t)(end - eq - 1));
        at = end;
    }
}

/* What the line says itself goes before what the process works on. */
static void put_work(struct out *o, const char *worker, const kd_log_work *work, const char *text)
{
    char figures[64];
    if (work->job[0] && !has_key(text, "job")) {
        put_pair(o, "job", work->job);
        int n = snprintf(figures, sizeof figures, ",\"stage\":%" PRIu32 ",\"step\":%" PRIu64,
                         work->stage, work->step);
        if (!has_key(text, "stage") && !has_key(text, "step") && o->end - o->at >= 64)
            put(o, figures, (size_t)n);
    }
    if (worker && !has_key(text, "worker"))
        put_pair(o, "worker", worker);
}

size_t kd_log_json(char *out, size_t size, int64_t time_ms, enum kd_log_level level,
                   const char *program, const char *worker, const kd_log_work *work,
                   const char *text)
{
    struct out o = {.at = out, .end = out + size - 3};
    const char *fields = next_key(text);
    size_t n = (size_t)(fields - text);
    char when[40];
    struct tm tm;
    time_t seconds = (time_t)(time_ms / 1000);
    while (n > 0 && (text[n - 1] == ':' || text[n - 1] == ' '))
        n--;
    gmtime_r(&seconds, &tm);
    size_t k = strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(when + k, sizeof when - k, ".%03dZ", (int)(time_ms % 1000));
    put(&o, "{\"time\":", 8);
    put_text(&o, when, strlen(when));
    put_pair(&o, "level", kd_log_level_word(level));
    put_pair(&o, "program", program);
    put(&o, ",\"text\":", 8);
    put_text(&o, text, n);
    put_work(&o, worker, work, text);
    put_fields(&o, fields);
    memcpy(o.at, "}\n", 3);
    return (size_t)(o.at - out) + 2;
}

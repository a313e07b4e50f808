#include "format.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

char *kd_fmt_duration(double s, char out[KD_FMT])
{
    if (!isfinite(s) || s < 0) {
        snprintf(out, KD_FMT, "-");
        return out;
    }
    s = KD_MIN(s, 1e12);
    long long whole = llround(s);
    if (s < 9.95)
        snprintf(out, KD_FMT, "%.1fs", s);
    else if (whole < 60)
        snprintf(out, KD_FMT, "%llds", whole);
    else if (whole < 3600)
        snprintf(out, KD_FMT, "%lldm%02llds", whole / 60, whole % 60);
    else if (whole < 86400)
        snprintf(out, KD_FMT, "%lldh%02lldm", whole / 3600, whole / 60 % 60);
    else
        snprintf(out, KD_FMT, "%lldd%02lldh", whole / 86400, whole / 3600 % 24);
    return out;
}

char *kd_fmt_bytes(double bytes, char out[KD_FMT])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    size_t u = 0;
    if (!isfinite(bytes) || bytes < 0) {
        snprintf(out, KD_FMT, "-");
        return out;
    }
    while (bytes >= 999.5 && u + 1 < KD_COUNT(units)) {
        bytes /= 1000;
        u++;
    }
    snprintf(out, KD_FMT, "%.*f %s", u > 0 && bytes < 99.95 ? 1 : 0, bytes, units[u]);
    return out;
}

char *kd_fmt_count(uint64_t n, char out[KD_FMT])
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n);
    int at = 0;
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = '\0';
    return out;
}

char *kd_fmt_percent(double f, char out[KD_FMT])
{
    if (!isfinite(f) || f < 0 || f > 1)
        snprintf(out, KD_FMT, "-");
    else
        snprintf(out, KD_FMT, "%.1f %%", f * 100);
    return out;
}

char *kd_fmt_figure(double v, char out[KD_FMT])
{
    double a = fabs(v);
    if (!isfinite(v))
        snprintf(out, KD_FMT, "-");
    else if (a != 0 && (a < 1e-3 || a >= 1e7))
        snprintf(out, KD_FMT, "%.3e", v);
    else
        snprintf(out, KD_FMT, "%.*f", a < 9.99995 ? 4 : a < 99.995 ? 2 : a < 999.95 ? 1 : 0, v);
    return out;
}

static bool local_time(int64_t ms, struct tm *tm)
{
    time_t t = (time_t)(ms / 1000);
    return localtime_r(&t, tm) != NULL;
}

char *kd_fmt_clock(int64_t ms, int64_t now_ms, char out[KD_FMT])
{
    struct tm tm, now;
    char text[32];
    snprintf(out, KD_FMT, "-");
    if (ms <= 0 || !local_time(ms, &tm) || !local_time(now_ms, &now))
        return out;
    bool today = tm.tm_yday == now.tm_yday && tm.tm_year == now.tm_year;
    if (strftime(text, sizeof text, today ? "%H:%M:%S" : "%Y-%m-%d %H:%M:%S", &tm))
        snprintf(out, KD_FMT, "%s.%03d", text, (int)(ms % 1000));
    return out;
}

char *kd_fmt_age(int64_t ms, int64_t now_ms, char out[KD_FMT])
{
    if (ms <= 0) {
        snprintf(out, KD_FMT, "-");
        return out;
    }
    /* Clocks of two machines differ a little; nothing happened in the future. */
    return kd_fmt_duration((double)KD_MAX(now_ms - ms, 0) / 1000, out);
}

bool kd_parse_duration(const char *text, double *out_seconds)
{
    static const struct {
        const char *unit;
        double seconds;
    } units[] = {{"ms", 1e-3}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}};
    double total = 0, least = INFINITY;
    const char *p = text;
    if (!*p)
        return false;
    while (*p) {
        if ((*p < '0' || *p > '9') && *p != '.')
            return false;
        size_t digits = strspn(p, "0123456789.");
        char number[24];
        if (digits >= sizeof number)
            return false;
        memcpy(number, p, digits);
        number[digits] = '\0';
        char *end = NULL;
        double v = strtod(number, &end);
        if (*end || end == number)
            return false;
        p += digits;
        double unit = 0;
        if (!*p && p == text + digits)
            unit = 1;
        for (size_t i = 0; unit == 0 && i < KD_COUNT(units); i++) {
            size_t n = strlen(units[i].unit);
            if (strncmp(p, units[i].unit, n) == 0 &&
                (p[n] == '\0' || (p[n] >= '0' && p[n] <= '9'))) {
                unit = units[i].seconds;
                p += n;
            }
        }
        if (unit == 0 || unit >= least)
            return false;
        least = unit;
        total += v * unit;
    }
    if (!(total <= 10 * 366 * 86400.0))
        return false;
    *out_seconds = total;
    return true;
}

/* Takes one code point; returns its bytes, *out_cp = -1 if the first byte starts none. */
static size_t take_char(const char *s, int32_t *out_cp)
{
    const unsigned char *u = (const unsigned char *)s;
    static const int32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = u[0] < 0x80             ? 1
               : (u[0] & 0xe0) == 0xc0 ? 2
               : (u[0] & 0xf0) == 0xe0 ? 3
               : (u[0] & 0xf8) == 0xf0 ? 4
                                       : 0;
    *out_cp = -1;
    if (n == 0)
        return 1;
    int32_t cp = n == 1 ? u[0] : u[0] & (0x7f >> n);
    for (size_t i = 1; i < n; i++) {
        if ((u[i] & 0xc0) != 0x80)
            return 1;
        cp = cp << 6 | (u[i] & 0x3f);
    }
    if (cp < least[n] || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000))
        return 1;
    *out_cp = cp;
    return n;
}

void kd_text_clean(kd_buf *b, const char *s)
{
    while (*s) {
        int32_t cp;
        size_t n = take_char(s, &cp);
        if (cp == '\n' || cp == '\t')
            (void)kd_buf_add(b, " ", 1);
        /* The last ranges turn the direction of writing, which can make a name read as another. */
        else if (cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || (cp >= 0x202a && cp <= 0x202e) ||
                 (cp >= 0x2066 && cp <= 0x2069))
            (void)kd_buf_add(b, "?", 1);
        else
            (void)kd_buf_add(b, s, n);
        s += n;
    }
}

static int columns_of(int32_t cp)
{
    static const struct {
        int32_t first, last;
        int columns;
    } ranges[] = {{0x300, 0x36f, 0},   {0x200b, 0x200f, 0},   {0xfe00, 0xfe0f, 0},
                  {0x1100, 0x115f, 2}, {0x2e80, 0xa4cf, 2},   {0xac00, 0xd7a3, 2},
                  {0xf900, 0xfaff, 2}, {0xfe30, 0xfe6f, 2},   {0xff00, 0xff60, 2},
                  {0xffe0, 0xffe6, 2}, {0x1f300, 0x1faff, 2}, {0x20000, 0x3fffd, 2}};
    for (size_t i = 0; i < KD_COUNT(ranges); i++)
        if (cp >= ranges[i].first && cp <= ranges[i].last)
            return ranges[i].columns;
    return 1;
}

/* Bytes of a colour sequence (ESC [ ... m) at s, 0 if there is none. */
static size_t color_bytes(const char *s)
{
    if (s[0] != '\033' || s[1] != '[')
        return 0;
    size_t n = 2 + strspn(s + 2, "0123456789;");
    return s[n] == 'm' ? n + 1 : 0;
}

size_t kd_text_cut(const char *s, int columns)
{
    size_t at = 0;
    int used = 0;
    while (s[at]) {
        size_t skip = color_bytes(s + at);
        if (skip) {
            at += skip;
            continue;
        }
        int32_t cp;
        size_t n = take_char(s + at, &cp);
        int w = columns_of(cp);
        if (used + w > columns)
            break;
        used += w;
        at += n;
    }
    return at;
}

void kd_text_name(char *s, char other)
{
    for (char *p = s + strspn(s, KD_NAME_LETTERS); *p; p += strspn(p, KD_NAME_LETTERS))
        *p++ = other;
}

int kd_text_width(const char *s)
{
    int used = 0;
    while (*s) {
        size_t skip = color_bytes(s);
        if (skip) {
            s += skip;
            continue;
        }
        int32_t cp;
        s += take_char(s, &cp);
        used += columns_of(cp);
    }
    return used;
}

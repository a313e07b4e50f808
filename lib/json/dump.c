#include "json/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *kd_json_real(double v, char out[KD_JSON_REAL])
{
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(out, KD_JSON_REAL - 2, "%.*g", digits, v);
        if (strtod(out, NULL) == v)
            break;
    }
    char *e = strchr(out, 'e');
    if (e) {
        /* 1e+07 is 1e7. */
        char *from = e + 1 + (e[1] == '+'), *to = e + 1;
        if (*from == '-')
            *to++ = *from++;
        from += strspn(from, "0");
        memmove(to, from, strlen(from) + 1);
    } else if (!strchr(out, '.')) {
        strcat(out, ".0"); /* or it would be read as a whole number */
    }
    return out;
}

/* Length of the string at p, quotes included. */
static size_t string_len(const char *p)
{
    size_t n = 1;
    while (p[n] != '"')
        n += p[n] == '\\' ? 2 : 1;
    return n + 1;
}

/* Rewrites the number at p [n] in place if that makes it shorter; its length then. */
static size_t shorten(char *p, size_t n)
{
    char real[KD_JSON_REAL];
    if (!memchr(p, '.', n))
        return n;
    const size_t len = strlen(kd_json_real(strtod(p, NULL), real));
    if (len >= n)
        return n;
    memcpy(p, real, len);
    return len;
}

char *kd_json_dump(const json_t *v, size_t flags)
{
    char *text = v ? json_dumps(v, flags) : NULL, *to = text;
    for (char *from = text; from && *from;) {
        const size_t digits = strspn(from, "-+.eE0123456789");
        const bool number = digits > 0 && *from != 'e'; /* true, false */
        const size_t n = *from == '"' ? string_len(from) : number ? digits : 1;
        const size_t keep = number ? shorten(from, n) : n;
        memmove(to, from, keep);
        to += keep;
        from += n;
    }
    if (to)
        *to = '\0';
    return text;
}

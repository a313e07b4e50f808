#include "kd/text.h"

#include <stddef.h>

/* Bytes of the character at p, 0 if it is none: no overlong forms, surrogates or numbers past
 * U+10FFFF. */
static size_t character(const unsigned char *p)
{
    static const struct {
        unsigned char first, last, low, high; /* of the second byte */
        size_t bytes;
    } rows[] = {{0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
                {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3},
                {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
                {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    if (*p < 0x80)
        return 1;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (*p < rows[i].first || *p > rows[i].last)
            continue;
        if (p[1] < rows[i].low || p[1] > rows[i].high)
            return 0;
        for (size_t k = 2; k < rows[i].bytes; k++)
            if (p[k] < 0x80 || p[k] > 0xbf)
                return 0;
        return rows[i].bytes;
    }
    return 0;
}

bool kd_utf8_valid(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    for (size_t n; *p; p += n)
        if ((n = character(p)) == 0)
            return false;
    return true;
}

void kd_utf8_mend(char *text)
{
    unsigned char *p = (unsigned char *)text;
    for (size_t n; *p; p += n) {
        n = character(p);
        if (n == 0) {
            *p = '?';
            n = 1;
        }
    }
}

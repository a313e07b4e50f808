#include "kd/text.h"

#include <string.h>

size_t kd_utf8_char(const void *bytes, size_t len)
{
    static const struct {
        unsigned char first, last, low, high; /* of the second byte */
        size_t bytes;
    } rows[] = {{0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
                {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3},
                {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
                {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    const unsigned char *p = bytes;
    if (len > 0 && *p < 0x80)
        return *p != 0;
    for (size_t i = 0; len > 0 && i < sizeof rows / sizeof rows[0]; i++) {
        if (*p < rows[i].first || *p > rows[i].last)
            continue;
        if (len < rows[i].bytes || p[1] < rows[i].low || p[1] > rows[i].high)
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
    size_t left = strlen(text);
    for (size_t n; left > 0; text += n, left -= n)
        if ((n = kd_utf8_char(text, left)) == 0)
            return false;
    return true;
}

void kd_utf8_mend(char *text)
{
    size_t left = strlen(text);
    for (size_t n; left > 0; text += n, left -= n) {
        n = kd_utf8_char(text, left);
        if (n == 0) {
            *text = '?';
            n = 1;
        }
    }
}

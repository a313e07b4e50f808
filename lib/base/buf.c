#include "kd/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void kd_buf_init(kd_buf *b, size_t max)
{
    *b = (kd_buf){.max = max};
}

void kd_buf_clear(kd_buf *b)
{
    free(b->data);
    *b = (kd_buf){.max = b->max};
}

char *kd_buf_grow(kd_buf *b, size_t len)
{
    if (len > b->max - b->len) {
        b->failed = true;
        return NULL;
    }
    size_t need = b->len + len + 1;
    if (need > b->cap) {
        size_t cap = KD_MAX(need, KD_MIN(b->cap * 2, b->max + 1));
        cap = KD_MAX(cap, (size_t)64);
        char *p = realloc(b->data, cap);
        if (!p) {
            b->failed = true;
            return NULL;
        }
        b->data = p;
        b->cap = cap;
    }
    char *at = b->data + b->len;
    b->len += len;
    b->data[b->len] = '\0';
    return at;
}

int kd_buf_add(kd_buf *b, const void *bytes, size_t len)
{
    char *at = kd_buf_grow(b, len);
    if (!at)
        return len > b->max - b->len ? -KD_ELIMIT : -KD_ENOMEM;
    if (len)
        memcpy(at, bytes, len);
    return 0;
}

int kd_buf_str(kd_buf *b, const char *s)
{
    return kd_buf_add(b, s, strlen(s));
}

int kd_buf_printf(kd_buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    int rc = -KD_EINVAL;
    if (n >= 0) {
        char *at = kd_buf_grow(b, (size_t)n);
        rc = at ? 0 : -KD_ELIMIT;
        if (at)
            vsnprintf(at, (size_t)n + 1, fmt, again);
    }
    va_end(again);
    return rc;
}

char *kd_buf_take(kd_buf *b)
{
    if (b->failed || !kd_buf_grow(b, 0)) {
        kd_buf_clear(b);
        return NULL;
    }
    char *p = b->data;
    *b = (kd_buf){.max = b->max};
    return p;
}

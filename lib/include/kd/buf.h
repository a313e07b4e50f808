/* A growing byte buffer born with its maximum.
 *
 * Invariants: `data` is never NULL after an append that returned 0, and data[len] is always '\0',
 * so that text needs no copy. An append past `max` or without memory fails with -KD_ELIMIT or
 * -KD_ENOMEM, changes nothing and marks the buffer `failed`, so that a run of appends may be
 * checked once at its end. Threads: one at a time. */
#ifndef KD_BUF_H
#define KD_BUF_H

#include "kd/err.h"

typedef struct kd_buf {
    char *data; /* NULL while empty */
    size_t len, cap, max;
    bool failed;
} kd_buf;

/* No allocation. max counts the bytes without the closing NUL. */
void kd_buf_init(kd_buf *b, size_t max);
/* Frees the contents; the buffer may be used again with the same maximum. */
void kd_buf_clear(kd_buf *b);
int kd_buf_add(kd_buf *b, const void *bytes, size_t len);
int kd_buf_str(kd_buf *b, const char *s);
int kd_buf_printf(kd_buf *b, const char *fmt, ...) KD_PRINTF(2, 3);
/* Room for len more bytes; returns where to write them (len already counted), NULL on failure. */
char *kd_buf_grow(kd_buf *b, size_t len);
/* Moves the contents out: caller frees with free(). NULL if the buffer failed. Never NULL for an
 * empty buffer that did not fail. */
char *kd_buf_take(kd_buf *b);

#endif

/* Text that leaves the process must be UTF-8 (RFC 3629). Threads: reentrant. */
#ifndef KD_TEXT_H
#define KD_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the character that begins at bytes, 0 if none does: no NUL, overlong form, surrogate or
 * number past U+10FFFF. Reads at most len bytes. */
size_t kd_utf8_char(const void *bytes, size_t len);
bool kd_utf8_valid(const char *text);
/* Replaces every byte that belongs to no whole character by '?', in place: names of files may be
 * anything, and texts are cut to fit. */
void kd_utf8_mend(char *text);

#endif

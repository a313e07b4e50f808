/* Text that leaves the process must be UTF-8 (RFC 3629). Threads: reentrant. */
#ifndef KD_TEXT_H
#define KD_TEXT_H

#include <stdbool.h>

bool kd_utf8_valid(const char *text);
/* Replaces every byte that belongs to no whole character by '?', in place: names of files may be
 * anything, and texts are cut to fit. */
void kd_utf8_mend(char *text);

#endif

/* Log lines on standard error: `time level module: sentence key=value ...`.
 *
 * Libraries log at debug only; programs log each error once, where they decide what to do about it.
 * Under systemd (JOURNAL_STREAM set) lines start with the <n> priority prefix instead of a time.
 * Threads: any. One write() a line, cut at 2 KiB; control characters come out as '?'. */
#ifndef KD_LOG_H
#define KD_LOG_H

#include "kd/err.h"

enum kd_log_level { KD_LOG_ERR, KD_LOG_WARN, KD_LOG_INFO, KD_LOG_DEBUG };

/* Least important level still printed; default KD_LOG_INFO, or from KD_LOG=err|warn|info|debug. */
void kd_log_set_level(enum kd_log_level level);
/* Level of a word (err, warn, info, debug); -1 for another. And the word of a level. */
int kd_log_level_of(const char *word);
const char *kd_log_level_word(enum kd_log_level level);
/* Program word at the start of each line, borrowed for ever. */
void kd_log_set_name(const char *name);
void kd_log(enum kd_log_level level, const char *fmt, ...) KD_PRINTF(2, 3);

#define kd_err(...) kd_log(KD_LOG_ERR, __VA_ARGS__)
#define kd_warn(...) kd_log(KD_LOG_WARN, __VA_ARGS__)
#define kd_info(...) kd_log(KD_LOG_INFO, __VA_ARGS__)
#define kd_debug(...) kd_log(KD_LOG_DEBUG, __VA_ARGS__)

#endif

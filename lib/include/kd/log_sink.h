/* Where log lines go besides, and as what.
 *
 * With kd_log_set_format("json"), or KD_LOG_FORMAT=json in the environment, each line is one JSON
 * object on a line (RFC 8259):
 * time (RFC 3339, UTC), level, program, text, then what the process works on (job, stage, step,
 * where it is known) and worker, then the line's own `key=value` pairs as texts:
 *
 *     {"time":"2026-05-01T12:00:00.123Z","level":"warn","program":"distilld","text":"logit bank is
 *      damaged","bank":"48376beae36c...","at":"0"}
 *
 * Threads: any; what is set here is set before others log, but the work. */
#ifndef KD_LOG_SINK_H
#define KD_LOG_SINK_H

#include "kd/log.h"

/* What the process works on; job "" = nothing. */
typedef struct kd_log_work {
    char job[13];
    uint32_t stage;
    uint64_t step;
} kd_log_work;
void kd_log_set_work(const kd_log_work *work);
/* "text" or "json"; false: it is neither, and nothing changes. */
bool kd_log_set_format(const char *word);
/* Name of the worker that this process is, borrowed for ever. */
void kd_log_set_worker(const char *name);
/* Gets each line that is printed, without time and level, on the thread that logs it; must not log.
 */
typedef void (*kd_log_sink)(void *arg, enum kd_log_level level, const char *text,
                            const kd_log_work *work);
void kd_log_set_sink(kd_log_sink sink, void *arg);

/* A line as JSON into out, which always ends in a line break; what does not fit is cut. Returns its
 * length. */
size_t kd_log_json(char *out, size_t size, int64_t time_ms, enum kd_log_level level,
                   const char *program, const char *worker, const kd_log_work *work,
                   const char *text);

#endif

/* Messages as JSON for programs. Field names are those of proto/distill.proto; states are
 * lower-case words; a time is ISO 8601 in UTC under the name without `_ms`, null while there is
 * none. Every kd_json_ function gives a new reference, or NULL when memory is out. Threads:
 * reentrant.
 */
#ifndef KD_JSON_JSON_H
#define KD_JSON_JSON_H

#include "distill.pb-c.h"

#include <jansson.h>
#include <stdbool.h>

/* "queued", ... "unknown" */
const char *kd_state_word(Distill__V1__JobState state);
/* Does the record tell agreement and KL with a teacher? (All zero: a coordinator that does not.) */
bool kd_epoch_taught(const Distill__V1__EpochRecord *e);

json_t *kd_json_summary(const Distill__V1__JobSummary *s);
json_t *kd_json_detail(const Distill__V1__JobDetail *d);
json_t *kd_json_event(const char *job, const Distill__V1__Event *e);
json_t *kd_json_worker(const Distill__V1__WorkerInfo *w);
json_t *kd_json_info(const Distill__V1__InfoReply *info);
json_t *kd_json_estimate(const Distill__V1__Estimate *e);
json_t *kd_json_time(int64_t ms);
/* Text that should be JSON: the value, else null. */
json_t *kd_json_parse(const char *text);
json_t *kd_json_text(const char *s);

/* As json_dumps, but a real number has no more digits than are needed to read it back: 0.9, not
 * 0.90000000000000002. v is borrowed; the caller frees the text. NULL when v is or memory is out.
 */
char *kd_json_dump(const json_t *v, size_t flags);
/* The same of one number, which must be finite. Returns out. */
#define KD_JSON_REAL 32
const char *kd_json_real(double v, char out[KD_JSON_REAL]);

#endif

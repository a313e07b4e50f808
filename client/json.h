/* Messages as JSON for programs. Field names are those of proto/distill.proto; states are
 * lower-case words; a time is ISO 8601 in UTC under the name without `_ms`, null while there is
 * none. Every function gives a new reference, or NULL when memory is out. */
#ifndef KD_CLI_JSON_H
#define KD_CLI_JSON_H

#include "cli.h"
#include "distill.pb-c.h"

#include <jansson.h>

json_t *kd_json_summary(const Distill__V1__JobSummary *s);
json_t *kd_json_detail(const Distill__V1__JobDetail *d);
json_t *kd_json_event(const char *job, const Distill__V1__Event *e);
json_t *kd_json_worker(const Distill__V1__WorkerInfo *w);
json_t *kd_json_time(int64_t ms);
/* Text that should be JSON: the value, else null. */
json_t *kd_json_parse(const char *text);
json_t *kd_json_text(const char *s);
/* Prints value and a line break to standard output and drops the reference. compact: on one line.
 * NULL prints an error. Returns an exit code. */
int kd_json_print(const kd_cli *cli, json_t *value, bool compact);

#endif

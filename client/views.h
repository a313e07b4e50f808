/* Jobs, events and results as people read them: words, colours, the tables that several verbs
 * share. */
#ifndef KD_CLI_VIEWS_H
#define KD_CLI_VIEWS_H

#include "distill.pb-c.h"
#include "output.h"
#include "json/json.h"

/* Of a job in its state: "paused" and "pausing" too. */
const char *kd_summary_word(const Distill__V1__JobSummary *s);
enum kd_color kd_summary_color(const Distill__V1__JobSummary *s);
bool kd_state_ended(Distill__V1__JobState state);
enum kd_color kd_state_color(Distill__V1__JobState state);
/* Exit code of a job that ended: 0, 7 or 8. */
int kd_state_exit(Distill__V1__JobState state);

/* One line of an event: time, kind, worker, text. Caller clears out. */
void kd_view_event(const kd_cli *cli, const Distill__V1__Event *e, int64_t now_ms, kd_buf *out);
/* The live line, or with color and bar off a plain one, e.g.
 * "distill 2/5  epoch 3/10  [####----] 412/780  loss 0.4123  acc 86.1 %  612 img/s  ETA 1m12s  2
 * workers". width: columns there are for it (the bar and then the tail shrink), 0 = any. */
void kd_view_progress(const Distill__V1__Progress *p, int width, bool bar, bool utf8, kd_buf *out);
/* The final table from result.json. false when text is not the JSON it should be. */
bool kd_view_result(const kd_cli *cli, const char *result_json);
/* What watch, submit and wait print when the job ended: table or reason, and with `hints` what to
 * do next. Returns the job's exit code. */
int kd_view_end(const kd_cli *cli, const Distill__V1__JobDetail *d, bool hints);
/* The best record by validation: what the coordinator marks, else the one with the most right
 * answers, the first of equals; -1 if none was validated. */
int kd_view_best(const Distill__V1__StageRecord *s);

#endif

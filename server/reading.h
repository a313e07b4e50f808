/* What there is, as the messages of service Jobs: for its calls and for HTTP.
 *
 * Each function builds one message and lends it to `fn` during the call; it calls fn exactly once.
 * Messages fit into KD_MAX_CONTROL_BYTES: what is too much is left out, oldest first. Threads: the
 * loop. */
#ifndef KD_SERVER_READING_H
#define KD_SERVER_READING_H

#include "daemon.h"

typedef void (*kd_tell_fn)(void *arg, const void *message);

/* JobSummary */
void kd_tell_summary(kd_daemon *d, kd_job_record *j, kd_tell_fn fn, void *arg);
/* ListReply: newest first, at most limit (0 = 100, at most 1000); a sweep is followed by its jobs,
 * which do not count. who: those that he may read, NULL = all. before: only what was submitted
 * before it, NULL = all. */
void kd_tell_list(kd_daemon *d, const kd_pki_identity *who, uint32_t limit,
                  const kd_job_record *before, kd_tell_fn fn, void *arg);
/* JobDetail */
void kd_tell_detail(kd_daemon *d, kd_job_record *j, kd_tell_fn fn, void *arg);
/* WorkerInfo */
void kd_tell_worker(kd_daemon *d, kd_worker_record *w, kd_tell_fn fn, void *arg);
/* WorkersReply: those that have joined. */
void kd_tell_workers(kd_daemon *d, kd_tell_fn fn, void *arg);
/* InfoReply */
void kd_tell_info(kd_daemon *d, kd_tell_fn fn, void *arg);

#endif

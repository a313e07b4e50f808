/* Hooks: a command that is run, a web address that is called, when a job starts, ends, fails or
 * stalls, and at each epoch. They come from the coordinator's configuration, never from a job.
 *
 * At least once. What is to be told is stored in one transaction with the event that it tells of,
 * and forgotten when it was told: a command ended with 0, or an address answered 2xx. So after a
 * crash one may be told twice, by the same id. What fails is tried again, later each time, and
 * given up after KD_HOOK_TRIES; what a job has to tell comes in its order. At most KD_HOOK_WAITING
 * wait; what is more is dropped. Both are logged and counted.
 *
 * A command runs without a shell, in a process group of its own which is killed when it ends or
 * when its time is over; it gets the event as JSON on standard input and a little of it in its
 * environment, which is otherwise empty but for PATH and LANG. Its output goes to the log. Threads:
 * the loop; one of its own talks to the address. */
#ifndef KD_SERVER_HOOKS_H
#define KD_SERVER_HOOKS_H

#include "kd/clock.h"
#include "kd/err.h"

#define KD_WORDS 16
#define KD_WORDS_TEXT 2048
/* A few words in one place. */
typedef struct kd_words {
    int n;
    uint16_t at[KD_WORDS];
    char text[KD_WORDS_TEXT];
} kd_words;
/* -KD_ELIMIT. */
int kd_words_add(kd_words *w, const char *word, kd_diag *diag) KD_MUST_CHECK;
static inline const char *kd_words_at(const kd_words *w, int i)
{
    return w->text + w->at[i];
}

enum kd_hook_kind { KD_HOOK_START, KD_HOOK_END, KD_HOOK_FAIL, KD_HOOK_STALL, KD_HOOK_EPOCH };
#define KD_HOOK_KINDS 5
extern const char *const kd_hook_words[KD_HOOK_KINDS];

enum kd_hook_target { KD_HOOK_COMMAND, KD_HOOK_URL };
#define KD_HOOK_TARGETS 2
extern const char *const kd_hook_targets[KD_HOOK_TARGETS];

#define KD_HOOK_TRIES 6
#define KD_HOOK_WAITING 10000
#define KD_HOOK_BODY 16384 /* bytes of an event's JSON */

typedef struct kd_hook_config {
    kd_words command; /* argv; none = no command */
    const char *url;  /* NULL or "" = none */
    kd_words kinds;   /* none = all */
    int64_t timeout_s;
} kd_hook_config;

typedef struct kd_hooks kd_hooks;
struct kd_daemon;
struct kd_job_record;

/* Borrows the configuration. -KD_EINVAL with what is wrong in it. */
int kd_hooks_open(struct kd_daemon *d, const kd_hook_config *cfg, kd_diag *diag) KD_MUST_CHECK;
/* Before the loop is closed: ends what runs. It is told again after the next start. */
void kd_hooks_stop(struct kd_daemon *d);
void kd_hooks_free(kd_hooks *h); /* NULL allowed */
/* Whether an event of this kind is to be told of the job now; *out_kind. */
bool kd_hooks_want(const struct kd_daemon *d, const struct kd_job_record *j, const char *event,
                   enum kd_hook_kind *out_kind);
/* Within the transaction of the job's newest event, stores that it is to be told. */
int kd_hooks_add(struct kd_daemon *d, const struct kd_job_record *j, enum kd_hook_kind kind,
                 const char *text, const char *worker, const char *data,
                 kd_diag *diag) KD_MUST_CHECK;
void kd_hooks_tick(struct kd_daemon *d, kd_time_ms now);

typedef struct kd_hook_counts {
    uint64_t told[KD_HOOK_TARGETS], failed[KD_HOOK_TARGETS], dropped[KD_HOOK_TARGETS], waiting;
} kd_hook_counts;
kd_hook_counts kd_hooks_count(const kd_hooks *h);

#endif

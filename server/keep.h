/* Retention: what is over stays for a while and within bounds, then it goes, oldest first, and says
 * so. Of jobs that are over: checkpoints (by which they can be continued) and events. Of all: logit
 * banks by their last use, uploads that no job came to name. Artefacts stay until `distill rm`.
 *
 * Nothing goes that a job which is not over needs: the checkpoints of the job that it goes on from
 * or runs again, of the job whose network it starts from, of its siblings in a sweep; its bank. A
 * rule is the configuration's until somebody changes it at run time; that is stored. A drop is
 * first committed or renamed, then unlinked, and what a crash leaves between the two goes at the
 * next start. Threads: the loop. */
#ifndef KD_SERVER_KEEP_H
#define KD_SERVER_KEEP_H

#include "kd/clock.h"
#include "kd/err.h"

enum kd_keep_what { KD_KEEP_CHECKPOINTS, KD_KEEP_LOGS, KD_KEEP_BANKS, KD_KEEP_UPLOADS, KD_KEEPS };
#define KD_KEEP_OF_JOBS 2 /* the first of them belong to jobs */
extern const char *const kd_keep_words[KD_KEEPS];

/* 0 = no limit. */
typedef struct kd_keep_rules {
    int64_t age_s[KD_KEEPS];
    uint64_t bytes[KD_KEEPS];
} kd_keep_rules;
#define KD_KEEP_DEFAULT                                                                            \
    {                                                                                              \
        .age_s = {90 * 86400, 365 * 86400, 90 * 86400, 7 * 86400}, .bytes = {                      \
            0,                                                                                     \
            4ull << 30,                                                                            \
            0,                                                                                     \
            0                                                                                      \
        }                                                                                          \
    }

typedef struct kd_keep_sum {
    uint64_t items, bytes;
} kd_keep_sum;

typedef struct kd_keep {
    kd_keep_rules configured, rules;
    bool changed[KD_KEEPS][2]; /* age, bytes: at run time */
    kd_keep_sum kept[KD_KEEPS], dropped[KD_KEEPS];
    kd_time_ms jobs_at, disk_at; /* next looks */
} kd_keep;

struct kd_daemon;
struct kd_setting;
/* Before jobs are restored: the rules of the configuration, and what was changed of them. */
int kd_keep_open(struct kd_daemon *d, const kd_keep_rules *configured, kd_diag *diag) KD_MUST_CHECK;
/* A rule by the name of its setting, NULL if there is none. */
const struct kd_setting *kd_keep_rule(const char *name, enum kd_keep_what *out_what,
                                      bool *out_is_size);
/* Stores it; text as in the configuration, "" = as that says. -KD_EINVAL. */
int kd_keep_set(struct kd_daemon *d, const char *name, const char *text,
                kd_diag *diag) KD_MUST_CHECK;
void kd_keep_tick(struct kd_daemon *d, kd_time_ms now);

#endif

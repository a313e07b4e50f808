/* Which role may call which method: one table, asked in one place (kd_access_admit). */
#ifndef KD_SERVER_RULES_H
#define KD_SERVER_RULES_H

#include "pki/pki.h"

/* What a call does to the job it names. */
enum kd_scope {
    KD_SCOPE_NONE, /* names none */
    KD_SCOPE_READ, /* its owner, viewers and all above them may */
    KD_SCOPE_ACT   /* its owner, operators and admins may */
};

typedef struct kd_rule {
    const char *path; /* "/distill.v1.Jobs/Submit" */
    unsigned roles;   /* bit number enum kd_role */
    enum kd_scope scope;
    bool audited; /* whether it is entered even when it is not refused */
    bool metered; /* counts for the request rate */
} kd_rule;

extern const kd_rule kd_rules[];
extern const size_t kd_n_rules;
/* NULL for a path that has none: nobody may call it. */
const kd_rule *kd_rule_of(const char *path);
/* The roles, bit by bit, that may do this to everybody's jobs. */
unsigned kd_rule_roles_of_all(enum kd_scope scope);
/* Whether the holder of a role may do this to a job of `owner` ("" = nobody's). */
bool kd_rule_allows_job(enum kd_scope scope, const kd_pki_identity *who, const char *owner);

#endif

/* Shared by access.c (what is decided at every call), access_use.c (quotas), access_rows.c and
 * access_certificates.c (what is stored), access_admin.c and access_audit.c. */
#ifndef KD_SERVER_ACCESS_INTERNAL_H
#define KD_SERVER_ACCESS_INTERNAL_H

#include "access.h"
#include "rpc_meter.h"
#include "rules.h"

#include <pthread.h>

#define KD_AUDIT_WAITING 512     /* entries between two writes; more are counted and left out */
#define KD_AUDIT_ROWS 100000     /* that are kept */
#define KD_AUDIT_STRANGERS 10000 /* of them, from callers without a certificate */
#define KD_AUDIT_STRANGERS_S 5   /* of theirs that are kept a second, in the mean */
#define KD_ACCESS_DAY_MS (86400ll * 1000)
#define KD_SESSIONS_MAX 1000 /* open at once */
#define KD_ACCESS_KEY                                                                              \
    72 /* names somebody who uses something: "alice", "at 10.0.0.7", "at 2001:db8::/64" */
#define KD_ACCESS_BUCKETS 1024
#define KD_ACCESS_USERS 8192

/* Somebody who calls, and what he uses. */
struct kd_user {
    struct kd_user *next; /* in its bucket */
    char key[KD_ACCESS_KEY];
    uint32_t streams, calls;
    double requests, upload; /* left of what may come at once */
    kd_time_ms at;           /* when these two were right */
};

struct kd_session {
    char hash[KD_PKI_SHA256], name[KD_PKI_NAME];
    enum kd_role role;
    int64_t expires_ms;
};

struct kd_access {
    kd_state *state;
    kd_authority *authority; /* NULL = plain text */
    kd_quotas quotas;
    kd_rpc_guard guard;
    kd_rpc_meter *meter;
    kd_time_ms flushed, swept; /* when the audit was written, what is over was thrown away */
    bool admin_unwritten;      /* the admin's certificate is not in the database yet */
    kd_time_ms admin_after;    /* when it may be tried again */
    kd_audit_row *written;     /* takes turns with `waiting` */

    pthread_mutex_t mu; /* guards all below */
    struct kd_user *users[KD_ACCESS_BUCKETS];
    size_t n_users;
    kd_time_ms forgot;              /* idle ones */
    char (*revoked)[KD_PKI_SERIAL]; /* sorted */
    size_t n_revoked;
    struct kd_session sessions[KD_SESSIONS_MAX];
    size_t n_sessions;
    kd_access_files files;
    kd_audit_row *waiting; /* [KD_AUDIT_WAITING] */
    size_t n_waiting, left_out;
    double strangers; /* entries of callers without a certificate that may come at once */
    kd_time_ms strangers_at;
};

/* access_use.c; the first two under the lock. */
/* Takes a call out of its caller's quotas: 0, or -KD_ELIMIT. */
int kd_access_use(kd_access *a, const kd_rpc_peer *peer, const kd_rule *rule, bool stream,
                  kd_diag *diag) KD_MUST_CHECK;
/* And gives it back when it is over. */
void kd_access_unuse(kd_access *a, const kd_rpc_peer *peer, bool stream);
void kd_access_forget_users(kd_access *a);

/* access_rows.c */
void kd_access_copy(char *out, size_t size, const char *text); /* cut to fit */
/* The number that a query gives, whose kd_sql_query returned rc; ends it. Negative with diag on
 * failure. */
int64_t kd_access_count(kd_access *a, int rc, sqlite3_stmt *st, kd_diag *diag);
/* 1 = found. condition: on one text. */
int kd_access_find_token(kd_access *a, const char *condition, const char *text, kd_token_row *out,
                         kd_diag *diag) KD_MUST_CHECK;
/* Fills what memory has of the database. */
int kd_access_load(kd_access *a, kd_diag *diag) KD_MUST_CHECK;
/* Throws away tokens and certificates that are long over. */
int kd_access_sweep_rows(kd_access *a, kd_diag *diag) KD_MUST_CHECK;

/* access_certificates.c */
/* Enters a certificate that was issued somewhere else, if it is not there yet. */
int kd_access_know(kd_access *a, const kd_pki_identity *who, kd_diag *diag) KD_MUST_CHECK;

/* access.c */
/* "Jobs/Get" of "/distill.v1.Jobs/Get". */
const char *kd_access_method_name(const char *path);
bool kd_access_is_revoked(const kd_access *a, const char *serial); /* under the lock */
void kd_access_add_revoked(kd_access *a, const char *serial);
void kd_access_add_session(kd_access *a, const kd_token_row *row);
void kd_access_drop_session(kd_access *a, const char *hash);
/* Returns how many of them were not over yet. */
uint32_t kd_access_drop_sessions_of(kd_access *a, const char *name);

/* access_audit.c. Any thread: waits to be stored. */
void kd_access_audit(kd_access *a, const kd_rpc_call *call, const char *result, const char *text);
/* The loop: stores what waits. */
void kd_access_flush_audit(kd_access *a);

#endif

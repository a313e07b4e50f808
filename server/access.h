/* Who may do what: roles, tokens, certificates, revocations, quotas and the audit.
 *
 * The guard of the RPC server: every call passes kd_access_admit before its handler hears of it.
 * What a call may do follows from the certificate's role (rules.c), from who owns the job, from
 * whether the certificate was revoked, and from what its holder has used of its quotas.
 *
 * The database has tokens, certificates and the audit (access_rows.c, access_certificates.c); what
 * is asked for at every call is in memory as well, under one lock. Threads: functions marked "any
 * thread" take that lock, the others belong to the loop. */
#ifndef KD_SERVER_ACCESS_H
#define KD_SERVER_ACCESS_H

#include "authority.h"
#include "pki/pki.h"
#include "rpc/rpc.h"
#include "state.h"

typedef struct kd_access kd_access;

/* What one identity may use; 0 = no limit. */
typedef struct kd_quotas {
    uint32_t jobs;              /* not over yet */
    uint32_t streams;           /* open at once */
    uint32_t calls;             /* running at once, streams counted */
    uint32_t requests_a_second; /* of Jobs and Access, in the mean; ten seconds' worth at once */
    uint64_t upload_a_day;      /* bytes, in the mean; a day's worth at once */
} kd_quotas;
#define KD_QUOTAS_DEFAULT                                                                          \
    {                                                                                              \
        .jobs = 200, .streams = 256, .calls = 4096, .requests_a_second = 200,                      \
        .upload_a_day = 256ull << 30                                                               \
    }

/* ---- for the HTTP port. Any thread. */
/* Whether callers have to show who they are; false = plain text, whoever reaches a port may
 * everything. */
bool kd_access_required(const kd_access *a);
/* Who a session token (`distill token create --session`) stands for: its role, or KD_ROLE_NONE when
 * it is unknown, over or revoked, with its name in *out_name. Takes about a microsecond. A wrong
 * guess costs nothing here: bound how often one address may try. */
enum kd_role kd_access_session(kd_access *a, const char *token, char out_name[KD_PKI_NAME]);
/* Whether who reads everybody's jobs; in plain text everybody does. */
bool kd_access_may_read_all(const kd_access *a, const kd_pki_identity *who);
/* Whether who reads a job of that owner ("" = nobody's); NULL does, and in plain text everybody. */
bool kd_access_may_read(const kd_access *a, const kd_pki_identity *who, const char *owner);
/* What a TLS server of this coordinator shows: PEM copies, free with kd_access_files_clear. All
 * NULL without TLS. version goes up whenever they change. */
typedef struct kd_access_files {
    char *ca, *certificate, *key;
    uint64_t version;
} kd_access_files;
void kd_access_files_get(kd_access *a, kd_access_files *out);
void kd_access_files_clear(kd_access_files *f);
uint64_t kd_access_files_version(kd_access *a);

/* ---- life; the loop */
/* authority: NULL = plain text; borrowed until close. */
int kd_access_open(kd_state *state, kd_authority *authority, const kd_quotas *quotas,
                   kd_access **out, kd_diag *diag) KD_MUST_CHECK;
void kd_access_close(kd_access *a); /* NULL allowed */
/* For the RPC server, which calls it on its threads. Borrowed until close. */
const kd_rpc_guard *kd_access_guard(const kd_access *a);
/* How long calls take; the guard adds to it. */
const struct kd_rpc_meter *kd_access_meter(const kd_access *a);
/* What the guard reads of a method; for each before the server gets it. */
unsigned kd_access_rule(const char *path);
/* Stores what waits for the audit, at most five times a second; forget: what is too old goes. */
void kd_access_tick(kd_access *a, kd_time_ms now);
/* Renews the admin's login in STATE/tls/admin when it is time, unless it was revoked, and enters
 * what lies there among the certificates: `distilld init` keeps no books. reload: looks at it in
 * any case. */
int kd_access_keep_admin(kd_access *a, bool reload, kd_diag *diag) KD_MUST_CHECK;
/* For `distilld init`, without a coordinator or beside it: 1 = the certificate was revoked, 0 =
 * not. */
int kd_access_was_revoked(const char *state_dir, const char *serial, kd_diag *diag) KD_MUST_CHECK;
/* Takes the authority's new certificate, and brings it to who has asked for files. */
void kd_access_files_changed(kd_access *a);

/* ---- decisions that need more than the method; the loop */
/* Whether this call may do to a job of that owner what its method does: 0, or -KD_EPERM. */
int kd_access_job(const kd_access *a, const kd_rpc_call *call, const char *owner,
                  kd_diag *diag) KD_MUST_CHECK;
/* Takes bytes out of the caller's share of the day: 0, or -KD_ELIMIT. */
int kd_access_upload(kd_access *a, const kd_rpc_call *call, size_t bytes,
                     kd_diag *diag) KD_MUST_CHECK;
/* Whether somebody who has so many unfinished jobs may have `more`. */
int kd_access_more_jobs(const kd_access *a, const kd_rpc_call *call, size_t have, size_t more,
                        kd_diag *diag) KD_MUST_CHECK;
/* Name that a job of this caller belongs to; "" if nobody has to say. */
const char *kd_access_owner(const kd_rpc_call *call);
/* What events call him: that name, else his address. */
const char *kd_access_who(const kd_rpc_call *call);

/* ---- tokens and certificates; the loop. What they change is stored when they return. */
typedef struct kd_token_row {
    char hash[KD_PKI_SHA256]; /* of the secret; its first 12 digits are the id */
    enum kd_role role;
    char name[KD_PKI_NAME]; /* "" = whoever uses it chooses */
    bool session, revoked;
    int64_t created_ms, expires_ms, used_ms;
    char used_by[KD_PKI_NAME], created_by[KD_PKI_NAME];
} kd_token_row;
#define KD_TOKEN_ID 12
#define KD_TOKEN_MAX_TTL_MS (30ll * 86400 * 1000)
#define KD_SESSION_MAX_TTL_MS (366ll * 86400 * 1000)
#define KD_TOKEN_TEXT 128

/* out_text: what is handed to the new holder. -KD_EINVAL, -KD_ELIMIT too many. */
int kd_access_create_token(kd_access *a, enum kd_role role, const char *name, int64_t ttl_ms,
                           bool session, const char *by, char out_text[KD_TOKEN_TEXT],
                           kd_token_row *out, kd_diag *diag) KD_MUST_CHECK;
int kd_access_revoke_token(kd_access *a, const char *id, kd_token_row *out,
                           kd_diag *diag) KD_MUST_CHECK;
/* Newest first into out [max]; returns how many, or an error. */
int kd_access_list_tokens(kd_access *a, kd_token_row *out, int max, kd_diag *diag);

typedef struct kd_certificate_row {
    kd_pki_identity who;
    int64_t revoked_ms; /* 0 = not revoked */
} kd_certificate_row;
typedef struct kd_enrolment {
    const char *secret, *csr;
    const char *name, *suggested; /* name "": the token's, else suggested */
    enum kd_holder holder;
} kd_enrolment;
/* Uses a token up. -KD_EAUTH: the token is no good; and, with the token as good as before,
 * -KD_EINVAL: it is for another kind of holder, or a session; -KD_EPERM: for another name;
 * -KD_EEXIST: the name has been somebody's. *out_certificate with kd_pki_drop. */
int kd_access_enroll(kd_access *a, const kd_enrolment *e, char **out_certificate,
                     kd_pki_identity *out, kd_diag *diag) KD_MUST_CHECK;
int kd_access_renew(kd_access *a, const kd_pki_identity *who, const char *csr,
                    char **out_certificate, kd_pki_identity *out, kd_diag *diag) KD_MUST_CHECK;
/* who: a name or a serial number. From now on every call with one of these certificates is refused,
 * and every request with a session of that name; who has some running is the caller's to end.
 * Returns how many certificates are in out [max], or -KD_ENOENT. *out_sessions: how many were good
 * until then. */
int kd_access_revoke(kd_access *a, const char *who, kd_certificate_row *out, int max,
                     uint32_t *out_sessions, kd_diag *diag) KD_MUST_CHECK;
int kd_access_list_certificates(kd_access *a, kd_certificate_row *out, int max, kd_diag *diag);
/* Any thread. Whether calls of this certificate are to end: revoked or over. */
bool kd_access_is_over(kd_access *a, const kd_pki_identity *who);

/* ---- the audit; the loop */
typedef struct kd_audit_row {
    int64_t time_ms;
    char name[KD_PKI_NAME], role[16], address[64], method[40], object[KD_RPC_NOTE], result[16];
    char text[160];
} kd_audit_row;
/* What was decided of a request at the HTTP port. */
typedef struct kd_http_act {
    const kd_pki_identity *who; /* of the session; role none = there is none */
    const char *address, *method, *path, *text;
    int code; /* 0, or what it was refused with */
} kd_http_act;
/* Any thread. Enters it. */
void kd_access_audit_http(kd_access *a, const kd_http_act *act);
/* Newest first; name "" = all. */
int kd_access_list_audit(kd_access *a, const char *name, kd_audit_row *out, int max, kd_diag *diag);

#endif

/* Service Access: certificates, tokens, revocation, the audit. Who may call what was decided before
 * (rules.c). */
#include "daemon.h"
#include "loop_call.h"

#include "kd/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_AUDIT 100

static const kd_pki_identity *caller(const kd_loop_call *c)
{
    return kd_rpc_call_peer(c->call).identity;
}

/* n: rows of the reply, or an error. */
static void answer_list(kd_loop_call *c, int n, const void *reply, const kd_diag *diag)
{
    if (n < 0)
        kd_rpc_finish_diag(c->call, diag);
    else
        kd_answer(c->call, reply);
}

/* ---- certificates */

static void answer_certificate(kd_loop_call *c, char *certificate, const kd_pki_identity *who)
{
    Distill__V1__CertificateReply reply = DISTILL__V1__CERTIFICATE_REPLY__INIT;
    kd_pki_identity copy = *who;
    reply.certificate = certificate;
    reply.role = (char *)kd_role_name(who->role);
    reply.name = copy.name;
    reply.serial = copy.serial;
    reply.not_after_ms = who->not_after_ms;
    kd_answer(c->call, &reply);
    kd_pki_drop(certificate);
}

static void do_enroll(kd_daemon *d, kd_loop_call *c)
{
    const Distill__V1__EnrollRequest *r = (Distill__V1__EnrollRequest *)c->m;
    kd_diag diag = {0};
    char *certificate;
    kd_pki_identity who;
    kd_rpc_call_set_note(c->call, r->name[0] ? r->name : r->suggested);
    const kd_enrolment e = {r->token, r->csr, r->name, r->suggested, (enum kd_holder)r->holder};
    if (kd_access_enroll(d->access, &e, &certificate, &who, &diag) != 0) {
        kd_rpc_finish_diag(c->call, &diag);
        return;
    }
    kd_rpc_call_set_note(c->call, who.name);
    answer_certificate(c, certificate, &who);
}

static void do_renew(kd_daemon *d, kd_loop_call *c)
{
    const Distill__V1__RenewRequest *r = (Distill__V1__RenewRequest *)c->m;
    kd_diag diag = {0};
    char *certificate;
    kd_pki_identity who;
    if (!kd_access_required(d->access))
        kd_rpc_finish(c->call, -KD_ESTATE, "this coordinator runs without certificates");
    else if (kd_access_renew(d->access, caller(c), r->csr, &certificate, &who, &diag) != 0)
        kd_rpc_finish_diag(c->call, &diag);
    else
        answer_certificate(c, certificate, &who);
}

static void do_who_am_i(kd_daemon *d, kd_loop_call *c)
{
    kd_pki_identity who = *caller(c);
    Distill__V1__WhoReply reply = DISTILL__V1__WHO_REPLY__INIT;
    reply.tls = kd_access_required(d->access);
    reply.role = (char *)kd_role_name(who.role);
    reply.name = who.name;
    reply.serial = who.serial;
    reply.not_after_ms = who.not_after_ms;
    reply.address = (char *)kd_rpc_call_peer(c->call).address;
    kd_answer(c->call, &reply);
}

struct certificates {
    kd_certificate_row rows[KD_MAX_ACCESS_ROWS];
    Distill__V1__CertificateInfo items[KD_MAX_ACCESS_ROWS];
    Distill__V1__CertificateInfo *list[KD_MAX_ACCESS_ROWS];
};

static void describe_certificates(struct certificates *l, int n)
{
    for (int i = 0; i < n; i++) {
        kd_certificate_row *row = &l->rows[i];
        Distill__V1__CertificateInfo *m = l->list[i] = &l->items[i];
        distill__v1__certificate_info__init(m);
        m->serial = row->who.serial;
        m->role = (char *)kd_role_name(row->who.role);
        m->name = row->who.name;
        m->issued_ms = row->who.not_before_ms;
        m->not_after_ms = row->who.not_after_ms;
        m->revoked_ms = row->revoked_ms;
    }
}

static void do_list_certificates(kd_daemon *d, kd_loop_call *c)
{
    kd_diag diag = {0};
    struct certificates *l = kd_xalloc(sizeof *l);
    int n = kd_access_list_certificates(d->access, l->rows, KD_MAX_ACCESS_ROWS, &diag);
    describe_certificates(l, n);
    Distill__V1__ListCertificatesReply reply = DISTILL__V1__LIST_CERTIFICATES_REPLY__INIT;
    reply.certificates = l->list;
    reply.n_certificates = (size_t)KD_MAX(n, 0);
    answer_list(c, n, &reply, &diag);
    free(l);
}

static bool is_over(const kd_rpc_peer *peer, void *arg)
{
    return kd_access_is_over(arg, peer->identity);
}

static void do_revoke(kd_daemon *d, kd_loop_call *c)
{
    const Distill__V1__RevokeRequest *r = (Distill__V1__RevokeRequest *)c->m;
    kd_diag diag = {0};
    struct certificates *l = kd_xalloc(sizeof *l);
    kd_rpc_call_set_note(c->call, r->who);
    uint32_t sessions;
    int n = kd_access_revoke(d->access, r->who, l->rows, KD_MAX_ACCESS_ROWS, &sessions, &diag);
    if (n < 0) {
        kd_rpc_finish_diag(c->call, &diag);
        free(l);
        return;
    }
    describe_certificates(l, n);
    Distill__V1__RevokeReply reply = DISTILL__V1__REVOKE_REPLY__INIT;
    reply.certificates = l->list;
    reply.n_certificates = (size_t)n;
    reply.calls_ended = (uint32_t)kd_rpc_server_end_calls(d->server, is_over, d->access, -KD_EPERM,
                                                          "the certificate was revoked");
    reply.sessions_ended = sessions;
    kd_info("revoked: who=%.64s certificates=%d calls_ended=%u sessions_ended=%u by=%s", r->who, n,
            reply.calls_ended, sessions, kd_access_who(c->call));
    kd_answer(c->call, &reply);
    free(l);
}

/* ---- tokens */

struct token_info {
    Distill__V1__TokenInfo m;
    char id[KD_TOKEN_ID + 1];
};

static void describe_token(kd_token_row *row, struct token_info *out)
{
    Distill__V1__TokenInfo *m = &out->m;
    distill__v1__token_info__init(m);
    snprintf(out->id, sizeof out->id, "%.12s", row->hash);
    m->id = out->id;
    m->role = (char *)kd_role_name(row->role);
    m->name = row->name;
    m->session = row->session;
    m->created_ms = row->created_ms;
    m->expires_ms = row->expires_ms;
    m->used_by = row->used_by;
    m->created_by = row->created_by;
    m->state = (char *)(row->revoked                            ? "revoked"
                        : row->used_ms                          ? "used"
                        : row->expires_ms <= kd_clock_wall_ms() ? "expired"
                                                                : "open");
}

static void do_create_token(kd_daemon *d, kd_loop_call *c)
{
    const Distill__V1__CreateTokenRequest *r = (Distill__V1__CreateTokenRequest *)c->m;
    kd_diag diag = {0};
    kd_token_row row;
    char text[KD_TOKEN_TEXT];
    const kd_pki_identity *who = kd_rpc_call_peer(c->call).identity;
    if (who->role != KD_ROLE_NONE && kd_access_is_over(d->access, who)) {
        kd_rpc_finish(c->call, -KD_EPERM, "your certificate was revoked or is over");
        return;
    }
    int64_t ttl_ms = r->ttl_ms <= (uint64_t)KD_SESSION_MAX_TTL_MS ? (int64_t)r->ttl_ms : INT64_MAX;
    if (kd_access_create_token(d->access, kd_role_of(r->role), r->name, ttl_ms, r->session,
                               kd_access_who(c->call), text, &row, &diag) != 0) {
        kd_rpc_finish_diag(c->call, &diag);
        return;
    }
    struct token_info info;
    describe_token(&row, &info);
    Distill__V1__CreateTokenReply reply = DISTILL__V1__CREATE_TOKEN_REPLY__INIT;
    reply.token = text;
    reply.info = &info.m;
    kd_rpc_call_set_note(c->call, info.id);
    kd_answer(c->call, &reply);
    kd_pki_wipe(text, sizeof text);
}

static void do_list_tokens(kd_daemon *d, kd_loop_call *c)
{
    kd_diag diag = {0};
    kd_token_row *rows = kd_xalloc(KD_MAX_ACCESS_ROWS * sizeof *rows);
    struct token_info *items = kd_xalloc(KD_MAX_ACCESS_ROWS * sizeof *items);
    Distill__V1__TokenInfo **list = kd_xalloc(KD_MAX_ACCESS_ROWS * sizeof *list);
    int n = kd_access_list_tokens(d->access, rows, KD_MAX_ACCESS_ROWS, &diag);
    for (int i = 0; i < n; i++) {
        describe_token(&rows[i], &items[i]);
        list[i] = &items[i].m;
    }
    Distill__V1__ListTokensReply reply = DISTILL__V1__LIST_TOKENS_REPLY__INIT;
    reply.tokens = list;
    reply.n_tokens = (size_t)KD_MAX(n, 0);
    answer_list(c, n, &reply, &diag);
    free(list);
    free(items);
    free(rows);
}

static void do_revoke_token(kd_daemon *d, kd_loop_call *c)
{
    const Distill__V1__RevokeTokenRequest *r = (Distill__V1__RevokeTokenRequest *)c->m;
    kd_diag diag = {0};
    kd_token_row row;
    struct token_info info;
    kd_rpc_call_set_note(c->call, r->id);
    if (kd_access_revoke_token(d->access, r->id, &row, &diag) != 0) {
        kd_rpc_finish_diag(c->call, &diag);
        return;
    }
    describe_token(&row, &info);
    kd_answer(c->call, &info.m);
}

/* ---- the audit */

static void do_audit(kd_daemon *d, kd_loop_call *c)
{
    const Distill__V1__AuditRequest *r = (Distill__V1__AuditRequest *)c->m;
    kd_diag diag = {0};
    int max = (int)KD_MIN(r->limit ? r->limit : DEFAULT_AUDIT, (unsigned)KD_MAX_ACCESS_ROWS);
    kd_audit_row *rows = kd_xalloc((size_t)max * sizeof *rows);
    Distill__V1__AuditEntry *items = kd_xalloc((size_t)max * sizeof *items);
    Distill__V1__AuditEntry **list = kd_xalloc((size_t)max * sizeof *list);
    int n = kd_access_list_audit(d->access, r->name, rows, max, &diag);
    for (int i = 0; i < n; i++) {
        Distill__V1__AuditEntry *m = list[i] = &items[i];
        distill__v1__audit_entry__init(m);
        m->time_ms = rows[i].time_ms;
        m->name = rows[i].name;
        m->role = rows[i].role;
        m->address = rows[i].address;
        m->method = rows[i].method;
        m->object = rows[i].object;
        m->result = rows[i].result;
        m->text = rows[i].text;
    }
    Distill__V1__AuditReply reply = DISTILL__V1__AUDIT_REPLY__INIT;
    reply.entries = list;
    reply.n_entries = (size_t)KD_MAX(n, 0);
    answer_list(c, n, &reply, &diag);
    free(list);
    free(items);
    free(rows);
}

/* ---- the table */

KD_LOOP_HANDLER(on_enroll, distill__v1__enroll_request__descriptor, do_enroll)
KD_LOOP_HANDLER(on_renew, distill__v1__renew_request__descriptor, do_renew)
KD_LOOP_HANDLER(on_who_am_i, distill__v1__who_request__descriptor, do_who_am_i)
KD_LOOP_HANDLER(on_create_token, distill__v1__create_token_request__descriptor, do_create_token)
KD_LOOP_HANDLER(on_list_tokens, distill__v1__list_tokens_request__descriptor, do_list_tokens)
KD_LOOP_HANDLER(on_revoke_token, distill__v1__revoke_token_request__descriptor, do_revoke_token)
KD_LOOP_HANDLER(on_list_certificates, distill__v1__list_certificates_request__descriptor,
                do_list_certificates)
KD_LOOP_HANDLER(on_revoke, distill__v1__revoke_request__descriptor, do_revoke)
KD_LOOP_HANDLER(on_audit, distill__v1__audit_request__descriptor, do_audit)

#define UNARY(method, handler) KD_UNARY("/distill.v1.Access/" method, 65536, handler)
const kd_rpc_method kd_access_methods[] = {
    UNARY("Enroll", on_enroll),
    UNARY("Renew", on_renew),
    UNARY("WhoAmI", on_who_am_i),
    UNARY("CreateToken", on_create_token),
    UNARY("ListTokens", on_list_tokens),
    UNARY("RevokeToken", on_revoke_token),
    UNARY("ListCertificates", on_list_certificates),
    UNARY("Revoke", on_revoke),
    UNARY("Audit", on_audit),
};
const size_t kd_n_access_methods = KD_COUNT(kd_access_methods);

/* What is decided at every call, out of memory. */
#include "access_internal.h"

#include "kd/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLUSH_MS 200
#define SWEEP_MS 3600000

static int compare(const void *a, const void *b)
{
    return strcmp(a, b);
}

bool kd_access_is_revoked(const kd_access *a, const char *serial)
{
    return a->n_revoked &&
           bsearch(serial, a->revoked, a->n_revoked, sizeof *a->revoked, compare) != NULL;
}

/* ---- the guard */

unsigned kd_access_rule(const char *path)
{
    const kd_rule *r = kd_rule_of(path);
    return r ? (unsigned)(r - kd_rules) + 1 : 0;
}

/* Health and reflection are not ours to number. */
static const kd_rule *rule_of(const kd_rpc_call *call)
{
    const kd_rpc_method *m = kd_rpc_call_method(call);
    return m->rule ? &kd_rules[m->rule - 1] : kd_rule_of(m->path);
}

/* "submitter, operator or admin" */
static void list_roles(unsigned roles, char *out, size_t size)
{
    const char *names[8];
    size_t n = 0, used = 0;
    for (enum kd_role r = KD_ROLE_WORKER; r <= KD_ROLE_ADMIN; r++)
        if (roles & 1u << r)
            names[n++] = kd_role_name(r);
    for (size_t i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s",
                                 i == 0       ? ""
                                 : i + 1 == n ? " or "
                                              : ", ",
                                 names[i]);
}

const char *kd_access_method_name(const char *path)
{
    const char *at = strstr(path, ".v1.");
    return at ? at + 4 : path;
}

static int check_role(const kd_rule *rule, const kd_rpc_method *m, const kd_pki_identity *who,
                      kd_diag *diag)
{
    char roles[96] = "";
    if (!rule)
        return kd_fail(diag, -KD_EPERM, "nobody may call %s", m->path);
    if (rule->roles & 1u << who->role)
        return 0;
    if (who->role == KD_ROLE_NONE)
        return kd_fail(
            diag, -KD_EAUTH,
            "this coordinator wants a certificate: get a token from its admin (`distill "
            "token create`), then `distill login TOKEN`, or `distill-worker join TOKEN`");
    list_roles(rule->roles, roles, sizeof roles);
    return kd_fail(diag, -KD_EPERM, "%s is a %s and may not call %s, which takes the role %s",
                   who->name, kd_role_name(who->role), kd_access_method_name(m->path), roles);
}

static int check_certificate(const kd_access *a, const kd_pki_identity *who, kd_diag *diag)
{
    if (who->role == KD_ROLE_NONE)
        return 0;
    if (kd_access_is_revoked(a, who->serial))
        return kd_fail(diag, -KD_EPERM, "the certificate %.8s of %s was revoked", who->serial,
                       who->name);
    if (kd_clock_wall_ms() >= who->not_after_ms)
        return kd_fail(diag, -KD_EAUTH, "the certificate %.8s of %s is over", who->serial,
                       who->name);
    return 0;
}

static int may_enter(kd_access *a, const kd_rpc_call *call, kd_diag *diag)
{
    const kd_rpc_method *m = kd_rpc_call_method(call);
    const kd_rule *rule = rule_of(call);
    kd_rpc_peer peer = kd_rpc_call_peer(call);
    bool stream = m->kind != KD_RPC_UNARY;
    pthread_mutex_lock(&a->mu);
    int rc = check_certificate(a, peer.identity, diag);
    if (rc == 0)
        rc = check_role(rule, m, peer.identity, diag);
    if (rc == 0)
        rc = kd_access_use(a, &peer, rule, stream, diag);
    pthread_mutex_unlock(&a->mu);
    if (rc != 0)
        kd_access_audit(a, call, kd_err_name(rc), diag->msg);
    else if (stream && rule->audited)
        kd_access_audit(a, call, "BEGUN", "");
    return rc;
}

static void meter(kd_access *a, const kd_rpc_call *call, int code)
{
    const kd_rule *rule = rule_of(call);
    if (rule)
        kd_rpc_meter_add(a->meter, (size_t)(rule - kd_rules), code,
                         kd_clock_s() - kd_rpc_call_begun(call));
}

static int admit(const kd_rpc_call *call, void *arg, kd_diag *diag)
{
    kd_access *a = arg;
    int rc = a->authority ? may_enter(a, call, diag) : 0;
    if (rc != 0)
        meter(a, call, rc);
    return rc;
}

static void leave(const kd_rpc_call *call, int code, const char *text, void *arg)
{
    kd_access *a = arg;
    meter(a, call, code);
    if (!a->authority)
        return;
    const kd_rule *rule = rule_of(call);
    kd_rpc_peer peer = kd_rpc_call_peer(call);
    pthread_mutex_lock(&a->mu);
    kd_access_unuse(a, &peer, kd_rpc_call_method(call)->kind != KD_RPC_UNARY);
    pthread_mutex_unlock(&a->mu);
    if (rule->audited || code == -KD_EPERM || code == -KD_EAUTH)
        kd_access_audit(a, call, kd_err_name(code), text);
}

const kd_rpc_meter *kd_access_meter(const kd_access *a)
{
    return a->meter;
}

const kd_rpc_guard *kd_access_guard(const kd_access *a)
{
    return &a->guard;
}

bool kd_access_is_over(kd_access *a, const kd_pki_identity *who)
{
    pthread_mutex_lock(&a->mu);
    bool over = check_certificate(a, who, NULL) != 0;
    pthread_mutex_unlock(&a->mu);
    return over;
}

/* ---- what the loop asks */

const char *kd_access_owner(const kd_rpc_call *call)
{
    return kd_rpc_call_peer(call).identity->name;
}

const char *kd_access_who(const kd_rpc_call *call)
{
    kd_rpc_peer peer = kd_rpc_call_peer(call);
    return peer.identity->name[0] ? peer.identity->name : peer.address;
}

int kd_access_job(const kd_access *a, const kd_rpc_call *call, const char *owner, kd_diag *diag)
{
    const kd_pki_identity *who = kd_rpc_call_peer(call).identity;
    const kd_rule *rule = rule_of(call);
    if (!a->authority || kd_rule_allows_job(rule->scope, who, owner))
        return 0;
    char roles[96] = "";
    list_roles(kd_rule_roles_of_all(rule->scope), roles, sizeof roles);
    return kd_fail(diag, -KD_EPERM,
                   "the job belongs to %s, and %s is a %s: %s another's job takes the role %s",
                   owner[0] ? owner : "nobody", who->name, kd_role_name(who->role),
                   rule->scope == KD_SCOPE_READ ? "to read" : "to change", roles);
}

int kd_access_more_jobs(const kd_access *a, const kd_rpc_call *call, size_t have, size_t more,
                        kd_diag *diag)
{
    if (!a->authority || a->quotas.jobs == 0 || have + more <= a->quotas.jobs)
        return 0;
    return kd_fail(diag, -KD_ELIMIT,
                   "%s has %zu jobs that are not over and wants %zu more; one may have %u "
                   "(quota_jobs)",
                   kd_access_owner(call), have, more, a->quotas.jobs);
}

/* ---- for the HTTP port */

bool kd_access_required(const kd_access *a)
{
    return a->authority != NULL;
}

enum kd_role kd_access_session(kd_access *a, const char *token, char out_name[KD_PKI_NAME])
{
    char hash[KD_PKI_SHA256];
    const char *secret = strrchr(token, '.');
    enum kd_role role = KD_ROLE_NONE;
    if (!secret || strlen(token) >= KD_TOKEN_TEXT)
        return role;
    kd_pki_sha256(secret + 1, hash);
    int64_t now = kd_clock_wall_ms();
    pthread_mutex_lock(&a->mu);
    for (size_t i = 0; i < a->n_sessions && role == KD_ROLE_NONE; i++) {
        const struct kd_session *s = &a->sessions[i];
        if (strcmp(s->hash, hash) != 0 || s->expires_ms <= now)
            continue;
        role = s->role;
        memcpy(out_name, s->name, KD_PKI_NAME);
    }
    pthread_mutex_unlock(&a->mu);
    return role;
}

bool kd_access_may_read_all(const kd_access *a, const kd_pki_identity *who)
{
    return !a->authority || 1u << who->role & kd_rule_roles_of_all(KD_SCOPE_READ);
}

bool kd_access_may_read(const kd_access *a, const kd_pki_identity *who, const char *owner)
{
    return !a->authority || !who || kd_rule_allows_job(KD_SCOPE_READ, who, owner);
}

static char *copy_text(const char *text)
{
    return text ? kd_xstrdup(text) : NULL;
}

void kd_access_files_get(kd_access *a, kd_access_files *out)
{
    pthread_mutex_lock(&a->mu);
    *out = (kd_access_files){.ca = copy_text(a->files.ca),
                             .certificate = copy_text(a->files.certificate),
                             .key = copy_text(a->files.key),
                             .version = a->files.version};
    pthread_mutex_unlock(&a->mu);
}

void kd_access_files_clear(kd_access_files *f)
{
    kd_pki_drop(f->ca);
    kd_pki_drop(f->certificate);
    kd_pki_drop(f->key);
    *f = (kd_access_files){0};
}

uint64_t kd_access_files_version(kd_access *a)
{
    pthread_mutex_lock(&a->mu);
    uint64_t version = a->files.version;
    pthread_mutex_unlock(&a->mu);
    return version;
}

void kd_access_files_changed(kd_access *a)
{
    if (!a->authority)
        return;
    kd_rpc_tls tls = kd_authority_tls(a->authority);
    pthread_mutex_lock(&a->mu);
    uint64_t version = a->files.version + 1;
    kd_access_files_clear(&a->files);
    a->files = (kd_access_files){copy_text(tls.ca), copy_text(tls.certificate), copy_text(tls.key),
                                 version};
    pthread_mutex_unlock(&a->mu);
}

/* ---- what memory has of the database */

void kd_access_add_revoked(kd_access *a, const char *serial)
{
    pthread_mutex_lock(&a->mu);
    if (!kd_access_is_revoked(a, serial)) {
        char(*more)[KD_PKI_SERIAL] = realloc(a->revoked, (a->n_revoked + 1) * sizeof *more);
        KD_BUG_ON(!more); /* forgetting one would let its holder in */
        a->revoked = more;
        size_t at = a->n_revoked++;
        for (; at > 0 && strcmp(more[at - 1], serial) > 0; at--)
            memcpy(more[at], more[at - 1], sizeof *more);
        snprintf(more[at], sizeof *more, "%s", serial);
    }
    pthread_mutex_unlock(&a->mu);
}

void kd_access_add_session(kd_access *a, const kd_token_row *row)
{
    pthread_mutex_lock(&a->mu);
    if (a->n_sessions < KD_SESSIONS_MAX) {
        struct kd_session *s = &a->sessions[a->n_sessions++];
        *s = (struct kd_session){.role = row->role, .expires_ms = row->expires_ms};
        memcpy(s->hash, row->hash, sizeof s->hash);
        memcpy(s->name, row->name, sizeof s->name);
    }
    pthread_mutex_unlock(&a->mu);
}

void kd_access_drop_session(kd_access *a, const char *hash)
{
    int64_t now = kd_clock_wall_ms();
    pthread_mutex_lock(&a->mu);
    for (size_t i = a->n_sessions; i-- > 0;)
        if (strcmp(a->sessions[i].hash, hash) == 0 || a->sessions[i].expires_ms <= now)
            a->sessions[i] = a->sessions[--a->n_sessions];
    pthread_mutex_unlock(&a->mu);
}

uint32_t kd_access_drop_sessions_of(kd_access *a, const char *name)
{
    int64_t now = kd_clock_wall_ms();
    uint32_t good = 0;
    pthread_mutex_lock(&a->mu);
    for (size_t i = a->n_sessions; i-- > 0;)
        if (strcmp(a->sessions[i].name, name) == 0) {
            good += a->sessions[i].expires_ms > now;
            a->sessions[i] = a->sessions[--a->n_sessions];
        }
    pthread_mutex_unlock(&a->mu);
    return good;
}

/* ---- life */

int kd_access_open(kd_state *state, kd_authority *authority, const kd_quotas *quotas,
                   kd_access **out, kd_diag *diag)
{
    kd_access *a = kd_xalloc(sizeof *a);
    a->state = state;
    a->authority = authority;
    a->quotas = *quotas;
    a->guard = (kd_rpc_guard){admit, leave, a};
    a->meter = kd_rpc_meter_new();
    a->waiting = kd_xalloc(KD_AUDIT_WAITING * sizeof *a->waiting);
    a->written = kd_xalloc(KD_AUDIT_WAITING * sizeof *a->written);
    pthread_mutex_init(&a->mu, NULL);
    kd_access_files_changed(a);
    int rc = kd_access_load(a, diag);
    if (rc == 0)
        rc = kd_access_keep_admin(a, true, diag);
    if (rc == 0)
        *out = a;
    else
        kd_access_close(a);
    return rc;
}

void kd_access_close(kd_access *a)
{
    if (!a)
        return;
    kd_access_flush_audit(a);
    kd_access_forget_users(a);
    kd_access_files_clear(&a->files);
    pthread_mutex_destroy(&a->mu);
    free(a->revoked);
    free(a->waiting);
    free(a->written);
    kd_rpc_meter_free(a->meter);
    free(a);
}

void kd_access_tick(kd_access *a, kd_time_ms now)
{
    kd_diag diag = {0};
    if (now - a->flushed >= FLUSH_MS) {
        kd_access_flush_audit(a);
        a->flushed = now;
    }
    if (a->swept && now - a->swept < SWEEP_MS)
        return;
    a->swept = now;
    kd_access_drop_session(a, "");
    if (kd_access_sweep_rows(a, &diag) != 0)
        kd_warn("old tokens and certificates are kept: %s", diag.msg);
}

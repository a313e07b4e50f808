/* Certificates: what a token becomes, renewal, revocation, and what is stored of them. */
#include "access_internal.h"

#include "kd/log.h"

#include <stdio.h>
#include <string.h>

#define MOST_CERTIFICATES 1000 /* of one name, good at once */

static int add_certificate(kd_access *a, const kd_pki_identity *who, kd_diag *diag)
{
    return kd_sql_run(&a->state->sql, NULL, diag,
                      "INSERT OR IGNORE INTO certificates(serial, role, name, issued_ms, "
                      "not_after_ms, revoked_ms) VALUES(?, ?, ?, ?, ?, 0)",
                      "sssii", who->serial, kd_role_name(who->role), who->name, kd_clock_wall_ms(),
                      who->not_after_ms);
}

int kd_access_know(kd_access *a, const kd_pki_identity *who, kd_diag *diag)
{
    return add_certificate(a, who, diag);
}

static int issue(kd_access *a, enum kd_role role, const char *name, const char *csr,
                 char **out_certificate, kd_pki_identity *out, kd_diag *diag)
{
    kd_pki_want want = {.role = role, .name = name, .life_s = a->authority->life_s};
    return kd_pki_issue(a->authority->ca, a->authority->ca_key, csr, &want, out_certificate, out,
                        diag);
}

/* Both look alike, so one is easily given for the other. */
static int refuse_session(const kd_token_row *t, enum kd_holder holder, kd_diag *diag)
{
    const bool worker = holder == KD_HOLDER_WORKER;
    return kd_fail(diag, -KD_EINVAL,
                   "this is the session %.12s of %s, for the HTTP port; no certificate is made of "
                   "it: `%s` takes a one-time token, which an admin makes by `distill token create "
                   "--role %s`",
                   t->hash, t->name, worker ? "distill-worker join" : "distill login",
                   kd_role_name(worker ? KD_ROLE_WORKER : t->role));
}

/* The token of the secret, if it may still be used. */
static int usable_token(kd_access *a, const kd_enrolment *e, kd_token_row *out, kd_diag *diag)
{
    char hash[KD_PKI_SHA256];
    kd_pki_sha256(e->secret, hash);
    int rc = kd_access_find_token(a, "hash = ?", hash, out, diag);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return kd_fail(diag, -KD_EAUTH, "this coordinator knows no such token");
    if (out->session)
        return refuse_session(out, e->holder, diag);
    if (out->revoked)
        return kd_fail(diag, -KD_EAUTH, "the token %.12s was revoked", out->hash);
    if (out->used_ms)
        return kd_fail(diag, -KD_EAUTH,
                       "the token %.12s was used already, by %s; if that was not you, tell the "
                       "admin to revoke that name",
                       out->hash, out->used_by);
    if (out->expires_ms <= kd_clock_wall_ms())
        return kd_fail(diag, -KD_EAUTH, "the token %.12s is over; ask for another one", out->hash);
    return 0;
}

/* Who picks a name himself may not take one that stands for somebody, or whose jobs are here. */
static int check_new_name(kd_access *a, const char *name, kd_diag *diag)
{
    if (!kd_pki_name_ok(name))
        return kd_fail(diag, -KD_EINVAL,
                       "%s; a name has 1 to 64 characters of [A-Za-z0-9._-] and begins with a "
                       "letter or digit",
                       name[0] ? "no such name can be"
                               : "the token leaves the name to you (--name)");
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&a->state->sql, &st, diag,
                          "SELECT (SELECT count(*) FROM certificates WHERE name = ?1) + (SELECT "
                          "count(*) FROM jobs WHERE owner = ?1)",
                          "s", name);
    int64_t n = kd_access_count(a, rc, st, diag);
    if (n < 0)
        return (int)n;
    return n == 0 ? 0
                  : kd_fail(diag, -KD_EEXIST,
                            "the name %s has been somebody's; choose another, or have the admin "
                            "make a token for it (`distill token create --name %s`)",
                            name, name);
}

/* Both or none: a token that was used has made a certificate. */
static int spend(kd_access *a, const kd_token_row *t, const kd_pki_identity *who, kd_diag *diag)
{
    int changes = 0, rc = kd_state_begin(a->state, diag);
    if (rc != 0)
        return rc;
    rc = kd_sql_run(&a->state->sql, &changes, diag,
                    "UPDATE tokens SET used_ms = ?, used_by = ? WHERE hash = ? AND used_ms = 0 AND "
                    "revoked = 0",
                    "iss", kd_clock_wall_ms(), who->name, t->hash);
    if (rc == 0 && changes != 1)
        rc = kd_fail(diag, -KD_EAUTH, "the token %.12s was used already", t->hash);
    if (rc == 0)
        rc = add_certificate(a, who, diag);
    if (rc == 0)
        return kd_state_commit(a->state, diag);
    kd_state_rollback(a->state);
    return rc;
}

static int check_holder(const kd_token_row *t, enum kd_holder holder, kd_diag *diag)
{
    if (kd_holder_is(holder, t->role))
        return 0;
    bool person = holder == KD_HOLDER_PERSON;
    return kd_fail(diag, -KD_EINVAL,
                   "the token %.12s is for %s %s, not for a %s: `%s TOKEN` takes it, and it is "
                   "still good",
                   t->hash, t->role == KD_ROLE_OPERATOR || t->role == KD_ROLE_ADMIN ? "an" : "a",
                   kd_role_name(t->role), person ? "person" : "worker",
                   person ? "distill-worker join" : "distill login");
}

int kd_access_enroll(kd_access *a, const kd_enrolment *e, char **out_certificate,
                     kd_pki_identity *out, kd_diag *diag)
{
    kd_token_row t = {0};
    char *certificate = NULL;
    kd_pki_identity who;
    if (!a->authority)
        return kd_fail(diag, -KD_ESTATE, "this coordinator runs without certificates");
    int rc = usable_token(a, e, &t, diag);
    if (rc == 0)
        rc = check_holder(&t, e->holder, diag);
    if (rc == 0 && t.name[0] && e->name[0] && strcmp(t.name, e->name) != 0)
        rc = kd_fail(diag, -KD_EPERM, "the token is for %s", t.name);
    const char *chosen = t.name[0] ? t.name : e->name[0] ? e->name : e->suggested;
    if (rc == 0 && !t.name[0])
        rc = check_new_name(a, chosen, diag);
    if (rc == 0)
        rc = issue(a, t.role, chosen, e->csr, &certificate, &who, diag);
    if (rc == 0)
        rc = spend(a, &t, &who, diag);
    if (rc != 0) {
        kd_pki_drop(certificate);
        return rc;
    }
    kd_info("a certificate was issued: name=%s role=%s serial=%s token=%.12s", who.name,
            kd_role_name(who.role), who.serial, t.hash);
    *out_certificate = certificate;
    *out = who;
    return 0;
}

int kd_access_renew(kd_access *a, const kd_pki_identity *who, const char *csr,
                    char **out_certificate, kd_pki_identity *out, kd_diag *diag)
{
    char *certificate = NULL;
    kd_pki_identity next;
    sqlite3_stmt *st = NULL;
    /* It may have been revoked since the call was admitted. */
    if (kd_access_is_over(a, who))
        return kd_fail(diag, -KD_EPERM, "the certificate %.8s of %s was revoked or is over",
                       who->serial, who->name);
    int rc = kd_sql_query(&a->state->sql, &st, diag,
                          "SELECT count(*) FROM certificates WHERE name = ? AND not_after_ms > ?",
                          "si", who->name, kd_clock_wall_ms());
    int64_t good = kd_access_count(a, rc, st, diag);
    rc = (int)KD_MIN(good, 0);
    if (rc == 0 && good >= MOST_CERTIFICATES)
        rc = kd_fail(diag, -KD_ELIMIT, "%s has %d certificates that are good; wait until some end",
                     who->name, MOST_CERTIFICATES);
    if (rc == 0)
        rc = issue(a, who->role, who->name, csr, &certificate, &next, diag);
    if (rc == 0)
        rc = add_certificate(a, &next, diag);
    if (rc != 0) {
        kd_pki_drop(certificate);
        return rc;
    }
    *out_certificate = certificate;
    *out = next;
    return 0;
}

#define CERTIFICATE_COLUMNS "serial, role, name, issued_ms, not_after_ms, revoked_ms"

static void read_certificate(sqlite3_stmt *st, kd_certificate_row *c)
{
    *c = (kd_certificate_row){.revoked_ms = sqlite3_column_int64(st, 5)};
    kd_access_copy(c->who.serial, sizeof c->who.serial, kd_sql_text(st, 0));
    c->who.role = kd_role_of(kd_sql_text(st, 1));
    kd_access_copy(c->who.name, sizeof c->who.name, kd_sql_text(st, 2));
    c->who.not_before_ms = sqlite3_column_int64(st, 3);
    c->who.not_after_ms = sqlite3_column_int64(st, 4);
}

int kd_access_list_certificates(kd_access *a, kd_certificate_row *out, int max, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int n = 0, rc = kd_sql_query(&a->state->sql, &st, diag,
                                 "SELECT " CERTIFICATE_COLUMNS
                                 " FROM certificates ORDER BY issued_ms DESC LIMIT ?",
                                 "i", (int64_t)max);
    while (rc == 0 && n < max && (rc = kd_sql_step(&a->state->sql, st, diag)) == 1) {
        read_certificate(st, &out[n++]);
        rc = 0;
    }
    kd_sql_end(st);
    return rc < 0 ? rc : n;
}

/* A serial number that nobody has written down may still be out there: a certificate issued after
 * the copy of the database was made that this one is. */
static int revoke_unknown(kd_access *a, const char *serial, kd_certificate_row *out, kd_diag *diag)
{
    int64_t now = kd_clock_wall_ms();
    int rc = kd_sql_run(&a->state->sql, NULL, diag,
                        "INSERT INTO certificates(" CERTIFICATE_COLUMNS
                        ") VALUES(?, 'none', '', ?, ?, ?)",
                        "siii", serial, now, now + 366 * KD_ACCESS_DAY_MS, now);
    if (rc != 0)
        return rc;
    *out = (kd_certificate_row){.revoked_ms = now};
    kd_access_copy(out->who.serial, sizeof out->who.serial, serial);
    kd_access_add_revoked(a, serial);
    return 1;
}

/* Certificates and sessions in the database, all or none. *out_sessions: of these. */
static int write_revoked(kd_access *a, const char *who, int64_t now, int *out_sessions,
                         kd_diag *diag)
{
    int rc = kd_state_begin(a->state, diag);
    if (rc != 0)
        return rc;
    rc = kd_sql_run(&a->state->sql, out_sessions, diag,
                    "UPDATE tokens SET revoked = 1 WHERE session = 1 AND revoked = 0 AND name = ?",
                    "s", who);
    if (rc == 0)
        rc = kd_sql_run(&a->state->sql, NULL, diag,
                        "UPDATE certificates SET revoked_ms = ? WHERE (serial = ? OR name = ?) AND "
                        "not_after_ms > ? AND revoked_ms = 0",
                        "issi", now, who, who, now);
    if (rc == 0)
        return kd_state_commit(a->state, diag);
    kd_state_rollback(a->state);
    return rc;
}

int kd_access_revoke(kd_access *a, const char *who, kd_certificate_row *out, int max,
                     uint32_t *out_sessions, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int64_t now = kd_clock_wall_ms();
    bool serial =
        strlen(who) == KD_PKI_SERIAL - 1 && strspn(who, "0123456789abcdef") == KD_PKI_SERIAL - 1;
    int n = 0, rc = kd_sql_query(&a->state->sql, &st, diag,
                                 "SELECT " CERTIFICATE_COLUMNS
                                 " FROM certificates WHERE (serial = ? OR name = ?) AND "
                                 "not_after_ms > ? LIMIT ?",
                                 "ssii", who, who, now, (int64_t)max);
    while (rc == 0 && n < max && (rc = kd_sql_step(&a->state->sql, st, diag)) == 1) {
        read_certificate(st, &out[n++]);
        rc = 0;
    }
    kd_sql_end(st);
    if (rc < 0)
        return rc;
    if (n == 0 && serial) {
        *out_sessions = 0;
        return revoke_unknown(a, who, out, diag);
    }
    int sessions = 0;
    rc = write_revoked(a, who, now, &sessions, diag);
    if (rc != 0)
        return rc;
    const uint32_t good = kd_access_drop_sessions_of(a, who);
    if (n == 0 && sessions == 0)
        return kd_fail(diag, -KD_ENOENT,
                       "no certificate or session of %.64s is good; `distill certificates` and "
                       "`distill token ls` list them",
                       who);
    for (int i = 0; i < n; i++) {
        kd_access_add_revoked(a, out[i].who.serial);
        out[i].revoked_ms = out[i].revoked_ms ? out[i].revoked_ms : now;
    }
    *out_sessions = good;
    return n;
}

/* Tokens as they are stored; what memory has of the database, and what goes out of it. */
#include "access_internal.h"

#include <stdio.h>
#include <string.h>

#define TOKEN_PREFIX "distill1."
#define SECRET_BYTES 24
#define MOST_TOKENS 1000 /* open at once */

void kd_access_copy(char *out, size_t size, const char *text)
{
    snprintf(out, size, "%s", text);
}

int64_t kd_access_count(kd_access *a, int rc, sqlite3_stmt *st, kd_diag *diag)
{
    if (rc == 0)
        rc = kd_sql_step(&a->state->sql, st, diag);
    int64_t n = rc == 1 ? sqlite3_column_int64(st, 0) : KD_MIN(rc, -1);
    kd_sql_end(st);
    return n;
}

/* ---- tokens */

#define TOKEN_COLUMNS                                                                              \
    "hash, role, name, session, created_ms, expires_ms, used_ms, used_by, created_by, revoked"

static void read_token(sqlite3_stmt *st, kd_token_row *t)
{
    *t = (kd_token_row){.role = kd_role_of(kd_sql_text(st, 1)),
                        .session = sqlite3_column_int(st, 3),
                        .created_ms = sqlite3_column_int64(st, 4),
                        .expires_ms = sqlite3_column_int64(st, 5),
                        .used_ms = sqlite3_column_int64(st, 6),
                        .revoked = sqlite3_column_int(st, 9)};
    kd_access_copy(t->hash, sizeof t->hash, kd_sql_text(st, 0));
    kd_access_copy(t->name, sizeof t->name, kd_sql_text(st, 2));
    kd_access_copy(t->used_by, sizeof t->used_by, kd_sql_text(st, 7));
    kd_access_copy(t->created_by, sizeof t->created_by, kd_sql_text(st, 8));
}

int kd_access_list_tokens(kd_access *a, kd_token_row *out, int max, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int n = 0,
        rc = kd_sql_query(&a->state->sql, &st, diag,
                          "SELECT " TOKEN_COLUMNS " FROM tokens ORDER BY created_ms DESC LIMIT ?",
                          "i", (int64_t)max);
    while (rc == 0 && n < max && (rc = kd_sql_step(&a->state->sql, st, diag)) == 1) {
        read_token(st, &out[n++]);
        rc = 0;
    }
    kd_sql_end(st);
    return rc < 0 ? rc : n;
}

static int check_wish(kd_access *a, enum kd_role role, const char *name, int64_t ttl_ms,
                      bool session, kd_diag *diag)
{
    if (!a->authority)
        return kd_fail(diag, -KD_ESTATE,
                       "this coordinator runs without certificates; `distilld init` makes them");
    if (role == KD_ROLE_NONE || role == KD_ROLE_SERVER || (session && role == KD_ROLE_WORKER))
        return kd_fail(diag, -KD_EINVAL, "%s",
                       session ? "a session reads jobs: its role is submitter (his own), viewer, "
                                 "operator or admin (everybody's)"
                               : "a token is for a worker, submitter, viewer, operator or admin");
    if (name[0] ? !kd_pki_name_ok(name) : session)
        return kd_fail(diag, -KD_EINVAL,
                       "%s; a name has 1 to 64 characters of [A-Za-z0-9._-] and begins with a "
                       "letter or digit",
                       name[0] ? "no such name can be" : "a session needs a name");
    if (ttl_ms < 1000 || ttl_ms > (session ? KD_SESSION_MAX_TTL_MS : KD_TOKEN_MAX_TTL_MS))
        return kd_fail(diag, -KD_EINVAL, "%s lives from a second to %d days",
                       session ? "a session" : "a token", session ? 366 : 30);
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&a->state->sql, &st, diag,
                          "SELECT count(*) FROM tokens WHERE used_ms = 0 AND revoked = 0 AND "
                          "expires_ms > ?",
                          "i", kd_clock_wall_ms());
    int64_t open = kd_access_count(a, rc, st, diag);
    if (open < 0)
        return (int)open;
    return open < MOST_TOKENS
               ? 0
               : kd_fail(diag, -KD_ELIMIT, "%d tokens are open; revoke some (`distill token ls`)",
                         MOST_TOKENS);
}

int kd_access_create_token(kd_access *a, enum kd_role role, const char *name, int64_t ttl_ms,
                           bool session, const char *by, char out_text[KD_TOKEN_TEXT],
                           kd_token_row *out, kd_diag *diag)
{
    char secret[4 * SECRET_BYTES / 3 + 2];
    kd_token_row t = {.role = role, .session = session, .created_ms = kd_clock_wall_ms()};
    int rc = check_wish(a, role, name, ttl_ms, session, diag);
    if (rc == 0)
        rc = kd_pki_random(SECRET_BYTES, secret, diag);
    if (rc != 0)
        return rc;
    t.expires_ms = t.created_ms + ttl_ms;
    kd_access_copy(t.name, sizeof t.name, name);
    kd_access_copy(t.created_by, sizeof t.created_by, by);
    kd_pki_sha256(secret, t.hash);
    rc = kd_sql_run(&a->state->sql, NULL, diag,
                    "INSERT INTO tokens(" TOKEN_COLUMNS ") VALUES(?, ?, ?, ?, ?, ?, 0, '', ?, 0)",
                    "sssiiis", t.hash, kd_role_name(role), t.name, (int64_t)session, t.created_ms,
                    t.expires_ms, t.created_by);
    if (rc == 0) {
        snprintf(out_text, KD_TOKEN_TEXT, TOKEN_PREFIX "%s.%s", a->authority->digest, secret);
        *out = t;
        if (session)
            kd_access_add_session(a, &t);
    }
    kd_pki_wipe(secret, sizeof secret);
    return rc;
}

int kd_access_find_token(kd_access *a, const char *condition, const char *text, kd_token_row *out,
                         kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    char sql[256];
    snprintf(sql, sizeof sql, "SELECT " TOKEN_COLUMNS " FROM tokens WHERE %s", condition);
    int rc = kd_sql_query(&a->state->sql, &st, diag, sql, "s", text);
    if (rc == 0 && (rc = kd_sql_step(&a->state->sql, st, diag)) == 1)
        read_token(st, out);
    kd_sql_end(st);
    return rc;
}

int kd_access_revoke_token(kd_access *a, const char *id, kd_token_row *out, kd_diag *diag)
{
    kd_token_row t;
    int rc = strlen(id) == KD_TOKEN_ID
                 ? kd_access_find_token(a, "substr(hash, 1, 12) = ?", id, &t, diag)
                 : 0;
    if (rc == 0)
        return kd_fail(diag, -KD_ENOENT, "no token %.64s here; `distill token ls` lists them", id);
    if (rc == 1)
        rc = kd_sql_run(&a->state->sql, NULL, diag, "UPDATE tokens SET revoked = 1 WHERE hash = ?",
                        "s", t.hash);
    if (rc != 0)
        return rc;
    t.revoked = true;
    kd_access_drop_session(a, t.hash);
    *out = t;
    return 0;
}

/* ---- all of it */

int kd_access_load(kd_access *a, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    /* Those that are over, too: the admin's own is not made anew if it was revoked before. */
    int rc = kd_sql_query(&a->state->sql, &st, diag,
                          "SELECT serial FROM certificates WHERE revoked_ms > 0", "");
    while (rc == 0 && (rc = kd_sql_step(&a->state->sql, st, diag)) == 1) {
        kd_access_add_revoked(a, kd_sql_text(st, 0));
        rc = 0;
    }
    kd_sql_end(st);
    st = NULL;
    if (rc == 0)
        rc = kd_sql_query(&a->state->sql, &st, diag,
                          "SELECT " TOKEN_COLUMNS
                          " FROM tokens WHERE session = 1 AND revoked = 0 AND expires_ms > ?",
                          "i", kd_clock_wall_ms());
    while (rc == 0 && (rc = kd_sql_step(&a->state->sql, st, diag)) == 1) {
        kd_token_row t;
        read_token(st, &t);
        kd_access_add_session(a, &t);
        rc = 0;
    }
    kd_sql_end(st);
    return rc;
}

/* A name stays taken for a year after its last certificate. */
int kd_access_sweep_rows(kd_access *a, kd_diag *diag)
{
    int64_t now = kd_clock_wall_ms();
    int rc = kd_sql_run(&a->state->sql, NULL, diag,
                        "DELETE FROM tokens WHERE expires_ms < ? OR (used_ms > 0 AND used_ms < ?)",
                        "ii", now - 7 * KD_ACCESS_DAY_MS, now - 7 * KD_ACCESS_DAY_MS);
    if (rc == 0)
        rc = kd_sql_run(&a->state->sql, NULL, diag,
                        "DELETE FROM certificates WHERE not_after_ms < ?", "i",
                        now - 366 * KD_ACCESS_DAY_MS);
    return rc;
}

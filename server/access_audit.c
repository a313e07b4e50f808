/* The audit: who did what from where, and what came of it.
 *
 * Entries come from gRPC's and HTTP's threads and wait in memory until the loop writes them, all in
 * one transaction, so that refusals by the thousand cost a few writes a second. */
#include "access_internal.h"

#include "kd/log.h"
#include "kd/text.h"

#include <stdio.h>
#include <string.h>

/* Under the lock. Whoever reaches the port may be refused as often as he likes, and must not fill
 * the audit with it. */
static bool strangers_have_room(kd_access *a)
{
    kd_time_ms now = kd_clock_ms();
    double back = (double)(now - a->strangers_at) / 1000 * KD_AUDIT_STRANGERS_S;
    a->strangers = KD_MIN(a->strangers + back, 20.0 * KD_AUDIT_STRANGERS_S);
    a->strangers_at = now;
    if (a->strangers < 1)
        return false;
    a->strangers--;
    return true;
}

static void enter(kd_access *a, const kd_pki_identity *who, const kd_audit_row *row)
{
    pthread_mutex_lock(&a->mu);
    bool stranger = who->role == KD_ROLE_NONE;
    if (a->n_waiting == KD_AUDIT_WAITING || (stranger && !strangers_have_room(a))) {
        a->left_out++;
    } else {
        kd_audit_row *r = &a->waiting[a->n_waiting++];
        *r = *row;
        r->time_ms = kd_clock_wall_ms();
        snprintf(r->name, sizeof r->name, "%s", who->name);
        snprintf(r->role, sizeof r->role, "%s", kd_role_name(who->role));
        /* Both were cut, maybe within a character. */
        kd_utf8_mend(r->object);
        kd_utf8_mend(r->text);
    }
    pthread_mutex_unlock(&a->mu);
}

void kd_access_audit(kd_access *a, const kd_rpc_call *call, const char *result, const char *text)
{
    kd_rpc_peer peer = kd_rpc_call_peer(call);
    kd_audit_row row = {0};
    snprintf(row.address, sizeof row.address, "%.63s", peer.address);
    snprintf(row.method, sizeof row.method, "%.39s",
             kd_access_method_name(kd_rpc_call_method(call)->path));
    kd_rpc_call_note(call, row.object);
    snprintf(row.result, sizeof row.result, "%s", result);
    snprintf(row.text, sizeof row.text, "%.159s", text);
    enter(a, peer.identity, &row);
}

void kd_access_audit_http(kd_access *a, const kd_http_act *act)
{
    kd_audit_row row = {0};
    snprintf(row.address, sizeof row.address, "%.63s", act->address);
    snprintf(row.method, sizeof row.method, "HTTP/%.34s", act->method);
    snprintf(row.object, sizeof row.object, "%.*s", KD_RPC_NOTE - 1, act->path);
    snprintf(row.result, sizeof row.result, "%s", kd_err_name(act->code));
    snprintf(row.text, sizeof row.text, "%.159s", act->text);
    enter(a, act->who, &row);
}

static int add(kd_access *a, const kd_audit_row *r, kd_diag *diag)
{
    return kd_sql_run(&a->state->sql, NULL, diag,
                      "INSERT INTO audit(time_ms, name, role, address, method, object, result, "
                      "text) VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
                      "isssssss", r->time_ms, r->name, r->role, r->address, r->method, r->object,
                      r->result, r->text);
}

static int store(kd_access *a, const kd_audit_row *rows, size_t n, size_t left_out, kd_diag *diag)
{
    int rc = kd_state_begin(a->state, diag);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = add(a, &rows[i], diag);
    if (left_out && rc == 0) {
        kd_audit_row r = {.time_ms = kd_clock_wall_ms(), .result = "LEFT OUT", .role = "none"};
        snprintf(r.text, sizeof r.text, "%zu further entries of that moment", left_out);
        rc = add(a, &r, diag);
    }
    if (rc == 0)
        rc = kd_sql_run(&a->state->sql, NULL, diag,
                        "DELETE FROM audit WHERE n <= (SELECT max(n) FROM audit) - ?", "i",
                        (int64_t)KD_AUDIT_ROWS);
    if (rc == 0)
        rc = kd_sql_run(&a->state->sql, NULL, diag,
                        "DELETE FROM audit WHERE role = 'none' AND n <= (SELECT n FROM audit WHERE "
                        "role = 'none' ORDER BY n DESC LIMIT 1 OFFSET ?)",
                        "i", (int64_t)KD_AUDIT_STRANGERS);
    if (rc == 0)
        return kd_state_commit(a->state, diag);
    kd_state_rollback(a->state);
    return rc;
}

void kd_access_flush_audit(kd_access *a)
{
    kd_diag diag = {0};
    pthread_mutex_lock(&a->mu);
    kd_audit_row *rows = a->waiting;
    size_t n = a->n_waiting, left_out = a->left_out;
    a->waiting = a->written;
    a->n_waiting = a->left_out = 0;
    pthread_mutex_unlock(&a->mu);
    a->written = rows;
    if ((n || left_out) && store(a, rows, n, left_out, &diag) != 0)
        kd_err("%zu entries of the audit are lost: %s", n + left_out, diag.msg);
}

int kd_access_list_audit(kd_access *a, const char *name, kd_audit_row *out, int max, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    kd_access_flush_audit(a);
    int n = 0,
        rc = kd_sql_query(&a->state->sql, &st, diag,
                          "SELECT time_ms, name, role, address, method, object, result, text FROM "
                          "audit WHERE ? = '' OR name = ? ORDER BY n DESC LIMIT ?",
                          "ssi", name, name, (int64_t)max);
    while (rc == 0 && n < max && (rc = kd_sql_step(&a->state->sql, st, diag)) == 1) {
        kd_audit_row *r = &out[n++];
        r->time_ms = sqlite3_column_int64(st, 0);
        kd_access_copy(r->name, sizeof r->name, kd_sql_text(st, 1));
        kd_access_copy(r->role, sizeof r->role, kd_sql_text(st, 2));
        kd_access_copy(r->address, sizeof r->address, kd_sql_text(st, 3));
        kd_access_copy(r->method, sizeof r->method, kd_sql_text(st, 4));
        kd_access_copy(r->object, sizeof r->object, kd_sql_text(st, 5));
        kd_access_copy(r->result, sizeof r->result, kd_sql_text(st, 6));
        kd_access_copy(r->text, sizeof r->text, kd_sql_text(st, 7));
        rc = 0;
    }
    kd_sql_end(st);
    return rc < 0 ? rc : n;
}

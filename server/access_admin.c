/* The admin's login in STATE/tls/admin: it has to be good always, since without it nobody is let in
 * again. */
#include "access_internal.h"

#include "kd/log.h"

#include <stdio.h>
#include <unistd.h>

#define RETRY_MS 60000 /* after a failure, which the disk may have for long */

static bool is_admin_due(kd_access *a)
{
    const kd_pki_identity *who = &a->authority->admin;
    pthread_mutex_lock(&a->mu);
    bool revoked = kd_access_is_revoked(a, who->serial);
    pthread_mutex_unlock(&a->mu);
    return who->role != KD_ROLE_NONE && !revoked && kd_pki_is_due(who, kd_clock_wall_ms());
}

static int keep(kd_access *a, kd_diag *diag)
{
    kd_authority *authority = a->authority;
    kd_authority_read_admin(authority); /* whoever uses it renews it as well */
    if (is_admin_due(a)) {
        int rc = kd_authority_make_admin(authority, diag);
        if (rc != 0)
            return rc;
        a->admin_unwritten = true;
        kd_info("the admin has another certificate: serial=%s", authority->admin.serial);
    }
    return authority->admin.role == KD_ROLE_NONE ? 0 : kd_access_know(a, &authority->admin, diag);
}

int kd_access_keep_admin(kd_access *a, bool reload, kd_diag *diag)
{
    const kd_time_ms now = kd_clock_ms();
    if (!a->authority ||
        (!reload && (now < a->admin_after || (!a->admin_unwritten && !is_admin_due(a)))))
        return 0;
    const int rc = keep(a, diag);
    if (rc == 0)
        a->admin_unwritten = false;
    a->admin_after = rc == 0 ? 0 : now + RETRY_MS;
    return rc;
}

int kd_access_was_revoked(const char *state_dir, const char *serial, kd_diag *diag)
{
    char path[4096];
    kd_sql sql;
    sqlite3_stmt *st = NULL;
    snprintf(path, sizeof path, "%.3000s/distilld.db", state_dir);
    if (access(path, F_OK) != 0)
        return 0;
    int rc = kd_sql_open_reader(path, &sql, diag);
    if (rc != 0)
        return rc;
    /* A state from before there were certificates in it gets their table from the daemon. */
    rc = kd_sql_query(&sql, &st, diag,
                      "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'certificates'",
                      "");
    if (rc == 0)
        rc = kd_sql_step(&sql, st, diag);
    kd_sql_end(st);
    st = NULL;
    if (rc == 1)
        rc = kd_sql_query(&sql, &st, diag,
                          "SELECT 1 FROM certificates WHERE serial = ? AND revoked_ms > 0", "s",
                          serial);
    if (rc == 0 && st)
        rc = kd_sql_step(&sql, st, diag);
    kd_sql_end(st);
    kd_sql_close(&sql);
    return rc;
}

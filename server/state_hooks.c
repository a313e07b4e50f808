/* What hooks are still to tell. */
#include "state.h"

int kd_state_last_event(kd_state *s, kd_job_id id, uint64_t *out_seq, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc =
        kd_sql_query(&s->sql, &st, diag, "SELECT coalesce(max(seq), 0) FROM events WHERE job = ?",
                     "i", (int64_t)id);
    if (rc == 0 && (rc = kd_sql_step(&s->sql, st, diag)) == 1) {
        *out_seq = (uint64_t)sqlite3_column_int64(st, 0);
        rc = 0;
    }
    kd_sql_end(st);
    return rc;
}

int kd_state_add_hook(kd_state *s, int target, kd_job_id job, uint64_t seq, const char *kind,
                      const char *body, kd_diag *diag)
{
    return kd_sql_run(&s->sql, NULL, diag,
                      "INSERT INTO hooks(target, job, seq, kind, body) VALUES(?,?,?,?,?)", "iiiss",
                      (int64_t)target, (int64_t)job, (int64_t)seq, kind, body);
}

int kd_state_each_hook(kd_state *s, int target, int64_t after, kd_state_hook_fn fn, void *arg,
                       kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&s->sql, &st, diag,
                          "SELECT n, job, seq, kind, body FROM hooks WHERE target = ? AND n > ?"
                          " ORDER BY n",
                          "ii", (int64_t)target, after);
    while (rc == 0 && (rc = kd_sql_step(&s->sql, st, diag)) == 1)
        rc = fn(arg, sqlite3_column_int64(st, 0), (kd_job_id)sqlite3_column_int64(st, 1),
                (uint64_t)sqlite3_column_int64(st, 2), kd_sql_text(st, 3), kd_sql_text(st, 4));
    kd_sql_end(st);
    return rc;
}

int kd_state_drop_hook(kd_state *s, int64_t n, kd_diag *diag)
{
    return kd_sql_run(&s->sql, NULL, diag, "DELETE FROM hooks WHERE n = ?", "i", n);
}

int kd_state_drop_hooks(kd_state *s, int target, kd_diag *diag)
{
    return kd_sql_run(&s->sql, NULL, diag, "DELETE FROM hooks WHERE target = ?", "i",
                      (int64_t)target);
}

int kd_state_count_hooks(kd_state *s, uint64_t *out, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&s->sql, &st, diag, "SELECT count(*) FROM hooks", "");
    if (rc == 0 && (rc = kd_sql_step(&s->sql, st, diag)) == 1) {
        *out = (uint64_t)sqlite3_column_int64(st, 0);
        rc = 0;
    }
    kd_sql_end(st);
    return rc;
}

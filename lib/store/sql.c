#include "store/sql.h"

#include "kd/clock.h"
#include "kd/failpoint.h"
#include "kd/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Text of a statement that fits into a message. */
#define SHOWN_SQL 200
#define BUSY_MS 5000 /* that another process may have the database */

static int code_of(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_FULL:
    case SQLITE_TOOBIG:
        return -KD_ELIMIT;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return -KD_EDATA;
    case SQLITE_NOMEM:
        return -KD_ENOMEM;
    case SQLITE_CONSTRAINT:
        return rc == SQLITE_CONSTRAINT_UNIQUE || rc == SQLITE_CONSTRAINT_PRIMARYKEY ? -KD_EEXIST
                                                                                    : -KD_EINVAL;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -KD_ESTATE;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_AUTH:
        return -KD_EPERM;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
        return -KD_EIO;
    default:
        return -KD_EINTERNAL;
    }
}

static int sql_fail(kd_sql *s, const char *sql, int rc, kd_diag *diag)
{
    const char *file = sqlite3_db_filename(s->db, "main");
    if (rc == SQLITE_IOERR_FSYNC || rc == SQLITE_IOERR_DIR_FSYNC)
        kd_file_fsync_failed(file && *file ? file : "the database");
    return kd_fail(diag, code_of(rc), "database %.300s: %.300s (SQLite %d) in: %.*s",
                   file && *file ? file : "in memory", sqlite3_errmsg(s->db), rc, SHOWN_SQL, sql);
}

int kd_sql_exec(kd_sql *s, const char *sql, kd_diag *diag)
{
    int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? 0 : sql_fail(s, sql, rc, diag);
}

int kd_sql_begin(kd_sql *s, kd_diag *diag)
{
    if (s->make_room)
        (void)s->make_room(s->make_room_arg, false);
    return kd_sql_exec(s, "BEGIN IMMEDIATE", diag);
}

static void tell_committed(const kd_sql *s, double begun)
{
    if (s->committed)
        s->committed(s->committed_arg, kd_clock_s() - begun);
}

int kd_sql_commit(kd_sql *s, kd_diag *diag)
{
    double begun = kd_clock_s();
    int rc = kd_sql_exec(s, "COMMIT", diag);
    if (rc != 0)
        kd_sql_rollback(s);
    else
        tell_committed(s, begun);
    return rc;
}

void kd_sql_rollback(kd_sql *s)
{
    /* Some errors (disk full) have rolled back already; a second one would only be refused. */
    if (!sqlite3_get_autocommit(s->db))
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
}

static int bind(sqlite3_stmt *st, const char *format, va_list ap)
{
    int rc = SQLITE_OK;
    /* A format that does not fit the statement is our fault, never the data's. */
    KD_BUG_ON(sqlite3_bind_parameter_count(st) != (int)strlen(format));
    for (int i = 1; rc == SQLITE_OK && format[i - 1]; i++) {
        const void *blob;
        size_t len;
        switch (format[i - 1]) {
        case 's':
            rc = sqlite3_bind_text(st, i, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
            break;
        case 'i':
            rc = sqlite3_bind_int64(st, i, va_arg(ap, int64_t));
            break;
        case 'd':
            rc = sqlite3_bind_double(st, i, va_arg(ap, double));
            break;
        case 'b':
            blob = va_arg(ap, const void *);
            len = va_arg(ap, size_t);
            rc = sqlite3_bind_blob64(st, i, blob, len, SQLITE_TRANSIENT);
            break;
        default:
            KD_BUG_ON(true && "unknown letter in the format of a statement");
        }
    }
    return rc;
}

static int prepare(kd_sql *s, sqlite3_stmt **out, kd_diag *diag, const char *sql,
                   const char *format, va_list ap)
{
    sqlite3_stmt *st = NULL;
    const char *tail = NULL;
    int rc = sqlite3_prepare_v2(s->db, sql, -1, &st, &tail);
    if (rc == SQLITE_OK) {
        KD_BUG_ON(!st || tail[strspn(tail, " ;\n")]); /* one statement, not none or two */
        rc = bind(st, format, ap);
    }
    if (rc != SQLITE_OK) {
        rc = sql_fail(s, sql, rc, diag);
        sqlite3_finalize(st);
        return rc;
    }
    *out = st;
    return 0;
}

int kd_sql_query(kd_sql *s, sqlite3_stmt **out, kd_diag *diag, const char *sql, const char *format,
                 ...)
{
    va_list ap;
    va_start(ap, format);
    int rc = prepare(s, out, diag, sql, format, ap);
    va_end(ap);
    return rc;
}

int kd_sql_step(kd_sql *s, sqlite3_stmt *st, kd_diag *diag)
{
    bool alone = sqlite3_get_autocommit(s->db);
    int rc = sqlite3_step(st);
    /* Nothing of it was done, so that it may be done from its beginning. */
    while (rc == SQLITE_FULL && alone && s->make_room && s->make_room(s->make_room_arg, true)) {
        sqlite3_reset(st);
        rc = sqlite3_step(st);
    }
    if (rc == SQLITE_ROW)
        return 1;
    return rc == SQLITE_DONE ? 0 : sql_fail(s, sqlite3_sql(st), rc, diag);
}

void kd_sql_end(sqlite3_stmt *st)
{
    sqlite3_finalize(st); /* repeats the last step's error, which was reported then */
}

/* Where the statement of this text is kept or may be; NULL: there is no place left. */
static sqlite3_stmt **kept_place(kd_sql *s, const char *sql)
{
    for (int i = 0; i < KD_SQL_KEPT; i++)
        if (!s->kept[i] || strcmp(sqlite3_sql(s->kept[i]), sql) == 0)
            return &s->kept[i];
    return NULL;
}

int kd_sql_run(kd_sql *s, int *out_changes, kd_diag *diag, const char *sql, const char *format, ...)
{
    sqlite3_stmt **place = kept_place(s, sql), *st = place ? *place : NULL;
    int rc;
    va_list ap;
    va_start(ap, format);
    if (!st)
        rc = prepare(s, &st, diag, sql, format, ap);
    else if ((rc = bind(st, format, ap)) != SQLITE_OK)
        rc = sql_fail(s, sql, rc, diag);
    va_end(ap);
    bool alone = sqlite3_get_autocommit(s->db);
    double begun = alone ? kd_clock_s() : 0;
    if (rc == 0 && alone && KD_FAILPOINT_FAILS("sql.run"))
        rc = kd_fail(diag, -KD_EIO, "database: %s in: %.*s", strerror(errno), SHOWN_SQL, sql);
    while (rc == 0 && (rc = kd_sql_step(s, st, diag)) == 1)
        rc = 0; /* rows of a pragma or RETURNING are of no interest here */
    if (place && st) {
        *place = st;
        sqlite3_reset(st); /* repeats the last step's error, which was reported then */
        sqlite3_clear_bindings(st);
    } else {
        kd_sql_end(st);
    }
    if (alone)
        KD_FAILPOINT("sql.ran");
    if (alone && rc == 0)
        tell_committed(s, begun);
    if (rc == 0 && out_changes)
        *out_changes = sqlite3_changes(s->db);
    return rc;
}

const char *kd_sql_text(sqlite3_stmt *st, int column)
{
    const unsigned char *text = sqlite3_column_text(st, column);
    return text ? (const char *)text : "";
}

/* First column of the first row, as text in out. */
static int one_value(kd_sql *s, const char *sql, char *out, size_t size, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(s, &st, diag, sql, "");
    if (rc == 0)
        rc = kd_sql_step(s, st, diag);
    if (rc >= 0)
        snprintf(out, size, "%s", rc == 1 ? kd_sql_text(st, 0) : "");
    kd_sql_end(st);
    return rc < 0 ? rc : 0;
}

static int migrate(kd_sql *s, const char *path, const char *const *migrations, int n, kd_diag *diag)
{
    char text[64], set[64];
    int rc = one_value(s, "PRAGMA user_version", text, sizeof text, diag);
    if (rc != 0)
        return rc;
    long version = strtol(text, NULL, 10);
    if (version < 0 || version > n)
        return kd_fail(diag, -KD_ESTATE,
                       "database %.300s has version %ld, this program knows up to %d; use the "
                       "program that wrote it or a newer one",
                       path, version, n);
    for (int i = (int)version; i < n; i++) {
        snprintf(set, sizeof set, "PRAGMA user_version = %d", i + 1);
        rc = kd_sql_begin(s, diag);
        if (rc != 0)
            return rc;
        rc = kd_sql_exec(s, migrations[i], diag);
        if (rc == 0)
            rc = kd_sql_exec(s, set, diag);
        if (rc == 0)
            rc = kd_sql_commit(s, diag);
        else
            kd_sql_rollback(s);
        if (rc != 0)
            return kd_fail_at(diag, rc, "migration %d of the database failed", i + 1);
    }
    return 0;
}

static int prepare_database(kd_sql *s, const char *path, const char *const *migrations, int n,
                            kd_diag *diag)
{
    char text[256] = "";
    sqlite3_extended_result_codes(s->db, 1);
    sqlite3_busy_timeout(s->db, BUSY_MS);
    int rc = one_value(s, "PRAGMA journal_mode = WAL", text, sizeof text, diag);
    if (rc == 0 && strcmp(text, "wal") != 0)
        rc = kd_fail(diag, -KD_EUNSUP,
                     "database %.300s: this file system does not support write-ahead logging (mode "
                     "stays %.20s); choose a local one",
                     path, text);
    if (rc == 0)
        rc = kd_sql_exec(s,
                         "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
                         "PRAGMA trusted_schema = OFF",
                         diag);
    if (rc == 0)
        rc = one_value(s, "PRAGMA quick_check(1)", text, sizeof text, diag);
    if (rc == 0 && strcmp(text, "ok") != 0)
        rc = kd_fail(diag, -KD_EDATA, "database %.300s is damaged: %.200s", path, text);
    return rc == 0 ? migrate(s, path, migrations, n, diag) : rc;
}

static int cannot_open(const kd_sql *s, const char *path, int rc, kd_diag *diag)
{
    return kd_fail(diag, code_of(rc), "cannot open the database %.300s: %.300s", path,
                   s->db ? sqlite3_errmsg(s->db) : "out of memory");
}

int kd_sql_open(const char *path, const char *const *migrations, int n_migrations, kd_sql *out,
                kd_diag *diag)
{
    kd_sql s = {0};
    int rc = sqlite3_open_v2(path, &s.db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
    if (rc != SQLITE_OK)
        rc = cannot_open(&s, path, rc, diag);
    else
        rc = prepare_database(&s, path, migrations, n_migrations, diag);
    if (rc != 0) {
        kd_sql_close(&s);
        return rc;
    }
    *out = s;
    return 0;
}

int kd_sql_open_reader(const char *path, kd_sql *out, kd_diag *diag)
{
    kd_sql s = {0};
    int rc = sqlite3_open_v2(path, &s.db, SQLITE_OPEN_READONLY, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_busy_timeout(s.db, BUSY_MS);
    if (rc != SQLITE_OK) {
        rc = cannot_open(&s, path, rc, diag);
        kd_sql_close(&s);
        return rc;
    }
    *out = s;
    return 0;
}

void kd_sql_close(kd_sql *s)
{
    for (int i = 0; i < KD_SQL_KEPT; i++) {
        sqlite3_finalize(s->kept[i]);
        s->kept[i] = NULL;
    }
    /* A statement still open would keep the file open with it: a leak of ours. */
    int rc = sqlite3_close(s->db);
    KD_BUG_ON(rc != SQLITE_OK);
    s->db = NULL;
}

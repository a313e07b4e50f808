/* SQLite helpers: open with WAL and synchronous=FULL, migrations, statements.
 * Every function fills diag with SQLite's message and the statement. Threads: a database belongs to
 * one thread. SQLITE_FULL comes back as -KD_ELIMIT, SQLITE_CORRUPT and NOTADB as -KD_EDATA. */
#ifndef KD_SQL_H
#define KD_SQL_H

#include "kd/err.h"

#include <sqlite3.h>

#define KD_SQL_KEPT 32

typedef struct kd_sql {
    sqlite3 *db;
    sqlite3_stmt *kept[KD_SQL_KEPT]; /* statements of kd_sql_run, prepared once; by their text */
    /* May be NULL. Asked before a transaction (full false), and after a statement that commits by
     * itself found the disk full: true = it is tried again. */
    bool (*make_room)(void *arg, bool full);
    void *make_room_arg;
    /* May be NULL. Told how long each commit took, its fsync with it. */
    void (*committed)(void *arg, double seconds);
    void *committed_arg;
} kd_sql;

/* migrations[i] brings user_version i to i+1, each in its own transaction. A database newer than
 * n_migrations is refused with -KD_ESTATE. Runs PRAGMA quick_check. */
int kd_sql_open(const char *path, const char *const *migrations, int n_migrations, kd_sql *out,
                kd_diag *diag) KD_MUST_CHECK;
/* To read only, as it is, beside a process that may be writing. */
int kd_sql_open_reader(const char *path, kd_sql *out, kd_diag *diag) KD_MUST_CHECK;
void kd_sql_close(kd_sql *s);
int kd_sql_exec(kd_sql *s, const char *sql, kd_diag *diag) KD_MUST_CHECK;
int kd_sql_begin(kd_sql *s, kd_diag *diag) KD_MUST_CHECK;
int kd_sql_commit(kd_sql *s, kd_diag *diag) KD_MUST_CHECK; /* rolls back on failure */
void kd_sql_rollback(kd_sql *s);

/* Prepares and binds in one go. format, one letter an argument: s const char* (NULL = SQL NULL),
 * i int64_t, d double, b const void* + size_t. Finalize with kd_sql_end. */
int kd_sql_query(kd_sql *s, sqlite3_stmt **out, kd_diag *diag, const char *sql, const char *format,
                 ...) KD_MUST_CHECK;
/* 1 = a row is there, 0 = done, negative = error. */
int kd_sql_step(kd_sql *s, sqlite3_stmt *st, kd_diag *diag) KD_MUST_CHECK;
void kd_sql_end(sqlite3_stmt *st); /* NULL allowed */
/* Query without rows. Returns 0 or an error; *out_changes may be NULL. */
int kd_sql_run(kd_sql *s, int *out_changes, kd_diag *diag, const char *sql, const char *format,
               ...) KD_MUST_CHECK;
/* Column text, "" for NULL; valid until the next step. */
const char *kd_sql_text(sqlite3_stmt *st, int column);

#endif

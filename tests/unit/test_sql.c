/* SQLite helpers: migrations, what is refused at open, error codes, binding. */
#include "kd_test.h"

#include "kd/file.h"
#include "store/sql.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const g_migrations[] = {
    "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE, x REAL, data BLOB);"
    "INSERT INTO t(id, name) VALUES(1, 'first')",
    "ALTER TABLE t ADD COLUMN extra TEXT NOT NULL DEFAULT 'new'",
};

struct fixture {
    char *dir, path[256];
    kd_sql sql;
    kd_diag diag;
};

static void open_with(struct fixture *f, int n)
{
    kd_assert_ok(kd_sql_open(f->path, g_migrations, n, &f->sql, &f->diag), &f->diag);
}

static int setup(void **state)
{
    struct fixture *f = kd_xalloc(sizeof *f);
    f->dir = kd_test_mkdir();
    snprintf(f->path, sizeof f->path, "%s/a.db", f->dir);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kd_sql_close(&f->sql);
    kd_test_rmdir(f->dir);
    free(f);
    return 0;
}

static int64_t number(struct fixture *f, const char *sql)
{
    sqlite3_stmt *st = NULL;
    kd_assert_ok(kd_sql_query(&f->sql, &st, &f->diag, sql, ""), &f->diag);
    assert_int_equal(kd_sql_step(&f->sql, st, &f->diag), 1);
    int64_t v = sqlite3_column_int64(st, 0);
    kd_sql_end(st);
    return v;
}

static void test_sql_migrates(void **state)
{
    struct fixture *f = *state;
    open_with(f, 1);
    assert_int_equal(number(f, "PRAGMA user_version"), 1);
    assert_int_equal(number(f, "PRAGMA synchronous"), 2); /* FULL */
    kd_sql_close(&f->sql);
    open_with(f, 2); /* the second one only: the first would fail */
    assert_int_equal(number(f, "PRAGMA user_version"), 2);
    assert_int_equal(number(f, "SELECT count(*) FROM t WHERE extra = 'new'"), 1);
    kd_sql_close(&f->sql);
    open_with(f, 2);
    kd_sql_close(&f->sql);
    kd_assert_fails(kd_sql_open(f->path, g_migrations, 1, &f->sql, &f->diag), KD_ESTATE, &f->diag,
                    "has version 2, this program knows up to 1");
    assert_null(f->sql.db);
}

static void test_sql_failed_migration_changes_nothing(void **state)
{
    struct fixture *f = *state;
    const char *const broken[] = {g_migrations[0],
                                  "CREATE TABLE u(a); INSERT INTO nowhere VALUES(1)"};
    kd_assert_fails(kd_sql_open(f->path, broken, 2, &f->sql, &f->diag), KD_EINTERNAL, &f->diag,
                    "migration 2 of the database failed: ");
    open_with(f, 1); /* the first one stands */
    assert_int_equal(number(f, "SELECT count(*) FROM sqlite_master WHERE name = 'u'"), 0);
}

static void write_file(const char *path, const void *data, size_t len)
{
    kd_diag diag = {0};
    kd_assert_ok(kd_file_write(path, data, len, &diag), &diag);
}

static void test_sql_refuses_what_is_no_database(void **state)
{
    struct fixture *f = *state;
    char junk[8192];
    memset(junk, 'j', sizeof junk);
    write_file(f->path, junk, sizeof junk);
    kd_assert_fails(kd_sql_open(f->path, g_migrations, 1, &f->sql, &f->diag), KD_EDATA, &f->diag,
                    "not a database");
    kd_assert_fails(kd_sql_open("/nowhere/at/all.db", g_migrations, 1, &f->sql, &f->diag), KD_EIO,
                    &f->diag, "cannot open the database /nowhere/at/all.db");
    kd_assert_fails(kd_sql_open(":memory:", g_migrations, 1, &f->sql, &f->diag), KD_EUNSUP,
                    &f->diag, "write-ahead logging");
}

static void test_sql_refuses_damage(void **state)
{
    struct fixture *f = *state;
    open_with(f, 1);
    char name[32];
    for (int i = 2; i < 2000; i++) {
        snprintf(name, sizeof name, "row number %d", i);
        kd_assert_ok(kd_sql_run(&f->sql, NULL, &f->diag, "INSERT INTO t(id, name) VALUES(?, ?)",
                                "is", (int64_t)i, name),
                     &f->diag);
        if (i == 2) /* slow disks: the rest in one transaction */
            kd_assert_ok(kd_sql_begin(&f->sql, &f->diag), &f->diag);
    }
    kd_assert_ok(kd_sql_commit(&f->sql, &f->diag), &f->diag);
    kd_sql_close(&f->sql);
    char *data;
    size_t len;
    kd_assert_ok(kd_file_read(f->path, 1 << 20, &data, &len, &f->diag), &f->diag);
    assert_true(len > 8 * 4096);
    memset(data + 4096 * 3, 0xff, 4096 * 2);
    write_file(f->path, data, len);
    free(data);
    kd_assert_fails(kd_sql_open(f->path, g_migrations, 1, &f->sql, &f->diag), KD_EDATA, &f->diag,
                    "");
}

static void test_sql_binds_every_type(void **state)
{
    struct fixture *f = *state;
    open_with(f, 1);
    const uint8_t blob[] = {0, 1, 255};
    int changes = 0;
    kd_assert_ok(kd_sql_run(&f->sql, &changes, &f->diag,
                            "INSERT INTO t(id, name, x, data) VALUES(?,?,?,?), (?,?,?,?);",
                            "isdbisdb", INT64_MIN, "it's", 0.1, (const void *)blob, sizeof blob,
                            INT64_MAX, (const char *)NULL, -1e300, (const void *)NULL, (size_t)0),
                 &f->diag);
    assert_int_equal(changes, 2);
    sqlite3_stmt *st = NULL;
    char wanted[16] = "it's";
    kd_assert_ok(
        kd_sql_query(&f->sql, &st, &f->diag,
                     "SELECT id, name, x, data FROM t WHERE name = ? OR id = ? ORDER BY id", "si",
                     wanted, INT64_MAX),
        &f->diag);
    memset(wanted, 'z', sizeof wanted); /* arguments need not outlive the call */
    assert_int_equal(kd_sql_step(&f->sql, st, &f->diag), 1);
    assert_true(sqlite3_column_int64(st, 0) == INT64_MIN);
    assert_string_equal(kd_sql_text(st, 1), "it's");
    assert_true(sqlite3_column_double(st, 2) == 0.1);
    assert_int_equal(sqlite3_column_bytes(st, 3), 3);
    assert_memory_equal(sqlite3_column_blob(st, 3), blob, 3);
    assert_int_equal(kd_sql_step(&f->sql, st, &f->diag), 1);
    assert_int_equal(sqlite3_column_type(st, 1), SQLITE_NULL);
    assert_string_equal(kd_sql_text(st, 1), "");
    assert_int_equal(sqlite3_column_type(st, 3), SQLITE_NULL);
    assert_int_equal(kd_sql_step(&f->sql, st, &f->diag), 0);
    kd_sql_end(st);
    kd_sql_end(NULL);
}

static void test_sql_errors_name_the_statement(void **state)
{
    struct fixture *f = *state;
    open_with(f, 1);
    sqlite3_stmt *st = NULL;
    kd_assert_fails(kd_sql_query(&f->sql, &st, &f->diag, "SELECT no FROM t", ""), KD_EINTERNAL,
                    &f->diag, "no such column: no (SQLite 1) in: SELECT no FROM t");
    assert_null(st);
    kd_assert_fails(
        kd_sql_run(&f->sql, NULL, &f->diag, "INSERT INTO t(name) VALUES(?)", "s", "first"),
        KD_EEXIST, &f->diag, "UNIQUE constraint failed: t.name");
    kd_assert_fails(
        kd_sql_run(&f->sql, NULL, &f->diag, "INSERT INTO t(id) VALUES(?)", "i", (int64_t)1),
        KD_EEXIST, &f->diag, "t.id");
    kd_assert_fails(kd_sql_exec(&f->sql, "BEGIN; BEGIN", &f->diag), KD_EINTERNAL, &f->diag,
                    "within a transaction");
    kd_sql_rollback(&f->sql);
    kd_sql_rollback(&f->sql); /* none open: nothing happens */
}

static void test_sql_transactions(void **state)
{
    struct fixture *f = *state;
    open_with(f, 1);
    kd_assert_ok(kd_sql_begin(&f->sql, &f->diag), &f->diag);
    kd_assert_ok(kd_sql_exec(&f->sql, "DELETE FROM t", &f->diag), &f->diag);
    kd_sql_rollback(&f->sql);
    assert_int_equal(number(f, "SELECT count(*) FROM t"), 1);
    kd_assert_ok(kd_sql_begin(&f->sql, &f->diag), &f->diag);
    kd_assert_ok(kd_sql_exec(&f->sql, "DELETE FROM t", &f->diag), &f->diag);
    kd_assert_ok(kd_sql_commit(&f->sql, &f->diag), &f->diag);
    kd_sql_close(&f->sql);
    open_with(f, 1);
    assert_int_equal(number(f, "SELECT count(*) FROM t"), 0);
    /* A commit that cannot be is rolled back. */
    kd_assert_ok(
        kd_sql_exec(&f->sql,
                    "CREATE TABLE child(t INTEGER REFERENCES t(id) DEFERRABLE INITIALLY DEFERRED)",
                    &f->diag),
        &f->diag);
    kd_assert_ok(kd_sql_begin(&f->sql, &f->diag), &f->diag);
    kd_assert_ok(kd_sql_exec(&f->sql, "INSERT INTO child VALUES(77)", &f->diag), &f->diag);
    kd_assert_fails(kd_sql_commit(&f->sql, &f->diag), KD_EINVAL, &f->diag, "FOREIGN KEY");
    assert_int_equal(number(f, "SELECT count(*) FROM child"), 0);
    kd_assert_ok(kd_sql_begin(&f->sql, &f->diag), &f->diag);
    kd_sql_rollback(&f->sql);
}

/* max_page_count stands in for a full disk: SQLite reports both as SQLITE_FULL. */
static void test_sql_full(void **state)
{
    struct fixture *f = *state;
    open_with(f, 1);
    kd_assert_ok(kd_sql_run(&f->sql, NULL, &f->diag, "PRAGMA max_page_count = 8", ""), &f->diag);
    int rc = 0;
    for (int i = 0; i < 64 && rc == 0; i++)
        rc = kd_sql_run(&f->sql, NULL, &f->diag, "INSERT INTO t(data) VALUES(zeroblob(4096))", "");
    kd_assert_fails(rc, KD_ELIMIT, &f->diag, "full");
    assert_int_equal(number(f, "SELECT count(*) FROM t WHERE name = 'first'"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sql_migrates, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sql_failed_migration_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sql_refuses_what_is_no_database, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sql_refuses_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sql_binds_every_type, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sql_errors_name_the_statement, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sql_transactions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sql_full, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Files that the database names: checkpoints and artefacts; what of a job that is over can go. */
#include "state.h"

#include "kd/log.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from);
}

/* Paths are stored from the state folder on, so that it can be moved and restored elsewhere. */
static const char *below(const kd_state *s, const char *path)
{
    size_t n = strlen(s->dir);
    return strncmp(path, s->dir, n) == 0 && path[n] == '/' ? path + n + 1 : path;
}

int kd_state_add_file(kd_state *s, kd_job_id id, const char *name, uint32_t stage, uint64_t version,
                      const char *path, uint64_t size, const char *digest, kd_diag *diag)
{
    return kd_sql_run(&s->sql, NULL, diag, "INSERT OR REPLACE INTO files VALUES(?,?,?,?,?,?,?)",
                      "isiisis", (int64_t)id, name, (int64_t)stage, (int64_t)version,
                      below(s, path), (int64_t)size, digest);
}

static void read_file_row(const kd_state *s, sqlite3_stmt *st, kd_file_row *out)
{
    *out = (kd_file_row){.stage = (uint32_t)sqlite3_column_int(st, 1),
                         .version = (uint64_t)sqlite3_column_int64(st, 2),
                         .size = (uint64_t)sqlite3_column_int64(st, 4)};
    copy(out->name, sizeof out->name, kd_sql_text(st, 0));
    const char *path = kd_sql_text(st, 3);
    bool whole = path[0] == '/';
    snprintf(out->path, sizeof out->path, "%s%s%s", whole ? "" : s->dir, whole ? "" : "/", path);
    copy(out->digest, sizeof out->digest, kd_sql_text(st, 5));
}

#define FILE_COLUMNS "SELECT name, stage, version, path, size, digest FROM files WHERE job = ?"

static int one_file(kd_state *s, sqlite3_stmt *st, kd_file_row *out, kd_diag *diag)
{
    int rc = kd_sql_step(&s->sql, st, diag);
    if (rc == 1)
        read_file_row(s, st, out);
    kd_sql_end(st);
    return rc;
}

int kd_state_find_artefact(kd_state *s, kd_job_id id, const char *name, const char *digest,
                           kd_file_row *out, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&s->sql, &st, diag,
                          FILE_COLUMNS " AND name <> '' AND (name = ? OR digest = ?) LIMIT 1",
                          "iss", (int64_t)id, name, digest);
    return rc == 0 ? one_file(s, st, out, diag) : rc;
}

int kd_state_find_checkpoint(kd_state *s, kd_job_id id, uint32_t stage, uint64_t version,
                             kd_file_row *out, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&s->sql, &st, diag,
                          FILE_COLUMNS " AND name = '' AND stage = ? AND version = ?", "iii",
                          (int64_t)id, (int64_t)stage, (int64_t)version);
    return rc == 0 ? one_file(s, st, out, diag) : rc;
}

static int each_file(kd_state *s, sqlite3_stmt *st, kd_state_file_fn fn, void *arg, kd_diag *diag)
{
    int rc;
    kd_file_row row;
    while ((rc = kd_sql_step(&s->sql, st, diag)) == 1) {
        read_file_row(s, st, &row);
        if ((rc = fn(arg, &row)) != 0)
            break;
    }
    kd_sql_end(st);
    return rc;
}

int kd_state_each_artefact(kd_state *s, kd_job_id id, kd_state_file_fn fn, void *arg, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&s->sql, &st, diag, FILE_COLUMNS " AND name <> '' ORDER BY name", "i",
                          (int64_t)id);
    return rc == 0 ? each_file(s, st, fn, arg, diag) : rc;
}

int kd_state_each_checkpoint(kd_state *s, kd_job_id id, kd_state_file_fn fn, void *arg,
                             kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&s->sql, &st, diag, FILE_COLUMNS " AND name = '' ORDER BY stage, version",
                          "i", (int64_t)id);
    return rc == 0 ? each_file(s, st, fn, arg, diag) : rc;
}

int kd_state_each_stage_file(kd_state *s, kd_job_id id, uint32_t stage, kd_state_file_fn fn,
                             void *arg, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&s->sql, &st, diag, FILE_COLUMNS " AND stage = ? ORDER BY name, version",
                          "ii", (int64_t)id, (int64_t)stage);
    return rc == 0 ? each_file(s, st, fn, arg, diag) : rc;
}

static int doom_file(void *arg, const kd_file_row *row)
{
    kd_state *s = arg;
    char **p = realloc(s->doomed, (s->n_doomed + 1) * sizeof *p);
    KD_BUG_ON(!p);
    s->doomed = p;
    s->doomed[s->n_doomed++] = kd_xstrdup(row->path);
    return 0;
}

#define OLD_CHECKPOINTS " AND name = '' AND stage = ? AND version < ? AND version NOT IN (?, ?)"

static int drop_but(kd_state *s, kd_job_id id, uint32_t stage, uint64_t below, uint64_t one,
                    uint64_t other, kd_diag *diag)
{
    int64_t limit = below > INT64_MAX ? INT64_MAX : (int64_t)below;
    sqlite3_stmt *st = NULL;
    int rc = kd_state_begin(s, diag);
    if (rc != 0)
        return rc;
    rc = kd_sql_query(&s->sql, &st, diag, FILE_COLUMNS OLD_CHECKPOINTS, "iiiii", (int64_t)id,
                      (int64_t)stage, limit, (int64_t)one, (int64_t)other);
    if (rc == 0)
        rc = each_file(s, st, doom_file, s, diag);
    if (rc == 0)
        rc = kd_sql_run(&s->sql, NULL, diag, "DELETE FROM files WHERE job = ?" OLD_CHECKPOINTS,
                        "iiiii", (int64_t)id, (int64_t)stage, limit, (int64_t)one, (int64_t)other);
    if (rc == 0)
        return kd_state_commit(s, diag);
    kd_state_rollback(s);
    return rc;
}

int kd_state_drop_checkpoints(kd_state *s, kd_job_id id, uint32_t stage, uint64_t below,
                              uint64_t one, uint64_t other, kd_diag *diag)
{
    return drop_but(s, id, stage, below, one, other, diag);
}

int kd_state_keep_checkpoints(kd_state *s, kd_job_id id, uint32_t stage, uint64_t one,
                              uint64_t other, kd_diag *diag)
{
    return drop_but(s, id, stage, UINT64_MAX, one, other, diag);
}

/* ---- what of a job that is over can go */

int kd_state_drop_job_checkpoints(kd_state *s, kd_job_id id, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_state_begin(s, diag);
    if (rc != 0)
        return rc;
    rc = kd_sql_query(&s->sql, &st, diag, FILE_COLUMNS " AND name = ''", "i", (int64_t)id);
    if (rc == 0)
        rc = each_file(s, st, doom_file, s, diag);
    if (rc == 0)
        rc = kd_sql_run(&s->sql, NULL, diag, "DELETE FROM files WHERE job = ? AND name = ''", "i",
                        (int64_t)id);
    if (rc == 0)
        return kd_state_commit(s, diag);
    kd_state_rollback(s);
    return rc;
}

#define PASSING_EVENTS                                                                             \
    "job = ? AND kind NOT IN ('submitted', 'started', 'finished', 'slow', 'quarantine', "          \
    "'dropped')"

int kd_state_drop_events(kd_state *s, kd_job_id id, kd_diag *diag)
{
    return kd_sql_run(&s->sql, NULL, diag, "DELETE FROM events WHERE " PASSING_EVENTS, "i",
                      (int64_t)id);
}

static int one_sum(kd_state *s, const char *sql, kd_job_id id, uint64_t *out, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&s->sql, &st, diag, sql, "i", (int64_t)id);
    if (rc == 0 && (rc = kd_sql_step(&s->sql, st, diag)) == 1) {
        *out = (uint64_t)sqlite3_column_int64(st, 0);
        rc = 0;
    }
    kd_sql_end(st);
    return rc;
}

int kd_state_sum_job(kd_state *s, kd_job_id id, uint64_t *out_checkpoints, uint64_t *out_events,
                     kd_diag *diag)
{
    int rc = one_sum(s, "SELECT coalesce(sum(size), 0) FROM files WHERE job = ? AND name = ''", id,
                     out_checkpoints, diag);
    /* 32: the numbers of a row, about. */
    return rc == 0 ? one_sum(s,
                             "SELECT coalesce(sum(length(text) + length(data) + length(kind)"
                             " + length(worker) + 32), 0) FROM events WHERE " PASSING_EVENTS,
                             id, out_events, diag)
                   : rc;
}

int kd_state_drop_unnamed(kd_state *s, kd_job_id id, const char *folder, kd_diag *diag)
{
    DIR *dir = opendir(folder);
    int rc = 0;
    for (struct dirent *e; dir && rc == 0 && (e = readdir(dir));) {
        unsigned stage;
        unsigned long long version;
        int end = 0;
        kd_file_row row;
        if (sscanf(e->d_name, "stage%u-version%llu.safetensors%n", &stage, &version, &end) != 2 ||
            end == 0 || e->d_name[end] != '\0')
            continue;
        rc = kd_state_find_checkpoint(s, id, stage, version, &row, diag);
        if (rc == 0 && unlinkat(dirfd(dir), e->d_name, 0) == 0)
            kd_info("removed a checkpoint that nothing names: path=%s/%s", folder, e->d_name);
        rc = KD_MIN(rc, 0);
    }
    if (dir)
        closedir(dir);
    return rc;
}

/* ---- settings */

int kd_state_set_setting(kd_state *s, const char *name, const char *value, kd_diag *diag)
{
    return value
               ? kd_sql_run(&s->sql, NULL, diag, "INSERT OR REPLACE INTO settings VALUES(?,?)",
                            "ss", name, value)
               : kd_sql_run(&s->sql, NULL, diag, "DELETE FROM settings WHERE name = ?", "s", name);
}

int kd_state_each_setting(kd_state *s, kd_state_setting_fn fn, void *arg, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&s->sql, &st, diag, "SELECT name, value FROM settings", "");
    while (rc == 0 && (rc = kd_sql_step(&s->sql, st, diag)) == 1) {
        fn(arg, kd_sql_text(st, 0), kd_sql_text(st, 1));
        rc = 0;
    }
    kd_sql_end(st);
    return rc;
}

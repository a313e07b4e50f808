#include "state.h"

#include "kd/failpoint.h"
#include "kd/file.h"
#include "kd/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const g_migrations[] = {
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "INSERT INTO meta VALUES('epoch', 0);"
    "CREATE TABLE jobs(n INTEGER PRIMARY KEY AUTOINCREMENT, id INTEGER NOT NULL UNIQUE,"
    " key TEXT NOT NULL UNIQUE, name TEXT NOT NULL, text_digest TEXT NOT NULL,"
    " state INTEGER NOT NULL, reason TEXT NOT NULL, submitted_ms INTEGER NOT NULL,"
    " started_ms INTEGER NOT NULL, finished_ms INTEGER NOT NULL, resolved TEXT NOT NULL,"
    " result TEXT);"
    "CREATE TABLE stages(job INTEGER NOT NULL, stage INTEGER NOT NULL, name TEXT NOT NULL,"
    " done INTEGER NOT NULL, digest TEXT NOT NULL, fingerprint TEXT NOT NULL, info BLOB,"
    " manifest INTEGER NOT NULL, evaluated INTEGER NOT NULL, seconds REAL NOT NULL,"
    " teacher_forwards INTEGER NOT NULL, bank_hits INTEGER NOT NULL, loss REAL NOT NULL,"
    " correct REAL NOT NULL, samples REAL NOT NULL, PRIMARY KEY(job, stage)) WITHOUT ROWID;"
    "CREATE TABLE epochs(job INTEGER NOT NULL, stage INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    " train_loss REAL, train_accuracy REAL, val_loss REAL, val_correct INTEGER NOT NULL,"
    " val_samples INTEGER NOT NULL, PRIMARY KEY(job, stage, epoch)) WITHOUT ROWID;"
    "CREATE TABLE events(job INTEGER NOT NULL, seq INTEGER NOT NULL, time_ms INTEGER NOT NULL,"
    " kind TEXT NOT NULL, text TEXT NOT NULL, worker TEXT NOT NULL, state INTEGER NOT NULL,"
    " data TEXT NOT NULL, PRIMARY KEY(job, seq)) WITHOUT ROWID;"
    "CREATE TABLE files(job INTEGER NOT NULL, name TEXT NOT NULL, stage INTEGER NOT NULL,"
    " version INTEGER NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL, digest TEXT NOT NULL,"
    " PRIMARY KEY(job, name, stage, version)) WITHOUT ROWID;",
    /* Sweeps, continued and replayed jobs, several evaluations an epoch. Evaluations stored before
     * have step 0; who reads them knows the steps of an epoch. */
    "ALTER TABLE jobs ADD COLUMN is_sweep INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE jobs ADD COLUMN sweep INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE jobs ADD COLUMN continued INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE jobs ADD COLUMN replayed INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE jobs ADD COLUMN text TEXT;"
    "ALTER TABLE jobs ADD COLUMN label TEXT;"
    "ALTER TABLE jobs ADD COLUMN vary TEXT;"
    "ALTER TABLE stages ADD COLUMN best_digest TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE stages ADD COLUMN best_version INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE stages ADD COLUMN best_epoch INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE stages ADD COLUMN stopped_early INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE stages ADD COLUMN teacher_seconds REAL NOT NULL DEFAULT 0;"
    "ALTER TABLE stages ADD COLUMN shared INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE stages ADD COLUMN expected BLOB;"
    "ALTER TABLE stages ADD COLUMN term_sums BLOB;"
    "CREATE TABLE evaluations(job INTEGER NOT NULL, stage INTEGER NOT NULL,"
    " epoch INTEGER NOT NULL, step INTEGER NOT NULL, train_loss REAL, train_accuracy REAL,"
    " val_loss REAL, val_correct INTEGER NOT NULL, val_samples INTEGER NOT NULL,"
    " val_agree INTEGER NOT NULL, val_kl REAL, learning_rate REAL, best INTEGER NOT NULL,"
    " shares BLOB, term_losses BLOB, PRIMARY KEY(job, stage, epoch, step)) WITHOUT ROWID;"
    "INSERT INTO evaluations SELECT job, stage, epoch, 0, train_loss, train_accuracy, val_loss,"
    " val_correct, val_samples, 0, -1, 0, 0, NULL, NULL FROM epochs;"
    "DROP TABLE epochs;",
    /* Jobs that are paused or scaled; what faults cost a stage; digests of saved versions. */
    "CREATE TABLE digests(job INTEGER NOT NULL, stage INTEGER NOT NULL, version INTEGER NOT NULL,"
    " digest TEXT NOT NULL, PRIMARY KEY(job, stage, version)) WITHOUT ROWID;"
    "ALTER TABLE jobs ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE jobs ADD COLUMN min_workers INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE jobs ADD COLUMN max_workers INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE stages ADD COLUMN steps_redone INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE stages ADD COLUMN lost_ms_workers REAL NOT NULL DEFAULT 0;"
    "ALTER TABLE stages ADD COLUMN lost_ms_all REAL NOT NULL DEFAULT 0;",
    /* Who may call: one-time and session tokens by the hash of their secret, certificates that were
     * issued, what was done. Jobs of before belong to nobody. */
    "ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT '';"
    "CREATE TABLE tokens(hash TEXT PRIMARY KEY, role TEXT NOT NULL, name TEXT NOT NULL,"
    " session INTEGER NOT NULL, created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,"
    " used_ms INTEGER NOT NULL, used_by TEXT NOT NULL, created_by TEXT NOT NULL,"
    " revoked INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE certificates(serial TEXT PRIMARY KEY, role TEXT NOT NULL, name TEXT NOT NULL,"
    " issued_ms INTEGER NOT NULL, not_after_ms INTEGER NOT NULL, revoked_ms INTEGER NOT NULL)"
    " WITHOUT ROWID;"
    "CREATE INDEX certificates_by_name ON certificates(name);"
    "CREATE TABLE audit(n INTEGER PRIMARY KEY AUTOINCREMENT, time_ms INTEGER NOT NULL,"
    " name TEXT NOT NULL, role TEXT NOT NULL, address TEXT NOT NULL, method TEXT NOT NULL,"
    " object TEXT NOT NULL, result TEXT NOT NULL, text TEXT NOT NULL);",
    /* What callers without a certificate did is kept apart. */
    "CREATE INDEX audit_role ON audit(role, n);",
    /* What was changed of the configuration at run time. */
    "CREATE TABLE settings(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;",
    /* What hooks are to tell, until they have. */
    "CREATE TABLE hooks(n INTEGER PRIMARY KEY AUTOINCREMENT, target INTEGER NOT NULL,"
    " job INTEGER NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL);",
    /* Paths of files from the state folder on: the file's name below the job's folder. */
    "UPDATE files SET path = printf('jobs/%012x/', job) ||"
    " replace(path, rtrim(path, replace(path, '/', '')), '');",
};

void kd_id_text(kd_job_id id, char out[KD_ID_TEXT])
{
    snprintf(out, KD_ID_TEXT, "%012llx", (unsigned long long)(id & 0xffffffffffffu));
}

static int lock_folder(const char *dir, int *out_fd, kd_diag *diag)
{
    char path[4096], pid[32] = "";
    snprintf(path, sizeof path, "%s/distilld.lock", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return kd_fail(diag, -KD_EIO, "cannot open %s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        ssize_t n = pread(fd, pid, sizeof pid - 1, 0);
        pid[n > 0 ? n : 0] = '\0';
        close(fd);
        return kd_fail(diag, -KD_ESTATE,
                       "the state folder %s is in use by another distilld (process %s); stop it or "
                       "choose another --state-dir",
                       dir, pid[0] ? pid : "unknown");
    }
    int n = snprintf(pid, sizeof pid, "%ld", (long)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, pid, (size_t)n, 0) != n) {
        close(fd);
        return kd_fail(diag, -KD_EIO, "cannot write %s: %s", path, strerror(errno));
    }
    *out_fd = fd;
    return 0;
}

/* A crash between the folder and the row of a job, at its birth or its end, leaves a folder that no
 * row names. */
static int drop_orphans(kd_state *s, kd_diag *diag)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/jobs", s->dir);
    DIR *folder = opendir(path);
    if (!folder)
        return kd_fail(diag, -KD_EIO, "cannot read %s: %s", path, strerror(errno));
    int rc = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(folder));) {
        if (strlen(e->d_name) != KD_ID_TEXT - 1 ||
            strspn(e->d_name, "0123456789abcdef") != KD_ID_TEXT - 1)
            continue;
        sqlite3_stmt *st = NULL;
        rc = kd_sql_query(&s->sql, &st, diag, "SELECT 1 FROM jobs WHERE id = ?", "i",
                          (int64_t)strtoull(e->d_name, NULL, 16));
        int there = rc == 0 ? kd_sql_step(&s->sql, st, diag) : rc;
        kd_sql_end(st);
        snprintf(path, sizeof path, "%s/jobs/%s", s->dir, e->d_name);
        if (there == 1) {
            kd_file_drop_temporaries(path);
            there = kd_state_drop_unnamed(s, strtoull(e->d_name, NULL, 16), path, diag);
            there = there == 0 ? 1 : there;
        }
        if (there == 0) {
            kd_info("removing the folder of a job that is not stored: path=%s", path);
            there = kd_file_remove_tree(path, diag);
        }
        rc = KD_MIN(there, 0);
    }
    closedir(folder);
    return rc;
}

/* Whether jobs have left files here. */
static bool has_jobs(const char *dir)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/jobs", dir);
    DIR *folder = opendir(path);
    bool found = false;
    for (struct dirent *e; folder && !found && (e = readdir(folder));)
        found = strspn(e->d_name, "0123456789abcdef") == KD_ID_TEXT - 1;
    if (folder)
        closedir(folder);
    return found;
}

/* Without its database the files of a state folder are nobody's: they are kept until somebody says
 * what is to become of them. */
static int open_database(const char *dir, kd_sql *out, kd_diag *diag)
{
    char path[4096];
    kd_diag why = {0};
    snprintf(path, sizeof path, "%s/distilld.db", dir);
    int rc = access(path, F_OK) != 0 && has_jobs(dir)
                 ? kd_fail(&why, -KD_EDATA,
                           "the database %.300s is missing, and jobs' files are there", path)
                 : kd_sql_open(path, g_migrations, KD_COUNT(g_migrations), out, &why);
    if (rc == -KD_EDATA)
        return kd_fail(
            diag, rc,
            "%.500s. Put back a copy of %.200s, or move that folder away and submit its jobs "
            "again; what they have made lies in its folder jobs",
            why.msg, dir);
    return rc == 0 ? 0 : kd_fail(diag, rc, "%s", why.msg);
}

int kd_state_open(const char *dir, kd_state *out, kd_diag *diag)
{
    kd_state s = {.lock_fd = -1};
    char path[4096];
    if (strlen(dir) > 3000)
        return kd_fail(diag, -KD_EINVAL, "the path of the state folder is too long");
    static const char *const folders[] = {"", "/jobs", "/blobs", "/bank"};
    for (size_t i = 0; i < KD_COUNT(folders); i++) {
        snprintf(path, sizeof path, "%s%s", dir, folders[i]);
        int rc = kd_file_mkdirs(path, diag);
        if (rc != 0)
            return rc;
    }
    int rc = lock_folder(dir, &s.lock_fd, diag);
    if (rc != 0)
        return rc;
    KD_FAILPOINT("start.locked");
    snprintf(path, sizeof path, "%s/blobs", dir);
    kd_file_drop_temporaries(path);
    s.dir = kd_xstrdup(dir);
    rc = open_database(dir, &s.sql, diag);
    if (rc == 0)
        rc = kd_sql_run(&s.sql, NULL, diag,
                        "UPDATE meta SET value = value + 1 WHERE name = 'epoch'", "");
    sqlite3_stmt *st = NULL;
    if (rc == 0)
        rc = kd_sql_query(&s.sql, &st, diag, "SELECT value FROM meta WHERE name = 'epoch'", "");
    if (rc == 0 && (rc = kd_sql_step(&s.sql, st, diag)) == 1) {
        s.epoch = (uint64_t)sqlite3_column_int64(st, 0);
        rc = 0;
    }
    kd_sql_end(st);
    KD_FAILPOINT("start.opened");
    if (rc == 0)
        rc = drop_orphans(&s, diag);
    if (rc != 0) {
        kd_state_close(&s);
        return rc;
    }
    *out = s;
    return 0;
}

void kd_state_close(kd_state *s)
{
    if (s->sql.db)
        kd_sql_close(&s->sql);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    free(s->dir);
    *s = (kd_state){.lock_fd = -1};
}

int kd_state_begin(kd_state *s, kd_diag *diag)
{
    if (s->depth++ > 0)
        return 0;
    int rc = kd_sql_begin(&s->sql, diag);
    if (rc != 0)
        s->depth = 0;
    return rc;
}

static void drop_doomed(kd_state *s, bool really)
{
    for (size_t i = 0; i < s->n_doomed; i++) {
        if (really && unlink(s->doomed[i]) != 0 && errno != ENOENT)
            kd_warn("cannot remove an old file: path=%s err=%s", s->doomed[i], strerror(errno));
        free(s->doomed[i]);
    }
    free(s->doomed);
    s->doomed = NULL;
    s->n_doomed = 0;
}

int kd_state_commit(kd_state *s, kd_diag *diag)
{
    KD_BUG_ON(s->depth == 0);
    if (--s->depth > 0)
        return 0;
    if (KD_FAILPOINT_FAILS("state.commit")) {
        int rc = kd_fail(diag, -KD_EIO, "cannot commit: %s", strerror(errno));
        kd_state_rollback(s);
        return rc;
    }
    int rc = kd_sql_commit(&s->sql, diag);
    KD_FAILPOINT("state.committed");
    drop_doomed(s, rc == 0);
    KD_FAILPOINT("state.cleaned");
    return rc;
}

void kd_state_rollback(kd_state *s)
{
    s->depth = 0;
    kd_sql_rollback(&s->sql);
    drop_doomed(s, false);
}

static int forget_job(kd_state *s, kd_job_id id, uint64_t *freed, kd_diag *diag)
{
    static const char *const tables[] = {
        "DELETE FROM files WHERE job = ?",       "DELETE FROM events WHERE job = ?",
        "DELETE FROM evaluations WHERE job = ?", "DELETE FROM stages WHERE job = ?",
        "DELETE FROM digests WHERE job = ?",     "DELETE FROM jobs WHERE id = ?",
    };
    sqlite3_stmt *st = NULL;
    int rc =
        kd_sql_query(&s->sql, &st, diag, "SELECT coalesce(sum(size), 0) FROM files WHERE job = ?",
                     "i", (int64_t)id);
    if (rc == 0 && (rc = kd_sql_step(&s->sql, st, diag)) == 1) {
        *freed += (uint64_t)sqlite3_column_int64(st, 0);
        rc = 0;
    }
    kd_sql_end(st);
    for (size_t i = 0; i < KD_COUNT(tables) && rc == 0; i++)
        rc = kd_sql_run(&s->sql, NULL, diag, tables[i], "i", (int64_t)id);
    return rc;
}

int kd_state_remove_jobs(kd_state *s, const kd_job_id *ids, size_t n, uint64_t *out_freed,
                         kd_diag *diag)
{
    uint64_t freed = 0;
    int rc = kd_state_begin(s, diag);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = forget_job(s, ids[i], &freed, diag);
    if (rc == 0)
        rc = kd_state_commit(s, diag);
    else
        kd_state_rollback(s);
    if (rc != 0)
        return rc;
    /* What cannot be unlinked now is found at the next start: no row names it. */
    for (size_t i = 0; i < n; i++) {
        char path[4096], text[KD_ID_TEXT];
        kd_id_text(ids[i], text);
        snprintf(path, sizeof path, "%s/jobs/%s", s->dir, text);
        kd_diag why = {0};
        if (kd_file_remove_tree(path, &why) != 0)
            kd_warn("the folder of a removed job stays: %s", why.msg);
    }
    *out_freed = freed;
    return 0;
}

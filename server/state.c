#include "state.h"

#include "kd/clock.h"
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

void kd_job_row_clear(kd_job_row *row)
{
    free(row->resolved);
    free(row->result);
    free(row->text);
    free(row->label);
    free(row->values);
    row->resolved = row->result = row->text = row->label = row->values = NULL;
}

void kd_stage_row_clear(kd_stage_row *row)
{
    free(row->info);
    free(row->expected);
    row->info = row->expected = NULL;
    row->info_len = row->expected_len = 0;
}

static int put_stage(kd_state *s, kd_job_id id, uint32_t stage, const kd_stage_row *r,
                     kd_diag *diag)
{
    return kd_sql_run(
        &s->sql, NULL, diag,
        "INSERT OR REPLACE INTO stages(job, stage, name, done, digest, fingerprint, info, manifest,"
        " evaluated, seconds, teacher_forwards, bank_hits, loss, correct, samples, best_digest,"
        " best_version, best_epoch, stopped_early, teacher_seconds, shared, expected,"
        " term_sums, steps_redone, lost_ms_workers, lost_ms_all)"
        " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        "iisissbiidiidddsiiidibbidd", (int64_t)id, (int64_t)stage, r->name, (int64_t)r->done,
        r->digest, r->fingerprint, r->info, r->info_len, (int64_t)r->manifest,
        (int64_t)r->evaluated, r->seconds, (int64_t)r->teacher_forwards, (int64_t)r->bank_hits,
        r->loss, r->correct, r->samples, r->best_digest, (int64_t)r->best_version,
        (int64_t)r->best_epoch, (int64_t)r->stopped_early, r->teacher_seconds, (int64_t)r->shared,
        r->expected, r->expected_len, r->term_sums, sizeof r->term_sums, (int64_t)r->steps_redone,
        r->lost_ms_workers, r->lost_ms_all);
}

static int put_file(kd_state *s, kd_job_id id, const kd_file_row *f, kd_diag *diag)
{
    return kd_state_add_file(s, id, f->name, f->stage, f->version, f->path, f->size, f->digest,
                             diag);
}

static int add_job(kd_state *s, const kd_new_job *job, kd_diag *diag)
{
    const kd_job_row *row = job->row;
    int rc = kd_sql_run(
        &s->sql, NULL, diag,
        "INSERT INTO jobs(id, key, name, text_digest, state, reason, submitted_ms, started_ms,"
        " finished_ms, resolved, is_sweep, sweep, continued, replayed, text, label, vary,"
        " owner)"
        " VALUES(?,?,?,?,?,?,?,0,0,?,?,?,?,?,?,?,?,?)",
        "isssisisiiiissss", (int64_t)row->id, row->key, row->name, row->text_digest,
        (int64_t)row->state, row->reason, row->submitted_ms, row->resolved, (int64_t)row->is_sweep,
        (int64_t)row->sweep, (int64_t)row->continued, (int64_t)row->replayed, row->text, row->label,
        row->values, row->owner);
    for (int i = 0; i < job->n_stages && rc == 0; i++)
        rc = put_stage(s, row->id, (uint32_t)i, &job->stages[i], diag);
    for (size_t i = 0; i < job->n_epochs && rc == 0; i++)
        rc = kd_state_add_epoch(s, row->id, &job->epochs[i], diag);
    for (size_t i = 0; i < job->n_files && rc == 0; i++)
        rc = put_file(s, row->id, &job->files[i], diag);
    kd_event_row event = {.kind = "submitted", .state = row->state, .text = (char *)job->event};
    return rc == 0 && job->event ? kd_state_add_event(s, row->id, &event, diag) : rc;
}

int kd_state_add_jobs(kd_state *s, const kd_new_job *jobs, size_t n, kd_diag *diag)
{
    int rc = kd_state_begin(s, diag);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = add_job(s, &jobs[i], diag);
    if (rc == 0)
        return kd_state_commit(s, diag);
    kd_state_rollback(s);
    return rc;
}

static void copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from);
}

/* A blob column in memory of its own; NULL when it is empty. */
static uint8_t *take_blob(sqlite3_stmt *st, int column, size_t *out_len)
{
    size_t len = (size_t)sqlite3_column_bytes(st, column);
    *out_len = len;
    if (len == 0)
        return NULL;
    uint8_t *p = kd_xalloc(len);
    memcpy(p, sqlite3_column_blob(st, column), len);
    return p;
}

static char *take_text(sqlite3_stmt *st, int column)
{
    return sqlite3_column_type(st, column) == SQLITE_NULL ? NULL
                                                          : kd_xstrdup(kd_sql_text(st, column));
}

static int read_stages(kd_state *s, kd_job_id id, kd_stage_row *stages, int *n, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&s->sql, &st, diag,
                          "SELECT name, done, digest, fingerprint, info, manifest, evaluated,"
                          " seconds, teacher_forwards, bank_hits, loss, correct, samples,"
                          " best_digest, best_version, best_epoch, stopped_early, teacher_seconds,"
                          " shared, expected, term_sums, steps_redone, lost_ms_workers,"
                          " lost_ms_all FROM stages WHERE job = ? ORDER BY stage",
                          "i", (int64_t)id);
    *n = 0;
    while (rc == 0 && (rc = kd_sql_step(&s->sql, st, diag)) == 1) {
        rc = 0;
        if (*n == KD_CORE_STAGES)
            break;
        kd_stage_row *r = &stages[(*n)++];
        *r = (kd_stage_row){.done = sqlite3_column_int(st, 1) != 0,
                            .manifest = (uint64_t)sqlite3_column_int64(st, 5),
                            .evaluated = (uint64_t)sqlite3_column_int64(st, 6),
                            .seconds = sqlite3_column_double(st, 7),
                            .teacher_forwards = (uint64_t)sqlite3_column_int64(st, 8),
                            .bank_hits = (uint64_t)sqlite3_column_int64(st, 9),
                            .loss = sqlite3_column_double(st, 10),
                            .correct = sqlite3_column_double(st, 11),
                            .samples = sqlite3_column_double(st, 12),
                            .best_version = (uint64_t)sqlite3_column_int64(st, 14),
                            .best_epoch = (uint32_t)sqlite3_column_int(st, 15),
                            .stopped_early = (uint64_t)sqlite3_column_int64(st, 16),
                            .teacher_seconds = sqlite3_column_double(st, 17),
                            .shared = (kd_job_id)sqlite3_column_int64(st, 18),
                            .steps_redone = (uint64_t)sqlite3_column_int64(st, 21),
                            .lost_ms_workers = sqlite3_column_double(st, 22),
                            .lost_ms_all = sqlite3_column_double(st, 23)};
        copy(r->name, sizeof r->name, kd_sql_text(st, 0));
        copy(r->digest, sizeof r->digest, kd_sql_text(st, 2));
        copy(r->fingerprint, sizeof r->fingerprint, kd_sql_text(st, 3));
        copy(r->best_digest, sizeof r->best_digest, kd_sql_text(st, 13));
        r->info = take_blob(st, 4, &r->info_len);
        r->expected = take_blob(st, 19, &r->expected_len);
        if ((size_t)sqlite3_column_bytes(st, 20) == sizeof r->term_sums)
            memcpy(r->term_sums, sqlite3_column_blob(st, 20), sizeof r->term_sums);
    }
    kd_sql_end(st);
    return rc;
}

/* Doubles as they lie in memory; a length that fits no row of ours is left out. */
static void read_doubles(sqlite3_stmt *st, int column, double out[KD_MAX_EPOCH_TERMS], uint32_t *n)
{
    size_t len = (size_t)sqlite3_column_bytes(st, column);
    *n = len % sizeof *out || len > KD_MAX_EPOCH_TERMS * sizeof *out
             ? 0
             : (uint32_t)(len / sizeof *out);
    if (*n)
        memcpy(out, sqlite3_column_blob(st, column), len);
}

static int read_epochs(kd_state *s, kd_job_id id, kd_epoch_row **out, int *n, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&s->sql, &st, diag,
                          "SELECT stage, epoch, train_loss, train_accuracy, val_loss, val_correct,"
                          " val_samples, step, val_agree, val_kl, learning_rate, best, shares,"
                          " term_losses FROM evaluations WHERE job = ?"
                          " ORDER BY stage, epoch, step",
                          "i", (int64_t)id);
    kd_epoch_row *rows = NULL;
    int count = 0;
    while (rc == 0 && (rc = kd_sql_step(&s->sql, st, diag)) == 1) {
        rc = 0;
        kd_epoch_row *p = realloc(rows, ((size_t)count + 1) * sizeof *p);
        KD_BUG_ON(!p);
        rows = p;
        kd_epoch_row *r = &rows[count++];
        *r = (kd_epoch_row){.stage = (uint32_t)sqlite3_column_int(st, 0),
                            .epoch = (uint32_t)sqlite3_column_int(st, 1),
                            .train_loss = sqlite3_column_double(st, 2),
                            .train_accuracy = sqlite3_column_double(st, 3),
                            .val_loss = sqlite3_column_double(st, 4),
                            .val_correct = (uint32_t)sqlite3_column_int(st, 5),
                            .val_samples = (uint32_t)sqlite3_column_int(st, 6),
                            .step = (uint64_t)sqlite3_column_int64(st, 7),
                            .val_agree = (uint32_t)sqlite3_column_int(st, 8),
                            .val_kl = sqlite3_column_double(st, 9),
                            .learning_rate = sqlite3_column_double(st, 10),
                            .best = sqlite3_column_int(st, 11) != 0};
        uint32_t n_losses;
        read_doubles(st, 12, r->shares, &r->n_terms);
        read_doubles(st, 13, r->term_losses, &n_losses);
        r->n_terms = KD_MIN(r->n_terms, n_losses);
    }
    kd_sql_end(st);
    *out = rows;
    *n = count;
    return rc;
}

int kd_state_each_job(kd_state *s, kd_state_job_fn fn, void *arg, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&s->sql, &st, diag,
                          "SELECT id, key, name, text_digest, state, reason, submitted_ms,"
                          " started_ms, finished_ms, resolved, result, is_sweep, sweep, continued,"
                          " replayed, text, label, vary, paused, min_workers, max_workers, owner "
                          "FROM jobs ORDER BY n",
                          "");
    while (rc == 0 && (rc = kd_sql_step(&s->sql, st, diag)) == 1) {
        kd_job_row row = {.id = (kd_job_id)sqlite3_column_int64(st, 0),
                          .state = sqlite3_column_int(st, 4),
                          .submitted_ms = sqlite3_column_int64(st, 6),
                          .started_ms = sqlite3_column_int64(st, 7),
                          .finished_ms = sqlite3_column_int64(st, 8),
                          .is_sweep = sqlite3_column_int(st, 11) != 0,
                          .sweep = (kd_job_id)sqlite3_column_int64(st, 12),
                          .continued = (kd_job_id)sqlite3_column_int64(st, 13),
                          .replayed = (kd_job_id)sqlite3_column_int64(st, 14),
                          .paused = sqlite3_column_int(st, 18) != 0,
                          .min_workers = (uint32_t)sqlite3_column_int64(st, 19),
                          .max_workers = (uint32_t)sqlite3_column_int64(st, 20)};
        copy(row.key, sizeof row.key, kd_sql_text(st, 1));
        copy(row.name, sizeof row.name, kd_sql_text(st, 2));
        copy(row.text_digest, sizeof row.text_digest, kd_sql_text(st, 3));
        copy(row.reason, sizeof row.reason, kd_sql_text(st, 5));
        copy(row.owner, sizeof row.owner, kd_sql_text(st, 21));
        row.resolved = kd_xstrdup(kd_sql_text(st, 9));
        row.result = take_text(st, 10);
        row.text = take_text(st, 15);
        row.label = take_text(st, 16);
        row.values = take_text(st, 17);
        kd_stage_row stages[KD_CORE_STAGES] = {0};
        kd_epoch_row *epochs = NULL;
        int n_stages = 0, n_epochs = 0;
        rc = read_stages(s, row.id, stages, &n_stages, diag);
        if (rc == 0)
            rc = read_epochs(s, row.id, &epochs, &n_epochs, diag);
        if (rc == 0)
            rc = fn(arg, &row, stages, n_stages, epochs, n_epochs);
        for (int i = 0; i < n_stages; i++)
            kd_stage_row_clear(&stages[i]);
        free(epochs);
        kd_job_row_clear(&row);
    }
    kd_sql_end(st);
    return rc;
}

int kd_state_set_job(kd_state *s, kd_job_id id, int state, const char *reason, int64_t started_ms,
                     int64_t finished_ms, const char *result, kd_diag *diag)
{
    return kd_sql_run(&s->sql, NULL, diag,
                      "UPDATE jobs SET state = ?, reason = ?, started_ms = ?, finished_ms = ?,"
                      " result = ? WHERE id = ?",
                      "isiisi", (int64_t)state, reason, started_ms, finished_ms, result,
                      (int64_t)id);
}

int kd_state_set_resolved(kd_state *s, kd_job_id id, const char *resolved, kd_diag *diag)
{
    return kd_sql_run(&s->sql, NULL, diag, "UPDATE jobs SET resolved = ? WHERE id = ?", "si",
                      resolved, (int64_t)id);
}

int kd_state_set_wishes(kd_state *s, kd_job_id id, bool paused, uint32_t min_workers,
                        uint32_t max_workers, kd_diag *diag)
{
    return kd_sql_run(&s->sql, NULL, diag,
                      "UPDATE jobs SET paused = ?, min_workers = ?, max_workers = ? WHERE id = ?",
                      "iiii", (int64_t)paused, (int64_t)min_workers, (int64_t)max_workers,
                      (int64_t)id);
}

int kd_state_set_stage(kd_state *s, kd_job_id id, uint32_t stage, const kd_stage_row *row,
                       kd_diag *diag)
{
    return put_stage(s, id, stage, row, diag);
}

int kd_state_add_epoch(kd_state *s, kd_job_id id, const kd_epoch_row *r, kd_diag *diag)
{
    size_t bytes = KD_MIN(r->n_terms, (uint32_t)KD_MAX_EPOCH_TERMS) * sizeof r->shares[0];
    return kd_sql_run(&s->sql, NULL, diag,
                      "INSERT OR REPLACE INTO evaluations(job, stage, epoch, step, train_loss,"
                      " train_accuracy, val_loss, val_correct, val_samples, val_agree, val_kl,"
                      " learning_rate, best, shares, term_losses)"
                      " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                      "iiiidddiiiddibb", (int64_t)id, (int64_t)r->stage, (int64_t)r->epoch,
                      (int64_t)r->step, r->train_loss, r->train_accuracy, r->val_loss,
                      (int64_t)r->val_correct, (int64_t)r->val_samples, (int64_t)r->val_agree,
                      r->val_kl, r->learning_rate, (int64_t)r->best, r->shares, bytes,
                      r->term_losses, bytes);
}

int kd_state_take_stage(kd_state *s, kd_job_id id, uint32_t stage, const kd_stage_row *row,
                        const kd_epoch_row *epochs, size_t n_epochs, const kd_file_row *files,
                        size_t n_files, kd_diag *diag)
{
    int rc = kd_state_begin(s, diag);
    if (rc != 0)
        return rc;
    rc = put_stage(s, id, stage, row, diag);
    for (size_t i = 0; i < n_epochs && rc == 0; i++)
        rc = kd_state_add_epoch(s, id, &epochs[i], diag);
    for (size_t i = 0; i < n_files && rc == 0; i++)
        rc = put_file(s, id, &files[i], diag);
    if (rc == 0)
        return kd_state_commit(s, diag);
    kd_state_rollback(s);
    return rc;
}

int kd_state_add_event(kd_state *s, kd_job_id id, const kd_event_row *row, kd_diag *diag)
{
    return kd_sql_run(&s->sql, NULL, diag,
                      "INSERT INTO events SELECT ?1, coalesce(max(seq), 0) + 1, ?2, ?3, ?4, ?5,"
                      " ?6, ?7 FROM events WHERE job = ?1",
                      "iisssis", (int64_t)id, row->time_ms ? row->time_ms : kd_clock_wall_ms(),
                      row->kind, row->text, row->worker, (int64_t)row->state,
                      row->data ? row->data : "");
}

int kd_state_each_event(kd_state *s, kd_job_id id, uint64_t from, int max, kd_state_event_fn fn,
                        void *arg, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&s->sql, &st, diag,
                          "SELECT seq, time_ms, kind, text, worker, state, data FROM events"
                          " WHERE job = ? AND seq >= ? ORDER BY seq LIMIT ?",
                          "iii", (int64_t)id, (int64_t)from, (int64_t)max);
    while (rc == 0 && (rc = kd_sql_step(&s->sql, st, diag)) == 1) {
        kd_event_row row = {.seq = (uint64_t)sqlite3_column_int64(st, 0),
                            .time_ms = sqlite3_column_int64(st, 1),
                            .state = sqlite3_column_int(st, 5)};
        copy(row.kind, sizeof row.kind, kd_sql_text(st, 2));
        copy(row.worker, sizeof row.worker, kd_sql_text(st, 4));
        row.text = kd_xstrdup(kd_sql_text(st, 3));
        row.data = kd_xstrdup(kd_sql_text(st, 6));
        rc = fn(arg, &row);
        free(row.text);
        free(row.data);
    }
    kd_sql_end(st);
    return rc;
}

int kd_state_event_workers(kd_state *s, kd_job_id id, const char *kind, char (*out)[65], int max,
                           kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int n = 0;
    int rc = kd_sql_query(&s->sql, &st, diag,
                          "SELECT worker FROM events WHERE job = ? AND kind = ? AND worker <> ''"
                          " GROUP BY worker ORDER BY min(seq) LIMIT ?",
                          "isi", (int64_t)id, kind, (int64_t)max);
    while (rc == 0 && n < max && (rc = kd_sql_step(&s->sql, st, diag)) == 1) {
        rc = 0;
        copy(out[n++], sizeof *out, kd_sql_text(st, 0));
    }
    kd_sql_end(st);
    return rc == 0 ? n : rc;
}

int kd_state_add_digest(kd_state *s, kd_job_id id, uint32_t stage, uint64_t version,
                        const char *digest, kd_diag *diag)
{
    return kd_sql_run(&s->sql, NULL, diag, "INSERT OR REPLACE INTO digests VALUES(?,?,?,?)", "iiis",
                      (int64_t)id, (int64_t)stage, (int64_t)version, digest);
}

int kd_state_each_digest(kd_state *s, kd_job_id id, kd_state_digest_fn fn, void *arg, kd_diag *diag)
{
    sqlite3_stmt *st = NULL;
    int rc = kd_sql_query(&s->sql, &st, diag,
                          "SELECT stage, version, digest FROM digests WHERE job = ?"
                          " ORDER BY stage, version",
                          "i", (int64_t)id);
    while (rc == 0 && (rc = kd_sql_step(&s->sql, st, diag)) == 1)
        rc = fn(arg, (uint32_t)sqlite3_column_int64(st, 0), (uint64_t)sqlite3_column_int64(st, 1),
                kd_sql_text(st, 2));
    kd_sql_end(st);
    return rc;
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

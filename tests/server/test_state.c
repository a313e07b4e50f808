/* The state folder: migrations from every format that was written, transactions, orphans. */
#include "kd_test.h"

#include "kd/file.h"
#include "state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct fixture {
    char *dir;
    kd_state state;
    kd_diag diag;
};

static void reopen(struct fixture *f)
{
    kd_state_close(&f->state);
    kd_assert_ok(kd_state_open(f->dir, &f->state, &f->diag), &f->diag);
}

static int setup(void **state)
{
    struct fixture *f = kd_xalloc(sizeof *f);
    f->dir = kd_test_mkdir();
    f->state.lock_fd = -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kd_state_close(&f->state);
    kd_test_rmdir(f->dir);
    free(f);
    return 0;
}

static int64_t number(struct fixture *f, const char *sql)
{
    sqlite3_stmt *st = NULL;
    kd_assert_ok(kd_sql_query(&f->state.sql, &st, &f->diag, sql, ""), &f->diag);
    assert_int_equal(kd_sql_step(&f->state.sql, st, &f->diag), 1);
    int64_t v = sqlite3_column_int64(st, 0);
    kd_sql_end(st);
    return v;
}

static bool there(struct fixture *f, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", f->dir, name);
    return access(path, F_OK) == 0;
}

static void put(struct fixture *f, const char *name, char *out, size_t size)
{
    snprintf(out, size, "%s/%s", f->dir, name);
    kd_assert_ok(kd_file_write(out, "x", 1, &f->diag), &f->diag);
}

/* ---- migrations */

/* The first format, with a job that has succeeded and one that was running. */
static const char g_first_format[] =
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "INSERT INTO meta VALUES('epoch', 4);"
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
    " PRIMARY KEY(job, name, stage, version)) WITHOUT ROWID;"
    "INSERT INTO jobs VALUES(1, 4660, 'k1', 'first', 'aa', 2, '', 10, 20, 30, '{\"name\":1}', "
    "'{}'),"
    " (2, 22136, 'k2', 'second', 'bb', 1, '', 11, 21, 0, '{\"name\":2}', NULL);"
    "INSERT INTO stages VALUES(4660, 0, 'distill', 1, 'dd', 'ff', x'0102', 13, 13, 2.5, 90, 7, 0.5,"
    " 3, 16), (22136, 0, 'distill', 0, '', 'ff', x'0102', 7, 7, 0, 90, 0, 1.5, 3, 16);"
    "INSERT INTO epochs VALUES(4660, 0, 1, 0.9, 0.5, 0.8, 20, 37), (4660, 0, 2, 0.7, 0.6, 0.6, 30,"
    " 37), (22136, 0, 1, 0.9, 0.5, 0.8, 20, 37);"
    "INSERT INTO events VALUES(4660, 1, 10, 'submitted', 'submitted as first', '', 0, '');"
    "INSERT INTO files VALUES(22136, '', 0, 7, '/nowhere', 5, 'ee');"
    "PRAGMA user_version = 1;";

struct seen {
    int jobs;
    kd_job_id running;
};

static int look(void *arg, const kd_job_row *row, const kd_stage_row *stages, int n_stages,
                const kd_epoch_row *epochs, int n_epochs)
{
    struct seen *s = arg;
    s->jobs++;
    assert_int_equal(n_stages, 1);
    assert_false(row->is_sweep);
    assert_int_equal(row->sweep, 0);
    assert_int_equal(row->continued, 0);
    assert_null(row->text);
    assert_null(row->label);
    assert_int_equal(stages[0].info_len, 2);
    assert_int_equal(stages[0].best_version, 0);
    assert_int_equal(stages[0].shared, 0);
    assert_int_equal(stages[0].steps_redone, 0);
    kd_assert_close(stages[0].lost_ms_all, 0, 0, 0);
    assert_false(row->paused);
    assert_int_equal(row->min_workers, 0);
    assert_int_equal(row->max_workers, 0);
    assert_null(stages[0].expected);
    if (row->state == KD_RUN_SUCCEEDED) {
        assert_int_equal(row->id, 0x1234);
        assert_string_equal(row->key, "k1");
        assert_string_equal(row->result, "{}");
        assert_string_equal(stages[0].digest, "dd");
        assert_true(stages[0].done);
        assert_int_equal(n_epochs, 2);
        assert_int_equal(epochs[1].epoch, 2);
        assert_int_equal(epochs[1].val_correct, 30);
        kd_assert_close(epochs[1].val_kl, -1, 0, 0);
        assert_int_equal(epochs[1].n_terms, 0);
    } else {
        s->running = row->id;
        assert_int_equal(stages[0].manifest, 7);
        assert_null(row->result);
        assert_int_equal(n_epochs, 1);
    }
    return 0;
}

static void test_state_opens_the_first_format(void **state)
{
    struct fixture *f = *state;
    char path[4096];
    snprintf(path, sizeof path, "%s/distilld.db", f->dir);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    char *error = NULL;
    if (sqlite3_exec(db, g_first_format, NULL, NULL, &error) != SQLITE_OK)
        fail_msg("%s", error);
    sqlite3_close(db);
    for (uint64_t epoch = 5; epoch < 7; epoch++) { /* the second time there is nothing to migrate */
        reopen(f);
        assert_int_equal(f->state.epoch, epoch);
        struct seen seen = {0};
        kd_assert_ok(kd_state_each_job(&f->state, look, &seen, &f->diag), &f->diag);
        assert_int_equal(seen.jobs, 2);
        assert_int_equal(seen.running, 0x5678);
        kd_file_row row;
        assert_int_equal(kd_state_find_checkpoint(&f->state, 0x5678, 0, 7, &row, &f->diag), 1);
        snprintf(path, sizeof path, "%s/jobs/000000005678/nowhere", f->dir);
        assert_string_equal(row.path, path);
    }
}

/* ---- everything comes back */

static kd_epoch_row an_epoch(uint32_t epoch, uint64_t step)
{
    return (kd_epoch_row){.epoch = epoch,
                          .step = step,
                          .train_loss = 0.1,
                          .val_loss = 0.2,
                          .val_correct = 3,
                          .val_samples = 5,
                          .val_agree = 4,
                          .val_kl = 0.25,
                          .learning_rate = 1e-3,
                          .best = step == 6,
                          .n_terms = 3,
                          .shares = {0.5, 0.25, 0.25},
                          .term_losses = {1, 2, 3}};
}

static int look_at_all(void *arg, const kd_job_row *row, const kd_stage_row *stages, int n_stages,
                       const kd_epoch_row *epochs, int n_epochs)
{
    int *n = arg;
    if (row->is_sweep) {
        assert_string_equal(row->text, "name: x\n");
        assert_int_equal(n_stages, 0);
        return 0;
    }
    (*n)++;
    assert_int_equal(row->sweep, 0x100);
    assert_string_equal(row->label, "seed=1");
    assert_string_equal(row->values, "{\"seed\":1}");
    assert_int_equal(row->continued, 0x77);
    assert_int_equal(row->replayed, 0x88);
    assert_int_equal(n_stages, 1);
    assert_string_equal(stages[0].best_digest, "0123");
    assert_int_equal(stages[0].best_version, 7);
    assert_int_equal(stages[0].best_epoch, 3);
    assert_int_equal(stages[0].stopped_early, 9);
    kd_assert_close(stages[0].teacher_seconds, 1.5, 0, 0);
    assert_int_equal(stages[0].shared, 0x99);
    assert_int_equal(stages[0].steps_redone, 17);
    kd_assert_close(stages[0].lost_ms_workers, 2.5, 0, 0);
    kd_assert_close(stages[0].lost_ms_all, 3.5, 0, 0);
    assert_int_equal(stages[0].expected_len, 3);
    assert_memory_equal(stages[0].expected, "abc", 3);
    assert_int_equal(n_epochs, 2);
    kd_epoch_row want = an_epoch(1, 6);
    assert_memory_equal(&epochs[1], &want, sizeof want);
    return 0;
}

static void add_sweep(struct fixture *f, kd_job_id sweep, int n_children, int *out_rc)
{
    kd_job_row rows[8] = {{.id = sweep, .is_sweep = true}};
    snprintf(rows[0].key, sizeof rows[0].key, "key%llx", (unsigned long long)sweep);
    rows[0].text = "name: x\n";
    rows[0].resolved = "{}";
    kd_stage_row stage = {.name = "distill",
                          .manifest = 1,
                          .best_digest = "0123",
                          .best_version = 7,
                          .best_epoch = 3,
                          .stopped_early = 9,
                          .teacher_seconds = 1.5,
                          .shared = 0x99,
                          .steps_redone = 17,
                          .lost_ms_workers = 2.5,
                          .lost_ms_all = 3.5,
                          .expected = (uint8_t *)"abc",
                          .expected_len = 3};
    kd_epoch_row epochs[2] = {an_epoch(1, 5), an_epoch(1, 6)};
    kd_file_row file = {.name = "teacher.safetensors", .path = "p", .size = 9};
    kd_new_job jobs[8] = {{.row = &rows[0], .event = "submitted as x"}};
    for (int i = 1; i <= n_children; i++) {
        rows[i] = (kd_job_row){.id = sweep + (kd_job_id)i,
                               .sweep = sweep,
                               .continued = 0x77,
                               .replayed = 0x88,
                               .resolved = "{}",
                               .label = "seed=1",
                               .values = "{\"seed\":1}"};
        snprintf(rows[i].key, sizeof rows[i].key, "child%llx", (unsigned long long)rows[i].id);
        jobs[i] = (kd_new_job){&rows[i], &stage, 1, epochs, 2, &file, 1, "submitted as x"};
    }
    *out_rc = kd_state_add_jobs(&f->state, jobs, (size_t)n_children + 1, &f->diag);
}

static void test_state_brings_back_every_field(void **state)
{
    struct fixture *f = *state;
    int rc, n = 0;
    reopen(f);
    add_sweep(f, 0x100, 3, &rc);
    kd_assert_ok(rc, &f->diag);
    reopen(f);
    kd_assert_ok(kd_state_each_job(&f->state, look_at_all, &n, &f->diag), &f->diag);
    assert_int_equal(n, 3);
    assert_int_equal(number(f, "SELECT count(*) FROM events WHERE kind = 'submitted'"), 4);
    kd_file_row row;
    assert_int_equal(
        kd_state_find_artefact(&f->state, 0x102, "teacher.safetensors", "-", &row, &f->diag), 1);
}

static void test_state_adds_all_jobs_or_none(void **state)
{
    struct fixture *f = *state;
    int rc;
    reopen(f);
    add_sweep(f, 0x102, 0, &rc); /* takes an id that the sweep's second child wants */
    kd_assert_ok(rc, &f->diag);
    add_sweep(f, 0x100, 3, &rc);
    assert_int_equal(rc, -KD_EEXIST);
    assert_int_equal(number(f, "SELECT count(*) FROM jobs"), 1);
    assert_int_equal(number(f, "SELECT count(*) FROM stages"), 0);
    assert_int_equal(number(f, "SELECT count(*) FROM events"), 1);
    add_sweep(f, 0x200, 3, &rc); /* and the database goes on */
    kd_assert_ok(rc, &f->diag);
}

static void test_state_removes_all_jobs_and_their_folders(void **state)
{
    struct fixture *f = *state;
    int rc;
    char path[4096];
    reopen(f);
    add_sweep(f, 0x100, 3, &rc);
    kd_assert_ok(rc, &f->diag);
    snprintf(path, sizeof path, "%s/jobs/000000000101", f->dir);
    kd_assert_ok(kd_file_mkdirs(path, &f->diag), &f->diag);
    kd_assert_ok(kd_state_add_digest(&f->state, 0x101, 0, 7, "dd", &f->diag), &f->diag);
    uint64_t freed = 0;
    const kd_job_id ids[] = {0x100, 0x101, 0x102, 0x103};
    kd_assert_ok(kd_state_remove_jobs(&f->state, ids, 4, &freed, &f->diag), &f->diag);
    assert_int_equal(freed, 27);
    static const char *const counts[] = {
        "SELECT count(*) FROM jobs",   "SELECT count(*) FROM stages",
        "SELECT count(*) FROM events", "SELECT count(*) FROM evaluations",
        "SELECT count(*) FROM files",  "SELECT count(*) FROM digests"};
    for (size_t i = 0; i < KD_COUNT(counts); i++)
        assert_int_equal(number(f, counts[i]), 0);
    assert_false(there(f, "jobs/000000000101"));
}

/* ---- crashes between the database and the folders */

static void test_state_drops_folders_that_no_job_names(void **state)
{
    struct fixture *f = *state;
    int rc;
    char path[4096];
    reopen(f);
    add_sweep(f, 0x100, 1, &rc);
    kd_assert_ok(rc, &f->diag);
    static const char *const folders[] = {"jobs/000000000101", "jobs/0000000001ff", "jobs/mine"};
    for (size_t i = 0; i < KD_COUNT(folders); i++) {
        snprintf(path, sizeof path, "%s/%s", f->dir, folders[i]);
        kd_assert_ok(kd_file_mkdirs(path, &f->diag), &f->diag);
    }
    put(f, "jobs/0000000001ff/teacher.safetensors", path, sizeof path);
    put(f, "jobs/000000000101/result.json.tmp-a1B2c3", path, sizeof path);
    put(f, "jobs/000000000101/result.json", path, sizeof path);
    put(f, "blobs/0123.tmp-a1B2c3", path, sizeof path);
    reopen(f);
    assert_false(there(f, "jobs/000000000101/result.json.tmp-a1B2c3"));
    assert_true(there(f, "jobs/000000000101/result.json"));
    assert_false(there(f, "blobs/0123.tmp-a1B2c3"));
    assert_true(there(f, "jobs/000000000101"));
    assert_false(there(f, "jobs/0000000001ff"));
    assert_true(there(f, "jobs/mine")); /* not a name of ours */
}

static void test_state_unlinks_checkpoints_after_the_commit(void **state)
{
    struct fixture *f = *state;
    char old[4096], kept[4096];
    reopen(f);
    put(f, "old", old, sizeof old);
    put(f, "kept", kept, sizeof kept);
    kd_assert_ok(kd_state_add_file(&f->state, 1, "", 0, 3, old, 1, "aa", &f->diag), &f->diag);
    kd_assert_ok(kd_state_add_file(&f->state, 1, "", 0, 7, kept, 1, "aa", &f->diag), &f->diag);

    kd_assert_ok(kd_state_begin(&f->state, &f->diag), &f->diag);
    kd_assert_ok(kd_state_drop_checkpoints(&f->state, 1, 0, 7, 0, 0, &f->diag), &f->diag);
    assert_true(there(f, "old"));
    kd_state_rollback(&f->state);
    assert_true(there(f, "old"));
    kd_file_row row;
    assert_int_equal(kd_state_find_checkpoint(&f->state, 1, 0, 3, &row, &f->diag), 1);

    kd_assert_ok(kd_state_begin(&f->state, &f->diag), &f->diag);
    kd_assert_ok(kd_state_drop_checkpoints(&f->state, 1, 0, 7, 0, 0, &f->diag), &f->diag);
    assert_true(there(f, "old"));
    kd_assert_ok(kd_state_commit(&f->state, &f->diag), &f->diag);
    assert_false(there(f, "old"));
    assert_true(there(f, "kept"));
    assert_int_equal(kd_state_find_checkpoint(&f->state, 1, 0, 3, &row, &f->diag), 0);
    assert_int_equal(kd_state_find_checkpoint(&f->state, 1, 0, 7, &row, &f->diag), 1);
}

static void test_state_may_be_moved(void **state)
{
    struct fixture *f = *state;
    char path[4096], want[4096];
    kd_file_row row;
    reopen(f);
    snprintf(path, sizeof path, "%s/jobs/000000000001/a.json", f->dir);
    kd_assert_ok(kd_state_add_file(&f->state, 1, "a.json", 0, 0, path, 1, "aa", &f->diag),
                 &f->diag);
    assert_int_equal(kd_state_find_artefact(&f->state, 1, "a.json", "-", &row, &f->diag), 1);
    assert_string_equal(row.path, path);
    kd_state_close(&f->state);
    snprintf(path, sizeof path, "%s-moved", f->dir);
    assert_int_equal(rename(f->dir, path), 0);
    kd_assert_ok(kd_state_open(path, &f->state, &f->diag), &f->diag);
    assert_int_equal(kd_state_find_artefact(&f->state, 1, "a.json", "-", &row, &f->diag), 1);
    snprintf(want, sizeof want, "%.3000s/jobs/000000000001/a.json", path);
    assert_string_equal(row.path, want);
    kd_state_close(&f->state);
    assert_int_equal(rename(path, f->dir), 0);
    reopen(f);
}

static void test_state_keeps_two_checkpoints(void **state)
{
    struct fixture *f = *state;
    static const uint64_t versions[] = {3, 5, 7, 9, 11};
    char path[4096];
    reopen(f);
    for (size_t i = 0; i < KD_COUNT(versions); i++) {
        char name[32];
        snprintf(name, sizeof name, "v%llu", (unsigned long long)versions[i]);
        put(f, name, path, sizeof path);
        kd_assert_ok(kd_state_add_file(&f->state, 1, "", 2, versions[i], path, 1, "aa", &f->diag),
                     &f->diag);
    }
    kd_assert_ok(kd_state_add_file(&f->state, 1, "", 1, 3, "/other", 1, "aa", &f->diag), &f->diag);
    kd_assert_ok(kd_state_add_file(&f->state, 1, "a.json", 2, 0, "/a", 1, "aa", &f->diag),
                 &f->diag);
    kd_assert_ok(kd_state_keep_checkpoints(&f->state, 1, 2, 9, 5, &f->diag), &f->diag);
    for (size_t i = 0; i < KD_COUNT(versions); i++) {
        kd_file_row row;
        char name[32];
        snprintf(name, sizeof name, "v%llu", (unsigned long long)versions[i]);
        bool kept = versions[i] == 5 || versions[i] == 9;
        assert_int_equal(there(f, name), kept);
        assert_int_equal(kd_state_find_checkpoint(&f->state, 1, 2, versions[i], &row, &f->diag),
                         kept);
    }
    assert_int_equal(number(f, "SELECT count(*) FROM files"), 4); /* artefact, other stage */
}

static void test_state_takes_a_stage_over(void **state)
{
    struct fixture *f = *state;
    int rc;
    reopen(f);
    add_sweep(f, 0x100, 1, &rc);
    kd_assert_ok(rc, &f->diag);
    kd_stage_row row = {.name = "distill", .done = true, .digest = "dd", .shared = 0x55};
    kd_epoch_row epochs[] = {an_epoch(2, 12)};
    kd_file_row file = {.path = "q", .version = 13, .size = 4, .digest = "cc"};
    kd_assert_ok(kd_state_take_stage(&f->state, 0x101, 0, &row, epochs, 1, &file, 1, &f->diag),
                 &f->diag);
    assert_int_equal(number(f, "SELECT done FROM stages WHERE job = 257"), 1);
    assert_int_equal(number(f, "SELECT shared FROM stages WHERE job = 257"), 0x55);
    assert_int_equal(number(f, "SELECT count(*) FROM evaluations WHERE job = 257"), 3);
    kd_file_row found;
    assert_int_equal(kd_state_find_checkpoint(&f->state, 0x101, 0, 13, &found, &f->diag), 1);
    assert_string_equal(found.digest, "cc");
}

/* ---- what users want, what is known of a run */

struct wishes {
    kd_job_id job;
    bool paused;
    uint32_t min, max;
    int seen;
};

static int look_at_wishes(void *arg, const kd_job_row *row, const kd_stage_row *stages,
                          int n_stages, const kd_epoch_row *epochs, int n_epochs)
{
    struct wishes *w = arg;
    (void)stages;
    (void)n_stages;
    (void)epochs;
    (void)n_epochs;
    bool it = row->id == w->job;
    assert_int_equal(row->paused, it && w->paused);
    assert_int_equal(row->min_workers, it ? w->min : 0);
    assert_int_equal(row->max_workers, it ? w->max : 0);
    w->seen += it;
    return 0;
}

static void test_state_keeps_pauses_and_scales(void **state)
{
    struct fixture *f = *state;
    int rc;
    reopen(f);
    add_sweep(f, 0x100, 2, &rc);
    kd_assert_ok(rc, &f->diag);
    struct wishes w = {.job = 0x102, .paused = true, .min = 2, .max = 4000};
    kd_assert_ok(kd_state_set_wishes(&f->state, 0x102, true, 2, 4000, &f->diag), &f->diag);
    /* Another change of the job leaves them alone. */
    kd_assert_ok(kd_state_set_job(&f->state, 0x102, KD_RUN_RUNNING, "", 5, 0, NULL, &f->diag),
                 &f->diag);
    reopen(f);
    kd_assert_ok(kd_state_each_job(&f->state, look_at_wishes, &w, &f->diag), &f->diag);
    assert_int_equal(w.seen, 1);
    w.paused = false;
    kd_assert_ok(kd_state_set_wishes(&f->state, 0x102, false, 2, 4000, &f->diag), &f->diag);
    reopen(f);
    kd_assert_ok(kd_state_each_job(&f->state, look_at_wishes, &w, &f->diag), &f->diag);
    assert_int_equal(w.seen, 2);
}

static void put_event(struct fixture *f, const char *kind, const char *worker)
{
    kd_event_row row = {.text = (char *)"x"};
    snprintf(row.kind, sizeof row.kind, "%s", kind);
    snprintf(row.worker, sizeof row.worker, "%s", worker);
    kd_assert_ok(kd_state_add_event(&f->state, 0x101, &row, &f->diag), &f->diag);
}

static void test_state_names_workers_of_events(void **state)
{
    struct fixture *f = *state;
    char names[4][65];
    reopen(f);
    static const char *const slow[] = {"z", "a", "z", "", "b", "c"};
    for (size_t i = 0; i < KD_COUNT(slow); i++)
        put_event(f, "slow", slow[i]);
    put_event(f, "quarantine", "q");
    assert_int_equal(kd_state_event_workers(&f->state, 0x101, "slow", names, 4, &f->diag), 4);
    static const char *const want[] = {"z", "a", "b", "c"};
    for (size_t i = 0; i < KD_COUNT(want); i++)
        assert_string_equal(names[i], want[i]);
    assert_int_equal(kd_state_event_workers(&f->state, 0x101, "slow", names, 2, &f->diag), 2);
    assert_int_equal(kd_state_event_workers(&f->state, 0x101, "quarantine", names, 4, &f->diag), 1);
    assert_string_equal(names[0], "q");
    assert_int_equal(kd_state_event_workers(&f->state, 0x999, "slow", names, 4, &f->diag), 0);
}

static int add_up(void *arg, uint32_t stage, uint64_t version, const char *digest)
{
    char *text = arg;
    size_t n = strlen(text);
    snprintf(text + n, 128 - n, "%u:%llu=%s ", stage, (unsigned long long)version, digest);
    return 0;
}

static void test_state_keeps_digests_of_versions(void **state)
{
    struct fixture *f = *state;
    char text[128] = "";
    reopen(f);
    static const struct {
        kd_job_id job;
        uint32_t stage;
        uint64_t version;
        const char *digest;
    } rows[] = {{1, 1, 4, "c"}, {1, 0, 10, "b"}, {1, 0, 7, "old"}, {2, 0, 7, "x"}, {1, 0, 7, "a"}};
    for (size_t i = 0; i < KD_COUNT(rows); i++)
        kd_assert_ok(kd_state_add_digest(&f->state, rows[i].job, rows[i].stage, rows[i].version,
                                         rows[i].digest, &f->diag),
                     &f->diag);
    reopen(f);
    kd_assert_ok(kd_state_each_digest(&f->state, 1, add_up, text, &f->diag), &f->diag);
    assert_string_equal(text, "0:7=a 0:10=b 1:4=c ");
}

/* ---- what of a job that is over can go */

static void test_state_drops_what_was_passing(void **state)
{
    struct fixture *f = *state;
    uint64_t checkpoints, events, after;
    int rc;
    reopen(f);
    add_sweep(f, 0x100, 1, &rc);
    kd_assert_ok(rc, &f->diag);
    int64_t said = number(f, "SELECT count(*) FROM events WHERE job = 257");
    static const char *const kinds[] = {"epoch", "slow", "log", "finished", "warning", "dropped"};
    for (size_t i = 0; i < KD_COUNT(kinds); i++)
        put_event(f, kinds[i], "w");
    kd_assert_ok(kd_state_sum_job(&f->state, 0x101, &checkpoints, &events, &f->diag), &f->diag);
    assert_true(events > 100);
    kd_assert_ok(kd_state_drop_events(&f->state, 0x101, &f->diag), &f->diag);
    kd_assert_ok(kd_state_sum_job(&f->state, 0x101, &checkpoints, &after, &f->diag), &f->diag);
    assert_int_equal(after, 0);
    assert_int_equal(number(f, "SELECT count(*) FROM events WHERE job = 257"), said + 3);
    /* Numbers go on from where they were. */
    put_event(f, "dropped", "");
    assert_int_equal(number(f, "SELECT max(seq) FROM events WHERE job = 257"), said + 7);
}

static void test_state_drops_checkpoints_of_a_job(void **state)
{
    struct fixture *f = *state;
    uint64_t checkpoints, events;
    char path[4096];
    int rc;
    reopen(f);
    add_sweep(f, 0x100, 1, &rc);
    kd_assert_ok(rc, &f->diag);
    kd_state_close(&f->state);
    snprintf(path, sizeof path, "%s/jobs/000000000101", f->dir);
    kd_assert_ok(kd_file_mkdirs(path, &f->diag), &f->diag);
    /* Named by rows, by none, and no checkpoint. */
    put(f, "jobs/000000000101/stage0-version9.safetensors", path, sizeof path);
    reopen(f);
    assert_false(there(f, "jobs/000000000101/stage0-version9.safetensors"));
    put(f, "jobs/000000000101/stage0-version9.safetensors", path, sizeof path);
    kd_assert_ok(kd_state_add_file(&f->state, 0x101, "", 0, 9, path, 1, "dd", &f->diag), &f->diag);
    put(f, "jobs/000000000101/stage0-version7.safetensors", path, sizeof path);
    put(f, "jobs/000000000101/stage0-version7.safetensors.txt", path, sizeof path);
    put(f, "jobs/000000000101/student.safetensors", path, sizeof path);
    reopen(f);
    assert_true(there(f, "jobs/000000000101/stage0-version9.safetensors"));
    assert_false(there(f, "jobs/000000000101/stage0-version7.safetensors"));
    assert_true(there(f, "jobs/000000000101/stage0-version7.safetensors.txt"));
    kd_assert_ok(kd_state_sum_job(&f->state, 0x101, &checkpoints, &events, &f->diag), &f->diag);
    assert_true(checkpoints >= 1);
    kd_assert_ok(kd_state_drop_job_checkpoints(&f->state, 0x101, &f->diag), &f->diag);
    kd_assert_ok(kd_state_sum_job(&f->state, 0x101, &checkpoints, &events, &f->diag), &f->diag);
    assert_int_equal(checkpoints, 0);
    assert_false(there(f, "jobs/000000000101/stage0-version9.safetensors"));
    assert_true(there(f, "jobs/000000000101/student.safetensors"));
}

static void test_state_keeps_settings(void **state)
{
    struct fixture *f = *state;
    reopen(f);
    kd_assert_ok(kd_state_set_setting(&f->state, "keep_logs", "3d", &f->diag), &f->diag);
    kd_assert_ok(kd_state_set_setting(&f->state, "keep_logs", "4d", &f->diag), &f->diag);
    kd_assert_ok(kd_state_set_setting(&f->state, "keep_banks", "1s", &f->diag), &f->diag);
    kd_assert_ok(kd_state_set_setting(&f->state, "keep_banks", NULL, &f->diag), &f->diag);
    reopen(f);
    assert_int_equal(number(f, "SELECT count(*) FROM settings WHERE value = '4d'"), 1);
    assert_int_equal(number(f, "SELECT count(*) FROM settings"), 1);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_state_opens_the_first_format),
        TEST(test_state_brings_back_every_field),
        TEST(test_state_adds_all_jobs_or_none),
        TEST(test_state_removes_all_jobs_and_their_folders),
        TEST(test_state_drops_folders_that_no_job_names),
        TEST(test_state_unlinks_checkpoints_after_the_commit),
        TEST(test_state_may_be_moved),
        TEST(test_state_keeps_two_checkpoints),
        TEST(test_state_takes_a_stage_over),
        TEST(test_state_keeps_pauses_and_scales),
        TEST(test_state_names_workers_of_events),
        TEST(test_state_keeps_digests_of_versions),
        TEST(test_state_drops_what_was_passing),
        TEST(test_state_drops_checkpoints_of_a_job),
        TEST(test_state_keeps_settings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Rows of jobs: themselves, their stages and evaluations, events, and digests to compare with. */
#include "state.h"

#include "kd/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    s->events++;
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

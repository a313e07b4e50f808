/* Checkpoints: written beside the steps on libuv's pool, one at a time a stage; read back with
 * their digest checked. */
#include "daemon.h"

#include "kd/failpoint.h"
#include "kd/file.h"
#include "kd/log.h"
#include "store/safetensors.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WAITING 4
#define RETRY_MS 1000        /* until a full disk is tried again */
#define END_BYTES (1u << 20) /* what a stage stores at its end beside networks */

/* One that waits to be written, or is being written. */
struct checkpoint {
    struct checkpoint *next; /* in its stage's queue */
    kd_job_id job;
    uint32_t stage;
    uint64_t generation, version;
    kd_exchange_snapshot snap;
    uint32_t vectors;
    uv_work_t work;
    kd_daemon *daemon;
    char folder[4096], path[4096];
    char digest[33]; /* of the file */
    char version_digest[33];
    uint64_t floats, size;
    bool may_be_last; /* networks are made of it */
    kd_time_ms began;
    kd_step_totals sums;
    kd_diag diag;
    int rc;
};

static void set_paths(const kd_daemon *d, struct checkpoint *n)
{
    char id[KD_ID_TEXT];
    kd_id_text(n->job, id);
    snprintf(n->folder, sizeof n->folder, "%.3000s/jobs/%s", d->state.dir, id);
    snprintf(n->path, sizeof n->path, "%.3500s/stage%u-version%llu.safetensors", n->folder,
             n->stage, (unsigned long long)n->version);
}

/* On libuv's pool. */
static void write_checkpoint(uv_work_t *work)
{
    struct checkpoint *n = work->data;
    kd_st_item items[1 + KD_MAX_STATE_VECTORS];
    static const char *const names[] = {"vector", "state.0", "state.1", "state.2"};
    uint64_t floats = n->floats;
    size_t count = 0;
    items[count++] = (kd_st_item){
        .name = names[0], .ndim = 1, .shape = {(int64_t)floats}, .data = n->snap.vector};
    for (uint32_t v = 0; v < n->vectors; v++, count++)
        items[count] = (kd_st_item){.name = names[count],
                                    .ndim = 1,
                                    .shape = {(int64_t)floats},
                                    .data = n->snap.state + (size_t)v * floats};
    char version[24], stage[16], id[KD_ID_TEXT];
    snprintf(version, sizeof version, "%llu", (unsigned long long)n->version);
    snprintf(stage, sizeof stage, "%u", n->stage);
    kd_id_text(n->job, id);
    kd_st_pair meta[] = {
        {"format", "distilld-checkpoint-1"}, {"job", id}, {"stage", stage}, {"version", version}};
    kd_buf buf;
    kd_buf_init(&buf, (size_t)1 << 33);
    /* A stage must not end without room for what it makes: the networks of its last and its best
     * version. */
    uint64_t after = n->may_be_last ? 2 * floats * sizeof(float) + END_BYTES : 0;
    n->rc =
        kd_file_need_room(n->folder, after, (1 + n->vectors) * floats * sizeof(float), &n->diag);
    if (n->rc == 0 && KD_FAILPOINT_FAILS("checkpoint.write"))
        n->rc = kd_fail(&n->diag, errno == ENOSPC ? -KD_ELIMIT : -KD_EIO, "cannot write %s: %s",
                        n->path, strerror(errno));
    if (n->rc == 0)
        n->rc = kd_st_pack(items, count, meta, KD_COUNT(meta), &buf, &n->diag);
    if (n->rc == 0)
        n->rc = kd_file_write(n->path, buf.data, buf.len, &n->diag);
    if (n->rc == 0) {
        kd_digest digest = kd_digest_of(buf.data, buf.len);
        kd_digest_hex(&digest, n->digest);
        n->size = buf.len;
        /* The file names its job; two runs of one job are compared by what it holds. */
        kd_hasher *h = kd_hasher_new();
        KD_BUG_ON(!h);
        for (size_t i = 0; i < count; i++)
            kd_hasher_add(h, items[i].data, floats * sizeof(float));
        digest = kd_hasher_digest(h);
        kd_digest_hex(&digest, n->version_digest);
        kd_hasher_free(h);
    }
    kd_buf_clear(&buf);
}

static void free_checkpoint(struct checkpoint *n)
{
    free(n->snap.vector);
    free(n->snap.state);
    free(n);
}

static void checkpoint_written(uv_work_t *work, int status);

/* One write at a time a stage, in order of versions: what a later one finds done is done. */
static void start_write(kd_daemon *d, kd_job_record *j, kd_stage_record *s)
{
    struct checkpoint *n = s->writes;
    s->writing = n != NULL;
    if (!n)
        return;
    s->writes = n->next;
    n->work.data = n;
    n->began = kd_clock_ms();
    j->saving = true;
    d->writes_running++;
    KD_BUG_ON(uv_queue_work(&d->loop, &n->work, write_checkpoint, checkpoint_written) != 0);
}

void kd_checkpoint_drop_waiting(kd_stage_record *s)
{
    for (struct checkpoint *n = s->writes, *next; n; n = next) {
        next = n->next;
        free_checkpoint(n);
    }
    s->writes = NULL;
    s->write_at = 0;
}

/* A version could not be saved. Without its last one a stage cannot end: say why instead of waiting
 * for ever. */
static void lose(kd_daemon *d, kd_job_record *j, kd_stage_record *s, uint64_t version,
                 const char *why)
{
    s->lost = version;
    kd_watch_event(d, j, "warning", "", NULL, "checkpoint of step %llu failed: %s",
                   (unsigned long long)version - 1, why);
    if (version == kd_stage_last_version(s))
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_FAIL,
                                       .job = j->row.id,
                                       .text = "the final parameters could not be saved"});
}

/* The disk is full: the write is tried again, and no sum leaves meanwhile, so that no more of them
 * gather. */
/* Versions that wait to be written are kept in memory: past so many no sum leaves. */
static void bound_waiting(kd_stage_record *s)
{
    size_t n = s->writing;
    for (const struct checkpoint *c = s->writes; c; c = c->next)
        n++;
    if (s->exchange)
        kd_exchange_hold(s->exchange, s->no_room[0] || n >= MAX_WAITING);
}

static void wait_for_room(kd_daemon *d, kd_job_record *j, kd_stage_record *s, struct checkpoint *n)
{
    bool told = s->no_room[0] != '\0';
    snprintf(s->no_room, sizeof s->no_room, "checkpoint of step %llu: %.340s",
             (unsigned long long)n->version - 1, n->diag.msg);
    n->next = s->writes;
    s->writes = n;
    s->write_at = kd_clock_ms() + RETRY_MS;
    n->diag = (kd_diag){0};
    if (told)
        return;
    bound_waiting(s);
    kd_stage_tell_blocked(d, j, n->stage);
}

static void has_room(kd_daemon *d, kd_job_record *j, kd_stage_record *s, uint32_t stage)
{
    if (!s->no_room[0])
        return;
    s->no_room[0] = '\0';
    bound_waiting(s);
    kd_stage_tell_blocked(d, j, stage);
}

void kd_checkpoint_tick(kd_daemon *d, kd_job_record *j, kd_stage_record *s, kd_time_ms now)
{
    if (!s->write_at || now < s->write_at || s->writing || !s->exchange || d->stopping)
        return;
    s->write_at = 0;
    start_write(d, j, s);
}

static void checkpoint_written(uv_work_t *work, int status)
{
    struct checkpoint *n = work->data;
    kd_daemon *d = n->daemon;
    kd_job_record *j;
    kd_stage_record *s = kd_stage_record_of(d, n->job, n->stage, &j);
    d->writes_running--;
    if (status != 0 && n->rc == 0)
        n->rc = kd_fail(&n->diag, -KD_EINTERNAL, "the write was not run: %s", uv_strerror(status));
    if (j)
        j->saving = false;
    if (s)
        s->writing = false;
    if (!s || !s->exchange || n->generation != s->generation) {
        /* It may have been written before, in another generation. */
        kd_file_row row;
        if (kd_state_find_checkpoint(&d->state, n->job, n->stage, n->version, &row, &n->diag) == 0)
            remove(n->path);
    } else if (n->rc == -KD_ELIMIT) {
        wait_for_room(d, j, s, n);
        return;
    } else if (n->rc != 0) {
        has_room(d, j, s, n->stage);
        lose(d, j, s, n->version, n->diag.msg);
    } else {
        has_room(d, j, s, n->stage);
        KD_FAILPOINT("checkpoint.named");
        if (kd_state_begin(&d->state, &n->diag) != 0 ||
            kd_state_add_file(&d->state, n->job, "", n->stage, n->version, n->path, n->size,
                              n->digest, &n->diag) != 0 ||
            kd_state_add_digest(&d->state, n->job, n->stage, n->version, n->version_digest,
                                &n->diag) != 0 ||
            kd_state_commit(&d->state, &n->diag) != 0)
            kd_daemon_fatal(d, &n->diag);
        d->counts.checkpoints++;
        kd_histogram_add(&d->counts.checkpoint_seconds, (double)(kd_clock_ms() - n->began) / 1000);
        s->pending_sums = n->sums;
        kd_bank_sync(d->bank);
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_SAVED,
                                       .job = n->job,
                                       .stage = n->stage,
                                       .generation = n->generation,
                                       .version = n->version});
    }
    free_checkpoint(n);
    /* What was saved may have ended the stage, or the job. */
    if (s && s->exchange && !s->writing)
        start_write(d, j, s);
    if (s)
        bound_waiting(s);
}

static void loop_snapshot(kd_daemon *d, void *arg)
{
    struct checkpoint *n = arg;
    kd_job_record *j;
    kd_stage_record *s = kd_stage_record_of(d, n->job, n->stage, &j);
    bool wanted = s && s->exchange && s->info && n->generation == s->generation;
    if (!wanted || !n->snap.vector) {
        if (wanted)
            lose(d, j, s, n->version, "no memory for it");
        free_checkpoint(n);
        return;
    }
    n->daemon = d;
    n->sums = s->sums;
    n->floats = kd_stage_vector_floats(s->info);
    n->vectors = n->snap.state ? s->info->optimizer_vectors : 0;
    n->may_be_last = n->version == kd_stage_last_version(s) ||
                     (n->version - 1) % kd_stage_eval_steps(s->info) == 0;
    set_paths(d, n);
    struct checkpoint **end = (struct checkpoint **)&s->writes;
    while (*end)
        end = &(*end)->next;
    *end = n;
    if (!s->writing && !s->write_at)
        start_write(d, j, s);
    bound_waiting(s);
}

void kd_checkpoint_snapshot(void *arg, kd_exchange_snapshot *snap)
{
    struct checkpoint *n = kd_xalloc(sizeof *n);
    n->job = snap->job;
    n->stage = snap->stage;
    n->generation = snap->generation;
    n->version = snap->version;
    n->snap = *snap;
    if (!kd_daemon_post(arg, loop_snapshot, n))
        free_checkpoint(n);
}

int kd_checkpoint_read(const void *data, size_t len, const char *name, size_t floats,
                       uint32_t vectors, float **out_vector, float **out_state, kd_diag *diag)
{
    kd_st_file *f = NULL;
    size_t bytes, all;
    if (!kd_mul_size(floats, sizeof(float), &bytes) || !kd_mul_size(bytes, vectors, &all))
        return kd_fail(diag, -KD_ELIMIT, "%zu floats are too many for a checkpoint", floats);
    int rc = kd_st_open_memory(data, len, name, &f, diag);
    if (rc != 0)
        return rc;
    const kd_st_tensor *t = kd_st_find(f, "vector");
    if (!t || t->bytes != bytes)
        rc = kd_fail(diag, -KD_EDATA, "checkpoint %s has no vector of %zu floats", name, floats);
    float *vector = NULL, *state = NULL;
    if (rc == 0) {
        vector = malloc(bytes);
        state = vectors ? malloc(all) : NULL;
        if (!vector || (vectors && !state))
            rc = kd_fail(diag, -KD_ENOMEM, "no memory for a checkpoint of %zu floats", floats);
    }
    if (rc == 0)
        memcpy(vector, t->data, bytes);
    for (uint32_t v = 0; rc == 0 && v < vectors; v++) {
        char key[32];
        snprintf(key, sizeof key, "state.%u", v);
        t = kd_st_find(f, key);
        if (!t || t->bytes != bytes)
            rc = kd_fail(diag, -KD_EDATA, "checkpoint %s has no optimiser state %u", name, v);
        else
            memcpy(state + v * floats, t->data, bytes);
    }
    kd_st_close(f);
    if (rc != 0) {
        free(vector);
        free(state);
        return rc;
    }
    *out_vector = vector;
    *out_state = state;
    return 0;
}

int kd_stage_load_checkpoint(kd_daemon *d, kd_job_record *j, uint32_t stage, uint64_t version,
                             float **out_vector, float **out_state, kd_diag *diag)
{
    const Distill__V1__StageInfo *info = j->stages[stage].info;
    kd_file_row row;
    int rc = kd_state_find_checkpoint(&d->state, j->row.id, stage, version, &row, diag);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return kd_fail(diag, -KD_ENOENT, "no checkpoint of version %llu is stored",
                       (unsigned long long)version);
    char *data = NULL;
    size_t len = 0;
    rc = kd_file_read(row.path, (size_t)1 << 34, &data, &len, diag);
    if (rc != 0)
        return rc;
    kd_digest digest = kd_digest_of(data, len);
    char hex[KD_DIGEST_HEX];
    kd_digest_hex(&digest, hex);
    if (strcmp(hex, row.digest) != 0)
        rc = kd_fail(diag, -KD_EDATA, "checkpoint %s is damaged: its digest is %s, %s was stored",
                     row.path, hex, row.digest);
    else
        rc = kd_checkpoint_read(data, len, row.path, (size_t)kd_stage_vector_floats(info),
                                info->optimizer_vectors, out_vector, out_state, diag);
    free(data);
    return rc;
}

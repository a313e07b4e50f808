/* Service Jobs: what clients call. Every call is carried to the loop and answered there. */
#include "daemon.h"

#include "kd/file.h"
#include "kd/hash.h"
#include "kd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_JOBS 10000 /* stored at once; finished ones are removed with `distill rm` */
#define MAX_NOTES 8

struct job_call {
    kd_rpc_call *call;
    ProtobufCMessage *m;
    uint8_t *payload; /* of Upload */
    size_t payload_len;
    void (*handle)(kd_daemon *d, struct job_call *c);
};

static void free_call(struct job_call *c)
{
    kd_rpc_call_unref(c->call);
    kd_wire_free(c->m);
    free(c->payload);
    free(c);
}

static void loop_call(kd_daemon *d, void *arg)
{
    struct job_call *c = arg;
    c->handle(d, c);
    free_call(c);
}

static void post(kd_daemon *d, kd_rpc_call *call, ProtobufCMessage *m, const uint8_t *payload,
                 size_t payload_len, void (*handle)(kd_daemon *, struct job_call *))
{
    struct job_call *c = kd_xalloc(sizeof *c);
    c->call = kd_rpc_call_ref(call);
    c->m = m;
    c->handle = handle;
    if (payload_len) {
        c->payload = malloc(payload_len);
        if (c->payload)
            memcpy(c->payload, payload, payload_len);
        c->payload_len = c->payload ? payload_len : 0;
    }
    if (!kd_daemon_post(d, loop_call, c)) {
        kd_rpc_finish(call, -KD_EUNAVAIL, "the coordinator is stopping");
        free_call(c);
    }
}

/* ---- finding jobs */

static kd_job_record *find_job(kd_daemon *d, kd_rpc_call *call, const char *text)
{
    size_t n = strlen(text);
    kd_job_record *found = NULL;
    char id[KD_ID_TEXT], message[256];
    for (kd_job_record *j = d->jobs; j && n >= 4; j = j->next) {
        kd_id_text(j->row.id, id);
        if (n > KD_ID_TEXT - 1 || strncmp(id, text, n) != 0)
            continue;
        if (found) {
            snprintf(message, sizeof message,
                     "more than one job begins with %.12s; give more digits", text);
            kd_rpc_finish(call, -KD_EINVAL, message);
            return NULL;
        }
        found = j;
    }
    if (!found) {
        snprintf(message, sizeof message,
                 "no job %.64s here; a job is named by its id or the first digits of it, at least "
                 "4 (`distill jobs` lists them)",
                 text);
        kd_rpc_finish(call, -KD_ENOENT, message);
    }
    return found;
}

struct summary {
    Distill__V1__JobSummary m;
    Distill__V1__Progress progress;
    char id[KD_ID_TEXT], reason[KD_CORE_TEXT];
};

static void summarise(kd_daemon *d, kd_job_record *j, struct summary *s)
{
    distill__v1__job_summary__init(&s->m);
    kd_id_text(j->row.id, s->id);
    snprintf(s->reason, sizeof s->reason, "%s", j->row.reason);
    s->m.job = s->id;
    s->m.name = j->row.name;
    s->m.state = (Distill__V1__JobState)(j->row.state + 1);
    s->m.reason = s->reason;
    s->m.submitted_ms = j->row.submitted_ms;
    s->m.started_ms = j->row.started_ms;
    s->m.finished_ms = j->row.finished_ms;
    if (kd_watch_progress(d, j, &s->progress))
        s->m.progress = &s->progress;
}

/* ---- submit and upload */

static void blob_file(const kd_daemon *d, const char *digest, bool part, char *out, size_t size)
{
    snprintf(out, size, "%s/blobs/%s%s", d->state.dir, digest, part ? ".part" : "");
}

/* Every local file that the job names must have been uploaded; its digest goes into the job. */
static int bind_blobs(kd_daemon *d, const Distill__V1__SubmitRequest *r, kd_job *job, kd_diag *diag)
{
    kd_model_spec *models[] = {&job->teachers[0].model, &job->student};
    for (size_t i = 0; i < KD_COUNT(models); i++) {
        kd_model_spec *m = models[i];
        if (!m->weights[0])
            continue;
        for (size_t k = 0; k < r->n_blobs; k++)
            if (strcmp(r->blobs[k]->path, m->weights) == 0)
                snprintf(m->weights_digest, sizeof m->weights_digest, "%s", r->blobs[k]->digest);
        kd_digest digest;
        char path[4200];
        if (!kd_digest_parse(m->weights_digest, &digest))
            return kd_fail(diag, -KD_ESTATE, "the file %.200s was not uploaded with the job",
                           m->weights);
        blob_file(d, m->weights_digest, false, path, sizeof path);
        if (access(path, R_OK) != 0)
            return kd_fail(diag, -KD_ESTATE, "upload %.200s first: no file with digest %s is here",
                           m->weights, m->weights_digest);
    }
    return 0;
}

static kd_digest text_digest(const Distill__V1__SubmitRequest *r)
{
    kd_hasher *h = kd_hasher_new();
    KD_BUG_ON(!h);
    kd_hasher_add(h, r->text, strlen(r->text) + 1);
    for (size_t i = 0; i < r->n_set; i++)
        kd_hasher_add(h, r->set[i], strlen(r->set[i]) + 1);
    for (size_t i = 0; i < r->n_blobs; i++)
        kd_hasher_add(h, r->blobs[i]->digest, strlen(r->blobs[i]->digest) + 1);
    kd_digest digest = kd_hasher_digest(h);
    kd_hasher_free(h);
    return digest;
}

static kd_job_id new_id(kd_daemon *d)
{
    for (;;) {
        kd_job_id id = 0;
        KD_BUG_ON(getrandom(&id, 6, 0) != 6);
        /* An id that begins with another's first digits would make short ids ambiguous sooner. */
        if (id >> 44 && !kd_daemon_job(d, id))
            return id;
    }
}

static int store_job(kd_daemon *d, const Distill__V1__SubmitRequest *r, const kd_job *spec,
                     char *resolved, const char *digest, kd_job_record **out, kd_diag *diag)
{
    kd_job_row row = {.id = new_id(d), .submitted_ms = kd_clock_wall_ms(), .resolved = resolved};
    snprintf(row.key, sizeof row.key, "%s", r->key);
    snprintf(row.name, sizeof row.name, "%s", spec->name);
    snprintf(row.text_digest, sizeof row.text_digest, "%s", digest);
    kd_job_record *j = kd_job_record_new(d, &row, diag);
    if (!j) {
        free(resolved);
        return diag->code ? diag->code : -KD_EINTERNAL;
    }
    kd_stage_row stages[KD_MAX_STAGES];
    for (int i = 0; i < j->n_stages; i++)
        stages[i] = j->stages[i].row;
    char event[96];
    snprintf(event, sizeof event, "submitted as %s", j->row.name);
    int rc = kd_state_add_jobs(
        &d->state, &(kd_new_job){&j->row, stages, j->n_stages, NULL, 0, NULL, 0, event}, 1, diag);
    if (rc != 0) {
        kd_job_record_free(j);
        return rc;
    }
    kd_job_record **end = &d->jobs;
    while (*end)
        end = &(*end)->next;
    *end = j;
    *out = j;
    return 0;
}

static void do_submit(kd_daemon *d, struct job_call *c)
{
    Distill__V1__SubmitRequest *r = (Distill__V1__SubmitRequest *)c->m;
    Distill__V1__SubmitReply reply = DISTILL__V1__SUBMIT_REPLY__INIT;
    kd_diag diag = {0};
    char hex[KD_DIGEST_HEX], id[KD_ID_TEXT] = "";
    kd_digest digest = text_digest(r);
    kd_digest_hex(&digest, hex);
    size_t n_jobs = 0;
    kd_job_record *j = NULL;
    for (kd_job_record *o = d->jobs; o; o = o->next, n_jobs++)
        if (strcmp(o->row.key, r->key) == 0)
            j = o;
    kd_job *spec = kd_xalloc(sizeof *spec);
    char *resolved = NULL;
    int rc = 0;
    if (!r->key[0] && !r->dry_run)
        rc = kd_fail(&diag, -KD_EINVAL, "a submit needs a key of 1 to 64 characters");
    else if (!j && n_jobs >= MAX_JOBS)
        rc = kd_fail(&diag, -KD_ELIMIT,
                     "%d jobs are stored; remove finished ones with `distill rm`", MAX_JOBS);
    else if (j && strcmp(j->row.text_digest, hex) != 0)
        rc = kd_fail(&diag, -KD_EEXIST, "the key %.64s belongs to another job", r->key);
    if (rc == 0)
        rc = kd_job_load(r->text, strlen(r->text), r->file_name[0] ? r->file_name : "job",
                         (const char *const *)r->set, (int)r->n_set, spec, &diag);
    if (rc == 0 && !r->dry_run)
        rc = bind_blobs(d, r, spec, &diag);
    if (rc == 0)
        rc = kd_job_resolved(spec, &resolved, &diag);
    bool fresh = rc == 0 && !j && !r->dry_run;
    if (fresh) {
        char *kept = kd_xstrdup(resolved);
        rc = store_job(d, r, spec, kept, hex, &j, &diag);
    }
    if (rc != 0) {
        kd_rpc_finish_diag(c->call, &diag);
        free(resolved);
        free(spec);
        return;
    }
    if (fresh) {
        kd_info("submitted as %s job=%012llx", j->row.name, (unsigned long long)j->row.id);
        kd_daemon_introduce(d, j);
    }
    char notes[MAX_NOTES][256];
    char *note_list[MAX_NOTES];
    int n_notes = kd_job_notes(spec, notes, MAX_NOTES);
    for (int i = 0; i < n_notes; i++)
        note_list[i] = notes[i];
    kd_core_view view = {0};
    if (j && !r->dry_run) {
        kd_id_text(j->row.id, id);
        kd_core_job_view(d->core, j->row.id, &view);
    }
    reply.job = id;
    reply.existed = j && !fresh && !r->dry_run;
    reply.resolved = resolved;
    reply.notes = note_list;
    reply.n_notes = (size_t)n_notes;
    reply.queue_position = view.queue_position;
    kd_answer(c->call, &reply);
    free(resolved);
    free(spec);
}

/* Appends the piece if it continues what is there; the last one is checked and named. */
static int add_piece(kd_daemon *d, const Distill__V1__BlobChunk *m, const uint8_t *piece,
                     size_t len, Distill__V1__UploadReply *reply, kd_diag *diag)
{
    kd_digest wanted;
    char part[4200], whole[4200];
    if (!kd_digest_parse(m->digest, &wanted))
        return kd_fail(diag, -KD_EINVAL, "a file is named by 32 hex digits");
    if (m->size == 0 || m->size > KD_MAX_BLOB_BYTES || len > KD_BLOB_PIECE)
        return kd_fail(diag, -KD_ELIMIT,
                       "files of 1 byte to %llu MiB are taken, in pieces of 1 MiB",
                       KD_MAX_BLOB_BYTES >> 20);
    blob_file(d, m->digest, true, part, sizeof part);
    blob_file(d, m->digest, false, whole, sizeof whole);
    if (access(whole, R_OK) == 0) {
        reply->complete = true;
        reply->have = m->size;
        return 0;
    }
    int fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        if (fd >= 0)
            close(fd);
        return kd_fail(diag, -KD_EIO, "cannot open the upload: %s", strerror(errno));
    }
    uint64_t have = (uint64_t)st.st_size;
    int rc = 0;
    if (len && kd_crc32c(0, piece, len) != m->crc32c)
        rc = kd_fail(diag, -KD_EDATA, "the piece's CRC32C differs; send it again");
    else if (len && m->offset == have && have + len <= m->size) {
        ssize_t n = pwrite(fd, piece, len, (off_t)have);
        if (n != (ssize_t)len)
            rc = kd_fail(diag, n < 0 && errno != ENOSPC ? -KD_EIO : -KD_ELIMIT,
                         "cannot store the upload: %s", n < 0 ? strerror(errno) : "disk full");
        else
            have += len;
    }
    close(fd);
    if (rc == 0 && have == m->size) {
        char *data = NULL;
        size_t size = 0;
        rc = kd_file_read(part, KD_MAX_BLOB_BYTES, &data, &size, diag);
        if (rc == 0) {
            kd_digest got = kd_digest_of(data, size);
            if (!kd_digest_equal(&got, &wanted)) {
                rc = kd_fail(diag, -KD_EDATA,
                             "the uploaded file has another digest; upload it again");
                unlink(part);
            } else if ((rc = kd_file_write(whole, data, size, diag)) == 0) {
                unlink(part);
                reply->complete = true;
            }
        }
        free(data);
    }
    reply->have = have;
    return rc;
}

static void do_upload(kd_daemon *d, struct job_call *c)
{
    Distill__V1__UploadReply reply = DISTILL__V1__UPLOAD_REPLY__INIT;
    kd_diag diag = {0};
    if (add_piece(d, (Distill__V1__BlobChunk *)c->m, c->payload, c->payload_len, &reply, &diag) !=
        0)
        kd_rpc_finish_diag(c->call, &diag);
    else
        kd_answer(c->call, &reply);
}

/* ---- reading */

static void do_list(kd_daemon *d, struct job_call *c)
{
    const Distill__V1__ListRequest *r = (Distill__V1__ListRequest *)c->m;
    size_t limit = r->limit ? KD_MIN(r->limit, 1000u) : 100, n = 0;
    for (kd_job_record *j = d->jobs; j; j = j->next)
        n++;
    size_t skip = n > limit ? n - limit : 0, count = n - skip;
    struct summary *s = kd_xalloc(count * sizeof *s);
    Distill__V1__JobSummary **list = kd_xalloc(count * sizeof *list);
    size_t i = 0;
    for (kd_job_record *j = d->jobs; j; j = j->next, i++) {
        if (i < skip)
            continue;
        summarise(d, j, &s[i - skip]);
        list[n - 1 - i] = &s[i - skip].m; /* newest first */
    }
    Distill__V1__ListReply reply = DISTILL__V1__LIST_REPLY__INIT;
    reply.jobs = list;
    reply.n_jobs = count;
    kd_answer(c->call, &reply);
    free(list);
    free(s);
}

struct artefact_list {
    Distill__V1__Artefact items[32];
    Distill__V1__Artefact *list[32];
    kd_file_row rows[32];
    size_t n;
};

static int add_artefact(void *arg, const kd_file_row *row)
{
    struct artefact_list *l = arg;
    if (l->n == KD_COUNT(l->items))
        return 0;
    l->rows[l->n] = *row;
    Distill__V1__Artefact *a = &l->items[l->n];
    distill__v1__artefact__init(a);
    a->name = l->rows[l->n].name;
    a->digest = l->rows[l->n].digest;
    a->size = row->size;
    l->list[l->n++] = a;
    return 0;
}

static void do_get(kd_daemon *d, struct job_call *c)
{
    kd_job_record *j = find_job(d, c->call, ((Distill__V1__JobRequest *)c->m)->job);
    if (!j)
        return;
    struct summary summary;
    summarise(d, j, &summary);
    Distill__V1__JobDetail reply = DISTILL__V1__JOB_DETAIL__INIT;
    Distill__V1__StageRecord stages[KD_MAX_STAGES], *stage_list[KD_MAX_STAGES];
    Distill__V1__EpochRecord *epochs = kd_xalloc((size_t)j->n_epochs * sizeof *epochs);
    Distill__V1__EpochRecord **epoch_list = kd_xalloc((size_t)j->n_epochs * sizeof *epoch_list);
    kd_core_view view = {0};
    bool running = j->row.state == KD_RUN_RUNNING && kd_core_job_view(d->core, j->row.id, &view);
    size_t e = 0;
    for (int i = 0; i < j->n_stages; i++) {
        kd_stage_record *s = &j->stages[i];
        Distill__V1__StageRecord *m = &stages[i];
        distill__v1__stage_record__init(m);
        m->name = s->row.name;
        m->state = s->row.done                            ? "done"
                   : running && view.stage == (uint32_t)i ? "running"
                                                          : "pending";
        m->digest = s->row.digest;
        m->fingerprint = s->row.fingerprint;
        m->seconds = s->row.seconds;
        m->teacher_forwards = s->row.teacher_forwards;
        m->bank_hits = s->row.bank_hits;
        m->teacher_seconds = s->row.teacher_seconds;
        m->best_digest = s->row.best_digest;
        m->stopped_early = s->row.stopped_early;
        m->best_epoch = s->row.best_epoch;
        if (s->info && s->kind != KD_STAGE_EVALUATE) {
            kd_core_stage_info info;
            kd_stage_core_info(j, s, &info);
            m->parameters = s->info->parameters;
            m->terms = s->info->terms;
            m->n_terms = s->info->n_terms;
            m->steps = info.last_version - 1;
            m->committed = s->row.done ? m->steps : s->version ? s->version - 1 : 0;
        }
        m->epochs = epoch_list + e;
        for (int k = 0; k < j->n_epochs; k++) {
            const kd_epoch_row *row = &j->epochs[k];
            if (row->stage != (uint32_t)i)
                continue;
            distill__v1__epoch_record__init(&epochs[e]);
            epochs[e].epoch = row->epoch;
            epochs[e].train_loss = row->train_loss;
            epochs[e].train_accuracy = row->train_accuracy;
            epochs[e].val_loss = row->val_loss;
            epochs[e].val_correct = row->val_correct;
            epochs[e].val_samples = row->val_samples;
            epochs[e].step = row->step;
            epochs[e].val_agree = row->val_agree;
            epochs[e].val_kl = row->val_kl;
            epochs[e].learning_rate = row->learning_rate;
            epochs[e].best = row->best;
            epochs[e].shares = (double *)row->shares;
            epochs[e].term_losses = (double *)row->term_losses;
            epochs[e].n_shares = epochs[e].n_term_losses = row->n_terms;
            epoch_list[e] = &epochs[e];
            e++;
            m->n_epochs++;
        }
        stage_list[i] = m;
    }
    struct artefact_list *artefacts = kd_xalloc(sizeof *artefacts);
    kd_diag diag = {0};
    if (kd_state_each_artefact(&d->state, j->row.id, add_artefact, artefacts, &diag) != 0)
        kd_warn("%s", diag.msg);
    reply.summary = &summary.m;
    reply.resolved = j->row.resolved;
    reply.stages = stage_list;
    reply.n_stages = (size_t)j->n_stages;
    reply.artefacts = artefacts->list;
    reply.n_artefacts = artefacts->n;
    reply.result = j->row.result ? j->row.result : "";
    kd_answer(c->call, &reply);
    free(artefacts);
    free(epoch_list);
    free(epochs);
}

static void do_watch(kd_daemon *d, struct job_call *c)
{
    const Distill__V1__WatchRequest *r = (Distill__V1__WatchRequest *)c->m;
    kd_job_record *j = find_job(d, c->call, r->job);
    if (!j)
        return;
    kd_watcher *w = kd_xalloc(sizeof *w);
    *w = (kd_watcher){.call = kd_rpc_call_ref(c->call),
                      .job = j->row.id,
                      .next_seq = r->from_seq,
                      .follow = r->follow,
                      .progress = r->progress && r->follow};
    kd_watch_add(d, w);
}

static void loop_unwatch(kd_daemon *d, void *arg)
{
    kd_watch_drop(d, arg);
    kd_rpc_call_unref(arg);
}

static void watch_closed(kd_rpc_call *call, bool cancelled, void *arg)
{
    (void)cancelled;
    kd_rpc_call_ref(call);
    if (!kd_daemon_post(arg, loop_unwatch, call))
        kd_rpc_call_unref(call);
}

static void do_fetch(kd_daemon *d, struct job_call *c)
{
    const Distill__V1__FetchRequest *r = (Distill__V1__FetchRequest *)c->m;
    kd_job_record *j = find_job(d, c->call, r->job);
    if (!j)
        return;
    kd_file_row row;
    kd_diag diag = {0};
    int rc = kd_state_find_artefact(&d->state, j->row.id, r->name, "-", &row, &diag);
    if (rc == 0)
        rc = kd_fail(&diag, -KD_ENOENT, "the job has no artefact %.64s", r->name);
    else if (rc == 1)
        rc = kd_send_file_piece(c->call, row.path, row.digest, r->offset, &diag);
    if (rc != 0)
        kd_rpc_finish_diag(c->call, &diag);
}

static void do_workers(kd_daemon *d, struct job_call *c)
{
    size_t n = 0, i = 0;
    for (kd_worker_record *w = d->workers; w; w = w->next)
        n += w->joined;
    struct {
        Distill__V1__WorkerInfo m;
        char job[KD_ID_TEXT];
    } *items = kd_xalloc(n * sizeof *items);
    Distill__V1__WorkerInfo **list = kd_xalloc(n * sizeof *list);
    for (kd_worker_record *w = d->workers; w; w = w->next) {
        if (!w->joined)
            continue;
        Distill__V1__WorkerInfo *m = &items[i].m;
        distill__v1__worker_info__init(m);
        const char *state;
        kd_job_id job = kd_core_member_job(d->core, w->id, &state);
        if (job)
            kd_id_text(job, items[i].job);
        m->name = w->name;
        m->address = w->address;
        m->state = (char *)state;
        m->job = items[i].job;
        m->threads = w->threads;
        m->cpu = w->cpu;
        m->blas = w->blas;
        m->isa = w->isa;
        m->numerics = w->numerics;
        m->seen_ms = w->seen_wall_ms;
        m->units_per_second = w->units_rate;
        m->version = w->version;
        list[i++] = m;
    }
    Distill__V1__WorkersReply reply = DISTILL__V1__WORKERS_REPLY__INIT;
    reply.workers = list;
    reply.n_workers = n;
    kd_answer(c->call, &reply);
    free(list);
    free(items);
}

static void do_info(kd_daemon *d, struct job_call *c)
{
    Distill__V1__InfoReply reply = DISTILL__V1__INFO_REPLY__INIT;
    reply.version = KD_VERSION;
    reply.protocol = KD_PROTOCOL;
    reply.epoch = d->state.epoch;
    reply.started_ms = d->started_wall_ms;
    reply.state_dir = d->state.dir;
    kd_answer(c->call, &reply);
}

/* ---- changing */

static void do_cancel(kd_daemon *d, struct job_call *c)
{
    kd_job_record *j = find_job(d, c->call, ((Distill__V1__JobRequest *)c->m)->job);
    if (!j)
        return;
    if (j->row.state >= KD_RUN_SUCCEEDED) {
        kd_rpc_finish(c->call, -KD_ESTATE, "the job is over already");
        return;
    }
    char text[KD_CORE_TEXT];
    snprintf(text, sizeof text, "cancelled by %s", kd_rpc_call_peer(c->call).address);
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_CANCEL, .job = j->row.id, .text = text});
    struct summary s;
    summarise(d, j, &s);
    kd_answer(c->call, &s.m);
}

/* Uploads that no job names any more go with the last one that did. */
static void drop_unused_blob(kd_daemon *d, const char *digest)
{
    if (!digest[0])
        return;
    for (kd_job_record *j = d->jobs; j; j = j->next)
        if (strcmp(j->spec.teachers[0].model.weights_digest, digest) == 0 ||
            strcmp(j->spec.student.weights_digest, digest) == 0)
            return;
    char path[4200];
    blob_file(d, digest, false, path, sizeof path);
    if (unlink(path) != 0 && errno != ENOENT)
        kd_warn("cannot remove an upload: path=%s err=%s", path, strerror(errno));
}

static void do_remove(kd_daemon *d, struct job_call *c)
{
    kd_job_record *j = find_job(d, c->call, ((Distill__V1__JobRequest *)c->m)->job);
    if (!j)
        return;
    if (j->row.state <= KD_RUN_RUNNING) {
        kd_rpc_finish(c->call, -KD_ESTATE, "the job is not over; cancel it first");
        return;
    }
    if (j->saving) {
        kd_rpc_finish(c->call, -KD_ESTATE, "a checkpoint of the job is being written; try again");
        return;
    }
    Distill__V1__RemoveReply reply = DISTILL__V1__REMOVE_REPLY__INIT;
    kd_diag diag = {0};
    if (kd_state_remove_jobs(&d->state, &j->row.id, 1, &reply.freed_bytes, &diag) != 0) {
        kd_rpc_finish_diag(c->call, &diag);
        return;
    }
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_FORGET, .job = j->row.id});
    kd_job_record **at = &d->jobs;
    while (*at != j)
        at = &(*at)->next;
    *at = j->next;
    drop_unused_blob(d, j->spec.teachers[0].model.weights_digest);
    drop_unused_blob(d, j->spec.student.weights_digest);
    kd_job_record_free(j);
    kd_answer(c->call, &reply);
}

/* ---- the table */

#define HANDLER(name, descriptor, function)                                                        \
    static void name(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)               \
    {                                                                                              \
        ProtobufCMessage *m = NULL;                                                                \
        kd_diag diag = {0};                                                                        \
        if (kd_wire_unpack(&descriptor, bytes, len, &m, &diag) != 0)                               \
            kd_rpc_finish_diag(call, &diag);                                                       \
        else                                                                                       \
            post(arg, call, m, NULL, 0, function);                                                 \
    }
HANDLER(on_submit, distill__v1__submit_request__descriptor, do_submit)
HANDLER(on_list, distill__v1__list_request__descriptor, do_list)
HANDLER(on_get, distill__v1__job_request__descriptor, do_get)
HANDLER(on_watch, distill__v1__watch_request__descriptor, do_watch)
HANDLER(on_cancel, distill__v1__job_request__descriptor, do_cancel)
HANDLER(on_remove, distill__v1__job_request__descriptor, do_remove)
HANDLER(on_workers, distill__v1__workers_request__descriptor, do_workers)
HANDLER(on_fetch, distill__v1__fetch_request__descriptor, do_fetch)
HANDLER(on_info, distill__v1__info_request__descriptor, do_info)

static void on_upload(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    ProtobufCMessage *m = NULL;
    const uint8_t *payload = NULL;
    size_t payload_len = 0;
    kd_diag diag = {0};
    if (kd_wire_unpack_bulk(&distill__v1__blob_chunk__descriptor, bytes, len, &m, &payload,
                            &payload_len, &diag) != 0)
        kd_rpc_finish_diag(call, &diag);
    else
        post(arg, call, m, payload, payload_len, do_upload);
}

#define UNARY(method, limit, handler)                                                              \
    {                                                                                              \
        .path = "/distill.v1.Jobs/" method, .kind = KD_RPC_UNARY, .max_request = limit,            \
        .on_message = handler                                                                      \
    }
const kd_rpc_method kd_jobs_methods[] = {
    UNARY("Submit", KD_MAX_CONTROL_BYTES, on_submit),
    UNARY("Upload", KD_MAX_BULK_BYTES, on_upload),
    UNARY("List", KD_MAX_CONTROL_BYTES, on_list),
    UNARY("Get", KD_MAX_CONTROL_BYTES, on_get),
    {.path = "/distill.v1.Jobs/Watch",
     .kind = KD_RPC_SERVER_STREAM,
     .max_request = KD_MAX_CONTROL_BYTES,
     .on_message = on_watch,
     .on_close = watch_closed},
    UNARY("Cancel", KD_MAX_CONTROL_BYTES, on_cancel),
    UNARY("Remove", KD_MAX_CONTROL_BYTES, on_remove),
    UNARY("Workers", KD_MAX_CONTROL_BYTES, on_workers),
    UNARY("Fetch", KD_MAX_CONTROL_BYTES, on_fetch),
    UNARY("Info", KD_MAX_CONTROL_BYTES, on_info),
};
const size_t kd_n_jobs_methods = KD_COUNT(kd_jobs_methods);

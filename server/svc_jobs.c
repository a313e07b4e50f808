/* Service Jobs: what clients call. Every call is carried to the loop and answered there. */
#include "loop_call.h"
#include "reading.h"
#include "sweep.h"
#include "trials.h"

#include "kd/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- finding jobs */

static bool may(const kd_daemon *d, const kd_rpc_call *call, const kd_job_record *j, kd_diag *diag)
{
    return !call || kd_access_job(d->access, call, j->row.owner, diag) == 0;
}

/* By an id or the beginning of one. -KD_EINVAL: that of several. */
static int by_id(kd_daemon *d, const char *text, kd_job_record **out, kd_diag *diag)
{
    size_t n = strlen(text);
    char id[KD_ID_TEXT];
    *out = NULL;
    for (kd_job_record *j = d->jobs; j && n >= 4; j = j->next) {
        kd_id_text(j->row.id, id);
        if (n > KD_ID_TEXT - 1 || strncmp(id, text, n) != 0)
            continue;
        if (*out)
            return kd_fail(diag, -KD_EINVAL,
                           "more than one job begins with %.12s; give more digits", text);
        *out = j;
    }
    return 0;
}

#define NAMED_TOLD 4 /* ids of jobs of one name, the newest */

/* By name, of those that the caller may have; the jobs of a sweep bear its name and have their ids
 * only. Of several it is the one that is not over. -KD_EINVAL: none or more are not. */
static int by_name(kd_daemon *d, const kd_rpc_call *call, const char *text, kd_job_record **out,
                   kd_diag *diag)
{
    char ids[NAMED_TOLD][KD_ID_TEXT], list[NAMED_TOLD * (KD_ID_TEXT + 2) + 8] = "";
    size_t n = 0, live = 0, len = 0;
    kd_job_record *last = NULL, *last_live = NULL;
    for (kd_job_record *j = d->jobs; j; j = j->next) {
        if (j->row.sweep != 0 || strcmp(j->row.name, text) != 0 || !may(d, call, j, NULL))
            continue;
        last = j;
        kd_id_text(j->row.id, ids[n++ % NAMED_TOLD]);
        if (j->row.state <= KD_RUN_RUNNING) {
            last_live = j;
            live++;
        }
    }
    *out = live == 1 ? last_live : last;
    if (n < 2 || live == 1)
        return 0;
    for (size_t k = 1; k <= KD_MIN(n, (size_t)NAMED_TOLD); k++)
        len += (size_t)snprintf(list + len, sizeof list - len, "%s%s", k > 1 ? ", " : "",
                                ids[(n - k) % NAMED_TOLD]);
    return kd_fail(diag, -KD_EINVAL,
                   "%zu jobs are called %.63s; name one by its id, newest first: %s%s", n, text,
                   list, n > NAMED_TOLD ? ", ..." : "");
}

kd_job_record *kd_job_find_id(kd_daemon *d, const kd_rpc_call *call, const char *text,
                              kd_diag *diag)
{
    kd_job_record *found;
    if (by_id(d, text, &found, diag) != 0)
        return NULL;
    if (!found)
        (void)kd_fail(diag, -KD_ENOENT,
                      "no job %.64s here; a job is named by its id or the first digits of it, at "
                      "least 4 (`distill jobs` lists them)",
                      text);
    return found && may(d, call, found, diag) ? found : NULL;
}

kd_job_record *kd_job_find(kd_daemon *d, const kd_rpc_call *call, const char *text, kd_diag *diag)
{
    kd_job_record *found;
    if (by_id(d, text, &found, diag) != 0)
        return NULL;
    if (found)
        return may(d, call, found, diag) ? found : NULL;
    if (by_name(d, call, text, &found, diag) != 0)
        return NULL;
    if (!found)
        (void)kd_fail(diag, -KD_ENOENT,
                      "no job %.64s here; a job is named by its id, the first digits of it, at "
                      "least 4, or its name (`distill jobs` lists them)",
                      text);
    return found;
}

kd_job_record *kd_call_job(kd_daemon *d, kd_rpc_call *call, const char *text)
{
    kd_diag diag = {0};
    kd_job_record *j = kd_job_find(d, call, text, &diag);
    char id[KD_ID_TEXT];
    if (!j) {
        kd_rpc_call_set_note(call, text);
        kd_rpc_finish_diag(call, &diag);
        return NULL;
    }
    kd_id_text(j->row.id, id);
    kd_rpc_call_set_note(call, id);
    return j;
}

static void do_upload(kd_daemon *d, kd_loop_call *c)
{
    Distill__V1__UploadReply reply = DISTILL__V1__UPLOAD_REPLY__INIT;
    kd_diag diag = {0};
    if (kd_access_upload(d->access, c->call, c->payload_len, &diag) != 0 ||
        kd_blob_add_piece(d, (Distill__V1__BlobChunk *)c->m, c->payload, c->payload_len, &reply,
                          &diag) != 0)
        kd_rpc_finish_diag(c->call, &diag);
    else
        kd_answer(c->call, &reply);
}

/* ---- reading */

static void answer(void *call, const void *message)
{
    kd_answer(call, message);
}

static void do_list(kd_daemon *d, kd_loop_call *c)
{
    const Distill__V1__ListRequest *r = (Distill__V1__ListRequest *)c->m;
    const kd_job_record *before = r->before[0] ? kd_call_job(d, c->call, r->before) : NULL;
    if (before || !r->before[0])
        kd_tell_list(d, kd_rpc_call_peer(c->call).identity, r->limit, before, answer, c->call);
}

static void do_get(kd_daemon *d, kd_loop_call *c)
{
    kd_job_record *j = kd_call_job(d, c->call, ((Distill__V1__JobRequest *)c->m)->job);
    if (j)
        kd_tell_detail(d, j, answer, c->call);
}

static void do_workers(kd_daemon *d, kd_loop_call *c)
{
    kd_tell_workers(d, answer, c->call);
}

static int send_event(void *call, const Distill__V1__Event *e)
{
    kd_buf buf;
    kd_buf_init(&buf, KD_MAX_CONTROL_BYTES);
    int rc = kd_wire_pack(e, &buf);
    if (rc == 0)
        rc = kd_rpc_send(call, &(struct iovec){buf.data, buf.len}, 1);
    kd_buf_clear(&buf);
    return rc;
}

static size_t queued(void *call)
{
    return kd_rpc_queued(call);
}

static void finish(void *call, int code, const char *text)
{
    kd_rpc_finish(call, code, text);
}

static void unref(void *call)
{
    kd_rpc_call_unref(call);
}

static const kd_watch_sink g_sink = {send_event, queued, finish, unref};

static void do_watch(kd_daemon *d, kd_loop_call *c)
{
    const Distill__V1__WatchRequest *r = (Distill__V1__WatchRequest *)c->m;
    kd_job_record *j = kd_call_job(d, c->call, r->job);
    if (!j)
        return;
    kd_watcher *w = kd_xalloc(sizeof *w);
    *w = (kd_watcher){.sink = &g_sink,
                      .to = kd_rpc_call_ref(c->call),
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

static void do_fetch(kd_daemon *d, kd_loop_call *c)
{
    const Distill__V1__FetchRequest *r = (Distill__V1__FetchRequest *)c->m;
    kd_job_record *j = kd_call_job(d, c->call, r->job);
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

struct digest_list {
    const kd_job_record *j;
    Distill__V1__VersionDigest *items, **list;
    char (*text)[33];
    size_t n;
};

static int add_digest(void *arg, uint32_t stage, uint64_t version, const char *digest)
{
    struct digest_list *l = arg;
    if (stage >= (uint32_t)l->j->n_stages)
        return 0;
    if (l->n == KD_MAX_DIGESTS)
        return 1;
    Distill__V1__VersionDigest *m = l->list[l->n] = &l->items[l->n];
    distill__v1__version_digest__init(m);
    snprintf(l->text[l->n], sizeof *l->text, "%s", digest);
    m->stage = (char *)l->j->stages[stage].row.name;
    m->step = version - 1;
    m->digest = l->text[l->n++];
    return 0;
}

static void do_digests(kd_daemon *d, kd_loop_call *c)
{
    kd_job_record *j = kd_call_job(d, c->call, ((Distill__V1__JobRequest *)c->m)->job);
    kd_diag diag = {0};
    if (!j)
        return;
    struct digest_list l = {.j = j,
                            .items = kd_xalloc(KD_MAX_DIGESTS * sizeof *l.items),
                            .list = kd_xalloc(KD_MAX_DIGESTS * sizeof *l.list),
                            .text = kd_xalloc(KD_MAX_DIGESTS * sizeof *l.text)};
    if (kd_state_each_digest(&d->state, j->row.id, add_digest, &l, &diag) < 0) {
        kd_rpc_finish_diag(c->call, &diag);
    } else {
        Distill__V1__DigestsReply reply = DISTILL__V1__DIGESTS_REPLY__INIT;
        reply.digests = l.list;
        reply.n_digests = l.n;
        kd_answer(c->call, &reply);
    }
    free(l.items);
    free(l.list);
    free(l.text);
}

static void do_info(kd_daemon *d, kd_loop_call *c)
{
    kd_tell_info(d, answer, c->call);
}

/* ---- changing */

static void do_cancel(kd_daemon *d, kd_loop_call *c)
{
    kd_job_record *j = kd_call_job(d, c->call, ((Distill__V1__JobRequest *)c->m)->job);
    if (!j)
        return;
    if (j->row.state >= KD_RUN_SUCCEEDED) {
        kd_rpc_finish(c->call, -KD_ESTATE, "the job is over already");
        return;
    }
    char text[KD_CORE_TEXT];
    snprintf(text, sizeof text, "cancelled by %s", kd_access_who(c->call));
    if (j->row.is_sweep)
        kd_sweep_cancel(d, j, text);
    else
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_CANCEL, .job = j->row.id, .text = text});
    kd_tell_summary(d, j, answer, c->call);
}

static void pause_or_resume(kd_daemon *d, kd_loop_call *c, bool pause)
{
    kd_job_record *j = kd_call_job(d, c->call, ((Distill__V1__JobRequest *)c->m)->job);
    kd_diag diag = {0};
    if (!j)
        return;
    if (kd_wish_pause(d, j, pause, kd_access_who(c->call), &diag) != 0)
        kd_rpc_finish_diag(c->call, &diag);
    else
        kd_tell_summary(d, j, answer, c->call);
}

static void do_pause(kd_daemon *d, kd_loop_call *c)
{
    pause_or_resume(d, c, true);
}

static void do_resume(kd_daemon *d, kd_loop_call *c)
{
    pause_or_resume(d, c, false);
}

static void do_scale(kd_daemon *d, kd_loop_call *c)
{
    const Distill__V1__ScaleRequest *r = (Distill__V1__ScaleRequest *)c->m;
    kd_job_record *j = kd_call_job(d, c->call, r->job);
    kd_diag diag = {0};
    if (!j)
        return;
    if (kd_wish_scale(d, j, r->min_workers, r->max_workers, kd_access_who(c->call), &diag) != 0)
        kd_rpc_finish_diag(c->call, &diag);
    else
        kd_tell_summary(d, j, answer, c->call);
}

static void do_drain(kd_daemon *d, kd_loop_call *c)
{
    const Distill__V1__DrainRequest *r = (Distill__V1__DrainRequest *)c->m;
    kd_diag diag = {0};
    kd_rpc_call_set_note(c->call, r->worker);
    kd_worker_record *w = kd_wish_drain(d, r->worker, r->undo, kd_access_who(c->call), &diag);
    if (w)
        kd_tell_worker(d, w, answer, c->call);
    else
        kd_rpc_finish_diag(c->call, &diag);
}

/* Takes the record out of the list and out of the core. */
static void forget(kd_daemon *d, kd_job_record *j)
{
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_FORGET, .job = j->row.id});
    kd_daemon_take_job(d, j);
}

static int check_removable(const kd_job_record *j, kd_diag *diag)
{
    char sweep[KD_ID_TEXT];
    kd_id_text(j->row.sweep, sweep);
    if (j->row.sweep)
        return kd_fail(diag, -KD_ESTATE, "the job belongs to sweep %s; remove that", sweep);
    if (j->row.state <= KD_RUN_RUNNING)
        return kd_fail(diag, -KD_ESTATE, "the job is not over; cancel it first");
    return 0;
}

/* A sweep goes with all of its jobs. */
static void do_remove(kd_daemon *d, kd_loop_call *c)
{
    kd_job_record *j = kd_call_job(d, c->call, ((Distill__V1__JobRequest *)c->m)->job);
    if (!j)
        return;
    Distill__V1__RemoveReply reply = DISTILL__V1__REMOVE_REPLY__INIT;
    kd_diag diag = {0};
    char id[KD_ID_TEXT];
    size_t n = 1;
    bool saving = j->saving;
    kd_id_text(j->row.id, id);
    reply.job = id;
    for (kd_job_record *o = NULL; j->row.is_sweep && (o = kd_sweep_next(d, j, o)); n++)
        saving |= o->saving;
    kd_job_record **gone = kd_xalloc(n * sizeof *gone);
    kd_job_id *ids = kd_xalloc(n * sizeof *ids);
    gone[0] = j;
    n = 1;
    for (kd_job_record *o = NULL; j->row.is_sweep && (o = kd_sweep_next(d, j, o));)
        gone[n++] = o;
    for (size_t i = 0; i < n; i++)
        ids[i] = gone[i]->row.id;
    int rc = check_removable(j, &diag);
    if (rc == 0 && saving)
        rc = kd_fail(&diag, -KD_ESTATE, "a checkpoint of the job is being written; try again");
    if (rc == 0)
        rc = kd_state_remove_jobs(&d->state, ids, n, &reply.freed_bytes, &diag);
    for (size_t i = 0; i < n && rc == 0; i++)
        forget(d, gone[i]);
    for (size_t i = 0; i < n && rc == 0; i++) {
        kd_blobs_drop_unused(d, &gone[i]->spec);
        kd_job_record_free(gone[i]);
    }
    if (rc == 0)
        kd_answer(c->call, &reply);
    else
        kd_rpc_finish_diag(c->call, &diag);
    free(ids);
    free(gone);
}

/* ---- the table */

KD_LOOP_HANDLER(on_list, distill__v1__list_request__descriptor, do_list)
KD_LOOP_HANDLER(on_get, distill__v1__job_request__descriptor, do_get)
KD_LOOP_HANDLER(on_watch, distill__v1__watch_request__descriptor, do_watch)
KD_LOOP_HANDLER(on_cancel, distill__v1__job_request__descriptor, do_cancel)
KD_LOOP_HANDLER(on_pause, distill__v1__job_request__descriptor, do_pause)
KD_LOOP_HANDLER(on_resume, distill__v1__job_request__descriptor, do_resume)
KD_LOOP_HANDLER(on_scale, distill__v1__scale_request__descriptor, do_scale)
KD_LOOP_HANDLER(on_drain, distill__v1__drain_request__descriptor, do_drain)
KD_LOOP_HANDLER(on_remove, distill__v1__job_request__descriptor, do_remove)
KD_LOOP_HANDLER(on_workers, distill__v1__workers_request__descriptor, do_workers)
KD_LOOP_HANDLER(on_fetch, distill__v1__fetch_request__descriptor, do_fetch)
KD_LOOP_HANDLER(on_digests, distill__v1__job_request__descriptor, do_digests)
KD_LOOP_HANDLER(on_info, distill__v1__info_request__descriptor, do_info)

static void on_submit(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    ProtobufCMessage *m = NULL;
    kd_diag diag = {0};
    if (kd_wire_unpack_checked(&distill__v1__submit_request__descriptor, bytes, len, NULL, &m,
                               &diag) != 0)
        kd_rpc_finish_diag(call, &diag);
    else
        kd_submit(arg, call, (Distill__V1__SubmitRequest *)m);
}

static void loop_caller_gone(kd_daemon *d, void *arg)
{
    kd_trial_caller_gone(d, arg);
    kd_rpc_call_unref(arg);
}

/* Only a trial has its caller wait so long that he may go. */
static void submit_closed(kd_rpc_call *call, bool cancelled, void *arg)
{
    if (!cancelled)
        return;
    kd_rpc_call_ref(call);
    if (!kd_daemon_post(arg, loop_caller_gone, call))
        kd_rpc_call_unref(call);
}

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
        kd_loop_call_post(arg, call, m, payload, payload_len, do_upload);
}

#define UNARY(method, limit, handler) KD_UNARY("/distill.v1.Jobs/" method, limit, handler)
const kd_rpc_method kd_jobs_methods[] = {
    {.path = "/distill.v1.Jobs/Submit",
     .kind = KD_RPC_UNARY,
     .max_request = KD_MAX_CONTROL_BYTES,
     .on_message = on_submit,
     .on_close = submit_closed},
    UNARY("Upload", KD_MAX_BULK_BYTES, on_upload),
    UNARY("List", KD_MAX_CONTROL_BYTES, on_list),
    UNARY("Get", KD_MAX_CONTROL_BYTES, on_get),
    {.path = "/distill.v1.Jobs/Watch",
     .kind = KD_RPC_SERVER_STREAM,
     .max_request = KD_MAX_CONTROL_BYTES,
     .on_message = on_watch,
     .on_close = watch_closed},
    UNARY("Cancel", KD_MAX_CONTROL_BYTES, on_cancel),
    UNARY("Pause", KD_MAX_CONTROL_BYTES, on_pause),
    UNARY("Resume", KD_MAX_CONTROL_BYTES, on_resume),
    UNARY("Scale", KD_MAX_CONTROL_BYTES, on_scale),
    UNARY("Drain", KD_MAX_CONTROL_BYTES, on_drain),
    UNARY("Remove", KD_MAX_CONTROL_BYTES, on_remove),
    UNARY("Workers", KD_MAX_CONTROL_BYTES, on_workers),
    UNARY("Fetch", KD_MAX_CONTROL_BYTES, on_fetch),
    UNARY("Digests", KD_MAX_CONTROL_BYTES, on_digests),
    UNARY("Info", KD_MAX_CONTROL_BYTES, on_info),
};
const size_t kd_n_jobs_methods = KD_COUNT(kd_jobs_methods);

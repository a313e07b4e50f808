/* What may be asked under /api/v1, and /metrics. Field names are those of `distill ... -o json`.
 *
 *   /api/v1/info                 version, epoch, disk, logit bank
 *   /api/v1/jobs?limit=N         as `distill jobs`
 *   /api/v1/workers              as `distill workers`
 *   /api/v1/stream               both, live
 *   /api/v1/jobs/ID              as `distill show`
 *   /api/v1/jobs/ID/events?from=SEQ&limit=N   as `distill events`
 *   /api/v1/jobs/ID/steps        curves of what runs, and where its steps' time goes (meter.h)
 *   /api/v1/jobs/ID/evaluation   its evaluation.json: confusion matrices, pictures with guesses
 *   /api/v1/jobs/ID/stream?from=SEQ   events and progress, live */
#include "http_internal.h"
#include "meter.h"
#include "metrics.h"
#include "reading.h"

#include "kd/file.h"
#include "json/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_EVENTS 1000 /* of one answer */

/* Drops json; NULL: no memory. */
static void say_json(kd_http_request *r, json_t *json)
{
    char *text = kd_http_text(json);
    if (text)
        kd_http_say(r, MHD_HTTP_OK, "application/json", text);
    else
        kd_http_refuse(r, MHD_HTTP_INTERNAL_SERVER_ERROR, "no memory for the answer");
    free(text);
}

/* NULL: refused already. */
static kd_job_record *job_of(kd_daemon *d, kd_http_request *r)
{
    kd_diag diag = {0};
    kd_job_record *j = kd_job_find(d, NULL, r->job, &diag);
    if (!j) {
        kd_http_refuse(r, diag.code == -KD_EINVAL ? MHD_HTTP_BAD_REQUEST : MHD_HTTP_NOT_FOUND,
                       diag.msg);
    } else if (!kd_access_may_read(d->access, &r->who, j->row.owner)) {
        kd_http_forbid(r, "the job belongs to somebody else: it takes the session of a viewer, "
                          "operator or admin");
        return NULL;
    }
    return j;
}

/* Packed here, shown by the connection's thread. */
static void say_message(void *request, const void *message)
{
    kd_http_request *r = request;
    kd_http_say(r, MHD_HTTP_OK, "application/json", "");
    if (kd_wire_pack(message, &r->body) != 0)
        kd_http_refuse(r, MHD_HTTP_INTERNAL_SERVER_ERROR, "the answer is too large");
    else
        r->form = r->route->form;
}

static void answer_jobs(kd_daemon *d, kd_http_request *r)
{
    kd_tell_list(d, &r->who, (uint32_t)KD_MIN(r->limit, 1000u), NULL, say_message, r);
}

static void answer_workers(kd_daemon *d, kd_http_request *r)
{
    kd_tell_workers(d, say_message, r);
}

static void answer_info(kd_daemon *d, kd_http_request *r)
{
    kd_tell_info(d, say_message, r);
}

static void answer_job(kd_daemon *d, kd_http_request *r)
{
    kd_job_record *j = job_of(d, r);
    if (j)
        kd_tell_detail(d, j, say_message, r);
}

struct event_list {
    json_t *list;
    char job[KD_ID_TEXT];
};

static int add_event(void *arg, const kd_event_row *row)
{
    struct event_list *l = arg;
    Distill__V1__Event e;
    kd_watch_fill(&e, row);
    return json_array_append_new(l->list, kd_json_event(l->job, &e));
}

static void answer_events(kd_daemon *d, kd_http_request *r)
{
    kd_job_record *j = job_of(d, r);
    kd_diag diag = {0};
    if (!j)
        return;
    struct event_list l = {.list = json_array()};
    kd_id_text(j->row.id, l.job);
    int most = (int)(r->limit ? KD_MIN(r->limit, (uint64_t)MAX_EVENTS) : MAX_EVENTS);
    if (kd_state_each_event(&d->state, j->row.id, r->from, most, add_event, &l, &diag) == 0) {
        say_json(r, json_pack("{s:o}", "events", l.list));
        return;
    }
    json_decref(l.list);
    kd_http_refuse(r, MHD_HTTP_INTERNAL_SERVER_ERROR, diag.msg);
}

static void answer_steps(kd_daemon *d, kd_http_request *r)
{
    kd_job_record *j = job_of(d, r);
    if (!j)
        return;
    json_t *stages = json_array();
    for (int i = 0; i < j->n_stages; i++)
        if (j->stages[i].meter)
            (void)json_array_append_new(stages,
                                        kd_meter_json(j->stages[i].meter, j->stages[i].row.name));
    say_json(r, json_pack("{s:o}", "stages", stages));
}

/* The file itself: the connection's thread reads it. */
static void answer_evaluation(kd_daemon *d, kd_http_request *r)
{
    kd_job_record *j = job_of(d, r);
    kd_file_row row;
    kd_diag diag = {0};
    struct stat st;
    if (!j)
        return;
    int rc = kd_state_find_artefact(&d->state, j->row.id, "evaluation.json", "-", &row, &diag);
    if (rc == 1 && (r->fd = open(row.path, O_RDONLY | O_CLOEXEC)) >= 0 && fstat(r->fd, &st) == 0) {
        r->status = MHD_HTTP_OK;
        r->type = "application/json";
        r->size = (uint64_t)st.st_size;
        return;
    }
    kd_http_refuse(r, MHD_HTTP_NOT_FOUND,
                   "the job has no evaluation.json: it is made near its end");
}

static void open_stream(kd_http_request *r, kd_job_record *j)
{
    if (r->head) {
        kd_http_say(r, MHD_HTTP_OK, "text/event-stream", "");
        return;
    }
    r->stream = kd_http_stream_new(r, j);
    r->status = MHD_HTTP_OK;
    r->type = "text/event-stream";
    if (!r->stream)
        kd_http_refuse(r, MHD_HTTP_SERVICE_UNAVAILABLE,
                       "as many live streams are open as there may be; close a page");
}

static void answer_stream(kd_daemon *d, kd_http_request *r)
{
    (void)d;
    open_stream(r, NULL);
}

/* A browser that comes back says what it had last. */
static void answer_job_stream(kd_daemon *d, kd_http_request *r)
{
    kd_job_record *j = job_of(d, r);
    const char *last = MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "Last-Event-ID");
    if (!j)
        return;
    if (last && *last >= '0' && *last <= '9')
        r->from = KD_MIN(strtoull(last, NULL, 10), (unsigned long long)INT64_MAX - 1) + 1;
    open_stream(r, j);
}

static void answer_metrics(kd_daemon *d, kd_http_request *r)
{
    r->status = MHD_HTTP_OK;
    r->type = "text/plain; version=0.0.4; charset=utf-8";
    r->more = kd_metrics_write(d, r->piece, &r->body);
}

const kd_http_route kd_http_api[] = {
    {"/metrics", KD_HTTP_ALL, answer_metrics, NULL, NULL},
    {"/api/v1/info", KD_HTTP_READER, answer_info, NULL, &kd_http_info},
    {"/api/v1/jobs", KD_HTTP_READER, answer_jobs, NULL, &kd_http_list},
    {"/api/v1/workers", KD_HTTP_READER, answer_workers, NULL, &kd_http_workers},
    {"/api/v1/stream", KD_HTTP_READER, answer_stream, NULL, NULL},
    {"/api/v1/jobs/*", KD_HTTP_READER, answer_job, NULL, &kd_http_detail},
    {"/api/v1/jobs/*/events", KD_HTTP_READER, answer_events, NULL, NULL},
    {"/api/v1/jobs/*/steps", KD_HTTP_READER, answer_steps, NULL, NULL},
    {"/api/v1/jobs/*/evaluation", KD_HTTP_READER, answer_evaluation, NULL, NULL},
    {"/api/v1/jobs/*/stream", KD_HTTP_READER, answer_job_stream, NULL, NULL},
};
const size_t kd_http_n_api = KD_COUNT(kd_http_api);

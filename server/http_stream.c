/* Live streams: server-sent events (WHATWG HTML, "Server-sent events").
 *
 * Of a job: `event` with what `distill events -o json` prints, its number as the id, so that a
 * browser which comes back goes on there; `progress` with a snapshot; `end` when the job is over.
 * Of the whole: `jobs` and `workers`, when they have changed.
 *
 * A reader that takes nothing for KD_HTTP_TIMEOUT_S is cut off. Until then stored events wait in
 * the database, and snapshots are left out. */
#include "http_internal.h"
#include "reading.h"

#include "kd/hash.h"
#include "json/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define LOOK_MS 1000  /* between two looks at the whole */
#define BEAT_MS 10000 /* a sign of life, by which a client that is gone is seen */
#define LISTED 200    /* jobs of the whole */

struct kd_http_stream {
    /* the loop's */
    kd_http_stream *next;
    kd_http *http;
    bool whole;              /* else a watcher of a job feeds it */
    kd_digest jobs, workers; /* of the whole, as told last */
    kd_pki_identity who;     /* whose jobs the whole has, unless he sees all */
    kd_time_ms sent, stuck;  /* stuck: since when its reader takes nothing, 0 = it does */
    uint64_t taken_then;
    char job[KD_ID_TEXT];
    char token[KD_TOKEN_TEXT]; /* of the session that it came with */

    pthread_mutex_t mu; /* guards what follows */
    int refs;
    struct MHD_Connection *connection; /* NULL before and after its answer */
    kd_buf out;
    size_t at;      /* of out, taken */
    uint64_t taken; /* in all */
    bool waits;     /* its connection is suspended until there is more */
    bool over;
};

/* Under the lock, which it releases. */
static void release(kd_http_stream *s)
{
    bool last = --s->refs == 0;
    pthread_mutex_unlock(&s->mu);
    if (!last)
        return;
    kd_buf_clear(&s->out);
    pthread_mutex_destroy(&s->mu);
    kd_pki_wipe(s->token, sizeof s->token);
    free(s);
}

/* Under the lock. */
static void wake(kd_http_stream *s)
{
    if (!s->waits)
        return;
    s->waits = false;
    MHD_resume_connection(s->connection);
}

/* ---- the connection's thread */

static ssize_t give(void *arg, uint64_t position, char *bytes, size_t most)
{
    kd_http_stream *s = arg;
    (void)position;
    pthread_mutex_lock(&s->mu);
    size_t n = KD_MIN(s->out.len - s->at, most);
    ssize_t rc = (ssize_t)n;
    if (n > 0) {
        memcpy(bytes, s->out.data + s->at, n);
        s->at += n;
        s->taken += n;
        if (s->at == s->out.len)
            s->out.len = s->at = 0;
    } else if (s->over) {
        rc = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        s->waits = true;
        MHD_suspend_connection(s->connection);
    }
    pthread_mutex_unlock(&s->mu);
    return rc;
}

static void on_free(void *arg)
{
    kd_http_stream_leave(arg);
}

void kd_http_stream_leave(kd_http_stream *s)
{
    pthread_mutex_lock(&s->mu);
    s->connection = NULL;
    s->over = true;
    release(s);
}

struct MHD_Response *kd_http_stream_response(kd_http_stream *s, struct MHD_Connection *connection)
{
    struct MHD_Response *m =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, give, s, on_free);
    if (!m) {
        kd_http_stream_leave(s);
        return NULL;
    }
    pthread_mutex_lock(&s->mu);
    s->connection = connection;
    pthread_mutex_unlock(&s->mu);
    return m;
}

/* ---- the loop */

static size_t queued(void *arg)
{
    kd_http_stream *s = arg;
    pthread_mutex_lock(&s->mu);
    size_t n = s->out.len - s->at;
    pthread_mutex_unlock(&s->mu);
    return n;
}

/* id 0 = none. */
static int push_text(kd_http_stream *s, const char *event, uint64_t id, const char *text)
{
    pthread_mutex_lock(&s->mu);
    int rc = s->over ? -KD_ECANCELED : 0;
    if (rc == 0 && s->out.len + strlen(text) > KD_HTTP_QUEUE)
        rc = -KD_ELIMIT;
    if (rc == 0 && id)
        rc = kd_buf_printf(&s->out, "id: %llu\n", (unsigned long long)id);
    if (rc == 0)
        rc = kd_buf_printf(&s->out, "event: %s\ndata: %s\n\n", event, text);
    wake(s);
    pthread_mutex_unlock(&s->mu);
    s->sent = kd_clock_ms();
    return rc;
}

/* json is dropped. */
static int push(kd_http_stream *s, const char *event, uint64_t id, json_t *json)
{
    char *text = kd_http_text(json);
    const int rc = text ? push_text(s, event, id, text) : -KD_ENOMEM;
    free(text);
    return rc;
}

static void end(kd_http_stream *s)
{
    pthread_mutex_lock(&s->mu);
    s->over = true;
    wake(s);
    pthread_mutex_unlock(&s->mu);
}

static int send_event(void *to, const Distill__V1__Event *e)
{
    kd_http_stream *s = to;
    bool progress = e->progress != NULL;
    return push(s, progress ? "progress" : "event", e->seq, kd_json_event(s->job, e));
}

static void finish(void *to, int code, const char *text)
{
    kd_http_stream *s = to;
    /* Told again and again until it is dropped. */
    pthread_mutex_lock(&s->mu);
    bool over = s->over;
    pthread_mutex_unlock(&s->mu);
    if (over)
        return;
    (void)push(s, "end", 0, json_pack("{s:i, s:s}", "code", code, "text", text));
    end(s);
}

static void drop(void *to)
{
    (void)to; /* kd_http_stream_tick lets go of it */
}

static const kd_watch_sink g_sink = {send_event, queued, finish, drop};

kd_http_stream *kd_http_stream_new(kd_http_request *r, kd_job_record *j)
{
    kd_http *h = r->http;
    if (h->n_streams >= KD_HTTP_STREAMS)
        return NULL;
    kd_http_stream *s = kd_xalloc(sizeof *s);
    s->http = h;
    s->whole = !j;
    s->refs = 2;
    s->sent = kd_clock_ms();
    s->who = r->who;
    snprintf(s->token, sizeof s->token, "%s", r->token);
    pthread_mutex_init(&s->mu, NULL);
    kd_buf_init(&s->out, 2 * KD_HTTP_QUEUE);
    s->next = h->streams;
    h->streams = s;
    h->n_streams++;
    if (!j)
        return s;
    kd_id_text(j->row.id, s->job);
    kd_watcher *w = kd_xalloc(sizeof *w);
    *w = (kd_watcher){.sink = &g_sink,
                      .to = s,
                      .job = j->row.id,
                      .next_seq = r->from,
                      .follow = true,
                      .progress = true};
    kd_watch_add(h->daemon, w);
    return s;
}

/* ---- the whole */

/* Packed on the loop, made text on the pool, sent on the loop. */
struct shown {
    const kd_http_form *form;
    kd_buf packed;
    char *text; /* NULL: it could not be made */
    kd_digest digest;
};
/* The jobs of who sees all of them, or of one who sees his own. */
struct listing {
    kd_pki_identity who;
    struct shown jobs;
};
struct look {
    kd_http *http;
    uv_work_t work;
    struct shown workers;
    struct listing listings[KD_HTTP_STREAMS];
    size_t n;
};

static void pack(void *arg, const void *message)
{
    struct shown *w = arg;
    w->packed.failed = kd_wire_pack(message, &w->packed) != 0;
}

static void begin_shown(struct shown *w, const kd_http_form *form)
{
    w->form = form;
    kd_buf_init(&w->packed, KD_HTTP_BODY);
}

static void clear_shown(struct shown *w)
{
    kd_buf_clear(&w->packed);
    free(w->text);
}

static void make_text(struct shown *w)
{
    kd_diag diag = {0};
    w->text = w->packed.failed ? NULL : kd_http_json(w->form, &w->packed, &diag);
    if (w->text)
        w->digest = kd_digest_of(w->text, strlen(w->text));
}

static void make_texts(uv_work_t *work)
{
    struct look *l = work->data;
    make_text(&l->workers);
    for (size_t i = 0; i < l->n; i++)
        make_text(&l->listings[i].jobs);
}

/* NULL: there was no such stream yet when it was looked. */
static struct listing *listing_of(struct look *l, const kd_http_stream *s)
{
    bool all = kd_http_sees_all(l->http, &s->who);
    for (size_t i = 0; i < l->n; i++) {
        const kd_pki_identity *who = &l->listings[i].who;
        if (kd_http_sees_all(l->http, who) == all && (all || strcmp(who->name, s->who.name) == 0))
            return &l->listings[i];
    }
    return NULL;
}

static void tell(kd_http_stream *s, const char *event, const struct shown *w, kd_digest *told)
{
    if (w->text && !kd_digest_equal(&w->digest, told) && push_text(s, event, 0, w->text) == 0)
        *told = w->digest;
}

/* Sends what differs from what was sent last. */
static void tell_whole(kd_http_stream *s, struct look *l)
{
    const struct listing *own = listing_of(l, s);
    if (!own || queued(s) > 0)
        return; /* the next one will do */
    tell(s, "jobs", &own->jobs, &s->jobs);
    tell(s, "workers", &l->workers, &s->workers);
}

static void texts_made(uv_work_t *work, int status)
{
    struct look *l = work->data;
    kd_http *h = l->http;
    h->daemon->writes_running--;
    h->looking = false;
    for (kd_http_stream *s = h->streams; s && status == 0; s = s->next)
        if (s->whole)
            tell_whole(s, l);
    clear_shown(&l->workers);
    for (size_t i = 0; i < l->n; i++)
        clear_shown(&l->listings[i].jobs);
    free(l);
}

static bool any_whole(const kd_http *h)
{
    const kd_http_stream *s = h->streams;
    while (s && !s->whole)
        s = s->next;
    return s;
}

static void look(kd_http *h, kd_time_ms now)
{
    if (now - h->looked < LOOK_MS || h->looking || h->closing)
        return;
    h->looked = now;
    if (!any_whole(h))
        return;
    struct look *l = kd_xalloc(sizeof *l);
    l->http = h;
    l->work.data = l;
    begin_shown(&l->workers, &kd_http_workers);
    kd_tell_workers(h->daemon, pack, &l->workers);
    for (const kd_http_stream *s = h->streams; s && l->n < KD_HTTP_STREAMS; s = s->next) {
        if (!s->whole || listing_of(l, s))
            continue;
        struct listing *own = &l->listings[l->n++];
        own->who = s->who;
        begin_shown(&own->jobs, &kd_http_list);
        kd_tell_list(h->daemon, &s->who, LISTED, NULL, pack, &own->jobs);
    }
    h->looking = true;
    h->daemon->writes_running++;
    KD_BUG_ON(uv_queue_work(&h->daemon->loop, &l->work, make_texts, texts_made) != 0);
}

/* ---- life */

/* Without a word for a while: a comment, which clients skip. */
static void beat(kd_http_stream *s, kd_time_ms now)
{
    if (now - s->sent < BEAT_MS)
        return;
    s->sent = now;
    pthread_mutex_lock(&s->mu);
    if (s->out.len == 0)
        (void)kd_buf_str(&s->out, ":\n\n");
    wake(s);
    pthread_mutex_unlock(&s->mu);
}

/* Cuts the connection of a reader that takes nothing, or a byte now and then. */
static void cut_slow(kd_http_stream *s, kd_time_ms now)
{
    pthread_mutex_lock(&s->mu);
    bool idle = s->out.len == 0 || s->taken - s->taken_then > KD_HTTP_HEAD;
    if (idle || !s->stuck) {
        s->stuck = idle ? 0 : now;
        s->taken_then = s->taken;
    } else if (now - s->stuck > KD_HTTP_TIMEOUT_S * 1000 && s->connection) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(s->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        s->over = true;
        if (info)
            shutdown(info->connect_fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&s->mu);
}

/* Its client has gone: nobody else knows of it. */
static bool is_left(kd_http_stream *s)
{
    pthread_mutex_lock(&s->mu);
    bool left = s->refs == 1;
    pthread_mutex_unlock(&s->mu);
    return left;
}

static void let_go(kd_http *h, kd_http_stream **at)
{
    kd_http_stream *s = *at;
    *at = s->next;
    h->n_streams--;
    kd_watch_drop(h->daemon, s);
    pthread_mutex_lock(&s->mu);
    release(s);
}

/* Sessions that were revoked or are over since. */
static void end_strangers(kd_http *h)
{
    if (!kd_access_required(h->daemon->access))
        return;
    for (kd_http_stream *s = h->streams; s; s = s->next)
        if (!kd_http_session_ok(h, s->token))
            end(s);
}

void kd_http_stream_tick(kd_http *h, kd_time_ms now)
{
    if (now - h->looked >= LOOK_MS)
        end_strangers(h);
    for (kd_http_stream **at = &h->streams; *at;) {
        if (is_left(*at)) {
            let_go(h, at);
            continue;
        }
        beat(*at, now);
        cut_slow(*at, now);
        at = &(*at)->next;
    }
    look(h, now);
}

void kd_http_stream_end_all(kd_http *h)
{
    for (kd_http_stream **at = &h->streams; *at;) {
        end(*at);
        if (is_left(*at))
            let_go(h, at);
        else
            at = &(*at)->next;
    }
}

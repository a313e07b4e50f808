#include "follow.h"

#include "format.h"
#include "output.h"
#include "views.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define QUEUE_BYTES (8u << 20) /* events not yet printed; the stream starts again past it */
#define QUEUE_PROGRESS 16      /* events waiting when snapshots begin to be left out */
#define SLICE_MS 100

typedef struct item {
    struct item *next;
    size_t len;
    uint8_t bytes[];
} item;

/* One stream. The callbacks use it until on_end, which its owner waits for before freeing. */
typedef struct stream {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    /* guarded by mu: */
    item *first, **last;
    size_t queued, queued_bytes;
    bool overflow, ended;
    int end_code;
    char end_text[1024];
} stream;

static void on_message(kd_rpc_stream *s, const uint8_t *bytes, size_t len, void *arg)
{
    stream *st = arg;
    item *it = malloc(sizeof *it + len);
    if (it) {
        it->next = NULL;
        it->len = len;
        if (len)
            memcpy(it->bytes, bytes, len);
    }
    pthread_mutex_lock(&st->mu);
    if (!it || st->overflow || st->queued_bytes + len > QUEUE_BYTES) {
        /* What is left out here is asked for again by its number. */
        st->overflow = true;
        free(it);
    } else {
        *st->last = it;
        st->last = &it->next;
        st->queued++;
        st->queued_bytes += len;
    }
    bool overflow = st->overflow;
    pthread_cond_signal(&st->cond);
    pthread_mutex_unlock(&st->mu);
    if (overflow)
        kd_rpc_stream_cancel(s);
}

static void on_end(kd_rpc_stream *s, int code, const char *text, void *arg)
{
    (void)s;
    stream *st = arg;
    pthread_mutex_lock(&st->mu);
    st->ended = true;
    st->end_code = code;
    snprintf(st->end_text, sizeof st->end_text, "%s", text ? text : "");
    pthread_cond_signal(&st->cond);
    pthread_mutex_unlock(&st->mu);
}

static stream *stream_new(void)
{
    stream *st = kd_xalloc(sizeof *st);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&st->mu, NULL);
    pthread_cond_init(&st->cond, &attr);
    pthread_condattr_destroy(&attr);
    st->last = &st->first;
    return st;
}

static void stream_free(stream *st)
{
    while (st->first) {
        item *next = st->first->next;
        free(st->first);
        st->first = next;
    }
    pthread_cond_destroy(&st->cond);
    pthread_mutex_destroy(&st->mu);
    free(st);
}

/* Under mu. */
static void wait_slice(stream *st)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += SLICE_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_cond_timedwait(&st->cond, &st->mu, &until);
}

typedef struct follower {
    kd_conn *c;
    const kd_follow *f;
    uint64_t next_seq;
    kd_time_ms deadline; /* INT64_MAX = none */
} follower;

static int timed_out(const follower *w)
{
    char t[KD_FMT];
    kd_error(w->c->cli, "job %s has not ended after %s", w->f->job,
             kd_fmt_duration(w->f->timeout_s, t));
    kd_hint(w->c->cli, "the job goes on; `distill wait %s%s` waits again", w->f->job,
            w->c->cli->server_flag);
    return KD_EXIT_TIMEOUT;
}

static int handle(follower *w, const item *it)
{
    kd_diag diag = {0};
    ProtobufCMessage *m = NULL;
    if (kd_wire_unpack(&distill__v1__event__descriptor, it->bytes, it->len, &m, &diag) != 0) {
        kd_error(w->c->cli, "the coordinator's event makes no sense: %s", diag.msg);
        return KD_EXIT_FAILURE;
    }
    const Distill__V1__Event *e = (const Distill__V1__Event *)m;
    int rc = 0;
    if (e->seq == 0 || e->seq >= w->next_seq) {
        rc = w->f->on_event(e, w->f->arg);
        if (e->seq != 0)
            w->next_seq = e->seq + 1;
    }
    kd_wire_free(m);
    return rc;
}

/* Is a snapshot: has no seq (field 1, the first byte on the wire when there is one). */
static bool is_snapshot(const item *it)
{
    return it->len == 0 || it->bytes[0] != 0x08;
}

enum { STREAM_DONE = -1, STREAM_LOST = -2 };

/* STREAM_DONE: the coordinator ended it well. STREAM_LOST: *why. Else an exit code. */
static int run_stream(follower *w, kd_failure *why)
{
    Distill__V1__WatchRequest request = DISTILL__V1__WATCH_REQUEST__INIT;
    request.job = (char *)w->f->job;
    request.from_seq = w->next_seq;
    request.follow = w->f->follow;
    request.progress = w->f->progress;
    kd_buf packed;
    kd_buf_init(&packed, KD_MAX_CONTROL_BYTES);
    kd_diag diag = {0};
    stream *st = stream_new();
    kd_rpc_stream *s = NULL;
    kd_rpc_stream_events events = {.on_message = on_message, .on_end = on_end, .arg = st};
    int rc = kd_wire_pack_checked(&request, &packed);
    if (rc == 0)
        rc = kd_rpc_stream_open(w->c->channel, "/distill.v1.Jobs/Watch", 0, &events, &s, &diag);
    if (rc != 0) {
        *why = (kd_failure){.code = rc, .grpc_status = kd_err_grpc(rc)};
        snprintf(why->text, sizeof why->text, "%s", diag.msg);
        kd_buf_clear(&packed);
        stream_free(st);
        return STREAM_LOST;
    }
    /* A failed send shows as the stream's end. */
    (void)kd_rpc_stream_send(s, &(struct iovec){packed.data, packed.len}, 1);
    kd_rpc_stream_close_send(s);
    kd_buf_clear(&packed);

    int result = 0;
    pthread_mutex_lock(&st->mu);
    while (result == 0) {
        item *it = st->first;
        if (it) {
            st->first = it->next;
            if (!st->first)
                st->last = &st->first;
            st->queued--;
            st->queued_bytes -= it->len;
            bool skip = is_snapshot(it) && st->queued > QUEUE_PROGRESS;
            pthread_mutex_unlock(&st->mu);
            if (!skip)
                result = handle(w, it);
            free(it);
            pthread_mutex_lock(&st->mu);
            if (result == 0 && kd_cli_signal() != 0)
                result = kd_cli_signal_exit();
            continue;
        }
        if (st->ended) {
            result = st->end_code == 0 ? STREAM_DONE : STREAM_LOST;
            *why = (kd_failure){.code = st->overflow ? -KD_EUNAVAIL : st->end_code,
                                .grpc_status = kd_err_grpc(st->end_code)};
            snprintf(why->text, sizeof why->text, "%s",
                     st->overflow ? "events came faster than they could be printed" : st->end_text);
            break;
        }
        wait_slice(st);
        if (kd_cli_signal() != 0)
            result = kd_cli_signal_exit();
        else if (!st->first && kd_clock_ms() >= w->deadline)
            result = KD_EXIT_TIMEOUT;
        else if (!st->first && w->f->on_idle) {
            pthread_mutex_unlock(&st->mu);
            result = w->f->on_idle(w->f->arg);
            pthread_mutex_lock(&st->mu);
        }
    }
    bool ended = st->ended;
    pthread_mutex_unlock(&st->mu);
    if (!ended)
        kd_rpc_stream_cancel(s);
    pthread_mutex_lock(&st->mu);
    while (!st->ended)
        pthread_cond_wait(&st->cond, &st->mu);
    pthread_mutex_unlock(&st->mu);
    kd_rpc_stream_free(s);
    stream_free(st);
    return result;
}

/* The far side went away, rather than said no. */
static bool lost(const kd_failure *why)
{
    switch (why->code) {
    case -KD_EUNAVAIL:
    case -KD_ETIMEOUT:
    case -KD_ECANCELED:
    case -KD_EIO: /* a reset stream */
    case -KD_EINTERNAL:
        return true;
    default:
        return false;
    }
}

static int get_detail(follower *w, int timeout_ms, Distill__V1__JobDetail **out, kd_failure *why)
{
    Distill__V1__JobRequest request = DISTILL__V1__JOB_REQUEST__INIT;
    request.job = (char *)w->f->job;
    ProtobufCMessage *reply = NULL;
    int rc = kd_conn_call(w->c, "Get", &request, &distill__v1__job_detail__descriptor, timeout_ms,
                          false, &reply, why);
    if (rc != 0)
        return rc;
    *out = (Distill__V1__JobDetail *)reply;
    if ((*out)->summary)
        return 0;
    kd_wire_free(reply);
    *why = (kd_failure){.code = -KD_EDATA};
    snprintf(why->text, sizeof why->text, "the coordinator sent a job without a summary");
    return -KD_EDATA;
}

int kd_follow_run(kd_conn *c, const kd_follow *f, Distill__V1__JobDetail **out_detail)
{
    follower w = {.c = c, .f = f, .next_seq = f->from_seq ? f->from_seq : 1, .deadline = INT64_MAX};
    if (f->timeout_s >= 0)
        w.deadline = kd_clock_ms() + (kd_time_ms)(f->timeout_s * 1000);
    kd_time_ms lost_at = 0;
    int pause_ms = 500, odd = 0;
    bool first = true;
    char t[KD_FMT];
    for (;;) {
        kd_failure why = {0};
        Distill__V1__JobDetail *detail = NULL;
        uint64_t before = w.next_seq;
        /* A stream says nothing until an event comes, so a call asks first whether anybody is
         * there. */
        int rc = get_detail(&w, first ? KD_CONN_TIMEOUT_MS : 5000, &detail, &why);
        if (rc == 0) {
            kd_wire_free(&detail->base);
            detail = NULL;
            if (lost_at)
                kd_say(c->cli, "connected to coordinator %s again after %s", c->cli->server,
                       kd_fmt_duration((double)(kd_clock_ms() - lost_at) / 1000, t));
            lost_at = 0;
            first = false;
            rc = run_stream(&w, &why);
            if (rc == STREAM_DONE)
                rc = get_detail(&w, KD_CONN_TIMEOUT_MS, &detail, &why);
            else if (rc == KD_EXIT_TIMEOUT)
                return timed_out(&w);
            else if (rc > 0)
                return rc;
            if (rc == 0 && (!f->follow || kd_state_ended(detail->summary->state))) {
                if (out_detail)
                    *out_detail = detail;
                else
                    kd_wire_free(&detail->base);
                return KD_EXIT_OK;
            }
            if (rc == 0) {
                /* Ended well, but the job has not: the coordinator is going down in good order. */
                kd_wire_free(&detail->base);
                why = (kd_failure){.code = -KD_EUNAVAIL};
                snprintf(why.text, sizeof why.text, "the coordinator ended the stream");
            }
            if (w.next_seq > before) {
                pause_ms = 500;
                odd = 0;
            }
        }
        if (kd_cli_signal() != 0)
            return kd_cli_signal_exit();
        /* Internal errors are given three tries: a lost connection can look like one. */
        if (why.code == -KD_EIO || why.code == -KD_EINTERNAL)
            odd++;
        if (first || !lost(&why) || odd > 3)
            return kd_conn_report(c, &why, f->job);
        kd_time_ms now = kd_clock_ms();
        if (!lost_at) {
            lost_at = now;
            kd_say(c->cli,
                   "connection to coordinator %s lost; trying again (the job is safe there)",
                   c->cli->server);
        }
        if (now - lost_at > KD_FOLLOW_PATIENCE_MS)
            return kd_conn_report(c, &why, f->job);
        if (now >= w.deadline)
            return timed_out(&w);
        if (!kd_conn_pause((int)KD_MIN((kd_time_ms)pause_ms, KD_MAX(w.deadline - now, 1))))
            return kd_cli_signal_exit();
        pause_ms = KD_MIN(pause_ms * 8 / 5, 5000);
    }
}

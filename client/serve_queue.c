/* Requests in order of arrival, and the lanes that compute their pictures. */
#include "serve.h"

#include "kd/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_MS 0.01 /* the first bucket of latencies; each is 5 % above the one before */
#define GROWTH 1.05

/* ---- counting */

static void count_answer(kd_serve_counts *c, double seconds, size_t pictures)
{
    const double at = log(KD_MAX(seconds * 1000, LEAST_MS) / LEAST_MS) / log(GROWTH);
    c->buckets[KD_MIN((size_t)at, (size_t)KD_SERVE_BUCKETS - 1)]++;
    c->seconds += seconds;
    c->answered++;
    c->pictures += pictures;
}

double kd_serve_percentile(const kd_serve_counts *c, double share)
{
    uint64_t below = 0;
    for (int i = 0; i < KD_SERVE_BUCKETS; i++)
        if ((below += c->buckets[i]) > 0 && (double)below >= share * (double)c->answered)
            return LEAST_MS * pow(GROWTH, i + 1);
    return NAN;
}

/* ---- requests */

void kd_serve_request_free(kd_serve_request *r)
{
    if (!r)
        return;
    if (r->call)
        kd_rpc_call_unref(r->call);
    kd_wire_free((ProtobufCMessage *)r->m);
    free(r->pictures);
    free(r->logits);
    free(r);
}

bool kd_serve_enter(kd_serve *s)
{
    pthread_mutex_lock(&s->mu);
    const bool room = s->inside < s->queue;
    s->inside += room;
    s->counts.refused += !room;
    pthread_mutex_unlock(&s->mu);
    return room;
}

void kd_serve_leave(kd_serve *s)
{
    pthread_mutex_lock(&s->mu);
    s->inside--;
    s->counts.failed++;
    pthread_mutex_unlock(&s->mu);
}

void kd_serve_push(kd_serve *s, kd_serve_request *r)
{
    pthread_mutex_lock(&s->mu);
    r->refs = 2;
    r->next = NULL;
    *s->end = r;
    s->end = &r->next;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
}

/* Under mu. Whether it was the last reference. */
static bool let_go(kd_serve_request *r)
{
    return --r->refs == 0;
}

void kd_serve_call_over(kd_serve *s, kd_serve_request *r, bool cancelled)
{
    pthread_mutex_lock(&s->mu);
    r->gone |= cancelled;
    const bool last = let_go(r);
    pthread_mutex_unlock(&s->mu);
    if (last)
        kd_serve_request_free(r);
}

/* ---- lanes */

/* [3,h,w] to [h,w,3]. */
static void interleave(const float *planes, size_t pixels, float *out)
{
    for (size_t i = 0; i < pixels; i++)
        for (size_t c = 0; c < 3; c++)
            out[3 * i + c] = planes[c * pixels + i];
}

static int compute(const kd_serve *s, kd_predict_lane *lane, const kd_serve_request *r, size_t at,
                   kd_diag *diag)
{
    const struct iovec *p = &r->pictures[at];
    const size_t classes = (size_t)s->net.net.n_classes;
    int rc = 0;
    if (r->input == KD_SERVE_FILES) {
        rc = kd_predict_bytes(&s->net, p->iov_base, p->iov_len, lane->rgb, lane->input, diag);
        if (rc == -KD_EDATA || rc == -KD_ELIMIT) {
            diag->code = -KD_EINVAL;
            rc = kd_fail_at(diag, -KD_EINVAL, "picture %zu", at);
        }
    } else if (s->nchw) {
        interleave(p->iov_base, (size_t)s->net.w * (size_t)s->net.h, lane->input);
    } else {
        memcpy(lane->input, p->iov_base, p->iov_len);
    }
    if (rc == 0)
        rc = kd_predict_input(lane, diag);
    if (rc == 0)
        memcpy(r->logits + at * classes, lane->logits, classes * sizeof(float));
    return rc;
}

/* Waits for a request; NULL when nothing more will come. Under mu. */
static kd_serve_request *next_picture(kd_serve *s, size_t *out_at)
{
    while (!s->first && !s->stop)
        pthread_cond_wait(&s->changed, &s->mu);
    kd_serve_request *r = s->first;
    if (!r)
        return NULL;
    *out_at = r->begun++;
    if (r->begun == r->n && !(s->first = r->next))
        s->end = &s->first;
    return r;
}

/* Its last picture is done. Under mu, which is given up meanwhile. */
static void finish(kd_serve *s, kd_serve_request *r)
{
    const bool gone = r->gone, failed = r->why.code != 0;
    pthread_mutex_unlock(&s->mu);
    if (!gone && failed)
        kd_rpc_finish_diag(r->call, &r->why);
    else if (!gone)
        kd_serve_answer(s, r);
    pthread_mutex_lock(&s->mu);
    s->inside--;
    if (gone)
        s->counts.gone++;
    else if (failed)
        s->counts.failed++;
    else
        count_answer(&s->counts, kd_clock_s() - r->arrived, r->n);
    if (let_go(r))
        kd_serve_request_free(r);
}

static void work(kd_serve *s, kd_predict_lane *lane)
{
    size_t at = 0;
    for (kd_serve_request *r; (r = next_picture(s, &at));) {
        const bool wanted = !r->gone && r->why.code == 0;
        kd_diag diag = {0};
        pthread_mutex_unlock(&s->mu);
        if (wanted)
            (void)compute(s, lane, r, at, &diag); /* diag tells */
        pthread_mutex_lock(&s->mu);
        if (diag.code != 0 && r->why.code == 0)
            r->why = diag;
        if (++r->done == r->n)
            finish(s, r);
    }
}

static void *lane_main(void *arg)
{
    kd_serve *s = arg;
    kd_diag diag = {0};
    kd_predict_lane lane;
    kd_engine_thread();
    const bool begun = kd_predict_lane_init(&lane, &s->net, &diag) == 0;
    pthread_mutex_lock(&s->mu);
    s->ready += begun;
    if (!begun) {
        s->broken = diag;
        s->stop = true;
    }
    pthread_cond_broadcast(&s->changed);
    if (begun)
        work(s, &lane);
    pthread_mutex_unlock(&s->mu);
    if (begun)
        kd_predict_lane_clear(&lane);
    return NULL;
}

int kd_serve_start(kd_serve *s, kd_diag *diag)
{
    s->end = &s->first;
    while (s->n_lanes < s->threads &&
           pthread_create(&s->lanes[s->n_lanes], NULL, lane_main, s) == 0)
        s->n_lanes++;
    int rc = 0;
    pthread_mutex_lock(&s->mu);
    while (s->ready < s->n_lanes && !s->stop)
        pthread_cond_wait(&s->changed, &s->mu);
    if (s->broken.code != 0)
        rc = kd_fail(diag, s->broken.code, "%s", s->broken.msg);
    pthread_mutex_unlock(&s->mu);
    if (rc == 0 && s->n_lanes < s->threads)
        rc = kd_fail(diag, -KD_ELIMIT, "%d threads could be started, not %d (--threads)",
                     s->n_lanes, s->threads);
    if (rc != 0)
        kd_serve_stop(s);
    return rc;
}

void kd_serve_stop(kd_serve *s)
{
    pthread_mutex_lock(&s->mu);
    s->stop = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
    for (int i = 0; i < s->n_lanes; i++)
        pthread_join(s->lanes[i], NULL);
    s->n_lanes = 0;
}

#include "daemon.h"

#include "engine/plan.h"
#include "kd/clock.h"
#include "kd/failpoint.h"
#include "kd/hash.h"
#include "kd/log_sink.h"
#include "kd/process.h"
#include "log_ship.h"
#include "renew.h"
#include "rpc/rpc.h"
#include "runner.h"
#include "wire/wire.h"

#include "distill.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <uv.h>

#define BACKOFF_FIRST_MS 200
#define BACKOFF_LAST_MS 5000

struct worker {
    const kd_worker_config *cfg;
    const char *name; /* in lists */
    char certified[KD_PKI_NAME];
    uv_loop_t loop;
    uv_async_t news;
    uv_timer_t beat, retry, drain;
    uv_signal_t sigint, sigterm;
    int signals;
    kd_rpc *rpc;
    kd_rpc_channel *channel;
    kd_renewal *renewal; /* NULL with plain text */
    kd_runner *runner;
    kd_engine_info info;
    char numerics[KD_DIGEST_HEX], incarnation[17];
    int backoff_ms;
    bool welcomed, said_lost;
    int final_code; /* the coordinator's last word; 0 = none */
    kd_diag *diag;

    /* Of the stream's callbacks, and anew with each stream. */
    bool sealed; /* its messages come with checksums */
    bool deaf;   /* one was damaged: the stream ends, and what else it brings is not heard */

    pthread_mutex_t mu; /* guards all below; gRPC's threads write it */
    kd_rpc_stream *stream;
    bool ended; /* the stream's end was told */
    int end_code;
    char end_text[KD_DIAG_MAX];
    uint32_t heartbeat_ms; /* from a welcome that the loop has not seen; 0 = none */
    uint64_t epoch;
};

/* ---- gRPC's threads */

static void on_message(kd_rpc_stream *s, const uint8_t *bytes, size_t len, void *arg)
{
    struct worker *w = arg;
    kd_diag diag = {0};
    ProtobufCMessage *raw = NULL;
    if (w->deaf)
        return;
    int rc = kd_wire_unpack_checked(&distill__v1__coordinator_message__descriptor, bytes, len,
                                    &w->sealed, &raw, &diag);
    if (rc != 0) {
        kd_warn("a message of the coordinator is refused: %s", diag.msg);
        /* What it said is not known, so the worker joins again and is told anew. */
        w->deaf = rc == -KD_EDATA;
        if (w->deaf)
            kd_rpc_stream_cancel(s);
        return;
    }
    Distill__V1__CoordinatorMessage *m = (Distill__V1__CoordinatorMessage *)raw;
    if (m->kind_case == DISTILL__V1__COORDINATOR_MESSAGE__KIND_WELCOME) {
        pthread_mutex_lock(&w->mu);
        w->heartbeat_ms = KD_MIN(KD_MAX(m->welcome->heartbeat_ms, 10u), 60000u);
        w->epoch = m->welcome->epoch;
        pthread_mutex_unlock(&w->mu);
        kd_wire_free(raw);
        uv_async_send(&w->news);
        return;
    }
    kd_runner_command(w->runner, m);
}

static void on_end(kd_rpc_stream *s, int code, const char *text, void *arg)
{
    struct worker *w = arg;
    (void)s;
    pthread_mutex_lock(&w->mu);
    w->ended = true;
    w->end_code = code;
    snprintf(w->end_text, sizeof w->end_text, "%.900s", text);
    pthread_mutex_unlock(&w->mu);
    uv_async_send(&w->news);
}

/* From any thread. A message that finds no stream is of no use to a later one:
 * its job is dropped. */
static void send_message(void *arg, const Distill__V1__WorkerMessage *m)
{
    struct worker *w = arg;
    kd_buf buf;
    kd_buf_init(&buf, KD_MAX_CONTROL_BYTES);
    if (kd_wire_pack_checked(m, &buf) != 0) {
        kd_err("a message to the coordinator is too large and was not sent");
    } else {
        pthread_mutex_lock(&w->mu);
        if (w->stream)
            (void)kd_rpc_stream_send(w->stream, &(struct iovec){buf.data, buf.len}, 1);
        pthread_mutex_unlock(&w->mu);
    }
    kd_buf_clear(&buf);
}

/* ---- the loop */

static void send_hello(struct worker *w)
{
    Distill__V1__Hello h = DISTILL__V1__HELLO__INIT;
    h.protocol = KD_PROTOCOL;
    h.version = KD_VERSION;
    h.name = (char *)w->name;
    h.incarnation = w->incarnation;
    h.threads = (uint32_t)w->cfg->threads;
    h.cpu = w->info.cpu;
    h.blas = w->info.blas;
    h.isa = w->info.isa;
    h.numerics = w->numerics;
    h.trials = true;
    Distill__V1__Offer offer = DISTILL__V1__OFFER__INIT;
    kd_runner_status s;
    if (kd_runner_offer(w->runner, &s, &offer.version, &offer.first_chunk)) {
        KD_FAILPOINT("worker.offer");
        offer.job = s.job;
        offer.stage = s.stage;
        h.offer = &offer;
    }
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_HELLO;
    m.hello = &h;
    send_message(w, &m);
}

static void on_beat(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    kd_runner_status s;
    kd_runner_status_get(w->runner, &s);
    Distill__V1__Heartbeat h = DISTILL__V1__HEARTBEAT__INIT;
    h.job = s.job;
    h.stage = s.stage;
    h.step = s.step;
    h.units_done = s.units;
    h.teacher_forwards = s.teacher_forwards;
    h.bank_hits = s.bank_hits;
    h.teacher_seconds = s.teacher_seconds;
    h.phase = (char *)s.phase;
    kd_process_now p = kd_process_look();
    h.resident_bytes = p.resident_bytes;
    h.descriptors = p.descriptors;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_HEARTBEAT;
    m.heartbeat = &h;
    send_message(w, &m);
    kd_log_ship(send_message, w);
}

static void on_retry(uv_timer_t *timer);

static void connect_stream(struct worker *w)
{
    kd_rpc_stream_events ev = {on_message, on_end, w};
    kd_rpc_stream *s = NULL;
    kd_diag diag = {0};
    w->sealed = w->deaf = false;
    pthread_mutex_lock(&w->mu);
    w->ended = false;
    int rc = kd_rpc_stream_open(w->channel, "/distill.v1.Cluster/Control", 0, &ev, &s, &diag);
    w->stream = s;
    pthread_mutex_unlock(&w->mu);
    if (rc != 0)
        uv_timer_start(&w->retry, on_retry, BACKOFF_LAST_MS, 0);
    else
        send_hello(w);
}

static void on_retry(uv_timer_t *timer)
{
    connect_stream(timer->data);
}

static void lost_stream(struct worker *w, int code, const char *text)
{
    pthread_mutex_lock(&w->mu);
    kd_rpc_stream *s = w->stream;
    w->stream = NULL;
    pthread_mutex_unlock(&w->mu);
    kd_rpc_stream_free(s);
    uv_timer_stop(&w->beat);
    kd_runner_reset(w->runner);
    if (w->signals) {
        uv_stop(&w->loop);
        return;
    }
    if (code == -KD_ESTATE || code == -KD_EINVAL || code == -KD_EPERM) {
        w->final_code = kd_fail(w->diag, code, "the coordinator refuses this worker: %s", text);
        uv_stop(&w->loop);
        return;
    }
    if (w->welcomed)
        w->backoff_ms = BACKOFF_FIRST_MS;
    w->welcomed = false;
    if (!w->said_lost)
        kd_warn("no coordinator: %s; trying again until there is one", text);
    w->said_lost = true;
    /* Many workers that lost one coordinator must not come back all at once. */
    uint32_t jitter = 0;
    (void)!getrandom(&jitter, sizeof jitter, 0);
    int wait = w->backoff_ms / 2 + (int)(jitter % (uint32_t)w->backoff_ms);
    w->backoff_ms = KD_MIN(w->backoff_ms * 2, BACKOFF_LAST_MS);
    uv_timer_start(&w->retry, on_retry, (uint64_t)wait, 0);
}

static void on_news(uv_async_t *handle)
{
    struct worker *w = handle->data;
    pthread_mutex_lock(&w->mu);
    uint32_t beat = w->heartbeat_ms;
    uint64_t epoch = w->epoch;
    bool ended = w->ended;
    int code = w->end_code;
    char text[KD_DIAG_MAX];
    memcpy(text, w->end_text, sizeof text);
    w->heartbeat_ms = 0;
    w->ended = false;
    pthread_mutex_unlock(&w->mu);
    if (beat) {
        kd_info("joined: server=%s name=%s coordinator_epoch=%llu heartbeat_ms=%u", w->cfg->server,
                w->name, (unsigned long long)epoch, beat);
        w->welcomed = true;
        w->said_lost = false;
        uv_timer_start(&w->beat, on_beat, 0, beat);
    }
    if (ended)
        lost_stream(w, code, text[0] ? text : "the coordinator ended the stream");
}

static void on_drain_over(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    kd_warn("leaving with units under way: they took longer than --drain-s %d allows",
            w->cfg->drain_s);
    uv_stop(&w->loop);
}

/* What is under way is finished: the coordinator ends the stream when nothing is left to do. */
static void on_signal(uv_signal_t *handle, int number)
{
    struct worker *w = handle->data;
    if (w->signals++) {
        kd_warn("second signal: leaving at once");
        _exit(128 + number);
    }
    kd_info("stopping: signal=%d", number);
    if (!w->welcomed || w->cfg->drain_s == 0) {
        uv_stop(&w->loop);
        return;
    }
    Distill__V1__Leave leave = DISTILL__V1__LEAVE__INIT;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_LEAVE;
    m.leave = &leave;
    send_message(w, &m);
    uv_timer_start(&w->drain, on_drain_over, (uint64_t)w->cfg->drain_s * 1000, 0);
}

static void close_handles(struct worker *w)
{
    uv_close((uv_handle_t *)&w->news, NULL);
    uv_close((uv_handle_t *)&w->beat, NULL);
    uv_close((uv_handle_t *)&w->retry, NULL);
    uv_close((uv_handle_t *)&w->drain, NULL);
    uv_close((uv_handle_t *)&w->sigint, NULL);
    uv_close((uv_handle_t *)&w->sigterm, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    uv_loop_close(&w->loop);
}

/* The channel, protected as its address and what lies there want it, and the name that goes with
 * it. */
static int open_channel(struct worker *w, kd_diag *diag)
{
    const kd_worker_config *cfg = w->cfg;
    kd_login login;
    int rc = kd_login_choose(cfg->credentials, cfg->credentials_chosen, cfg->insecure, cfg->server,
                             &login, diag);
    if (rc < 0)
        return rc;
    bool secure = rc == 1;
    kd_rpc_tls tls = kd_login_tls(&login);
    memcpy(w->certified, login.who.name, sizeof w->certified);
    w->name = cfg->name ? cfg->name : secure ? w->certified : cfg->own_name;
    rc = kd_rpc_channel_new(w->rpc, cfg->server, secure ? &tls : NULL, KD_MAX_BULK_BYTES,
                            &w->channel, diag);
    if (rc == 0 && secure)
        w->renewal = kd_renewal_new(&w->loop, w->channel, &login);
    kd_log_set_worker(w->name);
    kd_log_ship_start();
    kd_login_clear(&login);
    return rc;
}

/* What teachers outside are shown, and whom to believe that he is one. Texts are owned. */
static int read_teacher_tls(const kd_worker_config *cfg, kd_rpc_tls *out, kd_diag *diag)
{
    char *ca = NULL, *identity = NULL;
    int rc = cfg->teacher_ca ? kd_pki_read_certificate(cfg->teacher_ca, &ca, diag) : 0;
    if (rc == 0 && cfg->teacher_identity)
        rc = kd_pki_read_key(cfg->teacher_identity, &identity, diag);
    if (rc == 0 && identity)
        rc = kd_pki_check(NULL, identity, identity, diag);
    *out = (kd_rpc_tls){.ca = ca, .certificate = identity, .key = identity};
    return rc;
}

int kd_worker_run(const kd_worker_config *cfg, kd_diag *diag)
{
    struct worker *w = kd_xalloc(sizeof *w);
    w->cfg = cfg;
    w->diag = diag;
    w->backoff_ms = BACKOFF_FIRST_MS;
    pthread_mutex_init(&w->mu, NULL);
    uv_loop_init(&w->loop);
    uv_async_init(&w->loop, &w->news, on_news);
    uv_timer_init(&w->loop, &w->beat);
    uv_timer_init(&w->loop, &w->retry);
    uv_timer_init(&w->loop, &w->drain);
    uv_signal_init(&w->loop, &w->sigint);
    uv_signal_init(&w->loop, &w->sigterm);
    w->news.data = w->beat.data = w->retry.data = w->drain.data = w;
    w->sigint.data = w->sigterm.data = w;
    uint64_t random = 0;
    (void)!getrandom(&random, sizeof random, 0);
    snprintf(w->incarnation, sizeof w->incarnation, "%016llx", (unsigned long long)random);

    int root = open(cfg->data_root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = root < 0 ? kd_fail(diag, -KD_ENOENT, "cannot open the data root %s: %s",
                                cfg->data_root, strerror(errno))
                      : 0;
    kd_engine_thread();
    if (rc == 0)
        rc = kd_engine_info_get(&w->info, diag);
    if (rc == 0) {
        kd_digest_hex(&w->info.numerics, w->numerics);
        kd_info("numerics: cpu=\"%s\" blas=%s isa=%s onednn=%s digest=%s threads=%d", w->info.cpu,
                w->info.blas, w->info.isa, w->info.onednn, w->numerics, cfg->threads);
        if (strcmp(w->info.blas, "Prescott") == 0)
            kd_warn("OpenBLAS runs its SSE3 kernels; set OPENBLAS_CORETYPE to what "
                    "the CPU is");
        rc = kd_rpc_new(2, &w->rpc, diag);
    }
    kd_rpc_tls teacher_tls = {0};
    if (rc == 0)
        rc = read_teacher_tls(cfg, &teacher_tls, diag);
    if (rc == 0)
        rc = open_channel(w, diag);
    if (rc == 0) {
        kd_runner_config rcfg = {.rpc = w->rpc,
                                 .channel = w->channel,
                                 .teacher_tls = &teacher_tls,
                                 .data_root = root,
                                 .threads = cfg->threads,
                                 .cores = cfg->n_cores > 0 ? cfg->cores : NULL,
                                 .cache_bytes = cfg->cache_bytes,
                                 .numerics = w->numerics,
                                 .process = random,
                                 .send = send_message,
                                 .arg = w};
        rc = kd_runner_new(&rcfg, &w->runner, diag);
    }
    if (rc == 0) {
        uv_signal_start(&w->sigint, on_signal, SIGINT);
        uv_signal_start(&w->sigterm, on_signal, SIGTERM);
        connect_stream(w);
        uv_run(&w->loop, UV_RUN_DEFAULT);
        rc = w->final_code;
    }
    pthread_mutex_lock(&w->mu);
    kd_rpc_stream *s = w->stream;
    w->stream = NULL;
    pthread_mutex_unlock(&w->mu);
    kd_rpc_stream_free(s);
    /* The runner waits for its calls: the closed channel ends them and refuses
     * others. */
    if (w->channel)
        kd_rpc_channel_close(w->channel);
    kd_renewal_stop(w->renewal);
    kd_runner_free(w->runner);
    kd_rpc_channel_free(w->channel);
    if (w->rpc)
        kd_rpc_free(w->rpc);
    kd_pki_drop((char *)teacher_tls.ca);
    kd_pki_drop((char *)teacher_tls.key);
    close_handles(w);
    kd_renewal_free(w->renewal);
    if (root >= 0)
        close(root);
    pthread_mutex_destroy(&w->mu);
    kd_log_set_worker(NULL);
    free(w);
    return rc;
}

#include "http.h"
#include "sweep.h"
#include "trials.h"

#include "kd/address.h"
#include "kd/failpoint.h"
#include "kd/file.h"
#include "kd/log.h"

#include "descriptor_set.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How soon a slow unit or a lost worker is seen. */
#define TICK_MS 25
/* How soon a certificate that is over ends what was begun with it. */
#define LOOK_MS 1000

void kd_answer(kd_rpc_call *call, const void *message)
{
    kd_buf buf;
    kd_buf_init(&buf, KD_MAX_CONTROL_BYTES);
    int rc = kd_wire_pack_checked(message, &buf);
    if (rc == 0)
        kd_rpc_reply(call, &(struct iovec){buf.data, buf.len}, 1);
    else
        kd_rpc_finish(call, rc, "the reply is too large");
    kd_buf_clear(&buf);
}

/* ---- tasks */

bool kd_daemon_post(kd_daemon *d, void (*run)(kd_daemon *, void *), void *arg)
{
    kd_task *t = malloc(sizeof *t);
    if (!t)
        return false;
    *t = (kd_task){NULL, run, arg};
    pthread_mutex_lock(&d->task_mu);
    bool open = !d->tasks_closed;
    if (open) {
        *d->tasks_end = t;
        d->tasks_end = &t->next;
        uv_async_send(&d->wake);
    }
    pthread_mutex_unlock(&d->task_mu);
    if (!open)
        free(t);
    return open;
}

/* Sends coalesce, so the whole queue is taken at once. */
static void run_tasks(kd_daemon *d)
{
    pthread_mutex_lock(&d->task_mu);
    kd_task *t = d->tasks;
    d->tasks = NULL;
    d->tasks_end = &d->tasks;
    pthread_mutex_unlock(&d->task_mu);
    while (t) {
        kd_task *next = t->next;
        t->run(d, t->arg);
        free(t);
        t = next;
    }
    kd_submit_run(d);
}

static void on_wake(uv_async_t *handle)
{
    run_tasks(handle->data);
}

void kd_daemon_fatal(kd_daemon *d, const kd_diag *diag)
{
    kd_err("cannot go on: %s", diag->msg);
    (void)d;
    /* What is on disk is whole; a restart knows all that was acknowledged. */
    _exit(1); /* other threads still run */
}

/* ---- the loop */

/* Said at most every 10 seconds. */
static void tell_refused(kd_daemon *d, kd_time_ms now)
{
    uint64_t refused = kd_rpc_refused_connections(),
             cut = kd_rpc_cut_connections() + kd_http_cut_connections(d->http);
    if ((refused == d->refused && cut == d->cut) ||
        (d->refused_told && now - d->refused_told < 10000))
        return;
    if (refused != d->refused)
        kd_warn("connections were refused, since no more descriptors are left: number=%llu; raise "
                "the limit of open files (ulimit -n, LimitNOFILE=)",
                (unsigned long long)(refused - d->refused));
    if (cut != d->cut)
        kd_warn("connections were cut, since more were open than had shown who they are: "
                "number=%llu",
                (unsigned long long)(cut - d->cut));
    d->refused = refused;
    d->cut = cut;
    d->refused_told = now;
}

static bool is_over(const kd_rpc_peer *peer, void *arg)
{
    return kd_access_is_over(arg, peer->identity);
}

/* New certificates of our own; streams of callers whose own are over end. */
static void look_after_certificates(kd_daemon *d, kd_time_ms now, bool reload)
{
    kd_diag diag = {0};
    if (!d->authority || (!reload && now - d->looked < LOOK_MS))
        return;
    d->looked = now;
    int rc = kd_authority_refresh(d->authority, reload, &diag);
    if (rc < 0)
        kd_err("the server's certificate stays as it is: %s", diag.msg);
    if (rc == 1) {
        kd_rpc_tls tls = kd_authority_tls(d->authority);
        kd_rpc_server_set_tls(d->server, &tls);
        kd_access_files_changed(d->access);
        kd_info("the server has another certificate: serial=%s", d->authority->own.serial);
    }
    if (kd_access_keep_admin(d->access, reload, &diag) != 0)
        kd_err("the admin's certificate stays as it is: %s", diag.msg);
    kd_rpc_server_end_calls(d->server, is_over, d->access, -KD_EAUTH,
                            "the certificate is over or was revoked");
}

static void on_reload(uv_signal_t *handle, int number)
{
    (void)number;
    look_after_certificates(handle->data, kd_clock_ms(), true);
}

static void on_tick(uv_timer_t *timer)
{
    kd_daemon *d = timer->data;
    /* Timers run before what has come meanwhile is looked at: after a long blocking of the loop the
     * heartbeats that wait must count before anybody is dropped for silence. */
    run_tasks(d);
    kd_time_ms now = kd_clock_ms();
    kd_cluster_tick(d, now);
    kd_trial_tick(d, now);
    kd_watch_tick(d, now);
    kd_http_tick(d->http, now);
    tell_refused(d, now);
    kd_access_tick(d->access, now);
    look_after_certificates(d, now, false);
    kd_room_tick(&d->room, now);
    kd_stage_tick(d, now);
    kd_result_tick(d);
    kd_keep_tick(d, now);
    kd_hooks_tick(d, now);
    kd_worker_log_tick(d, now);
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_TICK});
}

static void on_signal(uv_signal_t *handle, int number)
{
    kd_daemon *d = handle->data;
    if (d->stopping++) {
        kd_warn("second signal: leaving at once");
        _exit(128 + number);
    }
    kd_info("stopping: signal=%d", number);
    uv_stop(&d->loop);
}

static int write_port(const char *path, int port, kd_diag *diag)
{
    char text[16];
    int n = snprintf(text, sizeof text, "%d\n", port);
    return kd_file_write(path, text, (size_t)n, diag);
}

/* Plain text shows everything to whoever is on the way. */
static int check_plain(const kd_daemon_config *cfg, kd_diag *diag)
{
    if (cfg->insecure || kd_address_is_loopback(cfg->listen))
        return 0;
    return kd_fail(diag, -KD_EINVAL,
                   "%.200s can be reached from other machines, and there are no certificates in "
                   "%.300s/tls: make them with `distilld init --state-dir %.300s`, listen on "
                   "127.0.0.1, or allow plain text with --insecure",
                   cfg->listen, cfg->state_dir, cfg->state_dir);
}

/* Certificates where `distilld init` has made some. */
static int open_access(kd_daemon *d, const kd_daemon_config *cfg, kd_diag *diag)
{
    char path[4096];
    snprintf(path, sizeof path, "%.3000s/tls", cfg->state_dir);
    int rc = cfg->insecure ? -KD_ENOENT
                           : kd_authority_open(path, cfg->certificate_life_s, &d->authority, diag);
    if (rc == -KD_ENOENT && (rc = check_plain(cfg, diag)) == 0 && cfg->insecure &&
        !kd_address_is_loopback(cfg->listen))
        kd_warn("plain text on %s: whoever reaches it may do everything", cfg->listen);
    return rc == 0 ? kd_access_open(&d->state, d->authority, &cfg->quotas, &d->access, diag) : rc;
}

static int start_server(kd_daemon *d, const kd_daemon_config *cfg, kd_rpc_method *methods,
                        size_t n_methods, kd_diag *diag)
{
    for (size_t i = 0; i < n_methods; i++) {
        methods[i].arg = d;
        methods[i].rule = kd_access_rule(methods[i].path);
    }
    kd_rpc_tls tls = d->authority ? kd_authority_tls(d->authority) : (kd_rpc_tls){0};
    kd_rpc_server_config sc = {.listen = cfg->listen,
                               .tls = d->authority ? &tls : NULL,
                               .guard = kd_access_guard(d->access),
                               .methods = methods,
                               .n_methods = n_methods,
                               .max_message = KD_MAX_BULK_BYTES,
                               .descriptor_set = kd_descriptor_set,
                               .descriptor_set_len = sizeof kd_descriptor_set};
    int rc = kd_rpc_server_new(d->rpc, &sc, &d->server, diag);
    if (rc == 0)
        KD_FAILPOINT("start.serving");
    if (rc != 0 || !cfg->port_file)
        return rc;
    return write_port(cfg->port_file, kd_rpc_server_port(d->server), diag);
}

static int start_http(kd_daemon *d, const kd_daemon_config *cfg, kd_diag *diag)
{
    if (!cfg->http)
        return 0;
    int rc = kd_http_start(d, cfg->http, cfg->insecure, &d->http, diag);
    if (rc != 0)
        return rc;
    kd_info("serving %s: address=%s port=%d%s", kd_access_required(d->access) ? "HTTPS" : "HTTP",
            cfg->http, kd_http_port(d->http),
            kd_http_is_open(d->http) ? " everybody who reaches it may read" : "");
    return cfg->http_port_file ? write_port(cfg->http_port_file, kd_http_port(d->http), diag) : 0;
}

static void close_handles(kd_daemon *d)
{
    uv_close((uv_handle_t *)&d->tick, NULL);
    uv_close((uv_handle_t *)&d->sigint, NULL);
    uv_close((uv_handle_t *)&d->sigterm, NULL);
    uv_close((uv_handle_t *)&d->sighup, NULL);
    uv_close((uv_handle_t *)&d->wake, NULL);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    uv_loop_close(&d->loop);
}

static void shut_down(kd_daemon *d)
{
    atomic_store(&d->closing, true);
    kd_trial_close(d);
    kd_cluster_close(d, "the coordinator is stopping");
    while (d->watchers) {
        const kd_watcher *w = d->watchers;
        w->sink->finish(w->to, -KD_EUNAVAIL, "the coordinator is stopping");
        kd_watch_drop(d, w->to);
    }
    kd_http_close(d->http);
    kd_hooks_stop(d);
    /* Checkpoints under way are finished: they are work that need not be done again. */
    while (d->writes_running)
        uv_run(&d->loop, UV_RUN_ONCE);
    if (d->server)
        kd_rpc_server_stop(d->server, 500);
    run_tasks(d);
    for (kd_job_record *j = d->jobs; j; j = j->next)
        for (int i = 0; i < j->n_stages; i++)
            if (j->stages[i].exchange)
                kd_stage_close(d, j, (uint32_t)i);
    kd_http_free(d->http); /* its last requests were answered by the tasks above */
    pthread_mutex_lock(&d->task_mu);
    d->tasks_closed = true;
    pthread_mutex_unlock(&d->task_mu);
}

static kd_rpc_method *all_methods(size_t *out_n)
{
    const struct {
        const kd_rpc_method *rows;
        size_t n;
    } services[] = {{kd_jobs_methods, kd_n_jobs_methods},
                    {kd_access_methods, kd_n_access_methods},
                    {kd_storage_methods, kd_n_storage_methods},
                    {kd_cluster_methods, kd_n_cluster_methods},
                    {kd_exchange_methods, kd_n_exchange_methods}};
    size_t n = 0;
    for (size_t i = 0; i < KD_COUNT(services); i++)
        n += services[i].n;
    kd_rpc_method *all = kd_xalloc(n * sizeof *all);
    *out_n = n;
    n = 0;
    for (size_t i = 0; i < KD_COUNT(services); i++) {
        memcpy(all + n, services[i].rows, services[i].n * sizeof *all);
        n += services[i].n;
    }
    return all;
}

static void count_commit(void *arg, double seconds)
{
    kd_histogram_add(&((kd_daemon *)arg)->counts.commit_seconds, seconds);
}

int kd_daemon_run(const kd_daemon_config *cfg, kd_diag *diag)
{
    kd_daemon *d = kd_xalloc(sizeof *d);
    d->state.lock_fd = -1;
    d->heartbeat_ms = cfg->heartbeat_ms;
    d->lease_ms = cfg->lease_ms;
    d->outside_teachers = cfg->outside_teachers;
    d->started_wall_ms = kd_clock_wall_ms();
    d->started = kd_clock_ms();
    d->tasks_end = &d->tasks;
    d->submits_end = &d->submits;
    pthread_mutex_init(&d->task_mu, NULL);
    pthread_mutex_init(&d->exchange_mu, NULL);
    uv_loop_init(&d->loop);
    uv_async_init(&d->loop, &d->wake, on_wake);
    uv_timer_init(&d->loop, &d->tick);
    uv_signal_init(&d->loop, &d->sigint);
    uv_signal_init(&d->loop, &d->sigterm);
    uv_signal_init(&d->loop, &d->sighup);
    d->wake.data = d->tick.data = d->sigint.data = d->sigterm.data = d->sighup.data = d;

    size_t n;
    kd_rpc_method *methods = all_methods(&n);

    char path[4096];
    snprintf(path, sizeof path, "%.3000s/bank", cfg->state_dir);
    kd_room_open(&d->room, cfg->state_dir, cfg->min_free);
    int rc = kd_state_open(cfg->state_dir, &d->state, diag);
    while (rc == -KD_ELIMIT && kd_room_make(&d->room, true))
        rc = kd_state_open(cfg->state_dir, &d->state, diag);
    if (rc == 0) {
        d->state.sql.make_room = kd_room_make;
        d->state.sql.make_room_arg = &d->room;
        d->state.sql.committed = count_commit;
        d->state.sql.committed_arg = d;
        rc = kd_bank_store_open(path, &d->bank, diag);
    }
    if (rc == 0) {
        kd_bank_store_keep_free(d->bank, cfg->min_free);
        d->core = kd_core_new(d->state.epoch);
        rc = kd_keep_open(d, &cfg->keep, diag);
    }
    if (rc == 0)
        rc = kd_daemon_restore(d, diag);
    if (rc == 0)
        rc = kd_hooks_open(d, &cfg->hooks, diag);
    KD_FAILPOINT("start.restored");
    if (rc == 0)
        rc = open_access(d, cfg, diag);
    if (rc == 0)
        rc = kd_rpc_new(2, &d->rpc, diag);
    if (rc == 0) {
        kd_blobs_drop_strays(d);
        kd_sweep_restore(d);
        for (kd_job_record *j = d->jobs; j; j = j->next)
            if (j->row.state <= KD_RUN_RUNNING && !j->row.is_sweep)
                kd_daemon_introduce(d, j, true);
        kd_daemon_event(d, &(kd_event){.kind = KD_EV_TICK});
        rc = start_http(d, cfg, diag);
    }
    if (rc == 0)
        rc = start_server(d, cfg, methods, n, diag);
    if (rc == 0) {
        kd_info("listening: address=%s port=%d state_dir=%s epoch=%llu version=%s tls=%s",
                cfg->listen, kd_rpc_server_port(d->server), cfg->state_dir,
                (unsigned long long)d->state.epoch, KD_VERSION, d->authority ? "yes" : "no");
        uv_timer_start(&d->tick, on_tick, TICK_MS, TICK_MS);
        uv_signal_start(&d->sigint, on_signal, SIGINT);
        uv_signal_start(&d->sigterm, on_signal, SIGTERM);
        uv_signal_start(&d->sighup, on_reload, SIGHUP);
        uv_run(&d->loop, UV_RUN_DEFAULT);
    }
    shut_down(d);
    kd_rpc_server_free(d->server);
    if (d->rpc)
        kd_rpc_free(d->rpc);
    run_tasks(d);
    close_handles(d);
    while (d->workers) {
        kd_worker_record *w = d->workers;
        d->workers = w->next;
        kd_rpc_call_unref(w->call);
        free(w);
    }
    while (d->jobs) {
        kd_job_record *j = d->jobs;
        d->jobs = j->next;
        kd_job_record_free(j);
    }
    kd_ids_clear(&d->job_ids);
    free(d->aside);
    kd_hooks_free(d->hooks);
    kd_core_free(d->core);
    kd_bank_store_close(d->bank);
    kd_access_close(d->access);
    kd_authority_close(d->authority);
    kd_state_close(&d->state);
    kd_room_close(&d->room);
    pthread_mutex_destroy(&d->task_mu);
    pthread_mutex_destroy(&d->exchange_mu);
    free(methods);
    free(d);
    return rc;
}

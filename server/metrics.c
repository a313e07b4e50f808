/* Metrics of workers and of the coordinator itself. */
#include "metrics.h"
#include "http_internal.h"
#include "rpc_meter.h"

#include "kd/file.h"
#include "kd/process.h"

#include <math.h>
#include <string.h>

#define G KD_METRIC_GAUGE
#define C KD_METRIC_COUNTER

/* ---- workers */

struct worker_metric {
    const char *name, *type, *help;
    double (*of)(const kd_daemon *d, const kd_worker_record *w);
};

static double units_rate_of(const kd_daemon *d, const kd_worker_record *w)
{
    (void)d;
    return w->units_rate;
}

static double units_of(const kd_daemon *d, const kd_worker_record *w)
{
    (void)d;
    return (double)w->units;
}

static double silence_of(const kd_daemon *d, const kd_worker_record *w)
{
    (void)d;
    return (double)(kd_clock_ms() - w->seen) / 1000;
}

static double slow_of(const kd_daemon *d, const kd_worker_record *w)
{
    return (double)kd_core_member_slow(d->core, w->id);
}

static double threads_of(const kd_daemon *d, const kd_worker_record *w)
{
    (void)d;
    return w->threads;
}

static double memory_of(const kd_daemon *d, const kd_worker_record *w)
{
    (void)d;
    return w->resident_bytes ? (double)w->resident_bytes : NAN;
}

static double descriptors_of(const kd_daemon *d, const kd_worker_record *w)
{
    (void)d;
    return w->descriptors ? (double)w->descriptors : NAN;
}

static const struct worker_metric g_worker_metrics[] = {
    {"distill_worker_rate", G, "Units (slots of a step) a second, smoothed.", units_rate_of},
    {"distill_worker_units_total", C, "Units since the worker started.", units_of},
    {"distill_worker_last_heartbeat_seconds", G, "Since the worker's last sign of life.",
     silence_of},
    {"distill_worker_slow_units_total", C,
     "Units that were given to others since this worker was slow, since it connected.", slow_of},
    {"distill_worker_threads", G, "Units that the worker runs at once.", threads_of},
    {"distill_worker_resident_memory_bytes", G, "Memory of the worker's process.", memory_of},
    {"distill_worker_open_fds", G, "Descriptors that the worker has open.", descriptors_of},
};

static void write_worker_states(const kd_daemon *d, kd_buf *b)
{
    static const char *const states[] = {"idle",     "preparing", "ready",      "working",
                                         "draining", "drained",   "quarantined"};
    size_t n[KD_COUNT(states)] = {0};
    for (const kd_worker_record *w = d->workers; w; w = w->next) {
        const char *state;
        (void)kd_core_member_job(d->core, w->id, &state);
        for (size_t i = 0; i < KD_COUNT(states); i++)
            n[i] += w->joined && strcmp(state, states[i]) == 0;
    }
    kd_metric_family(b, "distill_workers", G, "Connected workers by state.");
    for (size_t i = 0; i < KD_COUNT(states); i++)
        kd_metric_by_word(b, "distill_workers", "state", states[i], (double)n[i]);
}

static void write_worker_info(const kd_daemon *d, kd_buf *b)
{
    kd_metric_family(b, "distill_worker_info", G, "What a worker is, with the value 1.");
    for (const kd_worker_record *w = d->workers; w; w = w->next) {
        if (!w->joined)
            continue;
        (void)kd_buf_str(b, "distill_worker_info{");
        kd_metric_label(b, "worker", w->name);
        const char *const more[][2] = {{",address", w->address},   {",cpu", w->cpu},
                                       {",blas", w->blas},         {",isa", w->isa},
                                       {",numerics", w->numerics}, {",version", w->version}};
        for (size_t i = 0; i < KD_COUNT(more); i++)
            kd_metric_label(b, more[i][0], more[i][1]);
        (void)kd_buf_str(b, "} 1\n");
    }
}

static void write_worker_metric(const kd_daemon *d, const struct worker_metric *m, kd_buf *b)
{
    kd_metric_family(b, m->name, m->type, m->help);
    for (const kd_worker_record *w = d->workers; w; w = w->next) {
        double v = w->joined ? m->of(d, w) : NAN;
        if (!isnan(v))
            kd_metric_by_word(b, m->name, "worker", w->name, v);
    }
}

static void write_lost(const kd_daemon *d, kd_buf *b)
{
    static const char *const why[] = {"silent", "closed", "refused"};
    kd_metric_family(
        b, "distill_lease_expired_total", C,
        "Leases of workers that ended: silent for too long, stream closed, or ended by the "
        "coordinator.");
    for (size_t i = 0; i < KD_COUNT(why); i++)
        kd_metric_by_word(b, "distill_lease_expired_total", "reason", why[i],
                          (double)d->counts.lost[i]);
}

/* ---- the coordinator */

static size_t count_tasks(kd_daemon *d)
{
    size_t n = 0;
    pthread_mutex_lock(&d->task_mu);
    for (const kd_task *t = d->tasks; t; t = t->next)
        n++;
    pthread_mutex_unlock(&d->task_mu);
    return n;
}

/* A counter of two kinds of things. */
static void write_pair(kd_buf *b, const char *name, const char *help, const char *key,
                       const char *const words[2], const uint64_t n[2])
{
    kd_metric_family(b, name, C, help);
    for (int i = 0; i < 2; i++)
        kd_metric_by_word(b, name, key, words[i], (double)n[i]);
}

static void write_faults(const kd_daemon *d, kd_buf *b)
{
    write_pair(b, "distill_recoveries_total", "Faults after which a step was committed again.",
               "kind", (const char *const[]){"worker", "coordinator"}, d->counts.recoveries);
    kd_metric_family(b, "distill_recovery_seconds", "histogram",
                     "From a fault to the next committed step.");
    kd_metric_histogram(b, "distill_recovery_seconds", "", &d->counts.recovery_seconds);
    kd_metric_single(b, "distill_checkpoints_total", C, (double)d->counts.checkpoints,
                     "Checkpoints written.");
    kd_metric_family(b, "distill_checkpoint_seconds", "histogram",
                     "Time to write one, beside the steps.");
    kd_metric_histogram(b, "distill_checkpoint_seconds", "", &d->counts.checkpoint_seconds);
}

static void write_store(kd_daemon *d, kd_buf *b)
{
    kd_bank_totals bank = kd_bank_store_totals(d->bank);
    int64_t left = kd_file_free_bytes(d->state.dir);
    kd_metric_single(b, "distill_state_dir_free_bytes", G, left < 0 ? NAN : (double)left,
                     "Free bytes on the disk of the state folder.");
    kd_metric_single(b, "distill_state_dir_min_free_bytes", G, (double)d->room.min_free,
                     "Free bytes below which nothing new is taken (--min-free).");
    kd_metric_single(b, "distill_logit_bank_records", G, (double)bank.records,
                     "Logits in the banks that were used since the start.");
    kd_metric_single(b, "distill_logit_bank_bytes", G, (double)bank.bytes, "Their size on disk.");
    const uint64_t bytes[] = {d->counts.logit_bytes[0], d->counts.logit_bytes[1]};
    write_pair(b, "distill_logit_bytes_total", "Payload bytes of logits from and to workers.",
               "dir", (const char *const[]){"in", "out"}, bytes);
}

static void write_kept(const kd_daemon *d, kd_buf *b)
{
    static const struct {
        const char *name, *type, *help;
        size_t at; /* of a kd_keep_sum in kd_keep, then in that */
        bool bytes;
    } families[] = {
        {"distill_kept_bytes", G, "What is kept of what is over, banks, and uploads that wait.",
         offsetof(kd_keep, kept), true},
        {"distill_kept_items", G, "Jobs, banks and files that these bytes are of.",
         offsetof(kd_keep, kept), false},
        {"distill_dropped_bytes_total", C, "What the retention rules dropped.",
         offsetof(kd_keep, dropped), true},
        {"distill_dropped_items_total", C, "Jobs, banks and files that these bytes were of.",
         offsetof(kd_keep, dropped), false}};
    for (size_t i = 0; i < KD_COUNT(families); i++) {
        const kd_keep_sum *sums =
            (const kd_keep_sum *)(const void *)((const char *)&d->keep + families[i].at);
        kd_metric_family(b, families[i].name, families[i].type, families[i].help);
        for (int w = 0; w < KD_KEEPS; w++)
            kd_metric_by_word(b, families[i].name, "of", kd_keep_words[w],
                              (double)(families[i].bytes ? sums[w].bytes : sums[w].items));
    }
}

static void write_lines(const kd_daemon *d, kd_buf *b)
{
    write_pair(b, "distill_worker_log_lines_total",
               "Log lines of workers: kept as events, or not since there were too many.", "result",
               (const char *const[]){"kept", "dropped"}, d->counts.lines);
}

static void write_hooks(const kd_daemon *d, kd_buf *b)
{
    kd_hook_counts n = kd_hooks_count(d->hooks);
    const struct {
        const char *result;
        const uint64_t *of;
    } rows[] = {{"told", n.told}, {"failed", n.failed}, {"dropped", n.dropped}};
    kd_metric_family(b, "distill_hooks_total", C,
                     "Events that hooks told, tries that failed, events that were given up.");
    for (int t = 0; t < KD_HOOK_TARGETS; t++)
        for (size_t i = 0; i < KD_COUNT(rows); i++)
            (void)kd_buf_printf(b, "distill_hooks_total{to=\"%s\",result=\"%s\"} %llu\n",
                                kd_hook_targets[t], rows[i].result,
                                (unsigned long long)rows[i].of[t]);
    kd_metric_single(b, "distill_hooks_waiting", G, (double)n.waiting,
                     "Events that hooks have still to tell.");
}

static void write_queues(const kd_daemon *d, kd_buf *b)
{
    size_t watchers = 0;
    for (const kd_watcher *w = d->watchers; w; w = w->next)
        watchers++;
    const struct {
        const char *word;
        double n;
    } rows[] = {{"submits", (double)d->submits_waiting},
                {"pool", d->writes_running},
                {"watchers", (double)watchers},
                {"worker_lines", (double)d->n_lines}};
    kd_metric_family(b, "distill_queue_depth", G,
                     "What waits: submits, works of the pool, streams of events, log lines.");
    for (size_t i = 0; i < KD_COUNT(rows); i++)
        kd_metric_by_word(b, "distill_queue_depth", "queue", rows[i].word, rows[i].n);
    kd_metric_family(b, "distill_wal_fsync_seconds", "histogram",
                     "A transaction's commit, its fsync with it.");
    kd_metric_histogram(b, "distill_wal_fsync_seconds", "", &d->counts.commit_seconds);
    kd_rpc_meter_write(kd_access_meter(d->access), b);
}

static void write_process(kd_daemon *d, kd_buf *b)
{
    kd_process_now p = kd_process_look();
    kd_metric_family(b, "distill_build_info", G, "Version and protocol, with the value 1.");
    (void)kd_buf_printf(b, "distill_build_info{version=\"" KD_VERSION "\",protocol=\"%u\"} 1\n",
                        KD_PROTOCOL);
    kd_metric_single(b, "distill_epoch", G, (double)d->state.epoch, "Starts on this state folder.");
    kd_metric_single(b, "distill_loop_tasks", G, (double)count_tasks(d),
                     "Tasks that wait for the loop.");
    kd_metric_family(b, "distill_control_seconds", "histogram",
                     "Messages of workers (heart-beats, mostly), from arrival to being handled.");
    kd_metric_histogram(b, "distill_control_seconds", "", &d->counts.control_seconds);
    kd_metric_single(b, "distill_http_streams", G, (double)d->http->n_streams,
                     "Open live streams.");
    kd_metric_single(b, "distill_refused_connections_total", C,
                     (double)kd_rpc_refused_connections(),
                     "gRPC connections that were closed for want of descriptors.");
    kd_metric_single(b, "process_start_time_seconds", G, (double)d->started_wall_ms / 1000,
                     "Start of the coordinator, Unix time.");
    kd_metric_single(b, "process_cpu_seconds_total", C, p.cpu_seconds,
                     "CPU time of the coordinator.");
    kd_metric_single(b, "process_resident_memory_bytes", G, (double)p.resident_bytes,
                     "Memory of the coordinator.");
    kd_metric_single(b, "process_virtual_memory_bytes", G, (double)p.virtual_bytes,
                     "Address space of the coordinator.");
    kd_metric_single(b, "process_open_fds", G, p.descriptors,
                     "Descriptors that the coordinator has open.");
    kd_metric_single(b, "process_max_fds", G, p.max_descriptors,
                     "Descriptors that it may have open.");
}

bool kd_metrics_write(kd_daemon *d, unsigned piece, kd_buf *out)
{
    enum { PROCESS, JOBS, STATES, INFO, WORKERS };
    if (piece == PROCESS) {
        write_process(d, out);
    } else if (piece == JOBS) {
        kd_metrics_jobs(d, out);
    } else if (piece == STATES) {
        write_worker_states(d, out);
    } else if (piece == INFO) {
        write_worker_info(d, out);
    } else if (piece - WORKERS < KD_COUNT(g_worker_metrics)) {
        write_worker_metric(d, &g_worker_metrics[piece - WORKERS], out);
    } else {
        write_lost(d, out);
        write_faults(d, out);
        write_store(d, out);
        write_kept(d, out);
        write_hooks(d, out);
        write_lines(d, out);
        write_queues(d, out);
        return false;
    }
    return true;
}

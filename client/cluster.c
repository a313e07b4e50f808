/* cluster: all of it at one look. */
#include "args.h"
#include "connect.h"
#include "format.h"
#include "json.h"
#include "output.h"
#include "verbs.h"

#include "kd/clock.h"

#include <stdio.h>
#include <string.h>

/* Where those that run are looked for, the newest first. */
#define PAGE 100
#define MOST_PAGES 10

/* What somebody should look after, a sentence each. */
#define MAX_UNSERVED 4                /* jobs that are named */
#define MAX_ALERTS (6 + MAX_UNSERVED) /* one of each kind, and those */
typedef struct alerts {
    char text[MAX_ALERTS][384];
    int n;
} alerts;

static void alert(alerts *a, const char *fmt, ...) KD_PRINTF(2, 3);
static void alert(alerts *a, const char *fmt, ...)
{
    va_list ap;
    if (a->n == MAX_ALERTS)
        return;
    va_start(ap, fmt);
    vsnprintf(a->text[a->n++], sizeof a->text[0], fmt, ap);
    va_end(ap);
}

static size_t in_state(const Distill__V1__WorkersReply *w, const char *state)
{
    size_t n = 0;
    for (size_t i = 0; i < w->n_workers; i++)
        n += strcmp(w->workers[i]->state, state) == 0;
    return n;
}

/* Runs, has no worker, and there is a reason for that: not just between two stages. */
static bool is_unserved(const Distill__V1__JobSummary *s)
{
    return s->state == DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING && s->children == 0 &&
           s->progress && s->progress->workers == 0 && s->reason[0];
}

/* running: as JobCounts tells it; when so many were seen no more are asked for. Returns an exit
 * code. */
static int find_unserved(kd_conn *c, uint32_t running, alerts *out)
{
    Distill__V1__ListReply *list = NULL;
    bool more = true;
    size_t n = 0, seen = 0;
    int rc = KD_EXIT_OK;
    for (int p = 0; rc == KD_EXIT_OK && more && seen < running && p < MOST_PAGES; p++) {
        Distill__V1__ListReply *behind = list;
        list = NULL;
        rc = kd_conn_list(c, PAGE, behind, &list, &more);
        if (behind)
            kd_wire_free(&behind->base);
        for (size_t i = 0; list && i < list->n_jobs; i++) {
            const Distill__V1__JobSummary *s = list->jobs[i];
            seen += s->state == DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING && s->children == 0;
            if (is_unserved(s) && n++ < MAX_UNSERVED)
                alert(out, "job %.12s (%.48s) runs without a worker: %.240s", s->job, s->name,
                      s->reason);
        }
    }
    if (list)
        kd_wire_free(&list->base);
    if (n > MAX_UNSERVED)
        alert(out, "%zu more jobs run without a worker; `distill jobs --state running` has them",
              n - MAX_UNSERVED);
    return rc;
}

/* Those of deploy/monitoring/alerts.yml that one look can tell, but of single jobs. */
static void find_alerts(const Distill__V1__InfoReply *info, const Distill__V1__WorkersReply *w,
                        alerts *out)
{
    char a[KD_FMT], b[KD_FMT];
    size_t quarantined = in_state(w, "quarantined");
    size_t idle = in_state(w, "drained") + in_state(w, "draining") + quarantined;
    double left = (double)info->free_bytes, least = (double)info->min_free_bytes;
    if (info->protocol != KD_PROTOCOL)
        alert(out, "the coordinator speaks protocol %u, this program %u: install the same version",
              info->protocol, KD_PROTOCOL);
    if (info->free_bytes >= 0 && left < least)
        alert(out, "the disk has %s left: below %s nothing new is taken in", kd_fmt_bytes(left, a),
              kd_fmt_bytes(least, b));
    else if (info->free_bytes >= 0 && left < 2 * least)
        alert(out, "the disk gets short: %s left, and below %s nothing new is taken in",
              kd_fmt_bytes(left, a), kd_fmt_bytes(least, b));
    if (quarantined)
        alert(out,
              "%zu worker(s) computed wrong numbers: `distill workers` names them, look after "
              "their memory and processor",
              quarantined);
    if (info->jobs && info->jobs->queued > 0 && w->n_workers == idle)
        alert(out, "%u job(s) wait and no worker is there to take them", info->jobs->queued);
    for (size_t i = 0; i < w->n_workers; i++)
        if (w->workers[i]->version[0] && strcmp(w->workers[i]->version, info->version) != 0) {
            alert(out, "worker %.64s is of version %.32s, the coordinator of %.32s",
                  w->workers[i]->name, w->workers[i]->version, info->version);
            break;
        }
}

static int print_json(const kd_cli *cli, const Distill__V1__InfoReply *info,
                      const Distill__V1__WorkersReply *w, const alerts *a)
{
    json_t *o = kd_json_info(info), *states = json_object(), *list = json_array();
    for (size_t i = 0; i < w->n_workers; i++) {
        const char *state = w->workers[i]->state;
        json_int_t n = json_integer_value(json_object_get(states, state));
        (void)json_object_set_new(states, state, json_integer(n + 1));
    }
    for (int i = 0; i < a->n; i++)
        (void)json_array_append_new(list, kd_json_text(a->text[i]));
    (void)json_object_set_new(o, "address", kd_json_text(cli->server));
    (void)json_object_set_new(o, "workers", states);
    (void)json_object_set_new(o, "alerts", list);
    return kd_json_print(cli, o, false);
}

/* "2 working, 1 idle" */
static void join_states(const Distill__V1__WorkersReply *w, kd_buf *out)
{
    static const char *const states[] = {"working",  "preparing", "ready",      "idle",
                                         "draining", "drained",   "quarantined"};
    size_t told = 0;
    for (size_t i = 0; i < KD_COUNT(states); i++) {
        size_t n = in_state(w, states[i]);
        if (n)
            kd_buf_printf(out, "%s%zu %s", out->len ? ", " : "", n, states[i]);
        told += n;
    }
    if (told < w->n_workers)
        kd_buf_printf(out, "%s%zu other", out->len ? ", " : "", w->n_workers - told);
}

static void print_workers(const kd_cli *cli, const Distill__V1__WorkersReply *w)
{
    kd_buf states;
    unsigned threads = 0;
    kd_buf_init(&states, 1024);
    for (size_t i = 0; i < w->n_workers; i++)
        threads += w->workers[i]->threads;
    join_states(w, &states);
    if (w->n_workers == 0)
        kd_out(cli, "workers      none");
    else
        kd_out(cli, "workers      %zu (%u threads): %s", w->n_workers, threads,
               states.data ? states.data : "");
    kd_buf_clear(&states);
}

static int print_text(const kd_cli *cli, const Distill__V1__InfoReply *info,
                      const Distill__V1__WorkersReply *w, const alerts *a)
{
    char age[KD_FMT], left[KD_FMT], bytes[KD_FMT], banks[KD_FMT], records[KD_FMT];
    kd_out_clean(cli, "coordinator  %s, distilld %s, up %s, start %llu", cli->server, info->version,
                 kd_fmt_age(info->started_ms, kd_clock_wall_ms(), age),
                 (unsigned long long)info->epoch);
    if (info->jobs)
        kd_out(cli, "jobs         %u running, %u queued, %u succeeded, %u failed, %u cancelled",
               info->jobs->running, info->jobs->queued, info->jobs->succeeded, info->jobs->failed,
               info->jobs->cancelled);
    print_workers(cli, w);
    if (info->jobs) {
        kd_out_clean(cli, "disk         %s free in %s",
                     info->free_bytes < 0 ? "-" : kd_fmt_bytes((double)info->free_bytes, left),
                     info->state_dir);
        kd_out(cli, "logit bank   %s in %s bank%s, %s records",
               kd_fmt_bytes((double)info->bank_bytes, bytes), kd_fmt_count(info->banks, banks),
               info->banks == 1 ? "" : "s", kd_fmt_count(info->bank_records, records));
    }
    for (int i = 0; i < a->n; i++)
        kd_out_clean(cli, "%-12s %s", i == 0 ? "alerts" : "", a->text[i]);
    if (a->n == 0)
        kd_out(cli, "alerts       none");
    return kd_out_flush(cli);
}

int kd_cluster_status(kd_cli *cli, const kd_args *args)
{
    Distill__V1__InfoRequest ask_info = DISTILL__V1__INFO_REQUEST__INIT;
    Distill__V1__WorkersRequest ask_workers = DISTILL__V1__WORKERS_REQUEST__INIT;
    ProtobufCMessage *info = NULL, *workers = NULL;
    alerts found = {0};
    kd_conn conn;
    (void)args;
    int rc = kd_conn_start(cli, NULL, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = kd_conn_ask(&conn, "Info", &ask_info, NULL, &distill__v1__info_reply__descriptor, &info);
    if (rc == KD_EXIT_OK)
        rc = kd_conn_ask(&conn, "Workers", &ask_workers, NULL,
                         &distill__v1__workers_reply__descriptor, &workers);
    const Distill__V1__InfoReply *i = (Distill__V1__InfoReply *)info;
    const Distill__V1__WorkersReply *w = (Distill__V1__WorkersReply *)workers;
    if (rc == KD_EXIT_OK) {
        find_alerts(i, w, &found);
        rc = find_unserved(&conn, i->jobs ? i->jobs->running : UINT32_MAX, &found);
    }
    if (rc == KD_EXIT_OK)
        rc = cli->json ? print_json(cli, i, w, &found) : print_text(cli, i, w, &found);
    kd_wire_free(info);
    kd_wire_free(workers);
    kd_conn_close(&conn);
    return rc;
}

static int run(kd_cli *cli, const kd_args *args)
{
    if (strcmp(args->operands[0], "status") != 0)
        return kd_usage(cli, "cluster", "usage: distill cluster status",
                        "cluster: no such thing as \"%s\"", args->operands[0]);
    return kd_cluster_status(cli, args);
}

const kd_verb kd_verb_cluster = {
    .name = "cluster",
    .operands = "status",
    .summary = "the whole cluster at one look: version, jobs, workers, disk, bank, alerts",
    .help = "An alert is what somebody should look after. `distill workers` and `distill jobs`\n"
            "tell more; deploy/monitoring has rules that watch all the time.",
    .min_operands = 1,
    .max_operands = 1,
    .run = run};

/* report: a page, or tables and numbers, about jobs and sweeps. */
#include "args.h"
#include "artefact.h"
#include "follow.h"
#include "format.h"
#include "out_file.h"
#include "output.h"
#include "report_page.h"
#include "sweep.h"
#include "views.h"

#include "kd/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LOG 300 /* events, warnings and workers of one job */

enum format { FORMAT_HTML, FORMAT_JSON, FORMAT_CSV, FORMAT_MD };
static const char *const g_formats[] = {"html", "json", "csv", "md"};

static const kd_opt g_opts[] = {
    {"output", 'o', "html|json|csv|md", "what to make (as FILE ends; else html)"},
    {"file", 'O', "FILE", "where to put it (standard output; a page on a terminal: ID.html)"},
};

typedef struct reporter {
    kd_cli *cli;
    kd_conn conn;
    kd_report report;
    enum format format;
} reporter;

/* ---- what happened, and the workers there are */

static bool known(const json_t *list, const char *key, const char *text)
{
    size_t i;
    const json_t *o;
    json_array_foreach(list, i, o)
    {
        const char *s = json_string_value(json_object_get(o, key));
        if (s && strcmp(s, text) == 0)
            return true;
    }
    return false;
}

static void note(json_t *list, const char *key, const char *text)
{
    json_t *s = text[0] && json_array_size(list) < MAX_LOG && !known(list, key, text)
                    ? json_string(text)
                    : NULL;
    if (s)
        (void)json_array_append_new(list, json_pack("{s:o}", key, s));
}

static int on_event(const Distill__V1__Event *e, void *arg)
{
    static const char *const kinds[] = {"started", "stage", "worker", "finished", "warning"};
    json_t *list = arg;
    char text[700], t[KD_FMT];
    for (size_t i = 0; i < KD_COUNT(kinds); i++) {
        if (strcmp(e->kind, kinds[i]) != 0)
            continue;
        bool warning = strcmp(e->kind, "warning") == 0;
        snprintf(text, sizeof text, "%s %.100s%s%.480s", kd_clock_iso(e->time_ms, t), e->worker,
                 e->worker[0] ? ": " : "", e->text);
        note(list, warning ? "warning" : "event", text);
    }
    return 0;
}

static void add_workers(reporter *r, json_t *list)
{
    Distill__V1__WorkersRequest request = DISTILL__V1__WORKERS_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    kd_failure why;
    if (kd_conn_call(&r->conn, "Workers", &request, &distill__v1__workers_reply__descriptor,
                     KD_CONN_TIMEOUT_MS, false, &reply, &why) != 0)
        return;
    const Distill__V1__WorkersReply *all = (const Distill__V1__WorkersReply *)reply;
    for (size_t i = 0; i < all->n_workers; i++) {
        const Distill__V1__WorkerInfo *w = all->workers[i];
        char text[512];
        snprintf(text, sizeof text,
                 "%.64s: %.96s, %.64s, BLAS %.64s, %u threads, numerics %.8s, version %.64s",
                 w->name, w->cpu, w->isa, w->blas, w->threads, w->numerics, w->version);
        note(list, "worker", text);
    }
    kd_wire_free(reply);
}

static int read_log(reporter *r, kd_report_job *j)
{
    j->log = json_array();
    kd_follow f = {
        .job = j->detail->summary->job, .timeout_s = -1, .on_event = on_event, .arg = j->log};
    int rc = kd_follow_run(&r->conn, &f, NULL);
    if (rc == KD_EXIT_OK)
        add_workers(r, j->log);
    return rc;
}

/* ---- jobs */

static int read_evaluation(reporter *r, kd_report_job *j)
{
    const char *job = j->detail->summary->job;
    const Distill__V1__Artefact *a = kd_artefact_find(j->detail, "evaluation.json");
    char *text = NULL;
    size_t len = 0;
    kd_diag diag = {0};
    if (!a)
        return KD_EXIT_OK;
    int rc = kd_artefact_read(&r->conn, &(kd_artefact_source){.job = job}, a, KD_REPORT_EVALUATION,
                              &text, &len);
    /* A report without matrices is better than none. */
    if (rc == KD_EXIT_OK && kd_report_evaluation(j, text, len, &diag) != 0)
        kd_say(r->cli, "job %s: %s; it is left out", job, diag.msg);
    free(text);
    return rc;
}

static int collect(reporter *r, const kd_args *args)
{
    kd_diag diag = {0};
    int rc = KD_EXIT_OK;
    for (int i = 0; rc == KD_EXIT_OK && i < args->n_operands; i++) {
        Distill__V1__JobDetail *detail = NULL;
        rc = kd_conn_job(&r->conn, args->operands[i], &detail);
        if (rc == KD_EXIT_OK && kd_is_sweep(detail->summary)) {
            rc = kd_sweep_collect(&r->conn, detail, &r->report);
        } else if (rc == KD_EXIT_OK &&
                   kd_report_add_job(&r->report, detail, -1, NULL, &diag) != 0) {
            kd_error(r->cli, "%s", diag.msg);
            rc = KD_EXIT_FAILURE;
        }
    }
    return rc;
}

/* What only jobs shown in full need; a program gets all of it. */
static int deepen(reporter *r)
{
    bool full[KD_REPORT_JOBS] = {false};
    int rc = KD_EXIT_OK;
    if (r->format == FORMAT_HTML)
        (void)kd_page_choose(&r->report, full);
    for (size_t i = 0; rc == KD_EXIT_OK && i < r->report.n_jobs; i++) {
        if (r->format == FORMAT_JSON || full[i])
            rc = read_evaluation(r, r->report.jobs[i]);
        if (rc == KD_EXIT_OK && full[i])
            rc = read_log(r, r->report.jobs[i]);
    }
    return rc;
}

static void ask_version(reporter *r)
{
    Distill__V1__InfoRequest request = DISTILL__V1__INFO_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    kd_failure why;
    if (kd_conn_call(&r->conn, "Info", &request, &distill__v1__info_reply__descriptor,
                     KD_CONN_TIMEOUT_MS, false, &reply, &why) == 0)
        snprintf(r->report.server_version, sizeof r->report.server_version, "%s",
                 ((const Distill__V1__InfoReply *)reply)->version);
    kd_wire_free(reply);
}

/* ---- output */

static int make(const reporter *r, kd_buf *out)
{
    char *text = NULL;
    int rc = 0;
    json_t *o = NULL;
    switch (r->format) {
    case FORMAT_HTML:
        rc = kd_report_html(&r->report, out);
        break;
    case FORMAT_CSV:
        rc = kd_report_csv(&r->report, out);
        break;
    case FORMAT_MD:
        rc = kd_report_md(&r->report, out);
        break;
    case FORMAT_JSON:
        o = kd_report_json(&r->report);
        text = kd_json_dump(o, JSON_INDENT(2));
        json_decref(o);
        rc = text ? kd_buf_str(out, text) : -KD_ENOMEM;
        (void)kd_buf_str(out, "\n");
        free(text);
        break;
    }
    if (rc == 0 && out->failed)
        rc = -KD_ENOMEM;
    if (rc != 0)
        kd_error(r->cli, "the report cannot be made: %s",
                 rc == -KD_ELIMIT ? "it is larger than 256 MiB or than the memory there is"
                                  : kd_err_text(rc));
    return rc == 0 ? KD_EXIT_OK : KD_EXIT_FAILURE;
}

static int write_file(const reporter *r, const char *path, const kd_buf *text)
{
    kd_diag diag = {0};
    if (kd_out_files_write(&(kd_out_file){path, text->data, text->len}, 1, &diag) != 0) {
        kd_error(r->cli, "%s", diag.msg);
        return KD_EXIT_FAILURE;
    }
    kd_say(r->cli, "report of %zu job%s in %s", r->report.n_jobs, r->report.n_jobs == 1 ? "" : "s",
           path);
    return KD_EXIT_OK;
}

static int format_of(const kd_cli *cli, const char *name, const char *file, enum format *out)
{
    const char *dot = file ? strrchr(file, '.') : NULL;
    bool by_name = !name && dot;
    const char *word = name ? name : dot ? dot + 1 : "html";
    if (strcmp(word, "htm") == 0)
        word = "html";
    for (size_t i = 0; i < KD_COUNT(g_formats); i++)
        if (strcmp(word, g_formats[i]) == 0) {
            *out = (enum format)i;
            return KD_EXIT_OK;
        }
    *out = FORMAT_HTML;
    return by_name ? KD_EXIT_OK
                   : kd_usage(cli, "report", "-o html, -o json, -o csv or -o md",
                              "unknown report format \"%s\"", word);
}

static int run(kd_cli *cli, const kd_args *args)
{
    reporter r = {.cli = cli};
    const char *file = kd_args_value(args, "file");
    char own[64];
    int rc = format_of(cli, kd_args_value(args, "output"), file, &r.format);
    if (rc == KD_EXIT_OK)
        rc = kd_conn_start(cli, NULL, &r.conn);
    if (rc != KD_EXIT_OK)
        return rc;
    r.report.now_ms = kd_clock_wall_ms();
    rc = collect(&r, args);
    kd_report_finish(&r.report);
    if (rc == KD_EXIT_OK)
        rc = deepen(&r);
    if (rc == KD_EXIT_OK)
        ask_version(&r);
    kd_buf out;
    kd_buf_init(&out, KD_PAGE_BYTES);
    if (rc == KD_EXIT_OK)
        rc = make(&r, &out);
    if (rc == KD_EXIT_OK && !file && r.format == FORMAT_HTML && cli->tty_out) {
        snprintf(own, sizeof own, "%.32s.html", args->operands[0]);
        file = own;
    }
    if (rc == KD_EXIT_OK && file && strcmp(file, "-") != 0) {
        rc = write_file(&r, file, &out);
    } else if (rc == KD_EXIT_OK) {
        kd_out_text(cli, out.data ? out.data : "");
        rc = kd_out_flush(cli);
    }
    kd_buf_clear(&out);
    kd_report_clear(&r.report);
    kd_conn_close(&r.conn);
    return rc;
}

const kd_verb kd_verb_report = {
    .name = "report",
    .operands = "JOB...",
    .summary = "make a report of jobs: a page, or numbers",
    .help =
        "html is one page that fetches nothing: curves, tables with 95 % intervals, what classes\n"
        "are confused, pictures with the networks' guesses, the resolved job, digests. Several "
        "jobs\n"
        "or a sweep stand side by side. csv has a row for each (job, stage, epoch), json has all\n"
        "numbers, md tables. Running and failed jobs are shown with what there is so far.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = -1,
    .run = run};

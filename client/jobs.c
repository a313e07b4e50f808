/* jobs: what the coordinator has, newest first. */
#include "args.h"
#include "connect.h"
#include "format.h"
#include "list.h"
#include "sweep.h"
#include "views.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 1000        /* of one answer */
#define MOST_JOBS 100000 /* that one list may have */
#define MOST_PAGES 1000  /* that one list may take */

static const kd_opt g_opts[] = {
    {"limit", 'n', "N", "at most so many jobs, the newest (100)"},
    {"state", 0, "STATE", "only queued, paused, running, succeeded, failed or cancelled jobs"},
    {"quiet", 'q', NULL, "print ids only, as -o name"},
    {"all", 'a', NULL, "the jobs of sweeps too, below their sweep"},
    {"sweep", 0, "SWEEP", "only the jobs of this sweep"},
};

typedef struct selection {
    const char *state; /* NULL = any */
    const char *sweep; /* whose jobs alone; NULL = what there is */
    bool all;
    size_t limit;
} selection;

/* Paused jobs are queued as well. */
static bool in_state(const selection *w, const Distill__V1__JobSummary *s)
{
    return !w->state || strcmp(w->state, kd_state_word(s->state)) == 0 ||
           strcmp(w->state, kd_summary_word(s)) == 0;
}

/* Below its sweep. */
static bool child_wanted(const selection *w, const Distill__V1__JobSummary *s, const char *sweep)
{
    return w->all && in_state(w, s) && strcmp(s->sweep, sweep) == 0;
}

/* What is shown, and the answers that it lies in. */
struct rows {
    const void **of;
    size_t n, tops; /* tops: those that count */
    Distill__V1__ListReply *pages[MOST_PAGES];
    size_t n_pages;
};

/* Adds an answer's rows in order; there is room for all of it. A sweep's jobs stand in the order of
 * its combinations, which is that of submission. */
static void choose(const selection *w, const Distill__V1__ListReply *list, struct rows *out)
{
    for (size_t i = 0; i < list->n_jobs && out->tops < w->limit; i++) {
        if (!list->jobs[i]->sweep[0] && in_state(w, list->jobs[i])) {
            out->of[out->n++] = list->jobs[i];
            out->tops++;
        }
        for (size_t k = 0; kd_is_sweep(list->jobs[i]) && k < list->n_jobs; k++)
            if (child_wanted(w, list->jobs[k], list->jobs[i]->job))
                out->of[out->n++] = list->jobs[k];
    }
}

/* "2 of 1-8": those that it has, and how many it takes. */
static void add_workers(kd_table *t, const Distill__V1__JobSummary *s)
{
    char have[32] = "";
    if (s->progress)
        snprintf(have, sizeof have, "%u", s->progress->workers);
    if (kd_state_ended(s->state) || s->max_workers == 0 || kd_is_sweep(s))
        kd_table_add(t, KD_PLAIN, "%s", have);
    else
        kd_table_add(t, KD_PLAIN, "%s%s%u-%u", have, have[0] ? " of " : "", s->min_workers,
                     s->max_workers);
}

static void add_took(kd_table *t, const Distill__V1__JobSummary *s, int64_t now)
{
    char a[KD_FMT];
    int64_t end = s->finished_ms ? s->finished_ms : now;
    kd_table_add(t, KD_PLAIN, "%s",
                 s->started_ms ? kd_fmt_duration((double)(end - s->started_ms) / 1000, a) : "");
}

static void add_row(kd_table *t, const void *item, int64_t now)
{
    char a[KD_FMT];
    const Distill__V1__JobSummary *s = item;
    const Distill__V1__Progress *p = s->progress;
    kd_table_add(t, KD_PLAIN, "%s", s->job);
    kd_table_add(t, KD_PLAIN, "%s%s", s->sweep[0] ? "  " : "", s->label[0] ? s->label : s->name);
    kd_table_add(t, kd_summary_color(s), "%s", kd_summary_word(s));
    kd_table_add(t, KD_PLAIN, "%s", s->owner);
    snprintf(a, sizeof a, "%d", s->priority);
    kd_table_add(t, KD_PLAIN, "%s", s->priority ? a : "");
    kd_table_add(t, KD_PLAIN, "%s", s->sweep);
    if (p) {
        bool steps = p->steps > 0;
        kd_table_add(t, KD_PLAIN, "%s %u/%u", p->stage, p->stage_index + 1, p->stage_count);
        if (steps)
            kd_table_add(t, KD_PLAIN, "%llu/%llu", (unsigned long long)p->step,
                         (unsigned long long)p->steps);
        else
            kd_table_add(t, KD_PLAIN, "-");
        kd_table_add(t, KD_PLAIN, "%s", steps && p->step ? kd_fmt_figure(p->loss, a) : "-");
        if (p->samples_per_second > 0)
            kd_table_add(t, KD_PLAIN, "%.0f img/s", p->samples_per_second);
        else
            kd_table_add(t, KD_PLAIN, "-");
        kd_table_add(t, KD_PLAIN, "%s", kd_fmt_duration(p->eta_seconds, a));
    } else {
        char count[64];
        bool sweep = kd_is_sweep(s);
        kd_table_add(t, KD_PLAIN, "%s", sweep ? "sweep" : "-");
        kd_table_add(t, KD_PLAIN, "%s", sweep ? kd_sweep_count(s, count, sizeof count) : "-");
        for (int i = 0; i < 3; i++)
            kd_table_add(t, KD_PLAIN, "-");
    }
    add_workers(t, s);
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_age(s->submitted_ms, now, a));
    add_took(t, s, now);
    kd_table_add(t, KD_PLAIN, "%s", s->reason);
}

static json_t *to_json(const void *item)
{
    return kd_json_summary(item);
}

static const kd_column g_columns[] = {
    {"ID", "job", KD_ALWAYS},
    {"NAME", "name", KD_ALWAYS},
    {"STATE", "state", KD_ALWAYS},
    {NULL, "paused", KD_ALWAYS},
    {"OWNER", "owner", KD_IF_ANY},
    {"PRIORITY>", "priority", KD_IF_ANY},
    {"SWEEP", "sweep", KD_WIDE},
    {NULL, "label", KD_ALWAYS},
    {"STAGE", "progress.stage", KD_ALWAYS},
    {"STEP>", "progress.step", KD_ALWAYS},
    {NULL, "progress.steps", KD_ALWAYS},
    {"LOSS>", "progress.loss", KD_ALWAYS},
    {"RATE>", "progress.samples_per_second", KD_ALWAYS},
    {"ETA>", "progress.eta_seconds", KD_ALWAYS},
    {"WORKERS>", "progress.workers", KD_ALWAYS},
    {NULL, "min_workers", KD_ALWAYS},
    {NULL, "max_workers", KD_ALWAYS},
    {"AGE>", "submitted", KD_ALWAYS},
    {"TOOK>", "started", KD_WIDE},
    {NULL, "finished", KD_ALWAYS},
    {"REASON", "reason", KD_ALWAYS},
};

static const kd_list g_list = {.key = "jobs",
                               .name = "job",
                               .columns = g_columns,
                               .n_columns = KD_COUNT(g_columns),
                               .json = to_json,
                               .row = add_row};

/* One answer, of what came before the last one. *out_more: there may be another. Returns an exit
 * code. */
static int read_page(kd_conn *c, const selection *w, struct rows *rows, bool *out_more)
{
    Distill__V1__ListReply *list = NULL;
    /* What a filter leaves out does not count. */
    const size_t limit = w->state ? PAGE : KD_MIN(w->limit - rows->tops, (size_t)PAGE);
    int rc = kd_conn_list(c, (uint32_t)limit, rows->n_pages ? rows->pages[rows->n_pages - 1] : NULL,
                          &list, out_more);
    if (rc != KD_EXIT_OK)
        return rc;
    const void **of = realloc(rows->of, (rows->n + list->n_jobs + 1) * sizeof *of);
    rows->of = of ? of : rows->of;
    rows->pages[rows->n_pages++] = list;
    if (!of) {
        kd_error(c->cli, "no memory for the list");
        return KD_EXIT_FAILURE;
    }
    choose(w, list, rows);
    *out_more = *out_more && rows->tops < w->limit && rows->n_pages < MOST_PAGES;
    return KD_EXIT_OK;
}

static int print(kd_cli *cli, const void *const *rows, size_t n, const selection *w)
{
    int rc = kd_list_print(cli, &g_list, rows, n, NULL);
    if (n == 0 && !cli->json)
        kd_say(cli, "no %s%sjobs %s%s", w->state ? w->state : "", w->state ? " " : "",
               w->sweep ? "of sweep " : "at ", w->sweep ? w->sweep : cli->server);
    return rc;
}

static int list(kd_conn *c, const selection *w)
{
    struct rows *rows = kd_xalloc(sizeof *rows);
    bool more = true;
    int rc = KD_EXIT_OK;
    while (rc == KD_EXIT_OK && more)
        rc = read_page(c, w, rows, &more);
    if (rc == KD_EXIT_OK)
        rc = print(c->cli, rows->of, rows->n, w);
    for (size_t i = 0; i < rows->n_pages; i++)
        kd_wire_free(&rows->pages[i]->base);
    free(rows->of);
    free(rows);
    return rc;
}

static int list_sweep(kd_conn *c, const selection *w)
{
    Distill__V1__JobDetail *d = NULL;
    int rc = kd_conn_job(c, w->sweep, &d);
    if (rc != KD_EXIT_OK)
        return rc;
    const void **rows = calloc(d->n_jobs + 1, sizeof *rows);
    size_t n = 0;
    for (size_t i = 0; rows && i < d->n_jobs; i++)
        if (in_state(w, d->jobs[i]))
            rows[n++] = d->jobs[i];
    if (!kd_is_sweep(d->summary)) {
        kd_error(c->cli, "job %s is no sweep", d->summary->job);
        kd_hint(c->cli, "`distill jobs` lists all; `distill show %s` tells what it is",
                d->summary->job);
        rc = KD_EXIT_CONFLICT;
    } else if (!rows) {
        kd_error(c->cli, "no memory for the list");
        rc = KD_EXIT_FAILURE;
    } else {
        rc = print(c->cli, rows, n, w);
    }
    free(rows);
    kd_wire_free(&d->base);
    return rc;
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_diag diag = {0};
    uint64_t limit;
    selection w = {.state = kd_args_value(args, "state"),
                   .sweep = kd_args_value(args, "sweep"),
                   .all = kd_args_has(args, "all")};
    static const char *const states[] = {"queued",    "paused", "running",
                                         "succeeded", "failed", "cancelled"};
    bool known = !w.state;
    for (size_t i = 0; w.state && i < KD_COUNT(states); i++)
        known = known || strcmp(w.state, states[i]) == 0;
    if (!known)
        return kd_usage(cli, "jobs",
                        "--state queued, paused, running, succeeded, failed or cancelled",
                        "there is no state \"%s\"", w.state);
    if (kd_args_u64(args, "limit", 1, MOST_JOBS, 100, &limit, &diag) != 0)
        return kd_usage(cli, "jobs", NULL, "%s", diag.msg);
    if (kd_args_has(args, "quiet") && !cli->json)
        cli->format = KD_FORMAT_NAME;
    w.limit = (size_t)limit;
    kd_conn conn;
    int rc = kd_conn_start(cli, w.sweep, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = w.sweep ? list_sweep(&conn, &w) : list(&conn, &w);
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_jobs = {.name = "jobs",
                              .operands = "",
                              .summary = "list jobs, newest first",
                              .help = "A sweep is one row, its jobs are folded: --all unfolds "
                                      "them, --sweep ID lists those of one.",
                              .opts = g_opts,
                              .n_opts = KD_COUNT(g_opts),
                              .lists = true,
                              .run = run};

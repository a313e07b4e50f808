#include "sweep.h"

#include "follow.h"
#include "format.h"
#include "json.h"
#include "output.h"
#include "verbs.h"
#include "views.h"

#include "kd/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LOOK_MS 1000
#define PLAIN_MS 10000 /* between progress lines where there is no terminal */
#define MAX_LABEL 40   /* columns of a child's label in the live block */

bool kd_is_sweep(const Distill__V1__JobSummary *s)
{
    return s->children > 0;
}

char *kd_sweep_count(const Distill__V1__JobSummary *s, char *out, size_t size)
{
    snprintf(out, size, "%u of %u over", s->children_over, s->children);
    return out;
}

/* ---- looking again and again */

typedef struct looker {
    kd_conn *c;
    const char *job;
    kd_time_ms deadline; /* INT64_MAX = none */
    double timeout_s;
    /* Returns 0 to go on, else the exit code to stop with. */
    int (*on_look)(struct looker *l, const Distill__V1__JobDetail *d);
    /* Of watch: */
    Distill__V1__JobState *states; /* [n_states], as they were told last */
    size_t n_states;
    kd_time_ms printed_at;
} looker;

/* One Get; waits for a coordinator that went away after it was reached once. */
static int look(looker *l, Distill__V1__JobDetail **out)
{
    kd_conn *c = l->c;
    kd_time_ms lost_at = 0;
    int pause_ms = 500;
    for (;;) {
        Distill__V1__JobRequest request = DISTILL__V1__JOB_REQUEST__INIT;
        ProtobufCMessage *reply = NULL;
        kd_failure why;
        request.job = (char *)l->job;
        if (kd_conn_call(c, "Get", &request, &distill__v1__job_detail__descriptor,
                         KD_CONN_TIMEOUT_MS, lost_at != 0, &reply, &why) == 0) {
            Distill__V1__JobDetail *d = (Distill__V1__JobDetail *)reply;
            if (d->summary) {
                if (lost_at)
                    kd_say(c->cli, "connected to coordinator %s again", c->cli->server);
                *out = d;
                return KD_EXIT_OK;
            }
            kd_wire_free(reply);
            kd_error(c->cli, "the coordinator sent a job without a summary");
            return KD_EXIT_FAILURE;
        }
        kd_time_ms now = kd_clock_ms();
        if (kd_cli_signal() != 0)
            return kd_cli_signal_exit();
        if (!kd_conn_passing(&why) || !c->reached ||
            (lost_at && now - lost_at > KD_FOLLOW_PATIENCE_MS))
            return kd_conn_report(c, &why, l->job);
        if (!lost_at) {
            lost_at = now;
            kd_say(c->cli,
                   "connection to coordinator %s lost; trying again (the jobs are safe there)",
                   c->cli->server);
        }
        if (now >= l->deadline)
            return KD_EXIT_TIMEOUT;
        if (!kd_conn_pause(pause_ms))
            return kd_cli_signal_exit();
        pause_ms = KD_MIN(pause_ms * 8 / 5, 5000);
    }
}

/* Until the sweep is over: *out is then what it is. */
static int look_on(looker *l, Distill__V1__JobDetail **out)
{
    for (;;) {
        Distill__V1__JobDetail *d = NULL;
        int rc = look(l, &d);
        if (rc == KD_EXIT_OK && l->on_look)
            rc = l->on_look(l, d);
        if (rc == KD_EXIT_OK && kd_state_ended(d->summary->state)) {
            *out = d;
            return KD_EXIT_OK;
        }
        if (d)
            kd_wire_free(&d->base);
        if (rc == KD_EXIT_OK)
            rc = kd_out_check_reader();
        if (rc == KD_EXIT_OK && kd_clock_ms() >= l->deadline)
            rc = KD_EXIT_TIMEOUT;
        if (rc == KD_EXIT_TIMEOUT) {
            char t[KD_FMT];
            kd_error(l->c->cli, "sweep %s has not ended after %s", l->job,
                     kd_fmt_duration(l->timeout_s, t));
            kd_hint(l->c->cli, "its jobs go on; `distill wait %s%s` waits again", l->job,
                    l->c->cli->server_flag);
        }
        if (rc != KD_EXIT_OK)
            return rc;
        kd_time_ms left = KD_MAX(l->deadline - kd_clock_ms(), 1);
        if (!kd_conn_pause((int)KD_MIN(left, (kd_time_ms)LOOK_MS)))
            return kd_cli_signal_exit();
    }
}

/* ---- watch */

void kd_sweep_line(const Distill__V1__JobSummary *s, int label_width, int width, bool utf8,
                   kd_buf *out)
{
    kd_buf label;
    kd_buf_init(&label, 4096);
    kd_text_clean(&label, s->label[0] ? s->label : s->job);
    const char *text = label.data ? label.data : "";
    size_t cut = kd_text_cut(text, label_width);
    (void)kd_buf_add(out, text, cut);
    int used = kd_text_width(out->data ? out->data : "");
    (void)kd_buf_printf(out, "%*s  %-9s  ", label_width - used, "", kd_state_word(s->state));
    kd_buf_clear(&label);
    if (s->progress) {
        kd_buf line;
        kd_buf_init(&line, 4096);
        kd_view_progress(s->progress, KD_MAX(width - label_width - 13, 20), true, utf8, &line);
        (void)kd_buf_str(out, line.data ? line.data : "");
        kd_buf_clear(&line);
    } else {
        kd_text_clean(out, s->reason);
    }
}

static int label_columns(const Distill__V1__JobDetail *d)
{
    int columns = 1;
    for (size_t i = 0; i < d->n_jobs; i++) {
        const Distill__V1__JobSummary *s = d->jobs[i];
        columns = KD_MAX(columns, kd_text_width(s->label[0] ? s->label : s->job));
    }
    return KD_MIN(columns, MAX_LABEL);
}

static int terminal_rows(void)
{
    struct winsize ws;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_row > 3 ? ws.ws_row : 24;
}

/* All children where there is room; else those that run first, and how many more there are. */
static void draw(const looker *l, const Distill__V1__JobDetail *d)
{
    kd_cli *cli = l->c->cli;
    int width = kd_terminal_width(STDERR_FILENO) - 1, label = label_columns(d);
    size_t room = (size_t)terminal_rows() - 2, shown = 0;
    bool all = d->n_jobs <= room;
    char count[64];
    kd_buf block;
    kd_buf_init(&block, 1 << 20);
    for (size_t i = 0; i < d->n_jobs && shown < room; i++) {
        if (!all && !d->jobs[i]->progress)
            continue;
        kd_buf line;
        kd_buf_init(&line, 8192);
        kd_sweep_line(d->jobs[i], label, width, cli->utf8, &line);
        (void)kd_buf_printf(&block, "%s\n", line.data ? line.data : "");
        kd_buf_clear(&line);
        shown++;
    }
    (void)kd_buf_printf(&block, "%s", kd_sweep_count(d->summary, count, sizeof count));
    if (shown < d->n_jobs)
        (void)kd_buf_printf(&block, "; %zu of %zu jobs are not shown", d->n_jobs - shown,
                            d->n_jobs);
    if (!block.failed)
        kd_live_set(cli, block.data);
    kd_buf_clear(&block);
}

static int tell_child(const looker *l, const Distill__V1__JobSummary *s, bool progress)
{
    kd_cli *cli = l->c->cli;
    if (cli->json) {
        json_t *o = kd_json_summary(s);
        json_object_set_new(o, "kind", json_string(progress ? "progress" : "state"));
        return kd_json_print(cli, o, true);
    }
    kd_buf line;
    char t[KD_FMT];
    int64_t now = kd_clock_wall_ms();
    kd_buf_init(&line, 8192);
    (void)kd_buf_printf(&line, "%s  ", kd_fmt_clock(now, now, t));
    kd_text_clean(&line, s->job);
    (void)kd_buf_str(&line, "  ");
    kd_text_clean(&line, s->label);
    (void)kd_buf_printf(&line, "  %s", kd_state_word(s->state));
    if (progress && s->progress) {
        (void)kd_buf_str(&line, "  ");
        kd_view_progress(s->progress, 0, false, false, &line);
    } else if (s->reason[0]) {
        (void)kd_buf_str(&line, ": ");
        kd_text_clean(&line, s->reason);
    }
    kd_out(cli, "%s", line.data ? line.data : "");
    kd_buf_clear(&line);
    return kd_out_flush(cli);
}

static int on_look(looker *l, const Distill__V1__JobDetail *d)
{
    kd_time_ms now = kd_clock_ms();
    bool first = l->n_states != d->n_jobs;
    if (first) {
        free(l->states);
        l->states = calloc(d->n_jobs + 1, sizeof *l->states);
        l->n_states = l->states ? d->n_jobs : 0;
    }
    for (size_t i = 0; i < l->n_states; i++) {
        if (l->states[i] == d->jobs[i]->state)
            continue;
        l->states[i] = d->jobs[i]->state;
        /* What has not begun when the watch does is no news. */
        bool news = d->jobs[i]->state != DISTILL__V1__JOB_STATE__JOB_STATE_QUEUED;
        int rc = news ? tell_child(l, d->jobs[i], false) : 0;
        if (rc != 0)
            return rc;
    }
    if (l->c->cli->tty_err && !l->c->cli->json) {
        draw(l, d);
        return 0;
    }
    if (now - l->printed_at < (l->c->cli->json ? LOOK_MS : PLAIN_MS))
        return 0;
    l->printed_at = now;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < d->n_jobs; i++)
        if (d->jobs[i]->progress)
            rc = tell_child(l, d->jobs[i], true);
    return rc;
}

/* ---- the end */

int kd_sweep_collect(kd_conn *c, Distill__V1__JobDetail *detail, kd_report *r)
{
    kd_diag diag = {0};
    int number = -1, rc = KD_EXIT_OK;
    if (kd_report_add_sweep(r, detail, &number, &diag) != 0) {
        kd_error(c->cli, "%s", diag.msg);
        return KD_EXIT_FAILURE;
    }
    for (size_t i = 0; rc == KD_EXIT_OK && i < detail->n_jobs; i++) {
        Distill__V1__JobDetail *child = NULL;
        rc = kd_conn_job(c, detail->jobs[i]->job, &child);
        if (rc == KD_EXIT_OK && kd_report_add_job(r, child, number, NULL, &diag) != 0) {
            kd_error(c->cli, "%s", diag.msg);
            rc = KD_EXIT_FAILURE;
        }
    }
    return rc;
}

static void score_cells(kd_table *t, enum kd_color color, const kd_score *s)
{
    char a[KD_FMT];
    if (s && s->there) {
        kd_table_add(t, color, "%s", kd_fmt_percent(s->accuracy, a));
        kd_table_add(t, color, "%.1f - %.1f %%", s->lo * 100, s->hi * 100);
    } else {
        kd_table_add(t, color, "-");
        kd_table_add(t, color, "-");
    }
}

static void child_row(kd_table *t, const kd_report_job *j)
{
    const Distill__V1__JobSummary *s = j->detail->summary;
    const kd_network *student = kd_report_network(j, "student");
    const kd_network *twin = kd_report_network(j, "scratch");
    const kd_score *a = student ? kd_report_score(j, student) : NULL;
    const kd_score *b = twin ? kd_report_score(j, twin) : NULL;
    enum kd_color color = j->best ? KD_GREEN : KD_PLAIN;
    char text[KD_FMT];
    kd_table_add(t, color, "%s", s->job);
    kd_table_add(t, color, "%s", s->label);
    kd_table_add(t, kd_state_color(s->state), "%s", kd_state_word(s->state));
    score_cells(t, color, a);
    kd_table_add(t, color, "%s", b && b->there ? kd_fmt_percent(b->accuracy, text) : "-");
    if (a && b && a->there && b->there)
        kd_table_add(t, color, "%+.1f", (a->accuracy - b->accuracy) * 100);
    else
        kd_table_add(t, color, "-");
    kd_table_add(t, color, "%s", j->best ? "best by validation" : " ");
}

static void mean_cells(kd_table *t, enum kd_color color, const struct kd_mean *m, bool sign)
{
    if (m->n == 0)
        kd_table_add(t, color, "-");
    else if (sign)
        kd_table_add(t, color, "%+.1f", m->mean * 100);
    else
        kd_table_add(t, color, "%.1f %%", m->mean * 100);
    if (!isfinite(m->lo) || !isfinite(m->hi))
        kd_table_add(t, color, "-");
    else if (sign)
        kd_table_add(t, color, "%+.1f to %+.1f", m->lo * 100, m->hi * 100);
    else
        kd_table_add(t, color, "%.1f - %.1f %%", m->lo * 100, m->hi * 100);
}

static void groups_table(const kd_cli *cli, const kd_report *r, int sweep)
{
    size_t n = 0;
    kd_group *groups = kd_report_groups(r, sweep, &n);
    bool seeds = false;
    for (size_t g = 0; g < n; g++)
        seeds = seeds || groups[g].n > 1;
    if (seeds) {
        kd_table t;
        kd_table_init(&t, "VALUES|SEEDS>|VALIDATION>|95 % INTERVAL>|TEST>|95 % INTERVAL>|"
                          "STUDENT - TWIN>|95 % INTERVAL>|");
        for (size_t g = 0; g < n; g++) {
            enum kd_color color = groups[g].has_best ? KD_GREEN : KD_PLAIN;
            enum kd_verdict v = kd_verdict_of(groups[g].difference.lo, groups[g].difference.hi);
            kd_table_add(&t, color, "%s", groups[g].label[0] ? groups[g].label : "all");
            kd_table_add(&t, color, "%zu", groups[g].n);
            mean_cells(&t, color, &groups[g].val, false);
            mean_cells(&t, color, &groups[g].test, false);
            mean_cells(&t, color, &groups[g].difference, true);
            kd_table_add(&t, color, "%s", v == KD_VERDICT_UNKNOWN ? " " : kd_verdict_word(v));
        }
        kd_out(cli, "\nover seeds (mean, t interval)");
        kd_table_print(cli, &t, 2);
    }
    free(groups);
}

static void print_bank(const kd_cli *cli, const kd_bank_account *b)
{
    char asked[KD_FMT], served[KD_FMT], computed[KD_FMT], saved[KD_FMT];
    if (!b->there || !(b->asked >= 0) || !(b->served >= 0) || !(b->computed >= 0))
        return;
    kd_out(cli, "\nlogit bank  %s views asked, %s served, %s computed; %s saved",
           kd_fmt_count((uint64_t)b->asked, asked), kd_fmt_count((uint64_t)b->served, served),
           kd_fmt_count((uint64_t)b->computed, computed), kd_fmt_duration(b->seconds_saved, saved));
}

void kd_sweep_table(const kd_cli *cli, const kd_report *r, int sweep)
{
    kd_table t;
    bool test = false;
    kd_table_init(&t, "JOB|VALUES|STATE|STUDENT>|95 % INTERVAL>|TWIN>|DIFFERENCE>|");
    for (size_t i = 0; i < r->n_jobs; i++)
        if (r->jobs[i]->sweep == sweep) {
            child_row(&t, r->jobs[i]);
            test = test || kd_report_tested(r->jobs[i]);
        }
    kd_out(cli, "\njobs (accuracy on %s)",
           test ? "test, of the best version by validation" : "validation, of the last version");
    kd_table_print(cli, &t, 2);
    groups_table(cli, r, sweep);
    print_bank(cli, &r->sweeps[sweep].bank);
}

/* Ownership of d moves in. */
static int print_end(kd_conn *c, Distill__V1__JobDetail *d, bool table, bool hints)
{
    kd_cli *cli = c->cli;
    char job[16];
    snprintf(job, sizeof job, "%s", d->summary->job);
    Distill__V1__JobState state = d->summary->state;
    int rc = KD_EXIT_OK;
    if (cli->json) {
        json_t *o = kd_json_detail(d);
        if (hints)
            json_object_set_new(o, "kind", json_string("end"));
        rc = table ? kd_json_print(cli, o, hints) : (json_decref(o), KD_EXIT_OK);
    } else {
        if (state != DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED)
            kd_error(cli, "sweep %s %s%s%s", d->summary->job, kd_state_word(state),
                     d->summary->reason[0] ? ": " : "", d->summary->reason);
        if (table) {
            kd_report r = {0};
            rc = kd_sweep_collect(c, d, &r);
            d = NULL;
            kd_report_finish(&r);
            if (rc == KD_EXIT_OK)
                kd_sweep_table(cli, &r, 0);
            kd_report_clear(&r);
        }
    }
    if (hints && !cli->json)
        kd_say(cli, "more: distill report %s -O report.html%s", job, cli->server_flag);
    if (d)
        kd_wire_free(&d->base);
    return rc != KD_EXIT_OK ? rc : kd_state_exit(state);
}

int kd_sweep_watch(kd_conn *c, const char *job, bool hints)
{
    looker l = {.c = c,
                .job = job,
                .deadline = INT64_MAX,
                .timeout_s = -1,
                .on_look = on_look,
                .printed_at = -PLAIN_MS};
    Distill__V1__JobDetail *d = NULL;
    int rc = look_on(&l, &d);
    kd_live_clear(c->cli);
    free(l.states);
    if (rc == KD_EXIT_OK)
        return print_end(c, d, true, hints);
    if (kd_cli_comes_back(c->cli)) {
        kd_say(c->cli, "%ssweep %s goes on; watch it again: distill watch %s%s",
               c->cli->tty_err ? "\n" : "", job, job, c->cli->server_flag);
        kd_say(c->cli, "to stop it: distill cancel %s%s", job, c->cli->server_flag);
    }
    return rc;
}

int kd_sweep_wait(kd_conn *c, const char *job, double timeout_s, bool table)
{
    looker l = {.c = c, .job = job, .deadline = INT64_MAX, .timeout_s = timeout_s};
    if (timeout_s >= 0)
        l.deadline = kd_clock_ms() + (kd_time_ms)(timeout_s * 1000);
    Distill__V1__JobDetail *d = NULL;
    int rc = look_on(&l, &d);
    if (rc == KD_EXIT_OK)
        return print_end(c, d, table, false);
    if (kd_cli_comes_back(c->cli))
        kd_say(c->cli, "%ssweep %s goes on; wait again: distill wait %s%s",
               c->cli->tty_err ? "\n" : "", job, job, c->cli->server_flag);
    return rc;
}

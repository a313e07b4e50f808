/* show: everything about one job. */
#include "args.h"
#include "artefact.h"
#include "connect.h"
#include "format.h"
#include "json.h"
#include "output.h"
#include "report_page.h"
#include "sweep.h"
#include "views.h"

#include "kd/clock.h"
#include "kd/stats.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARE_ROWS 6 /* of a table of shares, without --full */

/* "label   text", the text cleaned. */
static void line(const kd_cli *cli, const char *label, enum kd_color color, const char *text)
{
    kd_buf b;
    kd_buf_init(&b, KD_MAX_CONTROL_BYTES);
    kd_text_clean(&b, text);
    bool on = cli->color_out && color != KD_PLAIN;
    kd_out(cli, "%-10s %s%s%s", label, kd_color_start(color, on), b.data ? b.data : "",
           kd_color_end(on));
    kd_buf_clear(&b);
}

static void print_summary(const kd_cli *cli, const Distill__V1__JobSummary *s)
{
    int64_t now = kd_clock_wall_ms();
    char a[KD_FMT], b[KD_FMT], text[256];
    line(cli, "job", KD_BOLD, s->job);
    line(cli, "name", KD_PLAIN, s->name);
    if (s->owner[0])
        line(cli, "owner", KD_PLAIN, s->owner);
    line(cli, "state", kd_summary_color(s), kd_summary_word(s));
    if (s->reason[0])
        line(cli, "reason", KD_PLAIN, s->reason);
    if (s->priority)
        kd_out(cli, "%-10s %d", "priority", s->priority);
    if (s->max_workers && !kd_is_sweep(s))
        kd_out(cli, "%-10s %u to %u", "workers", s->min_workers, s->max_workers);
    snprintf(text, sizeof text, "%s (%s ago)", kd_fmt_clock(s->submitted_ms, now, a),
             kd_fmt_age(s->submitted_ms, now, b));
    line(cli, "submitted", KD_PLAIN, text);
    if (s->started_ms) {
        int64_t end = s->finished_ms ? s->finished_ms : now;
        snprintf(text, sizeof text, "%s, %s %s", kd_fmt_clock(s->started_ms, now, a),
                 s->finished_ms ? "took" : "running for", kd_fmt_age(s->started_ms, end, b));
        line(cli, "started", KD_PLAIN, text);
    }
    if (s->finished_ms)
        line(cli, "finished", KD_PLAIN, kd_fmt_clock(s->finished_ms, now, a));
    if (s->progress) {
        kd_buf p;
        kd_buf_init(&p, 4096);
        kd_view_progress(s->progress, 0, false, cli->utf8, &p);
        line(cli, "progress", KD_PLAIN, p.data ? p.data : "");
        kd_buf_clear(&p);
    }
}

static void print_stages(const kd_cli *cli, const Distill__V1__JobDetail *d)
{
    kd_table t;
    char a[KD_FMT];
    kd_table_init(&t, "STAGE|STATE|STEPS>|PARAMETERS>|TIME>|TEACHER RUNS>|FROM BANK>");
    for (size_t i = 0; i < d->n_stages; i++) {
        const Distill__V1__StageRecord *s = d->stages[i];
        kd_table_add(&t, KD_BOLD, "%s", s->name);
        kd_table_add(&t,
                     strcmp(s->state, "done") == 0      ? KD_GREEN
                     : strcmp(s->state, "running") == 0 ? KD_CYAN
                                                        : KD_PLAIN,
                     "%s", s->state);
        if (s->steps)
            kd_table_add(&t, KD_PLAIN, "%llu/%llu", (unsigned long long)s->committed,
                         (unsigned long long)s->steps);
        else
            kd_table_add(&t, KD_PLAIN, "-");
        kd_table_add(&t, KD_PLAIN, "%s", s->parameters ? kd_fmt_count(s->parameters, a) : "-");
        kd_table_add(&t, KD_PLAIN, "%s", s->seconds > 0 ? kd_fmt_duration(s->seconds, a) : "-");
        bool bank = s->teacher_forwards || s->bank_hits;
        kd_table_add(&t, KD_PLAIN, "%s", bank ? kd_fmt_count(s->teacher_forwards, a) : "-");
        kd_table_add(&t, KD_PLAIN, "%s", bank ? kd_fmt_count(s->bank_hits, a) : "-");
    }
    kd_out(cli, "\nstages");
    kd_table_print(cli, &t, 2);
}

/* Apart, so that the two long words fit into a terminal of 80 columns. */
static void print_digests(const kd_cli *cli, const Distill__V1__JobDetail *d)
{
    kd_table t;
    kd_table_init(&t, "STAGE|DIGEST OF THE PARAMETERS|FINGERPRINT");
    for (size_t i = 0; i < d->n_stages; i++) {
        const Distill__V1__StageRecord *s = d->stages[i];
        if (!s->digest[0] && !s->fingerprint[0])
            continue;
        kd_table_add(&t, KD_BOLD, "%s", s->name);
        kd_table_add(&t, KD_PLAIN, "%s", s->digest);
        kd_table_add(&t, KD_PLAIN, "%s", s->fingerprint);
    }
    if (t.count == 0) {
        kd_table_clear(&t);
        return;
    }
    kd_out(cli, "\ndigests");
    kd_table_print(cli, &t, 2);
}

/* What the table of stages has no room for. */
static void print_remarks(const kd_cli *cli, const Distill__V1__JobDetail *d)
{
    char text[256], a[KD_FMT];
    for (size_t i = 0; i < d->n_stages; i++) {
        const Distill__V1__StageRecord *s = d->stages[i];
        int best = kd_view_best(s);
        if (s->shared[0])
            kd_out_clean(cli, "  %s: taken over from job %s of the same sweep", s->name, s->shared);
        if (best >= 0 && s->n_epochs > 1) {
            const Distill__V1__EpochRecord *e = s->epochs[best];
            snprintf(text, sizeof text, "best by validation at epoch %u, %s", e->epoch,
                     kd_fmt_percent((double)e->val_correct / e->val_samples, a));
            kd_out_clean(cli, "  %s: %s%s%s", s->name, text, s->best_digest[0] ? ", digest " : "",
                         s->best_digest);
        }
        if (s->lost_ms_all > 0 || s->steps_redone > 0)
            kd_out_clean(cli, "  %s: faults cost %s, steps computed again %llu", s->name,
                         kd_fmt_duration(s->lost_ms_all / 1000, a),
                         (unsigned long long)s->steps_redone);
        if (s->stopped_early)
            kd_out_clean(cli, "  %s: stopped early at step %llu, since validation got no better",
                         s->name, (unsigned long long)s->stopped_early);
    }
}

/* Workers that were slow, or whose numbers were wrong. */
static void print_odd(const kd_cli *cli, const char *label, enum kd_color color, char *const *names,
                      size_t n)
{
    kd_buf b;
    kd_buf_init(&b, KD_MAX_CONTROL_BYTES);
    for (size_t i = 0; i < n; i++)
        (void)kd_buf_printf(&b, "%s%s", i ? ", " : "", names[i]);
    if (n > 0)
        line(cli, label, color, b.data ? b.data : "");
    kd_buf_clear(&b);
}

static void print_bank(const kd_cli *cli, const kd_bank_account *b)
{
    char asked[KD_FMT], served[KD_FMT], computed[KD_FMT], time[KD_FMT], saved[KD_FMT];
    if (!b->there || !(b->asked >= 0) || !(b->served >= 0) || !(b->computed >= 0))
        return;
    kd_out(cli, "\nlogit bank");
    kd_out(cli, "  %s views asked: %s served from the bank, %s computed by the teacher",
           kd_fmt_count((uint64_t)b->asked, asked), kd_fmt_count((uint64_t)b->served, served),
           kd_fmt_count((uint64_t)b->computed, computed));
    if (b->seconds >= 0)
        kd_out(cli, "  teacher's time %s, saved %s", kd_fmt_duration(b->seconds, time),
               kd_fmt_duration(b->seconds_saved, saved));
}

/* Agreement, KL and learning rate have columns only where they are known. */
static void print_epochs(const kd_cli *cli, const Distill__V1__StageRecord *s)
{
    kd_table t;
    char a[KD_FMT], spec[160];
    int best = kd_view_best(s);
    bool taught = false, rate = false;
    for (size_t i = 0; i < s->n_epochs; i++) {
        taught = taught || kd_epoch_taught(s->epochs[i]);
        rate = rate || s->epochs[i]->learning_rate > 0;
    }
    snprintf(spec, sizeof spec,
             "EPOCH>|TRAIN LOSS>|TRAIN ACC>|VAL LOSS>|VAL ACC>|95 %% INTERVAL>|CORRECT>|%s%s",
             taught ? "AGREES>|KL>|" : "", rate ? "LR>|" : "");
    kd_table_init(&t, spec);
    for (size_t i = 0; i < s->n_epochs; i++) {
        const Distill__V1__EpochRecord *e = s->epochs[i];
        bool last = i + 1 == s->n_epochs, is_best = (int)i == best;
        enum kd_color color = is_best ? KD_GREEN : KD_PLAIN;
        kd_table_add(&t, color, "%u", e->epoch);
        kd_table_add(&t, color, "%s", e->epoch ? kd_fmt_figure(e->train_loss, a) : "-");
        kd_table_add(&t, color, "%s", e->epoch ? kd_fmt_percent(e->train_accuracy, a) : "-");
        if (e->val_samples > 0 && e->val_correct <= e->val_samples) {
            double lo, hi;
            kd_wilson(e->val_correct, e->val_samples, &lo, &hi);
            kd_table_add(&t, color, "%s", kd_fmt_figure(e->val_loss, a));
            kd_table_add(&t, color, "%s",
                         kd_fmt_percent((double)e->val_correct / e->val_samples, a));
            kd_table_add(&t, color, "%.1f - %.1f %%", lo * 100, hi * 100);
            kd_table_add(&t, color, "%u/%u", e->val_correct, e->val_samples);
        } else {
            for (int k = 0; k < 4; k++)
                kd_table_add(&t, color, "-");
        }
        if (taught && kd_epoch_taught(e)) {
            kd_table_add(&t, color, "%s", kd_fmt_percent((double)e->val_agree / e->val_samples, a));
            kd_table_add(&t, color, "%s", kd_fmt_figure(e->val_kl, a));
        } else if (taught) {
            kd_table_add(&t, color, "-");
            kd_table_add(&t, color, "-");
        }
        if (rate)
            kd_table_add(&t, color, "%s",
                         e->learning_rate > 0 ? kd_fmt_figure(e->learning_rate, a) : "-");
        kd_table_add(&t, color, "%s",
                     last && is_best ? "last, best by validation"
                     : last          ? "last"
                     : is_best       ? "best by validation"
                                     : " ");
    }
    kd_out(cli, "%s", "");
    kd_out_clean(cli, "epochs of %s", s->name);
    kd_table_print(cli, &t, 2);
}

/* Which term of the loss drives the gradient: at first, at last and a few times between; `full`:
 * at every evaluation. */
static void print_shares(const kd_cli *cli, const Distill__V1__StageRecord *s, bool full)
{
    kd_table t;
    kd_buf spec;
    char a[KD_FMT];
    size_t terms = KD_MIN(s->n_terms, (size_t)(KD_TABLE_COLUMNS - 1)), n = s->n_epochs;
    size_t rows = full ? n : KD_MIN(n, (size_t)SHARE_ROWS);
    bool known = false;
    for (size_t i = 0; i < n; i++)
        known = known || s->epochs[i]->n_shares > 0;
    /* One term has it all. */
    if (terms < 2 || !known)
        return;
    kd_buf_init(&spec, 4096);
    (void)kd_buf_str(&spec, "EPOCH>");
    for (size_t k = 0; k < terms; k++) {
        (void)kd_buf_str(&spec, "|");
        kd_text_clean(&spec, s->terms[k]);
        (void)kd_buf_str(&spec, ">");
    }
    kd_table_init(&t, spec.data ? spec.data : "");
    for (size_t r = 0; r < rows; r++) {
        const Distill__V1__EpochRecord *e = s->epochs[rows > 1 ? r * (n - 1) / (rows - 1) : 0];
        kd_table_add(&t, KD_PLAIN, "%u", e->epoch);
        for (size_t k = 0; k < terms; k++)
            kd_table_add(&t, KD_PLAIN, "%s",
                         k < e->n_shares ? kd_fmt_percent(e->shares[k], a) : "-");
    }
    kd_out(cli, "%s", "");
    kd_out_clean(cli, "gradient shares of the loss terms in %s", s->name);
    kd_table_print(cli, &t, 2);
    kd_buf_clear(&spec);
}

static const char *class_name(const kd_report_job *j, int c, char number[16])
{
    if (c < j->n_classes)
        return j->classes[c];
    snprintf(number, 16, "%d", c);
    return number;
}

/* Columns are numbered, since names would not fit. */
static void print_confusion(const kd_cli *cli, const kd_report_job *j, const kd_eval *e)
{
    char number[16], a[KD_FMT];
    kd_out(cli, "%s", "");
    kd_out_clean(cli, "classes of %s on %s: %s right", kd_network_title(e->network),
                 strcmp(e->split, "val") == 0 ? "validation" : e->split,
                 kd_fmt_percent(e->score.accuracy, a));
    bool matrix = e->confusion && e->n_classes <= KD_TABLE_COLUMNS - 4;
    kd_buf spec;
    kd_buf_init(&spec, 4096);
    (void)kd_buf_str(&spec, "#>|CLASS|ACCURACY>|CORRECT>");
    for (int c = 0; matrix && c < e->n_classes; c++)
        (void)kd_buf_printf(&spec, "|AS %d>", c);
    kd_table t;
    kd_table_init(&t, spec.data ? spec.data : "");
    for (int c = 0; e->samples && c < e->n_classes; c++) {
        kd_table_add(&t, KD_PLAIN, "%d", c);
        kd_table_add(&t, KD_BOLD, "%s", class_name(j, c, number));
        kd_table_add(
            &t, KD_PLAIN, "%s",
            e->samples[c] ? kd_fmt_percent((double)e->correct[c] / (double)e->samples[c], a) : "-");
        kd_table_add(&t, KD_PLAIN, "%llu/%llu", (unsigned long long)e->correct[c],
                     (unsigned long long)e->samples[c]);
        for (int k = 0; matrix && k < e->n_classes; k++)
            kd_table_add(&t, k == c ? KD_GREEN : KD_PLAIN, "%llu",
                         (unsigned long long)e->confusion[c * e->n_classes + k]);
    }
    kd_table_print(cli, &t, 2);
    kd_buf_clear(&spec);
}

static void print_artefacts(const kd_cli *cli, const Distill__V1__JobDetail *d)
{
    kd_table t;
    char a[KD_FMT];
    kd_table_init(&t, "ARTEFACT|SIZE>|DIGEST OF THE FILE");
    for (size_t i = 0; i < d->n_artefacts; i++) {
        kd_table_add(&t, KD_PLAIN, "%s", d->artefacts[i]->name);
        kd_table_add(&t, KD_PLAIN, "%s", kd_fmt_bytes((double)d->artefacts[i]->size, a));
        kd_table_add(&t, KD_PLAIN, "%s", d->artefacts[i]->digest);
    }
    kd_out(cli, "\nartefacts");
    kd_table_print(cli, &t, 2);
}

static const kd_opt g_opts[] = {
    {"resolved", 0, NULL, "print only the job file with every default filled in, as JSON"},
    {"full", 0, NULL, "also accuracy by class, what is confused, shares at every evaluation"},
};

static int print_classes(kd_conn *c, kd_report_job *j)
{
    const char *job = j->detail->summary->job;
    const Distill__V1__Artefact *a = kd_artefact_find(j->detail, "evaluation.json");
    kd_diag diag = {0};
    char *text = NULL;
    size_t len = 0;
    if (!a) {
        kd_say(c->cli, "job %s has no evaluation.json: nothing is known of its classes", job);
        return KD_EXIT_OK;
    }
    int rc = kd_artefact_read(c, &(kd_artefact_source){.job = job}, a, KD_REPORT_EVALUATION, &text,
                              &len);
    if (rc == KD_EXIT_OK && kd_report_evaluation(j, text, len, &diag) != 0) {
        kd_error(c->cli, "%s", diag.msg);
        rc = KD_EXIT_FAILURE;
    }
    free(text);
    for (int i = 0; rc == KD_EXIT_OK && i < j->n_evals; i++)
        print_confusion(c->cli, j, &j->evals[i]);
    return rc;
}

static int print_job(kd_conn *c, kd_report_job *j, bool full)
{
    const kd_cli *cli = c->cli;
    const Distill__V1__JobDetail *d = j->detail;
    char sentence[320];
    print_summary(cli, d->summary);
    if (d->continued[0])
        line(cli, "continues", KD_PLAIN, d->continued);
    if (d->replayed[0])
        line(cli, "replays", KD_PLAIN, d->replayed);
    print_odd(cli, "slow", KD_YELLOW, d->slow, d->n_slow);
    print_odd(cli, "quarantined", KD_RED, d->quarantined, d->n_quarantined);
    if (d->n_stages > 0)
        print_stages(cli, d);
    print_remarks(cli, d);
    print_digests(cli, d);
    for (size_t i = 0; i < d->n_stages; i++)
        if (d->stages[i]->n_epochs > 0) {
            print_epochs(cli, d->stages[i]);
            print_shares(cli, d->stages[i], full);
        }
    print_bank(cli, &j->bank);
    if (d->n_artefacts > 0)
        print_artefacts(cli, d);
    if (d->result[0]) {
        kd_out(cli, "\nresult");
        if (!kd_view_result(cli, d->result))
            kd_error(cli, "the job's result is no JSON object");
        if (kd_pair_sentence(kd_report_twin_pair(j), sentence, sizeof sentence))
            kd_out(cli, "%s", sentence);
    }
    int rc = full ? print_classes(c, j) : KD_EXIT_OK;
    int flushed = kd_out_flush(cli);
    return rc != KD_EXIT_OK ? rc : flushed;
}

/* Ownership of d moves in. */
static int print(kd_conn *c, const kd_args *args, Distill__V1__JobDetail *d)
{
    kd_cli *cli = c->cli;
    kd_report r = {0};
    kd_report_job *j = NULL;
    kd_diag diag = {0};
    bool sweep = kd_is_sweep(d->summary);
    int rc;
    if (kd_args_has(args, "resolved") || cli->json) {
        rc = kd_json_print(cli,
                           cli->json && !kd_args_has(args, "resolved") ? kd_json_detail(d)
                                                                       : kd_json_parse(d->resolved),
                           false);
        kd_wire_free(&d->base);
        return rc;
    }
    if (sweep) {
        char count[64];
        print_summary(cli, d->summary);
        line(cli, "jobs", KD_PLAIN, kd_sweep_count(d->summary, count, sizeof count));
        rc = kd_sweep_collect(c, d, &r);
        kd_report_finish(&r);
        if (rc == KD_EXIT_OK) {
            kd_sweep_table(cli, &r, 0);
            rc = kd_out_flush(cli);
        }
    } else if (kd_report_add_job(&r, d, -1, &j, &diag) != 0) {
        kd_error(cli, "%s", diag.msg);
        rc = KD_EXIT_FAILURE;
    } else {
        rc = print_job(c, j, kd_args_has(args, "full"));
    }
    kd_report_clear(&r);
    return rc;
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_conn conn;
    int rc = kd_conn_start(cli, NULL, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    Distill__V1__JobDetail *detail = NULL;
    rc = kd_conn_job(&conn, args->operands[0], &detail);
    if (rc == KD_EXIT_OK)
        rc = print(&conn, args, detail);
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_show = {
    .name = "show",
    .operands = "JOB",
    .summary = "show a job: stages, digests, epochs, artefacts, result",
    .help =
        "Per epoch: loss and accuracy in training, accuracy over the whole validation split with\n"
        "its 95 % Wilson interval, agreement with the teacher and KL from it at T = 1, learning "
        "rate.\n"
        "The last epoch and the best by validation are marked. Of each loss term its share in the\n"
        "gradient on the logits. A sweep is shown as a table of its jobs.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};

/* show: everything about one job. */
#include "args.h"
#include "connect.h"
#include "format.h"
#include "json.h"
#include "output.h"
#include "views.h"

#include "kd/clock.h"

#include <stdio.h>
#include <string.h>

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
    line(cli, "state", kd_state_color(s->state), kd_state_word(s->state));
    if (s->reason[0])
        line(cli, "reason", KD_PLAIN, s->reason);
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

static void print_epochs(const kd_cli *cli, const Distill__V1__StageRecord *s)
{
    kd_table t;
    char a[KD_FMT];
    int best = kd_view_best(s);
    kd_table_init(&t, "EPOCH>|TRAIN LOSS>|TRAIN ACC>|VAL LOSS>|VAL ACC>|95 % INTERVAL>|CORRECT>|");
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
};

static int print(kd_cli *cli, const kd_args *args, const Distill__V1__JobDetail *d)
{
    if (kd_args_has(args, "resolved"))
        return kd_json_print(cli, kd_json_parse(d->resolved), false);
    if (cli->json)
        return kd_json_print(cli, kd_json_detail(d), false);
    print_summary(cli, d->summary);
    if (d->n_stages > 0)
        print_stages(cli, d);
    print_digests(cli, d);
    for (size_t i = 0; i < d->n_stages; i++)
        if (d->stages[i]->n_epochs > 0)
            print_epochs(cli, d->stages[i]);
    if (d->n_artefacts > 0)
        print_artefacts(cli, d);
    if (d->result[0]) {
        kd_out(cli, "\nresult");
        if (!kd_view_result(cli, d->result))
            kd_error(cli, "the job's result is no JSON object");
    }
    return kd_out_flush(cli);
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_conn conn;
    int rc = kd_conn_open(cli, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    Distill__V1__JobDetail *detail = NULL;
    kd_cli_catch_signals();
    rc = kd_conn_job(&conn, args->operands[0], &detail);
    if (rc == KD_EXIT_OK) {
        rc = print(cli, args, detail);
        kd_wire_free(&detail->base);
    }
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_show = {
    .name = "show",
    .operands = "JOB",
    .summary = "show a job: stages, digests, epochs, artefacts, result",
    .help =
        "Per epoch: loss and accuracy in training, accuracy over the whole validation split with\n"
        "its 95 % Wilson interval. Both the last epoch and the best by validation are marked.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};

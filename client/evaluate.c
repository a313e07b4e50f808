/* evaluate: a network from a file over a folder of labelled pictures, without a coordinator. */
#include "args.h"
#include "format.h"
#include "json.h"
#include "output.h"
#include "scoring.h"

#include <stdio.h>
#include <string.h>

#define MATRIX_COLUMNS (KD_TABLE_COLUMNS - 1)

static const kd_opt g_opts[] = {
    KD_SCORING_FLAGS,
    KD_PREDICT_FLAGS,
    {"threads", 0, "N", "pictures at once (as many as there are CPUs)"},
};

static json_t *class_json(const kd_predictor *p, const kd_figures *f, int c)
{
    char number[16];
    return json_pack("{s:o, s:i, s:i, s:i, s:f, s:f, s:f}", "class",
                     kd_json_text(kd_predictor_class(p, c, number)), "samples", (int)f->samples[c],
                     "guessed", (int)f->guessed[c], "correct", (int)f->right[c], "precision",
                     kd_figures_precision(f, c), "recall", kd_figures_recall(f, c), "f1",
                     kd_figures_f1(f, c));
}

static json_t *matrix_json(const kd_figures *f)
{
    json_t *rows = json_array();
    for (int y = 0; y < f->classes; y++) {
        json_t *row = json_array();
        for (int x = 0; x < f->classes; x++)
            (void)json_array_append_new(row, json_integer(f->confusion[y * f->classes + x]));
        (void)json_array_append_new(rows, row);
    }
    return rows;
}

static int print_json(kd_cli *cli, const kd_predictor *p, const char *model, const kd_scoring *s)
{
    const kd_figures *f = &s->figures;
    json_t *classes = json_array();
    for (int c = 0; c < f->classes; c++)
        (void)json_array_append_new(classes, class_json(p, f, c));
    json_t *o = json_pack("{s:o, s:s, s:I, s:I, s:I, s:I, s:f, s:[f, f], s:f, s:f, s:f, s:o}",
                          "model", kd_json_text(model), "data", s->data, "samples",
                          (json_int_t)f->n, "skipped", (json_int_t)s->skipped, "correct",
                          (json_int_t)f->correct, "top5", (json_int_t)f->top5, "accuracy",
                          (double)f->correct / (double)f->n, "interval", s->lo, s->hi, "loss",
                          f->loss, "ece", f->ece, "seconds", s->seconds, "per_class", classes);
    if (f->confusion)
        json_object_set_new(o, "confusion", matrix_json(f));
    return kd_json_print(cli, o, false);
}

static void print_classes(kd_cli *cli, const kd_predictor *p, const kd_figures *f)
{
    char number[16], a[KD_FMT];
    kd_table t;
    kd_table_init(&t, "CLASS|SAMPLES>|GUESSED>|PRECISION>|RECALL>|F1>");
    for (int c = 0; c < f->classes; c++) {
        if (f->samples[c] + f->guessed[c] == 0)
            continue;
        kd_table_add(&t, KD_PLAIN, "%s", kd_predictor_class(p, c, number));
        kd_table_add(&t, KD_PLAIN, "%u", f->samples[c]);
        kd_table_add(&t, KD_PLAIN, "%u", f->guessed[c]);
        kd_table_add(&t, KD_PLAIN, "%s", kd_fmt_percent(kd_figures_precision(f, c), a));
        kd_table_add(&t, KD_PLAIN, "%s", kd_fmt_percent(kd_figures_recall(f, c), a));
        kd_table_add(&t, KD_PLAIN, "%.3f", kd_figures_f1(f, c));
    }
    kd_table_print(cli, &t, 0);
}

static void print_matrix(kd_cli *cli, const kd_predictor *p, const kd_figures *f)
{
    char number[16], spec[KD_TABLE_COLUMNS * 40] = "TRUE CLASS";
    kd_table t;
    if (!f->confusion || f->classes > MATRIX_COLUMNS)
        return;
    size_t at = strlen(spec);
    for (int c = 0; c < f->classes; c++)
        at += (size_t)snprintf(spec + at, sizeof spec - at, "|%d>", c);
    kd_out(cli, "%s", "");
    kd_table_init(&t, spec);
    for (int y = 0; y < f->classes; y++) {
        kd_table_add(&t, KD_PLAIN, "%d %s", y, kd_predictor_class(p, y, number));
        for (int x = 0; x < f->classes; x++)
            kd_table_add(&t, x == y ? KD_BOLD : KD_PLAIN, "%u", f->confusion[y * f->classes + x]);
    }
    kd_table_print(cli, &t, 0);
}

static void print_table(kd_cli *cli, const kd_predictor *p, const kd_scoring *s)
{
    const kd_figures *f = &s->figures;
    char a[KD_FMT], b[KD_FMT];
    print_classes(cli, p, f);
    print_matrix(cli, p, f);
    kd_out(cli, "\ntop-1 %s (95 %%: %.1f - %.1f %%), %zu of %zu; top-5 %s",
           kd_fmt_percent((double)f->correct / (double)f->n, a), s->lo * 100, s->hi * 100,
           f->correct, f->n, kd_fmt_percent((double)f->top5 / (double)f->n, b));
    kd_out(cli, "loss %.4f nats, calibration error (ECE) %.4f; %.0f pictures a second", f->loss,
           f->ece, (double)f->n / s->seconds);
}

static int start(kd_cli *cli, const kd_args *args)
{
    kd_predictor p;
    kd_scoring s;
    kd_diag diag = {0};
    uint64_t threads;
    if (kd_args_u64(args, "threads", 1, KD_LANES_MAX, (uint64_t)kd_lanes_cpus(), &threads, &diag) !=
        0)
        return kd_usage(cli, "evaluate", NULL, "%s", diag.msg);
    kd_scoring_data data;
    int rc = kd_scoring_flags(cli, "evaluate", args, args->operands[1], &data);
    if (rc == KD_EXIT_OK)
        rc = kd_predictor_start(cli, "evaluate", args, &p);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = kd_scoring_run(cli, &p, &data, (int)threads, &s);
    if (rc == KD_EXIT_OK) {
        if (cli->json)
            rc = print_json(cli, &p, args->operands[0], &s);
        else
            print_table(cli, &p, &s);
        if (rc == KD_EXIT_OK && s.skipped > 0)
            rc = KD_EXIT_FAILURE;
        kd_scoring_clear(&s);
    }
    kd_predictor_clear(&p);
    return rc;
}

const kd_verb kd_verb_evaluate = {
    .name = "evaluate",
    .operands = "MODEL DATA",
    .summary = "how good a network is on a folder of labelled pictures, on this machine",
    .help =
        "DATA is a folder of class folders, or the data folder of a job with --list val.txt; with\n"
        "--data-format one of IDX, CIFAR or npy files. The\n"
        "figures are those of a job's evaluate stage: top-1 with its interval, top-5, each "
        "class's\n"
        "precision, recall and F1, the confusion matrix, the mean cross-entropy, and the expected\n"
        "calibration error over 15 bins. A picture that cannot be read is named and does not\n"
        "count; the exit code is then 1. No coordinator is asked.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 2,
    .max_operands = 2,
    .run = start};

/* predict: a network from a file on pictures, here and now, without a coordinator. */
#include "args.h"
#include "format.h"
#include "json.h"
#include "lanes.h"
#include "output.h"
#include "pictures.h"
#include "predict_model.h"
#include "progress.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOP 1000
#define TABLE_TOP (KD_TABLE_COLUMNS - 1)

static const kd_opt g_opts[] = {
    {"output", 'o', "table|json|csv", "a table, one JSON object a line, or one row a guess"},
    {"top", 'n', "N", "so many guesses a picture, the most probable first (3)"},
    KD_PREDICT_FLAGS,
    {"threads", 0, "N", "pictures at once (as many as there are CPUs)"},
};

enum format { FORMAT_TABLE, FORMAT_JSON, FORMAT_CSV };

typedef struct picture {
    const char *path;
    bool done, bad;
    char *why; /* of a bad one */
} picture;

typedef struct run {
    kd_cli *cli;
    kd_predictor model;
    kd_pictures found;
    picture *pictures; /* [n] */
    size_t n;
    kd_prediction *guesses; /* [n][top] */
    int top, threads;
    enum format format;
    pthread_mutex_t mu;
    pthread_cond_t cond;
    /* guarded by mu: next and stop, and of each picture what is found out about it */
    size_t next;
    bool stop;
    kd_diag broken; /* why no thread could begin */
} run;

static int find_pictures(run *r, const kd_args *args)
{
    int rc = KD_EXIT_OK;
    for (int i = 1; rc == KD_EXIT_OK && i < args->n_operands; i++)
        rc = kd_pictures_add(r->cli, args->operands[i], &r->found);
    if (rc != KD_EXIT_OK)
        return rc;
    r->pictures = calloc(r->found.n + 1, sizeof *r->pictures);
    if (!r->pictures) {
        kd_error(r->cli, "no memory for %zu pictures", r->found.n);
        return KD_EXIT_FAILURE;
    }
    r->n = r->found.n;
    for (size_t i = 0; i < r->n; i++)
        r->pictures[i].path = r->found.paths[i];
    return KD_EXIT_OK;
}

/* ---- the threads */

static void *work(void *arg)
{
    run *r = arg;
    kd_diag diag = {0};
    kd_predict_lane lane;
    kd_engine_thread();
    bool begun = kd_predict_lane_init(&lane, &r->model, &diag) == 0;
    pthread_mutex_lock(&r->mu);
    if (!begun && r->broken.code == 0) {
        r->broken = diag;
        r->stop = true;
    }
    while (!r->stop && r->next < r->n) {
        size_t at = r->next++;
        pthread_mutex_unlock(&r->mu);
        diag = (kd_diag){0};
        int rc = kd_predict_file(&lane, r->pictures[at].path, r->top,
                                 r->guesses + at * (size_t)r->top, &diag);
        pthread_mutex_lock(&r->mu);
        r->pictures[at].bad = rc != 0;
        r->pictures[at].why = rc != 0 ? strdup(diag.msg) : NULL;
        r->pictures[at].done = true;
        pthread_cond_broadcast(&r->cond);
    }
    pthread_cond_broadcast(&r->cond);
    pthread_mutex_unlock(&r->mu);
    if (begun)
        kd_predict_lane_clear(&lane);
    return NULL;
}

/* Until picture `at` is done; false when nothing more will come. */
static bool await(run *r, size_t at)
{
    pthread_mutex_lock(&r->mu);
    while (!r->pictures[at].done && !r->stop) {
        kd_lanes_wait(&r->cond, &r->mu);
        if (kd_cli_signal() != 0)
            r->stop = true;
    }
    bool done = r->pictures[at].done;
    pthread_mutex_unlock(&r->mu);
    return done;
}

/* ---- output, in the order of the pictures */

static void print_json(const run *r, size_t at)
{
    const picture *p = &r->pictures[at];
    json_t *o = json_object(), *list = json_array();
    char number[16];
    json_object_set_new(o, "picture", kd_json_text(p->path));
    for (int k = 0; !p->bad && k < r->top; k++) {
        const kd_prediction *g = &r->guesses[at * (size_t)r->top + (size_t)k];
        (void)json_array_append_new(
            list, json_pack("{s:o, s:i, s:f}", "class",
                            kd_json_text(kd_predictor_class(&r->model, g->index, number)), "index",
                            g->index, "probability", g->probability));
    }
    json_object_set_new(o, "guesses", list);
    if (p->bad)
        json_object_set_new(o, "error", kd_json_text(p->why ? p->why : "unreadable"));
    (void)!kd_json_print(r->cli, o, true);
}

static void csv_field(kd_buf *b, const char *s)
{
    (void)kd_buf_str(b, "\"");
    for (; *s; s++)
        (void)kd_buf_printf(b, "%s%c", *s == '"' ? "\"" : "", *s);
    (void)kd_buf_str(b, "\"");
}

static void print_csv(const run *r, size_t at)
{
    char number[16];
    kd_buf b;
    kd_buf_init(&b, 1 << 20);
    for (int k = 0; !r->pictures[at].bad && k < r->top; k++) {
        const kd_prediction *g = &r->guesses[at * (size_t)r->top + (size_t)k];
        csv_field(&b, r->pictures[at].path);
        (void)kd_buf_printf(&b, ",%d,", k + 1);
        csv_field(&b, kd_predictor_class(&r->model, g->index, number));
        (void)kd_buf_printf(&b, ",%d,%.9g\r\n", g->index, g->probability);
    }
    kd_out_text(r->cli, b.data ? b.data : "");
    kd_buf_clear(&b);
}

static void add_table_row(const run *r, kd_table *t, size_t at)
{
    char number[16];
    kd_table_add(t, KD_PLAIN, "%s", r->pictures[at].path);
    for (int k = 0; k < r->top; k++) {
        const kd_prediction *g = &r->guesses[at * (size_t)r->top + (size_t)k];
        kd_table_add(t, k == 0 ? KD_BOLD : KD_PLAIN, "%s %.1f %%",
                     kd_predictor_class(&r->model, g->index, number), g->probability * 100);
    }
}

static void open_table(const run *r, kd_table *t)
{
    char spec[256] = "PICTURE";
    for (int k = 0; k < r->top; k++)
        snprintf(spec + strlen(spec), sizeof spec - strlen(spec), "|GUESS %d", k + 1);
    kd_table_init(t, spec);
}

/* Prints what comes. Returns an exit code. */
static int print_all(run *r)
{
    kd_table t = {0};
    kd_bar bar;
    size_t bad = 0, at = 0;
    if (r->format == FORMAT_TABLE)
        open_table(r, &t);
    if (r->format == FORMAT_CSV)
        kd_out_text(r->cli, "picture,rank,class,index,probability\r\n");
    kd_bar_start(&bar, r->cli, KD_BAR_PICTURES, "predicting", r->n, 0);
    int rc = KD_EXIT_OK;
    for (; rc == KD_EXIT_OK && at < r->n && await(r, at); at++) {
        const picture *p = &r->pictures[at];
        if (p->bad) {
            bad++;
            kd_error(r->cli, "%s is passed over: %s", p->path, p->why ? p->why : "unreadable");
        }
        if (r->format == FORMAT_JSON)
            print_json(r, at);
        else if (r->format == FORMAT_CSV)
            print_csv(r, at);
        else if (!p->bad)
            add_table_row(r, &t, at);
        /* Where the lines themselves run over the terminal they are progress enough. */
        if (r->format == FORMAT_TABLE || !r->cli->tty_out)
            kd_bar_set(&bar, at + 1);
        rc = kd_out_check_reader();
    }
    kd_bar_end(&bar);
    if (r->format == FORMAT_TABLE && at == r->n && bad < r->n)
        kd_table_print(r->cli, &t, 0);
    else if (r->format == FORMAT_TABLE)
        kd_table_clear(&t);
    int flushed = kd_out_flush(r->cli);
    if (rc == KD_EXIT_OK && at < r->n)
        rc = kd_cli_signal() != 0 ? kd_cli_signal_exit() : KD_EXIT_FAILURE;
    if (bad > 0)
        kd_say(r->cli, "%zu of %zu pictures could not be read", bad, r->n);
    return rc != KD_EXIT_OK ? rc : flushed != KD_EXIT_OK ? flushed : bad > 0 ? KD_EXIT_FAILURE : 0;
}

static int run_threads(run *r)
{
    pthread_t threads[KD_LANES_MAX];
    int n = 0, wanted = (int)KD_MIN((size_t)r->threads, r->n);
    while (n < wanted && pthread_create(&threads[n], NULL, work, r) == 0)
        n++;
    int rc = KD_EXIT_FAILURE;
    if (n == 0)
        kd_error(r->cli, "no thread could be started");
    else
        rc = print_all(r);
    pthread_mutex_lock(&r->mu);
    r->stop = true;
    pthread_mutex_unlock(&r->mu);
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    if (r->broken.code != 0)
        kd_error(r->cli, "%s", r->broken.msg);
    return rc;
}

/* ---- flags */

static int read_flags(run *r, const kd_args *args)
{
    kd_diag diag = {0};
    uint64_t top, threads;
    const char *format = kd_args_value(args, "output");
    static const char *const formats[] = {"table", "json", "csv"};
    if (kd_args_u64(args, "top", 1, MAX_TOP, 3, &top, &diag) != 0 ||
        kd_args_u64(args, "threads", 1, KD_LANES_MAX, (uint64_t)kd_lanes_cpus(), &threads, &diag) !=
            0)
        return kd_usage(r->cli, "predict", NULL, "%s", diag.msg);
    size_t f = 0;
    while (format && f < KD_COUNT(formats) && strcmp(format, formats[f]) != 0)
        f++;
    if (f == KD_COUNT(formats))
        return kd_usage(r->cli, "predict", "-o table, -o json or -o csv",
                        "unknown output format \"%s\"", format);
    r->format = (enum format)f;
    r->top = (int)top;
    r->threads = (int)threads;
    if (r->format == FORMAT_TABLE && r->top > TABLE_TOP)
        return kd_usage(r->cli, "predict", "-o json and -o csv have room for more",
                        "a table has room for %d guesses", TABLE_TOP);
    return KD_EXIT_OK;
}

static int start(kd_cli *cli, const kd_args *args)
{
    run r = {.cli = cli,
             .mu = PTHREAD_MUTEX_INITIALIZER,
             .cond = PTHREAD_COND_INITIALIZER,
             .model = {.preprocess = -1}};
    int rc = read_flags(&r, args);
    if (rc == KD_EXIT_OK)
        rc = kd_predictor_start(cli, "predict", args, &r.model);
    if (rc != KD_EXIT_OK)
        return rc;
    r.top = KD_MIN(r.top, r.model.net.n_classes);
    rc = find_pictures(&r, args);
    size_t bytes;
    if (rc == KD_EXIT_OK && kd_mul_size(r.n, (size_t)r.top * sizeof *r.guesses, &bytes))
        r.guesses = malloc(bytes);
    if (rc == KD_EXIT_OK && !r.guesses) {
        kd_error(cli, "no memory for the guesses of %zu pictures", r.n);
        rc = KD_EXIT_FAILURE;
    }
    if (rc == KD_EXIT_OK)
        rc = run_threads(&r);
    for (size_t i = 0; i < r.n; i++)
        free(r.pictures[i].why);
    free(r.pictures);
    kd_pictures_clear(&r.found);
    free(r.guesses);
    kd_predictor_clear(&r.model);
    return rc;
}

const kd_verb kd_verb_predict = {
    .name = "predict",
    .operands = "MODEL PICTURE...|FOLDER...",
    .summary = "what a network names pictures, on this machine",
    .help = "MODEL is a student.safetensors of ours, which says all about itself, or an .onnx "
            "file. A picture\n"
            "is squeezed into the network's square, as in training. One that cannot be read is "
            "named and\n"
            "passed over; the exit code is then 1. No coordinator is asked.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 2,
    .max_operands = -1,
    .run = start};

#include "scoring.h"

#include "kd/clock.h"
#include "kd/stats.h"
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_LOGITS ((size_t)2 << 30) /* bytes */

typedef struct work {
    const kd_predictor *p;
    kd_data *data;
    size_t n;
    float *logits;   /* [n][classes] */
    int32_t *labels; /* [n], classes of the network; -1: could not be read */
    int *class_of;   /* class of the data -> class of the network */
    char **why;      /* [n], of those that could not be read */
} work;

/* ---- the pictures and their classes */

static int open_data(work *w, int root, const kd_scoring_data *from, kd_diag *diag)
{
    const kd_data_config cfg = {.kind = from->kind,
                                .path = "",
                                .train = from->list,
                                .train_labels = from->labels,
                                .one_split = true,
                                .links = true,
                                .leakage = KD_DATA_ALLOW,
                                .size = w->p->from};
    int rc = w->p->w != w->p->h ? kd_fail(diag, -KD_EUNSUP, "the network's pictures are not square")
                                : kd_data_open(&cfg, root, NULL, NULL, &w->data, diag);
    if (rc != 0)
        return rc;
    w->n = kd_data_count(w->data, KD_SPLIT_TRAIN);
    return 0;
}

/* Data of other formats may have nothing but numbers for its classes, whatever the network's are
 * called. */
static bool is_number(const char *name, int c)
{
    char number[16];
    snprintf(number, sizeof number, "%d", c);
    return strcmp(name, number) == 0;
}

static int find_class(const kd_loaded *net, enum kd_data_kind kind, int at, const char *name)
{
    for (int c = 0; c < net->n_classes; c++)
        if (strcmp(net->info.classes[c], name) == 0)
            return c;
    return kind != KD_DATA_IMAGE_FOLDER && at < net->n_classes && is_number(name, at) ? at : -1;
}

/* By name; without names on the network's side by number, which must then be all of them. */
static int match_classes(work *w, const kd_scoring_data *from, kd_diag *diag)
{
    const kd_loaded *net = &w->p->net;
    const int n = kd_data_classes(w->data);
    w->class_of = calloc((size_t)n, sizeof *w->class_of);
    if (!w->class_of)
        return kd_fail(diag, -KD_ENOMEM, "no memory for %d classes", n);
    if (!net->info.classes && n != net->n_classes)
        return kd_fail(diag, -KD_EINVAL,
                       "%s has %d classes, the network %d without names; name them with --classes",
                       from->folder, n, net->n_classes);
    for (int c = 0; c < n; c++) {
        const char *name = kd_data_class_name(w->data, c);
        w->class_of[c] = net->info.classes ? find_class(net, from->kind, c, name) : c;
        if (w->class_of[c] < 0)
            return kd_fail(diag, -KD_EINVAL, "%s has the class `%.80s`, which the network does not",
                           from->folder, name);
    }
    return 0;
}

static int make_room(work *w, kd_diag *diag)
{
    size_t bytes;
    if (!kd_mul_size(w->n, (size_t)w->p->net.n_classes * sizeof(float), &bytes) ||
        bytes > MAX_LOGITS)
        return kd_fail(diag, -KD_ELIMIT, "%zu pictures of %d classes are too many at once", w->n,
                       w->p->net.n_classes);
    w->logits = malloc(bytes + 1);
    w->labels = calloc(w->n + 1, sizeof *w->labels);
    w->why = calloc(w->n + 1, sizeof *w->why);
    return w->logits && w->labels && w->why
               ? 0
               : kd_fail(diag, -KD_ENOMEM, "no memory for %zu answers", w->n);
}

static int answer(void *arg, kd_predict_lane *lane, size_t item, kd_diag *diag)
{
    work *w = arg;
    const size_t classes = (size_t)w->p->net.n_classes;
    int rc = kd_data_load(w->data, item, lane->rgb, diag);
    if (rc == -KD_EDATA || rc == -KD_ENOENT) {
        w->labels[item] = -1;
        w->why[item] = strdup(diag->msg);
        return 0;
    }
    if (rc != 0)
        return rc;
    rc = kd_predict_floats(w->p, lane->rgb, lane->input, diag);
    if (rc != 0)
        return rc;
    w->labels[item] = w->class_of[kd_data_label(w->data, item)];
    return kd_plan_forward(lane->plan, lane->input, w->logits + item * classes, diag);
}

/* Closes the gaps that unreadable pictures leave, and names them. */
static size_t tidy(const kd_cli *cli, work *w)
{
    const size_t classes = (size_t)w->p->net.n_classes;
    size_t kept = 0;
    for (size_t i = 0; i < w->n; i++) {
        if (w->labels[i] < 0) {
            if (i - kept < KD_SCORING_NAMED)
                kd_error(cli, "%s is passed over: %s", kd_data_name(w->data, i),
                         w->why[i] ? w->why[i] : "unreadable");
            continue;
        }
        w->labels[kept] = w->labels[i];
        memmove(w->logits + kept * classes, w->logits + i * classes, classes * sizeof *w->logits);
        kept++;
    }
    if (kept < w->n)
        kd_say(cli, "%zu of %zu pictures could not be read", w->n - kept, w->n);
    return kept;
}

static void clear(work *w)
{
    for (size_t i = 0; w->why && i < w->n; i++)
        free(w->why[i]);
    free(w->why);
    free(w->logits);
    free(w->labels);
    free(w->class_of);
    kd_data_free(w->data);
}

static int complain(const kd_cli *cli, int rc, const kd_diag *diag)
{
    kd_error(cli, "%s", diag->msg);
    return rc == -KD_EINVAL ? KD_EXIT_USAGE : KD_EXIT_FAILURE;
}

/* A job's data folder is no folder of class folders. */
static void hint_list(const kd_cli *cli, int root, const kd_scoring_data *from)
{
    static const char *const usual[] = {"val.txt", "test.txt", "train.txt"};
    for (size_t i = 0; i < KD_COUNT(usual) && from->kind == KD_DATA_IMAGE_FOLDER && !from->list;
         i++)
        if (faccessat(root, usual[i], R_OK, 0) == 0) {
            kd_hint(cli, "there is a list in it: --list %s", usual[i]);
            return;
        }
}

int kd_scoring_flags(const kd_cli *cli, const char *verb, const kd_args *args, const char *folder,
                     kd_scoring_data *out)
{
    static const char *const flags[] = {"list", "labels", "data-format"};
    for (size_t i = 0; i < KD_COUNT(flags) && !folder; i++)
        if (kd_args_has(args, flags[i]))
            return kd_usage(cli, verb, "name their folder with --data",
                            "--%s is for labelled pictures, and none are given", flags[i]);
    static const char *const kinds[] = {"image-folder", "idx", "cifar", "npy"};
    const char *word = kd_args_value(args, "data-format");
    size_t kind = 0;
    while (word && kind < KD_COUNT(kinds) && strcmp(word, kinds[kind]) != 0)
        kind++;
    if (kind == KD_COUNT(kinds))
        return kd_usage(cli, verb, "--data-format image-folder, idx, cifar or npy",
                        "unknown format of data \"%s\"", word);
    *out = (kd_scoring_data){.kind = (enum kd_data_kind)kind,
                             .folder = folder,
                             .list = kd_args_value(args, "list"),
                             .labels = kd_args_value(args, "labels")};
    const bool pairs = out->kind == KD_DATA_IDX || out->kind == KD_DATA_NPY;
    if (pairs && (!out->list || !out->labels))
        return kd_usage(cli, verb, NULL,
                        "--data-format %s needs --list and --labels: the files of pictures and "
                        "labels",
                        word);
    if (!pairs && out->labels)
        return kd_usage(cli, verb, NULL, "--labels is for --data-format idx and npy");
    return KD_EXIT_OK;
}

int kd_scoring_run(const kd_cli *cli, const kd_predictor *p, const kd_scoring_data *from,
                   int threads, kd_scoring *out)
{
    work w = {.p = p};
    kd_scoring s = {0};
    kd_diag diag = {0};
    const double begin = kd_clock_s();
    const int root = open(from->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = root >= 0 ? open_data(&w, root, from, &diag)
                       : kd_fail(&diag, -KD_ENOENT, "cannot open the folder %s: %s", from->folder,
                                 strerror(errno));
    if (rc == 0)
        rc = match_classes(&w, from, &diag);
    if (rc == 0)
        rc = make_room(&w, &diag);
    int code = rc == 0 ? kd_lanes_run(cli, p, threads, w.n, "evaluating", answer, &w)
                       : complain(cli, rc, &diag);
    if (root >= 0 && rc != 0)
        hint_list(cli, root, from);
    const size_t kept = code == KD_EXIT_OK ? tidy(cli, &w) : 0;
    s.skipped = w.n - kept;
    if (code == KD_EXIT_OK) {
        rc = kept ? kd_figures_of(w.logits, w.labels, kept, p->net.n_classes, &s.figures, &diag)
                  : kd_fail(&diag, -KD_EDATA, "no picture of %s could be read", from->folder);
        code = rc == 0 ? KD_EXIT_OK : complain(cli, rc, &diag);
    }
    if (code == KD_EXIT_OK) {
        const kd_digest d = kd_data_digest(w.data);
        kd_digest_hex(&d, s.data);
        kd_wilson(s.figures.correct, s.figures.n, &s.lo, &s.hi);
        s.seconds = kd_clock_s() - begin;
        *out = s;
    }
    clear(&w);
    if (root >= 0)
        close(root);
    return code;
}

void kd_scoring_clear(kd_scoring *s)
{
    kd_figures_clear(&s->figures);
}

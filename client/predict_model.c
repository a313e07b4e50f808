#include "predict_model.h"

#include "data/augment.h"
#include "data/decode.h"
#include "data/resize.h"
#include "data/view.h"
#include "kd/file.h"
#include "kd/text.h"
#include "output.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CLASS_FILE (16u << 20)

/* ---- the network */

/* KD_EXIT_OK, or the exit code after a message. */
static int read_flags(const kd_cli *cli, const char *verb, const kd_args *args,
                      kd_predict_options *out)
{
    kd_diag diag = {0};
    uint64_t size;
    const char *pre = kd_args_value(args, "preprocess");
    if (kd_args_u64(args, "size", 1, 4096, 0, &size, &diag) != 0)
        return kd_usage(cli, verb, NULL, "%s", diag.msg);
    *out = (kd_predict_options){.size = (int)size,
                                .preprocess = pre ? kd_preprocess_of(pre) : -1,
                                .classes = kd_args_value(args, "classes")};
    if (pre && out->preprocess < 0)
        return kd_usage(cli, verb, "--preprocess unit, symmetric or imagenet",
                        "unknown preprocessing \"%s\"", pre);
    return KD_EXIT_OK;
}

/* Cuts the text into lines. NULL: no memory. */
static char **cut_lines(char *text, int *out_n)
{
    size_t most = 1;
    for (const char *c = text; *c; c++)
        most += *c == '\n';
    char **lines = calloc(most, sizeof *lines);
    *out_n = 0;
    for (char *line = text, *next; lines && line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        line[strcspn(line, "\r")] = '\0';
        lines[(*out_n)++] = line;
    }
    return lines;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What files of every kind can hold, and what tells one class from another. */
static int check_names(const char *path, char **names, int n, kd_diag *diag)
{
    for (int i = 0; i < n; i++) {
        if (!*names[i])
            return kd_fail(diag, -KD_EINVAL, "%s:%d: the name of the class is empty", path, i + 1);
        if (!kd_utf8_valid(names[i]))
            return kd_fail(diag, -KD_EINVAL, "%s:%d: the name of the class is not UTF-8", path,
                           i + 1);
    }
    char **sorted = malloc((size_t)n * sizeof *sorted + 1);
    if (!sorted)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the names of classes");
    if (n > 0)
        memcpy(sorted, names, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_text);
    int rc = 0;
    for (int i = 1; i < n && rc == 0; i++)
        if (strcmp(sorted[i - 1], sorted[i]) == 0)
            rc = kd_fail(diag, -KD_EINVAL, "%s: the class name `%.80s` stands there twice", path,
                         sorted[i]);
    free(sorted);
    return rc;
}

/* Makes copies of the lines in place. */
static int keep_names(char **names, int n, kd_loaded *p, kd_diag *diag)
{
    for (int i = 0; i < n; i++)
        if (!(names[i] = strdup(names[i]))) {
            kd_class_names_free(names, i);
            return kd_fail(diag, -KD_ENOMEM, "no memory for the names of classes");
        }
    kd_class_names_free(p->info.classes, p->info.n_classes);
    p->info.classes = names;
    p->info.n_classes = n;
    return 0;
}

/* One name a line; an empty line at the end does not count. */
static int read_classes(const char *path, kd_loaded *p, kd_diag *diag)
{
    char *text = NULL;
    size_t len;
    int rc = kd_file_read(path, MAX_CLASS_FILE, &text, &len, diag), n = 0;
    if (rc != 0)
        return rc;
    char **names = NULL;
    if (memchr(text, '\0', len))
        rc = kd_fail(diag, -KD_EINVAL, "%s is no text: there is a NUL byte in it", path);
    else if (!(names = cut_lines(text, &n)))
        rc = kd_fail(diag, -KD_ENOMEM, "no memory for the names of classes");
    else if (n > 0 && !*names[n - 1])
        n--;
    if (rc == 0)
        rc = check_names(path, names, n, diag);
    if (rc == 0 && n != p->n_classes)
        rc = kd_fail(diag, -KD_EINVAL, "%s names %d classes, the network has %d", path, n,
                     p->n_classes);
    if (rc == 0)
        rc = keep_names(names, n, p, diag);
    else
        free(names);
    free(text);
    return rc;
}

static int check_size(const char *path, int size, const kd_loaded *net, kd_diag *diag)
{
    const kd_node *in = &net->graph->nodes[0];
    return !size || (size == in->w && size == in->h)
               ? 0
               : kd_fail(diag, -KD_EINVAL,
                         "%s is for pictures of %d x %d pixels, not of %d (--size)", path, in->w,
                         in->h, size);
}

/* What the file says and what was asked for must go together. */
static int settle(const char *path, const kd_predict_options *opt, kd_predictor *p, kd_diag *diag)
{
    const kd_node *in = &p->net.graph->nodes[0];
    p->w = in->w;
    p->h = in->h;
    p->channels = in->c;
    p->from = p->net.info.resized_from ? p->net.info.resized_from : in->w;
    if (in->c != 3 && in->c != 1)
        return kd_fail(diag, -KD_EUNSUP, "%s wants pictures of %d channels; 3 or 1 can be given",
                       path, in->c);
    int rc = check_size(path, opt->size, &p->net, diag);
    if (rc != 0)
        return rc;
    p->preprocess = opt->preprocess;
    if (p->preprocess < 0 && p->net.info.has_preprocess)
        p->preprocess = (int)p->net.info.preprocess;
    if (p->preprocess < 0)
        return kd_fail(diag, -KD_EINVAL,
                       "%s does not say how its pictures are prepared; name it with --preprocess "
                       "unit (0 to 1), symmetric (-1 to 1) or imagenet (mean and deviation)",
                       path);
    if (in->c == 1 && p->preprocess == KD_PRE_IMAGENET)
        return kd_fail(diag, -KD_EINVAL,
                       "%s wants grey pictures, which preprocessing imagenet is not for; name it "
                       "with --preprocess unit or symmetric",
                       path);
    return opt->classes ? read_classes(opt->classes, &p->net, diag) : 0;
}

int kd_predictor_open(const char *path, const kd_predict_options *opt, kd_predictor *out,
                      kd_diag *diag)
{
    kd_predictor p = {.preprocess = -1};
    int rc = kd_loaded_open_file(path, opt->size, &p.net, diag);
    if (rc != 0)
        return rc;
    rc = settle(path, opt, &p, diag);
    if (rc == 0)
        *out = p;
    else
        kd_predictor_clear(&p);
    return rc;
}

static int complain(const kd_cli *cli, int rc, const kd_diag *diag)
{
    kd_error(cli, "%s", diag->msg);
    return rc == -KD_EINVAL ? KD_EXIT_USAGE : KD_EXIT_FAILURE;
}

static void warn(const kd_cli *cli, const char *path, const kd_loaded *net)
{
    if (net->changed)
        kd_say(cli,
               "%s: its parameters are not those that its metadata name: it was changed by another "
               "program, or is damaged",
               path);
}

int kd_model_start(const kd_cli *cli, const char *verb, const kd_args *args, kd_loaded *out)
{
    kd_diag diag = {0};
    uint64_t size;
    if (kd_args_u64(args, "size", 1, 4096, 0, &size, &diag) != 0)
        return kd_usage(cli, verb, NULL, "%s", diag.msg);
    kd_loaded net;
    int rc = kd_loaded_open_file(args->operands[0], (int)size, &net, &diag);
    if (rc == 0 && (rc = check_size(args->operands[0], (int)size, &net, &diag)) != 0)
        kd_loaded_clear(&net);
    if (rc != 0)
        return complain(cli, rc, &diag);
    warn(cli, args->operands[0], &net);
    *out = net;
    return KD_EXIT_OK;
}

int kd_predictor_start(const kd_cli *cli, const char *verb, const kd_args *args, kd_predictor *out)
{
    kd_diag diag = {0};
    kd_predict_options opt;
    const int code = read_flags(cli, verb, args, &opt);
    if (code != KD_EXIT_OK)
        return code;
    kd_cli_catch_signals();
    const int rc = kd_predictor_open(args->operands[0], &opt, out, &diag);
    if (rc != 0)
        return complain(cli, rc, &diag);
    warn(cli, args->operands[0], &out->net);
    if (!out->net.info.classes)
        kd_say(cli,
               "%s does not name its classes: they have numbers; --classes FILE names them, one a "
               "line",
               args->operands[0]);
    return KD_EXIT_OK;
}

void kd_predictor_clear(kd_predictor *p)
{
    kd_loaded_clear(&p->net);
    *p = (kd_predictor){.preprocess = -1};
}

const char *kd_predictor_class(const kd_predictor *p, int c, char number[16])
{
    if (p->net.info.classes)
        return p->net.info.classes[c];
    snprintf(number, 16, "%d", c);
    return number;
}

/* ---- running it */

int kd_predict_lane_init(kd_predict_lane *l, const kd_predictor *p, kd_diag *diag)
{
    size_t pixels = (size_t)p->w * (size_t)p->h;
    *l = (kd_predict_lane){.p = p};
    /* One picture at a time: its answer cannot depend on others, and memory stays small. */
    int rc = kd_plan_new_infer(p->net.graph, 1, p->net.vector, &l->plan, diag);
    l->rgb = malloc(kd_predict_room(p));
    l->input = aligned_alloc(64, (pixels * 3 * sizeof(float) + 63) / 64 * 64);
    l->logits = aligned_alloc(64, ((size_t)p->net.n_classes * sizeof(float) + 63) / 64 * 64);
    if (rc == 0 && (!l->rgb || !l->input || !l->logits))
        rc = kd_fail(diag, -KD_ENOMEM, "no memory for pictures of %d x %d", p->w, p->h);
    if (rc != 0)
        kd_predict_lane_clear(l);
    return rc;
}

void kd_predict_lane_clear(kd_predict_lane *l)
{
    kd_plan_free(l->plan);
    free(l->rgb);
    free(l->input);
    free(l->logits);
    *l = (kd_predict_lane){0};
}

kd_predict_sum kd_predict_sum_of(const float *logits, int n)
{
    kd_predict_sum s = {.largest = -INFINITY};
    for (int i = 0; i < n; i++)
        s.largest = KD_MAX(s.largest, (double)logits[i]);
    for (int i = 0; i < n; i++)
        s.sum += exp((double)logits[i] - s.largest);
    return s;
}

double kd_predict_probability(const kd_predict_sum *s, float logit)
{
    return exp((double)logit - s->largest) / s->sum;
}

void kd_predict_top(const float *logits, int n, int top, kd_prediction *out)
{
    const kd_predict_sum s = kd_predict_sum_of(logits, n);
    int have = 0;
    for (int i = 0; i < n; i++) {
        int at = have;
        while (at > 0 && logits[out[at - 1].index] < logits[i])
            at--;
        if (at >= top)
            continue;
        have = KD_MIN(have + 1, top);
        memmove(&out[at + 1], &out[at], (size_t)(have - at - 1) * sizeof *out);
        out[at] = (kd_prediction){.index = i, .probability = kd_predict_probability(&s, logits[i])};
    }
}

static size_t first_bytes(const kd_predictor *p)
{
    return (size_t)p->from * (size_t)p->from * 3;
}

size_t kd_predict_room(const kd_predictor *p)
{
    return first_bytes(p) + (p->from != p->w ? (size_t)p->w * (size_t)p->h * 3 : 0);
}

int kd_predict_floats(const kd_predictor *p, uint8_t *room, float *input, kd_diag *diag)
{
    const size_t pixels = (size_t)p->w * (size_t)p->h;
    const uint8_t *rgb = room;
    uint8_t greys[256][3];
    float table[256][3];
    if (p->from != p->w) {
        const kd_image first = {.w = p->from, .h = p->from, .rgb = room};
        int rc = kd_image_resize(&first, p->w, p->h, room + first_bytes(p), diag);
        if (rc != 0)
            return rc;
        rgb = room + first_bytes(p);
    }
    if (p->channels == 3) {
        kd_view_to_float(p->preprocess, rgb, pixels, input);
        return 0;
    }
    for (size_t v = 0; v < 256; v++)
        memset(greys[v], (int)v, sizeof greys[v]);
    kd_view_to_float(p->preprocess, greys[0], 256, table[0]);
    for (size_t i = 0; i < pixels; i++)
        input[i] = table[kd_augment_grey(rgb + 3 * i)][0];
    return 0;
}

int kd_predict_bytes(const kd_predictor *p, const void *bytes, size_t len, uint8_t *room,
                     float *input, kd_diag *diag)
{
    kd_image im = {0};
    int rc = kd_image_decode(bytes, len, &im, diag);
    if (rc == 0)
        rc = kd_image_resize(&im, p->from, p->from, room, diag);
    kd_image_free(&im);
    return rc == 0 && input ? kd_predict_floats(p, room, input, diag) : rc;
}

int kd_predict_picture(const kd_predictor *p, const char *path, uint8_t *room, float *input,
                       kd_diag *diag)
{
    char *bytes = NULL;
    size_t len;
    int rc = kd_file_read(path, KD_IMAGE_MAX_FILE, &bytes, &len, diag);
    if (rc != 0)
        return rc;
    rc = kd_predict_bytes(p, bytes, len, room, input, diag);
    free(bytes);
    return rc;
}

int kd_predict_input(kd_predict_lane *l, kd_diag *diag)
{
    int rc = kd_plan_forward(l->plan, l->input, l->logits, diag);
    for (int i = 0; rc == 0 && i < l->p->net.n_classes; i++)
        if (!isfinite(l->logits[i]))
            rc = kd_fail(diag, -KD_EINTERNAL, "the network's answer is not finite");
    return rc;
}

int kd_predict_file(kd_predict_lane *l, const char *path, int top, kd_prediction *out,
                    kd_diag *diag)
{
    int rc = kd_predict_picture(l->p, path, l->rgb, l->input, diag);
    if (rc == 0)
        rc = kd_predict_input(l, diag);
    if (rc == 0)
        kd_predict_top(l->logits, l->p->net.n_classes, top, out);
    return rc;
}

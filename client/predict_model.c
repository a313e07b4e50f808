#include "predict_model.h"

#include "data/decode.h"
#include "data/resize.h"
#include "data/view.h"
#include "kd/file.h"
#include "models/loaded.h"
#include "models/onnx.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_CLASS_FILE (16u << 20)

/* ---- the network */

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcasecmp(s + n - m, end) == 0;
}

static int open_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    free(folder);
    return fd;
}

static int open_onnx(const char *path, const uint8_t *bytes, size_t len, int size,
                     kd_predictor *out, kd_diag *diag)
{
    kd_onnx_read_options opt = {.size = size, .folder_fd = open_folder_of(path)};
    kd_onnx_info info = {0};
    bool new_head;
    int rc =
        kd_onnx_read(bytes, len, path, &opt, &out->graph, &out->vector, &new_head, &info, diag);
    if (opt.folder_fd >= 0)
        close(opt.folder_fd);
    if (rc != 0)
        return rc;
    out->preprocess = info.preprocess;
    out->n_classes = out->graph->nodes[out->graph->output].c;
    snprintf(out->model, sizeof out->model, "%s", info.model);
    if (info.classes && info.n_classes == out->n_classes) {
        out->classes = info.classes;
        info.classes = NULL;
    }
    kd_onnx_info_clear(&info);
    return 0;
}

static int open_ours(const char *path, const uint8_t *bytes, size_t len, kd_predictor *out,
                     kd_diag *diag)
{
    kd_loaded l;
    int rc = kd_loaded_open(bytes, len, path, &l, diag);
    if (rc != 0)
        return rc;
    *out = (kd_predictor){.graph = l.graph,
                          .vector = l.vector,
                          .preprocess = l.preprocess,
                          .classes = l.classes,
                          .n_classes = l.n_classes};
    snprintf(out->model, sizeof out->model, "%s", l.model);
    l.graph = NULL;
    l.vector = NULL;
    l.classes = NULL;
    kd_loaded_clear(&l);
    return 0;
}

/* One name a line; an empty line at the end does not count. */
static int read_classes(const char *path, kd_predictor *p, kd_diag *diag)
{
    char *text = NULL;
    size_t len;
    int rc = kd_file_read(path, MAX_CLASS_FILE, &text, &len, diag), n = 0;
    if (rc != 0)
        return rc;
    char **names = calloc((size_t)p->n_classes + 1, sizeof *names);
    bool memory = names != NULL;
    for (char *line = text, *next; memory && line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        line[strcspn(line, "\r")] = '\0';
        if (n < p->n_classes)
            memory = (names[n] = strdup(line)) != NULL;
        n += memory;
    }
    if (!memory)
        rc = kd_fail(diag, -KD_ENOMEM, "no memory for the names of classes");
    else if (n != p->n_classes)
        rc = kd_fail(diag, -KD_EINVAL, "%s names %d classes, the network has %d", path, n,
                     p->n_classes);
    free(text);
    if (rc != 0) {
        kd_class_names_free(names, KD_MIN(n, p->n_classes));
        return rc;
    }
    kd_class_names_free(p->classes, p->classes ? p->n_classes : 0);
    p->classes = names;
    return 0;
}

/* What the file says and what was asked for must go together. */
static int settle(const char *path, const kd_predict_options *opt, kd_predictor *p, kd_diag *diag)
{
    const kd_node *in = &p->graph->nodes[0];
    p->w = in->w;
    p->h = in->h;
    if (in->c != 3)
        return kd_fail(diag, -KD_EUNSUP, "%s wants pictures of %d channel(s); 3 are given", path,
                       in->c);
    if (opt->size && (opt->size != in->w || opt->size != in->h))
        return kd_fail(diag, -KD_EINVAL, "%s is for pictures of %d x %d pixels, not of %d (--size)",
                       path, in->w, in->h, opt->size);
    if (opt->preprocess >= 0)
        p->preprocess = opt->preprocess;
    if (p->preprocess < 0)
        return kd_fail(diag, -KD_EINVAL,
                       "%s does not say how its pictures are prepared; name it with --preprocess "
                       "unit (0 to 1), symmetric (-1 to 1) or imagenet (mean and deviation)",
                       path);
    return opt->classes ? read_classes(opt->classes, p, diag) : 0;
}

int kd_predictor_open(const char *path, const kd_predict_options *opt, kd_predictor *out,
                      kd_diag *diag)
{
    char *bytes = NULL;
    size_t len;
    kd_predictor p = {.preprocess = -1};
    int rc = kd_file_read(path, KD_PREDICT_MODEL_BYTES, &bytes, &len, diag);
    if (rc != 0)
        return rc;
    rc = ends_with(path, ".onnx")
             ? open_onnx(path, (const uint8_t *)bytes, len, opt->size, &p, diag)
             : open_ours(path, (const uint8_t *)bytes, len, &p, diag);
    free(bytes);
    if (rc == 0)
        rc = settle(path, opt, &p, diag);
    if (rc == 0)
        *out = p;
    else
        kd_predictor_clear(&p);
    return rc;
}

void kd_predictor_clear(kd_predictor *p)
{
    kd_class_names_free(p->classes, p->classes ? p->n_classes : 0);
    if (p->graph)
        kd_graph_free(p->graph);
    free(p->vector);
    *p = (kd_predictor){.preprocess = -1};
}

/* ---- running it */

int kd_predict_lane_init(kd_predict_lane *l, const kd_predictor *p, kd_diag *diag)
{
    size_t pixels = (size_t)p->w * (size_t)p->h;
    *l = (kd_predict_lane){.p = p};
    /* One picture at a time: its answer cannot depend on others, and memory stays small. */
    int rc = kd_plan_new(p->graph, 1, KD_PLAN_INFER, &l->plan, diag);
    if (rc == 0)
        rc = kd_plan_load(l->plan, p->vector, diag);
    l->rgb = malloc(pixels * 3);
    l->input = aligned_alloc(64, (pixels * 3 * sizeof(float) + 63) / 64 * 64);
    l->logits = aligned_alloc(64, ((size_t)p->n_classes * sizeof(float) + 63) / 64 * 64);
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

void kd_predict_top(const float *logits, int n, int top, kd_prediction *out)
{
    double largest = -INFINITY, sum = 0;
    int have = 0;
    for (int i = 0; i < n; i++)
        largest = KD_MAX(largest, (double)logits[i]);
    for (int i = 0; i < n; i++)
        sum += exp((double)logits[i] - largest);
    for (int i = 0; i < n; i++) {
        double p = exp((double)logits[i] - largest) / sum;
        int at = have;
        while (at > 0 && logits[out[at - 1].index] < logits[i])
            at--;
        if (at >= top)
            continue;
        have = KD_MIN(have + 1, top);
        memmove(&out[at + 1], &out[at], (size_t)(have - at - 1) * sizeof *out);
        out[at] = (kd_prediction){.index = i, .probability = p};
    }
}

int kd_predict_file(kd_predict_lane *l, const char *path, int top, kd_prediction *out,
                    kd_diag *diag)
{
    char *bytes = NULL;
    size_t len;
    kd_image im = {0};
    int rc = kd_file_read(path, KD_IMAGE_MAX_FILE, &bytes, &len, diag);
    if (rc != 0)
        return rc;
    rc = kd_image_decode((const uint8_t *)bytes, len, &im, diag);
    free(bytes);
    if (rc == 0)
        rc = kd_image_resize(&im, l->p->w, l->p->h, l->rgb, diag);
    kd_image_free(&im);
    if (rc != 0)
        return rc;
    kd_view_to_float(l->p->preprocess, l->rgb, (size_t)l->p->w * (size_t)l->p->h, l->input);
    rc = kd_plan_forward(l->plan, l->input, l->logits, diag);
    for (int i = 0; rc == 0 && i < l->p->n_classes; i++)
        if (!isfinite(l->logits[i]))
            rc = kd_fail(diag, -KD_EDATA, "the network's answer is not finite");
    if (rc == 0)
        kd_predict_top(l->logits, l->p->n_classes, top, out);
    return rc;
}

#include "models/loaded.h"

#include "kd/file.h"
#include "models/graph_json.h"
#include "models/int8.h"
#include "models/onnx.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const g_words[] = {
    [KD_PRE_UNIT] = "unit", [KD_PRE_SYMMETRIC] = "symmetric", [KD_PRE_IMAGENET] = "imagenet"};

int kd_preprocess_of(const char *word)
{
    for (size_t i = 0; i < KD_COUNT(g_words); i++)
        if (strcmp(g_words[i], word) == 0)
            return (int)i;
    return -1;
}

const char *kd_preprocess_word(int preprocess)
{
    return preprocess >= 0 && preprocess < (int)KD_COUNT(g_words) ? g_words[preprocess] : NULL;
}

/* ---- names of classes */

char *kd_class_names_join(const char *const *names, int n)
{
    size_t room = 1;
    for (int i = 0; i < n; i++)
        room += 2 * strlen(names[i]) + 1;
    char *text = malloc(room), *to = text;
    if (!text)
        return NULL;
    for (int i = 0; i < n; i++) {
        if (i)
            *to++ = ',';
        for (const char *p = names[i]; *p; p++) {
            if (*p == ',' || *p == '\\')
                *to++ = '\\';
            *to++ = *p;
        }
    }
    *to = '\0';
    return text;
}

void kd_class_names_free(char **names, int n)
{
    for (int i = 0; names && i < n; i++)
        free(names[i]);
    free(names);
}

int kd_class_names_split(const char *text, char ***out_names, int *out_n)
{
    size_t most = 1;
    for (const char *p = text; *p; p++)
        most += *p == ',';
    char **names = calloc(most, sizeof *names), *word = malloc(strlen(text) + 1);
    int n = 0;
    bool ok = names && word;
    for (const char *p = text; ok; p++) {
        size_t len = 0;
        for (; *p && *p != ','; p++) {
            if (*p == '\\' && p[1])
                p++;
            word[len++] = *p;
        }
        word[len] = '\0';
        names[n] = strdup(word);
        ok = names[n] != NULL;
        n += ok;
        if (!*p)
            break;
    }
    free(word);
    if (!ok) {
        kd_class_names_free(names, n);
        return -KD_ENOMEM;
    }
    *out_names = names;
    *out_n = n;
    return 0;
}

/* ---- safetensors */

/* What the file says of itself must be what its network is. */
static int settle_info(const char *name, bool onnx, kd_loaded *out, kd_diag *diag)
{
    const kd_node *first = &out->graph->nodes[0];
    const kd_model_file_info *info = &out->info;
    out->size = info->size ? info->size : first->h;
    out->n_classes = out->graph->nodes[out->graph->output].c;
    if (out->size != first->h || out->size != first->w)
        return kd_fail(diag, -KD_EDATA, "%s says that its size is %d, its network's is %dx%d", name,
                       out->size, first->h, first->w);
    if (info->grey && first->c != 1)
        return kd_fail(diag, -KD_EDATA, "%s says that it is grey, its network has %d channels",
                       name, first->c);
    if (info->classes && info->n_classes != out->n_classes)
        return kd_fail(diag, -KD_EDATA, "%s names %d classes, its network has %d", name,
                       info->n_classes, out->n_classes);
    const kd_digest have = kd_digest_of(out->vector, out->graph->vector_len * sizeof(float));
    char hex[KD_DIGEST_HEX];
    kd_digest_hex(&have, hex);
    out->changed = *info->digest && strcmp(info->digest, hex) != 0;
    if (out->changed && !onnx)
        return kd_fail(diag, -KD_EDATA,
                       "%s is damaged or was changed: its parameters have the digest %s, it says "
                       "%s; fetch it again",
                       name, hex, info->digest);
    if (out->changed)
        out->info.digest[0] = '\0';
    return 0;
}

static int note_types(const kd_st_file *f, kd_loaded *out, kd_diag *diag)
{
    const kd_graph *g = out->graph;
    out->types = malloc(((size_t)g->n_params + 1) * sizeof *out->types);
    if (!out->types)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the types of %d tensors", g->n_params);
    for (int i = 0; i < g->n_params; i++) {
        const kd_st_tensor *t = kd_st_find(f, g->params[i].name);
        const int type = t ? kd_st_type_of(t->dtype) : -1;
        out->types[i] = type < 0 ? KD_ST_F32 : (enum kd_st_type)type;
    }
    return 0;
}

static int fill(const kd_st_file *f, const void *bytes, size_t len, const char *name,
                kd_loaded *out, kd_diag *diag)
{
    const char *graph = kd_st_metadata(f, "graph");
    if (!graph)
        return kd_fail(diag, -KD_EDATA,
                       "%s does not say what network its weights belong to: it has no metadata "
                       "`graph`; only files that distilld has written can be used alone",
                       name);
    int rc = kd_graph_from_json(graph, &out->graph, diag);
    if (rc)
        return kd_fail_at(diag, rc, "%s", name);
    rc = kd_model_file_info_read(bytes, len, name, &out->info, diag);
    if (rc)
        return rc;
    out->vector = calloc(out->graph->vector_len ? out->graph->vector_len : 1, sizeof(float));
    if (!out->vector)
        return kd_fail(diag, -KD_ENOMEM, "no memory for reading %s", name);
    bool new_head;
    rc = kd_model_load(out->graph, bytes, len, name, out->vector, &new_head, diag);
    if (!rc && new_head)
        rc = kd_fail(diag, -KD_EDATA, "%s: its last layer is not the one of its graph", name);
    out->ours = true;
    if (!rc)
        rc = note_types(f, out, diag);
    return rc ? rc : settle_info(name, false, out, diag);
}

static int open_weights(const uint8_t *bytes, size_t len, const char *name, kd_loaded *out,
                        kd_diag *diag)
{
    kd_st_file *f;
    int rc = kd_st_open_memory(bytes, len, name, &f, diag);
    if (rc)
        return rc;
    rc = fill(f, bytes, len, name, out, diag);
    kd_st_close(f);
    return rc;
}

static int open_onnx(const uint8_t *bytes, size_t len, const char *name,
                     const kd_onnx_read_options *opt, kd_loaded *out, kd_diag *diag)
{
    kd_onnx_info info;
    bool new_head;
    int rc = kd_onnx_read(bytes, len, name, opt, &out->graph, &out->vector, &new_head, &info, diag);
    if (rc)
        return rc;
    out->info = info.file;
    info.file = (kd_model_file_info){0};
    out->types = info.types;
    info.types = NULL;
    out->softmax = info.softmax;
    out->ours = info.ours;
    /* Others may mean something else by these words. */
    if (!info.ours && out->info.n_classes != out->graph->nodes[out->graph->output].c) {
        kd_class_names_free(out->info.classes, out->info.n_classes);
        out->info.classes = NULL;
        out->info.n_classes = 0;
    }
    if (!info.ours)
        out->info.size = 0;
    kd_onnx_info_clear(&info);
    return settle_info(name, true, out, diag);
}

static int open_bytes(const uint8_t *bytes, size_t len, const char *name,
                      const kd_onnx_read_options *opt, kd_loaded *out, kd_diag *diag)
{
    kd_loaded l = {0};
    /* A safetensors file has its header's length first; no ONNX model has a `{` there. What is
     * neither is called what its name says. */
    const char *dot = strrchr(name, '.');
    const bool weights = (len > 8 && bytes[8] == '{' && bytes[7] == 0 && bytes[6] == 0) ||
                         (dot && strcmp(dot, ".safetensors") == 0);
    int rc = weights ? open_weights(bytes, len, name, &l, diag)
                     : open_onnx(bytes, len, name, opt, &l, diag);
    if (rc)
        kd_loaded_clear(&l);
    else
        *out = l;
    return rc;
}

int kd_loaded_open(const uint8_t *bytes, size_t len, const char *name, kd_loaded *out,
                   kd_diag *diag)
{
    const kd_onnx_read_options opt = {.folder_fd = -1};
    return open_bytes(bytes, len, name, &opt, out, diag);
}

static int open_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    free(folder);
    return fd;
}

int kd_loaded_open_file(const char *path, int size, kd_loaded *out, kd_diag *diag)
{
    char *bytes = NULL;
    size_t len;
    int rc = kd_file_read(path, KD_LOADED_MAX, &bytes, &len, diag);
    if (rc)
        return rc;
    const kd_onnx_read_options opt = {.size = size, .folder_fd = open_folder_of(path)};
    rc = open_bytes((const uint8_t *)bytes, len, path, &opt, out, diag);
    if (opt.folder_fd >= 0)
        close(opt.folder_fd);
    free(bytes);
    return rc;
}

void kd_loaded_clear(kd_loaded *l)
{
    kd_model_file_info_clear(&l->info);
    free(l->types);
    kd_graph_free(l->graph);
    free(l->vector);
    *l = (kd_loaded){0};
}

/* ---- the metadata of a file */

static void say(kd_loaded_meta *m, const char *key, const char *value)
{
    if (!value || !*value)
        return;
    KD_BUG_ON(m->n_pairs == KD_LOADED_PAIRS);
    m->pairs[m->n_pairs++] = (kd_st_pair){key, value};
}

int kd_loaded_describe(const kd_graph *g, const kd_model_file_info *info, kd_loaded_meta *out,
                       kd_diag *diag)
{
    const char *const names[] = {"torch", "tf"}, *mean = NULL, *std = NULL;
    *out = (kd_loaded_meta){.graph = g ? kd_graph_to_json(g) : NULL};
    out->classes = info->classes
                       ? kd_class_names_join((const char *const *)info->classes, info->n_classes)
                       : NULL;
    if ((g && !out->graph) || (info->classes && !out->classes)) {
        kd_loaded_meta_clear(out);
        return kd_fail(diag, -KD_ENOMEM, "no memory for the description of a network");
    }
    say(out, "graph", out->graph);
    if (info->has_preprocess) {
        kd_preprocess_scaling((int)info->preprocess, &mean, &std);
        say(out, "preprocess", kd_preprocess_word((int)info->preprocess));
    }
    if (info->size)
        snprintf(out->size, sizeof out->size, "%d", info->size);
    if (info->resized_from && info->resized_from != info->size)
        snprintf(out->resized_from, sizeof out->resized_from, "%d", info->resized_from);
    if (info->label_smoothing > 0)
        snprintf(out->smoothing, sizeof out->smoothing, "%.9g", info->label_smoothing);
    say(out, "size", out->size);
    say(out, "resized_from", out->resized_from);
    say(out, "mean", mean);
    say(out, "std", std);
    say(out, "channels", !mean ? NULL : info->grey ? "grey" : "rgb");
    say(out, "model", info->model);
    say(out, "padding", info->has_padding ? names[info->pad_tf] : NULL);
    say(out, "label_smoothing", out->smoothing);
    say(out, "classes", out->classes);
    if (info->half != KD_HALF_NONE && g && !kd_graph_is_int8(g))
        say(out, "distilld.weights", kd_half_name(info->half));
    say(out, "distilld.job", info->job);
    say(out, "distilld.digest", info->digest);
    say(out, "distilld.data", info->data);
    say(out, "distilld.teacher", info->teacher);
    say(out, "distilld.calibration", info->calibration);
    return 0;
}

void kd_loaded_meta_clear(kd_loaded_meta *m)
{
    free(m->graph);
    free(m->classes);
    *m = (kd_loaded_meta){0};
}

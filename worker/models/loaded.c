#include "models/loaded.h"

#include "models/graph_json.h"
#include "models/models.h"
#include "models/onnx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static int missing(kd_diag *diag, const char *name, const char *key)
{
    return kd_fail(diag, -KD_EDATA,
                   "%s does not say what network its weights belong to: it has no metadata `%s`; "
                   "only files that distilld has written can be used alone",
                   name, key);
}

/* What the file says of itself, into out; the classes move there. */
static int take_info(kd_model_file_info *info, const char *name, kd_loaded *out, kd_diag *diag)
{
    const kd_node *first = &out->graph->nodes[0];
    if (!info->has_preprocess || !info->size)
        return missing(diag, name, info->has_preprocess ? "size" : "preprocess");
    out->preprocess = (int)info->preprocess;
    out->size = info->size;
    out->n_classes = out->graph->nodes[out->graph->output].c;
    if (info->size != first->h || info->size != first->w)
        return kd_fail(diag, -KD_EDATA, "%s says that its size is %d, its network's is %dx%d", name,
                       info->size, first->h, first->w);
    if (info->classes && info->n_classes != out->n_classes)
        return kd_fail(diag, -KD_EDATA, "%s names %d classes, its network has %d", name,
                       info->n_classes, out->n_classes);
    out->classes = info->classes;
    info->classes = NULL;
    info->n_classes = 0;
    return 0;
}

static int fill(const kd_st_file *f, const void *bytes, size_t len, const char *name,
                kd_loaded *out, kd_diag *diag)
{
    const char *graph = kd_st_metadata(f, "graph"), *model = kd_st_metadata(f, "model");
    if (!graph)
        return missing(diag, name, "graph");
    int rc = kd_graph_from_json(graph, &out->graph, diag);
    if (rc)
        return kd_fail_at(diag, rc, "%s", name);
    kd_model_file_info info;
    rc = kd_model_file_info_read(bytes, len, name, &info, diag);
    if (rc)
        return rc;
    rc = take_info(&info, name, out, diag);
    kd_model_file_info_clear(&info);
    if (rc)
        return rc;
    snprintf(out->model, sizeof out->model, "%.*s", (int)sizeof out->model - 1, model ? model : "");
    out->vector = calloc(out->graph->vector_len ? out->graph->vector_len : 1, sizeof(float));
    if (!out->vector)
        return kd_fail(diag, -KD_ENOMEM, "no memory for reading %s", name);
    bool new_head;
    rc = kd_model_load(out->graph, bytes, len, name, out->vector, &new_head, diag);
    if (!rc && new_head)
        rc = kd_fail(diag, -KD_EDATA, "%s: its last layer is not the one of its graph", name);
    return rc;
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

static int open_onnx(const uint8_t *bytes, size_t len, const char *name, kd_loaded *out,
                     kd_diag *diag)
{
    const kd_onnx_read_options opt = {.folder_fd = -1};
    kd_onnx_info info;
    bool new_head;
    int rc =
        kd_onnx_read(bytes, len, name, &opt, &out->graph, &out->vector, &new_head, &info, diag);
    if (rc)
        return rc;
    out->preprocess = info.preprocess;
    out->size = info.size;
    out->n_classes = out->graph->nodes[out->graph->output].c;
    memcpy(out->model, info.model, sizeof out->model);
    if (info.n_classes == out->n_classes) {
        out->classes = info.classes;
        info.classes = NULL;
    }
    kd_onnx_info_clear(&info);
    return 0;
}

int kd_loaded_open(const uint8_t *bytes, size_t len, const char *name, kd_loaded *out,
                   kd_diag *diag)
{
    kd_loaded l = {.preprocess = -1};
    /* A safetensors file has its header's length first; no ONNX model has a `{` there. */
    const bool weights = len > 8 && bytes[8] == '{' && bytes[7] == 0 && bytes[6] == 0;
    int rc =
        weights ? open_weights(bytes, len, name, &l, diag) : open_onnx(bytes, len, name, &l, diag);
    if (rc)
        kd_loaded_clear(&l);
    else
        *out = l;
    return rc;
}

void kd_loaded_clear(kd_loaded *l)
{
    kd_class_names_free(l->classes, l->classes ? l->n_classes : 0);
    kd_graph_free(l->graph);
    free(l->vector);
    *l = (kd_loaded){.preprocess = -1};
}

int kd_loaded_describe(const kd_graph *g, const char *model, int preprocess, int size,
                       const char *const *classes, int n_classes, kd_loaded_meta *out,
                       kd_diag *diag)
{
    const char *word = kd_preprocess_word(preprocess);
    KD_BUG_ON(!word);
    *out = (kd_loaded_meta){.graph = kd_graph_to_json(g)};
    out->classes = classes ? kd_class_names_join(classes, n_classes) : NULL;
    if (!out->graph || (classes && !out->classes)) {
        kd_loaded_meta_clear(out);
        return kd_fail(diag, -KD_ENOMEM, "no memory for the description of a network");
    }
    snprintf(out->size, sizeof out->size, "%d", size);
    out->pairs[out->n_pairs++] = (kd_st_pair){"graph", out->graph};
    out->pairs[out->n_pairs++] = (kd_st_pair){"preprocess", word};
    out->pairs[out->n_pairs++] = (kd_st_pair){"size", out->size};
    out->pairs[out->n_pairs++] = (kd_st_pair){"model", model};
    if (out->classes)
        out->pairs[out->n_pairs++] = (kd_st_pair){"classes", out->classes};
    return 0;
}

void kd_loaded_meta_clear(kd_loaded_meta *m)
{
    free(m->graph);
    free(m->classes);
    *m = (kd_loaded_meta){0};
}

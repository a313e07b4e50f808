/* Where a stage's networks come from: builders by name, weights of the job, files of earlier
 * stages. */
#include "stage_internal.h"

#include "models/int8.h"
#include "models/loaded.h"
#include "models/models.h"
#include "models/onnx.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int new_vector(kd_net *net, kd_diag *diag)
{
    size_t bytes = (net->graph->vector_len * sizeof(float) + 63) / 64 * 64;
    net->vector = aligned_alloc(64, bytes);
    if (!net->vector)
        return kd_fail(diag, -KD_ENOMEM, "no memory for %zu parameters", net->graph->vector_len);
    memset(net->vector, 0, bytes);
    return 0;
}

static int build(const kd_session *ss, const kd_model_spec *m, kd_net *net, kd_diag *diag)
{
    net->size = m->size ? m->size : ss->size;
    net->preprocess = m->preprocess;
    const kd_model_config cfg = kd_model_config_of(m, net->size, ss->classes);
    int rc = kd_model_build(&cfg, &net->graph, diag);
    return rc == 0 ? new_vector(net, diag) : rc;
}

void kd_net_clear(kd_net *n)
{
    kd_graph_free(n->graph);
    free(n->vector);
    *n = (kd_net){0};
}

/* Class names in a weights file must be the data's, in their order. */
static int check_classes(const kd_session *ss, const kd_model_file_info *info, const char *name,
                         kd_diag *diag)
{
    bool same = info->n_classes == ss->classes;
    for (int i = 0; i < info->n_classes && same; i++)
        same = strcmp(info->classes[i], kd_data_class_name(ss->data, i)) == 0;
    if (!info->classes || same)
        return 0;
    kd_buf theirs, mine;
    kd_buf_init(&theirs, 1 << 20);
    kd_buf_init(&mine, 1 << 20);
    for (int i = 0; i < info->n_classes; i++)
        kd_buf_printf(&theirs, "%s%s", i ? "," : "", info->classes[i]);
    for (int i = 0; i < ss->classes; i++)
        kd_buf_printf(&mine, "%s%s", i ? "," : "", kd_data_class_name(ss->data, i));
    int rc = kd_fail(diag, -KD_EINVAL,
                     "%.100s: the teacher knows the classes %.200s, the data has %.200s; use a "
                     "teacher of these classes or fine-tune it",
                     name, theirs.data ? theirs.data : "", mine.data ? mine.data : "");
    kd_buf_clear(&theirs);
    kd_buf_clear(&mine);
    return rc;
}

/* A smoothed teacher says little about the wrong classes, and at a raised temperature the student
 * learns from just that (docs/jobs.md). Looked at where it teaches, whatever made it. */
static int check_smoothing(const kd_session *ss, int teacher, double smoothing, kd_diag *diag)
{
    double temperature = kd_loss_spec_temperature(&ss->job.distill.loss);
    if (smoothing <= 0 || temperature <= 1 || ss->job.teachers[teacher].allow_label_smoothing)
        return 0;
    return kd_fail(diag, -KD_EINVAL,
                   "%s was trained with label smoothing %.3g; at temperature %g its student would "
                   "learn worse: use temperature 1, another teacher, or set "
                   "allow_label_smoothing: true for it",
                   kd_stage_name((enum kd_stage_kind)(KD_STAGE_TEACHER + teacher)), smoothing,
                   temperature);
}

static int other_classes(const kd_session *ss, const char *name, kd_diag *diag)
{
    return kd_fail(diag, -KD_EINVAL,
                   "%s was made for another number of classes than the %d of the data; add "
                   "`fine_tune` to the teacher, or use a teacher of these classes",
                   name, ss->classes);
}

static int load_weights(const kd_stage_config *cfg, kd_stage *s, const kd_model_spec *m,
                        const char **problem, kd_diag *diag)
{
    bool new_head = false;
    kd_model_file_info info;
    *problem = "BAD_WEIGHTS";
    int rc = kd_model_file_info_read(cfg->weights, cfg->weights_len, m->weights, &info, diag);
    if (rc != 0)
        return rc;
    rc = kd_model_file_info_check(&info, m->weights, m->model, m->padding == KD_PAD_TF,
                                  m->preprocess, diag);
    s->smoothing = info.label_smoothing;
    if (rc == 0)
        rc = kd_model_load(s->net.graph, cfg->weights, cfg->weights_len, m->weights, s->net.vector,
                           &new_head, diag);
    if (rc == 0 && s->train->epochs == 0) {
        *problem = "BAD_CLASSES";
        rc = new_head ? other_classes(cfg->session, m->weights, diag)
                      : check_classes(cfg->session, &info, m->weights, diag);
    }
    if (rc == 0 && new_head)
        kd_graph_init_head(s->net.graph, s->train->seed, s->net.vector);
    kd_model_file_info_clear(&info);
    return rc;
}

/* A job feeds what the data's pictures are: three channels. */
static int check_colour(const kd_graph *g, const char *name, kd_diag *diag)
{
    if (g->nodes[0].c == 3)
        return 0;
    return kd_fail(diag, -KD_EUNSUP, "%.100s wants pictures of %d channel(s); jobs feed 3", name,
                   g->nodes[0].c);
}

/* A network from an ONNX file is all that the file says; there is nothing to build first. */
static int read_onnx(const kd_stage_config *cfg, kd_stage *s, const kd_model_spec *m,
                     const char **problem, kd_diag *diag)
{
    const kd_session *ss = cfg->session;
    const kd_onnx_read_options opt = {.size = m->size ? m->size : ss->size,
                                      .classes = ss->classes,
                                      .seed = s->train->seed,
                                      .folder_fd = -1};
    kd_onnx_info info;
    bool new_head = false;
    *problem = "BAD_WEIGHTS";
    if (!cfg->weights)
        return kd_fail(diag, -KD_EINVAL, "no ONNX file came with the job");
    int rc = kd_onnx_read(cfg->weights, cfg->weights_len, m->weights, &opt, &s->net.graph,
                          &s->net.vector, &new_head, &info, diag);
    if (rc != 0)
        return rc;
    s->net.size = info.size;
    s->net.preprocess = m->preprocess;
    rc = check_colour(s->net.graph, m->weights, diag);
    if (rc == 0 && info.file.has_preprocess && info.file.preprocess != m->preprocess)
        rc = kd_fail(diag, -KD_EINVAL,
                     "%.100s says that it wants pixels as preprocess: %s, the job feeds it %s",
                     m->weights, kd_preprocess_word((int)info.file.preprocess),
                     kd_preprocess_word((int)m->preprocess));
    if (rc == 0 && s->train->epochs == 0 && kd_stage_teacher(s->kind) >= 0) {
        *problem = "BAD_CLASSES";
        rc = new_head ? other_classes(ss, m->weights, diag)
                      : check_classes(ss, &info.file, m->weights, diag);
    }
    kd_onnx_info_clear(&info);
    return rc;
}

int kd_net_new(const kd_stage_config *cfg, kd_stage *s, const char **out_problem, kd_diag *diag)
{
    const kd_model_spec *m = kd_job_model(&cfg->session->job, s->kind);
    *out_problem = "BAD_MODEL";
    if (strcmp(m->model, "onnx") == 0)
        return read_onnx(cfg, s, m, out_problem, diag);
    int rc = build(cfg->session, m, &s->net, diag);
    if (rc == 0 && cfg->weights)
        return load_weights(cfg, s, m, out_problem, diag);
    if (rc == 0)
        kd_graph_init(s->net.graph, s->train->seed, s->net.vector);
    return rc;
}

/* ---- networks of earlier stages */

/* Their files tell all there is to know of them. */
int kd_stage_load_finished(const kd_stage_config *cfg, kd_stage *s, kd_diag *diag)
{
    int rc = 0;
    for (size_t i = 0; i < cfg->n_finished && i < KD_MAX_FINISHED && rc == 0; i++) {
        const kd_finished *f = &cfg->finished[i];
        kd_loaded file = {0};
        rc = kd_loaded_open(f->bytes, f->len, f->name, &file, diag);
        if (rc != 0)
            break;
        rc = check_colour(file.graph, f->name, diag);
        if (rc == 0 && !file.info.has_preprocess)
            rc =
                kd_fail(diag, -KD_EDATA, "the finished %s does not say its preprocessing", f->name);
        for (int t = 0; t < cfg->session->job.n_teachers && s->kind == KD_STAGE_DISTILL; t++)
            if (rc == 0 && strcmp(f->name, kd_stage_name((enum kd_stage_kind)t)) == 0)
                rc = check_smoothing(cfg->session, t, file.info.label_smoothing, diag);
        memcpy(s->finished[s->n_finished].name, f->name, sizeof f->name);
        s->finished[s->n_finished++].net = (kd_net){.graph = file.graph,
                                                    .vector = file.vector,
                                                    .preprocess = file.info.preprocess,
                                                    .size = file.size};
        s->finished[s->n_finished - 1].info = file.info;
        const int classes = file.n_classes;
        file.graph = NULL; /* theirs now; what is left of the file is not wanted */
        file.vector = NULL;
        file.info = (kd_model_file_info){0};
        kd_loaded_clear(&file);
        if (rc == 0 && classes != cfg->session->classes)
            rc = kd_fail(diag, -KD_EDATA, "the finished %s has %d classes, the data has %d",
                         f->name, classes, cfg->session->classes);
    }
    return rc;
}

const kd_net *kd_stage_find_finished(const kd_stage *s, const char *name)
{
    for (int i = 0; i < s->n_finished; i++)
        if (strcmp(s->finished[i].name, name) == 0)
            return &s->finished[i].net;
    return NULL;
}

int kd_stage_n_finished(const kd_stage *s)
{
    return s->n_finished;
}

const kd_net *kd_stage_finished_net(const kd_stage *s, int i, const char **out_name)
{
    *out_name = s->finished[i].name;
    return &s->finished[i].net;
}

const kd_model_file_info *kd_stage_finished_info(const kd_stage *s, int i)
{
    return &s->finished[i].info;
}

/* ---- what an exported file says of itself */

/* names [classes]: room for them. */
static void about(const kd_stage *s, const char **names, kd_model_file_info *out)
{
    const kd_session *ss = s->session;
    const kd_model_spec *m = kd_job_model(&ss->job, s->kind);
    const kd_digest data = kd_data_digest(ss->data);
    for (int c = 0; c < ss->classes; c++)
        names[c] = kd_data_class_name(ss->data, c);
    *out = (kd_model_file_info){.has_padding = kd_model_has_padding(m->model),
                                .pad_tf = m->padding == KD_PAD_TF,
                                .has_preprocess = true,
                                .preprocess = s->net.preprocess,
                                .half = s->half,
                                .label_smoothing =
                                    KD_MAX(s->smoothing, s->train->loss.label_smoothing),
                                .size = s->net.size,
                                .classes = (char **)(uintptr_t)names,
                                .n_classes = ss->classes};
    snprintf(out->model, sizeof out->model, "%s", m->model);
    kd_digest_hex(&data, out->data);
    snprintf(out->calibration, sizeof out->calibration, "%s", s->calibration);
    snprintf(out->teacher, sizeof out->teacher, "%s", s->shape.n_teachers ? "" : s->taught_by);
    for (int i = 0; i < s->shape.n_teachers; i++) {
        const size_t at = strlen(out->teacher);
        const kd_teacher_spec *t = &ss->job.teachers[i];
        snprintf(out->teacher + at, sizeof out->teacher - at, "%s%.40s %.16s", i ? ", " : "",
                 kd_teacher_is_outside(t) ? t->served : t->model.model, s->banks[i][0].teacher);
    }
}

const char *kd_stage_calibrated(const kd_stage *s, bool *out_doubtful)
{
    *out_doubtful = s->doubtful;
    return s->calibrated;
}

char *kd_stage_table(const kd_stage *s)
{
    /* What is tuned are floats, whatever will be made of them. */
    if (s->tunes)
        return kd_model_table(s->net.graph, NULL);
    enum kd_st_type *types = kd_xalloc(((size_t)s->net.graph->n_params + 1) * sizeof *types);
    kd_param_types(s->net.graph, s->half, types);
    char *text = kd_model_table(s->net.graph, types);
    free(types);
    return text;
}

char *kd_stage_metadata(const kd_stage *s)
{
    kd_loaded_meta meta;
    kd_model_file_info info;
    kd_diag diag = {0};
    char *text = NULL;
    const char **names = kd_xalloc((size_t)s->session->classes * sizeof *names);
    about(s, names, &info);
    json_t *o = json_object();
    if (kd_loaded_describe(s->net.graph, &info, &meta, &diag) == 0) {
        for (size_t i = 0; i < meta.n_pairs; i++)
            json_object_set_new(o, meta.pairs[i].key, json_string(meta.pairs[i].value));
        kd_loaded_meta_clear(&meta);
        text = json_dumps(o, JSON_COMPACT);
    }
    json_decref(o);
    free(names);
    return text;
}

/* Where a stage's networks come from: builders by name, weights of the job, files of earlier
 * stages. */
#include "stage_internal.h"

#include "models/models.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int new_vector(kd_net *net, uint64_t seed, kd_diag *diag)
{
    net->vector = aligned_alloc(64, (net->graph->vector_len * sizeof(float) + 63) / 64 * 64);
    if (!net->vector)
        return kd_fail(diag, -KD_ENOMEM, "no memory for %zu parameters", net->graph->vector_len);
    kd_graph_init(net->graph, seed, net->vector);
    return 0;
}

static int build(const kd_session *ss, const kd_model_spec *m, uint64_t seed, kd_net *net,
                 kd_diag *diag)
{
    net->size = m->size ? m->size : ss->size;
    net->preprocess = m->preprocess;
    kd_model_config cfg = {.model = m->model,
                           .width = m->width,
                           .hidden = m->hidden,
                           .n_hidden = m->n_hidden,
                           .layers = m->layers,
                           .n_layers = m->n_layers,
                           .dropout = m->dropout,
                           .drop_path = m->drop_path,
                           .pad_tf = m->padding == KD_PAD_TF,
                           .size = net->size,
                           .channels = 3,
                           .classes = ss->classes};
    int rc = kd_model_build(&cfg, &net->graph, diag);
    return rc == 0 ? new_vector(net, seed, diag) : rc;
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
 * learns from just that (docs/jobs.md). */
static int check_smoothing(const kd_stage_config *cfg, const kd_stage *s,
                           const kd_model_file_info *info, const char *name, kd_diag *diag)
{
    const kd_job *job = &cfg->session->job;
    int teacher = kd_stage_teacher(s->kind);
    if (teacher < 0 || info->label_smoothing <= 0 || job->distill.loss.temperature <= 1 ||
        job->distill.loss.kd <= 0 || job->teachers[teacher].allow_label_smoothing)
        return 0;
    return kd_fail(diag, -KD_EINVAL,
                   "%.100s was trained with label smoothing %.3g; at temperature %g its student "
                   "would learn worse: use temperature 1, another teacher, or set "
                   "allow_label_smoothing: true for it",
                   name, info->label_smoothing, job->distill.loss.temperature);
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
    if (rc == 0)
        rc = check_smoothing(cfg, s, &info, m->weights, diag);
    if (rc == 0)
        rc = kd_model_load(s->net.graph, cfg->weights, cfg->weights_len, m->weights, s->net.vector,
                           &new_head, diag);
    if (rc == 0 && s->train->epochs == 0) {
        *problem = "BAD_CLASSES";
        rc = new_head ? kd_fail(diag, -KD_EINVAL,
                                "%s was made for another number of classes than the %d of the "
                                "data; add `fine_tune` to the teacher, or use a teacher of these "
                                "classes",
                                m->weights, cfg->session->classes)
                      : check_classes(cfg->session, &info, m->weights, diag);
    }
    kd_model_file_info_clear(&info);
    return rc;
}

int kd_net_new(const kd_stage_config *cfg, kd_stage *s, const char **out_problem, kd_diag *diag)
{
    const kd_model_spec *m = kd_job_model(&cfg->session->job, s->kind);
    *out_problem = "BAD_MODEL";
    int rc = build(cfg->session, m, s->train->seed, &s->net, diag);
    if (rc == 0 && cfg->weights)
        rc = load_weights(cfg, s, m, out_problem, diag);
    return rc;
}

/* ---- networks of earlier stages */

/* "student.best" is made as "student" is. */
static const kd_model_spec *spec_of(const kd_job *job, const char *name)
{
    for (int i = 0; i < job->n_teachers; i++) {
        const char *teacher = kd_stage_name((enum kd_stage_kind)(KD_STAGE_TEACHER + i));
        size_t n = strlen(teacher);
        if (strncmp(name, teacher, n) == 0 && (name[n] == '\0' || name[n] == '.'))
            return &job->teachers[i].model;
    }
    return &job->student;
}

int kd_stage_load_finished(const kd_stage_config *cfg, kd_stage *s, kd_diag *diag)
{
    const kd_session *ss = cfg->session;
    int rc = 0;
    for (size_t i = 0; i < cfg->n_finished && i < KD_MAX_FINISHED && rc == 0; i++) {
        const kd_finished *f = &cfg->finished[i];
        kd_net *net = &s->finished[s->n_finished].net;
        memcpy(s->finished[s->n_finished].name, f->name, sizeof f->name);
        s->n_finished++;
        bool new_head = false;
        rc = build(ss, spec_of(&ss->job, f->name), 0, net, diag);
        if (rc == 0)
            rc = kd_model_load(net->graph, f->bytes, f->len, f->name, net->vector, &new_head, diag);
        if (rc == 0 && new_head)
            rc = kd_fail(diag, -KD_EDATA, "the finished %s has other classes", f->name);
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

/* ---- what an exported file says of itself */

char *kd_stage_metadata(const kd_stage *s)
{
    static const char *const preprocess[] = {"unit", "symmetric", "imagenet"};
    const kd_session *ss = s->session;
    const kd_model_spec *m = kd_job_model(&ss->job, s->kind);
    json_t *o = json_object();
    kd_buf classes;
    char number[32];
    kd_buf_init(&classes, 1 << 20);
    for (int i = 0; i < ss->classes; i++)
        kd_buf_printf(&classes, "%s%s", i ? "," : "", kd_data_class_name(ss->data, i));
    json_object_set_new(o, "model", json_string(m->model));
    snprintf(number, sizeof number, "%.9g", m->width);
    json_object_set_new(o, "width", json_string(number));
    json_object_set_new(o, "padding", json_string(m->padding == KD_PAD_TF ? "tf" : "torch"));
    json_object_set_new(o, "preprocess", json_string(preprocess[s->net.preprocess]));
    snprintf(number, sizeof number, "%d", s->net.size);
    json_object_set_new(o, "size", json_string(number));
    json_object_set_new(o, "classes", json_string(classes.data ? classes.data : ""));
    if (s->train->loss.label_smoothing > 0) {
        snprintf(number, sizeof number, "%.9g", s->train->loss.label_smoothing);
        json_object_set_new(o, "label_smoothing", json_string(number));
    }
    kd_buf_clear(&classes);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}

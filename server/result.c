/* result.json: what a job came to, network by network. docs/jobs.md shows one. */
#include "daemon.h"

#include "kd/failpoint.h"
#include "kd/file.h"
#include "kd/stats.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double share(uint64_t part, uint64_t all)
{
    return all ? (double)part / (double)all : 0;
}

/* {accuracy, interval, correct, samples, loss} */
static json_t *accuracy_object(uint32_t correct, uint32_t samples, double loss)
{
    double lo, hi;
    kd_wilson(correct, samples, &lo, &hi);
    return json_pack("{s:f, s:[f,f], s:I, s:I, s:f}", "accuracy", share(correct, samples),
                     "interval", lo, hi, "correct", (json_int_t)correct, "samples",
                     (json_int_t)samples, "loss", loss);
}

void kd_result_costs(kd_daemon *d, kd_job_record *j, const char *worker,
                     const Distill__V1__Measured *m)
{
    size_t unknown = 0;
    for (size_t k = 0; k < m->n_models; k++) {
        const Distill__V1__ModelCost *cost = m->models[k];
        kd_stage_record *s = NULL;
        for (int i = 0; i < j->n_stages && !s; i++) {
            const char *name = kd_stage_makes(j->stages[i].kind);
            s = name && strcmp(name, cost->name) == 0 ? &j->stages[i] : NULL;
        }
        if (s) {
            s->ms_per_image = cost->ms_per_image;
            s->ms_per_image_64 = cost->ms_per_image_64;
        }
        unknown += !s;
    }
    if (unknown)
        kd_watch_event(d, j, "warning", worker, NULL,
                       "%s measured %zu network(s) that the job does not make; that is left out",
                       worker, unknown);
}

/* The row of evaluation.json for a network and a split, NULL = none; borrowed. */
static json_t *evaluated(json_t *evaluation, const char *name, const char *split)
{
    json_t *networks = json_object_get(evaluation, "networks"), *row;
    size_t i;
    json_array_foreach(networks, i, row)
    {
        const char *n = json_string_value(json_object_get(row, "name"));
        const char *s = json_string_value(json_object_get(row, "split"));
        if (n && s && strcmp(n, name) == 0 && strcmp(s, split) == 0)
            return row;
    }
    return NULL;
}

static json_t *from_row(json_t *row)
{
    return row ? accuracy_object((uint32_t)json_integer_value(json_object_get(row, "correct")),
                                 (uint32_t)json_integer_value(json_object_get(row, "samples")),
                                 json_number_value(json_object_get(row, "loss")))
               : NULL;
}

static json_t *describe(kd_daemon *d, kd_job_record *j, uint32_t stage, const char *name,
                        json_t *evaluation)
{
    const kd_stage_record *s = &j->stages[stage];
    const kd_epoch_row *last = kd_stage_evaluation(j, stage, 0);
    const kd_epoch_row *best =
        s->row.best_version ? kd_stage_evaluation(j, stage, s->row.best_version) : last;
    kd_file_row file = {0};
    kd_diag diag = {0};
    char artefact[KD_NETWORK_FILE];
    kd_stage_network_file(s->kind, false, artefact);
    (void)!kd_state_find_artefact(&d->state, j->row.id, artefact, "-", &file, &diag);
    json_t *o = last ? accuracy_object(last->val_correct, last->val_samples, last->val_loss)
                     : accuracy_object(0, 0, 0);
    json_object_set_new(o, "model", json_string(s->info->model));
    json_object_set_new(o, "best_accuracy",
                        json_real(best ? share(best->val_correct, best->val_samples) : 0));
    json_object_set_new(o, "best_epoch", json_integer(best ? (json_int_t)best->epoch : 0));
    json_object_set_new(o, "parameters", json_integer((json_int_t)s->info->parameters));
    json_object_set_new(o, "bytes", json_integer((json_int_t)file.size));
    json_object_set_new(o, "ms_per_image", json_real(s->ms_per_image));
    if (s->ms_per_image_64 > 0)
        json_object_set_new(o, "ms_per_image_64", json_real(s->ms_per_image_64));
    json_object_set_new(o, "digest", json_string(s->row.digest));
    json_object_set_new(o, "seconds", json_real(s->row.seconds));
    if (s->row.best_digest[0])
        json_object_set_new(o, "best_digest", json_string(s->row.best_digest));
    if (s->row.stopped_early)
        json_object_set_new(o, "stopped_early", json_integer((json_int_t)s->row.stopped_early));
    if (last && last->val_kl >= 0) {
        json_object_set_new(o, "agreement", json_real(share(last->val_agree, last->val_samples)));
        json_object_set_new(o, "kl", json_real(last->val_kl));
    }
    char best_name[48];
    snprintf(best_name, sizeof best_name, "%s.best", name);
    json_t *test = from_row(evaluated(evaluation, name, "test"));
    json_t *test_best = from_row(evaluated(evaluation, best_name, "test"));
    if (!test_best && test)
        test_best = json_copy(test);
    if (test)
        json_object_set_new(o, "test", test);
    if (test_best)
        json_object_set_new(o, "test_best", test_best);
    return o;
}

/* What a step of `compress` did, and to which network. */
static void describe_step(const kd_job_record *j, int step, json_t *o)
{
    char text[96];
    bool same = !kd_compress_int8(&j->spec, step);
    for (int i = step; i >= 0; i = kd_compress_source(&j->spec, i))
        same = same && j->spec.compress[i].kind != KD_COMPRESS_CHANNELS;
    json_object_set_new(o, "same_work", json_boolean(same));
    const int source = kd_compress_source(&j->spec, step);
    kd_compress_text(&j->spec.compress[step], text, sizeof text);
    json_object_set_new(o, "step", json_string(text));
    json_object_set_new(o, "of",
                        json_string(source < 0 ? "student"
                                               : kd_stage_name((enum kd_stage_kind)(
                                                     (int)KD_STAGE_COMPRESS + source))));
}

/* Training samples that the job's own steps of a stage have gone over, to where it ended. */
static uint64_t images_of(const kd_stage_record *s)
{
    const Distill__V1__StageInfo *i = s->info;
    uint64_t each = kd_stage_epoch_steps(i), steps = kd_stage_last_version(s) - 1;
    uint64_t samples = i->epoch_samples ? i->epoch_samples : i->train_samples;
    if (s->row.shared || each == 0)
        return 0;
    /* An epoch's last batch is no larger than what is left. */
    return steps / each * samples + KD_MIN(steps % each * i->batch, samples);
}

/* What the logit bank was asked, and what it saved at the pace of those it had to compute. */
static json_t *bank_account(const kd_job_record *j)
{
    uint64_t computed = 0, served = 0;
    double seconds = 0;
    for (int i = 0; i < j->n_stages; i++) {
        computed += j->stages[i].row.teacher_forwards;
        served += j->stages[i].row.bank_hits;
        seconds += j->stages[i].row.teacher_seconds;
    }
    double each = computed ? seconds / (double)computed : 0;
    return json_pack("{s:I, s:I, s:I, s:f, s:f}", "asked", (json_int_t)(computed + served),
                     "served", (json_int_t)served, "computed", (json_int_t)computed, "seconds",
                     seconds, "seconds_saved", each * (double)served);
}

static json_t *data_object(const kd_job_record *j, const Distill__V1__StageInfo *info)
{
    json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "path", j->spec.data.path, "digest",
                          info->data_digest, "train", (json_int_t)info->train_samples, "val",
                          (json_int_t)info->val_samples, "test", (json_int_t)info->test_samples,
                          "unlabelled", (json_int_t)info->unlabelled_samples);
    json_t *names = json_array();
    for (size_t i = 0; i < info->n_class_names; i++)
        json_array_append_new(names, json_string(info->class_names[i]));
    json_object_set_new(o, "classes", names);
    return o;
}

#define LEAST_ROOM (1u << 20) /* without it the file waits, and does not hold up the loop */

static json_t *read_evaluation(kd_daemon *d, kd_job_record *j)
{
    kd_file_row row;
    kd_diag diag = {0};
    char *text = NULL;
    size_t len = 0;
    json_t *o = NULL;
    if (kd_state_find_artefact(&d->state, j->row.id, "evaluation.json", "-", &row, &diag) == 1 &&
        kd_file_read(row.path, KD_MAX_ARTEFACT_BYTES, &text, &len, &diag) == 0)
        o = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    return o;
}

void kd_result_export(kd_daemon *d, kd_job_record *j, uint32_t stage)
{
    char id[KD_ID_TEXT];
    kd_id_text(j->row.id, id);
    json_t *result = json_pack("{s:s, s:s, s:I, s:s}", "job", id, "name", j->row.name, "seed",
                               (json_int_t)j->spec.seed, "version", KD_VERSION);
    json_t *evaluation = read_evaluation(d, j);
    uint64_t images = 0;
    const Distill__V1__StageInfo *info = NULL;
    for (int i = 0; i < j->n_stages; i++) {
        kd_stage_record *s = &j->stages[i];
        const char *name = kd_stage_makes(s->kind);
        if (!name || !s->info)
            continue;
        /* The twin has no pictures without classes. */
        if (!info || s->kind == KD_STAGE_DISTILL)
            info = s->info;
        images += images_of(s);
        if (kd_stage_tune(s->kind) >= 0)
            continue; /* what comes of it stands in the next stage */
        json_t *o = describe(d, j, (uint32_t)i, name, evaluation);
        if (kd_stage_compress(s->kind) >= 0)
            describe_step(j, kd_stage_compress(s->kind), o);
        json_object_set_new(result, name, o);
        if (s->kind == KD_STAGE_DISTILL)
            json_object_set_new(result, "digest", json_string(s->row.digest));
    }
    double seconds = (double)(kd_clock_wall_ms() - j->row.started_ms) / 1000;
    json_object_set_new(result, "images", json_integer((json_int_t)images));
    json_object_set_new(result, "seconds", json_real(seconds));
    json_object_set_new(result, "bank", bank_account(j));
    if (info)
        json_object_set_new(result, "data", data_object(j, info));
    json_t *pairs = json_object_get(evaluation, "pairs");
    if (pairs)
        json_object_set(result, "pairs", pairs);
    json_decref(evaluation);
    char *text = json_dumps(result, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(result);
    kd_diag diag = {0};
    int rc = KD_FAILPOINT_FAILS("result.write")
                 ? kd_fail(&diag, errno == ENOSPC ? -KD_ELIMIT : -KD_EIO,
                           "cannot write result.json: %s", strerror(errno))
                 : kd_file_need_room(d->state.dir, LEAST_ROOM, text ? strlen(text) : 0, &diag);
    if (rc == 0)
        rc = text ? kd_artefact_write(d, j, stage, "result.json", text, strlen(text), &diag)
                  : kd_fail(&diag, -KD_ENOMEM, "no memory for result.json");
    if (rc == 0) {
        free(j->row.result);
        j->row.result = text;
        text = NULL;
    }
    free(text);
    if (rc == -KD_ELIMIT) {
        if (!j->export_waits)
            kd_stage_tell_waiting(d, j, stage, diag.msg);
        j->export_waits = d->exports_wait = true;
        j->export_stage = stage;
        return;
    }
    if (j->export_waits)
        kd_stage_tell_waiting(d, j, stage, "");
    j->export_waits = false;
    KD_FAILPOINT("result.written");
    kd_daemon_event(d, &(kd_event){.kind = KD_EV_EXPORTED,
                                   .job = j->row.id,
                                   .stage = stage,
                                   .text = rc == 0 ? NULL : diag.msg});
}

void kd_result_tick(kd_daemon *d)
{
    if (!d->exports_wait)
        return;
    d->exports_wait = false; /* kd_result_export says so again */
    for (kd_job_record *j = d->jobs; j; j = j->next) {
        kd_diag diag = {0};
        if (!j->export_waits)
            continue;
        if (j->row.state != KD_RUN_RUNNING)
            j->export_waits = false; /* cancelled meanwhile */
        else if (kd_room_check(&d->room, 0, &diag) != 0)
            d->exports_wait = true;
        else
            kd_result_export(d, j, j->export_stage);
    }
}

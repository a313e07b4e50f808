#include "session.h"

#include "compress/possible.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void set_rule(kd_session *ss)
{
    const kd_augment_spec *a = &ss->job.data.augment;
    ss->rule = (kd_view_rule){.flip = a->flip,
                              .crop_pad = a->crop_pad,
                              .resized_crop = a->resized_crop,
                              .resized_crop_ratio = a->resized_crop_ratio,
                              .rotate = a->rotate,
                              .brightness = a->brightness,
                              .contrast = a->contrast,
                              .saturation = a->saturation,
                              .randaugment_n = a->randaugment_n,
                              .randaugment_m = a->randaugment_m,
                              .cutout = a->cutout,
                              .mixup = a->mixup,
                              .cutmix = a->cutmix,
                              .mix_probability = a->mix_probability,
                              .size = ss->size,
                              .seed = ss->job.data.seed};
}

static int open_data(kd_session *ss, const kd_session_config *session, kd_diag *diag)
{
    const kd_data_spec *d = &ss->job.data;
    kd_data_config cfg = {.kind = (enum kd_data_kind)d->format,
                          .path = d->path,
                          .train = d->train,
                          .val = d->val,
                          .test = d->test,
                          .train_labels = d->train_labels,
                          .val_labels = d->val_labels,
                          .test_labels = d->test_labels,
                          .val_share = d->val_share,
                          .test_share = d->test_share,
                          .leakage = (enum kd_data_leakage)d->leakage,
                          .classes = d->classes,
                          .unlabelled_path = d->unlabelled.path,
                          .unlabelled_list = d->unlabelled.list,
                          .size = d->size,
                          .max_train = d->max_train,
                          .seed = d->seed};
    int rc =
        kd_data_open(&cfg, session->data_root, session->progress, session->arg, &ss->data, diag);
    if (rc == 0 && kd_data_count(ss->data, KD_SPLIT_TRAIN) == 0)
        rc = kd_fail(diag, -KD_EINVAL, "the training list %s is empty", d->train);
    if (rc == 0 && kd_data_count(ss->data, KD_SPLIT_VAL) == 0)
        rc = kd_fail(diag, -KD_EINVAL, "the validation list %s is empty", d->val);
    return rc;
}

int kd_session_open(const kd_session_config *cfg, kd_session **out, const char **out_problem,
                    kd_diag *diag)
{
    kd_session *ss = kd_xalloc(sizeof *ss);
    *out_problem = "BAD_JOB";
    int rc = kd_job_load(cfg->text, strlen(cfg->text), "job", NULL, 0, &ss->job, diag);
    if (rc == 0) /* said now, not when all the training is done */
        rc = kd_compress_possible(&ss->job, diag);
    if (rc == 0) {
        *out_problem = "NO_DATA";
        rc = open_data(ss, cfg, diag);
    }
    if (rc != 0) {
        kd_session_free(ss);
        return rc;
    }
    snprintf(ss->job_id, sizeof ss->job_id, "%s", cfg->job_id);
    ss->n_train = kd_data_count(ss->data, KD_SPLIT_TRAIN);
    ss->n_val = kd_data_count(ss->data, KD_SPLIT_VAL);
    ss->n_test = kd_data_count(ss->data, KD_SPLIT_TEST);
    ss->n_unlabelled = kd_data_count(ss->data, KD_SPLIT_UNLABELLED);
    ss->classes = kd_data_classes(ss->data);
    ss->size = ss->job.data.size;
    set_rule(ss);
    int ahead = KD_MAX(1, cfg->threads / 2);
    ss->cache = kd_cache_new(ss->data, ss->size, cfg->cache_bytes, ahead, cfg->bad, cfg->arg);
    *out = ss;
    return 0;
}

void kd_session_free(kd_session *ss)
{
    if (!ss)
        return;
    kd_cache_free(ss->cache);
    kd_data_free(ss->data);
    free(ss);
}

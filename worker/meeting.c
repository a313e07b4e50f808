/* Before a stage whose teachers run elsewhere: each is met, asked about the job's probe, and known
 * by its answers from then on. The first worker's answers count: they lie in the bank that is named
 * after them, and their digest in the resolved job. */
#include "runner_internal.h"

#include "data/view.h"
#include "kd/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Heart-beats say so; what was under way before goes on after. */
static void on_waits(void *arg, bool begun)
{
    kd_runner *r = arg;
    pthread_mutex_lock(&r->mu);
    if (begun) {
        r->phase_before = r->status.phase;
        r->status.phase = r->waits_for;
    } else if (r->status.phase == r->waits_for) {
        r->status.phase = r->phase_before;
    }
    pthread_mutex_unlock(&r->mu);
}

static size_t record_size(const kd_runner *r)
{
    return 8 + (size_t)r->session->classes * sizeof(float);
}

static void put_pair(const kd_outside *o, size_t i, uint8_t *to)
{
    const uint32_t pair[] = {kd_outside_probe_sample(o, i), KD_VIEW_CLEAN};
    memcpy(to, pair, sizeof pair);
}

static bool again(kd_runner *r, int rc)
{
    return kd_exchange_again(rc, kd_runner_stopped, r);
}

/* The first worker's answers, into the bank of their name. */
static int keep_probe(kd_runner *r, int teacher, const kd_stage_ref *ref, kd_diag *diag)
{
    const kd_outside *o = r->outside[teacher];
    const size_t size = record_size(r), n = kd_outside_probe_count(o);
    uint8_t *records = malloc(n * size);
    if (!records)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a probe");
    for (size_t i = 0; i < n; i++) {
        put_pair(o, i, records + i * size);
        memcpy(records + i * size + 8, kd_outside_probe_logits(o, i), size - 8);
    }
    kd_stage_name_outside(r->stage, teacher, kd_outside_probe_digest(o));
    int rc;
    do
        rc = kd_exchange_put_logits(r->cfg.channel, ref, kd_stage_bank(r->stage, teacher, true),
                                    records, n * size, diag);
    while (rc != 0 && again(r, rc));
    free(records);
    return rc;
}

/* Ours against those that the job goes by. */
static int compare_probe(kd_runner *r, int teacher, const kd_stage_ref *ref, kd_diag *diag)
{
    kd_outside *o = r->outside[teacher];
    const size_t size = record_size(r), n = kd_outside_probe_count(o);
    uint32_t *pairs = kd_xalloc(n * 8);
    const float **known = kd_xalloc(n * sizeof *known);
    kd_buf found;
    kd_buf_init(&found, KD_MAX_PAYLOAD_BYTES);
    int rc;
    for (size_t i = 0; i < n; i++)
        put_pair(o, i, (uint8_t *)(pairs + 2 * i));
    do {
        found.len = 0;
        rc = kd_exchange_get_logits(r->cfg.channel, ref, kd_stage_bank(r->stage, teacher, true),
                                    pairs, n, &found, diag);
    } while (rc != 0 && again(r, rc));
    for (size_t i = 0; rc == 0 && i < n; i++)
        known[i] = (const float *)(const void *)(found.data + i * size + 8);
    if (rc == 0 && found.len != n * size)
        rc = kd_fail(diag, -KD_EDATA,
                     "%s at %s answers otherwise than at the job's beginning, and its answers of "
                     "then are in the bank no more to tell by how much; submit the job anew",
                     r->session->job.teachers[teacher].served,
                     r->session->job.teachers[teacher].kserve);
    if (rc == 0)
        rc = kd_outside_compare(o, known, diag);
    kd_buf_clear(&found);
    free(pairs);
    free(known);
    return rc;
}

/* What the job goes by: our answers if there are no others yet. */
static int settle(kd_runner *r, int teacher, const kd_stage_ref *ref, char chosen[33],
                  kd_diag *diag)
{
    const kd_outside *o = r->outside[teacher];
    const kd_teacher_spec *t = &r->session->job.teachers[teacher];
    char why[256];
    bool measure = false;
    int rc;
    for (;;) {
        rc = kd_exchange_decide(r->cfg.channel, ref, (uint32_t)teacher, "", "", chosen, &measure,
                                diag);
        if (rc == 0 && (chosen[0] || measure))
            break;
        if (rc != 0 ? !again(r, rc) : kd_runner_stopped(r))
            return rc != 0 ? rc : -KD_ECANCELED;
        if (rc == 0)
            usleep(KD_EXCHANGE_PAUSE_MS * 1000);
    }
    if (chosen[0])
        return 0;
    snprintf(why, sizeof why, "%.60s at %.120s", t->served, t->kserve);
    rc = keep_probe(r, teacher, ref, diag);
    while (rc == 0 || again(r, rc)) {
        rc = kd_exchange_decide(r->cfg.channel, ref, (uint32_t)teacher, kd_outside_probe_digest(o),
                                why, chosen, &measure, diag);
        if (rc == 0)
            break;
    }
    return rc;
}

static int meet(kd_runner *r, int teacher, const kd_stage_ref *ref, kd_diag *diag)
{
    kd_teacher_spec *t = &r->session->job.teachers[teacher];
    const kd_outside_config cfg = {.stage = r->stage,
                                   .session = r->session,
                                   .teacher = teacher,
                                   .threads = r->cfg.threads,
                                   .rpc = r->cfg.rpc,
                                   .tls = r->cfg.teacher_tls,
                                   .stopped = kd_runner_stopped,
                                   .waits = on_waits,
                                   .arg = r};
    char chosen[33] = "";
    snprintf(r->waits_for, sizeof r->waits_for, "waiting for the teacher at %.36s", t->kserve);
    int rc = kd_outside_new(&cfg, &r->outside[teacher], diag);
    if (rc == 0)
        rc = kd_outside_meet(r->outside[teacher], diag);
    if (rc != 0)
        return rc;
    rc = settle(r, teacher, ref, chosen, diag);
    if (rc != 0)
        return rc;
    snprintf(t->probe, sizeof t->probe, "%s", chosen);
    kd_stage_name_outside(r->stage, teacher, chosen);
    if (strcmp(chosen, kd_outside_probe_digest(r->outside[teacher])) == 0)
        return 0;
    rc = compare_probe(r, teacher, ref, diag);
    if (rc == 0)
        kd_warn("teacher %d rounds otherwise than at the job's beginning, within what is taken: "
                "probe=%s then=%s",
                teacher + 1, kd_outside_probe_digest(r->outside[teacher]), chosen);
    return rc;
}

int kd_runner_meet(kd_runner *r, kd_diag *diag)
{
    kd_stage_ref ref = {.stage = r->stage_index, .process = r->cfg.process};
    snprintf(ref.job, sizeof ref.job, "%s", r->stage_job);
    const int n = kd_stage_shape_of(r->stage)->n_teachers;
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        if (!kd_teacher_is_outside(&r->session->job.teachers[i]))
            continue;
        pthread_mutex_lock(&r->mu);
        r->over = false; /* of an earlier generation */
        pthread_mutex_unlock(&r->mu);
        rc = meet(r, i, &ref, diag);
    }
    return rc;
}

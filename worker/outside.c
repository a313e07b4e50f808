#include "outside.h"

#include "data/view.h"
#include "kd/hash.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLACK 0.005   /* of the largest logit, by which an answer may differ from itself */
#define AUDIT_EACH 32 /* one request in so many is sent twice */

struct room {               /* of a thread */
    float *pixels;          /* [pictures][size][size][3]; the canary is there from the beginning */
    float *logits, *second; /* [pictures][classes] */
};

struct kd_outside {
    kd_outside_config cfg;
    const kd_teacher_spec *spec;
    kd_remote *remote;
    size_t views, classes, picture; /* picture: floats of one */
    struct room *rooms;
    size_t n_probe;
    uint32_t *probe;     /* [views][2] pairs */
    float *probe_logits; /* [views][classes] */
    float *canary;       /* [classes] its known answer */
    char digest[KD_DIGEST_HEX];
    bool known;
};

bool kd_outside_agree(const float *a, const float *b, size_t classes)
{
    float largest = 1e-3F, apart = 0;
    for (size_t i = 0; i < classes; i++) {
        largest = KD_MAX(largest, fabsf(a[i]));
        apart = KD_MAX(apart, fabsf(a[i] - b[i]));
    }
    return apart <= (float)SLACK * largest;
}

/* ---- life */

static bool make_rooms(kd_outside *o)
{
    const size_t n = o->views + 1;
    o->probe = calloc(o->views, 2 * sizeof *o->probe);
    o->probe_logits = calloc(o->views * o->classes, sizeof(float));
    o->canary = calloc(o->classes, sizeof(float));
    o->rooms = calloc((size_t)o->cfg.threads, sizeof *o->rooms);
    bool ok = o->probe && o->probe_logits && o->canary && o->rooms;
    for (int i = 0; ok && i < o->cfg.threads; i++) {
        struct room *r = &o->rooms[i];
        r->pixels = malloc(n * o->picture * sizeof(float));
        r->logits = malloc(n * o->classes * sizeof(float));
        r->second = malloc(n * o->classes * sizeof(float));
        ok = r->pixels && r->logits && r->second;
    }
    return ok;
}

static int open_remote(kd_outside *o, int size, kd_diag *diag)
{
    const kd_teacher_spec *t = o->spec;
    if (t->tls && !o->cfg.tls)
        return kd_fail(diag, -KD_EINTERNAL, "the worker has no settings for TLS");
    const kd_remote_config cfg = {.rpc = o->cfg.rpc,
                                  .address = t->kserve,
                                  .model = t->served,
                                  .version = t->version,
                                  .output = t->output,
                                  .tls = t->tls ? o->cfg.tls : NULL,
                                  .size = size,
                                  .classes = (int)o->classes,
                                  .pictures = t->pictures,
                                  .timeout_ms = t->timeout * 1000,
                                  .patience_ms = t->patience * 1000,
                                  .stopped = o->cfg.stopped,
                                  .waits = o->cfg.waits,
                                  .arg = o->cfg.arg};
    return kd_remote_new(&cfg, &o->remote, diag);
}

int kd_outside_new(const kd_outside_config *cfg, kd_outside **out, kd_diag *diag)
{
    kd_outside *o = kd_xalloc(sizeof *o);
    o->cfg = *cfg;
    o->spec = &cfg->session->job.teachers[cfg->teacher];
    const int size = o->spec->model.size ? o->spec->model.size : cfg->session->size;
    o->views = (size_t)o->spec->pictures - 1;
    o->classes = (size_t)cfg->session->classes;
    o->picture = (size_t)size * (size_t)size * 3;
    o->n_probe = KD_MIN(o->views, cfg->session->n_train);
    /* It is kept in one message. */
    o->n_probe = KD_MIN(o->n_probe, KD_MAX_PAYLOAD_BYTES / (8 + o->classes * sizeof(float)));
    int rc = make_rooms(o) ? 0
                           : kd_fail(diag, -KD_ENOMEM, "no memory for requests of %d pictures",
                                     o->spec->pictures);
    for (size_t i = 0; rc == 0 && i < o->n_probe; i++) {
        o->probe[2 * i] = (uint32_t)(i * cfg->session->n_train / o->n_probe);
        o->probe[2 * i + 1] = KD_VIEW_CLEAN;
    }
    for (int i = 0; rc == 0 && i < cfg->threads; i++)
        rc = kd_stage_show(cfg->stage, i, cfg->teacher, 0, KD_VIEW_CLEAN,
                           o->rooms[i].pixels + o->views * o->picture, diag);
    if (rc == 0)
        rc = open_remote(o, size, diag);
    if (rc != 0) {
        kd_outside_free(o);
        return rc;
    }
    *out = o;
    return 0;
}

void kd_outside_free(kd_outside *o)
{
    if (!o)
        return;
    kd_remote_free(o->remote);
    for (int i = 0; i < o->cfg.threads && o->rooms; i++) {
        free(o->rooms[i].pixels);
        free(o->rooms[i].logits);
        free(o->rooms[i].second);
    }
    free(o->rooms);
    free(o->probe);
    free(o->probe_logits);
    free(o->canary);
    free(o);
}

size_t kd_outside_views(const kd_outside *o)
{
    return o->views;
}

/* ---- requests */

static int changed(const kd_outside *o, const char *how, kd_diag *diag)
{
    return kd_fail(diag, -KD_EDATA,
                   "%s at %s is not the teacher that it was: %s. Its answers so far are kept apart "
                   "from those of other models; serve the first one again, or submit the job anew",
                   o->spec->served, o->spec->kserve, how);
}

/* Fills the room's pictures but for the canary; the last view is repeated. */
static int show(kd_outside *o, int thread, const uint32_t *pairs, size_t n, kd_diag *diag)
{
    float *to = o->rooms[thread].pixels;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = kd_stage_show(o->cfg.stage, thread, o->cfg.teacher, pairs[2 * i], pairs[2 * i + 1],
                           to + i * o->picture, diag);
    for (size_t i = n; rc == 0 && i < o->views; i++)
        memcpy(to + i * o->picture, to + (n - 1) * o->picture, o->picture * sizeof *to);
    return rc;
}

/* Puts whose failure it is before it. */
static int name_failure(const kd_outside *o, int rc, kd_diag *diag)
{
    if (rc == 0 || rc == -KD_ECANCELED)
        return rc;
    return kd_fail_at(diag, rc, "%.60s at %.120s", o->spec->served, o->spec->kserve);
}

static int ask(kd_outside *o, int thread, float *logits, kd_diag *diag)
{
    return name_failure(o, kd_remote_ask(o->remote, o->rooms[thread].pixels, logits, diag), diag);
}

/* What is shown, answered twice alike. */
static int ask_twice(kd_outside *o, int thread, kd_diag *diag)
{
    struct room *r = &o->rooms[thread];
    int rc = ask(o, thread, r->second, diag);
    for (size_t i = 0; rc == 0 && i <= o->views; i++)
        if (!kd_outside_agree(r->logits + i * o->classes, r->second + i * o->classes, o->classes))
            rc = changed(o, "the same request was answered otherwise a second time", diag);
    return rc;
}

int kd_outside_request(kd_outside *o, int thread, const uint32_t *pairs, size_t n, float *logits,
                       kd_diag *diag)
{
    struct room *r = &o->rooms[thread];
    KD_BUG_ON(!o->known || n == 0 || n > o->views);
    int rc = show(o, thread, pairs, n, diag);
    if (rc == 0)
        rc = ask(o, thread, r->logits, diag);
    if (rc == 0 && kd_crc32c(0, pairs, n * 2 * sizeof *pairs) % AUDIT_EACH == 0)
        rc = ask_twice(o, thread, diag);
    if (rc == 0 && !kd_outside_agree(o->canary, r->logits + o->views * o->classes, o->classes))
        rc = changed(o, "it answers otherwise on the picture that every request has", diag);
    if (rc == 0)
        memcpy(logits, r->logits, n * o->classes * sizeof *logits);
    return rc;
}

/* ---- the probe */

int kd_outside_meet(kd_outside *o, kd_diag *diag)
{
    struct room *r = &o->rooms[0];
    int rc = name_failure(o, kd_remote_meet(o->remote, diag), diag);
    if (rc == 0)
        rc = show(o, 0, o->probe, o->n_probe, diag);
    if (rc == 0)
        rc = ask(o, 0, r->logits, diag);
    if (rc == 0)
        rc = ask_twice(o, 0, diag);
    if (rc != 0)
        return rc;
    const size_t floats = o->n_probe * o->classes;
    memcpy(o->probe_logits, r->logits, floats * sizeof(float));
    const kd_digest d = kd_digest_of(o->probe_logits, floats * sizeof(float));
    kd_digest_hex(&d, o->digest);
    memcpy(o->canary, o->probe_logits, o->classes * sizeof(float));
    o->known = true;
    return 0;
}

size_t kd_outside_probe_count(const kd_outside *o)
{
    return o->n_probe;
}

uint32_t kd_outside_probe_sample(const kd_outside *o, size_t i)
{
    return o->probe[2 * i];
}

const float *kd_outside_probe_logits(const kd_outside *o, size_t i)
{
    return o->probe_logits + i * o->classes;
}

const char *kd_outside_probe_digest(const kd_outside *o)
{
    return o->digest;
}

int kd_outside_compare(kd_outside *o, const float *const *known, kd_diag *diag)
{
    for (size_t i = 0; i < o->n_probe; i++)
        if (!kd_outside_agree(known[i], kd_outside_probe_logits(o, i), o->classes))
            return changed(o, "it answers the job's probe otherwise than at its beginning", diag);
    memcpy(o->canary, known[0], o->classes * sizeof(float));
    return 0;
}

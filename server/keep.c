#include "config.h"

#include "kd/failpoint.h"
#include "kd/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define JOBS_MS 2000  /* between two looks at jobs */
#define DISK_MS 60000 /* at folders */
#define MAX_SUMS 16   /* jobs summed up in one look, which the loop waits for */
#define MAX_DROPS 16  /* likewise dropped, of each kind */

const char *const kd_keep_words[KD_KEEPS] = {"checkpoints", "logs", "banks", "uploads"};

/* ---- rules */

const kd_setting *kd_keep_rule(const char *name, enum kd_keep_what *out_what, bool *out_is_size)
{
    for (int i = 0; i < KD_KEEPS; i++) {
        char age[40], size[40];
        snprintf(age, sizeof age, "keep_%s", kd_keep_words[i]);
        snprintf(size, sizeof size, "keep_%s_size", kd_keep_words[i]);
        *out_what = (enum kd_keep_what)i;
        *out_is_size = strcmp(name, size) == 0;
        if (*out_is_size || strcmp(name, age) == 0)
            return kd_setting_of(name);
    }
    return NULL;
}

/* Puts a rule by its text; the others stay. */
static int put_rule(kd_daemon *d, const char *name, const char *text, kd_diag *diag)
{
    enum kd_keep_what what;
    bool size;
    const kd_setting *s = kd_keep_rule(name, &what, &size);
    if (!s)
        return kd_fail(diag, -KD_EINVAL,
                       "there is no retention rule \"%.64s\" (`distill retention` lists them)",
                       name);
    kd_daemon_config cfg = {.keep = d->keep.rules};
    const kd_keep_rules *from = &d->keep.configured;
    int rc = text[0] ? kd_setting_put(s, text, &cfg, diag) : 0;
    if (rc != 0)
        return kd_fail_at(diag, rc, "%s", name);
    if (!text[0] && size)
        cfg.keep.bytes[what] = from->bytes[what];
    if (!text[0] && !size)
        cfg.keep.age_s[what] = from->age_s[what];
    d->keep.rules = cfg.keep;
    d->keep.changed[what][size] = text[0] != '\0';
    return 0;
}

static void put_stored(void *arg, const char *name, const char *value)
{
    kd_diag diag = {0};
    if (put_rule(arg, name, value, &diag) != 0)
        kd_warn("a stored setting is left out: %s", diag.msg);
}

int kd_keep_open(kd_daemon *d, const kd_keep_rules *configured, kd_diag *diag)
{
    d->keep.configured = d->keep.rules = *configured;
    return kd_state_each_setting(&d->state, put_stored, d, diag);
}

int kd_keep_set(kd_daemon *d, const char *name, const char *text, kd_diag *diag)
{
    const kd_keep before = d->keep;
    int rc = put_rule(d, name, text, diag);
    if (rc != 0)
        return rc;
    rc = kd_state_set_setting(&d->state, name, text[0] ? text : NULL, diag);
    if (rc != 0) {
        d->keep = before;
        return rc;
    }
    d->keep.jobs_at = d->keep.disk_at = 0;
    return 0;
}

/* Why something of that age goes now, in `why`; false if it stays. sum: of all of its kind. */
static bool is_due(const kd_keep *k, enum kd_keep_what what, int64_t since_ms, uint64_t sum,
                   char why[96])
{
    int64_t age_s = k->rules.age_s[what];
    uint64_t bytes = k->rules.bytes[what];
    if (age_s && kd_clock_wall_ms() - since_ms > age_s * 1000)
        snprintf(why, 96, "older than keep_%s, %lld s", kd_keep_words[what], (long long)age_s);
    else if (bytes && sum > bytes)
        snprintf(why, 96, "all of them were more than keep_%s_size, %llu bytes",
                 kd_keep_words[what], (unsigned long long)bytes);
    else
        return false;
    return true;
}

static void count_drop(kd_keep *k, enum kd_keep_what what, uint64_t bytes)
{
    k->kept[what].items--;
    k->kept[what].bytes -= bytes;
    k->dropped[what].items++;
    k->dropped[what].bytes += bytes;
}

/* ---- jobs that are over */

static bool over(const kd_job_record *j)
{
    return j->row.state >= KD_RUN_SUCCEEDED;
}

/* Whether a network of o starts from a file of job id. */
static bool starts_from(const kd_job_record *o, const char *id)
{
    for (int i = 0; i <= o->spec.n_teachers; i++) {
        const kd_model_spec *m =
            i < o->spec.n_teachers ? &o->spec.teachers[i].model : &o->spec.student;
        if (kd_job_is_ref(m->weights) &&
            strncmp(m->weights + strlen(KD_JOB_REF), id, KD_ID_TEXT - 1) == 0)
            return true;
    }
    return false;
}

/* By a job that is not over. */
static bool is_needed(const kd_daemon *d, const kd_job_record *j)
{
    char id[KD_ID_TEXT];
    kd_id_text(j->row.id, id);
    if (j->saving)
        return true;
    for (const kd_job_record *o = d->jobs; o; o = o->next)
        if (!over(o) && o != j &&
            (o->row.continued == j->row.id || o->row.replayed == j->row.id ||
             (j->row.sweep && (o->row.sweep == j->row.sweep || o->row.id == j->row.sweep)) ||
             starts_from(o, id)))
            return true;
    return false;
}

static bool drop_of_job(kd_daemon *d, kd_job_record *j, enum kd_keep_what what, const char *why)
{
    kd_diag diag = {0};
    bool checkpoints = what == KD_KEEP_CHECKPOINTS;
    uint64_t bytes = j->kept.bytes[what];
    int rc = kd_state_begin(&d->state, &diag);
    if (rc == 0)
        rc = checkpoints ? kd_state_drop_job_checkpoints(&d->state, j->row.id, &diag)
                         : kd_state_drop_events(&d->state, j->row.id, &diag);
    if (rc != 0) {
        if (d->state.depth)
            kd_state_rollback(&d->state);
        kd_warn("%s of a job stay: job=%012llx %s", kd_keep_words[what],
                (unsigned long long)j->row.id, diag.msg);
        return false;
    }
    KD_FAILPOINT("keep.drop");
    kd_watch_event(d, j, "dropped", "", NULL, "%s, %llu bytes, are dropped: %s%s",
                   checkpoints ? "its checkpoints" : "its events and logs",
                   (unsigned long long)bytes, why,
                   checkpoints ? "; it cannot be continued any more" : "");
    if (kd_state_commit(&d->state, &diag) != 0)
        kd_daemon_fatal(d, &diag);
    kd_watch_fed(d, j);
    count_drop(&d->keep, what, bytes);
    j->kept.bytes[what] = 0;
    return true;
}

static int by_end(const void *a, const void *b)
{
    const kd_job_record *p = *(kd_job_record *const *)a, *q = *(kd_job_record *const *)b;
    return p->row.finished_ms < q->row.finished_ms   ? -1
           : p->row.finished_ms > q->row.finished_ms ? 1
                                                     : 0;
}

static void drop_of_jobs(kd_daemon *d, kd_job_record *const *list, size_t n, enum kd_keep_what what)
{
    size_t drops = 0;
    for (size_t i = 0; i < n && drops < MAX_DROPS; i++) {
        char why[96];
        kd_job_record *j = list[i];
        if (j->kept.bytes[what] == 0 ||
            !is_due(&d->keep, what, j->row.finished_ms, d->keep.kept[what].bytes, why) ||
            is_needed(d, j))
            continue;
        if (!drop_of_job(d, j, what, why))
            return; /* the next look tries again */
        drops++;
    }
    if (drops == MAX_DROPS)
        d->keep.jobs_at = 1; /* there may be more */
}

/* Sums up what is newly over, a few at a time; the others are known. */
static void look_at_jobs(kd_daemon *d)
{
    size_t n = 0, sums = 0;
    for (const kd_job_record *j = d->jobs; j; j = j->next)
        n += over(j);
    kd_job_record **list = kd_xalloc((n + 1) * sizeof *list);
    kd_keep_sum kept[KD_KEEP_OF_JOBS] = {0};
    n = 0;
    for (kd_job_record *j = d->jobs; j; j = j->next) {
        kd_diag diag = {0};
        uint64_t *b = j->kept.bytes;
        if (!over(j))
            continue;
        if (!j->kept.known && sums++ < MAX_SUMS) {
            j->kept.known = kd_state_sum_job(&d->state, j->row.id, &b[KD_KEEP_CHECKPOINTS],
                                             &b[KD_KEEP_LOGS], &diag) == 0;
            if (!j->kept.known)
                kd_warn("%s", diag.msg);
        }
        for (int w = 0; w < KD_KEEP_OF_JOBS; w++) {
            kept[w].items += b[w] > 0;
            kept[w].bytes += b[w];
        }
        list[n++] = j;
    }
    memcpy(d->keep.kept, kept, sizeof kept);
    qsort(list, n, sizeof *list, by_end);
    d->keep.jobs_at = sums > MAX_SUMS ? 1 : kd_clock_ms() + JOBS_MS;
    for (int w = 0; w < KD_KEEP_OF_JOBS; w++)
        drop_of_jobs(d, list, n, (enum kd_keep_what)w);
    free(list);
}

/* ---- files that are nobody's yet, or everybody's */

struct found {
    char *path; /* of an upload */
    char bank[KD_DIGEST_HEX];
    uint64_t bytes;
    int64_t used_ms;
};

struct finding {
    kd_keep_sum sum;
    struct found *items;
};

static struct found *one_more(struct finding *f, uint64_t bytes, int64_t used_ms)
{
    struct found *p = realloc(f->items, (f->sum.items + 1) * sizeof *p);
    KD_BUG_ON(!p);
    f->items = p;
    f->sum.bytes += bytes;
    p[f->sum.items] = (struct found){.bytes = bytes, .used_ms = used_ms};
    return &p[f->sum.items++];
}

static void find_upload(void *arg, const char *path, uint64_t bytes, int64_t changed_ms)
{
    one_more(arg, bytes, changed_ms)->path = kd_xstrdup(path);
}

static void find_bank(void *arg, const char *id, uint64_t bytes, int64_t used_ms)
{
    snprintf(one_more(arg, bytes, used_ms)->bank, KD_DIGEST_HEX, "%s", id);
}

static int by_use(const void *a, const void *b)
{
    const struct found *p = a, *q = b;
    return p->used_ms < q->used_ms ? -1 : p->used_ms > q->used_ms ? 1 : 0;
}

static bool drop_found(kd_daemon *d, const struct found *f, const char *why)
{
    kd_diag diag = {0};
    if (f->path && unlink(f->path) != 0) {
        kd_warn("cannot remove an upload: path=%s err=%s", f->path, strerror(errno));
        return false;
    }
    /* One that a job uses stays; it is asked again at the next look. */
    if (!f->path && (kd_bank_is_needed(d, f->bank) || kd_bank_drop(d, f->bank, &diag) != 0)) {
        if (diag.msg[0])
            kd_warn("a logit bank stays: %s", diag.msg);
        return false;
    }
    kd_warn("%s was dropped: %s bytes=%llu %s=%s", f->path ? "an upload" : "a logit bank", why,
            (unsigned long long)f->bytes, f->path ? "path" : "bank", f->path ? f->path : f->bank);
    return true;
}

static void drop_files(kd_daemon *d, struct finding *f, enum kd_keep_what what)
{
    d->keep.kept[what] = f->sum;
    if (f->sum.items)
        qsort(f->items, f->sum.items, sizeof *f->items, by_use);
    for (size_t i = 0; i < f->sum.items; i++) {
        char why[96];
        if (is_due(&d->keep, what, f->items[i].used_ms, d->keep.kept[what].bytes, why) &&
            drop_found(d, &f->items[i], why))
            count_drop(&d->keep, what, f->items[i].bytes);
    }
    for (size_t i = 0; i < f->sum.items; i++)
        free(f->items[i].path);
    free(f->items);
}

static void look_at_disk(kd_daemon *d)
{
    struct finding banks = {0}, uploads = {0};
    d->keep.disk_at = kd_clock_ms() + DISK_MS;
    kd_bank_store_each(d->bank, find_bank, &banks);
    drop_files(d, &banks, KD_KEEP_BANKS);
    kd_blobs_each_waiting(d, find_upload, &uploads);
    drop_files(d, &uploads, KD_KEEP_UPLOADS);
}

void kd_keep_tick(kd_daemon *d, kd_time_ms now)
{
    if (now >= d->keep.jobs_at)
        look_at_jobs(d);
    if (now >= d->keep.disk_at)
        look_at_disk(d);
}

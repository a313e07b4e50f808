#include "hooks_internal.h"

#include "kd/failpoint.h"
#include "kd/log.h"
#include "json/json.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOADED 64     /* rows in memory, of each target */
#define COMMANDS 4    /* that run at once, of different jobs */
#define RETRY_MS 1000 /* after the first failure, then four times as long each time */
#define TELL_MS 60000 /* between two warnings of dropped ones */

const char *const kd_hook_words[KD_HOOK_KINDS] = {"start", "end", "fail", "stall", "epoch"};
const char *const kd_hook_targets[KD_HOOK_TARGETS] = {"command", "url"};

int kd_words_add(kd_words *w, const char *word, kd_diag *diag)
{
    size_t at = w->n ? w->at[w->n - 1] + strlen(kd_words_at(w, w->n - 1)) + 1 : 0,
           len = strlen(word) + 1;
    if (w->n == KD_WORDS || len > KD_WORDS_TEXT - at)
        return kd_fail(diag, -KD_ELIMIT, "more than %d words or %d bytes", KD_WORDS, KD_WORDS_TEXT);
    memcpy(w->text + at, word, len);
    w->at[w->n++] = (uint16_t)at;
    return 0;
}

/* ---- what is told */

static bool wants(const kd_hooks *h, const char *word)
{
    for (int i = 0; i < h->cfg->kinds.n; i++)
        if (strcmp(kd_words_at(&h->cfg->kinds, i), word) == 0)
            return true;
    return h->cfg->kinds.n == 0;
}

static int check_config(const kd_hook_config *cfg, kd_diag *diag)
{
    if (cfg->command.n && kd_words_at(&cfg->command, 0)[0] != '/')
        return kd_fail(diag, -KD_EINVAL,
                       "hook_command wants the whole path of a program, not %.200s",
                       kd_words_at(&cfg->command, 0));
    if (cfg->url && cfg->url[0] && strncmp(cfg->url, "http://", 7) != 0 &&
        strncmp(cfg->url, "https://", 8) != 0)
        return kd_fail(diag, -KD_EINVAL, "hook_url begins with http:// or https://");
    for (int i = 0; i < cfg->kinds.n; i++) {
        int k = 0;
        while (k < KD_HOOK_KINDS && strcmp(kd_words_at(&cfg->kinds, i), kd_hook_words[k]) != 0)
            k++;
        if (k == KD_HOOK_KINDS)
            return kd_fail(diag, -KD_EINVAL,
                           "hook_events are start, end, fail, stall and epoch, not %.32s",
                           kd_words_at(&cfg->kinds, i));
    }
    return 0;
}

int kd_hooks_open(kd_daemon *d, const kd_hook_config *cfg, kd_diag *diag)
{
    int rc = check_config(cfg, diag);
    if (rc != 0)
        return rc;
    kd_hooks *h = kd_xalloc(sizeof *h);
    d->hooks = h;
    h->cfg = cfg;
    h->to[KD_HOOK_COMMAND].wanted = cfg->command.n > 0;
    h->to[KD_HOOK_URL].wanted = cfg->url && cfg->url[0];
    for (int k = 0; k < KD_HOOK_KINDS; k++)
        h->wanted[k] = wants(h, kd_hook_words[k]);
    /* Those for whom nobody is there any more. */
    for (int t = 0; t < KD_HOOK_TARGETS && rc == 0; t++) {
        h->to[t].more = h->to[t].wanted;
        if (!h->to[t].wanted)
            rc = kd_state_drop_hooks(&d->state, t, diag);
    }
    if (rc == 0)
        rc = kd_state_count_hooks(&d->state, &h->counts.waiting, diag);
    if (rc == 0 && h->to[KD_HOOK_URL].wanted)
        rc = kd_hook_web_open(d, &h->web, diag);
    return rc;
}

bool kd_hooks_want(const kd_daemon *d, const kd_job_record *j, const char *event,
                   enum kd_hook_kind *out_kind)
{
    const kd_hooks *h = d->hooks;
    if (!h || (!h->to[KD_HOOK_COMMAND].wanted && !h->to[KD_HOOK_URL].wanted))
        return false;
    if (strcmp(event, "started") == 0)
        *out_kind = KD_HOOK_START;
    else if (strcmp(event, "finished") == 0)
        *out_kind = j->row.state == KD_RUN_FAILED ? KD_HOOK_FAIL : KD_HOOK_END;
    else if (strcmp(event, "epoch") == 0)
        *out_kind = KD_HOOK_EPOCH;
    /* One that waits for its turn does not stall, nor one that was told to. */
    else if (strcmp(event, "waiting") == 0 && j->row.state == KD_RUN_RUNNING && !j->row.paused)
        *out_kind = KD_HOOK_STALL;
    else
        return false;
    return h->wanted[*out_kind];
}

static char *make_body(const kd_job_record *j, uint64_t seq, enum kd_hook_kind kind,
                       const char *text, const char *worker, const char *data)
{
    static const char *const states[] = {"queued", "running", "succeeded", "failed", "cancelled"};
    char id[KD_ID_TEXT], sweep[KD_ID_TEXT] = "", name[40];
    kd_id_text(j->row.id, id);
    if (j->row.sweep)
        kd_id_text(j->row.sweep, sweep);
    snprintf(name, sizeof name, "%s-%llu", id, (unsigned long long)seq);
    json_t *figures = data && data[0] ? json_loads(data, JSON_REJECT_DUPLICATES, NULL) : NULL;
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:s, s:s, s:o}", "id", name,
                          "event", kd_hook_words[kind], "job", id, "name", j->row.name, "owner",
                          j->row.owner, "sweep", sweep, "state", states[j->row.state], "time",
                          kd_json_time(kd_clock_wall_ms()), "text", text, "worker", worker, "data",
                          figures ? figures : json_null());
    char *body = kd_json_dump(o, JSON_COMPACT);
    json_decref(o);
    return body;
}

static void count_dropped(kd_hooks *h, enum kd_hook_target to, const char *why)
{
    kd_time_ms now = kd_clock_ms();
    h->counts.dropped[to]++;
    if (h->told_dropped && now - h->told_dropped < TELL_MS)
        return;
    h->told_dropped = now;
    kd_warn("an event is not told by hook_%s: %s (dropped so far: %llu)", kd_hook_targets[to], why,
            (unsigned long long)h->counts.dropped[to]);
}

int kd_hooks_add(kd_daemon *d, const kd_job_record *j, enum kd_hook_kind kind, const char *text,
                 const char *worker, const char *data, kd_diag *diag)
{
    kd_hooks *h = d->hooks;
    uint64_t seq = 0;
    int rc = kd_state_last_event(&d->state, j->row.id, &seq, diag);
    char *body = rc == 0 ? make_body(j, seq, kind, text, worker, data) : NULL;
    for (int t = 0; t < KD_HOOK_TARGETS && rc == 0; t++) {
        if (!h->to[t].wanted)
            continue;
        if (!body || strlen(body) > KD_HOOK_BODY) {
            count_dropped(h, (enum kd_hook_target)t, "it is too large or no text");
        } else if (h->counts.waiting >= KD_HOOK_WAITING) {
            count_dropped(h, (enum kd_hook_target)t, "too many wait to be told");
        } else {
            rc = kd_state_add_hook(&d->state, t, j->row.id, seq, kd_hook_words[kind], body, diag);
            h->counts.waiting++;
            h->to[t].more = true;
        }
    }
    free(body);
    return rc;
}

/* ---- telling */

struct loading {
    enum kd_hook_target to;
    struct kd_hook_queue *q;
};

static int load_row(void *arg, int64_t n, kd_job_id job, uint64_t seq, const char *kind,
                    const char *body)
{
    const struct loading *l = arg;
    if (l->q->n_calls == LOADED)
        return 1; /* there are more */
    kd_hook_call *c = kd_xalloc(sizeof *c), **end = &l->q->calls;
    *c = (kd_hook_call){.n = n, .to = l->to, .job = job, .seq = seq};
    snprintf(c->kind, sizeof c->kind, "%s", kind);
    c->body = kd_xstrdup(body);
    while (*end)
        end = &(*end)->next;
    *end = c;
    l->q->loaded = n;
    l->q->n_calls++;
    return 0;
}

static void load(kd_daemon *d, enum kd_hook_target to)
{
    struct loading l = {to, &d->hooks->to[to]};
    kd_diag diag = {0};
    int rc = kd_state_each_hook(&d->state, (int)to, l.q->loaded, load_row, &l, &diag);
    if (rc < 0)
        kd_warn("cannot read what hooks are to tell: %s", diag.msg);
    l.q->more = rc == 1;
}

static void forget(kd_daemon *d, kd_hook_call *c)
{
    kd_hooks *h = d->hooks;
    kd_diag diag = {0};
    if (kd_state_drop_hook(&d->state, c->n, &diag) != 0)
        kd_daemon_fatal(d, &diag);
    kd_hook_call **at = &h->to[c->to].calls;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    h->to[c->to].n_calls--;
    h->counts.waiting -= h->counts.waiting > 0;
    free(c->body);
    free(c);
}

void kd_hook_ended(kd_daemon *d, kd_hook_call *c, int rc, const char *why)
{
    kd_hooks *h = d->hooks;
    c->running = false;
    h->to[c->to].n_running--;
    KD_FAILPOINT("hook.told");
    if (rc == 0) {
        h->counts.told[c->to]++;
        forget(d, c);
        return;
    }
    h->counts.failed[c->to]++;
    c->tries++;
    kd_warn("hook_%s failed: %s job=%012llx event=%s try=%d", kd_hook_targets[c->to], why,
            (unsigned long long)c->job, c->kind, c->tries);
    if (c->tries == KD_HOOK_TRIES) {
        count_dropped(h, c->to, "it failed too often");
        forget(d, c);
        return;
    }
    c->due = kd_clock_ms() + ((kd_time_ms)RETRY_MS << 2 * (c->tries - 1));
}

/* Whether an earlier event of the job still is to be told. */
static bool is_behind(const struct kd_hook_queue *q, const kd_hook_call *c)
{
    for (const kd_hook_call *o = q->calls; o != c; o = o->next)
        if (o->job == c->job)
            return true;
    return false;
}

static void tell(kd_daemon *d, enum kd_hook_target to, kd_time_ms now)
{
    static const size_t most[KD_HOOK_TARGETS] = {COMMANDS, 1};
    struct kd_hook_queue *q = &d->hooks->to[to];
    if (q->more && q->n_calls < LOADED)
        load(d, to);
    for (kd_hook_call *c = q->calls, *next; c && q->n_running < most[to]; c = next) {
        kd_diag diag = {0};
        next = c->next;
        if (c->running || c->due > now || is_behind(q, c))
            continue;
        c->running = true;
        q->n_running++;
        KD_FAILPOINT("hook.tell");
        if (to == KD_HOOK_URL)
            kd_hook_web_start(d->hooks->web, c);
        else if (kd_hook_command_start(d, c, &diag) != 0)
            kd_hook_ended(d, c, diag.code, diag.msg);
    }
}

void kd_hooks_tick(kd_daemon *d, kd_time_ms now)
{
    for (int t = 0; d->hooks && d->state.depth == 0 && t < KD_HOOK_TARGETS; t++)
        tell(d, (enum kd_hook_target)t, now);
}

kd_hook_counts kd_hooks_count(const kd_hooks *h)
{
    return h ? h->counts : (kd_hook_counts){0};
}

void kd_hooks_stop(kd_daemon *d)
{
    if (!d->hooks)
        return;
    kd_hook_web_close(d->hooks->web);
    d->hooks->web = NULL;
    kd_hook_command_stop(d);
}

void kd_hooks_free(kd_hooks *h)
{
    for (int t = 0; h && t < KD_HOOK_TARGETS; t++)
        while (h->to[t].calls) {
            kd_hook_call *c = h->to[t].calls;
            h->to[t].calls = c->next;
            free(c->body);
            free(c);
        }
    free(h);
}

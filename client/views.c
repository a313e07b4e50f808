#include "views.h"

#include "format.h"
#include "kd/stats.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "progress.h"

bool kd_state_ended(Distill__V1__JobState state)
{
    return state == DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED ||
           state == DISTILL__V1__JOB_STATE__JOB_STATE_FAILED ||
           state == DISTILL__V1__JOB_STATE__JOB_STATE_CANCELLED;
}

enum kd_color kd_state_color(Distill__V1__JobState state)
{
    switch ((int)state) {
    case DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING:
        return KD_CYAN;
    case DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED:
        return KD_GREEN;
    case DISTILL__V1__JOB_STATE__JOB_STATE_FAILED:
        return KD_RED;
    case DISTILL__V1__JOB_STATE__JOB_STATE_CANCELLED:
        return KD_YELLOW;
    default:
        return KD_PLAIN;
    }
}

const char *kd_summary_word(const Distill__V1__JobSummary *s)
{
    if (!s->paused || kd_state_ended(s->state))
        return kd_state_word(s->state);
    /* A sweep runs as long as its jobs are not over. */
    bool queued = s->state == DISTILL__V1__JOB_STATE__JOB_STATE_QUEUED || s->children > 0;
    return queued ? "paused" : "pausing";
}

enum kd_color kd_summary_color(const Distill__V1__JobSummary *s)
{
    return s->paused && !kd_state_ended(s->state) ? KD_YELLOW : kd_state_color(s->state);
}

int kd_state_exit(Distill__V1__JobState state)
{
    switch ((int)state) {
    case DISTILL__V1__JOB_STATE__JOB_STATE_FAILED:
        return KD_EXIT_JOB_FAILED;
    case DISTILL__V1__JOB_STATE__JOB_STATE_CANCELLED:
        return KD_EXIT_JOB_CANCELLED;
    default:
        return KD_EXIT_OK;
    }
}

static enum kd_color kind_color(const Distill__V1__Event *e)
{
    if (strcmp(e->kind, "quarantine") == 0)
        return KD_RED;
    if (strcmp(e->kind, "recovery") == 0)
        return KD_GREEN;
    if (strcmp(e->kind, "warning") == 0 || strcmp(e->kind, "slow") == 0)
        return KD_YELLOW;
    if (strcmp(e->kind, "finished") == 0)
        return kd_state_color(e->state);
    if (strcmp(e->kind, "stage") == 0 || strcmp(e->kind, "started") == 0)
        return KD_CYAN;
    return KD_PLAIN;
}

void kd_view_event(const kd_cli *cli, const Distill__V1__Event *e, int64_t now_ms, kd_buf *out)
{
    char t[KD_FMT];
    bool on = cli->color_out;
    enum kd_color color = kind_color(e);
    (void)kd_buf_printf(out, "%s%s%s  %s", kd_color_start(KD_DIM, on),
                        kd_fmt_clock(e->time_ms, now_ms, t), kd_color_end(on),
                        kd_color_start(color, on));
    size_t before = out->len;
    kd_text_clean(out, e->kind);
    int pad = 10 - (int)KD_MIN(out->len - before, 10);
    (void)kd_buf_printf(out, "%s%*s  ", on && color != KD_PLAIN ? kd_color_end(on) : "", pad, "");
    if (e->worker[0]) {
        kd_text_clean(out, e->worker);
        (void)kd_buf_str(out, ": ");
    }
    kd_text_clean(out, e->text);
}

void kd_view_progress(const Distill__V1__Progress *p, int width, bool bar, bool utf8, kd_buf *out)
{
    char a[KD_FMT], tail[256] = "", name[80];
    size_t n = 0;
    bool trains = strcmp(p->phase, "preparing") != 0;
    bool steps = p->steps > 0;
    snprintf(name, sizeof name, "%.32s %u/%u", p->stage, p->stage_index + 1,
             KD_MAX(p->stage_count, p->stage_index + 1));
    kd_text_clean(out, name);
    if (strcmp(p->phase, "training") != 0 && p->phase[0]) {
        (void)kd_buf_str(out, "  ");
        kd_text_clean(out, p->phase);
    }
    if (steps && p->epochs > 0)
        (void)kd_buf_printf(out, "  epoch %u/%u", p->epoch, p->epochs);
    if (steps)
        n += (size_t)snprintf(tail + n, sizeof tail - n, "  %llu/%llu", (unsigned long long)p->step,
                              (unsigned long long)p->steps);
    if (steps && trains && p->step > 0)
        n += (size_t)snprintf(tail + n, sizeof tail - n, "  loss %s", kd_fmt_figure(p->loss, a));
    if (steps && trains && p->accuracy >= 0 && p->accuracy <= 1)
        n +=
            (size_t)snprintf(tail + n, sizeof tail - n, "  acc %s", kd_fmt_percent(p->accuracy, a));
    if (p->samples_per_second > 0)
        n += (size_t)snprintf(tail + n, sizeof tail - n, "  %s img/s",
                              p->samples_per_second < 1e15
                                  ? (p->samples_per_second < 10
                                         ? kd_fmt_figure(p->samples_per_second, a)
                                         : kd_fmt_count((uint64_t)(p->samples_per_second + 0.5), a))
                                  : "-");
    if (p->eta_seconds >= 0)
        n += (size_t)snprintf(tail + n, sizeof tail - n, "  ETA %s",
                              kd_fmt_duration(p->eta_seconds, a));
    snprintf(tail + n, sizeof tail - n, "  %u worker%s", p->workers, p->workers == 1 ? "" : "s");
    int room = out->data ? width - kd_text_width(out->data) - kd_text_width(tail) - 2 : 0;
    if (bar && steps && room >= 8) {
        (void)kd_buf_str(out, "  ");
        kd_bar_draw(out, (double)p->step / (double)p->steps, KD_MIN(room, 26), utf8);
    }
    (void)kd_buf_str(out, tail);
    if (width > 0 && out->data) {
        size_t cut = kd_text_cut(out->data, width);
        if (cut < out->len) {
            out->len = cut;
            out->data[cut] = '\0';
        }
    }
}

int kd_view_best(const Distill__V1__StageRecord *s)
{
    int best = -1;
    /* The coordinator marks each record that was the best so far: the last mark counts. */
    for (size_t i = 0; i < s->n_epochs; i++)
        if (s->epochs[i]->best && s->epochs[i]->val_samples > 0 &&
            s->epochs[i]->val_correct <= s->epochs[i]->val_samples)
            best = (int)i;
    if (best >= 0)
        return best;
    for (size_t i = 0; i < s->n_epochs; i++) {
        const Distill__V1__EpochRecord *e = s->epochs[i];
        if (e->val_samples == 0 || e->val_correct > e->val_samples)
            continue;
        /* Cross-multiplied: equal fractions must compare equal. */
        if (best < 0 || (uint64_t)e->val_correct * s->epochs[best]->val_samples >
                            (uint64_t)s->epochs[best]->val_correct * e->val_samples)
            best = (int)i;
    }
    return best;
}

static double real_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* What a step of `compress` made; its stages are called so, too. */
static bool is_small(const char *name)
{
    return strncmp(name, "compress", 8) == 0;
}

static const char *count_of(const json_t *o, const char *key, char out[KD_FMT])
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return "-";
    return kd_fmt_count((uint64_t)json_integer_value(v), out);
}

static void result_row(kd_table *t, const char *role, const json_t *o)
{
    char a[KD_FMT], b[KD_FMT];
    const char *model = text_of(o, text_of(o, "step")[0] ? "step" : "model");
    const json_t *interval = json_object_get(o, "interval");
    double lo = json_number_value(json_array_get(interval, 0));
    double hi = json_number_value(json_array_get(interval, 1));
    kd_table_add(t, KD_BOLD, "%s", role);
    if (is_small(text_of(o, "of")))
        kd_table_add(t, KD_PLAIN, "%s, of %s", model, text_of(o, "of"));
    else
        kd_table_add(t, KD_PLAIN, "%s", model);
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_percent(real_of(o, "accuracy"), a));
    if (json_array_size(interval) == 2 && lo >= 0 && hi <= 1)
        kd_table_add(t, KD_PLAIN, "%.1f - %.1f %%", lo * 100, hi * 100);
    else
        kd_table_add(t, KD_PLAIN, "-");
    if (json_is_integer(json_object_get(o, "correct")))
        kd_table_add(t, KD_PLAIN, "%s/%s", count_of(o, "correct", a), count_of(o, "samples", b));
    else
        kd_table_add(t, KD_PLAIN, "-");
    kd_table_add(t, KD_PLAIN, "%s", count_of(o, "parameters", a));
    kd_table_add(t, KD_PLAIN, "%s", count_of(o, "bytes", a));
    double ms = real_of(o, "ms_per_image");
    if (isfinite(ms) && ms > 0)
        kd_table_add(t, KD_PLAIN, "%.*f", ms < 10 ? 2 : 1, ms);
    else
        kd_table_add(t, KD_PLAIN, "-");
}

/* Of which pictures two networks have right; the test split's where there is one. */
static bool pair_of(const json_t *result, const char *a, const char *b, kd_paired *out)
{
    bool found = false, tested = false;
    size_t i;
    const json_t *p;
    json_array_foreach(json_object_get(result, "pairs"), i, p)
    {
        json_int_t both, only_a, only_b, neither;
        const bool test = strcmp(text_of(p, "split"), "test") == 0;
        if (strcmp(text_of(p, "a"), a) != 0 || strcmp(text_of(p, "b"), b) != 0 || tested ||
            json_unpack((json_t *)(uintptr_t)p, "{s:I, s:I, s:I, s:I}", "both", &both, "only_a",
                        &only_a, "only_b", &only_b, "neither", &neither) != 0 ||
            both < 0 || only_a < 0 || only_b < 0 || neither < 0)
            continue;
        *out = (kd_paired){(uint64_t)both, (uint64_t)only_a, (uint64_t)only_b, (uint64_t)neither};
        found = true;
        tested = test;
    }
    return found;
}

/* Beside the student that it was made of. */
static void print_small(const kd_cli *cli, const json_t *result, const char *name, const json_t *o)
{
    const json_t *student = json_object_get(result, "student");
    kd_paired counts;
    kd_buf line;
    double difference, lo, hi;
    kd_buf_init(&line, 4096);
    kd_text_clean(&line, name);
    if (is_small(text_of(o, "of"))) {
        (void)kd_buf_str(&line, " (of ");
        kd_text_clean(&line, text_of(o, "of"));
        (void)kd_buf_str(&line, ")");
    }
    if (pair_of(result, name, "student", &counts)) {
        kd_paired_interval(&counts, &difference, &lo, &hi);
        (void)kd_buf_printf(&line,
                            ": %+.1f points from the student (95 %%: %+.1f to %+.1f, paired)",
                            difference * 100, lo * 100, hi * 100);
    }
    if (real_of(student, "bytes") > 0)
        (void)kd_buf_printf(&line, ", %.0f %% of its bytes",
                            100 * real_of(o, "bytes") / real_of(student, "bytes"));
    /* The same layers in the same numbers take the same time, whatever was measured. */
    if (!json_is_true(json_object_get(o, "same_work"))) {
        const double one = real_of(student, "ms_per_image") / real_of(o, "ms_per_image"),
                     many = real_of(student, "ms_per_image_64") / real_of(o, "ms_per_image_64");
        if (isfinite(one))
            (void)kd_buf_printf(&line, ", %.1f times as fast", one);
        if (isfinite(one) && isfinite(many))
            (void)kd_buf_printf(&line, " (%.1f in batches of 64)", many);
    }
    (void)kd_buf_str(&line, "\n");
    kd_out_text(cli, line.data ? line.data : "");
    kd_buf_clear(&line);
}

bool kd_view_result(const kd_cli *cli, const char *result_json)
{
    json_t *r = json_loads(result_json, 0, NULL);
    if (!json_is_object(r)) {
        json_decref(r);
        return false;
    }
    static const char *const roles[] = {"teacher", "student", "scratch"};
    const char *shown[] = {"teacher", "student", "from scratch"};
    kd_table t;
    kd_table_init(&t,
                  "NETWORK|MODEL|ACCURACY>|95 % INTERVAL>|CORRECT>|PARAMETERS>|BYTES>|MS/IMAGE>");
    for (size_t i = 0; i < KD_COUNT(roles); i++) {
        const json_t *o = json_object_get(r, roles[i]);
        if (json_is_object(o))
            result_row(&t, shown[i], o);
    }
    const char *name;
    json_t *small;
    json_object_foreach(r, name, small)
    {
        if (is_small(name) && json_is_object(small))
            result_row(&t, name, small);
    }
    kd_table_print(cli, &t, 0);
    json_object_foreach(r, name, small)
    {
        if (is_small(name) && json_is_object(small))
            print_small(cli, r, name, small);
    }
    double student = real_of(json_object_get(r, "student"), "accuracy");
    double teacher = real_of(json_object_get(r, "teacher"), "accuracy");
    double scratch = real_of(json_object_get(r, "scratch"), "accuracy");
    kd_buf line;
    char a[KD_FMT];
    kd_buf_init(&line, 8192);
    if (isfinite(student) && isfinite(teacher))
        (void)kd_buf_printf(&line, "the student is %+.1f points from its teacher",
                            (student - teacher) * 100);
    if (isfinite(student) && isfinite(teacher) && isfinite(scratch))
        (void)kd_buf_printf(&line, ", %+.1f from its from-scratch twin", (student - scratch) * 100);
    if (line.len > 0)
        (void)kd_buf_str(&line, "\n");
    (void)kd_buf_str(&line, "student digest ");
    kd_text_clean(&line, text_of(r, "digest")[0] ? text_of(r, "digest") : "-");
    (void)kd_buf_printf(&line, "; %s training images seen", count_of(r, "images", a));
    (void)kd_buf_printf(&line, " in %s", kd_fmt_duration(real_of(r, "seconds"), a));
    (void)kd_buf_str(&line, "\n");
    kd_out_text(cli, line.data ? line.data : "");
    kd_buf_clear(&line);
    json_decref(r);
    return true;
}

int kd_view_end(const kd_cli *cli, const Distill__V1__JobDetail *d, bool hints)
{
    const Distill__V1__JobSummary *s = d->summary;
    int rc = kd_state_exit(s->state);
    if (rc == KD_EXIT_JOB_FAILED) {
        kd_error(cli, "job %s failed: %s", s->job,
                 s->reason[0] ? s->reason : "no reason was given");
        kd_hint(cli, "`distill logs %s%s` may tell more", s->job, cli->server_flag);
    } else if (rc == KD_EXIT_JOB_CANCELLED) {
        kd_say(cli, "job %s was cancelled%s%s", s->job, s->reason[0] ? ": " : "", s->reason);
    } else {
        if (!d->result[0] || !kd_view_result(cli, d->result))
            kd_say(cli, "job %s succeeded, but the coordinator has no result of it", s->job);
        if (hints)
            kd_say(cli, "get the files: distill fetch %s%s", s->job, cli->server_flag);
    }
    return rc;
}

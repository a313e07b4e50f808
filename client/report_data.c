#include "report_data.h"

#include "format.h"
#include "json.h"
#include "kd/stats.h"
#include "views.h"
#include "wire/wire.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_COUNT 1e12 /* samples, bytes, parameters beyond this are not believed */

/* ---- reading JSON that may be anything */

static const char *text_at(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static double real_at(const json_t *o, const char *key, double lo, double hi)
{
    const json_t *v = json_object_get(o, key);
    double d = json_is_number(v) ? json_number_value(v) : NAN;
    return d >= lo && d <= hi ? d : NAN;
}

static bool count_of(const json_t *v, uint64_t *out)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0 ||
        (double)json_integer_value(v) > MAX_COUNT)
        return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

static bool count_at(const json_t *o, const char *key, uint64_t *out)
{
    return count_of(json_object_get(o, key), out);
}

static kd_score score_of(uint64_t correct, uint64_t samples)
{
    kd_score s = {.loss = NAN, .agreement = NAN, .kl = NAN, .accuracy = NAN, .lo = NAN, .hi = NAN};
    if (samples == 0 || correct > samples)
        return s;
    s.there = true;
    s.correct = correct;
    s.samples = samples;
    s.accuracy = (double)correct / (double)samples;
    kd_wilson(correct, samples, &s.lo, &s.hi);
    return s;
}

static kd_score score_at(const json_t *o)
{
    uint64_t correct = 0, samples = 0;
    if (!count_at(o, "correct", &correct) || !count_at(o, "samples", &samples))
        samples = 0;
    kd_score s = score_of(correct, samples);
    s.loss = real_at(o, "loss", -1e30, 1e30);
    s.agreement = real_at(o, "agreement", 0, 1);
    s.kl = real_at(o, "kl", 0, 1e30);
    return s;
}

/* ---- networks */

const char *kd_stage_network(const char *stage)
{
    static const char *const names[][2] = {{"teacher", "teacher"},   {"teacher2", "teacher2"},
                                           {"teacher3", "teacher3"}, {"teacher4", "teacher4"},
                                           {"distill", "student"},   {"scratch", "scratch"}};
    for (size_t i = 0; i < KD_COUNT(names); i++)
        if (strcmp(stage, names[i][0]) == 0)
            return names[i][1];
    return NULL;
}

const char *kd_network_title(const char *name)
{
    static const char *const titles[][2] = {{"scratch", "from-scratch twin"},
                                            {"teacher.best", "teacher, best"},
                                            {"scratch.best", "from-scratch twin, best"},
                                            {"student.best", "student, best"}};
    for (size_t i = 0; i < KD_COUNT(titles); i++)
        if (strcmp(name, titles[i][0]) == 0)
            return titles[i][1];
    return name;
}

const kd_network *kd_report_network(const kd_report_job *j, const char *name)
{
    for (int i = 0; i < j->n_networks; i++)
        if (strcmp(j->networks[i].name, name) == 0)
            return &j->networks[i];
    return NULL;
}

bool kd_report_tested(const kd_report_job *j)
{
    bool test = false;
    for (int i = 0; i < j->n_networks; i++) {
        const kd_network *n = &j->networks[i];
        bool has = n->test.there || n->test_best.there;
        if (n->val.there && !has)
            return false;
        test = test || has;
    }
    return test;
}

const kd_score *kd_report_score(const kd_report_job *j, const kd_network *n)
{
    return !kd_report_tested(j) ? &n->val : n->test_best.there ? &n->test_best : &n->test;
}

static kd_score epoch_score(const Distill__V1__EpochRecord *e)
{
    kd_score s = score_of(e->val_correct, e->val_samples);
    if (!s.there)
        return s;
    s.loss = e->val_loss;
    if (kd_epoch_taught(e)) {
        s.agreement = (double)e->val_agree / e->val_samples;
        s.kl = e->val_kl;
    }
    return s;
}

/* From the stages, so that a job that has not ended has figures too. */
static void networks_of_stages(kd_report_job *j)
{
    for (size_t i = 0; i < j->detail->n_stages && j->n_networks < KD_REPORT_NETWORKS; i++) {
        const Distill__V1__StageRecord *s = j->detail->stages[i];
        const char *name = kd_stage_network(s->name);
        if (!name)
            continue;
        kd_network *n = &j->networks[j->n_networks++];
        *n = (kd_network){.model = "",
                          .digest = s->digest,
                          .best_digest = s->best_digest,
                          .best_epoch = -1,
                          .parameters = s->parameters ? (double)s->parameters : NAN,
                          .bytes = NAN,
                          .ms_per_image = NAN,
                          .seconds = s->seconds > 0 ? s->seconds : NAN,
                          .stage = s};
        snprintf(n->name, sizeof n->name, "%s", name);
        n->val = n->best = n->test = n->test_best = score_of(0, 0);
        int best = kd_view_best(s);
        if (s->n_epochs > 0)
            n->val = epoch_score(s->epochs[s->n_epochs - 1]);
        if (best >= 0) {
            n->best = epoch_score(s->epochs[best]);
            n->best_epoch = s->epochs[best]->epoch;
        }
    }
}

static void networks_of_result(kd_report_job *j)
{
    static const char *const names[] = {
        "teacher",   "teacher2",  "teacher3",  "teacher4",  "student",   "scratch",   "compress",
        "compress2", "compress3", "compress4", "compress5", "compress6", "compress7", "compress8"};
    for (size_t i = 0; i < KD_COUNT(names); i++) {
        const json_t *o = json_object_get(j->result, names[i]);
        kd_network *n = (kd_network *)kd_report_network(j, names[i]);
        if (!json_is_object(o) || (!n && j->n_networks == KD_REPORT_NETWORKS))
            continue;
        if (!n) {
            n = &j->networks[j->n_networks++];
            *n = (kd_network){.model = "", .digest = "", .best_digest = "", .best_epoch = -1};
            snprintf(n->name, sizeof n->name, "%s", names[i]);
            n->best = score_of(0, 0);
        }
        n->model = text_at(o, text_at(o, "step")[0] ? "step" : "model");
        n->digest = text_at(o, "digest")[0] ? text_at(o, "digest") : n->digest;
        n->best_digest = text_at(o, "best_digest")[0] ? text_at(o, "best_digest") : n->best_digest;
        kd_score val = score_at(o);
        if (val.there) {
            /* What result.json leaves out is known from the epochs. */
            val.loss = isfinite(val.loss) ? val.loss : n->val.loss;
            val.agreement = isfinite(val.agreement) ? val.agreement : n->val.agreement;
            val.kl = isfinite(val.kl) ? val.kl : n->val.kl;
            n->val = val;
        }
        n->test = score_at(json_object_get(o, "test"));
        n->test_best = score_at(json_object_get(o, "test_best"));
        n->parameters = real_at(o, "parameters", 0, MAX_COUNT);
        n->bytes = real_at(o, "bytes", 0, MAX_COUNT);
        n->ms_per_image = real_at(o, "ms_per_image", 1e-9, 1e9);
        n->seconds = real_at(o, "seconds", 0, 1e12);
    }
}

/* ---- pairs, account, evaluation */

static void read_pairs(kd_report_job *j, const json_t *list)
{
    size_t i;
    const json_t *o;
    json_array_foreach(list, i, o)
    {
        kd_pair p = {.a = text_at(o, "a"), .b = text_at(o, "b"), .split = text_at(o, "split")};
        bool counted =
            count_at(o, "both", &p.counts.both) && count_at(o, "only_a", &p.counts.only_a) &&
            count_at(o, "only_b", &p.counts.only_b) && count_at(o, "neither", &p.counts.neither);
        if (!counted || !p.a[0] || !p.b[0] || j->n_pairs == KD_REPORT_PAIRS)
            continue;
        /* The twin stands behind the student, whichever way they come. */
        if (strncmp(p.a, "scratch", 7) == 0 && strncmp(p.b, "student", 7) == 0)
            p = (kd_pair){
                .a = p.b,
                .b = p.a,
                .split = p.split,
                .counts = {p.counts.both, p.counts.only_b, p.counts.only_a, p.counts.neither}};
        kd_paired_interval(&p.counts, &p.difference, &p.lo, &p.hi);
        j->pairs[j->n_pairs++] = p;
    }
}

const kd_pair *kd_report_twin_pair(const kd_report_job *j)
{
    static const char *const wanted[][3] = {{"test", "student.best", "scratch.best"},
                                            {"test", "student", "scratch"},
                                            {"val", "student", "scratch"}};
    for (size_t w = 0; w < KD_COUNT(wanted); w++)
        for (int i = 0; i < j->n_pairs; i++) {
            const kd_pair *p = &j->pairs[i];
            if (strcmp(p->split, wanted[w][0]) == 0 && strcmp(p->a, wanted[w][1]) == 0 &&
                strcmp(p->b, wanted[w][2]) == 0)
                return p;
        }
    return NULL;
}

static kd_bank_account bank_at(const json_t *o)
{
    kd_bank_account b = {.there = json_is_object(o),
                         .asked = real_at(o, "asked", 0, MAX_COUNT * 1e3),
                         .served = real_at(o, "served", 0, MAX_COUNT * 1e3),
                         .computed = real_at(o, "computed", 0, MAX_COUNT * 1e3),
                         .seconds = real_at(o, "seconds", 0, 1e12),
                         .seconds_saved = real_at(o, "seconds_saved", -1e12, 1e12)};
    return b;
}

static kd_bank_account bank_of_stages(const Distill__V1__JobDetail *d)
{
    kd_bank_account b = {.seconds = 0};
    for (size_t i = 0; i < d->n_stages; i++) {
        b.computed += (double)d->stages[i]->teacher_forwards;
        b.served += (double)d->stages[i]->bank_hits;
        b.seconds += d->stages[i]->teacher_seconds;
    }
    b.asked = b.computed + b.served;
    b.there = b.asked > 0;
    if (!(b.seconds > 0))
        b.seconds = NAN;
    b.seconds_saved = b.computed > 0 ? b.served * b.seconds / b.computed : NAN;
    return b;
}

static void read_classes(kd_report_job *j, const json_t *list)
{
    size_t n = KD_MIN(json_array_size(list), (size_t)KD_REPORT_CLASSES);
    if (n == 0 || j->n_classes > 0)
        return;
    j->classes = calloc(n, sizeof *j->classes);
    if (!j->classes)
        return;
    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(list, i));
        j->classes[i] = s ? s : "?";
    }
    j->n_classes = (int)n;
}

/* A class as its name or its number. */
static const char *class_of(const kd_report_job *j, const json_t *v)
{
    if (json_is_string(v))
        return json_string_value(v);
    json_int_t i = json_is_integer(v) ? json_integer_value(v) : -1;
    return i >= 0 && i < j->n_classes ? j->classes[i] : "";
}

static bool read_per_class(kd_eval *e, const json_t *list)
{
    size_t n = json_array_size(list);
    if (n == 0 || n > KD_REPORT_CLASSES)
        return false;
    e->correct = calloc(n, sizeof *e->correct);
    e->samples = calloc(n, sizeof *e->samples);
    for (size_t i = 0; e->correct && e->samples && i < n; i++) {
        const json_t *o = json_array_get(list, i);
        if (!count_at(o, "correct", &e->correct[i]) || !count_at(o, "samples", &e->samples[i]) ||
            e->correct[i] > e->samples[i])
            e->correct[i] = e->samples[i] = 0;
    }
    e->n_classes = (int)n;
    return e->correct && e->samples;
}

static bool read_confusion(kd_eval *e, const json_t *rows)
{
    size_t n = json_array_size(rows);
    if (n == 0 || n > KD_REPORT_CONFUSION || n != (size_t)e->n_classes)
        return false;
    e->confusion = calloc(n * n, sizeof *e->confusion);
    for (size_t r = 0; e->confusion && r < n; r++) {
        const json_t *row = json_array_get(rows, r);
        if (json_array_size(row) != n)
            return false;
        for (size_t c = 0; c < n; c++)
            if (!count_of(json_array_get(row, c), &e->confusion[r * n + c]))
                return false;
    }
    return e->confusion != NULL;
}

static void eval_clear(kd_eval *e)
{
    free(e->correct);
    free(e->samples);
    free(e->confusion);
}

static bool equal_counts(const uint64_t *a, const uint64_t *b, size_t n)
{
    return a && b ? memcmp(a, b, n * sizeof *a) == 0 : a == b;
}

/* "student.best" that is no other than "student": the last version was the best. */
static bool is_repeat(const kd_report_job *j, const kd_eval *e)
{
    const char *dot = strrchr(e->network, '.');
    for (int i = 0; dot && i < j->n_evals; i++) {
        const kd_eval *o = &j->evals[i];
        size_t n = (size_t)e->n_classes, base = (size_t)(dot - e->network);
        if (o == e || strlen(o->network) != base || strncmp(o->network, e->network, base) != 0 ||
            strcmp(o->split, e->split) != 0 || o->n_classes != e->n_classes)
            continue;
        bool loss = o->score.loss == e->score.loss || !(o->score.loss == o->score.loss);
        return loss && o->score.correct == e->score.correct &&
               equal_counts(o->correct, e->correct, n) &&
               equal_counts(o->confusion, e->confusion, n * n);
    }
    return false;
}

static void read_networks(kd_report_job *j, const json_t *list)
{
    size_t i;
    const json_t *o;
    json_array_foreach(list, i, o)
    {
        if (j->n_evals == KD_REPORT_EVALS || !text_at(o, "name")[0])
            continue;
        kd_eval *e = &j->evals[j->n_evals++];
        *e = (kd_eval){
            .network = text_at(o, "name"), .split = text_at(o, "split"), .score = score_at(o)};
        if (!read_per_class(e, json_object_get(o, "per_class"))) {
            free(e->correct);
            free(e->samples);
            e->correct = e->samples = NULL;
            e->n_classes = KD_MIN(j->n_classes, KD_REPORT_CONFUSION);
        }
        if (!read_confusion(e, json_object_get(o, "confusion"))) {
            free(e->confusion);
            e->confusion = NULL;
        }
        if (is_repeat(j, e)) {
            eval_clear(e);
            j->n_evals--;
        }
    }
}

/* Only what is one whole picture in base64 may stand in an attribute of the page. */
static bool good_picture(const char *s)
{
    static const char *const heads[] = {"data:image/jpeg;base64,", "data:image/png;base64,"};
    for (size_t i = 0; i < KD_COUNT(heads); i++) {
        size_t head = strlen(heads[i]);
        if (strncmp(s, heads[i], head) != 0)
            continue;
        size_t n = strspn(s + head, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                    "0123456789+/");
        size_t pad = strspn(s + head + n, "=");
        return n > 0 && pad <= 2 && !s[head + n + pad] && head + n + pad <= KD_REPORT_PICTURE;
    }
    return false;
}

static void read_sample(kd_report_job *j, const json_t *o)
{
    kd_sample *s = &j->samples[j->n_samples++];
    const json_t *by = json_object_get(o, "guesses"), *guesses;
    const char *picture = text_at(o, "picture"), *network;
    *s = (kd_sample){.name = text_at(o, "name"),
                     .label = class_of(j, json_object_get(o, "label")),
                     .picture = good_picture(picture) ? picture : ""};
    if (picture[0] && !s->picture[0])
        j->dropped_pictures++;
    json_object_foreach((json_t *)by, network, guesses)
    {
        if (s->n_by == KD_REPORT_NETWORKS)
            break;
        int k = s->n_by++;
        s->by[k].network = network;
        for (size_t i = 0; i < json_array_size(guesses) && s->by[k].n < KD_REPORT_GUESSES; i++) {
            const json_t *g = json_array_get(guesses, i), *p = json_array_get(g, 1);
            double v = json_is_number(p) ? json_number_value(p) : NAN;
            s->by[k].guesses[s->by[k].n++] =
                (kd_guess){.name = class_of(j, json_array_get(g, 0)),
                           .probability = v >= 0 && v <= 1.0001 ? v : NAN};
        }
    }
}

int kd_report_evaluation(kd_report_job *j, const char *text, size_t len, kd_diag *diag)
{
    json_error_t error;
    json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(o) || j->evaluation) {
        json_decref(o);
        return kd_fail(diag, -KD_EDATA, "evaluation.json is no JSON object: line %d: %.160s",
                       error.line, error.text);
    }
    j->evaluation = o;
    read_classes(j, json_object_get(o, "classes"));
    read_networks(j, json_object_get(o, "networks"));
    if (j->n_pairs == 0)
        read_pairs(j, json_object_get(o, "pairs"));
    const json_t *samples = json_object_get(o, "samples");
    for (size_t i = 0; i < json_array_size(samples) && j->n_samples < KD_REPORT_SAMPLES; i++)
        read_sample(j, json_array_get(samples, i));
    return 0;
}

/* ---- labels of a sweep's children */

static bool is_key(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    return n > 0 && n < sizeof((kd_sweep_value *)0)->key && s[n] == '=';
}

int kd_label_values(const char *label, kd_sweep_value values[KD_REPORT_VALUES])
{
    int n = 0;
    while (n < KD_REPORT_VALUES && is_key(label)) {
        kd_sweep_value *v = &values[n++];
        const char *equals = strchr(label, '='), *end = equals + 1;
        /* A value may hold blanks; the next key ends it. */
        while (*end && !(*end == ' ' && is_key(end + 1)))
            end++;
        snprintf(v->key, sizeof v->key, "%.*s", (int)(equals - label), label);
        snprintf(v->text, sizeof v->text, "%.*s",
                 (int)KD_MIN(end - equals - 1, (ptrdiff_t)sizeof v->text), equals + 1);
        char *rest = NULL;
        v->number = strtod(v->text, &rest);
        if (rest == v->text || *rest || !isfinite(v->number))
            v->number = NAN;
        label = *end ? end + 1 : end;
    }
    return n;
}

/* ---- the whole */

static json_t *object_of(const char *text)
{
    json_t *o = kd_json_parse(text);
    if (json_is_object(o))
        return o;
    json_decref(o);
    return NULL;
}

int kd_report_add_job(kd_report *r, Distill__V1__JobDetail *detail, int sweep,
                      kd_report_job **out_job, kd_diag *diag)
{
    kd_report_job *j = r->n_jobs < KD_REPORT_JOBS ? calloc(1, sizeof *j) : NULL;
    if (j && r->n_jobs == r->cap_jobs) {
        size_t cap = r->cap_jobs ? r->cap_jobs * 2 : 16;
        kd_report_job **jobs = realloc(r->jobs, cap * sizeof(kd_report_job *));
        if (jobs) {
            r->jobs = jobs;
            r->cap_jobs = cap;
        }
    }
    if (!j || r->n_jobs == r->cap_jobs) {
        kd_wire_free(&detail->base);
        free(j);
        return r->n_jobs >= KD_REPORT_JOBS
                   ? kd_fail(diag, -KD_ELIMIT, "a report takes at most %d jobs", KD_REPORT_JOBS)
                   : kd_fail(diag, -KD_ENOMEM, "no memory for the report");
    }
    r->jobs[r->n_jobs++] = j;
    j->detail = detail;
    j->sweep = sweep;
    j->resolved = object_of(detail->resolved);
    j->result = object_of(detail->result);
    networks_of_stages(j);
    networks_of_result(j);
    read_pairs(j, json_object_get(j->result, "pairs"));
    read_classes(j, json_object_get(json_object_get(j->result, "data"), "classes"));
    j->bank = bank_at(json_object_get(j->result, "bank"));
    if (!j->bank.there)
        j->bank = bank_of_stages(detail);
    j->n_values = kd_label_values(detail->summary->label, j->values);
    if (out_job)
        *out_job = j;
    return 0;
}

int kd_report_add_sweep(kd_report *r, Distill__V1__JobDetail *detail, int *out_sweep, kd_diag *diag)
{
    kd_report_sweep *sweeps = realloc(r->sweeps, (r->n_sweeps + 1) * sizeof *sweeps);
    if (!sweeps) {
        kd_wire_free(&detail->base);
        return kd_fail(diag, -KD_ENOMEM, "no memory for the report");
    }
    r->sweeps = sweeps;
    kd_report_sweep *s = &sweeps[r->n_sweeps];
    *s = (kd_report_sweep){.detail = detail, .result = object_of(detail->result)};
    s->bank = bank_at(json_object_get(s->result, "bank"));
    if (out_sweep)
        *out_sweep = (int)r->n_sweeps;
    r->n_sweeps++;
    return 0;
}

static void add_known(double *sum, double v)
{
    if (isfinite(v))
        *sum += v;
}

static void sum_banks(const kd_report *r, int sweep, kd_bank_account *out)
{
    *out = (kd_bank_account){.there = false};
    for (size_t i = 0; i < r->n_jobs; i++) {
        const kd_bank_account *b = &r->jobs[i]->bank;
        if (r->jobs[i]->sweep != sweep || !b->there)
            continue;
        out->there = true;
        add_known(&out->asked, b->asked);
        add_known(&out->served, b->served);
        add_known(&out->computed, b->computed);
        add_known(&out->seconds, b->seconds);
        add_known(&out->seconds_saved, b->seconds_saved);
    }
}

enum figure { FIGURE_VAL, FIGURE_TEST, FIGURE_DIFFERENCE };

/* NAN = unknown. */
static double figure_of(const kd_report_job *j, enum figure what)
{
    const kd_network *student = kd_report_network(j, "student");
    const kd_network *twin = kd_report_network(j, "scratch");
    bool test = kd_report_tested(j);
    if (!student || (what == FIGURE_TEST && !test))
        return NAN;
    if (what == FIGURE_VAL)
        return test && student->best.there ? student->best.accuracy : student->val.accuracy;
    double accuracy = kd_report_score(j, student)->accuracy;
    if (what == FIGURE_TEST)
        return accuracy;
    return twin ? accuracy - kd_report_score(j, twin)->accuracy : NAN;
}

void kd_report_finish(kd_report *r)
{
    for (size_t s = 0; s < r->n_sweeps; s++) {
        const char *named = text_at(r->sweeps[s].result, "best");
        kd_report_job *best = NULL;
        double accuracy = -1;
        for (size_t i = 0; i < r->n_jobs; i++) {
            kd_report_job *j = r->jobs[i];
            if (j->sweep != (int)s)
                continue;
            double a = figure_of(j, FIGURE_VAL);
            if (named[0] ? strcmp(named, j->detail->summary->job) == 0 : a > accuracy) {
                best = j;
                accuracy = a;
            }
        }
        if (best)
            best->best = true;
        if (!r->sweeps[s].bank.there)
            sum_banks(r, (int)s, &r->sweeps[s].bank);
    }
}

static void job_free(kd_report_job *j)
{
    for (int i = 0; i < j->n_evals; i++)
        eval_clear(&j->evals[i]);
    free(j->classes);
    json_decref(j->resolved);
    json_decref(j->result);
    json_decref(j->evaluation);
    json_decref(j->log);
    kd_wire_free(&j->detail->base);
    free(j);
}

void kd_report_clear(kd_report *r)
{
    for (size_t i = 0; i < r->n_jobs; i++)
        job_free(r->jobs[i]);
    free(r->jobs);
    for (size_t i = 0; i < r->n_sweeps; i++) {
        json_decref(r->sweeps[i].result);
        kd_wire_free(&r->sweeps[i].detail->base);
    }
    free(r->sweeps);
    *r = (kd_report){0};
}

/* ---- groups over seeds */

/* The label without its seed, which stands last. */
static void group_label(const kd_report_job *j, char out[KD_REPORT_LABEL])
{
    snprintf(out, KD_REPORT_LABEL, "%s", j->detail->summary->label);
    char *seed = strncmp(out, "seed=", 5) == 0 ? out : NULL;
    for (char *at = out; (at = strstr(at, " seed=")); at++)
        seed = at;
    if (seed && !strchr(seed + 1, ' '))
        *seed = '\0';
}

static struct kd_mean mean_of(const kd_report *r, int sweep, const char *label, enum figure what)
{
    double values[KD_REPORT_JOBS];
    char other[KD_REPORT_LABEL];
    struct kd_mean m = {0};
    for (size_t i = 0; i < r->n_jobs; i++) {
        if (r->jobs[i]->sweep != sweep)
            continue;
        group_label(r->jobs[i], other);
        double v = figure_of(r->jobs[i], what);
        if (isfinite(v) && strcmp(label, other) == 0)
            values[m.n++] = v;
    }
    kd_mean_interval(values, m.n, &m.mean, &m.lo, &m.hi);
    return m;
}

kd_group *kd_report_groups(const kd_report *r, int sweep, size_t *out_n)
{
    size_t n = 0;
    kd_group *groups = r->n_jobs ? calloc(r->n_jobs, sizeof *groups) : NULL;
    for (size_t i = 0; groups && i < r->n_jobs; i++) {
        const kd_report_job *j = r->jobs[i];
        char label[KD_REPORT_LABEL];
        if (j->sweep != sweep)
            continue;
        group_label(j, label);
        size_t g = 0;
        while (g < n && strcmp(groups[g].label, label) != 0)
            g++;
        if (g == n) {
            groups[n++] = (kd_group){.first = j};
            memcpy(groups[g].label, label, sizeof label);
        }
        groups[g].n++;
        groups[g].has_best = groups[g].has_best || j->best;
    }
    for (size_t g = 0; g < n; g++) {
        groups[g].val = mean_of(r, sweep, groups[g].label, FIGURE_VAL);
        groups[g].test = mean_of(r, sweep, groups[g].label, FIGURE_TEST);
        groups[g].difference = mean_of(r, sweep, groups[g].label, FIGURE_DIFFERENCE);
        const kd_pair *p = groups[g].n == 1 ? kd_report_twin_pair(groups[g].first) : NULL;
        if (p)
            groups[g].difference = (struct kd_mean){1, p->difference, p->lo, p->hi};
    }
    *out_n = n;
    if (n == 0) {
        free(groups);
        groups = NULL;
    }
    return groups;
}

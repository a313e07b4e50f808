/* The evaluate stage: every finished network over the whole of each held-out split, and pictures
 * with guesses for people to look at. docs/jobs.md shows the file. */
#include "runner_internal.h"

#include "distill/figures.h"
#include "kd/log.h"
#include "kd/rng.h"
#include "kd/text.h"
#include "models/onnx.h"
#include "wire/limits.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SHOWN 24          /* pictures for people */
#define SHOWN_SIDE 128    /* their pixels a side, at most */
#define GUESSES 3         /* of each network */
#define MATRIX_CLASSES 64 /* classes of a confusion matrix, at most */
#define PUT_TRIES 5
#define PUT_RETRY_MS 500
#define MAX_LOGITS ((size_t)512 << 20) /* bytes of logits of one network */

/* Logits of one network over the held-out samples. */
struct answers {
    const char *name;
    float *logits; /* [n][classes] */
};

struct work {
    kd_runner *r;
    const kd_session *ss;
    uint32_t first; /* sample of row 0: validation first, then test */
    size_t n;
    struct answers nets[KD_MAX_FINISHED + 1];
    int n_nets;
    const float *teacher; /* joined logits of the teachers, NULL = none */
    /* of the network that runs */
    const kd_net *net;
    kd_plan **plans;
    struct {
        uint8_t *rgb, *small;
        float *input;
    } * rooms;
    float *out;
    int failed;
    kd_diag diag;
};

/* ---- inference over the pool */

static void infer_one(void *arg, int item, int thread)
{
    struct work *w = arg;
    kd_diag diag = {0};
    if (kd_runner_stopped(w->r))
        return;
    kd_stage_feed(w->ss, w->net, w->first + (uint32_t)item, w->rooms[thread].rgb,
                  w->rooms[thread].small, w->rooms[thread].input);
    int rc = kd_plan_forward(w->plans[thread], w->rooms[thread].input,
                             w->out + (size_t)item * (size_t)w->ss->classes, &diag);
    if (rc != 0 && !__atomic_exchange_n(&w->failed, rc, __ATOMIC_RELAXED))
        w->diag = diag;
}

static int make_rooms(struct work *w, int threads, kd_diag *diag)
{
    size_t picture = (size_t)w->ss->size * (size_t)w->ss->size * 3;
    w->rooms = kd_xalloc((size_t)threads * sizeof *w->rooms);
    w->plans = kd_xalloc((size_t)threads * sizeof(kd_plan *));
    for (int i = 0; i < threads; i++) {
        w->rooms[i].rgb = malloc(picture);
        w->rooms[i].small = malloc(picture);
        w->rooms[i].input = malloc(picture * sizeof(float));
        if (!w->rooms[i].rgb || !w->rooms[i].small || !w->rooms[i].input)
            return kd_fail(diag, -KD_ENOMEM, "no memory to evaluate with");
    }
    return 0;
}

static void free_work(struct work *w, int threads)
{
    for (int i = 0; i < threads && w->rooms; i++) {
        free(w->rooms[i].rgb);
        free(w->rooms[i].small);
        free(w->rooms[i].input);
    }
    free(w->rooms);
    free(w->plans);
    for (int i = 0; i < w->n_nets; i++)
        free(w->nets[i].logits);
}

/* Runs one network over all held-out samples. */
static int infer_all(struct work *w, const kd_net *net, const char *name, kd_diag *diag)
{
    int threads = kd_pool_threads(w->r->pool), rc = 0;
    size_t bytes;
    float *logits = NULL;
    if (!kd_mul_size(w->n + 1, (size_t)w->ss->classes * sizeof(float), &bytes) ||
        bytes > MAX_LOGITS || !(logits = malloc(bytes)))
        return kd_fail(diag, -KD_ELIMIT, "%zu samples of %d classes are too many to evaluate", w->n,
                       w->ss->classes);
    w->net = net;
    w->out = logits;
    w->nets[w->n_nets++] = (struct answers){name, logits};
    w->failed = 0;
    for (int i = 0; i < threads && rc == 0; i++)
        rc = kd_plan_new_infer(net->graph, 1, net->vector, &w->plans[i], diag);
    if (rc == 0) {
        kd_pool_start(w->r->pool, (int)w->n, infer_one, w);
        kd_pool_wait(w->r->pool);
        if (w->failed)
            rc = kd_fail(diag, w->failed, "%s: %.900s", name, w->diag.msg);
        else if (kd_runner_stopped(w->r))
            rc = -KD_ECANCELED;
    }
    for (int i = 0; i < threads; i++) {
        kd_plan_free(w->plans[i]);
        w->plans[i] = NULL;
    }
    return rc;
}

/* The teachers together, as the student was taught: one more network where they are several. */
static int join_teachers(struct work *w, kd_diag *diag)
{
    const kd_job *job = &w->ss->job;
    int classes = w->ss->classes, n = 0;
    const float *of[KD_MAX_TEACHERS];
    double share[KD_MAX_TEACHERS], all = 0;
    for (int i = 0; i < w->n_nets; i++)
        for (int k = 0; k < job->n_teachers; k++)
            if (strcmp(w->nets[i].name, kd_stage_name((enum kd_stage_kind)k)) == 0) {
                share[n] = job->teachers[k].weight;
                all += share[n];
                of[n++] = w->nets[i].logits;
            }
    if (n == 1)
        w->teacher = of[0];
    if (n < 2 || !(all > 0))
        return 0;
    float *joined = malloc((w->n + 1) * (size_t)classes * sizeof *joined);
    if (!joined)
        return kd_fail(diag, -KD_ENOMEM, "no memory to evaluate with");
    for (int k = 0; k < n; k++)
        share[k] /= all;
    for (size_t i = 0; i < w->n; i++) {
        const float *rows[KD_MAX_TEACHERS];
        for (int k = 0; k < n; k++)
            rows[k] = of[k] + i * (size_t)classes;
        kd_ensemble_logits(job->ensemble == KD_ENSEMBLE_LOGITS ? KD_COMBINE_LOGITS
                                                               : KD_COMBINE_PROBABILITIES,
                           n, share, 1, classes, rows, joined + i * (size_t)classes);
    }
    w->nets[w->n_nets++] = (struct answers){"ensemble", joined};
    w->teacher = joined;
    return 0;
}

/* ---- figures */

static int guess_of(const struct work *w, const struct answers *a, size_t row)
{
    return kd_argmax(a->logits + row * (size_t)w->ss->classes, w->ss->classes);
}

static json_t *matrix(const kd_figures *f)
{
    json_t *rows = json_array();
    for (int y = 0; y < f->classes; y++) {
        json_t *row = json_array();
        for (int x = 0; x < f->classes; x++)
            json_array_append_new(row, json_integer(f->confusion[y * f->classes + x]));
        json_array_append_new(rows, row);
    }
    return rows;
}

static json_t *per_class(const kd_figures *f)
{
    json_t *list = json_array();
    for (int c = 0; c < f->classes; c++)
        json_array_append_new(list, json_pack("{s:i, s:i}", "correct", (int)f->right[c], "samples",
                                              (int)f->samples[c]));
    return list;
}

/* How far it is from the teacher. */
static void add_teacher(const struct work *w, const struct answers *a, size_t first, size_t n,
                        json_t *o)
{
    const size_t classes = (size_t)w->ss->classes;
    const double count = n ? (double)n : 1;
    size_t agree = 0;
    double kl = 0;
    if (!w->teacher || a->logits == w->teacher)
        return;
    for (size_t i = first; i < first + n; i++) {
        agree += guess_of(w, a, i) == kd_argmax(w->teacher + i * classes, (int)classes);
        kl += kd_kl(w->teacher + i * classes, a->logits + i * classes, (int)classes);
    }
    json_object_set_new(o, "agreement", json_real((double)agree / count));
    json_object_set_new(o, "kl", json_real(kl / count));
}

/* NULL with the reason in diag. */
static json_t *network_row(const struct work *w, const struct answers *a, const char *split,
                           size_t first, size_t n, kd_diag *diag)
{
    const size_t classes = (size_t)w->ss->classes;
    kd_figures f;
    int32_t *labels = malloc((n + 1) * sizeof *labels);
    if (!labels) {
        kd_fail(diag, -KD_ENOMEM, "no memory to evaluate with");
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        labels[i] = kd_data_label(w->ss->data, w->first + first + i);
    const int rc = kd_figures_of(a->logits + first * classes, labels, n, (int)classes, &f, diag);
    free(labels);
    if (rc != 0) {
        kd_fail_at(diag, rc, "%s on the split %s", a->name, split);
        return NULL;
    }
    json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f}", "name", a->name, "split", split,
                          "samples", (json_int_t)n, "correct", (json_int_t)f.correct, "top5",
                          (json_int_t)f.top5, "loss", f.loss, "ece", f.ece);
    add_teacher(w, a, first, n, o);
    json_object_set_new(o, "per_class", per_class(&f));
    if (classes <= MATRIX_CLASSES)
        json_object_set_new(o, "confusion", matrix(&f));
    kd_figures_clear(&f);
    return o;
}

static const struct answers *find_net(const struct work *w, const char *name)
{
    for (int i = 0; i < w->n_nets; i++)
        if (strcmp(w->nets[i].name, name) == 0)
            return &w->nets[i];
    return NULL;
}

/* What a step of `compress` made of the student. */
static bool is_small(const char *name)
{
    return strncmp(name, "compress", 8) == 0;
}

/* Which samples only one of two networks has right: what a paired interval is made of. */
static json_t *pair_row(const struct work *w, const struct answers *a, const struct answers *b,
                        const char *split, size_t first, size_t n)
{
    json_int_t counts[2][2] = {{0}};
    for (size_t i = first; i < first + n; i++) {
        int label = kd_data_label(w->ss->data, w->first + i);
        counts[guess_of(w, a, i) == label][guess_of(w, b, i) == label]++;
    }
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I}", "a", a->name, "b", b->name, "split",
                     split, "both", counts[1][1], "only_a", counts[1][0], "only_b", counts[0][1],
                     "neither", counts[0][0]);
}

/* ---- pictures with guesses */

static json_t *guesses(const struct work *w, const struct answers *a, size_t row)
{
    int classes = w->ss->classes, top[GUESSES], n = 0;
    const float *z = a->logits + row * (size_t)classes;
    double sum = 0, best = (double)z[kd_argmax(z, classes)];
    for (int k = 0; k < classes; k++)
        sum += exp((double)z[k] - best);
    for (; n < GUESSES && n < classes; n++) {
        int pick = -1;
        for (int k = 0; k < classes; k++) {
            bool taken = false;
            for (int t = 0; t < n; t++)
                taken = taken || top[t] == k;
            if (!taken && (pick < 0 || z[k] > z[pick]))
                pick = k;
        }
        top[n] = pick;
    }
    json_t *list = json_array();
    for (int t = 0; t < n; t++)
        json_array_append_new(list,
                              json_pack("[i, f]", top[t], exp((double)z[top[t]] - best) / sum));
    return list;
}

/* RFC 4648, section 4. */
static void add_base64(kd_buf *out, const uint8_t *p, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) |
                     (i + 2 < n ? p[i + 2] : 0);
        char four[4] = {digits[v >> 18], digits[v >> 12 & 63],
                        i + 1 < n ? digits[v >> 6 & 63] : '=', i + 2 < n ? digits[v & 63] : '='};
        kd_buf_add(out, four, 4);
    }
}

static json_t *picture_of(const struct work *w, uint32_t sample)
{
    int size = w->ss->size, side = KD_MIN(size, SHOWN_SIDE);
    uint8_t *jpeg = NULL;
    size_t len = 0;
    kd_diag diag = {0};
    kd_image whole = {.w = size, .h = size, .rgb = w->rooms[0].rgb};
    kd_cache_get(w->ss->cache, sample, whole.rgb);
    int rc = kd_image_resize(&whole, side, side, w->rooms[0].small, &diag);
    if (rc == 0)
        rc = kd_image_encode_jpeg(w->rooms[0].small, side, side, 80, &jpeg, &len, &diag);
    kd_buf text;
    kd_buf_init(&text, (size_t)1 << 20);
    kd_buf_str(&text, "data:image/jpeg;base64,");
    if (rc == 0)
        add_base64(&text, jpeg, len);
    free(jpeg);
    json_t *value = json_string(rc == 0 && !text.failed ? text.data : "");
    kd_buf_clear(&text);
    return value;
}

/* Rows to show, half of them ones that the student has wrong, drawn by the job's seed. */
static size_t choose(const struct work *w, size_t first, size_t n, const struct answers *student,
                     uint32_t *out)
{
    uint32_t *order = malloc((n + 1) * sizeof *order);
    size_t found = 0;
    if (!order)
        return 0;
    kd_rng rng;
    kd_rng_init(&rng, w->ss->job.data.seed, KD_RNG_SHOWN, n, 0);
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)(first + i);
    for (size_t i = n; i > 1; i--) {
        size_t k = kd_rng_below(&rng, (uint32_t)i);
        uint32_t t = order[i - 1];
        order[i - 1] = order[k];
        order[k] = t;
    }
    for (int wrong = 1; wrong >= 0; wrong--) {
        size_t most = wrong ? SHOWN / 2 : SHOWN;
        for (size_t i = 0; i < n && found < most; i++) {
            int label = kd_data_label(w->ss->data, w->first + order[i]);
            if ((guess_of(w, student, order[i]) != label) == (wrong == 1))
                out[found++] = order[i];
        }
    }
    free(order);
    return found;
}

static json_t *shown(const struct work *w, size_t first, size_t n)
{
    static const char *const names[] = {"teacher", "student", "scratch"};
    const struct answers *student = find_net(w, "student");
    uint32_t rows[SHOWN];
    json_t *list = json_array();
    size_t count = student ? choose(w, first, n, student, rows) : 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t sample = w->first + rows[i];
        json_t *of = json_object();
        for (size_t k = 0; k < KD_COUNT(names); k++) {
            const struct answers *a = find_net(w, names[k]);
            if (a)
                json_object_set_new(of, names[k], guesses(w, a, rows[i]));
        }
        char name[512];
        snprintf(name, sizeof name, "%s", kd_data_name(w->ss->data, sample));
        kd_utf8_mend(name);
        json_array_append_new(list, json_pack("{s:s, s:i, s:o, s:o}", "name", name, "label",
                                              kd_data_label(w->ss->data, sample), "picture",
                                              picture_of(w, sample), "guesses", of));
    }
    return list;
}

/* NULL with the reason in diag. */
static char *describe(const struct work *w, kd_diag *diag)
{
    bool whole = true;
    const kd_session *ss = w->ss;
    json_t *classes = json_array(), *networks = json_array(), *pairs = json_array();
    for (int c = 0; c < ss->classes; c++)
        json_array_append_new(classes, json_string(kd_data_class_name(ss->data, c)));
    const struct {
        const char *name;
        size_t first, n;
    } splits[] = {{"val", 0, ss->n_val}, {"test", ss->n_val, ss->n_test}};
    for (size_t s = 0; s < KD_COUNT(splits); s++) {
        if (splits[s].n == 0)
            continue;
        for (int i = 0; i < w->n_nets && whole; i++) {
            json_t *row =
                network_row(w, &w->nets[i], splits[s].name, splits[s].first, splits[s].n, diag);
            whole = row != NULL;
            json_array_append_new(networks, row);
        }
        static const char *const wanted[][2] = {
            {"student", "scratch"}, {"student.best", "scratch.best"}, {"student", "teacher"}};
        for (size_t k = 0; k < KD_COUNT(wanted); k++) {
            const struct answers *a = find_net(w, wanted[k][0]), *b = find_net(w, wanted[k][1]);
            if (a && b)
                json_array_append_new(
                    pairs, pair_row(w, a, b, splits[s].name, splits[s].first, splits[s].n));
        }
        const struct answers *student = find_net(w, "student");
        for (int i = 0; i < w->n_nets && student; i++)
            if (is_small(w->nets[i].name))
                json_array_append_new(pairs, pair_row(w, &w->nets[i], student, splits[s].name,
                                                      splits[s].first, splits[s].n));
    }
    size_t first = ss->n_test ? ss->n_val : 0, n = ss->n_test ? ss->n_test : ss->n_val;
    json_t *all = json_pack("{s:o, s:o, s:o, s:o}", "classes", classes, "networks", networks,
                            "pairs", pairs, "samples", shown(w, first, n));
    char *text = all && whole ? json_dumps(all, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(all);
    if (!text && whole)
        kd_fail(diag, -KD_ENOMEM, "no memory for evaluation.json");
    return text;
}

/* Hands a file over, from its beginning again where that failed for a passing reason. */
static int put_file(kd_runner *r, const Distill__V1__Measure *q, const char *name,
                    const void *bytes, size_t len, kd_diag *diag)
{
    int rc = 0;
    for (int tries = 0; tries < PUT_TRIES; tries += rc != -KD_ESTATE) {
        rc = kd_exchange_put_artefact(r->cfg.channel, q->job, q->stage, name, bytes, len, diag);
        /* ESTATE: the coordinator has no room for it now. */
        if (rc == 0 || (!kd_err_retry(rc) && rc != -KD_ESTALE && rc != -KD_ESTATE) ||
            kd_runner_stopped(r))
            break;
        usleep(PUT_RETRY_MS * 1000);
    }
    return rc != 0 && kd_runner_stopped(r) ? -KD_ECANCELED : rc;
}

static int evaluate_all(kd_runner *r, const Distill__V1__Measure *q, kd_diag *diag)
{
    const kd_session *ss = r->session;
    struct work w = {.r = r,
                     .ss = ss,
                     .first = (uint32_t)kd_data_first(ss->data, KD_SPLIT_VAL),
                     .n = ss->n_val + ss->n_test};
    int threads = kd_pool_threads(r->pool), rc = make_rooms(&w, threads, diag);
    for (int i = 0; i < kd_stage_n_finished(r->stage) && rc == 0; i++) {
        const char *name;
        const kd_net *net = kd_stage_finished_net(r->stage, i, &name);
        rc = infer_all(&w, net, name, diag);
    }
    if (rc == 0)
        rc = join_teachers(&w, diag);
    if (rc == 0) {
        char *text = describe(&w, diag);
        rc = text ? put_file(r, q, "evaluation.json", text, strlen(text), diag) : diag->code;
        free(text);
    }
    free_work(&w, threads);
    return rc;
}

/* ---- ONNX */

static int put_onnx(kd_runner *r, const Distill__V1__Measure *q, int net, kd_diag *diag)
{
    char file[48];
    const char *name;
    const kd_net *n = kd_stage_finished_net(r->stage, net, &name);
    snprintf(file, sizeof file, "%s.onnx", name);
    const kd_onnx_write_options opt = {.opset = r->session->job.onnx_opset,
                                       .info = kd_stage_finished_info(r->stage, net)};
    kd_buf bytes;
    kd_buf_init(&bytes, KD_MAX_ARTEFACT_BYTES);
    int rc = kd_onnx_write(n->graph, n->vector, &opt, &bytes, diag);
    if (rc == 0)
        rc = put_file(r, q, file, bytes.data, bytes.len, diag);
    kd_buf_clear(&bytes);
    return rc;
}

static int export_onnx(kd_runner *r, const Distill__V1__Measure *q, kd_diag *diag)
{
    int rc = 0;
    for (int i = 0; i < kd_stage_n_finished(r->stage) && rc == 0; i++) {
        const char *name;
        (void)kd_stage_finished_net(r->stage, i, &name);
        if (strncmp(name, "student", 7) == 0 || is_small(name))
            rc = put_onnx(r, q, i, diag);
    }
    return rc;
}

void kd_runner_measure(kd_runner *r, const Distill__V1__Measure *q)
{
    Distill__V1__ModelCost costs[KD_MAX_FINISHED], *list[KD_MAX_FINISHED];
    _Static_assert(KD_COUNT(costs) <= KD_MAX_MODELS, "one message tells all");
    size_t n = 0;
    kd_diag diag = {0};
    if (!r->stage)
        return;
    pthread_mutex_lock(&r->mu);
    r->over = false; /* of an earlier generation */
    pthread_mutex_unlock(&r->mu);
    kd_runner_phase(r, "measuring", 0);
    int rc = kd_runner_costs(r, costs, &n, &diag);
    for (size_t i = 0; i < n; i++)
        list[i] = &costs[i];
    if (rc == 0) {
        kd_runner_phase(r, "evaluating", 0);
        rc = evaluate_all(r, q, &diag);
    }
    if (rc == 0 && r->session->job.export_onnx)
        rc = export_onnx(r, q, &diag);
    if (rc == -KD_ECANCELED)
        return;
    if (rc != 0) {
        kd_runner_problem(r, "INTERNAL", diag.msg);
        return;
    }
    Distill__V1__Measured d = DISTILL__V1__MEASURED__INIT;
    d.job = q->job;
    d.stage = q->stage;
    d.models = list;
    d.n_models = n;
    Distill__V1__WorkerMessage m = DISTILL__V1__WORKER_MESSAGE__INIT;
    m.kind_case = DISTILL__V1__WORKER_MESSAGE__KIND_MEASURED;
    m.measured = &d;
    r->cfg.send(r->cfg.arg, &m);
}

#include "sweep_result.h"

#include "kd/stats.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A child as its numbers are read. */
struct child {
    const kd_child_result *in;
    json_t *values;  /* owned */
    json_t *result;  /* owned; NULL = none */
    json_t *student; /* {version, val, test}, owned; NULL = none */
    json_t *scratch; /* likewise */
    bool tested;     /* has a test split */
    size_t group;
};

static double number(json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

/* {accuracy, correct, samples, interval} out of a larger object. */
static json_t *figures(json_t *o)
{
    static const char *const keys[] = {"accuracy", "interval", "correct", "samples", "loss"};
    json_t *out = json_object();
    for (size_t i = 0; i < KD_COUNT(keys); i++)
        if (json_object_get(o, keys[i]))
            json_object_set(out, keys[i], json_object_get(o, keys[i]));
    return out;
}

/* The version of a network that counts. */
static json_t *network(json_t *of)
{
    json_t *test = json_object_get(of, "test_best");
    if (!of)
        return NULL;
    if (!test)
        test = json_object_get(of, "test");
    json_t *o = json_pack("{s:s}", "version", test ? "best" : "last");
    json_t *val = figures(of);
    if (test) {
        /* Its interval and counts are those of the last version. */
        json_object_clear(val);
        json_object_set(val, "accuracy", json_object_get(of, "best_accuracy"));
        json_object_set(val, "epoch", json_object_get(of, "best_epoch"));
        json_object_set_new(o, "test", figures(test));
    }
    json_object_set_new(o, "val", val);
    json_t *digest = json_object_get(of, test ? "best_digest" : "digest");
    if (digest)
        json_object_set(o, "digest", digest);
    return o;
}

static double accuracy(json_t *net, const char *split)
{
    return number(json_object_get(net, split), "accuracy");
}

static void read_child(const kd_child_result *in, struct child *c)
{
    *c = (struct child){.in = in};
    c->values = json_loads(in->values ? in->values : "{}", JSON_REJECT_DUPLICATES, NULL);
    if (!c->values)
        c->values = json_object();
    c->result = in->result ? json_loads(in->result, JSON_REJECT_DUPLICATES, NULL) : NULL;
    c->student = network(json_object_get(c->result, "student"));
    c->scratch = network(json_object_get(c->result, "scratch"));
    c->tested = json_object_get(c->student, "test") != NULL;
}

static void clear_child(struct child *c)
{
    json_decref(c->values);
    json_decref(c->result);
    json_decref(c->student);
    json_decref(c->scratch);
}

static json_t *child_object(const struct child *c)
{
    json_t *o =
        json_pack("{s:s, s:s, s:I, s:O, s:s}", "job", c->in->job, "label", c->in->label, "seed",
                  (json_int_t)c->in->seed, "values", c->values, "state", c->in->state);
    if (c->student)
        json_object_set(o, "student", c->student);
    if (c->scratch)
        json_object_set(o, "scratch", c->scratch);
    return o;
}

/* ---- groups: the same values but for the seed */

/* The label without its seed, which stands last; caller frees. */
static char *group_label(const char *label)
{
    char *out = kd_xstrdup(label);
    char *seed = strncmp(out, "seed=", 5) == 0 ? out : NULL;
    for (char *at = out; (at = strstr(at, " seed=")); at++)
        seed = at;
    const char *digits = seed ? strchr(seed, '=') + 1 : "";
    if (seed && digits[strspn(digits, "0123456789")] == '\0')
        *seed = '\0';
    return out;
}

static bool same_but_seed(const struct child *a, const struct child *b)
{
    json_t *x = json_copy(a->values), *y = json_copy(b->values);
    json_object_del(x, "seed");
    json_object_del(y, "seed");
    bool same = json_equal(x, y);
    json_decref(x);
    json_decref(y);
    return same;
}

static size_t put_groups(struct child *children, size_t n)
{
    size_t groups = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        while (k < i && !same_but_seed(&children[k], &children[i]))
            k++;
        children[i].group = k < i ? children[k].group : groups++;
    }
    return groups;
}

struct estimate {
    double value, lo, hi; /* limits NAN: no interval */
};

static void put_estimate(json_t *o, const char *name, struct estimate e)
{
    char key[32];
    snprintf(key, sizeof key, "%s_mean", name);
    json_object_set_new(o, key, json_real(e.value));
    snprintf(key, sizeof key, "%s_interval", name);
    json_object_set_new(o, key, isfinite(e.lo) ? json_pack("[f,f]", e.lo, e.hi) : json_null());
}

/* Student against twin on the samples of one child, by its result's table of pairs. */
static bool pair_of(const struct child *c, struct estimate *out)
{
    const char *split = c->tested ? "test" : "val", *best = c->tested ? ".best" : "";
    json_t *pairs = json_object_get(c->result, "pairs"), *pair;
    char names[2][16];
    size_t i;
    snprintf(names[0], sizeof names[0], "student%s", best);
    snprintf(names[1], sizeof names[1], "scratch%s", best);
    json_array_foreach(pairs, i, pair)
    {
        const char *a = json_string_value(json_object_get(pair, "a"));
        const char *b = json_string_value(json_object_get(pair, "b"));
        const char *of = json_string_value(json_object_get(pair, "split"));
        if (!a || !b || !of || strcmp(of, split) != 0)
            continue;
        bool straight = strcmp(a, names[0]) == 0 && strcmp(b, names[1]) == 0;
        if (!straight && (strcmp(a, names[1]) != 0 || strcmp(b, names[0]) != 0))
            continue;
        double only[2] = {number(pair, straight ? "only_a" : "only_b"),
                          number(pair, straight ? "only_b" : "only_a")};
        double all = only[0] + only[1] + number(pair, "both") + number(pair, "neither");
        if (only[0] < 0 || only[1] < 0 || number(pair, "both") < 0 || number(pair, "neither") < 0 ||
            !(all >= 1) || all > 1e15)
            return false;
        const kd_paired p = {.both = (uint64_t)number(pair, "both"),
                             .only_a = (uint64_t)only[0],
                             .only_b = (uint64_t)only[1],
                             .neither = (uint64_t)number(pair, "neither")};
        kd_paired_interval(&p, &out->value, &out->lo, &out->hi);
        return true;
    }
    return false;
}

struct sample {
    double *x;
    size_t n;
};

static struct estimate mean_of(const struct sample *s)
{
    struct estimate e;
    kd_mean_interval(s->x, s->n, &e.value, &e.lo, &e.hi);
    return e;
}

static void put_difference(json_t *o, const struct sample *differences, const struct child *only)
{
    struct estimate e = mean_of(differences);
    bool over_samples = differences->n == 1 && pair_of(only, &e);
    put_estimate(o, "difference", e);
    json_object_set_new(o, "difference_over", json_string(over_samples ? "samples" : "seeds"));
    if (isfinite(e.lo))
        json_object_set_new(o, "gain", json_string(kd_verdict_word(kd_verdict_of(e.lo, e.hi))));
}

static json_t *group_object(const struct child *children, size_t n, size_t group, double *room)
{
    struct sample val = {room, 0}, test = {room + n, 0}, difference = {room + 2 * n, 0};
    const struct child *with_twin = NULL, *first = NULL;
    for (size_t i = 0; i < n; i++) {
        const struct child *c = &children[i];
        if (c->group != group)
            continue;
        first = first ? first : c;
        if (!c->student)
            continue;
        const char *split = c->tested ? "test" : "val";
        val.x[val.n++] = accuracy(c->student, "val");
        if (c->tested)
            test.x[test.n++] = accuracy(c->student, "test");
        if (!c->scratch)
            continue;
        with_twin = c;
        difference.x[difference.n++] = accuracy(c->student, split) - accuracy(c->scratch, split);
    }
    char *label = group_label(first->in->label);
    json_t *o = json_pack("{s:s, s:I}", "label", label, "n", (json_int_t)val.n);
    free(label);
    if (val.n)
        put_estimate(o, "val", mean_of(&val));
    if (test.n)
        put_estimate(o, "test", mean_of(&test));
    if (difference.n)
        put_difference(o, &difference, with_twin);
    return o;
}

/* ---- the whole */

/* Summed over the children; time saved at the pace of the inferences that were made. */
static json_t *bank_object(const struct child *children, size_t n)
{
    double served = 0, computed = 0, seconds = 0;
    for (size_t i = 0; i < n; i++) {
        json_t *bank = json_object_get(children[i].result, "bank");
        served += number(bank, "served");
        computed += number(bank, "computed");
        seconds += number(bank, "seconds");
    }
    return json_pack("{s:I, s:I, s:I, s:f, s:f}", "asked", (json_int_t)(served + computed),
                     "served", (json_int_t)served, "computed", (json_int_t)computed, "seconds",
                     seconds, "seconds_saved", computed > 0 ? seconds / computed * served : 0.0);
}

static const struct child *best_of(const struct child *children, size_t n)
{
    const struct child *best = NULL;
    for (size_t i = 0; i < n; i++)
        if (children[i].student &&
            (!best || accuracy(children[i].student, "val") > accuracy(best->student, "val")))
            best = &children[i];
    return best;
}

int kd_sweep_result(const char *sweep, const char *name, const kd_child_result *in, size_t n,
                    char **out, kd_diag *diag)
{
    struct child *children = kd_xalloc((n + 1) * sizeof *children);
    double *room = kd_xalloc((3 * n + 1) * sizeof *room);
    json_t *list = json_array(), *groups = json_array();
    for (size_t i = 0; i < n; i++) {
        read_child(&in[i], &children[i]);
        json_array_append_new(list, child_object(&children[i]));
    }
    size_t n_groups = put_groups(children, n);
    for (size_t g = 0; g < n_groups; g++)
        json_array_append_new(groups, group_object(children, n, g, room));
    const struct child *best = best_of(children, n);
    json_t *o = json_pack("{s:s, s:s, s:o, s:o, s:o}", "sweep", sweep, "name", name, "children",
                          list, "groups", groups, "bank", bank_object(children, n));
    if (o && best)
        json_object_set_new(o, "best", json_string(best->in->job));
    /* It travels in one message with the rest of the sweep. */
    size_t layout = n > 16 ? JSON_COMPACT : JSON_INDENT(2);
    *out = o ? json_dumps(o, layout | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    for (size_t i = 0; i < n; i++)
        clear_child(&children[i]);
    free(children);
    free(room);
    return *out ? 0 : kd_fail(diag, -KD_ENOMEM, "no memory for the result of sweep %s", sweep);
}

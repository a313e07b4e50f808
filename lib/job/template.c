/* A job file to begin with, out of the schema table. */
#include "items.h"

#include "kd/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMENT_COLUMN 34
#define MAX_TEXT (256u << 10)

/* What is shown, besides what is set: the keys that people change first. The loss, the optimizer
 * and the like of teacher and twin are as those of the student. */
static const char *const g_shown[] = {
    "seed",
    "data.labelled.val",
    "data.labelled.test",
    "data.labelled.val_share",
    "data.labelled.size",
    "data.labelled.max_train",
    "data.augment",
    "teacher.weights",
    "teacher.width",
    "teacher.size",
    "teacher.precision",
    "teacher.fine_tune.epochs",
    "teacher.fine_tune.optimizer.lr",
    "teacher.fine_tune.batch_norm",
    "student.width",
    "student.hidden",
    "student.size",
    "distill.loss.kd",
    "distill.loss.ce",
    "distill.loss.mse",
    "distill.loss.temperature",
    "distill.loss.t2",
    "distill.optimizer.name",
    "distill.optimizer.lr",
    "distill.optimizer.schedule",
    "distill.optimizer.weight_decay",
    "distill.epochs",
    "distill.batch",
    "distill.views",
    "distill.early_stop.patience",
    "scratch",
    "compress",
    "cluster.min_workers",
    "cluster.max_workers",
    "cluster.checkpoint_every",
    "export",
};

typedef struct writer {
    const kd_job *job;
    bool set[KD_KEYS_MAX];   /* written by a set, or the mapping around one */
    bool shown[KD_KEYS_MAX]; /* behind `#`, if not set */
    kd_buf out;
} writer;

static void mark(bool *rows, int row)
{
    for (; row >= 0; row = kd_schema_parent(row))
        rows[row] = true;
}

static bool is_written(const kd_key *k)
{
    return k->type != KD_KEY_SWEEP && k->type != KD_KEY_DIGEST && !(k->flags & KD_KEY_ALIAS);
}

/* A mapping that is not there and could not be with a default for each of its keys. */
static bool is_absent(const writer *w, int row)
{
    bool required = false;
    for (int i = 0; i < kd_schema_count; i++)
        required = required || (kd_schema_parent(i) == row && kd_schema[i].flags & KD_KEY_REQUIRED);
    return required && kd_schema[row].flags & KD_KEY_OPTIONAL && !w->set[row];
}

static bool applies(const writer *w, int row)
{
    for (int r = row; r >= 0; r = kd_schema_parent(r))
        if (!kd_schema_applies(&kd_schema[r], w->job, 0) || is_absent(w, r))
            return false;
    return is_written(&kd_schema[row]);
}

/* A word that YAML takes for itself, and for a text. */
static bool is_plain(const char *s)
{
    size_t n = strlen(s);
    static const char *const words[] = {"true", "false", "null", "yes", "no", "on", "off"};
    for (size_t i = 0; i < KD_COUNT(words); i++)
        if (strcasecmp(s, words[i]) == 0)
            return false;
    return n > 0 &&
           strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-") == n &&
           strspn(s, "0123456789.+-eExX") != n && s[0] != '-' && s[0] != '.';
}

static void put_json(kd_buf *out, json_t *v)
{
    char *text = NULL;
    if (json_is_string(v) && is_plain(json_string_value(v)))
        (void)kd_buf_printf(out, " %s", json_string_value(v));
    else if (json_is_real(v))
        (void)kd_buf_printf(out, " %.15g", json_real_value(v));
    else if (v && !json_is_null(v) &&
             (text = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15))))
        (void)kd_buf_printf(out, " %s", text);
    free(text);
    json_decref(v);
}

static void put_value(writer *w, const kd_key *k)
{
    const char *field = kd_schema_const_field(w->job, k, 0);
    if (kd_items_of(k)) {
        put_json(&w->out, kd_items_json(k, w->job, 0));
    } else if (k->type == KD_KEY_INTS) {
        int count, v;
        memcpy(&count, field + KD_INTS_MAX * sizeof(int), sizeof count);
        (void)kd_buf_str(&w->out, " [");
        for (int i = 0; i < count && i < KD_INTS_MAX; i++) {
            memcpy(&v, field + (size_t)i * sizeof v, sizeof v);
            (void)kd_buf_printf(&w->out, "%s%d", i ? ", " : "", v);
        }
        (void)kd_buf_str(&w->out, "]");
    } else {
        put_json(&w->out, kd_value_json(k, field));
    }
}

/* A mapping none of whose keys are shown stands for itself. */
static bool has_below(const writer *w, int row, bool set)
{
    for (int i = 0; i < kd_schema_count; i++)
        if (kd_schema_parent(i) == row && applies(w, i) && (w->set[i] || (!set && w->shown[i])))
            return true;
    return false;
}

static void put_comment(kd_buf *out, size_t line, const kd_key *k)
{
    char def[80], choices[200];
    bool chosen = k->type == KD_KEY_WORD || k->type == KD_KEY_CHOICE || k->type == KD_KEY_FLAG;
    int pad = COMMENT_COLUMN - (int)(out->len - line);
    (void)kd_buf_printf(out, "%*s  # %s", KD_MAX(pad, 0), "", k->meaning);
    kd_schema_value(k, choices, sizeof choices);
    if (chosen)
        (void)kd_buf_printf(out, " [%s]", choices);
    if (kd_items_of(k)) {
        kd_schema_expected(k, choices, sizeof choices);
        (void)kd_buf_printf(out, " [%s]", choices);
    }
    kd_schema_default(k, def, sizeof def);
    if (strncmp(def, "as ", 3) == 0)
        (void)kd_buf_printf(out, " (%s)", def);
    (void)kd_buf_str(out, "\n");
}

static void put_row(writer *w, int row)
{
    const kd_key *k = &kd_schema[row];
    const char *dot = strrchr(k->key, '.');
    int depth = 0;
    for (const char *p = k->key; *p; p++)
        depth += *p == '.';
    if (depth == 0 && k->type == KD_KEY_MAP)
        (void)kd_buf_str(&w->out, "\n");
    size_t line = w->out.len;
    (void)kd_buf_printf(&w->out, "%*s%s%s:", 2 * depth, "", w->set[row] ? "" : "# ",
                        dot ? dot + 1 : k->key);
    if (k->type != KD_KEY_MAP)
        put_value(w, k);
    else if (!has_below(w, row, w->set[row]))
        (void)kd_buf_str(&w->out, " {}");
    put_comment(&w->out, line, k);
}

/* Rows that the sets name, by the part before the first `=`. */
static void mark_sets(writer *w, const char *const *sets, int n_sets)
{
    for (int i = 0; i < n_sets; i++)
        mark(w->set, kd_schema_find(sets[i], strcspn(sets[i], "=")));
    for (int i = 0; i < kd_schema_count; i++) {
        const kd_key *k = &kd_schema[i];
        int parent = kd_schema_parent(i);
        if (k->flags & KD_KEY_REQUIRED && (parent < 0 || w->set[parent]) && applies(w, i))
            mark(w->set, i);
    }
}

int kd_job_template(const char *const *sets, int n_sets, bool all, char **out_text, kd_diag *diag)
{
    kd_job *job = kd_xalloc(sizeof *job);
    writer *w = kd_xalloc(sizeof *w);
    int rc = kd_job_load("{}", 2, "the flags", sets, n_sets, job, diag);
    w->job = job;
    kd_buf_init(&w->out, MAX_TEXT);
    if (rc == 0) {
        mark_sets(w, sets, n_sets);
        for (size_t i = 0; i < KD_COUNT(g_shown) && !all; i++) {
            const int row = kd_schema_find(g_shown[i], strlen(g_shown[i]));
            KD_BUG_ON(row < 0);
            mark(w->shown, row);
        }
        for (int i = 0; i < kd_schema_count; i++)
            if ((w->set[i] || w->shown[i] || all) && applies(w, i))
                put_row(w, i);
        *out_text = kd_buf_take(&w->out);
        if (!*out_text)
            rc = kd_fail(diag, -KD_ENOMEM, "no memory for the job file");
    }
    kd_buf_clear(&w->out);
    free(w);
    free(job);
    return rc;
}

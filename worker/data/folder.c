/* List files and files of class names. The text is read once and cut in place: samples point into
 * it. */
#include "data/dataset_internal.h"

#include <stdlib.h>
#include <string.h>

/* Walks over lines of text [len] that ends with a NUL of its own. */
typedef struct lines {
    const char *file;
    char *next, *end;
    size_t number; /* of the current line, from 1 */
} lines;

/* Next line without its end, NUL-terminated in place; NULL at the end of the text. */
static char *line_next(lines *l, size_t *out_len)
{
    if (l->next >= l->end)
        return NULL;
    char *line = l->next, *stop = memchr(line, '\n', (size_t)(l->end - line));
    l->next = stop ? stop + 1 : l->end;
    if (!stop)
        stop = l->end;
    if (stop > line && stop[-1] == '\r')
        stop--;
    *stop = '\0';
    l->number++;
    *out_len = (size_t)(stop - line);
    return line;
}

static int line_fail(const lines *l, kd_diag *diag, const char *what)
{
    return kd_fail(diag, -KD_EDATA, "%s:%zu: %s", l->file, l->number, what);
}

/* What every line of either file must keep to; NULL if it does. */
static const char *line_fault(const char *line, size_t len, size_t max)
{
    if (len > max)
        return "the line is too long";
    for (size_t i = 0; i < len; i++)
        if (((unsigned char)line[i] < 0x20 && line[i] != '\t') || line[i] == 0x7F)
            return line[i] ? "the line has a control character in it"
                           : "the line has a NUL byte in it";
    return NULL;
}

#define MAX_FOLDER_CLASSES 4096 /* looked for one by one */

/* ---- classes */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorted copy of the names; caller frees. */
static const char **sorted_names(const char *const *names, int n)
{
    const char **sorted = malloc((size_t)n * sizeof *sorted);
    if (sorted) {
        memcpy(sorted, names, (size_t)n * sizeof *sorted);
        qsort(sorted, (size_t)n, sizeof *sorted, compare_names);
    }
    return sorted;
}

int kd_data_read_classes(kd_data *d, const char *name, kd_diag *diag)
{
    size_t len;
    int rc = kd_data_read(d, name, KD_DATA_MAX_CLASSES * (KD_DATA_MAX_CLASS_NAME + 2),
                          &d->class_text, &len, diag);
    if (rc != 0)
        return rc;
    d->classes = calloc(KD_DATA_MAX_CLASSES, sizeof *d->classes);
    if (!d->classes)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the class names of %s", name);
    lines l = {.file = name, .next = d->class_text, .end = d->class_text + len};
    size_t n;
    for (char *line; (line = line_next(&l, &n));) {
        const char *fault = line_fault(line, n, KD_DATA_MAX_CLASS_NAME);
        if (!fault && strchr(line, '\t'))
            fault = "a class name cannot have a tab in it";
        if (fault)
            return line_fail(&l, diag, fault);
        /* An empty line in the middle would silently renumber the classes behind it. */
        if (n == 0 && l.next < l.end)
            return line_fail(&l, diag, "the class name is empty");
        if (n == 0)
            break;
        if (d->n_classes == KD_DATA_MAX_CLASSES)
            return line_fail(&l, diag, "more classes than are accepted (65536)");
        d->classes[d->n_classes++] = line;
    }
    if (d->n_classes == 0)
        return kd_fail(diag, -KD_EDATA, "%s: there is no class name in it", name);
    const char **sorted = sorted_names(d->classes, d->n_classes);
    if (!sorted)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the class names of %s", name);
    for (int c = 1; c < d->n_classes && rc == 0; c++)
        if (strcmp(sorted[c - 1], sorted[c]) == 0)
            rc = kd_fail(diag, -KD_EDATA, "%s: the class name `%s` stands there twice", name,
                         sorted[c]);
    free(sorted);
    return rc;
}

/* ---- lists */

/* NULL, or what is wrong with a path. The kernel refuses what leads out of the root in any case;
 * this catches it early, with the line. */
static const char *path_fault(const char *path)
{
    if (*path == '\0')
        return "the path is empty";
    if (*path == '/')
        return "the path is absolute; it must be relative to the data set's folder";
    for (const char *p = path; *p;) {
        size_t n = strcspn(p, "/");
        if (n == 2 && p[0] == '.' && p[1] == '.')
            return "the path has `..` in it";
        p += n + (p[n] == '/');
    }
    return NULL;
}

/* Decimal digits only. -1 if it is none, or too large for any class. */
static int parse_label(const char *s)
{
    int v = 0;
    if (!*s)
        return -1;
    for (; *s; s++) {
        if (*s < '0' || *s > '9' || v > KD_DATA_MAX_CLASSES)
            return -1;
        v = 10 * v + (*s - '0');
    }
    return v;
}

#define LABEL_FROM_FOLDER INT32_MIN

static int parse_line(const kd_data *d, const lines *l, char *line, size_t len, kd_data_sample *out,
                      kd_diag *diag)
{
    const char *fault = line_fault(line, len, KD_DATA_MAX_LINE);
    if (fault)
        return line_fail(l, diag, fault);
    char *tab = strchr(line, '\t');
    if (tab)
        *tab = '\0';
    fault = path_fault(line);
    if (fault)
        return line_fail(l, diag, fault);
    *out = (kd_data_sample){.name = line, .label = LABEL_FROM_FOLDER, .at = (uint32_t)l->number};
    if (!tab)
        return 0;
    int label = parse_label(tab + 1);
    if (label < 0)
        return kd_fail(diag, -KD_EDATA, "%s:%zu: `%.40s` is not the number of a class", l->file,
                       l->number, tab + 1);
    if (d->n_classes > 0 && label >= d->n_classes)
        return kd_fail(diag, -KD_EDATA, "%s:%zu: class %d, but there are only %d (0 to %d)",
                       l->file, l->number, label, d->n_classes, d->n_classes - 1);
    if (d->n_classes == 0)
        return kd_fail(diag, -KD_EDATA,
                       "%s:%zu: class %d by number, but the data set names no file of classes",
                       l->file, l->number, label);
    out->label = label;
    return 0;
}

/* Appends the samples of list `which` (0 train, 1 val) to d->samples. */
static int read_list(kd_data *d, int which, const char *name, size_t *out_count, kd_diag *diag)
{
    size_t len, have = d->count[KD_SPLIT_TRAIN], count = 0;
    int rc = kd_data_read(d, name, KD_DATA_MAX_LIST, &d->lists[which], &len, diag);
    if (rc != 0)
        return rc;
    size_t room = 1;
    for (size_t i = 0; i < len; i++)
        room += d->lists[which][i] == '\n';
    if (have + room > KD_DATA_MAX_SAMPLES + 1)
        return kd_fail(diag, -KD_ELIMIT, "%s has %zu lines; at most %u samples are accepted in all",
                       name, room, KD_DATA_MAX_SAMPLES);
    kd_data_sample *more = realloc(d->samples, (have + room) * sizeof *more);
    if (!more)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the %zu lines of %s", room, name);
    d->samples = more;
    lines l = {.file = name, .next = d->lists[which], .end = d->lists[which] + len};
    size_t n;
    for (char *line; (line = line_next(&l, &n));) {
        if (n == 0)
            continue;
        rc = parse_line(d, &l, line, n, &d->samples[have + count], diag);
        if (rc != 0)
            return rc;
        count++;
    }
    if (count == 0)
        return kd_fail(diag, -KD_EDATA, "%s: there is no sample in it", name);
    *out_count = count;
    return 0;
}

/* Name of the folder that a file stands in: "b" of "a/b/c.jpg"; NULL at the top. Fits
 * KD_DATA_MAX_CLASS_NAME or is not a class. */
static bool folder_of(const char *path, char out[KD_DATA_MAX_CLASS_NAME + 1])
{
    const char *stop = strrchr(path, '/'), *start = stop;
    while (start && start > path && start[-1] != '/')
        start--;
    if (!stop || stop == start || stop - start > KD_DATA_MAX_CLASS_NAME)
        return false;
    memcpy(out, start, (size_t)(stop - start));
    out[stop - start] = '\0';
    return true;
}

typedef struct named {
    const char *name;
    int place;
} named;

static int compare_named(const void *a, const void *b)
{
    return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

/* Without a file of names: the folders of the training list. */
static int classes_from_folders(kd_data *d, const char *list, kd_diag *diag)
{
    size_t used = 0, room = 0;
    d->classes = calloc(KD_DATA_MAX_CLASSES, sizeof *d->classes);
    size_t *at = calloc(KD_DATA_MAX_CLASSES, sizeof *at);
    int rc = d->classes && at ? 0 : kd_fail(diag, -KD_ENOMEM, "no memory for class names");
    for (size_t i = 0; i < d->count[KD_SPLIT_TRAIN] && rc == 0; i++) {
        char folder[KD_DATA_MAX_CLASS_NAME + 1];
        if (!folder_of(d->samples[i].name, folder))
            continue;
        size_t n = strlen(folder) + 1;
        if (d->n_classes > 0 && strcmp(d->class_text + at[d->n_classes - 1], folder) == 0)
            continue; /* lists mostly go folder by folder */
        bool known = false;
        for (int c = 0; c < d->n_classes && !known; c++)
            known = strcmp(d->class_text + at[c], folder) == 0;
        if (known)
            continue;
        if (d->n_classes == MAX_FOLDER_CLASSES) {
            rc = kd_fail(diag, -KD_ELIMIT,
                         "%s names more than %d folders; give a file of class names", list,
                         MAX_FOLDER_CLASSES);
            break;
        }
        if (used + n > room) {
            room = KD_MAX(2 * room, used + n + 4096);
            char *more = realloc(d->class_text, room);
            if (!more) {
                rc = kd_fail(diag, -KD_ENOMEM, "no memory for class names");
                break;
            }
            d->class_text = more;
        }
        at[d->n_classes++] = used;
        memcpy(d->class_text + used, folder, n);
        used += n;
    }
    if (rc == 0 && d->n_classes == 0)
        rc = kd_fail(diag, -KD_EDATA,
                     "%s: there is no class: no file of class names was given and no "
                     "path has a folder",
                     list);
    for (int c = 0; c < d->n_classes && rc == 0; c++)
        d->classes[c] = d->class_text + at[c];
    if (rc == 0)
        qsort(d->classes, (size_t)d->n_classes, sizeof *d->classes, compare_names);
    free(at);
    return rc;
}

/* Labels of the lines that name none. An unknown folder is an error: a slip in a name must not
 * quietly take the samples out of the training. */
static int label_by_folder(kd_data *d, const kd_data_config *cfg, kd_diag *diag)
{
    size_t n = (size_t)d->n_classes;
    named *by_name = malloc(n * sizeof *by_name);
    if (!by_name)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the labels");
    for (size_t c = 0; c < n; c++)
        by_name[c] = (named){d->classes[c], (int)c};
    qsort(by_name, n, sizeof *by_name, compare_named);
    int rc = 0;
    for (size_t i = 0; i < d->count[KD_SPLIT_TRAIN] + d->count[KD_SPLIT_VAL] && rc == 0; i++) {
        kd_data_sample *s = &d->samples[i];
        char folder[KD_DATA_MAX_CLASS_NAME + 1];
        if (s->label != LABEL_FROM_FOLDER)
            continue;
        const char *list = i < d->count[KD_SPLIT_TRAIN] ? cfg->train : cfg->val;
        const named *found = NULL;
        if (folder_of(s->name, folder))
            found = bsearch(&(named){.name = folder}, by_name, n, sizeof *by_name, compare_named);
        if (found)
            s->label = found->place;
        else
            rc = kd_fail(
                diag, -KD_EDATA,
                "%s:%u: no class number behind a tab, and the folder of `%.80s` is no class", list,
                s->at, s->name);
    }
    free(by_name);
    return rc;
}

int kd_data_open_folder(kd_data *d, const kd_data_config *cfg, kd_diag *diag)
{
    bool asked = cfg->classes && *cfg->classes;
    int rc = kd_data_read_classes(d, asked ? cfg->classes : "classes.txt", diag);
    if (rc == -KD_ENOENT && !asked)
        rc = 0; /* the folders' names will do */
    if (rc == 0)
        rc = read_list(d, 0, cfg->train, &d->count[KD_SPLIT_TRAIN], diag);
    if (rc == 0)
        rc = read_list(d, 1, cfg->val, &d->count[KD_SPLIT_VAL], diag);
    if (rc == 0 && d->n_classes == 0)
        rc = classes_from_folders(d, cfg->train, diag);
    return rc == 0 ? label_by_folder(d, cfg, diag) : rc;
}

/* List files, folders of class folders and files of class names. Text is read once and cut in
 * place: samples point into it. */
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

int kd_data_read_classes(kd_data *d, const char *named, const char *usual, kd_diag *diag)
{
    bool asked = *kd_data_text(named) != '\0';
    const char *name = asked ? named : usual;
    kd_diag why = {0};
    size_t len;
    if (!name)
        return 0;
    int rc = kd_data_read(d, d->path, name, KD_DATA_MAX_CLASSES * (KD_DATA_MAX_CLASS_NAME + 2),
                          &d->class_text, &len, &why);
    if (rc == -KD_ENOENT && !asked)
        return 0;
    if (rc != 0)
        return kd_fail(diag, rc, "%s", why.msg);
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
    d->numbered = true;
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
    out->name = line;
    out->at = (uint32_t)l->number;
    if (out->split == KD_SPLIT_UNLABELLED)
        return 0;
    out->label = LABEL_FROM_FOLDER;
    if (!tab)
        return 0;
    int label = parse_label(tab + 1);
    if (label < 0)
        return kd_fail(diag, -KD_EDATA, "%s:%zu: `%.40s` is not the number of a class", l->file,
                       l->number, tab + 1);
    if (!d->numbered)
        return kd_fail(diag, -KD_EDATA,
                       "%s:%zu: class %d by number, but the data set names no file of classes",
                       l->file, l->number, label);
    if (label >= d->n_classes)
        return kd_fail(diag, -KD_EDATA, "%s:%zu: class %d, but there are only %d (0 to %d)",
                       l->file, l->number, label, d->n_classes, d->n_classes - 1);
    out->label = label;
    return 0;
}

/* Appends the samples of a list; its paths are relative to `folder`. */
static int read_list(kd_data *d, enum kd_split split, const char *folder, const char *name,
                     kd_diag *diag)
{
    size_t len, room, n, count = 0;
    int source = kd_data_source_add(d, name, diag);
    if (source < 0)
        return source;
    kd_data_source *from = &d->sources[source];
    from->folder = folder;
    int rc = kd_data_read(d, folder, name, KD_DATA_MAX_LIST, &from->text, &len, diag);
    if (rc != 0)
        return rc;
    room = len > 0 && from->text[len - 1] != '\n';
    for (size_t i = 0; i < len; i++)
        room += from->text[i] == '\n';
    rc = kd_data_grow(d, room, name, diag);
    if (rc != 0)
        return rc;
    lines l = {.file = name, .next = from->text, .end = from->text + len};
    for (char *line; (line = line_next(&l, &n));) {
        if (n == 0)
            continue;
        kd_data_sample *s = &d->samples[d->n + count];
        *s = (kd_data_sample){.label = -1, .split = (uint8_t)split, .source = (uint8_t)source};
        rc = parse_line(d, &l, line, n, s, diag);
        if (rc != 0)
            return rc;
        count++;
    }
    if (count == 0)
        return kd_fail(diag, -KD_EDATA, "%s: there is no sample in it", name);
    d->n += count;
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

/* Without a file of names: the folders of the training list, which is all that was read. */
static int classes_from_folders(kd_data *d, const char *list, kd_diag *diag)
{
    size_t used = 0, room = 0;
    d->classes = calloc(KD_DATA_MAX_CLASSES, sizeof *d->classes);
    size_t *at = calloc(KD_DATA_MAX_CLASSES, sizeof *at);
    int rc = d->classes && at ? 0 : kd_fail(diag, -KD_ENOMEM, "no memory for class names");
    for (size_t i = 0; i < d->n && rc == 0; i++) {
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

/* Classes by name, for looking them up; caller frees. */
static int sort_classes(const kd_data *d, named **out, kd_diag *diag)
{
    size_t n = (size_t)d->n_classes;
    named *by_name = malloc(n * sizeof *by_name);
    if (!by_name)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the labels");
    for (size_t c = 0; c < n; c++)
        by_name[c] = (named){d->classes[c], (int)c};
    qsort(by_name, n, sizeof *by_name, compare_named);
    *out = by_name;
    return 0;
}

static int class_of(const kd_data *d, const named *by_name, const char *name)
{
    const named *found = bsearch(&(named){.name = name}, by_name, (size_t)d->n_classes,
                                 sizeof *by_name, compare_named);
    return found ? found->place : -1;
}

/* Labels of the lines that name none. An unknown folder is an error: a slip in a name must not
 * quietly take the samples out of the training. */
static int label_by_folder(kd_data *d, kd_diag *diag)
{
    named *by_name = NULL;
    int rc = sort_classes(d, &by_name, diag);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < d->n && rc == 0; i++) {
        kd_data_sample *s = &d->samples[i];
        char folder[KD_DATA_MAX_CLASS_NAME + 1];
        if (s->label != LABEL_FROM_FOLDER)
            continue;
        s->label = folder_of(s->name, folder) ? class_of(d, by_name, folder) : -1;
        if (s->label < 0)
            rc = kd_fail(
                diag, -KD_EDATA,
                "%s:%u: no class number behind a tab, and the folder of `%.80s` is no class",
                d->sources[s->source].file, s->at, s->name);
    }
    free(by_name);
    return rc;
}

/* ---- folders of class folders */

/* Whether the entry `name` of the set's folder is one that the configuration gives another use. */
static bool other_use(const kd_data *d, const kd_data_config *cfg, const char *name)
{
    char path[KD_DATA_PATH_ROOM];
    return strcmp(name, kd_data_text(cfg->val)) == 0 ||
           strcmp(name, kd_data_text(cfg->test)) == 0 ||
           (kd_data_path(d->path, name, path, NULL) == 0 && strcmp(path, d->unlabelled_path) == 0);
}

/* Leaves the class folders of `folder` in entries[*n]. */
static int class_folders(const kd_data *d, const kd_data_config *cfg, const char *folder,
                         kd_entry **out, size_t *n, kd_diag *diag)
{
    char path[KD_DATA_PATH_ROOM];
    kd_entry *entries;
    int rc = kd_data_path(d->path, folder, path, diag);
    if (rc == 0)
        rc = kd_walk_list(d, path, &entries, n, diag);
    if (rc != 0)
        return rc;
    size_t kept = 0;
    for (size_t i = 0; i < *n; i++)
        if (entries[i].folder && !(*folder == '\0' && other_use(d, cfg, entries[i].name)))
            entries[kept++] = entries[i];
        else
            free(entries[i].name);
    *n = kept;
    *out = entries;
    if (kept == 0)
        rc = kd_fail(diag, -KD_EDATA, "%s has no folder in it that could be a class", path);
    for (size_t i = 0; i < kept && rc == 0; i++)
        if (strlen(entries[i].name) > KD_DATA_MAX_CLASS_NAME || strpbrk(entries[i].name, "\t"))
            rc = kd_fail(diag, -KD_EDATA, "%s/%.80s: the folder's name cannot be a class", path,
                         entries[i].name);
    if (rc == 0 && kept > KD_DATA_MAX_CLASSES)
        rc = kd_fail(diag, -KD_ELIMIT, "%s has %zu class folders; at most %d are accepted", path,
                     kept, KD_DATA_MAX_CLASSES);
    return rc;
}

/* Without a file of names: the names of the class folders, which are sorted. */
static int classes_from_entries(kd_data *d, const kd_entry *entries, size_t n, kd_diag *diag)
{
    size_t used = 0;
    for (size_t i = 0; i < n; i++)
        used += strlen(entries[i].name) + 1;
    d->classes = calloc(n, sizeof *d->classes);
    d->class_text = malloc(used);
    if (!d->classes || !d->class_text)
        return kd_fail(diag, -KD_ENOMEM, "no memory for class names");
    char *at = d->class_text;
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(entries[i].name) + 1;
        d->classes[i] = memcpy(at, entries[i].name, len);
        at += len;
    }
    d->n_classes = (int)n;
    return 0;
}

/* The samples of source `source`, whose text is there, n of them. */
static int add_names(kd_data *d, enum kd_split split, int source, size_t n, int label,
                     const char **at, kd_diag *diag)
{
    int rc = kd_data_grow(d, n, d->sources[source].file, diag);
    for (size_t i = 0; i < n && rc == 0; i++) {
        d->samples[d->n++] = (kd_data_sample){
            .name = *at, .label = label, .split = (uint8_t)split, .source = (uint8_t)source};
        *at += strlen(*at) + 1;
    }
    return rc;
}

/* Collects the pictures of every class folder, counts[i] of entry i. */
static int walk_classes(const kd_data *d, const char *folder, const kd_entry *entries, size_t n,
                        kd_names *names, size_t *counts, kd_diag *diag)
{
    char name[KD_DATA_PATH_ROOM];
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        size_t before = names->count;
        rc = kd_data_path(folder, entries[i].name, name, diag);
        if (rc == 0)
            rc = kd_walk_pictures(d, d->path, name, names, diag);
        counts[i] = names->count - before;
        if (rc == 0 && counts[i] == 0)
            rc = kd_fail(diag, -KD_EDATA, "the class folder %s has no picture (.jpg, .jpeg, .png)",
                         name);
    }
    return rc;
}

static int label_classes(kd_data *d, enum kd_split split, int source, const kd_entry *entries,
                         size_t n, const size_t *counts, kd_diag *diag)
{
    named *by_name = NULL;
    int rc = sort_classes(d, &by_name, diag);
    if (rc != 0)
        return rc;
    const char *at = d->sources[source].text;
    for (size_t i = 0; i < n && rc == 0; i++) {
        int label = class_of(d, by_name, entries[i].name);
        if (label < 0)
            rc = kd_fail(diag, -KD_EDATA, "the folder %s is no class of the data set",
                         entries[i].name);
        else
            rc = add_names(d, split, source, counts[i], label, &at, diag);
    }
    free(by_name);
    return rc;
}

static int read_folder(kd_data *d, const kd_data_config *cfg, enum kd_split split,
                       const char *folder, kd_diag *diag)
{
    size_t n = 0, *counts = NULL;
    kd_entry *entries = NULL;
    int source = kd_data_source_add(d, *folder ? folder : "the data set", diag);
    if (source < 0)
        return source;
    d->sources[source].folder = d->path;
    kd_names names = {0};
    int rc = class_folders(d, cfg, folder, &entries, &n, diag);
    if (rc == 0 && !(counts = calloc(n, sizeof *counts)))
        rc = kd_fail(diag, -KD_ENOMEM, "no memory for the folders of %s", folder);
    if (rc == 0 && d->n_classes == 0)
        rc = classes_from_entries(d, entries, n, diag);
    if (rc == 0)
        rc = walk_classes(d, folder, entries, n, &names, counts, diag);
    d->sources[source].text = names.text;
    if (rc == 0)
        rc = label_classes(d, split, source, entries, n, counts, diag);
    free(counts);
    kd_walk_free(entries, n);
    return rc;
}

/* ---- all of them */

static int read_split(kd_data *d, const kd_data_config *cfg, enum kd_split split, const char *name,
                      kd_diag *diag)
{
    int folder = 1;
    if (*name && (folder = kd_data_is_folder(d, d->path, name, diag)) < 0)
        return folder;
    if (folder)
        return read_folder(d, cfg, split, name, diag);
    int rc = read_list(d, split, d->path, name, diag);
    if (rc == 0 && d->n_classes == 0)
        rc = classes_from_folders(d, name, diag);
    return rc;
}

int kd_data_open_folder(kd_data *d, const kd_data_config *cfg, kd_diag *diag)
{
    const char *val = kd_data_text(cfg->val), *test = kd_data_text(cfg->test);
    int rc = kd_data_read_classes(d, cfg->classes, "classes.txt", diag);
    if (rc == 0)
        rc = read_split(d, cfg, KD_SPLIT_TRAIN, kd_data_text(cfg->train), diag);
    if (rc == 0 && *val)
        rc = read_split(d, cfg, KD_SPLIT_VAL, val, diag);
    if (rc == 0 && *test)
        rc = read_split(d, cfg, KD_SPLIT_TEST, test, diag);
    return rc == 0 ? label_by_folder(d, diag) : rc;
}

int kd_data_open_unlabelled(kd_data *d, const kd_data_config *cfg, kd_diag *diag)
{
    const char *list = kd_data_text(cfg->unlabelled_list);
    if (*list)
        return read_list(d, KD_SPLIT_UNLABELLED, d->unlabelled_path, list, diag);
    int source = kd_data_source_add(d, d->unlabelled_path, diag);
    if (source < 0)
        return source;
    kd_names names = {0};
    d->sources[source].folder = d->unlabelled_path;
    int rc = kd_walk_pictures(d, d->unlabelled_path, "", &names, diag);
    const char *at = d->sources[source].text = names.text;
    if (rc == 0 && names.count == 0)
        rc = kd_fail(diag, -KD_EDATA, "there is no picture (.jpg, .jpeg, .png) below %s",
                     d->unlabelled_path);
    return rc == 0 ? add_names(d, KD_SPLIT_UNLABELLED, source, names.count, -1, &at, diag) : rc;
}

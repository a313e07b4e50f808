#include "out_file.h"

#include "cli.h"
#include "kd/file.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where a file goes. */
typedef struct target {
    const char *name; /* as it was given */
    char *path;       /* of a file: behind all links */
    bool as_it_is;    /* a device or a pipe */
    kd_file_draft draft;
} target;

static int fail(kd_diag *diag, const char *path)
{
    return kd_fail(diag, -KD_EIO, "cannot write %s: %s", path, strerror(errno));
}

/* A terminal may be written to by whoever likes; a file or a pipe would get two texts in one. */
static bool is_standard_output(const struct stat *st)
{
    struct stat out;
    return !S_ISCHR(st->st_mode) && fstat(STDOUT_FILENO, &out) == 0 && out.st_dev == st->st_dev &&
           out.st_ino == st->st_ino;
}

/* Of a file that is not there yet: its folder, behind all links. NULL with errno. */
static char *new_path(const char *name)
{
    const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
    char *path = NULL, *folder = slash ? strndup(name, (size_t)(slash - name) + 1) : strdup(".");
    char *whole = folder ? realpath(folder, NULL) : NULL;
    if (whole && asprintf(&path, "%s/%s", strcmp(whole, "/") == 0 ? "" : whole, base) < 0)
        path = NULL;
    free(folder);
    free(whole);
    return path;
}

static int find(const char *name, target *t, kd_diag *diag)
{
    struct stat st;
    *t = (target){.name = name, .draft = KD_FILE_DRAFT_INIT};
    if (!*name)
        return kd_fail(diag, -KD_EINVAL, "a file's name is empty");
    const bool there = stat(name, &st) == 0;
    if (strcmp(name, "-") == 0 || (there && is_standard_output(&st)))
        return kd_fail(diag, -KD_EINVAL,
                       "%s: standard output is for what the command tells; name a file", name);
    if (there && S_ISDIR(st.st_mode))
        return kd_fail(diag, -KD_EINVAL, "%s is a folder, a file's name was expected", name);
    if (!there && lstat(name, &st) == 0)
        return kd_fail(diag, -KD_EINVAL, "%s is a link to what is not there, or may not be seen",
                       name);
    t->as_it_is = there && !S_ISREG(st.st_mode);
    t->path = t->as_it_is ? strdup(name) : there ? realpath(name, NULL) : new_path(name);
    return t->path ? 0 : fail(diag, name);
}

static void drop(target *t)
{
    kd_file_draft_clear(&t->draft);
    free(t->path);
}

static int may_write(const target *t, kd_diag *diag)
{
    if (t->as_it_is)
        return access(t->path, W_OK) == 0 ? 0 : fail(diag, t->name);
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(t->path, '/') - t->path), t->path);
    return access(*folder ? folder : "/", W_OK | X_OK) == 0 ? 0 : fail(diag, t->name);
}

/* *out_found: targets to drop, also after a failure. */
static int find_all(const char *const *names, size_t n, target *targets, size_t *out_found,
                    kd_diag *diag)
{
    int rc = 0;
    KD_BUG_ON(n > KD_OUT_FILES);
    for (*out_found = 0; rc == 0 && *out_found < n; (*out_found)++) {
        target *t = &targets[*out_found];
        rc = find(names[*out_found], t, diag);
        for (size_t i = 0; rc == 0 && i < *out_found; i++)
            if (!t->as_it_is && strcmp(targets[i].path, t->path) == 0)
                rc = kd_fail(diag, -KD_EINVAL, "%s would be written twice", t->name);
    }
    return rc;
}

int kd_out_files_check(const char *const *names, size_t n, kd_diag *diag)
{
    target targets[KD_OUT_FILES];
    size_t found;
    int rc = find_all(names, n, targets, &found, diag);
    for (size_t i = 0; i < found; i++) {
        if (rc == 0)
            rc = may_write(&targets[i], diag);
        drop(&targets[i]);
    }
    return rc;
}

mode_t kd_out_mode(void)
{
    const mode_t mask = umask(0);
    umask(mask);
    return 0666 & ~mask;
}

static int write_all(target *t, const kd_out_file *f, kd_diag *diag)
{
    int rc = t->as_it_is ? kd_file_draft_open_there(t->path, &t->draft, diag)
                         : kd_file_draft_open(t->path, &t->draft, diag);
    t->draft.stop = kd_cli_signal;
    if (rc == 0)
        rc = kd_file_draft_add(&t->draft, f->data, f->len, diag);
    return rc == 0 ? kd_file_draft_sync(&t->draft, kd_out_mode(), diag) : rc;
}

int kd_out_files_write(const kd_out_file *files, size_t n, kd_diag *diag)
{
    target targets[KD_OUT_FILES];
    const char *names[KD_OUT_FILES] = {0};
    size_t found;
    KD_BUG_ON(n > KD_OUT_FILES);
    for (size_t i = 0; i < n; i++)
        names[i] = files[i].path;
    int rc = find_all(names, n, targets, &found, diag);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = write_all(&targets[i], &files[i], diag);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = kd_file_draft_place(&targets[i].draft, diag);
    for (size_t i = 0; i < found; i++)
        drop(&targets[i]);
    return rc;
}

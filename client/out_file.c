#include "out_file.h"

#include "cli.h"
#include "kd/file.h"

#include <errno.h>
#include <fcntl.h>
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
    char *temporary;  /* NULL: it is written to as it is */
    int fd;
} target;

static int fail(kd_diag *diag, const char *what, const char *path)
{
    return kd_fail(diag, -KD_EIO, "cannot %s %s: %s", what, path, strerror(errno));
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
    *t = (target){.name = name, .fd = -1};
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
    const bool as_it_is = there && !S_ISREG(st.st_mode);
    t->path = as_it_is ? strdup(name) : there ? realpath(name, NULL) : new_path(name);
    if (!t->path)
        return fail(diag, "write", name);
    if (as_it_is)
        return 0;
    if (asprintf(&t->temporary, "%s.tmp-XXXXXX", t->path) < 0) {
        t->temporary = NULL;
        return kd_fail(diag, -KD_ENOMEM, "no memory for the name %s", name);
    }
    return 0;
}

static void drop(target *t)
{
    if (t->fd >= 0)
        close(t->fd);
    free(t->path);
    free(t->temporary);
}

static int may_write(const target *t, kd_diag *diag)
{
    if (!t->temporary)
        return access(t->path, W_OK) == 0 ? 0 : fail(diag, "write", t->name);
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(t->path, '/') - t->path), t->path);
    return access(*folder ? folder : "/", W_OK | X_OK) == 0 ? 0 : fail(diag, "write", t->name);
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
            if (t->temporary && strcmp(targets[i].path, t->path) == 0)
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

static int write_all(target *t, const kd_out_file *f, kd_diag *diag)
{
    mode_t mask = umask(0);
    umask(mask);
    /* A temporary file is private; the finished one is as any other. */
    t->fd = t->temporary ? mkostemp(t->temporary, O_CLOEXEC)
                         : open(t->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (t->fd < 0)
        return fail(diag, "write", t->name);
    for (size_t at = 0; at < f->len;) {
        const ssize_t n = write(t->fd, (const char *)f->data + at, f->len - at);
        if (n < 0 && (errno != EINTR || kd_cli_signal() != 0))
            return fail(diag, "write", t->name);
        at += n > 0 ? (size_t)n : 0;
    }
    if (t->temporary && (fchmod(t->fd, 0666 & ~mask) != 0 || fsync(t->fd) != 0))
        return fail(diag, "write", t->name);
    return 0;
}

static int publish(target *t, kd_diag *diag)
{
    if (!t->temporary)
        return 0;
    if (rename(t->temporary, t->path) != 0)
        return fail(diag, "write", t->name);
    free(t->temporary);
    t->temporary = NULL;
    return kd_file_fsync_parent(t->path, diag);
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
        rc = publish(&targets[i], diag);
    for (size_t i = 0; i < found; i++) {
        if (rc != 0 && targets[i].temporary && targets[i].fd >= 0)
            unlink(targets[i].temporary);
        drop(&targets[i]);
    }
    return rc;
}
